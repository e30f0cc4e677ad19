//! What a watcher is promised, claim by claim, and one storm in which all of it must hold at once.

mod script;

use super::*;
use futures::FutureExt;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// History as a list, with a floor below which it is gone.
#[derive(Default)]
struct Pages {
    revisions: Vec<(u64, Vec<Event>)>,
    floor: u64,
}

/// The store and the hub in front of it.
struct World {
    past: Mutex<Pages>,
    hub: Shared,
}

impl History for World {
    fn events(&self, range: &KeyRange, from: Revision, max: usize) -> Result<Past, Error> {
        let past = self.past.lock();
        if from.0 < past.floor {
            return Ok(Past::Compacted(Revision(past.floor)));
        }
        let rest: Vec<_> = past.revisions.iter().filter(|(revision, _)| *revision >= from.0).collect();
        let now = past.revisions.last().map_or(1, |(revision, _)| *revision);
        let through = if rest.len() > max { rest[max - 1].0 } else { now };
        let all = rest.iter().take(max).flat_map(|(_, events)| events);
        let events = all.filter(|event| range.contains(&kv(event).key)).cloned().collect();
        Ok(Past::Events { events, through: Revision(through) })
    }

    fn previous(&self, key: &Bytes, at: Revision) -> Result<Option<KeyValue>, Error> {
        let past = self.past.lock();
        let older = past.revisions.iter().filter(|(revision, _)| *revision < at.0 && at.0 > past.floor);
        let last = older.flat_map(|(_, events)| events).filter(|event| kv(event).key == key).last();
        Ok(last.filter(|event| event.r#type == 0).and_then(|event| event.kv.clone()))
    }
}

fn kv(event: &Event) -> &KeyValue {
    event.kv.as_ref().expect("every event has one")
}

impl World {
    fn new() -> World {
        World::with(Limits::default())
    }

    fn with(limits: Limits) -> World {
        World { past: Mutex::default(), hub: Shared::with_limits(Revision::FIRST, limits) }
    }

    fn now(&self) -> u64 {
        self.past.lock().revisions.last().map_or(1, |(revision, _)| *revision)
    }

    /// One revision: `key` is put, `-key` deleted.
    fn write(&self, keys: &[&str]) {
        let revision = self.now() + 1;
        let events: Vec<Event> = keys.iter().map(|key| event(key, revision, "v")).collect();
        self.past.lock().revisions.push((revision, events.clone()));
        self.hub.publish(Revision(revision), &events);
    }

    fn compact(&self, floor: u64) {
        self.past.lock().floor = floor;
        self.hub.compacted(Revision(floor));
    }

    fn next(&self, stream: &Stream) -> Option<pb::WatchResponse> {
        stream.next(self).now_or_never().map(|response| response.expect("no storage error"))
    }

    /// Everything that waits, in words.
    fn drain(&self, stream: &Stream) -> Vec<String> {
        std::iter::from_fn(|| self.next(stream)).map(|response| show(&response)).collect()
    }
}

fn event(key: &str, revision: u64, value: &str) -> Event {
    let gone = key.starts_with('-');
    let key = Bytes::copy_from_slice(key.trim_start_matches('-').as_bytes());
    let mod_revision = revision as i64;
    let kv = match gone {
        true => KeyValue { key, mod_revision, ..KeyValue::default() },
        false => KeyValue { key, mod_revision, version: 2, value: value.to_owned().into(), ..KeyValue::default() },
    };
    Event { r#type: i32::from(gone), kv: Some(kv), prev_kv: None }
}

fn show(response: &pb::WatchResponse) -> String {
    let mut words = vec![format!("{}@{}", response.watch_id, response.header.as_ref().map_or(0, |h| h.revision))];
    words.extend(response.created.then(|| "created".to_owned()));
    words.extend(response.canceled.then(|| "cancelled".to_owned()));
    words.extend((response.compact_revision != 0).then(|| format!("compacted={}", response.compact_revision)));
    words.extend((!response.cancel_reason.is_empty()).then(|| format!("({})", response.cancel_reason)));
    words.extend(response.fragment.then(|| "fragment".to_owned()));
    for event in &response.events {
        let sign = if event.r#type == 1 { '-' } else { '+' };
        let before = event.prev_kv.as_ref().map_or(String::new(), |kv| format!("<{}", kv.mod_revision));
        words.push(format!("{sign}{}@{}{before}", String::from_utf8_lossy(&kv(event).key), kv(event).mod_revision));
    }
    words.join(" ")
}

fn create(key: &'static str, range_end: &'static str, start: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), start_revision: start, ..Default::default() }
}

fn send(stream: &Stream, create: pb::WatchCreateRequest) {
    use pb::watch_request::RequestUnion;
    stream.request(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
}

fn cancel(stream: &Stream, watch_id: i64) {
    use pb::watch_request::RequestUnion;
    let cancel = pb::WatchCancelRequest { watch_id };
    stream.request(pb::WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) });
}

