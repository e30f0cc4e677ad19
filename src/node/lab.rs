//! What the lab asks of a member beyond watching it: its clock, its held messages, its links, its disk; and a look at what is no event.
//!
//! Messages wait here, before raft, while the clock is held or slow: [`Desk`]. Never while the lab leaves the clock alone.

use super::Input;
use super::Node;
use super::pace::HOP;
use super::raft_thread::RaftThread;
use super::telemetry;
use super::telemetry::Observer;
use crate::consensus::wire_of;
use crate::error::Error;
use crate::peer::LinkRule;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::Message;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Revision;
use crate::wall;
use crate::watch::History as _;
use crate::watch::Past;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;

/// Most messages that wait; what comes beyond is lost, as on a full link.
const HELD_MAX: usize = 4096;
/// Most of anything in one [`lab::LookResponse`].
const LOOK_MAX: usize = 200;
/// Most keys told of one lease.
const LEASE_KEYS_MAX: usize = 5;

/// What the raft thread is asked to do for the lab.
pub(super) enum Order {
    Clock(lab::SetClock, oneshot::Sender<Result<(), String>>),
    Step(lab::step::What, oneshot::Sender<Result<(), String>>),
    Timer(u32, oneshot::Sender<Result<(), String>>),
    Held(oneshot::Sender<Vec<lab::Held>>),
    Power,
}

/// Peers' messages that wait for the lab's clock, in the order in which they came.
#[derive(Default)]
pub(super) struct Desk {
    waiting: VecDeque<(u64, Millis, Message)>,
    last: u64,
    /// Peers whose process is gone, and the last message that had come by then: what they sent is heard before it is known that they are gone.
    lost: Vec<(MemberId, u64)>,
}

impl Desk {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the first may go on, if the clock goes.
    pub(super) fn due(&self) -> Option<Millis> {
        self.waiting.front().map(|(_, due, _)| *due)
    }

    /// The first of the lost peers of which nothing waits any more that came before it was lost.
    fn next_lost(&mut self) -> Option<MemberId> {
        let waits = |peer: MemberId, last: u64| self.waiting.iter().any(|(id, _, m)| m.from == peer.0 && *id <= last);
        let place = self.lost.iter().position(|(peer, last)| !waits(*peer, *last))?;
        Some(self.lost.remove(place).0)
    }

    fn take(&mut self, id: u64) -> Option<Message> {
        let place = self.waiting.iter().position(|(waits, ..)| *waits == id)?;
        self.waiting.remove(place).map(|(.., message)| message)
    }
}

impl RaftThread {
    /// Keeps a peer's message back.
    pub(super) fn keep_back(&mut self, message: Message) {
        let probe = &mut self.replica.consensus.probe;
        if self.desk.waiting.len() == HELD_MAX {
            let reason = "too many messages are held".into();
            probe.tell(|| Kind::Dropped(lab::Dropped { wire: Some(wire_of(&message)), reason }));
            return;
        }
        self.desk.last += 1;
        let id = self.desk.last;
        probe.tell(|| Kind::Held(lab::Held { id, wire: Some(wire_of(&message)) }));
        let hop = u64::try_from(HOP.as_millis()).unwrap_or(u64::MAX);
        self.desk.waiting.push_back((id, self.inner.now().plus(hop), message));
    }

    /// Lets on what has waited long enough by the lab's clock; everything, once that is as fast as the world's.
    pub(super) fn let_on(&mut self, now: Millis) {
        let (held, all) = (self.inner.pace.setting().0, !self.inner.pace.delays());
        while !held && self.desk.due().is_some_and(|due| all || due <= now) {
            let Some((id, _, message)) = self.desk.waiting.pop_front() else { return };
            self.free(id, Some(message));
        }
    }

    /// `None`: it is lost.
    fn free(&mut self, id: u64, message: Option<Message>) {
        self.replica.consensus.probe.tell(|| Kind::Freed(lab::Freed { id, dropped: message.is_none() }));
        if let Some(message) = message {
            self.hear(message);
        }
        self.tell_lost();
    }

    /// The process of `peer` is gone. On a slow or held wire its last messages come first, as they do on a real one.
    pub(super) fn lose(&mut self, peer: MemberId) {
        self.desk.lost.retain(|(lost, _)| *lost != peer);
        self.desk.lost.push((peer, self.desk.last));
        self.tell_lost();
    }

