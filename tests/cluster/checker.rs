//! A watch client that trusts nobody: whatever a test watches, it checks what a watch promises.
//!
//! | promise | when a broken one is noticed |
//! |---|---|
//! | ordered | revisions fall within a watch |
//! | unique | a revision comes in a second response, a key twice in one revision |
//! | atomic | as unique: the events of one revision come in one response (pieces of a cut one count as one) |
//! | reliable | [`Watching::assert_told_all`]: an event is missing that the history has |
//! | resumable | the first event is older than asked for, or ([`Watching::assert_told_all`]) the first one is missing |
//! | bookmarkable | an event comes at or below a revision that progress, or an earlier response, has said is done |
//! | filtered | an event outside the range, or of a kind that was filtered, or before the start |
//! | prev_kv right | it is not what the history has, comes unasked, or with a key's creation |
//! | progress never ahead | [`Watching::assert_told_all`]: progress was told and an event at or below it is missing |
//!
//! The history that it compares with is not a watch's: [`History::read`] makes it of ranges at each revision. Source: etcd
//! `tests/robustness/validate/watch.go`, whose list this is.

use crate::client::Client;
use crate::client::answer;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::Event;
use etcd_lab::proto::mvccpb::KeyValue;
use etcd_lab::proto::mvccpb::event::EventType;
use etcd_lab::types::KeyRange;
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

/// How long a response may take that must come.
const RESPONDS_WITHIN: Duration = Duration::from_secs(20);
const ALL_WATCHES: i64 = -1;

/// One watch as it was asked for, and how far it has been told.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) create: pb::WatchCreateRequest,
    range: KeyRange,
    /// The first revision of interest.
    start: i64,
    /// Nothing at or below it may come any more.
    pub(crate) done: i64,
    pub(crate) events: Vec<Event>,
    /// Pieces of a response that is not complete.
    pieces: Vec<Event>,
    pub(crate) is_cancelled: bool,
}

pub(crate) fn revision(event: &Event) -> i64 {
    kv(event).mod_revision
}

fn kv(event: &Event) -> &KeyValue {
    event.kv.as_ref().expect("an event has a key")
}

fn is_delete(event: &Event) -> bool {
    event.r#type == EventType::Delete as i32
}

impl Watched {
    fn new(create: pb::WatchCreateRequest, created_at: i64) -> Watched {
        let key = if create.key.is_empty() { vec![0].into() } else { create.key.clone() };
        let range = KeyRange::parse(&key, &create.range_end);
        let start = if create.start_revision == 0 { created_at + 1 } else { create.start_revision };
        Watched { range, start, done: start - 1, create, events: Vec::new(), pieces: Vec::new(), is_cancelled: false }
    }

    fn wants(&self, event: &Event) -> bool {
        let filter = if is_delete(event) { FilterType::Nodelete } else { FilterType::Noput };
        self.range.contains(&kv(event).key) && !self.create.filters.contains(&(filter as i32))
    }

    /// Takes a response; panics on a broken promise.
    fn take(&mut self, response: &pb::WatchResponse) {
        assert!(!self.is_cancelled, "after its end: {response:?}");
        let says = response.header.as_ref().expect("a header").revision;
        self.is_cancelled = response.canceled;
        if response.fragment {
            assert!(self.create.fragment, "cut unasked");
            return self.pieces.extend(response.events.iter().cloned());
        }
        let mut events = std::mem::take(&mut self.pieces);
        events.extend(response.events.iter().cloned());
        let Some(last) = events.last().map(revision) else {
            // Progress, or the end. The end by a compaction says no revision.
            self.done = self.done.max(says);
            return;
        };
        assert!(revision(&events[0]) > self.done, "unique, atomic, bookmarkable: {events:?} after {}", self.done);
        assert!(events.is_sorted_by_key(revision), "ordered: {events:?}");
        let mut seen = BTreeSet::new();
        for event in &events {
            assert!(seen.insert((revision(event), &kv(event).key)), "unique: {event:?}");
            assert!(self.wants(event) && revision(event) >= self.start, "filtered: {event:?} for {:?}", self.create);
            let creates = !is_delete(event) && kv(event).create_revision == kv(event).mod_revision;
            let may_have_before = self.create.prev_kv && !creates;
            assert!(event.prev_kv.is_none() || may_have_before, "prev_kv without a reason: {event:?}");
        }
        assert!(says >= last, "the header says {says} with an event of {last}");
        self.done = last;
        self.events.append(&mut events);
    }

