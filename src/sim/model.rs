//! What the log means: a second, naive execution of every committed entry, kept for ever.
//!
//! It shares no code with the state machine but the reading of key ranges. Every version of every key is kept, so that a read at any revision and the events of any watch can
//! be told; every answer is kept by request, so that what a client heard can be held against what it should have heard.

use super::rights::Rights;
use super::rights::is_about_rights;
use super::roster::Roster;
use crate::apply::Reply;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::walpb::ConfChange;
use crate::types::KeyRange;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// What a request should have been answered.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) index: u64,
    pub(super) reply: Result<Reply, Error>,
}

/// What an entry did to leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseFate {
    Granted(i64),
    Revoked(i64),
}

/// The meaning of the log so far.
#[derive(Default)]
pub(super) struct Model {
    /// Of each key its versions: revision, and the pair or nothing.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// The events of revision 2, 3, …
    events: Vec<Vec<Event>>,
    /// Time-to-live in seconds, and what a checkpoint says is left of it; 0 if none does.
    leases: BTreeMap<i64, (i64, i64)>,
    compacted: i64,
    /// The revision after each index; index 0 first.
    revisions: Vec<i64>,
    expected: BTreeMap<u64, Expected>,
    pub(super) rights: Rights,
    /// What rights were before, up to which entry.
    rights_before: Vec<(u64, Rights)>,
    pub(super) roster: Roster,
}

/// A transaction's changes before they count.
struct Writing<'a> {
    model: &'a mut Model,
    events: Vec<Event>,
}

impl Model {
    pub(super) fn new() -> Model {
        Model { revisions: vec![1], ..Model::default() }
    }

