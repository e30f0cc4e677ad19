//! HTTP/2 frames that are cheap to send and dear to answer: answers do not pile up for who does not take them, and others are served meanwhile.
//!
//! CVE-2019-9512 (ping), CVE-2019-9515 (settings), streams above the limit. Resets and endless headers: [`crate::abuse`].
//! Source: RFC 9113 section 4, RFC 7541.

use crate::abuse::PREFACE;
use crate::abuse::frame;
use crate::harness::Cluster;
use crate::harness::alone;
use crate::harness::etcd_bin;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const END_HEADERS: u8 = 4;

/// How often a flood repeats its frames, if it is let.
const FRAMES: u32 = 20_000;

/// Small frames are sent so many at a time: all of them together are more than the kernel's buffers hold.
const BATCH: usize = 1000;

/// No room for a frame in this time: the server holds the sender up.
const HELD_UP: Duration = Duration::from_secs(2);

/// How a flood ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The server closed the connection.
    CutOff,
    /// The server stopped reading.
    HeldUp,
    /// All of it was taken.
    Taken,
}

/// The headers of a gRPC call, without a table: literal fields with names from the static one.
fn call() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(&[0x04][..], "/etcdserverpb.KV/Range"), (&[0x01], "x"), (&[0x0f, 0x10], "application/grpc")]
    {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("short"));
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// The number of the n-th stream that a client opens.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// Sends what `frames` makes of 0, 1, 2 … below `count`; reads what comes back if `reads`.
async fn flood(address: &str, reads: bool, count: u32, frames: impl Fn(u32) -> Vec<u8>) -> End {
    let connection = TcpStream::connect(address).await.expect("served");
    let (mut from, mut to) = connection.into_split();
    let drain = tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while reads && from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        from
    });
    let mut all = async |bytes: &[u8]| timeout(HELD_UP, to.write_all(bytes)).await;
    let mut end = End::Taken;
    for bytes in [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].into_iter().chain((0..count).map(frames)) {
        match all(&bytes).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => end = End::CutOff,
            Err(_) => end = End::HeldUp,
        }
        if end != End::Taken {
            break;
        }
    }
    drain.abort();
    end
}

#[test]
fn whoever_floods_is_stopped_and_nobody_else_notices() {
    alone(Duration::from_secs(240), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &["--max-concurrent-streams=100"]).await;
        let address = cluster.spec(0).client_url.trim_start_matches("http://").to_owned();
        cluster.client.put(0, "before", "1").await.expect("a put");
        let before = cluster.process(0).memory_kib("VmRSS");
        let bounded = |cluster: &mut Cluster, what: &str| {
            let grown = cluster.process(0).memory_kib("VmHWM").saturating_sub(before) >> 10;
            assert!(grown < 64, "{what}: {grown} MiB more");
        };

        // Answers that nobody takes must not pile up; who does take them may go on.
        let pings = |_| frame(PING, 0, 0, &[7; 8]).repeat(BATCH);
        assert_eq!(flood(&address, false, FRAMES, pings).await, End::HeldUp, "pings without reading");
        bounded(&mut cluster, "pings without reading");
        assert_eq!(flood(&address, true, 100, pings).await, End::Taken, "pings");
        bounded(&mut cluster, "pings");
        let settings = |_| frame(SETTINGS, 0, 0, &[]).repeat(BATCH);
        assert_eq!(flood(&address, false, FRAMES, settings).await, End::HeldUp, "settings");
        bounded(&mut cluster, "settings");
        let opens = |n| frame(HEADERS, END_HEADERS, stream(n), &call());
        let opened = flood(&address, true, FRAMES, opens).await;
        assert!(matches!(opened, End::CutOff | End::Taken), "streams above the limit are refused: {opened:?}");

        cluster.client.put(0, "after", "1").await.expect("it serves others");
        bounded(&mut cluster, "streams");
    });
}
