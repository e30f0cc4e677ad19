//! A data directory of etcd's own becomes ours in place, and one of ours becomes etcd's: the same member, the same data, and a way back.

use crate::catchup::fill;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use crate::mixed::assert_lease;
use crate::mixed::furnish;
use crate::ports;
use crate::writers::Writers;
use etcd_lab::proto::etcdserverpb as pb;
use rustix::process::Signal;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

const CONVERTED: &str = "converted a data directory of etcd's own";
const LEASE: i64 = 77;
const FLAGS: [&str; 2] = ["--snapshot-count", "50"];

/// What makes a state: the hash of all history at a revision, and which cluster's and member's it is.
#[derive(Debug, PartialEq)]
struct State {
    revision: i64,
    hash: u32,
    ids: (u64, u64),
}

async fn state(cluster: &Cluster, member: usize) -> State {
    let hash = cluster.client.hash_kv(member, 0).await.expect("a hash");
    let header = hash.header.expect("a header");
    State { revision: header.revision, hash: hash.hash, ids: (header.cluster_id, header.member_id) }
}

/// The same history, at a revision that both had.
async fn hash_at(cluster: &Cluster, member: usize, revision: i64) -> u32 {
    cluster.client.hash_kv(member, revision).await.expect("a hash").hash
}

fn convert(from: &Path, to: &Path) -> Output {
    let words = ["convert", "--data-dir", &from.display().to_string(), "--output-dir", &to.display().to_string()];
    Command::new(env!("CARGO_BIN_EXE_etcdutl")).args(words).output().expect("it runs")
}

/// Has the cluster agree on 3.5 again.
async fn downgrade(cluster: &Cluster) {
    let leader = cluster.leader().await;
    let enable = pb::DowngradeRequest { action: 1, version: "3.5.0".into() };
    until(READY_WITHIN, "a downgrade", async || cluster.client.maintenance(leader).downgrade(enable.clone()).await)
        .await;
    for member in 0..cluster.len() {
        cluster.agreed(member, "3.5.0").await;
    }
}

/// Makes etcd's directory of a stopped member's, which it starts on next.
fn hand_back(cluster: &mut Cluster, member: usize, etcd: &Path) {
    let from = cluster.spec(member).data_dir.clone();
    let to = PathBuf::from(format!("{}.back", from.display()));
    let done = convert(&from, &to);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let spec = cluster.spec_mut(member);
    spec.data_dir = to;
    spec.program = Some(etcd.to_owned());
}

#[test]
fn a_member_of_etcd_becomes_ours_in_place_and_etcds_again() {
    let Some(etcds) = foreign::etcds("a_member_of_etcd_becomes_ours_in_place_and_etcds_again") else { return };
    turn(Duration::from_secs(180), async {
        // The newest two; the oldest one is in the test of a cluster.
        for (signal, etcd) in [Signal::TERM, Signal::KILL].into_iter().zip(etcds.iter().rev().cycle()) {
            let mut cluster = Cluster::start_with(etcd, 1, &FLAGS).await;
            fill(&cluster.client, 0, "first/", 120, "written to etcd").await;
            furnish(&cluster, 0, LEASE).await;
            let before = state(&cluster, 0).await;
            cluster.process(0).signal(signal);
            cluster.gone(0).await;
            cluster.spec_mut(0).program = Some(etcd_bin());
            cluster.restart(0).await;
            assert_eq!(state(&cluster, 0).await, before);
            assert_lease(&cluster, 0, LEASE).await;
            let kept = cluster.spec(0).data_dir.join("member.etcd");
            assert!(cluster.log(0).contains(CONVERTED) && kept.join("snap/db").exists(), "{}", cluster.log(0));
            // It is an ordinary directory of ours now.
            fill(&cluster.client, 0, "second/", 60, "written to ours").await;
            cluster.kill(0);
            cluster.restart(0).await;
            assert_eq!(cluster.log(0).matches(CONVERTED).count(), 1);
            assert_eq!(hash_at(&cluster, 0, before.revision).await, before.hash);
            let at_the_end = state(&cluster, 0).await;
            // Back: not while the cluster speaks a later release's language.
            cluster.agreed(0, "3.6.0").await;
            let data_dir = cluster.spec(0).data_dir.clone();
            cluster.terminate(0).await;
            let refused = convert(&data_dir, &cluster.dir().join("no"));
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1));
            assert!(why.contains("etcdctl downgrade enable 3.5") && !cluster.dir().join("no").exists(), "{why}");
            cluster.restart(0).await;
            downgrade(&cluster).await;
            cluster.terminate(0).await;
            hand_back(&mut cluster, 0, etcd);
            cluster.restart(0).await;
            assert_eq!(state(&cluster, 0).await, at_the_end);
            assert_lease(&cluster, 0, LEASE).await;
            cluster.client.put(0, "third", "written to etcd").await.expect("a put");
            // And etcd starts on what was kept, as if nothing had been.
            cluster.terminate(0).await;
            std::fs::rename(data_dir.join("member"), data_dir.join("member.ours")).expect("moved");
            std::fs::rename(&kept, data_dir.join("member")).expect("moved");
            cluster.spec_mut(0).data_dir = data_dir;
            cluster.restart(0).await;
            assert_eq!(state(&cluster, 0).await, before);
        }
    });
}

