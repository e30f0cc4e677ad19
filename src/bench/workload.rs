//! What a load asks for: the mix of requests, how many connections, how many in flight on each.
//!
//! Keys are 8 digits out of 100,000; values are 256 bytes of noise, so that nothing on the way can compress them. Requests come from a
//! seed: two servers get the same ones. What an answer must hold is part of the request: one that holds less is an error, not fast.

use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::CompareResult;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// How many different keys a load writes and reads.
pub(super) const KEYS: u64 = 100_000;
/// How many of them are there before a load that reads.
pub(super) const KEYS_FILLED: u64 = 10_000;
/// How many keys a long range has.
const LONG_RANGE: u64 = 1_000;
/// Longer than any measurement: a lease that expired within one would cost what was not asked for.
const LEASE_SECONDS: i64 = 3_600;
const VALUE_BYTES: usize = 256;
/// Values are slices of this much noise: making them costs the load nothing.
const NOISE_BYTES: usize = 1 << 20;

/// The mix of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Puts of random keys.
    Put,
    /// The same, while another client compacts to the newest revision once a second.
    PutCompact,
    /// Linearizable gets of one key.
    RangeLin,
    /// Serializable gets of one key: no question to the leader.
    RangeSer,
    /// Linearizable ranges of 1,000 keys.
    Range1000Lin,
    /// Serializable ranges of 1,000 keys.
    Range1000Ser,
    /// If the key's version is above -1 (it always is), put it.
    Txn,
    /// Half puts, half linearizable gets.
    Mixed50,
    /// Deletes of keys that are there, one after the other.
    Delete,
    /// New leases.
    LeaseGrant,
    /// Renewals, each slot of a lease of its own, on a stream of its own.
    LeaseKeepAlive,
    /// Watchers of one key, each on a stream of its own, and a writer that waits for all of them. Counted are events.
    Watch,
    /// Watchers of a key each, many on one stream, and ten writers that wait for theirs. Counted are events.
    WatchMany,
}

const MIXES: [(&str, Mix); 13] = [
    ("put", Mix::Put),
    ("put-compact", Mix::PutCompact),
    ("range-lin", Mix::RangeLin),
    ("range-ser", Mix::RangeSer),
    ("range1000-lin", Mix::Range1000Lin),
    ("range1000-ser", Mix::Range1000Ser),
    ("txn", Mix::Txn),
    ("mixed50", Mix::Mixed50),
    ("delete", Mix::Delete),
    ("lease-grant", Mix::LeaseGrant),
    ("lease-keepalive", Mix::LeaseKeepAlive),
    ("watch", Mix::Watch),
    ("watchmany", Mix::WatchMany),
];

/// What must be in the store before a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Nothing,
    /// The first [`KEYS_FILLED`] keys.
    ToRead,
    /// More keys than the load deletes.
    ToDelete,
}

/// A mix and its concurrency, written `put-10x10`: 10 connections, 10 requests in flight on each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) mix: Mix,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
}

impl Workload {
    /// Whether every request is a read, which any member may answer; writes go to the leader.
    pub(super) fn reads_only(&self) -> bool {
        matches!(self.mix, Mix::RangeLin | Mix::RangeSer | Mix::Range1000Lin | Mix::Range1000Ser)
    }

    /// Whether it counts events of watchers, not answers.
    pub(super) fn watches(&self) -> bool {
        matches!(self.mix, Mix::Watch | Mix::WatchMany)
    }

