//! PEM files: read once at start, and again when they have changed, so that certificates can be rotated under a running server.
//!
//! Source: etcd reads the pair at each handshake. We ask for its time-stamps at each handshake and read only what is new; a pair
//! that does not fit together (half of a rotation) leaves the last good one in place.

use super::Error;
use super::provider;
use parking_lot::Mutex;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::rustls::InconsistentKeys;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::ClientHello;
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::rustls::sign::CertifiedKey;

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

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: meta.modified().ok()?, len: meta.len() })
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let chain = read_certificates("certificate", cert)?;
    let private = read_key(key)?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        tokio_rustls::rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Error::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        other => Error::Unusable { what: "certificate or key", path: cert.to_owned(), why: other.to_string() },
    })
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
pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, Error> {
    let what = "CA certificate";
    let mut roots = RootCertStore::empty();
    for cert in read_certificates(what, path)? {
        roots.add(cert).map_err(|e| Error::Unusable { what, path: path.to_owned(), why: e.to_string() })?;
    }
    Ok(roots)
}

/// What this machine trusts; nothing if that cannot be found.
pub(super) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for path in named.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from)) {
        if let Ok(certs) = read_certificates("CA certificate", &path) {
            roots.add_parsable_certificates(certs);
            break;
        }
    }
    roots
}
