//! An honest cluster breaks no promise; each planted bug breaks its own, with the evidence.
//!
//! Members are voices here: they report what a member with that bug would. The picture hears them as it hears real ones.

use super::*;
use crate::lab::Picture;
use crate::lab::recording::Recorder;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::store::Compared;
use crate::lab::store::Hashed;
use crate::lab::survey::StateHash;
use crate::lab::survey::Survey;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::EntryKind;
use crate::proto::lab::Role;
use crate::proto::lab::event::Kind;

/// raft's numbers of messages.
const VOTE_REQUEST: u32 = 5;
const VOTE: u32 = 6;

/// Three members that report what a test has them report.
struct Voices {
    picture: Picture,
    now: u64,
    states: [lab::State; 3],
    boots: [u64; 3],
    seqs: [u64; 3],
    told: Vec<(Millis, Report)>,
    calls: u64,
}

impl Voices {
    fn new() -> Voices {
        let mut v = Voices {
            picture: Picture::new(&Record::sample(3)),
            now: 0,
            states: Default::default(),
            boots: [1; 3],
            seqs: [0; 3],
            told: Vec::new(),
            calls: 0,
        };
        for m in 0..3 {
            v.starts(m, vec![], lab::State::default());
        }
        v
    }

    fn report(&mut self, report: Report) {
        self.now += 10;
        self.told.push((Millis(self.now), report.clone()));
        self.picture.tick(Millis(self.now));
        self.picture.learn(report);
    }

    fn tell(&mut self, m: usize, kind: Kind) {
        self.seqs[m] += 1;
        let event = lab::Telemetry {
            member_id: m as u64 + 1,
            boot_id: self.boots[m],
            seq: self.seqs[m],
            event: Some(lab::Event { kind: Some(kind) }),
            ..Default::default()
        };
        self.report(Report::Telemetry { member: m, event: Box::new(event) });
    }

    /// A process starts, and says what it has.
    fn starts(&mut self, m: usize, tail: Vec<lab::LogEntry>, state: lab::State) {
        self.boots[m] += 1;
        self.seqs[m] = 0;
        self.states[m] = state;
        self.tell(m, Kind::Snapshot(Box::new(lab::Snapshot { state: Some(state), tail, ..Default::default() })));
    }

    fn state(&mut self, m: usize, change: impl FnOnce(&mut lab::State)) {
        change(&mut self.states[m]);
        self.tell(m, Kind::State(self.states[m]));
    }

    fn votes(&mut self, m: usize, term: u64, candidate: u64) {
        self.state(m, |s| (s.role, s.term, s.vote, s.leader) = (Role::Follower.into(), term, candidate, 0));
        self.sends(m, VOTE, candidate, term);
    }

