//! `auth`, `user` and `role`: who there is, who may do what, and whether anybody is asked.
//!
//! Source: etcd `ctlv3/command/auth_command.go`, `user_command.go`, `role_command.go`.

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::kv;
use super::print::Answer;
use super::print::auth::Done;
use super::print::auth::Role;
use super::print::auth::User;
use super::session::Session;
use crate::client;
use crate::error::Error;
use crate::proto::authpb::Permission;
use crate::proto::authpb::UserAddOptions;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb::AuthDisableRequest;
use crate::proto::etcdserverpb::AuthEnableRequest;
use crate::proto::etcdserverpb::AuthRoleAddRequest;
use crate::proto::etcdserverpb::AuthRoleDeleteRequest;
use crate::proto::etcdserverpb::AuthRoleGetRequest;
use crate::proto::etcdserverpb::AuthRoleGrantPermissionRequest;
use crate::proto::etcdserverpb::AuthRoleListRequest;
use crate::proto::etcdserverpb::AuthRoleRevokePermissionRequest;
use crate::proto::etcdserverpb::AuthStatusRequest;
use crate::proto::etcdserverpb::AuthUserAddRequest;
use crate::proto::etcdserverpb::AuthUserChangePasswordRequest;
use crate::proto::etcdserverpb::AuthUserDeleteRequest;
use crate::proto::etcdserverpb::AuthUserGetRequest;
use crate::proto::etcdserverpb::AuthUserGrantRoleRequest;
use crate::proto::etcdserverpb::AuthUserListRequest;
use crate::proto::etcdserverpb::AuthUserRevokeRoleRequest;
use bytes::Bytes;

const ROOT: &str = "root";

/// The words, if there are as many as the command takes; otherwise `needs` says what it takes.
fn words<const N: usize>(session: &Session<'_>, needs: &str) -> Result<[String; N], Exit> {
    if session.args.words.len() != N {
        return Err(Exit::bad_args(needs));
    }
    Ok(std::array::from_fn(|at| session.args.word(at)))
}

/// `auth status`.
pub(super) async fn status(session: &mut Session<'_>) -> Outcome {
    let [] = words(session, "auth status command does not accept any arguments")?;
    let answer = session.ask(AuthStatusRequest {}).await?;
    session.print(&answer)
}

/// `auth enable`: makes the role root and gives it to the user root, if that is all that is missing.
pub(super) async fn enable(session: &mut Session<'_>) -> Outcome {
    let [] = words(session, "auth enable command does not accept any arguments")?;
    let client = session.client().await?;
    if let Err(refused) = client.call(AuthEnableRequest {}).await {
        if !refused.says(&Error::RootRoleNotExist.to_string()) {
            return Err(session.failed(exit::ERROR, &refused));
        }
        // The role may be there without being the user's: that it exists is as good as that it was made.
        let made = client.call(AuthRoleAddRequest { name: ROOT.to_owned() }).await.map(drop);
        let granted = async {
            let request = AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
            client.call(request).await?;
            client.call(AuthEnableRequest {}).await.map(drop)
        };
        let done = match made {
            Err(error) if !error.says(&Error::RoleExists.to_string()) => Err(error),
            _ => granted.await,
        };
        done.map_err(|error| session.failed(exit::ERROR, &error))?;
    }
    session.line("Authentication Enabled")
}

/// `auth disable`.
pub(super) async fn disable(session: &mut Session<'_>) -> Outcome {
    let [] = words(session, "auth disable command does not accept any arguments")?;
    session.ask(AuthDisableRequest {}).await?;
    session.line("Authentication Disabled")
}

