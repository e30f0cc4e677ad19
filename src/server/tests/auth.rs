//! Who may call what, on a member that runs: every method of the table, by everybody; and what happens to tokens and watchers when rights change.

use super::DEADLINE;
use super::Member;
use super::create;
use crate::error::Error;
use crate::proto::authpb;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as Answer;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::v3electionpb as election;
use crate::server::access::Need;
use crate::server::access::TABLE;
use bytes::Buf as _;
use bytes::BufMut as _;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Request;
use tonic::Status;
use tonic::codec::Codec;
use tonic::codec::DecodeBuf;
use tonic::codec::Decoder;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;
use tonic::transport::Channel;

/// A lease with the key `k`.
const LEASE: i64 = 77;

/// Messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length).to_vec()))
    }
}

fn with<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("ASCII"));
    }
    request
}

/// Sends one message to any method and returns the first thing that comes back.
async fn call(channel: &Channel, path: &'static str, message: Vec<u8>, token: Option<&str>) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(message).await.expect("room for one");
    let request = with(token, ReceiverStream::new(outgoing));
    // A watch may be asked for more as long as its other side is open; all others wait for the end of the request.
    let held = (path == "/etcdserverpb.Watch/Watch").then(|| requests.clone());
    drop(requests);
    let answer = async {
        let mut responses = client.streaming(request, PathAndQuery::from_static(path), Raw).await?.into_inner();
        Ok(responses.message().await?.unwrap_or_default())
    };
    let answer = timeout(DEADLINE, answer).await.unwrap_or_else(|_| panic!("{path} is not answered"));
    drop(held);
    answer
}

/// Whether an answer refuses its caller, and with what: an error, or a watcher that is cancelled.
fn refusal(path: &str, answer: &Result<Vec<u8>, Status>) -> Option<Error> {
    let denials = [Error::UserEmpty, Error::InvalidAuthToken, Error::PermissionDenied];
    let text = match answer {
        Err(status) => status.message().to_owned(),
        Ok(bytes) if path == "/etcdserverpb.Watch/Watch" => {
            pb::WatchResponse::decode(bytes.as_slice()).expect("a watch response").cancel_reason
        }
        Ok(_) => return None,
    };
    denials.into_iter().find(|denial| text.ends_with(&denial.to_string()))
}

/// Users, roles, a key and a lease: `reader` may read `k`, `nothing` has no role.
async fn furnish(member: &Member) {
    let channel = member.channel(&member.clients).await;
    let mut lease = LeaseClient::new(channel.clone());
    lease.lease_grant(pb::LeaseGrantRequest { id: LEASE, ttl: 600 }).await.expect("granted");
    let put = pb::PutRequest { key: "k".into(), lease: LEASE, ..Default::default() };
    KvClient::new(channel.clone()).put(put).await.expect("put");
    let mut auth = AuthClient::new(channel);
    for name in ["root", "reader", "nothing"] {
        let (name, password) = (name.to_owned(), format!("{name}'s password"));
        auth.user_add(pb::AuthUserAddRequest { name, password, ..Default::default() }).await.expect("added");
    }
    auth.role_add(pb::AuthRoleAddRequest { name: "reading".into() }).await.expect("added");
    auth.role_grant_permission(grant(Type::Read, "k")).await.expect("granted");
    for (user, role) in [("root", "root"), ("reader", "reading")] {
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        auth.user_grant_role(grant).await.expect("granted");
    }
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
}

fn grant(kind: Type, key: &'static str) -> pb::AuthRoleGrantPermissionRequest {
    let perm = authpb::Permission { perm_type: kind as i32, key: key.into(), ..Default::default() };
    pb::AuthRoleGrantPermissionRequest { name: "reading".into(), perm: Some(perm) }
}

async fn login(member: &Member, name: &str) -> Result<String, Status> {
    let mut auth = AuthClient::new(member.channel(&member.clients).await);
    let login = pb::AuthenticateRequest { name: name.into(), password: format!("{name}'s password") };
    auth.authenticate(login).await.map(|answer| answer.into_inner().token)
}

