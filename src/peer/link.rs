//! One remote member: its two queues, its readers, its poster, and whether it can be reached.

#![expect(clippy::disallowed_methods, reason = "links say since when they are up")]

use super::LinkChange;
use super::Refused;
use super::Shared;
use super::codec::StreamKind;
use super::dial::Dialer;
use super::dial::PeerUrl;
use super::dial::Picker;
use super::outbox::Outbox;
use super::outbox::Push;
use super::outbox::Queued;
use super::pipeline;
use super::prober;
use super::reader;
use super::rules::Verdict;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::types::MemberId;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Counters of one link since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Messages that were queued or posted.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Messages that came, dropped ones included.
    pub received: u64,
    /// Bytes that came on streams.
    pub received_bytes: u64,
    /// Outgoing messages that had no room, or that a post could not deliver.
    pub dropped_out: u64,
    /// Incoming messages that the member refused, or that were for another.
    pub dropped_in: u64,
    /// Times that a connection was lost.
    pub disconnects: u64,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    dropped_out: AtomicU64,
    dropped_in: AtomicU64,
    disconnects: AtomicU64,
}

/// What is known of the connections to the member.
#[derive(Default)]
struct Health {
    active: Option<Instant>,
    reading: [bool; 2],
    /// Dials that were refused since the stream was last open.
    refused: [usize; 2],
    /// Whether there was a stream since a loss was last told.
    was_open: bool,
    /// When the process was told to be lost, if nothing has been connected since.
    gone: Option<Instant>,
}

pub(super) struct Link {
    pub(super) id: MemberId,
    pub(super) shared: Arc<Shared>,
    pub(super) picker: Picker,
    pub(super) dialer: Dialer,
    /// Whether streams are read and served; else posts only.
    full: bool,
    outboxes: [Outbox; 2],
    posts: mpsc::Sender<Queued>,
    health: Mutex<Health>,
    counters: Counters,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Link {
    pub(super) fn start(shared: Arc<Shared>, id: MemberId, urls: Vec<PeerUrl>, full: bool) -> Arc<Link> {
        let dialer = Dialer { tls: shared.config.tls.clone(), timeout: shared.config.dial_timeout };
        let (posts, queue) = mpsc::channel(pipeline::QUEUE_MESSAGES_MAX);
        let runtime = shared.runtime.clone();
        let link = Arc::new(Link {
            id,
            shared,
            picker: Picker::new(urls),
            dialer,
            full,
            outboxes: [Outbox::default(), Outbox::default()],
            posts,
            health: Mutex::default(),
            counters: Counters::default(),
            tasks: Mutex::default(),
        });
        let mut tasks = vec![runtime.spawn(pipeline::run(link.clone(), queue)).abort_handle()];
        if full {
            tasks.push(runtime.spawn(prober::run(link.clone())).abort_handle());
            tasks.extend(StreamKind::ALL.map(|kind| runtime.spawn(reader::run(link.clone(), kind)).abort_handle()));
        }
        *link.tasks.lock() = tasks;
        tracing::info!("local-member-id" = %link.local(), "remote-peer-id" = %id, full, "added remote peer");
        link
    }

    pub(super) fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        for outbox in &self.outboxes {
            outbox.detach(None);
        }
        tracing::info!("local-member-id" = %self.local(), "removed-remote-peer-id" = %self.id, "removed remote peer");
    }

