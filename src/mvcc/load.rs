//! Index and directory of blocks, filled in the order of history: from the engine when a store opens, or from an image while the engine is filled
//! from it too, so that nothing is read twice.

use super::Leased;
use super::OPEN_BLOCKS;
use super::blocks::Blocks;
use super::index::Entry;
use super::index::Index;
use super::row::Row;
use super::row::RowId;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::types::LeaseId;
use crate::types::Revision;
use bytes::Bytes;

/// What a store knows of its history without reading it.
#[derive(Default)]
pub struct Loaded {
    pub(super) index: Index,
    pub(super) blocks: Blocks,
    pub(super) leased: Leased,
    /// The last row's revision.
    pub(super) newest: Revision,
}

impl Loaded {
    /// Reads all of the engine's history.
    pub(super) fn read(engine: &dyn Engine) -> Result<Loaded, Error> {
        let (mut loaded, mut from, mut last_rows) = (Loaded::default(), Vec::new(), Vec::new());
        loop {
            let blocks = engine.scan(Table::Key, &from, OPEN_BLOCKS)?;
            for (address, bytes) in &blocks {
                last_rows = loaded.blocks.restore(RowId::from_key(address)?, bytes)?;
                last_rows.iter().for_each(|row| loaded.row(row));
            }
            let Some((last, _)) = blocks.last() else { break };
            from = [last.as_ref(), &[0]].concat();
        }
        loaded.blocks.reopen(last_rows);
        Ok(loaded)
    }

    /// Notes the next row of history.
    pub(super) fn row(&mut self, row: &Row) {
        let version = if row.tombstone { 0 } else { row.kv.version as u64 };
        let created = Revision(row.kv.create_revision as u64);
        self.index.restore(&row.kv.key, created, Entry::new(row.id, version, row.kv.lease != 0));
        self.newest = row.id.main;
        match row.kv.lease {
            0 if self.leased.is_empty() => {}
            0 => drop(self.leased.remove(&row.kv.key)),
            // A copy: a slice would keep the row's whole block in memory.
            lease => drop(self.leased.insert(Bytes::copy_from_slice(&row.kv.key), LeaseId(lease))),
        }
    }
}
