//! What a member answers when it will not, and what that means: one row for each of etcd's texts that say their own reason.
//!
//! What only says that it took too long, or that nobody led, is not here: behind that the cluster is asked. Source: etcd `api/v3rpc/rpctypes/error.go`.

use super::Cause;
use crate::error::Error as Etcd;

const WRONG: Cause = Cause::WrongRequest;

/// The texts, the cause behind each, and the cause in a sentence or two. One that another contains stands behind it.
fn table() -> Vec<(String, Cause, &'static str)> {
    let own = [
        ("larger than max", Cause::TooLarge, "the message is larger than this client sends or takes"),
        ("no leader endpoint given", Cause::NotLeader, "only the leader hands over, and none of these endpoints leads"),
    ];
    let mut rows: Vec<_> = own.into_iter().map(|(text, cause, says)| (text.to_owned(), cause, says)).collect();
    let all = [requests(), keys(), leases(), members(), users(), load()].into_iter().flatten();
    rows.extend(all.map(|(error, cause, says)| (error.to_string(), cause, says)));
    rows
}

/// The cause that `said` names, and the sentence for it.
pub(super) fn of(said: &str) -> Option<(Cause, &'static str)> {
    let known = table().into_iter().find(|(text, ..)| said.contains(text.as_str()));
    known.map(|(_, cause, says)| (cause, says))
}

