//! The tree of the v2 API, kept in the v3 store: directories, files, indexes, and etcd's v2 errors.
//!
//! ```text
//! /etcdctl-v2/keys/a/b     a file: a record of its value, and of when it was made if that is not its last change
//! /etcdctl-v2/keys/a/      a directory
//! /etcdctl-v2/action       what the transaction of this revision did to which key, for watchers
//! ```
//!
//! An operation reads what it depends on at one revision, decides, and writes on the condition that nothing of it has changed since; else it
//! begins anew. So each v2 change is one v3 revision, and an index is that revision plus two: a new cluster of one then counts as
//! etcd did, where setting the cluster up had taken the first three. A time to live is a lease; what is made below a directory that has
//! one, and brings none, hangs on the directory's.
//!
//! Source: etcd 3.4 `etcdserver/api/v2store/store.go`, and `api/v2v3` for the idea.

use crate::client;
use crate::client::Client;
use crate::client::prefix_end;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response as Answered;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;

/// All that the old dialect keeps begins so.
pub(super) const ROOT: &str = "/etcdctl-v2/";
/// Before the path of a file or a directory.
pub(super) const KEYS: &str = "/etcdctl-v2/keys";
/// What the last change was.
pub(super) const ACTION: &str = "/etcdctl-v2/action";
/// An index is a revision and this.
const INDEX_FROM: i64 = 2;
/// How often an operation begins anew because others were faster.
const ATTEMPTS_MAX: usize = 32;

/// Why an operation came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// etcd's refusal: its number, what it is about, and the index at that time.
    Refused { code: u16, cause: String, index: i64 },
    /// The cluster's, or none.
    Client(client::Error),
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure::Client(error)
    }
}

/// The sentence of a v2 error.
pub(super) fn message(code: u16) -> &'static str {
    match code {
        100 => "Key not found",
        101 => "Compare failed",
        102 => "Not a file",
        104 => "Not a directory",
        105 => "Key already exists",
        107 => "Root is read only",
        108 => "Directory not empty",
        110 => "The request requires user authentication",
        401 => "The event in requested index is outdated and cleared",
        _ => "Raft Internal Error",
    }
}

/// The index that stands for a revision.
pub(super) fn index_of(revision: i64) -> i64 {
    revision + INDEX_FROM
}

/// The revision that stands for an index.
pub(super) fn revision_of(index: i64) -> i64 {
    (index - INDEX_FROM).max(1)
}

/// A file or a directory, as the v2 API tells of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Node {
    pub(super) key: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) dir: bool,
    pub(super) value: String,
    pub(super) nodes: Option<Vec<Node>>,
    #[serde(rename = "createdIndex")]
    pub(super) created: i64,
    #[serde(rename = "modifiedIndex")]
    pub(super) modified: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expiration: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) ttl: i64,
    #[serde(skip)]
    pub(super) lease: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What an operation did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Response {
    pub(super) action: String,
    pub(super) node: Node,
    #[serde(rename = "prevNode")]
    pub(super) prev: Option<Node>,
    #[serde(skip)]
    pub(super) index: i64,
}

/// What is stored of a file or a directory.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The index at which it was made, if it was changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
}

/// What is stored of a change.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) action: String,
    pub(super) key: String,
}

/// What to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) dir: bool,
    pub(super) value: String,
    /// In seconds; 0: for ever.
    pub(super) ttl: i64,
    /// Whether it must be there, or must not be.
    pub(super) exists: Option<bool>,
    pub(super) previous_value: Option<String>,
    pub(super) previous_index: Option<i64>,
}

/// What to remove.
#[derive(Clone, Debug, Default)]
pub(super) struct Removal {
    pub(super) dir: bool,
    pub(super) recursive: bool,
    pub(super) previous_value: Option<String>,
    pub(super) previous_index: Option<i64>,
}

