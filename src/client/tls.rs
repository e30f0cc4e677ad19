//! The certificate flags of a client, on top of [`crate::tls`], with etcd's texts for files that are missing.

use super::error::Error;
use crate::tls;
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;

/// What `--cacert`, `--cert`, `--key` and `--insecure-skip-tls-verify` name. Empty means not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities to trust, as PEM; the system's if empty.
    pub cacert: String,
    /// Our certificate, as PEM.
    pub cert: String,
    /// Its key, as PEM.
    pub key: String,
    /// Accept whatever certificate the member shows.
    pub skip_verify: bool,
}

impl TlsFiles {
    /// Reads the files. The certificate and its key are read again when they change.
    ///
    /// # Errors
    /// [`Error::Config`] with a sentence that names the file, or the flag that is missing.
    pub fn load(&self) -> Result<Arc<ClientConfig>, Error> {
        // The files are asked for in etcd's order, so that the one that it names is the one that is missing.
        let own = if self.cert.is_empty() || self.key.is_empty() { [""; 2] } else { [&*self.cert, &*self.key] };
        for path in own.into_iter().filter(|path| !path.is_empty()) {
            let why = |e: std::io::Error| Error::Config(format!("open {path}: {}", crate::error::io_text(&e)));
            std::fs::File::open(path).map_err(why)?;
        }
        let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let files = tls::ClientFiles {
            ca: file(&self.cacert),
            cert: file(&self.cert),
            key: file(&self.key),
            insecure_skip_verify: self.skip_verify,
            offer: tls::Offer::default(),
            alpn: vec![b"h2".to_vec()],
        };
        tls::client_config(&files).map_err(|error| match error {
            tls::Error::Unreadable { path, why, .. } => Error::Config(format!("open {}: {why}", path.display())),
            other => Error::Config(other.to_string()),
        })
    }
}

/// Trusts the system's authorities: for `https://` endpoints when no certificate flag was given.
pub(super) fn system() -> Result<Arc<ClientConfig>, Error> {
    TlsFiles::default().load()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_its_key_is_refused_in_etcds_words() {
        let files = TlsFiles { cert: "c.pem".to_owned(), ..TlsFiles::default() };
        let why = files.load().expect_err("half an identity").to_string();
        assert_eq!(why, "KeyFile and CertFile must both be present[key: , cert: c.pem]");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let files = TlsFiles { cacert: "/nosuch/ca.pem".to_owned(), ..TlsFiles::default() };
        let why = files.load().expect_err("no such file").to_string();
        assert_eq!(why, "open /nosuch/ca.pem: no such file or directory");
    }
}
