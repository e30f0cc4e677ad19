//! Range reads and hashes against models so plain that one can see that they are right: every version of every key in one list.
//!
//! The hash is written down here from etcd's description a second time (`kvHasher` and `keyIndex.compact` of `server/storage/mvcc`), with generations and
//! a row for every bucket key, and shares no code with the one under test.

use super::*;

/// One version of a key; a tombstone has no value.
#[derive(Clone, Debug)]
struct Version {
    main: u64,
    key: u8,
    value: Option<String>,
    created: u64,
    version: u64,
    lease: i64,
}

/// All that ever was, and what etcd would still have.
#[derive(Default)]
struct Model {
    all: Vec<Version>,
    stored: Vec<Version>,
    compacted: Option<u64>,
}

impl Model {
    fn at(&self, at: u64) -> BTreeMap<u8, Version> {
        let mut keys = BTreeMap::new();
        for version in self.all.iter().filter(|version| version.main <= at) {
            match version.value {
                Some(_) => keys.insert(version.key, version.clone()),
                None => keys.remove(&version.key),
            };
        }
        keys
    }

    fn add(&mut self, key: u8, value: Option<String>, lease: i64) {
        let now = self.revision();
        let before = self.at(now).remove(&key);
        if value.is_none() && before.is_none() {
            return;
        }
        let main = now + 1;
        let (created, version) = before.map_or((main, 1), |before| (before.created, before.version + 1));
        let version = Version { main, key, value, created, version, lease };
        self.all.push(version.clone());
        self.stored.push(version);
    }

    fn revision(&self) -> u64 {
        self.all.last().map_or(1, |last| last.main)
    }

    /// Which rows `keyIndex.compact` (or `keep`, without tombstones) leaves at or below `at`.
    fn kept(&self, at: u64, with_tombstone: bool) -> Vec<u64> {
        let keys: std::collections::BTreeSet<u8> = self.stored.iter().map(|version| version.key).collect();
        let mut kept = Vec::new();
        for key in keys {
            let mut generations: Vec<Vec<&Version>> = vec![Vec::new()];
            for version in self.stored.iter().filter(|version| version.key == key) {
                generations.last_mut().expect("never empty").push(version);
                if version.value.is_none() {
                    generations.push(Vec::new());
                }
            }
            let last = generations.len() - 1;
            let ends = |generation: &Vec<&Version>| generation.last().is_some_and(|version| version.main >= at);
            let place = (0..last).find(|place| ends(&generations[*place])).unwrap_or(last);
            let newest = generations[place].iter().rev().find(|version| version.main <= at);
            kept.extend(newest.filter(|v| with_tombstone || v.value.is_some()).map(|version| version.main));
        }
        kept
    }

