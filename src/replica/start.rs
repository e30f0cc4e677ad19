//! How a member begins: what a new log says first, and whether a store goes with a log.

use crate::apply::version::Version;
use crate::consensus::Initial;
use crate::error::Error;
use crate::membership::Member;
use crate::membership::Members;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::HardState;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::conf_change::Type;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Term;
use prost::Message as _;
use std::collections::BTreeSet;

/// An entry that sets the cluster's version is a number and a few words.
const VERSION_BYTES_MAX: usize = 128;

/// What a log held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The last entry that it does not hold any more.
    pub start: (Index, Term),
    /// The entry up to which the state is in the store only, as after a restore; 0 if there is none.
    pub base: Index,
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
}

impl Held {
    /// The index of the last entry.
    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.start.0.0 + self.entries.len() as u64)
    }

    /// Gives an empty log etcd's bootstrap records: one conf change per founder, in ascending order of ids, at term 1, all committed. True if it
    /// did: then entries and hard state must be written and synced before the member goes on. A crash before that leaves an
    /// empty log, which gets them at the next start.
    pub fn begin(&mut self, founders: &Members) -> bool {
        let untouched = self.entries.is_empty() && self.start.0 == Index(0) && self.hard_state == HardState::default();
        if !untouched && !is_planted(Bug::BootstrapTwice) {
            return false;
        }
        self.entries = founders.founding_entries();
        self.hard_state = HardState { term: 1, vote: 0, commit: self.entries.len() as u64 };
        true
    }

    /// The entry at which the state must be known for the log to lead on from it.
    #[must_use]
    pub fn goes_on_from(&self) -> Index {
        self.start.0.max(self.base)
    }

    /// Whether a store at `applied` can go on with this log; if not, why. It may be ahead of the commit index on disk, never of the log.
    ///
    /// # Errors
    /// A sentence's second half.
    pub fn meets(&self, applied: Index) -> Result<(), String> {
        let (from, last) = (self.goes_on_from(), self.last());
        let meets = from <= applied && applied <= last;
        meets.then_some(()).ok_or_else(|| format!("it holds entry {applied}, the log goes on from {from} to {last}"))
    }

    /// Whether this is an entry of the log, or the last one before it: a state up to there goes with the log, and is one that was agreed on.
    #[must_use]
    pub fn knows(&self, index: Index, term: Term) -> bool {
        let at = index.0.checked_sub(self.start.0.0 + 1).and_then(|at| usize::try_from(at).ok());
        let here = at.and_then(|at| self.entries.get(at)).is_some_and(|entry| entry.term == term.0);
        (index, term) == self.start || here
    }

    /// What the log must say so that a state up to `index`, which was agreed on, goes with it: nothing, if it knows that entry and leads on from it. Else
    /// the state is ahead of the log, and the log begins anew behind it: this hard state commits it.
    ///
    /// # Errors
    /// Why the state cannot go with this log.
    pub fn adopt(&self, index: Index, term: Term) -> Result<Option<HardState>, String> {
        if index < self.goes_on_from() {
            return Err(format!("it goes up to entry {index}, and the log goes on from {}", self.goes_on_from()));
        }
        if self.knows(index, term) {
            return Ok(None);
        }
        if index <= Index(self.hard_state.commit) && index <= self.last() {
            return Err(format!("its entry {index} has term {term}, which the log contradicts"));
        }
        let HardState { term: promised, vote, commit } = self.hard_state;
        let hard_state = match promised < term.0 {
            true => HardState { term: term.0, vote: 0, commit: index.0.max(commit) },
            false => HardState { commit: index.0.max(commit), ..HardState { term: promised, vote, commit } },
        };
        Ok(Some(hard_state))
    }

    /// Begins the log anew behind a store that goes up to `index`, beyond the log's end. The hard state comes back; it must be written, with a mark of
    /// that entry before it, and synced before the member goes on.
    ///
    /// # Errors
    /// As [`Held::adopt`].
    pub fn begin_behind(&mut self, index: Index, term: Term) -> Result<HardState, Error> {
        let hard_state = self.adopt(index, term).map_err(Error::Damaged)?.unwrap_or(self.hard_state);
        self.entries.clear();
        self.start = (index, term);
        self.hard_state = hard_state;
        Ok(hard_state)
    }

    /// Makes `id` the only member, as `--force-new-cluster` asks: what is not committed is forgotten, and the log goes on with the removal of
    /// everybody else, committed at once. `conf_state` and `applied` are the store's. The new entries come back; they must be written and
    /// synced before the member goes on. Done twice it does nothing the second time.
    ///
    /// A learner is made a voter first: raft cannot be without one. Source: etcd `etcdserver/bootstrap.go`, `storage/util.go`.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a conf change that cannot be read.
    pub fn force_alone(&mut self, id: MemberId, conf_state: &ConfState, applied: Index) -> Result<Vec<Entry>, Error> {
        self.hard_state.commit = self.hard_state.commit.max(applied.0).max(self.start.0.0);
        let committed = self.hard_state.commit.saturating_sub(self.start.0.0);
        self.entries.truncate(usize::try_from(committed).unwrap_or(usize::MAX));
        let mut voters: BTreeSet<u64> = conf_state.voters.iter().copied().collect();
        let mut learners: BTreeSet<u64> = conf_state.learners.iter().copied().collect();
        for entry in self.entries.iter().filter(|entry| entry.index > applied.0) {
            if entry.entry_type() == EntryType::EntryNormal {
                continue;
            }
            let unreadable = |e| Error::Damaged(format!("entry {} cannot be read: {e}", entry.index));
            let change = ConfChange::decode(entry.data.clone()).map_err(unreadable)?;
            match change.r#type() {
                Type::UpdateNode => {}
                Type::AddLearnerNode => drop(learners.insert(change.node_id)),
                kind => {
                    learners.remove(&change.node_id);
                    voters.remove(&change.node_id);
                    if kind == Type::AddNode {
                        voters.insert(change.node_id);
                    }
                }
            }
        }
        let mut changes = Vec::new();
        if learners.remove(&id.0) {
            changes.push(Member::change_to_promote(id));
        } else if !voters.contains(&id.0) {
            // etcd's default: where this member really is, `member update` says.
            let peer_urls = vec!["http://localhost:2380".to_owned()];
            changes.push(Member { id, peer_urls, ..Member::default() }.change_to_add());
        }
        let others: BTreeSet<u64> = voters.union(&learners).copied().filter(|other| *other != id.0).collect();
        changes.extend(others.into_iter().map(|other| Member::change_to_remove(MemberId(other))));
        let term = self.hard_state.term;
        let entry = |(index, change): (u64, ConfChange)| Entry {
            index,
            term,
            entry_type: EntryType::EntryConfChange as i32,
            data: change.encode_to_vec().into(),
            ..Entry::default()
        };
        let forced: Vec<Entry> = (self.hard_state.commit + 1..).zip(changes).map(entry).collect();
        self.hard_state.commit += forced.len() as u64;
        self.entries.extend(forced.iter().cloned());
        Ok(forced)
    }

    /// Moves the base behind the last downgrade that the store has: an earlier release, which may join now, ends when it reads what was agreed on before.
    pub fn leave_out_later_releases(&mut self, applied: Index) {
        let mut before = None;
        for entry in self.entries.iter().take_while(|entry| entry.index <= applied.0) {
            let Some(version) = version_set_by(entry) else { continue };
            if before.replace(version).is_some_and(|before| version < before) {
                self.base = self.base.max(Index(entry.index));
            }
        }
    }

    /// What raft starts from; `conf_state` is the store's. Entries up to the base are left out: they do not make the state, so nobody may be given
    /// them in its place, as a new member would be; it gets a snapshot.
    #[must_use]
    pub fn into_initial(mut self, conf_state: ConfState) -> Initial {
        let below = usize::try_from(self.base.0.saturating_sub(self.start.0.0)).unwrap_or(usize::MAX);
        let offset = match self.entries.drain(..below.min(self.entries.len())).next_back() {
            Some(last) => (Index(last.index), Term(last.term)),
            None => self.start,
        };
        Initial { offset, entries: self.entries, hard_state: self.hard_state, conf_state }
    }
}

