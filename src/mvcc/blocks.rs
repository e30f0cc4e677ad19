//! The history itself: a directory of blocks, and where each block's bytes are.
//!
//! ```text
//! Open     the newest block: rows are still added
//! Closed   full; its bytes stay resident until the engine has them
//! Stored   the engine has them; the cache may too
//! ```
//!
//! A block keeps the address of the row that it began with, also after compaction has taken that row out, so that an address
//! found under the node's lock still leads somewhere when it is read outside. Blocks that shrink are not merged: history is
//! rewritten block by block, oldest first, and each block costs a few dozen bytes of directory.
//!
//! Every block with a dead row is rewritten, however few there are. A dead row that stays on disk comes back at the next start, when only the
//! rows tell what was deleted: harmless while a newer row of its key is there, but a deleted key comes back to life once its tombstone was removed
//! from another block. Oldest first, so that a tombstone never goes before what it hides.

use super::cache::Cache;
use super::row::Row;
use super::row::RowId;
use super::row::Rows;
use super::row::encode_block;
use super::row::find;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// A block is closed before it would grow beyond this. A larger row has a block of its own.
pub(super) const BLOCK_BYTES: usize = 4096;

/// What the engine stores beside a block's bytes: its address.
const ADDRESS_BYTES: u64 = 17;

/// All blocks, in the order of history.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    directory: BTreeMap<RowId, Block>,
    /// Blocks that differ from what the last batch has of them.
    dirty: BTreeSet<RowId>,
    dirty_bytes: usize,
    /// Blocks to be removed with the next batch.
    gone: BTreeSet<RowId>,
    /// For each batch that was taken and is not yet written: its blocks.
    flights: VecDeque<Vec<RowId>>,
    /// Blocks with dead rows.
    worn: BTreeSet<RowId>,
    stored_bytes: u64,
}

#[derive(Debug)]
struct Block {
    rows: u32,
    dead: u32,
    bytes: usize,
    /// In how many batches on their way it is.
    flying: u32,
    body: Body,
}

impl Block {
    fn add_sources(&self, id: RowId, sources: &mut Vec<Source>) {
        match &self.body {
            Body::Open(rows) => sources.extend(rows.iter().map(|row| Source::Row(Box::new(row.clone())))),
            Body::Closed(bytes) => sources.push(Source::Block(bytes.clone())),
            Body::Stored => sources.push(Source::Stored(id)),
        }
    }
}

#[derive(Debug)]
enum Body {
    Open(Vec<Row>),
    Closed(Bytes),
    Stored,
}

/// Where a row can be read without the node's lock.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The row itself, from the open block.
    Row(Box<Row>),
    /// The bytes of its block.
    Block(Bytes),
    /// The address of its block in the engine.
    Stored(RowId),
}

/// The readers' way to blocks that are not resident.
pub(super) struct Reader {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cache: Cache,
}

impl Reader {
    /// The bytes of a stored block: from the cache, or from the engine, which may take a while.
    pub(super) fn block(&self, id: RowId) -> Result<Bytes, Error> {
        if let Some(block) = self.cache.get(id) {
            return Ok(block);
        }
        let block = self.fetch(id)?;
        self.cache.put(id, block.clone());
        Ok(block)
    }

    /// The same, for those who read all of history once: what is cached for others stays.
    pub(super) fn block_once(&self, id: RowId) -> Result<Bytes, Error> {
        self.cache.get(id).map_or_else(|| self.fetch(id), Ok)
    }

    fn fetch(&self, id: RowId) -> Result<Bytes, Error> {
        let block = self.engine.get(Table::Key, &id.to_key())?;
        block.ok_or_else(|| Error::Damaged(format!("the block of history at {id:?} is missing")))
    }
}

impl Blocks {
    /// Adds a row; it is newer than all others.
    pub(super) fn append(&mut self, row: Row) {
        let bytes = row.encoded_len();
        self.stored_bytes += bytes as u64;
        if let Some(mut last) = self.directory.last_entry() {
            let (id, block) = (*last.key(), last.get_mut());
            if let Body::Open(rows) = &mut block.body {
                if block.bytes + bytes <= BLOCK_BYTES {
                    rows.push(row);
                    block.rows += 1;
                    block.bytes += bytes;
                    self.dirty_bytes += bytes;
                    return self.mark(id, bytes);
                }
                // Where writes are few the engine has all of it by now, and no batch to come would say so.
                let is_written = block.flying == 0 && !self.dirty.contains(&id);
                block.body = if is_written { Body::Stored } else { Body::Closed(encode_block(rows)) };
            }
        }
        let id = row.id;
        self.stored_bytes += ADDRESS_BYTES;
        self.directory.insert(id, Block { rows: 1, dead: 0, bytes, flying: 0, body: Body::Open(vec![row]) });
        self.mark(id, 0);
    }

    /// Notes that a block must be written; `counted` of its bytes are in the sum already.
    fn mark(&mut self, id: RowId, counted: usize) {
        if self.dirty.insert(id) {
            self.dirty_bytes += self.directory[&id].bytes - counted;
        }
    }

