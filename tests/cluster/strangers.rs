//! Members of etcd are replaced by ours, and ours by etcd's, one at a time, while clients write, watch and hold a lease, and authentication is on.
//!
//! ```text
//! etcd 3.5.1, 3.5.16, 3.5.30 ──add, promote, remove──▶ ours ×3 ──the same──▶ etcd 3.5.30, 3.5.16, 3.5.1      equal hashes after each step
//! ```

#![expect(clippy::disallowed_methods, reason = "a writer that takes a breath, and a lease whose time passes")]

use crate::foreign;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::client::Client;
use etcd_lab::client::Config;
use etcd_lab::client::prefix_end;
use etcd_lab::client::watch_from;
use etcd_lab::proto::etcdserverpb as pb;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinHandle;

const LEASE: i64 = 4711;
const TTL: i64 = 3000;
/// How many members are there at a time.
const FOUNDERS: usize = 3;
const LOAD: &str = "load/";
const BREATH: Duration = Duration::from_millis(5);

/// A member that is to be, or is.
struct Member {
    spec: Spec,
    program: PathBuf,
    id: u64,
    process: Option<Process>,
}

impl Member {
    fn is_351(&self) -> bool {
        foreign::version(&self.program) == "3.5.1"
    }
}

/// What the watcher and whoever replaces members tell each other.
#[derive(Default)]
struct Told {
    /// An etcd 3.5.1 is among the members.
    has_351: AtomicBool,
    /// The revision of the last event that the watcher has heard.
    heard: AtomicI64,
}

/// All members that the cluster will ever have, in the order in which they come and go.
struct Replacement {
    members: Vec<Member>,
    client: Client,
    scratch: Scratch,
    granted: Instant,
    /// A downgrade is enabled.
    downgrades: bool,
}

fn client_of(endpoints: Vec<String>) -> Client {
    let user = Some(("root".to_owned(), "pw".to_owned()));
    Client::new(Config { endpoints, user, ..Config::default() })
}

impl Replacement {
    /// The first three run, and ask for a password.
    async fn begin(programs: &[&Path]) -> Replacement {
        let scratch = Scratch::new();
        let new = |(n, program): (usize, &&Path)| {
            let spec = Spec::new(&format!("m{n}"), scratch.path());
            Member { spec, program: program.to_path_buf(), id: 0, process: None }
        };
        let mut members: Vec<Member> = programs.iter().enumerate().map(new).collect();
        let founders: Vec<Spec> = members[..FOUNDERS].iter().map(|member| member.spec.clone()).collect();
        for member in &mut members[..FOUNDERS] {
            let log = scratch.path().join(format!("{}.log", member.spec.name));
            member.process = Some(Process::start(&member.program, &member.spec.flags(&founders), &[], &log));
        }
        let plain = Client::new(Config {
            endpoints: founders.iter().map(|spec| spec.client_url.clone()).collect(),
            ..Config::default()
        });
        until(READY_WITHIN, "a first write", async || plain.put("first", "x").await).await;
        let (name, password) = ("root".to_owned(), "pw".to_owned());
        let user = pb::AuthUserAddRequest { name: name.clone(), password, ..Default::default() };
        plain.call(user).await.expect("a user");
        plain.call(pb::AuthRoleAddRequest { name: name.clone() }).await.expect("a role");
        plain.call(pb::AuthUserGrantRoleRequest { user: name.clone(), role: name }).await.expect("granted");
        plain.call(pb::LeaseGrantRequest { id: LEASE, ttl: TTL }).await.expect("a lease");
        let granted = Instant::now();
        let leased = pb::PutRequest { key: "leased".into(), value: "x".into(), lease: LEASE, ..Default::default() };
        plain.call(leased).await.expect("a put");
        plain.call(pb::AuthEnableRequest {}).await.expect("enabled");
        let client = client_of(members.iter().map(|member| member.spec.client_url.clone()).collect());
        client.authenticate().await.expect("root may");
        let mut all = Replacement { members, client, scratch, granted, downgrades: false };
        let listed = all.listed().await;
        for (url, id) in listed {
            let member = all.members.iter_mut().find(|member| member.spec.peer_url == url).expect("a founder");
            member.id = id;
        }
        all
    }

