//! Lease: grant, revoke, keep alive, time to live, list.
//!
//! Grants and revocations go through the log; the time that is left is known to the leader alone, so renewals and questions for it are forwarded by the
//! node. Source: etcd `api/v3rpc/lease.go`; contract-server 4.

use super::front::Front;
use super::front::in_grpcs_words;
use super::front::wrong_reply;
use super::identity::Caller;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::auth::Access;
use crate::auth::Who;
use crate::error::Error;
use crate::meter;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::types::LeaseId;
use futures::future::BoxFuture;
use futures::future::FutureExt as _;
use futures::stream::BoxStream;
use futures::stream::FuturesUnordered;
use futures::stream::StreamExt as _;
use futures::stream::unfold;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

/// The Lease service.
pub(super) struct Service(pub(super) Front);

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let (caller, mut grant) = Caller::of(request);
        // Too long a time is refused when it is applied, as in etcd: a full store is the first thing that a client hears of.
        grant.ttl = grant.ttl.max(self.0.limits.ttl_min);
        if grant.id == 0 {
            grant.id = self.0.node.next_lease_id().0;
        }
        let request = pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() };
        let Reply::LeaseGrant(mut response) = self.0.propose_as(&caller, request).await? else {
            return Err(wrong_reply());
        };
        self.0.stamp(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let (caller, revoke) = Caller::of(request);
        let request = pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() };
        let Reply::LeaseRevoke(mut response) = self.0.propose_as(&caller, request).await? else {
            return Err(wrong_reply());
        };
        self.0.stamp(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (caller, requests) = Caller::of(request);
        let mut guard = self.0.stream_guard(caller.headers());
        let end = FuturesUnordered::from_iter([async move { guard.ended().await }.boxed()]);
        let session = Box::new(Renewals { front: self.0.clone(), caller: caller.lasting(), requests, end });
        let responses = unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await {
                Some(Ok(response)) => Some((Ok(response), Some(session))),
                Some(Err(status)) => Some((Err(status), None)),
                None => None,
            }
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let (caller, request) = Caller::of(request);
        let who = match request.keys {
            true => self.0.permit_lease(&caller, LeaseId(request.id), Access::Read).await?,
            false => None,
        };
        let mut response = match self.0.node.lease_time_to_live(request).await {
            // Gone is an answer, not an error: etcd's `LeaseTimeToLive` says -1.
            Err(Error::LeaseNotFound) => pb::LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() },
            answer => answer?,
        };
        if let Some(who) = who {
            self.0.unchanged_since(&who)?;
            // The leader's list may have a key that this member did not know a moment ago.
            self.0.node.read(|machine| machine.permit_lease_keys(&who, &response.keys))?;
        }
        response.header = self.0.header();
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (caller, _) = Caller::of(request);
        let may = |machine: &Machine, who: &Who| {
            machine.leases().iter().try_for_each(|(id, _)| machine.permit_lease(who, id, Access::Read))
        };
        self.0.look_as(&caller, may, |_| Ok(())).await?;
        let leases = self.0.node.leases();
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.0.header(), leases }))
    }
}

/// One client's stream of renewals: each request has one answer, in order.
struct Renewals {
    front: Front,
    caller: Caller,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    /// What ends the stream from outside. It is polled only when it has been woken itself: requests are many.
    end: FuturesUnordered<BoxFuture<'static, Error>>,
}

impl Renewals {
    async fn next(&mut self) -> Option<Result<pb::LeaseKeepAliveResponse, Status>> {
        let request = tokio::select! {
            request = self.requests.message() => request,
            Some(e) = self.end.next() => return Some(Err(e.into())),
        };
        let id = match request {
            Ok(Some(request)) => request.id,
            Ok(None) => return None,
            Err(status) => {
                if !matches!(status.code(), tonic::Code::Cancelled | tonic::Code::Unknown) {
                    meter::STREAM_FAILURES.with(&["receive", "lease-keepalive"]).inc();
                }
                return Some(Err(in_grpcs_words(status)));
            }
        };
        if let Err(e) = self.front.permit_lease(&self.caller, LeaseId(id), Access::Write).await {
            return Some(Err(e.into()));
        }
        // Before the renewal, as etcd does: the revision is not later than the answer.
        let header = self.front.header();
        let renewed = tokio::select! {
            renewed = self.front.node.lease_keep_alive(LeaseId(id)) => renewed,
            Some(e) = self.end.next() => return Some(Err(e.into())),
        };
        match renewed {
            Ok(ttl) => Some(Ok(pb::LeaseKeepAliveResponse { header, id, ttl })),
            Err(Error::LeaseNotFound) => Some(Ok(pb::LeaseKeepAliveResponse { header, id, ttl: 0 })),
            Err(e) => Some(Err(e.into())),
        }
    }
}
