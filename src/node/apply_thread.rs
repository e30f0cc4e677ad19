//! The apply thread: the state machine's driver.
//!
//! Takes committed entries in log order and applies them under the Machine's write lock, a bounded run at a time; then, without the lock, tells
//! watchers and answers requests. What has changed goes to the store thread in batches, behind everybody's back: the log alone makes it durable.

use super::Inner;
use super::Input;
use super::Node;
use super::mailbox::Mailbox;
use super::start::unix_seconds;
use super::store_thread::Write;
use super::telemetry;
use super::times::Times;
use crate::apply::BATCH_BYTES;
use crate::apply::LeaseChange;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::apply::loggable;
use crate::auth::Change;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::image::snap_file;
use crate::meter;
use crate::probe::Probe;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::mvccpb::Event;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::walpb::ConfChange;
use crate::replica;
use crate::replica::Audience;
use crate::replica::Done;
use crate::replica::behind;
use crate::replica::behind::Marks;
use crate::replica::leases;
use crate::types::Index;
use crate::types::Millis;
use crate::types::Revision;
use crate::types::Term;
use crate::wal::SnapshotMark;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

/// Entries applied under one hold of the lock, usually in about a millisecond, and for how long at most: then readers have their turn, who waits for these
/// entries is answered, and the answers are gone. An entry may be a transaction that reads or deletes very many keys.
const RUN_ENTRIES: usize = 256;
const RUN_MAX: Duration = Duration::from_millis(5);
/// Bytes of batches that may wait for the store, or be in its hands, before applying waits too.
const BACKLOG_BYTES: usize = 64 << 20;
/// Changes are handed to the store at least this often.
const FLUSH_EVERY_MS: u64 = 100;

/// What the raft thread hands on, in the log's order.
pub(crate) enum Work {
    Entries(Vec<Entry>),
    /// An accepted snapshot takes the place of the state.
    Install(SnapshotMark),
}

pub(crate) struct ApplyThread {
    pub(crate) inner: Arc<Inner>,
    pub(crate) entries: Arc<Mailbox<Work>>,
    pub(crate) probe: Probe,
    /// When the last batch went to the store.
    pub(crate) flushed: Millis,
    pub(crate) marks: Marks,
    pub(crate) sweep: Sweep,
    pub(crate) times: Times,
    /// The cluster's version, as the log's lines have told it.
    pub(crate) version: Option<String>,
}

/// The removal of what was compacted, as far as the log's lines tell of it.
#[derive(Default)]
pub(crate) struct Sweep {
    /// When the last slice was removed.
    last: Millis,
    /// When the removal began; nothing if there is none.
    since: Option<Millis>,
}

impl ApplyThread {
    /// Runs until the raft thread has closed the queue and it is empty.
    pub(crate) fn run(mut self) {
        if let Err(why) = self.rounds() {
            self.inner.fail(why);
        }
        self.inner.writes.close();
        let stopped = Error::Stopped;
        self.inner.requests.fail_before(u64::MAX, &stopped);
    }

