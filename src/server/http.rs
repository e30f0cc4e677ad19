//! What the client port answers to plain HTTP: health, version, metrics.
//!
//! The checks behind `/health`, `/livez` and `/readyz` are few and named; `/metrics` has only what is measured. Left out: Go's profiles.
//! Source: etcd `api/etcdhttp/health.go`; contract-server 10.1.

use super::front::Front;
use super::metrics;
use super::urls::masked;
use crate::error::Error;
use crate::meter;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::types::CLUSTER_VERSION;
use crate::types::ETCD_VERSION;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use http::StatusCode;
use http_body_util::Full;
use std::io::Write as _;
use tonic::body::Body;

/// Which paths a listener knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// `--listen-metrics-urls`.
    Metrics,
}

/// An answer before it is one.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: StatusCode, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn not_found() -> Answer {
        Answer::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }
}

/// Answers one request.
pub(super) async fn answer<B>(front: &Front, scope: Scope, request: &http::Request<B>) -> http::Response<Body> {
    let answer = route(front, scope, request.method(), request.uri()).await;
    if request.uri().path() == "/metrics" && takes_gzip(request.headers()) {
        return compressed(answer);
    }
    let mut response = response(answer);
    if Check::of(request.uri().path()).is_some() {
        do_not_sniff(&mut response);
    }
    response
}

/// A browser is to take the answer for what it says that it is.
fn do_not_sniff(response: &mut http::Response<Body>) {
    response.headers_mut().insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
}

/// Whether a client names gzip among what it can unpack. Source: `promhttp` of Prometheus' client library, which etcd uses.
fn takes_gzip(headers: &http::HeaderMap) -> bool {
    let given = headers.get_all(http::header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|one| one.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// The page of metrics is long and repeats itself: a twentieth is left of it.
fn compressed(answer: Answer) -> http::Response<Body> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory: it does not fail.
    let written = packed.write_all(answer.body.as_bytes()).and_then(|()| packed.finish());
    let Ok(bytes) = written else { return response(answer) };
    let mut response = response(Answer { body: String::new(), ..answer });
    *response.body_mut() = Body::new(Full::new(Bytes::from(bytes)));
    response.headers_mut().insert(http::header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
    response
}

/// What is said of a path that is not there.
pub(super) fn not_found() -> http::Response<Body> {
    response(Answer::not_found())
}

fn response(answer: Answer) -> http::Response<Body> {
    let body = Body::new(Full::new(Bytes::from(answer.body)));
    let mut response = http::Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(answer.content_type));
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
    }
    if answer.status != StatusCode::OK {
        do_not_sniff(&mut response);
    }
    response
}

async fn route(front: &Front, scope: Scope, method: &Method, uri: &http::Uri) -> Answer {
    let path = uri.path();
    let query = Query::parse(uri.query().unwrap_or_default());
    let checks = Check::of(path);
    let for_all = matches!(path, "/version" | "/debug/vars") && scope == Scope::All;
    let known = matches!(path, "/health" | "/metrics") || checks.is_some() || for_all;
    if !known {
        return Answer::not_found();
    }
    // Prometheus' handler asks for no method.
    if method != Method::GET && path != "/metrics" {
        return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    }
    match (path, checks) {
        (path, Some(checks)) => {
            let kind = if path.starts_with("/livez") { "livez" } else { "readyz" };
            run_checks(front, kind, &checks, &query).await
        }
        ("/health", _) => {
            let health = health(front, &query).await;
            if health.is_ok() {
                meter::HEALTH_SUCCESS.inc()
            } else {
                meter::HEALTH_FAILURES.inc()
            }
            health_answer(health)
        }
        ("/version", _) => version(front),
        ("/debug/vars", _) => Answer {
            status: StatusCode::OK,
            content_type: "application/json; charset=utf-8",
            body: debug_vars(front, std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
        },
        _ => Answer {
            status: StatusCode::OK,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics::page(front),
        },
    }
}

/// The parameters of these paths: `exclude` (repeatable), `serializable`, `verbose`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    exclude: Vec<String>,
    serializable: bool,
    verbose: bool,
}

