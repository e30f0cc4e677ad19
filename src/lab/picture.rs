//! The cluster as it was reported: what the screens draw, what `show --json` prints, what checks look at.
//!
//! The one idea: [`Picture::learn`] takes one [`Report`] and nothing else changes the picture, except that time passes.
//! What no member has said is absent (`None`), never a default; what was said too long ago is marked as old.
//!
//! ```text
//! Report ──▶ learn ──▶ members   state, log, votes, progress of each       members.rs is this file
//!                  ├─▶ flights   messages on their way                     flight.rs
//!                  ├─▶ wires     messages as lines, and who holds which     wires.rs
//!                  ├─▶ close     one member in detail                       close.rs
//!                  ├─▶ reconcile what Kubernetes wants and has              reconcile.rs
//!                  └─▶ feed      what happened, in words                   words.rs
//! ```
//!
//! What must never happen is watched for in `promises`. Left out: history, but for the newest messages (wires.rs) and revisions. A recording
//! keeps the reports themselves.

pub mod close;
pub mod flight;
pub mod json;
pub mod reconcile;
pub mod rights;
pub mod wires;
pub mod words;

use crate::lab::close::Close;
use crate::lab::cluster::Change;
use crate::lab::observe::Report;
use crate::lab::own_watch::OWN_WATCH;
use crate::lab::papers::Papers;
use crate::lab::promises::Promises;
use crate::lab::promises::Watched;
use crate::lab::store::Shown;
use crate::lab::survey::Standing;
use crate::lab::survey::Survey;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::Clock;
use crate::proto::lab::EntryKind;
use crate::proto::lab::LogEntry;
use crate::proto::lab::LookResponse;
use crate::proto::lab::Members;
use crate::proto::lab::Progress;
use crate::proto::lab::Role;
use crate::proto::lab::Snapshot;
use crate::proto::lab::State;
use crate::proto::lab::Telemetry;
use crate::proto::lab::Timer;
use crate::proto::lab::Votes;
use crate::proto::lab::event::Kind;
use crate::types::Millis;
use flight::Flights;
use reconcile::Reconcile;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// A member that has said nothing for so long is drawn as silent. Its timer speaks ten times a second.
const SILENT_MS: u64 = 1_500;
/// The same while its clock is held or slow, or if it is not ours: then it speaks only when it is asked, once a second.
const SILENT_HELD_MS: u64 = 4_000;
/// What is told of a message's end comes within this time, or not at all.
const SETTLE_MS: u64 = 1_000;
/// Log entries kept of each member.
const LOG_MAX: usize = 1_000;
/// Lines kept of the feed.
const FEED_MAX: usize = 1_000;
/// Lines kept of what a member's own log says.
const SAID_MAX: usize = 3;
/// Of several revisions that are applied at once so many are told apart: who catches up has missed when it happened.
const FANS_AT_ONCE: u64 = 50;
/// Revisions kept of the tape.
const TAPE_MAX: usize = 500;

/// What the operating system says about a member's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// Nothing yet, or this lab does not own it.
    #[default]
    Unknown,
    /// It runs.
    Running { pid: u32 },
    /// SIGSTOP.
    Paused { pid: u32, since: Millis },
    /// It has ended; how.
    Ended { how: String, since: Millis },
}

/// Whether a member speaks to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Never so far; why not, if an attempt has failed.
    Never { why: String },
    /// It does.
    Open,
    /// No longer, and why.
    Lost { why: String },
}

/// One entry of a member's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader made it.
    pub term: u64,
    /// Data, a member change, or a new leader's empty first entry.
    pub kind: EntryKind,
    /// Its size.
    pub bytes: u32,
    /// In plain words.
    pub summary: String,
}

