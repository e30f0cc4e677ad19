//! One simulated member: the production code of one replica, and in place of the server's threads, steps that the world calls.
//!
//! | the server's | here |
//! |---|---|
//! | raft thread | [`Alive::turn`]: inputs, ticks, [`Replica::turn`], the log on the simulated disk |
//! | apply thread | [`Alive::apply`]: one entry, then events and answers |
//! | store thread | [`Alive::store_step`]: one batch, or one sync |
//! | boot | [`start`]: open the log, open the store, check that they meet |
//! | lease duty | [`Alive::lease_duty`], [`Alive::may_expire`] |

use super::disk::SimDisk;
use super::store::SimStore;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::consensus;
use crate::consensus::Consensus;
use crate::consensus::Role;
use crate::disk::Disk;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::lease;
use crate::membership::Members;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::walpb::Snapshot;
use crate::replica;
use crate::replica::Done;
use crate::replica::Outside;
use crate::replica::Proposal;
use crate::replica::Replica;
use crate::replica::start::Held;
use crate::types::Index;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Revision;
use crate::types::Term;
use crate::wal;
use crate::wal::Metadata;
use crate::wal::Preparation;
use crate::wal::Wal;
use crate::watch;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// Small constants, so that what is rare elsewhere happens all the time.
pub(super) const TICK_MS: u64 = 20;
pub(super) const ELECTION_TICKS: usize = 10;
pub(super) const ELECTION_MS: u64 = TICK_MS * ELECTION_TICKS as u64;
const SEGMENT_BYTES: u64 = 8 * 1024;
const SNAPSHOT_COUNT: u64 = 50;
const CATCHUP_ENTRIES: u64 = 10;
const BATCH_BYTES: usize = 1024;
const CATCH_UP_TICKS: u64 = 3;
const WAL_DIR: &str = "/member/wal";

/// Who waits for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A client's read.
    Read(u64),
    /// A client's keep-alive, of a leader that was not sure of itself.
    Renew(u64),
    /// The leader of this term, before it revokes leases.
    Leases(Term),
}

/// What reaches a member's raft.
pub(super) enum Input {
    Propose(Proposal),
    Read(Waiter),
    Peer(Message),
    Unreachable(MemberId),
    Transfer(MemberId),
    Campaign,
    Durable(Snapshot),
}

/// What a member did that the judge wants to know.
pub(super) enum Fact {
    Shows {
        term: u64,
        leads: bool,
        commit: u64,
    },
    Appended {
        index: u64,
        term: u64,
        before: Option<u64>,
        sum: u32,
    },
    /// All of this is synced: the last entry, and the hard state.
    Promised {
        last: (u64, u64),
        hard_state: HardState,
    },
    /// From here on the log is written otherwise: what was promised after this entry is not any more.
    Withdrawn {
        last: (u64, u64),
    },
    Voted {
        term: u64,
        for_whom: u64,
    },
    Committed(Entry),
}

/// Log, network and judge, as raft's turn reaches them.
pub(super) struct Hands {
    wal: Wal,
    disk: SimDisk,
    preparation: Option<Preparation>,
    /// How long one sync takes now.
    pub(super) sync_us: u64,
    /// How long this turn has taken so far.
    took_us: u64,
    out: Vec<(u64, Message)>,
    handed: Vec<Entry>,
    pub(super) facts: Vec<Fact>,
    /// What was appended and not synced: nobody may count on it yet, so it may also be lost and written otherwise.
    unsynced: Vec<Fact>,
    /// The term of each entry in the log.
    terms: BTreeMap<u64, u64>,
    hard_state: HardState,
    shown: (u64, bool, u64),
}

impl Hands {
    fn last(&self) -> (u64, u64) {
        self.terms.last_key_value().map_or((0, 0), |(index, term)| (*index, *term))
    }
}