    fn tell_lost(&mut self) {
        while let Some(peer) = self.desk.next_lost() {
            self.replica.peer_lost(peer, self.inner.now());
        }
    }

    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Clock(set, answer) => {
                self.inner.pace.set(self.inner.started.elapsed(), set.held, set.slower);
                let clock = self.inner.clock();
                self.replica.consensus.probe.tell(|| Kind::Clock(clock));
                let _gone = answer.send(Ok(()));
            }
            Order::Step(what, answer) => {
                let done = self.one_step(what);
                self.steps.push((answer, done));
            }
            Order::Timer(ticks, answer) => {
                let set = self.replica.consensus.set_timer(ticks);
                let _gone = answer.send(if set { Ok(()) } else { Err("a timer has 1 to 1000 ticks".into()) });
            }
            Order::Power => {
                self.lose_unsynced();
                let _ends = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            Order::Held(answer) => {
                let held = self.desk.waiting.iter().take(LOOK_MAX);
                let held = held.map(|(id, _, message)| lab::Held { id: *id, wire: Some(wire_of(message)) });
                let _gone = answer.send(held.collect());
            }
        }
    }

    fn one_step(&mut self, what: lab::step::What) -> Result<(), String> {
        if !self.inner.pace.setting().0 {
            return Err("the clock runs: hold it first".into());
        }
        match what {
            lab::step::What::Tick(_) => {
                self.inner.pace.advance(Duration::from_millis(self.inner.config.tick_ms));
                let clock = self.inner.clock();
                self.replica.consensus.probe.tell(|| Kind::Clock(clock));
            }
            lab::step::What::Deliver(id) => {
                let message = self.desk.take(id).ok_or("that message waits no longer")?;
                self.free(id, Some(message));
            }
            lab::step::What::Drop(id) => {
                let message = self.desk.take(id).ok_or("that message waits no longer")?;
                let wire = wire_of(&message);
                self.free(id, None);
                let lost = lab::Dropped { wire: Some(wire), reason: "dropped by the lab".into() };
                self.replica.consensus.probe.tell(|| Kind::Dropped(lost));
            }
        }
        Ok(())
    }
}

impl super::Inner {
    /// The lab's clock as observers are told of it.
    pub(super) fn clock(&self) -> lab::Clock {
        let (held, slower) = self.pace.setting();
        lab::Clock { held, slower, lab_ms: self.now().0 }
    }

    /// The same as a time-out, by the lab's clock. `None`: it took too long.
    pub(super) async fn within<T>(&self, limit: Duration, wait: impl Future<Output = T>) -> Option<T> {
        let deadline = self.now().plus(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let mut wait = std::pin::pin!(wait);
        let mut left = limit;
        loop {
            if let Ok(done) = tokio::time::timeout(left, &mut wait).await {
                return Some(done);
            }
            // The world's time has passed; the lab's may stand still.
            match deadline.0.saturating_sub(self.now().0) {
                0 => return None,
                ms => left = self.pace.real(Duration::from_millis(ms)),
            }
        }
    }
}

impl Node {
    /// Starts an election on this member now. False if it may not win one, or leads already.
    pub async fn campaign(&self) -> bool {
        let (answer, done) = oneshot::channel();
        self.inner.inbox.force(Input::Campaign(answer));
        done.await.unwrap_or(false)
    }

    /// The lab's clock: whether it is held, how many times slower it goes, and what it shows.
    #[must_use]
    pub fn clock(&self) -> lab::Clock {
        self.inner.clock()
    }

    /// Sets the lab's rule for the link to another member; whether there is such a link.
    #[must_use]
    pub fn set_link(&self, rule: &lab::SetLink) -> bool {
        let peer = MemberId(rule.peer);
        let known =
            peer != self.inner.id && self.read(|machine| machine.members().iter().any(|member| member.id == peer));
        let Some(peers) = self.inner.peers.get().filter(|_| known) else { return false };
        let drop_out_percent = u8::try_from(rule.drop_out_percent.min(100)).unwrap_or(100);
        let delay_out = Duration::from_micros(rule.delay_out_us);
        peers.rules().set(peer, LinkRule { cut_out: rule.cut_out, cut_in: rule.cut_in, drop_out_percent, delay_out });
        true
    }

    /// Makes every sync of the log slower by this much; has the log's next write fail for want of room, or its next sync.
    pub fn set_disk(&self, delay: Duration, is_full: bool, fails: bool) {
        self.inner.pace.set_sync_delay(delay);
        self.inner.pace.set_disk(is_full, fails);
    }

    /// Ends this process at once; what its log has not synced is gone.
    pub fn lose_power(&self) {
        self.inner.inbox.force(Input::Lab(Order::Power));
    }

    /// Leaves clients' calls before the door, or lets them in.
    pub fn cut_clients(&self, cut: bool) {
        self.inner.pace.cut_clients(cut);
    }

    /// Returns once clients' calls may come in: at once, unless the lab has cut them off.
    pub async fn let_in(&self) {
        self.inner.pace.let_in().await;
    }

    /// Holds the lab's clock, slows it down, or lets it go.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn set_clock(&self, set: lab::SetClock) -> Result<(), String> {
        self.ordered(|answer| Order::Clock(set, answer)).await
    }

    /// One step of a held member: a tick, or one of its held messages. Returns when what comes of it here is written, synced, sent and told.
    ///
    /// # Errors
    /// A sentence for the user: the clock runs, or there is no such message.
    pub async fn step(&self, what: lab::step::What) -> Result<(), String> {
        self.ordered(|answer| Order::Step(what, answer)).await
    }

