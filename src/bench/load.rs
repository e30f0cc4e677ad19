//! The load itself: fill, connect, warm up, measure.
//!
//! ```text
//! thread (one per core) ── current-thread runtime ─┬─ connection ─┬─ slot   one request in flight
//!                                                  │              └─ slot
//!                                                  └─ connection …
//! ```
//!
//! Slots of a thread share one histogram. An operation counts if its answer came inside the measured window, which begins when every
//! connection, stream and watch of every thread is there and has been used for a while.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use super::connection;
use super::connection::Wire;
use super::histogram::Histogram;
use super::pace::Pace;
use super::servers;
use super::slot::Slot;
use super::slot::refused;
use super::watchers::Group;
use super::watchers::Watcher;
use super::workload;
use super::workload::Filled;
use super::workload::Mix;
use super::workload::Requests;
use super::workload::Workload;
use crate::proto::etcdserverpb as pb;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Barrier;
use tokio::sync::oneshot;
use tokio::sync::watch;

/// Load that is not counted: caches and the scheduler settle. A window that is shorter is not warmed up for longer than itself.
const WARM_UP_AT_MOST: Duration = Duration::from_secs(1);
/// How long after the window a request may still be waited for.
const LINGER: Duration = Duration::from_secs(10);
const COMPACT_EVERY: Duration = Duration::from_secs(1);
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
#[derive(Clone, Default)]
pub(super) struct Outcome {
    pub(super) latencies: Histogram,
    pub(super) seconds: Duration,
    pub(super) rate: Option<u32>,
    /// CPU time of the servers in the window; `None` if their processes are not known.
    pub(super) cpu: Option<Duration>,
    /// The servers' largest memory so far, summed, in bytes.
    pub(super) peak_rss: Option<u64>,
    /// How often the history was compacted in the window.
    pub(super) compactions: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// What the slots of one thread found.
#[derive(Default)]
pub(super) struct Tally {
    latencies: Histogram,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    pub(super) fn record(&mut self, since: Instant, now: Instant) {
        self.latencies.record(now.saturating_duration_since(since).as_nanos() as u64);
    }

    pub(super) fn error(&mut self, text: String) {
        self.errors += 1;
        self.first_error.get_or_insert(text);
    }

