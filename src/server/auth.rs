//! Auth: logins, users and roles.
//!
//! Passwords end here: they are hashed or compared, and only hashes go on. A login proves the password first and proposes then; if users have changed
//! in between, it proves it again. Changes go through the log in the caller's name, questions wait for a read barrier and are answered from the
//! applied state (etcd writes them into the log, too). Source: etcd `api/v3rpc/auth.go`, `etcdserver/v3_server.go`; contract-server 7.

use super::front::Front;
use super::front::Security;
use super::front::wrong_reply;
use super::identity::Caller;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::auth::Who;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::auth_server::Auth;
use std::mem::take;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// The Auth service.
pub(super) struct Service(pub(super) Front);

type Header = Option<pb::ResponseHeader>;

impl Service {
    /// Puts a change of users or roles through the log; returns the completed header.
    async fn change(&self, caller: &Caller, request: pb::InternalRaftRequest) -> Result<Header, Status> {
        let Reply::Auth(header) = self.0.propose_as(caller, request).await? else { return Err(wrong_reply()) };
        let mut header = Some(header);
        self.0.stamp(&mut header);
        Ok(header)
    }

    /// Answers a question about the applied state, which must be up to date.
    async fn ask<T>(
        &self,
        caller: &Caller,
        may: impl FnOnce(&Machine, &Who) -> Result<(), Error>,
        look: impl FnOnce(&Machine) -> Result<T, Error>,
    ) -> Result<(Header, T), Status> {
        self.0.node.read_barrier().await?;
        let found = self.0.look_as(caller, may, look).await?;
        Ok((self.0.header(), found))
    }

    /// Proves a password against the applied state; returns the auth revision at which it was right.
    async fn prove(&self, caller: &Caller, name: &str, password: &str) -> Result<u64, Error> {
        let Security { passwords, backoff, .. } = &*self.0.security;
        let from = caller.from();
        backoff.admit(name, &from, self.0.node.request_timeout()).await?;
        let secret = self.0.node.read(|machine| machine.auth().secret(name));
        let refused = match secret {
            Ok(secret) => match passwords.matches(password.to_owned(), Some(secret.hash)).await? {
                true => {
                    backoff.succeeded(name, &from);
                    return Ok(secret.revision);
                }
                false => Error::AuthFailed,
            },
            Err(Error::AuthFailed) => {
                passwords.matches(password.to_owned(), None).await?;
                Error::AuthFailed
            }
            Err(e) => e,
        };
        if refused == Error::AuthFailed {
            backoff.failed(name, &from);
        }
        if refused != Error::AuthNotEnabled {
            tracing::warn!(mechanism = "password", user = name, "remote-addr" = from, error = %refused, "invalid authentication was requested");
        }
        Err(refused)
    }
}

#[tonic::async_trait]
impl Auth for Service {
    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let (caller, login) = Caller::of(request);
        self.0.node.read_barrier().await?;
        loop {
            let proven = self.prove(&caller, &login.name, &login.password).await?;
            let authenticate = Some(pb::InternalAuthenticateRequest {
                name: login.name.clone(),
                password: String::new(),
                simple_token: self.0.security.tokens.prefix(),
            });
            let request = pb::InternalRaftRequest { authenticate, ..Default::default() };
            let Reply::Authenticate { header, token, user, auth_revision } = self.0.propose(request).await? else {
                return Err(wrong_reply());
            };
            if proven == self.0.auth_revision() {
                let token = self.0.security.tokens.issue(token, &user, auth_revision)?;
                let mut header = Some(header);
                self.0.stamp(&mut header);
                return Ok(Response::new(pb::AuthenticateResponse { header, token }));
            }
            tracing::info!(user = login.name, "users have changed since the password was compared: comparing again");
        }
    }

    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let (caller, enable) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_enable: Some(enable), ..Default::default() };
        let header = self.change(&caller, request).await?;
        tracing::info!("enabled authentication");
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let (caller, disable) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_disable: Some(disable), ..Default::default() };
        let header = self.change(&caller, request).await?;
        tracing::info!("disabled authentication");
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let (caller, _) = Caller::of(request);
        let look = |machine: &Machine| Ok((machine.auth().is_enabled(), machine.auth().revision()));
        let (header, (enabled, auth_revision)) =
            self.ask(&caller, |machine, who| machine.auth().permit_root(who), look).await?;
        Ok(Response::new(pb::AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let (caller, mut add) = Caller::of(request);
        let password = take(&mut add.password);
        add.hashed_password = match add.options.is_some_and(|options| options.no_password) {
            true => String::new(),
            false => self.0.security.passwords.hash(password).await?,
        };
        let request = pb::InternalRaftRequest { auth_user_add: Some(add), ..Default::default() };
        Ok(Response::new(pb::AuthUserAddResponse { header: self.change(&caller, request).await? }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let (caller, pb::AuthUserGetRequest { name }) = Caller::of(request);
        let may = |machine: &Machine, who: &Who| machine.auth().permit_user(who, &name);
        let (header, roles) = self.ask(&caller, may, |m| m.auth().roles_of(&name).map(<[String]>::to_vec)).await?;
        Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let (caller, _) = Caller::of(request);
        let may = |machine: &Machine, who: &Who| machine.auth().permit_root(who);
        let (header, users) = self.ask(&caller, may, |m| Ok(m.auth().users().map(str::to_owned).collect())).await?;
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let (caller, delete) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_user_delete: Some(delete), ..Default::default() };
        Ok(Response::new(pb::AuthUserDeleteResponse { header: self.change(&caller, request).await? }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let (caller, mut change) = Caller::of(request);
        // As in etcd: without a password, a hash that the client has made is taken as it is.
        let password = take(&mut change.password);
        if !password.is_empty() {
            change.hashed_password = self.0.security.passwords.hash(password).await?;
        }
        let request = pb::InternalRaftRequest { auth_user_change_password: Some(change), ..Default::default() };
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header: self.change(&caller, request).await? }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let (caller, grant) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_user_grant_role: Some(grant), ..Default::default() };
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header: self.change(&caller, request).await? }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let (caller, revoke) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_user_revoke_role: Some(revoke), ..Default::default() };
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header: self.change(&caller, request).await? }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let (caller, add) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_role_add: Some(add), ..Default::default() };
        Ok(Response::new(pb::AuthRoleAddResponse { header: self.change(&caller, request).await? }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let (caller, pb::AuthRoleGetRequest { role }) = Caller::of(request);
        let may = |machine: &Machine, who: &Who| machine.auth().permit_role(who, &role);
        let (header, perm) = self.ask(&caller, may, |m| m.auth().permissions_of(&role)).await?;
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let (caller, _) = Caller::of(request);
        let may = |machine: &Machine, who: &Who| machine.auth().permit_root(who);
        let (header, roles) = self.ask(&caller, may, |m| Ok(m.auth().roles().map(str::to_owned).collect())).await?;
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let (caller, delete) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_role_delete: Some(delete), ..Default::default() };
        Ok(Response::new(pb::AuthRoleDeleteResponse { header: self.change(&caller, request).await? }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let (caller, grant) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_role_grant_permission: Some(grant), ..Default::default() };
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header: self.change(&caller, request).await? }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let (caller, revoke) = Caller::of(request);
        let request = pb::InternalRaftRequest { auth_role_revoke_permission: Some(revoke), ..Default::default() };
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header: self.change(&caller, request).await? }))
    }
}