impl Outside for Hands {
    fn show(&mut self, consensus: &Consensus) {
        let shows = (consensus.term().0, consensus.role() == Role::Leader, consensus.commit().0);
        if shows != self.shown {
            self.shown = shows;
            let (term, leads, commit) = shows;
            self.facts.push(Fact::Shows { term, leads, commit });
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        use crate::proto::raftpb::MessageType;
        for message in messages {
            match message.msg_type() {
                MessageType::MsgRequestVoteResponse if !message.reject => {
                    self.facts.push(Fact::Voted { term: message.term, for_whom: message.to });
                }
                MessageType::MsgRequestVote => {
                    self.facts.push(Fact::Voted { term: message.term, for_whom: message.from });
                }
                _ => {}
            }
            self.out.push((self.took_us, message));
        }
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        if let Some(first) = entries.first().filter(|first| first.index <= self.last().0) {
            let kept = first.index - 1;
            self.facts.push(Fact::Withdrawn { last: (kept, self.terms.get(&kept).copied().unwrap_or(0)) });
        }
        self.wal.append(entries, hard_state)?;
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            let _replaced = self.terms.split_off(&index);
            let before = self.terms.get(&(index - 1)).copied();
            let sum = crc32c::crc32c(&entry.data);
            self.unsynced.push(Fact::Appended { index, term, before, sum });
            self.terms.insert(index, term);
        }
        if let Some(hard_state) = hard_state {
            self.hard_state = *hard_state;
        }
        Ok(())
    }

    fn sync(&mut self, _: &[Entry], _: &mut Probe) -> Result<(), Error> {
        self.took_us += self.sync_us;
        self.wal.sync()?;
        self.facts.append(&mut self.unsynced);
        self.facts.push(Fact::Promised { last: self.last(), hard_state: self.hard_state });
        Ok(())
    }

    fn hand_on(&mut self, committed: Vec<Entry>) {
        self.facts.extend(committed.iter().cloned().map(Fact::Committed));
        self.handed.extend(committed);
    }

    fn accept(&mut self, mark: &Snapshot) -> Result<(), Error> {
        Err(Error::Damaged(format!("simulated: nobody sends snapshots, and here is one at {}", mark.index)))
    }

    fn install(&mut self, _: Snapshot) {}

    fn mark(&mut self, mark: &Snapshot) -> Result<(), Error> {
        self.wal.save_snapshot_mark(mark)
    }

    fn note(&mut self, _: &Snapshot, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn release_to(&mut self, index: Index) -> Result<(), Error> {
        self.wal.release_to(index)
    }
}

/// What waits for the store.
enum Write {
    Batch(Batch),
    Sync(Snapshot),
}

/// A member that runs.
pub(super) struct Alive {
    pub(super) id: MemberId,
    pub(super) replica: Replica<Waiter>,
    pub(super) hands: Hands,
    pub(super) machine: RwLock<Machine>,
    pub(super) hub: watch::Shared,
    pub(super) timers: lease::Timers,
    store: Arc<SimStore>,
    pub(super) inbox: Vec<Input>,
    todo: VecDeque<Entry>,
    writes: VecDeque<Write>,
    written: u64,
    marked: Index,
    /// Reads whose index is known and not applied yet.
    confirmed: Vec<(Index, Waiter)>,
    /// Requests that wait here, and the client's operation.
    pub(super) requests: BTreeMap<u64, u64>,
    pub(super) due_ticks: u64,
    /// It was stopped since a quorum last confirmed that it leads.
    pub(super) stalled: bool,
}

/// What a start needs to know.
pub(super) struct Start<'a> {
    pub(super) id: MemberId,
    pub(super) founders: &'a Members,
    pub(super) disk: &'a SimDisk,
    pub(super) store: Arc<SimStore>,
    pub(super) limits: Limits,
    pub(super) seeds: (u64, u64),
}

/// What came out of one turn.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) took_us: u64,
    pub(super) messages: Vec<(u64, Message)>,
    pub(super) handed: bool,
    pub(super) failed: Vec<(u64, Error)>,
    /// Readers whose round was given up.
    pub(super) refused: Vec<Waiter>,
}

