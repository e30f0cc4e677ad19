//! `/metrics`: what was counted ([`crate::meter`]), and what the member's state is at this moment, under etcd's names.
//!
//! State is read when somebody asks, so nobody pays for it otherwise. Left out: what there is nothing of here (Go's runtime, bbolt's rebalancing, the v2 store,
//! the gRPC proxy). Source: contract-server 13; the format is Prometheus' text format 0.0.4.

use super::front::Front;
use super::tally::CALLS;
use crate::meter;
use crate::meter::print_sample;
use crate::meter::quoted;
use crate::proto::etcdserverpb::AlarmType;
use crate::types::ETCD_VERSION;
use crate::types::MemberId;
use std::fmt::Write as _;

/// Text that grows by one metric after the other.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A metric with these samples; nothing of it if there are none.
    fn add(&mut self, kind: &str, name: &str, help: &str, samples: &[(String, f64)]) {
        if samples.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        samples.iter().for_each(|(labels, value)| print_sample(&mut self.0, name, labels, *value));
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add("gauge", name, help, &[(String::new(), value)]);
    }

    /// A gauge that is always 1 and tells something by its label.
    fn told(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.add("gauge", name, help, &[(format!("{label}={}", quoted(value)), 1.0)]);
    }
}

/// The answer to who asks for metrics, which is counted as well.
pub(super) fn page(front: &Front) -> String {
    meter::SCRAPES_INFLIGHT.add(1);
    let page = render(front);
    meter::SCRAPES_INFLIGHT.sub(1);
    meter::SCRAPES.with(&["200"]).inc();
    page
}

/// All metrics as text.
fn render(front: &Front) -> String {
    let mut page = Page::default();
    raft(front, &mut page);
    store(front, &mut page);
    watchers(front, &mut page);
    network(front, &mut page);
    process(&mut page);
    let mut text = page.0;
    for metric in meter::ALL {
        let mut samples = String::new();
        metric.samples.print(metric.name, "", &mut samples);
        if !samples.is_empty() {
            let (name, help, kind) = (metric.name, metric.help, metric.kind);
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
    }
    CALLS.print(&mut text);
    text
}

fn raft(front: &Front, page: &mut Page) {
    let status = front.node.status();
    let (id, _) = front.node.identity();
    let is = |yes: bool| if yes { 1.0 } else { 0.0 };
    page.gauge("etcd_server_has_leader", "Whether this member knows a leader.", is(!status.leader.is_none()));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", is(status.leader == id));
    page.gauge("etcd_server_is_learner", "Whether this member is a learner.", is(status.is_learner));
    let (committed, applied) = (status.committed.0 as f64, status.applied.0 as f64);
    page.gauge("etcd_server_proposals_committed_total", "The index that is committed.", committed);
    page.gauge("etcd_server_proposals_applied_total", "The index that is applied.", applied);
    let pending = front.node.pending() as f64;
    page.gauge("etcd_server_proposals_pending", "Proposals that wait for their answer.", pending);
    let clock = front.node.clock();
    let slower = if clock.held { 0.0 } else { f64::from(clock.slower) };
    let help = "How many times slower than the world's the lab's clock is, 0 while it is held; not a metric of etcd's.";
    page.gauge("etcd_lab_clock_slower", help, slower);
    page.told("etcd_server_id", "The member's id.", "server_id", &id.to_string());
    page.told("etcd_server_version", "The server's version.", "server_version", ETCD_VERSION);
    let (cluster, alarms) = front.node.read(|machine| (machine.cluster_version().map(str::to_owned), machine.alarms()));
    if let Some(version) = &cluster {
        let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
        page.told("etcd_cluster_version", "The cluster's version.", "cluster_version", short);
    }
    let alarm = |alarm: &crate::proto::etcdserverpb::AlarmMember| {
        let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        (format!("alarm_type=\"{kind}\",server_id=\"{}\"", MemberId(alarm.member_id)), 1.0)
    };
    let alarms: Vec<_> = alarms.iter().map(alarm).collect();
    page.add("gauge", "etcd_debugging_server_alarms", "Alarms that are raised.", &alarms);
    let feature = |(name, stage, on): &(&str, &str, bool)| {
        (format!("name={},stage={}", quoted(name), quoted(stage)), if *on { 1.0 } else { 0.0 })
    };
    let features: Vec<_> = front.limits.features.iter().map(feature).collect();
    page.add("gauge", "etcd_server_feature_enabled", "Whether a feature is on.", &features);
}

fn store(front: &Front, page: &mut Page) {
    let [size, in_use, keys, revision, compacted, auth] = front.node.read(|machine| {
        let store = machine.store();
        let compacted = store.compacted().unwrap_or_default().0;
        let keys = store.keys() as u64;
        [store.size(), store.in_use(), keys, store.revision().0, compacted, machine.auth().revision()]
    });
    let quota = front.limits.quota_told as f64;
    page.gauge("etcd_server_quota_backend_bytes", "Bytes that the store may have.", quota);
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes stored.", size as f64);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes stored and not compacted.", in_use as f64);
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys.", keys as f64);
    page.gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", revision as f64);
    page.gauge("etcd_debugging_mvcc_compact_revision", "The last compaction's revision.", compacted as f64);
    page.gauge("etcd_debugging_auth_revision", "Changes of users and roles.", auth as f64);
}

fn watchers(front: &Front, page: &mut Page) {
    let watches = front.node.watches().counts();
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", watches.streams as f64);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watches.watchers as f64);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that lag.", watches.slow as f64);
    page.gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", watches.pending as f64);
}

