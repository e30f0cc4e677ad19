//! raft's messages for raft-rs, generated with this project's prost.
//!
//! The published `raft-proto` wants a protoc at build time and a second prost. raft-rs uses little of it: the
//! generated structs, some accessors in rust-protobuf's style, and `protobuf::Message` for the size of an entry and
//! the bytes of a conf change. That is what stands here. The bytes of an entry are [`bytes::Bytes`], so that an entry in the
//! log, in two messages and on its way to the state machine is one buffer.

use std::borrow::Cow;

#[allow(missing_docs)]
#[rustfmt::skip]
pub mod eraftpb;

mod compat;

use eraftpb::ConfChange;
use eraftpb::ConfChangeSingle;
use eraftpb::ConfChangeTransition;
use eraftpb::ConfChangeType;
use eraftpb::ConfChangeV2;
use eraftpb::ConfState;

/// The names that raft-rs imports together.
pub mod prelude {
    pub use crate::eraftpb::ConfChange;
    pub use crate::eraftpb::ConfChangeSingle;
    pub use crate::eraftpb::ConfChangeTransition;
    pub use crate::eraftpb::ConfChangeType;
    pub use crate::eraftpb::ConfChangeV2;
    pub use crate::eraftpb::ConfState;
    pub use crate::eraftpb::Entry;
    pub use crate::eraftpb::EntryType;
    pub use crate::eraftpb::HardState;
    pub use crate::eraftpb::Message;
    pub use crate::eraftpb::MessageType;
    pub use crate::eraftpb::Snapshot;
    pub use crate::eraftpb::SnapshotMetadata;
}

/// Conversions that raft-rs re-exports.
pub mod util {
    use crate::eraftpb::ConfState;

    impl<V: IntoIterator<Item = u64>, L: IntoIterator<Item = u64>> From<(V, L)> for ConfState {
        fn from((voters, learners): (V, L)) -> Self {
            ConfState {
                voters: voters.into_iter().collect(),
                learners: learners.into_iter().collect(),
                ..ConfState::default()
            }
        }
    }
}

/// A conf change in either of raft's two forms.
pub trait ConfChangeI {
    /// The change in the newer form.
    fn into_v2(self) -> ConfChangeV2;
    /// The change in the newer form, borrowed where it is one already.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;
    /// The change in the older form, if it is one.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        let change = new_conf_change_single(self.node_id, self.change_type());
        ConfChangeV2 { changes: vec![change], context: self.context, ..ConfChangeV2::default() }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// Whether this change enters a joint configuration, and if so whether it leaves it by itself.
    #[must_use]
    pub fn enter_joint(&self) -> Option<bool> {
        match self.transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether this change leaves a joint configuration: it names no change at all.
    #[must_use]
    pub fn leave_joint(&self) -> bool {
        self.transition() == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

/// One member's part of a conf change.
#[must_use]
pub fn new_conf_change_single(node_id: u64, change_type: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { node_id, change_type: change_type as i32 }
}

/// Reads a list of changes such as `v1 l2 r3`: a voter, a learner, a removal.
///
/// # Errors
/// A sentence that names the word that could not be read.
pub fn parse_conf_change(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_ascii_whitespace()
        .map(|word| {
            let (kind, id) = word.split_at(word.len().min(1));
            let change_type = match kind {
                "v" => ConfChangeType::AddNode,
                "l" => ConfChangeType::AddLearnerNode,
                "r" => ConfChangeType::RemoveNode,
                _ => return Err(format!("unknown change {word}")),
            };
            let id = id.parse().map_err(|e| format!("no member id in {word}: {e}"))?;
            Ok(new_conf_change_single(id, change_type))
        })
        .collect()
}

/// Writes what [`parse_conf_change`] reads.
#[must_use]
pub fn stringify_conf_change(changes: &[ConfChangeSingle]) -> String {
    let words = changes.iter().map(|change| {
        let kind = match change.change_type() {
            ConfChangeType::AddNode => 'v',
            ConfChangeType::AddLearnerNode => 'l',
            ConfChangeType::RemoveNode => 'r',
        };
        format!("{kind}{}", change.node_id)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether both describe one configuration, in whatever order they list its members.
#[must_use]
pub fn conf_state_eq(a: &ConfState, b: &ConfState) -> bool {
    fn same(a: &[u64], b: &[u64]) -> bool {
        a.iter().all(|id| b.contains(id)) && b.iter().all(|id| a.contains(id))
    }
    same(&a.voters, &b.voters)
        && same(&a.learners, &b.learners)
        && same(&a.voters_outgoing, &b.voters_outgoing)
        && same(&a.learners_next, &b.learners_next)
        && a.auto_leave == b.auto_leave
}
