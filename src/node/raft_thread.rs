//! The raft thread: consensus and the write-ahead log.
//!
//! One round: take everything that arrived, tick if it is time, hand it to raft, then work off what raft wants done. What arrives while the
//! log syncs waits for the next round and shares its sync: group commit without a timer.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use super::Inner;
use super::Input;
use super::ReadWaiter;
use super::mailbox::Mailbox;
use super::mailbox::duration;
use super::telemetry;
use crate::consensus::Light;
use crate::consensus::Ready;
use crate::consensus::Role;
use crate::error::Error;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::replica::Replica;
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

/// After a pause (a stopped process, a starved machine) at most this many ticks are made up for: one election's worth would make every member campaign on waking.
const CATCH_UP_TICKS: u64 = 3;
/// A sync that takes longer than this is worth a warning; etcd's value.
const SLOW_SYNC: Duration = Duration::from_secs(1);

pub(crate) struct RaftThread {
    pub(crate) inner: Arc<Inner>,
    pub(crate) replica: Replica<ReadWaiter>,
    pub(crate) wal: Wal,
    pub(crate) apply: Arc<Mailbox<Vec<Entry>>>,
    pub(crate) seen: (Term, MemberId),
}

impl RaftThread {
    /// Runs until the inbox is closed or the disk fails.
    pub(crate) fn run(mut self) {
        if let Err(why) = self.rounds() {
            self.inner.fail(why);
        }
        let _synced = self.wal.sync();
        self.apply.close();
    }

    fn rounds(&mut self) -> Result<(), Error> {
        let tick_ms = self.inner.config.tick_ms;
        let mut next_tick = self.inner.now().plus(tick_ms);
        let mut inputs = Vec::new();
        loop {
            let wait = duration(self.inner.now(), next_tick);
            if !self.inner.inbox.take_all(&mut inputs, wait) {
                return Ok(());
            }
            for input in inputs.drain(..) {
                self.take(input)?;
            }
            let now = self.inner.now();
            self.tick(&mut next_tick, now, tick_ms);
            self.replica.consensus.applied(self.inner.applied.get());
            self.replica.flush(now);
            while let Some(ready) = self.replica.ready() {
                // Before the apply thread can see an entry of a new term, it must be able to see the term.
                self.publish(now);
                self.work(ready)?;
            }
            self.publish(now);
            self.prepare_segment();
            self.answer(now);
        }
    }

    /// Has the next segment filled with zeros in good time, by another thread.
    fn prepare_segment(&mut self) {
        if let Some(preparation) = self.wal.prepare_next() {
            let inner = self.inner.clone();
            std::thread::spawn(move || inner.inbox.force(Input::Segment(preparation.run())));
        }
    }

    fn tick(&mut self, next_tick: &mut Millis, now: Millis, tick_ms: u64) {
        let published = &self.inner.published;
        if now.0 > next_tick.0 + CATCH_UP_TICKS * tick_ms {
            published.stalls.fetch_add(1, Ordering::AcqRel);
            *next_tick = Millis(now.0 - CATCH_UP_TICKS * tick_ms);
        }
        while *next_tick <= now {
            self.replica.consensus.tick();
            *next_tick = next_tick.plus(tick_ms);
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
            Input::ConfChange(change, answer) => {
                let _waits = answer.send(consensus.apply_conf_change(&change));
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
            Input::Durable(index, term) => self.release(index, term)?,
            Input::Segment(prepared) => self.wal.supply(prepared?),
        }
        Ok(())
    }

    /// Does what raft wants done, in raft's order: a leader's messages leave before its disk is asked, everybody else's after.
    fn work(&mut self, mut ready: Ready) -> Result<(), Error> {
        self.send(std::mem::take(&mut ready.messages));
        self.hand_on(std::mem::take(&mut ready.committed));
        if !ready.entries.is_empty() || ready.hard_state.is_some() {
            self.wal.append(&ready.entries, ready.hard_state.as_ref())?;
        }
        if ready.must_sync {
            self.sync(&ready.entries)?;
        }
        let Light { messages, committed, commit } = self.replica.persisted(ready);
        if commit.is_some() {
            // Not synced: at start, what is applied was committed.
            let hard_state = *self.replica.consensus.hard_state();
            self.wal.append(&[], Some(&hard_state))?;
        }
        self.send(messages);
        self.hand_on(committed);
        Ok(())
    }

    fn sync(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let began = Instant::now();
        self.wal.sync()?;
        let took = began.elapsed();
        if took > SLOW_SYNC {
            tracing::warn!(took = ?took, expected_duration = ?SLOW_SYNC, "slow fdatasync");
        }
        if let Some(last) = entries.last() {
            let bytes = entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            self.replica.consensus.probe.tell(|| telemetry::persisted(last.index, entries.len(), bytes, took));
        }
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        if let (false, Some(peers)) = (messages.is_empty(), self.inner.peers.get()) {
            peers.send(messages);
        }
    }

    fn hand_on(&self, committed: Vec<Entry>) {
        if !committed.is_empty() {
            self.apply.force(committed);
        }
    }

    /// The store is durable up to `index`: the log says so, and forgets what nobody needs any more. A follower that lags is fed from the log, so while
    /// there is one nothing goes that it lacks.
    fn release(&mut self, index: Index, term: Term) -> Result<(), Error> {
        let conf_state = self.replica.consensus.conf_state();
        if conf_state.voters.len() + conf_state.learners.len() > 1 {
            return Ok(());
        }
        let commit = self.replica.consensus.commit().max(index);
        let hard_state = HardState { commit: commit.0, ..*self.replica.consensus.hard_state() };
        let mark = SnapshotMark { index: index.0, term: term.0, conf_state: Some(conf_state) };
        self.wal.save_snapshot_mark(&mark)?;
        self.wal.append(&[], Some(&hard_state))?;
        self.wal.sync()?;
        self.wal.release_to(index)?;
        let keep = self.inner.config.snapshot_catchup_entries;
        self.replica.consensus.release(Index(index.0.saturating_sub(keep)));
        Ok(())
    }

    /// Answers what was decided.
    fn answer(&mut self, now: Millis) {
        for (waiter, answer) in self.replica.take_answered() {
            let _gone = waiter.send(answer);
        }
        for (id, why) in self.replica.take_failed() {
            // Without a leader the client hears of the time that it waited, as from etcd.
            let why = if why == Error::NoLeader { self.inner.timeout_error(now) } else { why };
            self.inner.requests.answer(id, Err(why));
        }
        self.inner.tap.drain(&mut self.replica.consensus.probe);
    }

    /// Lets everybody see where this member stands.
    fn publish(&mut self, now: Millis) {
        let consensus = &self.replica.consensus;
        let published = &self.inner.published;
        published.committed.store(consensus.commit().0, Ordering::Release);
        published.is_learner.store(!consensus.is_voter() && consensus.role() == Role::Follower, Ordering::Release);
        let sees = (consensus.term(), consensus.leader());
        if sees != self.seen {
            published.term.store(sees.0.0, Ordering::Release);
            self.notice(sees, now);
        }
    }

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
