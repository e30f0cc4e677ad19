//! The small print of etcd's key space, claim by claim.

mod models;

use super::*;
use crate::engine::Memory;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use proptest::prelude::*;

fn open(engine: &Arc<Memory>) -> Store {
    Store::open(Arc::clone(engine) as Arc<dyn Engine>, CACHE_BYTES).expect("opens").0
}

fn store() -> Store {
    open(&Arc::default())
}

fn put(store: &mut Store, key: &str, value: &str) {
    let mut write = store.write();
    write.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()), LeaseId(0));
    assert_eq!(write.finish().len(), 1);
}

fn delete(store: &mut Store, key: &str) {
    let mut write = store.write();
    write.delete(&KeyRange::Single(Bytes::copy_from_slice(key.as_bytes())));
    let _ = write.finish();
}

/// Writes what changed to the engine, as the driver does.
fn flush(store: &mut Store, engine: &Memory) {
    let mut batch = Batch::default();
    store.drain(&mut batch);
    engine.write(&batch).expect("memory");
    store.written();
}

fn sweep(store: &mut Store) {
    while store.compact_step(3).expect("memory") {
        store.compact_ahead(3).load().expect("memory");
    }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn range(store: &Store, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
    let mut selection = store.select(request)?;
    while !selection.is_complete() {
        store.select_more(&mut selection);
    }
    selection.load()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `key=value` of each pair, then the count, and `more` if there are more.
fn show(response: pb::RangeResponse) -> String {
    let pairs: Vec<String> = response.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect();
    format!("{} ({}){}", pairs.join(" "), response.count, if response.more { " more" } else { "" })
}

fn ask(store: &Store, change: impl FnOnce(&mut pb::RangeRequest)) -> String {
    let mut request = all();
    change(&mut request);
    range(store, &request).map_or_else(|e| e.to_string(), show)
}

fn hash(store: &Store, revision: i64) -> Hash {
    store.hash(revision).expect("memory")
}

fn history(store: &Store, from: u64) -> Result<String, Error> {
    let range = KeyRange::From(Bytes::new());
    let (events, _) = store.history(&range, Revision(from), 1000)?.load()?;
    let show = |event: Event| {
        let kv = event.kv.expect("every event has one");
        format!("{}{}@{}", if event.r#type == 1 { "-" } else { "+" }, text(&kv.key), kv.mod_revision)
    };
    Ok(events.into_iter().map(show).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_range_reads_each_key_as_it_was_at_the_revision() {
    let mut store = store();
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    put(&mut store, "b", "1");
    delete(&mut store, "a");
    assert_eq!(ask(&store, |r| r.revision = 2), "a=1 (1)");
    assert_eq!(ask(&store, |r| r.revision = 4), "a=2 b=1 (2)");
    assert_eq!(ask(&store, |_| {}), "b=1 (1)");
    assert_eq!(ask(&store, |r| r.revision = -1), "b=1 (1)");
    assert_eq!(ask(&store, |r| r.revision = 6), Error::FutureRevision.to_string());
}

#[test]
fn the_count_knows_neither_limit_nor_filters() {
    let mut store = store();
    for key in ["a", "b", "c", "d"] {
        put(&mut store, key, "v");
    }
    assert_eq!(ask(&store, |r| r.limit = 2), "a=v b=v (4) more");
    assert_eq!(ask(&store, |r| r.limit = 4), "a=v b=v c=v d=v (4)");
    assert_eq!(ask(&store, |r| r.count_only = true), " (4)");
    assert_eq!(ask(&store, |r| (r.count_only, r.limit) = (true, 1)), " (4)");
    assert_eq!(ask(&store, |r| (r.min_mod_revision, r.max_mod_revision) = (3, 4)), "b=v c=v (4)");
    assert_eq!(ask(&store, |r| (r.min_mod_revision, r.limit) = (3, 2)), "b=v c=v (4) more");
    assert_eq!(ask(&store, |r| r.max_create_revision = 2), "a=v (4)");
    assert_eq!(ask(&store, |r| r.keys_only = true), "a= b= c= d= (4)");
}

#[test]
fn sorting_comes_before_the_limit() {
    let mut store = store();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "9"), ("a", "0"), ("a", "5")] {
        put(&mut store, key, value);
    }
    let sorted = |target: SortTarget, order: SortOrder, limit: i64| {
        ask(&store, |r| (r.sort_target, r.sort_order, r.limit) = (target as i32, order as i32, limit))
    };
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 2), "c=2 b=9 (3) more");
    assert_eq!(sorted(SortTarget::Version, SortOrder::Descend, 0), "a=5 b=9 c=2 (3)");
    assert_eq!(sorted(SortTarget::Mod, SortOrder::None, 0), "c=2 b=9 a=5 (3)", "NONE on anything but keys ascends");
    assert_eq!(sorted(SortTarget::Create, SortOrder::Descend, 1), "c=2 (3) more");
    assert_eq!(sorted(SortTarget::Value, SortOrder::Ascend, 2), "c=2 a=5 (3) more");
    assert_eq!(sorted(SortTarget::Value, SortOrder::Descend, 0), "b=9 a=5 c=2 (3)");
    assert_eq!(ask(&store, |r| r.sort_target = 9), Error::InvalidSortOption.to_string());
}

/// Seen on etcd 3.5.1: without an order the limit comes first, and what it lets through is sorted.
#[test]
fn without_an_order_the_limit_comes_before_the_sorting() {
    let mut store = store();
    for key in ["a", "b", "c", "d", "c", "a"] {
        put(&mut store, key, "v");
    }
    let by_mod = |order: SortOrder, least: i64| {
        ask(&store, |r| {
            (r.sort_target, r.sort_order, r.limit, r.min_mod_revision) =
                (SortTarget::Mod as i32, order as i32, 2, least)
        })
    };
    assert_eq!(by_mod(SortOrder::None, 0), "b=v c=v (4) more");
    assert_eq!(by_mod(SortOrder::Ascend, 0), "b=v d=v (4) more");
    assert_eq!(by_mod(SortOrder::None, 1), "b=v d=v (4) more", "a filter wants all keys first");
}

#[test]
fn a_page_is_not_counted_beyond_its_end() {
    let mut store = store();
    for key in ["a", "b", "c", "d"] {
        put(&mut store, key, "v");
    }
    let page = |limit: i64, count_only: bool| {
        let mut selection = store.select_page(&pb::RangeRequest { limit, count_only, ..all() }).expect("readable");
        while !selection.is_complete() {
            store.select_more(&mut selection);
        }
        selection.load().map(show).expect("memory")
    };
    assert_eq!(page(2, false), "a=v b=v (3) more");
    assert_eq!(page(4, false), "a=v b=v c=v d=v (4)");
    assert_eq!(page(2, true), " (4)", "who asks for the count gets it");
}

/// An engine of which nothing can be read any more.
struct Unreadable;

impl Engine for Unreadable {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, Error> {
        Err(Error::Storage("not readable".into()))
    }

    fn scan(&self, _: Table, _: &[u8], _: usize) -> Result<Vec<crate::engine::Row>, Error> {
        Err(Error::Storage("not readable".into()))
    }

    fn write(&self, _: &Batch) -> Result<(), Error> {
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn keys_and_counts_need_no_value() {
    let engine = Arc::default();
    let mut store = open(&engine);
    for key in 0..200 {
        put(&mut store, &format!("{key:03}"), &"v".repeat(100));
    }
    let mut write = store.write();
    write.put("leased".into(), "v".into(), LeaseId(7));
    let _ = write.finish();
    put(&mut store, "unleased", &"v".repeat(8192));
    flush(&mut store, &engine);
    let whole = range(&store, &pb::RangeRequest { keys_only: true, ..all() }).expect("memory");
    let pair = |key: &str| whole.kvs.iter().find(|kv| kv.key == key).expect("there").clone();
    assert_eq!((pair("leased").lease, pair("unleased").version), (7, 1), "a lease is told all the same");
    assert!(whole.kvs.iter().all(|kv| kv.value.is_empty()));
    store.reader = Arc::new(Reader { engine: Arc::new(Unreadable), cache: Cache::new(0) });
    let up_to = |end: &'static str, keys_only: bool, count_only: bool| {
        let request = pb::RangeRequest { range_end: end.into(), keys_only, count_only, ..all() };
        range(&store, &request).map(|response| (response.kvs.len(), response.count))
    };
    assert_eq!(up_to("1", true, false), Ok((100, 100)));
    assert_eq!(up_to("\0", false, true), Ok((0, 202)));
    assert!(matches!(up_to("1", false, false), Err(Error::Storage(_))), "values are not in memory");
    assert!(matches!(up_to("\0", true, false), Err(Error::Storage(_))), "the lease's id is in the history");
}

#[test]
fn sizes_are_told_in_etcds_pages() {
    let engine = Arc::default();
    let mut store = open(&engine);
    assert_eq!((store.size(), store.in_use()), (20_480, 16_384), "as a fresh etcd 3.5.1 says");
    put(&mut store, "a", "1");
    assert_eq!((store.size(), store.in_use()), (20_480, 16_384));
    for round in 0..100 {
        put(&mut store, "a", &format!("{round:01000}"));
    }
    let full = (store.size(), store.in_use());
    assert!(full.0 > 110_000 && full.0 - full.1 == 4096, "{full:?}");
    store.compact(store.revision().to_wire()).expect("is no future");
    sweep(&mut store);
    assert_eq!((store.size(), store.in_use()), (full.0, 16_384), "compaction frees, and gives nothing back");
    store.defragmented();
    assert_eq!((store.size(), store.in_use()), (20_480, 16_384));
    flush(&mut store, &engine);
    assert_eq!(open(&engine).size(), 20_480, "a restart knows it");
}

#[test]
fn a_long_range_is_chosen_in_slices_at_one_revision() {
    let mut store = store();
    let keys = SLICE_KEYS * 2 + 7;
    for key in 0..keys {
        put(&mut store, &format!("{key:05}"), "old");
    }
    let mut selection = store.select(&all()).expect("readable");
    assert!(!selection.is_complete());
    put(&mut store, "99999", "new");
    while !selection.is_complete() {
        store.select_more(&mut selection);
    }
    let response = selection.load().expect("memory");
    assert_eq!((response.kvs.len(), response.count as usize), (keys, keys));
    assert!(response.kvs.iter().all(|kv| kv.value == "old"));
}

/// The address of a block is that of its first row, so a row that was noted while its block was open could pass for the whole block later.
#[test]
fn a_block_that_is_closed_between_two_slices_is_not_taken_for_its_first_row() {
    let mut store = store();
    let keys = SLICE_KEYS + 500;
    for key in 0..keys {
        put(&mut store, &format!("{key:05}"), "old");
    }
    let large = "x".repeat(5000);
    // A row of more than a block closes what is open, and the next row opens a block.
    put(&mut store, "00000", &large);
    let late = format!("{:05}", keys - 100);
    put(&mut store, "00001", "first of its block");
    put(&mut store, &late, "behind it");
    let mut selection = store.select(&all()).expect("readable");
    put(&mut store, "closes", &large);
    while !selection.is_complete() {
        store.select_more(&mut selection);
    }
    let response = selection.load().expect("memory");
    assert_eq!(response.kvs.len(), keys);
    for (n, kv) in response.kvs.iter().enumerate() {
        let value = match text(&kv.key) {
            key if key == "00000" => large.as_str(),
            key if key == "00001" => "first of its block",
            key if key == late => "behind it",
            _ => "old",
        };
        assert_eq!((text(&kv.key), text(&kv.value)), (format!("{n:05}"), value.to_owned()));
    }
}

#[test]
fn an_interval_that_ends_where_it_begins_is_empty() {
    let mut store = store();
    put(&mut store, "b", "1");
    assert_eq!(ask(&store, |r| (r.key, r.range_end) = ("b".into(), "b".into())), " (0)");
    assert_eq!(ask(&store, |r| (r.key, r.range_end) = ("b".into(), "a".into())), " (0)");
    assert_eq!(ask(&store, |r| (r.key, r.range_end) = ("a".into(), "c".into())), "b=1 (1)");
}

#[test]
fn the_changes_of_one_transaction_share_a_revision_and_see_each_other() {
    let mut store = store();
    let mut write = store.write();
    write.put("b".into(), "1".into(), LeaseId(0));
    write.put("a".into(), "1".into(), LeaseId(7));
    assert!(write.store().has(b"b"));
    assert_eq!(write.delete(&KeyRange::From(Bytes::new())), ["a", "b"]);
    let events = write.finish();
    assert_eq!(store.revision(), Revision(2));
    assert_eq!(history(&store, 2), Ok("+b@2 +a@2 -a@2 -b@2".into()));
    assert_eq!(events[1].kv.as_ref().map(|kv| (kv.version, kv.create_revision, kv.lease)), Some((1, 2, 7)));
    let gone = events[2].kv.as_ref().expect("a delete names its key");
    assert_eq!(gone, &KeyValue { key: "a".into(), mod_revision: 2, ..KeyValue::default() });
}

#[test]
fn a_transaction_that_changes_nothing_takes_no_revision() {
    let mut store = store();
    delete(&mut store, "a");
    assert_eq!(store.revision(), Revision::FIRST);
}

/// etcd lost the delete at the compacted revision for years (#18089, #19179).
#[test]
fn a_delete_at_the_compacted_revision_is_still_told() {
    for restart in [false, true] {
        let engine = Arc::default();
        let mut store = open(&engine);
        for value in ["1", "2", "3"] {
            put(&mut store, "a", value);
        }
        delete(&mut store, "a");
        put(&mut store, "a", "5");
        flush(&mut store, &engine);
        assert_eq!(store.compact(5), Ok(Revision(5)));
        sweep(&mut store);
        flush(&mut store, &engine);
        if restart {
            store = open(&engine);
        }
        assert_eq!(history(&store, 5), Ok("-a@5 +a@6".into()));
        assert_eq!(history(&store, 4), Err(Error::Compacted));
        assert_eq!(ask(&store, |r| r.revision = 5), " (0)");
        assert_eq!(ask(&store, |r| r.revision = 6), "a=5 (1)");
        assert_eq!(ask(&store, |r| r.revision = 4), Error::Compacted.to_string());
    }
}

#[test]
fn what_can_be_compacted_and_what_cannot() {
    let mut store = store();
    put(&mut store, "a", "1");
    assert_eq!(store.compact(3), Err(Error::FutureRevision));
    assert_eq!(store.compact(-1), Err(Error::Compacted));
    assert_eq!(store.compact(0), Ok(Revision(0)), "a store that was never compacted takes 0, once");
    assert_eq!(store.compact(0), Err(Error::Compacted));
    assert_eq!(store.compact(2), Ok(Revision(2)));
    assert_eq!(store.compact(2), Err(Error::Compacted));
}

/// etcd took the current revision from the last row that was left (#17780).
#[test]
fn the_revision_does_not_go_back_when_its_row_is_compacted_away() {
    let engine = Arc::default();
    let mut store = open(&engine);
    put(&mut store, "a", "1");
    put(&mut store, "b", "1");
    delete(&mut store, "b");
    delete(&mut store, "a");
    put(&mut store, "c", "1");
    delete(&mut store, "c");
    let revision = store.revision();
    assert_eq!(store.compact(revision.to_wire()), Ok(revision));
    sweep(&mut store);
    flush(&mut store, &engine);
    let again = open(&engine);
    assert_eq!((again.revision(), again.compacted()), (revision, Some(revision)));
}

#[test]
fn a_reader_below_the_floor_holds_back_the_removal_but_not_the_compaction() {
    let mut store = store();
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    let early = store.select(&pb::RangeRequest { revision: 2, ..all() }).expect("readable");
    assert_eq!(store.compact(3), Ok(Revision(3)));
    assert_eq!(store.compact_step(100), Ok(true));
    assert_eq!(ask(&store, |r| r.revision = 2), Error::Compacted.to_string());
    assert_eq!(early.load().map(show), Ok("a=1 (1)".into()));
    sweep(&mut store);
    assert!(store.is_swept(Revision(3)));
}

/// Each compaction once began the removal anew, and none came to its end where they were frequent.
#[test]
fn removal_ends_also_where_the_next_compaction_always_comes_before_that() {
    let mut store = store();
    for key in 0..200 {
        put(&mut store, &format!("{key:03}"), "1");
    }
    let mut most = 0;
    for round in 0..400 {
        put(&mut store, "000", &format!("{round:0500}"));
        store.compact(store.revision().to_wire()).expect("is no future");
        // All keys are 20 steps of 10.
        for _ in 0..3 {
            store.compact_step(10).expect("memory");
        }
        most = most.max(store.blocks.len());
    }
    assert!(store.is_swept(Revision(500)), "the first hundreds of them are behind us");
    assert!(most < 30, "{most} blocks of what is one key's");
    sweep(&mut store);
    assert!(store.is_swept(store.revision()) && !store.is_sweeping());
}

#[test]
fn a_block_is_rewritten_without_its_dead_rows() {
    let engine = Arc::default();
    let mut store = open(&engine);
    for round in 0..40 {
        for key in 0..20 {
            put(&mut store, &format!("key{key}"), &format!("{round:0100}"));
        }
    }
    flush(&mut store, &engine);
    let (blocks, in_use, size) = (store.blocks.len(), store.in_use(), store.size());
    assert_eq!(
        store.blocks.resident_bytes(),
        store.blocks.resident_bytes().min(blocks::BLOCK_BYTES),
        "only the open block"
    );
    store.compact(store.revision().to_wire()).expect("is no future");
    sweep(&mut store);
    assert!(store.blocks.len() <= 2 && blocks > 20, "{blocks} blocks became {}", store.blocks.len());
    assert!(store.in_use() < in_use / 5, "{in_use} became {}", store.in_use());
    assert_eq!(store.size(), size, "the quota counts the most that there ever was");
    let before = hash(&store, 0);
    flush(&mut store, &engine);
    assert_eq!(engine.scan(Table::Key, b"", 100).map(|rows| rows.len()), Ok(store.blocks.len()));
    let again = open(&engine);
    assert_eq!((hash(&again, 0), again.size(), again.in_use()), (before, size, store.in_use()));
}

/// Found by simulation (seed 36): the tombstone's block was rewritten, the block with the deleted key's last value was mostly alive and stayed.
#[test]
fn a_deleted_key_stays_deleted_when_its_tombstone_is_compacted_away() {
    let engine = Arc::new(Memory::default());
    let mut store = open(&engine);
    put(&mut store, "a", "1");
    for n in 0..10 {
        put(&mut store, &format!("k{n}"), "alive");
    }
    // Larger than a block, so that what follows is in another one.
    put(&mut store, "big", &"v".repeat(5000));
    delete(&mut store, "a");
    let now = store.revision();
    put(&mut store, "k0", "later");
    store.compact(now.to_wire() + 1).expect("a revision that there is");
    sweep(&mut store);
    flush(&mut store, &engine);
    let before = (hash(&store, 0), ask(&store, |_| {}));
    let again = open(&engine);
    assert!(!again.has(b"a"), "it was deleted");
    assert_eq!((hash(&again, 0), ask(&again, |_| {})), before);
}

#[test]
fn a_cold_store_answers_from_the_engine() {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 0).expect("opens").0;
    for key in 0..500 {
        put(&mut store, &format!("{key:03}"), &"v".repeat(50));
    }
    let warm = ask(&store, |_| {});
    flush(&mut store, &engine);
    assert!(store.blocks.resident_bytes() <= blocks::BLOCK_BYTES);
    assert_eq!(ask(&store, |_| {}), warm);
}

/// A block that the engine has whole before it is full was never let go of.
#[test]
fn a_store_that_is_written_slowly_keeps_only_the_open_block() {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 0).expect("opens").0;
    for key in 0..300 {
        put(&mut store, &format!("{key:03}"), &"v".repeat(200));
        flush(&mut store, &engine);
    }
    assert!(store.blocks.resident_bytes() <= blocks::BLOCK_BYTES, "{}", store.blocks.resident_bytes());
    let all = ask(&store, |_| {});
    assert!(all.ends_with("(300)"), "{all}");
    assert_eq!(ask(&open(&engine), |_| {}), all);
}

