//! Mutual TLS on both ports, with the flags that the seed lab uses; never plain HTTP behind a certificate.

use crate::client::Client;
use crate::foreign;
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
use crate::ids;
use crate::ports;
use etcd_lab::tls::ClientFiles;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tonic::transport::Certificate;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Identity;

/// The seed's `--initial-cluster` and token, and the ids that its page shows.
const TOKEN: &str = "etcd-cluster-0";
const INITIAL_CLUSTER: &str = "controller-0=https://10.240.0.10:2380,\
                               controller-1=https://10.240.0.11:2380,\
                               controller-2=https://10.240.0.12:2380";
const IDS: [(&str, &str); 3] = [
    ("https://10.240.0.10:2380", "f98dc20bce6225a0"),
    ("https://10.240.0.11:2380", "ffed16798470cab5"),
    ("https://10.240.0.12:2380", "3a57933972cb5131"),
];

/// `ca.pem`, `kubernetes.pem` and `kubernetes-key.pem` as the seed has them: one certificate for all members and for their clients.
struct Certificates {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(dir: &Path) -> Certificates {
        let authority = Authority::new("Kubernetes").expect("an authority");
        let names = ["10.240.0.10", "10.240.0.11", "10.240.0.12", "127.0.0.1", "localhost"];
        let issued = authority.issue(&Request::new(Usage::Peer, "kubernetes", &names)).expect("a certificate");
        let (ca, _) = authority.own().write(dir, "ca").expect("the CA's files");
        let (cert, key) = issued.write(dir, "kubernetes").expect("the members' files");
        Certificates { ca, cert, key }
    }

    /// The seed's flags for them.
    fn flags(&self) -> Vec<String> {
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        vec![
            flag("cert-file", &self.cert),
            flag("key-file", &self.key),
            flag("peer-cert-file", &self.cert),
            flag("peer-key-file", &self.key),
            flag("trusted-ca-file", &self.ca),
            flag("peer-trusted-ca-file", &self.ca),
            "--peer-client-cert-auth".to_owned(),
            "--client-cert-auth".to_owned(),
        ]
    }

    fn files(&self) -> ClientFiles {
        let (ca, cert, key) = (Some(self.ca.clone()), Some(self.cert.clone()), Some(self.key.clone()));
        ClientFiles { ca, cert, key, ..Default::default() }
    }

    /// What a client trusts, without showing anything of its own.
    fn anonymous(&self) -> ClientTlsConfig {
        let ca = std::fs::read(&self.ca).expect("the CA's certificate");
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost")
    }

    fn identity(&self) -> Identity {
        let read = |path: &Path| std::fs::read(path).expect("a certificate's file");
        Identity::from_pem(read(&self.cert), read(&self.key))
    }
}

/// Three members that reach each other over TLS on loopback.
async fn cluster() -> (Cluster, Certificates) {
    let scratch = Scratch::new();
    let certificates = Certificates::make(scratch.path());
    let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("controller-{n}"), scratch.path())).collect();
    for spec in &mut specs {
        spec.client_url = spec.client_url.replace("http:", "https:");
        spec.peer_url = spec.peer_url.replace("http:", "https:");
        spec.more = certificates.flags();
    }
    let urls = specs.iter().map(|spec| spec.client_url.clone()).collect();
    let client = Client::tls(urls, &certificates.anonymous().identity(certificates.identity()));
    (Cluster::from_specs(&etcd_bin(), specs, client, scratch).await, certificates)
}

fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

#[test]
fn members_with_the_flags_of_the_seed_have_the_ids_of_the_seed() {
    turn(Duration::from_secs(120), async {
        let scratch = Scratch::new();
        let certificates = Certificates::make(scratch.path());
        for number in 0..3 {
            let (client, peer) = (ports::free(), ports::free());
            let data_dir = scratch.path().join(format!("controller-{number}"));
            let mut flags = certificates.flags();
            flags.extend([
                format!("--name=controller-{number}"),
                format!("--initial-advertise-peer-urls=https://10.240.0.1{number}:2380"),
                format!("--listen-peer-urls=https://127.0.0.1:{peer}"),
                format!("--listen-client-urls=https://127.0.0.1:{client}"),
                format!("--advertise-client-urls=https://10.240.0.1{number}:2379"),
                format!("--initial-cluster-token={TOKEN}"),
                format!("--initial-cluster={INITIAL_CLUSTER}"),
                "--initial-cluster-state=new".to_owned(),
                format!("--data-dir={}", data_dir.display()),
            ]);
            let log = scratch.path().join(format!("controller-{number}.log"));
            let _member = Process::start(&etcd_bin(), &flags, &[], &log);
            let (address, files) = (format!("127.0.0.1:{peer}"), certificates.files());
            let ids = until(READY_WITHIN, "three members on the peer port", async || {
                let answer = http::get_tls(&address, "/members", &files).await.map_err(|e| e.to_string())?;
                let ids = ids::members_of(&answer.body)?;
                if ids.len() == 3 { Ok(ids) } else { Err(format!("{ids:?}")) }
            })
            .await;
            let expected = IDS.map(|(url, id)| (url.to_owned(), id.to_owned())).into();
            assert_eq!(ids, expected, "as controller-{number} tells them");
        }
    });
}

