//! Members on a real disk and loopback, in this process.

mod edges;

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
        force_new_cluster: false,
        strict_reconfig: true,
        max_learners: 1,
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
        store_cache_bytes: crate::store::CACHE_BYTES,
        auto_compaction: None,
        compaction_batch: 1000,
        compaction_pause_ms: 1,
        warn_apply: Duration::from_millis(100),
        downgrade_check_ms: 0,
        checks: Checks::default(),
        defragment_above_bytes: None,
    }
}

async fn start(dir: &Path, name: &str, founders: &[(String, String)], listener: TcpListener) -> Node {
    start_with(config(dir, name, founders), listener).await
}

async fn start_with(config: Config, listener: TcpListener) -> Node {
    let network = Network { listeners: vec![(listener.into(), Acceptor::plain())], dial: None };
    Node::start(config, network).await.expect("it starts")
}

async fn alone(dir: &Path) -> Node {
    alone_with(dir, |_| {}).await
}

async fn alone_with(dir: &Path, change: impl FnOnce(&mut Config)) -> Node {
    let (listener, url) = listen().await;
    let network = Network { listeners: vec![(listener.into(), Acceptor::plain())], dial: None };
    let mut config = config(dir, "n1", &[("n1".into(), url)]);
    change(&mut config);
    let node = Node::start(config, network).await.expect("it starts");
    ready(&node).await;
    node
}

/// Why a member does not start on what `etcd` has left, and what is there afterwards.
async fn refused_of_etcds(fill: impl FnOnce(&Path)) -> (String, Vec<String>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (listener, url) = listen().await;
    let config = config(dir.path(), "n1", &[("n1".into(), url)]);
    let data_dir = config.data_dir.clone();
    std::fs::create_dir_all(data_dir.join("member/snap")).expect("made");
    fill(&data_dir);
    let network = Network { listeners: vec![(listener.into(), Acceptor::plain())], dial: None };
    let why = Node::start(config, network).await.err().expect("refused").to_string();
    let left =
        std::fs::read_dir(&data_dir).expect("there").chain(std::fs::read_dir(data_dir.join("member")).expect("there"));
    let mut names: Vec<String> =
        left.map(|entry| entry.expect("one").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    (why, names)
}

#[tokio::test]
async fn what_cannot_be_converted_is_left_as_it_is() {
    let database = |dir: &Path| std::fs::write(dir.join("member/snap/db"), "pages").expect("written");
    let (why, left) = refused_of_etcds(database).await;
    assert!(why.contains("it has a database and no log") && why.contains("etcdutl snapshot restore"), "{why}");
    assert_eq!(left, ["member", "snap"], "nothing is written");
    let (why, left) = refused_of_etcds(|dir| {
        database(dir);
        std::fs::create_dir(dir.join("member.etcd")).expect("made");
    })
    .await;
    assert!(why.contains("member.etcd is there from an earlier conversion"), "{why}");
    assert_eq!(left, ["member", "member.etcd", "snap"]);
    let (why, left) = refused_of_etcds(|dir| {
        database(dir);
        let db = std::fs::File::open(dir.join("member/snap/db")).expect("there");
        db.lock().expect("as etcd holds it");
        std::mem::forget(db);
    })
    .await;
    assert!(why.contains("another etcd runs in it, stop it first"), "{why}");
    assert_eq!(left, ["member", "snap"]);
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let looks = async {
        let mut every = tokio::time::interval(Duration::from_millis(5));
        while !condition().await {
            every.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), looks).await.is_ok(), "not in time: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_raft_thread_when_the_disk_fails_is_let_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    ready(&node).await;
    let inner = node.inner.clone();
    // The raft thread is in a sync that will fail when something comes that it should answer.
    inner.pace.set_sync_delay(Duration::from_secs(3));
    let deadline = crate::types::Millis(u64::MAX);
    let proposal =
        crate::replica::Proposal { id: 1, data: "x".into(), conf_change: false, deadline, only_leading: None };
    assert!(inner.inbox.push(Input::Propose(proposal)).is_ok(), "there is room");
    until("the proposal is taken", async || inner.inbox.is_empty()).await;
    inner.pace.set_disk(false, true);
    let (answer, counted) = std::sync::mpsc::sync_channel(1);
    let change = crate::proto::walpb::ConfChange::default();
    inner.inbox.force(Input::ConfChange(crate::types::Index(1), change, answer));
    let wait = move || counted.recv_timeout(Duration::from_secs(30));
    let heard = tokio::task::spawn_blocking(wait).await.expect("no panic");
    assert_eq!(heard, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn the_folders_of_a_new_member_outlast_a_loss_of_power() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let above = root.path().join("a/b");
    let data_dir = above.join("data");
    let synced = || {
        crate::disk::SYNCED.take();
        drop(boot::open_data_dir(&data_dir, &data_dir.join("member")).expect("opened"));
        crate::disk::SYNCED.take()
    };
    let first = synced();
    for dir in [data_dir.clone(), above.clone(), root.path().join("a"), root.path().to_owned()] {
        assert!(first.contains(&dir), "{} holds a new name, and only {first:?} were synced", dir.display());
    }
    let lock = std::fs::metadata(data_dir.join("member/lock")).expect("a file").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&lock) & 0o777, 0o600, "for its owner only");
    // The first start may have been cut short before it came to that.
    let again = synced();
    assert!(again.contains(&data_dir) && again.contains(&above), "{again:?}");
}

