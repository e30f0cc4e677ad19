//! Writing behind: how what was applied reaches the store, and when the log may be released for it.
//!
//! ```text
//! Machine ── take_batch ───▶ Work::Batch ──▶ store_step: written ──▶ the next take_batch: the Machine forgets
//!    └────── Marks, sync_of ▶ Work::Sync  ──▶ store_step: synced, Stored::Durable ──▶ Replica::release
//! ```
//!
//! Batches go to the store in the order in which they were taken, each with its applied index, so that whatever the store holds is the state at
//! some entry. What was taken from a state that a snapshot has replaced does not go into the store of the next one: stores are numbered. Nothing of the log is given back before the store has said that its own sync returned.

use crate::apply::Machine;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::walpb::Snapshot as Mark;
use crate::types::Index;

/// What the store has to do next.
#[derive(Debug)]
pub enum Work {
    /// Changes of the store with this number.
    Batch(u64, Batch),
    /// Make everything so far durable: all entries up to this mark are in it. With it, the members of then for etcd's tools.
    Sync(Mark, Vec<u8>),
}

impl Work {
    /// About how many bytes of memory it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Work::Batch(_, batch) => batch.bytes(),
            Work::Sync(..) => 0,
        }
    }
}

/// What the store has done.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// One more batch is written: count it for [`take_batch`].
    Batch,
    /// That was meant for a store before this one.
    Dropped,
    /// Everything up to here would survive a loss of power: tell raft, see [`super::Replica::release`].
    Durable(Mark, Vec<u8>),
}

/// Takes what has changed since the last call, for the store numbered `epoch`, and lets the Machine forget what that has: `written` batches more
/// than at the last call.
pub fn take_batch(machine: &mut Machine, written: u64, epoch: u64) -> Option<Work> {
    for _ in 0..written {
        machine.written();
    }
    failpoint::hit(Point::BeforeTakeBatch);
    machine.take_batch().map(|batch| Work::Batch(epoch, batch))
}

/// The sync that makes the state as it is now durable; take the last batch before.
#[must_use]
pub fn sync_of(machine: &Machine, members: Vec<u8>) -> Work {
    let (index, term) = machine.applied();
    let conf_state = Some(machine.conf_state().clone());
    Work::Sync(Mark { index: index.0, term: term.0, conf_state }, members)
}

/// Does one piece of work on the store numbered `epoch`.
///
/// # Errors
/// [`Error::Storage`]: the member must stop.
pub fn store_step(engine: &impl Engine, epoch: u64, work: Work) -> Result<Stored, Error> {
    match work {
        Work::Batch(number, _) if number != epoch => Ok(Stored::Dropped),
        Work::Batch(_, batch) => {
            failpoint::hit(Point::BeforeCommit);
            engine.write(&batch)?;
            failpoint::hit(Point::AfterCommit);
            Ok(Stored::Batch)
        }
        Work::Sync(mark, members) => {
            failpoint::hit(Point::StoreBeforeSync);
            if !is_planted(Bug::ReleasedBeforeDurable) {
                engine.sync()?;
            }
            failpoint::hit(Point::StoreAfterSync);
            Ok(Stored::Durable(mark, members))
        }
    }
}

/// After so many bytes of entries the store is asked for a sync, however few they are.
const MARK_BYTES: u64 = 64 << 20;

/// The points at which the store is asked for a sync.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    last: Index,
    bytes: u64,
    forced: bool,
}

impl Marks {
    /// `applied` is where the store is.
    #[must_use]
    pub fn new(applied: Index) -> Marks {
        Marks { last: applied, bytes: 0, forced: false }
    }

    /// One more entry of so many bytes was applied.
    pub fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The next one comes at once. Source: etcd `server.go` (`ForceSnapshot`).
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Whether it is time: `every` entries were applied since the last time, or many bytes of them; or it is asked for `now`.
    pub fn are_due(&mut self, applied: Index, every: u64, now: bool) -> bool {
        let now = now || self.forced;
        let due = now || applied.0 >= self.last.0 + every || self.bytes >= MARK_BYTES;
        if due {
            *self = Marks::new(applied);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_asked_for_every_so_many_entries_or_bytes_and_when_told_to() {
        let mut marks = Marks::new(Index(7));
        let mut at = |index, now| marks.are_due(Index(index), 10, now);
        assert_eq!([at(16, false), at(17, false), at(20, false)], [false, true, false]);
        assert_eq!([at(20, true), at(29, false), at(30, false)], [true, false, true]);
        marks.count(64 << 20);
        assert!(marks.are_due(Index(31), 10, false));
        assert!(!marks.are_due(Index(32), 10, false));
        marks.force();
        assert_eq!([32, 33].map(|index| marks.are_due(Index(index), 10, false)), [true, false]);
    }
}
