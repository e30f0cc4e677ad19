//! The calls of Auth, Lock and Election.

#![expect(clippy::disallowed_methods, reason = "waits for a queue to form, with a deadline")]

use super::answer::part;
use super::answer::refused;
use super::server::ANSWER_WITHIN;
use super::server::Server;
use super::server::ask;
use super::server::plain;
use super::server::within;
use super::step::Op;
use super::step::Who;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::v3electionpb as election;
use etcd_lab::proto::v3electionpb::election_client::ElectionClient;
use etcd_lab::proto::v3lockpb as lock;
use etcd_lab::proto::v3lockpb::lock_client::LockClient;
use pb::auth_client::AuthClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use std::time::Duration;
use std::time::Instant;
use tokio_stream::StreamExt;

const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Server {
    pub(super) async fn administer(&self, who: Who, op: Op) -> String {
        macro_rules! auth {
            ($method:ident, $request:expr) => {
                plain(ask!(self, who, AuthClient<_>, $method, $request))
            };
        }
        let text = |text: &str| text.to_owned();
        match op {
            Op::AuthEnable => auth!(auth_enable, pb::AuthEnableRequest {}),
            Op::AuthDisable => auth!(auth_disable, pb::AuthDisableRequest {}),
            Op::AuthStatus => auth!(auth_status, pb::AuthStatusRequest {}),
            Op::UserAdd(request) => auth!(user_add, request),
            Op::UserGet(name) => auth!(user_get, pb::AuthUserGetRequest { name: text(name) }),
            Op::UserList => auth!(user_list, pb::AuthUserListRequest {}),
            Op::UserDelete(name) => auth!(user_delete, pb::AuthUserDeleteRequest { name: text(name) }),
            Op::UserChangePassword { name, password } => {
                let (name, password) = (text(name), text(password));
                auth!(
                    user_change_password,
                    pb::AuthUserChangePasswordRequest { name, password, hashed_password: String::new() }
                )
            }
            Op::UserGrantRole { user, role } => {
                auth!(user_grant_role, pb::AuthUserGrantRoleRequest { user: text(user), role: text(role) })
            }
            Op::UserRevokeRole { user, role } => {
                auth!(user_revoke_role, pb::AuthUserRevokeRoleRequest { name: text(user), role: text(role) })
            }
            Op::RoleAdd(name) => auth!(role_add, pb::AuthRoleAddRequest { name: text(name) }),
            Op::RoleGet(role) => auth!(role_get, pb::AuthRoleGetRequest { role: text(role) }),
            Op::RoleList => auth!(role_list, pb::AuthRoleListRequest {}),
            Op::RoleDelete(role) => auth!(role_delete, pb::AuthRoleDeleteRequest { role: text(role) }),
            Op::RoleGrantPermission(request) => auth!(role_grant_permission, request),
            Op::RoleRevokePermission(request) => auth!(role_revoke_permission, request),
            op => unreachable!("{op:?} is not Auth's"),
        }
    }

    pub(super) async fn concur(&self, who: Who, op: &Op) -> String {
        let bytes = |text: &&'static str| bytes::Bytes::from_static(text.as_bytes());
        match op {
            Op::Lock { name, lease } => {
                plain(ask!(self, who, LockClient<_>, lock, lock::LockRequest { name: bytes(name), lease: *lease }))
            }
            Op::Unlock(key) => {
                plain(ask!(self, who, LockClient<_>, unlock, lock::UnlockRequest { key: key.clone().into() }))
            }
            Op::LockQueue { name, leases, revoke } => self.lock_queue(who, name, leases, *revoke).await,
            Op::Campaign { name, lease, value } => {
                let request = election::CampaignRequest { name: bytes(name), lease: *lease, value: bytes(value) };
                plain(ask!(self, who, ElectionClient<_>, campaign, request))
            }
            Op::Leader(name) => {
                plain(ask!(self, who, ElectionClient<_>, leader, election::LeaderRequest { name: bytes(name) }))
            }
            Op::Proclaim(request) => plain(ask!(self, who, ElectionClient<_>, proclaim, request.clone())),
            Op::Resign(request) => plain(ask!(self, who, ElectionClient<_>, resign, request.clone())),
            Op::Observe(name) => self.observe(who, bytes(name)).await,
            op => unreachable!("{op:?} is neither Lock's nor Election's"),
        }
    }

    /// Leases queue up in their order; the holder gives up by unlocking or by losing its lease; each next one is answered then.
    async fn lock_queue(&self, who: Who, name: &'static str, leases: &[i64], revoke: bool) -> String {
        let mut text = String::new();
        let mut waiting = Vec::new();
        for (number, &lease) in leases.iter().enumerate() {
            let mut client = LockClient::new(self.channel());
            let request = self.request(who, lock::LockRequest { name: name.into(), lease });
            let mut call = tokio::spawn(async move { within(client.lock(request)).await });
            // In line before the next one comes: its key is there.
            let (queued, early) = self.queued(who, name, number as i64 + 1, &mut call).await;
            part(&mut text, &format!("line{number}"), &format!("queued: {queued},"));
            match early {
                Some(answer) => part(&mut text, &format!("lock{number}"), &answer),
                None => waiting.push((number, call)),
            }
        }
        let mut left = waiting.into_iter();
        for (number, lease) in leases.iter().enumerate() {
            let key = format!("{name}/{lease:x}");
            let gone = if revoke {
                plain(ask!(self, who, LeaseClient<_>, lease_revoke, pb::LeaseRevokeRequest { id: *lease }))
            } else {
                plain(ask!(self, who, LockClient<_>, unlock, lock::UnlockRequest { key: key.into() }))
            };
            part(&mut text, &format!("leave{number}"), &gone);
            if let Some((number, call)) = left.next() {
                part(&mut text, &format!("lock{number}"), &plain(call.await.expect("the call did not panic")));
            }
        }
        text
    }

    /// Waits until so many keys are in line; or returns the answer of a call that did not wait.
    async fn queued(
        &self,
        who: Who,
        name: &str,
        keys: i64,
        call: &mut tokio::task::JoinHandle<Result<tonic::Response<lock::LockResponse>, tonic::Status>>,
    ) -> (bool, Option<String>) {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let (key, range_end) = (format!("{name}/"), format!("{name}0"));
        // The first in line is answered at once.
        if keys == 1 {
            return (true, Some(plain(call.await.expect("the call did not panic"))));
        }
        while Instant::now() < deadline {
            let count = pb::RangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                count_only: true,
                ..Default::default()
            };
            let count = ask!(self, who, KvClient<_>, range, count);
            if count.is_ok_and(|response| response.get_ref().count >= keys) {
                return (true, None);
            }
            if call.is_finished() {
                return (false, Some(plain(call.await.expect("the call did not panic"))));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (false, None)
    }

    async fn observe(&self, who: Who, name: bytes::Bytes) -> String {
        let answer = ask!(self, who, ElectionClient<_>, observe, election::LeaderRequest { name });
        let mut responses = match answer {
            Ok(responses) => responses.into_inner(),
            Err(status) => return refused(&status),
        };
        match tokio::time::timeout(ANSWER_WITHIN, responses.next()).await {
            Ok(Some(Ok(response))) => format!("{response:#?}"),
            Ok(Some(Err(status))) => refused(&status),
            Ok(None) => "end: 1,".to_owned(),
            Err(_) => "silence: 1,".to_owned(),
        }
    }
}
