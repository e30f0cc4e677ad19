//! Following changes, across broken connections.
//!
//! A watch remembers the revision that it has seen everything up to. When its stream breaks it opens another, on
//! whichever member is up, from the next revision on: its reader sees every event once, in order, as if nothing had
//! happened. What ends it is an answer that says so: cancelled, or compacted away.
//!
//! Left out: several watches on one stream, and fragments: a revision comes as one answer.

use super::Client;
use super::call::failure;
use super::error::Error;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchProgressRequest;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Streaming;
use tonic::metadata::AsciiMetadataValue;

/// The wait before a broken stream is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(50);

/// Requests that may wait to be sent: one create, and progress requests, of which more than a few make no sense.
const REQUESTS_MAX: usize = 8;

/// A request to watch `key` from `revision` on; 0 means from now.
#[must_use]
pub fn watch_from(key: impl Into<Bytes>, range_end: impl Into<Bytes>, revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision: revision,
        ..WatchCreateRequest::default()
    }
}

/// A watch. Dropping it ends it.
///
/// Each change comes once and in order, from the revision that was asked for, also when the connection breaks in between:
///
/// ```
/// # let member = etcd_lab::cli::example::member()?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use etcd_lab::client::Client;
/// use etcd_lab::client::watch_from;
///
/// let client = Client::to(member);
/// let first = client.put("k", "1").await?.header.expect("every answer has one").revision;
/// client.put("k", "2").await?;
/// let mut watch = client.watch(watch_from("k", "", first));
/// client.put("k", "3").await?;
/// let mut values = Vec::new();
/// while values.len() < 3 {
///     let answer = watch.next().await?.expect("it goes on");
///     values.extend(answer.events.into_iter().map(|event| event.kv.expect("a change has a key").value));
/// }
/// assert_eq!(values, ["1", "2", "3"]);
/// # Ok::<(), etcd_lab::client::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// What was asked for; `start_revision` moves on with what has been seen.
    request: WatchCreateRequest,
    stream: Option<Stream>,
    /// Whether the reader has been told that the watch is there.
    announced: bool,
    over: bool,
}

#[derive(Debug)]
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    created: bool,
}

impl Watch {
    pub(super) fn new(client: Client, request: WatchCreateRequest) -> Watch {
        let request = WatchCreateRequest { fragment: false, watch_id: 0, ..request };
        Watch { client, request, stream: None, announced: false, over: false }
    }

    /// The next answer, or `None` when the watch is over. The first has `created` set and says from where on changes
    /// are seen; a progress notification has no events; the last may have `canceled` set, see
    /// [`Watch::why_canceled`]. Waits as long as it takes; may be dropped and called again without loss.
    ///
    /// # Errors
    /// What a member answered, when it makes no sense to try another. The watch is over then.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Error> {
        while !self.over {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                empty => match open(&self.client, &self.request).await {
                    Ok(stream) => empty.insert(stream),
                    Err(error) => {
                        self.give_up_or_wait(error).await?;
                        continue;
                    }
                },
            };
            match stream.answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(answer) = self.take(answer) {
                        return Ok(Some(answer));
                    }
                }
                Ok(None) => self.give_up_or_wait(Error::Lost { why: "the stream ended".to_owned() }).await?,
                Err(status) => self.give_up_or_wait(failure(status)).await?,
            }
        }
        Ok(None)
    }

    /// Asks for a progress notification: an answer without events, whose revision has been seen whole. Does nothing
    /// while the stream is broken or other such requests wait.
    pub fn request_progress(&self) {
        if let Some(stream) = &self.stream {
            let union = Some(RequestUnion::ProgressRequest(WatchProgressRequest {}));
            // Progress is asked for again by whoever wants it: a lost request is no loss.
            let _ = stream.requests.try_send(WatchRequest { request_union: union });
        }
    }

    /// Why `answer` cancelled the watch, in etcd's words.
    #[must_use]
    pub fn why_canceled(answer: &WatchResponse) -> String {
        if answer.compact_revision != 0 {
            crate::error::Error::Compacted.to_string()
        } else if answer.cancel_reason.is_empty() {
            crate::error::Error::FutureRevision.to_string()
        } else {
            answer.cancel_reason.clone()
        }
    }

    /// Whether `answer` only tells how far everything has been seen.
    #[must_use]
    pub fn is_progress(answer: &WatchResponse) -> bool {
        let revision = answer.header.map_or(0, |header| header.revision);
        answer.events.is_empty() && !answer.canceled && !answer.created && answer.compact_revision == 0 && revision != 0
    }

    /// Moves on by one answer. Returns what the reader shall see of it.
    fn take(&mut self, answer: WatchResponse) -> Option<WatchResponse> {
        let stream = self.stream.as_mut()?;
        if answer.canceled {
            self.over = true;
            self.stream = None;
            return Some(answer);
        }
        let seen = answer.header.map_or(0, |header| header.revision);
        if answer.created {
            stream.created = true;
            // "From now on" becomes a number as soon as the member says what now is: a stream that breaks before the
            // first event must not skip what happens until the next one is open.
            if self.request.start_revision == 0 {
                self.request.start_revision = seen + 1;
            }
            return (!std::mem::replace(&mut self.announced, true)).then_some(answer);
        }
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        match last {
            Some(last) => self.request.start_revision = self.request.start_revision.max(last + 1),
            // Progress answers one watch, or (-1) all watches of the stream: either way all up to it has been sent.
            None if stream.created => self.request.start_revision = self.request.start_revision.max(seen + 1),
            None => {}
        }
        Some(answer)
    }

    /// After a failure of the stream: waits a little before another one, or ends the watch.
    async fn give_up_or_wait(&mut self, error: Error) -> Result<(), Error> {
        self.stream = None;
        let hopeless = !matches!(error.code(), Code::Unavailable | Code::Internal)
            || error.says(&crate::error::Error::NoLeader.to_string());
        if hopeless {
            self.over = true;
            return Err(error);
        }
        super::pause(REOPEN_AFTER).await;
        Ok(())
    }
}

async fn open(client: &Client, create: &WatchCreateRequest) -> Result<Stream, Error> {
    let connection = client.pool.pick(client.next_turn()).await;
    let (requests, queue) = mpsc::channel(REQUESTS_MAX);
    let union = Some(RequestUnion::CreateRequest(create.clone()));
    requests.try_send(WatchRequest { request_union: union }).expect("an empty queue has room");
    let mut message = tonic::Request::new(ReceiverStream::new(queue));
    client.add_metadata(message.metadata_mut());
    // Without this a watch stays open on a member that has lost its cluster, and silently gets nothing.
    message.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    let origin = connection.origin.clone();
    let answers = WatchClient::with_origin(connection, origin)
        .max_decoding_message_size(client.config.response_bytes_max)
        .watch(message)
        .await
        .map_err(failure)?;
    Ok(Stream { requests, answers: answers.into_inner(), created: false })
}
