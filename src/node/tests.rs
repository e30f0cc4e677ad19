//! Members on a real disk and loopback, in this process.

use super::*;
use crate::apply::Limits;
use crate::tls::Acceptor;
use std::path::Path;
use tokio::net::TcpListener;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

fn config(dir: &Path, name: &str, founders: &[(String, String)]) -> Config {
    let urls = |url: &String| vec![url.clone()];
    Config {
        name: name.into(),
        data_dir: dir.join(name),
        wal_dir: None,
        wal_segment_bytes: 256 * 1024,
        founders: founders.iter().map(|(name, url)| (name.clone(), urls(url))).collect(),
        token: "test".into(),
        start: Start::New,
        peer_urls: founders.iter().filter(|(n, _)| n == name).map(|(_, url)| url.clone()).collect(),
        client_urls: vec!["http://127.0.0.1:1".into()],
        tick_ms: 20,
        election_ticks: 10,
        election_tick_advance: true,
        pre_vote: true,
        snapshot_count: 100,
        snapshot_catchup_entries: 10,
        max_request_bytes: 1024 * 1024,
        lease_checkpoint_ms: None,
        token_ttl_ms: 300_000,
        limits: Limits::default(),
    }
}

async fn start(dir: &Path, name: &str, founders: &[(String, String)], listener: TcpListener) -> Node {
    start_with(config(dir, name, founders), listener).await
}

async fn start_with(config: Config, listener: TcpListener) -> Node {
    let network = Network { listeners: vec![listener], acceptor: Acceptor::plain(), dial: None };
    Node::start(config, network).await.expect("it starts")
}

async fn alone(dir: &Path) -> Node {
    let (listener, url) = listen().await;
    let node = start(dir, "n1", &[("n1".into(), url)], listener).await;
    ready(&node).await;
    node
}

async fn ready(node: &Node) {
    let mut ready = node.ready();
    let wait = ready.wait_for(|ready| *ready);
    drop(tokio::time::timeout(Duration::from_secs(20), wait).await.expect("ready in time"));
}

async fn put(node: &Node, key: &str, value: &str) -> Result<Reply, Error> {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    node.propose(pb::InternalRaftRequest { put: Some(put), ..Default::default() }).await
}

