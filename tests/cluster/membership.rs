//! Members come and go: real processes that join, learn, move, are replaced and are removed, while clients write.
//!
//! etcd counts a connection after five seconds only, so that a change may be refused as "unhealthy cluster" for a while: every change here is asked
//! for until it is not.

#![expect(clippy::disallowed_methods, reason = "measures when writes are acknowledged again")]

use crate::auth;
use crate::client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use crate::writers::Writers;
use etcd_lab::proto::etcdserverpb as pb;
use std::time::Duration;
use std::time::Instant;
use tonic::Code;
use tonic::Status;

const ASKED_WITHIN: Duration = Duration::from_secs(10);
const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const NOT_STARTED: &str = "etcdserver: re-configuration failed due to not enough started members";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";
const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Members that change, and calls that change them, each through the member with the number `at`.
impl Cluster {
    async fn try_add(&self, at: usize, peer_url: &str, is_learner: bool) -> Result<pb::MemberAddResponse, Status> {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
        client::answer(ASKED_WITHIN, self.client.cluster(at).member_add(request)).await
    }

    async fn try_remove(&self, at: usize, id: u64) -> Result<pb::MemberRemoveResponse, Status> {
        client::answer(ASKED_WITHIN, self.client.cluster(at).member_remove(pb::MemberRemoveRequest { id })).await
    }

    pub(crate) async fn try_promote(&self, at: usize, id: u64) -> Result<pb::MemberPromoteResponse, Status> {
        client::answer(ASKED_WITHIN, self.client.cluster(at).member_promote(pb::MemberPromoteRequest { id })).await
    }

    async fn try_update(&self, at: usize, id: u64, peer_url: &str) -> Result<pb::MemberUpdateResponse, Status> {
        let request = pb::MemberUpdateRequest { id, peer_ur_ls: vec![peer_url.to_owned()] };
        client::answer(ASKED_WITHIN, self.client.cluster(at).member_update(request)).await
    }

    /// The members as the member `at` knows them.
    async fn list(&self, at: usize) -> Vec<pb::Member> {
        until(READY_WITHIN, "the members", async || self.client.members(at, true).await).await.members
    }

    /// The id of the member with the number `member`.
    pub(crate) async fn id(&self, member: usize) -> u64 {
        let status = until(READY_WITHIN, "its status", async || self.client.status(member).await).await;
        status.header.expect("a header").member_id
    }

    /// Adds a member called `name` to the cluster, not to the processes: its description, and its id.
    pub(crate) async fn announce(&self, at: usize, name: &str, is_learner: bool) -> (Spec, u64) {
        let mut spec = Spec::new(name, self.dir());
        let added = healthy(async || self.try_add(at, &spec.peer_url, is_learner).await).await;
        let new = added.member.expect("the new one");
        assert_eq!(
            (new.name.as_str(), new.is_learner, &new.peer_ur_ls),
            ("", is_learner, &vec![spec.peer_url.clone()])
        );
        spec.more = vec!["--initial-cluster".into(), as_flag(&added.members, new.id, name)];
        spec.more.extend(["--initial-cluster-state".into(), "existing".into()]);
        (spec, new.id)
    }

    /// Adds a member called `name`, starts it and waits until it serves. Its number and id.
    pub(crate) async fn join(&mut self, at: usize, name: &str, is_learner: bool) -> (usize, u64) {
        let (spec, id) = self.announce(at, name, is_learner).await;
        let member = self.add(spec);
        self.restart(member).await;
        assert_eq!(self.id(member).await, id);
        (member, id)
    }

