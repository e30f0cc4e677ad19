//! What bytes are thrown at: a member's state with watchers, as the handlers drive it. Shared by the mutation test and the fuzz target.

use bytes::Bytes;
use etcd_lab::apply;
use etcd_lab::apply::Limits;
use etcd_lab::apply::Machine;
use etcd_lab::apply::Reply;
use etcd_lab::apply::check;
use etcd_lab::engine::Engine;
use etcd_lab::engine::Memory;
use etcd_lab::error::Error;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::types::ClusterId;
use etcd_lab::types::Revision;
use etcd_lab::types::Term;
use etcd_lab::watch;
use futures::FutureExt as _;
use parking_lot::RwLock;
use prost::Message;
use std::sync::Arc;

/// As the server's default.
const TXN_OPS_MAX: usize = 128;
/// A first byte that stands for a raft entry, unchecked, as a peer or a file may bring it.
pub(crate) const ENTRY: u8 = 0;
/// How many kinds of messages there are; the first byte says which one follows.
pub(crate) const KINDS: u8 = 12;

/// One member's state and its watchers.
pub(crate) struct Bench {
    machine: RwLock<Machine>,
    engine: Arc<Memory>,
    hub: watch::Shared,
    stream: watch::Stream,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench::new()
    }
}

fn open(engine: &Arc<Memory>) -> Machine {
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    Machine::open(engine, ClusterId(1), Limits::default()).expect("what was written can be opened")
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let engine = Arc::default();
        let machine = open(&engine);
        let hub = watch::Shared::new(machine.store().revision());
        Bench { stream: hub.open_stream(), hub, machine: RwLock::new(machine), engine }
    }

    /// Takes a kind and a message, decodes it, and does what its handler does. Returns a word for what came of it.
    ///
    /// # Panics
    /// That is what is looked for; and if applying fails in a way that would stop the member.
    pub(crate) fn execute(&mut self, bytes: &[u8]) -> &'static str {
        let Some((kind, message)) = bytes.split_first() else { return "nothing" };
        match kind % KINDS {
            ENTRY => decoded(message, |entry: pb::InternalRaftRequest| self.apply(entry)),
            1 => decoded(message, |range: pb::RangeRequest| self.range(&range)),
            2 => decoded(message, |put: pb::PutRequest| {
                self.checked(check::put(&put), pb::InternalRaftRequest { put: Some(put), ..Default::default() })
            }),
            3 => decoded(message, |delete: pb::DeleteRangeRequest| {
                let checked = check::delete(&delete);
                self.checked(checked, pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() })
            }),
            4 => decoded(message, |txn: pb::TxnRequest| {
                let checked = check::txn(&txn, TXN_OPS_MAX);
                // What only reads is not proposed, but applying it must be safe all the same: a peer may have proposed it.
                let (_, _) = (check::is_read_only(&txn), check::is_serializable(&txn));
                self.checked(checked, pb::InternalRaftRequest { txn: Some(txn), ..Default::default() })
            }),
            5 => decoded(message, |compaction: pb::CompactionRequest| {
                self.apply(pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() })
            }),
            6 => decoded(message, |grant: pb::LeaseGrantRequest| {
                self.apply(pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() })
            }),
            7 => decoded(message, |revoke: pb::LeaseRevokeRequest| {
                self.apply(pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() })
            }),
            8 => decoded(message, |alarm: pb::AlarmRequest| {
                self.apply(pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() })
            }),
            9 => decoded(message, |request: pb::HashKvRequest| self.hash(request.revision)),
            10 => decoded(message, |request: pb::WatchRequest| self.watch(request)),
            _ => decoded(message, |checkpoint: pb::LeaseCheckpointRequest| {
                self.apply(pb::InternalRaftRequest { lease_checkpoint: Some(checkpoint), ..Default::default() })
            }),
        }
    }

    fn checked(&mut self, checked: Result<(), Error>, request: pb::InternalRaftRequest) -> &'static str {
        match checked {
            Ok(()) => self.apply(request),
            Err(e) => word(&e),
        }
    }

    fn apply(&mut self, request: pb::InternalRaftRequest) -> &'static str {
        let machine = self.machine.get_mut();
        let index = machine.applied().0.next();
        let sets_version = request.cluster_version_set.is_some();
        let outcome = match machine.apply(index, Term(1), Some(request)) {
            Ok(outcome) => outcome,
            // The one entry that a member must not go on after: the cluster has a version that it does not know. Another one begins.
            Err(Error::Start(why)) if sets_version && why.starts_with("invalid downgrade;") => {
                *self = Bench::new();
                return "too new";
            }
            Err(e) => panic!("no answer: {e:?}"),
        };
        if !outcome.events.is_empty() {
            self.hub.publish(outcome.revision, &outcome.events);
        }
        if let Some(floor) = outcome.compacted {
            self.hub.compacted(floor);
        }
        self.listen();
        match outcome.reply {
            Ok(Reply::Put(_)) => "put",
            Ok(Reply::DeleteRange(_)) => "deleted",
            Ok(Reply::Txn(_)) => "txn",
            Ok(_) => "done",
            Err(e) => word(&e),
        }
    }

    fn range(&mut self, range: &pb::RangeRequest) -> &'static str {
        match check::range(range).and_then(|()| apply::range(&self.machine, range)) {
            Ok(response) if response.kvs.is_empty() => "empty range",
            Ok(_) => "range",
            Err(e) => word(&e),
        }
    }

    fn hash(&mut self, revision: i64) -> &'static str {
        match self.machine.get_mut().store().hash(revision) {
            Ok(_) => "hash",
            Err(e) => word(&e),
        }
    }

    fn watch(&mut self, request: pb::WatchRequest) -> &'static str {
        self.stream.request(request);
        if self.listen() { "watch" } else { "no answer" }
    }

    /// Takes what the watchers are told; returns whether it was anything.
    fn listen(&mut self) -> bool {
        let mut any = false;
        while let Some(response) = self.stream.next(&self.machine).now_or_never() {
            response.expect("the stream goes on");
            any = true;
        }
        any
    }

    /// Disarms all alarms.
    pub(crate) fn calm(&mut self) {
        for alarm in self.machine.get_mut().alarms() {
            let request = pb::AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
            self.apply(pb::InternalRaftRequest { alarm: Some(request), ..Default::default() });
        }
    }

    /// Writes everything and opens it anew: nothing may have changed.
    pub(crate) fn reopen(&mut self) {
        let machine = self.machine.get_mut();
        if let Some(batch) = machine.take_batch() {
            self.engine.write(&batch).expect("memory");
            machine.written();
        }
        let before = digest(machine);
        *machine = open(&self.engine);
        assert_eq!(digest(machine), before, "what was written is not what was there");
        while machine.compact_step(1000).expect("memory") {}
        assert_eq!(digest(machine), before, "removing what was compacted changes nothing that can be seen");
    }
}

