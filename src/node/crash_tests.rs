//! Power that goes at every single call to the disk, while a snapshot is received and installed, and while the log is released.
//!
//! The real log, manifest, image and replica on a disk in memory; only the store is a stand-in: a file that is written whole and synced, as the real one is
//! durable before anything says so.

use super::boot::note_for_tools;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::consensus;
use crate::consensus::Consensus;
use crate::disk::Disk;
use crate::disk::cut::After;
use crate::disk::cut::CutDisk;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Memory;
use crate::engine::Table;
use crate::error::Error;
use crate::image;
use crate::image::snap_file;
use crate::membership::Founders;
use crate::membership::Members;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::raftpb::Snapshot;
use crate::proto::raftpb::SnapshotMetadata;
use crate::proto::walpb::ConfChange;
use crate::replica::Outside;
use crate::replica::Replica;
use crate::replica::apply_entry;
use crate::replica::install;
use crate::replica::install::Installs;
use crate::replica::install::Intake;
use crate::replica::install::Manifest;
use crate::replica::install::Stores;
use crate::replica::start::Held;
use crate::replica::state::Found;
use crate::replica::state::States;
use crate::replica::state::open_state;
use crate::types::Index;
use crate::types::Millis;
use crate::types::Term;
use crate::wal;
use crate::wal::Metadata;
use crate::wal::Replay;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use parking_lot::Mutex;
use parking_lot::RwLock;
use prost::Message as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

const MEMBER: &str = "/m";
const WAL: &str = "/m/wal";
const SEGMENT_BYTES: u64 = 2048;
/// What the follower has, and what the leader's image has.
const OLD: u64 = 12;
const NEW: u64 = 40;

fn founders() -> Members {
    let founders = ["a", "b", "c"].map(|name| (name.to_owned(), vec![format!("http://{name}:2380")]));
    Members::bootstrap(&Founders::from(founders), "t").expect("three founders")
}

fn conf_state() -> ConfState {
    ConfState { voters: founders().iter().map(|member| member.id.0).collect(), ..ConfState::default() }
}

/// The cluster's log: its founders, then a put of each index.
fn entries(through: u64) -> Vec<Entry> {
    let mut entries = founders().founding_entries();
    for index in entries.len() as u64 + 1..=through {
        let put = pb::PutRequest {
            key: format!("key{}", index % 7).into(),
            value: "v".repeat(index as usize).into(),
            ..Default::default()
        };
        let request = pb::InternalRaftRequest {
            header: Some(pb::RequestHeader { id: index, ..Default::default() }),
            put: Some(put),
            ..Default::default()
        };
        entries.push(Entry { index, term: 2, data: request.encode_to_vec().into(), ..Entry::default() });
    }
    entries
}

/// The state after so many entries.
fn state(through: u64) -> (Machine, Arc<Memory>) {
    let engine = Arc::new(Memory::default());
    let mut machine = Machine::open(engine.clone(), founders().cluster(), Limits::default()).expect("empty");
    for entry in entries(through) {
        let count = |_: &ConfChange| Ok(conf_state());
        apply_entry(&mut machine, &entry, count).expect("applied");
    }
    while let Some(batch) = machine.take_batch() {
        engine.write(&batch).expect("memory");
        machine.written();
    }
    (machine, engine)
}

fn hash(machine: &Machine) -> u32 {
    machine.store().hash(0).expect("a hash").hash
}

fn mark(index: u64) -> SnapshotMark {
    SnapshotMark { index, term: 2, conf_state: Some(conf_state()) }
}

/// Stores as files.
struct Files(CutDisk);

impl Files {
    fn save(&self, dir: &Path, engine: &Memory) -> Result<(), Error> {
        let mut bytes = Vec::new();
        for (place, table) in (0_u8..).zip(Table::ALL) {
            for (key, value) in engine.scan(table, &[], usize::MAX)? {
                bytes.push(place);
                for part in [key, value] {
                    bytes.extend((part.len() as u32).to_be_bytes());
                    bytes.extend(part);
                }
            }
        }
        let sum = crc32c::crc32c(&bytes).to_be_bytes();
        self.0.create_dir(dir)?;
        let mut file = self.0.create(&dir.join("db"))?;
        file.write_at(0, &sum)?;
        file.write_at(4, &bytes)?;
        file.sync()?;
        self.0.sync_dir(dir)?;
        self.0.sync_dir(Path::new(MEMBER))
    }

