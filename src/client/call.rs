//! The unary calls: one row each, and the one loop that carries them out.
//!
//! A row says where the request goes and whether it may be sent again after it may have arrived. Source of the last
//! column: etcd `client/v3/retry.go`.

use super::Client;
use super::connection::Broken;
use super::connection::Connection;
use super::error::Error;
use crate::proto::etcdserverpb::*;
use http::uri::PathAndQuery;
use prost::Message;
use std::error::Error as _;
use std::time::Duration;
use tonic::Code;
use tonic::Status;
use tonic_prost::ProstCodec;

/// Attempts of one call before its last failure is the answer.
const ATTEMPTS_MAX: usize = 100;

/// The wait after as many attempts as make a quorum of endpoints.
const BACKOFF: Duration = Duration::from_millis(25);

/// A request that has one answer.
pub trait Call: Message + Default + Clone + 'static {
    /// What comes back.
    type Answer: Message + Default + 'static;
    /// Service and method.
    const PATH: &'static str;
    /// Whether sending it twice is as good as once.
    const REPEATABLE: bool;
}

macro_rules! calls {
    ($($request:ident => $answer:ident, $path:literal, $again:ident;)*) => {$(
        impl Call for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
            const REPEATABLE: bool = $again;
        }
    )*};
}

const ANY_TIMES: bool = true;
const AT_MOST_ONCE: bool = false;

#[rustfmt::skip]
calls! {
    RangeRequest           => RangeResponse,           "KV/Range",                 ANY_TIMES;
    PutRequest             => PutResponse,             "KV/Put",                   AT_MOST_ONCE;
    DeleteRangeRequest     => DeleteRangeResponse,     "KV/DeleteRange",           AT_MOST_ONCE;
    TxnRequest             => TxnResponse,             "KV/Txn",                   AT_MOST_ONCE;
    CompactionRequest      => CompactionResponse,      "KV/Compact",               AT_MOST_ONCE;
    LeaseGrantRequest      => LeaseGrantResponse,      "Lease/LeaseGrant",         ANY_TIMES;
    LeaseRevokeRequest     => LeaseRevokeResponse,     "Lease/LeaseRevoke",        ANY_TIMES;
    LeaseTimeToLiveRequest => LeaseTimeToLiveResponse, "Lease/LeaseTimeToLive",    ANY_TIMES;
    LeaseLeasesRequest     => LeaseLeasesResponse,     "Lease/LeaseLeases",        ANY_TIMES;
    MemberListRequest      => MemberListResponse,      "Cluster/MemberList",       ANY_TIMES;
    MemberAddRequest       => MemberAddResponse,       "Cluster/MemberAdd",        AT_MOST_ONCE;
    MemberRemoveRequest    => MemberRemoveResponse,    "Cluster/MemberRemove",     AT_MOST_ONCE;
    MemberUpdateRequest    => MemberUpdateResponse,    "Cluster/MemberUpdate",     AT_MOST_ONCE;
    MemberPromoteRequest   => MemberPromoteResponse,   "Cluster/MemberPromote",    AT_MOST_ONCE;
    AlarmRequest           => AlarmResponse,           "Maintenance/Alarm",        ANY_TIMES;
    StatusRequest          => StatusResponse,          "Maintenance/Status",       ANY_TIMES;
    HashRequest            => HashResponse,            "Maintenance/Hash",         ANY_TIMES;
    HashKvRequest          => HashKvResponse,          "Maintenance/HashKV",       ANY_TIMES;
    MoveLeaderRequest      => MoveLeaderResponse,      "Maintenance/MoveLeader",   ANY_TIMES;
    DefragmentRequest      => DefragmentResponse,      "Maintenance/Defragment",   AT_MOST_ONCE;
    DowngradeRequest       => DowngradeResponse,       "Maintenance/Downgrade",    AT_MOST_ONCE;
    AuthenticateRequest    => AuthenticateResponse,    "Auth/Authenticate",        AT_MOST_ONCE;
    AuthEnableRequest      => AuthEnableResponse,      "Auth/AuthEnable",          AT_MOST_ONCE;
    AuthDisableRequest     => AuthDisableResponse,     "Auth/AuthDisable",         AT_MOST_ONCE;
    AuthStatusRequest      => AuthStatusResponse,      "Auth/AuthStatus",          ANY_TIMES;
    AuthUserAddRequest     => AuthUserAddResponse,     "Auth/UserAdd",             AT_MOST_ONCE;
    AuthUserGetRequest     => AuthUserGetResponse,     "Auth/UserGet",             ANY_TIMES;
    AuthUserListRequest    => AuthUserListResponse,    "Auth/UserList",            ANY_TIMES;
    AuthUserDeleteRequest  => AuthUserDeleteResponse,  "Auth/UserDelete",          AT_MOST_ONCE;
    AuthUserChangePasswordRequest => AuthUserChangePasswordResponse, "Auth/UserChangePassword", AT_MOST_ONCE;
    AuthUserGrantRoleRequest  => AuthUserGrantRoleResponse,  "Auth/UserGrantRole",  AT_MOST_ONCE;
    AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse, "Auth/UserRevokeRole", AT_MOST_ONCE;
    AuthRoleAddRequest     => AuthRoleAddResponse,     "Auth/RoleAdd",             AT_MOST_ONCE;
    AuthRoleGetRequest     => AuthRoleGetResponse,     "Auth/RoleGet",             ANY_TIMES;
    AuthRoleListRequest    => AuthRoleListResponse,    "Auth/RoleList",            ANY_TIMES;
    AuthRoleDeleteRequest  => AuthRoleDeleteResponse,  "Auth/RoleDelete",          AT_MOST_ONCE;
    AuthRoleGrantPermissionRequest  => AuthRoleGrantPermissionResponse,  "Auth/RoleGrantPermission",  AT_MOST_ONCE;
    AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse, "Auth/RoleRevokePermission", AT_MOST_ONCE;
}