async fn get(node: &Node, key: &str) -> Option<Bytes> {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let mut response = node.range(&request).await.expect("a leader");
    response.kvs.pop().map(|kv| kv.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_starts_as_etcd_does_and_remembers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    assert_eq!(node.status().term, Term(2), "etcd's first term of a single member");
    put(&node, "a", "1").await.expect("put");
    assert_eq!(get(&node, "a").await.expect("there"), "1");
    let revision = node.header().revision;
    node.stop().await;
    drop(node);

    let node = alone(dir.path()).await;
    assert_eq!(get(&node, "a").await.expect("still there"), "1");
    assert_eq!(node.header().revision, revision);
    node.stop().await;
}

/// A member that marks its leases every second.
async fn marking(dir: &Path) -> Node {
    let (listener, url) = listen().await;
    let config = Config { lease_checkpoint_ms: Some(1000), ..config(dir, "n1", &[("n1".into(), url)]) };
    let node = start_with(config, listener).await;
    ready(&node).await;
    node
}

/// Waits until the log says that so much is left of lease 1.
async fn marked(node: &Node, is_so: impl Fn(i64) -> bool) -> i64 {
    let look = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            let left = node.read(|machine| machine.leases().get(LeaseId(1)).map_or(-1, |lease| lease.remaining));
            if is_so(left) {
                return left;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look).await.expect("marked in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_lease_survives_a_restart_and_a_renewal_gives_it_all_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = marking(dir.path()).await;
    let grant = pb::LeaseGrantRequest { id: 1, ttl: 600 };
    let grant = pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() };
    node.propose(grant).await.expect("a lease");
    marked(&node, |left| left > 0).await;
    assert_eq!(node.lease_keep_alive(LeaseId(1)).await, Ok(600));
    // The renewal took the mark away, and only then was it promised; the next mark comes a second later.
    let left = marked(&node, |left| left > 0).await;
    assert!(left >= 598, "{left}: renewed just now");
    let left = marked(&node, |left| 0 < left && left < 598).await;
    node.stop().await;
    drop(node);

    let node = marking(dir.path()).await;
    let ask = pb::LeaseTimeToLiveRequest { id: 1, keys: false };
    let answer = node.lease_time_to_live(ask).await.expect("it lives");
    assert!(answer.ttl <= left + 1 && answer.granted_ttl == 600, "{} of {left} s", answer.ttl);
    assert_eq!(node.lease_keep_alive(LeaseId(1)).await, Ok(600));
    assert!(node.lease_time_to_live(ask).await.expect("it lives").ttl >= 598);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_rebuilt_from_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config_of_first = None;
    for round in 0..2 {
        let node = alone(dir.path()).await;
        if round == 0 {
            for n in 0..20 {
                put(&node, &format!("k{n}"), "v").await.expect("put");
            }
            config_of_first = Some(node.config().data_dir.clone());
        } else {
            assert_eq!(get(&node, "k19").await.expect("rebuilt"), "v");
        }
        node.stop().await;
        let data_dir = config_of_first.as_ref().expect("set in the first round");
        std::fs::remove_dir_all(data_dir.join("member/store")).expect("a store to lose");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_kept_out_of_the_data_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    let (listener, url) = listen().await;
    let network = Network { listeners: vec![listener], acceptor: Acceptor::plain(), dial: None };
    let second = Node::start(config(dir.path(), "n1", &[("n1".into(), url)]), network).await;
    let Err(Error::Start(why)) = second else { panic!("two members in one directory") };
    assert!(why.contains("another etcd runs in it"), "{why}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_agree_and_survive_their_leader() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut listeners, mut founders) = (Vec::new(), Vec::new());
    for name in ["n1", "n2", "n3"] {
        let (listener, url) = listen().await;
        listeners.push(listener);
        founders.push((name.to_owned(), url));
    }
    let mut nodes = Vec::new();
    for ((name, _), listener) in founders.iter().zip(listeners) {
        nodes.push(start(dir.path(), name, &founders, listener).await);
    }
    for node in &nodes {
        ready(node).await;
    }
    for (at, node) in nodes.iter().enumerate() {
        put(node, "k", &format!("{at}")).await.expect("any member takes a put");
        for other in &nodes {
            assert_eq!(get(other, "k").await.expect("there"), format!("{at}"), "linearizable on every member");
        }
    }
    let leader = nodes[0].status().leader;
    let at = nodes.iter().position(|node| node.identity().0 == leader).expect("one of them");
    let lost = nodes.remove(at);
    lost.stop().await;
    put(&nodes[0], "k", "after").await.expect("leadership was handed over");
    assert_eq!(get(&nodes[1], "k").await.expect("there"), "after");
    assert_ne!(nodes[0].status().leader, leader);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_known_once_its_entry_is_applied_and_forgotten_with_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = alone(dir.path()).await;
    let r = pb::InternalRaftRequest::default;
    let (name, hashed_password) = ("root".to_owned(), "JDJhJDA0JHg=".to_owned());
    let add = pb::AuthUserAddRequest { name: name.clone(), hashed_password, ..Default::default() };
    let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() };
    for change in [
        pb::InternalRaftRequest { auth_user_add: Some(add), ..r() },
        pb::InternalRaftRequest { auth_user_grant_role: Some(grant), ..r() },
        pb::InternalRaftRequest { auth_enable: Some(pb::AuthEnableRequest {}), ..r() },
    ] {
        node.propose(change).await.expect("applied");
    }
    assert!(node.auth_is_on());
    // The member's own entry has to be behind us: the next index is to be the login's.
    let decided = async {
        let mut every = tokio::time::interval(Duration::from_millis(5));
        while node.read(|machine| machine.cluster_version().is_none()) {
            every.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), decided).await.expect("a cluster version in time");
    let ahead = format!("abc.{}", node.status().applied.0 + 1);
    let waiting = tokio::spawn({
        let (node, ahead) = (node.clone(), ahead.clone());
        async move { node.token_user(&ahead).await }
    });
    let login = pb::InternalAuthenticateRequest { name, simple_token: "abc".into(), ..Default::default() };
    let reply = node.propose(pb::InternalRaftRequest { authenticate: Some(login), ..r() }).await.expect("a login");
    assert!(matches!(reply, Reply::Authenticate { token, .. } if token == ahead));
    assert_eq!(waiting.await.expect("no panic").as_deref(), Some("root"), "who came early was told in time");
    assert_eq!(node.token_user("abd.1").await, None);
    assert_eq!(put(&node, "a", "1").await, Err(Error::UserEmpty));
    node.stop().await;
    drop(node);
    let node = alone(dir.path()).await;
    assert!(node.auth_is_on(), "rights survive");
    assert_eq!(node.token_user(&ahead).await, None, "tokens do not");
    node.stop().await;
}