#[test]
fn a_running_etcd_keeps_its_directory() {
    let Some(etcd) = foreign::etcd_351("a_running_etcd_keeps_its_directory") else { return };
    turn(Duration::from_secs(60), async {
        let mut cluster = Cluster::start_with(&etcd, 1, &[]).await;
        let mut spec = cluster.spec(0).clone();
        spec.client_url = format!("http://127.0.0.1:{}", ports::free());
        spec.peer_url = format!("http://127.0.0.1:{}", ports::free());
        let flags = spec.flags(std::slice::from_ref(&spec));
        let mut second = Process::start(&etcd_bin(), &flags, &[], &cluster.dir().join("second.log"));
        assert_eq!(second.ended(ENDS_WITHIN).await.code(), Some(1));
        assert!(second.log().contains("another etcd runs in it, stop it first"), "{}", second.log());
        cluster.client.put(0, "k", "v").await.expect("the first one works");
        cluster.kill(0);
        cluster.restart(0).await;
        assert_eq!(cluster.client.get(0, "k").await.expect("a get").as_deref(), Some("v"));
    });
}

/// The names and client URLs of the others have come along: nobody tells them again.
async fn assert_all_have_told_where_they_are(cluster: &Cluster, member: usize) {
    let listed = cluster.client.members(member, false).await.expect("a list").members;
    for one in (0..cluster.len()).filter(|other| *other != member).map(|other| cluster.spec(other)) {
        let found = listed.iter().find(|about| about.peer_ur_ls == [one.peer_url.as_str()]).expect("a member");
        assert_eq!((&found.name, &found.client_ur_ls[..]), (&one.name, &[one.client_url.clone()][..]));
    }
}

/// Replaces the members' program one after the other, under load: by ours in place, and back by etcd's.
#[test]
fn a_cluster_of_etcd_becomes_ours_member_by_member_and_goes_back_without_a_lost_write() {
    let name = "a_cluster_of_etcd_becomes_ours_member_by_member_and_goes_back_without_a_lost_write";
    let Some(etcd) = foreign::etcd_351(name) else { return };
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start_with(&etcd, 3, &FLAGS).await;
        fill(&cluster.client, 0, "first/", 120, "written to etcd").await;
        furnish(&cluster, 0, LEASE).await;
        let ids = state(&cluster, 0).await.ids.0;
        let writers = Writers::start(&cluster.client, "load/", 3);
        for member in 0..3 {
            assert_eq!(cluster.version(member).await.as_deref(), Ok("3.5.0"), "one of etcd's is there");
            cluster.terminate(member).await;
            cluster.spec_mut(member).program = Some(etcd_bin());
            cluster.restart(member).await;
            assert!(cluster.log(member).contains(CONVERTED));
            assert_all_have_told_where_they_are(&cluster, member).await;
            writers.acknowledged(writers.so_far_count() + 10, READY_WITHIN).await;
        }
        cluster.agreed(0, "3.6.0").await;
        downgrade(&cluster).await;
        for member in 0..3 {
            cluster.terminate(member).await;
            hand_back(&mut cluster, member, &etcd);
            cluster.restart(member).await;
            assert_all_have_told_where_they_are(&cluster, member).await;
            writers.acknowledged(writers.so_far_count() + 10, READY_WITHIN).await;
        }
        writers.stop_and_check(&cluster.client).await;
        cluster.assert_equal_hashes().await;
        for member in 0..3 {
            assert_lease(&cluster, member, LEASE).await;
            assert_eq!(state(&cluster, member).await.ids.0, ids);
        }
    });
}
