//! Snapshots between members of two kinds: etcd 3.5.1 leads and ours is too far behind for its log, and the other way round.
//!
//! etcd 3.5.1 keeps 5,000 entries behind its newest snapshot whatever its flags say, so a follower of its must miss more than that.

use crate::catchup::fill;
use crate::catchup::says;
use crate::client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::etcdserverpb as pb;
use std::path::Path;
use std::time::Duration;

/// More than etcd keeps behind its newest snapshot.
const MISSED_OF_ETCD: usize = 5_600;
/// More than ours keeps.
const MISSED: usize = 300;
/// Between two snapshots of ours, and what it keeps behind one.
const LOG_LEFT: u64 = 50 + 10;
/// How long a transfer may take. Who is to lead does not campaign while a change of members is not applied, nobody asks again, and etcd waits for ever.
const MOVED_WITHIN: Duration = Duration::from_secs(3);
/// What etcd 3.5.1 says when it has put a leader's database in the place of its own.
const ETCD_APPLIED: &str = "applied snapshot";
const OURS_APPLIED: &str = "applied snapshot";
const OURS_SENT: &str = "sent database snapshot";

/// A member of etcd, a voter of ours beside it, and another of etcd.
async fn mixed(etcd: &Path) -> Cluster {
    let mut cluster = Cluster::start_with(etcd, 1, &["--snapshot-count", "50"]).await;
    // Too few for etcd's first snapshot: it would begin the others with it, and then keep all of its log for 30 seconds.
    fill(&cluster.client, 0, "first/", 10, "written to etcd").await;
    for (name, program) in [("ours", &*etcd_bin()), ("theirs", etcd)] {
        let (mut spec, id) = cluster.announce(0, name, true).await;
        spec.program = Some(program.to_owned());
        spec.more.extend(["--snapshot-count", "50"].map(str::to_owned));
        if name == "ours" {
            spec.more.extend(["--snapshot-catchup-entries", "10"].map(str::to_owned));
        }
        let member = cluster.add(spec);
        cluster.restart(member).await;
        until(READY_WITHIN, "promoted", async || cluster.try_promote(0, id).await).await;
    }
    cluster.assert_equal_hashes().await;
    cluster
}

/// Hands the lead to this member.
pub(crate) async fn lead(cluster: &Cluster, to: usize) {
    let target_id = cluster.id(to).await;
    until(READY_WITHIN, "it leads", async || {
        let leader = cluster.leader().await;
        if leader == to {
            return Ok(());
        }
        let mut maintenance = cluster.client.maintenance(leader);
        let moved = client::answer(MOVED_WITHIN, maintenance.move_leader(pb::MoveLeaderRequest { target_id }));
        moved.await.map(drop).map_err(|refusal| refusal.to_string())?;
        Err("it was asked".to_owned())
    })
    .await;
}

/// Waits until a member of ours has saved a snapshot of an entry beyond this one.
async fn saves_beyond(cluster: &mut Cluster, ours: usize, index: u64) {
    until(READY_WITHIN, "it saves a snapshot", async || {
        let log = cluster.log(ours);
        let saved = log.lines().rfind(|line| line.contains("saved snapshot")).unwrap_or_default();
        let line: serde_json::Value = serde_json::from_str(saved).unwrap_or_default();
        if line["snapshot-index"].as_u64() > Some(index) { Ok(()) } else { Err(format!("{saved:?}, not {index}")) }
    })
    .await;
}

/// What is more than keys: a lease with one, a compaction, a deletion.
pub(crate) async fn furnish(cluster: &Cluster, member: usize, lease: i64) {
    let grant = pb::LeaseGrantRequest { id: lease, ttl: 9000 };
    cluster.client.lease(member).lease_grant(grant).await.expect("a lease");
    let leased = pb::PutRequest { lease, ..client::put(&format!("leased/{lease}"), "x") };
    cluster.client.kv(member).put(leased).await.expect("a put");
    let gone = pb::DeleteRangeRequest { key: "first/00007".into(), ..Default::default() };
    cluster.client.kv(member).delete_range(gone).await.expect("deleted");
    let revision = cluster.client.revision().await.expect("a revision");
    let compaction = pb::CompactionRequest { revision: revision - 50, physical: true };
    cluster.client.kv(member).compact(compaction).await.expect("compacted");
    // At the compacted revision itself a member that has not compacted it has no hash of it.
    fill(&cluster.client, member, &format!("after/{lease}/"), 20, "value").await;
}

