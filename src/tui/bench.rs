//! `etcd-lab bench lab`: what the lab costs: its frames under a flood of events, its members beside members without a lab, and the Data
//! screen over very many keys.
//!
//! ```text
//! ui      real members under puts ─tap─▶ observers ─▶ recorder, update ─▶ a frame every 100 ms, to a terminal that is nowhere
//! cost    off, open, watched, off, …   the same puts; CPU of the members for each, from /proc
//! keys    a store that is filled; then what the Data screen asks, and frames of it
//! ```
//!
//! Everything is printed, and the exit code says whether it kept the limits: 0, or 1. Linux only, on a release build and a quiet machine: on
//! another the figures say nothing.

#![expect(clippy::disallowed_methods, reason = "measures real time")]

mod load;

use crate::lab::Cluster;
use crate::lab::Error;
use crate::lab::Picture;
use crate::lab::Report;
use crate::lab::observe;
use crate::lab::observe::REPORTS_MAX;
use crate::lab::own_watch;
use crate::lab::preflight;
use crate::lab::recording::Recorder;
use crate::lab::store;
use crate::lab::store::Ask;
use crate::lab::store::Shown;
use crate::lab::survey;
use crate::lab::up;
use crate::lab::workdir::read_token;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::look::Theme;
use crate::tui::update;
use crate::tui::view;
use crate::types::Millis;
use load::Load;
use ratatui::Terminal;
use ratatui::TerminalOptions;
use ratatui::Viewport;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use std::io::Sink;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const HELP: &str = "\
etcd-lab bench lab: what the lab itself costs (Linux; a release build on a quiet machine)

  etcd-lab bench lab ui [--seconds 600] [--rate 20000]    frames at 120x40 while three members tell so many events a second:
                                                          p99 under 16 ms, and memory does not grow
  etcd-lab bench lab cost [--pairs 10] [--seconds 10] [--nodes 1]
                                                          CPU of the members for a put, without the lab's door, with it, and
                                                          with a lab that watches and records; at most 3 % more
  etcd-lab bench lab keys [--keys 1000000]                the Data screen over so many keys: no answer takes 250 ms

  --dir PATH   where the members live [$TMPDIR, else /var/tmp]
";

const WIDTH: u16 = 120;
const HEIGHT: u16 = 40;
const FRAME: Duration = Duration::from_millis(100);
/// The limits that are kept or not.
const FRAME_MS: f64 = 16.0;
const COST_PERCENT: f64 = 3.0;
const ANSWER_MS: f64 = 250.0;
/// What may come on top of a tenth of the memory that half a run has needed.
const MEMORY_SLACK: u64 = 16 << 20;
/// A screen is shown so long, and then the next.
const SCREEN: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_secs(60);
/// Keys in one transaction: etcd's limit is 128.
const TXN_KEYS: usize = 100;
/// Questions of each kind.
const ASKS: usize = 20;

struct Options {
    seconds: Option<u64>,
    rate: u64,
    pairs: usize,
    nodes: usize,
    keys: usize,
    dir: PathBuf,
}

/// Measures what the first word says, prints it, and returns the exit code.
#[must_use]
pub fn main(args: &[String]) -> u8 {
    let ran = match args.split_first() {
        Some((what, rest)) if !what.starts_with('-') => parse(rest).and_then(|options| run(what, &options)),
        _ => {
            say(HELP);
            return 0;
        }
    };
    match ran {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(e) => {
            eprintln!("etcd-lab bench lab: {e}");
            if matches!(e, Error::Usage(_)) { 2 } else { 1 }
        }
    }
}

fn parse(args: &[String]) -> Result<Options, Error> {
    let dir = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let mut options = Options { seconds: None, rate: 20_000, pairs: 10, nodes: 1, keys: 1_000_000, dir };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")))?;
        let number = || value.parse::<u64>().ok().filter(|n| *n > 0 && *n < 100_000_000);
        let number = || number().ok_or_else(|| Error::Usage(format!("{name}: {value:?} is no number that fits")));
        match name.as_str() {
            "--seconds" => options.seconds = Some(number()?),
            "--rate" => options.rate = number()?,
            "--pairs" => options.pairs = number()? as usize,
            "--nodes" => options.nodes = number()? as usize,
            "--keys" => options.keys = number()? as usize,
            "--dir" => options.dir = value.into(),
            _ => return Err(Error::Usage(format!("unknown argument {name:?}; see etcd-lab bench lab --help"))),
        }
    }
    Ok(options)
}

