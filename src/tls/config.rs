//! From etcd's file settings to rustls configurations.
//!
//! Source: etcd `client/pkg/transport/listener.go`, `ServerConfig` and `ClientConfig`.

use super::Error;
use super::files::Pair;
use super::files::Trusted;
use super::names::common_name;
use super::offer::Offer;
use super::provider;
use super::revoked::Revoked;
use super::verify::AnyServer;
use super::verify::Purpose;
use super::verify::Roots;
use super::verify::Servers;
use super::verify::tls12_signature;
use super::verify::tls13_signature;
use crate::wall;
use parking_lot::Mutex;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::DigitallySignedStruct;
use tokio_rustls::rustls::DistinguishedName;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerified;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::time_provider::TimeProvider;

/// The TLS settings of a listener, as etcd's flags give them.
#[derive(Clone, Debug, Default)]
pub struct ServerFiles {
    /// `--cert-file`, `--peer-cert-file`: this server's certificate and what leads to its CA.
    pub cert: PathBuf,
    /// `--key-file`, `--peer-key-file`.
    pub key: PathBuf,
    /// `--trusted-ca-file`, `--peer-trusted-ca-file`. Its presence alone makes client certificates required.
    pub trusted_ca: Option<PathBuf>,
    /// `--client-cert-auth`, `--peer-client-cert-auth`: needs `trusted_ca`.
    pub client_cert_auth: bool,
    /// Common names that a client certificate may carry; empty: any. `--peer-cert-allowed-cn`.
    pub allowed_cn: Vec<String>,
    /// Names of which a client certificate must carry one as a SAN; empty: any. `--client-cert-allowed-hostname`.
    pub allowed_hostname: Vec<String>,
    /// Peer listeners: a client certificate with SANs must name the address that the client comes from. Off with
    /// `--peer-skip-client-san-verification`, on client listeners, and where there is an allow-list.
    pub check_client_address: bool,
    /// `--client-crl-file`, `--peer-crl-file`: certificates that are refused all the same.
    pub crl: Option<PathBuf>,
    /// Versions and cipher suites.
    pub offer: Offer,
    /// Protocols offered by ALPN. Peers use none: a real etcd's transport offers none.
    pub alpn: Vec<Vec<u8>>,
}

/// The TLS settings of whoever dials.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// CA of the servers; none: what this machine trusts.
    pub ca: Option<PathBuf>,
    /// This client's certificate, if servers ask for one.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Takes any certificate. Encrypted, but anybody may be at the other end.
    pub insecure_skip_verify: bool,
    /// Versions and cipher suites.
    pub offer: Offer,
    /// Protocols offered by ALPN (`h2` for gRPC, none for peers).
    pub alpn: Vec<Vec<u8>>,
}

/// Certificates are judged by the clock on the wall as this process has it.
#[derive(Debug)]
struct OnTheWall;

