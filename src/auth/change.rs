//! The entries that change users, roles and whether they count.
//!
//! Each checks everything before it writes anything; what fails, changes nothing. Orders of checks and oddities are etcd's, since members of both
//! kinds must come to the same state: turning authentication on does not count up the revision, and a permission is replaced only if it
//! is the first of its key. Source: etcd `server/auth/store.go`.

use super::ENABLED;
use super::REVISION;
use super::ROOT;
use super::Store;
use super::has_no_password;
use crate::engine::Batch;
use crate::engine::Table;
use crate::error::Error;
use crate::proto::authpb;
use crate::proto::etcdserverpb as pb;
use crate::types::KeyRange;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;

/// What an entry did, for the member's own memory of who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Authentication is on: tokens count from now on.
    Enabled,
    /// Authentication is off: all tokens are forgotten.
    Disabled,
    /// This user's tokens are forgotten.
    TokensGone(String),
    /// All tokens are forgotten: whose rights have ended is not known.
    AllTokensGone,
    /// A user has logged in with this token.
    Token { token: String, user: String },
    /// Rights have changed; tokens have not.
    Rights,
}

impl Store {
    /// Turns authentication on; nothing if it is on.
    ///
    /// # Errors
    /// [`Error::RootUserNotExist`], [`Error::RootRoleNotExist`].
    pub fn enable(&mut self, batch: &mut Batch) -> Result<Option<Change>, Error> {
        if self.enabled {
            return Ok(None);
        }
        let root = self.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
        if !root.roles.iter().any(|role| role == ROOT) {
            return Err(Error::RootRoleNotExist);
        }
        self.enabled = true;
        batch.put(Table::Auth, ENABLED, vec![1]);
        Ok(Some(Change::Enabled))
    }

    /// Turns authentication off; nothing if it is off.
    pub fn disable(&mut self, batch: &mut Batch) -> Option<Change> {
        if !self.enabled {
            return None;
        }
        self.enabled = false;
        batch.put(Table::Auth, ENABLED, vec![0]);
        self.count(batch);
        Some(Change::Disabled)
    }

