//! What a recording says happened is what the members' own logs say.
//!
//! A lab runs three members through an election, writes, a `kill -9` and a second election, and records what they tell. Afterwards the
//! recording is read back, and held against what the members have on disk, which they have not written for the lab: the write-ahead logs in
//! etcd's format (entries; votes in the hard states) and the lines of their logs. And no promise is broken.

#![expect(clippy::disallowed_methods, reason = "waits for real members, with deadlines")]

use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::ports;
use etcd_lab::disk::RealDisk;
use etcd_lab::lab::Action;
use etcd_lab::lab::Cluster;
use etcd_lab::lab::Picture;
use etcd_lab::lab::Report;
use etcd_lab::lab::ask;
use etcd_lab::lab::observe;
use etcd_lab::lab::own_watch;
use etcd_lab::lab::preflight;
use etcd_lab::lab::promises::Answer;
use etcd_lab::lab::promises::Asked;
use etcd_lab::lab::promises::Call;
use etcd_lab::lab::promises::Found;
use etcd_lab::lab::promises::PROMISES;
use etcd_lab::lab::promises::Promise;
use etcd_lab::lab::recording::Recorder;
use etcd_lab::lab::recording::Recording;
use etcd_lab::lab::recording::Replay;
use etcd_lab::lab::survey;
use etcd_lab::lab::workdir::Record;
use etcd_lab::proto::lab;
use etcd_lab::proto::lab::EntryKind;
use etcd_lab::proto::lab::Role;
use etcd_lab::proto::lab::event::Kind;
use etcd_lab::proto::raftpb::Entry;
use etcd_lab::proto::raftpb::EntryType;
use etcd_lab::proto::raftpb::HardState;
use etcd_lab::proto::walpb;
use etcd_lab::types::Millis;
use etcd_lab::wal;
use prost::Message as _;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(180);
/// The type of a hard state's record.
const HARD_STATE: i64 = 3;

/// A lab whose reports are learnt and recorded.
struct Lab {
    cluster: Cluster,
    picture: Picture,
    recorder: Recorder,
    reports: mpsc::Receiver<Report>,
    start: Instant,
    calls: u64,
    /// The lab's own watch is open.
    watches: bool,
}

impl Lab {
    fn hear(&mut self, report: Report) {
        self.watches |= matches!(report, Report::Watched { .. });
        let at = Millis(u64::try_from(self.start.elapsed().as_millis()).expect("short"));
        self.recorder.note(at, &report);
        self.picture.tick(at);
        self.picture.learn(report);
    }

    /// Learns until the picture shows it.
    async fn until(&mut self, what: &str, is: impl Fn(&Picture) -> bool) {
        let deadline = Instant::now() + READY_WITHIN;
        while !is(&self.picture) {
            assert!(Instant::now() < deadline, "not within {READY_WITHIN:?}: {what}: {:#}", self.picture.to_json());
            if let Ok(Some(report)) = tokio::time::timeout(Duration::from_millis(200), self.reports.recv()).await {
                self.hear(report);
            }
        }
    }

    fn call(&mut self, asked: Asked) -> u64 {
        self.calls += 1;
        self.hear(Report::Called(Box::new(Call::Asks { id: self.calls, asked })));
        self.calls
    }

    fn told(&mut self, id: u64, answer: Answer) {
        // What members have told by now comes first, as it does for a screen.
        while let Ok(report) = self.reports.try_recv() {
            self.hear(report);
        }
        self.hear(Report::Called(Box::new(Call::IsTold { id, answer: Ok(answer) })));
    }

    async fn put(&mut self, urls: &[String], key: &str, value: &str) {
        let id = self.call(Asked::Put { key: key.into(), sum: crc32c::crc32c(value.as_bytes()) });
        let revision = ask::put(urls, key, value, false).await.expect("written");
        self.told(id, Answer { revision, found: None });
    }

    async fn get(&mut self, urls: &[String], key: &str) {
        let id = self.call(Asked::Get { key: key.into() });
        let (revision, kv) = ask::get(urls, key, false).await.expect("read");
        let found = kv.map(|kv| Found { mod_revision: kv.mod_revision, sum: crc32c::crc32c(&kv.value) });
        self.told(id, Answer { revision, found });
    }
}

