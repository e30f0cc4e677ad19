//! Certificates that their authority has taken back: `--client-crl-file`, `--peer-crl-file`.
//!
//! As in etcd, the list is a matter of serial numbers: who signed it and until when it is good is not looked at, so that an old list still keeps out whom it names. It is
//! read again when the file changes; a list that cannot be read keeps everybody out. Source: etcd `client/pkg/transport/listener_tls.go` (`checkCRL`).

use super::Error;
use super::files::Stamp;
use super::files::stamp;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::pem::Pem;
use x509_parser::prelude::CertificateRevocationList;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

/// Serial numbers as the certificates have them.
type Serials = BTreeSet<Vec<u8>>;

/// A revocation list, kept current.
#[derive(Debug)]
pub(super) struct Revoked {
    path: PathBuf,
    loaded: Mutex<(Option<Stamp>, Result<Serials, String>)>,
}

impl Revoked {
    pub(super) fn load(path: &Path) -> Result<Revoked, Error> {
        let (stamp, serials) = (stamp(path), serials(path)?);
        Ok(Revoked { path: path.to_owned(), loaded: Mutex::new((stamp, Ok(serials))) })
    }

    /// Whether one of these certificates is on the list; the error says why nobody knows.
    pub(super) fn has(&self, chain: &[&CertificateDer<'_>]) -> Result<bool, String> {
        let now = stamp(&self.path);
        let mut loaded = self.loaded.lock();
        if loaded.0 != now || loaded.1.is_err() {
            *loaded = (now, serials(&self.path).map_err(|e| e.to_string()));
        }
        let revoked = loaded.1.as_ref().map_err(Clone::clone)?;
        Ok(chain.iter().any(|cert| serial(cert).is_none_or(|serial| revoked.contains(&serial))))
    }
}

fn serial(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    Some(parsed.tbs_certificate.serial.to_bytes_be())
}

/// The serial numbers in a list, DER or PEM.
fn serials(path: &Path) -> Result<Serials, Error> {
    let what = "certificate revocation list";
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable(what, path, &e))?;
    let unusable = |why: String| Error::Unusable { what, path: path.to_owned(), why };
    let der = if bytes.starts_with(b"-----BEGIN") {
        let pem = Pem::iter_from_buffer(&bytes).next();
        pem.ok_or_else(|| unusable("no PEM data".into()))?.map_err(|e| unusable(e.to_string()))?.contents
    } else {
        bytes
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|e| unusable(e.to_string()))?;
    Ok(list.iter_revoked_certificates().map(|entry| entry.serial().to_bytes_be()).collect())
}
