//! The generated gRPC clients, one channel to each member, and nothing clever: a test says which member it asks, and sees each refusal.

use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::KeyValue;
use etcd_lab::proto::v3electionpb::election_client::ElectionClient;
use etcd_lab::proto::v3lockpb::lock_client::LockClient;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use std::future::Future;
use std::time::Duration;
use tonic::Response;
use tonic::Status;
use tonic::transport::Channel;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Endpoint;

/// How long a connection may take to come up: loopback answers at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long an answer may take that a test waits for: more than etcd's own 7 seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Channels to the members of one cluster, in their order.
#[derive(Clone)]
pub(crate) struct Client {
    channels: Vec<Channel>,
    urls: Vec<String>,
}

impl Client {
    /// Over plain HTTP.
    pub(crate) fn plain(urls: Vec<String>) -> Client {
        let channels = urls.iter().map(|url| endpoint(url).connect_lazy()).collect();
        Client { channels, urls }
    }

    /// Over TLS.
    pub(crate) fn tls(urls: Vec<String>, tls: &ClientTlsConfig) -> Client {
        let connect = |url: &String| {
            let endpoint = endpoint(url).tls_config(tls.clone()).expect("a TLS configuration that can be used");
            endpoint.connect_lazy()
        };
        let channels = urls.iter().map(connect).collect();
        Client { channels, urls }
    }

    /// Another member: the last one.
    pub(crate) fn push(&mut self, url: String) {
        self.channels.push(endpoint(&url).connect_lazy());
        self.urls.push(url);
    }

    pub(crate) fn cluster(&self, member: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channels[member].clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    pub(crate) fn kv(&self, member: usize) -> KvClient<Channel> {
        KvClient::new(self.channels[member].clone()).max_decoding_message_size(1 << 28)
    }

    /// A client on a connection of its own: what breaks is this member, not another caller's request.
    pub(crate) fn watch(&self, member: usize) -> WatchClient<Channel> {
        WatchClient::new(endpoint(&self.urls[member]).connect_lazy())
    }

    pub(crate) fn lease(&self, member: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channels[member].clone())
    }

    pub(crate) fn maintenance(&self, member: usize) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channels[member].clone())
    }

    /// A connection of its own, as for a watch.
    pub(crate) fn lock(&self, member: usize) -> LockClient<Channel> {
        LockClient::new(endpoint(&self.urls[member]).connect_lazy())
    }

    /// A connection of its own, as for a watch.
    pub(crate) fn election(&self, member: usize) -> ElectionClient<Channel> {
        ElectionClient::new(endpoint(&self.urls[member]).connect_lazy())
    }

    pub(crate) fn auth(&self, member: usize) -> AuthClient<Channel> {
        AuthClient::new(self.channels[member].clone())
    }

    pub(crate) async fn status(&self, member: usize) -> Result<pb::StatusResponse, Status> {
        let mut client = MaintenanceClient::new(self.channels[member].clone());
        answer(CONNECT_WITHIN, client.status(pb::StatusRequest {})).await
    }

    pub(crate) async fn hash_kv(&self, member: usize, revision: i64) -> Result<pb::HashKvResponse, Status> {
        let mut client = MaintenanceClient::new(self.channels[member].clone());
        answer(ANSWER_WITHIN, client.hash_kv(pb::HashKvRequest { revision })).await
    }

    pub(crate) async fn members(&self, member: usize, linearizable: bool) -> Result<pb::MemberListResponse, Status> {
        let mut client = ClusterClient::new(self.channels[member].clone());
        answer(ANSWER_WITHIN, client.member_list(pb::MemberListRequest { linearizable })).await
    }

    /// Waits until raft counts as applied what the member has answered. etcd answers a conf change before that, and drops the next one that comes in
    /// between without a word (raft `stepLeader`, "possible unapplied conf change"): it times out, or never ends. What a linearizable read waits for comes
    /// out of raft after that, and a read leaves nothing behind.
    pub(crate) async fn settled(&self, member: usize) {
        // Where a name is missing it is refused, but not before.
        drop(self.get(member, "settled").await);
    }

    pub(crate) async fn put(&self, member: usize, key: &str, value: &str) -> Result<pb::PutResponse, Status> {
        answer(ANSWER_WITHIN, self.kv(member).put(put(key, value))).await
    }

    /// The value of a key, linearizably.
    pub(crate) async fn get(&self, member: usize, key: &str) -> Result<Option<String>, Status> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = answer(ANSWER_WITHIN, self.kv(member).range(request)).await?;
        Ok(answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }

    /// All keys with this prefix, linearizably, from whichever member answers first.
    pub(crate) async fn prefix(&self, prefix: &str) -> Result<Vec<KeyValue>, Status> {
        let request = pb::RangeRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix).into(),
            ..Default::default()
        };
        self.any(|client, member| {
            let request = request.clone();
            async move { answer(ANSWER_WITHIN, client.kv(member).range(request)).await }
        })
        .await
        .map(|answer| answer.kvs)
    }

    /// The newest revision, linearizably.
    pub(crate) async fn revision(&self) -> Result<i64, Status> {
        let ask = |client: Client, member: usize| async move {
            let nothing = pb::RangeRequest { key: "no such key".into(), ..Default::default() };
            answer(ANSWER_WITHIN, client.kv(member).range(nothing)).await
        };
        self.any(ask).await.map(|answer| answer.header.map_or(0, |header| header.revision))
    }

    /// The first answer that is none of a member's refusals; else the last refusal.
    async fn any<T, F: Future<Output = Result<T, Status>>>(
        &self,
        ask: impl Fn(Client, usize) -> F,
    ) -> Result<T, Status> {
        let mut refusal = Status::unavailable("no members");
        for member in 0..self.len() {
            match ask(self.clone(), member).await {
                Ok(answer) => return Ok(answer),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }
}

/// The answer within this time; a client's deadline otherwise.
pub(crate) async fn answer<T>(
    within: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(within, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {within:?}"))),
    }
}

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

/// The range end that makes a range of all keys with this prefix, which must not end in byte 255.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    *last = last.checked_add(1).expect("a prefix does not end in byte 255");
    end
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::from_shared(url.to_owned()).expect("a URL").connect_timeout(CONNECT_WITHIN).tcp_nodelay(true)
}
