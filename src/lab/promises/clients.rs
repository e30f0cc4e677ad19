//! What etcd promises its clients, from what the lab's own client asked and was told.
//!
//! Each write has a revision, and a read says at which revision it looked: that is one order of everything. It is the right one if what
//! began after an answer has a revision that is not older, and if every read finds what the order says was there. So no search for an
//! order is needed. A request without an answer may or may not have been done, and binds nobody.

use super::Court;
use super::Promise;
use crate::lab::picture::reconcile::Glance;
use crate::lab::up::clock;
use crate::types::Millis;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Own puts, open questions and told revisions that are remembered.
const PUTS_MAX: usize = 1_000;
const OPEN_MAX: usize = 1_000;
const HISTORY_MAX: usize = 1_000;

/// One end of a request of the lab's own client. The first is reported before the request leaves, the second when its answer is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    Asks { id: u64, asked: Asked },
    IsTold { id: u64, answer: Result<Answer, String> },
}

/// A request. Values as their sums: a recording need not hold them twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    Put {
        key: String,
        sum: u32,
    },
    /// A linearizable read.
    Get {
        key: String,
    },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the header: a put's own, or the one at which a read looked.
    pub revision: i64,
    /// What a read found.
    pub found: Option<Found>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub mod_revision: i64,
    pub sum: u32,
}

/// What the lab's own watch of all keys was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watched {
    /// It is open; the first event is of this revision or a later one.
    Opens { from: i64 },
    /// One response.
    Tells { events: Vec<Told> },
    /// What is below this revision was compacted away before it could be told.
    Compacted { from: i64 },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub revision: i64,
    pub key: Vec<u8>,
    pub deleted: bool,
    /// What the object in it says, if it is one of Kubernetes's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Glance>,
}

/// An answered put.
#[derive(Clone, Debug)]
struct Put {
    key: String,
    sum: u32,
    at: Millis,
}

/// The newest revision that the client has been told of, and by what.
#[derive(Clone, Debug, Default)]
struct Floor {
    revision: i64,
    by: String,
    at: Millis,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    /// Who waits for an answer: what it asked, when, and what was known then.
    open: BTreeMap<u64, (Asked, Millis, Floor)>,
    floor: Floor,
    /// By revision.
    puts: BTreeMap<i64, Put>,
    /// The revision that the watch must be told next.
    next: Option<i64>,
    /// Who told the watch last, and when.
    teller: (usize, Millis),
    /// What it was told: without gaps from the first to the last.
    history: BTreeMap<i64, BTreeMap<Vec<u8>, bool>>,
}

impl Clients {
    pub(super) fn called(&mut self, court: &mut Court, call: &Call) {
        match call {
            Call::Asks { id, asked } => {
                self.open.insert(*id, (asked.clone(), court.now, self.floor.clone()));
                while self.open.len() > OPEN_MAX {
                    self.open.pop_first();
                }
            }
            Call::IsTold { id, answer } => {
                let Some((asked, began, floor)) = self.open.remove(id) else { return };
                if let Ok(answer) = answer {
                    court.looks(Promise::OneOrder);
                    self.in_order(court, &asked, began, &floor, answer);
                    match &asked {
                        Asked::Put { key, sum } => self.put(court, key, *sum, answer.revision),
                        Asked::Get { key } => self.get(court, key, answer),
                    }
                    if answer.revision > self.floor.revision {
                        self.floor = Floor { revision: answer.revision, by: words(&asked), at: court.now };
                    }
                }
            }
        }
    }

    /// What began after an answer is not before it.
    fn in_order(&self, court: &mut Court, asked: &Asked, began: Millis, floor: &Floor, answer: &Answer) {
        let is_put = matches!(asked, Asked::Put { .. });
        if answer.revision > floor.revision || (!is_put && answer.revision == floor.revision) {
            return;
        }
        let evidence = vec![
            format!("{} was answered at {} with revision {}", floor.by, clock(floor.at), floor.revision),
            format!("{} began at {}, and was answered with revision {}", words(asked), clock(began), answer.revision),
        ];
        court.breaks(Promise::OneOrder, format!("{} is before what was known when it began", words(asked)), evidence);
    }

    fn put(&mut self, court: &mut Court, key: &str, sum: u32, revision: i64) {
        let mine = Put { key: key.to_owned(), sum, at: court.now };
        if let Some(other) = self.puts.get(&revision) {
            let says = |p: &Put| format!("put {} was answered at {} with revision {revision}", p.key, clock(p.at));
            let evidence = vec![says(other), says(&mine)];
            court.breaks(Promise::OneOrder, format!("two puts have revision {revision}"), evidence);
        }
        self.puts.insert(revision, mine);
        while self.puts.len() > PUTS_MAX {
            self.puts.pop_first();
        }
    }

