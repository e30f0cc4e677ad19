//! Locks and elections: what etcd's `concurrency` package makes of leases, transactions and watches.
//!
//! Who wants something that only one may have puts a key into a queue: below the thing's name, named after its lease, so that it goes when
//! its holder does. Whose key is oldest has it; everybody else waits for the keys before its own to go.
//!
//! ```text
//! mylock/694d…01   created at 5    has it
//! mylock/694d…07   created at 8    waits for …01
//! mylock/694d…0b   created at 9    waits for …07
//! ```
//!
//! Each step may be repeated without harm (make the key if it is not there, delete it), so that a step whose connection broke is taken again,
//! for as long as the lease can live. Source: etcd `client/v3/concurrency`.

use super::Client;
use super::Watch;
use super::call::Call;
use super::error::Error;
use super::prefix_end;
use super::watch_from;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

/// The wait before a step is taken again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A lease that is kept alive in the background for as long as this lives. Dropping it lets the lease run out.
#[derive(Debug)]
pub struct Session {
    client: Client,
    lease: i64,
    ttl: Duration,
    alive: watch::Receiver<bool>,
    _renewing: JoinSet<()>,
}

impl Session {
    /// Grants a lease of `ttl` seconds and keeps it alive. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn open(client: &Client, ttl: i64) -> Result<Session, Error> {
        let client = client.patient(None);
        let granted = client.call(LeaseGrantRequest { ttl, id: 0 }).await?;
        let (announce, alive) = watch::channel(true);
        let mut renewals = client.keep_alive(granted.id);
        let mut renewing = JoinSet::new();
        renewing.spawn(async move {
            while let Ok(Some(_)) = renewals.next().await {}
            // Nobody listens any more when the session is gone, which is fine.
            let _ = announce.send(false);
        });
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        Ok(Session { client, lease: granted.id, ttl, alive, _renewing: renewing })
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Waits until the lease is lost: run out, or revoked by somebody.
    pub async fn lost(&self) {
        let mut alive = self.alive.clone();
        // An error means that the task has ended, which it does when the lease is lost.
        let _ = alive.wait_for(|alive| !alive).await;
    }

    /// Revokes the lease: its keys go at once.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn close(self) -> Result<(), Error> {
        self.surely(LeaseRevokeRequest { id: self.lease }).await.map(drop)
    }

    /// Sends a request that may be sent twice, until it is answered or the lease is gone anyway.
    async fn surely<C: Call>(&self, request: C) -> Result<C::Answer, Error> {
        let again = async {
            loop {
                match self.client.call(request.clone()).await {
                    Err(error) if error.code() == Code::Unavailable => super::pause(AGAIN_AFTER).await,
                    done => return done,
                }
            }
        };
        let late = |_| Error::Deadline { last_dial: self.client.last_dial_error() };
        tokio::time::timeout(self.ttl, again).await.map_err(late)?
    }
}

/// A place in the queue before a lock or an office.
///
/// As a lock: one after the other.
///
/// ```
/// # let member = etcd_lab::cli::example::member()?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use etcd_lab::client::Client;
/// use etcd_lab::client::Place;
/// use etcd_lab::client::Session;
///
/// let client = Client::to(member);
/// let (ann, bob) = (Session::open(&client, 10).await?, Session::open(&client, 10).await?);
/// let mut first = Place::take(&ann, "printer", "").await?;
/// let mut second = Place::take(&bob, "printer", "").await?;
/// first.turn(&ann).await?;
/// assert!(first.key().starts_with("printer/"));
/// // Bob's turn comes when Ann leaves, or when her lease is gone.
/// let (_, turn) = tokio::join!(first.leave(&ann), second.turn(&bob));
/// turn?;
/// second.leave(&bob).await?;
/// # Ok::<(), etcd_lab::client::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Place {
    prefix: String,
    key: String,
    created: i64,
    /// Of the answer that said that it is our turn.
    header: ResponseHeader,
}

impl Place {
    /// Takes a place in the queue `name`, with `value` as what the others see of us. A session has one place in each queue; taken again, it
    /// stays where it is, and its value becomes the new one.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn take(session: &Session, name: &str, value: impl Into<Bytes>) -> Result<Place, Error> {
        let (prefix, value) = (format!("{name}/"), value.into());
        let key = format!("{prefix}{:x}", session.lease);
        let is_new = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: key.clone().into(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::CreateRevision(0)),
        };
        let put =
            PutRequest { key: key.clone().into(), value: value.clone(), lease: session.lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
        let op = |request| vec![RequestOp { request: Some(request) }];
        let request = TxnRequest {
            compare: vec![is_new],
            success: op(Request::RequestPut(put.clone())),
            failure: op(Request::RequestRange(get)),
        };
        let answer = session.surely(request).await?;
        let header = answer.header.unwrap_or_default();
        let there = answer.responses.into_iter().find_map(|op| match op.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let created = there.as_ref().map_or(header.revision, |kv| kv.create_revision);
        if there.is_some_and(|kv| kv.value != value) {
            session.surely(put).await?;
        }
        Ok(Place { prefix, key, created, header })
    }

    /// Waits until all that came before are gone: then we have it. May be dropped and called again.
    ///
    /// # Errors
    /// [`Error::Config`] if the lease was lost while we waited, otherwise as [`Client::call`].
    pub async fn turn(&mut self, session: &Session) -> Result<(), Error> {
        loop {
            let before = RangeRequest {
                key: self.prefix.clone().into(),
                range_end: prefix_end(self.prefix.as_bytes()),
                max_create_revision: self.created - 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                limit: 1,
                ..RangeRequest::default()
            };
            let answer = session.surely(before).await?;
            let revision = answer.header.map_or(0, |header| header.revision);
            let Some(other) = answer.kvs.into_iter().next() else { break };
            match gone(&session.client, other.key, revision + 1).await {
                // Whoever stood before us may have gone unseen: the queue is read again.
                Err(error) if error.code() == Code::Unavailable => super::pause(AGAIN_AFTER).await,
                done => done?,
            }
        }
        let own = session.surely(RangeRequest { key: self.key.clone().into(), ..RangeRequest::default() }).await?;
        if own.kvs.is_empty() {
            return Err(Error::Config("mutex: session is expired".to_owned()));
        }
        self.header = own.header.unwrap_or_default();
        Ok(())
    }

    /// Gives the place up: the next one has its turn.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn leave(self, session: &Session) -> Result<(), Error> {
        let request = DeleteRangeRequest { key: self.key.into(), ..DeleteRangeRequest::default() };
        session.surely(request).await.map(drop)
    }

    /// The key that stands for it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The store's revision when it was our turn.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.header.revision
    }
}

