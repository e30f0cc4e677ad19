//! `--discovery-srv`: the first members from DNS.
//!
//! ```text
//! _etcd-server-ssl._tcp.example.com  SRV 0 0 2380 m1.example.com.   ──▶  https://m1.example.com:2380
//! _etcd-server._tcp.example.com      SRV 0 0 2380 m1.example.com.   ──▶  http://m1.example.com:2380
//! ```
//!
//! This member is the one whose record leads to an address that it advertises; the others are called 0, 1, 2, since DNS knows no names of members and ids are made of URLs.
//! Source: etcd `client/pkg/srv/srv.go`, `server/embed/config.go`.

use crate::dns;
use crate::dns::Target;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::net::ToSocketAddrs as _;

/// Looks names up; tests have a DNS of their own.
pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    resolve: fn(&str, u16) -> BTreeSet<SocketAddr>,
}

impl Dns {
    /// This machine's.
    pub(super) fn system() -> Dns {
        Dns { servers: dns::servers(), resolve }
    }

    /// `--initial-cluster` as DNS has it. `suffix` is `--discovery-srv-name`; `own` are the URLs that this member advertises.
    ///
    /// # Errors
    /// A sentence for the user, in etcd's words where it has some.
    pub(super) fn cluster(
        &self,
        domain: &str,
        suffix: &str,
        name: &str,
        own: &[super::urls::Url],
    ) -> Result<String, String> {
        let own_at: BTreeSet<SocketAddr> = own.iter().flat_map(|url| self.at(url.host(), url.port())).collect();
        let (mut members, mut problems, mut others, mut is_there) = (Vec::new(), Vec::new(), 0, false);
        for (service, scheme) in [("etcd-server-ssl", "https"), ("etcd-server", "http")] {
            let question = dns::service_name(service, suffix, domain);
            let targets = match dns::lookup(&self.servers, &question) {
                Ok(targets) => targets,
                Err(e) => {
                    problems.push(format!("error querying DNS SRV records for {question}: {e}"));
                    continue;
                }
            };
            for Target { host, port } in targets {
                let is_own = self.at(&host, &port.to_string()).iter().any(|address| own_at.contains(address));
                let called = if is_own { name.to_owned() } else { others.to_string() };
                if is_own {
                    is_there = true;
                    let expected = own.first().map(|url| url.as_str().to_owned()).unwrap_or_default();
                    if !own.iter().any(|url| url.is_secure() == (scheme == "https")) {
                        return Err(format!(
                            "bootstrap at {scheme}://{host}:{port} from DNS for {service} has scheme mismatch with expected peer {expected}"
                        ));
                    }
                } else {
                    others += 1;
                }
                members.push(format!("{called}={scheme}://{host}:{port}"));
            }
        }
        match (members.is_empty(), is_there) {
            (true, _) => Err(problems.join("; ")),
            (false, false) => Err(format!("cannot find local etcd member {name:?} in SRV records")),
            (false, true) => Ok(members.join(",")),
        }
    }

    fn at(&self, host: &str, port: &str) -> BTreeSet<SocketAddr> {
        port.parse().map(|port| (self.resolve)(host, port)).unwrap_or_default()
    }
}

fn resolve(host: &str, port: u16) -> BTreeSet<SocketAddr> {
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::urls::Url;
    use super::*;

    /// A name server that knows three members without TLS, and nothing else.
    fn server() -> SocketAddr {
        dns::serving(|name| match name {
            "_etcd-server._tcp.example.com" => {
                &[(20, 0, 2380, "m3.example.com"), (10, 0, 2380, "m1.example.com"), (10, 0, 2381, "m2.example.com")]
            }
            _ => &[],
        })
    }

    fn system() -> Dns {
        let resolve = |host: &str, port: u16| match host {
            "m1.example.com" | "10.0.0.1" => [SocketAddr::from(([10, 0, 0, 1], port))].into(),
            _ => BTreeSet::new(),
        };
        Dns { servers: vec![server()], resolve }
    }

    fn urls(text: &str) -> Vec<Url> {
        Url::parse_list(text).expect("URLs")
    }

    #[test]
    fn the_records_become_the_first_members() {
        let cluster = system().cluster("example.com", "", "me", &urls("http://10.0.0.1:2380"));
        let want = "me=http://m1.example.com:2380,0=http://m2.example.com:2381,1=http://m3.example.com:2380";
        assert_eq!(cluster.as_deref(), Ok(want));
    }

    #[test]
    fn mistakes_are_told_in_etcds_words() {
        let elsewhere = system().cluster("example.com", "", "me", &urls("http://10.9.9.9:2380"));
        assert_eq!(elsewhere, Err("cannot find local etcd member \"me\" in SRV records".into()));
        let secure = system().cluster("example.com", "", "me", &urls("https://10.0.0.1:2380")).expect_err("not https");
        assert!(secure.contains("has scheme mismatch with expected peer https://10.0.0.1:2380"), "{secure}");
        let unknown =
            system().cluster("example.com", "lab", "me", &urls("http://10.0.0.1:2380")).expect_err("no records");
        assert!(unknown.contains("error querying DNS SRV records for _etcd-server-lab._tcp.example.com"), "{unknown}");
    }
}
