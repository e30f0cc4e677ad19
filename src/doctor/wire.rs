//! One endpoint, step by step: is it one, does its host exist, does anybody listen, do both speak TLS or neither, do the certificates please,
//! does it speak HTTP/2. The first step that fails is the finding.

use super::Cause;
use super::Finding;
use super::Patient;
use super::machine;
use crate::client::Address;
use crate::client::Endpoint;
use crate::client::TlsFiles;
use crate::tls::Certificate;
use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What an HTTP/2 client says first: the preface, and an empty settings frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A frame's type stands here, and settings have this one.
const TYPE_AT: usize = 3;
const SETTINGS: u8 = 4;
/// The first byte of a TLS alert.
const TLS_ALERT: u8 = 0x15;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// What came back after a greeting.
enum Heard {
    /// HTTP/2: an etcd, as far as a wire can tell.
    Settings,
    /// The first bytes of something else.
    Other(Vec<u8>),
    /// The connection ended, and how.
    Closed(io::Error),
    Nothing,
}

/// Whom a probe is about.
struct Probe<'a> {
    text: &'a str,
    address: Address,
    files: &'a TlsFiles,
    limit: Duration,
}

/// Looks at one endpoint with the eyes of a client that was told the same.
pub(super) async fn probe(text: &str, patient: &Patient) -> Result<(), Finding> {
    let Endpoint { address, secure } = Endpoint::parse(text);
    let secure = secure.unwrap_or(patient.config.tls.is_some());
    let probe = Probe { text, address, files: &patient.files, limit: patient.config.dial_timeout };
    let wire = probe.connect().await?;
    if secure { probe.secure(wire).await } else { probe.plain(wire).await }
}

