//! SIGTERM: the leader hands over first, and the process ends by the signal.

use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::alone;
use crate::harness::shell_code;
use crate::writers::Writers;
use rustix::process::Signal;
use std::time::Duration;

/// An election without a hand-over takes at least this, so the gap shows that there was one.
const GAP_BELOW: Duration = Duration::from_secs(1);

#[test]
fn a_terminated_leader_hands_over_and_ends_by_the_signal() {
    alone(Duration::from_secs(180), async {
        let mut cluster = Cluster::start(3).await;
        for round in 0..5 {
            let writers = Writers::start(&cluster.client, &format!("round{round}/"), 4);
            writers.acknowledged(50, READY_WITHIN).await;
            let leader = cluster.leader().await;
            let status = cluster.terminate(leader).await;
            assert_eq!(shell_code(status), 143, "{status}");
            let until_now = writers.so_far_count();
            writers.acknowledged(until_now + 50, READY_WITHIN).await;
            let gap = writers.longest_gap();
            assert!(gap < GAP_BELOW, "round {round}: no write was acknowledged for {gap:?}");
            eprintln!("round {round}: longest time without an acknowledgement: {gap:?}");
            cluster.restart(leader).await;
            writers.stop_and_check(&cluster.client).await;
            cluster.assert_equal_hashes().await;
        }
    });
}

#[test]
fn a_single_member_ends_by_sigterm_and_by_sigint_and_keeps_its_data() {
    alone(Duration::from_secs(60), async {
        let mut cluster = Cluster::start(1).await;
        cluster.client.put(0, "a", "1").await.expect("a write");
        assert_eq!(shell_code(cluster.terminate(0).await), 143);
        cluster.restart(0).await;
        assert_eq!(cluster.client.get(0, "a").await.expect("a read").as_deref(), Some("1"));
        cluster.process(0).signal(Signal::INT);
        let status = cluster.process(0).ended(READY_WITHIN).await;
        assert_eq!(shell_code(status), 130);
    });
}
