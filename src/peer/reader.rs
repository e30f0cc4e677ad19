//! One stream that we read: dial, decode, hand over; and again.
//!
//! Source: etcd `rafthttp/stream.go`, `streamReader`.

#![expect(clippy::disallowed_methods, reason = "a broken stream is known by the time without a byte")]

use super::CONN_TIMEOUT;
use super::REDIAL_EVERY;
use super::codec::Decoder;
use super::codec::StreamKind;
use super::codec::is_link_heartbeat;
use super::dial::Error;
use super::dial::read_all;
use super::dial::refusal;
use super::headers;
use super::link::Link;
use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::time::Instant;

/// Reads until the link stops.
pub(super) async fn run(link: Arc<Link>, kind: StreamKind) {
    let mut told = None;
    loop {
        // A stream that was open for a while is redialled at once: a loss shows within a millisecond.
        let next_dial = Instant::now() + REDIAL_EVERY;
        match dial(&link, kind).await {
            Ok(body) => {
                link.reading(kind);
                log(&link, kind, "established TCP streaming connection with remote peer", None);
                let end = read(&link, kind, body).await;
                link.read_ended(kind);
                log(&link, kind, "lost TCP streaming connection with remote peer", Some(&end));
                if let End::Broken(why) = end {
                    link.deactivate(kind.label(), "read", &why);
                }
            }
            Err(e) => {
                link.deactivate(kind.label(), "dial", &e.to_string());
                if e.is_refused() {
                    link.dial_refused(kind);
                }
                tell_mismatch(&link, &e, &mut told);
                if e == Error::Removed {
                    link.shared.handler.removed();
                }
            }
        }
        tokio::time::sleep_until(next_dial).await;
    }
}

/// That the other side is of another cluster or release does not go away by itself: whoever looks after this member must hear of it, once.
fn tell_mismatch(link: &Link, why: &Error, told: &mut Option<Error>) {
    let (local, remote) = (link.local(), link.id);
    match why {
        why if told.as_ref() == Some(why) => {}
        Error::ClusterIdMismatch => tracing::warn!(
            "remote-peer-id" = %remote, "local-member-id" = %local, "local-member-cluster-id" = %link.shared.config.cluster,
            error = %why, "request sent was ignored by remote peer due to cluster ID mismatch"
        ),
        Error::IncompatibleVersion => tracing::warn!(
            "local-member-id" = %local, "remote-peer-id" = %remote,
            error = %why, "request sent was ignored by remote peer due to server version incompatibility"
        ),
        _ => return,
    }
    *told = Some(why.clone());
}

/// How a stream ended.
enum End {
    /// The other side closed it, or its process ended.
    Closed(String),
    /// It fell silent, or what came was no stream.
    Broken(String),
}

async fn dial(link: &Link, kind: StreamKind) -> Result<Incoming, Error> {
    let url = link.picker.pick();
    let opened = dial_url(link, kind, &url).await;
    if opened.is_err() {
        link.picker.failed(&url);
    }
    opened
}

async fn dial_url(link: &Link, kind: StreamKind, url: &super::PeerUrl) -> Result<Incoming, Error> {
    let path = format!("/raft/stream/{}/{}", kind.path(), link.local());
    let mut request = Request::get(path).body(Full::new(Bytes::new())).map_err(|e| Error::Malformed(e.to_string()))?;
    headers::introduce(request.headers_mut(), &link.shared.config, Some(link.id));
    let response = link.dialer.open(url, request).await?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let response = read_all(url, response).await?;
    Err(refusal(response.status(), response.body()))
}

async fn read(link: &Link, kind: StreamKind, mut body: Incoming) -> End {
    let mut decoder = Decoder::new(kind, link.local().0, link.id.0);
    loop {
        let bytes = match tokio::time::timeout(CONN_TIMEOUT, body.frame()).await {
            Err(_) => return End::Broken("i/o timeout".into()),
            Ok(None) => return End::Closed("EOF".into()),
            Ok(Some(Err(e))) => return End::Closed(e.to_string()),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        link.count_received(bytes.len());
        decoder.push(&bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) if is_link_heartbeat(&message) => {}
                Ok(Some(message)) => link.deliver(message),
                Ok(None) => break,
                Err(e) => return End::Broken(e.to_string()),
            }
        }
    }
}

fn log(link: &Link, kind: StreamKind, text: &'static str, end: Option<&End>) {
    let (reader, local, remote) = (kind.label(), link.local(), link.id);
    match end {
        None => tracing::info!(
            "stream-reader-type" = reader, "local-member-id" = %local, "remote-peer-id" = %remote, "{text}"
        ),
        Some(End::Closed(error) | End::Broken(error)) => tracing::warn!(
            "stream-reader-type" = reader, "local-member-id" = %local, "remote-peer-id" = %remote, error, "{text}"
        ),
    }
}