    /// Puts another member with an empty disk in the place of one that has ended, whose id is `dead`, through `at`. It has the same name and the same addresses.
    /// Returns its id.
    pub(crate) async fn replace(&mut self, member: usize, dead: u64, at: usize) -> u64 {
        let told = |refusal: Status| refusal.message().to_owned();
        // Whoever hears nothing asks again, and finds that it was done.
        until(READY_WITHIN, "its removal", async || {
            let list = self.client.members(at, true).await.map_err(told)?;
            let is_there = list.members.iter().any(|member| member.id == dead);
            if is_there { self.try_remove(at, dead).await.map(drop).map_err(told) } else { Ok(()) }
        })
        .await;
        let spec = self.spec(member).clone();
        std::fs::remove_dir_all(&spec.data_dir).expect("its disk is gone");
        let (id, members) = until(READY_WITHIN, "another in its place", async || {
            let list = self.client.members(at, true).await.map_err(told)?.members;
            if let Some(new) = list.iter().find(|member| member.peer_ur_ls.contains(&spec.peer_url)) {
                return Ok((new.id, list));
            }
            self.try_add(at, &spec.peer_url, false).await.map_err(told)?;
            Err("it is to be seen in the list".to_owned())
        })
        .await;
        let spec = self.spec_mut(member);
        // What an earlier replacement was told goes.
        if let Some(told) = spec.more.iter().position(|flag| flag == "--initial-cluster") {
            spec.more.truncate(told);
        }
        let cluster = as_flag(&members, id, &spec.name);
        let more = ["--initial-cluster", &cluster, "--initial-cluster-state", "existing"];
        spec.more.extend(more.map(str::to_owned));
        self.restart(member).await;
        assert_eq!(self.id(member).await, id);
        id
    }

    /// Removes a member that runs, through `at`, and waits until its process has ended as a removed one does.
    async fn dismiss(&mut self, at: usize, member: usize, id: u64) {
        let left = healthy(async || self.try_remove(at, id).await).await;
        assert!(left.members.iter().all(|member| member.id != id));
        self.ended_as_removed(member).await;
    }

    async fn ended_as_removed(&mut self, member: usize) {
        let status = self.gone(member).await;
        let log = self.log(member);
        assert_eq!(shell_code(status), 0, "{status}\n{log}");
        assert!(log.contains(REMOVED) && log.contains("data-dir used by this member must be removed"), "{log}");
    }
}

/// `--initial-cluster` for the member `id` of these, which is to be called `name`.
fn as_flag(members: &[pb::Member], id: u64, name: &str) -> String {
    let named = |member: &pb::Member| if member.id == id { name.to_owned() } else { member.name.clone() };
    let pairs = members.iter().flat_map(|m| m.peer_ur_ls.iter().map(move |url| format!("{}={url}", named(m))));
    pairs.collect::<Vec<_>>().join(",")
}

/// Asks until the members have been connected for long enough.
async fn healthy<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>) -> T {
    let answer = until(READY_WITHIN, "a healthy cluster", async || match ask().await {
        Err(refusal) if refusal.message() == UNHEALTHY => Err(refusal),
        answer => Ok(answer),
    });
    answer.await.unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let refusal = answer.expect_err("it is refused");
    (refusal.code(), refusal.message().to_owned())
}

fn get(serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), serializable, ..Default::default() }
}

#[test]
fn a_cluster_grows_from_one_to_three_to_five_and_back_under_writers() {
    turn(Duration::from_secs(300), async {
        let mut cluster = Cluster::start(1).await;
        let writers = Writers::start(&cluster.client, "growing/", 2);
        writers.acknowledged(20, READY_WITHIN).await;
        let mut others = Vec::new();
        for name in ["m1", "m2", "m3", "m4"] {
            others.push(cluster.join(0, name, false).await);
            let so_far = writers.so_far_count();
            writers.acknowledged(so_far + 20, READY_WITHIN).await;
            if others.len() % 2 == 0 {
                let running: Vec<usize> = (0..=others.len()).collect();
                cluster.assert_equal_hashes_of(&running).await;
            }
        }
        let lists = [cluster.list(0).await, cluster.list(4).await];
        assert_eq!(lists[0], lists[1]);
        assert_eq!(lists[0].iter().filter(|member| !member.is_learner && !member.name.is_empty()).count(), 5);
        while let Some((member, id)) = others.pop() {
            cluster.dismiss(0, member, id).await;
            let so_far = writers.so_far_count();
            writers.acknowledged(so_far + 20, READY_WITHIN).await;
        }
        assert_eq!(cluster.list(0).await.len(), 1);
        cluster.kill(0);
        cluster.restart(0).await;
        assert_eq!(cluster.list(0).await.len(), 1, "the members are as stored");
        assert!(writers.stop_and_check(&cluster.client).await >= 180);
    });
}