/// One member, as far as it is known.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// `n1` to `n5`.
    pub name: String,
    /// Where clients reach it.
    pub client_url: String,
    /// Raft's id, once it has spoken.
    pub id: Option<u64>,
    /// Which start of the process speaks.
    pub boot: u64,
    /// What the system says.
    pub process: Process,
    /// Whether it speaks.
    pub tap: Tap,
    /// When it spoke last.
    pub heard: Option<Millis>,
    /// Events that we have missed.
    pub dropped: u64,
    /// Role, term, log marks.
    pub state: Option<State>,
    /// Election and heartbeat timers.
    pub timer: Option<Timer>,
    /// Its own count of votes, if it stood for election.
    pub votes: Option<Votes>,
    /// As leader: what it knows of each follower, by id.
    pub progress: BTreeMap<u64, Progress>,
    /// The newest part of its log.
    pub log: BTreeMap<u64, Entry>,
    /// The store's revision.
    pub revision: u64,
    /// The last sync of its log, in microseconds.
    pub sync_us: Option<u32>,
    /// The lab's clock, as it goes in this member.
    pub clock: Option<Clock>,
    /// Its watchers, leases and links, as it answered last.
    pub look: Option<LookResponse>,
    /// When that was.
    pub looked: Option<Millis>,
    /// What etcd's own services said of it last.
    pub survey: Option<Survey>,
    /// When that was.
    pub surveyed: Option<Millis>,
    /// What its own log says of why it ended, or what it warns of: the newest lines since its last start.
    pub said: Vec<String>,
    /// What the last close look has found.
    pub close: Option<Box<Close>>,
    /// What it was started with to show to its peers.
    pub papers: Option<Box<Papers>>,
    /// This lab has started it, so we know whether it has papers.
    pub is_started: bool,
    /// It says what it knows only when it is asked: upstream etcd.
    pub is_polled: bool,
    /// Up to here the feed has told what was applied.
    told: u64,
    /// By how many milliseconds our clock is ahead of its own, which counts from its start: the least that any of its events took to get here.
    lag_ms: Option<i64>,
}

impl MemberView {
    fn new(name: &str, client_url: &str) -> MemberView {
        MemberView {
            name: name.into(),
            client_url: client_url.into(),
            id: None,
            boot: 0,
            process: Process::Unknown,
            tap: Tap::Never { why: String::new() },
            heard: None,
            dropped: 0,
            state: None,
            timer: None,
            votes: None,
            progress: BTreeMap::new(),
            log: BTreeMap::new(),
            revision: 0,
            sync_us: None,
            clock: None,
            look: None,
            looked: None,
            survey: None,
            surveyed: None,
            said: Vec::new(),
            close: None,
            papers: None,
            is_started: false,
            is_polled: false,
            told: 0,
            lag_ms: None,
        }
    }

    /// Whether its process is known to have ended.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.process, Process::Ended { .. })
    }

    /// Whether its process stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.process, Process::Paused { .. })
    }

    /// Whether what we know of it is fresh.
    #[must_use]
    pub fn is_heard(&self, now: Millis) -> bool {
        let ticks = !self.is_polled && self.clock.is_none_or(|c| !c.held && c.slower <= 1);
        let limit = if ticks { SILENT_MS } else { SILENT_HELD_MS };
        self.tap == Tap::Open && self.heard.is_some_and(|at| now.0.saturating_sub(at.0) < limit)
    }

    /// Its role, if it has said so and we still hear it.
    #[must_use]
    pub fn role(&self, now: Millis) -> Option<Role> {
        if self.is_down() || !self.is_heard(now) { None } else { self.state.as_ref().map(State::role) }
    }

    /// When it told of something, by our clock: events are gathered before they are sent, and what happened at two members is compared.
    fn when(&mut self, now: Millis, at_us: u64) -> Millis {
        let (here, there) = (now.0 as i64, (at_us / 1_000) as i64);
        if at_us == 0 {
            return now;
        }
        let lag = self.lag_ms.map_or(here - there, |lag| lag.min(here - there));
        self.lag_ms = Some(lag);
        Millis(u64::try_from(there + lag).unwrap_or(0)).min(now)
    }

    /// Forgets what only a running process knows.
    fn reset(&mut self) {
        self.state = None;
        self.timer = None;
        self.votes = None;
        self.progress.clear();
        self.log.clear();
        self.clock = None;
        self.look = None;
        self.survey = None;
        self.told = 0;
    }

    fn append(&mut self, entries: &[LogEntry]) {
        for e in entries {
            let summary = words::of_entry(e).to_owned();
            let entry = Entry { term: e.term, kind: e.kind(), bytes: e.bytes, summary };
            self.log.insert(e.index, entry);
        }
        while self.log.len() > LOG_MAX {
            self.log.pop_first();
        }
    }
}

