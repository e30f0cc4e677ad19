//! Leases: timed by the leader, asked of anybody.
//!
//! Time is the leader's alone, so every member sends renewals and questions for the remaining time to it. A leader may be one no more
//! without knowing it: its process was stopped, its disk hung. Two things keep such a leader from harm:
//!
//! - before it promises anything by its own clock after a pause, it asks a quorum whether it still leads ([`Node::confirm_leadership`]);
//! - what it revokes or marks goes into the log as the leader of its term, or not at all: nothing is forwarded to a successor, who may
//!   have renewed the lease, and what an overtaken leader appends is never committed.
//!
//! Under overload, leases go first: other proposals are refused while revocations and renewals still find room (#20492).
//!
//! ```text
//! every 500 ms: leading? anything due? ── quorum: yes, still you ──▶ timers: which? ──▶ revoke, at most 16 at a time ──▶ log
//! ```
//!
//! Source: etcd `server/etcdserver/v3_server.go` (`LeaseRenew`), `server.go` (`revokeExpiredLeases`, `ensureLeadership`); contract-server 4;
//! reliability 3 (#15247, #14087, #20615).

use super::Node;
use super::Rank;
use crate::apply::Reply;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::meter;
use crate::peer;
use crate::peer::Peers;
use crate::proto::etcdserverpb as pb;
use crate::replica::leases;
use crate::replica::leases::Look;
use crate::replica::leases::Pulse;
use crate::replica::leases::Renewed;
use crate::types::Index;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Term;
use futures::stream::StreamExt as _;
use futures::stream::iter;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Interval;
use tokio::time::interval;
use tokio::time::timeout;

/// How often a leader looks for expired leases; etcd's value.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);
/// Revocations under way at once; etcd's value.
const REVOKING_MAX: usize = 16;
/// Entries with checkpoints at a time; etcd's value.
const CHECKPOINT_ENTRIES_MAX: usize = 500;
/// How long to wait before asking another leader.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a lease call may wait for this member to catch up; etcd's value.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What the leader said of a lease: gone for good, or "ask again".
fn lease_error(why: peer::Error) -> Error {
    if matches!(why, peer::Error::LeaseNotFound) { Error::LeaseNotFound } else { Error::NotPrimary }
}

/// Paces those who ask again; the first time costs nothing.
#[derive(Default)]
struct Pace {
    has_asked: bool,
    every: Option<Interval>,
}

impl Pace {
    async fn turn(&mut self) {
        if std::mem::replace(&mut self.has_asked, true) {
            let later = || {
                let mut every = interval(ASK_AGAIN);
                every.reset();
                every
            };
            self.every.get_or_insert_with(later).tick().await;
        }
    }
}