#[test]
fn a_dead_member_is_replaced_and_cannot_come_back() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(3).await;
        let writers = Writers::start(&cluster.client, "replacing/", 2);
        writers.acknowledged(20, READY_WITHIN).await;
        let dead = cluster.id(1).await;
        cluster.lose(1).await;
        // Known to be dead, it is no part of the quorum that must stay.
        let left = healthy(async || cluster.try_remove(0, dead).await).await;
        assert_eq!(left.members.len(), 2);
        let (new, _) = cluster.join(2, "m3", false).await;
        let so_far = writers.so_far_count();
        writers.acknowledged(so_far + 20, READY_WITHIN).await;
        for _ in 0..2 {
            cluster.launch(1);
            cluster.ended_as_removed(1).await;
        }
        assert_eq!(refused(cluster.try_remove(0, dead).await), (Code::NotFound, "etcdserver: member not found".into()));
        writers.stop_and_check(&cluster.client).await;
        cluster.assert_equal_hashes_of(&[0, 2, new]).await;
    });
}

#[test]
fn a_learner_learns_serves_little_and_is_promoted_when_it_is_ready() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(1).await;
        for number in 0..30 {
            cluster.client.put(0, "k", &number.to_string()).await.expect("a write");
        }
        let voter = cluster.id(0).await;
        let (spec, id) = cluster.announce(0, "m1", true).await;
        assert_eq!(refused(cluster.try_promote(0, id).await), (Code::FailedPrecondition, NOT_READY.into()));
        let second = refused(cluster.try_add(0, "http://127.0.0.1:1", true).await);
        assert_eq!(second, (Code::FailedPrecondition, "etcdserver: too many learner members in cluster".into()));
        let taken = refused(cluster.try_add(0, &cluster.spec(0).peer_url, true).await);
        assert_eq!(taken, (Code::FailedPrecondition, "etcdserver: Peer URLs already exists".into()));
        let voters = (Code::FailedPrecondition, "etcdserver: can only promote a learner member".to_owned());
        assert_eq!(refused(cluster.try_promote(0, voter).await), voters);
        let unknown = (Code::NotFound, "etcdserver: member not found".to_owned());
        assert_eq!(refused(cluster.try_promote(0, 7).await), unknown);

        let learner = cluster.add(spec);
        cluster.restart(learner).await;
        learner_serves_little(&cluster, learner).await;

        // Alone, it stays what it is: it neither leads nor changes the term.
        let term = cluster.client.status(learner).await.expect("its status").raft_term;
        assert_eq!(shell_code(cluster.terminate(0).await), 143);
        assert!(cluster.log(0).contains("skipped leadership transfer for single voting member cluster"));
        until(READY_WITHIN, "the learner misses its leader", async || {
            if cluster.log(learner).contains("peer is gone") { Ok(()) } else { Err("not yet") }
        })
        .await;
        cluster.restart(0).await;
        let status = until(READY_WITHIN, "it follows again", async || {
            let status = cluster.client.status(learner).await.map_err(|e| e.to_string())?;
            // Until it hears of the election it may still name the leader of the term before.
            if status.raft_term > term && status.leader == voter { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await;
        assert!(status.is_learner, "{status:?}");
        assert_eq!(status.raft_term, term + 1, "one election, the voter's");

        let promoted = until(READY_WITHIN, "promoted", async || cluster.try_promote(0, id).await).await;
        assert!(promoted.members.iter().all(|member| !member.is_learner));
        // It hears of it a moment later than the leader.
        let put = async || cluster.client.put(learner, "k", "from a voter").await;
        until(READY_WITHIN, "it serves as a voter", put).await;
        cluster.kill_all();
        cluster.launch(0);
        cluster.restart(learner).await;
        assert!(cluster.list(learner).await.iter().all(|member| !member.is_learner), "and stays one");
        cluster.assert_equal_hashes().await;
    });
}

