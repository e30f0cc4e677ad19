//! The write-ahead log: the one place on disk on which an acknowledgement depends.
//!
//! What raft must not forget (entries, term and vote, how far the store has come) is appended here and synced before
//! anybody is answered. The format is etcd's to the letter, so that etcd's own tools open it. A log is a folder of
//! segments:
//!
//! ```text
//! 0000000000000000-0000000000000000.wal   crc metadata snapshot(0) entry entry hard-state …
//! 0000000000000001-0000000000002a3f.wal   crc metadata hard-state entry …           ▒▒▒ zeros ▒▒▒
//!         sequence         next entry's index                                     ▲ where we append
//! ```
//!
//! Each segment is filled with zeros before its time, so that a sync writes data only, and a length of zero marks the
//! end. The checksums form one chain through all segments: no record can be lost from the middle unseen.
//!
//! One append is one write; many appends may share one sync. After a failed write or sync nothing more is accepted:
//! what the disk holds is unknown from then on. The next start can read it all the same, because the operating system may keep what it could not write,
//! and calls it written; so a start writes the log's end once more, in place, before it counts. Left out: file locks (the member's folder has one for all).
//!
//! Source: etcd `server/storage/wal/{wal,repair,file_pipeline}.go`.

mod frame;
mod replay;

pub use replay::Replay;

use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::meter::WAL_BYTES;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use frame::Encoder;
use frame::RawMetadata;
use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// How large etcd lets a segment grow.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// How much is written or copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How much of the log's end is written again when it is opened.
const UNSURE_BYTES_MAX: u64 = 16 << 20;

/// How much room for encoding is kept from one append to the next.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// A point up to which the store, or a snapshot file, holds everything: index, term and who voted then.
pub use crate::proto::walpb::Snapshot as SnapshotMark;

/// Whose log it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub member: MemberId,
    pub cluster: ClusterId,
}

/// A segment's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SegmentName {
    sequence: u64,
    /// The index of the next entry when the segment was begun.
    index: u64,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.index)
    }
}

impl SegmentName {
    fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let number = |hex: &str| (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok()).flatten();
        Some(SegmentName { sequence: number(sequence)?, index: number(index)? })
    }
}

/// An open log, ready to append.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    metadata: Metadata,
    /// Oldest first; the last one is written to. Never empty.
    segments: VecDeque<SegmentName>,
    file: Box<dyn DiskFile>,
    offset: u64,
    /// Up to here the newest segment is durable.
    synced: u64,
    encoder: Encoder,
    hard_state: HardState,
    last_index: u64,
    spare: Spare,
    /// How many spare files were begun: each gets a name of its own.
    spares: u64,
    failed: Option<Error>,
}

/// The file that will be the next segment.
enum Spare {
    None,
    /// A [`Preparation`] is on its way.
    Ordered,
    /// It failed. The log prepares the segment itself when it needs it, and fails then if it must.
    GivenUp,
    Ready(PathBuf),
}

/// A segment is prepared ahead only where so much stays free beside it.
const SPARE_LEAVES_FREE: u64 = 16 << 20;

/// The job of filling the next segment with zeros. Takes long (64 MB), needs nothing of the log: run it on any thread.
#[must_use = "run it and hand the result to `Wal::supply`"]
pub struct Preparation {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
}

/// A file full of zeros.
pub struct Prepared(PathBuf);

impl Preparation {
    /// Writes and syncs the zeros, if there is room for them and more: who fills the disk for a segment that is not needed yet takes from the store what
    /// it needs now.
    ///
    /// # Errors
    /// [`Error::Storage`], a full disk among them; then nothing is left of it, see [`Wal::do_without_spare`].
    pub fn run(self) -> Result<Prepared, Error> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        match self.disk.free(dir) {
            Some(free) if free < self.bytes + SPARE_LEAVES_FREE => Err(Error::Storage(format!(
                "{}: the segment takes {} bytes, and {free} are free on this disk",
                dir.display(),
                self.bytes
            ))),
            _ => self.now(),
        }
    }

    /// The same for a segment that is needed.
    fn now(self) -> Result<Prepared, Error> {
        match self.fill() {
            Ok(()) => Ok(Prepared(self.path)),
            Err(why) => {
                // Entries may need the room. What cannot be removed now is at the next start.
                let _tried = self.disk.remove(&self.path);
                Err(why)
            }
        }
    }

    fn fill(&self) -> Result<(), Error> {
        let mut file = self.disk.create(&self.path)?;
        fill_with_zeros(file.as_mut(), 0, self.bytes)?;
        file.sync()
    }
}

