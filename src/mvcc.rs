//! Every version of every key.
//!
//! A write never changes a value: it adds one, at the next [`Revision`]. A delete adds a tombstone. Reading "at revision 4"
//! means: of each key, the last version at or below 4.
//!
//! ```text
//! revision   2    3    4    5
//! a         a=1  a=2        ✝       get a @3 → 2     get a @5 → absent
//! b                   b=1           get b @5 → 1
//! ```
//!
//! Three parts: the *index* knows which rows each key has (in memory, no values); the *blocks* are the rows themselves, 4 KiB
//! of consecutive history each; the *cache* and the engine hold the blocks that are no longer resident. Who reads chooses rows
//! under the node's lock and fetches their values outside ([`Selection`], [`History`], [`HashPlan`]).
//!
//! Compaction at `r` refuses reads below `r` at once; what no other read can see is removed later, in slices, and nobody can
//! tell when. Current and compacted revision are rows of their own, never inferred from what is left of history.
//!
//! Source: etcd `server/storage/mvcc/`; contract-server 2 and 8.2. Writing the engine afresh is `store`'s work.

mod blocks;
mod cache;
mod compact;
mod export;
mod history;
mod import;
mod index;
mod load;
mod pins;
mod row;
mod select;

#[cfg(test)]
mod tests;

pub use compact::Ahead;
pub use export::Export;
pub use export::Exported;
pub use history::HASH_KEYS;
pub use history::Hash;
pub use history::HashPlan;
pub use history::History;
pub use history::RawRows;
pub use import::Import;
pub use load::Loaded;
pub use row::RowId;
pub use select::SLICE_KEYS;
pub use select::Selection;

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::meter;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::Revision;
use blocks::Blocks;
use blocks::Reader;
use blocks::Sources;
use bytes::Bytes;
use cache::Cache;
use compact::Sweep;
use index::Index;
use pins::Pins;
use row::Row;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many bytes of blocks the cache holds if nobody says otherwise.
pub const CACHE_BYTES: usize = 64 << 20;

/// Rows of [`Table::Meta`]. The compaction's two are named as in etcd and hold a row's address; the others are 8 bytes, big-endian.
/// Who compares the values of a range keeps so many bytes of what it has read.
const COMPARED_BYTES: usize = 64 << 10;

const CURRENT: &[u8] = b"currentRev";
const COMPACTED: &[u8] = b"scheduledCompactRev";
const SWEPT: &[u8] = b"finishedCompactRev";
const SIZE: &[u8] = b"dbSize";

/// How many blocks are read from the engine at a time when the store opens. Few, because each may be as large as a request.
const OPEN_BLOCKS: usize = 16;

/// Sizes are told in etcd's pages: an empty database has four in use and a fifth that is free.
const PAGE_BYTES: u64 = 4096;
const EMPTY_PAGES: u64 = 4;

/// Whole pages for so many bytes, at least one.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES).max(1) * PAGE_BYTES
}

/// Which key hangs on which lease.
pub type Leased = BTreeMap<Bytes, LeaseId>;

/// The key space with its history.
pub struct Store {
    reader: Arc<Reader>,
    index: Index,
    blocks: Blocks,
    pins: Arc<Pins>,
    current: Revision,
    /// Nothing if nobody ever compacted; revision 0 can be compacted, once.
    compacted: Option<Revision>,
    /// Up to where dead rows have been removed.
    swept: Option<Revision>,
    sweep: Option<Sweep>,
    /// The compaction before the last one, if the last one came in this run.
    before: Option<Option<Revision>>,
    /// The most bytes of history since the store was last written afresh.
    size: u64,
    /// Whether a row of [`Table::Meta`] differs from what the last batch has.
    changed: bool,
}

impl Store {
    /// Rebuilds the index from the blocks in `engine`, and says which keys hang on which leases. Reads all of history.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`]: then the data must come from the log, a snapshot or a peer.
    pub fn open(engine: Arc<dyn Engine>, cache_bytes: usize) -> Result<(Store, Leased), Error> {
        let loaded = Loaded::read(&*engine)?;
        Store::of(engine, cache_bytes, loaded)
    }

