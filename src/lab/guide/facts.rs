//! What a check looks at: the cluster over its own API, the nodes' services and files, and what the learner has said and run.
//!
//! The keys that a check names are read in one transaction, so they are from one moment. The client here is the bare gRPC stub,
//! not our `etcdctl`: a check must not share the mistakes of what it checks.

use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Member;
use crate::lab::guide::expr::Fact;
use crate::lab::guide::expr::FileProperty;
use crate::lab::guide::papers;
use crate::lab::guide::papers::Found;
use crate::lab::guide::service;
use crate::lab::guide::shell::Call;
use crate::lab::guide::shell::Output;
use crate::lab::guide::shell::Shell;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::StatusResponse;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::request_op;
use crate::proto::etcdserverpb::response_op;
use futures::future::BoxFuture;
use futures::future::join_all;
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// How long one member may take to answer before the next is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long a check's own command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);

/// One key as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFact {
    pub(crate) value: String,
    pub(crate) created: i64,
    pub(crate) revision: i64,
    pub(crate) version: i64,
}

/// One member as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemberFact {
    /// None: the cluster does not have it.
    pub(crate) id: Option<u64>,
    /// It has told its name, so it has been started.
    pub(crate) named: bool,
    pub(crate) learner: bool,
    pub(crate) up: bool,
    pub(crate) leads: bool,
    pub(crate) revision: Option<i64>,
    pub(crate) applied: Option<i64>,
    pub(crate) errors: Option<String>,
}

/// Everything that the checks of one moment may look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) keys: BTreeMap<String, Option<KeyFact>>,
    pub(crate) counts: BTreeMap<String, i64>,
    pub(crate) revision: Option<i64>,
    pub(crate) member_count: Option<i64>,
    pub(crate) leader: Option<String>,
    pub(crate) term: Option<i64>,
    pub(crate) cluster_id: Option<u64>,
    pub(crate) hash_equal: Option<bool>,
    pub(crate) alarms: Option<i64>,
    pub(crate) members: BTreeMap<String, MemberFact>,
    pub(crate) units: BTreeMap<(String, String), bool>,
    pub(crate) logs: BTreeMap<(String, String), String>,
    pub(crate) files: BTreeMap<(String, FileProperty), Option<Found>>,
    pub(crate) commands: BTreeMap<String, Output>,
    pub(crate) answers: BTreeMap<String, String>,
    pub(crate) outputs: BTreeMap<String, Output>,
    /// What of a node could not be looked at, and why: it is neither so nor not so.
    pub(crate) unseen: BTreeMap<Fact, String>,
    /// Why the cluster could not be asked. That is no error: a lab may begin, or go wrong, with a cluster that is down.
    pub(crate) silent: Option<String>,
}

/// Asks the world for what these facts need, and nothing if they need nothing of it.
///
/// # Errors
/// A shell or a file that should be there is not.
pub(crate) async fn gather(wanted: &BTreeSet<&Fact>, bed: &dyn Bed, shell: &Shell) -> Result<Facts, String> {
    let mut facts = Facts::default();
    let places: Vec<&Member> = bed.members().iter().chain(bed.spares()).collect();
    let endpoints: Vec<String> = places.iter().map(|m| m.endpoint.clone()).collect();
    let store = wanted.iter().any(|f| matches!(f, Fact::Revision))
        || wanted.iter().any(|f| key_of(f).is_some() || prefix_of(f).is_some());
    if store && let Err(why) = read_store(wanted, &endpoints, &mut facts).await {
        facts.silent = Some(why);
    }
    let cluster = |f: &&&Fact| {
        matches!(
            f,
            Fact::MemberCount
                | Fact::Leader
                | Fact::Term
                | Fact::ClusterId
                | Fact::HashEqual
                | Fact::Alarms
                | Fact::Member(..)
        )
    };
    if wanted.iter().any(|f| cluster(&f)) && facts.silent.is_none() {
        read_members(wanted, bed, &places, &mut facts).await;
    }
    for fact in wanted {
        if let Err(why) = read_local(fact, shell, &mut facts).await {
            facts.unseen.insert((*fact).clone(), why);
        }
    }
    facts.commands = run_commands(wanted, shell).await?;
    Ok(facts)
}

/// Runs the commands of a check, each once, beside each other: one that waits for a time-out holds up none of the others.
async fn run_commands(wanted: &BTreeSet<&Fact>, shell: &Shell) -> Result<BTreeMap<String, Output>, String> {
    let commands: BTreeSet<&String> = wanted
        .iter()
        .filter_map(|fact| match fact {
            Fact::Command(text) | Fact::CommandExit(text) => Some(text),
            _ => None,
        })
        .collect();
    let run = commands.into_iter().map(|text| async move {
        let output = shell.run(Call { aside: true, ..Call::new(text, COMMAND_WITHIN) }).await?;
        Ok((text.clone(), output))
    });
    try_join_all(run).await.map(|all| all.into_iter().collect())
}

