//! Requests as the log tells them: in protobuf's text form, with sizes in the place of values, which are nobody's business.
//!
//! Only for requests that are told because they were slow, so nothing here is quick. Passwords and tokens are in none of these texts (CVE-2021-28235).
//! Source: etcd `api/etcdserverpb/raft_internal_stringer.go`.

use super::Reply;
use crate::golang;
use crate::proto::etcdserverpb as pb;
use pb::compare::CompareResult;
use pb::compare::CompareTarget;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use prost::Message as _;
use std::fmt::Display;
use std::fmt::Write as _;

/// How deep transactions are told that lie in each other.
const DEPTH_MAX: usize = 8;

/// The most of a text that is told, in bytes: a request has up to 1.5 MiB.
const BYTES_MAX: usize = 4096;

/// `name:value ` for each field that is not zero.
#[derive(Default)]
struct Text(String);

impl Text {
    fn field(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{name}:{value} ");
    }

    fn bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            self.field(name, golang::quote(value));
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.field(name, value);
        }
    }

    fn flags(&mut self, flags: &[(&str, bool)]) {
        flags.iter().filter(|(_, is)| *is).for_each(|(name, _)| self.field(name, "true"));
    }

    fn inner(&mut self, name: &str, inner: Text) {
        self.field(name, format_args!("<{}>", inner.0));
    }

    fn end(mut self) -> String {
        if self.0.len() > BYTES_MAX {
            let cut = (0..=BYTES_MAX).rev().find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
            self.0.truncate(cut);
            self.0.push('…');
        }
        self.0
    }
}

/// A range request.
#[must_use]
pub fn range(request: &pb::RangeRequest) -> String {
    range_text(request).end()
}

/// A put, without its value.
#[must_use]
pub fn put(request: &pb::PutRequest) -> String {
    put_text(request).end()
}

/// A deletion.
#[must_use]
pub fn delete(request: &pb::DeleteRangeRequest) -> String {
    delete_text(request).end()
}

/// A transaction, without its values.
#[must_use]
pub fn txn(request: &pb::TxnRequest) -> String {
    txn_text(request, 0).end()
}

/// How large the answer to an entry is: `size:N`, or nothing if there is none to tell.
#[must_use]
pub fn answer(reply: &Reply) -> String {
    let size = match reply {
        Reply::Put(response) => response.encoded_len(),
        Reply::DeleteRange(response) => response.encoded_len(),
        Reply::Txn(response) => response.encoded_len(),
        Reply::Compaction(response) => response.encoded_len(),
        Reply::LeaseGrant(response) => response.encoded_len(),
        Reply::LeaseRevoke(response) => response.encoded_len(),
        Reply::Alarm(response) => response.encoded_len(),
        Reply::Auth(_) | Reply::Authenticate { .. } | Reply::Done => return String::new(),
    };
    format!("size:{size}")
}

/// What an entry of the log asks for; that it cannot be read, if so.
#[must_use]
pub fn entry(data: &[u8]) -> String {
    let Ok(request) = pb::InternalRaftRequest::decode(data) else { return "an entry that is no request".to_owned() };
    let mut text = Text::default();
    if let Some(header) = &request.header {
        let mut inner = Text::default();
        inner.field("ID", header.id);
        inner.bytes("username", header.username.as_bytes());
        inner.number("auth_revision", i64::try_from(header.auth_revision).unwrap_or(i64::MAX));
        text.inner("header", inner);
    }
    if let Some(request) = &request.range {
        text.inner("range", range_text(request));
    } else if let Some(request) = &request.put {
        text.inner("put", put_text(request));
    } else if let Some(request) = &request.delete_range {
        text.inner("delete_range", delete_text(request));
    } else if let Some(request) = &request.txn {
        text.inner("txn", txn_text(request, 0));
    } else if let Some(request) = &request.compaction {
        let mut inner = Text::default();
        inner.number("revision", request.revision);
        inner.flags(&[("physical", request.physical)]);
        text.inner("compaction", inner);
    } else if let Some(request) = &request.lease_grant {
        text.field("lease_grant", format_args!("<ttl:{}-second id:{:016x}>", request.ttl, request.id));
    } else if let Some(request) = &request.lease_revoke {
        text.field("lease_revoke", format_args!("<id:{:016x}>", request.id));
    }
    text.end()
}

fn range_text(request: &pb::RangeRequest) -> Text {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.number("limit", request.limit);
    text.number("revision", request.revision);
    if request.sort_order != 0 {
        text.field("sort_order", request.sort_order().as_str_name());
    }
    if request.sort_target != 0 {
        text.field("sort_target", request.sort_target().as_str_name());
    }
    text.flags(&[
        ("serializable", request.serializable),
        ("keys_only", request.keys_only),
        ("count_only", request.count_only),
    ]);
    text.number("min_mod_revision", request.min_mod_revision);
    text.number("max_mod_revision", request.max_mod_revision);
    text.number("min_create_revision", request.min_create_revision);
    text.number("max_create_revision", request.max_create_revision);
    text
}