impl Node {
    /// Renews a lease, at the leader if that is another; its TTL in seconds, 0 if it is gone.
    ///
    /// # Errors
    /// [`Error::NotPrimary`] if this member leads and cannot prove it, [`Error::NoLeader`], [`Error::Timeout`],
    /// [`Error::TimeoutWaitApplied`], [`Error::Stopped`].
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        let unproven = self.inner.is_leader() && self.confirm_leadership().await.is_err();
        if unproven && self.inner.is_leader() {
            return Err(Error::NotPrimary);
        }
        let ask = async {
            let mut pace = Pace::default();
            loop {
                let (leader, peers) = self.whom_to_ask(&mut pace).await;
                let answer = match peers {
                    None => self.renew_as_leader(id).await,
                    Some(peers) => tokio::select! {
                        answer = peers.lease_renew(leader, id) => answer.map_err(lease_error),
                        () = self.led_by_another(leader) => Err(Error::NotPrimary),
                    },
                };
                match answer {
                    Err(Error::LeaseNotFound) => return Ok(0),
                    Err(Error::NotPrimary) => tracing::debug!(lease = %id, "nobody renewed the lease, asking again"),
                    answer => return answer,
                }
            }
        };
        self.in_time(ask).await
    }

    /// A lease's remaining time and, if asked, its keys; asked of the leader if that is another. The header has the revision only.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], [`Error::NoLeader`], [`Error::Timeout`], [`Error::TimeoutWaitApplied`], [`Error::Stopped`].
    pub async fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let ask = async {
            let mut pace = Pace::default();
            loop {
                let (leader, peers) = self.whom_to_ask(&mut pace).await;
                let answer = match peers {
                    None => self.time_to_live_as_leader(&request).await,
                    Some(peers) => tokio::select! {
                        answer = peers.lease_time_to_live(leader, request) => answer.map_err(lease_error),
                        () = self.led_by_another(leader) => Err(Error::NotPrimary),
                    },
                };
                match answer {
                    Err(Error::NotPrimary) => tracing::debug!("nobody knew the lease's time, asking again"),
                    answer => return answer,
                }
            }
        };
        self.in_time(ask).await
    }

    /// All leases of this member's table: by the time that is left of them on a leader, by id elsewhere.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut all: Vec<(Millis, LeaseId)> = self.read(|machine| {
            let timers = self.inner.timers.lock();
            let expires = |id| timers.expires(id).unwrap_or(Millis(u64::MAX));
            machine.leases().iter().map(|(id, _)| (expires(id), id)).collect()
        });
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// The leader, as soon as there is one, and the way to it unless it is this member.
    async fn whom_to_ask(&self, pace: &mut Pace) -> (MemberId, Option<&Peers>) {
        loop {
            pace.turn().await;
            let leader = self.inner.leader();
            if leader == self.inner.id {
                return (leader, None);
            }
            if let (false, Some(peers)) = (leader.is_none(), self.inner.peers.get()) {
                return (leader, Some(peers));
            }
        }
    }

    /// Returns when this member follows somebody else: what was asked of `leader`, which may be stopped and silent, is asked of the next.
    async fn led_by_another(&self, leader: MemberId) {
        loop {
            let mut news = pin!(self.inner.lease_news.notified());
            news.as_mut().enable();
            let now = self.inner.leader();
            if now != leader && !now.is_none() {
                return;
            }
            news.await;
        }
    }

    async fn in_time<T>(&self, ask: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.inner.within(self.inner.request_timeout(), ask).await {
            Some(answer) => answer,
            None if self.inner.leader().is_none() => Err(Error::NoLeader),
            None => Err(Error::Timeout),
        }
    }

    /// Makes sure that this member leads. Costs nothing as long as the raft thread has kept its time; after a pause a quorum is asked.
    ///
    /// # Errors
    /// [`Error::NotPrimary`].
    async fn confirm_leadership(&self) -> Result<(), Error> {
        let published = &self.inner.published;
        let is_leader = || self.inner.is_leader().then_some(()).ok_or(Error::NotPrimary);
        is_leader()?;
        let stalls = published.stalls.load(Ordering::Acquire);
        let pulse = Pulse {
            ticked: Millis(published.ticked_ms.load(Ordering::Acquire)),
            stalls,
            confirmed: published.stalls_confirmed.load(Ordering::Acquire),
        };
        if pulse.is_steady(self.inner.now(), self.inner.config.tick_ms) {
            return Ok(());
        }
        self.read_barrier_as(Rank::Urgent).await.map_err(|_| Error::NotPrimary)?;
        is_leader()?;
        published.stalls_confirmed.fetch_max(stalls, Ordering::AcqRel);
        Ok(())
    }

    async fn catch_up(&self) -> Result<(), Error> {
        let committed = Index(self.inner.published.committed.load(Ordering::Acquire));
        if self.inner.applied.get() >= committed {
            return Ok(());
        }
        let reached = timeout(CATCH_UP, self.inner.applied.reach(committed)).await;
        reached.map_err(|_| Error::TimeoutWaitApplied)
    }

    /// Renews a lease by this leader's own clock. One that has run out waits for its revoke, and is then gone.
    pub(super) async fn renew_as_leader(&self, id: LeaseId) -> Result<i64, Error> {
        self.confirm_leadership().await?;
        self.catch_up().await?;
        let renew = async {
            let (mut confirmed, mut listens) = (false, false);
            loop {
                let mut news = pin!(self.inner.lease_news.notified());
                // Who must wait listens first and looks once more, so that no news falls between the look and the wait. Few must.
                if listens {
                    news.as_mut().enable();
                }
                failpoint::hit(Point::BeforeCheckpointInLeaseRenew);
                let (now, sees) = (self.inner.now(), self.inner.standing());
                let renewed = leases::renew(&mut self.inner.timers.lock(), now, id, sees, confirmed);
                match renewed {
                    Renewed::Extended(ttl) => {
                        meter::LEASES_RENEWED.inc();
                        return Ok(ttl);
                    }
                    Renewed::Gone => return Err(Error::LeaseNotFound),
                    Renewed::NotPrimary => return Err(Error::NotPrimary),
                    Renewed::AskQuorum => {
                        self.read_barrier_as(Rank::Urgent).await.map_err(|_| Error::NotPrimary)?;
                        confirmed = true;
                    }
                    Renewed::Unmark => drop(self.checkpoint(sees.term, &[(id, 0)]).await?),
                    Renewed::Wait if listens => news.await,
                    Renewed::Wait => listens = true,
                }
            }
        };
        timeout(self.inner.request_timeout(), renew).await.unwrap_or(Err(Error::Timeout))
    }

    /// What is left of a lease by this leader's own clock.
    pub(super) async fn time_to_live_as_leader(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        self.catch_up().await?;
        match self.time_left(request) {
            // As in a renewal: what a leader that was overthrown a moment ago does not know may exist.
            Err(Error::LeaseNotFound) => {
                self.read_barrier().await.map_err(|_| Error::NotPrimary)?;
                self.time_left(request)
            }
            answer => answer,
        }
    }

    fn time_left(&self, request: &pb::LeaseTimeToLiveRequest) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let id = LeaseId(request.id);
        let (is_timed, remaining) = {
            let timers = self.inner.timers.lock();
            (timers.is_leading(), timers.remaining(self.inner.now(), id))
        };
        if !is_timed || !self.inner.is_leader() {
            return Err(Error::NotPrimary);
        }
        self.read(|machine| {
            let lease = machine.leases().get(id).ok_or(Error::LeaseNotFound)?;
            let keys = if request.keys { lease.keys().cloned().collect() } else { Vec::new() };
            // One that was granted a moment ago is not timed yet.
            let ttl = remaining.map_or(lease.ttl, |left| i64::try_from(left / 1000).unwrap_or(i64::MAX));
            let header = machine.header();
            Ok(pb::LeaseTimeToLiveResponse { header, id: id.0, ttl, granted_ttl: lease.ttl, keys })
        })
    }

    async fn checkpoint(&self, term: Term, left: &[(LeaseId, i64)]) -> Result<Reply, Error> {
        self.propose_in(Some(term), leases::checkpoint(left)).await
    }
}

