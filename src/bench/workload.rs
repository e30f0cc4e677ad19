//! What a load asks for: the mix of requests, how many connections, how many in flight on each.
//!
//! Keys are 8 digits out of 100,000; values are 256 bytes of noise, so that nothing on the way can compress them. Requests come from a
//! seed: two servers get the same ones.

use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::CompareResult;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use std::fmt;
use std::str::FromStr;

/// How many different keys a load writes and reads.
pub(super) const KEYS: u64 = 100_000;
/// How many of them are there before a load that reads.
pub(super) const KEYS_FILLED: u64 = 10_000;
const VALUE_BYTES: usize = 256;
/// Values are slices of this much noise: making them costs the load nothing.
const NOISE_BYTES: usize = 1 << 20;

/// The mix of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Puts of random keys.
    Put,
    /// Linearizable gets of one key.
    RangeLin,
    /// Serializable gets of one key: no question to the leader.
    RangeSer,
    /// If the key's version is above -1 (it always is), put it.
    Txn,
    /// Half puts, half linearizable gets.
    Mixed50,
}

const MIXES: [(&str, Mix); 5] = [
    ("put", Mix::Put),
    ("range-lin", Mix::RangeLin),
    ("range-ser", Mix::RangeSer),
    ("txn", Mix::Txn),
    ("mixed50", Mix::Mixed50),
];

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
        matches!(self.mix, Mix::RangeLin | Mix::RangeSer)
    }

    /// Whether keys must be there before it begins.
    pub(super) fn reads(&self) -> bool {
        self.reads_only() || self.mix == Mix::Mixed50
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
        let bad = || format!("no such workload: {text:?}; write MIX-CONNECTIONSxINFLIGHT, such as put-10x10");
        let (name, mix) = MIXES.iter().find(|(name, _)| text.starts_with(name)).ok_or_else(bad)?;
        let rest = &text[name.len()..];
        if rest.is_empty() {
            return Ok(Workload { mix: *mix, connections: 10, in_flight: 10 });
        }
        let (connections, in_flight) = rest.strip_prefix('-').and_then(|r| r.split_once('x')).ok_or_else(bad)?;
        let number = |digits: &str| digits.parse().ok().filter(|n| (1..=10_000).contains(n)).ok_or_else(bad);
        Ok(Workload { mix: *mix, connections: number(connections)?, in_flight: number(in_flight)? })
    }
}

/// One request.
pub(super) enum Request {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Txn(pb::TxnRequest),
}

/// A stream of requests out of a seed.
#[derive(Clone)]
pub(super) struct Requests {
    mix: Mix,
    state: u64,
    noise: Bytes,
}

impl Requests {
    pub(super) fn new(mix: Mix, seed: u64) -> Requests {
        let mut state = seed;
        let noise: Vec<u8> = (0..NOISE_BYTES / 8).flat_map(|_| split_mix(&mut state).to_le_bytes()).collect();
        Requests { mix, state, noise: noise.into() }
    }

    /// The same mix and noise, other numbers: for another slot of the same load.
    pub(super) fn fork(&mut self) -> Requests {
        Requests { mix: self.mix, state: split_mix(&mut self.state), noise: self.noise.clone() }
    }

    pub(super) fn next(&mut self) -> Request {
        let number = split_mix(&mut self.state);
        // The lowest bit chooses the kind of request; the key takes the rest, so that both kinds touch all keys.
        let keys = if self.mix == Mix::Put || self.mix == Mix::Txn { KEYS } else { KEYS_FILLED };
        let key = key((number >> 1) % keys);
        match self.mix {
            Mix::Put => Request::Put(self.put(key)),
            Mix::RangeLin => Request::Range(get(key, false)),
            Mix::RangeSer => Request::Range(get(key, true)),
            Mix::Txn => Request::Txn(self.compare_and_put(key)),
            Mix::Mixed50 if number & 1 == 0 => Request::Put(self.put(key)),
            Mix::Mixed50 => Request::Range(get(key, false)),
        }
    }

    /// A put of this key with some value.
    pub(super) fn put(&mut self, key: Bytes) -> pb::PutRequest {
        let at = (split_mix(&mut self.state) as usize) % (NOISE_BYTES - VALUE_BYTES);
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

fn get(key: Bytes, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key, serializable, ..Default::default() }
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
        for name in ["put-1x1", "put-100x10", "range-lin-10x10", "range-ser-4x2", "txn-10x10", "mixed50-10x10"] {
            assert_eq!(name.parse::<Workload>().expect("a workload").to_string(), name);
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
}
