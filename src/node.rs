//! One running member: threads, disk, network and clock around one replica.
//!
//! ```text
//!  services ──propose──▶ inbox ──▶ raft thread ──committed──▶ apply thread ──batches──▶ store thread
//!     ▲                    ▲         │ WAL, one fdatasync        │ answers, events        │ sled
//!     └──── answer ────────┼─────────┼───────────────────────────┘                        │
//!                        peers ◀─────┘                     readers share the Machine's lock; nothing waits for sled
//! ```
//!
//! A put crosses two thread boundaries on its way down and one on its way back. The raft thread never touches the state machine, so that a long read cannot delay a
//! heartbeat; the store thread writes behind, because the log alone makes a write durable.

mod adopt;
mod apply_thread;
mod auth;
mod beats;
mod boot;
mod compactor;
mod corruption;
mod duties;
mod handler;
mod image;
mod install;
mod join;
mod lab;
mod leases;
mod lost;
mod mailbox;
mod maintain;
mod members;
mod pace;
mod raft_thread;
mod send;
mod start;
mod store_thread;
mod telemetry;
mod timeouts;
mod times;
mod waiters;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

pub use boot::Checks;
pub use boot::Config;
pub use boot::Start;
pub use compactor::AutoCompaction;
pub use image::Image;
pub use members::Gatekeeper;
pub use start::Network;
pub use start::THREADS;
pub use telemetry::Observer;

use crate::apply::Machine;
use crate::apply::ReadTxn;
use crate::apply::Reply;
use crate::apply::check;
use crate::error::Error;
use crate::lease;
use crate::meter;
use crate::mvcc::Selection;
use crate::mvcc::Store;
use crate::peer::Peers;
use crate::proto::etcdserverpb as pb;
use crate::proto::lab as proto;
use crate::replica::Proposal;
use crate::replica::leases::Standing;
use crate::store::Renewable;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Revision;
use crate::types::Term;
use crate::watch;
use bytes::Bytes;
use mailbox::Mailbox;
use maintain::Hashes;
use parking_lot::Mutex;
use parking_lot::RwLock;
use prost::Message as _;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use store_thread::Write;
use tokio::runtime::Handle;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::sync::watch as signal;
use tokio::task::block_in_place;
use tokio_rustls::rustls::ClientConfig;
use waiters::Applied;
use waiters::Requests;

/// Requests that may wait for the raft thread at once.
/// A thread of the runtime waits so long for the state before it lets others take over its tasks: a run of entries takes less.
const LOOK_PATIENCE: Duration = Duration::from_millis(10);
const INBOX_MAX: usize = 16 * 1024;
/// So many more if they go first: heartbeats and other messages of peers, renewals and revocations of leases.
const INBOX_RESERVE: usize = 4 * 1024;
/// Committed but not applied entries above which proposals are refused; etcd's `maxGapBetweenApplyAndCommitIndex`.
const APPLY_LAG_MAX: u64 = 5000;
/// The same for revocations of leases, as in etcd's `PriorityRequest` (3.7): under overload a lease must not outlive its time (#20492).
const APPLY_LAG_MAX_URGENT: u64 = 2 * APPLY_LAG_MAX;
/// How often a physical compaction looks whether everything below has been removed.
const SWEEP_POLL: Duration = Duration::from_millis(10);
/// How long a request may take beyond two election time-outs; etcd's value.
const REQUEST_BASE_MS: u64 = 5000;
/// A linearizable read that waits longer is told in the log; etcd's `readIndexRetryTime`.
const SLOW_READ: Duration = Duration::from_millis(500);

/// A handle to a running member; cheap to clone. The services of `server` talk to this and to nothing below it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What a member knows of itself right now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// The leader it follows (or is); none if it knows of none.
    pub leader: MemberId,
    pub term: Term,
    pub committed: Index,
    pub applied: Index,
    pub is_learner: bool,
}

