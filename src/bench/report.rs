//! What the bench prints: a line for each run, then medians and ratios; and the same as JSON.

use super::load::Outcome;
use super::options::Options;
use super::workload::Workload;
use serde_json::Value;
use std::io;
use std::io::Write;

/// One run and where it was made.
pub(super) struct Run {
    pub(super) workload: Workload,
    /// `ours`, `theirs` (`theirs-2`, …), or `server` for one that ran already.
    pub(super) label: String,
    /// What the server says that it is.
    pub(super) version: String,
    pub(super) round: u32,
    pub(super) nodes: usize,
    pub(super) outcome: Outcome,
}

/// The figures of a run, in the order of the columns. CPU and memory may be unknown.
type Figures = [Option<f64>; 5];

const COLUMNS: &str = "workload           round  server    version       ops/s    p50 ms    p99 ms  CPU µs/op  peak MB";

/// What is measured, and the head of the table.
pub(super) fn heading(out: &mut dyn Write, options: &Options, programs: &[String]) -> io::Result<()> {
    for program in programs {
        writeln!(out, "{program}")?;
    }
    if !programs.is_empty() {
        writeln!(out, "data directories in {}", options.dir.display())?;
    }
    let members = options.endpoints.as_ref().map_or(options.nodes, Vec::len);
    let plural = if members == 1 { "" } else { "s" };
    let loop_text = match options.rate {
        Some(rate) => format!("open loop at {rate}/s, latency from the due time"),
        None => "closed loop".to_owned(),
    };
    let seconds = options.seconds.as_secs_f64();
    writeln!(out, "{members} member{plural}, {seconds} s a run, {loop_text}, keys 8 B, values 256 B\n\n{COLUMNS}")
}

impl Run {
    /// The row of this run.
    pub(super) fn line(&self) -> String {
        let figures = figures(&self.outcome);
        let row = row(&self.workload.to_string(), &self.round.to_string(), &self.label, &self.version, figures);
        let Outcome { errors, first_error, .. } = &self.outcome;
        match first_error {
            Some(text) => format!("{row}\n  {errors} errors, the first: {text}"),
            None => row,
        }
    }

    /// The row as an object, with what the row leaves out.
    pub(super) fn json(&self) -> Value {
        let mut line = json(&self.workload, &self.outcome);
        line["server"] = self.label.as_str().into();
        line["version"] = self.version.as_str().into();
        line["round"] = self.round.into();
        line["nodes"] = self.nodes.into();
        line
    }
}

fn figures(outcome: &Outcome) -> Figures {
    let Outcome { latencies, seconds, cpu, peak_rss, .. } = outcome;
    let operations = latencies.count() as f64;
    let milliseconds = |part: f64| Some(latencies.quantile(part) as f64 / 1e6).filter(|_| operations > 0.0);
    [
        Some(operations / seconds.as_secs_f64()),
        milliseconds(0.5),
        milliseconds(0.99),
        cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / operations).filter(|_| operations > 0.0),
        peak_rss.map(|bytes| bytes as f64 / 1e6),
    ]
}

/// What came out of a load, by name.
pub(super) fn json(workload: &Workload, outcome: &Outcome) -> Value {
    let [operations_per_second, p50, p99, cpu, peak] = figures(outcome);
    let latencies = &outcome.latencies;
    serde_json::json!({
        "workload": workload.to_string(),
        "connections": workload.connections,
        "in_flight": workload.in_flight,
        "rate": outcome.rate,
        "seconds": outcome.seconds.as_secs_f64(),
        "operations": latencies.count(),
        "compactions": outcome.compactions,
        "errors": outcome.errors,
        "first_error": outcome.first_error,
        "operations_per_second": operations_per_second,
        "p50_ms": p50,
        "p90_ms": latencies.quantile(0.9) as f64 / 1e6,
        "p99_ms": p99,
        "p999_ms": latencies.quantile(0.999) as f64 / 1e6,
        "max_ms": latencies.max() as f64 / 1e6,
        "server_cpu_us_per_operation": cpu,
        "server_peak_rss_mb": peak,
    })
}

fn row(workload: &str, round: &str, server: &str, version: &str, figures: Figures) -> String {
    let [operations, p50, p99, cpu, peak] = figures;
    let number = |figure: Option<f64>, decimals| figure.map_or("-".to_owned(), |n| format!("{n:.decimals$}"));
    let (operations, cpu, peak) = (number(operations, 0), number(cpu, 1), number(peak, 0));
    let (p50, p99) = (number(p50, 2), number(p99, 2));
    format!(
        "{workload:<18} {round:>5}  {server:<8}  {version:<8} {operations:>10} {p50:>9} {p99:>9} {cpu:>10} {peak:>8}"
    )
}

/// All runs so far.
#[derive(Default)]
pub(super) struct Report {
    runs: Vec<Run>,
}

