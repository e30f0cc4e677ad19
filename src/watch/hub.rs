//! The hub itself: everything that happens under its lock.

use super::Counts;
use super::Limits;
use super::Past;
use super::Seen;
use super::queue::Delivery;
use super::queue::Item;
use super::queue::Queue;
use super::queue::Wake;
use super::queue::Watcher;
use super::queue::header;
use super::tree::Tree;
use crate::error::Error;
use crate::meter::EVENTS;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::mvccpb::Event;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The id in an answer that is about no watcher, or about all of them.
const NO_WATCH: i64 = -1;

/// One that compaction has overtaken: what it watched is forgotten.
fn overtaken(stream: u64, watch_id: i64, floor: Revision, client: String) -> Seen {
    Seen {
        stream,
        watch_id,
        range: KeyRange::Single(Bytes::new()),
        start: Revision(0),
        first: Revision(0),
        next: floor,
        synced: false,
        cancelled: true,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        progress_notify: false,
        queued: 0,
        client,
    }
}

/// A watcher, over all streams.
type Address = (u64, i64);

/// What a stream's reader is to do next.
pub(super) enum Step {
    Say(pb::WatchResponse),
    Deliver(Delivery),
    CatchUp { watch_id: i64, serial: u64, range: KeyRange, from: Revision },
    Wait,
    Closed(Error),
}

/// All watchers, and how far they have been told.
pub(super) struct Hub {
    current: Revision,
    floor: Revision,
    singles: BTreeMap<Bytes, BTreeSet<Address>>,
    intervals: Tree<Address>,
    queues: BTreeMap<u64, Queue>,
    /// Watchers that take up memory, of all streams together.
    held: usize,
    /// Numbers streams and watchers.
    serial: u64,
    limits: Limits,
    closed: Option<Error>,
}

impl Hub {
    pub(super) fn new(current: Revision, limits: Limits) -> Hub {
        Hub {
            current,
            floor: Revision(0),
            singles: BTreeMap::new(),
            intervals: Tree::default(),
            queues: BTreeMap::new(),
            held: 0,
            serial: 0,
            limits,
            closed: None,
        }
    }

    pub(super) fn open(&mut self, client: String) -> (u64, Arc<Wake>, Limits) {
        self.serial += 1;
        let queue = Queue::of(client);
        let wake = Arc::clone(&queue.wake);
        self.queues.insert(self.serial, queue);
        (self.serial, wake, self.limits)
    }

    pub(super) fn remove(&mut self, stream: u64) {
        let Some(queue) = self.queues.remove(&stream) else { return };
        self.held -= queue.held();
        for (id, watcher) in queue.watchers {
            self.unlist(&watcher.range, (stream, id));
        }
    }

    pub(super) fn close(&mut self, why: Error) -> Vec<Arc<Wake>> {
        self.closed = Some(why);
        self.queues.values().map(|queue| Arc::clone(&queue.wake)).collect()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { streams: self.queues.len(), ..Counts::default() };
        for queue in self.queues.values() {
            counts.watchers += queue.watchers.len();
            counts.slow += queue.slow();
            counts.pending += queue.pending();
        }
        counts
    }

    pub(super) fn look(&self, max: usize) -> (Vec<Seen>, usize) {
        let current = self.current;
        let of = |(stream, queue): (&u64, &Queue)| {
            let (stream, queued) = (*stream, queue.pending());
            let alive = queue.watchers.iter().map(move |(id, watcher)| Seen {
                stream,
                watch_id: *id,
                range: watcher.range.clone(),
                start: watcher.start,
                first: watcher.first,
                next: if watcher.live { watcher.next.max(current.next()) } else { watcher.next },
                synced: watcher.live,
                cancelled: false,
                no_put: watcher.no_put,
                no_delete: watcher.no_delete,
                prev_kv: watcher.prev_kv,
                progress_notify: watcher.progress_notify,
                queued,
                client: queue.client.clone(),
            });
            alive.collect::<Vec<_>>()
        };
        let total = self.queues.values().map(Queue::held).sum();
        let mut seen = Vec::new();
        for pair in &self.queues {
            if seen.len() >= max {
                break;
            }
            seen.extend(of(pair));
            let overtaken =
                pair.1.overtaken.iter().map(|id| overtaken(*pair.0, *id, self.floor, pair.1.client.clone()));
            seen.extend(overtaken);
        }
        seen.truncate(max);
        (seen, total)
    }

