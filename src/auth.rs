//! Who may do what: users, roles, permissions on key ranges, and the verdicts on them.
//!
//! Three parts. [`Store`] is replicated: it changes by committed entries only, and its rows lie in tables of their own in the entry's
//! batch. For each user it keeps the permissions of all roles merged into as few intervals as possible ([`Permissions`]), so that a verdict is one
//! search. [`Tokens`] is one member's memory of who has logged in; it knows no clock, `now` comes in.
//!
//! ```text
//! user ──▶ roles ──▶ permissions (key, range_end, read/write)
//!   └─ merged once per change: read [a,c) [k,∞)   write [a,b)  ──▶ permit(who, range, access)
//! ```
//!
//! Every change counts up the *auth revision*. A request carries the revision at which its user was identified; if the store is newer when the
//! request is judged, it is refused and asks again. So no request is judged by rights that its user no longer has.
//!
//! The role `root` may do everything, without a record of its own. Left out: passwords are stored and never looked into here; hashing and
//! comparing takes tens of milliseconds and belongs to the server, outside the log. Source: etcd `server/auth/store.go`.

mod change;
mod permissions;
mod tokens;

#[cfg(test)]
mod tests;

pub use change::Change;
pub use permissions::Access;
pub use permissions::Permissions;
pub use tokens::Tokens;

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::proto::authpb;
use crate::proto::etcdserverpb as pb;
use crate::proto::lab;
use crate::types::KeyRange;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// The user without whom authentication cannot be turned on, and the role that may do everything.
pub const ROOT: &str = "root";

/// The auth revision of a store that nobody has changed.
const FIRST_REVISION: u64 = 1;

/// How many rows are read from the engine at a time.
const ROWS_PER_SCAN: usize = 1024;

/// Rows of [`Table::Auth`], named and written as in etcd.
const ENABLED: &[u8] = b"authEnabled";
const REVISION: &[u8] = b"authRevision";

/// Who asks, and at which auth revision that was found out. Nobody has an empty name and revision 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    pub user: String,
    pub revision: u64,
}

impl Who {
    /// Whom an entry's header names.
    #[must_use]
    pub fn of(header: Option<&pb::RequestHeader>) -> Who {
        let named = |header: &pb::RequestHeader| Who { user: header.username.clone(), revision: header.auth_revision };
        header.map(named).unwrap_or_default()
    }
}

/// What must be known to compare a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The bcrypt string.
    pub hash: Bytes,
    /// The auth revision at which it was read.
    pub revision: u64,
}

/// The replicated half: users, roles, and whether they count.
#[derive(Clone, PartialEq)]
pub struct Store {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, authpb::User>,
    roles: BTreeMap<String, authpb::Role>,
    /// Made from users and roles, for every user.
    merged: BTreeMap<String, Permissions>,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            merged: BTreeMap::new(),
        }
    }
}

impl Store {
    /// The state as the engine has it.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a row that cannot be what was written, [`Error::Storage`] if the engine cannot be read.
    pub fn load(engine: &dyn Engine) -> Result<Store, Error> {
        let mut store = Store::default();
        match engine.get(Table::Auth, ENABLED)?.as_deref() {
            None | Some([0]) => {}
            Some([1]) => store.enabled = true,
            Some(row) => return Err(Error::Damaged(format!("authEnabled: {row:02x?}"))),
        }
        if let Some(row) = engine.get(Table::Auth, REVISION)? {
            let bytes = row.as_ref().try_into().map_err(|_| Error::Damaged(format!("authRevision: {row:02x?}")))?;
            store.revision = u64::from_be_bytes(bytes);
        }
        store.users = load_all(engine, Table::AuthUsers, |user: &authpb::User| &user.name)?;
        store.roles = load_all(engine, Table::AuthRoles, |role: &authpb::Role| &role.name)?;
        let names: Vec<String> = store.users.keys().cloned().collect();
        names.iter().for_each(|name| store.merge(name));
        Ok(store)
    }

    /// Writes every row: for an engine that is made anew.
    pub fn save(&self, batch: &mut Batch) {
        batch.put(Table::Auth, ENABLED, vec![u8::from(self.enabled)]);
        batch.put(Table::Auth, REVISION, self.revision.to_be_bytes().to_vec());
        for user in self.users.values() {
            batch.put(Table::AuthUsers, user.name.clone(), user.encode_to_vec());
        }
        for role in self.roles.values() {
            batch.put(Table::AuthRoles, role.name.clone(), role.encode_to_vec());
        }
    }

    /// Whether requests need a user.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes, from 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    // Verdicts. While authentication is off, everybody may do everything.

