//! One simulated member: the production code of one replica, and in place of the server's threads, steps that the world calls.
//!
//! | the server's | here |
//! |---|---|
//! | raft thread | [`Alive::turn`]: inputs, ticks, [`Replica::turn`], the log on the simulated disk |
//! | apply thread | [`Alive::apply`]: one entry, then [`replica::tell`] |
//! | store thread | [`Alive::store_step`]: one piece of work of [`replica::behind`] |
//! | boot | [`start`]: open the log, then the state by [`replica::state`] |
//! | lease duty | [`Alive::lease_look`], and [`Look`] |

use super::disk::SimDisk;
use super::hands::Hands;
use super::hands::Todo;
use super::snapshots::Builder;
use super::snapshots::Receipt;
use super::snapshots::Shelf;
use super::store::SimStore;
use crate::apply::LeaseChange;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::auth::Change;
use crate::consensus;
use crate::consensus::Consensus;
use crate::consensus::Role;
use crate::disk::Disk;
use crate::error::Error;
use crate::lease;
use crate::membership::Changed;
use crate::membership::Members;
use crate::probe::Listeners;
use crate::proto::mvccpb::Event;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::walpb::Snapshot;
use crate::replica;
use crate::replica::Audience;
use crate::replica::Proposal;
use crate::replica::Replica;
use crate::replica::Ticker;
use crate::replica::behind;
use crate::replica::behind::Marks;
use crate::replica::behind::Stored;
use crate::replica::behind::Work;
use crate::replica::install::carry_out;
use crate::replica::leases;
use crate::replica::leases::Look;
use crate::replica::leases::Pulse;
use crate::replica::leases::Standing;
use crate::replica::start::Held;
use crate::replica::state::Found;
use crate::replica::state::lost_end;
use crate::replica::state::open_state;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Revision;
use crate::types::Term;
use crate::wal;
use crate::wal::Metadata;
use crate::wal::Wal;
use crate::watch;
use parking_lot::Mutex;
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
pub(super) const MEMBER_DIR: &str = "/member";
pub(super) const WAL_DIR: &str = "/member/wal";

/// Who waits for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A client's read.
    Read(u64),
    /// A client's keep-alive; with it, how often its leader had been stopped when it was asked.
    Renew(u64, u64),
    /// The same, of a leader that does not know the lease.
    RenewSurely(u64),
    /// A leader that looks at its leases.
    Leases(Look),
}

/// Who waits for an entry to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// A client, with its operation.
    Client(u64),
    /// A client's keep-alive, for the log to say that all of the lease's time is left.
    Unmark(u64),
    /// The leader, for what it has written down of its leases.
    Marks,
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
    /// A snapshot whose image is kept here.
    Received(Box<Message>, Receipt),
    SnapshotSent(MemberId, bool),
    /// This member's process has ended, as far as its connections tell.
    Lost(MemberId),
}

/// A member that runs.
pub(super) struct Alive {
    pub(super) id: MemberId,
    pub(super) replica: Replica<Waiter>,
    pub(super) hands: Hands,
    pub(super) machine: RwLock<Machine>,
    pub(super) hub: watch::Shared,
    pub(super) timers: lease::Timers,
    pub(super) store: Arc<SimStore>,
    pub(super) inbox: Vec<Input>,
    todo: VecDeque<Todo>,
    shelf: Shelf,
    cluster: ClusterId,
    limits: Limits,
    /// Until then the log is kept for a follower that a snapshot is on its way to.
    pub(super) keep_log_until: Millis,
    writes: VecDeque<Work>,
    written: u64,
    /// Counts the stores that it has had.
    epoch: u64,
    received: Vec<(Receipt, bool)>,
    marks: Marks,
    /// Reads whose index is known and not applied yet.
    confirmed: Vec<(Index, Waiter)>,
    /// Requests that wait here.
    pub(super) requests: BTreeMap<u64, Waits>,
    /// Checkpoints on their way: until when they may take, and of which leases.
    pub(super) marks_out: BTreeMap<u64, (Millis, Vec<LeaseId>)>,
    ticker: Ticker,
    pub(super) pulse: Pulse,
    /// The leader, if a message of its term has come since it was told that its process has ended; and the ticks since the last one.
    hears: Option<(u64, Term, usize)>,
    /// What was cut off at the end of its log when it began.
    pub(super) torn: Option<String>,
    /// Its store was of no use, and it began a new one: why.
    pub(super) rebuilt: Option<String>,
}

/// What a start needs to know.
pub(super) struct Start<'a> {
    pub(super) id: MemberId,
    pub(super) founders: &'a Members,
    pub(super) disk: &'a SimDisk,
    pub(super) shelf: &'a Shelf,
    pub(super) limits: Limits,
    pub(super) seeds: (u64, u64),
    pub(super) now: Millis,
    pub(super) checkpoint_ms: Option<u64>,
}

