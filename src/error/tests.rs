//! The table of texts and codes, beside the one in the code: a change of either must be a change of both.

use super::*;
use std::collections::BTreeSet;

/// What etcd 3.6 sends, as its `api/v3rpc/rpctypes/error.go` lists it. Two differ from that list because etcd maps them to the wrong
/// variable: "too many requests" and "not enough started members" arrive as UNKNOWN.
const ETCD: &[(Error, Code, &str)] = &[
    (Error::AuthFailed, Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
    (Error::DuplicateKey, Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
    (Error::MemberBadUrls, Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
    (Error::InvalidAuthManagement, Code::InvalidArgument, "etcdserver: invalid auth management"),
    (Error::InvalidClientApiVersion, Code::InvalidArgument, "etcdserver: invalid client api version"),
    (Error::InvalidDowngradeTargetVersion, Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
    (Error::InvalidSortOption, Code::InvalidArgument, "etcdserver: invalid sort option"),
    (Error::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
    (Error::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
    (Error::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
    (Error::PermissionNotGiven, Code::InvalidArgument, "etcdserver: permission not given"),
    (Error::RequestTooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
    (Error::AuthOldRevision, Code::InvalidArgument, "etcdserver: revision of auth store is old"),
    (Error::RoleEmpty, Code::InvalidArgument, "etcdserver: role name is empty"),
    (Error::TooManyOps, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
    (Error::UserEmpty, Code::InvalidArgument, "etcdserver: user name is empty"),
    (Error::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
    (Error::WrongDowngradeVersionFormat, Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
    (Error::Compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
    (Error::FutureRevision, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
    (Error::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
    (Error::MemberNotFound, Code::NotFound, "etcdserver: member not found"),
    (Error::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
    (Error::PeerUrlExists, Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
    (Error::AuthNotEnabled, Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
    (Error::BadLeaderTransferee, Code::FailedPrecondition, "etcdserver: bad leader transferee"),
    (Error::MemberNotLearner, Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
    (
        Error::LearnerNotReady,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ),
    (Error::ClusterIdMismatch, Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
    (Error::DowngradeInProcess, Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress"),
    (
        Error::ClusterVersionUnavailable,
        Code::FailedPrecondition,
        "etcdserver: cluster version not found during downgrade",
    ),
    (Error::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
    (Error::MemberExists, Code::FailedPrecondition, "etcdserver: member ID already exist"),
    (Error::NoInflightDowngrade, Code::FailedPrecondition, "etcdserver: no inflight downgrade job"),
    (Error::NotCapable, Code::FailedPrecondition, "etcdserver: not capable"),
    (Error::NotLeader, Code::FailedPrecondition, "etcdserver: not leader"),
    (Error::PermissionNotGranted, Code::FailedPrecondition, "etcdserver: permission is not granted to the role"),
    (
        Error::MemberNotEnoughStarted,
        Code::Unknown,
        "etcdserver: re-configuration failed due to not enough started members",
    ),
    (Error::RoleNotGranted, Code::FailedPrecondition, "etcdserver: role is not granted to the user"),
    (Error::RoleExists, Code::FailedPrecondition, "etcdserver: role name already exists"),
    (Error::RoleNotFound, Code::FailedPrecondition, "etcdserver: role name not found"),
    (Error::RootUserNotExist, Code::FailedPrecondition, "etcdserver: root user does not exist"),
    (Error::RootRoleNotExist, Code::FailedPrecondition, "etcdserver: root user does not have root role"),
    (Error::NotSupportedForLearner, Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
    (Error::TooManyLearners, Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
    (Error::UserExists, Code::FailedPrecondition, "etcdserver: user name already exists"),
    (Error::UserNotFound, Code::FailedPrecondition, "etcdserver: user name not found"),
    (Error::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
    (Error::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
    (Error::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
    (Error::NoLeader, Code::Unavailable, "etcdserver: no leader"),
    (Error::Timeout, Code::Unavailable, "etcdserver: request timed out"),
    (Error::TimeoutConnectionLost, Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
    (
        Error::TimeoutLeaderFailure,
        Code::Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure",
    ),
    (
        Error::TimeoutWaitApplied,
        Code::Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long",
    ),
    (Error::Stopped, Code::Unavailable, "etcdserver: server stopped"),
    (Error::UnhealthyCluster, Code::Unavailable, "etcdserver: unhealthy cluster"),
    (Error::PermissionDenied, Code::PermissionDenied, "etcdserver: permission denied"),
    (Error::InvalidAuthToken, Code::Unauthenticated, "etcdserver: invalid auth token"),
    (Error::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
    (Error::Canceled, Code::Cancelled, "etcdserver: request canceled"),
    (Error::WatchCanceled, Code::Cancelled, "etcdserver: watch canceled"),
    (Error::NobodyLed, Code::DeadlineExceeded, "context deadline exceeded"),
    (Error::DeadlineExceeded, Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
];

/// What etcd sends without having it in that list: all of it as UNKNOWN.
const UNLISTED: &[(Error, &str)] = &[
    (Error::NotPrimary, "not a primary lessor"),
    (Error::LeaderTransferTimeout, "etcdserver: request timed out, leader transfer took too long"),
    (Error::UnknownMethod, "etcdserver: unknown method"),
    (Error::NoPasswordUser, "auth: authentication failed, password was given for no password user"),
    (Error::PasswordTooLong, "bcrypt: password length exceeds 72 bytes"),
    (Error::VerifyOnly, "auth: token signing attempted with verify-only key"),
];

/// Texts of our own: calls and situations that etcd does not have.
const OURS: &[&str] = &[
    "etcdserver: {0} is not part of this release",
    "RangeStream does not support {0}",
    "{0}",
    "the member has been permanently removed from the cluster",
    "storage: {0}",
    "corrupt: {0}",
];

#[test]
fn every_error_of_etcd_has_its_text_and_code() {
    for (error, code, text) in ETCD {
        let status = Status::from(error.clone());
        assert_eq!((status.code(), status.message()), (*code, *text), "{error:?}");
    }
    for (error, text) in UNLISTED {
        let status = Status::from(error.clone());
        assert_eq!((status.code(), status.message()), (Code::Unknown, *text), "{error:?}");
    }
    let texts: BTreeSet<&str> = ETCD.iter().map(|(.., text)| *text).collect();
    assert_eq!(texts.len(), ETCD.len(), "no text twice");
}

/// The texts behind `#[error("…")]` in the source of the enum.
fn declared() -> BTreeSet<&'static str> {
    let attributes = include_str!("../error.rs").split("#[error(\"").skip(1);
    attributes.map(|rest| rest.split("\")]").next().unwrap_or_default()).collect()
}

#[test]
fn no_text_is_declared_that_the_lists_do_not_know() {
    let listed = ETCD.iter().map(|(.., text)| *text).chain(UNLISTED.iter().map(|(_, text)| *text));
    let listed: BTreeSet<&str> = listed.chain(OURS.iter().copied()).collect();
    let declared = declared();
    assert!(declared.len() > 60, "the source was read: {}", declared.len());
    let unknown: Vec<_> = declared.difference(&listed).collect();
    assert!(unknown.is_empty(), "not in any list: {unknown:?}");
    let gone: Vec<_> = listed.difference(&declared).collect();
    assert!(gone.is_empty(), "listed and not declared: {gone:?}");
}

#[test]
fn the_systems_reasons_read_as_in_etcd() {
    let not_found = std::io::Error::from_raw_os_error(2);
    assert_eq!(io_text(&not_found), "no such file or directory");
}

#[test]
fn a_failing_disk_is_no_answer() {
    assert!(ETCD.iter().all(|(error, ..)| error.is_deterministic()));
    for error in [Error::from(std::io::Error::other("gone")), Error::Damaged("x".into()), Error::Removed] {
        assert!(!error.is_deterministic(), "{error:?}");
    }
}
