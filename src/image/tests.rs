//! A machine's image, imported again, is the machine: same rows, same hash, same leases.

use super::*;
use crate::apply::Limits;
use crate::disk::Disk;
use crate::disk::RealDisk;
use crate::membership::Founders;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::ConfState;
use crate::types::MemberId;
use std::path::Path;
use std::sync::Arc;

fn machine(engine: &Arc<Memory>) -> Machine {
    Machine::open(engine.clone(), ClusterId(7), Limits::default()).expect("a machine")
}

fn apply(machine: &mut Machine, request: pb::InternalRaftRequest) {
    let index = machine.applied().0.next();
    machine.apply(index, Term(3), Some(request)).expect("applied");
}

fn put(machine: &mut Machine, key: &str, value: &str, lease: i64) {
    let put = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..pb::PutRequest::default()
    };
    apply(machine, pb::InternalRaftRequest { put: Some(put), ..Default::default() });
}

fn delete(machine: &mut Machine, key: &str) {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    apply(machine, pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() });
}

fn compact(machine: &mut Machine, revision: i64) {
    let compaction = pb::CompactionRequest { revision, physical: true };
    apply(machine, pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() });
}

/// Writes what the machine has to its engine.
fn flush(machine: &mut Machine, engine: &Memory) {
    while let Some(batch) = machine.take_batch() {
        engine.write(&batch).expect("memory");
        machine.written();
    }
}

/// A machine with leases, tombstones, a compaction and rows in the engine as well as in memory.
fn lived_in(engine: &Arc<Memory>) -> Machine {
    let mut machine = machine(engine);
    let grant = pb::LeaseGrantRequest { id: 77, ttl: 600 };
    apply(&mut machine, pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() });
    for round in 0..3 {
        for n in 0..200 {
            put(&mut machine, &format!("key{n:03}"), &"v".repeat(n + round), if n % 50 == 0 { 77 } else { 0 });
        }
        flush(&mut machine, engine);
    }
    (0..60).for_each(|n| delete(&mut machine, &format!("key{n:03}")));
    machine
}

fn image(machine: &RwLock<Machine>, path: &Path) {
    let frozen = machine.read().freeze();
    let mut file = RealDisk.create(path).expect("a file");
    write(machine, frozen, file.as_mut()).expect("written");
}

fn opened(path: &Path) -> Result<Snapshot, Error> {
    Snapshot::new(RealDisk.open_to_read(path)?)
}

fn imported(path: &Path, bump: u64) -> Machine {
    let engine = Arc::new(Memory::default());
    let reader = opened(path).and_then(Snapshot::into_reader).expect("a snapshot");
    let founders = Founders::from([("a".to_owned(), vec!["http://a:2380".to_owned()])]);
    let members = Members::bootstrap(&founders, "t").expect("one founder");
    let mut own = position(Index(1), Term(1), &ConfState { voters: vec![1], ..ConfState::default() });
    members.save(&mut own);
    import(&reader, &*engine, own, bump).expect("imported");
    machine(&engine)
}

/// What a member is after an install, without a second look at the engine; and what its next start makes of the engine.
fn installed(path: &Path, mark: &Mark) -> [Machine; 2] {
    let engine = Arc::new(Memory::default());
    let reader = opened(path).and_then(Snapshot::into_reader).expect("a snapshot");
    let loaded = fill_from(&reader, &*engine, mark).expect("filled");
    let at_once = Machine::of(engine.clone(), ClusterId(7), Limits::default(), loaded).expect("a machine");
    [at_once, machine(&engine)]
}