/// Whether one member leads, all these follow it, and everybody has applied the same.
fn settled(picture: &Picture, members: &[usize]) -> bool {
    let Some(leader) = picture.leader() else { return false };
    let of = |m: usize| picture.members[m].state;
    let Some(l) = of(leader) else { return false };
    members.iter().all(|m| {
        of(*m).is_some_and(|s| {
            (s.term, s.leader, s.last_index, s.commit, s.applied, s.persisted)
                == (l.term, l.leader, l.last_index, l.last_index, l.last_index, l.last_index)
        })
    })
}

#[test]
fn recorded_elections_and_entries_are_those_of_the_members_own_logs() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let scratch = Scratch::new();
        let path = scratch.path().join("a.labrec");
        let record = run(&scratch.path().join("lab"), &path).await;
        let recording = Recording::read(&path).expect("whole");
        same_entries(&recording, &record);
        same_elections(&recording, &record);
        same_votes(&recording, &record);
        let mut replay = Replay::new(recording);
        let len = replay.len();
        replay.seek(len);
        let promises = &replay.picture.promises;
        assert!(!promises.is_any_broken(), "{:#?}", promises.breaches());
        // Nobody joins or leaves here.
        for (promise, name, _) in PROMISES.into_iter().filter(|(promise, ..)| *promise != Promise::OneChange) {
            assert!(promises.count(promise).0 > 0, "{name} was never looked at");
        }
        assert!(promises.count(Promise::WatchWhole).0 >= 25, "the watch was told every put");
    });
}

/// Runs the lab, and returns where everything is; all members were killed at its end.
async fn run(folder: &Path, path: &Path) -> Record {
    let liked: Vec<(u16, u16)> = (0..3).map(|_| (ports::free(), ports::free())).collect();
    let plan = preflight::plan(3, Some(folder), &liked).expect("planned");
    let token = fs::read_to_string(plan.work.token_file()).expect("made").trim().to_owned();
    let (to, reports) = mpsc::channel(observe::REPORTS_MAX);
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-lab"));
    let cluster = Cluster::start(plan, program, to.clone()).expect("started");
    let record = cluster.record.clone();
    let _observers =
        [observe::observe(&record, &token, &to), survey::survey(&record, &token, &to), own_watch::watch(&record, &to)];
    let recorder = Recorder::create(path, &record).expect("written");
    let picture = Picture::new(&record);
    let mut lab = Lab { cluster, picture, recorder, reports, start: Instant::now(), calls: 0, watches: false };
    let urls: Vec<String> = record.members.iter().map(|m| m.client_url.clone()).collect();

    lab.until("a first leader", |p| settled(p, &[0, 1, 2]) && p.term().is_some_and(|t| t > 0)).await;
    lab.until("hashes of all members", |p| p.promises.count(Promise::EqualState).0 >= 3).await;
    // The watch must be there before what it is to be told.
    while !lab.watches {
        let report = tokio::time::timeout(READY_WITHIN, lab.reports.recv()).await.expect("in time");
        lab.hear(report.expect("it runs"));
    }
    for n in 0..20 {
        lab.put(&urls, "key", &n.to_string()).await;
    }
    lab.get(&urls, "key").await;
    let (killed, term) = (lab.picture.leader().expect("settled"), lab.picture.term());
    lab.cluster.act(killed, Action::Kill);
    lab.until("its end", |p| p.members[killed].is_down()).await;
    let others: Vec<usize> = (0..3).filter(|m| *m != killed).collect();
    lab.until("a second leader", |p| settled(p, &others) && p.term() > term).await;
    let alive: Vec<String> = others.iter().map(|m| urls[*m].clone()).collect();
    for n in 0..5 {
        lab.put(&alive, "key", &format!("again {n}")).await;
    }
    lab.get(&alive, "key").await;
    lab.cluster.act(killed, Action::Restart);
    lab.until("everybody has everything", |p| settled(p, &[0, 1, 2])).await;
    lab.until("the watch was told", |p| p.promises.count(Promise::WatchWhole).0 >= 25).await;
    // Killed, not asked to end: they would hand leadership over first, and nobody would hear of it.
    for member in 0..3 {
        lab.cluster.act(member, Action::Kill);
    }
    lab.until("the end", |p| p.members.iter().all(|m| m.is_down())).await;
    lab.recorder.flush();
    assert_eq!(lab.recorder.ended, None);
    record
}

