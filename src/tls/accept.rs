//! Accepting a connection: plain as it is, TLS after a handshake that is bounded in time and in number.
//!
//! Half-open handshakes cost a client nothing and a server memory; unbounded, they stopped real etcd (GHSA-6vch-q96h-7gc3). So a
//! handshake has ten seconds, and of more than [`HANDSHAKES_MAX`] at once the oldest is cut off: whoever is honest is done within milliseconds, so the silent
//! ones make room for each other and nobody is kept out.

use super::Error;
use super::config::ServerFiles;
use super::config::server_config;
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
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

/// How long a client may take to shake hands.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes one listener has in progress at most.
pub const HANDSHAKES_MAX: usize = 1024;

/// Turns accepted sockets into connections. Cheap to clone; clones share the bound on handshakes.
#[derive(Clone)]
pub struct Acceptor(Option<Arc<Tls>>);

struct Tls {
    acceptor: TlsAcceptor,
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
            acceptor: TlsAcceptor::from(server_config(files)?),
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
            shaken = tokio::time::timeout(tls.timeout, tls.acceptor.accept(io)) => shaken,
            _ = &mut turn.cut => return Err(HandshakeError::TooMany),
        };
        let stream = shaken.map_err(|_| HandshakeError::Timeout)?.map_err(|e| HandshakeError::from_io(&e))?;
        let stream = Stream::Tls(Box::new(stream));
        if let (true, Some(from), Some(cert)) = (tls.check_client_address, from, stream.peer_certificate()) {
            let names = AltNames::of(cert);
            tokio::time::timeout(tls.timeout, names.check(from.ip())).await.map_err(|_| HandshakeError::Timeout)??;
        }
        Ok(stream)
    }
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
    #[error("tls: no version or cipher suite in common with the client: {0}")]
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

    fn from_io(e: &io::Error) -> HandshakeError {
        match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => HandshakeError::from_tls(tls),
            None if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                HandshakeError::Closed
            }
            None => HandshakeError::Other(e.to_string()),
        }
    }

    fn from_tls(e: &rustls::Error) -> HandshakeError {
        match e {
            rustls::Error::InvalidMessage(_) => HandshakeError::NotTls,
            rustls::Error::NoCertificatesPresented => HandshakeError::NoCertificate,
            rustls::Error::InvalidCertificate(why) => HandshakeError::from_certificate(why),
            rustls::Error::AlertReceived(alert) => HandshakeError::RefusedByClient(alert_text(*alert)),
            rustls::Error::PeerIncompatible(why) => HandshakeError::Incompatible(format!("{why:?}")),
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
            CertificateError::ApplicationVerificationFailure => HandshakeError::NotAllowed,
            CertificateError::Revoked => HandshakeError::Revoked,
            CertificateError::UnknownRevocationStatus => HandshakeError::NoRevocationList,
            other => HandshakeError::Other(format!("failed to verify certificate: {other:?}")),
        }
    }
}

/// Go's words for the alerts that a misconfigured client sends.
fn alert_text(alert: rustls::AlertDescription) -> String {
    use rustls::AlertDescription as A;
    match alert {
        A::BadCertificate => "bad certificate".to_owned(),
        A::UnknownCA => "unknown certificate authority".to_owned(),
        A::CertificateExpired => "expired certificate".to_owned(),
        A::CertificateUnknown => "unknown certificate".to_owned(),
        A::ProtocolVersion => "protocol version not supported".to_owned(),
        A::DecryptError => "error decrypting message".to_owned(),
        A::HandshakeFailure => "handshake failure".to_owned(),
        other => format!("{other:?}"),
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

/// The common name in a certificate's subject; of several the last, as Go reads it.
#[must_use]
pub fn common_name(cert: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    let name = parsed.subject().iter_common_name().last()?;
    name.as_str().ok().map(str::to_owned)
}

/// The addresses and names that a certificate was made for.
#[derive(Debug, Default)]
struct AltNames {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl AltNames {
    fn of(cert: &CertificateDer<'_>) -> AltNames {
        let mut found = AltNames::default();
        let Ok((_, parsed)) = X509Certificate::from_der(cert) else { return found };
        let Ok(Some(extension)) = parsed.subject_alternative_name() else { return found };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => found.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => found.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        found
    }

    /// Passes a certificate without names, one that has the address, and one with a name that resolves to it.
    async fn check(&self, from: IpAddr) -> Result<(), HandshakeError> {
        let from = from.to_canonical();
        if (self.addresses.is_empty() && self.names.is_empty()) || self.addresses.contains(&from) {
            return Ok(());
        }
        for name in &self.names {
            let Ok(mut found) = tokio::net::lookup_host((name.as_str(), 0)).await else { continue };
            if found.any(|a| a.ip().to_canonical() == from) {
                return Ok(());
            }
        }
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        let names = addresses.chain(self.names.iter().cloned()).collect();
        Err(HandshakeError::WrongAddress { address: from.to_string(), names })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
