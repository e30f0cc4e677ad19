//! Members compare hashes: who has other data than the rest, and what follows.
//!
//! | when | who asks | what follows if hashes differ |
//! |---|---|---|
//! | before a member serves (`InitialCorruptCheck`) | that member | it does not start |
//! | every `--corrupt-check-time` | the leader | CORRUPT alarm for the member that differs |
//! | every `--compact-hash-check-time` (`CompactHashCheck`) | the leader | CORRUPT alarm for the minority, for all (id 0) if there is no majority |
//!
//! While the alarm stands no member changes keys. What is compared are hashes at one revision with one compaction below it; a member that
//! is behind, silent or compacted otherwise is no suspect.
//!
//! Source: etcd `etcdserver/corrupt.go`.

use super::Node;
use crate::error::Error;
use crate::membership::Member;
use crate::mvcc::Hash;
use crate::peer;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::types::MemberId;
use crate::types::Revision;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::interval;

/// Which members a leader suspects when nobody can tell who is right: all of them.
const WHOLE_CLUSTER: MemberId = MemberId(0);

/// What a member answered, or why it did not.
struct Told {
    id: MemberId,
    answer: Result<Hash, peer::Error>,
}

impl Node {
    /// Compares this member's data with the others' before it takes part, if that is wanted. One that starts for the first time has no members yet,
    /// and nothing to compare; members that do not answer, or are elsewhere in history, say nothing.
    ///
    /// # Errors
    /// [`Error::Start`] if another member has a different hash at this one's revision. What hashing itself fails with.
    pub(super) async fn check_before_start(&self) -> Result<(), Error> {
        if !self.config().checks.at_start {
            return Ok(());
        }
        let id = self.inner.id;
        tracing::info!("local-member-id" = %id, timeout = ?self.request_timeout(), "starting initial corruption check");
        let own = self.hash_kv(0).await?;
        let told = self.ask_members(own.hash_revision).await;
        if differing(&own, &told) > 0 {
            return Err(Error::Start(format!("{id} found data inconsistency with peers")));
        }
        tracing::info!("local-member-id" = %id, "initial corruption checking passed; no corruption");
        Ok(())
    }

    /// The leader's comparison of everybody's data as it is now.
    async fn check_now(&self) -> Result<(), Error> {
        let before = self.hash_kv(0).await?;
        let told = self.ask_members(before.hash_revision).await;
        // Whatever a follower has told is committed here, too, once this read may go on.
        self.read_barrier().await?;
        let after = self.hash_kv(0).await?;
        if let Some(suspect) = suspect(self.inner.id, &before, &after, &told) {
            self.raise_corrupt(suspect).await;
        }
        let answered = told.iter().filter(|told| told.answer.is_ok()).count();
        tracing::info!("number-of-peers-checked" = answered, "finished peer corruption check");
        Ok(())
    }

    /// The leader's comparison of what compactions settled, newest first; `checked` is the newest that all have agreed on.
    async fn check_compactions(&self, checked: &mut i64) {
        tracing::info!("local-member-id" = %self.inner.id, timeout = ?self.request_timeout(), "starting compact hash check");
        let hashes = self.inner.hashes.after(*checked);
        let mut compared = 0;
        for own in &hashes {
            let told = self.ask_members(own.hash_revision).await;
            compared += 1;
            if told.is_empty() {
                continue;
            }
            match settle(self.inner.id, own, &told) {
                Settled::Incomplete => continue,
                Settled::Agreed => *checked = own.hash_revision,
                Settled::Corrupt(members) => {
                    for member in members {
                        self.raise_corrupt(member).await;
                    }
                }
            }
            break;
        }
        tracing::info!("number-of-hashes-checked" = compared, "finished compaction hash check");
    }

    async fn raise_corrupt(&self, member_id: MemberId) {
        let alarm = pb::AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: member_id.0,
            alarm: AlarmType::Corrupt as i32,
        };
        if let Err(why) = self.propose(pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() }).await {
            tracing::warn!(error = %why, "failed to raise alarm");
        }
    }

    /// Asks all members but this one at the same time.
    async fn ask_members(&self, revision: i64) -> Vec<Told> {
        let members: Vec<Member> = self.read(|machine| machine.members().iter().cloned().collect());
        let ask = |member: &Member| {
            let (id, urls, dial) = (member.id, member.peer_urls.clone(), self.inner.dial.clone());
            async move {
                let answer = peer::fetch_hash(&urls, dial, self.request_timeout(), self.inner.cluster, revision).await;
                if let Err(why) = &answer {
                    tracing::warn!(
                        "local-member-id" = %self.inner.id, "requested-revision" = revision, "remote-peer-id" = %id,
                        error = %why, "failed hash kv request"
                    );
                }
                Told { id, answer: answer.map(from_wire) }
            }
        };
        let others = members.iter().filter(|member| member.id != self.inner.id && !member.peer_urls.is_empty());
        futures::future::join_all(others.map(ask)).await
    }
}

