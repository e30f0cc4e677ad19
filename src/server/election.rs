//! Election: one leader for each name, with a value that it may change and that others may follow.
//!
//! The same queue as a lock's, but with a value in the key: the leader is whose key below `name/` was created first. Source: etcd
//! `api/v3election/election.go`, `client/v3/concurrency/election.go`; contract-server 4.7.
//!
//! Otherwise than in etcd, a candidate that had to wait and lost its lease meanwhile is told that it does not lead; etcd would say that it does.

use super::concurrency::Caller;
use super::concurrency::Place;
use super::concurrency::first_created;
use super::concurrency::found;
use super::concurrency::free;
use super::concurrency::get;
use super::concurrency::key;
use super::concurrency::prefix;
use super::concurrency::put;
use super::concurrency::uncoded;
use super::front::Front;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use crate::proto::v3electionpb as pb;
use crate::proto::v3electionpb::election_server::Election;
use crate::types::prefix_end;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// Responses that may wait for an observer.
const OBSERVED_MAX: usize = 16;

/// The Election service.
pub(super) struct Service(pub(super) Front);

fn not_leader() -> Status {
    uncoded("election: not leader")
}

fn named(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    leader.ok_or_else(|| uncoded("\"leader\" field must be provided"))
}

/// Gives a leader another value, if it still leads.
async fn proclaim(
    caller: &Caller,
    key: &Bytes,
    created: i64,
    value: Bytes,
    lease: i64,
) -> Result<Option<ResponseHeader>, Status> {
    let answer = caller.if_created(key, created, vec![put(key, value, lease)], Vec::new()).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(not_leader()) }
}

#[tonic::async_trait]
impl Election for Service {
    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let (caller, pb::CampaignRequest { name, lease, value }) = Caller::of(&self.0, request);
        let lease = caller.session(lease).await?;
        let prefix = prefix(&name);
        let key = key(&prefix, lease);
        let stand = vec![put(&key, value.clone(), lease)];
        let stand = caller.if_created(&key, 0, stand, vec![Op::RequestRange(get(&key))]).await?;
        let (created, before) = match found(&stand, 0) {
            Some(kv) => (kv.create_revision, Some(&kv.value)),
            None => (stand.header.map_or(0, |header| header.revision), None),
        };
        let place = Place::new(&caller, &key, created);
        if before.is_some_and(|before| *before != value)
            && let Err(status) = proclaim(&caller, &key, created, value, lease).await
        {
            place.leave().await;
            return Err(status);
        }
        let leads = match caller.wait_for_turn(&prefix, created - 1).await {
            Ok(true) => place.is_still_there().await.map(|still| still.is_some()),
            waited => waited.map(|_| true),
        };
        // As in etcd, an error leaves the candidate in the queue.
        place.keep();
        if !leads? {
            return Err(not_leader());
        }
        let leader = Some(pb::LeaderKey { name, key, rev: created, lease });
        Ok(Response::new(pb::CampaignResponse { header: stand.header, leader }))
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        let (caller, pb::ProclaimRequest { leader, value }) = Caller::of(&self.0, request);
        let leader = named(leader)?;
        let lease = caller.session(leader.lease).await?;
        let header = proclaim(&caller, &leader.key, leader.rev, value, lease).await?;
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        let (caller, pb::LeaderRequest { name }) = Caller::of(&self.0, request);
        let found = caller.range(first_created(&prefix(&name), SortOrder::Ascend)).await?;
        let kv = found.kvs.into_iter().next().ok_or_else(|| uncoded("election: no leader"))?;
        Ok(Response::new(pb::LeaderResponse { header: found.header, kv: Some(kv) }))
    }

    type ObserveStream = ReceiverStream<Result<pb::LeaderResponse, Status>>;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (caller, pb::LeaderRequest { name }) = Caller::of(&self.0, request);
        let mut guard = self.0.stream_guard(caller.headers());
        let (said, observed) = mpsc::channel(OBSERVED_MAX);
        tokio::spawn(async move {
            let prefix = prefix(&name);
            tokio::select! {
                // An error ends the stream without a word, as in etcd.
                _ended = follow(&caller, &prefix, &said) => {}
                e = guard.ended() => drop(said.try_send(Err(e.into()))),
                () = said.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(observed)))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        let (caller, pb::ResignRequest { leader }) = Caller::of(&self.0, request);
        let leader = named(leader)?;
        caller.session(leader.lease).await?;
        let answer = free(caller, leader.key, leader.rev).await?;
        Ok(Response::new(pb::ResignResponse { header: answer.header }))
    }
}

type Said = mpsc::Sender<Result<pb::LeaderResponse, Status>>;

/// Tells of each leader and of each value that it gives itself. Not every leader of a quick succession is told of, but always the last one.
async fn follow(caller: &Caller, prefix: &Bytes, said: &Said) -> Result<(), Status> {
    loop {
        let (header, kv) = leader(caller, prefix).await?;
        let (key, seen) = (kv.key.clone(), header.revision);
        if said.send(Ok(pb::LeaderResponse { header: Some(header), kv: Some(kv) })).await.is_err() {
            return Ok(());
        }
        let mut watch = caller.watch(key, Bytes::new(), seen + 1);
        'reign: while let Some(response) = watch.next().await? {
            for event in response.events {
                if event.r#type == EventType::Delete as i32 {
                    break 'reign;
                }
                let news = pb::LeaderResponse { header: response.header, kv: event.kv };
                if said.send(Ok(news)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// The leader, with the revision at which that is known; waits until there is one.
async fn leader(caller: &Caller, prefix: &Bytes) -> Result<(ResponseHeader, KeyValue), Status> {
    loop {
        let found = caller.range(first_created(prefix, SortOrder::Ascend)).await?;
        let header = found.header.unwrap_or_default();
        if let Some(kv) = found.kvs.into_iter().next() {
            return Ok((header, kv));
        }
        let mut watch = caller.watch(prefix.clone(), prefix_end(prefix).into(), header.revision);
        while let Some(response) = watch.next().await? {
            let put = response.events.into_iter().find(|event| event.r#type == EventType::Put as i32);
            if let Some(kv) = put.and_then(|event| event.kv) {
                let header = ResponseHeader { revision: kv.mod_revision, ..response.header.unwrap_or_default() };
                return Ok((header, kv));
            }
        }
    }
}
