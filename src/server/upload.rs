//! The body of a request that may be answered before it is read.
//!
//! Over HTTP/2 a body that is dropped half-way resets its stream, and a client whose data is still on the way takes that for a failure and throws the answer away (curl:
//! error 92). So what nobody has read is read and thrown away, up to a bound, while the answer is on its way. HTTP/1 looks after itself.
//! Source: RFC 9113, section 8.1.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::Handle;

/// How much is read of what nobody wants, and for how long. Behind that the stream is reset.
const BYTES_MAX: usize = 16 << 20;
const TIME_MAX: Duration = Duration::from_secs(10);

/// A request's body.
pub(super) struct Upload {
    /// There until it is dropped.
    body: Option<Incoming>,
    is_http2: bool,
}

impl Upload {
    /// `request` with a body that may be left unread.
    pub(super) fn of(request: http::Request<Incoming>) -> http::Request<Upload> {
        let is_http2 = request.version() == http::Version::HTTP_2;
        request.map(|body| Upload { body: Some(body), is_http2 })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| self.is_http2 && !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (unread, Handle::try_current()) {
            runtime.spawn(async { tokio::time::timeout(TIME_MAX, read_away(body)).await.ok() });
        }
    }
}

async fn read_away(mut body: Incoming) {
    let mut bytes = 0;
    while bytes < BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else { return };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
