//! raft-rs behind our own words; the only room that names `raft::`.
//!
//! A step function: calls put something in (a tick, a message, a proposal), [`Consensus::ready`] takes out what must happen next, and
//! [`Consensus::persisted`] reports that it is on disk. Nothing here reads a clock, a disk or a socket. Randomness comes in as a seed: raft-rs
//! draws its election time-outs from the thread's generator, so after every call that may have drawn one we set our own.
//!
//! ```text
//! tick, step, propose ──▶ raft ──▶ Ready { messages, entries, hard state, committed }
//!                          ▲              │ append, sync
//!                          └─ persisted ◀─┘ ──▶ more messages, more committed entries
//! ```
//!
//! Conf changes travel in etcd's encoding, whose numbers raft-rs would misread: they are decoded with etcd's type and translated in
//! [`Consensus::apply_conf_change`]. A snapshot passes through as its metadata: the image that it speaks of is the driver's. Left out: joint
//! consensus (etcd changes one member at a time).

mod inbound;
mod log;
mod summary;

pub use inbound::Refused;
pub use summary::request as summary_of;
pub(crate) use summary::wire as wire_of;

use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::raftpb::Snapshot;
use crate::proto::walpb;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Term;
use bytes::Bytes;
use log::Log;
use prost::Message as _;
use raft::RawNode;
use raft::StateRole;
use raft::prelude::ConfChange;
use raft::prelude::ConfChangeType;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Append messages carry at most this much, as in etcd.
const APPEND_BYTES_MAX: u64 = 1024 * 1024;
/// Append messages on their way to one follower, as in etcd.
const INFLIGHT_MAX: usize = 512;
/// Proposed and not committed: more is refused.
const UNCOMMITTED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Committed entries handed out at once.
const COMMITTED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The longest election timer that the lab may set.
const TIMER_TICKS_MAX: u32 = 1000;
/// Entries that an observer is told when it connects.
const TAIL_ENTRIES: usize = 200;

/// How one member takes part.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: MemberId,
    /// Ticks without a leader before a follower campaigns; drawn anew between this and twice this.
    pub election_ticks: usize,
    /// Whether a candidate asks first if it could win (Raft thesis section 9.6).
    pub pre_vote: bool,
    /// How long a tick is, for observers: raft itself counts ticks only.
    pub tick_ms: u32,
    /// What election time-outs are drawn from.
    pub seed: u64,
    /// The last entry that the state machine holds.
    pub applied: Index,
}

/// What the disk held at start.
#[derive(Debug, Default)]
pub struct Initial {
    /// The last entry before the log's first: zeros if nothing was ever released.
    pub offset: (Index, Term),
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
    /// The voters and learners as of the applied index.
    pub conf_state: ConfState,
}

/// A member's part in the current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What must happen next, in this order: send `messages` (a leader's need not wait for its disk; Raft thesis section 10.2.1), write
/// `entries` and `hard_state`, sync if `must_sync`, hand the whole to [`Consensus::persisted`]; `committed` may be applied at once.
#[derive(Debug)]
pub struct Ready {
    inner: raft::Ready,
    pub messages: Vec<Message>,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    pub must_sync: bool,
    pub committed: Vec<Entry>,
    /// Takes the place of the whole log and of the state; comes before `entries`.
    pub snapshot: Option<Snapshot>,
    /// Reads that are confirmed: their context, and the index that must be applied before they are served.
    pub reads: Vec<(Bytes, Index)>,
}

/// What became possible by persisting.
#[derive(Debug)]
pub struct Light {
    pub messages: Vec<Message>,
    pub committed: Vec<Entry>,
    /// The commit index, if it moved. Write it to the log without a sync.
    pub commit: Option<Index>,
}

/// One member's raft.
pub struct Consensus {
    raw: RawNode<Log>,
    random: StdRng,
    election_ticks: usize,
    tick_ms: u32,
    pub probe: Probe,
    told: Told,
}