/// What etcd's learner answers: its status, and what it has for who is content with that.
async fn learner_serves_little(cluster: &Cluster, learner: usize) {
    let status = cluster.client.status(learner).await.expect("its status");
    assert!(status.is_learner);
    let mut kv = cluster.client.kv(learner);
    until(READY_WITHIN, "it has caught up", async || {
        let kvs = client::answer(ASKED_WITHIN, kv.range(get(true))).await.map_err(|e| e.to_string())?.kvs;
        if kvs.first().is_some_and(|kv| kv.value == "29") { Ok(()) } else { Err(format!("{kvs:?}")) }
    })
    .await;
    let no = (Code::FailedPrecondition, "etcdserver: rpc not supported for learner".to_owned());
    let mut kv = cluster.client.kv(learner);
    assert_eq!(refused(kv.range(get(false)).await), no);
    assert_eq!(refused(cluster.client.put(learner, "k", "x").await), no);
    assert_eq!(refused(cluster.client.members(learner, false).await), no);
    assert_eq!(refused(cluster.try_promote(learner, 1).await), no);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    assert_eq!(refused(cluster.client.lease(learner).lease_grant(grant).await), no);
    let watch = cluster.client.watch(learner).watch(futures::stream::pending::<pb::WatchRequest>()).await;
    assert_eq!(watch.map(|_| ()).map_err(|refusal| (refusal.code(), refusal.message().to_owned())), Err(no));
}

#[test]
fn a_follower_has_its_leader_promote() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let (learner, id) = cluster.join(follower, "m3", true).await;
        let voter = cluster.id(other).await;
        let no = (Code::FailedPrecondition, "etcdserver: can only promote a learner member".to_owned());
        assert_eq!(refused(cluster.try_promote(follower, voter).await), no);
        assert_eq!(refused(cluster.try_promote(follower, 7).await).0, Code::NotFound);
        let promoted = until(READY_WITHIN, "promoted", async || cluster.try_promote(follower, id).await).await;
        assert_eq!(promoted.members.len(), 4);
        assert!(promoted.members.iter().all(|member| !member.is_learner));
        assert_eq!(promoted.header.expect("a header").member_id, cluster.id(follower).await);
        // It counts: two of four are no quorum, three are one.
        cluster.kill(other);
        let put = async || cluster.client.put(learner, "k", "three of four").await;
        until(READY_WITHIN, "a write with the new voter", put).await;
    });
}

#[test]
fn who_may_not_promote_may_not_by_way_of_a_follower_or_the_peers_port_either() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &["--bcrypt-cost=4"]).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let (learner, id) = cluster.join(follower, "m3", true).await;
        auth::furnish(cluster.client.auth(leader)).await;
        let ask = async |token: Option<&str>| {
            let request = auth::with(token, pb::MemberPromoteRequest { id });
            client::answer(ASKED_WITHIN, cluster.client.cluster(follower).member_promote(request)).await
        };
        // Who logs in through the follower finds authentication on there, too.
        let login = async || auth::login(cluster.client.auth(follower), "alice", "alicepw-2718").await;
        let alice = until(READY_WITHIN, "a token", login).await;
        assert_eq!(refused(ask(None).await).1, "etcdserver: user name is empty");
        assert_eq!(refused(ask(Some(&alice)).await).1, "etcdserver: permission denied");
        for member in 0..3 {
            let address = cluster.spec(member).peer_url.replace("http://", "");
            let answer = http::post(&address, &format!("/members/promote/{id}")).await.expect("an answer");
            assert!(answer.status.contains("500"), "{answer:?}");
        }
        let root = auth::login(cluster.client.auth(follower), "root", "rootpw-3141").await.expect("a token");
        until(READY_WITHIN, "still a learner", async || {
            let status = auth::with(Some(&root), pb::StatusRequest {});
            let status = cluster.client.maintenance(learner).status(status).await.map(|answer| answer.into_inner());
            status.map(|status| assert!(status.is_learner))
        })
        .await;
        let promoted = until(READY_WITHIN, "promoted", async || ask(Some(&root)).await).await;
        assert!(promoted.members.iter().all(|member| !member.is_learner));
    });
}

#[test]
fn a_leader_removes_itself_and_writes_go_on() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start(3).await;
        let writers = Writers::start(&cluster.client, "removing/", 4);
        writers.acknowledged(50, READY_WITHIN).await;
        for left in [2, 1] {
            let leader = cluster.leader().await;
            let id = cluster.id(leader).await;
            let removed = healthy(async || cluster.try_remove(leader, id).await).await;
            let began = Instant::now();
            assert_eq!(removed.members.len(), left);
            writers.resumed(began, Duration::from_secs(5)).await;
            cluster.ended_as_removed(leader).await;
            let after = writers.so_far_count();
            writers.acknowledged(after + 50, READY_WITHIN).await;
        }
        let last = cluster.leader().await;
        let id = cluster.id(last).await;
        assert_eq!(refused(cluster.try_remove(last, id).await), (Code::Unknown, NOT_STARTED.into()));
        writers.stop_and_check(&cluster.client).await;
    });
}

