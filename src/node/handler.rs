//! What the peers' connections ask of this member.

use super::INBOX_RESERVE;
use super::Inner;
use super::Input;
use super::Node;
use super::corruption;
use super::install;
use super::mailbox;
use crate::consensus::wire_of;
use crate::error::Error;
use crate::membership::Member;
use crate::peer::Handler;
use crate::peer::HashAnswer;
use crate::peer::Image;
use crate::peer::Intake;
use crate::peer::LinkChange;
use crate::peer::Refused;
use crate::proto::etcdserverpb as pb;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::Message;
use crate::replica;
use crate::types::LeaseId;
use crate::types::MemberId;
use futures::future::BoxFuture;
use std::sync::Weak;

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
        if let Err(why) = replica::readable(&message) {
            let (wire, reason) = (Some(wire_of(&message)), why.to_string());
            inner.tap.tell(|| Kind::Dropped(lab::Dropped { wire, reason }));
            return Err(Refused::Unreadable);
        }
        // Clients that ask too much must not keep heartbeats out.
        inner.inbox.push_beyond(Input::Peer(Box::new(message)), INBOX_RESERVE).map_err(|why| match why {
            mailbox::Refused::Full => Refused::Full,
            mailbox::Refused::Closed => Refused::Stopped,
        })
    }

    fn receive_snapshot(&self, message: Message) -> Result<Box<dyn Intake>, Error> {
        install::receive(&self.0.upgrade().ok_or(Error::Stopped)?, message)
    }

    fn state(&self, to: MemberId) -> BoxFuture<'_, Result<Image, Error>> {
        Box::pin(async move { self.node().ok_or(Error::Stopped)?.state_for(to).await })
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
            if change == LinkChange::Lost {
                inner.inbox.force(Input::Lost(peer));
            }
        }
    }

    fn is_removed(&self, peer: MemberId) -> bool {
        self.node().is_some_and(|node| node.read(|machine| machine.members().is_removed(peer)))
    }

    fn removed(&self) {
        if let Some(inner) = self.0.upgrade() {
            // A peer may have applied the removal before this member has, and whoever asked for it waits here.
            inner.stop_as_removed();
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

    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<HashAnswer, Error>> {
        Box::pin(async move { Ok(corruption::to_wire(&self.node().ok_or(Error::Stopped)?.hash_kv(revision).await?)) })
    }

    fn promote(&self, id: MemberId, token: Option<String>) -> BoxFuture<'_, Result<Vec<Member>, Error>> {
        Box::pin(async move { self.node().ok_or(Error::Stopped)?.promote_for_peer(id, token).await })
    }

    fn lease_renew(&self, id: LeaseId) -> BoxFuture<'_, Result<i64, Error>> {
        Box::pin(async move { self.node().ok_or(Error::Stopped)?.renew_as_leader(id).await })
    }

    fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> BoxFuture<'_, Result<pb::LeaseTimeToLiveResponse, Error>> {
        Box::pin(async move { self.node().ok_or(Error::Stopped)?.time_to_live_as_leader(&request).await })
    }
}
