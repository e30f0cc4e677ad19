//! The JSON gateway: what a client POSTs below `/v3/` becomes a gRPC call to this very server, and the call's answer becomes JSON.
//!
//! ```text
//! POST /v3/kv/range {"key":"YQ=="} ──▶ /etcdserverpb.KV/Range, one gRPC frame ──▶ the service ──▶ frames ──▶ {"header":…,"kvs":…}
//! ```
//!
//! No call is known here by name: paths are a table ([`paths`]), messages are read and written by their descriptors. So whatever holds for a gRPC call (rights,
//! limits, learners) holds for its JSON form, because it is one. Fields are written as in the `.proto` files and read so or in camel case; bytes are base64,
//! 64-bit integers text, what is zero is left out. A certificate's name is no user here: a gateway's certificate would be everybody's (CVE-2018-16886).
//!
//! Errors have the members of 3.5's and of 3.6's form, so that clients of both read them. A call ends after `Grpc-Timeout`, if the request has one.
//! Source: etcd `server/embed/serve.go`, grpc-gateway v1 `runtime`; contract-server 10.2.

mod json;
mod paths;
mod replies;
mod syntax;
#[cfg(test)]
mod tests;
mod timeout;
mod websocket;

pub(super) use json::Failure;
pub(super) use json::Transcoded;

use super::door::Services;
use super::identity::Origin;
use super::inbound::From;
use super::inbound::Inbound;
use super::upload::Upload;
use crate::proto;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use prost_reflect::DescriptorPool;
use prost_reflect::MethodDescriptor;
use replies::Replies;
use serde::Serialize;
use std::sync::Arc;
use std::sync::LazyLock;
use timeout::Limit;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;

/// All services and messages. Decoded when the first call comes.
pub(super) static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("checked by a test"));

/// Whether a path is the gateway's, be it known or not.
pub(super) fn is_below(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

/// Answers one request below `/v3/`.
pub(super) async fn answer(services: &Arc<Services>, request: Request<Upload>, origin: &Arc<Origin>) -> Response<Body> {
    let path = request.uri().path();
    let path = path.strip_prefix("/v3beta/").map_or_else(|| path.to_owned(), |rest| format!("/v3/{rest}"));
    let Some(method) = paths::method(&path).and_then(described) else {
        return refusal(&Status::not_found("Not Found"));
    };
    let route = Route { method };
    if websocket::is_asked_for(&request) {
        return websocket::answer(services, request, route, origin);
    }
    if request.method() != Method::POST || is_overridden(request.headers()) {
        // 501 and not 405: the gateway of etcd 3.6 has a gRPC code for everything, and this is the nearest. Source: grpc-gateway v2 `DefaultRoutingErrorHandler`.
        return refusal(&Status::unimplemented("Method Not Allowed"));
    }
    let limit = match timeout::of(request.headers()) {
        Ok(limit) => limit,
        Err(status) => return refusal(&status),
    };
    let streams = route.method.is_server_streaming();
    let late = || if streams { stream_refusal(&timeout::exceeded()) } else { refusal(&timeout::exceeded()) };
    limit.within(unlimited(services, request, route, origin, limit)).await.unwrap_or_else(late)
}

/// Whether a form asks to be taken for something else than a POST, which the gateway does for browsers. Source: grpc-gateway `runtime.ServeMux.ServeHTTP`.
fn is_overridden(headers: &HeaderMap) -> bool {
    let is =
        |name: HeaderName, value: &str| headers.get(name).is_some_and(|given| given.as_bytes() == value.as_bytes());
    let method = headers.get("x-http-method-override").filter(|method| !method.is_empty());
    is(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        && method.is_some_and(|method| !method.as_bytes().eq_ignore_ascii_case(b"POST"))
}

/// The answer; a stream's head and first message, and the rest within `limit`.
async fn unlimited(
    services: &Services,
    request: Request<Upload>,
    Route { method }: Route,
    origin: &Arc<Origin>,
    limit: Limit,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let call = match call(&method, &parts.headers, body, services.message_bytes_max()).await {
        Ok(call) => call,
        Err(status) => return refusal(&status),
    };
    let response = services.call(call, origin).await;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return if method.is_server_streaming() { stream_refusal(&status) } else { refusal(&status) };
    }
    let replies = Replies::new(response.into_body(), method.output());
    if method.is_server_streaming() { stream(replies, limit).await } else { single(replies).await }
}

/// The method that a path leads to.
struct Route {
    method: MethodDescriptor,
}

impl Route {
    /// The gRPC call with this body.
    fn call(&self, body: From, metadata: HeaderMap) -> Request<Inbound> {
        let mut request = Request::new(Inbound::new(body));
        let path = format!("/{}/{}", self.method.parent_service().full_name(), self.method.name());
        *request.uri_mut() = path.parse().expect("names of services and methods make a path");
        *request.method_mut() = Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = metadata;
        request
    }
}

fn described(path: &str) -> Option<MethodDescriptor> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    POOL.get_service_by_name(service)?.methods().find(|method| method.name() == name)
}