/// All that can be seen of a state: revision, hash, leases, alarms.
fn digest(machine: &Machine) -> (Revision, u32, i64, Vec<i64>, usize) {
    let hash = machine.store().hash(0).expect("the newest revision can be hashed");
    let leases = machine.leases().iter().map(|(id, _)| id.0).collect();
    (machine.store().revision(), hash.hash, hash.compact_revision, leases, machine.alarms().len())
}

fn decoded<M: Message + Default>(bytes: &[u8], then: impl FnOnce(M) -> &'static str) -> &'static str {
    // As tonic does it: fields are slices of what came in.
    M::decode(Bytes::copy_from_slice(bytes)).map_or("undecodable", then)
}

fn word(e: &Error) -> &'static str {
    assert!(e.is_deterministic(), "this would stop the member: {e}");
    match e {
        Error::EmptyKey => "empty key",
        Error::KeyNotFound => "key not found",
        Error::ValueProvided | Error::LeaseProvided => "provided",
        Error::TooManyOps => "too many ops",
        Error::DuplicateKey => "duplicate key",
        Error::InvalidSortOption => "sort option",
        Error::Compacted => "compacted",
        Error::FutureRevision => "future",
        Error::NoSpace => "no space",
        Error::LeaseNotFound => "no lease",
        Error::LeaseExists => "lease exists",
        Error::LeaseTtlTooLarge => "ttl",
        Error::Corrupt => "corrupt",
        _ => "refused otherwise",
    }
}