impl TimeProvider for OnTheWall {
    #[expect(clippy::disallowed_methods, reason = "a certificate is valid by the clock on the wall")]
    fn current_time(&self) -> Option<UnixTime> {
        let now = wall::seen(SystemTime::now()).duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// The configuration of a TLS listener. Certificate and key, authorities and revocation list are read again when the files change.
pub(super) struct Renewed {
    files: ServerFiles,
    pair: Arc<Pair>,
    hostnames: Vec<ServerName<'static>>,
    authorities: Option<Trusted>,
    revoked: Option<Arc<Revoked>>,
    /// Made of these authorities: a client is told which they are, so that it can choose its certificate.
    made: Mutex<(Option<Roots>, Arc<rustls::ServerConfig>)>,
}

impl Renewed {
    /// Reads the files; the error names the file or the flags at fault.
    pub(super) fn load(files: &ServerFiles) -> Result<Renewed, Error> {
        both_or_none(&files.cert, &files.key)?;
        if !files.allowed_cn.is_empty() && !files.allowed_hostname.is_empty() {
            let (cns, hostnames) = (files.allowed_cn.clone(), files.allowed_hostname.clone());
            return Err(Error::TwoAllowLists { cns, hostnames });
        }
        if files.client_cert_auth && files.trusted_ca.is_none() {
            return Err(Error::NoTrustedCa);
        }
        let pair = Pair::load(&files.cert, &files.key)?;
        let authorities = files.trusted_ca.as_deref().map(|ca| Trusted::load(Some(ca))).transpose()?;
        let hostname =
            |name: &String| ServerName::try_from(name.clone()).map_err(|_| Error::BadAllowedHostname(name.clone()));
        let hostnames = files.allowed_hostname.iter().map(hostname).collect::<Result<Vec<_>, _>>()?;
        let crl = files.crl.as_deref().filter(|_| authorities.is_some());
        let revoked = crl.map(Revoked::load).transpose()?.map(Arc::new);
        let roots = authorities.as_ref().map(Trusted::current);
        let config = listener(files, &pair, roots.as_ref().map(|roots| clients(files, &hostnames, &revoked, roots)))?;
        Ok(Renewed { files: files.clone(), pair, hostnames, authorities, revoked, made: Mutex::new((roots, config)) })
    }

    /// What the next handshake goes by.
    pub(super) fn current(&self) -> Arc<rustls::ServerConfig> {
        let roots = self.authorities.as_ref().map(Trusted::current);
        let mut made = self.made.lock();
        if made.0 != roots {
            let verifier = roots.as_ref().map(|roots| clients(&self.files, &self.hostnames, &self.revoked, roots));
            match listener(&self.files, &self.pair, verifier) {
                Ok(config) => made.1 = config,
                Err(e) => tracing::warn!(error = %e, "changed CA certificates are not used: the last good ones stay"),
            }
            made.0 = roots;
        }
        Arc::clone(&made.1)
    }
}

fn listener(
    files: &ServerFiles,
    pair: &Arc<Pair>,
    verifier: Option<Result<Arc<dyn ClientCertVerifier>, Error>>,
) -> Result<Arc<rustls::ServerConfig>, Error> {
    let builder = rustls::ServerConfig::builder_with_details(files.offer.provider(), Arc::new(OnTheWall))
        .with_protocol_versions(&files.offer.versions())?;
    let verifier = verifier.transpose()?;
    let judges_clients = verifier.is_some();
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(Arc::clone(pair) as Arc<dyn rustls::server::ResolvesServerCert>);
    if judges_clients {
        // A resumed session is not asked for its certificate again: one that was revoked or has expired since would get in by it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols.clone_from(&files.alpn);
    Ok(Arc::new(config))
}

/// The configuration of a TLS client. Certificate, key and authorities are read again when the files change.
///
/// # Errors
/// [`Error`] naming the file at fault.
pub fn client_config(files: &ClientFiles) -> Result<Arc<rustls::ClientConfig>, Error> {
    let builder = rustls::ClientConfig::builder_with_details(files.offer.provider(), Arc::new(OnTheWall))
        .with_protocol_versions(&files.offer.versions())?;
    let builder = if files.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer))
    } else {
        let trusted = Trusted::load(files.ca.as_deref())?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Servers(trusted)))
    };
    let none = PathBuf::new();
    let (cert, key) = (files.cert.as_ref().unwrap_or(&none), files.key.as_ref().unwrap_or(&none));
    let mut config = if cert == &none && key == &none {
        builder.with_no_client_auth()
    } else {
        both_or_none(cert, key)?;
        builder.with_client_cert_resolver(Pair::load(cert, key)?)
    };
    if files.ca.is_some() {
        // A server is not looked at again when a session is resumed: one of an authority that has been dropped since would stay trusted. Go resumes none, either.
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols.clone_from(&files.alpn);
    Ok(Arc::new(config))
}

fn both_or_none(cert: &Path, key: &Path) -> Result<(), Error> {
    if cert.as_os_str().is_empty() || key.as_os_str().is_empty() {
        return Err(Error::HalfAPair { cert: cert.display().to_string(), key: key.display().to_string() });
    }
    Ok(())
}

fn clients(
    files: &ServerFiles,
    hostnames: &[ServerName<'static>],
    revoked: &Option<Arc<Revoked>>,
    roots: &Roots,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let path = || files.trusted_ca.clone().unwrap_or_default();
    let inner = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider())
        .build()
        .map_err(|e| Error::Unusable { what: "CA certificate", path: path(), why: e.to_string() })?;
    let (cns, hostnames) = (files.allowed_cn.clone(), hostnames.to_vec());
    Ok(Arc::new(Clients { inner, roots: roots.clone(), cns, hostnames, revoked: revoked.clone() }))
}

/// A server's view of clients: signed by a root, not revoked, and of an allowed name if there is a list of them.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Roots,
    cns: Vec<String>,
    hostnames: Vec<ServerName<'static>>,
    revoked: Option<Arc<Revoked>>,
}

impl Clients {
    fn allows(&self, cert: &CertificateDer<'_>) -> bool {
        if self.cns.is_empty() && self.hostnames.is_empty() {
            return true;
        }
        if let Some(cn) = common_name(cert)
            && self.cns.contains(&cn)
        {
            return true;
        }
        let Ok(parsed) = ParsedCertificate::try_from(cert) else { return false };
        self.hostnames.iter().any(|name| rustls::client::verify_server_name(&parsed, name).is_ok())
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Err(refusal) = self.inner.verify_client_cert(cert, intermediates, now) {
            self.roots.reconsider(refusal, cert, Purpose::Client, now)?;
        }
        if let Some(revoked) = &self.revoked {
            let chain: Vec<&CertificateDer<'_>> = std::iter::once(cert).chain(intermediates).collect();
            match revoked.has(&chain) {
                Ok(false) => {}
                Ok(true) => return Err(CertificateError::Revoked.into()),
                Err(why) => {
                    tracing::warn!(error = why, "nobody is let in: the certificate revocation list cannot be read");
                    return Err(CertificateError::UnknownRevocationStatus.into());
                }
            }
        }
        if !self.allows(cert) {
            // The client hears `bad certificate`, as from Go.
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
