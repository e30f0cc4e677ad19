//! `kube-apiserver`: HTTP and JSON in front of [`Storage`]. It keeps nothing: two of them, or one that is started again, are as good as one.
//!
//! A list answers with the revision at which it is true; a watch with `resourceVersion=R` begins with the change after R. A watch is one
//! line of JSON for each change; `BOOKMARK` says how far everything has been told. If etcd has compacted R away, the watch says so with
//! code 410, and the client lists again.
//!
//! Where it listens it writes into the lab's `kube.json`, and the others look there: that file stands in for a load balancer's address.

use crate::client::Client;
use crate::client::Config;
use crate::client::TlsFiles;
use crate::client::Watch;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::List;
use crate::cmdline::args::Kind::Number;
use crate::cmdline::args::Kind::Text;
use crate::cmdline::args::Kind::Time;
use crate::kube;
use crate::kube::objects;
use crate::kube::objects::Kind;
use crate::kube::objects::NAMESPACES;
use crate::kube::objects::Target;
use crate::kube::rest;
use crate::kube::storage;
use crate::kube::storage::Failure;
use crate::kube::storage::Storage;
use crate::kube::tell;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use http::StatusCode;
use rand::Rng as _;
use serde_json::Value;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const ME: &str = "kube-apiserver";

#[rustfmt::skip]
static FLAGS: [Flag; 10] = [
    Flag { name: "etcd-servers", short: ' ', kind: List, default: "", help: "etcd's members, with commas between" },
    Flag { name: "etcd-cafile", short: ' ', kind: Text, default: "", help: "the authority that has signed the members' certificates" },
    Flag { name: "etcd-certfile", short: ' ', kind: Text, default: "", help: "the certificate that this server shows to etcd" },
    Flag { name: "etcd-keyfile", short: ' ', kind: Text, default: "", help: "its key" },
    Flag { name: "etcd-prefix", short: ' ', kind: Text, default: "/registry", help: "what all keys begin with" },
    Flag { name: "etcd-compaction-interval", short: ' ', kind: Time, default: "5m", help: "how much of the past can be read; 0: all of it" },
    Flag { name: "bind-address", short: ' ', kind: Text, default: "127.0.0.1", help: "where to listen" },
    Flag { name: "secure-port", short: ' ', kind: Number, default: "0", help: "the port there; 0: a free one (kube-lite's has no TLS of its own)" },
    Flag { name: "name", short: ' ', kind: Text, default: ME, help: "which of several API servers this is" },
    Flag { name: "storage-media-type", short: ' ', kind: Text, default: JSON, help: "kube-lite has this one only" },
];

const JSON: &str = "application/json";

/// The namespaces that are always there.
const SYSTEM_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-node-lease"];

/// The largest object that is taken.
const BODY_MAX: usize = 1024 * 1024;

/// Watches at once.
const WATCHES_MAX: usize = 512;

/// Changes that wait for a watch's reader before etcd's stream waits, too.
const CHANGES_MAX: usize = 64;

/// How often etcd is asked how far a watch has come, for bookmarks.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The wait before etcd is asked again at the start.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// etcd gives up after seven seconds by itself, and its words are better than ours.
const ETCD_PATIENCE: Duration = Duration::from_secs(10);

struct Api {
    storage: Storage,
    watches: Arc<Semaphore>,
    /// etcd has answered, and the namespaces that are always there are there.
    has_begun: AtomicBool,
    /// Every etcd answers truthfully when it is asked for a watch's progress.
    has_progress: AtomicBool,
}

/// Serves until it is asked to end.
pub(super) async fn main(words: &[String]) -> Result<(), String> {
    let known: Vec<&'static Flag> = FLAGS.iter().chain([&kube::KUBECONFIG]).collect();
    let args = kube::flags(ME, words, &known)?;
    let (config, file, name) = (etcd(&args)?, kube::config_file(&args)?, text(&args, "name").to_owned());
    if text(&args, "storage-media-type") != JSON {
        return Err(format!("error: kube-lite stores {JSON} only"));
    }
    let address = format!("{}:{}", text(&args, "bind-address"), args.number("secure-port"));
    let listener = tokio::net::TcpListener::bind(&address).await.map_err(|e| format!("error: {address}: {e}"))?;
    let address = listener.local_addr().map_err(|e| format!("error: {address}: {e}"))?;
    let api = Arc::new(Api {
        storage: Storage::new(Client::new(config.clone()), text(&args, "etcd-prefix")),
        watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        has_begun: AtomicBool::new(false),
        has_progress: AtomicBool::new(false),
    });
    tell(ME, &format!("serving at http://{address}, storing in {}", config.endpoints.join(",")));
    tokio::spawn(begin(Arc::clone(&api), config));
    let every = args.time("etcd-compaction-interval").unwrap_or(Duration::from_secs(300));
    if !every.is_zero() {
        tokio::spawn(compact(Arc::clone(&api), every));
    }
    let server = format!("http://{address}");
    rest::announce(&file, &name, Some(&server))?;
    let app = Router::new().fallback(answer).with_state(api);
    let served = tokio::select! {
        served = async { axum::serve(listener, app).await } => served.map_err(|e| format!("error: {e}")),
        asked = kube::asked_to_end() => asked,
    };
    rest::announce(&file, &name, None)?;
    served
}

