//! Who gets in at the peers' port, and the certificates that a member makes for itself.

use crate::client::Client;
use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use etcd_lab::tls::ClientFiles;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use etcd_lab::tls::pki::self_signed;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Flags beyond the certificate; callers by the name of their certificate, and whether each gets in.
type Case = (&'static str, &'static [(&'static str, bool)]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("--peer-client-cert-auth", &[("peer", true), ("", false), ("stranger", false), ("away", false)]),
    ("--peer-client-cert-auth --peer-skip-client-san-verification", &[("peer", true), ("away", true), ("", false)]),
    ("--peer-client-cert-auth --peer-cert-allowed-cn=peer", &[("peer", true), ("other", false)]),
    ("--peer-client-cert-auth --peer-cert-allowed-hostname=peer.example", &[("peer", true), ("other", false)]),
    ("--peer-client-cert-auth --peer-crl-file=CRL", &[("peer", true), ("revoked", false)]),
];

struct Files(PathBuf);

impl Files {
    fn make(dir: &Path) -> Files {
        let (ca, other) = (Authority::new("peers").expect("one"), Authority::new("others").expect("one"));
        ca.own().write(dir, "ca").expect("written");
        let issue = |name: &str, authority: &Authority, names: &[&str]| {
            let request = Request::new(Usage::Peer, name, names);
            authority.issue(&request).expect("issued").write(dir, name).expect("written");
        };
        issue("server", &ca, &["127.0.0.1", "localhost"]);
        issue("peer", &ca, &["127.0.0.1", "peer.example"]);
        issue("other", &ca, &["127.0.0.1", "other.example"]);
        issue("revoked", &ca, &["127.0.0.1"]);
        // Its certificate is for another address than it calls from.
        issue("away", &ca, &["192.0.2.1"]);
        issue("stranger", &other, &["127.0.0.1"]);
        let revoked = std::fs::read(dir.join("revoked.pem")).expect("written");
        std::fs::write(dir.join("crl.der"), ca.revoke(&[&revoked]).expect("a list")).expect("written");
        Files(dir.to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn caller(&self, name: &str) -> ClientFiles {
        let own = |end: &str| (!name.is_empty()).then(|| self.0.join(format!("{name}{end}")));
        ClientFiles { ca: Some(self.0.join("ca.pem")), cert: own(".pem"), key: own("-key.pem"), ..Default::default() }
    }
}

#[test]
fn who_gets_in_at_the_peers_port() {
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let files = Files::make(scratch.path());
        for (n, (flags, callers)) in CASES.iter().enumerate() {
            let mut spec = Spec::new(&format!("m{n}"), scratch.path());
            spec.peer_url = spec.peer_url.replace("http:", "https:");
            spec.more = vec![
                format!("--peer-cert-file={}", files.path("server.pem")),
                format!("--peer-key-file={}", files.path("server-key.pem")),
                format!("--peer-trusted-ca-file={}", files.path("ca.pem")),
            ];
            spec.more.extend(flags.split(' ').map(|flag| flag.replace("CRL", &files.path("crl.der"))));
            let flags_of = spec.flags(std::slice::from_ref(&spec));
            let member = Process::start(&etcd_bin(), &flags_of, &[], &scratch.path().join(format!("{n}.log")));
            let address = spec.peer_url.trim_start_matches("https://");
            let client = spec.client_url.trim_start_matches("http://");
            until(READY_WITHIN, "health", async || http::get(client, "/health").await).await;
            for (caller, gets_in) in *callers {
                let before = member.log().matches("rejected connection on peer endpoint").count();
                let answer = http::get_tls(address, "/version", &files.caller(caller)).await;
                assert_eq!(answer.is_ok(), *gets_in, "{flags}: {caller:?}: {answer:?}");
                if !gets_in {
                    until(READY_WITHIN, "the log", async || {
                        let now = member.log().matches("rejected connection on peer endpoint").count();
                        if now > before { Ok(()) } else { Err(format!("{flags}: {caller:?}")) }
                    })
                    .await;
                }
            }
        }
    });
}

fn speaks_tls_to_peers(spec: &mut Spec, cert: &Path, key: &Path, ca: &Path) {
    spec.peer_url = spec.peer_url.replace("http:", "https:");
    spec.more = vec![
        format!("--peer-cert-file={}", cert.display()),
        format!("--peer-key-file={}", key.display()),
        format!("--peer-trusted-ca-file={}", ca.display()),
        "--peer-client-cert-auth".to_owned(),
    ];
}

#[test]
fn members_whose_certificate_is_its_own_authority_find_each_other() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let request = Request::new(Usage::Peer, "all", &["127.0.0.1", "localhost"]);
        let (cert, key) = self_signed(&request).expect("made").write(scratch.path(), "all").expect("written");
        let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
        specs.iter_mut().for_each(|spec| speaks_tls_to_peers(spec, &cert, &key, &cert));
        let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        let cluster = Cluster::from_specs(&etcd_bin(), specs, client, scratch).await;
        cluster.client.put(0, "k", "v").await.expect("a put that all members have");
        for member in 0..3 {
            assert_eq!(cluster.client.get(member, "k").await.expect("a get").as_deref(), Some("v"), "{member}");
        }
    });
}

