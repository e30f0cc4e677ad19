//! Entries in somebody's name: what the state machine lets pass, and that what it refuses changes nothing.

use super::Member;
use super::bytes;
use super::op;
use crate::apply::Outcome;
use crate::apply::Reply;
use crate::auth::Access;
use crate::auth::Change;
use crate::auth::Who;
use crate::error::Error;
use crate::proto::authpb;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use crate::types::KeyRange;
use crate::types::LeaseId;
use proptest::prelude::*;

/// The secret in every user's hash here; nothing looks at it.
const HASH: &str = "JDJhJDA0JHg=";

impl Member {
    fn apply_as(&mut self, user: &str, mut request: pb::InternalRaftRequest) -> Outcome {
        let auth_revision = self.machine.auth().revision();
        request.header = Some(pb::RequestHeader { username: user.into(), auth_revision, ..Default::default() });
        self.apply(request)
    }

    /// Adds a user with a role of the same name, which has these permissions.
    fn user(&mut self, name: &str, permissions: &[(Type, &str, &str)]) {
        let user = name.to_owned();
        let add = pb::AuthUserAddRequest { name: user.clone(), hashed_password: HASH.into(), ..Default::default() };
        self.done(pb::InternalRaftRequest { auth_user_add: Some(add), ..Default::default() });
        let add = Some(pb::AuthRoleAddRequest { name: user.clone() });
        self.done(pb::InternalRaftRequest { auth_role_add: add, ..Default::default() });
        for (kind, key, range_end) in permissions {
            let (perm_type, key, range_end) = (*kind as i32, bytes(key), bytes(range_end));
            let perm = Some(authpb::Permission { perm_type, key, range_end });
            let grant = Some(pb::AuthRoleGrantPermissionRequest { name: user.clone(), perm });
            self.done(pb::InternalRaftRequest { auth_role_grant_permission: grant, ..Default::default() });
        }
        let grant = Some(pb::AuthUserGrantRoleRequest { user: user.clone(), role: user });
        self.done(pb::InternalRaftRequest { auth_user_grant_role: grant, ..Default::default() });
    }

    fn done(&mut self, request: pb::InternalRaftRequest) {
        let reply = self.apply_as("root", request).reply;
        assert!(matches!(reply, Ok(Reply::Auth(_))), "{reply:?}");
    }

    fn enable(&mut self) {
        self.user("root", &[]);
        self.done(pb::InternalRaftRequest { auth_enable: Some(pb::AuthEnableRequest {}), ..Default::default() });
    }

    fn put_as(&mut self, user: &str, put: pb::PutRequest) -> Result<Reply, Error> {
        self.apply_as(user, pb::InternalRaftRequest { put: Some(put), ..Default::default() }).reply
    }

    fn txn_as(&mut self, user: &str, txn: pb::TxnRequest) -> Result<Reply, Error> {
        self.apply_as(user, pb::InternalRaftRequest { txn: Some(txn), ..Default::default() }).reply
    }

    fn revoke_as(&mut self, user: &str, id: i64) -> Result<Reply, Error> {
        let revoke = Some(pb::LeaseRevokeRequest { id });
        self.apply_as(user, pb::InternalRaftRequest { lease_revoke: revoke, ..Default::default() }).reply
    }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes("v"), ..Default::default() }
}

const DENIED: Result<Reply, Error> = Err(Error::PermissionDenied);

#[test]
fn authentication_cannot_be_turned_on_without_root_and_survives_a_restart() {
    let mut member = Member::new();
    let enable = || pb::InternalRaftRequest { auth_enable: Some(pb::AuthEnableRequest {}), ..Default::default() };
    assert_eq!(member.apply(enable()).reply, Err(Error::RootUserNotExist));
    member.enable();
    let revision = member.machine.auth().revision();
    member.restart();
    assert_eq!((member.machine.auth().is_enabled(), member.machine.auth().revision()), (true, revision));
    assert_eq!(member.apply(enable()).reply, Err(Error::UserEmpty), "and from now on root is asked for");
    let outcome = member.apply_as("root", enable());
    assert!(matches!(outcome.reply, Ok(Reply::Auth(_))) && outcome.auth.is_none(), "{outcome:?}");
    let disable = pb::InternalRaftRequest { auth_disable: Some(pb::AuthDisableRequest {}), ..Default::default() };
    assert_eq!(member.apply_as("root", disable).auth, Some(Change::Disabled));
    assert_eq!(member.machine.auth().revision(), revision + 1);
}

