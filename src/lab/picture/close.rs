//! One member looked at closely, in lines: its certificate and whoever has signed it, its files, its peers, and how long its disk takes.

use super::MemberView;
use super::Picture;
use crate::lab::close::Bucket;
use crate::lab::close::Close;
use crate::lab::close::HISTOGRAMS;
use crate::lab::close::steps;
use crate::lab::papers::Papers;

/// Columns of a full bar.
const BAR: u64 = 20;
/// Steps of a histogram that are told apart; what is beyond them is one line.
const STEPS: usize = 6;

impl Picture {
    /// What is known of this member beyond the table, the most urgent first.
    #[must_use]
    pub fn close_lines(&self, member: usize) -> Vec<String> {
        let Some(m) = self.members.get(member) else { return Vec::new() };
        let mut lines = match &m.papers {
            None if m.is_started => {
                vec!["certificates: none: peers speak plain HTTP (etcd-lab --tls has them speak TLS)".into()]
            }
            None => vec!["certificates: not known".into()],
            Some(papers) => chain(papers),
        };
        lines.extend(m.said.iter().map(|line| format!("its log says: {line}")));
        let Some(close) = &m.close else {
            lines.push("its metrics and its files: nothing is known yet".into());
            return lines;
        };
        lines.extend([files(close), self.round_trips(m, close)]);
        for (histogram, title) in HISTOGRAMS {
            let buckets = close.histograms.get(histogram).map_or(&[][..], Vec::as_slice);
            lines.extend(bars(title, buckets));
        }
        lines
    }

    fn round_trips(&self, m: &MemberView, close: &Close) -> String {
        let far = |(peer, ms): (&u64, &f64)| format!("{} {ms:.1} ms", self.name(*peer));
        let others = close.round_trips.iter().filter(|(peer, _)| Some(**peer) != m.id);
        match others.map(far).collect::<Vec<_>>() {
            far if far.is_empty() => "peers, there and back: not measured yet".into(),
            far => format!("peers, there and back: {} (the mean since its start)", far.join(", ")),
        }
    }
}

/// The authority, the link, and the certificate; what is wrong under it.
fn chain(papers: &Papers) -> Vec<String> {
    let link = if papers.faults.is_empty() { "──▶" } else { "──✗" };
    let usages = if papers.usages.is_empty() { "anything".to_owned() } else { papers.usages.join(", ") };
    let mut lines = vec![
        format!(
            "certificates: {} {link} {}, from {} until {}",
            papers.authority, papers.subject, papers.from, papers.until
        ),
        format!("  signed by {}; it is for {}; good for {usages}", papers.issuer, papers.names.join(", ")),
    ];
    lines.extend(papers.faults.iter().map(|fault| format!("  BROKEN: {fault}")));
    lines
}

fn files(close: &Close) -> String {
    let Some(files) = &close.files else { return "files: not here, but on the member's machine".into() };
    let newest = match files.snapshots {
        0 => "no snapshot yet".to_owned(),
        n => format!("{n} snapshot{}, the newest of entry {}", plural(n), files.newest_index),
    };
    let mib = files.segment_bytes as f64 / 1_048_576.0;
    format!("files: {newest}; log in {} segment{}, {mib:.1} MiB", files.segments, plural(files.segments))
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A histogram as bars, each a share of the whole.
fn bars(title: &str, buckets: &[Bucket]) -> Vec<String> {
    let all = buckets.last().map_or(0, |(_, count)| *count);
    if all == 0 {
        return vec![format!("{title}: none yet")];
    }
    let mut shown = steps(buckets);
    let rest: u64 = shown.drain(STEPS.min(shown.len())..).map(|(_, count)| count).sum();
    shown.extend((rest > 0).then_some((None, rest)));
    let mut lines = vec![format!("{title}, {all} of them, by how long each took:")];
    for (within, count) in shown {
        let limit = within.map_or("longer".into(), |seconds| format!("≤ {} ms", seconds * 1000.0));
        let bar = "█".repeat(usize::try_from((count * BAR).div_ceil(all)).unwrap_or(0));
        lines.push(format!("  {limit:>10} {bar:<20} {:>5.1} %", count as f64 * 100.0 / all as f64));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let lines = bars("log sync", &[(Some(0.001), 3), (Some(0.002), 4), (None, 4)]);
        assert_eq!(lines[0], "log sync, 4 of them, by how long each took:");
        assert_eq!(lines[1], format!("      ≤ 1 ms {:<20}  75.0 %", "█".repeat(15)));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(bars("log sync", &[(None, 0)]), ["log sync: none yet"]);
    }

    #[test]
    fn a_broken_link_is_marked_and_its_fault_named() {
        let papers = Papers { authority: "CN=a".into(), subject: "CN=n1".into(), ..Papers::default() };
        assert!(chain(&papers)[0].contains("CN=a ──▶ CN=n1"));
        let broken = Papers { faults: vec!["it has expired".into()], ..papers };
        let lines = chain(&broken);
        assert!(lines[0].contains("CN=a ──✗ CN=n1") && lines[2] == "  BROKEN: it has expired", "{lines:?}");
    }
}
