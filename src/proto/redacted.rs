//! How messages with a secret are printed: without it.
//!
//! Passwords, their hashes and tokens must not get into a log by way of somebody's `{:?}` (CVE-2021-28235). The generator leaves the printing
//! of these messages to us; which ones they are stands in `tests/generated.rs`.

use super::authpb;
use super::etcdserverpb as pb;
use std::fmt;

/// Stands where a secret was, and tells nothing but whether there was one.
fn hidden(is_empty: bool) -> &'static str {
    if is_empty { "" } else { "<hidden>" }
}

impl fmt::Debug for authpb::User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("User");
        out.field("name", &self.name).field("password", &hidden(self.password.is_empty()));
        out.field("roles", &self.roles).field("options", &self.options).finish()
    }
}

impl fmt::Debug for pb::AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuthenticateRequest");
        out.field("name", &self.name).field("password", &hidden(self.password.is_empty())).finish()
    }
}

impl fmt::Debug for pb::AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuthenticateResponse");
        out.field("header", &self.header).field("token", &hidden(self.token.is_empty())).finish()
    }
}

impl fmt::Debug for pb::AuthUserAddRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuthUserAddRequest");
        out.field("name", &self.name).field("password", &hidden(self.password.is_empty()));
        out.field("options", &self.options);
        out.field("hashed_password", &hidden(self.hashed_password.is_empty())).finish()
    }
}

impl fmt::Debug for pb::AuthUserChangePasswordRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("AuthUserChangePasswordRequest");
        out.field("name", &self.name).field("password", &hidden(self.password.is_empty()));
        out.field("hashed_password", &hidden(self.hashed_password.is_empty())).finish()
    }
}

impl fmt::Debug for pb::InternalAuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("InternalAuthenticateRequest");
        out.field("name", &self.name).field("password", &hidden(self.password.is_empty()));
        out.field("simple_token", &hidden(self.simple_token.is_empty())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let (name, password, token) = ("alice".to_owned(), "s3cret".to_owned(), "s3cret.7".to_owned());
        let hashed_password = "s3cret".to_owned();
        let add = pb::AuthUserAddRequest {
            name: name.clone(),
            password: password.clone(),
            hashed_password: hashed_password.clone(),
            options: None,
        };
        let change =
            pb::AuthUserChangePasswordRequest { name: name.clone(), password: password.clone(), hashed_password };
        let login = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
        let internal = pb::InternalAuthenticateRequest { name, password, simple_token: token.clone() };
        let user = authpb::User { name: "alice".into(), password: "s3cret".into(), ..Default::default() };
        let entry = pb::InternalRaftRequest {
            auth_user_add: Some(add),
            auth_user_change_password: Some(change),
            authenticate: Some(internal),
            ..Default::default()
        };
        let answer = pb::AuthenticateResponse { header: None, token };
        for text in [format!("{entry:?}"), format!("{login:#?}"), format!("{answer:?}"), format!("{user:?}")] {
            assert!(text.contains("<hidden>") && !text.contains("s3cret"), "{text}");
        }
        let empty = format!("{:?}", pb::AuthenticateRequest::default());
        assert_eq!(empty, r#"AuthenticateRequest { name: "", password: "" }"#);
    }
}