    /// Compares with what really happened up to `until`.
    pub(crate) fn assert_told_all(&self, history: &History, until: i64) {
        let is_due = |event: &&Event| (self.start..=until).contains(&revision(event)) && self.wants(event);
        let due: Vec<&Event> = history.events.iter().filter(is_due).collect();
        let told: Vec<&Event> = self.events.iter().filter(|event| revision(event) <= until).collect();
        for (due, told) in due.iter().zip(&told) {
            let bare = Event { prev_kv: None, ..(*due).clone() };
            // What was before is not there any more once it is compacted.
            let may_lack = !self.create.prev_kv || revision(due) - 1 < history.readable_from;
            let is_right = if self.create.prev_kv { due == told } else { bare == **told };
            assert!(is_right || may_lack && bare == **told, "told {told:?}, due {due:?}, of {:?}", self.create);
        }
        assert_eq!(told.len(), due.len(), "reliable: up to {until}, of {:?}", self.create);
    }
}

/// What really happened.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
    /// The last compaction: what was before may be missing.
    pub(crate) readable_from: i64,
}

impl History {
    /// The history of all keys from revision `from` to `to`, by a range at each revision.
    pub(crate) async fn read(client: &Client, member: usize, from: i64, to: i64) -> History {
        let mut history = History::default();
        let mut before = if from > 1 { state(client, member, from - 1).await } else { BTreeMap::new() };
        for at in from..=to {
            let after = state(client, member, at).await;
            history.events.extend(difference(&before, &after, at));
            before = after;
        }
        history
    }
}

type State = BTreeMap<Vec<u8>, KeyValue>;

async fn state(client: &Client, member: usize, revision: i64) -> State {
    let all = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        serializable: true,
        ..Default::default()
    };
    let found = answer(RESPONDS_WITHIN, client.kv(member).range(all)).await.expect("a revision that can be read");
    found.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv)).collect()
}

/// The events that lead from one revision to the next. Within a revision in the order of keys, which is the order of these tests' transactions.
fn difference(before: &State, after: &State, at: i64) -> Vec<Event> {
    let mut events = Vec::new();
    for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let prev_kv = before.get(key).cloned();
        match after.get(key) {
            Some(kv) if kv.mod_revision == at => {
                let prev_kv = prev_kv.filter(|_| kv.create_revision < at);
                events.push(Event { r#type: EventType::Put as i32, kv: Some(kv.clone()), prev_kv });
            }
            Some(_) => {}
            None => {
                let kv = KeyValue { key: key.clone().into(), mod_revision: at, ..Default::default() };
                events.push(Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv });
            }
        }
    }
    events
}

/// What was said on one stream, checked.
#[derive(Default)]
pub(crate) struct WatchChecker {
    asked: VecDeque<pb::WatchCreateRequest>,
    pub(crate) watches: BTreeMap<i64, Watched>,
    /// Watches that were cancelled, in the order of their ends, if their ids were used again.
    pub(crate) ended: Vec<Watched>,
}

impl WatchChecker {
    fn asked(&mut self, create: pb::WatchCreateRequest) {
        self.asked.push_back(create);
    }

    pub(crate) fn take(&mut self, response: &pb::WatchResponse) {
        if response.created {
            let create = self.asked.pop_front().expect("an answer to a request");
            if response.canceled {
                assert_eq!(response.watch_id, ALL_WATCHES, "refused: {response:?}");
                return;
            }
            let says = response.header.as_ref().expect("a header").revision;
            assert!(response.events.is_empty(), "created and events are told apart");
            let old = self.watches.insert(response.watch_id, Watched::new(create, says));
            assert!(old.as_ref().is_none_or(|old| old.is_cancelled), "an id in use: {response:?}");
            self.ended.extend(old);
            return;
        }
        if response.watch_id == ALL_WATCHES {
            assert!(response.events.is_empty() && !response.canceled, "{response:?}");
            let live = self.watches.values_mut().filter(|watch| !watch.is_cancelled);
            live.for_each(|watch| watch.take(response));
            return;
        }
        let watch = self.watches.get_mut(&response.watch_id);
        watch.unwrap_or_else(|| panic!("created comes first: {response:?}")).take(response);
    }

