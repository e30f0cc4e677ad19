//! A real Prometheus scrapes three members, and what etcd's alerts compute from it is there: no series is missing.
//!
//! `PROMETHEUS` names the program (Debian's package `prometheus`). The expressions are the left sides of the alerts in etcd's `contrib/mixin`, whose
//! thresholds are none of this test's business.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// What must have a value, and of how many members.
const EXPRESSIONS: &[(&str, usize)] = &[
    ("up{job=\"etcd\"}", 3),
    ("sum by (job) (up{job=~\".*etcd.*\"})", 1),
    ("etcd_server_has_leader{job=~\".*etcd.*\"}", 3),
    ("increase(etcd_server_leader_changes_seen_total{job=~\".*etcd.*\"}[15m])", 3),
    (
        "sum(rate(grpc_server_handled_total{grpc_code=~\"Unknown|Unavailable|Internal\"}[5m])) without (grpc_type, grpc_code) / sum(rate(grpc_server_handled_total[5m])) without (grpc_type, grpc_code)",
        3,
    ),
    (
        "histogram_quantile(0.99, sum(rate(grpc_server_handling_seconds_bucket{grpc_method!=\"Defragment\",grpc_type=\"unary\"}[5m])) without (grpc_type))",
        3,
    ),
    ("histogram_quantile(0.99, rate(etcd_network_peer_round_trip_time_seconds_bucket[5m]))", 6),
    ("rate(etcd_network_peer_sent_failures_total[5m])", 6),
    ("rate(etcd_server_proposals_failed_total[15m])", 3),
    ("histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket[5m]))", 3),
    ("histogram_quantile(0.99, rate(etcd_disk_backend_commit_duration_seconds_bucket[5m]))", 3),
    ("last_over_time(etcd_mvcc_db_total_size_in_bytes[5m]) / last_over_time(etcd_server_quota_backend_bytes[5m])", 3),
    ("predict_linear(etcd_mvcc_db_total_size_in_bytes[4h], 4*60*60) / etcd_server_quota_backend_bytes", 3),
    (
        "last_over_time(etcd_mvcc_db_total_size_in_use_in_bytes[5m]) / last_over_time(etcd_mvcc_db_total_size_in_bytes[5m])",
        3,
    ),
    // Panels of the dashboard that no alert has.
    (
        "sum(grpc_server_started_total{grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}) - sum(grpc_server_handled_total{grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"})",
        1,
    ),
    ("rate(etcd_network_client_grpc_received_bytes_total[5m])", 3),
    ("rate(etcd_network_client_grpc_sent_bytes_total[5m])", 3),
    ("sum(rate(etcd_network_peer_received_bytes_total[5m])) by (instance)", 3),
    ("sum(rate(etcd_network_peer_sent_bytes_total[5m])) by (instance)", 3),
    ("process_resident_memory_bytes", 3),
];

/// Everything but letters and digits as `%XX`.
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

async fn count(prometheus: &str, expression: &str) -> Result<usize, String> {
    let path = format!("/api/v1/query?query={}", encoded(expression));
    let answer = http::get(prometheus, &path).await.map_err(|e| e.to_string())?;
    let json: Value = serde_json::from_str(&answer.body).map_err(|e| format!("{e}: {}", answer.body))?;
    let results = json["data"]["result"].as_array().ok_or_else(|| answer.body.clone())?;
    Ok(results.len())
}

#[test]
fn prometheus_finds_every_series_that_etcds_alerts_ask_for() {
    turn(Duration::from_secs(120), async {
        let test = "prometheus_finds_every_series_that_etcds_alerts_ask_for";
        let Some(program) = std::env::var_os("PROMETHEUS").map(PathBuf::from).filter(|path| path.is_file()) else {
            return foreign::not_possible(test, "no PROMETHEUS");
        };
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start_with(&etcd_bin(), 3, &["--metrics=extensive"]).await;
        let targets: Vec<String> =
            cluster.endpoints().split(',').map(|url| format!("'{}'", url.trim_start_matches("http://"))).collect();
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: etcd\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        let file = cluster.dir().join("prometheus.yml");
        std::fs::write(&file, config).expect("written");
        let address = format!("127.0.0.1:{}", ports::free());
        let flags = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", cluster.dir().join("tsdb").display()),
            format!("--web.listen-address={address}"),
        ];
        let _prometheus = Process::start(&program, &flags, &[], &cluster.dir().join("prometheus.log"));
        for (expression, wanted) in EXPRESSIONS {
            until(READY_WITHIN, expression, async || {
                for member in 0..3 {
                    cluster.client.put(member, "key", "value").await.map_err(|e| e.to_string())?;
                }
                match count(&address, expression).await? {
                    found if found >= *wanted => Ok(()),
                    found => Err(format!("{found} series, not {wanted}")),
                }
            })
            .await;
        }
    });
}