#[test]
fn values_are_compared_up_to_the_first_that_does_not_pass() {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 0).expect("opens").0;
    for key in 0..500 {
        put(&mut store, &format!("{key:03}"), &format!("{key:0400}"));
    }
    flush(&mut store, &engine);
    delete(&mut store, "000");
    let compared = std::cell::Cell::new(0);
    let below = |limit: u32| {
        compared.set(0);
        let passes = |value: &[u8]| {
            compared.set(compared.get() + 1);
            value < format!("{limit:0400}").as_bytes()
        };
        (store.values_pass(&KeyRange::From(Bytes::new()), passes), compared.get())
    };
    assert_eq!(below(500), (Ok(true), 499));
    assert_eq!(below(3), (Ok(false), 3));
    assert_eq!(store.values_pass(&KeyRange::Single("000".into()), |_| true), Ok(false), "nothing is there");
}

#[test]
fn a_value_above_the_block_size_has_a_block_of_its_own() {
    let engine = Arc::default();
    let mut store = open(&engine);
    put(&mut store, "a", "1");
    put(&mut store, "big", &"v".repeat(100_000));
    put(&mut store, "b", "1");
    assert_eq!(store.blocks.len(), 3);
    flush(&mut store, &engine);
    assert_eq!(ask(&open(&engine), |r| r.keys_only = true), "a= b= big= (3)");
}

