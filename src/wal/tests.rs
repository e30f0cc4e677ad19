//! What the log promises: nothing acknowledged is lost unseen, and etcd would write the same bytes.

use super::frame::Kind;
use super::*;
use crate::disk::RealDisk;
use crate::disk::cut::After;
use crate::disk::cut::CutDisk;
use crate::proto::raftpb::ConfState;
use proptest::prelude::*;
use prost::Message;
use std::fs;
use tempfile::TempDir;

/// A log that real etcd 3.5.1 wrote (three puts, a delete, a lease), without the zeros at its end.
const ETCD_LOG: &[u8] = include_bytes!("etcd-3.5.1.wal");

const SMALL: u64 = 4096;
const OURS: Metadata = Metadata { member: MemberId(0xab), cluster: ClusterId(0xcd) };

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("wal")
    }

    /// A log with one segment of these bytes.
    fn holding(bytes: &[u8]) -> Place {
        let place = Place::new();
        fs::create_dir(place.dir()).expect("created");
        fs::write(place.segment(0, 0), bytes).expect("written");
        place
    }

    fn segment(&self, sequence: u64, index: u64) -> PathBuf {
        self.dir().join(SegmentName { sequence, index }.to_string())
    }

    fn create(&self) -> Wal {
        Wal::create(Arc::new(RealDisk), &self.dir(), OURS, SMALL).expect("created")
    }

    fn open(&self) -> Result<(Wal, Replay), Error> {
        Wal::open(Arc::new(RealDisk), &self.dir(), SMALL, None)
    }

    fn read(&self) -> Result<Replay, Error> {
        read(&RealDisk, &self.dir(), None)
    }

    fn names(&self) -> Vec<String> {
        RealDisk.list(&self.dir()).expect("there")
    }
}

fn entry(index: u64, term: u64, data: &str) -> Entry {
    Entry { index, term, data: data.to_owned().into(), ..Entry::default() }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit }
}

fn mark(index: u64, term: u64) -> SnapshotMark {
    let conf_state = ConfState { voters: vec![1, 2, 300], learners: vec![4], ..ConfState::default() };
    SnapshotMark { index, term, conf_state: Some(conf_state) }
}

fn indices(replay: &Replay) -> Vec<u64> {
    replay.entries.iter().map(|entry| entry.index).collect()
}

/// Entries with about a kilobyte each, so that four fill a small segment.
fn append_kilobytes(wal: &mut Wal, indices: std::ops::RangeInclusive<u64>) {
    for index in indices {
        wal.append(&[entry(index, 1, &"v".repeat(1000))], Some(&state(1, index))).expect("appended");
    }
    wal.sync().expect("synced");
}

#[test]
fn what_was_appended_is_read_back() {
    let place = Place::new();
    let mut wal = place.create();
    let entries = [entry(1, 1, "a"), entry(2, 1, ""), Entry { entry_type: 1, ..entry(3, 2, "c") }];
    wal.append(&entries, Some(&state(2, 3))).expect("appended");
    wal.append(&[], Some(&state(2, 3))).expect("appended");
    wal.sync().expect("synced");
    let (_, replay) = place.open().expect("whole");
    assert_eq!((replay.metadata, replay.hard_state, &replay.entries[..]), (OURS, state(2, 3), &entries[..]));
    assert_eq!(
        (replay.start, replay.snapshots, replay.torn),
        (SnapshotMark::default(), vec![SnapshotMark::default()], None)
    );
}