    fn sends(&mut self, m: usize, kind: u32, to: u64, term: u64) {
        let wire = lab::Wire { from: m as u64 + 1, to, r#type: kind, term, ..Default::default() };
        self.tell(m, Kind::Sent(lab::Sent { wire: Some(wire) }));
    }

    /// A candidate with the votes of these.
    fn elected(&mut self, m: usize, term: u64, voters: &[usize]) {
        let id = m as u64 + 1;
        self.state(m, |s| (s.role, s.term, s.vote, s.leader) = (Role::Candidate.into(), term, id, 0));
        for voter in voters {
            self.sends(m, VOTE_REQUEST, *voter as u64 + 1, term);
        }
        for voter in voters {
            self.votes(*voter, term, id);
        }
        self.state(m, |s| (s.role, s.leader) = (Role::Leader.into(), id));
    }

    fn append(&mut self, m: usize, entries: &[lab::LogEntry]) {
        self.tell(m, Kind::Appended(lab::Appended { entries: entries.to_vec() }));
        let last = entries.last().expect("some").index;
        self.state(m, |s| (s.last_index, s.persisted) = (last, last));
    }

    fn commit(&mut self, m: usize, index: u64) {
        self.state(m, |s| (s.commit, s.applied) = (index, index));
    }

    fn surveyed(&mut self, member: usize, revision: i64, hash: u32) {
        let hash = Some(StateHash { revision, compacted: 1, hash });
        self.report(Report::Surveyed { member, survey: Box::new(Survey { hash, ..Survey::default() }) });
    }

    fn asks(&mut self, asked: Asked) -> u64 {
        self.calls += 1;
        self.report(Report::Called(Box::new(Call::Asks { id: self.calls, asked })));
        self.calls
    }

    fn answered(&mut self, id: u64, answer: Result<Answer, String>) {
        self.report(Report::Called(Box::new(Call::IsTold { id, answer })));
    }

    fn put(&mut self, key: &str, sum: u32, revision: i64) {
        let id = self.asks(put(key, sum));
        self.answered(id, Ok(Answer { revision, found: None }));
    }

    fn get(&mut self, key: &str, revision: i64, found: Option<(i64, u32)>) {
        let id = self.asks(Asked::Get { key: key.into() });
        let found = found.map(|(mod_revision, sum)| Found { mod_revision, sum });
        self.answered(id, Ok(Answer { revision, found }));
    }

    fn watch(&mut self, member: usize, watched: Watched) {
        self.report(Report::Watched { member, watched: Box::new(watched) });
    }

    fn broken(&self) -> Vec<Promise> {
        self.picture.promises.broken().collect()
    }

    /// One promise is broken and no other; its evidence has these words, and the screens have it.
    fn only(&self, promise: Promise, words: &[&str]) {
        assert_eq!(self.broken(), [promise], "{:#?}", self.picture.promises.breaches());
        let breach = &self.picture.promises.breaches()[0];
        let evidence = breach.evidence.join("\n");
        assert!(words.iter().all(|w| evidence.contains(w)), "{words:?} in {evidence}");
        // A test's last word may be two reports.
        assert!(!breach.evidence.is_empty() && breach.at.0 + 10 >= self.now, "{breach:?}");
        let said = format!("BROKEN: {}: {}", promise.name(), breach.what);
        assert!(self.picture.feed.iter().any(|line| line.text == said && line.at == breach.at), "{said}");
        let json = self.picture.promises.to_json();
        assert_eq!(json["promises"][promise as usize]["broken"], 1, "{json}");
        assert_eq!(self.picture.to_json()["broken_promises"], serde_json::json!([promise.name()]));
    }
}

fn put(key: &str, sum: u32) -> Asked {
    Asked::Put { key: key.into(), sum }
}

fn entry(index: u64, term: u64, sum: u32) -> lab::LogEntry {
    let kind = if sum == 0 { EntryKind::Empty } else { EntryKind::Normal };
    lab::LogEntry { index, term, kind: kind.into(), bytes: 40, summary: "put a".into(), sum }
}

fn change(index: u64, term: u64) -> lab::LogEntry {
    lab::LogEntry { kind: EntryKind::ConfChange.into(), ..entry(index, term, 5) }
}

fn told(revision: i64, key: &str) -> Told {
    Told { revision, key: key.into(), deleted: false, object: None }
}

fn tells(events: &[Told]) -> Watched {
    Watched::Tells { events: events.to_vec() }
}

/// n1 leads term 1 and two entries are committed everywhere; the lab's own client has written and read, and watches.
fn calm() -> Voices {
    let mut v = Voices::new();
    v.elected(0, 1, &[1, 2]);
    v.watch(0, Watched::Opens { from: 2 });
    for m in 0..3 {
        v.append(m, &[entry(1, 1, 0), entry(2, 1, 7)]);
    }
    for m in 0..3 {
        v.state(m, |s| s.leader = 1);
        v.commit(m, 2);
    }
    v.put("a", 7, 2);
    v.watch(0, tells(&[told(2, "a")]));
    v.get("a", 2, Some((2, 7)));
    v.surveyed(0, 2, 99);
    v.surveyed(1, 2, 99);
    assert_eq!(v.broken(), []);
    v
}

/// After that n1 has entry 3 alone and is killed, n2 leads term 2 and replaces it, n1 comes back and follows.
fn stormy() -> Voices {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8)]);
    let id = v.asks(put("a", 8));
    v.answered(id, Err("no answer within 5 s".into()));
    v.elected(1, 2, &[2]);
    for m in [1, 2] {
        v.append(m, &[entry(3, 2, 0), entry(4, 2, 9)]);
        v.state(m, |s| s.leader = 2);
        v.commit(m, 4);
    }
    // n1's stream is late: it still says that it leads term 1. Then it starts again, with a vote that nobody has had.
    v.state(0, |s| s.applied = 2);
    let mut back = v.states[0];
    (back.role, back.term, back.vote, back.leader) = (Role::Follower.into(), 2, 1, 0);
    v.starts(0, vec![entry(1, 1, 0), entry(2, 1, 7), entry(3, 1, 8)], back);
    back.vote = 2;
    v.starts(0, vec![entry(1, 1, 0), entry(2, 1, 7), entry(3, 1, 8)], back);
    v.tell(0, Kind::Truncated(lab::Truncated { last_kept: 2 }));
    v.append(0, &[entry(3, 2, 0), entry(4, 2, 9)]);
    v.commit(0, 4);
    v.put("a", 9, 3);
    // The watch goes on at another member.
    v.watch(1, Watched::Opens { from: 3 });
    v.watch(1, tells(&[told(3, "a")]));
    v.get("a", 3, Some((3, 9)));
    // Two members are added, one after the other.
    for index in [5, 6] {
        v.append(1, &[change(index, 2)]);
        v.commit(1, index);
    }
    let hashes = (0..3).map(|member| Hashed { member, hash: Ok((5, 1)) }).collect();
    v.report(Report::Shown(Box::new(Shown::Compared(Compared { revision: 3, hashes, differ: vec![] }))));
    assert_eq!(v.broken(), [], "{:#?}", v.picture.promises.breaches());
    v
}

