//! Who may have an entry applied, and the entries that change that.
//!
//! Everything is judged here again that was judged before it was proposed, with the user and the auth revision in the entry's header: rights may
//! have changed on the way, and all members come to the same verdict. The check visits the very request that is carried out, nested
//! transactions and both of their branches, keys that come back (`prev_kv`) and keys that hang on a lease included.
//!
//! Not judged here are entries that members write for themselves (versions, names, checkpoints, alarms) and those that the server lets pass
//! to root or to any user (compaction, new leases). Source: etcd `server/etcdserver/apply/apply_auth.go`.

use super::Machine;
use super::Outcome;
use super::Reply;
use super::kv::header;
use crate::auth::Access;
use crate::auth::Change;
use crate::auth::Tokens;
use crate::auth::Who;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request;
use crate::types::KeyRange;
use crate::types::LeaseId;
use bytes::Bytes;

impl Machine {
    /// Whether the user in the entry's header may have this entry applied.
    pub(super) fn permit(&self, request: &pb::InternalRaftRequest) -> Result<(), Error> {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        let who = Who::of(request.header.as_ref());
        if changes_auth(request) {
            self.auth.permit_root(&who)?;
        }
        if let Some(range) = &request.range {
            self.permit_keys(&who, &range.key, &range.range_end, Access::Read)?;
        }
        if let Some(put) = &request.put {
            self.permit_put(&who, put)?;
        }
        if let Some(delete) = &request.delete_range {
            self.permit_delete(&who, delete)?;
        }
        if let Some(txn) = &request.txn {
            self.permit_txn(&who, txn)?;
        }
        if let Some(revoke) = &request.lease_revoke {
            self.permit_lease(&who, LeaseId(revoke.id), Access::Write)?;
        }
        Ok(())
    }