    fn rounds(&mut self) -> Result<(), Error> {
        let mut batches = Vec::new();
        let mut compacting = false;
        loop {
            let pause = self.inner.config.compaction_pause_ms.min(FLUSH_EVERY_MS);
            let wait = Duration::from_millis(if compacting { pause } else { FLUSH_EVERY_MS });
            let open = self.entries.take_all(&mut batches, wait);
            for work in batches.drain(..) {
                match work {
                    Work::Entries(entries) => {
                        let mut rest = &entries[..];
                        while !rest.is_empty() {
                            rest = self.apply(rest)?;
                        }
                    }
                    Work::Install(mark) => self.install(&mark)?,
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

    /// Removes a slice of what was compacted, if it is time for one; true if there is more. What the slice needs from the engine is fetched
    /// before the lock is taken.
    fn compact(&mut self) -> Result<bool, Error> {
        let (now, keys) = (self.inner.now(), self.inner.config.compaction_batch);
        let ahead = {
            let machine = self.inner.machine.read();
            if !machine.store().is_sweeping() {
                return Ok(false);
            }
            if now < self.sweep.last.plus(self.inner.config.compaction_pause_ms) {
                return Ok(true);
            }
            machine.store().compact_ahead(keys)
        };
        ahead.load()?;
        self.sweep.last = now;
        let since = *self.sweep.since.get_or_insert(now);
        let mut machine = self.inner.machine.write();
        let began = self.inner.started.elapsed();
        failpoint::hit(Point::CompactBeforeCommitBatch);
        let more = machine.compact_step(keys)?;
        if machine.batch_bytes() >= BATCH_BYTES {
            hand_over(&self.inner, &mut machine)?;
        }
        meter::COMPACTION_PAUSE.observe((self.inner.started.elapsed() - began).as_secs_f64() * 1000.0);
        failpoint::hit(Point::CompactAfterCommitBatch);
        if !more {
            failpoint::hit(Point::CompactAfterSetFinishedCompact);
            self.sweep.since = None;
            meter::COMPACTION_TOTAL.observe((now.0 - since.0) as f64);
            meter::COMPACTION_LAST.set(unix_seconds());
            tracing::info!(
                "compact-revision" = machine.store().compacted().unwrap_or_default().0,
                took = ?Duration::from_millis(now.0 - since.0),
                "current-db-size-bytes" = machine.store().size(),
                "current-db-size-in-use-bytes" = machine.store().in_use(),
                "finished scheduled compaction"
            );
        }
        Ok(more)
    }

    fn install(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        meter::SNAPSHOT_APPLYING.set(1);
        let installed = self.inner.install(mark);
        meter::SNAPSHOT_APPLYING.set(0);
        installed?;
        let index = Index(mark.index);
        (self.marks, self.sweep) = (Marks::new(index), Sweep::default());
        self.inner.applied.set(index);
        Ok(())
    }

    /// Applies a run of entries, the first of these, then lets everybody know. Returns the others.
    fn apply<'a>(&mut self, entries: &'a [Entry]) -> Result<&'a [Entry], Error> {
        let mut run = &entries[..entries.len().min(RUN_ENTRIES)];
        let mut done = Vec::with_capacity(run.len());
        let began = self.inner.started.elapsed();
        let (mut last_end, mut slow) = (began, Vec::new());
        let (last, revision) = {
            let mut machine = self.inner.machine.write();
            for (place, entry) in run.iter().enumerate() {
                if entry.index > machine.applied().0.0 {
                    self.marks.count(entry.data.len());
                    let applied = self.apply_entry(&mut machine, entry)?;
                    if let Some(from) = &applied.outcome.fallen_from {
                        tell_fallen(from, machine.cluster_version());
                        self.inner.published.fallen_at.store(entry.index, Ordering::Release);
                        self.marks.force();
                    }
                    let end = self.inner.started.elapsed();
                    self.times.count(entry, applied.outcome.reply.is_ok(), end - last_end);
                    if self.is_slow(end - last_end) {
                        let answer = applied.outcome.reply.as_ref().map(loggable::answer).map_err(Error::to_string);
                        slow.push((entry, end - last_end, answer));
                    }
                    last_end = end;
                    done.push(applied);
                    let mut is_enough = end - began >= RUN_MAX;
                    if machine.batch_bytes() >= BATCH_BYTES {
                        hand_over(&self.inner, &mut machine)?;
                        is_enough |= self.inner.writes.weight() >= BACKLOG_BYTES;
                    }
                    if is_enough {
                        run = &run[..=place];
                        break;
                    }
                }
            }
            (machine.applied().0, machine.store().revision())
        };
        if slow.is_empty() {
            self.tell_slow_run(last_end - began, run.len());
        }
        slow.iter().for_each(|(entry, took, answer)| self.tell_slow(entry, *took, answer));
        let mut audience = Everybody { thread: self, now: self.inner.now(), changes: Vec::new() };
        done.into_iter().for_each(|done| replica::tell(done, &mut audience));
        let changes = audience.changes;
        self.inner.applied.set(last);
        // Whoever hears of a conf change may ask for the next one at once: by then raft must know that this one counts.
        for (request, reply) in changes {
            self.inner.requests.answer(request, reply);
        }
        // Without the lock: the store may be far behind, and readers must not be.
        self.inner.writes.wait_below(BACKLOG_BYTES);
        self.probe.tell(|| Kind::Applied(lab::Applied { index: last.0, revision: revision.0 }));
        Ok(&entries[run.len()..])
    }

    fn is_slow(&self, took: Duration) -> bool {
        took > self.inner.config.warn_apply && !self.inner.config.warn_apply.is_zero()
    }

    /// Warns of an entry, with what it asks for.
    fn tell_slow(&self, entry: &Entry, took: Duration, answer: &Result<String, String>) {
        meter::SLOW_APPLIES.inc();
        let expected = self.inner.config.warn_apply;
        let request = match entry.entry_type() {
            EntryType::EntryNormal => loggable::entry(&entry.data),
            _ => "a configuration change".to_owned(),
        };
        tracing::warn!(
            took = ?took, "expected-duration" = ?expected, prefix = "", request,
            response = answer.as_deref().unwrap_or_default(), error = answer.as_ref().err(),
            "apply request took too long"
        );
    }

    /// Warns of many entries that took long together and not one by one: nobody else could read meanwhile.
    fn tell_slow_run(&self, took: Duration, entries: usize) {
        if self.is_slow(took) {
            meter::SLOW_APPLIES.inc();
            let expected = self.inner.config.warn_apply;
            tracing::warn!(took = ?took, "expected-duration" = ?expected, entries, "apply request took too long");
        }
    }

    fn apply_entry(&self, machine: &mut Machine, entry: &Entry) -> Result<Done, Error> {
        let count = |change: &ConfChange| {
            let (answer, counted) = mpsc::sync_channel(1);
            self.inner.inbox.force(Input::ConfChange(Index(entry.index), change.clone(), answer));
            counted.recv().map_err(|_| Error::Stopped)?
        };
        let done = replica::apply_entry(machine, entry, count)?;
        failpoint::hit(Point::AfterApplyOneEntry);
        if let Some(term) = done.new_leader {
            self.new_leader(machine, term);
        }
        if done.outcome.compacted.is_some()
            && let Some(plan) = machine.store().compaction_hash_plan()
        {
            self.node().hash_compaction(plan);
        }
        if entry.entry_type() != EntryType::EntryNormal {
            if let Some(changed) = &done.outcome.members {
                self.inner.members_changed(changed);
            }
            self.inner.tap.tell(|| Kind::Members(telemetry::members(machine.members())));
        }
        Ok(done)
    }

    fn node(&self) -> Node {
        Node { inner: self.inner.clone() }
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
        let (now, sees, extend_ms) = (self.inner.now(), self.inner.standing(), self.inner.config.election_ms());
        leases::reign_began(&mut self.inner.timers.lock(), now, term, sees, machine.leases(), extend_ms);
        self.inner.lease_news.notify_waiters();
    }

    /// This member is over its quota and nobody has said so yet: the alarm is raised first, then whoever waits here hears of it.
    fn refuse_for_space(&self, request: u64, revision: Revision) {
        let node = self.node();
        tracing::warn!(revision = revision.0, "message exceeded backend quota; raising alarm");
        self.inner.runtime.spawn(async move {
            node.raise_no_space().await;
            node.inner.requests.answer(request, Err(Error::NoSpace));
        });
    }

    /// Every so often (`now`: at once) hands over what has changed, and marks how far the log could be released.
    fn flush(&mut self, now: bool) -> Result<(), Error> {
        let time = self.inner.now();
        if !now && time < self.flushed.plus(FLUSH_EVERY_MS) {
            return Ok(());
        }
        self.flushed = time;
        let mut machine = self.inner.machine.write();
        hand_over(&self.inner, &mut machine)?;
        tell_version(&self.inner, &mut self.version, machine.cluster_version());
        if self.marks.are_due(machine.applied().0, self.inner.config.snapshot_count, now) {
            let members = snap_file::members_json(machine.members(), machine.cluster_version());
            self.inner.writes.force(Write::Work(behind::sync_of(&machine, members)));
        }
        Ok(())
    }
}

/// Says that the cluster's version has changed. Source: etcd `api/membership/cluster.go` (`SetVersion`), `api/capability.go`.
fn tell_version(inner: &Inner, told: &mut Option<String>, now: Option<&str>) {
    if told.as_deref() == now {
        return;
    }
    let (short, before) = (now.map(short).unwrap_or_default(), std::mem::replace(told, now.map(str::to_owned)));
    let (cluster, local) = (inner.cluster, inner.id);
    match before.as_deref().map(self::short) {
        None => tracing::info!(
            "cluster-id" = %cluster, "local-member-id" = %local, "cluster-version" = short, "set initial cluster version"
        ),
        Some(from) => tracing::info!(
            "cluster-id" = %cluster, "local-member-id" = %local, from, to = short, "updated cluster version"
        ),
    }
    tracing::info!("cluster-version" = short, "enabled capabilities for version");
}

/// Says that the cluster has gone back to an earlier release's language. Its members must not read what was written before, so the log is released at
/// once. Source: etcd `apply/apply.go` (`ClusterVersionSet`).
fn tell_fallen(from: &str, to: Option<&str>) {
    tracing::info!(
        "prev-cluster-version" = from,
        "new-cluster-version" = to,
        "Cluster version downgrade detected, forcing snapshot"
    );
}

/// `3.6` of `3.6.0`.
fn short(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(short, _)| short)
}

/// Those who hear of what this member applies, at the time of one run.
struct Everybody<'a> {
    thread: &'a ApplyThread,
    now: Millis,
    /// The answers to conf changes.
    changes: Vec<(u64, Result<Reply, Error>)>,
}