fn run(what: &str, options: &Options) -> Result<bool, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|source| Error::System { what: "cannot start the runtime", source })?;
    match what {
        "ui" => runtime.block_on(ui(options)),
        "cost" => runtime.block_on(cost(options)),
        "keys" => runtime.block_on(keys(options)),
        _ => Err(Error::Usage(format!("{what:?} is ui, cost or keys; see etcd-lab bench lab --help"))),
    }
}

fn say(text: &str) {
    // A reader that is gone is no failure.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// What members have: no door for the lab; a door where nobody listens; a lab that watches and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Off,
    Open,
    Full,
}

/// A cluster in a folder of its own; both go with it.
struct Bed {
    cluster: Option<Cluster>,
    reports: mpsc::Receiver<Report>,
    picture: Picture,
    recorder: Recorder,
    _observers: Option<[JoinSet<()>; 3]>,
    start: Instant,
    folder: PathBuf,
}

impl Bed {
    async fn start(dir: &Path, nodes: usize, watch: Watch) -> Result<Bed, Error> {
        let folder = dir.join(format!("etcd-lab-bench-{}", std::process::id()));
        let mut plan = preflight::plan(nodes, Some(&folder), &[])?;
        let program = up::own_program()?;
        if watch == Watch::Off {
            // The same program, started as one that has no door.
            let link = folder.join("etcd");
            std::os::unix::fs::symlink(&program, &link).map_err(Error::file("cannot link", &link))?;
            plan.record.upstream = Some(link);
        }
        let token = read_token(&plan.work.token_file())?;
        let (to, reports) = mpsc::channel(REPORTS_MAX);
        let cluster = Cluster::start(plan, &program, to.clone())?;
        let record = cluster.record.clone();
        let observers = (watch == Watch::Full).then(|| {
            [
                observe::observe(&record, &token, &to),
                survey::survey(&record, &token, &to),
                own_watch::watch(&record, &to),
            ]
        });
        let recorder = Recorder::create(&folder.join("last.labrec"), &record)?;
        let picture = Picture::new(&record);
        let start = Instant::now();
        let mut bed = Bed { cluster: Some(cluster), reports, picture, recorder, _observers: observers, start, folder };
        bed.ready().await?;
        Ok(bed)
    }

    /// Every member answers a put.
    async fn ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + READY;
        for url in self.urls() {
            while let Err(why) = crate::lab::ask::put(std::slice::from_ref(&url), "ready", "1", false).await {
                if Instant::now() > deadline {
                    return Err(Error::Refused(format!("the members are not ready: {why}")));
                }
                tokio::time::sleep(FRAME).await;
            }
        }
        Ok(())
    }

    fn record(&self) -> &crate::lab::workdir::Record {
        &self.cluster.as_ref().expect("held until the end").record
    }

    fn urls(&self) -> Vec<String> {
        self.record().members.iter().map(|m| m.client_url.clone()).collect()
    }

    /// The members' processes, as the folder has them.
    fn pids(&self) -> Result<Vec<u32>, Error> {
        let path = self.folder.join("lab.json");
        let json = std::fs::read(&path).map_err(Error::file("cannot read", &path))?;
        let record: crate::lab::workdir::Record =
            serde_json::from_slice(&json).map_err(|e| Error::file("cannot understand", &path)(e.into()))?;
        Ok(record.members.iter().map(|m| m.pid).collect())
    }

    fn now(&self) -> Millis {
        Millis(self.start.elapsed().as_millis() as u64)
    }

    /// Takes in what comes until then, as a lab without a screen does.
    async fn watch_until(&mut self, until: Instant) {
        while let Ok(Some(report)) = tokio::time::timeout_at(until.into(), self.reports.recv()).await {
            let now = self.now();
            self.recorder.note(now, &report);
            self.picture.tick(now);
            self.picture.learn(report);
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.cluster.take().and_then(Cluster::shutdown).map(crate::lab::workdir::WorkDir::remove)
        {
            eprintln!("etcd-lab bench lab: {e}");
        }
    }
}

