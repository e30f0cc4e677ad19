//! Who is a member of the cluster, and the ids that say so.
//!
//! A member's id is a hash of where it can be reached and of the cluster's token, so every member computes the same
//! ids from the same `--initial-cluster` without asking anybody. From then on the list changes by one committed conf
//! change at a time:
//!
//! ```text
//! AddNode / AddLearnerNode   a new member, or (isPromote) a learner that becomes a voter
//! UpdateNode                 other peer URLs
//! RemoveNode                 gone, and its id never comes back
//! ```
//!
//! A change that does not fit is refused, and the refusal is an answer: every replica gives the same one. Rows and
//! conf change contexts are etcd's JSON, byte for byte, because real etcd reads them too.
//!
//! The limit on learners and the checks for a quorum of started members are asked before a change is proposed
//! ([`Members::may_add_voter`] …), since they are local configuration and must not decide what an entry does. That
//! somebody must be left to vote is no configuration, and decides.
//!
//! Source: etcd `server/etcdserver/api/membership/{member,cluster}.go`.

mod join;
mod urls;

pub use join::same_urls;
pub use urls::Founders;
pub use urls::check_initial_cluster;
pub use urls::check_urls;
pub use urls::first_difference;
pub use urls::initial_cluster_text;
pub use urls::parse_initial_cluster;
pub use urls::parse_urls;

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::golang;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::conf_change::Type;
use crate::types::ClusterId;
use crate::types::MemberId;
use prost::Message as _;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use sha1::Digest;
use sha1::Sha1;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// How many rows are read from the engine at a time.
const ROWS_PER_SCAN: usize = 256;

/// One member. The order of the fields is that of etcd's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    #[serde(with = "id_as_number", default)]
    pub id: MemberId,
    /// Where other members reach it, sorted when it was made.
    #[serde(rename = "peerURLs", default, serialize_with = "list_or_null", deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Gets the log, does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Empty until the member has started and published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; published with the name.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub client_urls: Vec<String>,
}

/// What an AddNode carries: a member, and whether it is there already as a learner.
#[derive(Default, Serialize, Deserialize)]
struct ChangeContext {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

mod id_as_number {
    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &MemberId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MemberId, D::Error> {
        u64::deserialize(from).map(MemberId)
    }
}

/// Go writes a list that was never set as null.
fn list_or_null<S: Serializer>(list: &[String], to: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { to.serialize_none() } else { list.serialize(to) }
}

fn null_is_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn first_8_bytes(hash: Sha1) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 20] = hash.finalize().into();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The id of a member with these peer URLs. `token` is the cluster's at bootstrap; for a member that is added later
/// it is empty and `unix_seconds` is the time of the request, so that the same URLs get a new id each time.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<u64>) -> MemberId {
    let mut sorted: Vec<&String> = peer_urls.iter().collect();
    sorted.sort();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string());
    }
    MemberId(first_8_bytes(hash))
}

/// The id of the cluster that these members found.
#[must_use]
pub fn cluster_id(founders: &BTreeSet<MemberId>) -> ClusterId {
    let mut hash = Sha1::new();
    for id in founders {
        hash.update(id.0.to_be_bytes());
    }
    ClusterId(first_8_bytes(hash))
}

impl Member {
    /// A member that is about to be added with MemberAdd: without a name until it starts.
    #[must_use]
    pub fn to_add(peer_urls: Vec<String>, is_learner: bool, unix_seconds: u64) -> Member {
        let id = member_id(&peer_urls, "", Some(unix_seconds));
        Member { id, peer_urls, is_learner, ..Member::default() }
    }

    /// Whether it has started at least once: etcd's test is that it has a name.
    #[must_use]
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// etcd's JSON of this member: the row in [`Table::Members`] and the context of its conf change.
    #[must_use]
    pub fn to_json(&self) -> String {
        golang::json(self)
    }

    /// Reads [`Self::to_json`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if this is no member.
    pub fn from_json(json: &[u8]) -> Result<Member, Error> {
        serde_json::from_slice(json).map_err(|e| Error::Damaged(format!("member row: {e}")))
    }

