//! A cluster in one thread, from one seed: N replicas with simulated clocks, disks and network, and everything that may go wrong with them.
//!
//! The replicas are the server's own code: floors 0 to 4, the write-ahead log, and the bytes of the peer protocol. Only what drives them
//! is another: time passes when the queue says so, the disk forgets what was not synced, the network loses, doubles and delays. After every step
//! raft's promises and the state machine's are checked, and every answer and every watched event is held against a second, naive execution
//! of the log.
//!
//! ```text
//! seed ─▶ world: queue of events ─▶ member ─▶ judge: raft's rules · equal states · answers · watches · leases
//!             ▲        │ faults        │ messages, disk calls
//!             └────────┴── net, disk ◀─┘
//! ```
//!
//! The same seed makes the same run, event by event; [`run`] plays one, and a run that breaks a rule is played again with its record, so that
//! the [`Violation`] can say what came before it.
//!
//! Left out: sled, sockets and threads; process tests kill those.

mod client;
mod disk;
mod failover;
mod faults;
pub mod film;
mod hands;
mod judge;
mod leases;
pub mod live;
mod lost;
mod member;
mod model;
mod net;
mod operator;
mod rights;
mod roster;
mod snapshots;
mod store;
mod talk;
mod tape;
mod watcher;
mod world;

#[cfg(test)]
mod tests;

use net::Weather;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use tape::Tape;
use world::World;

/// Lines of the record that a violation shows.
const TAIL_LINES: usize = 80;

/// How long a run is at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Questions that clients ask.
    pub ops: u64,
    /// Faults.
    pub faults: u64,
}

impl Size {
    /// For every build.
    pub const SHORT: Size = Size { ops: 150, faults: 5 };
    /// For those who have time.
    pub const LONG: Size = Size { ops: 2000, faults: 10 };

    fn changes(self) -> u32 {
        if self.is_long() { 8 } else { 4 }
    }

    fn is_long(self) -> bool {
        self.ops >= Size::LONG.ops
    }

    /// Of a hundred questions so many must be answered in many runs together. Short ones are nothing but faults and what follows.
    fn answered_percent(self) -> u64 {
        if self.is_long() { 85 } else { 50 }
    }
}

/// What a run is like; drawn from its seed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    members: usize,
    clients: usize,
    watchers: usize,
    ops: u64,
    faults: u64,
    /// Answers between two bouts of faults, at most; half as many on average.
    calm_most: u64,
    think_us: u64,
    weather: Weather,
    /// The first member's; the others have none, and all must stay the same.
    quota: Option<u64>,
    /// Pause between two checkpoints of a lease's remaining time.
    checkpoint_ms: Option<u64>,
    /// How often the operator adds, promotes or removes a member.
    member_changes: u32,
    /// Whether clients turn authentication on and off.
    auth: bool,
}

impl Plan {
    fn of(seed: u64, size: Size) -> Plan {
        let mut dice = StdRng::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
        let quiet = Weather { lost: 2, posted: 30, doubled: 100, late: 5, broken: 3, delay_us: 2000 };
        let rough = Weather { lost: 30, posted: 200, doubled: 300, late: 30, broken: 20, delay_us: 8000 };
        Plan {
            members: [1, 3, 3, 3, 5][dice.random_range(0..5)],
            clients: dice.random_range(3..8),
            watchers: dice.random_range(2..5),
            ops: size.ops,
            faults: size.faults,
            // Bouts have two faults on average; with this there are a few more than asked for.
            calm_most: size.ops / size.faults.max(1),
            think_us: [1000, 4000, 15_000][dice.random_range(0..3)],
            weather: if dice.random_range(0..4) == 0 { rough } else { quiet },
            quota: (dice.random_range(0..4) == 0).then_some(6000),
            checkpoint_ms: [None, None, Some(600), Some(1200)][dice.random_range(0..4)],
            auth: dice.random_range(0..4) == 0,
            member_changes: if dice.random_range(0..3) == 0 { size.changes() } else { 0 },
        }
    }
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub asked: u64,
    /// Writes and reads that were answered, and renewals.
    pub writes: u64,
    pub reads: u64,
    pub renewals: u64,
    /// Refused for certain, and never to be known.
    pub refused: u64,
    pub unknown: u64,
    pub faults: u64,
    pub by_fault: BTreeMap<&'static str, u64>,
    /// What is rare elsewhere and must happen here, by name: see `RARE`.
    pub by_path: BTreeMap<&'static str, u64>,
    pub revisions: u64,
    /// Watched events that were checked.
    pub events: u64,
    pub steps: u64,
    pub simulated_ms: u64,
    /// A sum over all that happened, in order.
    pub sum: u64,
}

