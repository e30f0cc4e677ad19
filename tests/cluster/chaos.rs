//! Members are killed, stopped, replaced, cut off from each other and slowed down by their disks while clients read and write; whatever the clients heard must be what
//! one correct store would have told them.
//!
//! The history is judged by revisions. Every write has a value of its own, so the events of all revisions, read at the end, are the order
//! in which writes happened; every answer names the revision that it speaks of. A history is linearizable if
//!
//! - each answer is what the events say for its revision,
//! - an operation that began after another had ended speaks of no earlier revision, a write of a later one,
//! - a write without an answer happened once, after it began, or never,
//! - a serializable read may be late; what it says was so at its revision all the same. So with a read of an earlier revision.
//!
//! At the end all are killed, and their logs must lead to the same events: every acknowledged write is there once, and whether one without an answer
//! happened is for the log to say ([`crate::evidence`]).
//!
//! `CHAOS_SECONDS` (default 12 per size) and `CHAOS_SEED` make it longer and other. Source of the method: etcd `tests/robustness`.

#![expect(clippy::disallowed_methods, reason = "a fault lasts a while, and operations are timed")]

use crate::checker::Watching;
use crate::checker::watch;
use crate::client::Client;
use crate::client::answer;
use crate::client::put;
use crate::evidence::Log;
use crate::evidence::changes_of;
use crate::failpoints;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::ports;
use crate::seeded::Seeded;
use etcd_lab::failpoint::Point;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::lab;
use etcd_lab::proto::lab::control_request::Action;
use etcd_lab::proto::lab::lab_client::LabClient;
use etcd_lab::proto::mvccpb::Event;
use pb::compare::CompareResult;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

/// After this a client gives up on an answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Between two operations of one client: enough to see every fault from all sides, and little enough for the machine.
const PACE: Duration = Duration::from_millis(5);
const CLIENTS: u64 = 5;
const KEYS: u64 = 4;
/// Fewer answers than this are no history to judge.
const ANSWERED_LEAST: usize = 200;
/// How much longer a run may take for that.
pub(crate) const BUSY: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "chaos";

/// What a client asked.
#[derive(Clone, Debug)]
enum Asked {
    Put(String, String),
    Delete(String),
    /// Reads the key as it was at a revision, 0 for now; serializable or not.
    Get(String, i64, bool),
    /// Puts the value if the key was last changed at this revision, 0 for never.
    Swap(String, i64, String),
}

/// What it heard: the revision that the answer speaks of, and the rest.
#[derive(Clone, Debug)]
struct Heard {
    revision: i64,
    /// Of a get.
    value: Option<String>,
    /// Of a delete or a swap: whether it did anything.
    done: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Operation {
    asked: Asked,
    began: Instant,
    /// Nothing if no answer came.
    heard: Option<(Instant, Heard)>,
}

impl Asked {
    fn is_write(&self, heard: &Heard) -> bool {
        match self {
            Asked::Put(..) => true,
            Asked::Get(..) => false,
            Asked::Delete(_) | Asked::Swap(..) => heard.done,
        }
    }

    /// The value that only this operation writes.
    fn value(&self) -> Option<&str> {
        match self {
            Asked::Put(_, value) | Asked::Swap(_, _, value) => Some(value),
            Asked::Delete(_) | Asked::Get(..) => None,
        }
    }
}

async fn ask(client: &Client, member: usize, asked: &Asked) -> Option<Heard> {
    let mut kv = client.kv(member);
    let revision = |header: Option<pb::ResponseHeader>| header.map_or(0, |header| header.revision);
    let done = true;
    match asked {
        Asked::Put(key, value) => {
            let answer = answer(PATIENCE, kv.put(put(key, value))).await.ok()?;
            Some(Heard { revision: revision(answer.header), value: None, done })
        }
        Asked::Delete(key) => {
            let request = pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
            let answer = answer(PATIENCE, kv.delete_range(request)).await.ok()?;
            Some(Heard { revision: revision(answer.header), value: None, done: answer.deleted > 0 })
        }
        Asked::Get(key, revision, serializable) => {
            let (revision, serializable) = (*revision, *serializable);
            let request = pb::RangeRequest { key: key.clone().into(), revision, serializable, ..Default::default() };
            let answer = answer(PATIENCE, kv.range(request)).await.ok()?;
            let value = answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
            Some(Heard { revision: answer.header.map_or(0, |header| header.revision), value, done })
        }
        Asked::Swap(key, changed_at, value) => {
            let compare = pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone().into(),
                target_union: Some(TargetUnion::ModRevision(*changed_at)),
                ..Default::default()
            };
            let success = vec![pb::RequestOp { request: Some(Op::RequestPut(put(key, value))) }];
            let request = pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
            let answer = answer(PATIENCE, kv.txn(request)).await.ok()?;
            Some(Heard { revision: revision(answer.header), value: None, done: answer.succeeded })
        }
    }
}