    /// The member as clients see it.
    #[must_use]
    pub fn to_wire(&self) -> pb::Member {
        pb::Member {
            id: self.id.0,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }

    /// The conf change that adds this member, as a voter or as a learner.
    #[must_use]
    pub fn change_to_add(&self) -> ConfChange {
        let kind = if self.is_learner { Type::AddLearnerNode } else { Type::AddNode };
        change(kind, self.id, self.to_json())
    }

    /// The conf change that gives this member its present peer URLs. Name and client URLs in it are ignored.
    #[must_use]
    pub fn change_to_update(&self) -> ConfChange {
        change(Type::UpdateNode, self.id, self.to_json())
    }

    /// The conf change that makes the learner `id` a voter.
    #[must_use]
    pub fn change_to_promote(id: MemberId) -> ConfChange {
        let context = ChangeContext { member: Member { id, ..Member::default() }, is_promote: true };
        change(Type::AddNode, id, golang::json(&context))
    }

    /// The conf change that removes the member `id`.
    #[must_use]
    pub fn change_to_remove(id: MemberId) -> ConfChange {
        change(Type::RemoveNode, id, String::new())
    }
}

/// The proposer fills the change's own id, by which it finds its answer; bootstrap entries have none.
fn change(kind: Type, id: MemberId, context: String) -> ConfChange {
    ConfChange { id: 0, r#type: kind.into(), node_id: id.0, context: context.into() }
}

/// What a committed conf change did, for those who keep connections to members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A new member, voter or learner.
    Added(Member),
    /// A learner votes from now on.
    Promoted(MemberId),
    /// The member has other peer URLs.
    Updated(Member),
    /// The member is gone for good.
    Removed(MemberId),
}

/// The members of one cluster, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    cluster: ClusterId,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl Members {
    /// No members yet: what the log's first entries fill.
    #[must_use]
    pub fn empty(cluster: ClusterId) -> Members {
        Members { cluster, ..Members::default() }
    }

    /// The founders that `--initial-cluster` names, each with its URLs. Serves to know the ids and where to connect
    /// to; what is *applied* starts [`Self::empty`] and takes [`Self::founding_changes`] from the log.
    ///
    /// # Errors
    /// A sentence for the user, if two founders would have one id.
    pub fn bootstrap(founders: &Founders, token: &str) -> Result<Members, String> {
        let mut members = BTreeMap::new();
        for (name, peer_urls) in founders {
            let id = member_id(peer_urls, token, None);
            let mut peer_urls = peer_urls.clone();
            peer_urls.sort();
            let member = Member { id, name: name.clone(), peer_urls, ..Member::default() };
            if id.is_none() {
                return Err("cannot use 0 as member id".to_owned());
            }
            if let Some(member) = members.insert(id, member) {
                return Err(format!("member exists with identical ID {id} ({})", member.name));
            }
        }
        let cluster = cluster_id(&members.keys().copied().collect());
        Ok(Members { cluster, members, removed: BTreeSet::new() })
    }

    /// The members that another member of a running cluster told us of.
    #[must_use]
    pub fn of(cluster: ClusterId, members: impl IntoIterator<Item = Member>) -> Members {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Members { cluster, members, removed: BTreeSet::new() }
    }

    /// The first entries of a new cluster's log, in ascending order of ids: the same on every founder.
    #[must_use]
    pub fn founding_changes(&self) -> Vec<ConfChange> {
        self.members.values().map(Member::change_to_add).collect()
    }

    /// [`Self::founding_changes`] as entries 1 and up, of term 1.
    #[must_use]
    pub fn founding_entries(&self) -> Vec<Entry> {
        let entry = |(index, change): (u64, ConfChange)| Entry {
            index,
            term: 1,
            entry_type: EntryType::EntryConfChange as i32,
            data: change.encode_to_vec().into(),
            ..Entry::default()
        };
        (1..).zip(self.founding_changes()).map(entry).collect()
    }

