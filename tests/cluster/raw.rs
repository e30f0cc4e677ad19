//! HTTP/2 as it is on the wire: what a server says to a client that says nothing, and a client to such a server.

use crate::abuse::PREFACE;
use crate::abuse::frame;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) streams_max: Option<u32>,
    pub(crate) pings: usize,
    /// The other side ended the connection.
    pub(crate) ended: bool,
}

/// Opens a connection, says no more than it must, and listens until the server ends it or `limit` is over.
pub(crate) async fn listen(address: &str, limit: Duration) -> Seen {
    let mut seen = Seen::default();
    let mut stream = TcpStream::connect(address).await.expect("served");
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sent");
    // Not ended by then is an answer as well.
    let _late = tokio::time::timeout(limit, hear(&mut stream, |heard| seen.note(heard))).await;
    seen
}

/// A frame that was heard, as far as somebody here cares.
enum Frame {
    Settings { streams_max: Option<u32> },
    Ping,
    End,
}

impl Seen {
    fn note(&mut self, heard: Frame) {
        match heard {
            Frame::Settings { streams_max } => self.streams_max = streams_max,
            Frame::Ping => self.pings += 1,
            Frame::End => self.ended = true,
        }
    }
}

/// Listens until the other side ends the connection. Settings are answered, pings are not.
async fn hear(stream: &mut TcpStream, mut note: impl FnMut(Frame)) {
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
                let streams_max = settings.find(|(id, _)| *id == MAX_CONCURRENT_STREAMS).map(|(_, value)| value);
                note(Frame::Settings { streams_max });
                if stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.is_err() {
                    break;
                }
            }
            (PING, 0) => note(Frame::Ping),
            _ => {}
        }
    }
    note(Frame::End);
}

/// A server that opens the conversation and never answers a call or a ping; what its first caller did so far.
pub(crate) async fn mute() -> (SocketAddr, watch::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tell, told) = watch::channel(Seen::default());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.expect("it speaks HTTP/2");
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("sent");
        hear(&mut stream, |heard| tell.send_modify(|seen| seen.note(heard))).await;
    });
    (address, told)
}
