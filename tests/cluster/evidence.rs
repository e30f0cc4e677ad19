//! The log as evidence: what members wrote before anybody was told, read back after they were killed.
//!
//! Events and answers come from the state machine; the log is what it was fed with. So a write that was acknowledged and is not there, one that is there
//! twice, or a state that the log does not lead to, is seen here whatever the members say. Source of the method: etcd `tests/robustness/report`, which
//! reads the log of each member for the requests whose fate no client knows.

use crate::harness::Cluster;
use etcd_lab::apply::entry;
use etcd_lab::disk::RealDisk;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::Event;
use etcd_lab::proto::raftpb::Entry;
use etcd_lab::proto::raftpb::EntryType;
use etcd_lab::proto::walpb::ConfChange;
use etcd_lab::wal;
use pb::request_op::Request as Op;
use prost::Message;
use std::collections::BTreeMap;

/// One change: revision, key, and the value, nothing for a deletion.
pub(crate) type Change = (i64, String, Option<String>);

/// The entries that members count as committed, by index.
pub(crate) struct Log(BTreeMap<u64, Entry>);

impl Log {
    /// Reads the logs of members that do not run any more.
    ///
    /// # Panics
    /// If two of them have committed different entries, or one of them has a log that cannot be read.
    pub(crate) fn of(cluster: &Cluster) -> Log {
        let mut log = Log(BTreeMap::new());
        for member in 0..cluster.len() {
            let dir = cluster.spec(member).data_dir.join("member").join("wal");
            let replay = wal::read(&RealDisk, &dir, None).unwrap_or_else(|why| panic!("member {member}: {why}"));
            let commit = replay.hard_state.commit;
            replay.entries.into_iter().filter(|entry| entry.index <= commit).for_each(|entry| log.add(member, entry));
        }
        log
    }

    fn add(&mut self, member: usize, entry: Entry) {
        let index = entry.index;
        let first = self.0.entry(index).or_insert_with(|| entry.clone());
        let same = *first == entry || (change(first).is_some() && change(first) == change(&entry));
        assert!(same, "member {member} has committed another entry {index} than those before it");
    }

    /// Whether nothing is missing between the first entry and the last.
    fn is_whole(&self) -> bool {
        self.0.keys().copied().eq(1..=self.0.len() as u64)
    }

    /// Of each value: how often the log has it, in a put or behind a comparison.
    pub(crate) fn values(&self) -> BTreeMap<String, usize> {
        let mut values = BTreeMap::new();
        for request in self.0.values().filter_map(request) {
            let behind = request.txn.iter().flat_map(|txn| &txn.success).filter_map(|op| match &op.request {
                Some(Op::RequestPut(put)) => Some(put),
                _ => None,
            });
            for put in request.put.iter().chain(behind) {
                *values.entry(text(&put.value)).or_insert(0) += 1;
            }
        }
        values
    }

    /// The log up to the entry that made `revision`, and what one naive store makes of it: every change. Nothing if the beginning of the log was released
    /// everywhere.
    pub(crate) fn until(&self, revision: i64) -> Option<(Log, Vec<Change>)> {
        if !self.is_whole() {
            return None;
        }
        let mut naive = Naive { revision: 1, ..Naive::default() };
        let mut log = Log(BTreeMap::new());
        for (index, entry) in &self.0 {
            if naive.revision >= revision {
                break;
            }
            log.0.insert(*index, entry.clone());
            request(entry).iter().for_each(|request| naive.apply(request));
        }
        Some((log, naive.changes))
    }
}

/// What an entry asks for; nothing for a change of members, and for a new leader's first entry.
fn request(entry: &Entry) -> Option<pb::InternalRaftRequest> {
    let asks = entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty();
    asks.then(|| entry::read(&entry.data).expect("a request"))
}

