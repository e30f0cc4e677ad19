//! A member looked at closely: how long its disk takes, how far its peers are, and what lies in its folder.
//!
//! The first two are histograms of its own `/metrics`; the last is read from the disk, whether it runs or not.

use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The histograms that are shown whole, with the words for them.
pub const HISTOGRAMS: [(&str, &str); 2] =
    [("etcd_disk_wal_fsync_duration_seconds", "log sync"), ("etcd_disk_backend_commit_duration_seconds", "db commit")];
const ROUND_TRIPS: &str = "etcd_network_peer_round_trip_time_seconds";

/// At most so many seconds, and how many of them.
pub type Bucket = (Option<f64>, u64);

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Close {
    /// By histogram: seconds, and how many took at most so long. The last has no bound: all.
    pub histograms: BTreeMap<String, Vec<Bucket>>,
    /// By the id of a peer: milliseconds there and back, the mean since the start.
    pub round_trips: BTreeMap<u64, f64>,
    /// Nothing: its folder is on another machine.
    pub files: Option<Files>,
}

/// What lies in a member's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// `snap/*.snap`.
    pub snapshots: u64,
    /// The log index that stands in the newest one's name; 0: there is none.
    pub newest_index: u64,
    /// `wal/*.wal`.
    pub segments: u64,
    pub segment_bytes: u64,
}

/// Reads what is shown of an answer of `/metrics`.
#[must_use]
pub fn of_metrics(text: &str) -> Close {
    let mut close = Close::default();
    let mut sums: BTreeMap<u64, [f64; 2]> = BTreeMap::new();
    for line in text.lines().map(str::trim_end) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some((name, labels)) = series.split_once('{') else { continue };
        let label = |name: &str| labels.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let histogram = name.strip_suffix("_bucket").filter(|h| HISTOGRAMS.iter().any(|(known, _)| known == h));
        if let (Some(histogram), Some(le), Ok(count)) = (histogram, label("le"), value.parse::<f64>()) {
            let within = le.parse().ok().filter(|seconds: &f64| seconds.is_finite());
            close.histograms.entry(histogram.to_owned()).or_default().push((within, count as u64));
        }
        let part = name.strip_prefix(ROUND_TRIPS).and_then(|end| ["_sum", "_count"].iter().position(|e| *e == end));
        let peer = label("To").and_then(|to| u64::from_str_radix(to, 16).ok());
        if let (Some(part), Some(peer), Ok(value)) = (part, peer, value.parse()) {
            sums.entry(peer).or_default()[part] = value;
        }
    }
    let mean = |(peer, [sum, count]): (u64, [f64; 2])| (count > 0.0).then(|| (peer, sum / count * 1000.0));
    close.round_trips = sums.into_iter().filter_map(mean).collect();
    close
}

/// Counts what lies in a data directory. What cannot be read is not counted.
#[must_use]
pub fn files(data_dir: &Path) -> Files {
    let mut found = Files::default();
    let listed = |folder: &str| std::fs::read_dir(data_dir.join("member").join(folder)).into_iter().flatten().flatten();
    for file in listed("snap") {
        let name = file.file_name().to_string_lossy().into_owned();
        // TERM-INDEX.snap, both in hexadecimal digits.
        let Some((_, index)) = name.strip_suffix(".snap").and_then(|stem| stem.split_once('-')) else { continue };
        found.snapshots += 1;
        found.newest_index = found.newest_index.max(u64::from_str_radix(index, 16).unwrap_or(0));
    }
    for file in listed("wal").filter(|file| file.file_name().to_string_lossy().ends_with(".wal")) {
        found.segments += 1;
        found.segment_bytes += file.metadata().map_or(0, |meta| meta.len());
    }
    found
}

/// The shares of a histogram in its own steps: seconds, and how many were within this step and not within the one before. Empty steps are left out.
#[must_use]
pub fn steps(buckets: &[Bucket]) -> Vec<Bucket> {
    let before = std::iter::once(0).chain(buckets.iter().map(|(_, count)| *count));
    let own = buckets.iter().zip(before).map(|((within, count), before)| (*within, count.saturating_sub(before)));
    own.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_and_taken_apart() {
        let text = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 5\r\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 5\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 7\n\
                    etcd_other_bucket{le=\"0.001\"} 5\n\
                    etcd_network_peer_round_trip_time_seconds_sum{To=\"ff\"} 0.5\n\
                    etcd_network_peer_round_trip_time_seconds_count{To=\"ff\"} 10\n";
        let close = of_metrics(text);
        assert_eq!(close.histograms.len(), 1);
        let buckets = &close.histograms["etcd_disk_wal_fsync_duration_seconds"];
        assert_eq!(steps(buckets), [(Some(0.001), 5), (None, 2)]);
        assert_eq!(close.round_trips, [(255, 50.0)].into());
    }

    #[test]
    fn snapshots_and_segments_are_counted() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(files(dir.path()), Files::default(), "an empty folder");
        for (folder, name, bytes) in [
            ("snap", "0000000000000002-00000000000000ff.snap", 3),
            ("snap", "0000000000000002-0000000000000010.snap", 3),
            ("snap", "db", 9),
            ("wal", "0000000000000000-0000000000000000.wal", 64),
            ("wal", "0.tmp", 64),
        ] {
            let folder = dir.path().join("member").join(folder);
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(folder.join(name), vec![0; bytes]).expect("written");
        }
        let expected = Files { snapshots: 2, newest_index: 255, segments: 1, segment_bytes: 64 };
        assert_eq!(files(dir.path()), expected);
    }
}