/// Waits until `key` is deleted at or after `revision`.
async fn gone(client: &Client, key: Bytes, revision: i64) -> Result<(), Error> {
    let mut watch = client.watch(watch_from(key, Bytes::new(), revision));
    while let Some(answer) = watch.next().await? {
        if answer.canceled {
            let text = Watch::why_canceled(&answer);
            return Err(Error::Answer { code: Code::OutOfRange, text });
        }
        if answer.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
    Err(Error::Lost { why: "the watch ended".to_owned() })
}

/// Who holds an office, and who comes after: each leader's key and proposal, in order.
///
/// ```
/// # let member = etcd_lab::cli::example::member()?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use etcd_lab::client::Client;
/// use etcd_lab::client::Observer;
/// use etcd_lab::client::Place;
/// use etcd_lab::client::Session;
///
/// let client = Client::to(member);
/// let session = Session::open(&client, 10).await?;
/// let mut candidate = Place::take(&session, "captain", "ann").await?;
/// candidate.turn(&session).await?;
/// let told = Observer::new(&client, "captain").next().await?;
/// assert_eq!(told.kvs[0].value, "ann");
/// session.close().await?;
/// # Ok::<(), etcd_lab::client::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: String,
    /// The watch on the leader's key.
    following: Option<Watch>,
    /// The revision of the proposal that was told last.
    told: i64,
}

impl Observer {
    /// Observes the election `name`.
    #[must_use]
    pub fn new(client: &Client, name: &str) -> Observer {
        Observer { client: client.patient(None), prefix: format!("{name}/"), following: None, told: 0 }
    }

    /// The next proposal, as an answer with one key. Waits until there is one.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn next(&mut self) -> Result<RangeResponse, Error> {
        loop {
            let answer = match &mut self.following {
                Some(watch) => watch.next().await,
                None => match self.first().await {
                    Ok((header, kv)) => {
                        let watch = watch_from(kv.key.clone(), Bytes::new(), header.revision + 1);
                        self.following = Some(self.client.watch(watch));
                        // Read again after a broken watch, it may be what was told before.
                        if std::mem::replace(&mut self.told, kv.mod_revision) == kv.mod_revision {
                            continue;
                        }
                        return Ok(proposal(header, kv));
                    }
                    Err(error) => Err(error),
                },
            };
            let answer = match answer {
                Err(error) if error.code() == Code::Unavailable => {
                    self.following = None;
                    super::pause(AGAIN_AFTER).await;
                    continue;
                }
                other => other?.filter(|answer| !answer.canceled),
            };
            let Some(answer) = answer else {
                self.following = None;
                continue;
            };
            // Of several proposals in one answer the newest counts, and none if the key is gone after it.
            match answer.events.into_iter().next_back() {
                Some(event) if event.r#type() == EventType::Delete => self.following = None,
                Some(event) => {
                    let kv = event.kv.unwrap_or_default();
                    self.told = kv.mod_revision;
                    return Ok(proposal(answer.header.unwrap_or_default(), kv));
                }
                None => {}
            }
        }
    }

    /// The oldest key of the queue; waits for one if it is empty.
    async fn first(&self) -> Result<(ResponseHeader, KeyValue), Error> {
        let (key, range_end) = (Bytes::from(self.prefix.clone()), prefix_end(self.prefix.as_bytes()));
        let oldest = RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            limit: 1,
            ..RangeRequest::default()
        };
        loop {
            let answer = self.client.call(oldest.clone()).await?;
            let header = answer.header.unwrap_or_default();
            if let Some(kv) = answer.kvs.into_iter().next() {
                return Ok((header, kv));
            }
            let mut watch = self.client.watch(watch_from(key.clone(), range_end.clone(), header.revision + 1));
            while let Some(answer) = watch.next().await? {
                if answer.canceled || answer.events.iter().any(|event| event.r#type() == EventType::Put) {
                    break;
                }
            }
        }
    }
}

fn proposal(header: ResponseHeader, kv: KeyValue) -> RangeResponse {
    RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 0 }
}