    /// Peer URLs and ids, as the cluster lists them. Linearizable: what was changed before is applied.
    async fn listed(&self) -> Vec<(String, u64)> {
        let list = pb::MemberListRequest { linearizable: true };
        let listed = until(READY_WITHIN, "a list", async || self.client.call(list).await).await;
        listed.members.into_iter().map(|member| (member.peer_ur_ls[0].clone(), member.id)).collect()
    }

    /// A client of the leader alone. An etcd that follows has the leader promote, and does not say in whose name: with authentication that is refused.
    async fn leader(&self) -> Result<Client, String> {
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let one = client_of(vec![member.spec.client_url.clone()]).patient(Some(Duration::from_secs(2)));
            let Ok(status) = one.status().await else { continue };
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                one.authenticate().await.map_err(|e| e.to_string())?;
                return Ok(one);
            }
        }
        Err("nobody leads".to_owned())
    }

    /// Adds a member as a learner, promotes it, and removes the one that it replaces.
    async fn replace(&mut self, old: usize, new: usize) {
        let peer_url = self.members[new].spec.peer_url.clone();
        self.listed().await;
        let add = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.clone()], is_learner: true };
        let added = until(READY_WITHIN, "added", async || {
            // An answer that was lost is found in the list.
            if let Some((_, id)) = self.listed().await.into_iter().find(|(url, _)| *url == peer_url) {
                return Ok(id);
            }
            let added = self.client.call(add.clone()).await.map_err(|e| e.to_string())?;
            Ok::<u64, String>(added.member.expect("the new one").id)
        })
        .await;
        if std::mem::take(&mut self.downgrades) {
            // No etcd 3.5 joins while a downgrade is enabled: it takes only a cluster that speaks 3.6 then (`allowedVersionRange`). And once it is
            // a member and does not answer, the cluster's version does not rise.
            let cancel = pb::DowngradeRequest { action: 2, ..Default::default() };
            until(READY_WITHIN, "no downgrade", async || self.client.call(cancel.clone()).await).await;
        }
        let known: Vec<String> = self
            .listed()
            .await
            .into_iter()
            .map(|(url, _)| {
                let member = self.members.iter().find(|member| member.spec.peer_url == url).expect("one of ours");
                format!("{}={url}", member.spec.name)
            })
            .collect();
        let member = &mut self.members[new];
        member.id = added;
        // What `member add` prints.
        let mut flags = member.spec.flags(std::slice::from_ref(&member.spec));
        flags.extend(["--initial-cluster".to_owned(), known.join(",")]);
        flags.extend(["--initial-cluster-state", "existing"].map(str::to_owned));
        let log = self.scratch.path().join(format!("{}.log", member.spec.name));
        member.process = Some(Process::start(&member.program, &flags, &[], &log));
        until(READY_WITHIN, "promoted", async || {
            let asked = self.leader().await?.call(pb::MemberPromoteRequest { id: added }).await;
            let list = pb::MemberListRequest { linearizable: true };
            // A change that comes before etcd's raft knows that the last one was applied is dropped without a word; so read first.
            let listed = until(READY_WITHIN, "a list", async || self.client.call(list).await).await;
            let is_learner = listed.members.iter().any(|member| member.id == added && member.is_learner);
            if is_learner { Err(format!("{asked:?}")) } else { Ok(()) }
        })
        .await;
        let member = &mut self.members[new];
        if member.is_351() {
            // It forgets to take tokens when its state comes by a snapshot: `Recover` of its auth store enables no provider of tokens.
            member.process = None;
            member.process = Some(Process::start(&member.program, &flags, &[], &log));
        }
        let gone = self.members[old].id;
        until(READY_WITHIN, "removed", async || {
            if self.listed().await.iter().all(|(_, id)| *id != gone) {
                return Ok(());
            }
            self.client.call(pb::MemberRemoveRequest { id: gone }).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
        let mut process = self.members[old].process.take().expect("it ran");
        process.ended(ENDS_WITHIN).await;
    }

    /// All are ours, so the cluster's version has risen, and no etcd 3.5 would join.
    async fn speak_35_again(&mut self) {
        let running = self.members.iter().find(|member| member.process.is_some()).expect("one runs");
        let one = client_of(vec![running.spec.client_url.clone()]);
        let told = async |version: &str| {
            let told = one.fetch("/version").await.map_err(|e| e.to_string())?;
            if told.contains(&format!(r#""etcdcluster":"{version}""#)) { Ok(()) } else { Err(told) }
        };
        until(READY_WITHIN, "all speak 3.6", async || told("3.6.0").await).await;
        let enable = pb::DowngradeRequest { action: 1, version: "3.5.0".into() };
        until(READY_WITHIN, "a downgrade", async || self.client.call(enable.clone()).await).await;
        until(READY_WITHIN, "and 3.5 again", async || told("3.5.0").await).await;
        self.downgrades = true;
    }

    fn has_351(&self) -> bool {
        self.members.iter().any(|member| member.process.is_some() && member.is_351())
    }

    /// Waits until the watcher has heard what was written until now: nothing is on its way to it any more that a member said before.
    async fn caught_up(&self, told: &Told) {
        let now = until(READY_WITHIN, "a read", async || self.client.call(range("first")).await).await;
        let revision = now.header.expect("a header").revision;
        until(READY_WITHIN, "the watcher hears", async || {
            let heard = told.heard.load(Ordering::Relaxed);
            if heard >= revision { Ok(()) } else { Err(format!("{heard} of {revision}")) }
        })
        .await;
    }

    /// The members that run agree on every byte of history, and the lease has the time that it should have.
    async fn assert_agreement(&self) {
        let read = until(READY_WITHIN, "a read", async || self.client.call(range("first")).await).await;
        let revision = read.header.expect("a header").revision;
        let mut hashes = BTreeSet::new();
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let one = client_of(vec![member.spec.client_url.clone()]);
            let hash = until(READY_WITHIN, "a hash", async || {
                one.authenticate().await.map_err(|e| e.to_string())?;
                one.call(pb::HashKvRequest { revision }).await.map_err(|e| e.to_string())
            })
            .await;
            hashes.insert((hash.hash, hash.compact_revision));
        }
        assert_eq!(hashes.len(), 1, "at revision {revision}: {hashes:?}");
        let ask = pb::LeaseTimeToLiveRequest { id: LEASE, keys: true };
        let lease = until(READY_WITHIN, "the lease", async || self.client.call(ask).await).await;
        let least = TTL - i64::try_from(self.granted.elapsed().as_secs()).expect("minutes") - 2;
        assert!((least..=TTL).contains(&lease.ttl), "{} of {least}..{TTL}", lease.ttl);
        assert_eq!(lease.keys, ["leased"]);
        // And whoever has no password has nothing.
        let nobody = Client::new(Config { endpoints: self.client.endpoints().to_vec(), ..Config::default() });
        let refused = until(READY_WITHIN, "an answer", async || match nobody.get("first").await {
            Err(e) if e.to_string().contains("user name is empty") => Ok(true),
            Err(e) => Err(e.to_string()),
            Ok(_) => Ok(false),
        });
        assert!(refused.await, "authentication is off");
    }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

/// Puts one key after the other, each once; returns those that were acknowledged.
fn write(client: &Client, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<String>> {
    let (client, stop) = (client.patient(Some(Duration::from_secs(2))), stop.clone());
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("{LOAD}{n:08}");
            if client.put(key.clone(), "x").await.is_ok() {
                acknowledged.push(key);
            }
            tokio::time::sleep(BREATH).await;
        }
        acknowledged
    })
}

