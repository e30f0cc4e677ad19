//! What Lock and Election have in common: a queue of keys, each on its owner's lease, the oldest first in line.
//!
//! ```text
//! name/694d7b1a  created at 7   ◀─ holds it        waits for: nobody
//! name/694d7b1f  created at 9                      waits for: the key created last before 9
//! name/694d7b22  created at 12                     waits for: the key created last before 12
//! ```
//!
//! Each waits for the one key right before its own, so that a release wakes one waiter and not all. Everything is done in the caller's name,
//! through this server's own KV and Lease services: his token and his certificate go with every request, as in etcd, whose services are
//! clients of the server that they are part of.
//!
//! A waiter whose lease ran out has lost its place, and must not be told that it holds anything: whoever had to wait looks once more for
//! its own key (Jepsen found etcd 3.4.3 without that). Locks are advisory all the same. Who needs to be safe hands the key's revision on to
//! whatever the lock protects.
//!
//! Source: etcd `client/v3/concurrency` (`session.go`, `mutex.go`, `election.go`, `key.go`), `server/etcdserver/api/v3client`; contract-server 4.7.

use super::front::Front;
use super::identity;
use super::kv;
use super::lease;
use crate::apply::check;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::etcdserverpb::lease_server::Lease as _;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::etcdserverpb::request_op;
use crate::proto::etcdserverpb::response_op;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use crate::types::KeyRange;
use crate::types::prefix_end;
use crate::watch::Stream;
use bytes::Bytes;
use http::HeaderMap;
use tonic::Code;
use tonic::Extensions;
use tonic::Request;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Seconds that a session lives whose owner brought no lease; etcd's `defaultSessionTTL`. Nobody keeps it alive.
const SESSION_TTL: i64 = 60;

/// An error that etcd knows in its client library only, so that it has no code on the wire.
pub(super) fn uncoded(text: impl Into<String>) -> Status {
    Status::unknown(text)
}

/// In etcd an error passes through the library of clients on its way, and loses its code there, unless it is that of a context.
fn passed_on(status: Status) -> Status {
    if status.code() == Code::DeadlineExceeded { status } else { uncoded(status.message()) }
}

/// Does everything in the name of who asked.
#[derive(Clone)]
pub(super) struct Agent {
    front: Front,
    service: &'static str,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Agent {
    /// Takes a request to `service` apart.
    pub(super) fn of<T>(front: &Front, service: &'static str, request: Request<T>) -> (Agent, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Agent { front: front.clone(), service, metadata, extensions }, message)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// The headers that came with the request.
    pub(super) fn headers(&self) -> &HeaderMap {
        self.metadata.as_ref()
    }

    /// The calls below do not pass the door, which would have asked for a user.
    async fn is_user(&self) -> Result<(), Status> {
        if !self.front.node.auth_is_on() {
            return Ok(());
        }
        let (caller, ()) = identity::Caller::of(self.request(()));
        self.front.require_user(self.service, &caller).await.map_err(|e| passed_on(e.into()))
    }

    pub(super) async fn range(&self, range: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.is_user().await?;
        let answer = kv::Service(self.front.clone()).range(self.request(range)).await;
        answer.map(tonic::Response::into_inner).map_err(passed_on)
    }

    /// Who asked, if somebody did whom this member knows.
    pub(super) async fn user(&self) -> Option<String> {
        let (caller, ()) = identity::Caller::of(self.request(()));
        self.front.who(&caller).await.ok().flatten().map(|who| who.user)
    }

    /// Whether `user` may still read `key`: a watch that lasts must not outlive the right to it, but may outlive the token that it was opened with.
    pub(super) fn may_read(&self, user: Option<&str>, key: &Bytes) -> Result<(), Status> {
        let verdict = self.front.permit_user(user, &KeyRange::Single(key.clone()));
        verdict.map_err(|e| passed_on(e.into()))
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        check::delete(&delete).map_err(|e| passed_on(e.into()))?;
        self.is_user().await?;
        let answer = kv::Service(self.front.clone()).delete_range(self.request(delete)).await;
        answer.map(tonic::Response::into_inner).map_err(passed_on)
    }

    /// Does one or the other, depending on whether `key` was created at `revision` (0: is not there).
    pub(super) async fn if_created(
        &self,
        key: &Bytes,
        revision: i64,
        then: Vec<request_op::Request>,
        otherwise: Vec<request_op::Request>,
    ) -> Result<pb::TxnResponse, Status> {
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::CreateRevision(revision)),
            ..Default::default()
        };
        let ops = |ops: Vec<request_op::Request>| {
            ops.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
        };
        let txn = pb::TxnRequest { compare: vec![compare], success: ops(then), failure: ops(otherwise) };
        check::txn(&txn, self.front.limits.txn_ops_max).map_err(|e| passed_on(e.into()))?;
        self.is_user().await?;
        let answer = kv::Service(self.front.clone()).txn(self.request(txn)).await;
        answer.map(tonic::Response::into_inner).map_err(passed_on)
    }

    /// The lease to use: the given one, or a new one for who gave none.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        self.is_user().await?;
        let grant = pb::LeaseGrantRequest { ttl: SESSION_TTL, id: 0 };
        let answer = lease::Service(self.front.clone()).lease_grant(self.request(grant)).await;
        answer.map(|response| response.into_inner().id).map_err(passed_on)
    }

    /// A watch of this server's own.
    pub(super) fn watch(&self, key: Bytes, range_end: Bytes, start_revision: i64) -> Watch {
        let stream = self.front.node.watches().open_stream();
        let create = pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        stream.request(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        Watch { agent: self.clone(), stream }
    }

    /// Waits until no key with this prefix is left that was created up to `revision`. True if there was one.
    pub(super) async fn wait_for_turn(&self, prefix: &Bytes, revision: i64) -> Result<bool, Status> {
        let mut waited = false;
        loop {
            let last = pb::RangeRequest { max_create_revision: revision, ..first_created(prefix, SortOrder::Descend) };
            let before = self.range(last).await?;
            let Some(KeyValue { key, .. }) = before.kvs.into_iter().next() else { return Ok(waited) };
            waited = true;
            let seen = before.header.map_or(0, |header| header.revision);
            let mut watch = self.watch(key, Bytes::new(), seen);
            let is_delete = |event: &crate::proto::mvccpb::Event| event.r#type == EventType::Delete as i32;
            // Overtaken by a compaction: look again.
            while watch.next().await?.is_some_and(|response| !response.events.iter().any(is_delete)) {}
        }
    }
}

