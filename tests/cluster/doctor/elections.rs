//! Leaders that change too often, and why.

use super::LIMIT;
use super::assert_first;
use super::doctor;
use crate::client::answer;
use crate::failpoints;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::alone;
use crate::harness::etcd_bin;
use crate::harness::until;
use etcd_lab::doctor::Cause;
use etcd_lab::failpoint::Point;
use etcd_lab::proto::etcdserverpb as pb;

/// Makes the leader change so often.
async fn change_leaders(cluster: &Cluster, times: usize) {
    for _ in 0..times {
        let leader = cluster.leader().await;
        let next = (leader + 1) % cluster.len();
        let target_id = cluster.client.status(next).await.expect("a status").header.expect("a header").member_id;
        let moved = pb::MoveLeaderRequest { target_id };
        until(READY_WITHIN, "the leader moves", async || {
            answer(READY_WITHIN, cluster.client.maintenance(leader).move_leader(moved)).await
        })
        .await;
        until(
            READY_WITHIN,
            "the next one leads",
            async || {
                if cluster.leader().await == next { Ok(()) } else { Err("not yet") }
            },
        )
        .await;
    }
}

#[test]
fn a_member_that_stands_still_is_found() {
    alone(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        change_leaders(&cluster, 4).await;
        let told = doctor(&["--endpoints", &cluster.endpoints()], cluster.dir()).await;
        // On a machine with other work the network may be seen to be slow, and is: that they are frequent is told anyway.
        assert!(told.out.contains("Why: elections are frequent") && told.out.contains("changes of leader"), "{told:?}");
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        cluster.pause(follower);
        let told = doctor(&["--endpoints", &cluster.spec(leader).client_url], cluster.dir()).await;
        assert_first(&told.out, Cause::Stopped, &["is stopped (state T)", &format!("m{follower}.etcd")]);
        cluster.resume(follower);
    });
}

#[test]
fn a_slow_disk_is_measured() {
    if !failpoints::are_there() {
        return;
    }
    alone(LIMIT, async {
        let scratch = Scratch::new();
        let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
        for spec in &mut specs {
            spec.env = vec![failpoints::a_door()];
        }
        let client = crate::client::Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        let cluster = Cluster::from_specs(&etcd_bin(), specs, client, scratch).await;
        for member in 0..3 {
            failpoints::set(&cluster, member, Point::WalBeforeSync, "sleep(200)").await;
        }
        for number in 0..5 {
            cluster.client.put(0, &format!("k{number}"), "v").await.expect("a put");
        }
        change_leaders(&cluster, 4).await;
        let told = doctor(&["--endpoints", &cluster.endpoints()], cluster.dir()).await;
        assert_first(&told.out, Cause::SlowDisk, &["one sync of a hundred takes", "a heartbeat is due each 100 ms"]);
    });
}
