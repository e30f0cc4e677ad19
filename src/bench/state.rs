//! `etcd-lab bench state`: what a large state costs its member when it starts again, is saved, and is handed to a new member.
//!
//! ```text
//! ours:    load N keys · SIGTERM, start · SIGKILL, start · snapshot save · a learner joins
//! theirs:  the same, on the same disk, with its own etcdctl if one lies beside it
//! ```
//!
//! | measure | seconds | peak memory of |
//! |---|---|---|
//! | `load` | until the last put is answered | the member |
//! | `restart` | from its start until a put is answered | the member |
//! | `snapshot save` | from the client's start to its end | the member; the client |
//! | `new member` | from `member add` until the newcomer answers a serializable read of the newest key | the newcomer |
//! | `its leader` | – | the member that it got the state from |
//!
//! Peaks begin anew before each measure and are read a little after it, so that work which goes on behind the answer counts. "then" is
//! the resident memory at that time. What a process has mapped from a file counts as its memory, as far as it is resident: etcd maps its
//! database; `RssAnon` in the JSON leaves that out. "disk" is what the member's directory takes, as `du` counts.

#![expect(clippy::disallowed_methods, reason = "measures time, and waits for servers with deadlines")]

use super::connection;
use super::load;
use super::options::Options;
use super::programs;
use super::programs_text;
use super::report::is_theirs;
use super::report::median;
use super::servers;
use super::servers::Program;
use super::servers::Servers;
use super::text;
use super::warn_of_memory;
use crate::proto::etcdserverpb as pb;
use rustix::process::Signal;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long a server may take to answer after a start.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What goes on behind an answer is measured for so long.
const SETTLES: Duration = Duration::from_secs(3);

const COLUMNS: &str = "measure            round  server    version     seconds  peak MB  then MB  client MB  disk MB";

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    measure: &'static str,
    label: String,
    version: String,
    round: u32,
    seconds: Option<f64>,
    peak: u64,
    then: u64,
    anonymous: u64,
    client: Option<u64>,
    disk: u64,
}

/// Every round, every server; then what ours needs of what theirs needs.
pub(super) async fn measure(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    let keys = options.keys();
    let mut json = options.json.as_deref().map(super::create).transpose()?;
    let programs = programs(options)?;
    for line in programs_text(&programs) {
        writeln!(out, "{line}").map_err(text)?;
    }
    warn_of_memory(options, out)?;
    let dir = options.dir.display();
    writeln!(out, "data directories in {dir}\n{keys} keys of 8 B, values 256 B\n\n{COLUMNS}").map_err(text)?;
    let mut figures = Vec::new();
    for round in 1..=options.rounds {
        for program in &programs {
            for figure in figures_of(program, options, round).await? {
                writeln!(out, "{}", figure.line()).map_err(text)?;
                json.as_mut().map_or(Ok(()), |file| writeln!(file, "{}", figure.json(keys))).map_err(text)?;
                figures.push(figure);
            }
            out.flush().map_err(text)?;
        }
    }
    summary(&figures, out).map_err(text)
}

/// All measures of one program, on a fresh directory.
pub(super) async fn figures_of(program: &Program, options: &Options, round: u32) -> Result<Vec<Figure>, String> {
    let mut subject = Subject::start(program, options, round).await?;
    let figures = subject.all(options.keys()).await?;
    subject.servers.stop().await?;
    Ok(figures)
}

/// A member under measurement.
struct Subject<'a> {
    program: &'a Program,
    servers: Servers,
    version: String,
    round: u32,
}

