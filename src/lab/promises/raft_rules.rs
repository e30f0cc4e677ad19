//! Raft's promises, from what members tell of themselves.
//!
//! Streams of different members are not in step: one may be seconds behind. So no rule here compares two members "at the same time"; each
//! compares facts that must hold in any order. A stream with a gap says nothing of the log that was known before it.

use super::Court;
use super::Promise;
use crate::proto::lab::EntryKind;
use crate::proto::lab::LogEntry;
use crate::proto::lab::Role;
use crate::proto::lab::State;
use crate::proto::lab::Telemetry;
use crate::proto::lab::Wire;
use crate::proto::lab::event::Kind;
use crate::types::Millis;
use std::collections::BTreeMap;

/// Entries remembered of each member's log.
const LOG_MAX: usize = 1_000;
/// Entries remembered of all logs, and committed ones.
const ENTRIES_MAX: usize = 4_000;
/// Leaders and votes remembered.
const TERMS_MAX: usize = 500;
/// raft's numbers of messages.
const VOTE_REQUEST: u32 = 5;
const VOTE: u32 = 6;

/// What one run of a member's process has told.
#[derive(Clone, Debug, Default)]
struct Life {
    boot: u64,
    /// The newest event's number.
    seq: u64,
    /// Its log, as far as it was told without a gap: index to term.
    log: BTreeMap<u64, u64>,
    leads: bool,
    term: u64,
    commit: u64,
    commit_at: Millis,
    /// Committed entries up to here are remembered.
    noted: u64,
    /// It has replaced entries since it last said that it leads this term: after which one, and when. A deposed leader tells its new log
    /// before its new role, so what it says next decides.
    cut: Option<(u64, u64, Millis)>,
    /// As leader of this term it has appended changes of members at these indexes, the last ones of which are not known to be committed.
    changes: Vec<(u64, Millis)>,
    /// It takes itself for a member of another cluster, and promises nothing to this one.
    is_foreign: bool,
}

/// Who led a term.
#[derive(Clone, Copy, Debug)]
struct Led {
    member: usize,
    boot: u64,
    /// The end of its log when it first said so. A leader's log only grows.
    last: u64,
    at: Millis,
}

/// For whom a member voted.
#[derive(Clone, Copy, Debug)]
struct Voted {
    /// The candidate's id.
    candidate: u64,
    boot: u64,
    at: Millis,
    /// It has left the member, so it was on its disk. What only the member's memory knew may be forgotten by a crash.
    is_sent: bool,
}

/// An entry, as whoever told it first has it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    kind: i32,
    bytes: u32,
    sum: u32,
    /// The term of the entry before it.
    before: Option<u64>,
    member: usize,
    at: Millis,
}

/// A committed entry.
#[derive(Clone, Copy, Debug)]
struct Committed {
    term: u64,
    /// It was committed in this term or an earlier one.
    within: u64,
    member: usize,
    at: Millis,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Raft {
    lives: Vec<Life>,
    /// The cluster of which the first to speak was. 0: none has said.
    cluster: u64,
    /// Raft's ids to places.
    ids: BTreeMap<u64, usize>,
    leaders: BTreeMap<u64, Led>,
    /// By term and member.
    votes: BTreeMap<(u64, usize), Voted>,
    /// By index and term.
    entries: BTreeMap<(u64, u64), Seen>,
    committed: BTreeMap<u64, Committed>,
}

impl Raft {
    pub(super) fn new(members: usize) -> Raft {
        Raft { lives: vec![Life::default(); members], ..Raft::default() }
    }

    /// Whether this member speaks for another cluster.
    pub(super) fn is_foreign(&self, member: usize) -> bool {
        self.lives.get(member).is_some_and(|life| life.is_foreign)
    }

