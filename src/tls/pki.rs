//! A small certificate authority for tests and labs, and the certificate that a server makes for itself (auto-TLS).
//!
//! ```text
//! CA  (self-signed, may sign)
//!  ├─ server    serverAuth               what clients dial
//!  ├─ client    clientAuth               what a server with client-cert-auth asks for
//!  └─ peer      serverAuth, clientAuth   members are both to each other
//! ```
//!
//! The extended key usage is what most home-made certificates get wrong: a peer needs both.

use super::Error;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::RevokedCertParams;
use rcgen::SerialNumber;
use rcgen::SigningKey as _;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use time::Duration;
use time::OffsetDateTime;
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be dialled.
    Server,
    /// To dial.
    Client,
    /// Both, as members do with each other.
    Peer,
}

/// What to put into a certificate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The subject's common name: the user name where certificates authenticate users.
    pub common_name: String,
    /// The subject's organization; none if empty.
    pub organization: String,
    /// Host names and IP addresses that it is valid for.
    pub names: Vec<String>,
    /// Its extended key usages.
    pub usage: Usage,
    /// Days from now until it is valid; negative for a past day.
    pub from_days: i64,
    /// Days from now until it no longer is.
    pub until_days: i64,
}

impl Request {
    /// A certificate for these names that is valid from yesterday for ten years.
    #[must_use]
    pub fn new(usage: Usage, common_name: &str, names: &[&str]) -> Request {
        Request {
            common_name: common_name.to_owned(),
            organization: String::new(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            usage,
            from_days: -1,
            until_days: 3650,
        }
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS#8).
    pub key_pem: String,
}

impl Issued {
    /// Writes `<name>.pem` and `<name>-key.pem` into `dir`, readable by this user only, and returns the two paths.
    ///
    /// # Errors
    /// [`Error::Make`] if they cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), Error> {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        write_private(&cert, &self.cert_pem)?;
        write_private(&key, &self.key_pem)?;
        Ok((cert, key))
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Issued,
}

impl Authority {
    /// Makes one, valid from yesterday for ten years.
    ///
    /// # Errors
    /// [`Error::Make`] if no key can be made.
    pub fn new(common_name: &str) -> Result<Authority, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(&Request::new(Usage::Server, common_name, &[]))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clear();
        let cert_pem = params.self_signed(&key).map_err(failed)?.pem();
        let own = Issued { cert_pem, key_pem: key.serialize_pem() };
        Ok(Authority { issuer: Issuer::new(params, key), own })
    }

    /// Its own certificate (what others trust) and its key.
    #[must_use]
    pub fn own(&self) -> &Issued {
        &self.own
    }

    /// A list, in DER, of these certificates (PEM) as revoked.
    ///
    /// # Errors
    /// [`Error::Make`] if one of them is none.
    pub fn revoke(&self, certificates: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let now = OffsetDateTime::now_utc();
        let revoked = |pem: &&[u8]| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| Error::Make(e.to_string()))?;
            let cert = pem.parse_x509().map_err(|e| Error::Make(e.to_string()))?;
            let serial_number = SerialNumber::from_slice(&cert.tbs_certificate.serial.to_bytes_be());
            Ok(RevokedCertParams { serial_number, revocation_time: now, reason_code: None, invalidity_date: None })
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(30),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(revoked).collect::<Result<_, Error>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer).map_err(failed)?.der().to_vec())
    }

    /// Makes a certificate.
    ///
    /// # Errors
    /// [`Error::Make`] if a name is neither a host name nor an address.
    pub fn issue(&self, request: &Request) -> Result<Issued, Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let params = params(request)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

