//! Records as bytes: a frame around a checksum around a message.
//!
//! ```text
//! frame    8 bytes little-endian   length of the record; the top byte is 0x80 | padding if there is any
//! record   08 type  10 crc  1a length data      crc = CRC-32C of all data since the chain began
//! padding  0-7 zeros, so that a length never straddles two disk sectors
//! ```
//!
//! Written by hand into one buffer, fields in etcd's order and zeros included as etcd's encoder has them: what we
//! write from the same values is bit for bit what etcd writes. Source: etcd
//! `server/storage/wal/{encoder,decoder}.go`; proto2 with gogo's non-nullable fields.

use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::walpb::Record;
use crate::proto::walpb::Snapshot;
use bytes::Bytes;
use prost::Message;
use prost::encoding::DecodeContext;
use prost::encoding::decode_key;
use prost::encoding::encode_varint;
use prost::encoding::encoded_len_varint;
use prost::encoding::skip_field;

/// The bytes of a frame's length.
pub(super) const HEADER_BYTES: u64 = 8;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Metadata = 1,
    Entry = 2,
    HardState = 3,
    Crc = 4,
    Snapshot = 5,
}

impl Kind {
    pub(super) fn from_number(number: i64) -> Option<Kind> {
        use Kind::*;
        [Metadata, Entry, HardState, Crc, Snapshot].into_iter().find(|kind| *kind as i64 == number)
    }
}

/// Whose log this is: stands at the head of each segment.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub(super) struct RawMetadata {
    #[prost(uint64, tag = "1")]
    pub(super) member: u64,
    #[prost(uint64, tag = "2")]
    pub(super) cluster: u64,
}

/// Appends records to a buffer, and carries the checksum on.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    pub(super) buffer: Vec<u8>,
    pub(super) crc: u32,
}

/// A message of a few numbers: those that come once per append at most, so that one allocation does not matter.
#[derive(Default)]
struct Small(Vec<u8>);

impl Small {
    fn field(&mut self, tag: u8, value: u64) {
        self.0.push(tag << 3);
        encode_varint(value, &mut self.0);
    }

    fn message(&mut self, tag: u8, message: &Small) {
        self.0.push(tag << 3 | 2);
        encode_varint(message.0.len() as u64, &mut self.0);
        self.0.extend_from_slice(&message.0);
    }
}

impl Encoder {
    /// The record that begins a segment: the checksum so far.
    pub(super) fn crc_record(&mut self) {
        self.record(Kind::Crc, &[], &[]);
    }

    pub(super) fn metadata(&mut self, metadata: RawMetadata) {
        let mut data = Small::default();
        data.field(1, metadata.member);
        data.field(2, metadata.cluster);
        self.record(Kind::Metadata, &data.0, &[]);
    }

    pub(super) fn hard_state(&mut self, state: &HardState) {
        let mut data = Small::default();
        data.field(1, state.term);
        data.field(2, state.vote);
        data.field(3, state.commit);
        self.record(Kind::HardState, &data.0, &[]);
    }

    pub(super) fn snapshot(&mut self, mark: &Snapshot) {
        let mut data = Small::default();
        data.field(1, mark.index);
        data.field(2, mark.term);
        if let Some(state) = &mark.conf_state {
            data.message(3, &conf_state(state));
        }
        self.record(Kind::Snapshot, &data.0, &[]);
    }

    /// The hot one: nothing is allocated, the entry's data is copied once.
    pub(super) fn entry(&mut self, entry: &Entry) {
        // Three tags with a varint of at most ten bytes each, and the tag and length of the data.
        let mut head = [0; 44];
        let mut rest: &mut [u8] = &mut head;
        for (tag, value) in [(0x08_u64, entry.entry_type as u64), (0x10, entry.term), (0x18, entry.index)] {
            encode_varint(tag, &mut rest);
            encode_varint(value, &mut rest);
        }
        if !entry.data.is_empty() {
            encode_varint(0x22, &mut rest);
            encode_varint(entry.data.len() as u64, &mut rest);
        }
        let used = 44 - rest.len();
        self.record(Kind::Entry, &head[..used], &entry.data);
    }

    /// One record, its data in two parts.
    fn record(&mut self, kind: Kind, head: &[u8], tail: &[u8]) {
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, head), tail);
        let data_len = head.len() + tail.len();
        let crc_len = 1 + encoded_len_varint(u64::from(self.crc));
        let framed = if data_len == 0 { 0 } else { 1 + encoded_len_varint(data_len as u64) + data_len };
        let record_len = 2 + crc_len + framed;
        let padding = record_len.wrapping_neg() % 8;
        let flag = if padding == 0 { 0 } else { 0x80 | padding as u64 };
        self.buffer.extend_from_slice(&(record_len as u64 | flag << 56).to_le_bytes());
        self.buffer.extend_from_slice(&[0x08, kind as u8, 0x10]);
        encode_varint(u64::from(self.crc), &mut self.buffer);
        if data_len > 0 {
            self.buffer.push(0x1a);
            encode_varint(data_len as u64, &mut self.buffer);
            self.buffer.extend_from_slice(head);
            self.buffer.extend_from_slice(tail);
        }
        self.buffer.extend_from_slice(&[0; 8][..padding]);
    }
}