/// Brings a member to life from what its disk and store hold.
///
/// # Errors
/// What the server would refuse to start with.
pub(super) fn start(with: Start<'_>) -> Result<Alive, Error> {
    let Start { id, founders, disk, store, limits, seeds } = with;
    let (dir, shared) = (Path::new(WAL_DIR), Arc::new(disk.clone()) as Arc<dyn Disk>);
    if !wal::exists(&*shared, dir) {
        let metadata = Metadata { member: id, cluster: founders.cluster() };
        drop(Wal::create(shared.clone(), dir, metadata, SEGMENT_BYTES)?);
    }
    let (mut wal, replay) = Wal::open(shared, dir, SEGMENT_BYTES, None)?;
    let from = (Index(replay.start.index), Term(replay.start.term));
    let mut held = Held { start: from, base: Index(0), entries: replay.entries, hard_state: replay.hard_state };
    if held.begin(founders) {
        wal.append(&held.entries, Some(&held.hard_state))?;
        wal.sync()?;
    }
    let machine = Machine::open(store.clone(), founders.cluster(), limits)?;
    let (applied, _) = machine.applied();
    held.meets(applied).map_err(|why| Error::Damaged(format!("the store does not go with the log: {why}")))?;
    let mut terms: BTreeMap<u64, u64> = held.entries.iter().map(|entry| (entry.index, entry.term)).collect();
    terms.insert(from.0.0, from.1.0);
    let sums = held.entries.iter().map(|entry| (entry.index, entry.term, crc32c::crc32c(&entry.data)));
    let mut facts = Vec::new();
    for (index, term, sum) in sums {
        facts.push(Fact::Appended { index, term, before: terms.get(&(index - 1)).copied(), sum });
    }
    let config = consensus::Config {
        id,
        election_ticks: ELECTION_TICKS,
        pre_vote: true,
        tick_ms: TICK_MS as u32,
        seed: seeds.0,
        applied,
    };
    let hard_state = held.hard_state;
    let consensus = Consensus::new(&config, held.into_initial(machine.conf_state().clone()), Listeners::default())?;
    let few = watch::Limits { queue_responses: 4, queue_bytes: 2000, ..watch::Limits::default() };
    let hands = Hands {
        wal,
        disk: disk.clone(),
        preparation: None,
        sync_us: 0,
        took_us: 0,
        out: Vec::new(),
        handed: Vec::new(),
        facts,
        unsynced: Vec::new(),
        terms,
        hard_state,
        shown: (0, false, 0),
    };
    Ok(Alive {
        id,
        replica: Replica::new(consensus, (id.0 << 48) | (seeds.1 >> 24)),
        hands,
        hub: watch::Shared::with_limits(machine.store().revision(), few),
        machine: RwLock::new(machine),
        timers: lease::Timers::default(),
        store,
        inbox: Vec::new(),
        todo: VecDeque::new(),
        writes: VecDeque::new(),
        written: 0,
        marked: applied,
        confirmed: Vec::new(),
        requests: BTreeMap::new(),
        due_ticks: 0,
        stalled: false,
    })
}

impl Alive {
    pub(super) fn applied(&self) -> Index {
        self.machine.read().applied().0
    }

    pub(super) fn leads(&self) -> bool {
        self.replica.consensus.role() == Role::Leader
    }

    /// The term of the log's entry at `index`, as it was written.
    pub(super) fn log_term(&self, index: u64) -> Option<u64> {
        self.hands.terms.get(&index).copied()
    }

    /// The log on disk: its last entry, and the hard state.
    pub(super) fn log_end(&self) -> ((u64, u64), HardState) {
        (self.hands.last(), self.hands.hard_state)
    }