/// How a line of the feed wants to be read. Always also plain from its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary.
    Plain,
    /// A new leader, a committed write.
    Good,
    /// Something failed, was lost or broken.
    Bad,
}

/// One line of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When we learnt it.
    pub at: Millis,
    /// How to show it.
    pub tone: Tone,
    /// One sentence.
    pub text: String,
}

/// The Data screen's answers: the newest of each kind.
#[derive(Clone, Debug, Default)]
pub struct Data {
    pub listing: Option<crate::lab::store::Listing>,
    pub key: Option<crate::lab::store::Key>,
    pub compared: Option<crate::lab::store::Compared>,
    pub failed: Option<String>,
}

/// The lab's clock over all members that we hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the world's.
    Live,
    Held,
    Slow(u32),
    /// Not the same everywhere: a member has started, or was not reached.
    Mixed,
}

/// Everything that was reported.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The time of the last report or tick, since the lab's start.
    pub now: Millis,
    /// n1 first.
    pub members: Vec<MemberView>,
    /// Messages on their way.
    pub flights: Flights,
    /// The newest messages, and what became of them.
    pub wires: wires::Wires,
    /// What each of the newest revisions changed.
    pub tape: BTreeMap<u64, Vec<lab::Change>>,
    /// When members have applied each of the newest revisions: the member's place, and when that was; the first first.
    pub fans: BTreeMap<u64, Vec<(usize, Millis)>>,
    /// What the Data screen was told last.
    pub shown: Data,
    /// Oldest first.
    pub feed: VecDeque<Line>,
    /// How many lines the feed has had.
    pub told: u64,
    /// What Kubernetes wants and has, if it uses this cluster.
    pub reconcile: Reconcile,
    /// What must never happen, and whether it has.
    pub promises: Promises,
    /// Names of members, by raft's id, as the members tell them.
    names: BTreeMap<u64, String>,
    /// Its members speak TLS to each other.
    pub is_tls: bool,
    /// They are on other machines, and go on when the lab ends.
    pub is_elsewhere: bool,
    /// It was begun with another etcd; any member of it may be our server by now.
    pub has_upstream: bool,
    /// The cluster of which the first member to speak was. 0: none has said.
    cluster: u64,
}

impl Picture {
    /// A picture of members that have said nothing yet.
    #[must_use]
    pub fn new(record: &Record) -> Picture {
        let has_upstream = record.upstream.is_some();
        let is_polled = has_upstream;
        let view = |m: &MemberRecord| MemberView { is_polled, ..MemberView::new(&m.name, &m.client_url) };
        let members = record.members.iter().map(view).collect();
        let promises = Promises::new(record.members.iter().map(|m| m.name.clone()).collect());
        let is_elsewhere = !record.machines.is_empty();
        Picture { members, promises, is_tls: record.tls, is_elsewhere, has_upstream, ..Picture::default() }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        let was = self.now;
        self.now = now;
        self.flights.forget(now);
        for m in &self.members {
            // Said once, at the moment of falling silent; a lost stream has been told with its reason.
            if m.is_heard(was) && !m.is_heard(now) && !m.is_paused() {
                let line =
                    Line { at: now, tone: Tone::Bad, text: format!("{} is silent: nothing heard from it", m.name) };
                self.told += 1;
                push(&mut self.feed, line);
            }
        }
    }

