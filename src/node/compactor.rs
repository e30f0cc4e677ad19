//! Compaction by the clock: how much history to keep, and when to drop the rest.
//!
//! Two ways to say how much. *By time*: revisions are noted ten times in each period (or hour, if that is shorter), and one period's notes
//! are kept, so that the oldest is the revision of a period ago, or a tenth more; what is older goes. *By revisions*: every five minutes all but the last so many go. Only a
//! leader compacts; the others go on noting, so that a new leader knows what its predecessor knew.
//!
//! Source: etcd `server/etcdserver/api/v3compactor/periodic.go`, `revision.go`; contract-server 11.3.

use super::Node;
use crate::apply::Reply;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::types::Millis;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How many notes a period, or an hour of it, has; etcd's `retryDivisor`.
const NOTES: u64 = 10;
const HOUR_MS: u64 = 60 * 60 * 1000;
/// How often history is cut to a number of revisions; etcd's `revInterval`.
const REVISIONS_EVERY_MS: u64 = 5 * 60 * 1000;

/// How much history to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What happened within this time.
    Periodic(Duration),
    /// So many revisions.
    Revisions(u64),
}

/// Decides when to compact what; knows no clock.
#[derive(Debug)]
enum Schedule {
    Periodic(Periodic),
    Revisions { keep: u64, last: u64 },
}

#[derive(Debug)]
struct Periodic {
    period_ms: u64,
    /// Oldest first; once it is full, the first is the one to compact at.
    notes: VecDeque<u64>,
    last: u64,
    /// When the last compaction was, or when this began.
    since: Millis,
    /// How long to wait after that: a whole period before the first one, then an hour at most.
    wait_ms: u64,
}

impl Periodic {
    /// Between two compactions.
    fn interval_ms(&self) -> u64 {
        self.period_ms.min(HOUR_MS)
    }

    /// Between two notes.
    fn step_ms(&self) -> u64 {
        (self.interval_ms() / NOTES).max(1)
    }

    fn note(&mut self, revision: u64) {
        self.notes.push_back(revision);
        if self.notes.len() as u64 > self.period_ms / self.step_ms() + 1 {
            self.notes.pop_front();
        }
    }

    fn due(&mut self, now: Millis) -> Option<u64> {
        let revision = *self.notes.front()?;
        if now.0 < self.since.0.saturating_add(self.wait_ms) || revision == self.last {
            return None;
        }
        self.wait_ms = self.interval_ms();
        Some(revision)
    }
}

impl Schedule {
    fn new(what: AutoCompaction, now: Millis) -> Schedule {
        match what {
            AutoCompaction::Periodic(period) => {
                let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
                let notes = VecDeque::new();
                Schedule::Periodic(Periodic { period_ms, notes, last: 0, since: now, wait_ms: period_ms })
            }
            AutoCompaction::Revisions(keep) => Schedule::Revisions { keep, last: 0 },
        }
    }

    /// Between two looks.
    fn pause(&self) -> Duration {
        Duration::from_millis(match self {
            Schedule::Periodic(periodic) => periodic.step_ms(),
            Schedule::Revisions { .. } => REVISIONS_EVERY_MS,
        })
    }

    /// What to do before each pause: note the revision.
    fn note(&mut self, revision: u64) {
        if let Schedule::Periodic(periodic) = self {
            periodic.note(revision);
        }
    }

    /// What to do after the pause: the revision to compact at, if it is time and there is anything new. Only a leader asks.
    fn due(&mut self, now: Millis, revision: u64) -> Option<u64> {
        match self {
            Schedule::Periodic(periodic) => periodic.due(now),
            Schedule::Revisions { keep, last } => {
                let target = revision.checked_sub(*keep).filter(|target| *target > 0)?;
                (target != *last).then_some(target)
            }
        }
    }

    /// Notes that this was compacted.
    fn done(&mut self, now: Millis, revision: u64) {
        match self {
            Schedule::Periodic(periodic) => (periodic.last, periodic.since) = (revision, now),
            Schedule::Revisions { last, .. } => *last = revision,
        }
    }

    /// As the log's lines name it.
    fn name(&self) -> &'static str {
        if matches!(self, Schedule::Periodic(_)) { "periodic" } else { "revision" }
    }
}

