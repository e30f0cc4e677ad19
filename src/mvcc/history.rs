//! History read forwards, for watchers that catch up; and read whole, for HashKV.
//!
//! Both choose blocks under the node's lock and read them without it, like range reads. A pin keeps compaction from taking
//! rows away in between. Rows at or above the compaction are all there, so catching up needs no look at the index, except
//! that the few rows of a single key are found by it.
//!
//! Source: contract-server 6.6; etcd `server/storage/mvcc/hash.go`.

use super::Store;
use super::blocks::Reader;
use super::blocks::Source;
use super::pins::Pin;
use super::row::Row;
use super::row::RowId;
use super::row::Rows;
use super::row::raw_key;
use crate::error::Error;
use crate::proto::mvccpb::Event;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// How many bytes of blocks one step of catching up reads, unless one revision is larger.
const STEP_BYTES: usize = 1 << 20;

/// A stretch of history, chosen and not yet read.
pub struct History {
    range: KeyRange,
    from: RowId,
    through: Revision,
    sources: Vec<Source>,
    reader: Arc<Reader>,
    _pin: Pin,
}

impl Store {
    /// Chooses the events of `range` from revision `from` on, of at most about `max_revisions` revisions, none of them cut.
    ///
    /// # Errors
    /// [`Error::Compacted`] if `from` lies below the compaction.
    pub fn history(&self, range: &KeyRange, from: Revision, max_revisions: usize) -> Result<History, Error> {
        if self.compacted.is_some_and(|floor| from < floor) {
            return Err(Error::Compacted);
        }
        let (sources, through) = match range {
            KeyRange::Single(key) => self.history_of_key(key, from, max_revisions),
            _ => self.history_of_all(from, max_revisions),
        };
        let reader = Arc::clone(&self.reader);
        let from = RowId::first_of(from);
        Ok(History { range: range.clone(), from, through, sources, reader, _pin: self.pins.pin(from.main) })
    }

    fn history_of_key(&self, key: &[u8], from: Revision, max: usize) -> (Vec<Source>, Revision) {
        let mut sources = Vec::new();
        let (mut last_row, mut last_block, mut bytes) = (RowId::default(), None, 0);
        for (count, row) in self.index.key(key).iter().flat_map(|rows| rows.since(from)).enumerate() {
            if (count >= max || bytes >= STEP_BYTES) && row.main != last_row.main {
                return (sources, Revision(row.main.0 - 1));
            }
            let (block, source) = self.blocks.source(row);
            if last_block != Some(block) {
                sources.push(source);
                bytes += self.blocks.block_bytes(row);
            }
            (last_row, last_block) = (row, Some(block));
        }
        (sources, self.current)
    }

    fn history_of_all(&self, from: Revision, max: usize) -> (Vec<Source>, Revision) {
        let (mut sources, mut rows, mut bytes) = (Vec::new(), 0, 0);
        for (id, block_rows, block_bytes, block) in self.blocks.walk(RowId::first_of(from)) {
            // Only where a revision begins: all events of one revision belong into one response.
            if id.sub == 0 && id.main > from && (rows >= max || bytes >= STEP_BYTES) {
                return (sources, Revision(id.main.0 - 1));
            }
            sources.extend(block);
            rows += block_rows;
            bytes += block_bytes;
        }
        (sources, self.current)
    }
}

impl History {
    /// Reads the events, oldest first, and says up to which revision they are all. May read the engine.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn load(self) -> Result<(Vec<Event>, Revision), Error> {
        let mut events = Vec::new();
        each_row(
            &self.sources,
            &self.reader,
            |id| self.from <= id && id.main <= self.through,
            |row| {
                if self.range.contains(&row.kv.key) {
                    events.push(row.into_event());
                }
            },
        )?;
        Ok((events, self.through))
    }
}

/// Calls `visit` with every row of `sources` that `wants` wants.
fn each_row(
    sources: &[Source],
    reader: &Reader,
    wants: impl Fn(RowId) -> bool,
    mut visit: impl FnMut(Row),
) -> Result<(), Error> {
    for source in sources {
        let block = match source {
            Source::Row(row) => {
                if wants(row.id) {
                    visit(Row::clone(row));
                }
                continue;
            }
            Source::Block(bytes) => bytes.clone(),
            Source::Stored(id) => reader.block(*id)?,
        };
        for packed in Rows(block) {
            let packed = packed?;
            if wants(packed.id) {
                visit(packed.unpack()?);
            }
        }
    }
    Ok(())
}

/// How many keys one step of [`Store::hash_more`] looks at.
pub const HASH_KEYS: usize = 10_000;

/// A hash of all history up to a revision, being chosen and not yet read. While it lives, no row is removed.
pub struct HashPlan {
    at: i64,
    compacted: Option<Revision>,
    current: Revision,
    /// Rows at or below the compaction that count if any key is there at the hash's revision; else those of `fallback` do.
    keep: Vec<RowId>,
    fallback: Vec<RowId>,
    any: bool,
    /// Whether a key that is deleted at exactly this revision counts as being there.
    with_deleted: bool,
    /// Where the next step goes on; nothing once all keys have been seen.
    next: Option<Bytes>,
    sources: Vec<Source>,
    replaced: bool,
    reader: Arc<Reader>,
    _pin: Pin,
}

/// What HashKV answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    pub hash: u32,
    /// −1 if there was no compaction yet.
    pub compact_revision: i64,
    pub hash_revision: i64,
    /// The store's revision when the hash was asked for.
    pub current: Revision,
}