    /// Takes one report in. Reports about members that do not exist are ignored.
    pub fn learn(&mut self, report: Report) {
        let broken = self.promises.hear(self.now, &report);
        self.draw(report);
        for breach in broken {
            self.say(Tone::Bad, format!("BROKEN: {}: {}", breach.promise.name(), breach.what));
        }
    }

    fn draw(&mut self, report: Report) {
        match report {
            Report::Note { text } => self.say(Tone::Bad, text),
            Report::Did { line } => self.say(Tone::Plain, format!("you: {line}")),
            Report::Mark { text } => self.say(Tone::Good, format!("MARK: {text}")),
            Report::Nemesis { line } => self.say(Tone::Plain, line),
            Report::Called(_) => {}
            Report::Watched { watched, .. } => {
                if let Watched::Tells { events } = *watched {
                    self.reconcile.hear(&events);
                }
            }
            Report::Shown(shown) => self.shown(*shown),
            Report::Process { member, .. }
            | Report::Connected { member }
            | Report::Lost { member, .. }
            | Report::Looked { member, .. }
            | Report::Surveyed { member, .. }
            | Report::Said { member, .. }
            | Report::Papers { member, .. }
            | Report::Telemetry { member, .. }
                if member >= self.members.len() => {}
            Report::Process { member, change } => self.process(member, change),
            Report::Connected { member } => {
                let m = &mut self.members[member];
                (m.tap, m.is_polled) = (Tap::Open, false);
            }
            Report::Said { member, line } => self.said(member, line),
            Report::Papers { member, papers } => {
                (self.members[member].papers, self.members[member].is_started) = (papers, true);
            }
            Report::Lost { member, why } => self.lost(member, why),
            Report::Telemetry { member, event } => self.telemetry(member, *event),
            Report::Looked { member, look } => self.looked(member, *look),
            Report::Surveyed { member, survey } => {
                if self.members[member].is_polled {
                    self.polled(member, survey.standing);
                }
                let (m, mut survey) = (&mut self.members[member], survey);
                m.close = survey.close.take().or(m.close.take());
                (m.survey, m.surveyed) = (Some(*survey), Some(self.now));
            }
        }
    }

    /// Whether any member is upstream etcd, of which much is not visible.
    #[must_use]
    pub fn is_upstream(&self) -> bool {
        self.members.iter().any(|m| m.is_polled)
    }

    /// What a member has said of itself when it was asked, for want of telemetry. The rest of a state is not known, and stays 0.
    fn polled(&mut self, member: usize, s: Standing) {
        let role = match (s.is_learner, s.leader == s.member) {
            (true, _) => Role::Learner,
            (_, true) => Role::Leader,
            _ => Role::Follower,
        };
        let state = State {
            role: role.into(),
            term: s.term,
            leader: s.leader,
            last_index: s.commit,
            commit: s.commit,
            applied: s.applied,
            ..State::default()
        };
        self.members[member].id = Some(s.member);
        self.words(member, &Kind::State(state));
        let now = self.now;
        let m = &mut self.members[member];
        (m.tap, m.heard, m.state) = (Tap::Open, Some(now), Some(state));
        m.revision = u64::try_from(s.revision).unwrap_or(0);
    }

    /// Writes a line into the feed.
    pub fn say(&mut self, tone: Tone, text: String) {
        self.told += 1;
        push(&mut self.feed, Line { at: self.now, tone, text });
    }