#[test]
fn an_entry_is_judged_by_the_user_and_the_auth_revision_in_its_header() {
    let mut member = Member::new();
    member.user("alice", &[(Type::Readwrite, "a", "b")]);
    member.enable();
    let revision = member.revision();
    assert_eq!(member.put("a", "1"), Err(Error::UserEmpty), "an entry without a user");
    assert_eq!(member.put_as("mallory", put("a")), DENIED);
    assert_eq!(member.put_as("alice", put("b")), DENIED);
    let late = pb::RequestHeader {
        username: "alice".into(),
        auth_revision: member.machine.auth().revision() - 1,
        ..Default::default()
    };
    let old = pb::InternalRaftRequest { put: Some(put("a")), header: Some(late), ..Default::default() };
    assert_eq!(member.apply(old).reply, Err(Error::AuthOldRevision));
    assert_eq!((member.revision(), member.all()), (revision, String::new()), "nothing has happened");
    assert!(member.put_as("alice", put("a")).is_ok());
    assert!(member.put_as("root", put("b")).is_ok());
}

#[test]
fn what_comes_back_needs_the_right_to_read_it() {
    let mut member = Member::new();
    member.user("writer", &[(Type::Write, "a", "")]);
    member.put("a", "secret").expect("auth is off");
    member.enable();
    assert_eq!(member.put_as("writer", pb::PutRequest { prev_kv: true, ..put("a") }), DENIED);
    let delete = |prev_kv| pb::DeleteRangeRequest { key: bytes("a"), prev_kv, ..Default::default() };
    let entry = |prev_kv| pb::InternalRaftRequest { delete_range: Some(delete(prev_kv)), ..Default::default() };
    assert_eq!(member.apply_as("writer", entry(true)).reply, DENIED);
    let nested = |request: Request| {
        let inner = pb::TxnRequest { failure: vec![op(request)], ..Default::default() };
        pb::TxnRequest { success: vec![op(Request::RequestTxn(inner))], ..Default::default() }
    };
    // The branch that is not taken counts, too: what it would have read would show that it was not taken.
    for request in [
        Request::RequestPut(pb::PutRequest { prev_kv: true, ..put("a") }),
        Request::RequestDeleteRange(delete(true)),
        Request::RequestRange(pb::RangeRequest { key: bytes("a"), ..Default::default() }),
    ] {
        assert_eq!(member.txn_as("writer", nested(request)), DENIED);
    }
    let compare =
        pb::TxnRequest { compare: vec![pb::Compare { key: bytes("a"), ..Default::default() }], ..Default::default() };
    assert_eq!(member.txn_as("writer", compare), DENIED);
    assert!(member.txn_as("writer", nested(Request::RequestPut(put("a")))).is_ok());
    assert!(member.apply_as("writer", entry(false)).reply.is_ok());
}

#[test]
fn a_lease_with_keys_of_others_is_not_ones_own() {
    let mut member = Member::new();
    member.user("alice", &[(Type::Readwrite, "a", "b")]);
    member.user("bob", &[(Type::Readwrite, "b", "c")]);
    for id in [1, 2] {
        member.grant(id);
    }
    member.put_with(pb::PutRequest { lease: 1, ..put("b1") }).expect("auth is off");
    member.enable();
    let leased = |key: &str, lease| pb::PutRequest { lease, ..put(key) };
    assert_eq!(member.put_as("alice", leased("a1", 1)), DENIED, "she could remove b1 by revoking the lease");
    assert_eq!(member.revoke_as("alice", 1), DENIED);
    assert!(member.put_as("alice", leased("a1", 2)).is_ok());
    let txn = pb::TxnRequest { success: vec![op(Request::RequestPut(leased("b2", 2)))], ..Default::default() };
    assert_eq!(member.txn_as("bob", txn), DENIED);
    let alice = Who { user: "alice".into(), revision: member.machine.auth().revision() };
    let may = |member: &Member, id, access| member.machine.permit_lease(&alice, LeaseId(id), access);
    assert_eq!(may(&member, 1, Access::Read), Err(Error::PermissionDenied));
    assert_eq!(may(&member, 2, Access::Read), Ok(()));
    assert_eq!(may(&member, 99, Access::Write), Ok(()), "one that is gone is everybody's");
    assert!(member.revoke_as("bob", 1).is_ok());
    // What the server revokes itself comes in root's name, at whatever auth revision.
    let header = Some(pb::RequestHeader { username: "root".into(), auth_revision: 1, ..Default::default() });
    let expired =
        pb::InternalRaftRequest { lease_revoke: Some(pb::LeaseRevokeRequest { id: 2 }), header, ..Default::default() };
    assert!(member.apply(expired).reply.is_ok());
    assert_eq!(member.all(), "");
}

