//! `etcd-lab bench table`: all that we want to be better at than etcd, with what counts as better enough.
//!
//! ```text
//! cases ── run, again and again, ours and theirs in turn ──▶ lines ──▶ table
//!                                                            (--json)   (--from)
//! ```
//!
//! The table is made of the lines and of nothing else: whoever has the lines can make it again, and check each figure. A figure is the
//! median of all rounds; a ratio is ours to the best of theirs.

use super::cases;
use super::cases::Case;
use super::cases::Turn;
use super::options::Options;
use super::programs;
use super::programs_text;
use super::report::is_theirs;
use super::report::median;
use super::text;
use super::warn_of_memory;
use Against::Least;
use Against::Limit;
use Against::Most;
use Against::OursLess;
use Against::OursMore;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// What a figure is compared with.
enum Against {
    /// The best of theirs. The figure that is better is the smaller or the larger one.
    Least,
    Most,
    /// Another figure of ours: the smaller ratio is better.
    OursLess(&'static str, &'static str),
    OursMore(&'static str, &'static str),
    /// Nothing: what we want is a figure, not a ratio.
    Limit,
}

/// A row: whose figure of which case, against what, and how good it must be. Without a bar it is only shown.
struct Row {
    metric: &'static str,
    case: &'static str,
    figure: &'static str,
    against: Against,
    /// What it must reach, and what we aim at.
    bar: Option<(f64, f64)>,
}

const CPU: &str = "server_cpu_us_per_operation";
const RATE: &str = "operations_per_second";

const fn row(metric: &'static str, case: &'static str, figure: &'static str, against: Against, bar: (f64, f64)) -> Row {
    Row { metric, case, figure, against, bar: Some(bar) }
}

const fn shown(metric: &'static str, case: &'static str, figure: &'static str) -> Row {
    Row { metric, case, figure, against: Against::Least, bar: None }
}

