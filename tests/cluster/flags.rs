//! Every flag that works has an effect that somebody outside can see; every one that is refused says why, and one that does nothing says so.
//!
//! The flags are those of the table that `etcd lab-flags` prints. Flags share members: one member is told much, and looked at from all sides. What needs a cluster, a
//! certificate or a restart is looked at where that is tested anyway, and this file says where.

#![expect(clippy::disallowed_methods, reason = "a token that is asked about lives on")]

use crate::client::Client;
use crate::client::put;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use crate::raw;
use etcd_lab::client::Client as OwnClient;
use etcd_lab::client::Config as OwnConfig;
use etcd_lab::proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where the effect of a flag is seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// By [`every_flag_that_one_member_can_show_is_seen`].
    Here,
    /// By a test in another file, which names the flag.
    In(&'static str),
}
use Seen::Here;
use Seen::In;

#[rustfmt::skip]
const EFFECTS: &[(&str, Seen)] = &[
    ("name", Here), ("data-dir", Here), ("wal-dir", Here), ("snapshot-count", Here), ("heartbeat-interval", Here),
    ("election-timeout", Here), ("listen-peer-urls", Here), ("listen-client-urls", Here), ("memory-mlock", Here),
    ("quota-backend-bytes", Here), ("max-txn-ops", Here), ("max-request-bytes", Here), ("max-concurrent-streams", Here),
    ("grpc-keepalive-interval", Here), ("grpc-keepalive-timeout", Here), ("socket-reuse-port", Here), ("feature-gates", Here),
    ("max-learners", Here), ("version", Here), ("config-file", Here), ("initial-advertise-peer-urls", Here), ("initial-cluster", Here),
    ("advertise-client-urls", Here), ("auth-token-ttl", Here), ("bcrypt-cost", Here), ("log-outputs", Here), ("log-level", Here),
    ("log-format", Here), ("enable-log-rotation", Here), ("log-rotation-config-json", Here), ("metrics", Here),
    ("warning-unary-request-duration", Here), ("warning-apply-duration", Here), ("compaction-batch-limit", Here),
    ("compaction-sleep-interval", Here), ("logger", Here), ("experimental-lab-max-connections", Here),
    ("experimental-stop-grpc-service-on-defrag", In("effects.rs")), ("initial-election-tick-advance", In("effects.rs")),
    ("pre-vote", In("effects.rs")), ("bootstrap-defrag-threshold-megabytes", In("effects.rs")), ("downgrade-check-time", In("effects.rs")),
    ("experimental-enable-lease-checkpoint", In("effects.rs")), ("experimental-enable-lease-checkpoint-persist", In("effects.rs")),
    ("experimental-compact-hash-check-enabled", In("corruption.rs")),
    ("peer-client-cert-file", In("tls_peers.rs")), ("peer-client-key-file", In("tls_peers.rs")),
    ("discovery-srv", In("srv.rs")), ("discovery-srv-name", In("srv.rs")),
    ("discovery-dial-timeout", In("discovery.rs")), ("discovery-request-timeout", In("discovery.rs")),
    ("discovery-keepalive-time", In("discovery.rs")), ("discovery-keepalive-timeout", In("discovery.rs")),
    ("discovery-token", In("discovery.rs")), ("discovery-endpoints", In("discovery.rs")), ("discovery-user", In("discovery.rs")),
    ("discovery-password", In("discovery.rs")), ("discovery-insecure-transport", In("discovery.rs")), ("discovery-cacert", In("discovery.rs")),
    ("discovery-cert", In("discovery.rs")), ("discovery-key", In("discovery.rs")), ("discovery-insecure-skip-tls-verify", In("discovery.rs")),
    ("listen-client-http-urls", In("gateway.rs")), ("enable-grpc-gateway", In("gateway.rs")), ("cors", In("gateway.rs")),
    ("host-whitelist", In("gateway.rs")), ("listen-metrics-urls", In("metrics.rs")), ("initial-cluster-state", In("membership.rs")),
    ("initial-cluster-token", In("membership.rs")), ("strict-reconfig-check", In("membership.rs")), ("force-new-cluster", In("offline.rs")),
    ("auto-compaction-mode", In("maintenance.rs")), ("auto-compaction-retention", In("maintenance.rs")),
    ("watch-progress-notify-interval", In("watch_rules.rs")), ("snapshot-catchup-entries", In("catchup.rs")),
    ("corrupt-check-time", In("corruption.rs")), ("compact-hash-check-time", In("corruption.rs")),
    ("experimental-initial-corrupt-check", In("corruption.rs")), ("auth-token", In("auth.rs")),
    ("cert-file", In("tls_matrix.rs")), ("key-file", In("tls_matrix.rs")), ("client-cert-auth", In("tls_matrix.rs")),
    ("client-crl-file", In("tls_matrix.rs")), ("client-cert-allowed-hostname", In("tls_matrix.rs")), ("trusted-ca-file", In("tls_matrix.rs")),
    ("tls-min-version", In("tls_matrix.rs")), ("tls-max-version", In("tls_matrix.rs")), ("cipher-suites", In("tls_matrix.rs")),
    ("peer-cert-file", In("tls_peers.rs")), ("peer-key-file", In("tls_peers.rs")), ("peer-client-cert-auth", In("tls_peers.rs")),
    ("peer-trusted-ca-file", In("tls_peers.rs")), ("peer-crl-file", In("tls_peers.rs")), ("peer-cert-allowed-cn", In("tls_peers.rs")),
    ("peer-cert-allowed-hostname", In("tls_peers.rs")), ("peer-skip-client-san-verification", In("tls_peers.rs")),
    ("auto-tls", In("tls_peers.rs")), ("peer-auto-tls", In("tls_peers.rs")), ("self-signed-cert-validity", In("tls_peers.rs")),
    ("enable-distributed-tracing", In("spans.rs")), ("distributed-tracing-address", In("spans.rs")),
    ("distributed-tracing-service-name", In("spans.rs")), ("distributed-tracing-instance-id", In("spans.rs")),
    ("distributed-tracing-sampling-rate", In("spans.rs")), ("experimental-lab-listen", In("chaos.rs")), ("experimental-lab-token", In("chaos.rs")),
    ("experimental-lab-wal-segment-bytes", In("catchup.rs")), ("experimental-lab-cache-bytes", In("bounds.rs")),
    ("experimental-lab-max-range-bytes", In("maintenance.rs")),
];

