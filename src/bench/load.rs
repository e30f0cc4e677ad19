//! The load itself: fill, warm up, measure.
//!
//! ```text
//! thread (one per core) ── current-thread runtime ─┬─ connection ─┬─ slot   one request in flight
//!                                                  │              └─ slot
//!                                                  └─ connection …
//! ```
//!
//! Slots of a thread share one histogram. An operation counts if its answer came inside the measured window. In an open loop a pacer
//! thread releases each request when it is due, more exactly than a timer wheel of milliseconds could; a slot that comes late to
//! a due request does not make it less late.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use super::connection;
use super::connection::Connection;
use super::histogram::Histogram;
use super::servers;
use super::workload;
use super::workload::Request;
use super::workload::Requests;
use super::workload::Workload;
use crate::proto::etcdserverpb::kv_client::KvClient;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;

/// Load that is not counted: connections, caches and the scheduler settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long after the window a request may still be waited for.
const LINGER: Duration = Duration::from_secs(10);
const SEED: u64 = 20_261_120;

/// One measurement.
pub(super) struct Plan {
    pub(super) workload: Workload,
    /// Where the connections go, in turn.
    pub(super) endpoints: Vec<String>,
    pub(super) seconds: Duration,
    pub(super) rate: Option<u32>,
    /// The servers' processes; empty if they are not known.
    pub(super) pids: Vec<u32>,
}

/// What came out of it.
#[derive(Clone)]
pub(super) struct Outcome {
    pub(super) latencies: Histogram,
    pub(super) seconds: Duration,
    pub(super) rate: Option<u32>,
    /// CPU time of the servers in the window; `None` if their processes are not known.
    pub(super) cpu: Option<Duration>,
    /// The servers' largest memory so far, summed, in bytes.
    pub(super) peak_rss: Option<u64>,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// What the slots of one thread found.
#[derive(Default)]
struct Tally {
    latencies: Histogram,
    errors: u64,
    first_error: Option<String>,
}

/// When things happen: the same for every slot.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Where the connections of this workload go: writes to the leader, reads to every member.
pub(super) async fn targets(workload: &Workload, endpoints: &[String]) -> Result<Vec<String>, String> {
    if workload.reads_only() || endpoints.len() == 1 {
        return Ok(endpoints.to_vec());
    }
    for endpoint in endpoints {
        let status = connection::status(endpoint).await?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(vec![endpoint.clone()]);
        }
    }
    Err("none of the endpoints is the leader: name every member".to_owned())
}

/// Fills, warms up and measures. The calling runtime only waits.
pub(super) async fn run(plan: Plan) -> Result<Outcome, String> {
    if plan.workload.reads() {
        fill(&plan.endpoints[0], workload::KEYS_FILLED).await?;
    }
    let begin = Instant::now() + WARM_UP;
    let window = Window { begin, end: begin + plan.seconds };
    let workers = start(&plan, window);
    tokio::time::sleep_until(window.begin.into()).await;
    let cpu_before = servers::cpu(&plan.pids)?;
    tokio::time::sleep_until(window.end.into()).await;
    let cpu_after = servers::cpu(&plan.pids)?;
    let mut all = Tally::default();
    for worker in workers {
        let tally = worker.await.map_err(|_| "a load thread panicked".to_owned())??;
        all.latencies.merge(&tally.latencies);
        all.errors += tally.errors;
        all.first_error = all.first_error.or(tally.first_error);
    }
    Ok(Outcome {
        latencies: all.latencies,
        seconds: plan.seconds,
        rate: plan.rate,
        cpu: cpu_before.zip(cpu_after).map(|(before, after)| after.saturating_sub(before)),
        peak_rss: servers::peak_rss(&plan.pids)?,
        errors: all.errors,
        first_error: all.first_error,
    })
}

/// Puts so many keys, in order, 64 at a time.
pub(super) async fn fill(endpoint: &str, keys: u64) -> Result<(), String> {
    let client = connection::kv(endpoint).await?;
    let mut requests = Requests::new(workload::Mix::Put, SEED);
    let mut slots: Vec<tokio::task::JoinHandle<Result<(), String>>> = Vec::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..64 {
        let (mut client, mut requests, next) = (client.clone(), requests.fork(), Arc::clone(&next));
        slots.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Ok(());
                }
                let put = requests.put(workload::key(number));
                client.put(put).await.map_err(|refusal| format!("filling: {}", refusal.message()))?;
            }
        }));
    }
    for slot in slots {
        slot.await.map_err(|e| format!("filling: {e}"))??;
    }
    Ok(())
}