impl Store {
    /// Begins to choose what the hash at `revision` covers; 0 means now. Go on with [`Store::hash_more`].
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn hash_plan(&self, revision: i64) -> Result<HashPlan, Error> {
        // A negative revision is not refused by etcd: it hashes nothing.
        let at = if revision < 0 { Revision(0) } else { self.readable(revision)? };
        let wire = if revision < 0 { revision } else { at.to_wire() };
        Ok(self.plan(at, wire, self.compacted, false))
    }

    /// The hash at `revision`, chosen and computed in one go: for who holds nobody up.
    ///
    /// # Errors
    /// Those of [`Store::hash_plan`] and [`HashPlan::run`].
    pub fn hash(&self, revision: i64) -> Result<Hash, Error> {
        let mut plan = self.hash_plan(revision)?;
        while self.hash_more(&mut plan) {}
        plan.run()
    }

    /// The hash that the compaction which just began settles: of all that lies between the one before and it, before any of that is
    /// removed. What the one before has still to remove does not count, so that the hash is the same however far that has come; etcd, which hashes
    /// while it removes, has none then. Nothing after a start, until something is compacted.
    #[must_use]
    pub fn compaction_hash_plan(&self) -> Option<HashPlan> {
        let (before, floor) = (self.before?, self.compacted?);
        Some(self.plan(floor, floor.to_wire(), before, true))
    }

    fn plan(&self, at: Revision, wire: i64, compacted: Option<Revision>, with_deleted: bool) -> HashPlan {
        let sources = self.blocks.walk(RowId::default()).take_while(|(id, ..)| id.main <= at);
        HashPlan {
            at: wire,
            compacted,
            current: self.current,
            keep: Vec::new(),
            fallback: Vec::new(),
            any: false,
            with_deleted,
            next: Some(Bytes::new()),
            sources: sources.flat_map(|(.., block)| block).collect(),
            replaced: false,
            reader: Arc::clone(&self.reader),
            // Below everything: a block that the plan names must not go.
            _pin: self.pins.pin(Revision(0)),
        }
    }

    /// Looks at some more keys. Returns whether there are more to look at.
    pub fn hash_more(&self, plan: &mut HashPlan) -> bool {
        let Some(from) = plan.next.take() else { return false };
        if !Arc::ptr_eq(&self.reader, &plan.reader) {
            plan.replaced = true;
            return false;
        }
        let (at, floor) = (Revision(plan.at.max(0).unsigned_abs()), plan.compacted.unwrap_or_default());
        let all = KeyRange::From(from);
        for (seen, (key, rows)) in self.index.walk(&all, None).enumerate() {
            if seen == HASH_KEYS {
                plan.next = Some(key.clone());
                return true;
            }
            if let Some(found) = rows.at(at) {
                plan.any = true;
                plan.keep.extend(Some(found.row).filter(|row| row.main <= floor));
            }
            plan.any |= plan.with_deleted && rows.dies_at(at);
            if !plan.any {
                plan.fallback.extend(rows.at(floor).map(|found| found.row));
            }
        }
        false
    }
}

impl HashPlan {
    /// Computes the hash. Reads all of history, so it may take seconds.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine; [`Error::LeaderChanged`] if a snapshot has replaced the store half way: ask again.
    ///
    /// # Panics
    /// If keys are missing: the hash would be wrong.
    pub fn run(&mut self) -> Result<Hash, Error> {
        assert!(self.next.is_none(), "a hash must be chosen to its end before it is computed");
        if self.replaced {
            return Err(Error::LeaderChanged);
        }
        let floor = self.compacted.unwrap_or_default();
        // With no key left at that revision etcd drops nothing more than compaction has dropped.
        let mut keep = std::mem::take(if self.any { &mut self.keep } else { &mut self.fallback });
        keep.sort_unstable();
        let mut hash = crc32c::crc32c(b"key");
        let counts = |id: RowId| id.main.to_wire() <= self.at && (id.main > floor || keep.binary_search(&id).is_ok());
        each_raw(&self.sources, &self.reader, counts, &mut |address, value| {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, address), value);
        })?;
        let compact_revision = self.compacted.map_or(-1, Revision::to_wire);
        Ok(Hash { hash, compact_revision, hash_revision: self.at, current: self.current })
    }
}

/// All rows, chosen and not yet read. While it lives, none is removed.
pub struct RawRows {
    sources: Vec<Source>,
    reader: Arc<Reader>,
    _pin: Pin,
}

impl Store {
    /// Chooses all rows.
    #[must_use]
    pub fn raw_rows(&self) -> RawRows {
        let sources = self.blocks.walk(RowId::default()).flat_map(|(.., block)| block).collect();
        RawRows { sources, reader: Arc::clone(&self.reader), _pin: self.pins.pin(Revision(0)) }
    }
}

impl RawRows {
    /// Visits the rows as etcd's bucket `key` has them, in order: address, then value.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn each(self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
        each_raw(&self.sources, &self.reader, |_| true, &mut visit)
    }
}

fn each_raw(
    sources: &[Source],
    reader: &Reader,
    wants: impl Fn(RowId) -> bool,
    visit: &mut impl FnMut(&[u8], &[u8]),
) -> Result<(), Error> {
    let (mut address, mut value) = (Vec::with_capacity(18), Vec::new());
    each_row(sources, reader, wants, |row| {
        raw_key(row.id, row.tombstone, &mut address);
        value.clear();
        prost::Message::encode(&row.kv, &mut value).expect("a Vec grows");
        visit(&address, &value);
    })
}
