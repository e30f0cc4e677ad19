//! KV: range, put, delete, transaction, compaction.
//!
//! Each call is checked, sent where it belongs (this member's state, a read barrier, or the log) and its header completed.
//! Source: etcd `api/v3rpc/key.go`, `etcdserver/v3_server.go`; contract-server 2.

use super::front::Front;
use super::front::wrong_reply;
use super::identity::Caller;
use super::range_stream;
use super::room::Seat;
use super::slow;
use super::slow::Asked;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::apply::check;
use crate::apply::loggable;
use crate::auth::Access;
use crate::auth::Who;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::response_op;
use crate::types::KeyRange;
use crate::types::Revision;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// The KV service.
pub(super) struct Service(pub(super) Front);

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let (caller, request) = Caller::of(request);
        slow::asks(|| Asked::Range(request.clone()));
        if !request.serializable && self.0.node.status().is_learner {
            return Err(Error::NotSupportedForLearner.into());
        }
        check::range(&request)?;
        if !request.serializable {
            self.0.node.read_barrier().await?;
        }
        let keys = || KeyRange::parse(&request.key, &request.range_end);
        let may = |machine: &Machine, who: &Who| machine.auth().permit(who, &keys(), Access::Read);
        let node = &self.0.node;
        let read = async || self.0.room.read(node, || node.select(&request)).await;
        let carried_out = slow::Read::begin();
        let found = self.0.read_as(&caller, may, read).await;
        carried_out.range_done(found.is_ok());
        let told = found.as_ref().map(|(response, _)| ("range_response_count", response.kvs.len(), response));
        let (limit, told) = (self.0.limits.warn_read, told.map_err(|_| "the read failed"));
        slow::warn_of_read("read-only range ", limit, || loggable::range(&request), told);
        let (mut response, seat) = found?;
        slow::counts(response.count);
        slow::answers(response.kvs.len(), response.header.as_ref());
        self.0.stamp(&mut response.header);
        Ok(seat.with(response))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let (caller, put) = Caller::of(request);
        slow::asks(|| Asked::Put(put.clone()));
        let checked = check::put(&put);
        let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
        if let Err(why) = checked {
            return Err(self.refused(request, why).await);
        }
        let Reply::Put(mut response) = self.0.propose_as(&caller, request).await? else { return Err(wrong_reply()) };
        slow::answers(0, response.header.as_ref());
        self.0.stamp(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let (caller, delete) = Caller::of(request);
        slow::asks(|| Asked::Delete(delete.clone()));
        check::delete(&delete)?;
        let request = pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() };
        let Reply::DeleteRange(mut response) = self.0.propose_as(&caller, request).await? else {
            return Err(wrong_reply());
        };
        slow::counts(response.deleted);
        self.0.stamp(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let (caller, txn) = Caller::of(request);
        slow::asks(|| Asked::Txn(txn.clone()));
        let checked = check::txn(&txn, self.0.limits.txn_ops_max);
        let (mut response, seat) = if checked.is_ok() && check::is_read_only(&txn) {
            Box::pin(self.read_txn(&caller, &txn)).await?
        } else {
            let request = pb::InternalRaftRequest { txn: Some(txn), ..Default::default() };
            if let Err(why) = checked {
                return Err(self.refused(request, why).await);
            }
            match self.0.propose_as(&caller, request).await? {
                Reply::Txn(response) => (response, Seat::default()),
                _ => return Err(wrong_reply()),
            }
        };
        slow::decided(response.succeeded);
        slow::answers(response.responses.len(), response.header.as_ref());
        self.0.stamp(&mut response.header);
        complete(&mut response);
        Ok(seat.with(response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let (caller, compaction) = Caller::of(request);
        let request = pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
        let reply = self.0.propose_as(&caller, request).await;
        // Also one that came too late waits, for the removal that came first.
        if compaction.physical && matches!(reply, Ok(_) | Err(Error::Compacted)) {
            self.0.node.swept(Revision(compaction.revision.max(0).unsigned_abs())).await;
        }
        let Reply::Compaction(_) = reply? else { return Err(wrong_reply()) };
        Ok(Response::new(pb::CompactionResponse { header: self.0.header() }))
    }

    type RangeStreamStream = range_stream::Pages;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Ok(Response::new(range_stream::start(&self.0, request).await?))
    }
}

impl Service {
    /// What a client hears whose request is refused. Does not keep the request while it waits: it takes much memory.
    fn refused(&self, request: pb::InternalRaftRequest, why: Error) -> impl Future<Output = Status> + Send + use<'_> {
        let refusal = self.0.refuse(&request, why);
        async move { refusal.await.into() }
    }

    async fn read_txn(&self, caller: &Caller, txn: &pb::TxnRequest) -> Result<(pb::TxnResponse, Seat), Error> {
        if !check::is_serializable(txn) {
            self.0.node.read_barrier().await?;
        }
        slow::begins();
        let may = |machine: &Machine, who: &Who| machine.permit_txn(who, txn);
        let node = &self.0.node;
        let found = self.0.read_as(caller, may, async || self.0.room.read(node, || node.select_txn(txn)).await).await;
        let told = found.as_ref().map(|(response, _)| ("responses", response.responses.len(), response));
        let (limit, told) = (self.0.limits.warn_read, told.map_err(|_| "the read failed"));
        slow::warn_of_read("read-only txn ", limit, || loggable::txn(txn), told);
        found
    }
}

/// A transaction's operations always have a header on the wire, an inner transaction's an empty one.
fn complete(response: &mut pb::TxnResponse) {
    for op in &mut response.responses {
        if let Some(response_op::Response::ResponseTxn(inner)) = &mut op.response {
            inner.header.get_or_insert_default();
            complete(inner);
        }
    }
}