fn ask_progress(stream: &Stream) {
    use pb::watch_request::RequestUnion;
    let progress = pb::WatchProgressRequest {};
    stream.request(pb::WatchRequest { request_union: Some(RequestUnion::ProgressRequest(progress)) });
}

#[test]
fn a_new_watcher_is_told_so_and_then_of_what_happens() {
    let world = World::new();
    world.write(&["a"]);
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    send(&stream, create("b", "d", 0));
    world.write(&["a", "c"]);
    world.write(&["-c"]);
    world.write(&["d"]);
    assert_eq!(world.drain(&stream), ["0@2 created", "1@2 created", "0@3 +a@3", "1@3 +c@3", "1@4 -c@4"]);
}

#[test]
fn who_looks_sees_from_where_each_watcher_may_be_told() {
    let world = World::new();
    world.write(&["a"]);
    let stream = world.hub.open_stream();
    for start in [0, 2, 9] {
        send(&stream, create("a", "", start));
    }
    world.write(&["a"]);
    let (seen, total) = world.hub.look(10);
    let told: Vec<(u64, u64)> = seen.iter().map(|seen| (seen.start.0, seen.first.0)).collect();
    assert_eq!((told, total), (vec![(0, 3), (2, 2), (9, 9)], 3));
}

#[test]
fn ids_are_counted_from_zero_past_those_in_use() {
    let world = World::new();
    let stream = world.hub.open_stream();
    let with_id = |watch_id| pb::WatchCreateRequest { watch_id, ..create("a", "", 0) };
    for id in [1, 0, 0, -7, 1] {
        send(&stream, with_id(id));
    }
    let refused = "-1@1 created cancelled (mvcc: duplicate watch ID provided on the WatchStream)";
    assert_eq!(world.drain(&stream), ["1@1 created", "0@1 created", "2@1 created", "-7@1 created", refused]);
}

#[test]
fn what_cannot_be_watched_is_refused_and_the_stream_goes_on() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("b", "b", 0));
    send(&stream, create("a", "", -1));
    stream.refuse("rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    stream.request(pb::WatchRequest::default());
    send(&stream, create("", "\0", 0));
    world.write(&["z"]);
    let said = world.drain(&stream);
    assert_eq!(said[0], "-1@1 created cancelled (mvcc: watcher range is empty)");
    assert_eq!(said[1], "-1@1 created cancelled (etcdserver: mvcc: required revision has been compacted)");
    assert!(said[2].starts_with("-1@1 created cancelled (rpc error"));
    assert_eq!(said[3..], ["0@1 created", "0@2 +z@2"]);
}

#[test]
fn a_cancel_is_answered_once_and_an_unknown_one_not_at_all() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    cancel(&stream, 9);
    cancel(&stream, 0);
    cancel(&stream, 0);
    world.write(&["a"]);
    assert_eq!(world.drain(&stream), ["0@1 created", "0@1 cancelled"]);
    assert_eq!(world.hub.counts(), Counts { streams: 1, ..Counts::default() });
}

#[test]
fn a_start_in_the_past_reads_history_and_goes_on_live() {
    let world = World::new();
    for key in ["a", "b", "a"] {
        world.write(&[key]);
    }
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 2));
    assert_eq!(world.hub.counts().slow, 1);
    assert_eq!(world.drain(&stream), ["0@4 created", "0@4 +a@2 +a@4"]);
    assert_eq!(world.hub.counts().slow, 0);
    world.write(&["a"]);
    assert_eq!(world.drain(&stream), ["0@5 +a@5"]);
}

