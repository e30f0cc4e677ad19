//! A request's failure, in etcd's words.
//!
//! Clients match on these texts and codes, so both are etcd's, word for word (source: etcd `api/v3rpc/rpctypes/error.go`).
//! Two codes look wrong and are not: etcd sends "too many requests" and "not enough started members" as UNKNOWN, and client
//! libraries have learnt to live with it.

use tonic::Code;
use tonic::Status;

/// Why a request failed, or why this member must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A request names no key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or a transaction's operation that is empty.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More operations than `--max-txn-ops`.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// One transaction writes one key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// `client-api-version` in the metadata is no text.
    #[error("etcdserver: invalid client api version")]
    InvalidClientApiVersion,
    /// The revision asked for is older than the last compaction.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision asked for has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The store is larger than `--quota-backend-bytes` allows.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// No such lease: it expired or never was.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease with this id is there already.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A time-to-live above nine billion seconds.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// Only the leader may renew, and this member has stopped being one.
    #[error("not a primary lessor")]
    NotPrimary,
    /// No such member.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// A member with this id is there already.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// Another member has this peer URL.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// A peer URL that cannot be one.
    #[error("etcdserver: given member URLs are invalid")]
    MemberBadUrls,
    /// The change would leave fewer started voters than a quorum.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    MemberNotEnoughStarted,
    /// Promotion of a member that votes already.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// Promotion of a learner that has not caught up.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// More learners than `--max-learners`.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// The change needs more connected members than there are.
    #[error("etcdserver: unhealthy cluster")]
    UnhealthyCluster,
    /// A peer of another cluster.
    #[error("etcdserver: cluster ID mismatch")]
    ClusterIdMismatch,
    /// A learner serves only status and serializable reads.
    #[error("etcdserver: rpc not supported for learner")]
    NotSupportedForLearner,
    /// This call is for the leader.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// Leadership cannot go to that member.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// The new leader did not show up in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    LeaderTransferTimeout,
    /// There is no leader to ask.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Nobody led all the time that the proposal could wait. In etcd the context of its raft call ends then.
    #[error("context deadline exceeded")]
    NobodyLed,
    /// The leader changed while the request waited.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The request waited too long.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The request waited too long, and the leader was lost meanwhile.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// The request waited too long, and this member has no contact with the leader.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// The read waited too long for this member to catch up.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutWaitApplied,
    /// The client gave up.
    #[error("etcdserver: request canceled")]
    Canceled,
    /// The client's own deadline passed.
    #[error("etcdserver: context deadline exceeded")]
    DeadlineExceeded,
    /// The client gave up a watch stream.
    #[error("etcdserver: watch canceled")]
    WatchCanceled,
    /// This member is shutting down.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// More committed entries wait to be applied than may.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The request is larger than `--max-request-bytes`.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The cluster's version is not known yet.
    #[error("etcdserver: not capable")]
    NotCapable,
    /// Members disagree about the data.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// The user may not do this.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// A token that is unknown or has expired.
    #[error("etcdserver: invalid auth token")]
    InvalidAuthToken,
    /// Authentication is on and the request names nobody.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// A role needs a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// A user of this name is there already.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// No such user.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of this name is there already.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No such role.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// The user does not have the role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// A grant without a permission.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// Authentication cannot be turned on without the user root.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// Authentication cannot be turned on while root lacks its role.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// Wrong name or password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A password for a user who has none, or a hash that is none. etcd has no code of its own for it.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// bcrypt looks at no more than 72 bytes. The text is that of Go's bcrypt.
    #[error("bcrypt: password length exceeds 72 bytes")]
    PasswordTooLong,
    /// This member can check tokens but not make them: it has no private key.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// Authentication is off.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// Something that must not be removed while authentication is on, or a permission on no key.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    /// Users or roles changed since the request was checked: ask again.
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,
    /// A version that is no version.
    #[error("etcdserver: wrong downgrade target version format")]
    WrongDowngradeVersionFormat,
    /// A version that is not one minor below.
    #[error("etcdserver: invalid downgrade target version")]
    InvalidDowngradeTargetVersion,
    /// A downgrade needs a cluster that has agreed on a version.
    #[error("etcdserver: cluster version not found during downgrade")]
    ClusterVersionUnavailable,
    /// One downgrade at a time.
    #[error("etcdserver: cluster has a downgrade job in progress")]
    DowngradeInProcess,
    /// No downgrade to cancel.
    #[error("etcdserver: no inflight downgrade job")]
    NoInflightDowngrade,
    /// A downgrade action that does not exist.
    #[error("etcdserver: unknown method")]
    UnknownMethod,
    /// `RangeStream` with an order or a filter that needs the whole range first; the text says which.
    #[error("RangeStream does not support {0}")]
    StreamUnsupported(&'static str),
    /// A call that this build does not have yet.
    #[error("etcdserver: {0} is not part of this release")]
    Unimplemented(&'static str),
    /// This member cannot start, and what to do about it. Never an answer.
    #[error("{0}")]
    Start(String),
    /// This member is no member any more. Never an answer: it stops.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// This member's disk failed or lied. Never an answer: the member stops.
    #[error("storage: {0}")]
    Storage(String),
    /// Bytes on disk that cannot be what was written. Never an answer: the member stops.
    #[error("corrupt: {0}")]
    Damaged(String),
}

impl Error {
    /// Whether every replica that applies the same entry fails in this same way. If so it is an answer; if not,
    /// applying must stop before replicas diverge.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        !matches!(self, Error::Start(_) | Error::Removed | Error::Storage(_) | Error::Damaged(_))
    }

    /// The gRPC code that etcd sends with this text.
    #[must_use]
    pub fn code(&self) -> Code {
        use Error::*;
        match self {
            EmptyKey
            | KeyNotFound
            | ValueProvided
            | LeaseProvided
            | TooManyOps
            | DuplicateKey
            | InvalidSortOption
            | InvalidClientApiVersion
            | MemberBadUrls
            | RequestTooLarge
            | UserEmpty
            | RoleEmpty
            | PermissionNotGiven
            | AuthFailed
            | InvalidAuthManagement
            | AuthOldRevision
            | WrongDowngradeVersionFormat
            | InvalidDowngradeTargetVersion => Code::InvalidArgument,
            Compacted | FutureRevision | LeaseTtlTooLarge => Code::OutOfRange,
            NoSpace => Code::ResourceExhausted,
            LeaseNotFound | MemberNotFound => Code::NotFound,
            LeaseExists
            | MemberExists
            | PeerUrlExists
            | MemberNotLearner
            | LearnerNotReady
            | TooManyLearners
            | ClusterIdMismatch
            | NotSupportedForLearner
            | NotLeader
            | BadLeaderTransferee
            | NotCapable
            | UserExists
            | UserNotFound
            | RoleExists
            | RoleNotFound
            | RoleNotGranted
            | PermissionNotGranted
            | RootUserNotExist
            | RootRoleNotExist
            | AuthNotEnabled
            | ClusterVersionUnavailable
            | DowngradeInProcess
            | NoInflightDowngrade => Code::FailedPrecondition,
            UnhealthyCluster
            | NoLeader
            | LeaderChanged
            | Timeout
            | TimeoutLeaderFailure
            | TimeoutConnectionLost
            | TimeoutWaitApplied
            | Stopped => Code::Unavailable,
            PermissionDenied => Code::PermissionDenied,
            InvalidAuthToken => Code::Unauthenticated,
            Corrupt => Code::DataLoss,
            Canceled | WatchCanceled => Code::Cancelled,
            DeadlineExceeded | NobodyLed => Code::DeadlineExceeded,
            unlisted => unlisted.unlisted_code(),
        }
    }

    /// The code of what etcd has no code for: it sends that as UNKNOWN.
    fn unlisted_code(&self) -> Code {
        match self {
            Error::Unimplemented(_) | Error::StreamUnsupported(_) => Code::Unimplemented,
            Error::Start(_) | Error::Removed | Error::Storage(_) | Error::Damaged(_) => Code::Internal,
            _ => Code::Unknown,
        }
    }
}

impl From<Error> for Status {
    fn from(e: Error) -> Status {
        Status::new(e.code(), e.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Storage(io_text(&e))
    }
}

/// The operating system's reason as etcd prints it: "not a directory", without number and capital.
#[must_use]
pub fn io_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
