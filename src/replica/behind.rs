//! Writing behind: how what was applied reaches the store, and when the log may be released for it.
//!
//! ```text
//! Machine ── take_batch ──▶ Work::Batch ──▶ store_step: written ──▶ the next take_batch: the Machine forgets
//!    └────── Marks::next ─▶ Work::Sync  ──▶ store_step: synced, Stored::Durable ──▶ Replica::release
//! ```
//!
//! Batches go to the store in the order in which they were taken, each with its applied index, so that whatever the store holds is the state at
//! some entry. Nothing of the log is given back before the store has said that its own sync returned.

use crate::apply::Machine;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::types::Index;
use crate::types::Term;

/// What the store has to do next.
#[derive(Debug)]
pub enum Work {
    Batch(Batch),
    /// Make everything so far durable: all entries up to this one are in it.
    Sync(Index, Term),
}

/// What the store has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// One more batch is written: count it for [`take_batch`].
    Batch,
    /// Everything up to here would survive a loss of power: tell raft, see [`super::Replica::release`].
    Durable(Index, Term),
}

/// Takes what has changed since the last call, and lets the Machine forget what the store has: `written` batches more than at the last call.
pub fn take_batch(machine: &mut Machine, written: u64) -> Option<Work> {
    for _ in 0..written {
        machine.written();
    }
    machine.take_batch().map(Work::Batch)
}

/// Does one piece of work.
///
/// # Errors
/// [`Error::Storage`]: the member must stop.
pub fn store_step(engine: &impl Engine, work: &Work) -> Result<Stored, Error> {
    match work {
        Work::Batch(batch) => engine.write(batch).map(|()| Stored::Batch),
        Work::Sync(index, term) => {
            if !is_planted(Bug::ReleasedBeforeDurable) {
                engine.sync()?;
            }
            Ok(Stored::Durable(*index, *term))
        }
    }
}

/// The points at which the store is asked for a sync.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    last: Index,
}

impl Marks {
    /// `applied` is where the store was at the start.
    #[must_use]
    pub fn new(applied: Index) -> Marks {
        Marks { last: applied }
    }

    /// The next point, once `every` entries were applied since the last one, or `now`. Take a batch before: it must hold the entry.
    pub fn next(&mut self, applied: (Index, Term), every: u64, now: bool) -> Option<Work> {
        if !now && applied.0.0 < self.last.0 + every {
            return None;
        }
        self.last = applied.0;
        Some(Work::Sync(applied.0, applied.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_asked_for_every_so_many_entries_and_when_told_to() {
        let mut marks = Marks::new(Index(7));
        let mut at = |index, now| match marks.next((Index(index), Term(2)), 10, now) {
            Some(Work::Sync(index, Term(2))) => Some(index.0),
            Some(other) => panic!("{other:?}"),
            None => None,
        };
        assert_eq!([at(16, false), at(17, false), at(20, false)], [None, Some(17), None]);
        assert_eq!([at(20, true), at(29, false), at(30, false)], [Some(20), None, Some(30)]);
    }
}