fn text<'a>(args: &'a Args, name: &str) -> &'a str {
    let default = FLAGS.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
    args.text(name).unwrap_or(default)
}

/// How to reach etcd.
fn etcd(args: &Args) -> Result<Config, String> {
    let endpoints: Vec<String> =
        text(args, "etcd-servers").split(',').filter(|e| !e.is_empty()).map(str::to_owned).collect();
    if endpoints.is_empty() {
        return Err("error: --etcd-servers must be given, such as --etcd-servers=http://10.0.0.1:2379".into());
    }
    let own = |name| text(args, name).to_owned();
    let files = TlsFiles {
        cacert: own("etcd-cafile"),
        cert: own("etcd-certfile"),
        key: own("etcd-keyfile"),
        skip_verify: false,
    };
    let tls = if files == TlsFiles::default() { None } else { Some(files.load().map_err(|e| format!("error: {e}"))?) };
    Ok(Config { endpoints, tls, call_timeout: Some(ETCD_PATIENCE), ..Config::default() })
}

/// What is done once etcd answers: the namespaces that are always there, and what its version allows.
async fn begin(api: Arc<Api>, config: Config) {
    let mut trouble = String::new();
    for name in SYSTEM_NAMESPACES {
        let object = made(&NAMESPACES, "", name, json!({"metadata": {"name": name}}), ME);
        while let Err(Failure::Etcd(why)) = api.storage.create(&key_of(&NAMESPACES, "", name), &object).await {
            // The same trouble is told once.
            if why != trouble {
                tell(ME, &format!("etcd: {why}"));
                trouble = why;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
    api.has_begun.store(true, Ordering::Relaxed);
    tell(ME, "etcd answers");
    for endpoint in &config.endpoints {
        let one = Client::new(Config { endpoints: vec![endpoint.clone()], ..config.clone() });
        loop {
            match one.status().await {
                Ok(status) if storage::progress_is_trusted(&status.version) => break,
                Ok(status) => {
                    let version = status.version;
                    return tell(
                        ME,
                        &format!("{endpoint} is etcd {version}: watches are not asked for their progress"),
                    );
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }
    api.has_progress.store(true, Ordering::Relaxed);
}

/// Lets the past go, a turn at a time.
async fn compact(api: Arc<Api>, every: Duration) {
    let (mut turn, mut rev) = (0, 0);
    loop {
        tokio::time::sleep(every).await;
        match api.storage.compact(turn, rev).await {
            Ok((next, now, done)) => {
                if let Some(done) = done {
                    tell(ME, &format!("compacted revision {done}"));
                }
                (turn, rev) = (next, now);
            }
            Err(why) => tell(ME, &format!("not compacted: {why:?}")),
        }
    }
}

/// Answers that are refusals.
struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Refusal {
        Refusal { code: StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), reason, message }
    }

    fn of(failure: Failure, kind: &Kind, name: &str) -> Refusal {
        let what = kind.qualified();
        match failure {
            Failure::NotFound => Refusal::new(404, "NotFound", format!("{what} \"{name}\" not found")),
            Failure::AlreadyExists => Refusal::new(409, "AlreadyExists", format!("{what} \"{name}\" already exists")),
            Failure::Conflict => Refusal::new(
                409,
                "Conflict",
                format!(
                    "Operation cannot be fulfilled on {what} \"{name}\": the object has been modified; please apply your changes to the latest version and try again"
                ),
            ),
            Failure::Etcd(why) => Refusal::new(500, "", why),
        }
    }

    fn object(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        })
    }
}

async fn answer(State(api): State<Arc<Api>>, request: Request) -> Response {
    match api.answered(request).await {
        Ok((code, body)) => with(code, body),
        Err(refusal) => with(refusal.code, Body::from(refusal.object().to_string())),
    }
}

fn with(code: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(JSON));
    response
}

impl Api {
    async fn answered(&self, request: Request) -> Result<(StatusCode, Body), Refusal> {
        let path = request.uri().path().to_owned();
        if matches!(path.as_str(), "/livez" | "/readyz" | "/healthz") {
            if path != "/livez" {
                let failed = |why| Refusal::new(500, "", format!("etcd failed: {why:?}"));
                self.storage.health().await.map_err(failed)?;
                if !self.has_begun.load(Ordering::Relaxed) {
                    return Err(Refusal::new(500, "", "the first namespaces are not there yet".into()));
                }
            }
            return Ok((StatusCode::OK, Body::from("ok")));
        }
        let target = Target::parse(&path);
        let target = target
            .ok_or_else(|| Refusal::new(404, "NotFound", "the server could not find the requested resource".into()))?;
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let agent = request.headers().get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        let agent = agent.unwrap_or("unknown").split('/').next().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let object = match method {
            Method::POST | Method::PUT => body(request).await?,
            _ => Value::Null,
        };
        let done = match (&method, target.name.is_empty()) {
            (&Method::GET, true) if query.watch => return self.watched(&target, &query).await,
            (&Method::GET, true) => self.listed(&target).await?,
            (&Method::GET, false) => self.storage.get(&key(&target)).await.map_err(|e| refused(e, &target))?,
            (&Method::POST, true) => {
                return Ok((StatusCode::CREATED, json_body(&self.created(target, object, &agent).await?)));
            }
            (&Method::PUT, false) => self.updated(&target, object, &agent).await?,
            (&Method::DELETE, false) => self.deleted(&target).await?,
            _ => return Err(Refusal::new(405, "MethodNotAllowed", format!("kube-lite has no {method} on {path}"))),
        };
        Ok((StatusCode::OK, json_body(&done)))
    }

    async fn listed(&self, target: &Target) -> Result<Value, Refusal> {
        let (items, revision) =
            self.storage.list(&target.kind.below(&target.namespace)).await.map_err(|e| refused(e, target))?;
        Ok(json!({
            "kind": format!("{}List", target.kind.name), "apiVersion": target.kind.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}, "items": items,
        }))
    }

    async fn created(&self, target: Target, mut object: Value, agent: &str) -> Result<Value, Refusal> {
        let Target { kind, namespace, .. } = &target;
        let mut name = objects::name(&object).to_owned();
        if name.is_empty() {
            name = objects::text(&object, "/metadata/generateName").to_owned() + &suffix();
            objects::set(&mut object, &["metadata", "name"], json!(name));
        }
        if !is_name(&name) {
            let why =
                "a name is of lower case letters, digits, '-' and '.', and begins and ends with a letter or digit";
            return Err(Refusal::new(
                422,
                "Invalid",
                format!("{} \"{name}\" is invalid: metadata.name: {why}", kind.name),
            ));
        }
        if kind.namespaced {
            let home = self.storage.get(&key_of(&NAMESPACES, "", namespace)).await;
            home.map_err(|e| Refusal::of(e, &NAMESPACES, namespace))?;
        }
        let object = made(kind, namespace, &name, object, agent);
        let named = Target { name, ..target };
        self.storage.create(&key(&named), &object).await.map_err(|e| refused(e, &named))
    }

    /// Who gives a revision has read that one, and changes no other; who gives none changes whatever is there.
    async fn updated(&self, target: &Target, mut object: Value, agent: &str) -> Result<Value, Refusal> {
        let there = self.storage.get(&key(target)).await.map_err(|e| refused(e, target))?;
        let (given, known) = (objects::revision(&object), objects::revision(&there));
        if given != 0 && given != known {
            return Err(refused(Failure::Conflict, target));
        }
        for field in ["uid", "creationTimestamp"] {
            objects::set(&mut object, &["metadata", field], there["metadata"][field].clone());
        }
        let object = signed(object, agent);
        self.storage.update(&key(target), known, &object).await.map_err(|e| refused(e, target))
    }

    async fn deleted(&self, target: &Target) -> Result<Value, Refusal> {
        if target.kind == &NAMESPACES {
            self.is_empty(&target.name).await?;
        }
        self.storage.delete(&key(target)).await.map_err(|e| refused(e, target))
    }

    /// Kubernetes empties a namespace first; we ask for that.
    async fn is_empty(&self, namespace: &str) -> Result<(), Refusal> {
        for kind in objects::KINDS.into_iter().filter(|kind| kind.namespaced) {
            let (items, _) =
                self.storage.list(&kind.below(namespace)).await.map_err(|e| Refusal::of(e, kind, namespace))?;
            if let Some(first) = items.first() {
                let what = format!("{}/{}", kind.short[0], objects::name(first));
                let why = format!("namespaces \"{namespace}\" is not empty: delete {what} first");
                return Err(Refusal::new(409, "Conflict", why));
            }
        }
        Ok(())
    }

    async fn watched(&self, target: &Target, query: &Query) -> Result<(StatusCode, Body), Refusal> {
        let from = query.revision.ok_or_else(|| {
            Refusal::new(400, "BadRequest", "a watch wants the resourceVersion of a list: list first".into())
        })?;
        let busy = |_| Refusal::new(429, "TooManyRequests", format!("there are {WATCHES_MAX} watches already"));
        let seat = Arc::clone(&self.watches).try_acquire_owned().map_err(busy)?;
        let watch = self.storage.watch(&target.kind.below(&target.namespace), from + 1, query.bookmarks);
        let asks = query.bookmarks && self.has_progress.load(Ordering::Relaxed);
        let (to, lines) = mpsc::channel(CHANGES_MAX);
        tokio::spawn(follow(watch, target.kind, asks, to, seat));
        Ok((StatusCode::OK, Body::from_stream(ReceiverStream::new(lines))))
    }
}

