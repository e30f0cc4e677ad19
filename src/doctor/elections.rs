//! Whether leaders change too often, and why: slow disks, slow links, stolen time, a process that stands still. From what members report at
//! `/metrics`, and from this machine.

use super::Cause;
use super::Finding;
use super::machine;
use super::machine::Process;
use crate::client::Client;
use crate::client::Config;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Fewer changes are the start of a cluster and a maintenance.
const CHANGES_MIN: f64 = 3.0;
/// Leaders that last longer than this on average are no trouble.
const SECONDS_PER_LEADER: f64 = 600.0;
/// etcd's default of `--heartbeat-interval`, in seconds.
const HEARTBEAT: f64 = 0.1;
/// So much of the processor's time may be gone.
const STEAL_PERCENT_MAX: u64 = 10;

/// What the members behind these endpoints report at `/metrics`; those that do not are left out.
pub(super) async fn pages(config: &Config) -> Vec<(String, String)> {
    let page = |endpoint: &String| {
        let endpoint = endpoint.clone();
        let client = Client::new(Config { endpoints: vec![endpoint.clone()], user: None, ..config.clone() });
        async move { Some((endpoint, client.fetch("/metrics").await.ok()?)) }
    };
    join_all(config.endpoints.iter().map(page)).await.into_iter().flatten().collect()
}

/// A finding if the members with these pages have changed their leader often.
pub(super) async fn examine(config: &Config, pages: &[(String, String)]) -> Option<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let often = pages.iter().find_map(|(endpoint, page)| {
        let changes = value(page, "etcd_server_leader_changes_seen_total").filter(|changes| *changes >= CHANGES_MIN)?;
        let age = now - value(page, "process_start_time_seconds")?;
        (age / changes < SECONDS_PER_LEADER)
            .then(|| format!("{endpoint} has seen {changes} changes of leader in {age:.0} s"))
    })?;
    Some(reason(pages, &beside(config).await, &often))
}

/// The members of this cluster that run on this machine.
async fn beside(config: &Config) -> Vec<Process> {
    let Ok(members) = Client::new(Config { user: None, ..config.clone() }).members().await else { return Vec::new() };
    let urls: Vec<String> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
    let ours = |process: &Process| {
        let listens = process.flag("advertise-client-urls").unwrap_or_default();
        listens.split(',').any(|url| urls.iter().any(|known| known == url))
    };
    machine::members().into_iter().filter(ours).collect()
}

fn reason(pages: &[(String, String)], beside: &[Process], often: &str) -> Finding {
    let heartbeat = beside.iter().find_map(|process| process.flag("heartbeat-interval")?.parse::<f64>().ok());
    let heartbeat = heartbeat.map_or(HEARTBEAT, |ms| ms / 1000.0);
    let slowest = |name: &str| {
        let times = pages.iter().flat_map(|(endpoint, page)| {
            percentile_99(page, name).into_iter().map(move |seconds| (seconds, endpoint.clone()))
        });
        times.filter(|(seconds, _)| *seconds >= heartbeat).max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let shown = |what: &str, seconds: f64, endpoint: &str| {
        format!(
            "{often}; at {endpoint} one {what} of a hundred takes {:.0} ms or more, and a heartbeat is due each {:.0} ms",
            seconds * 1000.0,
            heartbeat * 1000.0
        )
    };
    if let Some(stopped) = beside.iter().find(|process| process.is_stopped()) {
        let evidence = format!("{often}; {stopped} is stopped (state {})", stopped.state);
        return Finding::new(Cause::Stopped, "elections are frequent, and a member stands still", evidence);
    }
    // Where both are slow, the slower one is what a heartbeat waits for.
    let disk = slowest("etcd_disk_wal_fsync_duration_seconds");
    let network = slowest("etcd_network_peer_round_trip_time_seconds");
    let is_network = |(far, _): &(f64, String)| disk.as_ref().is_none_or(|(seconds, _)| far > seconds);
    if let Some((seconds, endpoint)) = network.filter(is_network) {
        let says = "elections are frequent, and members take long to answer each other";
        return Finding::new(Cause::SlowNetwork, says, shown("round trip", seconds, &endpoint));
    }
    if let Some((seconds, endpoint)) = disk {
        let says = "elections are frequent, and syncing the log takes longer than a heartbeat may be late";
        return Finding::new(Cause::SlowDisk, says, shown("sync", seconds, &endpoint));
    }
    match machine::steal_percent().filter(|percent| *percent >= STEAL_PERCENT_MAX) {
        Some(percent) => {
            let says = "elections are frequent, and other machines on this host take the processor";
            Finding::new(Cause::StolenCpu, says, format!("{often}; {percent} % of the time was stolen"))
        }
        None => Finding::new(
            Cause::Unsteady,
            "elections are frequent; neither disk nor network looks slow from here",
            often,
        ),
    }
}

/// The value of a metric without labels.
pub(super) fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The bounds below which 99 of 100 measurements are, one per set of labels; infinite ones are the largest bound there is.
fn percentile_99(page: &str, name: &str) -> Vec<f64> {
    let mut buckets: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix("_bucket{")) else { continue };
        let Some((labels, count)) = rest.rsplit_once("} ") else { continue };
        let Some((others, bound)) = labels.split_once("le=\"") else { continue };
        let (Ok(bound), Ok(count)) = (bound.trim_end_matches('"').replace("+Inf", "inf").parse(), count.parse()) else {
            continue;
        };
        buckets.entry(others).or_default().push((bound, count));
    }
    let percentile = |counts: Vec<(f64, f64)>| {
        let all = counts.last().map_or(0.0, |(_, count)| *count);
        let largest = counts.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).fold(0.0, f64::max);
        let found = counts.iter().find(|(_, count)| all > 0.0 && *count >= all * 0.99)?;
        Some(if found.0.is_finite() { found.0 } else { largest })
    };
    buckets.into_values().filter_map(percentile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
t_bucket{le=\"0.1\"} 98
t_bucket{le=\"0.2\"} 99
t_bucket{le=\"+Inf\"} 100
r_bucket{To=\"a\",le=\"0.1\"} 1
r_bucket{To=\"a\",le=\"+Inf\"} 100
r_bucket{To=\"b\",le=\"0.1\"} 0
r_bucket{To=\"b\",le=\"+Inf\"} 0
n 4
";

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket_for_each_set_of_labels() {
        assert_eq!(percentile_99(PAGE, "t"), [0.2]);
        assert_eq!(percentile_99(PAGE, "r"), [0.1], "nothing was measured of b; the last bound stands for more");
        assert_eq!(value(PAGE, "n"), Some(4.0));
        assert_eq!(value(PAGE, "m"), None);
    }
}
