//! What a member answers on its peer URLs, and the loop that accepts connections there.
//!
//! | path | answer |
//! |---|---|
//! | `GET /raft/stream/{msgapp,message}/<from>` | a body that never ends: our messages to `<from>` |
//! | `POST /raft` | 204 once the member has taken the message |
//! | `POST /raft/snapshot` | 204 once the member has kept the image and taken the message |
//! | `GET /raft/state` | our applied state, for a member that has lost its own |
//! | `GET /raft/probing` | `{"OK":true,"Now":...}` |
//! | `GET /members`, `GET /version`, `GET /members/hashkv` | JSON |
//! | `POST /members/promote/<id>` | the leader makes a learner a voter for a follower's client: JSON |
//! | `POST /leases`, `POST /leases/internal` | the leader's answer for a follower's client |
//!
//! Source: etcd `rafthttp/http.go`, `etcdhttp/peer.go`, `corrupt.go`, `leasehttp/http.go`.

#![expect(clippy::disallowed_methods, reason = "an accept loop pauses when the process is out of files")]

mod deadline;

use super::BODY_BYTES_MAX;
use super::CONN_TIMEOUT;
use super::Peers;
use super::ask;
use super::ask::HashQuestion;
use super::ask::Versions;
use super::codec::StreamKind;
use super::headers;
use super::outbox::StreamBody;
use super::snapshot;
use super::snapshot::DbBody;
use crate::error::Error as Answer;
use crate::proto::etcdserverpb as pb;
use crate::proto::leasepb;
use crate::proto::raftpb::Message;
use crate::tls::Acceptor;
use crate::types::ETCD_VERSION;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::wall;
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::routing::post;
use bytes::Bytes;
use bytes::BytesMut;
use deadline::WriteDeadline;
use http::HeaderMap;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;

/// How many connections one listener keeps. A member needs four from each other one, and some for tools.
const CONNECTIONS_MAX: usize = 2048;