impl Audience for Everybody<'_> {
    fn leases(&mut self, changes: &[LeaseChange]) {
        let inner = &self.thread.inner;
        for change in changes {
            match change {
                LeaseChange::Granted(_, ttl) => {
                    meter::LEASES_GRANTED.inc();
                    meter::LEASE_TTLS.observe(*ttl as f64);
                }
                LeaseChange::Revoked(_) => meter::LEASES_REVOKED.inc(),
                LeaseChange::Checkpointed(..) => {}
            }
        }
        leases::follow(&mut inner.timers.lock(), self.now, changes);
        inner.lease_news.notify_waiters();
    }

    fn auth(&mut self, change: &Change) {
        self.thread.inner.auth.follow(self.now, change);
    }

    fn events(&mut self, revision: Revision, events: &[Event]) {
        self.thread.inner.watches.publish(revision, events);
    }

    fn compacted(&mut self, floor: Revision) {
        self.thread.inner.watches.compacted(floor);
    }

    fn answer(&mut self, request: u64, revision: Revision, reply: Result<Reply, Error>) {
        let inner = &self.thread.inner;
        if matches!(reply, Err(Error::NoSpace)) && !inner.machine.read().is_out_of_space() {
            self.thread.refuse_for_space(request, revision);
        } else if request != 0 {
            inner.requests.answer(request, reply);
        }
    }

    fn answer_conf_change(&mut self, request: u64, reply: Result<Reply, Error>) {
        self.changes.push((request, reply));
    }
}

/// Hands the changes so far to the store, and lets the Machine forget what the store has. Under the Machine's lock, so that batches go in
/// the order in which they were taken.
pub(super) fn hand_over(inner: &Inner, machine: &mut Machine) -> Result<(), Error> {
    let (written, epoch) = (inner.batches_written.swap(0, Ordering::AcqRel), inner.epoch.load(Ordering::Acquire));
    if let Some(batch) = behind::take_batch(machine, written, epoch) {
        let weight = batch.weight();
        inner.writes.force_heavy(Write::Work(batch), weight);
    }
    match inner.stopped.borrow().clone() {
        Some(why) => Err(why),
        None => Ok(()),
    }
}
