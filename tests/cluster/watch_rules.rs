//! The small print of watches, over real gRPC on real members. Everything is also true of etcd itself (`ETCD_BIN`), except where it says so.

use crate::checker::Watching;
use crate::checker::revision;
use crate::checker::watch;
use crate::client::Client;
use crate::client::answer;
use crate::client::put;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::alone;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::Event;
use etcd_lab::proto::mvccpb::event::EventType;
use futures::StreamExt as _;
use pb::request_op::Request as Op;
use pb::watch_create_request::FilterType;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;
use tonic::Code;
use tonic::Request;

const LIMIT: Duration = Duration::from_secs(120);

/// Puts and returns the revision.
async fn write(client: &Client, key: &str, value: &str) -> i64 {
    let answer = client.put(0, key, value).await.expect("a put");
    answer.header.map_or(0, |header| header.revision)
}

async fn delete(client: &Client, key: &str) -> i64 {
    let delete = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = answer(READY_WITHIN, client.kv(0).delete_range(delete)).await.expect("a delete");
    answer.header.map_or(0, |header| header.revision)
}

async fn compact(client: &Client, revision: i64) {
    let compaction = pb::CompactionRequest { revision, physical: true };
    answer(READY_WITHIN, client.kv(0).compact(compaction)).await.expect("a compaction");
}

fn header_revision(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().map_or(-1, |header| header.revision)
}

fn with_id(watch_id: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { watch_id, ..watch("a", 0) }
}

#[test]
fn watch_ids_are_given_taken_refused_and_free_again() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        for (asked, given) in [(1, 1), (0, 0), (0, 2), (-7, -7)] {
            assert_eq!(watching.created(with_id(asked)).await.watch_id, given);
        }
        let refused = watching.created(with_id(1)).await;
        assert!(refused.canceled);
        assert_eq!(refused.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
        let at = write(client, "b", "").await;
        watching.cancel(1).await;
        let cancelled = watching.next().await;
        assert!(cancelled.canceled && !cancelled.created);
        assert_eq!((cancelled.watch_id, cancelled.cancel_reason.as_str()), (1, ""));
        assert_eq!(header_revision(&cancelled), at);
        // An unknown one is not answered: the next that comes is what was asked for after it.
        watching.cancel(99).await;
        assert_eq!(watching.created(with_id(1)).await.watch_id, 1);
        let at = write(client, "a1", "").await;
        let mut told = BTreeSet::new();
        while told.len() < 4 {
            told.insert(watching.next().await.watch_id);
        }
        assert_eq!(told, BTreeSet::from([-7, 0, 1, 2]));
        watching.assert_told_all(client, 0, 1, at).await;
    });
}

#[test]
fn a_watch_begins_where_it_was_asked_to() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        for n in 2..=6 {
            assert_eq!(write(client, "a", &n.to_string()).await, n);
        }
        let mut watching = Watching::open(client, 0);
        let all = watching.created(watch("a", 2)).await;
        watching.until_told(all.watch_id, 6).await;
        watching.assert_told_all(client, 0, 1, 6).await;
        compact(client, 4).await;
        let from_floor = watching.created(watch("a", 4)).await.watch_id;
        watching.until_told(from_floor, 6).await;
        assert_eq!(watching.checker.watches[&from_floor].events.iter().map(revision).collect::<Vec<_>>(), [4, 5, 6]);
        let too_old = watching.created(watch("a", 3)).await;
        assert!(!too_old.canceled, "first it is created");
        let cancelled = watching.next().await;
        assert!(cancelled.canceled && cancelled.events.is_empty());
        assert_eq!((cancelled.watch_id, cancelled.compact_revision), (too_old.watch_id, 4));
        assert_eq!((header_revision(&cancelled), cancelled.cancel_reason.as_str()), (0, ""));
        // Its id is taken until the client cancels it, which is answered.
        let again = watching.created(pb::WatchCreateRequest { watch_id: too_old.watch_id, ..watch("a", 0) }).await;
        assert!(again.canceled, "{again:?}");
        watching.cancel(too_old.watch_id).await;
        let freed = watching.next_unchecked().await.expect("an answer");
        assert!(freed.canceled && freed.watch_id == too_old.watch_id && freed.compact_revision == 0);
        let later = watching.created(watch("a", 9)).await.watch_id;
        let now = watching.created(watch("a", 0)).await.watch_id;
        for _ in 0..4 {
            write(client, "a", "").await;
        }
        watching.until_told(later, 10).await;
        watching.until_told(now, 10).await;
        let revisions = |id| watching.checker.watches[&id].events.iter().map(revision).collect::<Vec<_>>();
        assert_eq!((revisions(later), revisions(now)), (vec![9, 10], vec![7, 8, 9, 10]));
        if is_ours() {
            // Since etcd 3.5.24 and 3.6.6.
            let negative = watching.created(watch("a", -1)).await;
            assert!(negative.canceled);
            assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
        }
        let empty = pb::WatchCreateRequest { key: "b".into(), range_end: "b".into(), ..Default::default() };
        assert_eq!(watching.created(empty).await.cancel_reason, "mvcc: watcher range is empty");
    });
}

