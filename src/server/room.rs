//! Room for large answers: how much memory all ranges that are being read and sent may take together.
//!
//! A hundred clients that each ask for everything would need a hundred times everything, and etcd gives it to them until the kernel ends it
//! (etcd #12342). Here an answer above [`FREE_BYTES`] needs a seat as large as itself, from before its values are loaded until its last byte is sent.
//! Who finds no room waits in line, and in the line holds nothing: what was chosen is dropped, and chosen again later, with a seat. How large an
//! answer is shows only while its rows are chosen, so a seat grows on the way if it can, and if it cannot, the range begins again with a larger one.
//! Nobody ever waits for more with a seat in hand, so nobody waits for each other. An answer larger than the whole room has it to itself.

use super::slow;
use crate::apply::ReadTxn;
use crate::error::Error;
use crate::mvcc::Selection;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tonic::Response;
use tonic::body::Body;

/// Bytes that an answer may take without a seat.
const FREE_BYTES: usize = 64 * 1024;

/// Bytes of an answer that are loaded at once, in a millisecond or two; the other calls of the connection wait meanwhile.
const AT_ONCE_BYTES: usize = 2 << 20;

/// What permits are counted in.
const PERMIT_BYTES: usize = 4096;

/// A seat that proves too small is changed for one so many times as large.
const GROWTH: usize = 4;

/// All the room there is; cheap to clone.
#[derive(Clone)]
pub(super) struct Room {
    permits: Arc<Semaphore>,
    size: usize,
}

/// A place in the room, or none for what is small.
#[derive(Default)]
pub(super) struct Seat(Option<OwnedSemaphorePermit>);

/// A seat on its way to [`until_sent`].
#[derive(Clone)]
struct Taken(#[expect(dead_code, reason = "it is held, not looked at")] Arc<OwnedSemaphorePermit>);

/// A read that is chosen slice by slice and then loaded.
pub(super) trait Choice: Send + Sized + 'static {
    type Answer: Send + 'static;

    /// Chooses the next slice, if one is left. Returns whether that was so.
    fn more(&mut self, node: &Node) -> bool;

    /// Bytes of memory that it takes to load and send what has been chosen so far.
    fn weight(&self) -> usize;

    fn load(self) -> Result<Self::Answer, Error>;
}

impl Choice for Selection {
    type Answer = pb::RangeResponse;

    fn more(&mut self, node: &Node) -> bool {
        node.select_more(self)
    }

    fn weight(&self) -> usize {
        Selection::weight(self)
    }

    fn load(self) -> Result<pb::RangeResponse, Error> {
        Selection::load(self)
    }
}

impl Choice for ReadTxn {
    type Answer = pb::TxnResponse;

    fn more(&mut self, node: &Node) -> bool {
        node.select_txn_more(self)
    }

    fn weight(&self) -> usize {
        ReadTxn::weight(self)
    }

    fn load(self) -> Result<pb::TxnResponse, Error> {
        ReadTxn::load(self)
    }
}

impl Room {
    /// Room for `bytes`.
    pub(super) fn new(bytes: usize) -> Room {
        let size = (bytes / PERMIT_BYTES).clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        Room { permits: Arc::new(Semaphore::new(size)), size }
    }

    /// Reads what `begin` begins, with a seat if it is large.
    ///
    /// # Errors
    /// Those of the read; [`Error::TooManyRequests`] if there was no room for the time that a request may take.
    pub(super) async fn read<C: Choice>(
        &self,
        node: &Node,
        begin: impl Fn() -> Result<C, Error>,
    ) -> Result<(C::Answer, Seat), Error> {
        let mut seat = Seat::default();
        loop {
            match self.choose(node, begin()?, &mut seat).await {
                Ok(choice) => {
                    // What needs no seat is chosen in no time.
                    if seat.permits() > 0 {
                        slow::chose();
                    }
                    return load(choice, seat).await;
                }
                Err(weight) => {
                    let permits = (weight / PERMIT_BYTES).max(seat.permits() * GROWTH);
                    drop(seat);
                    seat = self.wait(permits, node.request_timeout()).await?;
                }
            }
        }
    }

