//! What the store promises: batches whole or not at all, what was synced stays, and damage is an error.

use super::*;
use crate::engine::Memory;
use proptest::prelude::*;
use tempfile::TempDir;

fn folder() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("store");
    (root, dir)
}

fn open(dir: &Path) -> Store {
    Store::open(dir, 1 << 20).expect("a good store")
}

fn put(rows: &[(Table, &str, &str)]) -> Batch {
    let mut batch = Batch::default();
    for (table, key, value) in rows {
        batch.put(*table, key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    batch
}

fn all(engine: &dyn Engine) -> Vec<(Table, Row)> {
    let rows = |table| engine.scan(table, b"", usize::MAX).expect("readable").into_iter().map(move |row| (table, row));
    Table::ALL.into_iter().flat_map(rows).collect()
}

/// Copies a store's files as a crash would leave them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for entry in fs::read_dir(from).expect("there") {
        let path = entry.expect("readable").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

/// Every file below a folder, and every folder.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).expect("there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(below(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn a_sync_reaches_every_file_that_holds_rows_and_every_folder_that_names_one() {
    let (root, dir) = folder();
    SYNCED.take();
    let store = open(&dir);
    let begun = SYNCED.take();
    assert!(begun.iter().any(|path| path == root.path()), "the new folder's own name lasts: {begun:?}");
    store.write(&put(&[(Table::Key, "small", "1")])).expect("written");
    // Too large for a segment: sled makes it a file of its own. In a store of format 1 there are such rows.
    store.table(Table::Key).insert("large", vec![7; SEGMENT_BYTES / 2]).expect("written");
    SYNCED.take();
    store.sync().expect("synced");
    let synced = SYNCED.take();
    let holds_rows = |path: &&PathBuf| path.is_dir() || *path == &dir.join("db") || path.starts_with(dir.join("blobs"));
    let (found, snapshots): (Vec<_>, Vec<_>) = below(&dir).into_iter().partition(|path| holds_rows(&path));
    assert!(found.iter().any(|path| path.parent() == Some(&dir.join("blobs"))), "there is a blob: {found:?}");
    for path in found {
        assert!(synced.contains(&path), "{} is not synced", path.display());
    }
    // Not among them: `conf`, which never changes, and `snap.*`, which only save time.
    let spared = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (name == "conf" && begun.contains(path)) || name.starts_with("snap.")
    };
    assert!(snapshots.iter().all(spared), "{snapshots:?}");
    let folders = synced.iter().position(|path| *path == dir);
    assert_eq!(folders, Some(synced.len() - 1), "names come after what they name");
}

#[test]
fn an_error_that_sled_tells_twice_says_what_the_system_says() {
    let told = sled::Error::Io(std::io::Error::from_raw_os_error(28));
    let again = fenced(Path::new("d"), || Err::<(), _>(told.clone()));
    assert_eq!(again, Err(Error::Storage("d: No space left on device (os error 28)".into())));
    assert_eq!(fenced(Path::new("d"), || Err::<(), _>(told)), again);
}

#[test]
fn a_batch_changes_all_its_tables() {
    let (_root, dir) = folder();
    let store = open(&dir);
    store
        .write(&put(&[(Table::Meta, "index", "7"), (Table::Key, "a", "1"), (Table::Lease, "x", "y")]))
        .expect("written");
    let mut batch = put(&[(Table::Meta, "index", "8")]);
    batch.delete(Table::Key, "a");
    batch.delete(Table::Key, "never there");
    store.write(&batch).expect("written");
    store.write(&Batch::default()).expect("nothing to do");
    assert_eq!(store.get(Table::Key, b"a"), Ok(None));
    assert_eq!(store.get(Table::Meta, b"index"), Ok(Some("8".into())));
    assert_eq!(store.get(Table::Meta, b"a"), Ok(None), "tables are apart");
    drop(store);
    assert_eq!(all(&open(&dir)).len(), 2, "and after it was opened again");
}

#[test]
fn a_scan_goes_in_key_order_from_a_key() {
    let (_root, dir) = folder();
    let store = open(&dir);
    store.write(&put(&[(Table::Key, "c", "3"), (Table::Key, "a", "1"), (Table::Key, "b", "2")])).expect("written");
    let keys = |from: &[u8], limit| {
        let rows = store.scan(Table::Key, from, limit).expect("readable");
        rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys(b"", 2), ["a", "b"]);
    assert_eq!(keys(b"b", 9), ["b", "c"]);
    assert_eq!(keys(b"b\0", 9), ["c"]);
    assert!(keys(b"d", 9).is_empty());
}

