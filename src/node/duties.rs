//! What a member does by itself, without being asked: publish its name, decide the cluster version, expire leases, compact.

use super::Node;
use super::compactor;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb;
use crate::types::LeaseId;
use std::time::Duration;
use tokio::time::interval;

/// How often a leader looks for expired leases, and how many it revokes at a time; etcd's values.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);
const REVOKE_MAX: usize = 500;
/// Revocations under way at once; etcd's value.
const REVOKING_MAX: usize = 16;
/// How often a leader looks whether the cluster has the version that its members speak; etcd's `monitorVersionInterval`.
const VERSION_EVERY: Duration = Duration::from_secs(4);

impl Node {
    /// Starts everything that runs beside the threads. Ends when the member stops.
    pub(super) fn start_duties(&self) {
        tokio::spawn(until_stopped(self.clone(), publish(self.clone())));
        tokio::spawn(until_stopped(self.clone(), watch_versions(self.clone())));
        tokio::spawn(until_stopped(self.clone(), expire_leases(self.clone())));
        if self.config().downgrade_check_ms > 0 {
            tokio::spawn(until_stopped(self.clone(), watch_downgrade(self.clone())));
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
    loop {
        match node.propose(set.clone()).await {
            Ok(_) => break,
            Err(Error::Stopped) => return,
            Err(why) => tracing::warn!(error = %why, "failed to publish local member to cluster through raft"),
        }
    }
    tracing::info!(
        local_member_id = %node.inner.id,
        cluster_id = %node.inner.cluster,
        "published local member to cluster through raft"
    );
    node.inner.ready.send_replace(true);
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

/// While this member leads, revokes what has expired, through the log like any client. Before it trusts its own clock it asks a quorum whether it still leads:
/// a leader that slept may have been replaced, and its successor may have renewed the lease.
async fn expire_leases(node: Node) {
    let mut every = interval(EXPIRE_EVERY);
    loop {
        every.tick().await;
        if !node.inner.is_leader() {
            continue;
        }
        let expired = node.inner.timers.lock().expired(node.inner.now(), REVOKE_MAX);
        if expired.is_empty() || node.read_barrier().await.is_err() || !node.inner.is_leader() {
            continue;
        }
        for some in expired.chunks(REVOKING_MAX) {
            futures::future::join_all(some.iter().map(|id| revoke(&node, *id))).await;
        }
    }
}

async fn revoke(node: &Node, id: LeaseId) {
    let revoke = pb::InternalRaftRequest {
        lease_revoke: Some(pb::LeaseRevokeRequest { id: id.0 }),
        ..pb::InternalRaftRequest::default()
    };
    match node.propose(revoke).await {
        Ok(_) | Err(Error::LeaseNotFound | Error::Stopped) => {}
        Err(why) => tracing::warn!(lease = %id, error = %why, "failed to revoke an expired lease, will try again"),
    }
}