    /// Chooses to the end, with a seat that grows. If it cannot grow, the error is the weight at which it ended. Between two slices the other calls of
    /// the connection have their turn.
    async fn choose<C: Choice>(&self, node: &Node, mut choice: C, seat: &mut Seat) -> Result<C, usize> {
        loop {
            let weight = choice.weight();
            if weight > FREE_BYTES && !self.grow(seat, weight) {
                return Err(weight);
            }
            if !choice.more(node) {
                return Ok(choice);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes `seat` large enough for `weight` bytes, if that is possible without waiting.
    fn grow(&self, seat: &mut Seat, weight: usize) -> bool {
        let lacks = weight.div_ceil(PERMIT_BYTES).min(self.size).saturating_sub(seat.permits());
        if lacks == 0 {
            return true;
        }
        let Ok(more) = Arc::clone(&self.permits).try_acquire_many_owned(lacks as u32) else { return false };
        match &mut seat.0 {
            Some(permit) => permit.merge(more),
            None => seat.0 = Some(more),
        }
        true
    }

    async fn wait(&self, permits: usize, limit: Duration) -> Result<Seat, Error> {
        let permits = permits.clamp(1, self.size) as u32;
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits);
        match tokio::time::timeout(limit, permit).await {
            Ok(permit) => Ok(Seat(Some(permit.map_err(|_| Error::Stopped)?))),
            Err(_) => Err(Error::TooManyRequests),
        }
    }
}

/// Loads what was chosen; what is large, on another thread. That one keeps the seat: it goes on to the end, also if nobody waits any more.
async fn load<C: Choice>(choice: C, seat: Seat) -> Result<(C::Answer, Seat), Error> {
    if choice.weight() <= AT_ONCE_BYTES {
        return Ok((choice.load()?, seat));
    }
    let loaded = tokio::task::spawn_blocking(|| Ok((choice.load()?, seat)));
    loaded.await.unwrap_or(Err(Error::Stopped))
}

impl Seat {
    fn permits(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// The answer, with its seat for [`until_sent`].
    pub(super) fn with<T>(self, answer: T) -> Response<T> {
        let mut response = Response::new(answer);
        if let Some(permit) = self.0 {
            response.extensions_mut().insert(Taken(Arc::new(permit)));
        }
        response
    }
}

/// Has the bytes of the answer keep its seat until they are dropped: when the last is with the kernel, or nobody waits for them any more. The body
/// is gone long before that, since hyper takes all of it at once.
pub(super) fn until_sent(mut response: http::Response<Body>) -> http::Response<Body> {
    let Some(taken) = response.extensions_mut().remove::<Taken>() else { return response };
    let seated = move |data| Bytes::from_owner(Seated { data, _taken: taken.clone() });
    response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&seated))))
}

/// Bytes that have a seat.
struct Seated {
    data: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Seated {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    const PAGE: usize = PERMIT_BYTES;
    const LONG: Duration = Duration::from_secs(60);

    fn free(room: &Room) -> usize {
        room.permits.available_permits()
    }

    #[test]
    fn a_seat_grows_while_there_is_room() {
        let room = Room::new(100 * PAGE);
        let mut seat = Seat::default();
        assert!(room.grow(&mut seat, 20 * PAGE + 1) && free(&room) == 79);
        assert!(room.grow(&mut seat, 20 * PAGE) && free(&room) == 79, "it is large enough");
        let mut other = Seat::default();
        assert!(room.grow(&mut other, 70 * PAGE) && free(&room) == 9);
        assert!(!room.grow(&mut seat, 40 * PAGE) && free(&room) == 9);
        drop(other);
        assert!(room.grow(&mut seat, 1000 * PAGE) && free(&room) == 0, "more than the room is all of it");
        drop(seat);
        assert_eq!(free(&room), 100);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_in_line_and_not_for_ever() {
        let room = Room::new(100 * PAGE);
        let first = room.wait(80, LONG).await.expect("room");
        assert_eq!(room.wait(30, Duration::ZERO).await.err(), Some(Error::TooManyRequests));
        assert_eq!(free(&room), 20, "who has given up holds nothing");
        let (second, third) = (room.wait(1000, LONG), room.wait(10, LONG));
        tokio::pin!(second, third);
        assert!(futures::poll!(&mut second).is_pending(), "more than the room is all of it");
        assert!(futures::poll!(&mut third).is_pending(), "there would be room, but another was first");
        drop(first);
        let second = second.await.expect("room");
        assert_eq!((second.permits(), free(&room)), (100, 0));
        drop(second);
        assert_eq!(third.await.expect("room").permits(), 10);
    }

    #[tokio::test]
    async fn an_answer_keeps_its_seat_until_its_bytes_are_gone() {
        let room = Room::new(100 * PAGE);
        let mut seat = Seat::default();
        assert!(room.grow(&mut seat, 30 * PAGE));
        let mut response = http::Response::new(Body::new(Full::new(Bytes::from_static(b"an answer"))));
        response.extensions_mut().insert(Taken(Arc::new(seat.0.take().expect("it sits"))));
        let bytes = until_sent(response).into_body().collect().await.expect("in memory").to_bytes();
        assert_eq!((&bytes[..], free(&room)), (&b"an answer"[..], 70));
        drop(bytes);
        assert_eq!(free(&room), 100);
    }
}