    fn merge(&mut self, other: Tally) {
        self.latencies.merge(&other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// When things happen: the same for every slot.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

/// Where the connections of this workload go: writes to the leader, reads to every member.
pub(super) async fn targets(workload: &Workload, endpoints: &[String]) -> Result<Vec<String>, String> {
    if workload.reads_only() || endpoints.len() == 1 {
        return Ok(endpoints.to_vec());
    }
    Ok(vec![connection::leader(endpoints).await?])
}

/// Fills, warms up and measures. The calling runtime only waits, and compacts if that is asked for.
pub(super) async fn run(plan: Plan) -> Result<Outcome, String> {
    let warm_up = plan.seconds.min(WARM_UP_AT_MOST);
    match plan.workload.filled() {
        Filled::Nothing => {}
        Filled::ToRead => fill(&plan.endpoints[0], workload::KEYS_FILLED).await?,
        // A delete costs about a put, so that twice the time makes more keys than are deleted, unless the disk stalls just then.
        Filled::ToDelete => fill_for(&plan.endpoints[0], 2 * (warm_up + plan.seconds), workload::KEYS_FILLED).await?,
    }
    let (go, begins) = watch::channel(None);
    let mut workers = start(&plan, &begins);
    for worker in &mut workers {
        if (&mut worker.ready).await.is_err() {
            let why = finished(&mut worker.done).await.err();
            return Err(why.unwrap_or_else(|| "a load thread did not begin".to_owned()));
        }
    }
    let begin = Instant::now() + warm_up;
    let window = Window { begin, end: begin + plan.seconds };
    go.send_replace(Some(window));
    let compactor =
        (plan.workload.mix == Mix::PutCompact).then(|| tokio::spawn(compact(plan.endpoints[0].clone(), window)));
    tokio::time::sleep_until(window.begin.into()).await;
    let cpu_before = servers::cpu(&plan.pids)?;
    tokio::time::sleep_until(window.end.into()).await;
    let cpu_after = servers::cpu(&plan.pids)?;
    let mut all = Tally::default();
    for worker in &mut workers {
        all.merge(finished(&mut worker.done).await?);
    }
    let compactions = match compactor {
        Some(task) => task.await.map_err(|e| format!("compacting: {e}"))??,
        None => 0,
    };
    Ok(Outcome {
        latencies: all.latencies,
        seconds: plan.seconds,
        rate: plan.rate,
        cpu: cpu_before.zip(cpu_after).map(|(before, after)| after.saturating_sub(before)),
        peak_rss: servers::peak_rss(&plan.pids)?,
        compactions,
        errors: all.errors,
        first_error: all.first_error,
    })
}

async fn finished(done: &mut oneshot::Receiver<Result<Tally, String>>) -> Result<Tally, String> {
    done.await.map_err(|_| "a load thread panicked".to_owned())?
}

/// Compacts to the newest revision, at once and then every second; returns how often.
async fn compact(endpoint: String, window: Window) -> Result<u64, String> {
    let failed = |refusal| format!("compacting: {}", refused(refusal));
    let mut kv = connection::kv(&endpoint).await?;
    let (mut at, mut count, mut last) = (window.begin, 0, 0);
    while at < window.end {
        tokio::time::sleep_until(at.into()).await;
        let any = pb::RangeRequest { key: workload::key(0), serializable: true, ..Default::default() };
        let header = kv.range(any).await.map_err(failed)?.into_inner().header;
        let revision = header.unwrap_or_default().revision;
        // Compacting twice to the same revision is refused; nothing was written since.
        if revision > last {
            kv.compact(pb::CompactionRequest { revision, physical: false }).await.map_err(failed)?;
            (count, last) = (count + 1, revision);
        }
        at += COMPACT_EVERY;
    }
    Ok(count)
}

/// Puts so many keys, in order, 64 at a time.
pub(super) async fn fill(endpoint: &str, keys: u64) -> Result<(), String> {
    fill_until(endpoint, move |number| number >= keys).await
}

/// Puts keys for so long, and so many at least.
async fn fill_for(endpoint: &str, time: Duration, keys: u64) -> Result<(), String> {
    let end = Instant::now() + time;
    fill_until(endpoint, move |number| number >= keys && Instant::now() >= end).await
}

async fn fill_until(endpoint: &str, done: impl Fn(u64) -> bool + Copy + Send + 'static) -> Result<(), String> {
    let client = connection::kv(endpoint).await?;
    let mut requests = Requests::new(Mix::Put, SEED);
    let mut slots: Vec<tokio::task::JoinHandle<Result<(), String>>> = Vec::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..64 {
        let (mut client, mut requests, next) = (client.clone(), requests.fork(), Arc::clone(&next));
        slots.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if done(number) {
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

/// A thread, as the one who waits for it sees it.
struct Started {
    ready: oneshot::Receiver<()>,
    done: oneshot::Receiver<Result<Tally, String>>,
}

/// Starts one thread per core, or per connection if there are fewer of these.
fn start(plan: &Plan, begins: &watch::Receiver<Option<Window>>) -> Vec<Started> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(plan.workload.connections);
    let mut requests = Requests::new(plan.workload.mix, SEED);
    let groups = Group::of(&plan.workload);
    let all_done = Arc::new(Barrier::new(threads));
    let mut started = Vec::new();
    for thread in 0..threads {
        let worker = Worker {
            workload: plan.workload.clone(),
            endpoints: plan.endpoints.clone(),
            rate: plan.rate,
            thread,
            threads,
            requests: requests.fork(),
            groups: groups.clone(),
            all_done: Arc::clone(&all_done),
        };
        let (is_ready, ready) = oneshot::channel();
        let (is_done, done) = oneshot::channel();
        let begins = begins.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| format!("cannot start a runtime: {e}"));
            let tally = runtime.and_then(|runtime| runtime.block_on(worker.run(is_ready, begins)));
            // Nobody waits any more only after an interruption.
            drop(is_done.send(tally));
        });
        started.push(Started { ready, done });
    }
    started
}

/// The share of one thread: every n-th connection and the writers of every n-th group, n being the number of threads.
struct Worker {
    workload: Workload,
    endpoints: Vec<String>,
    rate: Option<u32>,
    thread: usize,
    threads: usize,
    requests: Requests,
    groups: Vec<Arc<Group>>,
    /// Where the threads wait for each other before they hang up.
    all_done: Arc<Barrier>,
}

impl Worker {
    async fn run(
        mut self,
        ready: oneshot::Sender<()>,
        mut begins: watch::Receiver<Option<Window>>,
    ) -> Result<Tally, String> {
        let (slots, watchers) = self.prepare().await?;
        // It fails only if nobody waits any more.
        let _ = ready.send(());
        let Ok(Some(window)) = begins.wait_for(Option::is_some).await.map(|window| *window) else {
            return Ok(Tally::default());
        };
        let tally = Arc::new(Mutex::new(Tally::default()));
        for watcher in watchers {
            tokio::spawn(watcher.run(window, Arc::clone(&tally)));
        }
        let pace = self.interval(slots.len()).map(|interval| Pace::start(interval, window.end));
        let slots: Vec<_> =
            slots.into_iter().map(|slot| tokio::spawn(slot.run(window, pace.clone(), Arc::clone(&tally)))).collect();
        let last = window.end + LINGER;
        for slot in slots {
            // A request that hangs for longer than this is an error of its own, and the window is long over.
            if tokio::time::timeout_at(last.into(), slot).await.is_err() {
                tally.lock().expect("no slot panics").error("no answer, or an event that did not come".to_owned());
            }
        }
        // Another thread's writer may wait for this one's watchers still; it gives up as late as a slot here would have.
        drop(tokio::time::timeout_at(last.into(), self.all_done.wait()).await);
        Ok(std::mem::take(&mut tally.lock().expect("no slot panics")))
    }

    /// Opens everything.
    async fn prepare(&mut self) -> Result<(Vec<Slot>, Vec<Watcher>), String> {
        let (mut slots, mut watchers) = (Vec::new(), Vec::new());
        for number in (self.thread..self.workload.connections).step_by(self.threads) {
            let wire = Wire::open(&self.endpoints[number % self.endpoints.len()]).await?;
            if self.workload.watches() {
                watchers.extend(Watcher::open(&wire, &self.workload, number, &self.groups).await?);
                continue;
            }
            for _ in 0..self.workload.in_flight {
                slots.push(Slot::open(&wire, self.workload.mix, self.requests.fork()).await?);
            }
        }
        for group in self.groups.iter().skip(self.thread).step_by(self.threads) {
            let wire = Wire::open(&self.endpoints[0]).await?;
            slots.push(Slot::writer(&wire, self.requests.fork(), Arc::clone(group)));
        }
        Ok((slots, watchers))
    }

    /// Between two due times, in an open loop: a thread's part of the rate is that of its slots.
    fn interval(&self, slots: usize) -> Option<Duration> {
        let Workload { connections, in_flight, .. } = self.workload;
        let all = if self.groups.is_empty() { connections * in_flight } else { self.groups.len() };
        let rate = f64::from(self.rate?) * slots as f64 / all as f64;
        (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate))
    }
}