/// reliability 3, #18089 and #19179: a compaction at a delete's own revision keeps the delete, through a restart, too.
#[test]
fn a_delete_at_the_compaction_is_told() {
    turn(LIMIT, async {
        if !is_ours() {
            // etcd 3.5.1 has the bug.
            return;
        }
        let mut cluster = Cluster::start(1).await;
        let client = cluster.client.clone();
        for value in ["2", "3", "4"] {
            write(&client, "a", value).await;
        }
        assert_eq!(delete(&client, "a").await, 5);
        write(&client, "a", "6").await;
        compact(&client, 5).await;
        for restarted in [false, true] {
            if restarted {
                cluster.kill(0);
                cluster.restart(0).await;
            }
            let mut watching = Watching::open(&client, 0);
            watching.created(watch("a", 5)).await;
            watching.until_told(0, 6).await;
            let events = &watching.checker.watches[&0].events;
            let told: Vec<_> = events.iter().map(|event| (revision(event), event.r#type)).collect();
            assert_eq!(told, [(5, EventType::Delete as i32), (6, EventType::Put as i32)], "restarted: {restarted}");
        }
    });
}

#[test]
fn the_value_before_comes_with_the_event_as_long_as_it_is_there() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        let ask = |start| pb::WatchCreateRequest { prev_kv: true, ..watch("a", start) };
        let live = watching.created(ask(0)).await.watch_id;
        let bare = watching.created(watch("a", 0)).await.watch_id;
        for value in ["1", "2", "3"] {
            write(client, "a", value).await;
        }
        delete(client, "a").await;
        let end = write(client, "a", "4").await;
        watching.until_told(live, end).await;
        watching.until_told(bare, end).await;
        watching.assert_told_all(client, 0, 1, end).await;
        compact(client, 4).await;
        let late = watching.created(ask(4)).await.watch_id;
        watching.until_told(late, end).await;
        let before = |event: &Event| event.prev_kv.as_ref().map(|kv| (kv.mod_revision, kv.value.clone()));
        let told: Vec<_> = watching.checker.watches[&late].events.iter().map(before).collect();
        assert_eq!(told, [None, Some((4, "3".into())), None], "compacted, there, never was");
    });
}

#[test]
fn ranges_and_filters_pick_events() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        let range = |key: &str, range_end: &'static [u8]| pb::WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        let filtered = |filters: &[FilterType]| pb::WatchCreateRequest {
            filters: filters.iter().map(|filter| *filter as i32).collect(),
            ..watch("k", 0)
        };
        let (no_puts, no_deletes) = (FilterType::Noput, FilterType::Nodelete);
        for create in [
            range("k2", b""),
            range("k2", b"k4"),
            range("k2", b"\0"),
            range("", b"\0"),
            filtered(&[no_puts, no_puts]),
            filtered(&[no_deletes]),
            filtered(&[no_deletes, no_puts]),
        ] {
            watching.created(create).await;
        }
        for key in ["k1", "k2", "k3", "k4", "z"] {
            write(client, key, "").await;
        }
        delete(client, "k3").await;
        let end = delete(client, "k2").await;
        for id in 0..=4 {
            watching.until_told(id, end).await;
        }
        let last_put = watching.checker.watches[&0].events[0].clone();
        watching.until_told(5, revision(&last_put) + 2).await;
        watching.assert_told_all(client, 0, 1, end).await;
        let counts: Vec<usize> = watching.checker.watches.values().map(|watched| watched.events.len()).collect();
        assert_eq!(counts, [2, 4, 6, 7, 2, 4, 0]);
    });
}

