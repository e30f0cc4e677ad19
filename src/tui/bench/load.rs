//! Puts for a measurement, as many at once as it takes; and what processes have used.

#![expect(clippy::disallowed_methods, reason = "waits and counts in real time")]

use crate::lab::Error;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

/// So many puts may be on their way at once.
const MOST: usize = 256;
/// Different keys.
const KEYS: u64 = 1_000;
const VALUE: &[u8] = &[b'v'; 100];
/// Who is not to put looks again after this.
const REST: Duration = Duration::from_millis(20);
/// Linux counts processes' CPU in these.
const TICK: Duration = Duration::from_millis(10);
/// Transactions at once while a store is filled.
const AT_ONCE: usize = 8;

/// Clients that put, one request at a time each.
pub(super) struct Load {
    tasks: JoinSet<()>,
    /// So many of them are at work.
    active: Arc<AtomicUsize>,
    puts: Arc<AtomicU64>,
}

impl Load {
    /// Starts with few.
    pub(super) fn start(urls: &[String]) -> Load {
        let (active, puts) = (Arc::new(AtomicUsize::new(4)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..MOST {
            let url = urls[number % urls.len()].clone();
            tasks.spawn(keep_putting(number, url, Arc::clone(&active), Arc::clone(&puts)));
        }
        Load { tasks, active, puts }
    }

    /// More or fewer at work, so that what is measured comes near what is wanted.
    pub(super) fn steer(&self, is: f64, wanted: f64) {
        let now = self.active.load(Ordering::Relaxed);
        let next = match is / wanted {
            ratio if ratio < 0.5 => now * 2,
            ratio if ratio < 1.0 => now + (now / 8).max(1),
            ratio if ratio > 1.15 => now - (now / 8).max(1),
            _ => now,
        };
        self.fix(next);
    }

    /// So many at work.
    pub(super) fn fix(&self, count: usize) {
        self.active.store(count.clamp(1, MOST), Ordering::Relaxed);
    }

    /// Puts that were answered.
    pub(super) fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// No more; how many there were.
    pub(super) fn stop(mut self) -> u64 {
        self.tasks.abort_all();
        self.puts()
    }
}

async fn keep_putting(number: usize, url: String, active: Arc<AtomicUsize>, puts: Arc<AtomicU64>) {
    let Ok(endpoint) = Endpoint::from_shared(url) else { return };
    let mut kv = KvClient::new(endpoint.connect_lazy());
    for n in 0_u64.. {
        if number >= active.load(Ordering::Relaxed) {
            tokio::time::sleep(REST).await;
            continue;
        }
        let key = format!("bench/{:04}", (n * 31 + number as u64 * 7) % KEYS);
        let request = PutRequest { key: key.into(), value: VALUE.into(), ..PutRequest::default() };
        match kv.put(request).await {
            Ok(_) => drop(puts.fetch_add(1, Ordering::Relaxed)),
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// Writes so many keys: half in one folder, half in a thousand.
///
/// # Errors
/// What the member says, if it refuses.
pub(super) async fn fill(url: &str, keys: usize, at_once: usize) -> Result<(), Error> {
    let refused = |why: String| Error::Refused(format!("cannot fill the store: {why}"));
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| refused(e.to_string()))?;
    let kv = KvClient::new(endpoint.connect().await.map_err(|e| refused(e.to_string()))?);
    let half = keys / 2;
    let name = |n: usize| match n < half {
        true => format!("flat/{n:08}"),
        false => format!("tree/{:03}/{n:08}", n % 1_000),
    };
    let mut tasks = JoinSet::new();
    for first in (0..keys).step_by(at_once) {
        if tasks.len() >= AT_ONCE {
            let done: Option<Result<Result<_, tonic::Status>, _>> = tasks.join_next().await;
            done.transpose().map_err(|e| refused(e.to_string()))?.transpose().map_err(|e| refused(e.to_string()))?;
        }
        let put = |n: usize| {
            let put = PutRequest { key: name(n).into(), value: VALUE.into(), ..PutRequest::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let success = (first..keys.min(first + at_once)).map(put).collect();
        let mut kv = kv.clone();
        tasks.spawn(async move { kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.map(drop) });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|e| refused(e.to_string()))?.map_err(|e| refused(e.to_string()))?;
    }
    Ok(())
}

/// The CPU that these processes have used so far.
///
/// # Errors
/// If one of them is gone, or this is not Linux.
pub(super) fn cpu(pids: &[u32]) -> Result<Duration, Error> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).map_err(Error::file("cannot read", path.as_ref()))?;
        // Fields 14 and 15, counted from the parenthesis that ends the name: it may hold blanks.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        ticks += rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum::<u32>();
    }
    Ok(TICK * ticks)
}

/// What this process has in memory, in bytes; 0 where nobody tells.
pub(super) fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}
