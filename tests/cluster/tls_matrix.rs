//! Twenty-six handshakes: version, client authentication, common name, host name, expiry, revocation, authority; what the client hears and what the server's log says.

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
use etcd_lab::tls::Offer;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// What a client shows.
#[derive(Clone, Copy, Debug)]
enum Shows {
    Nothing,
    Good,
    OtherAuthority,
    Expired,
    NotYet,
    ServerUsage,
    Revoked,
    /// A certificate without extensions.
    Version1,
}
use Shows::Expired;
use Shows::Good;
use Shows::NotYet;
use Shows::Nothing;
use Shows::OtherAuthority;
use Shows::Revoked;
use Shows::ServerUsage;
use Shows::Version1;

/// How a client dials.
#[derive(Clone, Copy, Debug)]
enum Dials {
    Any,
    Only12,
    Only13,
    /// It trusts another authority.
    Distrusting,
    /// It speaks no TLS.
    Plain,
}
use Dials::Any;
use Dials::Distrusting;
use Dials::Only12;
use Dials::Only13;
use Dials::Plain;

/// The server's flags beyond its own certificate, and the clients that come: what each shows, how it dials, and what the log says of it (nothing: it is let in).
type Server = (&'static str, &'static [(Shows, Dials, &'static str)]);

const UNKNOWN: &str = "x509: certificate signed by unknown authority";
const NO_CERT: &str = "client didn't provide a certificate";
const EXPIRED: &str = "certificate has expired or is not yet valid";

#[rustfmt::skip]
const SERVERS: &[Server] = &[
    ("", &[
        (Nothing, Any, ""),
        (Good, Only12, ""),
        (Nothing, Only13, ""),
        (Nothing, Distrusting, "remote error: tls: unknown certificate authority"),
        (Nothing, Plain, "first record does not look like a TLS handshake"),
    ]),
    ("--trusted-ca-file=CA", &[
        (Nothing, Only13, NO_CERT),
        (Good, Any, ""),
    ]),
    ("--trusted-ca-file=CA --client-cert-auth --client-crl-file=CRL", &[
        (Good, Only12, ""),
        (Good, Only13, ""),
        (Nothing, Only12, NO_CERT),
        (OtherAuthority, Only12, UNKNOWN),
        (OtherAuthority, Only13, UNKNOWN),
        (Expired, Only12, EXPIRED),
        (Expired, Only13, EXPIRED),
        (NotYet, Any, EXPIRED),
        (ServerUsage, Any, "incompatible key usage"),
        (Revoked, Only12, "transport: certificate revoked"),
        (Revoked, Only13, "transport: certificate revoked"),
        (Version1, Only12, ""),
        (Version1, Only13, ""),
    ]),
    ("--trusted-ca-file=CA --client-cert-auth --client-cert-allowed-hostname=client.example", &[
        (Good, Any, ""),
        (ServerUsage, Any, "incompatible key usage"),
    ]),
    ("--trusted-ca-file=CA --client-cert-auth --client-cert-allowed-hostname=other.example", &[
        (Good, Any, "client certificate authentication failed"),
    ]),
    ("--tls-min-version=TLS1.3", &[
        (Nothing, Only12, "tls: client offered only unsupported versions"),
        (Nothing, Only13, ""),
    ]),
    ("--tls-max-version=TLS1.2 --cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", &[
        (Nothing, Only13, "tls: client offered only unsupported versions"),
    ]),
];

/// All files of a test: authorities, certificates, a revocation list.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn make(dir: &Path) -> Files {
        let ca = Authority::new("matrix").expect("an authority");
        let other = Authority::new("stranger").expect("an authority");
        let client = |usage| Request::new(usage, "client", &["client.example", "127.0.0.1"]);
        ca.own().write(dir, "ca").expect("written");
        other.own().write(dir, "other").expect("written");
        let issue = |name: &str, authority: &Authority, request: Request| {
            authority.issue(&request).expect("a certificate").write(dir, name).expect("written");
        };
        issue("server", &ca, Request::new(Usage::Server, "server", &["127.0.0.1", "localhost"]));
        issue("Good", &ca, client(Usage::Client));
        issue("OtherAuthority", &other, client(Usage::Client));
        issue("Expired", &ca, Request { from_days: -9, until_days: -2, ..client(Usage::Client) });
        issue("NotYet", &ca, Request { from_days: 2, ..client(Usage::Client) });
        issue("ServerUsage", &ca, client(Usage::Server));
        let version_1 = ca.issue_version_1(&client(Usage::Client)).expect("a certificate");
        version_1.write(dir, "Version1").expect("written");
        issue("Revoked", &ca, client(Usage::Client));
        let revoked = std::fs::read(dir.join("Revoked.pem")).expect("written");
        std::fs::write(dir.join("crl.der"), ca.revoke(&[&revoked]).expect("a list")).expect("written");
        Files { dir: dir.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn client(&self, shows: Shows, dials: Dials) -> ClientFiles {
        let ca = if matches!(dials, Distrusting) { "other.pem" } else { "ca.pem" };
        let (min, max) = match dials {
            Only12 => ("TLS1.2", "TLS1.2"),
            Only13 => ("TLS1.3", ""),
            _ => ("", ""),
        };
        let own = |end: &str| (!matches!(shows, Nothing)).then(|| self.path(&format!("{shows:?}{end}")));
        ClientFiles {
            ca: Some(self.path(ca)),
            cert: own(".pem"),
            key: own("-key.pem"),
            offer: Offer::parse(min, max, &[]).expect("good versions"),
            ..Default::default()
        }
    }

    fn flags(&self, text: &str) -> Vec<String> {
        let own = [("cert-file", "server.pem"), ("key-file", "server-key.pem")];
        let own = own.map(|(flag, file)| format!("--{flag}={}", self.path(file).display()));
        let named = |flag: &str| {
            let ca = self.path("ca.pem").display().to_string();
            flag.replace("=CA", &format!("={ca}")).replace("=CRL", &format!("={}", self.path("crl.der").display()))
        };
        own.into_iter().chain(text.split_whitespace().map(named)).collect()
    }
}

struct Member {
    process: Process,
    address: String,
    _scratch: Scratch,
}

async fn member(files: &Files, flags: &str) -> Member {
    let scratch = Scratch::new();
    let mut spec = Spec::new("m0", scratch.path());
    spec.client_url = spec.client_url.replace("http:", "https:");
    // Health is asked for apart, so that the log has the handshakes of the test only.
    let metrics = format!("127.0.0.1:{}", crate::ports::free());
    spec.more = files.flags(flags);
    spec.more.push(format!("--listen-metrics-urls=http://{metrics}"));
    let process =
        Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &scratch.path().join("log"));
    until(READY_WITHIN, "health", async || match http::get(&metrics, "/readyz").await {
        Ok(answer) if answer.status.contains("200") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    Member { process, address: spec.client_url.trim_start_matches("https://").to_owned(), _scratch: scratch }
}

/// The lines of the log that tell of a refused handshake.
fn refusals(process: &Process) -> Vec<String> {
    let log = process.log();
    log.lines().filter(|line| line.contains("rejected connection on client endpoint")).map(str::to_owned).collect()
}

#[test]
fn each_of_26_handshakes_ends_as_it_should_and_the_log_says_why() {
    turn(Duration::from_secs(180), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let files = Files::make(scratch.path());
        let mut cases = 0;
        for (flags, clients) in SERVERS {
            let member = member(&files, flags).await;
            for (shows, dials, why) in *clients {
                cases += 1;
                let case = format!("{flags}: {shows:?}, {dials:?}");
                let before = refusals(&member.process).len();
                let answer = match dials {
                    Plain => http::get(&member.address, "/version").await,
                    _ => http::get_tls(&member.address, "/version", &files.client(*shows, *dials)).await,
                };
                if why.is_empty() {
                    let answer = answer.unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(answer.status.contains("200"), "{case}: {answer:?}");
                    assert_eq!(refusals(&member.process).len(), before, "{case}");
                    continue;
                }
                assert!(answer.is_err(), "{case}: {answer:?}");
                let told = until(READY_WITHIN, &case, async || {
                    refusals(&member.process).get(before).cloned().ok_or("no line in the log")
                })
                .await;
                assert!(told.contains(why), "{case}: {told}");
            }
        }
        assert_eq!(cases, 26);
    });
}

#[test]
fn renewed_files_count_without_a_restart() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let files = Files::make(scratch.path());
        let flags = "--trusted-ca-file=CA --client-cert-auth --client-crl-file=CRL";
        let member = member(&files, flags).await;
        let version = async |shows| http::get_tls(&member.address, "/version", &files.client(shows, Any)).await;
        version(Good).await.expect("let in");
        version(Revoked).await.expect_err("on the list");
        // A list that names nobody, and a certificate of the server's by the other authority.
        let other = Authority::new("stranger again").expect("an authority");
        std::fs::write(files.path("crl.der"), other.revoke(&[]).expect("a list")).expect("written");
        version(Revoked).await.expect("no longer on the list");
        other.own().write(&files.dir, "other").expect("written");
        let renewed = other.issue(&Request::new(Usage::Server, "server", &["127.0.0.1"])).expect("a certificate");
        renewed.write(&files.dir, "server").expect("written");
        version(Good).await.expect_err("the server shows another certificate");
        http::get_tls(&member.address, "/version", &files.client(Good, Distrusting)).await.expect("whom it trusts");
        std::fs::write(files.path("crl.der"), "no list").expect("written");
        let refused = http::get_tls(&member.address, "/version", &files.client(Good, Distrusting)).await;
        refused.expect_err("nobody knows who is revoked");
        let says = "the certificate revocation list cannot be read";
        until(READY_WITHIN, says, async || {
            member.process.log().contains(says).then_some(()).ok_or("not in the log yet")
        })
        .await;
    });
}