#[test]
fn a_member_may_call_its_peers_under_another_certificate_than_it_answers_with() {
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path().to_owned();
        let authority = Authority::new("peers").expect("one");
        let (ca, _) = authority.own().write(&dir, "ca").expect("written");
        let write = |name: &str, usage| {
            let request = Request::new(usage, name, &["127.0.0.1", "localhost"]);
            authority.issue(&request).expect("issued").write(&dir, name).expect("written")
        };
        let ((cert, key), (own, own_key)) = (write("answers", Usage::Server), write("calls", Usage::Client));
        let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), &dir)).collect();
        specs.iter_mut().for_each(|spec| speaks_tls_to_peers(spec, &cert, &key, &ca));
        let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        let mut cluster = Cluster::prepared(&etcd_bin(), specs, client, scratch);
        // A certificate for servers only is no caller's.
        (0..3).for_each(|member| cluster.launch(member));
        until(READY_WITHIN, "all are turned away", async || {
            let away = |n: usize| cluster.log(n).contains("rejected connection on peer endpoint");
            if (0..3).all(away) { Ok(()) } else { Err("not yet") }
        })
        .await;
        for member in 0..3 {
            assert!(cluster.client.status(member).await.is_err(), "nobody serves without having been elected");
            cluster.kill(member);
            cluster.spec_mut(member).more.push(format!("--peer-client-cert-file={}", own.display()));
            cluster.spec_mut(member).more.push(format!("--peer-client-key-file={}", own_key.display()));
        }
        cluster.restart_all().await;
        cluster.client.put(0, "k", "v").await.expect("a put");
        for member in 0..3 {
            assert_eq!(cluster.client.get(member, "k").await.expect("a get").as_deref(), Some("v"), "{member}");
        }
    });
}

/// The certificate in a PEM file: from when to when it is valid, in days.
fn days(pem: &Path) -> i64 {
    let text = std::fs::read(pem).unwrap_or_else(|e| panic!("{}: {e}", pem.display()));
    let (_, block) = x509_parser::pem::parse_x509_pem(&text).expect("PEM");
    let certificate = block.parse_x509().expect("a certificate");
    let valid = certificate.validity();
    (valid.not_after.timestamp() - valid.not_before.timestamp()) / 86_400
}

#[test]
fn a_member_makes_its_own_certificates() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let mut spec = Spec::new("m0", scratch.path());
        spec.client_url = spec.client_url.replace("http:", "https:");
        spec.peer_url = spec.peer_url.replace("http:", "https:");
        spec.more = ["--auto-tls", "--peer-auto-tls", "--self-signed-cert-validity=3"].map(str::to_owned).to_vec();
        let _member =
            Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &scratch.path().join("log"));
        let any = ClientFiles { insecure_skip_verify: true, ..ClientFiles::default() };
        for (url, path) in [(&spec.client_url, "/health"), (&spec.peer_url, "/version")] {
            let address = url.trim_start_matches("https://");
            let answer = until(READY_WITHIN, "an answer", async || http::get_tls(address, path, &any).await).await;
            assert!(answer.status.contains("200"), "{answer:?}");
            assert!(http::get(address, path).await.is_err(), "{address} speaks TLS only");
        }
        for side in ["client", "peer"] {
            let days = days(&spec.data_dir.join("fixtures").join(side).join("cert.pem"));
            assert!((3 * 365 - 2..=3 * 366).contains(&days), "{side}: {days} days");
        }
    });
}