    pub(super) fn telemetry(&mut self, court: &mut Court, member: usize, t: &Telemetry) {
        let Some(life) = self.lives.get_mut(member) else { return };
        if life.boot != t.boot_id {
            *life = Life { boot: t.boot_id, ..Life::default() };
        }
        if t.seq > life.seq + 1 {
            // Something was missed: perhaps that the log was cut.
            life.log.clear();
        }
        life.seq = t.seq;
        if let Some(Kind::Snapshot(s)) = t.event.as_ref().and_then(|e| e.kind.as_ref()) {
            self.cluster = if self.cluster == 0 { s.cluster_id } else { self.cluster };
            life.is_foreign = s.cluster_id != 0 && s.cluster_id != self.cluster;
        }
        if life.is_foreign {
            return;
        }
        if t.member_id != 0 {
            self.ids.insert(t.member_id, member);
        }
        match t.event.as_ref().and_then(|e| e.kind.as_ref()) {
            Some(Kind::Snapshot(s)) => {
                self.lives[member].log.clear();
                self.appended(court, member, &s.tail);
                if let Some(state) = &s.state {
                    self.state(court, member, state);
                }
            }
            Some(Kind::State(s)) => self.state(court, member, s),
            Some(Kind::Appended(a)) => self.appended(court, member, &a.entries),
            Some(Kind::Truncated(cut)) => {
                let life = &mut self.lives[member];
                drop(life.log.split_off(&(cut.last_kept + 1)));
                life.cut = life.leads.then_some((life.term, cut.last_kept, court.now));
            }
            Some(Kind::Sent(sent)) => {
                if let Some(wire) = &sent.wire {
                    self.sent(court, member, wire);
                }
            }
            _ => {}
        }
    }

    fn appended(&mut self, court: &mut Court, member: usize, entries: &[LogEntry]) {
        let life = &mut self.lives[member];
        if life.leads {
            court.looks(Promise::LeaderAppends);
            let changes = entries.iter().filter(|e| e.kind() == EntryKind::ConfChange && e.term == life.term);
            life.changes.extend(changes.map(|e| (e.index, court.now)));
        }
        for e in entries {
            let before = self.lives[member].log.get(&e.index.wrapping_sub(1)).copied();
            self.matches(court, member, e, before);
            self.lives[member].log.insert(e.index, e.term);
        }
        let log = &mut self.lives[member].log;
        while log.len() > LOG_MAX {
            log.pop_first();
        }
    }

    /// Index and term name an entry, and all before it.
    fn matches(&mut self, court: &mut Court, member: usize, e: &LogEntry, before: Option<u64>) {
        let mine = Seen { kind: e.kind, bytes: e.bytes, sum: e.sum, before, member, at: court.now };
        let first = self.entries.entry((e.index, e.term)).or_insert(mine);
        if first.member != member {
            court.looks(Promise::LogsMatch);
        }
        let (index, term, was) = (e.index, e.term, *first);
        if (was.kind, was.bytes, was.sum) != (e.kind, e.bytes, e.sum) {
            let says = |s: &Seen| format!("entry {index} of term {term} has {} bytes, sum {:08x}", s.bytes, s.sum);
            let evidence =
                vec![court.said(was.member, was.at, &says(&was)), court.said(member, court.now, &says(&mine))];
            court.breaks(
                Promise::LogsMatch,
                format!("entry {index} of term {term} is not the same everywhere"),
                evidence,
            );
        } else if let (Some(other), Some(own)) = (was.before, before)
            && other != own
        {
            let says = |t: u64| format!("before entry {index} of term {term} there is one of term {t}");
            let evidence =
                vec![court.said(was.member, was.at, &says(other)), court.said(member, court.now, &says(own))];
            court.breaks(Promise::LogsMatch, format!("logs that share entry {index} differ before it"), evidence);
        } else {
            first.before = first.before.or(before);
        }
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_first();
        }
    }

