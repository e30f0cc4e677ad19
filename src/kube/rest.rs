//! Requests to the API servers, for everybody who is not one.
//!
//! Where they are stands in one file, `kube.json`, in the form of kubectl's own configuration. They are asked in turn: one that cannot be
//! reached costs only the attempt. A request that has left is not sent again, for it may have been carried out.

use crate::kube::objects::Kind;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustix::fs::FlockOperation;
use rustix::fs::flock;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// An API server waits ten seconds for etcd; a client a little longer for it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest line of a watch.
const LINE_MAX: usize = 4 * 1024 * 1024;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// An API server said so.
    Answer { code: u64, reason: String, message: String },
    /// None could be reached, or the one that was has gone; in words.
    Unreachable(String),
}

impl Refused {
    pub(super) fn is(&self, wanted: u64) -> bool {
        matches!(self, Refused::Answer { code, .. } if *code == wanted)
    }

    fn of(status: &Value) -> Refused {
        let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        Refused::Answer {
            code: status["code"].as_u64().unwrap_or_default(),
            reason: text("reason"),
            message: text("message"),
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Answer { reason, message, .. } if reason.is_empty() => write!(f, "Error from server: {message}"),
            Refused::Answer { reason, message, .. } => write!(f, "Error from server ({reason}): {message}"),
            Refused::Unreachable(why) => f.write_str(why),
        }
    }
}

/// A way to the API servers. `agent` is what they write down as the author of a change.
#[derive(Clone, Debug)]
pub(super) struct Api {
    config: PathBuf,
    agent: &'static str,
}

impl Api {
    pub(super) fn new(config: PathBuf, agent: &'static str) -> Api {
        Api { config, agent }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.ask(Method::GET, path, None).await
    }

    /// What there is of a kind, and the revision at which that is so.
    pub(super) async fn list(&self, kind: &Kind, namespace: &str) -> Result<(Vec<Value>, i64), Refused> {
        let mut list = self.get(&kind.path(namespace, "")).await?;
        let revision = super::objects::revision(&list);
        let items = match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        Ok((items, revision))
    }

    pub(super) async fn create(&self, kind: &Kind, object: &Value) -> Result<Value, Refused> {
        self.ask(Method::POST, &kind.path(super::objects::namespace(object), ""), Some(object)).await
    }

    /// Writes an object back; refused with 409 if it has changed since it was read.
    pub(super) async fn update(&self, kind: &Kind, object: &Value) -> Result<Value, Refused> {
        let path = kind.path(super::objects::namespace(object), super::objects::name(object));
        self.ask(Method::PUT, &path, Some(object)).await
    }

    pub(super) async fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Refused> {
        self.ask(Method::DELETE, &kind.path(namespace, name), None).await
    }

    /// Every change of a kind after this revision.
    pub(super) async fn watch(&self, kind: &Kind, namespace: &str, after: i64) -> Result<Changes, Refused> {
        let path = kind.path(namespace, "");
        let path = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={after}");
        let (answer, connection) = self.send(Method::GET, &path, None).await?;
        let mut changes = Changes { answer, buffer: Vec::new(), _connection: connection };
        match changes.answer.status().is_success() {
            true => Ok(changes),
            false => Err(Refused::of(&changes.next().await?.unwrap_or_default())),
        }
    }

