//! The messages on the wire, in the log and on disk, generated from `proto/` and checked in.
//!
//! `tests/generated.rs` regenerates them and compares. Numbers and names are etcd's; [`lab`] is ours. raft's own messages come from the local crate
//! `proto/raft-proto`, so that raft-rs and the peer protocol use one set of structs.

mod codec;
mod redacted;

/// How messages become bytes and back.
pub use codec::Codec;
pub use codec::Decoder;

/// The services for clients and all their messages, as a `FileDescriptorSet`: what the JSON gateway and gRPC reflection read.
pub const DESCRIPTORS: &[u8] = include_bytes!("proto/generated/descriptors.bin");

/// The client API, and what a raft entry carries.
pub use generated::etcdserverpb;

/// Keys, values and events.
pub use generated::mvccpb;

/// Users, roles and permissions.
pub use generated::authpb;

/// Members inside raft entries.
pub use generated::membershippb;

/// Leases on disk and between members.
pub use generated::leasepb;

/// The election service.
pub use generated::v3electionpb;

/// The lock service.
pub use generated::v3lockpb;

/// The write-ahead log's records, and etcd's own conf change.
pub use generated::walpb;

/// What a member tells the lab.
pub use generated::lab;

/// gRPC's own questions for services and messages.
pub use generated::reflection;

/// OpenTelemetry's trace service.
pub use generated::otlp;

/// raft's messages and log entries. Their first twelve fields are etcd's `raftpb`, byte for byte.
pub use raft_proto::eraftpb as raftpb;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated"
)]
#[rustfmt::skip]
mod generated {
    pub mod authpb {
        include!("proto/generated/authpb.rs");
    }
    pub mod etcdserverpb {
        include!("proto/generated/etcdserverpb.rs");
    }
    pub mod leasepb {
        include!("proto/generated/leasepb.rs");
    }
    pub mod membershippb {
        include!("proto/generated/membershippb.rs");
    }
    pub mod mvccpb {
        include!("proto/generated/mvccpb.rs");
    }
    pub mod v3electionpb {
        include!("proto/generated/v3electionpb.rs");
    }
    pub mod v3lockpb {
        include!("proto/generated/v3lockpb.rs");
    }
    pub mod walpb {
        include!("proto/generated/walpb.rs");
    }
    pub mod reflection {
        include!("proto/generated/grpc.reflection.v1.rs");
    }
    pub mod otlp {
        include!("proto/generated/opentelemetry.proto.collector.trace.v1.rs");
    }
    pub mod lab {
        include!("proto/generated/lab.v1.rs");
    }
}
