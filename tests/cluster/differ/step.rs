//! One operation that both servers are given, free of everything that differs between them: ids of members, tokens, streams are names here.

use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::v3electionpb as election;

/// A kind of operation that can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Kv,
    Txn,
    Lease,
    Watch,
    Compaction,
    Maintenance,
    Alarm,
    Auth,
    Lock,
    Election,
}

impl Family {
    pub(super) const ALL: [Family; 10] = [
        Family::Kv,
        Family::Txn,
        Family::Lease,
        Family::Watch,
        Family::Compaction,
        Family::Maintenance,
        Family::Alarm,
        Family::Auth,
        Family::Lock,
        Family::Election,
    ];

    pub(super) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Who {
    /// Without a token.
    #[default]
    Nobody,
    /// With the token that the last `Authenticate` into this slot got, if it got one.
    Token(u8),
    /// With a token that no server ever gave out.
    Forged,
}

/// A member, named so that it means the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// The server that is asked.
    Own,
    Id(u64),
}

/// What is done with watch streams, which have numbers.
#[derive(Clone, Debug)]
pub(super) enum Watching {
    /// Opens a stream, in place of the one before.
    Open(u8),
    /// Waits for the answer, which always comes. `past`: it starts in the past, so its watcher is behind for a while.
    Create { stream: u8, past: bool, request: pb::WatchCreateRequest },
    /// `known`: there is such a watch, so there will be an answer to wait for.
    Cancel { stream: u8, id: i64, known: bool },
    /// `expected`: an answer should come.
    Progress { stream: u8, expected: bool },
    /// Closes the client's side. The other stays open, and its watches are compared on, until another stream is opened in its place.
    HalfClose(u8),
    /// Goes away, if the stream is there.
    Drop(u8),
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    /// `at` says how the revision stands to the compaction and to the newest.
    HashKv {
        revision: i64,
        #[expect(dead_code, reason = "read by the table of differences, as text")]
        at: &'static str,
    },

    LeaseGrant(pb::LeaseGrantRequest),
    /// A lease of the server's choice or one that is short, which goes again at once. `id` 0 for the server's choice.
    LeaseBrief {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke(i64),
    /// Several renewals on one stream.
    LeaseKeepAlive(Vec<i64>),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    /// A lease of the shortest time with these keys, until they are gone.
    LeaseExpiry {
        id: i64,
        keys: Vec<String>,
    },

    Watch(Watching),

    Status,
    Hash,
    Defragment,
    Snapshot,
    MemberList {
        linearizable: bool,
    },
    MoveLeader(u64),
    Downgrade(pb::DowngradeRequest),
    Alarm {
        action: i32,
        member: Member,
        alarm: i32,
    },

    AuthEnable,
    AuthDisable,
    AuthStatus,
    /// Keeps the token in a slot.
    Authenticate {
        name: &'static str,
        password: &'static str,
        slot: u8,
    },
    UserAdd(pb::AuthUserAddRequest),
    UserGet(&'static str),
    UserList,
    UserDelete(&'static str),
    UserChangePassword {
        name: &'static str,
        password: &'static str,
    },
    UserGrantRole {
        user: &'static str,
        role: &'static str,
    },
    UserRevokeRole {
        user: &'static str,
        role: &'static str,
    },
    RoleAdd(&'static str),
    RoleGet(&'static str),
    RoleList,
    RoleDelete(&'static str),
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),

    /// Several leases queue up for one lock, and each in turn gives it up, in one way or the other.
    LockQueue {
        name: &'static str,
        leases: Vec<i64>,
        revoke: bool,
    },
    Lock {
        name: &'static str,
        lease: i64,
    },
    Unlock(String),
    /// Only where it cannot block: the candidate is alone, or the leader itself.
    Campaign {
        name: &'static str,
        lease: i64,
        value: &'static str,
    },
    Leader(&'static str),
    Proclaim(election::ProclaimRequest),
    Resign(election::ResignRequest),
    /// The first that an observer is told.
    Observe(&'static str),
}

/// An operation and who asks for it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) who: Who,
    pub(super) op: Op,
}

impl Step {
    pub(super) fn new(op: Op) -> Step {
        Step { who: Who::Nobody, op }
    }

    /// The call, as rows of differences name it.
    pub(super) fn rpc(&self) -> String {
        let text = match &self.op {
            Op::Watch(watching) => format!("Watch{watching:?}"),
            op => format!("{op:?}"),
        };
        text.chars().take_while(char::is_ascii_alphanumeric).collect()
    }
}
