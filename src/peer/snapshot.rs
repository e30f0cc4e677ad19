//! A member's whole state on its way to another one: a raft message, then a database, in one body.
//!
//! ```text
//! POST /raft/snapshot    8 bytes big-endian: length of the message · message · database      ◀─ 204 once raft has taken it
//! GET  /raft/state       the same as the answer's body: for a member that has lost its store
//! ```
//!
//! The first is etcd's, byte for byte. The second is ours: a member whose log is whole lacks its state only, which no raft message can ask for. Both
//! sides of both bound what they wait for: a piece must move within [`STALL_TIMEOUT`], all pieces must come at a least rate ([`Tempo`]), and the verdict
//! on all of it must come within a time that grows with its size.
//!
//! Source: etcd `rafthttp/snapshot_sender.go`, `rafthttp/http.go` (`snapshotHandler`), `rafthttp/msg_codec.go`, `snap/message.go`.

#![expect(clippy::disallowed_methods, reason = "a snapshot's way is timed")]

use super::Peers;
use super::dial::Dialer;
use super::dial::Error;
use super::dial::PeerUrl;
use super::dial::read_all;
use super::dial::refusal;
use super::headers;
use super::link::Link;
use crate::disk::DiskFile;
use crate::error::Error as Answer;
use crate::meter;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::types::MemberId;
use bytes::Bytes;
use bytes::BytesMut;
use futures::future::BoxFuture;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::SizeHint;
use prost::Message as _;
use std::io;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;

/// A transfer in which nothing moves for this long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A sender may keep the receiver waiting so long in all, and a second more for each so many bytes that came: a thirtieth of 4 Mbit/s.
const TEMPO: Tempo = Tempo { grace: Duration::from_secs(60), bytes_per_second: 16 << 10 };
/// How long the receiver may take to check and keep what it got: this, and a second for each so many bytes.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);
const VERDICT_BYTES_PER_SECOND: u64 = 4 << 20;
/// The largest message in front of a database. etcd's holds the members, and takes a gigabyte.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// How much is read, sent and written at a time.
const PIECE_BYTES: usize = 256 << 10;
const WRITE_BYTES: usize = 1 << 20;
/// Pieces that wait for the network.
const PIECES_WAITING: usize = 2;
/// Where a member's state can be had.
pub(super) const STATE_PATH: &str = "/raft/state";

/// A state to send.
pub struct Image {
    /// Says what it is the state of: a snapshot's message, whose metadata the database agrees with.
    pub message: Message,
    pub file: Box<dyn DiskFile>,
    pub bytes: u64,
    /// Whatever must live as long as the transfer.
    pub hold: Box<dyn Send + Sync>,
}

/// Where a state goes that arrives. Dropped before its end, it leaves nothing behind.
pub trait Intake: Send {
    /// Takes the next piece. May block on the disk.
    ///
    /// # Errors
    /// [`Answer::Storage`], a full disk among them; the transfer is over.
    fn write(&mut self, piece: &[u8]) -> Result<(), Answer>;

    /// All has come: checks it, keeps it, and gives it to whom it is for.
    ///
    /// # Errors
    /// Why it is of no use.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Answer>>;
}

/// The message as it stands in front of a database.
pub(super) fn frame(message: &Message) -> Bytes {
    let mut framed = BytesMut::with_capacity(8 + message.encoded_len());
    framed.extend_from_slice(&(message.encoded_len() as u64).to_be_bytes());
    message.encode(&mut framed).expect("the buffer grows");
    framed.freeze()
}

