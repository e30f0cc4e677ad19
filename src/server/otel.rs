//! Spans of requests for an OpenTelemetry collector: `--enable-distributed-tracing` and its four companions.
//!
//! ```text
//! a call begins ─▶ sampled? ─▶ Open ─▶ the call ends ─▶ queue of 2048 ─▶ batches of 512, each 5 s at least ─▶ OTLP over gRPC
//! ```
//!
//! A span is a call, named and marked as etcd's gRPC interceptor does it. A caller that sends `traceparent` decides whether its call is sampled; of the others it is so
//! many in a million, chosen by the trace's id, so that all servers choose alike. Nobody waits for the collector: what does not fit its queue is dropped and counted.
//! The messages are ours (`proto/otlp`): a few fields, where OpenTelemetry's own library would bring a runtime of its own.
//!
//! Left out: spans inside of a request (3.6 has none; 3.7 has one for each), baggage, TLS to the collector (etcd has none either). Source: etcd
//! `server/embed/config_tracing.go`; otelgrpc's stats handler; the W3C's Trace Context; OpenTelemetry's batch span processor for the numbers.

#![expect(clippy::disallowed_methods, reason = "spans have times and random ids")]

use super::identity::Origin;
use super::settings::Settings;
use crate::meter;
use crate::proto::otlp as pb;
use crate::wall;
use bytes::Bytes;
use http::HeaderMap;
use pb::any_value::Value;
use pb::trace_service_client::TraceServiceClient;
use std::time::Duration;
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// Spans that may wait, spans in a batch, the longest wait for a batch, the longest wait for the collector.
const QUEUE_SPANS: usize = 2048;
const BATCH_SPANS: usize = 512;
const BATCH_EVERY: Duration = Duration::from_secs(5);
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long the end of the member waits for its last spans.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

const PER_MILLION_MAX: i64 = 1_000_000;

/// What the flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracing {
    pub enabled: bool,
    /// `host:port` of the collector.
    pub address: String,
    pub service: String,
    /// Tells members apart; left out if empty.
    pub instance: String,
    /// Of the calls whose caller does not decide, so many in a million.
    pub per_million: i64,
}

impl Tracing {
    pub(super) fn from_settings(settings: &Settings) -> Tracing {
        let text = |name: &str| settings.text(&format!("distributed-tracing-{name}")).to_owned();
        Tracing {
            enabled: settings.is("enable-distributed-tracing"),
            address: text("address"),
            service: text("service-name"),
            instance: text("instance-id"),
            per_million: settings.int("distributed-tracing-sampling-rate"),
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        if !self.enabled {
            return Vec::new();
        }
        let mut found = Vec::new();
        if self.per_million < 0 {
            found.push("tracing sampling rate must be positive".into());
        }
        if self.per_million > PER_MILLION_MAX {
            found.push(format!("tracing sampling rate must be less than {PER_MILLION_MAX}"));
        }
        found.extend(self.endpoint().err());
        found
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.map_err(|e| format!("--distributed-tracing-address {:?} is not HOST:PORT: {e}", self.address))
    }
}

/// Makes spans of calls; cheap to clone.
#[derive(Clone)]
pub(super) struct Tracer {
    queue: mpsc::Sender<Job>,
    /// An id below this is sampled: of 63 bits.
    bound: u64,
}

enum Job {
    Span(Box<pb::Span>),
    /// Everything so far is to be sent now.
    Flush(oneshot::Sender<()>),
}

impl Tracer {
    /// Starts sending spans, if that is wanted. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is none.
    pub(super) fn start(config: &Tracing) -> Result<Option<Tracer>, String> {
        if !config.enabled {
            return Ok(None);
        }
        let endpoint = config.endpoint()?.timeout(EXPORT_WITHIN).connect_timeout(EXPORT_WITHIN);
        let (queue, jobs) = mpsc::channel(QUEUE_SPANS);
        let exporter =
            Exporter { client: TraceServiceClient::new(endpoint.connect_lazy()), resource: resource(config) };
        tokio::spawn(exporter.run(jobs));
        Ok(Some(Tracer { queue, bound: bound(config.per_million) }))
    }

