//! Once a second, what members do not tell as events: watchers, leases, new changes (`lab.v1` Look), status and alarms (etcd's Maintenance),
//! and a few of their metrics.
//!
//! All of it is asked of the member itself. What it does not answer is absent, and the screens say since when.

use crate::lab::close;
use crate::lab::close::Close;
use crate::lab::observe::Report;
use crate::lab::observe::connect;
use crate::lab::observe::with_token;
use crate::lab::own_watch::OWN_WATCH;
use crate::lab::sockets;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::lab::LookRequest;
use crate::proto::lab::Watcher;
use crate::proto::lab::lab_client::LabClient;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

const EVERY: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_millis(800);
/// A store that is larger is not hashed unasked: that takes its member's time.
const HASHED_MAX: i64 = 8 << 20;
/// Rounds between two hashes.
const HASH_EVERY: u32 = 5;
/// Rounds between two looks at the metrics: all of them are much text, of which little is shown.
const METRICS_EVERY: u32 = 3;
/// Longest answer of `/metrics` that is read.
const METRICS_MAX: usize = 1 << 20;

/// What etcd's own services say of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    pub version: String,
    pub db_size: i64,
    pub db_in_use: i64,
    pub quota: i64,
    pub errors: Vec<String>,
    /// `NOSPACE`, `CORRUPT`, with the member that has it.
    pub alarms: Vec<(u64, String)>,
    /// The metrics of [`METRICS`] that it has.
    pub metrics: BTreeMap<String, f64>,
    /// Where it stands in raft, as it says when it is asked.
    #[serde(default)]
    pub standing: Standing,
    /// Of its whole store, if it was asked for just now.
    #[serde(default)]
    pub hash: Option<StateHash>,
    /// What a close look has found, in the rounds that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<Box<Close>>,
}

/// etcd's `Status`, as far as raft goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub member: u64,
    pub cluster: u64,
    /// 0: it knows of none.
    pub leader: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub is_learner: bool,
    pub revision: i64,
}

/// A hash of all keys and values that a member can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    pub revision: i64,
    /// Below it history is gone.
    pub compacted: i64,
    pub hash: u32,
}

/// What a member was asked before.
#[derive(Clone, Debug)]
pub struct Since {
    /// Changes from this revision on are new.
    revision: u64,
    /// At this revision it was hashed last.
    hashed: i64,
    /// Rounds until it may be hashed again.
    wait: u32,
    /// Which programs are at these addresses, as far as that could be found.
    clients: BTreeMap<String, String>,
    /// Connections that have served so far: a member has work with each new one.
    door: Option<LabClient<Channel>>,
    maintenance: Option<MaintenanceClient<Channel>>,
    /// The metrics of some rounds ago, and rounds until they are asked for again.
    metrics: BTreeMap<String, f64>,
    metrics_wait: u32,
}

impl Default for Since {
    fn default() -> Since {
        Since {
            revision: 1,
            hashed: 0,
            wait: 0,
            clients: BTreeMap::new(),
            door: None,
            maintenance: None,
            metrics: BTreeMap::new(),
            metrics_wait: 0,
        }
    }
}

/// The metrics that are shown. Of a histogram its `_sum` and `_count`.
pub const METRICS: &[&str] = &[
    "etcd_disk_wal_fsync_duration_seconds_sum",
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_sum",
    "etcd_disk_backend_commit_duration_seconds_count",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_debugging_mvcc_keys_total",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
];

impl Survey {
    /// The mean of a histogram, in milliseconds, since the member's start.
    #[must_use]
    pub fn mean_ms(&self, histogram: &str) -> Option<f64> {
        let value = |end: &str| self.metrics.get(&format!("{histogram}_{end}")).copied();
        let (sum, count) = (value("sum")?, value("count")?);
        (count > 0.0).then(|| sum / count * 1000.0)
    }
}

/// Asks all members until the set is dropped.
#[must_use]
pub fn survey(record: &Record, token: &str, to: &mpsc::Sender<Report>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (member, m) in record.members.iter().enumerate() {
        tasks.spawn(keep_asking(member, m.clone(), token.to_owned(), to.clone()));
    }
    tasks
}

async fn keep_asking(member: usize, m: MemberRecord, token: String, to: mpsc::Sender<Report>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since = Since::default();
    while !to.is_closed() {
        every.tick().await;
        for report in ask(member, &m, &token, &mut since).await {
            drop(to.send(report).await);
        }
    }
}

/// One round: what the member answers within its time.
pub async fn ask(member: usize, m: &MemberRecord, token: &str, since: &mut Since) -> Vec<Report> {
    let mut reports = Vec::new();
    let (door, from) = (since.door.take(), since.revision);
    let look = async {
        let mut door = match door {
            Some(door) => door,
            None => connect(&m.lab_socket).await?,
        };
        let request = with_token(LookRequest { since_revision: from }, token)?;
        let look = door.look(request).await?.into_inner();
        Ok::<_, tonic::Status>((door, look))
    };
    // Whatever failed, the next round begins with a new connection.
    if let Ok(Ok((door, mut look))) = timeout(ANSWER, look).await {
        (since.door, since.revision) = (Some(door), look.revision + 1);
        name_clients(&mut look.watchers, &mut since.clients).await;
        reports.push(Report::Looked { member, look: Box::new(look) });
    }
    if let Ok(Some(survey)) = timeout(ANSWER, status(m, since)).await {
        reports.push(Report::Surveyed { member, survey: Box::new(survey) });
    }
    reports
}

/// Whether a member wants TLS of its clients. It is not asked without: each time it would write into its log that somebody came so.
#[must_use]
pub fn is_closed(url: &str) -> bool {
    !url.starts_with("http://")
}

