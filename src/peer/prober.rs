//! Asks the other member now and then, measures how long its answer takes (etcd's round-trip time), and compares clocks: a member whose own
//! is more than a second ahead of the other's says so in its log.
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
use crate::golang;
use crate::meter::PEER_RTT;
use crate::wall;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::MissedTickBehavior;

/// Pause between two probes; etcd's `proberInterval`.
const PROBE_EVERY: Duration = Duration::from_secs(4);

/// From the link's start to the first look at the clocks, and between two looks; etcd's `statusErrorInterval`, `statusMonitoringInterval`.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// So much ahead, a clock is told of.
const DRIFT_MAX: Duration = Duration::from_secs(1);

/// What the other answers.
#[derive(Deserialize)]
struct Health {
    #[serde(rename = "Now")]
    now: String,
}

/// Both clocks, as far as probes tell.
#[derive(Debug, Default)]
struct Clocks {
    /// Smoothed as etcd's prober does: an eighth of each new one.
    rtt: Duration,
    /// How far our own is ahead; none: not at all, or unknown.
    ahead: Option<Duration>,
}

impl Clocks {
    /// An answer that said `theirs` has come at `ours`, after so long.
    fn learn(&mut self, took: Duration, theirs: Option<SystemTime>, ours: SystemTime) {
        self.rtt = self.rtt * 7 / 8 + took / 8;
        self.ahead = theirs.and_then(|theirs| ours.duration_since(theirs + self.rtt / 2).ok());
    }
}

/// Probes until the link stops. A probe that fails says nothing: the streams tell sooner.
pub(super) async fn run(link: Arc<Link>) {
    let times = PEER_RTT.with(&[&link.id.to_string()]);
    let mut every = tokio::time::interval(PROBE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut line = None;
    let (mut clocks, mut look) = (Clocks::default(), Instant::now() + FIRST_LOOK);
    loop {
        every.tick().await;
        // What a lab does to the link, it does to this as well.
        if !matches!(link.shared.rules.outgoing(link.id), Verdict::Pass) {
            continue;
        }
        match tokio::time::timeout(CONN_TIMEOUT, probe(&link, &mut line)).await {
            Ok(Ok((took, theirs))) => {
                times.time(took);
                clocks.learn(took, theirs, wall::seen(SystemTime::now()));
            }
            Ok(Err(_)) | Err(_) => line = None,
        }
        if look <= Instant::now() {
            look = Instant::now() + LOOK_EVERY;
            tell_drift(&link, &clocks);
        }
    }
}

fn tell_drift(link: &Link, clocks: &Clocks) {
    if let Some(ahead) = clocks.ahead.filter(|ahead| *ahead > DRIFT_MAX) {
        tracing::warn!(
            "round-tripper-name" = "ROUND_TRIPPER_RAFT_MESSAGE", "remote-peer-id" = %link.id,
            "clock-drift" = golang::duration(ahead), rtt = golang::duration(clocks.rtt), "prober found high clock drift"
        );
    }
}

/// How long the answer took, and what the other's clock showed.
async fn probe(link: &Link, line: &mut Option<Line>) -> Result<(Duration, Option<SystemTime>), Error> {
    let url = link.picker.pick();
    let kept = match line {
        Some(kept) if kept.is_ready() => kept,
        _ => line.insert(link.dialer.dial(&url).await?),
    };
    let request = Request::get("/raft/probing").body(Full::<Bytes>::default());
    let began = Instant::now();
    let response = request_on(kept, &url, request.map_err(|e| Error::Malformed(e.to_string()))?).await?;
    let response = read_all(&url, response).await?;
    Ok((began.elapsed(), shown(response.body())))
}

fn shown(body: &[u8]) -> Option<SystemTime> {
    let health: Health = serde_json::from_slice(body).ok()?;
    OffsetDateTime::parse(&health.now, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_ahead_is_told_of() {
        let theirs = shown(br#"{"OK":true,"Now":"2026-01-02T03:04:05.5Z"}"#).expect("a time");
        let mut clocks = Clocks::default();
        clocks.learn(Duration::from_millis(800), Some(theirs), theirs + Duration::from_secs(90));
        assert_eq!(clocks.rtt, Duration::from_millis(100));
        // Half of the round trip was the way back.
        assert_eq!(clocks.ahead, Some(Duration::from_millis(89_950)));
        clocks.learn(Duration::from_millis(100), Some(theirs), theirs - Duration::from_secs(90));
        assert_eq!(clocks.ahead, None);
        clocks.learn(Duration::ZERO, shown(b"{}"), theirs);
        assert_eq!(clocks.ahead, None);
    }
}
