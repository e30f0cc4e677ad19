//! What is behind a listener: which calls it knows, and who answers them.
//!
//! One port speaks gRPC and plain HTTP: what has a gRPC content type goes to a service by its name, what is below `/v3/` to the JSON gateway, everything else to
//! [`super::http`]. The match on names is all the routing there is; no call is looked up twice. Source: etcd `embed/serve.go`; contract-server 10.4.

use super::access;
use super::auth;
use super::cluster;
use super::election;
use super::front::Front;
use super::front::too_large;
use super::gateway;
use super::health;
use super::http as plain;
use super::identity::Origin;
use super::inbound::From;
use super::inbound::Inbound;
use super::kv;
use super::lab;
use super::lease;
use super::lock;
use super::maintenance;
use super::redirect;
use super::reflection;
use super::room;
use super::slow;
use super::tally::Outbound;
use super::tally::Tally;
use super::upload::Upload;
use super::watch;
use super::web;
use crate::error::Error;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::lab::lab_server::LabServer;
use crate::proto::reflection::server_reflection_server::ServerReflectionServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::Code;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;

type Request = http::Request<Incoming>;
type Response = http::Response<Body>;

/// What is behind a listener; cheap to clone.
#[derive(Clone)]
pub(super) enum Door {
    /// Everything for clients.
    Clients(Arc<Services>),
    /// Everything but HTTP, where that has URLs of its own.
    Grpc(Arc<Services>),
    /// HTTP only: `--listen-client-http-urls`.
    Http(Arc<Services>),
    /// Metrics and health only.
    Metrics(Front),
    /// The lab's.
    Lab(LabServer<lab::Service>),
}

/// All services for clients.
pub(super) struct Services {
    front: Front,
    kv: KvServer<kv::Service>,
    lease: LeaseServer<lease::Service>,
    cluster: ClusterServer<cluster::Service>,
    maintenance: MaintenanceServer<maintenance::Service>,
    auth: AuthServer<auth::Service>,
    lock: LockServer<lock::Service>,
    election: ElectionServer<election::Service>,
    reflection: ServerReflectionServer<reflection::Service>,
}

impl Door {
    pub(super) fn clients(front: &Front) -> Door {
        Door::Clients(Services::new(front))
    }

    /// This door without HTTP, and one with nothing else.
    pub(super) fn parted(self) -> (Door, Door) {
        match self {
            Door::Clients(services) => (Door::Grpc(services.clone()), Door::Http(services)),
            other => (other.clone(), other),
        }
    }

    pub(super) fn lab(front: &Front, token: &str) -> Door {
        Door::Lab(LabServer::new(lab::Service::new(front.clone(), token)))
    }

    /// Answers one request, which came from `origin`.
    pub(super) async fn answer(&self, request: Request, origin: &Arc<Origin>) -> http::Response<Outbound> {
        match self {
            Door::Clients(services) | Door::Grpc(services) if is_grpc(&request) => {
                services.call(request.map(|body| Inbound::new(From::Wire(body))), origin).await
            }
            Door::Lab(server) => Outbound::plain(done(server.clone().call(request).await)),
            // What is large and rare is in a box of its own: each call takes as much memory as the largest of these would.
            _ => Outbound::plain(Box::pin(self.http(Upload::of(request), origin)).await),
        }
    }

    async fn http(&self, request: http::Request<Upload>, origin: &Arc<Origin>) -> Response {
        let is_head = request.method() == http::Method::HEAD;
        let mut response = match self {
            Door::Clients(services) | Door::Http(services) => services.http(request, origin).await,
            Door::Metrics(front) => match redirect::answer(&request) {
                Some(moved) => moved,
                None => plain::answer(front, plain::Scope::Metrics, &request).await,
            },
            Door::Grpc(_) | Door::Lab(_) => plain::not_found(),
        };
        if is_head {
            *response.body_mut() = Body::empty();
        }
        response
    }
}