/// The cluster's version that an entry sets, if it does. Most do not, and are too long for it.
fn version_set_by(entry: &Entry) -> Option<Version> {
    if entry.entry_type() != EntryType::EntryNormal || entry.data.len() > VERSION_BYTES_MAX {
        return None;
    }
    let set = pb::InternalRaftRequest::decode(entry.data.clone()).ok()?.cluster_version_set?;
    Version::parse(&set.ver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::membershippb;

    fn entry(index: u64, change: Option<ConfChange>) -> Entry {
        let entry_type = if change.is_some() { EntryType::EntryConfChange } else { EntryType::EntryNormal } as i32;
        let data = change.map(|change| change.encode_to_vec()).unwrap_or_default().into();
        Entry { index, term: 3, entry_type, data, ..Entry::default() }
    }

    fn learner(id: u64) -> ConfChange {
        Member { id: MemberId(id), is_learner: true, ..Member::default() }.change_to_add()
    }

    /// Entries 5 to 8 of three voters; the store is at 5, 7 is committed: a learner was added, one that was not committed is forgotten.
    fn held() -> Held {
        let entries = vec![entry(5, None), entry(6, Some(learner(9))), entry(7, None), entry(8, Some(learner(10)))];
        let hard_state = HardState { term: 3, vote: 2, commit: 7 };
        Held { start: (Index(4), Term(2)), base: Index(0), entries, hard_state }
    }

    fn told(entries: &[Entry]) -> Vec<(u64, Type, u64)> {
        let read = |entry: &Entry| {
            let change = ConfChange::decode(entry.data.clone()).expect("a change");
            (entry.index, change.r#type(), change.node_id)
        };
        entries.iter().map(read).collect()
    }

    #[test]
    fn a_forced_member_is_alone_and_keeps_what_was_committed() {
        let mut held = held();
        let voters = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let forced = held.force_alone(MemberId(2), &voters, Index(5)).expect("readable");
        let expected = [(8, Type::RemoveNode, 1), (9, Type::RemoveNode, 3), (10, Type::RemoveNode, 9)];
        assert_eq!(told(&forced), expected);
        assert_eq!((held.last(), held.hard_state.commit, held.hard_state.term), (Index(10), 10, 3));
        assert_eq!(held.entries[..3], self::held().entries[..3]);
        let again = held.force_alone(MemberId(2), &voters, Index(5)).expect("readable");
        assert_eq!((again, held.last()), (Vec::new(), Index(10)));
    }

    #[test]
    fn a_store_ahead_of_the_commit_index_loses_nothing() {
        let mut held = held();
        held.hard_state.commit = 5;
        let voters = ConfState { voters: vec![1], learners: vec![9], ..ConfState::default() };
        let forced = held.force_alone(MemberId(1), &voters, Index(7)).expect("readable");
        assert_eq!(told(&forced), [(8, Type::RemoveNode, 9)]);
    }

    #[test]
    fn a_learner_and_a_stranger_become_voters_before_the_others_go() {
        let voters = ConfState { voters: vec![1], ..ConfState::default() };
        let forced = held().force_alone(MemberId(9), &voters, Index(5)).expect("readable");
        assert_eq!(told(&forced), [(8, Type::AddNode, 9), (9, Type::RemoveNode, 1)]);
        let forced = held().force_alone(MemberId(4), &voters, Index(5)).expect("readable");
        assert_eq!(told(&forced), [(8, Type::AddNode, 4), (9, Type::RemoveNode, 1), (10, Type::RemoveNode, 9)]);
    }

    #[test]
    fn raft_cannot_hand_on_entries_that_a_restored_state_does_not_come_from() {
        let begins = |base| {
            let initial = Held { base: Index(base), ..held() }.into_initial(ConfState::default());
            (initial.offset, initial.entries.first().map(|entry| entry.index), initial.entries.len())
        };
        assert_eq!(begins(0), ((Index(4), Term(2)), Some(5), 4));
        assert_eq!(begins(4), begins(0));
        assert_eq!(begins(6), ((Index(6), Term(3)), Some(7), 2));
        assert_eq!(begins(8), ((Index(8), Term(3)), None, 0));
    }

    #[test]
    fn what_was_agreed_on_before_a_downgrade_is_not_handed_on() {
        let set = |(index, minor): (u64, u32)| {
            let ver = format!("3.{minor}.0");
            let cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver });
            let request = pb::InternalRaftRequest { cluster_version_set, ..Default::default() };
            Entry { data: request.encode_to_vec().into(), ..entry(index, None) }
        };
        let base = |versions: [u32; 4], applied| {
            let entries = (5..).zip(versions).map(set).collect();
            let mut held = Held { entries, ..held() };
            held.leave_out_later_releases(Index(applied));
            held.base.0
        };
        assert_eq!(base([5, 6, 5, 5], 8), 7);
        assert_eq!(base([5, 6, 5, 5], 6), 0, "the store does not have it");
        assert_eq!(base([6, 5, 6, 5], 8), 8);
        assert_eq!(base([5, 5, 6, 6], 8), 0);
    }

    fn cut_log() -> Held {
        let entries = [(6, 2), (7, 2), (8, 3)].map(|(index, term)| Entry { index, term, ..Entry::default() });
        let hard_state = HardState { term: 3, vote: 9, commit: 7 };
        Held { start: (Index(5), Term(2)), base: Index(0), entries: entries.to_vec(), hard_state }
    }

    #[test]
    fn a_state_from_elsewhere_goes_with_the_log_or_begins_it_anew() {
        let adopt = |index, term| cut_log().adopt(Index(index), Term(term));
        assert!(adopt(4, 2).is_err(), "what comes after it is gone");
        assert_eq!(adopt(5, 2), Ok(None));
        assert_eq!(adopt(8, 3), Ok(None), "known, if not yet known to be committed");
        assert!(adopt(7, 3).is_err(), "a committed entry has one term");
        assert_eq!(
            adopt(8, 4),
            Ok(Some(HardState { term: 4, vote: 0, commit: 8 })),
            "what was not committed gives way"
        );
        let ahead = HardState { term: 3, vote: 9, commit: 20 };
        assert_eq!(adopt(20, 3), Ok(Some(ahead)), "the vote of this term stands");
    }
}