    /// One round of the raft thread. On an error, what was done before it still counts.
    pub(super) fn turn(&mut self, now: Millis) -> (Turn, Result<(), Error>) {
        self.hands.took_us = 0;
        let result = self.round(now);
        let turn = Turn {
            took_us: self.hands.took_us,
            messages: std::mem::take(&mut self.hands.out),
            handed: !self.hands.handed.is_empty(),
            failed: self.replica.take_failed(),
            refused: self.take_answers(),
        };
        self.todo.extend(self.hands.handed.drain(..));
        (turn, result)
    }

    fn round(&mut self, now: Millis) -> Result<(), Error> {
        if let Some(preparation) = self.hands.preparation.take() {
            let prepared = preparation.run()?;
            self.hands.wal.supply(prepared);
        }
        for input in std::mem::take(&mut self.inbox) {
            self.take(input)?;
        }
        if self.due_ticks > CATCH_UP_TICKS + 1 {
            self.stalled = true;
        }
        for _ in 0..std::mem::take(&mut self.due_ticks).min(CATCH_UP_TICKS + 1) {
            self.replica.consensus.tick();
        }
        let applied = self.applied();
        self.replica.turn(now, applied, &mut self.hands)?;
        // Another thread fills the next segment; here it has done so by the next turn.
        if self.hands.preparation.is_none() {
            self.hands.preparation = self.hands.wal.prepare_next();
        }
        Ok(())
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        let consensus = &mut self.replica.consensus;
        match input {
            Input::Propose(proposal) => self.replica.propose(proposal),
            Input::Read(waiter) => self.replica.read(waiter),
            Input::Peer(message) => self.replica.step(message),
            Input::Unreachable(member) => consensus.report_unreachable(member),
            Input::Transfer(to) => consensus.transfer_leader(to),
            Input::Campaign => drop(consensus.campaign()),
            // Snapshots do not travel here yet: who lags is fed from the log, so it stays while there is anybody else.
            Input::Durable(mark) if consensus.conf_state().voters.len() == 1 => {
                self.replica.release(&mark, &[], (CATCHUP_ENTRIES, usize::MAX), &mut self.hands)?;
            }
            Input::Durable(_) => {}
        }
        Ok(())
    }

    fn take_answers(&mut self) -> Vec<Waiter> {
        let mut refused = Vec::new();
        for (waiter, answer) in self.replica.take_answered() {
            match answer {
                Ok(index) => self.confirmed.push((index, waiter)),
                Err(_) => refused.push(waiter),
            }
        }
        refused
    }

    /// Waits until `index` is applied, like a confirmed read.
    pub(super) fn wait_applied(&mut self, index: Index, waiter: Waiter) {
        self.confirmed.push((index, waiter));
    }

