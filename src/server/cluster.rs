//! Cluster: who the members are. Headers here carry no revision, as in etcd.
//!
//! Left out for now: changing the members. Source: etcd `api/v3rpc/member.go`; contract-server 5.3.

use super::front::Front;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::types::MemberId;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// The Cluster service.
pub(super) struct Service(pub(super) Front);

impl Service {
    /// What a change of this member is answered until members can be changed: an unknown one is unknown today too.
    fn later(&self, id: u64, call: &'static str) -> Error {
        let known = self.0.node.read(|machine| machine.members().get(MemberId(id)).is_some());
        if known { Error::Unimplemented(call) } else { Error::MemberNotFound }
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.0.node.read_barrier().await?;
        }
        let members = self.0.node.read(|machine| machine.members().iter().map(|member| member.to_wire()).collect());
        let mut header = None;
        self.0.stamp(&mut header);
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(Error::Unimplemented("MemberAdd").into())
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(self.later(request.get_ref().id, "MemberRemove").into())
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(self.later(request.get_ref().id, "MemberUpdate").into())
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(self.later(request.get_ref().id, "MemberPromote").into())
    }
}
