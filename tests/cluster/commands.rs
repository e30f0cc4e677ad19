//! Command lines, and what etcd's own programs of release 3.5.1 did with them: recorded once, replayed in every mixture with ours.
//!
//! Each file in `recorded/commands` is a scene: lines typed one after the other at a fresh cluster, each with the exit code and both outputs
//! that etcdctl or etcdutl 3.5.1 gave against etcd 3.5.1 ([`script`] says how they are written). What must differ from run to run (ids, ports,
//! times) has a name instead ([`normal`]). Everything else is equal, or a `[[command]]` of `tests/differences.toml` says why not ([`rows`]).
//!
//! ```text
//!                     etcd 3.5.1                 our etcd
//! their programs      the recording              their_programs_on_our_server…
//! our programs        our_programs_on_etcd…      our_programs_on_our_server…
//! ```
//!
//! `RECORD_COMMANDS=1` writes the recordings anew instead of comparing them; `COMMANDS_SCENE=name` takes one scene alone.

mod normal;
mod rows;
mod script;

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::shell_code;
use crate::harness::turn;
use futures::future::join_all;
use normal::Names;
use rows::Rows;
use rustix::process::Pid;
use rustix::process::Signal;
use script::Given;
use script::Item;
use script::Scene;
use script::Step;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::process::Command;

/// How many command lines the issue asks for, at least.
const LINES_MIN: usize = 300;

/// And how many there are of the old dialect.
const V2_LINES_MIN: usize = 250;

/// The exit code of a line that does not end.
const NO_END: i32 = -1;

/// Where the programs and the server come from, and how they are spoken to.
struct Side {
    etcdctl: PathBuf,
    etcdutl: PathBuf,
    server: PathBuf,
    /// Flags of the server, beyond those of the scene.
    flags: Vec<&'static str>,
    dialect: Dialect,
}

/// Which API etcdctl speaks; also the folder of the recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Commands,
    V2,
}

impl Side {
    /// Our programs on this server.
    fn ours(server: PathBuf, dialect: Dialect) -> Side {
        let (etcdctl, etcdutl) = (env!("CARGO_BIN_EXE_etcdctl").into(), env!("CARGO_BIN_EXE_etcdutl").into());
        Side { etcdctl, etcdutl, server, flags: Vec::new(), dialect }
    }

    /// The programs of release 3.5.1, of which this is etcdctl, on this server.
    fn theirs(etcdctl: &Path, server: PathBuf) -> Side {
        let etcdutl = etcdctl.with_file_name("etcdutl");
        Side { etcdctl: etcdctl.to_owned(), etcdutl, server, flags: Vec::new(), dialect: Dialect::Commands }
    }

    fn folder(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/recorded");
        folder.join(if self.dialect == Dialect::V2 { "v2" } else { "commands" })
    }
}

fn scenes(side: &Side) -> Vec<Scene> {
    let only = std::env::var("COMMANDS_SCENE").ok();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(side.folder())
        .expect("the recordings")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let scenes = paths.into_iter().map(|path| Scene::load(&path));
    scenes.filter(|scene| only.as_ref().is_none_or(|only| *only == scene.name)).collect()
}

/// Plays a scene on a cluster of its own; returns what each line gave.
async fn play(scene: &Scene, side: &Side) -> Vec<Given> {
    let flags = [scene.flags(), side.flags.clone()].concat();
    let cluster = Cluster::start_with(&side.server, scene.members, &flags).await;
    let mut names = Names::of(&cluster).await;
    let folder = cluster.dir().join("typed");
    std::fs::create_dir(&folder).expect("a folder to type in");
    let mut all = Vec::new();
    for step in scene.steps() {
        if step.line.contains("etcdctl member ") {
            cluster.client.settled(0).await;
        }
        let given = perform(step, side, &names, &folder).await;
        let mut given = names.normal(step, given);
        if side.dialect == Dialect::V2 && side.etcdctl == Path::new(env!("CARGO_BIN_EXE_etcdctl")) {
            given.err = without_note(&step.line, &given);
        }
        all.push(given);
    }
    all
}

