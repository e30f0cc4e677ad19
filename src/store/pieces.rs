//! Rows that are too large for sled's leaves, cut into pieces; and what makes sled let go of the leaves that were read.
//!
//! sled keeps up to 16 rows in a leaf, which it writes whole when some of them change, and holds in memory whole. With rows of 1 MB a small row
//! beside them costs megabytes of disk, and a cache of any size is too small. So a row above [`WHOLE_BYTES`] is empty where it belongs, and its
//! bytes stand in a table of their own:
//!
//! ```text
//! key     ⟨address⟩              → (empty)
//! pieces  key/⟨address⟩⟨0⟩       → its length, 8 bytes big-endian, and its first bytes
//! pieces  key/⟨address⟩⟨1⟩       → its next bytes …
//! ```
//!
//! All of it changes in the batch's one transaction. A row that is really empty has no pieces, so a store of format 1, where rows of any size are
//! whole, is read as it is; what is written from then on is cut.
//!
//! sled counts what its cache holds only at every 64th look into one of its 256 shards (`lru.rs`). Up to 16,384 leaves that were read once stay in
//! memory whatever the cache may hold: all of a store of half a gigabyte. [`get`] and [`next`] look again at a row that took as long as a leaf from
//! disk does, and sled counts so much sooner.

use super::Table;
use sled::IVec;
use sled::transaction::TransactionalTree;
use sled::transaction::UnabortableTransactionError;
use std::io;
use std::time::Duration;
use std::time::Instant;

/// The table of pieces: none of [`Table`].
pub(super) const PIECES: &str = "etcd-lab.pieces";

/// A larger row is cut. Blocks of history with more than one row are smaller.
pub(super) const WHOLE_BYTES: usize = 8 << 10;

/// The bytes of a piece.
pub(super) const PIECE_BYTES: usize = 4 << 10;

/// What stands before the bytes of the first piece.
const LENGTH_BYTES: usize = 8;

/// A read that took longer has fetched a leaf. One in memory takes one or two microseconds.
const FETCH: Duration = Duration::from_micros(5);

/// How often such a row is looked at again: at most 1,024 leaves are uncounted then, where it were 16,384.
const LOOKS: u32 = 15;

/// Where a piece stands.
fn place(table: Table, key: &[u8], number: usize) -> Vec<u8> {
    let number = u32::try_from(number).expect("a row has less than 16 TiB");
    [table.name().as_bytes(), b"/", key, &number.to_be_bytes()].concat()
}

/// How many pieces a row of `len` bytes has.
fn count(len: usize) -> usize {
    (LENGTH_BYTES + len).div_ceil(PIECE_BYTES)
}

fn length(first: &[u8]) -> sled::Result<usize> {
    let len = first.first_chunk::<LENGTH_BYTES>().and_then(|bytes| usize::try_from(u64::from_be_bytes(*bytes)).ok());
    len.ok_or_else(|| damaged("a piece without a length"))
}

fn damaged(what: &str) -> sled::Error {
    sled::Error::Io(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Sets or removes one row, in pieces if it is large.
pub(super) fn change(
    rows: &TransactionalTree,
    pieces: &TransactionalTree,
    (table, key, value): (Table, &[u8], Option<&[u8]>),
) -> Result<(), UnabortableTransactionError> {
    let cut = value.filter(|value| value.len() > WHOLE_BYTES);
    let old = match value {
        Some(value) => rows.insert(key, if cut.is_some() { &[][..] } else { value })?,
        None => rows.remove(key)?,
    };
    if old.is_some_and(|old| old.is_empty()) {
        remove(pieces, table, key)?;
    }
    cut.map_or(Ok(()), |value| put(pieces, table, key, value))
}

fn put(pieces: &TransactionalTree, table: Table, key: &[u8], value: &[u8]) -> Result<(), UnabortableTransactionError> {
    let (begin, rest) = value.split_at(PIECE_BYTES - LENGTH_BYTES);
    let first = [&(value.len() as u64).to_be_bytes(), begin].concat();
    pieces.insert(place(table, key, 0), first)?;
    for (number, piece) in rest.chunks(PIECE_BYTES).enumerate() {
        pieces.insert(place(table, key, number + 1), piece)?;
    }
    Ok(())
}

fn remove(pieces: &TransactionalTree, table: Table, key: &[u8]) -> Result<(), UnabortableTransactionError> {
    let Some(first) = pieces.get(place(table, key, 0))? else { return Ok(()) };
    for number in 0..count(length(&first)?) {
        pieces.remove(place(table, key, number))?;
    }
    Ok(())
}

/// The row whose place in its own table is empty. No batch may come in between.
pub(super) fn join(pieces: &sled::Tree, table: Table, key: &[u8]) -> sled::Result<Vec<u8>> {
    let Some(first) = get(pieces, &place(table, key, 0))? else { return Ok(Vec::new()) };
    let len = length(&first)?;
    let mut value = first[LENGTH_BYTES..].to_vec();
    for number in 1..count(len) {
        let piece = get(pieces, &place(table, key, number))?.ok_or_else(|| damaged("a piece of a row is missing"))?;
        if number == 1 {
            // Only now: a length that is nonsense has no second piece.
            value.reserve_exact(len.saturating_sub(value.len()).min(count(len) * PIECE_BYTES));
        }
        value.extend_from_slice(&piece);
    }
    if value.len() == len { Ok(value) } else { Err(damaged("the pieces of a row have another length than it")) }
}

/// One row of sled's.
pub(super) fn get(tree: &sled::Tree, key: &[u8]) -> sled::Result<Option<IVec>> {
    let began = Instant::now();
    let found = tree.get(key)?;
    look_again(tree, key, began)?;
    Ok(found)
}

/// The next row of a run of sled's.
pub(super) fn next(tree: &sled::Tree, run: &mut sled::Iter) -> sled::Result<Option<(IVec, IVec)>> {
    let began = Instant::now();
    let Some(row) = run.next().transpose()? else { return Ok(None) };
    look_again(tree, &row.0, began)?;
    Ok(Some(row))
}

fn look_again(tree: &sled::Tree, key: &[u8], began: Instant) -> sled::Result<()> {
    if began.elapsed() > FETCH {
        for _ in 0..LOOKS {
            tree.get(key)?;
        }
    }
    Ok(())
}