    fn get(&self, court: &mut Court, key: &str, answer: &Answer) {
        let read = match &answer.found {
            Some(f) => {
                format!("get {key} at revision {} found the version of revision {}", answer.revision, f.mod_revision)
            }
            None => format!("get {key} at revision {} found nothing", answer.revision),
        };
        if let Some(found) = &answer.found {
            let written = self.puts.get(&found.mod_revision);
            if let Some(p) = written.filter(|p| p.key != key || p.sum != found.sum) {
                let evidence = vec![
                    format!("put {} made revision {}, value's sum {:08x}", p.key, found.mod_revision, p.sum),
                    format!("{read}, value's sum {:08x}", found.sum),
                ];
                return court.breaks(Promise::OneOrder, format!("get {key} found what nobody wrote"), evidence);
            }
            let since = self.puts.range(found.mod_revision..=answer.revision.max(found.mod_revision));
            if let Some((revision, p)) = since.rev().find(|(r, p)| **r > found.mod_revision && p.key == key) {
                let put = format!("put {key} was answered at {} with revision {revision}", clock(p.at));
                return court.breaks(Promise::OneOrder, format!("get {key} found an old version"), vec![put, read]);
            }
        }
        self.as_watched(court, key, answer, read);
    }

    /// A read finds what the watch was told, if the watch was told of the key.
    fn as_watched(&self, court: &mut Court, key: &str, answer: &Answer, read: String) {
        if self.next.is_none_or(|next| next <= answer.revision) {
            return;
        }
        let told = self.history.range(..=answer.revision).rev();
        let last = told.filter_map(|(r, keys)| Some((*r, *keys.get(key.as_bytes())?))).next();
        let Some((revision, deleted)) = last else { return };
        let expected = (!deleted).then_some(revision);
        if answer.found.as_ref().map(|f| f.mod_revision) != expected {
            let what = if deleted { "deleted" } else { "written" };
            let event = format!("the watch was told that {key} was {what} last at revision {revision}");
            court.breaks(Promise::OneOrder, format!("get {key} is not what was there"), vec![event, read]);
        }
    }

    pub(super) fn watched(&mut self, court: &mut Court, member: usize, watched: &Watched) {
        match watched {
            Watched::Opens { from } => {
                if self.next != Some(*from) {
                    self.restart(*from);
                }
            }
            Watched::Compacted { from } => self.restart(*from),
            Watched::Tells { events } => self.told(court, member, events),
        }
        self.teller = (member, court.now);
    }

    fn restart(&mut self, from: i64) {
        self.next = Some(from);
        self.history.clear();
    }

    fn told(&mut self, court: &mut Court, member: usize, events: &[Told]) {
        let Some(began) = self.next else { return };
        let mut next = began;
        let mut keys = BTreeSet::new();
        for e in events {
            court.looks(Promise::WatchWhole);
            let is_same = e.revision == next - 1 && next > began;
            let wrong = match e.revision {
                r if r == next || (is_same && !keys.contains(&e.key)) => None,
                r if is_same => Some(format!("the watch is told twice of one key in revision {r}")),
                r if r < next => Some(format!("the watch is told of revision {r} again, or out of order")),
                r => Some(format!("the watch is not told of revision {next}: the next event is of {r}")),
            };
            if let Some(what) = wrong {
                let before = format!("before that the watch had been told everything below revision {next}");
                let now = format!("an event of revision {} came", e.revision);
                let evidence =
                    vec![court.said(self.teller.0, self.teller.1, &before), court.said(member, court.now, &now)];
                court.breaks(Promise::WatchWhole, what, evidence);
            }
            if e.revision >= next {
                if e.revision > next {
                    self.history.clear();
                }
                keys.clear();
                next = e.revision + 1;
            }
            keys.insert(e.key.clone());
            self.history.entry(e.revision).or_default().insert(e.key.clone(), e.deleted);
        }
        self.next = Some(next);
        while self.history.len() > HISTORY_MAX {
            self.history.pop_first();
        }
    }
}

fn words(asked: &Asked) -> String {
    match asked {
        Asked::Put { key, .. } => format!("put {key}"),
        Asked::Get { key } => format!("get {key}"),
    }
}