#[test]
fn what_an_install_builds_is_what_a_start_reads_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    for floor in [None, Some(300), Some(640)] {
        let engine = Arc::new(Memory::default());
        let mut lived = lived_in(&engine);
        if let Some(floor) = floor {
            compact(&mut lived, floor);
            while lived.compact_step(7).expect("memory") {
                flush(&mut lived, &engine);
            }
        }
        let before = hash(&lived, 0);
        let lived = RwLock::new(lived);
        image(&lived, &path);
        let conf_state = Some(ConfState { voters: vec![1], ..ConfState::default() });
        let mark = Mark { index: lived.read().applied().0.0, term: 3, conf_state };
        let [mut at_once, mut reopened] = installed(&path, &mark);
        // Whatever is written next must go on in the same way, too.
        for step in 0..3 {
            for machine in [&mut at_once, &mut reopened] {
                match step {
                    0 => {}
                    1 => put(machine, "key100", "again", 77),
                    _ => delete(machine, "key150"),
                }
            }
            let (one, other) = (at_once.store(), reopened.store());
            assert_eq!(one.revision(), other.revision());
            assert_eq!((one.compacted(), one.keys(), one.in_use()), (other.compacted(), other.keys(), other.in_use()));
            assert_eq!(one.size(), other.size());
            for revision in [0, 640, 655] {
                assert_eq!(one.hash(revision), other.hash(revision), "at {revision} with {floor:?}");
            }
            assert_eq!(at_once.leases(), reopened.leases());
            assert_eq!(at_once.applied(), reopened.applied());
            if step == 0 {
                assert_eq!(hash(&at_once, 0), before);
            }
        }
    }
}

fn hash(machine: &Machine, revision: i64) -> u32 {
    machine.store().hash(revision).expect("a hash").hash
}

#[test]
fn an_image_that_is_imported_is_the_same_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Arc::new(Memory::default());
    let machine = RwLock::new(lived_in(&engine));
    image(&machine, &dir.path().join("a.db"));
    let (before, after) = (machine.into_inner(), imported(&dir.path().join("a.db"), 0));
    assert_eq!(after.store().revision(), before.store().revision());
    for revision in [0, 2, 100, 300, 640] {
        assert_eq!(hash(&after, revision), hash(&before, revision), "at {revision}");
    }
    assert_eq!(after.leases(), before.leases());
    assert!(after.leases().get(crate::types::LeaseId(77)).is_some_and(|lease| lease.keys().count() == 2));
    assert_eq!(after.applied(), (Index(1), Term(1)));
    assert_eq!(after.members().len(), 1);
}

#[test]
fn a_compaction_while_the_image_is_written_takes_nothing_out_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = Arc::new(Memory::default());
    let machine = RwLock::new(lived_in(&engine));
    let expected = hash(&machine.read(), 0);
    let revision = machine.read().store().revision();
    let frozen = machine.read().freeze();
    {
        let mut machine = machine.write();
        compact(&mut machine, revision.to_wire());
        put(&mut machine, "later", "not in the image", 0);
        for _ in 0..100 {
            assert_eq!(machine.compact_step(1000), Ok(true), "the work waits for the image");
        }
    }
    let path = dir.path().join("a.db");
    write(&machine, frozen, RealDisk.create(&path).expect("a file").as_mut()).expect("written");
    let image = imported(&path, 0);
    assert_eq!((image.store().revision(), hash(&image, 0)), (revision, expected));
    assert_eq!(image.store().compacted(), None);
    let mut machine = machine.into_inner();
    assert!((0..1000).any(|_| machine.compact_step(1000) == Ok(false)), "and then it ends");
}

#[test]
fn rows_that_compaction_has_dropped_are_not_in_an_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let engine = Arc::new(Memory::default());
    let mut lived = lived_in(&engine);
    let before = lived.store().revision();
    compact(&mut lived, before.to_wire() - 10);
    while lived.compact_step(1000).expect("memory") {}
    let machine = RwLock::new(lived);
    image(&machine, &path);
    let mut rows = 0;
    let reader = opened(&path).and_then(Snapshot::into_reader).expect("a snapshot");
    let mut inside = false;
    reader
        .walk(&mut |item| {
            match item {
                Item::Enter(name) => inside = name == b"key",
                Item::Row(..) if inside => rows += 1,
                _ => {}
            }
            Ok(())
        })
        .expect("whole");
    // 200 keys of which 60 are deleted; the rows from the floor on are all there: 10 or 11 tombstones, and what these deleted at the floor.
    assert!((140..=165).contains(&rows), "{rows}");
    let after = imported(&path, 0);
    assert_eq!(after.store().compacted(), machine.read().store().compacted());
    assert_eq!(hash(&after, 0), hash(&machine.read(), 0));
}

