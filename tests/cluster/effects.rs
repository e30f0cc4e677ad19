//! Effects of flags that one member alone does not show, or not without the lab's clock: who waits how long for an election, who disturbs whom, what is written down.

use crate::chaos;
use crate::chaos::with_doors;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::lab_clock::Doors;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::lab;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const LIMIT: Duration = Duration::from_secs(120);

/// A member alone, for which an election takes ten ticks of half a second, or up to nine more. It counts when this returns.
async fn counts(scratch: &Scratch, name: &str, more: &[&str]) -> Process {
    let mut spec = Spec::new(name, scratch.path());
    spec.more = ["--heartbeat-interval=500", "--election-timeout=5000"].map(str::to_owned).to_vec();
    spec.more.extend(more.iter().map(|&flag| flag.to_owned()));
    let flags = spec.flags(std::slice::from_ref(&spec));
    let member = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join(format!("{name}.log")));
    until(READY_WITHIN, "it counts", async || said_at(&member, "became follower").ok_or("not yet")).await;
    member
}

/// When a member said this, in seconds.
fn said_at(member: &Process, what: &str) -> Option<f64> {
    let log = member.log();
    let line: serde_json::Value = serde_json::from_str(log.lines().find(|line| line.contains(what))?).ok()?;
    let time = line["ts"].as_str()?.parse::<jiff::Timestamp>().ok()?;
    Some(time.as_millisecond() as f64 / 1000.0)
}

#[test]
fn a_lone_member_skips_most_of_its_first_election_time_out_unless_told_not_to() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        // It has ten ticks at most to go; the other, which begins after it, ten at least.
        let skips = counts(&scratch, "skips", &[]).await;
        let waits = counts(&scratch, "waits", &["--initial-election-tick-advance=false"]).await;
        let leads = async || said_at(&waits, "became leader").ok_or("not yet");
        let (later, began) = (until(READY_WITHIN, "it leads", leads).await, said_at(&waits, "became follower"));
        let sooner = said_at(&skips, "became leader").expect("long ago");
        assert!(sooner < later, "{sooner}, {later}");
        // The first tick may come at once.
        let waited = later - began.expect("it counted");
        assert!(waited >= 9.0 * 0.5, "after {waited} s");
    });
}

/// Cuts a member off from the others, or lets it come back.
async fn cut(door: &str, others: &[u64], cut: bool) {
    let rule = |&peer: &u64| lab::SetLink { peer, cut_out: cut, cut_in: cut, ..Default::default() };
    chaos::set_links(door, others.iter().map(rule)).await;
}

#[test]
fn who_asks_before_it_campaigns_keeps_its_term_while_it_is_cut_off() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        for asks_first in [true, false] {
            let flag = format!("--pre-vote={asks_first}");
            let (cluster, doors) = with_doors(3, &[&flag]).await;
            let leader = cluster.leader().await;
            let alone = (leader + 1) % 3;
            let others: Vec<usize> = (0..3).filter(|member| *member != alone).collect();
            let mut ids = Vec::new();
            for member in others {
                let status = cluster.client.status(member).await.expect("a status");
                ids.push(status.header.expect("a header").member_id);
            }
            let term = cluster.client.status(alone).await.expect("a status").raft_term;
            let before = cluster.log(alone).matches("is starting a new election at term").count();
            cut(&doors[alone], &ids, true).await;
            // By a clock of its own: an election takes ten ticks to nineteen, so it campaigns three times.
            let mut clock = Doors::open(&doors[alone..=alone]).await;
            clock.clock(true, 1).await;
            for _ in 0..60 {
                clock.step(0, lab::step::What::Tick(true)).await.expect("held");
            }
            let now = cluster.client.status(alone).await.expect("a status").raft_term;
            match asks_first {
                true => assert_eq!(now, term),
                false => assert!(now >= term + 3, "{term}, then {now}"),
            }
            clock.clock(false, 1).await;
            // Each campaign is told, as etcd tells it.
            let said = cluster.log(alone).matches("is starting a new election at term").count() - before;
            assert!(said >= 3, "{said}: {}", cluster.log(alone));
            // It is heard again: who has not asked before unseats the leader by its term.
            cut(&doors[alone], &ids, false).await;
            let agree = async || {
                let mut terms = Vec::new();
                for member in 0..3 {
                    let status = cluster.client.status(member).await.map_err(|e| e.to_string())?;
                    terms.push((status.raft_term, status.leader));
                }
                let one = terms.iter().all(|told| *told == terms[0] && told.1 != 0);
                if one { Ok(terms[0].0) } else { Err(format!("{terms:?}")) }
            };
            let settled = until(READY_WITHIN, "one term", agree).await;
            assert_eq!(settled == term, asks_first, "{term}, then {settled}");
        }
    });
}

