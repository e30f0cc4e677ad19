//! Endpoints by DNS: the SRV records that `--discovery-srv` asks for.
//!
//! One question for members with TLS (`_etcd-client-ssl._tcp.DOMAIN`), one for members without (`_etcd-client._tcp.DOMAIN`).
//! Source: etcd `client/pkg/srv/srv.go`.

use crate::dns;
use crate::dns::Target;
use std::net::SocketAddr;

/// The client endpoints that `domain` names, as `https://…` and `http://…`. `suffix`: that of the service, or nothing.
///
/// # Errors
/// A sentence, if both questions failed.
pub async fn discover(domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let (domain, suffix) = (domain.to_owned(), suffix.to_owned());
    let found = tokio::task::spawn_blocking(move || discover_at(&dns::servers(), &domain, &suffix)).await;
    found.map_err(|e| e.to_string())?
}

fn discover_at(servers: &[SocketAddr], domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let ask = |service: &str| dns::lookup(servers, &dns::service_name(service, suffix, domain));
    let (secure, plain) = (ask("etcd-client-ssl"), ask("etcd-client"));
    if let (Err(secure), Err(plain)) = (&secure, &plain) {
        return Err(format!("dns lookup errors: {secure} and {plain}"));
    }
    let urls = |scheme: &'static str, found: Result<Vec<Target>, String>| {
        let url = move |Target { host, port }| format!("{scheme}://{host}:{port}");
        found.unwrap_or_default().into_iter().map(url)
    };
    Ok(urls("https", secure).chain(urls("http", plain)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_with_their_schemes_and_in_the_order_of_dns() {
        let server = dns::serving(|name| match name {
            "_etcd-client-ssl._tcp.example" => &[(2, 0, 2379, "b.example"), (1, 9, 2380, "a.example")],
            _ => &[],
        });
        let wanted = ["https://a.example:2380", "https://b.example:2379"];
        assert_eq!(discover_at(&[server], "example", ""), Ok(wanted.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_domain_without_members_is_told_with_both_names() {
        let why = discover_at(&[], "example", "x").expect_err("nobody to ask");
        assert!(
            why.contains("_etcd-client-ssl-x._tcp.example") && why.contains("_etcd-client-x._tcp.example"),
            "{why}"
        );
    }
}
