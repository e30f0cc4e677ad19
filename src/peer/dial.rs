//! Dialling a member: its URLs, one connection, one request.

use super::CONN_TIMEOUT;
use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Why a member could not be asked, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the URL of a peer.
    #[error("{0}")]
    BadUrl(String),
    /// Nobody listens there.
    #[error("dial {0}: connect: connection refused")]
    ConnectionRefused(String),
    /// It did not answer in time.
    #[error("{0}: i/o timeout")]
    Timeout(String),
    /// The connection had ended before anything of the request was written.
    #[error("{0}")]
    NotSent(String),
    /// Any other failure of the connection.
    #[error("{0}")]
    Io(String),
    /// The TLS handshake failed.
    #[error("tls: {0}")]
    Tls(String),
    /// The URL says https, and there is no TLS configuration to dial it with.
    #[error("cannot dial {0}: no TLS settings are given for peers")]
    NoTls(String),
    /// This member is no longer part of the cluster.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// The other one does not know this member (yet).
    #[error("peer failed to find local node")]
    UnknownToPeer,
    /// The other one belongs to another cluster.
    #[error("cluster ID mismatch")]
    ClusterIdMismatch,
    /// The other one's version does not fit.
    #[error("incompatible version")]
    IncompatibleVersion,
    /// The leader has no such lease.
    #[error("lease not found")]
    LeaseNotFound,
    /// No such member among the peers.
    #[error("member not found")]
    UnknownMember,
    /// A lab rule cuts this link.
    #[error("the link is cut by a lab rule")]
    Cut,
    /// An answer that none of the above explains.
    #[error("unhandled http status {0}: {1}")]
    Status(u16, String),
    /// An answer that cannot be read.
    #[error("bad answer: {0}")]
    Malformed(String),
    /// None of the URLs led to an answer; the text is that of the last.
    #[error("could not retrieve cluster information from the given URLs: {0}")]
    NoAnswer(String),
}

impl Error {
    /// Whether nobody listens: the member's process is not there.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Error::ConnectionRefused(_))
    }

    fn io(url: &PeerUrl, e: &io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::ConnectionRefused => Error::ConnectionRefused(url.dialled()),
            // A member that ends takes its socket file along.
            io::ErrorKind::NotFound if url.unix => Error::ConnectionRefused(url.dialled()),
            io::ErrorKind::TimedOut => Error::Timeout(url.authority.clone()),
            _ => Error::Io(format!("dial {}: {e}", url.dialled())),
        }
    }
}

/// A peer's URL: `http` or `https`, host and port, no path; or `unix` or `unixs` and the path of a socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl {
    secure: bool,
    unix: bool,
    /// Host and port as in the URL, or the path.
    authority: String,
    /// Without brackets; `localhost` for a socket file.
    host: String,
    port: u16,
}

