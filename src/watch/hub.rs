//! The hub itself: everything that happens under its lock.

use super::Counts;
use super::Limits;
use super::Past;
use super::Seen;
use super::batch::Batch;
use super::few::Few;
use super::outbox::Delivery;
use super::outbox::Item;
use super::outbox::Outbox;
use super::queue::Queue;
use super::queue::Watched;
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
    Take(Item),
    CatchUp { watch_id: i64, serial: u64, range: KeyRange, from: Revision },
    Wait,
    Closed(Error),
}

/// Queues for one watcher what it wants of a batch. False if there is no room for it: then the watcher must fall behind.
fn hand(
    queue: &mut Queue,
    hits: &[(Address, u32)],
    (revision, batch): (Revision, &Arc<Batch>),
    limits: &Limits,
) -> bool {
    let watch_id = hits[0].0.1;
    let watcher = queue.watchers.get_mut(&watch_id).expect("who is listed is there");
    if revision < watcher.next && !is_planted(Bug::FutureWatchGetsOldEvents) {
        return true;
    }
    let places = || hits.iter().map(|(_, place)| *place);
    let wanted = |place: &u32| watcher.wants(&batch.events[*place as usize]);
    let all = hits.len() == batch.events.len() && places().all(|place| wanted(&place));
    let picked: Option<Box<[u32]>> = if all { None } else { Some(places().filter(wanted).collect()) };
    if picked.as_ref().is_some_and(|picked| picked.is_empty()) {
        return true;
    }
    watcher.quiet = false;
    let (prev_kv, fragment) = (watcher.prev_kv, watcher.fragment);
    queue.offer(Delivery { watch_id, revision, batch: Arc::clone(batch), picked, prev_kv, fragment }, limits)
}

/// All watchers, and how far they have been told.
pub(super) struct Hub {
    current: Revision,
    floor: Revision,
    singles: BTreeMap<Arc<[u8]>, Few<Address>>,
    intervals: Tree<Address>,
    queues: BTreeMap<u64, Box<Queue>>,
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

    pub(super) fn open(&mut self, client: String) -> (u64, Arc<Outbox>, Limits) {
        self.serial += 1;
        let queue = Queue::of(client);
        let outbox = Arc::clone(&queue.outbox);
        if let Some(why) = &self.closed {
            outbox.close(why.clone());
        }
        self.queues.insert(self.serial, Box::new(queue));
        (self.serial, outbox, self.limits)
    }

    pub(super) fn remove(&mut self, stream: u64) {
        let Some(queue) = self.queues.remove(&stream) else { return };
        self.held -= queue.held();
        for (id, watcher) in queue.watchers {
            self.unlist(&watcher.watched, (stream, id));
        }
    }

    pub(super) fn close(&mut self, why: Error) -> Vec<Arc<Outbox>> {
        self.queues.values().for_each(|queue| queue.outbox.close(why.clone()));
        self.closed = Some(why);
        self.outboxes()
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.queues.values().map(|queue| Arc::clone(&queue.outbox)).collect()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { streams: self.queues.len(), ..Counts::default() };
        for queue in self.queues.values() {
            counts.watchers += queue.watchers.len();
            counts.slow += queue.slow();
            counts.pending += queue.outbox.pending();
        }
        counts
    }

