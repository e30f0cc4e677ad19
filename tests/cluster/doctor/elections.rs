//! Leaders that change too often, and why.

#![expect(clippy::disallowed_methods, reason = "makes a network slow")]

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
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

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

/// Passes bytes on both ways between whoever connects to `from` and `to`, each piece so much later.
async fn delay(from: TcpListener, to: String, by: Duration) {
    while let Ok((near, _)) = from.accept().await {
        let to = to.clone();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(later(near_in, far_out, by), later(far_in, near_out, by));
        });
    }
}

async fn later(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, by: Duration) {
    let (due, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let pass = tokio::spawn(async move {
        while let Some((at, piece)) = waiting.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut piece = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if due.send((Instant::now() + by, piece[..read].to_vec())).is_err() {
            break;
        }
    }
    drop(due);
    drop(pass.await);
}

#[test]
fn a_slow_network_is_measured() {
    alone(LIMIT, async {
        let scratch = Scratch::new();
        let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
        for spec in &mut specs {
            // The others reach it by way of a relay. There and back takes longer than a heartbeat may, and no disk does.
            let relay = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let listens =
                std::mem::replace(&mut spec.peer_url, format!("http://{}", relay.local_addr().expect("it is bound")));
            let words = ["--listen-peer-urls", &listens, "--heartbeat-interval=500", "--election-timeout=5000"];
            spec.more = words.map(str::to_owned).to_vec();
            tokio::spawn(delay(relay, listens.replace("http://", ""), Duration::from_millis(300)));
        }
        let client = crate::client::Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        let cluster = Cluster::from_specs(&etcd_bin(), specs, client, scratch).await;
        change_leaders(&cluster, 4).await;
        let told = until(READY_WITHIN, "round trips are measured", async || {
            let told = doctor(&["--endpoints", &cluster.endpoints()], cluster.dir()).await;
            if told.out.contains(Cause::Unsteady.look_at()) { Err(told.out) } else { Ok(told) }
        })
        .await;
        let parts = ["elections are frequent", "one round trip of a hundred takes", "a heartbeat is due each 500 ms"];
        assert_first(&told.out, Cause::SlowNetwork, &parts);
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