    pub(super) fn filled(&self) -> Filled {
        match self.mix {
            Mix::Delete => Filled::ToDelete,
            Mix::Mixed50 => Filled::ToRead,
            _ if self.reads_only() => Filled::ToRead,
            _ => Filled::Nothing,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MIXES.iter().find(|(_, mix)| *mix == self.mix).map_or("", |(name, _)| name);
        write!(f, "{name}-{}x{}", self.connections, self.in_flight)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        let bad = || {
            let names: Vec<&str> = MIXES.iter().map(|(name, _)| *name).collect();
            let example = "write MIX-CONNECTIONSxINFLIGHT, such as put-10x10";
            format!("no such workload: {text:?}; {example}, with MIX one of {}", names.join(", "))
        };
        // `put` begins `put-compact`, too: the longest name counts.
        let mixes = MIXES.iter().filter(|(name, _)| text.starts_with(name));
        let (name, mix) = mixes.max_by_key(|(name, _)| name.len()).ok_or_else(bad)?;
        let rest = &text[name.len()..];
        if rest.is_empty() {
            return Ok(Workload { mix: *mix, connections: 10, in_flight: 10 });
        }
        let (connections, in_flight) = rest.strip_prefix('-').and_then(|r| r.split_once('x')).ok_or_else(bad)?;
        let number = |digits: &str| digits.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or_else(bad);
        Ok(Workload { mix: *mix, connections: number(connections)?, in_flight: number(in_flight)? })
    }
}

/// One request, and what its answer must hold.
pub(super) enum Request {
    Put(pb::PutRequest),
    /// With so many keys in the answer.
    Range(pb::RangeRequest, usize),
    Txn(pb::TxnRequest),
    /// Of one key that is there.
    Delete(pb::DeleteRangeRequest),
    Grant(pb::LeaseGrantRequest),
    /// Of the slot's own lease.
    KeepAlive,
}

/// A stream of requests out of a seed.
#[derive(Clone)]
pub(super) struct Requests {
    mix: Mix,
    state: u64,
    noise: Bytes,
    /// The next key to delete, of all slots.
    next: Arc<AtomicU64>,
}

impl Requests {
    pub(super) fn new(mix: Mix, seed: u64) -> Requests {
        let mut state = seed;
        let noise: Vec<u8> = (0..NOISE_BYTES / 8).flat_map(|_| split_mix(&mut state).to_le_bytes()).collect();
        Requests { mix, state, noise: noise.into(), next: Arc::default() }
    }

    /// The same mix and noise, other numbers: for another slot of the same load.
    pub(super) fn fork(&mut self) -> Requests {
        Requests { state: split_mix(&mut self.state), ..self.clone() }
    }

    pub(super) fn next(&mut self) -> Request {
        let number = self.number();
        // The lowest bit chooses the kind of request; the key takes the rest, so that both kinds touch all keys.
        let below = |keys: u64| (number >> 1) % keys;
        match self.mix {
            Mix::Put | Mix::PutCompact | Mix::Watch | Mix::WatchMany => Request::Put(self.put(key(below(KEYS)))),
            Mix::RangeLin => get(below(KEYS_FILLED), false),
            Mix::RangeSer => get(below(KEYS_FILLED), true),
            Mix::Range1000Lin => list(below(KEYS_FILLED - LONG_RANGE), false),
            Mix::Range1000Ser => list(below(KEYS_FILLED - LONG_RANGE), true),
            Mix::Txn => Request::Txn(self.compare_and_put(key(below(KEYS)))),
            Mix::Mixed50 if number & 1 == 0 => Request::Put(self.put(key(below(KEYS_FILLED)))),
            Mix::Mixed50 => get(below(KEYS_FILLED), false),
            Mix::Delete => {
                let key = key(self.next.fetch_add(1, Ordering::Relaxed));
                Request::Delete(pb::DeleteRangeRequest { key, ..Default::default() })
            }
            Mix::LeaseGrant => Request::Grant(grant()),
            Mix::LeaseKeepAlive => Request::KeepAlive,
        }
    }