/// A line of the table: flag, default, standing, why.
struct Row {
    name: String,
    default: String,
    standing: String,
    why: String,
}

fn table() -> Vec<Row> {
    let printed = Command::new(env!("CARGO_BIN_EXE_etcd")).arg("lab-flags").output().expect("the table");
    let text = String::from_utf8(printed.stdout).expect("text");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, default, _, standing, why] = cells[..] else { panic!("{line}") };
        Row { name: name.into(), default: default.into(), standing: standing.into(), why: why.into() }
    };
    text.lines().map(row).collect()
}

#[test]
fn every_flag_that_works_is_seen_to_work_somewhere() {
    let seen: BTreeMap<&str, Seen> = EFFECTS.iter().copied().collect();
    assert_eq!(seen.len(), EFFECTS.len(), "each flag is in the list once");
    let table = table();
    let works: Vec<&str> = table.iter().filter(|row| row.standing == "works").map(|row| row.name.as_str()).collect();
    for name in &works {
        let seen = seen.get(name).unwrap_or_else(|| panic!("nobody says where --{name} is seen to work"));
        match seen {
            In(file) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(file);
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert!(text.contains(name), "{file} does not name --{name}");
            }
            Here => {
                let text = include_str!("flags.rs");
                assert!(text.contains(&format!("--{name}")), "no test here gives --{name}");
            }
        }
    }
    let stale: Vec<&&str> = seen.keys().filter(|name| !works.contains(name)).collect();
    assert!(stale.is_empty(), "{stale:?} do not work");
}

