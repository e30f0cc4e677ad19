//! Proposals on their way into the log.
//!
//! Without a leader they wait, as in etcd; one that is still here at its deadline is given up. Once raft has one, only the state machine answers it (or the
//! client's own time-out does): nobody can know whether a proposal that a lost leader took will still be committed.

use crate::consensus::Consensus;
use crate::consensus::Role;
use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::walpb;
use crate::replica::Failed;
use crate::types::Millis;
use crate::types::Term;
use bytes::Bytes;
use prost::Message as _;
use std::collections::VecDeque;

/// At most this much goes into one append to the log.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

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
        while !self.waiting.is_empty() {
            let ids = match self.waiting.front() {
                Some(proposal) if proposal.conf_change => self.flush_conf_change(consensus),
                _ => self.flush_run(consensus),
            };
            let (ids, verdict) = ids;
            if let Err(why) = verdict {
                failed.extend(ids.into_iter().map(|id| (id, why.clone())));
            }
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
