//! Keeping a lease alive, across broken connections.
//!
//! A renewal every third of the time-to-live; when a stream breaks, another member is asked, for as long as the lease
//! can still be alive. Source: etcd `client/v3/lease.go`.
#![expect(clippy::disallowed_methods, reason = "renewals are sent in real time")]

use super::Client;
use super::call::failure;
use super::error::Error;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Streaming;

/// The wait before a broken stream is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(500);

/// A lease that is being kept alive. Dropping it lets the lease run out.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    lease: i64,
    stream: Option<Stream>,
    /// When the next renewal is due; `None` while one is under way.
    due: Option<Instant>,
    /// When the lease is gone unless a renewal is answered before.
    gone_at: Instant,
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    pub(super) fn new(client: Client, lease: i64) -> KeepAlive {
        let now = Instant::now();
        // How long the lease lives is not known before the first answer; until then we are as patient as for a
        // connection.
        let gone_at = now + client.config.dial_timeout + Duration::from_secs(1);
        KeepAlive { client, lease, stream: None, due: Some(now), gone_at }
    }

    /// The answer to the next renewal, when it is due; `None` once the lease is gone. May be dropped and called again.
    ///
    /// # Errors
    /// What a member answered, when it makes no sense to try another.
    pub async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
        }
        loop {
            let answer = match tokio::time::timeout_at(self.gone_at, self.renew()).await {
                Err(_) => return Ok(None),
                Ok(answer) => answer,
            };
            match answer {
                Ok(answer) if answer.ttl <= 0 => return Ok(None),
                Ok(answer) => {
                    let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                    let now = Instant::now();
                    self.due = Some(now + ttl / 3);
                    self.gone_at = now + ttl;
                    return Ok(Some(answer));
                }
                Err(error) if matches!(error.code(), Code::Unavailable | Code::Internal) => {
                    self.stream = None;
                    super::pause(REOPEN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn renew(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        let stream = match &mut self.stream {
            Some(stream) => {
                if self.due.take().is_some() {
                    let request = LeaseKeepAliveRequest { id: self.lease };
                    let lost = |_| Error::Lost { why: "the stream ended".to_owned() };
                    stream.requests.try_send(request).map_err(lost)?;
                }
                stream
            }
            empty => {
                self.due = None;
                empty.insert(open(&self.client, self.lease).await?)
            }
        };
        next_answer(&mut stream.answers).await
    }
}

impl Client {
    /// Renews `lease` once.
    ///
    /// # Errors
    /// `etcdserver: requested lease not found` if it is gone, otherwise as [`Client::call`].
    pub async fn keep_alive_once(&self, lease: i64) -> Result<LeaseKeepAliveResponse, Error> {
        self.in_time(async {
            let answer = loop {
                let attempt = async { next_answer(&mut open(self, lease).await?.answers).await };
                match attempt.await {
                    Err(error) if matches!(error.code(), Code::Unavailable | Code::Internal) => {
                        super::pause(REOPEN_AFTER).await;
                    }
                    other => break other?,
                }
            };
            if answer.ttl > 0 {
                return Ok(answer);
            }
            let gone = crate::error::Error::LeaseNotFound;
            Err(Error::Answer { code: gone.code(), text: gone.to_string() })
        })
        .await
    }
}

/// Opens a stream whose first request is sent.
async fn open(client: &Client, lease: i64) -> Result<Stream, Error> {
    let connection = client.pool.pick(client.next_turn()).await;
    let (requests, queue) = mpsc::channel(1);
    requests.try_send(LeaseKeepAliveRequest { id: lease }).expect("an empty queue has room");
    let mut message = tonic::Request::new(ReceiverStream::new(queue));
    client.add_metadata(message.metadata_mut());
    let origin = connection.origin.clone();
    let answers = LeaseClient::with_origin(connection, origin).lease_keep_alive(message).await.map_err(failure)?;
    Ok(Stream { requests, answers: answers.into_inner() })
}

async fn next_answer(answers: &mut Streaming<LeaseKeepAliveResponse>) -> Result<LeaseKeepAliveResponse, Error> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::Lost { why: "the stream ended".to_owned() }),
        Err(status) => Err(failure(status)),
    }
}
