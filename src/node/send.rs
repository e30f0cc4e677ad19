//! Snapshots to those who are too far behind for the log.
//!
//! raft says to whom; what it says of the state is only the least that must be in it. The image is made of the state as it is then, and the
//! message is made to fit: index, term and voters are the image's (etcd `etcdserver/server.go`, `createMergedSnapshotMessage`). While one is
//! on its way, and for a while after, the log in memory keeps what comes after it, as far as that has a bound: the follower will ask for it.

#![expect(clippy::disallowed_methods, reason = "waits before it lets raft try again")]

use super::Inner;
use super::Input;
use super::Node;
use super::image::Image;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::peer;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::raftpb::Snapshot;
use crate::proto::raftpb::SnapshotMetadata;
use crate::types::MemberId;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How many snapshots may be on their way at once.
const SENDS_MAX: usize = 2;
/// How long the log is kept for a follower that has got one and does not catch up; etcd's `releaseDelayAfterSnapshot`.
const KEEP_AFTER: Duration = Duration::from_secs(30);
/// How often it is looked whether it has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long raft waits after a failure: an image is made anew for each attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the log in memory may hold for followers that lag, and for those that a snapshot is on its way to.
pub(super) const LOG_BYTES: usize = 64 << 20;
pub(super) const LOG_BYTES_HELD: usize = 512 << 20;

/// Counts something that lasts.
struct Count<'a>(&'a AtomicUsize);

impl Count<'_> {
    fn up(counter: &AtomicUsize) -> (Count<'_>, usize) {
        let number = counter.fetch_add(1, Ordering::AcqRel) + 1;
        (Count(counter), number)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes the snapshots out of what raft sends, and sees to each of them.
pub(super) fn divert(inner: &Arc<Inner>, messages: &mut Vec<Message>) {
    if !messages.iter().any(|message| message.msg_type() == MessageType::MsgSnapshot) {
        return;
    }
    let (snapshots, others) =
        std::mem::take(messages).into_iter().partition(|message| message.msg_type() == MessageType::MsgSnapshot);
    *messages = others;
    let snapshots: Vec<Message> = snapshots;
    for message in snapshots {
        let node = Node { inner: inner.clone() };
        inner.runtime.spawn(async move { node.send_snapshot(message).await });
    }
}

impl Node {
    async fn send_snapshot(&self, message: Message) {
        let (inner, to) = (&self.inner, MemberId(message.to));
        let (_held, _) = Count::up(&inner.snapshots.keeping_log);
        let sent = {
            let (_sending, number) = Count::up(&inner.snapshots.sending);
            if number > SENDS_MAX { Err(Error::TooManyRequests.to_string()) } else { self.try_send(message).await }
        };
        match sent {
            Ok((index, bytes)) => {
                tracing::info!("snapshot-index" = index, "remote-peer-id" = %to, bytes, "sent database snapshot");
                inner.tell(|| format!("sent a snapshot to {to}: all up to entry {index}, {bytes} bytes"));
                inner.inbox.force(Input::SnapshotSent(to, true));
                self.keep_log(to).await;
            }
            Err(why) => {
                tracing::warn!("remote-peer-id" = %to, error = why, "failed to send database snapshot");
                self.pause(RETRY_AFTER).await;
                inner.inbox.force(Input::SnapshotSent(to, false));
            }
        }
    }

    /// Returns once the follower needs no more of the log than is kept anyway, or has had time enough.
    async fn keep_log(&self, to: MemberId) {
        tokio::select! {
            () = self.caught_up(to) => {}
            () = self.pause(KEEP_AFTER) => {}
        }
    }

    /// Returns once what a member lacks is no more than the log keeps for everybody, or once this member leads no more: then its log does not matter.
    async fn caught_up(&self, to: MemberId) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            let (answer, progress) = oneshot::channel();
            self.inner.inbox.force(Input::Progress(answer));
            let Ok(progress) = progress.await else { return };
            let Some((_, matched)) = progress.into_iter().find(|(member, _)| *member == to) else { return };
            if matched.0 + self.inner.config.snapshot_catchup_entries >= self.status().committed.0 {
                tracing::info!("remote-peer-id" = %to, "the member has caught up: the log is not kept for it any more");
                return;
            }
        }
    }

    /// Waits, unless the member stops.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.stopped() => {}
        }
    }

    async fn try_send(&self, message: Message) -> Result<(u64, u64), String> {
        failpoint::hit(Point::SnapBeforeSend);
        let (to, term) = (MemberId(message.to), message.term);
        let image = self.state_image(message).await.map_err(|e| e.to_string())?;
        let metadata =
            image.message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
        let state = metadata.conf_state.unwrap_or_default();
        if !state.voters.contains(&to.0) && !state.learners.contains(&to.0) {
            return Err("it is no member any more".into());
        }
        if self.status().term.0 != term {
            return Err("this member leads no more".into());
        }
        let (index, bytes) = (metadata.index, image.bytes);
        tracing::info!("snapshot-index" = index, "remote-peer-id" = %to, bytes, "sending database snapshot");
        let peers = self.peers().ok_or("there are no peers yet")?;
        peers.send_snapshot(image).await.map_err(|e| e.to_string())?;
        failpoint::hit(Point::SnapAfterSend);
        Ok((index, bytes))
    }

    /// The state as it is now, behind a message that says what it is.
    ///
    /// # Errors
    /// Those of [`Node::image`].
    pub(super) async fn state_image(&self, mut message: Message) -> Result<peer::Image, Error> {
        let node = self.clone();
        let made = tokio::task::spawn_blocking(move || node.image()).await;
        let image = made.map_err(|e| Error::Damaged(e.to_string()))??;
        let Image { file, bytes, applied, conf_state, members, turn, .. } = image;
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: applied.0.0, term: applied.1.0 };
        message.snapshot = Some(Snapshot { data: members.into(), metadata: Some(metadata) });
        Ok(peer::Image { message, file, bytes, hold: Box::new(turn) })
    }

    /// For a member of this cluster that has lost its state, and asks.
    ///
    /// # Errors
    /// As [`Node::state_image`].
    pub(super) async fn state_for(&self, to: MemberId) -> Result<peer::Image, Error> {
        let mut message = Message { from: self.inner.id.0, to: to.0, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let image = self.state_image(message).await?;
        tracing::info!("remote-peer-id" = %to, bytes = image.bytes, "sending the state to a member that has lost its own");
        Ok(image)
    }
}
