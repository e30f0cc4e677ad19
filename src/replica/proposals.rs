//! Proposals on their way into the log.
//!
//! Without a leader they wait, as in etcd; one that is still here at its deadline is given up. Once raft has one, only the state machine answers it (or the
//! client's own time-out does): nobody can know whether a proposal that a lost leader took will still be committed.

use crate::consensus::Consensus;
use crate::consensus::Role;
use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::walpb;
use crate::replica::Failed;
use crate::types::Millis;
use crate::types::Term;
use bytes::Bytes;
use prost::Message as _;
use std::collections::VecDeque;

/// At most this much goes into one append to the log.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

/// At most so many conf changes of followers wait; people make them one by one.
const FORWARDED_MAX: usize = 64;

/// Something to be put into the log.
#[derive(Debug)]
pub struct Proposal {
    /// The request that waits for it.
    pub id: u64,
    /// An encoded `InternalRaftRequest`, or etcd's `ConfChange`.
    pub data: Bytes,
    pub conf_change: bool,
    /// When to give up waiting for a leader.
    pub deadline: Millis,
    /// Propose it only as the leader of this term: what a leader decides by its own clock must not be forwarded to its successor.
    pub only_leading: Option<Term>,
}

fn leads_in(consensus: &Consensus, term: Term) -> bool {
    consensus.role() == Role::Leader && consensus.term() == term || is_planted(Bug::DeposedLeaderRevokes)
}

#[derive(Default)]
pub(crate) struct Proposals {
    waiting: VecDeque<Proposal>,
    /// Conf changes of followers that wait for the one before them.
    forwarded: VecDeque<Message>,
}

impl Proposals {
    pub(crate) fn push(&mut self, proposal: Proposal) {
        self.waiting.push_back(proposal);
    }

    /// Hands over what waits; keeps it if there is no leader yet.
    pub(crate) fn flush(&mut self, consensus: &mut Consensus, now: Millis, failed: &mut Vec<Failed>) {
        if consensus.leader().is_none() {
            let late = |proposal: &Proposal| proposal.deadline < now;
            failed.extend(self.waiting.iter().filter(|p| late(p)).map(|p| (p.id, Error::NoLeader)));
            self.waiting.retain(|proposal| !late(proposal));
            return;
        }
        self.flush_forwarded(consensus);
        // One conf change at a time: a leader keeps the next one until the last one counts, and lets all else pass.
        let mut kept = Vec::new();
        while let Some(first) = self.waiting.front() {
            if first.conf_change && consensus.has_pending_conf_change() {
                match self.waiting.pop_front() {
                    Some(late) if late.deadline < now => failed.push((late.id, Error::Timeout)),
                    proposal => kept.extend(proposal),
                }
                continue;
            }
            let (ids, verdict) = match first.conf_change {
                true => self.flush_conf_change(consensus),
                false => self.flush_run(consensus),
            };
            if let Err(why) = verdict {
                failed.extend(ids.into_iter().map(|id| (id, why.clone())));
            }
        }
        self.waiting.extend(kept);
    }

    /// Keeps a follower's conf change that this leader cannot put into its log yet; all else comes back.
    pub(crate) fn keep_forwarded(&mut self, consensus: &Consensus, message: Message) -> Option<Message> {
        let is_change = message.msg_type() == MessageType::MsgPropose
            && matches!(&message.entries[..], [entry] if entry.entry_type() == EntryType::EntryConfChange);
        if is_change && consensus.has_pending_conf_change() && self.forwarded.len() < FORWARDED_MAX {
            self.forwarded.push_back(message);
            return None;
        }
        Some(message)
    }

    /// Passes on one follower's conf change if there is room for it. Those of a leader that is none any more are lost; their proposers hear
    /// of the time that they waited.
    fn flush_forwarded(&mut self, consensus: &mut Consensus) {
        if consensus.role() != Role::Leader {
            self.forwarded.clear();
        } else if !consensus.has_pending_conf_change()
            && let Some(message) = self.forwarded.pop_front()
        {
            let _dropped = consensus.step(message);
        }
    }

    fn flush_conf_change(&mut self, consensus: &mut Consensus) -> (Vec<u64>, Result<(), Error>) {
        let Some(proposal) = self.waiting.pop_front() else { return (Vec::new(), Ok(())) };
        let change = walpb::ConfChange::decode(proposal.data).expect("this member encoded it");
        (vec![proposal.id], consensus.propose_conf_change(&change))
    }

    /// A run of ordinary proposals in one message, so that followers get one append and the disk one write.
    fn flush_run(&mut self, consensus: &mut Consensus) -> (Vec<u64>, Result<(), Error>) {
        let (mut ids, mut run, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(proposal) = self.waiting.pop_front() {
            if proposal.conf_change || (bytes > 0 && bytes + proposal.data.len() > FLUSH_BYTES) {
                self.waiting.push_front(proposal);
                break;
            }
            if proposal.only_leading.is_some_and(|term| !leads_in(consensus, term)) {
                if ids.is_empty() {
                    return (vec![proposal.id], Err(Error::NotPrimary));
                }
                self.waiting.push_front(proposal);
                break;
            }
            bytes += proposal.data.len();
            ids.push(proposal.id);
            run.push(proposal.data);
        }
        (ids, consensus.propose(run))
    }
}