/// etcd writes repeated numbers one by one, not packed.
fn conf_state(state: &ConfState) -> Small {
    let mut data = Small::default();
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    for (tag, list) in (1..).zip(lists) {
        list.iter().for_each(|id| data.field(tag, *id));
    }
    data.field(5, u64::from(state.auto_leave));
    data
}

/// The length of a frame's record and of its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) record: u64,
    pub(super) padding: u64,
}

impl Lengths {
    /// Reads a frame's first 8 bytes; `None` if no writer makes such ones.
    pub(super) fn parse(header: [u8; 8]) -> Option<Lengths> {
        let word = u64::from_le_bytes(header);
        let (flag, record) = (word >> 56, word & (u64::MAX >> 8));
        let padding = if flag == 0 { 0 } else { flag ^ 0x80 };
        let fits = padding < 8 && (flag == 0 || padding > 0) && (record + padding).is_multiple_of(8) && record > 0;
        fits.then_some(Lengths { record, padding })
    }

    /// Both together.
    pub(super) fn body(self) -> u64 {
        self.record + self.padding
    }
}

/// Decodes a record whose bytes are all there, and checks it against the chain, which it carries on.
pub(super) fn decode(record: &[u8], chain: u32) -> Result<(Kind, Bytes, u32), String> {
    let record = Record::decode(record).map_err(|e| format!("no record: {e}"))?;
    let kind = Kind::from_number(record.r#type).ok_or_else(|| format!("unexpected record type {}", record.r#type))?;
    let (data, stored) = (record.data.unwrap_or_default(), record.crc.unwrap_or_default());
    if kind == Kind::Crc {
        return Ok((kind, data, stored));
    }
    let computed = crc32c::crc32c_append(chain, &data);
    if computed == stored {
        Ok((kind, data, computed))
    } else {
        Err(format!("checksum mismatch: stored {stored:08x}, computed {computed:08x}"))
    }
}

/// Whether a message has no fields but those that its kind can have.
pub(super) fn has_only_fields_of(kind: Kind, mut data: &[u8]) -> bool {
    let most = match kind {
        Kind::Crc => 0,
        Kind::Metadata => 2,
        Kind::HardState | Kind::Snapshot => 3,
        Kind::Entry => 4,
    };
    while !data.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut data) else { return false };
        if tag > most || skip_field(wire, tag, &mut data, DecodeContext::default()).is_err() {
            return false;
        }
    }
    true
}

/// Whether a bad frame looks like a write that power cut short, rather than like damage. `bytes` is what there is of record and padding, at `at` in the
/// file, and of the sector in which they end.
///
/// A disk writes whole sectors, so a write that was cut short left the file too short or a sector of zeros: all of it, also what is behind a record that
/// ends in it, for nothing was ever written there. The sector of the length was written, and a record of that length begins there. Where none does,
/// something has changed, and calling that torn would throw away what was acknowledged.
pub(super) fn is_torn(lengths: Lengths, bytes: &[u8], at: u64) -> bool {
    let body = &bytes[..usize::try_from(lengths.body()).unwrap_or(usize::MAX).min(bytes.len())];
    let first = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(0);
    // The length may stand at the very end of its sector.
    let beside_length = if at.is_multiple_of(SECTOR_BYTES) { 0 } else { first.min(bytes.len()) };
    let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    let begins = &body[..first.min(body.len())];
    if !is_zero(begins) && !may_begin(lengths.record, begins) {
        return false;
    }
    let lost_at_once = beside_length > 0 && is_zero(begins);
    let is_short = (body.len() as u64) < lengths.body();
    is_short || lost_at_once || bytes[beside_length..].chunks(SECTOR_BYTES as usize).any(is_zero)
}

/// Whether a record of `length` bytes can begin so, by its own fields as far as they are there: type, checksum, and (but for the first of a segment) data.
fn may_begin(length: u64, mut bytes: &[u8]) -> bool {
    let all = bytes.len();
    for tag in [0x08, 0x10, 0x1a] {
        let Some((first, rest)) = bytes.split_first() else { return true };
        bytes = rest;
        let mut value = bytes;
        match prost::encoding::decode_varint(&mut value) {
            _ if *first != tag => return false,
            Ok(data) if tag == 0x1a => return data.checked_add((all - value.len()) as u64) == Some(length),
            Ok(_) => bytes = value,
            // It goes on where nothing is left to look at, or is longer than any number.
            Err(_) => return bytes.len() < VARINT_BYTES_MAX,
        }
    }
    true
}

/// No number takes more bytes.
const VARINT_BYTES_MAX: usize = 10;
