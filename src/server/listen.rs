//! Sockets: bind, accept, shake hands, find out which HTTP is spoken, serve, and end.
//!
//! Nothing that a client does or leaves undone may stop the others: connections are counted, handshakes and first bytes have time limits, and an accept that
//! fails (no file descriptors left) is tried again. The socket is bound early, so that a taken port is known at once, and served once the member is ready.
//! Source: etcd `embed/serve.go`; contract-server 10.4, reliability 5.

#![expect(clippy::disallowed_methods, reason = "a listener waits and limits by the clock")]

use super::calls::Calls;
use super::door::Door;
use super::identity::Origin;
use super::joined::Joined;
use super::sniff::Sniffed;
use super::tally::Outbound;
use super::urls::Url;
use crate::meter;
use crate::tls::Acceptor;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustix::net::AddressFamily;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::sockopt;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a client may take for its first bytes.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take for the header of an HTTP/1 request, from the end of the one before: so long a connection is kept for whoever comes back every minute.
/// Source: etcd `embed/serve.go` (`ReadHeaderTimeout`).
const HEADER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long open connections may take to end once the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Bytes that one stream, and one connection, may send before we have read them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Connections that the kernel holds for us; Go's and the standard library's.
const BACKLOG: i32 = 4096;

/// Most bytes of all header fields of a request.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// Bounds of all connections of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) streams: u32,
    /// Zero: no pings.
    pub(super) ping_every: Duration,
    pub(super) ping_wait: Duration,
}

/// A bound socket.
pub(super) struct Socket {
    url: Url,
    kind: Kind,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// Binds a URL; the error is Go's sentence.
    pub(super) fn bind(url: &Url) -> Result<Socket, String> {
        Socket::bind_as(url, false)
    }

    /// The same; other processes may listen on the same port if `reuse_port`.
    pub(super) fn bind_as(url: &Url, reuse_port: bool) -> Result<Socket, String> {
        let kind = if url.is_unix() {
            Kind::Unix(bind_unix(Path::new(url.address()))?)
        } else {
            let socket = bind_tcp(url, reuse_port)?;
            Kind::Tcp(TcpListener::from_std(socket).map_err(|e| e.to_string())?)
        };
        Ok(Socket { url: url.clone(), kind })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Where it is bound; nothing for socket files.
    #[cfg(test)]
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }
}

/// Binds `host:port` of a URL for TCP; the error is Go's sentence.
pub(super) fn bind_tcp(url: &Url, reuse_port: bool) -> Result<std::net::TcpListener, String> {
    let told = |what: &str| format!("listen tcp {}: {what}", url.address());
    let port: u16 = match url.port() {
        "" => 0,
        port => port.parse().map_err(|_| format!("listen tcp: address {port}: invalid port"))?,
    };
    let found = (url.host(), port).to_socket_addrs().map_err(|e| told(&e.to_string()))?;
    let addresses = in_order(found.collect());
    let mut last = told("no address");
    for address in addresses {
        match listen_at(address, reuse_port) {
            Ok(socket) => {
                socket.set_nonblocking(true).map_err(|e| told(&e.to_string()))?;
                return Ok(socket);
            }
            Err(e) => last = format!("listen tcp {address}: bind: {}", bind_error(&e)),
        }
    }
    Err(last)
}