/// What observers were last told, so that only changes are.
#[derive(Default)]
struct Told {
    state: lab::State,
    progress: BTreeMap<u64, lab::Progress>,
    votes: lab::Votes,
    persisted: u64,
    applied: u64,
}

impl Consensus {
    /// A member that starts from what its disk held.
    ///
    /// # Errors
    /// [`Error::Damaged`] if log, hard state and applied index contradict each other.
    pub fn new(config: &Config, initial: Initial, listeners: Listeners) -> Result<Consensus, Error> {
        let last = initial.offset.0.0 + initial.entries.len() as u64;
        let mut hard_state = initial.hard_state;
        // An applied entry was committed, even if the commit index on disk is older: it is written without a sync.
        if !is_planted(Bug::CommitFromHardStateOnly) {
            hard_state.commit = hard_state.commit.max(config.applied.0).max(initial.offset.0.0);
        }
        if hard_state.commit > last {
            return Err(Error::Damaged(format!(
                "the log ends at {last}, but {} entries were committed: restore this member from a snapshot, or remove and add it again",
                hard_state.commit
            )));
        }
        let log = Log::new(initial.offset, initial.entries, hard_state, initial.conf_state);
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied: config.applied.0,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, log, &logger).map_err(|e| Error::Damaged(format!("raft: {e}")))?;
        let mut consensus = Consensus {
            raw,
            random: StdRng::seed_from_u64(config.seed),
            election_ticks: config.election_ticks,
            tick_ms: config.tick_ms,
            probe: Probe::new(listeners),
            told: Told { persisted: last, ..Told::default() },
        };
        consensus.draw_timeout();
        Ok(consensus)
    }

    /// One tick of the lab clock.
    pub fn tick(&mut self) {
        if self.role() == Role::Leader || !self.must_sync_first() {
            self.step_raft(|raw| {
                let _more = raw.tick();
            });
        }
        self.tell_timer();
    }

    /// Whether the last tick began a pre-vote; perhaps once more, since nobody has answered the one before.
    #[must_use]
    pub fn asks_anew(&self) -> bool {
        self.role() == Role::PreCandidate && self.raw.raft.election_elapsed == 0
    }

    fn tell_timer(&mut self) {
        let (raft, tick_ms) = (&self.raw.raft, self.tick_ms);
        self.probe.tell(|| {
            Kind::Timer(lab::Timer {
                election_elapsed_ticks: small(raft.election_elapsed as u64),
                election_timeout_ticks: small(raft.randomized_election_timeout() as u64),
                heartbeat_elapsed_ticks: small(raft.heartbeat_elapsed() as u64),
                heartbeat_timeout_ticks: small(raft.heartbeat_timeout() as u64),
                tick_ms,
            })
        });
    }

    /// Lets the first election come soon: nobody can be waited for.
    pub fn advance_ticks(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.step_raft(|raw| {
                let _more = raw.tick();
            });
        }
    }

    /// Puts these into the log, in one message: here if this member leads, at the leader otherwise.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if there is nobody to ask, or leadership is on its way to another; [`Error::TooManyRequests`] if too much waits already.
    pub fn propose(&mut self, data: Vec<Bytes>) -> Result<(), Error> {
        let entries = data.into_iter().map(|data| Entry { data, ..Entry::default() }).collect();
        self.propose_entries(entries)
    }

    /// Puts a conf change into the log.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub fn propose_conf_change(&mut self, change: &walpb::ConfChange) -> Result<(), Error> {
        let data = change.encode_to_vec().into();
        let entry_type = EntryType::EntryConfChange as i32;
        self.propose_entries(vec![Entry { data, entry_type, ..Entry::default() }])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        if self.raw.raft.leader_id == raft::INVALID_ID {
            return Err(Error::NoLeader);
        }
        let mut message = Message { from: self.raw.raft.id, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let is_leader = self.role() == Role::Leader;
        let transferring = self.raw.raft.lead_transferee.is_some();
        let mut result = Ok(());
        self.step_raft(|raw| result = raw.raft.step(message));
        result.map_err(|_| if is_leader && !transferring { Error::TooManyRequests } else { Error::NoLeader })
    }

    /// Takes a peer's message.
    ///
    /// # Errors
    /// [`Refused`] says why it was dropped.
    pub fn step(&mut self, message: Message) -> Result<(), Refused> {
        self.step_checked(message, false)
    }

    /// Takes a leader's snapshot whose image is here, whole and durable. If raft has a use for it, [`Ready::snapshot`] comes next.
    ///
    /// # Errors
    /// As [`Consensus::step`].
    pub fn step_snapshot(&mut self, message: Message) -> Result<(), Refused> {
        self.step_checked(message, true)
    }

    fn step_checked(&mut self, mut message: Message, has_image: bool) -> Result<(), Refused> {
        let wire = self.probe.on().then(|| summary::wire(&message));
        let view = inbound::View {
            id: self.id(),
            last: self.raw.raft.raft_log.last_index(),
            // raft says 0 for what it does not know any more.
            term_of: &|index| self.raw.raft.raft_log.term(index).ok().filter(|term| *term > 0),
            commit: self.raw.raft.raft_log.committed,
            leads: self.role() == Role::Leader,
            follows: (self.raw.raft.leader_id, self.raw.raft.term),
            matched: self.raw.raft.prs().get(message.from).map(|progress| progress.matched),
            has_image,
        };
        let mut verdict = inbound::check(&mut message, &view);
        if verdict.is_ok() && makes_a_leader(message.msg_type()) && self.must_sync_first() {
            verdict = Err(Refused::Ignored);
        }
        if verdict.is_ok() {
            self.count_vote(&message);
            if is_planted(Bug::PreVoteDespiteLeader) && message.msg_type() == MessageType::MsgRequestPreVote {
                self.raw.raft.leader_id = raft::INVALID_ID;
            }
            self.step_raft(|raw| verdict = raw.step(message).map_err(|_| Refused::Ignored));
        }
        if let Some(wire) = wire {
            self.probe.tell(|| match verdict {
                Ok(()) => Kind::Received(lab::Received { wire: Some(wire) }),
                Err(why) => Kind::Dropped(lab::Dropped { wire: Some(wire), reason: why.to_string() }),
            });
        }
        verdict
    }

    /// Asks for a read index. The answer comes in [`Ready::reads`] with this context, or never: raft drops the question without a leader, so ask again with a new
    /// context after a while.
    pub fn read_index(&mut self, context: Bytes) {
        if self.answers_too_early() {
            let index = self.raw.raft.raft_log.committed;
            self.raw.raft.read_states.push(raft::ReadState { request_ctx: context.to_vec(), index });
            return;
        }
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgReadIndex);
        message.entries = vec![Entry { data: context, ..Entry::default() }];
        self.step_raft(|raw| drop(raw.raft.step(message)));
    }

    /// What a leader must not do; only tests make it.
    fn answers_too_early(&self) -> bool {
        let leads = self.role() == Role::Leader;
        leads && is_planted(Bug::ReadAfterStepDown) && self.has_committed_in_term()
            || leads && is_planted(Bug::ReadBeforeFirstCommit) && !self.has_committed_in_term()
    }

    /// Starts an election now, if this member may win one. As in a transfer of leadership it asks for votes outright: a pre-vote would be refused by everybody who
    /// hears from a living leader.
    pub fn campaign(&mut self) -> bool {
        let may = self.raw.raft.promotable() && self.role() != Role::Leader && !self.must_sync_first();
        if may {
            let id = self.raw.raft.id;
            let mut now = Message { to: id, from: id, ..Message::default() };
            now.set_msg_type(MessageType::MsgTimeoutNow);
            self.step_raft(|raw| drop(raw.raft.step(now)));
        }
        may
    }

    /// Forgets the leader, if it is this one: its process has ended, so nobody need wait for it, and other candidates may have this member's
    /// pre-vote. Whether it did: only a voter that asks for pre-votes does, since any other campaign would unseat a leader that lives after all.
    /// Nothing else rests on who leads: reads are confirmed by a quorum.
    pub fn forget_leader(&mut self, leader: MemberId) -> bool {
        let raft = &self.raw.raft;
        let may = raft.pre_vote && self.may_campaign() && self.role() == Role::Follower && self.leader() == leader;
        if may && !leader.is_none() {
            self.step_raft(|raw| raw.raft.leader_id = raft::INVALID_ID);
        }
        may && !leader.is_none()
    }

    /// Asks the others whether they would vote for this member (pre-vote), and for their votes if a quorum would.
    pub fn pre_campaign(&mut self) {
        if self.raw.raft.pre_vote && self.may_campaign() && !self.must_sync_first() {
            self.step_raft(|raw| drop(raw.campaign()));
        }
    }

    /// Whether an election has to wait until what came in this round is on disk. The last voter wins within the call by which it campaigns, and raft-rs
    /// asserts then that its whole log is persisted (`become_leader`); with others, the votes come after a sync. A leader may lose its office, and be told
    /// to campaign, by one message.
    fn must_sync_first(&self) -> bool {
        let (id, log) = (self.raw.raft.id, &self.raw.raft.raft_log);
        log.last_index() != log.persisted && self.conf_state().voters == [id]
    }

    fn may_campaign(&self) -> bool {
        self.raw.raft.promotable() || self.is_learner() && is_planted(Bug::LearnerCampaignsOnLoss)
    }

    /// Starts to hand leadership to `to`.
    pub fn transfer_leader(&mut self, to: MemberId) {
        self.step_raft(|raw| raw.transfer_leader(to.0));
    }

    /// A message to this member could not be delivered.
    pub fn report_unreachable(&mut self, member: MemberId) {
        self.step_raft(|raw| raw.report_unreachable(member.0));
    }

    /// What became of a snapshot that this member was to send.
    pub fn report_snapshot(&mut self, member: MemberId, arrived: bool) {
        let status = if arrived { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.step_raft(|raw| raw.report_snapshot(member.0, status));
    }

    /// The state machine holds everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        if index.0 > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index.0);
        }
    }

    /// Makes a committed conf change count; the new voters and learners come back. A change that the state machine refused must not come here.
    ///
    /// # Errors
    /// [`Error::Damaged`] if raft cannot make this change: then the replicas' configurations have diverged.
    pub fn apply_conf_change(&mut self, change: &walpb::ConfChange) -> Result<ConfState, Error> {
        use walpb::conf_change::Type;
        let change_type = match change.r#type() {
            Type::AddNode => ConfChangeType::AddNode,
            Type::AddLearnerNode => ConfChangeType::AddLearnerNode,
            Type::RemoveNode => ConfChangeType::RemoveNode,
            // A new address only: raft has nothing to do.
            Type::UpdateNode if is_planted(Bug::UpdateNodeMisread) => ConfChangeType::AddLearnerNode,
            Type::UpdateNode => return Ok(self.conf_state()),
        };
        let translated =
            ConfChange { change_type: change_type as i32, node_id: change.node_id, ..ConfChange::default() };
        let mut result = Ok(ConfState::default());
        self.step_raft(|raw| result = raw.apply_conf_change(&translated));
        self.resign_if_removed();
        result.map_err(|e| Error::Damaged(format!("raft refuses a committed conf change: {e}")))
    }

    /// A leader that is no member any more tells what is committed, and hands over to the voter that is furthest. raft-rs leaves it in office, and panics as soon as it looks for
    /// the progress of such a leader.
    fn resign_if_removed(&mut self) {
        let (id, term) = (self.raw.raft.id, self.raw.raft.term);
        if self.role() == Role::Follower || self.raw.raft.prs().get(id).is_some() {
            return;
        }
        let (voters, committed) = (self.conf_state().voters, self.commit());
        let voters: Vec<_> = self.progress().filter(|(member, ..)| voters.contains(&member.0)).collect();
        let best = voters.iter().max_by_key(|(_, matched, active)| (*active, *matched)).map(|(member, ..)| *member);
        self.step_raft(|raw| {
            // That the change is committed travels with appends, on another stream. Who campaigned without knowing would need this member's vote.
            for (voter, matched, _) in voters {
                let commit = committed.min(matched).0;
                let mut known = Message { to: voter.0, from: id, term, commit, ..Message::default() };
                known.set_msg_type(MessageType::MsgHeartbeat);
                raw.raft.msgs.push(known);
            }
            if let Some(best) = best {
                let mut now = Message { to: best.0, from: id, term, ..Message::default() };
                now.set_msg_type(MessageType::MsgTimeoutNow);
                raw.raft.msgs.push(now);
            }
            raw.raft.become_follower(term, raft::INVALID_ID);
        });
    }

    /// What must happen next, if anything.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() {
            self.tell_changes();
            return None;
        }
        let mut inner = self.raw.ready();
        let messages = self.outbound(inner.take_messages());
        let entries = inner.take_entries();
        let committed = inner.take_committed_entries();
        let reads = inner.take_read_states().into_iter();
        let reads = reads.map(|read| (Bytes::from(read.request_ctx), Index(read.index))).collect();
        let (hard_state, must_sync) = (inner.hs().cloned(), inner.must_sync());
        let snapshot = Some(inner.snapshot()).filter(|snapshot| snapshot.metadata.is_some()).cloned();
        Some(Ready { inner, messages, entries, hard_state, must_sync, committed, snapshot, reads })
    }

    /// The entries and the hard state of `ready` are on disk.
    pub fn persisted(&mut self, mut ready: Ready) -> Light {
        let mut messages = ready.inner.take_persisted_messages();
        let installed = ready.snapshot.take().and_then(|snapshot| snapshot.metadata);
        if let Some(metadata) = &installed {
            self.raw.mut_store().install(metadata);
            // That the log was replaced is told before what comes after it.
            self.tell_changes();
        }
        let store = self.raw.mut_store();
        let cut = store.append(&ready.entries);
        if let Some(hard_state) = ready.hard_state.take() {
            store.set_hard_state(hard_state);
        }
        let mut light = self.raw.advance_append(ready.inner);
        if let Some(metadata) = installed {
            // The state machine takes its time. What raft would look up between its old state and the snapshot is not there any more.
            self.raw.advance_apply_to(metadata.index);
            self.told.persisted = metadata.index;
        }
        let commit = light.commit_index();
        if let Some(commit) = commit {
            self.raw.mut_store().set_commit(commit);
        }
        messages.append(&mut light.take_messages());
        if let Some(last) = ready.entries.last() {
            self.told.persisted = last.index;
            self.tell_appended(cut, &ready.entries);
        }
        let light = Light {
            messages: self.outbound(messages),
            committed: light.take_committed_entries(),
            commit: commit.map(Index),
        };
        self.tell_changes();
        light
    }

    /// Forgets what is not needed of the entries up to `durable`, which the store has: for followers that lag the newest `keep` of them stay, as far
    /// as they and all after them fit into `bytes`.
    pub fn release(&mut self, durable: Index, keep: u64, bytes: usize) {
        self.raw.mut_store().release_behind(durable.0, keep, bytes);
    }

    /// What the entries in memory take, about.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.raw.store().bytes()
    }

    /// Runs one raft call and then sets the election time-out, if the call may have drawn one.
    fn step_raft(&mut self, call: impl FnOnce(&mut RawNode<Log>)) {
        let before = self.fingerprint();
        call(&mut self.raw);
        if self.fingerprint() != before {
            self.draw_timeout();
        }
    }

    /// Changes whenever raft may have reset its election timer.
    fn fingerprint(&self) -> (u64, u64, StateRole, usize) {
        let raft = &self.raw.raft;
        (raft.term, raft.leader_id, raft.state, raft.randomized_election_timeout())
    }

    fn draw_timeout(&mut self) {
        let timeout = self.random.random_range(self.election_ticks..2 * self.election_ticks);
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    /// For the lab: the election timer begins anew and runs out after so many ticks. False if that is no sensible number.
    pub fn set_timer(&mut self, ticks: u32) -> bool {
        let sensible = (1..=TIMER_TICKS_MAX).contains(&ticks);
        if sensible {
            self.raw.raft.set_randomized_election_timeout(ticks as usize);
            self.raw.raft.election_elapsed = 0;
            self.tell_timer();
        }
        sensible
    }

    /// Tells the observers what is sent, and clears what etcd would misread.
    fn outbound(&mut self, mut messages: Vec<Message>) -> Vec<Message> {
        for message in &mut messages {
            message.request_snapshot = 0;
            message.deprecated_priority = 0;
            message.priority = 0;
            self.probe.tell(|| Kind::Sent(lab::Sent { wire: Some(summary::wire(message)) }));
        }
        messages
    }
}

