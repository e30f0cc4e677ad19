//! Events that belong together, and their bytes.
//!
//! However many watchers are told of them, events are encoded once: as they stand in a response on the wire, one behind the other. A
//! response is the few bytes that are its stream's own (header, watch id), and behind them a piece of these.

use super::History;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::Event;
use crate::types::Revision;
use bytes::BufMut;
use bytes::Bytes;
use prost::Message;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

/// What stands before each event in a response: its field's number, and that a length follows.
const FIELD: u8 = (11 << 3) | 2;

/// Who is told of at most one event in so many has those encoded alone.
const FEW: usize = 4;

/// The events of a revision, or of a stretch of history.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Box<[Event]>,
    plain: OnceLock<Encoded>,
    with_previous: OnceLock<Encoded>,
}

impl Batch {
    pub(super) fn new(events: impl Into<Box<[Event]>>) -> Batch {
        Batch { events: events.into(), plain: OnceLock::new(), with_previous: OnceLock::new() }
    }

    /// About how much memory it takes as long as one of its events waits somewhere: all of them, and their bytes.
    pub(super) fn weight(&self) -> usize {
        let of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len() + 64);
        2 * self.events.iter().map(of).sum::<usize>()
    }

    /// The events at these places, all if it does not say, as bytes. What many are told of is encoded by whoever asks first, and for all of them; one
    /// who is told of a few among very many does not pay for the others. `history` is read for what was there before, if that is wanted.
    ///
    /// # Errors
    /// Those of [`History::previous`].
    pub(super) fn encoded(
        &self,
        picked: Option<&[u32]>,
        history: Option<&dyn History>,
    ) -> Result<Cow<'_, Encoded>, Error> {
        if let Some(few) = picked.filter(|places| places.len() * FEW <= self.events.len()) {
            let events = few.iter().map(|place| &self.events[*place as usize]);
            return Ok(Cow::Owned(match history {
                Some(history) => Encoded::of(&with_previous(events, history)?),
                None => Encoded::of(&events.cloned().collect::<Vec<Event>>()),
            }));
        }
        let all = match history {
            Some(history) => self.all_with_previous(history)?,
            None => self.plain.get_or_init(|| Encoded::of(&self.events)),
        };
        Ok(picked.map_or(Cow::Borrowed(all), |places| Cow::Owned(all.picked(places))))
    }

    fn all_with_previous(&self, history: &dyn History) -> Result<&Encoded, Error> {
        if let Some(encoded) = self.with_previous.get() {
            return Ok(encoded);
        }
        let events = with_previous(self.events.iter(), history)?;
        Ok(self.with_previous.get_or_init(|| Encoded::of(&events)))
    }
}

fn with_previous<'a>(events: impl Iterator<Item = &'a Event>, history: &dyn History) -> Result<Vec<Event>, Error> {
    events.map(|event| Ok(Event { prev_kv: previous(event, history)?, ..event.clone() })).collect()
}

fn previous(event: &Event, history: &dyn History) -> Result<Option<crate::proto::mvccpb::KeyValue>, Error> {
    let Some(kv) = &event.kv else { return Ok(None) };
    // A put that creates its key has nothing before it.
    if kv.version == 1 {
        return Ok(None);
    }
    history.previous(&kv.key, Revision(kv.mod_revision.unsigned_abs()))
}

/// Events as bytes.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    bytes: Bytes,
    /// Where each event ends.
    ends: Vec<usize>,
}

impl Encoded {
    fn of(events: &[Event]) -> Encoded {
        let size = |event: &Event| 1 + prost::length_delimiter_len(event.encoded_len()) + event.encoded_len();
        let mut bytes = Vec::with_capacity(events.iter().map(size).sum());
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            bytes.put_u8(FIELD);
            event.encode_length_delimited(&mut bytes).expect("a vector has room");
            ends.push(bytes.len());
        }
        Encoded { bytes: bytes.into(), ends }
    }

    /// Only these of the events. Copies bytes, unless they are all.
    fn picked(&self, places: &[u32]) -> Encoded {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(places.len());
        for place in places {
            bytes.extend_from_slice(&self.bytes[self.place(*place as usize)]);
            ends.push(bytes.len());
        }
        Encoded { bytes: bytes.into(), ends }
    }

    fn place(&self, place: usize) -> Range<usize> {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        begin..self.ends[place]
    }

    /// All of the bytes, shared.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes in pieces of less than `limit`, beside `head` bytes that each piece has anyway; no event is cut.
    pub(super) fn pieces(&self, head: usize, limit: usize) -> Vec<Bytes> {
        let (mut pieces, mut begin, mut end) = (Vec::new(), 0, 0);
        for next in &self.ends {
            if end > begin && head + next - begin >= limit {
                pieces.push(self.bytes.slice(begin..end));
                begin = end;
            }
            end = *next;
        }
        pieces.push(self.bytes.slice(begin..end));
        pieces
    }
}

