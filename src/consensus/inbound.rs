//! The guard in front of raft: what a peer may say.
//!
//! raft-rs answers bad input with a panic, so nothing reaches it unchecked. A refused message is dropped and named;
//! raft copes with lost messages. Source: the list in `raft.md` of the project's notes, from raft-rs 0.7.0's own asserts.

use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::raftpb::SnapshotMetadata;
use crate::types::MemberId;

/// Why a message was not let in. One sentence's end: "refused: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The message is for another member.
    #[error("it is for another member")]
    NotForUs,
    /// It names no sender, or this member itself.
    #[error("it has no usable sender")]
    BadSender,
    /// It names no term.
    #[error("it has no term")]
    NoTerm,
    /// A type of message that exists only inside a member, or not at all.
    #[error("its type does not travel between members")]
    BadType,
    /// Entries with gaps, of unknown types, or none where some must be.
    #[error("its entries do not fit together")]
    BadEntries,
    /// A term so high that raft, counting on from it, would come to its end.
    #[error("its term cannot have been reached")]
    BadTerm,
    /// A proposal that the state machine could not read: in the log it would stop every member.
    #[error("its proposal cannot be read")]
    Unreadable,
    /// It claims entries that cannot exist.
    #[error("it speaks of entries that this member cannot have")]
    OutOfRange,
    /// A leader commits what this member has acknowledged to it, and does not have.
    #[error("it commits entry {commit}, and this log ends at {last}")]
    LostLog { commit: u64, last: u64 },
    /// It contradicts an entry that is committed here: one of the two logs is damaged.
    #[error("it contradicts a committed entry")]
    ConflictsWithCommitted,
    /// Snapshots arrive on their own path.
    #[error("snapshots are not received on this path")]
    Snapshot,
    /// A snapshot of nothing, of voters that cannot be, or of a cluster that this member is not in.
    #[error("its snapshot cannot be installed here")]
    BadSnapshot,
    /// raft itself had no use for it.
    #[error("raft had no use for it")]
    Ignored,
}

/// What the guard needs to know of this member.
pub(crate) struct View<'a> {
    pub(crate) id: MemberId,
    /// The end of the log and the terms in it, as raft has them: what is not on disk yet counts.
    pub(crate) last: u64,
    pub(crate) term_of: &'a dyn Fn(u64) -> Option<u64>,
    pub(crate) commit: u64,
    pub(crate) leads: bool,
    /// Whom this member follows, 0 for nobody, and its term.
    pub(crate) follows: (u64, u64),
    /// The sender's acknowledged index, as far as this member has led; nothing if the sender is no member.
    pub(crate) matched: Option<u64>,
    /// Whether the image that a snapshot speaks of has come with it.
    pub(crate) has_image: bool,
}

/// No term is so high. With a thousand elections a second it is reached after 292 million years.
const TERM_MAX: u64 = 1 << 63;
/// How far ahead of its own term a member lets in another. No elections bring a cluster so far while one sleeps; a message that says so would use up the
/// terms that are left, for all members and for good.
const TERM_AHEAD_MAX: u64 = 1 << 32;

/// Checks `message` and clears the fields that only raft-rs knows: absent means off.
pub(crate) fn check(message: &mut Message, view: &View<'_>) -> Result<(), Refused> {
    let kind = MessageType::try_from(message.msg_type).map_err(|_| Refused::BadType)?;
    if message.to != view.id.0 {
        return Err(Refused::NotForUs);
    }
    // A proposal forwarded by etcd may come without a term; all else has a sender.
    if message.from == 0 || message.from == view.id.0 {
        return Err(Refused::BadSender);
    }
    // Without a term raft takes it for its own. Only what is passed on to a leader has none, and raft panics if it passes on what has one.
    let is_passed_on = matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex);
    if is_passed_on {
        message.term = 0;
    } else if message.term == 0 {
        return Err(Refused::NoTerm);
    }
    if message.term > TERM_MAX.min(view.follows.1.saturating_add(TERM_AHEAD_MAX)) {
        return Err(Refused::BadTerm);
    }
    message.request_snapshot = 0;
    message.deprecated_priority = 0;
    message.commit_term = 0;
    message.priority = 0;
    for entry in &mut message.entries {
        entry.context.clear();
        entry.sync_log = false;
        if entry.entry_type() == EntryType::EntryConfChangeV2 || EntryType::try_from(entry.entry_type).is_err() {
            return Err(Refused::BadEntries);
        }
    }
    match kind {
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Err(Refused::BadType),
        MessageType::MsgSnapshot if view.has_image => check_snapshot(message, view),
        MessageType::MsgSnapshot => Err(Refused::Snapshot),
        MessageType::MsgPropose if message.entries.is_empty() => Err(Refused::BadEntries),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            Err(Refused::BadEntries)
        }
        // It would be passed on, with its term. Nobody sends it but to a leader.
        MessageType::MsgTransferLeader if !view.leads => Err(Refused::Ignored),
        MessageType::MsgAppend => check_append(message, view),
        // A leader tells each follower to commit at most what that one has acknowledged to it.
        MessageType::MsgHeartbeat if message.commit > view.last => {
            let ((leader, term), commit, last) = (view.follows, message.commit, view.last);
            // A stranger may say anything.
            let is_member = view.matched.is_some();
            let is_leaders =
                is_member && (message.term > term || message.term == term && (leader == 0 || leader == message.from));
            Err(if is_leaders { Refused::LostLog { commit, last } } else { Refused::OutOfRange })
        }
        MessageType::MsgAppendResponse => check_append_response(message, view),
        _ => Ok(()),
    }
}