fn fill_with_zeros(file: &mut dyn DiskFile, from: u64, to: u64) -> Result<(), Error> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_at(at, &zeros[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// The segments in `dir`, in order.
fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let mut names: Vec<_> = disk.list(dir)?.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0].sequence + 1 != pair[1].sequence) {
        Some(pair) => Err(Error::Damaged(format!("{}: segments are missing after {}", dir.display(), pair[0]))),
        None => Ok(names),
    }
}

/// The segments that hold what comes after `from`.
fn select_segments(disk: &dyn Disk, dir: &Path, from: Option<&SnapshotMark>) -> Result<Vec<SegmentName>, Error> {
    let mut names = list_segments(disk, dir)?;
    if let Some(from) = from {
        let skip = names.iter().rposition(|name| name.index <= from.index).unwrap_or(names.len());
        names.drain(..skip);
    }
    if names.is_empty() {
        return Err(Error::Damaged(format!("{}: no segment of the log begins early enough", dir.display())));
    }
    Ok(names)
}

/// Whether there is a log in `dir`.
#[must_use]
pub fn exists(disk: &dyn Disk, dir: &Path) -> bool {
    disk.exists(dir) && disk.list(dir).is_ok_and(|names| names.iter().any(|name| SegmentName::parse(name).is_some()))
}

/// Reads a log without changing it, from the mark `from` or, without one, from the oldest mark that it still holds.
///
/// # Errors
/// [`Error::Damaged`] with file and offset, [`Error::Storage`] if it cannot be read.
pub fn read(disk: &dyn Disk, dir: &Path, from: Option<&SnapshotMark>) -> Result<Replay, Error> {
    let names = select_segments(disk, dir, from)?;
    replay::replay(disk, dir, &names, from).map(|(replay, _)| replay)
}

