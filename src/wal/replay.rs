//! Reading a log back: every record checked, then made into what raft starts from.
//!
//! A log is read forwards, and what is later wins: an entry replaces all that had its index or a higher one, a hard
//! state the one before. A snapshot mark that the log's own entries reach says only "the store has this"; one that
//! they do not reach says that a snapshot came from the leader, and then entries before it are of no use.
//!
//! Only the newest segment may end in a write that was cut short. Anything else that does not fit is damage, refused
//! with file and offset: a member must not go on as if it had never acknowledged what it lost.

use super::Metadata;
use super::SegmentName;
use super::SnapshotMark;
use super::frame;
use super::frame::HEADER_BYTES;
use super::frame::Kind;
use super::frame::Lengths;
use super::frame::RawMetadata;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::error::Error;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::types::ClusterId;
use crate::types::MemberId;
use bytes::Bytes;
use prost::Message;
use std::path::Path;

/// How much of a segment is read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What a log says.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Whose log it is.
    pub metadata: Metadata,
    /// Where the entries begin: the state after this one must come from the store or a snapshot.
    pub start: SnapshotMark,
    /// The entries after `start`, without gaps. The last ones may not be committed.
    pub entries: Vec<Entry>,
    /// Term, vote and commit as last written.
    pub hard_state: HardState,
    /// All marks up to the commit index, oldest first.
    pub snapshots: Vec<SnapshotMark>,
    /// A write that was cut short at the end of the log, in words.
    pub torn: Option<String>,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) crc: u32,
    /// The index of the last entry or mark that was written.
    pub(super) last_index: u64,
}

/// What is wrong with a frame.
struct Bad {
    offset: u64,
    what: String,
    torn: bool,
}

/// What each segment begins with: the checksum so far, and whose log this is.
const HEAD_RECORDS: u64 = 2;

/// One step through a segment.
enum Step {
    Record(Kind, Bytes, u32),
    End,
    Bad(Bad),
}

/// Reads one segment frame by frame.
pub(super) struct SegmentReader {
    file: Box<dyn DiskFile>,
    len: u64,
    offset: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentReader {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<SegmentReader, Error> {
        let file = disk.open(path)?;
        let len = file.len()?;
        Ok(SegmentReader { file, len, offset: 0, window: Vec::new(), window_at: 0 })
    }

    /// Up to `want` bytes at `at`; fewer at the end of the file.
    fn peek(&mut self, at: u64, want: usize) -> Result<&[u8], Error> {
        let want = want.min(usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX));
        let inside = at >= self.window_at && at + want as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
            self.window.resize(want.max(WINDOW_BYTES).min(left), 0);
            let read = self.file.read_at(at, &mut self.window)?;
            self.window.truncate(read);
            self.window_at = at;
        }
        let from = usize::try_from(at - self.window_at).expect("inside the window");
        Ok(&self.window[from..(from + want).min(self.window.len())])
    }

    /// The next record, checked against the chain.
    fn step(&mut self, chain: u32) -> Result<Step, Error> {
        let offset = self.offset;
        let bad = |what: String, torn| Ok(Step::Bad(Bad { offset, what, torn }));
        let header = self.peek(offset, HEADER_BYTES as usize)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        let Ok(header) = <[u8; 8]>::try_from(header) else {
            return bad("the file ends inside a length".to_owned(), true);
        };
        let Some(lengths) = Lengths::parse(header) else {
            return bad(format!("no frame begins with {header:02x?}"), false);
        };
        let body_at = offset + HEADER_BYTES;
        // Checked before anything is allocated: a length that points past the file is read up to its end only. With it comes the rest of the sector
        // in which it ends.
        let (length, available) = (lengths.body(), self.len - body_at);
        let end = (body_at + length.min(available)).next_multiple_of(frame::SECTOR_BYTES);
        let bytes = self.peek(body_at, usize::try_from(end - body_at).unwrap_or(usize::MAX))?;
        if available < length || (bytes.len() as u64) < length {
            let torn = frame::is_torn(lengths, bytes, body_at);
            return bad(format!("a record of {} bytes does not fit into the file", lengths.record), torn);
        }
        match frame::decode(&bytes[..usize::try_from(lengths.record).unwrap_or(0)], chain) {
            Ok((kind, data, crc)) => {
                self.offset = body_at + length;
                Ok(Step::Record(kind, data, crc))
            }
            Err(what) => {
                let torn = frame::is_torn(lengths, bytes, body_at);
                bad(what, torn)
            }
        }
    }

    /// What there is after the last record, if it is anything but zeros: a write of several sectors of which the
    /// first is missing. If only a part of that sector is zero, it is damage.
    fn leftovers(&mut self) -> Result<Option<Bad>, Error> {
        let (offset, mut at) = (self.offset, self.offset);
        while at < self.len {
            let chunk = self.peek(at, WINDOW_BYTES)?;
            if let Some(zeros) = chunk.iter().position(|byte| *byte != 0) {
                let torn = at + zeros as u64 >= offset.next_multiple_of(frame::SECTOR_BYTES);
                return Ok(Some(Bad { offset, what: "data after the last record".to_owned(), torn }));
            }
            at += (chunk.len() as u64).max(1);
        }
        Ok(None)
    }
}

