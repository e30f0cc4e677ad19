//! Watch: requests in, responses out, on one stream.
//!
//! What is told, in which order and to whom is the hub's business (`crate::watch`); here the stream is driven: read a request when there is room for its
//! answer, send the next response, ask for progress now and then, and end when the client goes away or the server stops. A client that only closes its side
//! of the stream (as grpcurl does after its last request) goes on listening. Source: etcd `api/v3rpc/watch.go`; contract-server 3.

use super::front::Front;
use super::front::StreamGuard;
use super::identity::Caller;
use super::identity::watch_refusal;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::meter;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::watch::Stream;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use futures::stream::unfold;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::time::Duration;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::WatchStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

/// Shortest pause between two progress notices. Source: etcd `minWatchProgressInterval`.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// The Watch service.
pub(super) struct Service(pub(super) Front);

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, requests) = Caller::of(request);
        let guard = self.0.stream_guard(caller.headers());
        let hub = self.0.node.watches().open_stream_of(caller.from());
        let session = Session {
            node: self.0.node.clone(),
            rights: Rights {
                front: self.0.clone(),
                caller,
                user: None,
                changes: WatchStream::from_changes(self.0.node.auth_changes()),
            },
            requests,
            hub,
            guard,
            is_half_closed: false,
            progress: progress_timer(self.0.limits.watch_progress),
        };
        let responses = unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await {
                Ok(response) => Some((Ok(response), Some(session))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(responses.boxed()))
    }
}

/// Ticks each `interval` and up to a tenth more, so that many streams do not tick at once.
#[expect(clippy::disallowed_methods, reason = "a stream's own timer needs the clock")]
fn progress_timer(interval: Duration) -> Interval {
    let interval = interval.max(PROGRESS_MIN);
    let interval = interval + interval.mul_f64(StdRng::from_os_rng().random::<f64>() / 10.0);
    let mut timer = tokio::time::interval_at(Instant::now() + interval, interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// One client's stream.
struct Session {
    node: Node,
    rights: Rights,
    requests: Streaming<pb::WatchRequest>,
    hub: Stream,
    guard: StreamGuard,
    /// The client has no more requests; it still listens, and its watchers go on.
    is_half_closed: bool,
    progress: Interval,
}

impl Session {
    /// The next thing to send. The stream ends with an error only; a client that goes away takes it along.
    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        let Session { node, rights, requests, hub, guard, is_half_closed, progress } = self;
        loop {
            let request = async {
                hub.room().await;
                requests.message().await
            };
            tokio::select! {
                response = hub.next(node.history()) => return match response {
                    Ok(response) => {
                        failpoint::hit(Point::BeforeSendWatchResponse);
                        Ok(stamped(node, response))
                    }
                    Err(e) => Err(e.into()),
                },
                request = request, if !*is_half_closed => match request {
                    Ok(Some(request)) => match rights.refusal(&request).await {
                        Some(reason) => hub.refuse(&reason),
                        None => hub.request(request),
                    },
                    Ok(None) => *is_half_closed = true,
                    Err(status) => return Err(broken(status)),
                },
                _ = progress.tick() => hub.report_progress(),
                _ = rights.changes.next() => rights.judge_again(hub).await,
                e = guard.ended() => return Err(e.into()),
            }
        }
    }
}

/// Whether the client may watch what it watches.
struct Rights {
    front: Front,
    caller: Caller,
    /// Who opened the watchers, once that was asked. A token may run out while they last; the right to them does not with it.
    user: Option<String>,
    changes: WatchStream<u64>,
}

impl Rights {
    /// Why a request is refused, if it is: a watcher on keys that its user may not read. A start below zero is the hub's to refuse, before.
    async fn refusal(&mut self, request: &pb::WatchRequest) -> Option<String> {
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else { return None };
        if create.start_revision < 0 {
            return None;
        }
        match self.front.permit_watch(&self.caller, create).await {
            Ok(who) => {
                self.user = who.map(|who| who.user).or(self.user.take());
                None
            }
            Err(e) => Some(watch_refusal(&e)),
        }
    }

    /// Rights have changed: cancels the watchers that their user would not be let have any more. etcd lets them run on.
    async fn judge_again(&mut self, hub: &Stream) {
        if self.user.is_none() {
            // Opened while authentication was off.
            self.user = self.front.who(&self.caller).await.ok().flatten().map(|who| who.user);
        }
        for (id, range) in hub.watchers() {
            if let Err(e) = self.front.permit_user(self.user.as_deref(), &range) {
                hub.revoke(id, &watch_refusal(&e));
            }
        }
    }
}

/// A client that goes away is told, if it still listens, that its watch is cancelled.
fn broken(status: Status) -> Status {
    if !matches!(status.code(), tonic::Code::Cancelled | tonic::Code::Unknown) {
        meter::STREAM_FAILURES.with(&["receive", "watch"]).inc();
    }
    match status.code() {
        tonic::Code::Cancelled | tonic::Code::Unknown => Error::WatchCanceled.into(),
        _ => super::front::in_grpcs_words(status),
    }
}

fn stamped(node: &Node, mut response: pb::WatchResponse) -> pb::WatchResponse {
    node.stamp(response.header.get_or_insert_default());
    response
}