    pub(super) fn has_room(&self, stream: u64) -> bool {
        self.closed.is_some() || self.queue(stream).answers() < self.limits.queue_answers
    }

    fn queue(&self, stream: u64) -> &Queue {
        self.queues.get(&stream).expect("a stream is removed when it is dropped")
    }

    fn queue_mut(&mut self, stream: u64) -> &mut Queue {
        self.queues.get_mut(&stream).expect("a stream is removed when it is dropped")
    }

    /// Adds a live watcher to those that [`Hub::publish`] finds.
    fn list(&mut self, range: &KeyRange, who: Address) {
        match range {
            KeyRange::Single(key) => drop(self.singles.entry(key.clone()).or_default().insert(who)),
            KeyRange::Interval(..) | KeyRange::From(_) => self.intervals.insert(range, who),
        }
    }

    fn unlist(&mut self, range: &KeyRange, who: Address) {
        let KeyRange::Single(key) = range else { return self.intervals.remove(range, who) };
        if let Some(all) = self.singles.get_mut(key) {
            all.remove(&who);
            if all.is_empty() {
                self.singles.remove(key);
            }
        }
    }

    // Requests.

    pub(super) fn refuse(&mut self, stream: u64, reason: &str) {
        let header = header(self.current);
        let (created, canceled, cancel_reason) = (true, true, reason.to_owned());
        let refusal =
            pb::WatchResponse { header, watch_id: NO_WATCH, created, canceled, cancel_reason, ..Default::default() };
        self.queue_mut(stream).answer(refusal);
    }

    pub(super) fn watchers(&self, stream: u64) -> Vec<(i64, KeyRange)> {
        self.queue(stream).watchers.iter().map(|(id, watcher)| (*id, watcher.range.clone())).collect()
    }

    /// Removes a watcher for a reason that the hub knows nothing of.
    pub(super) fn revoke(&mut self, stream: u64, watch_id: i64, reason: &str) {
        if self.drop_watcher(stream, watch_id) {
            let (header, cancel_reason) = (header(self.current), reason.to_owned());
            let cancelled = pb::WatchResponse { header, watch_id, canceled: true, cancel_reason, ..Default::default() };
            self.queue_mut(stream).answer(cancelled);
        }
    }