type Lines = mpsc::Sender<Result<Bytes, Infallible>>;

/// Passes on what etcd tells, until etcd or the reader ends it.
async fn follow(mut watch: Watch, kind: &'static Kind, asks: bool, to: Lines, _seat: OwnedSemaphorePermit) {
    let mut progress = tokio::time::interval(PROGRESS_EVERY);
    loop {
        let told = tokio::select! {
            told = watch.next() => told,
            () = to.closed() => return,
            _ = progress.tick(), if asks => {
                watch.request_progress();
                continue;
            }
        };
        let (lines, over) = match told {
            Ok(Some(answer)) => (lines(kind, &answer), answer.canceled),
            Ok(None) => return,
            Err(error) => (vec![broken(500, "", error.to_string())], true),
        };
        for line in lines {
            if to.send(Ok(format!("{line}\n").into())).await.is_err() {
                return;
            }
        }
        if over {
            return;
        }
    }
}

fn broken(code: u16, reason: &'static str, why: String) -> Value {
    json!({"type": "ERROR", "object": Refusal::new(code, reason, why).object()})
}

/// What a watch's reader is told of one answer of etcd's.
fn lines(kind: &Kind, answer: &WatchResponse) -> Vec<Value> {
    if answer.canceled {
        let why = Watch::why_canceled(answer);
        return vec![if answer.compact_revision > 0 { broken(410, "Expired", why) } else { broken(500, "", why) }];
    }
    if Watch::is_progress(answer) {
        let revision = answer.header.map_or(0, |header| header.revision);
        let object = json!({
            "kind": kind.name, "apiVersion": kind.api_version(), "metadata": {"resourceVersion": revision.to_string()},
        });
        return vec![json!({"type": "BOOKMARK", "object": object})];
    }
    answer.events.iter().map(|event| line(event).unwrap_or_else(|e| broken(500, "", format!("{e:?}")))).collect()
}

