//! The raft thread: consensus and the write-ahead log.
//!
//! One round: take everything that arrived, tick if it is time, hand it to raft, then work off what raft wants done. What arrives while the
//! log syncs waits for the next round and shares its sync: group commit without a timer.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use super::Inner;
use super::Input;
use super::ReadWaiter;
use super::apply_thread::Work;
use super::beats::Beats;
use super::install::Verdict;
use super::lab::Desk;
use super::mailbox::Mailbox;
use super::mailbox::duration;
use super::send;
use super::telemetry;
use crate::consensus::Consensus;
use crate::consensus::Refused;
use crate::consensus::Role;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image::snap_file;
use crate::meter;
use crate::probe::Probe;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::replica::Outside;
use crate::replica::Replica;
use crate::replica::Ticker;
use crate::replica::Ticks;
use crate::replica::install;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Term;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::oneshot;

/// A sync that takes longer than this is worth a warning; etcd's value.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// How often those are looked for who have given up waiting.
const FORGET_EVERY_MS: u64 = 1000;

/// What came of a step.
type Stepped = Result<(), String>;

pub(crate) struct RaftThread {
    pub(super) inner: Arc<Inner>,
    pub(super) replica: Replica<ReadWaiter>,
    hands: Hands,
    /// Messages that wait for the lab's clock.
    pub(super) desk: Desk,
    /// Who waits to hear what raft made of a snapshot.
    verdicts: Vec<(Verdict, Result<(), Refused>)>,
    /// Messages that contradicted what is committed here.
    contradictions: u64,
    /// Who waits for the end of a step.
    pub(super) steps: Vec<(oneshot::Sender<Stepped>, Stepped)>,
}

impl RaftThread {
    pub(crate) fn new(
        inner: Arc<Inner>,
        replica: Replica<ReadWaiter>,
        wal: Wal,
        apply: Arc<Mailbox<Work>>,
    ) -> RaftThread {
        let hands = Hands {
            inner: inner.clone(),
            wal,
            apply,
            seen: (Term(0), MemberId::NONE),
            role: (Role::Follower, Term(0)),
            votes: BTreeMap::new(),
            now: Millis(0),
            beats: Beats::default(),
        };
        RaftThread {
            inner,
            replica,
            hands,
            desk: Desk::default(),
            verdicts: Vec::new(),
            contradictions: 0,
            steps: Vec::new(),
        }
    }

    /// Runs until the inbox is closed or the disk fails.
    pub(crate) fn run(mut self) {
        if let Err(why) = self.rounds() {
            self.inner.fail(why);
        }
        // Nobody takes from it any more, and the apply thread may wait for a conf change in it.
        self.inner.inbox.discard();
        let _synced = self.hands.wal.sync();
        self.hands.apply.close();
    }

    fn rounds(&mut self) -> Result<(), Error> {
        let mut ticker = Ticker::new(self.inner.now(), self.inner.config.tick_ms);
        let mut forget_at = self.inner.now();
        let mut inputs = Vec::new();
        loop {
            let next = ticker.next();
            let due = [self.replica.due(), self.desk.due()].into_iter().flatten().fold(next, Millis::min);
            let wait = self.inner.pace.real(duration(self.inner.now(), due));
            if !self.inner.inbox.take_all(&mut inputs, wait) {
                return Ok(());
            }
            for input in inputs.drain(..) {
                self.take(input)?;
            }
            let now = self.inner.now();
            self.let_on(now);
            self.tick(ticker.due(now), now);
            self.hands.now = now;
            self.replica.turn(now, self.inner.applied.get(), &mut self.hands)?;
            self.prepare_segment();
            self.answer(now);
            if now >= forget_at {
                forget_at = now.plus(FORGET_EVERY_MS);
                self.replica.forget_reads(ReadWaiter::is_closed);
                self.inner.applied.forget_gone();
            }
        }
    }

