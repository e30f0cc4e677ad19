//! The state machine: one committed entry in; one answer, its events and one batch out.
//!
//! Everything that all members must agree on changes here and nowhere else, as a pure function of the log: keys, leases, members,
//! users, alarms. Three rules keep it so (Raft section 2, and etcd's own scars in reliability 3):
//!
//! - Everything about an entry is checked before its first write. What fails, fails on every member alike and changes nothing.
//! - An error that others might not share (the disk) is no answer: [`Machine::apply`] returns it, and the member stops.
//! - The applied index is a row of the same batch as the effects, so that no crash can part them.
//!
//! ```text
//! entry ─▶ alarms? ─▶ may the user? ─▶ check ─▶ write floor 1 ─▶ Outcome: reply, events, lease changes
//!                                                             └──▶ batch (many entries, cut at about 128 KiB): rows + applied index
//! ```
//!
//! Source: etcd `server/etcdserver/apply/`.

mod alarm;
mod auth;
pub mod check;
pub mod entry;
pub mod image;
mod kv;
pub mod loggable;
mod txn;
pub mod version;

#[cfg(test)]
mod tests;

pub use txn::ReadTxn;

use crate::auth::Change;
use crate::auth::Store as AuthStore;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::lease;
use crate::membership::Changed;
use crate::membership::Members;
use crate::mvcc;
use crate::mvcc::Leased;
use crate::mvcc::Loaded;
use crate::mvcc::Store;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::proto::raftpb::ConfState;
use crate::proto::walpb::ConfChange;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::MemberId;
use crate::types::Revision;
use crate::types::Term;
use crate::watch::History;
use crate::watch::Past;
use alarm::Alarms;
use bytes::Bytes;
use parking_lot::RwLock;
use serde::Deserialize;
use serde::Serialize;
use std::sync::Arc;
use version::Downgrade;
use version::Versions;

/// From how many bytes on a batch should be taken: what one transaction of the engine bears.
pub const BATCH_BYTES: usize = 128 << 10;

/// The row of [`Table::Meta`] that has the applied index, 8 bytes big-endian; named as in etcd, and in its images.
pub(crate) const APPLIED: &[u8] = b"consistent_index";
/// More rows of [`Table::Meta`], named as in etcd.
const TERM: &[u8] = b"term";
pub(crate) const CONF_STATE: &[u8] = b"confState";

/// What this member alone has configured. None of it changes an entry's effect.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Over this many bytes of history the *answer* to a write is [`Error::NoSpace`], so that the server raises the alarm; nothing is no
    /// quota.
    pub quota_bytes: Option<u64>,
    /// How many bytes of history the cache holds.
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { quota_bytes: Some(2 << 30), cache_bytes: mvcc::CACHE_BYTES }
    }
}

/// The answer to a proposal; headers carry the revision only.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    Alarm(pb::AlarmResponse),
    /// Users or roles have changed, or they count from now on, or no more.
    Auth(pb::ResponseHeader),
    /// The user may have a token: this one, unless it is empty; then one that names the user and this auth revision.
    Authenticate {
        header: pb::ResponseHeader,
        token: String,
        user: String,
        auth_revision: u64,
    },
    /// Membership and cluster version entries, checkpoints: nothing to tell.
    Done,
}

/// What became of a lease, for the leader's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// With its time-to-live in seconds.
    Granted(LeaseId, i64),
    Revoked(LeaseId),
    /// With what is left of it in seconds; 0 is all of it.
    Checkpointed(LeaseId, i64),
}

/// What one entry did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// For the client that waits for this entry, if it waits here.
    pub reply: Result<Reply, Error>,
    /// The store's revision now. If there are events, they are this revision's.
    pub revision: Revision,
    /// For the watchers, in order; empty if the entry took no revision.
    pub events: Vec<Event>,
    /// The new floor, if this was a compaction.
    pub compacted: Option<Revision>,
    pub leases: Vec<LeaseChange>,
    /// What changed among the members.
    pub members: Option<Changed>,
    /// What it means for those who have logged in.
    pub auth: Option<Change>,
    /// What the cluster's version was, if it has fallen: a downgrade.
    pub fallen_from: Option<String>,
}

impl Outcome {
    fn new(revision: Revision) -> Outcome {
        let (events, leases) = (Vec::new(), Vec::new());
        let (compacted, members, auth, fallen_from) = (None, None, None, None);
        Outcome { reply: Ok(Reply::Done), revision, events, compacted, leases, members, auth, fallen_from }
    }
}