    /// The place of the member that says it leads in the highest term, if we hear it.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let leads = |m: &MemberView| m.role(self.now) == Some(Role::Leader);
        let terms = self.members.iter().enumerate().filter(|(_, m)| leads(m));
        terms.max_by_key(|(_, m)| m.state.as_ref().map(|s| s.term)).map(|(i, _)| i)
    }

    /// The highest term that any member has reported.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.members.iter().filter_map(|m| m.state.as_ref()).map(|s| s.term).max()
    }

    /// The place of the member with this raft id.
    #[must_use]
    pub fn place(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|m| m.id == Some(id))
    }

    /// A member's name, or its id if nobody has told its name.
    #[must_use]
    pub fn name(&self, id: u64) -> String {
        if let Some(place) = self.place(id) {
            return self.members[place].name.clone();
        }
        self.names.get(&id).cloned().unwrap_or_else(|| format!("{id:x}"))
    }

    /// The lab's clock, as the members that we hear say.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let heard = self.members.iter().filter(|m| !m.is_down() && !m.is_paused());
        let mut clocks = heard.filter_map(|m| m.clock).map(|c| (c.held, c.slower.max(1)));
        let Some(first) = clocks.next() else { return Pace::Live };
        match (clocks.all(|c| c == first), first) {
            (false, _) => Pace::Mixed,
            (true, (true, _)) => Pace::Held,
            (true, (false, 1)) => Pace::Live,
            (true, (false, slower)) => Pace::Slow(slower),
        }
    }

    /// The barrier between two steps: no message is between two members, each waits at a door, was heard or lost. One of which nobody says anything
    /// for a second is not waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let hears = |m: usize| self.members.get(m).is_some_and(|m| !m.is_down() && !m.is_paused());
        !self.wires.is_any_between(Millis((self.now.0 + 1).saturating_sub(SETTLE_MS)), hears)
    }

    /// The members' names, n1 first.
    #[must_use]
    pub fn member_names(&self) -> Vec<String> {
        self.members.iter().map(|m| m.name.clone()).collect()
    }

    /// Where a client of the nemesis goes with its `n`th request: to each member in turn, and to the next if that one is known to be down.
    #[must_use]
    pub fn endpoints_from(&self, n: u64) -> Vec<String> {
        let count = self.members.len();
        let first = usize::try_from(n % count.max(1) as u64).unwrap_or(0);
        let turned = (0..count).map(|i| &self.members[(first + i) % count]);
        turned.filter(|m| !m.is_down()).map(|m| m.client_url.clone()).collect()
    }

    /// Every watcher of every member that has answered: the member's place, and the watcher.
    pub fn watchers(&self) -> impl Iterator<Item = (usize, &lab::Watcher)> {
        let looks = self.members.iter().enumerate().filter_map(|(i, m)| Some((i, m.look.as_ref()?)));
        looks.flat_map(|(i, look)| look.watchers.iter().map(move |w| (i, w)))
    }

    /// Which members have this entry on disk, as their own reports or the leader's `match` say.
    #[must_use]
    pub fn holders(&self, index: u64, term: u64) -> Vec<&str> {
        let leader = self.leader().map(|l| &self.members[l]);
        let holds = |m: &&MemberView| {
            let own = m.state.as_ref().is_some_and(|s| s.persisted >= index)
                && m.log.get(&index).is_some_and(|e| e.term == term);
            let known = m.id.and_then(|id| leader?.progress.get(&id)).is_some_and(|p| p.match_index >= index);
            own || known
        };
        self.members.iter().filter(holds).map(|m| m.name.as_str()).collect()
    }

    fn said(&mut self, member: usize, line: String) {
        let m = &mut self.members[member];
        let text = format!("{}'s own log: {line}", m.name);
        m.said.push(line);
        let surplus = m.said.len().saturating_sub(SAID_MAX);
        m.said.drain(..surplus);
        self.say(Tone::Bad, text);
    }

    fn lost(&mut self, member: usize, why: String) {
        let m = &mut self.members[member];
        if self.has_upstream {
            // Until it has a door again, it is seen as etcd is.
            (m.is_polled, m.timer, m.clock) = (true, None, None);
        }
        if m.tap != Tap::Open {
            m.tap = Tap::Never { why };
            return;
        }
        let ended = m.is_down();
        m.tap = Tap::Lost { why: why.clone() };
        if !ended {
            let text = format!("no data from {}: {why}", self.members[member].name);
            self.say(Tone::Bad, text);
        }
    }

    fn telemetry(&mut self, member: usize, t: Telemetry) {
        let m = &mut self.members[member];
        if t.boot_id != m.boot {
            m.reset();
            (m.boot, m.lag_ms) = (t.boot_id, None);
        }
        let at = m.when(self.now, t.at_us);
        m.id = Some(t.member_id).filter(|id| *id != 0).or(m.id);
        m.heard = Some(self.now);
        m.dropped = t.dropped;
        let Some(kind) = t.event.and_then(|e| e.kind) else { return };
        self.words(member, &kind);
        self.fly(at, &kind);
        self.event(member, at, kind);
    }

    fn event(&mut self, member: usize, at: Millis, kind: Kind) {
        let m = &mut self.members[member];
        match kind {
            Kind::Snapshot(s) => self.snapshot(member, *s),
            Kind::State(s) => {
                // Who leads no more knows nothing of the others.
                if s.role() != Role::Leader {
                    m.progress.clear();
                }
                m.state = Some(s);
            }
            Kind::Timer(t) => m.timer = Some(t),
            Kind::Progress(p) => drop(m.progress.insert(p.peer, p)),
            Kind::Votes(v) => m.votes = Some(v),
            Kind::Appended(a) => m.append(&a.entries),
            Kind::Truncated(t) => drop(m.log.split_off(&(t.last_kept + 1))),
            Kind::Persisted(p) => m.sync_us = Some(p.sync_us),
            Kind::Applied(a) => {
                let fresh = m.revision.max(a.revision.saturating_sub(FANS_AT_ONCE)) + 1..=a.revision;
                m.revision = a.revision;
                m.told = m.told.max(a.index);
                for revision in fresh {
                    let fan = self.fans.entry(revision).or_default();
                    fan.push((member, at));
                    fan.sort_by_key(|(_, at)| *at);
                }
                while self.fans.len() > TAPE_MAX {
                    self.fans.pop_first();
                }
            }
            Kind::Members(members) => self.learn_names(members),
            Kind::Clock(clock) => m.clock = Some(clock),
            Kind::Freed(freed) => self.wires.freed(self.now, member, freed.id),
            Kind::Sent(_)
            | Kind::Received(_)
            | Kind::Dropped(_)
            | Kind::Held(_)
            | Kind::Proposed(_)
            | Kind::Answered(_)
            | Kind::Link(_)
            | Kind::Note(_) => {}
        }
    }

    fn snapshot(&mut self, member: usize, s: Snapshot) {
        if self.cluster == 0 {
            self.cluster = s.cluster_id;
        } else if s.cluster_id != 0 && s.cluster_id != self.cluster {
            let (name, theirs, ours) = (self.members[member].name.clone(), s.cluster_id, self.cluster);
            self.say(
                Tone::Bad,
                format!("{name} takes itself for a member of cluster {theirs:x}; the others are {ours:x}"),
            );
        }
        let m = &mut self.members[member];
        m.reset();
        m.append(&s.tail);
        m.told = s.state.as_ref().map_or(0, |s| s.applied);
        m.state = s.state;
        m.clock = s.clock;
        m.progress = s.progress.into_iter().map(|p| (p.peer, p)).collect();
        m.revision = s.revision;
        self.learn_names(s.members.unwrap_or_default());
    }

    fn learn_names(&mut self, members: Members) {
        for m in members.members {
            self.names.insert(m.id, m.name.clone());
            if let Some(view) = self.members.iter_mut().find(|v| v.name == m.name && v.id.is_none()) {
                view.id = Some(m.id);
            }
        }
    }

    fn process(&mut self, member: usize, change: Change) {
        let (now, m) = (self.now, &mut self.members[member]);
        let name = m.name.clone();
        let pid = match m.process {
            Process::Running { pid } | Process::Paused { pid, .. } => pid,
            Process::Unknown | Process::Ended { .. } => 0,
        };
        let (tone, text) = match change {
            Change::Started { pid } => {
                m.process = Process::Running { pid };
                m.said.clear();
                m.close = None;
                (Tone::Plain, format!("{name} starts as process {pid}"))
            }
            Change::Paused => {
                m.process = Process::Paused { pid, since: now };
                (Tone::Bad, format!("{name} is stopped (SIGSTOP): it stands still, and the others cannot know why"))
            }
            Change::Continued => {
                m.process = Process::Running { pid };
                // It was silent, not lost: it is heard again when it speaks.
                (Tone::Plain, format!("{name} goes on (SIGCONT); for it, no time has passed"))
            }
            Change::Ended { how } => {
                m.process = Process::Ended { how: how.clone(), since: now };
                (m.timer, m.clock) = (None, None);
                self.wires.door_closed(member);
                (Tone::Bad, format!("{name} is down: {how}"))
            }
            Change::Failed { why } => {
                m.process = Process::Ended { how: why.clone(), since: now };
                (Tone::Bad, format!("{name} did not start: {why}"))
            }
        };
        self.say(tone, text);
    }

    fn fly(&mut self, at: Millis, kind: &Kind) {
        let (wire, told) = match kind {
            Kind::Sent(s) => (&s.wire, flight::Told::Sent),
            Kind::Received(r) => (&r.wire, flight::Told::Received),
            Kind::Dropped(d) => (&d.wire, flight::Told::Dropped),
            Kind::Held(h) => (&h.wire, flight::Told::Held),
            _ => return,
        };
        let Some(wire) = *wire else { return };
        let (Some(from), Some(to)) = (self.place(wire.from), self.place(wire.to)) else { return };
        self.flights.learn(self.now, from, to, &wire, told);
        match kind {
            Kind::Received(_) => self.wires.end(at, from, to, wire, wires::End::Arrived { at }),
            Kind::Dropped(d) => self.wires.end(at, from, to, wire, wires::End::Lost { why: d.reason.clone() }),
            Kind::Held(h) => self.wires.end(at, from, to, wire, wires::End::Held { id: h.id }),
            _ => self.wires.sent(at, from, to, wire),
        }
    }

    fn looked(&mut self, member: usize, mut look: LookResponse) {
        // The lab's own watch is no watcher that the learner has started.
        let before = look.watchers.len();
        look.watchers.retain(|w| w.watch_id != OWN_WATCH);
        look.watchers_total -= u32::from(look.watchers.len() < before);
        for change in &look.changes {
            let changes = self.tape.entry(change.revision).or_default();
            // Each member tells the same; one is enough.
            if !changes.iter().any(|c| c.key == change.key) {
                changes.push(change.clone());
            }
        }
        while self.tape.len() > TAPE_MAX {
            self.tape.pop_first();
        }
        let now = self.now;
        let m = &mut self.members[member];
        m.clock = look.clock.or(m.clock);
        m.heard = m.heard.map(|_| now);
        (m.look, m.looked) = (Some(look), Some(now));
    }

    fn shown(&mut self, shown: Shown) {
        let data = &mut self.shown;
        data.failed = None;
        match shown {
            Shown::Listing(listing) => data.listing = Some(listing),
            Shown::Key(key) => data.key = Some(key),
            Shown::Compared(compared) => data.compared = Some(compared),
            Shown::Failed(why) => data.failed = Some(why),
        }
    }
}

fn push(feed: &mut VecDeque<Line>, line: Line) {
    if feed.len() == FEED_MAX {
        feed.pop_front();
    }
    feed.push_back(line);
}