#[test]
fn changes_that_could_lose_the_quorum_are_refused() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let ids = [cluster.id(leader).await, cluster.id(follower).await, cluster.id(other).await];
        let bad = refused(cluster.try_add(leader, "127.0.0.1:1", false).await);
        assert_eq!(bad, (Code::InvalidArgument, "etcdserver: given member URLs are invalid".into()));
        // Healthy first, so that what follows is refused for its own reason.
        let (_, unstarted) = cluster.announce(leader, "never", true).await;
        healthy(async || cluster.try_remove(leader, unstarted).await).await;
        cluster.kill(follower);
        until(READY_WITHIN, "the leader misses a follower", async || {
            if cluster.log(leader).contains("peer is gone") { Ok(()) } else { Err("not yet") }
        })
        .await;
        let unhealthy = (Code::Unavailable, UNHEALTHY.to_owned());
        assert_eq!(refused(cluster.try_add(leader, "http://127.0.0.1:1", false).await), unhealthy);
        assert_eq!(refused(cluster.try_add(leader, "http://127.0.0.1:1", true).await), unhealthy, "a learner, too");
        assert_eq!(refused(cluster.try_remove(leader, ids[2]).await), unhealthy, "two of three cannot lose one more");
        assert_eq!(refused(cluster.try_remove(leader, ids[0]).await), unhealthy, "nor the leader");
        let left = cluster.try_remove(leader, ids[1]).await.expect("the dead one may go");
        assert_eq!(left.members.len(), 2);
        assert_eq!(refused(cluster.try_update(leader, 7, "http://127.0.0.1:1").await).0, Code::NotFound);
        let taken = cluster.spec(other).peer_url.clone();
        let exists = (Code::FailedPrecondition, "etcdserver: Peer URLs already exists".to_owned());
        assert_eq!(refused(cluster.try_update(leader, ids[0], &taken).await), exists);
    });
}

#[test]
fn without_the_strict_check_everything_goes_but_the_last_voter() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &["--strict-reconfig-check=false"]).await;
        let id = cluster.id(0).await;
        assert_eq!(refused(cluster.try_remove(0, id).await), (Code::Unknown, NOT_STARTED.into()));
        let (spec, new) = cluster.announce(0, "m1", false).await;
        let member = cluster.add(spec);
        cluster.restart(member).await;
        // Two changes at once, without a pause, through both.
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
        let (a, b) = tokio::join!(cluster.try_update(0, new, urls[0]), cluster.try_update(member, new, urls[1]));
        let last = [a.expect("a change"), b.expect("the other")];
        let url = |answer: &pb::MemberUpdateResponse| {
            let updated = answer.members.iter().find(|member| member.id == new).expect("it is there");
            updated.peer_ur_ls.clone()
        };
        let now = cluster.list(0).await.into_iter().find(|member| member.id == new).expect("it is there").peer_ur_ls;
        assert!(last.iter().any(|answer| url(answer) == now), "{now:?} {last:?}");
        assert!(urls.iter().any(|url| now == [*url]));
    });
}

#[test]
fn a_member_moves_to_another_peer_url() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start(3).await;
        let id = cluster.id(2).await;
        cluster.terminate(2).await;
        let port = ports::free();
        let moved = format!("http://127.0.0.1:{port}");
        let updated = cluster.try_update(0, id, &moved).await.expect("a free URL");
        assert!(updated.members.iter().any(|member| member.id == id && member.peer_ur_ls == [moved.clone()]));
        for number in 0..20 {
            cluster.client.put(0, &format!("k{number}"), "while it is away").await.expect("a write");
        }
        cluster.spec_mut(2).more = ["--listen-peer-urls", &moved].map(str::to_owned).to_vec();
        cluster.restart(2).await;
        assert_eq!(cluster.id(2).await, id, "the directory says who it is, not the flags");
        cluster.assert_equal_hashes().await;
        let leader = cluster.leader().await;
        cluster.kill((0..2).find(|member| *member != leader).expect("one of two"));
        cluster.client.put(2, "k", "with the one that moved").await.expect("two of three");
    });
}

