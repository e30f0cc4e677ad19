//! From the probes to the observers: stamps events with the time and keeps them until whoever listens takes them, many at once.
//!
//! ```text
//! probe ─drain─┐
//! probe ─drain─┼─▶ one lock: number, time ─▶ a line for each observer ─take─▶ Batch
//! tell ────────┘
//! ```
//!
//! A line is bounded and lossy: an observer that falls behind loses the newest events and is told how many. Nothing here waits for an observer. One is woken by
//! the first event of a batch only, and not for a tick of a timer: that goes with what comes next, or a moment later.

use crate::apply::Reply;
use crate::consensus;
use crate::error::Error;
use crate::membership::Member;
use crate::membership::Members;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::etcdserverpb::InternalRaftRequest;
use crate::proto::lab;
use crate::proto::lab::Batch;
use crate::proto::lab::Event;
use crate::proto::lab::Telemetry;
use crate::proto::lab::event::Kind;
use crate::types::MemberId;
use crate::types::Millis;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Notify;

/// Events that one observer may lag behind.
const LAG_EVENTS: usize = 16 * 1024;
/// Events in one batch.
const BATCH_EVENTS: usize = 2_000;
/// Requests of one second that are told of one by one. What they write is in the entries, whole; beyond these the two events of each would be most of
/// what the tap costs, and nobody can look at so many.
const REQUESTS_TOLD: u64 = 500;
/// For so long an event that wakes nobody waits for one that does.
const LAZY: Duration = Duration::from_millis(100);
/// A moment, of whose entries so many are told in words.
const MOMENT_US: u64 = 100_000;

/// Where all probes of one member end.
pub(crate) struct Tap {
    pub(crate) listeners: Listeners,
    member: MemberId,
    boot: u64,
    started: Instant,
    /// The lock makes numbers and times ascend together.
    told: Arc<Mutex<Told>>,
    requests: Mutex<Requests>,
}

/// Requests of this second.
#[derive(Default)]
struct Requests {
    second: u64,
    told: u64,
    untold: u64,
}

/// What was told, and to whom.
#[derive(Default)]
struct Told {
    seq: u64,
    lines: Vec<Line>,
}

/// What one observer has not taken yet.
struct Line {
    waiting: Vec<Telemetry>,
    missed: u64,
    /// Its observer was woken since it took something.
    woken: bool,
    news: Arc<Notify>,
}

impl Line {
    fn push(&mut self, telemetry: Telemetry, wakes: bool) {
        if self.waiting.len() == LAG_EVENTS {
            self.missed += 1;
            return;
        }
        self.waiting.push(telemetry);
        if wakes && !self.woken {
            self.woken = true;
            self.news.notify_one();
        }
    }
}

impl Tap {
    /// `boot` tells this run of the process from the ones before.
    pub(crate) fn new(member: MemberId, boot: u64, started: Instant) -> Tap {
        Tap { listeners: Listeners::default(), member, boot, started, told: Arc::default(), requests: Mutex::default() }
    }

    /// A probe that ends here.
    pub(crate) fn probe(&self) -> Probe {
        Probe::new(self.listeners.clone())
    }

    /// Sends what `probe` has gathered.
    pub(crate) fn drain(&self, probe: &mut Probe) {
        if self.listeners.any() && !probe.is_empty() {
            let (events, dropped) = probe.drain();
            let at_us = self.send(events, dropped);
            probe.refill(at_us / MOMENT_US);
        }
    }

    /// Whether a request is told of; with it, how many were not since the last one that was.
    pub(crate) fn admit(&self, now: Millis) -> Option<u64> {
        if !self.listeners.any() {
            return None;
        }
        let mut requests = self.requests.lock();
        if requests.second != now.0 / 1_000 {
            (requests.second, requests.told) = (now.0 / 1_000, 0);
        }
        if requests.told == REQUESTS_TOLD {
            requests.untold += 1;
            return None;
        }
        requests.told += 1;
        Some(std::mem::take(&mut requests.untold))
    }

    /// Sends one event from outside the step functions.
    pub(crate) fn tell(&self, make: impl FnOnce() -> Kind) {
        if self.listeners.any() {
            self.send([Event { kind: Some(make()) }], 0);
        }
    }

    /// Returns its time.
    fn send(&self, events: impl IntoIterator<Item = Event>, dropped: u64) -> u64 {
        let mut told = self.told.lock();
        let at_us = self.at_us();
        let Told { seq, lines } = &mut *told;
        for event in events {
            *seq += 1;
            let wakes = !matches!(event.kind, Some(Kind::Timer(_)));
            let telemetry = Telemetry { at_us, seq: *seq, event: Some(event), ..Telemetry::default() };
            let Some((last, others)) = lines.split_last_mut() else { continue };
            others.iter_mut().for_each(|line| line.push(telemetry.clone(), wakes));
            last.push(telemetry, wakes);
        }
        // What had no room in the probe came after what had: the gap is before the next event.
        *seq += dropped;
        at_us
    }