/// What the clients of a run share with who started them.
#[derive(Default)]
struct Running {
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// One client: asks members in turn until it is told to stop.
async fn work(client: Client, number: u64, seed: u64, run: Arc<Running>) -> Vec<Operation> {
    let mut dice = Seeded::new(seed ^ (number << 32));
    let (mut history, mut seen, mut newest) = (Vec::new(), BTreeMap::new(), 0);
    for count in 0.. {
        if run.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("key{}", dice.below(KEYS));
        let value = format!("{number}/{count}");
        let asked = match dice.below(10) {
            0..=3 => Asked::Put(key, value),
            4 => Asked::Delete(key),
            5..=7 => {
                // Half of them ask for the present, half for a revision that this client has heard of; some of both of one member alone.
                let at = if newest > 0 && dice.below(2) == 0 { 1 + dice.below(newest) as i64 } else { 0 };
                Asked::Get(key, at, dice.below(3) == 0)
            }
            _ => Asked::Swap(key.clone(), seen.get(&key).copied().unwrap_or(0), value),
        };
        let member = dice.below(client.len() as u64) as usize;
        let began = Instant::now();
        let heard = ask(&client, member, &asked).await.map(|heard| (Instant::now(), heard));
        newest = newest.max(heard.as_ref().map_or(0, |(_, heard)| heard.revision.unsigned_abs()));
        run.answered.fetch_add(heard.iter().len(), Ordering::Relaxed);
        if let (Asked::Put(key, _) | Asked::Swap(key, ..), Some((_, heard))) = (&asked, &heard)
            && heard.done
        {
            seen.insert(key.clone(), heard.revision);
        }
        history.push(Operation { asked, began, heard });
        tokio::time::sleep(PACE).await;
    }
    history
}

/// All that happened, by revision.
struct Truth {
    /// Of each key: revision and value, nothing for a deletion.
    keys: BTreeMap<String, Vec<(i64, Option<String>)>>,
    /// Of each value: the revisions that wrote it.
    written: BTreeMap<String, Vec<i64>>,
}

impl Truth {
    fn of(events: &[Event]) -> Truth {
        let mut truth = Truth { keys: BTreeMap::new(), written: BTreeMap::new() };
        for event in events {
            let kv = event.kv.as_ref().expect("an event has a key");
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let value = (event.r#type == 0).then(|| String::from_utf8_lossy(&kv.value).into_owned());
            if let Some(value) = &value {
                truth.written.entry(value.clone()).or_default().push(kv.mod_revision);
            }
            truth.keys.entry(key).or_default().push((kv.mod_revision, value));
        }
        truth
    }

    /// A key's last change at or before a revision.
    fn at(&self, key: &str, revision: i64) -> Option<&(i64, Option<String>)> {
        let changes = self.keys.get(key)?;
        changes[..changes.partition_point(|(at, _)| *at <= revision)].last()
    }

    fn value_at(&self, key: &str, revision: i64) -> Option<&str> {
        self.at(key, revision)?.1.as_deref()
    }

    /// Why what was heard is not what happened.
    fn contradiction(&self, asked: &Asked, heard: &Heard) -> Option<String> {
        let at = heard.revision;
        let says = |wrong: bool, why: &str| wrong.then(|| why.to_owned());
        match asked {
            Asked::Put(key, value) => {
                says(self.at(key, at) != Some(&(at, Some(value.clone()))), "the put is not at its revision")
            }
            Asked::Get(_, asked_for, _) if at < *asked_for => says(true, "it read what was yet to come"),
            Asked::Get(key, asked_for, _) => {
                let of = if *asked_for > 0 { *asked_for } else { at };
                says(self.value_at(key, of) != heard.value.as_deref(), "another value stands there")
            }
            Asked::Delete(key) if heard.done => {
                says(self.at(key, at) != Some(&(at, None)), "the deletion is not at its revision")
            }
            Asked::Delete(key) => says(self.value_at(key, at).is_some(), "there was something to delete"),
            Asked::Swap(key, changed_at, value) => {
                let changed = |at| self.at(key, at).filter(|(_, value)| value.is_some()).map_or(0, |(at, _)| *at);
                if heard.done {
                    let written = self.at(key, at) == Some(&(at, Some(value.clone())));
                    says(!written || changed(at - 1) != *changed_at, "the comparison was false, or nothing was put")
                } else {
                    says(changed(at) == *changed_at, "the comparison was true")
                }
            }
        }
    }

    /// Why this is not the history of one correct store.
    fn fault_of(&self, history: &[Operation]) -> Option<String> {
        // When each operation ended, and the revision that nothing later may be before.
        let mut ended: Vec<(Instant, i64)> =
            history.iter().filter_map(|op| op.heard.as_ref().map(|(end, heard)| (*end, heard.revision))).collect();
        ended.sort_by_key(|(end, _)| *end);
        let mut newest = 0;
        for (_, revision) in &mut ended {
            newest = newest.max(*revision);
            *revision = newest;
        }
        let floor =
            |began: Instant| ended[..ended.partition_point(|(end, _)| *end < began)].last().map_or(0, |it| it.1);
        history.iter().find_map(|op| {
            let floor = floor(op.began);
            let why = match &op.heard {
                Some((_, heard)) => self.contradiction(&op.asked, heard).or_else(|| {
                    let may_be_late = matches!(op.asked, Asked::Get(_, _, true));
                    let least = if may_be_late { 0 } else { floor + i64::from(op.asked.is_write(heard)) };
                    (heard.revision < least).then(|| format!("revision {least} had been told of before it began"))
                }),
                None => {
                    let written = op.asked.value().and_then(|value| self.written.get(value));
                    let early = written.and_then(|at| at.iter().find(|at| **at <= floor));
                    early.map(|at| format!("it happened at {at}, before it began"))
                }
            };
            let twice = op.asked.value().and_then(|value| self.written.get(value)).filter(|at| at.len() > 1);
            let why = why.or_else(|| twice.map(|at| format!("it happened at each of {at:?}")));
            why.map(|why| format!("{op:?}: {why}"))
        })
    }

    /// Why the log is not that of this history. `logged`: how often it has each value.
    fn fault_in_log(&self, history: &[Operation], logged: &BTreeMap<String, usize>) -> Option<String> {
        history.iter().find_map(|op| {
            let value = op.asked.value()?;
            let (times, happened) = (logged.get(value).copied().unwrap_or(0), self.written.contains_key(value));
            let is_put = matches!(op.asked, Asked::Put(..));
            let why = match &op.heard {
                Some(_) if times != 1 => format!("it was answered, and the log has it {times} times"),
                None if times > 1 => format!("the log has it {times} times"),
                // A swap that is in the log may have found its comparison false.
                None if times == 1 && is_put && !happened => "the log has it, and it never happened".to_owned(),
                None if times == 0 && happened => "it happened, and the log does not have it".to_owned(),
                _ => return None,
            };
            Some(format!("{op:?}: {why}"))
        })
    }
}

/// Sets rules for links of the member whose lab's door this is.
pub(crate) async fn set_links(door: &str, rules: impl Iterator<Item = lab::SetLink>) {
    let door = Endpoint::from_shared(door.to_owned()).expect("a URL");
    let mut client = LabClient::new(door.connect().await.expect("the lab's door is open"));
    for rule in rules {
        let mut request = tonic::Request::new(lab::ControlRequest { action: Some(Action::SetLink(rule)) });
        request.metadata_mut().insert("lab-token", TOKEN.parse().expect("ASCII"));
        let answer = client.control(request).await.expect("an answer").into_inner();
        assert!(answer.ok, "{}", answer.why_not);
    }
}

/// Ends a member without a word, and starts it again after so long. That it is away for a time is the fault.
pub(crate) async fn killed(cluster: &mut Cluster, member: usize, away: Duration) {
    cluster.kill(member);
    tokio::time::sleep(away).await;
    cluster.restart(member).await;
}

/// Has a member stand still for so long.
pub(crate) async fn stopped(cluster: &mut Cluster, member: usize, lasts: Duration) {
    cluster.pause(member);
    tokio::time::sleep(lasts).await;
    cluster.resume(member);
}

/// Breaks members, one fault at a time, and mends each.
struct Nemesis {
    dice: Seeded,
    labs: Vec<String>,
    ids: Vec<u64>,
    faults: BTreeMap<&'static str, usize>,
}

impl Nemesis {
    async fn set_links(&self, from: usize, rule: impl Fn(u64) -> lab::SetLink) {
        let others = self.ids.iter().enumerate().filter(|(to, _)| *to != from);
        let rules = others.map(|(to, peer)| lab::SetLink { peer: *peer, ..rule(to as u64) });
        set_links(&self.labs[from], rules).await;
    }

