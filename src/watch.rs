//! Which watcher gets which event, and who lags.
//!
//! The apply path hands the hub the events of one revision; the hub finds who watches their keys and puts one entry into the
//! queue of each watcher's stream. Everything that a stream is told takes this one queue, in order: created, events, progress, cancelled.
//!
//! ```text
//! publish ──▶ hub: who watches? ──▶ queue of stream 1 ──▶ next() ──▶ client
//!                               └─▶ queue of stream 2   (full!)
//!                                     its watchers lag ──▶ next() reads history from each one's cursor,
//!                                                          and once there, the watcher is live again
//! ```
//!
//! A full queue never holds the apply path: the watcher is marked as *lagging*, with a cursor, and the stream's own reader
//! catches it up from history whenever it comes for more. If compaction passes the cursor, the watcher is cancelled and told where history
//! begins. So each watcher gets every event of its range once and in order, or is told that it did not.
//!
//! Left out: encoding an event once for all its watchers. Source: contract-server 3; etcd `server/storage/mvcc/watchable_store.go`.

mod hub;
mod queue;
mod tree;

#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::lab;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use hub::Hub;
use hub::Step;
use parking_lot::Mutex;
use prost::Message;
use queue::Delivery;
use queue::Wake;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many revisions one reading of history has at most; etcd's number.
const CATCH_UP_REVISIONS: usize = 1000;

/// Bounds of the hub; the defaults are for everybody but tests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many responses with events wait in one stream before its watchers lag.
    pub queue_responses: usize,
    /// How many bytes of events wait in one stream before its watchers lag. One larger revision still finds its way.
    pub queue_bytes: usize,
    /// How many answers to requests wait in one stream before no more requests should be read from it.
    pub queue_answers: usize,
    /// How many watchers one stream may have. etcd knows no limit; a client that needs more opens another stream.
    pub stream_watchers: usize,
    /// How many watchers all streams may have together: each takes some hundred bytes. etcd knows no limit here either.
    pub watchers: usize,
    /// From what size on a response is cut for a watcher that asked for fragments: `--max-request-bytes` and half a megabyte.
    pub fragment_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queue_responses: 1024,
            queue_bytes: 16 << 20,
            queue_answers: 64,
            stream_watchers: 1 << 18,
            watchers: 1 << 20,
            fragment_bytes: (3 << 19) + (1 << 19),
        }
    }
}

/// A stretch of the past.
#[derive(Clone, Debug, PartialEq)]
pub enum Past {
    /// All events of the range up to `through`, in order.
    Events { events: Vec<Event>, through: Revision },
    /// History begins later than asked: at this revision.
    Compacted(Revision),
}

/// How a stream reads what happened before.
pub trait History: Send + Sync {
    /// The events of `range` from revision `from` on, of at most about `max_revisions` revisions, none of them cut.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`].
    fn events(&self, range: &KeyRange, from: Revision, max_revisions: usize) -> Result<Past, Error>;

    /// `key` as it was right before revision `at`; nothing if it was not there, or if that is compacted.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`].
    fn previous(&self, key: &Bytes, at: Revision) -> Result<Option<KeyValue>, Error>;
}

/// How much there is to watch, for metrics and telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that lag behind.
    pub slow: usize,
    /// Responses with events that wait in queues.
    pub pending: usize,
}

/// One watcher as the lab shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub stream: u64,
    pub watch_id: i64,
    pub range: KeyRange,
    pub start: Revision,
    /// The first revision that it may be told.
    pub first: Revision,
    /// It has been told everything below.
    pub next: Revision,
    /// It gets what happens as it happens; else it reads history.
    pub synced: bool,
    /// Compaction has overtaken it, and its client has not let go of it yet.
    pub cancelled: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub progress_notify: bool,
    /// Responses with events that wait in its whole stream.
    pub queued: usize,
    /// Where its stream's client is.
    pub client: String,
}

