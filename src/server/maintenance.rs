//! Maintenance: status, hashes, alarms, leadership, space, downgrade.
//!
//! Source: etcd `api/v3rpc/maintenance.go`; contract-server 6.

use super::front::Front;
use super::front::wrong_reply;
use super::identity::Caller;
use super::snapshot;
use crate::apply::Reply;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::types::CLUSTER_VERSION;
use crate::types::ETCD_VERSION;
use crate::types::MemberId;
use crate::types::Revision;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// The Maintenance service.
pub(super) struct Service(pub(super) Front);

#[tonic::async_trait]
impl Maintenance for Service {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let (caller, alarm) = Caller::of(request);
        if alarm.action != AlarmAction::Get as i32 {
            self.0.permit_root(&caller).await?;
        }
        let request = pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
        let Reply::Alarm(mut response) = self.0.propose_as(&caller, request).await? else { return Err(wrong_reply()) };
        self.0.stamp(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let status = self.0.node.status();
        let (size, in_use, alarms, storage_version, downgrade) = self.0.node.read(|machine| {
            let store = machine.store();
            // What is stored is what the cluster's release can read: the two move together. Before there is a release to agree on, it is ours.
            let version = machine.cluster_version().unwrap_or(CLUSTER_VERSION).to_owned();
            (store.size(), store.in_use(), machine.alarms(), version, machine.downgrade().clone())
        });
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(Error::NoLeader.to_string());
        }
        errors.extend(alarms.iter().map(alarm_text));
        Ok(Response::new(pb::StatusResponse {
            header: self.0.header(),
            version: ETCD_VERSION.into(),
            db_size: i64::try_from(size).unwrap_or(i64::MAX),
            db_size_in_use: i64::try_from(in_use).unwrap_or(i64::MAX),
            leader: status.leader.0,
            raft_index: status.committed.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.0,
            errors,
            is_learner: status.is_learner,
            storage_version,
            db_size_quota: self.0.limits.quota_told,
            downgrade_info: Some(pb::DowngradeInfo { enabled: downgrade.enabled, target_version: downgrade.target }),
        }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let hash = self.0.node.hash_kv(revision).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.at(hash.current),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.0.node.move_leader(MemberId(request.into_inner().target_id)).await?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        tracing::info!("starting defragment");
        if self.0.limits.stops_on_defragment {
            tracing::warn!(
                service = "",
                status = "NOT_SERVING",
                reason = "defrag is active",
                "grpc service status changed"
            );
        }
        if let Err(why) = self.0.node.defragment().await {
            tracing::warn!(error = %why, "failed to defragment");
            return Err(why.into());
        }
        tracing::info!("finished defragment");
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let (hash, revision) = self.0.node.hash_all().await?;
        Ok(Response::new(pb::HashResponse { header: self.at(revision), hash }))
    }

    type SnapshotStream = snapshot::Stream;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Ok(Response::new(snapshot::stream(self.0.node.clone())))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let pb::DowngradeRequest { action, version } = request.into_inner();
        let node = &self.0.node;
        let cluster = match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Validate) => node.validate_downgrade(&version).await?,
            Ok(DowngradeAction::Enable) => node.enable_downgrade(&version).await?,
            Ok(DowngradeAction::Cancel) => node.cancel_downgrade().await?,
            Err(_) => return Err(Error::UnknownMethod.into()),
        };
        Ok(Response::new(pb::DowngradeResponse { header: self.0.header(), version: cluster.short() }))
    }
}

impl Service {
    /// A header with the revision that an answer speaks of.
    fn at(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        let mut header = Some(pb::ResponseHeader { revision: revision.to_wire(), ..pb::ResponseHeader::default() });
        self.0.stamp(&mut header);
        header
    }
}

/// An alarm as etcd lists it among a member's errors: Go's text of the message, blank at the end included, fields that are zero left out.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    let mut text = String::new();
    if alarm.member_id != 0 {
        text.push_str(&format!("memberID:{} ", alarm.member_id));
    }
    match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::None) => {}
        Ok(kind) => text.push_str(&format!("alarm:{} ", kind.as_str_name())),
        Err(_) => text.push_str(&format!("alarm:{} ", alarm.alarm)),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_as_go_prints_them() {
        let alarm = pb::AlarmMember { member_id: 10_276_657_743_932_975_437, alarm: AlarmType::Nospace as i32 };
        assert_eq!(alarm_text(&alarm), "memberID:10276657743932975437 alarm:NOSPACE ");
        assert_eq!(alarm_text(&pb::AlarmMember { member_id: 1, alarm: 99 }), "memberID:1 alarm:99 ");
        assert_eq!(alarm_text(&pb::AlarmMember { member_id: 0, ..alarm }), "alarm:NOSPACE ");
    }
}
