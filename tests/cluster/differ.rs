//! The differ: our server and a real etcd are given the same operations, out of a seed, and must answer alike.
//!
//! ```text
//! seed ─▶ generate ─▶ Step ─┬─▶ our server ──▶ text ─┐
//!              ▲            └─▶ etcd ────────▶ text ─┴─▶ equal, or a row of tests/differences.toml, or a failure
//!              └── learns from our answer (revision, compaction, watches)
//! ```
//!
//! Compared is all that a client can see: every field of every answer, codes and texts of refusals, the events of every watch in order,
//! HashKV at random revisions and at the end. Not compared: ids of members and clusters, terms, indices, sizes, times, and the order of rows
//! that were sorted by something equal. A difference must fit a row of the table; in a long run each row must have been needed.
//!
//! | variable | what it does |
//! |---|---|
//! | `ETCD_351`, `ETCD_PEER` | the etcds to compare with, one test each |
//! | `DIFFER_OURS` | another program in our place, such as a release build, or an etcd |
//! | `DIFFER_SEEDS=20` | how many seeds; `DIFFER_SEED=7` is the first |
//! | `DIFFER_OPS=10000` | operations of each seed |
//! | `DIFFER_FAMILIES=kv,txn` | only these |
//! | `DIFFER_FULL=1` | a row of the table that was not needed fails the run |
//! | `DIFFER_GO_ON=1` | goes on after a difference, as long as the revisions are the same, and tells each kind once |
//! | `DIFFER_SHRINK=1` | the operations before the first difference are reduced to those that bring it about |

#![expect(clippy::disallowed_methods, reason = "says how long it took")]

mod admin;
mod answer;
mod calls;
mod generate;
mod pair;
mod rows;
mod server;
mod shrink;
mod step;
mod stream;

use crate::foreign;
use crate::harness::etcd_bin;
use crate::harness::turn;
use generate::Habits;
use generate::World;
use pair::Pair;
use pair::Unexplained;
use rows::Rows;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use step::Family;
use step::Step;

/// What a run in continuous integration does: enough that each family has had some hundred turns.
const SEEDS: u64 = 2;
const OPERATIONS: u64 = 1_200;
const OPERATIONS_SHOWN: usize = 25;
const LIMIT: Duration = Duration::from_secs(4 * 3600);