#[test]
fn a_large_response_is_cut_for_who_asked_and_whole_for_others() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        let ask = |fragment| pb::WatchCreateRequest { prev_kv: true, fragment, ..watch("a", 0) };
        let whole = watching.created(ask(false)).await.watch_id;
        let cut = watching.created(ask(true)).await.watch_id;
        // One revision of 1.4 MB, and once more: with what was before it is too large for one message.
        for byte in ["x", "y"] {
            let value = byte.repeat(140 * 1024);
            let op = |n: usize| pb::RequestOp { request: Some(Op::RequestPut(put(&format!("a{n}"), &value))) };
            let txn = pb::TxnRequest { success: (0..10).map(op).collect(), ..Default::default() };
            answer(READY_WITHIN, client.kv(0).txn(txn)).await.expect("a transaction");
        }
        let mut responses = Vec::new();
        while responses.iter().filter(|response: &&pb::WatchResponse| !response.fragment).count() < 4 {
            responses.push(watching.next().await);
        }
        let sizes = |id| {
            let of_id = responses.iter().filter(|response| response.watch_id == id);
            of_id.map(|response| (header_revision(response), response.events.len())).collect::<Vec<_>>()
        };
        assert_eq!(sizes(whole), [(2, 10), (3, 10)]);
        assert_eq!(sizes(cut), [(2, 10), (3, 7), (3, 3)], "below 2 MiB each");
        watching.assert_told_all(client, 0, 1, 3).await;
    });
}

#[test]
fn progress_is_told_at_intervals_to_who_asked_and_is_quiet() {
    turn(LIMIT, async {
        let flags = ["--experimental-watch-progress-notify-interval=200ms"];
        let cluster = Cluster::start_with(&etcd_bin(), 1, &flags).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        let notified = |start| pb::WatchCreateRequest { progress_notify: true, ..watch("a", start) };
        let quiet = watching.created(notified(0)).await.watch_id;
        watching.created(watch("a", 0)).await;
        // etcd 3.5.1 tells a watch of the future, too.
        if is_ours() {
            watching.created(notified(1000)).await;
        }
        let at = write(client, "b", "").await;
        for _ in 0..3 {
            let progress = watching.until(|response| header_revision(response) == at).await;
            assert_eq!((progress.watch_id, progress.events.len()), (quiet, 0), "{progress:?}");
        }
        let at = write(client, "a", "").await;
        watching.until_told(quiet, at).await;
        let progress = watching.until(|response| response.events.is_empty()).await;
        assert_eq!((progress.watch_id, header_revision(&progress)), (quiet, at));
        watching.assert_told_all(client, 0, 1, at).await;
    });
}

#[test]
fn progress_asked_for_while_events_flow_never_overtakes_them() {
    turn(LIMIT, async {
        if !is_ours() {
            // etcd 3.5.1 answers at once, whatever it still has to tell (etcd #15220).
            return;
        }
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        watching.ask_progress().await;
        watching.created(watch("a", 0)).await;
        watching.created(watch("a1", 2)).await;
        let writer = {
            let client = client.clone();
            tokio::spawn(async move {
                let mut last = 0;
                for n in 0..400 {
                    last = write(&client, &format!("a{}", n % 7), "v").await;
                }
                last
            })
        };
        let mut progress = 0;
        while !writer.is_finished() {
            watching.ask_progress().await;
            // The answer, or an event: both let us go on.
            progress += usize::from(watching.next().await.watch_id == -1);
        }
        let end = writer.await.expect("it writes");
        watching.until_told(0, end).await;
        watching.ask_progress().await;
        let bookmark = watching.until(|response| response.watch_id == -1 && header_revision(response) == end).await;
        assert!(bookmark.events.is_empty());
        watching.assert_told_all(client, 0, 1, end).await;
        assert!(progress > 10, "only {progress} answers: nothing was tested");
    });
}

#[test]
fn a_stream_that_the_client_half_closes_goes_on() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let mut watching = Watching::open(client, 0);
        let id = watching.created(watch("a", 0)).await.watch_id;
        watching.half_close();
        for _ in 0..3 {
            let at = write(client, "a", "").await;
            watching.until_told(id, at).await;
        }
    });
}