/// A watch that the server keeps for a caller.
pub(super) struct Watch {
    agent: Agent,
    stream: Stream,
}

impl Watch {
    /// The next response with events; nothing once the watch has been overtaken by a compaction.
    pub(super) async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        let node = &self.agent.front.node;
        let mut guard = self.agent.front.stream_guard(&HeaderMap::new());
        loop {
            let mut response = tokio::select! {
                response = self.stream.next(node.history()) => response.map_err(Status::from)?,
                stopped = guard.ended() => return Err(stopped.into()),
            };
            if response.canceled {
                return Ok(None);
            }
            if !response.events.is_empty() {
                self.agent.front.stamp(&mut response.header);
                return Ok(Some(response));
            }
        }
    }
}

/// All below a name.
pub(super) fn prefix(name: &Bytes) -> Bytes {
    [name, &b"/"[..]].concat().into()
}

/// The key of a lease in a queue, with the lease in hexadecimal as Go's `%x` prints a signed number.
pub(super) fn key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// Asks for the one key with this prefix that was created first, or last.
pub(super) fn first_created(prefix: &Bytes, order: SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

pub(super) fn get(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: key.clone(), ..Default::default() }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> request_op::Request {
    request_op::Request::RequestPut(pb::PutRequest { key: key.clone(), value, lease, ..Default::default() })
}

/// The pair that the range at `place` of a transaction found first.
pub(super) fn found(response: &pb::TxnResponse, place: usize) -> Option<&KeyValue> {
    match response.responses.get(place)?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

/// A place in a queue. Given up, it frees the key; dropped while its owner still waits (the client has gone away), too.
pub(super) struct Place {
    agent: Agent,
    key: Bytes,
    created: i64,
    is_held: bool,
}

impl Place {
    pub(super) fn new(agent: &Agent, key: &Bytes, created: i64) -> Place {
        Place { agent: agent.clone(), key: key.clone(), created, is_held: true }
    }

    /// The queue is done with: whoever waited has the key now, or lost it.
    pub(super) fn keep(mut self) {
        self.is_held = false;
    }

    /// Deletes the key, if it is still the same one.
    pub(super) async fn leave(mut self) {
        self.is_held = false;
        let _best_effort = free(self.agent.clone(), self.key.clone(), self.created).await;
    }

    /// Whether the key is still there, and the same.
    pub(super) async fn is_still_there(&self) -> Result<Option<pb::RangeResponse>, Status> {
        let response = self.agent.range(get(&self.key)).await?;
        let is_same = response.kvs.first().is_some_and(|kv| kv.create_revision == self.created);
        Ok(is_same.then_some(response))
    }
}

/// Deletes `key` if it was created at `created`.
pub(super) async fn free(agent: Agent, key: Bytes, created: i64) -> Result<pb::TxnResponse, Status> {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    agent.if_created(&key, created, vec![request_op::Request::RequestDeleteRange(delete)], Vec::new()).await
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.is_held, tokio::runtime::Handle::try_current()) {
            let (agent, key, created) = (self.agent.clone(), self.key.clone(), self.created);
            runtime.spawn(async move {
                if let Err(status) = free(agent, key, created).await {
                    tracing::warn!(
                        error = status.message(),
                        "failed to give up a place in a queue: it ends with its lease"
                    );
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_go_prints_leases() {
        let below = prefix(&Bytes::from_static(b"job"));
        assert_eq!(key(&below, 0x694d_7b1a_0f00), "job/694d7b1a0f00");
        assert_eq!(key(&below, -10), "job/-a");
        assert_eq!(key(&prefix(&Bytes::new()), i64::MIN), "/-8000000000000000");
    }
}