/// What became of a start.
pub(super) enum Started {
    Alive(Box<Alive>),
    /// The log is whole and the state is gone.
    Lost(Box<Lost>),
}

/// A member that waits for another's state.
pub(super) struct Lost {
    pub(super) why: String,
    pub(super) held: Held,
    pub(super) wal: Wal,
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
    /// Snapshots that raft has seen, and whether it had a use for them.
    pub(super) received: Vec<(Receipt, bool)>,
}

/// Brings a member to life from what its disk and store hold.
///
/// # Errors
/// What the server would refuse to start with.
pub(super) fn start(with: Start<'_>) -> Result<Started, Error> {
    let Start { id, founders, disk, shelf, limits, seeds, now, checkpoint_ms } = with;
    let cluster = founders.cluster();
    let (wal, held, torn) = open_log(id, founders, disk)?;
    let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut builder = Builder { disk: disk.clone(), shelf: shelf.clone(), built: None, cluster, limits };
    let (store, machine, installs, rebuilt) = match open_state(shared, Path::new(MEMBER_DIR), &held, &mut builder)? {
        Found::State { state: (store, machine), installs, rebuilt, .. } => (store, machine, installs, rebuilt),
        Found::Ahead { applied, .. } => return Err(lost_end(Path::new(WAL_DIR), held.last(), applied)),
        Found::Lost(why) => return Ok(Started::Lost(Box::new(Lost { why, held, wal }))),
    };
    let (applied, _) = machine.applied();
    let hands = Hands::new(disk, wal, Mutex::new(installs), &held);
    let config = consensus::Config {
        id,
        election_ticks: ELECTION_TICKS,
        pre_vote: true,
        tick_ms: TICK_MS as u32,
        seed: seeds.0,
        applied,
    };
    let consensus = Consensus::new(&config, held.into_initial(machine.conf_state().clone()), Listeners::default())?;
    let few = watch::Limits { queue_responses: 4, queue_bytes: 2000, ..watch::Limits::default() };
    Ok(Started::Alive(Box::new(Alive {
        id,
        replica: Replica::new(consensus, (id.0 << 48) | (seeds.1 >> 24)),
        hands,
        hub: watch::Shared::with_limits(machine.store().revision(), few),
        machine: RwLock::new(machine),
        timers: lease::Timers::new(checkpoint_ms),
        store,
        inbox: Vec::new(),
        todo: VecDeque::new(),
        shelf: shelf.clone(),
        cluster,
        limits,
        keep_log_until: Millis(0),
        received: Vec::new(),
        writes: VecDeque::new(),
        written: 0,
        epoch: 0,
        marks: Marks::new(applied),
        confirmed: Vec::new(),
        requests: BTreeMap::new(),
        marks_out: BTreeMap::new(),
        ticker: Ticker::new(now, TICK_MS),
        pulse: Pulse { ticked: now, ..Pulse::default() },
        hears: None,
        torn,
        rebuilt,
    })))
}

