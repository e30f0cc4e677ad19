//! What happens to a cluster beside a plain load: a follower that is stopped, more load than it can take, a leader that is killed.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use super::connection;
use super::load;
use super::load::Outcome;
use super::load::Plan;
use super::options::Options;
use super::report;
use super::servers::Program;
use super::servers::Servers;
use super::slot::refused;
use super::workload::Mix;
use super::workload::Workload;
use crate::proto::etcdserverpb as pb;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinSet;

/// Loads that saturate a server on any machine that this was tried on; the better one is its peak.
const SATURATING: [(usize, usize); 2] = [(10, 10), (100, 10)];
/// How many times as many connections, and requests a second, overload is.
const OVERLOAD: usize = 4;
/// How often the leader is killed in one round.
const KILLS: usize = 3;
/// While there is no leader, a put is sent to each member that is left, so often: this is how exact the answer is.
const TRY_EVERY: Duration = Duration::from_millis(5);
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

fn puts(connections: usize, in_flight: usize) -> Workload {
    Workload { mix: Mix::Put, connections, in_flight }
}

/// A load on the leader while a follower neither answers nor hangs up.
pub(super) async fn one_stopped(servers: &Servers, workload: &str, options: &Options) -> Result<Value, String> {
    let workload: Workload = workload.parse()?;
    let leader = connection::leader(servers.endpoints()).await?;
    let follower = servers.endpoints().iter().position(|endpoint| *endpoint != leader).unwrap_or_default();
    let plan = Plan {
        workload: workload.clone(),
        endpoints: vec![leader],
        seconds: options.seconds,
        rate: None,
        pids: servers.pids(),
    };
    servers.freeze(follower);
    let outcome = load::run(plan).await;
    servers.thaw(follower);
    Ok(report::json(&workload, &outcome?))
}

/// Finds the most that the cluster does, then offers four times as much: what is still answered well, and whether the leader is lost.
pub(super) async fn overload(servers: &mut Servers, program: &Program, options: &Options) -> Result<Value, String> {
    let mut peak = 0.0_f64;
    for (connections, in_flight) in SATURATING {
        let outcome = puts_on(servers, puts(connections, in_flight), None, options).await?;
        peak = peak.max(per_second(&outcome));
    }
    let terms_before = term(servers).await?;
    let [_, (connections, in_flight)] = SATURATING;
    let workload = puts(OVERLOAD * connections, in_flight);
    let rate = (peak * OVERLOAD as f64).clamp(1.0, f64::from(u32::MAX)) as u32;
    let outcome = puts_on(servers, workload.clone(), Some(rate), options).await?;
    servers.ready(program).await?;
    let mut line = report::json(&workload, &outcome);
    line["peak_per_second"] = peak.into();
    line["goodput_per_second"] = per_second(&outcome).into();
    line["elections"] = term(servers).await?.saturating_sub(terms_before).into();
    Ok(line)
}

async fn puts_on(
    servers: &Servers,
    workload: Workload,
    rate: Option<u32>,
    options: &Options,
) -> Result<Outcome, String> {
    let endpoints = load::targets(&workload, servers.endpoints()).await?;
    load::run(Plan { workload, endpoints, seconds: options.seconds, rate, pids: servers.pids() }).await
}

fn per_second(outcome: &Outcome) -> f64 {
    outcome.latencies.count() as f64 / outcome.seconds.as_secs_f64()
}

/// The newest term that a member knows: one more for each election.
async fn term(servers: &Servers) -> Result<u64, String> {
    let mut newest = 0;
    for endpoint in servers.endpoints() {
        newest = newest.max(connection::status(endpoint).await?.raft_term);
    }
    Ok(newest)
}

/// Kills the leader, some times: how long until a put is answered by one of the others, whose connections were there before.
pub(super) async fn failover(servers: &mut Servers, program: &Program) -> Result<Vec<Value>, String> {
    let mut lines = Vec::new();
    for kill in 1..=KILLS {
        let endpoints = servers.endpoints().to_vec();
        let leader = connection::leader(&endpoints).await?;
        let number = endpoints.iter().position(|endpoint| *endpoint == leader).unwrap_or_default();
        let mut others = Vec::new();
        for endpoint in endpoints.iter().filter(|endpoint| **endpoint != leader) {
            let mut kv = connection::kv(endpoint).await?;
            kv.put(put()).await.map_err(refused)?;
            others.push(kv);
        }
        let killed = servers.kill(number)?;
        let took = first_put(others, killed).await?;
        lines.push(json!({ "kill": kill, "failover_ms": took.as_secs_f64() * 1e3 }));
        servers.revive(program, number)?;
        servers.ready(program).await?;
    }
    Ok(lines)
}

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "failover".into(), value: "again".into(), ..Default::default() }
}

/// Sends puts to all, again and again, without waiting for those that hang; returns how long after `since` the first was answered.
async fn first_put(
    others: Vec<pb::kv_client::KvClient<connection::Connection>>,
    since: Instant,
) -> Result<Duration, String> {
    let mut tries = JoinSet::new();
    let mut tick = tokio::time::interval(TRY_EVERY);
    let mut last = "no answer".to_owned();
    while since.elapsed() < ANSWERS_WITHIN {
        tokio::select! {
            _ = tick.tick() => {
                for kv in &others {
                    let mut kv = kv.clone();
                    tries.spawn(async move { kv.put(put()).await.map(|_| Instant::now()) });
                }
            }
            Some(Ok(answer)) = tries.join_next() => match answer {
                Ok(answered) => return Ok(answered.duration_since(since)),
                Err(refusal) => last = refused(refusal),
            },
        }
    }
    Err(format!("no put was answered within {} s of the kill: {last}", ANSWERS_WITHIN.as_secs()))
}