/// A body of known length that somebody else feeds. If the feeder gives up, the body breaks: a receiver must not take a part for the whole.
pub(super) struct DbBody {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl DbBody {
    /// The body, and the work of feeding it.
    pub(super) fn new(image: Image) -> (DbBody, impl Future<Output = ()> + Send) {
        let head = frame(&image.message);
        let (pieces_in, pieces) = mpsc::channel(PIECES_WAITING);
        let left = head.len() as u64 + image.bytes;
        (DbBody { pieces, left }, feed(head, image, pieces_in))
    }
}

impl Body for DbBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        let broken =
            || io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot could not be read or sent to its end");
        Poll::Ready(Some(piece.ok_or_else(broken).map(|piece| {
            self.left = self.left.saturating_sub(piece.len() as u64);
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads the image piece by piece, no faster than the network takes it.
async fn feed(head: Bytes, image: Image, to: mpsc::Sender<Bytes>) {
    let Image { mut file, bytes, hold, .. } = image;
    if to.send(head).await.is_err() {
        return;
    }
    let mut at = 0;
    while at < bytes {
        let want = usize::try_from(bytes - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; want];
            let read = file.read_at(at, &mut piece);
            (
                file,
                read.map(|read| {
                    piece.truncate(read);
                    piece
                }),
            )
        });
        let Ok((back, Ok(piece))) = read.await else { return };
        if piece.is_empty() {
            return;
        }
        (file, at) = (back, at + piece.len() as u64);
        if !matches!(tokio::time::timeout(STALL_TIMEOUT, to.send(piece.into())).await, Ok(Ok(()))) {
            return;
        }
    }
    drop(hold);
}

/// Posts a snapshot; returns once the other side has checked, kept and taken it.
pub(super) async fn send(link: &Link, image: Image) -> Result<(), Error> {
    let (url, to, began) = (link.picker.pick(), link.id.to_string(), Instant::now());
    meter::SNAPSHOTS_SENDING.with(&[&to]).add(1);
    let sent = post(link, &url, image).await;
    meter::SNAPSHOTS_SENDING.with(&[&to]).sub(1);
    match &sent {
        Ok(_) => {
            meter::SNAPSHOTS_SENT.with(&[&to]).inc();
            meter::SNAPSHOT_SEND.with(&[&to]).time(began.elapsed());
        }
        Err(_) => meter::SNAPSHOTS_NOT_SENT.with(&[&to]).inc(),
    }
    match &sent {
        Ok(bytes) => {
            link.count_sent(usize::try_from(*bytes).unwrap_or(usize::MAX));
            link.activate();
        }
        Err(e) => {
            link.picker.failed(&url);
            link.deactivate("sendMsgSnap", "post", &e.to_string());
        }
    }
    sent.map(drop)
}

async fn post(link: &Link, url: &PeerUrl, image: Image) -> Result<u64, Error> {
    if link.shared.rules.cuts(link.id) {
        return Err(Error::Cut);
    }
    let bytes = image.bytes;
    let (body, feeding) = DbBody::new(image);
    let mut request = Request::post("/raft/snapshot").body(body).map_err(|e| Error::Malformed(e.to_string()))?;
    let named = request.headers_mut();
    named.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    named.insert(http::header::HOST, headers::value(&url.authority()));
    headers::introduce(named, &link.shared.config, None);
    let mut line = link.dialer.dial_for::<DbBody>(url).await?;
    let late = |_| Error::Timeout(url.to_string());
    let (mut answered, mut feeding) = (pin!(line.send_request(request)), pin!(feeding));
    let response = tokio::select! {
        response = &mut answered => response,
        () = &mut feeding => tokio::time::timeout(patience(bytes), answered).await.map_err(late)?,
    };
    let response = read_all(url, response.map_err(|e| Error::Io(e.to_string()))?).await?;
    match response.status() {
        StatusCode::NO_CONTENT => Ok(bytes),
        status => Err(refusal(status, response.body())),
    }
}

fn patience(bytes: u64) -> Duration {
    VERDICT_TIMEOUT + Duration::from_secs(bytes / VERDICT_BYTES_PER_SECOND)
}

/// Why a body did not become a state.
enum Broken {
    /// The message in front is none, or of another kind.
    Message(String),
    /// The body ended, stalled or broke.
    Body(String),
    /// Its destination refused it.
    Refused(Answer),
}

/// How slowly a body may come. A member takes one snapshot at a time: whoever sends a byte now and then would keep all others out.
#[derive(Clone, Copy)]
struct Tempo {
    grace: Duration,
    bytes_per_second: u64,
}

impl Tempo {
    /// How much longer may be waited when `came` bytes have come and `waited` was waited for them. What the receiver itself takes does not count.
    fn patience(self, came: u64, waited: Duration) -> Duration {
        let earned = Duration::from_millis(came.saturating_mul(1000) / self.bytes_per_second);
        self.grace.saturating_add(earned).saturating_sub(waited)
    }
}

/// The pieces of a body, with a bound on the wait for each and for all.
struct Pieces<B> {
    body: B,
    rest: Bytes,
    tempo: Tempo,
    came: u64,
    waited: Duration,
}

impl<B: Body<Data = Bytes> + Unpin> Pieces<B>
where
    B::Error: std::fmt::Display,
{
    fn of(body: B) -> Pieces<B> {
        Pieces { body, rest: Bytes::new(), tempo: TEMPO, came: 0, waited: Duration::ZERO }
    }

    /// The next piece; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let (began, patience) = (Instant::now(), self.tempo.patience(self.came, self.waited));
            let frame = tokio::time::timeout(patience.min(STALL_TIMEOUT), self.body.frame()).await;
            self.waited += began.elapsed();
            match frame.map_err(|_| Broken::Body("i/o timeout".into()))? {
                None => return Ok(None),
                Some(Err(e)) => return Err(Broken::Body(e.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        self.came += data.len() as u64;
                        return Ok(Some(data));
                    }
                    _ => {}
                },
            }
        }
    }

    /// Exactly so many bytes.
    async fn exactly(&mut self, count: usize) -> Result<Bytes, Broken> {
        let mut taken = BytesMut::new();
        while taken.len() < count {
            // Go tells nothing at all from too little.
            let end = if taken.is_empty() { "EOF" } else { "unexpected EOF" };
            let piece = self.next().await?.ok_or_else(|| Broken::Message(end.into()))?;
            let wanted = (count - taken.len()).min(piece.len());
            taken.extend_from_slice(&piece[..wanted]);
            self.rest = piece.slice(wanted..);
        }
        Ok(taken.freeze())
    }

    async fn message(&mut self) -> Result<Message, Broken> {
        let length = self.exactly(8).await?;
        let length = u64::from_be_bytes(length.as_ref().try_into().expect("eight bytes"));
        if length > MESSAGE_BYTES_MAX {
            return Err(Broken::Message("rafthttp: error limit exceeded".into()));
        }
        let bytes = self.exactly(usize::try_from(length).unwrap_or(usize::MAX)).await?;
        Message::decode(bytes).map_err(|e| Broken::Message(e.to_string()))
    }

    /// Writes all that is left, in runs, off the threads that serve others.
    async fn pour(mut self, mut into: Box<dyn Intake>) -> Result<Box<dyn Intake>, Broken> {
        let mut run = BytesMut::new();
        loop {
            let piece = self.next().await?;
            run.extend_from_slice(piece.as_deref().unwrap_or_default());
            if run.len() >= WRITE_BYTES || piece.is_none() {
                let whole = run.split().freeze();
                let written = tokio::task::spawn_blocking(move || into.write(&whole).map(|()| into));
                into = written.await.map_err(|e| Broken::Body(e.to_string()))?.map_err(Broken::Refused)?;
            }
            if piece.is_none() {
                return Ok(into);
            }
        }
    }
}

/// Takes a posted snapshot: checks who sends it, streams it to where the member keeps it, and has the member take it.
pub(super) async fn take<B>(peers: &Peers, head: &HeaderMap, body: B) -> Result<(), (StatusCode, String)>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (handler, me) = (&peers.0.handler, peers.0.config.id);
    let mut pieces = Pieces::of(body);
    let message = match pieces.message().await {
        Ok(message) => message,
        Err(Broken::Message(why) | Broken::Body(why)) => {
            tracing::warn!("local-member-id" = %me, error = why, "failed to decode Raft message");
            return Err((StatusCode::BAD_REQUEST, format!("failed to decode raft message ({why})")));
        }
        Err(Broken::Refused(why)) => return Err((StatusCode::INTERNAL_SERVER_ERROR, why.to_string())),
    };
    let from = MemberId(message.from);
    if message.msg_type() != MessageType::MsgSnapshot {
        return Err((StatusCode::BAD_REQUEST, "wrong raft message type".into()));
    }
    if handler.is_removed(from) {
        return Err((StatusCode::FORBIDDEN, "cannot process message from removed member".into()));
    }
    if message.to != me.0 {
        return Err((StatusCode::PRECONDITION_FAILED, "to field mismatch".into()));
    }
    if !peers.0.rules.lets_in(from) {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "error processing raft message".into()));
    }
    let index = index_of(&message);
    tracing::info!(
        "local-member-id" = %me, "remote-snapshot-sender-id" = %from, "incoming-snapshot-index" = index,
        bytes = head.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()).unwrap_or("unknown"),
        "receiving database snapshot"
    );
    let failed = |doing: &str, why: String| {
        tracing::warn!(
            "local-member-id" = %me, "remote-snapshot-sender-id" = %from, "incoming-snapshot-index" = index,
            error = why, "failed to {doing} incoming database snapshot"
        );
        (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to {doing} KV snapshot ({why})"))
    };
    let receiving = Receiving::begin(from);
    let intake = handler.receive_snapshot(message).map_err(|why| match why {
        Answer::TooManyRequests => (StatusCode::SERVICE_UNAVAILABLE, why.to_string()),
        why => failed("save", why.to_string()),
    })?;
    let intake = pieces.pour(intake).await.map_err(|why| failed("save", why.text()))?;
    intake.finish().await.map_err(|why| failed("take", why.to_string()))?;
    receiving.succeeded();
    tracing::info!(
        "local-member-id" = %me, "remote-snapshot-sender-id" = %from, "incoming-snapshot-index" = index,
        "received and saved database snapshot"
    );
    Ok(())
}

