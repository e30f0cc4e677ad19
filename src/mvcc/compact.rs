//! Compaction: the promise at once, the work in slices.
//!
//! [`Store::compact`] moves the floor; it is an effect of a log entry, so all members refuse the same reads from the same entry on.
//! [`Store::compact_step`] then walks the index, drops rows that no read at or above the floor can see, and rewrites the blocks that
//! had them. How far that has come is this member's business alone.

use super::Store;
use super::blocks::Reader;
use super::row::RowId;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::meter;
use crate::types::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// How many blocks may be rewritten for every so many keys that a step may look at.
const KEYS_PER_BLOCK: usize = 32;

/// A removal under way.
#[derive(Debug)]
pub(super) struct Sweep {
    floor: Revision,
    /// The next key to look at; nothing once all keys have been seen and only blocks are left.
    from: Option<Bytes>,
}

impl Sweep {
    fn to(floor: Revision) -> Sweep {
        Sweep { floor, from: Some(Bytes::new()) }
    }
}

impl Store {
    /// Refuses reads below `revision` from now on. Returns the floor.
    ///
    /// # Errors
    /// [`Error::Compacted`] if that has happened already, [`Error::FutureRevision`] if `revision` is still to come.
    pub fn compact(&mut self, revision: i64) -> Result<Revision, Error> {
        let floor = u64::try_from(revision).map(Revision).map_err(|_| Error::Compacted)?;
        if self.compacted.is_some_and(|old| floor <= old) {
            return Err(Error::Compacted);
        }
        if floor > self.current {
            return Err(Error::FutureRevision);
        }
        failpoint::hit(Point::CompactBeforeSetScheduledCompact);
        self.before = Some(self.compacted);
        self.compacted = Some(floor);
        // A removal that is under way goes on to its end first: begun anew each time, it would never come to rewriting a block where compactions are
        // frequent and keys are many. Source: etcd's `fifoSched`.
        self.sweep.get_or_insert_with(|| Sweep::to(floor));
        self.changed = true;
        failpoint::hit(Point::CompactAfterSetScheduledCompact);
        Ok(floor)
    }

    /// Whether all that was compacted at or below `revision` has been removed.
    #[must_use]
    pub fn is_swept(&self, revision: Revision) -> bool {
        self.swept.is_some_and(|swept| swept >= revision)
    }

    /// Whether anything that was compacted is still to be removed.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Removes some of what was compacted: looks at up to `keys` keys, or rewrites a few blocks. Returns whether there is more to do. Does
    /// nothing while somebody reads below the floor, so leave some time between two calls.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn compact_step(&mut self, keys: usize) -> Result<bool, Error> {
        let Some(sweep) = &mut self.sweep else { return Ok(false) };
        if self.pins.oldest().is_some_and(|at| at < sweep.floor) {
            return Ok(true);
        }
        if let Some(from) = sweep.from.take() {
            let mut dropped = Vec::new();
            sweep.from = self.index.trim(&from, sweep.floor, keys.max(1), &mut dropped);
            meter::COMPACTED_KEYS.add(dropped.len() as u64);
            self.blocks.kill(&dropped);
            return Ok(true);
        }
        let worn = self.blocks.worn(keys / KEYS_PER_BLOCK + 1);
        let index = &self.index;
        for id in &worn {
            self.blocks.mend(*id, &self.reader, |row| index.has(&row.kv.key, row.id))?;
        }
        if worn.is_empty() {
            let done = sweep.floor;
            self.swept = Some(done);
            self.sweep = self.compacted.filter(|floor| *floor > done).map(Sweep::to);
            self.changed = true;
        }
        Ok(self.sweep.is_some())
    }

    /// What the next [`Store::compact_step`] will read from the engine. Load it outside the node's lock, before that step.
    #[must_use]
    pub fn compact_ahead(&self, keys: usize) -> Ahead {
        let worn = match &self.sweep {
            Some(Sweep { from: None, .. }) => self.blocks.worn(keys / KEYS_PER_BLOCK + 1),
            _ => Vec::new(),
        };
        let cold = worn.into_iter().filter(|id| self.blocks.is_cold(*id)).collect();
        Ahead { blocks: cold, reader: Arc::clone(&self.reader) }
    }

    /// After a start: the index has every row that is left, so it is trimmed in one go; blocks follow in steps.
    pub(super) fn resume_sweep(&mut self) {
        let Some(floor) = self.compacted else { return };
        let mut dropped = Vec::new();
        self.index.trim(&Bytes::new(), floor, usize::MAX, &mut dropped);
        self.blocks.kill(&dropped);
        if self.swept != Some(floor) {
            self.sweep = Some(Sweep { floor, from: None });
        }
    }
}

/// Blocks that are wanted in the cache.
pub struct Ahead {
    blocks: Vec<RowId>,
    reader: Arc<Reader>,
}

impl Ahead {
    /// Reads the blocks from the engine into the cache.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn load(self) -> Result<(), Error> {
        self.blocks.iter().try_for_each(|id| self.reader.block(*id).map(drop))
    }
}
