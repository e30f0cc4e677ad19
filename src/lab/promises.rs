//! What must never happen, watched while it does not: raft's promises and etcd's, checked on every report.
//!
//! The one idea: the same reports that draw the picture are held against each other, so a recording shows a broken promise where it was
//! broken, with who said what and when. Only what was reported counts. A rule that cannot be decided from reports, because some were
//! missed or a member has not spoken, is silent: what is red here is wrong, whatever else may be.
//!
//! ```text
//! Report ─▶ hear ─┬─▶ raft.rs      leaders, votes, logs, commit          (telemetry)
//!                 ├─▶ clients.rs   the lab's own puts, gets and watch    (what it asked, what it was told)
//!                 └─▶ here         equal hash at equal revision          (survey, compare)
//!                       └─▶ Breach: the promise, and the evidence
//! ```
//!
//! Where the promises come from: Raft's figure 3 ("In Search of an Understandable Consensus Algorithm"), etcd's "KV API guarantees" and
//! "Watch API guarantees". The simulator judges the same ones and more, with the members' own data before it; here are reports only.
//!
//! Left out: that no lease ends before its time: a client may revoke it as well, and reports do not tell the two apart.

mod clients;
mod raft_rules;
#[cfg(test)]
mod tests;

pub use clients::Answer;
pub use clients::Asked;
pub use clients::Call;
pub use clients::Found;
pub use clients::Told;
pub use clients::Watched;

use crate::lab::observe::Report;
use crate::lab::store::Shown;
use crate::lab::up::clock;
use crate::types::Millis;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;

/// Breaches that are kept of one promise: the first ones say what happened.
const KEPT: usize = 3;
/// Hashes that are kept, by revision.
const HASHES_MAX: usize = 200;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    OneLeader,
    OneVote,
    LogsMatch,
    CommittedStays,
    LeaderComplete,
    LeaderAppends,
    OneChange,
    CommitForward,
    AppliedCommitted,
    EqualState,
    OneOrder,
    WatchWhole,
}

/// Every promise: its name, and what it says.
pub const PROMISES: [(Promise, &str, &str); 12] = [
    (Promise::OneLeader, "one leader per term", "two members never lead in the same term"),
    (Promise::OneVote, "one vote per term", "a member votes for one candidate in a term, and for no second"),
    (Promise::LogsMatch, "logs match", "entries of one index and term are the same, and so is what is before them"),
    (Promise::CommittedStays, "committed stays", "where one member has committed an entry, no other commits another"),
    (Promise::LeaderComplete, "leaders are complete", "what was committed is in the log of every later leader"),
    (Promise::LeaderAppends, "leaders only append", "a leader never replaces an entry of its own log"),
    (Promise::OneChange, "one change at a time", "a change of members is committed before the next is made"),
    (Promise::CommitForward, "commit never goes back", "while a member runs, its commit index only grows"),
    (Promise::AppliedCommitted, "applied is committed", "no member applies what is not committed"),
    (Promise::EqualState, "equal state", "members at the same revision have the same keys and values"),
    (Promise::OneOrder, "one order for clients", "the lab's own puts and gets see one order, and nothing old"),
    (Promise::WatchWhole, "a watch is whole", "the lab's own watch is told every revision, in order, once"),
];

impl Promise {
    /// Its name, as on the screen.
    #[must_use]
    pub fn name(self) -> &'static str {
        PROMISES[self as usize].1
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub promise: Promise,
    pub at: Millis,
    /// One sentence.
    pub what: String,
    /// Which member reported what, and when: one line each, oldest first.
    pub evidence: Vec<String>,
}

/// What was reported, as far as promises need it.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    names: Vec<String>,
    raft: raft_rules::Raft,
    clients: clients::Clients,
    /// By revision and compaction: hash, who said so, when.
    hashes: BTreeMap<(i64, i64), (u32, usize, Millis)>,
    /// How often each promise was looked at.
    looked: [u64; PROMISES.len()],
    /// How often each was found broken.
    broken: [u64; PROMISES.len()],
    breaches: Vec<Breach>,
}

/// What a rule needs to speak: the time, the names, and where to note what it found.
struct Court<'a> {
    now: Millis,
    names: &'a [String],
    looked: &'a mut [u64; PROMISES.len()],
    found: Vec<Breach>,
}

impl Court<'_> {
    fn name(&self, member: usize) -> String {
        self.names.get(member).cloned().unwrap_or_else(|| format!("member {}", member + 1))
    }

    /// "n1 at 00:12.3: leads term 4".
    fn said(&self, member: usize, at: Millis, what: &str) -> String {
        format!("{} at {}: {what}", self.name(member), clock(at))
    }

    fn looks(&mut self, promise: Promise) {
        self.looked[promise as usize] += 1;
    }

    fn breaks(&mut self, promise: Promise, what: String, evidence: Vec<String>) {
        self.found.push(Breach { promise, at: self.now, what, evidence });
    }
}

impl Promises {
    /// Nothing was reported yet of the members of these names.
    #[must_use]
    pub fn new(names: Vec<String>) -> Promises {
        Promises { raft: raft_rules::Raft::new(names.len()), names, ..Promises::default() }
    }

