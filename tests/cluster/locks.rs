//! Lock and Election, asked over raw gRPC; and etcd's own etcdctl, which does the same on its side of the wire.

use crate::client::Client;
use crate::client::answer;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::KeyValue;
use etcd_lab::proto::v3electionpb as election;
use etcd_lab::proto::v3lockpb as lock;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::Response;
use tonic::Status;

const LIMIT: Duration = Duration::from_secs(120);

async fn grant(client: &Client, ttl: i64) -> i64 {
    let grant = pb::LeaseGrantRequest { ttl, id: 0 };
    answer(READY_WITHIN, client.lease(0).lease_grant(grant)).await.expect("a lease").id
}

/// Locks in a task of its own; dropping the task is a client that goes away.
fn take(client: &Client, name: &str, lease: i64) -> JoinHandle<Result<lock::LockResponse, Status>> {
    let (mut service, name) = (client.lock(0), name.to_owned());
    tokio::spawn(
        async move { service.lock(lock::LockRequest { name: name.into(), lease }).await.map(Response::into_inner) },
    )
}

async fn unlock(client: &Client, key: impl Into<bytes::Bytes>) -> Result<lock::UnlockResponse, Status> {
    answer(READY_WITHIN, client.lock(0).unlock(lock::UnlockRequest { key: key.into() })).await
}

/// Waits until exactly these keys are below the name.
async fn until_queued(client: &Client, name: &str, keys: &[&str]) -> Vec<KeyValue> {
    let what = format!("queue of {name}: {keys:?}");
    until(READY_WITHIN, &what, async || {
        let found = client.prefix(&format!("{name}/")).await?;
        let names: Vec<&[u8]> = found.iter().map(|kv| &kv.key[..]).collect();
        let is_so = names.len() == keys.len() && keys.iter().all(|key| names.contains(&key.as_bytes()));
        if is_so { Ok(found) } else { Err(Status::not_found(format!("{found:?}"))) }
    })
    .await
}

fn hex(name: &str, lease: i64) -> String {
    format!("{name}/{lease:x}")
}

async fn got<T>(task: JoinHandle<Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(READY_WITHIN, task).await.expect("an answer in time").expect("no panic")
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("refused");
    (status.code(), status.message().to_owned())
}

fn unknown(text: &str) -> (Code, String) {
    (Code::Unknown, text.to_owned())
}

#[test]
fn a_lock_goes_from_hand_to_hand_in_the_order_of_the_queue() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let leases = [grant(client, 60).await, grant(client, 60).await, grant(client, 60).await];
        let keys = leases.map(|lease| hex("job", lease));
        let held = got(take(client, "job", leases[0])).await.expect("free");
        assert_eq!(held.key, keys[0]);
        let kv = until_queued(client, "job", &[&keys[0]]).await.remove(0);
        assert_eq!((kv.lease, kv.value.len(), kv.version), (leases[0], 0, 1));
        assert_eq!(held.header.expect("a header").revision, kv.create_revision);
        // Who holds it gets it again at once.
        assert_eq!(got(take(client, "job", leases[0])).await.expect("held").key, keys[0]);

        let second = take(client, "job", leases[1]);
        until_queued(client, "job", &[&keys[0], &keys[1]]).await;
        let third = take(client, "job", leases[2]);
        until_queued(client, "job", &[&keys[0], &keys[1], &keys[2]]).await;
        assert!(!second.is_finished() && !third.is_finished());
        // A client that goes away while it waits leaves the queue.
        second.abort();
        until_queued(client, "job", &[&keys[0], &keys[2]]).await;
        assert!(!third.is_finished());
        let before = client.revision().await.expect("served");
        let unlocked = unlock(client, held.key).await.expect("held");
        assert_eq!(unlocked.header.expect("a header").revision, before + 1);
        let held = got(third).await.expect("next in line");
        assert_eq!((held.key, held.header.expect("a header").revision), (keys[2].clone().into(), before + 1));
        until_queued(client, "job", &[&keys[2]]).await;
        // A holder's lease is its hold.
        answer(READY_WITHIN, client.lease(0).lease_revoke(pb::LeaseRevokeRequest { id: leases[2] }))
            .await
            .expect("revoked");
        assert_eq!(got(take(client, "job", leases[1])).await.expect("free").key, keys[1]);
    });
}