    /// Reads the members from the engine's tables.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a row that is none, [`Error::Storage`] if the engine cannot be read.
    pub fn load(engine: &dyn Engine, cluster: ClusterId) -> Result<Members, Error> {
        let mut all = Members::empty(cluster);
        each_row(engine, Table::Members, |id, json| {
            let member = Member::from_json(json)?;
            if member.id != id {
                return Err(Error::Damaged(format!("the row of member {id} holds member {}", member.id)));
            }
            all.members.insert(id, member);
            Ok(())
        })?;
        each_row(engine, Table::MembersRemoved, |id, _| {
            all.removed.insert(id);
            Ok(())
        })?;
        Ok(all)
    }

    /// Writes every row: for an engine that is made anew.
    pub fn save(&self, batch: &mut Batch) {
        for member in self.members.values() {
            save_member(member, batch);
        }
        for id in &self.removed {
            batch.put(Table::MembersRemoved, id.to_string(), "removed");
        }
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The members in ascending order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many members there are, learners included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member with this id.
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The member with this name. Names are not unique; the lowest id wins.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// The ids that were members once, ascending.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// Whether this id was a member once and can never be one again.
    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// Why the change cannot be, if it cannot. Asked before proposing, and again when the entry is applied.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`], [`Error::MemberExists`], [`Error::PeerUrlExists`], [`Error::MemberNotLearner`],
    /// [`Error::MemberNotEnoughStarted`] for the removal of the last voter,
    /// or [`Error::MemberBadUrls`] for a change that is not readable (etcd panics at both).
    pub fn check(&self, change: &ConfChange) -> Result<(), Error> {
        self.read(change).map(drop)
    }

    /// Applies a committed change and writes its rows.
    ///
    /// # Errors
    /// As [`Self::check`]; then nothing has changed, and raft must be told of no change.
    pub fn apply(&mut self, change: &ConfChange, batch: &mut Batch) -> Result<Changed, Error> {
        let changed = self.read(change)?;
        match &changed {
            Changed::Added(member) | Changed::Updated(member) => self.set(member.clone(), batch),
            Changed::Promoted(id) => {
                let member = self.members.get(id).ok_or(Error::MemberNotFound)?;
                self.set(Member { is_learner: false, ..member.clone() }, batch);
            }
            Changed::Removed(id) => {
                self.members.remove(id);
                self.removed.insert(*id);
                batch.delete(Table::Members, id.to_string());
                batch.put(Table::MembersRemoved, id.to_string(), "removed");
            }
        }
        Ok(changed)
    }

    /// What the change would do.
    fn read(&self, change: &ConfChange) -> Result<Changed, Error> {
        let id = MemberId(change.node_id);
        if self.is_removed(id) {
            return Err(Error::MemberNotFound);
        }
        let present = self.get(id);
        match Type::try_from(change.r#type).map_err(|_| Error::MemberBadUrls)? {
            kind @ (Type::AddNode | Type::AddLearnerNode) => {
                let ChangeContext { mut member, is_promote } = context(change)?;
                if is_promote {
                    let present = present.ok_or(Error::MemberNotFound)?;
                    return if present.is_learner { Ok(Changed::Promoted(id)) } else { Err(Error::MemberNotLearner) };
                }
                if present.is_some() {
                    return Err(Error::MemberExists);
                }
                self.check_peer_urls(&member)?;
                // raft goes by the change's type, so the table does too.
                member.is_learner = kind == Type::AddLearnerNode;
                Ok(Changed::Added(member))
            }
            Type::RemoveNode => {
                let present = present.ok_or(Error::MemberNotFound)?;
                // Without a voter there is no cluster. etcd's raft panics here; its strict check, when on, comes before.
                let is_last = !present.is_learner && self.voters(id).0 == 0;
                if is_last { Err(Error::MemberNotEnoughStarted) } else { Ok(Changed::Removed(id)) }
            }
            Type::UpdateNode => {
                let present = present.ok_or(Error::MemberNotFound)?;
                let ChangeContext { member, .. } = context(change)?;
                self.check_peer_urls(&member)?;
                Ok(Changed::Updated(Member { peer_urls: member.peer_urls, ..present.clone() }))
            }
        }
    }

    fn check_peer_urls(&self, new: &Member) -> Result<(), Error> {
        let others = self.members.values().filter(|member| member.id != new.id);
        let taken: BTreeSet<&String> = others.flat_map(|member| &member.peer_urls).collect();
        if new.peer_urls.iter().any(|url| taken.contains(url)) { Err(Error::PeerUrlExists) } else { Ok(()) }
    }

    fn set(&mut self, member: Member, batch: &mut Batch) {
        save_member(&member, batch);
        self.members.insert(member.id, member);
    }

    /// Sets what a member publishes of itself when it starts. Without effect for a removed member.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`] if there never was such a member.
    pub fn set_attributes(
        &mut self,
        id: MemberId,
        name: &str,
        client_urls: &[String],
        batch: &mut Batch,
    ) -> Result<(), Error> {
        match self.members.get(&id) {
            Some(member) => {
                let member = Member { name: name.to_owned(), client_urls: client_urls.to_vec(), ..member.clone() };
                self.set(member, batch);
                Ok(())
            }
            None if self.is_removed(id) => Ok(()),
            None => Err(Error::MemberNotFound),
        }
    }

    /// How many vote, and how many of those have started; `without` is left out of both.
    fn voters(&self, without: MemberId) -> (usize, usize) {
        let voters = self.members.values().filter(|member| !member.is_learner && member.id != without);
        voters.fold((0, 0), |(all, started), member| (all + 1, started + usize::from(member.is_started())))
    }

    /// Whether one more voter, not started yet, leaves a quorum of started ones. One voter may always become two:
    /// that is how a cluster grows. For `--strict-reconfig-check`.
    #[must_use]
    pub fn may_add_voter(&self) -> bool {
        let (voters, started) = self.voters(MemberId::NONE);
        (started == 1 && voters == 1) || started > voters.div_ceil(2)
    }

    /// Whether a quorum of started voters stays without `id`. For `--strict-reconfig-check`.
    #[must_use]
    pub fn may_remove_voter(&self, id: MemberId) -> bool {
        let (voters, started) = self.voters(id);
        started > voters / 2
    }

    /// Whether a quorum of started voters stays when a (started) learner becomes a voter.
    #[must_use]
    pub fn may_promote(&self) -> bool {
        let (voters, started) = self.voters(MemberId::NONE);
        started + 1 > voters.div_ceil(2)
    }

    /// How many learners there are.
    #[must_use]
    pub fn learners(&self) -> usize {
        self.members.values().filter(|member| member.is_learner).count()
    }
}

fn save_member(member: &Member, batch: &mut Batch) {
    batch.put(Table::Members, member.id.to_string(), member.to_json());
}

/// The member inside a change. etcd panics if it cannot be read; we refuse it, on every replica alike.
fn context(change: &ConfChange) -> Result<ChangeContext, Error> {
    let context: ChangeContext = serde_json::from_slice(&change.context).map_err(|_| Error::MemberBadUrls)?;
    if context.member.id.0 == change.node_id && change.node_id != 0 { Ok(context) } else { Err(Error::MemberBadUrls) }
}

/// Visits all rows of a table whose keys are ids in hexadecimal.
fn each_row(
    engine: &dyn Engine,
    table: Table,
    mut visit: impl FnMut(MemberId, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut from = Vec::new();
    loop {
        let rows = engine.scan(table, &from, ROWS_PER_SCAN)?;
        for (key, value) in &rows {
            let id = std::str::from_utf8(key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let id = id.ok_or_else(|| Error::Damaged(format!("{}: {key:?} is no member id", table.name())))?;
            visit(MemberId(id), value)?;
        }
        match rows.last() {
            Some((key, _)) if rows.len() == ROWS_PER_SCAN => from = [key.as_ref(), &[0]].concat(),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
