//! Operations out of a seed. What comes next depends on the seed and on what our server has answered so far, and on nothing else: the same
//! seed against the same two programs is the same run.

use super::step::Family;
use super::step::Op;
use super::step::Step;
use super::step::Watching;
use super::step::Who;
use crate::seeded::Seeded;
use bytes::Bytes;
use etcd_lab::proto::etcdserverpb as pb;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Leases that come and go. None of them expires by itself during a run.
const LEASES: [i64; 8] = [1, 2, 3, 77, 0x1234_5678, i64::MAX, -5, i64::MIN];
/// A lease that nobody ever grants.
pub(super) const NO_LEASE: i64 = 404;
const LONG_TTLS: [i64; 4] = [10_000_000, 1_000_000_000, 8_999_999_999, 9_000_000_000];
const WRONG_TTLS: [i64; 2] = [9_000_000_001, i64::MAX];
pub(super) const STREAMS: u8 = 3;
/// One that is there for a moment.
const BRIEF_STREAM: u8 = 9;
/// How many transactions may lie in another.
const OUTERMOST: u32 = 2;
const WATCHES_MAX: usize = 12;

/// What a release of etcd does, where doing otherwise would let the two part for good, so that nothing after it could be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Since 3.5.24. Before, a watch from a negative revision was created and then ended.
    pub(super) refuses_negative_starts: bool,
    /// Since 3.5.16. Before, a deletion at the very revision of a compaction was lost to watches from there (#18089).
    pub(super) keeps_tombstones: bool,
    /// Since 3.5.6. Before, the refusal of a watch had the id 0, and a watch that had it was told nothing more.
    pub(super) refuses_with_no_id: bool,
    /// Since 3.5.8. Before, a permission on no key was granted.
    pub(super) refuses_empty_permissions: bool,
    /// Since 3.5.28. Before, anybody could compact, and grant and revoke leases.
    pub(super) guards_leases_and_compaction: bool,
    /// Since 3.5.30. Before, nobody asked who may have a lease and a key's last value in a transaction, and before 3.5.28 what a nested one does.
    pub(super) guards_all_of_transactions: bool,
    /// Since 3.5.33. Before, who may read one key could watch from it to the end of all keys (GHSA-xg4h-6gfc-h4m8).
    pub(super) guards_open_watches: bool,
}

/// What the operations so far have led to.
pub(super) struct World {
    pub(super) random: Seeded,
    families: Vec<Family>,
    pub(super) habits: Habits,
    pub(super) revision: i64,
    compacted: i64,
    /// The last compaction was answered when all was done, not only begun.
    is_swept: bool,
    streams: BTreeMap<u8, BTreeMap<i64, i64>>,
    expiries: i64,
    pub(super) auth_on: bool,
    pub(super) auth_was_on: bool,
    /// How many have been asked for.
    pub(super) steps: u64,
    /// Operations that must follow one another.
    pub(super) script: VecDeque<Step>,
    pub(super) serial: i64,
}

impl World {
    pub(super) fn new(seed: u64, families: &[Family], habits: Habits) -> World {
        World {
            habits,
            random: Seeded::new(seed),
            families: families.to_vec(),
            revision: 1,
            compacted: -1,
            is_swept: true,
            streams: BTreeMap::new(),
            expiries: 0,
            auth_on: false,
            auth_was_on: false,
            steps: 0,
            script: VecDeque::new(),
            serial: 0,
        }
    }

    pub(super) fn next(&mut self) -> Step {
        self.steps += 1;
        if let Some(step) = self.script.pop_front() {
            return step;
        }
        let weights: Vec<(Family, u64)> = self.families.iter().map(|&family| (family, weight(family))).collect();
        let mut at = self.random.below(weights.iter().map(|(_, weight)| weight).sum());
        let family = weights.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let op = match family.map_or(Family::Kv, |(family, _)| *family) {
            Family::Kv => self.kv(),
            Family::Txn => Op::Txn(self.txn(OUTERMOST)),
            Family::Lease => self.lease(),
            Family::Watch => self.watch(),
            Family::Compaction => self.compaction(),
            Family::Maintenance => self.maintenance(),
            Family::Alarm => self.alarm(),
            Family::Auth => self.auth(),
            Family::Lock => self.lock(),
            Family::Election => self.election(),
        };
        let who = match &op {
            // What is granted here must go again: somebody who may do all of it.
            Op::LeaseBrief { .. } | Op::LeaseExpiry { .. } if self.auth_on => Who::Token(0),
            Op::Compact(_) | Op::LeaseGrant(_) | Op::LeaseRevoke(_) | Op::Alarm { .. }
                if self.auth_on && !self.habits.guards_leases_and_compaction =>
            {
                Who::Token(0)
            }
            Op::Txn(txn) if self.auth_on && !self.habits.guards_all_of_transactions && hides_something(txn) => {
                Who::Token(0)
            }
            _ => self.who(),
        };
        Step { who, op }
    }