#[test]
fn what_was_synced_is_there_after_a_crash() {
    let (root, dir) = folder();
    let store = open(&dir);
    let large = "v".repeat(3 << 20);
    store.write(&put(&[(Table::Meta, "index", "1"), (Table::Key, "large", &large)])).expect("written");
    store.sync().expect("synced");
    let crashed = root.path().join("crashed");
    copy(&dir, &crashed);
    assert_eq!(all(&open(&crashed)), all(&store));
    assert!(store.disk_bytes().expect("readable") > 3 << 20);
}

#[test]
fn a_second_program_is_refused() {
    let (_root, dir) = folder();
    let _store = open(&dir);
    assert!(matches!(Store::open(&dir, 1 << 20), Err(Error::Storage(_))));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let table = store.db.open_tree(FORMAT_TABLE).expect("there");
    table.insert(FORMAT_KEY, &(FORMAT + 1).to_be_bytes()).expect("written");
    drop((table, store));
    let Err(Error::Storage(text)) = Store::open(&dir, 1 << 20) else { panic!("opened") };
    assert!(text.contains("format 3; this one knows 2"), "{text}");
}

#[test]
fn a_store_of_the_first_format_is_read_as_it_is_and_cut_from_then_on() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let large = vec![7; 100_000];
    store.table(Table::Key).insert("old", large.clone()).expect("written");
    store.table(Table::Key).insert("empty", b"").expect("written");
    let table = store.db.open_tree(FORMAT_TABLE).expect("there");
    table.insert(FORMAT_KEY, &1u64.to_be_bytes()).expect("written");
    drop((table, store));
    let store = open(&dir);
    assert_eq!(store.get(Table::Key, b"old"), Ok(Some(large.clone().into())));
    assert_eq!(store.get(Table::Key, b"empty"), Ok(Some(Bytes::new())));
    assert_eq!(store.pieces.len(), 0);
    let mut batch = Batch::default();
    batch.put(Table::Key, "old", large.clone());
    store.write(&batch).expect("written");
    assert!(store.pieces.len() > 20, "it is cut");
    let table = store.db.open_tree(FORMAT_TABLE).expect("there");
    assert_eq!(table.get(FORMAT_KEY).expect("read").as_deref(), Some(&FORMAT.to_be_bytes()[..]));
    drop((table, store));
    assert_eq!(open(&dir).get(Table::Key, b"old"), Ok(Some(large.into())));
}

#[test]
fn a_large_row_leaves_no_pieces_when_it_is_replaced_or_removed() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let set = |table, len: Option<usize>| {
        let mut batch = Batch::default();
        match len {
            Some(len) => batch.put(table, "k", vec![len as u8; len]),
            None => batch.delete(table, "k"),
        }
        store.write(&batch).expect("written");
        let row = len.map(|len| Bytes::from(vec![len as u8; len]));
        assert_eq!(store.get(table, b"k"), Ok(row.clone()), "{len:?}");
        let scanned = store.scan(table, b"", 9).expect("readable");
        assert_eq!(scanned.into_iter().next(), row.map(|row| ("k".into(), row)), "{len:?}");
        store.pieces.len()
    };
    // Beside it there is another table's row of the same name.
    let beside = set(Table::AuthRoles, Some(50_000));
    let (whole, piece) = (pieces::WHOLE_BYTES, pieces::PIECE_BYTES);
    for (len, pieces) in [
        (Some(whole), 0),
        (Some(whole + 1), 3),
        (Some(piece * 10 - 8), 10),
        (Some(piece * 10 - 7), 11),
        (Some(whole + 1), 3),
        (Some(0), 0),
        (Some(3 << 20), 769),
        (None, 0),
        (None, 0),
    ] {
        assert_eq!(set(Table::Key, len) - beside, pieces, "{len:?}");
    }
    assert_eq!(set(Table::AuthRoles, None), 0);
}

#[test]
fn a_large_row_that_lost_a_piece_is_damage() {
    let (_root, dir) = folder();
    for lost in [1, 5, 24] {
        let store = open(&dir);
        let mut batch = Batch::default();
        batch.put(Table::Key, "k", vec![7; 100_000]);
        store.write(&batch).expect("written");
        let piece = store.pieces.iter().keys().nth(lost).expect("a piece").expect("readable");
        store.pieces.remove(piece).expect("removed");
        assert!(matches!(store.get(Table::Key, b"k"), Err(Error::Damaged(_))));
        drop(store);
        put_aside(&dir).expect("renamed");
    }
}