fn line(event: &Event) -> Result<Value, Failure> {
    let kv = event.kv.as_ref().ok_or(Failure::NotFound)?;
    let (word, mut object) = match event.r#type() {
        // A deleted key has no value any more: what it was comes along.
        EventType::Delete => ("DELETED", storage::decoded(event.prev_kv.as_ref().ok_or(Failure::NotFound)?)?),
        EventType::Put if kv.create_revision == kv.mod_revision => ("ADDED", storage::decoded(kv)?),
        EventType::Put => ("MODIFIED", storage::decoded(kv)?),
    };
    objects::set_revision(&mut object, kv.mod_revision);
    Ok(json!({"type": word, "object": object}))
}

/// A new object, with what the API server gives to each.
fn made(kind: &Kind, namespace: &str, name: &str, mut object: Value, agent: &str) -> Value {
    object["kind"] = json!(kind.name);
    object["apiVersion"] = json!(kind.api_version());
    objects::set(&mut object, &["metadata", "name"], json!(name));
    if kind.namespaced {
        objects::set(&mut object, &["metadata", "namespace"], json!(namespace));
    }
    let bits: u128 = rand::rng().random();
    let hex = format!("{bits:032x}");
    let uid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    objects::set(&mut object, &["metadata", "uid"], json!(uid));
    objects::set(&mut object, &["metadata", "creationTimestamp"], json!(kube::stamp()));
    signed(object, agent)
}