#[test]
fn the_table_is_in_the_order_of_the_promises() {
    for (i, (promise, ..)) in PROMISES.iter().enumerate() {
        assert_eq!(*promise as usize, i);
    }
}

#[test]
fn an_honest_cluster_breaks_nothing_and_everything_is_looked_at() {
    let v = stormy();
    for (promise, name, _) in PROMISES {
        assert!(v.picture.promises.count(promise).0 > 0, "{name} was not looked at");
    }
    assert!(v.picture.promises.verdict().starts_with("12 of 12 checked, all hold"));
}

#[test]
fn two_leaders_in_a_term_are_seen() {
    let mut v = calm();
    v.state(2, |s| (s.role, s.leader) = (Role::Leader.into(), 3));
    v.only(Promise::OneLeader, &["n1 at ", "n3 at ", "leads term 1"]);
}

#[test]
fn a_second_vote_in_a_term_is_seen() {
    let mut v = calm();
    v.state(1, |s| s.vote = 3);
    v.only(Promise::OneVote, &["n2 at ", "in term 1 for n1", "in term 1 for n3"]);
}

#[test]
fn a_vote_that_was_sent_is_not_forgotten_by_a_restart() {
    let mut v = calm();
    let state = v.states[1];
    // It has lost its disk: its vote, which n1 has had.
    v.starts(1, vec![], lab::State { vote: 0, ..state });
    assert_eq!(v.broken(), []);
    v.sends(1, VOTE, 3, 1);
    v.only(Promise::OneVote, &["sends its vote in term 1 for n1", "sends its vote in term 1 for n3"]);
}

#[test]
fn logs_that_do_not_match_are_seen() {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8)]);
    v.append(1, &[entry(3, 1, 66)]);
    v.only(Promise::LogsMatch, &["n1 at ", "sum 00000008", "n2 at ", "sum 00000042"]);
}

#[test]
fn logs_that_differ_before_a_shared_entry_are_seen() {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8), entry(4, 2, 9)]);
    v.append(1, &[entry(3, 2, 8), entry(4, 2, 9)]);
    v.only(Promise::LogsMatch, &["before entry 4 of term 2 there is one of term 1", "one of term 2"]);
}

#[test]
fn what_was_missed_is_not_held_against_anybody() {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8)]);
    // That its entry 3 was cut away, and what came instead, was missed.
    v.seqs[0] += 5;
    v.append(0, &[entry(4, 2, 9)]);
    v.append(1, &[entry(3, 2, 1), entry(4, 2, 9)]);
    v.commit(0, 4);
    v.commit(1, 4);
    assert_eq!(v.broken(), []);
    // So is a log that a snapshot has replaced.
    v.append(2, &[entry(3, 1, 8)]);
    v.state(2, |s| (s.first_index, s.last_index, s.commit, s.applied) = (5, 4, 4, 4));
    assert_eq!(v.broken(), []);
}

#[test]
fn a_committed_entry_that_is_replaced_is_seen() {
    let mut v = calm();
    v.tell(2, Kind::Truncated(lab::Truncated { last_kept: 1 }));
    v.append(0, &[entry(3, 1, 8)]);
    v.commit(0, 3);
    v.append(2, &[entry(2, 1, 7), entry(3, 2, 0)]);
    v.commit(2, 3);
    v.only(Promise::CommittedStays, &["n1 at ", "entry 3 is committed, and of term 1", "n3 at ", "of term 2"]);
}

#[test]
fn a_leader_without_a_committed_entry_is_seen() {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8)]);
    v.append(1, &[entry(3, 1, 8)]);
    v.commit(0, 3);
    // n3, whose log ends at 2, must not get n2's vote.
    v.elected(2, 2, &[1]);
    v.only(Promise::LeaderComplete, &["n1 at ", "entry 3 of term 1 is committed", "n3 at ", "its log ends at 2"]);
}