/// Starts a member that must not start; what it says.
async fn not_started(cluster: &Cluster, mut spec: Spec, flags: &[(&str, String)]) -> String {
    spec.more.extend(flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]));
    let log = cluster.dir().join(format!("{}.log", spec.name));
    let mut process = Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &log);
    let status = process.ended(ENDS_WITHIN).await;
    assert_eq!(shell_code(status), 1, "{}", process.log());
    process.log()
}

#[test]
fn joining_is_refused_in_etcds_words() {
    turn(Duration::from_secs(180), async {
        let cluster = Cluster::start(1).await;
        let (m0, existing) = (cluster.spec(0).clone(), ("--initial-cluster-state", "existing".to_owned()));
        let list = |spec: &Spec| ("--initial-cluster", format!("m0={},{}={}", m0.peer_url, spec.name, spec.peer_url));
        let spec = Spec::new("stranger", cluster.dir());
        let said = not_started(&cluster, spec.clone(), &[list(&spec), existing.clone()]).await;
        assert!(said.contains("error validating peerURLs {ClusterID:"), "{said}");
        assert!(said.contains("RemovedMemberIDs:[]}: member count is unequal"), "{said}");

        let (announced, id) = cluster.announce(0, "m1", false).await;
        let said = not_started(&cluster, spec.clone(), &[list(&spec), existing.clone()]).await;
        let why = format!(
            "PeerURLs: no match found for existing member ({id:x}, [{0}]), last resolver error (resolved urls: \\\"{0}\\\" != \\\"",
            announced.peer_url
        );
        assert!(said.contains(&why), "{why}\n{said}");

        let nobody = Spec::new("lonely", cluster.dir());
        let dead = format!("gone=http://127.0.0.1:{},lonely={}", ports::free(), nobody.peer_url);
        let said = not_started(&cluster, nobody, &[("--initial-cluster", dead), existing.clone()]).await;
        let why =
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
        assert!(said.contains(why), "{said}");
    });
}

#[test]
fn a_founder_without_its_directory_and_a_member_of_another_cluster_stay_out() {
    turn(Duration::from_secs(180), async {
        let mut cluster = Cluster::start(3).await;
        let id = cluster.id(2).await;
        // The first of them that answers is believed.
        for member in [0, 1] {
            until(READY_WITHIN, "it is known to have started", async || {
                let known = cluster.client.members(member, false).await.map_err(|e| e.to_string())?.members;
                let started = known.iter().any(|member| member.id == id && !member.client_ur_ls.is_empty());
                if started { Ok(()) } else { Err(format!("{known:?}")) }
            })
            .await;
        }
        cluster.lose(2).await;
        std::fs::remove_dir_all(&cluster.spec(2).data_dir).expect("its directory");
        cluster.launch(2);
        assert_eq!(shell_code(cluster.gone(2).await), 1);
        let why = format!("member {id:x} has already been bootstrapped");
        assert!(cluster.log(2).contains(&why), "{}", cluster.log(2));

        // It has voted and acknowledged what it does not know of any more, so nor may it come back as one that joins.
        cluster.spec_mut(2).more = ["--initial-cluster-state", "existing"].map(str::to_owned).to_vec();
        cluster.launch(2);
        assert_eq!(shell_code(cluster.gone(2).await), 1);
        assert!(cluster.log(2).contains(&format!("member {id:x} has run before")), "{}", cluster.log(2));

        // Another token is another cluster: it would be a new founder, and nobody listens to it.
        cluster.spec_mut(2).more = ["--initial-cluster-token", "another"].map(str::to_owned).to_vec();
        cluster.launch(2);
        until(READY_WITHIN, "it hears that it is of another cluster", async || {
            let log = cluster.log(2);
            let told = "request sent was ignored by remote peer due to cluster ID mismatch";
            if log.contains(told) && log.contains("\"error\":\"cluster ID mismatch\"") { Ok(()) } else { Err(log) }
        })
        .await;
        cluster.client.put(0, "k", "undisturbed").await.expect("two of three");
        assert!(cluster.list(0).await.iter().any(|member| member.id == id), "nothing has changed");
        cluster.kill(2);
    });
}

