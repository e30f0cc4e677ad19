//! grpc.health.v1: whether this server serves. It answers for the empty service name only, as etcd's does, and says no while the member defragments
//! under `--experimental-stop-grpc-service-on-defrag`.
//!
//! The two messages and the service are written out here: they are four fields, and not worth a generator. Source:
//! the gRPC health checking protocol; contract-server 1.1.

use super::front::Front;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use tokio::sync::watch::Receiver;
use tokio_stream::wrappers::WatchStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::server::ServerStreamingService;
use tonic::server::UnaryService;
use tonic_prost::ProstCodec;

/// `SERVING`, `NOT_SERVING` and `SERVICE_UNKNOWN` of the protocol.
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const UNKNOWN: i32 = 3;

/// Which service is asked about.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

/// The Health service: how many defragmentations are under way, if they count.
#[derive(Clone)]
struct Service(Option<Receiver<usize>>);

impl Service {
    fn status(&self) -> i32 {
        status(self.0.as_ref().map_or(0, |defragmenting| *defragmenting.borrow()))
    }
}

fn status(defragmenting: usize) -> i32 {
    if defragmenting == 0 { SERVING } else { NOT_SERVING }
}

fn check(request: &CheckRequest, status: i32) -> Result<CheckResponse, Status> {
    match request.service.as_str() {
        "" => Ok(CheckResponse { status }),
        _ => Err(Status::not_found("unknown service")),
    }
}

impl UnaryService<CheckRequest> for Service {
    type Response = CheckResponse;
    type Future = std::future::Ready<Result<Response<CheckResponse>, Status>>;

    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        std::future::ready(check(request.get_ref(), self.status()).map(Response::new))
    }
}

impl ServerStreamingService<CheckRequest> for Service {
    type Response = CheckResponse;
    type ResponseStream = BoxStream<'static, Result<CheckResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    /// What holds now, then each change; the stream ends with the connection.
    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        let told = |status: i32| Ok(CheckResponse { status });
        // The protocol wants "unknown" as an answer here, and not as an error.
        let first = check(request.get_ref(), self.status()).map_or(UNKNOWN, |response| response.status);
        let changes = match self.0.clone().filter(|_| first != UNKNOWN) {
            Some(defragmenting) => WatchStream::from_changes(defragmenting).map(status).boxed(),
            None => futures::stream::pending().boxed(),
        };
        // Two defragmentations at a time are one state.
        let mut last = None;
        let news = futures::stream::once(async move { first }).chain(changes);
        let news = news.filter(move |status| std::future::ready(last.replace(*status) != Some(*status)));
        std::future::ready(Ok(Response::new(news.map(told).boxed())))
    }
}

/// Answers one call.
pub(super) async fn call<B>(front: &Front, request: http::Request<B>) -> http::Response<Body>
where
    B: hyper::body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let service = Service(front.limits.stops_on_defragment.then(|| front.node.defragmenting()));
    let mut grpc = Grpc::new(ProstCodec::default());
    match request.uri().path() {
        "/grpc.health.v1.Health/Check" => grpc.unary(service, request).await,
        "/grpc.health.v1.Health/Watch" => grpc.server_streaming(service, request).await,
        _ => Status::unimplemented("unknown method for service grpc.health.v1.Health").into_http(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_as_a_whole_has_a_health() {
        assert_eq!(check(&CheckRequest { service: String::new() }, SERVING).expect("serving").status, SERVING);
        let status = check(&CheckRequest { service: "etcdserverpb.KV".into() }, SERVING).expect_err("unknown");
        assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "unknown service"));
    }
}