/// What reaches the raft thread.
enum Input {
    Propose(Proposal),
    Read(ReadWaiter),
    Peer(Box<crate::proto::raftpb::Message>),
    Unreachable(MemberId),
    /// The process of this member has ended.
    Lost(MemberId),
    /// From the apply thread, which waits for the answer: a committed conf change must count now.
    ConfChange(
        Index,
        crate::proto::walpb::ConfChange,
        std::sync::mpsc::SyncSender<Result<crate::proto::raftpb::ConfState, Error>>,
    ),
    Transfer(MemberId),
    Campaign(oneshot::Sender<bool>),
    /// For an observer that connects.
    Snapshot(oneshot::Sender<(proto::Snapshot, Observer)>),
    /// What only the lab asks for.
    Lab(lab::Order),
    /// For a graceful stop: the follower that is furthest.
    BestFollower(oneshot::Sender<Option<MemberId>>),
    /// How far each member's log is known to be; nothing unless this member leads.
    Progress(oneshot::Sender<Vec<(MemberId, Index)>>),
    /// The store is durable up to here: the log below may go. With the members as of then.
    Durable(crate::wal::SnapshotMark, Vec<u8>),
    /// A leader's snapshot whose image is kept.
    Received(Box<crate::proto::raftpb::Message>, install::Verdict),
    /// Whether a snapshot arrived that this member was to send.
    SnapshotSent(MemberId, bool),
    /// The next segment of the log is filled with zeros.
    Segment(Result<crate::wal::Prepared, Error>),
}

/// Who gets in when much waits already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Usual,
    /// Leases: room is kept for them.
    Urgent,
    /// The leader's own work, of which little is under way at a time.
    Own,
}

struct Inner {
    id: MemberId,
    cluster: ClusterId,
    config: Config,
    started: Instant,
    /// What the lab has done to this member's clock.
    pace: pace::Pace,
    inbox: Mailbox<Input>,
    machine: RwLock<Machine>,
    watches: watch::Shared,
    requests: Requests,
    applied: Applied,
    published: Published,
    /// Batches that the store has and the Machine has not noted yet.
    batches_written: AtomicU64,
    /// What the store thread has to do. Batches are put here under the Machine's lock.
    writes: Mailbox<Write>,
    /// The store of the state as it is now; another one after a snapshot was installed.
    engine: RwLock<Arc<Renewable>>,
    /// Counts the stores that this member has had: a batch belongs to one of them.
    epoch: AtomicU64,
    snapshots: install::Snapshots,
    hashes: Hashes,
    /// How many defragmentations are under way.
    defragmenting: signal::Sender<usize>,
    /// Held while the NOSPACE alarm is being raised.
    raising: tokio::sync::Mutex<()>,
    /// For what threads without a runtime start.
    runtime: tokio::runtime::Handle,
    /// How to ask `https` peers.
    dial: Option<Arc<ClientConfig>>,
    timers: Mutex<lease::Timers>,
    /// Wakes renewals that wait: a lease was revoked or checkpointed, or the leader changed.
    lease_news: Notify,
    auth: auth::Gate,
    tap: telemetry::Tap,
    next_request: AtomicU64,
    /// Who judges what a peer forwards for its client while authentication is on.
    gatekeeper: OnceLock<Gatekeeper>,
    peers: OnceLock<Peers>,
    ready: signal::Sender<bool>,
    stopped: signal::Sender<Option<Error>>,
    stopping: AtomicBool,
    /// Ends the peers' listeners.
    closing: signal::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// How many images of this member are being written or sent.
    images: Arc<AtomicUsize>,
    /// Open while this member runs: it locks the data directory.
    lock: Mutex<Option<std::fs::File>>,
}

/// How a reader is told that its read may go on.
type ReadWaiter = oneshot::Sender<Result<Index, Error>>;

/// What the raft thread publishes after each round, for everybody to read without a lock.
#[derive(Default)]
struct Published {
    term: AtomicU64,
    /// When a slow read was last told.
    slow_read_ms: AtomicU64,
    leader: AtomicU64,
    committed: AtomicU64,
    /// The last entry that has taken the cluster's version down; 0 if there was none.
    fallen_at: AtomicU64,
    is_learner: AtomicBool,
    /// Counts leaders lost and leaders found: even without a leader, odd with one. What is proposed while it is even waits here for a leader;
    /// what was proposed before may have gone to one that is lost.
    reign: AtomicU64,
    leader_since_ms: AtomicU64,
    leader_lost_ms: AtomicU64,
    /// When the raft thread last looked at its clock.
    ticked_ms: AtomicU64,
    /// How often it came too late to that: a process that was stopped, a disk that hung. Others may have a new leader since.
    stalls: AtomicU64,
    /// Up to which stall a quorum has confirmed this leader since.
    stalls_confirmed: AtomicU64,
}