async fn compact(node: &Node, revision: i64) {
    let compaction = Some(pb::CompactionRequest { revision, physical: true });
    node.propose(pb::InternalRaftRequest { compaction, ..Default::default() }).await.expect("compacts");
    node.swept(Revision(revision.unsigned_abs())).await;
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

/// Reads, as a client does, again if the leader changed meanwhile: on a busy machine it may once more.
async fn get(node: &Node, key: &str) -> Option<Bytes> {
    let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    loop {
        match node.range(&request).await {
            Err(Error::LeaderChanged) => {}
            answer => return answer.expect("a leader").kvs.pop().map(|kv| kv.value),
        }
    }
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
    let network = Network { listeners: vec![(listener.into(), Acceptor::plain())], dial: None };
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
    let mut token = None;
    // An entry of the member itself may come between: then the login has another index than the one asked for.
    for _ in 0..20 {
        let ahead = format!("abc.{}", node.status().applied.0 + 1);
        let waiting = tokio::spawn({
            let (node, ahead) = (node.clone(), ahead.clone());
            async move { node.token_user(&ahead).await }
        });
        let login =
            pb::InternalAuthenticateRequest { name: name.clone(), simple_token: "abc".into(), ..Default::default() };
        let reply = node.propose(pb::InternalRaftRequest { authenticate: Some(login), ..r() }).await.expect("a login");
        let early = waiting.await.expect("no panic");
        if matches!(reply, Reply::Authenticate { token: made, .. } if made == ahead) {
            assert_eq!(early.as_deref(), Some("root"), "who came early was told in time");
            token = Some(ahead);
            break;
        }
    }
    let token = token.expect("a login has the index that it was expected to have");
    assert_eq!(node.token_user("abd.1").await, None);
    assert_eq!(put(&node, "a", "1").await, Err(Error::UserEmpty));
    node.stop().await;
    drop(node);
    let node = alone(dir.path()).await;
    assert!(node.auth_is_on(), "rights survive");
    assert_eq!(node.token_user(&token).await, None, "tokens do not");
    node.stop().await;
}

/// Writes go on while the store is written afresh, reads see them, and a restart finds all of it (etcd 14685: rows and index parted here).
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_written_afresh_while_it_is_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    let value = "v".repeat(10_000);
    for n in 0..300 {
        put(&node, &format!("k{}", n % 10), &value).await.expect("put");
    }
    let revision = node.header().revision;
    compact(&node, revision).await;
    let size = |node: &Node| node.read(|machine| (machine.store().size(), machine.store().in_use()));
    let full = size(&node);
    assert!(full.0 > 2_900_000 && full.1 < 200_000, "{full:?}");
    let writer = tokio::spawn({
        let node = node.clone();
        async move {
            for n in 0..100 {
                put(&node, &format!("during{n}"), "1").await.expect("put");
                assert_eq!(get(&node, "k3").await.map(|value| value.len()), Some(10_000));
            }
        }
    });
    for _ in 0..3 {
        node.defragment().await.expect("defragments");
    }
    writer.await.expect("it wrote");
    let fresh = size(&node);
    assert!(fresh.0 < 200_000 && fresh.0 >= fresh.1, "{full:?} became {fresh:?}");
    let before = node.hash_kv(0).await.expect("a hash").hash;
    node.stop().await;
    drop(node);

    let node = alone(dir.path()).await;
    assert_eq!(node.header().revision, revision + 100);
    assert_eq!(node.hash_kv(0).await.expect("a hash").hash, before);
    assert!(size(&node).0 < 200_000, "the restart knows the size");
    node.stop().await;
}