fn check_append(message: &Message, view: &View<'_>) -> Result<(), Refused> {
    // raft-rs says term 0 of every index that it does not have, so term 0 would match beyond the log's end, where appending panics.
    if message.log_term == 0 && message.index != 0 {
        return Err(Refused::OutOfRange);
    }
    let mut previous = (message.index, message.log_term);
    for entry in &message.entries {
        if previous.0.checked_add(1) != Some(entry.index) || entry.term < previous.1 || entry.term > message.term {
            return Err(Refused::BadEntries);
        }
        previous = (entry.index, entry.term);
    }
    let contradicts = |entry: &&Entry| {
        entry.index <= view.commit && (view.term_of)(entry.index).is_some_and(|term| term != entry.term)
    };
    match message.entries.iter().find(contradicts) {
        Some(_) => Err(Refused::ConflictsWithCommitted),
        None => Ok(()),
    }
}

/// raft-rs takes voters from a snapshot as they are, and panics if it cannot.
fn check_snapshot(message: &Message, view: &View<'_>) -> Result<(), Refused> {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let Some((metadata, state)) = metadata.and_then(|metadata| Some((metadata, metadata.conf_state.as_ref()?))) else {
        return Err(Refused::BadSnapshot);
    };
    let SnapshotMetadata { index, term, .. } = *metadata;
    let mut ids: Vec<u64> = state.voters.iter().chain(&state.learners).copied().collect();
    ids.sort_unstable();
    let is_simple = state.voters_outgoing.is_empty() && state.learners_next.is_empty() && !state.auto_leave;
    let each_once = ids.windows(2).all(|pair| pair[0] < pair[1]) && ids.first() != Some(&0);
    let has_us = ids.binary_search(&view.id.0).is_ok();
    if index == 0 || index == u64::MAX || term == 0 || term > message.term || state.voters.is_empty() {
        return Err(Refused::BadSnapshot);
    }
    if !is_simple || !each_once || !has_us {
        return Err(Refused::BadSnapshot);
    }
    let contradicts = index <= view.commit && (view.term_of)(index).is_some_and(|ours| ours != term);
    if contradicts { Err(Refused::ConflictsWithCommitted) } else { Ok(()) }
}

