//! Asks the other member now and then, and measures how long its answer takes: etcd's round-trip time.
//!
//! Source: etcd `rafthttp/probing_status.go`, `github.com/xiang90/probing`.

#![expect(clippy::disallowed_methods, reason = "measures a round trip")]

use super::CONN_TIMEOUT;
use super::dial::Error;
use super::dial::Line;
use super::dial::read_all;
use super::dial::request_on;
use super::link::Link;
use super::rules::Verdict;
use crate::meter::PEER_RTT;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::time::MissedTickBehavior;

/// Pause between two probes; etcd's `proberInterval`.
const PROBE_EVERY: Duration = Duration::from_secs(4);

/// Probes until the link stops. A probe that fails says nothing: the streams tell sooner.
pub(super) async fn run(link: Arc<Link>) {
    let times = PEER_RTT.with(&[&link.id.to_string()]);
    let mut every = tokio::time::interval(PROBE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut line = None;
    loop {
        every.tick().await;
        // What a lab does to the link, it does to this as well.
        if !matches!(link.shared.rules.outgoing(link.id), Verdict::Pass) {
            continue;
        }
        match tokio::time::timeout(CONN_TIMEOUT, probe(&link, &mut line)).await {
            Ok(Ok(took)) => times.time(took),
            Ok(Err(_)) | Err(_) => line = None,
        }
    }
}

async fn probe(link: &Link, line: &mut Option<Line>) -> Result<Duration, Error> {
    let url = link.picker.pick();
    let kept = match line {
        Some(kept) if kept.is_ready() => kept,
        _ => line.insert(link.dialer.dial(&url).await?),
    };
    let request = Request::get("/raft/probing").body(Full::<Bytes>::default());
    let began = Instant::now();
    let response = request_on(kept, &url, request.map_err(|e| Error::Malformed(e.to_string()))?).await?;
    read_all(&url, response).await?;
    Ok(began.elapsed())
}