    /// The next number of this stream.
    pub(super) fn number(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    /// A put of this key with some value.
    pub(super) fn put(&mut self, key: Bytes) -> pb::PutRequest {
        let at = (self.number() as usize) % (NOISE_BYTES - VALUE_BYTES);
        pb::PutRequest { key, value: self.noise.slice(at..at + VALUE_BYTES), ..Default::default() }
    }

    fn compare_and_put(&mut self, key: Bytes) -> pb::TxnRequest {
        let compare = pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Version(-1)),
            ..Default::default()
        };
        let put = pb::request_op::Request::RequestPut(self.put(key));
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(put) }],
            failure: Vec::new(),
        }
    }
}

/// The key of this number: 8 digits.
pub(super) fn key(number: u64) -> Bytes {
    Bytes::from(format!("{number:08}"))
}

/// A request for a lease that no measurement outlives.
pub(super) fn grant() -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 }
}

fn get(number: u64, serializable: bool) -> Request {
    Request::Range(pb::RangeRequest { key: key(number), serializable, ..Default::default() }, 1)
}

fn list(first: u64, serializable: bool) -> Request {
    let (key, range_end) = (key(first), key(first + LONG_RANGE));
    let range = pb::RangeRequest { key, range_end, serializable, ..Default::default() };
    Request::Range(range, LONG_RANGE as usize)
}

/// The generator SplitMix64: 64 good bits a step, which is all that a load needs.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_as_it_is_written() {
        for (name, mix) in MIXES {
            let read: Workload = format!("{name}-4x2").parse().expect("a workload");
            assert_eq!((read.mix, read.to_string()), (mix, format!("{name}-4x2")));
        }
        assert_eq!("mixed50".parse::<Workload>().expect("a workload").to_string(), "mixed50-10x10");
    }

    #[test]
    fn a_wrong_workload_is_refused_with_an_example() {
        for name in ["", "get-1x1", "put-0x1", "put-1", "put-1x", "put1x1", "put-1x1x1", "put-99999x1"] {
            let refusal = name.parse::<Workload>().expect_err(name);
            assert!(refusal.contains("such as put-10x10"), "{name}: {refusal}");
        }
    }

    #[test]
    fn one_seed_gives_the_same_requests_and_values_that_differ() {
        let values = |seed| -> Vec<Bytes> {
            let mut requests = Requests::new(Mix::Put, seed).fork();
            let mut value = || match requests.next() {
                Request::Put(put) => put.value,
                _ => Bytes::new(),
            };
            (0..100).map(|_| value()).collect()
        };
        assert_eq!(values(7), values(7));
        assert_ne!(values(7), values(8));
        let distinct: std::collections::BTreeSet<Bytes> = values(7).into_iter().collect();
        assert_eq!(distinct.len(), 100);
        assert!(distinct.iter().all(|value| value.len() == VALUE_BYTES));
    }

    #[test]
    fn half_of_mixed50_is_puts() {
        let mut requests = Requests::new(Mix::Mixed50, 1);
        let puts = (0..10_000).filter(|_| matches!(requests.next(), Request::Put(_))).count();
        assert!((4_800..5_200).contains(&puts), "{puts} of 10,000");
    }

    #[test]
    fn no_two_slots_delete_the_same_key() {
        let mut all = Requests::new(Mix::Delete, 1);
        let mut slots = [all.fork(), all.fork()];
        let deleted: Vec<Bytes> = (0..10)
            .map(|n| match slots[n % 2].next() {
                Request::Delete(delete) => delete.key,
                _ => Bytes::new(),
            })
            .collect();
        assert_eq!(deleted, (0..10).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_range_asks_for_a_thousand_keys_that_are_there() {
        let mut requests = Requests::new(Mix::Range1000Ser, 1);
        for _ in 0..1_000 {
            let Request::Range(range, rows) = requests.next() else { panic!("not a range") };
            let number = |key: &Bytes| String::from_utf8_lossy(key).parse::<u64>().expect("digits");
            assert_eq!(number(&range.range_end) - number(&range.key), rows as u64);
            assert!(number(&range.range_end) <= KEYS_FILLED);
        }
    }
}
