//! `check perf` and `check datascale`: whether a cluster is fast enough, and what memory a number of keys costs.
//!
//! Both write under a prefix that must be empty, and clear it afterwards, also after Ctrl-C. Source: etcd `ctlv3/command/check.go`, `pkg/report`.
#![expect(clippy::disallowed_methods, reason = "measures time, and writes random keys at a given rate")]

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::lock::Stop;
use super::session::Session;
use crate::client;
use crate::client::Client;
use crate::cmdline::progress::Bar;
use crate::golang;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::DefragmentRequest;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use bytes::Bytes;
use rand::RngCore as _;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How long cleaning up may take.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);
const RESIDENT: &str = "process_resident_memory_bytes";

/// Writes a second and clients of `check perf`; keys and clients of `check datascale`.
struct Load {
    perf: (u32, usize),
    datascale: (u64, usize),
}

/// The load that `--load` names.
fn load(session: &Session<'_>) -> Result<Load, Exit> {
    Ok(match session.args.text("load").unwrap_or("s") {
        "s" | "small" => Load { perf: (150, 50), datascale: (10_000, 50) },
        "m" | "medium" => Load { perf: (1_000, 200), datascale: (100_000, 200) },
        "l" | "large" => Load { perf: (8_000, 500), datascale: (1_000_000, 500) },
        "xl" | "xLarge" => Load { perf: (15_000, 1_000), datascale: (3_000_000, 1_000) },
        other => return Err(Exit::bad_feature(format!("unknown load option {other}"))),
    })
}

/// One write: how long it took, or why it failed.
type Measured = Result<Duration, String>;

/// What the writes came to.
#[derive(Debug, Default)]
struct Report {
    /// Seconds.
    times: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

impl Report {
    fn take(&mut self, measured: Measured) {
        match measured {
            Ok(took) => self.times.push(took.as_secs_f64()),
            Err(why) => *self.errors.entry(why).or_default() += 1,
        }
    }

    fn slowest(&self) -> f64 {
        self.times.iter().copied().fold(0.0, f64::max)
    }

    fn deviation(&self) -> f64 {
        let count = self.times.len().max(1) as f64;
        let average = self.times.iter().sum::<f64>() / count;
        (self.times.iter().map(|time| (time - average).powi(2)).sum::<f64>() / count).sqrt()
    }
}

/// `clients` writers that take keys from one queue. The queue's end ends them; then the receiver has no more to give.
fn writers(clients: Vec<Client>, value: usize) -> (async_queue::Sender, mpsc::Receiver<Measured>, JoinSet<()>) {
    let (keys, queue) = async_queue::new(clients.len());
    let (tell, told) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    for client in clients {
        let (queue, tell) = (queue.clone(), tell.clone());
        let value = Bytes::from(vec![0; value]);
        tasks.spawn(async move {
            while let Some(key) = queue.next().await {
                let began = Instant::now();
                let put = client.call(PutRequest { key, value: value.clone(), ..PutRequest::default() }).await;
                let measured = put.map(|_| began.elapsed()).map_err(|error| error.to_string());
                if tell.send(measured).await.is_err() {
                    return;
                }
            }
        });
    }
    (keys, told, tasks)
}

/// A queue from which several take.
mod async_queue {
    use bytes::Bytes;
    use std::sync::Arc;
    use tokio::sync::Mutex;
    use tokio::sync::mpsc;

    pub(super) type Sender = mpsc::Sender<Bytes>;

    #[derive(Clone)]
    pub(super) struct Queue(Arc<Mutex<mpsc::Receiver<Bytes>>>);

    pub(super) fn new(room: usize) -> (Sender, Queue) {
        let (send, receive) = mpsc::channel(room);
        (send, Queue(Arc::new(Mutex::new(receive))))
    }

