//! etcd's peer protocol: how raft messages get from one member to the next.
//!
//! The one idea: **who wants to hear, dials**. Each member opens two long GET requests to every other one, and the other answers
//! with a body that never ends: one stream for appends, one for all else. So each side dials to read and serves to write, and a
//! member that cannot be dialled can still hear, and answer by POST.
//!
//! ```text
//!   member 1                                      member 2
//!   reader  ── GET /raft/stream/msgapp/1  ──────▶ serves: writes its appends into the answer
//!   reader  ── GET /raft/stream/message/1 ──────▶ serves: heartbeats, votes, answers
//!   serves  ◀──── GET /raft/stream/msgapp/2 ──── reader
//!   serves  ◀──── GET /raft/stream/message/2 ─── reader
//!   poster  ── POST /raft ──────────────────────▶ while the other has not dialled (yet, or any more)
//! ```
//!
//! [`Peers::send`] never waits: each queue is bounded, what does not fit is dropped and raft is told that the peer is unreachable.
//! raft repeats what matters. Order holds within each stream, not between the two.
//!
//! A snapshot has a post of its own, with a database behind the message: it would hold up all that comes after it.
//!
//! [`codec`] is pure; sockets, clock and tasks are in the other files.
//!
//! Source: etcd `server/etcdserver/api/rafthttp`, `server/etcdserver/api/etcdhttp/peer.go`, `server/lease/leasehttp`.

mod ask;
pub mod codec;
mod dial;
mod headers;
mod link;
mod outbox;
mod pipeline;
mod prober;
mod reader;
mod rules;
mod serve;
mod snapshot;

pub use ask::HashAnswer;
pub use ask::HashHeader;
pub use ask::Versions;
pub use ask::fetch_downgrade_enabled;
pub use ask::fetch_hash;
pub use ask::fetch_members;
pub use ask::fetch_version;
pub use dial::Error;
pub use dial::PeerUrl;
pub use link::LinkStats;
pub use rules::LinkRule;
pub use rules::Rules;
pub use serve::Listener;
pub use serve::Slot;
pub use serve::serve;
pub use snapshot::Image;
pub use snapshot::Intake;
pub use snapshot::fetch_state;

use crate::error::Error as Answer;
use crate::membership::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::Message;
use crate::types::ClusterId;
use crate::types::LeaseId;
use crate::types::MemberId;
use futures::future::BoxFuture;
use link::Link;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// A stream without a byte for this long is taken for broken; so is one into which nothing can be written for this long.
pub const CONN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a stream says that it is alive, whatever else it carries.
pub const LINK_HEARTBEAT_EVERY: Duration = Duration::from_millis(5000 / 3);

/// The shortest time between two dials of one reader.
pub const REDIAL_EVERY: Duration = Duration::from_millis(100);

/// The largest body that a peer may post.
pub const BODY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The largest request that a member may take: an entry of this size still fits a frame and a body, with what is sent along with it. One that does not
/// would be sent again for ever, and nothing behind it would be committed.
pub const REQUEST_BYTES_MAX: u64 = codec::FRAME_BYTES_MAX - (8 << 20);

/// How many senders that are not members (yet) are answered at once. They name themselves, so that this must have a bound.
const REMOTES_MAX: usize = 16;

/// Who this member is to the others.
#[derive(Clone)]
pub struct Config {
    /// This member.
    pub id: MemberId,
    /// Its cluster; members of another are refused.
    pub cluster: ClusterId,
    /// The peer URLs that it advertises.
    pub urls: Vec<String>,
    /// How to dial `https` URLs, from [`crate::tls::client_config`] without ALPN; none if all peers are plain.
    pub tls: Option<Arc<ClientConfig>>,
    /// How long connecting may take. etcd: one second plus the election time-out.
    pub dial_timeout: Duration,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The member's inbox is full: dropped, and counted here.
    #[error("receiving buffer is full")]
    Full,
    /// The member is stopping.
    #[error("the member is stopping")]
    Stopped,
    /// Its proposal cannot be read.
    #[error("its proposal cannot be read")]
    Unreadable,
}

/// What became of the link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// There is a connection in at least one direction.
    Up,
    /// The last attempt to reach it failed.
    Down,
    /// It closed our streams, and redialling at once was refused: its process is gone. Told after [`LinkChange::Down`], once per loss.
    Lost,
}