    /// Cuts the members into two groups, or gives each link its rule back.
    async fn partition(&self, group: u64, one_way: bool) {
        for from in 0..self.ids.len() {
            let inside = |member: u64| group >> member & 1 == 1;
            self.set_links(from, |to| {
                let apart = inside(from as u64) != inside(to);
                let cut_in = apart && (!one_way || inside(from as u64));
                let cut_out = apart && (!one_way || !inside(from as u64));
                lab::SetLink { cut_in, cut_out, ..Default::default() }
            })
            .await;
        }
    }

    /// The disk of one member, or of all at once, takes its time for every sync of the log.
    async fn slow_disk(&mut self, cluster: &Cluster, member: usize, lasts: Duration) -> &'static str {
        let all = self.dice.below(4) == 0;
        let slow: Vec<usize> = (0..cluster.len()).filter(|other| all || *other == member).collect();
        for &member in &slow {
            failpoints::set(cluster, member, Point::WalBeforeSync, "sleep(150)").await;
        }
        tokio::time::sleep(lasts).await;
        for &member in &slow {
            failpoints::set(cluster, member, Point::WalBeforeSync, "off").await;
        }
        if all { "slow disks" } else { "slow disk" }
    }

    /// A member's disk is gone for good: it is removed, and another one takes its place, and its addresses. The others must have been connected for a while
    /// before etcd's checks let that happen, so this takes some seconds.
    async fn replace(&mut self, cluster: &mut Cluster, member: usize) {
        let other = (member + 1) % cluster.len();
        cluster.kill(member);
        self.ids[member] = cluster.replace(member, self.ids[member], other).await;
        *self.faults.entry("replace").or_default() += 1;
    }