/// All calls of a connection share its task: one that catches up must not have all of it for as long as that takes.
#[test]
fn who_shares_a_task_has_a_pause_after_each_step_through_history() {
    let world = World::new();
    (0..CATCH_UP_REVISIONS * 5).for_each(|_| world.write(&["a"]));
    for (key, least, told) in [("a", 10, 6), ("b", 4, 1)] {
        let stream = world.hub.open_stream();
        send(&stream, create(key, "", 2));
        let (mut pauses, mut responses) = (0, 0);
        let waker = futures::task::noop_waker();
        while world.hub.counts().slow > 0 {
            match stream.poll_told(&mut Context::from_waker(&waker), &world) {
                Poll::Ready(response) => responses += usize::from(response.is_ok()),
                Poll::Pending => pauses += 1,
            }
        }
        assert!(pauses >= least - 2 && responses == told, "{key}: {pauses} pauses, {responses} responses");
    }
}

#[test]
fn a_start_in_the_future_is_silent_until_then() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 4));
    (0..4).for_each(|_| world.write(&["a"]));
    assert_eq!(world.drain(&stream), ["0@1 created", "0@4 +a@4", "0@5 +a@5"]);
}

#[test]
fn a_start_below_the_compaction_is_two_messages() {
    let world = World::new();
    (0..5).for_each(|_| world.write(&["a"]));
    world.compact(4);
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 3));
    send(&stream, create("a", "", 4));
    assert_eq!(world.drain(&stream), ["0@6 created", "0@0 cancelled compacted=4", "1@6 created", "1@6 +a@4 +a@5 +a@6"]);
}

#[test]
fn filters_drop_events_and_an_empty_response_is_not_sent() {
    let world = World::new();
    let stream = world.hub.open_stream();
    let filtered = |filters: &[i32]| pb::WatchCreateRequest { filters: filters.to_vec(), ..create("a", "z", 0) };
    send(&stream, filtered(&[0, 0]));
    send(&stream, filtered(&[1]));
    world.write(&["a"]);
    world.write(&["-a", "b"]);
    assert_eq!(world.drain(&stream)[2..], ["1@2 +a@2", "0@3 -a@3", "1@3 +b@3"]);
}

#[test]
fn the_previous_pair_comes_if_asked_for_and_still_there() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, pb::WatchCreateRequest { prev_kv: true, ..create("a", "", 0) });
    world.write(&["a"]);
    world.write(&["a"]);
    world.write(&["-a"]);
    assert_eq!(world.drain(&stream)[1..], ["0@2 +a@2", "0@3 +a@3<2", "0@4 -a@4<3"]);
    world.write(&["a"]);
    world.write(&["a"]);
    world.compact(6);
    assert_eq!(world.drain(&stream), ["0@5 +a@5", "0@6 +a@6"]);
}

#[test]
fn a_large_response_is_cut_only_for_who_asked() {
    let world = World::with(Limits { fragment_bytes: 48, ..Limits::default() });
    let stream = world.hub.open_stream();
    send(&stream, pb::WatchCreateRequest { fragment: true, ..create("a", "z", 0) });
    send(&stream, create("a", "z", 0));
    world.write(&["aaaaaaaaaaaaaaaaaaaa", "b", "c", "d"]);
    let said = world.drain(&stream);
    assert_eq!(said[2..5], ["0@2 fragment +aaaaaaaaaaaaaaaaaaaa@2", "0@2 fragment +b@2 +c@2", "0@2 +d@2"]);
    assert_eq!(said[5], "1@2 +aaaaaaaaaaaaaaaaaaaa@2 +b@2 +c@2 +d@2");
}

#[test]
fn progress_is_answered_only_when_all_watchers_know_everything() {
    let world = World::new();
    world.write(&["a"]);
    let stream = world.hub.open_stream();
    ask_progress(&stream);
    send(&stream, create("a", "", 0));
    world.write(&["a"]);
    ask_progress(&stream);
    assert_eq!(world.drain(&stream), ["0@2 created", "0@3 +a@3", "-1@3"], "after the events that it speaks of");
    send(&stream, create("a", "", 2));
    ask_progress(&stream);
    assert_eq!(world.drain(&stream), ["1@3 created", "1@3 +a@2 +a@3"], "one lagged: dropped, not put off");
    send(&stream, create("a", "", 9));
    ask_progress(&stream);
    assert_eq!(world.drain(&stream), ["2@3 created"], "one waits for the future");
}