/// A screen that is drawn to a terminal which is nowhere: layout, differences and the bytes, all but the terminal's own work.
struct Drawn {
    terminal: Terminal<CrosstermBackend<Sink>>,
    times: Vec<f64>,
}

impl Drawn {
    fn new() -> Result<Drawn, Error> {
        let viewport = Viewport::Fixed(Rect::new(0, 0, WIDTH, HEIGHT));
        let made = Terminal::with_options(CrosstermBackend::new(std::io::sink()), TerminalOptions { viewport });
        let terminal = made.map_err(|source| Error::System { what: "cannot draw", source })?;
        Ok(Drawn { terminal, times: Vec::new() })
    }

    fn frame(&mut self, model: &mut Model) -> Result<(), Error> {
        let begun = Instant::now();
        model.changed = false;
        let drawn = self.terminal.draw(|frame| view(model, frame)).map(drop);
        drawn.map_err(|source| Error::System { what: "cannot draw", source })?;
        self.times.push(begun.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }
}

/// The value in the middle; of an even number the mean of the two; 0 for none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0
}

/// The value below which this part of them is; 0 for none.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = ((values.len() as f64 * part).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(place).copied().unwrap_or(0.0)
}

fn words(name: &str, values: &mut [f64]) -> String {
    let (half, most) = (quantile(values, 0.5), quantile(values, 1.0));
    format!(
        "{name}: p50 {half:.2} ms, p99 {:.2} ms, most {most:.2} ms ({} of them)",
        quantile(values, 0.99),
        values.len()
    )
}

fn verdict(kept: bool, limit: &str) -> bool {
    say(&format!("{}: {limit}", if kept { "KEPT" } else { "NOT KEPT" }));
    kept
}

/// Frames while members tell of a flood of puts.
async fn ui(options: &Options) -> Result<bool, Error> {
    let seconds = options.seconds.unwrap_or(600);
    let mut bed = Bed::start(&options.dir, 3, Watch::Full).await?;
    let load = Load::start(&bed.urls());
    let mut model = Model::new(Theme::Dark, false);
    let record = bed.record().clone();
    update(&mut model, Msg::Started { record, folder: bed.folder.display().to_string(), notices: Vec::new() });
    update(&mut model, Msg::Resized { width: WIDTH, height: HEIGHT });
    let mut drawn = Drawn::new()?;
    let (begun, mut last) = (Instant::now(), Instant::now());
    let (mut due, mut turned, mut second) = (begun + FRAME, begun, begun);
    let (mut gaps, mut memory, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut told, mut before) = (0_u64, (0_u64, 0_u64));
    while begun.elapsed() < Duration::from_secs(seconds) {
        // As the interface does: what comes is learnt, and a frame is drawn when one is due.
        let came = tokio::time::timeout_at(due.into(), bed.reports.recv()).await;
        let now = bed.now();
        update(&mut model, Msg::Tick(now));
        if let Ok(Some(report)) = came {
            told += u64::from(matches!(report, Report::Telemetry { .. }));
            bed.recorder.note(now, &report);
            update(&mut model, Msg::Report(report));
        }
        if Instant::now() < due {
            continue;
        }
        drawn.frame(&mut model)?;
        gaps.push(last.elapsed().as_secs_f64() * 1e3);
        (last, due) = (Instant::now(), Instant::now() + FRAME);
        if turned.elapsed() >= SCREEN {
            turned = Instant::now();
            let screen = b"2\t3462"[(turned - begun).as_secs() as usize / SCREEN.as_secs() as usize % 6];
            let key = if screen == b'\t' { Key::Tab } else { Key::Char(char::from(screen)) };
            update(&mut model, Msg::Key(key));
        }
        if second.elapsed() >= Duration::from_secs(1) {
            let missed: u64 = model.picture.iter().flat_map(|p| &p.members).map(|m| m.dropped).sum();
            let rate = |events: u64| events as f64 / second.elapsed().as_secs_f64();
            // More load would only make more be missed; what counts is what came.
            load.steer(rate(told + missed - before.0 - before.1), options.rate as f64);
            rates.push(rate(told - before.0));
            (second, before) = (Instant::now(), (told, missed));
            memory.push(load::memory());
        }
    }
    let puts = load.stop();
    let missed: u64 = model.picture.iter().flat_map(|p| &p.members).map(|m| m.dropped).sum();
    bed.recorder.flush();
    let bytes = std::fs::metadata(bed.recorder.path()).map_or(0, |m| m.len());
    say(&format!("the recording has {} MiB: {:.1} bytes for an event", bytes >> 20, bytes as f64 / told.max(1) as f64));
    let whole = verdict(bed.recorder.ended.is_none(), "all of it was recorded");
    let kept = report_ui(&mut drawn.times, &mut gaps, &mut rates, &memory, (told, missed, puts), options.rate)?;
    Ok(kept && whole)
}