    /// Sets the election timer to run out in so many ticks.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn set_timer(&self, ticks: u32) -> Result<(), String> {
        self.ordered(|answer| Order::Timer(ticks, answer)).await
    }

    async fn ordered(&self, order: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Order) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        self.inner.inbox.force(Input::Lab(order(answer)));
        done.await.unwrap_or_else(|_| Err("the member stops".into()))
    }

    /// What is no event: watchers, leases, the newest changes, held messages, link rules. Each list is cut.
    ///
    /// # Errors
    /// [`Error::Stopped`]; those of reading history.
    pub async fn look(&self, since: u64) -> Result<lab::LookResponse, Error> {
        let (answer, held) = oneshot::channel();
        self.inner.inbox.force(Input::Lab(Order::Held(answer)));
        let held = held.await.map_err(|_| Error::Stopped)?;
        let (seen, watchers_total) = self.inner.watches.look(LOOK_MAX);
        let (leases, leases_total) = self.lease_views();
        let (revision, floor) = self.read(|machine| (machine.store().revision(), machine.store().compacted()));
        let rules = self.inner.peers.get().map(|peers| peers.rules().all()).unwrap_or_default();
        let link = |(peer, rule): (MemberId, LinkRule)| lab::SetLink {
            peer: peer.0,
            cut_out: rule.cut_out,
            cut_in: rule.cut_in,
            drop_out_percent: rule.drop_out_percent.into(),
            delay_out_us: u64::try_from(rule.delay_out.as_micros()).unwrap_or(u64::MAX),
        };
        Ok(lab::LookResponse {
            clock: Some(self.inner.clock()),
            held,
            watchers: seen.into_iter().map(crate::watch::Seen::into_wire).collect(),
            watchers_total: small(watchers_total),
            leases,
            leases_total: small(leases_total),
            revision: revision.0,
            compact_revision: floor.map_or(0, |floor| floor.0),
            changes: self.changes(since, revision, floor)?,
            links: rules.into_iter().map(link).collect(),
            wall_offset_ms: wall::offset_ms(),
            rights: Some(self.read(|machine| machine.auth().look(LOOK_MAX))),
            sync_delay_us: u64::try_from(self.inner.pace.sync_delay().as_micros()).unwrap_or(u64::MAX),
        })
    }

    fn lease_views(&self) -> (Vec<lab::LeaseView>, usize) {
        let now = self.inner.now();
        let leads = self.inner.is_leader();
        self.read(|machine| {
            let timers = self.inner.timers.lock();
            let left = |id| match leads && timers.is_leading() {
                true => timers.remaining(now, id).and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0),
                false => -1,
            };
            let view = |(id, lease): (LeaseId, &crate::lease::Lease)| lab::LeaseView {
                id: id.0,
                ttl_s: lease.ttl,
                left_ms: left(id),
                keys_total: small(lease.keys().count()),
                keys: lease.keys().take(LEASE_KEYS_MAX).cloned().collect(),
            };
            (machine.leases().iter().take(LOOK_MAX).map(view).collect(), machine.leases().len())
        })
    }

    /// The newest changes from `since` on; those that are too many are the oldest, which an observer that asks often has seen.
    fn changes(&self, since: u64, current: Revision, floor: Option<Revision>) -> Result<Vec<lab::Change>, Error> {
        let newest = current.0.saturating_sub(LOOK_MAX as u64 - 1);
        let from = Revision(since.max(newest).max(floor.map_or(0, |floor| floor.0)).max(1));
        if since == 0 || from > current {
            return Ok(Vec::new());
        }
        let all = KeyRange::From(Bytes::from_static(b"\0"));
        let Past::Events { events, .. } = self.inner.machine.events(&all, from, LOOK_MAX)? else {
            // Compacted between the two looks: the next look begins above it.
            return Ok(Vec::new());
        };
        let change = |event: crate::proto::mvccpb::Event| {
            let kv = event.kv?;
            let revision = kv.mod_revision.unsigned_abs();
            let deleted = event.r#type != 0;
            Some(lab::Change { revision, key: kv.key, deleted, version: kv.version, lease: kv.lease })
        };
        // One revision may change very many keys.
        Ok(events.into_iter().filter_map(change).take(LOOK_MAX * 5).collect())
    }

    /// Telemetry from now on, its opening snapshot first.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn observe(&self) -> Result<(lab::Batch, Observer), Error> {
        let listeners = self.inner.tap.listeners.clone();
        listeners.join();
        let (answer, snapshot) = oneshot::channel();
        self.inner.inbox.force(Input::Snapshot(answer));
        let Ok((mut snapshot, observer)) = snapshot.await else {
            listeners.leave();
            return Err(Error::Stopped);
        };
        self.read(|machine| {
            snapshot.revision = machine.store().revision().0;
            snapshot.members = Some(telemetry::members(machine.members()));
        });
        snapshot.name = self.inner.config.name.clone();
        snapshot.version = crate::types::ETCD_VERSION.into();
        snapshot.cluster_id = self.inner.cluster.0;
        snapshot.clock = Some(self.inner.clock());
        let opening = lab::Event { kind: Some(Kind::Snapshot(Box::new(snapshot))) };
        Ok((observer.opening(opening), observer))
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