/// Starts one thread per core, or per connection if there are fewer of these.
fn start(plan: &Plan, window: Window) -> Vec<oneshot::Receiver<Result<Tally, String>>> {
    let connections = plan.workload.connections;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(connections);
    let mut requests = Requests::new(plan.workload.mix, SEED);
    let mut workers = Vec::new();
    for thread in 0..threads {
        let mine = (thread..connections).step_by(threads);
        let worker = Worker {
            endpoints: mine.map(|n| plan.endpoints[n % plan.endpoints.len()].clone()).collect(),
            in_flight: plan.workload.in_flight,
            // A thread's part of the rate is that of its connections.
            interval: plan.rate.map(|rate| {
                let share = (thread..connections).step_by(threads).count() as f64 / connections as f64;
                Duration::from_secs_f64(1.0 / (f64::from(rate) * share))
            }),
            requests: requests.fork(),
            window,
        };
        let (done, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let tally =
                runtime.map_err(|e| format!("cannot start a runtime: {e}")).and_then(|rt| rt.block_on(worker.run()));
            // Nobody waits any more only after an interruption.
            drop(done.send(tally));
        });
        workers.push(outcome);
    }
    workers
}

/// The share of one thread.
struct Worker {
    /// One for each connection.
    endpoints: Vec<String>,
    in_flight: usize,
    /// Between two due times, in an open loop.
    interval: Option<Duration>,
    requests: Requests,
    window: Window,
}

impl Worker {
    async fn run(mut self) -> Result<Tally, String> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut clients = Vec::new();
        for endpoint in &self.endpoints {
            clients.push(connection::kv(endpoint).await?);
        }
        let pace = self.interval.map(|interval| Pace::start(interval, self.window.end));
        let mut slots = Vec::new();
        for client in clients {
            for _ in 0..self.in_flight {
                let slot = Slot {
                    client: client.clone(),
                    requests: self.requests.fork(),
                    window: self.window,
                    pace: pace.clone(),
                    tally: Arc::clone(&tally),
                };
                slots.push(tokio::spawn(slot.run()));
            }
        }
        let last = self.window.end + LINGER;
        for slot in slots {
            // A request that hangs for longer than this is an error of its own, and the window is long over.
            if tokio::time::timeout_at(last.into(), slot).await.is_err() {
                tally.lock().expect("no slot panics").error("no answer".to_owned());
            }
        }
        Ok(std::mem::take(&mut tally.lock().expect("no slot panics")))
    }
}

/// The due times of one thread's requests.
#[derive(Clone)]
struct Pace {
    begin: Instant,
    interval: Duration,
    /// One permit for each request that is due and not taken.
    due: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Pace {
    fn start(interval: Duration, end: Instant) -> Pace {
        let pace = Pace { begin: Instant::now(), interval, due: Arc::new(Semaphore::new(0)), next: Arc::default() };
        let own = pace.clone();
        std::thread::spawn(move || own.release(end));
        pace
    }

    /// Makes requests due, one by one, until the end; then lets every slot see the end.
    fn release(&self, end: Instant) {
        let mut released: u64 = 0;
        loop {
            let now = Instant::now();
            if now >= end {
                self.due.close();
                return;
            }
            let until_now = (now.duration_since(self.begin).as_secs_f64() / self.interval.as_secs_f64()) as u64 + 1;
            self.due.add_permits((until_now - released) as usize);
            released = until_now;
            let next = self.begin + self.interval.mul_f64(released as f64);
            std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
        }
    }

    /// Waits for the next due request and returns when it was due; `None` at the end.
    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(self.begin + self.interval.mul_f64(number as f64))
    }
}

/// One request after another.
struct Slot {
    client: KvClient<Connection>,
    requests: Requests,
    window: Window,
    pace: Option<Pace>,
    tally: Arc<Mutex<Tally>>,
}

impl Slot {
    async fn run(mut self) {
        loop {
            let since = match &self.pace {
                Some(pace) => pace.next().await,
                None => Some(Instant::now()),
            };
            let Some(since) = since.filter(|since| *since < self.window.end) else { return };
            let outcome = self.ask().await;
            let now = Instant::now();
            if now >= self.window.end {
                return;
            }
            if now >= self.window.begin {
                let mut tally = self.tally.lock().expect("no slot panics");
                match outcome {
                    Ok(()) => tally.latencies.record(now.duration_since(since).as_nanos() as u64),
                    Err(text) => tally.error(text),
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<(), String> {
        let refused = |refusal: tonic::Status| refusal.message().to_owned();
        match self.requests.next() {
            Request::Put(put) => self.client.put(put).await.map(drop).map_err(refused),
            Request::Range(range) => self.client.range(range).await.map(drop).map_err(refused),
            Request::Txn(txn) => self.client.txn(txn).await.map(drop).map_err(refused),
        }
    }
}

impl Tally {
    fn error(&mut self, text: String) {
        self.errors += 1;
        self.first_error.get_or_insert(text);
    }
}
