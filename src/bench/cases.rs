//! What a table is made of: each case is a cluster of one program, and what happens to it.
//!
//! A case answers with figures by name, as JSON objects: one a run, or one for each thing that it measures. What the figures mean for
//! whom is for `table` to say.

use super::connection;
use super::idle;
use super::load;
use super::load::Plan;
use super::options::Options;
use super::report;
use super::report::is_theirs;
use super::scenes;
use super::servers::Program;
use super::servers::Servers;
use super::state;
use super::table;
use super::workload::Workload;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeSet;

/// One thing to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// How many members.
    nodes: usize,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// A load, as fast as it goes.
    Load(&'static str),
    /// At half the rate that the fastest etcd has reached in the case of this name.
    HalfRate(&'static str),
    /// While one of the followers is stopped (SIGSTOP).
    OneStopped(&'static str),
    Overload,
    Failover,
    Idle,
    State,
}

const fn load(name: &'static str, nodes: usize, workload: &'static str) -> Case {
    Case { name, nodes, what: What::Load(workload) }
}

/// All cases, in the order in which they are run.
pub(super) const CASES: [Case; 22] = [
    load("put-10x10", 1, "put-10x10"),
    load("put-10x10/3", 3, "put-10x10"),
    load("put-1x1", 1, "put-1x1"),
    load("put-1x1/3", 3, "put-1x1"),
    Case { name: "put-half-rate", nodes: 1, what: What::HalfRate("put-10x10") },
    load("range-ser", 1, "range-ser-10x10"),
    load("range-lin", 1, "range-lin-10x10"),
    load("range-lin/3", 3, "range-lin-10x10"),
    load("range1000-ser", 1, "range1000-ser-4x1"),
    load("range1000-lin", 1, "range1000-lin-4x1"),
    load("txn", 1, "txn-10x10"),
    load("delete", 1, "delete-10x10"),
    load("put-compact", 1, "put-compact-10x10"),
    load("watch", 1, "watch-10x100"),
    load("watchmany", 1, "watchmany-10x1000"),
    load("lease-grant", 1, "lease-grant-10x10"),
    load("lease-keepalive", 1, "lease-keepalive-10x10"),
    Case { name: "put-one-stopped/3", nodes: 3, what: What::OneStopped("put-10x10") },
    Case { name: "overload/3", nodes: 3, what: What::Overload },
    Case { name: "failover/3", nodes: 3, what: What::Failover },
    Case { name: "idle", nodes: 1, what: What::Idle },
    Case { name: "state", nodes: 1, what: What::State },
];

/// The case of this name.
pub(super) fn named(name: &str) -> Result<&'static Case, String> {
    CASES.iter().find(|case| case.name == name).ok_or_else(|| {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        format!("no such case: {name:?}; there are {}", names.join(", "))
    })
}

/// Who is measured, and when.
pub(super) struct Turn<'a> {
    pub(super) program: &'a Program,
    pub(super) options: &'a Options,
    pub(super) round: u32,
    /// What was measured before.
    pub(super) lines: &'a [Value],
}

impl Case {
    /// Runs it once on servers of its own.
    pub(super) async fn run(&self, turn: &Turn<'_>) -> Result<Vec<Value>, String> {
        let Turn { program, options, round, lines } = *turn;
        if self.what == What::State {
            let figures = state::figures_of(program, options, round).await?;
            let lines = figures.iter().map(|figure| figure.json(options.keys()));
            return Ok(lines.map(|line| joined(self.name, line, json!({ "nodes": self.nodes }))).collect());
        }
        let mut servers = Servers::start(program, self.nodes, &options.dir).await?;
        let version = connection::status(&servers.endpoints()[0]).await?.version;
        let lines = match &self.what {
            What::Load(workload) => vec![load_on(&servers, workload, None, options).await?],
            What::HalfRate(workload) => {
                let rate = half_rate(lines, workload)?;
                vec![load_on(&servers, workload, Some(rate), options).await?]
            }
            What::OneStopped(workload) => vec![scenes::one_stopped(&servers, workload, options).await?],
            What::Overload => vec![scenes::overload(&mut servers, program, options).await?],
            What::Failover => scenes::failover(&mut servers, program).await?,
            What::Idle => vec![idle::measure(&servers, options.keys()).await?],
            What::State => Vec::new(),
        };
        servers.stop().await?;
        let stamp = json!({ "server": program.label, "version": version, "round": round, "nodes": self.nodes });
        Ok(lines.into_iter().map(|line| joined(self.name, line, stamp.clone())).collect())
    }
}

/// A load where its requests belong.
async fn load_on(servers: &Servers, workload: &str, rate: Option<u32>, options: &Options) -> Result<Value, String> {
    let workload: Workload = workload.parse()?;
    let endpoints = load::targets(&workload, servers.endpoints()).await?;
    let plan = Plan { workload: workload.clone(), endpoints, seconds: options.seconds, rate, pids: servers.pids() };
    Ok(report::json(&workload, &load::run(plan).await?))
}

/// The case and who it was, beside what was found.
fn joined(case: &str, mut found: Value, stamp: Value) -> Value {
    found["case"] = case.into();
    if let (Some(found), Value::Object(stamp)) = (found.as_object_mut(), stamp) {
        found.extend(stamp);
    }
    found
}

/// Half of the most operations a second that an etcd has reached in this case; of ours, if there is none.
fn half_rate(lines: &[Value], case: &str) -> Result<u32, String> {
    let of = |theirs: bool| {
        let labels: BTreeSet<&str> = lines.iter().filter_map(|line| line["server"].as_str()).collect();
        let labels = labels.into_iter().filter(|label| is_theirs(label) == theirs);
        labels.filter_map(|label| table::median_of(lines, label, case, "operations_per_second")).reduce(f64::max)
    };
    let most = of(true).or_else(|| of(false));
    let most = most.ok_or_else(|| format!("half of which rate? {case} must be measured before: --cases {case},…"))?;
    Ok((most / 2.0).max(1.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_a_workload_and_every_name_is_there_once() {
        for case in &CASES {
            if let What::Load(workload) | What::OneStopped(workload) = case.what {
                assert!(workload.parse::<Workload>().is_ok(), "{workload}");
            }
            assert_eq!(CASES.iter().filter(|other| other.name == case.name).count(), 1, "{}", case.name);
            assert_eq!(named(case.name), Ok(case));
            assert_eq!(case.name.ends_with("/3"), case.nodes == 3, "{}", case.name);
        }
        assert!(named("put").expect_err("no case").contains("put-10x10, put-10x10/3"));
    }

    #[test]
    fn half_the_rate_is_that_of_the_fastest_etcd() {
        let line = |server: &str, rate: f64| json!({ "case": "put", "server": server, "operations_per_second": rate });
        let ours = [line("ours", 900.0)];
        assert_eq!(half_rate(&ours, "put"), Ok(450));
        let all = [line("ours", 900.0), line("theirs", 100.0), line("theirs", 300.0), line("theirs-2", 600.0)];
        assert_eq!(half_rate(&all, "put"), Ok(300));
        assert!(half_rate(&all, "get").is_err());
    }
}