/// A snapshot on its way here, counted however that ends.
struct Receiving {
    from: String,
    began: Instant,
    succeeded: bool,
}

impl Receiving {
    fn begin(from: MemberId) -> Receiving {
        let from = from.to_string();
        meter::SNAPSHOTS_RECEIVING.with(&[&from]).add(1);
        Receiving { from, began: Instant::now(), succeeded: false }
    }

    fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        meter::SNAPSHOTS_RECEIVING.with(&[&self.from]).sub(1);
        if self.succeeded {
            meter::SNAPSHOTS_RECEIVED.with(&[&self.from]).inc();
            meter::SNAPSHOT_RECEIVE.with(&[&self.from]).time(self.began.elapsed());
        } else {
            meter::SNAPSHOTS_NOT_RECEIVED.with(&[&self.from]).inc();
        }
    }
}

impl Broken {
    fn text(self) -> String {
        match self {
            Broken::Message(why) | Broken::Body(why) => why,
            Broken::Refused(why) => why.to_string(),
        }
    }
}

/// Up to which entry the snapshot of a message goes.
fn index_of(message: &Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or(0, |metadata| metadata.index)
}

/// Asks one member for its state. `open` says where it goes, by the message in front of it.
///
/// # Errors
/// Those of the connection; [`Error::Status`] if the other one refuses; [`Error::Malformed`] if what comes is of no use.
pub async fn fetch_state(
    me: &super::Config,
    url: &str,
    open: impl FnOnce(Message) -> Result<Box<dyn Intake>, Answer>,
) -> Result<(), Error> {
    let url = PeerUrl::parse(url)?;
    let dialer = Dialer { tls: me.tls.clone(), timeout: me.dial_timeout };
    let mut request =
        Request::get(STATE_PATH).body(Empty::<Bytes>::new()).map_err(|e| Error::Malformed(e.to_string()))?;
    headers::introduce(request.headers_mut(), me, None);
    request.headers_mut().insert(http::header::HOST, headers::value(&url.authority()));
    let mut line = dialer.dial_for::<Empty<Bytes>>(&url).await?;
    // The other one makes an image first.
    let response = tokio::time::timeout(patience(u64::from(u32::MAX)), line.send_request(request)).await;
    let response = response.map_err(|_| Error::Timeout(url.to_string()))?.map_err(|e| Error::Io(e.to_string()))?;
    if response.status() != StatusCode::OK {
        let response = read_all(&url, response).await?;
        return Err(refusal(response.status(), response.body()));
    }
    let told = headers::cluster_id(response.headers());
    if told != Some(me.cluster) {
        return Err(Error::ClusterIdMismatch);
    }
    let useless = |why: Broken| Error::Malformed(why.text());
    let mut pieces = Pieces::of(response.into_body());
    let message = pieces.message().await.map_err(useless)?;
    let intake = open(message).map_err(|why| Error::Malformed(why.to_string()))?;
    let intake = pieces.pour(intake).await.map_err(useless)?;
    intake.finish().await.map_err(|why| Error::Malformed(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::raftpb::ConfState;
    use crate::proto::raftpb::Snapshot;
    use crate::proto::raftpb::SnapshotMetadata;
    use http_body_util::Full;

    /// A snapshot's message as gogo writes it: every scalar field, zeros too. Index 11, term 3, voters 1 and 2, from 1 to 2.
    const FROM_ETCD: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 44, // length
        0x08, 7, 0x10, 2, 0x18, 1, 0x20, 3, 0x28, 0, 0x30, 0, 0x40,
        0, // type, to, from, term, log term, index, commit
        0x4a, 20, // snapshot
        0x0a, 4, b'{', b'"', b'"', b'}', // data
        0x12, 12, 0x0a, 6, 0x08, 1, 0x08, 2, 0x28, 0, 0x10, 11, 0x18,
        3, // metadata: voters, auto leave, index, term
        0x50, 0, 0x58, 0, 0x62, 0, 0x68, 0, // reject, reject hint, context, vote
    ];

    fn message() -> Message {
        let conf_state = Some(ConfState { voters: vec![1, 2], ..ConfState::default() });
        let metadata = Some(SnapshotMetadata { conf_state, index: 11, term: 3 });
        let snapshot = Some(Snapshot { data: Bytes::from_static(b"{\"\"}"), metadata });
        let mut message = Message { to: 2, from: 1, term: 3, snapshot, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message
    }

    fn pieces(bytes: &'static [u8]) -> Pieces<Full<Bytes>> {
        Pieces::of(Full::new(Bytes::from_static(bytes)))
    }

    #[tokio::test]
    async fn the_message_in_front_is_read_as_etcd_writes_it() {
        let read = pieces(FROM_ETCD).message().await;
        assert_eq!(read.map_err(Broken::text), Ok(message()));
    }

    #[tokio::test]
    async fn what_we_write_reads_the_same() {
        let framed = frame(&message());
        assert_eq!(framed[..8], (framed.len() as u64 - 8).to_be_bytes());
        assert_eq!(Message::decode(&framed[8..]), Ok(message()));
    }

    #[tokio::test]
    async fn a_length_that_no_message_has_is_refused_before_anything_is_kept() {
        let long = pieces(&[0x7f, 0, 0, 0, 0, 0, 0, 0, 1]).message().await.map_err(Broken::text);
        assert_eq!(long, Err("rafthttp: error limit exceeded".into()));
        let cut = pieces(&FROM_ETCD[..20]).message().await.map_err(Broken::text);
        assert_eq!(cut, Err("unexpected EOF".into()));
    }

    /// A byte at a time, with a pause before each.
    struct Trickle(tokio::time::Interval);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn a_trickle_is_ended_and_what_comes_at_a_fair_pace_is_not() {
        let trickle = || Trickle(tokio::time::interval(Duration::from_millis(5)));
        let slow = Tempo { grace: Duration::from_millis(200), bytes_per_second: 2000 };
        let mut pieces = Pieces { tempo: slow, ..Pieces::of(trickle()) };
        // Each byte comes within a fraction of what one may take, so a bound on each alone would let this go on for ever.
        let (began, mut came) = (Instant::now(), 0);
        let why = loop {
            assert!(began.elapsed() < Duration::from_secs(60), "{came} bytes, and no end");
            match pieces.next().await {
                Ok(piece) => came += piece.map_or(0, |piece| piece.len()),
                Err(why) => break why.text(),
            }
        };
        assert_eq!(why, "i/o timeout");

        // A network of a classroom: more comes each second than has to, for ten minutes.
        let (mut came, mut waited) = (0, Duration::ZERO);
        for _ in 0..600 {
            assert!(!TEMPO.patience(came, waited).is_zero());
            (came, waited) = (came + (20 << 10), waited + Duration::from_secs(1));
        }
        assert!(TEMPO.patience(came, waited) > TEMPO.grace);
        // A byte every five seconds.
        assert!(TEMPO.patience(12, Duration::from_secs(60)) < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn an_image_that_ends_early_breaks_the_body() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk: &dyn crate::disk::Disk = &crate::disk::RealDisk;
        let file = || {
            let mut file = disk.create(&dir.path().join("image")).expect("created");
            file.write_at(0, b"database").expect("written");
            file
        };
        for (bytes, whole) in [(8, true), (9, false)] {
            let image = Image { message: message(), file: file(), bytes, hold: Box::new(()) };
            let (body, feeding) = DbBody::new(image);
            assert_eq!(body.size_hint().exact(), Some(frame(&message()).len() as u64 + bytes));
            let (got, ()) = tokio::join!(body.collect(), feeding);
            assert_eq!(got.is_ok(), whole);
            if let Ok(got) = got {
                assert!(got.to_bytes().ends_with(b"database"));
            }
        }
    }
}