/// Another value than the default.
fn another(row: &Row) -> String {
    match (row.name.as_str(), row.default.as_str()) {
        ("v2-deprecation", _) => "gone".to_owned(),
        ("backend-bbolt-freelist-type" | "experimental-backend-bbolt-freelist-type", _) => "array".to_owned(),
        ("discovery-fallback", _) => "proxy".to_owned(),
        (_, "true") => "false".to_owned(),
        (_, "false") => "true".to_owned(),
        (_, number) if number.parse::<u64>().is_ok() => "77".to_owned(),
        (_, time) if time.ends_with('s') && time.starts_with(|c: char| c.is_ascii_digit()) => "77s".to_owned(),
        _ => "another".to_owned(),
    }
}

#[test]
fn what_does_nothing_says_so_and_what_is_refused_says_why() {
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        let table = table();
        let scratch = Scratch::new();
        for row in table.iter().filter(|row| row.standing == "refused") {
            let flag = format!("--{}={}", row.name, another(row));
            let data = format!("--data-dir={}", scratch.path().join("refused").display());
            let ended = Command::new(etcd_bin()).args([&flag, &data]).output().expect("a process");
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{flag}: {said}");
            assert!(said.contains(&format!("--{} cannot be used: {}", row.name, row.why)), "{flag}: {said}");
        }
        // All that have no effect together: the member starts, and has said so of each.
        let idle: Vec<&Row> =
            table.iter().filter(|row| matches!(row.standing.as_str(), "no-effect" | "ignored")).collect();
        assert!(idle.len() > 20, "{}", idle.len());
        let spec = Spec::new("m0", scratch.path());
        let mut flags = spec.flags(std::slice::from_ref(&spec));
        flags.extend(idle.iter().map(|row| format!("--{}={}", row.name, another(row))));
        let member = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join("log"));
        let client = Client::plain(vec![spec.client_url.clone()]);
        until(READY_WITHIN, "a put", async || client.put(0, "a", "1").await).await;
        let log = member.log();
        for row in idle {
            let says = match row.standing.as_str() {
                "ignored" => format!("--{} is ignored", row.name),
                _ => format!("--{} has no effect: {}", row.name, row.why),
            };
            assert!(log.contains(&says), "--{} passes in silence\n{log}", row.name);
        }
    });
}

/// A member that was told much.
struct Member {
    process: Process,
    spec: Spec,
    client: Client,
    dir: PathBuf,
}

async fn start(scratch: &Scratch, name: &str, more: &[String]) -> Member {
    let dir = scratch.path().to_owned();
    let mut spec = Spec::new(name, &dir);
    spec.more = more.to_vec();
    let flags = spec.flags(std::slice::from_ref(&spec));
    let process = Process::start(&etcd_bin(), &flags, &[], &dir.join(format!("{name}.out")));
    let client = Client::plain(vec![spec.client_url.clone()]);
    until(READY_WITHIN, "a leader", async || match client.status(0).await {
        Ok(status) if status.leader != 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    Member { process, spec, client, dir }
}

impl Member {
    fn address(&self) -> &str {
        self.spec.client_url.trim_start_matches("http://")
    }

    async fn metrics(&self) -> String {
        http::get(self.address(), "/metrics").await.expect("metrics").body
    }

    async fn metric(&self, sample: &str) -> f64 {
        let page = self.metrics().await;
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample}")).parse().expect("a number")
    }

    async fn txn(&self, ops: usize) -> Result<pb::TxnResponse, tonic::Status> {
        let op = |n| {
            let request = pb::request_op::Request::RequestPut(put(&format!("t{n}"), "1"));
            pb::RequestOp { request: Some(request) }
        };
        let request = pb::TxnRequest { success: (0..ops).map(op).collect(), ..Default::default() };
        self.client.kv(0).txn(request).await.map(tonic::Response::into_inner)
    }

    async fn grant(&self) -> pb::LeaseGrantResponse {
        let granted = self.client.lease(0).lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await;
        granted.expect("a lease").into_inner()
    }
}

fn files_below(dir: &Path, end: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).map(|dir| {
        dir.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect::<Vec<_>>()
    });
    names.unwrap_or_default().into_iter().filter(|name| name.ends_with(end)).collect()
}

