//! Accepting a connection: plain as it is, TLS after a handshake that is bounded in time and in number.
//!
//! Half-open handshakes cost a client nothing and a server memory; unbounded, they stopped real etcd (GHSA-6vch-q96h-7gc3). So a
//! handshake has ten seconds, and of more than [`HANDSHAKES_MAX`] at once the oldest is cut off: whoever is honest is done within milliseconds, so the silent
//! ones make room for each other and nobody is kept out.

use super::Error;
use super::alert;
use super::config::Renewed;
use super::config::ServerFiles;
use super::names::AltName;
use super::names::alt_names;
use super::names::common_name;
use super::verify::UnsupportedKey;
use super::verify::wrong_name;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::ReadBuf;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::PeerIncompatible;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

/// How long a client may take to shake hands.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes one listener has in progress at most.
pub const HANDSHAKES_MAX: usize = 1024;

/// How long, and how much, a client that was refused may go on talking.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1 << 20;

/// Turns accepted sockets into connections. Cheap to clone; clones share the bound on handshakes.
#[derive(Clone)]
pub struct Acceptor(Option<Arc<Tls>>);

struct Tls {
    config: Renewed,
    check_client_address: bool,
    pending: Pending,
    timeout: Duration,
}

/// The handshakes in progress, by their age.
struct Pending {
    most: usize,
    next: AtomicU64,
    /// Dropping one cuts its handshake off.
    all: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Pending {
    fn new(most: usize) -> Pending {
        Pending { most, next: AtomicU64::new(0), all: Mutex::default() }
    }

    /// Begins one, at the cost of the oldest if there are too many.
    fn begin(&self) -> Turn<'_> {
        let (stay, cut) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.all.lock();
        all.insert(number, stay);
        while all.len() > self.most {
            all.pop_first();
        }
        Turn { pending: self, number, cut }
    }
}

/// A handshake in progress, until it is dropped.
struct Turn<'a> {
    pending: &'a Pending,
    number: u64,
    cut: oneshot::Receiver<()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pending.all.lock().remove(&self.number);
    }
}

impl Acceptor {
    /// Connections as they come, without TLS.
    #[must_use]
    pub fn plain() -> Acceptor {
        Acceptor(None)
    }

    /// TLS only.
    ///
    /// # Errors
    /// [`Error`] naming the file or the flags at fault.
    pub fn tls(files: &ServerFiles) -> Result<Acceptor, Error> {
        Acceptor::bounded(files, HANDSHAKES_MAX, HANDSHAKE_TIMEOUT)
    }

    pub(super) fn bounded(files: &ServerFiles, handshakes: usize, timeout: Duration) -> Result<Acceptor, Error> {
        let list = !files.allowed_cn.is_empty() || !files.allowed_hostname.is_empty();
        Ok(Acceptor(Some(Arc::new(Tls {
            config: Renewed::load(files)?,
            check_client_address: files.check_client_address && !list,
            pending: Pending::new(handshakes),
            timeout,
        }))))
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.is_some()
    }

    /// Shakes hands, if there is TLS. Takes at most [`HANDSHAKE_TIMEOUT`]; run it beside the accept loop, not in it.
    ///
    /// # Errors
    /// [`HandshakeError`]: the connection is closed, and this is why.
    pub async fn accept<IO>(&self, io: IO, from: Option<SocketAddr>) -> Result<Stream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(tls) = &self.0 else { return Ok(Stream::Plain(io)) };
        let mut turn = tls.pending.begin();
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(tls.timeout, shake(tls.config.current(), io)) => shaken,
            _ = &mut turn.cut => return Err(HandshakeError::TooMany),
        };
        let stream = shaken.map_err(|_| HandshakeError::Timeout)??;
        let stream = Stream::Tls(Box::new(stream));
        if let (true, Some(from), Some(cert)) = (tls.check_client_address, from, stream.peer_certificate()) {
            let names = Origins::of(cert);
            tokio::time::timeout(tls.timeout, names.check(from.ip())).await.map_err(|_| HandshakeError::Timeout)??;
        }
        Ok(stream)
    }
}

