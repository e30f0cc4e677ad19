//! Clients that watch, and what a watch promises: every event once, in order, whole revisions, nothing from before the start, no report
//! ahead of its events; or one clear word that history is gone.

use super::client::range;
use super::model::Model;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::Event;
use crate::types::KeyRange;
use crate::watch;
use bytes::Bytes;
use futures::FutureExt as _;
use rand::Rng;
use rand::rngs::StdRng;

/// One client with one watcher.
pub(super) struct Watcher {
    key: Bytes,
    range_end: Bytes,
    range: KeyRange,
    prev_kv: bool,
    /// The first revision of which it may lack something; 0 before it was told.
    next: i64,
    pub(super) stream: Option<watch::Stream>,
    /// The member, and in which of its lives.
    pub(super) at: (usize, u64),
    pub(super) events: u64,
    pub(super) compactions: u64,
}

impl Watcher {
    /// A watcher of something, from now, from the compaction, or from a revision that is still to come.
    pub(super) fn new(model: &Model, dice: &mut StdRng) -> Watcher {
        let (key, range_end) = range(dice);
        let next = match dice.random_range(0..4) {
            0 => model.revision() + dice.random_range(1..30),
            1 => model.compacted().max(1),
            _ => 0,
        };
        let range = KeyRange::parse(&key, &range_end);
        let (stream, at) = (None, (0, 0));
        Watcher { key, range_end, range, prev_kv: dice.random(), next, stream, at, events: 0, compactions: 0 }
    }

    /// Opens a stream at a member, to go on where it stands.
    pub(super) fn connect(&mut self, hub: &watch::Shared, at: (usize, u64)) {
        let stream = hub.open_stream();
        let create = pb::WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: self.next,
            prev_kv: self.prev_kv,
            progress_notify: true,
            ..Default::default()
        };
        stream.request(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        (self.stream, self.at) = (Some(stream), at);
    }

    /// Asks how far the member is, and lets it say so by itself.
    pub(super) fn ask_progress(&self) {
        if let Some(stream) = &self.stream {
            stream.report_progress();
            let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            stream.request(pb::WatchRequest { request_union: Some(ask) });
        }
    }

    /// Takes one response, if there is one; true if so.
    pub(super) fn poll(&mut self, history: &dyn watch::History, model: &Model) -> Result<bool, String> {
        let Some(stream) = &self.stream else { return Ok(false) };
        let response = match stream.next(history).now_or_never() {
            None => return Ok(false),
            Some(Err(why)) => return Err(format!("a watch stream ends with {why:?}")),
            Some(Ok(response)) => response,
        };
        self.take(response, model)?;
        Ok(true)
    }

    /// Whether it has been told anything: then it goes on from there, wherever it connects.
    pub(super) fn has_begun(&self) -> bool {
        self.events > 0
    }

    /// Whether it has been told everything.
    pub(super) fn is_complete(&self, model: &Model) -> bool {
        model.next_events(&self.range, self.next).is_none() || self.next == 0
    }

    fn take(&mut self, response: pb::WatchResponse, model: &Model) -> Result<(), String> {
        let now = response.header.as_ref().map_or(0, |header| header.revision);
        if now > model.revision() {
            return Err(format!("a watch is told of revision {now}, which is not committed"));
        }
        if response.canceled {
            let floor = response.compact_revision;
            if floor <= self.next || floor > model.compacted() {
                return Err(format!("a watch from {} is cancelled for a compaction at {floor}", self.next));
            }
            self.compactions += 1;
            (self.next, self.stream) = (floor, None);
            return Ok(());
        }
        if response.created {
            self.next = if self.next == 0 { now + 1 } else { self.next };
            return Ok(());
        }
        if response.events.is_empty() {
            return match model.next_events(&self.range, self.next) {
                Some((due, _)) if due <= now => {
                    Err(format!("a progress report at {now} overtakes the events of {due}"))
                }
                _ => {
                    self.next = self.next.max(now + 1);
                    Ok(())
                }
            };
        }
        let mut events = response.events.as_slice();
        while !events.is_empty() {
            events = self.revision(events, model)?;
        }
        Ok(())
    }

    /// The events of one revision, at the beginning of `events`; returns the rest.
    fn revision<'a>(&mut self, events: &'a [Event], model: &Model) -> Result<&'a [Event], String> {
        let found = events[0].kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let Some((due, expected)) = model.next_events(&self.range, self.next) else {
            return Err(format!(
                "a watch from {} is told of revision {found}, and there is nothing to tell",
                self.next
            ));
        };
        if found != due || events.len() < expected.len() {
            let count = events.len();
            return Err(format!(
                "a watch from {} gets {count} events from {found} on, but revision {due} is next",
                self.next
            ));
        }
        for (event, expected) in events.iter().zip(&expected) {
            if (event.r#type, &event.kv) != (expected.r#type, &expected.kv) {
                return Err(format!("a watch is told {event:?}, but the log says {expected:?}"));
            }
            let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
            let before = if self.prev_kv { model.get(key, due - 1) } else { None };
            let is_gone = event.prev_kv.is_none() && due - 1 < model.compacted();
            if event.prev_kv.as_ref() != before && !is_gone {
                return Err(format!("an event's previous pair is {:?}; the log says {before:?}", event.prev_kv));
            }
        }
        self.events += expected.len() as u64;
        self.next = due + 1;
        Ok(&events[expected.len()..])
    }
}