impl Seen {
    /// As it is told to who looks.
    #[must_use]
    pub fn into_wire(self) -> lab::Watcher {
        let (key, range_end) = self.range.to_wire();
        lab::Watcher {
            stream: self.stream,
            watch_id: self.watch_id,
            key,
            range_end,
            start_revision: self.start.0,
            next_revision: self.next.0,
            synced: self.synced,
            cancelled: self.cancelled,
            no_put: self.no_put,
            no_delete: self.no_delete,
            prev_kv: self.prev_kv,
            progress_notify: self.progress_notify,
            queued: u32::try_from(self.queued).unwrap_or(u32::MAX),
            client: self.client,
            first_revision: self.first.0,
        }
    }
}

/// The hub behind its lock; cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Hub>>);

impl Shared {
    /// A hub without watchers, in a store at `current`.
    #[must_use]
    pub fn new(current: Revision) -> Shared {
        Shared::with_limits(current, Limits::default())
    }

    /// A hub with other bounds than usual.
    #[must_use]
    pub fn with_limits(current: Revision, limits: Limits) -> Shared {
        Shared(Arc::new(Mutex::new(Hub::new(current, limits))))
    }

    /// Tells the watchers of `revision`. Call it in the order of revisions, and before the writer gets its answer: who then opens a watch
    /// starts behind its own write.
    pub fn publish(&self, revision: Revision, events: &[Event]) {
        let wakes = self.0.lock().publish(revision, events);
        wakes.iter().for_each(|wake| wake.items.notify_one());
    }

    /// Cancels the watchers that still want what is below `floor`.
    pub fn compacted(&self, floor: Revision) {
        let wakes = self.0.lock().compacted(floor);
        wakes.iter().for_each(|wake| wake.items.notify_one());
    }

    /// The store was replaced by a snapshot at `current`: every watcher reads on from where it was.
    pub fn restored(&self, current: Revision) {
        let wakes = self.0.lock().restored(current);
        wakes.iter().for_each(|wake| wake.items.notify_one());
    }

    /// Ends all streams, present and future, with `why`.
    pub fn close(&self, why: Error) {
        let wakes = self.0.lock().close(why);
        for wake in wakes {
            wake.items.notify_one();
            wake.room.notify_one();
        }
    }

    /// A stream without watchers. Dropping it removes what it has by then.
    #[must_use]
    pub fn open_stream(&self) -> Stream {
        self.open_stream_of(String::new())
    }

    /// The same for a client at this address, for the lab to show.
    #[must_use]
    pub fn open_stream_of(&self, client: String) -> Stream {
        let (id, wake, limits) = self.0.lock().open(client);
        Stream { hub: Arc::clone(&self.0), id, wake, limits, pieces: Mutex::default() }
    }

    /// At most `max` watchers for the lab to show, oldest stream first, and how many there are.
    #[must_use]
    pub fn look(&self, max: usize) -> (Vec<Seen>, usize) {
        self.0.lock().look(max)
    }

    /// How much there is to watch.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.lock().counts()
    }
}

/// One client's watch stream: requests in, responses out, in one order.
pub struct Stream {
    hub: Arc<Mutex<Hub>>,
    id: u64,
    wake: Arc<Wake>,
    limits: Limits,
    /// What is left of a response that was cut.
    pieces: Mutex<VecDeque<pb::WatchResponse>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.lock().remove(self.id);
    }
}

impl Stream {
    /// Takes a request. Never fails: answers, refusals too, go into the queue. An empty request is ignored.
    pub fn request(&self, request: pb::WatchRequest) {
        use pb::watch_request::RequestUnion;
        let mut hub = self.hub.lock();
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => hub.create(self.id, create),
            Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(self.id, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => hub.progress(self.id),
            None => {}
        }
        drop(hub);
        self.wake.items.notify_one();
    }

    /// Refuses a create request for a reason that the hub knows nothing of, such as a missing permission.
    pub fn refuse(&self, reason: &str) {
        self.hub.lock().refuse(self.id, reason);
        self.wake.items.notify_one();
    }