#[test]
fn the_order_in_which_a_bad_leader_and_the_commit_are_heard_does_not_matter() {
    let mut v = calm();
    v.append(1, &[entry(3, 1, 8)]);
    v.elected(2, 2, &[1]);
    assert_eq!(v.broken(), []);
    // n1's stream was late.
    v.append(0, &[entry(3, 1, 8)]);
    v.commit(0, 3);
    v.only(Promise::LeaderComplete, &["entry 3 of term 1 is committed", "its log ends at 2"]);
    // What a leader commits in its own term, and a slow report of how its log was before, is no breach.
    let mut v = calm();
    v.append(1, &[entry(3, 1, 8)]);
    v.commit(1, 3);
    v.append(0, &[entry(3, 1, 8)]);
    assert_eq!(v.broken(), []);
}

#[test]
fn a_leader_that_replaces_its_own_entries_is_seen() {
    let mut v = calm();
    v.append(0, &[entry(3, 1, 8)]);
    v.tell(0, Kind::Truncated(lab::Truncated { last_kept: 2 }));
    assert_eq!(v.broken(), [], "it may have been deposed");
    let mut deposed = v.picture.clone();
    v.append(0, &[entry(3, 1, 8)]);
    v.commit(0, 3);
    v.only(Promise::LeaderAppends, &["n1 at 00:00.", "replaces its entries after 2", "leads term 1 on"]);
    // The same log from one that leads no more.
    let state = lab::State { role: Role::Follower.into(), term: 2, ..v.states[0] };
    let event = lab::Event { kind: Some(Kind::State(state)) };
    let event = lab::Telemetry { member_id: 1, boot_id: v.boots[0], event: Some(event), ..Default::default() };
    deposed.learn(Report::Telemetry { member: 0, event: Box::new(event) });
    assert_eq!(deposed.promises.broken().count(), 0);
}

#[test]
fn two_changes_of_members_at_once_are_seen() {
    let mut v = calm();
    v.append(0, &[change(3, 1)]);
    v.append(0, &[change(4, 1)]);
    v.only(Promise::OneChange, &["change of members at 3", "another at 4", "committed up to 2"]);
}

#[test]
fn a_member_of_another_cluster_promises_nothing_to_this_one() {
    let mut v = calm();
    let opening = |cluster_id| Kind::Snapshot(Box::new(lab::Snapshot { cluster_id, ..Default::default() }));
    v.tell(0, opening(77));
    v.boots[1] += 1;
    v.seqs[1] = 0;
    v.tell(1, opening(88));
    v.append(1, &[entry(1, 1, 55), entry(2, 1, 66)]);
    v.surveyed(1, 2, 5);
    v.elected(1, 1, &[]);
    assert_eq!(v.broken(), []);
    let said = "n2 takes itself for a member of cluster 58; the others are 4d";
    assert!(v.picture.feed.iter().any(|line| line.text == said), "{:?}", v.picture.feed);
}

#[test]
fn a_commit_that_goes_back_is_seen() {
    let mut v = calm();
    v.state(1, |s| (s.commit, s.applied) = (1, 1));
    v.only(Promise::CommitForward, &["n2 at ", "committed up to 2", "committed up to 1"]);
    // A new life may begin further back: what is committed is not synced.
    let mut v = calm();
    let state = lab::State { commit: 1, applied: 1, ..v.states[1] };
    v.starts(1, vec![entry(1, 1, 0), entry(2, 1, 7)], state);
    assert_eq!(v.broken(), []);
}

#[test]
fn what_is_applied_before_it_is_committed_is_seen() {
    let mut v = calm();
    v.append(1, &[entry(3, 1, 8)]);
    v.state(1, |s| s.applied = 3);
    v.only(Promise::AppliedCommitted, &["n2 at ", "applied up to 3, committed up to 2"]);
}

#[test]
fn members_that_differ_at_a_revision_are_seen() {
    let mut v = calm();
    v.surveyed(2, 2, 98);
    v.only(Promise::EqualState, &["n1 at ", "hash 99", "n3 at ", "hash 98"]);
    // At other revisions, or compacted elsewhere, hashes say nothing of each other.
    let mut v = calm();
    v.surveyed(2, 3, 98);
    assert_eq!(v.broken(), []);
}

