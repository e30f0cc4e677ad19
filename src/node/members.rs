//! Changing the members: what is asked before a change goes into the log, and what follows once it counts.
//!
//! Whether a change fits the members is for the log to say, on every member alike. What is asked here is local: whether the cluster could work
//! on after it, as far as this member sees (`--strict-reconfig-check`), and `--max-learners`.
//!
//! ```text
//! add      enough started voters for the larger quorum, and as many connected to this member for 5 s
//! remove   enough started voters stay; a voter that can be reached goes only if a connected quorum stays
//! promote  the leader's: the learner has nine tenths of its log. Others ask the leader, at /members/promote/<id>
//! ```
//!
//! Source: etcd `etcdserver/server.go` (`mayAddMember` …), `etcdserver/util.go`; contract-server 5.3.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use super::Inner;
use super::Input;
use super::Node;
use super::Rank;
use crate::error::Error;
use crate::membership::Changed;
use crate::membership::Member;
use crate::meter;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::conf_change::Type;
use crate::replica::Proposal;
use crate::replica::learner::check_in_sync;
use crate::types::Index;
use crate::types::MemberId;
use crate::wall;
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;
use tokio::sync::oneshot;

/// How long a connection must stand to count; etcd's `HealthInterval`.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a leader that is asked to promote may take to apply what is committed; etcd's `applyTimeout`.
const APPLY_WITHIN: Duration = Duration::from_secs(1);
/// Pause between two questions to a leader that had no answer.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a member that is removed goes on, so that the others hear of the commit and the client of its answer; etcd's value.
const REMOVED_STOPS_AFTER: Duration = Duration::from_secs(1);

