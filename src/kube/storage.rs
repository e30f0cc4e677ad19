//! The API server's side of etcd, in the shapes that Kubernetes uses: what a reader sees in the log of a real cluster.
//!
//! ```text
//! get      range of one key
//! list     range of a prefix, 500 keys a page, the later pages at the revision of the first
//! create   if mod_revision(key) = 0 then put                      so that of two only one makes it
//! update   if mod_revision(key) = R then put else range           so that nobody's change is lost
//! delete   if mod_revision(key) = R then delete else range
//! watch    from the revision after the list's, with old values, and with signs of progress if they are wanted
//! compact  if version(compact_rev_key) = T then put else range    so that of several API servers one does it
//! ```
//!
//! Source: Kubernetes `apiserver/pkg/storage/etcd3` (`store.go`, `compact.go`, `feature/feature_support_checker.go`).

use crate::client;
use crate::client::Client;
use crate::client::Watch;
use crate::client::prefix_end;
use crate::kube::objects;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use serde_json::Value;

/// Objects of one page of a list.
const PAGE: i64 = 500;

/// The key by whose version the API servers agree on who compacts.
const COMPACT_KEY: &str = "compact_rev_key";

/// Why a read or a write was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NotFound,
    AlreadyExists,
    /// Somebody else has changed it since it was read.
    Conflict,
    /// etcd has no answer, or another one; in its words.
    Etcd(String),
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let cause = error.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::Etcd(format!("{error}{cause}"))
    }
}

/// Objects in etcd. `key` and `prefix` are below the registry, such as `pods/default/web`.
#[derive(Debug)]
pub(super) struct Storage {
    client: Client,
    /// With a slash at its end, such as `/registry/`.
    registry: String,
}

impl Storage {
    pub(super) fn new(client: Client, registry: &str) -> Storage {
        Storage { client, registry: format!("/{}/", registry.trim_matches('/')) }
    }

    fn key(&self, below: &str) -> Bytes {
        format!("{}{below}", self.registry).into()
    }

    /// Whether etcd answers at all.
    pub(super) async fn health(&self) -> Result<(), Failure> {
        let range = RangeRequest { key: self.key("health"), limit: 1, ..RangeRequest::default() };
        Ok(self.client.call(range).await.map(drop)?)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Value, Failure> {
        let range = RangeRequest { key: self.key(key), limit: 1, ..RangeRequest::default() };
        let found = self.client.call(range).await?.kvs;
        decoded(found.first().ok_or(Failure::NotFound)?)
    }

    /// All objects below a prefix as they were at one revision, and that revision.
    pub(super) async fn list(&self, prefix: &str) -> Result<(Vec<Value>, i64), Failure> {
        let prefix = self.key(prefix);
        let (mut found, mut at, mut from) = (Vec::new(), 0, prefix.clone());
        loop {
            let end = prefix_end(&prefix);
            let page = RangeRequest { key: from, range_end: end, limit: PAGE, revision: at, ..RangeRequest::default() };
            let page = self.client.call(page).await?;
            if at == 0 {
                at = page.header.map_or(0, |header| header.revision);
            }
            for kv in &page.kvs {
                found.push(decoded(kv)?);
            }
            match page.kvs.last() {
                Some(last) if page.more => from = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok((found, at)),
            }
        }
    }

    pub(super) async fn create(&self, key: &str, object: &Value) -> Result<Value, Failure> {
        let done = self.txn(key, TargetUnion::ModRevision(0), self.put(key, object), None).await?;
        if done.succeeded { Ok(written(object, &done)) } else { Err(Failure::AlreadyExists) }
    }

    /// Writes it if it is still as it was at `revision`.
    pub(super) async fn update(&self, key: &str, revision: i64, object: &Value) -> Result<Value, Failure> {
        let else_get = Some(self.get_op(key));
        let done = self.txn(key, TargetUnion::ModRevision(revision), self.put(key, object), else_get).await?;
        if done.succeeded {
            Ok(written(object, &done))
        } else {
            Err(found(&done).map_or_else(|e| e, |_| Failure::Conflict))
        }
    }

    /// Deletes it as it is now, and gives what it was, with the revision of its end.
    pub(super) async fn delete(&self, key: &str) -> Result<Value, Failure> {
        let mut known = self.get(key).await?;
        loop {
            let delete = DeleteRangeRequest { key: self.key(key), ..DeleteRangeRequest::default() };
            let then = Request::RequestDeleteRange(delete);
            let at = TargetUnion::ModRevision(objects::revision(&known));
            let done = self.txn(key, at, then, Some(self.get_op(key))).await?;
            if done.succeeded {
                return Ok(written(&known, &done));
            }
            // Somebody was faster: it is deleted as that one has left it.
            known = found(&done)?;
        }
    }

    /// Follows what is below a prefix, from this revision on.
    pub(super) fn watch(&self, prefix: &str, from: i64, progress_notify: bool) -> Watch {
        let key = self.key(prefix);
        let range_end = prefix_end(&key);
        let request = WatchCreateRequest {
            key,
            range_end,
            start_revision: from,
            prev_kv: true,
            progress_notify,
            ..WatchCreateRequest::default()
        };
        self.client.watch(request)
    }

    /// One turn of the compaction that all API servers share: what was the newest revision a turn ago (`rev`) becomes the oldest that can
    /// be read. `turn` is how often the key has been written. Returns both for the next turn, and what was compacted, if it was done here.
    pub(super) async fn compact(&self, turn: i64, rev: i64) -> Result<(i64, i64, Option<i64>), Failure> {
        let put = PutRequest { key: COMPACT_KEY.into(), value: rev.to_string().into(), ..PutRequest::default() };
        let get = RangeRequest { key: COMPACT_KEY.into(), ..RangeRequest::default() };
        let request = TxnRequest {
            compare: vec![equal(COMPACT_KEY.into(), CompareTarget::Version, TargetUnion::Version(turn))],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestRange(get))],
        };
        let done = self.client.call(request).await?;
        let now = done.header.map_or(0, |header| header.revision);
        if !done.succeeded {
            // Another API server has had this turn.
            let theirs = range_of(&done).first().map_or(0, |kv| kv.version);
            return Ok((theirs, now, None));
        }
        if rev > 0 {
            self.client.call(CompactionRequest { revision: rev, physical: false }).await?;
        }
        Ok((turn + 1, now, (rev > 0).then_some(rev)))
    }

    fn put(&self, key: &str, object: &Value) -> Request {
        let mut stored = object.clone();
        if let Some(metadata) = stored.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        Request::RequestPut(PutRequest {
            key: self.key(key),
            value: stored.to_string().into(),
            ..PutRequest::default()
        })
    }

    fn get_op(&self, key: &str) -> Request {
        Request::RequestRange(RangeRequest { key: self.key(key), ..RangeRequest::default() })
    }

    async fn txn(
        &self,
        key: &str,
        at: TargetUnion,
        then: Request,
        or: Option<Request>,
    ) -> Result<TxnResponse, Failure> {
        let request = TxnRequest {
            compare: vec![equal(self.key(key), CompareTarget::Mod, at)],
            success: vec![op(then)],
            failure: or.map(op).into_iter().collect(),
        };
        Ok(self.client.call(request).await?)
    }
}

