//! `etcd-lab bench`: how fast a server is, what a request costs it, and how that compares with another server.
//!
//! The load is plain gRPC: connections × requests in flight. A closed loop sends the next request when an answer came, which measures
//! capacity; an open loop (`--rate`) sends on a schedule and counts latency from the moment that a request was *due*, so that a server
//! that stalls is not excused from the requests it kept waiting.
//!
//! ```text
//! for each workload, for each round:   ours → theirs → ours → theirs …     each on a fresh data directory, on the same disk
//! one run:   start · fill · warm up · | measured window | · stop · remove
//!                                     CPU from /proc/PID/stat at both ends
//! ```
//!
//! Interleaving makes a noisy neighbour hurt both alike; the robust column is the server's CPU per operation, then the ratios, and
//! operations per second last, since load and server share the machine's cores.
//!
//! `etcd-lab bench state` measures what a large state costs instead: see `state`. `etcd-lab bench table` measures all that we want to be
//! better at than etcd: `cases` are what is run, `table` is what is made of the figures.
//!
//! Left out: TLS, authentication, and anything but Linux for the CPU and memory columns.

mod cases;
mod connection;
mod histogram;
mod idle;
mod load;
mod options;
mod pace;
mod report;
mod scenes;
mod servers;
mod slot;
mod state;
mod table;
mod watchers;
mod workload;

use options::Mode;
use options::Options;
use report::Report;
use report::Run;
use rustix::process::Resource;
use rustix::process::Rlimit;
use servers::Program;
use servers::Servers;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use workload::Workload;

/// The file system magic number of tmpfs, where a sync costs nothing.
const TMPFS: i64 = 0x0102_1994;

/// Runs the benchmark that `args` describe, prints it, and returns the exit code: 0, 1 for a failure, 2 for bad arguments, 130 when
/// interrupted. Servers that it started are ended and their directories removed in every case.
#[must_use]
pub fn main(args: &[OsString]) -> u8 {
    let mut out = std::io::stdout();
    let complain = |code: u8, text: &str| {
        eprintln!("etcd-lab bench: {text}");
        code
    };
    let options = match options::parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => return out.write_all(options::HELP.as_bytes()).map_or(1, |()| 0),
        Err(text) => return complain(2, &format!("{text}\nsee etcd-lab bench --help")),
    };
    raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return complain(1, &format!("cannot start a runtime: {e}")),
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&options, &mut out) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    match outcome {
        Some(Ok(())) => 0,
        Some(Err(text)) => complain(1, &text),
        None => complain(130, "interrupted; servers ended, directories removed"),
    }
}

/// Every workload, every round, every server; or a state, or a table.
async fn measure(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    match options.mode {
        Mode::Load => {}
        Mode::State => return state::measure(options, out).await,
        Mode::Table => return table::measure(options, out).await,
    }
    let mut json = options.json.as_deref().map(create).transpose()?;
    let mut report = Report::default();
    let programs = programs(options)?;
    report::heading(out, options, &programs_text(&programs)).map_err(text)?;
    if !programs.is_empty() {
        warn_of_memory(options, out)?;
    }
    for workload in &options.workloads {
        for round in 1..=options.rounds {
            if let Some(endpoints) = &options.endpoints {
                let run = one_run(options, workload, round, "server", endpoints, &options.pids).await?;
                announce(&run, out, json.as_mut())?;
                report.add(run);
            }
            for program in &programs {
                let servers = Servers::start(program, options.nodes, &options.dir).await?;
                let run =
                    one_run(options, workload, round, &program.label, servers.endpoints(), &servers.pids()).await?;
                servers.stop().await?;
                announce(&run, out, json.as_mut())?;
                report.add(run);
            }
        }
    }
    report.summary(out).map_err(text)
}

/// Which programs to start: none for `--endpoints`, ours, or ours and theirs in turn.
fn programs(options: &Options) -> Result<Vec<Program>, String> {
    if options.endpoints.is_some() {
        return Ok(Vec::new());
    }
    let (path, first_words) = match &options.ours {
        Some(path) => (path.clone(), Vec::new()),
        None => {
            let path = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
            (path, vec!["etcd".into()])
        }
    };
    let mut programs = vec![Program { label: "ours".to_owned(), path, first_words }];
    for (number, path) in (1..).zip(&options.against) {
        let label = if number == 1 { "theirs".to_owned() } else { format!("theirs-{number}") };
        programs.push(Program { label, path: path.clone(), first_words: Vec::new() });
    }
    Ok(programs)
}

fn programs_text(programs: &[Program]) -> Vec<String> {
    programs.iter().map(|program| format!("{}: {}", program.label, program.path.display())).collect()
}

/// One measured window on servers that are up.
async fn one_run(
    options: &Options,
    workload: &Workload,
    round: u32,
    label: &str,
    endpoints: &[String],
    pids: &[u32],
) -> Result<Run, String> {
    let plan = load::Plan {
        workload: workload.clone(),
        endpoints: load::targets(workload, endpoints).await?,
        seconds: options.seconds,
        rate: options.rate,
        pids: pids.to_vec(),
    };
    let version = connection::status(&endpoints[0]).await?.version;
    let outcome = load::run(plan).await?;
    Ok(Run { workload: workload.clone(), label: label.to_owned(), version, round, nodes: endpoints.len(), outcome })
}

/// Prints one run and appends it to the JSON file.
fn announce(run: &Run, out: &mut dyn Write, json: Option<&mut File>) -> Result<(), String> {
    writeln!(out, "{}", run.line()).map_err(text)?;
    out.flush().map_err(text)?;
    json.map_or(Ok(()), |file| writeln!(file, "{}", run.json()).map_err(text))
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn warn_of_memory(options: &Options, out: &mut dyn Write) -> Result<(), String> {
    if !is_in_memory(&options.dir) {
        return Ok(());
    }
    let note = "note: this directory is in memory, so a sync is free: figures for writes are too good (--dir)";
    writeln!(out, "{note}").map_err(text)
}

/// A thousand connections need a thousand files, here and in the servers, which inherit the limit. Where it cannot be raised, whoever
/// meets it says so.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|fs| i128::from(fs.f_type) == i128::from(TMPFS))
}

fn text(e: std::io::Error) -> String {
    format!("cannot write the report: {e}")
}