/// Index, term, kind, bytes and sum.
type Line = (u64, u64, EntryKind, u32, u32);

fn told(e: &lab::LogEntry) -> Line {
    (e.index, e.term, e.kind(), e.bytes, e.sum)
}

fn written(e: &Entry) -> Line {
    let kind = match e.entry_type() {
        EntryType::EntryNormal if e.data.is_empty() => EntryKind::Empty,
        EntryType::EntryNormal => EntryKind::Normal,
        _ => EntryKind::ConfChange,
    };
    (e.index, e.term, kind, u32::try_from(e.data.len()).expect("small"), crc32c::crc32c(&e.data))
}

/// What each member told, in order.
fn kinds(recording: &Recording, member: usize) -> impl Iterator<Item = &Kind> {
    recording.reports().filter_map(move |(_, report)| match report {
        Report::Telemetry { member: m, event } if *m == member => event.event.as_ref()?.kind.as_ref(),
        _ => None,
    })
}

/// A member's raft id, as it says itself.
fn id(recording: &Recording, member: usize) -> u64 {
    let mut ids = recording.reports().filter_map(|(_, report)| match report {
        Report::Telemetry { member: m, event } if *m == member => Some(event.member_id),
        _ => None,
    });
    ids.next_back().expect("it has spoken")
}

fn states(recording: &Recording, member: usize) -> impl Iterator<Item = lab::State> {
    kinds(recording, member).filter_map(|kind| match kind {
        Kind::State(state) => Some(*state),
        Kind::Snapshot(s) => s.state,
        _ => None,
    })
}

fn wal_dir(record: &Record, member: usize) -> PathBuf {
    record.members[member].data_dir.join("member/wal")
}

/// The log that follows from the recording is the one on disk, entry by entry.
fn same_entries(recording: &Recording, record: &Record) {
    for member in 0..3 {
        let mut log: BTreeMap<u64, Line> = BTreeMap::new();
        for kind in kinds(recording, member) {
            match kind {
                Kind::Snapshot(s) => log = s.tail.iter().map(|e| (e.index, told(e))).collect(),
                Kind::Appended(a) => log.extend(a.entries.iter().map(|e| (e.index, told(e)))),
                Kind::Truncated(t) => drop(log.split_off(&(t.last_kept + 1))),
                _ => {}
            }
        }
        let disk = wal::read(&RealDisk, &wal_dir(record, member), None).expect("a log");
        let entries: Vec<Line> = disk.entries.iter().map(written).collect();
        assert_eq!(log.into_values().collect::<Vec<_>>(), entries, "n{}", member + 1);
        // Members' names, the cluster's version, 25 puts, and a first entry of each of two leaders at least.
        assert!(entries.len() >= 27, "{entries:?}");
        assert!(entries.iter().filter(|e| e.2 == EntryKind::Empty).count() >= 2, "{entries:?}");
        assert_eq!(disk.metadata.member.0, id(recording, member));
    }
}

/// The messages of a member's log.
fn messages(record: &Record, member: usize) -> Vec<String> {
    let text = fs::read_to_string(&record.members[member].log).expect("a log");
    let message = |line: &str| Some(serde_json::from_str::<serde_json::Value>(line).ok()?["msg"].as_str()?.to_owned());
    text.lines().filter_map(message).collect()
}

