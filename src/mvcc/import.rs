//! History from a snapshot file, made into what the engine holds.
//!
//! Rows come in order and leave as blocks, a batch at a time. Every row is checked, since the file may come from anywhere. A row
//! without a key is no key's: etcd's own restore leaves one behind when it raises the revision, and only that revision counts.
//!
//! Source: etcd `server/storage/mvcc/kvstore.go` (`restore`), `etcdutl/snapshot/v3_snapshot.go`.

use super::COMPACTED;
use super::CURRENT;
use super::Loaded;
use super::blocks::BLOCK_BYTES;
use super::row::Row;
use super::row::RowId;
use super::row::encode_block;
use crate::engine::Batch;
use crate::engine::Table;
use crate::error::Error;
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use bytes::Bytes;
use prost::Message;

/// A store in the making.
#[derive(Default)]
pub struct Import {
    rows: Vec<Row>,
    bytes: usize,
    last: Option<RowId>,
    loaded: Option<Loaded>,
}

impl Import {
    /// Also builds what a store needs to know of its history, for [`super::Store::of`]: the engine need not be read again.
    #[must_use]
    pub fn indexed() -> Import {
        Import { loaded: Some(Loaded::default()), ..Import::default() }
    }

    /// Adds a row of etcd's bucket `key`. Full blocks go into `batch`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if this cannot be the next row.
    pub fn row(&mut self, address: &[u8], value: &[u8], batch: &mut Batch) -> Result<(), Error> {
        let damaged = |what: &str| Error::Damaged(format!("row {address:02x?} of bucket \"key\": {what}"));
        let (address, tombstone) = match address {
            [revision @ .., b't'] if address.len() == 18 => (revision, true),
            revision => (revision, false),
        };
        let id = RowId::from_key(address)?;
        if self.last.is_some_and(|last| id <= last) || id.main.0 == 0 || id.main.0 > i64::MAX as u64 {
            return Err(damaged("a revision that cannot be"));
        }
        self.last = Some(id);
        let kv = KeyValue::decode(value).map_err(|e| damaged(&e.to_string()))?;
        if kv.key.is_empty() {
            return Ok(());
        }
        let modified = id.main.to_wire();
        let in_order = tombstone || (kv.mod_revision == modified && kv.version > 0 && kv.create_revision > 0);
        if !in_order || kv.create_revision > modified {
            return Err(damaged("its revisions do not fit"));
        }
        let row = Row { id, tombstone, kv };
        let bytes = row.encoded_len();
        if self.bytes + bytes > BLOCK_BYTES {
            drop(self.close(batch));
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.row(&row);
        }
        self.bytes += bytes;
        self.rows.push(row);
        Ok(())
    }

    /// Ends the block, and returns its rows.
    fn close(&mut self, batch: &mut Batch) -> Vec<Row> {
        if let Some(first) = self.rows.first() {
            let block = encode_block(&self.rows);
            if let Some(loaded) = &mut self.loaded {
                loaded.blocks.add_stored(first.id, self.rows.len(), block.len());
            }
            batch.put(Table::Key, first.id.to_key().to_vec(), block);
        }
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }

    /// Adds the last block and the store's own rows. `marks` are etcd's rows on compaction, if the file has them. With `bump` the revision
    /// is raised by so much, and all below it counts as compacted. Returns the revision, and what [`Import::indexed`] has built.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a mark is none.
    pub fn finish(
        mut self,
        marks: &[(Bytes, Bytes)],
        bump: u64,
        batch: &mut Batch,
    ) -> Result<(Revision, Option<Loaded>), Error> {
        let newest = self.close(batch);
        if let Some(loaded) = &mut self.loaded {
            loaded.blocks.reopen(newest);
        }
        let mut current = self.last.map_or(Revision::FIRST, |id| id.main).max(Revision::FIRST);
        let mut floor = None;
        for (name, address) in marks {
            floor = floor.max(Some(RowId::from_key(address)?.main));
            batch.put(Table::Meta, name.clone(), address.clone());
        }
        current = current.max(floor.unwrap_or_default());
        if bump > 0 {
            let raised = current.0.checked_add(bump).filter(|revision| *revision <= i64::MAX as u64);
            current = Revision(raised.ok_or_else(|| Error::Damaged("the revision would be too large".into()))?);
            floor = Some(current);
        }
        if let Some(floor) = floor {
            batch.put(Table::Meta, COMPACTED, RowId::first_of(floor).to_key().to_vec());
        }
        batch.put(Table::Meta, CURRENT, current.0.to_be_bytes().to_vec());
        Ok((current, self.loaded))
    }

    /// Whether this row of etcd's bucket `meta` is one of the marks for [`Import::finish`].
    #[must_use]
    pub fn is_mark(name: &[u8]) -> bool {
        name == COMPACTED || name == super::SWEPT
    }
}
