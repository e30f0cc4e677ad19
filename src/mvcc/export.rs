//! All of history up to one revision, in order, while writes go on: what a snapshot file holds.
//!
//! Read in slices, so that neither memory nor the time under the node's lock grows with the store:
//!
//! ```text
//! let mut export = node.read(|m| m.export());
//! while node.read(|m| m.export_more(&mut export)) {        // choose blocks, under the lock
//!     let mut rows = export.load()?;                       // read them, without it
//!     node.read(|m| m.export_live(&export, &mut rows));    // drop what compaction has dropped
//! }
//! ```
//!
//! While an export lives, compaction removes nothing: blocks that were chosen are there when they are read. A compaction that is asked
//! for meanwhile counts at once, as always; its work waits.

use super::Store;
use super::blocks::Reader;
use super::blocks::Source;
use super::pins::Pin;
use super::row::Packed;
use super::row::RowId;
use super::row::Rows;
use super::row::raw_key;
use crate::error::Error;
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// How many bytes of blocks are chosen at a time.
const SLICE_BYTES: usize = 256 << 10;

/// A read of history under way.
pub struct Export {
    through: Revision,
    floor: Revision,
    after: Option<RowId>,
    sources: Vec<Source>,
    replaced: bool,
    reader: Arc<Reader>,
    _pin: Pin,
}

/// One row as etcd's bucket `key` holds it.
pub struct Exported {
    id: RowId,
    tombstone: bool,
    /// The marshalled `KeyValue`.
    pub value: Bytes,
}

impl Exported {
    /// Writes the row's key into `out`: revision, place, and a mark on tombstones.
    pub fn key(&self, out: &mut Vec<u8>) {
        raw_key(self.id, self.tombstone, out);
    }
}

impl Store {
    /// Begins to read all of history up to the present revision.
    #[must_use]
    pub fn export(&self) -> Export {
        Export {
            through: self.current,
            floor: self.compacted.unwrap_or_default(),
            after: None,
            sources: Vec::new(),
            replaced: false,
            reader: Arc::clone(&self.reader),
            // Below every floor: a block that has only dead rows must not go away between choosing and reading it.
            _pin: self.pins.pin(Revision(0)),
        }
    }

    /// Chooses the next slice; false at the end. If a snapshot has put another store in this one's place meanwhile, there is a slice that fails to
    /// load.
    pub fn export_more(&self, export: &mut Export) -> bool {
        if !Arc::ptr_eq(&self.reader, &export.reader) {
            export.replaced = true;
            return true;
        }
        match self.blocks.next(export.after, SLICE_BYTES) {
            Some((last, sources)) if export.after.is_none_or(|after| after.main <= export.through) => {
                (export.after, export.sources) = (Some(last), sources);
                true
            }
            _ => false,
        }
    }

    /// Drops the rows that compaction has dropped already, though their block still has them.
    pub fn export_live(&self, export: &Export, rows: &mut Vec<(Bytes, Exported)>) {
        rows.retain(|(key, row)| row.id.main > export.floor || self.index.has(key, row.id));
    }
}

impl Export {
    /// Reads the slice: each row with its key. May read the engine.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine; [`Error::LeaderChanged`] if the store was replaced half way.
    pub fn load(&self) -> Result<Vec<(Bytes, Exported)>, Error> {
        if self.replaced {
            return Err(Error::LeaderChanged);
        }
        let mut rows = Vec::new();
        for source in &self.sources {
            let block = match source {
                Source::Row(row) => {
                    let value = row.kv.encode_to_vec().into();
                    self.take(&mut rows, Packed { id: row.id, tombstone: row.tombstone, kv: value })?;
                    continue;
                }
                Source::Block(bytes) => bytes.clone(),
                Source::Stored(id) => self.reader.block_once(*id)?,
            };
            for packed in Rows(block) {
                self.take(&mut rows, packed?)?;
            }
        }
        Ok(rows)
    }

    fn take(&self, rows: &mut Vec<(Bytes, Exported)>, packed: Packed) -> Result<(), Error> {
        let Packed { id, tombstone, kv: value } = packed;
        if id.main > self.through {
            return Ok(());
        }
        // Above the floor nothing is ever dropped, so nobody asks for the key.
        let key = match id.main > self.floor {
            true => Bytes::new(),
            false => KeyValue::decode(value.clone()).map_err(|e| Error::Damaged(format!("row {id:?}: {e}")))?.key,
        };
        rows.push((key, Exported { id, tombstone, value }));
        Ok(())
    }
}
