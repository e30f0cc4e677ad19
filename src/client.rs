//! A client of an etcd cluster: what `etcdctl`, the lab and the checks talk through.
//!
//! One idea: a [`Client`] keeps one connection to every endpoint for as long as it lives (`pool`). A call takes the
//! next connection that is up, so a dead member costs nothing but its turn; when none is up, the call waits, until its
//! time is over. Every unary call is a row in one table (`call`), which also says whether it may be repeated.
//!
//! ```text
//! client.call(RangeRequest { .. })      any row of the table
//! client.get("k"), .put("k", "v")       the everyday ones, shorter
//! client.watch(..), .keep_alive(id)     streams that outlive the connection that they began on
//! ```
//!
//! A dead endpoint beside a live one is not noticed:
//!
//! ```
//! # let member = etcd_lab::cli::example::member()?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use etcd_lab::client::Client;
//! use etcd_lab::client::Config;
//!
//! let endpoints = vec!["127.0.0.1:1".to_owned(), member];
//! let client = Client::new(Config { endpoints, ..Config::default() });
//! client.put("greeting", "hello").await?;
//! // Calls take turns among the members that are up.
//! for _ in 0..4 {
//!     assert_eq!(client.get("greeting").await?.expect("it is there").value, "hello");
//! }
//! assert!(client.last_dial_error().is_some_and(|why| why.contains("connection refused")));
//! # Ok::<(), etcd_lab::client::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! When may a call be repeated? A read always. A write only if it certainly never left this machine: a write that
//! left may have happened, and happens twice if it is sent again. Then the answer is [`Error::Lost`], and only a read
//! can tell what became of it. Source: etcd `client/v3/retry.go`.
//!
//! On top of these stand locks and elections ([`Session`], [`Place`], [`Observer`]).
//!
//! Left out: the name resolver, leasing and mirroring.
#![expect(clippy::disallowed_methods, reason = "a client waits in real time")]

mod call;
mod connection;
mod endpoint;
mod error;
#[cfg(test)]
mod fake;
mod lease;
mod pool;
mod range_stream;
mod recipes;
mod snapshot;
mod srv;
mod tls;
mod watch;

pub use call::Call;
pub(crate) use endpoint::Address;
pub(crate) use endpoint::Endpoint;
pub use error::Error;
pub use lease::KeepAlive;
pub use range_stream::RangeStream;
pub use recipes::Observer;
pub use recipes::Place;
pub use recipes::Session;
pub use snapshot::SnapshotStream;
pub use srv::discover;
pub use tls::TlsFiles;
pub use watch::Watch;
pub use watch::watch_from;

use crate::proto::etcdserverpb::AuthenticateRequest;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::StatusResponse;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use parking_lot::Mutex;
use pool::Pool;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::metadata::MetadataMap;

/// How to reach a cluster, and how patient to be. The defaults are etcdctl's.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`, `http://…`, `https://…` or `unix://…`. One that cannot be reached, or read, is never used.
    pub endpoints: Vec<String>,
    /// How long one attempt to connect may take, TLS included.
    pub dial_timeout: Duration,
    /// How long one call may take, the wait for a connection included. `None`: for ever.
    pub call_timeout: Option<Duration>,
    /// A connection with calls in flight is pinged when nothing came for this long; raised to 10 s, because servers
    /// hang up on clients that ping more often.
    pub keepalive_time: Duration,
    /// A ping unanswered for this long ends the connection.
    pub keepalive_timeout: Duration,
    /// Secures `host:port` and `https://` endpoints; see [`TlsFiles::load`]. Without it, `https://` trusts the
    /// system's authorities.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// User and password. [`Client::authenticate`] turns them into a token.
    pub user: Option<(String, String)>,
    /// A token that was made elsewhere and is sent as it is; then `user` counts for nothing.
    pub token: Option<String>,
    /// Requests larger than this are refused here.
    pub request_bytes_max: usize,
    /// Answers larger than this are refused.
    pub response_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            dial_timeout: Duration::from_secs(2),
            call_timeout: Some(Duration::from_secs(5)),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            tls: None,
            user: None,
            token: None,
            request_bytes_max: 2 * 1024 * 1024,
            response_bytes_max: i32::MAX as usize,
        }
    }
}

