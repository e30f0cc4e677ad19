//! Whether a leader's heartbeats go out in time. One that comes late, again and again, is how an overloaded disk or processor shows first.
//!
//! Source: etcd `server/etcdserver/raft.go` (`processMessages`), `pkg/contention`.

use crate::meter;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::types::Millis;
use crate::types::Term;

/// When the heartbeats of this term went out last. They go to all others at once, so one time is enough.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    term: Term,
    last: Option<Millis>,
}

impl Beats {
    /// Looks at what is sent at `now`, where a heartbeat is due each `tick_ms`.
    pub(crate) fn look(&mut self, messages: &[Message], now: Millis, tick_ms: u64) {
        let is_beat = |message: &&Message| message.msg_type() == MessageType::MsgHeartbeat;
        let Some(beat) = messages.iter().find(is_beat) else { return };
        if self.term != Term(beat.term) {
            (self.term, self.last) = (Term(beat.term), None);
        }
        let allowed = tick_ms.saturating_mul(2);
        let since = self.last.replace(now).map_or(0, |last| now.0.saturating_sub(last.0));
        if since > allowed {
            meter::HEARTBEATS_LATE.inc();
            tracing::warn!(
                "heartbeat-interval" = ?std::time::Duration::from_millis(tick_ms),
                "expected-duration" = ?std::time::Duration::from_millis(allowed),
                "exceeded-duration" = ?std::time::Duration::from_millis(since - allowed),
                "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, term: u64) -> Message {
        let mut message = Message { term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn a_heartbeat_is_late_after_two_ticks_and_within_one_term_only() {
        let mut beats = Beats::default();
        let mut late = |kind, term, now| {
            let before = meter::HEARTBEATS_LATE.get();
            beats.look(&[message(kind, term)], Millis(now), 100);
            meter::HEARTBEATS_LATE.get() > before
        };
        assert!(!late(MessageType::MsgHeartbeat, 1, 1000), "the first");
        assert!(!late(MessageType::MsgHeartbeat, 1, 1200), "just in time");
        assert!(late(MessageType::MsgHeartbeat, 1, 1401));
        assert!(!late(MessageType::MsgAppend, 1, 9000), "not a heartbeat");
        assert!(!late(MessageType::MsgHeartbeat, 2, 9000), "another term");
    }
}