    impl Queue {
        pub(super) async fn next(&self) -> Option<Bytes> {
            self.0.lock().await.recv().await
        }
    }
}

/// A key of `size` bytes below the prefix: random, then zeros.
fn key(prefix: &str, size: usize) -> Bytes {
    let mut key = vec![0; size];
    rand::rng().fill_bytes(&mut key[..8]);
    [prefix.as_bytes(), &key].concat().into()
}

fn below(prefix: &str) -> (Bytes, Bytes) {
    (prefix.to_owned().into(), client::prefix_end(prefix.as_bytes()))
}

/// Clients as the flags describe, each with a connection of its own; an error if there are keys below the prefix.
async fn prepare(session: &mut Session<'_>, prefix: &str, count: usize, hint: &str) -> Result<Vec<Client>, Exit> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(session.client().await?.patient(Session::NO_LIMIT));
    }
    let (key, range_end) = below(prefix);
    let there = clients[0].call(RangeRequest { key, range_end, limit: 1, ..RangeRequest::default() }).await;
    let there = there.map_err(|error| session.failed(exit::ERROR, &error))?;
    if there.kvs.is_empty() {
        return Ok(clients);
    }
    let quoted = golang::quote(prefix.as_bytes());
    Err(Exit::invalid_input(format!("prefix {quoted} has keys. Delete with {hint} first")))
}

/// Deletes what was written; compacts and defragments if that is wanted.
async fn clean_up(session: &mut Session<'_>, client: &Client, prefix: &str) -> Outcome {
    let client = client.patient(Some(CLEANUP_LIMIT));
    let (key, range_end) = below(prefix);
    let revision = match client.call(DeleteRangeRequest { key, range_end, prev_kv: false }).await {
        Ok(answer) => answer.header.unwrap_or_default().revision,
        Err(error) => {
            return session.line(format_args!("FAIL: Cleanup failed during key deletion: ERROR({error})"));
        }
    };
    if session.args.is_set("auto-compact") {
        session.line(format_args!("Compacting with revision {revision}"))?;
        let compacted = client.call(CompactionRequest { revision, physical: true }).await;
        compacted.map_err(|error| session.failed(exit::ERROR, &error))?;
        session.line(format_args!("Compacted with revision {revision}"))?;
    }
    if session.args.is_set("auto-defrag") {
        for endpoint in session.config().await?.endpoints {
            let name = golang::quote(endpoint.as_bytes());
            session.line(format_args!("Defragmenting {name}"))?;
            let client = session.client_of(&endpoint).await?.patient(Some(CLEANUP_LIMIT));
            let done = client.call(DefragmentRequest {}).await;
            done.map_err(|error| session.failed(exit::ERROR, &error))?;
            session.line(format_args!("Defragmented {name}"))?;
        }
    }
    Ok(())
}

/// `check perf`.
pub(super) async fn perf(session: &mut Session<'_>) -> Outcome {
    let Load { perf: (rate, count), .. } = load(session)?;
    let prefix = session.args.text("prefix").unwrap_or("/etcdctl-check-perf/").to_owned();
    let seconds = match session.args.number("duration") {
        given if given > 0 => given.unsigned_abs(),
        _ => 60,
    };
    let hint = format!("'etcdctl del --prefix {prefix}'");
    let clients = prepare(session, &prefix, count, &hint).await?;
    let first = clients[0].clone();
    let mut bar = Bar::new(seconds);
    let (keys, mut told, _tasks) = writers(clients, 1024);
    let mut stop = Stop::new()?;
    let (began, mut report, mut keys) = (Instant::now(), Report::default(), Some(keys));
    let mut beat = tokio::time::interval(Duration::from_secs(1) / rate);
    // What a busy moment kept back is made up for: the rate is that of the whole time.
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            measured = told.recv() => match measured {
                Some(measured) => report.take(measured),
                None => break,
            },
            () = stop.asked() => keys = None,
            _ = beat.tick(), if keys.is_some() => {
                let elapsed = began.elapsed();
                bar.show(elapsed.as_secs().min(seconds), session.err);
                if elapsed.as_secs() >= seconds {
                    keys = None;
                } else if let Some(keys) = &keys {
                    // All writers busy: the key is not written, and the throughput shows it.
                    let _ = keys.try_send(key(&prefix, 256));
                }
            }
        }
    }
    bar.end(session.err);
    let rps = report.times.len() as f64 / began.elapsed().as_secs_f64();
    clean_up(session, &first, &prefix).await?;
    verdict(session, &report, rps, f64::from(rate))
}

