//! The gateway over a websocket: each text message of the client is a request's JSON, each answer a text message.
//!
//! For browsers, which cannot send a body bit by bit: a watch, or the keeping alive of a lease, over one connection. The token comes as a sub-protocol
//! (`Sec-WebSocket-Protocol: Bearer, TOKEN`) or as the cookie `token`, because a script can set no header here. A browser lets every page open a
//! websocket to everybody and sends the cookies along, so a page of another origin is refused unless `--cors` allows it; etcd asks nobody.
//!
//! Source: etcd `server/embed/serve.go` with tmc/grpc-websocket-proxy; RFC 6455.

mod frames;

use super::Replies;
use super::Route;
use super::Transcoded;
use super::json;
use super::metadata;
use super::stream_error;
use super::text;
use super::with_type;
use crate::server::door::Services;
use crate::server::identity::Origin;
use crate::server::inbound::From;
use crate::server::tally::Outbound;
use crate::server::upload::Upload;
use crate::server::web;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use frames::Frame;
use frames::Reader;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use hyper_util::rt::TokioIo;
use sha1::Digest as _;
use sha1::Sha1;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

/// Websockets of one server at a time: they are no longer counted among the listener's connections.
const WEBSOCKETS_MAX: usize = 1000;

/// Requests of one client that its call has not taken yet.
const REQUESTS_MAX: usize = 16;

/// RFC 6455, section 1.3.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

static ROOM: Semaphore = Semaphore::const_new(WEBSOCKETS_MAX);

/// Whether a request wants to become a websocket.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    request.version() == http::Version::HTTP_11
        && has_token(request.headers(), header::CONNECTION, "upgrade")
        && has_token(request.headers(), header::UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Answers the request and, once the connection is a websocket, serves it in a task of its own.
pub(super) fn answer(
    services: &Arc<Services>,
    mut request: Request<Upload>,
    route: Route,
    origin: &Arc<Origin>,
) -> Response<Body> {
    let headers = request.headers();
    let key = headers.get("sec-websocket-key").filter(|key| is_key(key)).cloned();
    let version = headers.get("sec-websocket-version").map(HeaderValue::as_bytes);
    let Some(key) = key.filter(|_| request.method() == http::Method::GET && version == Some(b"13")) else {
        return with_version(text(StatusCode::BAD_REQUEST, "Bad Request\n"));
    };
    if !may_open(services.web(), headers) {
        return text(StatusCode::FORBIDDEN, "this origin is not allowed: see --cors\n");
    }
    let Ok(room) = ROOM.try_acquire() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many websockets\n");
    };
    let (mut response, metadata) = (switching(&key), call_metadata(headers));
    if protocol(headers).is_some_and(|protocol| protocol.starts_with("Bearer")) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    let (services, origin, upgrade) = (services.clone(), origin.clone(), hyper::upgrade::on(&mut request));
    tokio::spawn(async move {
        if let Ok(io) = upgrade.await {
            let call = Call { services, origin, route, metadata };
            // A client that is gone needs no farewell.
            let _ended = call.serve(TokioIo::new(io)).await;
        }
        drop(room);
    });
    response
}

fn is_key(key: &HeaderValue) -> bool {
    BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

fn accept_of(key: &HeaderValue) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(MAGIC).finalize())
}

fn switching(key: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accept_of(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn with_version(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    with_type(response, "text/plain; charset=utf-8")
}

fn protocol(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
}

/// Whether the page that asks is this server's own, or one that `--cors` names. What is no browser names no page.
fn may_open(web: &web::Web, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    own.is_some() && own == host || web::allowed_origin(web, headers).is_some()
}

/// What goes with the call: as with other requests, and the token from where a browser can put it.
fn call_metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = metadata(headers);
    let by_protocol = protocol(headers).and_then(|text| text.split_once("Bearer,")).map(|(_, token)| token.trim());
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let by_cookie = cookies.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix("token="));
    let token = by_cookie.or(by_protocol).and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    if let Some(token) = token {
        metadata.insert(header::AUTHORIZATION, token);
    }
    metadata
}

/// The call that a websocket is.
struct Call {
    services: Arc<Services>,
    origin: Arc<Origin>,
    route: Route,
    metadata: HeaderMap,
}

/// What the client sends, on its way to the call.
struct Feed {
    requests: mpsc::Sender<Bytes>,
    /// One that found no room.
    waits: Option<Bytes>,
}

impl Call {
    async fn serve<IO: AsyncRead + AsyncWrite + Unpin>(self, io: IO) -> std::io::Result<()> {
        let (read, mut write) = tokio::io::split(io);
        let message_max = self.services.message_bytes_max().saturating_mul(2);
        let mut reader = Reader::new(read, message_max);
        let (requests, mut feed) = mpsc::channel(REQUESTS_MAX);
        let body = if self.route.method.is_client_streaming() {
            let transcoded = Transcoded::fed(feed, self.route.method.input(), self.services.message_bytes_max());
            From::Json(Box::new(transcoded))
        } else {
            match first(&mut reader, &mut write).await? {
                None => return Ok(()),
                Some(json) => {
                    feed.close();
                    match json::first_frame(&self.route.method.input(), &json) {
                        Ok(frame) => From::Once(Some(frame)),
                        Err(status) => return farewell(&mut write, Some(stream_error(&status))).await,
                    }
                }
            }
        };
        let mut feed = Feed { requests, waits: None };
        let call = self.route.call(body, self.metadata.clone());
        // A call may answer only once it has heard something, so both go on side by side.
        let mut answering = Box::pin(self.services.call(call, &self.origin));
        let response = loop {
            tokio::select! {
                response = &mut answering => break response,
                heard = heard(&mut reader, &mut feed) => if !reply(&mut write, heard?, &mut feed).await? { return Ok(()) },
            }
        };
        self.answers(response, &mut reader, &mut write, &mut feed).await
    }