/// A reader sees one batch's bytes, never the pieces of two.
#[test]
fn a_large_row_is_read_whole_while_it_is_replaced() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let write = |n: u8| {
        let mut batch = Batch::default();
        batch.put(Table::Key, "k", vec![n; 20_000 + usize::from(n) * 1000]);
        store.write(&batch).expect("written");
    };
    write(0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| (1..=100).for_each(write));
        let mut last = 0;
        while last < 100 {
            let done = writer.is_finished();
            let row = store.get(Table::Key, b"k").expect("readable").expect("there");
            assert!(row[0] >= last && row.iter().all(|byte| *byte == row[0]), "one batch's bytes");
            assert_eq!(row.len(), 20_000 + usize::from(row[0]) * 1000);
            last = row[0];
            assert!(!done || last == 100, "the last batch is seen");
        }
    });
}

/// sled writes a leaf whole when a few of its rows have changed: with rows of 1 MB in it these took 24 MB, after sled had tidied up.
#[test]
fn small_rows_beside_large_ones_cost_little_space() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let bytes = || {
        store.sync().expect("synced");
        store.disk_bytes().expect("readable")
    };
    let mut batch = Batch::default();
    for number in 0..16u64 {
        batch.put(Table::Key, (number * 1000).to_be_bytes().to_vec(), vec![number as u8; 1 << 20]);
    }
    store.write(&batch).expect("written");
    let before = bytes();
    for number in 1..=400u64 {
        let mut batch = Batch::default();
        batch.put(Table::Key, (15_000 + number).to_be_bytes().to_vec(), vec![7; 100]);
        store.write(&batch).expect("written");
    }
    let grown = bytes() - before;
    assert!(grown < 4 << 20, "40 KB took {grown} bytes");
}

#[test]
fn a_store_without_a_format_is_damaged() {
    let (_root, dir) = folder();
    let store = open(&dir);
    store.db.drop_tree(FORMAT_TABLE).expect("dropped");
    drop(store);
    assert!(matches!(Store::open(&dir, 1 << 20), Err(Error::Damaged(_))));
}

#[test]
fn a_folder_that_cannot_be_is_the_disks_failure() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let file = root.path().join("file");
    fs::write(&file, b"not a folder").expect("written");
    let Err(Error::Storage(text)) = Store::open(&file.join("store"), 1 << 20) else { panic!("opened") };
    assert!(text.contains("file/store"), "{text}");
}

#[test]
fn a_panic_is_damage_and_ends_the_store() {
    let (_root, dir) = folder();
    let store = open(&dir);
    let panics = || -> sled::Result<()> { panic!("in sled") };
    let Err(Error::Damaged(text)) = store.guarded(panics) else { panic!("went through") };
    assert!(text.ends_with("sled panicked: in sled"), "{text}");
    assert_eq!(store.write(&put(&[(Table::Key, "a", "1")])), Err(Error::Damaged(text.clone())));
    assert_eq!(store.sync(), Err(Error::Damaged(text)));
}