#[test]
fn a_lock_without_a_lease_gets_one_of_a_minute_and_odd_requests_get_etcds_answers() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let held = got(take(client, "job", 0)).await.expect("free");
        let key = String::from_utf8_lossy(&held.key).into_owned();
        let kv = until_queued(client, "job", &[&key]).await.remove(0);
        assert_eq!(key, hex("job", kv.lease));
        let ask = pb::LeaseTimeToLiveRequest { id: kv.lease, keys: false };
        let granted =
            answer(READY_WITHIN, client.lease(0).lease_time_to_live(ask)).await.expect("it lives").granted_ttl;
        assert_eq!(granted, 60);
        let lease = grant(client, 60).await;
        assert_eq!(got(take(client, "", lease)).await.expect("free").key, hex("", lease), "a name may be empty");
        let gone = unknown("etcdserver: requested lease not found");
        assert_eq!(refusal(got(take(client, "job", 4711)).await), gone);
        let at = client.revision().await.expect("served");
        let nothing = unlock(client, "no such lock").await.expect("no error");
        assert_eq!(nothing.header.expect("a header").revision, at);
        assert_eq!(refusal(unlock(client, "").await), unknown("etcdserver: key is not provided"));
    });
}

/// reliability 2, Jepsen on etcd 3.4.3: who lost his place in the queue must not be told that he holds the lock.
#[test]
fn a_waiter_whose_lease_ran_out_does_not_get_the_lock() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let (long, short) = (grant(client, 60).await, grant(client, 2).await);
        let held = got(take(client, "job", long)).await.expect("free");
        let waiter = take(client, "job", short);
        let (first, second) = (hex("job", long), hex("job", short));
        until_queued(client, "job", &[&first, &second]).await;
        until_queued(client, "job", &[&first]).await;
        unlock(client, held.key).await.expect("held");
        assert_eq!(refusal(got(waiter).await), unknown("mutex: session is expired"));
        until_queued(client, "job", &[]).await;
    });
}

fn campaign(client: &Client, lease: i64, value: &str) -> JoinHandle<Result<election::CampaignResponse, Status>> {
    let (mut service, value) = (client.election(0), value.to_owned());
    let request = election::CampaignRequest { name: "boss".into(), lease, value: value.into() };
    tokio::spawn(async move { service.campaign(request).await.map(Response::into_inner) })
}

async fn leader(client: &Client) -> Result<KeyValue, Status> {
    let request = election::LeaderRequest { name: "boss".into() };
    let answer = answer(READY_WITHIN, client.election(0).leader(request)).await?;
    Ok(answer.kv.expect("a leader has a key"))
}

async fn proclaim(client: &Client, leader: Option<election::LeaderKey>, value: &str) -> Result<i64, Status> {
    let request = election::ProclaimRequest { leader, value: value.to_owned().into() };
    let answer = answer(READY_WITHIN, client.election(0).proclaim(request)).await?;
    Ok(answer.header.expect("a header").revision)
}

async fn resign(client: &Client, leader: Option<election::LeaderKey>) -> Result<i64, Status> {
    let answer = answer(READY_WITHIN, client.election(0).resign(election::ResignRequest { leader })).await?;
    Ok(answer.header.expect("a header").revision)
}

#[test]
fn leaders_are_elected_observed_and_followed_by_the_next() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut observer = client.election(0);
        let observe = election::LeaderRequest { name: "boss".into() };
        // Answered once there is something to tell.
        let observed = tokio::spawn(async move { observer.observe(observe).await });
        assert_eq!(refusal(leader(client).await), unknown("election: no leader"));
        let (a, b, c) = (grant(client, 60).await, grant(client, 60).await, grant(client, 60).await);
        let won = got(campaign(client, a, "a1")).await.expect("nobody else");
        let key = won.leader.expect("a leader's key");
        let at = won.header.expect("a header").revision;
        assert_eq!((&key.name[..], &key.key[..]), (&b"boss"[..], hex("boss", a).as_bytes()));
        assert_eq!((key.rev, key.lease), (at, a));
        let kv = leader(client).await.expect("a");
        assert_eq!((&kv.value[..], kv.create_revision, kv.lease), (&b"a1"[..], at, a));
        let mut observed = got(observed).await.expect("a stream").into_inner();
        let mut next = async || {
            let news = tokio::time::timeout(READY_WITHIN, observed.message()).await.expect("news in time");
            let news = news.expect("no error").expect("an open stream");
            (news.kv.expect("a key").value, news.header.expect("a header").revision)
        };
        assert_eq!(next().await, ("a1".into(), at));

        assert_eq!(proclaim(client, Some(key.clone()), "a2").await.expect("it leads"), at + 1);
        assert_eq!(next().await, ("a2".into(), at + 1));
        // Campaigning again is a proclamation.
        let again = got(campaign(client, a, "a3")).await.expect("it leads").leader.expect("a key");
        assert_eq!((again.rev, next().await), (at, ("a3".into(), at + 2)));

        let (second, third) = (hex("boss", b), hex("boss", c));
        let b_waits = campaign(client, b, "b");
        until_queued(client, "boss", &[&hex("boss", a), &second]).await;
        let c_waits = campaign(client, c, "c");
        until_queued(client, "boss", &[&hex("boss", a), &second, &third]).await;
        b_waits.abort();
        until_queued(client, "boss", &[&hex("boss", a), &third]).await;
        assert!(!c_waits.is_finished());
        let resigned = resign(client, Some(key.clone())).await.expect("it led");
        let key_of_c = got(c_waits).await.expect("the next").leader.expect("a key");
        assert_eq!(key_of_c.key, third);
        assert_eq!(next().await, ("c".into(), resigned));
        assert_eq!(leader(client).await.expect("c").value, "c");

        let not_leader = unknown("election: not leader");
        assert_eq!(refusal(proclaim(client, Some(key.clone()), "a4").await), not_leader);
        assert_eq!(resign(client, Some(key)).await.expect("no error"), resigned, "resigning twice changes nothing");
        let missing = unknown("\"leader\" field must be provided");
        assert_eq!(refusal(proclaim(client, None, "x").await), missing);
        assert_eq!(refusal(resign(client, None).await), missing);
        assert_eq!(refusal(got(campaign(client, 4711, "x")).await), unknown("etcdserver: requested lease not found"));
    });
}