/// The member that messages come to, and that answers for itself. Called from many tasks; must not block.
pub trait Handler: Send + Sync + 'static {
    /// Takes a message for raft, or refuses it at once. Messages of one stream come in their order.
    ///
    /// # Errors
    /// [`Refused`]: the message is dropped.
    fn receive(&self, message: Message) -> Result<(), Refused>;

    /// Says where the image goes that comes behind a snapshot's message, or refuses it.
    ///
    /// # Errors
    /// [`Answer::TooManyRequests`] if one is on its way already; [`Answer::Storage`].
    fn receive_snapshot(&self, message: Message) -> Result<Box<dyn Intake>, Answer>;

    /// This member's applied state, for one that has lost its own.
    ///
    /// # Errors
    /// [`Answer::TooManyRequests`], [`Answer::Storage`], [`Answer::Stopped`].
    fn state(&self, to: MemberId) -> BoxFuture<'_, Result<Image, Answer>>;

    /// A message to `peer` was dropped or lost.
    fn report_unreachable(&self, peer: MemberId);

    /// What became of the link to `peer`.
    fn link(&self, peer: MemberId, change: LinkChange);

    /// Whether `peer` has been removed from the cluster: it is told so, and stops.
    fn is_removed(&self, peer: MemberId) -> bool;

    /// Another member says that this one has been removed from the cluster.
    fn removed(&self);

    /// The members as this one knows them, by ascending id, for `/members`.
    fn members(&self) -> Vec<Member>;

    /// The cluster version ("3.6.0") once it is decided, for `/version`.
    fn cluster_version(&self) -> Option<String>;

    /// Whether a downgrade is under way, as of now (a linearizable read), for `/downgrade/enabled`.
    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, Answer>>;

    /// The hash of this member's history at `revision`, 0 for now, for `/members/hashkv`.
    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<HashAnswer, Answer>>;

    /// Makes a learner a voter for another member, if this one leads; the members after that. `token` is the client's, if it has one.
    /// [`Answer::MemberNotFound`], [`Answer::MemberNotLearner`] and [`Answer::LearnerNotReady`] are told apart on the wire.
    fn promote(&self, id: MemberId, token: Option<String>) -> BoxFuture<'_, Result<Vec<Member>, Answer>>;

    /// Renews a lease for another member, if this one leads; its TTL in seconds. [`Answer::LeaseNotFound`], [`Answer::NotPrimary`],
    /// and [`Answer::TimeoutWaitApplied`] after a second of waiting are told apart on the wire.
    fn lease_renew(&self, id: LeaseId) -> BoxFuture<'_, Result<i64, Answer>>;

    /// A lease's remaining time for another member, if this one leads. Errors as in [`Handler::lease_renew`].
    fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> BoxFuture<'_, Result<pb::LeaseTimeToLiveResponse, Answer>>;
}

/// The links to all other members; cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

/// What links and served requests have in common.
struct Shared {
    config: Config,
    handler: Arc<dyn Handler>,
    rules: Rules,
    links: RwLock<BTreeMap<MemberId, Arc<Link>>>,
    runtime: tokio::runtime::Handle,
}

impl Peers {
    /// No links yet: [`Peers::add`] the members, and put the [`Peers::router`] into the [`Slot`] that is served so that they can dial. Call it inside a tokio
    /// runtime: the links' tasks run there, from whichever thread they are added.
    #[must_use]
    pub fn start(config: Config, handler: Arc<dyn Handler>) -> Peers {
        let runtime = tokio::runtime::Handle::current();
        let links = RwLock::new(BTreeMap::new());
        Peers(Arc::new(Shared { config, handler, rules: Rules::default(), links, runtime }))
    }

    /// What to serve on the peer URLs.
    pub fn router(&self) -> axum::Router {
        serve::router(self.clone())
    }

    /// Sends each message to the member it is for. Never waits; what cannot be queued is dropped, counted and reported unreachable.
    /// Messages to nobody, or to a member that was not added, are dropped silently.
    pub fn send(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let links = self.0.links.read();
        for message in messages {
            if let Some(link) = links.get(&MemberId(message.to)) {
                link.send(message);
            }
        }
    }

    /// Posts a snapshot to the member that its message is for. Returns once that has kept and taken it, or an attempt has failed.
    ///
    /// # Errors
    /// [`Error::UnknownMember`], and those of the connection.
    pub async fn send_snapshot(&self, image: Image) -> Result<(), Error> {
        let link = self.link(MemberId(image.message.to)).ok_or(Error::UnknownMember)?;
        let sent = snapshot::send(&link, image).await;
        if sent == Err(Error::Removed) {
            self.0.handler.removed();
        }
        sent
    }