fn put_text(request: &pb::PutRequest) -> Text {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.number("value_size", i64::try_from(request.value.len()).unwrap_or(i64::MAX));
    text.number("lease", request.lease);
    text.flags(&[
        ("prev_kv", request.prev_kv),
        ("ignore_value", request.ignore_value),
        ("ignore_lease", request.ignore_lease),
    ]);
    text
}

fn delete_text(request: &pb::DeleteRangeRequest) -> Text {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.flags(&[("prev_kv", request.prev_kv)]);
    text
}

fn txn_text(request: &pb::TxnRequest, depth: usize) -> Text {
    let mut text = Text::default();
    request.compare.iter().for_each(|compare| text.inner("compare", compare_text(compare)));
    for (name, ops) in [("success", &request.success), ("failure", &request.failure)] {
        for op in ops {
            let mut inner = Text::default();
            match &op.request {
                Some(Request::RequestRange(range)) => inner.inner("request_range", range_text(range)),
                Some(Request::RequestPut(put)) => inner.inner("request_put", put_text(put)),
                Some(Request::RequestDeleteRange(delete)) => inner.inner("request_delete_range", delete_text(delete)),
                Some(Request::RequestTxn(txn)) if depth < DEPTH_MAX => {
                    inner.inner("request_txn", txn_text(txn, depth + 1));
                }
                Some(Request::RequestTxn(_)) => inner.field("request_txn", "<…>"),
                None => {}
            }
            text.inner(name, inner);
        }
    }
    text
}

fn compare_text(compare: &pb::Compare) -> Text {
    let mut text = Text::default();
    if compare.result != CompareResult::Equal as i32 {
        text.field("result", compare.result().as_str_name());
    }
    if compare.target != CompareTarget::Version as i32 {
        text.field("target", compare.target().as_str_name());
    }
    text.bytes("key", &compare.key);
    match &compare.target_union {
        Some(TargetUnion::Version(version)) => text.field("version", version),
        Some(TargetUnion::CreateRevision(revision)) => text.field("create_revision", revision),
        Some(TargetUnion::ModRevision(revision)) => text.field("mod_revision", revision),
        Some(TargetUnion::Lease(lease)) => text.field("lease", lease),
        Some(TargetUnion::Value(value)) => text.field("value_size", value.len()),
        None => {}
    }
    text.bytes("range_end", &compare.range_end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_put(value: &'static str) -> pb::PutRequest {
        pb::PutRequest { key: "a\n".into(), value: value.into(), lease: 7, ..Default::default() }
    }

    #[test]
    fn a_value_is_told_by_its_size() {
        assert_eq!(put(&a_put("secret")), "key:\"a\\n\" value_size:6 lease:7 ");
        let compare = pb::Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Value as i32,
            key: "k".into(),
            target_union: Some(TargetUnion::Value("secret".into())),
            ..Default::default()
        };
        let op = pb::RequestOp { request: Some(Request::RequestPut(a_put("secret"))) };
        let request = pb::TxnRequest { compare: vec![compare], success: vec![op.clone()], failure: vec![op] };
        let want = "compare:<result:GREATER target:VALUE key:\"k\" value_size:6 > \
            success:<request_put:<key:\"a\\n\" value_size:6 lease:7 > > failure:<request_put:<key:\"a\\n\" value_size:6 lease:7 > > ";
        assert_eq!(txn(&request), want);
    }

    #[test]
    fn an_entry_is_told_with_its_header_and_a_password_is_not() {
        let header = Some(pb::RequestHeader { id: 9, username: "root".into(), ..Default::default() });
        let request = pb::InternalRaftRequest { header: header.clone(), put: Some(a_put("x")), ..Default::default() };
        let want = "header:<ID:9 username:\"root\" > put:<key:\"a\\n\" value_size:1 lease:7 > ";
        assert_eq!(entry(&request.encode_to_vec()), want);
        let user = pb::AuthUserAddRequest { name: "u".into(), password: "secret".into(), ..Default::default() };
        let request = pb::InternalRaftRequest { header, auth_user_add: Some(user), ..Default::default() };
        assert!(!entry(&request.encode_to_vec()).contains("secret"));
        assert_eq!(entry(&[0xff]), "an entry that is no request");
    }

    #[test]
    fn a_long_request_is_cut() {
        let key = "ä".repeat(BYTES_MAX);
        let text = range(&pb::RangeRequest { key: key.into(), limit: 3, ..Default::default() });
        assert!(text.len() <= BYTES_MAX + '…'.len_utf8() && text.ends_with('…'), "{}", text.len());
    }
}
