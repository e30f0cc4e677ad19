//! One HTTP/2 connection to one member, over TCP or a socket file, with or without TLS.
//!
//! A connection counts as up once the member has *spoken*: once its first bytes are an HTTP/2 settings frame. A kernel
//! accepts connections for a process that is stopped, and a TLS port accepts plain bytes; neither is a member that
//! can answer. Source: Go's gRPC waits for the same frame.

use super::endpoint::Address;
use super::endpoint::Endpoint;
use crate::tls;
use crate::tls::HandshakeError;
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
        let (tell, mut spoken) = oneshot::channel();
        let wire = Listening { wire, heard: 0, deaf: false, tell: Some(tell) };
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keepalive_time.max(KEEPALIVE_TIME_MIN))
            .keep_alive_timeout(self.keepalive_timeout)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|e| match spoken.try_recv() {
                Ok(Heard::Refusal(why)) => refused(&why),
                _ => format!("connection error: {e}"),
            })?;
        let mut driver: Driver = Box::pin(async move { drop(driver.await) });
        let heard = tokio::select! {
            heard = &mut spoken => heard.ok(),
            // It may have heard something in its last moment.
            () = &mut driver => spoken.try_recv().ok(),
        };
        match heard {
            Some(Heard::Settings) => Ok((Connection { requests, origin: endpoint.origin(secure) }, driver)),
            Some(Heard::Refusal(why)) => Err(refused(&why)),
            // With TLS the port is what it was taken for.
            Some(Heard::Other) if secure => {
                Err("connection error: error reading server preface: it is not HTTP/2".into())
            }
            Some(Heard::End(why)) if secure => Err(format!("connection error: error reading server preface: {why}")),
            None if secure => Err("connection error: error reading server preface: EOF".into()),
            Some(Heard::Other | Heard::End(_)) | None => {
                Err("connection error: no HTTP/2 settings from the other side; is it a TLS port?".to_owned())
            }
        }
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
        let failed = |e: io::Error| refused(&HandshakeError::from_io(&e).to_string());
        Ok(Box::new(stream.map_err(failed)?))
    }
}