/// A client. Clones share connections and token; the connections close with the last clone.
#[derive(Clone, Debug)]
pub struct Client {
    config: Config,
    pool: Arc<Pool>,
    turn: Arc<AtomicUsize>,
    token: Arc<Mutex<Option<AsciiMetadataValue>>>,
}

impl Client {
    /// Starts connecting, in the background, and returns at once. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: Config) -> Client {
        let pool = Arc::new(Pool::new(&config));
        Client { config, pool, turn: Arc::default(), token: Arc::default() }
    }

    /// A client of one endpoint, with the defaults.
    #[must_use]
    pub fn to(endpoint: impl Into<String>) -> Client {
        Client::new(Config { endpoints: vec![endpoint.into()], ..Config::default() })
    }

    /// This client with another patience, on the same connections. `None`: for ever.
    #[must_use]
    pub fn patient(&self, call_timeout: Option<Duration>) -> Client {
        let mut client = self.clone();
        client.config.call_timeout = call_timeout;
        client
    }

    /// The endpoints that this client was made with.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.config.endpoints
    }

    /// Why the last attempt to connect failed, in words; `None` when none has.
    #[must_use]
    pub fn last_dial_error(&self) -> Option<String> {
        self.pool.trouble()
    }

    /// Sends one request and waits for its answer; which requests there are stands in `call`.
    ///
    /// ```
    /// # let member = etcd_lab::cli::example::member()?;
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// use etcd_lab::client::Client;
    /// use etcd_lab::client::prefix_end;
    /// use etcd_lab::proto::etcdserverpb::RangeRequest;
    ///
    /// let client = Client::to(member);
    /// client.put("user/ann", "1").await?;
    /// client.put("user/bob", "2").await?;
    /// let all = RangeRequest { key: "user/".into(), range_end: prefix_end(b"user/"), ..Default::default() };
    /// assert_eq!(client.call(all).await?.count, 2);
    /// let error = client.call(RangeRequest::default()).await.expect_err("a range has a key");
    /// assert_eq!(error.to_string(), "etcdserver: key is not provided");
    /// # Ok::<(), etcd_lab::client::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Deadline`] after `call_timeout`, [`Error::Lost`] when a write's connection broke, otherwise what the
    /// member answered.
    pub async fn call<C: Call>(&self, request: C) -> Result<C::Answer, Error> {
        self.in_time(self.call_patiently(&request)).await
    }

    /// The value of `key` now, if there is one.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        let range = self.call(RangeRequest { key: key.into(), ..RangeRequest::default() }).await?;
        Ok(range.kvs.into_iter().next())
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<PutResponse, Error> {
        self.call(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }).await
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteRangeResponse, Error> {
        self.call(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }).await
    }

    /// The members, as the cluster agrees on them.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        Ok(self.call(MemberListRequest { linearizable: true }).await?.members)
    }

    /// What one member says about itself: that of the one endpoint, or of any of several.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.call(StatusRequest {}).await
    }

    /// Follows changes; see [`Watch`]. Nothing is sent before the first [`Watch::next`].
    #[must_use]
    pub fn watch(&self, request: WatchCreateRequest) -> Watch {
        Watch::new(self.clone(), request)
    }

    /// Keeps a lease alive for as long as [`KeepAlive::next`] is called.
    #[must_use]
    pub fn keep_alive(&self, lease: i64) -> KeepAlive {
        KeepAlive::new(self.clone(), lease)
    }

    /// Asks one member for all of its data, as a snapshot file: see [`SnapshotStream`]. Waits for a connection as long as a call may take.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn snapshot(&self) -> Result<SnapshotStream, Error> {
        self.in_time(snapshot::open(self)).await
    }

    /// A range in pieces: see [`RangeStream`]. Members before etcd 3.7 do not know it. Waits for a connection as long as a call may take.
    ///
    /// # Errors
    /// As [`Client::call`]; `Unimplemented` from a member that does not know it.
    pub async fn range_stream(&self, range: RangeRequest) -> Result<RangeStream, Error> {
        self.in_time(range_stream::open(self, range)).await
    }

    /// What the first endpoint answers on `path` to plain HTTP, such as `/metrics`, as text.
    ///
    /// # Errors
    /// [`Error::Lost`] with the reason in words, [`Error::Deadline`] after `call_timeout`.
    pub async fn fetch(&self, path: &str) -> Result<String, Error> {
        let endpoint = self.config.endpoints.first().map(|text| endpoint::Endpoint::parse(text));
        let endpoint = endpoint.ok_or_else(|| Error::Config("no endpoint".to_owned()))?;
        let dialing = pool::dialing(&self.config);
        self.in_time(async { dialing.get(&endpoint, path).await.map_err(|why| Error::Lost { why }) }).await
    }

    /// Exchanges user and password for a token, which goes with every later call. Does nothing without a user.
    ///
    /// # Errors
    /// As [`Client::call`]: `authentication is not enabled` when passwords mean nothing to this cluster.
    pub async fn authenticate(&self) -> Result<(), Error> {
        self.in_time(self.refresh_token()).await
    }

    async fn refresh_token(&self) -> Result<(), Error> {
        let token = |text: &str| text.parse().map_err(|_| Error::Config("the token is no text".to_owned()));
        if let Some(given) = &self.config.token {
            *self.token.lock() = Some(token(given)?);
            return Ok(());
        }
        let Some((name, password)) = self.config.user.clone() else { return Ok(()) };
        *self.token.lock() = None;
        let answer = Box::pin(self.call_patiently(&AuthenticateRequest { name, password })).await?;
        *self.token.lock() = Some(token(&answer.token)?);
        Ok(())
    }

    /// Runs `work`, but no longer than a call may take.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.config.call_timeout {
            None => work.await,
            Some(limit) => {
                let late = |_| Error::Deadline { last_dial: self.pool.trouble_if_down() };
                tokio::time::timeout(limit, work).await.map_err(late)?
            }
        }
    }

    /// Whose turn it is: endpoints are used one after the other.
    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// What goes with every request: which API this client speaks, and who asks.
    fn add_metadata(&self, metadata: &mut MetadataMap) {
        metadata.insert("client-api-version", AsciiMetadataValue::from_static("3.6"));
        if let Some(token) = self.token.lock().clone() {
            metadata.insert("token", token);
        }
    }
}

/// The end of the range of all keys that start with `prefix`: the first key after them. One zero byte, which means
/// "to the end", if there is none.
///
/// Source: etcd `client/v3/op.go`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// Waits; the one place where this module does so on purpose.
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(prefix_end(b"foo"), "fop");
        assert_eq!(prefix_end(&[b'a', 0xff]), "b");
        assert_eq!(prefix_end(&[0xff, 0xff]).as_ref(), [0], "nothing follows: to the end");
        assert_eq!(prefix_end(b"").as_ref(), [0]);
    }

    #[tokio::test]
    async fn a_call_that_reaches_nobody_says_so_in_etcds_words_and_names_the_cause() {
        let config = Config {
            endpoints: vec!["127.0.0.1:1".to_owned()],
            call_timeout: Some(Duration::from_millis(300)),
            ..Config::default()
        };
        let error = Client::new(config).get("k").await.expect_err("nobody listens there");
        assert_eq!(error.to_string(), "context deadline exceeded");
        assert_eq!(error.cause(), Some("dial tcp 127.0.0.1:1: connect: connection refused"));
    }
}
