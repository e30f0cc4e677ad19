//! Links between members of any kind that a test can cut: what others say to a member's peer URL goes through here.
//!
//! ```text
//! member a ──▶ the URL that b advertises ──▶ [ what a says | what b says ] ──▶ where b listens
//! ```
//!
//! A cut is a network's: nothing is closed, bytes of that direction wait, and go on when it is mended. Whose connection it is says the header that every
//! request of etcd's members has; what comes without it (a newcomer's questions, probes) passes. [`Cuts::held`] tells whether a cut held anything back.

use crate::harness::Spec;
use crate::ports;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What a member's requests have, and its id in hexadecimal behind it.
const FROM: &[u8] = b"x-server-from: ";
/// A header that falls into two reads is found in the end of the first one, and the second.
const OVERLAP: usize = 64;

/// Which directions are cut.
#[derive(Default)]
struct Rules {
    /// The members' ids, in the cluster's order.
    ids: Vec<u64>,
    cut: BTreeSet<(usize, usize)>,
    /// Bytes that had to wait.
    held: Arc<AtomicUsize>,
}

impl Rules {
    fn is_cut(&self, from: Option<u64>, to: usize, is_answer: bool) -> bool {
        let Some(from) = from.and_then(|from| self.ids.iter().position(|id| *id == from)) else { return false };
        self.cut.contains(&if is_answer { (to, from) } else { (from, to) })
    }
}

/// All links of a cluster. Dropping it ends them.
pub(crate) struct Cuts {
    rules: watch::Sender<Rules>,
    tasks: tokio::task::JoinSet<()>,
}

impl Cuts {
    /// Stands before the peer ports of these members, which are not started yet.
    pub(crate) async fn before(specs: &mut [Spec]) -> Cuts {
        let mut cuts = Cuts { rules: watch::Sender::new(Rules::default()), tasks: tokio::task::JoinSet::new() };
        for (member, spec) in specs.iter_mut().enumerate() {
            let inside = spec.peer_url.trim_start_matches("http://").to_owned();
            let outside = TcpListener::bind(("127.0.0.1", ports::free())).await.expect("a free port");
            spec.more.extend(["--listen-peer-urls".to_owned(), spec.peer_url.clone()]);
            spec.peer_url = format!("http://{}", outside.local_addr().expect("bound"));
            cuts.tasks.spawn(serve(outside, inside, member, cuts.rules.subscribe()));
        }
        cuts
    }

    /// The members' ids, once they are known: nothing can be cut before.
    pub(crate) fn name(&self, ids: Vec<u64>) {
        self.rules.send_modify(|rules| rules.ids = ids);
    }

    /// What `from` says does not reach `to`, for these pairs and no others.
    pub(crate) fn set(&self, cut: impl IntoIterator<Item = (usize, usize)>) {
        let cut = cut.into_iter().collect();
        self.rules.send_modify(|rules| rules.cut = cut);
    }

    /// How many bytes have had to wait so far. A cut that adds none has cut nothing.
    pub(crate) fn held(&self) -> usize {
        self.rules.borrow().held.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, inside: String, member: usize, rules: watch::Receiver<Rules>) {
    let mut links = tokio::task::JoinSet::new();
    while let Ok((outer, _)) = listener.accept().await {
        links.spawn(link(outer, inside.clone(), member, rules.clone()));
        while links.try_join_next().is_some() {}
    }
}

/// One connection to `member`, until either side ends it.
async fn link(outer: TcpStream, inside: String, member: usize, rules: watch::Receiver<Rules>) {
    // A member that is down refuses; here its connection is closed at once, which its peers take for the same.
    let Ok(inner) = TcpStream::connect(inside).await else { return };
    let ((from_outer, to_outer), (from_inner, to_inner)) = (outer.into_split(), inner.into_split());
    let (tell, told) = watch::channel(None);
    let asks = pump(from_outer, to_inner, Side { rules: rules.clone(), member, found: told.clone(), tell: Some(tell) });
    let answers = pump(from_inner, to_outer, Side { rules, member, found: told, tell: None });
    tokio::select! {
        () = asks => {}
        () = answers => {}
    }
}

/// One direction of a connection to `member`.
struct Side {
    rules: watch::Receiver<Rules>,
    member: usize,
    /// Who is at the other end, once it is known.
    found: watch::Receiver<Option<u64>>,
    /// Of the direction in which requests go.
    tell: Option<watch::Sender<Option<u64>>>,
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut side: Side) {
    let (mut buffer, mut seen) = (vec![0; 64 << 10], Vec::new());
    loop {
        let Ok(size @ 1..) = from.read(&mut buffer).await else { return };
        if let Some(tell) = &side.tell
            && tell.borrow().is_none()
        {
            seen.extend_from_slice(&buffer[..size]);
            tell.send_if_modified(|found| {
                *found = sender(&seen);
                found.is_some()
            });
            seen.drain(..seen.len().saturating_sub(OVERLAP));
        }
        let (found, member, is_answer) = (*side.found.borrow(), side.member, side.tell.is_none());
        {
            let rules = side.rules.borrow();
            if rules.is_cut(found, member, is_answer) {
                rules.held.fetch_add(size, Ordering::Relaxed);
            }
        }
        let open = side.rules.wait_for(|rules| !rules.is_cut(found, member, is_answer)).await.is_ok();
        if !open || to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
}

/// Who says that it is the sender of these requests.
fn sender(requests: &[u8]) -> Option<u64> {
    let at = requests.windows(FROM.len()).position(|window| window.eq_ignore_ascii_case(FROM))?;
    let rest = &requests[at + FROM.len()..];
    let end = rest.iter().position(|byte| *byte == b'\r')?;
    u64::from_str_radix(str::from_utf8(&rest[..end]).ok()?, 16).ok()
}

#[test]
fn a_members_request_says_whose_it_is() {
    let request =
        b"GET /raft/stream/msgapp/1 HTTP/1.1\r\nHost: a\r\nX-Server-From: 8e9e05c52164694d\r\nX-Other: b\r\n\r\n";
    assert_eq!(sender(request), Some(0x8e9e_05c5_2164_694d));
    assert_eq!(sender(&request[..70]), None, "not all of it is here");
    assert_eq!(sender(b"GET /version HTTP/1.1\r\n\r\n"), None);
}
