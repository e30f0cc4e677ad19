//! Users, roles and permissions, naively: what the log makes of them, and what a client may ask about them.
//!
//! Nothing is merged here and nothing kept beside the roles themselves: each verdict looks at every permission again.

use crate::apply::Reply;
use crate::error::Error;
use crate::proto::authpb::Permission;
use crate::proto::authpb::UserAddOptions;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use crate::types::KeyRange;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

pub(super) const ROOT: &str = "root";

/// The first things that clients ask for, so that authentication is soon of use.
const SETUP: u64 = 10;

/// Who may do what, as the log says.
#[derive(Clone)]
pub(super) struct Rights {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for Rights {
    fn default() -> Rights {
        Rights { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// What an entry wants to do with keys.
struct Wants {
    write: bool,
    range: KeyRange,
}

fn wants(write: bool, key: &Bytes, range_end: &Bytes) -> Wants {
    Wants { write, range: KeyRange::parse(key, range_end) }
}

fn wants_of_put(put: &pb::PutRequest, of_lease: &impl Fn(i64) -> Vec<Bytes>) -> Vec<Wants> {
    let mut all = vec![wants(true, &put.key, &Bytes::new())];
    all.extend(of_lease(put.lease).iter().map(|key| wants(true, key, &Bytes::new())));
    all.extend(put.prev_kv.then(|| wants(false, &put.key, &Bytes::new())));
    all
}

fn wants_of_delete(delete: &pb::DeleteRangeRequest) -> Vec<Wants> {
    let mut all = vec![wants(true, &delete.key, &delete.range_end)];
    all.extend(delete.prev_kv.then(|| wants(false, &delete.key, &delete.range_end)));
    all
}

fn wants_of(request: &pb::InternalRaftRequest, of_lease: &impl Fn(i64) -> Vec<Bytes>) -> Vec<Wants> {
    let mut all = Vec::new();
    if let Some(put) = &request.put {
        all.extend(wants_of_put(put, of_lease));
    }
    if let Some(delete) = &request.delete_range {
        all.extend(wants_of_delete(delete));
    }
    if let Some(revoke) = &request.lease_revoke {
        all.extend(of_lease(revoke.id).iter().map(|key| wants(true, key, &Bytes::new())));
    }
    let Some(txn) = &request.txn else { return all };
    all.extend(txn.compare.iter().map(|compare| wants(false, &compare.key, &compare.range_end)));
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestPut(put)) => all.extend(wants_of_put(put, of_lease)),
            Some(Request::RequestDeleteRange(delete)) => all.extend(wants_of_delete(delete)),
            Some(Request::RequestRange(range)) => all.push(wants(false, &range.key, &range.range_end)),
            _ => {}
        }
    }
    all
}

impl Rights {
    pub(super) fn summary(&self) -> (bool, u64) {
        (self.enabled, self.revision)
    }

    fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|roles| roles.contains(ROOT))
    }

    /// Whether this request may be carried out. `of_lease`: the keys that hang on a lease.
    pub(super) fn judge(
        &self,
        request: &pb::InternalRaftRequest,
        of_lease: impl Fn(i64) -> Vec<Bytes>,
    ) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let (user, revision) =
            request.header.as_ref().map_or(("", 0), |header| (header.username.as_str(), header.auth_revision));
        if is_about_rights(request) {
            return match self.users.get(user) {
                _ if user.is_empty() => Err(Error::UserEmpty),
                None => Err(Error::UserNotFound),
                Some(roles) => roles.contains(ROOT).then_some(()).ok_or(Error::PermissionDenied),
            };
        }
        // Root may do with the keys of a lease what it likes, at whatever revision it was identified.
        let of_lease = |id| if self.is_root(user) { Vec::new() } else { of_lease(id) };
        wants_of(request, &of_lease).iter().try_for_each(|wanted| self.judge_keys(user, revision, wanted))
    }

    /// Whether this user, as it was known at auth revision `revision`, may read all of this.
    pub(super) fn judge_read(&self, user: &str, revision: u64, range: KeyRange) -> Result<(), Error> {
        if self.enabled { self.judge_keys(user, revision, &Wants { write: false, range }) } else { Ok(()) }
    }

    fn judge_keys(&self, user: &str, revision: u64, wanted: &Wants) -> Result<(), Error> {
        if revision == 0 {
            return Err(Error::UserEmpty);
        }
        if revision < self.revision {
            return Err(Error::AuthOldRevision);
        }
        let may = self.is_root(user) || self.allows(user, wanted);
        may.then_some(()).ok_or(Error::PermissionDenied)
    }

    /// Every key of the range is in some permission: its first key is, and wherever one permission ends, another goes on.
    fn allows(&self, user: &str, wanted: &Wants) -> bool {
        let roles = self.users.get(user).into_iter().flatten().filter_map(|role| self.roles.get(role));
        let useful = roles.flatten().filter(|permission| match permission.perm_type() {
            Type::Readwrite => true,
            Type::Write => wanted.write,
            Type::Read => !wanted.write,
        });
        let ranges: Vec<KeyRange> = useful.map(|have| KeyRange::parse(&have.key, &have.range_end)).collect();
        let ends = ranges.iter().filter_map(|range| match range {
            KeyRange::Single(key) => Some([key.as_ref(), &[0]].concat()),
            KeyRange::Interval(_, end) => Some(end.to_vec()),
            KeyRange::From(_) => None,
        });
        let points = ends.filter(|end| wanted.range.contains(end)).chain([wanted.range.start().to_vec()]);
        points.into_iter().all(|point| ranges.iter().any(|range| range.contains(&point)))
    }

    /// Carries out an entry about rights, if it is one; `header` is its answer's.
    pub(super) fn run(
        &mut self,
        request: &pb::InternalRaftRequest,
        header: Option<pb::ResponseHeader>,
    ) -> Option<Result<Reply, Error>> {
        if !is_about_rights(request) {
            return None;
        }
        let changed = self.change(request);
        // Turning authentication on is no new revision, as in etcd; nor is what changes nothing.
        self.revision += u64::from(changed == Ok(true) && request.auth_enable.is_none());
        Some(changed.map(|_| Reply::Auth(header.unwrap_or_default())))
    }

    /// True if something has changed.
    fn change(&mut self, request: &pb::InternalRaftRequest) -> Result<bool, Error> {
        if request.auth_enable.is_some() {
            let root = self.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
            if !self.enabled && !root.contains(ROOT) {
                return Err(Error::RootRoleNotExist);
            }
            return Ok(!std::mem::replace(&mut self.enabled, true));
        }
        if request.auth_disable.is_some() {
            return Ok(std::mem::replace(&mut self.enabled, false));
        }
        if let Some(add) = &request.auth_user_add {
            let is_new = !self.users.contains_key(&add.name);
            self.users.entry(add.name.clone()).or_default();
            return is_new.then_some(true).ok_or(Error::UserExists);
        }
        if let Some(delete) = &request.auth_user_delete {
            return self.users.remove(&delete.name).map(|_| true).ok_or(Error::UserNotFound);
        }
        if let Some(add) = &request.auth_role_add {
            let is_new = !self.roles.contains_key(&add.name);
            self.roles.entry(add.name.clone()).or_default();
            return is_new.then_some(true).ok_or(Error::RoleExists);
        }
        if let Some(delete) = &request.auth_role_delete {
            self.roles.remove(&delete.role).ok_or(Error::RoleNotFound)?;
            for roles in self.users.values_mut() {
                roles.remove(&delete.role);
            }
            return Ok(true);
        }
        if let Some(grant) = &request.auth_user_grant_role {
            let roles = self.users.get_mut(&grant.user).ok_or(Error::UserNotFound)?;
            if grant.role != ROOT && !self.roles.contains_key(&grant.role) {
                return Err(Error::RoleNotFound);
            }
            return Ok(roles.insert(grant.role.clone()));
        }
        if let Some(revoke) = &request.auth_user_revoke_role {
            let roles = self.users.get_mut(&revoke.name).ok_or(Error::UserNotFound)?;
            return roles.remove(&revoke.role).then_some(true).ok_or(Error::RoleNotGranted);
        }
        self.change_permission(request)
    }

    fn change_permission(&mut self, request: &pb::InternalRaftRequest) -> Result<bool, Error> {
        if let Some(grant) = &request.auth_role_grant_permission {
            let have = self.roles.get_mut(&grant.name).ok_or(Error::RoleNotFound)?;
            let new = grant.perm.clone().expect("clients give one");
            // etcd's oddity: only the first permission of a key is replaced, and only if its range is the same.
            match have.iter_mut().find(|old| old.key == new.key) {
                Some(old) if old.range_end == new.range_end => old.perm_type = new.perm_type,
                _ => have.push(new),
            }
            return Ok(true);
        }
        if let Some(revoke) = &request.auth_role_revoke_permission {
            let have = self.roles.get_mut(&revoke.role).ok_or(Error::RoleNotFound)?;
            let before = have.len();
            have.retain(|old| old.key != revoke.key || old.range_end != revoke.range_end);
            return (have.len() < before).then_some(true).ok_or(Error::PermissionNotGranted);
        }
        unreachable!("is_about_rights names no more")
    }
}