    pub(super) fn local(&self) -> MemberId {
        self.shared.config.id
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn set_urls(&self, urls: Vec<PeerUrl>) {
        self.picker.update(urls);
    }

    pub(super) fn outbox(&self, kind: StreamKind) -> &Outbox {
        &self.outboxes[kind as usize]
    }

    /// Queues a message for the stream that is for it, for the other if that is not open, or for a post if neither is.
    pub(super) fn send(&self, mut message: Message) {
        // etcd reads something else in these; raft-rs sets them only for features that we do not use.
        (message.request_snapshot, message.deprecated_priority, message.priority) = (0, 0, 0);
        let due = match self.shared.rules.outgoing(self.id) {
            Verdict::Pass => None,
            Verdict::Drop => return,
            Verdict::Delay(by) => Some(tokio::time::Instant::now() + by),
        };
        let mut queued = Queued { message, due };
        for kind in streams_for(&queued.message) {
            match self.outbox(*kind).push(queued) {
                Push::Queued => return self.count_message(),
                Push::Full => return self.dropped(kind.label()),
                Push::NotAttached(back) => queued = back,
            }
        }
        match self.posts.try_send(queued) {
            Ok(()) => self.count_message(),
            Err(_) => self.dropped("pipeline"),
        }
    }

    /// Hands a message that came on a stream to the member.
    pub(super) fn deliver(&self, message: Message) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        if !self.shared.rules.lets_in(self.id) {
            return;
        }
        let refused = if message.to == self.local().0 {
            self.shared.handler.receive(message).err().map(|why: Refused| why.to_string())
        } else {
            Some(format!("it is for member {}", MemberId(message.to)))
        };
        if let Some(why) = refused {
            let dropped = self.counters.dropped_in.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!("remote-peer-id" = %self.id, dropped, why, "dropped Raft message that came in");
            }
        }
    }

    /// A message was lost on our side: raft is told, and the first, second, fourth... one is logged.
    pub(super) fn dropped(&self, from: &'static str) {
        self.shared.handler.report_unreachable(self.id);
        let dropped = self.counters.dropped_out.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(
                "remote-peer-id" = %self.id, "remote-peer-name" = from, dropped,
                "dropped internal Raft message since sending buffer is full"
            );
        }
    }

    fn count_message(&self) {
        self.counters.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.counters.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> LinkStats {
        let c = &self.counters;
        LinkStats {
            sent: c.sent.load(Ordering::Relaxed),
            sent_bytes: c.sent_bytes.load(Ordering::Relaxed),
            received: c.received.load(Ordering::Relaxed),
            received_bytes: c.received_bytes.load(Ordering::Relaxed),
            dropped_out: c.dropped_out.load(Ordering::Relaxed),
            dropped_in: c.dropped_in.load(Ordering::Relaxed),
            disconnects: c.disconnects.load(Ordering::Relaxed),
        }
    }

    pub(super) fn active_since(&self) -> Option<Instant> {
        self.health.lock().active
    }

    /// Something just worked.
    pub(super) fn activate(&self) {
        let first = {
            let mut health = self.health.lock();
            health.active.is_none() && health.active.replace(Instant::now()).is_none()
        };
        if first {
            tracing::info!("peer-id" = %self.id, "peer became active");
            self.shared.handler.link(self.id, LinkChange::Up);
        }
    }

    /// Something just failed.
    pub(super) fn deactivate(&self, source: &'static str, action: &'static str, why: &str) {
        if self.health.lock().active.take().is_some() {
            self.counters.disconnects.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "peer-id" = %self.id, error = format!("failed to {action} {} on {source} ({why})", self.id),
                "peer became inactive (message send to peer failed)"
            );
            self.shared.handler.link(self.id, LinkChange::Down);
        }
    }

    /// A stream that we read is open.
    pub(super) fn reading(&self, kind: StreamKind) {
        {
            let mut health = self.health.lock();
            health.reading[kind as usize] = true;
            health.refused = [0; 2];
            health.was_open = true;
            health.gone = None;
        }
        self.activate();
    }

    /// It has opened a stream to read from us: whatever was gone is back.
    pub(super) fn is_read(&self) {
        self.health.lock().gone = None;
    }

    /// Whether this is a leader's message that was posted before its process ended, and read after that was noticed. Taken for a sign of life, it would call
    /// off the search for the next leader until an election time-out has passed. A leader that lives opens streams before it is heard, and
    /// repeats what was not answered. One that cannot be dialled from here, and lives all the same, can only post: after the time that a dial may take
    /// (an election time-out and a second) nothing is under way any more that a dead one has sent.
    pub(super) fn is_from_the_grave(&self, message: &Message) -> bool {
        matches!(message.msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat)
            && self.health.lock().gone.is_some_and(|since| since.elapsed() < self.dialer.timeout)
    }

    /// Counts a message that came in and goes no further.
    pub(super) fn dropped_in(&self) {
        self.counters.dropped_in.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream that we read has ended.
    pub(super) fn read_ended(&self, kind: StreamKind) {
        self.health.lock().reading[kind as usize] = false;
    }

    /// A dial found nobody listening. If no stream is left and each URL was tried, the process at the other end is gone: the reader
    /// redials at once after its stream has ended, so this comes within a millisecond of that.
    pub(super) fn dial_refused(&self, kind: StreamKind) {
        let lost = {
            let mut health = self.health.lock();
            health.refused[kind as usize] += 1;
            let gone = health.reading == [false; 2] && health.refused[kind as usize] >= self.picker.count();
            let lost = gone && std::mem::take(&mut health.was_open);
            if lost {
                health.gone = Some(Instant::now());
            }
            lost
        };
        if lost {
            tracing::info!("peer-id" = %self.id, "peer is gone: it closed its streams and refuses new ones");
            self.shared.handler.link(self.id, LinkChange::Lost);
        }
    }

    /// A stream that we serve has ended, and not because another took its place: what it carried last may be lost.
    pub(super) fn stream_ended(&self, kind: StreamKind) {
        tracing::warn!(
            "stream-writer-type" = kind.label(), "local-member-id" = %self.local(), "remote-peer-id" = %self.id,
            "lost TCP streaming connection with remote peer"
        );
        self.shared.handler.report_unreachable(self.id);
    }
}

/// The streams that may carry a message, the best first. Snapshots are posted: one would hold up all that is behind it.
fn streams_for(message: &Message) -> &'static [StreamKind] {
    match MessageType::try_from(message.msg_type) {
        Ok(MessageType::MsgSnapshot) => &[],
        Ok(MessageType::MsgAppend) => &[StreamKind::MsgApp, StreamKind::Message],
        _ => &[StreamKind::Message],
    }
}