    async fn strike(&mut self, cluster: &mut Cluster) {
        let members = cluster.len() as u64;
        let member = self.dice.below(members) as usize;
        let lasts = Duration::from_millis(200 + self.dice.below(1500));
        let group = 1 + self.dice.below((1 << members) - 1);
        // The first one always: nothing else shows that a disk was slow.
        if failpoints::are_there() && (self.faults.is_empty() || self.dice.below(9) == 0) {
            let fault = self.slow_disk(cluster, member, lasts).await;
            *self.faults.entry(fault).or_default() += 1;
            return;
        }
        let fault = match self.dice.below(if members == 1 { 3 } else { 8 }) {
            0 => {
                killed(cluster, member, lasts / 4).await;
                "kill"
            }
            1 => {
                stopped(cluster, member, lasts).await;
                "stop"
            }
            2 => {
                cluster.restart_all().await;
                "kill all"
            }
            3 => {
                let leader = cluster.leader().await;
                cluster.kill(leader);
                tokio::time::sleep(lasts / 4).await;
                cluster.restart(leader).await;
                "kill the leader"
            }
            4 => {
                let leader = cluster.leader().await;
                self.partition(1 << leader, false).await;
                tokio::time::sleep(lasts).await;
                self.partition(0, false).await;
                "cut the leader off"
            }
            5 => {
                self.partition(group, false).await;
                tokio::time::sleep(lasts).await;
                self.partition(0, false).await;
                "cut in two"
            }
            6 => {
                self.partition(group, true).await;
                tokio::time::sleep(lasts).await;
                self.partition(0, false).await;
                "cut one way"
            }
            _ => {
                let slow = |_| lab::SetLink { drop_out_percent: 20, delay_out_us: 20_000, ..Default::default() };
                self.set_links(member, slow).await;
                tokio::time::sleep(lasts).await;
                self.partition(0, false).await;
                "lose and delay"
            }
        };
        *self.faults.entry(fault).or_default() += 1;
    }
}

pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Members whose links can be cut, and their labs' doors. Those that have failpoints open that door, too.
pub(crate) async fn with_doors(members: usize, more: &[&str]) -> (Cluster, Vec<String>) {
    let scratch = Scratch::new();
    let token = scratch.path().join("token");
    std::fs::write(&token, TOKEN).expect("a file");
    let mut specs: Vec<Spec> = (0..members).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
    let doors: Vec<String> = specs.iter().map(|_| format!("127.0.0.1:{}", ports::free())).collect();
    for (spec, door) in specs.iter_mut().zip(&doors) {
        spec.more =
            vec![format!("--experimental-lab-listen={door}"), format!("--experimental-lab-token={}", token.display())];
        spec.more.extend(more.iter().map(|&flag| flag.to_owned()));
        spec.env = vec![failpoints::a_door()];
    }
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    let cluster = Cluster::from_specs(&etcd_bin(), specs, client, scratch).await;
    (cluster, doors.into_iter().map(|door| format!("http://{door}")).collect())
}

/// The events of all keys from the first revision on, as one member tells them.
async fn events(client: &Client, member: usize, until: i64) -> Vec<Event> {
    let mut watching = Watching::open(client, member);
    let created = watching.created(watch("key", 1)).await;
    watching.until_told(created.watch_id, until).await;
    let told = &watching.checker.watches[&created.watch_id];
    told.events.iter().filter(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision <= until)).cloned().collect()
}