    /// Takes a block as it comes back from the engine, and returns its rows. Blocks come in order.
    pub(super) fn restore(&mut self, id: RowId, bytes: &Bytes) -> Result<Vec<Row>, Error> {
        let rows = Rows(bytes.clone()).map(|packed| packed?.unpack()).collect::<Result<Vec<Row>, Error>>()?;
        if rows.first().is_none_or(|row| row.id < id) {
            return Err(Error::Damaged(format!("the block of history at {id:?} does not begin there")));
        }
        self.add_stored(id, rows.len(), bytes.len());
        Ok(rows)
    }

    /// Notes a block that the engine has. Blocks come in order.
    pub(super) fn add_stored(&mut self, id: RowId, rows: usize, bytes: usize) {
        self.stored_bytes += bytes as u64 + ADDRESS_BYTES;
        self.directory.insert(id, Block { rows: rows as u32, dead: 0, bytes, flying: 0, body: Body::Stored });
    }

    /// Lets the last block grow again, after all were restored: else every start would leave a small block behind.
    pub(super) fn reopen(&mut self, rows: Vec<Row>) {
        if let Some(mut last) = self.directory.last_entry()
            && last.get().bytes < BLOCK_BYTES
        {
            last.get_mut().body = Body::Open(rows);
        }
    }

    /// Which block has this row.
    fn home(&self, row: RowId) -> Option<(RowId, &Block)> {
        self.directory.range(..=row).next_back().map(|(id, block)| (*id, block))
    }

    /// Where `row` can be read: the address of its block, and the way to it.
    pub(super) fn source(&self, row: RowId) -> (RowId, Source) {
        let (id, block) = self.home(row).expect("a row of the index is in a block");
        match &block.body {
            Body::Open(rows) => (row, Source::Row(Box::new(rows[place_in(rows, row)].clone()))),
            Body::Closed(bytes) => (id, Source::Block(bytes.clone())),
            Body::Stored => (id, Source::Stored(id)),
        }
    }

    /// What [`Blocks::source`] would read, and how many bytes that has.
    fn portion(&self, row: RowId) -> (Portion, usize) {
        let (id, block) = self.home(row).expect("a row of the index is in a block");
        match &block.body {
            Body::Open(rows) => (Portion::Row(row), rows[place_in(rows, row)].encoded_len()),
            Body::Closed(_) | Body::Stored => (Portion::Block(id), block.bytes),
        }
    }

    /// How many bytes must be read to read `row`: its whole block.
    pub(super) fn block_bytes(&self, row: RowId) -> usize {
        self.home(row).map_or(0, |(_, block)| block.bytes)
    }

    /// Blocks in order from the one that has `from` on: address, rows, bytes, and where to read them.
    pub(super) fn walk(&self, from: RowId) -> impl Iterator<Item = (RowId, usize, usize, Vec<Source>)> {
        let first = self.home(from).map_or(from, |(id, _)| id);
        self.directory.range(first..).map(|(id, block)| {
            let mut sources = Vec::new();
            block.add_sources(*id, &mut sources);
            (*id, block.rows as usize, block.bytes, sources)
        })
    }

