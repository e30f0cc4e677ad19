//! One HTTP/2 connection to one member, over TCP or a socket file, with or without TLS.
//!
//! A connection counts as up once the member has *spoken*: once its first bytes are an HTTP/2 settings frame. A kernel
//! accepts connections for a process that is stopped, and a TLS port accepts plain bytes; neither is a member that
//! can answer. Source: Go's gRPC waits for the same frame.

use super::endpoint::Address;
use super::endpoint::Endpoint;
use bytes::Bytes;
use http::Uri;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::pki_types::ServerName;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

/// Servers hang up on clients that ping more often than each 5 s; Go's gRPC keeps 10 s at least.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);

/// The type of HTTP/2's settings frame, and where in a frame the type stands.
const SETTINGS: u8 = 4;
const TYPE_AT: usize = 3;

/// A connection that is up. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    requests: http2::SendRequest<Body>,
    /// Scheme and authority for the requests.
    pub(super) origin: Uri,
}

/// Runs a connection; done when the connection is.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What all connections of a client have in common.
#[derive(Clone)]
pub(super) struct Dialing {
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) keepalive_time: Duration,
    pub(super) keepalive_timeout: Duration,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Dialing {
    /// Connects to `endpoint` and waits until the member has spoken. An error is a reason in words, as Go's dialer
    /// gives it.
    pub(super) async fn dial(&self, endpoint: &Endpoint) -> Result<(Connection, Driver), String> {
        let secure = endpoint.secure.unwrap_or(self.tls.is_some());
        let wire = connect(&endpoint.address).await?;
        let wire = if secure { self.encrypt(wire, &endpoint.address).await? } else { wire };
        let (tell, spoken) = oneshot::channel();
        let wire = Listening { wire, heard: 0, tell: Some(tell) };
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keepalive_time.max(KEEPALIVE_TIME_MIN))
            .keep_alive_timeout(self.keepalive_timeout)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|e| format!("connection error: {e}"))?;
        let mut driver: Driver = Box::pin(async move { drop(driver.await) });
        let greeted = tokio::select! {
            spoken = spoken => spoken.unwrap_or(false),
            () = &mut driver => false,
        };
        if !greeted {
            return Err("connection error: no HTTP/2 settings from the other side; is it a TLS port?".to_owned());
        }
        Ok((Connection { requests, origin: endpoint.origin(secure) }, driver))
    }

    /// What the member answers on `path` to plain HTTP, as text. An error is a reason in words.
    pub(super) async fn get(&self, endpoint: &Endpoint, path: &str) -> Result<String, String> {
        let secure = endpoint.secure.unwrap_or(self.tls.is_some());
        let wire = connect(&endpoint.address).await?;
        let wire = match (secure, &self.tls) {
            (false, _) => wire,
            (true, Some(tls)) => {
                // On a port with TLS the protocol is agreed upon there.
                let mut tls = rustls::ClientConfig::clone(tls);
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                let plain = Dialing { tls: Some(Arc::new(tls)), ..self.clone() };
                plain.encrypt(wire, &endpoint.address).await?
            }
            (true, None) => self.encrypt(wire, &endpoint.address).await?,
        };
        let (mut requests, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(|e| e.to_string())?;
        let origin = endpoint.origin(secure);
        let host = origin.authority().map_or("localhost", |authority| authority.as_str());
        let request = http::Request::get(path).header(http::header::HOST, host);
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        // It ends when `requests` goes.
        tokio::spawn(driver);
        let answer = requests.send_request(request).await.map_err(|e| e.to_string())?;
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    async fn encrypt(&self, wire: Box<dyn Wire>, address: &Address) -> Result<Box<dyn Wire>, String> {
        let config = match &self.tls {
            Some(config) => config.clone(),
            None => super::tls::system().map_err(|e| e.to_string())?,
        };
        let host = match address {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(_) | Address::Unreadable(_) => "localhost".to_owned(),
        };
        let name = ServerName::try_from(host).map_err(|e| format!("tls: {e}"))?;
        let stream = TlsConnector::from(config).connect(name, wire).await;
        let failed = |e: io::Error| format!("connection error: authentication handshake failed: {e}");
        Ok(Box::new(stream.map_err(failed)?))
    }
}

async fn connect(address: &Address) -> Result<Box<dyn Wire>, String> {
    match address {
        Address::Tcp { host, port } => {
            let failed = |e: io::Error| format!("dial tcp {host}:{port}: connect: {}", reason(&e));
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            Ok(Box::new(stream))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            Ok(Box::new(stream.map_err(|e| format!("dial unix {path}: connect: {}", reason(&e)))?))
        }
        Address::Unreadable(why) => Err(why.clone()),
    }
}

/// The system's words in Go's spelling: lower case, without the number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// A wire that tells when the other side has spoken, and whether it spoke HTTP/2.
struct Listening {
    wire: Box<dyn Wire>,
    /// Bytes heard so far, while it matters.
    heard: usize,
    tell: Option<oneshot::Sender<bool>>,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if let Some(kind) = new.get(TYPE_AT.wrapping_sub(self.heard))
            && let Some(tell) = self.tell.take()
        {
            // Nobody listens any more only if the attempt was given up.
            let _ = tell.send(*kind == SETTINGS);
        }
        self.heard = self.heard.saturating_add(new.len());
        polled
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// Why a request on a connection came to nothing.
#[derive(Debug)]
pub(super) enum Broken {
    /// It never left: sending it again cannot do it twice.
    NotSent,
    /// It may have arrived.
    Lost(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::NotSent => f.write_str("the connection closed before the request left"),
            Broken::Lost(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Broken {}

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // The connection queues what the member's stream limit holds back.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.requests.send_request(request);
        Box::pin(async move {
            answer.await.map_err(|e| if e.is_canceled() { Broken::NotSent } else { Broken::Lost(e.to_string()) })
        })
    }
}
