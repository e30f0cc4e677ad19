//! What the lab does to a member's disk, files and clients: it does it, and it can be taken back.

use crate::chaos::TOKEN;
use crate::chaos::with_doors;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::disk::RealDisk;
use etcd_lab::lab::files;
use etcd_lab::lab::files::Job;
use etcd_lab::lab::files::Part;
use etcd_lab::lab::workdir::MARKER;
use etcd_lab::lab::workdir::MemberRecord;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::lab;
use etcd_lab::proto::lab::control_request::Action;
use etcd_lab::proto::lab::lab_client::LabClient;
use etcd_lab::wal;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::transport::Endpoint;

const LIMIT: Duration = Duration::from_secs(120);
/// So long what must wait is seen to wait.
const WAITS: Duration = Duration::from_millis(500);

async fn control(door: &str, action: Action) {
    let endpoint = Endpoint::from_shared(door.to_owned()).expect("a URL");
    let mut client = LabClient::new(endpoint.connect().await.expect("the lab's door is open"));
    let mut request = tonic::Request::new(lab::ControlRequest { action: Some(action) });
    request.metadata_mut().insert("lab-token", TOKEN.parse().expect("ASCII"));
    let answer = client.control(request).await.expect("an answer").into_inner();
    assert!(answer.ok, "{}", answer.why_not);
}

async fn begun(members: usize) -> (Cluster, Vec<String>) {
    let (cluster, doors) = with_doors(members, &[]).await;
    until(READY_WITHIN, "a first write", async || cluster.client.put(0, "a", "0").await).await;
    (cluster, doors)
}

async fn has(cluster: &Cluster, member: usize, value: &str) {
    until(READY_WITHIN, "it has caught up", async || match cluster.client.get(member, "a").await {
        Ok(Some(found)) if found == value => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[test]
fn a_full_or_failing_disk_ends_the_member_and_loses_nothing() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (mut cluster, doors) = begun(3).await;
        let cases = [(true, false, "no space left on device"), (false, true, "input/output error")];
        for (n, (full, failing, says)) in cases.into_iter().enumerate() {
            let leader = cluster.leader().await;
            let victim = (leader + 1) % 3;
            let set = lab::SetDisk { full, failing, ..lab::SetDisk::default() };
            control(&doors[victim], Action::SetDisk(set)).await;
            let value = format!("{n}");
            cluster.client.put(leader, "a", &value).await.expect("two are enough");
            let status = cluster.gone(victim).await;
            assert!(!status.success(), "{status:?}");
            assert!(cluster.log(victim).contains(says), "{}", cluster.log(victim));
            // It starts with a disk that works.
            cluster.restart(victim).await;
            has(&cluster, victim, &value).await;
        }
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn clients_that_are_cut_off_wait_and_members_go_on() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, doors) = begun(3).await;
        let leader = cluster.leader().await;
        control(&doors[leader], Action::SetClients(lab::SetClients { cut: true })).await;
        let client = cluster.client.clone();
        let put = tokio::spawn(async move { client.put(leader, "a", "1").await });
        // Through another member the same leader takes writes.
        let other = (leader + 1) % 3;
        cluster.client.put(other, "b", "2").await.expect("members reach each other");
        assert!(tokio::time::timeout(WAITS, cluster.client.get(leader, "b")).await.is_err(), "it waits");
        assert!(!put.is_finished());
        control(&doors[leader], Action::SetClients(lab::SetClients { cut: false })).await;
        put.await.expect("no panic").expect("what waited was let in");
        has(&cluster, other, "1").await;
    });
}