impl Report {
    pub(super) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Medians of each workload and server, and ours divided by theirs.
    pub(super) fn summary(&self, out: &mut dyn Write) -> io::Result<()> {
        let rounds = self.runs.iter().map(|run| run.round).max().unwrap_or(0);
        let compares = self.runs.iter().any(|run| is_theirs(&run.label));
        if rounds < 2 && !compares {
            return Ok(());
        }
        writeln!(out, "\nmedian of {rounds}{}", if compares { "; ratio = ours / the best of theirs" } else { "" })?;
        writeln!(out, "{COLUMNS}")?;
        let mut workloads: Vec<&Workload> = Vec::new();
        for run in &self.runs {
            if !workloads.contains(&&run.workload) {
                workloads.push(&run.workload);
            }
        }
        for workload in workloads {
            self.summary_of(workload, out)?;
        }
        Ok(())
    }

    fn summary_of(&self, workload: &Workload, out: &mut dyn Write) -> io::Result<()> {
        let name = workload.to_string();
        let mut medians_of: Vec<(&str, Figures)> = Vec::new();
        for run in self.runs.iter().filter(|run| run.workload == *workload) {
            if medians_of.iter().any(|(label, _)| *label == run.label) {
                continue;
            }
            let same = |other: &&Run| other.label == run.label && other.workload == *workload;
            let medians = medians(&self.runs.iter().filter(same).collect::<Vec<_>>());
            writeln!(out, "{}", row(&name, "", &run.label, &run.version, medians))?;
            medians_of.push((&run.label, medians));
        }
        let Some((_, ours)) = medians_of.iter().find(|(label, _)| *label == "ours") else { return Ok(()) };
        let theirs: Vec<&Figures> = medians_of.iter().filter(|(label, _)| is_theirs(label)).map(|(_, m)| m).collect();
        if theirs.is_empty() {
            return Ok(());
        }
        let of = |column: usize| {
            // Of operations a second the most is best, of all else the least.
            let best = theirs.iter().filter_map(|medians| medians[column]);
            let best = if column == 0 { best.reduce(f64::max) } else { best.reduce(f64::min) };
            let ratio = ours[column].zip(best).filter(|(_, theirs)| *theirs > 0.0);
            ratio.map_or("-".to_owned(), |(ours, theirs)| format!("{:.2}x", ours / theirs))
        };
        let head = format!("{name:<18} {:>5}  {:<8}  {:<8}", "", "ratio", "");
        writeln!(out, "{head} {:>10} {:>9} {:>9} {:>10} {:>8}", of(0), of(1), of(2), of(3), of(4))
    }
}

/// Whether this is the label of a server that ours is compared with.
pub(super) fn is_theirs(label: &str) -> bool {
    label.starts_with("theirs")
}

fn medians(runs: &[&Run]) -> Figures {
    std::array::from_fn(|column| median(runs.iter().filter_map(|run| figures(&run.outcome)[column]).collect()))
}

/// The middle one of these figures; `None` if there are none.
pub(super) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        n if n % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::histogram::Histogram;
    use std::time::Duration;

    fn run(label: &str, round: u32, operations: u64, cpu_ms: u64) -> Run {
        let mut latencies = Histogram::default();
        (0..operations).for_each(|_| latencies.record(2_000_000));
        let outcome = Outcome {
            latencies,
            seconds: Duration::from_secs(1),
            rate: None,
            cpu: Some(Duration::from_millis(cpu_ms)),
            peak_rss: Some(50_000_000),
            ..Outcome::default()
        };
        let workload = "put-1x1".parse().expect("a workload");
        Run { workload, label: label.to_owned(), version: "3.6.14".to_owned(), round, nodes: 1, outcome }
    }

    #[test]
    fn the_summary_divides_the_medians_of_ours_by_those_of_theirs() {
        let mut report = Report::default();
        for (round, ours, theirs) in [(1, 3_000, 1_000), (2, 9_000, 1_500), (3, 4_000, 2_000)] {
            report.add(run("ours", round, ours, 100));
            report.add(run("theirs", round, theirs, 100));
        }
        let mut out = Vec::new();
        report.summary(&mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        let ratio: Vec<&str> = text
            .lines()
            .find(|line| line.starts_with("put-1x1") && line.contains("ratio"))
            .expect("a row")
            .split_whitespace()
            .collect();
        assert_eq!(ratio, ["put-1x1", "ratio", "2.67x", "1.00x", "1.00x", "0.38x", "1.00x"], "{text}");
        // One more to compare with: it is better in one thing, worse in the other.
        report.add(run("theirs-2", 1, 2_000, 800));
        let mut out = Vec::new();
        report.summary(&mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        let ratio = text.lines().find(|line| line.contains("ratio  ")).expect("a row");
        assert!(ratio.contains(" 2.00x ") && ratio.contains(" 0.38x "), "{text}");
    }

    #[test]
    fn a_run_without_operations_has_no_latency_and_no_cost() {
        let line = run("ours", 1, 0, 100).line();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["put-1x1", "1", "ours", "3.6.14", "0", "-", "-", "-", "50"]);
    }

    #[test]
    fn a_run_is_one_line_of_json() {
        let line = run("ours", 2, 1_000, 30).json().to_string();
        assert_eq!(line.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["server_cpu_us_per_operation"], 30.0);
        assert_eq!(json["operations"], 1_000);
        assert_eq!(json["round"], 2);
    }
}
