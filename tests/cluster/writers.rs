//! Clients that write all the time, and remember what was acknowledged.
//!
//! Each writer puts keys of its own, one after another, each once. A write that was acknowledged must be there for ever; one that failed may be
//! there or not. A writer whose request fails, or takes longer than a patient user would wait, turns to the next member.

#![expect(clippy::disallowed_methods, reason = "measures how long writes are not acknowledged")]

use crate::client;
use crate::client::Client;
use crate::harness::until;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::task::JoinHandle;

/// After this a writer asks another member: short beside the 3 seconds in which writes must resume.
const PATIENCE: Duration = Duration::from_millis(500);
/// A pause after a refusal, so that writers do not fill the machine with refusals.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// An acknowledged write.
#[derive(Clone, Debug)]
struct Acknowledged {
    key: String,
    sent: Instant,
    answered: Instant,
}

/// Writers at work.
pub(crate) struct Writers {
    prefix: String,
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
}

impl Writers {
    /// Starts this many writers. Their keys begin with `prefix`.
    pub(crate) fn start(client: &Client, prefix: &str, count: usize) -> Writers {
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let writer = |number| {
            let write = write(
                client.clone(),
                format!("{prefix}{number}/"),
                number,
                Arc::clone(&stop),
                Arc::clone(&acknowledged),
            );
            tokio::spawn(write)
        };
        let tasks = (0..count).map(writer).collect();
        Writers { prefix: prefix.to_owned(), tasks, stop, acknowledged }
    }

    fn so_far(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().expect("no writer panics").clone()
    }

    /// How many writes were acknowledged.
    pub(crate) fn so_far_count(&self) -> usize {
        self.so_far().len()
    }

    /// Waits until this many writes were acknowledged.
    pub(crate) async fn acknowledged(&self, count: usize, within: Duration) {
        until(within, "acknowledged writes", async || {
            let now = self.so_far().len();
            if now >= count { Ok(()) } else { Err(format!("{now} of {count}")) }
        })
        .await;
    }

    /// Waits for the acknowledgement of a write that was sent after `since`; returns how long after `since` it came.
    pub(crate) async fn resumed(&self, since: Instant, within: Duration) -> Duration {
        until(within, "writes resume", async || {
            let first = self.so_far().into_iter().find(|write| write.sent > since);
            first.map(|write| write.answered - since).ok_or("no write has been acknowledged since")
        })
        .await
    }

    /// The longest time in which no write was acknowledged, from the first acknowledgement to the last.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut times: Vec<Instant> = self.so_far().iter().map(|write| write.answered).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends the writers and panics unless every acknowledged write is there, with its value. Returns how many there were.
    pub(crate) async fn stop_and_check(mut self, client: &Client) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("no writer panics");
        }
        let found = until(Duration::from_secs(30), "all keys", async || client.prefix(&self.prefix).await).await;
        let found: BTreeMap<_, _> = found.into_iter().map(|kv| (kv.key, kv.value)).collect();
        let acknowledged: BTreeSet<String> = self.so_far().into_iter().map(|write| write.key).collect();
        let is_missing = |key: &&String| found.get(key.as_bytes()).is_none_or(|value| value != key.as_bytes());
        let missing: Vec<&String> = acknowledged.iter().filter(is_missing).collect();
        assert!(
            missing.is_empty(),
            "{} of {} acknowledged writes are lost: {missing:?}",
            missing.len(),
            acknowledged.len()
        );
        acknowledged.len()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn write(
    client: Client,
    prefix: String,
    mut member: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) {
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{prefix}{number:08}");
        let mut kv = client.kv(member % client.len());
        let sent = Instant::now();
        match client::answer(PATIENCE, kv.put(client::put(&key, &key))).await {
            Ok(_) => {
                let write = Acknowledged { key, sent, answered: Instant::now() };
                acknowledged.lock().expect("no writer panics").push(write);
            }
            Err(_) => {
                member += 1;
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
        }
    }
}
