//! The body of a call to a service: as it came from the wire, or made from JSON by the gateway. One type for both, so that the services exist once.

use super::gateway::Failure;
use super::gateway::Transcoded;
use super::tally::Received;
use bytes::Bytes;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

/// A body, and who counts its messages.
pub(super) struct Inbound {
    from: From,
    received: Option<Received>,
}

pub(super) enum From {
    Wire(Incoming),
    /// One message.
    Once(Option<Bytes>),
    /// Messages as their JSON comes in.
    Json(Box<Transcoded>),
}

impl Inbound {
    pub(super) fn new(from: From) -> Inbound {
        Inbound { from, received: None }
    }

    pub(super) fn count_with(&mut self, received: Received) {
        self.received = Some(received);
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Inbound { from, received } = self.get_mut();
        let polled = match from {
            From::Wire(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            From::Once(frame) => Poll::Ready(frame.take().map(|frame| Ok(Frame::data(frame)))),
            From::Json(body) => body.poll_next(cx),
        };
        if let (Some(received), Poll::Ready(Some(Ok(frame)))) = (received, &polled) {
            received.see(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Wire(body) => body.is_end_stream(),
            From::Once(frame) => frame.is_none(),
            From::Json(_) => false,
        }
    }
}