#[test]
fn the_log_goes_on_after_it_was_opened() {
    let place = Place::new();
    append_kilobytes(&mut place.create(), 1..=2);
    let (mut wal, _) = place.open().expect("whole");
    append_kilobytes(&mut wal, 3..=9);
    assert_eq!(indices(&place.read().expect("whole")), (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_later_entry_replaces_those_from_its_index_on() {
    let place = Place::new();
    let mut wal = place.create();
    wal.append(&[entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")], Some(&state(1, 1))).expect("appended");
    wal.append(&[entry(2, 2, "x")], Some(&state(2, 1))).expect("appended");
    assert_eq!(place.read().expect("whole").entries, [entry(1, 1, "a"), entry(2, 2, "x")]);
}

#[test]
fn a_full_segment_is_followed_by_one_that_names_its_first_entry() {
    let place = Place::new();
    let mut wal = place.create();
    let next = wal.prepare_next().expect("wanted");
    assert!(wal.prepare_next().is_none(), "one at a time");
    wal.supply(next.run().expect("prepared"));
    append_kilobytes(&mut wal, 1..=8);
    assert_eq!(
        place.names(),
        [
            "0000000000000000-0000000000000000.wal",
            "0000000000000001-0000000000000005.wal",
            "0000000000000002-0000000000000009.wal"
        ]
    );
    let heads =
        |path: PathBuf| replay::records(&RealDisk, &path).into_iter().map(|(kind, _)| kind).take(3).collect::<Vec<_>>();
    assert_eq!(heads(place.segment(0, 0)), [Kind::Crc, Kind::Metadata, Kind::Snapshot]);
    assert_eq!(heads(place.segment(1, 5)), [Kind::Crc, Kind::Metadata, Kind::HardState]);
}

#[test]
fn a_released_log_begins_at_its_mark() {
    let place = Place::new();
    let mut wal = place.create();
    append_kilobytes(&mut wal, 1..=10);
    wal.save_snapshot_mark(&mark(6, 1)).expect("saved");
    wal.append(&[], Some(&state(1, 10))).expect("appended");
    wal.sync().expect("synced");
    assert_eq!(wal.segments(), 3);
    wal.release_to(Index(6)).expect("released");
    assert_eq!(wal.segments(), 2);
    wal.release_to(Index(6)).expect("nothing left to release");
    let (mut wal, replay) = place.open().expect("whole");
    assert_eq!((&replay.start, indices(&replay)), (&mark(6, 1), vec![7, 8, 9, 10]));
    append_kilobytes(&mut wal, 11..=11);
    let (_, replay) =
        Wal::open(Arc::new(RealDisk), &place.dir(), SMALL, Some(&mark(6, 1))).expect("the same from the mark");
    assert_eq!(indices(&replay), [7, 8, 9, 10, 11]);
    let Err(Error::Damaged(text)) = read(&RealDisk, &place.dir(), Some(&mark(7, 1))) else { panic!("no such mark") };
    assert!(text.contains("no mark of a snapshot at index 7, term 1"), "{text}");
}

#[test]
fn a_mark_above_the_commit_is_ignored() {
    let place = Place::new();
    let mut wal = place.create();
    wal.append(&[entry(1, 1, "a")], Some(&state(1, 1))).expect("appended");
    wal.save_snapshot_mark(&mark(9, 1)).expect("saved");
    let replay = place.read().expect("whole");
    assert_eq!((replay.start.index, indices(&replay), replay.snapshots.len()), (0, vec![1], 1));
    // The crash came before the snapshot was installed; the leader sent entries after all.
    wal.append(&[entry(2, 1, "b")], Some(&state(1, 2))).expect("appended");
    assert_eq!(indices(&place.read().expect("whole")), [1, 2]);
}

#[test]
fn a_received_snapshot_replaces_the_entries_before_it() {
    let place = Place::new();
    let mut wal = place.create();
    wal.append(&[entry(1, 1, "a"), entry(2, 1, "stale"), entry(3, 1, "stale")], Some(&state(1, 1))).expect("appended");
    wal.save_snapshot_mark(&mark(2, 5)).expect("saved");
    wal.append(&[], Some(&state(5, 2))).expect("appended");
    let replay = place.read().expect("whole");
    assert_eq!((&replay.start, indices(&replay)), (&mark(2, 5), vec![]));
    wal.append(&[entry(3, 5, "c")], Some(&state(5, 3))).expect("appended");
    assert_eq!(place.read().expect("whole").entries, [entry(3, 5, "c")]);
}

#[test]
fn a_write_cut_short_anywhere_costs_only_itself() {
    let place = Place::new();
    let mut wal = place.create();
    wal.append(&[entry(1, 1, "first")], Some(&state(1, 1))).expect("appended");
    let safe = wal.offset;
    wal.append(&[entry(2, 1, &"second".repeat(100))], Some(&state(1, 2))).expect("appended");
    let whole = fs::read(place.segment(0, 0)).expect("there");
    let end = usize::try_from(wal.offset).expect("small");
    for cut in usize::try_from(safe).expect("small")..end {
        let place = Place::holding(&whole[..cut]);
        let (mut wal, replay) = place.open().expect("repaired");
        let kept = replay.entries.len();
        assert!(kept == 2 || replay.hard_state == state(1, 1), "cut at {cut}");
        wal.append(&[entry(kept as u64 + 1, 2, "third")], Some(&state(2, 1))).expect("appended");
        let again = place.read().expect("whole");
        assert_eq!((again.entries.len(), again.torn), (kept + 1, None), "cut at {cut}");
    }
}

#[test]
fn a_missing_sector_at_the_end_is_a_write_cut_short_and_a_copy_stays() {
    let place = Place::new();
    let mut wal = place.create();
    wal.append(&[entry(1, 1, "first")], Some(&state(1, 1))).expect("appended");
    wal.append(&[entry(2, 1, &"x".repeat(2000))], None).expect("appended");
    let mut bytes = fs::read(place.segment(0, 0)).expect("there");
    bytes[1024..1536].fill(0);
    let place = Place::holding(&bytes);
    let (_, replay) = place.open().expect("repaired");
    assert_eq!(indices(&replay), [1]);
    assert!(replay.torn.expect("told").contains("0000000000000000-0000000000000000.wal at offset"));
    assert_eq!(fs::read(place.segment(0, 0).with_extension("wal.broken")).expect("kept"), bytes);
    assert!(place.read().expect("whole").torn.is_none(), "repaired for good");
}

#[test]
fn a_sector_of_another_place_is_damage_though_the_end_of_a_record_is_zeros_in_it() {
    let place = Place::new();
    let mut wal = place.create();
    // The second entry ends a few bytes behind the beginning of a sector, and another follows it there.
    let before = |wal: &Wal| usize::try_from(wal.offset).expect("small");
    let mut index = 1;
    while (before(&wal) + 64) % 512 > 48 {
        wal.append(&[entry(index, 1, "a")], None).expect("appended");
        index += 1;
    }
    let boundary = (before(&wal) + 64) / 512 * 512;
    let frame = before(&wal);
    while before(&wal) <= boundary {
        wal.append(&[entry(index, 1, &"b".repeat(40))], None).expect("appended");
        index += 1;
    }
    let end = before(&wal);
    assert!(frame < boundary && end - boundary < 64, "{frame} {boundary} {end}");
    wal.append(&[entry(index, 1, "acknowledged")], Some(&state(1, index))).expect("appended");
    let whole = fs::read(place.segment(0, 0)).expect("there");
    // What another sector holds, which begins with zeros.
    let mut bytes = whole.clone();
    bytes[boundary..boundary + 64].fill(0);
    let Err(Error::Damaged(text)) = Place::holding(&bytes).open().map(drop) else { panic!("it went unseen") };
    assert!(text.contains("at offset"), "{text}");
    // What another sector holds, which begins with the length of a long record, or so it seems.
    let mut bytes = whole.clone();
    bytes[end..end + 8].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    bytes[end + 8..end + 40].fill(b'x');
    assert!(matches!(Place::holding(&bytes).open(), Err(Error::Damaged(_))), "it went unseen");
    // The sector was never written: the power went.
    let mut bytes = whole;
    bytes[boundary..boundary + 512].fill(0);
    let (_, replay) = Place::holding(&bytes).open().expect("repaired");
    assert!(replay.torn.is_some() && replay.entries.len() as u64 == index - 2, "{replay:?}");
}

#[test]
fn damage_in_an_older_segment_is_refused_with_file_and_offset() {
    let place = Place::new();
    append_kilobytes(&mut place.create(), 1..=8);
    let bytes = fs::read(place.segment(0, 0)).expect("there");
    let flipped = |at: usize| bytes.iter().enumerate().map(|(i, b)| if i == at { b ^ 1 } else { *b }).collect();
    let short: Vec<u8> = bytes[..bytes.len() - 8].to_vec();
    for (damaged, what) in [(flipped(2000), "checksum mismatch"), (short, "does not fit into the file")] {
        fs::write(place.segment(0, 0), &damaged).expect("written");
        let Err(Error::Damaged(text)) = place.open().map(drop) else { panic!("{what} went unseen") };
        assert!(text.contains(what) && text.contains("0000000000000000-0000000000000000.wal at offset "), "{text}");
        assert_eq!(fs::read(place.segment(0, 0)).expect("there"), damaged, "left as it was");
    }
}

#[test]
fn a_newest_segment_without_its_whole_head_is_damage_not_a_write_cut_short() {
    let place = Place::new();
    append_kilobytes(&mut place.create(), 1..=6);
    let newest = place.segment(1, 5);
    let bytes = fs::read(&newest).expect("a second segment");
    for cut in [0, 5, 12, 16, 24] {
        fs::write(&newest, &bytes[..cut]).expect("written");
        let Err(Error::Damaged(text)) = place.open().map(drop) else { panic!("cut at {cut} went unseen") };
        assert!(text.contains("0000000000000001-0000000000000005.wal at offset "), "{text}");
        assert_eq!(fs::read(&newest).expect("there"), bytes[..cut], "left as it was");
    }
}

#[test]
fn a_missing_segment_or_a_strange_one_is_refused() {
    let place = Place::new();
    append_kilobytes(&mut place.create(), 1..=12);
    let other = Place::new();
    let metadata = Metadata { member: MemberId(1), ..OURS };
    let mut wal = Wal::create(Arc::new(RealDisk), &other.dir(), metadata, SMALL).expect("created");
    append_kilobytes(&mut wal, 1..=4);
    fs::copy(other.segment(0, 0), place.segment(0, 0)).expect("copied");
    assert!(matches!(place.read(), Err(Error::Damaged(_))), "the chain breaks");
    fs::remove_file(place.segment(1, 5)).expect("removed");
    let Err(Error::Damaged(text)) = place.read() else { panic!("a segment is missing") };
    assert!(text.contains("segments are missing after 0000000000000000"), "{text}");
}

#[test]
fn a_creation_that_was_interrupted_left_no_log() {
    let place = Place::new();
    fs::create_dir(place.dir()).expect("created");
    fs::write(place.dir().join("0.tmp"), b"half").expect("written");
    assert!(!exists(&RealDisk, &place.dir()));
    drop(place.create());
    assert!(exists(&RealDisk, &place.dir()));
    assert!(Wal::create(Arc::new(RealDisk), &place.dir(), OURS, SMALL).is_err(), "never over an existing log");
}

#[test]
fn a_spare_file_that_was_never_used_is_removed() {
    let place = Place::new();
    let mut wal = place.create();
    let _late = wal.prepare_next().expect("wanted").run().expect("prepared");
    append_kilobytes(&mut wal, 1..=4);
    assert_eq!(place.names().iter().filter(|name| name.ends_with(".tmp")).count(), 1);
    place.open().expect("whole");
    assert_eq!(place.names().iter().filter(|name| name.ends_with(".tmp")).count(), 0);
}

#[test]
fn a_spare_that_cannot_be_made_is_tried_again_when_the_segment_is_full() {
    let place = Place::new();
    let mut wal = place.create();
    let in_the_way = place.dir().join("1.tmp");
    fs::create_dir(&in_the_way).expect("created");
    assert!(matches!(wal.prepare_next().expect("wanted").run(), Err(Error::Storage(_))));
    wal.do_without_spare();
    assert!(wal.prepare_next().is_none(), "not again and again");
    append_kilobytes(&mut wal, 1..=8);
    assert!(wal.prepare_next().is_some(), "for the one after it");
    fs::remove_dir(in_the_way).expect("removed");
    assert_eq!(indices(&place.read().expect("whole")), (1..=8).collect::<Vec<_>>());
}

/// A disk whose files refuse everything once the given number of writes is used up.
struct Failing(std::sync::Arc<std::sync::atomic::AtomicUsize>);

struct FailingFile(Box<dyn DiskFile>, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl DiskFile for FailingFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        use std::sync::atomic::Ordering;
        match self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.0.write_at(offset, data),
            Err(_) => Err(Error::Storage("disk full".to_owned())),
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        self.0.read_at(offset, into)
    }

    fn len(&self) -> Result<u64, Error> {
        self.0.len()
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.0.sync()
    }
}

impl Disk for Failing {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        Ok(Box::new(FailingFile(RealDisk.open(path)?, self.0.clone())))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        RealDisk.create(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        RealDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), Error> {
        RealDisk.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        RealDisk.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> bool {
        RealDisk.exists(path)
    }
}

#[test]
fn after_a_failed_write_nothing_more_is_accepted() {
    let place = Place::new();
    let writes = Arc::new(std::sync::atomic::AtomicUsize::new(2));
    let mut wal = Wal::create(Arc::new(Failing(writes.clone())), &place.dir(), OURS, SMALL).expect("created");
    wal.append(&[entry(1, 1, "a")], None).expect("the last write there was");
    assert_eq!(wal.append(&[entry(2, 1, "b")], None), Err(Error::Storage("disk full".to_owned())));
    writes.store(9, std::sync::atomic::Ordering::Relaxed);
    assert!(wal.append(&[entry(2, 1, "b")], None).is_err(), "even if the disk works again");
    assert!(wal.sync().is_err());
    assert_eq!(indices(&place.read().expect("whole")), [1]);
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    let (disk, dir) = (CutDisk::default(), Path::new("/m/wal"));
    let open = |disk: &CutDisk| Wal::open(Arc::new(disk.clone()), dir, SMALL, None).expect("whole");
    let bytes = || {
        let file = disk.open(&dir.join(SegmentName { sequence: 0, index: 0 }.to_string())).expect("there");
        let mut bytes = vec![0; SMALL as usize];
        assert_eq!(file.read_at(0, &mut bytes), Ok(bytes.len()));
        bytes
    };
    let mut wal = Wal::create(Arc::new(disk.clone()), dir, OURS, SMALL).expect("created");
    wal.append(&[entry(1, 1, "synced")], Some(&state(1, 1))).and_then(|()| wal.sync()).expect("on disk");
    wal.append(&[entry(2, 1, &"v".repeat(700))], None).expect("written");
    disk.fail_next_sync();
    assert!(wal.sync().is_err());
    drop(wal);
    let before = bytes();
    let (mut wal, replay) = open(&disk);
    assert_eq!(indices(&replay), [1, 2], "the cache has it");
    assert!(bytes() == before, "nothing has changed");
    wal.append(&[entry(3, 1, "acknowledged")], Some(&state(1, 3))).and_then(|()| wal.sync()).expect("on disk");
    let (_, replay) = open(&disk.after(After::Nothing));
    assert_eq!((indices(&replay), replay.torn), (vec![1, 2, 3], None), "power was lost");
}

#[test]
fn a_log_of_etcd_is_read_and_written_again_bit_for_bit() {
    let place = Place::holding(ETCD_LOG);
    let replay = place.read().expect("etcd wrote it");
    assert_eq!(replay.metadata.member.to_string(), "96bb8698f482fc24");
    assert_eq!((replay.entries[0].entry_type, replay.entries[0].index, replay.entries[0].term), (1, 1, 1));
    let holds_the_value = |entry: &Entry| entry.data.windows(700).any(|run| run.iter().all(|byte| *byte == b'x'));
    assert!(replay.entries.last().is_some_and(holds_the_value));
    assert_eq!((replay.hard_state.term, replay.hard_state.commit), (2, 9));

    let mut encoder = Encoder::default();
    for (kind, data) in replay::records(&RealDisk, &place.segment(0, 0)) {
        match kind {
            Kind::Crc => encoder.crc_record(),
            Kind::Metadata => encoder.metadata(RawMetadata::decode(data).expect("readable")),
            Kind::Entry => encoder.entry(&Entry::decode(data).expect("readable")),
            Kind::HardState => encoder.hard_state(&HardState::decode(data).expect("readable")),
            Kind::Snapshot => encoder.snapshot(&SnapshotMark::decode(data).expect("readable")),
        }
    }
    assert_eq!(encoder.buffer, ETCD_LOG);
}

/// A log of a few records of all kinds, and where it ends.
fn sample() -> (Vec<u8>, Replay) {
    let place = Place::new();
    let mut wal = place.create();
    let conf = Entry { entry_type: 1, ..entry(1, 1, "conf change") };
    wal.append(&[conf, entry(2, 2, "")], Some(&state(2, 1))).expect("appended");
    wal.append(&[entry(3, 2, &"value".repeat(150))], Some(&state(2, 2))).expect("appended");
    wal.save_snapshot_mark(&mark(2, 2)).expect("saved");
    wal.append(&[entry(4, 2, "last")], Some(&state(2, 4))).expect("appended");
    let end = usize::try_from(wal.offset).expect("small");
    let mut bytes = fs::read(place.segment(0, 0)).expect("there");
    bytes.truncate(end + 64);
    (bytes, place.read().expect("whole"))
}

#[test]
fn no_flipped_bit_costs_an_entry_unseen() {
    let (bytes, before) = sample();
    let place = Place::holding(&bytes);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(place.segment(0, 0), &bytes).expect("written");
        match place.read() {
            Err(Error::Damaged(_)) => {}
            Ok(replay) => {
                let place = format!("bit {} of byte {}; {:?}", bit % 8, bit / 8, replay.torn);
                assert_eq!(indices(&replay), indices(&before), "{place}");
                assert_eq!(replay.entries, before.entries, "{place}");
                assert!(replay.hard_state.commit >= 2, "bit {bit}");
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Place::holding(&bytes).open().is_err());
    }

    #[test]
    fn no_damage_to_a_real_log_makes_the_reader_panic(
        cut in 0..ETCD_LOG.len(),
        edits in prop::collection::vec((0..ETCD_LOG.len(), any::<u8>()), 0..6),
    ) {
        let mut bytes = ETCD_LOG.to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        let place = Place::holding(&bytes);
        if let Ok((mut wal, replay)) = place.open() {
            let next = replay.entries.last().map_or(replay.start.index, |entry| entry.index) + 1;
            prop_assert!(wal.append(&[entry(next, 9, "more")], None).is_ok());
            prop_assert_eq!(place.read().map(|replay| replay.entries.len()), Ok(replay.entries.len() + 1));
        }
    }

    #[test]
    fn any_entries_come_back(data in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..2000), 0..3u64), 1..40)) {
        let place = Place::new();
        let mut wal = place.create();
        let mut term = 1;
        let entries: Vec<Entry> = (1..).zip(data).map(|(index, (data, step))| {
            term += step;
            Entry { index, term, data: data.into(), ..Entry::default() }
        }).collect();
        for few in entries.chunks(3) {
            wal.append(few, Some(&state(few[0].term, 0))).expect("appended");
        }
        let (_, replay) = place.open().expect("whole");
        prop_assert_eq!(replay.entries, entries);
        prop_assert_eq!(replay.torn, None);
    }
}