fn equal(key: Bytes, target: CompareTarget, value: TargetUnion) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(value),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn range_of(done: &TxnResponse) -> &[KeyValue] {
    match done.responses.first().and_then(|r| r.response.as_ref()) {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// What the else branch has found.
fn found(done: &TxnResponse) -> Result<Value, Failure> {
    decoded(range_of(done).first().ok_or(Failure::NotFound)?)
}

fn written(object: &Value, done: &TxnResponse) -> Value {
    let mut object = object.clone();
    objects::set_revision(&mut object, done.header.map_or(0, |header| header.revision));
    object
}

/// The object in a key's value, with its revision.
pub(super) fn decoded(kv: &KeyValue) -> Result<Value, Failure> {
    let mut object: Value = serde_json::from_slice(&kv.value).map_err(|e| {
        Failure::Etcd(format!(
            "{} holds no JSON object ({e}): kube-lite has not written it",
            String::from_utf8_lossy(&kv.key)
        ))
    })?;
    objects::set_revision(&mut object, kv.mod_revision);
    Ok(object)
}

/// Whether an etcd of this version can be asked for progress on a watch's stream: before 3.4.31, and from 3.5.0 to 3.5.12, the answer may be
/// ahead of events that are still on their way.
pub(super) fn progress_is_trusted(version: &str) -> bool {
    let parts: Vec<u64> = version.split(['.', '-', '+']).take(3).filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [3, 5, patch] => patch >= 13,
        [major, minor, patch] => (major, minor, patch) >= (3, 4, 31),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_is_asked_for_where_its_answer_can_be_trusted() {
        for (version, trusted) in [
            ("3.4.30", false),
            ("3.4.31", true),
            ("3.5.1", false),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("", false),
        ] {
            assert_eq!(progress_is_trusted(version), trusted, "{version}");
        }
    }

    #[test]
    fn the_revision_is_the_keys_and_is_not_stored() {
        let storage = Storage { client: unused(), registry: "/registry/".to_owned() };
        let object = json!({"metadata": {"name": "a", "resourceVersion": "7"}});
        let Request::RequestPut(put) = storage.put("pods/default/a", &object) else { panic!("a put") };
        assert_eq!(
            (&put.key[..], &put.value[..]),
            (&b"/registry/pods/default/a"[..], &br#"{"metadata":{"name":"a"}}"#[..])
        );
        let kv = KeyValue { key: put.key, value: put.value, mod_revision: 9, ..KeyValue::default() };
        assert_eq!(objects::revision(&decoded(&kv).expect("JSON")), 9);
        let foreign = KeyValue { value: "k8s\0".into(), ..KeyValue::default() };
        assert!(matches!(decoded(&foreign), Err(Failure::Etcd(why)) if why.contains("kube-lite has not written it")));
    }

    /// A client that is never called.
    fn unused() -> Client {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        Client::to("127.0.0.1:1")
    }
}