impl Query {
    fn parse(text: &str) -> Query {
        let mut query = Query::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "exclude" => query.exclude.push(value.to_owned()),
                "serializable" => query.serializable = value == "true",
                "verbose" => query.verbose = true,
                _ => {}
            }
        }
        query
    }

    fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|have| have == name)
    }
}

/// Why this member is not healthy; etcd's words.
async fn health(front: &Front, query: &Query) -> Result<(), String> {
    for alarm in front.node.read(|machine| machine.alarms()) {
        let kind = match AlarmType::try_from(alarm.alarm) {
            Ok(AlarmType::Nospace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !query.excludes(kind) {
            return Err(format!("ALARM {kind}"));
        }
    }
    if !query.serializable && front.node.status().leader.is_none() {
        return Err("RAFT NO LEADER".into());
    }
    read_something(front, query.serializable).await.map_err(|e| format!("RANGE ERROR:{e}"))
}

/// A read that finds nothing and takes the way of all reads.
async fn read_something(front: &Front, serializable: bool) -> Result<(), Error> {
    let request = pb::RangeRequest {
        key: Bytes::from_static(b"a"),
        limit: 1,
        keys_only: true,
        serializable,
        ..pb::RangeRequest::default()
    };
    front.node.range(&request).await.map(drop)
}

fn health_answer(health: Result<(), String>) -> Answer {
    match health {
        Ok(()) => Answer::text(StatusCode::OK, r#"{"health":"true","reason":""}"#),
        Err(reason) => {
            let body = format!("{{\"health\":\"false\",\"reason\":{}}}\n", serde_json::Value::from(reason));
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn version(front: &Front) -> Answer {
    let cluster = front.node.read(|machine| machine.cluster_version().map(str::to_owned));
    let storage = cluster.as_deref().unwrap_or(CLUSTER_VERSION);
    let cluster = cluster.as_deref().unwrap_or("not_decided");
    let body = format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    Answer { status: StatusCode::OK, content_type: "application/json", body }
}

/// What Go's `expvar` tells of etcd, less Go's own memory statistics: the command line, the limit of open files, raft's state.
fn debug_vars(front: &Front, args: impl Iterator<Item = String>) -> String {
    let status = front.node.status();
    let (id, _) = front.node.identity();
    let state = match (status.leader == id, status.is_learner) {
        (true, _) => "StateLeader",
        (_, true) => "StateLearner",
        _ => "StateFollower",
    };
    let raft = serde_json::json!({
        "id": id.to_string(), "term": status.term.0, "lead": status.leader.to_string(), "raftState": state,
        "commit": status.committed.0, "applied": status.applied.0,
    });
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let vars = serde_json::json!({
        "cmdline": without_secrets(args).iter().map(|word| masked(word)).collect::<Vec<String>>(), "file_descriptor_limit": limit, "raft.status": raft,
    });
    format!("{vars}\n")
}

/// The words of a command line; what follows a flag with a password is nobody's business.
pub(super) fn without_secrets(args: impl Iterator<Item = String>) -> Vec<String> {
    let is_secret = |flag: &str| matches!(flag.trim_start_matches('-'), "discovery-password" | "discovery-user");
    let mut hides = false;
    let hide = |word: String| {
        let (flag, value) = word.split_once('=').map_or((word.as_str(), None), |(flag, value)| (flag, Some(value)));
        let told = match (hides, value) {
            (true, _) => "<hidden>".to_owned(),
            (_, Some(_)) if is_secret(flag) => format!("{flag}=<hidden>"),
            _ => word.clone(),
        };
        hides = !hides && value.is_none() && is_secret(flag);
        told
    };
    args.map(hide).collect()
}

/// One named check of `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const LIVE: [Check; 1] = [Check::SerializableRead];
    const READY: [Check; 4] =
        [Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// The checks behind a path; nothing if it is none of ours.
    fn of(path: &str) -> Option<Vec<Check>> {
        let (all, one) = match (path.strip_prefix("/livez"), path.strip_prefix("/readyz")) {
            (Some(rest), _) => (&Check::LIVE[..], rest),
            (_, Some(rest)) => (&Check::READY[..], rest),
            _ => return None,
        };
        if one.is_empty() {
            return Some(all.to_vec());
        }
        let name = one.strip_prefix('/')?;
        all.iter().find(|check| check.name() == name).map(|check| vec![*check])
    }

    async fn run(self, front: &Front) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let alarms = front.node.read(|machine| machine.alarms());
                match alarms.iter().any(|alarm| alarm.alarm == AlarmType::Corrupt as i32) {
                    true => Err("alarm activated: CORRUPT".into()),
                    false => Ok(()),
                }
            }
            Check::SerializableRead => read_something(front, true).await.map_err(|e| e.to_string()),
            Check::LinearizableRead => read_something(front, false).await.map_err(|e| e.to_string()),
            Check::NonLearner if front.node.status().is_learner => Err("not supported for learner".into()),
            Check::NonLearner => Ok(()),
        }
    }
}

async fn run_checks(front: &Front, kind: &str, checks: &[Check], query: &Query) -> Answer {
    let mut results = Vec::new();
    for check in checks.iter().filter(|check| !query.excludes(check.name())) {
        let result = check.run(front).await;
        let (last, status) = if result.is_ok() { (1, "success") } else { (0, "error") };
        meter::HEALTHCHECK.with(&[kind, check.name()]).set(last);
        meter::HEALTHCHECKS.with(&[kind, check.name(), status]).inc();
        results.push((check.name(), result));
    }
    checks_answer(&results, query.verbose)
}

fn checks_answer(results: &[(&str, Result<(), String>)], verbose: bool) -> Answer {
    let failed = results.iter().any(|(_, result)| result.is_err());
    let mut body = String::new();
    if failed || verbose {
        for (name, result) in results {
            match result {
                Ok(()) => body.push_str(&format!("[+]{name} ok\n")),
                Err(why) => body.push_str(&format!("[-]{name} failed: {why}\n")),
            }
        }
    }
    // Go's `http.Error` ends the list with a line of its own.
    body.push_str(if failed { "\n" } else { "ok\n" });
    Answer::text(if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_in_etcds_bytes() {
        assert_eq!(health_answer(Ok(())).body, r#"{"health":"true","reason":""}"#);
        let sick = health_answer(Err("ALARM NOSPACE".into()));
        assert_eq!(sick.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(sick.body, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n");
    }

    #[test]
    fn a_password_on_the_command_line_is_not_told() {
        let words = ["etcd", "--discovery-password", "p", "--discovery-user=u:p", "--name", "m"].map(str::to_owned);
        let told = without_secrets(words.into_iter());
        assert_eq!(told, ["etcd", "--discovery-password", "<hidden>", "--discovery-user=<hidden>", "--name", "m"]);
    }

    #[test]
    fn parameters_repeat() {
        let query = Query::parse("exclude=NOSPACE&exclude=CORRUPT&serializable=true&verbose");
        assert!(query.excludes("NOSPACE") && query.excludes("CORRUPT") && query.serializable && query.verbose);
        assert_eq!(Query::parse(""), Query::default());
    }

    #[test]
    fn checks_have_paths_of_their_own() {
        assert_eq!(Check::of("/livez"), Some(vec![Check::SerializableRead]));
        assert_eq!(Check::of("/readyz").map(|checks| checks.len()), Some(4));
        assert_eq!(Check::of("/readyz/non_learner"), Some(vec![Check::NonLearner]));
        assert_eq!(Check::of("/livez/non_learner"), None);
        assert_eq!(Check::of("/livezx"), None);
    }

    #[test]
    fn failed_checks_are_always_listed_and_good_ones_on_request() {
        let good = [("a", Ok(()))];
        assert_eq!(checks_answer(&good, false).body, "ok\n");
        assert_eq!(checks_answer(&good, true).body, "[+]a ok\nok\n");
        let bad = [("a", Ok(())), ("b", Err("x".to_owned()))];
        let answer = checks_answer(&bad, false);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "[+]a ok\n[-]b failed: x\n\n")
        );
    }
}
