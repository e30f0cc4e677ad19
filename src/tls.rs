//! TLS as etcd's flags describe it: certificates from files that may change under a running server, clients that must show
//! one of their own, and the true reason when a handshake fails.
//!
//! The one idea: a listener is an [`Acceptor`], plain or TLS, and every connection comes out of the same function. A listener
//! with a certificate never answers plain HTTP, and a client that was refused finds its reason in the server's log by name
//! ("certificate signed by unknown authority"), not as "bad certificate".
//!
//! Cryptography is ring's, chosen here explicitly and nowhere by default. TLS 1.2 and 1.3 only. ring has no P-521: our own
//! certificates are P-256 where etcd's are P-521, and a P-521 certificate of a real etcd is accepted only without verification.
//!
//! Certificates of version 1 and those that say `CA:TRUE` of themselves, which is what `openssl` makes unasked, are taken where a configured root itself
//! signed them or is them (`verify`). Where clients are judged by certificates, no session is resumed: each connection is judged anew.
//!
//! Left out: reverse look-up of host names for wildcard SANs.
//!
//! Source: etcd `client/pkg/transport/{listener,listener_tls}.go`.

mod accept;
mod alert;
mod certificate;
mod config;
mod files;
mod names;
mod offer;
pub mod pki;
mod revoked;
mod verify;

pub use accept::Acceptor;
pub use accept::HANDSHAKE_TIMEOUT;
pub use accept::HANDSHAKES_MAX;
pub use accept::HandshakeError;
pub use accept::Stream;
pub use alert::remote_error;
pub use certificate::Certificate;
pub use config::ClientFiles;
pub use config::ServerFiles;
pub use config::client_config;
pub use names::AltName;
pub use names::alt_names;
pub use names::common_name;
pub use offer::Offer;
pub use pki::auto_tls;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls;

/// What is wrong with the TLS files or flags. Found at start, before anything listens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One half of a certificate and its key.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    HalfAPair { cert: String, key: String },
    /// A file that cannot be read.
    #[error("open {}: {why}: give the {what} as a PEM file that this user can read", path.display())]
    Unreadable { what: &'static str, path: PathBuf, why: String },
    /// A file without what it should hold.
    #[error("tls: failed to find any PEM data in {}: it should hold the {what}, between BEGIN and END lines", path.display())]
    NoPem { what: &'static str, path: PathBuf },
    /// A PEM block that is not what it says.
    #[error("tls: {} does not hold a usable {what}: {why}", path.display())]
    Unusable { what: &'static str, path: PathBuf, why: String },
    /// A certificate and a key that do not belong together.
    #[error(
        "tls: private key does not match public key: {} was not made for {}",
        key.display(), cert.display()
    )]
    Mismatch { cert: PathBuf, key: PathBuf },
    /// Client certificates wanted, and nothing to check them against.
    #[error("client certificates are required, but no CA file is given to verify them: set the trusted CA file")]
    NoTrustedCa,
    /// Two rules for the same decision.
    #[error("AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns:?}, hostnames={hostnames:?})")]
    TwoAllowLists { cns: Vec<String>, hostnames: Vec<String> },
    /// An allowed host name that no certificate can carry.
    #[error("allowed hostname {0:?} is neither a host name nor an IP address")]
    BadAllowedHostname(String),
    /// Certificates that could not be made or written.
    #[error("cannot make a certificate: {0}")]
    Make(String),
    /// rustls refused the configuration.
    #[error("tls: {0}")]
    Setup(#[from] rustls::Error),
}

impl Error {
    fn unreadable(what: &'static str, path: &Path, e: &std::io::Error) -> Error {
        let why = match e.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => e.to_string(),
        };
        Error::Unreadable { what, path: path.to_owned(), why }
    }
}

/// ring, for everything.
#[must_use]
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
#[path = "tls/tests.rs"]
mod tests;