    fn load(&self, dir: &Path) -> Result<Arc<Memory>, Error> {
        let file = self.0.open(&dir.join("db"))?;
        let mut bytes = vec![0; usize::try_from(file.len()?).expect("small")];
        file.read_at(0, &mut bytes)?;
        let (sum, mut rest) = bytes.split_at_checked(4).ok_or_else(|| Error::Damaged("an empty store".into()))?;
        if crc32c::crc32c(rest).to_be_bytes() != sum {
            return Err(Error::Damaged("half a store".into()));
        }
        let mut batch = Batch::default();
        while let Some((place, more)) = rest.split_first() {
            rest = more;
            let mut part = || {
                let (len, more) = rest.split_at(4);
                let (part, more) = more.split_at(u32::from_be_bytes(len.try_into().expect("four")) as usize);
                rest = more;
                part.to_vec()
            };
            let (key, value) = (part(), part());
            batch.put(Table::ALL[*place as usize], key, value);
        }
        let engine = Memory::default();
        engine.write(&batch)?;
        Ok(Arc::new(engine))
    }
}

impl Stores for Files {
    fn build(&mut self, dir: &Path, path: &Path, mark: &SnapshotMark) -> Result<(), Error> {
        let reader = image::Snapshot::new(self.0.open(path)?)?.into_reader()?;
        let engine = Memory::default();
        image::fill_from(&reader, &engine, mark)?;
        self.save(dir, &engine)
    }

    fn retire(&mut self, dir: &Path) -> Result<(), Error> {
        if self.0.exists(&dir.join("db")) { self.0.remove(&dir.join("db")) } else { Ok(()) }
    }
}

impl States for Files {
    type State = Machine;

    fn open(&mut self, dir: &Path) -> Result<(Machine, Index), Error> {
        let engine = if self.0.exists(&dir.join("db")) { self.load(dir)? } else { Arc::default() };
        let machine = Machine::open(engine, founders().cluster(), Limits::default())?;
        let (applied, _) = machine.applied();
        Ok((machine, applied))
    }

    fn put_aside(&mut self, dir: &Path) -> Result<(), Error> {
        self.retire(dir)
    }
}

/// What raft has done.
struct Hands {
    disk: CutDisk,
    wal: Wal,
    installs: Mutex<Installs>,
    sent: Vec<Message>,
    to_install: Vec<SnapshotMark>,
}

impl Outside for Hands {
    fn show(&mut self, _: &Consensus) {}

    fn send(&mut self, messages: Vec<Message>) {
        self.sent.extend(messages);
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        self.wal.append(entries, hard_state)
    }

    fn sync(&mut self, _: &[Entry], _: &mut Probe) -> Result<(), Error> {
        self.wal.sync()
    }

    fn hand_on(&mut self, _: Vec<Entry>) {}

    fn accept(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.installs.lock().accept(mark)
    }

    fn install(&mut self, mark: SnapshotMark) {
        self.to_install.push(mark);
    }

    fn mark(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.wal.save_snapshot_mark(mark)
    }

    fn note(&mut self, mark: &SnapshotMark, members: &[u8]) -> Result<(), Error> {
        snap_file::save(&self.disk, &install::snap_dir(Path::new(MEMBER)), mark, members)
    }

    fn release_to(&mut self, index: Index) -> Result<(), Error> {
        self.wal.release_to(index)
    }
}

/// A member that runs.
struct Alive {
    replica: Replica<()>,
    hands: Hands,
    machine: Machine,
}

/// A member with all entries up to `through` in log and store.
fn lived_in(through: u64) -> CutDisk {
    let disk = CutDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let me = founders().by_name("a").expect("a founder").id;
    let metadata = Metadata { member: me, cluster: founders().cluster() };
    let mut wal = Wal::create(shared, Path::new(WAL), metadata, SEGMENT_BYTES).expect("a log");
    for entry in entries(through) {
        let state = HardState { term: entry.term, vote: 0, commit: entry.index };
        wal.append(&[entry], Some(&state)).expect("appended");
    }
    wal.sync().expect("synced");
    disk.sync_dir(Path::new("/")).expect("synced");
    Files(disk.clone()).save(&Path::new(MEMBER).join("store"), &state(through).1).expect("a store");
    disk.after(After::All)
}

fn held(replay: &Replay) -> Held {
    Held {
        start: (Index(replay.start.index), Term(replay.start.term)),
        base: Index(0),
        entries: replay.entries.clone(),
        hard_state: replay.hard_state,
    }
}

