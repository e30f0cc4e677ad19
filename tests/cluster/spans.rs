//! Spans of requests, as a collector receives them.

use crate::client::Client;
use crate::client::put;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use etcd_lab::proto::otlp;
use otlp::any_value::Value;
use otlp::trace_service_server::TraceService;
use otlp::trace_service_server::TraceServiceServer;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// A collector: keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<otlp::ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("nobody panics with it").extend(request.into_inner().resource_spans);
        Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves; its address.
    async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, address)
    }

    fn spans(&self) -> Vec<otlp::Span> {
        let all = self.0.lock().expect("nobody panics with it");
        all.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn named(&self, name: &str) -> Vec<otlp::Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    fn resource(&self) -> Vec<(String, Value)> {
        let all = self.0.lock().expect("nobody panics with it");
        pairs(&all[0].resource.as_ref().expect("a resource").attributes)
    }
}

fn pairs(attributes: &[otlp::KeyValue]) -> Vec<(String, Value)> {
    let value = |pair: &otlp::KeyValue| pair.value.clone().and_then(|value| value.value).expect("a value");
    attributes.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn has(attributes: &[otlp::KeyValue], key: &str, value: &Value) -> bool {
    pairs(attributes).iter().any(|(have, found)| have == key && found == value)
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn member(scratch: &Scratch, name: &str, address: &str, rate: &str) -> (Process, Client, String) {
    let spec = Spec::new(name, scratch.path());
    let mut flags = spec.flags(std::slice::from_ref(&spec));
    flags.extend([
        "--enable-distributed-tracing".to_owned(),
        format!("--distributed-tracing-address={address}"),
        "--distributed-tracing-service-name=lab".to_owned(),
        format!("--distributed-tracing-instance-id={name}"),
        format!("--distributed-tracing-sampling-rate={rate}"),
    ]);
    let process = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join(format!("{name}.log")));
    let address = spec.client_url.trim_start_matches("http://").to_owned();
    (process, Client::plain(vec![spec.client_url]), address)
}

fn traced<T>(message: T, parent: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().expect("text"));
    request
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_collector_hears_of_every_call_that_is_sampled() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let (collector, address) = Collector::start().await;
        let (mut process, client, _) = member(&scratch, "all", &address, "1000000");
        until(READY_WITHIN, "a put", async || client.put(0, "a", "1").await).await;
        client.kv(0).put(traced(put("b", "1"), SAMPLED)).await.expect("a put");
        client.kv(0).put(traced(put("c", "1"), NOT_SAMPLED)).await.expect("a put");
        client.put(0, "", "1").await.expect_err("no key");
        // What waits is sent when the member stops.
        process.signal(Signal::TERM);
        process.ended(ENDS_WITHIN).await;
        let puts = collector.named("etcdserverpb.KV/Put");
        assert_eq!(puts.len(), 3, "{puts:?}");
        assert_eq!(
            collector.resource(),
            [("service.name".into(), text("lab")), ("service.instance.id".into(), text("all"))]
        );
        let child = puts.iter().find(|span| !span.parent_span_id.is_empty()).expect("the caller's");
        assert_eq!((hex(&child.trace_id).as_str(), hex(&child.parent_span_id).as_str()), (TRACE, "b7ad6b7169203331"));
        for span in &puts {
            assert_eq!((span.trace_id.len(), span.span_id.len(), span.kind), (16, 8, otlp::SpanKind::Server as i32));
            assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano > span.start_time_unix_nano);
            for (key, value) in [("rpc.system", "grpc"), ("rpc.service", "etcdserverpb.KV"), ("rpc.method", "Put")] {
                assert!(has(&span.attributes, key, &text(value)), "{key}: {span:?}");
            }
        }
        let codes =
            |code| puts.iter().filter(|s| has(&s.attributes, "rpc.grpc.status_code", &Value::IntValue(code))).count();
        assert_eq!((codes(0), codes(3)), (2, 1), "two went well, one was the caller's mistake");
        assert!(puts.iter().all(|span| span.status.is_none()), "and no mistake of the server's");
    });
}

#[test]
fn a_rate_of_none_leaves_it_to_the_callers_and_a_collector_that_is_away_harms_nobody() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let (collector, address) = Collector::start().await;
        let (mut process, client, _) = member(&scratch, "none", &address, "0");
        until(READY_WITHIN, "a put", async || client.put(0, "a", "1").await).await;
        client.kv(0).put(traced(put("b", "1"), SAMPLED)).await.expect("a put");
        process.signal(Signal::TERM);
        process.ended(ENDS_WITHIN).await;
        assert_eq!(collector.spans().len(), 1, "{:?}", collector.spans());

        let (_away, client, address) = member(&scratch, "away", "127.0.0.1:1", "1000000");
        until(READY_WITHIN, "a put", async || client.put(0, "a", "1").await).await;
        until(READY_WITHIN, "the loss is counted", async || {
            client.put(0, "a", "1").await.map_err(|e| e.to_string())?;
            let page = http::get(&address, "/metrics").await.map_err(|e| e.to_string())?.body;
            let lost =
                page.lines().find_map(|line| line.strip_prefix("etcd_lab_spans_dropped_total ")).map(str::to_owned);
            if lost.as_deref().is_some_and(|lost| lost != "0") { Ok(()) } else { Err(format!("{lost:?}")) }
        })
        .await;
    });
}