    /// The store in an engine whose history is `loaded` already; see [`Import::indexed`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn of(engine: Arc<dyn Engine>, cache_bytes: usize, loaded: Loaded) -> Result<(Store, Leased), Error> {
        let number = |name: &[u8]| read_number(&*engine, name);
        let address = |name: &[u8]| engine.get(Table::Meta, name)?.map(|row| RowId::from_key(&row)).transpose();
        let Loaded { index, blocks, leased, newest } = loaded;
        let current = number(CURRENT)?.map_or(Revision::FIRST, Revision);
        if newest > current {
            return Err(Error::Damaged(format!("history goes beyond the current revision, {current}")));
        }
        let mut store = Store {
            current,
            compacted: address(COMPACTED)?.map(|id| id.main),
            swept: address(SWEPT)?.map(|id| id.main),
            sweep: None,
            before: None,
            size: number(SIZE)?.unwrap_or(0).max(blocks.stored_bytes()),
            changed: false,
            index,
            blocks,
            pins: Arc::default(),
            reader: Arc::new(Reader { engine, cache: Cache::new(cache_bytes) }),
        };
        store.resume_sweep();
        Ok((store, leased))
    }

    /// The revision of the last write.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.current
    }

    /// The revision below which nothing can be read; nothing if nobody ever compacted.
    #[must_use]
    pub fn compacted(&self) -> Option<Revision> {
        self.compacted
    }

    /// The revision that a request means by `revision`: 0 and below mean now.
    ///
    /// # Errors
    /// [`Error::FutureRevision`], [`Error::Compacted`].
    pub fn readable(&self, revision: i64) -> Result<Revision, Error> {
        if revision <= 0 {
            return Ok(self.current);
        }
        let at = Revision(revision.unsigned_abs());
        if at > self.current {
            return Err(Error::FutureRevision);
        }
        if self.compacted.is_some_and(|floor| at < floor) {
            return Err(Error::Compacted);
        }
        Ok(at)
    }

    /// Whether `key` is there now.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        self.index.key(key).is_some_and(|rows| rows.at(self.current).is_some())
    }

    /// What the index knows of the keys of `range` that are there now, in order.
    pub fn peek<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = Peek<'a>> {
        self.index.walk(range, None).filter_map(|(key, rows)| {
            let found = rows.at(self.current)?;
            Some(Peek { key, created: found.created, modified: found.row.main, version: found.version })
        })
    }

    /// `key` as it was at `at`, if it was there. May read the engine.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn get(&self, key: &[u8], at: Revision) -> Result<Option<KeyValue>, Error> {
        let Some(found) = self.index.key(key).and_then(|rows| rows.at(at)) else { return Ok(None) };
        let mut sources = Sources::default();
        let place = sources.add(&self.blocks, found.row);
        Ok(Some(sources.load(&self.reader, place, found.row)?.kv))
    }

    /// Whether there are keys in `range`, and the value of each passes. Ends with the first that does not, and keeps little of what it reads. May read the
    /// engine.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn values_pass(&self, range: &KeyRange, passes: impl Fn(&[u8]) -> bool) -> Result<bool, Error> {
        let (mut sources, mut any) = (Sources::default(), false);
        for (_, rows) in self.index.walk(range, None) {
            let Some(found) = rows.at(self.current) else { continue };
            any = true;
            if sources.bytes() > COMPARED_BYTES {
                sources = Sources::default();
            }
            let place = sources.add(&self.blocks, found.row);
            if !passes(&sources.load(&self.reader, place, found.row)?.kv.value) {
                return Ok(false);
            }
        }
        Ok(any)
    }

    /// Begins a write transaction: all its changes have the next revision.
    pub fn write(&mut self) -> Writer<'_> {
        Writer { main: self.current.next(), store: self, events: Vec::new() }
    }

    /// Bytes of history, dead rows included, in pages: what etcd calls the database's size in use.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        pages(self.blocks.stored_bytes()) + (EMPTY_PAGES - 1) * PAGE_BYTES
    }

    /// What [`Store::in_use`] was at most since the store was last written afresh, and one page that is always free: what etcd calls the
    /// database's size. The quota counts this.
    #[must_use]
    pub fn size(&self) -> u64 {
        pages(self.size) + EMPTY_PAGES * PAGE_BYTES
    }

    /// Notes that the engine was written afresh, with nothing in it that is no longer needed.
    pub fn defragmented(&mut self) {
        self.size = self.blocks.stored_bytes();
        self.changed = true;
    }

    /// How many keys the index has, tombstones that are still visible to somebody included.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// Whether the next [`Store::drain`] will have anything.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.changed || self.blocks.is_dirty()
    }

    /// Bytes of blocks that the next [`Store::drain`] will have.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.blocks.dirty_bytes()
    }

    /// Moves all that changed since the last call into `batch`.
    pub fn drain(&mut self, batch: &mut Batch) {
        if self.is_dirty() {
            batch.put(Table::Meta, CURRENT, self.current.0.to_be_bytes().to_vec());
            batch.put(Table::Meta, SIZE, self.size.to_be_bytes().to_vec());
            self.save_compaction(batch);
        }
        self.changed = false;
        self.blocks.drain(batch);
    }

    /// Writes how far was compacted and how far that has been carried out, as etcd keeps both.
    pub fn save_compaction(&self, batch: &mut Batch) {
        for (name, revision) in [(COMPACTED, self.compacted), (SWEPT, self.swept)] {
            if let Some(main) = revision {
                batch.put(Table::Meta, name, RowId::first_of(main).to_key().to_vec());
            }
        }
    }

    /// Notes that the engine has the oldest batch that was drained and not yet noted here.
    pub fn written(&mut self) {
        self.blocks.written(&self.reader.cache);
    }
}