/// IPv4 first, as Go does for a name that has both: the system may put `::1` first for `localhost`, and clients dial 127.0.0.1.
fn in_order(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

fn listen_at(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    if !reuse_port {
        return std::net::TcpListener::bind(address);
    }
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The system's words for the commonest failures, without Rust's error numbers.
fn bind_error(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}

/// Binds a socket file. One that a dead process left behind is replaced, one that answers is not.
pub(super) fn bind_unix(path: &Path) -> Result<UnixListener, String> {
    let told = |e: &io::Error| format!("listen unix {}: bind: {}", path.display(), bind_error(e));
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && std::os::unix::net::UnixStream::connect(path).is_err() => {
            std::fs::remove_file(path).map_err(|e| told(&e))?;
            UnixListener::bind(path).map_err(|e| told(&e))
        }
        bound => bound.map_err(|e| told(&e)),
    }
}

/// Everything that a connection needs; shared by those of one listener.
struct Server {
    door: Door,
    acceptor: Acceptor,
    bounds: Bounds,
    room: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

/// Serves `socket` until `stopping`, then lets open connections end for a bounded time.
pub(super) async fn serve(
    socket: Socket,
    door: Door,
    acceptor: Acceptor,
    bounds: Bounds,
    stopping: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(bounds.connections));
    let server = Arc::new(Server { door, acceptor, bounds, room, stopping: stopping.clone() });
    let mut connections = JoinSet::new();
    let mut stopped = pin!(wait_for_stop(stopping));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&server.room).acquire_owned() => permit,
            () = &mut stopped => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = accept(&socket.kind) => accepted,
            () = &mut stopped => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(Peer::Tcp(stream, from)) => {
                let server = Arc::clone(&server);
                let _ = stream.set_nodelay(true);
                keep_alive(&stream);
                connections.spawn(async move {
                    server.connection(stream, Some(from)).await;
                    drop(permit);
                });
            }
            Ok(Peer::Unix(stream)) => {
                let server = Arc::clone(&server);
                connections.spawn(async move {
                    server.connection(stream, None).await;
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, address = socket.url.address(), "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let url = socket.url.clone();
    drop(socket);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::info!(address = url.address(), "cutting off connections that do not end");
    }
    if url.is_unix() {
        let _ = std::fs::remove_file(url.address());
    }
}

async fn wait_for_stop(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone stops the server as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

enum Peer {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

async fn accept(socket: &Kind) -> io::Result<Peer> {
    match socket {
        Kind::Tcp(listener) => listener.accept().await.map(|(stream, from)| Peer::Tcp(stream, from)),
        Kind::Unix(listener) => listener.accept().await.map(|(stream, _)| Peer::Unix(stream)),
    }
}

impl Server {
    async fn connection<IO>(&self, io: IO, from: Option<SocketAddr>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = match self.acceptor.accept(io, from).await {
            Ok(io) => io,
            Err(e) => {
                let from = from.map(|from| from.to_string()).unwrap_or_default();
                tracing::warn!("remote-addr" = from, "server-name" = "", error = %e, "rejected connection on client endpoint");
                meter::HANDSHAKES_FAILED.with(&["client", e.reason()]).inc();
                return;
            }
        };
        let origin = Arc::new(Origin { from, common_name: io.common_name(), is_tls: io.is_tls() });
        let sniffed = tokio::time::timeout(FIRST_BYTES_TIMEOUT, Sniffed::new(io)).await;
        let Ok(Ok(io)) = sniffed else { return };
        let answer = answers(&self.door, &origin);
        if io.is_http2() { self.http2(io, answer).await } else { self.http1(io, answer).await }
    }

    async fn http2<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: IO, answer: impl Answer) {
        let mut calls = Calls::default();
        let mut builder = hyper::server::conn::http2::Builder::new(calls.arrivals());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.bounds.streams)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        if !self.bounds.ping_every.is_zero() {
            builder.keep_alive_interval(self.bounds.ping_every).keep_alive_timeout(self.bounds.ping_wait);
        }
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Joined::new(io)), service_fn(answer)));
        tokio::select! {
            _ended = calls.run(connection.as_mut()) => return,
            () = wait_for_stop(self.stopping.clone()) => connection.as_mut().graceful_shutdown(),
        }
        let _ended = calls.run(connection).await;
    }

    async fn http1<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: IO, answer: impl Answer) {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX as usize);
        // As Go writes them: scripts look for `Content-Type` with a capital letter.
        builder.title_case_headers(true);
        // A request for a websocket takes the connection with it.
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service_fn(answer)).with_upgrades());
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = wait_for_stop(self.stopping.clone()) => connection.as_mut().graceful_shutdown(),
        }
        let _ended = connection.await;
    }
}

/// Has the kernel ask now and then whether the other side is still there: a client that went without a word would be watched for, for ever. etcd's
/// numbers (`client/pkg/transport/keepalive_listener.go`; Go's count).
fn keep_alive(stream: &tokio::net::TcpStream) {
    const EVERY: Duration = Duration::from_secs(30);
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, EVERY))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, EVERY))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, 9));
    if let Err(e) = set {
        tracing::warn!(error = %e, "failed to have a connection kept alive");
    }
}

/// The answer to a request; in a box, since hyper moves it a few times.
type Answered = BoxFuture<'static, Result<http::Response<Outbound>, Infallible>>;

/// What answers the requests of one connection.
trait Answer: Fn(http::Request<Incoming>) -> Answered + Send + 'static {}

impl<A: Fn(http::Request<Incoming>) -> Answered + Send + 'static> Answer for A {}

fn answers(door: &Door, origin: &Arc<Origin>) -> impl Answer + use<> {
    let (door, origin) = (door.clone(), Arc::clone(origin));
    move |request| {
        let (door, origin) = (door.clone(), Arc::clone(&origin));
        Box::pin(async move { Ok(door.answer(request, &origin).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_as_go_tells_it() {
        let first = bind_tcp(&Url::parse("http://127.0.0.1:0").expect("good"), false).expect("a free port");
        let taken = first.local_addr().expect("bound");
        let url = Url::parse(&format!("http://{taken}")).expect("good");
        let told = Socket::bind(&url).err().expect("taken");
        assert_eq!(told, format!("listen tcp {taken}: bind: address already in use"));
    }

    #[test]
    fn a_port_that_is_none_is_told_as_go_tells_it() {
        let url = Url::parse("http://127.0.0.1:99999").expect("a URL");
        assert_eq!(bind_tcp(&url, false).expect_err("none"), "listen tcp: address 99999: invalid port");
    }

    #[test]
    fn a_name_with_both_families_is_bound_as_go_binds_it() {
        let [six, four] = ["[::1]:2379", "127.0.0.1:2379"].map(|address| address.parse().expect("an address"));
        assert_eq!(in_order(vec![six, four]), [four, six]);
    }

    #[tokio::test]
    async fn a_port_may_be_shared_by_those_who_both_say_so() {
        let any = Url::parse("http://127.0.0.1:0").expect("good");
        let first = bind_tcp(&any, true).expect("a free port");
        let url = Url::parse(&format!("http://{}", first.local_addr().expect("bound"))).expect("good");
        assert!(Socket::bind_as(&url, true).is_ok());
        assert!(Socket::bind_as(&url, false).is_err());
    }

    #[tokio::test]
    async fn a_dead_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let first = bind_unix(&path).expect("free");
        assert!(bind_unix(&path).is_err());
        drop(first);
        assert!(bind_unix(&path).is_ok());
    }
}