    pub(super) fn look(&self, max: usize) -> (Vec<Seen>, usize) {
        let current = self.current;
        let of = |(stream, queue): (&u64, &Queue)| {
            let (stream, queued) = (*stream, queue.outbox.pending());
            let alive = queue.watchers.iter().map(move |(id, watcher)| Seen {
                stream,
                watch_id: *id,
                range: watcher.watched.range(),
                start: watcher.start(),
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
        let total = self.queues.values().map(|queue| queue.held()).sum();
        let mut seen = Vec::new();
        for pair in &self.queues {
            if seen.len() >= max {
                break;
            }
            seen.extend(of((pair.0, pair.1.as_ref())));
            let overtaken =
                pair.1.overtaken.iter().map(|id| overtaken(*pair.0, *id, self.floor, pair.1.client.clone()));
            seen.extend(overtaken);
        }
        seen.truncate(max);
        (seen, total)
    }

    fn queue(&self, stream: u64) -> &Queue {
        self.queues.get(&stream).expect("a stream is removed when it is dropped")
    }

    fn queue_mut(&mut self, stream: u64) -> &mut Queue {
        self.queues.get_mut(&stream).expect("a stream is removed when it is dropped")
    }

    /// Adds a live watcher to those that [`Hub::publish`] finds.
    fn list(&mut self, watched: &Watched, who: Address) {
        match watched {
            Watched::Key(key) => match self.singles.get_mut(key) {
                Some(all) => all.insert(who),
                None => drop(self.singles.insert(Arc::clone(key), Few::One(who))),
            },
            Watched::Range(range) => self.intervals.insert(range, who),
        }
    }

    fn unlist(&mut self, watched: &Watched, who: Address) {
        match watched {
            Watched::Key(key) => {
                if self.singles.get_mut(key).is_some_and(|all| all.remove(who)) {
                    self.singles.remove(key);
                }
            }
            Watched::Range(range) => self.intervals.remove(range, who),
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
        self.queue(stream).watchers.iter().map(|(id, watcher)| (*id, watcher.watched.range())).collect()
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
        self.admit(stream, watch_id, &range, &request);
    }

    fn admit(&mut self, stream: u64, watch_id: i64, range: &KeyRange, request: &pb::WatchCreateRequest) {
        let start = Revision(request.start_revision.unsigned_abs());
        let from_now = start == Revision(0);
        let (next, watched) = (if from_now { self.current.next() } else { start }, Watched::of(range));
        let live = next > self.current;
        self.serial += 1;
        let (serial, has) = (self.serial, |filter: FilterType| request.filters.contains(&(filter as i32)));
        let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
        if live {
            self.list(&watched, (stream, watch_id));
        }
        let floor = self.floor;
        let queue = self.queue_mut(stream);
        let watcher = Watcher {
            serial,
            watched,
            no_put,
            no_delete,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
            live,
            from_now,
            first: next,
            next,
            last_item: queue.pushed(),
        };
        queue.watchers.insert(watch_id, Box::new(watcher));
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
        self.unlist(&watcher.watched, (stream, watch_id));
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

    /// Queues events for everybody who watches them; returns whom to wake.
    pub(super) fn publish(&mut self, revision: Revision, events: &[Event]) -> Vec<Arc<Outbox>> {
        assert!(revision > self.current, "revision {revision} comes after {}", self.current);
        self.current = revision;
        EVENTS.add(events.len() as u64);
        let mut hits: Vec<(Address, u32)> = Vec::new();
        for (place, event) in (0..).zip(events) {
            let key: &[u8] = event.kv.as_ref().map_or(&[], |kv| &kv.key);
            if let Some(all) = self.singles.get(key) {
                all.for_each(|who| hits.push((who, place)));
            }
            self.intervals.find(key, &mut |who| hits.push((who, place)));
        }
        if hits.is_empty() {
            return Vec::new();
        }
        hits.sort_unstable();
        let batch = Arc::new(Batch::new(events));
        let mut wakes: Vec<Arc<Outbox>> = Vec::new();
        for of_stream in hits.chunk_by(|a, b| a.0.0 == b.0.0) {
            let stream = of_stream[0].0.0;
            let limits = self.limits;
            let queue = self.queue_mut(stream);
            let mut behind = Vec::new();
            for run in of_stream.chunk_by(|a, b| a.0 == b.0) {
                if !hand(queue, run, (revision, &batch), &limits) {
                    behind.push(run[0].0);
                }
            }
            wakes.push(Arc::clone(&queue.outbox));
            behind.into_iter().for_each(|who| self.fall_behind(who, revision));
        }
        wakes
    }

    fn fall_behind(&mut self, who: Address, from: Revision) {
        let queue = self.queue_mut(who.0);
        let watcher = queue.watchers.get_mut(&who.1).expect("only a watcher falls behind");
        let from = if is_planted(Bug::WatchCursorForgotten) { from.next() } else { from };
        (watcher.live, watcher.next) = (false, from);
        let watched = watcher.watched.clone();
        queue.lag(who.1);
        self.unlist(&watched, who);
    }

    pub(super) fn compacted(&mut self, floor: Revision) -> Vec<Arc<Outbox>> {
        self.floor = floor;
        let mut lost = Vec::new();
        for (stream, queue) in &self.queues {
            let is_lost = |id: &i64| queue.watchers.get(id).is_some_and(|watcher| watcher.next < floor);
            lost.extend(queue.lagging().filter(is_lost).map(|id| (*stream, id)));
        }
        lost.iter().for_each(|(stream, id)| self.overtaken(*stream, *id));
        lost.iter().map(|(stream, _)| Arc::clone(&self.queue(*stream).outbox)).collect()
    }

    pub(super) fn restored(&mut self, current: Revision) -> Vec<Arc<Outbox>> {
        let told = self.current;
        self.current = self.current.max(current);
        let live = |(stream, queue): (&u64, &Queue)| {
            let (stream, now) = (*stream, self.current);
            let behind = move |watcher: &Watcher| watcher.live && watcher.next <= now;
            let ids = queue.watchers.iter().filter(move |(_, watcher)| behind(watcher));
            ids.map(|(id, watcher)| ((stream, *id), watcher.next.max(told.next()))).collect::<Vec<_>>()
        };
        let behind: Vec<(Address, Revision)> =
            self.queues.iter().map(|(stream, queue)| (stream, queue.as_ref())).flat_map(live).collect();
        if is_planted(Bug::CursorForgottenAtInstall) {
            return Vec::new();
        }
        behind.into_iter().for_each(|(who, from)| self.fall_behind(who, from));
        self.outboxes()
    }

    // The stream's reader.

    pub(super) fn step(&mut self, stream: u64) -> Step {
        if let Some(why) = &self.closed {
            return Step::Closed(why.clone());
        }
        let queue = self.queue_mut(stream);
        if let Some(watch_id) = queue.turn_of_lagging() {
            let watcher = &queue.watchers[&watch_id];
            let (serial, range, from) = (watcher.serial, watcher.watched.range(), watcher.next);
            return Step::CatchUp { watch_id, serial, range, from };
        }
        queue.outbox.pop().map_or(Step::Wait, Step::Take)
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
            batch: Arc::new(Batch::new(events)),
            picked: None,
            prev_kv: watcher.prev_kv,
            fragment: watcher.fragment,
        };
        if watcher.next > current {
            watcher.live = true;
            let watched = watcher.watched.clone();
            self.queue_mut(stream).lag_no_more(watch_id);
            self.list(&watched, (stream, watch_id));
        }
        (!delivery.batch.events.is_empty()).then_some(delivery)
    }
}