    /// Takes a report in. Returns what it breaks and is told for the first few times.
    pub fn hear(&mut self, now: Millis, report: &Report) -> Vec<Breach> {
        let mut court = Court { now, names: &self.names, looked: &mut self.looked, found: Vec::new() };
        match report {
            Report::Telemetry { member, event } => self.raft.telemetry(&mut court, *member, event),
            Report::Surveyed { member, survey } => {
                if let Some(h) = survey.hash.as_ref().filter(|_| !self.raft.is_foreign(*member)) {
                    hash(&mut self.hashes, &mut court, *member, (h.revision, h.compacted), h.hash);
                }
            }
            Report::Shown(shown) => {
                if let Shown::Compared(compared) = &**shown {
                    for h in &compared.hashes {
                        let Ok((value, compacted)) = h.hash else { continue };
                        hash(&mut self.hashes, &mut court, h.member, (compared.revision, compacted), value);
                    }
                }
            }
            Report::Called(call) => self.clients.called(&mut court, call),
            Report::Watched { member, watched } => self.clients.watched(&mut court, *member, watched),
            _ => return Vec::new(),
        }
        let found = court.found;
        let mut news = Vec::new();
        for breach in found {
            let count = &mut self.broken[breach.promise as usize];
            *count += 1;
            if *count <= KEPT as u64 {
                self.breaches.push(breach.clone());
                news.push(breach);
            }
        }
        news
    }

    /// The first breaches of each promise, oldest first.
    #[must_use]
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }

    /// The promises that are broken.
    pub fn broken(&self) -> impl Iterator<Item = Promise> + '_ {
        PROMISES.iter().map(|p| p.0).filter(|p| self.broken[*p as usize] > 0)
    }

    /// How often a promise was looked at, and how often it was found broken.
    #[must_use]
    pub fn count(&self, promise: Promise) -> (u64, u64) {
        (self.looked[promise as usize], self.broken[promise as usize])
    }

    /// Each promise with what it says, the broken ones first and with their evidence.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut rows = PROMISES;
        rows.sort_by_key(|(promise, ..)| self.count(*promise).1 == 0);
        for (promise, name, meaning) in rows {
            let verdict = match self.count(promise) {
                (_, broken @ 1..) => format!("BROKEN ({})", times(broken)),
                (0, _) => "nothing to check yet".into(),
                (looked, _) => format!("holds (checked {})", times(looked)),
            };
            lines.push(format!("{name:<23} {verdict}"));
            lines.push(format!("    {meaning}"));
            for breach in self.breaches.iter().filter(|b| b.promise == promise) {
                lines.push(format!("  {} {}", clock(breach.at), breach.what));
                lines.extend(breach.evidence.iter().map(|line| format!("    {line}")));
            }
        }
        lines
    }

    /// All of them in a few words.
    #[must_use]
    pub fn verdict(&self) -> String {
        let mut broken = self.broken();
        match (broken.next(), broken.count()) {
            (None, _) => {
                let seen = self.looked.iter().filter(|n| **n > 0).count();
                format!("{seen} of {} checked, all hold", PROMISES.len())
            }
            (Some(one), 0) => format!("BROKEN: {}", one.name()),
            (Some(one), more) => format!("BROKEN: {} and {more} more", one.name()),
        }
    }

    /// Whether any of them is broken.
    #[must_use]
    pub fn is_any_broken(&self) -> bool {
        !self.breaches.is_empty()
    }

    /// The same as an object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let breach = |b: &Breach| json!({ "at_ms": b.at.0, "what": b.what, "evidence": b.evidence });
        let promise = |(promise, name, meaning): &(Promise, &str, &str)| {
            let (looked, broken) = self.count(*promise);
            let breaches: Vec<Value> = self.breaches.iter().filter(|b| b.promise == *promise).map(breach).collect();
            json!({ "promise": name, "says": meaning, "looked": looked, "broken": broken, "breaches": breaches })
        };
        json!({ "promises": PROMISES.iter().map(promise).collect::<Vec<_>>() })
    }
}

/// How often, in words.
fn times(n: u64) -> String {
    match n {
        1 => "once".into(),
        2 => "twice".into(),
        n => format!("{n} times"),
    }
}

/// Two members at one revision, compacted at the same one, have one hash.
fn hash(
    hashes: &mut BTreeMap<(i64, i64), (u32, usize, Millis)>,
    court: &mut Court,
    member: usize,
    at: (i64, i64),
    value: u32,
) {
    court.looks(Promise::EqualState);
    let (first, who, when) = *hashes.entry(at).or_insert((value, member, court.now));
    if first != value {
        let (name, other) = (court.name(member), court.name(who));
        let what = format!("{other} and {name} differ at revision {}", at.0);
        let says = |hash: u32| format!("hash {hash} of all keys at revision {}, compacted at {}", at.0, at.1);
        let evidence = vec![court.said(who, when, &says(first)), court.said(member, court.now, &says(value))];
        court.breaks(Promise::EqualState, what, evidence);
    }
    while hashes.len() > HASHES_MAX {
        hashes.pop_first();
    }
}
