//! Members that are too far behind for the log, or that have lost their state: they come back by a snapshot, whole, whatever happens meanwhile.
//!
//! The log is released after every 50 entries and keeps 10 behind that, so who misses a hundred needs a snapshot.

use crate::chaos::set_links;
use crate::chaos::with_doors;
use crate::checker::Watching;
use crate::checker::watch;
use crate::client::Client;
use crate::client::put;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use crate::writers::Writers;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::lab;
use futures::StreamExt as _;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub(crate) const SMALL: [&str; 6] =
    ["--snapshot-count", "50", "--snapshot-catchup-entries", "10", "--experimental-lab-wal-segment-bytes", "1048576"];
/// More than the log keeps.
const MISSED: usize = 300;
/// What a leader says when it keeps no more of its log for a member than for others.
const CAUGHT_UP: &str = "the member has caught up";
/// How many requests are on their way at once.
const AT_ONCE: usize = 32;

/// Puts so many keys, all to one member.
pub(crate) async fn fill(client: &Client, member: usize, prefix: &str, count: usize, value: &str) {
    let puts = futures::stream::iter(0..count).map(|n| {
        let key = format!("{prefix}{n:05}");
        async move { client.put(member, &key, value).await }
    });
    let refused: Vec<_> =
        puts.buffer_unordered(AT_ONCE).filter_map(|answer| async move { answer.err() }).collect().await;
    assert!(refused.is_empty(), "{} of {count} puts were refused: {}", refused.len(), refused[0]);
}

/// How often a line of a member's log says this.
pub(crate) fn said(cluster: &mut Cluster, member: usize, words: &str) -> usize {
    cluster.process(member).log().matches(words).count()
}

/// Waits until a member's log says this so often.
pub(crate) async fn says(cluster: &mut Cluster, member: usize, words: &str, times: usize) {
    until(READY_WITHIN, words, async || {
        let found = said(cluster, member, words);
        if found >= times { Ok(()) } else { Err(format!("member {member} said so {found} times of {times}")) }
    })
    .await;
}

/// A member that does not lead.
pub(crate) async fn a_follower(cluster: &Cluster) -> usize {
    (cluster.leader().await + 1) % cluster.len()
}

fn member_dir(spec: &Spec) -> PathBuf {
    spec.data_dir.join("member")
}

/// The folder of a member's store.
fn store_of(spec: &Spec) -> PathBuf {
    let names = std::fs::read_dir(member_dir(spec)).expect("a member's folder");
    let stores = names.map(|name| name.expect("a name").path());
    let mut stores: Vec<PathBuf> = stores.filter(|path| path.join("db").is_file()).collect();
    assert_eq!(stores.len(), 1, "one store: {stores:?}");
    stores.remove(0)
}

fn count_files(dir: &Path, suffix: &str) -> usize {
    let names = std::fs::read_dir(dir).expect("a folder");
    names.filter(|name| name.as_ref().expect("a name").file_name().to_string_lossy().ends_with(suffix)).count()
}

