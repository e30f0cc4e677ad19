//! What is counted and timed while the member works, under etcd's metric names.
//!
//! ```text
//! node, wal, mvcc ...  ── WAL_FSYNC.observe(0.0003) ──▶  relaxed atomics  ──▶  server/metrics.rs prints them for Prometheus
//! ```
//!
//! All are statics: one process is one member, and whoever measures needs no handle. To count costs a relaxed addition, to observe a search among at most 24
//! bounds; only what has labels that are made up at run time (members) takes a lock, and is not on the way of a request. Nothing reads these values but
//! `/metrics`, so they cannot change what the member does. Gauges that tell the state (revision, sizes, leader) are not here: the state is asked when somebody looks.
//!
//! Source of names, types and buckets: etcd's `metrics.go` files; contract-server 13.

mod bounds;
mod grpc;
mod versions;

pub use grpc::Call;
pub use grpc::Calls;
pub use grpc::EXTENSIVE;
pub use versions::Versions;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[must_use]
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Becomes what it was told last.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Takes back what was added.
    pub fn sub(&self, by: u64) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts values by their size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// The last is for what is above all bounds.
    counts: [AtomicU64; bounds::MAX + 1],
    /// The bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    const fn new(bounds: &'static [f64]) -> Histogram {
        assert!(bounds.len() <= bounds::MAX, "room for each bound");
        Histogram { bounds, counts: [const { AtomicU64::new(0) }; bounds::MAX + 1], sum: AtomicU64::new(0) }
    }

    /// Counts a time in seconds.
    pub fn time(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }

    /// Counts a value, in the unit of the bounds.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never refuses.
        let _added = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// One metric for each value of its labels, which are made up at run time: members. They are few, and stay.
#[derive(Debug)]
pub struct Family<M> {
    labels: &'static [&'static str],
    make: fn() -> M,
    all: Mutex<BTreeMap<Vec<String>, Arc<M>>>,
}

impl<M> Family<M> {
    const fn new(labels: &'static [&'static str], make: fn() -> M) -> Family<M> {
        Family { labels, make, all: parking_lot::const_mutex(BTreeMap::new()) }
    }

    /// The one with these values. Keep it rather than ask again.
    pub fn with(&self, values: &[&str]) -> Arc<M> {
        let key = values.iter().map(|value| (*value).to_owned()).collect();
        Arc::clone(self.all.lock().entry(key).or_insert_with(|| Arc::new((self.make)())))
    }
}

/// What `/metrics` prints of a metric.
pub trait Samples: Sync {
    /// Appends its lines. `labels` is empty, or `{a="b"}` without its braces.
    fn print(&self, name: &str, labels: &str, out: &mut String);
    /// The sum of all that was counted: what a test sees move.
    fn moved(&self) -> f64;
}

impl Samples for Counter {
    fn print(&self, name: &str, labels: &str, out: &mut String) {
        print_sample(out, name, labels, self.get() as f64);
    }

    fn moved(&self) -> f64 {
        self.get() as f64
    }
}

impl Samples for Histogram {
    fn print(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        let all = self.bounds.iter().map(|bound| go_float(*bound)).chain(std::iter::once("+Inf".to_owned()));
        for (bound, count) in all.zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            print_sample(out, &format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), total as f64);
        }
        print_sample(out, &format!("{name}_sum"), labels, f64::from_bits(self.sum.load(Ordering::Relaxed)));
        print_sample(out, &format!("{name}_count"), labels, total as f64);
    }

    fn moved(&self) -> f64 {
        self.count() as f64
    }
}

impl<M: Samples + Send> Samples for Family<M> {
    fn print(&self, name: &str, _: &str, out: &mut String) {
        for (values, metric) in &*self.all.lock() {
            let pairs = self.labels.iter().zip(values);
            let labels: Vec<String> = pairs.map(|(label, value)| format!("{label}={}", quoted(value))).collect();
            metric.print(name, &labels.join(","), out);
        }
    }

    fn moved(&self) -> f64 {
        self.all.lock().values().map(|metric| metric.moved()).sum()
    }
}

