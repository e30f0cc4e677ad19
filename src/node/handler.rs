//! What the peers' connections ask of this member.

use super::Inner;
use super::Input;
use super::Node;
use super::mailbox;
use crate::error::Error;
use crate::lease::Renewal;
use crate::membership::Changed;
use crate::membership::Member;
use crate::peer;
use crate::peer::Handler;
use crate::peer::LinkChange;
use crate::peer::Peers;
use crate::peer::Refused;
use crate::proto::etcdserverpb as pb;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::Message;
use crate::types::LeaseId;
use crate::types::MemberId;
use futures::future::BoxFuture;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Interval;
use tokio::time::interval;
use tokio::time::timeout;

/// How long to wait before asking another leader.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a forwarded lease call may wait for this member to catch up; etcd's value.
const LEASE_CATCH_UP: Duration = Duration::from_secs(1);

/// The peers' view of the member. Weak, because the member owns its peers: both would live for ever otherwise, and the store's lock with them.
pub(super) struct Ears(pub(super) Weak<Inner>);

impl Ears {
    fn node(&self) -> Option<Node> {
        self.0.upgrade().map(|inner| Node { inner })
    }
}

impl Handler for Ears {
    fn receive(&self, message: Message) -> Result<(), Refused> {
        let inner = self.0.upgrade().ok_or(Refused::Stopped)?;
        inner.inbox.push(Input::Peer(Box::new(message))).map_err(|why| match why {
            mailbox::Refused::Full => Refused::Full,
            mailbox::Refused::Closed => Refused::Stopped,
        })
    }

    fn report_unreachable(&self, peer: MemberId) {
        if let Some(inner) = self.0.upgrade() {
            let _full = inner.inbox.push(Input::Unreachable(peer));
        }
    }

    fn link(&self, peer: MemberId, change: LinkChange) {
        let (up, why) = match change {
            LinkChange::Up => (true, ""),
            LinkChange::Down => (false, "not reachable"),
            LinkChange::Lost => (false, "its process is gone"),
        };
        if let Some(inner) = self.0.upgrade() {
            inner.tap.tell(|| Kind::Link(lab::Link { peer: peer.0, up, why: why.into() }));
        }
    }

    fn is_removed(&self, peer: MemberId) -> bool {
        self.node().is_some_and(|node| node.read(|machine| machine.members().is_removed(peer)))
    }

    fn removed(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.fail(Error::Removed);
        }
    }

    fn members(&self) -> Vec<Member> {
        self.node().map(|node| node.read(|machine| machine.members().iter().cloned().collect())).unwrap_or_default()
    }

    fn cluster_version(&self) -> Option<String> {
        self.node()?.read(|machine| machine.cluster_version().map(str::to_owned))
    }

    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let node = self.node().ok_or(Error::Stopped)?;
            node.read_barrier().await?;
            Ok(node.read(|machine| machine.downgrade().enabled))
        })
    }

    fn lease_renew(&self, id: LeaseId) -> BoxFuture<'_, Result<i64, Error>> {
        Box::pin(async move {
            let node = self.node().ok_or(Error::Stopped)?;
            node.catch_up_for_leases().await?;
            node.renew_here(id).await
        })
    }

    fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> BoxFuture<'_, Result<pb::LeaseTimeToLiveResponse, Error>> {
        Box::pin(async move {
            let node = self.node().ok_or(Error::Stopped)?;
            node.catch_up_for_leases().await?;
            node.time_to_live_here(&request)
        })
    }
}

/// What the leader said of a lease: gone for good, or "ask again".
fn lease_error(why: peer::Error) -> Error {
    if matches!(why, peer::Error::LeaseNotFound) { Error::LeaseNotFound } else { Error::NotPrimary }
}

impl Inner {
    /// The log has changed who is a member: connect to newcomers, part from the removed.
    pub(super) fn members_changed(&self, changed: &Changed) {
        let Some(peers) = self.peers.get() else { return };
        let connected = match changed {
            Changed::Added(member) => peers.add(member.id, &member.peer_urls),
            Changed::Updated(member) => peers.update(member.id, &member.peer_urls),
            Changed::Promoted(_) => Ok(()),
            Changed::Removed(id) if *id == self.id => {
                self.fail(Error::Removed);
                Ok(())
            }
            Changed::Removed(id) => {
                peers.remove(*id);
                Ok(())
            }
        };
        if let Err(why) = connected {
            tracing::warn!(error = %why, "cannot connect to a member: its peer URLs are unusable");
        }
    }
}

