//! The lab's clock on real members: held, stepped, slow, and let go.

#![expect(clippy::disallowed_methods, reason = "a clock is about time")]

use crate::chaos::TOKEN;
use crate::chaos::with_doors;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::alone;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::lab;
use etcd_lab::proto::lab::control_request::Action;
use etcd_lab::proto::lab::lab_client::LabClient;
use etcd_lab::proto::lab::step::What;
use std::time::Duration;
use std::time::Instant;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

const LIMIT: Duration = Duration::from_secs(120);
/// raft's numbers of message types.
const APPEND: u32 = 3;
const APPEND_ANSWER: u32 = 4;

pub(crate) struct Doors(Vec<LabClient<Channel>>);

impl Doors {
    pub(crate) async fn open(doors: &[String]) -> Doors {
        let mut clients = Vec::new();
        for door in doors {
            let endpoint = Endpoint::from_shared(door.clone()).expect("a URL");
            clients.push(LabClient::new(endpoint.connect().await.expect("the lab's door is open")));
        }
        Doors(clients)
    }

    fn request<T>(message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("lab-token", TOKEN.parse().expect("ASCII"));
        request
    }

    async fn control(&mut self, member: usize, action: Action) -> Result<(), String> {
        let request = Doors::request(lab::ControlRequest { action: Some(action) });
        let answer = self.0[member].control(request).await.expect("an answer").into_inner();
        if answer.ok { Ok(()) } else { Err(answer.why_not) }
    }

    pub(crate) async fn clock(&mut self, held: bool, slower: u32) {
        for member in 0..self.0.len() {
            let set = Action::SetClock(lab::SetClock { held, slower });
            self.control(member, set).await.expect("a clock can always be set");
        }
    }

    pub(crate) async fn step(&mut self, member: usize, what: What) -> Result<(), String> {
        self.control(member, Action::Step(lab::Step { what: Some(what) })).await
    }

    async fn look(&mut self, member: usize) -> lab::LookResponse {
        let request = Doors::request(lab::LookRequest { since_revision: 1 });
        self.0[member].look(request).await.expect("an answer").into_inner()
    }

    /// The first such message that waits at a member's door, as soon as there is one.
    async fn held(&mut self, member: usize, such: impl Fn(&lab::Wire) -> bool) -> (u64, lab::Wire) {
        until(READY_WITHIN, "a message waits", async || {
            let held = self.look(member).await.held;
            let found = held.into_iter().find_map(|held| held.wire.filter(&such).map(|wire| (held.id, wire)));
            found.ok_or("none of this kind")
        })
        .await
    }

    /// The first append with entries that waits at a member's door, as soon as there is one, and the index up to which it goes.
    async fn entries(&mut self, member: usize) -> (u64, u64) {
        let (id, wire) = self.held(member, |wire| wire.r#type == APPEND && wire.entries > 0).await;
        (id, wire.index + u64::from(wire.entries))
    }
}

async fn commit(cluster: &Cluster, member: usize) -> u64 {
    cluster.client.status(member).await.expect("it answers").raft_index
}

#[test]
fn a_held_cluster_commits_a_put_only_message_by_message() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, doors) = with_doors(3, &[]).await;
        let mut doors = Doors::open(&doors).await;
        until(READY_WITHIN, "a first write", async || cluster.client.put(0, "a", "0").await).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        assert_eq!(doors.step(leader, What::Tick(true)).await, Err("the clock runs: hold it first".to_string()));
        doors.clock(true, 1).await;
        let began = doors.look(leader).await.clock.expect("told").lab_ms;
        let client = cluster.client.clone();
        let mut put = tokio::spawn(async move { client.put(leader, "a", "1").await });
        let before = commit(&cluster, leader).await;
        // Once as a rule; entries of a start that is not over may be before it.
        let done = loop {
            let (append, last) = tokio::select! {
                done = &mut put => break done.expect("no panic"),
                append = doors.entries(follower) => append,
            };
            // One follower and the leader are a majority: its answer is enough.
            doors.step(follower, What::Deliver(append)).await.expect("it waits");
            assert!(doors.step(follower, What::Deliver(append)).await.is_err(), "once");
            let accepts = |wire: &lab::Wire| wire.r#type == APPEND_ANSWER && !wire.reject && wire.index >= last;
            let (answer, _) = doors.held(leader, accepts).await;
            assert!(!put.is_finished(), "the leader has not heard of it");
            doors.step(leader, What::Deliver(answer)).await.expect("it waits");
        };
        done.expect("committed by two messages");
        assert!(commit(&cluster, leader).await > before);
        // By the lab's clock no time has passed; a tick is a tick.
        assert_eq!(doors.look(leader).await.clock.expect("told").lab_ms, began);
        doors.step(leader, What::Tick(true)).await.expect("held");
        assert_eq!(doors.look(leader).await.clock.expect("told").lab_ms, began + 100);
        // The third has nothing yet, and gets everything when the clock goes on.
        doors.clock(false, 1).await;
        let third = (leader + 2) % 3;
        until(READY_WITHIN, "the third catches up", async || match cluster.client.get(third, "a").await {
            Ok(Some(value)) if value == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(cluster.leader().await, leader, "nobody was overthrown by a clock that stood still");
    });
}

