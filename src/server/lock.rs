//! Lock: one holder for each name, in the order in which they asked.
//!
//! Held means: the oldest key below `name/` is the caller's. It is let go by deleting the key (Unlock, or its lease running out). A caller
//! that goes away while it waits gives up its place; one that goes away afterwards keeps the lock as long as its lease lives.
//! Source: etcd `api/v3lock/lock.go`, `client/v3/concurrency/mutex.go`; contract-server 4.7.

use super::concurrency::Agent;
use super::concurrency::Place;
use super::concurrency::first_created;
use super::concurrency::found;
use super::concurrency::get;
use super::concurrency::key;
use super::concurrency::prefix;
use super::concurrency::put;
use super::concurrency::uncoded;
use super::front::Front;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::v3lockpb as pb;
use crate::proto::v3lockpb::lock_server::Lock;
use bytes::Bytes;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// As its methods are named in the log.
const SERVICE: &str = "/v3lockpb.Lock";

/// The Lock service.
pub(super) struct Service(pub(super) Front);

#[tonic::async_trait]
impl Lock for Service {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let (agent, pb::LockRequest { name, lease }) = Agent::of(&self.0, SERVICE, request);
        let lease = agent.session(lease).await?;
        let prefix = prefix(&name);
        let key = key(&prefix, lease);
        // The holder comes with the same answer: a lock that nobody holds costs one round.
        let holder = || Op::RequestRange(first_created(&prefix, SortOrder::Ascend));
        let queue = vec![put(&key, Bytes::new(), lease), holder()];
        let stand = agent.if_created(&key, 0, queue, vec![Op::RequestRange(get(&key)), holder()]).await?;
        let created = match stand.succeeded {
            true => stand.header.map_or(0, |header| header.revision),
            false => found(&stand, 0).map_or(0, |kv| kv.create_revision),
        };
        if found(&stand, 1).is_none_or(|holder| holder.create_revision == created) {
            return Ok(Response::new(pb::LockResponse { header: stand.header, key }));
        }
        let place = Place::new(&agent, &key, created);
        let mine = match agent.wait_for_turn(&prefix, created - 1).await {
            Ok(_) => place.is_still_there().await,
            Err(status) => Err(status),
        };
        match mine {
            Ok(Some(mine)) => {
                place.keep();
                Ok(Response::new(pb::LockResponse { header: mine.header, key }))
            }
            Ok(None) => {
                place.keep();
                Err(uncoded("mutex: session is expired"))
            }
            Err(status) => {
                place.leave().await;
                Err(status)
            }
        }
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        let (agent, pb::UnlockRequest { key }) = Agent::of(&self.0, SERVICE, request);
        let header = agent.delete(key).await?.header;
        Ok(Response::new(pb::UnlockResponse { header }))
    }
}