const ROWS: [Row; 37] = [
    row("CPU per put, 10x10, one member (us)", "put-10x10", CPU, Least, (0.75, 0.45)),
    row("CPU per put, 10x10, three summed (us)", "put-10x10/3", CPU, Least, (0.75, 0.45)),
    row("puts/s, closed loop, one member", "put-10x10", RATE, Most, (1.3, 1.6)),
    row("puts/s, closed loop, three members", "put-10x10/3", RATE, Most, (1.4, 1.8)),
    row("put p50 at 1x1, one member (ms)", "put-1x1", "p50_ms", Least, (0.85, 0.6)),
    row("put p50 at 1x1, three members (ms)", "put-1x1/3", "p50_ms", Least, (0.85, 0.6)),
    row("put p99 at half of etcd's rate (ms)", "put-half-rate", "p99_ms", Least, (0.7, 0.4)),
    row("CPU per serializable get (us)", "range-ser", CPU, Least, (0.7, 0.5)),
    row("CPU per linearizable get (us)", "range-lin", CPU, Least, (0.7, 0.5)),
    row("CPU per linearizable get, three summed (us)", "range-lin/3", CPU, Least, (0.7, 0.5)),
    row("CPU per range of 1,000, serializable (us)", "range1000-ser", CPU, Least, (0.5, 0.25)),
    row("CPU per range of 1,000, linearizable (us)", "range1000-lin", CPU, Least, (0.5, 0.25)),
    row("CPU per txn: compare and put (us)", "txn", CPU, Least, (0.7, 0.4)),
    shown("CPU per delete (us)", "delete", CPU),
    row(
        "put p99, compaction each second / without",
        "put-compact",
        "p99_ms",
        OursLess("put-10x10", "p99_ms"),
        (1.5, 1.2),
    ),
    shown("put p99, compaction each second (ms)", "put-compact", "p99_ms"),
    row("CPU per event, 1,000 watchers (us)", "watch", CPU, Least, (0.6, 0.3)),
    shown("CPU per event, 10,000 watchers of a key each (us)", "watchmany", CPU),
    row("CPU per lease grant (us)", "lease-grant", CPU, Least, (0.6, 0.3)),
    row("CPU per lease keep-alive (us)", "lease-keepalive", CPU, Least, (0.8, 0.5)),
    row("resident memory, a large state loaded (MB)", "state: load", "rss_mb", Least, (0.8, 0.4)),
    row("resident memory, the same after a restart (MB)", "state: restart (TERM)", "rss_mb", Least, (0.8, 0.4)),
    row("disk, a large state loaded (MB)", "state: load", "disk_mb", Least, (0.8, 0.6)),
    row("disk, the same after a restart (MB)", "state: restart (TERM)", "disk_mb", Least, (0.8, 0.6)),
    row("restart to first put, large, SIGTERM (s)", "state: restart (TERM)", "seconds", Least, (0.7, 0.3)),
    row("restart to first put, large, SIGKILL (s)", "state: restart (KILL)", "seconds", Least, (0.7, 0.3)),
    row("kill -9 of the leader to next put (ms)", "failover/3", "failover_ms", Least, (0.5, 0.2)),
    row("snapshot save, a large state (s)", "state: snapshot save", "seconds", Least, (0.9, 0.5)),
    row("member add and catch-up, a large state (s)", "state: new member", "seconds", Least, (0.8, 0.5)),
    row(
        "put p99, a follower stopped / all running",
        "put-one-stopped/3",
        "p99_ms",
        OursLess("put-10x10/3", "p99_ms"),
        (1.2, 1.1),
    ),
    shown("put p99, a follower stopped (ms)", "put-one-stopped/3", "p99_ms"),
    row(
        "overload: goodput / peak (1/s)",
        "overload/3",
        "goodput_per_second",
        OursMore("overload/3", "peak_per_second"),
        (0.9, 0.95),
    ),
    row("overload: elections", "overload/3", "elections", Limit, (0.0, 0.0)),
    Row {
        metric: "overload: goodput (1/s)",
        case: "overload/3",
        figure: "goodput_per_second",
        against: Most,
        bar: None,
    },
    row("idle connection (bytes)", "idle", "connection_bytes", Limit, (8_192.0, 8_192.0)),
    row("idle stream with a watch (bytes)", "idle", "stream_bytes", Limit, (4_096.0, 4_096.0)),
    row("idle watch (bytes)", "idle", "watch_bytes", Limit, (200.0, 200.0)),
];

/// Every case, every round, every server; then the table.
pub(super) async fn measure(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    if let Some(file) = &options.from {
        let lines = read(file)?;
        return print(&lines, out);
    }
    let mut json = options.json.as_deref().map(super::create).transpose()?;
    let programs = programs(options)?;
    for line in programs_text(&programs) {
        writeln!(out, "{line}").map_err(text)?;
    }
    warn_of_memory(options, out)?;
    let (seconds, rounds, dir) = (options.seconds.as_secs_f64(), options.rounds, options.dir.display());
    writeln!(out, "data directories in {dir}\n{seconds} s a run, {rounds} rounds, values 256 B\n").map_err(text)?;
    let all: Vec<&Case> = cases::CASES.iter().collect();
    let cases = if options.cases.is_empty() { &all } else { &options.cases };
    let (mut lines, mut failed) = (Vec::new(), 0);
    for case in cases {
        for round in 1..=options.rounds {
            for program in &programs {
                let found = case.run(&Turn { program, options, round, lines: &lines }).await.unwrap_or_else(|why| {
                    failed += 1;
                    vec![json!({ "case": case.name, "server": program.label, "round": round, "error": why })]
                });
                for mut line in found {
                    // The load's own part in it is small: a figure of a machine that was busy otherwise is worth less.
                    line["load_average"] = load_average().into();
                    writeln!(out, "{}", brief(&line)).map_err(text)?;
                    json.as_mut().map_or(Ok(()), |file| writeln!(file, "{line}")).map_err(text)?;
                    lines.push(line);
                }
                out.flush().map_err(text)?;
            }
        }
    }
    print(&lines, out)?;
    if failed == 0 { Ok(()) } else { Err(format!("{failed} runs failed; the table is without them")) }
}