/// Whether raft may come to lead within the step of such a message.
fn makes_a_leader(kind: MessageType) -> bool {
    use MessageType::MsgRequestPreVoteResponse;
    use MessageType::MsgRequestVoteResponse;
    use MessageType::MsgTimeoutNow;
    matches!(kind, MsgTimeoutNow | MsgRequestVoteResponse | MsgRequestPreVoteResponse)
}

/// What a member knows of itself.
impl Consensus {
    #[must_use]
    pub fn id(&self) -> MemberId {
        MemberId(self.raw.raft.id)
    }

    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// The leader it follows or is; none if it knows of none.
    #[must_use]
    pub fn leader(&self) -> MemberId {
        MemberId(self.raw.raft.leader_id)
    }

    #[must_use]
    pub fn commit(&self) -> Index {
        Index(self.raw.raft.raft_log.committed)
    }

    #[must_use]
    pub fn last(&self) -> Index {
        Index(self.raw.raft.raft_log.last_index())
    }

    /// Whether it may vote and win: a voter of its own configuration.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.raw.raft.promotable()
    }

    /// Whether it gets the log and has no vote.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.raw.raft.prs().conf().learners().contains(&self.raw.raft.id)
    }

    /// Whether this leader has a conf change in its log that is not applied yet: raft would put nothing in the place of a second one.
    #[must_use]
    pub fn has_pending_conf_change(&self) -> bool {
        self.role() == Role::Leader && self.raw.raft.has_pending_conf()
    }

    #[must_use]
    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    /// Whether a leader has committed an entry of its own term: only then does it know what is committed (Raft section 8).
    #[must_use]
    pub fn has_committed_in_term(&self) -> bool {
        self.raw.raft.commit_to_current_term()
    }

    /// The voters and learners that count now.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        self.raw.raft.prs().conf().to_conf_state()
    }

    /// What a leader knows of each member's log: id, match, and whether it answered lately. Empty elsewhere.
    pub fn progress(&self) -> impl Iterator<Item = (MemberId, Index, bool)> + '_ {
        let leads = self.role() == Role::Leader;
        let all = self.raw.raft.prs().iter().filter(move |_| leads);
        all.map(|(id, progress)| (MemberId(*id), Index(progress.matched), progress.recent_active))
    }

    /// The hard state as last written.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        self.raw.store().hard_state()
    }

    /// The term of the entry at `index`, if the log still knows it.
    #[must_use]
    pub fn term_of(&self, index: Index) -> Option<Term> {
        self.raw.store().term_of(index.0).map(Term)
    }
}