/// A key as the v2 API writes it: begins with `/`, does not end with one, has no empty parts.
pub(super) fn path_of(key: &str) -> String {
    let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn file_key(path: &str) -> String {
    format!("{KEYS}{path}")
}

fn dir_key(path: &str) -> String {
    format!("{KEYS}{}/", path.trim_end_matches('/'))
}

/// The v2 node that a stored key is: directories end with `/`.
pub(super) fn node_of(kv: &KeyValue) -> Node {
    let key = String::from_utf8_lossy(&kv.key);
    let path = key.strip_prefix(KEYS).unwrap_or(&key);
    let record: Record = serde_json::from_slice(&kv.value).unwrap_or_default();
    let modified = index_of(kv.mod_revision);
    Node {
        key: if path == "/" { String::new() } else { path.trim_end_matches('/').to_owned() },
        dir: path.ends_with('/'),
        value: record.value,
        created: record.created.unwrap_or(modified),
        modified,
        lease: kv.lease,
        ..Node::default()
    }
}

/// What there was when an operation looked: the path itself and the directories above it.
struct Seen {
    revision: i64,
    found: BTreeMap<String, KeyValue>,
    looked_at: Vec<String>,
}

impl Seen {
    fn index(&self) -> i64 {
        index_of(self.revision)
    }

    fn refused<T>(&self, code: u16, cause: impl Into<String>) -> Result<T, Failure> {
        Err(Failure::Refused { code, cause: cause.into(), index: self.index() })
    }

    fn node(&self, path: &str) -> Option<Node> {
        self.found.get(&file_key(path)).or_else(|| self.found.get(&dir_key(path))).map(node_of)
    }

    /// The directories above `path`, the highest first, without the root.
    fn above(path: &str) -> Vec<&str> {
        path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).collect()
    }

    /// The node at `path`, which must be there.
    fn walk(&self, path: &str) -> Result<Node, Failure> {
        for part in Seen::above(path) {
            match self.node(part) {
                None => return self.refused(100, part),
                Some(node) if !node.dir => return self.refused(104, part),
                Some(_) => {}
            }
        }
        self.node(path).map_or_else(|| self.refused(100, path), Ok)
    }

    /// Directories above `path` that are missing. Refuses where a file is in the way.
    fn missing(&self, path: &str) -> Result<Vec<String>, Failure> {
        let mut missing = Vec::new();
        for part in Seen::above(path) {
            match self.node(part) {
                None => missing.push(part.to_owned()),
                Some(node) if !node.dir => return self.refused(104, part),
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// The lease of the nearest directory above that has one.
    fn lease_above(&self, path: &str) -> i64 {
        let leases = Seen::above(path).into_iter().rev().filter_map(|part| self.node(part));
        leases.map(|node| node.lease).find(|lease| *lease != 0).unwrap_or_default()
    }

    /// Nothing of what was looked at has changed.
    fn unchanged(&self) -> Vec<Compare> {
        let same = |key: &String| Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone().into(),
            target_union: Some(TargetUnion::ModRevision(self.found.get(key).map_or(0, |kv| kv.mod_revision))),
            ..Compare::default()
        };
        self.looked_at.iter().map(same).collect()
    }
}

/// The tree.
pub(super) struct Store {
    pub(super) client: Client,
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: String, record: &Record, lease: i64) -> RequestOp {
    let value = serde_json::to_vec(record).unwrap_or_default();
    op(Request::RequestPut(PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() }))
}

fn done(action: &str, key: &str) -> RequestOp {
    let done = Done { action: action.to_owned(), key: key.to_owned() };
    let value = serde_json::to_vec(&done).unwrap_or_default();
    op(Request::RequestPut(PutRequest { key: ACTION.into(), value: value.into(), ..PutRequest::default() }))
}

fn delete(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> RequestOp {
    let (key, range_end) = (key.into(), range_end.into());
    op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
}

/// Why a compare-and-… does not go through: nothing if it does.
fn mismatch(node: &Node, value: Option<&String>, index: Option<i64>) -> Option<String> {
    let value = value.filter(|value| **value != node.value).map(|value| format!("[{value} != {}]", node.value));
    let index = index.filter(|index| *index != node.modified).map(|index| format!("[{index} != {}]", node.modified));
    let both: Vec<String> = value.into_iter().chain(index).collect();
    (!both.is_empty()).then(|| both.join(" "))
}

impl Store {
    /// Reads a path and all above it at one revision.
    async fn look(&self, path: &str) -> Result<Seen, Failure> {
        let mut looked_at: Vec<String> = Vec::new();
        for part in Seen::above(path).into_iter().chain((path != "/").then_some(path)) {
            looked_at.extend([file_key(part), dir_key(part)]);
        }
        let get = |key: &String| {
            op(Request::RequestRange(RangeRequest { key: key.clone().into(), ..RangeRequest::default() }))
        };
        let mut success: Vec<RequestOp> = looked_at.iter().map(get).collect();
        if success.is_empty() {
            success.push(get(&ACTION.to_owned()));
        }
        let answer = self.client.call(TxnRequest { success, ..TxnRequest::default() }).await?;
        let mut found = BTreeMap::new();
        for answered in answer.responses {
            if let Some(Answered::ResponseRange(range)) = answered.response {
                found.extend(range.kvs.into_iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv)));
            }
        }
        let revision = answer.header.unwrap_or_default().revision;
        Ok(Seen { revision, found, looked_at })
    }

    /// Writes if nothing has changed; gives the new revision.
    async fn commit(&self, compare: Vec<Compare>, success: Vec<RequestOp>) -> Result<Option<i64>, Failure> {
        let answer = self.client.call(TxnRequest { compare, success, failure: Vec::new() }).await?;
        Ok(answer.succeeded.then(|| answer.header.unwrap_or_default().revision))
    }

    /// Fills in how long a node has to live.
    pub(super) async fn age(&self, node: &mut Node, now: time::OffsetDateTime) -> Result<(), Failure> {
        if node.lease == 0 {
            return Ok(());
        }
        let lease = self.client.call(LeaseTimeToLiveRequest { id: node.lease, keys: false }).await?;
        // Seconds that have begun count, as in etcd; a lease's are told without them.
        node.ttl = if lease.ttl > 0 { (lease.ttl + 1).min(lease.granted_ttl) } else { 0 };
        let expires = now + time::Duration::seconds(node.ttl);
        node.expiration = expires.format(&time::format_description::well_known::Rfc3339).ok();
        Ok(())
    }

    async fn aged(&self, mut response: Response, now: time::OffsetDateTime) -> Result<Response, Failure> {
        self.age(&mut response.node, now).await?;
        if let Some(prev) = &mut response.prev
            && prev.lease != 0
            && self.age(prev, now).await.is_err()
        {
            prev.lease = 0;
        }
        Ok(response)
    }

    /// A node, and what is below it if it is a directory: the next level, or all.
    pub(super) async fn get(
        &self,
        path: &str,
        recursive: bool,
        now: time::OffsetDateTime,
    ) -> Result<Response, Failure> {
        let seen = self.look(path).await?;
        let mut node = if path == "/" { Node { dir: true, ..Node::default() } } else { seen.walk(path)? };
        if node.dir {
            let below = dir_key(path);
            let range_end = prefix_end(below.as_bytes());
            let range =
                RangeRequest { key: below.into(), range_end, revision: seen.revision, ..RangeRequest::default() };
            let kvs = self.client.call(range).await?.kvs;
            let nodes: Vec<Node> = kvs.iter().map(node_of).filter(|below| below.key != node.key).collect();
            node.nodes = children(&node.key, &nodes, recursive);
        }
        let response = Response { action: "get".to_owned(), node, prev: None, index: seen.index() };
        self.aged(response, now).await
    }

    /// Makes or changes a node.
    pub(super) async fn write(
        &self,
        path: &str,
        change: &Change,
        now: time::OffsetDateTime,
    ) -> Result<Response, Failure> {
        let own_lease = match change.ttl {
            0 => 0,
            ttl => self.client.call(LeaseGrantRequest { ttl, id: 0 }).await?.id,
        };
        for _ in 0..ATTEMPTS_MAX {
            let tried = self.try_write(path, change, own_lease).await;
            match tried {
                Ok(None) => {}
                Ok(Some(response)) => return self.aged(response, now).await,
                Err(failure) => {
                    if own_lease != 0 {
                        // It ends by itself if this does not get through.
                        let _ = self.client.call(LeaseRevokeRequest { id: own_lease }).await;
                    }
                    return Err(failure);
                }
            }
        }
        Err(Failure::Client(client::Error::Config("others changed the same keys all the time".to_owned())))
    }

    async fn try_write(&self, path: &str, change: &Change, own_lease: i64) -> Result<Option<Response>, Failure> {
        let seen = self.look(path).await?;
        if path == "/" {
            return seen.refused(107, "/");
        }
        let compares = change.previous_value.is_some() || change.previous_index.is_some();
        let changes = compares || change.exists == Some(true);
        let before = if changes { Some(seen.walk(path)?) } else { seen.node(path) };
        let missing = seen.missing(path)?;
        let action = match &before {
            Some(node) if compares && node.dir => return seen.refused(102, path),
            Some(node) if compares => {
                if let Some(why) = mismatch(node, change.previous_value.as_ref(), change.previous_index) {
                    return seen.refused(101, why);
                }
                "compareAndSwap"
            }
            Some(node) if change.exists == Some(true) && node.dir && !change.value.is_empty() => {
                return seen.refused(102, path);
            }
            _ if change.exists == Some(true) => "update",
            Some(_) if change.exists == Some(false) => return seen.refused(105, path),
            _ if change.exists == Some(false) => "create",
            Some(node) if node.dir => return seen.refused(102, path),
            _ => "set",
        };
        let dir = before.as_ref().filter(|_| changes).map_or(change.dir, |node| node.dir);
        let lease = if own_lease != 0 { own_lease } else { seen.lease_above(path) };
        let created = before.as_ref().filter(|_| changes).map(|node| node.created);
        let record = Record { created, value: if dir { String::new() } else { change.value.clone() } };
        let mut ops = vec![done(action, path)];
        ops.extend(missing.iter().map(|part| put(dir_key(part), &Record::default(), lease)));
        if dir && before.as_ref().is_some_and(|node| !node.dir) {
            ops.push(delete(file_key(path), Bytes::new()));
        }
        ops.push(put(if dir { dir_key(path) } else { file_key(path) }, &record, lease));
        let Some(revision) = self.commit(seen.unchanged(), ops).await? else { return Ok(None) };
        let modified = index_of(revision);
        let node = Node {
            key: path.to_owned(),
            dir,
            value: record.value,
            created: created.unwrap_or(modified),
            modified,
            lease,
            ..Node::default()
        };
        Ok(Some(Response { action: action.to_owned(), node, prev: before, index: modified }))
    }

    /// Makes a file below a directory whose name is the next index.
    pub(super) async fn create_in_order(
        &self,
        path: &str,
        change: &Change,
        now: time::OffsetDateTime,
    ) -> Result<Response, Failure> {
        let change = Change { exists: Some(false), ..change.clone() };
        for _ in 0..ATTEMPTS_MAX {
            let next = self.look("/").await?.index() + 1;
            let path = format!("{}/{next:020}", path.trim_end_matches('/'));
            match self.write(&path, &change, now).await {
                Err(Failure::Refused { code: 105, .. }) => {}
                other => return other,
            }
        }
        Err(Failure::Client(client::Error::Config("others changed the same keys all the time".to_owned())))
    }

    /// Removes a node.
    pub(super) async fn remove(&self, path: &str, removal: &Removal) -> Result<Response, Failure> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(response) = self.try_remove(path, removal).await? {
                return Ok(response);
            }
        }
        Err(Failure::Client(client::Error::Config("others changed the same keys all the time".to_owned())))
    }

    async fn try_remove(&self, path: &str, removal: &Removal) -> Result<Option<Response>, Failure> {
        let seen = self.look(path).await?;
        if path == "/" {
            return seen.refused(107, "/");
        }
        let before = seen.walk(path)?;
        let compares = removal.previous_value.is_some() || removal.previous_index.is_some();
        if before.dir && (compares || !(removal.dir || removal.recursive)) {
            return seen.refused(102, path);
        }
        if compares && let Some(why) = mismatch(&before, removal.previous_value.as_ref(), removal.previous_index) {
            return seen.refused(101, why);
        }
        let action = if compares { "compareAndDelete" } else { "delete" };
        let mut compare = seen.unchanged();
        let mut ops = vec![done(action, path)];
        if before.dir {
            let below = dir_key(path);
            let end = prefix_end(below.as_bytes());
            if !removal.recursive {
                let first = [below.as_bytes(), &[0]].concat();
                let any = RangeRequest {
                    key: first.clone().into(),
                    range_end: end.clone(),
                    limit: 1,
                    keys_only: true,
                    ..RangeRequest::default()
                };
                if !self.client.call(any).await?.kvs.is_empty() {
                    return seen.refused(108, path);
                }
                // True of nothing that is there: so of a range only if it is empty.
                compare.push(Compare {
                    result: CompareResult::Equal.into(),
                    target: CompareTarget::Create.into(),
                    key: first.into(),
                    range_end: end.clone(),
                    target_union: Some(TargetUnion::CreateRevision(0)),
                });
            }
            ops.push(delete(below, end));
        } else {
            ops.push(delete(file_key(path), Bytes::new()));
        }
        let Some(revision) = self.commit(compare, ops).await? else { return Ok(None) };
        let modified = index_of(revision);
        let node = Node { key: path.to_owned(), dir: before.dir, created: before.created, modified, ..Node::default() };
        Ok(Some(Response { action: action.to_owned(), node, prev: Some(before), index: modified }))
    }
}