    /// Whether `who` has `access` to every key of `range`.
    ///
    /// # Errors
    /// [`Error::UserEmpty`] for nobody, [`Error::AuthOldRevision`] if users or roles have changed since `who` was identified,
    /// [`Error::PermissionDenied`].
    pub fn permit(&self, who: &Who, range: &KeyRange, access: Access) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if who.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if who.revision < self.revision {
            return Err(Error::AuthOldRevision);
        }
        match self.merged.get(&who.user) {
            Some(permissions) if permissions.allow(range, access) => Ok(()),
            _ => Err(Error::PermissionDenied),
        }
    }

    /// Whether `who` has the role root. As in etcd, the auth revision does not matter here.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserNotFound`], [`Error::PermissionDenied`].
    pub fn permit_root(&self, who: &Who) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if who.user.is_empty() {
            return Err(Error::UserEmpty);
        }
        let permissions = self.merged.get(&who.user).ok_or(Error::UserNotFound)?;
        permissions.is_root().then_some(()).ok_or(Error::PermissionDenied)
    }

    /// Whether `who` may see `user`: themselves, or anybody for root. Nobody may look for the user without a name, whom there never is.
    ///
    /// # Errors
    /// As [`Store::permit_root`].
    pub fn permit_user(&self, who: &Who, user: &str) -> Result<(), Error> {
        self.permit_root(who).or_else(|e| if who.user == user { Ok(()) } else { Err(e) })
    }

    /// Whether `who` may see `role`: one of their own, or any for root.
    ///
    /// # Errors
    /// As [`Store::permit_root`].
    pub fn permit_role(&self, who: &Who, role: &str) -> Result<(), Error> {
        let holds = self.users.get(&who.user).is_some_and(|user| user.roles.iter().any(|have| have == role));
        self.permit_root(who).or_else(|e| if holds { Ok(()) } else { Err(e) })
    }

    // What can be asked.

    /// The hash that a user's password must match.
    ///
    /// # Errors
    /// [`Error::AuthNotEnabled`]; [`Error::AuthFailed`] for a user who does not exist; [`Error::NoPasswordUser`].
    pub fn secret(&self, user: &str) -> Result<Secret, Error> {
        if !self.enabled {
            return Err(Error::AuthNotEnabled);
        }
        let user = self.users.get(user).ok_or(Error::AuthFailed)?;
        if has_no_password(user) {
            return Err(Error::NoPasswordUser);
        }
        Ok(Secret { hash: user.password.clone(), revision: self.revision })
    }

    /// A user's roles, sorted.
    ///
    /// # Errors
    /// [`Error::UserNotFound`].
    pub fn roles_of(&self, user: &str) -> Result<&[String], Error> {
        self.users.get(user).map(|user| user.roles.as_slice()).ok_or(Error::UserNotFound)
    }

    /// A role's permissions, sorted by key. The role root has one that covers everything, if it has a record at all.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`].
    pub fn permissions_of(&self, role: &str) -> Result<Vec<authpb::Permission>, Error> {
        let record = self.roles.get(role).ok_or(Error::RoleNotFound)?;
        if role == ROOT {
            let perm_type = authpb::permission::Type::Readwrite as i32;
            return Ok(vec![authpb::Permission { perm_type, key: Bytes::new(), range_end: Bytes::from_static(&[0]) }]);
        }
        Ok(record.key_permission.clone())
    }

    /// The users' names, sorted.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The names of the roles that have a record, sorted.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// Who may do what, for the lab to show: at most `max` users and roles, and a quarter as many permissions of each role.
    #[must_use]
    pub fn look(&self, max: usize) -> lab::Rights {
        let permission = |p: authpb::Permission| {
            let kind = p.perm_type();
            let read = kind != authpb::permission::Type::Write;
            let write = kind != authpb::permission::Type::Read;
            lab::Permission { read, write, key: p.key, range_end: p.range_end }
        };
        let user = |name: &str| {
            let roles = self.roles_of(name).map(<[String]>::to_vec).unwrap_or_default();
            lab::UserView { name: name.to_owned(), roles }
        };
        let role = |name: &str| {
            let permissions = self.permissions_of(name).unwrap_or_default();
            let permissions = permissions.into_iter().take(max / 4).map(permission).collect();
            lab::RoleView { name: name.to_owned(), permissions }
        };
        lab::Rights {
            enabled: self.is_enabled(),
            users: self.users().take(max).map(user).collect(),
            roles: self.roles().take(max).map(role).collect(),
        }
    }

    /// Makes a user's merged permissions anew; forgets them with the user.
    fn merge(&mut self, user: &str) {
        match self.users.get(user) {
            Some(record) => {
                let roles = record.roles.iter().filter_map(|role| self.roles.get(role));
                let is_root = record.roles.iter().any(|role| role == ROOT);
                self.merged.insert(user.to_owned(), Permissions::merged(is_root, roles));
            }
            None => drop(self.merged.remove(user)),
        }
    }
}

fn has_no_password(user: &authpb::User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

fn load_all<M: prost::Message + Default>(
    engine: &dyn Engine,
    table: Table,
    name: impl Fn(&M) -> &Bytes,
) -> Result<BTreeMap<String, M>, Error> {
    let damaged = |key: &Bytes, why: &dyn std::fmt::Display| {
        Error::Damaged(format!("{} row {}: {why}", table.name(), String::from_utf8_lossy(key)))
    };
    let (mut all, mut from) = (BTreeMap::new(), Vec::new());
    loop {
        let rows = engine.scan(table, &from, ROWS_PER_SCAN)?;
        for (key, value) in &rows {
            let record = M::decode(value.clone()).map_err(|e| damaged(key, &e))?;
            let text = std::str::from_utf8(key).map_err(|e| damaged(key, &e))?;
            if name(&record) != key || key.is_empty() {
                return Err(damaged(key, &"holds another name"));
            }
            all.insert(text.to_owned(), record);
        }
        match rows.last() {
            Some((key, _)) if rows.len() == ROWS_PER_SCAN => from = [key.as_ref(), &[0]].concat(),
            _ => return Ok(all),
        }
    }
}
