//! What waits for the reader of one stream, under a lock of its own: whoever reads holds up nobody who tells others, and needs the hub
//! only while one of its watchers lags.

use super::Limits;
use super::batch::Batch;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::types::Revision;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// A queue that is empty keeps room for so many.
const KEPT_ITEMS: usize = 16;

/// Events for one watcher.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) watch_id: i64,
    pub(super) revision: Revision,
    pub(super) batch: Arc<Batch>,
    /// Which of them; all if it does not say.
    pub(super) picked: Option<Box<[u32]>>,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

#[derive(Debug)]
pub(super) enum Item {
    /// Created, cancelled, progress.
    Answer(Box<pb::WatchResponse>),
    Events {
        delivery: Delivery,
        /// What the queue counts for it.
        weight: usize,
    },
}

/// What a stream's reader finds.
pub(super) enum Found {
    Item(Item),
    Nothing,
    /// A watcher lags: the hub knows what is next.
    AskHub,
    Closed(Error),
}

/// One stream's queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    /// The reader's.
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Waiting {
    items: VecDeque<Item>,
    popped: u64,
    answers: usize,
    bytes: usize,
    some_lag: bool,
    /// Whether the last response came from the queue: then one who lags is next.
    lagging_next: bool,
    closed: Option<Error>,
}

impl Outbox {
    /// Wakes the reader. Not under the hub's lock, which it may want at once.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Whom to wake.
    pub(super) fn waker(&self) -> &AtomicWaker {
        &self.waker
    }

    pub(super) fn close(&self, why: Error) {
        self.waiting.lock().closed = Some(why);
    }

    pub(super) fn set_some_lag(&self, some_lag: bool) {
        self.waiting.lock().some_lag = some_lag;
    }

    pub(super) fn answer(&self, response: pb::WatchResponse) {
        let mut waiting = self.waiting.lock();
        waiting.answers += 1;
        waiting.items.push_back(Item::Answer(Box::new(response)));
    }

    /// Queues events, unless too much waits already. Whether they were queued.
    pub(super) fn offer(&self, delivery: Delivery, limits: &Limits) -> bool {
        let mut waiting = self.waiting.lock();
        // What waits holds its whole batch, and others of this stream that are told of the same batch hold no more.
        let is_held = |item: &Item| matches!(item, Item::Events { delivery: last, .. } if Arc::ptr_eq(&last.batch, &delivery.batch));
        let weight = if waiting.items.back().is_some_and(is_held) { 0 } else { delivery.batch.weight() };
        let events = waiting.items.len() - waiting.answers;
        if events >= limits.queue_responses || (events > 0 && waiting.bytes + weight > limits.queue_bytes) {
            return false;
        }
        waiting.bytes += weight;
        waiting.items.push_back(Item::Events { delivery, weight });
        true
    }

    /// What is next, without the hub.
    pub(super) fn look(&self) -> Found {
        let mut waiting = self.waiting.lock();
        if let Some(why) = &waiting.closed {
            return Found::Closed(why.clone());
        }
        if waiting.some_lag {
            return Found::AskHub;
        }
        waiting.pop().map_or(Found::Nothing, Found::Item)
    }

    pub(super) fn pop(&self) -> Option<Item> {
        self.waiting.lock().pop()
    }

    /// Whether it is the turn of one who lags, and then up to which item the queue has been read. They take turns with the queue.
    pub(super) fn turn_of_lagging(&self) -> Option<u64> {
        let waiting = self.waiting.lock();
        (waiting.lagging_next || waiting.items.is_empty()).then_some(waiting.popped)
    }

    /// One who lags has had its turn.
    pub(super) fn end_turn_of_lagging(&self) {
        self.waiting.lock().lagging_next = false;
    }

    /// How many answers wait.
    pub(super) fn answers(&self) -> usize {
        self.waiting.lock().answers
    }

    /// How many responses with events wait.
    pub(super) fn pending(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.items.len() - waiting.answers
    }
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting {
            // One at a time is all that most streams ever have; without a word, there would be room for four.
            items: VecDeque::with_capacity(1),
            popped: 0,
            answers: 0,
            bytes: 0,
            some_lag: false,
            lagging_next: false,
            closed: None,
        }
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.popped += 1;
        self.lagging_next = true;
        match &item {
            Item::Answer(_) => self.answers -= 1,
            Item::Events { weight, .. } => self.bytes -= weight,
        }
        if self.items.is_empty() && self.items.capacity() > KEPT_ITEMS {
            self.items = VecDeque::new();
        }
        Some(item)
    }
}