/// The applied state of one member: keys, leases, members, users, alarms.
pub struct Machine {
    store: Store,
    leases: lease::Table,
    members: Members,
    auth: AuthStore,
    alarms: Alarms,
    versions: Versions,
    conf_state: ConfState,
    applied: (Index, Term),
    limits: Limits,
    /// Rows of the small tables that changed since the last batch.
    rows: Batch,
    /// The applied index that the last batch has.
    taken: Index,
    /// An entry failed half way: what is in memory must not be written.
    failed: bool,
}

impl Machine {
    /// The state as the engine has it; an empty engine gives the state before the first entry.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`]: then the engine must be rebuilt.
    pub fn open(engine: Arc<dyn Engine>, cluster: ClusterId, limits: Limits) -> Result<Machine, Error> {
        let loaded = Store::open(Arc::clone(&engine), limits.cache_bytes)?;
        Machine::with(engine, cluster, limits, loaded)
    }

    /// The state in an engine whose history is `loaded` already.
    ///
    /// # Errors
    /// As [`Machine::open`].
    pub fn of(engine: Arc<dyn Engine>, cluster: ClusterId, limits: Limits, loaded: Loaded) -> Result<Machine, Error> {
        let loaded = Store::of(Arc::clone(&engine), limits.cache_bytes, loaded)?;
        Machine::with(engine, cluster, limits, loaded)
    }

    fn with(
        engine: Arc<dyn Engine>,
        cluster: ClusterId,
        limits: Limits,
        (store, leased): (Store, Leased),
    ) -> Result<Machine, Error> {
        let mut leases = lease::Table::load(&*engine)?;
        for (key, id) in leased {
            // A snapshot of an older etcd may have a key whose lease is gone. etcd serves it, and so do we.
            let _attached = leases.attach(&key, id);
        }
        let number = |name: &[u8]| Ok::<u64, Error>(mvcc::read_number(&*engine, name)?.unwrap_or(0));
        let applied = (Index(number(APPLIED)?), Term(number(TERM)?));
        Ok(Machine {
            store,
            leases,
            members: Members::load(&*engine, cluster)?,
            auth: AuthStore::load(&*engine)?,
            alarms: Alarms::load(&*engine)?,
            versions: Versions::load(&*engine)?,
            conf_state: engine
                .get(Table::Meta, CONF_STATE)?
                .map(|row| read_conf_state(&row))
                .transpose()?
                .unwrap_or_default(),
            applied,
            limits,
            rows: Batch::default(),
            taken: applied.0,
            failed: false,
        })
    }

    /// The last entry that was applied.
    #[must_use]
    pub fn applied(&self) -> (Index, Term) {
        self.applied
    }

    /// Applies the entry at `index`; without a request it only counts.
    ///
    /// # Errors
    /// Only those that are not deterministic: this member must stop. All others are the answer, in [`Outcome::reply`].
    ///
    /// # Panics
    /// If `index` is not the next one.
    pub fn apply(
        &mut self,
        index: Index,
        term: Term,
        request: Option<pb::InternalRaftRequest>,
    ) -> Result<Outcome, Error> {
        self.advance(index, term);
        let mut outcome = Outcome::new(self.store.revision());
        if let Some(request) = request {
            outcome.reply = self.run(request, &mut outcome);
        }
        outcome.revision = self.store.revision();
        self.settle(outcome)
    }

    /// Applies a conf change: the members, and what raft makes of the change, in one batch. Ask [`Members::check`] first: if it
    /// refuses, raft must be told of no change, and `conf_state` is what it was.
    ///
    /// # Errors
    /// As [`Machine::apply`].
    ///
    /// # Panics
    /// If `index` is not the next one.
    pub fn apply_conf_change(
        &mut self,
        index: Index,
        term: Term,
        change: &ConfChange,
        conf_state: &ConfState,
    ) -> Result<Outcome, Error> {
        self.advance(index, term);
        let mut outcome = Outcome::new(self.store.revision());
        match self.members.apply(change, &mut self.rows) {
            Ok(changed) => outcome.members = Some(changed),
            Err(e) => outcome.reply = Err(e),
        }
        self.conf_state = conf_state.clone();
        if !is_planted(Bug::ConfStateNotStored) {
            self.rows.put(Table::Meta, CONF_STATE, write_conf_state(conf_state));
        }
        self.settle(outcome)
    }