    /// Whether `who` may do everything that a transaction might do: all comparisons and both branches.
    ///
    /// # Errors
    /// As [`crate::auth::Store::permit`].
    pub fn permit_txn(&self, who: &Who, txn: &pb::TxnRequest) -> Result<(), Error> {
        for compare in &txn.compare {
            self.permit_keys(who, &compare.key, &compare.range_end, Access::Read)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    self.permit_keys(who, &range.key, &range.range_end, Access::Read)?;
                }
                Some(Request::RequestPut(put)) => self.permit_put(who, put)?,
                Some(Request::RequestDeleteRange(delete)) => self.permit_delete(who, delete)?,
                Some(Request::RequestTxn(nested)) => self.permit_txn(who, nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Whether `who` may read or write every key that hangs on a lease. One without keys, and one that is gone, is everybody's.
    ///
    /// # Errors
    /// As [`crate::auth::Store::permit`].
    pub fn permit_lease(&self, who: &Who, id: LeaseId, access: Access) -> Result<(), Error> {
        // Whoever is root by now need not have been identified at this auth revision: etcd expires leases so.
        if self.auth.permit_root(who).is_ok() {
            return Ok(());
        }
        self.leases.keys_of(id).try_for_each(|key| self.auth.permit(who, &KeyRange::Single(key.clone()), access))
    }

    /// Whether `who` may read every one of these keys.
    ///
    /// # Errors
    /// As [`crate::auth::Store::permit`].
    pub fn permit_lease_keys(&self, who: &Who, keys: &[Bytes]) -> Result<(), Error> {
        if self.auth.permit_root(who).is_ok() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| self.auth.permit(who, &KeyRange::Single(key.clone()), Access::Read))
    }

    fn permit_keys(&self, who: &Who, key: &Bytes, range_end: &Bytes, access: Access) -> Result<(), Error> {
        self.auth.permit(who, &KeyRange::parse(key, range_end), access)
    }

    fn permit_put(&self, who: &Who, put: &pb::PutRequest) -> Result<(), Error> {
        let key = KeyRange::Single(put.key.clone());
        self.auth.permit(who, &key, Access::Write)?;
        // A key on a lease goes when the lease goes, so that whoever hangs one there could remove the others.
        self.permit_lease(who, LeaseId(put.lease), Access::Write)?;
        if put.prev_kv { self.auth.permit(who, &key, Access::Read) } else { Ok(()) }
    }

    fn permit_delete(&self, who: &Who, delete: &pb::DeleteRangeRequest) -> Result<(), Error> {
        let keys = KeyRange::parse(&delete.key, &delete.range_end);
        self.auth.permit(who, &keys, Access::Write)?;
        if delete.prev_kv { self.auth.permit(who, &keys, Access::Read) } else { Ok(()) }
    }

    /// Carries out an entry about users and roles. [`Machine::permit`] has let it pass.
    pub(super) fn change_auth(&mut self, request: pb::InternalRaftRequest, out: &mut Outcome) -> Result<Reply, Error> {
        if let Some(login) = &request.authenticate {
            return self.authenticate(login, out);
        }
        if is_question(&request) {
            return Ok(Reply::Done);
        }
        let (auth, rows) = (&mut self.auth, &mut self.rows);
        out.auth = if request.auth_enable.is_some() {
            auth.enable(rows)?
        } else if request.auth_disable.is_some() {
            auth.disable(rows)
        } else if let Some(add) = &request.auth_user_add {
            Some(auth.user_add(add, rows)?)
        } else if let Some(delete) = &request.auth_user_delete {
            Some(auth.user_delete(delete, rows)?)
        } else if let Some(change) = &request.auth_user_change_password {
            Some(auth.user_change_password(change, rows)?)
        } else if let Some(grant) = &request.auth_user_grant_role {
            auth.user_grant_role(grant, rows)?
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            Some(auth.user_revoke_role(revoke, rows)?)
        } else if let Some(add) = &request.auth_role_add {
            Some(auth.role_add(add, rows)?)
        } else if let Some(delete) = &request.auth_role_delete {
            Some(auth.role_delete(delete, rows)?)
        } else if let Some(grant) = &request.auth_role_grant_permission {
            Some(auth.role_grant_permission(grant, rows)?)
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            Some(auth.role_revoke_permission(revoke, rows)?)
        } else {
            return Err(Error::Unimplemented("a request of this kind"));
        };
        Ok(Reply::Auth(header(self.store.revision()).unwrap_or_default()))
    }

    fn authenticate(&self, login: &pb::InternalAuthenticateRequest, out: &mut Outcome) -> Result<Reply, Error> {
        self.auth.authenticate(&login.name)?;
        let made = Tokens::made_of(&login.simple_token, self.applied.0);
        if let Some(token) = made.clone() {
            out.auth = Some(Change::Token { token, user: login.name.clone() });
        }
        Ok(Reply::Authenticate {
            header: header(self.store.revision()).unwrap_or_default(),
            token: made.unwrap_or_default(),
            user: login.name.clone(),
            auth_revision: self.auth.revision(),
        })
    }
}

/// Whether an entry changes users, roles or whether they count.
fn changes_auth(r: &pb::InternalRaftRequest) -> bool {
    r.auth_enable.is_some()
        || r.auth_disable.is_some()
        || r.auth_user_add.is_some()
        || r.auth_user_delete.is_some()
        || r.auth_user_change_password.is_some()
        || r.auth_user_grant_role.is_some()
        || r.auth_user_revoke_role.is_some()
        || r.auth_role_add.is_some()
        || r.auth_role_delete.is_some()
        || r.auth_role_grant_permission.is_some()
        || r.auth_role_revoke_permission.is_some()
}

/// Whether an entry only asks. etcd's members write such questions into the log; we answer them without, and ignore theirs.
fn is_question(r: &pb::InternalRaftRequest) -> bool {
    r.auth_status.is_some()
        || r.auth_user_get.is_some()
        || r.auth_user_list.is_some()
        || r.auth_role_get.is_some()
        || r.auth_role_list.is_some()
}
