//! A member that ends at any crash-relevant point comes back, and the cluster has lost nothing.
//!
//! Needs a server with failpoints: ours, as a debug build or with the feature. Every point of [`Point::ALL`] is tried, in the way in which the program comes
//! to it; a writer writes all the while.

use crate::catchup::SMALL;
use crate::catchup::a_follower;
use crate::catchup::misses;
use crate::catchup::said;
use crate::catchup::says;
use crate::catchup::set_apart;
use crate::chaos::with_doors;
use crate::checker::Watching;
use crate::checker::watch;
use crate::client::Client;
use crate::client::put;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use crate::writers::Writers;
use etcd_lab::failpoint::Point;
use etcd_lab::proto::etcdserverpb as pb;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Code;
use tonic::Status;

/// How a member comes to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By writing, on any member.
    Writing,
    /// By writing, on the leader.
    Leading,
    /// By writing, on a follower.
    Following,
    Compacting,
    Defragmenting,
    Watching,
    /// By renewing a lease, on the leader.
    Renewing,
    /// At its first start.
    FirstStart,
    /// As a follower that is sent a snapshot.
    Receiving,
    /// As the leader that sends one.
    Sending,
    /// It gives the error that a caller hears.
    Failing,
    /// At the first start on a directory that etcd has left: see [`crate::conversions`].
    Converting,
}

const WAYS: &[(Point, Way)] = &[
    (Point::RaftBeforeSave, Way::Writing),
    (Point::RaftAfterSave, Way::Writing),
    (Point::RaftBeforeLeaderSend, Way::Leading),
    (Point::RaftBeforeFollowerSend, Way::Following),
    (Point::RaftBeforeAdvance, Way::Writing),
    (Point::RaftBeforeSaveSnap, Way::Writing),
    (Point::RaftAfterSaveSnap, Way::Writing),
    (Point::RaftAfterWalRelease, Way::Writing),
    (Point::WalBeforeSync, Way::Writing),
    (Point::WalAfterSync, Way::Writing),
    (Point::SnapBeforeKeep, Way::Receiving),
    (Point::SnapAfterKeep, Way::Receiving),
    (Point::SnapAfterAccept, Way::Receiving),
    (Point::ApplyBeforeOpenSnapshot, Way::Receiving),
    (Point::ApplyAfterOpenSnapshot, Way::Receiving),
    (Point::SnapAfterComplete, Way::Receiving),
    (Point::SnapBeforeSend, Way::Sending),
    (Point::SnapAfterSend, Way::Sending),
    (Point::BeforeApplyOneEntryNormal, Way::Writing),
    (Point::BeforeApplyOneConfChange, Way::FirstStart),
    (Point::AfterApplyOneEntry, Way::Writing),
    (Point::BeforeTakeBatch, Way::Writing),
    (Point::BeforeCommit, Way::Writing),
    (Point::AfterCommit, Way::Writing),
    (Point::StoreBeforeSync, Way::Writing),
    (Point::StoreAfterSync, Way::Writing),
    (Point::CompactBeforeSetScheduledCompact, Way::Compacting),
    (Point::CompactAfterSetScheduledCompact, Way::Compacting),
    (Point::CompactBeforeCommitBatch, Way::Compacting),
    (Point::CompactAfterCommitBatch, Way::Compacting),
    (Point::CompactAfterSetFinishedCompact, Way::Compacting),
    (Point::DefragBeforeCopy, Way::Defragmenting),
    (Point::DefragBeforeRename, Way::Defragmenting),
    (Point::DefragBetweenRenames, Way::Defragmenting),
    (Point::DefragOpenFileError, Way::Failing),
    (Point::AdoptBeforeMake, Way::Converting),
    (Point::AdoptAfterStore, Way::Converting),
    (Point::AdoptBeforeFormat, Way::Converting),
    (Point::AdoptBeforeRenames, Way::Converting),
    (Point::AdoptBetweenRenames, Way::Converting),
    (Point::AdoptAfterRenames, Way::Converting),
    (Point::BeforeSendWatchResponse, Way::Watching),
    (Point::BeforeCheckpointInLeaseRenew, Way::Renewing),
    (Point::BeforePublishing, Way::FirstStart),
];

/// Go's exit code after a panic.
pub(crate) const PANICKED: i32 = 2;
const DOOR: &str = "GOFAIL_HTTP";
pub(crate) const AT_START: &str = "GOFAIL_FAILPOINTS";

