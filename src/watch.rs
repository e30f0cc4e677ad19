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
//! Events are encoded once for all who are told of them ([`Told`]), and a stream's reader takes what is in its own queue without the hub
//! and its lock. Source: contract-server 3; etcd `server/storage/mvcc/watchable_store.go`.

mod batch;
mod few;
mod hub;
mod outbox;
mod queue;
mod tree;

#[cfg(test)]
mod tests;

pub use batch::Told;

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
use outbox::Delivery;
use outbox::Found;
use outbox::Item;
use outbox::Outbox;
use parking_lot::Mutex;
use prost::Message;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

/// How many revisions one reading of history has at most; etcd's number.
const CATCH_UP_REVISIONS: usize = 1000;

/// After a response from history a stream has nothing to say for so many polls, so that the other calls of its connection have their turn: the first is
/// used up by tonic, which then passes on what it has gathered and asks again at once.
const RESTS: u8 = 2;

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
        wakes.iter().for_each(|outbox| outbox.wake());
    }

    /// Cancels the watchers that still want what is below `floor`.
    pub fn compacted(&self, floor: Revision) {
        let wakes = self.0.lock().compacted(floor);
        wakes.iter().for_each(|outbox| outbox.wake());
    }

    /// The store was replaced by a snapshot at `current`: every watcher reads on from where it was.
    pub fn restored(&self, current: Revision) {
        let wakes = self.0.lock().restored(current);
        wakes.iter().for_each(|outbox| outbox.wake());
    }

    /// Ends all streams, present and future, with `why`.
    pub fn close(&self, why: Error) {
        let wakes = self.0.lock().close(why);
        wakes.iter().for_each(|outbox| outbox.wake());
    }

    /// A stream without watchers. Dropping it removes what it has by then.
    #[must_use]
    pub fn open_stream(&self) -> Stream {
        self.open_stream_of(String::new())
    }

    /// The same for a client at this address, for the lab to show.
    #[must_use]
    pub fn open_stream_of(&self, client: String) -> Stream {
        let (id, outbox, limits) = self.0.lock().open(client);
        Stream { hub: Arc::clone(&self.0), id, outbox, limits, pieces: Mutex::default(), rests: AtomicU8::new(0) }
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
    outbox: Arc<Outbox>,
    limits: Limits,
    /// What is left of a response that was cut.
    pieces: Mutex<VecDeque<Told>>,
    /// How often it has nothing to say before it reads more history.
    rests: AtomicU8,
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
        self.outbox.wake();
    }

    /// Refuses a create request for a reason that the hub knows nothing of, such as a missing permission.
    pub fn refuse(&self, reason: &str) {
        self.hub.lock().refuse(self.id, reason);
        self.outbox.wake();
    }

    /// The ids of this stream's watchers and what each is for.
    #[must_use]
    pub fn watchers(&self) -> Vec<(i64, KeyRange)> {
        self.hub.lock().watchers(self.id)
    }

    /// Cancels a watcher and says why; nothing if it has gone by itself.
    pub fn revoke(&self, watch_id: i64, reason: &str) {
        self.hub.lock().revoke(self.id, watch_id, reason);
        self.outbox.wake();
    }

    /// Whether the next request may be read from the client: its answers do not pile up. If not, something waits to be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outbox.answers() < self.limits.queue_answers
    }

    /// Tells the watchers that asked for it, that have got no event since the last call, and that do not lag, how far they are. The server
    /// calls this every `--watch-progress-notify-interval`.
    pub fn report_progress(&self) {
        self.hub.lock().report_progress(self.id);
        self.outbox.wake();
    }

    /// The next response; waits for one. For one caller at a time. Safe to drop while it waits.
    ///
    /// # Errors
    /// Those of [`Stream::poll_told`].
    pub async fn next(&self, history: &dyn History) -> Result<pb::WatchResponse, Error> {
        poll_fn(|cx| self.poll_any(cx, history, false)).await.map(Told::into_response)
    }

    /// The next response, for one who sends it on, in a task that has other work: after a step through history that goes first. For one caller at a
    /// time, who is woken when there is more to do here.
    ///
    /// # Errors
    /// What [`Shared::close`] was told, or [`Error::Storage`] or [`Error::Damaged`] from `history`; then the stream is over.
    pub fn poll_told(&self, cx: &mut Context<'_>, history: &dyn History) -> Poll<Result<Told, Error>> {
        self.poll_any(cx, history, true)
    }

    fn poll_any(&self, cx: &mut Context<'_>, history: &dyn History, rests: bool) -> Poll<Result<Told, Error>> {
        if let Some(piece) = self.pieces.lock().pop_front() {
            return Poll::Ready(Ok(piece));
        }
        if self.rests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rests| rests.checked_sub(1)).is_ok() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut is_registered = false;
        loop {
            match self.step() {
                Step::Take(Item::Answer(answer)) => return Poll::Ready(Ok(Told::new(*answer, Bytes::new()))),
                Step::Take(Item::Events { delivery, .. }) => return Poll::Ready(self.deliver(&delivery, history)),
                Step::CatchUp { watch_id, serial, range, from } => {
                    let past = match history.events(&range, from, CATCH_UP_REVISIONS) {
                        Ok(past) => past,
                        Err(why) => return Poll::Ready(Err(why)),
                    };
                    let caught_up = self.hub.lock().caught_up(self.id, watch_id, serial, past);
                    if let Some(delivery) = caught_up {
                        self.rests.store(if rests { RESTS } else { 0 }, Ordering::Relaxed);
                        return Poll::Ready(self.deliver(&delivery, history));
                    }
                    if rests {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Step::Wait if is_registered => return Poll::Pending,
                Step::Wait => {
                    // Then a last look: what came in between wakes nobody.
                    self.outbox.waker().register(cx.waker());
                    is_registered = true;
                }
                Step::Closed(why) => return Poll::Ready(Err(why)),
            }
        }
    }

    fn step(&self) -> Step {
        match self.outbox.look() {
            Found::Item(item) => Step::Take(item),
            Found::Nothing => Step::Wait,
            Found::AskHub => self.hub.lock().step(self.id),
            Found::Closed(why) => Step::Closed(why),
        }
    }

    /// Makes the response of a delivery; if it is cut, the first piece of it.
    fn deliver(&self, delivery: &Delivery, history: &dyn History) -> Result<Told, Error> {
        let batch = &delivery.batch;
        let events = batch.encoded(delivery.picked.as_deref(), delivery.prev_kv.then_some(history))?;
        let header = queue::header(delivery.revision);
        let response = pb::WatchResponse { header, watch_id: delivery.watch_id, ..Default::default() };
        let told = Told::new(response, events.bytes());
        if !delivery.fragment || events.len() < 2 || told.encoded_len() < self.limits.fragment_bytes {
            return Ok(told);
        }
        let cut = pb::WatchResponse { fragment: true, ..told.response };
        let pieces = events.pieces(cut.encoded_len(), self.limits.fragment_bytes);
        let mut pieces: VecDeque<Told> = pieces.into_iter().map(|events| Told::new(cut.clone(), events)).collect();
        pieces.back_mut().expect("events have a first piece").response.fragment = false;
        let first = pieces.pop_front().expect("events have a first piece");
        *self.pieces.lock() = pieces;
        Ok(first)
    }
}