/// The member's log, begun if there is none; and what was cut off at its end. Who joins later begins with nothing in it.
fn open_log(id: MemberId, founders: &Members, disk: &SimDisk) -> Result<(Wal, Held, Option<String>), Error> {
    let (dir, shared) = (Path::new(WAL_DIR), Arc::new(disk.clone()) as Arc<dyn Disk>);
    if !wal::exists(&*shared, dir) {
        let metadata = Metadata { member: id, cluster: founders.cluster() };
        drop(Wal::create(shared.clone(), dir, metadata, SEGMENT_BYTES)?);
    }
    let (mut wal, replay) = Wal::open(shared, dir, SEGMENT_BYTES, None)?;
    let start = (Index(replay.start.index), Term(replay.start.term));
    let mut held = Held { start, base: Index(0), entries: replay.entries, hard_state: replay.hard_state };
    if founders.get(id).is_some() && held.begin(founders) {
        wal.append(&held.entries, Some(&held.hard_state))?;
        wal.sync()?;
    }
    Ok((wal, held, replay.torn))
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
        self.hands.may_grant.clear();
        let result = self.round(now);
        let turn = Turn {
            took_us: self.hands.took_us,
            messages: std::mem::take(&mut self.hands.out),
            handed: !self.hands.handed.is_empty(),
            failed: self.replica.take_failed(),
            refused: self.take_answers(),
            received: std::mem::take(&mut self.received),
        };
        self.todo.extend(self.hands.handed.drain(..));
        (turn, result)
    }

    fn round(&mut self, now: Millis) -> Result<(), Error> {
        if let Some(preparation) = self.hands.preparation.take() {
            match preparation.run() {
                Ok(prepared) => self.hands.wal.supply(prepared),
                Err(_) => self.hands.wal.do_without_spare(),
            }
        }
        for input in std::mem::take(&mut self.inbox) {
            self.take(now, input)?;
        }
        let due = self.ticker.due(now);
        self.pulse.ticked = now;
        self.pulse.stalls += u64::from(due.stalled);
        for _ in 0..due.count {
            self.replica.consensus.tick();
            self.hears = self.hears.map(|(leader, term, ticks)| (leader, term, ticks + 1));
        }
        let applied = self.applied();
        self.replica.turn(now, applied, &mut self.hands)?;
        // Another thread fills the next segment; here it has done so by the next turn.
        if self.hands.preparation.is_none() {
            self.hands.preparation = self.hands.wal.prepare_next();
        }
        Ok(())
    }

    fn take(&mut self, now: Millis, input: Input) -> Result<(), Error> {
        let consensus = &mut self.replica.consensus;
        match input {
            Input::Propose(proposal) => self.replica.propose(proposal),
            Input::Read(waiter) => self.replica.read(waiter),
            Input::Peer(message) => self.hear(message),
            Input::Lost(member) => {
                self.hears = self.hears.filter(|(leader, ..)| *leader != member.0);
                self.replica.peer_lost(member, now);
            }
            Input::Unreachable(member) => consensus.report_unreachable(member),
            Input::Transfer(to) => consensus.transfer_leader(to),
            Input::Campaign => drop(consensus.campaign()),
            Input::Durable(mark) => {
                let keep = if now < self.keep_log_until { u64::MAX } else { CATCHUP_ENTRIES };
                self.replica.release(&mark, &[], (keep, usize::MAX), &mut self.hands)?;
            }
            Input::Received(message, receipt) => {
                let stepped = self.replica.step_snapshot(*message);
                self.received.push((receipt, stepped.is_ok()));
            }
            Input::SnapshotSent(to, arrived) => consensus.report_snapshot(to, arrived),
        }
        Ok(())
    }

    /// Hands a message to raft, and keeps in mind for the judge what this member knew of its leader when it came.
    fn hear(&mut self, message: Message) {
        let (from, term, kind) = (message.from, message.term, message.msg_type());
        let now = self.replica.consensus.term();
        if kind == MessageType::MsgRequestPreVote {
            let hears = self.hears.is_some_and(|(_, heard, ticks)| heard == now && ticks < ELECTION_TICKS);
            // One for the term that has begun is late: whoever gave the candidate its vote then says so again. The same candidate may ask twice
            // in one turn of a member that slept, with a leader before and none after: each question allows one answer.
            let may = term > now.0 && !hears || term == now.0;
            *self.hands.may_grant.entry((from, term)).or_default() += u32::from(may);
        }
        let _told_to_observers = replica::readable(&message).and_then(|()| self.replica.step(message));
        let is_leaders = matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        let consensus = &self.replica.consensus;
        if is_leaders && consensus.leader().0 == from && consensus.term().0 == term {
            self.hears = Some((from, consensus.term(), 0));
        }
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

    /// Applies the next entry, if there is one, and tells everybody.
    pub(super) fn apply(&mut self, now: Millis) -> Result<Option<Step>, Error> {
        let entry = match self.todo.pop_front() {
            None => return Ok(None),
            Some(Todo::Entry(entry)) => entry,
            Some(Todo::Install(mark)) => return self.install(&mark).map(|()| Some(Step::Installed(mark.index))),
        };
        let done = {
            let mut machine = self.machine.write();
            if entry.index <= machine.applied().0.0 {
                return Ok(None);
            }
            let (replica, index) = (&mut self.replica, Index(entry.index));
            self.marks.count(entry.data.len());
            let done = replica::apply_entry(&mut machine, &entry, |change| replica.count(index, change))?;
            if machine.batch_bytes() >= BATCH_BYTES {
                self.writes.extend(behind::take_batch(&mut machine, std::mem::take(&mut self.written), self.epoch));
            }
            done
        };
        if let Some(term) = done.new_leader {
            let sees = self.standing();
            leases::reign_began(&mut self.timers, now, term, sees, self.machine.read().leases(), ELECTION_MS);
        }
        let (began, is_compaction) = (done.new_leader, done.outcome.compacted.is_some());
        let is_removed = done.outcome.members == Some(Changed::Removed(self.id));
        let mut audience = Everybody { timers: &mut self.timers, hub: &self.hub, now, answer: None };
        replica::tell(done, &mut audience);
        let (request, reply) = audience.answer.expect("every entry is answered");
        Ok(Some(Step::Applied(Box::new(Applied { entry, request, reply, began, is_compaction, is_removed }))))
    }

    /// Puts the state of an accepted snapshot in the place of this one, as `node/install.rs` does.
    fn install(&mut self, mark: &Snapshot) -> Result<(), Error> {
        let (disk, shelf) = (self.hands.disk.clone(), self.shelf.clone());
        let mut builder = Builder { disk, shelf, built: None, cluster: self.cluster, limits: self.limits };
        carry_out(&self.hands.installs, mark, &mut builder)?;
        let (store, machine) = builder.built.ok_or_else(|| Error::Damaged("no store was built".into()))?;
        if machine.applied().0.0 != mark.index {
            return Err(Error::Damaged(format!(
                "the store made from the snapshot at {} holds another state",
                mark.index
            )));
        }
        let (revision, floor) = (machine.store().revision(), machine.store().compacted());
        *self.machine.write() = machine;
        (self.store, self.written, self.marks) = (store, 0, Marks::new(Index(mark.index)));
        self.epoch += 1;
        self.timers.demote();
        self.hub.restored(revision);
        if let Some(floor) = floor {
            self.hub.compacted(floor);
        }
        Ok(())
    }

    pub(super) fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { term: self.replica.consensus.term(), leads: self.leads() }
    }

    /// Hands over what has changed, removes some of what was compacted, and now and then asks for a sync.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let mut machine = self.machine.write();
        machine.compact_step(3)?;
        self.writes.extend(behind::take_batch(&mut machine, std::mem::take(&mut self.written), self.epoch));
        if self.marks.are_due(machine.applied().0, SNAPSHOT_COUNT, false) {
            self.writes.push_back(behind::sync_of(&machine, Vec::new()));
        }
        Ok(())
    }

    /// One piece of work of the store. True if there was one.
    pub(super) fn store_step(&mut self) -> Result<bool, Error> {
        let Some(work) = self.writes.pop_front() else { return Ok(false) };
        match behind::store_step(&*self.store, self.epoch, work)? {
            Stored::Batch => self.written += 1,
            Stored::Dropped => {}
            Stored::Durable(mark, _) => self.inbox.push(Input::Durable(mark)),
        }
        Ok(true)
    }

    /// The leader's look at its leases begins; a quorum is asked next.
    pub(super) fn lease_look(&self, now: Millis) -> Option<Look> {
        Look::begin(&self.timers, now, self.standing())
    }

    /// Nobody knows what became of this checkpoint.
    pub(super) fn mark_lost(&mut self, request: u64) {
        let (_, ids) = self.marks_out.remove(&request).unwrap_or_default();
        ids.into_iter().for_each(|id| self.timers.checkpoint_lost(id));
    }

    /// Whether users are asked for, and the auth revision.
    pub(super) fn auth(&self) -> (bool, u64) {
        let machine = self.machine.read();
        (machine.auth().is_enabled(), machine.auth().revision())
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
            bytes.extend(lease.remaining.to_be_bytes());
            lease.keys().for_each(|key| bytes.extend_from_slice(key));
            sum = sum.rotate_left(7) ^ u64::from(crc32c::crc32c(&bytes));
        }
        for member in machine.members().iter() {
            sum = sum.rotate_left(7) ^ u64::from(crc32c::crc32c(member.to_json().as_bytes()));
        }
        Ok(sum.rotate_left(7) ^ machine.auth().revision() << 1 ^ u64::from(machine.auth().is_enabled()))
    }

    pub(super) fn disk(&self) -> &SimDisk {
        &self.hands.disk
    }
}