#[test]
fn a_lost_write_and_an_old_read_are_seen() {
    // An answered put whose revision was there before it began.
    let mut v = calm();
    v.put("b", 1, 2);
    assert_eq!(v.broken(), [Promise::OneOrder]);
    let evidence = v.picture.promises.breaches()[0].evidence.join("\n");
    assert!(evidence.contains("was answered at") && evidence.contains("put b began at"), "{evidence}");
    // A read at a revision from before an answer.
    let mut v = calm();
    v.put("a", 8, 3);
    v.get("a", 2, Some((2, 7)));
    v.only(Promise::OneOrder, &["put a was answered", "with revision 3", "get a began at", "with revision 2"]);
    // A read at the newest revision that does not find what was written.
    let mut v = calm();
    v.put("a", 8, 3);
    v.get("a", 3, Some((2, 7)));
    v.only(Promise::OneOrder, &["put a was answered", "found the version of revision 2"]);
    // A read of what nobody wrote.
    let mut v = calm();
    v.get("a", 2, Some((2, 6)));
    v.only(Promise::OneOrder, &["put a made revision 2, value's sum 00000007", "value's sum 00000006"]);
    // A key that the watch was told of is not there.
    let mut v = calm();
    v.get("a", 2, None);
    v.only(Promise::OneOrder, &["a was written last at revision 2", "found nothing"]);
}

#[test]
fn requests_at_the_same_time_may_come_in_any_order() {
    let mut v = calm();
    let (early, late) = (v.asks(put("a", 8)), v.asks(put("a", 9)));
    let read = v.asks(Asked::Get { key: "a".into() });
    v.answered(late, Ok(Answer { revision: 3, found: None }));
    v.answered(early, Ok(Answer { revision: 4, found: None }));
    v.answered(read, Ok(Answer { revision: 2, found: Some(Found { mod_revision: 2, sum: 7 }) }));
    // What got no answer may have been done, or not.
    let lost = v.asks(put("a", 10));
    v.answered(lost, Err("no answer".into()));
    v.get("a", 5, Some((5, 10)));
    v.get("a", 5, Some((5, 10)));
    assert_eq!(v.broken(), []);
}

#[test]
fn a_watch_that_is_told_too_little_or_twice_is_seen() {
    let mut v = calm();
    v.watch(0, tells(&[told(4, "b")]));
    v.only(Promise::WatchWhole, &["everything below revision 3", "an event of revision 4 came"]);
    let mut v = calm();
    v.watch(0, tells(&[told(2, "a")]));
    v.only(Promise::WatchWhole, &["everything below revision 3", "an event of revision 2 came"]);
    let mut v = calm();
    v.watch(0, tells(&[told(3, "a"), told(3, "b"), told(3, "a")]));
    v.only(Promise::WatchWhole, &["an event of revision 3 came"]);
    let mut v = calm();
    v.watch(0, tells(&[told(4, "a"), told(3, "a")]));
    assert_eq!(v.broken(), [Promise::WatchWhole], "a gap, then back");
    // A transaction has several keys in one revision; a compaction may come before an event was told.
    let mut v = calm();
    v.watch(0, tells(&[told(3, "a"), told(3, "b"), told(4, "a")]));
    v.watch(0, Watched::Compacted { from: 10 });
    v.watch(1, Watched::Opens { from: 10 });
    v.watch(1, tells(&[told(10, "a")]));
    assert_eq!(v.broken(), []);
}

#[test]
fn a_recording_shows_what_was_broken_where_it_was() {
    let mut v = stormy();
    let honest = v.told.len();
    v.state(2, |s| (s.role, s.leader) = (Role::Leader.into(), 3));
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.labrec");
    let mut recorder = Recorder::create(&path, &Record::sample(3)).expect("written");
    v.told.iter().for_each(|(at, report)| recorder.note(*at, report));
    recorder.flush();
    let mut replay = Replay::new(Recording::read(&path).expect("read"));
    replay.seek(honest);
    assert!(!replay.picture.promises.is_any_broken());
    replay.seek(honest + 1);
    assert_eq!(replay.picture.promises.breaches(), v.picture.promises.breaches());
    assert_eq!(replay.picture.promises.verdict(), "BROKEN: one leader per term");
    replay.seek(honest);
    assert!(!replay.picture.promises.is_any_broken(), "gone back before it");
}

#[test]
fn the_first_breaches_are_kept_and_all_are_counted() {
    let mut v = calm();
    for _ in 0..10 {
        v.state(1, |s| (s.commit, s.applied) = (1, 1));
        v.state(1, |s| (s.commit, s.applied) = (2, 2));
    }
    assert_eq!(v.picture.promises.count(Promise::CommitForward).1, 10);
    assert_eq!(v.picture.promises.breaches().len(), KEPT);
    let lines = v.picture.promises.lines();
    assert_eq!(lines[0], "commit never goes back  BROKEN (10 times)");
    assert!(lines[3].contains("n2 at 00:00.") && lines[3].contains("committed up to 2"), "{lines:?}");
}