/// As [`super::boot::boot`] does it.
fn start(disk: &CutDisk) -> Result<Alive, Error> {
    let (shared, member): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(MEMBER));
    let (wal, replay) = Wal::open(shared.clone(), Path::new(WAL), SEGMENT_BYTES, None)?;
    let held = held(&replay);
    let installs = Mutex::new(Installs::new(shared, member, Manifest::load(disk, member)?));
    let mut files = Files(disk.clone());
    assert_eq!(install::settle(&installs, &held, &mut files)?, None, "an image that was accepted is whole");
    let engine = files.load(&installs.lock().manifest().store_dir(member))?;
    let machine = Machine::open(engine, founders().cluster(), Limits::default())?;
    let applied = machine.applied().0;
    held.meets(applied).map_err(Error::Damaged)?;
    if let Some(newest) = replay.snapshots.last().filter(|mark| mark.index > 0) {
        note_for_tools(disk, member, newest, &machine)?;
    }
    let me = replay.metadata.member;
    let config = consensus::Config { id: me, election_ticks: 10, pre_vote: true, tick_ms: 100, seed: 1, applied };
    let initial = held.into_initial(machine.conf_state().clone());
    let consensus = Consensus::new(&config, initial, Listeners::default())?;
    let hands = Hands { disk: disk.clone(), wal, installs, sent: Vec::new(), to_install: Vec::new() };
    Ok(Alive { replica: Replica::new(consensus, 1), hands, machine })
}

impl Alive {
    fn turn(&mut self) -> Result<(), Error> {
        let applied = self.machine.applied().0;
        self.replica.turn(Millis(0), applied, &mut self.hands)
    }