/// The clients of a run.
pub(crate) struct Load {
    run: Arc<Running>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Load {
    pub(crate) fn start(client: &Client, seed: u64) -> Load {
        let run = Arc::new(Running::default());
        let start = |number| tokio::spawn(work(client.clone(), number, seed, Arc::clone(&run)));
        Load { clients: (0..CLIENTS).map(start).collect(), run }
    }

    /// Ends them once there is enough to judge, and returns what they did.
    pub(crate) async fn end(self) -> Vec<Operation> {
        // A machine that is busy with other things takes longer until there is.
        until(BUSY, "answers", async || match self.run.answered.load(Ordering::Relaxed) {
            answered if answered < ANSWERED_LEAST => Err(format!("{answered}, which proves little")),
            _ => Ok(()),
        })
        .await;
        self.run.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in self.clients {
            history.append(&mut client.await.expect("no client panics"));
        }
        history
    }
}

/// What all members tell of the run, once they tell the same: the last revision, and all events.
pub(crate) async fn agreed(cluster: &Cluster) -> (i64, Vec<Event>) {
    // A last write of its own, so that there is an end to read up to.
    until(READY_WITHIN, "a last write", async || cluster.client.put(0, "key0", "the end").await).await;
    let revision = until(READY_WITHIN, "a linearizable read", async || cluster.client.revision().await).await;
    let told = events(&cluster.client, 0, revision).await;
    for member in 1..cluster.len() {
        assert_eq!(events(&cluster.client, member, revision).await, told, "member {member} tells another history");
    }
    cluster.assert_equal_hashes().await;
    let list = pb::AlarmRequest::default();
    let alarms = cluster.client.maintenance(0).alarm(list).await.expect("a list").into_inner().alarms;
    assert_eq!(alarms, [], "no alarm was raised");
    (revision, told)
}

/// Panics unless what the clients heard, what the members tell and what their logs hold go together. Kills the members. `run` names it.
pub(crate) async fn judge(cluster: &mut Cluster, history: &[Operation], (revision, told): (i64, &[Event]), run: &str) {
    // What is committed is written down with what comes next.
    for _ in 0..3 {
        until(READY_WITHIN, "a write behind the end", async || cluster.client.put(0, "after", "the end").await).await;
    }
    cluster.kill_all();
    let log = Log::of(cluster);
    let answered = history.iter().filter(|op| op.heard.is_some()).count();
    foreign::tell(&format!("{run}: {} operations, {answered} answered, {revision} revisions", history.len()));
    let truth = Truth::of(told);
    assert_eq!(truth.fault_of(history), None, "{run}");
    let twice = log.values().into_iter().find(|(value, times)| value.contains('/') && *times > 1);
    assert_eq!(twice, None, "{run}: the log has a write twice");
    match log.until(revision) {
        Some((log, changes)) => {
            assert!(changes == changes_of(told), "{run}: the log leads to other events: {changes:?}, not {told:?}");
            assert_eq!(truth.fault_in_log(history, &log.values()), None, "{run}");
        }
        // After some hours; the same was true of every shorter run.
        None => {
            foreign::tell("the beginning of the log is released on all members: it is no evidence of what was first")
        }
    }
    // Not a share: a member that is down refuses as fast as it is asked.
    assert!(answered >= ANSWERED_LEAST, "only {answered} operations were answered");
}

async fn chaos(members: usize, seed: u64, lasts: Duration) {
    // Snapshots, released logs and checks happen all the time.
    let more = ["--snapshot-count=200", "--snapshot-catchup-entries=50", "--corrupt-check-time=1s"];
    let (mut cluster, labs) = with_doors(members, &more).await;
    let load = Load::start(&cluster.client, seed);
    let mut ids = Vec::new();
    for member in 0..members {
        ids.push(cluster.ready(member).await.header.expect("a header").member_id);
    }
    let mut nemesis = Nemesis { dice: Seeded::new(seed), labs, ids, faults: BTreeMap::new() };
    let deadline = Instant::now() + lasts;
    while Instant::now() < deadline {
        nemesis.strike(&mut cluster).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Once at the end of a short run, and now and then in a long one.
        if members > 1 && (Instant::now() >= deadline || nemesis.dice.below(40) == 0) {
            let member = nemesis.dice.below(members as u64) as usize;
            nemesis.replace(&mut cluster, member).await;
        }
    }
    let history = load.end().await;
    let (revision, told) = agreed(&cluster).await;
    let run = format!("{members} members, seed {seed}, faults {:?}", nemesis.faults);
    judge(&mut cluster, &history, (revision, &told), &run).await;
}

#[test]
fn histories_stay_linearizable_under_faults() {
    if !is_ours() {
        return foreign::not_possible("cutting links", "only our members have lab rules");
    }
    let (seconds, seed) = (from_env("CHAOS_SECONDS", 12), from_env("CHAOS_SEED", 1));
    for members in [1, 3, 5] {
        let lasts = Duration::from_secs(seconds);
        turn(lasts + BUSY + Duration::from_secs(120), chaos(members, seed + members as u64, lasts));
    }
}

/// An event of the key `key`.
fn event(at: i64, value: Option<&str>) -> Event {
    let kv = etcd_lab::proto::mvccpb::KeyValue {
        key: "key".into(),
        value: value.unwrap_or_default().to_owned().into(),
        mod_revision: at,
        ..Default::default()
    };
    Event { r#type: i32::from(value.is_none()), kv: Some(kv), prev_kv: None }
}

/// The judge notices each kind of lie.
#[test]
fn a_history_that_is_not_linearizable_is_noticed() {
    let truth = Truth::of(&[event(2, Some("a")), event(3, Some("b")), event(4, None), event(5, Some("c"))]);
    let start = Instant::now();
    let at = |second: u64| start + Duration::from_secs(second);
    let key = || "key".to_owned();
    let op = |asked: Asked, began: u64, heard: Option<(u64, i64, Option<&str>, bool)>| Operation {
        asked,
        began: at(began),
        heard: heard
            .map(|(end, revision, value, done)| (at(end), Heard { revision, value: value.map(str::to_owned), done })),
    };
    let (put, get) = (|value: &str| Asked::Put(key(), value.into()), || Asked::Get(key(), 0, false));
    let swap = |changed_at, value: &str| Asked::Swap(key(), changed_at, value.into());
    let good = [
        op(put("a"), 0, Some((2, 2, None, true))),
        op(swap(2, "b"), 1, Some((3, 3, None, true))),
        op(get(), 2, Some((3, 2, Some("a"), true))),
        op(Asked::Delete(key()), 3, Some((5, 4, None, true))),
        op(Asked::Delete(key()), 4, Some((6, 4, None, false))),
        op(swap(3, "x"), 6, Some((7, 4, None, false))),
        op(put("c"), 6, None),
        op(put("lost"), 6, None),
        op(get(), 8, Some((9, 5, Some("c"), true))),
        op(Asked::Get(key(), 3, false), 8, Some((9, 5, Some("b"), true))),
        op(Asked::Get(key(), 0, true), 8, Some((9, 3, Some("b"), true))),
        op(Asked::Get(key(), 2, true), 8, Some((9, 3, Some("a"), true))),
    ];
    assert_eq!(truth.fault_of(&good), None);
    for (lie, why) in [
        (op(get(), 10, Some((11, 3, Some("b"), true))), "had been told of before"),
        (op(get(), 4, Some((11, 4, Some("b"), true))), "another value"),
        (op(Asked::Get(key(), 3, false), 8, Some((11, 5, Some("c"), true))), "another value"),
        (op(Asked::Get(key(), 3, false), 8, Some((11, 3, Some("b"), true))), "had been told of before"),
        (op(Asked::Get(key(), 0, true), 8, Some((11, 3, Some("c"), true))), "another value"),
        (op(Asked::Get(key(), 5, true), 8, Some((11, 4, None, true))), "yet to come"),
        (op(put("gone"), 4, Some((11, 6, None, true))), "not at its revision"),
        (op(put("c"), 10, None), "before it began"),
        (op(put("c"), 10, Some((11, 5, None, true))), "had been told of before"),
        (op(Asked::Delete(key()), 10, Some((11, 5, None, false))), "something to delete"),
        (op(swap(2, "c"), 4, Some((11, 5, None, true))), "comparison was false"),
        (op(swap(5, "y"), 10, Some((11, 5, None, false))), "comparison was true"),
    ] {
        let history: Vec<Operation> = good.iter().cloned().chain([lie]).collect();
        let fault = truth.fault_of(&history).expect("a lie");
        assert!(fault.contains(why), "{fault}");
    }
    let twice = Truth::of(&[event(2, Some("a")), event(3, Some("a"))]);
    assert!(twice.fault_of(&good[..1]).is_some_and(|fault| fault.contains("each of [2, 3]")));
}

#[test]
fn a_log_that_is_not_that_of_a_history_is_noticed() {
    let truth = Truth::of(&[event(2, Some("a")), event(3, Some("b")), event(4, Some("c"))]);
    let now = Instant::now();
    let op = |asked, heard: Option<(i64, bool)>| {
        let heard = heard.map(|(revision, done)| (now, Heard { revision, value: None, done }));
        Operation { asked, began: now, heard }
    };
    let put = |value: &str| Asked::Put("key".into(), value.into());
    let swap = |value: &str| Asked::Swap("key".into(), 2, value.into());
    let history = [
        op(put("a"), Some((2, true))),
        op(swap("b"), Some((3, true))),
        op(swap("x"), Some((3, false))),
        op(put("c"), None),
        op(put("lost"), None),
        op(swap("in vain"), None),
    ];
    let logged = |more: &[(&str, usize)]| {
        let values = ["a", "b", "c", "x"].map(|value| (value, 1));
        values.iter().chain(more).map(|(value, times)| ((*value).to_owned(), *times)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(truth.fault_in_log(&history, &logged(&[])), None);
    for (wrong, why) in [
        (("a", 0), "answered, and the log has it 0 times"),
        (("b", 2), "answered, and the log has it 2 times"),
        (("x", 0), "answered, and the log has it 0 times"),
        (("c", 0), "it happened, and the log does not have it"),
        (("lost", 1), "it never happened"),
        (("lost", 2), "the log has it 2 times"),
    ] {
        let fault = truth.fault_in_log(&history, &logged(&[wrong])).expect("a lie");
        assert!(fault.contains(why), "{fault}");
    }
    let in_vain = truth.fault_in_log(&history, &logged(&[("in vain", 1)]));
    assert_eq!(in_vain, None, "its comparison was false");
}
