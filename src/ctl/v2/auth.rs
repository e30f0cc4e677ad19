//! `user`, `role`, `auth`: the v3 users and roles under their old names, so that the server enforces them.
//!
//! A role's path is a range of the tree: `/foo` a key, `/foo/*` all that begin so. To reach it, what is above it must be readable, and who
//! writes must be able to say what was done: a grant gives that too, as ranges of one key ([`Helper`]), which are not shown. What differs from
//! etcd 3.4: there is no guest, so with authentication on nobody does anything without a name.
//!
//! Source: etcd 3.4 `etcdctl/ctlv2/command/{user,role,auth}_commands.go`, `etcdserver/api/v2auth/auth.go`.

use super::BAD_ARGS;
use super::Exit;
use super::Outcome;
use super::World;
use super::store::ACTION;
use super::store::Failure;
use super::store::KEYS;
use crate::client;
use crate::client::Call;
use crate::client::prefix_end;
use crate::error::Error as Etcd;
use crate::proto::authpb::Permission;
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

/// The user and the role that may do everything.
const ROOT: &str = "root";

impl World<'_> {
    /// Asks, and says what was refused in v2's words, which `told` knows for some errors.
    async fn ask<C: Call>(&mut self, request: C, told: &[(Etcd, String)]) -> Result<C::Answer, Exit> {
        let answer = async { Ok(self.client().await?.call(request).await?) };
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(Failure::Client(error)) => match told.iter().find(|(known, _)| error.says(&known.to_string())) {
                Some((_, words)) => Err(Exit::plain(BAD_ARGS, format!("auth: {words}"))),
                None => Err(self.said(Failure::Client(error)).await),
            },
            Err(failure) => Err(self.said(failure).await),
        }
    }

    fn only_word(&self, missing: &str) -> Result<String, Exit> {
        match self.line.words.as_slice() {
            [word] => Ok(word.clone()),
            _ => Err(Exit::plain(BAD_ARGS, missing)),
        }
    }

    fn user(&self) -> Result<String, Exit> {
        self.only_word("Please provide a username")
    }

    fn role(&self) -> Result<String, Exit> {
        self.only_word("Please provide a role name")
    }

    fn roles(&self) -> Result<Vec<String>, Exit> {
        let given = self.line.all("roles");
        if given.is_empty() {
            return Err(Exit::plain(BAD_ARGS, "No roles specified; please use `--roles`"));
        }
        Ok(given.iter().flat_map(|roles| roles.split(',')).map(str::to_owned).collect())
    }
}

fn no_user(name: &str) -> Vec<(Etcd, String)> {
    vec![(Etcd::UserNotFound, format!("User {name} does not exist."))]
}

/// `user add`: who is there already keeps all but the password.
pub(super) async fn user_add(world: &mut World<'_>) -> Outcome {
    let given = world.user()?;
    let (name, password) = world.name_and_password(&given, "New password: ")?;
    if password.is_empty() {
        return Err(Exit::plain(BAD_ARGS, format!("auth: Cannot create user {name} with an empty password")));
    }
    let request =
        AuthUserAddRequest { name: name.clone(), password: password.clone(), ..AuthUserAddRequest::default() };
    let known = || vec![(Etcd::UserExists, String::new())];
    match world.ask(request, &known()).await {
        Err(exit) if exit.text == "auth: \n" => {
            world
                .ask(AuthUserChangePasswordRequest { name: name.clone(), password, ..Default::default() }, &[])
                .await?;
        }
        Err(exit) => return Err(exit),
        Ok(_) => {}
    }
    if name == ROOT {
        // etcd's v2 root is root without being told so.
        let exists = vec![(Etcd::RoleExists, String::new())];
        match world.ask(AuthRoleAddRequest { name: ROOT.to_owned() }, &exists).await {
            Err(exit) if exit.text != "auth: \n" => return Err(exit),
            _ => {}
        }
        world.ask(AuthUserGrantRoleRequest { user: name.clone(), role: ROOT.to_owned() }, &[]).await?;
    }
    world.say(format_args!("User {name} created"))
}

pub(super) async fn user_get(world: &mut World<'_>) -> Outcome {
    let name = world.user()?;
    let user = world.ask(AuthUserGetRequest { name: name.clone() }, &no_user(&name)).await?;
    // etcd's users have a role without a name, which shows as a blank.
    let roles = [vec![String::new()], user.roles].concat().join(" ");
    world.say(format_args!("User: {name}\nRoles: {roles}"))
}