/// The gRPC call that a request stands for.
async fn call(
    method: &MethodDescriptor,
    headers: &HeaderMap,
    body: Upload,
    bytes_max: usize,
) -> Result<Request<Inbound>, Status> {
    let body = if method.is_client_streaming() {
        From::Json(Box::new(Transcoded::new(body, method.input(), bytes_max)))
    } else {
        // JSON of a message is at most so much larger: base64, names, quotes.
        let read = Limited::new(body, bytes_max.saturating_mul(2)).collect().await;
        let whole = read.map_err(|e| match e.downcast_ref::<LengthLimitError>() {
            Some(_) => Status::resource_exhausted(format!("grpc: received message larger than max ({bytes_max})")),
            None => Status::invalid_argument(e.to_string()),
        })?;
        From::Once(Some(json::first_frame(&method.input(), &whole.to_bytes())?))
    };
    Ok(Route { method: method.clone() }.call(body, metadata(headers)))
}

/// What of a request's header goes with the call: the token, and `Grpc-Metadata-X` as `x`. The mark of a gateway is always set.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let Some(inner) = name.as_str().strip_prefix("grpc-metadata-") else { continue };
        let reserved = inner.starts_with("grpc") || matches!(inner, "content-type" | "te" | "host");
        if let Some(inner) = HeaderName::from_bytes(inner.as_bytes()).ok().filter(|_| !reserved) {
            metadata.append(inner, value.clone());
        }
    }
    if let Some(token) = headers.get(http::header::AUTHORIZATION) {
        metadata.insert(http::header::AUTHORIZATION, token.clone());
    }
    metadata.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(http::header::TE, HeaderValue::from_static("trailers"));
    let accept = headers.get(http::header::ACCEPT).cloned();
    metadata.insert("grpcgateway-accept", accept.unwrap_or_else(|| HeaderValue::from_static("*/*")));
    metadata
}

async fn single(mut replies: Replies) -> Response<Body> {
    match replies.next().await {
        Some(Ok(message)) => of_a_call(json_answer(StatusCode::OK, json::write(&message))),
        Some(Err(status)) => refusal(&status),
        None => refusal(&Status::internal("the call ended without an answer")),
    }
}

/// One line for each message. The head waits for the first, because a refusal is the head's business.
async fn stream(mut replies: Replies, limit: Limit) -> Response<Body> {
    match replies.next().await {
        Some(Ok(message)) => {
            let body = Body::new(replies.into_lines(&message, limit));
            of_a_call(with_type(Response::new(body), "application/json"))
        }
        Some(Err(status)) => stream_refusal(&status),
        None => json_answer(StatusCode::OK, Vec::new()),
    }
}

/// Why a call was refused; the members in etcd's order, because people read them.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
    code: i32,
    message: &'a str,
}

fn refusal(status: &Status) -> Response<Body> {
    let (code, message) = (status.code() as i32, status.message());
    let body = serde_json::to_vec(&Refusal { error: message, code, message }).unwrap_or_default();
    json_answer(http_status(status.code()), body)
}

fn stream_refusal(status: &Status) -> Response<Body> {
    json_answer(http_status(status.code()), stream_error(status).into_bytes())
}

#[derive(Serialize)]
struct StreamError<'a> {
    error: StreamRefusal<'a>,
}

#[derive(Serialize)]
struct StreamRefusal<'a> {
    grpc_code: i32,
    http_code: u16,
    message: &'a str,
    http_status: &'a str,
    code: i32,
}

/// How a stream tells why it ends.
fn stream_error(status: &Status) -> String {
    let (code, http) = (status.code() as i32, http_status(status.code()));
    let (http_code, http_status) = (http.as_u16(), http.canonical_reason().unwrap_or_default());
    let error = StreamRefusal { grpc_code: code, http_code, message: status.message(), http_status, code };
    serde_json::to_string(&StreamError { error }).unwrap_or_default()
}

fn json_answer(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    with_type(response, "application/json")
}

/// What grpc-gateway tells of the gRPC answer's header.
fn of_a_call(mut response: Response<Body>) -> Response<Body> {
    let name = HeaderName::from_static("grpc-metadata-content-type");
    response.headers_mut().insert(name, HeaderValue::from_static("application/grpc"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from_static(body.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    with_type(response, "text/plain; charset=utf-8")
}

fn with_type(mut response: Response<Body>, content_type: &'static str) -> Response<Body> {
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Source: grpc-gateway `HTTPStatusFromCode`.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