#[test]
fn a_lost_message_is_sent_again_when_the_clock_goes_on() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, doors) = with_doors(3, &[]).await;
        let mut doors = Doors::open(&doors).await;
        until(READY_WITHIN, "a first write", async || cluster.client.put(0, "a", "0").await).await;
        let leader = cluster.leader().await;
        doors.clock(true, 1).await;
        let client = cluster.client.clone();
        let put = tokio::spawn(async move { client.put(leader, "a", "1").await });
        for member in [(leader + 1) % 3, (leader + 2) % 3] {
            let (append, _) = doors.entries(member).await;
            doors.step(member, What::Drop(append)).await.expect("it waits");
        }
        assert!(!put.is_finished());
        doors.clock(false, 1).await;
        put.await.expect("no panic").expect("raft repeats what was lost");
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn a_slow_clock_slows_raft_and_not_the_world() {
    if !is_ours() {
        return;
    }
    alone(LIMIT, async {
        let (cluster, doors) = with_doors(3, &[]).await;
        let mut doors = Doors::open(&doors).await;
        until(READY_WITHIN, "a first write", async || cluster.client.put(0, "a", "0").await).await;
        let leader = cluster.leader().await;
        doors.clock(false, 20).await;
        let (from, began) = (doors.look(leader).await.clock.expect("told").lab_ms, Instant::now());
        cluster.client.put(leader, "a", "1").await.expect("slow, and done");
        let (to, took) = (doors.look(leader).await.clock.expect("told").lab_ms, began.elapsed());
        // There and back takes two hops of 20 ms each, by the lab's clock.
        assert!(took >= Duration::from_millis(2 * 20 * 20 - 50), "{took:?}");
        let lab = Duration::from_millis(to - from);
        assert!(lab <= took / 20 + Duration::from_millis(2), "{lab:?} of the lab's time in {took:?}");
        doors.clock(false, 1).await;
        let began = Instant::now();
        cluster.client.put(leader, "a", "2").await.expect("done");
        assert!(began.elapsed() < Duration::from_millis(700), "as fast as the world again");
    });
}

#[test]
fn a_leader_that_dies_in_slow_motion_is_heard_out_and_then_replaced_in_turns() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (mut cluster, doors) = with_doors(3, &[]).await;
        let mut doors = Doors::open(&doors).await;
        until(READY_WITHIN, "a first write", async || cluster.client.put(0, "a", "0").await).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let id = cluster.client.status(leader).await.expect("it answers").leader;
        doors.clock(false, 20).await;
        // It is on its way when its sender dies.
        doors.held(follower, |wire| wire.from == id).await;
        let from = doors.look(follower).await.clock.expect("told").lab_ms;
        cluster.kill(leader);
        let other = until(READY_WITHIN, "another leader", async || {
            let status = cluster.client.status(follower).await.map_err(|e| e.to_string())?;
            if status.leader != 0 && status.leader != id { Ok(status.leader) } else { Err(format!("{status:?}")) }
        })
        .await;
        let to = doors.look(follower).await.clock.expect("told").lab_ms;
        assert!(
            to - from < 800,
            "{other:x} leads after {} ms by the lab's clock: the election time-out has a second",
            to - from
        );
    });
}

#[test]
fn a_look_tells_of_watchers_leases_and_changes() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, doors) = with_doors(1, &[]).await;
        let mut doors = Doors::open(&doors).await;
        let put = until(READY_WITHIN, "a write", async || cluster.client.put(0, "a", "0").await).await;
        let revision = put.header.expect("a header").revision.unsigned_abs();
        let grant = etcd_lab::proto::etcdserverpb::LeaseGrantRequest { ttl: 600, id: 77 };
        cluster.client.lease(0).lease_grant(grant).await.expect("granted");
        let mut watching = crate::checker::Watching::open(&cluster.client, 0);
        watching.created(crate::checker::watch("a", 1)).await;
        watching.until_told(0, put.header.expect("a header").revision).await;
        let look = doors.look(0).await;
        let [watcher] = &look.watchers[..] else { panic!("one watcher: {look:?}") };
        assert_eq!((&watcher.key[..], watcher.synced, watcher.next_revision), (&b"a"[..], true, revision + 1));
        let [lease] = &look.leases[..] else { panic!("one lease: {look:?}") };
        assert!(lease.id == 77 && (1..=600_000).contains(&lease.left_ms), "{lease:?}");
        assert!(look.changes.iter().any(|c| c.key == "a" && c.revision == revision && !c.deleted), "{look:?}");
        // A lease does not run out while the clock is held.
        doors.clock(true, 1).await;
        let left = doors.look(0).await.leases[0].left_ms;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(doors.look(0).await.leases[0].left_ms, left);
    });
}