/// A reader of the Machine that does not let go: whoever reads holds up applying.
struct Held {
    release: std::sync::mpsc::Sender<()>,
    reader: std::thread::JoinHandle<()>,
}

impl Held {
    /// Nothing is applied from here on. Whoever else looks at the state waits on a thread, the member's own duties among them: a test
    /// that holds needs more worker threads than have to wait.
    fn of(node: &Node) -> Held {
        let (holds, begun) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel();
        let node = node.clone();
        let reader = std::thread::spawn(move || {
            node.read(|_| {
                holds.send(()).expect("the test waits");
                released.recv().expect("the test lets go");
            });
        });
        begun.recv().expect("it reads");
        Held { release, reader }
    }

    fn go_on(self) {
        self.release.send(()).expect("it waits");
        self.reader.join().expect("it read");
    }
}

/// A member of which no proposal times out while a test on a busy machine holds what is to be applied.
async fn patient(dir: &Path) -> Node {
    alone_with(dir, |config| config.election_ticks = 600).await
}

type Writer = tokio::task::JoinHandle<Result<Reply, Error>>;

/// A member that has committed so much more than it has applied that it refuses what is usual, and who waits for it.
async fn lagging(node: &Node) -> (Held, Vec<Writer>) {
    let applying = Held::of(node);
    let writers = (0..APPLY_LAG_MAX + 200)
        .map(|n| {
            let node = node.clone();
            tokio::spawn(async move { put(&node, &format!("{n}"), "1").await })
        })
        .collect();
    until("the lag", async || node.status().committed.0 > node.status().applied.0 + APPLY_LAG_MAX).await;
    assert_eq!(put(node, "one", "more").await, Err(Error::TooManyRequests));
    (applying, writers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn proposals_are_refused_while_too_many_wait_to_be_applied() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = patient(dir.path()).await;
    let (applying, writers) = lagging(&node).await;
    applying.go_on();
    for writer in writers {
        let answer = writer.await.expect("no panic");
        assert!(matches!(answer, Ok(_) | Err(Error::TooManyRequests)), "{answer:?}");
    }
    put(&node, "one", "more").await.expect("applied, so there is room");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_over_its_quota_tells_all_before_it_answers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone_with(dir.path(), |config| config.limits.quota_bytes = Some(25_000)).await;
    put(&node, "a", "1").await.expect("there is space");
    let big = "v".repeat(10_000);
    assert_eq!(put(&node, "b", &big).await, Err(Error::NoSpace));
    let alarms = node.read(|machine| machine.alarms());
    assert_eq!(alarms, [pb::AlarmMember { member_id: node.identity().0.0, alarm: pb::AlarmType::Nospace as i32 }]);
    assert_eq!(get(&node, "b").await.map(|value| value.len()), Some(10_000), "applied all the same, as on all members");
    assert_eq!(put(&node, "c", "1").await, Err(Error::NoSpace));
    assert_eq!(get(&node, "c").await, None, "refused by the alarm: not applied");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compactions_hash_is_kept_until_the_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    for n in 0..6 {
        put(&node, "a", &format!("{n}")).await.expect("put");
    }
    let before = node.hash_kv(4).await.expect("a hash");
    assert_eq!(before.compact_revision, -1);
    compact(&node, 4).await;
    let settled = node.hash_kv(4).await.expect("a hash");
    assert_eq!((settled.hash, settled.compact_revision, settled.current), (before.hash, -1, before.current));
    compact(&node, 6).await;
    assert_eq!(node.hash_kv(4).await.expect("below the compaction, and known").hash, before.hash);
    assert_eq!(node.hash_kv(5).await, Err(Error::Compacted));
    assert_eq!(node.hash_kv(6).await.expect("a hash").compact_revision, 4);
    node.stop().await;
    drop(node);
    let node = alone(dir.path()).await;
    assert_eq!(node.hash_kv(4).await, Err(Error::Compacted));
    assert_eq!(node.hash_kv(6).await.expect("a hash").compact_revision, 6);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compactions_hash_is_kept_while_what_the_one_before_left_is_still_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // The second step of a removal comes when the test is long over.
    let node = alone_with(dir.path(), |config| config.compaction_pause_ms = 600_000).await;
    for n in 0..6 {
        put(&node, "a", &format!("{n}")).await.expect("put");
    }
    for revision in [4, 6] {
        let compaction = Some(pb::CompactionRequest { revision, physical: false });
        node.propose(pb::InternalRaftRequest { compaction, ..Default::default() }).await.expect("compacts");
    }
    assert!(node.read(|machine| machine.store().is_sweeping()));
    let mut settled = Vec::new();
    until("both hashes", async || {
        settled = vec![node.hash_kv(4).await, node.hash_kv(6).await];
        settled.iter().flatten().map(|hash| hash.compact_revision).eq([-1, 4])
    })
    .await;
    // What etcd would tell after each removal: nothing of `a` but its last value is left to hash.
    let direct = node.hash_kv(7).await.expect("a hash");
    assert_eq!(direct.compact_revision, 6);
    assert!(settled.iter().flatten().all(|hash| hash.hash != direct.hash));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_takes_the_clusters_version_down_and_its_end_up_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    let version = |node: &Node| node.read(|machine| machine.cluster_version().map(str::to_owned));
    until("a version", async || version(&node).is_some()).await;
    assert_eq!(version(&node).as_deref(), Some("3.6.0"));
    assert_eq!(node.validate_downgrade("3.4").await, Err(Error::InvalidDowngradeTargetVersion));
    assert_eq!(node.validate_downgrade("nonsense").await, Err(Error::WrongDowngradeVersionFormat));
    assert_eq!(node.validate_downgrade("3.5").await.map(|version| version.short()), Ok("3.6".into()));
    assert_eq!(node.cancel_downgrade().await.map(|version| version.short()), Ok("3.6".into()), "nothing to cancel");
    node.enable_downgrade("3.5.0").await.expect("enabled");
    assert_eq!(node.enable_downgrade("3.5.0").await, Err(Error::DowngradeInProcess));
    node.update_cluster_version().await;
    assert_eq!(version(&node).as_deref(), Some("3.5.0"));
    node.end_downgrade().await;
    assert!(node.read(|machine| machine.downgrade().enabled), "this member still runs 3.6");
    node.stop().await;
    drop(node);

    let node = alone(dir.path()).await;
    let downgrade = node.read(|machine| machine.downgrade().clone());
    assert_eq!((downgrade.enabled, downgrade.target.as_str()), (true, "3.5.0"), "a restart knows");
    until("a leader", async || !node.status().leader.is_none()).await;
    node.cancel_downgrade().await.expect("cancelled");
    node.update_cluster_version().await;
    assert_eq!(version(&node).as_deref(), Some("3.6.0"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_compacted_by_the_clock() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let period = AutoCompaction::Periodic(Duration::from_millis(200));
    let node = alone_with(dir.path(), |config| config.auto_compaction = Some(period)).await;
    let mut written = 0;
    until("a compaction of something", async || {
        put(&node, "a", &format!("{written}")).await.expect("put");
        written += 1;
        node.read(|machine| machine.store().compacted()).is_some_and(|floor| floor > Revision(2))
    })
    .await;
    assert_eq!(node.read(|machine| machine.store().readable(2)), Err(Error::Compacted));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn leases_go_first_while_other_proposals_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = patient(dir.path()).await;
    for id in 1..=3 {
        let grant = Some(pb::LeaseGrantRequest { id, ttl: 600 });
        node.propose(pb::InternalRaftRequest { lease_grant: grant, ..Default::default() }).await.expect("granted");
    }
    let (applying, writers) = lagging(&node).await;
    // Every writer has been let in or refused.
    until("the writers wait", async || {
        writers.iter().filter(|writer| !writer.is_finished()).count() as u64 == node.pending()
    })
    .await;
    let waiting = node.pending();
    let revoke = |only_leading: Option<Term>, id: i64| {
        let node = node.clone();
        let lease_revoke = Some(pb::LeaseRevokeRequest { id });
        let request = pb::InternalRaftRequest { lease_revoke, ..Default::default() };
        tokio::spawn(async move { node.propose_in(only_leading, request).await })
    };
    // What a client revokes, what the leader does by its clock, and a renewal, which waits a second at most.
    let revoked = [revoke(None, 1), revoke(Some(node.status().term), 2)];
    let renewed = tokio::spawn({
        let node = node.clone();
        async move { node.lease_keep_alive(LeaseId(3)).await }
    });
    until("both are let in", async || node.pending() == waiting + 2).await;
    applying.go_on();
    for revoked in revoked {
        assert!(matches!(revoked.await.expect("no panic"), Ok(Reply::LeaseRevoke(_))));
    }
    assert!(matches!(renewed.await.expect("no panic"), Ok(600) | Err(Error::TimeoutWaitApplied)));
    until("renewed", async || node.lease_keep_alive(LeaseId(3)).await == Ok(600)).await;
    for writer in writers {
        drop(writer.await.expect("no panic"));
    }
    assert_eq!(node.leases(), [LeaseId(3)]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_gives_back_space_if_it_is_as_much_as_was_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    for n in 0..300 {
        put(&node, "a", &format!("{n:010000}")).await.expect("put");
    }
    let revision = node.header().revision;
    compact(&node, revision).await;
    let size = |node: &Node| node.read(|machine| machine.store().size());
    let (full, hash) = (size(&node), node.hash_kv(0).await.expect("a hash").hash);
    node.stop().await;
    drop(node);
    for (threshold, gives_back) in [(10_000_000, false), (1_000_000, true)] {
        let node = alone_with(dir.path(), |config| config.defragment_above_bytes = Some(threshold)).await;
        assert_eq!(size(&node) < 200_000, gives_back, "{full} became {}", size(&node));
        assert_eq!((node.header().revision, node.hash_kv(0).await.expect("a hash").hash), (revision, hash));
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_everything_changes_with_everything() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    until("a version", async || node.read(|machine| machine.cluster_version().is_some())).await;
    let first = node.hash_all().await.expect("a hash");
    assert_eq!(node.hash_all().await, Ok(first), "and with nothing else");
    put(&node, "a", "1").await.expect("put");
    let second = node.hash_all().await.expect("a hash");
    assert_eq!((second.1, first.1), (Revision(2), Revision(1)));
    assert_ne!(second.0, first.0);
    let grant = Some(pb::LeaseGrantRequest { id: 7, ttl: 60 });
    node.propose(pb::InternalRaftRequest { lease_grant: grant, ..Default::default() }).await.expect("granted");
    let third = node.hash_all().await.expect("a hash");
    assert!(third.0 != second.0 && third.1 == second.1, "a lease counts, and takes no revision");
    node.stop().await;
}

/// One thread for everybody: whoever holds it up holds up all.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_defragmentation_that_waits_for_readers_holds_no_thread_of_the_runtime() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    put(&node, "a", "1").await.expect("put");
    // With a version agreed on, nothing that the member does by itself reads for some seconds.
    until("a version", async || node.read(|machine| machine.cluster_version().is_some())).await;
    let (release, released) = std::sync::mpsc::channel();
    let (told, held) = std::sync::mpsc::channel();
    let reader = node.clone();
    let reading = std::thread::spawn(move || {
        reader.read(|_| {
            told.send(()).expect("somebody waits for it");
            released.recv_timeout(Duration::from_secs(10)).is_ok()
        })
    });
    held.recv().expect("it reads");
    let mut under_way = node.defragmenting();
    let defragmenting = tokio::spawn({
        let node = node.clone();
        async move { node.defragment().await }
    });
    under_way.wait_for(|count| *count == 1).await.expect("the member runs");
    tokio::spawn(async {}).await.expect("the runtime's one thread is free");
    release.send(()).expect("it still reads");
    assert!(reading.join().expect("no panic"), "nothing else ran until the reader had gone");
    defragmenting.await.expect("no panic").expect("defragments");
    assert_eq!(get(&node, "a").await.expect("still there"), "1");
    node.stop().await;
}