    /// The last index that counts.
    pub(super) fn index(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    pub(super) fn revision(&self) -> i64 {
        self.events.len() as i64 + 1
    }

    /// The revision after entry `index`.
    pub(super) fn revision_at(&self, index: u64) -> Option<i64> {
        self.revisions.get(usize::try_from(index).ok()?).copied()
    }

    /// Who had which rights after entry `index`.
    pub(super) fn rights_at(&self, index: u64) -> &Rights {
        let later = self.rights_before.partition_point(|(last, _)| *last < index);
        self.rights_before.get(later).map_or(&self.rights, |(_, rights)| rights)
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(super) fn expected(&self, request: u64) -> Option<&Expected> {
        self.expected.get(&request)
    }

    /// How many requests have an answer.
    pub(super) fn requests(&self) -> usize {
        self.expected.len()
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (i64, i64, i64)> {
        self.leases.iter().map(|(id, (ttl, left))| (*id, *ttl, *left))
    }

    pub(super) fn has_lease(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    fn version(versions: &[(i64, Option<KeyValue>)], at: i64) -> Option<&KeyValue> {
        let after = versions.partition_point(|(revision, _)| *revision <= at);
        versions[..after].last()?.1.as_ref()
    }

    pub(super) fn get(&self, key: &[u8], at: i64) -> Option<&KeyValue> {
        Model::version(self.keys.get(key)?, at)
    }

    /// The pairs of `range` as they were at revision `at`, in order.
    pub(super) fn range(&self, range: &KeyRange, at: i64) -> Vec<KeyValue> {
        let inside = self.keys.iter().filter(|(key, _)| range.contains(key));
        inside.filter_map(|(_, versions)| Model::version(versions, at).cloned()).collect()
    }

    /// The first revision at or after `from` that has events of `range`, and those events.
    pub(super) fn next_events(&self, range: &KeyRange, from: i64) -> Option<(i64, Vec<&Event>)> {
        let first = usize::try_from(from.max(2) - 2).expect("not negative");
        (first..self.events.len()).find_map(|place| {
            let wanted: Vec<&Event> = self.events[place]
                .iter()
                .filter(|event| event.kv.as_ref().is_some_and(|kv| range.contains(&kv.key)))
                .collect();
            (!wanted.is_empty()).then(|| (place as i64 + 2, wanted))
        })
    }

    /// Counts the next entry. Returns what it did to a lease, and which request it was.
    pub(super) fn apply(&mut self, entry: &Entry) -> (u64, Option<LeaseFate>) {
        let mut fate = None;
        let mut id = 0;
        if entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
            let request =
                pb::InternalRaftRequest::decode(entry.data.clone()).expect("a client of the simulator made it");
            id = request.header.as_ref().map_or(0, |header| header.id);
            let reply = self.run(request, &mut fate);
            self.expected.insert(id, Expected { index: entry.index, reply });
        }
        if entry.entry_type() == EntryType::EntryConfChange {
            let change = ConfChange::decode(entry.data.clone()).expect("a client of the simulator made it");
            id = change.id;
            let reply = self.roster.change(&change);
            self.expected.insert(id, Expected { index: entry.index, reply });
        }
        self.revisions.push(self.revision());
        (id, fate)
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.revision(), ..Default::default() })
    }

    fn run(&mut self, request: pb::InternalRaftRequest, fate: &mut Option<LeaseFate>) -> Result<Reply, Error> {
        self.rights.judge(&request, |lease| self.keys_of(lease))?;
        let header = self.header();
        let before = is_about_rights(&request).then(|| (self.index(), self.rights.clone()));
        if let Some(reply) = self.rights.run(&request, header) {
            self.rights_before.extend(before);
            return reply;
        }
        if let Some(says) = &request.cluster_member_attr_set {
            return self.roster.publish(says);
        }
        if let Some(put) = request.put {
            self.check_put(&put)?;
            let mut writing = Writing { model: self, events: Vec::new() };
            let prev_kv = writing.put(&put);
            writing.finish();
            return Ok(Reply::Put(pb::PutResponse { header: self.header(), prev_kv }));
        }
        if let Some(delete) = request.delete_range {
            let mut writing = Writing { model: self, events: Vec::new() };
            let (deleted, prev_kvs) = writing.delete(&delete);
            writing.finish();
            return Ok(Reply::DeleteRange(pb::DeleteRangeResponse { header: self.header(), deleted, prev_kvs }));
        }
        if let Some(txn) = request.txn {
            return self.txn(txn).map(Reply::Txn);
        }
        if let Some(pb::CompactionRequest { revision, .. }) = request.compaction {
            if revision < 0 || (self.compacted > 0 && revision <= self.compacted) {
                return Err(Error::Compacted);
            }
            if revision > self.revision() {
                return Err(Error::FutureRevision);
            }
            self.compacted = revision;
            return Ok(Reply::Compaction(pb::CompactionResponse { header: self.header() }));
        }
        if let Some(pb::LeaseGrantRequest { id, ttl }) = request.lease_grant {
            if self.leases.contains_key(&id) {
                return Err(Error::LeaseExists);
            }
            self.leases.insert(id, (ttl, 0));
            *fate = Some(LeaseFate::Granted(id));
            let error = String::new();
            return Ok(Reply::LeaseGrant(pb::LeaseGrantResponse { header: self.header(), id, ttl, error }));
        }
        if let Some(pb::LeaseRevokeRequest { id }) = request.lease_revoke {
            self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
            *fate = Some(LeaseFate::Revoked(id));
            self.drop_keys_of(id);
            return Ok(Reply::LeaseRevoke(pb::LeaseRevokeResponse { header: self.header() }));
        }
        for checkpoint in request.lease_checkpoint.into_iter().flat_map(|request| request.checkpoints) {
            if let Some((_, left)) = self.leases.get_mut(&checkpoint.id) {
                *left = checkpoint.remaining_ttl;
            }
        }
        Ok(Reply::Done)
    }

    /// The keys that hang on a lease; 0 is none.
    fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        let now = self.revision();
        let hangs = |versions: &[(i64, Option<KeyValue>)]| {
            Model::version(versions, now).is_some_and(|kv| lease != 0 && kv.lease == lease)
        };
        self.keys.iter().filter(|(_, versions)| hangs(versions)).map(|(key, _)| key.clone()).collect()
    }

    fn drop_keys_of(&mut self, lease: i64) {
        let keys = self.keys_of(lease);
        let mut writing = Writing { model: self, events: Vec::new() };
        for key in keys {
            writing.delete(&pb::DeleteRangeRequest { key, ..Default::default() });
        }
        writing.finish();
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        Ok(())
    }

