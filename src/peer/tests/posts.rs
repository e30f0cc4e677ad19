//! What is posted when an answer does not come.

use super::*;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// The other side of posts: reads each of them whole, and closes the connection of some without an answer.
struct Mute {
    posts: AtomicUsize,
    /// The places of those that get no answer.
    unanswered: &'static [usize],
    heard: mpsc::UnboundedSender<Message>,
}

impl Mute {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((wire, _)) = listener.accept().await {
            tokio::spawn(self.clone().answer(wire));
        }
    }

    /// One connection; what is no post ends it.
    async fn answer(self: Arc<Self>, mut wire: TcpStream) {
        let mut read = Vec::new();
        while let Some((head, body)) = one_request(&mut wire, &mut read).await {
            if !head.starts_with("POST /raft ") {
                return;
            }
            let place = self.posts.fetch_add(1, Ordering::SeqCst);
            let _test_is_over = self.heard.send(Message::decode(body.as_slice()).expect("a message"));
            if self.unanswered.contains(&place) || wire.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}

/// The head and the body of the next request; none when the connection has ended.
async fn one_request(wire: &mut TcpStream, read: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + length.map_or(0, |length| length.parse::<usize>().expect("a number"));
            if read.len() >= whole {
                let body = read[end..whole].to_vec();
                read.drain(..whole);
                return Some((head, body));
            }
        }
        if wire.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_may_have_arrived_is_not_posted_again() {
    let mut a = Side::start(0xa, &Security::none()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (b, url) = (MemberId(0xb), format!("http://{}", listener.local_addr().expect("bound")));
    let (heard, mut messages) = mpsc::unbounded_channel();
    let mute = Arc::new(Mute { posts: AtomicUsize::new(0), unanswered: &[1, 3], heard });
    let serving = tokio::spawn(mute.serve(listener));
    a.peers.add(b, &[url]).expect("a good URL");

    let beat = |n| Message { commit: n, ..message(MessageType::MsgHeartbeat, a.id, b) };
    let entries = vec![Entry { data: Bytes::from_static(b"put k a"), ..Entry::default() }];
    let proposal = Message { entries, ..message(MessageType::MsgPropose, a.id, b) };
    a.peers.send(vec![beat(1), proposal.clone(), beat(2), beat(3), beat(4)]);
    for wanted in [beat(1), proposal, beat(2), beat(3), beat(3), beat(4)] {
        assert_eq!(within(messages.recv()).await, Some(wanted), "a heartbeat comes again, a proposal does not");
    }
    a.until(Event::Unreachable(b)).await;
    serving.abort();
}