#[test]
fn progress_reports_go_to_the_quiet_who_asked() {
    let world = World::new();
    let stream = world.hub.open_stream();
    let notified = |key| pb::WatchCreateRequest { progress_notify: true, ..create(key, "", 0) };
    send(&stream, notified("a"));
    send(&stream, notified("b"));
    send(&stream, create("c", "", 0));
    world.write(&["a"]);
    stream.report_progress();
    assert_eq!(world.drain(&stream)[3..], ["0@2 +a@2", "1@2"]);
    stream.report_progress();
    assert_eq!(world.drain(&stream), ["0@2", "1@2"]);
}

#[test]
fn a_slow_reader_gets_everything_once_and_in_order() {
    let world = World::with(Limits { queue_responses: 3, ..Limits::default() });
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    (0..50).for_each(|_| world.write(&["a"]));
    assert_eq!((world.hub.counts().slow, world.hub.counts().pending), (1, 3));
    let expected: Vec<String> = (2..=51).map(|revision| format!("+a@{revision}")).collect();
    let said = world.drain(&stream).join(" ");
    let events: Vec<&str> = said.split(' ').filter(|word| word.starts_with('+')).collect();
    assert_eq!(events, expected);
    assert_eq!(world.hub.counts().slow, 0);
}

#[test]
fn a_slow_reader_that_compaction_overtakes_is_told_where_history_begins() {
    let world = World::with(Limits { queue_responses: 2, ..Limits::default() });
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    (0..10).for_each(|_| world.write(&["a"]));
    world.compact(8);
    assert_eq!(world.drain(&stream), ["0@1 created", "0@2 +a@2", "0@3 +a@3", "0@0 cancelled compacted=8"]);
    assert_eq!(world.hub.counts().watchers, 0);
}

#[test]
fn a_hub_that_a_snapshot_moved_on_sends_its_watchers_through_history() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    send(&stream, create("a", "", 5));
    world.write(&["a"]);
    for revision in 3..=5 {
        world.past.lock().revisions.push((revision, vec![event("a", revision, "v")]));
    }
    world.hub.restored(Revision(5));
    let mut said = world.drain(&stream);
    said[2..].sort();
    assert_eq!(said[2..], ["0@2 +a@2", "0@5 +a@3 +a@4 +a@5", "1@5 +a@5"]);
}

#[test]
fn a_dropped_stream_takes_its_watchers_along() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    send(&stream, create("a", "z", 1));
    assert_eq!(world.hub.counts().watchers, 2);
    drop(stream);
    world.write(&["a"]);
    assert_eq!(world.hub.counts(), Counts::default());
}

#[test]
fn a_closed_hub_ends_its_streams() {
    let world = World::new();
    let stream = world.hub.open_stream();
    world.hub.close(Error::Stopped);
    assert_eq!(stream.next(&world).now_or_never(), Some(Err(Error::Stopped)));
}

#[test]
fn unread_answers_stop_further_requests() {
    let world = World::with(Limits { queue_answers: 2, ..Limits::default() });
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    assert!(stream.has_room());
    send(&stream, create("a", "", 0));
    assert!(!stream.has_room());
    assert!(world.next(&stream).is_some());
    assert!(stream.has_room());
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_an_event() {
    let world = World::new();
    let stream = world.hub.open_stream();
    send(&stream, create("a", "", 0));
    world.drain(&stream);
    let write = async {
        tokio::task::yield_now().await;
        world.write(&["a"]);
    };
    let (said, ()) = tokio::join!(stream.next(&world), write);
    assert_eq!(said.map(|response| show(&response)), Ok("0@2 +a@2".to_owned()));
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Create(u8, u8, i64),
    Read(u8),
    Compact(u64),
    Cancel(i64),
    AskProgress,
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::btree_set(0u8..5, 1..4).prop_map(|keys| Step::Write(keys.into_iter().collect())),
        2 => (0u8..5, 0u8..6, 0i64..30).prop_map(|(from, to, start)| Step::Create(from, to, start)),
        4 => (1u8..6).prop_map(Step::Read),
        1 => (0u64..100).prop_map(Step::Compact),
        1 => (0i64..8).prop_map(Step::Cancel),
        2 => Just(Step::AskProgress),
        1 => Just(Step::Tick),
    ];
    prop::collection::vec(step, 1..80)
}

