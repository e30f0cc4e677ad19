//! Members that misbehave, for the client's tests: what a client does when a member refuses, breaks off or is silent
//! cannot be asked of a real one.

use super::Client;
use super::Config;
use super::watch_from;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::etcdserverpb::*;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use axum::body::Body;
use axum::middleware::map_response;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::service::Routes;

/// Refuses the first `refusals` requests of each kind, counts all, and ends every watch after one event.
#[derive(Clone, Default)]
struct Moody {
    refusals: usize,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
    /// From which revisions watches were asked for.
    watched_from: Arc<Mutex<Vec<i64>>>,
    /// Ends answers without a status, as etcd does with TLS when it stops: net/http closes its streams.
    says_no_end: bool,
}

impl Moody {
    fn answer<T: Default>(&self, count: &AtomicUsize) -> Result<Response<T>, Status> {
        if count.fetch_add(1, Ordering::SeqCst) < self.refusals {
            return Err(Status::unavailable("etcdserver: leader changed"));
        }
        Ok(Response::new(T::default()))
    }

    /// Serves on a free port until the test is over; returns the endpoint.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let routes = Routes::new(KvServer::new(self.clone())).add_service(WatchServer::new(self.clone()));
        let mut router = routes.into_axum_router();
        if self.says_no_end {
            router = router.layer(map_response(async |response: axum::response::Response| {
                response.map(|body| Body::from_stream(body.into_data_stream()))
            }));
        }
        tokio::spawn(axum::serve(listener, router).into_future());
        address
    }
}

#[tonic::async_trait]
impl Kv for Moody {
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.answer(&self.reads)
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.answer(&self.writes)
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        self.answer(&self.writes)
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.answer(&self.writes)
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.answer(&self.writes)
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}

#[tonic::async_trait]
impl watch_server::Watch for Moody {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let create = request.into_inner().next().await.expect("a first request")?;
        let Some(RequestUnion::CreateRequest(create)) = create.request_union else {
            return Err(Status::invalid_argument("the first request creates"));
        };
        self.watched_from.lock().push(create.start_revision);
        let header = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
        // The store is at 10 when it is first watched, and then sees one write after the other.
        let revision = if create.start_revision == 0 { 11 } else { create.start_revision };
        let created = WatchResponse { header: header(10), created: true, ..WatchResponse::default() };
        let kv = Some(KeyValue { key: "k".into(), mod_revision: revision, ..KeyValue::default() });
        let events = vec![Event { kv, ..Event::default() }];
        let event = WatchResponse { header: header(revision), events, ..WatchResponse::default() };
        let answers = [Ok(created), Ok(event), Err(Status::unavailable("going away"))];
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}

fn client(endpoints: Vec<String>) -> Client {
    Client::new(Config { endpoints, call_timeout: Some(Duration::from_secs(10)), ..Config::default() })
}

#[tokio::test]
async fn a_read_is_repeated_until_a_member_answers() {
    let member = Moody { refusals: 3, ..Moody::default() };
    let client = client(vec![member.serve().await]);
    assert_eq!(client.get("k").await, Ok(None));
    assert_eq!(member.reads.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_write_that_arrived_is_never_repeated() {
    let member = Moody { refusals: 3, ..Moody::default() };
    let client = client(vec![member.serve().await]);
    let error = client.put("k", "v").await.expect_err("the member refuses");
    assert_eq!((error.code(), error.to_string().as_str()), (Code::Unavailable, "etcdserver: leader changed"));
    assert_eq!(member.writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_member_that_accepts_and_never_speaks_is_passed_over() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let member = Moody::default();
    let silent_address = silent.local_addr().expect("bound").to_string();
    let client = client(vec![silent_address, "127.0.0.1:1".to_owned(), member.serve().await]);
    for _ in 0..6 {
        client.put("k", "v").await.expect("one of three is well");
    }
    assert_eq!(member.writes.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_watch_goes_on_from_the_next_revision_when_its_stream_breaks() {
    for says_no_end in [false, true] {
        let member = Moody { says_no_end, ..Moody::default() };
        let client = client(vec![member.serve().await]);
        let mut watch = client.watch(watch_from("k", "", 0));
        let created = watch.next().await.expect("no failure").expect("an answer");
        assert!(created.created);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let answer = watch.next().await.expect("no failure").expect("an answer");
            seen.extend(answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision));
        }
        assert_eq!(seen, [11, 12, 13], "each event once, in order");
        assert_eq!(*member.watched_from.lock(), [0, 12, 13]);
    }
}

#[tokio::test]
async fn an_answer_without_a_status_is_a_lost_one() {
    let member = Moody { says_no_end: true, ..Moody::default() };
    let client = client(vec![member.serve().await]);
    let error = client.put("k", "v").await.expect_err("it has no end");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert_eq!(member.writes.load(Ordering::SeqCst), 1, "it may have been done");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_here() {
    let member = Moody::default();
    let client = client(vec![member.serve().await]);
    let error = client.put("k", vec![b'x'; 3 << 20]).await.expect_err("three megabytes");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.text().starts_with("trying to send message larger than max (3145"), "{error}");
    assert_eq!(member.writes.load(Ordering::SeqCst), 0);
}
