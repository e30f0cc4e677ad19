//! The queue in front of one stream, and the response body that empties it.
//!
//! There is no writer task: the server polls the body when the socket can take more, and the body then encodes all that waits, up
//! to half a mebibyte, into one chunk. So messages are batched exactly as much as the network is behind.
//!
//! A queue takes messages only while a body is attached to it. A newer body displaces the older one, as in etcd: the other side has
//! redialled, whatever we still believe of the old connection.

#![expect(clippy::disallowed_methods, reason = "streams say that they are alive by the real clock")]

use super::LINK_HEARTBEAT_EVERY;
use super::codec::Encoder;
use super::codec::StreamKind;
use super::codec::link_heartbeat;
use super::link::Link;
use crate::proto::raftpb::Message;
use bytes::Bytes;
use bytes::BytesMut;
use futures::FutureExt;
use hyper::body::Body;
use hyper::body::Frame;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio::time::Sleep;

/// How many messages wait for one stream at most (etcd's `streamBufSize`).
pub(super) const QUEUE_MESSAGES_MAX: usize = 4096;

/// How many bytes wait for one stream at most, unless one message alone is larger. Their entries are shared with raft's log.
pub(super) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A chunk is sent when it has this many bytes, or when nothing more waits.
const CHUNK_BYTES: usize = 512 * 1024;

/// A message, and when it may leave if a lab rule delays it.
pub(super) struct Queued {
    pub(super) message: Message,
    pub(super) due: Option<Instant>,
}

impl Queued {
    /// About how much memory it holds.
    fn weight(&self) -> usize {
        let entries = self.message.entries.iter().map(|e| e.data.len() + 64).sum::<usize>();
        128 + self.message.context.len() + entries
    }
}

/// What became of a message.
#[expect(clippy::large_enum_variant, reason = "passed on at once, never stored")]
pub(super) enum Push {
    Queued,
    Full,
    /// The other side has not dialled: send it another way.
    NotAttached(Queued),
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    bytes: usize,
    /// Which body may take from the queue; none if 0.
    attached: u64,
    bodies: u64,
    waker: Option<Waker>,
}

impl State {
    fn wake(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

/// The queue in front of one stream.
#[derive(Default)]
pub(super) struct Outbox(Mutex<State>);

impl Outbox {
    pub(super) fn push(&self, queued: Queued) -> Push {
        let waker = {
            let mut state = self.0.lock();
            if state.attached == 0 {
                return Push::NotAttached(queued);
            }
            let weight = queued.weight();
            let no_room = state.bytes + weight > QUEUE_BYTES_MAX && !state.queue.is_empty();
            if no_room || state.queue.len() >= QUEUE_MESSAGES_MAX {
                return Push::Full;
            }
            state.bytes += weight;
            state.queue.push_back(queued);
            state.wake()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Push::Queued
    }

    #[cfg(test)]
    pub(super) fn is_attached(&self) -> bool {
        self.0.lock().attached != 0
    }

    /// Makes way for a new body; the one before it ends. Returns the new one's number.
    fn attach(&self) -> u64 {
        let mut state = self.0.lock();
        state.bodies += 1;
        state.attached = state.bodies;
        let (number, waker) = (state.attached, state.wake());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        number
    }

    /// Ends the stream, if it is still this body's (or whoever's, for none). True if it was; what waited is lost.
    pub(super) fn detach(&self, body: Option<u64>) -> bool {
        let mut state = self.0.lock();
        if state.attached == 0 || body.is_some_and(|b| b != state.attached) {
            return false;
        }
        state.attached = 0;
        state.bytes = 0;
        let (lost, waker) = (std::mem::take(&mut state.queue), state.wake());
        drop(state);
        drop(lost);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Moves what may leave now into `batch`.
    fn take(&self, body: u64, cx: &Context<'_>, batch: &mut Vec<Message>) -> Taken {
        let mut state = self.0.lock();
        if state.attached != body {
            return Taken::Ended;
        }
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            if bytes >= CHUNK_BYTES {
                return Taken::Some;
            }
            if let Some(due) = next.due
                && due > Instant::now()
            {
                state.waker = Some(cx.waker().clone());
                return if batch.is_empty() { Taken::Due(due) } else { Taken::Some };
            }
            let weight = next.weight();
            state.bytes -= weight;
            bytes += weight;
            batch.extend(state.queue.pop_front().map(|q| q.message));
        }
        state.waker = Some(cx.waker().clone());
        if batch.is_empty() { Taken::Nothing } else { Taken::Some }
    }
}

enum Taken {
    Some,
    Nothing,
    Due(Instant),
    Ended,
}

/// The answer to a peer that dialled: ends only when another takes its place, or the link stops.
pub(super) struct StreamBody {
    link: Arc<Link>,
    kind: StreamKind,
    number: u64,
    encoder: Encoder,
    heartbeat: Interval,
    delay: Option<Pin<Box<Sleep>>>,
    batch: Vec<Message>,
    chunk: BytesMut,
}

impl StreamBody {
    /// Attaches a new body to the link's queue.
    pub(super) fn attach(link: Arc<Link>, kind: StreamKind) -> StreamBody {
        let number = link.outbox(kind).attach();
        link.activate();
        let mut heartbeat = tokio::time::interval_at(Instant::now() + LINK_HEARTBEAT_EVERY, LINK_HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (encoder, delay, batch, chunk) = (Encoder::new(kind), None, Vec::new(), BytesMut::new());
        StreamBody { link, kind, number, encoder, heartbeat, delay, batch, chunk }
    }

    /// All that waits, as one chunk.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self.link.outbox(self.kind).take(self.number, cx, &mut self.batch) {
                Taken::Ended => return Poll::Ready(None),
                Taken::Nothing => return Poll::Pending,
                Taken::Some => {
                    for message in self.batch.drain(..) {
                        self.encoder.encode(&message, &mut self.chunk);
                    }
                    return Poll::Ready(Some(self.chunk.split().freeze()));
                }
                Taken::Due(at) => {
                    let timer = self.delay.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    if timer.poll_unpin(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Poll::Ready(chunk) = self.poll_messages(cx) {
            let Some(chunk) = chunk else { return Poll::Ready(None) };
            self.link.count_sent(chunk.len());
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if self.heartbeat.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        let this = &mut *self;
        this.encoder.encode(&link_heartbeat(), &mut this.chunk);
        Poll::Ready(Some(Ok(Frame::data(this.chunk.split().freeze()))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if self.link.outbox(self.kind).detach(Some(self.number)) {
            self.link.stream_ended(self.kind);
        }
    }
}