/// Whether the bearer of a token, if there is one, may change the members.
pub type Gatekeeper = Box<dyn Fn(Node, Option<String>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

impl Node {
    /// Adds a member, as a learner if `is_learner`, that will be reached at these URLs ([`crate::membership::check_urls`] has made them). The
    /// new member and all members then.
    ///
    /// # Errors
    /// [`Error::MemberNotEnoughStarted`], [`Error::UnhealthyCluster`], [`Error::TooManyLearners`]; those of the log, see
    /// [`crate::membership::Members::check`]; those of [`Node::propose`].
    pub async fn add_member(&self, urls: Vec<String>, is_learner: bool) -> Result<(Member, Vec<Member>), Error> {
        let now = wall::seen(SystemTime::now()).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let member = Member::to_add(urls, is_learner, now);
        self.inner.may_add(&member).inspect_err(|why| {
            tracing::warn!(
                "local-member-id" = %self.inner.id, "requested-member-add" = member.to_json(), error = %why,
                "rejecting member add request"
            );
        })?;
        let change = member.change_to_add();
        let fits = |machine: &crate::apply::Machine| {
            machine.members().check(&change).is_ok() && machine.members().learners() >= self.inner.config.max_learners
        };
        if is_learner && self.read(fits) {
            return Err(Error::TooManyLearners);
        }
        let members = self.configure(change).await?;
        Ok((member, members))
    }

    /// Removes a member for good; all members then.
    ///
    /// # Errors
    /// [`Error::MemberNotEnoughStarted`], [`Error::UnhealthyCluster`]; those of the log and of [`Node::propose`].
    pub async fn remove_member(&self, id: MemberId) -> Result<Vec<Member>, Error> {
        self.inner.may_remove(id).inspect_err(|why| {
            tracing::warn!(
                "local-member-id" = %self.inner.id, "requested-member-remove-id" = %id, error = %why,
                "rejecting member remove request"
            );
        })?;
        self.configure(Member::change_to_remove(id)).await
    }

    /// Gives a member other peer URLs, whatever they are; all members then.
    ///
    /// # Errors
    /// Those of the log and of [`Node::propose`].
    pub async fn update_member(&self, id: MemberId, peer_urls: Vec<String>) -> Result<Vec<Member>, Error> {
        self.configure(Member { id, peer_urls, ..Member::default() }.change_to_update()).await
    }

    /// Makes a learner a voter, or has the leader do it, in the name of the bearer of `token`; all members then.
    ///
    /// # Errors
    /// [`Error::LearnerNotReady`], [`Error::MemberNotEnoughStarted`]; those of the log and of [`Node::propose`]; [`Error::Timeout`] if no
    /// leader has answered.
    pub async fn promote_member(&self, id: MemberId, token: Option<&str>) -> Result<Vec<Member>, Error> {
        match self.promote_as_leader(id).await {
            Err(Error::NotLeader) => {}
            answer => return answer,
        }
        let forward = async {
            let mut every = tokio::time::interval(ASK_AGAIN);
            loop {
                every.tick().await;
                let (leader, peers) = (self.inner.leader(), self.peers());
                let Some(peers) = peers.filter(|_| !leader.is_none()) else { continue };
                let asked = if leader == self.inner.id {
                    self.promote_as_leader(id).await
                } else {
                    peers.promote(leader, id, token).await
                };
                if !matches!(asked, Err(Error::NotLeader)) {
                    return asked;
                }
            }
        };
        tokio::time::timeout(self.inner.request_timeout(), forward).await.unwrap_or(Err(Error::Timeout))
    }

    /// The same for another member, whose client has this token.
    pub(super) async fn promote_for_peer(&self, id: MemberId, token: Option<String>) -> Result<Vec<Member>, Error> {
        if self.auth_is_on() {
            let gatekeeper = self.inner.gatekeeper.get().ok_or(Error::PermissionDenied)?;
            gatekeeper(self.clone(), token).await?;
        }
        self.promote_as_leader(id).await
    }

    /// Has `gatekeeper` judge, while authentication is on, what other members forward for their clients. The first one stays; without one
    /// all of it is refused then.
    pub fn guard(&self, gatekeeper: Gatekeeper) {
        let _first = self.inner.gatekeeper.set(gatekeeper);
    }

    async fn promote_as_leader(&self, id: MemberId) -> Result<Vec<Member>, Error> {
        let promoted = self.try_promote(id).await;
        match &promoted {
            Ok(_) => meter::PROMOTED.inc(),
            // It was the other member's to do.
            Err(Error::NotLeader) => {}
            Err(why) => meter::PROMOTE_FAILURES.with(&[&why.to_string()]).inc(),
        }
        promoted
    }

    async fn try_promote(&self, id: MemberId) -> Result<Vec<Member>, Error> {
        let inner = &self.inner;
        let committed = Index(inner.published.committed.load(Ordering::Acquire));
        let applied = tokio::time::timeout(APPLY_WITHIN, inner.applied.reach(committed)).await;
        applied.map_err(|_| Error::TimeoutWaitApplied)?;
        let (answer, progress) = oneshot::channel();
        inner.inbox.force(Input::Progress(answer));
        let progress = progress.await.map_err(|_| Error::Stopped)?;
        check_in_sync(&progress, inner.id, id).inspect_err(|why| {
            if *why == Error::LearnerNotReady {
                tracing::error!("member-id" = %id, "rejecting promote learner: learner is not ready");
            }
        })?;
        if inner.config.strict_reconfig && !self.read(|machine| machine.members().may_promote()) {
            tracing::warn!(
                "local-member-id" = %inner.id, "requested-member-promote-id" = %id,
                "rejecting member promote request; not enough healthy members"
            );
            return Err(Error::MemberNotEnoughStarted);
        }
        self.configure(Member::change_to_promote(id)).await
    }

    /// Puts a conf change through the log and waits until it counts here; the members then.
    async fn configure(&self, mut change: ConfChange) -> Result<Vec<Member>, Error> {
        let id = self.inner.request_id();
        change.id = id;
        let (kind, node_id) = (change.r#type(), MemberId(change.node_id));
        let (data, deadline) = (Bytes::from(change.encode_to_vec()), self.deadline());
        self.submit(Rank::Usual, Proposal { id, data, conf_change: true, deadline, only_leading: None }).await?;
        tracing::info!(
            "local-member-id" = %self.inner.id,
            "raft-conf-change" = etcds_name(kind),
            "raft-conf-change-node-id" = %node_id,
            "applied a configuration change through raft"
        );
        Ok(self.read(|machine| machine.members().iter().cloned().collect()))
    }
}

fn etcds_name(kind: Type) -> &'static str {
    match kind {
        Type::AddNode => "ConfChangeAddNode",
        Type::RemoveNode => "ConfChangeRemoveNode",
        Type::UpdateNode => "ConfChangeUpdateNode",
        Type::AddLearnerNode => "ConfChangeAddLearnerNode",
    }
}

/// `--strict-reconfig-check`.
impl Inner {
    fn may_add(&self, member: &Member) -> Result<(), Error> {
        if !self.config.strict_reconfig {
            return Ok(());
        }
        let (may_add_voter, voters) = {
            let machine = self.machine.read();
            (machine.members().may_add_voter(), voters(machine.members().iter()))
        };
        if !member.is_learner && !may_add_voter {
            return Err(Error::MemberNotEnoughStarted);
        }
        // Who comes counts as absent. A cluster of one may always grow.
        let needed = quorum(voters.len() + 1);
        if voters.len() > 1 && self.connected(&voters) < needed { Err(Error::UnhealthyCluster) } else { Ok(()) }
    }

    fn may_remove(&self, id: MemberId) -> Result<(), Error> {
        if !self.config.strict_reconfig {
            return Ok(());
        }
        let (may_remove, voters, is_learner) = {
            let machine = self.machine.read();
            let members = machine.members();
            let is_learner = members.get(id).is_some_and(|member| member.is_learner);
            (members.may_remove_voter(id), voters(members.iter()), is_learner)
        };
        if is_learner {
            return Ok(());
        }
        if !may_remove {
            return Err(Error::MemberNotEnoughStarted);
        }
        // One that cannot be reached is no part of the quorum that works.
        if id != self.id && self.active_since(id).is_none() {
            return Ok(());
        }
        let needed = quorum(voters.len().saturating_sub(1));
        if self.connected(&voters).saturating_sub(1) < needed { Err(Error::UnhealthyCluster) } else { Ok(()) }
    }

    pub(super) fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.peers.get()?.active_since(id)
    }

    /// How many of these this member has been connected to for a while, itself included.
    fn connected(&self, members: &[MemberId]) -> usize {
        let stands = |since: Instant| since.elapsed() > HEALTH_INTERVAL;
        members.iter().filter(|id| **id == self.id || self.active_since(**id).is_some_and(stands)).count()
    }
}