    /// Compares every watch with what really happened: a running one up to `until`, an ended one up to its last event, and each one up to where
    /// progress has said that it is.
    pub(crate) fn assert_told_all(&self, history: &History, until: i64) {
        for watch in self.watches.values().chain(&self.ended) {
            watch.assert_told_all(history, if watch.is_cancelled { watch.done } else { until.max(watch.done) });
        }
    }
}

/// What a stream says, from its first response on.
enum Responses {
    Opening(JoinHandle<Result<Streaming<pb::WatchResponse>, Status>>),
    Open(Box<Streaming<pb::WatchResponse>>),
}

impl Responses {
    /// Safe to drop while it waits.
    async fn message(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        loop {
            match self {
                Responses::Open(stream) => return stream.message().await,
                Responses::Opening(opening) => *self = Responses::Open(Box::new(opening.await.expect("no panic")?)),
            }
        }
    }
}

/// One watch stream, every response of which is checked.
pub(crate) struct Watching {
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    responses: Responses,
    pub(crate) checker: WatchChecker,
}

/// A watch of all keys with this prefix from a revision on.
pub(crate) fn watch(prefix: &str, start_revision: i64) -> pb::WatchCreateRequest {
    let range_end = crate::client::prefix_end(prefix).into();
    pb::WatchCreateRequest { key: prefix.to_owned().into(), range_end, start_revision, ..Default::default() }
}

impl Watching {
    pub(crate) fn open(client: &Client, member: usize) -> Watching {
        Watching::open_with(client, member, false)
    }

    /// With or without the wish that the member knows a leader. Whether there is a stream is known with its first response: etcd says nothing
    /// before.
    pub(crate) fn open_with(client: &Client, member: usize, needs_leader: bool) -> Watching {
        let (requests, outgoing) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if needs_leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
        }
        let mut watch = client.watch(member).max_decoding_message_size(1 << 28);
        let opening = async move { watch.watch(request).await.map(Response::into_inner) };
        let responses = Responses::Opening(tokio::spawn(opening));
        Watching { requests: Some(requests), responses, checker: WatchChecker::default() }
    }

    async fn send(&self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        let requests = self.requests.as_ref().expect("not closed yet");
        // Whoever cannot send hears why with the next response.
        let _ended = requests.send(request).await;
    }

    pub(crate) async fn create(&mut self, create: pb::WatchCreateRequest) {
        self.checker.asked(create.clone());
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    /// Creates a watch and returns the answer.
    pub(crate) async fn created(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.create(create).await;
        self.until(|response| response.created).await
    }

    pub(crate) async fn cancel(&mut self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }

    pub(crate) async fn ask_progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// Sends no more requests; listens on.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next response, or why there is none.
    pub(crate) async fn next_or(&mut self) -> Result<pb::WatchResponse, Status> {
        let response = self.next_unchecked().await?;
        self.checker.take(&response);
        Ok(response)
    }

    /// The same, not checked: for what is told of a watch that has ended.
    pub(crate) async fn next_unchecked(&mut self) -> Result<pb::WatchResponse, Status> {
        match tokio::time::timeout(RESPONDS_WITHIN, self.responses.message()).await {
            Err(_) => Err(Status::deadline_exceeded("silence")),
            Ok(Ok(None)) => Err(Status::ok("the stream has ended")),
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Err(status)) => Err(status),
        }
    }

    pub(crate) async fn next(&mut self) -> pb::WatchResponse {
        self.next_or().await.unwrap_or_else(|status| panic!("no response: {status:?}"))
    }

    /// Reads until a response is as wished, and returns it.
    pub(crate) async fn until(&mut self, wished: impl Fn(&pb::WatchResponse) -> bool) -> pb::WatchResponse {
        loop {
            let response = self.next().await;
            if wished(&response) {
                return response;
            }
        }
    }

    /// Reads until a watch has been told of `revision` or of something later.
    pub(crate) async fn until_told(&mut self, watch_id: i64, revision: i64) {
        while self.checker.watches.get(&watch_id).is_none_or(|watch| watch.done < revision) {
            self.next().await;
        }
    }

    /// Everything up to `revision` was told to every watch: compares with the history of all keys from its beginning.
    pub(crate) async fn assert_told_all(&self, client: &Client, member: usize, from: i64, revision: i64) {
        let history = History::read(client, member, from, revision).await;
        self.checker.assert_told_all(&history, revision);
    }
}

