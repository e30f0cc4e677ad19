//! Members on loopback that talk through real sockets: each test names what they can rely on.

#![expect(clippy::disallowed_methods, reason = "tests of real sockets have real deadlines")]

mod etcd;
mod posts;

use super::codec::StreamKind;
use super::dial::Dialer;
use super::outbox::QUEUE_MESSAGES_MAX;
use super::outbox::StreamBody;
use super::*;
use crate::membership::Member;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::MessageType;
use crate::tls::Acceptor;
use crate::tls::ClientFiles;
use crate::tls::ServerFiles;
use crate::tls::client_config;
use crate::tls::pki::Authority;
use crate::tls::pki::Request;
use crate::tls::pki::Usage;
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::Full;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeSet;
use std::future::Future;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const CLUSTER: ClusterId = ClusterId(0xc1);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Event {
    Message(Box<Message>),
    Link(MemberId, LinkChange),
    Unreachable(MemberId),
    Snapshot(Box<Message>, Vec<u8>),
    Removed,
}

/// A member that only writes down what happens to it.
struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    removed: Mutex<BTreeSet<MemberId>>,
}

impl Recorder {
    fn tell(&self, event: Event) {
        // Whoever watched may be gone at the end of a test.
        let _ = self.events.send(event);
    }
}

/// A database that arrives.
struct Kept {
    events: mpsc::UnboundedSender<Event>,
    message: Message,
    database: Vec<u8>,
}

impl Intake for Kept {
    fn write(&mut self, piece: &[u8]) -> Result<(), Answer> {
        self.database.extend_from_slice(piece);
        if self.database.starts_with(b"too much") { Err(Answer::Storage("no space left".into())) } else { Ok(()) }
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Answer>> {
        async move {
            let _ = self.events.send(Event::Snapshot(Box::new(self.message), self.database));
            Ok(())
        }
        .boxed()
    }
}

impl Handler for Recorder {
    fn receive(&self, message: Message) -> Result<(), Refused> {
        self.tell(Event::Message(Box::new(message)));
        Ok(())
    }

    fn receive_snapshot(&self, message: Message) -> Result<Box<dyn Intake>, Answer> {
        let (events, database) = (self.events.clone(), Vec::new());
        Ok(Box::new(Kept { events, message, database }))
    }

    fn state(&self, _: MemberId) -> BoxFuture<'_, Result<Image, Answer>> {
        async { Err(Answer::TooManyRequests) }.boxed()
    }

    fn report_unreachable(&self, peer: MemberId) {
        self.tell(Event::Unreachable(peer));
    }

    fn link(&self, peer: MemberId, change: LinkChange) {
        self.tell(Event::Link(peer, change));
    }

    fn is_removed(&self, peer: MemberId) -> bool {
        self.removed.lock().contains(&peer)
    }

    fn removed(&self) {
        self.tell(Event::Removed);
    }

    fn members(&self) -> Vec<Member> {
        vec![Member { id: MemberId(7), name: "seven".into(), ..Member::default() }]
    }

    fn cluster_version(&self) -> Option<String> {
        Some("3.6.0".into())
    }

    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, Answer>> {
        async { Ok(true) }.boxed()
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<HashAnswer, Answer>> {
        let hash = HashAnswer {
            header: HashHeader { revision: 9 },
            hash: 4_000_000_000,
            compact_revision: -1,
            hash_revision: revision,
        };
        async move { if revision <= 9 { Ok(hash) } else { Err(Answer::FutureRevision) } }.boxed()
    }

    fn promote(&self, id: MemberId, token: Option<String>) -> BoxFuture<'_, Result<Vec<Member>, Answer>> {
        async move {
            match (id.0, token.as_deref()) {
                (1, _) => Err(Answer::MemberNotFound),
                (2, _) => Err(Answer::MemberNotLearner),
                (3, _) => Err(Answer::LearnerNotReady),
                (4, None) => Err(Answer::PermissionDenied),
                _ => Ok(self.members()),
            }
        }
        .boxed()
    }

