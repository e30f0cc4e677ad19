//! kube-lite: Kubernetes in small, so that a learner sees what it does with etcd.
//!
//! The one idea: **everything that is so, is a key; everything that happens, happens because somebody watches.** Only the API server talks
//! to etcd. The others ask it for a list, and then for every change from the list's revision on; each looks after one thing, and writes
//! what it has done back. Nobody calls anybody.
//!
//! ```text
//!   kubectl ──┐                                    ┌─ /registry/deployments/default/web     what is wanted
//!   kubelet ──┤  HTTP, JSON   ┌────────────┐ gRPC  ├─ /registry/pods/default/web-5d8f-x1   what is there
//! scheduler ──┼──────────────▶│ API server │──────▶├─ /registry/minions/w1                 who can run it
//! controller ─┘  list, watch  └────────────┘ etcd  └─ /registry/leases/kube-node-lease/w1  who is alive
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | `objects` | the kinds that there are, their paths and their keys |
//! | `storage` | the API server's side of etcd: Kubernetes's shapes of reads, transactions, watches and compaction |
//! | `api` | `kube-apiserver`: HTTP in front of `storage` |
//! | `rest`, `informer` | the other side: requests, and a copy that a watch keeps fresh |
//! | `election` | one of several works, the others wait: the leader's lock |
//! | `scheduler`, `controller`, `kubelet` | the three that look after something |
//! | `kubectl` | the learner's hands |
//!
//! Names, keys, flags and messages are Kubernetes's. Left out, among much else: other kinds, protobuf (objects are stored as JSON, as with
//! `--storage-media-type=application/json`), the API server's cache, its own TLS and users, patches, rolling updates, finalizers and
//! graceful deletion, events, containers (each is a process that only waits). Where the real times are long, ours are short; each is a flag.
//!
//! Source: Kubernetes 1.30, `apiserver/pkg/storage/etcd3`, `client-go/tools/cache`, `kubernetes.io/docs/reference`.
#![expect(clippy::disallowed_methods, reason = "these are programs: they wait, and read the clock")]

mod api;
mod controller;
mod election;
mod informer;
mod kubectl;
mod kubelet;
mod objects;
mod rest;
mod scheduler;
mod storage;

use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::Switch;
use crate::cmdline::args::Kind::Text;
use crate::cmdline::args::Refused;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

/// The names by which the programs are called.
pub const PROGRAMS: [&str; 5] = ["kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kubectl"];

/// What a container is here: see [`kubelet`].
const PAUSE: &str = "kube-pause";

/// The file that says where the API servers are, in the lab's folder.
const CONFIG: &str = "kube.json";

/// Every program has it.
static KUBECONFIG: Flag = Flag {
    name: "kubeconfig",
    short: ' ',
    kind: Text,
    default: "",
    help: "the file that says where the API servers are; in a lab it need not be said",
};
static LEADER_ELECT: Flag = Flag {
    name: "leader-elect",
    short: ' ',
    kind: Switch,
    default: "true",
    help: "work only while holding the lock, so that of several one works",
};

/// Runs the program of this name, if it is one of ours.
#[must_use]
pub fn program(name: &str, words: &[String]) -> Option<u8> {
    if name != PAUSE && !PROGRAMS.contains(&name) {
        return None;
    }
    if name == PAUSE {
        kubelet::pause();
        return Some(0);
    }
    let mut err = std::io::stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = writeln!(err, "error: no threads: {e}");
            return Some(1);
        }
    };
    let done = runtime.block_on(async {
        match name {
            "kube-apiserver" => api::main(words).await,
            "kube-scheduler" => scheduler::main(words).await,
            "kube-controller-manager" => controller::main(words).await,
            "kubelet" => kubelet::main(words).await,
            _ => kubectl::main(words).await,
        }
    });
    // What still waits on a thread, such as a read of standard input, is not waited for.
    runtime.shutdown_background();
    Some(match done {
        Ok(()) => 0,
        Err(why) => {
            let _ = writeln!(err, "{why}");
            1
        }
    })
}

/// Reads a program's flags, which are these; a word that is no flag is refused.
fn flags(program: &str, words: &[String], known: &[&'static Flag]) -> Result<Args, String> {
    let args = parsed(program, words, known)?;
    match args.words.first() {
        None => Ok(args),
        Some(_) => Err(format!("error: {program} takes flags only, not {:?}", args.word(0))),
    }
}

fn parsed(program: &str, words: &[String], known: &[&'static Flag]) -> Result<Args, String> {
    let line: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
    Args::parse(&line, known).map_err(|refused| match refused {
        Refused::Because(why) => format!("error: {why}\nSee '{program} --help'."),
        Refused::Help => {
            let rows = known.iter().map(|f| format!("  --{:<30} {} (default {:?})\n", f.name, f.help, f.default));
            format!("{program}: kube-lite's, see `etcd-lab --help`\n\n{}", rows.collect::<String>())
        }
    })
}

/// A flag's text, or its default.
fn text<'a>(args: &'a Args, flag: &'static Flag) -> &'a str {
    args.text(flag.name).unwrap_or(flag.default)
}

/// A flag's time, or its default.
fn time(args: &Args, flag: &'static Flag) -> std::time::Duration {
    let nanos = || crate::golang::parse_nanos(flag.default).unwrap_or(0);
    args.time(flag.name).unwrap_or_else(|| std::time::Duration::from_nanos(u64::try_from(nanos()).unwrap_or(0)))
}

/// Where the file is that says where the API servers are: as the flag says, or in the folder of the lab in whose terminal this is.
fn config_file(args: &Args) -> Result<PathBuf, String> {
    let lab = || std::env::var_os("ETCD_LAB").map(PathBuf::from);
    let bed = || Some(Path::new(&std::env::var_os("LAB_ALIVE")?).parent()?.to_owned());
    match args.text(KUBECONFIG.name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(path),
        None => lab().or_else(bed).map(|folder| folder.join(CONFIG)).ok_or_else(|| {
            "error: this is no terminal of a lab: name a file for the API servers' addresses with --kubeconfig FILE"
                .into()
        }),
    }
}

/// Writes a line of a program's log.
fn tell(who: &str, what: &str) {
    let now = stamp();
    let clock = now.get(11..19).unwrap_or_default();
    // A log that nobody takes is no reason to end.
    let _ = writeln!(std::io::stderr(), "{clock} {who}: {what}");
}

/// The time as objects hold it.
fn stamp() -> String {
    let now = time::OffsetDateTime::from(crate::wall::seen(SystemTime::now()));
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

/// The time of an object's field, in milliseconds since 1970.
fn millis_of(stamp: &str) -> Option<i64> {
    let time = time::OffsetDateTime::parse(stamp, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Waits until this process is asked to end.
async fn asked_to_end() -> Result<(), String> {
    use tokio::signal::unix::SignalKind;
    use tokio::signal::unix::signal;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("error: no signals: {e}"))?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
