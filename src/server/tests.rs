//! A member of one, its listeners and its clients, in one process.

#[path = "tests/auth.rs"]
mod auth;
#[path = "tests/curl.rs"]
mod curl;

use super::config::Config;
use super::door::Door;
use super::front::Front;
use super::front::Limits;
use super::front::Security;
use super::health::CheckRequest;
use super::health::CheckResponse;
use super::listen;
use super::listen::Bounds;
use super::listen::Socket;
use super::settings::Settings;
use super::settings::Words;
use super::urls::Url;
use crate::node::Network;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::lab;
use crate::proto::lab::lab_client::LabClient;
use crate::tls::Acceptor;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Request;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A served member.
struct Member {
    node: Node,
    clients: String,
    lab: String,
    stopping: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Member {
    async fn start(flags: &str) -> Member {
        let dir = tempfile::tempdir().expect("a directory");
        let text = format!("--name m1 --data-dir {} {flags}", dir.path().display());
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let Ok(Words::Run(settings)) = Settings::parse(&words) else { panic!("{text}") };
        let config = Config::from_settings(&settings, &mut Vec::new()).expect("good flags");
        let network = Network { listeners: Vec::new(), dial: None };
        let node = Node::start(super::run::node_config(&config), network).await.expect("a member");
        timeout(DEADLINE, node.ready().wait_for(|ready| *ready)).await.expect("in time").expect("running");
        // The leader's first own entry: with it the log is at rest.
        let decided = async {
            let mut every = tokio::time::interval(Duration::from_millis(5));
            while node.read(|machine| machine.cluster_version().is_none()) {
                every.tick().await;
            }
        };
        timeout(DEADLINE, decided).await.expect("a cluster version in time");
        let stopping = watch::Sender::new(false);
        let security = Security::of(&config).expect("good flags");
        let front = Front::new(node.clone(), Limits::of(&config), stopping.subscribe()).with_security(security);
        let mut member =
            Member { node, clients: String::new(), lab: String::new(), stopping, servers: Vec::new(), _dir: dir };
        member.clients = member.serve(Door::clients(&front), 100);
        member.lab = member.serve(Door::lab(&front, "secret"), 100);
        member
    }

    /// Serves `door` at an address of its own, which it returns.
    fn serve(&mut self, door: Door, connections: usize) -> String {
        let socket = Socket::bind(&Url::parse("http://127.0.0.1:0").expect("a URL")).expect("a free port");
        let address = socket.address().expect("TCP");
        let (ping_every, ping_wait) = (Duration::ZERO, Duration::ZERO);
        let bounds = Bounds { connections, streams: 100, ping_every, ping_wait };
        let serve = listen::serve(socket, door, Acceptor::plain(), bounds, self.stopping.subscribe());
        self.servers.push(tokio::spawn(serve));
        address.to_string()
    }

    async fn channel(&self, address: &str) -> Channel {
        Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("served")
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel(&self.clients).await)
    }

    async fn put(&self, key: &'static str, value: &'static str) -> pb::PutResponse {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv().await.put(put).await.expect("put").into_inner()
    }

    /// Sends text as it is and returns all that comes back.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.clients).await.expect("served");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn stop(mut self) {
        self.stopping.send_replace(true);
        for server in self.servers.drain(..) {
            timeout(DEADLINE, server).await.expect("in time").expect("no panic");
        }
        self.node.stop().await;
    }
}