impl Report {
    /// Adds another run's numbers; the sums are mixed.
    pub fn add(&mut self, other: &Report) {
        self.asked += other.asked;
        self.writes += other.writes;
        self.reads += other.reads;
        self.renewals += other.renewals;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.faults += other.faults;
        self.revisions += other.revisions;
        self.events += other.events;
        self.steps += other.steps;
        self.simulated_ms += other.simulated_ms;
        self.sum = self.sum.rotate_left(5) ^ other.sum;
        for (name, count) in &other.by_fault {
            *self.by_fault.entry(name).or_default() += count;
        }
        for (name, count) in &other.by_path {
            *self.by_path.entry(name).or_default() += count;
        }
    }

    /// Counts something that should be rare and must not be absent.
    fn count(&mut self, path: &'static str, times: u64) {
        *self.by_path.entry(path).or_default() += times;
    }

    /// Questions whose answer was held against the log; that nobody will know what became of the others proves nothing.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.writes + self.reads + self.renewals
    }

    /// Of a hundred questions, how many were answered.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.answered() * 100 / self.asked.max(1)
    }

    /// Whether `runs` runs of `size` add up to a proof: enough was asked, answered and broken, and what is rare has happened.
    ///
    /// # Errors
    /// What there was too little of.
    pub fn proves(&self, runs: u64, size: Size) -> Result<(), String> {
        let mut lacks = Vec::new();
        let mut at_least = |name: &str, found: u64, wanted: u64| {
            if found < wanted {
                lacks.push(format!("{name}: {found} of {wanted}"));
            }
        };
        at_least("questions", self.asked, runs * size.ops);
        at_least("faults", self.faults, runs * size.faults);
        at_least("of 100 questions answered", self.share(), size.answered_percent());
        for (name, questions) in RARE {
            let found = self.by_path.get(name).copied().unwrap_or(0);
            at_least(name, found, runs * size.ops / questions);
        }
        if lacks.is_empty() { Ok(()) } else { Err(format!("too little happened: {}", lacks.join(", "))) }
    }
}

/// Of a hundred questions so many must be answered in every single long run, in the worst weather too.
const ANSWERED_PERCENT: u64 = 50;

/// What runs must come by, and once in how many questions at least; counted over many runs.
const RARE: [(&str, u64); 27] = [
    ("an election", 500),
    ("a torn tail is cut off", 20_000),
    ("a store is set back", 5000),
    ("a segment is begun", 1000),
    ("a segment is released", 500),
    ("a snapshot is sent", 2000),
    ("a snapshot is installed", 3000),
    ("a compaction", 200),
    ("a watch is resumed", 500),
    ("a watch is overtaken by a compaction", 5000),
    ("a lease runs out", 1000),
    ("a lease is renewed", 500),
    ("a lease's time is written down", 1000),
    ("a member changes its address", 500),
    ("a disk fails", 5000),
    ("a request is denied", 500),
    ("rights change", 1000),
    ("a read is denied", 2000),
    ("a member joins", 10_000),
    ("a learner is promoted", 20_000),
    ("a member is removed", 20_000),
    ("a removed member stops", 20_000),
    ("a process is taken for gone", 5000),
    ("a drill is passed", 40_000),
    ("a voter loses its power", 50_000),
    ("a state is lost", 50_000),
    ("a state comes from another member", 50_000),
];

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    pub seed: u64,
    pub size: Size,
    /// Which rule, in words.
    pub what: String,
    /// The last lines of the run's record.
    pub tail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, size, what, tail } = self;
        writeln!(f, "seed {seed} ({} questions, {} faults): {what}\n{tail}", size.ops, size.faults)
    }
}

/// Plays the run of `seed`.
///
/// # Errors
/// [`Violation`], with what came before it.
pub fn run(seed: u64, size: Size) -> Result<Report, Violation> {
    let (result, _) = play(seed, size, false);
    result.map_err(|what| {
        let (again, text) = play(seed, size, true);
        let same = again.as_ref().err() == Some(&what);
        let lines: Vec<&str> = text.lines().collect();
        let mut tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        if !same {
            tail.push_str(&format!("\nthe second time it was different: {again:?}"));
        }
        Violation { seed, size, what, tail }
    })
}

/// The record of a run, line by line; for those who want to look at one.
///
/// # Errors
/// What rule was broken; the record is in the first half all the same.
pub fn record(seed: u64, size: Size) -> (String, Result<Report, String>) {
    let (result, text) = play(seed, size, true);
    (text, result)
}

fn play(seed: u64, size: Size, tape: bool) -> (Result<Report, String>, String) {
    let mut world = World::new(seed, Plan::of(seed, size), Tape::new(tape));
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let result = played.unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
    let World { tape, mut report, .. } = world;
    (report.steps, report.sum) = (tape.events, tape.sum());
    (result.map(|()| report), tape.into_text())
}

fn panic_text(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    format!("panic: {}", text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}
