//! What a request must be like before it is worth an entry of the log.
//!
//! The server asks before it proposes, so that a bad request costs nothing; apply asks again where a bad one could stop it half way.
//! All of it looks at the request alone.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`, `server/storage/quota.go`; contract-server 2 and 6.2.

use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::etcdserverpb::request_op::Request;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Bytes that a lease costs against the quota.
const LEASE_COST: u64 = 64;

/// Bytes that a key-value pair costs beside its key and value.
const PAIR_COST: u64 = 256;

/// How many transactions may lie in each other, the outermost counted. Each takes two levels of a message, of which our decoder reads a hundred, and the
/// entry of the log has one level of its own: what is let in here can be read again wherever it goes.
const TXN_DEPTH_MAX: usize = 48;

fn key(key: &Bytes) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// A range request.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::InvalidSortOption`].
pub fn range(request: &pb::RangeRequest) -> Result<(), Error> {
    key(&request.key)?;
    SortOrder::try_from(request.sort_order).map_err(|_| Error::InvalidSortOption)?;
    SortTarget::try_from(request.sort_target).map_err(|_| Error::InvalidSortOption)?;
    Ok(())
}

/// A range request that is to be answered as a stream: only in the order of keys, and all of them.
///
/// # Errors
/// Those of [`range`], and [`Error::StreamUnsupported`].
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Error> {
    range(request)?;
    // Without an order everything but keys comes ascending, so that only keys come in the order of the pages. etcd lets the others pass, and loses keys.
    let by_key = request.sort_target == SortTarget::Key as i32 && request.sort_order != SortOrder::Descend as i32;
    if !by_key {
        return Err(Error::StreamUnsupported("custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters != [0; 4] {
        return Err(Error::StreamUnsupported("revision filters"));
    }
    Ok(())
}

/// A put.
///
/// # Errors
/// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`].
pub fn put(request: &pb::PutRequest) -> Result<(), Error> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// A delete.
///
/// # Errors
/// [`Error::EmptyKey`].
pub fn delete(request: &pb::DeleteRangeRequest) -> Result<(), Error> {
    key(&request.key)
}

/// A transaction with all that is in it. `max_ops` is `--max-txn-ops`; a nested one gets what the outer one leaves of it. At most 48 may lie in each
/// other, where etcd's only bound is the number of operations.
///
/// # Errors
/// [`Error::TooManyOps`], also if too many lie in each other; [`Error::DuplicateKey`]; [`Error::KeyNotFound`] for an operation that is empty;
/// those of its operations.
pub fn txn(request: &pb::TxnRequest, max_ops: usize) -> Result<(), Error> {
    shape(request, max_ops, TXN_DEPTH_MAX)?;
    Keys::of(&request.success)?;
    Keys::of(&request.failure)?;
    Ok(())
}

fn shape(request: &pb::TxnRequest, max_ops: usize, max_depth: usize) -> Result<(), Error> {
    let below = max_depth.checked_sub(1).ok_or(Error::TooManyOps)?;
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(ops).ok_or(Error::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| key(&compare.key))?;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete(request)?,
            Some(Request::RequestTxn(request)) => shape(request, left, below)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations puts, and the intervals that it deletes.
#[derive(Default)]
struct Keys {
    puts: BTreeSet<Bytes>,
    /// Disjoint intervals: from, to.
    deletes: BTreeMap<Bytes, Bytes>,
}

impl Keys {
    /// Refuses a key that is put twice, or put and deleted. In etcd's order, with etcd's gaps: a delete does not see the puts of an
    /// earlier nested transaction, and one "to the end" (`\0`) is an interval without keys.
    fn of(ops: &[pb::RequestOp]) -> Result<Keys, Error> {
        let mut keys = Keys::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                keys.delete(delete.key.clone(), interval_end(delete));
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                keys.nest(Keys::of(&nested.success)?, Keys::of(&nested.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                keys.put(put.key.clone())?;
            }
        }
        Ok(keys)
    }

    /// Takes in both branches of a nested transaction; only one of them will happen.
    fn nest(&mut self, success: Keys, failure: Keys) -> Result<(), Error> {
        for key in failure.puts.difference(&success.puts).chain(&success.puts) {
            self.put(key.clone())?;
        }
        for (from, to) in success.deletes.into_iter().chain(failure.deletes) {
            self.delete(from, to);
        }
        Ok(())
    }

    fn put(&mut self, key: Bytes) -> Result<(), Error> {
        let last = self.deletes.range::<Bytes, _>(..=&key).next_back();
        let deleted = last.is_some_and(|(_, to)| key < *to);
        if deleted || !self.puts.insert(key) { Err(Error::DuplicateKey) } else { Ok(()) }
    }

    fn delete(&mut self, mut from: Bytes, mut to: Bytes) {
        if from >= to {
            return;
        }
        // Joins what touches, so that one look decides.
        while let Some((other_from, other_to)) = self.deletes.range::<Bytes, _>(..=&to).next_back() {
            if *other_to < from {
                break;
            }
            let other = other_from.clone();
            to = to.max(other_to.clone());
            self.deletes.remove(&other);
            from = from.min(other);
        }
        self.deletes.insert(from, to);
    }
}

fn interval_end(delete: &pb::DeleteRangeRequest) -> Bytes {
    match delete.range_end.is_empty() {
        true => [delete.key.as_ref(), &[0]].concat().into(),
        false => delete.range_end.clone(),
    }
}

/// Whether a transaction has nothing but range requests in both branches: then it needs no entry of the log.
#[must_use]
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from this member's state at once. One without operations may, too.
#[must_use]
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Bytes that a request costs against the quota; 0 for what is allowed without space.
#[must_use]
pub fn quota_cost(request: &pb::InternalRaftRequest) -> u64 {
    let put = request.put.as_ref().map_or(0, put_cost);
    let txn = request.txn.as_ref().map_or(0, txn_cost);
    let grant = request.lease_grant.as_ref().map_or(0, |_| LEASE_COST);
    put + txn + grant
}

fn put_cost(request: &pb::PutRequest) -> u64 {
    PAIR_COST + (request.key.len() + request.value.len()) as u64
}

fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let cost = |ops: &[pb::RequestOp]| -> u64 {
        let each = ops.iter().map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(nested)) => txn_cost(nested),
            Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
        });
        each.sum()
    };
    cost(&request.success).max(cost(&request.failure))
}
