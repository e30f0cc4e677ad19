//! What a check looks at: the cluster over its own API, and what the learner has said and run.
//!
//! The keys that a check names are read in one transaction, so they are from one moment. The client here is the bare gRPC stub,
//! not our `etcdctl`: a check must not share the mistakes of what it checks.

use crate::lab::guide::expr::Fact;
use crate::lab::guide::shell::Output;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::StatusResponse;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::request_op;
use crate::proto::etcdserverpb::response_op;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// How long one member may take to answer before the next is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// One key as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFact {
    pub(crate) value: String,
    pub(crate) created: i64,
    pub(crate) revision: i64,
    pub(crate) version: i64,
}

/// Everything that the checks of one moment may look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) keys: BTreeMap<String, Option<KeyFact>>,
    pub(crate) counts: BTreeMap<String, i64>,
    pub(crate) revision: Option<i64>,
    pub(crate) member_count: Option<i64>,
    pub(crate) leader: Option<String>,
    pub(crate) answers: BTreeMap<String, String>,
    pub(crate) outputs: BTreeMap<String, Output>,
}

/// Asks the cluster for what these facts need, and nothing if they need nothing of it.
///
/// # Errors
/// No member answered; the text names each and says why.
pub(crate) async fn gather(wanted: &BTreeSet<&Fact>, endpoints: &[String]) -> Result<Facts, String> {
    let mut facts = Facts::default();
    let store = wanted.iter().any(|f| matches!(f, Fact::Revision))
        || wanted.iter().any(|f| key_of(f).is_some() || prefix_of(f).is_some());
    let cluster = wanted.iter().any(|f| matches!(f, Fact::MemberCount | Fact::Leader));
    if store {
        read_store(wanted, endpoints, &mut facts).await?;
    }
    if cluster {
        read_cluster(endpoints, &mut facts).await?;
    }
    Ok(facts)
}

pub(crate) fn key_of(fact: &Fact) -> Option<&str> {
    match fact {
        Fact::KeyExists(k) | Fact::KeyValue(k) | Fact::KeyRevision(k) | Fact::KeyCreated(k) | Fact::KeyVersion(k) => {
            Some(k)
        }
        Fact::JsonValid(k) | Fact::JsonField(k, _) => Some(k),
        _ => None,
    }
}

pub(crate) fn prefix_of(fact: &Fact) -> Option<&str> {
    if let Fact::PrefixCount(p) = fact { Some(p) } else { None }
}

async fn read_store(wanted: &BTreeSet<&Fact>, endpoints: &[String], facts: &mut Facts) -> Result<(), String> {
    let keys: BTreeSet<&str> = wanted.iter().filter_map(|f| key_of(f)).collect();
    let prefixes: BTreeSet<&str> = wanted.iter().filter_map(|f| prefix_of(f)).collect();
    let mut ranges: Vec<RangeRequest> = Vec::new();
    ranges.extend(keys.iter().map(|k| RangeRequest { key: k.as_bytes().to_vec().into(), ..RangeRequest::default() }));
    ranges.extend(prefixes.iter().map(|p| RangeRequest {
        key: if p.is_empty() { vec![0].into() } else { p.as_bytes().to_vec().into() },
        range_end: after_prefix(p.as_bytes()).into(),
        count_only: true,
        ..RangeRequest::default()
    }));
    if ranges.is_empty() {
        // The header tells the revision; any key will do.
        ranges.push(RangeRequest { key: vec![0].into(), count_only: true, ..RangeRequest::default() });
    }
    let operation = |range| RequestOp { request: Some(request_op::Request::RequestRange(range)) };
    let request = TxnRequest { success: ranges.into_iter().map(operation).collect(), ..TxnRequest::default() };
    let answer = first_answer(endpoints, |channel| {
        let request = request.clone();
        Box::pin(async move { KvClient::new(channel).txn(request).await })
    });
    let answer = answer.await?.into_inner();
    facts.revision = answer.header.map(|h| h.revision);
    let mut ranges = answer.responses.into_iter().filter_map(|r| match r.response {
        Some(response_op::Response::ResponseRange(range)) => Some(range),
        _ => None,
    });
    for key in keys {
        let found = ranges.next().and_then(|r| r.kvs.into_iter().next()).map(|kv| KeyFact {
            value: String::from_utf8_lossy(&kv.value).into_owned(),
            created: kv.create_revision,
            revision: kv.mod_revision,
            version: kv.version,
        });
        facts.keys.insert(key.to_owned(), found);
    }
    for prefix in prefixes {
        facts.counts.insert(prefix.to_owned(), ranges.next().map_or(0, |r| r.count));
    }
    Ok(())
}

/// The first key that is larger than all that begin so; a zero byte, "to the end", if there is none.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

async fn read_cluster(endpoints: &[String], facts: &mut Facts) -> Result<(), String> {
    let list = first_answer(endpoints, |channel| {
        let request = MemberListRequest { linearizable: true };
        Box::pin(async move { ClusterClient::new(channel).member_list(request).await })
    });
    let members = list.await?.into_inner().members;
    let status = first_answer(endpoints, status_of);
    let leader = status.await?.into_inner().leader;
    facts.member_count = Some(i64::try_from(members.len()).map_err(|e| e.to_string())?);
    facts.leader = members.into_iter().find(|m| m.id == leader).map(|m| m.name);
    Ok(())
}

/// Whether this member answers and knows a leader.
pub(crate) async fn has_leader(endpoint: &str) -> bool {
    let endpoints = [endpoint.to_owned()];
    let asked = first_answer(&endpoints, status_of);
    asked.await.is_ok_and(|status| status.into_inner().leader != 0)
}

fn status_of(channel: Channel) -> BoxFuture<'static, Result<Response<StatusResponse>, Status>> {
    Box::pin(async move { MaintenanceClient::new(channel).status(StatusRequest {}).await })
}

/// Asks one member after the other until one answers. Boxed, so that a session may live in a task.
async fn first_answer<T>(
    endpoints: &[String],
    call: impl Fn(Channel) -> BoxFuture<'static, Result<T, Status>> + Send + Sync,
) -> Result<T, String> {
    let mut refusals = Vec::new();
    for endpoint in endpoints {
        let channel = match connect(endpoint).await {
            Ok(channel) => channel,
            Err(e) => {
                refusals.push(format!("{endpoint}: {e}"));
                continue;
            }
        };
        match call(channel).await {
            Ok(answer) => return Ok(answer),
            Err(status) => refusals.push(format!("{endpoint}: {}", status.message())),
        }
    }
    Err(format!("no member answered ({})", refusals.join("; ")))
}

async fn connect(endpoint: &str) -> Result<Channel, String> {
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(url).map_err(|e| e.to_string())?;
    let connected = endpoint.connect_timeout(ANSWER_WITHIN).timeout(ANSWER_WITHIN).connect().await;
    connected.map_err(|_| "does not answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_so() {
        assert_eq!(after_prefix(b"/team/"), b"/team0");
        assert_eq!(after_prefix(&[b'a', 0xff]), b"b");
        assert_eq!(after_prefix(&[0xff, 0xff]), [0]);
        assert_eq!(after_prefix(b""), [0]);
    }
}