    /// Whether `user` may have a token. The password has been compared by then, before the entry was proposed.
    ///
    /// # Errors
    /// [`Error::AuthNotEnabled`], [`Error::AuthFailed`].
    pub fn authenticate(&self, user: &str) -> Result<(), Error> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled);
        }
        let known = self.users.get(user).filter(|user| !has_no_password(user));
        known.map(|_| ()).ok_or(Error::AuthFailed)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserExists`], [`Error::NoPasswordUser`] for a hash that is none.
    pub fn user_add(&mut self, request: &pb::AuthUserAddRequest, batch: &mut Batch) -> Result<Change, Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Error::UserExists);
        }
        let options = request.options.unwrap_or_default();
        let password = match options.no_password {
            true => Bytes::new(),
            false => hash(&request.password, &request.hashed_password)?,
        };
        let name = Bytes::copy_from_slice(request.name.as_bytes());
        self.put_user(authpb::User { name, password, roles: Vec::new(), options: Some(options) }, batch);
        self.count(batch);
        Ok(Change::Rights)
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root while authentication is on, [`Error::UserNotFound`].
    pub fn user_delete(&mut self, request: &pb::AuthUserDeleteRequest, batch: &mut Batch) -> Result<Change, Error> {
        if self.enabled && request.name == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let user = self.users.remove(&request.name).ok_or(Error::UserNotFound)?;
        batch.delete(Table::AuthUsers, user.name);
        self.merge(&request.name);
        self.count(batch);
        Ok(Change::TokensGone(request.name.clone()))
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::NoPasswordUser`] for a hash that is none.
    pub fn user_change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
        batch: &mut Batch,
    ) -> Result<Change, Error> {
        let user = self.users.get(&request.name).ok_or(Error::UserNotFound)?;
        let password = match has_no_password(user) {
            true => Bytes::new(),
            false => hash(&request.password, &request.hashed_password)?,
        };
        self.put_user(authpb::User { password, ..user.clone() }, batch);
        self.count(batch);
        Ok(Change::TokensGone(request.name.clone()))
    }

    /// Gives a user a role; nothing if they have it.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::RoleNotFound`].
    pub fn user_grant_role(
        &mut self,
        request: &pb::AuthUserGrantRoleRequest,
        batch: &mut Batch,
    ) -> Result<Option<Change>, Error> {
        let user = self.users.get(&request.user).ok_or(Error::UserNotFound)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(Error::RoleNotFound);
        }
        let Err(place) = user.roles.binary_search(&request.role) else { return Ok(None) };
        let mut user = user.clone();
        user.roles.insert(place, request.role.clone());
        self.put_user(user, batch);
        self.count(batch);
        Ok(Some(Change::Rights))
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root's role root while authentication is on, [`Error::UserNotFound`], [`Error::RoleNotGranted`].
    pub fn user_revoke_role(
        &mut self,
        request: &pb::AuthUserRevokeRoleRequest,
        batch: &mut Batch,
    ) -> Result<Change, Error> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let user = self.users.get(&request.name).ok_or(Error::UserNotFound)?;
        let user = without_role(user, &request.role).ok_or(Error::RoleNotGranted)?;
        self.put_user(user, batch);
        self.count(batch);
        Ok(Change::Rights)
    }

    /// Adds a role without permissions.
    ///
    /// # Errors
    /// [`Error::RoleEmpty`], [`Error::RoleExists`].
    pub fn role_add(&mut self, request: &pb::AuthRoleAddRequest, batch: &mut Batch) -> Result<Change, Error> {
        if request.name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.roles.contains_key(&request.name) {
            return Err(Error::RoleExists);
        }
        let name = Bytes::copy_from_slice(request.name.as_bytes());
        self.put_role(authpb::Role { name, key_permission: Vec::new() }, batch);
        self.count(batch);
        Ok(Change::Rights)
    }

    /// Removes a role, also from all who have it.
    ///
    /// # Errors
    /// [`Error::InvalidAuthManagement`] for root while authentication is on, [`Error::RoleNotFound`].
    pub fn role_delete(&mut self, request: &pb::AuthRoleDeleteRequest, batch: &mut Batch) -> Result<Change, Error> {
        if self.enabled && request.role == ROOT {
            return Err(Error::InvalidAuthManagement);
        }
        let role = self.roles.remove(&request.role).ok_or(Error::RoleNotFound)?;
        batch.delete(Table::AuthRoles, role.name);
        let holders = self.users.values().filter_map(|user| without_role(user, &request.role));
        for user in holders.collect::<Vec<_>>() {
            self.put_user(user, batch);
        }
        self.count(batch);
        Ok(Change::Rights)
    }

    /// Gives a role a permission, or another kind of access to the same range.
    ///
    /// # Errors
    /// [`Error::PermissionNotGiven`], [`Error::InvalidAuthManagement`] for a range without keys, [`Error::RoleNotFound`].
    pub fn role_grant_permission(
        &mut self,
        request: &pb::AuthRoleGrantPermissionRequest,
        batch: &mut Batch,
    ) -> Result<Change, Error> {
        let permission = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        let range = KeyRange::parse(&permission.key, &permission.range_end);
        if permission.key.is_empty() || range.is_empty() {
            return Err(Error::InvalidAuthManagement);
        }
        let mut role = self.roles.get(&request.name).ok_or(Error::RoleNotFound)?.clone();
        let all = &mut role.key_permission;
        let first = all.partition_point(|have| have.key < permission.key);
        match all.get_mut(first) {
            Some(have) if have.key == permission.key && have.range_end == permission.range_end => {
                have.perm_type = permission.perm_type;
            }
            _ => {
                let behind = all.partition_point(|have| have.key <= permission.key);
                all.insert(behind, permission.clone());
            }
        }
        self.change_role(role, batch);
        Ok(Change::Rights)
    }

    /// Takes a permission from a role.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`], [`Error::PermissionNotGranted`].
    pub fn role_revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
        batch: &mut Batch,
    ) -> Result<Change, Error> {
        let mut role = self.roles.get(&request.role).ok_or(Error::RoleNotFound)?.clone();
        let before = role.key_permission.len();
        role.key_permission.retain(|have| have.key != request.key || have.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(Error::PermissionNotGranted);
        }
        self.change_role(role, batch);
        Ok(Change::Rights)
    }

    /// Stores a role whose permissions have changed, and merges anew for all who have it.
    fn change_role(&mut self, role: authpb::Role, batch: &mut Batch) {
        let name = String::from_utf8_lossy(&role.name).into_owned();
        self.put_role(role, batch);
        let has = |user: &&authpb::User| user.roles.contains(&name);
        let holders = self.users.values().filter(has).map(|user| String::from_utf8_lossy(&user.name).into_owned());
        for user in holders.collect::<Vec<_>>() {
            self.merge(&user);
        }
        self.count(batch);
    }

    fn put_user(&mut self, user: authpb::User, batch: &mut Batch) {
        let name = String::from_utf8_lossy(&user.name).into_owned();
        batch.put(Table::AuthUsers, user.name.clone(), user.encode_to_vec());
        self.users.insert(name.clone(), user);
        self.merge(&name);
    }

    fn put_role(&mut self, role: authpb::Role, batch: &mut Batch) {
        batch.put(Table::AuthRoles, role.name.clone(), role.encode_to_vec());
        self.roles.insert(String::from_utf8_lossy(&role.name).into_owned(), role);
    }

    fn count(&mut self, batch: &mut Batch) {
        self.revision += 1;
        batch.put(Table::Auth, REVISION, self.revision.to_be_bytes().to_vec());
    }
}

fn without_role(user: &authpb::User, role: &str) -> Option<authpb::User> {
    let place = user.roles.iter().position(|have| have == role)?;
    let mut user = user.clone();
    user.roles.remove(place);
    Some(user)
}

/// The bcrypt string out of its base64. A plain password, which only releases before 3.5 put into the log, cannot be hashed here: each member would
/// draw another salt.
fn hash(password: &str, hashed: &str) -> Result<Bytes, Error> {
    if hashed.is_empty() && !password.is_empty() {
        return Err(Error::NoPasswordUser);
    }
    STANDARD.decode(hashed).map(Bytes::from).map_err(|_| Error::NoPasswordUser)
}