fn check_append_response(message: &mut Message, view: &View<'_>) -> Result<(), Refused> {
    let Some(matched) = view.matched else { return Ok(()) };
    if message.reject {
        // raft-rs 0.7.0 may set next <= match when a rejection arrives late (its issue 555).
        if message.index <= matched {
            return Err(Refused::OutOfRange);
        }
        message.reject_hint = message.reject_hint.max(matched);
    } else if message.index > view.last {
        return Err(Refused::OutOfRange);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::log::Log;
    use crate::proto::raftpb::ConfState;
    use crate::proto::raftpb::HardState;
    use crate::proto::raftpb::Snapshot;
    use crate::types::Index;
    use crate::types::Term;
    use proptest::prelude::*;

    fn log() -> Log {
        let entries = (1..=5).map(|index| Entry { index, term: 1, ..Entry::default() }).collect();
        Log::new((Index(0), Term(0)), entries, HardState::default(), ConfState::default())
    }

    fn verdict(message: Message) -> Result<(), Refused> {
        verdict_in(2, message)
    }

    /// Of a member that follows 2 in `term`.
    fn verdict_in(term: u64, mut message: Message) -> Result<(), Refused> {
        let log = log();
        message.to = 1;
        let term_of = |index| log.term_of(index);
        let view = View {
            id: MemberId(1),
            last: 5,
            term_of: &term_of,
            commit: 3,
            leads: false,
            follows: (2, term),
            // 9 is a stranger.
            matched: (message.from != 9).then_some(4),
            has_image: true,
        };
        check(&mut message, &view)
    }

    fn snapshot(index: u64, term: u64, voters: &[u64], learners: &[u64]) -> Message {
        let conf_state = ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
        let metadata = SnapshotMetadata { conf_state: Some(conf_state), index, term };
        let snapshot = Snapshot { metadata: Some(metadata), ..Snapshot::default() };
        Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnapshot) }
    }

    #[test]
    fn a_snapshot_that_raft_would_panic_on_is_refused() {
        assert_eq!(verdict(snapshot(9, 2, &[1, 2], &[3])), Ok(()));
        assert_eq!(verdict(snapshot(9, 2, &[2], &[1])), Ok(()), "a learner installs, too");
        assert_eq!(verdict(snapshot(2, 2, &[1, 2], &[])), Err(Refused::ConflictsWithCommitted));
        for bad in [
            snapshot(0, 1, &[1], &[]),
            snapshot(9, 0, &[1], &[]),
            snapshot(9, 3, &[1], &[]),
            snapshot(9, 2, &[], &[1]),
            snapshot(9, 2, &[1, 1], &[]),
            snapshot(9, 2, &[1, 2], &[2]),
            snapshot(9, 2, &[2, 3], &[]),
            snapshot(9, 2, &[0, 1], &[]),
            message(MessageType::MsgSnapshot),
        ] {
            assert_eq!(verdict(bad.clone()), Err(Refused::BadSnapshot), "{bad:?}");
        }
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message { from: 2, term: 2, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn no_message_uses_up_the_terms_that_are_left() {
        let far = |term| Message { term, ..message(MessageType::MsgHeartbeat) };
        assert_eq!(verdict_in(2, far(2 + TERM_AHEAD_MAX)), Ok(()));
        assert_eq!(verdict_in(2, far(3 + TERM_AHEAD_MAX)), Err(Refused::BadTerm));
        // Wherever a cluster is, elections go on.
        for term in [2 + TERM_AHEAD_MAX, 1 << 62] {
            let vote = Message { term: term + 1, ..message(MessageType::MsgRequestVote) };
            assert_eq!(verdict_in(term, vote), Ok(()));
        }
        assert_eq!(verdict_in(TERM_MAX, far(TERM_MAX + 1)), Err(Refused::BadTerm));
    }

    #[test]
    fn what_raft_would_panic_on_is_refused() {
        assert_eq!(verdict(message(MessageType::MsgPropose)), Err(Refused::BadEntries));
        assert_eq!(verdict(message(MessageType::MsgReadIndex)), Err(Refused::BadEntries));
        assert_eq!(verdict(message(MessageType::MsgHup)), Err(Refused::BadType));
        let beyond = Message { commit: 6, ..message(MessageType::MsgHeartbeat) };
        assert_eq!(verdict(beyond.clone()), Err(Refused::LostLog { commit: 6, last: 5 }));
        let lost = Err(Refused::LostLog { commit: 6, last: 5 });
        assert_eq!(verdict(Message { term: 3, ..beyond.clone() }), lost, "from the next leader");
        assert_eq!(verdict(Message { from: 9, term: 3, ..beyond.clone() }), Err(Refused::OutOfRange), "a stranger");
        assert_eq!(verdict(Message { from: 3, ..beyond.clone() }), Err(Refused::OutOfRange), "not from its leader");
        assert_eq!(verdict(Message { term: 1, ..beyond }), Err(Refused::OutOfRange), "from an old one");
        let conflict = Message {
            index: 1,
            log_term: 1,
            entries: vec![Entry { index: 2, term: 2, ..Entry::default() }],
            ..message(MessageType::MsgAppend)
        };
        assert_eq!(verdict(conflict), Err(Refused::ConflictsWithCommitted));
        let nowhere = |index, entries| Message { index, entries, ..message(MessageType::MsgAppend) };
        let after = |index| vec![Entry { index, term: 2, ..Entry::default() }];
        assert_eq!(
            verdict(nowhere(0, after(1))),
            Err(Refused::ConflictsWithCommitted),
            "the log's beginning has term 0"
        );
        assert_eq!(verdict(nowhere(9, vec![])), Err(Refused::OutOfRange));
        assert_eq!(verdict(nowhere(9, after(10))), Err(Refused::OutOfRange));
        let at_the_end = Message { log_term: 1, ..nowhere(u64::MAX, after(0)) };
        assert_eq!(verdict(at_the_end), Err(Refused::BadEntries));
        assert_eq!(verdict(Message { term: u64::MAX, ..message(MessageType::MsgHeartbeat) }), Err(Refused::BadTerm));
        for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgRequestVote] {
            assert_eq!(
                verdict(Message { term: 0, ..message(kind) }),
                Err(Refused::NoTerm),
                "raft takes it for its own"
            );
        }
        let passed_on = Message { term: 0, entries: vec![Entry::default()], ..message(MessageType::MsgReadIndex) };
        assert_eq!(verdict(passed_on), Ok(()));
        let unknown = Message { msg_type: 19, from: 2, ..Message::default() };
        assert_eq!(verdict(unknown), Err(Refused::BadType));
    }

    #[test]
    fn a_late_rejection_cannot_move_a_follower_back() {
        let late = Message { reject: true, index: 4, ..message(MessageType::MsgAppendResponse) };
        assert_eq!(verdict(late), Err(Refused::OutOfRange));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_guard_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(message) = <Message as prost::Message>::decode(bytes.as_slice()) {
                let _verdict = verdict(message);
            }
        }
    }
}