pub(super) fn quorum(members: usize) -> usize {
    members / 2 + 1
}

fn voters<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<MemberId> {
    members.filter(|member| !member.is_learner).map(|member| member.id).collect()
}

/// What follows.
impl Inner {
    /// The log has changed who is a member: connect to newcomers, part from the removed.
    pub(super) fn members_changed(self: &Arc<Inner>, changed: &Changed) {
        let Some(peers) = self.peers.get() else { return };
        let (cluster, local) = (self.cluster, self.id);
        let connected = match changed {
            Changed::Added(member) => {
                tracing::info!(
                    "cluster-id" = %cluster, "local-member-id" = %local, "added-peer-id" = %member.id,
                    "added-peer-peer-urls" = ?member.peer_urls, "added-peer-is-learner" = member.is_learner, "added member"
                );
                peers.add(member.id, &member.peer_urls)
            }
            Changed::Updated(member) => {
                tracing::info!(
                    "cluster-id" = %cluster, "local-member-id" = %local, "updated-remote-peer-id" = %member.id,
                    "updated-remote-peer-urls" = ?member.peer_urls, "updated member"
                );
                peers.update(member.id, &member.peer_urls)
            }
            Changed::Promoted(id) => {
                tracing::info!(
                    "cluster-id" = %cluster, "local-member-id" = %local, "promoted-member-id" = %id, "promote member"
                );
                Ok(())
            }
            Changed::Removed(id) => {
                tracing::info!(
                    "cluster-id" = %cluster, "local-member-id" = %local, "removed-remote-peer-id" = %id, "removed member"
                );
                if *id == local {
                    self.stop_as_removed();
                } else {
                    peers.remove(*id);
                }
                Ok(())
            }
        };
        if let Err(why) = connected {
            tracing::warn!(error = %why, "cannot connect to a member: its peer URLs are unusable");
        }
    }

    pub(super) fn stop_as_removed(self: &Arc<Inner>) {
        let inner = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(REMOVED_STOPS_AFTER).await;
            inner.fail(Error::Removed);
        });
    }
}
