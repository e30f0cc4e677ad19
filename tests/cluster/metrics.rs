//! `/metrics`: every metric that is declared moves when what it is about happens, and all that etcd's dashboard and alerts ask for is there.

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
use etcd_lab::meter;
use std::collections::BTreeMap;
use std::time::Duration;

/// Metrics that the scenario cannot catch, and why.
const NOT_CAUGHT: &[(&str, &str)] = &[
    ("etcd_disk_defrag_inflight", "1 for a moment"),
    ("etcd_server_snapshot_apply_in_progress_total", "1 for a moment"),
    ("etcd_server_proposals_pending", "for a moment"),
    ("etcd_debugging_mvcc_pending_events_total", "for a moment"),
    ("etcd_debugging_mvcc_slow_watcher_total", "a watcher must lag"),
    ("etcd_server_is_learner", "these members are voters"),
    ("etcd_network_peer_received_failures_total", "a member must be overwhelmed"),
    ("etcd_lab_tls_handshakes_failed_total", "no TLS here: tls_matrix looks at it"),
    ("etcd_lab_log_lines_dropped_total", "a reader of the log must be stuck"),
    ("etcd_network_known_peers", "the members stay the same"),
    ("etcd_server_id", "says the same for ever"),
    ("etcd_server_version", "says the same for ever"),
    ("etcd_cluster_version", "says the same for ever"),
    ("etcd_server_quota_backend_bytes", "a setting"),
    ("process_start_time_seconds", "says the same for ever"),
    ("process_virtual_memory_bytes", "reserved once"),
    ("process_max_fds", "a setting"),
    ("os_fd_limit", "a setting"),
];

/// What the mixin's dashboard and alerts ask for. Source: etcd `contrib/mixin`.
const MIXIN: &[&str] = &[
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

/// A page of metrics: sample → value, and name → type.
#[derive(Clone, Default)]
struct Page {
    samples: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Page {
    fn parse(text: &str) -> Page {
        let mut page = Page::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(page.kinds.insert(name.into(), kind.into()).is_none(), "{name} is declared twice");
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').expect("a sample");
                let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
                assert!(page.samples.insert(sample.into(), value).is_none(), "{sample} is there twice");
            }
        }
        page
    }

    /// The samples of a metric, those of a histogram included.
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a String, &'a f64)> {
        let ends = ["", "_count", "_sum", "_bucket"].map(|end| format!("{name}{end}"));
        self.samples.iter().filter(move |(sample, _)| ends.iter().any(|n| sample.split('{').next() == Some(n)))
    }

    fn moved_since(&self, before: &Page, name: &str) -> bool {
        self.of(name).any(|(sample, value)| before.samples.get(sample).is_none_or(|old| old != value) && *value != 0.0)
            || before.of(name).any(|(sample, value)| *value != 0.0 && self.samples.get(sample) != Some(value))
    }
}

