//! What a member does by itself, without being asked: publish its name, decide the cluster version, expire leases, compact, compare.

use super::Node;
use super::compactor;
use super::corruption;
use super::leases::expire_leases;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;

/// How often a leader looks whether the cluster has the version that its members speak; etcd's `monitorVersionInterval`.
const VERSION_EVERY: Duration = Duration::from_secs(4);

/// At least so long is between the beginnings of two attempts to publish.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);

impl Node {
    /// Starts everything that runs beside the threads. Ends when the member stops.
    pub(super) fn start_duties(&self) {
        tokio::spawn(until_stopped(self.clone(), publish(self.clone())));
        tokio::spawn(until_stopped(self.clone(), watch_versions(self.clone())));
        tokio::spawn(until_stopped(self.clone(), expire_leases(self.clone())));
        if self.config().downgrade_check_ms > 0 {
            tokio::spawn(until_stopped(self.clone(), watch_downgrade(self.clone())));
        }
        if let Some(every) = self.config().checks.every {
            tokio::spawn(until_stopped(self.clone(), corruption::watch_data(self.clone(), every)));
        }
        if let Some(every) = self.config().checks.compactions_every {
            tokio::spawn(until_stopped(self.clone(), corruption::watch_compactions(self.clone(), every)));
        }
        if let Some(what) = self.config().auto_compaction {
            tokio::spawn(until_stopped(self.clone(), compactor::run(self.clone(), what)));
        }
    }
}

async fn until_stopped(node: Node, duty: impl Future<Output = ()>) {
    tokio::select! {
        () = duty => {}
        _ = node.stopped() => {}
    }
}

/// Tells the cluster this member's name and client URLs, through the log, until it has worked; only then is the member ready.
async fn publish(node: Node) {
    let config = node.config();
    let attributes = membershippb::Attributes { name: config.name.clone(), client_urls: config.client_urls.clone() };
    let set = pb::InternalRaftRequest {
        cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: node.inner.id.0,
            member_attributes: Some(attributes),
        }),
        ..pb::InternalRaftRequest::default()
    };
    failpoint::hit(Point::BeforePublishing);
    if !has_worked(|| node.propose(set.clone())).await {
        return;
    }
    tracing::info!(
        local_member_id = %node.inner.id,
        cluster_id = %node.inner.cluster,
        "published local member to cluster through raft"
    );
    node.inner.ready.send_replace(true);
}

/// Tries until it has worked, or until the member stops. Some refusals come at once, so there is a pause before the next attempt: without one this would
/// take a thread from everybody else.
async fn has_worked<T, F: Future<Output = Result<T, Error>>>(mut attempt: impl FnMut() -> F) -> bool {
    let mut every = interval(PUBLISH_PAUSE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match attempt().await {
            Ok(_) => return true,
            Err(Error::Stopped) => return false,
            Err(why) => tracing::warn!(error = %why, "failed to publish local member to cluster through raft"),
        }
    }
}

/// While this member leads, keeps the cluster's version at what all members speak.
async fn watch_versions(node: Node) {
    let mut ready = node.ready();
    drop(ready.wait_for(|ready| *ready).await);
    let mut every = interval(VERSION_EVERY);
    loop {
        every.tick().await;
        if node.inner.is_leader() {
            node.update_cluster_version().await;
        }
    }
}

/// While this member leads, looks whether a downgrade is over.
async fn watch_downgrade(node: Node) {
    let mut every = interval(Duration::from_millis(node.config().downgrade_check_ms));
    loop {
        every.tick().await;
        if node.inner.is_leader() {
            node.end_downgrade().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_refused_at_once_pauses_before_it_asks_again() {
        let mut attempts = 0;
        let refused = has_worked(|| {
            attempts += 1;
            // Without a pause nothing else ends it.
            std::future::ready(if attempts < 100_000 { Err(Error::TooManyRequests) } else { Ok(()) })
        });
        assert!(tokio::time::timeout(PUBLISH_PAUSE * 5, refused).await.is_err(), "nobody took it in this time");
        assert!((2..=6).contains(&attempts), "{attempts} attempts");
    }
}