/// What has been read so far.
#[derive(Default)]
struct State {
    metadata: Option<RawMetadata>,
    hard_state: HardState,
    entries: Vec<Entry>,
    marks: Vec<SnapshotMark>,
    /// A mark beyond the entries: it counts once something after it shows that the snapshot was installed.
    received: Option<SnapshotMark>,
    last_index: u64,
}

impl State {
    fn record(&mut self, kind: Kind, data: Bytes) -> Result<(), String> {
        let unreadable = |e: prost::DecodeError| format!("{kind:?} record: {e}");
        // The checksum does not cover a record's type: a message must not pass for one with fewer fields.
        if !frame::has_only_fields_of(kind, &data) {
            return Err(format!("{kind:?} record: unknown fields"));
        }
        match kind {
            Kind::Crc => Ok(()),
            Kind::Metadata => self.metadata(RawMetadata::decode(data).map_err(unreadable)?),
            Kind::HardState => self.hard_state(HardState::decode(data).map_err(unreadable)?),
            Kind::Snapshot => {
                self.mark(SnapshotMark::decode(data).map_err(unreadable)?);
                Ok(())
            }
            Kind::Entry => self.entry(Entry::decode(data).map_err(unreadable)?),
        }
    }

    fn metadata(&mut self, new: RawMetadata) -> Result<(), String> {
        match self.metadata.replace(new) {
            Some(before) if before != new => Err("this segment belongs to another member or cluster".to_owned()),
            _ => Ok(()),
        }
    }

    fn hard_state(&mut self, new: HardState) -> Result<(), String> {
        if new.term < self.hard_state.term {
            return Err(format!("the term falls from {} to {}", self.hard_state.term, new.term));
        }
        if new.commit < self.hard_state.commit {
            return Err(format!("the commit index falls from {} to {}", self.hard_state.commit, new.commit));
        }
        if self.received.as_ref().is_some_and(|mark| mark.index <= new.commit) {
            self.install();
        }
        self.hard_state = new;
        Ok(())
    }