/// `user add`.
pub(super) async fn user_add(session: &mut Session<'_>) -> Outcome {
    let [word] = words(session, "user add command requires user name as its argument")?;
    let no_password = session.args.is_set("no-password");
    let given = session.args.text("new-user-password").unwrap_or_default().to_owned();
    let (name, password) = match word.split_once(':') {
        _ if no_password => (word, String::new()),
        _ if !given.is_empty() => (word, given),
        Some(("", _)) => return Err(Exit::bad_args("empty user name is not allowed")),
        Some((name, password)) => (name.to_owned(), password.to_owned()),
        None => {
            let password = new_password(session, &word)?;
            (word, password)
        }
    };
    let sentence = format!("User {name} created");
    let options = Some(UserAddOptions { no_password });
    let request = AuthUserAddRequest { name, password, options, hashed_password: String::new() };
    let answer = session.ask_patiently(request).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `user passwd`.
pub(super) async fn user_passwd(session: &mut Session<'_>) -> Outcome {
    let [name] = words(session, "user passwd command requires user name as its argument")?;
    let password = new_password(session, &name)?;
    let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
    let answer = session.ask_patiently(request).await?;
    session.print(&Done { sentence: "Password updated".to_owned(), header: answer.header, answer })
}

/// A new password: typed twice, or with `--interactive=false` the first word of the standard input.
fn new_password(session: &mut Session<'_>, name: &str) -> Result<String, Exit> {
    if session.args.is_given("interactive") && !session.args.is_set("interactive") {
        let line = session.read_line()?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let password = session.ask_password(&format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Exit::bad_args("empty password"));
    }
    let again = session.ask_password(&format!("Type password of {name} again for confirmation: "))?;
    if again == password { Ok(password) } else { Err(Exit::bad_args("given passwords are different")) }
}

/// `user delete`.
pub(super) async fn user_delete(session: &mut Session<'_>) -> Outcome {
    let [name] = words(session, "user delete command requires user name as its argument")?;
    let sentence = format!("User {name} deleted");
    let answer = session.ask_patiently(AuthUserDeleteRequest { name }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `user get`; with `--detail`, and what its roles may do.
pub(super) async fn user_get(session: &mut Session<'_>) -> Outcome {
    let [name] = words(session, "user get command requires user name as its argument")?;
    let answer = session.ask_patiently(AuthUserGetRequest { name: name.clone() }).await?;
    if !session.args.is_set("detail") {
        return session.print(&User { name, answer });
    }
    session.line(format_args!("User: {name}"))?;
    for name in answer.roles {
        session.line("")?;
        let answer = session.ask_patiently(AuthRoleGetRequest { role: name.clone() }).await?;
        session.print(&Role { name, answer })?;
    }
    Ok(())
}

/// `user list`.
pub(super) async fn user_list(session: &mut Session<'_>) -> Outcome {
    let [] = words(session, "user list command requires no arguments")?;
    let answer = session.ask_patiently(AuthUserListRequest {}).await?;
    session.print(&answer)
}

/// `user grant-role`.
pub(super) async fn user_grant_role(session: &mut Session<'_>) -> Outcome {
    let [user, role] = words(session, "user grant command requires user name and role name as its argument")?;
    let sentence = format!("Role {role} is granted to user {user}");
    let answer = session.ask_patiently(AuthUserGrantRoleRequest { user, role }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `user revoke-role`.
pub(super) async fn user_revoke_role(session: &mut Session<'_>) -> Outcome {
    let [name, role] = words(session, "user revoke-role requires user name and role name as its argument")?;
    let sentence = format!("Role {role} is revoked from user {name}");
    let answer = session.ask_patiently(AuthUserRevokeRoleRequest { name, role }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `role add`.
pub(super) async fn role_add(session: &mut Session<'_>) -> Outcome {
    let [name] = words(session, "role add command requires role name as its argument")?;
    let sentence = format!("Role {name} created");
    let answer = session.ask_patiently(AuthRoleAddRequest { name }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `role delete`.
pub(super) async fn role_delete(session: &mut Session<'_>) -> Outcome {
    let [role] = words(session, "role delete command requires role name as its argument")?;
    let sentence = format!("Role {role} deleted");
    let answer = session.ask_patiently(AuthRoleDeleteRequest { role }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `role get`.
pub(super) async fn role_get(session: &mut Session<'_>) -> Outcome {
    let [name] = words(session, "role get command requires role name as its argument")?;
    let answer = session.ask_patiently(AuthRoleGetRequest { role: name.clone() }).await?;
    session.print(&Role { name, answer })
}

/// `role list`.
pub(super) async fn role_list(session: &mut Session<'_>) -> Outcome {
    let [] = words(session, "role list command requires no arguments")?;
    let answer = session.ask_patiently(AuthRoleListRequest {}).await?;
    session.print(&answer as &dyn Answer)
}

/// `role grant-permission`.
pub(super) async fn role_grant(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() < 3 {
        let needs = "role grant command requires role name, permission type, and key [endkey] as its argument";
        return Err(Exit::bad_args(needs));
    }
    let (name, kind) = (session.args.word(0), session.args.word(1));
    let perm_type = Type::from_str_name(&kind.to_uppercase())
        .ok_or_else(|| Exit::bad_args(format!("invalid permission type: {kind}")))?;
    let (key, range_end) = permitted(session, 2)?;
    let sentence = format!("Role {name} updated");
    let perm = Some(Permission { perm_type: perm_type.into(), key, range_end });
    let answer = session.ask_patiently(AuthRoleGrantPermissionRequest { name, perm }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// `role revoke-permission`.
pub(super) async fn role_revoke(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() < 2 {
        let needs = "role revoke-permission command requires role name and key [endkey] as its argument";
        return Err(Exit::bad_args(needs));
    }
    let role = session.args.word(0);
    let named = session.args.word(1);
    let (key, range_end) = permitted(session, 1)?;
    let end = String::from_utf8_lossy(&range_end).into_owned();
    let what = match end.as_str() {
        "" => format!("key {named}"),
        "\0" => format!("range [{named}, <open ended>"),
        end => format!("range [{named}, {end})"),
    };
    let sentence = format!("Permission of {what} is revoked from role {role}");
    let answer = session.ask_patiently(AuthRoleRevokePermissionRequest { role, key, range_end }).await?;
    session.print(&Done { sentence, header: answer.header, answer })
}

/// Key and range end of a permission, from the words from `at` on, `--prefix` and `--from-key`. The empty key is the first of all.
fn permitted(session: &Session<'_>, at: usize) -> Result<(Bytes, Bytes), Exit> {
    let (prefix, from_key) = (session.args.is_set("prefix"), session.args.is_set("from-key"));
    let key = Bytes::from(session.args.words[at].clone());
    let end = session.args.words.get(at + 1).cloned();
    if prefix && from_key && (key.is_empty() || end.is_none()) {
        return Err(Exit::bad_args("--from-key and --prefix flags are mutually exclusive"));
    }
    if key.is_empty() {
        return Ok((kv::ZERO, if prefix || from_key { kv::ZERO } else { Bytes::new() }));
    }
    let range_end = match end {
        Some(_) if prefix => return Err(Exit::bad_args("unexpected endkey argument with --prefix flag")),
        Some(_) if from_key => return Err(Exit::bad_args("unexpected endkey argument with --from-key flag")),
        Some(end) => end.into(),
        None if prefix => client::prefix_end(&key),
        None if from_key => kv::ZERO,
        None => Bytes::new(),
    };
    Ok((key, range_end))
}
