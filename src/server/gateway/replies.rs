//! The answers of a call, taken out of gRPC's frames again.

use super::json;
use super::stream_error;
use super::timeout;
use super::timeout::Limit;
use crate::server::tally::Outbound;
use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;
use futures::stream::StreamExt as _;
use futures::stream::once;
use futures::stream::unfold;
use http_body_util::BodyExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost_reflect::DynamicMessage;
use prost_reflect::MessageDescriptor;
use std::convert::Infallible;
use tonic::Code;
use tonic::Status;

/// One byte of flags, four of length.
const PREFIX: usize = 5;

/// What a call answers: messages, then perhaps a refusal.
pub(super) struct Replies {
    body: Outbound,
    buffer: BytesMut,
    descriptor: MessageDescriptor,
    ended: bool,
}

impl Replies {
    pub(super) fn new(body: Outbound, descriptor: MessageDescriptor) -> Replies {
        Replies { body, buffer: BytesMut::new(), descriptor, ended: false }
    }

    /// The next message; a refusal is the last thing.
    pub(super) async fn next(&mut self) -> Option<Result<DynamicMessage, Status>> {
        while !self.ended {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(status)) => return self.end(status),
                None => {
                    self.ended = true;
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
                        return self.end(status);
                    }
                }
            }
        }
        None
    }

    fn end(&mut self, status: Status) -> Option<Result<DynamicMessage, Status>> {
        self.ended = true;
        Some(Err(status))
    }

    /// A message that is here in full.
    fn take(&mut self) -> Option<Result<DynamicMessage, Status>> {
        let length = u32::from_be_bytes(self.buffer.get(1..PREFIX)?.try_into().ok()?);
        let whole = PREFIX + usize::try_from(length).ok()?;
        if self.buffer.len() < whole {
            return None;
        }
        let mut frame = self.buffer.split_to(whole).freeze();
        frame.advance(PREFIX);
        let message = DynamicMessage::decode(self.descriptor.clone(), frame);
        Some(message.map_err(|e| Status::internal(e.to_string())))
    }

    /// A body with a line for `first` and one for each further message, until `limit`. A refusal ends it, without the end of a line.
    pub(super) fn into_lines(
        self,
        first: &DynamicMessage,
        limit: Limit,
    ) -> StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static + use<>> {
        let first = line(first);
        let rest = unfold(self, move |mut replies| async move {
            if replies.ended {
                return None;
            }
            let next = match limit.within(replies.next()).await {
                Some(next) => next?,
                None => replies.end(timeout::exceeded())?,
            };
            let text = match next {
                Ok(message) => line(&message),
                Err(status) => stream_error(&status).into_bytes(),
            };
            Some((text, replies))
        });
        let lines = once(async { first }).chain(rest);
        StreamBody::new(lines.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}

fn line(message: &DynamicMessage) -> Vec<u8> {
    let mut text = b"{\"result\":".to_vec();
    text.extend_from_slice(&json::write(message));
    text.extend_from_slice(b"}\n");
    text
}