    /// Begins to talk with a member. Adding it again changes nothing but its URLs.
    ///
    /// # Errors
    /// [`Error::BadUrl`].
    pub fn add(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        self.add_link(id, urls, true)
    }

    /// Sends to a member by POST only: one that this member has heard of, but not yet from the log. It becomes a full peer by
    /// [`Peers::add`].
    ///
    /// # Errors
    /// [`Error::BadUrl`].
    pub fn add_remote(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        self.add_link(id, urls, false)
    }

    fn add_link(&self, id: MemberId, urls: &[String], full: bool) -> Result<(), Error> {
        if id == self.0.config.id {
            return Ok(());
        }
        let urls = dial::parse_all(urls)?;
        let mut links = self.0.links.write();
        match links.get(&id) {
            Some(old) if old.is_full() || !full => {
                if full {
                    old.set_urls(urls);
                }
                return Ok(());
            }
            Some(remote) => remote.stop(),
            None if !full && links.values().filter(|l| !l.is_full()).count() >= REMOTES_MAX => return Ok(()),
            None => {}
        }
        links.insert(id, Link::start(self.0.clone(), id, urls, full));
        Ok(())
    }

    /// Ends all talk with a member.
    pub fn remove(&self, id: MemberId) {
        if let Some(link) = self.0.links.write().remove(&id) {
            link.stop();
        }
    }

    /// Changes a member's URLs; the next dial uses them.
    ///
    /// # Errors
    /// [`Error::BadUrl`].
    pub fn update(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        let urls = dial::parse_all(urls)?;
        if let Some(link) = self.link(id) {
            link.set_urls(urls);
        }
        Ok(())
    }

    /// The members that this one sends to: all others.
    #[must_use]
    pub fn ids(&self) -> Vec<MemberId> {
        let links = self.0.links.read();
        links.iter().filter(|(_, link)| link.is_full()).map(|(id, _)| *id).collect()
    }

    /// Since when there has been a connection to a member; none if there is none, or if a lab rule cuts it.
    #[must_use]
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        if self.0.rules.cuts(id) {
            return None;
        }
        self.link(id)?.active_since()
    }

    /// Counters of the link to a member.
    #[must_use]
    pub fn stats(&self, id: MemberId) -> Option<LinkStats> {
        Some(self.link(id)?.stats())
    }

    /// Counters of all links, and whether each is up.
    #[must_use]
    pub fn all_stats(&self) -> Vec<(MemberId, LinkStats, bool)> {
        let links = self.0.links.read();
        links.iter().map(|(id, link)| (*id, link.stats(), link.active_since().is_some())).collect()
    }

    /// The lab's rules on these links.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Asks the leader to make a learner a voter; the members after that. Tries each of the leader's URLs until one gives a final answer.
    ///
    /// # Errors
    /// [`Answer::MemberNotFound`], [`Answer::MemberNotLearner`] and [`Answer::LearnerNotReady`] are final; after [`Answer::NotLeader`], find out who
    /// leads and ask again.
    pub async fn promote(&self, leader: MemberId, id: MemberId, token: Option<&str>) -> Result<Vec<Member>, Answer> {
        ask::promote(&self.0, leader, id, token).await
    }

    /// Asks the leader to renew a lease; its TTL in seconds. Tries each of the leader's URLs once.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] is final; after any other, find out who leads and ask again.
    pub async fn lease_renew(&self, leader: MemberId, id: LeaseId) -> Result<i64, Error> {
        ask::lease_renew(&self.0, leader, id).await
    }

    /// Asks the leader for a lease's remaining time. Tries each of the leader's URLs once.
    ///
    /// # Errors
    /// As [`Peers::lease_renew`].
    pub async fn lease_time_to_live(
        &self,
        leader: MemberId,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, Error> {
        ask::lease_time_to_live(&self.0, leader, request).await
    }

    /// Ends all links. Streams that are being served end, so that the others notice at once.
    pub fn stop(&self) {
        for link in std::mem::take(&mut *self.0.links.write()).into_values() {
            link.stop();
        }
    }

    fn link(&self, id: MemberId) -> Option<Arc<Link>> {
        self.0.links.read().get(&id).cloned()
    }
}

#[cfg(test)]
mod tests;