/// Appends one line of Prometheus' text format.
pub fn print_sample(out: &mut String, name: &str, labels: &str, value: f64) {
    // Writing to a String cannot fail.
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// A bound as Go prints it: it is a label, and a cluster may be mixed.
fn go_float(value: f64) -> String {
    if value < 1e6 {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}e+{power:0>2}")
}

/// A label's value, in quotes.
#[must_use]
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A metric as it is declared.
pub struct Metric {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`: etcd's word, also where it is not what one would expect.
    pub kind: &'static str,
    pub help: &'static str,
    pub samples: &'static dyn Samples,
}

/// Declares statics and the table of them all.
macro_rules! metrics {
    ($($kind:ident $id:ident $name:literal $type:ty = $new:expr; $help:literal)*) => {
        $(#[doc = $help] pub static $id: $type = $new;)*
        /// All metrics that are counted as things happen.
        pub static ALL: &[Metric] = &[$(Metric { name: $name, kind: stringify!($kind), help: $help, samples: &$id }),*];
    };
}

const fn counter() -> Counter {
    Counter::new()
}

const fn times() -> Histogram {
    Histogram::new(&bounds::MS_TO_8S)
}

#[rustfmt::skip]
metrics! {
    histogram WAL_FSYNC "etcd_disk_wal_fsync_duration_seconds" Histogram = times(); "How long a sync of the write-ahead log took."
    histogram WAL_WRITE "etcd_disk_wal_write_duration_seconds" Histogram = times(); "How long a write to the write-ahead log took."
    gauge WAL_BYTES "etcd_disk_wal_write_bytes_total" Counter = counter(); "Bytes written to the write-ahead log."
    histogram BACKEND_COMMIT "etcd_disk_backend_commit_duration_seconds" Histogram = times(); "How long the store took to write a batch."
    histogram BACKEND_DEFRAG "etcd_disk_backend_defrag_duration_seconds" Histogram = Histogram::new(&bounds::DEFRAG); "How long a defragmentation took."
    gauge DEFRAG_INFLIGHT "etcd_disk_defrag_inflight" Counter = counter(); "Whether a defragmentation is under way."
    histogram BACKEND_SNAPSHOT "etcd_disk_backend_snapshot_duration_seconds" Histogram = Histogram::new(&bounds::SNAPSHOT); "How long it took to make an image of the store."
    histogram HASH "etcd_mvcc_hash_duration_seconds" Histogram = Histogram::new(&bounds::HASH); "How long it took to hash the whole store."
    histogram HASH_REV "etcd_mvcc_hash_rev_duration_seconds" Histogram = Histogram::new(&bounds::HASH); "How long it took to hash the history up to a revision."
    counter PUTS "etcd_mvcc_put_total" Counter = counter(); "Puts that this member has applied."
    counter DELETES "etcd_mvcc_delete_total" Counter = counter(); "Deletions that this member has applied."
    counter RANGES "etcd_mvcc_range_total" Counter = counter(); "Ranges that this member has answered."
    counter TXNS "etcd_mvcc_txn_total" Counter = counter(); "Transactions that this member has applied."
    counter EVENTS "etcd_debugging_mvcc_events_total" Counter = counter(); "Changes of keys that this member has told its watch hub."
    histogram COMPACTION_TOTAL "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" Histogram = Histogram::new(&bounds::COMPACTION_TOTAL); "How long a compaction took in all, in milliseconds."
    histogram COMPACTION_PAUSE "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" Histogram = Histogram::new(&bounds::COMPACTION_PAUSE); "How long one step of a compaction held up applying, in milliseconds."
    counter LEASES_GRANTED "etcd_debugging_lease_granted_total" Counter = counter(); "Leases granted."
    counter LEASES_REVOKED "etcd_debugging_lease_revoked_total" Counter = counter(); "Leases revoked."
    counter LEASES_RENEWED "etcd_debugging_lease_renewed_total" Counter = counter(); "Leases that this member has renewed as the leader."
    histogram LEASE_TTLS "etcd_debugging_lease_ttl_total" Histogram = Histogram::new(&bounds::TTL); "Seconds for which leases were granted."
    counter LEASES_EXPIRED "etcd_debugging_server_lease_expired_total" Counter = counter(); "Leases that this member has found expired as the leader."
    counter LEADER_CHANGES "etcd_server_leader_changes_seen_total" Counter = counter(); "Changes of the leader that this member has seen."
    counter PROPOSALS_FAILED "etcd_server_proposals_failed_total" Counter = counter(); "Proposals without an answer: no leader, no time, no room."
    counter READ_INDEXES_FAILED "etcd_server_read_indexes_failed_total" Counter = counter(); "Linearizable reads that no quorum confirmed in time."
    counter SLOW_APPLIES "etcd_server_slow_apply_total" Counter = counter(); "Runs of entries that took longer to apply than --warning-apply-duration."
    histogram APPLY "etcd_server_apply_duration_seconds" Family<Histogram> = Family::new(&["version", "op", "success"], || Histogram::new(&bounds::APPLY)); "How long an entry took to apply."
    histogram RANGE_TIMES "etcd_server_range_duration_seconds" Family<Histogram> = Family::new(&["success"], || Histogram::new(&bounds::APPLY)); "How long a range took to carry out."
    histogram COMMIT_WRITE "etcd_debugging_disk_backend_commit_write_duration_seconds" Histogram = times(); "How long the store took to write a batch: all there is of a commit here."
    counter COMPACTED_KEYS "etcd_debugging_mvcc_db_compaction_keys_total" Counter = counter(); "Versions of keys that compactions have removed."
    gauge COMPACTION_LAST "etcd_debugging_mvcc_db_compaction_last" Counter = counter(); "When the last compaction was finished, in seconds since 1970; 0 if there was none."
    gauge PUT_BYTES "etcd_debugging_mvcc_total_put_size_in_bytes" Counter = counter(); "Bytes of keys and values that this member has put."
    gauge OPEN_READS "etcd_mvcc_db_open_read_transactions" Counter = counter(); "Images of the store that are being made: what holds back the removal of history."
    histogram SNAP_MARSHAL "etcd_debugging_snap_save_marshalling_duration_seconds" Histogram = times(); "How long it took to put the note of a snapshot into its form."
    histogram SNAP_SAVE "etcd_debugging_snap_save_total_duration_seconds" Histogram = times(); "How long it took to keep the note of a snapshot, in all."
    histogram SNAP_FSYNC "etcd_snap_fsync_duration_seconds" Histogram = times(); "How long a sync of the note of a snapshot took."
    histogram SNAP_DB_FSYNC "etcd_snap_db_fsync_duration_seconds" Histogram = times(); "How long it took to make a leader's snapshot durable."
    histogram SNAP_DB_SAVE "etcd_snap_db_save_total_duration_seconds" Histogram = Histogram::new(&bounds::LONG); "How long it took to receive, check and keep a leader's snapshot."
    counter HEARTBEATS_LATE "etcd_server_heartbeat_send_failures_total" Counter = counter(); "Heartbeats that this member sent late as the leader: its disk or its processor is overloaded."
    counter SLOW_READS "etcd_server_slow_read_indexes_total" Counter = counter(); "Linearizable reads that waited long for the leader or for applying."
    counter PROMOTED "etcd_server_learner_promote_successes" Counter = counter(); "Learners that this member has made voters as the leader."
    counter PROMOTE_FAILURES "etcd_server_learner_promote_failures" Family<Counter> = Family::new(&["Reason"], Counter::new); "Learners that this member has not made voters as the leader, by reason."
    counter STREAM_FAILURES "etcd_network_server_stream_failures_total" Family<Counter> = Family::new(&["Type", "API"], Counter::new); "Streams of clients that broke."
    counter SNAPSHOTS_SENT "etcd_network_snapshot_send_success" Family<Counter> = Family::new(&["To"], Counter::new); "Snapshots sent to another member."
    counter SNAPSHOTS_NOT_SENT "etcd_network_snapshot_send_failures" Family<Counter> = Family::new(&["To"], Counter::new); "Snapshots that could not be sent to another member."
    gauge SNAPSHOTS_SENDING "etcd_network_snapshot_send_inflights_total" Family<Counter> = Family::new(&["To"], Counter::new); "Snapshots on their way to another member."
    histogram SNAPSHOT_SEND "etcd_network_snapshot_send_total_duration_seconds" Family<Histogram> = Family::new(&["To"], || Histogram::new(&bounds::LONG)); "How long it took to send a snapshot to another member."
    counter SNAPSHOTS_RECEIVED "etcd_network_snapshot_receive_success" Family<Counter> = Family::new(&["From"], Counter::new); "Snapshots received from another member."
    counter SNAPSHOTS_NOT_RECEIVED "etcd_network_snapshot_receive_failures" Family<Counter> = Family::new(&["From"], Counter::new); "Snapshots of another member that could not be received."
    gauge SNAPSHOTS_RECEIVING "etcd_network_snapshot_receive_inflights_total" Family<Counter> = Family::new(&["From"], Counter::new); "Snapshots on their way from another member."
    histogram SNAPSHOT_RECEIVE "etcd_network_snapshot_receive_total_duration_seconds" Family<Histogram> = Family::new(&["From"], || Histogram::new(&bounds::LONG)); "How long it took to receive a snapshot from another member."
    counter SCRAPES "promhttp_metric_handler_requests_total" Family<Counter> = Family::new(&["code"], Counter::new); "Answers to who asked for metrics."
    gauge SCRAPES_INFLIGHT "promhttp_metric_handler_requests_in_flight" Counter = counter(); "Answers to who asks for metrics that are being made."
    gauge SNAPSHOT_APPLYING "etcd_server_snapshot_apply_in_progress_total" Counter = counter(); "Whether this member is installing a leader's snapshot."
    counter HEALTH_SUCCESS "etcd_server_health_success" Counter = counter(); "Answers of /health that were good."
    counter HEALTH_FAILURES "etcd_server_health_failures" Counter = counter(); "Answers of /health that were not."
    gauge HEALTHCHECK "etcd_server_healthcheck" Family<Counter> = Family::new(&["type", "name"], Counter::new); "The last result of each check of /livez and /readyz."
    counter HEALTHCHECKS "etcd_server_healthchecks_total" Family<Counter> = Family::new(&["type", "name", "status"], Counter::new); "Results of the checks of /livez and /readyz."
    histogram PEER_RTT "etcd_network_peer_round_trip_time_seconds" Family<Histogram> = Family::new(&["To"], || Histogram::new(&bounds::RTT)); "How long another member took to answer a probe."
    counter CLIENT_RECEIVED "etcd_network_client_grpc_received_bytes_total" Counter = counter(); "Bytes of messages from gRPC clients."
    counter CLIENT_SENT "etcd_network_client_grpc_sent_bytes_total" Counter = counter(); "Bytes of messages to gRPC clients."
    counter CLIENT_REQUESTS "etcd_server_client_requests_total" Versions = Versions::new(); "Requests by what the client says of its version."
    counter HANDSHAKES_FAILED "etcd_lab_tls_handshakes_failed_total" Family<Counter> = Family::new(&["listener", "reason"], Counter::new); "TLS handshakes that failed, by reason; not a metric of etcd's."
    counter SPANS_DROPPED "etcd_lab_spans_dropped_total" Counter = counter(); "Spans of requests that were dropped because their collector was too slow or away; not a metric of etcd's."
    counter LOG_DROPPED "etcd_lab_log_lines_dropped_total" Counter = counter(); "Log lines that were dropped because their reader was too slow; not a metric of etcd's."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        static H: Histogram = Histogram::new(&[0.5, 1.0]);
        for value in [0.5, 0.6, 7.0] {
            H.observe(value);
        }
        let mut out = String::new();
        H.print("h", "a=\"b\"", &mut out);
        let want = "h_bucket{a=\"b\",le=\"0.5\"} 1\nh_bucket{a=\"b\",le=\"1\"} 2\nh_bucket{a=\"b\",le=\"+Inf\"} 3\n\
            h_sum{a=\"b\"} 8.1\nh_count{a=\"b\"} 3\n";
        assert_eq!(out, want);
    }

    #[test]
    fn a_family_has_one_metric_for_each_value() {
        static F: Family<Counter> = Family::new(&["To"], Counter::new);
        F.with(&["b"]).inc();
        F.with(&["a\"\n"]).add(2);
        F.with(&["b"]).inc();
        let mut out = String::new();
        F.print("f", "", &mut out);
        assert_eq!(out, "f{To=\"a\\\"\\n\"} 2\nf{To=\"b\"} 2\n");
        assert_eq!(F.moved(), 4.0);
    }

    #[test]
    fn bounds_are_etcds() {
        assert_eq!(bounds::MS_TO_8S[..3], [0.001, 0.002, 0.004]);
        assert_eq!((bounds::MS_TO_8S.len(), bounds::MS_TO_8S[13]), (14, 8.192));
        assert_eq!(go_float(bounds::TTL[20]), "1.048576e+06");
        assert_eq!((bounds::RTT.len(), bounds::RTT[1]), (16, 0.0002));
    }

    #[test]
    fn names_are_declared_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