async fn shake<IO>(config: Arc<rustls::ServerConfig>, io: IO) -> Result<TlsStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (e, mut io) = match TlsAcceptor::from(config).accept(io).into_fallible().await {
        Ok(stream) => return Ok(stream),
        Err(refused) => refused,
    };
    let why = HandshakeError::from_io(&e);
    if !matches!(why, HandshakeError::Closed | HandshakeError::RefusedByClient(_)) {
        // The alert that says why is on its way. Closing a socket with bytes that nobody has read (a client of TLS 1.3 goes on to talk before it is judged) resets the
        // connection, and the alert may be lost; so the client hangs up first, if it does so soon.
        let _ = io.shutdown().await;
        let (mut rest, mut nowhere) = (io.take(LINGER_BYTES), tokio::io::sink());
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await;
    }
    Err(why)
}

/// Why a connection was refused. The texts are those of Go's TLS, which etcd's users search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The client speaks something else, most often plain HTTP.
    #[error("tls: first record does not look like a TLS handshake")]
    NotTls,
    /// A certificate is required.
    #[error("tls: client didn't provide a certificate")]
    NoCertificate,
    /// Not signed by the trusted CA.
    #[error("tls: failed to verify certificate: x509: certificate signed by unknown authority")]
    UnknownAuthority,
    /// Outside its time of validity.
    #[error("tls: failed to verify certificate: x509: certificate has expired or is not yet valid")]
    Expired,
    /// Not made for this use: a client certificate needs the extended key usage `clientAuth`.
    #[error("tls: failed to verify certificate: x509: certificate specifies an incompatible key usage")]
    WrongUsage,
    /// Valid, but not of an allowed name.
    #[error("client certificate authentication failed")]
    NotAllowed,
    /// On the revocation list.
    #[error("transport: certificate revoked")]
    Revoked,
    /// There is a revocation list, and it cannot be read.
    #[error("transport: the certificate revocation list cannot be read")]
    NoRevocationList,
    /// Valid, but for another address than it came from.
    #[error("tls: {address:?} does not match any of DNSNames {names:?}")]
    WrongAddress { address: String, names: Vec<String> },
    /// The client refuses us: it does not know our CA, or our certificate does not name the address that it dialled.
    #[error("remote error: tls: {0}")]
    RefusedByClient(String),
    /// No TLS version or cipher in common.
    #[error("tls: {0}")]
    Incompatible(String),
    /// The client took too long.
    #[error("tls: the client did not finish the handshake in time")]
    Timeout,
    /// More handshakes in progress than may be, and this was the oldest.
    #[error("tls: too many handshakes in progress")]
    TooMany,
    /// The client hung up.
    #[error("EOF")]
    Closed,
    /// Anything else.
    #[error("tls: {0}")]
    Other(String),
}

impl HandshakeError {
    /// A word for it, for counting.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            HandshakeError::NotTls => "not-tls",
            HandshakeError::NoCertificate => "no-certificate",
            HandshakeError::UnknownAuthority => "unknown-authority",
            HandshakeError::Expired => "expired",
            HandshakeError::WrongUsage => "wrong-usage",
            HandshakeError::NotAllowed => "not-allowed",
            HandshakeError::Revoked => "revoked",
            HandshakeError::NoRevocationList => "no-revocation-list",
            HandshakeError::WrongAddress { .. } => "wrong-address",
            HandshakeError::RefusedByClient(_) => "refused-by-client",
            HandshakeError::Incompatible(_) => "incompatible",
            HandshakeError::Timeout => "timeout",
            HandshakeError::TooMany => "too-many",
            HandshakeError::Closed => "closed",
            HandshakeError::Other(_) => "other",
        }
    }

    /// Why a TLS stream could not be made of a connection, at either end.
    #[must_use]
    pub fn from_io(e: &io::Error) -> HandshakeError {
        match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => HandshakeError::from_tls(tls),
            None if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                HandshakeError::Closed
            }
            None => HandshakeError::Other(e.to_string()),
        }
    }

    pub(super) fn from_tls(e: &rustls::Error) -> HandshakeError {
        match e {
            rustls::Error::InvalidMessage(_) => HandshakeError::NotTls,
            rustls::Error::NoCertificatesPresented => HandshakeError::NoCertificate,
            rustls::Error::InvalidCertificate(why) => HandshakeError::from_certificate(why),
            rustls::Error::AlertReceived(alert) => HandshakeError::RefusedByClient(alert::text(*alert)),
            rustls::Error::PeerIncompatible(why) => HandshakeError::Incompatible(nothing_in_common(why)),
            other => HandshakeError::Other(other.to_string()),
        }
    }

    fn from_certificate(e: &CertificateError) -> HandshakeError {
        match e {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => HandshakeError::UnknownAuthority,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => HandshakeError::Expired,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                HandshakeError::WrongUsage
            }
            // Of a client, by the lists of names; of a server it comes with the names.
            CertificateError::NotValidForName => HandshakeError::NotAllowed,
            CertificateError::Revoked => HandshakeError::Revoked,
            CertificateError::UnknownRevocationStatus => HandshakeError::NoRevocationList,
            other => HandshakeError::Other(format!("failed to verify certificate: x509: {}", unusual(other))),
        }
    }
}