/// Our complaints without the line that says what to type today, which every command of the old dialect that is known begins with.
fn without_note(line: &str, given: &Given) -> String {
    let (first, rest) = given.err.split_once('\n').unwrap_or_default();
    let is_note =
        first.starts_with("The v2 API was removed from etcd 3.6; ETCDCTL_API=2 is kept for old texts. In v3: ");
    // What is no command, or is asked for help or the version, is answered without.
    let is_misread = given.out.starts_with("Incorrect Usage") || given.out.starts_with("<help") || given.code == "3";
    let is_bare = ["etcdctl -v", "etcdctl --version"].contains(&line);
    assert!(is_note != (is_misread || is_bare), "{line}: {given:?}");
    if is_note { rest.to_owned() } else { given.err.clone() }
}

/// Types one line.
async fn perform(step: &Step, side: &Side, names: &Names, folder: &Path) -> (i32, Vec<u8>, Vec<u8>) {
    let (variables, words) = script::words(&names.fill(&step.line));
    let program = if words[0] == "etcdutl" { &side.etcdutl } else { &side.etcdctl };
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(folder);
    if words[0] == "etcdctl" && !step.line.contains("--endpoints") && !step.line.contains("ETCDCTL_ENDPOINTS") {
        let scheme = if side.dialect == Dialect::V2 { "http://" } else { "" };
        command.env("ETCDCTL_ENDPOINTS", format!("{scheme}{}", names.fill("<ep0>")));
    }
    if side.dialect == Dialect::V2 {
        command.env("ETCDCTL_API", "2");
    }
    if side.dialect == Dialect::V2 && words[0] == "etcdctl" && !step.line.contains("timeout") {
        // The two seconds that it gives an answer are not enough for a password's hash on a busy machine.
        command.args(["--timeout", "10s", "--total-timeout", "12s"]);
    }
    command.envs(variables).args(&words[1..]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    let (mut stdout, mut stderr) =
        (BufReader::new(child.stdout.take().expect("a pipe")), child.stderr.take().expect("a pipe"));
    let pid = Pid::from_raw(child.id().expect("not waited for") as i32).expect("a process id");
    let feed = async {
        // Some leave without reading.
        let _ = stdin.write_all(step.stdin.as_bytes()).await;
        if step.until.is_none() {
            drop(stdin);
            None
        } else {
            Some(stdin)
        }
    };
    let read = async {
        let mut out = Vec::new();
        if let Some((lines, signal)) = step.until {
            for _ in 0..lines {
                stdout.read_until(b'\n', &mut out).await.expect("its output");
            }
            rustix::process::kill_process(pid, Signal::from_named_raw(signal).expect("a signal")).expect("it runs");
        }
        stdout.read_to_end(&mut out).await.expect("its output");
        out
    };
    let complaints = async {
        let mut err = Vec::new();
        stderr.read_to_end(&mut err).await.expect("its complaints");
        err
    };
    let run = async { tokio::join!(feed, read, complaints) };
    let Ok((_stdin, out, err)) = tokio::time::timeout(ENDS_WITHIN, run).await else {
        // Told as an outcome of its own, so that the other lines are compared too.
        return (NO_END, Vec::new(), Vec::new());
    };
    let status = child.wait().await.expect("it ended");
    (shell_code(status), out, err)
}

/// What differs between a recorded line and a played one: which stream, and both texts.
fn differences<'a>(step: &'a Step, given: &'a Given) -> Vec<(&'static str, &'a str, &'a str)> {
    let recorded = &step.given;
    [
        ("code", recorded.code.as_str(), given.code.as_str()),
        ("stdout", &recorded.out, &given.out),
        ("stderr", &recorded.err, &given.err),
    ]
    .into_iter()
    .filter(|(_, theirs, ours)| theirs != ours && !normal::is_wider_help(theirs, ours))
    .collect()
}

