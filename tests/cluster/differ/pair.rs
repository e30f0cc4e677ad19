//! The two servers side by side: one step to both, and what differs.

use super::answer::Field;
use super::answer::differences;
use super::rows::Rows;
use super::server::Server;
use super::step::Op;
use super::step::Step;
use super::step::Watching;
use super::stream::settle;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::until;
use crate::http;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// After so many steps the watches are compared, if nothing else asked for it.
const SETTLE_EVERY: u32 = 8;
/// A watcher that starts in the past is picked up by a loop of 100 ms in etcd.
const CATCH_UP: Duration = Duration::from_millis(230);

/// A difference that no row explains.
#[derive(Clone, Debug)]
pub(super) struct Unexplained {
    pub(super) step: Step,
    pub(super) field: Field,
}

impl Unexplained {
    /// What it has in common with others of its kind: the call and the place; of refusals the texts, too.
    pub(super) fn kind(&self) -> String {
        let Unexplained { step, field: Field { path, ours, theirs } } = self;
        let texts = if path.ends_with("error") { format!("{ours} {theirs}") } else { String::new() };
        format!("{} {path} {texts}", step.rpc())
    }
}

impl fmt::Display for Unexplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unexplained { step, field } = self;
        write!(f, "{step:?}\n  {}\n    ours:   {}\n    theirs: {}", field.path, field.ours, field.theirs)
    }
}

pub(super) struct Pair {
    ours: Server,
    theirs: Server,
    _clusters: [Cluster; 2],
    steps: u32,
    pub(super) unexplained: Vec<Unexplained>,
    /// Stream and watch: those that were told an end nobody had asked for.
    pub(super) ended: Vec<(u8, i64)>,
}

/// A leader writes the cluster's version a little after it was elected; until then a downgrade is answered otherwise.
async fn has_a_version(cluster: &Cluster) {
    let address = cluster.spec(0).client_url.trim_start_matches("http://").to_owned();
    until(READY_WITHIN, "the cluster has a version", async || {
        let told = http::get(&address, "/version").await.map_err(|e| e.to_string())?.body;
        if told.contains("not_decided") { Err(told) } else { Ok(()) }
    })
    .await;
}

impl Pair {
    pub(super) async fn start(ours: &Path, theirs: &Path) -> Pair {
        // Each refusal is a line otherwise.
        let flags = ["--log-level", "error"];
        let clusters = [Cluster::start_with(ours, 1, &flags).await, Cluster::start_with(theirs, 1, &flags).await];
        for cluster in &clusters {
            has_a_version(cluster).await;
        }
        let [ours, theirs] = [&clusters[0], &clusters[1]].map(|cluster| cluster.spec(0).client_url.clone());
        let (ours, theirs) = (Server::connect(&ours).await, Server::connect(&theirs).await);
        Pair { ours, theirs, _clusters: clusters, steps: 0, unexplained: Vec::new(), ended: Vec::new() }
    }

    /// What etcd it is.
    pub(super) fn release(&self) -> &str {
        &self.theirs.release
    }

    /// Gives both a step and returns our answer.
    pub(super) async fn give(&mut self, step: &Step, rows: &mut Rows) -> String {
        let settled = matches!(step.op, Op::Compact(_) | Op::LeaseExpiry { .. })
            || matches!(
                step.op,
                Op::Watch(
                    Watching::Open(_)
                        | Watching::Drop(_)
                        | Watching::Cancel { .. }
                        | Watching::HalfClose(_)
                        | Watching::Progress { .. }
                )
            );
        self.steps += 1;
        if settled || self.steps.is_multiple_of(SETTLE_EVERY) {
            self.settle(rows).await;
        }
        let (ours, theirs) = tokio::join!(self.ours.give(step), self.theirs.give(step));
        self.compare(step, &ours, &theirs, rows);
        if let Op::Watch(Watching::Create { stream, past: true, .. }) = step.op {
            settle(&self.ours.streams[&stream], &self.theirs.streams[&stream], CATCH_UP).await;
        }
        ours
    }

    fn compare(&mut self, step: &Step, ours: &str, theirs: &str, rows: &mut Rows) {
        for field in differences(ours, theirs) {
            if !rows.explain(step, &field) {
                self.unexplained.push(Unexplained { step: step.clone(), field });
            }
        }
    }

    /// Compares what has come in on the watches.
    pub(super) async fn settle(&mut self, rows: &mut Rows) {
        let numbers: Vec<u8> = self.ours.streams.keys().copied().collect();
        for number in numbers {
            let (ours, theirs) = (&self.ours.streams[&number], &self.theirs.streams[&number]);
            settle(ours, theirs, Duration::ZERO).await;
            let counts = (ours.counts().await, theirs.counts().await);
            let mut watches: Vec<i64> = counts.0.keys().chain(counts.1.keys()).copied().collect();
            watches.sort_unstable();
            watches.dedup();
            for watch in watches {
                let count = counts.0.get(&watch).max(counts.1.get(&watch)).copied().unwrap_or(0);
                let (ours, theirs) = (&self.ours.streams[&number], &self.theirs.streams[&number]);
                let (ours, theirs) = (ours.take(watch, count).await, theirs.take(watch, count).await);
                if ours.last().is_some_and(|text| text.contains("canceled: true")) {
                    self.ended.push((number, watch));
                }
                self.compare_log(number, watch, &ours, &theirs, rows);
            }
        }
    }

    fn compare_log(&mut self, stream: u8, watch: i64, ours: &[String], theirs: &[String], rows: &mut Rows) {
        if ours == theirs {
            return;
        }
        // Named for the table: not what was asked, but what came.
        let step = Step::new(Op::Watch(Watching::Cancel { stream, id: watch, known: false }));
        let empty = String::new();
        for number in 0..ours.len().max(theirs.len()) {
            let (ours, theirs) = (ours.get(number).unwrap_or(&empty), theirs.get(number).unwrap_or(&empty));
            self.compare(&step, ours, theirs, rows);
        }
    }
}