pub(super) async fn user_list(world: &mut World<'_>) -> Outcome {
    if !world.line.words.is_empty() {
        return Err(Exit::plain(BAD_ARGS, "No arguments accepted"));
    }
    let users = world.ask(AuthUserListRequest {}, &[]).await?.users;
    users.into_iter().try_for_each(|user| world.say(user))
}

pub(super) async fn user_remove(world: &mut World<'_>) -> Outcome {
    let name = world.user()?;
    let missing = vec![(Etcd::UserNotFound, format!("User {name} does not exist"))];
    world.ask(AuthUserDeleteRequest { name: name.clone() }, &missing).await?;
    world.say(format_args!("User {name} removed"))
}

pub(super) async fn user_passwd(world: &mut World<'_>) -> Outcome {
    let name = world.user()?;
    let password = world.ask_password("New password: ")?;
    if password.is_empty() {
        return Err(Exit::plain(BAD_ARGS, format!("auth: Cannot create user {name} with an empty password")));
    }
    let request = AuthUserChangePasswordRequest { name: name.clone(), password, ..Default::default() };
    world.ask(request, &no_user(&name)).await?;
    world.say("Password updated")
}

/// All roles or none: they are looked at before the first is given.
pub(super) async fn user_grant(world: &mut World<'_>) -> Outcome {
    let (roles, name) = (world.roles()?, world.user()?);
    let has = world.ask(AuthUserGetRequest { name: name.clone() }, &no_user(&name)).await?.roles;
    for role in &roles {
        if has.contains(role) {
            return Err(Exit::plain(BAD_ARGS, format!("auth: Granting duplicate role {role} for user {name}")));
        }
        world.ask(AuthRoleGetRequest { role: role.clone() }, &no_role(role)).await?;
    }
    for role in roles {
        world.ask(AuthUserGrantRoleRequest { user: name.clone(), role }, &[]).await?;
    }
    world.say(format_args!("User {name} updated"))
}

pub(super) async fn user_revoke(world: &mut World<'_>) -> Outcome {
    let (roles, name) = (world.roles()?, world.user()?);
    let has = world.ask(AuthUserGetRequest { name: name.clone() }, &no_user(&name)).await?.roles;
    if let Some(role) = roles.iter().find(|role| !has.contains(role)) {
        return Err(Exit::plain(BAD_ARGS, format!("auth: Revoking ungranted role {role} for user {name}")));
    }
    for role in roles {
        world.ask(AuthUserRevokeRoleRequest { name: name.clone(), role }, &[]).await?;
    }
    world.say(format_args!("User {name} updated"))
}

fn no_role(role: &str) -> Vec<(Etcd, String)> {
    vec![(Etcd::RoleNotFound, format!("Role {role} does not exist."))]
}

pub(super) async fn role_add(world: &mut World<'_>) -> Outcome {
    let name = world.role()?;
    let request = AuthRoleAddRequest { name: name.clone() };
    match world.ask(request, &[(Etcd::RoleExists, "exists".to_owned())]).await {
        Err(exit) if exit.text == "auth: exists\n" => Err(Exit::plain(BAD_ARGS, format!("Role {name} already exists"))),
        Err(exit) => Err(exit),
        Ok(_) => world.say(format_args!("Role {name} created")),
    }
}

pub(super) async fn role_get(world: &mut World<'_>) -> Outcome {
    let name = world.role()?;
    let mut shown: Vec<(String, Type)> = Vec::new();
    if name == ROOT {
        shown.push(("/*".to_owned(), Type::Readwrite));
    } else {
        let role = world.ask(AuthRoleGetRequest { role: name.clone() }, &no_role(&name)).await?;
        shown.extend(role.perm.iter().filter_map(|perm| Some((path_of(perm)?, perm.perm_type()))));
    }
    let list = |wanted: Type| {
        let may = shown.iter().filter(|(_, is)| *is == wanted || *is == Type::Readwrite);
        let mut paths: Vec<String> = may.map(|(path, _)| format!("\t{path}\n")).collect();
        paths.sort();
        paths.concat()
    };
    let text = format!("Role: {name}\nKV Read:\n{}KV Write:\n{}", list(Type::Read), list(Type::Write));
    Ok(world.out.write_all(text.as_bytes())?)
}