/// Go's words for what goes wrong before any certificate is shown.
fn nothing_in_common(why: &PeerIncompatible) -> String {
    use PeerIncompatible as P;
    match why {
        // A ClientHello of TLS 1.1 has no signature algorithms; that of 1.0 no extensions at all.
        P::SignatureAlgorithmsExtensionRequired
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => "client offered only unsupported versions".to_owned(),
        P::NoCipherSuitesInCommon => "no cipher suite supported by both client and server".to_owned(),
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired => {
            "no ECDHE curve supported by both client and server".to_owned()
        }
        P::NoSignatureSchemesInCommon => {
            "peer doesn't support any of the certificate's signature algorithms".to_owned()
        }
        other => format!("no version or cipher suite in common with the client: {other:?}"),
    }
}

/// Certificates that are refused for what they are.
fn unusual(why: &CertificateError) -> String {
    match why {
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "cannot verify signature: algorithm unimplemented (keys on P-521 and signatures with SHA-1 are not supported here)"
                .to_owned()
        }
        CertificateError::BadEncoding => "malformed certificate".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => wrong_name(expected, presented),
        CertificateError::UnhandledCriticalExtension => "unhandled critical extension".to_owned(),
        CertificateError::Other(other) => match other.0.downcast_ref::<UnsupportedKey>() {
            Some(key) => key.to_string(),
            None => unusual_form(other.0.downcast_ref()),
        },
        other => other.to_string(),
    }
}

/// Forms that pass only where the chain is short; see [`super::verify`].
fn unusual_form(why: Option<&webpki::Error>) -> String {
    match why {
        Some(webpki::Error::UnsupportedCertVersion) => {
            "a certificate of version 1 is taken only from a root itself: make it with extensions (openssl x509 -extfile)".to_owned()
        }
        Some(webpki::Error::CaUsedAsEndEntity) => {
            "an authority's own certificate (CA:TRUE) is taken only from a root itself: make one with CA:FALSE".to_owned()
        }
        Some(other) => format!("certificate of an unsupported form: {other}"),
        None => "certificate of an unsupported form".to_owned(),
    }
}

/// An accepted connection.
pub enum Stream<IO> {
    /// As it came.
    Plain(IO),
    /// After a handshake.
    Tls(Box<TlsStream<IO>>),
}

impl<IO> Stream<IO> {
    /// Whether it is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// The client's own certificate, if it showed one; then it has been verified.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// The common name of the client's certificate: its user name where certificates authenticate users.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        self.peer_certificate().and_then(|cert| common_name(cert))
    }

    /// The protocol agreed on by ALPN (`h2`), if any.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Stream::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(io) => io.is_write_vectored(),
            Stream::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_flush(cx),
            Stream::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// The names that a certificate was made for, as far as they say who may come from where.
#[derive(Debug)]
struct Origins(Vec<AltName>);

impl Origins {
    fn of(cert: &CertificateDer<'_>) -> Origins {
        let parsed = X509Certificate::from_der(cert).ok();
        Origins(parsed.map(|(_, cert)| alt_names(&cert)).unwrap_or_default())
    }

    /// Passes a certificate without names, one that has the address, and one with a name that resolves to it.
    async fn check(&self, from: IpAddr) -> Result<(), HandshakeError> {
        let from = from.to_canonical();
        if self.0.is_empty() || self.0.contains(&AltName::Address(from)) {
            return Ok(());
        }
        for name in &self.0 {
            let AltName::Host(name) = name else { continue };
            let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await else { continue };
            if found.any(|a| a.ip().to_canonical() == from) {
                return Ok(());
            }
        }
        let names = self.0.iter().map(AltName::to_string).collect();
        Err(HandshakeError::WrongAddress { address: from.to_string(), names })
    }
}