fn refused(why: &str) -> String {
    format!("connection error: authentication handshake failed: {why}")
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

/// What the other side said first.
enum Heard {
    /// HTTP/2.
    Settings,
    /// Something else.
    Other,
    /// Nothing; it broke off.
    End(String),
    /// Why it does not take us: with TLS 1.3 a member judges our certificate when our side of the handshake is over.
    Refusal(String),
}

/// A wire that tells what the other side said first.
struct Listening {
    wire: Box<dyn Wire>,
    /// Bytes heard so far, while it matters.
    heard: usize,
    /// Whether the other side takes nothing more. It may have said why before it hung up, so what is read decides.
    deaf: bool,
    tell: Option<oneshot::Sender<Heard>>,
}

impl Listening {
    fn tell(&mut self, heard: Heard) {
        // Nobody listens any more only if the attempt was given up.
        let _ = self.tell.take().map(|tell| tell.send(heard));
    }

    /// Hides that writing failed, until the other side has spoken.
    fn or_deaf<T>(&mut self, polled: Poll<io::Result<T>>, written: T) -> Poll<io::Result<T>> {
        if self.tell.is_some() && matches!(polled, Poll::Ready(Err(_))) {
            self.deaf = true;
            return Poll::Ready(Ok(written));
        }
        polled
    }
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if let Some(kind) = new.get(TYPE_AT.wrapping_sub(self.heard)) {
            self.tell(if *kind == SETTINGS { Heard::Settings } else { Heard::Other });
        } else if let Poll::Ready(Err(e)) = &polled {
            let heard = tls::remote_error(e).map_or_else(|| Heard::End(reason(e)), Heard::Refusal);
            self.tell(heard);
        }
        self.heard = self.heard.saturating_add(new.len());
        polled
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(if self.tell.is_some() {
                Ok(buf.len())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            });
        }
        let polled = Pin::new(&mut self.wire).poll_write(cx, buf);
        self.or_deaf(polled, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(if self.tell.is_some() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) });
        }
        let polled = Pin::new(&mut self.wire).poll_flush(cx);
        self.or_deaf(polled, ())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Acceptor;
    use crate::tls::ClientFiles;
    use crate::tls::Offer;
    use crate::tls::ServerFiles;
    use crate::tls::pki::Authority;
    use crate::tls::pki::Request;
    use crate::tls::pki::Usage;
    use tokio::net::TcpListener;

    /// Why a member that wants certificates of `ca` does not take this client, which speaks that one version of TLS.
    async fn refusal_of(dir: &std::path::Path, own: Option<&str>, version: &str) -> String {
        let path = |name: &str| dir.join(name);
        let (trusted_ca, cert, key) = (Some(path("ca.pem")), path("server.pem"), path("server-key.pem"));
        let (alpn, allowed_cn) = (vec![b"h2".to_vec()], vec!["client".to_owned()]);
        let server = ServerFiles { trusted_ca, cert, key, alpn, allowed_cn, ..ServerFiles::default() };
        let acceptor = Acceptor::tls(&server).expect("good files");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = Endpoint::parse(&format!("https://{}", listener.local_addr().expect("bound")));
        let serve = tokio::spawn(async move {
            let (tcp, from) = listener.accept().await.expect("a connection");
            acceptor.accept(tcp, Some(from)).await.err()
        });
        let files = ClientFiles {
            ca: Some(path("ca.pem")),
            cert: own.map(|own| path(&format!("{own}.pem"))),
            key: own.map(|own| path(&format!("{own}-key.pem"))),
            offer: Offer::parse(version, version, &[]).expect("a version"),
            alpn: vec![b"h2".to_vec()],
            ..ClientFiles::default()
        };
        let (keepalive_time, keepalive_timeout) = (Duration::from_secs(60), Duration::from_secs(60));
        let tls = Some(crate::tls::client_config(&files).expect("good files"));
        let why = Dialing { tls, keepalive_time, keepalive_timeout }.dial(&endpoint).await.err();
        assert!(serve.await.expect("no panic").is_some(), "the member refused");
        why.expect("refused")
    }

    #[tokio::test]
    async fn a_member_that_we_do_not_take_is_named_in_gos_words() {
        let dir = tempfile::tempdir().expect("a place for files");
        let (ca, other) = (Authority::new("ca").expect("a CA"), Authority::new("other").expect("a CA"));
        ca.own().write(dir.path(), "ca").expect("written");
        let server = other.issue(&Request::new(Usage::Server, "server", &["127.0.0.1"])).expect("issued");
        server.write(dir.path(), "server").expect("written");
        let told = refusal_of(dir.path(), None, "").await;
        let want = "connection error: authentication handshake failed: \
                    tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert_eq!(told, want);
    }

    #[tokio::test]
    async fn a_member_that_does_not_take_us_is_quoted() {
        let dir = tempfile::tempdir().expect("a place for files");
        let (ca, other) = (Authority::new("ca").expect("a CA"), Authority::new("other").expect("a CA"));
        ca.own().write(dir.path(), "ca").expect("written");
        let issue = |by: &Authority, name: &str, request: Request| {
            by.issue(&request).expect("issued").write(dir.path(), name).expect("written");
        };
        let client = || Request::new(Usage::Client, "client", &[]);
        issue(&ca, "server", Request::new(Usage::Server, "server", &["127.0.0.1"]));
        issue(&ca, "expired", Request { from_days: -9, until_days: -2, ..client() });
        issue(&other, "stranger", client());
        issue(&ca, "uninvited", Request::new(Usage::Client, "somebody", &[]));
        for version in ["TLS1.2", "TLS1.3"] {
            for (own, alert) in [
                (None, "certificate required"),
                (Some("stranger"), "unknown certificate authority"),
                (Some("expired"), "expired certificate"),
                (Some("uninvited"), "bad certificate"),
            ] {
                let told = refusal_of(dir.path(), own, version).await;
                let want = format!("connection error: authentication handshake failed: remote error: tls: {alert}");
                // Before TLS 1.3 there was no alert of that name.
                let older = want.replace("certificate required", "handshake failure");
                assert!(told == want || (version == "TLS1.2" && told == older), "{version}, {own:?}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn a_tls_port_is_not_asked_whether_it_is_one() {
        let dir = tempfile::tempdir().expect("a place for files");
        let ca = Authority::new("ca").expect("a CA");
        ca.own().write(dir.path(), "ca").expect("written");
        let own = ca.issue(&Request::new(Usage::Server, "server", &["127.0.0.1"])).expect("issued");
        let (cert, key) = own.write(dir.path(), "server").expect("written");
        let acceptor = Acceptor::tls(&ServerFiles { cert, key, ..ServerFiles::default() }).expect("good files");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            loop {
                let (tcp, from) = listener.accept().await.expect("a connection");
                drop(acceptor.accept(tcp, Some(from)).await);
            }
        });
        let files = ClientFiles { ca: Some(dir.path().join("ca.pem")), ..ClientFiles::default() };
        let tls = Some(crate::tls::client_config(&files).expect("good files"));
        let wait = Duration::from_secs(60);
        let dialing = Dialing { tls, keepalive_time: wait, keepalive_timeout: wait };
        let told = async |url: String| dialing.dial(&Endpoint::parse(&url)).await;
        let hung_up = told(format!("https://{address}")).await.err().expect("no member");
        assert!(hung_up.starts_with("connection error: error reading server preface: "), "{hung_up}");
        let plain = told(format!("http://{address}")).await.err().expect("no member");
        assert!(plain.ends_with("is it a TLS port?"), "{plain}");
    }
}