    /// Has the next segment filled with zeros in good time, by another thread.
    fn prepare_segment(&mut self) {
        if let Some(preparation) = self.hands.wal.prepare_next() {
            let inner = self.inner.clone();
            let fill = move || inner.inbox.force(Input::Segment(preparation.run()));
            if let Err(why) = std::thread::Builder::new().spawn(fill) {
                // A limit of processes. The segment in use has room all the same.
                tracing::warn!(error = %why, "cannot prepare the next segment of the log; once more when this one is full");
                self.hands.wal.do_without_spare();
            }
        }
    }

    fn tick(&mut self, due: Ticks, now: Millis) {
        let published = &self.inner.published;
        if due.stalled {
            published.stalls.fetch_add(1, Ordering::AcqRel);
        }
        for _ in 0..due.count {
            self.replica.consensus.tick();
            if self.replica.consensus.asks_anew() {
                // The role is the same, and the campaign another: it is said again.
                self.hands.role.0 = Role::Follower;
            }
        }
        published.ticked_ms.store(now.0, Ordering::Release);
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        let consensus = &mut self.replica.consensus;
        match input {
            Input::Propose(proposal) => self.replica.propose(proposal),
            Input::Read(waiter) => self.replica.read(waiter),
            Input::Peer(message) if self.inner.pace.delays() || !self.desk.is_empty() => self.keep_back(*message),
            Input::Peer(message) => self.hear(*message),
            Input::Lab(order) => self.obey(order),
            Input::Unreachable(member) => consensus.report_unreachable(member),
            Input::Lost(member) => self.lose(member),
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
                let _gone = answer.send((consensus.snapshot(), self.inner.tap.observe(self.inner.pace.delaying())));
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
                // Nobody is given entries from before a downgrade: an earlier release, which may come now, ends when it reads them.
                let since = mark.index.saturating_sub(self.inner.published.fallen_at.load(Ordering::Acquire));
                self.replica.release(&mark, &members, (keep.0.min(since), keep.1), &mut self.hands)?;
            }
            Input::Received(message, verdict) => {
                // Told when the round is over: raft's use for it is on disk then.
                let stepped = self.replica.step_snapshot(*message);
                self.verdicts.push((verdict, stepped));
            }
            Input::SnapshotSent(to, arrived) => consensus.report_snapshot(to, arrived),
            Input::Segment(Ok(prepared)) => self.hands.wal.supply(prepared),
            Input::Segment(Err(why)) => {
                tracing::warn!(error = %why, "cannot prepare the next segment of the log; once more when this one is full");
                self.hands.wal.do_without_spare();
            }
        }
        Ok(())
    }

    /// Hands a peer's message to raft. One of them may say that of two logs one is damaged: then this member gets on with nothing, so the first, second,
    /// fourth... is logged.
    pub(super) fn hear(&mut self, message: Message) {
        let from = MemberId(message.from);
        self.hands.notice_vote(&message);
        if let Err(why @ Refused::ConflictsWithCommitted) = self.replica.step(message) {
            self.contradictions += 1;
            if self.contradictions.is_power_of_two() {
                tracing::warn!(
                    "local-member-id" = %self.inner.id, "remote-peer-id" = %from, dropped = self.contradictions, why = %why,
                    "dropped Raft message that came in"
                );
            }
        }
    }

    /// For the lab: the log loses what was not synced. What cannot be taken away was on its way to the disk, and may be there.
    pub(super) fn lose_unsynced(&mut self) {
        drop(self.hands.wal.lose_unsynced());
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
        // All that comes of a step in this member is done and told by now: written, synced, sent.
        for (waiter, done) in self.steps.drain(..) {
            let _gone = waiter.send(done);
        }
    }
}

/// As etcd names the answers of voters.
const VOTE: &str = "MsgVoteResp";
const PRE_VOTE: &str = "MsgPreVoteResp";

/// What the replica has done: the log on disk, the peers, the apply thread, and what everybody can see.
struct Hands {
    inner: Arc<Inner>,
    wal: Wal,
    apply: Arc<Mailbox<Work>>,
    seen: (Term, MemberId),
    role: (Role, Term),
    /// How this campaign's voters have voted; its own vote is the first.
    votes: BTreeMap<MemberId, bool>,
    /// The time of this round.
    now: Millis,
    beats: Beats,
}

