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

    /// Lets go of those who do not wait any more: without a leader nothing else takes them out.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|waiter| !is_gone(waiter));
        if let Some(round) = &mut self.round {
            round.waiters.retain(|waiter| !is_gone(waiter));
        }
        // With nobody to tell, its contexts are of no use either.
        self.round.take_if(|round| round.waiters.is_empty());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::Weak;

    impl<W> Reads<W> {
        /// Readers and contexts that are kept.
        fn kept(&self) -> (usize, usize) {
            let round = self.round.as_ref();
            let readers = self.waiting.len() + round.map_or(0, |round| round.waiters.len());
            (readers, round.map_or(0, |round| round.contexts.len()))
        }
    }

    /// Of a minute without a leader, in which 12,000 readers come and each gives up after five seconds.
    #[test]
    fn who_has_given_up_is_not_kept() {
        let mut reads: Reads<Weak<()>> = Reads::new(0);
        let mut patient = std::collections::VecDeque::new();
        for ms in (0..60_000_u64).step_by(5) {
            let reader = Arc::new(());
            reads.ask(Arc::downgrade(&reader));
            patient.push_back((ms, reader));
            while patient.front().is_some_and(|(came, _)| came + 5000 < ms) {
                patient.pop_front();
            }
            if ms.is_multiple_of(1000) {
                reads.forget(|reader| reader.strong_count() == 0);
            }
            reads.next_round(Millis(ms));
            let (readers, contexts) = reads.kept();
            assert!(readers <= 1300 && contexts <= 16, "{readers} readers, {contexts} contexts after {ms} ms");
        }
        assert!(reads.kept().0 >= patient.len(), "who waits still does");
        drop(patient);
        reads.forget(|reader| reader.strong_count() == 0);
        assert_eq!(reads.kept(), (0, 0));
    }

    #[test]
    fn who_waits_is_answered_by_a_context_from_before_others_gave_up() {
        let mut reads = Reads::new(0);
        reads.ask("gone");
        reads.ask("here");
        let context = reads.next_round(Millis(0)).expect("asked");
        reads.forget(|reader| *reader == "gone");
        let mut answered = Vec::new();
        reads.confirmed(&context, Index(7), &mut answered);
        assert_eq!(answered, [("here", Ok(Index(7)))]);
    }
}