#[test]
fn every_flag_that_one_member_can_show_is_seen() {
    turn(Duration::from_secs(180), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path().display();
        let mut flags = vec![format!("--wal-dir={dir}/wal"), format!("--log-outputs={dir}/member.log")];
        let more = [
            "--snapshot-count=10",
            "--heartbeat-interval=1000",
            "--election-timeout=5000",
            "--quota-backend-bytes=123456789",
            "--max-txn-ops=2",
            "--max-request-bytes=3000",
            "--max-concurrent-streams=7",
            "--grpc-keepalive-interval=1s",
            "--grpc-keepalive-timeout=1s",
            "--socket-reuse-port",
            "--feature-gates=CompactHashCheck=true",
            "--max-learners=2",
            "--metrics=extensive",
            "--warning-unary-request-duration=1ns",
            "--warning-apply-duration=1ns",
            "--compaction-batch-limit=1",
            "--compaction-sleep-interval=20ms",
            "--logger=zap",
            "--log-level=debug",
            "--log-format=console",
            "--enable-log-rotation",
            r#"--log-rotation-config-json={"maxsize": 1}"#,
        ];
        flags.extend(more.map(str::to_owned));
        let member = start(&scratch, "shown", &flags).await;
        limits(&member).await;
        connections(&member).await;
        histories(&member).await;
        identity(&member).await;
        log(&member).await;
    });
}

/// `--max-txn-ops`, `--max-request-bytes`, `--quota-backend-bytes`, `--feature-gates`, `--metrics`, `--heartbeat-interval`, `--election-timeout`.
async fn limits(member: &Member) {
    member.txn(2).await.expect("two operations");
    assert!(member.txn(3).await.expect_err("three").message().contains("too many operations"));
    member.client.put(0, "k", &"v".repeat(2000)).await.expect("a put");
    let refused = member.client.put(0, "k", &"v".repeat(4000)).await.expect_err("too large");
    assert!(refused.message().contains("request is too large"), "{refused}");
    assert_eq!(member.metric("etcd_server_quota_backend_bytes").await, 123_456_789.0);
    let gate = |name: &str| format!("etcd_server_feature_enabled{{name=\"{name}\",stage=\"ALPHA\"}}");
    assert_eq!(member.metric(&gate("CompactHashCheck")).await, 1.0);
    assert_eq!(member.metric(&gate("LeaseCheckpoint")).await, 0.0);
    assert!(member.metrics().await.contains("grpc_server_handling_seconds_bucket"));
    // Five ticks make an election time-out; half as many again, rounded down, of a second each.
    assert_eq!(member.grant().await.ttl, 7);
}

/// `--max-concurrent-streams`, `--grpc-keepalive-interval`, `--grpc-keepalive-timeout`, `--socket-reuse-port`.
async fn connections(member: &Member) {
    let seen = raw::listen(member.address(), Duration::from_secs(20)).await;
    assert_eq!(seen.streams_max, Some(7), "{seen:?}");
    assert!(seen.pings >= 1 && seen.ended, "a ping comes, and who does not answer it is left: {seen:?}");
    let address: std::net::SocketAddr = member.address().parse().expect("an address");
    assert!(std::net::TcpListener::bind(address).is_err(), "who does not share does not get the port");
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    rustix::net::sockopt::set_socket_reuseport(&socket, true).expect("shared");
    rustix::net::bind(&socket, &address).expect("who shares does");
}