/// What the state machine has done.
pub(super) enum Step {
    Applied(Box<Applied>),
    /// A snapshot of everything up to this entry took the place of the state.
    Installed(u64),
}

/// What one entry came to.
pub(super) struct Applied {
    pub(super) entry: Entry,
    /// Who may wait for it here, and what to tell him.
    pub(super) request: u64,
    pub(super) reply: Result<Reply, Error>,
    /// A leader's first entry: its term.
    pub(super) began: Option<Term>,
    pub(super) is_compaction: bool,
    /// It is no member any more.
    pub(super) is_removed: bool,
}

/// Those who hear of applied entries. The answer is the world's to give, at once: events are in the watchers' queues by then.
struct Everybody<'a> {
    timers: &'a mut lease::Timers,
    hub: &'a watch::Shared,
    now: Millis,
    answer: Option<(u64, Result<Reply, Error>)>,
}

impl Audience for Everybody<'_> {
    fn leases(&mut self, changes: &[LeaseChange]) {
        leases::follow(self.timers, self.now, changes);
    }

    fn auth(&mut self, _: &Change) {}

    fn events(&mut self, revision: Revision, events: &[Event]) {
        self.hub.publish(revision, events);
    }

    fn compacted(&mut self, floor: Revision) {
        self.hub.compacted(floor);
    }

    fn answer(&mut self, request: u64, _: Revision, reply: Result<Reply, Error>) {
        self.answer = Some((request, reply));
    }

    fn answer_conf_change(&mut self, request: u64, reply: Result<Reply, Error>) {
        self.answer = Some((request, reply));
    }
}
