//! Cluster: who the members are, and changing that. Headers here carry no revision, as in etcd.
//!
//! Source: etcd `api/v3rpc/member.go`; contract-server 5.3.

use super::front::Front;
use super::identity::Caller;
use crate::error::Error;
use crate::membership::Member;
use crate::membership::check_urls;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::types::MemberId;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// The Cluster service.
pub(super) struct Service(pub(super) Front);

impl Service {
    fn header(&self) -> Option<pb::ResponseHeader> {
        let mut header = None;
        self.0.stamp(&mut header);
        header
    }
}

fn to_wire(members: &[Member]) -> Vec<pb::Member> {
    members.iter().map(Member::to_wire).collect()
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
        let members = self.0.node.read(|machine| machine.members().iter().map(Member::to_wire).collect());
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let urls = check_urls(&peer_ur_ls).map_err(|_| Error::MemberBadUrls)?;
        let (member, members) = self.0.node.add_member(urls, is_learner).await?;
        let (member, members) = (Some(member.to_wire()), to_wire(&members));
        Ok(Response::new(pb::MemberAddResponse { header: self.header(), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let members = to_wire(&self.0.node.remove_member(MemberId(request.get_ref().id)).await?);
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let members = to_wire(&self.0.node.update_member(MemberId(id), peer_ur_ls).await?);
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let (caller, request) = Caller::of(request);
        let members = to_wire(&self.0.node.promote_member(MemberId(request.id), caller.token()).await?);
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members }))
    }
}
