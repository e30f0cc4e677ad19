//! One message, many causes: everything that lies between a client and its member.

use super::LATE;
use super::LIMIT;
use super::assert_explained;
use super::explain;
use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::alone;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::until;
use crate::http;
use crate::ports;
use etcd_lab::doctor::Cause;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use rustix::net::AddressFamily;
use rustix::net::SocketType;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;

#[test]
fn wires_without_tls() {
    alone(LIMIT, async {
        let mut cluster = Cluster::start(1).await;
        let spec = cluster.spec(0).clone();
        let late = async |endpoint: &str, cause: Cause, parts: &[&str]| {
            assert_explained(&explain(endpoint, &["get", "k"]).await, LATE, cause, parts);
        };
        late("http://127.0.0.1", Cause::Unreadable, &["missing port in address"]).await;
        late("127.0.0.1:port", Cause::Unreadable, &["invalid port"]).await;
        late("no-such-host.invalid:2379", Cause::UnknownHost, &["lookup no-such-host.invalid"]).await;
        late(&format!("127.0.0.1:{}", ports::free()), Cause::Refused, &["nobody listens", "connection refused"]).await;
        late("unix:///no/such/socket", Cause::Refused, &["dial unix /no/such/socket"]).await;
        late(&spec.peer_url, Cause::NotEtcd, &["this is a member's peer port"]).await;
        late(&spec.client_url.replace("http:", "https:"), Cause::NotTls, &["does not look like a TLS handshake"]).await;
        let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
        late(&mute.local_addr().expect("one").to_string(), Cause::Silent, &["the process does not answer"]).await;
        let (_full, address, _queue) = black_hole();
        late(&address.to_string(), Cause::Unreachable, &["packets are lost, not refused", "i/o timeout"]).await;
        cluster.pause(0);
        late(&spec.client_url, Cause::Silent, &["is stopped (state T)"]).await;
        cluster.resume(0);
    });
}

/// A port whose queue is full: the kernel drops what asks for a connection, as a firewall does.
fn black_hole() -> (OwnedFd, SocketAddr, Vec<TcpStream>) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    rustix::net::bind(&socket, &any).expect("bound");
    rustix::net::listen(&socket, 0).expect("listening");
    let address = rustix::net::getsockname(&socket).expect("its address");
    let address = SocketAddr::try_from(address).expect("an IP address");
    let wait = std::time::Duration::from_millis(200);
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, wait) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue does not fill");
    }
    (socket, address, queue)
}

/// The files of a test, and a member that uses some of them.
struct Pki {
    scratch: Scratch,
}

