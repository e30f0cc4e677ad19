//! One stream as the hub knows it: its watchers, which of them lag, and what waits for its reader.

use super::Limits;
use super::outbox::Delivery;
use super::outbox::Outbox;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::Event;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// A header that says the revision and leaves the rest to the server.
pub(super) fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.to_wire(), ..Default::default() })
}

/// What is watched, in little memory, and in none of the bytes that it came in. Most watch one key, which the hub's index shares.
#[derive(Clone, Debug)]
pub(super) enum Watched {
    Key(Arc<[u8]>),
    Range(Box<KeyRange>),
}

impl Watched {
    pub(super) fn of(range: &KeyRange) -> Watched {
        let copy = |key: &Bytes| Bytes::copy_from_slice(key);
        match range {
            KeyRange::Single(key) => Watched::Key(key.as_ref().into()),
            KeyRange::Interval(from, to) => Watched::Range(Box::new(KeyRange::Interval(copy(from), copy(to)))),
            KeyRange::From(from) => Watched::Range(Box::new(KeyRange::From(copy(from)))),
        }
    }

    pub(super) fn range(&self) -> KeyRange {
        match self {
            Watched::Key(key) => KeyRange::Single(Bytes::copy_from_slice(key)),
            Watched::Range(range) => (**range).clone(),
        }
    }
}

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Tells it from an earlier watcher with the same id.
    pub(super) serial: u64,
    pub(super) watched: Watched,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
    /// Gets no event since the last progress report.
    pub(super) quiet: bool,
    /// Gets its events from the hub; else from history.
    pub(super) live: bool,
    /// It was not asked to begin at a revision, but at the time of asking.
    pub(super) from_now: bool,
    /// The first revision that it may be told: its start, or what came next when it began.
    pub(super) first: Revision,
    /// The first revision that it may still want. While it is live, only what is above the hub's revision counts.
    pub(super) next: Revision,
    /// Its last entry in the queue, counted over the stream's life.
    pub(super) last_item: u64,
}

impl Watcher {
    /// Where it was asked to begin; 0 if at the time of asking.
    pub(super) fn start(&self) -> Revision {
        if self.from_now { Revision(0) } else { self.first }
    }

    /// Whether it has been told everything up to `current`, and its start is not still to come.
    pub(super) fn knows(&self, current: Revision) -> bool {
        self.live && self.start() <= current
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        if event.r#type == 0 { !self.no_put } else { !self.no_delete }
    }
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) outbox: Arc<Outbox>,
    pushed: u64,
    /// In boxes: one watcher alone takes no room for others.
    pub(super) watchers: BTreeMap<i64, Box<Watcher>>,
    /// Watchers that compaction has overtaken and the client has not cancelled yet: as in etcd, they keep their ids, and the stream knows no
    /// progress while there are any.
    pub(super) overtaken: BTreeSet<i64>,
    /// The watchers that lag, in the order in which they are served.
    lagging: VecDeque<i64>,
    next_id: i64,
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
        self.outbox.answer(response);
        self.pushed += 1;
    }

    /// Queues events, unless too much waits already. Whether they were queued.
    pub(super) fn offer(&mut self, delivery: Delivery, limits: &Limits) -> bool {
        let watch_id = delivery.watch_id;
        if !self.outbox.offer(delivery, limits) {
            return false;
        }
        self.pushed += 1;
        if let Some(watcher) = self.watchers.get_mut(&watch_id) {
            watcher.last_item = self.pushed;
        }
        true
    }

    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The next watcher to catch up: each in its turn, after all that the queue has for it, and taking turns with the queue.
    pub(super) fn turn_of_lagging(&mut self) -> Option<i64> {
        let popped = self.outbox.turn_of_lagging()?;
        let ready = |id: &i64| self.watchers.get(id).is_some_and(|watcher| watcher.last_item <= popped);
        let place = self.lagging.iter().position(ready)?;
        let id = self.lagging.remove(place)?;
        self.lagging.push_back(id);
        self.outbox.end_turn_of_lagging();
        Some(id)
    }

    pub(super) fn lag(&mut self, id: i64) {
        self.lagging.push_back(id);
        self.outbox.set_some_lag(true);
    }

    pub(super) fn lag_no_more(&mut self, id: i64) {
        if !self.lagging.is_empty() {
            self.lagging.retain(|other| *other != id);
            self.outbox.set_some_lag(!self.lagging.is_empty());
        }
    }

    pub(super) fn lagging(&self) -> impl Iterator<Item = i64> {
        self.lagging.iter().copied()
    }

    pub(super) fn slow(&self) -> usize {
        self.lagging.len()
    }
}