#[test]
fn an_extended_block_replaces_its_first_version_in_the_engine() {
    let engine = Arc::default();
    let mut store = open(&engine);
    for key in ["a", "b", "c"] {
        put(&mut store, key, "1");
        flush(&mut store, &engine);
    }
    assert_eq!(engine.scan(Table::Key, b"", 9).map(|rows| rows.len()), Ok(1));
    let mut again = open(&engine);
    put(&mut again, "d", "1");
    flush(&mut again, &engine);
    assert_eq!(engine.scan(Table::Key, b"", 9).map(|rows| rows.len()), Ok(1), "a start leaves no small block behind");
    assert_eq!(ask(&open(&engine), |_| {}), "a=1 b=1 c=1 d=1 (4)");
}

#[test]
fn history_ends_a_step_only_between_revisions() {
    let mut store = store();
    for _ in 0..50 {
        let mut write = store.write();
        for key in 0..20 {
            write.put(format!("{key}").into(), vec![b'v'; 300].into(), LeaseId(0));
        }
        let _ = write.finish();
    }
    for range in [KeyRange::From(Bytes::new()), KeyRange::Single("3".into())] {
        let (mut from, mut seen) = (Revision(2), Vec::new());
        while from <= store.revision() {
            let (events, through) = store.history(&range, from, 7).and_then(History::load).expect("memory");
            assert!(through >= from, "a step must get on");
            seen.extend(
                events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| (kv.mod_revision, kv.key.clone())),
            );
            from = through.next();
        }
        let per_revision = if matches!(range, KeyRange::Single(_)) { 1 } else { 20 };
        assert_eq!(seen.len(), 50 * per_revision);
        assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0), "in order");
    }
}