    fn mark(&mut self, mark: SnapshotMark) {
        self.last_index = self.last_index.max(mark.index);
        let reached = match self.entries.first() {
            Some(first) if mark.index < first.index => true,
            Some(_) => self.get(mark.index).is_some_and(|entry| entry.term == mark.term),
            None => self.marks.last().is_none_or(|last| mark.index <= last.index),
        };
        if reached { self.marks.push(mark) } else { self.received = Some(mark) }
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.entries.first()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// The snapshot of the received mark replaced the whole log.
    fn install(&mut self) {
        if let Some(mark) = self.received.take() {
            self.entries.clear();
            self.marks.push(mark);
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        if self.received.as_ref().is_some_and(|mark| mark.index.checked_add(1) == Some(entry.index)) {
            self.install();
        }
        self.received = None;
        if entry.index <= self.hard_state.commit && self.get(entry.index).is_some_and(|old| old.term != entry.term) {
            return Err(format!("entry {} replaces a committed one", entry.index));
        }
        let first = self.entries.first().map_or(entry.index, |first| first.index);
        let place = usize::try_from(entry.index.saturating_sub(first)).unwrap_or(usize::MAX);
        if place > self.entries.len() {
            let last = self.entries.last().map_or(0, |last| last.index);
            return Err(format!("entry {} follows entry {last}: those between are missing", entry.index));
        }
        let before = place.checked_sub(1).map_or(0, |before| self.entries[before].term);
        if entry.term < before || !(0..=2).contains(&entry.entry_type) {
            return Err(format!(
                "entry {} of term {} and type {} cannot be",
                entry.index, entry.term, entry.entry_type
            ));
        }
        self.last_index = entry.index;
        self.entries.truncate(place);
        self.entries.push(entry);
        Ok(())
    }

    /// Chooses the start and drops the entries up to it.
    fn finish(mut self, dir: &Path, from: Option<&SnapshotMark>, torn: Option<String>) -> Result<Replay, Error> {
        let damaged = |what: String| Error::Damaged(format!("{}: {what}", dir.display()));
        let raw = self.metadata.ok_or_else(|| damaged("no record says whose log this is".to_owned()))?;
        let (commit, first) = (self.hard_state.commit, self.entries.first().map(|entry| entry.index));
        self.marks.retain(|mark| mark.index <= commit);
        let is_start = |mark: &&SnapshotMark| match from {
            Some(from) => (mark.index, mark.term) == (from.index, from.term),
            None => first.is_none_or(|first| mark.index >= first.saturating_sub(1)),
        };
        let mut starts = self.marks.iter().filter(is_start);
        let start = if first.is_some() { starts.min_by_key(|mark| mark.index) } else { starts.next_back() };
        let start = start.cloned().ok_or_else(|| match from {
            Some(from) => damaged(format!("no mark of a snapshot at index {}, term {}", from.index, from.term)),
            None => damaged("no mark of a snapshot from which the entries go on".to_owned()),
        })?;
        self.entries.retain(|entry| entry.index > start.index);
        if let Some(first) = self.entries.first().filter(|first| first.index - 1 != start.index) {
            return Err(damaged(format!("entry {} follows the snapshot at {}", first.index, start.index)));
        }
        let metadata = Metadata { member: MemberId(raw.member), cluster: ClusterId(raw.cluster) };
        let Self { entries, hard_state, marks: snapshots, .. } = self;
        Ok(Replay { metadata, start, entries, hard_state, snapshots, torn })
    }
}

/// Reads the segments `names` of `dir`, in order.
pub(super) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    names: &[SegmentName],
    from: Option<&SnapshotMark>,
) -> Result<(Replay, End), Error> {
    let mut state = State::default();
    let mut end = End { offset: 0, crc: 0, last_index: 0 };
    let mut torn = None;
    for (place, name) in names.iter().enumerate() {
        let path = dir.join(name.to_string());
        let damaged = |bad: &Bad| Error::Damaged(format!("{} at offset {}: {}", path.display(), bad.offset, bad.what));
        let mut reader = SegmentReader::open(disk, &path)?;
        let stopped = read_segment(&mut reader, &mut state, &mut end.crc, place == 0)?;
        end.offset = reader.offset;
        match stopped.map_or_else(|| reader.leftovers(), |bad| Ok(Some(bad)))? {
            None => {}
            Some(bad) if bad.torn && place + 1 == names.len() => torn = Some(damaged(&bad).to_string()),
            Some(bad) => return Err(damaged(&bad)),
        }
    }
    end.last_index = state.last_index;
    Ok((state.finish(dir, from, torn)?, end))
}

/// Reads one segment into `state`; returns what stopped it, if that was not its end.
fn read_segment(
    reader: &mut SegmentReader,
    state: &mut State,
    crc: &mut u32,
    first: bool,
) -> Result<Option<Bad>, Error> {
    let mut read = 0;
    loop {
        let offset = reader.offset;
        let refuse = |what: String| Ok(Some(Bad { offset, what, torn: false }));
        // A segment has its name only after its head is synced: what is missing of that was not torn off by a crash.
        let in_head = read < HEAD_RECORDS;
        let (kind, data, next) = match reader.step(*crc)? {
            Step::Record(kind, data, next) => (kind, data, next),
            Step::End if offset == 0 => return refuse("the segment is empty".to_owned()),
            Step::End if in_head => return refuse("the segment ends in its head".to_owned()),
            Step::End => return Ok(None),
            Step::Bad(bad) => return Ok(Some(Bad { torn: bad.torn && !in_head, ..bad })),
        };
        // A segment begins with the checksum at which the one before ended.
        if (offset == 0) != (kind == Kind::Crc) {
            return refuse(format!("a {kind:?} record in the wrong place"));
        }
        if kind == Kind::Crc && !first && next != *crc {
            return refuse(format!("the chain of checksums breaks: {next:08x} follows {crc:08x}"));
        }
        *crc = next;
        if let Err(what) = state.record(kind, data) {
            return refuse(what);
        }
        read += 1;
    }
}

#[cfg(test)]
pub(super) fn records(disk: &dyn Disk, path: &Path) -> Vec<(Kind, Bytes)> {
    let (mut reader, mut crc, mut all) = (SegmentReader::open(disk, path).expect("there"), 0, Vec::new());
    while let Step::Record(kind, data, next) = reader.step(crc).expect("readable") {
        crc = next;
        all.push((kind, data));
    }
    all
}