#[test]
fn three_members_work_over_mutual_tls() {
    turn(Duration::from_secs(120), async {
        let (cluster, certificates) = cluster().await;
        for member in 0..3 {
            let key = format!("k{member}");
            cluster.client.put(member, &key, "v").await.expect("a put over TLS");
            let value = cluster.client.get((member + 1) % 3, &key).await.expect("a get over TLS");
            assert_eq!(value.as_deref(), Some("v"));
        }
        let members = cluster.client.members(0, true).await.expect("the members").members;
        assert!(members.iter().all(|member| member.client_ur_ls.iter().all(|url| url.starts_with("https://"))));
        let health = http::get_tls(address(&cluster.spec(0).client_url), "/health", &certificates.files()).await;
        let health = health.expect("health over TLS");
        assert!(health.status.contains("200") && health.body.contains(r#""health":"true""#), "{health:?}");
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn etcdctl_lists_the_members_with_the_certificate_flags_of_the_seed() {
    turn(Duration::from_secs(120), async {
        let (cluster, certificates) = cluster().await;
        let mut programs = vec![PathBuf::from(env!("CARGO_BIN_EXE_etcdctl"))];
        programs.extend(foreign::etcdctl_34("etcdctl 3.4 over mutual TLS"));
        for program in programs {
            let mut command = Command::new(&program);
            command.env_clear().env("ETCDCTL_API", "3").args(["member", "list", "--endpoints"]);
            command.arg(&cluster.spec(0).client_url);
            for (flag, path) in
                [("--cacert", &certificates.ca), ("--cert", &certificates.cert), ("--key", &certificates.key)]
            {
                command.arg(flag).arg(path);
            }
            let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let started = text.lines().filter(|line| line.contains(", started, controller-")).count();
            assert_eq!(started, 3, "{}: {output:?}", program.display());
        }
    });
}

#[test]
fn plain_http_to_a_tls_port_is_refused() {
    turn(Duration::from_secs(120), async {
        let (cluster, _) = cluster().await;
        for url in [&cluster.spec(0).client_url, &cluster.spec(0).peer_url] {
            for path in ["/health", "/version", "/members"] {
                let answer = http::get(address(url), path).await;
                let is_refused = answer.as_ref().map_or(true, |answer| answer.status.contains("400"));
                assert!(is_refused, "{url}{path}: {answer:?}");
            }
        }
        let plain = Client::plain(vec![cluster.spec(0).client_url.replace("https:", "http:")]);
        plain.put(0, "a", "1").await.expect_err("plain gRPC is refused too");
        assert_eq!(cluster.client.get(0, "a").await.expect("a get over TLS"), None);
    });
}

#[test]
fn a_client_without_a_certificate_of_the_authority_is_refused() {
    turn(Duration::from_secs(120), async {
        let (cluster, certificates) = cluster().await;
        let urls = vec![cluster.spec(0).client_url.clone()];
        let anonymous = Client::tls(urls.clone(), &certificates.anonymous());
        anonymous.put(0, "a", "1").await.expect_err("a client that shows nothing");
        let elsewhere = Scratch::new();
        let strangers = Certificates::make(elsewhere.path());
        let stranger = Client::tls(urls, &certificates.anonymous().identity(strangers.identity()));
        stranger.put(0, "a", "1").await.expect_err("a client of another authority");
        let files = ClientFiles { ca: Some(certificates.ca.clone()), ..Default::default() };
        for url in [&cluster.spec(0).client_url, &cluster.spec(0).peer_url] {
            let answer = http::get_tls(address(url), "/version", &files).await;
            assert!(answer.is_err(), "{url}: {answer:?}");
        }
        assert_eq!(cluster.client.get(0, "a").await.expect("a get with a certificate"), None);
    });
}

/// Puts another file in a file's place, as tools that renew certificates do.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).expect("written");
    std::fs::rename(&fresh, path).expect("renamed");
}

#[test]
fn an_authority_is_replaced_under_running_members() {
    turn(Duration::from_secs(180), async {
        // Real etcd reads authorities at start only.
        if !is_ours() {
            return;
        }
        let (mut cluster, old) = cluster().await;
        let elsewhere = Scratch::new();
        let new = Certificates::make(elsewhere.path());
        let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
        let both = read(&old.ca) + &read(&new.ca);
        let urls: Vec<String> = (0..3).map(|member| cluster.spec(member).client_url.clone()).collect();
        // A client with connections of its own, which trusts both authorities.
        let client = |identity: &Identity| {
            let trusted = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&both)).domain_name("localhost");
            Client::tls(urls.clone(), &trusted.identity(identity.clone()))
        };
        let (of_old, of_new) = (old.identity(), new.identity());
        client(&of_old).put(0, "a", "1").await.expect("a client of the old authority");
        client(&of_new).put(0, "a", "1").await.expect_err("nobody knows the new one yet");

        replace(&old.ca, &both);
        client(&of_new).put(0, "a", "2").await.expect("a client of the new authority");
        client(&of_old).put(0, "a", "3").await.expect("and one of the old one");
        replace(&old.key, &read(&new.key));
        replace(&old.cert, &read(&new.cert));
        client(&of_old).put(1, "a", "4").await.expect("members with certificates of the new one");
        replace(&old.ca, &read(&new.ca));
        client(&of_old).put(1, "a", "5").await.expect_err("the old authority is none any more");

        // Who comes back makes new links in both directions; the first member has run all the time.
        cluster.client = client(&of_new);
        for member in [2, 1] {
            cluster.kill(member);
            cluster.restart(member).await;
            for asked in 0..3 {
                let value = format!("{member}{asked}");
                until(READY_WITHIN, "a put", async || cluster.client.put(asked, "a", &value).await).await;
            }
        }
        cluster.kill(2);
        until(READY_WITHIN, "a put by the two others", async || cluster.client.put(0, "a", "6").await).await;
        cluster.restart(2).await;
        cluster.assert_equal_hashes().await;
        let log = cluster.log(0);
        assert!(log.contains("read changed CA certificates"), "{log}");
    });
}