    /// Takes note of what our server answered.
    pub(super) fn learn(&mut self, step: &Step, answer: &str) {
        if let Some(revision) = header_revision(answer) {
            self.revision = self.revision.max(revision);
        }
        let refused = answer.starts_with("error: ");
        match &step.op {
            Op::Compact(compaction) if !refused => {
                (self.compacted, self.is_swept) = (compaction.revision, compaction.physical);
            }
            Op::Watch(watching) => self.learn_watch(watching, answer),
            Op::AuthEnable if !refused => (self.auth_on, self.auth_was_on) = (true, true),
            Op::AuthDisable if !refused => self.auth_on = false,
            _ => {}
        }
    }

    fn learn_watch(&mut self, watching: &Watching, answer: &str) {
        match watching {
            Watching::Open(stream) => drop(self.streams.insert(*stream, BTreeMap::new())),
            Watching::Create { stream, request, .. } => {
                let id = answer.lines().find_map(|line| line.trim().strip_prefix("watch_id: "));
                let id = id.and_then(|id| id.trim_end_matches(',').parse().ok());
                let (Some(id), false) = (id, answer.contains("canceled: true")) else { return };
                self.streams.entry(*stream).or_default().insert(id, request.start_revision);
            }
            Watching::Cancel { stream, id, .. } => drop(self.streams.entry(*stream).or_default().remove(id)),
            Watching::HalfClose(stream) | Watching::Drop(stream) => drop(self.streams.remove(stream)),
            Watching::Progress { .. } => {}
        }
    }