impl Pki {
    fn make() -> Pki {
        let scratch = Scratch::new();
        let dir = scratch.path();
        let (ca, other) =
            (Authority::new("right").expect("an authority"), Authority::new("wrong").expect("an authority"));
        ca.own().write(dir, "ca").expect("written");
        other.own().write(dir, "other").expect("written");
        let issue = |name: &str, authority: &Authority, usage, names: &[&str], from_days, until_days| {
            let request = Request { from_days, until_days, ..Request::new(usage, name, names) };
            authority.issue(&request).expect("a certificate").write(dir, name).expect("written");
        };
        let local = ["127.0.0.1", "localhost"];
        issue("good", &ca, Usage::Server, &local, -1, 30);
        issue("elsewhere", &ca, Usage::Server, &["etcd.example", "10.1.2.3"], -1, 30);
        issue("nameless", &ca, Usage::Server, &[], -1, 30);
        issue("expired", &ca, Usage::Server, &local, -9, -2);
        issue("early", &ca, Usage::Server, &local, 2, 30);
        issue("usage", &ca, Usage::Client, &local, -1, 30);
        issue("client", &ca, Usage::Client, &[], -1, 30);
        issue("client-old", &ca, Usage::Client, &[], -9, -2);
        issue("client-server", &ca, Usage::Server, &[], -1, 30);
        issue("client-wrong", &other, Usage::Client, &[], -1, 30);
        Pki { scratch }
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    /// A member with this certificate; its address.
    async fn member(&self, name: &str, more: &[String], dir: &Path) -> (Process, String) {
        let mut spec = Spec::new(name, dir);
        spec.client_url = spec.client_url.replace("http:", "https:");
        let metrics = format!("127.0.0.1:{}", ports::free());
        spec.more = vec![
            format!("--cert-file={}", self.path(&format!("{name}.pem"))),
            format!("--key-file={}", self.path(&format!("{name}-key.pem"))),
            format!("--listen-metrics-urls=http://{metrics}"),
        ];
        spec.more.extend(more.iter().cloned());
        let log = dir.join(format!("{name}.log"));
        let process = Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &log);
        until(READY_WITHIN, "ready", async || match http::get(&metrics, "/readyz").await {
            Ok(answer) if answer.status.contains("200") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        (process, spec.client_url)
    }
}

#[test]
fn wires_with_tls_when_the_member_is_at_fault() {
    alone(LIMIT, async {
        if !is_ours() {
            return;
        }
        let pki = Pki::make();
        let dir = Scratch::new();
        let (ca, other) = (pki.path("ca.pem"), pki.path("other.pem"));
        let rows: [(&str, &str, Cause, &[&str]); 7] = [
            ("good", &other, Cause::UnknownAuthority, &["signed by CN=right", "is CN=wrong"]),
            ("good", "", Cause::UnknownAuthority, &["system's authorities"]),
            (
                "elsewhere",
                &ca,
                Cause::NameMissing,
                &["not for the name 127.0.0.1", "its names (SAN) are etcd.example, 10.1.2.3"],
            ),
            ("nameless", &ca, Cause::NameMissing, &["no names (SAN) at all"]),
            ("expired", &ca, Cause::OutOfDate, &["has expired", "this machine's clock says 20"]),
            ("early", &ca, Cause::OutOfDate, &["is not valid yet", "valid from"]),
            ("usage", &ca, Cause::WrongUsage, &["its extended key usage is clientAuth"]),
        ];
        let mut at = None::<(&str, Process, String)>;
        for (name, ca, cause, parts) in rows {
            if at.as_ref().is_none_or(|(running, ..)| *running != name) {
                let (process, url) = pki.member(name, &[], dir.path()).await;
                at = Some((name, process, url));
            }
            let url = &at.as_ref().expect("it runs").2;
            let words: Vec<&str> = if ca.is_empty() { vec!["get", "k"] } else { vec!["--cacert", ca, "get", "k"] };
            assert_explained(&explain(url, &words).await, LATE, cause, parts);
        }
    });
}

#[test]
fn wires_with_tls_when_the_client_is_at_fault() {
    alone(LIMIT, async {
        if !is_ours() {
            return;
        }
        let pki = Pki::make();
        let dir = Scratch::new();
        let ca = pki.path("ca.pem");
        let auth = ["--client-cert-auth".to_owned(), format!("--trusted-ca-file={ca}")];
        let (_process, url) = pki.member("good", &auth, dir.path()).await;
        let told = explain(&url.replace("https:", "http:"), &["get", "k"]).await;
        assert_explained(&told, LATE, Cause::TlsWanted, &["plain text is spoken to a port that speaks TLS"]);
        let told = explain(&url, &["--cacert", &ca, "get", "k"]).await;
        assert_explained(&told, LATE, Cause::ClientCertificateWanted, &["none was shown"]);
        let rows: [(&str, &[&str]); 3] = [
            ("client-old", &["it is out of date", "valid from"]),
            ("client-server", &["not meant for clients", "extended key usage is serverAuth"]),
            ("client-wrong", &["is not who signed it", "signed by CN=wrong"]),
        ];
        for (name, parts) in rows {
            let (cert, key) = (pki.path(&format!("{name}.pem")), pki.path(&format!("{name}-key.pem")));
            let told = explain(&url, &["--cacert", &ca, "--cert", &cert, "--key", &key, "get", "k"]).await;
            assert_explained(&told, LATE, Cause::ClientCertificateRefused, parts);
        }
        let (cert, key) = (pki.path("client.pem"), pki.path("client-key.pem"));
        let told = explain(&url, &["--cacert", &ca, "--cert", &cert, "--key", &key, "put", "k", "v"]).await;
        assert_eq!(
            (told.code, told.out.as_str(), told.err.as_str()),
            (0, "OK\n", ""),
            "nothing is wrong, nothing is told"
        );
    });
}