pub(super) async fn role_list(world: &mut World<'_>) -> Outcome {
    if !world.line.words.is_empty() {
        return Err(Exit::plain(BAD_ARGS, "No arguments accepted"));
    }
    let mut roles = world.ask(AuthRoleListRequest {}, &[]).await?.roles;
    if !roles.iter().any(|role| role == ROOT) {
        roles.push(ROOT.to_owned());
    }
    roles.sort();
    roles.into_iter().try_for_each(|role| world.say(role))
}

pub(super) async fn role_remove(world: &mut World<'_>) -> Outcome {
    let name = world.role()?;
    if name == ROOT {
        return Err(Exit::plain(BAD_ARGS, "auth: Cannot modify role root: is root role."));
    }
    let missing = vec![(Etcd::RoleNotFound, format!("Role {name} doesn't exist."))];
    world.ask(AuthRoleDeleteRequest { role: name.clone() }, &missing).await?;
    world.say(format_args!("Role {name} removed"))
}

/// What `--path` and its kinds ask for.
fn asked(world: &World<'_>) -> Result<(String, Type), Exit> {
    let path = world.line.text("path");
    if path.is_empty() {
        return Err(Exit::plain(BAD_ARGS, "No path specified; please use `--path`"));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    let canonical = format!("/{}{end}", parts.join("/"));
    if canonical != path {
        return Err(Exit::plain(BAD_ARGS, format!("Not canonical path; please use `--path={canonical}`")));
    }
    let kinds = [("read", Type::Read), ("write", Type::Write), ("readwrite", Type::Readwrite)];
    let given: Vec<Type> =
        kinds.into_iter().filter(|(flag, _)| world.line.is_set(flag)).map(|(_, kind)| kind).collect();
    match given.as_slice() {
        [kind] => Ok((path.to_owned(), *kind)),
        _ => Err(Exit::plain(BAD_ARGS, "Please specify exactly one of --read, --write or --readwrite")),
    }
}

/// The range that a path means: one key, or all that begin as it does before `*`.
fn range_of(path: &str) -> (Bytes, Bytes) {
    match path.strip_suffix('*') {
        Some(before) => {
            let key = format!("{KEYS}{before}");
            let end = prefix_end(key.as_bytes());
            (key.into(), end)
        }
        None => (format!("{KEYS}{path}").into(), Bytes::new()),
    }
}

/// The path that a permission stands for; nothing for those of other keys, and for helpers.
fn path_of(perm: &Permission) -> Option<String> {
    let key = std::str::from_utf8(&perm.key).ok()?.strip_prefix(KEYS)?;
    match perm.range_end.as_ref() {
        [] => Some(key.to_owned()),
        end if *end == prefix_end(&perm.key) => Some(format!("{key}*")),
        _ => None,
    }
}

/// Permissions that a path needs besides its own, as ranges of one key each: so they are not taken for ones that were asked for.
struct Helper;

impl Helper {
    /// From just before the key, so that a permission for the key itself is another one: in between lie only keys that are no text.
    fn one(key: String, kind: Type) -> Permission {
        let mut before = key.clone().into_bytes();
        if let Some(last) = before.last_mut() {
            *last -= 1;
            before.push(0xff);
        }
        let range_end = [key.as_bytes(), &[0]].concat().into();
        Permission { perm_type: kind.into(), key: before.into(), range_end }
    }

    fn all(path: &str, kind: Type) -> Vec<Permission> {
        let path = path.trim_end_matches('*').trim_end_matches('/');
        let mut helpers = Vec::new();
        for at in path.match_indices('/').map(|(at, _)| at).skip(1).chain((!path.is_empty()).then_some(path.len())) {
            helpers.push(Helper::one(format!("{KEYS}{}", &path[..at]), Type::Read));
            helpers.push(Helper::one(format!("{KEYS}{}/", &path[..at]), Type::Read));
        }
        let act = if kind == Type::Read { Type::Read } else { Type::Readwrite };
        helpers.push(Helper::one(ACTION.to_owned(), act));
        helpers
    }
}

/// What a role may do with exactly this path.
async fn granted(world: &mut World<'_>, role: &str, path: &str) -> Result<Option<Type>, Exit> {
    let found = world.ask(AuthRoleGetRequest { role: role.to_owned() }, &no_role(role)).await?;
    Ok(found.perm.iter().find(|perm| path_of(perm).as_deref() == Some(path)).map(Permission::perm_type))
}

pub(super) async fn role_grant(world: &mut World<'_>) -> Outcome {
    let (path, kind) = asked(world)?;
    let name = world.role()?;
    let before = granted(world, &name, &path).await?;
    let what = if kind == Type::Write { "write" } else { "read" };
    if before.is_some_and(|before| before == kind || before == Type::Readwrite) {
        return Err(Exit::plain(BAD_ARGS, format!("auth: Granting duplicate {what} permission {path}")));
    }
    let kind = if before.is_some() { Type::Readwrite } else { kind };
    let (key, range_end) = range_of(&path);
    let mut perms = vec![Permission { perm_type: kind.into(), key, range_end }];
    perms.extend(Helper::all(&path, kind));
    for perm in perms {
        let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(perm) };
        world.ask(request, &no_role(&name)).await?;
    }
    world.say(format_args!("Role {name} updated"))
}

