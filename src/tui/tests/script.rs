//! A cluster that reports what we tell it to, in place of processes.

use super::press;
use crate::lab::Report;
use crate::lab::cluster::Change;
use crate::lab::survey::Survey;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::EntryKind;
use crate::proto::lab::Role;
use crate::proto::lab::event::Kind;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::look::Theme;
use crate::tui::update;
use crate::types::Millis;
use std::collections::BTreeSet;

pub(super) struct Script {
    pub(super) model: Model,
    /// What was reported, and when.
    pub(super) told: Vec<(Millis, Report)>,
    nodes: usize,
    now: u64,
    quiet: BTreeSet<usize>,
}

impl Script {
    /// Processes run; nobody has said anything.
    pub(super) fn started(nodes: usize) -> Script {
        let record = Record::sample(nodes);
        let mut model = Model::new(Theme::Dark, false);
        let folder = "/home/ada/.local/state/etcd-lab/1".to_string();
        update(&mut model, Msg::Started { record, folder, notices: vec![] });
        let mut script = Script { model, told: Vec::new(), nodes, now: 0, quiet: BTreeSet::new() };
        for member in 0..nodes {
            script.report(Report::Process { member, change: Change::Started { pid: 4001 + member as u32 } });
        }
        script.pass(100);
        script
    }

    /// Everybody follows n2 in term 3.
    pub(super) fn steady(nodes: usize) -> Script {
        Script::led_by(nodes, 1)
    }

    /// Everybody follows the member at this place, in term 3.
    fn led_by(nodes: usize, leader: usize) -> Script {
        let mut s = Script::started(nodes);
        for member in 0..nodes {
            s.report(Report::Connected { member });
            s.tell(
                member,
                Kind::Snapshot(Box::new(lab::Snapshot { name: format!("n{}", member + 1), ..Default::default() })),
            );
        }
        for member in 0..nodes {
            let (role, id) = (if member == leader { Role::Leader } else { Role::Follower }, leader as u64 + 1);
            s.state(member, role, 3, id, id);
        }
        s.pass(300);
        s
    }

    /// n1 leads term 3 with one put; it is killed and n2 asks for votes in term 4.
    pub(super) fn election() -> Script {
        let mut s = Script::led_by(3, 0);
        s.append(0, 1, 3, "put a");
        s.append(1, 1, 3, "put a");
        s.append(2, 1, 3, "put a");
        s.kill(0);
        s.pass(1_200);
        s.state(1, Role::PreCandidate, 3, 1, 0);
        s.pass(50);
        s.state(1, Role::Candidate, 4, 2, 0);
        s.tell(1, votes(4, &[2]));
        s.sent(2, 3, 5, 4, 1);
        s.sent(2, 1, 5, 4, 1);
        s.pass(200);
        s.received(2, 3, 5, 4, 1);
        s.pass(100);
        s
    }

    /// The election is won; heartbeats go out, to the dead as well.
    pub(super) fn crash() -> Script {
        let mut s = Script::election();
        s.state(2, Role::Follower, 4, 2, 0);
        s.sent(3, 2, 6, 4, 1);
        s.received(3, 2, 6, 4, 1);
        s.tell(1, votes(4, &[2, 3]));
        s.state(1, Role::Leader, 4, 2, 2);
        s.state(2, Role::Follower, 4, 2, 2);
        s.pass(2_500);
        s.sent(2, 3, 8, 4, 0);
        s.received(2, 3, 8, 4, 0);
        s.pass(200);
        s.sent(3, 2, 9, 4, 0);
        s.received(3, 2, 9, 4, 0);
        s.pass(200);
        s
    }

    /// n2 has appended a put; n1 has it on disk, n3 has not got it yet.
    pub(super) fn put() -> Script {
        let mut s = Script::steady(3);
        for member in 0..3 {
            for (index, what) in [(1, ""), (2, "put name"), (3, "put colour")] {
                s.append(member, index, if index < 3 { 2 } else { 3 }, what);
            }
            s.marks(member, 3, 3, 3, 3);
        }
        s.tell(1, Kind::Applied(lab::Applied { index: 3, revision: 3 }));
        s.write(1, 4, 3, "put a");
        s.marks(1, 4, 4, 3, 3);
        s.sent(2, 1, 3, 3, 3);
        s.received(2, 1, 3, 3, 3);
        s.pass(250);
        s.sent(2, 3, 3, 3, 3);
        s.write(0, 4, 3, "put a");
        s.marks(0, 4, 4, 3, 3);
        s.pass(250);
        s.sent(1, 2, 4, 3, 4);
        s.received(1, 2, 4, 3, 4);
        s.pass(250);
        s.tell(1, Kind::Progress(progress(1, 4)));
        s.tell(1, Kind::Progress(progress(3, 3)));
        s.marks(1, 4, 4, 4, 3);
        s.tell(1, Kind::Applied(lab::Applied { index: 4, revision: 4 }));
        s.marks(1, 4, 4, 4, 4);
        s
    }