#[test]
fn a_store_that_would_shrink_enough_is_written_afresh_at_start() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let mut cluster = Cluster::start(1).await;
        let mut revision = 0;
        for _ in 0..40 {
            let written = cluster.client.put(0, "k", &"v".repeat(100_000)).await.expect("a put");
            revision = written.header.expect("a header").revision;
        }
        let compact = pb::CompactionRequest { revision, physical: true };
        cluster.client.kv(0).compact(compact).await.expect("compacted");
        // What is on its way to the disk counts as well, once it is there.
        until(READY_WITHIN, "three megabytes of nothing", async || {
            let status = cluster.client.status(0).await.map_err(|e| e.to_string())?;
            let free = status.db_size - status.db_size_in_use;
            if free > 3_000_000 { Ok(()) } else { Err(format!("{free} bytes")) }
        })
        .await;
        let before = cluster.client.status(0).await.expect("a status").db_size;
        for (megabytes, done, size) in [(1000, "Skipping defragmentation", before), (1, "finished defragmenting", 0)] {
            cluster.terminate(0).await;
            cluster.spec_mut(0).more = vec![format!("--bootstrap-defrag-threshold-megabytes={megabytes}")];
            cluster.restart(0).await;
            assert!(cluster.log(0).contains(done), "{megabytes}: {}", cluster.log(0));
            let now = cluster.client.status(0).await.expect("a status").db_size;
            match size {
                0 => assert!(now + 3_000_000 < before, "{before}, then {now}"),
                _ => assert!(now + 1_000_000 > before, "{before}, then {now}"),
            }
        }
        assert_eq!(cluster.client.get(0, "k").await.expect("a get").map(|value| value.len()), Some(100_000));
    });
}

/// How often the leader of a downgrade could not ask a member that is gone.
fn looks(cluster: &Cluster, leader: usize) -> usize {
    cluster.log(leader).matches("failed to get version").count()
}

#[test]
fn a_leader_looks_as_often_as_told_whether_a_downgrade_is_over() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let mut clusters = Vec::new();
        for time in ["1h", "100ms"] {
            let flag = format!("--downgrade-check-time={time}");
            let mut cluster = Cluster::start_with(&etcd_bin(), 3, &[&flag]).await;
            let leader = cluster.leader().await;
            let version = |action| pb::DowngradeRequest { action, version: "3.5.0".into() };
            let enabled = async || cluster.client.maintenance(leader).downgrade(version(1)).await;
            until(READY_WITHIN, "a downgrade has begun", enabled).await;
            cluster.kill((leader + 1) % 3);
            clusters.push((cluster, leader));
        }
        // The cluster's version is looked at every four seconds as well, in both.
        let often = &clusters[1];
        until(READY_WITHIN, "thirty looks", async || match looks(&often.0, often.1) {
            30.. => Ok(()),
            few => Err(few),
        })
        .await;
        let seldom = looks(&clusters[0].0, clusters[0].1);
        assert!(seldom < 20, "{seldom} looks in the same time");
    });
}