#[test]
fn a_store_that_was_put_aside_makes_room_for_a_new_one() {
    let (_root, dir) = folder();
    for value in ["old", "new"] {
        let store = open(&dir);
        assert!(all(&store).is_empty());
        store.write(&put(&[(Table::Key, "a", value)])).expect("written");
        drop(store);
        let aside = put_aside(&dir).expect("renamed");
        assert_eq!(open(&aside).get(Table::Key, b"a"), Ok(Some(Bytes::from_static(value.as_bytes()))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_give_an_error_or_a_store_but_never_a_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (root, dir) = folder();
        let store = open(&dir);
        for n in 0..20 {
            store.write(&put(&[(Table::Key, &format!("key{n}"), &"v".repeat(200)), (Table::Meta, "index", "1")])).expect("written");
        }
        store.sync().expect("synced");
        let broken = root.path().join("broken");
        copy(&dir, &broken);
        let mut bytes = fs::read(broken.join("db")).expect("there");
        // Only the front of the file is in use; damage in the rest would prove nothing.
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for (at, byte) in edits {
            bytes[at.index(used)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(broken.join("db"), bytes).expect("written");
        if let Ok(store) = Store::open(&broken, 1 << 20) {
            for table in Table::ALL {
                let _any = store.scan(table, b"", 100);
            }
            let _any = store.write(&put(&[(Table::Key, "more", "1")]));
        }
    }

    #[test]
    fn the_store_agrees_with_the_engine_in_memory(
        batches in prop::collection::vec(
            prop::collection::vec((0..10usize, "[a-c]{1,3}", prop::option::of(("[x-z]{0,8}", 0..5usize))), 0..8), 0..12),
    ) {
        let (_root, dir) = folder();
        let (store, memory) = (open(&dir), Memory::default());
        for rows in batches {
            let mut batch = Batch::default();
            for (table, key, value) in rows {
                match value {
                    // Two of five are too large for a leaf.
                    Some((value, times)) => batch.put(Table::ALL[table], key, value.repeat([0, 1, 1, 2000, 9000][times])),
                    None => batch.delete(Table::ALL[table], key),
                }
            }
            store.write(&batch).expect("written");
            memory.write(&batch).expect("memory");
        }
        prop_assert_eq!(all(&store), all(&memory));
        drop(store);
        prop_assert_eq!(all(&open(&dir)), all(&memory));
    }
}

/// Rows of two tables, and the applied index beside them.
fn filled(dir: &Path) -> (Renewable, Batch) {
    let store = Renewable::open(dir, CACHE_BYTES).expect("opens");
    let mut batch = Batch::default();
    for number in 0..400u64 {
        batch.put(Table::Key, number.to_be_bytes().to_vec(), vec![number as u8; 4096]);
    }
    batch.put(Table::Lease, "lease", "row");
    batch.put(Table::Meta, "consistent_index", 400u64.to_be_bytes().to_vec());
    store.write(&batch).expect("writes");
    (store, batch)
}

#[test]
fn a_store_written_afresh_has_the_same_rows_in_less_space() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, batch) = filled(&dir.path().join("store"));
    // Much more than sled's smallest file, and then much less.
    let (mut more, mut fewer) = (Batch::default(), Batch::default());
    for number in 400..6000u64 {
        more.put(Table::Key, number.to_be_bytes().to_vec(), vec![number as u8; 4096]);
        if number % 32 == 0 {
            store.write(&std::mem::take(&mut more)).expect("writes");
        }
    }
    (40..6000u64).for_each(|number| fewer.delete(Table::Key, number.to_be_bytes().to_vec()));
    store.write(&fewer).expect("writes");
    store.sync().expect("syncs");
    let before = all(&store);
    let (from, to) = store.renew().expect("renews");
    assert!(to < from, "{from} became {to}");
    assert_eq!((all(&store) == before, before.len()), (true, 42));
    assert!(!store.is_lost());
    store.write(&batch).expect("it goes on");
    let after = all(&store);
    drop(store);
    let left: Vec<_> = fs::read_dir(dir.path()).expect("there").flatten().map(|file| file.file_name()).collect();
    assert_eq!(left, ["store"], "nothing is left beside it");
    let again = Renewable::open(&dir.path().join("store"), CACHE_BYTES).expect("opens");
    assert!(all(&again) == after);
}

/// What is on disk after a crash at each step of the swap, and which store must be found then.
#[test]
fn a_crash_while_it_is_written_afresh_leaves_one_whole_store() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, fresh, old) = (dir.path().join("store"), dir.path().join("store.fresh"), dir.path().join("store.old"));
    let (made, _) = filled(&store);
    made.sync().expect("syncs");
    let whole = all(&made);
    drop(made);
    let half_written = || {
        fs::create_dir(&fresh).expect("made");
        fs::write(fresh.join("db"), b"half").expect("written");
    };
    let steps: [(&str, &dyn Fn()); 4] = [
        ("while copying", &half_written),
        ("before the first rename", &|| fs::create_dir_all(&fresh).expect("made")),
        ("between the renames", &|| {
            half_written();
            fs::rename(&store, &old).expect("renamed");
        }),
        ("before the old one is removed", &|| {
            fs::create_dir(&old).expect("made");
            fs::write(old.join("db"), b"old").expect("written");
        }),
    ];
    for (when, crash) in steps {
        crash();
        let found = Renewable::open(&store, CACHE_BYTES).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(all(&found) == whole, "{when}");
        assert!(!fresh.exists() && !old.exists(), "{when}: something is left");
        drop(found);
    }
}

#[test]
fn a_copy_that_fails_leaves_the_old_store_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, _) = filled(&dir.path().join("store"));
    let whole = all(&store);
    // A file where the fresh store's folder should be.
    fs::write(dir.path().join("store.fresh"), b"in the way").expect("written");
    assert!(matches!(store.renew(), Err(Error::Storage(_))));
    assert!(!store.is_lost() && all(&store) == whole);
}
