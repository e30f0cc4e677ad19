//! Messages by POST, one after the other: what a member gets until it has dialled us, and what carries snapshots' heads.
//!
//! A message is posted again at once if the kept connection turns out to be gone, with one exception: a proposal that may have arrived. The leader would
//! append it twice, and nobody behind it looks for a second copy: one write, applied twice.
//!
//! Source: etcd `rafthttp/pipeline.go`, which posts four at a time; one at a time keeps their order. Of posts that fail it tells raft, and Go's client
//! sends again only what was not written.

use super::CONN_TIMEOUT;
use super::dial::Error;
use super::dial::Line;
use super::dial::PeerUrl;
use super::dial::read_all;
use super::dial::refusal;
use super::dial::request_on;
use super::headers;
use super::link::Link;
use super::outbox::Queued;
use crate::proto::raftpb::MessageType;
use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http_body_util::Full;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many messages wait to be posted at most: enough for a second without network (etcd's `pipelineBufSize`).
pub(super) const QUEUE_MESSAGES_MAX: usize = 64;

const SOURCE: &str = "pipeline";

/// Posts until the link stops.
pub(super) async fn run(link: Arc<Link>, mut queue: mpsc::Receiver<Queued>) {
    let mut line = None;
    while let Some(Queued { message, due }) = queue.recv().await {
        if let Some(due) = due {
            tokio::time::sleep_until(due).await;
        }
        let body = Bytes::from(message.encode_to_vec());
        let once = message.msg_type() == MessageType::MsgPropose;
        let url = link.picker.pick();
        match post(&link, &url, &mut line, body.clone(), once).await {
            Ok(()) => {
                link.count_sent(body.len());
                link.activate();
            }
            Err(e) => {
                line = None;
                link.picker.failed(&url);
                link.deactivate(SOURCE, "write", &e.to_string());
                link.dropped(SOURCE);
                if e == Error::Removed {
                    link.shared.handler.removed();
                }
            }
        }
    }
}

/// Posts on the line from last time if it is still good; if it is not, a fresh one is dialled, once. What must not arrive twice is posted again only if
/// nothing of it was sent.
async fn post(
    link: &Link,
    url: &PeerUrl,
    line: &mut Option<(PeerUrl, Line)>,
    body: Bytes,
    once: bool,
) -> Result<(), Error> {
    if let Some((to, kept)) = line
        && to == url
        && kept.is_ready()
    {
        match post_on(link, url, kept, body.clone()).await {
            Err(Error::NotSent(_)) => {}
            Err(_) if !once => {}
            done => return done,
        }
    }
    let (_, fresh) = line.insert((url.clone(), link.dialer.dial(url).await?));
    post_on(link, url, fresh, body).await
}

async fn post_on(link: &Link, url: &PeerUrl, line: &mut Line, body: Bytes) -> Result<(), Error> {
    let mut request = Request::post("/raft").body(Full::new(body)).map_err(|e| Error::Malformed(e.to_string()))?;
    let named = request.headers_mut();
    named.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    headers::introduce(named, &link.shared.config, None);
    let answered = tokio::time::timeout(CONN_TIMEOUT, async {
        let response = request_on(line, url, request).await?;
        read_all(url, response).await
    });
    let response = answered.await.map_err(|_| Error::Timeout(url.to_string()))??;
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(());
    }
    Err(refusal(response.status(), response.body()))
}