    fn state(&mut self, court: &mut Court, member: usize, s: &State) {
        self.marks(court, member, s);
        if s.vote != 0 {
            self.voted(court, member, s.term, s.vote, false);
        }
        self.as_leader(court, member, s);
        let life = &mut self.lives[member];
        (life.leads, life.term) = (s.role() == Role::Leader, s.term);
        // A log that was replaced by a snapshot, or released, is not cut with a word.
        if life.log.first_key_value().is_some_and(|(first, _)| *first < s.first_index) {
            life.log = life.log.split_off(&s.first_index);
        }
        if life.log.last_key_value().is_some_and(|(last, _)| *last > s.last_index) {
            drop(life.log.split_off(&(s.last_index + 1)));
        }
        if s.role() == Role::Leader {
            self.leads(court, member, s);
        }
        self.note_committed(court, member);
    }

    /// What a member has done to its log, now that it says whether it did so as a leader.
    fn as_leader(&mut self, court: &mut Court, member: usize, s: &State) {
        let life = &mut self.lives[member];
        let cut = life.cut.take();
        if !(s.role() == Role::Leader && life.leads && life.term == s.term) {
            life.changes.clear();
            return;
        }
        if let Some((term, last_kept, at)) = cut.filter(|(term, ..)| *term == s.term) {
            let says = format!("leads term {term} on");
            let evidence = vec![
                court.said(member, at, &format!("replaces its entries after {last_kept}")),
                court.said(member, court.now, &says),
            ];
            let what = format!("{} replaces entries of its own log while it leads term {term}", court.name(member));
            court.breaks(Promise::LeaderAppends, what, evidence);
        }
        for pair in life.changes.windows(2) {
            court.looks(Promise::OneChange);
            let ((before, at), (after, later)) = (pair[0], pair[1]);
            if s.commit < before {
                let evidence = vec![
                    court.said(member, at, &format!("appends a change of members at {before}")),
                    court.said(member, later, &format!("appends another at {after}")),
                    court.said(member, court.now, &format!("committed up to {}", s.commit)),
                ];
                let what =
                    format!("{} makes a change of members before the one before it is committed", court.name(member));
                court.breaks(Promise::OneChange, what, evidence);
            }
        }
        let decided = life.changes.len().saturating_sub(1);
        life.changes.drain(..decided);
    }

    /// Commit and applied index of one member.
    fn marks(&mut self, court: &mut Court, member: usize, s: &State) {
        let life = &mut self.lives[member];
        court.looks(Promise::CommitForward);
        if s.commit < life.commit {
            let evidence = vec![
                court.said(member, life.commit_at, &format!("committed up to {}", life.commit)),
                court.said(member, court.now, &format!("committed up to {}", s.commit)),
            ];
            let what = format!("{} takes a commit back: from {} to {}", court.name(member), life.commit, s.commit);
            court.breaks(Promise::CommitForward, what, evidence);
        }
        if s.commit != life.commit {
            (life.commit, life.commit_at) = (s.commit, court.now);
        }
        court.looks(Promise::AppliedCommitted);
        if s.applied > s.commit {
            let what = format!("{} applies what is not committed", court.name(member));
            let says = format!("applied up to {}, committed up to {}", s.applied, s.commit);
            let evidence = vec![court.said(member, court.now, &says)];
            court.breaks(Promise::AppliedCommitted, what, evidence);
        }
    }

    fn leads(&mut self, court: &mut Court, member: usize, s: &State) {
        court.looks(Promise::OneLeader);
        let mine = Led { member, boot: self.lives[member].boot, last: s.last_index, at: court.now };
        let is_new = !self.leaders.contains_key(&s.term);
        let first = *self.leaders.entry(s.term).or_insert(mine);
        if first.member != member {
            let says = format!("leads term {}", s.term);
            let evidence = vec![court.said(first.member, first.at, &says), court.said(member, court.now, &says)];
            let what = format!("{} and {} lead term {}", court.name(first.member), court.name(member), s.term);
            court.breaks(Promise::OneLeader, what, evidence);
        }
        if is_new {
            for (index, c) in &self.committed {
                complete(court, &self.lives, (s.term, &mine), (*index, c));
            }
        }
        while self.leaders.len() > TERMS_MAX {
            self.leaders.pop_first();
        }
    }