    fn at_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A line of one's own for what is told from now on. [`Listeners::join`] comes first; dropping the observer takes it back. `slowed` tells whether the member's
    /// clock is held or slow.
    pub(crate) fn observe(&self, slowed: Arc<AtomicBool>) -> Observer {
        let news = Arc::new(Notify::new());
        let mut told = self.told.lock();
        told.lines.push(Line { waiting: Vec::new(), missed: 0, woken: false, news: news.clone() });
        Observer {
            told: self.told.clone(),
            listeners: self.listeners.clone(),
            slowed,
            news,
            opening: Telemetry { at_us: self.at_us(), seq: told.seq, ..Telemetry::default() },
            blank: Batch { member_id: self.member.0, boot_id: self.boot, ..Batch::default() },
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.told.lock().lines.drain(..).for_each(|line| line.news.notify_one());
    }
}

/// One observer's end of the tap.
pub struct Observer {
    told: Arc<Mutex<Told>>,
    listeners: Listeners,
    slowed: Arc<AtomicBool>,
    news: Arc<Notify>,
    opening: Telemetry,
    blank: Batch,
}

impl Observer {
    /// The batch that comes before all others: what an observer needs to start with, as it was when this one began.
    #[must_use]
    pub fn opening(&self, event: Event) -> Batch {
        let opening = Telemetry { event: Some(event), ..self.opening.clone() };
        Batch { events: vec![opening], ..self.blank.clone() }
    }

    /// Whether the member's clock is held or slow.
    #[must_use]
    pub fn is_slowed(&self) -> bool {
        self.slowed.load(Ordering::Relaxed)
    }

    /// Waits until something was told, then so long for what comes with it, and takes all of it; what is more than a batch comes at once with the next
    /// call. `None`: the member has stopped. Safe to drop and call again.
    #[expect(clippy::disallowed_methods, reason = "what comes within some milliseconds is sent together")]
    pub async fn next(&mut self, gather: Duration) -> Option<Batch> {
        loop {
            let (waiting, woken) = self.waiting()?;
            if waiting >= BATCH_EVENTS {
                break;
            }
            if woken {
                tokio::time::sleep(gather).await;
                break;
            }
            let lazy = tokio::time::timeout(LAZY, self.news.notified()).await.is_err();
            if lazy && self.waiting()?.0 > 0 {
                break;
            }
        }
        self.take()
    }

    /// How many events wait, and whether one of them has woken this observer.
    fn waiting(&self) -> Option<(usize, bool)> {
        let told = self.told.lock();
        let line = told.lines.iter().find(|line| Arc::ptr_eq(&line.news, &self.news))?;
        Some((line.waiting.len(), line.woken))
    }