fn from_wire(answer: peer::HashAnswer) -> Hash {
    let peer::HashAnswer { header, hash, compact_revision, hash_revision } = answer;
    Hash { hash, compact_revision, hash_revision, current: Revision(u64::try_from(header.revision).unwrap_or(0)) }
}

pub(super) fn to_wire(hash: &Hash) -> peer::HashAnswer {
    let Hash { hash, compact_revision, hash_revision, current } = *hash;
    peer::HashAnswer { header: peer::HashHeader { revision: current.to_wire() }, hash, compact_revision, hash_revision }
}

/// While this member leads, compares all members' data at each interval.
pub(super) async fn watch_data(node: Node, every: Duration) {
    tracing::info!("local-member-id" = %node.inner.id, interval = ?every, "enabled corruption checking");
    let mut every = interval(every);
    every.tick().await;
    loop {
        every.tick().await;
        if node.inner.is_leader()
            && let Err(why) = node.check_now().await
        {
            tracing::warn!(error = %why, "failed to check hash KV");
        }
    }
}

/// While this member leads, compares what compactions settled at each interval.
pub(super) async fn watch_compactions(node: Node, every: Duration) {
    let (mut every, mut checked) = (interval(every), 0);
    every.tick().await;
    loop {
        every.tick().await;
        if node.inner.is_leader() {
            node.check_compactions(&mut checked).await;
        }
    }
}

/// How many of the others have another hash of the same history.
fn differing(own: &Hash, told: &[Told]) -> usize {
    let mut differing = 0;
    for (id, theirs) in told.iter().filter_map(|told| Some((told.id, told.answer.as_ref().ok()?))) {
        if theirs.hash == own.hash {
            continue;
        }
        let comparable = theirs.compact_revision == own.compact_revision;
        differing += usize::from(comparable);
        tracing::warn!(
            "local-member-revision" = own.hash_revision, "local-member-compact-revision" = own.compact_revision,
            "local-member-hash" = own.hash, "remote-peer-id" = %id, "remote-peer-revision" = theirs.current.0,
            "remote-peer-compact-revision" = theirs.compact_revision, "remote-peer-hash" = theirs.hash,
            "{}", if comparable {
                "found different hash values from remote peer"
            } else {
                "found different compact revision values from remote peer"
            }
        );
    }
    differing
}

/// The first member that cannot be right: it has another hash, or is ahead of a leader that has confirmed itself since.
fn suspect(leader: MemberId, before: &Hash, after: &Hash, told: &[Told]) -> Option<MemberId> {
    let same_place =
        |a: &Hash, b: &Hash| (a.hash_revision, a.compact_revision) == (b.hash_revision, b.compact_revision);
    if same_place(before, after) && before.hash != after.hash {
        tracing::warn!(
            "revision" = before.hash_revision,
            "hash-1" = before.hash,
            "hash-2" = after.hash,
            "found hash mismatch"
        );
        return Some(leader);
    }
    let answers = told.iter().filter_map(|told| Some((told.id, told.answer.as_ref().ok()?)));
    let mut suspects = answers.filter_map(|(id, theirs)| {
        let why = if theirs.current > after.current {
            "revision from follower must be less than or equal to leader's"
        } else if theirs.compact_revision > after.compact_revision {
            "compact revision from follower must be less than or equal to leader's"
        } else if theirs.compact_revision == before.compact_revision && theirs.hash != before.hash {
            "same compact revision then hashes must match"
        } else {
            return None;
        };
        tracing::warn!(
            "leader-revision" = after.current.0, "leader-compact-revision" = after.compact_revision,
            "leader-hash" = before.hash, "follower-revision" = theirs.current.0,
            "follower-compact-revision" = theirs.compact_revision, "follower-hash" = theirs.hash,
            "follower-peer-id" = %id, "{why}"
        );
        Some(id)
    });
    suspects.next()
}

/// What comparing one compaction's hash came to.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    /// All members have it.
    Agreed,
    /// All that answered have it; some did not.
    Incomplete,
    /// These do not have what the majority has; [`WHOLE_CLUSTER`] if there is no majority.
    Corrupt(Vec<MemberId>),
}