/// The seconds that a lease of a thousand has after a new start, if it ended after 310 by the lab's clock; and the log.
async fn left_of_a_thousand(more: &[&str]) -> (i64, String) {
    let flags: Vec<&str> =
        ["--heartbeat-interval=1000", "--election-timeout=5000"].iter().chain(more).copied().collect();
    let (mut cluster, doors) = with_doors(1, &flags).await;
    let granted = cluster.client.lease(0).lease_grant(pb::LeaseGrantRequest { ttl: 1000, id: 77 }).await;
    assert_eq!(granted.expect("granted").into_inner().ttl, 1000);
    cluster.agreed(0, "3.6.0").await;
    let mut doors = Doors::open(&doors).await;
    doors.clock(true, 1).await;
    let index = async |cluster: &Cluster| cluster.client.status(0).await.expect("a status").raft_applied_index;
    let before = index(&cluster).await;
    for _ in 0..310 {
        doors.step(0, lab::step::What::Tick(true)).await.expect("held");
    }
    if more.is_empty() {
        // Nothing comes that could be waited for; a put shows that the log goes on.
        cluster.client.put(0, "k", "v").await.expect("a put");
        assert_eq!(index(&cluster).await, before + 1);
    } else {
        until(READY_WITHIN, "a checkpoint", async || {
            if index(&cluster).await > before { Ok(()) } else { Err("nothing was written") }
        })
        .await;
    }
    cluster.kill(0);
    cluster.restart(0).await;
    let ask = pb::LeaseTimeToLiveRequest { id: 77, keys: false };
    let left = until(READY_WITHIN, "the lease", async || cluster.client.lease(0).lease_time_to_live(ask).await).await;
    (left.into_inner().ttl, cluster.log(0))
}

#[test]
fn what_is_left_of_a_lease_survives_a_restart_if_it_is_written_down() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let (checkpoint, persist) =
            ("--experimental-enable-lease-checkpoint", "--experimental-enable-lease-checkpoint-persist");
        let unsafe_alone = "Detected that checkpointing is enabled without persistence";
        let (left, log) = left_of_a_thousand(&[]).await;
        assert!(left > 950 && !log.contains(unsafe_alone), "{left}");
        let (left, log) = left_of_a_thousand(&[checkpoint]).await;
        assert!((600..=700).contains(&left) && log.contains(unsafe_alone), "{left}");
        let (left, log) = left_of_a_thousand(&[checkpoint, persist]).await;
        assert!((600..=700).contains(&left) && !log.contains(unsafe_alone), "{left}");
        // There is nothing to keep where nothing is written down.
        let scratch = Scratch::new();
        let mut spec = Spec::new("m0", scratch.path());
        spec.more.push(persist.to_owned());
        let flags = spec.flags(std::slice::from_ref(&spec));
        let mut alone = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join("log"));
        assert_eq!(alone.ended(ENDS_WITHIN).await.code(), Some(1));
        let needs = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
        assert!(alone.log().contains(needs), "{}", alone.log());
    });
}

/// The two messages of the gRPC health service have a string and a number.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

/// What the health service tells whoever listens while the member defragments so often, or until it has said that it does not serve.
async fn health_while_defragmenting(cluster: &Cluster, times: usize) -> Vec<i32> {
    let endpoint = Endpoint::from_shared(cluster.spec(0).client_url.clone()).expect("a URL");
    let mut grpc = Grpc::new(endpoint.connect().await.expect("served"));
    grpc.ready().await.expect("ready");
    let codec = ProstCodec::<Asked, Health>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
    let asked = tonic::Request::new(Asked { service: String::new() });
    let mut told = grpc.server_streaming(asked, path, codec).await.expect("a stream").into_inner();
    let mut heard = vec![told.message().await.expect("no error").expect("what holds now").status];
    for _ in 0..times {
        let mut maintenance = cluster.client.maintenance(0);
        let mut defragment = std::pin::pin!(maintenance.defragment(pb::DefragmentRequest {}));
        loop {
            tokio::select! {
                biased;
                news = told.message() => heard.push(news.expect("no error").expect("more").status),
                done = &mut defragment => {
                    done.expect("defragmented");
                    break;
                }
            }
        }
        if heard.last() == Some(&NOT_SERVING) {
            heard.push(told.message().await.expect("no error").expect("more").status);
        }
        if heard.contains(&NOT_SERVING) {
            break;
        }
    }
    heard
}

#[test]
fn a_member_that_defragments_says_that_it_does_not_serve_if_told_to() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        for (more, want) in [
            (&["--experimental-stop-grpc-service-on-defrag"][..], &[SERVING, NOT_SERVING, SERVING][..]),
            (&[], &[SERVING]),
        ] {
            let cluster = Cluster::start_with(&etcd_bin(), 1, more).await;
            for n in 0..20 {
                cluster.client.put(0, &format!("k{n}"), &"v".repeat(500_000)).await.expect("a put");
            }
            // The state may have changed twice before anybody hears of it, so there are many chances.
            assert_eq!(health_while_defragmenting(&cluster, 50).await, want, "{more:?}");
        }
    });
}
