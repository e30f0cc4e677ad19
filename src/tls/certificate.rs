//! What a certificate says of itself, and whether its authority and its key agree.

use super::names::AltName;
use super::names::alt_names;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio_rustls::rustls;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A certificate, read.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// The host names and addresses that it is for.
    pub names: Vec<String>,
    /// Its extended key usages; none: it is good for all.
    pub usages: Vec<&'static str>,
    pub is_authority: bool,
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Reads DER; nothing if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Certificate> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let names = alt_names(&read).iter().map(AltName::to_string).collect();
        let mut usages = Vec::new();
        if let Ok(Some(usage)) = read.extended_key_usage() {
            let known = [(usage.value.server_auth, "serverAuth"), (usage.value.client_auth, "clientAuth")];
            usages.extend(known.into_iter().filter(|(has, _)| *has).map(|(_, name)| name));
            if usages.is_empty() && !usage.value.any {
                usages.push("neither serverAuth nor clientAuth");
            }
        }
        let validity = read.validity();
        Some(Certificate {
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            names,
            usages,
            is_authority: read.is_ca(),
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// Reads the first certificate of a PEM file; nothing if there is none.
    #[must_use]
    pub fn load(path: &Path) -> Option<Certificate> {
        Certificate::read(&CertificateDer::from_pem_file(path).ok()?)
    }

    /// The dates, and the clock that they are compared with.
    #[must_use]
    pub fn dates(&self, now: OffsetDateTime) -> String {
        let clock = moment(now);
        format!("valid from {} until {}; this machine's clock says {clock}", moment(self.from), moment(self.until))
    }

    /// Whether the clock is between its dates.
    #[must_use]
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        (self.from..=self.until).contains(&now)
    }

    /// Whether it may be shown for this purpose.
    #[must_use]
    pub fn is_for(&self, usage: &str) -> bool {
        self.usages.is_empty() || self.usages.contains(&usage)
    }

    /// Whether the authority's key has signed it, at a time when it was good.
    #[must_use]
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let since = u64::try_from(self.from.max(authority.from).unix_timestamp()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(since));
        let Ok(anchor) = webpki::anchor_from_trusted_cert(&authority.der) else { return false };
        let Ok(leaf) = webpki::EndEntityCert::try_from(&self.der) else { return false };
        let usages = [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()];
        usages.into_iter().any(|usage| {
            let anchors = std::slice::from_ref(&anchor);
            leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, anchors, &[], at, usage, None, None).is_ok()
        })
    }

    /// Whether the key in this PEM file has the same public half; nothing if there is no key.
    #[must_use]
    pub fn is_of_key(&self, key: &Path) -> Option<bool> {
        let key = PrivateKeyDer::from_pem_file(key).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        let (_, read) = X509Certificate::from_der(&self.der).ok()?;
        Some(key.public_key().is_some_and(|public| public.as_ref() == read.public_key().raw))
    }
}

fn moment(time: OffsetDateTime) -> String {
    time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z")).unwrap_or_default()
}