#[test]
fn every_point_has_a_way_to_it() {
    let covered: BTreeSet<Point> = WAYS.iter().map(|(point, _)| *point).collect();
    assert_eq!(covered, Point::ALL.iter().copied().collect());
}

/// Whether the members have failpoints.
pub(crate) fn are_there() -> bool {
    is_ours() && cfg!(any(debug_assertions, feature = "failpoints"))
}

/// A free place for a member's failpoints' door, as a variable of its environment.
pub(crate) fn a_door() -> (&'static str, String) {
    (DOOR, format!("127.0.0.1:{}", ports::free()))
}

/// The points to which a member comes when it converts a directory of etcd's.
pub(crate) fn of_conversion() -> impl Iterator<Item = Point> {
    WAYS.iter().filter(|(_, way)| *way == Way::Converting).map(|(point, _)| *point)
}

/// Our server, if it has failpoints.
pub(crate) fn program(test: &str) -> Option<PathBuf> {
    let has_them = are_there();
    if !has_them {
        foreign::not_possible(
            test,
            "the server has no failpoints: `--features failpoints` puts them into a release build",
        );
    }
    has_them.then(etcd_bin)
}

/// Members with failpoints that release their logs often.
async fn start(program: &Path, members: usize) -> Cluster {
    let scratch = Scratch::new();
    let mut specs: Vec<Spec> = (0..members).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
    for spec in &mut specs {
        let flags = ["--snapshot-count=50", "--experimental-snapshot-catchup-entries=10"];
        spec.more = flags.iter().map(|&flag| flag.to_owned()).collect();
        spec.env = vec![a_door()];
    }
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    Cluster::from_specs(program, specs, client, scratch).await
}

fn door(cluster: &Cluster, member: usize) -> String {
    cluster.spec(member).env[0].1.clone()
}

/// Sets a point of a member that runs; it was started with [`a_door`] as the first variable of its environment.
pub(crate) async fn set(cluster: &Cluster, member: usize, point: Point, terms: &str) {
    let answer = http::send(&door(cluster, member), "PUT", &format!("/{}", point.name()), terms).await;
    match answer {
        Ok(answer) => assert!(answer.status.contains("204"), "{point:?}: {answer:?}"),
        // A member that ends there may do so before it has answered.
        Err(e) => assert!(format!("{e:?}").contains("IncompleteMessage"), "the failpoints' door is open: {e:?}"),
    }
}

/// How often what is set at a point of a member has acted.
async fn acted(cluster: &Cluster, member: usize, point: Point) -> u64 {
    let answer = http::get(&door(cluster, member), &format!("/{}/count", point.name())).await.expect("an answer");
    answer.body.trim().parse().unwrap_or_else(|e| panic!("{answer:?}: {e}"))
}

/// Waits until what is set at a point of a member has acted.
async fn hit(cluster: &Cluster, member: usize, point: Point) {
    until(READY_WITHIN, point.name(), async || match acted(cluster, member, point).await {
        0 => Err("not yet"),
        _ => Ok(()),
    })
    .await;
}

/// Whether a member has begun with a request. A busy one may refuse it, and then it never comes to the point; one that ends at the point gives no answer.
fn taken<T>(answer: Result<T, Status>) -> Result<(), Status> {
    match answer {
        Err(refused) if matches!(refused.code(), Code::ResourceExhausted | Code::DeadlineExceeded) => Err(refused),
        _ => Ok(()),
    }
}

/// Has a member do what leads to the point. What becomes of the request does not count: the member may end first.
async fn go(cluster: &Cluster, member: usize, way: Way) {
    let client = &cluster.client;
    match way {
        Way::Compacting => {
            until(READY_WITHIN, "a compaction", async || {
                let revision = client.revision().await?;
                let compact = pb::CompactionRequest { revision, physical: false };
                taken(client.kv(member).compact(compact).await)
            })
            .await
        }
        Way::Defragmenting => {
            until(READY_WITHIN, "a defragmentation", async || {
                taken(client.maintenance(member).defragment(pb::DefragmentRequest {}).await)
            })
            .await
        }
        Way::Watching => {
            let mut watching = Watching::open(client, member);
            watching.create(watch("w", 1)).await;
            drop(watching.next_or().await);
        }
        Way::Renewing => {
            let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
            // There already, the second time.
            drop(client.lease(member).lease_grant(grant).await);
            let (requests, renewals) = tokio::sync::mpsc::channel(1);
            requests.send(pb::LeaseKeepAliveRequest { id: 7 }).await.expect("room for one");
            let renewals = tokio_stream::wrappers::ReceiverStream::new(renewals);
            if let Ok(answers) = client.lease(member).lease_keep_alive(renewals).await {
                drop(answers.into_inner().message().await);
            }
        }
        _ => {}
    }
}

