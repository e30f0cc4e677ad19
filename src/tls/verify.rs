//! Verifying certificates: webpki's rules, and two forms of certificates that webpki refuses whoever signed them and Go, and so etcd, takes.
//!
//! * Version 1, which `openssl x509 -req` makes when nobody names extensions. It cannot carry a name (SAN), so it serves clients only.
//! * `CA:TRUE`, which `openssl req -x509` makes: a certificate that signed itself, used as a server's or a member's and as its own authority.
//!
//! Only the form is let pass, and only where the chain is as short as it can be: the certificate is itself one of the configured roots, or one of those signed it. Dates
//! (the root's too), extended key usage, critical extensions, names and revocation count as ever, and the other side proves in the handshake that it has the key. Where an
//! intermediate authority signed such a certificate, webpki's refusal stands.
//!
//! Source: Go `crypto/x509/verify.go` (`Verify`, `isValid`, `CheckSignatureFrom`).

use super::files::Trusted;
use super::files::unsupported_key;
use super::names::common_name;
use super::provider;
use std::fmt;
use std::sync::Arc;
use tokio_rustls::rustls;
use tokio_rustls::rustls::CertificateError;
use tokio_rustls::rustls::DigitallySignedStruct;
use tokio_rustls::rustls::OtherError;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::danger::ServerCertVerified;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::ParsedCertificate;
use webpki::RawPublicKeyEntity;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::prelude::X509Version;

/// Who is trusted to sign certificates.
#[derive(Clone)]
pub(super) struct Roots {
    /// As webpki wants them.
    pub(super) store: Arc<RootCertStore>,
    /// As they are.
    certificates: Arc<[CertificateDer<'static>]>,
}

impl PartialEq for Roots {
    /// Whether they were read in the same moment.
    fn eq(&self, other: &Roots) -> bool {
        Arc::ptr_eq(&self.store, &other.store)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} roots", self.store.len())
    }
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

impl Roots {
    /// `store` holds what webpki reads of `certificates`.
    pub(super) fn new(store: RootCertStore, certificates: Vec<CertificateDer<'static>>) -> Roots {
        Roots { store: Arc::new(store), certificates: certificates.into() }
    }

    /// What becomes of webpki's refusal of `cert`: it stands, unless it was for the form alone and a root vouches for the certificate.
    pub(super) fn reconsider(
        &self,
        refusal: rustls::Error,
        cert: &CertificateDer<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let is_form = matches!(
            webpki_error(&refusal),
            Some(webpki::Error::UnsupportedCertVersion | webpki::Error::CaUsedAsEndEntity)
        );
        let Some(shown) = read(cert).filter(|shown| is_form && (is_version_1(shown) || shown.is_ca())) else {
            return Err(refusal);
        };
        check(&shown, purpose, now)?;
        if self.certificates.iter().any(|root| root == cert) {
            return Ok(());
        }
        for root in self.certificates.iter().filter_map(read) {
            if root.subject().as_raw() != shown.issuer().as_raw() || !may_sign(&root) {
                continue;
            }
            if is_signed_by(cert, &shown, &root) {
                return Ok(check(&root, purpose, now)?);
            }
        }
        Err(CertificateError::UnknownIssuer.into())
    }
}

/// The certificate, if it is one and nothing comes behind it.
fn read<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(cert)
}

fn is_version_1(cert: &X509Certificate<'_>) -> bool {
    cert.version() == X509Version::V1 && cert.extensions().is_empty()
}

/// What holds for a certificate whoever signed it.
fn check(cert: &X509Certificate<'_>, purpose: Purpose, now: UnixTime) -> Result<(), CertificateError> {
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < cert.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > cert.validity().not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(CertificateError::BadEncoding),
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_) => {}
            _ if extension.critical => return Err(CertificateError::UnhandledCriticalExtension),
            _ => {}
        }
    }
    let usages = cert.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    let fits = usages.is_none_or(|usages| match purpose {
        _ if usages.value.any => true,
        Purpose::Server => usages.value.server_auth,
        Purpose::Client => usages.value.client_auth,
    });
    if fits { Ok(()) } else { Err(CertificateError::InvalidPurpose) }
}

/// Whether a root is an authority. One with name constraints is left to webpki, which knows how to follow them.
fn may_sign(root: &X509Certificate<'_>) -> bool {
    let is_authority = is_version_1(root) || root.is_ca();
    let key_usage = root.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    is_authority && key_usage && matches!(root.name_constraints(), Ok(None))
}

/// Whether `root`'s key signed `cert`, by an algorithm that is good enough for all other certificates, too.
fn is_signed_by(der: &CertificateDer<'_>, cert: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    let signed = cert.tbs_certificate.as_ref();
    let (Some(named), true) = (algorithm(der, signed), cert.signature_algorithm == cert.tbs_certificate.signature)
    else {
        return false;
    };
    let key = SubjectPublicKeyInfoDer::from(root.public_key().raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else { return false };
    let mut fitting = algorithms().all.iter().filter(|known| *known.signature_alg_id() == *named);
    let signature = &cert.signature_value;
    signature.unused_bits == 0 && fitting.any(|known| key.verify_signature(*known, signed, &signature.data).is_ok())
}

/// How a certificate is signed: the bytes of the field behind `signed`, as webpki's algorithms are named.
fn algorithm<'a>(der: &'a [u8], signed: &[u8]) -> Option<&'a [u8]> {
    let (_, certificate) = Any::from_der(der).ok()?;
    let (_, algorithm) = Any::from_der(certificate.data.get(signed.len()..)?).ok()?;
    Some(algorithm.data)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

