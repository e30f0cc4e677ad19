//! The raft thread: consensus and the write-ahead log.
//!
//! One round: take everything that arrived, tick if it is time, hand it to raft, then work off what raft wants done. What arrives while the
//! log syncs waits for the next round and shares its sync: group commit without a timer.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use super::Inner;
use super::Input;
use super::ReadWaiter;
use super::apply_thread::Work;
use super::install::Verdict;
use super::mailbox::Mailbox;
use super::mailbox::duration;
use super::send;
use super::snap_file;
use super::telemetry;
use crate::consensus::Consensus;
use crate::consensus::Refused;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::meter;
use crate::probe::Probe;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::replica::Outside;
use crate::replica::Replica;
use crate::replica::Ticker;
use crate::replica::Ticks;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Term;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// A sync that takes longer than this is worth a warning; etcd's value.
const SLOW_SYNC: Duration = Duration::from_secs(1);

pub(crate) struct RaftThread {
    inner: Arc<Inner>,
    replica: Replica<ReadWaiter>,
    hands: Hands,
    /// Who waits to hear what raft made of a snapshot.
    verdicts: Vec<(Verdict, Result<(), Refused>)>,
}

impl RaftThread {
    pub(crate) fn new(
        inner: Arc<Inner>,
        replica: Replica<ReadWaiter>,
        wal: Wal,
        apply: Arc<Mailbox<Work>>,
    ) -> RaftThread {
        let hands = Hands { inner: inner.clone(), wal, apply, seen: (Term(0), MemberId::NONE), now: Millis(0) };
        RaftThread { inner, replica, hands, verdicts: Vec::new() }
    }

    /// Runs until the inbox is closed or the disk fails.
    pub(crate) fn run(mut self) {
        if let Err(why) = self.rounds() {
            self.inner.fail(why);
        }
        let _synced = self.hands.wal.sync();
        self.hands.apply.close();
    }

    fn rounds(&mut self) -> Result<(), Error> {
        let mut ticker = Ticker::new(self.inner.now(), self.inner.config.tick_ms);
        let mut inputs = Vec::new();
        loop {
            let next = ticker.next();
            let wait = duration(self.inner.now(), self.replica.due().map_or(next, |due| due.min(next)));
            if !self.inner.inbox.take_all(&mut inputs, wait) {
                return Ok(());
            }
            for input in inputs.drain(..) {
                self.take(input)?;
            }
            let now = self.inner.now();
            self.tick(ticker.due(now), now);
            self.hands.now = now;
            self.replica.turn(now, self.inner.applied.get(), &mut self.hands)?;
            self.prepare_segment();
            self.answer(now);
        }
    }

    /// Has the next segment filled with zeros in good time, by another thread.
    fn prepare_segment(&mut self) {
        if let Some(preparation) = self.hands.wal.prepare_next() {
            let inner = self.inner.clone();
            std::thread::spawn(move || inner.inbox.force(Input::Segment(preparation.run())));
        }
    }

    fn tick(&mut self, due: Ticks, now: Millis) {
        let published = &self.inner.published;
        if due.stalled {
            published.stalls.fetch_add(1, Ordering::AcqRel);
        }
        for _ in 0..due.count {
            self.replica.consensus.tick();
        }
        published.ticked_ms.store(now.0, Ordering::Release);
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        let consensus = &mut self.replica.consensus;
        match input {
            Input::Propose(proposal) => self.replica.propose(proposal),
            Input::Read(waiter) => self.replica.read(waiter),
            Input::Peer(message) => self.replica.step(*message),
            Input::Unreachable(member) => consensus.report_unreachable(member),
            Input::Lost(member) => self.replica.peer_lost(member, self.inner.now()),
            Input::ConfChange(index, change, answer) => {
                let _waits = answer.send(self.replica.count(index, &change));
            }
            Input::Transfer(to) => consensus.transfer_leader(to),
            Input::Campaign(answer) => {
                let _gone = answer.send(consensus.campaign());
            }
            Input::Snapshot(answer) => {
                // Subscribed between two rounds: no event falls between the snapshot and the stream.
                self.inner.tap.drain(&mut consensus.probe);
                let _gone = answer.send((consensus.snapshot(), self.inner.tap.observe()));
            }
            Input::BestFollower(answer) => {
                let id = self.inner.id;
                let others = consensus.progress().filter(|(member, _, active)| *member != id && *active);
                let voters = consensus.conf_state().voters;
                let best =
                    others.filter(|(member, ..)| voters.contains(&member.0)).max_by_key(|(_, matched, _)| *matched);
                let _gone = answer.send(best.map(|(member, ..)| member));
            }
            Input::Progress(answer) => {
                let progress = consensus.progress().map(|(member, matched, _)| (member, matched));
                let _gone = answer.send(progress.collect());
            }
            Input::Durable(mark, members) => {
                let keep = match self.inner.snapshots.keeping_log.load(Ordering::Acquire) {
                    0 => (self.inner.config.snapshot_catchup_entries, send::LOG_BYTES),
                    _ => (u64::MAX, send::LOG_BYTES_HELD),
                };
                self.replica.release(&mark, &members, keep, &mut self.hands)?;
            }
            Input::Received(message, verdict) => {
                // Told when the round is over: raft's use for it is on disk then.
                let stepped = self.replica.step_snapshot(*message);
                self.verdicts.push((verdict, stepped));
            }
            Input::SnapshotSent(to, arrived) => consensus.report_snapshot(to, arrived),
            Input::Segment(prepared) => self.hands.wal.supply(prepared?),
        }
        Ok(())
    }