#[test]
fn a_follower_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &SMALL).await;
        let follower = a_follower(&cluster).await;
        for round in 1..=2 {
            cluster.kill(follower);
            let leader = cluster.leader().await;
            fill(&cluster.client, leader, &format!("r{round}/"), MISSED, "value").await;
            let grant = pb::LeaseGrantRequest { id: 70 + round, ttl: 9000 };
            cluster.client.lease(leader).lease_grant(grant).await.expect("a lease");
            let leased = pb::PutRequest { lease: 70 + round, ..put(&format!("leased{round}"), "x") };
            cluster.client.kv(leader).put(leased).await.expect("a put");
            let user = pb::AuthUserAddRequest {
                name: format!("user{round}"),
                password: "secret".into(),
                options: None,
                ..Default::default()
            };
            cluster.client.auth(leader).user_add(user).await.expect("a user");
            let revision = cluster.client.revision().await.expect("a revision");
            let compaction = pb::CompactionRequest { revision: revision - 100, physical: true };
            cluster.client.kv(leader).compact(compaction).await.expect("compacted");
            fill(&cluster.client, leader, &format!("s{round}/"), 20, "value").await;
            cluster.restart(follower).await;
            cluster.assert_equal_hashes().await;
            says(&mut cluster, follower, "applied snapshot", usize::try_from(round).expect("small")).await;
            assert!(said(&mut cluster, leader, "sent database snapshot") > 0);
            says(&mut cluster, leader, CAUGHT_UP, usize::try_from(round).expect("small")).await;
            let leases = cluster.client.lease(follower).lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases");
            assert_eq!(leases.into_inner().leases.len(), usize::try_from(round).expect("small"));
            let ask = pb::LeaseTimeToLiveRequest { id: 70 + round, keys: true };
            let lease = cluster.client.lease(follower).lease_time_to_live(ask).await.expect("a lease").into_inner();
            assert_eq!(lease.keys, [format!("leased{round}").as_str()]);
            let users = cluster.client.auth(follower).user_list(pb::AuthUserListRequest {}).await.expect("users");
            assert!(users.into_inner().users.contains(&format!("user{round}")));
            let members = cluster.client.members(follower, false).await.expect("members").members;
            assert!(members.len() == 3 && members.iter().all(|member| !member.name.is_empty()), "{members:?}");
        }
        // It takes part: its vote counts, and it can lead.
        let leader = cluster.leader().await;
        let to = cluster.ready(follower).await.header.expect("a header").member_id;
        let transfer = pb::MoveLeaderRequest { target_id: to };
        cluster.client.maintenance(leader).move_leader(transfer).await.expect("it can lead");
        fill(&cluster.client, follower, "led/", 100, "value").await;
        cluster.assert_equal_hashes().await;
        // A restart of all finds the same.
        cluster.restart_all().await;
        cluster.assert_equal_hashes().await;
        let spec = cluster.spec(follower).clone();
        assert_eq!(count_files(&member_dir(&spec).join("snap"), ".snap.db"), 0, "images do not stay");
        store_of(&spec);
    });
}

/// Cuts a follower off from all others, or lets it hear them again. Its clients stay.
pub(crate) async fn set_apart(cluster: &Cluster, doors: &[String], follower: usize, apart: bool) {
    let mut rules = Vec::new();
    for other in (0..cluster.len()).filter(|other| *other != follower) {
        let status = cluster.client.status(other).await.expect("a status");
        let peer = status.header.expect("a header").member_id;
        rules.push(lab::SetLink { peer, cut_in: apart, cut_out: apart, ..Default::default() });
    }
    set_links(&doors[follower], rules.into_iter()).await;
}

/// The newest point up to which a member has noted that its log may go; etcd's names are term and index.
fn newest_note(spec: &Spec) -> u64 {
    let names = std::fs::read_dir(member_dir(spec).join("snap")).into_iter().flatten();
    let names = names.map(|name| name.expect("a name").file_name().to_string_lossy().into_owned());
    let index = |name: String| u64::from_str_radix(name.strip_suffix(".snap")?.split_once('-')?.1, 16).ok();
    names.filter_map(index).max().unwrap_or(0)
}

/// Has a follower miss more than the log keeps.
pub(crate) async fn misses(cluster: &Cluster, doors: &[String], leader: usize, follower: usize) {
    set_apart(cluster, doors, follower, true).await;
    let has = cluster.client.status(follower).await.expect("a status").raft_applied_index;
    fill(&cluster.client, leader, "w/", MISSED, "value").await;
    // Released behind everybody's back, each time after the note; so at the fourth note the first three are done with.
    until(READY_WITHIN, "the log is released", async || {
        let noted = newest_note(cluster.spec(leader));
        if noted >= has + 200 { Ok(()) } else { Err(format!("up to {noted}, the follower has {has}")) }
    })
    .await;
}