#[test]
fn users_and_roles_are_changed_by_root_only() {
    let mut member = Member::new();
    member.user("alice", &[(Type::Readwrite, "\0", "\0")]);
    member.enable();
    let before = member.machine.auth().revision();
    let r = pb::InternalRaftRequest::default;
    let entries = [
        pb::InternalRaftRequest { auth_enable: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_disable: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_user_add: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_user_delete: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_user_change_password: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_user_grant_role: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_user_revoke_role: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_role_add: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_role_delete: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_role_grant_permission: Some(Default::default()), ..r() },
        pb::InternalRaftRequest { auth_role_revoke_permission: Some(Default::default()), ..r() },
    ];
    for entry in entries {
        assert_eq!(member.apply_as("alice", entry.clone()).reply, DENIED, "{entry:?}");
        assert_eq!(member.apply_as("mallory", entry.clone()).reply, Err(Error::UserNotFound), "{entry:?}");
        assert_eq!(member.apply(entry.clone()).reply, Err(Error::UserEmpty), "{entry:?}");
    }
    assert_eq!(member.machine.auth().revision(), before);
    assert!(member.machine.auth().is_enabled());
}

#[test]
fn a_login_gives_a_token_that_names_its_entry_and_no_password_is_needed_any_more() {
    let mut member = Member::new();
    let login = |name: &str, prefix: &str| {
        let authenticate =
            pb::InternalAuthenticateRequest { name: name.into(), simple_token: prefix.into(), ..Default::default() };
        pb::InternalRaftRequest { authenticate: Some(authenticate), ..Default::default() }
    };
    assert_eq!(member.apply(login("root", "abc")).reply, Err(Error::AuthNotEnabled));
    member.enable();
    let index = member.machine.applied().0.next();
    let outcome = member.apply(login("root", "abc"));
    let token = format!("abc.{index}");
    assert_eq!(outcome.auth, Some(Change::Token { token: token.clone(), user: "root".into() }));
    let Ok(Reply::Authenticate { token: told, user, auth_revision, .. }) = outcome.reply else { panic!("{outcome:?}") };
    assert_eq!((told, user.as_str(), auth_revision), (token, "root", member.machine.auth().revision()));
    // A member with signed tokens proposes no random part: there is no simple token to be remembered.
    assert_eq!(member.apply(login("root", "")).auth, None);
    assert_eq!(member.apply(login("mallory", "abc")).reply, Err(Error::AuthFailed));
}

#[test]
fn what_members_write_for_themselves_needs_no_user() {
    let mut member = Member::new();
    member.enable();
    assert_eq!(member.alarm(1, 7, 1).len(), 1);
    assert_eq!(member.alarm(2, 7, 1).len(), 1);
    let version = pb::InternalRaftRequest {
        cluster_version_set: Some(crate::proto::membershippb::ClusterVersionSetRequest { ver: "3.6.0".into() }),
        ..Default::default()
    };
    assert_eq!(member.apply(version).reply, Ok(Reply::Done));
    // Questions that members of etcd write into the log.
    let question = pb::InternalRaftRequest { auth_user_list: Some(Default::default()), ..Default::default() };
    assert_eq!(member.apply(question).reply, Ok(Reply::Done));
}