/// How long a client may take to send the head of a request; so long is a connection kept idle, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the accept loop rests when the process is out of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Bound to a peer URL.
pub enum Listener {
    Tcp(TcpListener),
    /// A socket file; it goes when nobody is served any more.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

enum Caller {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Caller> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| Caller::Tcp(stream, from)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Caller::Unix(stream)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(listener) = self
            && let Ok(address) = listener.local_addr()
            && let Some(path) = address.as_pathname()
        {
            // One that stays is replaced by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What to serve on the peer URLs: nothing but "not yet" until it is set, so that whoever asks a member that starts need not wait for it.
pub type Slot = Arc<OnceLock<Router>>;

/// Serves `router` on `listener` until `shutdown` completes; then closes all connections. Accepting goes on whatever happens to one
/// connection, and when the process is out of file descriptors.
pub async fn serve(
    listener: impl Into<Listener>,
    acceptor: Acceptor,
    router: Slot,
    shutdown: impl Future<Output = ()> + Send,
) {
    let listener: Listener = listener.into();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok(caller) => {
                    let router = router.get().cloned().unwrap_or_else(not_yet);
                    connections.spawn(serve_caller(caller, acceptor.clone(), router));
                }
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection on a peer URL");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The connection ends with the answer: the next one may be served.
fn not_yet() -> Router {
    Router::new().fallback(async || {
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "the member is starting").into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

async fn serve_caller(caller: Caller, acceptor: Acceptor, router: Router) {
    match caller {
        Caller::Tcp(tcp, from) => {
            if tcp.set_nodelay(true).is_ok() {
                serve_connection(tcp, Some(from), acceptor, router).await;
            }
        }
        Caller::Unix(file) => serve_connection(file, None, acceptor, router).await,
    }
}

async fn serve_connection<IO>(io: IO, from: Option<SocketAddr>, acceptor: Acceptor, router: Router)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // As Go names who comes by a socket file.
    let remote = || from.map_or_else(|| "@".to_owned(), |from| from.to_string());
    let stream = match acceptor.accept(io, from).await {
        Ok(stream) => stream,
        Err(e) => {
            tracing::warn!("remote-addr" = remote(), error = %e, "rejected connection on peer endpoint");
            crate::meter::HANDSHAKES_FAILED.with(&["peer", e.reason()]).inc();
            return;
        }
    };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection =
        http.serve_connection(TokioIo::new(WriteDeadline::new(stream, CONN_TIMEOUT)), TowerToHyperService::new(router));
    if let Err(e) = connection.await {
        tracing::debug!("remote-addr" = remote(), error = %e, "a peer's connection ended");
    }
}

pub(super) fn router(peers: Peers) -> Router {
    Router::new()
        .route("/raft", post(pipeline))
        .route("/raft/stream/{kind}/{from}", get(stream))
        .route("/raft/snapshot", post(take_snapshot))
        .route(snapshot::STATE_PATH, get(state))
        .route("/raft/probing", get(probing))
        .route("/members", get(members))
        .route("/members/hashkv", get(hash_kv))
        .route("/members/promote/{id}", post(promote))
        .route("/version", get(version))
        .route("/downgrade/enabled", get(downgrade_enabled))
        .route("/leases", post(lease_renew))
        .route("/leases/internal", post(lease_time_to_live))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "404 page not found"))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        .with_state(peers)
}

/// A status and a sentence, written as Go's `http.Error` does.
struct Refusal(StatusCode, Cow<'static, str>);

fn refuse(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal(status, text.into())
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("{}\n", self.1)));
        *response.status_mut() = self.0;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

fn answer(content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Peers {
    /// Puts our cluster on an answer, so that a stranger can see whom it asked.
    fn named(&self, mut response: Response<Body>) -> Response<Body> {
        let cluster = headers::value(&self.0.config.cluster.to_string());
        response.headers_mut().insert(headers::CLUSTER_ID, cluster);
        response
    }

    fn check(&self, from: &HeaderMap) -> Result<(), Refusal> {
        headers::check(from, self.0.config.cluster).map_err(|why| {
            tracing::warn!(
                "local-member-id" = %self.0.config.id, "remote-peer-server-name" = ?from.get(headers::SERVER_FROM),
                "remote-peer-server-version" = ?from.get(headers::SERVER_VERSION),
                "remote-peer-cluster-id" = ?from.get(headers::CLUSTER_ID), error = why, "rejected request from remote peer"
            );
            refuse(StatusCode::PRECONDITION_FAILED, why)
        })
    }

    /// Remembers a sender that is no member yet, so that it can be answered.
    fn note_sender(&self, from: &HeaderMap) {
        if let Some((id, urls)) = headers::sender(from)
            && !self.0.handler.is_removed(id)
            && let Err(e) = self.add_remote(id, &urls)
        {
            tracing::warn!("remote-peer-id" = %id, error = %e, "a peer names unusable URLs");
        }
    }
}

async fn stream(
    State(peers): State<Peers>,
    Path((kind, from)): Path<(String, String)>,
    from_headers: HeaderMap,
) -> Response<Body> {
    let opened = open_stream(&peers, &kind, &from, &from_headers);
    let mut response = peers.named(opened.into_response());
    response.headers_mut().insert(headers::SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
    response
}

fn open_stream(peers: &Peers, kind: &str, from: &str, head: &HeaderMap) -> Result<Response<Body>, Refusal> {
    peers.check(head)?;
    let not_found = |text| refuse(StatusCode::NOT_FOUND, text);
    let kind = StreamKind::ALL.into_iter().find(|k| k.path() == kind).ok_or_else(|| not_found("invalid path"))?;
    let from = headers::parse_id(from).ok_or_else(|| not_found("invalid from"))?;
    if peers.0.handler.is_removed(from) {
        tracing::warn!("remote-peer-id-from" = %from, "rejected stream from remote peer because it was removed");
        return Err(refuse(StatusCode::GONE, "removed member"));
    }
    let Some(link) = peers.link(from).filter(|link| link.is_full()) else {
        peers.note_sender(head);
        tracing::warn!("remote-peer-id-from" = %from, "failed to find remote peer in cluster");
        return Err(not_found("error sender not found"));
    };
    if !headers::is_for(head, peers.0.config.id) {
        tracing::warn!("remote-peer-id-from" = %from, "ignored streaming request; ID mismatch");
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    link.is_read();
    tracing::info!(
        "stream-writer-type" = kind.label(), "local-member-id" = %peers.0.config.id, "remote-peer-id" = %from,
        "established TCP streaming connection with remote peer"
    );
    Ok(Response::new(Body::new(StreamBody::attach(link, kind))))
}

async fn pipeline(State(peers): State<Peers>, head: HeaderMap, body: Body) -> Response<Body> {
    let taken = take_message(&peers, &head, body).await;
    peers.named(taken.map(|()| StatusCode::NO_CONTENT).into_response())
}

async fn take_message(peers: &Peers, head: &HeaderMap, body: Body) -> Result<(), Refusal> {
    peers.check(head)?;
    peers.note_sender(head);
    let whole = read(body).await?;
    let bad = |_| refuse(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
    let message = Message::decode(whole.bytes).map_err(bad)?;
    if peers.0.handler.is_removed(MemberId(message.from)) {
        return Err(refuse(StatusCode::FORBIDDEN, "cannot process message from removed member"));
    }
    // etcd answers 403 here, which an etcd sender takes for "you were removed" and stops.
    if message.to != peers.0.config.id.0 {
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    if !peers.0.rules.lets_in(MemberId(message.from)) {
        return Ok(());
    }
    if let Some(link) = peers.link(MemberId(message.from)).filter(|link| link.is_from_the_grave(&message)) {
        link.dropped_in();
        return Ok(());
    }
    let taken = peers.0.handler.receive(message);
    taken.map_err(|_| refuse(StatusCode::SERVICE_UNAVAILABLE, "error processing raft message"))
}

/// What every body may have: a renewal of a lease must not wait for the room that large ones take.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// How many bytes of bodies beyond that may be read at once, whoever sends them: two of the largest.
static ROOM: Semaphore = Semaphore::const_new(2 * BODY_BYTES_MAX);

/// A body of bounded size, in bounded time, beside others of bounded size: whoever reaches the port can send some.
async fn read(body: Body) -> Result<Whole, Refusal> {
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await;
    read.map_err(|_| refuse(StatusCode::BAD_REQUEST, "error reading body"))?
}

/// What was read of a body, and its part of [`ROOM`].
struct Whole {
    bytes: Bytes,
    _room: SemaphorePermit<'static>,
}

async fn collect(mut body: Body) -> Result<Whole, Refusal> {
    let (mut read, mut room) = (BytesMut::new(), ROOM.try_acquire_many(0).map_err(|_| no_room())?);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refuse(StatusCode::BAD_REQUEST, "error reading body"))?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_BYTES_MAX {
            return Err(refuse(StatusCode::BAD_REQUEST, "error reading body"));
        }
        read.extend_from_slice(&data);
        let counted = read.len().saturating_sub(SMALL_BODY_BYTES) - room.num_permits();
        let more = u32::try_from(counted).map_err(|_| no_room())?;
        room.merge(ROOM.try_acquire_many(more).map_err(|_| no_room())?);
    }
    Ok(Whole { bytes: read.freeze(), _room: room })
}

fn no_room() -> Refusal {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "too many bodies at once")
}

async fn take_snapshot(State(peers): State<Peers>, head: HeaderMap, body: Body) -> Response<Body> {
    let taken = async {
        peers.check(&head)?;
        peers.note_sender(&head);
        snapshot::take(&peers, &head, body).await.map_err(|(status, text)| refuse(status, text))
    };
    peers.named(taken.await.map(|()| StatusCode::NO_CONTENT).into_response())
}

/// Ours alone: a member of the same cluster has lost its store.
async fn state(State(peers): State<Peers>, head: HeaderMap) -> Response<Body> {
    let made = async {
        peers.check(&head)?;
        let unnamed = || refuse(StatusCode::BAD_REQUEST, "error sender not named");
        let (from, _) = headers::sender(&head).ok_or_else(unnamed)?;
        if peers.0.handler.is_removed(from) {
            return Err(refuse(StatusCode::GONE, "removed member"));
        }
        if peers.0.rules.cuts(from) {
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the link is cut by a lab rule"));
        }
        let unable = |why: Answer| refuse(StatusCode::SERVICE_UNAVAILABLE, why.to_string());
        let (body, feeding) = DbBody::new(peers.0.handler.state(from).await.map_err(unable)?);
        tokio::spawn(feeding);
        Ok(answer("application/octet-stream", Body::new(body)))
    };
    peers.named(made.await.unwrap_or_else(Refusal::into_response))
}

async fn probing() -> Response<Body> {
    let now = OffsetDateTime::from(wall::seen(SystemTime::now())).format(&Rfc3339).unwrap_or_default();
    answer("application/json", serde_json::json!({ "OK": true, "Now": now }).to_string())
}

async fn members(State(peers): State<Peers>) -> Response<Body> {
    let json = serde_json::to_string(&peers.0.handler.members()).unwrap_or_default();
    peers.named(answer("application/json", json + "\n"))
}

async fn promote(State(peers): State<Peers>, Path(id): Path<String>, head: HeaderMap) -> Response<Body> {
    let promoted = async {
        // In decimal, unlike everywhere else.
        let not_found = || refuse(StatusCode::NOT_FOUND, format!("member {id} not found in cluster"));
        let id = id.parse().map(MemberId).map_err(|_| not_found().into_response())?;
        let token = head.get(header::AUTHORIZATION).and_then(|token| token.to_str().ok()).map(str::to_owned);
        let members = peers.0.handler.promote(id, token).await.map_err(|why| {
            tracing::warn!("member-id" = %id, error = %why, "failed to promote a member");
            refuse_promotion(&why)
        })?;
        let json = serde_json::to_string(&members).unwrap_or_default();
        Ok::<_, Response<Body>>(answer("application/json", json + "\n"))
    };
    peers.named(promoted.await.unwrap_or_else(|refusal| refusal))
}

fn refuse_promotion(why: &Answer) -> Response<Body> {
    match why {
        Answer::MemberNotFound => refuse(StatusCode::NOT_FOUND, ask::NOT_FOUND).into_response(),
        Answer::MemberNotLearner => refuse(StatusCode::PRECONDITION_FAILED, ask::NOT_LEARNER).into_response(),
        Answer::LearnerNotReady => refuse(StatusCode::PRECONDITION_FAILED, why.to_string()).into_response(),
        // etcd tells nothing about the rest; the asking member tries again.
        _ => {
            let mut response = answer("application/json", r#"{"message":"Internal Server Error"}"#);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

async fn version(State(peers): State<Peers>) -> Response<Body> {
    let cluster = peers.0.handler.cluster_version();
    let storage = cluster.clone().unwrap_or_default();
    let cluster = cluster.unwrap_or_else(|| "not_decided".into());
    let versions = Versions { server: ETCD_VERSION.into(), cluster, storage };
    answer("application/json", serde_json::to_string(&versions).unwrap_or_default())
}

/// Asked by a leader, or by a member that starts, to compare its data with ours.
async fn hash_kv(State(peers): State<Peers>, head: HeaderMap, body: Body) -> Response<Body> {
    let hashed = async {
        let bad = |text: String| refuse(StatusCode::BAD_REQUEST, text);
        if headers::cluster_id(&head).is_some_and(|theirs| theirs != peers.0.config.cluster) {
            return Err(refuse(StatusCode::PRECONDITION_FAILED, headers::CLUSTER_ID_MISMATCH));
        }
        let question: HashQuestion =
            serde_json::from_slice(&read(body).await?.bytes).map_err(|_| bad("error unmarshalling request".into()))?;
        let hash = peers.0.handler.hash_kv(question.revision).await.map_err(|why| bad(why.to_string()))?;
        Ok(answer("application/json", serde_json::to_string(&hash).unwrap_or_default()))
    };
    peers.named(hashed.await.into_response())
}

/// Asked by a member that starts: while a downgrade is under way, only older releases may join.
async fn downgrade_enabled(State(peers): State<Peers>) -> Response<Body> {
    match peers.0.handler.downgrade_enabled().await {
        Ok(enabled) => peers.named(answer("text/plain", enabled.to_string())),
        Err(why) => refuse(StatusCode::INTERNAL_SERVER_ERROR, why.to_string()).into_response(),
    }
}

async fn lease_renew(State(peers): State<Peers>, body: Body) -> Response<Body> {
    let renewed = async {
        let request = pb::LeaseKeepAliveRequest::decode(read(body).await?.bytes).map_err(|_| unreadable())?;
        let id = request.id;
        let ttl = peers.0.handler.lease_renew(LeaseId(id)).await;
        let ttl = ttl.map_err(|e| refuse_lease(&e, StatusCode::BAD_REQUEST))?;
        Ok::<_, Refusal>(protobuf(&pb::LeaseKeepAliveResponse { header: None, id, ttl }))
    };
    renewed.await.into_response()
}

async fn lease_time_to_live(State(peers): State<Peers>, body: Body) -> Response<Body> {
    let looked_up = async {
        let request = leasepb::LeaseInternalRequest::decode(read(body).await?.bytes).map_err(|_| unreadable())?;
        let request = request.lease_time_to_live_request.ok_or_else(unreadable)?;
        let found = peers.0.handler.lease_time_to_live(request).await;
        let found = found.map_err(|e| refuse_lease(&e, StatusCode::INTERNAL_SERVER_ERROR))?;
        Ok::<_, Refusal>(protobuf(&leasepb::LeaseInternalResponse { lease_time_to_live_response: Some(found) }))
    };
    looked_up.await.into_response()
}

fn protobuf(message: &impl prost::Message) -> Response<Body> {
    answer("application/protobuf", message.encode_to_vec())
}

fn unreadable() -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

/// The statuses that the asking member tells apart; `other` for all else.
fn refuse_lease(e: &Answer, other: StatusCode) -> Refusal {
    match e {
        Answer::LeaseNotFound => refuse(StatusCode::NOT_FOUND, "lease not found"),
        Answer::TimeoutWaitApplied => {
            refuse(StatusCode::REQUEST_TIMEOUT, "waiting for node to catch up its applied index has timed out")
        }
        e => refuse(other, e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_that_are_read_at_once_have_a_bound_together() {
        let piece = Bytes::from(vec![0; 1 << 20]);
        let large =
            || Body::from_stream(futures::stream::iter(vec![Ok::<_, std::convert::Infallible>(piece.clone()); 100]));
        let (first, second) = (collect(large()).await.ok().expect("room"), collect(large()).await.ok().expect("room"));
        let third = collect(large()).await.err().expect("no room").into_response();
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(collect(Body::from(vec![0; SMALL_BODY_BYTES])).await.is_ok(), "small ones always have room");
        drop((first, second));
        assert_eq!(collect(large()).await.ok().expect("room again").bytes.len(), 100 << 20);
        let endless = Body::from_stream(futures::stream::repeat(Ok::<_, std::convert::Infallible>(piece)));
        let refused = collect(endless).await.err().expect("too large").into_response();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    }
}
