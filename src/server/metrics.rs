//! `/metrics`: the little that is measured so far, under etcd's names.
//!
//! Source: contract-server 13; the format is Prometheus' text format 0.0.4.

use super::front::Front;
use crate::types::ETCD_VERSION;

/// One metric with one sample.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    label: Option<(&'static str, String)>,
    value: f64,
}

const fn metric(name: &'static str, kind: &'static str, help: &'static str, value: f64) -> Metric {
    Metric { name, kind, help, label: None, value }
}

/// All metrics as text.
pub(super) fn render(front: &Front) -> String {
    let status = front.node.status();
    let (id, _) = front.node.identity();
    let (size, in_use) = front.node.read(|machine| (machine.store().size(), machine.store().in_use()));
    let watches = front.node.watches().counts();
    let is = |yes: bool| if yes { 1.0 } else { 0.0 };
    let mut metrics = vec![
        metric("etcd_server_has_leader", "gauge", "Whether this member knows a leader.", is(!status.leader.is_none())),
        metric("etcd_server_is_leader", "gauge", "Whether this member leads.", is(status.leader == id)),
        metric("etcd_server_is_learner", "gauge", "Whether this member is a learner.", is(status.is_learner)),
        metric("etcd_server_proposals_committed_total", "gauge", "Index that is committed.", status.committed.0 as f64),
        metric("etcd_server_proposals_applied_total", "gauge", "Index that is applied.", status.applied.0 as f64),
        metric(
            "etcd_server_proposals_pending",
            "gauge",
            "Proposals that wait for their answer.",
            front.node.pending() as f64,
        ),
        metric("etcd_debugging_auth_revision", "gauge", "Changes of users and roles.", front.auth_revision() as f64),
        metric("etcd_mvcc_db_total_size_in_bytes", "gauge", "Bytes stored.", size as f64),
        metric("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", "Bytes stored and not compacted.", in_use as f64),
        metric("etcd_debugging_mvcc_watch_stream_total", "gauge", "Watch streams.", watches.streams as f64),
        metric("etcd_debugging_mvcc_watcher_total", "gauge", "Watchers.", watches.watchers as f64),
        metric("etcd_debugging_mvcc_slow_watcher_total", "gauge", "Watchers that lag.", watches.slow as f64),
        metric(
            "etcd_debugging_mvcc_pending_events_total",
            "gauge",
            "Events that wait to be sent.",
            watches.pending as f64,
        ),
        labelled("etcd_server_id", "The member's id.", ("server_id", id.to_string())),
        labelled("etcd_server_version", "The server's version.", ("server_version", ETCD_VERSION.into())),
    ];
    metrics.extend(process());
    metrics.iter().map(text).collect()
}

fn labelled(name: &'static str, help: &'static str, label: (&'static str, String)) -> Metric {
    Metric { label: Some(label), ..metric(name, "gauge", help, 1.0) }
}

/// What the kernel says of this process; nothing where it does not say it in files.
fn process() -> Vec<Metric> {
    let mut found = Vec::new();
    let page = rustix::param::page_size() as f64;
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    if let Some(pages) = resident.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok()) {
        found.push(metric("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", pages * page));
    }
    if let Some(ticks) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_ticks(&text)) {
        let seconds = ticks / rustix::param::clock_ticks_per_second() as f64;
        found.push(metric("process_cpu_seconds_total", "counter", "CPU time in seconds.", seconds));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        found.push(metric("process_open_fds", "gauge", "Open files.", files.count() as f64));
    }
    found
}

/// User and system time of a line of `/proc/PID/stat`; the name in it may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn text(metric: &Metric) -> String {
    let Metric { name, kind, help, label, value } = metric;
    let label = label.as_ref().map(|(name, value)| format!("{{{name}=\"{value}\"}}")).unwrap_or_default();
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{label} {value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_help_type_and_sample() {
        assert_eq!(
            text(&metric("a_total", "counter", "Counts.", 3.0)),
            "# HELP a_total Counts.\n# TYPE a_total counter\na_total 3\n"
        );
        let version = labelled("v", "Version.", ("server_version", "3.6".into()));
        assert!(text(&version).ends_with("\nv{server_version=\"3.6\"} 1\n"));
    }

    #[test]
    fn a_process_name_with_blanks_does_not_shift_the_times() {
        let stat = "1 (a ) b) S 0 1 1 0 -1 4194560 1 2 3 4 70 30 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(100.0));
    }
}