/// What is said in place of the answer.
pub(crate) const CLOSED: &str = "it wants a certificate of its clients: use etcdctl there";

/// Puts programs in the place of addresses; who was looked for once is not looked for again while it watches.
async fn name_clients(all: &mut [Watcher], known: &mut BTreeMap<String, String>) {
    let watchers = || all.iter().filter(|w| w.watch_id != OWN_WATCH);
    known.retain(|client, _| watchers().any(|w| w.client == *client));
    let new: BTreeSet<String> = watchers().map(|w| w.client.clone()).filter(|c| !known.contains_key(c)).collect();
    let ends: Vec<SocketAddr> = new.iter().filter_map(|client| client.parse().ok()).collect();
    if !ends.is_empty() {
        // It looks through all processes: not on the thread that hears the members.
        let found = tokio::task::spawn_blocking(move || sockets::clients(&ends)).await.unwrap_or_default();
        let name = |client: &String| match found.get(&client.parse().ok()?) {
            Some((pid, program)) => Some(format!("{program} (pid {pid})")),
            None => Some(client.clone()),
        };
        known.extend(new.iter().filter_map(|client| Some((client.clone(), name(client)?))));
    }
    for w in all {
        w.client = known.get(&w.client).cloned().unwrap_or_else(|| std::mem::take(&mut w.client));
    }
}

async fn status(m: &MemberRecord, since: &mut Since) -> Option<Survey> {
    let url = &*m.client_url;
    if is_closed(url) {
        return None;
    }
    let mut client = match since.maintenance.take() {
        Some(client) => client,
        None => {
            let endpoint = Endpoint::from_shared(url.to_owned()).ok()?.connect_timeout(ANSWER);
            MaintenanceClient::new(endpoint.connect().await.ok()?)
        }
    };
    let status = client.status(StatusRequest::default()).await.ok()?.into_inner();
    // Not by asking for alarms: etcd puts that question through the log, and a look must not change what it looks at.
    let alarms = status.errors.iter().filter_map(|e| alarm(e)).collect();
    let revision = status.header.as_ref().map_or(0, |h| h.revision);
    since.wait = since.wait.saturating_sub(1);
    let hash = match since.wait == 0 && revision > since.hashed && status.db_size_in_use <= HASHED_MAX {
        true => {
            (since.hashed, since.wait) = (revision, HASH_EVERY);
            hash(&mut client, revision).await
        }
        false => None,
    };
    since.maintenance = Some(client);
    let mut close = None;
    if since.metrics_wait == 0 {
        let text = metrics(url).await.unwrap_or_default();
        (since.metrics, since.metrics_wait) = (chosen(&text), METRICS_EVERY);
        close = Some(Box::new(Close {
            files: m.data_dir.is_dir().then(|| close::files(&m.data_dir)),
            ..close::of_metrics(&text)
        }));
    }
    since.metrics_wait -= 1;
    let header = status.header.unwrap_or_default();
    let standing = Standing {
        member: header.member_id,
        cluster: header.cluster_id,
        leader: status.leader,
        term: status.raft_term,
        commit: status.raft_index,
        applied: status.raft_applied_index,
        is_learner: status.is_learner,
        revision,
    };
    Some(Survey {
        hash,
        standing,
        version: status.version,
        db_size: status.db_size,
        db_in_use: status.db_size_in_use,
        quota: status.db_size_quota,
        errors: status.errors,
        alarms,
        metrics: since.metrics.clone(),
        close,
    })
}

/// Its hash at this revision: what others say of theirs at another one cannot be compared.
async fn hash(client: &mut MaintenanceClient<Channel>, revision: i64) -> Option<StateHash> {
    let answer = client.hash_kv(HashKvRequest { revision }).await.ok()?.into_inner();
    Some(StateHash { revision, compacted: answer.compact_revision, hash: answer.hash })
}

/// `memberID:123 alarm:NOSPACE `, as a status lists an alarm among its errors.
fn alarm(error: &str) -> Option<(u64, String)> {
    let kind = error.split("alarm:").nth(1)?.trim();
    let id = error.strip_prefix("memberID:").and_then(|rest| rest.split(' ').next()?.parse().ok());
    Some((id.unwrap_or(0), kind.to_owned()))
}

async fn metrics(url: &str) -> Option<String> {
    let host = url.strip_prefix("http://")?;
    let mut stream = TcpStream::connect(host).await.ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = Vec::new();
    stream.take(METRICS_MAX as u64).read_to_end(&mut text).await.ok()?;
    String::from_utf8(text).ok()
}

/// The lines of [`METRICS`] that have no labels.
fn chosen(text: &str) -> BTreeMap<String, f64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        METRICS.contains(&name).then_some(())?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_read_from_the_status() {
        assert_eq!(alarm("memberID:123 alarm:NOSPACE "), Some((123, "NOSPACE".into())));
        assert_eq!(alarm("etcdserver: no leader"), None);
    }

    #[test]
    fn the_shown_metrics_are_read_and_nothing_else() {
        let text = "# HELP etcd_server_has_leader x\r\netcd_server_has_leader 1\r\nother 5\n\
                    etcd_disk_wal_fsync_duration_seconds_sum 0.5\netcd_disk_wal_fsync_duration_seconds_count 100\n";
        let survey = Survey { metrics: chosen(text), ..Survey::default() };
        assert_eq!(survey.metrics.len(), 3);
        assert_eq!(survey.mean_ms("etcd_disk_wal_fsync_duration_seconds"), Some(5.0));
        assert_eq!(survey.mean_ms("etcd_disk_backend_commit_duration_seconds"), None);
    }
}
