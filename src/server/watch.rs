//! Watch: requests in, responses out, on one stream.
//!
//! What is told, in which order and to whom is the hub's business (`crate::watch`); here the stream is driven: read a request when there is room for its
//! answer, send the next response, ask for progress now and then, and end when the client goes away or the server stops. A client that only closes its side
//! of the stream (as grpcurl does after its last request) goes on listening.
//!
//! There may be many streams, most of them idle, and one event may be for all of them. So an idle one has small buffers, and when an event comes, each looks
//! into the hub's queue and at nothing else: what comes seldom wakes a watch of its own. Source: etcd `api/v3rpc/watch.go`; contract-server 3.

use super::front::Front;
use super::identity::Caller;
use super::identity::watch_refusal;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::meter;
use crate::node::Node;
use crate::proto;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::watch::Stream;
use crate::watch::Told;
use futures::future::BoxFuture;
use futures::future::Either;
use futures::stream::BoxStream;
use futures::stream::SelectAll;
use futures::stream::StreamExt as _;
use futures::stream::once;
use futures::stream::select_all;
use futures::stream::unfold;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::future::poll_fn;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::wrappers::WatchStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::body::Body;
use tonic::codec;
use tonic::codec::BufferSettings;
use tonic::codec::CompressionEncoding;
use tonic::codec::EncodeBuf;
use tonic::server::Grpc;
use tonic::server::StreamingService;

/// Shortest pause between two progress notices. Source: etcd `minWatchProgressInterval`.
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// What the buffer of a stream's requests begins with, and that of its responses. They grow when they must.
const BUFFER_BYTES: usize = 128;
/// Responses are gathered up to so much before they are passed on.
const GATHERED_BYTES: usize = 32 * 1024;

/// Answers a call of the Watch service.
pub(super) async fn call<B>(front: &Front, request: http::Request<B>) -> http::Response<Body>
where
    B: hyper::body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    if request.uri().path() != "/etcdserverpb.Watch/Watch" {
        return Status::unimplemented("").into_http();
    }
    let grpc = Grpc::new(Codec).accept_compressed(CompressionEncoding::Gzip);
    let mut grpc = grpc.apply_max_message_size_config(Some(front.limits.message_bytes_max), None);
    grpc.streaming(Service(front.clone()), request).await
}

/// Reads requests, and writes responses whose events are bytes already.
struct Codec;

impl codec::Codec for Codec {
    type Encode = Told;
    type Decode = pb::WatchRequest;
    type Encoder = Codec;
    type Decoder = proto::Decoder<pb::WatchRequest>;

    fn encoder(&mut self) -> Codec {
        Codec
    }

    fn decoder(&mut self) -> proto::Decoder<pb::WatchRequest> {
        proto::Decoder::with_buffer(BUFFER_BYTES)
    }
}

impl codec::Encoder for Codec {
    type Item = Told;
    type Error = Status;

    fn encode(&mut self, told: Told, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(told.encoded_len());
        told.encode(into);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, GATHERED_BYTES)
    }
}

/// The Watch service.
struct Service(Front);

impl StreamingService<pb::WatchRequest> for Service {
    type Response = Told;
    type ResponseStream = BoxStream<'static, Result<Told, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let session = Box::new(Session::begin(&self.0, request));
        let responses = unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await {
                Ok(response) => Some((Ok(response), Some(session))),
                Err(status) => Some((Err(status), None)),
            }
        });
        std::future::ready(Ok(Response::new(responses.boxed())))
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

/// What comes seldom.
enum News {
    Request(Result<pb::WatchRequest, Status>),
    /// It is time to say how far the quiet ones are.
    Progress,
    RightsChanged,
    End(Error),
}

/// One client's stream.
struct Session {
    node: Node,
    rights: Rights,
    hub: Stream,
    /// Each of its streams is polled only when it has been woken itself. The client's requests may end: it still listens, and its watchers go on.
    news: SelectAll<BoxStream<'static, News>>,
    /// Whether the hub goes before the news next: they take turns, so that neither has to wait for a flood of the other.
    hub_first: bool,
}

impl Session {
    fn begin(front: &Front, request: Request<Streaming<pb::WatchRequest>>) -> Session {
        let (caller, requests) = Caller::of(request);
        let mut guard = front.stream_guard(caller.headers());
        let caller = caller.lasting();
        let changes = WatchStream::from_changes(front.node.auth_changes());
        let news = select_all([
            requests.map(News::Request).boxed(),
            IntervalStream::new(progress_timer(front.limits.watch_progress)).map(|_| News::Progress).boxed(),
            changes.map(|_| News::RightsChanged).boxed(),
            once(async move { News::End(guard.ended().await) }).boxed(),
        ]);
        let hub = front.node.watches().open_stream_of(caller.from());
        let (node, rights) = (front.node.clone(), Rights { front: front.clone(), caller, user: None });
        Session { node, rights, hub, news, hub_first: true }
    }

    /// The next thing to send. The stream ends with an error only; a client that goes away takes it along.
    async fn next(&mut self) -> Result<Told, Status> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Either::Left(told) => {
                    let mut told = told?;
                    failpoint::hit(Point::BeforeSendWatchResponse);
                    self.node.stamp(told.response.header.get_or_insert_default());
                    return Ok(told);
                }
                Either::Right(news) => self.hear(news).await?,
            }
        }
    }

    /// What the hub has to say, or news. Without room for answers there is something to send, so the news can wait.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Either<Result<Told, Error>, News>> {
        let hub_first = std::mem::replace(&mut self.hub_first, false);
        if hub_first && let Poll::Ready(told) = self.hub.poll_told(cx, self.node.history()) {
            return Poll::Ready(Either::Left(told));
        }
        if self.hub.has_room()
            && let Poll::Ready(Some(news)) = self.news.poll_next_unpin(cx)
        {
            self.hub_first = true;
            return Poll::Ready(Either::Right(news));
        }
        if hub_first {
            self.hub_first = true;
            return Poll::Pending;
        }
        self.hub.poll_told(cx, self.node.history()).map(Either::Left)
    }

    fn hear(&mut self, news: News) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async {
            match news {
                News::Request(Ok(request)) => match self.rights.refusal(&request).await {
                    Some(reason) => self.hub.refuse(&reason),
                    None => self.hub.request(request),
                },
                News::Request(Err(status)) => return Err(broken(status)),
                News::Progress => self.hub.report_progress(),
                News::RightsChanged => self.rights.judge_again(&self.hub).await,
                News::End(why) => return Err(why.into()),
            }
            Ok(())
        })
    }
}

/// Whether the client may watch what it watches.
struct Rights {
    front: Front,
    caller: Caller,
    /// Who opened the watchers, once that was asked. A token may run out while they last; the right to them does not with it.
    user: Option<String>,
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