/// # Errors
/// The fact's node is on another machine, which is not reached.
async fn read_local(fact: &Fact, shell: &Shell, facts: &mut Facts) -> Result<(), String> {
    match fact {
        Fact::UnitActive(node, unit) => {
            let active = match shell.away(node) {
                Some(away) => away.is_active(node, unit).await?,
                None => shell.node(node).is_some_and(|n| service::is_active(&n, unit)),
            };
            facts.units.insert((node.clone(), unit.clone()), active);
        }
        Fact::Log(node, unit) => {
            let text = match shell.away(node) {
                Some(away) => away.journal(node, unit).await?,
                None => shell.node(node).map(|n| service::journal(&n, unit)).unwrap_or_default(),
            };
            facts.logs.insert((node.clone(), unit.clone()), text);
        }
        Fact::File(path, property) => {
            let found = papers::look(shell, path, property).await?;
            if found.is_none() {
                // Is it not there, or not what it should be? The learner wants to know which.
                let there = papers::look(shell, path, &FileProperty::Exists).await?;
                facts.files.insert((path.clone(), FileProperty::Exists), there);
            }
            facts.files.insert((path.clone(), property.clone()), found);
        }
        _ => {}
    }
    Ok(())
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

/// The members as one of them lists them, and each as it answers for itself.
async fn read_members(wanted: &BTreeSet<&Fact>, bed: &dyn Bed, places: &[&Member], facts: &mut Facts) {
    let asked = places.iter().map(|place| async move {
        first_answer(std::slice::from_ref(&place.endpoint), status_of).await.ok().map(Response::into_inner)
    });
    let answers = join_all(asked).await;
    let up: Vec<String> =
        places.iter().zip(&answers).filter(|(_, a)| a.is_some()).map(|(p, _)| p.endpoint.clone()).collect();
    // What one member knows by itself: without a majority there is no other answer.
    let list = first_answer(&up, |channel| {
        let request = MemberListRequest { linearizable: false };
        Box::pin(async move { ClusterClient::new(channel).member_list(request).await })
    });
    let list = match list.await {
        Ok(list) => list.into_inner(),
        Err(why) => {
            facts.silent = Some(why);
            return;
        }
    };
    let leader = answers.iter().flatten().map(|s| s.leader).find(|l| *l != 0);
    facts.cluster_id = list.header.as_ref().map(|h| h.cluster_id);
    facts.term = answers.iter().flatten().filter_map(|s| i64::try_from(s.raft_term).ok()).max();
    facts.member_count = i64::try_from(list.members.len()).ok();
    facts.leader = list.members.iter().find(|m| Some(m.id) == leader).map(|m| m.name.clone());
    for (place, answer) in places.iter().zip(&answers) {
        let url = bed.peer(&place.name).map(|peer| format!("://{peer}"));
        let at = |m: &&crate::proto::etcdserverpb::Member| {
            url.as_ref().map_or(m.name == place.name, |url| m.peer_ur_ls.iter().any(|u| u.ends_with(url)))
        };
        let found = list.members.iter().find(at);
        let id = found.map(|m| m.id);
        let answer = answer.as_ref();
        let fact = MemberFact {
            id,
            named: found.is_some_and(|m| !m.name.is_empty()),
            learner: found.is_some_and(|m| m.is_learner),
            up: answer.is_some(),
            leads: id.is_some() && id == leader,
            revision: answer.and_then(|a| a.header.as_ref()).map(|h| h.revision),
            applied: answer.and_then(|a| i64::try_from(a.raft_applied_index).ok()),
            errors: answer.map(|a| a.errors.join("; ")),
        };
        facts.members.insert(place.name.clone(), fact);
    }
    if wanted.contains(&Fact::HashEqual) {
        facts.hash_equal = Some(hashes_equal(&up, list.members.len(), &answers).await);
    }
    if wanted.contains(&Fact::Alarms) {
        let asked = first_answer(&up, |channel| {
            let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
            Box::pin(async move { MaintenanceClient::new(channel).alarm(request).await })
        });
        facts.alarms = asked.await.ok().and_then(|a| i64::try_from(a.into_inner().alarms.len()).ok());
    }
}

/// Whether every member answers, as one cluster's, with the same hash at the revision that all of them have.
async fn hashes_equal(up: &[String], members: usize, answers: &[Option<StatusResponse>]) -> bool {
    let revision = answers.iter().flatten().filter_map(|a| a.header.as_ref()).map(|h| h.revision).min();
    let Some(revision) = revision.filter(|_| up.len() == members) else { return false };
    let mut hashes = BTreeSet::new();
    for endpoint in up {
        let asked = first_answer(std::slice::from_ref(endpoint), |channel| {
            let request = HashKvRequest { revision };
            Box::pin(async move { MaintenanceClient::new(channel).hash_kv(request).await })
        });
        // Two clusters of one past have the same at its revisions: who was left behind in the old one holds nothing with the new.
        let said = asked.await.ok().map(|h| h.into_inner());
        hashes.insert(said.and_then(|h| Some((h.header?.cluster_id, h.hash))));
    }
    hashes.len() == 1 && !hashes.contains(&None)
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
