//! What a member may take: memory for the log of followers that lag, memory for what it caches, disk for what was deleted. And that a follower which
//! stands still costs the others no time.

use crate::catchup::fill;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::etcdserverpb as pb;
use std::path::Path;
use std::time::Duration;

const MB: u64 = 1 << 20;
const SMALL_CACHE: &str = "--experimental-lab-cache-bytes=2097152";
const LARGE_CACHE: &str = "--experimental-lab-cache-bytes=134217728";

/// The resident memory of a member, in bytes.
fn resident(cluster: &mut Cluster, member: usize) -> u64 {
    cluster.process(member).memory_kib("VmRSS") << 10
}

#[test]
fn a_follower_that_stands_still_holds_up_nobody() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        cluster.pause(follower);
        // What is on its way to it fills the sockets between, and more than a queue: the others go on all the same.
        fill(&cluster.client, leader, "bulk/", 400, &"b".repeat(48 << 10)).await;
        fill(&cluster.client, leader, "small/", 1000, "x").await;
        cluster.resume(follower);
        cluster.assert_equal_hashes().await;
    });
}

/// Half a gigabyte through three logs, so by hand and in `.ci/long`: `cargo test --test cluster bounds:: -- --ignored --nocapture`.
///
/// In memory there are the log's newest 64 MiB, what comes until it is released again (64), what the store has still to write (64), and what sled takes for
/// writing that (a debug build holds about 450 MB in all); after that nothing is added, whatever a follower has missed.
#[test]
#[ignore = "writes gigabytes"]
fn the_log_kept_for_a_follower_that_stands_still_is_bounded() {
    const VALUE: usize = 48 << 10;
    const ROUND: usize = 500;
    const THIRD: usize = 8;
    const PUT_IN_A_THIRD: u64 = (VALUE * ROUND * THIRD) as u64;
    turn(Duration::from_secs(600), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &[SMALL_CACHE]).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let begun = resident(&mut cluster, leader);
        cluster.pause(follower);
        let mut most = [0; 3];
        for third in &mut most {
            for _ in 0..THIRD {
                fill(&cluster.client, leader, "bulk/", ROUND, &"b".repeat(VALUE)).await;
                *third = resident(&mut cluster, leader).max(*third);
            }
        }
        let shown = most.map(|bytes| bytes / MB);
        eprintln!(
            "{} MB before, at most {shown:?} MB while three times {} MB were put",
            begun / MB,
            PUT_IN_A_THIRD / MB
        );
        let grown = most[2].saturating_sub(most[1]);
        assert!(grown < PUT_IN_A_THIRD / 3, "a log without a bound grows by all that is put: {shown:?}");
        cluster.resume(follower);
        cluster.assert_equal_hashes().await;
    });
}

/// A member with 32 MB of history that was read once since it was started.
async fn read_all(cache: &str) -> u64 {
    const KEYS: usize = 500;
    let mut cluster = Cluster::start_with(&etcd_bin(), 1, &[cache]).await;
    fill(&cluster.client, 0, "k/", KEYS, &"v".repeat(64 << 10)).await;
    cluster.terminate(0).await;
    cluster.restart(0).await;
    for number in 0..KEYS {
        let found = cluster.client.get(0, &format!("k/{number:05}")).await.expect("a read");
        assert_eq!(found.map(|value| value.len()), Some(64 << 10));
    }
    resident(&mut cluster, 0)
}

#[test]
fn the_flag_for_the_cache_bounds_what_reads_leave_in_memory() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(180), async {
        let (small, large) = (read_all(SMALL_CACHE).await, read_all(LARGE_CACHE).await);
        eprintln!("with 2 MiB {} MB, with 128 MiB {} MB", small / MB, large / MB);
        // All 32 MB fit into either half of the large one. What else a member holds, its log above all, is the same in both.
        assert!(large > small + 24 * MB, "{} MB and {} MB", small / MB, large / MB);
    });
}

/// A third of a gigabyte into one store, in rows that are large for sled: what a member keeps in memory for that has a bound.
#[test]
#[ignore = "writes gigabytes"]
fn who_stores_more_holds_no_more_in_memory() {
    const PUT_IN_A_THIRD: u64 = 1000 * 100_000;
    turn(Duration::from_secs(600), async {
        // A log that is short, so that only the store can grow.
        let flags = [SMALL_CACHE, "--snapshot-count=50", "--snapshot-catchup-entries=10"];
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &flags).await;
        let mut held = [0; 3];
        for (third, held) in held.iter_mut().enumerate() {
            fill(&cluster.client, 0, &format!("{third}/"), 1000, &"v".repeat(100_000)).await;
            *held = cluster.process(0).memory_kib("RssAnon") << 10;
        }
        eprintln!("{:?} MB of its own after each {} MB", held.map(|bytes| bytes / MB), PUT_IN_A_THIRD / MB);
        assert!(held[2] < held[1] + PUT_IN_A_THIRD / 3, "{held:?}");
    });
}

/// What a class of thirty with three members each pays before anybody has typed a key.
#[test]
fn a_member_that_idles_is_small() {
    if !is_ours() {
        return;
    }
    turn(READY_WITHIN, async {
        let mut cluster = Cluster::start(3).await;
        for member in 0..3 {
            let anonymous = cluster.process(member).memory_kib("RssAnon") << 10;
            eprintln!("member {member} has {} MB of its own", anonymous / MB);
            assert!(anonymous < 24 * MB, "{} MB", anonymous / MB);
        }
    });
}

/// What the files below a folder take on the disk.
fn on_disk(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // A file may go while it is looked at.
        let Ok(found) = entry.metadata() else { continue };
        bytes += if found.is_dir() { on_disk(&entry.path()) } else { found.len() };
    }
    bytes
}

#[test]
fn space_comes_back_on_the_disk_after_compaction_and_defragmentation() {
    turn(Duration::from_secs(180), async {
        let cluster = Cluster::start(1).await;
        let member = cluster.spec(0).data_dir.join("member");
        let stored = || on_disk(&member) - on_disk(&member.join("wal"));
        let empty = stored();
        fill(&cluster.client, 0, "k/", 400, &"v".repeat(64 << 10)).await;
        let filled = until(READY_WITHIN, "all is in the store", async || {
            let bytes = stored();
            if bytes > 24 * MB { Ok(bytes) } else { Err(format!("{} MB", bytes / MB)) }
        })
        .await;
        let all = pb::DeleteRangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() };
        let deleted = cluster.client.kv(0).delete_range(all).await.expect("deleted").into_inner();
        let revision = deleted.header.expect("a header").revision;
        let compaction = pb::CompactionRequest { revision, physical: true };
        cluster.client.kv(0).compact(compaction).await.expect("compacted");
        cluster.client.maintenance(0).defragment(pb::DefragmentRequest {}).await.expect("defragmented");
        // The old store goes when its last reader has let go.
        let left = until(READY_WITHIN, "the space is free", async || {
            let bytes = stored();
            if bytes < empty + 12 * MB { Ok(bytes) } else { Err(format!("{} MB", bytes / MB)) }
        })
        .await;
        let status = cluster.client.status(0).await.expect("a status");
        eprintln!("{} MB, filled {} MB, left {} MB; db size {}", empty / MB, filled / MB, left / MB, status.db_size);
        assert!(status.db_size < 1 << 20, "{}", status.db_size);
    });
}