// The model: whoever makes a request notes what it touches, while making it.

type Touched = Vec<(KeyRange, Access)>;

fn any_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn any_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "b", "d", "\0"])
}

fn range_of(key: &str, end: &str) -> KeyRange {
    match end {
        "" => KeyRange::Single(bytes(key)),
        "\0" => KeyRange::From(bytes(key)),
        end => KeyRange::Interval(bytes(key), bytes(end)),
    }
}

fn any_op() -> impl Strategy<Value = (pb::RequestOp, Touched)> {
    let range = (any_key(), any_end()).prop_map(|(key, end)| {
        let request = pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() };
        (op(Request::RequestRange(request)), vec![(range_of(key, end), Access::Read)])
    });
    let put = (any_key(), any::<bool>(), 0..3i64).prop_map(|(key, prev_kv, lease)| {
        let request = pb::PutRequest { key: bytes(key), prev_kv, lease, ..Default::default() };
        let mut touched = vec![(range_of(key, ""), Access::Write)];
        if prev_kv {
            touched.push((range_of(key, ""), Access::Read));
        }
        // Lease 1 has the key c, lease 2 has none.
        if lease == 1 {
            touched.push((range_of("c", ""), Access::Write));
        }
        (op(Request::RequestPut(request)), touched)
    });
    let delete = (any_key(), any_end(), any::<bool>()).prop_map(|(key, end, prev_kv)| {
        let request = pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv };
        let mut touched = vec![(range_of(key, end), Access::Write)];
        if prev_kv {
            touched.push((range_of(key, end), Access::Read));
        }
        (op(Request::RequestDeleteRange(request)), touched)
    });
    let leaf = prop_oneof![range, put, delete];
    leaf.prop_recursive(3, 12, 4, |inner| {
        any_txn(inner).prop_map(|(txn, touched)| (op(Request::RequestTxn(txn)), touched))
    })
}

fn any_txn(
    inner: impl Strategy<Value = (pb::RequestOp, Touched)> + Clone,
) -> impl Strategy<Value = (pb::TxnRequest, Touched)> {
    let ops = || prop::collection::vec(inner.clone(), 0..3);
    let compares = prop::collection::vec((any_key(), any_end()), 0..2);
    (compares, ops(), ops()).prop_map(|(compares, success, failure)| {
        let mut txn = pb::TxnRequest::default();
        let mut touched = Touched::new();
        for (key, range_end) in compares {
            txn.compare.push(pb::Compare { key: bytes(key), range_end: bytes(range_end), ..Default::default() });
            touched.push((range_of(key, range_end), Access::Read));
        }
        for (list, ops) in [(&mut txn.success, success), (&mut txn.failure, failure)] {
            for (op, more) in ops {
                list.push(op);
                touched.extend(more);
            }
        }
        (txn, touched)
    })
}

proptest! {
    #[test]
    fn a_transaction_needs_the_rights_to_all_that_it_might_touch(
        (txn, touched) in any_txn(any_op().boxed()),
        grants in prop::collection::vec((0..3i32, any_key(), any_end()), 0..4),
    ) {
        let mut member = Member::new();
        let kind = |kind: i32| Type::try_from(kind).expect("a kind");
        let usable: Vec<_> = grants
            .into_iter()
            .filter(|(_, key, end)| !range_of(key, end).is_empty())
            .map(|(perm_type, key, end)| (kind(perm_type), key, end))
            .collect();
        member.user("alice", &usable);
        member.grant(1);
        member.grant(2);
        member.put_with(pb::PutRequest { lease: 1, ..put("c") }).expect("auth is off");
        member.enable();
        let alice = Who { user: "alice".into(), revision: member.machine.auth().revision() };
        let expected = touched.iter().all(|(range, access)| member.machine.auth().permit(&alice, range, *access).is_ok());
        prop_assert_eq!(member.machine.permit_txn(&alice, &txn).is_ok(), expected);
        let revision = member.revision();
        let reply = member.txn_as("alice", txn);
        prop_assert_eq!(reply == DENIED, !expected);
        prop_assert!(expected || member.revision() == revision);
    }
}
