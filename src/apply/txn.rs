//! Transactions: if all of this holds, do that, else do this other thing, in one revision.
//!
//! Three passes. *Decide*: all comparisons, also those of nested transactions on the way, against the state before. *Check*: whether every
//! operation on the chosen way can go through. *Do*: nothing can fail any more, save the disk. etcd had members diverge
//! where an operation failed in the third pass (#18667).
//!
//! Source: contract-server 2.7; etcd `server/etcdserver/txn/txn.go`.

use super::Machine;
use super::Outcome;
use super::check;
use super::kv;
use super::kv::header;
use crate::error::Error;
use crate::lease;
use crate::mvcc::Peek;
use crate::mvcc::Selection;
use crate::mvcc::Writer;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::Revision;
use std::cmp::Ordering;

/// Which branch each transaction takes: the outer one first, then the nested ones on its way, depth first.
type Way = Vec<bool>;

impl Machine {
    pub(super) fn txn(&mut self, request: pb::TxnRequest, out: &mut Outcome) -> Result<pb::TxnResponse, Error> {
        let way = self.prepare(&request)?;
        let begin = self.store.revision();
        let mut doing = Doing { write: self.store.write(), leases: &mut self.leases, begin };
        let mut response = doing.run(request, &mut way.into_iter())?;
        out.events = doing.write.finish();
        response.header = self.header();
        Ok(response)
    }

    /// Begins to answer a transaction that only reads ([`check::is_read_only`]), from the state as it is: decides, and chooses the first
    /// slice of each range. Go on with [`Machine::select_txn_more`].
    ///
    /// # Errors
    /// As for its range requests; [`Error::Storage`] or [`Error::Damaged`] from the engine, which comparisons of values ask.
    pub fn select_txn(&self, request: &pb::TxnRequest) -> Result<ReadTxn, Error> {
        let succeeded = self.prepare(request)?.first().copied().unwrap_or(true);
        let ops = if succeeded { &request.success } else { &request.failure };
        let select = |op: &pb::RequestOp| match &op.request {
            Some(Request::RequestRange(range)) => self.store.select(range),
            _ => Err(Error::KeyNotFound),
        };
        let ranges = ops.iter().map(select).collect::<Result<Vec<_>, Error>>()?;
        Ok(ReadTxn { header: self.header(), succeeded, ranges })
    }

    /// Chooses the next slice.
    pub fn select_txn_more(&self, txn: &mut ReadTxn) {
        let mut open = txn.ranges.iter_mut().filter(|range| !range.is_complete());
        if let Some(range) = open.next() {
            self.store.select_more(range);
        }
    }

    fn prepare(&self, request: &pb::TxnRequest) -> Result<Way, Error> {
        let mut way = Way::new();
        self.decide(request, &mut way)?;
        if !is_planted(Bug::PartialTransaction) {
            self.check_way(request, &mut way.iter().copied())?;
        }
        Ok(way)
    }

