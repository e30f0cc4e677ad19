//! What waits for one stream: its queue, its watchers, and which of them lag.

use super::Limits;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::Event;
use crate::types::KeyRange;
use crate::types::Revision;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Wake-ups of one stream.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// Something was queued, or a watcher lags.
    pub(super) items: Notify,
    /// An answer left the queue.
    pub(super) room: Notify,
}

/// Events for one watcher.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) watch_id: i64,
    pub(super) revision: Revision,
    pub(super) events: Arc<[Event]>,
    /// Which of them; all if it does not say.
    pub(super) picked: Option<Vec<u32>>,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

impl Delivery {
    pub(super) fn into_response(self) -> pb::WatchResponse {
        let events = match &self.picked {
            Some(picked) => picked.iter().map(|place| self.events[*place as usize].clone()).collect(),
            None => self.events.to_vec(),
        };
        pb::WatchResponse { header: header(self.revision), watch_id: self.watch_id, events, ..Default::default() }
    }

    fn bytes(&self) -> usize {
        let size = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len() + 64);
        match &self.picked {
            Some(picked) => picked.iter().map(|place| size(&self.events[*place as usize])).sum(),
            None => self.events.iter().map(size).sum(),
        }
    }
}

/// A header that says the revision and leaves the rest to the server.
pub(super) fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.to_wire(), ..Default::default() })
}

#[derive(Debug)]
pub(super) enum Item {
    /// Created, cancelled, progress.
    Answer(Box<pb::WatchResponse>),
    Events(Delivery),
}

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Tells it from an earlier watcher with the same id.
    pub(super) serial: u64,
    pub(super) range: KeyRange,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
    /// Gets no event since the last progress report.
    pub(super) quiet: bool,
    /// Gets its events from the hub; else from history.
    pub(super) live: bool,
    /// Where it was asked to begin; 0 if at the time of asking.
    pub(super) start: Revision,
    /// The first revision that it may be told: its start, or what came next when it began. For those who look.
    pub(super) first: Revision,
    /// The first revision that it may still want. While it is live, only what is above the hub's revision counts.
    pub(super) next: Revision,
    /// Its last entry in the queue, counted over the stream's life.
    pub(super) last_item: u64,
}

impl Watcher {
    /// Whether it has been told everything up to `current`, and its start is not still to come.
    pub(super) fn knows(&self, current: Revision) -> bool {
        self.live && self.start <= current
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        if event.r#type == 0 { !self.no_put } else { !self.no_delete }
    }
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    pushed: u64,
    popped: u64,
    answers: usize,
    bytes: usize,
    pub(super) watchers: BTreeMap<i64, Watcher>,
    /// Watchers that compaction has overtaken and the client has not cancelled yet: as in etcd, they keep their ids, and the stream knows no
    /// progress while there are any.
    pub(super) overtaken: BTreeSet<i64>,
    /// The watchers that lag, in the order in which they are served.
    lagging: VecDeque<i64>,
    /// Whether the last response came from the queue: then one who lags is next.
    lagging_next: bool,
    next_id: i64,
    pub(super) wake: Arc<Wake>,
    /// Where its client is.
    pub(super) client: String,
}

impl Queue {
    /// A stream of this client's.
    pub(super) fn of(client: String) -> Queue {
        Queue { client, ..Queue::default() }
    }

    /// The smallest id from a counter that no watcher has.
    pub(super) fn free_id(&mut self) -> i64 {
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.overtaken.contains(&id)
    }

    /// How many watchers take up memory.
    pub(super) fn held(&self) -> usize {
        self.watchers.len() + self.overtaken.len()
    }

    /// Queues how far a watcher is, or all of them are. History must not overtake that: who lags from here on reads it only afterwards.
    pub(super) fn progress(&mut self, watch_id: Option<i64>, response: pb::WatchResponse) {
        self.answer(response);
        let last_item = self.pushed;
        match watch_id {
            Some(id) => self.watchers.get_mut(&id).into_iter().for_each(|watcher| watcher.last_item = last_item),
            None => self.watchers.values_mut().for_each(|watcher| watcher.last_item = last_item),
        }
    }

    pub(super) fn answer(&mut self, response: pb::WatchResponse) {
        self.answers += 1;
        self.push(Item::Answer(Box::new(response)));
    }

    /// Queues events, unless too much waits already; then returns them.
    pub(super) fn offer(&mut self, delivery: Delivery, limits: &Limits) -> Result<(), Delivery> {
        let (bytes, waiting) = (delivery.bytes(), self.items.len() - self.answers);
        if waiting >= limits.queue_responses || (waiting > 0 && self.bytes + bytes > limits.queue_bytes) {
            return Err(delivery);
        }
        self.bytes += bytes;
        let watch_id = delivery.watch_id;
        self.push(Item::Events(delivery));
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.last_item = self.pushed;
        }
        Ok(())
    }

    fn push(&mut self, item: Item) {
        self.items.push_back(item);
        self.pushed += 1;
    }

    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.popped += 1;
        self.lagging_next = true;
        match &item {
            Item::Answer(_) => self.answers -= 1,
            Item::Events(delivery) => self.bytes -= delivery.bytes(),
        }
        Some(item)
    }

    /// The next watcher to catch up: each in its turn, after all that the queue has for it, and taking turns with the queue.
    pub(super) fn turn_of_lagging(&mut self) -> Option<i64> {
        if !self.lagging_next && !self.items.is_empty() {
            return None;
        }
        let ready = |id: &i64| self.watchers.get(id).is_some_and(|watcher| watcher.last_item <= self.popped);
        let place = self.lagging.iter().position(ready)?;
        let id = self.lagging.remove(place)?;
        self.lagging.push_back(id);
        self.lagging_next = false;
        Some(id)
    }

    pub(super) fn lag(&mut self, id: i64) {
        self.lagging.push_back(id);
    }

    pub(super) fn lag_no_more(&mut self, id: i64) {
        self.lagging.retain(|other| *other != id);
    }

    pub(super) fn lagging(&self) -> impl Iterator<Item = i64> {
        self.lagging.iter().copied()
    }

    pub(super) fn slow(&self) -> usize {
        self.lagging.len()
    }

    pub(super) fn pending(&self) -> usize {
        self.items.len() - self.answers
    }

    pub(super) fn answers(&self) -> usize {
        self.answers
    }
}