#[test]
fn watches_on_a_follower_that_was_cut_off_go_on_behind_the_snapshot_or_hear_of_the_compaction() {
    turn(Duration::from_secs(180), async {
        let (mut cluster, doors) = with_doors(3, &SMALL).await;
        let leader = cluster.leader().await;
        let follower = a_follower(&cluster).await;
        fill(&cluster.client, leader, "w/", 30, "before").await;
        let from = cluster.client.revision().await.expect("a revision") + 1;
        until(READY_WITHIN, "the follower has all", async || {
            cluster.client.hash_kv(follower, from - 1).await.map(drop)
        })
        .await;
        let mut living = Watching::open(&cluster.client, follower);
        let id = living.created(watch("w/", from)).await.watch_id;
        let mut far_ahead = Watching::open(&cluster.client, follower);
        let ahead_from = from + 20 * MISSED as i64;
        far_ahead.created(watch("w/", ahead_from)).await;
        for round in 0..2 {
            misses(&cluster, &doors, leader, follower).await;
            set_apart(&cluster, &doors, follower, false).await;
            says(&mut cluster, follower, "applied snapshot", round + 1).await;
            says(&mut cluster, leader, CAUGHT_UP, round + 1).await;
            let revision = cluster.client.revision().await.expect("a revision");
            living.until_told(id, revision).await;
            let told = living.checker.watches[&id].events.len() as i64;
            assert_eq!(told, revision - from + 1, "round {round}: each once, none left out");
        }
        let revision = cluster.client.revision().await.expect("a revision");
        living.assert_told_all(&cluster.client, leader, from, revision).await;
        // Compacted while it heard nothing: what it has not been told is gone, and it hears that.
        misses(&cluster, &doors, leader, follower).await;
        let revision = cluster.client.revision().await.expect("a revision");
        let compaction = pb::CompactionRequest { revision, physical: false };
        cluster.client.kv(leader).compact(compaction).await.expect("compacted");
        set_apart(&cluster, &doors, follower, false).await;
        let cancelled = living.until(|response| response.canceled).await;
        assert_eq!(cancelled.compact_revision, revision);
        says(&mut cluster, follower, "applied snapshot", 3).await;
        assert!(far_ahead.checker.watches.values().all(|watched| watched.events.is_empty() && !watched.is_cancelled));
        // At the compacted revision itself the others tell the hash that the compaction settled, which this one has not seen; as in etcd.
        cluster.client.put(leader, "later", "x").await.expect("a put");
        cluster.assert_equal_hashes().await;
    });
}

/// Turns bits in the midst of a file.
fn flip(path: &Path) {
    let mut file = std::fs::File::options().read(true).write(true).open(path).expect("a file");
    let len = file.metadata().expect("a length").len();
    let mut at = 0;
    // One byte in each 4 KiB: whatever is read, some of it is wrong.
    while at < len {
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).expect("a place");
        if file.read(&mut byte).expect("a byte") == 1 && byte[0] != 0 {
            file.seek(SeekFrom::Start(at)).expect("a place");
            file.write_all(&[byte[0] ^ 0x55]).expect("written");
        }
        at += 4096;
    }
}

