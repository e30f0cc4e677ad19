//! Watchers, and what is shared with those who write for them.
//!
//! ```text
//! writer ── put ──▶ server ──▶ watcher ┐
//!   ▲                      ──▶ watcher ┤ each event is counted, with the time since its put was due
//!   └────── everybody heard ───────────┘ then the next put
//! ```
//!
//! The writer waits for the slowest, so that no event is counted that did not arrive, and no watcher is spared by falling behind.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use super::connection::Wire;
use super::load::Tally;
use super::load::Window;
use super::slot::refused;
use super::workload;
use super::workload::Mix;
use super::workload::Workload;
use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use futures::StreamExt;
use pb::watch_request::RequestUnion;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Notify;

/// How many writers there are where each watcher has a key of its own.
const WRITERS: u64 = 10;

/// One writer's keys, and how many have heard of its last put.
pub(super) struct Group {
    /// Its keys are this number, and on in steps.
    first: u64,
    step: u64,
    keys: u64,
    /// How many watch each of its keys.
    watchers: u64,
    epoch: Instant,
    /// When the last put was due, in nanoseconds since the epoch.
    since: AtomicU64,
    heard: AtomicU64,
    all: Notify,
}

impl Group {
    /// The groups of a load; none if it does not watch.
    pub(super) fn of(workload: &Workload) -> Vec<Arc<Group>> {
        let watchers = (workload.connections * workload.in_flight) as u64;
        let group = |first, step, keys, watchers| {
            let (epoch, since, heard, all) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0), Notify::new());
            Arc::new(Group { first, step, keys, watchers, epoch, since, heard, all })
        };
        match workload.mix {
            Mix::Watch => vec![group(0, 1, 1, watchers)],
            Mix::WatchMany => {
                let step = WRITERS.min(watchers);
                (0..step).map(|first| group(first, step, (watchers - first).div_ceil(step), 1)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// One of its keys.
    pub(super) fn key(&self, number: u64) -> Bytes {
        workload::key(self.first + self.step * (number % self.keys))
    }

    /// A put is on its way.
    pub(super) fn begin(&self, since: Instant) {
        self.heard.store(0, Ordering::Relaxed);
        self.since.store(since.saturating_duration_since(self.epoch).as_nanos() as u64, Ordering::Release);
    }

    /// Waits until every watcher has heard of the put.
    pub(super) async fn everybody_heard(&self) {
        while self.heard.load(Ordering::Acquire) < self.watchers {
            self.all.notified().await;
        }
    }

    /// A watcher has heard; returns since when it could have.
    fn hear(&self) -> Instant {
        let since = self.epoch + Duration::from_nanos(self.since.load(Ordering::Acquire));
        if self.heard.fetch_add(1, Ordering::AcqRel) + 1 == self.watchers {
            // It is kept if the writer does not wait yet.
            self.all.notify_one();
        }
        since
    }
}

/// One stream of watches.
pub(super) struct Watcher {
    answers: tonic::Streaming<pb::WatchResponse>,
    groups: Vec<Arc<Group>>,
}

impl Watcher {
    /// The watchers on the connection of this number, when the server has said that they watch.
    pub(super) async fn open(
        wire: &Wire,
        workload: &Workload,
        connection: usize,
        groups: &[Arc<Group>],
    ) -> Result<Vec<Watcher>, String> {
        let first = (connection * workload.in_flight) as u64;
        let keys: Vec<Vec<u64>> = match workload.mix {
            Mix::WatchMany => vec![(first..first + workload.in_flight as u64).collect()],
            _ => vec![vec![0]; workload.in_flight],
        };
        let mut watchers = Vec::new();
        for keys in keys {
            let answers = stream(wire, keys.into_iter().map(workload::key).collect()).await?;
            watchers.push(Watcher { answers, groups: groups.to_vec() });
        }
        Ok(watchers)
    }

    /// Counts events until the stream is dropped.
    pub(super) async fn run(mut self, window: Window, tally: Arc<Mutex<Tally>>) {
        loop {
            let answer = match self.answers.message().await {
                Ok(Some(answer)) if !answer.canceled => answer,
                Ok(_) => return tally.lock().expect("no watcher panics").error("a watch was cancelled".to_owned()),
                Err(refusal) => return tally.lock().expect("no watcher panics").error(refused(refusal)),
            };
            let now = Instant::now();
            for event in answer.events {
                let Some(group) = event.kv.and_then(|kv| self.group(&kv.key)) else { continue };
                let since = group.hear();
                if now >= window.begin && now < window.end {
                    tally.lock().expect("no watcher panics").record(since, now);
                }
            }
        }
    }

    /// Whose key this is.
    fn group(&self, key: &[u8]) -> Option<&Group> {
        let number: u64 = std::str::from_utf8(key).ok()?.parse().ok()?;
        let at = number.checked_rem(self.groups.len() as u64)?;
        self.groups.get(at as usize).map(AsRef::as_ref)
    }
}

/// A stream that watches these keys, when the server has said so of each. It stays open until the answers are dropped.
pub(super) async fn stream(wire: &Wire, keys: Vec<Bytes>) -> Result<tonic::Streaming<pb::WatchResponse>, String> {
    let wanted = keys.len();
    let create = |key| {
        let create = pb::WatchCreateRequest { key, ..Default::default() };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    };
    let asked = futures::stream::iter(keys.into_iter().map(create)).chain(futures::stream::pending());
    let mut answers = wire.watch().watch(asked).await.map_err(refused)?.into_inner();
    for _ in 0..wanted {
        let answer = answers.message().await.map_err(refused)?.ok_or("the stream of watches ended")?;
        if !answer.created || answer.canceled {
            return Err(format!("a watch was not created: {}", answer.cancel_reason));
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(name: &str) -> Vec<Arc<Group>> {
        Group::of(&name.parse().expect("a workload"))
    }

    #[test]
    fn a_fan_out_has_one_writer_and_one_key() {
        let groups = groups("watch-10x100");
        assert_eq!((groups.len(), groups[0].watchers), (1, 1_000));
        assert_eq!(groups[0].key(7), groups[0].key(8));
        assert!(self::groups("put-1x1").is_empty());
    }

    #[test]
    fn many_watchers_share_their_keys_among_ten_writers_who_reach_all() {
        let groups = groups("watchmany-3x5");
        let all: std::collections::BTreeSet<Bytes> =
            groups.iter().flat_map(|group| (0..group.keys).map(|n| group.key(n))).collect();
        assert_eq!(all, (0..15).map(workload::key).collect());
        assert_eq!((groups.len(), groups.iter().map(|group| group.keys).sum::<u64>()), (10, 15));
        assert_eq!(self::groups("watchmany-1x1").len(), 1);
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_last_watcher() {
        let group = groups("watch-1x3").remove(0);
        let since = Instant::now();
        group.begin(since);
        assert_eq!(group.hear(), since);
        group.hear();
        let waits = tokio::time::timeout(Duration::from_millis(20), group.everybody_heard());
        assert!(waits.await.is_err(), "one is missing");
        group.hear();
        group.everybody_heard().await;
    }
}
