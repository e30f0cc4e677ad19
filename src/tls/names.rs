//! Whom a certificate is for: its common name, and the hosts and addresses of its subject alternative name (RFC 5280 section 4.2.1.6).

use std::fmt;
use std::net::IpAddr;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// One entry of a certificate's subject alternative name, of the two kinds that TLS looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    Address(IpAddr),
    Host(String),
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AltName::Address(address) => address.fmt(f),
            AltName::Host(name) => f.write_str(name),
        }
    }
}

/// The hosts and addresses that a certificate was made for, in its order.
#[must_use]
pub fn alt_names(cert: &X509Certificate<'_>) -> Vec<AltName> {
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(alt_name).collect()
}

fn alt_name(name: &GeneralName<'_>) -> Option<AltName> {
    match name {
        GeneralName::DNSName(name) => Some(AltName::Host((*name).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(AltName::Address),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The common name in a certificate's subject; of several the last, as Go reads it.
#[must_use]
pub fn common_name(cert: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    let name = parsed.subject().iter_common_name().last()?;
    name.as_str().ok().map(str::to_owned)
}
