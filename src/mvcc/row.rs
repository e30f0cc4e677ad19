//! One row of history, and how a run of rows is packed into a block.
//!
//! A row is what etcd keeps under one key of its bucket `key`: a marshalled `KeyValue`, addressed by the revision that wrote
//! it and by its place within that revision. A block is rows one after the other, each with a small head:
//!
//! ```text
//! varint main │ varint sub·2 + tombstone │ varint length │ KeyValue
//! ```
//!
//! Source for addresses and values: etcd `server/storage/mvcc/revision.go`; the block is ours.

use crate::error::Error;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use crate::types::Revision;
use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;
use prost::encoding::decode_varint;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;

/// Where a row stands in history: the revision that wrote it, and its place among that revision's changes, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub main: Revision,
    pub sub: u32,
}

impl RowId {
    /// The first row that `main` can have.
    #[must_use]
    pub fn first_of(main: Revision) -> RowId {
        RowId { main, sub: 0 }
    }

    /// etcd's 17 bytes: byte order is the order of history.
    #[must_use]
    pub fn to_key(self) -> [u8; 17] {
        let mut key = [b'_'; 17];
        key[..8].copy_from_slice(&self.main.0.to_be_bytes());
        key[9..].copy_from_slice(&u64::from(self.sub).to_be_bytes());
        key
    }

    /// Reads [`RowId::to_key`]'s form.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are anything else.
    pub fn from_key(key: &[u8]) -> Result<RowId, Error> {
        let parse = || {
            let (main, rest) = key.split_first_chunk::<8>()?;
            let sub = rest.strip_prefix(b"_")?;
            let sub = u64::from_be_bytes(sub.try_into().ok()?);
            Some(RowId { main: Revision(u64::from_be_bytes(*main)), sub: u32::try_from(sub).ok()? })
        };
        parse().ok_or_else(|| Error::Damaged(format!("{key:?} is no address of a row of history")))
    }
}

/// One change of one key. A tombstone's `kv` has the key only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: RowId,
    pub(super) tombstone: bool,
    pub(super) kv: KeyValue,
}

impl Row {
    /// Bytes that the row takes in a block.
    pub(super) fn encoded_len(&self) -> usize {
        let kv = self.kv.encoded_len();
        encoded_len_varint(self.id.main.0) + encoded_len_varint(self.tag()) + encoded_len_varint(kv as u64) + kv
    }

    fn tag(&self) -> u64 {
        u64::from(self.id.sub) << 1 | u64::from(self.tombstone)
    }

    fn encode(&self, block: &mut BytesMut) {
        encode_varint(self.id.main.0, block);
        encode_varint(self.tag(), block);
        encode_varint(self.kv.encoded_len() as u64, block);
        self.kv.encode_raw(block);
    }

    /// What a watcher is told of this row: a delete names the key and the revision, nothing else.
    pub(super) fn into_event(self) -> Event {
        let Row { id, tombstone, mut kv } = self;
        let kind = if tombstone { EventType::Delete } else { EventType::Put };
        if tombstone {
            kv.mod_revision = id.main.to_wire();
        }
        Event { r#type: kind as i32, kv: Some(kv), prev_kv: None }
    }
}

/// Packs rows into one block.
pub(super) fn encode_block(rows: &[Row]) -> Bytes {
    let mut block = BytesMut::with_capacity(rows.iter().map(Row::encoded_len).sum());
    for row in rows {
        row.encode(&mut block);
    }
    block.freeze()
}

/// A row whose `KeyValue` is not decoded yet.
pub(super) struct Packed {
    pub(super) id: RowId,
    pub(super) tombstone: bool,
    pub(super) kv: Bytes,
}

impl Packed {
    /// Decodes the `KeyValue`; its key and value share the block's memory.
    pub(super) fn unpack(self) -> Result<Row, Error> {
        let kv = KeyValue::decode(self.kv).map_err(|e| Error::Damaged(format!("row {:?}: {e}", self.id)))?;
        Ok(Row { id: self.id, tombstone: self.tombstone, kv })
    }
}

/// Walks the rows of a block in order.
pub(super) struct Rows(pub(super) Bytes);

impl Iterator for Rows {
    type Item = Result<Packed, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.0.has_remaining() {
            return None;
        }
        let row = self.read();
        if row.is_err() {
            self.0.clear();
        }
        Some(row)
    }
}