#[test]
fn slow_readers_hold_up_nobody_and_miss_nothing() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        let (mut fast, mut slow) = (Watching::open(client, 0), Watching::open(client, 0));
        let mut lost = Watching::open(client, 0);
        fast.created(watch("a", 0)).await;
        slow.created(watch("a", 0)).await;
        lost.created(watch("a", 0)).await;
        // More than the queue of a stream holds, and far more than a connection's window.
        let value = "v".repeat(30_000);
        let mut at = 0;
        for n in 0..1000 {
            at = write(client, &format!("a{}", n % 4), &value).await;
            fast.until_told(0, at).await;
        }
        slow.until_told(0, at).await;
        assert!(slow.checker.watches[&0].events == fast.checker.watches[&0].events);
        compact(client, at).await;
        let cancelled = lost.until(|response| response.canceled).await;
        assert_eq!((cancelled.compact_revision, header_revision(&cancelled)), (at, 0));
        let told = lost.checker.watches[&0].events.len();
        assert!(lost.checker.watches[&0].events == fast.checker.watches[&0].events[..told], "none missing before that");
    });
}

/// The 99th of a hundred latencies, over 4,000 puts of 1 KiB, 16 under way at a time.
#[expect(clippy::disallowed_methods, reason = "what is measured is time")]
async fn put_p99(client: &Client) -> Duration {
    let value = "v".repeat(1024);
    let timed = async |n: u32| {
        let began = Instant::now();
        write(client, &format!("a{n:04}"), &value).await;
        began.elapsed()
    };
    let mut taken: Vec<Duration> = futures::stream::iter(0..4_000).map(timed).buffer_unordered(16).collect().await;
    taken.sort();
    taken[taken.len() * 99 / 100]
}

/// etcd #18109. Measures: with and without, in turn, and the median of the ratios.
#[test]
#[ignore = "measures, so it wants a machine to itself: .ci/long"]
fn stalled_watchers_do_not_slow_puts() {
    const WATCHERS: usize = 100;
    alone(LIMIT * 5, async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        put_p99(client).await;
        let mut ratios = Vec::new();
        for _ in 0..9 {
            let without = put_p99(client).await;
            let mut stalled = Vec::new();
            for _ in 0..WATCHERS {
                let mut watching = Watching::open(client, 0);
                watching.created(pb::WatchCreateRequest { range_end: "b".into(), ..watch("a", 0) }).await;
                stalled.push(watching);
            }
            // Until no window has room any more, and no queue.
            put_p99(client).await;
            let with = put_p99(client).await;
            eprintln!("p99 of a put: {without:?} alone, {with:?} beside {WATCHERS} stalled watchers");
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        eprintln!("ratios {ratios:.2?}");
        assert!(ratios[ratios.len() / 2] <= 1.1, "{ratios:.2?}");
    });
}

/// A request that is to be served by a member with a leader only.
fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    request
}

#[test]
fn who_asked_for_a_leader_is_told_when_there_is_none() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let alone = (leader + 1) % 3;
        let client = cluster.client.clone();
        let mut strict = Watching::open_with(&client, alone, true);
        let mut patient = Watching::open(&client, alone);
        strict.created(watch("a", 0)).await;
        patient.created(watch("a", 0)).await;
        let keep_alive = with_leader(tokio_stream::pending::<pb::LeaseKeepAliveRequest>());
        let mut lease = client.lease(alone);
        let renewals =
            tokio::spawn(async move { lease.lease_keep_alive(keep_alive).await?.into_inner().message().await });
        (0..3).filter(|member| *member != alone).for_each(|member| cluster.kill(member));
        let lost = strict.next_or().await.expect_err("no leader");
        assert_eq!((lost.code(), lost.message()), (Code::Unavailable, "etcdserver: no leader"));
        let lost = renewals.await.expect("no panic").expect_err("no leader");
        assert_eq!((lost.code(), lost.message()), (Code::Unavailable, "etcdserver: no leader"));
        let mut late = Watching::open_with(&client, alone, true);
        late.create(watch("a", 0)).await;
        let refused = late.next_or().await.expect_err("no leader");
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
        let refused = client.kv(alone).put(with_leader(put("a", ""))).await.expect_err("no leader");
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
        let range = pb::RangeRequest { key: "a".into(), serializable: true, ..Default::default() };
        let refused = client.kv(alone).range(with_leader(range.clone())).await.expect_err("no leader");
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
        client.kv(alone).range(range).await.expect("who does not ask for a leader may read what this member has");
        cluster.restart(leader).await;
        let answer = client.put(leader, "a", "").await.expect("two of three");
        patient.until_told(0, answer.header.map_or(0, |header| header.revision)).await;
    });
}