/// Whether a member that cancels for this reason does not know the token.
fn is_unknown(reason: &str, told: &Told) -> bool {
    // So does 3.5.1 say it. Root itself may all, so of any other member this is wrong.
    let is_351s = told.has_351.load(Ordering::Relaxed) && reason.contains("permission denied");
    is_351s || ["user name is empty", "invalid auth token"].iter().any(|words| reason.contains(words))
}

/// Watches them from the beginning until one has been written at `until`; their keys, in the order of the events.
async fn watched(client: Client, mut last: tokio::sync::watch::Receiver<i64>, told: Arc<Told>) -> Vec<(i64, String)> {
    let mut watch = client.watch(watch_from(LOAD, prefix_end(LOAD.as_bytes()), 1));
    let mut heard: Vec<(i64, String)> = Vec::new();
    loop {
        let end = *last.borrow_and_update();
        if end > 0 && heard.last().is_some_and(|(revision, _)| *revision >= end) {
            return heard;
        }
        tokio::select! {
            news = watch.next() => {
                let news = news.expect("a watch goes on").expect("for ever");
                if news.canceled && is_unknown(&news.cancel_reason, &told) {
                    // A member that has come since knows none of the tokens of before.
                    while client.authenticate().await.is_err() {
                        // Between two leaders; the test's limit is this one's, too.
                        tokio::time::sleep(BREATH).await;
                    }
                    let next = heard.last().map_or(1, |(revision, _)| revision + 1);
                    watch = client.watch(watch_from(LOAD, prefix_end(LOAD.as_bytes()), next));
                    continue;
                }
                assert!(!news.canceled, "{}", news.cancel_reason);
                heard.extend(news.events.into_iter().filter_map(|event| event.kv).map(|kv| {
                    (kv.mod_revision, String::from_utf8_lossy(&kv.key).into_owned())
                }));
                told.heard.store(heard.last().map_or(0, |(revision, _)| *revision), Ordering::Relaxed);
            }
            _ = last.changed() => {}
        }
    }
}