/// `--snapshot-count`, `--wal-dir`, `--data-dir`, `--compaction-batch-limit`, `--compaction-sleep-interval`.
async fn histories(member: &Member) {
    let mut revision = 0;
    for n in 0..30 {
        let written = member.client.put(0, &format!("k{}", n % 10), "v").await.expect("a put");
        revision = written.header.expect("a header").revision;
    }
    let pauses = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count";
    let before = member.metric(pauses).await;
    let compact = pb::CompactionRequest { revision, physical: true };
    member.client.kv(0).compact(compact).await.expect("compacted");
    assert!(member.metric(pauses).await - before >= 10.0, "a step for each key");
    let took = member.metric("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_sum").await;
    assert!(took >= 10.0 * 20.0, "a pause after each: {took} ms");
    let data = member.dir.join("shown.etcd");
    until(READY_WITHIN, "a snapshot's note", async || match files_below(&data.join("member/snap"), ".snap").len() {
        0 => Err("none"),
        _ => Ok(()),
    })
    .await;
    assert!(!files_below(&member.dir.join("wal"), ".wal").is_empty() && !data.join("member/wal").exists());
}

/// `--name`, `--initial-advertise-peer-urls`, `--initial-cluster`, `--advertise-client-urls`, `--max-learners`.
async fn identity(member: &Member) {
    let listed = member.client.members(0, true).await.expect("members").members;
    let own = &listed[0];
    assert_eq!((own.name.as_str(), &own.peer_ur_ls), ("shown", &vec![member.spec.peer_url.clone()]));
    assert_eq!(own.client_ur_ls, std::slice::from_ref(&member.spec.client_url));
    let learner = async |n: u16| {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![format!("http://127.0.0.1:{n}")], is_learner: true };
        member.client.cluster(0).member_add(request).await
    };
    learner(1).await.expect("the first");
    learner(2).await.expect("the second");
    let refused = learner(3).await.expect_err("the third");
    assert!(refused.message().contains("too many learner members"), "{refused}");
}