pub(super) async fn role_revoke(world: &mut World<'_>) -> Outcome {
    let (path, kind) = asked(world)?;
    let role = world.role()?;
    let before = granted(world, &role, &path).await?;
    let left = match (before, kind) {
        (Some(Type::Readwrite), Type::Read) => Some(Type::Write),
        (Some(Type::Readwrite), Type::Write) => Some(Type::Read),
        (Some(before), kind) if before == kind => None,
        _ => return Err(Exit::plain(BAD_ARGS, "auth: Role not updated. Use grant/revoke to update the role.")),
    };
    let (key, range_end) = range_of(&path);
    let request =
        AuthRoleRevokePermissionRequest { role: role.clone(), key: key.clone(), range_end: range_end.clone() };
    world.ask(request, &[]).await?;
    if let Some(left) = left {
        let perm = Some(Permission { perm_type: left.into(), key, range_end });
        world.ask(AuthRoleGrantPermissionRequest { name: role.clone(), perm }, &[]).await?;
    }
    world.say(format_args!("Role {role} updated"))
}

pub(super) async fn enable(world: &mut World<'_>) -> Outcome {
    let is_on = async { Ok(world.client().await?.call(AuthStatusRequest {}).await?.enabled) };
    match is_on.await {
        Ok(true) if world.global("username", "ETCDCTL_USERNAME").is_empty() => {
            return Err(Exit::plain(BAD_ARGS, "Insufficient credentials"));
        }
        Ok(true) => return Err(Exit::plain(BAD_ARGS, "auth: already enabled")),
        // Who may not ask for it may learn it by trying.
        Ok(false) | Err(Failure::Client(client::Error::Answer { .. })) => {}
        Err(failure) => return Err(world.said(failure).await),
    }
    let root = "No root user available, please create one".to_owned();
    world.ask(AuthEnableRequest {}, &[(Etcd::RootUserNotExist, root.clone()), (Etcd::RootRoleNotExist, root)]).await?;
    world.say("Authentication Enabled")
}

pub(super) async fn disable(world: &mut World<'_>) -> Outcome {
    let is_on = async { Ok(world.client().await?.call(AuthStatusRequest {}).await?.enabled) };
    match is_on.await {
        Ok(false) => return Err(Exit::plain(BAD_ARGS, "auth: already disabled")),
        Ok(true) | Err(Failure::Client(client::Error::Answer { .. })) => {}
        Err(failure) => return Err(world.said(failure).await),
    }
    world.ask(AuthDisableRequest {}, &[]).await?;
    world.say("Authentication Disabled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_range_and_back_and_helpers_stay_hidden() {
        for path in ["/foo", "/foo/*", "/*", "/a/b/c", "/foo*", "/w/"] {
            let (key, range_end) = range_of(path);
            let perm = Permission { perm_type: Type::Read.into(), key, range_end };
            assert_eq!(path_of(&perm).as_deref(), Some(path));
        }
        for helper in Helper::all("/a/b/*", Type::Write) {
            assert_eq!(path_of(&helper), None, "{helper:?}");
        }
        let keys: Vec<Bytes> = Helper::all("/a/b/*", Type::Read).into_iter().map(|perm| perm.key).collect();
        assert_eq!(keys.len(), 5, "both levels in both forms, and the action: {keys:?}");
        let other = Permission { key: "foo".into(), ..Permission::default() };
        assert_eq!(path_of(&other), None, "a key of v3");
    }
}