    fn advance(&mut self, index: Index, term: Term) {
        assert_eq!(index, self.applied.0.next(), "entries are applied one by one");
        assert!(!self.failed, "this member should have stopped");
        self.applied = (index, term);
    }

    fn settle(&mut self, outcome: Outcome) -> Result<Outcome, Error> {
        match outcome.reply {
            Err(e) if !e.is_deterministic() => {
                self.failed = true;
                Err(e)
            }
            _ => Ok(outcome),
        }
    }

    fn run(&mut self, mut request: pb::InternalRaftRequest, out: &mut Outcome) -> Result<Reply, Error> {
        self.alarms.permit(&request)?;
        self.permit(&request)?;
        let full = self.would_overflow(&request);
        if full && is_planted(Bug::QuotaJudgedAtApply) {
            return Err(Error::NoSpace);
        }
        let reply = if let Some(put) = request.put.take() {
            self.put(put, out).map(Reply::Put)
        } else if let Some(delete) = request.delete_range.take() {
            self.delete_range(&delete, out).map(Reply::DeleteRange)
        } else if let Some(txn) = request.txn.take() {
            self.txn(txn, out).map(Reply::Txn)
        } else if let Some(grant) = request.lease_grant.take() {
            self.lease_grant(&grant, out).map(Reply::LeaseGrant)
        } else {
            self.run_rest(request, out)
        };
        // The effect stands, whatever this member's quota: others may have another one.
        if full && reply.is_ok() { Err(Error::NoSpace) } else { reply }
    }

    fn run_rest(&mut self, request: pb::InternalRaftRequest, out: &mut Outcome) -> Result<Reply, Error> {
        if let Some(compaction) = request.compaction {
            return self.compact(&compaction, out).map(Reply::Compaction);
        }
        if let Some(revoke) = request.lease_revoke {
            return self.lease_revoke(LeaseId(revoke.id), out).map(Reply::LeaseRevoke);
        }
        if let Some(alarm) = request.alarm {
            let alarms = self.alarms.apply(&alarm, &mut self.rows);
            return Ok(Reply::Alarm(pb::AlarmResponse { header: self.header(), alarms }));
        }
        if let Some(checkpoints) = request.lease_checkpoint {
            for pb::LeaseCheckpoint { id, remaining_ttl } in checkpoints.checkpoints {
                if self.leases.checkpoint(LeaseId(id), remaining_ttl, &mut self.rows) {
                    out.leases.push(LeaseChange::Checkpointed(LeaseId(id), remaining_ttl));
                }
            }
            return Ok(Reply::Done);
        }
        if let Some(version) = request.cluster_version_set {
            out.fallen_from = self.versions.set_cluster(version.ver, &mut self.rows)?;
            return Ok(Reply::Done);
        }
        if let Some(attributes) = request.cluster_member_attr_set {
            return self.publish(attributes);
        }
        if let Some(downgrade) = request.downgrade_info_set {
            self.versions.set_downgrade(downgrade, &mut self.rows);
            return Ok(Reply::Done);
        }
        if request.range.is_some() || request.downgrade_version_test.is_some() {
            return Ok(Reply::Done);
        }
        self.change_auth(request, out)
    }

    fn publish(&mut self, request: membershippb::ClusterMemberAttrSetRequest) -> Result<Reply, Error> {
        let attributes = request.member_attributes.unwrap_or_default();
        let id = MemberId(request.member_id);
        self.members.set_attributes(id, &attributes.name, &attributes.client_urls, &mut self.rows)?;
        Ok(Reply::Done)
    }

    fn would_overflow(&self, request: &pb::InternalRaftRequest) -> bool {
        let cost = check::quota_cost(request);
        cost > 0 && self.limits.quota_bytes.is_some_and(|quota| self.store.size() + cost >= quota)
    }

