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
    assert!(text.contains("format 2; this one knows 1"), "{text}");
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
            prop::collection::vec((0..10usize, "[a-c]{1,3}", prop::option::of("[x-z]{0,8}")), 0..8), 0..12),
    ) {
        let (_root, dir) = folder();
        let (store, memory) = (open(&dir), Memory::default());
        for rows in batches {
            let mut batch = Batch::default();
            for (table, key, value) in rows {
                match value {
                    Some(value) => batch.put(Table::ALL[table], key, value),
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