impl Inner {
    /// The lab's clock, which is the world's unless the lab holds it or slows it down.
    fn now(&self) -> Millis {
        Millis(u64::try_from(self.pace.lab(self.started.elapsed()).as_millis()).unwrap_or(u64::MAX))
    }

    fn leader(&self) -> MemberId {
        MemberId(self.published.leader.load(Ordering::Acquire))
    }

    fn is_leader(&self) -> bool {
        self.leader() == self.id
    }

    /// The term is read first: whoever leads by then leads in it or in a later one, and then the two do not match what was asked before.
    fn standing(&self) -> Standing {
        Standing { term: Term(self.published.term.load(Ordering::Acquire)), leads: self.is_leader() }
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(REQUEST_BASE_MS + 2 * self.config.election_ms())
    }

    /// Ids of requests: the member's low 16 bits, 40 bits of time, 8 bits of count, as etcd's `idutil`. They carry on through a restart because time does.
    fn request_id(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// This member cannot go on. The first reason counts.
    fn fail(&self, why: Error) {
        tracing::error!(error = %why, "the member stops");
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            if first {
                *stopped = Some(why);
            }
            first
        });
        self.inbox.close();
    }
}

impl Node {
    /// This member's id and its cluster's id.
    #[must_use]
    pub fn identity(&self) -> (MemberId, ClusterId) {
        (self.inner.id, self.inner.cluster)
    }