/// What a watcher has seen so far: its range, the next revision that it must see, whether it was cancelled.
struct Seen {
    range: KeyRange,
    next: u64,
    cancelled: bool,
}

/// The id in an answer for all watchers.
const NO_WATCH: i64 = -1;
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Seen {
    /// Checks a response against what history says must come next: ordered, unique, whole revisions, nothing left out; and progress says
    /// nothing that was not told.
    fn check(&mut self, response: &pb::WatchResponse, world: &World) {
        let by_client = response.canceled && response.compact_revision == 0;
        assert!(!self.cancelled || by_client, "nothing comes after a cancel");
        if by_client {
            self.cancelled = true;
            return;
        }
        if response.canceled {
            let floor = response.compact_revision as u64;
            assert!(self.next < floor && floor <= world.past.lock().floor);
            self.cancelled = true;
            return;
        }
        let says = response.header.as_ref().map_or(0, |header| header.revision) as u64;
        let last = response.events.last().map_or(says, |event| kv(event).mod_revision as u64);
        assert!(last <= says && self.next <= last + 1);
        let past = world.past.lock();
        let due = past.revisions.iter().filter(|(revision, _)| self.next <= *revision && *revision <= last);
        let due: Vec<&Event> =
            due.flat_map(|(_, events)| events).filter(|event| self.range.contains(&kv(event).key)).collect();
        assert_eq!(response.events.iter().collect::<Vec<_>>(), due);
        self.next = last + 1;
    }
}

fn storm(steps: Vec<Step>) {
    let world = World::with(Limits { queue_responses: 2, ..Limits::default() });
    let stream = world.hub.open_stream();
    let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
    let mut ranges: VecDeque<(KeyRange, i64)> = VecDeque::new();
    let mut take = |response: pb::WatchResponse, ranges: &mut VecDeque<(KeyRange, i64)>| {
        let id = response.watch_id;
        if response.watch_id == NO_WATCH {
            seen.values_mut().filter(|seen| !seen.cancelled).for_each(|seen| seen.check(&response, &world));
        } else if response.created {
            let (range, start) = ranges.pop_front().expect("asked for");
            let now = response.header.as_ref().map_or(0, |header| header.revision) as u64;
            let next = if start == 0 { now + 1 } else { start as u64 };
            let before = seen.insert(id, Seen { range, next, cancelled: false });
            assert!(before.is_none(), "an id that nobody asked for is given once");
        } else {
            seen.get_mut(&id).expect("created before").check(&response, &world);
        }
    };
    for step in steps {
        match step {
            Step::Write(keys) => world.write(&keys.iter().map(|key| KEYS[*key as usize]).collect::<Vec<_>>()),
            Step::Create(from, to, start) => {
                let end = if to > from { KEYS[to as usize] } else { "" };
                let notify = from % 2 == 0;
                let request =
                    pb::WatchCreateRequest { progress_notify: notify, ..create(KEYS[from as usize], end, start) };
                ranges.push_back((KeyRange::parse(&request.key, &request.range_end), start));
                send(&stream, request);
            }
            Step::Read(count) => {
                (0..count).map_while(|_| world.next(&stream)).for_each(|response| take(response, &mut ranges));
            }
            Step::Cancel(id) => cancel(&stream, id),
            Step::AskProgress => ask_progress(&stream),
            Step::Tick => stream.report_progress(),
            Step::Compact(percent) => {
                let floor = world.now() * percent / 100;
                if floor > world.past.lock().floor {
                    world.compact(floor);
                }
            }
        }
    }
    std::iter::from_fn(|| world.next(&stream)).for_each(|response| take(response, &mut ranges));
    for (id, seen) in &seen {
        let missed = |(revision, events): &&(u64, Vec<Event>)| {
            *revision >= seen.next && events.iter().any(|event| seen.range.contains(&kv(event).key))
        };
        let missed = world.past.lock().revisions.iter().find(missed).map(|(revision, _)| *revision);
        assert!(seen.cancelled || missed.is_none(), "watcher {id} was never told of revision {missed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_watcher_gets_everything_once_in_order_or_is_told_otherwise(steps in steps()) {
        storm(steps);
    }
}