impl PeerUrl {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::BadUrl`], in etcd's words.
    pub fn parse(text: &str) -> Result<PeerUrl, Error> {
        let bad = |why: String| Error::BadUrl(why);
        let text = text.trim();
        let form = || bad(format!("URL address does not have the form \"host:port\": {text}"));
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme {
            "http" => false,
            "https" => true,
            "unix" | "unixs" if rest.is_empty() => return Err(form()),
            "unix" | "unixs" => {
                let (secure, authority, host) = (scheme == "unixs", rest.to_owned(), "localhost".to_owned());
                return Ok(PeerUrl { secure, unix: true, authority, host, port: 0 });
            }
            _ => return Err(bad(format!("URL scheme must be http, https, unix, or unixs: {text}"))),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !matches!(&rest[authority.len()..], "" | "/") {
            return Err(bad(format!("URL must not contain a path: {text}")));
        }
        let parsed: http::uri::Authority = authority.parse().map_err(|_| form())?;
        let port = parsed.port_u16().ok_or_else(form)?;
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.contains('@') {
            return Err(form());
        }
        Ok(PeerUrl { secure, unix: false, authority: authority.to_owned(), host, port })
    }
}

impl PeerUrl {
    /// What requests name as their host: host and port, as in the URL.
    pub(super) fn authority(&self) -> String {
        if self.unix { self.host.clone() } else { self.authority.clone() }
    }

    /// In Go's words: `tcp 10.0.0.1:2380`.
    fn dialled(&self) -> String {
        format!("{} {}", if self.unix { "unix" } else { "tcp" }, self.authority)
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.unix, self.secure) {
            (false, false) => "http",
            (false, true) => "https",
            (true, false) => "unix",
            (true, true) => "unixs",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// At least one URL, all well-formed.
pub(super) fn parse_all(urls: &[String]) -> Result<Vec<PeerUrl>, Error> {
    let parsed = urls.iter().map(|u| PeerUrl::parse(u)).collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() { Err(Error::BadUrl("no valid urls given".into())) } else { Ok(parsed) }
}

/// The URLs of one peer: the one that worked last, until it fails.
pub(super) struct Picker(Mutex<(Vec<PeerUrl>, usize)>);

impl Picker {
    pub(super) fn new(urls: Vec<PeerUrl>) -> Picker {
        Picker(Mutex::new((urls, 0)))
    }

    pub(super) fn update(&self, urls: Vec<PeerUrl>) {
        *self.0.lock() = (urls, 0);
    }

    pub(super) fn pick(&self) -> PeerUrl {
        let state = self.0.lock();
        state.0[state.1].clone()
    }

    /// Moves on to the next, unless somebody already has.
    pub(super) fn failed(&self, url: &PeerUrl) {
        let mut state = self.0.lock();
        if state.0[state.1] == *url {
            state.1 = (state.1 + 1) % state.0.len();
        }
    }

    pub(super) fn all(&self) -> Vec<PeerUrl> {
        self.0.lock().0.clone()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().0.len()
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// How to dial.
#[derive(Clone, Default)]
pub(super) struct Dialer {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) timeout: Duration,
}

/// A connection that requests can be sent on, one after the other.
pub(super) type Line = SendRequest<Full<Bytes>>;

impl Dialer {
    /// Connects. A task of its own moves the bytes until the connection ends or its owner lets go of it.
    pub(super) async fn dial(&self, url: &PeerUrl) -> Result<Line, Error> {
        self.dial_for(url).await
    }

    /// The same for requests with bodies of another kind.
    pub(super) async fn dial_for<B>(&self, url: &PeerUrl) -> Result<SendRequest<B>, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connected = tokio::time::timeout(self.timeout, self.connect(url)).await;
        let wire = connected.map_err(|_| Error::Timeout(format!("dial {}", url.dialled())))??;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await;
        let (line, connection) = shaken.map_err(|e| Error::Io(e.to_string()))?;
        tokio::spawn(async move {
            // How it ended reaches whoever waits for an answer or reads a body.
            let _ = connection.await;
        });
        Ok(line)
    }

    async fn connect(&self, url: &PeerUrl) -> Result<Box<dyn Wire>, Error> {
        let failed = |e| Error::io(url, &e);
        if url.unix {
            let file = UnixStream::connect(&url.authority).await.map_err(failed)?;
            return self.secured(url, file).await;
        }
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        self.secured(url, tcp).await
    }

    /// The connection, after a handshake if the URL asks for one.
    async fn secured(&self, url: &PeerUrl, wire: impl Wire + 'static) -> Result<Box<dyn Wire>, Error> {
        if !url.secure {
            return Ok(Box::new(wire));
        }
        let tls = self.tls.clone().ok_or_else(|| Error::NoTls(url.to_string()))?;
        let name = ServerName::try_from(url.host.clone()).map_err(|e| Error::Tls(e.to_string()))?;
        let stream = TlsConnector::from(tls).connect(name, wire).await.map_err(|e| Error::Tls(e.to_string()))?;
        Ok(Box::new(stream))
    }

    /// Connects, sends one request and waits for the head of its answer.
    pub(super) async fn open(&self, url: &PeerUrl, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let mut line = self.dial(url).await?;
        request_on(&mut line, url, request).await
    }

    /// Connects, sends one request and reads its whole answer.
    pub(super) async fn ask(&self, url: &PeerUrl, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Error> {
        let response = self.open(url, request).await?;
        read_all(url, response).await
    }
}

/// Sends one request; the answer's head must come within [`CONN_TIMEOUT`].
pub(super) async fn request_on(
    line: &mut Line,
    url: &PeerUrl,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    request.headers_mut().insert(http::header::HOST, super::headers::value(&url.authority()));
    let answered = tokio::time::timeout(CONN_TIMEOUT, line.try_send_request(request)).await;
    // Who gets the request back has sent nothing of it.
    let failed = |e: TrySendError<Request<Full<Bytes>>>| match e.message() {
        Some(_) => Error::NotSent(e.into_error().to_string()),
        None => Error::Io(e.into_error().to_string()),
    };
    answered.map_err(|_| Error::Timeout(url.authority.clone()))?.map_err(failed)
}

/// Reads an answer of bounded size in bounded time.
pub(super) async fn read_all(url: &PeerUrl, response: Response<Incoming>) -> Result<Response<Bytes>, Error> {
    let (head, body) = response.into_parts();
    let read = tokio::time::timeout(CONN_TIMEOUT, Limited::new(body, super::BODY_BYTES_MAX).collect()).await;
    let body = read.map_err(|_| Error::Timeout(url.authority.clone()))?.map_err(|e| Error::Malformed(e.to_string()))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// What a refusal of a raft request means.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(body).trim_end().to_owned();
    match status {
        StatusCode::GONE => Error::Removed,
        // etcd says 403 to a removed sender, and also to one that mistook it for another member.
        StatusCode::FORBIDDEN if text.contains("removed member") => Error::Removed,
        StatusCode::NOT_FOUND => Error::UnknownToPeer,
        StatusCode::PRECONDITION_FAILED if text == super::headers::INCOMPATIBLE_VERSION => Error::IncompatibleVersion,
        StatusCode::PRECONDITION_FAILED if text == super::headers::CLUSTER_ID_MISMATCH => Error::ClusterIdMismatch,
        other => Error::Status(other.as_u16(), text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_scheme_host_and_port() {
        for good in ["http://10.0.0.1:2380", "https://etcd-1.example:2380", "http://[::1]:2380"] {
            assert_eq!(PeerUrl::parse(good).map(|u| u.to_string()), Ok(good.to_owned()));
        }
        for good in ["unix:///run/etcd/m1", "unixs://localhost:m1"] {
            let url = PeerUrl::parse(good).expect("good");
            assert_eq!((url.to_string(), url.authority()), (good.to_owned(), "localhost".to_owned()));
        }
        assert_eq!(PeerUrl::parse(" http://a:1/ ").map(|u| u.to_string()), Ok("http://a:1".to_owned()));
        assert_eq!(PeerUrl::parse("http://[::1]:2380").map(|u| u.host), Ok("::1".to_owned()));
        for (bad, why) in [
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("unix://", "URL address does not have the form \"host:port\": unix://"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:99999", "URL address does not have the form \"host:port\": http://a:99999"),
            ("http://:2380", "URL address does not have the form \"host:port\": http://:2380"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
        ] {
            assert_eq!(PeerUrl::parse(bad).map_err(|e| e.to_string()), Err(why.to_owned()));
        }
        assert!(parse_all(&[]).is_err());
    }

    #[test]
    fn a_failed_url_makes_way_for_the_next() {
        let urls = ["http://a:1", "http://b:2"].map(|u| PeerUrl::parse(u).expect("good"));
        let picker = Picker::new(urls.to_vec());
        picker.failed(&urls[0]);
        picker.failed(&urls[0]);
        assert_eq!(picker.pick(), urls[1], "the second report is about a URL that is no longer used");
        picker.failed(&urls[1]);
        assert_eq!(picker.pick(), urls[0]);
    }
}