    /// A watch was told its end without having asked.
    pub(super) fn ended(&mut self, stream: u8, id: i64) {
        if let Some(watches) = self.streams.get_mut(&stream) {
            watches.remove(&id);
        }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    pub(super) fn key(&mut self) -> Bytes {
        let mut key = match self.random.below(30) {
            0 => vec![0],
            1 => vec![0xff, 0xff],
            2..6 => format!("t{}", self.random.below(6)).into_bytes(),
            _ => format!("k{:02}", self.random.below(40)).into_bytes(),
        };
        match self.random.below(60) {
            0 => key.push(0),
            1 => key.insert(0, 0xff),
            2 => key.extend_from_slice("/é".as_bytes()),
            3 => key.clear(),
            _ => {}
        }
        key.into()
    }

    /// An end that makes every kind of range with the key: one key, some, a prefix, to the end, none.
    pub(super) fn range_end(&mut self, key: &Bytes) -> Bytes {
        let end = self.any_range_end(key);
        // Whether one may do something to an interval that ends before it begins is chance in etcd: its search for permissions depends on the shape of a tree.
        let is_reversed = !end.is_empty() && end != "\0" && end < *key;
        if is_reversed && self.auth_on { key.clone() } else { end }
    }

    fn any_range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.below(20) {
            0..9 => Bytes::new(),
            9..13 => {
                let other = self.key();
                // Mostly a range that has something in it.
                if other <= *key && !self.one_in(6) { Bytes::from_static(b"l") } else { other }
            }
            13..16 => {
                let mut end = key.to_vec();
                let short = end.len().min(1 + self.random.below(2) as usize);
                end.truncate(short);
                if let Some(last) = end.last_mut() {
                    *last = last.saturating_add(1);
                }
                end.into()
            }
            16..18 => Bytes::from_static(b"\0"),
            18 => [key.as_ref(), b"\0"].concat().into(),
            _ => key.clone(),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = *self.random.pick(&[0, 1, 3, 3, 8, 8, 8, 20, 20, 100, 100, 1500]);
        // Few different short values, so that comparing and sorting by value has ties.
        if length <= 3 {
            return format!("{}", self.random.below(12)).into();
        }
        (0..length).map(|_| self.random.next() as u8).collect::<Vec<u8>>().into()
    }

    /// A revision to ask for: none, some in the past, around the compaction, to come, nonsense.
    fn some_revision(&mut self) -> i64 {
        match self.random.below(24) {
            0..14 => 0,
            14..19 => {
                let floor = self.compacted.max(1);
                floor + self.random.below((self.revision - floor + 1).max(1) as u64) as i64
            }
            19 => self.compacted,
            20 => self.compacted - 1,
            21 => self.revision + 1 + self.random.below(3) as i64,
            22 => *self.random.pick(&[-1, i64::MIN, 1]),
            _ => self.revision,
        }
    }

    fn kv(&mut self) -> Op {
        match self.random.below(100) {
            0..45 => Op::Put(self.put(true)),
            45..80 => Op::Range(self.range()),
            _ => Op::DeleteRange(self.delete()),
        }
    }

    pub(super) fn put(&mut self, may_ignore: bool) -> pb::PutRequest {
        let lease = if self.one_in(6) { self.lease_id() } else { 0 };
        let mut put = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease,
            prev_kv: self.one_in(3),
            ignore_value: may_ignore && self.one_in(12),
            ignore_lease: may_ignore && self.one_in(12),
        };
        if put.ignore_value && !self.one_in(4) {
            put.value.clear();
        }
        if put.ignore_lease && !self.one_in(4) {
            put.lease = 0;
        }
        put
    }

    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let key = self.key();
        let mut range = pb::RangeRequest { range_end: self.range_end(&key), key, ..Default::default() };
        range.revision = self.some_revision();
        range.serializable = self.one_in(4);
        range.keys_only = self.one_in(6);
        range.count_only = self.one_in(8);
        if self.one_in(3) {
            range.limit = *self.random.pick(&[1, 2, 3, 5, 10, 1000, -1, i64::MAX]);
        }
        if self.one_in(4) {
            range.sort_order = *self.random.pick(&[0, 1, 2, 1, 2, 1, 2, 1, 2, 7]);
            range.sort_target = self.random.below(5) as i32;
        }
        if self.one_in(5) {
            for bound in [
                &mut range.min_mod_revision,
                &mut range.max_mod_revision,
                &mut range.min_create_revision,
                &mut range.max_create_revision,
            ] {
                if self.random.below(3) == 0 {
                    *bound = self.random.below(self.revision as u64 + 2) as i64;
                }
            }
            if self.one_in(20) {
                range.min_mod_revision = -1;
            }
        }
        range
    }

    pub(super) fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        let mut range_end = if self.one_in(4) { self.range_end(&key) } else { Bytes::new() };
        // Everything at once, but seldom: else there is never much.
        if (range_end == "\0" || range_end.len() < 2 && !range_end.is_empty()) && !self.one_in(6) {
            range_end = [key.as_ref(), b"~"].concat().into();
        }
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.one_in(3) }
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let target = if self.one_in(100) { 9 } else { self.random.below(5) as i32 };
        let number = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(4) as i64,
            2 => *self.random.pick(&LEASES),
            _ => self.random.below(self.revision as u64 + 2) as i64,
        };
        // Seldom another member of the union than the target's.
        let given = if self.one_in(20) { self.random.below(5) as i32 } else { target };
        let target_union = match CompareTarget::try_from(given) {
            Ok(CompareTarget::Version) => Some(TargetUnion::Version(number)),
            Ok(CompareTarget::Create) => Some(TargetUnion::CreateRevision(number)),
            Ok(CompareTarget::Mod) => Some(TargetUnion::ModRevision(number)),
            Ok(CompareTarget::Value) => Some(TargetUnion::Value(self.value())),
            Ok(CompareTarget::Lease) => Some(TargetUnion::Lease(number)),
            Err(_) => None,
        };
        let range_end = if self.one_in(4) { self.range_end(&key) } else { Bytes::new() };
        let result = if self.one_in(100) { 11 } else { self.random.below(4) as i32 };
        pb::Compare { result, target, key, range_end, target_union }
    }

    /// A transaction with none in it.
    pub(super) fn flat_txn(&mut self) -> pb::TxnRequest {
        let mut txn = self.txn(0);
        if deletes_to_the_end(&txn) {
            keep_nothing(&mut txn);
        }
        txn
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let mut txn = pb::TxnRequest::default();
        for _ in 0..self.random.below(3) {
            let compare = self.compare();
            txn.compare.push(compare);
        }
        for branch in [&mut txn.success, &mut txn.failure] {
            for _ in 0..self.random.below(4) {
                branch.push(pb::RequestOp { request: self.txn_op(depth) });
            }
        }
        if self.one_in(300) {
            let range = pb::RangeRequest { sort_order: 0, sort_target: 0, ..self.range() };
            let op = pb::RequestOp { request: Some(Request::RequestRange(range)) };
            txn.success = vec![op; 127 + self.random.below(3) as usize];
        }
        // etcd stops for good if a put keeps a value that the same transaction has deleted, which its check for duplicates misses when the
        // delete goes to the end of all keys.
        if depth == OUTERMOST && deletes_to_the_end(&txn) {
            keep_nothing(&mut txn);
        }
        txn
    }

    fn txn_op(&mut self, depth: u32) -> Option<Request> {
        match self.random.below(200) {
            0..90 => Some(Request::RequestPut(self.put(true))),
            90..140 => {
                let mut range = self.range();
                if range.limit > 0 || range.sort_target != 0 {
                    // Rows that are equal come in any order.
                    range.sort_target = 0;
                }
                // What an order that does not exist does differs, and here the whole transaction would.
                range.sort_order = range.sort_order.min(2);
                Some(Request::RequestRange(range))
            }
            140..178 => Some(Request::RequestDeleteRange(self.delete())),
            178..199 if depth > 0 => Some(Request::RequestTxn(self.txn(depth - 1))),
            178..199 => Some(Request::RequestPut(self.put(false))),
            _ => None,
        }
    }

    fn compaction(&mut self) -> Op {
        if self.one_in(3) {
            let revision = match self.random.below(10) {
                0..7 => self.revision - self.random.below(60) as i64,
                7 => self.revision,
                8 => self.some_revision(),
                _ => *self.random.pick(&[0, -1, i64::MAX]),
            };
            return Op::Compact(pb::CompactionRequest { revision, physical: self.one_in(2) });
        }
        let revision = if self.one_in(3) { self.revision } else { self.some_revision() };
        // Compactions leave their hashes, which answer from then on: at a moment that nobody can tell, unless it was waited for.
        if !self.is_swept && revision <= self.compacted {
            return Op::Range(self.range());
        }
        let at = match revision {
            r if r < 0 => "negative",
            r if r == self.compacted => "at the compaction",
            r if r > 0 && r < self.compacted => "below the compaction",
            _ => "elsewhere",
        };
        Op::HashKv { revision, at }
    }

    pub(super) fn lease_id(&mut self) -> i64 {
        if self.one_in(15) { NO_LEASE } else { *self.random.pick(&LEASES) }
    }

    fn lease(&mut self) -> Op {
        match self.random.below(400) {
            0..110 => {
                let ttls: &[i64] = if self.one_in(10) { &WRONG_TTLS } else { &LONG_TTLS };
                let (id, ttl) = (*self.random.pick(&LEASES), *self.random.pick(ttls));
                Op::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
            }
            110..150 => {
                self.serial += 1;
                let id = if self.one_in(2) { 0 } else { 100_000 + self.serial };
                Op::LeaseBrief { id, ttl: *self.random.pick(&[0, -7, 1, 2, 3, 60]) }
            }
            150..200 => Op::LeaseRevoke(self.lease_id()),
            200..270 => {
                let count = 1 + self.random.below(3);
                Op::LeaseKeepAlive((0..count).map(|_| self.lease_id()).collect())
            }
            270..370 => {
                let (id, keys) = (self.lease_id(), self.one_in(2));
                Op::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys })
            }
            399 if !self.auth_on => {
                self.expiries += 1;
                let keys = (0..1 + self.random.below(3)).map(|number| format!("x{number}")).collect();
                Op::LeaseExpiry { id: 500_000 + self.expiries, keys }
            }
            _ => Op::LeaseLeases,
        }
    }

    fn watch(&mut self) -> Op {
        if self.auth_on {
            // We end watches when their user's rights go, etcd lets them run on (reliability 5): none is there when rights change.
            let watches_max = if self.habits.refuses_with_no_id { 3 } else { 1 };
            for _ in 0..1 + self.random.below(watches_max) {
                let mut create = self.create(BRIEF_STREAM);
                if let Watching::Create { request, .. } = &mut create
                    && request.range_end == "\0"
                    && !self.habits.guards_open_watches
                {
                    request.range_end = [request.key.as_ref(), b"~"].concat().into();
                }
                self.follow(Op::Watch(create));
            }
            let put = self.put(false);
            self.follow(Op::Put(put));
            self.follow(Op::Watch(Watching::Drop(BRIEF_STREAM)));
            return Op::Watch(Watching::Open(BRIEF_STREAM));
        }
        let number = self.random.below(u64::from(STREAMS)) as u8;
        let Some(watches) = self.streams.get(&number).cloned() else { return Op::Watch(Watching::Open(number)) };
        let watching = match self.random.below(100) {
            0..55 if watches.len() < WATCHES_MAX => self.create(number),
            0..80 => {
                let ids: Vec<i64> = watches.keys().copied().collect();
                let known = !ids.is_empty() && !self.one_in(8);
                let id = if known { *self.random.pick(&ids) } else { 987_654 };
                Watching::Cancel { stream: number, id, known }
            }
            80..96 => {
                let waits = watches.values().any(|start| *start > self.revision);
                Watching::Progress { stream: number, expected: !watches.is_empty() && !waits }
            }
            _ => Watching::HalfClose(number),
        };
        Op::Watch(watching)
    }

    fn create(&mut self, stream: u8) -> Watching {
        let key = self.key();
        let mut range_end = self.range_end(&key);
        if self.one_in(3) {
            range_end = Bytes::from_static(b"\0");
        }
        let start_revision = match self.random.below(40) {
            0..30 => 0,
            30 => 1 + self.random.below(self.revision as u64) as i64,
            31 => self.compacted,
            32 => self.compacted - 1,
            33 => self.compacted + 1,
            34 => self.revision + 1,
            35 => self.revision + 2 + self.random.below(30) as i64,
            36 => i64::MAX - 1,
            37 => self.revision,
            38 => -1,
            _ => self.revision - self.random.below(20) as i64,
        };
        let start_revision = if self.habits.refuses_negative_starts { start_revision } else { start_revision.max(0) };
        let is_lossy = !self.habits.keeps_tombstones && start_revision > 0 && start_revision == self.compacted;
        let start_revision = if is_lossy { start_revision + 1 } else { start_revision };
        let mut filters: Vec<i32> = Vec::new();
        if self.one_in(4) {
            filters.push(self.random.below(2) as i32);
            if self.one_in(4) {
                filters.push(self.random.below(3) as i32);
            }
        }
        let watch_id = if self.one_in(3) { *self.random.pick(&[1, 2, 5, 5, -9, i64::MAX]) } else { 0 };
        let request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.one_in(4),
            filters,
            prev_kv: self.one_in(2),
            watch_id,
            fragment: self.one_in(4),
        };
        Watching::Create { stream, past: start_revision != 0 && start_revision <= self.revision, request }
    }

    pub(super) fn families(&self) -> &[Family] {
        &self.families
    }

    /// With authentication on, somebody who may, mostly.
    fn who(&mut self) -> Who {
        if !self.auth_on {
            return Who::Nobody;
        }
        match self.random.below(20) {
            0..10 => Who::Token(0),
            10..18 => Who::Token(1 + self.random.below(3) as u8),
            18 => Who::Nobody,
            _ => Who::Forged,
        }
    }
}

