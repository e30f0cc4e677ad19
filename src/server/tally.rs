//! Counts calls, messages and bytes as they pass, for `grpc_server_*` and `etcd_network_client_grpc_*`.
//!
//! Both bodies of a call are looked at on their way: gRPC's five bytes before each message tell where it ends, wherever the frames of HTTP end. Nothing is
//! copied, kept or allocated. A call that ends without a status was given up by its client.

#![expect(clippy::disallowed_methods, reason = "calls are timed")]

use super::gateway::POOL;
use super::otel::Open;
use super::slow::Slow;
use crate::meter;
use crate::meter::Call;
use crate::meter::Calls;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use hyper::body::SizeHint;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;

/// Every method of this server, those of the key-value service first.
pub(super) static CALLS: LazyLock<Calls> = LazyLock::new(|| {
    Calls::new(POOL.services().flat_map(|service| {
        let path = |method: &prost_reflect::MethodDescriptor| format!("/{}/{}", service.full_name(), method.name());
        let kind = |method: &prost_reflect::MethodDescriptor| match method {
            method if method.is_client_streaming() => "bidi_stream",
            method if method.is_server_streaming() => "server_stream",
            _ => "unary",
        };
        service.methods().map(|method| (path(&method), kind(&method))).collect::<Vec<_>>()
    }))
});

/// gRPC's `CANCELLED`.
const CANCELED: i32 = 1;

/// One call from its beginning to its end.
pub(super) struct Tally {
    call: &'static Call,
    began: Instant,
    sent: Messages,
    sent_bytes: u64,
    code: Option<i32>,
    /// What the log is to tell of it.
    slow: Option<Box<Slow>>,
    /// What a collector is to be told of it.
    span: Option<Box<Open>>,
}

impl Tally {
    /// Begins, if the path is a method's.
    pub(super) fn begin(path: &str, headers: &HeaderMap) -> Option<Tally> {
        let call = CALLS.of(path)?;
        call.started.inc();
        let version = headers.get("client-api-version").and_then(|version| version.to_str().ok());
        meter::CLIENT_REQUESTS.count(version.unwrap_or("unknown"), call.is_unary());
        let (sent, began) = (Messages::default(), Instant::now());
        Some(Tally { call, began, sent, sent_bytes: 0, code: None, slow: None, span: None })
    }

    /// The method and when the call began; nothing for a stream, which has no time to take.
    pub(super) fn unary(&self) -> Option<(&'static str, Instant)> {
        self.call.is_unary().then_some((self.call.path(), self.began))
    }

    pub(super) fn add_span(&mut self, span: Option<Box<Open>>) {
        self.span = span;
    }

    /// What counts the request's messages.
    pub(super) fn received(&self) -> Received {
        Received(self.call, Messages::default())
    }

    fn status(&mut self, headers: &HeaderMap) {
        // Only the number: a whole status would copy all headers.
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(code.as_bytes()) as i32);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(CANCELED);
        self.call.handled(code);
        if meter::EXTENSIVE.load(Ordering::Relaxed) {
            self.call.took(self.began.elapsed().as_secs_f64());
        }
        if let Some(slow) = &self.slow {
            slow.tell(self.sent_bytes);
        }
        if let Some(span) = self.span.take() {
            span.end(code);
        }
    }
}

/// Counts the messages of a request.
pub(super) struct Received(&'static Call, Messages);

impl Received {
    pub(super) fn see(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            let (messages, bytes) = self.1.see(data);
            self.0.received.add(messages);
            meter::CLIENT_RECEIVED.add(bytes);
        }
    }
}

/// Finds messages in gRPC's framing: a byte of flags, four of length, the message.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; 5],
    have: usize,
    /// What is still to come of a message.
    rest: u64,
}

impl Messages {
    /// How many messages began in `data`, and how many bytes of messages there are in it.
    fn see(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            if self.rest > 0 {
                let part = data.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
                (self.rest, bytes) = (self.rest - part as u64, bytes + part as u64);
                data = &data[part..];
                continue;
            }
            let part = data.len().min(self.prefix.len() - self.have);
            self.prefix[self.have..self.have + part].copy_from_slice(&data[..part]);
            self.have += part;
            data = &data[part..];
            if self.have == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                (self.rest, self.have) = (u64::from(u32::from_be_bytes(length)), 0);
                messages += 1;
            }
        }
        (messages, bytes)
    }
}

/// The body of an answer, counted if it is a call's.
pub(super) struct Outbound {
    body: Body,
    tally: Option<Tally>,
}

impl Outbound {
    /// An answer that is no call's.
    pub(super) fn plain(response: http::Response<Body>) -> http::Response<Outbound> {
        response.map(|body| Outbound { body, tally: None })
    }

    /// The answer of a call; `slow` is told once it is sent.
    pub(super) fn counted(
        response: http::Response<Body>,
        mut tally: Option<Tally>,
        slow: Option<Box<Slow>>,
    ) -> http::Response<Outbound> {
        if let Some(tally) = &mut tally {
            tally.slow = slow;
            tally.status(response.headers());
        }
        response.map(|body| Outbound { body, tally })
    }
}

impl hyper::body::Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(tally), Some(Ok(frame))) = (&mut self.tally, &polled) {
            if let Some(data) = frame.data_ref() {
                let (messages, bytes) = tally.sent.see(data);
                tally.call.sent.add(messages);
                tally.sent_bytes += bytes;
                meter::CLIENT_SENT.add(bytes);
            } else if let Some(trailers) = frame.trailers_ref() {
                tally.status(trailers);
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let stream = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"x"].concat();
        for size in 1..=stream.len() {
            let mut finder = Messages::default();
            let seen = stream.chunks(size).map(|part| finder.see(part));
            let total = seen.fold((0, 0), |sum, (messages, bytes)| (sum.0 + messages, sum.1 + bytes));
            assert_eq!(total, (3, 4), "in pieces of {size}");
        }
    }

    #[test]
    fn a_call_that_nobody_waits_for_was_canceled() {
        let tally = Tally::begin("/etcdserverpb.KV/Compact", &HeaderMap::new()).expect("a method");
        let (canceled, started) = (tally.call.ended(CANCELED), tally.call.started.get());
        drop(tally);
        let call = CALLS.of("/etcdserverpb.KV/Compact").expect("a method");
        assert!(call.ended(CANCELED) > canceled && started > 0);
        assert!(Tally::begin("/etcdserverpb.KV/Nothing", &HeaderMap::new()).is_none());
    }
}
