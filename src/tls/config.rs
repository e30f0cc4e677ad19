//! From etcd's file settings to rustls configurations.
//!
//! Source: etcd `client/pkg/transport/listener.go`, `ServerConfig` and `ClientConfig`.

use super::Error;
use super::accept::common_name;
use super::files::Pair;
use super::files::read_roots;
use super::files::system_roots;
use super::offer::Offer;
use super::provider;
use super::revoked::Revoked;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::DigitallySignedStruct;
use tokio_rustls::rustls::DistinguishedName;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::danger::ServerCertVerified;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerified;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

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

/// The configuration of a TLS listener. Certificate and key are read again when the files change.
///
/// # Errors
/// [`Error`] naming the file or the flags at fault.
pub fn server_config(files: &ServerFiles) -> Result<Arc<rustls::ServerConfig>, Error> {
    both_or_none(&files.cert, &files.key)?;
    let pair = Pair::load(&files.cert, &files.key)?;
    let builder = rustls::ServerConfig::builder_with_provider(files.offer.provider())
        .with_protocol_versions(&files.offer.versions())?;
    let mut config = match client_verifier(files)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(pair);
    config.alpn_protocols.clone_from(&files.alpn);
    Ok(Arc::new(config))
}

/// The configuration of a TLS client. Certificate and key are read again when the files change.
///
/// # Errors
/// [`Error`] naming the file at fault.
pub fn client_config(files: &ClientFiles) -> Result<Arc<rustls::ClientConfig>, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(files.offer.provider())
        .with_protocol_versions(&files.offer.versions())?;
    let builder = if files.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
    } else {
        builder.with_root_certificates(files.ca.as_deref().map_or_else(|| Ok(system_roots()), read_roots)?)
    };
    let none = PathBuf::new();
    let (cert, key) = (files.cert.as_ref().unwrap_or(&none), files.key.as_ref().unwrap_or(&none));
    let mut config = if cert == &none && key == &none {
        builder.with_no_client_auth()
    } else {
        both_or_none(cert, key)?;
        builder.with_client_cert_resolver(Pair::load(cert, key)?)
    };
    config.alpn_protocols.clone_from(&files.alpn);
    Ok(Arc::new(config))
}

fn both_or_none(cert: &Path, key: &Path) -> Result<(), Error> {
    if cert.as_os_str().is_empty() || key.as_os_str().is_empty() {
        return Err(Error::HalfAPair { cert: cert.display().to_string(), key: key.display().to_string() });
    }
    Ok(())
}

fn client_verifier(files: &ServerFiles) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    if !files.allowed_cn.is_empty() && !files.allowed_hostname.is_empty() {
        let (cns, hostnames) = (files.allowed_cn.clone(), files.allowed_hostname.clone());
        return Err(Error::TwoAllowLists { cns, hostnames });
    }
    let Some(ca) = &files.trusted_ca else {
        return if files.client_cert_auth { Err(Error::NoTrustedCa) } else { Ok(None) };
    };
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(ca)?), provider())
        .build()
        .map_err(|e| Error::Unusable { what: "CA certificate", path: ca.clone(), why: e.to_string() })?;
    let hostname =
        |name: &String| ServerName::try_from(name.clone()).map_err(|_| Error::BadAllowedHostname(name.clone()));
    let hostnames = files.allowed_hostname.iter().map(hostname).collect::<Result<Vec<_>, _>>()?;
    let revoked = files.crl.as_deref().map(Revoked::load).transpose()?;
    if files.allowed_cn.is_empty() && hostnames.is_empty() && revoked.is_none() {
        return Ok(Some(inner));
    }
    Ok(Some(Arc::new(MoreRules { inner, cns: files.allowed_cn.clone(), hostnames, revoked })))
}

/// A verified client certificate must also carry an allowed name, if there is a list of them, and must not be revoked.
#[derive(Debug)]
struct MoreRules {
    inner: Arc<dyn ClientCertVerifier>,
    cns: Vec<String>,
    hostnames: Vec<ServerName<'static>>,
    revoked: Option<Revoked>,
}

impl MoreRules {
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

impl ClientCertVerifier for MoreRules {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(cert, intermediates, now)?;
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
        if self.allows(cert) { Ok(verified) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Any certificate will do. The signature is still checked, except for keys that ring does not know: a real etcd's auto-TLS makes
/// P-521 keys, and nothing is lost where the certificate itself is not verified.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _cert: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        unless_unknown(dss, || rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        unless_unknown(dss, || rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}

/// Lets a signature pass that ring cannot verify; not one that it finds wrong. TLS 1.3 names the curve in the scheme, 1.2 does not.
fn unless_unknown(
    dss: &DigitallySignedStruct,
    check: impl FnOnce() -> Result<HandshakeSignatureValid, rustls::Error>,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if dss.scheme == SignatureScheme::ECDSA_NISTP521_SHA512 {
        return Ok(HandshakeSignatureValid::assertion());
    }
    match check() {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        )) => Ok(HandshakeSignatureValid::assertion()),
        other => other,
    }
}