    fn take(&self) -> Option<Batch> {
        let mut told = self.told.lock();
        let line = told.lines.iter_mut().find(|line| Arc::ptr_eq(&line.news, &self.news))?;
        let rest = match line.waiting.len() > BATCH_EVENTS {
            true => line.waiting.split_off(BATCH_EVENTS),
            // The next batch is about as large.
            false => Vec::with_capacity(line.waiting.len()),
        };
        // What is more than a batch goes at once.
        line.woken = !rest.is_empty();
        let events = std::mem::replace(&mut line.waiting, rest);
        Some(Batch { dropped: line.missed, events, ..self.blank.clone() })
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.told.lock().lines.retain(|line| !Arc::ptr_eq(&line.news, &self.news));
        self.listeners.leave();
    }
}

/// A request has come in.
pub(crate) fn proposed(id: u64, request: &InternalRaftRequest, untold: u64) -> Kind {
    Kind::Proposed(lab::Proposed { request_id: id, summary: consensus::summary_of(request), untold })
}

/// A request was answered.
pub(crate) fn answered(id: u64, result: &Result<Reply, Error>, took_ms: u64) -> Kind {
    let revision = result.as_ref().ok().and_then(revision).unwrap_or(0);
    Kind::Answered(lab::Answered { request_id: id, ok: result.is_ok(), revision, took_us: took_ms * 1000 })
}

/// The revision that an answer speaks of.
fn revision(reply: &Reply) -> Option<u64> {
    let header = match reply {
        Reply::Put(r) => &r.header,
        Reply::DeleteRange(r) => &r.header,
        Reply::Txn(r) => &r.header,
        Reply::Compaction(r) => &r.header,
        Reply::LeaseGrant(r) => &r.header,
        Reply::LeaseRevoke(r) => &r.header,
        Reply::Alarm(r) => &r.header,
        Reply::Auth(header) | Reply::Authenticate { header, .. } => return u64::try_from(header.revision).ok(),
        Reply::Done => &None,
    };
    header.as_ref().and_then(|header| u64::try_from(header.revision).ok())
}

/// Entries up to `index` are durable here.
pub(crate) fn persisted(index: u64, entries: usize, bytes: usize, took: Duration) -> Kind {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let sync_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    Kind::Persisted(lab::Persisted { index, entries: small(entries), bytes: small(bytes), sync_us })
}

/// Who is a member.
pub(crate) fn members(members: &Members) -> lab::Members {
    let tell = |member: &Member| lab::LabMember {
        id: member.id.0,
        name: member.name.clone(),
        learner: member.is_learner,
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
    };
    lab::Members { members: members.iter().map(tell).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[expect(clippy::disallowed_methods, reason = "a tap begins at some time")]
    fn now() -> Instant {
        Instant::now()
    }

    fn note(text: &str) -> Kind {
        Kind::Note(lab::Note { text: text.into() })
    }

    fn tap() -> (Tap, Observer) {
        let tap = Tap::new(MemberId(7), 9, now());
        tap.listeners.join();
        let observer = tap.observe(Arc::default());
        (tap, observer)
    }

    fn texts(batch: &Batch) -> Vec<(u64, String)> {
        let text = |t: &Telemetry| match t.event.as_ref().and_then(|e| e.kind.as_ref()) {
            Some(Kind::Note(note)) => note.text.clone(),
            _ => String::new(),
        };
        batch.events.iter().map(|t| (t.seq, text(t))).collect()
    }

    #[tokio::test]
    async fn every_observer_gets_everything_once_and_in_order() {
        let (tap, mut first) = tap();
        tap.tell(|| note("a"));
        tap.listeners.join();
        let mut second = tap.observe(Arc::default());
        tap.tell(|| note("b"));
        let batch = first.next(AT_ONCE).await.expect("it goes on");
        assert_eq!(texts(&batch), [(1, "a".into()), (2, "b".into())]);
        assert_eq!((batch.member_id, batch.boot_id, batch.dropped), (7, 9, 0));
        assert_eq!(texts(&second.next(AT_ONCE).await.expect("it goes on")), [(2, "b".into())]);
        drop(second);
        assert!(tap.listeners.any());
        let waits = tokio::spawn(async move { first.next(AT_ONCE).await.map(|batch| texts(&batch)) });
        tap.tell(|| note("c"));
        assert_eq!(waits.await.expect("no panic"), Some(vec![(3, "c".into())]));
        assert!(!tap.listeners.any(), "the last one has left");
    }

    #[tokio::test]
    async fn who_lags_too_far_misses_the_newest_and_is_told_how_many() {
        let (tap, mut observer) = tap();
        for _ in 0..LAG_EVENTS + 3 {
            tap.tell(|| note(""));
        }
        let mut got = 0;
        while got < LAG_EVENTS {
            let batch = observer.next(AT_ONCE).await.expect("it goes on");
            assert!(batch.dropped == 3 && batch.events.len() <= BATCH_EVENTS);
            got += batch.events.len();
        }
        assert_eq!(got, LAG_EVENTS);
        tap.tell(|| note("after"));
        let batch = observer.next(AT_ONCE).await.expect("it goes on");
        assert_eq!(texts(&batch), [(LAG_EVENTS as u64 + 4, "after".into())], "the gap shows in the numbers");
    }

    #[test]
    fn of_very_many_requests_some_are_told_of_and_the_others_counted() {
        let quiet = Tap::new(MemberId(7), 9, now());
        assert_eq!(quiet.admit(Millis(0)), None, "nobody listens");
        let (tap, _observer) = tap();
        let admitted = |ms: u64, count: u64| (0..count).filter_map(|_| tap.admit(Millis(ms))).collect::<Vec<_>>();
        assert_eq!(admitted(5_000, REQUESTS_TOLD + 20).len() as u64, REQUESTS_TOLD);
        assert!(admitted(5_999, 3).is_empty());
        assert_eq!(admitted(6_000, 2), [23, 0]);
    }

    #[tokio::test]
    async fn a_tick_wakes_nobody_and_comes_all_the_same() {
        let (tap, mut observer) = tap();
        let tick = || Kind::Timer(lab::Timer::default());
        tap.tell(tick);
        let first = observer.next(AT_ONCE).await.expect("it goes on");
        assert_eq!(first.events.len(), 1, "nothing else comes, so it goes alone");
        tap.tell(tick);
        assert!(futures::poll!(std::pin::pin!(observer.next(AT_ONCE))).is_pending());
        tap.tell(|| note("a"));
        assert_eq!(texts(&observer.next(AT_ONCE).await.expect("it goes on")), [(2, String::new()), (3, "a".into())]);
    }

    #[tokio::test]
    async fn an_observer_of_a_stopped_member_hears_the_end() {
        let (tap, mut observer) = tap();
        let waits = tokio::spawn(async move { observer.next(AT_ONCE).await });
        drop(tap);
        assert_eq!(waits.await.expect("no panic"), None);
    }
}
