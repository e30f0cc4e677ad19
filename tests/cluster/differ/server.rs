//! One of the two servers: gives it an operation and returns its answer as text.

#![expect(clippy::disallowed_methods, reason = "waits for leases to expire, with a deadline")]

use super::answer::neutral;
use super::answer::part;
use super::answer::refused;
use super::answer::settle_ties;
use super::answer::told;
use super::step::Member;
use super::step::Op;
use super::step::Step;
use super::step::Watching;
use super::step::Who;
use super::stream::Stream;
use crate::client::put;
use etcd_lab::proto::etcdserverpb as pb;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_request::RequestUnion;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;
use std::time::Instant;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// How long any answer may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// A lease of two seconds, half a second of the leader's round, and a slow machine.
const EXPIRES_WITHIN: Duration = Duration::from_secs(15);

/// A server under comparison.
pub(super) struct Server {
    channel: Channel,
    url: String,
    own: u64,
    pub(super) release: String,
    tokens: BTreeMap<u8, String>,
    pub(super) streams: BTreeMap<u8, Stream>,
}

/// The answer in time; `ask!(self, who, client.method, request)`.
macro_rules! ask {
    ($server:expr, $who:expr, $client:ty, $method:ident, $request:expr) => {{
        let mut client = <$client>::new($server.channel()).max_decoding_message_size(1 << 28);
        within(client.$method($server.request($who, $request))).await
    }};
}
pub(super) use ask;

pub(super) async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    let silent = |_| Status::deadline_exceeded(format!("(no answer within {ANSWER_WITHIN:?})"));
    tokio::time::timeout(ANSWER_WITHIN, call).await.unwrap_or_else(|elapsed| Err(silent(elapsed)))
}