/// Plays every scene, and fails with all that is neither equal nor explained by a row for one of `parts`.
fn replay(side: &Side, parts: &[&str]) {
    turn(Duration::from_secs(300), async {
        let scenes = scenes(side);
        let whole = std::env::var_os("COMMANDS_SCENE").is_none();
        let played = join_all(scenes.iter().map(|scene| play(scene, side))).await;
        let mut rows = Rows::load(parts);
        let (mut unexplained, mut lines, mut explained) = (Vec::new(), 0, 0);
        for (scene, given) in scenes.iter().zip(&played) {
            for (step, given) in scene.steps().zip(given) {
                lines += 1;
                for (stream, theirs, ours) in differences(step, given) {
                    if rows.explain(&step.line, stream, theirs, ours) {
                        explained += 1;
                    } else {
                        let what = format!("{}: $ {}\n  {stream}", scene.name, step.line);
                        unexplained.push(format!("{what}\n    recorded: {theirs:?}\n    now:      {ours:?}"));
                    }
                }
            }
        }
        eprintln!("{lines} lines, {explained} differences explained by rows");
        let count = unexplained.len();
        assert!(unexplained.is_empty(), "{count} differences in {lines} lines\n{}", unexplained.join("\n"));
        let least = if side.dialect == Dialect::V2 { V2_LINES_MIN } else { LINES_MIN };
        assert!(!whole || lines >= least, "only {lines} command lines are recorded");
        // Each row is needed where its side plays alone; together, one row may do the work of two.
        let unused = parts.last().filter(|_| whole).map(|by| rows.unused(by)).unwrap_or_default();
        assert_eq!(unused, Vec::<String>::new(), "rows without a difference");
    });
}

#[test]
fn the_recordings_are_what_etcds_own_programs_do() {
    let test = "the_recordings_are_what_etcds_own_programs_do";
    let (Some(server), Some(ctl)) = (foreign::etcd_351(test), foreign::beside_351(test, "etcdctl")) else { return };
    replay_or_record(&Side::theirs(&ctl, server));
}

#[test]
fn the_recordings_of_v2_are_what_etcdctl_34_does_with_a_server_that_has_it() {
    let test = "the_recordings_of_v2_are_what_etcdctl_34_does_with_a_server_that_has_it";
    let (Some(server), Some(ctl)) = (foreign::etcd_351(test), foreign::etcdctl_34(test)) else { return };
    replay_or_record(&Side { flags: vec!["--enable-v2"], dialect: Dialect::V2, ..Side::theirs(&ctl, server) });
}

fn replay_or_record(side: &Side) {
    if std::env::var_os("RECORD_COMMANDS").is_none() {
        return replay(side, &[]);
    }
    turn(Duration::from_secs(300), async {
        let mut scenes = scenes(side);
        let played = join_all(scenes.iter().map(|scene| play(scene, side))).await;
        for (scene, given) in scenes.iter_mut().zip(played) {
            let steps = scene.items.iter_mut().filter_map(|item| match item {
                Item::Step(step) => Some(step),
                Item::Text(_) => None,
            });
            steps.zip(given).for_each(|(step, given)| {
                assert_ne!(given.code, NO_END.to_string(), "{}: does not end: {}", scene.name, step.line);
                step.given = given;
            });
            std::fs::write(side.folder().join(format!("{}.txt", scene.name)), scene.text()).expect("a recording");
        }
    });
}

#[test]
fn our_programs_on_our_server_do_what_is_recorded_of_etcds() {
    replay(&Side::ours(etcd_bin(), Dialect::Commands), &["client", "server", "both"]);
}

#[test]
fn our_etcdctl_speaks_v2_on_our_server_as_recorded_of_etcds() {
    replay(&Side::ours(etcd_bin(), Dialect::V2), &["v2"]);
}

#[test]
fn our_etcdctl_speaks_v2_on_etcd_as_recorded_of_etcds() {
    let test = "our_etcdctl_speaks_v2_on_etcd_as_recorded_of_etcds";
    let Some(server) = foreign::etcd_351(test) else { return };
    replay(&Side::ours(server, Dialect::V2), &["v2"]);
}

#[test]
fn our_programs_on_etcd_do_what_is_recorded_of_etcds() {
    let test = "our_programs_on_etcd_do_what_is_recorded_of_etcds";
    let Some(server) = foreign::etcd_351(test) else { return };
    replay(&Side::ours(server, Dialect::Commands), &["client"]);
}

#[test]
fn etcds_programs_on_our_server_do_what_is_recorded() {
    let test = "etcds_programs_on_our_server_do_what_is_recorded";
    let Some(ctl) = foreign::beside_351(test, "etcdctl") else { return };
    replay(&Side::theirs(&ctl, etcd_bin()), &["server"]);
}