/// The links to the other members. etcd names whom it sends to `To` and whom it hears from `From`.
fn network(front: &Front, page: &mut Page) {
    let (id, _) = front.node.identity();
    let links = front.node.peers().map(|peers| peers.all_stats()).unwrap_or_default();
    let of = |label: &str, value: fn(&crate::peer::LinkStats) -> u64| -> Vec<(String, f64)> {
        links.iter().map(|(peer, stats, _)| (format!("{label}=\"{peer}\""), value(stats) as f64)).collect()
    };
    let mut counter = |name: &str, help: &str, samples: &[(String, f64)]| page.add("counter", name, help, samples);
    counter("etcd_network_peer_sent_bytes_total", "Bytes sent to a member.", &of("To", |stats| stats.sent_bytes));
    let received = of("From", |stats| stats.received_bytes);
    counter("etcd_network_peer_received_bytes_total", "Bytes from a member.", &received);
    let failures = of("To", |stats| stats.dropped_out);
    counter("etcd_network_peer_sent_failures_total", "Messages to a member that were lost here.", &failures);
    let failures = of("From", |stats| stats.dropped_in);
    counter("etcd_network_peer_received_failures_total", "Messages from a member that were refused.", &failures);
    let pair = |peer: &MemberId| format!("Local=\"{id}\",Remote=\"{peer}\"");
    let lost: Vec<_> = links.iter().map(|(peer, stats, _)| (pair(peer), stats.disconnects as f64)).collect();
    counter("etcd_network_disconnected_peers_total", "Times that a member was lost.", &lost);
    let active: Vec<_> = links.iter().map(|(peer, _, active)| (pair(peer), if *active { 1.0 } else { 0.0 })).collect();
    page.add("gauge", "etcd_network_active_peers", "Whether there is a connection to a member.", &active);
    let known: Vec<_> = links.iter().map(|(peer, ..)| (pair(peer), 1.0)).collect();
    page.add("gauge", "etcd_network_known_peers", "The members that are known.", &known);
}

/// What the kernel says of this process; nothing where it does not say it in files.
fn process(page: &mut Page) {
    let bytes_of = |pages: &str| pages.parse::<f64>().ok().map(|pages| pages * rustix::param::page_size() as f64);
    if let Ok(text) = std::fs::read_to_string("/proc/self/statm") {
        let mut fields = text.split(' ');
        if let Some(bytes) = fields.next().and_then(bytes_of) {
            page.gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", bytes);
        }
        if let Some(bytes) = fields.next().and_then(bytes_of) {
            page.gauge("process_resident_memory_bytes", "Resident memory in bytes.", bytes);
        }
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    if let Some([user, system, started]) = ticks(&stat) {
        let seconds = (user + system) / per_second;
        page.add("counter", "process_cpu_seconds_total", "CPU time in seconds.", &[(String::new(), seconds)]);
        if let Some(boot) = boot_time() {
            let help = "When the process began, in seconds since 1970.";
            page.gauge("process_start_time_seconds", help, boot + started / per_second);
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let count = files.count() as f64;
        page.gauge("process_open_fds", "Open files.", count);
        page.gauge("os_fd_used", "Open files.", count);
    }
    if let Some([received, sent]) =
        std::fs::read_to_string("/proc/self/net/netstat").ok().and_then(|text| octets(&text))
    {
        let counter = |page: &mut Page, name, help, value| page.add("counter", name, help, &[(String::new(), value)]);
        counter(page, "process_network_receive_bytes_total", "Bytes received in this network namespace.", received);
        counter(page, "process_network_transmit_bytes_total", "Bytes sent in this network namespace.", sent);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current.unwrap_or(u64::MAX);
    page.gauge("process_virtual_memory_max_bytes", "Virtual memory that there may be, in bytes.", limit as f64);
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.gauge("process_max_fds", "Files that may be open.", limit as f64);
        page.gauge("os_fd_limit", "Files that may be open.", limit as f64);
    }
}

/// Bytes received and sent, of `/proc/PID/net/netstat`: a line of names and one of values, each twice.
fn octets(netstat: &str) -> Option<[f64; 2]> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let of = |wanted: &str| names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == wanted)?.1.parse().ok();
    Some([of("InOctets")?, of("OutOctets")?])
}

/// When the kernel began, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// User time, system time and beginning of a line of `/proc/PID/stat`; the name in it may hold blanks and parentheses.
fn ticks(stat: &str) -> Option<[f64; 3]> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse().ok();
    Some([number(11)?, number(12)?, number(19)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_help_type_and_samples() {
        let mut page = Page::default();
        page.add("counter", "a_total", "Counts.", &[(String::new(), 3.0)]);
        page.told("v", "Version.", "server_version", "3.6");
        page.add("gauge", "none", "Nothing.", &[]);
        let want = "# HELP a_total Counts.\n# TYPE a_total counter\na_total 3\n\
            # HELP v Version.\n# TYPE v gauge\nv{server_version=\"3.6\"} 1\n";
        assert_eq!(page.0, want);
    }

    #[test]
    fn octets_stand_under_their_names() {
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 70 30\n";
        assert_eq!(octets(netstat), Some([70.0, 30.0]));
        assert_eq!(octets("IpExt: InOctets\nIpExt: 70\n"), None);
    }

    #[test]
    fn a_process_name_with_blanks_does_not_shift_the_times() {
        let stat = "1 (a ) b) S 0 1 1 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 1 0 555 9";
        assert_eq!(ticks(stat), Some([70.0, 30.0, 555.0]));
    }
}
