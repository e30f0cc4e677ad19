//! Where clients come to a simulated member: its client address, with etcd's services behind it.
//!
//! Each door has a runtime of its own: when the member ends, all its sockets end at once, as a process's do. A member that stands still takes
//! connections and does not answer, as one that was sent STOP.

use super::Hall;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::sim::live::Live;
use crate::sim::live::unknown_put;
use crate::sim::live::unknown_txn;
use crate::types::MemberId;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::service::Routes;

/// How often it is looked whether a member goes on, and whether a watch has something to tell.
const LOOK: Duration = Duration::from_millis(10);
/// A member that cannot find an answer says so in real time: later than clients usually wait. The lab's real members take as long.
const HELD: Duration = Duration::from_secs(6);
/// Responses of a watch that may wait for their client.
const WATCH_QUEUE: usize = 64;

/// An open door. It is closed when it is dropped, with all who came in.
pub(super) struct Door(Option<Runtime>);

impl Door {
    /// Opens the door of this member at its address; nothing if the address cannot be had, and then it is tried again.
    pub(super) fn open(endpoint: &str, who: usize, hall: &Arc<Hall>) -> Option<Door> {
        let listener = TcpListener::bind(endpoint).ok()?;
        listener.set_nonblocking(true).ok()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().ok()?;
        let member = Member { hall: Arc::downgrade(hall), who };
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let services = Routes::new(KvServer::new(member.clone()))
                .add_service(WatchServer::new(member.clone()))
                .add_service(ClusterServer::new(member.clone()))
                .add_service(MaintenanceServer::new(member))
                .into_axum_router()
                .fallback(|uri: http::Uri| async move { missing(uri.path()).into_http::<axum::body::Body>() });
            let server = tonic::transport::Server::builder().add_routes(Routes::from(services));
            // It ends with its runtime.
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Some(Door(Some(runtime)))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be one of its own requests that ends it, so nobody is waited for.
            runtime.shutdown_background();
        }
    }
}

/// What is said to a request that the simulation cannot answer.
fn missing(what: &str) -> Status {
    let what = what.rsplit('/').next().unwrap_or(what);
    Status::unimplemented(format!("the lab's simulation has no {what}: run this lab with --engine real"))
}

fn known(unknown: Option<&str>) -> Result<(), Status> {
    unknown.map_or(Ok(()), |what| Err(missing(what)))
}

#[derive(Clone)]
struct Member {
    hall: Weak<Hall>,
    who: usize,
}

impl Member {
    fn hall(&self) -> Result<Arc<Hall>, Status> {
        self.hall.upgrade().ok_or_else(|| Error::Stopped.into())
    }

    /// Asks the simulated member, once it does not stand still.
    async fn ask<T>(&self, call: impl FnOnce(&mut Live, usize) -> Result<T, Error>) -> Result<T, Status> {
        let hall = self.hall()?;
        while hall.live.lock().is_paused(self.who) {
            tokio::time::sleep(LOOK).await;
        }
        let answer = hall.with(|live| {
            let answer = call(live, self.who);
            match live.broken() {
                Some(why) => Err(Status::internal(format!("the simulator's judge: {why}"))),
                None => Ok(answer),
            }
        })?;
        if answer.as_ref().err() == Some(&Error::Timeout) {
            tokio::time::sleep(HELD).await;
        }
        Ok(answer?)
    }
}

#[tonic::async_trait]
impl Kv for Member {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        self.ask(|live, who| live.range(who, &request)).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let put = request.into_inner();
        known(unknown_put(&put))?;
        self.ask(|live, who| live.put(who, put)).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let delete = request.into_inner();
        self.ask(|live, who| live.delete(who, delete)).await.map(Response::new)
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let txn = request.into_inner();
        known(unknown_txn(&txn))?;
        self.ask(|live, who| live.txn(who, txn)).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let compact = request.into_inner();
        self.ask(|live, who| live.compact(who, compact)).await.map(Response::new)
    }

    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(missing("RangeStream"))
    }
}

#[tonic::async_trait]
impl Cluster for Member {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let linearizable = request.into_inner().linearizable;
        self.ask(|live, who| live.members(who, linearizable)).await.map(Response::new)
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(missing("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(missing("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(missing("MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(missing("MemberPromote"))
    }
}

#[tonic::async_trait]
impl Maintenance for Member {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.ask(|live, who| live.status(who)).await.map(Response::new)
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        self.ask(|live, who| live.hash_kv(who, revision)).await.map(Response::new)
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let to = MemberId(request.into_inner().target_id);
        self.ask(|live, who| live.move_leader(who, to)).await?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        Err(missing("Alarm"))
    }

    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        Err(missing("Defragment"))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        Err(missing("Hash"))
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(missing("Snapshot"))
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(missing("Downgrade"))
    }
}

#[tonic::async_trait]
impl Watch for Member {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let hall = self.hall()?;
        let watch = hall.live.lock().open_watch(self.who).ok_or(Error::Stopped)?;
        let (to, responses) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(watched(Arc::downgrade(&hall), watch, request.into_inner(), to));
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }
}

/// Carries one stream of watches, until its client or its member is gone.
async fn watched(
    hall: Weak<Hall>,
    watch: u64,
    mut requests: Streaming<pb::WatchRequest>,
    to: mpsc::Sender<Result<pb::WatchResponse, Status>>,
) {
    let mut listens = true;
    loop {
        tokio::select! {
            request = requests.message(), if listens => match (request, hall.upgrade()) {
                (Ok(Some(request)), Some(hall)) => hall.live.lock().request_watch(watch, request),
                // Who has no more to ask may still listen.
                (Ok(None), _) => listens = false,
                _ => break,
            },
            () = to.closed() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        if !told(&hall, watch, &to) {
            break;
        }
    }
    if let Some(hall) = hall.upgrade() {
        hall.live.lock().close_watch(watch);
    }
}

/// Hands on what there is, as far as there is room. False: the stream is over.
fn told(hall: &Weak<Hall>, watch: u64, to: &mpsc::Sender<Result<pb::WatchResponse, Status>>) -> bool {
    let Some(hall) = hall.upgrade() else { return false };
    while let Ok(place) = to.try_reserve() {
        // The lock goes before the response does: sending wakes the client's task.
        let polled = hall.live.lock().poll_watch(watch);
        match polled {
            Ok(Some(response)) => place.send(Ok(response)),
            Ok(None) => return true,
            Err(why) => {
                place.send(Err(why.into()));
                return false;
            }
        }
    }
    true
}
