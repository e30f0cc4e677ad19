//! Which versions and cipher suites are offered: `--tls-min-version`, `--tls-max-version`, `--cipher-suites`.
//!
//! The list is for TLS 1.2; the suites of 1.3 are all good and always there, as in Go. Suites that Go has and ring has not (CBC, RC4, RSA key exchange) are
//! left out by name, and refused where nothing else is on the list: hardening guides end theirs with two of them. Source: etcd `client/pkg/tlsutil`, `server/embed/config.go`.

use std::sync::Arc;
use tokio_rustls::rustls;
use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::version::TLS13;

/// What is offered in a handshake. The default is TLS 1.2 and 1.3 with all suites.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    without_12: bool,
    without_13: bool,
    /// For TLS 1.2, by their names; empty is all.
    suites: Vec<String>,
    left_out: Vec<String>,
}

impl Offer {
    /// Reads the three flags; the error is etcd's text.
    ///
    /// # Errors
    /// A version or suite that there is not, only suites that are too weak, or versions and suites that exclude each other.
    pub fn parse(min: &str, max: &str, suites: &[String]) -> Result<Offer, String> {
        let version = |text: &str| match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(2)),
            "TLS1.3" => Ok(Some(3)),
            other => Err(format!("unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)")),
        };
        let (least, most) = (version(min)?.unwrap_or(2), version(max)?.unwrap_or(3));
        if least > most {
            return Err(format!("min version ({min}) is greater than max version ({max})"));
        }
        if least == 3 && !suites.is_empty() {
            return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
        }
        let is_weak = |suite: &&String| NOT_OURS.contains(&suite.as_str());
        let (weak, suites): (Vec<&String>, Vec<&String>) = suites.iter().partition(is_weak);
        if let Some(suite) = suites.iter().find(|suite| ours().all(|known| known != canonical(suite))) {
            return Err(format!("unexpected TLS cipher suite {suite:?}"));
        }
        if let (Some(suite), []) = (weak.first(), suites.as_slice()) {
            return Err(format!(
                "TLS cipher suite {suite:?} is too weak: this server has forward-secret, authenticated suites only"
            ));
        }
        let suites = suites.into_iter().map(|suite| canonical(suite).to_owned()).collect();
        let left_out = weak.into_iter().cloned().collect();
        Ok(Offer { without_12: least == 3, without_13: most == 2, suites, left_out })
    }

    /// What was asked for and is not offered, because it is too weak.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// ring, with what is offered.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::ring::default_provider();
        if !self.suites.is_empty() {
            let is_offered = |name: &str| {
                name.starts_with("TLS_AES")
                    || name.starts_with("TLS_CHACHA20")
                    || self.suites.iter().any(|suite| suite == name)
            };
            provider.cipher_suites.retain(|suite| is_offered(&go_name(suite)));
        }
        Arc::new(provider)
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(&TLS13, self.without_13), (&TLS12, self.without_12)];
        all.into_iter().filter(|(_, without)| !without).map(|(version, _)| version).collect()
    }
}

/// The suites that there are, by Go's names.
fn ours() -> impl Iterator<Item = String> {
    rustls::crypto::ring::ALL_CIPHER_SUITES.iter().map(go_name)
}

/// rustls says `TLS13_` where Go and IANA say `TLS_`.
fn go_name(suite: &rustls::SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// Go has two suites under a second, older name.
fn canonical(name: &str) -> &str {
    match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        name => name,
    }
}

/// What Go's `crypto/tls` has beyond ours.
const NOT_OURS: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(min: &str, max: &str, suites: &[&str]) -> Result<Offer, String> {
        Offer::parse(min, max, &suites.iter().map(|suite| (*suite).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn versions_are_a_range() {
        let count = |min, max| parse(min, max, &[]).map(|offer| offer.versions().len());
        assert_eq!(
            [count("", ""), count("TLS1.2", ""), count("TLS1.3", ""), count("", "TLS1.2")],
            [Ok(2), Ok(2), Ok(1), Ok(1)]
        );
        assert_eq!(count("TLS1.3", "TLS1.2"), Err("min version (TLS1.3) is greater than max version (TLS1.2)".into()));
        assert_eq!(
            count("TLS1.1", ""),
            Err("unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)".into())
        );
    }

    #[test]
    fn suites_are_gos_and_weak_ones_are_refused_by_name() {
        let one = parse("", "", &["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]).expect("known");
        let names: Vec<String> = one.provider().cipher_suites.iter().map(go_name).collect();
        assert_eq!(names.iter().filter(|name| name.contains("ECDHE")).count(), 1, "{names:?}");
        assert!(names.iter().any(|name| name == "TLS_AES_128_GCM_SHA256"), "{names:?}");
        assert!(parse("", "", &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]).is_ok(), "the older name");
        assert_eq!(parse("", "", &["X"]), Err("unexpected TLS cipher suite \"X\"".into()));
        let weak = parse("", "", &["TLS_RSA_WITH_AES_128_CBC_SHA"]).expect_err("weak");
        assert!(weak.contains("too weak"), "{weak}");
        // What hardening guides of Kubernetes say.
        let guides = [
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_RSA_WITH_AES_128_GCM_SHA256",
        ];
        let offer = parse("", "", &guides).expect("one of them is good");
        assert_eq!(offer.left_out(), &guides[1..]);
        assert_eq!(offer.suites, &guides[..1]);
        let both = parse("TLS1.3", "", &["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]);
        assert_eq!(both, Err("cipher suites cannot be configured when only TLS1.3 is enabled".into()));
    }
}
