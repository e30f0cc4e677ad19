//! How a member begins: what a new log says first, and whether a store goes with a log.

use crate::consensus::Initial;
use crate::membership::Members;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::types::Index;
use crate::types::Term;

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

    /// What raft starts from; `conf_state` is the store's.
    #[must_use]
    pub fn into_initial(self, conf_state: ConfState) -> Initial {
        Initial { offset: self.start, entries: self.entries, hard_state: self.hard_state, conf_state }
    }
}