#[test]
fn a_store_that_was_deleted_cut_or_changed_comes_back_from_another_member() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &SMALL).await;
        let follower = a_follower(&cluster).await;
        let leader = cluster.leader().await;
        // The log is cut into segments, and the first ones go: it alone does not lead to the state any more.
        fill(&cluster.client, leader, "k/", 2 * MISSED, &"b".repeat(10_000)).await;
        let first = member_dir(cluster.spec(follower)).join("wal/0000000000000000-0000000000000000.wal");
        until(
            READY_WITHIN,
            "the first segment is released",
            async || {
                if first.exists() { Err("it is there") } else { Ok(()) }
            },
        )
        .await;
        let grant = pb::LeaseGrantRequest { id: 77, ttl: 9000 };
        cluster.client.lease(leader).lease_grant(grant).await.expect("a lease");
        type Harm = fn(&Path);
        let harms: [(&str, Harm); 3] = [
            ("deleted", |store| std::fs::remove_dir_all(store).expect("removed")),
            ("cut", |store| {
                let file = std::fs::File::options().write(true).open(store.join("db")).expect("the store's file");
                file.set_len(file.metadata().expect("a length").len() / 2).expect("cut");
            }),
            ("changed", |store| flip(&store.join("db"))),
        ];
        for (harm, damage) in harms {
            let says_before = said(&mut cluster, follower, "asking the other members for the state");
            cluster.terminate(follower).await;
            damage(&store_of(cluster.spec(follower)));
            let leader = cluster.leader().await;
            fill(&cluster.client, leader, &format!("{harm}/"), 5, "written meanwhile").await;
            cluster.restart(follower).await;
            cluster.assert_equal_hashes().await;
            let leases = cluster.client.lease(follower).lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases");
            assert_eq!(leases.into_inner().leases.len(), 1, "{harm}");
            // sled may find an earlier state in what is left, which the log leads on from; nothing at all it cannot find.
            let asked = said(&mut cluster, follower, "asking the other members for the state") - says_before;
            assert!(asked == 1 || harm == "cut", "{harm}: it asks, and says so");
            eprintln!("{harm}: asked {asked} times");
        }
        // Far behind the others when it asks: what it gets is ahead of its log.
        cluster.terminate(follower).await;
        std::fs::remove_dir_all(store_of(cluster.spec(follower))).expect("removed");
        let leader = cluster.leader().await;
        fill(&cluster.client, leader, "far/", MISSED, "value").await;
        cluster.restart(follower).await;
        cluster.assert_equal_hashes().await;
        cluster.kill(follower);
        cluster.restart(follower).await;
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn a_member_that_comes_back_with_an_old_copy_of_itself_stops_and_says_why() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &[]).await;
        let follower = a_follower(&cluster).await;
        let leader = cluster.leader().await;
        fill(&cluster.client, leader, "a/", 20, "x").await;
        cluster.assert_equal_hashes().await;
        cluster.terminate(follower).await;
        let (data, copy) = (cluster.spec(follower).data_dir.clone(), cluster.dir().join("copy"));
        let copied = Command::new("cp").arg("-a").args([&data, &copy]).status().expect("cp");
        assert!(copied.success());
        cluster.restart(follower).await;
        fill(&cluster.client, leader, "b/", MISSED, "x").await;
        cluster.assert_equal_hashes().await;
        cluster.kill(follower);
        std::fs::remove_dir_all(&data).expect("removed");
        std::fs::rename(&copy, &data).expect("the old one in its place");
        cluster.launch(follower);
        assert_eq!(cluster.process(follower).ended(READY_WITHIN).await.code(), Some(1));
        assert!(said(&mut cluster, follower, "Was the raft log corrupted, truncated, or lost?") > 0);
    });
}

/// What a log has of records: the offset behind the last byte that is not zero.
fn used(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).expect("a segment");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

#[test]
fn a_log_that_lost_its_end_is_no_reason_to_give_up_a_store_that_has_it() {
    const TEST: &str = "a_log_that_lost_its_end_is_no_reason_to_give_up_a_store_that_has_it";
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &[]).await;
        fill(&cluster.client, 0, "k/", MISSED, "acknowledged").await;
        // Writes the store anew, from all that is applied.
        cluster.client.maintenance(0).defragment(pb::DefragmentRequest {}).await.expect("a defragmentation");
        let revision = cluster.client.revision().await.expect("a revision");
        cluster.terminate(0).await;
        let segment = member_dir(cluster.spec(0)).join("wal/0000000000000000-0000000000000000.wal");
        let file = std::fs::File::options().write(true).open(&segment).expect("the newest segment");
        file.set_len(used(&segment) / 2).expect("cut");
        // Twice: what the first start makes of the log does not hide it from the second.
        for _ in 0..2 {
            cluster.launch(0);
            assert_eq!(cluster.process(0).ended(READY_WITHIN).await.code(), Some(1));
            let told = cluster.process(0).log();
            for words in ["the log ends at entry", "the store holds entry", "--force-new-cluster"] {
                assert!(told.contains(words), "{words}: {told}");
            }
            cluster.kill(0);
        }
        cluster.spec_mut(0).more = vec!["--force-new-cluster".to_owned()];
        cluster.restart(0).await;
        assert_eq!(cluster.client.revision().await.expect("a revision"), revision, "all that the store had");
        cluster.client.put(0, "after", "x").await.expect("a put");
        cluster.kill(0);
        if let Some(etcdutl) = foreign::beside_351(TEST, "etcdutl") {
            assert_backup(&etcdutl, cluster.spec(0), cluster.dir(), "forced over a lost end");
        }
        cluster.spec_mut(0).more.clear();
        cluster.restart(0).await;
        assert_eq!(cluster.client.get(0, "after").await.expect("an answer").as_deref(), Some("x"));
        assert_eq!(cluster.client.get(0, "k/00299").await.expect("an answer").as_deref(), Some("acknowledged"));
    });
}