/// gRPC needs HTTP/2: its content type over HTTP/1.1 is that of a path which is not there, as in etcd.
fn is_grpc(request: &Request) -> bool {
    if request.version() != http::Version::HTTP_2 {
        return false;
    }
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn done(result: Result<Response, Infallible>) -> Response {
    match result {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

impl Services {
    fn new(front: &Front) -> Arc<Services> {
        /// A service's server: what comes in may be compressed, and is counted when it is unpacked. Answers go out as they are.
        macro_rules! bounded {
            ($server:expr) => {
                $server
                    .max_decoding_message_size(front.limits.message_bytes_max)
                    .accept_compressed(CompressionEncoding::Gzip)
            };
        }
        let f = || front.clone();
        Arc::new(Services {
            front: f(),
            kv: bounded!(KvServer::new(kv::Service(f()))),
            lease: bounded!(LeaseServer::new(lease::Service(f()))),
            cluster: bounded!(ClusterServer::new(cluster::Service(f()))),
            maintenance: bounded!(MaintenanceServer::new(maintenance::Service(f()))),
            auth: bounded!(AuthServer::new(auth::Service(f()))),
            lock: bounded!(LockServer::new(lock::Service(f()))),
            election: bounded!(ElectionServer::new(election::Service(f()))),
            reflection: bounded!(ServerReflectionServer::new(reflection::Service)),
        })
    }

    pub(super) fn web(&self) -> &web::Web {
        &self.front.limits.web
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.front.limits.message_bytes_max
    }

    /// Everything that is not gRPC: the gateway, health, version, metrics.
    async fn http(self: &Arc<Services>, request: http::Request<Upload>, origin: &Arc<Origin>) -> Response {
        let web = &self.front.limits.web;
        if let Some(refusal) = web::refuse(web, &self.front, &request, origin) {
            return refusal;
        }
        let origins = web::allowed_origin(web, request.headers());
        let mut response = if origins.is_some() && request.method() == http::Method::OPTIONS {
            Response::default()
        } else if let Some(moved) = redirect::answer(&request) {
            moved
        } else if web.gateway && gateway::is_below(request.uri().path()) {
            gateway::answer(self, request, origin).await
        } else {
            plain::answer(&self.front, plain::Scope::All, &request).await
        };
        if let Some(allowed) = origins {
            web::allow(response.headers_mut(), allowed);
        }
        response
    }

    /// Answers one call, and counts it.
    pub(super) async fn call(
        &self,
        mut request: http::Request<Inbound>,
        origin: &Arc<Origin>,
    ) -> http::Response<Outbound> {
        self.front.node.let_in().await;
        // Lives as long as the call does, however that ends.
        let mut tally = Tally::begin(request.uri().path(), request.headers());
        if let Some(tally) = &mut tally {
            request.body_mut().count_with(tally.received());
            if let Some(tracer) = &self.front.tracer {
                tally.add_span(tracer.begin(request.uri().path(), request.headers(), origin));
            }
        }
        let Some((method, began)) = tally.as_ref().and_then(Tally::unary) else {
            return Outbound::counted(self.serve(request, origin).await, tally, None);
        };
        let limit = self.front.limits.warn_unary;
        let (response, slow) = slow::timed(began, (method, origin), limit, self.serve(request, origin)).await;
        Outbound::counted(response, tally, slow)
    }

    async fn serve(&self, mut request: http::Request<Inbound>, origin: &Arc<Origin>) -> Response {
        if let Err(e) = self.front.admit(request.uri().path(), request.headers()) {
            return Status::from(e).into_http();
        }
        if self.front.node.auth_is_on()
            && let Err(refusal) = Box::pin(self.front.authorize(&mut request, origin)).await
        {
            return refusal.into_http();
        }
        // Shares the bytes: the request goes away, its path may be needed to say what there is not.
        let uri = request.uri().clone();
        let path = uri.path();
        let service = path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        let response = match service {
            "etcdserverpb.KV" => room::until_sent(done(self.kv.clone().call(request).await)),
            "etcdserverpb.Watch" => {
                // Who watches is shown.
                request.extensions_mut().insert(Arc::clone(origin));
                Box::pin(watch::call(&self.front, request)).await
            }
            "etcdserverpb.Lease" => done(self.lease.clone().call(request).await),
            "etcdserverpb.Cluster" => done(self.cluster.clone().call(request).await),
            "etcdserverpb.Maintenance" => done(self.maintenance.clone().call(request).await),
            "etcdserverpb.Auth" => done(self.auth.clone().call(request).await),
            "grpc.health.v1.Health" => Box::pin(health::call(&self.front, request)).await,
            "v3lockpb.Lock" => done(self.lock.clone().call(request).await),
            "v3electionpb.Election" => done(self.election.clone().call(request).await),
            "grpc.reflection.v1.ServerReflection" => done(self.reflection.clone().call(request).await),
            "grpc.reflection.v1alpha.ServerReflection" => {
                done(self.reflection.clone().call(reflection::as_v1(request)).await)
            }
            _ => access::unknown(path).into_http(),
        };
        in_grpcs_words(response, path)
    }
}

/// Refusals that tonic words otherwise than grpc-go, which etcd's clients know, and one that is ours: transactions that lie too deep in each other for
/// our decoder are as wrong as those that [`crate::apply::check::txn`] counts.
fn in_grpcs_words(response: Response, path: &str) -> Response {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    match (status.code(), status.message()) {
        (code @ (Code::OutOfRange | Code::ResourceExhausted), text) => match too_large(code, text) {
            Some(text) => Status::resource_exhausted(text).into_http(),
            None => response,
        },
        (Code::Internal, text) if path == "/etcdserverpb.KV/Txn" && text.ends_with("recursion limit reached") => {
            Status::from(Error::TooManyOps).into_http()
        }
        (Code::Unimplemented, "") => access::unknown(path).into_http(),
        _ => response,
    }
}