#[test]
fn what_is_left_of_a_lost_cluster_becomes_one_of_its_own() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(3).await;
        let writers = Writers::start(&cluster.client, "kept/", 2);
        writers.acknowledged(100, READY_WITHIN).await;
        let id = cluster.id(1).await;
        let (_, learner) = cluster.announce(0, "never", true).await;
        // What only the two others have acknowledged would be lost with them.
        let written = writers.stop_and_check(&cluster.client).await;
        cluster.assert_equal_hashes().await;
        cluster.kill_all();
        let begun = cluster.spec(1).more.clone();
        cluster.spec_mut(1).more.push("--force-new-cluster".into());
        for _ in 0..2 {
            // The second time there is nobody left to drop.
            cluster.restart(1).await;
            let members = cluster.list(1).await;
            assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
            cluster.client.put(1, "k", "alone").await.expect("a write");
            cluster.kill(1);
        }
        cluster.spec_mut(1).more = begun;
        cluster.restart(1).await;
        // One that nobody has heard of may be there, too.
        assert!(cluster.client.prefix("kept/").await.expect("a read").len() >= written);
        // The others are no members any more.
        cluster.launch(0);
        cluster.ended_as_removed(0).await;
        let (new, _) = cluster.join(1, "m3", false).await;
        assert!(cluster.list(1).await.iter().all(|member| member.id != learner));
        cluster.assert_equal_hashes_of(&[1, new]).await;
    });
}

#[test]
fn a_joined_member_that_is_killed_at_any_time_comes_back_and_catches_up() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(1).await;
        let writers = Writers::start(&cluster.client, "joining/", 2);
        writers.acknowledged(200, READY_WITHIN).await;
        let (spec, _) = cluster.announce(0, "m1", true).await;
        let (log, member) = (cluster.dir().join("m1.log"), cluster.add(spec));
        // Between its log's first byte and its first entry, and while it catches up.
        for part in ["starting an etcd server", "started a raft member", "added member", "published local member"] {
            std::fs::remove_file(&log).ok();
            cluster.launch(member);
            until(
                READY_WITHIN,
                part,
                async || if cluster.log(member).contains(part) { Ok(()) } else { Err("not yet") },
            )
            .await;
            cluster.kill(member);
        }
        cluster.restart(member).await;
        let id = cluster.id(member).await;
        until(READY_WITHIN, "promoted", async || cluster.try_promote(0, id).await).await;
        writers.stop_and_check(&cluster.client).await;
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn a_cluster_of_etcd_351_becomes_one_of_ours_member_by_member() {
    let Some(etcd) = foreign::etcd_351("a_cluster_of_etcd_351_becomes_one_of_ours_member_by_member") else { return };
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start_with(&etcd, 1, &[]).await;
        for number in 0..50 {
            cluster.client.put(0, &format!("k{number}"), "written to etcd").await.expect("a write");
        }
        let old = cluster.id(0).await;
        let (mut spec, id) = cluster.announce(0, "m1", true).await;
        spec.program = Some(etcd_bin());
        let ours = cluster.add(spec);
        cluster.restart(ours).await;
        let promoted = until(READY_WITHIN, "promoted by etcd", async || cluster.try_promote(0, id).await).await;
        assert_eq!(promoted.members.len(), 2);
        let put = async || cluster.client.put(ours, "k", "through ours").await;
        until(READY_WITHIN, "a write through ours, while etcd leads", put).await;
        cluster.assert_equal_hashes().await;
        // etcd removes itself; from then on ours leads alone.
        healthy(async || cluster.try_remove(ours, old).await).await;
        assert_eq!(cluster.list(ours).await.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
        assert_eq!(cluster.client.get(ours, "k").await.expect("a read").as_deref(), Some("through ours"));
        cluster.client.put(ours, "k", "ours alone").await.expect("it leads, or etcd does for its last second");
        assert_eq!(shell_code(cluster.gone(0).await), 0, "etcd has stopped as a removed member does");
    });
}