/// While this member leads, revokes what has expired and writes down what is left of the rest.
pub(super) async fn expire_leases(node: Node) {
    let mut every = interval(EXPIRE_EVERY);
    loop {
        every.tick().await;
        let inner = &node.inner;
        let look = Look::begin(&inner.timers.lock(), inner.now(), inner.standing());
        let Some(look) = look else { continue };
        if node.read_barrier_as(Rank::Own).await.is_err() {
            continue;
        }
        let expired = look.expired(&mut inner.timers.lock(), inner.now(), inner.standing());
        iter(expired).for_each_concurrent(REVOKING_MAX, |id| revoke(node.clone(), look.term, id)).await;
        write_checkpoints(&node, look).await;
    }
}

async fn revoke(node: Node, term: Term, id: LeaseId) {
    let revoke = pb::InternalRaftRequest { header: node.root_header(), ..leases::revoke(id) };
    match node.propose_in(Some(term), revoke).await {
        Ok(_) => meter::LEASES_EXPIRED.inc(),
        Err(Error::LeaseNotFound | Error::Stopped) => {}
        Err(why) => tracing::warn!(lease = %id, error = %why, "failed to revoke an expired lease, will try again"),
    }
}

async fn write_checkpoints(node: &Node, look: Look) {
    let inner = &node.inner;
    for _ in 0..CHECKPOINT_ENTRIES_MAX {
        let due = look.marks(&mut inner.timers.lock(), inner.now(), inner.standing());
        if due.is_empty() {
            return;
        }
        if let Err(why) = node.checkpoint(look.term, &due).await {
            tracing::warn!(error = %why, "failed to write down what is left of some leases");
            let mut timers = inner.timers.lock();
            due.iter().for_each(|(id, _)| timers.checkpoint_lost(*id));
            drop(timers);
            inner.lease_news.notify_waiters();
            return;
        }
    }
}