    /// The body of an answer that is no object, such as `/readyz`.
    pub(super) async fn raw(&self, path: &str) -> Result<String, Refused> {
        let (answer, _connection) = self.send(Method::GET, path, None).await?;
        let is_good = answer.status().is_success();
        let text = whole(answer).await?;
        match (is_good, serde_json::from_slice(&text)) {
            (false, Ok(status)) => Err(Refused::of(&status)),
            _ => Ok(String::from_utf8_lossy(&text).into_owned()),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let asked = async {
            let (answer, _connection) = self.send(method, path, body).await?;
            let is_good = answer.status().is_success();
            let object = serde_json::from_slice(&whole(answer).await?)
                .map_err(|e| Refused::Unreachable(format!("the answer is no JSON: {e}")))?;
            if is_good { Ok(object) } else { Err(Refused::of(&object)) }
        };
        let late = |_| Refused::Unreachable(format!("error: no answer from the API server within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, asked).await.map_err(late)?
    }

    /// Sends a request to the first API server that takes it, and waits for the head of its answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(http::Response<Incoming>, Connection), Refused> {
        let servers = servers(&self.config);
        let nobody = format!("error: no API server is known in {}: start kube-apiserver first", self.config.display());
        let mut why = Refused::Unreachable(nobody);
        for server in servers {
            let address = server.trim_start_matches("http://");
            let connection = match TcpStream::connect(address).await {
                Ok(stream) => hyper::client::conn::http1::handshake(TokioIo::new(stream)).await,
                Err(_) => {
                    let text = format!(
                        "The connection to the server {address} was refused - did you specify the right host or port?"
                    );
                    why = Refused::Unreachable(text);
                    continue;
                }
            };
            let lost = |e: hyper::Error| Refused::Unreachable(format!("error: the API server at {address}: {e}"));
            let (mut requests, driver) = connection.map_err(lost)?;
            let driver = tokio::spawn(async move { drop(driver.await) });
            let bytes = body.map_or_else(Bytes::new, |object| object.to_string().into());
            let request = http::Request::builder().method(method).uri(path).header(http::header::HOST, address);
            let request = request.header(http::header::USER_AGENT, self.agent).body(Full::new(bytes));
            let request = request.map_err(|e| Refused::Unreachable(format!("error: {path}: {e}")))?;
            let driver = Connection(driver);
            let late = |_| Refused::Unreachable(format!("error: no answer from the API server within {PATIENCE:?}"));
            let answer = tokio::time::timeout(PATIENCE, requests.send_request(request)).await.map_err(late)?;
            return Ok((answer.map_err(lost)?, driver));
        }
        Err(why)
    }
}

/// A connection that ends with this.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn whole(answer: http::Response<Incoming>) -> Result<Bytes, Refused> {
    let body = answer.into_body().collect().await;
    Ok(body.map_err(|e| Refused::Unreachable(format!("error: the API server's answer broke off: {e}")))?.to_bytes())
}

/// A watch: a line for each change.
#[derive(Debug)]
pub(super) struct Changes {
    answer: http::Response<Incoming>,
    buffer: Vec<u8>,
    _connection: Connection,
}

impl Changes {
    /// The next change; nothing if the API server has ended it. May be dropped and called again without loss.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Refused> {
        let broke = |why: String| Refused::Unreachable(format!("the watch broke off: {why}"));
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| broke(e.to_string()));
            }
            if self.buffer.len() > LINE_MAX {
                return Err(broke("a line is too long".into()));
            }
            match self.answer.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(e)) => return Err(broke(e.to_string())),
                // A refusal has no newline at its end.
                None if !self.buffer.is_empty() => self.buffer.push(b'\n'),
                None => return Ok(None),
            }
        }
    }
}

/// The addresses in the file, in its order.
fn servers(config: &Path) -> Vec<String> {
    let text = fs::read_to_string(config).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let clusters = config["clusters"].as_array().cloned().unwrap_or_default();
    clusters.iter().filter_map(|c| Some(c["cluster"]["server"].as_str()?.to_owned())).collect()
}

/// Writes into the file where the API server of this name is, or that it is not any more.
pub(super) fn announce(config: &Path, name: &str, server: Option<&str>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("error: {}: {e}", config.display());
    // Two that start in the same moment take turns.
    let lock = File::create(config.with_extension("lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    let text = fs::read_to_string(config).unwrap_or_default();
    let old: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut clusters = old["clusters"].as_array().cloned().unwrap_or_default();
    clusters.retain(|cluster| cluster["name"] != name);
    clusters.extend(server.map(|server| json!({"name": name, "cluster": {"server": server}})));
    let new = json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters});
    let beside = config.with_extension("new");
    fs::write(&beside, format!("{new:#}\n")).and_then(|()| fs::rename(&beside, config)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_is_known_and_who_ends_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("kube.json");
        assert!(servers(&config).is_empty());
        let tell = |name: &str, server| announce(&config, name, server).expect("written");
        tell("api-1", Some("http://127.0.0.1:1"));
        tell("api-2", Some("http://127.0.0.1:2"));
        tell("api-1", Some("http://127.0.0.1:3"));
        assert_eq!(servers(&config), ["http://127.0.0.1:2", "http://127.0.0.1:3"]);
        tell("api-2", None);
        assert_eq!(servers(&config), ["http://127.0.0.1:3"]);
    }

    #[tokio::test]
    async fn nobody_to_ask_is_a_sentence() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("kube.json");
        let api = Api::new(config.clone(), "test");
        let why = api.get("/api/v1/pods").await.expect_err("nobody").to_string();
        assert!(why.contains("start kube-apiserver first"), "{why}");
        announce(&config, "gone", Some("http://127.0.0.1:1")).expect("written");
        let why = api.get("/api/v1/pods").await.expect_err("nobody").to_string();
        assert_eq!(
            why,
            "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?"
        );
    }
}
