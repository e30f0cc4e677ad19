//! Election: one leader for each name, with a value that it may change and that others may follow.
//!
//! The same queue as a lock's, but with a value in the key: the leader is whose key below `name/` was created first. Source: etcd
//! `api/v3election/election.go`, `client/v3/concurrency/election.go`; contract-server 4.7.
//!
//! Two things are otherwise than in etcd. A candidate that had to wait and lost its lease meanwhile is told that it does not lead; etcd would say that it
//! does. And an observer who may not read, or may no more, is told so; etcd's stream ends without a word.

use super::concurrency::Agent;
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

/// As its methods are named in the log.
const SERVICE: &str = "/v3electionpb.Election";

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
    agent: &Agent,
    key: &Bytes,
    created: i64,
    value: Bytes,
    lease: i64,
) -> Result<Option<ResponseHeader>, Status> {
    let answer = agent.if_created(key, created, vec![put(key, value, lease)], Vec::new()).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(not_leader()) }
}

#[tonic::async_trait]
impl Election for Service {
    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let (agent, pb::CampaignRequest { name, lease, value }) = Agent::of(&self.0, SERVICE, request);
        let lease = agent.session(lease).await?;
        let prefix = prefix(&name);
        let key = key(&prefix, lease);
        let stand = vec![put(&key, value.clone(), lease)];
        let stand = agent.if_created(&key, 0, stand, vec![Op::RequestRange(get(&key))]).await?;
        let (created, before) = match found(&stand, 0) {
            Some(kv) => (kv.create_revision, Some(&kv.value)),
            None => (stand.header.map_or(0, |header| header.revision), None),
        };
        let place = Place::new(&agent, &key, created);
        if before.is_some_and(|before| *before != value)
            && let Err(status) = proclaim(&agent, &key, created, value, lease).await
        {
            place.leave().await;
            return Err(status);
        }
        let leads = match agent.wait_for_turn(&prefix, created - 1).await {
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
        let (agent, pb::ProclaimRequest { leader, value }) = Agent::of(&self.0, SERVICE, request);
        let leader = named(leader)?;
        let lease = agent.session(leader.lease).await?;
        let header = proclaim(&agent, &leader.key, leader.rev, value, lease).await?;
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        let (agent, pb::LeaderRequest { name }) = Agent::of(&self.0, SERVICE, request);
        let found = agent.range(first_created(&prefix(&name), SortOrder::Ascend)).await?;
        let kv = found.kvs.into_iter().next().ok_or_else(|| uncoded("election: no leader"))?;
        Ok(Response::new(pb::LeaderResponse { header: found.header, kv: Some(kv) }))
    }

    type ObserveStream = ReceiverStream<Result<pb::LeaderResponse, Status>>;

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (agent, pb::LeaderRequest { name }) = Agent::of(&self.0, SERVICE, request);
        let mut guard = self.0.stream_guard(agent.headers());
        let (said, observed) = mpsc::channel(OBSERVED_MAX);
        tokio::spawn(async move {
            let prefix = prefix(&name);
            tokio::select! {
                ended = follow(&agent, &prefix, &said) => if let Err(status) = ended {
                    let _gone = said.send(Err(status)).await;
                },
                e = guard.ended() => drop(said.try_send(Err(e.into()))),
                () = said.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(observed)))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        let (agent, pb::ResignRequest { leader }) = Agent::of(&self.0, SERVICE, request);
        let leader = named(leader)?;
        agent.session(leader.lease).await?;
        let answer = free(agent, leader.key, leader.rev).await?;
        Ok(Response::new(pb::ResignResponse { header: answer.header }))
    }
}

type Said = mpsc::Sender<Result<pb::LeaderResponse, Status>>;

/// Tells of each leader and of each value that it gives itself. Not every leader of a quick succession is told of, but always the last one.
async fn follow(agent: &Agent, prefix: &Bytes, said: &Said) -> Result<(), Status> {
    loop {
        let (header, kv) = leader(agent, prefix).await?;
        let user = agent.user().await;
        let (key, seen) = (kv.key.clone(), header.revision);
        if said.send(Ok(pb::LeaderResponse { header: Some(header), kv: Some(kv) })).await.is_err() {
            return Ok(());
        }
        let mut watch = agent.watch(key.clone(), Bytes::new(), seen + 1);
        'reign: while let Some(response) = watch.next().await? {
            agent.may_read(user.as_deref(), &key)?;
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
async fn leader(agent: &Agent, prefix: &Bytes) -> Result<(ResponseHeader, KeyValue), Status> {
    loop {
        let found = agent.range(first_created(prefix, SortOrder::Ascend)).await?;
        let header = found.header.unwrap_or_default();
        if let Some(kv) = found.kvs.into_iter().next() {
            return Ok((header, kv));
        }
        let mut watch = agent.watch(prefix.clone(), prefix_end(prefix).into(), header.revision);
        while let Some(response) = watch.next().await? {
            let put = response.events.into_iter().find(|event| event.r#type == EventType::Put as i32);
            if let Some(kv) = put.and_then(|event| event.kv) {
                let header = ResponseHeader { revision: kv.mod_revision, ..response.header.unwrap_or_default() };
                return Ok((header, kv));
            }
        }
    }
}