    fn decide(&self, request: &pb::TxnRequest, way: &mut Way) -> Result<(), Error> {
        let mut succeeds = true;
        for compare in &request.compare {
            succeeds = succeeds && self.holds(compare)?;
        }
        way.push(succeeds);
        for op in if succeeds { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.decide(nested, way)?;
            }
        }
        Ok(())
    }

    /// Whether all keys that a comparison names pass it. No key at all passes if nothing would.
    fn holds(&self, compare: &pb::Compare) -> Result<bool, Error> {
        let range = KeyRange::parse(&compare.key, &compare.range_end);
        if compare.target == CompareTarget::Value as i32 {
            let given = match &compare.target_union {
                Some(TargetUnion::Value(value)) => value.as_ref(),
                _ => &[],
            };
            return self.store.values_pass(&range, |value| passes(compare, value.cmp(given)));
        }
        let mut any = false;
        for found in self.store.peek(&range) {
            any = true;
            if !passes(compare, self.order(compare, Some(found))) {
                return Ok(false);
            }
        }
        Ok(any || passes(compare, self.order(compare, None)))
    }

    /// How the stored number stands to the given one; a member of the union that does not fit counts as 0.
    fn order(&self, compare: &pb::Compare, found: Option<Peek<'_>>) -> Ordering {
        let given = compare.target_union.as_ref();
        let number = |stored: Option<i64>, given: Option<i64>| stored.unwrap_or(0).cmp(&given.unwrap_or(0));
        match CompareTarget::try_from(compare.target) {
            Ok(CompareTarget::Version) => number(
                found.map(|found| found.version as i64),
                given.and_then(|given| if let TargetUnion::Version(n) = given { Some(*n) } else { None }),
            ),
            Ok(CompareTarget::Create) => number(
                found.map(|found| found.created.to_wire()),
                given.and_then(|given| if let TargetUnion::CreateRevision(n) = given { Some(*n) } else { None }),
            ),
            Ok(CompareTarget::Mod) => number(
                found.map(|found| found.modified.to_wire()),
                given.and_then(|given| if let TargetUnion::ModRevision(n) = given { Some(*n) } else { None }),
            ),
            Ok(CompareTarget::Lease) => number(
                found.map(|found| self.leases.of_key(found.key).unwrap_or(LeaseId(0)).0),
                given.and_then(|given| if let TargetUnion::Lease(n) = given { Some(*n) } else { None }),
            ),
            Ok(CompareTarget::Value) | Err(_) => Ordering::Equal,
        }
    }

    /// Stricter than elsewhere, as in etcd: a negative revision means now only as long as it does not lie below the compaction, which is at −1
    /// before the first one.
    fn check_revision(&self, revision: i64) -> Result<(), Error> {
        let floor = self.store.compacted().map_or(-1, Revision::to_wire);
        if revision < 0 && revision < floor {
            return Err(Error::Compacted);
        }
        self.store.readable(revision).map(drop)
    }

    /// Whether every operation on the chosen way can go through, against the state before the transaction.
    fn check_way(&self, request: &pb::TxnRequest, way: &mut impl Iterator<Item = bool>) -> Result<(), Error> {
        for op in chosen(request, way) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    check::range(range)?;
                    self.check_revision(range.revision)?;
                }
                Some(Request::RequestPut(put)) => {
                    check::put(put)?;
                    kv::check_previous(&self.store, put)?;
                    kv::check_lease(&self.leases, put)?;
                }
                Some(Request::RequestDeleteRange(delete)) => check::delete(delete)?,
                Some(Request::RequestTxn(nested)) => self.check_way(nested, way)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// A read-only transaction that has been decided, whose values are not read yet.
pub struct ReadTxn {
    header: Option<pb::ResponseHeader>,
    succeeded: bool,
    ranges: Vec<Selection>,
}

impl ReadTxn {
    /// Whether every slice has been chosen.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ranges.iter().all(Selection::is_complete)
    }

    /// The sum of [`Selection::weight`].
    #[must_use]
    pub fn weight(&self) -> usize {
        self.ranges.iter().map(Selection::weight).sum()
    }

    /// Fetches what was chosen. May read the engine: not for callers that hold the node's lock.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    pub fn load(self) -> Result<pb::TxnResponse, Error> {
        let load = |range: Selection| Ok(pb::ResponseOp { response: Some(Response::ResponseRange(range.load()?)) });
        let responses = self.ranges.into_iter().map(load).collect::<Result<Vec<_>, Error>>()?;
        Ok(pb::TxnResponse { header: self.header, succeeded: self.succeeded, responses })
    }
}

fn chosen<'a>(request: &'a pb::TxnRequest, way: &mut impl Iterator<Item = bool>) -> &'a [pb::RequestOp] {
    if way.next().unwrap_or(true) { &request.success } else { &request.failure }
}

/// Whether "stored stands in this order to given" is what was asked for. What nobody knows passes, as in etcd.
fn passes(compare: &pb::Compare, order: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Err(_) => true,
    }
}

/// The third pass.
struct Doing<'a> {
    write: Writer<'a>,
    leases: &'a mut lease::Table,
    begin: Revision,
}

impl Doing<'_> {
    /// Inner headers say the revision as it is after that operation; a nested transaction's is empty.
    fn run(&mut self, request: pb::TxnRequest, way: &mut impl Iterator<Item = bool>) -> Result<pb::TxnResponse, Error> {
        let succeeded = way.next().unwrap_or(true);
        let mut responses = Vec::new();
        for op in if succeeded { request.success } else { request.failure } {
            let response = match op.request {
                Some(Request::RequestRange(range)) => {
                    Some(Response::ResponseRange(kv::read(self.write.store(), &range)?))
                }
                Some(Request::RequestPut(put)) => {
                    Some(Response::ResponsePut(kv::put(&mut self.write, self.leases, put, self.begin)?))
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    Some(Response::ResponseDeleteRange(kv::delete(&mut self.write, self.leases, &delete)?))
                }
                Some(Request::RequestTxn(nested)) => Some(Response::ResponseTxn(self.run(nested, way)?)),
                None => None,
            };
            responses.push(pb::ResponseOp { response });
        }
        Ok(pb::TxnResponse { header: header(Revision(0)), succeeded, responses })
    }
}