fn webpki_error(e: &rustls::Error) -> Option<&webpki::Error> {
    match e {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// The key in a certificate, of whatever version that is.
pub(super) fn public_key(cert: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    Some(SubjectPublicKeyInfoDer::from(read(cert)?.public_key().raw.to_vec()))
}

/// A key of a kind or a size that is not known here, in a sentence. It makes every signature look wrong.
#[derive(Debug)]
pub(super) struct UnsupportedKey(String);

impl fmt::Display for UnsupportedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnsupportedKey {}

/// `refusal`, or the key in `cert` if that is why the signature could not be verified.
pub(super) fn or_the_key(refusal: rustls::Error, cert: &CertificateDer<'_>) -> rustls::Error {
    match unsupported_key(cert) {
        Some(why) if refusal == CertificateError::BadSignature.into() => {
            CertificateError::Other(OtherError(Arc::new(UnsupportedKey(why)))).into()
        }
        _ => refusal,
    }
}

/// Whether the other side has the key of `cert`, in TLS 1.2.
pub(super) fn tls12_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let known = algorithms();
    rustls::crypto::verify_tls12_signature(message, cert, dss, &known).or_else(|refusal| {
        let Some(key) = key_of_version_1(&refusal, cert) else { return Err(or_the_key(refusal, cert)) };
        let Ok(key) = RawPublicKeyEntity::try_from(&key) else { return Err(refusal) };
        let mut fitting = known.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme).flat_map(|(_, all)| *all);
        if fitting.any(|known| key.verify_signature(*known, message, dss.signature()).is_ok()) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
    })
}

/// The same in TLS 1.3.
pub(super) fn tls13_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let known = algorithms();
    rustls::crypto::verify_tls13_signature(message, cert, dss, &known).or_else(|refusal| {
        let Some(key) = key_of_version_1(&refusal, cert) else { return Err(or_the_key(refusal, cert)) };
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, &known)
    })
}

fn key_of_version_1(refusal: &rustls::Error, cert: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    matches!(webpki_error(refusal), Some(webpki::Error::UnsupportedCertVersion)).then(|| public_key(cert))?
}

/// A client's view of servers: signed by a root, and for the name that was dialled.
#[derive(Debug)]
pub(super) struct Servers(pub(super) Trusted);

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(cert).map_err(|refusal| match webpki_error(&refusal) {
            // Without extensions it has no names, and the common name does not count.
            Some(webpki::Error::UnsupportedCertVersion) => nameless(cert, name).into(),
            _ => refusal,
        })?;
        let (known, roots) = (algorithms().all, self.0.current());
        let verified =
            rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, known);
        verified.or_else(|refusal| roots.reconsider(refusal, cert, Purpose::Server, now))?;
        rustls::client::verify_server_name(&parsed, name).map_err(|refusal| match &refusal {
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })
                if presented.is_empty() =>
            {
                nameless(cert, name).into()
            }
            _ => refusal,
        })?;
        Ok(ServerCertVerified::assertion())
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
        algorithms().supported_schemes()
    }
}

/// Why a certificate without names is not good for `name`. The common name is told only where it would have done, as Go has it.
fn nameless(cert: &CertificateDer<'_>, name: &ServerName<'_>) -> CertificateError {
    let fitting = common_name(cert).filter(|cn| cn.eq_ignore_ascii_case(&name.to_str()));
    let presented = fitting.map(|cn| format!("{LEGACY}({cn})")).into_iter().collect();
    CertificateError::NotValidForNameContext { expected: name.to_owned(), presented }
}

/// Go's sentence for a certificate whose names are others than the one that was dialled. `presented` is as webpki writes it, `DnsName("a")`.
/// Source: Go `crypto/x509/verify.go`, `HostnameError`.
pub(super) fn wrong_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let names_of = |kind: &str| -> Vec<&str> {
        let inner = |name: &'_ String| -> Option<(usize, usize)> {
            let begin = name.find('(').filter(|end| &name[..*end] == kind)? + 1;
            Some((begin, name.rfind(')').filter(|end| *end >= begin)?))
        };
        presented.iter().filter_map(|name| inner(name).map(|(begin, end)| name[begin..end].trim_matches('"'))).collect()
    };
    let wanted = expected.to_str();
    if !names_of(LEGACY).is_empty() {
        return "certificate relies on legacy Common Name field, use SANs instead".to_owned();
    }
    let is_address = matches!(expected, ServerName::IpAddress(_));
    match names_of(if is_address { "IpAddress" } else { "DnsName" }).join(", ").as_str() {
        "" if is_address => {
            format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
        }
        "" => format!("certificate is not valid for any names, but wanted to match {wanted}"),
        names => format!("certificate is valid for {names}, not {wanted}"),
    }
}

/// How a common name is put among the names that a certificate presents.
const LEGACY: &str = "CommonName";

/// Any certificate will do. The signature is still checked, except for keys that ring does not know: a real etcd's auto-TLS makes
/// P-521 keys, and nothing is lost where the certificate itself is not verified.
#[derive(Debug)]
pub(super) struct AnyServer;

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
        unless_unknown(dss, || tls12_signature(message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unless_unknown(dss, || tls13_signature(message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = algorithms().supported_schemes();
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
