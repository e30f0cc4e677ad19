//! PEM files: read once at start, and again when they have changed, so that certificates can be rotated under a running server.
//!
//! Source: etcd reads the pair at each handshake, and authorities at start only. We ask for the time-stamps of both at each handshake and read only what is
//! new, so that an authority can be replaced by way of a file with both; what does not fit together (half of a rotation) leaves the last good state in place.

use super::Error;
use super::provider;
use super::verify::Roots;
use super::verify::public_key;
use parking_lot::Mutex;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::ClientHello;
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;

/// Where Linux distributions keep the certificates that everybody trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A certificate file and its key file, kept current.
#[derive(Debug)]
pub(super) struct Pair {
    cert: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    stamps: [Option<Stamp>; 2],
    key: Arc<CertifiedKey>,
}

/// What tells one content of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    len: u64,
    /// Another file by the same name, even one of the same age and length.
    inode: u64,
}

impl Pair {
    /// Reads both files.
    pub(super) fn load(cert: &Path, key: &Path) -> Result<Arc<Pair>, Error> {
        let stamps = [stamp(cert), stamp(key)];
        let loaded = Loaded { stamps, key: Arc::new(read_pair(cert, key)?) };
        Ok(Arc::new(Pair { cert: cert.to_owned(), key: key.to_owned(), loaded: Mutex::new(loaded) }))
    }

    /// The pair as the files hold it now, or as they last held a good one.
    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        let stamps = [stamp(&self.cert), stamp(&self.key)];
        let mut loaded = self.loaded.lock();
        if loaded.stamps != stamps {
            // Noted even if reading fails, so that a broken pair is reported once and not at each handshake.
            loaded.stamps = stamps;
            match read_pair(&self.cert, &self.key) {
                Ok(key) => loaded.key = Arc::new(key),
                Err(e) => {
                    tracing::warn!(error = %e, "changed certificate files are not used: the last good pair stays")
                }
            }
        }
        loaded.key.clone()
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Pair {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A file of authorities, kept current; or what this machine trusts, as it was at first.
#[derive(Debug)]
pub(super) struct Trusted {
    path: Option<PathBuf>,
    loaded: Mutex<(Option<Stamp>, Roots)>,
}

impl Trusted {
    /// Reads the file; without one, the system's.
    pub(super) fn load(path: Option<&Path>) -> Result<Trusted, Error> {
        let stamp = path.and_then(stamp);
        let roots = path.map_or_else(|| Ok(system_roots()), read_roots)?;
        Ok(Trusted { path: path.map(Path::to_owned), loaded: Mutex::new((stamp, roots)) })
    }

    /// The authorities as the file holds them now, or as it last held some. Clones share them.
    pub(super) fn current(&self) -> Roots {
        let Some(path) = &self.path else { return self.loaded.lock().1.clone() };
        let now = stamp(path);
        let mut loaded = self.loaded.lock();
        if loaded.0 != now {
            loaded.0 = now;
            match read_roots(path) {
                Ok(roots) => {
                    tracing::info!(path = %path.display(), "read changed CA certificates");
                    loaded.1 = roots;
                }
                Err(e) => tracing::warn!(error = %e, "changed CA certificates are not used: the last good ones stay"),
            }
        }
        loaded.1.clone()
    }
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: meta.modified().ok()?, len: meta.len(), inode: meta.ino() })
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let chain = read_certificates("certificate", cert)?;
    let private = provider().key_provider.load_private_key(read_key(key)?);
    let private = private.map_err(|e| {
        let why = chain.first().and_then(unsupported_key).unwrap_or_else(|| e.to_string());
        Error::Unusable { what: "private key", path: key.to_owned(), why }
    })?;
    let public = chain.first().and_then(public_key).ok_or_else(|| {
        let why = "it is no X.509 certificate".to_owned();
        Error::Unusable { what: "certificate", path: cert.to_owned(), why }
    })?;
    if private.public_key().is_some_and(|made_for| made_for != public) {
        return Err(Error::Mismatch { cert: cert.to_owned(), key: key.to_owned() });
    }
    Ok(CertifiedKey::new(chain, private))
}

/// What to say of a certificate whose key is of a kind that ring does not know.
pub(super) fn unsupported_key(cert: &CertificateDer<'_>) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let kind = match cert.public_key().parsed().ok()? {
        PublicKey::RSA(key) if !(2048..=8192).contains(&key.key_size()) => format!("RSA of {} bits", key.key_size()),
        // The field of P-521 has 66 bytes.
        PublicKey::EC(point) if point.key_size() > 384 => "ECDSA on the curve P-521".to_owned(),
        _ => return None,
    };
    Some(format!("{kind} is not supported here: RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, and Ed25519 are"))
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(path).map_err(|e| Error::unreadable(what, path, &e))?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::Unusable { what, path: path.to_owned(), why: e.to_string() })?;
    if certs.is_empty() {
        return Err(Error::NoPem { what, path: path.to_owned() });
    }
    Ok(certs)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    use tokio_rustls::rustls::pki_types::pem;
    let what = "private key";
    let text = std::fs::read(path).map_err(|e| Error::unreadable(what, path, &e))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        pem::Error::NoItemsFound => Error::NoPem { what, path: path.to_owned() },
        other => Error::Unusable { what, path: path.to_owned(), why: other.to_string() },
    })
}

/// The certificates in `path`, to verify others with.
pub(super) fn read_roots(path: &Path) -> Result<Roots, Error> {
    let what = "CA certificate";
    let (mut store, certificates) = (RootCertStore::empty(), read_certificates(what, path)?);
    for cert in &certificates {
        store.add(cert.clone()).map_err(|e| Error::Unusable { what, path: path.to_owned(), why: e.to_string() })?;
    }
    Ok(Roots::new(store, certificates))
}

/// What this machine trusts; nothing if that cannot be found.
pub(super) fn system_roots() -> Roots {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for path in named.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from)) {
        if let Ok(certificates) = read_certificates("CA certificate", &path) {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(certificates.iter().cloned());
            return Roots::new(store, certificates);
        }
    }
    Roots::new(RootCertStore::empty(), Vec::new())
}