    fn txn(&mut self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let now = self.revision();
        let succeeded = txn.compare.iter().all(|compare| {
            let found = self.get(&compare.key, now);
            let order = match &compare.target_union {
                Some(TargetUnion::ModRevision(given)) => found.map_or(0, |kv| kv.mod_revision).cmp(given),
                Some(TargetUnion::Version(given)) => found.map_or(0, |kv| kv.version).cmp(given),
                Some(TargetUnion::CreateRevision(given)) => found.map_or(0, |kv| kv.create_revision).cmp(given),
                // Of a key that is not there no value is anything, not even unequal.
                Some(TargetUnion::Value(given)) => match found {
                    Some(kv) => kv.value.cmp(given),
                    None => return false,
                },
                other => panic!("the simulator's clients do not compare {other:?}"),
            };
            match compare.result() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
                CompareResult::NotEqual => order.is_ne(),
            }
        });
        let ops = if succeeded { txn.success } else { txn.failure };
        for op in &ops {
            match &op.request {
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestRange(range)) if range.revision > now => return Err(Error::FutureRevision),
                Some(Request::RequestRange(range)) if 0 < range.revision && range.revision < self.compacted => {
                    return Err(Error::Compacted);
                }
                _ => {}
            }
        }
        let mut writing = Writing { model: self, events: Vec::new() };
        let responses = ops.into_iter().map(|op| writing.step(op)).collect();
        writing.finish();
        Ok(pb::TxnResponse { header: self.header(), succeeded, responses })
    }
}

impl Writing<'_> {
    /// Its own changes are seen by what comes later in the same transaction.
    fn main(&self) -> i64 {
        self.model.revision() + 1
    }

    fn now(&self) -> i64 {
        if self.events.is_empty() { self.model.revision() } else { self.main() }
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.now(), ..Default::default() })
    }

    fn step(&mut self, op: pb::RequestOp) -> pb::ResponseOp {
        let response = match op.request {
            Some(Request::RequestPut(put)) => {
                let prev_kv = self.put(&put);
                Some(Response::ResponsePut(pb::PutResponse { header: self.header(), prev_kv }))
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let (deleted, prev_kvs) = self.delete(&delete);
                let header = self.header();
                Some(Response::ResponseDeleteRange(pb::DeleteRangeResponse { header, deleted, prev_kvs }))
            }
            Some(Request::RequestRange(range)) => {
                let at = if range.revision > 0 { range.revision } else { self.main() };
                let kvs = self.model.range(&KeyRange::parse(&range.key, &range.range_end), at);
                let count = kvs.len() as i64;
                Some(Response::ResponseRange(pb::RangeResponse { header: self.header(), kvs, more: false, count }))
            }
            other => panic!("the simulator's clients do not nest {other:?}"),
        };
        pb::ResponseOp { response }
    }

    fn put(&mut self, put: &pb::PutRequest) -> Option<KeyValue> {
        let main = self.main();
        let previous = self.model.get(&put.key, main).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: previous.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: previous.as_ref().map_or(1, |kv| kv.version + 1),
            value: put.value.clone(),
            lease: put.lease,
        };
        self.model.keys.entry(put.key.clone()).or_default().push((main, Some(kv.clone())));
        self.events.push(Event { r#type: 0, kv: Some(kv), prev_kv: None });
        previous.filter(|_| put.prev_kv)
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> (i64, Vec<KeyValue>) {
        let main = self.main();
        let gone = self.model.range(&KeyRange::parse(&delete.key, &delete.range_end), main);
        for kv in &gone {
            self.model.keys.get_mut(&kv.key).expect("it was found").push((main, None));
            let tombstone = KeyValue { key: kv.key.clone(), mod_revision: main, ..Default::default() };
            self.events.push(Event { r#type: 1, kv: Some(tombstone), prev_kv: None });
        }
        (gone.len() as i64, if delete.prev_kv { gone } else { Vec::new() })
    }

    fn finish(self) {
        if !self.events.is_empty() {
            self.model.events.push(self.events);
        }
    }
}