    fn lease_renew(&self, id: LeaseId) -> BoxFuture<'_, Result<i64, Answer>> {
        async move { if id.0 == 5 { Ok(60) } else { Err(Answer::LeaseNotFound) } }.boxed()
    }

    fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
    ) -> BoxFuture<'_, Result<pb::LeaseTimeToLiveResponse, Answer>> {
        let found = pb::LeaseTimeToLiveResponse { id: request.id, ttl: 9, granted_ttl: 60, ..Default::default() };
        async move { if request.id == 5 { Ok(found) } else { Err(Answer::NotPrimary) } }.boxed()
    }
}

/// One running member.
struct Side {
    id: MemberId,
    url: String,
    peers: Peers,
    recorder: Arc<Recorder>,
    events: mpsc::UnboundedReceiver<Event>,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// How the members of a test are secured.
#[derive(Clone)]
struct Security {
    acceptor: Acceptor,
    tls: Option<Arc<ClientConfig>>,
}

impl Security {
    fn none() -> Security {
        Security { acceptor: Acceptor::plain(), tls: None }
    }

    /// Mutual TLS with one peer certificate of `ca` for all.
    fn by(ca: &Authority, dir: &std::path::Path) -> Security {
        let (trusted, _) = ca.own().write(dir, "ca").expect("written");
        let issued = ca.issue(&Request::new(Usage::Peer, "peer", &["127.0.0.1"])).expect("a certificate");
        let (cert, key) = issued.write(dir, "peer").expect("written");
        let client = ClientFiles {
            ca: Some(trusted.clone()),
            cert: Some(cert.clone()),
            key: Some(key.clone()),
            ..ClientFiles::default()
        };
        let server =
            ServerFiles { cert, key, trusted_ca: Some(trusted), check_client_address: true, ..ServerFiles::default() };
        let acceptor = Acceptor::tls(&server).expect("good files");
        Security { acceptor, tls: Some(client_config(&client).expect("good files")) }
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

impl Side {
    async fn start(id: u64, security: &Security) -> Side {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Side::on(listener, id, CLUSTER, security)
    }

    fn on(listener: TcpListener, id: u64, cluster: ClusterId, security: &Security) -> Side {
        let id = MemberId(id);
        let url = format!("{}://{}", security.scheme(), listener.local_addr().expect("bound"));
        let (sender, events) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder { events: sender, removed: Mutex::default() });
        let config = Config {
            id,
            cluster,
            urls: vec![url.clone()],
            tls: security.tls.clone(),
            dial_timeout: Duration::from_secs(2),
        };
        let peers = Peers::start(config, recorder.clone());
        let (stop, stopped) = oneshot::channel();
        let until = stopped.map(|_| ());
        let slot = Slot::new(std::sync::OnceLock::from(peers.router()));
        let serving = tokio::spawn(serve(listener, security.acceptor.clone(), slot, until));
        Side { id, url, peers, recorder, events, serving: Some((stop, serving)) }
    }

    fn add(&self, other: &Side) {
        self.peers.add(other.id, std::slice::from_ref(&other.url)).expect("a good URL");
    }

    /// As a killed process: nothing is said, all sockets close.
    async fn crash(&mut self) {
        let (stop, serving) = self.serving.take().expect("it runs");
        drop(stop);
        serving.await.expect("the accept loop ends by itself");
        self.peers.stop();
    }

    async fn next(&mut self) -> Event {
        within(self.events.recv()).await.expect("the recorder lives")
    }

    /// The next message, whatever else happens meanwhile.
    async fn message(&mut self) -> Message {
        loop {
            if let Event::Message(m) = self.next().await {
                return *m;
            }
        }
    }

    async fn until(&mut self, wanted: Event) {
        while self.next().await != wanted {}
    }

    fn attached(&self, other: MemberId) -> usize {
        let Some(link) = self.peers.link(other) else { return 0 };
        StreamKind::ALL.iter().filter(|k| link.outbox(**k).is_attached()).count()
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far less when all is well")
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    within(async {
        while !condition() {
            look.tick().await;
        }
    })
    .await;
}

fn message(kind: MessageType, from: MemberId, to: MemberId) -> Message {
    Message { msg_type: kind as i32, from: from.0, to: to.0, term: 3, ..Message::default() }
}

fn append(from: MemberId, to: MemberId, index: u64) -> Message {
    let entry = Entry { term: 3, index: index + 1, data: Bytes::from(format!("entry {index}")), ..Entry::default() };
    Message { log_term: 3, index, entries: vec![entry], ..message(MessageType::MsgAppend, from, to) }
}

/// Two members that know each other and whose four streams are open.
async fn pair(security: &Security) -> (Side, Side) {
    let (a, b) = (Side::start(0xa, security).await, Side::start(0xb, security).await);
    a.add(&b);
    b.add(&a);
    eventually(|| a.attached(b.id) == 2 && b.attached(a.id) == 2).await;
    (a, b)
}

async fn talk(a: &Side, b: &mut Side) {
    let kinds = (0..=18).map(|t| MessageType::try_from(t).expect("the nineteen of raft"));
    let sent: Vec<_> =
        kinds.map(|kind| message(kind, a.id, b.id)).chain((5..200).map(|i| append(a.id, b.id, i))).collect();
    a.peers.send(sent.clone());
    let mut got = Vec::new();
    for _ in &sent {
        got.push(b.message().await);
    }
    let of = |messages: &[Message], kind: Option<MessageType>| -> Vec<Message> {
        let apart = [MessageType::MsgAppend as i32, MessageType::MsgSnapshot as i32];
        let fits = |m: &&Message| kind.map_or(!apart.contains(&m.msg_type), |k| m.msg_type == k as i32);
        messages.iter().filter(fits).cloned().collect()
    };
    for way in [None, Some(MessageType::MsgAppend), Some(MessageType::MsgSnapshot)] {
        assert_eq!(of(&got, way), of(&sent, way), "in order on its own way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_message_types_arrive_in_order() {
    let (mut a, mut b) = pair(&Security::none()).await;
    talk(&a, &mut b).await;
    talk(&b, &mut a).await;
    let stats = a.peers.stats(b.id).expect("a peer");
    assert_eq!((stats.dropped_in, stats.dropped_out, stats.disconnects), (0, 0, 0));
    assert!(a.peers.active_since(b.id).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_carries_the_same() {
    let dir = tempfile::tempdir().expect("a place for files");
    let ca = Authority::new("peers").expect("a CA");
    let (a, mut b) = pair(&Security::by(&ca, dir.path())).await;
    talk(&a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_authority_is_not_heard() {
    let (dir, other) = (tempfile::tempdir().expect("files"), tempfile::tempdir().expect("files"));
    let a = Side::start(0xa, &Security::by(&Authority::new("ours").expect("a CA"), dir.path())).await;
    let mut b = Side::start(0xb, &Security::by(&Authority::new("theirs").expect("a CA"), other.path())).await;
    a.add(&b);
    b.add(&a);
    b.peers.send(vec![message(MessageType::MsgHeartbeat, b.id, a.id)]);
    b.until(Event::Unreachable(a.id)).await;
    assert_eq!((a.attached(b.id), a.peers.active_since(b.id)), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_peer_is_noticed_at_once_and_heard_again_when_it_is_back() {
    let (mut a, mut b) = pair(&Security::none()).await;
    let address = b.url.trim_start_matches("http://").to_owned();
    b.crash().await;
    let began = Instant::now();
    a.until(Event::Link(b.id, LinkChange::Down)).await;
    a.until(Event::Link(b.id, LinkChange::Lost)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "not by a time-out of five seconds: {:?}", began.elapsed());
    assert_eq!(a.peers.active_since(b.id), None);
    a.peers.send(vec![message(MessageType::MsgHeartbeat, a.id, b.id)]);
    a.until(Event::Unreachable(b.id)).await;

    // Posted before the end, and read after it: no sign of life of a leader; a vote is as good as ever.
    let (at, from, to) = (a.url.trim_start_matches("http://").to_owned(), b.id, a.id);
    let post = async |kind| {
        let bytes = message(kind, from, to).encode_to_vec();
        let request = format!(
            "POST /raft HTTP/1.1\r\nHost: a\r\nX-Etcd-Cluster-ID: {CLUSTER}\r\nX-Server-From: {}\r\nX-Server-Version: 3.6.14\r\nX-Min-Cluster-Version: 3.0.0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            from,
            bytes.len()
        );
        let mut socket = TcpStream::connect(&at).await.expect("it listens");
        socket.write_all(&[request.as_bytes(), &bytes].concat()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    };
    for kind in [MessageType::MsgHeartbeat, MessageType::MsgAppend, MessageType::MsgRequestVoteResponse] {
        post(kind).await;
    }
    assert_eq!(a.message().await.msg_type(), MessageType::MsgRequestVoteResponse, "the others were let fall");

    // Who still posts after that lives, though it cannot be dialled.
    let posted = async {
        loop {
            post(MessageType::MsgHeartbeat).await;
            if let Ok(Event::Message(heard)) = a.events.try_recv() {
                return heard.msg_type();
            }
        }
    };
    assert_eq!(within(posted).await, MessageType::MsgHeartbeat);

    let listener = TcpListener::bind(&address).await.expect("its port is free again");
    let mut again = Side::on(listener, 0xb, CLUSTER, &Security::none());
    again.add(&a);
    a.until(Event::Link(again.id, LinkChange::Up)).await;
    eventually(|| a.attached(again.id) == 2 && again.attached(a.id) == 2).await;
    talk(&a, &mut again).await;
    talk(&again, &mut a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_under_a_living_peer_is_no_loss() {
    let (mut a, mut b) = pair(&Security::none()).await;
    let link = b.peers.link(a.id).expect("a peer");
    for kind in StreamKind::ALL {
        assert!(link.outbox(kind).detach(None));
    }
    eventually(|| b.attached(a.id) == 2).await;
    talk(&b, &mut a).await;
    talk(&a, &mut b).await;
    a.events.close();
    while let Some(event) = a.events.recv().await {
        assert!(!matches!(event, Event::Link(_, LinkChange::Down | LinkChange::Lost)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_dialled_gets_posts_and_a_stranger_can_be_answered() {
    let (mut a, mut b) = (Side::start(0xa, &Security::none()).await, Side::start(0xb, &Security::none()).await);
    a.add(&b);
    a.peers.send(vec![append(a.id, b.id, 1), message(MessageType::MsgHeartbeat, a.id, b.id)]);
    assert_eq!(b.message().await, append(a.id, b.id, 1));
    assert_eq!(b.message().await, message(MessageType::MsgHeartbeat, a.id, b.id));
    assert!(!b.peers.link(a.id).expect("noted from its headers").is_full());
    b.peers.send(vec![message(MessageType::MsgHeartbeatResponse, b.id, a.id)]);
    assert_eq!(a.message().await, message(MessageType::MsgHeartbeatResponse, b.id, a.id));
    b.add(&a);
    eventually(|| a.attached(b.id) == 2 && b.attached(a.id) == 2).await;
    talk(&a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_told_so() {
    let (a, mut b) = (Side::start(0xa, &Security::none()).await, Side::start(0xb, &Security::none()).await);
    a.recorder.removed.lock().insert(b.id);
    b.add(&a);
    b.until(Event::Removed).await;
    b.peers.send(vec![message(MessageType::MsgRequestPreVote, b.id, a.id)]);
    b.until(Event::Removed).await;
    b.until(Event::Unreachable(a.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_cut_and_delay_a_link() {
    let (a, mut b) = pair(&Security::none()).await;
    let (from, to) = (a.id, b.id);
    let beat = |n| Message { commit: n, ..message(MessageType::MsgHeartbeat, from, to) };
    a.peers.rules().set(b.id, LinkRule { cut_out: true, ..LinkRule::default() });
    a.peers.send(vec![beat(1)]);
    assert_eq!(a.peers.active_since(b.id), None, "a cut link is no link");
    a.peers.rules().clear();
    b.peers.rules().set(a.id, LinkRule { cut_in: true, ..LinkRule::default() });
    a.peers.send(vec![beat(2)]);
    eventually(|| b.peers.stats(a.id).is_some_and(|s| s.received == 1)).await;
    b.peers.rules().clear();

    let late = Duration::from_millis(60);
    a.peers.rules().set(b.id, LinkRule { delay_out: late, ..LinkRule::default() });
    let began = Instant::now();
    a.peers.send(vec![beat(3), beat(4)]);
    assert_eq!(b.message().await, beat(3), "those that were cut never arrive");
    assert!(began.elapsed() >= late);
    assert_eq!(b.message().await, beat(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_and_raft_is_told() {
    let mut a = Side::start(0xa, &Security::none()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let b = MemberId(0xb);
    a.peers.add(b, &[format!("http://{}", silent.local_addr().expect("bound"))]).expect("a good URL");
    let _never_polled = StreamBody::attach(a.peers.link(b).expect("a peer"), StreamKind::Message);
    a.peers.send(vec![message(MessageType::MsgHeartbeat, a.id, b); QUEUE_MESSAGES_MAX]);
    assert_eq!(a.peers.stats(b).map(|s| (s.sent, s.dropped_out)), Some((QUEUE_MESSAGES_MAX as u64, 0)));
    a.peers.send(vec![message(MessageType::MsgHeartbeat, a.id, b)]);
    assert_eq!(a.peers.stats(b).map(|s| (s.sent, s.dropped_out)), Some((QUEUE_MESSAGES_MAX as u64, 1)));
    a.until(Event::Unreachable(b)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_refused_as_etcd_refuses_them() {
    let (a, b) = (Side::start(0xa, &Security::none()).await, Side::start(0xb, &Security::none()).await);
    a.peers.add(b.id, &["http://127.0.0.1:1".into()]).expect("a good URL");
    let gone = MemberId(0xdead);
    a.recorder.removed.lock().insert(gone);
    let (good, other) = (b.peers.0.config.clone(), Config { cluster: ClusterId(9), ..b.peers.0.config.clone() });
    #[rustfmt::skip]
    let cases = [
        ("GET", "/raft/stream/message/b", &other, a.id, 412, "cluster ID mismatch\n"),
        ("GET", "/raft/stream/message/b", &good, b.id, 412, "to field mismatch\n"),
        ("GET", "/raft/stream/message/c", &good, a.id, 404, "error sender not found\n"),
        ("GET", "/raft/stream/message/zz", &good, a.id, 404, "invalid from\n"),
        ("GET", "/raft/stream/other/b", &good, a.id, 404, "invalid path\n"),
        ("GET", "/raft/stream/message/dead", &good, a.id, 410, "removed member\n"),
        ("POST", "/raft/stream/message/b", &good, a.id, 405, "Method Not Allowed\n"),
        ("GET", "/raft", &good, a.id, 405, "Method Not Allowed\n"),
        ("POST", "/raft", &other, a.id, 412, "cluster ID mismatch\n"),
        ("POST", "/raft", &good, a.id, 412, "to field mismatch\n"),
        ("POST", "/raft/snapshot", &good, a.id, 400, "failed to decode raft message (EOF)\n"),
        ("GET", "/nowhere", &good, a.id, 404, "404 page not found\n"),
        ("POST", "/leases/internal", &good, a.id, 400, "error unmarshalling request\n"),
    ];
    let dialer = Dialer { tls: None, timeout: PATIENCE };
    let url = PeerUrl::parse(&a.url).expect("good");
    for (method, path, from, to, status, text) in cases {
        let mut request = http::Request::builder().method(method).uri(path).body(Full::default()).expect("a request");
        headers::introduce(request.headers_mut(), from, Some(to));
        let response = dialer.ask(&url, request).await.expect("an answer");
        assert_eq!(
            (response.status().as_u16(), response.body().as_ref()),
            (status, text.as_bytes()),
            "{method} {path}"
        );
        if path.starts_with("/raft/") && status != 405 {
            assert_eq!(headers::cluster_id(response.headers()), Some(CLUSTER), "{method} {path}");
        }
    }
    let mut garbage = http::Request::post("/raft").body(Full::new(Bytes::from_static(&[0xff; 9]))).expect("a request");
    headers::introduce(garbage.headers_mut(), &good, None);
    let response = dialer.ask(&url, garbage).await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), response.body().as_ref()),
        (400, &b"error unmarshalling raft message\n"[..])
    );
    let probe = http::Request::get("/raft/probing").body(Full::default()).expect("a request");
    let probed = dialer.ask(&url, probe).await.expect("an answer");
    assert!(probed.body().windows(9).any(|w| w == b"\"OK\":true"), "{:?}", probed.body());
    let question = http::Request::get("/downgrade/enabled").body(Full::default()).expect("a request");
    assert_eq!(dialer.ask(&url, question).await.expect("an answer").body().as_ref(), b"true");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_answer_each_others_questions() {
    let (a, b) = (Side::start(0xa, &Security::none()).await, Side::start(0xb, &Security::none()).await);
    a.add(&b);
    let urls = ["http://127.0.0.1:1".to_owned(), b.url.clone()];
    let members = fetch_members(&urls, None, PATIENCE).await;
    assert_eq!(members, Ok((CLUSTER, b.recorder.members())));
    let versions = fetch_version(&urls, None, PATIENCE).await.expect("an answer");
    assert_eq!((versions.server.as_str(), versions.cluster.as_str()), ("3.6.14", "3.6.0"));
    assert!(matches!(fetch_version(&urls[..1], None, PATIENCE).await, Err(Error::NoAnswer(_))));

    let hash = async |cluster, revision| fetch_hash(&urls, None, PATIENCE, cluster, revision).await;
    let hashed = hash(CLUSTER, 7).await.expect("an answer");
    assert_eq!(
        (hashed.hash, hashed.compact_revision, hashed.hash_revision, hashed.header.revision),
        (4_000_000_000, -1, 7, 9)
    );
    let refusal = |answer: Result<HashAnswer, Error>| answer.map_err(|e| e.to_string()).expect_err("a refusal");
    assert!(refusal(hash(CLUSTER, 10).await).contains("400: etcdserver: mvcc: required revision is a future revision"));
    assert!(refusal(hash(ClusterId(1), 7).await).contains("412: cluster ID mismatch"));
    assert_eq!(a.peers.lease_renew(b.id, LeaseId(5)).await, Ok(60));
    assert_eq!(a.peers.lease_renew(b.id, LeaseId(6)).await, Err(Error::LeaseNotFound));
    assert_eq!(a.peers.lease_renew(MemberId(3), LeaseId(6)).await, Err(Error::UnknownMember));
    let ask = |id| a.peers.lease_time_to_live(b.id, pb::LeaseTimeToLiveRequest { id, keys: true });
    assert_eq!(ask(5).await.map(|r| (r.ttl, r.granted_ttl)), Ok((9, 60)));
    assert_eq!(ask(6).await, Err(Error::Status(500, Answer::NotPrimary.to_string())));
    a.peers.rules().set(b.id, LinkRule { cut_out: true, ..LinkRule::default() });
    assert_eq!(ask(5).await, Err(Error::Cut));
}

/// A snapshot's message from member 1 to member 2.
fn snapshot_message(kind: MessageType) -> Message {
    use crate::proto::raftpb::Snapshot;
    use crate::proto::raftpb::SnapshotMetadata;
    let metadata = Some(SnapshotMetadata { index: 9, term: 3, ..SnapshotMetadata::default() });
    let snapshot = Some(Snapshot { metadata, ..Snapshot::default() });
    let mut message = Message { from: 1, to: 2, term: 3, snapshot, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// What `from` hears when it posts this to `to`.
async fn posted(from: &Side, message: &Message, database: &[u8], claimed: u64) -> Result<(), Error> {
    use crate::disk::Disk;
    let dir = tempfile::tempdir().expect("a directory");
    let mut file = crate::disk::RealDisk.create(&dir.path().join("image")).expect("a file");
    file.write_at(0, database).expect("written");
    let image = Image { message: message.clone(), file, bytes: claimed, hold: Box::new(()) };
    within(from.peers.send_snapshot(image)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole_or_its_sender_hears_why_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = Authority::new("peers").expect("an authority");
    for security in [Security::none(), Security::by(&ca, dir.path())] {
        let (one, mut two) = (Side::start(1, &security).await, Side::start(2, &security).await);
        one.add(&two);
        let message = snapshot_message(MessageType::MsgSnapshot);
        let database: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        assert_eq!(posted(&one, &message, &database, database.len() as u64).await, Ok(()));
        two.until(Event::Snapshot(Box::new(message.clone()), database.clone())).await;

        let refused = posted(&one, &message, b"too much", 8).await;
        let Err(Error::Status(500, why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("failed to save KV snapshot") && why.contains("no space left"), "{why}");
        let refused = posted(&one, &snapshot_message(MessageType::MsgAppend), b"x", 1).await;
        assert_eq!(refused, Err(Error::Status(400, "wrong raft message type".into())));
        let refused = posted(&one, &Message { to: 3, ..message.clone() }, b"x", 1).await;
        assert_eq!(refused, Err(Error::UnknownMember), "nobody to send it to");
        // An image that ends before its length does: the other side takes no part for the whole.
        assert!(posted(&one, &message, &database, database.len() as u64 + 1).await.is_err());
        two.recorder.removed.lock().insert(MemberId(1));
        assert_eq!(posted(&one, &message, b"x", 1).await, Err(Error::Removed));
        while let Ok(event) = two.events.try_recv() {
            assert!(!matches!(event, Event::Snapshot(..)), "only the whole one was taken");
        }
    }
}

#[tokio::test]
async fn a_stranger_gets_no_state_and_gives_none() {
    let security = Security::none();
    let two = Side::start(2, &security).await;
    let me = |cluster| Config {
        id: MemberId(1),
        cluster,
        urls: vec!["http://127.0.0.1:1".into()],
        tls: None,
        dial_timeout: Duration::from_secs(2),
    };
    let ask = async |cluster| fetch_state(&me(cluster), &two.url, |_| Err(Answer::Stopped)).await;
    assert_eq!(ask(ClusterId(0xbad)).await, Err(Error::ClusterIdMismatch));
    let refused = ask(CLUSTER).await;
    assert_eq!(refused, Err(Error::Status(503, "etcdserver: too many requests".into())));
    two.recorder.removed.lock().insert(MemberId(1));
    assert_eq!(ask(CLUSTER).await, Err(Error::Removed));
}

#[tokio::test]
async fn a_promotion_is_asked_of_the_leader_and_its_answers_are_told_apart() {
    let security = Security::none();
    let (follower, leader) = (Side::start(1, &security).await, Side::start(2, &security).await);
    let ask = async |id, token| within(follower.peers.promote(leader.id, MemberId(id), token)).await;
    assert_eq!(ask(5, None).await, Err(Answer::NotLeader), "a member without a link");
    follower.add(&leader);
    for (id, why) in [(1, Answer::MemberNotFound), (2, Answer::MemberNotLearner), (3, Answer::LearnerNotReady)] {
        assert_eq!(ask(id, None).await, Err(why));
    }
    assert_eq!(ask(4, None).await, Err(Answer::NotLeader), "to be asked again");
    let members = ask(4, Some("a.1")).await.expect("with a token");
    assert_eq!(members.first().map(|member| member.name.as_str()), Some("seven"));
}

#[tokio::test]
async fn a_member_that_starts_says_so_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let slot = Slot::default();
    let serving = tokio::spawn(serve(listener, Acceptor::plain(), slot.clone(), std::future::pending()));
    let early = within(fetch_members(std::slice::from_ref(&url), None, PATIENCE)).await.expect_err("not yet");
    assert!(early.to_string().contains("503"), "{early}");
    let (sender, _events) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { events: sender, removed: Mutex::default() });
    let (tls, dial_timeout) = (None, Duration::from_secs(2));
    let config = Config { id: MemberId(1), cluster: CLUSTER, urls: vec![url.clone()], tls, dial_timeout };
    assert!(slot.set(Peers::start(config, recorder).router()).is_ok());
    let (cluster, members) = within(fetch_members(&[url], None, PATIENCE)).await.expect("now it answers");
    assert_eq!((cluster, members.len()), (CLUSTER, 1));
    serving.abort();
}