/// The change of members that an entry is: a founder's first entries are written by itself, and Go writes zeros that others leave out.
fn change(entry: &Entry) -> Option<(u64, ConfChange)> {
    let is_change = entry.entry_type() == EntryType::EntryConfChange;
    is_change.then(|| (entry.term, ConfChange::decode(entry.data.clone()).expect("a change")))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The changes that events tell of.
pub(crate) fn changes_of(events: &[Event]) -> Vec<Change> {
    let change = |event: &Event| {
        let kv = event.kv.as_ref().expect("an event has a key");
        (kv.mod_revision, text(&kv.key), (event.r#type == 0).then(|| text(&kv.value)))
    };
    events.iter().map(change).collect()
}

/// As little of a store as chaos asks for: puts, deletions of one key, and puts behind one comparison of a revision.
#[derive(Default)]
struct Naive {
    revision: i64,
    /// The keys that are there: when each was last changed.
    changed_at: BTreeMap<String, i64>,
    changes: Vec<Change>,
}

impl Naive {
    fn apply(&mut self, request: &pb::InternalRaftRequest) {
        if let Some(put) = &request.put {
            self.put(put);
        }
        if let Some(delete) = &request.delete_range {
            assert!(delete.range_end.is_empty(), "one key at a time");
            if self.changed_at.remove(&text(&delete.key)).is_some() {
                self.revision += 1;
                self.changes.push((self.revision, text(&delete.key), None));
            }
        }
        if let Some(txn) = &request.txn {
            let holds = txn.compare.iter().all(|compare| {
                let found = self.changed_at.get(&text(&compare.key)).copied().unwrap_or(0);
                compare.target_union == Some(pb::compare::TargetUnion::ModRevision(found))
            });
            for op in if holds { &txn.success } else { &txn.failure } {
                match &op.request {
                    Some(Op::RequestPut(put)) => self.put(put),
                    other => panic!("chaos asks for no {other:?}"),
                }
            }
        }
    }

    fn put(&mut self, put: &pb::PutRequest) {
        self.revision += 1;
        self.changed_at.insert(text(&put.key), self.revision);
        self.changes.push((self.revision, text(&put.key), Some(text(&put.value))));
    }
}

#[test]
fn a_naive_store_makes_of_a_log_what_etcd_would() {
    let entry = |(index, request): (u64, pb::InternalRaftRequest)| {
        (index, Entry { index, data: request.encode_to_vec().into(), ..Entry::default() })
    };
    let put = |value: &str| pb::PutRequest { key: "k".into(), value: value.to_owned().into(), ..Default::default() };
    let write = |value| pb::InternalRaftRequest { put: Some(put(value)), ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
    let delete = pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() };
    let swap = |changed_at, value| {
        let target_union = Some(pb::compare::TargetUnion::ModRevision(changed_at));
        let compare = vec![pb::Compare { key: "k".into(), target_union, ..Default::default() }];
        let success = vec![pb::RequestOp { request: Some(Op::RequestPut(put(value))) }];
        let txn = pb::TxnRequest { compare, success, failure: Vec::new() };
        pb::InternalRaftRequest { txn: Some(txn), ..Default::default() }
    };
    let requests =
        [write("a"), swap(2, "b"), swap(2, "c"), delete.clone(), delete, swap(0, "d"), write("a"), Default::default()];
    let log = Log((1..).zip(requests).map(entry).collect());
    let change = |revision, value: Option<&str>| (revision, "k".to_owned(), value.map(str::to_owned));
    let expected =
        [change(2, Some("a")), change(3, Some("b")), change(4, None), change(5, Some("d")), change(6, Some("a"))];
    let made = |until| log.until(until).map(|(log, changes)| (log.0.len(), changes));
    assert_eq!(made(6), Some((7, expected.to_vec())), "the empty entry comes after");
    assert_eq!(made(3), Some((2, expected[..2].to_vec())));
    assert_eq!(log.values(), BTreeMap::from([("a", 2), ("b", 1), ("c", 1), ("d", 1)].map(|(v, n)| (v.to_owned(), n))));
    let cut = Log(log.0.into_iter().skip(1).collect());
    assert!(cut.until(6).is_none(), "its beginning is missing");
}
