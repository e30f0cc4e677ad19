//! What a watch promises, while leaders are killed: all events, once, in order, whole, each with the value before it.
//!
//! | promise | how it is checked |
//! |---|---|
//! | ordered | revisions never fall |
//! | unique | no revision comes twice, across resumptions too |
//! | atomic | the events of one transaction come in one answer |
//! | reliable | no revision is missing: one client writes, so revisions have no gaps |
//! | resumable | a broken watch goes on at the next revision, on another member |
//! | prev_kv right | each event carries the key as the event before left it |

use crate::client::Client;
use crate::client::prefix_end;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::turn;
use crate::harness::until;
use crate::seeded::Seeded;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::Event;
use etcd_lab::proto::mvccpb::KeyValue;
use etcd_lab::proto::mvccpb::event::EventType;
use pb::request_op::Request;
use pb::watch_request::RequestUnion;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::Status;

const PREFIX: &str = "w/";
const KEYS: u64 = 12;
/// After this a request or a silent watch is given up, and another member asked.
const PATIENCE: Duration = Duration::from_millis(700);

/// What a watcher has seen, as answers of events.
#[derive(Default)]
struct Seen {
    answers: Vec<Vec<Event>>,
    resumed: usize,
}

impl Seen {
    fn last_revision(&self) -> i64 {
        self.answers.iter().flatten().map(revision).max().unwrap_or(1)
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Watches from revision 2 on, resuming wherever a stream breaks, until the task is aborted.
async fn watch(client: Client, mut member: usize, seen: Arc<Mutex<Seen>>) {
    loop {
        let from = seen.lock().expect("no watcher panics").last_revision() + 1;
        // Whatever ends a stream is a reason to resume it.
        drop(follow(&client, member % client.len(), from, &seen).await);
        seen.lock().expect("no watcher panics").resumed += 1;
        member += 1;
        tokio::task::yield_now().await;
    }
}

async fn follow(client: &Client, member: usize, from: i64, seen: &Mutex<Seen>) -> Result<(), Status> {
    let create = pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end: prefix_end(PREFIX).into(),
        start_revision: from,
        prev_kv: true,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The request side stays open as long as the stream is read.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let timed_out = |_| Status::deadline_exceeded("silence");
    let mut watch = client.watch(member);
    let mut answers = tokio::time::timeout(PATIENCE, watch.watch(requests)).await.map_err(timed_out)??.into_inner();
    while let Some(answer) = tokio::time::timeout(PATIENCE * 4, answers.next()).await.map_err(timed_out)? {
        let answer = answer?;
        if answer.canceled {
            return Err(Status::aborted(answer.cancel_reason));
        }
        if !answer.events.is_empty() {
            seen.lock().expect("no watcher panics").answers.push(answer.events);
        }
    }
    Ok(())
}

/// Writes until told to stop: puts, deletes and transactions of two keys. Turns to the next member when one fails.
async fn write(client: Client, stop: Arc<AtomicBool>) {
    let mut seeded = Seeded::new(9);
    let mut member = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut kv = client.kv(member % client.len());
        let answer = tokio::time::timeout(PATIENCE, kv.txn(random_txn(&mut seeded))).await;
        if !matches!(answer, Ok(Ok(_))) {
            member += 1;
            tokio::task::yield_now().await;
        }
    }
}

fn random_txn(seeded: &mut Seeded) -> pb::TxnRequest {
    let first = seeded.below(KEYS);
    let keys = if seeded.below(2) == 0 { vec![first] } else { vec![first, (first + 1) % KEYS] };
    let mut operation = |key: u64| {
        let key = format!("{PREFIX}{key}");
        let request = if seeded.below(4) == 0 {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
        } else {
            let value = seeded.next().to_string();
            Request::RequestPut(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() })
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest { success: keys.into_iter().map(&mut operation).collect(), ..Default::default() }
}

/// Panics on the first broken promise. `who` names the watcher.
fn assert_promises(who: &str, seen: &Seen) {
    let mut keys: BTreeMap<Vec<u8>, KeyValue> = BTreeMap::new();
    let mut last = 1;
    for answer in &seen.answers {
        let first = answer.first().map_or(0, revision);
        assert!(first > last, "{who}: unique and atomic: an answer begins at {first}, after {last}");
        for event in answer {
            let kv = event.kv.as_ref().expect("an event has a key");
            let at = kv.mod_revision;
            assert!(at == last || at == last + 1, "{who}: ordered and reliable: {at} after {last}");
            last = at;
            let before = keys.get(kv.key.as_ref());
            assert_eq!(event.prev_kv.as_ref(), before, "{who}: prev_kv at {at}");
            if event.r#type == EventType::Delete as i32 {
                keys.remove(kv.key.as_ref());
                continue;
            }
            let expected = before.map_or((at, 1), |before| (before.create_revision, before.version + 1));
            assert_eq!((kv.create_revision, kv.version), expected, "{who}: at {at}");
            keys.insert(kv.key.to_vec(), kv.clone());
        }
    }
}

/// A put of `key` at this revision, as the watch of a fresh store should tell it.
fn put_event(at: i64, key: &str, before: Option<&Event>) -> Event {
    let before = before.and_then(|event| event.kv.clone());
    let (create_revision, version) = before.as_ref().map_or((at, 1), |kv| (kv.create_revision, kv.version + 1));
    let kv = KeyValue { key: key.to_owned().into(), create_revision, mod_revision: at, version, ..Default::default() };
    Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: before }
}

