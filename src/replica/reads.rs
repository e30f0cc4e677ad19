//! Linearizable reads: rounds of ReadIndex (Raft section 6.4 of the thesis; etcd `v3_server.go`, `linearizableReadLoop`).
//!
//! All who wait are one round; who comes while it is under way waits for the next. raft drops a question silently when there is no leader, or a leader that has
//! not yet committed in its term, so an unanswered round asks again with a fresh context; an answer to any of its contexts counts, because all of them
//! were asked after the reads arrived.

use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::replica::Answered;
use crate::types::Index;
use crate::types::Millis;
use bytes::Bytes;

/// How long a round waits before it asks again; etcd's value.
const RETRY_MS: u64 = 500;

pub(crate) struct Reads<W> {
    waiting: Vec<W>,
    round: Option<Round<W>>,
    next_context: u64,
}

struct Round<W> {
    waiters: Vec<W>,
    contexts: Vec<Bytes>,
    asked: Millis,
}

impl<W> Reads<W> {
    pub(crate) fn new(seed: u64) -> Reads<W> {
        Reads { waiting: Vec::new(), round: None, next_context: seed }
    }

    pub(crate) fn ask(&mut self, waiter: W) {
        self.waiting.push(waiter);
    }

    /// The context to ask raft with now, if it is time to ask.
    pub(crate) fn next_round(&mut self, now: Millis) -> Option<Bytes> {
        match &mut self.round {
            Some(round) if now < round.asked.plus(RETRY_MS) => return None,
            Some(round) => round.asked = now,
            None if self.waiting.is_empty() => return None,
            None => {
                let waiters = std::mem::take(&mut self.waiting);
                self.round = Some(Round { waiters, contexts: Vec::new(), asked: now });
            }
        }
        self.next_context += u64::from(!is_planted(Bug::ReadContextReused));
        let context = Bytes::copy_from_slice(&self.next_context.to_be_bytes());
        if let Some(round) = &mut self.round {
            round.contexts.push(context.clone());
        }
        Some(context)
    }

    /// raft has confirmed a context: its round may read at `index`.
    pub(crate) fn confirmed(&mut self, context: &[u8], index: Index, answered: &mut Vec<Answered<W>>) {
        let ours = |round: &mut Round<W>| round.contexts.iter().any(|asked| asked == context);
        let index = if is_planted(Bug::ReadBeforeApplied) { Index(0) } else { index };
        if let Some(round) = self.round.take_if(ours) {
            answered.extend(round.waiters.into_iter().map(|waiter| (waiter, Ok(index))));
        }
    }

    /// The leader that was asked is not the leader any more.
    pub(crate) fn leader_changed(&mut self, answered: &mut Vec<Answered<W>>) {
        if let Some(round) = self.round.take() {
            answered.extend(round.waiters.into_iter().map(|waiter| (waiter, Err(Error::LeaderChanged))));
        }
    }
}