impl Rows {
    fn read(&mut self) -> Result<Packed, Error> {
        let mut rest: &[u8] = &self.0;
        let head = Head::read(&mut rest)?;
        let begin = self.0.len() - rest.len();
        self.0.advance(begin);
        Ok(Packed { id: head.id, tombstone: head.tombstone, kv: self.0.split_to(head.len) })
    }
}

/// What stands before a row in a block.
struct Head {
    id: RowId,
    tombstone: bool,
    /// Bytes of the row, which are there.
    len: usize,
}

impl Head {
    /// Reads a head; `rest` begins with the row then.
    fn read(rest: &mut &[u8]) -> Result<Head, Error> {
        let damaged = |what: &str| Error::Damaged(format!("a block of history: {what}"));
        let mut number = || decode_varint(rest).map_err(|e| damaged(&e.to_string()));
        let (main, tag, len) = (number()?, number()?, number()?);
        let sub = u32::try_from(tag >> 1).map_err(|_| damaged("a place within a revision that cannot be"))?;
        let len =
            usize::try_from(len).ok().filter(|len| *len <= rest.len()).ok_or_else(|| damaged("a row is cut off"))?;
        Ok(Head { id: RowId { main: Revision(main), sub }, tombstone: tag & 1 == 1, len })
    }
}

/// Finds one row in a block, from `begin` on, where a row must begin; and where it ends. Those before it are passed by their heads alone.
pub(super) fn find(block: &Bytes, begin: usize, id: RowId) -> Result<Option<(Row, usize)>, Error> {
    let mut rest: &[u8] = &block[begin..];
    while !rest.is_empty() {
        let head = Head::read(&mut rest)?;
        if head.id > id {
            break;
        }
        if head.id == id {
            let begin = block.len() - rest.len();
            let end = begin + head.len;
            let row = Packed { id, tombstone: head.tombstone, kv: block.slice(begin..end) }.unpack()?;
            return Ok(Some((row, end)));
        }
        rest = &rest[head.len..];
    }
    Ok(None)
}

/// Writes a row's address as etcd's bucket has it: 17 bytes, and a `t` behind a tombstone's.
pub(super) fn raw_key(id: RowId, tombstone: bool, out: &mut Vec<u8>) {
    out.clear();
    out.put_slice(&id.to_key());
    if tombstone {
        out.put_u8(b't');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(main: u64, sub: u32, tombstone: bool) -> Row {
        let key = Bytes::from_static(b"k");
        let kv = match tombstone {
            true => KeyValue { key, ..KeyValue::default() },
            false => KeyValue { key, version: 1, mod_revision: main as i64, ..KeyValue::default() },
        };
        Row { id: RowId { main: Revision(main), sub }, tombstone, kv }
    }

    #[test]
    fn an_address_is_etcds_seventeen_bytes() {
        let id = RowId { main: Revision(2), sub: 1 };
        assert_eq!(&id.to_key(), b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01");
        assert_eq!(RowId::from_key(&id.to_key()), Ok(id));
        assert!(RowId::from_key(b"short").is_err());
        assert!(RowId::from_key(&[b'x'; 17]).is_err());
    }

    #[test]
    fn a_block_gives_back_its_rows() {
        let rows = [row(2, 0, false), row(300, 1, true), row(300, 2, false)];
        let block = encode_block(&rows);
        assert_eq!(block.len(), rows.iter().map(Row::encoded_len).sum::<usize>());
        let back: Vec<Row> =
            Rows(block.clone()).map(|packed| packed.and_then(Packed::unpack).expect("whole")).collect();
        assert_eq!(back, rows);
        let (found, end) = find(&block, 0, rows[1].id).expect("whole").expect("there");
        assert_eq!((found, end), (rows[1].clone(), block.len() - rows[2].encoded_len()));
        assert_eq!(find(&block, end, rows[2].id), Ok(Some((rows[2].clone(), block.len()))));
        assert_eq!(find(&block, end, rows[1].id), Ok(None), "it is before");
        assert_eq!(find(&block, 0, RowId { main: Revision(3), sub: 0 }), Ok(None));
    }

    #[test]
    fn a_block_that_is_cut_off_is_damage_and_no_panic() {
        let block = encode_block(&[row(2, 0, false)]);
        for len in 1..block.len() {
            assert!(Rows(block.slice(..len)).any(|packed| packed.is_err()), "cut to {len}");
        }
    }
}