async fn page(cluster: &Cluster, member: usize) -> Page {
    let address = cluster.spec(member).client_url.trim_start_matches("http://").to_owned();
    let answer = http::get(&address, "/metrics").await.expect("metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Page::parse(&answer.body)
}

async fn post(cluster: &Cluster, member: usize, path: &str, body: &str) -> String {
    let address = cluster.spec(member).client_url.trim_start_matches("http://").to_owned();
    http::send(&address, "POST", path, body).await.map(|answer| answer.body).unwrap_or_default()
}

/// What happens to the cluster while all three members are there.
async fn live(cluster: &Cluster, leader: usize) {
    let keys = [("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#), ("/v3/kv/put", r#"{"key":"Yg=="}"#)];
    let transaction = r#"{"success":[{"request_put":{"key":"Yw=="}},{"request_range":{"key":"YQ=="}}]}"#;
    let calls = [
        ("/v3/kv/range", r#"{"key":"YQ=="}"#),
        ("/v3/kv/deleterange", r#"{"key":"Yg=="}"#),
        ("/v3/kv/txn", transaction),
        ("/v3/lease/grant", r#"{"ID":"5","TTL":"600"}"#),
        ("/v3/lease/keepalive", r#"{"ID":"5"}"#),
        ("/v3/lease/revoke", r#"{"ID":"5"}"#),
        ("/v3/lease/grant", r#"{"ID":"6","TTL":"1"}"#),
        ("/v3/maintenance/hash", "{}"),
        ("/v3/maintenance/hashkv", "{}"),
        ("/v3/kv/compaction", r#"{"revision":"3","physical":true}"#),
        ("/v3/maintenance/defragment", "{}"),
        ("/v3/maintenance/snapshot", "{}"),
        ("/v3/auth/role/add", r#"{"name":"reader"}"#),
    ];
    // More than a page, so that sizes change.
    let large = format!(r#"{{"key":"ZA==","value":"{}"}}"#, "QUFB".repeat(20_000));
    assert!(!post(cluster, leader, "/v3/kv/put", &large).await.contains("error"));
    for (path, body) in keys.into_iter().chain(calls) {
        let answer = post(cluster, leader, path, body).await;
        assert!(!answer.contains("error"), "{path} {body}: {answer}");
    }
    let address = cluster.spec(leader).client_url.trim_start_matches("http://").to_owned();
    for path in ["/livez", "/readyz", "/health"] {
        http::get(&address, path).await.expect("an answer");
    }
    post(cluster, leader, "/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}"#).await;
    let sick = http::get(&address, "/health").await.expect("an answer");
    assert!(sick.status.contains("503"), "{sick:?}");
}

#[test]
fn every_metric_moves_when_what_it_is_about_happens() {
    turn(Duration::from_secs(180), async {
        if !is_ours() {
            return;
        }
        let flags = ["--warning-apply-duration=1ns", "--metrics=extensive"];
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &flags).await;
        let leader = cluster.leader().await;
        let other = (0..3).find(|member| *member != leader).expect("a follower");
        let before = [page(&cluster, leader).await, page(&cluster, other).await];
        live(&cluster, leader).await;
        let address = cluster.spec(leader).client_url.trim_start_matches("http://").to_owned();
        let watch =
            tokio::spawn(
                async move { http::lines(&address, "/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#, 9).await },
            );
        // A watcher, a lease that expires, a probe of a peer: each in its own time.
        let after = until(READY_WITHIN, "a watcher, an expired lease, a round trip", async || {
            let page = page(&cluster, leader).await;
            let waited = ["etcd_debugging_mvcc_watcher_total", "etcd_debugging_server_lease_expired_total"];
            match waited.iter().find(|name| !page.moved_since(&before[0], name)) {
                Some(name) => Err((*name).to_owned()),
                None if page.of("etcd_network_peer_round_trip_time_seconds").all(|(_, value)| *value == 0.0) => {
                    Err("no round trip".to_owned())
                }
                None => Ok(page),
            }
        })
        .await;
        watch.abort();
        for name in MIXIN {
            assert!(after.samples.keys().any(|sample| sample.split('{').next() == Some(name)), "no sample of {name}");
        }
        let heir = cluster.client.status(other).await.expect("a status").header.expect("a header").member_id;
        post(&cluster, leader, "/v3/maintenance/transfer-leadership", &format!(r#"{{"targetID":"{heir}"}}"#)).await;
        let led = until(READY_WITHIN, "the other leads", async || {
            let page = page(&cluster, other).await;
            if page.samples.get("etcd_server_is_leader") == Some(&1.0) { Ok(page) } else { Err("not yet") }
        })
        .await;
        // Two of three go: nobody leads, and what is asked then fails.
        let third = 3 - leader - other;
        cluster.kill(leader);
        cluster.kill(third);
        let (put, read) = tokio::join!(cluster.client.put(other, "a", "1"), cluster.client.get(other, "a"));
        assert!(put.is_err() && read.is_err(), "{put:?} {read:?}");
        let alone = page(&cluster, other).await;
        let mut names: Vec<&str> = after.kinds.keys().map(String::as_str).collect();
        names.extend(meter::ALL.iter().map(|metric| metric.name));
        names.sort_unstable();
        names.dedup();
        let is_caught = |name: &str| {
            let by_other = [&led, &alone].iter().any(|page| page.moved_since(&before[1], name));
            by_other || after.moved_since(&before[0], name)
        };
        let still: Vec<&&str> = names.iter().filter(|name| !is_caught(name)).collect();
        let known: Vec<&str> = NOT_CAUGHT.iter().map(|(name, _)| *name).collect();
        let unexplained: Vec<_> = still.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unexplained.is_empty(), "these did not move: {unexplained:?}");
        assert!(
            known.iter().all(|name| names.contains(name) || meter::ALL.iter().any(|m| m.name == *name)),
            "{known:?}"
        );
    });
}

#[test]
fn calls_are_counted_by_method_and_code() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start(1).await;
        let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        let before = page(&cluster, 0).await;
        let was = |page: &Page, sample: &str| *page.samples.get(sample).unwrap_or_else(|| panic!("no {sample}"));
        for _ in 0..3 {
            cluster.client.put(0, "key", "value").await.expect("a put");
        }
        cluster.client.put(0, "", "value").await.expect_err("no key");
        let after = page(&cluster, 0).await;
        for (sample, more) in [
            (format!("grpc_server_started_total{{{put}}}"), 4.0),
            (format!("grpc_server_msg_received_total{{{put}}}"), 4.0),
            (format!("grpc_server_msg_sent_total{{{put}}}"), 3.0),
            (format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}}"), 3.0),
            (format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}}"), 1.0),
            ("etcd_mvcc_put_total".to_owned(), 3.0),
        ] {
            assert_eq!(was(&after, &sample) - was(&before, &sample), more, "{sample}");
        }
        // Key and value with their heads, at least; a prefix of five bytes is not a message's.
        let received = "etcd_network_client_grpc_received_bytes_total";
        assert!(was(&after, received) - was(&before, received) >= 3.0 * 12.0);
        assert!(
            !after.samples.keys().any(|sample| sample.starts_with("grpc_server_handling")),
            "basic is not extensive"
        );
    });
}

#[test]
fn metrics_have_urls_of_their_own() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let spec = Spec::new("m0", scratch.path());
        let address = format!("127.0.0.1:{}", crate::ports::free());
        let mut flags = spec.flags(std::slice::from_ref(&spec));
        flags.push(format!("--listen-metrics-urls=http://{address}"));
        let _member = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join("m0.log"));
        let page = until(READY_WITHIN, "metrics", async || http::get(&address, "/metrics").await).await;
        assert_eq!(Page::parse(&page.body).samples.get("etcd_server_has_leader"), Some(&1.0));
        for (path, status) in [("/health", "200"), ("/readyz", "200"), ("/version", "404"), ("/v3/kv/range", "404")] {
            let answer = http::get(&address, path).await.expect("an answer");
            assert!(answer.status.contains(status), "{path}: {answer:?}");
        }
        Client::plain(vec![format!("http://{address}")]).put(0, "a", "1").await.expect_err("no gRPC here");
    });
}