#[test]
fn the_log_stays_small_under_writers_that_never_stop_and_nothing_is_lost() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &SMALL).await;
        let leader = cluster.leader().await;
        // About 40 segments of a megabyte.
        fill(&cluster.client, leader, "bulk/", 2000, &"b".repeat(20_000)).await;
        let writers = Writers::start(&cluster.client, "w/", 4);
        writers.acknowledged(200, READY_WITHIN).await;
        for member in 0..3 {
            let wal = member_dir(cluster.spec(member)).join("wal");
            until(READY_WITHIN, "segments are given back", async || {
                let segments = count_files(&wal, ".wal");
                if segments <= 8 { Ok(()) } else { Err(format!("member {member} has {segments}")) }
            })
            .await;
        }
        writers.stop_and_check(&cluster.client).await;
        cluster.assert_equal_hashes().await;
        cluster.restart_all().await;
        cluster.assert_equal_hashes().await;
    });
}

/// etcd's own reader of logs goes through a member's: `etcdutl backup` copies it, record by record, from the newest snapshot file on.
fn assert_backup(etcdutl: &Path, spec: &Spec, scratch: &Path, what: &str) {
    let to = scratch.join(format!("backup-{}", what.replace(' ', "-")));
    let output = Command::new(etcdutl)
        .args(["backup", "--with-v3=false", "--data-dir"])
        .arg(&spec.data_dir)
        .arg("--backup-dir")
        .arg(&to)
        .env_remove("ETCD_351")
        .output()
        .expect("etcdutl runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {told}");
    assert!(!told.contains("failed to find the match snapshot record"), "{what}: {told}");
    assert!(to.join("member/wal").is_dir(), "{what}: it wrote a log");
}

#[test]
fn etcds_own_reader_opens_the_log_in_all_its_states() {
    const TEST: &str = "etcds_own_reader_opens_the_log_in_all_its_states";
    let Some(etcdutl) = foreign::beside_351(TEST, "etcdutl") else { return };
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &SMALL).await;
        let follower = a_follower(&cluster).await;
        let (spec, scratch) = (cluster.spec(follower).clone(), cluster.dir().to_owned());
        cluster.terminate(follower).await;
        assert_backup(&etcdutl, &spec, &scratch, "fresh");
        cluster.restart(follower).await;
        let leader = cluster.leader().await;
        fill(&cluster.client, leader, "a/", 45, &"b".repeat(30_000)).await;
        cluster.assert_equal_hashes().await;
        cluster.terminate(follower).await;
        assert!(count_files(&member_dir(&spec).join("wal"), ".wal") > 1, "cut into segments");
        assert_backup(&etcdutl, &spec, &scratch, "cut");
        cluster.restart(follower).await;
        fill(&cluster.client, cluster.leader().await, "b/", 400, &"b".repeat(30_000)).await;
        cluster.assert_equal_hashes().await;
        let wal = member_dir(&spec).join("wal");
        until(READY_WITHIN, "the first segment is released", async || {
            if wal.join("0000000000000000-0000000000000000.wal").exists() { Err("it is there") } else { Ok(()) }
        })
        .await;
        cluster.terminate(follower).await;
        assert_eq!(count_files(&member_dir(&spec).join("snap"), ".snap"), 1);
        assert_backup(&etcdutl, &spec, &scratch, "released");
        fill(&cluster.client, cluster.leader().await, "c/", MISSED, "value").await;
        cluster.restart(follower).await;
        cluster.assert_equal_hashes().await;
        says(&mut cluster, follower, "applied snapshot", 1).await;
        cluster.kill(follower);
        assert_backup(&etcdutl, &spec, &scratch, "snapshot-installed and killed");
        cluster.restart(follower).await;
        for round in 0..4 {
            let writers = Writers::start(&cluster.client, &format!("w{round}/"), 4);
            writers.acknowledged(60, READY_WITHIN).await;
            cluster.kill(follower);
            assert_backup(&etcdutl, &spec, &scratch, &format!("killed {round}"));
            cluster.restart(follower).await;
            writers.stop_and_check(&cluster.client).await;
        }
        cluster.assert_equal_hashes().await;
    });
}