    /// Answers what was decided.
    fn answer(&mut self, now: Millis) {
        for (waiter, answer) in self.replica.take_answered() {
            let _gone = waiter.send(answer);
        }
        for (waiter, verdict) in self.verdicts.drain(..) {
            let _gone = waiter.send(verdict);
        }
        for (id, why) in self.replica.take_failed() {
            // The client hears of the time that it waited, as from etcd.
            let reign = self.inner.published.reign.load(Ordering::Acquire);
            let why = if why == Error::NoLeader { self.inner.timeout_error(now, reign) } else { why };
            self.inner.requests.answer(id, Err(why));
        }
        self.inner.tap.drain(&mut self.replica.consensus.probe);
    }
}

/// What the replica has done: the log on disk, the peers, the apply thread, and what everybody can see.
struct Hands {
    inner: Arc<Inner>,
    wal: Wal,
    apply: Arc<Mailbox<Work>>,
    seen: (Term, MemberId),
    /// The time of this round.
    now: Millis,
}

impl Outside for Hands {
    fn show(&mut self, consensus: &Consensus) {
        let published = &self.inner.published;
        published.committed.store(consensus.commit().0, Ordering::Release);
        published.is_learner.store(consensus.is_learner(), Ordering::Release);
        let sees = (consensus.term(), consensus.leader());
        if sees != self.seen {
            published.term.store(sees.0.0, Ordering::Release);
            self.notice(sees, self.now);
        }
    }

    fn send(&mut self, mut messages: Vec<Message>) {
        send::divert(&self.inner, &mut messages);
        if let Some(peers) = self.inner.peers.get() {
            peers.send(messages);
        }
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        let began = Instant::now();
        self.wal.append(entries, hard_state)?;
        meter::WAL_WRITE.time(began.elapsed());
        Ok(())
    }

    fn sync(&mut self, entries: &[Entry], probe: &mut Probe) -> Result<(), Error> {
        let began = Instant::now();
        self.wal.sync()?;
        let took = began.elapsed();
        meter::WAL_FSYNC.time(took);
        if took > SLOW_SYNC {
            tracing::warn!(took = ?took, expected_duration = ?SLOW_SYNC, "slow fdatasync");
        }
        if let Some(last) = entries.last() {
            let bytes = entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            probe.tell(|| telemetry::persisted(last.index, entries.len(), bytes, took));
        }
        Ok(())
    }

    fn hand_on(&mut self, committed: Vec<Entry>) {
        self.apply.force(Work::Entries(committed));
    }

    fn accept(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.inner.snapshots.installs.lock().accept(mark)
    }

    fn install(&mut self, mark: SnapshotMark) {
        self.apply.force(Work::Install(mark));
    }

    fn note(&mut self, mark: &SnapshotMark, members: &[u8]) -> Result<(), Error> {
        snap_file::save(&RealDisk, &self.inner.member_dir(), mark, members)
    }

    fn mark(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.wal.save_snapshot_mark(mark)
    }

    fn release_to(&mut self, index: Index) -> Result<(), Error> {
        self.wal.release_to(index)
    }
}

impl Hands {
    /// Says what changed at the top, in the words that tools wait for, and what became of it for those who wait.
    fn notice(&mut self, sees: (Term, MemberId), now: Millis) {
        let (id, published) = (self.inner.id, &self.inner.published);
        let (before, leader, term) = (self.seen.1, sees.1, sees.0);
        self.seen = sees;
        published.leader.store(leader.0, Ordering::Release);
        if leader == before {
            return;
        }
        self.inner.lease_news.notify_waiters();
        let steps = u64::from(!before.is_none()) + u64::from(!leader.is_none());
        published.reign.fetch_add(steps, Ordering::AcqRel);
        if leader.is_none() {
            published.leader_lost_ms.store(now.0.max(1), Ordering::Release);
            tracing::info!(logger = "raft", "raft.node: {id} lost leader {before} at term {term}");
            return;
        }
        published.leader_since_ms.store(now.0.max(1), Ordering::Release);
        meter::LEADER_CHANGES.inc();
        if leader == id {
            tracing::info!(logger = "raft", "{id} became leader at term {term}");
        }
        if before.is_none() {
            tracing::info!(logger = "raft", "raft.node: {id} elected leader {leader} at term {term}");
        } else {
            tracing::info!(logger = "raft", "raft.node: {id} changed leader from {before} to {leader} at term {term}");
        }
    }
}