#[test]
fn a_candidate_whose_lease_ran_out_is_not_told_that_it_leads() {
    turn(LIMIT, async {
        if !is_ours() {
            // etcd says that it leads, with a key that is not there.
            return;
        }
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let (long, short) = (grant(client, 60).await, grant(client, 2).await);
        let key = got(campaign(client, long, "a")).await.expect("nobody else").leader;
        let waiter = campaign(client, short, "b");
        until_queued(client, "boss", &[&hex("boss", long), &hex("boss", short)]).await;
        until_queued(client, "boss", &[&hex("boss", long)]).await;
        resign(client, key).await.expect("it led");
        assert_eq!(refusal(got(waiter).await), unknown("election: not leader"));
    });
}

/// A program of etcd that stays until it is told to go.
struct Staying {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Staying {
    fn start(etcdctl: &Path, cluster: &Cluster, words: &[&str]) -> Staying {
        let mut command = Command::new(etcdctl);
        command.env_clear().env("ETCDCTL_API", "3").arg("--endpoints").arg(cluster.endpoints()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("etcdctl starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Staying { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(READY_WITHIN, self.lines.next_line()).await.expect("a line in time");
        line.expect("it can be read").expect("it has not ended")
    }

    /// Asks it to end, as a user does with Ctrl-C, and waits.
    async fn interrupt(mut self) {
        let pid = i32::try_from(self.child.id().expect("it runs")).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::INT).expect("it runs");
        tokio::time::timeout(READY_WITHIN, self.child.wait()).await.expect("it ends in time").expect("our own child");
    }
}

#[test]
fn etcds_own_etcdctl_locks_and_elects_on_our_members() {
    let test = "etcds_own_etcdctl_locks_and_elects_on_our_members";
    let Some(etcdctl) = foreign::etcdctl_34(test) else { return };
    turn(LIMIT, async {
        let cluster = Cluster::start(3).await;
        let client = &cluster.client;
        let start = |words: &[&str]| Staying::start(&etcdctl, &cluster, words);
        let mut first = start(&["lock", "job"]);
        let held = first.line().await;
        assert!(held.starts_with("job/"), "{held}");
        let mut second = start(&["lock", "job"]);
        until(READY_WITHIN, "two in the queue", async || {
            let queue = client.prefix("job/").await?;
            if queue.len() == 2 { Ok(()) } else { Err(Status::not_found(format!("{queue:?}"))) }
        })
        .await;
        // Our own service waits in the same queue.
        let lease = grant(client, 60).await;
        let third = take(client, "job", lease);
        first.interrupt().await;
        let held = second.line().await;
        until_queued(client, "job", &[&held, &hex("job", lease)]).await;
        assert!(!third.is_finished());
        second.interrupt().await;
        assert_eq!(got(third).await.expect("the next").key, hex("job", lease));

        let mut listener = start(&["elect", "--listen", "boss"]);
        let mut candidate = start(&["elect", "boss", "a"]);
        let key = candidate.line().await;
        assert!(key.starts_with("boss/"), "{key}");
        assert_eq!(candidate.line().await, "a");
        assert_eq!((listener.line().await, listener.line().await), (key.clone(), "a".to_owned()));
        assert_eq!(leader(client).await.expect("a").key, key);
        let mut successor = start(&["elect", "boss", "b"]);
        until(READY_WITHIN, "two candidates", async || {
            let queue = client.prefix("boss/").await?;
            if queue.len() == 2 { Ok(()) } else { Err(Status::not_found(format!("{queue:?}"))) }
        })
        .await;
        candidate.interrupt().await;
        let key = successor.line().await;
        assert_eq!(successor.line().await, "b");
        assert_eq!((listener.line().await, listener.line().await), (key, "b".to_owned()));
        successor.interrupt().await;
        listener.interrupt().await;
    });
}
