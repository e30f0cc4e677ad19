//! Leases over real gRPC on real members: what is granted, who is asked, when keys go and when they must not.

#![expect(clippy::disallowed_methods, reason = "leases are about time")]

use crate::checker::Watching;
use crate::checker::revision;
use crate::checker::watch;
use crate::client::Client;
use crate::client::answer;
use crate::client::put;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::alone;
use crate::harness::is_ours;
use crate::harness::until;
use crate::http;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::event::EventType;
use futures::StreamExt;
use std::time::Duration;
use std::time::Instant;
use tonic::Code;
use tonic::Status;

const LIMIT: Duration = Duration::from_secs(180);

async fn grant(client: &Client, member: usize, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
    answer(READY_WITHIN, client.lease(member).lease_grant(pb::LeaseGrantRequest { ttl, id })).await
}

async fn revoke(client: &Client, member: usize, id: i64) -> Result<i64, Status> {
    let answer = answer(READY_WITHIN, client.lease(member).lease_revoke(pb::LeaseRevokeRequest { id })).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Time left, time granted, keys in order.
async fn ask(client: &Client, member: usize, id: i64) -> Result<(i64, i64, Vec<String>), Status> {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    let answer = answer(READY_WITHIN, client.lease(member).lease_time_to_live(request)).await?;
    let mut keys: Vec<String> = answer.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    keys.sort();
    assert_eq!(answer.id, id);
    Ok((answer.ttl, answer.granted_ttl, keys))
}

/// The answers to one renewal of each of these leases, on one stream.
async fn renew(client: &Client, member: usize, ids: &[i64]) -> Result<Vec<i64>, Status> {
    let requests: Vec<_> = ids.iter().map(|id| pb::LeaseKeepAliveRequest { id: *id }).collect();
    let mut lease = client.lease(member);
    let mut answers = answer(READY_WITHIN, lease.lease_keep_alive(tokio_stream::iter(requests))).await?;
    let mut ttls = Vec::new();
    for id in ids {
        let answer = answers.message().await?.expect("an answer to each request");
        assert_eq!(answer.id, *id);
        ttls.push(answer.ttl);
    }
    assert_eq!(answers.message().await?, None, "the stream ends when the client has closed its side");
    Ok(ttls)
}

async fn put_on(client: &Client, key: &str, lease: i64) -> i64 {
    let put = pb::PutRequest { lease, ..put(key, "v") };
    let answer = answer(READY_WITHIN, client.kv(0).put(put)).await.expect("a put");
    answer.header.map_or(0, |header| header.revision)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("refused");
    (status.code(), status.message().to_owned())
}

#[test]
fn leases_are_granted_asked_for_listed_and_revoked_through_any_member() {
    alone(LIMIT, async {
        let cluster = Cluster::start(3).await;
        let client = &cluster.client;
        let own = grant(client, 0, 0, 60).await.expect("a lease").id;
        assert!(own > 0);
        for (id, asked, given) in [(77, 1, 2), (-5, 0, 2), (78, -3, 2), (79, 9_000_000_000, 9_000_000_000)] {
            let lease = grant(client, 1, id, asked).await.expect("a lease");
            assert_eq!((lease.id, lease.ttl, lease.error.as_str()), (id, given, ""));
        }
        let exists = (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned());
        assert_eq!(refusal(grant(client, 2, own, 60).await), exists);
        let too_large = (Code::OutOfRange, "etcdserver: too large lease TTL".to_owned());
        assert_eq!(refusal(grant(client, 2, own, 9_000_000_001).await), too_large, "before it exists");
        for key in ["k3", "k1", "k2", "k4"] {
            put_on(client, key, own).await;
        }
        put_on(client, "k4", 0).await;
        put_on(client, "k2", 79).await;
        for member in 0..3 {
            let (left, granted, keys) = ask(client, member, own).await.expect("it lives");
            assert!((50..=60).contains(&left) && granted == 60 && keys == ["k1", "k3"], "{left} {granted} {keys:?}");
            assert_eq!(ask(client, member, 4711).await.expect("no error"), (-1, 0, vec![]));
            assert_eq!(renew(client, member, &[own, 4711, own]).await.expect("a stream"), [60, 0, 60]);
        }
        for (id, ttl) in [(1000, 300), (1001, 100), (1002, 200)] {
            grant(client, 0, id, ttl).await.expect("a lease");
        }
        let leader = cluster.leader().await;
        let listed = until(READY_WITHIN, "the leader has them all", async || {
            let listed = answer(READY_WITHIN, client.lease(leader).lease_leases(pb::LeaseLeasesRequest {})).await?;
            let ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
            if ids.len() >= 5 && ids.contains(&1002) { Ok(ids) } else { Err(Status::not_found(format!("{ids:?}"))) }
        })
        .await;
        let order: Vec<i64> = listed.into_iter().filter(|id| [own, 79, 1000, 1001, 1002].contains(id)).collect();
        assert_eq!(order, [own, 1001, 1002, 1000, 79], "by the time that is left");

        let mut watching = Watching::open(client, 0);
        watching.created(watch("k", 0)).await;
        let at = revoke(client, 1, own).await.expect("it lives");
        let gone = watching.next().await.events;
        let told: Vec<_> = gone
            .iter()
            .map(|event| (revision(event), event.r#type, &event.kv.as_ref().expect("a key").key[..]))
            .collect();
        let delete = EventType::Delete as i32;
        assert_eq!(told, [(at, delete, &b"k1"[..]), (at, delete, b"k3")], "one revision, in the order of keys");
        watching.assert_told_all(client, 0, 1, at).await;
        let not_found = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
        assert_eq!(refusal(revoke(client, 2, own).await), not_found);
        let put = pb::PutRequest { lease: own, ..put("k9", "") };
        assert_eq!(refusal(answer(READY_WITHIN, client.kv(2).put(put)).await), not_found);
        assert_eq!(revoke(client, 1, 1000).await.expect("it lives"), at, "without keys no revision");
    });
}

#[test]
fn a_lease_that_nobody_renews_takes_its_keys_and_one_that_is_renewed_keeps_them() {
    alone(LIMIT, async {
        let cluster = Cluster::start(3).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        watching.created(watch("k", 0)).await;
        for id in [1, 2] {
            grant(client, 0, id, 2).await.expect("a lease");
        }
        let granted = Instant::now();
        for key in ["k2", "k1", "k3"] {
            put_on(client, key, 1).await;
        }
        let kept = put_on(client, "kept", 2).await;
        watching.until_told(0, kept).await;
        let renewals = {
            let client = client.clone();
            tokio::spawn(async move {
                for member in (0..3).cycle() {
                    assert_eq!(renew(&client, member, &[2]).await.expect("a stream"), [2]);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            })
        };
        let gone = watching.next().await.events;
        let lived = granted.elapsed();
        assert!(lived >= Duration::from_secs(2), "only {lived:?}");
        assert!(gone.len() == 3 && gone.iter().all(|event| revision(event) == kept + 1), "{gone:?}");
        assert_eq!(ask(client, 1, 1).await.expect("no error").0, -1);
        assert_eq!(renew(client, 1, &[1]).await.expect("a stream"), [0]);
        // Longer than it would live without renewals: the time itself is what is tried.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(client.get(0, "kept").await.expect("served").as_deref(), Some("v"));
        renewals.abort();
        let at = client.revision().await.expect("served");
        watching.assert_told_all(client, 0, 1, at).await;
        assert_eq!(at, kept + 1);
    });
}

/// reliability 3, lease: a leader that slept through its successor's election must not revoke what the successor has renewed, nor renew what it
/// has revoked.
#[test]
fn a_leader_that_wakes_up_overthrown_harms_no_lease() {
    alone(LIMIT, async {
        let cluster = &mut Cluster::start(3).await;
        let client = cluster.client.clone();
        let old = cluster.leader().await;
        let other = (old + 1) % 3;
        for (id, ttl) in [(1, 9), (2, 2)] {
            grant(&client, old, id, ttl).await.expect("a lease");
        }
        for (key, lease) in [("renewed", 1), ("expired", 2)] {
            let put = pb::PutRequest { lease, ..put(key, "v") };
            answer(READY_WITHIN, client.kv(old).put(put)).await.expect("a put");
        }
        cluster.pause(old);
        let paused = Instant::now();
        // Renewed by the successor, for longer than the old leader's clock allows; the other lease runs out.
        let renew_soon = async || {
            let renewed = tokio::time::timeout(Duration::from_secs(2), renew(&client, other, &[1])).await;
            renewed.unwrap_or_else(|_| Err(Status::unavailable("still asking the old leader")))
        };
        until(READY_WITHIN, "the other lease has run out, and the old leader's time, too", async || {
            let renewed = renew_soon().await?;
            assert_eq!(renewed, [9]);
            let range = pb::RangeRequest { key: "expired".into(), ..Default::default() };
            let left = answer(READY_WITHIN, client.kv(other).range(range)).await?.count;
            let is_over = left == 0 && paused.elapsed() > Duration::from_secs(11);
            if is_over { Ok(()) } else { Err(Status::unavailable("not yet")) }
        })
        .await;
        renew_soon().await.expect("a leader");
        cluster.resume(old);
        // At once, before it can have heard of its successor.
        if let Ok(ttls) = renew(&client, old, &[2]).await {
            assert_eq!(ttls, [0], "a lease that is gone was renewed");
        }
        for _ in 0..20 {
            renew(&client, other, &[1]).await.expect("a leader");
            assert_eq!(client.get(other, "renewed").await.expect("served").as_deref(), Some("v"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        cluster.assert_equal_hashes().await;
    });
}

/// reliability 3, lease: a new leader gives every lease its full time again, and never less than was promised.
#[test]
fn a_new_leader_gives_leases_their_time_again() {
    alone(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client.clone();
        let old = cluster.leader().await;
        let other = (old + 1) % 3;
        grant(&client, other, 1, 30).await.expect("a lease");
        let put = pb::PutRequest { lease: 1, ..put("k", "v") };
        answer(READY_WITHIN, client.kv(other).put(put)).await.expect("a put");
        until(READY_WITHIN, "some time has passed", async || {
            let (left, ..) = ask(&client, other, 1).await?;
            if left <= 26 { Ok(()) } else { Err(Status::unavailable(format!("{left} s left"))) }
        })
        .await;
        cluster.kill(old);
        until(READY_WITHIN, "a new leader has renewed it", async || {
            let (left, granted, keys) = ask(&client, other, 1).await?;
            assert_eq!((granted, keys), (30, vec!["k".to_owned()]));
            if left >= 27 { Ok(()) } else { Err(Status::unavailable(format!("{left} s left"))) }
        })
        .await;
        cluster.restart(old).await;
    });
}

/// Granted all at once, then left alone: the server's CPU must not notice them.
#[test]
#[ignore = "measures, so it wants a machine to itself: .ci/long"]
fn a_hundred_thousand_leases_cost_next_to_nothing_while_nobody_asks() {
    alone(LIMIT * 2, async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let address = cluster.spec(0).client_url.trim_start_matches("http://").to_owned();
        let cpu = async || {
            let metrics = http::get(&address, "/metrics").await.expect("metrics").body;
            let line = metrics.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
            line.expect("the metric").parse::<f64>().expect("a number")
        };
        // The least of a few stretches: what else the machine does only adds to it.
        let idle = async || {
            let mut least = f64::INFINITY;
            for _ in 0..4 {
                let (before, began) = (cpu().await, Instant::now());
                tokio::time::sleep(Duration::from_secs(4)).await;
                least = least.min((cpu().await - before) / began.elapsed().as_secs_f64() * 100.0);
            }
            least
        };
        let without = idle().await;
        let grants = futures::stream::iter(1..=100_000_i64).map(|id| grant(client, 0, id, 3600));
        let granted = grants.buffer_unordered(128).filter(|answer| std::future::ready(answer.is_ok())).count().await;
        assert_eq!(granted, 100_000);
        // What was just written still has to reach the store; no answer tells when it has, and too short a rest only raises the figure.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let with = idle().await;
        eprintln!("100,000 leases, idle: {with:.2} % of one CPU; without leases {without:.2} %");
        assert!(with <= without + 1.0, "{with:.2} % with leases, {without:.2} % without");
    });
}