    /// Begins the span of a call, if it is sampled.
    pub(super) fn begin(&self, path: &str, headers: &HeaderMap, origin: &Origin) -> Option<Box<Open>> {
        let parent = headers.get("traceparent").and_then(|value| Parent::parse(value.to_str().ok()?));
        let trace_id = parent.as_ref().map_or_else(rand::random, |parent| parent.trace_id);
        let sampled = parent.as_ref().map_or_else(|| is_chosen(trace_id, self.bound), |parent| parent.sampled);
        if !sampled {
            return None;
        }
        let name = path.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let mut attributes = vec![text("rpc.system", "grpc"), text("rpc.service", service), text("rpc.method", method)];
        if let Some(from) = origin.from {
            attributes.push(text("network.peer.address", &from.ip().to_string()));
            attributes.push(number("network.peer.port", from.port().into()));
        }
        let state = headers.get("tracestate").filter(|_| parent.is_some()).and_then(|value| value.to_str().ok());
        let span = pb::Span {
            trace_id: Bytes::copy_from_slice(&trace_id.to_be_bytes()),
            span_id: Bytes::copy_from_slice(&rand::random_range(1..=u64::MAX).to_be_bytes()),
            trace_state: state.unwrap_or_default().to_owned(),
            parent_span_id: parent
                .map_or_else(Bytes::new, |parent| Bytes::copy_from_slice(&parent.span_id.to_be_bytes())),
            name: name.to_owned(),
            kind: pb::SpanKind::Server as i32,
            start_time_unix_nano: unix_nanos(),
            attributes,
            flags: 1,
            ..pb::Span::default()
        };
        Some(Box::new(Open { span: Box::new(span), queue: self.queue.clone() }))
    }

    /// Sends what waits; gives up after a moment.
    pub(super) async fn flush(&self) {
        let (done, told) = oneshot::channel();
        let flushed = async {
            self.queue.send(Job::Flush(done)).await.ok()?;
            told.await.ok()
        };
        // A collector that is away must not hold up the end of the member.
        let _ = tokio::time::timeout(FLUSH_WITHIN, flushed).await;
    }
}

/// The span of a call that goes on.
pub(super) struct Open {
    span: Box<pb::Span>,
    queue: mpsc::Sender<Job>,
}

impl Open {
    /// The call is over, with gRPC's code.
    pub(super) fn end(mut self, code: i32) {
        self.span.end_time_unix_nano = unix_nanos();
        self.span.attributes.push(number("rpc.grpc.status_code", code.into()));
        if is_the_servers_fault(code) {
            self.span.status = Some(pb::Status { message: String::new(), code: pb::StatusCode::Error as i32 });
        }
        if self.queue.try_send(Job::Span(self.span)).is_err() {
            meter::SPANS_DROPPED.inc();
        }
    }
}

/// Codes that make a server's span a failed one: Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss. The others are the caller's own.
fn is_the_servers_fault(code: i32) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}