/// How often a family gets its turn.
fn weight(family: Family) -> u64 {
    match family {
        Family::Kv => 30,
        Family::Txn => 25,
        Family::Lease => 12,
        Family::Watch => 8,
        Family::Compaction => 8,
        Family::Maintenance => 4,
        Family::Alarm => 5,
        Family::Auth => 10,
        Family::Lock | Family::Election => 5,
    }
}

/// The revision in an answer's header, which comes first.
fn header_revision(answer: &str) -> Option<i64> {
    let (_, rest) = answer.split_once("ResponseHeader {")?;
    let line = rest.lines().find_map(|line| line.trim().strip_prefix("revision: "))?;
    line.trim_end_matches(',').parse().ok()
}

fn ops(txn: &pb::TxnRequest) -> impl Iterator<Item = &pb::RequestOp> {
    txn.success.iter().chain(&txn.failure)
}

fn deletes_to_the_end(txn: &pb::TxnRequest) -> bool {
    ops(txn).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => delete.range_end == "\0",
        Some(Request::RequestTxn(nested)) => deletes_to_the_end(nested),
        _ => false,
    })
}

/// Whether a transaction does something that early releases did not ask about.
fn hides_something(txn: &pb::TxnRequest) -> bool {
    ops(txn).any(|op| match &op.request {
        Some(Request::RequestPut(put)) => put.lease != 0 || put.prev_kv,
        Some(Request::RequestTxn(_)) => true,
        _ => false,
    })
}

fn keep_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(nested)) => keep_nothing(nested),
            _ => {}
        }
    }
}