fn report_ui(
    times: &mut [f64],
    gaps: &mut [f64],
    rates: &mut [f64],
    memory: &[u64],
    (told, missed, puts): (u64, u64, u64),
    wanted: u64,
) -> Result<bool, Error> {
    let middle = quantile(rates, 0.5);
    say(&format!(
        "{puts} puts; {told} events were told and {missed} missed (and counted); median {middle:.0} events/s"
    ));
    say(&words("a frame", times));
    say(&words("from frame to frame", gaps));
    let half = memory.iter().take(memory.len() / 2).max().copied().unwrap_or(0);
    let all = memory.iter().max().copied().unwrap_or(0);
    say(&format!("memory of the lab: at most {} MiB in the first half, {} MiB in all", half >> 20, all >> 20));
    let flood = verdict(middle >= wanted as f64 * 0.9, &format!("at least 90 % of {wanted} events/s came"));
    let quick = verdict(quantile(times, 0.99) < FRAME_MS, &format!("p99 of a frame is under {FRAME_MS} ms"));
    let bound = verdict(all <= half + half / 10 + MEMORY_SLACK, "memory does not grow in the second half");
    Ok(flood && quick && bound)
}

/// CPU of the members for a put, in turn without and with the lab.
async fn cost(options: &Options) -> Result<bool, Error> {
    let seconds = Duration::from_secs(options.seconds.unwrap_or(10));
    let mut ratios = [Vec::new(), Vec::new()];
    say(&format!(
        "{} member(s), {} s a run; microseconds of the members' CPU for a put",
        options.nodes,
        seconds.as_secs()
    ));
    for pair in 1..=options.pairs {
        let mut costs = [0.0; 3];
        let mut order = [Watch::Off, Watch::Open, Watch::Full];
        if pair % 2 == 0 {
            // Forwards and back: what drifts in the machine meets each as often first as last.
            order.reverse();
        }
        for watch in order {
            costs[watch as usize] = one_cost(options, watch, seconds).await?;
        }
        let more = |n: usize| (costs[n] / costs[0] - 1.0) * 100.0;
        say(&format!(
            "{pair:>3}  off {:7.1}  open {:7.1} ({:+.1} %)  watched {:7.1} ({:+.1} %)",
            costs[0],
            costs[1],
            more(1),
            costs[2],
            more(2)
        ));
        ratios[0].push(more(1));
        ratios[1].push(more(2));
    }
    let [open, full] = &mut ratios;
    let (open, full) = (median(open), median(full));
    say(&format!("median of {} pairs: open {open:+.2} %, watched {full:+.2} %", options.pairs));
    let is_open = verdict(open <= COST_PERCENT, &format!("the open door costs at most {COST_PERCENT} %"));
    let is_full =
        verdict(full <= COST_PERCENT, &format!("a lab that watches and records costs at most {COST_PERCENT} %"));
    Ok(is_open && is_full)
}

async fn one_cost(options: &Options, watch: Watch, time: Duration) -> Result<f64, Error> {
    let mut bed = Bed::start(&options.dir, options.nodes, watch).await?;
    let pids = bed.pids()?;
    let load = Load::start(&bed.urls());
    load.fix(32);
    let warm = Instant::now() + time / 5;
    bed.watch_until(warm).await;
    let (cpu, puts) = (load::cpu(&pids)?, load.puts());
    bed.watch_until(Instant::now() + time).await;
    let (cpu, puts) = (load::cpu(&pids)? - cpu, load.puts() - puts);
    load.stop();
    if puts == 0 {
        return Err(Error::Refused("no put was answered".into()));
    }
    Ok(cpu.as_secs_f64() * 1e6 / puts as f64)
}