    fn hash(&self, at: u64, compacted: Option<u64>, keep: &[u64]) -> u32 {
        let mut bytes = b"key".to_vec();
        for version in self.stored.iter().filter(|version| version.main <= at) {
            let old = compacted.is_some_and(|floor| version.main <= floor);
            if old && !keep.is_empty() && !keep.contains(&version.main) {
                continue;
            }
            if version.value.is_none() && compacted == Some(version.main) {
                continue;
            }
            bytes.extend(version.main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(0u64.to_be_bytes());
            bytes.extend(version.value.is_none().then_some(b't'));
            bytes.extend(prost::Message::encode_to_vec(&match &version.value {
                None => KeyValue { key: vec![version.key].into(), ..KeyValue::default() },
                Some(_) => version.pair(),
            }));
        }
        crc32c::crc32c(&bytes)
    }

    /// Compacts as etcd does; returns the hash that it settles.
    fn compact(&mut self, floor: u64) -> u32 {
        let kept = self.kept(floor, true);
        let hash = self.hash(floor, self.compacted, &kept);
        self.stored.retain(|version| version.main > floor || kept.contains(&version.main));
        self.compacted = Some(floor);
        hash
    }

    /// `executeRange`, step by step.
    fn range(&self, request: &pb::RangeRequest) -> pb::RangeResponse {
        let at = if request.revision <= 0 { self.revision() } else { request.revision as u64 };
        let range = KeyRange::parse(&request.key, &request.range_end);
        let mut kvs: Vec<KeyValue> = self.at(at).values().map(Version::pair).collect();
        kvs.retain(|kv| range.contains(&kv.key));
        let (count, limit) = (kvs.len() as i64, request.limit.max(0) as usize);
        let bounds = [
            (request.min_mod_revision, request.max_mod_revision, (|kv| kv.mod_revision) as fn(&KeyValue) -> i64),
            (request.min_create_revision, request.max_create_revision, |kv| kv.create_revision),
        ];
        let filtered = bounds.iter().any(|(low, high, _)| (*low, *high) != (0, 0));
        if request.sort_order == 0 && !filtered && limit > 0 {
            kvs.truncate(limit + 1);
        }
        for (low, high, of) in bounds {
            kvs.retain(|kv| (high == 0 || of(kv) <= high) && (low == 0 || of(kv) >= low));
        }
        let compare = |a: &KeyValue, b: &KeyValue| match request.sort_target {
            1 => a.version.cmp(&b.version),
            2 => a.create_revision.cmp(&b.create_revision),
            3 => a.mod_revision.cmp(&b.mod_revision),
            4 => a.value.cmp(&b.value),
            _ => a.key.cmp(&b.key),
        };
        if request.sort_order == 2 {
            kvs.sort_by(|a, b| compare(b, a));
        } else {
            kvs.sort_by(compare);
        }
        let more = limit > 0 && kvs.len() > limit && !request.count_only;
        kvs.truncate(if request.count_only { 0 } else { limit.checked_sub(1).map_or(usize::MAX, |n| n + 1) });
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        let header = Some(pb::ResponseHeader { revision: self.revision() as i64, ..Default::default() });
        pb::RangeResponse { header, kvs, more, count }
    }
}

impl Version {
    fn pair(&self) -> KeyValue {
        KeyValue {
            key: vec![self.key].into(),
            create_revision: self.created as i64,
            mod_revision: self.main as i64,
            version: self.version as i64,
            value: self.value.clone().unwrap_or_default().into(),
            lease: self.lease,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, bool),
    Delete(u8),
    /// At so many per cent of all revisions; so many steps of the removal follow, or all.
    Compact(u64, Option<usize>),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || b'a'..b'g';
    let step = prop_oneof![
        6 => (key(), 0u8..4, any::<bool>()).prop_map(|(key, value, leased)| Step::Put(key, value, leased)),
        3 => key().prop_map(Step::Delete),
        1 => (0u64..=100, prop::option::of(0usize..5)).prop_map(|(percent, removal)| Step::Compact(percent, removal)),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..40)
}

/// Plays the steps on both; every compaction's hash must be the model's, also if the removal for the one before is still under way.
fn play(steps: Vec<Step>) -> (Store, Model) {
    let engine = Arc::default();
    let mut store = Store::open(Arc::clone(&engine) as Arc<dyn Engine>, 0).expect("opens").0;
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Put(key, value, leased) => {
                // Long enough that some blocks leave memory.
                let (value, lease) = (format!("{value:0700}"), if leased { 7 } else { 0 });
                let mut write = store.write();
                write.put(vec![key].into(), value.clone().into(), LeaseId(lease));
                let _ = write.finish();
                model.add(key, Some(value), lease);
            }
            Step::Delete(key) => {
                let mut write = store.write();
                write.delete(&KeyRange::Single(vec![key].into()));
                let _ = write.finish();
                model.add(key, None, 0);
            }
            Step::Compact(percent, removal) => {
                let floor = store.revision().0 * percent / 100;
                if store.compact(floor as i64).is_ok() {
                    let mut plan = store.compaction_hash_plan().expect("of this run");
                    while store.hash_more(&mut plan) {}
                    let settled = plan.run().expect("memory");
                    drop(plan);
                    let before = model.compacted.map_or(-1, |floor| floor as i64);
                    assert_eq!((settled.compact_revision, settled.hash_revision), (before, floor as i64));
                    assert_eq!(settled.hash, model.compact(floor), "settled at {floor}");
                    match removal {
                        None => sweep(&mut store),
                        Some(steps) => {
                            for _ in 0..steps {
                                store.compact_step(2).expect("memory");
                            }
                        }
                    }
                }
            }
            Step::Flush => flush(&mut store, &engine),
        }
    }
    (store, model)
}

fn requests() -> impl Strategy<Value = Vec<pb::RangeRequest>> {
    let edge = || prop_oneof![Just(String::new()), Just("\0".into()), "[a-g]", "[a-g]\0"];
    let start = prop_oneof![Just("\0".to_owned()), "[a-g]", "[a-g]\0"];
    let revision = || prop_oneof![2 => Just(0i64), 1 => 0i64..20];
    let sort = (0i32..3, 0i32..5, prop_oneof![Just(-1i64), 0i64..8]);
    let rest = ((revision(), revision()), (revision(), revision()), any::<(bool, bool)>(), 0u64..=100);
    let request = (start, edge(), sort, rest).prop_map(|(key, range_end, sort, rest)| {
        let (modified, created, (keys_only, count_only), revision) = rest;
        pb::RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            sort_order: sort.0,
            sort_target: sort.1,
            limit: sort.2,
            revision: revision as i64,
            keys_only,
            count_only,
            min_mod_revision: modified.0,
            max_mod_revision: modified.1,
            min_create_revision: created.0,
            max_create_revision: created.1,
            ..pb::RangeRequest::default()
        }
    });
    prop::collection::vec(request, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn ranges_answer_like_the_naive_model(steps in steps(), requests in requests()) {
        let (store, model) = play(steps);
        let floor = model.compacted.unwrap_or(0);
        for mut request in requests {
            // The revision came as a percentage of what can be read.
            let at = floor + (model.revision() - floor) * request.revision as u64 / 100;
            request.revision = at as i64;
            prop_assert_eq!(range(&store, &request), Ok(model.range(&request)), "{:?}", request);
        }
    }

    #[test]
    fn hashes_are_those_of_the_naive_model(steps in steps()) {
        let (store, model) = play(steps);
        let floor = model.compacted.unwrap_or(0);
        for at in floor.max(1)..=model.revision() {
            let expected = model.hash(at, model.compacted, &model.kept(at, false));
            prop_assert_eq!(hash(&store, at as i64).hash, expected, "at {}", at);
        }
    }
}