/// What became of one attempt.
enum Attempt<T> {
    Answered(T),
    /// It never left.
    NotSent,
    Failed(Error),
}

impl Client {
    /// Sends `request` until it is answered or may not be sent again. Knows no time limit.
    pub(super) async fn call_patiently<C: Call>(&self, request: &C) -> Result<C::Answer, Error> {
        let limit = self.config.request_bytes_max;
        let size = request.encoded_len();
        if size > limit {
            let text = format!("trying to send message larger than max ({size} vs. {limit})");
            return Err(Error::Answer { code: Code::ResourceExhausted, text });
        }
        let quorum = self.config.endpoints.len() / 2 + 1;
        let mut last = Error::Deadline { last_dial: None };
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 && attempt % quorum == 0 {
                super::pause(BACKOFF).await;
            }
            let connection = self.pool.pick(self.next_turn()).await;
            match self.attempt(connection, request).await {
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::NotSent => {}
                Attempt::Failed(error) if self.config.user.is_some() && error.wants_new_token() => {
                    Box::pin(self.refresh_token()).await?;
                    last = error;
                }
                Attempt::Failed(error) if C::REPEATABLE && error.code() == Code::Unavailable => last = error,
                Attempt::Failed(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn attempt<C: Call>(&self, connection: Connection, request: &C) -> Attempt<C::Answer> {
        let mut grpc = self.grpc(connection);
        let mut message = tonic::Request::new(request.clone());
        self.add_metadata(message.metadata_mut());
        let codec = ProstCodec::<C, C::Answer>::default();
        match grpc.unary(message, PathAndQuery::from_static(C::PATH), codec).await {
            Ok(answer) => Attempt::Answered(answer.into_inner()),
            Err(status) => match broken(&status) {
                Some(Broken::NotSent) => Attempt::NotSent,
                _ => Attempt::Failed(failure(status)),
            },
        }
    }

    /// The gRPC codec over one connection.
    pub(super) fn grpc(&self, connection: Connection) -> tonic::client::Grpc<Connection> {
        let origin = connection.origin.clone();
        tonic::client::Grpc::with_origin(connection, origin).max_decoding_message_size(self.config.response_bytes_max)
    }
}

fn broken(status: &Status) -> Option<&Broken> {
    status.source().and_then(|source| source.downcast_ref::<Broken>())
}

/// How tonic words its own status where an answer ended without one.
const NO_STATUS: &str = "protocol error: missing grpc-status trailer";

/// A status that came over the wire has no source; one that was made here, because the wire broke, has. Where an answer just ended it has none either:
/// so a member that serves TLS as Go does ends its streams when it stops.
pub(super) fn failure(status: Status) -> Error {
    match status.source() {
        Some(source) => Error::Lost { why: source.to_string() },
        None if status.code() == Code::Unknown && status.message().starts_with(NO_STATUS) => {
            Error::Lost { why: "the member ended its answer without a status".to_owned() }
        }
        None => Error::Answer { code: status.code(), text: status.message().to_owned() },
    }
}