/// Telemetry: only what changed, only while somebody listens.
impl Consensus {
    fn tell_changes(&mut self) {
        if !self.probe.on() {
            return;
        }
        let state = self.state();
        if state != self.told.state {
            self.told.state = state;
            self.probe.tell(|| Kind::State(state));
        }
        for (id, progress) in self.progresses() {
            if self.told.progress.get(&id) != Some(&progress) {
                self.told.progress.insert(id, progress);
                self.probe.tell(|| Kind::Progress(progress));
            }
        }
        if self.role() != Role::Leader {
            self.told.progress.clear();
        }
    }

    fn tell_appended(&mut self, cut: Option<u64>, entries: &[Entry]) {
        if let Some(last_kept) = cut {
            self.probe.tell(|| Kind::Truncated(lab::Truncated { last_kept }));
        }
        if self.probe.on() {
            let entries = entries.iter().map(|entry| summary::entry(entry, self.probe.spells())).collect();
            self.probe.tell(|| Kind::Appended(lab::Appended { entries }));
        }
    }

    /// Follows a candidate's count: raft-rs keeps who voted to itself.
    fn count_vote(&mut self, message: &Message) {
        let pre = match message.msg_type() {
            MessageType::MsgRequestVoteResponse => false,
            MessageType::MsgRequestPreVoteResponse => true,
            _ => return,
        };
        let term = self.raw.raft.term + u64::from(pre);
        let asks = matches!(self.role(), Role::Candidate | Role::PreCandidate);
        if !self.probe.on() || !asks {
            return;
        }
        let votes = &mut self.told.votes;
        if (votes.term, votes.pre) != (term, pre) {
            *votes = lab::Votes { term, pre, granted: vec![self.raw.raft.id], rejected: Vec::new() };
        }
        let side = if message.reject { &mut votes.rejected } else { &mut votes.granted };
        if !side.contains(&message.from) {
            side.push(message.from);
            let votes = votes.clone();
            self.probe.tell(|| Kind::Votes(votes));
        }
    }