    /// The next blocks after the one at `after`, of about `bytes` bytes: the address of the last, and where to read them.
    pub(super) fn next(&self, after: Option<RowId>, bytes: usize) -> Option<(RowId, Vec<Source>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, mut sources, mut sum) = (None, Vec::new(), 0);
        for (id, block) in self.directory.range((from, Bound::Unbounded)) {
            if sum > 0 && sum + block.bytes > bytes {
                break;
            }
            sum += block.bytes;
            last = Some(*id);
            block.add_sources(*id, &mut sources);
        }
        last.map(|last| (last, sources))
    }

    /// Counts rows as dead, once each.
    pub(super) fn kill(&mut self, rows: &[RowId]) {
        for row in rows {
            let Some((&id, block)) = self.directory.range_mut(..=*row).next_back() else { continue };
            block.dead += 1;
            self.worn.insert(id);
        }
    }

    /// The next blocks to be rewritten, which must be read for that; see [`Blocks::mend`].
    pub(super) fn worn(&self, count: usize) -> Vec<RowId> {
        self.worn.iter().copied().take(count).collect()
    }

    /// Whether a block must be read from the engine to be rewritten.
    pub(super) fn is_cold(&self, id: RowId) -> bool {
        self.directory.get(&id).is_some_and(|block| matches!(block.body, Body::Stored) && block.dead < block.rows)
    }

    /// Rewrites a worn block without its dead rows, or removes it if no other are left.
    pub(super) fn mend(&mut self, id: RowId, reader: &Reader, lives: impl Fn(&Row) -> bool) -> Result<(), Error> {
        self.worn.remove(&id);
        let Some(block) = self.directory.get_mut(&id) else { return Ok(()) };
        let before = block.bytes;
        let live: Vec<Row> = match &mut block.body {
            _ if block.dead >= block.rows => Vec::new(),
            Body::Open(rows) => std::mem::take(rows).into_iter().filter(&lives).collect(),
            Body::Closed(bytes) => unpack(bytes.clone(), &lives)?,
            Body::Stored => unpack(reader.block(id)?, &lives)?,
        };
        if self.dirty.remove(&id) {
            self.dirty_bytes -= before;
        }
        reader.cache.remove(id);
        self.stored_bytes -= before as u64;
        if live.is_empty() {
            self.directory.remove(&id);
            self.stored_bytes -= ADDRESS_BYTES;
            self.gone.insert(id);
            return Ok(());
        }
        let open = matches!(block.body, Body::Open(_));
        (block.rows, block.dead, block.bytes) = (live.len() as u32, 0, live.iter().map(Row::encoded_len).sum());
        self.stored_bytes += block.bytes as u64;
        block.body = if open { Body::Open(live) } else { Body::Closed(encode_block(&live)) };
        self.mark(id, 0);
        Ok(())
    }

    /// Moves everything that changed into `batch`.
    pub(super) fn drain(&mut self, batch: &mut Batch) {
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty_bytes = 0;
        for id in std::mem::take(&mut self.gone) {
            batch.delete(Table::Key, id.to_key().to_vec());
        }
        for id in &dirty {
            let block = self.directory.get_mut(id).expect("a removed block is not dirty");
            block.flying += 1;
            let bytes = match &block.body {
                Body::Open(rows) => encode_block(rows),
                Body::Closed(bytes) => bytes.clone(),
                Body::Stored => unreachable!("a stored block has not changed"),
            };
            batch.put(Table::Key, id.to_key().to_vec(), bytes);
        }
        self.flights.push_back(dirty.into_iter().collect());
    }

    /// Notes that the engine has the oldest batch that was drained: its closed blocks need not stay resident.
    pub(super) fn written(&mut self, cache: &Cache) {
        for id in self.flights.pop_front().unwrap_or_default() {
            let Some(block) = self.directory.get_mut(&id) else { continue };
            block.flying = block.flying.saturating_sub(1);
            if block.flying > 0 || self.dirty.contains(&id) {
                continue;
            }
            if let Body::Closed(bytes) = &block.body {
                cache.put(id, bytes.clone());
                block.body = Body::Stored;
            }
        }
    }

    /// Whether the next batch would have anything.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.gone.is_empty()
    }

    /// Bytes that the next batch would have.
    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Bytes of all blocks, dead rows included.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    #[cfg(test)]
    pub(super) fn resident_bytes(&self) -> usize {
        let resident = self.directory.values().filter(|block| !matches!(block.body, Body::Stored));
        resident.map(|block| block.bytes).sum()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.directory.len()
    }
}

fn unpack(bytes: Bytes, lives: impl Fn(&Row) -> bool) -> Result<Vec<Row>, Error> {
    let mut live = Vec::new();
    for packed in Rows(bytes) {
        live.extend(Some(packed?.unpack()?).filter(&lives));
    }
    Ok(live)
}

fn place_in(rows: &[Row], row: RowId) -> usize {
    rows.binary_search_by_key(&row, |row| row.id).expect("a row of the index is in its block")
}

/// What is read at once: a row of the open block, or a block whole. A block has the address of its first row, and the open one may be closed
/// between two slices of a selection: the address alone would not tell that row from its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Portion {
    Row(RowId),
    Block(RowId),
}

/// The sources of many rows, each block once.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
    places: HashMap<Portion, u32>,
    /// What was noted last: neighbours are often in one block.
    last: Option<(Portion, u32)>,
    /// What was read last: its place, its address, and where it ends in its block. The next one is often behind it.
    read: Option<(u32, RowId, usize)>,
    bytes: usize,
}

impl Sources {
    /// Notes where `row` is; the number is for [`Sources::load`].
    pub(super) fn add(&mut self, blocks: &Blocks, row: RowId) -> u32 {
        let (portion, bytes) = blocks.portion(row);
        if let Some((last, place)) = self.last
            && last == portion
        {
            return place;
        }
        let next = self.list.len() as u32;
        let place = *self.places.entry(portion).or_insert(next);
        if place == next {
            self.list.push(blocks.source(row).1);
            self.bytes += bytes;
        }
        self.last = Some((portion, place));
        place
    }

    /// Bytes of all blocks that were noted.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads one row.
    pub(super) fn load(&mut self, reader: &Reader, place: u32, row: RowId) -> Result<Row, Error> {
        let source = &mut self.list[place as usize];
        if let Source::Stored(id) = source {
            *source = Source::Block(reader.block(*id)?);
        }
        let found = match source {
            Source::Row(found) => (found.id == row).then(|| Row::clone(found)),
            Source::Block(block) => {
                let is_behind = |(last, id, _): &(u32, RowId, usize)| *last == place && *id < row;
                let begin = self.read.filter(is_behind).map_or(0, |(_, _, end)| end);
                find(block, begin, row)?.map(|(found, end)| {
                    self.read = Some((place, row, end));
                    found
                })
            }
            Source::Stored(_) => None,
        };
        found.ok_or_else(|| Error::Damaged(format!("row {row:?} is not in its block")))
    }
}