    fn voted(&mut self, court: &mut Court, member: usize, term: u64, candidate: u64, is_sent: bool) {
        let mine = Voted { candidate, boot: self.lives[member].boot, at: court.now, is_sent };
        court.looks(Promise::OneVote);
        let first = self.votes.entry((term, member)).or_insert(mine);
        let was = *first;
        let name = |id: u64| match self.ids.get(&id) {
            Some(place) => court.name(*place),
            None => format!("{id:x}"),
        };
        if was.candidate == candidate {
            first.is_sent |= is_sent;
        } else if was.boot == mine.boot || was.is_sent {
            let says = |v: &Voted| {
                let how = if v.is_sent { "sends its vote" } else { "votes" };
                format!("{how} in term {term} for {}", name(v.candidate))
            };
            let evidence = vec![court.said(member, was.at, &says(&was)), court.said(member, mine.at, &says(&mine))];
            let what = format!("{} votes twice in term {term}", court.name(member));
            court.breaks(Promise::OneVote, what, evidence);
        } else {
            // It was not on its disk when the process ended, and nobody has had it.
            *first = mine;
        }
        while self.votes.len() > TERMS_MAX {
            self.votes.pop_first();
        }
    }

    fn sent(&mut self, court: &mut Court, member: usize, wire: &Wire) {
        match wire.r#type {
            VOTE if !wire.reject => self.voted(court, member, wire.term, wire.to, true),
            // Who asks has voted for itself.
            VOTE_REQUEST => self.voted(court, member, wire.term, wire.from, true),
            _ => {}
        }
    }

    /// Remembers what this member's commit index says of its log.
    fn note_committed(&mut self, court: &mut Court, member: usize) {
        let life = &self.lives[member];
        let (from, to, within) = (life.noted + 1, life.commit, life.term);
        if from > to {
            return;
        }
        let fresh: Vec<(u64, u64)> = life.log.range(from..=to).map(|(index, term)| (*index, *term)).collect();
        self.lives[member].noted = to;
        for (index, term) in fresh {
            court.looks(Promise::CommittedStays);
            let mine = Committed { term, within: within.max(term), member, at: court.now };
            let first = self.committed.entry(index).or_insert(mine);
            let was = *first;
            if was.term != term {
                let says = |c: &Committed| format!("entry {index} is committed, and of term {}", c.term);
                let evidence =
                    vec![court.said(was.member, was.at, &says(&was)), court.said(member, court.now, &says(&mine))];
                let what = format!("entry {index} is committed twice, with different terms");
                court.breaks(Promise::CommittedStays, what, evidence);
            } else if mine.within < was.within {
                first.within = mine.within;
            } else if was.member != member {
                continue;
            }
            let committed = *first;
            for (led, leader) in self.leaders.range(committed.within + 1..) {
                complete(court, &self.lives, (*led, leader), (index, &committed));
            }
        }
        while self.committed.len() > ENTRIES_MAX {
            self.committed.pop_first();
        }
    }
}

/// What was committed before a term is in the log of its leader.
fn complete(court: &mut Court, lives: &[Life], (term, led): (u64, &Led), (index, c): (u64, &Committed)) {
    if c.within >= term {
        return;
    }
    court.looks(Promise::LeaderComplete);
    let life = &lives[led.member];
    // Its log as leader is known while it leads; a leader of old has another log by now.
    let still = life.boot == led.boot && life.leads && life.term == term;
    let other = life.log.get(&index).copied().filter(|t| still && *t != c.term);
    let lacks = match other {
        _ if led.last < index => format!("leads term {term}, and its log ends at {}", led.last),
        Some(t) => format!("leads term {term}, and its entry {index} is of term {t}"),
        None => return,
    };
    let first = format!("entry {index} of term {} is committed, in term {} or before", c.term, c.within);
    let evidence = vec![court.said(c.member, c.at, &first), court.said(led.member, led.at, &lacks)];
    let what = format!("{} leads term {term} without the committed entry {index}", court.name(led.member));
    court.breaks(Promise::LeaderComplete, what, evidence);
}