/// Who wrote it last. Kubernetes keeps a list, with the fields that each has written.
fn signed(mut object: Value, agent: &str) -> Value {
    objects::set(&mut object, &["metadata", "managedFields"], json!([{"manager": agent, "operation": "Update"}]));
    object
}

/// Five letters as Kubernetes draws them: none that can be mistaken, no vowels, so no words.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut dice = rand::rng();
    (0..5).map(|_| char::from(LETTERS[dice.random_range(0..LETTERS.len())])).collect()
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = name.starts_with(plain) && name.ends_with(plain);
    ends && name.len() <= 253 && name.chars().all(|c| plain(c) || matches!(c, '-' | '.'))
}

fn key_of(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}{name}", kind.below(namespace))
}

fn key(target: &Target) -> String {
    key_of(target.kind, &target.namespace, &target.name)
}

fn refused(failure: Failure, target: &Target) -> Refusal {
    Refusal::of(failure, target.kind, &target.name)
}

fn json_body(object: &Value) -> Body {
    Body::from(object.to_string())
}

async fn body(request: Request) -> Result<Value, Refusal> {
    let bad = |why: String| Refusal::new(400, "BadRequest", why);
    let bytes = axum::body::to_bytes(request.into_body(), BODY_MAX).await.map_err(|e| bad(format!("the body: {e}")))?;
    let object: Value = serde_json::from_slice(&bytes).map_err(|e| bad(format!("the body is no JSON: {e}")))?;
    if object.is_object() { Ok(object) } else { Err(bad("the body is no JSON object".into())) }
}

/// What may stand behind a path's question mark.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    watch: bool,
    bookmarks: bool,
    revision: Option<i64>,
}

impl Query {
    fn parse(text: &str) -> Query {
        let mut query = Query::default();
        for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "watch" => query.watch = matches!(value, "1" | "true"),
                "allowWatchBookmarks" => query.bookmarks = matches!(value, "1" | "true"),
                "resourceVersion" => query.revision = value.parse().ok(),
                _ => {}
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::ResponseHeader;
    use crate::proto::mvccpb::KeyValue;

    fn kv(value: &str, created: i64, changed: i64) -> KeyValue {
        KeyValue {
            key: "/registry/pods/default/a".into(),
            value: value.to_owned().into(),
            create_revision: created,
            mod_revision: changed,
            ..KeyValue::default()
        }
    }

    fn told(events: Vec<Event>) -> WatchResponse {
        WatchResponse { events, ..WatchResponse::default() }
    }

    #[test]
    fn a_watch_says_what_became_of_an_object_and_at_which_revision() {
        let event = |deleted: bool, kv, prev_kv| Event { r#type: i32::from(deleted), kv: Some(kv), prev_kv };
        let pod = r#"{"metadata":{"name":"a"}}"#;
        let events = vec![
            event(false, kv(pod, 5, 5), None),
            event(false, kv(pod, 5, 6), Some(kv(pod, 5, 5))),
            event(true, kv("", 0, 7), Some(kv(pod, 5, 6))),
        ];
        let said: Vec<(String, i64)> = lines(&objects::PODS, &told(events))
            .iter()
            .map(|line| (objects::text(line, "/type").to_owned(), objects::revision(&line["object"])))
            .collect();
        assert_eq!(said, [("ADDED".to_owned(), 5), ("MODIFIED".to_owned(), 6), ("DELETED".to_owned(), 7)]);
    }

    #[test]
    fn a_watch_whose_past_is_gone_says_410_and_progress_is_a_bookmark() {
        let compacted = WatchResponse { canceled: true, compact_revision: 9, ..WatchResponse::default() };
        let line = &lines(&objects::PODS, &compacted)[0];
        assert_eq!(
            (&line["type"], &line["object"]["code"], &line["object"]["reason"]),
            (&json!("ERROR"), &json!(410), &json!("Expired"))
        );
        let header = Some(ResponseHeader { revision: 12, ..ResponseHeader::default() });
        let line = &lines(&objects::PODS, &WatchResponse { header, ..WatchResponse::default() })[0];
        assert_eq!((&line["type"], objects::revision(&line["object"])), (&json!("BOOKMARK"), 12));
    }

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        assert!(is_name("web-5d8f.x1") && is_name(&suffix()));
        assert!(!["", "Web", "a/b", "-a", "a-", "a b"].into_iter().any(is_name));
    }

    #[test]
    fn without_etcd_there_is_nothing_to_serve() {
        let args = kube::flags(ME, &[], &[]).expect("no flags");
        assert!(etcd(&args).expect_err("no etcd").contains("--etcd-servers"));
    }
}