    pub(super) fn create(&mut self, stream: u64, request: pb::WatchCreateRequest) {
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() };
        let range = KeyRange::parse(&key, &request.range_end);
        let (watchers_max, is_full) = (self.limits.stream_watchers, self.held >= self.limits.watchers);
        let queue = self.queue_mut(stream);
        if request.start_revision < 0 {
            return self.refuse(stream, &Error::Compacted.to_string());
        }
        if range.is_empty() {
            return self.refuse(stream, "mvcc: watcher range is empty");
        }
        if request.watch_id != 0 && queue.is_taken(request.watch_id) {
            return self.refuse(stream, "mvcc: duplicate watch ID provided on the WatchStream");
        }
        if queue.held() >= watchers_max || is_full {
            return self.refuse(stream, &Error::TooManyRequests.to_string());
        }
        let watch_id = if request.watch_id == 0 { queue.free_id() } else { request.watch_id };
        let created = pb::WatchResponse { header: header(self.current), watch_id, created: true, ..Default::default() };
        self.queue_mut(stream).answer(created);
        self.admit(stream, watch_id, range, &request);
    }

    fn admit(&mut self, stream: u64, watch_id: i64, range: KeyRange, request: &pb::WatchCreateRequest) {
        let start = Revision(request.start_revision.unsigned_abs());
        let next = if start == Revision(0) { self.current.next() } else { start };
        let live = next > self.current;
        self.serial += 1;
        let (serial, has) = (self.serial, |filter: FilterType| request.filters.contains(&(filter as i32)));
        let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
        if live {
            self.list(&range, (stream, watch_id));
        }
        let floor = self.floor;
        let queue = self.queue_mut(stream);
        let watcher = Watcher {
            serial,
            range,
            no_put,
            no_delete,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
            live,
            start,
            first: next,
            next,
            last_item: queue.pushed(),
        };
        queue.watchers.insert(watch_id, watcher);
        if !live {
            queue.lag(watch_id);
        }
        self.held += 1;
        if next < floor {
            self.overtaken(stream, watch_id);
        }
    }

    pub(super) fn cancel(&mut self, stream: u64, watch_id: i64) {
        if self.drop_watcher(stream, watch_id) || self.forget_overtaken(stream, watch_id) {
            let header = header(self.current);
            let cancelled = pb::WatchResponse { header, watch_id, canceled: true, ..Default::default() };
            self.queue_mut(stream).answer(cancelled);
        }
    }

    /// Removes a watcher whose history is gone, and tells where history begins; the header is empty, as etcd's is.
    fn overtaken(&mut self, stream: u64, watch_id: i64) {
        if self.drop_watcher(stream, watch_id) {
            let compact_revision = self.floor.to_wire();
            let header = header(Revision(0));
            let cancelled =
                pb::WatchResponse { header, watch_id, canceled: true, compact_revision, ..Default::default() };
            let queue = self.queue_mut(stream);
            queue.overtaken.insert(watch_id);
            queue.answer(cancelled);
            self.held += 1;
        }
    }

    fn forget_overtaken(&mut self, stream: u64, watch_id: i64) -> bool {
        let was_there = self.queue_mut(stream).overtaken.remove(&watch_id);
        self.held -= usize::from(was_there);
        was_there
    }

    fn drop_watcher(&mut self, stream: u64, watch_id: i64) -> bool {
        let queue = self.queue_mut(stream);
        let Some(watcher) = queue.watchers.remove(&watch_id) else { return false };
        queue.lag_no_more(watch_id);
        self.held -= 1;
        self.unlist(&watcher.range, (stream, watch_id));
        true
    }

    /// One answer for the whole stream, and none at all unless every watcher has been told everything.
    pub(super) fn progress(&mut self, stream: u64) {
        let current = self.current;
        let queue = self.queue_mut(stream);
        let all_know = queue.overtaken.is_empty() && queue.watchers.values().all(|watcher| watcher.knows(current));
        if !queue.watchers.is_empty() && (all_know || is_planted(Bug::ProgressBeforeEvents)) {
            let progress = pb::WatchResponse { header: header(current), watch_id: NO_WATCH, ..Default::default() };
            queue.progress(None, progress);
        }
    }

    pub(super) fn report_progress(&mut self, stream: u64) {
        let current = self.current;
        let queue = self.queue_mut(stream);
        let mut reports = Vec::new();
        for (watch_id, watcher) in &mut queue.watchers {
            let was_quiet = std::mem::replace(&mut watcher.quiet, true);
            if watcher.progress_notify && was_quiet && watcher.knows(current) {
                let header = header(current);
                reports.push((*watch_id, pb::WatchResponse { header, watch_id: *watch_id, ..Default::default() }));
            }
        }
        reports.into_iter().for_each(|(watch_id, report)| queue.progress(Some(watch_id), report));
    }

    // What happens to the store.

    pub(super) fn publish(&mut self, revision: Revision, events: &[Event]) -> Vec<Arc<Wake>> {
        assert!(revision > self.current, "revision {revision} comes after {}", self.current);
        self.current = revision;
        EVENTS.add(events.len() as u64);
        let mut hits: Vec<(Address, u32)> = Vec::new();
        for (place, event) in (0..).zip(events) {
            let key: &[u8] = event.kv.as_ref().map_or(&[], |kv| &kv.key);
            hits.extend(self.singles.get(key).into_iter().flatten().map(|who| (*who, place)));
            self.intervals.find(key, &mut |who| hits.push((who, place)));
        }
        if hits.is_empty() {
            return Vec::new();
        }
        hits.sort_unstable();
        let events: Arc<[Event]> = events.into();
        let mut wakes: Vec<Arc<Wake>> = Vec::new();
        let mut last_stream = 0;
        for run in hits.chunk_by(|a, b| a.0 == b.0) {
            let who = run[0].0;
            self.hand(who, revision, &events, run);
            if last_stream != who.0 {
                last_stream = who.0;
                wakes.push(Arc::clone(&self.queue(who.0).wake));
            }
        }
        wakes
    }

    /// Queues for one watcher what it wants of `events`; if there is no room, it lags from here on.
    fn hand(&mut self, who: Address, revision: Revision, events: &Arc<[Event]>, hits: &[(Address, u32)]) {
        let (stream, watch_id) = who;
        let limits = self.limits;
        let queue = self.queue_mut(stream);
        let watcher = queue.watchers.get_mut(&watch_id).expect("who is listed is there");
        if revision < watcher.next && !is_planted(Bug::FutureWatchGetsOldEvents) {
            return;
        }
        let wanted = hits.iter().map(|(_, place)| *place).filter(|place| watcher.wants(&events[*place as usize]));
        let picked: Vec<u32> = wanted.collect();
        if picked.is_empty() {
            return;
        }
        watcher.quiet = false;
        let delivery = Delivery {
            watch_id,
            revision,
            picked: (picked.len() < events.len()).then_some(picked),
            events: Arc::clone(events),
            prev_kv: watcher.prev_kv,
            fragment: watcher.fragment,
        };
        if queue.offer(delivery, &limits).is_err() {
            self.fall_behind(who, revision);
        }
    }

    fn fall_behind(&mut self, who: Address, from: Revision) {
        let queue = self.queue_mut(who.0);
        let watcher = queue.watchers.get_mut(&who.1).expect("only a watcher falls behind");
        let from = if is_planted(Bug::WatchCursorForgotten) { from.next() } else { from };
        (watcher.live, watcher.next) = (false, from);
        let range = watcher.range.clone();
        queue.lag(who.1);
        self.unlist(&range, who);
    }

    pub(super) fn compacted(&mut self, floor: Revision) -> Vec<Arc<Wake>> {
        self.floor = floor;
        let mut lost = Vec::new();
        for (stream, queue) in &self.queues {
            let is_lost = |id: &i64| queue.watchers.get(id).is_some_and(|watcher| watcher.next < floor);
            lost.extend(queue.lagging().filter(is_lost).map(|id| (*stream, id)));
        }
        lost.iter().for_each(|(stream, id)| self.overtaken(*stream, *id));
        lost.iter().map(|(stream, _)| Arc::clone(&self.queue(*stream).wake)).collect()
    }

    pub(super) fn restored(&mut self, current: Revision) -> Vec<Arc<Wake>> {
        let told = self.current;
        self.current = self.current.max(current);
        let live = |(stream, queue): (&u64, &Queue)| {
            let (stream, now) = (*stream, self.current);
            let behind = move |watcher: &Watcher| watcher.live && watcher.next <= now;
            let ids = queue.watchers.iter().filter(move |(_, watcher)| behind(watcher));
            ids.map(|(id, watcher)| ((stream, *id), watcher.next.max(told.next()))).collect::<Vec<_>>()
        };
        let behind: Vec<(Address, Revision)> = self.queues.iter().flat_map(live).collect();
        if is_planted(Bug::CursorForgottenAtInstall) {
            return Vec::new();
        }
        behind.into_iter().for_each(|(who, from)| self.fall_behind(who, from));
        self.queues.values().map(|queue| Arc::clone(&queue.wake)).collect()
    }

    // The stream's reader.

    pub(super) fn step(&mut self, stream: u64) -> Step {
        if let Some(why) = &self.closed {
            return Step::Closed(why.clone());
        }
        let queue = self.queue_mut(stream);
        if let Some(watch_id) = queue.turn_of_lagging() {
            let watcher = &queue.watchers[&watch_id];
            let (serial, range, from) = (watcher.serial, watcher.range.clone(), watcher.next);
            return Step::CatchUp { watch_id, serial, range, from };
        }
        match queue.pop() {
            Some(Item::Answer(answer)) => Step::Say(*answer),
            Some(Item::Events(delivery)) => Step::Deliver(delivery),
            None => Step::Wait,
        }
    }

    /// Takes what a lagging watcher read from history. If that reaches to where the hub is, the watcher is live again: nothing can come in
    /// between, since both happen under the hub's lock.
    pub(super) fn caught_up(&mut self, stream: u64, watch_id: i64, serial: u64, past: Past) -> Option<Delivery> {
        let current = self.current;
        let watcher = self.queue_mut(stream).watchers.get_mut(&watch_id)?;
        if watcher.serial != serial || watcher.live {
            return None;
        }
        let (mut events, through) = match past {
            Past::Events { events, through } => (events, through),
            Past::Compacted(floor) => {
                self.floor = self.floor.max(floor);
                self.overtaken(stream, watch_id);
                return None;
            }
        };
        events.retain(|event| watcher.wants(event));
        watcher.next = watcher.next.max(through.next());
        watcher.quiet &= events.is_empty();
        let delivery = Delivery {
            watch_id,
            revision: current.max(through),
            events: events.into(),
            picked: None,
            prev_kv: watcher.prev_kv,
            fragment: watcher.fragment,
        };
        if watcher.next > current {
            watcher.live = true;
            let range = watcher.range.clone();
            self.queue_mut(stream).lag_no_more(watch_id);
            self.list(&range, (stream, watch_id));
        }
        (!delivery.events.is_empty()).then_some(delivery)
    }
}