    /// A header with the revision; the server fills in the rest.
    #[must_use]
    pub fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.store.revision().to_wire(), ..Default::default() })
    }

    // What goes to the engine.

    /// Bytes of rows that the next batch will have. Take one from [`BATCH_BYTES`] on.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.rows.bytes() + self.store.batch_bytes()
    }

    /// Everything since the last call, with the applied index, to be written at once. Nothing if nothing was applied. Write
    /// batches in the order in which they were taken, and say so with [`Machine::written`].
    pub fn take_batch(&mut self) -> Option<Batch> {
        let idle = self.taken == self.applied.0 && self.rows.is_empty() && !self.store.is_dirty();
        if idle || self.failed {
            return None;
        }
        let mut batch = std::mem::take(&mut self.rows);
        self.store.drain(&mut batch);
        let (index, term) = self.applied;
        let told = if is_planted(Bug::AppliedIndexOutsideBatch) { self.taken } else { index };
        batch.put(Table::Meta, APPLIED, told.0.to_be_bytes().to_vec());
        batch.put(Table::Meta, TERM, term.0.to_be_bytes().to_vec());
        self.taken = index;
        Some(batch)
    }

    /// Notes that the engine has the oldest batch that was taken and not noted yet, so that its blocks may leave memory.
    pub fn written(&mut self) {
        self.store.written();
    }

    /// Removes some of what was compacted, looking at up to `keys` keys; see [`Store::compact_step`]. Changes nothing that can be seen, so
    /// every member does this when it likes.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`]: this member must stop.
    pub fn compact_step(&mut self, keys: usize) -> Result<bool, Error> {
        let more = self.store.compact_step(keys);
        self.failed |= more.is_err();
        more
    }

    /// Notes that the engine was written afresh; see [`Store::defragmented`].
    pub fn defragmented(&mut self) {
        self.store.defragmented();
    }

    // What readers look at.

    /// The keys and their history.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The leases.
    #[must_use]
    pub fn leases(&self) -> &lease::Table {
        &self.leases
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The users and roles.
    #[must_use]
    pub fn auth(&self) -> &AuthStore {
        &self.auth
    }

    /// The raised alarms, by kind and member.
    #[must_use]
    pub fn alarms(&self) -> Vec<pb::AlarmMember> {
        self.alarms.list(0)
    }

    /// The version that all members can speak; nothing until the first leader has set it.
    #[must_use]
    pub fn cluster_version(&self) -> Option<&str> {
        self.versions.cluster.as_deref()
    }

    /// A downgrade under way, if it is enabled.
    #[must_use]
    pub fn downgrade(&self) -> &Downgrade {
        &self.versions.downgrade
    }

    /// Whether any member has raised NOSPACE: then writes are refused everywhere.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.alarms.stands(pb::AlarmType::Nospace)
    }

    /// Who votes, as raft had it when the last conf change was applied.
    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }
}

/// raft's ConfState in etcd's JSON.
#[derive(Serialize, Deserialize)]
struct ConfStateRow {
    #[serde(default)]
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners_next: Vec<u64>,
    #[serde(default)]
    auto_leave: bool,
}

fn write_conf_state(state: &ConfState) -> Vec<u8> {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = state.clone();
    let row = ConfStateRow { voters, learners, voters_outgoing, learners_next, auto_leave };
    serde_json::to_vec(&row).expect("numbers and lists only")
}

/// # Errors
/// [`Error::Damaged`].
pub(crate) fn read_conf_state(row: &[u8]) -> Result<ConfState, Error> {
    let row: ConfStateRow = serde_json::from_slice(row).map_err(|e| Error::Damaged(format!("confState: {e}")))?;
    let ConfStateRow { voters, learners, voters_outgoing, learners_next, auto_leave } = row;
    Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave })
}

/// Answers a range request: the lock is held for a slice of the index at a time, and not while values are fetched.
///
/// # Errors
/// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::InvalidSortOption`]; [`Error::Storage`] or [`Error::Damaged`] from the engine.
pub fn range(machine: &RwLock<Machine>, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
    let chosen = machine.read().store.select(request);
    let mut selection = chosen?;
    while !selection.is_complete() {
        machine.read().store.select_more(&mut selection);
    }
    selection.load()
}

/// How watch streams read the past: choose under the lock, load outside it.
impl History for RwLock<Machine> {
    fn events(&self, range: &KeyRange, from: Revision, max_revisions: usize) -> Result<Past, Error> {
        let chosen = {
            let machine = self.read();
            match machine.store.history(range, from, max_revisions) {
                Err(Error::Compacted) => return Ok(Past::Compacted(machine.store.compacted().unwrap_or_default())),
                chosen => chosen?,
            }
        };
        let (events, through) = chosen.load()?;
        Ok(Past::Events { events, through })
    }

    fn previous(&self, key: &Bytes, at: Revision) -> Result<Option<KeyValue>, Error> {
        let before = at.to_wire() - 1;
        if before <= 0 {
            return Ok(None);
        }
        let request = pb::RangeRequest { key: key.clone(), revision: before, ..Default::default() };
        match range(self, &request) {
            Err(Error::Compacted) => Ok(None),
            response => Ok(response?.kvs.pop()),
        }
    }
}