/// Who became leader in which term, and whom the others took for it.
fn same_elections(recording: &Recording, record: &Record) {
    let (mut said, mut logged) = (BTreeSet::new(), BTreeSet::new());
    for member in 0..3 {
        let own = id(recording, member);
        let leads = states(recording, member).filter(|s| s.role() == Role::Leader);
        said.extend(leads.map(|s| (s.term, own)));
        let follows: BTreeSet<(u64, u64)> =
            states(recording, member).filter(|s| s.leader != 0).map(|s| (s.term, s.leader)).collect();
        for message in messages(record, member) {
            let words: Vec<&str> = message.split_whitespace().collect();
            let hex = |word: &str| u64::from_str_radix(word, 16).expect("an id");
            let term = || words.last().and_then(|t| t.parse::<u64>().ok()).expect("a term");
            match words[..] {
                [who, "became", "leader", ..] => {
                    logged.insert((term(), hex(who)));
                }
                ["raft.node:", _, "elected", "leader", leader, ..] => {
                    assert!(follows.contains(&(term(), hex(leader))), "n{}: {message}: {follows:?}", member + 1);
                }
                ["raft.node:", _, "changed", "leader", "from", _, "to", leader, ..] => {
                    assert!(follows.contains(&(term(), hex(leader))), "n{}: {message}: {follows:?}", member + 1);
                }
                _ => {}
            }
        }
    }
    assert_eq!(said, logged);
    assert!(said.len() >= 2, "{said:?}");
}

/// The hard states that a member has ever written, in order.
fn hard_states(dir: &Path) -> Vec<HardState> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir).expect("a folder").map(|e| e.expect("a name").path()).collect();
    names.retain(|name| name.extension().is_some_and(|e| e == "wal"));
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let bytes = fs::read(name).expect("readable");
        let mut rest = &bytes[..];
        // The length's top byte says how many zeros follow; a length of zero is where nothing was written yet.
        while let Some((head, body)) = rest.split_first_chunk::<8>() {
            let word = u64::from_le_bytes(*head);
            let length = usize::try_from(word & 0x00ff_ffff_ffff_ffff).expect("small");
            let padding = if word >> 63 == 1 { usize::try_from(word >> 56 & 7).expect("small") } else { 0 };
            if length == 0 {
                break;
            }
            let record = walpb::Record::decode(&body[..length]).expect("a record");
            if record.r#type == HARD_STATE {
                found.push(HardState::decode(record.data.unwrap_or_default()).expect("a hard state"));
            }
            rest = &body[length + padding..];
        }
    }
    found
}

/// Each elected leader had the votes that it counted, on the voters' disks; and the votes that were told are those on disk.
fn same_votes(recording: &Recording, record: &Record) {
    let disks: Vec<BTreeSet<(u64, u64)>> = (0..3)
        .map(|m| hard_states(&wal_dir(record, m)).iter().filter(|s| s.vote != 0).map(|s| (s.term, s.vote)).collect())
        .collect();
    let place: BTreeMap<u64, usize> = (0..3).map(|m| (id(recording, m), m)).collect();
    let mut elections = 0;
    for member in 0..3 {
        let own = id(recording, member);
        let terms: BTreeSet<u64> =
            states(recording, member).filter(|s| s.role() == Role::Leader).map(|s| s.term).collect();
        for kind in kinds(recording, member) {
            let Kind::Votes(v) = kind else { continue };
            if v.pre || !terms.contains(&v.term) || v.granted.len() < 2 {
                continue;
            }
            elections += 1;
            for voter in &v.granted {
                assert!(disks[place[voter]].contains(&(v.term, own)), "{v:?}: {disks:?}");
            }
        }
        let told: BTreeSet<(u64, u64)> =
            states(recording, member).filter(|s| s.vote != 0).map(|s| (s.term, s.vote)).collect();
        // What was before the lab listened is on disk only.
        let heard_from = states(recording, member).next().expect("it has spoken").term;
        let written: BTreeSet<(u64, u64)> =
            disks[member].iter().copied().filter(|(term, _)| *term >= heard_from).collect();
        assert_eq!(told, written, "n{}", member + 1);
    }
    // The first may have been over when the lab began to listen; the one after the kill was not.
    assert!(elections >= 1, "an election was counted");
}