type Row = (Etcd, Cause, &'static str);

fn requests() -> Vec<Row> {
    vec![
        (
            Etcd::EmptyKey,
            WRONG,
            "the key is empty, and a single key never is; a range begins at an empty one only together with its end",
        ),
        (
            Etcd::DuplicateKey,
            WRONG,
            "the transaction writes one key twice, and only one of the writes could be the newest of this revision",
        ),
        (Etcd::ValueProvided, WRONG, "--ignore-value keeps the value that is there, and a value was given"),
        (Etcd::LeaseProvided, WRONG, "--ignore-lease keeps the lease that is there, and a lease was given"),
        (Etcd::InvalidSortOption, WRONG, "there is no such order or nothing to order by"),
        (Etcd::LeaseTtlTooLarge, WRONG, "a lease lives for 9000000000 seconds at most"),
        (Etcd::MemberBadUrls, WRONG, "the peer URLs are not of the form http://HOST:PORT"),
        (Etcd::RoleEmpty, WRONG, "a role needs a name"),
        (Etcd::PermissionNotGiven, WRONG, "the request names no permission"),
        (Etcd::PasswordTooLong, WRONG, "bcrypt, by which passwords are kept, takes 72 bytes and no more"),
        (Etcd::WrongDowngradeVersionFormat, WRONG, "a version is written as MAJOR.MINOR"),
        (Etcd::InvalidDowngradeTargetVersion, WRONG, "a cluster goes back by exactly one minor version"),
        (Etcd::TooManyOps, Cause::TooLarge, "the transaction has more operations than a member takes (--max-txn-ops)"),
        (Etcd::RequestTooLarge, Cause::TooLarge, "the request is larger than a member takes (--max-request-bytes)"),
        (
            Etcd::NotCapable,
            Cause::OtherRelease,
            "the cluster does not know this request: it speaks as its oldest member does",
        ),
        (Etcd::UnknownMethod, Cause::OtherRelease, "the member does not know this request: it is of another release"),
        (Etcd::DowngradeInProcess, Cause::Downgrading, "one downgrade at a time: another one is under way"),
        (Etcd::NoInflightDowngrade, Cause::Downgrading, "there is no downgrade that could be taken back"),
    ]
}

fn keys() -> Vec<Row> {
    vec![
        (
            Etcd::Compacted,
            Cause::Compacted,
            "the history before the last compaction is gone for good, and this revision with it",
        ),
        (
            Etcd::FutureRevision,
            Cause::FutureRevision,
            "there is no such revision yet: it was counted in another cluster, or before a snapshot was restored",
        ),
        (
            Etcd::KeyNotFound,
            Cause::NotThere,
            "--ignore-value and --ignore-lease keep what a key has, and there is no such key",
        ),
        (
            Etcd::NoSpace,
            Cause::NoSpace,
            "the database has reached its quota: reads go on, writes are refused until space is made and the alarm is disarmed",
        ),
        (Etcd::Corrupt, Cause::Corrupt, "a member's data is not that of the others: writes are refused"),
    ]
}

fn leases() -> Vec<Row> {
    vec![
        (
            Etcd::LeaseNotFound,
            Cause::LeaseGone,
            "there is no such lease: its time ran out, it was revoked, or it was never granted here; its keys are gone with it",
        ),
        (Etcd::LeaseExists, Cause::Exists, "a lease with this id was granted before, and lives"),
    ]
}

fn members() -> Vec<Row> {
    vec![
        (
            Etcd::MemberNotFound,
            Cause::NoSuchMember,
            "no member has this id; ids are hexadecimal, as member list shows them",
        ),
        (
            Etcd::MemberExists,
            Cause::Exists,
            "a member with this id is there already, or was removed: ids do not come back",
        ),
        (Etcd::PeerUrlExists, Cause::Exists, "another member has this peer URL"),
        (
            Etcd::MemberNotEnoughStarted,
            Cause::TooFewStarted,
            "after the change, fewer members would have been started than a majority needs: the cluster would stand still",
        ),
        (
            Etcd::UnhealthyCluster,
            Cause::TooFewStarted,
            "members may change only while enough of them have been connected for five seconds: one is down, or has just come up",
        ),
        (
            Etcd::LearnerNotReady,
            Cause::Learning,
            "the learner has less than nine tenths of the leader's log, and as a voter it would hold the others up",
        ),
        (Etcd::MemberNotLearner, Cause::Learning, "the member votes already"),
        (Etcd::TooManyLearners, Cause::Learning, "as many members learn as may at a time (--max-learners)"),
        (
            Etcd::NotSupportedForLearner,
            Cause::Learning,
            "the endpoint is a learner: it answers serializable reads and its status, and nothing else",
        ),
        (Etcd::NotLeader, Cause::NotLeader, "only the leader does this, and this endpoint is another member"),
        (Etcd::BadLeaderTransferee, Cause::NoSuchMember, "the member that is to lead does not vote, or is not there"),
        (Etcd::ClusterIdMismatch, Cause::OtherCluster, "the member belongs to another cluster"),
    ]
}

fn users() -> Vec<Row> {
    vec![
        (Etcd::UserEmpty, Cause::UserWanted, "authentication is on, and the request named no user"),
        (Etcd::AuthFailed, Cause::WrongPassword, "there is no such user, or it has another password"),
        (
            Etcd::NoPasswordUser,
            Cause::WrongPassword,
            "the user has no password: it comes with a certificate of this name",
        ),
        (Etcd::PermissionDenied, Cause::NotPermitted, "the user is known, and may not do this"),
        (
            Etcd::InvalidAuthToken,
            Cause::TokenRefused,
            "the token has run out, or the member that gave it was started anew",
        ),
        (Etcd::AuthOldRevision, Cause::TokenRefused, "users or roles were changed since the token was given"),
        (Etcd::UserExists, Cause::Exists, "there is a user of this name"),
        (Etcd::RoleExists, Cause::Exists, "there is a role of this name"),
        (Etcd::UserNotFound, Cause::NotThere, "there is no user of this name"),
        (Etcd::RoleNotFound, Cause::NotThere, "there is no role of this name"),
        (Etcd::RoleNotGranted, Cause::NotThere, "the user does not have this role"),
        (Etcd::PermissionNotGranted, Cause::NotThere, "the role has no permission for exactly this key or range"),
        (
            Etcd::RootUserNotExist,
            Cause::RootWanted,
            "there is no user root, and somebody must be able to turn it off again",
        ),
        (Etcd::RootRoleNotExist, Cause::RootWanted, "the user root does not have the role root"),
        (Etcd::InvalidAuthManagement, Cause::RootWanted, "root keeps its user and its role while authentication is on"),
        (Etcd::AuthNotEnabled, Cause::AuthOff, "authentication is off, and nobody needs a token"),
    ]
}

fn load() -> Vec<Row> {
    vec![(Etcd::TooManyRequests, Cause::Overloaded, "more requests wait than the member can carry out")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_leads_to_its_own_row() {
        for (text, cause, says) in table() {
            assert_eq!(of(&format!("failed: {text} (again)")), Some((cause, says)), "{text}");
            assert!(!says.ends_with('.') && says.len() < 160, "{says}");
        }
    }

    #[test]
    fn what_only_took_too_long_has_no_reason_of_its_own() {
        for error in [
            Etcd::Timeout,
            Etcd::TimeoutLeaderFailure,
            Etcd::TimeoutConnectionLost,
            Etcd::LeaderTransferTimeout,
            Etcd::NoLeader,
            Etcd::LeaderChanged,
            Etcd::Stopped,
        ] {
            assert_eq!(of(&error.to_string()), None, "{error}");
        }
        assert_eq!(of("context deadline exceeded"), None);
    }
}