    /// All of the way of a snapshot, from the first byte to the state.
    fn receive(&mut self, image: &[u8]) -> Result<(), Error> {
        let member = Path::new(MEMBER);
        self.hands.installs.lock().tidy()?;
        let mut intake = Intake::begin(Arc::new(self.hands.disk.clone()), member, 1)?;
        for piece in image.chunks(image.len().div_ceil(3)) {
            intake.write(piece)?;
        }
        intake.keep(NEW)?;
        let leader = founders().by_name("b").expect("a founder").id;
        let metadata = SnapshotMetadata { index: NEW, term: 2, conf_state: Some(conf_state()) };
        let snapshot = Snapshot { data: b"{}".as_slice().into(), metadata: Some(metadata) };
        let to = self.replica.consensus.id().0;
        let mut message = Message { from: leader.0, to, term: 2, snapshot: Some(snapshot), ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        self.replica.step_snapshot(message).expect("a good snapshot");
        self.turn()?;
        for mark in std::mem::take(&mut self.hands.to_install) {
            let mut files = Files(self.hands.disk.clone());
            install::carry_out(&self.hands.installs, &mark, &mut files)?;
            let dir = self.hands.installs.lock().manifest().store_dir(member);
            self.machine = Machine::open(files.load(&dir)?, founders().cluster(), Limits::default())?;
        }
        self.turn()
    }

    /// Whether the leader was told that all up to the snapshot is here.
    fn has_acknowledged(&self) -> bool {
        let is_it = |m: &Message| m.msg_type() == MessageType::MsgAppendResponse && !m.reject && m.index >= NEW;
        self.hands.sent.iter().any(is_it)
    }
}

/// What etcd 3.5's tools ask of a directory: the newest note has its mark in the log, and the log can be read from there.
fn assert_tools_can_read(disk: &CutDisk, what: &str) {
    let dir = install::snap_dir(Path::new(MEMBER));
    let names = disk.list(&dir).expect("a list");
    let newest = names.iter().rfind(|name| name.ends_with(".snap"));
    let from = newest.map_or(SnapshotMark::default(), |name| {
        let number = |hex: &str| u64::from_str_radix(hex, 16).expect("hexadecimal");
        let (term, index) = name.trim_end_matches(".snap").split_once('-').expect("two numbers");
        SnapshotMark { term: number(term), index: number(index), conf_state: None }
    });
    let read = wal::read(disk, Path::new(WAL), Some(&from));
    assert!(read.is_ok(), "{what}: {:?} from {from:?}", read.map(|replay| replay.entries.len()));
}

fn image_bytes() -> Vec<u8> {
    let (machine, _) = state(NEW);
    let machine = RwLock::new(machine);
    let disk = CutDisk::default();
    let path = PathBuf::from("/image");
    let mut file = disk.create(&path).expect("a file");
    let frozen = machine.read().freeze();
    let bytes = image::write(&machine, frozen, file.as_mut()).expect("written");
    let mut all = vec![0; usize::try_from(bytes).expect("small")];
    file.read_at(0, &mut all).expect("read");
    all
}

#[test]
fn power_may_go_at_every_call_of_an_install() {
    let (image, expected) = (image_bytes(), hash(&state(NEW).0));
    let whole = lived_in(OLD);
    let mut alive = start(&whole).expect("it starts");
    alive.turn().expect("nothing to do");
    let before = whole.calls();
    alive.receive(&image).expect("installed");
    let calls = whole.calls() - before;
    assert!(alive.has_acknowledged() && hash(&alive.machine) == expected);
    assert!(calls > 25, "{calls} calls: more than the image alone");
    let (mut stayed, mut arrived, mut promised) = (0, 0, 0);
    for cut in 0..=calls {
        for after in After::EACH {
            let what = format!("cut at call {cut} of {calls}, {after:?} of what was not synced is left");
            let disk = lived_in(OLD);
            let mut alive = start(&disk).expect("it starts");
            alive.turn().expect("nothing to do");
            disk.cut_after(cut);
            let finished = alive.receive(&image);
            assert_eq!(finished.is_ok(), cut == calls, "{what}");
            let acknowledged = alive.has_acknowledged();
            let disk = disk.after(after);
            let mut again = start(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            let applied = again.machine.applied().0.0;
            match applied {
                OLD => stayed += 1,
                NEW => arrived += 1,
                other => panic!("{what}: neither the old state nor the new one, but that at {other}"),
            }
            promised += usize::from(acknowledged);
            assert!(applied == NEW || !acknowledged, "{what}: it was acknowledged");
            assert_tools_can_read(&disk, &what);
            // The leader sends it once more, or it goes on.
            if applied == OLD {
                again.receive(&image).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            assert_eq!(hash(&again.machine), expected, "{what}");
            let more = Entry { index: NEW + 1, term: 2, ..Entry::default() };
            again.hands.wal.append(&[more], None).and_then(|()| again.hands.wal.sync()).expect("it goes on");
            let last = start(&disk.after(After::Nothing)).unwrap_or_else(|e| panic!("{what}, and once more: {e}"));
            assert_eq!((last.machine.applied().0.0, last.replica.consensus.last().0), (NEW, NEW + 1), "{what}");
            assert_tools_can_read(&disk, &what);
        }
    }
    assert!(stayed > 20 && arrived > 20 && promised > 10, "{stayed} stayed, {arrived} arrived, {promised} promised");
}

#[test]
fn power_may_go_at_every_call_of_a_release() {
    let through = 120;
    let release = |alive: &mut Alive| {
        let members = snap_file::members_json(&founders(), None);
        alive.replica.release(&mark(60), &members, (5, usize::MAX), &mut alive.hands)?;
        alive.replica.release(&mark(through), &members, (5, usize::MAX), &mut alive.hands)
    };
    let run = |cut: usize| {
        let disk = lived_in(through);
        let mut alive = start(&disk).expect("it starts");
        alive.turn().expect("nothing to do");
        let (before, segments) = (disk.calls(), alive.hands.wal.segments());
        disk.cut_after(cut);
        let released = release(&mut alive);
        (disk.calls() - before, segments - alive.hands.wal.segments(), released.is_ok(), disk)
    };
    let (calls, deleted, ok, _) = run(usize::MAX / 2);
    assert!(ok && deleted > 2, "{deleted} segments were deleted");
    let mut shorter = 0;
    for cut in 0..=calls {
        for after in After::EACH {
            let what = format!("cut at call {cut} of {calls}, {after:?} of what was not synced is left");
            let (_, _, ok, disk) = run(cut);
            assert_eq!(ok, cut == calls, "{what}");
            let disk = disk.after(after);
            let again = start(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!((again.machine.applied().0.0, again.replica.consensus.last().0), (through, through), "{what}");
            shorter += usize::from(again.replica.consensus.term_of(Index(5)).is_none());
            assert_tools_can_read(&disk, &what);
        }
    }
    assert!(shorter > 0, "nothing was ever deleted");
}

#[test]
fn an_image_that_the_log_does_not_know_of_is_forgotten_and_one_that_is_damaged_is_named() {
    let disk = lived_in(OLD);
    let alive = start(&disk).expect("it starts");
    let mut intake = Intake::begin(Arc::new(disk.clone()), Path::new(MEMBER), 1).expect("a file");
    intake.write(&image_bytes()).expect("written");
    intake.keep(NEW).expect("kept");
    alive.hands.installs.lock().accept(&mark(NEW)).expect("accepted");
    let again = start(&disk.after(After::All)).expect("it starts");
    assert_eq!(again.machine.applied().0.0, OLD, "the log says nothing of it");
    assert!(!again.hands.disk.exists(&install::image_path(Path::new(MEMBER), NEW)), "and it is gone");

    let disk = lived_in(OLD);
    let held = Held { start: (Index(NEW), Term(2)), ..Held::default() };
    let mut intake = Intake::begin(Arc::new(disk.clone()), Path::new(MEMBER), 1).expect("a file");
    intake.write(&image_bytes()[..9000]).expect("written");
    intake.keep(NEW).expect("kept");
    let installs = Mutex::new(Installs::new(Arc::new(disk.clone()), Path::new(MEMBER), Manifest::anew(&mark(NEW))));
    let trouble = install::settle(&installs, &held, &mut Files(disk)).expect("the disk is well");
    assert!(trouble.is_some(), "half an image");
}

#[test]
fn a_manifest_that_was_changed_by_anybody_else_is_refused() {
    let disk = CutDisk::default();
    let member = Path::new(MEMBER);
    assert_eq!(Manifest::load(&disk, member), Ok(Manifest::default()));
    let manifest = Manifest::anew(&mark(7));
    manifest.save(&disk, member).expect("saved");
    assert_eq!(Manifest::load(&disk, member), Ok(manifest.clone()));
    assert_eq!(manifest.image(), Some(mark(7)));
    let path = member.join("manifest");
    let mut file = disk.open(&path).expect("there");
    for at in 0..file.len().expect("a length") - 1 {
        let mut byte = [0];
        file.read_at(at, &mut byte).expect("read");
        file.write_at(at, &[byte[0] ^ 0x10]).expect("written");
        assert!(matches!(Manifest::load(&disk, member), Err(Error::Damaged(_))), "byte {at}");
        file.write_at(at, &byte).expect("written");
    }
}

/// Changes each byte of the manifest in turn, and starts: what a start finds then is told to `see`.
fn start_with_each_byte_changed(disk: &CutDisk, see: impl Fn(u64, Found<Machine>)) {
    let (shared, member): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new(MEMBER));
    let replay = wal::read(disk, Path::new(WAL), None).expect("a log");
    let good = Manifest::load(disk, member).expect("whole");
    let path = member.join("manifest");
    for at in 0..disk.open(&path).and_then(|file| file.len()).expect("a length") - 1 {
        good.save(disk, member).expect("saved");
        let (mut file, mut byte) = (disk.open(&path).expect("there"), [0]);
        file.read_at(at, &mut byte).expect("read");
        file.write_at(at, &[byte[0] ^ 0x10]).expect("written");
        let found = open_state(shared.clone(), member, &held(&replay), &mut Files(disk.clone()));
        see(at, found.expect("the disk is well"));
    }
}

#[test]
fn a_manifest_that_rots_costs_no_store() {
    let (disk, member) = (lived_in(OLD), Path::new(MEMBER));
    let mut alive = start(&disk).expect("it starts");
    alive.turn().expect("nothing to do");
    alive.receive(&image_bytes()).expect("installed");
    let good = Manifest::load(&disk, member).expect("whole");
    // The store of before, and one that was made ahead of the next snapshot: a stop may leave both.
    let ahead = member.join(format!("store-{:016x}", NEW + 5));
    for (dir, through) in [(member.join("store"), OLD), (ahead, NEW + 5)] {
        Files(disk.clone()).save(&dir, &state(through).1).expect("a store");
    }
    let (names, expected) = (disk.list(member).expect("a list"), hash(&state(NEW).0));
    start_with_each_byte_changed(&disk, |at, found| {
        let Found::State { state, rebuilt: None, found: Some(why), .. } = found else { panic!("byte {at}: no state") };
        assert_eq!((hash(&state), why.contains("manifest")), (expected, true), "byte {at}");
        assert_eq!(Manifest::load(&disk, member), Ok(good.clone()), "byte {at}: the next start reads which it is");
        assert_eq!(disk.list(member), Ok(names.clone()), "byte {at}");
    });
    // Of those that are left, none goes with the log.
    let store = good.store_dir(member).join("db");
    disk.remove(&store).expect("it was there");
    start_with_each_byte_changed(&disk, |at, found| {
        assert!(matches!(found, Found::Ahead { applied: Index(45), .. }), "byte {at}");
        assert!(disk.exists(&member.join("store/db")), "byte {at}");
    });
}