/// What the Data screen asks of a store with very many keys, and its frames.
async fn keys(options: &Options) -> Result<bool, Error> {
    let bed = Bed::start(&options.dir, 1, Watch::Full).await?;
    let urls = bed.urls();
    let begun = Instant::now();
    load::fill(&urls[0], options.keys, TXN_KEYS).await?;
    say(&format!("{} keys written in {:.0} s", options.keys, begun.elapsed().as_secs_f64()));
    let half = options.keys / 2;
    let list = |prefix: &str, from: String, at| Ask::List { prefix: prefix.into(), from: from.into(), at };
    let past = (options.keys / TXN_KEYS / 2) as i64;
    let asks = [
        ("all folders", list("", String::new(), 0)),
        ("a folder of half of them", list("flat/", String::new(), 0)),
        ("its middle page", list("flat/", format!("flat/{:08}", half / 2), 0)),
        ("a folder of a thousand folders", list("tree/", String::new(), 0)),
        ("the folder at a past revision", list("flat/", String::new(), past)),
        ("a key and its history", Ask::Key { key: format!("flat/{:08}", half / 2).into(), at: 0 }),
    ];
    let (mut all, mut drawn) = (Vec::new(), Drawn::new()?);
    let mut model = Model::new(Theme::Dark, false);
    let record = bed.record().clone();
    update(&mut model, Msg::Started { record, folder: String::new(), notices: Vec::new() });
    update(&mut model, Msg::Key(Key::Char('5')));
    for (name, ask) in asks {
        let mut times = Vec::new();
        for _ in 0..ASKS {
            let begun = Instant::now();
            let shown = store::ask(&urls, ask.clone()).await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            if let Shown::Failed(why) = &shown {
                return Err(Error::Refused(format!("{name}: {why}")));
            }
            if let Shown::Listing(listing) = &shown {
                (model.data.prefix, model.data.from) = (listing.prefix.clone(), listing.from.clone());
                model.data.at = listing.at;
            }
            update(&mut model, Msg::Report(Report::Shown(Box::new(shown))));
            drawn.frame(&mut model)?;
        }
        say(&words(name, &mut times));
        all.append(&mut times);
    }
    say(&words("a frame", &mut drawn.times));
    let quick = verdict(quantile(&mut all, 1.0) < ANSWER_MS, &format!("no answer takes {ANSWER_MS} ms"));
    let smooth =
        verdict(quantile(&mut drawn.times, 0.99) < FRAME_MS, &format!("p99 of a frame is under {FRAME_MS} ms"));
    Ok(quick && smooth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99)), (100.0, 198.0));
        assert_eq!((quantile(&mut values, 1.0), quantile(&mut [], 0.5)), (200.0, 0.0));
    }

    #[test]
    fn the_middle_of_two_is_between_them() {
        assert_eq!([median(&mut [3.0, 1.0]), median(&mut [5.0, 1.0, 2.0]), median(&mut [])], [2.0, 2.0, 0.0]);
    }

    #[test]
    fn words_are_read_or_refused() {
        let read = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            parse(&words).map(|o| (o.seconds, o.rate, o.pairs)).map_err(|e| e.to_string())
        };
        assert_eq!(read(""), Ok((None, 20_000, 10)));
        assert_eq!(read("--seconds 60 --rate 5 --pairs 3"), Ok((Some(60), 5, 3)));
        assert_eq!(read("--seconds"), Err("--seconds needs a value".into()));
        assert!(read("--seconds 0").expect_err("none").contains("no number that fits"));
        assert!(read("--fast 1").expect_err("unknown").contains("unknown argument"));
    }

    #[test]
    fn a_frame_is_drawn_without_a_terminal_and_timed() {
        let mut drawn = Drawn::new().expect("in memory");
        drawn.frame(&mut Model::new(Theme::Dark, false)).expect("drawn");
        assert!(drawn.times.len() == 1 && drawn.times[0] > 0.0);
    }
}