/// A number of 8 bytes in [`Table::Meta`].
///
/// # Errors
/// [`Error::Storage`] from the engine, [`Error::Damaged`] if the row is no number.
pub fn read_number(engine: &dyn Engine, name: &[u8]) -> Result<Option<u64>, Error> {
    let Some(row) = engine.get(Table::Meta, name)? else { return Ok(None) };
    let bytes = <[u8; 8]>::try_from(row.as_ref());
    bytes
        .map(|bytes| Some(u64::from_be_bytes(bytes)))
        .map_err(|_| Error::Damaged(format!("{} is no number of 8 bytes", String::from_utf8_lossy(name))))
}

/// What the index knows of a key that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek<'a> {
    pub key: &'a Bytes,
    pub created: Revision,
    pub modified: Revision,
    pub version: u64,
}

/// A write transaction. Nobody else looks at the store meanwhile; what it reads has its own changes in it.
///
/// There is no way back: who begins has checked that everything will go through.
pub struct Writer<'a> {
    store: &'a mut Store,
    main: Revision,
    events: Vec<Event>,
}

impl Writer<'_> {
    /// The store as this transaction sees it.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: LeaseId) {
        meter::PUTS.inc();
        meter::PUT_BYTES.add((key.len() + value.len()) as u64);
        let id = self.next();
        let found = self.store.index.put(&key, id, lease != LeaseId(0));
        let kv = KeyValue {
            key,
            create_revision: found.created.to_wire(),
            mod_revision: id.main.to_wire(),
            version: found.version as i64,
            value,
            lease: lease.0,
        };
        self.append(Row { id, tombstone: false, kv });
    }

    /// Deletes the keys of `range` that are there, in order, and returns them.
    pub fn delete(&mut self, range: &KeyRange) -> Vec<Bytes> {
        meter::DELETES.inc();
        let keys: Vec<Bytes> = self.store.peek(range).map(|found| found.key.clone()).collect();
        for key in &keys {
            let id = self.next();
            self.store.index.delete(key, id);
            let kv = KeyValue { key: key.clone(), ..KeyValue::default() };
            self.append(Row { id, tombstone: true, kv });
        }
        keys
    }

    fn next(&self) -> RowId {
        RowId { main: self.main, sub: self.events.len() as u32 }
    }

    fn append(&mut self, row: Row) {
        self.store.current = self.main;
        self.events.push(row.clone().into_event());
        self.store.blocks.append(row);
        self.store.size = self.store.size.max(self.store.blocks.stored_bytes());
    }

    /// Ends the transaction: its changes in order, none if it changed nothing and took no revision.
    #[must_use]
    pub fn finish(self) -> Vec<Event> {
        self.events
    }
}