    fn state(&self) -> lab::State {
        let role = match self.role() {
            Role::Leader => lab::Role::Leader,
            Role::Candidate => lab::Role::Candidate,
            Role::PreCandidate => lab::Role::PreCandidate,
            Role::Follower if self.is_learner() => lab::Role::Learner,
            Role::Follower => lab::Role::Follower,
        };
        lab::State {
            role: role as i32,
            term: self.raw.raft.term,
            vote: self.raw.raft.vote,
            leader: self.raw.raft.leader_id,
            first_index: self.raw.store().first(),
            last_index: self.raw.raft.raft_log.last_index(),
            persisted: self.told.persisted,
            commit: self.raw.raft.raft_log.committed,
            applied: self.told.applied.max(self.raw.raft.raft_log.applied),
        }
    }

    fn progresses(&self) -> BTreeMap<u64, lab::Progress> {
        if self.role() != Role::Leader {
            return BTreeMap::new();
        }
        let tell = |(&peer, progress): (&u64, &raft::Progress)| {
            let state = match progress.state {
                raft::ProgressState::Probe => lab::ProgressState::Probe,
                raft::ProgressState::Replicate => lab::ProgressState::Replicate,
                raft::ProgressState::Snapshot => lab::ProgressState::Snapshot,
            };
            let told = lab::Progress {
                peer,
                match_index: progress.matched,
                next_index: progress.next_idx,
                state: state as i32,
                paused: progress.paused,
                inflight: small(progress.ins.count() as u64),
                recently_active: progress.recent_active,
            };
            (peer, told)
        };
        self.raw.raft.prs().iter().filter(|(id, _)| **id != self.raw.raft.id).map(tell).collect()
    }

    /// What an observer needs to start drawing; the driver adds what raft does not know.
    #[must_use]
    pub fn snapshot(&self) -> lab::Snapshot {
        lab::Snapshot {
            state: Some(self.state()),
            tail: self.raw.store().tail(TAIL_ENTRIES).map(|entry| summary::entry(entry, true)).collect(),
            progress: self.progresses().into_values().collect(),
            ..lab::Snapshot::default()
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