#[test]
fn a_hash_covers_rows_up_to_its_revision() {
    let mut store = store();
    assert_eq!(hash(&store, -5).hash, 1_084_519_789, "etcd: the bucket's name alone");
    assert_eq!(hash(&store, 0).hash, 1_084_519_789);
    put(&mut store, "a", "1");
    let early = hash(&store, 0);
    assert_eq!((early.compact_revision, early.hash_revision), (-1, 2));
    put(&mut store, "a", "2");
    assert_ne!(hash(&store, 0).hash, early.hash);
    assert_eq!(hash(&store, 2).hash, early.hash);
    assert_eq!(store.hash_plan(4).err(), Some(Error::FutureRevision));
}

/// etcd hashed what a compaction was just removing (3.4.26, 3.5.10).
#[test]
fn a_hash_under_way_holds_back_the_removal() {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 0).expect("opens").0;
    for round in 0..30 {
        (0..10).for_each(|key| put(&mut store, &format!("{key}"), &format!("{round:0100}")));
        flush(&mut store, &engine);
    }
    store.compact(store.revision().to_wire()).expect("is no future");
    let expected = hash(&store, 0);
    let mut plan = store.hash_plan(0).expect("readable");
    while store.hash_more(&mut plan) {}
    for _ in 0..100 {
        assert_eq!(store.compact_step(1000), Ok(true));
        flush(&mut store, &engine);
    }
    assert_eq!(plan.run(), Ok(expected));
    drop(plan);
    sweep(&mut store);
    flush(&mut store, &engine);
    assert_eq!(hash(&store, 0), expected, "and whether it has ended cannot be seen");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    Compact(i64),
    Sweep,
    /// So many steps of the removal, and not to its end.
    SweepSome(usize),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..6, 0usize..3000).prop_map(|(key, len)| Step::Put(key, len)),
        3 => (0u8..6).prop_map(Step::Delete),
        1 => (0i64..100).prop_map(Step::Compact),
        2 => Just(Step::Sweep),
        2 => (1usize..6).prop_map(Step::SweepSome),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

