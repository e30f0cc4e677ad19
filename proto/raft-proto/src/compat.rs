//! Accessors in rust-protobuf's style, and its `Message` trait, as far as raft-rs calls them.

use crate::eraftpb::ConfChange;
use crate::eraftpb::ConfChangeSingle;
use crate::eraftpb::ConfChangeType;
use crate::eraftpb::ConfChangeV2;
use crate::eraftpb::ConfState;
use crate::eraftpb::Entry;
use crate::eraftpb::EntryType;
use crate::eraftpb::HardState;
use crate::eraftpb::Message;
use crate::eraftpb::MessageType;
use crate::eraftpb::Snapshot;
use crate::eraftpb::SnapshotMetadata;
use bytes::Bytes;
use protobuf::ProtobufError;
use protobuf::ProtobufResult;
use std::any::Any;
use std::sync::OnceLock;

impl Entry {
    pub fn get_entry_type(&self) -> EntryType {
        self.entry_type()
    }

    pub fn get_data(&self) -> &[u8] {
        &self.data
    }

    pub fn take_data(&mut self) -> Bytes {
        std::mem::take(&mut self.data)
    }

    pub fn take_context(&mut self) -> Bytes {
        std::mem::take(&mut self.context)
    }

    pub fn get_index(&self) -> u64 {
        self.index
    }

    pub fn get_term(&self) -> u64 {
        self.term
    }
}

impl SnapshotMetadata {
    pub fn get_conf_state(&self) -> &ConfState {
        self.conf_state.as_ref().unwrap_or_else(|| empty())
    }

    pub fn mut_conf_state(&mut self) -> &mut ConfState {
        self.conf_state.get_or_insert_default()
    }

    pub fn set_conf_state(&mut self, state: ConfState) {
        self.conf_state = Some(state);
    }

    pub fn take_conf_state(&mut self) -> ConfState {
        self.conf_state.take().unwrap_or_default()
    }

    pub fn get_index(&self) -> u64 {
        self.index
    }

    pub fn get_term(&self) -> u64 {
        self.term
    }
}

impl Snapshot {
    pub fn get_metadata(&self) -> &SnapshotMetadata {
        self.metadata.as_ref().unwrap_or_else(|| empty())
    }

    pub fn mut_metadata(&mut self) -> &mut SnapshotMetadata {
        self.metadata.get_or_insert_default()
    }

    pub fn set_metadata(&mut self, metadata: SnapshotMetadata) {
        self.metadata = Some(metadata);
    }

    pub fn take_metadata(&mut self) -> SnapshotMetadata {
        self.metadata.take().unwrap_or_default()
    }

    /// Whether this is the snapshot of nothing: raft-rs's "no snapshot".
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}

impl Message {
    pub fn get_msg_type(&self) -> MessageType {
        self.msg_type()
    }

    pub fn get_entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn mut_entries(&mut self) -> &mut Vec<Entry> {
        &mut self.entries
    }

    pub fn set_entries(&mut self, entries: Vec<Entry>) {
        self.entries = entries;
    }

    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    pub fn get_snapshot(&self) -> &Snapshot {
        self.snapshot.as_ref().unwrap_or_else(|| empty())
    }

    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    pub fn take_snapshot(&mut self) -> Snapshot {
        self.snapshot.take().unwrap_or_default()
    }

    pub fn get_index(&self) -> u64 {
        self.index
    }

    pub fn set_index(&mut self, index: u64) {
        self.index = index;
    }

    pub fn set_commit(&mut self, commit: u64) {
        self.commit = commit;
    }

    pub fn take_context(&mut self) -> Bytes {
        std::mem::take(&mut self.context)
    }

    pub fn get_priority(&self) -> i64 {
        self.priority
    }

    pub fn set_priority(&mut self, priority: i64) {
        self.priority = priority;
    }
}

impl ConfChangeSingle {
    pub fn get_change_type(&self) -> ConfChangeType {
        self.change_type()
    }
}

impl ConfState {
    pub fn get_voters(&self) -> &[u64] {
        &self.voters
    }

    pub fn get_learners(&self) -> &[u64] {
        &self.learners
    }

    pub fn get_voters_outgoing(&self) -> &[u64] {
        &self.voters_outgoing
    }

    pub fn get_learners_next(&self) -> &[u64] {
        &self.learners_next
    }

    pub fn set_voters(&mut self, ids: Vec<u64>) {
        self.voters = ids;
    }

    pub fn set_learners(&mut self, ids: Vec<u64>) {
        self.learners = ids;
    }

    pub fn set_voters_outgoing(&mut self, ids: Vec<u64>) {
        self.voters_outgoing = ids;
    }

    pub fn set_learners_next(&mut self, ids: Vec<u64>) {
        self.learners_next = ids;
    }
}

/// A message that lives as long as the program and holds nothing.
trait Empty: Sized + 'static {
    fn cell() -> &'static OnceLock<Self>;
}

fn empty<M: Empty + Default>() -> &'static M {
    M::cell().get_or_init(M::default)
}

/// rust-protobuf's trait over prost's. raft-rs asks for sizes and for the bytes of conf changes only; the calls that need
/// rust-protobuf's own streams and descriptors cannot be reached from it.
macro_rules! protobuf_message {
    ($($name:ident),+) => {$(
        impl Empty for $name {
            fn cell() -> &'static OnceLock<Self> {
                static CELL: OnceLock<$name> = OnceLock::new();
                &CELL
            }
        }

        impl protobuf::Clear for $name {
            fn clear(&mut self) {
                *self = Self::default();
            }
        }

        impl protobuf::Message for $name {
            fn compute_size(&self) -> u32 {
                u32::try_from(prost::Message::encoded_len(self)).unwrap_or(u32::MAX)
            }

            fn get_cached_size(&self) -> u32 {
                self.compute_size()
            }

            fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
                prost::Message::merge(self, bytes)
                    .map_err(|e| ProtobufError::IoError(std::io::Error::other(e)))
            }

            fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
                Ok(prost::Message::encode_to_vec(self))
            }

            fn is_initialized(&self) -> bool {
                true
            }

            fn as_any(&self) -> &dyn Any {
                self
            }

            fn new() -> Self {
                Self::default()
            }

            fn default_instance() -> &'static Self {
                empty()
            }

            fn merge_from(&mut self, _: &mut protobuf::CodedInputStream<'_>) -> ProtobufResult<()> {
                unreachable!("raft-rs reads conf changes from bytes only")
            }

            fn write_to_with_cached_sizes(
                &self,
                _: &mut protobuf::CodedOutputStream<'_>,
            ) -> ProtobufResult<()> {
                unreachable!("raft-rs writes conf changes to bytes only")
            }

            fn descriptor(&self) -> &'static protobuf::reflect::MessageDescriptor {
                unreachable!("raft-rs does not reflect")
            }

            fn get_unknown_fields(&self) -> &protobuf::UnknownFields {
                unreachable!("prost keeps no unknown fields")
            }

            fn mut_unknown_fields(&mut self) -> &mut protobuf::UnknownFields {
                unreachable!("prost keeps no unknown fields")
            }
        }
    )+};
}

protobuf_message!(
    ConfChange,
    ConfChangeSingle,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    Snapshot,
    SnapshotMetadata
);