async fn replace_all(programs: &[&Path]) {
    let mut all = Replacement::begin(programs).await;
    let (stop, (tell, end)) = (Arc::new(AtomicBool::new(false)), tokio::sync::watch::channel(0));
    let told = Arc::new(Told { has_351: AtomicBool::new(all.has_351()), ..Told::default() });
    let (writer, watcher) = (write(&all.client, &stop), tokio::spawn(watched(all.client.clone(), end, told.clone())));
    for new in FOUNDERS..programs.len() {
        if new == 2 * FOUNDERS {
            all.speak_35_again().await;
        }
        told.has_351.store(all.has_351() || all.members[new].is_351(), Ordering::Relaxed);
        all.replace(new - FOUNDERS, new).await;
        all.assert_agreement().await;
        if !all.has_351() {
            all.caught_up(&told).await;
            told.has_351.store(false, Ordering::Relaxed);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.expect("no panic");
    let all_keys = pb::RangeRequest { range_end: prefix_end(LOAD.as_bytes()), ..range(LOAD) };
    let found = until(READY_WITHIN, "all keys", async || all.client.call(all_keys.clone()).await).await;
    let keys: BTreeSet<String> = found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !keys.contains(*key)).collect();
    assert!(lost.is_empty() && acknowledged.len() > 100, "{} acknowledged, lost: {lost:?}", acknowledged.len());
    tell.send_replace(found.kvs.iter().map(|kv| kv.mod_revision).max().expect("some"));
    let heard = tokio::time::timeout(READY_WITHIN, watcher).await.expect("the watch hears all").expect("no panic");
    assert!(heard.windows(2).all(|pair| pair[0].0 < pair[1].0), "each once, in order");
    assert_eq!(heard.into_iter().map(|(_, key)| key).collect::<BTreeSet<_>>(), keys);
}

#[test]
fn all_members_of_etcd_are_replaced_by_ours_and_ours_by_etcds() {
    let Some(etcds) = foreign::etcds("all_members_of_etcd_are_replaced_by_ours_and_ours_by_etcds") else { return };
    turn(Duration::from_secs(300), async {
        // Of each release one, where it can be had: the first of them leads, or another.
        let theirs: Vec<&Path> = etcds.iter().map(PathBuf::as_path).cycle().take(FOUNDERS).collect();
        let ours = etcd_bin();
        let programs: Vec<&Path> =
            theirs.iter().copied().chain([&*ours; FOUNDERS]).chain(theirs.iter().rev().copied()).collect();
        replace_all(&programs).await;
    });
}