/// What is sent to a method: about the key `k` and its lease, or about the caller.
fn message(path: &str, caller: &str) -> Vec<u8> {
    let key = || bytes::Bytes::from_static(b"k");
    let leader = || election::LeaderKey { name: "boss".into(), key: "boss/1".into(), rev: 1, lease: LEASE };
    match path.rsplit('/').next().unwrap_or_default() {
        "Range" | "RangeStream" => pb::RangeRequest { key: key(), ..Default::default() }.encode_to_vec(),
        "Put" => pb::PutRequest { key: key(), ..Default::default() }.encode_to_vec(),
        "DeleteRange" => pb::DeleteRangeRequest { key: key(), ..Default::default() }.encode_to_vec(),
        "Txn" => {
            let compare = vec![pb::Compare { key: key(), ..Default::default() }];
            pb::TxnRequest { compare, ..Default::default() }.encode_to_vec()
        }
        "Watch" if path.starts_with("/etcdserverpb") => create("k", 0).encode_to_vec(),
        "LeaseRevoke" => pb::LeaseRevokeRequest { id: LEASE }.encode_to_vec(),
        "LeaseKeepAlive" => pb::LeaseKeepAliveRequest { id: LEASE }.encode_to_vec(),
        "LeaseTimeToLive" => pb::LeaseTimeToLiveRequest { id: LEASE, keys: true }.encode_to_vec(),
        "UserAdd" => pb::AuthUserAddRequest { name: "new".to_owned(), ..Default::default() }.encode_to_vec(),
        "UserGet" => pb::AuthUserGetRequest { name: caller.to_owned() }.encode_to_vec(),
        "RoleGet" => pb::AuthRoleGetRequest { role: "reading".to_owned() }.encode_to_vec(),
        "Lock" => crate::proto::v3lockpb::LockRequest { name: key(), ..Default::default() }.encode_to_vec(),
        "Unlock" => crate::proto::v3lockpb::UnlockRequest { key: key() }.encode_to_vec(),
        "Campaign" => election::CampaignRequest { name: "boss".into(), ..Default::default() }.encode_to_vec(),
        "Leader" | "Observe" => election::LeaderRequest { name: "boss".into() }.encode_to_vec(),
        "Proclaim" => election::ProclaimRequest { leader: Some(leader()), ..Default::default() }.encode_to_vec(),
        "Resign" => election::ResignRequest { leader: Some(leader()) }.encode_to_vec(),
        _ => Vec::new(),
    }
}

/// What `reader` may do beside what any user may: read `k`, and see their own role.
const READER: [&str; 7] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Auth/RoleGet",
];

