//! The apply thread: the state machine's driver.
//!
//! Takes committed entries in log order and applies them under the Machine's write lock, a bounded run at a time; then, without the lock, tells
//! watchers and answers requests. What has changed goes to the store thread in batches, behind everybody's back: the log alone makes it durable.

use super::Inner;
use super::Input;
use super::mailbox::Mailbox;
use super::store_thread::Write;
use super::telemetry;
use crate::apply::BATCH_BYTES;
use crate::apply::COMPACT_KEYS;
use crate::apply::LeaseChange;
use crate::apply::Machine;
use crate::apply::Outcome;
use crate::error::Error;
use crate::probe::Probe;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::walpb::ConfChange;
use crate::replica;
use crate::replica::Done;
use crate::types::Index;
use crate::types::Millis;
use crate::types::Term;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

/// Entries applied under one hold of the lock: about a millisecond.
const RUN_ENTRIES: usize = 256;
/// Batches that may wait for the store before applying waits too: 64 MiB.
const BATCHES_MAX: usize = 512;
/// Slices of a compaction are this far apart; etcd's pause.
const COMPACT_EVERY_MS: u64 = 10;
/// Changes are handed to the store at least this often.
const FLUSH_EVERY_MS: u64 = 100;

pub(crate) struct ApplyThread {
    pub(crate) inner: Arc<Inner>,
    pub(crate) entries: Arc<Mailbox<Vec<Entry>>>,
    pub(crate) store: Arc<Mailbox<Write>>,
    pub(crate) probe: Probe,
    /// When the last batch went to the store.
    pub(crate) flushed: Millis,
    /// Applied at the last snapshot mark.
    pub(crate) marked: Index,
}

impl ApplyThread {
    /// Runs until the raft thread has closed the queue and it is empty.
    pub(crate) fn run(mut self) {
        if let Err(why) = self.rounds() {
            self.inner.fail(why);
        }
        self.store.close();
        let stopped = Error::Stopped;
        self.inner.requests.fail_before(u64::MAX, &stopped);
    }

    fn rounds(&mut self) -> Result<(), Error> {
        let mut batches = Vec::new();
        let mut compacting = false;
        loop {
            let wait = Duration::from_millis(if compacting { COMPACT_EVERY_MS } else { FLUSH_EVERY_MS });
            let open = self.entries.take_all(&mut batches, wait);
            for batch in batches.drain(..) {
                for run in batch.chunks(RUN_ENTRIES) {
                    self.apply(run)?;
                }
            }
            compacting = self.compact()?;
            if !open {
                return self.flush(true);
            }
            self.flush(false)?;
            self.inner.tap.drain(&mut self.probe);
        }
    }

    /// Removes a slice of what was compacted; true if there is more. What the slice needs from the engine is fetched before the lock is taken.
    fn compact(&self) -> Result<bool, Error> {
        let ahead = self.inner.machine.read().store().compact_ahead(COMPACT_KEYS);
        ahead.load()?;
        self.inner.machine.write().compact_step()
    }

    /// Applies a run of entries, then lets everybody know.
    fn apply(&mut self, run: &[Entry]) -> Result<(), Error> {
        let mut done = Vec::with_capacity(run.len());
        let (last, revision) = {
            let mut machine = self.inner.machine.write();
            for entry in run {
                if entry.index > machine.applied().0.0 {
                    done.push(self.apply_entry(&mut machine, entry)?);
                    if machine.batch_bytes() >= BATCH_BYTES {
                        self.write_behind(&mut machine)?;
                    }
                }
            }
            (machine.applied().0, machine.store().revision())
        };
        self.tell(done);
        self.inner.applied.set(last);
        // Without the lock: the store may be far behind, and readers must not be.
        self.store.wait_below(BATCHES_MAX);
        self.probe.tell(|| Kind::Applied(lab::Applied { index: last.0, revision: revision.0 }));
        Ok(())
    }

    fn apply_entry(&self, machine: &mut Machine, entry: &Entry) -> Result<Done, Error> {
        let count = |change: &ConfChange| {
            let (answer, counted) = mpsc::sync_channel(1);
            self.inner.inbox.force(Input::ConfChange(change.clone(), answer));
            counted.recv().map_err(|_| Error::Stopped)?
        };
        let done = replica::apply_entry(machine, entry, count)?;
        if let Some(term) = done.new_leader {
            self.new_leader(machine, term);
        }
        if entry.entry_type() != EntryType::EntryNormal {
            if let Some(changed) = &done.outcome.members {
                self.inner.members_changed(changed);
            }
            self.inner.tap.tell(|| Kind::Members(telemetry::members(machine.members())));
        }
        Ok(done)
    }

    /// A leader's first entry: what was proposed under earlier leaders and is not applied by now may or may not come, and leases are the new leader's to
    /// expire.
    fn new_leader(&self, machine: &Machine, term: Term) {
        let published = &self.inner.published;
        if published.term.load(Ordering::Acquire) != term.0 {
            return;
        }
        let reign = published.reign.load(Ordering::Acquire);
        self.inner.requests.fail_before(reign.saturating_sub(1), &Error::TimeoutLeaderFailure);
        let mut timers = self.inner.timers.lock();
        if self.inner.is_leader() {
            timers.promote(self.inner.now(), machine.leases(), self.inner.config.election_ms());
        } else {
            timers.demote();
        }
        drop(timers);
        self.inner.lease_news.notify_waiters();
    }

    /// Events first, then answers: who reads his own write and then asks a watch must not be early.
    fn tell(&self, done: Vec<Done>) {
        let now = self.inner.now();
        for Done { request, outcome, .. } in done {
            let Outcome { reply, revision, events, compacted, leases, auth, .. } = outcome;
            self.follow_leases(now, &leases);
            if let Some(change) = auth {
                self.inner.auth.follow(now, &change);
            }
            if !events.is_empty() {
                self.inner.watches.publish(revision, &events);
            }
            if let Some(floor) = compacted {
                self.inner.watches.compacted(floor);
            }
            if request != 0 {
                self.inner.requests.answer(request, reply);
            }
        }
    }

    fn follow_leases(&self, now: Millis, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let mut timers = self.inner.timers.lock();
        for change in changes {
            match change {
                LeaseChange::Granted(id, ttl) => timers.granted(now, *id, *ttl),
                LeaseChange::Revoked(id) => timers.revoked(*id),
                LeaseChange::Checkpointed(id, remaining) => timers.checkpointed(now, *id, *remaining),
            }
        }
        drop(timers);
        self.inner.lease_news.notify_waiters();
    }

    /// Hands the changes so far to the store, and lets the Machine forget what the store has.
    fn write_behind(&self, machine: &mut Machine) -> Result<(), Error> {
        for _ in 0..self.inner.batches_written.swap(0, Ordering::AcqRel) {
            machine.written();
        }
        if let Some(batch) = machine.take_batch() {
            self.store.force(Write::Batch(batch));
        }
        match self.inner.stopped.borrow().clone() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// Every so often (`now`: at once) hands over what has changed, and marks how far the log could be released.
    fn flush(&mut self, now: bool) -> Result<(), Error> {
        let time = self.inner.now();
        if !now && time < self.flushed.plus(FLUSH_EVERY_MS) {
            return Ok(());
        }
        self.flushed = time;
        let mut machine = self.inner.machine.write();
        self.write_behind(&mut machine)?;
        let (index, term) = machine.applied();
        if now || index.0 >= self.marked.0 + self.inner.config.snapshot_count {
            self.marked = index;
            self.store.force(Write::Sync(index, term));
        }
        Ok(())
    }
}