pub(crate) async fn assert_lease(cluster: &Cluster, member: usize, lease: i64) {
    let ask = pb::LeaseTimeToLiveRequest { id: lease, keys: true };
    let found = cluster.client.lease(member).lease_time_to_live(ask).await.expect("a lease").into_inner();
    assert_eq!(found.keys, [format!("leased/{lease}").as_str()]);
}

/// This member knows where clients reach all three: etcd up to 3.5 has that in its v2 store only, which comes in front of the database.
async fn assert_addresses(cluster: &Cluster, member: usize) {
    let members = cluster.client.members(member, false).await.expect("a list").members;
    assert!(members.len() == 3 && members.iter().all(|it| !it.client_ur_ls.is_empty()), "{members:?}");
}

#[test]
fn ours_behind_a_leader_of_etcd_gets_its_database_and_goes_on() {
    let Some(etcd) = foreign::etcd_351("ours_behind_a_leader_of_etcd…") else { return };
    turn(Duration::from_secs(300), async {
        let (mut cluster, ours) = (mixed(&etcd).await, 1);
        assert!(!cluster.log(ours).contains(OURS_APPLIED), "it began with the log");
        cluster.kill(ours);
        let leader = cluster.leader().await;
        fill(&cluster.client, leader, "missed/", MISSED_OF_ETCD, "value").await;
        furnish(&cluster, leader, 71).await;
        cluster.restart(ours).await;
        cluster.assert_equal_hashes().await;
        says(&mut cluster, ours, OURS_APPLIED, 1).await;
        assert_addresses(&cluster, ours).await;
        assert_lease(&cluster, ours, 71).await;
        // It goes on: it leads, and a restart finds the same.
        lead(&cluster, ours).await;
        fill(&cluster.client, ours, "led/", 100, "value").await;
        cluster.assert_equal_hashes().await;
        cluster.kill(ours);
        cluster.restart(ours).await;
        cluster.assert_equal_hashes().await;
        assert_addresses(&cluster, ours).await;
    });
}

#[test]
fn etcd_behind_a_leader_of_ours_gets_our_image_and_goes_on() {
    let Some(etcd) = foreign::etcd_351("etcd_behind_a_leader_of_ours…") else { return };
    turn(Duration::from_secs(300), async {
        let (mut cluster, ours, theirs) = (mixed(&etcd).await, 1, 2);
        lead(&cluster, ours).await;
        let before = cluster.log(theirs).matches(ETCD_APPLIED).count();
        cluster.kill(theirs);
        lead(&cluster, ours).await;
        let last = cluster.client.status(ours).await.expect("a status").raft_index;
        fill(&cluster.client, ours, "missed/", MISSED, "value").await;
        furnish(&cluster, ours, 71).await;
        // All of this is written within the time that a member takes to start: the log must be short before the other asks for it.
        saves_beyond(&mut cluster, ours, last + LOG_LEFT).await;
        cluster.restart(theirs).await;
        cluster.assert_equal_hashes().await;
        says(&mut cluster, ours, OURS_SENT, 1).await;
        says(&mut cluster, theirs, ETCD_APPLIED, before + 1).await;
        assert_lease(&cluster, theirs, 71).await;
        // It goes on: it leads, and a restart finds the same.
        lead(&cluster, theirs).await;
        fill(&cluster.client, theirs, "led/", 100, "value").await;
        cluster.assert_equal_hashes().await;
        cluster.kill(theirs);
        cluster.restart(theirs).await;
        cluster.assert_equal_hashes().await;
    });
}