/// Leases: renewed and timed by the leader, asked of anybody.
impl Node {
    /// Renews a lease, at the leader if that is another; its TTL in seconds, 0 if it is gone.
    ///
    /// # Errors
    /// [`Error::NoLeader`], [`Error::Timeout`], [`Error::Stopped`].
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        let ask = async {
            let mut every = interval(ASK_AGAIN);
            loop {
                let (leader, peers) = self.whom_to_ask(&mut every).await;
                let answer = match peers {
                    None => self.renew_here(id).await,
                    Some(peers) => peers.lease_renew(leader, id).await.map_err(lease_error),
                };
                match answer {
                    Ok(ttl) => return Ok(ttl),
                    Err(Error::LeaseNotFound) => return Ok(0),
                    Err(why) => tracing::debug!(error = %why, "nobody renewed the lease, asking again"),
                }
            }
        };
        self.in_time(ask).await
    }

    /// A lease's remaining time and, if asked, its keys; asked of the leader if that is another. The header has the revision only.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], [`Error::NoLeader`], [`Error::Timeout`], [`Error::Stopped`].
    pub async fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let ask = async {
            let mut every = interval(ASK_AGAIN);
            loop {
                let (leader, peers) = self.whom_to_ask(&mut every).await;
                let answer = match peers {
                    None => self.time_to_live_here(&request),
                    Some(peers) => peers.lease_time_to_live(leader, request).await.map_err(lease_error),
                };
                match answer {
                    Err(Error::NotPrimary) => tracing::debug!("nobody knew the lease's time, asking again"),
                    answer => return answer,
                }
            }
        };
        self.in_time(ask).await
    }

    /// The leader, as soon as there is one, and the way to it unless it is this member. `every` paces those who ask again.
    async fn whom_to_ask(&self, every: &mut Interval) -> (MemberId, Option<&Peers>) {
        loop {
            every.tick().await;
            let leader = self.inner.leader();
            if leader == self.inner.id {
                return (leader, None);
            }
            if let (false, Some(peers)) = (leader.is_none(), self.inner.peers.get()) {
                return (leader, Some(peers));
            }
        }
    }

    async fn in_time<T>(&self, ask: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(self.inner.request_timeout(), ask).await {
            Ok(answer) => answer,
            Err(_) if self.inner.leader().is_none() => Err(Error::NoLeader),
            Err(_) => Err(Error::Timeout),
        }
    }

    async fn catch_up_for_leases(&self) -> Result<(), Error> {
        let committed = crate::types::Index(self.inner.published.committed.load(Ordering::Acquire));
        let reached = timeout(LEASE_CATCH_UP, self.inner.applied.reach(committed)).await;
        reached.map_err(|_| Error::TimeoutWaitApplied)
    }

    /// Renews a lease by this leader's own clock. One that has run out waits for its revoke, and is then gone.
    async fn renew_here(&self, id: LeaseId) -> Result<i64, Error> {
        let gone = async {
            let mut every = interval(Duration::from_millis(20));
            loop {
                every.tick().await;
                let renewal = self.inner.timers.lock().renew(self.inner.now(), id);
                match renewal {
                    Renewal::Extended(ttl) => return Ok(ttl),
                    Renewal::Unknown => return Err(Error::LeaseNotFound),
                    Renewal::NotPrimary => return Err(Error::NotPrimary),
                    Renewal::Expiring => {}
                }
            }
        };
        timeout(self.inner.request_timeout(), gone).await.unwrap_or(Err(Error::Timeout))
    }

    fn time_to_live_here(&self, request: &pb::LeaseTimeToLiveRequest) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        let id = LeaseId(request.id);
        let (is_leading, remaining) = {
            let timers = self.inner.timers.lock();
            (timers.is_leading(), timers.remaining(self.inner.now(), id))
        };
        if !is_leading {
            return Err(Error::NotPrimary);
        }
        self.read(|machine| {
            let lease = machine.leases().get(id).ok_or(Error::LeaseNotFound)?;
            let keys = if request.keys { lease.keys().cloned().collect() } else { Vec::new() };
            let seconds = i64::try_from(remaining.unwrap_or(0) / 1000).unwrap_or(i64::MAX);
            let header =
                pb::ResponseHeader { revision: machine.store().revision().to_wire(), ..pb::ResponseHeader::default() };
            Ok(pb::LeaseTimeToLiveResponse {
                header: Some(header),
                id: id.0,
                ttl: seconds,
                granted_ttl: lease.ttl,
                keys,
            })
        })
    }
}