/// What a stream is told: a response whose events are bytes that others may be told as well.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The response, without events.
    pub response: pb::WatchResponse,
    events: Bytes,
}

impl Told {
    pub(super) fn new(response: pb::WatchResponse, events: Bytes) -> Told {
        Told { response, events }
    }

    /// How many bytes it is on the wire.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.response.encoded_len() + self.events.len()
    }

    /// Appends it as bytes. Events are the last field of a response, so they simply come behind the others.
    pub fn encode(&self, into: &mut impl BufMut) {
        self.response.encode_raw(into);
        into.put_slice(&self.events);
    }

    /// The response with its events, for who does not send it on.
    #[must_use]
    pub fn into_response(self) -> pb::WatchResponse {
        let Told { mut response, events } = self;
        response.merge(events).expect("these are the bytes of events");
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;
    use crate::types::KeyRange;
    use crate::watch::Past;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    fn events(count: usize) -> Vec<Event> {
        let kv = |n: usize| KeyValue {
            key: format!("key-{n}").into(),
            value: vec![b'v'; n * 60].into(),
            mod_revision: 7,
            ..KeyValue::default()
        };
        (0..count).map(|n| Event { r#type: (n % 2) as i32, kv: Some(kv(n)), prev_kv: None }).collect()
    }

    fn head() -> pb::WatchResponse {
        let header = Some(pb::ResponseHeader { revision: 7, ..Default::default() });
        pb::WatchResponse { header, watch_id: 3, fragment: true, ..Default::default() }
    }

    #[test]
    fn a_response_in_two_parts_is_the_response() {
        // One of five is encoded alone; three are cut out of all.
        for places in [vec![], vec![0], vec![3], vec![1, 3, 4], (0..5).collect()] {
            let all = events(5);
            let batch = Batch::new(all.clone());
            let told = Told::new(head(), batch.encoded(Some(&places), None).expect("no history").bytes());
            let picked = places.iter().map(|place| all[*place as usize].clone()).collect();
            let whole = pb::WatchResponse { events: picked, ..head() };
            let mut bytes = Vec::new();
            told.encode(&mut bytes);
            assert_eq!((&bytes, told.encoded_len()), (&whole.encode_to_vec(), bytes.len()));
            assert_eq!(told.into_response(), whole);
        }
    }

    /// Knows what was before, and counts who asks.
    struct Before(AtomicUsize);

    impl History for Before {
        fn events(&self, _: &KeyRange, _: Revision, _: usize) -> Result<Past, Error> {
            unreachable!("nobody catches up here")
        }

        fn previous(&self, key: &Bytes, at: Revision) -> Result<Option<KeyValue>, Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            assert_eq!(at, Revision(7));
            Ok(Some(KeyValue { key: key.clone(), value: "before".into(), mod_revision: 6, ..KeyValue::default() }))
        }
    }

    #[test]
    fn what_was_before_is_read_once_for_many_and_only_what_is_told_for_one() {
        let (batch, history) = (Batch::new(events(100)), Before(AtomicUsize::new(0)));
        let told = |picked: Option<&[u32]>| {
            let bytes = batch.encoded(picked, Some(&history)).expect("readable").bytes();
            let told = Told::new(head(), bytes).into_response().events;
            assert!(told.iter().all(|event| event.prev_kv.as_ref().is_some_and(|kv| kv.value == "before")));
            (told.len(), history.0.swap(0, Ordering::Relaxed))
        };
        assert_eq!(told(Some(&[3, 50])), (2, 2), "two of a hundred");
        assert_eq!((told(None), told(None)), ((100, 100), (100, 0)), "once for all");
        let half: Vec<u32> = (0..50).collect();
        assert_eq!(told(Some(&half)), (50, 0), "and for half of them");
    }

    #[test]
    fn pieces_are_below_the_limit_and_cut_no_event() {
        let (batch, head) = (Batch::new(events(6)), head());
        let encoded = batch.encoded(None, None).expect("no history");
        assert_eq!(encoded.bytes(), encoded.picked(&[0, 1, 2, 3, 4, 5]).bytes());
        for limit in [1, 100, 400, 500, 10_000] {
            let pieces = encoded.pieces(head.encoded_len(), limit);
            let told = |events: &Bytes| Told::new(head.clone(), events.clone()).into_response().events;
            assert_eq!(pieces.iter().flat_map(told).collect::<Vec<Event>>(), events(6), "{limit}");
            let fits = |piece: &&Bytes| piece.len() + head.encoded_len() < limit || told(piece).len() == 1;
            assert!(pieces.iter().all(|piece| fits(&piece)), "{limit}");
        }
    }
}
