//! Watches while leaders are killed: whatever breaks, who resumes at the next revision misses nothing and sees nothing twice.
//!
//! One client writes, three watch, each beginning at another member. The promises are those of [`crate::checker`].

use crate::checker::History;
use crate::checker::Watched;
use crate::checker::Watching;
use crate::checker::revision;
use crate::checker::watch;
use crate::client::Client;
use crate::client::put;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::turn;
use crate::harness::until;
use crate::seeded::Seeded;
use etcd_lab::proto::etcdserverpb as pb;
use pb::request_op::Request;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch as signal;

const PREFIX: &str = "w/";
/// The watchers stop when they see this key.
const END: &str = "w/end";
const KEYS: u64 = 12;
/// After this a request is given up, and another member asked.
const PATIENCE: Duration = Duration::from_millis(700);

/// Watches from revision 2 to the end, resuming wherever a stream breaks. Returns what each stream told; `told` is how far they got.
async fn watch_all(client: Client, first: usize, told: Arc<AtomicI64>) -> Vec<Watched> {
    let mut streams: Vec<Watched> = Vec::new();
    for member in first.. {
        let from = streams.iter().filter_map(|watched| watched.events.last()).map(revision).max().unwrap_or(1) + 1;
        let mut watching = Watching::open(&client, member % client.len());
        watching.create(pb::WatchCreateRequest { prev_kv: true, ..watch(PREFIX, from) }).await;
        let mut is_end = false;
        // Whatever ends a stream is a reason to resume it; silence, too.
        while let (false, Ok(Ok(response))) = (is_end, tokio::time::timeout(PATIENCE * 4, watching.next_or()).await) {
            let events = response.events;
            is_end = events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == END));
            told.fetch_max(events.last().map_or(0, revision), Ordering::AcqRel);
        }
        streams.extend(watching.checker.watches.into_values());
        if is_end {
            break;
        }
        tokio::task::yield_now().await;
    }
    streams
}

/// Writes up to the revision that `goal` asks for, until nobody asks any more: puts, deletes and transactions of two keys. Turns to the next
/// member when one fails.
async fn write(client: Client, mut goal: signal::Receiver<i64>) {
    let (mut seeded, mut member, mut revision) = (Seeded::new(9), 0, 0);
    loop {
        if revision >= *goal.borrow_and_update() {
            match goal.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        let mut kv = client.kv(member % client.len());
        match tokio::time::timeout(PATIENCE, kv.txn(random_txn(&mut seeded))).await {
            Ok(Ok(answer)) => revision = answer.into_inner().header.map_or(0, |header| header.revision),
            _ => {
                member += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

fn random_txn(seeded: &mut Seeded) -> pb::TxnRequest {
    let first = seeded.below(KEYS - 1);
    let keys = if seeded.below(2) == 0 { vec![first] } else { vec![first, first + 1] };
    let mut operation = |key: u64| {
        let key = format!("{PREFIX}{key:02}");
        let request = if seeded.below(4) == 0 {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
        } else {
            Request::RequestPut(put(&key, &seeded.next().to_string()))
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest { success: keys.into_iter().map(&mut operation).collect(), ..Default::default() }
}

#[test]
fn watches_keep_their_promises_while_leaders_are_killed() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(3).await;
        let (goal, asked) = signal::channel(0);
        let writer = tokio::spawn(write(cluster.client.clone(), asked));
        let told: Vec<Arc<AtomicI64>> = (0..3).map(|_| Arc::default()).collect();
        let start = |(member, told): (usize, &Arc<AtomicI64>)| {
            tokio::spawn(watch_all(cluster.client.clone(), member, Arc::clone(told)))
        };
        let watchers: Vec<_> = told.iter().enumerate().map(start).collect();
        let reach = async |revision: i64| {
            until(READY_WITHIN, "watchers keep up", async || {
                let is_behind = |told: &Arc<AtomicI64>| told.load(Ordering::Acquire) < revision;
                if told.iter().any(is_behind) { Err(format!("not all are at {revision}")) } else { Ok(()) }
            })
            .await;
        };
        for _ in 0..5 {
            let now = until(READY_WITHIN, "a read", async || cluster.client.revision().await).await;
            goal.send_replace(now + 200);
            reach(now + 50).await;
            let leader = cluster.leader().await;
            cluster.kill(leader);
            reach(now + 200).await;
            cluster.restart(leader).await;
        }
        drop(goal);
        writer.await.expect("the writer does not panic");
        let end = until(READY_WITHIN, "a last write", async || cluster.client.put(0, END, "").await).await;
        let end = end.header.map_or(0, |header| header.revision);
        let history = History::read(&cluster.client, 0, 1, end).await;
        let mut streams = 0;
        for watcher in watchers {
            let watched = watcher.await.expect("no promise was broken");
            streams += watched.len();
            let mut next = 2;
            for part in &watched {
                assert_eq!(part.create.start_revision, next, "resumed where it was");
                next = part.events.last().map_or(next, |event| revision(event) + 1);
                part.assert_told_all(&history, next - 1);
            }
            assert_eq!(next, end + 1, "told of everything");
        }
        assert!(streams > 3, "killing leaders broke no watch: nothing was tested");
    });
}
