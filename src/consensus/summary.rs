//! Entries and messages in a few plain words, for observers. Made only while somebody listens; never shows a password.

use crate::proto::etcdserverpb::InternalRaftRequest;
use crate::proto::lab;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::Message;
use crate::proto::walpb;
use crate::proto::walpb::conf_change::Type;
use prost::Message as _;

/// Longer keys are cut: a screen line is short.
const KEY_CHARS: usize = 40;

pub(crate) fn wire(message: &Message) -> lab::Wire {
    lab::Wire {
        from: message.from,
        to: message.to,
        r#type: u32::try_from(message.msg_type).unwrap_or(u32::MAX),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        entries: super::small(message.entries.len() as u64),
        reject: message.reject,
        reject_hint: message.reject_hint,
    }
}

/// Without words: what it asks for is left out.
pub(crate) fn entry(entry: &Entry, in_words: bool) -> lab::LogEntry {
    let (kind, summary) = match entry.entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => (lab::EntryKind::Empty, "new leader".into()),
        EntryType::EntryNormal if in_words => (lab::EntryKind::Normal, normal(entry)),
        EntryType::EntryNormal => (lab::EntryKind::Normal, String::new()),
        _ => (lab::EntryKind::ConfChange, conf_change(entry)),
    };
    lab::LogEntry {
        index: entry.index,
        term: entry.term,
        kind: kind as i32,
        bytes: super::small(entry.data.len() as u64),
        summary,
        sum: crc32c::crc32c(&entry.data),
    }
}

fn normal(entry: &Entry) -> String {
    match InternalRaftRequest::decode(entry.data.clone()) {
        Ok(request) => self::request(&request),
        Err(_) => "unreadable".into(),
    }
}

/// A request in the words of etcdctl.
#[must_use]
pub fn request(request: &InternalRaftRequest) -> String {
    let r = request;
    if let Some(put) = &r.put {
        format!("put {}", key(&put.key))
    } else if let Some(delete) = &r.delete_range {
        format!("del {}{}", key(&delete.key), if delete.range_end.is_empty() { "" } else { "…" })
    } else if let Some(txn) = &r.txn {
        format!("txn {} if, {} then, {} else", txn.compare.len(), txn.success.len(), txn.failure.len())
    } else if let Some(compaction) = &r.compaction {
        format!("compact {}", compaction.revision)
    } else if let Some(grant) = &r.lease_grant {
        format!("lease grant {:x} {}s", grant.id, grant.ttl)
    } else if let Some(revoke) = &r.lease_revoke {
        format!("lease revoke {:x}", revoke.id)
    } else if let Some(attributes) = &r.cluster_member_attr_set {
        let name = attributes.member_attributes.as_ref().map_or("", |member| member.name.as_str());
        format!("member {:x} is {name}", attributes.member_id)
    } else if let Some(version) = &r.cluster_version_set {
        format!("cluster version {}", version.ver)
    } else if r.alarm.is_some() {
        "alarm".into()
    } else if r.lease_checkpoint.is_some() {
        "lease checkpoint".into()
    } else {
        "auth".into()
    }
}

fn conf_change(entry: &Entry) -> String {
    let Ok(change) = walpb::ConfChange::decode(entry.data.clone()) else { return "unreadable".into() };
    let what = match change.r#type() {
        Type::AddNode => "add member",
        Type::AddLearnerNode => "add learner",
        Type::RemoveNode => "remove member",
        Type::UpdateNode => "update member",
    };
    format!("{what} {:x}", change.node_id)
}

/// A key as text, with everything that a terminal would act on escaped.
fn key(key: &[u8]) -> String {
    // Nearly every key, and every put has one.
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'\'' | b'"');
    if key.len() <= KEY_CHARS && key.iter().all(is_plain) {
        return String::from_utf8_lossy(key).into_owned();
    }
    let text = String::from_utf8_lossy(key);
    let shown: String = text.chars().take(KEY_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().count() > KEY_CHARS { format!("{shown}…") } else { shown }
}