    /// The ids of this stream's watchers and what each is for.
    #[must_use]
    pub fn watchers(&self) -> Vec<(i64, KeyRange)> {
        self.hub.lock().watchers(self.id)
    }

    /// Cancels a watcher and says why; nothing if it has gone by itself.
    pub fn revoke(&self, watch_id: i64, reason: &str) {
        self.hub.lock().revoke(self.id, watch_id, reason);
        self.wake.items.notify_one();
    }

    /// Returns when the next request may be read from the client: its answers do not pile up.
    pub async fn room(&self) {
        while !self.hub.lock().has_room(self.id) {
            self.wake.room.notified().await;
        }
    }

    /// Tells the watchers that asked for it, that have got no event since the last call, and that do not lag, how far they are. The server
    /// calls this every `--watch-progress-notify-interval`.
    pub fn report_progress(&self) {
        self.hub.lock().report_progress(self.id);
        self.wake.items.notify_one();
    }

    /// The next response; waits for one. For one caller at a time. Safe to drop while it waits.
    ///
    /// # Errors
    /// What [`Shared::close`] was told, or [`Error::Storage`] or [`Error::Damaged`] from `history`; then the stream is over.
    pub async fn next(&self, history: &dyn History) -> Result<pb::WatchResponse, Error> {
        loop {
            if let Some(piece) = self.pieces.lock().pop_front() {
                return Ok(piece);
            }
            let step = self.hub.lock().step(self.id);
            match step {
                Step::Say(response) => {
                    self.wake.room.notify_one();
                    return Ok(response);
                }
                Step::Deliver(delivery) => return self.deliver(delivery, history),
                Step::CatchUp { watch_id, serial, range, from } => {
                    let past = history.events(&range, from, CATCH_UP_REVISIONS)?;
                    let caught_up = self.hub.lock().caught_up(self.id, watch_id, serial, past);
                    if let Some(delivery) = caught_up {
                        return self.deliver(delivery, history);
                    }
                }
                Step::Wait => self.wake.items.notified().await,
                Step::Closed(why) => return Err(why),
            }
        }
    }

    /// Makes the response of a delivery; if it is cut, the first piece of it.
    fn deliver(&self, delivery: Delivery, history: &dyn History) -> Result<pb::WatchResponse, Error> {
        let (prev_kv, fragment) = (delivery.prev_kv, delivery.fragment);
        let mut response = delivery.into_response();
        if prev_kv {
            for event in &mut response.events {
                event.prev_kv = previous(event, history)?;
            }
        }
        if !fragment || response.events.len() < 2 || response.encoded_len() < self.limits.fragment_bytes {
            return Ok(response);
        }
        let mut pieces = cut(response, self.limits.fragment_bytes);
        let first = pieces.pop_front().expect("a response with events has a first piece");
        *self.pieces.lock() = pieces;
        Ok(first)
    }
}

fn previous(event: &Event, history: &dyn History) -> Result<Option<KeyValue>, Error> {
    let Some(kv) = &event.kv else { return Ok(None) };
    // A put that creates its key has nothing before it.
    if kv.version == 1 {
        return Ok(None);
    }
    history.previous(&kv.key, Revision(kv.mod_revision.unsigned_abs()))
}

/// Cuts a response by events into pieces below `limit` bytes; one event is never cut.
fn cut(mut response: pb::WatchResponse, limit: usize) -> VecDeque<pb::WatchResponse> {
    let events = std::mem::take(&mut response.events);
    let empty = pb::WatchResponse { fragment: true, ..response };
    let mut pieces = VecDeque::from([empty.clone()]);
    let mut bytes = empty.encoded_len();
    for event in events {
        let size = event.encoded_len();
        let cost = 1 + prost::length_delimiter_len(size) + size;
        let last = pieces.back_mut().expect("never empty");
        if !last.events.is_empty() && bytes + cost >= limit {
            pieces.push_back(empty.clone());
            bytes = empty.encoded_len();
        }
        pieces.back_mut().expect("never empty").events.push(event);
        bytes += cost;
    }
    pieces.back_mut().expect("never empty").fragment = false;
    pieces
}
