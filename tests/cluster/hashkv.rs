//! Two servers that were given the same operations have the same history: `endpoint hashkv` says so at every hundredth revision.
//!
//! The hash covers every stored byte of every version that is left: keys, values, revisions, versions, leases, tombstones, and what a
//! compaction kept. `recorded/hashkv.txt` holds the answers of etcd 3.5.1, so that the test bites without it. `RECORD=1` with `ETCD_351`
//! writes it anew.

use crate::client::Client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::seeded::Seeded;
use etcd_lab::proto::etcdserverpb as pb;
use pb::compare::CompareResult;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

const OPERATIONS: usize = 1_000;
const SEED: u64 = 1_000;
const HASH_EVERY: i64 = 100;
const LEASES: [i64; 3] = [1, 77, i64::MAX];
const LEASE_TTL: i64 = 9_000_000;
const RECORDED: &str = include_str!("recorded/hashkv.txt");

/// One operation.
#[derive(Clone, Debug)]
enum Operation {
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    /// Compact at this many revisions below the newest.
    Compact(i64),
}

/// Operations out of the seed. Some do nothing (a delete of no key), some are refused (a second compaction at one place): all that is history too.
struct Operations(Seeded);

impl Operations {
    fn next(&mut self) -> Operation {
        match self.0.below(100) {
            0..55 => Operation::Put(self.put()),
            55..70 => Operation::Delete(self.delete_one()),
            70..76 => Operation::Delete(self.delete_range()),
            76..98 => Operation::Txn(self.txn()),
            _ => Operation::Compact(self.0.below(60) as i64),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let mut key = format!("k{:02}", self.0.below(60)).into_bytes();
        // Keys are bytes: some have a zero, a 255 or nothing printable in them.
        match self.0.below(10) {
            0 => key.push(0),
            1 => key.insert(1, 0xff),
            _ => {}
        }
        key
    }

    fn put(&mut self) -> pb::PutRequest {
        let length = *self.0.pick(&[0, 1, 7, 100, 3_000]);
        let value: Vec<u8> = (0..length).map(|_| self.0.next() as u8).collect();
        let lease = if self.0.below(10) == 0 { *self.0.pick(&LEASES) } else { 0 };
        pb::PutRequest { key: self.key().into(), value: value.into(), lease, ..Default::default() }
    }

    fn delete_one(&mut self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest { key: self.key().into(), ..Default::default() }
    }

    fn delete_range(&mut self) -> pb::DeleteRangeRequest {
        let (mut from, mut to) = (self.key(), self.key());
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        // A short range mostly, so that keys are left.
        to.truncate(2);
        pb::DeleteRangeRequest { key: from.into(), range_end: to.into(), ..Default::default() }
    }

    /// If-then-else over two keys; a key is written once at most, or etcd refuses it.
    fn txn(&mut self) -> pb::TxnRequest {
        let [a, b] = ["t1", "t2"].map(|prefix| format!("{prefix}{}", self.0.below(8)));
        let compare = pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: a.clone().into(),
            target_union: Some(TargetUnion::Version(self.0.below(3) as i64)),
            ..Default::default()
        };
        let put = |key: &str, value: u64| {
            let put =
                pb::PutRequest { key: key.to_owned().into(), value: value.to_string().into(), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let delete = |key: &str| {
            let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
        };
        let (x, y) = (self.0.next(), self.0.next());
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![put(&b, x), delete(&a)],
            failure: vec![put(&a, y), put(&b, x), put("t3", y)],
        }
    }
}

/// Gives the server all operations; returns revision, compaction and hash, a line for each revision asked.
pub(crate) async fn hashes(client: &Client) -> String {
    let mut text = String::new();
    let mut operations = Operations(Seeded::new(SEED));
    let (mut revision, mut compacted) = (1, -1);
    for id in LEASES {
        let grant = pb::LeaseGrantRequest { id, ttl: LEASE_TTL };
        client.lease(0).lease_grant(grant).await.expect("a lease");
    }
    for number in 0..OPERATIONS {
        let operation = operations.next();
        let before = revision;
        revision = apply(client, operation.clone(), before, &mut compacted)
            .await
            .unwrap_or_else(|refusal| panic!("operation {number}, {operation:?}: {refusal}"));
        if revision / HASH_EVERY > before / HASH_EVERY {
            hash_at(client, revision / HASH_EVERY * HASH_EVERY, &mut text).await;
        }
    }
    hash_at(client, revision, &mut text).await;
    text
}

/// Returns the revision after the operation.
async fn apply(client: &Client, operation: Operation, now: i64, compacted: &mut i64) -> Result<i64, tonic::Status> {
    let mut kv = client.kv(0);
    let header = match operation {
        Operation::Put(put) => kv.put(put).await?.into_inner().header,
        Operation::Delete(delete) => kv.delete_range(delete).await?.into_inner().header,
        Operation::Txn(txn) => kv.txn(txn).await?.into_inner().header,
        Operation::Compact(below) => {
            let revision = now - below;
            // Hundredths below it could no longer be asked; that one at it can is not so in every release.
            if revision <= *compacted || revision / HASH_EVERY != now / HASH_EVERY || revision % HASH_EVERY == 0 {
                return Ok(now);
            }
            *compacted = revision;
            kv.compact(pb::CompactionRequest { revision, physical: true }).await?.into_inner().header
        }
    };
    Ok(header.map_or(0, |header| header.revision))
}

async fn hash_at(client: &Client, revision: i64, text: &mut String) {
    let answer = client.hash_kv(0, revision).await.unwrap_or_else(|refusal| panic!("at {revision}: {refusal}"));
    writeln!(text, "{revision} {} {}", answer.compact_revision, answer.hash).expect("a String takes all");
}

#[test]
fn a_thousand_operations_hash_as_etcd_recorded_them() {
    turn(Duration::from_secs(120), async {
        let ours = Cluster::start_with(&etcd_bin(), 1, &[]).await;
        let hashes = hashes(&ours.client).await;
        assert!(hashes.lines().count() > 8, "enough revisions were asked: {hashes}");
        assert_eq!(hashes, RECORDED);
    });
}

#[test]
fn etcd_351_still_gives_the_recorded_hashes() {
    let Some(etcd) = foreign::etcd_351("hashkv against etcd 3.5.1") else { return };
    turn(Duration::from_secs(120), async {
        let theirs = Cluster::start_with(&etcd, 1, &[]).await;
        let text = hashes(&theirs.client).await;
        if std::env::var_os("RECORD").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/recorded/hashkv.txt");
            std::fs::write(path, &text).expect("the recorded file can be written");
        } else {
            assert_eq!(text, RECORDED);
        }
    });
}

#[test]
fn three_members_hash_alike_after_a_thousand_operations() {
    turn(Duration::from_secs(120), async {
        let ours = Cluster::start(3).await;
        assert_eq!(hashes(&ours.client).await, RECORDED);
        ours.assert_equal_hashes().await;
    });
}