#[test]
fn a_rotten_bit_is_found_at_the_start_and_can_be_mended() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (mut cluster, _doors) = begun(3).await;
        let victim = (cluster.leader().await + 1) % 3;
        for n in 0..20 {
            cluster.client.put(0, "a", &n.to_string()).await.expect("written");
        }
        has(&cluster, victim, "19").await;
        cluster.kill(victim);
        // As in a lab's folder: the marker, below it a folder for each member, in it the data.
        let lab = cluster.dir().join("lab");
        let data_dir = lab.join("n1/data");
        std::fs::create_dir_all(lab.join("n1")).expect("made");
        std::fs::write(lab.join(MARKER), "").expect("written");
        std::os::unix::fs::symlink(&cluster.spec(victim).data_dir, &data_dir).expect("made");
        let member = MemberRecord {
            name: cluster.spec(victim).name.clone(),
            pid: 0,
            client_url: String::new(),
            peer_url: String::new(),
            lab_socket: "s".into(),
            log: "l".into(),
            data_dir,
        };
        files::run(&member, Job::Rot(Part::Log)).expect("done");
        cluster.launch(victim);
        let status = cluster.gone(victim).await;
        assert!(!status.success(), "it must not go on with a log that it cannot trust");
        files::run(&member, Job::Mend).expect("done");
        cluster.restart(victim).await;
        has(&cluster, victim, "19").await;
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn power_loss_takes_what_was_not_synced_and_nothing_that_was_acknowledged() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (mut cluster, doors) = begun(3).await;
        for n in 0..20 {
            cluster.client.put(0, "a", &n.to_string()).await.expect("written");
        }
        for member in 0..3 {
            has(&cluster, member, "19").await;
        }
        let log = |cluster: &Cluster, member: usize| {
            wal::read(&RealDisk, &cluster.spec(member).data_dir.join("member/wal"), None).expect("whole")
        };
        let before: Vec<_> = (0..3).map(|member| log(&cluster, member)).collect();
        // All at once: nobody is left to remember.
        let lost = doors.iter().map(|door| power(door));
        futures::future::join_all(lost).await;
        let mut shorter = 0;
        for (member, before) in before.iter().enumerate() {
            cluster.gone(member).await;
            let after = log(&cluster, member);
            // What members publish of themselves may have come meanwhile.
            assert!(after.entries.starts_with(&before.entries), "entries were synced");
            let last = after.entries.last().expect("entries").index;
            shorter += usize::from(after.hard_state.commit < last);
        }
        assert!(shorter > 0, "how far is committed is not synced, so somebody has lost it");
        for member in 0..3 {
            cluster.launch(member);
        }
        for member in 0..3 {
            cluster.ready(member).await;
            has(&cluster, member, "19").await;
        }
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn a_wrong_clock_is_noticed_by_who_compares_and_by_no_lease_and_no_election() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, doors) = begun(3).await;
        let leader = cluster.leader().await;
        let before = cluster.client.status(leader).await.expect("it answers").raft_term;
        // Two hours on: whatever counted a lease of a minute by the wall would end it now.
        let ask = pb::LeaseGrantRequest { ttl: 60, id: 0 };
        let lease = cluster.client.lease(leader).lease_grant(ask).await.expect("granted").into_inner().id;
        control(&doors[leader], Action::SetWall(lab::SetWall { offset_ms: 2 * 3_600_000 })).await;
        // The one that is ahead compares itself with its peers, every half a minute.
        until(Duration::from_secs(60), "it finds its clock ahead", async || {
            let log = cluster.log(leader);
            let drifts = ["\"clock-drift\":\"2h0m0", "\"clock-drift\":\"1h59m59"];
            let mut told = log.lines().filter(|line| line.contains("prober found high clock drift"));
            told.find(|line| drifts.iter().any(|drift| line.contains(drift))).map(drop).ok_or("not yet")
        })
        .await;
        // Its own lines carry its own time.
        let log = cluster.log(leader);
        let drift = log.lines().rfind(|line| line.contains("prober found high clock drift")).expect("found above");
        let line: serde_json::Value = serde_json::from_str(drift).expect("JSON");
        let written = OffsetDateTime::parse(line["ts"].as_str().expect("a time"), &Rfc3339).expect("a time");
        let ahead = written - OffsetDateTime::now_utc();
        assert!(ahead.whole_minutes() >= 118 && ahead.whole_minutes() <= 120, "{ahead}");
        for member in (0..3).filter(|m| *m != leader) {
            assert!(!cluster.log(member).contains("clock drift"), "the others are not ahead");
        }
        let ask = pb::LeaseTimeToLiveRequest { id: lease, keys: false };
        let left = cluster.client.lease(leader).lease_time_to_live(ask).await.expect("it answers").into_inner().ttl;
        assert!((1..=60).contains(&left), "{left}");
        assert_eq!(cluster.client.status(leader).await.expect("it answers").raft_term, before, "no election");
        assert_eq!(cluster.leader().await, leader);
    });
}

/// There is no answer: the connection breaks.
async fn power(door: &str) {
    let endpoint = Endpoint::from_shared(door.to_owned()).expect("a URL");
    let mut client = LabClient::new(endpoint.connect().await.expect("the lab's door is open"));
    let mut request = tonic::Request::new(lab::ControlRequest { action: Some(Action::PowerLoss(lab::PowerLoss {})) });
    request.metadata_mut().insert("lab-token", TOKEN.parse().expect("ASCII"));
    assert!(client.control(request).await.is_err());
}