/// Who called, by the W3C's header: `00-TRACE_ID-SPAN_ID-FLAGS` in hex.
#[derive(Debug, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Parent {
    fn parse(text: &str) -> Option<Parent> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, rest @ ..] = parts.as_slice() else { return None };
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let good = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        if !good || *version == "ff" || (*version == "00" && !rest.is_empty()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// Source: OpenTelemetry's `TraceIDRatioBased`.
fn bound(per_million: i64) -> u64 {
    let rate = u128::from(per_million.clamp(0, PER_MILLION_MAX).unsigned_abs());
    u64::try_from(rate * (1 << 63) / PER_MILLION_MAX.unsigned_abs() as u128).unwrap_or(u64::MAX)
}

fn is_chosen(trace_id: u128, bound: u64) -> bool {
    (trace_id as u64) >> 1 < bound
}

fn unix_nanos() -> u64 {
    let since = wall::seen(SystemTime::now()).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> pb::KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> pb::KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> pb::KeyValue {
    pb::KeyValue { key: key.to_owned(), value: Some(pb::AnyValue { value: Some(value) }) }
}

fn resource(config: &Tracing) -> pb::Resource {
    let mut attributes = vec![text("service.name", &config.service)];
    if !config.instance.is_empty() {
        attributes.push(text("service.instance.id", &config.instance));
    }
    pb::Resource { attributes }
}

/// The task that sends.
struct Exporter {
    client: TraceServiceClient<Channel>,
    resource: pb::Resource,
}

impl Exporter {
    /// Until the last tracer is gone.
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut spans = Vec::new();
        let mut every = tokio::time::interval(BATCH_EVERY);
        loop {
            let job = tokio::select! {
                job = jobs.recv() => job,
                _ = every.tick() => {
                    self.export(&mut spans).await;
                    continue;
                }
            };
            match job {
                Some(Job::Span(span)) => {
                    spans.push(*span);
                    if spans.len() >= BATCH_SPANS {
                        self.export(&mut spans).await;
                    }
                }
                Some(Job::Flush(done)) => {
                    self.export(&mut spans).await;
                    let _gone = done.send(());
                }
                None => return self.export(&mut spans).await,
            }
        }
    }

    async fn export(&mut self, spans: &mut Vec<pb::Span>) {
        if spans.is_empty() {
            return;
        }
        let (count, spans) = (spans.len() as u64, std::mem::take(spans));
        let scope = pb::InstrumentationScope { name: "etcd-lab".into(), version: env!("CARGO_PKG_VERSION").into() };
        let scope_spans = vec![pb::ScopeSpans { scope: Some(scope), spans }];
        let resource_spans = vec![pb::ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        let sent = self.client.export(pb::ExportTraceServiceRequest { resource_spans }).await;
        if let Err(why) = sent {
            meter::SPANS_DROPPED.add(count);
            tracing::warn!(error = why.message(), spans = count, "the collector did not take these spans");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_the_w3cs_header() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = Parent::parse(good).expect("a parent");
        assert_eq!((parent.trace_id >> 96, parent.span_id, parent.sampled), (0x0af7_6519, 0xb7ad_6b71_6920_3331, true));
        assert_eq!(Parent::parse(&good.replace("-01", "-00")).map(|parent| parent.sampled), Some(false));
        assert!(Parent::parse(&format!("cc{}-more", &good[2..])).is_some(), "a later version may have more");
        for bad in [
            "",
            "00",
            &good[1..],
            &format!("{good}-more"),
            &format!("ff{}", &good[2..]),
            &good.to_uppercase(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn so_many_in_a_million_are_chosen() {
        assert!(!is_chosen(0, bound(0)));
        assert!(is_chosen(u128::MAX, bound(1_000_000)));
        let of_1024 = |per_million| (0..1024u128).filter(|n| is_chosen(n << 54, bound(per_million))).count();
        assert_eq!([of_1024(0), of_1024(250_000), of_1024(500_000), of_1024(1_000_000)], [0, 256, 512, 1024]);
    }

    #[test]
    fn a_rate_beyond_a_million_is_refused_if_spans_are_wanted_at_all() {
        let of = |enabled, per_million| {
            Tracing { enabled, per_million, address: "localhost:4317".into(), ..Tracing::default() }.problems()
        };
        assert_eq!(of(true, -1), ["tracing sampling rate must be positive"]);
        assert_eq!(of(true, 1_000_001), ["tracing sampling rate must be less than 1000000"]);
        assert!(of(true, 1_000_000).is_empty() && of(false, -1).is_empty());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let (queue, _jobs) = mpsc::channel(1);
        let tracer = Tracer { queue, bound: bound(1_000_000) };
        let (headers, origin) = (HeaderMap::new(), Origin::default());
        let before = meter::SPANS_DROPPED.get();
        for _ in 0..3 {
            tracer.begin("/a.B/C", &headers, &origin).expect("sampled").end(0);
        }
        assert_eq!(meter::SPANS_DROPPED.get() - before, 2);
    }
}