/// `--log-outputs`, `--log-level`, `--log-format`, `--warning-unary-request-duration`, `--warning-apply-duration`, `--enable-log-rotation`,
/// `--log-rotation-config-json`.
async fn log(member: &Member) {
    let path = member.dir.join("member.log");
    let read = || std::fs::read_to_string(&path).expect("the log");
    for _ in 0..3 {
        member.client.get(0, "k1").await.expect("a value");
    }
    let wanted = [
        ("\twarn\t", "request stats", r#""request content":"key:\"k1\" value_size:1 ""#),
        ("\twarn\t", "request stats", r#""response type":"/etcdserverpb.KV/Range""#),
        ("\twarn\t", "apply request took too long", r#"put:<key:\"k1\" value_size:1 > ","response":"size:"#),
        ("\twarn\t", "apply request took too long", r#""prefix":"read-only range ""#),
        ("\tinfo\t", "starting an etcd server", r#""snapshot-count":10"#),
    ];
    until(READY_WITHIN, "the lines", async || {
        let log = read();
        let has = |(level, message, part): &&(&str, &str, &str)| {
            log.lines().any(|line| line.contains(level) && line.contains(message) && line.contains(part))
        };
        wanted.iter().find(|line| !has(line)).map_or(Ok(()), |line| Err(format!("{line:?}")))
    })
    .await;
    assert!(member.process.log().is_empty(), "nothing goes elsewhere: {}", member.process.log());
    // A megabyte fills a file: each request leaves a line or two.
    until(Duration::from_secs(60), "a second file", async || {
        for _ in 0..200 {
            member.client.get(0, &"k".repeat(1000)).await.expect("an answer");
        }
        let old = files_below(&member.dir, ".log");
        if old.len() > 1 { Ok(()) } else { Err(format!("{old:?}")) }
    })
    .await;
}

#[test]
fn levels_and_limits_of_another_member_are_seen() {
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let flags = ["--auth-token-ttl=1", "--bcrypt-cost=4", "--memory-mlock", "--experimental-lab-max-connections=4"];
        let spec = Spec::new("m0", scratch.path());
        let metrics = format!("127.0.0.1:{}", ports::free());
        let mut words = spec.flags(std::slice::from_ref(&spec));
        words.extend(flags.map(str::to_owned));
        words.push(format!("--listen-metrics-urls=http://{metrics}"));
        let mut process = Process::start(&etcd_bin(), &words, &[], &scratch.path().join("log"));
        let ready = async || match http::get(&metrics, "/readyz").await {
            Ok(answer) if answer.status.contains("200") => Ok(true),
            Err(_) if process.log().contains("LimitMEMLOCK=") => Ok(false),
            other => Err(format!("{other:?}")),
        };
        if !until(READY_WITHIN, "health", ready).await {
            // Where a process may lock nothing, that is said and not passed over.
            assert_eq!(process.ended(ENDS_WITHIN).await.code(), Some(1));
            assert!(process.log().contains("LimitMEMLOCK="), "{}", process.log());
            words.retain(|word| word != "--memory-mlock");
            process = Process::start(&etcd_bin(), &words, &[], &scratch.path().join("log"));
            until(READY_WITHIN, "health", async || http::get(&metrics, "/readyz").await).await;
        } else {
            assert!(process.memory_kib("VmLck") > 1000, "its pages are locked");
        }
        let address = spec.client_url.trim_start_matches("http://").to_owned();
        tokens(&address).await;
        // Four connections that say nothing leave no room for a fifth, until one of them goes.
        let mut idle = Vec::new();
        for _ in 0..4 {
            idle.push(tokio::net::TcpStream::connect(&address).await.expect("the kernel takes it"));
        }
        let full = tokio::time::timeout(Duration::from_millis(500), http::get(&address, "/version")).await;
        assert!(full.is_err(), "{full:?}");
        idle.clear();
        until(READY_WITHIN, "room", async || http::get(&address, "/version").await).await;
        drop(process);
    });
}

/// A token ends after its second (`--auth-token-ttl`), and a hash of few rounds (`--bcrypt-cost`) is quick.
async fn tokens(address: &str) {
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        let answer = http::send(address, "POST", path, body).await.expect("an answer");
        assert!(answer.status.contains("200"), "{path}: {answer:?}");
    }
    let login = r#"{"name":"root","password":"pw"}"#;
    let answer = http::send(address, "POST", "/v3/auth/authenticate", login).await.expect("an answer");
    let token: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let token = token["token"].as_str().expect("a token").to_owned();
    let range = ("/v3/kv/range", r#"{"key":"YQ=="}"#);
    let ask = async || http::send_with(address, ("POST", range.0), ("authorization", &token), range.1).await;
    assert!(ask().await.expect("an answer").status.contains("200"));
    // Asking keeps a token alive, so it is asked once in a while only.
    until(READY_WITHIN, "the token's end", async || {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let answer = ask().await.expect("an answer");
        if answer.status.contains("401") { Ok(()) } else { Err(answer.status) }
    })
    .await;
}

#[test]
fn a_file_takes_the_place_of_flags_and_the_version_is_told() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let [client, peer] = [(); 2].map(|()| format!("http://127.0.0.1:{}", ports::free()));
        let file = scratch.path().join("etcd.yml");
        let data = scratch.path().join("data");
        let text = format!(
            "name: filed\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
             listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: filed={peer}\nmax-txn-ops: 1\n",
            data.display()
        );
        std::fs::write(&file, text).expect("written");
        let words = ["--config-file".to_owned(), file.display().to_string(), "--name=ignored".to_owned()];
        let _member = Process::start(&etcd_bin(), &words, &[], &scratch.path().join("log"));
        let own = Client::plain(vec![client]);
        let listed = until(READY_WITHIN, "members", async || own.members(0, true).await).await;
        assert_eq!(listed.members[0].name, "filed");
        assert!(data.join("member/wal").is_dir());
        let told = Command::new(etcd_bin()).arg("--version").output().expect("a process");
        assert!(String::from_utf8_lossy(&told.stdout).starts_with("etcd Version: 3."), "{told:?}");
        let help = Command::new(etcd_bin()).arg("--help").output().expect("a process");
        assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("\nUnsafe feature:\n"));
    });
}

