//! What a certificate says of itself, as far as it explains why it was refused.

use crate::tls::AltName;
use crate::tls::alt_names;
use time::OffsetDateTime;
use time::macros::format_description;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A certificate, read.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// The host names and addresses that it is for.
    pub(super) names: Vec<String>,
    /// Its extended key usages; none: it is good for all.
    pub(super) usages: Vec<&'static str>,
    pub(super) from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
}

impl Certificate {
    /// Reads DER; nothing if it is none.
    pub(super) fn read(der: &[u8]) -> Option<Certificate> {
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
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
        })
    }

    /// Reads the first certificate of a PEM file.
    pub(super) fn load(path: &str) -> Option<Certificate> {
        let pem = std::fs::read(path).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        Certificate::read(&pem.contents)
    }

    /// The dates, and the clock that they were compared with.
    pub(super) fn dates(&self) -> String {
        let clock = day(OffsetDateTime::now_utc());
        format!("valid from {} until {}; this machine's clock says {clock}", day(self.from), day(self.until))
    }

    /// Whether the clock is between its dates.
    pub(super) fn is_valid_now(&self) -> bool {
        (self.from..=self.until).contains(&OffsetDateTime::now_utc())
    }

    /// Whether it may be shown for this purpose.
    pub(super) fn is_for(&self, usage: &str) -> bool {
        self.usages.is_empty() || self.usages.contains(&usage)
    }
}

fn day(time: OffsetDateTime) -> String {
    time.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z")).unwrap_or_default()
}
