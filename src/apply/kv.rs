//! Puts, deletes, leases and compaction: the entries that change keys, except transactions.
//!
//! Source: contract-server 2.5, 2.6, 2.8, 4.1, 4.3.

use super::LeaseChange;
use super::Machine;
use super::Outcome;
use super::check;
use crate::error::Error;
use crate::lease;
use crate::mvcc::Store;
use crate::mvcc::Writer;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::KeyValue;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::Revision;

pub(super) fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.to_wire(), ..Default::default() })
}

/// Reads a range to its end, values included. For the apply path, which holds the lock anyway.
pub(super) fn read(store: &Store, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
    let mut selection = store.select(request)?;
    while !selection.is_complete() {
        store.select_more(&mut selection);
    }
    selection.load()
}

/// Refuses a put whose lease does not exist.
pub(super) fn check_lease(leases: &lease::Table, request: &pb::PutRequest) -> Result<(), Error> {
    let known = request.lease == 0 || leases.get(LeaseId(request.lease)).is_some();
    known.then_some(()).ok_or(Error::LeaseNotFound)
}

/// Refuses a put that keeps a value or lease which is not there.
pub(super) fn check_previous(store: &Store, request: &pb::PutRequest) -> Result<(), Error> {
    let needs = request.ignore_value || request.ignore_lease;
    if needs && !store.has(&request.key) { Err(Error::KeyNotFound) } else { Ok(()) }
}

/// Puts; everything has been checked. `begin` is the revision before the transaction.
pub(super) fn put(
    write: &mut Writer<'_>,
    leases: &mut lease::Table,
    request: pb::PutRequest,
    begin: Revision,
) -> Result<pb::PutResponse, Error> {
    let previous = if request.prev_kv || request.ignore_value {
        write.store().get(&request.key, write.store().revision())?
    } else {
        None
    };
    let lease = match request.ignore_lease {
        true => leases.of_key(&request.key).unwrap_or_default(),
        false => LeaseId(request.lease),
    };
    let value = match request.ignore_value {
        true => kept(write, &request, previous.as_ref(), begin)?.value,
        false => request.value,
    };
    if lease == LeaseId(0) {
        leases.detach(&request.key);
    } else {
        leases.attach(&bytes::Bytes::copy_from_slice(&request.key), lease)?;
    }
    write.put(request.key, value, lease);
    let prev_kv = previous.filter(|_| request.prev_kv);
    Ok(pb::PutResponse { header: header(write.store().revision()), prev_kv })
}

/// The pair whose value a put keeps. If this very transaction has deleted it (by a range to the end of all keys, which etcd's duplicate
/// check does not see), it is the one from before.
fn kept(
    write: &Writer<'_>,
    request: &pb::PutRequest,
    previous: Option<&KeyValue>,
    begin: Revision,
) -> Result<KeyValue, Error> {
    match previous {
        Some(kv) => Ok(kv.clone()),
        None => Ok(write.store().get(&request.key, begin)?.unwrap_or_default()),
    }
}

/// Deletes; everything has been checked.
pub(super) fn delete(
    write: &mut Writer<'_>,
    leases: &mut lease::Table,
    request: &pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Error> {
    let (key, range_end) = (request.key.clone(), request.range_end.clone());
    let range = KeyRange::parse(&key, &range_end);
    let prev_kvs = match request.prev_kv {
        true => read(write.store(), &pb::RangeRequest { key, range_end, ..Default::default() })?.kvs,
        false => Vec::new(),
    };
    let deleted = write.delete(&range);
    deleted.iter().for_each(|key| leases.detach(key));
    Ok(pb::DeleteRangeResponse { header: header(write.store().revision()), deleted: deleted.len() as i64, prev_kvs })
}

impl Machine {
    pub(super) fn put(&mut self, request: pb::PutRequest, out: &mut Outcome) -> Result<pb::PutResponse, Error> {
        check::put(&request)?;
        check_lease(&self.leases, &request)?;
        check_previous(&self.store, &request)?;
        let begin = self.store.revision();
        let mut write = self.store.write();
        let response = put(&mut write, &mut self.leases, request, begin)?;
        out.events = write.finish();
        Ok(response)
    }

    pub(super) fn delete_range(
        &mut self,
        request: &pb::DeleteRangeRequest,
        out: &mut Outcome,
    ) -> Result<pb::DeleteRangeResponse, Error> {
        check::delete(request)?;
        let mut write = self.store.write();
        let response = delete(&mut write, &mut self.leases, request)?;
        out.events = write.finish();
        Ok(response)
    }

    pub(super) fn compact(
        &mut self,
        request: &pb::CompactionRequest,
        out: &mut Outcome,
    ) -> Result<pb::CompactionResponse, Error> {
        out.compacted = Some(self.store.compact(request.revision)?);
        Ok(pb::CompactionResponse { header: self.header() })
    }

    pub(super) fn lease_grant(
        &mut self,
        request: &pb::LeaseGrantRequest,
        out: &mut Outcome,
    ) -> Result<pb::LeaseGrantResponse, Error> {
        let (id, ttl) = (request.id, request.ttl);
        self.leases.grant(LeaseId(id), ttl, &mut self.rows)?;
        out.leases.push(LeaseChange::Granted(LeaseId(id), ttl));
        Ok(pb::LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() })
    }

    pub(super) fn lease_revoke(&mut self, id: LeaseId, out: &mut Outcome) -> Result<pb::LeaseRevokeResponse, Error> {
        let keys = self.leases.revoke(id, &mut self.rows)?;
        out.leases.push(LeaseChange::Revoked(id));
        let mut write = self.store.write();
        for key in keys {
            write.delete(&KeyRange::Single(key));
        }
        out.events = write.finish();
        Ok(pb::LeaseRevokeResponse { header: self.header() })
    }
}