impl Wal {
    /// Begins a log. It is there, whole and durable, when this returns; interrupted before, it is not there at all.
    ///
    /// # Errors
    /// [`Error::Storage`], also if there is a log in `dir` already.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata, segment_bytes: u64) -> Result<Wal, Error> {
        if exists(disk.as_ref(), dir) {
            return Err(Error::Storage(format!("{}: there is a log already", dir.display())));
        }
        disk.create_dir(dir)?;
        let name = SegmentName { sequence: 0, index: 0 };
        let mut encoder = Encoder::default();
        encoder.crc_record();
        encoder.metadata(metadata.raw());
        encoder.snapshot(&SnapshotMark::default());
        let spare = dir.join("0.tmp");
        Preparation { disk: disk.clone(), path: spare.clone(), bytes: segment_bytes }.now()?;
        let file = begin_segment(disk.as_ref(), &spare, &dir.join(name.to_string()), &encoder.buffer)?;
        disk.sync_dir(dir)?;
        disk.sync_dir(disk::folder_of(dir))?;
        let offset = encoder.buffer.len() as u64;
        encoder.buffer.clear();
        let segments = VecDeque::from([name]);
        let (hard_state, failed) = (HardState::default(), None);
        let dir = dir.to_owned();
        let (spare, spares, last_index) = (Spare::None, 1, 0);
        Ok(Wal {
            disk,
            dir,
            segment_bytes,
            metadata,
            segments,
            file,
            offset,
            synced: offset,
            encoder,
            hard_state,
            last_index,
            spare,
            spares,
            failed,
        })
    }

    /// Opens a log to go on with it. `from` is the mark from which the store or a snapshot goes on; without one, the
    /// oldest that the log still holds. A write that was cut short at the very end is cut off (a copy stays, named
    /// `….broken`) and told in [`Replay::torn`].
    ///
    /// # Errors
    /// [`Error::Damaged`] with file and offset if the log is not whole, [`Error::Storage`] if it cannot be read or
    /// repaired.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
        from: Option<&SnapshotMark>,
    ) -> Result<(Wal, Replay), Error> {
        let names = select_segments(disk.as_ref(), dir, from)?;
        let (replay, end) = replay::replay(disk.as_ref(), dir, &names, from)?;
        for name in disk.list(dir)?.iter().filter(|name| name.ends_with(".tmp")) {
            disk.remove(&dir.join(name))?;
        }
        let segments = VecDeque::from(list_segments(disk.as_ref(), dir)?);
        let newest = names.last().expect("select_segments returns at least one");
        let torn = replay.torn.is_some();
        let file = open_tail(disk.as_ref(), &dir.join(newest.to_string()), end.offset, segment_bytes, torn)?;
        let wal = Wal {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            metadata: replay.metadata,
            segments,
            file,
            offset: end.offset,
            synced: end.offset,
            encoder: Encoder { buffer: Vec::new(), crc: end.crc },
            hard_state: replay.hard_state,
            last_index: end.last_index,
            spare: Spare::None,
            spares: 0,
            failed: None,
        };
        Ok((wal, replay))
    }

    /// Appends entries, then the hard state. An entry replaces those of its index and above. Not durable before
    /// [`Self::sync`], unless the segment was full: then all of it is.
    ///
    /// # Errors
    /// [`Error::Storage`]; from then on every call fails, and the member must stop.
    pub fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        for entry in entries {
            self.encoder.entry(entry);
            self.last_index = entry.index;
        }
        if let Some(state) = hard_state.filter(|state| **state != HardState::default()) {
            self.encoder.hard_state(state);
            self.hard_state = *state;
        }
        self.guarded(|wal| {
            wal.write()?;
            if wal.offset < wal.segment_bytes { Ok(()) } else { wal.cut() }
        })
    }

    /// Appends a mark: the store, or a received snapshot, holds everything up to it, durably. A hard state that
    /// commits it must follow, then [`Self::sync`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn save_snapshot_mark(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.encoder.snapshot(mark);
        self.last_index = self.last_index.max(mark.index);
        self.guarded(Wal::write)
    }

    /// Returns once everything appended would survive a loss of power.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn sync(&mut self) -> Result<(), Error> {
        failpoint::hit(Point::WalBeforeSync);
        self.guarded(|wal| wal.file.sync())?;
        self.synced = self.offset;
        failpoint::hit(Point::WalAfterSync);
        Ok(())
    }

    /// Refuses after a failure, and remembers the first.
    fn guarded(&mut self, step: impl FnOnce(&mut Wal) -> Result<(), Error>) -> Result<(), Error> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        step(self).inspect_err(|e| self.failed = Some(e.clone()))
    }

    /// Writes out what was encoded.
    fn write(&mut self) -> Result<(), Error> {
        self.file.write_at(self.offset, &self.encoder.buffer)?;
        WAL_BYTES.add(self.encoder.buffer.len() as u64);
        self.offset += self.encoder.buffer.len() as u64;
        self.encoder.buffer.clear();
        self.encoder.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Ends the segment and begins the next one.
    fn cut(&mut self) -> Result<(), Error> {
        self.file.set_len(self.offset)?;
        self.file.sync()?;
        let spare = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready(path) => path,
            late => {
                // Nobody had it ready in time. One that is still on its way serves the segment after this one.
                if matches!(late, Spare::Ordered) {
                    self.spare = late;
                }
                self.preparation().now()?.0
            }
        };
        let sequence = self.segments.back().map_or(0, |newest| newest.sequence + 1);
        let name = SegmentName { sequence, index: self.last_index.saturating_add(1) };
        self.encoder.crc_record();
        self.encoder.metadata(self.metadata.raw());
        if self.hard_state != HardState::default() {
            self.encoder.hard_state(&self.hard_state);
        }
        let path = self.dir.join(name.to_string());
        self.file = begin_segment(self.disk.as_ref(), &spare, &path, &self.encoder.buffer)?;
        self.disk.sync_dir(&self.dir)?;
        self.offset = self.encoder.buffer.len() as u64;
        self.synced = self.offset;
        self.encoder.buffer.clear();
        self.segments.push_back(name);
        Ok(())
    }

    fn preparation(&mut self) -> Preparation {
        let path = self.dir.join(format!("{}.tmp", self.spares));
        self.spares += 1;
        Preparation { disk: self.disk.clone(), path, bytes: self.segment_bytes }
    }

    /// The job of preparing the next segment, if that is to be done now. Whoever takes it owes [`Self::supply`];
    /// without it the log prepares segments itself, and appends wait meanwhile.
    pub fn prepare_next(&mut self) -> Option<Preparation> {
        match self.spare {
            Spare::None => {
                self.spare = Spare::Ordered;
                Some(self.preparation())
            }
            Spare::Ordered | Spare::GivenUp | Spare::Ready(_) => None,
        }
    }

    /// Takes the file that [`Self::prepare_next`] asked for.
    pub fn supply(&mut self, prepared: Prepared) {
        self.spare = Spare::Ready(prepared.0);
    }

    /// Hears that the file could not be made. The segment in use has room all the same; when it is full, the log tries once more itself.
    pub fn do_without_spare(&mut self) {
        self.spare = Spare::GivenUp;
    }

    /// Deletes the segments that a start at `index` does not need: all before the one that holds it. The store must
    /// hold everything up to `index` durably, and a mark and hard state that say so must be synced here.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn release_to(&mut self, index: Index) -> Result<(), Error> {
        // etcd's rule: keep the last segment that begins below the index.
        let keep = self.segments.iter().position(|name| name.index >= index.0).unwrap_or(self.segments.len());
        let released = keep.saturating_sub(1);
        self.guarded(|wal| {
            for _ in 0..released {
                // Oldest first: after a crash in between, the rest still follows one another.
                let Some(name) = wal.segments.front() else { break };
                wal.disk.remove(&wal.dir.join(name.to_string()))?;
                wal.segments.pop_front();
            }
            if released > 0 { wal.disk.sync_dir(&wal.dir) } else { Ok(()) }
        })
    }

    /// For the lab: takes away what no sync has returned for, as a machine that stops at once might. Nothing can be appended after that.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn lose_unsynced(&mut self) -> Result<(), Error> {
        self.guarded(|wal| fill_with_zeros(wal.file.as_mut(), wal.synced, wal.offset))?;
        self.failed = Some(Error::Storage("power was lost".into()));
        Ok(())
    }

    /// How many segments there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The hard state that was appended last.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }
}

