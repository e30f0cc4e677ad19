//! Clients: what they ask for, drawn from the seed.
//!
//! Few keys and short leases, so that requests meet; values are unique, so that a wrong one is seen.

use super::rights;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::walpb::ConfChange;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

const KEYS: u32 = 10;

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Write(Box<pb::InternalRaftRequest>),
    Read(pb::RangeRequest),
    KeepAlive(i64),
    /// Change this member's peer URLs.
    UpdateMember(usize),
    /// Change who is a member.
    Change(ConfChange),
}

/// What clients know of the cluster.
pub(super) struct View<'a> {
    pub(super) revision: i64,
    pub(super) leases: &'a [i64],
    pub(super) members: usize,
    pub(super) number: u64,
    /// Users and roles are changed too.
    pub(super) auth: bool,
}

fn key(dice: &mut StdRng) -> Bytes {
    format!("k{}", dice.random_range(0..KEYS)).into()
}

/// One key, some keys, or all.
pub(super) fn range(dice: &mut StdRng) -> (Bytes, Bytes) {
    match dice.random_range(0..4) {
        0 => ("k".into(), "l".into()),
        1 => (key(dice), "l".into()),
        _ => (key(dice), Bytes::new()),
    }
}

impl View<'_> {
    /// The next request.
    pub(super) fn ask(&self, dice: &mut StdRng) -> Ask {
        if self.auth && (rights::is_setup(self.number) || dice.random_range(0..25) == 0) {
            return Ask::Write(Box::new(rights::ask(self.number, dice)));
        }
        let mut request = pb::InternalRaftRequest::default();
        match dice.random_range(0..100) {
            0..=39 => request.put = Some(self.put(dice)),
            40..=46 => request.delete_range = Some(self.delete(dice)),
            47..=60 => request.txn = Some(self.txn(dice)),
            61..=63 => {
                request.lease_grant = Some(pb::LeaseGrantRequest { id: self.new_lease(), ttl: dice.random_range(1..4) })
            }
            64..=69 => return self.lease(dice).map_or_else(|| self.get(dice), Ask::KeepAlive),
            70 => match self.lease(dice) {
                Some(id) => request.lease_revoke = Some(pb::LeaseRevokeRequest { id }),
                None => return self.get(dice),
            },
            71..=72 => {
                let revision = (self.revision - dice.random_range(-1..20)).max(1);
                request.compaction = Some(pb::CompactionRequest { revision, physical: false });
            }
            73 => return Ask::UpdateMember(dice.random_range(0..self.members)),
            _ => return self.get(dice),
        }
        Ask::Write(Box::new(request))
    }

    fn new_lease(&self) -> i64 {
        self.number as i64 + 1
    }

    fn lease(&self, dice: &mut StdRng) -> Option<i64> {
        (!self.leases.is_empty()).then(|| self.leases[dice.random_range(0..self.leases.len())])
    }

    fn put(&self, dice: &mut StdRng) -> pb::PutRequest {
        let size = if dice.random_range(0..20) == 0 { 1500 } else { dice.random_range(8..120) };
        let value = format!("{:-<size$}", self.number);
        let lease = if dice.random_range(0..5) == 0 { self.lease(dice).unwrap_or(0) } else { 0 };
        pb::PutRequest { key: key(dice), value: value.into(), lease, prev_kv: dice.random(), ..Default::default() }
    }

    fn delete(&self, dice: &mut StdRng) -> pb::DeleteRangeRequest {
        let (key, range_end) = range(dice);
        pb::DeleteRangeRequest { key, range_end, prev_kv: dice.random() }
    }

    fn get(&self, dice: &mut StdRng) -> Ask {
        let (key, range_end) = range(dice);
        let revision = if dice.random_range(0..5) == 0 { self.revision - dice.random_range(-2..30) } else { 0 };
        let serializable = dice.random_range(0..6) == 0;
        Ask::Read(pb::RangeRequest { key, range_end, revision: revision.max(0), serializable, ..Default::default() })
    }

    /// If a key is as it was, put two, look, and perhaps delete a third. Now and then the second put cannot be: then nothing must happen.
    fn txn(&self, dice: &mut StdRng) -> pb::TxnRequest {
        let first = dice.random_range(0..KEYS - 3);
        let name = |n: u32| Bytes::from(format!("k{}", first + n));
        let target = match dice.random() {
            true => (CompareTarget::Mod, TargetUnion::ModRevision(self.revision - dice.random_range(0..10))),
            false => (CompareTarget::Version, TargetUnion::Version(dice.random_range(0..3))),
        };
        let result = [CompareResult::Equal, CompareResult::Less, CompareResult::Greater][dice.random_range(0..3)];
        let compare = pb::Compare {
            result: result as i32,
            target: target.0 as i32,
            key: name(0),
            target_union: Some(target.1),
            ..Default::default()
        };
        let op = |request| pb::RequestOp { request: Some(request) };
        let value: Bytes = format!("t{}", self.number).into();
        let missing = if dice.random_range(0..8) == 0 { i64::MAX } else { 0 };
        let mut success = vec![
            op(Request::RequestPut(pb::PutRequest { key: name(0), value: value.clone(), ..Default::default() })),
            op(Request::RequestPut(pb::PutRequest { key: name(1), value, lease: missing, ..Default::default() })),
            op(Request::RequestRange(pb::RangeRequest {
                key: "k".into(),
                range_end: "l".into(),
                ..Default::default()
            })),
        ];
        if dice.random() {
            success
                .push(op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key: name(2), ..Default::default() })));
        }
        let failure = vec![op(Request::RequestRange(pb::RangeRequest {
            key: name(0),
            range_end: "l".into(),
            ..Default::default()
        }))];
        pb::TxnRequest { compare: vec![compare], success, failure }
    }
}