impl Server {
    pub(super) async fn connect(url: &str) -> Server {
        let channel = connect(url);
        let status = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await;
        let status = status.unwrap_or_else(|refusal| panic!("status of {url}: {refusal}")).into_inner();
        let own = status.header.map_or(0, |header| header.member_id);
        let (tokens, streams) = (BTreeMap::new(), BTreeMap::new());
        Server { channel, url: url.to_owned(), own, release: status.version, tokens, streams }
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The request with the token of whoever asks.
    pub(super) fn request<T>(&self, who: Who, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = match who {
            Who::Nobody => None,
            Who::Token(slot) => self.tokens.get(&slot).cloned(),
            Who::Forged => Some("aaaaaaaaaaaaaaaa.4".to_owned()),
        };
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("a token is plain text"));
        }
        request
    }

    pub(super) async fn give(&mut self, step: &Step) -> String {
        let text = match &step.op {
            Op::Watch(watching) => self.watching(step.who, watching).await,
            _ => self.ask(step.who, &step.op).await,
        };
        neutral(&text, self.own)
    }

    async fn ask(&mut self, who: Who, op: &Op) -> String {
        match op.clone() {
            Op::Range(range) => self.range(who, range).await,
            Op::Put(put) => told(ask!(self, who, KvClient<_>, put, put)),
            Op::DeleteRange(delete) => told(ask!(self, who, KvClient<_>, delete_range, delete)),
            Op::Txn(txn) => told(ask!(self, who, KvClient<_>, txn, txn)),
            Op::Compact(compaction) => told(ask!(self, who, KvClient<_>, compact, compaction)),
            Op::HashKv { revision, .. } => {
                told(ask!(self, who, MaintenanceClient<_>, hash_kv, pb::HashKvRequest { revision }))
            }
            Op::LeaseGrant(grant) => told(ask!(self, who, LeaseClient<_>, lease_grant, grant)),
            Op::LeaseRevoke(id) => told(ask!(self, who, LeaseClient<_>, lease_revoke, pb::LeaseRevokeRequest { id })),
            Op::LeaseBrief { id, ttl } => self.lease_brief(who, id, ttl).await,
            Op::LeaseKeepAlive(ids) => self.keep_alive(who, ids).await,
            Op::LeaseTimeToLive(request) => self.time_to_live(who, request).await,
            Op::LeaseLeases => self.leases(who).await,
            Op::LeaseExpiry { id, keys } => self.expiry(who, id, keys).await,
            Op::Status | Op::Hash | Op::Defragment | Op::Snapshot | Op::MemberList { .. } | Op::MoveLeader(_) => {
                self.maintain(who, op).await
            }
            Op::Downgrade(request) => told(ask!(self, who, MaintenanceClient<_>, downgrade, request)),
            Op::Alarm { action, member, alarm } => {
                let member_id = match member {
                    Member::Own => self.own,
                    Member::Id(id) => id,
                };
                let request = pb::AlarmRequest { action, member_id, alarm };
                told(ask!(self, who, MaintenanceClient<_>, alarm, request))
            }
            Op::Authenticate { name, password, slot } => self.authenticate(name, password, slot).await,
            Op::LockQueue { .. }
            | Op::Lock { .. }
            | Op::Unlock(_)
            | Op::Campaign { .. }
            | Op::Leader(_)
            | Op::Proclaim(_)
            | Op::Resign(_)
            | Op::Observe(_) => self.concur(who, op).await,
            op => self.administer(who, op).await,
        }
    }

    async fn range(&self, who: Who, range: pb::RangeRequest) -> String {
        let mut answer = ask!(self, who, KvClient<_>, range, range.clone());
        if let Ok(response) = &mut answer {
            settle_ties(&range, response.get_mut());
        }
        told(answer)
    }

    /// Grants, asks what is left, revokes. An id of the server's choice becomes a word.
    async fn lease_brief(&self, who: Who, id: i64, ttl: i64) -> String {
        let granted = ask!(self, who, LeaseClient<_>, lease_grant, pb::LeaseGrantRequest { id, ttl });
        let chosen = granted.as_ref().map_or(id, |response| response.get_ref().id);
        let mut text = String::new();
        part(&mut text, "grant", &told(granted));
        part(
            &mut text,
            "revoke",
            &told(ask!(self, who, LeaseClient<_>, lease_revoke, pb::LeaseRevokeRequest { id: chosen })),
        );
        if id == 0 && chosen > 0 { text.replace(&chosen.to_string(), "(chosen)") } else { text }
    }

    async fn keep_alive(&self, who: Who, ids: Vec<i64>) -> String {
        let requests: Vec<_> = ids.into_iter().map(|id| pb::LeaseKeepAliveRequest { id }).collect();
        let mut client = LeaseClient::new(self.channel.clone());
        let responses = within(client.lease_keep_alive(self.request(who, tokio_stream::iter(requests)))).await;
        let mut responses = match responses {
            Ok(responses) => responses.into_inner(),
            Err(status) => return refused(&status),
        };
        let mut text = String::new();
        for number in 0.. {
            match tokio::time::timeout(ANSWER_WITHIN, responses.next()).await {
                Ok(Some(Ok(response))) => part(&mut text, &number.to_string(), &format!("{response:#?}")),
                // Whether a refusal is the first thing on a stream or the call's own answer is the library's business.
                Ok(Some(Err(status))) => return refused(&status),
                Ok(None) => break,
                Err(_) => {
                    part(&mut text, &number.to_string(), "silence: 1,");
                    break;
                }
            }
        }
        text
    }

    /// What is left of a long lease is as much as was granted, give or take the time that has passed.
    async fn time_to_live(&self, who: Who, request: pb::LeaseTimeToLiveRequest) -> String {
        let mut answer = ask!(self, who, LeaseClient<_>, lease_time_to_live, request);
        if let Ok(response) = &mut answer {
            let response = response.get_mut();
            response.keys.sort();
            let passed = response.granted_ttl - response.ttl;
            // A run takes less than an hour.
            if (0..3600).contains(&passed) && response.ttl > 0 {
                response.ttl = response.granted_ttl;
            }
        }
        told(answer)
    }

    async fn leases(&self, who: Who) -> String {
        let mut answer = ask!(self, who, LeaseClient<_>, lease_leases, pb::LeaseLeasesRequest {});
        if let Ok(response) = &mut answer {
            response.get_mut().leases.sort_by_key(|lease| lease.id);
        }
        told(answer)
    }

    async fn expiry(&self, who: Who, id: i64, keys: Vec<String>) -> String {
        let mut text = String::new();
        let grant = pb::LeaseGrantRequest { id, ttl: 1 };
        part(&mut text, "grant", &told(ask!(self, who, LeaseClient<_>, lease_grant, grant)));
        for (number, key) in keys.iter().enumerate() {
            let put = pb::PutRequest { lease: id, ..put(key, "goes with its lease") };
            part(&mut text, &format!("put{number}"), &told(ask!(self, who, KvClient<_>, put, put)));
        }
        let deadline = Instant::now() + EXPIRES_WITHIN;
        loop {
            let request = pb::LeaseTimeToLiveRequest { id, keys: true };
            let mut answer = ask!(self, who, LeaseClient<_>, lease_time_to_live, request);
            if let Ok(response) = &mut answer {
                // The lease goes an instant before its keys and the revision that they take.
                response.get_mut().header = None;
            }
            if answer.as_ref().map_or(true, |response| response.get_ref().granted_ttl == 0) || Instant::now() > deadline
            {
                part(&mut text, "gone", &told(answer));
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for (number, key) in keys.iter().enumerate() {
            let range = pb::RangeRequest { key: key.clone().into(), ..Default::default() };
            part(&mut text, &format!("get{number}"), &told(ask!(self, who, KvClient<_>, range, range)));
        }
        text
    }

    async fn maintain(&self, who: Who, op: &Op) -> String {
        match op {
            Op::Status => self.status(who).await,
            Op::Hash => {
                let mut answer = ask!(self, who, MaintenanceClient<_>, hash, pb::HashRequest {});
                if let Ok(response) = &mut answer {
                    // Covers the applied index, which startup alone makes different.
                    response.get_mut().hash = u32::from(response.get_ref().hash != 0);
                }
                told(answer)
            }
            Op::Defragment => told(ask!(self, who, MaintenanceClient<_>, defragment, pb::DefragmentRequest {})),
            Op::Snapshot => self.snapshot(who).await,
            Op::MoveLeader(id) => {
                told(ask!(self, who, MaintenanceClient<_>, move_leader, pb::MoveLeaderRequest { target_id: *id }))
            }
            Op::MemberList { linearizable } => {
                let request = pb::MemberListRequest { linearizable: *linearizable };
                let mut answer = ask!(self, who, ClusterClient<_>, member_list, request);
                if let Ok(response) = &mut answer {
                    for member in &mut response.get_mut().members {
                        member.peer_ur_ls.clear();
                        member.client_ur_ls.clear();
                    }
                }
                told(answer)
            }
            _ => unreachable!("{op:?} is none of these"),
        }
    }

    /// Sizes and indices are each server's own; that they are told is not.
    async fn status(&self, who: Who) -> String {
        let mut answer = ask!(self, who, MaintenanceClient<_>, status, pb::StatusRequest {});
        if let Ok(response) = &mut answer {
            let status = response.get_mut();
            status.version = "(version)".to_owned();
            assert!(status.db_size >= status.db_size_in_use, "{status:?}");
            for number in [&mut status.db_size, &mut status.db_size_in_use] {
                *number = i64::from(*number > 0);
            }
            for number in [&mut status.raft_index, &mut status.raft_applied_index, &mut status.raft_term] {
                *number = u64::from(*number > 0);
            }
        }
        told(answer)
    }

    /// Only whether there is one: its bytes are the storage engine's.
    async fn snapshot(&self, who: Who) -> String {
        let mut responses = match ask!(self, who, MaintenanceClient<_>, snapshot, pb::SnapshotRequest {}) {
            Ok(responses) => responses.into_inner(),
            Err(status) => return refused(&status),
        };
        loop {
            match tokio::time::timeout(ANSWER_WITHIN, responses.next()).await {
                Ok(Some(Ok(response))) if response.remaining_bytes == 0 => return "snapshot: 1,".to_owned(),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(status))) => return refused(&status),
                Ok(None) => return "end: 1,".to_owned(),
                Err(_) => return "silence: 1,".to_owned(),
            }
        }
    }

    async fn authenticate(&mut self, name: &str, password: &str, slot: u8) -> String {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let mut answer = ask!(self, Who::Nobody, AuthClient<_>, authenticate, request);
        if let Ok(response) = &mut answer {
            let token = std::mem::take(&mut response.get_mut().token);
            let (letters, index) = token.split_once('.').unwrap_or_default();
            let well_formed = letters.len() == 16 && index.parse::<u64>().is_ok();
            response.get_mut().token = if well_formed { "(token)".to_owned() } else { token.clone() };
            self.tokens.insert(slot, token);
        }
        told(answer)
    }

    async fn watching(&mut self, who: Who, watching: &Watching) -> String {
        match watching {
            Watching::Open(number) => {
                // A connection of its own: its end must not be another's.
                let stream = Stream::open(connect(&self.url), self.own, |requests| self.request(who, requests));
                self.streams.insert(*number, stream);
                String::new()
            }
            Watching::Create { stream, request, .. } => {
                let stream = &self.streams[stream];
                stream.send(RequestUnion::CreateRequest(request.clone())).await;
                stream.control().await
            }
            Watching::Cancel { stream, id, known } => {
                let stream = &self.streams[stream];
                stream.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: *id })).await;
                if *known { stream.canceled(*id).await } else { String::new() }
            }
            Watching::Progress { stream, expected } => {
                let stream = &self.streams[stream];
                stream.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
                stream.progress(*expected).await
            }
            Watching::Drop(number) => {
                drop(self.streams.remove(number));
                String::new()
            }
            Watching::HalfClose(number) => {
                let stream = self.streams.get_mut(number).expect("an open stream");
                stream.half_close().await
            }
        }
    }
}

pub(super) fn connect(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
    endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(2)).connect_lazy()
}

/// The text of a call whose message has nothing that needs replacing.
pub(super) fn plain<T: Debug>(answer: Result<Response<T>, Status>) -> String {
    told(answer)
}
