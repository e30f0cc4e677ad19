//! `/metrics`: every metric that is declared moves when what it is about happens, and all that etcd's dashboard and alerts ask for is there.

#![expect(clippy::disallowed_methods, reason = "a leader is stopped for a moment")]

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
    ("etcd_lab_clock_slower", "no lab here: doctor looks at it"),
    ("etcd_lab_spans_dropped_total", "no collector here: spans looks at it"),
    ("etcd_mvcc_db_open_read_transactions", "1 for a moment"),
    ("etcd_network_snapshot_send_inflights_total", "1 for a moment"),
    ("etcd_network_snapshot_receive_inflights_total", "1 for a moment"),
    ("etcd_network_snapshot_send_failures", "a snapshot must break on its way: failpoints has some"),
    ("etcd_network_snapshot_receive_failures", "a snapshot must break on its way: failpoints has some"),
    ("promhttp_metric_handler_requests_in_flight", "1 whenever somebody looks"),
    ("etcd_server_feature_enabled", "a setting"),
    ("process_virtual_memory_max_bytes", "a setting"),
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
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4; charset=utf-8"), "{kind}");
    Page::parse(&answer.body)
}

async fn post(cluster: &Cluster, member: usize, path: &str, body: &str) -> String {
    let address = cluster.spec(member).client_url.trim_start_matches("http://").to_owned();
    http::send(&address, "POST", path, body).await.map(|answer| answer.body).unwrap_or_default()
}

