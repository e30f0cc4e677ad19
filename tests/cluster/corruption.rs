//! Members whose data differs: found by comparing hashes at start, at intervals, and of compactions.

use crate::client::Client;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::engine::Batch;
use etcd_lab::engine::Engine as _;
use etcd_lab::engine::Table;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::store::CACHE_BYTES;
use etcd_lab::store::Store;
use pb::alarm_request::AlarmAction;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// Changes a value in the store of a member that does not run, as no checksum of a disk could notice.
fn forge(data_dir: &Path, old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let store = Store::open(&data_dir.join("member/store"), CACHE_BYTES).expect("a store");
    let (mut forged, mut batch) = (0, Batch::default());
    for (key, block) in store.scan(Table::Key, &[], 1000).expect("its rows") {
        let mut block = block.to_vec();
        while let Some(at) = block.windows(old.len()).position(|part| part == old) {
            block[at..at + old.len()].copy_from_slice(new);
            forged += 1;
        }
        batch.put(Table::Key, key, block);
    }
    assert_eq!(forged, 1, "the store holds the value once");
    store.write(&batch).expect("written");
    store.sync().expect("synced");
}

/// Three members that agree on `honest=truth` but for the last one, whose store says otherwise. The last one does not run.
async fn divided(more: &[&str]) -> Cluster {
    let mut cluster = Cluster::start_with(&etcd_bin(), 3, more).await;
    cluster.client.put(0, "honest", "truth").await.expect("a put");
    cluster.assert_equal_hashes().await;
    let _ended = cluster.terminate(2).await;
    forge(&cluster.spec(2).data_dir, b"truth", b"trash");
    cluster
}

async fn member_id(client: &Client, member: usize) -> u64 {
    client.status(member).await.expect("a status").header.expect("a header").member_id
}

/// Waits for CORRUPT alarms; the members that they name.
async fn accused(client: &Client) -> Vec<u64> {
    let list = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    until(READY_WITHIN, "an alarm", async || {
        let alarms = client.maintenance(0).alarm(list).await.map_err(|e| e.to_string())?.into_inner().alarms;
        let corrupt = alarms.iter().filter(|alarm| alarm.alarm == pb::AlarmType::Corrupt as i32);
        let accused: Vec<u64> = corrupt.map(|alarm| alarm.member_id).collect();
        if accused.is_empty() { Err("none".to_owned()) } else { Ok(accused) }
    })
    .await
}

/// Nobody changes keys any more; reads are still answered.
async fn assert_stopped(client: &Client) {
    for member in 0..3 {
        let refusal = client.put(member, "after", "it").await.expect_err("the cluster is corrupt");
        assert_eq!((refusal.code(), refusal.message()), (Code::DataLoss, "etcdserver: corrupt cluster"));
        client.get(member, "honest").await.expect("reads go on");
    }
}

#[test]
fn a_member_with_other_data_does_not_start_if_it_asks_first() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(90), async {
        let mut cluster = divided(&["--experimental-initial-corrupt-check"]).await;
        cluster.launch(2);
        let ended = cluster.process(2).ended(ENDS_WITHIN).await;
        assert_eq!(ended.code(), Some(1));
        let log = cluster.process(2).log();
        assert!(log.contains("starting initial corruption check"), "{log}");
        assert!(log.contains("found different hash values from remote peer"), "{log}");
        assert!(log.contains("found data inconsistency with peers"), "{log}");
        // One that agrees starts.
        let _ended = cluster.terminate(1).await;
        cluster.launch(1);
        let passed = async || {
            let log = cluster.process(1).log();
            log.contains("initial corruption checking passed; no corruption").then_some(()).ok_or("not yet")
        };
        until(READY_WITHIN, "a member that agrees passes", passed).await;
        cluster.ready(1).await;
    });
}

#[test]
fn a_leader_that_looks_finds_the_member_with_other_data() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(90), async {
        let mut cluster = divided(&["--corrupt-check-time=200ms"]).await;
        cluster.restart(2).await;
        let accused = accused(&cluster.client).await;
        // Whoever leads takes itself for right: two hashes alone do not tell whose is the true one.
        assert_eq!(accused.len(), 1, "{accused:?}");
        let forged = member_id(&cluster.client, 2).await;
        let leader = cluster.client.status(0).await.expect("a status").leader;
        assert!(accused[0] == forged || leader == forged, "{accused:x?}, forged is {forged:x}, leader {leader:x}");
        assert_stopped(&cluster.client).await;
    });
}

#[test]
fn members_that_agree_raise_no_alarm_while_they_are_looked_at() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(90), async {
        let more = [
            "--corrupt-check-time=50ms",
            "--feature-gates=CompactHashCheck=true",
            "--compact-hash-check-time=50ms",
            "--experimental-initial-corrupt-check",
        ];
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &more).await;
        for round in 0..10 {
            for number in 0..30 {
                cluster
                    .client
                    .put(number % 3, &format!("key{}", number % 7), &format!("{round}"))
                    .await
                    .expect("a put");
            }
            let revision = cluster.client.revision().await.expect("a read") - 5;
            let compact = pb::CompactionRequest { revision, physical: false };
            cluster.client.kv(0).compact(compact).await.expect("a compaction");
            if round == 5 {
                cluster.kill(1);
                cluster.restart(1).await;
            }
        }
        let leader = cluster.leader().await;
        for line in ["finished peer corruption check", "successfully checked hash on whole cluster"] {
            let told = async || cluster.process(leader).log().contains(line).then_some(()).ok_or("not yet");
            until(READY_WITHIN, line, told).await;
        }
        let list = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        let alarms = cluster.client.maintenance(0).alarm(list).await.expect("a list").into_inner().alarms;
        assert_eq!(alarms, [], "nobody is corrupt");
        cluster.client.put(0, "after", "it").await.expect("a put");
    });
}

#[test]
fn what_a_compaction_settled_tells_the_minority() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(90), async {
        let more = ["--experimental-compact-hash-check-enabled", "--compact-hash-check-time=200ms"];
        let mut cluster = divided(&more).await;
        cluster.restart(2).await;
        let revision = cluster.client.revision().await.expect("a read");
        let compact = pb::CompactionRequest { revision, physical: true };
        cluster.client.kv(0).compact(compact).await.expect("a compaction");
        assert_eq!(accused(&cluster.client).await, [member_id(&cluster.client, 2).await]);
        assert_stopped(&cluster.client).await;
        let leader = cluster.leader().await;
        assert!(cluster.process(leader).log().contains("Detected compaction hash mismatch"));
    });
}