#[test]
fn a_bump_raises_the_revision_and_compacts_all_below() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let engine = Arc::new(Memory::default());
    let machine = RwLock::new(lived_in(&engine));
    image(&machine, &path);
    let bumped = imported(&path, 1000);
    let revision = Revision(machine.read().store().revision().0 + 1000);
    assert_eq!((bumped.store().revision(), bumped.store().compacted()), (revision, Some(revision)));
    assert!(bumped.store().has(b"key100") && !bumped.store().has(b"key000"));
}

#[test]
fn a_wrong_file_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let why = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        let snapshot = opened(&path).expect("a file");
        let reader = snapshot.verify().and_then(|()| snapshot.into_reader());
        let imported = reader.and_then(|reader| import(&reader, &Memory::default(), Batch::default(), 0));
        imported.expect_err("refused").to_string()
    };
    assert!(why(b"hello").contains("invalid database"));
    let mut file = RealDisk.create(&path).expect("a file");
    let mut writer = Writer::new(file.as_mut());
    writer.bucket(b"other").expect("the first");
    writer.finish().expect("written");
    let other = std::fs::read(&path).expect("there");
    assert!(why(&other).contains("without a bucket \"key\""));
    let row = |address: &[u8], value: &[u8]| {
        let mut file = RealDisk.create(&path).expect("a file");
        let mut writer = Writer::new(file.as_mut());
        writer.bucket(b"key").expect("the first");
        writer.put(address, value).expect("the first");
        writer.finish().expect("written");
        why(&std::fs::read(&path).expect("there"))
    };
    assert!(row(b"short", b"").contains("no address"));
    assert!(row(b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\xff").contains("bucket \"key\""));
    assert!(row(b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\x0a\x01k").contains("do not fit"));
    let saved = [other.clone(), Sha256::digest(&other).to_vec()].concat();
    assert!(why(&saved).contains("without a bucket"), "the checksum is right");
    let mut flipped = saved;
    flipped[5000] ^= 1;
    assert!(why(&flipped).contains("expected sha256 ["));
}

#[test]
fn an_image_of_another_entry_than_it_was_sent_as_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let sent_as = |own: &[u8], index: u64| {
        let mut file = RealDisk.create(&path).expect("a file");
        let mut writer = Writer::new(file.as_mut());
        writer.bucket(b"key").expect("the first");
        writer.bucket(b"meta").expect("the second");
        writer.put(b"consistent_index", own).expect("the first");
        writer.finish().expect("written");
        let reader = opened(&path).and_then(Snapshot::into_reader).expect("a database");
        let mark = Mark { index, term: 3, conf_state: None };
        let checked = check(&reader, &mark, ClusterId(7)).map(drop);
        assert_eq!(fill_from(&reader, &Memory::default(), &mark).map(drop), checked);
        checked.map_err(|why| why.to_string())
    };
    let own = 200_000_u64.to_be_bytes();
    for honest in [200_000, 200_001, 300_000] {
        assert_eq!(sent_as(&own, honest), Ok(()), "{honest}");
    }
    for lie in [0, 199_999, 300_001, u64::MAX] {
        let why = sent_as(&own, lie).expect_err("refused");
        assert!(why.contains("state at entry 200000") && why.contains(&lie.to_string()), "{why}");
    }
    assert!(sent_as(b"short", 200_000).expect_err("refused").contains("no number"));
}

#[test]
fn who_is_a_learner_is_what_raft_says_and_not_the_row() {
    let engine = Memory::default();
    let mut batch = Batch::default();
    for (id, is_learner) in [(1, false), (2, true), (3, false), (4, true)] {
        let member = Member { id: MemberId(id), is_learner, ..Member::default() };
        batch.put(Table::Members, format!("{id:016x}"), member.to_json());
    }
    engine.write(&batch).expect("memory");
    // Nothing is said of 4: it is not in raft's configuration at all.
    let conf_state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    tell_learners(&engine, &conf_state).expect("members");
    let rows = engine.scan(Table::Members, &[], 10).expect("memory");
    let learners = rows.iter().map(|(_, row)| Member::from_json(row).expect("a member").is_learner);
    assert_eq!(learners.collect::<Vec<_>>(), [false, false, true, true]);
}