/// Plays `steps` on one store that is flushed, swept and reopened, and on one that only writes and compacts.
fn play(steps: Vec<Step>) {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 10_000).expect("opens").0;
    let mut plain = self::store();
    for step in steps {
        match step {
            Step::Put(key, len) => {
                for store in [&mut store, &mut plain] {
                    put(store, &key.to_string(), &"v".repeat(len));
                }
            }
            Step::Delete(key) => [&mut store, &mut plain].into_iter().for_each(|store| delete(store, &key.to_string())),
            Step::Compact(percent) => {
                let floor = store.revision().to_wire() * percent / 100;
                assert_eq!(store.compact(floor), plain.compact(floor));
            }
            Step::Sweep => sweep(&mut store),
            Step::SweepSome(count) => {
                for _ in 0..count {
                    store.compact_step(2).expect("memory");
                }
            }
            Step::Flush => flush(&mut store, &engine),
            Step::Reopen => {
                flush(&mut store, &engine);
                store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 10_000).expect("opens").0;
            }
        }
    }
    assert_eq!((store.revision(), store.compacted()), (plain.revision(), plain.compacted()));
    let floor = plain.compacted().map_or(1, |floor| floor.0.max(1));
    for at in floor..=plain.revision().0 {
        let wire = at as i64;
        assert_eq!(ask(&store, |r| r.revision = wire), ask(&plain, |r| r.revision = wire));
        assert_eq!(hash(&store, wire), hash(&plain, wire), "hash at {at}");
        assert_eq!(history(&store, at), history(&plain, at), "history from {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn removal_flushes_and_restarts_cannot_be_seen(steps in steps()) {
        play(steps);
    }
}
