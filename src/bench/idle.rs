//! What clients cost a server's memory while they do nothing: a connection, a stream, a watch.
//!
//! ```text
//! rest ─ connections, one get on each ─ a stream with one watch, many of them ─ watches on few streams ─
//!      │                              │                                       │
//!      └ resident memory, when it has settled after each; the difference is divided by their number
//! ```

#![expect(clippy::disallowed_methods, reason = "lets servers settle")]

use super::connection::Wire;
use super::servers;
use super::servers::Servers;
use super::slot::refused;
use super::watchers;
use super::workload;
use crate::proto::etcdserverpb as pb;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;

/// A server has settled when its memory was the same twice, so far apart; one that does not is taken as it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOKS_AT_MOST: usize = 20;
/// How many keys of a large state there are for each of these. A million makes so many that a page more or less does not count.
const KEYS_A_CONNECTION: u64 = 1_000;
const KEYS_A_STREAM: u64 = 200;
const KEYS_A_WATCH: u64 = 10;
/// On how many streams the watches are.
const STREAMS_OF_WATCHES: u64 = 10;

/// Bytes for each idle connection, stream and watch, on the first member.
pub(super) async fn measure(servers: &Servers, keys: u64) -> Result<Value, String> {
    let (endpoint, pid) = (&servers.endpoints()[0], servers.pids()[0]);
    let count = |keys_each: u64| (keys / keys_each).max(1);
    let (connections, streams) = (count(KEYS_A_CONNECTION), count(KEYS_A_STREAM));
    let a_stream = (count(KEYS_A_WATCH) / STREAMS_OF_WATCHES).max(1);

    // The first of each kind sets up what all of them share.
    let wire = Wire::open(endpoint).await?;
    get(&wire).await?;
    let first = watchers::stream(&wire, vec![workload::key(0)]).await?;
    let at_rest = settled(pid).await?;

    let mut wires = Vec::new();
    for _ in 0..connections {
        let wire = Wire::open(endpoint).await?;
        get(&wire).await?;
        wires.push(wire);
    }
    let connected = settled(pid).await?;

    let mut open = vec![first];
    for number in 0..streams {
        let wire = &wires[(number % connections) as usize];
        open.push(watchers::stream(wire, vec![workload::key(number)]).await?);
    }
    let streaming = settled(pid).await?;

    for number in 0..STREAMS_OF_WATCHES {
        let keys = (0..a_stream).map(|n| workload::key(number * a_stream + n)).collect();
        open.push(watchers::stream(&wire, keys).await?);
    }
    let watching = settled(pid).await?;
    let watches = a_stream * STREAMS_OF_WATCHES;
    let each = |before: u64, after: u64, count: u64| (after as f64 - before as f64) / count as f64;
    Ok(json!({
        "connections": connections,
        "streams": streams,
        "watches": watches,
        "rss_at_rest_mb": at_rest as f64 / 1e6,
        "rss_watching_mb": watching as f64 / 1e6,
        "connection_bytes": each(at_rest, connected, connections),
        "stream_bytes": each(connected, streaming, streams),
        "watch_bytes": each(streaming, watching, watches),
    }))
}

async fn get(wire: &Wire) -> Result<(), String> {
    let range = pb::RangeRequest { key: workload::key(0), serializable: true, ..Default::default() };
    wire.kv().range(range).await.map(drop).map_err(refused)
}

/// Resident memory, once the server has done and freed what is left to do and to free.
async fn settled(pid: u32) -> Result<u64, String> {
    let mut last = servers::memory(pid, "VmRSS:")?;
    for _ in 0..LOOKS_AT_MOST {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = servers::memory(pid, "VmRSS:")?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}