fn is_noticed(answers: Vec<Vec<Event>>) -> bool {
    std::panic::catch_unwind(|| assert_promises("planted", &Seen { answers, resumed: 0 })).is_err()
}

#[test]
fn each_broken_promise_is_noticed() {
    let (a2, b3) = (put_event(2, "a", None), put_event(3, "b", None));
    let (a4, b4) = (put_event(4, "a", Some(&a2)), put_event(4, "b", Some(&b3)));
    let one = |event: &Event| vec![event.clone()];
    let whole = vec![one(&a2), one(&b3), vec![a4.clone(), b4.clone()]];
    assert!(!is_noticed(whole.clone()), "a history as it should be");
    assert!(is_noticed(vec![one(&b3), one(&a2)]), "out of order");
    assert!(is_noticed(vec![one(&a2), one(&a2)]), "twice");
    assert!(is_noticed(vec![one(&a2), one(&b3), one(&a4), one(&b4)]), "one revision in two answers");
    assert!(is_noticed(vec![one(&a2), vec![a4.clone(), b4.clone()]]), "a revision missing");
    let mut wrong = whole.clone();
    wrong[2][0].prev_kv = None;
    assert!(is_noticed(wrong), "prev_kv missing");
    let mut wrong = whole;
    wrong[2][1].kv.as_mut().expect("a put").version = 1;
    assert!(is_noticed(wrong), "a version that does not count on");
}

#[test]
fn watches_keep_their_promises_while_leaders_are_killed() {
    turn(Duration::from_secs(240), async {
        let mut cluster = Cluster::start(3).await;
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(cluster.client.clone(), Arc::clone(&stop)));
        let seen: Vec<Arc<Mutex<Seen>>> = (0..3).map(|_| Arc::default()).collect();
        let start = |(member, seen): (usize, &Arc<Mutex<Seen>>)| {
            tokio::spawn(watch(cluster.client.clone(), member, Arc::clone(seen)))
        };
        let watchers: Vec<_> = seen.iter().enumerate().map(start).collect();
        let reach = async |revision: i64| {
            until(READY_WITHIN, "watchers keep up", async || {
                let behind =
                    |seen: &Arc<Mutex<Seen>>| seen.lock().expect("no watcher panics").last_revision() < revision;
                if seen.iter().any(behind) { Err(format!("not all are at {revision}")) } else { Ok(()) }
            })
            .await;
        };
        for _ in 0..5 {
            let now = until(READY_WITHIN, "a read", async || cluster.client.revision().await).await;
            reach(now + 50).await;
            let leader = cluster.leader().await;
            cluster.kill(leader);
            let now = until(READY_WITHIN, "a read", async || cluster.client.revision().await).await;
            reach(now + 50).await;
            cluster.restart(leader).await;
        }
        stop.store(true, Ordering::Relaxed);
        writer.await.expect("the writer does not panic");
        reach(until(READY_WITHIN, "a read", async || cluster.client.revision().await).await).await;
        watchers.iter().for_each(tokio::task::JoinHandle::abort);
        for (member, seen) in seen.iter().enumerate() {
            let seen = seen.lock().expect("no watcher panics");
            assert_promises(&format!("watcher {member}"), &seen);
            eprintln!("watcher {member}: {} answers, resumed {} times", seen.answers.len(), seen.resumed);
        }
        let resumed: usize = seen.iter().map(|seen| seen.lock().expect("no watcher panics").resumed).sum();
        assert!(resumed > 0, "killing leaders broke no watch: nothing was tested");
    });
}