impl<'a> Subject<'a> {
    async fn start(program: &'a Program, options: &Options, round: u32) -> Result<Subject<'a>, String> {
        let servers = Servers::start(program, 1, &options.dir).await?;
        let version = connection::status(&servers.endpoints()[0]).await?.version;
        Ok(Subject { program, servers, version, round })
    }

    async fn all(&mut self, keys: u64) -> Result<Vec<Figure>, String> {
        let mut figures = vec![self.load(keys).await?];
        for (measure, by) in [("restart (TERM)", Signal::TERM), ("restart (KILL)", Signal::KILL)] {
            figures.push(self.restart(measure, by).await?);
        }
        figures.push(self.save().await?);
        figures.extend(self.new_member(keys).await?);
        Ok(figures)
    }

    /// What a member needed, a little after the measure.
    async fn figure(&self, measure: &'static str, member: usize, took: Option<Duration>) -> Result<Figure, String> {
        tokio::time::sleep(SETTLES).await;
        let pid = self.servers.pids()[member];
        Ok(Figure {
            measure,
            label: self.program.label.clone(),
            version: self.version.clone(),
            round: self.round,
            seconds: took.map(|took| took.as_secs_f64()),
            peak: servers::memory(pid, "VmHWM:")?,
            then: servers::memory(pid, "VmRSS:")?,
            anonymous: servers::memory(pid, "RssAnon:")?,
            client: None,
            disk: self.servers.disk(member)?,
        })
    }

    async fn load(&mut self, keys: u64) -> Result<Figure, String> {
        let began = Instant::now();
        load::fill(&self.servers.endpoints()[0], keys).await?;
        self.figure("load", 0, Some(began.elapsed())).await
    }

    async fn restart(&mut self, measure: &'static str, by: Signal) -> Result<Figure, String> {
        let started = self.servers.restart(self.program, 0, by).await?;
        let endpoint = self.servers.endpoints()[0].clone();
        loop {
            let put = pb::PutRequest { key: "restarted".into(), value: measure.into(), ..Default::default() };
            let answered = async { connection::kv(&endpoint).await?.put(put).await.map_err(|e| e.to_string()) };
            match tokio::time::timeout(ANSWERS_WITHIN, answered).await {
                Ok(Ok(_)) => break,
                Err(_) => return Err(format!("{endpoint}: no answer within {ANSWERS_WITHIN:?}")),
                Ok(Err(why)) => self.not_yet(0, started, &why).await?,
            }
        }
        let took = started.elapsed();
        self.figure(measure, 0, Some(took)).await
    }

    /// Waits a little for a member that cannot answer yet.
    async fn not_yet(&mut self, member: usize, since: Instant, why: &str) -> Result<(), String> {
        self.servers.check(member)?;
        if since.elapsed() > ANSWERS_WITHIN {
            return Err(format!("not ready within {ANSWERS_WITHIN:?}: {why}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }

    async fn save(&mut self) -> Result<Figure, String> {
        servers::forget_peak(self.servers.pids()[0])?;
        let file = self.servers.dir().join("saved.db");
        let endpoint = self.servers.endpoints()[0].clone();
        let began = Instant::now();
        let (took, client) = save(self.program, &endpoint, &file, began).await?;
        let figure = self.figure("snapshot save", 0, Some(took)).await?;
        std::fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Figure { client, ..figure })
    }

    async fn new_member(&mut self, keys: u64) -> Result<[Figure; 2], String> {
        let leader = self.servers.endpoints()[0].clone();
        let revision = connection::status(&leader).await?.header.unwrap_or_default().revision;
        servers::forget_peak(self.servers.pids()[0])?;
        let (endpoint, peer_url) = self.servers.place()?;
        let began = Instant::now();
        let add = pb::MemberAddRequest { peer_ur_ls: vec![peer_url], is_learner: true };
        let refused = |refusal: tonic::Status| format!("member add: {}", refusal.message());
        connection::cluster(&leader).await?.member_add(add).await.map_err(refused)?;
        self.servers.join(self.program)?;
        let newcomer = self.servers.pids().len() - 1;
        let newest = pb::RangeRequest { key: "restarted".into(), serializable: true, ..Default::default() };
        loop {
            let why = match read(&endpoint, newest.clone()).await {
                Ok(answer) if answer.header.is_some_and(|header| header.revision >= revision) && answer.count == 1 => {
                    break;
                }
                Ok(_) => "it is behind".to_owned(),
                Err(why) => why,
            };
            self.not_yet(newcomer, began, &why).await?;
        }
        let took = began.elapsed();
        let all = pb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            serializable: true,
            count_only: true,
            ..Default::default()
        };
        let count = read(&endpoint, all).await?.count;
        if u64::try_from(count) != Ok(keys + 1) {
            return Err(format!("the new member has {count} keys, and should have {}", keys + 1));
        }
        let newcomer = self.figure("new member", newcomer, Some(took)).await?;
        Ok([newcomer, self.figure("its leader", 0, None).await?])
    }
}

async fn read(endpoint: &str, range: pb::RangeRequest) -> Result<pb::RangeResponse, String> {
    let answer = connection::kv(endpoint).await?.range(range).await;
    answer.map(tonic::Response::into_inner).map_err(|refusal| refusal.message().to_owned())
}

/// Has the program's own client save a snapshot, else ours: how long it took, and the client's largest memory, if it lived long enough to be looked at.
async fn save(
    program: &Program,
    endpoint: &str,
    file: &Path,
    began: Instant,
) -> Result<(Duration, Option<u64>), String> {
    let beside = program.path.with_file_name("etcdctl");
    let mut command = match is_theirs(&program.label) {
        true if beside.is_file() => Command::new(beside),
        _ => {
            let mut ours = Command::new(std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?);
            ours.arg("etcdctl");
            ours
        }
    };
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "snapshot", "save"]).arg(file);
    let cannot = |e: std::io::Error| format!("cannot save a snapshot: {e}");
    let mut client =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(cannot)?;
    let mut peak = None;
    loop {
        // It only grows, so the last one before the end is the largest; a process that has ended has none.
        peak = servers::memory(client.id(), "VmHWM:").ok().or(peak);
        if let Some(status) = client.try_wait().map_err(cannot)? {
            let took = began.elapsed();
            return if status.success() { Ok((took, peak)) } else { Err(format!("etcdctl snapshot save: {status}")) };
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Figure {
    /// Seconds, and megabytes: peak, afterwards, the client's, on the disk.
    fn numbers(&self) -> [Option<f64>; 5] {
        let Figure { seconds, peak, then, client, disk, .. } = self;
        [*seconds, Some(megabytes(*peak)), Some(megabytes(*then)), client.map(megabytes), Some(megabytes(*disk))]
    }

    fn line(&self) -> String {
        let [seconds, peak, then, client, disk] = self.numbers();
        let text = |number: Option<f64>, decimals| number.map_or("-".to_owned(), |n| format!("{n:.decimals$}"));
        let cells = [text(seconds, 2), text(peak, 0), text(then, 0), text(client, 0), text(disk, 0)];
        row(self.measure, &self.round.to_string(), &self.label, &self.version, cells)
    }

    pub(super) fn json(&self, keys: u64) -> serde_json::Value {
        let [seconds, peak, then, client, disk] = self.numbers();
        serde_json::json!({
            "measure": self.measure,
            "server": self.label,
            "version": self.version,
            "round": self.round,
            "keys": keys,
            "seconds": seconds,
            "peak_rss_mb": peak,
            "rss_mb": then,
            "anonymous_mb": megabytes(self.anonymous),
            "client_peak_rss_mb": client,
            "disk_mb": disk,
        })
    }
}

fn row(measure: &str, round: &str, server: &str, version: &str, cells: [String; 5]) -> String {
    let [seconds, peak, then, client, disk] = cells;
    let head = format!("{measure:<18} {round:>5}  {server:<8}  {version:<8}");
    format!("{head} {seconds:>10} {peak:>8} {then:>8} {client:>10} {disk:>8}")
}

/// The median of ours divided by the least of theirs, for each measure, and whether any is above 1.
fn summary(figures: &[Figure], out: &mut dyn Write) -> std::io::Result<()> {
    if !figures.iter().any(|figure| is_theirs(&figure.label)) {
        return Ok(());
    }
    writeln!(out, "\nours / the best of theirs, of the medians\n{COLUMNS}")?;
    let mut measures: Vec<&str> = Vec::new();
    for figure in figures.iter().filter(|figure| figure.label == "ours") {
        if !measures.contains(&figure.measure) {
            measures.push(figure.measure);
        }
    }
    let mut labels: Vec<&str> = figures.iter().map(|figure| figure.label.as_str()).filter(|l| is_theirs(l)).collect();
    labels.dedup();
    let mut above = Vec::new();
    for measure in measures {
        let of = |label: &str, column: usize| {
            let all = figures.iter().filter(|figure| figure.label == label && figure.measure == measure);
            median(all.filter_map(|figure| figure.numbers()[column]).collect())
        };
        let best = |column| labels.iter().filter_map(|label| of(label, column)).reduce(f64::min);
        let cells = std::array::from_fn(|column| match of("ours", column).zip(best(column)) {
            Some((ours, theirs)) if theirs > 0.0 => {
                above.extend(Some(measure).filter(|_| ours > theirs));
                format!("{:.2}x", ours / theirs)
            }
            _ => "-".to_owned(),
        });
        writeln!(out, "{}", row(measure, "", "ratio", "", cells))?;
    }
    above.dedup();
    match above.is_empty() {
        true => writeln!(out, "none is above 1"),
        false => writeln!(out, "above 1: {}", above.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(measure: &'static str, label: &'static str, seconds: f64, peak: u64) -> Figure {
        let version = "3.6.14".to_owned();
        let (then, anonymous, disk) = (peak / 2, peak / 4, 7);
        let (label, seconds) = (label.to_owned(), Some(seconds));
        Figure { measure, label, version, round: 1, seconds, peak, then, anonymous, client: None, disk }
    }

    #[test]
    fn ratios_are_of_medians_and_what_is_above_one_is_named() {
        let mut figures = vec![figure("restart", "ours", 1.0, 50_000_000), figure("load", "ours", 3.0, 10)];
        figures.extend([9.0, 2.0, 4.0].map(|seconds| figure("restart", "theirs", seconds, 100_000_000)));
        figures.push(figure("load", "theirs", 2.0, 10));
        let mut out = Vec::new();
        summary(&figures, &mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        let restart: Vec<&str> = text.lines().nth(3).expect("a row").split_whitespace().collect();
        assert_eq!(restart, ["restart", "ratio", "0.25x", "0.50x", "0.50x", "-", "1.00x"], "{text}");
        assert!(text.ends_with("above 1: load\n"), "{text}");
        // A second etcd that is better at this: the ratio is to that one.
        figures.push(figure("restart", "theirs-2", 2.0, 100_000_000));
        let mut out = Vec::new();
        summary(&figures, &mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("text");
        let seconds = text.lines().nth(3).and_then(|row| row.split_whitespace().nth(2));
        assert_eq!(seconds, Some("0.50x"), "{text}");
        let mut alone = Vec::new();
        summary(&figures[..2], &mut alone).expect("a Vec takes all");
        assert_eq!(alone, b"");
    }

    #[test]
    fn a_figure_has_its_unit_in_its_name() {
        let json = figure("load", "ours", 3.0, 8_000_000).json(5);
        assert_eq!(json["peak_rss_mb"], 8.0);
        assert_eq!(json["anonymous_mb"], 2.0);
        assert_eq!(json["keys"], 5);
        assert_eq!(json["client_peak_rss_mb"], serde_json::Value::Null);
    }
}