impl Authority {
    /// Makes a certificate of version 1: no names, no usages. `openssl x509 -req` makes such ones when it is given no extensions.
    ///
    /// # Errors
    /// As for [`Authority::issue`].
    pub fn issue_version_1(&self, request: &Request) -> Result<Issued, Error> {
        let unreadable = || Error::Make("a certificate that cannot be read".into());
        let issued = self.issue(request)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.cert_pem.as_bytes()).map_err(|_| unreadable())?;
        let outer = elements(&pem.contents).and_then(|whole| elements(whole.first()?.1)).ok_or_else(unreadable)?;
        let [(_, signed), (algorithm, _), _signature] = outer.as_slice() else { return Err(unreadable()) };
        // What version 1 has not got, the version and the extensions, is what has a tag of its own.
        let is_old = |field: &&(&[u8], &[u8])| field.0.first().is_some_and(|tag| tag & 0x80 == 0);
        let fields = elements(signed).ok_or_else(unreadable)?;
        let kept: Vec<&[u8]> = fields.iter().filter(is_old).map(|(whole, _)| *whole).collect();
        let signed = wrapped(SEQUENCE, &kept.concat());
        let key = KeyPair::from_pem(&self.own.key_pem).map_err(failed)?;
        let signature = [&[0], key.sign(&signed).map_err(failed)?.as_slice()].concat();
        let der = wrapped(SEQUENCE, &[signed.as_slice(), algorithm, &wrapped(BIT_STRING, &signature)].concat());
        Ok(Issued { cert_pem: armoured(&der), key_pem: issued.key_pem })
    }
}

/// A certificate that signed itself and says that it is an authority (`CA:TRUE`), as `openssl req -x509` makes it.
///
/// # Errors
/// As for [`Authority::issue`].
pub fn self_signed(request: &Request) -> Result<Issued, Error> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = params(request)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.clear();
    Ok(Issued { cert_pem: params.self_signed(&key).map_err(failed)?.pem(), key_pem: key.serialize_pem() })
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The elements of a run of DER: each whole, and its contents.
fn elements(mut der: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, element) = Any::from_der(der).ok()?;
        found.push((&der[..der.len() - rest.len()], element.data));
        der = rest;
    }
    Some(found)
}

/// An element of DER.
fn wrapped(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut der = vec![tag];
    match length.as_slice() {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        long => {
            der.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(contents);
    der
}

pub(super) fn armoured(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// The certificate that a server makes for itself: `<dir>/cert.pem` and `key.pem`, made once and used again at the next start.
/// `hosts` are names or addresses, with or without a port. Clients cannot verify it; it encrypts, no more.
///
/// # Errors
/// [`Error::Make`] if the files cannot be written.
///
/// Source: etcd `SelfCert`; there with a P-521 key, here P-256.
pub fn auto_tls(dir: &Path, hosts: &[String], valid_years: u32) -> Result<(PathBuf, PathBuf), Error> {
    if valid_years == 0 {
        return Err(Error::Make("selfSignedCertValidity is invalid,it should be greater than 0".into()));
    }
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::Make(format!("{}: {e}", dir.display())))?;
    let mut names: Vec<String> = hosts.iter().map(|h| without_port(h).to_owned()).filter(|h| !h.is_empty()).collect();
    names.dedup();
    let request = Request {
        common_name: String::new(),
        organization: "etcd".into(),
        names,
        usage: Usage::Peer,
        from_days: 0,
        until_days: 365 * i64::from(valid_years),
    };
    let pair = KeyPair::generate().map_err(failed)?;
    let issued = params(&request)?.self_signed(&pair).map_err(failed)?;
    write_private(&key, &pair.serialize_pem())?;
    write_private(&cert, &issued.pem())?;
    Ok((cert, key))
}

fn params(request: &Request) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(request.names.clone()).map_err(failed)?;
    let mut subject = DistinguishedName::new();
    for (kind, value) in [(DnType::OrganizationName, &request.organization), (DnType::CommonName, &request.common_name)]
    {
        if !value.is_empty() {
            subject.push(kind, value.as_str());
        }
    }
    params.distinguished_name = subject;
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::days(request.from_days);
    params.not_after = now + Duration::days(request.until_days);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match request.usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// `host` of `host`, `host:port`, `[v6]:port` and a bare IPv6 address.
fn without_port(host: &str) -> &str {
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or(bracketed);
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e: std::io::Error| Error::Make(format!("{}: {e}", path.display())))
}

fn failed(e: rcgen::Error) -> Error {
    Error::Make(e.to_string())
}