/// The refusal that a caller must get; nothing if the call must go through to its service.
fn expected(path: &str, need: Need, caller: &str) -> Option<Error> {
    match (need, caller) {
        (Need::Nothing, _) | (_, "root") => None,
        (_, "nobody") => Some(Error::UserEmpty),
        (_, "forger") => Some(Error::InvalidAuthToken),
        (Need::Root, _) => Some(Error::PermissionDenied),
        (_, "reader") if READER.contains(&path) => None,
        // Themselves.
        _ if path == "/etcdserverpb.Auth/UserGet" => None,
        (Need::User, _) if path != "/etcdserverpb.Auth/RoleGet" => None,
        _ => Some(Error::PermissionDenied),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_refuses_whom_it_must_and_nobody_else() {
    let member = Member::start("--bcrypt-cost 4").await;
    furnish(&member).await;
    let channel = member.channel(&member.clients).await;
    let mut wrong = Vec::new();
    for caller in ["nobody", "forger", "nothing", "reader", "root"] {
        let token = match caller {
            "nobody" => None,
            "forger" => Some("abcdefghijklmnop.1".to_owned()),
            user => Some(login(&member, user).await.expect("a token")),
        };
        // Turning authentication off comes last.
        let (off, rest): (Vec<_>, Vec<_>) = TABLE.iter().partition(|(path, _)| path.ends_with("/AuthDisable"));
        assert_eq!(off.len(), 1);
        for &&(path, need) in rest.iter().chain(&off) {
            let answer = call(&channel, path, message(path, caller), token.as_deref()).await;
            // Behind the door there may be nothing yet.
            if need == Need::Keys && matches!(&answer, Err(status) if status.code() == Code::Unimplemented) {
                assert!(!matches!(caller, "nobody" | "forger"), "{path} let {caller} through");
                continue;
            }
            let (refused, expected) = (refusal(path, &answer), expected(path, need, caller));
            if refused != expected {
                wrong.push(format!("{caller} {path}: {refused:?} instead of {expected:?} ({:?})", answer.err()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!member.node.auth_is_on(), "root has turned it off at last");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_the_table_does_not_have_is_never_called() {
    let member = Member::start("--bcrypt-cost 4").await;
    furnish(&member).await;
    let token = login(&member, "root").await.expect("a token");
    let channel = member.channel(&member.clients).await;
    let refused = call(&channel, "/etcdserverpb.KV/Everything", Vec::new(), Some(&token)).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::Unimplemented);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_comes_under_two_names_and_ends_with_its_password() {
    let member = Member::start("--bcrypt-cost 4").await;
    furnish(&member).await;
    let channel = member.channel(&member.clients).await;
    let (reader, root) = (login(&member, "reader").await.expect("a token"), login(&member, "root").await.expect("one"));
    let mut kv = KvClient::new(channel.clone());
    let range = || pb::RangeRequest { key: "k".into(), ..Default::default() };
    for value in [reader.clone(), format!("Bearer {reader}")] {
        let mut request = Request::new(range());
        request.metadata_mut().insert("authorization", value.parse().expect("ASCII"));
        kv.range(request).await.expect("permitted");
    }
    let mut auth = AuthClient::new(channel);
    let change = |password: &str| pb::AuthUserChangePasswordRequest {
        name: "reader".into(),
        password: password.into(),
        ..Default::default()
    };
    auth.user_change_password(with(Some(&root), change("another"))).await.expect("changed");
    let refused = kv.range(with(Some(&reader), range())).await.expect_err("an old token");
    assert_eq!(refused.message(), Error::InvalidAuthToken.to_string());
    let refused = login(&member, "reader").await.expect_err("the old password");
    assert_eq!(refused.message(), Error::AuthFailed.to_string());
    let refused = login(&member, "mallory").await.expect_err("no such user");
    assert_eq!(refused.message(), Error::AuthFailed.to_string());
    auth.user_change_password(with(Some(&root), change("reader's password"))).await.expect("changed");
    let reader = login(&member, "reader").await.expect("a new token");
    kv.range(with(Some(&reader), range())).await.expect("permitted again");
    // A token of an entry that has not come yet is waited for, and is no good in the end.
    auth.auth_disable(with(Some(&root), pb::AuthDisableRequest {})).await.expect("off");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("on");
    let refused = kv.range(with(Some(&reader), range())).await.expect_err("forgotten when it was turned off");
    assert_eq!(refused.message(), Error::InvalidAuthToken.to_string());
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_token_is_old_once_rights_have_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("secret");
    std::fs::write(&key, "a shared secret").expect("a file");
    let flags = format!("--bcrypt-cost 4 --auth-token jwt,sign-method=HS256,ttl=10m,priv-key={}", key.display());
    let member = Member::start(&flags).await;
    furnish(&member).await;
    let channel = member.channel(&member.clients).await;
    let (reader, root) = (login(&member, "reader").await.expect("a token"), login(&member, "root").await.expect("one"));
    assert_eq!(reader.split('.').count(), 3);
    let (mut kv, mut auth) = (KvClient::new(channel.clone()), AuthClient::new(channel.clone()));
    let range = |serializable| pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
    let put = || pb::PutRequest { key: "k".into(), ..Default::default() };
    kv.range(with(Some(&reader), range(false))).await.expect("permitted");
    auth.role_grant_permission(with(Some(&root), grant(Type::Readwrite, "k")))
        .await
        .expect("root is root at any revision");
    for serializable in [false, true] {
        let refused = kv.range(with(Some(&reader), range(serializable))).await.expect_err("old");
        assert_eq!(refused.message(), Error::AuthOldRevision.to_string());
    }
    let refused = kv.put(with(Some(&reader), put())).await.expect_err("old");
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, &*Error::AuthOldRevision.to_string()));
    // A question about users does not mind, and neither does a watcher that is there already.
    let oneself = pb::AuthUserGetRequest { name: "reader".into() };
    auth.user_get(with(Some(&reader), oneself)).await.expect("one's own roles");
    let reader = login(&member, "reader").await.expect("a new token");
    let (requests, outgoing) = mpsc::channel(1);
    let stream = WatchClient::new(channel).watch(with(Some(&reader), ReceiverStream::new(outgoing))).await;
    let mut watched = stream.expect("a stream").into_inner();
    requests.send(create("k", 0)).await.expect("open");
    let mut next = async || timeout(DEADLINE, watched.message()).await.expect("in time").expect("open").expect("one");
    assert!(next().await.created);
    auth.role_add(with(Some(&root), pb::AuthRoleAddRequest { name: "more".into() })).await.expect("added");
    let reader = login(&member, "reader").await.expect("a new token");
    kv.put(with(Some(&reader), put())).await.expect("permitted by now");
    assert_eq!(next().await.events.len(), 1, "told, although its token is old by now");
    kv.put(with(Some(&reader), put())).await.expect("permitted by now");
    let other = crate::server::token::TokenKind::load("simple").expect("good").prefix() + ".1";
    let refused = kv.range(with(Some(&other), range(false))).await.expect_err("of another kind");
    assert_eq!(refused.message(), Error::InvalidAuthToken.to_string());
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_watcher_is_judged_by_itself_and_ends_with_the_right_to_it() {
    let member = Member::start("--bcrypt-cost 4").await;
    furnish(&member).await;
    let channel = member.channel(&member.clients).await;
    let (reader, root) = (login(&member, "reader").await.expect("a token"), login(&member, "root").await.expect("one"));
    let (requests, outgoing) = mpsc::channel(4);
    let stream = WatchClient::new(channel.clone()).watch(with(Some(&reader), ReceiverStream::new(outgoing))).await;
    let mut responses = stream.expect("a stream").into_inner();
    let mut next = async || timeout(DEADLINE, responses.message()).await.expect("in time").expect("open").expect("one");
    requests.send(create("other", 0)).await.expect("open");
    let refused = next().await;
    assert_eq!((refused.created, refused.canceled, refused.watch_id), (true, true, -1));
    assert_eq!(refused.cancel_reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    requests.send(create("k", 0)).await.expect("open");
    let created = next().await;
    assert!(created.created && !created.canceled, "{created:?}");
    let mut auth = AuthClient::new(channel.clone());
    // A change that leaves the right alone does not disturb it.
    auth.role_add(with(Some(&root), pb::AuthRoleAddRequest { name: "more".into() })).await.expect("added");
    let put = || pb::PutRequest { key: "k".into(), ..Default::default() };
    let mut kv = KvClient::new(channel);
    kv.put(with(Some(&root), put())).await.expect("put");
    assert_eq!(next().await.events.len(), 1);
    let revoke = pb::AuthRoleRevokePermissionRequest { role: "reading".into(), key: "k".into(), ..Default::default() };
    auth.role_revoke_permission(with(Some(&root), revoke)).await.expect("revoked");
    let cancelled = next().await;
    assert_eq!((cancelled.canceled, cancelled.watch_id), (true, created.watch_id));
    assert_eq!(cancelled.cancel_reason, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    kv.put(with(Some(&root), put())).await.expect("put");
    requests.send(create("k", 0)).await.expect("open");
    assert_eq!(next().await.watch_id, -1, "and the next response is about the next request: no event came through");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_are_listed_by_users_and_changed_by_root() {
    let member = Member::start("--bcrypt-cost 4").await;
    furnish(&member).await;
    let mut client = MaintenanceClient::new(member.channel(&member.clients).await);
    for (user, may) in [("nothing", false), ("root", true)] {
        let token = login(&member, user).await.expect("a token");
        let alarm = |action| pb::AlarmRequest { action, member_id: 7, alarm: 1 };
        client.alarm(with(Some(&token), alarm(0))).await.expect("listed");
        for action in [1, 2] {
            assert_eq!(client.alarm(with(Some(&token), alarm(action))).await.is_ok(), may, "{user} {action}");
        }
    }
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_expires_with_its_keys_while_authentication_is_on() {
    let member = Member::start("--bcrypt-cost 4 --election-timeout 500 --heartbeat-interval 50").await;
    furnish(&member).await;
    let channel = member.channel(&member.clients).await;
    let root = login(&member, "root").await.expect("a token");
    let mut lease = LeaseClient::new(channel.clone());
    lease.lease_grant(with(Some(&root), pb::LeaseGrantRequest { id: 5, ttl: 1 })).await.expect("granted");
    let put = pb::PutRequest { key: "short".into(), lease: 5, ..Default::default() };
    KvClient::new(channel).put(with(Some(&root), put)).await.expect("put");
    let gone = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        while member.node.read(|machine| machine.leases().get(crate::types::LeaseId(5)).is_some()) {
            every.tick().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("expired in time");
    assert!(!member.node.read(|machine| machine.store().has(b"short")));
    member.stop().await;
}

/// So many transactions in each other, the innermost a put of `k`.
fn nested(depth: usize) -> pb::TxnRequest {
    let op = |request| pb::TxnRequest { success: vec![pb::RequestOp { request: Some(request) }], ..Default::default() };
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    (1..depth).fold(op(Op::RequestPut(put)), |inner, _| op(Op::RequestTxn(inner)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_may_lie_in_each_other_as_deep_as_the_log_can_tell() {
    let member = Member::start("--bcrypt-cost 4").await;
    let mut kv = member.kv().await;
    let before = member.node.status().applied;
    // 50 is as deep as a request can be read, and 49 as an entry of the log: neither may become one.
    for depth in [49, 50, 51, 52, 90, 120, 200, 500] {
        let refused = kv.txn(nested(depth)).await.expect_err("too deep");
        let told = (refused.code(), refused.message());
        assert_eq!(told, (Code::InvalidArgument, "etcdserver: too many operations in txn request"), "{depth}");
    }
    assert_eq!(member.node.status().applied, before);
    let mut response = kv.txn(nested(48)).await.expect("not too deep").into_inner();
    let mut depth = 1;
    while let Some(Answer::ResponseTxn(inner)) = response.responses.pop().and_then(|op| op.response) {
        (response, depth) = (inner, depth + 1);
    }
    assert_eq!(depth, 48);
    furnish(&member).await;
    let token = |user| login(&member, user);
    let (root, reader) = (token("root").await.expect("a token"), token("reader").await.expect("a token"));
    let refused = kv.txn(with(Some(&reader), nested(48))).await.expect_err("may read only");
    assert_eq!(refused.code(), Code::PermissionDenied);
    kv.txn(with(Some(&root), nested(48))).await.expect("may do everything");
    let refused = kv.txn(with(Some(&root), nested(49))).await.expect_err("too deep for root, too");
    assert_eq!(refused.code(), Code::InvalidArgument);
    member.stop().await;
}