    /// Everybody's clock is held, or slow.
    pub(super) fn clock(&mut self, held: bool, slower: u32) {
        for member in 0..self.nodes {
            self.tell(member, Kind::Clock(lab::Clock { held, slower, lab_ms: self.now }));
        }
    }

    /// A held election: n2 has asked, and its requests wait at the doors of the others.
    pub(super) fn held() -> Script {
        let mut s = Script::steady(3);
        press(&mut s.model, &[Key::Char(' ')]);
        s.clock(true, 1);
        s.state(1, Role::Candidate, 4, 2, 0);
        for (to, id) in [(1, 11), (3, 7)] {
            s.sent(2, to, 5, 4, 1);
            s.tell(to as usize - 1, Kind::Held(lab::Held { id, wire: Some(wire(2, to, 5, 4, 1)) }));
        }
        s.pass(3_000);
        s
    }

    /// Two watchers, a lease, a tape and a survey, as three members answered.
    pub(super) fn watched() -> Script {
        let mut s = Script::put();
        let change = |revision, key: &'static str, deleted, version, lease| lab::Change {
            revision,
            key: key.as_bytes().into(),
            deleted,
            version,
            lease,
        };
        let tape = vec![
            change(2, "name", false, 1, 0),
            change(3, "colour", false, 1, 0),
            change(4, "a", false, 1, 0),
            change(5, "colour", false, 2, 77),
            change(6, "colour", true, 0, 0),
            change(7, "b", false, 1, 0),
            change(7, "c", false, 1, 0),
        ];
        let watcher = |watch_id, key: &'static str, next, synced| lab::Watcher {
            stream: 1,
            watch_id,
            key: key.as_bytes().into(),
            range_end: if key == "c" { b"d".as_slice().into() } else { "".into() },
            start_revision: 2,
            first_revision: 2,
            next_revision: next,
            synced,
            queued: u32::from(!synced) * 12,
            client: if synced { String::new() } else { "etcdctl (pid 4121)".into() },
            ..Default::default()
        };
        // Another client's, which began with what was to come.
        let late = lab::Watcher { stream: 2, start_revision: 0, first_revision: 6, ..watcher(0, "c", 8, true) };
        for member in 0..s.nodes {
            let watchers = if member == 1 {
                vec![watcher(0, "c", 8, true), watcher(1, "name", 4, false), late.clone()]
            } else {
                vec![]
            };
            let left_ms = if member == 1 { 6_100 } else { -1 };
            let lease = lab::LeaseView { id: 0x694d, ttl_s: 10, left_ms, keys_total: 1, keys: vec!["colour".into()] };
            let look = lab::LookResponse {
                watchers_total: watchers.len() as u32,
                watchers,
                leases_total: 1,
                leases: vec![lease],
                revision: 7,
                compact_revision: 3,
                changes: tape.clone(),
                ..Default::default()
            };
            s.report(Report::Looked { member, look: Box::new(look) });
            let metrics = [
                ("etcd_disk_wal_fsync_duration_seconds_sum", 0.21),
                ("etcd_disk_wal_fsync_duration_seconds_count", 100.0),
                ("etcd_server_proposals_committed_total", 12.0),
                ("process_resident_memory_bytes", 31_457_280.0),
            ];
            let survey = Survey {
                version: "3.6.14".into(),
                db_size: 24_576,
                db_in_use: 18_432,
                metrics: metrics.iter().map(|(k, v)| ((*k).to_string(), *v)).collect(),
                ..Survey::default()
            };
            s.report(Report::Surveyed { member, survey: Box::new(survey) });
        }
        s
    }

    pub(super) fn now(&self) -> Millis {
        Millis(self.now)
    }

    /// Time passes, and every member that speaks tells its timer at each tick.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 100).min(end);
            update(&mut self.model, Msg::Tick(Millis(self.now)));
            for member in 0..self.nodes {
                let speaks = self.model.picture.as_ref().expect("started").members[member].heard.is_some();
                if speaks && !self.quiet.contains(&member) {
                    let election_elapsed_ticks = (self.now / 100 % 4) as u32 + 2 * member as u32;
                    self.tell(
                        member,
                        Kind::Timer(lab::Timer {
                            election_elapsed_ticks,
                            election_timeout_ticks: 15,
                            heartbeat_elapsed_ticks: 0,
                            heartbeat_timeout_ticks: 1,
                            tick_ms: 100,
                        }),
                    );
                }
            }
        }
    }

    /// The stream from a member stays open and says nothing.
    pub(super) fn silence(&mut self, member: usize) {
        self.quiet.insert(member);
    }

    pub(super) fn pause(&mut self, member: usize) {
        self.quiet.insert(member);
        self.report(Report::Process { member, change: Change::Paused });
    }

    /// Nobody says anything for so long; what is to be done then.
    pub(super) fn wait(&mut self, ms: u64) -> Option<Cmd> {
        self.now += ms;
        update(&mut self.model, Msg::Tick(Millis(self.now)))
    }

    pub(super) fn kill(&mut self, member: usize) {
        self.quiet.insert(member);
        self.report(Report::Process { member, change: Change::Ended { how: "killed (kill -9)".into() } });
        self.report(Report::Lost { member, why: "connection closed".into() });
    }

    pub(super) fn report(&mut self, report: Report) {
        self.told.push((Millis(self.now), report.clone()));
        update(&mut self.model, Msg::Report(report));
    }

    pub(super) fn tell(&mut self, member: usize, kind: Kind) {
        let event = lab::Telemetry {
            member_id: member as u64 + 1,
            boot_id: 1,
            event: Some(lab::Event { kind: Some(kind) }),
            ..Default::default()
        };
        self.report(Report::Telemetry { member, event: Box::new(event) });
    }

    pub(super) fn state(&mut self, member: usize, role: Role, term: u64, vote: u64, leader: u64) {
        let old = self.model.picture.as_ref().expect("started").members[member].state.unwrap_or_default();
        self.tell(member, Kind::State(lab::State { role: role.into(), term, vote, leader, ..old }));
    }

    pub(super) fn marks(&mut self, member: usize, last: u64, persisted: u64, commit: u64, applied: u64) {
        let old = self.model.picture.as_ref().expect("started").members[member].state.unwrap_or_default();
        let new = lab::State { first_index: 1, last_index: last, persisted, commit, applied, ..old };
        self.tell(member, Kind::State(new));
    }

    /// An entry that is committed and applied at once.
    fn append(&mut self, member: usize, index: u64, term: u64, what: &str) {
        self.write(member, index, term, what);
        self.marks(member, index, index, index, index);
    }

    /// An entry that is on this member's disk, and no more.
    fn write(&mut self, member: usize, index: u64, term: u64, what: &str) {
        let kind = if what.is_empty() { EntryKind::Empty } else { EntryKind::Normal };
        let entry = lab::LogEntry { index, term, kind: kind.into(), bytes: 41, summary: what.into(), sum: 0 };
        self.tell(member, Kind::Appended(lab::Appended { entries: vec![entry] }));
    }

    pub(super) fn sent(&mut self, from: u64, to: u64, kind: u32, term: u64, index: u64) {
        self.tell(from as usize - 1, Kind::Sent(lab::Sent { wire: Some(wire(from, to, kind, term, index)) }));
    }

    fn received(&mut self, from: u64, to: u64, kind: u32, term: u64, index: u64) {
        self.tell(to as usize - 1, Kind::Received(lab::Received { wire: Some(wire(from, to, kind, term, index)) }));
    }
}

pub(super) fn wire(from: u64, to: u64, kind: u32, term: u64, index: u64) -> lab::Wire {
    lab::Wire { from, to, r#type: kind, term, index, entries: 1, ..Default::default() }
}

fn votes(term: u64, granted: &[u64]) -> Kind {
    Kind::Votes(lab::Votes { term, pre: false, granted: granted.to_vec(), rejected: vec![] })
}

fn progress(peer: u64, matched: u64) -> lab::Progress {
    let state = lab::ProgressState::Replicate.into();
    lab::Progress { peer, match_index: matched, next_index: matched + 1, state, ..Default::default() }
}