fn read(file: &Path) -> Result<Vec<Value>, String> {
    let cannot = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let lines = std::fs::read_to_string(file).map_err(|e| cannot(&e))?;
    let line = |(number, line): (usize, &str)| {
        let value: Result<Value, _> = serde_json::from_str(line);
        value.map_err(|e| cannot(&format!("line {}: {e}", number + 1)))
    };
    lines.lines().enumerate().map(line).collect()
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What the rows want to know of a line, or what went wrong.
fn brief(line: &Value) -> String {
    let word = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let case = line["measure"].as_str().map_or_else(|| word("case"), |measure| format!("{}: {measure}", word("case")));
    let mut told = format!("{case:<22} {:>3}  {:<9} {:<8}", line["round"], word("server"), word("version"));
    if let Some(why) = line["error"].as_str() {
        return format!("{told}  failed: {why}");
    }
    let figures: BTreeSet<&str> = ROWS.iter().filter(|row| is_of(line, row.case)).map(|row| row.figure).collect();
    for figure in figures {
        told += &format!("  {figure} {}", line[figure].as_f64().map_or("-".to_owned(), number));
    }
    match (line["errors"].as_u64(), line["first_error"].as_str()) {
        (Some(errors), Some(first)) => format!("{told}\n  {errors} errors, the first: {first}"),
        _ => told,
    }
}

/// Whether a line is of this case; `state: load` is the measure `load` of the case `state`.
fn is_of(line: &Value, case: &str) -> bool {
    match case.split_once(": ") {
        Some((case, measure)) => line["case"] == case && line["measure"] == measure,
        None => line["case"] == case,
    }
}

/// The median of one server's figure in one case.
pub(super) fn median_of(lines: &[Value], server: &str, case: &str, figure: &str) -> Option<f64> {
    let of = lines.iter().filter(|line| line["server"] == server && is_of(line, case));
    median(of.filter_map(|line| line[figure].as_f64()).collect())
}

/// What a row comes to.
struct Judged {
    ours: f64,
    /// What it is compared with, and whose that is.
    other: Option<(f64, String)>,
    ratio: Option<f64>,
    verdict: &'static str,
}

fn judge(row: &Row, lines: &[Value]) -> Option<Judged> {
    let ours = median_of(lines, "ours", row.case, row.figure)?;
    let other = match row.against {
        OursLess(case, figure) | OursMore(case, figure) => {
            median_of(lines, "ours", case, figure).map(|other| (other, "ours".to_owned()))
        }
        Least | Most | Limit => best(row, lines),
    };
    let ratio = match row.against {
        Limit => None,
        _ => other.as_ref().filter(|(other, _)| *other > 0.0).map(|(other, _)| ours / other),
    };
    let judged = if matches!(row.against, Limit) { Some(ours) } else { ratio };
    let more = matches!(row.against, Most | OursMore(..));
    let reaches = |figure: f64, bar: f64| if more { figure >= bar } else { figure <= bar };
    let verdict = match (row.bar, judged) {
        (None, _) | (_, None) => "-",
        (Some((must, _)), Some(figure)) if !reaches(figure, must) => "NOT MET",
        (Some((must, aim)), Some(figure)) if aim != must && reaches(figure, aim) => "met, and the aim",
        _ => "met",
    };
    Some(Judged { ours, other, ratio, verdict })
}

/// The best of theirs, and what it says that it is.
fn best(row: &Row, lines: &[Value]) -> Option<(f64, String)> {
    let theirs = |line: &&Value| line["server"].as_str().is_some_and(is_theirs);
    let labels: BTreeSet<&str> = lines.iter().filter(theirs).filter_map(|line| line["server"].as_str()).collect();
    let medians = labels.into_iter().filter_map(|label| {
        let version = lines.iter().find(|line| line["server"] == label && line["version"].is_string())?;
        let median = median_of(lines, label, row.case, row.figure)?;
        Some((median, version["version"].as_str()?.to_owned()))
    });
    match row.against {
        Most => medians.max_by(|a, b| a.0.total_cmp(&b.0)),
        _ => medians.min_by(|a, b| a.0.total_cmp(&b.0)),
    }
}

/// With about three digits.
fn number(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || figure.fract() == 0.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn print(lines: &[Value], out: &mut dyn Write) -> Result<(), String> {
    out.write_all(table(lines).as_bytes()).map_err(text)
}

/// The rows that the lines have figures for, and how many are met.
fn table(lines: &[Value]) -> String {
    let most = |name: &str| lines.iter().filter_map(|line| line[name].as_u64()).max();
    let rounds = most("round").unwrap_or_default();
    let large = most("keys").map_or(String::new(), |keys| format!("; a large state has {keys} keys"));
    let (ours, theirs) = ("ours", "theirs");
    let mut told = format!(
        "\nmedian of {rounds}; theirs = the best of theirs, or ours as it is otherwise{large}\n\
         {:<50} {ours:>9} {theirs:>9} {:<8} {:>7}  {:<8} met\n",
        "metric", "of", "ratio", "must"
    );
    let (mut bars, mut met, mut missed, mut unknown) = (0, 0, Vec::new(), 0);
    for row in &ROWS {
        let Some(Judged { ours, other, ratio, verdict }) = judge(row, lines) else {
            unknown += 1;
            continue;
        };
        let sign = if matches!(row.against, Most | OursMore(..)) { ">=" } else { "<=" };
        let must = row.bar.map_or("-".to_owned(), |(must, _)| format!("{sign} {}", number(must)));
        let (other, of) = other.map_or(("-".to_owned(), "-".to_owned()), |(other, of)| (number(other), of));
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (metric, ours) = (row.metric, number(ours));
        told += &format!("{metric:<50} {ours:>9} {other:>9} {of:<8} {ratio:>7}  {must:<8} {verdict}\n");
        bars += usize::from(verdict != "-");
        met += usize::from(verdict.starts_with("met"));
        missed.extend((verdict == "NOT MET").then_some(metric));
    }
    told += &format!("\n{met} of {bars} met");
    if !missed.is_empty() {
        told += &format!("; not met: {}", missed.join("; "));
    }
    if unknown > 0 {
        told += &format!("\n{unknown} of {} rows were not measured", ROWS.len());
    }
    told += "\n";
    for (who, what) in spoilt(lines) {
        told += &format!("{who}: {what}\n");
    }
    told
}

/// Runs that failed, and those whose errors make their figures too good: who, and the first of what went wrong.
fn spoilt(lines: &[Value]) -> BTreeMap<String, String> {
    let mut spoilt = BTreeMap::new();
    for line in lines {
        let what = match (line["error"].as_str(), line["errors"].as_u64(), line["first_error"].as_str()) {
            (Some(why), ..) => format!("failed: {why}"),
            (None, Some(errors), Some(first)) => format!("{errors} errors, the first: {first}"),
            _ => continue,
        };
        let word = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        spoilt.entry(format!("{} of {}", word("case"), word("server"))).or_insert(what);
    }
    spoilt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(case: &str, server: &str, figure: &str, value: f64) -> Value {
        let mut line = json!({ "case": case, "server": server, "version": format!("of {server}"), "round": 1 });
        line[figure] = value.into();
        line
    }

    fn row_of<'a>(table: &'a str, metric: &str) -> Vec<&'a str> {
        let row =
            table.lines().find_map(|line| line.strip_prefix(metric)).unwrap_or_else(|| panic!("{metric}: {table}"));
        row.split_whitespace().collect()
    }

    #[test]
    fn every_row_is_of_a_case_that_is_run_and_no_metric_is_there_twice() {
        let mut used = BTreeSet::new();
        for row in &ROWS {
            let others = match row.against {
                OursLess(case, _) | OursMore(case, _) => vec![case],
                _ => Vec::new(),
            };
            for case in [row.case].into_iter().chain(others) {
                let case = case.split(": ").next().unwrap_or_default();
                assert!(cases::named(case).is_ok(), "{}", row.metric);
                used.insert(case);
            }
            assert_eq!(ROWS.iter().filter(|other| other.metric == row.metric).count(), 1, "{}", row.metric);
            assert!(row.metric.len() <= 50, "{}", row.metric);
        }
        assert_eq!(used.len(), cases::CASES.len(), "a case that no row uses is run for nothing");
    }

    #[test]
    fn a_ratio_is_of_medians_and_to_the_best_of_theirs() {
        let mut lines: Vec<Value> = [30.0, 20.0, 90.0].map(|us| line("put-10x10", "ours", CPU, us)).to_vec();
        lines.extend([line("put-10x10", "theirs", CPU, 60.0), line("put-10x10", "theirs-2", CPU, 50.0)]);
        lines.extend([line("put-10x10", "ours", RATE, 30_000.0), line("put-10x10", "theirs", RATE, 10_000.0)]);
        lines.push(line("put-10x10", "theirs-2", RATE, 20_000.0));
        let table = table(&lines);
        let cells = |metric| row_of(&table, metric);
        let cpu = ["30", "50", "of", "theirs-2", "0.60", "<=", "0.75", "met"];
        assert_eq!(cells("CPU per put, 10x10, one member (us)"), cpu, "{table}");
        let rate = ["30000", "20000", "of", "theirs-2", "1.50", ">=", "1.30", "met"];
        assert_eq!(cells("puts/s, closed loop, one member"), rate, "{table}");
        assert!(table.contains("2 of 2 met\n35 of 37 rows were not measured"), "{table}");
    }

    #[test]
    fn what_is_not_met_is_named_and_what_reaches_the_aim_is_said() {
        let lines = [
            line("put-10x10", "ours", "p99_ms", 10.0),
            line("put-compact", "ours", "p99_ms", 16.0),
            line("overload/3", "ours", "elections", 1.0),
            line("idle", "ours", "watch_bytes", 150.0),
            line("failover/3", "ours", "failover_ms", 100.0),
            line("failover/3", "theirs", "failover_ms", 1_000.0),
            line("delete", "ours", CPU, 5.0),
            json!({ "case": "txn", "server": "ours", "round": 1, "error": "it ended" }),
        ];
        let table = table(&lines);
        let cells = |metric| row_of(&table, metric);
        let compact = cells("put p99, compaction each second / without");
        assert_eq!(compact, ["16", "10", "ours", "1.60", "<=", "1.50", "NOT", "MET"], "{table}");
        assert_eq!(cells("overload: elections"), ["1", "-", "-", "-", "<=", "0", "NOT", "MET"], "{table}");
        let failover = cells("kill -9 of the leader to next put (ms)");
        let aim = ["100", "1000", "of", "theirs", "0.10", "<=", "0.50", "met,", "and", "the", "aim"];
        assert_eq!(failover, aim, "{table}");
        assert_eq!(cells("CPU per delete (us)"), ["5", "-", "-", "-", "-", "-"], "{table}");
        let missed = "\n2 of 4 met; not met: put p99, compaction each second / without; overload: elections\n";
        assert!(table.contains(missed), "{table}");
        assert!(!table.contains("CPU per txn") && table.ends_with("txn of ours: failed: it ended\n"), "{table}");
    }

    #[test]
    fn a_run_with_errors_is_not_passed_over() {
        let mut lines = [line("txn", "ours", CPU, 1.0), line("txn", "theirs", CPU, 2.0)];
        lines[1]["errors"] = 3.into();
        lines[1]["first_error"] = "too many requests".into();
        assert!(table(&lines).ends_with("txn of theirs: 3 errors, the first: too many requests\n"));
        lines[0]["keys"] = 20.into();
        assert!(table(&lines[..1]).contains("a large state has 20 keys\n"));
        assert_eq!(spoilt(&lines[..1]), BTreeMap::new());
    }

    #[test]
    fn a_measure_of_the_state_is_a_case_of_its_own() {
        let mut line = line("state", "ours", "seconds", 2.0);
        line["measure"] = "restart (KILL)".into();
        let lines = [line];
        assert_eq!(median_of(&lines, "ours", "state: restart (KILL)", "seconds"), Some(2.0));
        assert_eq!(median_of(&lines, "ours", "state: load", "seconds"), None);
        assert!(brief(&lines[0]).contains("state: restart (KILL)"));
        assert!(brief(&lines[0]).contains("seconds 2"));
    }
}
