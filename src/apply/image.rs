//! The state at one moment, for a snapshot: small tables copied, history to be read at leisure.

use super::APPLIED;
use super::CONF_STATE;
use super::Machine;
use super::TERM;
use super::write_conf_state;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::mvcc::Export;
use crate::proto::raftpb::ConfState;
use crate::types::CLUSTER_VERSION as OUR_VERSION;
use crate::types::Index;
use crate::types::Revision;
use crate::types::Term;

/// Row of etcd's bucket `meta`, from 3.6 on: the release whose form the data has.
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// The state of a [`Machine`] when it was frozen.
pub struct Frozen {
    pub applied: (Index, Term),
    pub revision: Revision,
    pub conf_state: ConfState,
    /// The release whose form this is; empty while the cluster has not agreed on a version, as in etcd.
    pub storage_version: &'static str,
    /// All rows of all tables but [`Table::Key`], as etcd's buckets hold them.
    pub rows: Batch,
    /// The rows of [`Table::Key`], still to be read.
    pub history: Export,
}

impl Machine {
    /// Takes the state as it is now. Copies leases, members and the like, not the keys; holds compaction's work back while it lives.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let mut rows = position(self.applied.0, self.applied.1, &self.conf_state);
        self.store.save_compaction(&mut rows);
        self.leases.save(&mut rows);
        self.members.save(&mut rows);
        self.alarms.save(&mut rows);
        self.auth.save(&mut rows);
        self.versions.save(&mut rows);
        let storage_version = if self.cluster_version() == Some(OUR_VERSION) { OUR_VERSION } else { "" };
        if !storage_version.is_empty() {
            rows.put(Table::Meta, STORAGE_VERSION, storage_version);
        }
        Frozen {
            applied: self.applied,
            revision: self.store.revision(),
            conf_state: self.conf_state.clone(),
            storage_version,
            rows,
            history: self.store.export(),
        }
    }
}

/// Forgets who the members of a stored state are, what version they agreed on, and who votes: the data becomes nobody's. Source: etcd
/// `api/membership/store.go` (`TrimClusterFromBackend`).
///
/// # Errors
/// Those of the engine.
pub fn forget_members(engine: &dyn Engine) -> Result<(), Error> {
    let mut changes = Batch::default();
    for table in [Table::Members, Table::MembersRemoved, Table::Cluster] {
        for (key, _) in engine.scan(table, &[], usize::MAX)? {
            changes.delete(table, key);
        }
    }
    changes.put(Table::Meta, CONF_STATE, write_conf_state(&ConfState::default()));
    engine.write(&changes)
}

/// The rows that say up to which entry a state goes, and who voted then.
#[must_use]
pub fn position(index: Index, term: Term, conf_state: &ConfState) -> Batch {
    let mut rows = Batch::default();
    rows.put(Table::Meta, APPLIED, index.0.to_be_bytes().to_vec());
    rows.put(Table::Meta, TERM, term.0.to_be_bytes().to_vec());
    rows.put(Table::Meta, CONF_STATE, write_conf_state(conf_state));
    rows
}
