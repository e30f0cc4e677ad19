//! HTTP/2 as it is on the wire: what a server says to a client that says nothing.

use crate::abuse::PREFACE;
use crate::abuse::frame;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) streams_max: Option<u32>,
    pub(crate) pings: usize,
    /// The server ended the connection.
    pub(crate) ended: bool,
}

/// Opens a connection, says no more than it must, and listens until the server ends it or `limit` is over.
pub(crate) async fn listen(address: &str, limit: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut stream = TcpStream::connect(address).await.expect("served");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sent");
    let heard = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            match (head[3], head[4] & ACK) {
                (SETTINGS, 0) => {
                    let mut settings = payload.chunks_exact(6).map(|entry| {
                        let id = u16::from_be_bytes([entry[0], entry[1]]);
                        (id, u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
                    });
                    let streams = settings.find(|(id, _)| *id == MAX_CONCURRENT_STREAMS);
                    seen.streams_max = streams.map(|(_, value)| value);
                    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.expect("sent");
                }
                (PING, 0) => seen.pings += 1,
                _ => {}
            }
        }
        seen.ended = true;
    };
    // Not ended by then is an answer as well.
    let _late = tokio::time::timeout(limit, heard).await;
    seen
}