pub(super) fn is_about_rights(request: &pb::InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
}

/// Who asks, while users are asked for.
pub(super) fn user(dice: &mut StdRng) -> &'static str {
    [ROOT, ROOT, "u1", "u1", "u2", ""][dice.random_range(0..6)]
}

/// Who asks while users are not asked for, should they be when it is served.
pub(super) fn user_later(number: u64) -> &'static str {
    [ROOT, "u1", "u2", ""][number as usize % 4]
}

fn some(dice: &mut StdRng, of: [&str; 2]) -> String {
    of[dice.random_range(0..2)].to_owned()
}

fn some_keys(dice: &mut StdRng) -> (Bytes, Bytes) {
    let all = [("k", "l"), ("k0", "k5"), ("k5", "l"), ("k3", ""), ("k4", ""), ("k4", "k7")];
    let (key, range_end) = all[dice.random_range(0..all.len())];
    (key.into(), range_end.into())
}

/// A change of users, roles or permissions; `number` counts the client's questions.
pub(super) fn ask(number: u64, dice: &mut StdRng) -> pb::InternalRaftRequest {
    let mut request = pb::InternalRaftRequest::default();
    let step = if number < SETUP { number } else { dice.random_range(0..25) };
    let (u, r) = (some(dice, ["u1", "u2"]), some(dice, ["r1", "r2"]));
    let add_user = |name: String| {
        let options = Some(UserAddOptions { no_password: true });
        Some(pb::AuthUserAddRequest { name, options, ..Default::default() })
    };
    match step {
        0 => request.auth_user_add = add_user(ROOT.to_owned()),
        1 => request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user: ROOT.into(), role: ROOT.into() }),
        2..=3 => request.auth_user_add = add_user(u),
        4..=5 => request.auth_role_add = Some(pb::AuthRoleAddRequest { name: r }),
        6 | 10..=12 => request.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user: u, role: r }),
        7 | 8 | 13..=17 => {
            let (key, range_end) = some_keys(dice);
            let perm = Some(Permission { perm_type: dice.random_range(0..3), key, range_end });
            request.auth_role_grant_permission = Some(pb::AuthRoleGrantPermissionRequest { name: r, perm });
        }
        9 | 18..=19 => request.auth_enable = Some(pb::AuthEnableRequest {}),
        20 => request.auth_disable = Some(pb::AuthDisableRequest {}),
        21 => request.auth_user_revoke_role = Some(pb::AuthUserRevokeRoleRequest { name: u, role: r }),
        22 => request.auth_user_delete = Some(pb::AuthUserDeleteRequest { name: u }),
        23 => request.auth_role_delete = Some(pb::AuthRoleDeleteRequest { role: r }),
        _ => {
            let (key, range_end) = some_keys(dice);
            let revoke = pb::AuthRoleRevokePermissionRequest { role: r, key, range_end };
            request.auth_role_revoke_permission = Some(revoke);
        }
    }
    request
}

/// Whether clients still build up what authentication needs.
pub(super) fn is_setup(number: u64) -> bool {
    number < SETUP
}