    async fn answers<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        response: Response<Outbound>,
        reader: &mut Reader<R>,
        write: &mut W,
        feed: &mut Feed,
    ) -> std::io::Result<()> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            return farewell(write, Some(stream_error(&status))).await;
        }
        let streams = self.route.method.is_server_streaming();
        let mut replies = Replies::new(response.into_body(), self.route.method.output());
        loop {
            tokio::select! {
                answer = replies.next() => match answer {
                    Some(Ok(message)) => {
                        let json = json::write(&message);
                        let parts: [&[u8]; 3] = if streams { [b"{\"result\":", &json, b"}"] } else { [b"", &json, b""] };
                        write.write_all(&frames::text(&parts.concat())).await?;
                        if !streams {
                            return farewell(write, None).await;
                        }
                    }
                    Some(Err(status)) => return farewell(write, Some(stream_error(&status))).await,
                    None => return farewell(write, None).await,
                },
                heard = heard(reader, feed) => if !reply(write, heard?, feed).await? { return Ok(()) },
            }
        }
    }
}

/// The client's next frame; none is read before there is room for what came last. Safe to drop and call again.
async fn heard<R: AsyncRead + Unpin>(reader: &mut Reader<R>, feed: &mut Feed) -> std::io::Result<Frame> {
    if feed.waits.is_some() {
        // What waits is taken out only once there is a place for it: whoever drops this meanwhile loses nothing.
        let place = feed.requests.reserve().await;
        // If there is none, the call has ended its side, and what else comes is of no interest.
        if let (Ok(place), Some(json)) = (place, feed.waits.take()) {
            place.send(json);
        }
    }
    reader.next().await
}

/// Does what a frame asks for; whether the client is still there.
async fn reply<W: AsyncWrite + Unpin>(write: &mut W, frame: Frame, feed: &mut Feed) -> std::io::Result<bool> {
    match frame {
        Frame::Message(json) => {
            if let Err(mpsc::error::TrySendError::Full(json)) = feed.requests.try_send(json) {
                feed.waits = Some(json);
            }
        }
        Frame::Ping(payload) => write.write_all(&frames::pong(&payload)).await?,
        Frame::Pong => {}
        Frame::Close(code) => {
            write.write_all(&frames::close(code)).await?;
            write.shutdown().await?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first message, for a call that takes one.
async fn first<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut Reader<R>,
    write: &mut W,
) -> std::io::Result<Option<Bytes>> {
    loop {
        match reader.next().await? {
            Frame::Message(json) => return Ok(Some(json)),
            Frame::Ping(payload) => write.write_all(&frames::pong(&payload)).await?,
            Frame::Pong => {}
            Frame::Close(code) => {
                write.write_all(&frames::close(code)).await?;
                return Ok(None);
            }
        }
    }
}

/// Says a last word, if there is one, and ends.
async fn farewell<W: AsyncWrite + Unpin>(write: &mut W, last: Option<String>) -> std::io::Result<()> {
    if let Some(last) = last {
        write.write_all(&frames::text(last.as_bytes())).await?;
    }
    write.write_all(&frames::close(frames::NORMAL)).await?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_handshake_is_the_rfcs() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_key(&key) && !is_key(&HeaderValue::from_static("short")));
        assert_eq!(accept_of(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut request = Request::new(());
        *request.headers_mut() = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(is_asked_for(&request));
        request.headers_mut().remove("upgrade");
        assert!(!is_asked_for(&request));
    }

    /// Answers come while a request waits for room, and each of them drops the future that waits with it.
    #[test]
    fn a_request_that_waits_for_room_is_not_lost_when_an_answer_comes_first() {
        let (requests, mut call) = mpsc::channel(1);
        requests.try_send(Bytes::from_static(b"a")).expect("room for one");
        let mut feed = Feed { requests, waits: Some(Bytes::from_static(b"b")) };
        let mut reader = Reader::new(tokio::io::empty(), 100);
        assert!(heard(&mut reader, &mut feed).now_or_never().is_none(), "there is no room");
        assert_eq!(call.try_recv().as_deref(), Ok(&b"a"[..]));
        // The client is gone after that, which is no matter here.
        let _end = heard(&mut reader, &mut feed).now_or_never();
        assert_eq!(call.try_recv().as_deref(), Ok(&b"b"[..]));
    }

    #[test]
    fn a_browser_may_bring_its_token_in_two_ways() {
        let token = |pairs: &[(&'static str, &'static str)]| {
            call_metadata(&headers(pairs)).get("authorization").map(|value| value.to_str().expect("text").to_owned())
        };
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer, a.1")]).as_deref(), Some("Bearer a.1"));
        assert_eq!(token(&[("sec-websocket-protocol", "Bearer,a.1")]).as_deref(), Some("Bearer a.1"));
        assert_eq!(token(&[("cookie", "x=1; token=b.2")]).as_deref(), Some("Bearer b.2"));
        assert_eq!(token(&[("sec-websocket-protocol", "other")]), None);
    }

    #[test]
    fn a_page_of_another_origin_opens_none() {
        let none = web::Web::default();
        let some = web::Web { cors: vec!["http://a.example".into()], ..web::Web::default() };
        let from = |origin: &'static str| headers(&[("host", "etcd:2379"), ("origin", origin)]);
        assert!(may_open(&none, &headers(&[("host", "etcd:2379")])));
        assert!(may_open(&none, &from("http://etcd:2379")));
        assert!(!may_open(&none, &from("http://a.example")) && !may_open(&none, &from("null")));
        assert!(may_open(&some, &from("http://a.example")) && !may_open(&some, &from("http://b.example")));
    }
}