fn create(key: &'static str, start_revision: i64) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: key.into(), start_revision, ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_be_compressed_and_is_as_large_as_it_is_unpacked() {
    let member = Member::start("").await;
    let mut kv = member.kv().await.send_compressed(CompressionEncoding::Gzip);
    let put = |bytes: usize| pb::PutRequest { key: "zip".into(), value: vec![0; bytes].into(), ..Default::default() };
    kv.put(put(100_000)).await.expect("a request like any other");
    let range = pb::RangeRequest { key: "zip".into(), ..Default::default() };
    assert_eq!(kv.range(range).await.expect("found").into_inner().kvs[0].value.len(), 100_000);
    let refused = kv.put(put(50_000_000)).await.expect_err("fifty megabytes in fifty kilobytes");
    let limit = "grpc: received message after decompression larger than max 2097152";
    assert_eq!((refused.code(), refused.message()), (tonic::Code::ResourceExhausted, limit));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_speaks_grpc_and_http() {
    let member = Member::start("").await;
    let header = member.put("a", "1").await.header.expect("a header");
    assert_eq!((header.revision, header.member_id), (2, member.node.identity().0.0));
    assert!(header.cluster_id != 0 && header.raft_term > 0);
    let health = member.get("/health").await;
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("{\"health\":\"true\",\"reason\":\"\"}"),
        "{health}"
    );
    assert!(member.get("/v2/keys").await.ends_with("404 page not found\n"));
    assert!(member.get("/readyz").await.ends_with("\r\n\r\nok\n"));
    assert!(member.get("/metrics").await.contains("\netcd_server_has_leader 1\n"));
    let refused = member.raw("PUT /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_in_etcds_words_before_they_reach_the_log() {
    let member = Member::start("--max-txn-ops 1").await;
    let mut kv = member.kv().await;
    let before = member.node.status().applied;
    let huge = pb::PutRequest { key: "a".into(), value: vec![0; 3_000_000].into(), ..Default::default() };
    let refused = kv.put(huge).await.expect_err("too large a message");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "grpc: received message larger than max (3000008 vs. 2097152)");
    let large = pb::PutRequest { key: "a".into(), value: vec![0; 1_600_000].into(), ..Default::default() };
    let refused = kv.put(large).await.expect_err("too large a request");
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let refused = kv.put(pb::PutRequest::default()).await.expect_err("no key");
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: key is not provided"));
    let odd = pb::RangeRequest { key: "a".into(), sort_target: 99, ..Default::default() };
    let refused = kv.range(odd).await.expect_err("no such target");
    assert_eq!(refused.message(), "etcdserver: invalid sort option");
    let txn = pb::TxnRequest { success: vec![pb::RequestOp::default(); 2], ..Default::default() };
    let refused = kv.txn(txn).await.expect_err("too many");
    assert_eq!(refused.message(), "etcdserver: too many operations in txn request");
    assert_eq!(member.node.status().applied, before);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_history_then_news_and_goes_on_when_the_client_has_no_more_requests() {
    let member = Member::start("").await;
    member.put("a", "1").await;
    let mut client = WatchClient::new(member.channel(&member.clients).await);
    let (requests, outgoing) = mpsc::channel(4);
    requests.send(create("a", 2)).await.expect("open");
    let mut responses = client.watch(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
    let created = responses.message().await.expect("open").expect("a response");
    assert!(created.created && created.header.is_some_and(|header| header.member_id != 0));
    let past = responses.message().await.expect("open").expect("a response");
    assert_eq!(past.events.len(), 1);
    member.put("a", "2").await;
    let news = timeout(DEADLINE, responses.message()).await.expect("in time").expect("open").expect("a response");
    assert_eq!(news.events[0].kv.as_ref().map(|kv| kv.mod_revision), Some(3));
    drop(requests);
    member.put("a", "3").await;
    let news = timeout(DEADLINE, responses.message()).await.expect("in time").expect("open").expect("a response");
    assert_eq!(news.events[0].kv.as_ref().map(|kv| kv.mod_revision), Some(4));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_at_once() {
    let member = Member::start("").await;
    let mut client = WatchClient::new(member.channel(&member.clients).await);
    let (requests, outgoing) = mpsc::channel(4);
    requests.send(create("a", 0)).await.expect("open");
    let mut responses = client.watch(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
    assert!(responses.message().await.expect("open").is_some_and(|response| response.created));
    member.stop().await;
    let ended = timeout(DEADLINE, responses.message()).await.expect("in time").expect_err("stopped");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_labs_door_opens_to_its_token_only() {
    let member = Member::start("").await;
    let mut client = LabClient::new(member.channel(&member.lab).await);
    let refused = client.observe(lab::ObserveRequest {}).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut request = tonic::Request::new(lab::ObserveRequest {});
    request.metadata_mut().insert("lab-token", "secret".parse().expect("ASCII"));
    let mut events = client.observe(request).await.expect("the token").into_inner();
    assert!(timeout(DEADLINE, events.message()).await.expect("in time").expect("open").is_some());
    let mut unknown = KvClient::new(member.channel(&member.lab).await);
    assert_eq!(unknown.range(pb::RangeRequest::default()).await.expect_err("not here").code(), Code::Unimplemented);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_too_many_waits_for_its_turn() {
    let mut member = Member::start("").await;
    let front = Front::new(member.node.clone(), limits(), member.stopping.subscribe());
    member.clients = member.serve(Door::clients(&front), 1);
    let idle = TcpStream::connect(&member.clients).await.expect("accepted");
    let waiting = timeout(Duration::from_millis(200), member.get("/version")).await;
    assert!(waiting.is_err(), "served beside the one connection that may be open");
    drop(idle);
    assert!(member.get("/version").await.contains("\"etcdserver\""));
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_keeps_its_room_until_the_client_has_taken_it() {
    let member =
        Member::start("--experimental-lab-max-range-bytes=1048576 --heartbeat-interval=1 --election-timeout=10").await;
    let value = bytes::Bytes::from(vec![b'v'; 500_000]);
    // More than a client's window takes.
    for key in ["a", "b", "c", "d", "e", "f"] {
        let put = pb::PutRequest { key: key.into(), value: value.clone(), ..Default::default() };
        member.kv().await.put(put).await.expect("put");
    }
    member.put("small", "1").await;
    let all = pb::RangeRequest { key: "a".into(), range_end: "g".into(), serializable: true, ..Default::default() };
    // A client that reads no further than its window.
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Range");
    let mut lazy = tonic::client::Grpc::new(member.channel(&member.clients).await);
    lazy.ready().await.expect("served");
    let codec = tonic_prost::ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
    let taken = lazy.server_streaming(Request::new(all.clone()), path, codec).await.expect("an answer begins");
    let refused = member.kv().await.range(all.clone()).await.expect_err("there is no room");
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    let read = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(all.clone())) }],
        ..Default::default()
    };
    let refused = member.kv().await.txn(read.clone()).await.expect_err("nor for a transaction that reads");
    assert_eq!(refused.message(), "etcdserver: too many requests");
    let one = pb::RangeRequest { key: "small".into(), ..Default::default() };
    assert_eq!(member.kv().await.range(one).await.expect("small answers need none").get_ref().count, 1);
    drop(taken);
    let answer = member.kv().await.range(all).await.expect("there is room again").into_inner();
    assert!(answer.kvs.len() == 6 && answer.kvs.iter().all(|kv| kv.value == value));
    assert!(member.kv().await.txn(read).await.expect("room").get_ref().succeeded);
    member.stop().await;
}

fn limits() -> Limits {
    let Ok(Words::Run(settings)) = Settings::parse(&[]) else { panic!("no words are good words") };
    Limits::of(&Config::from_settings(&settings, &mut Vec::new()).expect("the defaults"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_says_that_it_does_not_serve_while_it_defragments_if_it_was_told_to() {
    for (flags, told) in [("--feature-gates=StopGRPCServiceOnDefrag=true", vec![1, 2, 1]), ("", vec![1])] {
        let member = Member::start(flags).await;
        let mut health = tonic::client::Grpc::new(member.channel(&member.clients).await);
        health.ready().await.expect("served");
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
        let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
        let states = health.server_streaming(Request::new(CheckRequest::default()), path, codec).await;
        let mut states = states.expect("a stream").into_inner();
        let mut next = async || timeout(DEADLINE, states.message()).await.expect("in time").expect("a state");
        assert_eq!(next().await.map(|state| state.status), Some(told[0]));
        // Whoever reads the store holds up the end of it.
        let release = member.node.hold_store();
        let channel = member.channel(&member.clients).await;
        let defragment = tokio::spawn(async move {
            MaintenanceClient::new(channel).defragment(pb::DefragmentRequest {}).await.map(drop)
        });
        for state in told.iter().skip(1).take(1) {
            assert_eq!(next().await.map(|told| told.status), Some(*state));
        }
        release.send(()).expect("it waits");
        timeout(DEADLINE, defragment).await.expect("in time").expect("no panic").expect("defragments");
        for state in told.iter().skip(2) {
            assert_eq!(next().await.map(|told| told.status), Some(*state));
        }
        member.stop().await;
    }
}