fn settle(leader: MemberId, own: &Hash, told: &[Told]) -> Settled {
    let mut holders = BTreeMap::from([(own.hash, vec![leader])]);
    let mut compared = 0;
    for Told { id, answer } in told {
        let reason = match answer {
            Ok(theirs) if theirs.compact_revision == own.compact_revision => {
                compared += 1;
                holders.entry(theirs.hash).or_default().push(*id);
                continue;
            }
            Ok(theirs) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                theirs.compact_revision, own.compact_revision
            ),
            Err(_) => "no response".into(),
        };
        tracing::warn!("peer-id" = %id, reason, "Skipped peer's hash");
    }
    let (revision, compacted) = (own.hash_revision, own.compact_revision);
    if holders.len() == 1 && compared == told.len() {
        tracing::info!(
            "number-of-peers-checked" = compared,
            revision,
            "compactRevision" = compacted,
            "successfully checked hash on whole cluster"
        );
        return Settled::Agreed;
    }
    if holders.len() == 1 {
        tracing::warn!(
            "number-of-peers-checked" = compared,
            "number-of-peers" = told.len(),
            revision,
            "compactRevision" = compacted,
            "skipped revision in compaction hash check; was not able to check all peers"
        );
        return Settled::Incomplete;
    }
    let members = told.len() + 1;
    let quorum = members / 2 + 1;
    let majority = holders.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash);
    let others: Vec<MemberId> =
        holders.into_iter().filter(|(hash, _)| Some(*hash) != majority).flat_map(|(_, members)| members).collect();
    tracing::error!(
        "leader-id" = %leader, "leader-revision" = revision, "leader-compact-revision" = compacted,
        "leader-hash" = own.hash, "peer-ids" = ?others, "quorum-exist" = majority.is_some(),
        "Detected compaction hash mismatch"
    );
    Settled::Corrupt(if majority.is_some() { others } else { vec![WHOLE_CLUSTER] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64, hash_revision: i64, current: u64) -> Hash {
        Hash { hash, compact_revision, hash_revision, current: Revision(current) }
    }

    fn told(answers: &[Option<Hash>]) -> Vec<Told> {
        let silent = || peer::Error::NoAnswer("nobody there".into());
        (2..).zip(answers).map(|(id, answer)| Told { id: MemberId(id), answer: answer.ok_or_else(silent) }).collect()
    }

    const LEADER: MemberId = MemberId(1);

    #[test]
    fn a_member_that_starts_differs_only_from_the_same_history() {
        let own = hash(7, 3, 10, 10);
        let told = told(&[Some(hash(7, 3, 10, 12)), Some(hash(8, 4, 10, 12)), None, Some(hash(8, 3, 10, 12))]);
        assert_eq!(differing(&own, &told[..3]), 0, "equal, compacted otherwise, silent");
        assert_eq!(differing(&own, &told), 1);
    }

    #[test]
    fn a_leader_suspects_who_differs_or_is_ahead() {
        let (before, after) = (hash(7, 3, 10, 10), hash(9, 3, 12, 12));
        let suspected = |theirs| suspect(LEADER, &before, &after, &told(&[None, theirs]));
        let third = Some(MemberId(3));
        assert_eq!(suspected(None), None);
        assert_eq!(suspected(Some(hash(7, 3, 10, 12))), None, "equal, and not further than the leader is now");
        assert_eq!(suspected(Some(hash(7, 3, 10, 13))), third, "further than a confirmed leader");
        assert_eq!(suspected(Some(hash(7, 4, 10, 12))), third, "compacted where the leader is not");
        assert_eq!(suspected(Some(hash(8, 3, 10, 12))), third, "another hash");
        assert_eq!(suspected(Some(hash(8, 2, 10, 12))), None, "its compaction is still to come");
        assert_eq!(suspect(LEADER, &before, &hash(8, 3, 10, 10), &[]), Some(LEADER), "a hash that changes by itself");
    }

    #[test]
    fn the_majority_is_right_about_a_compaction() {
        let settled = |answers: &[Option<u32>]| {
            let answers: Vec<_> = answers.iter().map(|answer| answer.map(|it| hash(it, 3, 10, 12))).collect();
            settle(LEADER, &hash(7, 3, 10, 12), &told(&answers))
        };
        let corrupt = |ids: &[u64]| Settled::Corrupt(ids.iter().copied().map(MemberId).collect());
        assert_eq!(settled(&[Some(7), Some(7)]), Settled::Agreed);
        assert_eq!(settled(&[Some(7), None]), Settled::Incomplete);
        assert_eq!(settled(&[Some(7), Some(8)]), corrupt(&[3]));
        assert_eq!(settled(&[Some(8), Some(8)]), corrupt(&[1]), "the leader itself");
        assert_eq!(settled(&[Some(8), None]), corrupt(&[0]), "one against one of three");
        assert_eq!(settled(&[Some(8)]), corrupt(&[0]), "one against one of two");
        assert_eq!(settled(&[Some(8), Some(9)]), corrupt(&[0]));
        assert_eq!(settled(&[Some(7), Some(8), None]), corrupt(&[0]), "two of four are no majority");
        assert_eq!(settled(&[Some(7), Some(7), Some(8), Some(9)]), corrupt(&[4, 5]));
    }

    #[test]
    fn a_hash_of_another_compaction_is_not_compared() {
        let told = told(&[Some(hash(8, 4, 10, 12)), Some(hash(7, 3, 10, 12))]);
        assert_eq!(settle(LEADER, &hash(7, 3, 10, 12), &told), Settled::Incomplete);
    }
}