    /// Readers whose index is applied.
    pub(super) fn take_ready(&mut self) -> Vec<Waiter> {
        let applied = self.applied();
        let (ready, waiting) =
            std::mem::take(&mut self.confirmed).into_iter().partition(|(index, _)| *index <= applied);
        self.confirmed = waiting;
        let ready: Vec<(Index, Waiter)> = ready;
        ready.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Applies the next entry, if there is one, and tells watchers; the answer is the caller's to give.
    pub(super) fn apply(&mut self, now: Millis) -> Result<Option<(Entry, Done)>, Error> {
        let Some(entry) = self.todo.pop_front() else { return Ok(None) };
        let done = {
            let mut machine = self.machine.write();
            if entry.index <= machine.applied().0.0 {
                return Ok(None);
            }
            let consensus = &mut self.replica.consensus;
            let done = replica::apply_entry(&mut machine, &entry, |change| consensus.apply_conf_change(change))?;
            if machine.batch_bytes() >= BATCH_BYTES {
                take_batch(&mut machine, &mut self.written, &mut self.writes);
            }
            done
        };
        if let Some(term) = done.new_leader {
            self.new_leader(now, term);
        }
        for change in &done.outcome.leases {
            match change {
                crate::apply::LeaseChange::Granted(id, ttl) => self.timers.granted(now, *id, *ttl),
                crate::apply::LeaseChange::Revoked(id) => self.timers.revoked(*id),
                crate::apply::LeaseChange::Checkpointed(id, left) => self.timers.checkpointed(now, *id, *left),
            }
        }
        if !done.outcome.events.is_empty() {
            self.hub.publish(done.outcome.revision, &done.outcome.events);
        }
        if let Some(floor) = done.outcome.compacted {
            self.hub.compacted(floor);
        }
        Ok(Some((entry, done)))
    }

    pub(super) fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    /// A leader's first entry: leases are its to expire. As in the server, one of an earlier term says nothing.
    fn new_leader(&mut self, now: Millis, term: Term) {
        if self.replica.consensus.term() != term {
            return;
        }
        if self.leads() {
            self.timers.promote(now, self.machine.read().leases(), ELECTION_MS);
        } else if !is_planted(Bug::DeposedLeaderRevokes) {
            self.timers.demote();
        }
    }

    /// Hands over what has changed, removes some of what was compacted, and now and then asks for a sync.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let mut machine = self.machine.write();
        machine.compact_step(3)?;
        take_batch(&mut machine, &mut self.written, &mut self.writes);
        let (index, term) = machine.applied();
        if index.0 >= self.marked.0 + SNAPSHOT_COUNT {
            self.marked = index;
            let conf_state = Some(machine.conf_state().clone());
            self.writes.push_back(Write::Sync(Snapshot { index: index.0, term: term.0, conf_state }));
        }
        Ok(())
    }

    /// One piece of work of the store. True if there was one.
    pub(super) fn store_step(&mut self) -> Result<bool, Error> {
        match self.writes.pop_front() {
            None => return Ok(false),
            Some(Write::Batch(batch)) => {
                self.store.write(&batch)?;
                self.written += 1;
            }
            Some(Write::Sync(mark)) => {
                if !is_planted(Bug::ReleasedBeforeDurable) {
                    self.store.sync()?;
                }
                self.inbox.push(Input::Durable(mark));
            }
        }
        Ok(true)
    }

    /// The leader's look at the clock, as the server's: first a quorum is asked, and only then the timers.
    pub(super) fn lease_duty(&mut self, now: Millis) -> Option<Waiter> {
        let due = self.timers.next_due().is_some_and(|due| due <= now);
        (due && self.leads()).then(|| Waiter::Leases(self.replica.consensus.term()))
    }

    /// What the leader of `term` revokes now that a quorum has confirmed it.
    pub(super) fn may_expire(&mut self, now: Millis, term: Term) -> Vec<LeaseId> {
        let leads = self.leads() && self.replica.consensus.term() == term;
        if leads { self.timers.expired(now, 500) } else { Vec::new() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.machine.read().store().revision()
    }

    /// A sum over all that members must agree on.
    pub(super) fn state_sum(&self) -> Result<u64, Error> {
        let machine = self.machine.read();
        let hash = machine.store().hash(0)?;
        let mut sum = u64::from(hash.hash) ^ (hash.compact_revision as u64) << 32;
        for (id, lease) in machine.leases().iter() {
            let mut bytes = id.0.to_be_bytes().to_vec();
            bytes.extend(lease.ttl.to_be_bytes());
            lease.keys().for_each(|key| bytes.extend_from_slice(key));
            sum = sum.rotate_left(7) ^ u64::from(crc32c::crc32c(&bytes));
        }
        for member in machine.members().iter() {
            sum = sum.rotate_left(7) ^ u64::from(crc32c::crc32c(member.to_json().as_bytes()));
        }
        Ok(sum)
    }

    pub(super) fn disk(&self) -> &SimDisk {
        &self.hands.disk
    }
}

fn take_batch(machine: &mut Machine, written: &mut u64, writes: &mut VecDeque<Write>) {
    for _ in 0..std::mem::take(written) {
        machine.written();
    }
    if let Some(batch) = machine.take_batch() {
        writes.push_back(Write::Batch(batch));
    }
}