/// What happens to the cluster while all three members are there.
async fn live(cluster: &Cluster, leader: usize) {
    let twice = ("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#);
    let keys = [twice, twice, ("/v3/kv/put", r#"{"key":"Yg=="}"#)];
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
        ("/v3/kv/compaction", r#"{"revision":"4","physical":true}"#),
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
    let nonsense = post(cluster, leader, "/v3/watch", "nonsense").await;
    assert!(nonsense.contains("invalid character"), "{nonsense}");
    post(cluster, leader, "/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}"#).await;
    let sick = http::get(&address, "/health").await.expect("an answer");
    assert!(sick.status.contains("503"), "{sick:?}");
}

/// What happens when a member comes that needs a snapshot, and becomes a voter: pages before and after, of the
/// leader, of the newcomer, and of who led with late heartbeats.
async fn newcomer() -> [(Page, Page); 3] {
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=5"];
    let mut cluster = Cluster::start_with(&etcd_bin(), 1, &flags).await;
    let before = page(&cluster, 0).await;
    for n in 0..40 {
        cluster.client.put(0, &format!("k{n}"), "v").await.expect("a put");
    }
    until(READY_WITHIN, "the log is released", async || {
        let page = page(&cluster, 0).await;
        if page.moved_since(&before, "etcd_snap_fsync_duration_seconds") { Ok(()) } else { Err("not yet") }
    })
    .await;
    let (learner, id) = cluster.join(0, "m1", true).await;
    let refused = post(&cluster, 0, "/v3/cluster/member/promote", r#"{"ID":"1"}"#).await;
    assert!(refused.contains("member not found"), "{refused}");
    until(READY_WITHIN, "the learner is promoted", async || {
        let answer = post(&cluster, 0, "/v3/cluster/member/promote", &format!(r#"{{"ID":"{id}"}}"#)).await;
        if answer.contains("members") { Ok(()) } else { Err(answer) }
    })
    .await;
    let pages = [(before, page(&cluster, 0).await), (Page::default(), page(&cluster, learner).await)];
    for (n, name) in [(0, "etcd_network_snapshot_send_success"), (1, "etcd_network_snapshot_receive_success")] {
        assert!(pages[n].1.of(name).any(|(_, value)| *value == 1.0), "{name}");
    }
    let [leader, newcomer] = pages;
    [leader, newcomer, late_heartbeats(&mut cluster).await]
}

/// A leader that is stopped for a moment sends its heartbeats late: its pages before and after. On a busy machine it may lose its place by that, and the next one is
/// stopped.
async fn late_heartbeats(cluster: &mut Cluster) -> (Page, Page) {
    loop {
        let leader = cluster.leader().await;
        let before = page(cluster, leader).await;
        cluster.pause(leader);
        tokio::time::sleep(Duration::from_millis(350)).await;
        cluster.process(leader).signal(rustix::process::Signal::CONT);
        for _ in 0..10 {
            let after = page(cluster, leader).await;
            if after.moved_since(&before, "etcd_server_heartbeat_send_failures_total") {
                return (before, after);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn every_metric_moves_when_what_it_is_about_happens() {
    turn(Duration::from_secs(240), async {
        if !is_ours() {
            return;
        }
        let came = newcomer().await;
        let flags = ["--warning-apply-duration=1ns", "--metrics=extensive", "--snapshot-count=10"];
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
        let pages = [&after, &led, &alone, &came[0].1, &came[1].1];
        let mut names: Vec<&str> = pages.iter().flat_map(|page| page.kinds.keys()).map(String::as_str).collect();
        names.extend(meter::ALL.iter().map(|metric| metric.name));
        names.sort_unstable();
        names.dedup();
        let is_caught = |name: &str| {
            let by_other = [&led, &alone].iter().any(|page| page.moved_since(&before[1], name));
            let by_newcomer = came.iter().any(|(before, after)| after.moved_since(before, name));
            by_other || by_newcomer || after.moved_since(&before[0], name)
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

#[test]
fn variables_for_debugging_have_etcds_names() {
    turn(Duration::from_secs(60), async {
        let names = async |cluster: &Cluster| {
            let address = cluster.spec(0).client_url.trim_start_matches("http://").to_owned();
            let answer = http::get(&address, "/debug/vars").await.expect("an answer");
            assert!(
                answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")),
                "{answer:?}"
            );
            let vars: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            let vars = vars.as_object().expect("an object").clone();
            assert!(vars["cmdline"].as_array().is_some_and(|words| words.iter().any(|word| word == "--data-dir")));
            vars
        };
        let ours = names(&Cluster::start(1).await).await;
        assert!(ours["raft.status"]["raftState"] == "StateLeader" && ours["raft.status"]["term"].as_u64() > Some(0));
        let Some(etcd) = crate::foreign::etcd_351("variables_for_debugging_have_etcds_names") else { return };
        let theirs = names(&Cluster::start_with(&etcd, 1, &[]).await).await;
        let missing: Vec<&String> = theirs.keys().filter(|name| !ours.contains_key(*name)).collect();
        assert_eq!(missing, ["memstats"], "of Go's memory there is nothing to tell");
        assert_eq!(theirs["file_descriptor_limit"], ours["file_descriptor_limit"]);
    });
}

/// `tests/metrics.toml`.
struct Table {
    etcds: Vec<String>,
    absent: BTreeMap<String, String>,
    prefixes: Vec<String>,
}

impl Table {
    fn read() -> Table {
        let table: toml::Table = include_str!("../metrics.toml").parse().expect("TOML");
        let texts = |part: &str| {
            let part = table[part].as_table().expect("a table");
            part.iter().map(|(name, why)| (name.clone(), why.as_str().expect("a reason").to_owned())).collect()
        };
        let names = table["etcd"]["names"].as_array().expect("a list");
        let etcds = names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
        let prefixes: BTreeMap<String, String> = texts("absent-prefixes");
        Table { etcds, absent: texts("absent"), prefixes: prefixes.into_keys().collect() }
    }

    fn explains(&self, name: &str) -> bool {
        self.absent.contains_key(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

#[test]
fn what_etcd_exposes_is_here_or_has_a_reason_not_to_be() {
    let test = "what_etcd_exposes_is_here_or_has_a_reason_not_to_be";
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let ours = Cluster::start_with(&etcd_bin(), 1, &["--metrics=extensive"]).await;
        ours.client.put(0, "a", "1").await.expect("a put");
        let mut kinds = page(&ours, 0).await.kinds;
        kinds.extend(meter::ALL.iter().map(|metric| (metric.name.to_owned(), metric.kind.to_owned())));
        // Told only where there is another member, or an alarm.
        let of_links = ["peer_sent_bytes_total", "peer_received_bytes_total", "peer_sent_failures_total"];
        let more = ["peer_received_failures_total", "disconnected_peers_total"];
        let counters = of_links.iter().chain(&more).map(|name| (format!("etcd_network_{name}"), "counter"));
        let gauges = ["etcd_network_active_peers", "etcd_network_known_peers", "etcd_debugging_server_alarms"];
        for (name, kind) in counters.chain(gauges.map(|name| (name.to_owned(), "gauge"))) {
            kinds.entry(name).or_insert_with(|| kind.to_owned());
        }
        let table = Table::read();
        let missing: Vec<_> =
            table.etcds.iter().filter(|name| !kinds.contains_key(*name) && !table.explains(name)).collect();
        assert!(missing.is_empty(), "neither here nor explained: {missing:?}");
        let stale: Vec<_> = table.absent.keys().filter(|name| kinds.contains_key(*name)).collect();
        assert!(stale.is_empty(), "explained, and here all the same: {stale:?}");
        drop(ours);
        for etcd in crate::foreign::etcd_351(test).into_iter().chain(crate::foreign::etcd_newer(test)) {
            let theirs = Cluster::start_with(&etcd, 1, &["--metrics=extensive"]).await;
            theirs.client.put(0, "a", "1").await.expect("a put");
            let theirs = page(&theirs, 0).await.kinds;
            let missing: Vec<_> =
                theirs.keys().filter(|name| !kinds.contains_key(*name) && !table.explains(name)).collect();
            assert!(missing.is_empty(), "{}: neither here nor explained: {missing:?}", etcd.display());
            let others: Vec<_> =
                theirs.iter().filter(|(name, kind)| kinds.get(*name).is_some_and(|ours| ours != *kind)).collect();
            assert!(others.is_empty(), "{}: of another type here: {others:?}", etcd.display());
        }
    });
}
