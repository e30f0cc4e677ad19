//! Clients that mean harm: they hold connections open, never finish, flood or babble, on both ports; others are served meanwhile and memory stays bounded.

#![expect(clippy::disallowed_methods, reason = "measures how long others wait")]

use crate::client::Client;
use crate::harness::Cluster;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::alone;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::until;
use crate::http;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::time::Duration;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::transport::Certificate;
use tonic::transport::ClientTlsConfig;

/// How long a put may take while the server is under attack, on a machine that compiles beside it.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

/// What an attack may cost in resident memory.
const GROWTH_MAX: f64 = 256.0 * 1024.0 * 1024.0;

/// Silent connections; the server's own bound on handshakes is a tenth of it. Both ends need a file descriptor.
const HALF_OPEN: usize = 10_000;

fn address(url: &str) -> String {
    url.split_once("://").map_or(url, |(_, address)| address).to_owned()
}

async fn memory(metrics: &str) -> f64 {
    let page = http::get(metrics, "/metrics").await.expect("metrics");
    let line = page.body.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).expect("a sample");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// A new client's put goes through, as a client puts that dials again; how long it took.
async fn served(client: &Client) -> Duration {
    let began = Instant::now();
    until(SERVED_WITHIN, "others are served", async || client.put(0, "key", "value").await).await;
    began.elapsed()
}

fn tell(attack: &str, took: Duration, before: f64, after: f64) {
    let megabytes = |bytes: f64| bytes / 1024.0 / 1024.0;
    eprintln!(
        "{attack}: a put of a new client took {took:?}; resident {:.0} -> {:.0} MiB",
        megabytes(before),
        megabytes(after)
    );
    assert!(after - before < GROWTH_MAX, "{attack}: from {before} to {after} bytes");
}

/// Sends bytes on a connection of their own and reads until the server closes it, or has had time to.
async fn throw(to: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    // The server may close it before all is sent.
    let _refused = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = async { while stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {} };
    let _open = tokio::time::timeout(Duration::from_millis(500), read).await;
    answer
}

/// An HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Calls that are taken back at once (CVE-2023-44487): HEADERS and RST_STREAM in turn.
fn reset_flood(streams: u32) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // :method POST, :scheme http, :path /, by HPACK's static table.
    let head = [0x83, 0x86, 0x84];
    for number in 0..streams {
        let stream = number * 2 + 1;
        bytes.extend(frame(1, 4, stream, &head));
        bytes.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    bytes
}

/// A header that never ends (CVE-2024-27316): HEADERS, then CONTINUATION after CONTINUATION.
fn continuation_flood(frames: usize) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 0, 1, &[0x83, 0x86, 0x84]));
    // A literal field of sixteen letters each.
    let field = [&[0x00, 8][..], b"xxxxxxxx", &[8], b"yyyyyyyy"].concat();
    for _ in 0..frames {
        bytes.extend(frame(9, 0, 1, &field.repeat(800)));
    }
    bytes
}

#[test]
fn floods_and_garbage_on_both_ports_harm_nobody_else() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(1).await;
        let (client, peer) = (address(&cluster.spec(0).client_url), address(&cluster.spec(0).peer_url));
        served(&cluster.client).await;
        let mut garbage = vec![0u8; 100_000];
        for (place, byte) in garbage.iter_mut().enumerate() {
            *byte = (place.wrapping_mul(2_654_435_761) >> 13) as u8;
        }
        let long_header = format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
        let many_headers = format!("GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200_000));
        let attacks: [(&str, Vec<u8>); 6] = [
            ("garbage", garbage),
            ("one long header", long_header.into_bytes()),
            ("many headers", many_headers.into_bytes()),
            ("reset flood", reset_flood(20_000)),
            ("continuation flood", continuation_flood(2_000)),
            ("preface, then garbage", [PREFACE, &[0xff; 10_000]].concat()),
        ];
        for (name, bytes) in &attacks {
            let before = memory(&client).await;
            let newcomer = Client::plain(vec![cluster.spec(0).client_url.clone()]);
            let (thrown, took) = tokio::join!(
                async {
                    for _ in 0..5 {
                        let (a, b) = tokio::join!(throw(&client, bytes), throw(&peer, bytes));
                        for answer in [a, b] {
                            let text = String::from_utf8_lossy(&answer).into_owned();
                            assert!(!text.starts_with("HTTP/1.1 200"), "{name}: {text}");
                        }
                    }
                },
                served(&newcomer),
            );
            let () = thrown;
            tell(name, took, before, memory(&client).await);
        }
    });
}

#[test]
fn clients_that_never_finish_a_request_harm_nobody_else() {
    alone(Duration::from_secs(120), async {
        let cluster = Cluster::start(1).await;
        let to = address(&cluster.spec(0).client_url);
        let before = memory(&to).await;
        let mut held = Vec::new();
        let beginnings: [&[u8]; 4] =
            [b"", b"GET /hea", b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", &PREFACE[..20]];
        for number in 0..2_000 {
            let mut stream = TcpStream::connect(&to).await.expect("a connection");
            stream.write_all(beginnings[number % beginnings.len()]).await.expect("sent");
            held.push(stream);
        }
        // One byte now and then, as slow loris does.
        for stream in &mut held {
            let _closed = stream.write_all(b"x").await;
        }
        let took = served(&Client::plain(vec![cluster.spec(0).client_url.clone()])).await;
        tell("2000 slow requests", took, before, memory(&to).await);
    });
}

#[test]
fn half_open_handshakes_keep_nobody_out() {
    alone(Duration::from_secs(180), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let authority = Authority::new("abuse").expect("an authority");
        let (ca, _) = authority.own().write(scratch.path(), "ca").expect("written");
        let issued = authority.issue(&Request::new(Usage::Server, "m0", &["127.0.0.1", "localhost"])).expect("issued");
        let (cert, key) = issued.write(scratch.path(), "server").expect("written");
        let mut spec = Spec::new("m0", scratch.path());
        spec.client_url = spec.client_url.replace("http:", "https:");
        let metrics = format!("127.0.0.1:{}", crate::ports::free());
        spec.more = vec![
            format!("--cert-file={}", cert.display()),
            format!("--key-file={}", key.display()),
            format!("--listen-metrics-urls=http://{metrics}"),
            "--log-level=error".to_owned(),
        ];
        let ca = Certificate::from_pem(std::fs::read(ca).expect("the authority"));
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let client = || Client::tls(vec![spec.client_url.clone()], &tls);
        let cluster = Cluster::from_specs(&etcd_bin(), vec![spec.clone()], client(), scratch).await;
        let (to, before) = (address(&spec.client_url), memory(&metrics).await);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let wanted = HALF_OPEN.min(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(200));
        let mut held = Vec::with_capacity(wanted);
        let mut slowest = Duration::ZERO;
        for number in 0..wanted {
            // The server cuts the oldest off; those stay open on our side.
            held.push(TcpStream::connect(&to).await.expect("a connection"));
            if number % 1_000 == 999 {
                slowest = slowest.max(served(&client()).await);
            }
        }
        tell(&format!("{} half-open handshakes", held.len()), slowest, before, memory(&metrics).await);
        let page = http::get(&metrics, "/metrics").await.expect("metrics").body;
        let cut = "etcd_lab_tls_handshakes_failed_total{listener=\"client\",reason=\"too-many\"}";
        assert!(page.lines().any(|line| line.starts_with(cut)), "the oldest were cut off");
        drop((held, cluster));
    });
}