#[test]
fn members_reach_each_other_by_socket_files() {
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        for (scheme, flags) in [("unix", None), ("unixs", Some("--peer-auto-tls"))] {
            let scratch = Scratch::new();
            let mut specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
            for spec in &mut specs {
                spec.peer_url = format!("{scheme}://{}", scratch.path().join(format!("{}.peer", spec.name)).display());
                spec.more = flags.into_iter().map(str::to_owned).collect();
            }
            let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
            let mut cluster = Cluster::from_specs(&etcd_bin(), specs, client, scratch).await;
            cluster.client.put(0, "k", "v").await.expect("a put");
            // Its file stays behind, and is replaced.
            let leader = cluster.leader().await;
            cluster.kill(leader);
            let other = (leader + 1) % 3;
            until(READY_WITHIN, "another leads", async || cluster.client.put(other, "k", "w").await).await;
            cluster.restart(leader).await;
            cluster.assert_equal_hashes().await;
            cluster.terminate(leader).await;
            let file = cluster.dir().join(format!("m{leader}.peer"));
            assert!(!file.exists(), "{scheme}: it takes its file along");
        }
    });
}

/// `--listen-client-urls` and `--listen-peer-urls`: several, IPv4, IPv6, socket files, and port 0.
#[test]
fn a_member_listens_wherever_it_is_told_to() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let [c4, c6, p4, p6] = [(); 4].map(|()| ports::free());
        let clients = [
            format!("http://127.0.0.1:{c4}"),
            format!("http://[::1]:{c6}"),
            format!("unix://{}", dir.join("plain.sock").display()),
            format!("unixs://{}", dir.join("secure.sock").display()),
            "http://127.0.0.1:0".to_owned(),
        ];
        let flags = [
            "--name=everywhere".to_owned(),
            format!("--data-dir={}", dir.join("data").display()),
            format!("--listen-client-urls={}", clients.join(",")),
            format!("--advertise-client-urls=http://127.0.0.1:{c4}"),
            format!("--listen-peer-urls=http://127.0.0.1:{p4},http://[::1]:{p6}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{p4},http://[::1]:{p6}"),
            format!("--initial-cluster=everywhere=http://127.0.0.1:{p4},everywhere=http://[::1]:{p6}"),
            "--auto-tls".to_owned(),
        ];
        let member = Process::start(&etcd_bin(), &flags, &[], &dir.join("log"));
        let skip = etcd_lab::client::TlsFiles { skip_verify: true, ..Default::default() };
        for (n, endpoint) in clients[..4].iter().enumerate() {
            let config = OwnConfig {
                endpoints: vec![endpoint.clone()],
                tls: endpoint.starts_with("unixs").then(|| skip.load().expect("a configuration")),
                ..OwnConfig::default()
            };
            let client = OwnClient::new(config);
            until(READY_WITHIN, endpoint, async || client.put(format!("k{n}"), "v").await).await;
            assert!(client.get("k0").await.expect("an answer").is_some(), "{endpoint}");
        }
        for peer in [format!("127.0.0.1:{p4}"), format!("[::1]:{p6}")] {
            let answer = http::get(&peer, "/version").await.expect("an answer");
            assert!(answer.status.contains("200"), "{peer}: {answer:?}");
        }
        let ipv6 = http::get(&format!("[::1]:{c6}"), "/health").await.expect("an answer");
        assert!(ipv6.body.contains("true"), "{ipv6:?}");
        let log = member.log();
        assert_eq!(log.matches("serving client traffic insecurely").count(), 4, "{log}");
        assert_eq!(log.matches("serving client traffic securely").count(), 1, "{log}");
        assert!(
            member.ports() >= 5,
            "two for clients, two for peers, and one that the system chose: {}",
            member.ports()
        );
    });
}