impl Metadata {
    fn raw(self) -> RawMetadata {
        RawMetadata { member: self.member.0, cluster: self.cluster.0 }
    }
}

/// Makes a segment of a spare file: its first records are on disk before it has its name.
fn begin_segment(disk: &dyn Disk, spare: &Path, path: &Path, head: &[u8]) -> Result<Box<dyn DiskFile>, Error> {
    let mut file = disk.open(spare)?;
    file.write_at(0, head)?;
    file.sync()?;
    drop(file);
    disk.rename(spare, path)?;
    disk.open(path)
}

/// Opens the newest segment to go on at its end: nothing but zeros after it.
fn open_tail(
    disk: &dyn Disk,
    path: &Path,
    offset: u64,
    segment_bytes: u64,
    torn: bool,
) -> Result<Box<dyn DiskFile>, Error> {
    let mut file = disk.open(path)?;
    if torn {
        copy(disk, file.as_ref(), &path.with_extension("wal.broken"))?;
        file.set_len(offset)?;
    }
    write_again(file.as_mut(), offset)?;
    let len = file.len()?;
    if len < segment_bytes {
        fill_with_zeros(file.as_mut(), len, segment_bytes)?;
    }
    file.sync()?;
    Ok(file)
}

/// Writes what a failed sync may have left in the cache only, so that the next one has it to write. The bytes stay the same, so a stop in between harms
/// nothing. Source: fsync(2) and PostgreSQL's "fsyncgate": a page that could not be written is kept as a clean one.
fn write_again(file: &mut dyn DiskFile, to: u64) -> Result<(), Error> {
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], to.saturating_sub(UNSURE_BYTES_MAX));
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let read = file.read_at(at, &mut chunk[..want])?;
        if read == 0 {
            return Err(Error::Storage("the log became shorter while it was opened".into()));
        }
        file.write_at(at, &chunk[..read])?;
        at += read as u64;
    }
    Ok(())
}

fn copy(disk: &dyn Disk, from: &dyn DiskFile, to: &Path) -> Result<(), Error> {
    let mut target = disk.create(to)?;
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let read = from.read_at(at, &mut chunk)?;
        if read == 0 {
            return target.sync();
        }
        target.write_at(at, &chunk[..read])?;
        at += read as u64;
    }
}

#[cfg(test)]
mod tests;