    /// What it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let published = &self.inner.published;
        Status {
            leader: self.inner.leader(),
            term: Term(published.term.load(Ordering::Acquire)),
            committed: Index(published.committed.load(Ordering::Acquire)),
            applied: self.inner.applied.get(),
            is_learner: published.is_learner.load(Ordering::Acquire),
        }
    }

    /// Fills cluster id, member id and term; leaves the revision as it is.
    pub fn stamp(&self, header: &mut pb::ResponseHeader) {
        header.cluster_id = self.inner.cluster.0;
        header.member_id = self.inner.id.0;
        header.raft_term = self.inner.published.term.load(Ordering::Acquire);
    }

    /// A header with the current revision.
    #[must_use]
    pub fn header(&self) -> pb::ResponseHeader {
        let revision = self.read(|machine| machine.store().revision()).to_wire();
        let mut header = pb::ResponseHeader { revision, ..pb::ResponseHeader::default() };
        self.stamp(&mut header);
        header
    }

    /// How long a request may take: 5 s plus two election time-outs, as in etcd.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.inner.request_timeout()
    }

    /// An id for a lease that the client left to the server: positive, not used before by this member.
    #[must_use]
    pub fn next_lease_id(&self) -> LeaseId {
        LeaseId((self.inner.request_id() & (u64::MAX >> 1)) as i64)
    }

    /// Puts a request through the log and waits for its answer. Sets the request's id.
    ///
    /// # Errors
    /// What the state machine answers; [`Error::TooManyRequests`] when too much waits; [`Error::RequestTooLarge`]; one of the time-outs after
    /// [`Node::request_timeout`] (the request may still be applied later).
    pub fn propose(
        &self,
        request: pb::InternalRaftRequest,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<'_> {
        self.propose_in(None, request)
    }

    /// The same, but only as the leader of `only_leading`, if that is given: [`Error::NotPrimary`] if this member is that no more. The request, which takes
    /// much memory, is bytes before anybody waits.
    fn propose_in(
        &self,
        only_leading: Option<Term>,
        request: pb::InternalRaftRequest,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<'_> {
        let (inner, began) = (&self.inner, self.inner.now());
        let prepared = self.prepare(only_leading, request, began);
        async move {
            let (rank, proposal, is_told) = prepared?;
            let id = proposal.id;
            let result = self.submit(rank, proposal).await;
            if is_told {
                inner.tap.tell(|| telemetry::answered(id, &result, inner.now().0 - began.0));
            }
            result
        }
    }

    /// Gives a request its id and makes it bytes; whether an observer is told of it.
    fn prepare(
        &self,
        only_leading: Option<Term>,
        mut request: pb::InternalRaftRequest,
        began: Millis,
    ) -> Result<(Rank, Proposal, bool), Error> {
        let inner = &self.inner;
        let id = inner.request_id();
        request.header.get_or_insert_default().id = id;
        let rank = match (only_leading, &request.lease_revoke) {
            (Some(_), _) => Rank::Own,
            (None, Some(_)) => Rank::Urgent,
            (None, None) => Rank::Usual,
        };
        let lag_max = match rank {
            Rank::Usual => APPLY_LAG_MAX,
            Rank::Urgent => APPLY_LAG_MAX_URGENT,
            Rank::Own => u64::MAX,
        };
        if inner.published.committed.load(Ordering::Acquire) > inner.applied.get().0.saturating_add(lag_max) {
            return Err(Error::TooManyRequests);
        }
        let data = Bytes::from(request.encode_to_vec());
        if data.len() > inner.config.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let untold = inner.tap.admit(began);
        if let Some(untold) = untold {
            inner.tap.tell(|| telemetry::proposed(id, &request, untold));
        }
        let proposal = Proposal { id, data, conf_change: false, deadline: self.deadline(), only_leading };
        Ok((rank, proposal, untold.is_some()))
    }

    fn deadline(&self) -> Millis {
        let limit = u64::try_from(self.inner.request_timeout().as_millis()).unwrap_or(u64::MAX);
        self.inner.now().plus(limit)
    }

    /// Hands something to the raft thread.
    fn hand_in(&self, rank: Rank, input: Input) -> Result<(), Error> {
        let inbox = &self.inner.inbox;
        let taken = match rank {
            Rank::Usual => inbox.push(input),
            Rank::Urgent => inbox.push_beyond(input, INBOX_RESERVE),
            Rank::Own => inbox.push_beyond(input, usize::MAX),
        };
        taken.map_err(|why| match why {
            mailbox::Refused::Full => Error::TooManyRequests,
            mailbox::Refused::Closed => Error::Stopped,
        })
    }

    async fn submit(&self, rank: Rank, proposal: Proposal) -> Result<Reply, Error> {
        let result = self.submit_uncounted(rank, proposal).await;
        if result.as_ref().is_err_and(is_failure) {
            meter::PROPOSALS_FAILED.inc();
        }
        result
    }

    async fn submit_uncounted(&self, rank: Rank, proposal: Proposal) -> Result<Reply, Error> {
        let inner = &self.inner;
        let (id, began, limit) = (proposal.id, inner.now(), inner.request_timeout());
        let reign = inner.published.reign.load(Ordering::Acquire);
        let waiter = inner.requests.wait(id, reign);
        // Forgotten however this future ends: answered, late, or dropped with its client.
        let _forget = Forget { inner, id };
        self.hand_in(rank, Input::Propose(proposal))?;
        match inner.within(limit, waiter).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(Error::Stopped),
            None => Err(inner.timeout_error(began, reign)),
        }
    }

    /// Returns once this member has applied everything that was committed when the call began (ReadIndex, Raft thesis section 6.4).
    ///
    /// # Errors
    /// [`Error::LeaderChanged`], [`Error::Timeout`], [`Error::TooManyRequests`], [`Error::Stopped`]: nothing was read, ask again.
    pub async fn read_barrier(&self) -> Result<(), Error> {
        self.read_barrier_as(Rank::Usual).await
    }

    /// Whether this member is sure to know what was committed when the call began: waits for [`Node::read_barrier`], unless it knows no leader
    /// whom it could ask.
    pub async fn catches_up(&self) -> bool {
        !self.inner.leader().is_none() && self.read_barrier().await.is_ok()
    }

    async fn read_barrier_as(&self, rank: Rank) -> Result<(), Error> {
        let inner = &self.inner;
        let (answer, confirmed) = oneshot::channel();
        self.hand_in(rank, Input::Read(answer))?;
        let wait = async {
            let index = confirmed.await.map_err(|_| Error::Stopped)??;
            inner.applied.reach(index).await;
            Ok(())
        };
        let mut wait = std::pin::pin!(wait);
        let limit = inner.request_timeout();
        let confirmed = match inner.within(SLOW_READ.min(limit), &mut wait).await {
            Some(confirmed) => confirmed,
            None => {
                self.tell_slow_read();
                let rest = limit.saturating_sub(SLOW_READ);
                inner.within(rest, wait).await.unwrap_or(Err(Error::Timeout))
            }
        };
        confirmed.inspect_err(|_| meter::READ_INDEXES_FAILED.inc())
    }

    /// One line for all who wait at the same time.
    fn tell_slow_read(&self) {
        meter::SLOW_READS.inc();
        let (now, told) = (self.inner.now().0, &self.inner.published.slow_read_ms);
        let before = told.load(Ordering::Relaxed);
        let is_due = now >= before.saturating_add(SLOW_READ.as_millis() as u64);
        if is_due && told.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(
                "retry-timeout" = ?SLOW_READ,
                "waiting for ReadIndex response took too long, retrying"
            );
        }
    }

    /// How watch streams read the past.
    #[must_use]
    pub fn history(&self) -> &dyn watch::History {
        &self.inner.machine
    }

    /// Looks at the applied state. Keep it short: the apply thread waits meanwhile.
    ///
    /// One entry may take seconds to apply. A thread of the runtime does not wait for that with all its tasks, peers' messages among them: they go on on
    /// another one.
    pub fn read<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        if let Some(machine) = self.inner.machine.try_read_for(LOOK_PATIENCE) {
            return look(&machine);
        }
        let is_shared = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
        let wait = || look(&self.inner.machine.read());
        if Handle::try_current().is_ok_and(is_shared) { block_in_place(wait) } else { wait() }
    }

    /// A range request, linearizable unless it says serializable. The header has the revision only.
    ///
    /// # Errors
    /// Those of [`Node::read_barrier`], and the request's own.
    pub async fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        if !request.serializable {
            self.read_barrier().await?;
        }
        self.range_now(request)
    }

    /// A range request on this member's state as it is. The header has the revision only.
    ///
    /// # Errors
    /// The request's own.
    pub fn range_now(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        let mut selection = self.select(request)?;
        while self.select_more(&mut selection) {}
        selection.load()
    }

    /// Begins a range read on this member's state as it is. Rows are chosen under the lock in slices, values fetched outside it: a long
    /// range holds up nobody for long. Go on with [`Node::select_more`], then load.
    ///
    /// # Errors
    /// The request's own.
    pub fn select(&self, request: &pb::RangeRequest) -> Result<Selection, Error> {
        meter::RANGES.inc();
        self.read(|machine| machine.store().select(request))
    }

    /// Chooses the next slice, if one is left. Returns whether that was so.
    pub fn select_more(&self, selection: &mut Selection) -> bool {
        let goes_on = !selection.is_complete();
        if goes_on {
            self.read(|machine| machine.store().select_more(selection));
        }
        goes_on
    }

    /// One page of a longer range, from this member's state: no barrier, and beyond the limit nothing is counted.
    ///
    /// # Errors
    /// The request's own.
    pub async fn range_page(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        let mut selection = self.read(|machine| machine.store().select_page(request))?;
        while self.select_more(&mut selection) {
            // The other calls of the connection have their turn.
            tokio::task::yield_now().await;
        }
        selection.load()
    }

    /// A transaction that only reads, linearizable unless all of it says serializable.
    ///
    /// # Errors
    /// Those of [`Node::read_barrier`], and the requests' own.
    pub async fn read_txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        if !check::is_serializable(request) {
            self.read_barrier().await?;
        }
        self.read_txn_now(request)
    }

    /// A transaction that only reads, on this member's state as it is.
    ///
    /// # Errors
    /// The requests' own.
    pub fn read_txn_now(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut txn = self.select_txn(request)?;
        while self.select_txn_more(&mut txn) {}
        txn.load()
    }

    /// As [`Node::select`], for a transaction that only reads.
    ///
    /// # Errors
    /// The requests' own.
    pub fn select_txn(&self, request: &pb::TxnRequest) -> Result<ReadTxn, Error> {
        self.read(|machine| machine.select_txn(request))
    }

    /// As [`Node::select_more`].
    pub fn select_txn_more(&self, txn: &mut ReadTxn) -> bool {
        let goes_on = !txn.is_complete();
        if goes_on {
            self.read(|machine| machine.select_txn_more(txn));
        }
        goes_on
    }

    /// Returns once nothing that was compacted at or below `revision` is stored any more, also if nothing ever was; or the member stops.
    pub async fn swept(&self, revision: Revision) {
        let swept = async {
            let mut every = tokio::time::interval(SWEEP_POLL);
            let done = |store: &Store| store.is_swept(revision) || !store.is_sweeping();
            while !self.read(|machine| done(machine.store())) {
                every.tick().await;
            }
        };
        tokio::select! {
            () = swept => {}
            _ = self.stopped() => {}
        }
    }

    /// The watch hub of this member.
    #[must_use]
    pub fn watches(&self) -> &watch::Shared {
        &self.inner.watches
    }

    /// Hands leadership over and waits until the new leader is seen.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`], [`Error::LeaderTransferTimeout`].
    pub async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        if !self.inner.is_leader() {
            return Err(Error::NotLeader);
        }
        let is_voter = self.read(|machine| machine.members().get(to).is_some_and(|member| !member.is_learner));
        if !is_voter {
            return Err(Error::BadLeaderTransferee);
        }
        if to == self.inner.id {
            return Ok(());
        }
        self.inner.inbox.force(Input::Transfer(to));
        self.wait_for_leader(|leader| leader == to).await.map_err(|_| Error::LeaderTransferTimeout)
    }

    /// Waits, one election time-out long, until `done` says yes to the leader.
    async fn wait_for_leader(&self, done: impl Fn(MemberId) -> bool) -> Result<(), tokio::time::error::Elapsed> {
        let limit = Duration::from_millis(self.inner.config.election_ms());
        let poll = async {
            let mut every = tokio::time::interval(Duration::from_millis(5));
            while !done(self.inner.leader()) {
                every.tick().await;
            }
        };
        tokio::time::timeout(limit, poll).await
    }

    /// Becomes true once this member has joined a quorum and published itself; clients are served from then on.
    #[must_use]
    pub fn ready(&self) -> signal::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    /// How long ago the raft thread last looked at its clock.
    #[must_use]
    pub fn since_tick(&self) -> Duration {
        let ticked = self.inner.published.ticked_ms.load(Ordering::Acquire);
        Duration::from_millis(self.inner.now().0.saturating_sub(ticked))
    }

    /// Requests that wait for their answer.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.inner.requests.len()
    }

    /// The connections to the other members.
    #[must_use]
    pub fn peers(&self) -> Option<&Peers> {
        self.inner.peers.get()
    }

    /// Tells why the member stopped by itself (removed, disk failed); pending until then.
    pub async fn stopped(&self) -> Error {
        let mut stopped = self.inner.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(Error::Stopped),
            Err(_) => Error::Stopped,
        }
    }

    /// Hands leadership over, stops the threads, syncs the disk. Later calls return at once.
    pub async fn stop(&self) {
        if self.inner.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.hand_over().await;
        self.inner.watches.close(Error::Stopped);
        self.inner.inbox.close();
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the member panicked");
                }
            }
        });
        let _joined = joined.await;
        if let Some(peers) = self.inner.peers.get() {
            peers.stop();
        }
        self.inner.closing.send_replace(true);
        // Until the last of them is gone, and has taken the file of its socket along.
        self.inner.closing.closed().await;
        // Ends the duties, too.
        self.inner.stopped.send_if_modified(|stopped| {
            stopped.is_none() && {
                *stopped = Some(Error::Stopped);
                true
            }
        });
        *self.inner.lock.lock() = None;
    }

    /// Gives leadership to the follower that is furthest, so that nobody has to wait for an election.
    async fn hand_over(&self) {
        if !self.inner.is_leader() {
            return;
        }
        let (answer, best) = oneshot::channel();
        self.inner.inbox.force(Input::BestFollower(answer));
        match best.await {
            Ok(Some(to)) => {
                tracing::info!(from = %self.inner.id, to = %to, "leadership transfer starting");
                self.inner.inbox.force(Input::Transfer(to));
                match self.wait_for_leader(|leader| leader == to).await {
                    Ok(()) => tracing::info!(to = %to, "leadership transfer finished"),
                    Err(_) => tracing::warn!(to = %to, "leadership transfer failed"),
                }
            }
            _ => tracing::info!("skipped leadership transfer for single voting member cluster"),
        }
    }
}

/// Whether a proposal came to nothing for want of a leader, time or room, and was not just refused.
fn is_failure(why: &Error) -> bool {
    matches!(
        why,
        Error::NoLeader
            | Error::NobodyLed
            | Error::Timeout
            | Error::TimeoutConnectionLost
            | Error::TimeoutLeaderFailure
            | Error::TooManyRequests
            | Error::Stopped
    )
}

/// Forgets a request when its future ends.
struct Forget<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inner.requests.forget(self.id);
    }
}