/// Says how it went, and whether that is good enough.
fn verdict(session: &mut Session<'_>, report: &Report, rps: f64, rate: f64) -> Outcome {
    let mut good = report.errors.is_empty();
    tell_errors(session, report)?;
    let writes = rps as i64 + 1;
    let fast = rps / rate > 0.9;
    match fast {
        true => session.line(format_args!("PASS: Throughput is {writes} writes/s"))?,
        false => session.line(format_args!("FAIL: Throughput too low: {writes} writes/s"))?,
    }
    let (slowest, deviation) = (report.slowest(), report.deviation());
    match slowest <= 0.5 {
        true => session.line(format_args!("PASS: Slowest request took {slowest:.6}s"))?,
        false => session.line(format_args!("Slowest request took too long: {slowest:.6}s"))?,
    }
    match deviation <= 0.1 {
        true => session.line(format_args!("PASS: Stddev is {deviation:.6}s"))?,
        false => session.line(format_args!("Stddev too high: {deviation:.6}s"))?,
    }
    good &= fast && slowest <= 0.5 && deviation <= 0.1;
    session.line(if good { "PASS" } else { "FAIL" })?;
    if good { Ok(()) } else { Err(Exit::silent(exit::ERROR)) }
}

fn tell_errors(session: &mut Session<'_>, report: &Report) -> Outcome {
    if report.errors.is_empty() {
        return Ok(());
    }
    session.line("FAIL: too many errors")?;
    for (why, count) in &report.errors {
        session.line(format_args!("FAIL: ERROR({why}) -> {count}"))?;
    }
    Ok(())
}

/// `check datascale`.
pub(super) async fn datascale(session: &mut Session<'_>) -> Outcome {
    let Load { datascale: (total, count), .. } = load(session)?;
    let prefix = session.args.text("prefix").unwrap_or("/etcdctl-check-datascale/").to_owned();
    let hint = format!("etcdctl del --prefix {prefix}");
    let clients = prepare(session, &prefix, count, &hint).await?;
    let first = clients[0].clone();
    let before = resident(session, "before").await?;
    session.line(format_args!(
        "Start data scale check for work load [{total} key-value pairs, 1024 bytes per key-value, {count} concurrent \
         clients]."
    ))?;
    session.out.flush()?;
    let mut bar = Bar::new(total);
    let (keys, mut told, _tasks) = writers(clients, 512);
    let mut stop = Stop::new()?;
    let (mut report, mut sent, mut done, mut keys) = (Report::default(), 0, 0, Some(keys));
    loop {
        let queue = keys.clone();
        let room = async move {
            match queue {
                Some(queue) => queue.reserve_owned().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            measured = told.recv() => match measured {
                Some(measured) => {
                    report.take(measured);
                    done += 1;
                    bar.show(done, session.err);
                }
                None => break,
            },
            () = stop.asked() => keys = None,
            Some(place) = room => {
                drop(place.send(key(&prefix, 512)));
                sent += 1;
                if sent == total {
                    keys = None;
                }
            }
        }
    }
    bar.end(session.err);
    let after = resident(session, "after").await;
    clean_up(session, &first, &prefix).await?;
    let used = after? - before;
    if !report.errors.is_empty() {
        tell_errors(session, &report)?;
        return Err(Exit::silent(exit::ERROR));
    }
    session.line(format_args!("PASS: Approximate system memory used : {:.2} MB.", used / (1024.0 * 1024.0)))
}

/// The memory of the first endpoint's process, in bytes.
async fn resident(session: &mut Session<'_>, when: &str) -> Result<f64, Exit> {
    let why = match session.client().await?.fetch("/metrics").await {
        Ok(text) => {
            let line = text.lines().find_map(|line| line.strip_prefix(RESIDENT));
            match line.map(|value| value.trim().parse::<f64>()) {
                Some(Ok(bytes)) if bytes > 0.0 => return Ok(bytes),
                Some(_) => format!("parse error: {RESIDENT}"),
                None => format!("could not find: {RESIDENT}"),
            }
        }
        Err(error) => format!("fetch error: {}", error.cause().unwrap_or(&error.to_string())),
    };
    session.line(why)?;
    session.line(format_args!("FAIL: Could not read {RESIDENT} {when} the put operations."))?;
    Err(Exit::silent(exit::ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_knows_the_slowest_and_how_far_times_lie_apart() {
        let mut report = Report::default();
        for millis in [100, 200, 300] {
            report.take(Ok(Duration::from_millis(millis)));
        }
        report.take(Err("no".into()));
        report.take(Err("no".into()));
        assert!((report.slowest() - 0.3).abs() < 1e-9);
        assert!((report.deviation() - 0.081_649_658).abs() < 1e-6, "{}", report.deviation());
        assert_eq!(report.errors["no"], 2);
        assert_eq!(Report::default().deviation(), 0.0);
    }
}