/// Ends one member at one point while a writer writes, and brings it back.
async fn end_at(cluster: &mut Cluster, point: Point, way: Way, turn: usize) {
    let leader = cluster.leader().await;
    let victim = match way {
        Way::Leading | Way::Renewing => leader,
        Way::Following => (leader + 1) % cluster.len(),
        _ => turn % cluster.len(),
    };
    set(cluster, victim, point, "panic").await;
    go(cluster, victim, way).await;
    let ended = cluster.gone(victim).await;
    assert_eq!(ended.code(), Some(PANICKED), "{point:?} on member {victim}");
    cluster.restart(victim).await;
}

#[test]
fn a_member_that_ends_at_any_point_comes_back_and_nothing_is_lost() {
    let Some(program) = program("a_member_that_ends_at_any_point…") else { return };
    turn(Duration::from_secs(300), async {
        let mut cluster = start(&program, 3).await;
        let writers = Writers::start(&cluster.client, "w", 3);
        let running = [Way::Writing, Way::Leading, Way::Following, Way::Compacting];
        let asked = [Way::Defragmenting, Way::Watching, Way::Renewing];
        let ways = WAYS.iter().filter(|(_, way)| running.contains(way) || asked.contains(way));
        for (turn, (point, way)) in ways.enumerate() {
            end_at(&mut cluster, *point, *way, turn).await;
        }
        assert!(writers.stop_and_check(&cluster.client).await > 100);
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn a_single_member_that_ends_at_any_point_comes_back_and_nothing_is_lost() {
    let Some(program) = program("a_single_member_that_ends_at_any_point…") else { return };
    turn(Duration::from_secs(300), async {
        let mut cluster = start(&program, 1).await;
        let writers = Writers::start(&cluster.client, "w", 3);
        for (point, way) in
            WAYS.iter().filter(|(_, way)| [Way::Writing, Way::Compacting, Way::Defragmenting].contains(way))
        {
            end_at(&mut cluster, *point, *way, 0).await;
        }
        assert!(writers.stop_and_check(&cluster.client).await > 100);
    });
}

#[test]
fn a_first_start_that_ends_half_way_is_made_good_by_the_second() {
    let Some(program) = program("a_first_start_that_ends_half_way…") else { return };
    turn(Duration::from_secs(120), async {
        let early = [Point::RaftBeforeSave, Point::WalBeforeSync, Point::WalAfterSync, Point::BeforeCommit];
        let first = WAYS.iter().filter(|(_, way)| *way == Way::FirstStart).map(|(point, _)| *point);
        for point in first.chain(early) {
            let scratch = Scratch::new();
            let mut spec = Spec::new("m0", scratch.path());
            spec.env = vec![(AT_START, format!("{}=panic", point.name()))];
            let client = Client::plain(vec![spec.client_url.clone()]);
            let mut cluster = Cluster::prepared(&program, vec![spec], client, scratch);
            cluster.launch(0);
            assert_eq!(cluster.gone(0).await.code(), Some(PANICKED), "{point:?}");
            cluster.spec_mut(0).env.clear();
            cluster.restart(0).await;
            cluster.client.put(0, "k", "v").await.expect("a put");
        }
    });
}

#[test]
fn a_snapshot_between_members_survives_an_end_at_each_of_its_points() {
    let Some(program) = program("a_snapshot_between_members_survives…") else { return };
    turn(Duration::from_secs(300), async {
        let mut cluster = start(&program, 3).await;
        // So that an image takes many pieces, and a store many batches.
        for number in 0..100 {
            cluster.client.put(0, &format!("bulk/{number}"), &"b".repeat(40_000)).await.expect("a put");
        }
        let mut round = 0;
        for (point, way) in WAYS.iter().filter(|(_, way)| [Way::Receiving, Way::Sending].contains(way)) {
            let leader = cluster.leader().await;
            let follower = (leader + 1) % cluster.len();
            let ends = if *way == Way::Sending { leader } else { follower };
            if *way == Way::Sending {
                set(&cluster, leader, *point, "panic").await;
            } else {
                cluster.spec_mut(follower).env.push((AT_START, format!("{}=panic", point.name())));
            }
            // A log is released behind what is written: until it is, a follower gets entries and no snapshot.
            let mut ended = None;
            for _ in 0..5 {
                round += 1;
                cluster.kill(follower);
                for number in 0..150 {
                    let key = format!("r{round}/{number}");
                    until(READY_WITHIN, "a put", async || cluster.client.put(leader, &key, "v").await).await;
                }
                cluster.launch(follower);
                ended = cluster.process(ends).ends(Duration::from_secs(10)).await;
                if ended.is_some() {
                    break;
                }
            }
            assert_eq!(ended.and_then(|status| status.code()), Some(PANICKED), "{point:?}");
            cluster.gone(ends).await;
            cluster.spec_mut(follower).env.truncate(1);
            cluster.launch(ends);
            cluster.ready(ends).await;
            cluster.ready(follower).await;
            cluster.assert_equal_hashes().await;
        }
    });
}

#[test]
fn a_defragmentation_that_fails_leaves_the_store_as_it_was() {
    let Some(program) = program("a_defragmentation_that_fails…") else { return };
    turn(Duration::from_secs(60), async {
        let cluster = start(&program, 1).await;
        cluster.client.put(0, "k", "v").await.expect("a put");
        set(&cluster, 0, Point::DefragOpenFileError, "1*return(\"no space left on device\")").await;
        let defragment = async || cluster.client.maintenance(0).defragment(pb::DefragmentRequest {}).await;
        let refusal = defragment().await.expect_err("it fails");
        assert_eq!(refusal.code(), Code::Internal);
        assert!(refusal.message().contains("no space left on device"), "{refusal:?}");
        assert_eq!(cluster.client.get(0, "k").await.expect("a read").as_deref(), Some("v"));
        cluster.client.put(0, "k", "w").await.expect("writes go on");
        defragment().await.expect("the next one works");
        let count = http::get(&door(&cluster, 0), "/defragOpenFileError/count").await.expect("an answer");
        assert_eq!(count.body, "1");
        assert_eq!(cluster.client.get(0, "k").await.expect("a read").as_deref(), Some("w"));
    });
}

/// How long the first of two works on the store lasts, so that the other comes meanwhile.
const LASTS: &str = "1*sleep(6000)";

/// Two works on one store at once; etcd's bugs 20659 and 20650 were two owners of it.
#[test]
fn a_snapshot_and_a_defragmentation_at_once_take_turns_on_the_store() {
    if program("a_snapshot_and_a_defragmentation_at_once…").is_none() {
        return;
    }
    turn(Duration::from_secs(240), async {
        let (mut cluster, doors) = with_doors(3, &SMALL).await;
        let leader = cluster.leader().await;
        let follower = a_follower(&cluster).await;
        for (round, snapshot_first) in [(1, false), (2, true)] {
            misses(&cluster, &doors, leader, follower).await;
            set(&cluster, follower, Point::SnapAfterAccept, "print").await;
            set(&cluster, follower, Point::DefragBeforeCopy, if snapshot_first { "print" } else { LASTS }).await;
            set(&cluster, follower, Point::ApplyBeforeOpenSnapshot, if snapshot_first { LASTS } else { "print" }).await;
            let client = cluster.client.clone();
            let defragment =
                async move { client.maintenance(follower).defragment(pb::DefragmentRequest {}).await.map(drop) };
            let defragmented = if snapshot_first {
                set_apart(&cluster, &doors, follower, false).await;
                hit(&cluster, follower, Point::ApplyBeforeOpenSnapshot).await;
                let defragmented = tokio::spawn(defragment);
                assert_eq!(said(&mut cluster, follower, "applied snapshot"), 1, "the second is on its way");
                defragmented
            } else {
                let defragmented = tokio::spawn(defragment);
                hit(&cluster, follower, Point::DefragBeforeCopy).await;
                set_apart(&cluster, &doors, follower, false).await;
                hit(&cluster, follower, Point::SnapAfterAccept).await;
                assert!(!defragmented.is_finished(), "the snapshot came while the store was written afresh");
                defragmented
            };
            defragmented.await.expect("no panic").expect("the defragmentation succeeds");
            says(&mut cluster, follower, "applied snapshot", round).await;
            cluster.client.put(leader, "after", "both").await.expect("a put");
            cluster.assert_equal_hashes().await;
        }
        assert!(said(&mut cluster, follower, "finished defragmenting directory") >= 2);
        // What is on disk is that state, too: also if the member ends while one of the two waits for the other.
        misses(&cluster, &doors, leader, follower).await;
        set(&cluster, follower, Point::SnapAfterAccept, "print").await;
        set(&cluster, follower, Point::DefragBeforeCopy, LASTS).await;
        let client = cluster.client.clone();
        let defragmented =
            tokio::spawn(async move { client.maintenance(follower).defragment(pb::DefragmentRequest {}).await });
        hit(&cluster, follower, Point::DefragBeforeCopy).await;
        set_apart(&cluster, &doors, follower, false).await;
        hit(&cluster, follower, Point::SnapAfterAccept).await;
        assert!(!defragmented.is_finished());
        cluster.kill(follower);
        cluster.restart(follower).await;
        cluster.assert_equal_hashes().await;
        cluster.restart_all().await;
        cluster.assert_equal_hashes().await;
    });
}

#[test]
fn the_door_speaks_gofails_protocol() {
    let Some(program) = program("the_door_speaks_gofails_protocol") else { return };
    turn(Duration::from_secs(60), async {
        let cluster = start(&program, 1).await;
        let door = door(&cluster, 0);
        let ask = async |method: &str, path: &str, body: &str| {
            let answer = http::send(&door, method, path, body).await.expect("an answer");
            (answer.status.rsplit_once("1 ").map(|it| it.1.to_owned()).unwrap_or_default(), answer.body)
        };
        let all = ask("GET", "/", "").await.1;
        assert_eq!(all.lines().count(), Point::ALL.len());
        assert!(all.contains("walBeforeSync=\n") && all.lines().is_sorted(), "{all}");
        assert_eq!(ask("PUT", "/walBeforeSync", "sleep(1)").await.0, "204 No Content");
        assert_eq!(ask("GET", "/walBeforeSync", "").await.1, "sleep(1)\n");
        cluster.client.kv(0).put(put("k", "v")).await.expect("a put");
        assert_ne!(ask("GET", "/walBeforeSync/count", "").await.1, "0");
        assert_eq!(ask("DELETE", "/walBeforeSync", "").await.0, "204 No Content");
        assert_eq!(ask("GET", "/walBeforeSync", "").await.0, "404 Not Found");
        assert_eq!(ask("PUT", "/failpoints", "walBeforeSync=off;walAfterSync=off").await.0, "204 No Content");
        assert!(ask("GET", "/", "").await.1.contains("walAfterSync=off\nwalBeforeSync=off\n"));
        assert_eq!(
            ask("PUT", "/noSuchPoint", "off").await.1,
            "fail to set failpoint: failpoint: failpoint does not exist\n"
        );
        assert_eq!(
            ask("PUT", "/walBeforeSync", "jump").await.1,
            "fail to set failpoint: failpoint: could not parse terms\n"
        );
    });
}

#[test]
fn a_trace_tells_which_part_of_a_request_took_long() {
    if !are_there() {
        return;
    }
    turn(Duration::from_secs(120), async {
        let (cluster, _) = with_doors(1, &[]).await;
        set(&cluster, 0, Point::WalBeforeSync, "sleep(400)").await;
        until(READY_WITHIN, "the lines", async || {
            // A read that comes while the put is being synced waits for the same thread.
            let (put, get) = tokio::join!(cluster.client.put(0, "slow", "v"), cluster.client.get(0, "slow"));
            put.and(get.map(drop)).map_err(|e| e.to_string())?;
            let log = cluster.log(0);
            let told = |operation: &str, parts: &[&str]| {
                let lines: Vec<serde_json::Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
                lines.into_iter().any(|line| {
                    let is_it =
                        line["msg"].as_str().is_some_and(|msg| msg.starts_with("trace[") && msg.ends_with(operation));
                    is_it && line["steps"].is_array() && parts.iter().all(|part| line.to_string().contains(part))
                })
            };
            let put =
                told("] put", &["{key:slow; req_size:9; response_revision:", "'process raft request'  (duration: "]);
            let step = "'agreement among raft nodes before linearized reading'  (duration: ";
            let range = told("] range", &["{range_begin:slow; range_end:; response_count:", step]);
            if put && range { Ok(()) } else { Err(format!("put {put}, range {range}")) }
        })
        .await;
    });
}