/// A put of `key` at this revision, as the watch of a fresh store should tell it.
fn put_event(at: i64, key: &str, before: Option<&Event>) -> Event {
    let before = before.and_then(|event| event.kv.clone());
    let (create_revision, version) = before.as_ref().map_or((at, 1), |kv| (kv.create_revision, kv.version + 1));
    let kv = KeyValue { key: key.to_owned().into(), create_revision, mod_revision: at, version, ..Default::default() };
    Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: before }
}

fn says(watch_id: i64, revision: i64, events: Vec<Event>) -> pb::WatchResponse {
    let header = Some(pb::ResponseHeader { revision, ..Default::default() });
    pb::WatchResponse { header, watch_id, events, ..Default::default() }
}

/// Whether the checker complains of these responses to one watch, of prev_kv, of the prefix "", from revision 2 on.
fn is_noticed(history: &[Event], responses: Vec<pb::WatchResponse>) -> bool {
    let events = history.to_vec();
    let check = move || {
        let mut checker = WatchChecker::default();
        let range_end = vec![0].into();
        checker.asked(pb::WatchCreateRequest { range_end, start_revision: 2, prev_kv: true, ..Default::default() });
        checker.take(&pb::WatchResponse { created: true, ..says(0, 1, vec![]) });
        responses.iter().for_each(|response| checker.take(response));
        checker.assert_told_all(&History { events, readable_from: 0 }, 4);
    };
    std::panic::catch_unwind(check).is_err()
}

#[test]
fn each_broken_promise_is_noticed() {
    let (a2, b3) = (put_event(2, "a", None), put_event(3, "b", None));
    let (a4, b4) = (put_event(4, "a", Some(&a2)), put_event(4, "b", Some(&b3)));
    let history = [a2.clone(), b3.clone(), a4.clone(), b4.clone()];
    let one = |event: &Event| says(0, revision(event), vec![event.clone()]);
    let both = || says(0, 4, vec![a4.clone(), b4.clone()]);
    let is_noticed = |responses: Vec<pb::WatchResponse>| is_noticed(&history, responses);
    assert!(!is_noticed(vec![one(&a2), says(0, 2, vec![]), one(&b3), both()]), "as it should be");
    assert!(!is_noticed(vec![says(0, 4, history.to_vec()), says(-1, 4, vec![])]), "all at once");
    assert!(is_noticed(vec![says(0, 4, vec![b3.clone(), a2.clone(), a4.clone(), b4.clone()])]), "ordered");
    assert!(is_noticed(vec![one(&a2), one(&a2), one(&b3), both()]), "unique");
    assert!(is_noticed(vec![one(&a2), one(&b3), one(&a4), one(&b4)]), "atomic");
    assert!(is_noticed(vec![one(&a2), both()]), "reliable");
    assert!(is_noticed(vec![one(&b3), both()]), "resumable");
    assert!(is_noticed(vec![one(&a2), says(0, 3, vec![]), one(&b3), both()]), "bookmarkable");
    assert!(is_noticed(vec![one(&a2), says(-1, 3, vec![]), one(&b3), both()]), "progress for all");
    assert!(is_noticed(vec![one(&a2), one(&b3), says(0, 4, vec![])]), "progress ahead of events");
    assert!(is_noticed(vec![says(0, 1, vec![put_event(1, "a", None)]), one(&a2), one(&b3), both()]), "filtered");
    let mut wrong = both();
    wrong.events[0].prev_kv = None;
    assert!(is_noticed(vec![one(&a2), one(&b3), wrong]), "prev_kv missing");
    let mut wrong = one(&a2);
    wrong.events[0].prev_kv = b3.kv.clone();
    assert!(is_noticed(vec![wrong, one(&b3), both()]), "prev_kv of a key that was not there");
    assert!(is_noticed(vec![one(&a2), pb::WatchResponse { canceled: true, ..says(0, 2, vec![]) }, one(&b3)]), "an end");
}
