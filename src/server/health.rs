//! grpc.health.v1: whether this server serves. It answers for the empty service name only, as etcd's does.
//!
//! The two messages and the service are written out here: they are four fields, and not worth a generator. Source:
//! the gRPC health checking protocol; contract-server 1.1.

use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::server::ServerStreamingService;
use tonic::server::UnaryService;
use tonic_prost::ProstCodec;

/// `SERVING` of the protocol.
const SERVING: i32 = 1;

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

/// The Health service.
#[derive(Clone, Copy, Default)]
struct Service;

fn check(request: &CheckRequest) -> Result<CheckResponse, Status> {
    match request.service.as_str() {
        "" => Ok(CheckResponse { status: SERVING }),
        _ => Err(Status::not_found("unknown service")),
    }
}

impl UnaryService<CheckRequest> for Service {
    type Response = CheckResponse;
    type Future = std::future::Ready<Result<Response<CheckResponse>, Status>>;

    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        std::future::ready(check(request.get_ref()).map(Response::new))
    }
}

impl ServerStreamingService<CheckRequest> for Service {
    type Response = CheckResponse;
    type ResponseStream = BoxStream<'static, Result<CheckResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    /// The first answer holds until the connection ends: this server serves from its start to its stop.
    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        // The protocol wants "unknown" as an answer here; grpc-go, which etcd uses, gives it as number 3.
        let status = check(request.get_ref()).map_or(3, |response| response.status);
        let first = futures::stream::once(async move { Ok(CheckResponse { status }) });
        std::future::ready(Ok(Response::new(first.chain(futures::stream::pending()).boxed())))
    }
}

/// Answers one call.
pub(super) async fn call<B>(request: http::Request<B>) -> http::Response<Body>
where
    B: hyper::body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let mut grpc = Grpc::new(ProstCodec::default());
    match request.uri().path() {
        "/grpc.health.v1.Health/Check" => grpc.unary(Service, request).await,
        "/grpc.health.v1.Health/Watch" => grpc.server_streaming(Service, request).await,
        _ => Status::unimplemented("unknown method for service grpc.health.v1.Health").into_http(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_as_a_whole_has_a_health() {
        assert_eq!(check(&CheckRequest { service: String::new() }).expect("serving").status, SERVING);
        let status = check(&CheckRequest { service: "etcdserverpb.KV".into() }).expect_err("unknown");
        assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "unknown service"));
    }
}