impl Probe<'_> {
    fn finding(&self, cause: Cause, says: impl AsRef<str>, evidence: impl Into<String>) -> Finding {
        Finding::new(cause, format!("{}: {}", self.text, says.as_ref()), evidence)
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.limit, work).await.ok()
    }

    async fn connect(&self) -> Result<Box<dyn Wire>, Finding> {
        match &self.address {
            Address::Unreadable(why) if why.contains("missing port") => {
                let says = "no port is given, and etcd's clients assume none";
                Err(self.finding(Cause::Unreadable, says, why))
            }
            Address::Unreadable(why) => Err(self.finding(Cause::Unreadable, "this is no endpoint", why)),
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(wire) => Ok(Box::new(wire)),
                Err(e) => {
                    let says = "nobody listens on this socket file";
                    Err(self.finding(Cause::Refused, says, format!("dial unix {path}: {}", words(&e))))
                }
            },
            Address::Tcp { host, port } => self.connect_tcp(host, *port).await,
        }
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> Result<Box<dyn Wire>, Finding> {
        let found = match self.within(tokio::net::lookup_host((host, port))).await {
            Some(Ok(found)) => found.collect::<Vec<SocketAddr>>(),
            Some(Err(e)) => {
                let says = format!("the host {host} is not known here");
                return Err(self.finding(Cause::UnknownHost, says, format!("lookup {host}: {}", words(&e))));
            }
            None => {
                let says = format!("DNS does not answer for {host}");
                return Err(self.finding(Cause::UnknownHost, says, format!("lookup {host}: i/o timeout")));
            }
        };
        match self.within(TcpStream::connect(found.as_slice())).await {
            Some(Ok(wire)) => Ok(Box::new(wire)),
            Some(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => {
                let says = format!("{host} is up, and nobody listens on port {port}");
                Err(self.finding(Cause::Refused, says, format!("dial tcp {host}:{port}: connect: {}", words(&e))))
            }
            Some(Err(e)) => {
                let says = format!("there is no way to {host} from here");
                Err(self.finding(Cause::Unreachable, says, format!("dial tcp {host}:{port}: connect: {}", words(&e))))
            }
            None => {
                let says = format!("nothing comes back from {host}: packets are lost, not refused, as by a firewall");
                let evidence = format!("dial tcp {host}:{port}: i/o timeout after {:?}", self.limit);
                Err(self.finding(Cause::Unreachable, says, evidence))
            }
        }
    }

    /// Waits for the other side's first bytes, after a greeting.
    async fn greet(&self, wire: &mut dyn Wire) -> Heard {
        let talk = async {
            let mut heard = vec![0; 64];
            if let Err(e) = wire.write_all(GREETING).await {
                return Heard::Closed(e);
            }
            let mut length = 0;
            while length <= TYPE_AT {
                match wire.read(&mut heard[length..]).await {
                    Ok(0) if length == 0 => return Heard::Closed(ErrorKind::UnexpectedEof.into()),
                    Ok(0) => break,
                    Ok(count) => length += count,
                    Err(e) => return Heard::Closed(e),
                }
            }
            heard.truncate(length);
            if heard.get(TYPE_AT) == Some(&SETTINGS) { Heard::Settings } else { Heard::Other(heard) }
        };
        self.within(talk).await.unwrap_or(Heard::Nothing)
    }

    async fn plain(&self, mut wire: Box<dyn Wire>) -> Result<(), Finding> {
        let heard = self.greet(&mut *wire).await;
        let evidence = match &heard {
            Heard::Settings => return Ok(()),
            Heard::Nothing => return Err(self.silent()),
            Heard::Other(bytes) if bytes.starts_with(b"HTTP/1.") => return Err(self.not_etcd(bytes)),
            Heard::Other(bytes) if bytes.first() == Some(&TLS_ALERT) => "it answers with a TLS alert".to_owned(),
            Heard::Other(bytes) => format!("it answers {:?}", String::from_utf8_lossy(bytes)),
            Heard::Closed(e) => format!("it hangs up: {}", words(e)),
        };
        if self.speaks_tls().await {
            let says = "plain text is spoken to a port that speaks TLS";
            return Err(self.finding(Cause::TlsWanted, says, evidence));
        }
        Err(match self.http1().await {
            Some(answer) => self.not_etcd(&answer),
            None => self.finding(Cause::NotEtcd, "this is no etcd's client port", evidence),
        })
    }

    /// What is answered to a question in HTTP/1 that members answer on their peer ports.
    async fn http1(&self) -> Option<Vec<u8>> {
        let mut wire = self.connect().await.ok()?;
        let talk = async {
            wire.write_all(b"GET /members HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n").await.ok()?;
            let mut heard = vec![0; 1024];
            let length = wire.read(&mut heard).await.ok()?;
            heard.truncate(length);
            heard.starts_with(b"HTTP/1.").then_some(heard)
        };
        self.within(talk).await.flatten()
    }

    fn not_etcd(&self, bytes: &[u8]) -> Finding {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().next().unwrap_or_default().to_owned();
        let says = if text.to_lowercase().contains("x-etcd-cluster-id") {
            "this is a member's peer port: members among themselves use it, clients another one"
        } else {
            "HTTP/1 is spoken here, not gRPC: another program than etcd"
        };
        self.finding(Cause::NotEtcd, says, format!("it answers {line:?}"))
    }

    fn silent(&self) -> Finding {
        let holder = match &self.address {
            Address::Tcp { host, port } if is_local(host) => machine::holder(*port),
            _ => None,
        };
        let says = "the connection is accepted and nothing is said: the kernel of that machine lives, the process does not answer";
        let evidence = match holder {
            Some(holder) if holder.is_stopped() => format!("{holder} is stopped (state {})", holder.state),
            Some(holder) => format!("{holder} holds the port (state {})", holder.state),
            None => format!("no byte within {:?}", self.limit),
        };
        self.finding(Cause::Silent, says, evidence)
    }

    /// Whether a TLS handshake gets any answer that is TLS.
    async fn speaks_tls(&self) -> bool {
        let Ok(wire) = self.connect().await else { return false };
        match self.within(handshake(wire, &self.address, &TlsFiles { skip_verify: true, ..TlsFiles::default() })).await
        {
            Some(Ok(_)) => true,
            Some(Err(e)) => matches!(tls_error(&e), Some(rustls::Error::AlertReceived(_))),
            None => false,
        }
    }

    async fn secure(&self, wire: Box<dyn Wire>) -> Result<(), Finding> {
        let mut stream = match self.within(handshake(wire, &self.address, self.files)).await {
            None => return Err(self.silent()),
            Some(Ok(stream)) => stream,
            Some(Err(e)) => return Err(self.handshake_failed(&e).await),
        };
        match self.greet(&mut stream).await {
            Heard::Settings => Ok(()),
            Heard::Nothing => Err(self.silent()),
            Heard::Other(bytes) => Err(self.not_etcd(&bytes)),
            // With TLS 1.3 the member judges the client after the handshake.
            Heard::Closed(e) => Err(self.hung_up(&e)),
        }
    }

    async fn handshake_failed(&self, why: &io::Error) -> Finding {
        match tls_error(why) {
            Some(rustls::Error::InvalidCertificate(error)) => self.distrusted(error).await,
            Some(rustls::Error::AlertReceived(_)) => self.hung_up(why),
            _ if self.speaks_plain().await => {
                let says = "TLS is spoken to a port that speaks plain text";
                self.finding(
                    Cause::NotTls,
                    says,
                    format!("tls: first record does not look like a TLS handshake ({})", words(why)),
                )
            }
            _ => self.finding(Cause::TlsBroken, "the TLS handshake fails", words(why)),
        }
    }

    async fn speaks_plain(&self) -> bool {
        let Ok(mut wire) = self.connect().await else { return false };
        match self.greet(&mut *wire).await {
            Heard::Settings => true,
            Heard::Other(bytes) => bytes.starts_with(b"HTTP/1."),
            Heard::Closed(_) | Heard::Nothing => false,
        }
    }

    /// We do not like the member's certificate: looks at it, and says why.
    async fn distrusted(&self, error: &CertificateError) -> Finding {
        let shown = self.certificate().await;
        let host = match &self.address {
            Address::Tcp { host, .. } => host.as_str(),
            Address::Unix(_) | Address::Unreadable(_) => "localhost",
        };
        let subject = shown.as_ref().map_or("?", |shown| &shown.subject);
        let see = |part: &dyn Fn(&Certificate) -> String| shown.as_ref().map_or_else(|| error.to_string(), part);
        let is_over = |error: &CertificateError| {
            matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
        };
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let says = format!("the member's certificate ({subject}) is not for the name {host}");
                let names = |shown: &Certificate| match shown.names.as_slice() {
                    [] => "it has no names (SAN) at all; the common name does not count".to_owned(),
                    names => format!("its names (SAN) are {}", names.join(", ")),
                };
                self.finding(Cause::NameMissing, says, see(&names))
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                let says = format!("the member's certificate ({subject}) is not meant for servers");
                let usages = |shown: &Certificate| format!("its extended key usage is {}", shown.usages.join(", "));
                self.finding(Cause::WrongUsage, says, see(&usages))
            }
            error if is_over(error) => {
                let says = format!("the member's certificate ({subject}) has expired, or this clock is wrong");
                self.finding(Cause::OutOfDate, says, see(&|cert| cert.dates(OffsetDateTime::now_utc())))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                let says = format!("the member's certificate ({subject}) is not valid yet, or this clock is wrong");
                self.finding(Cause::OutOfDate, says, see(&|cert| cert.dates(OffsetDateTime::now_utc())))
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let says =
                    format!("the member's certificate ({subject}) is signed by an authority that is not trusted here");
                let trusted = Certificate::load(self.files.cacert.as_ref());
                let ours = trusted.map_or_else(
                    || "the system's authorities are trusted (no --cacert)".to_owned(),
                    |ca| format!("--cacert {} is {}", self.files.cacert, ca.subject),
                );
                let issuer = |shown: &Certificate| format!("it is signed by {}; {ours}", shown.issuer);
                self.finding(Cause::UnknownAuthority, says, see(&issuer))
            }
            other => self.finding(Cause::TlsBroken, "the member's certificate is not taken", other.to_string()),
        }
    }

    /// The certificate that the member shows to whoever takes any.
    async fn certificate(&self) -> Option<Certificate> {
        let wire = self.connect().await.ok()?;
        let files = TlsFiles { skip_verify: true, ..self.files.clone() };
        let stream = self.within(handshake(wire, &self.address, &files)).await?.ok()?;
        Certificate::read(stream.get_ref().1.peer_certificates()?.first()?)
    }

    /// The member hung up, which it does when it does not like what the client showed, or did not show.
    fn hung_up(&self, why: &io::Error) -> Finding {
        use AlertDescription as Alert;
        let alert = match tls_error(why) {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        };
        if alert == Some(Alert::ProtocolVersion) || alert == Some(Alert::InsufficientSecurity) {
            return self.finding(Cause::TlsBroken, "both ends have no TLS version in common", words(why));
        }
        if self.files.cert.is_empty() {
            let asks = matches!(
                alert,
                Some(
                    Alert::CertificateRequired | Alert::BadCertificate | Alert::HandshakeFailure | Alert::AccessDenied
                )
            );
            return if asks {
                let says = "the member wants to see a client certificate, and none was shown";
                self.finding(Cause::ClientCertificateWanted, says, words(why))
            } else {
                self.finding(Cause::TlsBroken, "the member ends the TLS handshake", words(why))
            };
        }
        let shown = Certificate::load(self.files.cert.as_ref());
        let path = &self.files.cert;
        let evidence = words(why);
        let (says, evidence) = match shown {
            Some(shown) if !shown.is_valid_at(OffsetDateTime::now_utc()) => (
                format!("the member does not take {path}: it is out of date"),
                format!("{evidence}; {}", shown.dates(OffsetDateTime::now_utc())),
            ),
            Some(shown) if !shown.is_for("clientAuth") => (
                format!("the member does not take {path}: it is not meant for clients"),
                format!("{evidence}; its extended key usage is {}", shown.usages.join(", ")),
            ),
            Some(shown) => (
                format!("the member does not take {path}: most likely its --trusted-ca-file is not who signed it"),
                format!("{evidence}; {} is signed by {}", shown.subject, shown.issuer),
            ),
            None => (format!("the member does not take {path}, which cannot be read here"), evidence),
        };
        self.finding(Cause::ClientCertificateRefused, says, evidence)
    }
}

async fn handshake(wire: Box<dyn Wire>, address: &Address, files: &TlsFiles) -> io::Result<TlsStream<Box<dyn Wire>>> {
    let config = files.load().map_err(io::Error::other)?;
    let host = match address {
        Address::Tcp { host, .. } => host.clone(),
        Address::Unix(_) | Address::Unreadable(_) => "localhost".to_owned(),
    };
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, wire).await
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The system's words in lower case, without their number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
