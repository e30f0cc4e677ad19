//! Our links in the place of one member of a real etcd cluster: two members of it run, the third is us.
//!
//! Set `ETCD_BIN` to an etcd 3.4 to 3.6 to run this.

use super::*;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

/// An etcd process; killed with its test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn start(binary: &str, dir: &std::path::Path, name: &str, peer_url: &str, cluster: &str) -> Etcd {
    let auto_tls = peer_url.starts_with("https").to_string();
    let client_url = format!("http://127.0.0.1:{}", free_port());
    let data_dir = dir.join(name);
    let flags = [
        ("name", name),
        ("data-dir", &data_dir.to_string_lossy()),
        ("listen-peer-urls", peer_url),
        ("initial-advertise-peer-urls", peer_url),
        ("listen-client-urls", &client_url),
        ("advertise-client-urls", &client_url),
        ("initial-cluster", cluster),
        ("initial-cluster-state", "new"),
        ("pre-vote", "true"),
        ("peer-auto-tls", &auto_tls),
    ];
    let log = std::fs::File::create(dir.join(format!("{name}.log"))).expect("a log file");
    let args = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
    let child = Command::new(binary)
        .args(args)
        .env_clear()
        .env("ETCD_UNSUPPORTED_ARCH", "arm64")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("ETCD_BIN names an etcd");
    Etcd(child)
}

/// The next message of this type and whom it is from; answers heartbeats on the way, as a follower would.
async fn next_of(side: &mut Side, kind: MessageType) -> Message {
    loop {
        let m = side.message().await;
        if m.msg_type == MessageType::MsgHeartbeat as i32 {
            let answer = message(MessageType::MsgHeartbeatResponse, side.id, MemberId(m.from));
            side.peers.send(vec![Message { term: m.term, context: m.context.clone(), ..answer }]);
        }
        if m.msg_type == kind as i32 {
            return m;
        }
    }
}

/// A cluster of three of which two are real and one is us.
struct Mixed {
    _dir: tempfile::TempDir,
    members: Vec<Option<Etcd>>,
    ids: [MemberId; 2],
    us: Side,
}

/// Starts the two and takes the third's place, once all four streams to each are open. None without `ETCD_BIN`.
async fn mixed(security: &Security) -> Option<Mixed> {
    let Ok(binary) = std::env::var("ETCD_BIN") else {
        eprintln!("SKIPPED: set ETCD_BIN to an etcd program to try our peer protocol against it");
        return None;
    };
    let dir = tempfile::tempdir().expect("a place for files");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let scheme = security.scheme();
    let our_url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
    let urls = [free_port(), free_port()].map(|port| format!("{scheme}://127.0.0.1:{port}"));
    let cluster = format!("m1={},m2={},m3={our_url}", urls[0], urls[1]);
    let names = ["m1", "m2"].iter().zip(&urls);
    let members = names.map(|(name, url)| Some(start(&binary, dir.path(), name, url, &cluster))).collect();

    // Who is who: their own answer to what a joining member asks.
    let mut answer = Err(Error::UnknownMember);
    let began = Instant::now();
    while answer.is_err() {
        assert!(began.elapsed() < PATIENCE, "{answer:?}");
        answer = fetch_members(&urls, security.tls.clone(), Duration::from_secs(1)).await;
    }
    let (cluster_id, listed) = answer.expect("that ended the loop");
    let id_of = |url: &String| listed.iter().find(|m| m.peer_urls.contains(url)).map(|m| m.id).expect("a member");
    let us = Side::on(listener, id_of(&our_url).0, cluster_id, security);
    for url in &urls {
        us.peers.add(id_of(url), std::slice::from_ref(url)).expect("a good URL");
    }
    let ids = urls.each_ref().map(&id_of);
    eventually(|| ids.iter().all(|id| us.attached(*id) == 2 && us.peers.active_since(*id).is_some())).await;
    Some(Mixed { _dir: dir, members, ids, us })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_etcd_talks_with_us_as_with_one_of_its_own() {
    let Some(Mixed { _dir, mut members, ids, mut us }) = mixed(&Security::none()).await else { return };
    let beat = next_of(&mut us, MessageType::MsgHeartbeat).await;
    assert!(beat.term >= 2 && ids.contains(&MemberId(beat.from)) && beat.to == us.id.0, "{beat:?}");
    let append = next_of(&mut us, MessageType::MsgAppend).await;
    assert_eq!(append.from, beat.from, "only the leader appends");

    // The leader knows from our answers that its appends get through: reject the first, and it steps back to the log's start.
    let leader = MemberId(append.from);
    let reject = Message {
        term: append.term,
        index: append.index,
        reject: true,
        reject_hint: 0,
        ..message(MessageType::MsgAppendResponse, us.id, leader)
    };
    us.peers.send(vec![reject]);
    let from_start = loop {
        let m = next_of(&mut us, MessageType::MsgAppend).await;
        if m.index == 0 && !m.entries.is_empty() {
            break m;
        }
    };
    assert_eq!(from_start.entries[0].index, 1, "its bootstrap records, from the first on");
    assert!(from_start.entries.iter().zip(1..).all(|(e, index)| e.index == index));
    let acknowledged = from_start.entries.last().map_or(0, |e| e.index);
    let accept = Message {
        term: from_start.term,
        index: acknowledged,
        ..message(MessageType::MsgAppendResponse, us.id, leader)
    };
    us.peers.send(vec![accept]);

    // Without its leader the other one asks us for a vote.
    let lead = ids.iter().position(|id| *id == leader).expect("one of the two");
    drop(members[lead].take());
    us.until(Event::Link(leader, LinkChange::Lost)).await;
    let vote = next_of(&mut us, MessageType::MsgRequestPreVote).await;
    assert_eq!(MemberId(vote.from), ids[1 - lead]);
    let granted = message(MessageType::MsgRequestPreVoteResponse, us.id, MemberId(vote.from));
    us.peers.send(vec![Message { term: vote.term, ..granted }]);
    let vote = next_of(&mut us, MessageType::MsgRequestVote).await;
    let granted = message(MessageType::MsgRequestVoteResponse, us.id, MemberId(vote.from));
    us.peers.send(vec![Message { term: vote.term, ..granted }]);
    let beat = next_of(&mut us, MessageType::MsgHeartbeat).await;
    assert_eq!((MemberId(beat.from), beat.term), (ids[1 - lead], vote.term), "it leads by our vote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_etcd_with_auto_tls_talks_with_us_too() {
    let dir = tempfile::tempdir().expect("a place for files");
    let (cert, key) = crate::tls::auto_tls(dir.path(), &["127.0.0.1".into()], 1).expect("a certificate");
    let acceptor = Acceptor::tls(&ServerFiles { cert, key, ..ServerFiles::default() }).expect("good files");
    let client = client_config(&ClientFiles { insecure_skip_verify: true, ..ClientFiles::default() });
    let security = Security { acceptor, tls: Some(client.expect("nothing to read")) };
    let Some(Mixed { _dir, members: _members, ids, mut us }) = mixed(&security).await else { return };
    let beat = next_of(&mut us, MessageType::MsgHeartbeat).await;
    assert!(ids.contains(&MemberId(beat.from)), "{beat:?}");
}