impl Outside for Hands {
    fn show(&mut self, consensus: &Consensus) {
        self.notice_role(consensus.role(), consensus.term());
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
        self.beats.look(&messages, self.now, self.inner.config.tick_ms);
        send::divert(&self.inner, &mut messages);
        if let Some(peers) = self.inner.peers.get() {
            peers.send(messages);
        }
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        if self.inner.pace.disk_is_full() {
            return Err(Error::Storage("the log: no space left on device (ordered by the lab)".into()));
        }
        let began = Instant::now();
        self.wal.append(entries, hard_state)?;
        meter::WAL_WRITE.time(began.elapsed());
        Ok(())
    }

    fn sync(&mut self, entries: &[Entry], probe: &mut Probe) -> Result<(), Error> {
        let (began, delay) = (Instant::now(), self.inner.pace.sync_delay());
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        if self.inner.pace.disk_fails() {
            return Err(Error::Storage("the log: input/output error (ordered by the lab)".into()));
        }
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
        snap_file::save(&RealDisk, &install::snap_dir(&self.inner.member_dir()), mark, members)?;
        tracing::info!("snapshot-index" = mark.index, "saved snapshot");
        Ok(())
    }

    fn mark(&mut self, mark: &SnapshotMark) -> Result<(), Error> {
        self.wal.save_snapshot_mark(mark)
    }

    fn release_to(&mut self, index: Index) -> Result<(), Error> {
        self.wal.release_to(index)
    }
}

impl Hands {
    /// Says what this member has become, in the words of etcd's raft (`raft.go`, `becomeFollower` and its like).
    fn notice_role(&mut self, role: Role, term: Term) {
        let (id, before) = (self.inner.id, std::mem::replace(&mut self.role, (role, term)));
        if before == self.role {
            return;
        }
        let campaigns = matches!(role, Role::PreCandidate | Role::Candidate);
        let goes_on = (before.0, role) == (Role::PreCandidate, Role::Candidate);
        if campaigns && !goes_on {
            tracing::info!(logger = "raft", "{id} is starting a new election at term {}", before.1);
        }
        let vote = |kind: &str| tracing::info!(logger = "raft", "{id} received {kind} from {id} at term {term}");
        match role {
            Role::Follower => tracing::info!(logger = "raft", "{id} became follower at term {term}"),
            Role::PreCandidate => {
                tracing::info!(logger = "raft", "{id} became pre-candidate at term {term}");
                vote(PRE_VOTE);
                self.votes = BTreeMap::from([(id, true)]);
            }
            Role::Candidate => {
                tracing::info!(logger = "raft", "{id} became candidate at term {term}");
                vote(VOTE);
                self.votes = BTreeMap::from([(id, true)]);
            }
            Role::Leader => tracing::info!(logger = "raft", "{id} became leader at term {term}"),
        }
    }

    /// Says how another member has voted for this one, and how the count stands (`raft.go`, `poll` and `stepCandidate`).
    fn notice_vote(&mut self, message: &Message) {
        let (id, term, from) = (self.inner.id, self.role.1, MemberId(message.from));
        let kind = match (self.role.0, message.msg_type()) {
            (Role::Candidate, MessageType::MsgRequestVoteResponse) => VOTE,
            (Role::PreCandidate, MessageType::MsgRequestPreVoteResponse) => PRE_VOTE,
            _ => return,
        };
        let how = if message.reject { "rejection " } else { "" };
        tracing::info!(logger = "raft", "{id} received {kind} {how}from {from} at term {term}");
        self.votes.entry(from).or_insert(!message.reject);
        let granted = self.votes.values().filter(|granted| **granted).count();
        let rejected = self.votes.len() - granted;
        tracing::info!(logger = "raft", "{id} has received {granted} {kind} votes and {rejected} vote rejections");
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
        meter::LEADER_CHANGES.inc();
        if before.is_none() {
            tracing::info!(logger = "raft", "raft.node: {id} elected leader {leader} at term {term}");
        } else {
            tracing::info!(logger = "raft", "raft.node: {id} changed leader from {before} to {leader} at term {term}");
        }
    }
}