/// The nodes right below `parent`, each with what is below it if `recursive`. Names that begin with `_` are hidden.
fn children(parent: &str, nodes: &[Node], recursive: bool) -> Option<Vec<Node>> {
    let own = |node: &&Node| {
        let name = node.key.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| !name.contains('/') && !name.starts_with('_'))
    };
    let mut below: Vec<Node> = nodes.iter().filter(own).cloned().collect();
    below.sort_by(|a, b| a.key.cmp(&b.key));
    if recursive {
        for node in below.iter_mut().filter(|node| node.dir) {
            node.nodes = children(&node.key, nodes, true);
        }
    }
    (!below.is_empty()).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, dir: bool) -> Node {
        Node { key: key.to_owned(), dir, ..Node::default() }
    }

    #[test]
    fn keys_become_paths() {
        for (key, path) in [("k", "/k"), ("/a//b/", "/a/b"), ("/", "/"), ("", "/"), ("./a", "/a")] {
            assert_eq!(path_of(key), path);
        }
        assert_eq!(Seen::above("/a/b/c"), ["/a", "/a/b"]);
        assert_eq!(Seen::above("/a"), [""; 0]);
    }

    #[test]
    fn a_level_is_sorted_by_name_and_has_no_hidden_ones() {
        let nodes =
            [node("/d-x", false), node("/d", true), node("/d/a", false), node("/_h", false), node("/d/_h", false)];
        let keys = |nodes: Option<Vec<Node>>| {
            nodes.unwrap_or_default().iter().map(|node| node.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(children("", &nodes, false)), ["/d", "/d-x"]);
        assert_eq!(keys(children("/d", &nodes, true)), ["/d/a"]);
        assert_eq!(children("", &nodes, true).expect("some")[0].nodes.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn both_parts_of_a_comparison_are_told() {
        let node = Node { value: "v".to_owned(), modified: 7, ..Node::default() };
        assert_eq!(mismatch(&node, Some(&"v".to_owned()), Some(7)), None);
        assert_eq!(mismatch(&node, Some(&"w".to_owned()), Some(1)).as_deref(), Some("[w != v] [1 != 7]"));
        assert_eq!(mismatch(&node, None, Some(1)).as_deref(), Some("[1 != 7]"));
    }
}