struct Settings {
    ours: PathBuf,
    theirs: PathBuf,
    first_seed: u64,
    seeds: u64,
    operations: u64,
    families: Vec<Family>,
    full: bool,
    go_on: bool,
    shrink: bool,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn families() -> Vec<Family> {
    let Ok(names) = std::env::var("DIFFER_FAMILIES") else { return Family::ALL.to_vec() };
    let find = |name: &str| Family::ALL.into_iter().find(|family| family.name() == name);
    names.split(',').map(|name| find(name).unwrap_or_else(|| panic!("no family is called {name}"))).collect()
}

fn settings(theirs: PathBuf) -> Settings {
    Settings {
        ours: std::env::var_os("DIFFER_OURS").map_or_else(etcd_bin, PathBuf::from),
        theirs,
        first_seed: number("DIFFER_SEED").unwrap_or(1),
        seeds: number("DIFFER_SEEDS").unwrap_or(SEEDS),
        operations: number("DIFFER_OPS").unwrap_or(OPERATIONS),
        families: families(),
        full: number("DIFFER_FULL").is_some_and(|on| on != 0),
        go_on: number("DIFFER_GO_ON").is_some_and(|on| on != 0),
        shrink: number("DIFFER_SHRINK").is_some_and(|on| on != 0),
    }
}

#[test]
fn every_answer_is_as_etcd_351_gives_it() {
    let Some(etcd) = foreign::etcd_351("the differ against etcd 3.5.1") else { return };
    turn(LIMIT, async { run(&settings(etcd)).await });
}

#[test]
fn every_answer_is_as_a_newer_etcd_gives_it() {
    let Some(etcd) = foreign::etcd_newer("the differ against a newer etcd") else { return };
    turn(LIMIT, async { run(&settings(etcd)).await });
}

async fn run(settings: &Settings) {
    let mut rows: Option<Rows> = None;
    let mut found = Vec::new();
    let (mut tally, begin) = (Tally::default(), Instant::now());
    for seed in settings.first_seed..settings.first_seed + settings.seeds {
        let mut pair = Pair::start(&settings.ours, &settings.theirs).await;
        let rows = rows.get_or_insert_with(|| Rows::load(pair.release(), &settings.families));
        let (steps, unexplained) = play(settings, seed, &mut pair, rows, &mut tally).await;
        if unexplained.is_empty() {
            continue;
        }
        let mut text = report(seed, &steps, &unexplained);
        keep(seed, &steps);
        if settings.shrink {
            drop(pair);
            let shrunk = shrink::shrink(&settings.ours, &settings.theirs, rows, steps, &unexplained[0]).await;
            text.push_str(&format!("\nthese {} operations do:\n{}", shrunk.len(), listed(&shrunk)));
        }
        found.push(text);
    }
    let rows = rows.expect("one seed at least");
    say(&format!("the differ: {} seeds, {:?}, {tally}", settings.seeds, begin.elapsed()));
    say(&format!("rows of tests/differences.toml and their uses:\n{}", rows.uses()));
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    let unused = rows.unused();
    assert!(
        !settings.full || unused.is_empty(),
        "rows of tests/differences.toml that nothing needed:\n{}",
        unused.join("\n")
    );
}

/// One seed. Stops at the first operation whose difference no row explains, or when it makes no sense to go on after it.
async fn play(
    settings: &Settings,
    seed: u64,
    pair: &mut Pair,
    rows: &mut Rows,
    tally: &mut Tally,
) -> (Vec<Step>, Vec<Unexplained>) {
    let since = |release: &str| !rows::is_below(pair.release(), release);
    let habits = Habits {
        refuses_negative_starts: since("3.5.24"),
        keeps_tombstones: since("3.5.16"),
        refuses_with_no_id: since("3.5.6"),
        refuses_empty_permissions: since("3.5.8"),
        guards_leases_and_compaction: since("3.5.28"),
        guards_all_of_transactions: since("3.5.30"),
        guards_open_watches: since("3.5.33"),
    };
    let mut world = World::new(seed, &settings.families, habits);
    let mut steps = Vec::new();
    for _ in 0..settings.operations {
        let step = world.next();
        steps.push(step.clone());
        let answer = pair.give(&step, rows).await;
        tally.note(&step, &answer);
        for (stream, watch) in pair.ended.drain(..) {
            world.ended(stream, watch);
        }
        let parted = pair.unexplained.iter().any(|found| found.field.path.ends_with("header.revision"));
        if !pair.unexplained.is_empty() && (!settings.go_on || parted) {
            return (steps, std::mem::take(&mut pair.unexplained));
        }
        world.learn(&step, &answer);
    }
    for step in world.last_words() {
        steps.push(step.clone());
        pair.give(&step, rows).await;
    }
    pair.settle(rows).await;
    (steps, std::mem::take(&mut pair.unexplained))
}

/// How often each call was made, and how often it was refused: a run in which all is refused compares little.
#[derive(Default)]
struct Tally(BTreeMap<String, (u64, u64)>);

impl Tally {
    fn note(&mut self, step: &Step, answer: &str) {
        let (calls, refused) = self.0.entry(step.rpc()).or_default();
        *calls += 1;
        *refused += u64::from(answer.starts_with("error: "));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations (refused by both):", self.0.values().map(|(calls, _)| calls).sum::<u64>())?;
        self.0.iter().try_for_each(|(rpc, (calls, refused))| write!(f, " {rpc} {calls} ({refused}),"))
    }
}

fn report(seed: u64, steps: &[Step], unexplained: &[Unexplained]) -> String {
    let shown = &steps[steps.len().saturating_sub(OPERATIONS_SHOWN)..];
    let mut kinds = BTreeSet::new();
    let mut new = unexplained.to_vec();
    new.retain(|found| kinds.insert(found.kind()));
    let differences: Vec<String> = new.iter().map(ToString::to_string).collect();
    format!(
        "seed {seed}, operation {}: no row of tests/differences.toml explains\n{}\nthe last operations:\n{}\nagain: DIFFER_SEED={seed} DIFFER_SEEDS=1 DIFFER_OPS={}",
        steps.len() - 1,
        differences.join("\n"),
        listed(shown),
        steps.len(),
    )
}

fn listed(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let line = format!("{step:?}");
        let short: String = line.chars().take(1500).collect();
        text.push_str(&format!("  {short}\n"));
    }
    text
}

/// Writes the whole history where the build writes.
fn keep(seed: u64, steps: &[Step]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("differ-seed-{seed}.txt"));
    let text: String = steps.iter().map(|step| format!("{step:?}\n")).collect();
    match std::fs::write(&path, text) {
        Ok(()) => say(&format!("the whole history: {}", path.display())),
        Err(e) => say(&format!("the history could not be written to {}: {e}", path.display())),
    }
}

/// To the process's own stderr: what libtest captures is shown for failures only.
fn say(text: &str) {
    drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()));
}