/// Compacts as configured, until the member stops.
pub(super) async fn run(node: Node, what: AutoCompaction) {
    let mut schedule = Schedule::new(what, node.inner.now());
    let revision = || node.read(|machine| machine.store().revision().0);
    let pause = schedule.pause();
    let mut every = tokio::time::interval(pause);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    every.tick().await;
    loop {
        schedule.note(revision());
        every.tick().await;
        if !node.inner.is_leader() {
            continue;
        }
        let Some(target) = schedule.due(node.inner.now(), revision()) else { continue };
        let (name, began) = (schedule.name(), node.inner.now());
        tracing::info!(revision = target, "starting auto {name} compaction");
        match compact(&node, target).await {
            Ok(_) | Err(Error::Compacted) => {
                let now = node.inner.now();
                schedule.done(now, target);
                let took = Duration::from_millis(now.0 - began.0);
                tracing::info!(revision = target, took = ?took, "completed auto {name} compaction");
            }
            Err(Error::Stopped) => return,
            Err(why) => {
                tracing::warn!(
                    revision = target,
                    "retry-interval" = ?pause,
                    error = %why,
                    "failed auto {name} compaction"
                );
            }
        }
    }
}

async fn compact(node: &Node, revision: u64) -> Result<Reply, Error> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let compaction = Some(pb::CompactionRequest { revision, physical: false });
    node.propose(pb::InternalRaftRequest { compaction, ..Default::default() }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays hours in which every minute has ten writes; tells at which minutes what was compacted.
    fn play(what: AutoCompaction, minutes: u64, leads: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
        let mut schedule = Schedule::new(what, Millis(0));
        let revision = |now: u64| 1 + now / 6_000;
        let (mut now, mut done) = (0, Vec::new());
        while now < minutes * 60_000 {
            schedule.note(revision(now));
            now += schedule.pause().as_millis() as u64;
            let minute = now / 60_000;
            if !leads(minute) {
                continue;
            }
            if let Some(target) = schedule.due(Millis(now), revision(now)) {
                schedule.done(Millis(now), target);
                done.push((minute, target));
            }
        }
        done
    }

    fn hours(hours: u64) -> AutoCompaction {
        AutoCompaction::Periodic(Duration::from_secs(hours * 3600))
    }

    #[test]
    fn an_hour_of_history_is_kept_and_cut_every_hour() {
        // Ten writes a minute and a note every six: at minute 120 the oldest note is of minute 54.
        assert_eq!(play(hours(1), 200, |_| true), [(60, 1), (120, 541), (180, 1141)]);
    }

    #[test]
    fn a_long_period_is_waited_for_once_and_then_cut_every_hour() {
        assert_eq!(play(hours(3), 330, |_| true), [(180, 1), (240, 541), (300, 1141)]);
    }

    #[test]
    fn a_short_period_is_cut_every_period() {
        let ten = AutoCompaction::Periodic(Duration::from_secs(600));
        assert_eq!(play(ten, 35, |_| true), [(10, 1), (20, 91), (30, 191)]);
    }

    #[test]
    fn a_member_that_begins_to_lead_knows_the_past() {
        assert_eq!(play(hours(1), 130, |minute| minute >= 90), [(90, 241)]);
    }

    #[test]
    fn nothing_is_compacted_where_nothing_was_written() {
        let mut schedule = Schedule::new(hours(1), Millis(0));
        let mut done = 0;
        for step in 1..100 {
            schedule.note(7);
            if let Some(target) = schedule.due(Millis(step * 6 * 60_000), 7) {
                schedule.done(Millis(step * 6 * 60_000), target);
                done += 1;
            }
        }
        assert_eq!(done, 1);
    }

    #[test]
    fn what_failed_is_tried_again_at_the_next_note() {
        let mut schedule = Schedule::new(hours(1), Millis(0));
        let mut asked = Vec::new();
        for step in 1..=12 {
            schedule.note(step);
            asked.extend(schedule.due(Millis(step * 6 * 60_000), step).map(|target| (step, target)));
        }
        assert_eq!(asked, [(10, 1), (11, 1), (12, 2)], "never done, so always due, and the window moves on");
    }

    #[test]
    fn the_last_revisions_are_kept() {
        let keep = AutoCompaction::Revisions(100);
        assert_eq!(play(keep, 21, |_| true), [(10, 1), (15, 51), (20, 101), (25, 151)]);
        assert_eq!(play(AutoCompaction::Revisions(10_000), 21, |_| true), []);
    }

    #[test]
    fn no_period_is_too_short() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(Duration::from_nanos(1)), Millis(0));
        schedule.note(1);
        assert_eq!(schedule.pause(), Duration::from_millis(1));
        assert_eq!(schedule.due(Millis(1), 1), Some(1));
    }

    #[test]
    fn no_period_is_too_long() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(Duration::MAX), Millis(7));
        schedule.note(1);
        assert_eq!(schedule.due(Millis(u64::MAX / 2), 9), None);
    }
}
