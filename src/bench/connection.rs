//! One HTTP/2 connection under tonic's generated clients, without the layers that a client for users needs.
//!
//! tonic's own channel puts a queue and a task before each connection, to reconnect and to balance. A load generator wants to know when a
//! connection breaks, and shares its cores with the server that it measures, so it goes without.

use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A connection as a service; clones share it.
#[derive(Clone)]
pub(super) struct Connection(http2::SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// An open connection, from which clients of every service can be made. They share it.
#[derive(Clone)]
pub(super) struct Wire {
    connection: Connection,
    origin: http::Uri,
}

impl Wire {
    /// Connects to `host:port`. The connection's task runs on the current runtime.
    pub(super) async fn open(endpoint: &str) -> Result<Wire, String> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot connect to {endpoint}: {e}");
        let open = async {
            let stream = TcpStream::connect(endpoint).await.map_err(|e| failed(&e))?;
            stream.set_nodelay(true).map_err(|e| failed(&e))?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new());
            builder.handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))
        };
        let timed_out = |_| format!("cannot connect to {endpoint}: no answer in {} s", CONNECT_WITHIN.as_secs());
        let (sender, connection) = tokio::time::timeout(CONNECT_WITHIN, open).await.map_err(timed_out)??;
        tokio::spawn(connection);
        let origin = format!("http://{endpoint}").parse().map_err(|e| failed(&e))?;
        Ok(Wire { connection: Connection(sender), origin })
    }

    pub(super) fn kv(&self) -> KvClient<Connection> {
        KvClient::with_origin(self.connection.clone(), self.origin.clone())
    }

    pub(super) fn lease(&self) -> LeaseClient<Connection> {
        LeaseClient::with_origin(self.connection.clone(), self.origin.clone())
    }

    pub(super) fn watch(&self) -> WatchClient<Connection> {
        WatchClient::with_origin(self.connection.clone(), self.origin.clone())
    }
}

/// A client for keys on a connection of its own.
pub(super) async fn kv(endpoint: &str) -> Result<KvClient<Connection>, String> {
    Ok(Wire::open(endpoint).await?.kv())
}

/// A client for the list of members on a connection of its own.
pub(super) async fn cluster(endpoint: &str) -> Result<ClusterClient<Connection>, String> {
    let Wire { connection, origin } = Wire::open(endpoint).await?;
    Ok(ClusterClient::with_origin(connection, origin))
}

/// The endpoint of the leader.
pub(super) async fn leader(endpoints: &[String]) -> Result<String, String> {
    for endpoint in endpoints {
        let status = status(endpoint).await?;
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(endpoint.clone());
        }
    }
    Err("none of the endpoints is the leader: name every member".to_owned())
}

/// What the member says of itself.
pub(super) async fn status(endpoint: &str) -> Result<pb::StatusResponse, String> {
    let Wire { connection, origin } = Wire::open(endpoint).await?;
    let ask = async { MaintenanceClient::with_origin(connection, origin).status(pb::StatusRequest {}).await };
    match tokio::time::timeout(CONNECT_WITHIN, ask).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(refusal)) => Err(format!("{endpoint}: {}", refusal.message())),
        Err(_) => Err(format!("{endpoint}: no answer in {} s", CONNECT_WITHIN.as_secs())),
    }
}
