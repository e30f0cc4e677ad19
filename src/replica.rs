//! One replica's raft with the requests that wait for it, as step functions.
//!
//! [`Replica`] is what the raft thread owns: [`Consensus`], the proposals that wait for a leader, and the reads that wait for an index. The
//! state machine is the other actor and lives with the apply thread, so that the next entries are being synced while the last ones are applied; what passes
//! between the two is [`Ready::committed`] one way and the applied index the other.
//!
//! Everything here is driven from outside: `now` comes in, answers go out. What every driver must do in the same order, the server's threads
//! and the simulator alike, stands here too: a round of raft ([`Replica::turn`]), an entry ([`apply_entry`], [`tell`]), the clock
//! ([`Ticker`]), writing behind ([`behind`]), a leader's leases ([`leases`]) and the start ([`start`],
//! [`state`]).

pub mod behind;
mod clock;
mod failover;
pub mod install;
pub mod learner;
pub mod leases;
mod proposals;
mod reads;
pub mod start;
pub mod state;
mod tell;
mod turn;

pub use clock::Ticker;
pub use clock::Ticks;
pub use proposals::Proposal;
pub use tell::Audience;
pub use tell::tell;
pub use turn::Done;
pub use turn::Outside;
pub use turn::apply_entry;

use crate::consensus::Consensus;
use crate::consensus::Light;
use crate::consensus::Ready;
use crate::consensus::Refused;
use crate::consensus::wire_of;
use crate::error::Error;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::walpb::ConfChange;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Millis;
use crate::types::Term;
use failover::Failover;
use proposals::Proposals;
use reads::Reads;

/// A request that will not be answered by the state machine, and why.
pub type Failed = (u64, Error);

/// A read that may go on once this index is applied, or why not.
pub type Answered<W> = (W, Result<Index, Error>);

/// The raft thread's side of a replica. `W` is whatever the driver needs to wake a reader.
pub struct Replica<W> {
    pub consensus: Consensus,
    proposals: Proposals,
    reads: Reads<W>,
    followed: (Term, MemberId),
    failover: Option<Failover>,
    /// Up to where the log has said that the state is durable.
    marked: Index,
    answered: Vec<Answered<W>>,
    failed: Vec<Failed>,
    /// Why this member must stop.
    broken: Option<Error>,
}

impl<W> Replica<W> {
    /// `read_seed` begins the contexts of read rounds; no two members may ever use the same one, so it begins with the member's id.
    pub fn new(consensus: Consensus, read_seed: u64) -> Replica<W> {
        Replica {
            followed: (consensus.term(), consensus.leader()),
            consensus,
            marked: Index(0),
            proposals: Proposals::default(),
            reads: Reads::new(read_seed),
            failover: None,
            answered: Vec::new(),
            failed: Vec::new(),
            broken: None,
        }
    }

    /// Queues a proposal; [`Replica::flush`] hands it to raft.
    pub fn propose(&mut self, proposal: Proposal) {
        self.proposals.push(proposal);
    }

    /// Queues a read; [`Replica::flush`] starts its round.
    pub fn read(&mut self, waiter: W) {
        self.reads.ask(waiter);
    }

    /// Lets go of the reads whose waiter `is_gone`. Without a leader none is answered, so the driver calls this every now and then.
    pub fn forget_reads(&mut self, is_gone: impl Fn(&W) -> bool) {
        self.reads.forget(is_gone);
    }

    /// Takes a peer's message that [`readable`] has let pass; what is wrong with it is told to observers by [`Consensus::step`], and to the caller.
    ///
    /// # Errors
    /// As [`Consensus::step`]; the message is dropped, and nothing more is to be done but to say so.
    pub fn step(&mut self, message: Message) -> Result<(), Refused> {
        let wire = self.consensus.probe.on().then(|| wire_of(&message));
        match self.proposals.keep_forwarded(&self.consensus, message) {
            Some(message) => {
                let stepped = self.consensus.step(message);
                if let Err(Refused::LostLog { commit, last }) = stepped {
                    self.broken.get_or_insert_with(|| lost_log(commit, last));
                }
                stepped
            }
            None => {
                // It waits with this member's own.
                self.consensus.probe.tell(|| Kind::Received(lab::Received { wire }));
                Ok(())
            }
        }
    }

    /// Takes a leader's snapshot whose image is here, whole and durable.
    ///
    /// # Errors
    /// As [`Consensus::step_snapshot`].
    pub fn step_snapshot(&mut self, message: Message) -> Result<(), Refused> {
        self.consensus.step_snapshot(message)
    }

    /// Makes the committed conf change at `index` count; the new voters and learners come back. One that an accepted snapshot stands for counts
    /// already: the state machine is merely behind.
    ///
    /// # Errors
    /// As [`Consensus::apply_conf_change`].
    pub fn count(&mut self, index: Index, change: &ConfChange) -> Result<ConfState, Error> {
        if index <= self.marked { Ok(self.consensus.conf_state()) } else { self.consensus.apply_conf_change(change) }
    }

    /// Hands everything queued to raft: all proposals in one message, all reads in one round. Campaigns if it is time to replace a leader.
    pub fn flush(&mut self, now: Millis) {
        self.fail_over(now);
        self.notice_leader();
        self.proposals.flush(&mut self.consensus, now, &mut self.failed);
        if let Some(context) = self.reads.next_round(now) {
            self.consensus.read_index(context);
        }
    }

    /// What must happen next, if anything; see [`Ready`].
    pub fn ready(&mut self) -> Option<Ready> {
        let ready = self.consensus.ready()?;
        for (context, index) in &ready.reads {
            self.reads.confirmed(context, *index, &mut self.answered);
        }
        Some(ready)
    }

    /// The entries and hard state of `ready` are on disk.
    pub fn persisted(&mut self, ready: Ready) -> Light {
        self.consensus.persisted(ready)
    }

    /// Reads that were decided since the last call.
    pub fn take_answered(&mut self) -> Vec<Answered<W>> {
        std::mem::take(&mut self.answered)
    }

    /// Proposals that were given up since the last call.
    pub fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// A new leader or term: reads that asked the old one must not trust a late answer.
    fn notice_leader(&mut self) {
        let follows = (self.consensus.term(), self.consensus.leader());
        if follows != self.followed {
            let had_leader = !self.followed.1.is_none();
            self.followed = follows;
            if had_leader {
                self.reads.leader_changed(&mut self.answered);
            }
        }
    }
}

/// Refuses proposals that the state machine could not read: in the log they would stop every member, at every start. Decodes them, so whoever receives a
/// message asks this before the thread that drives the replica has it.
///
/// # Errors
/// [`Refused::Unreadable`].
pub fn readable(message: &Message) -> Result<(), Refused> {
    let is_readable = message.msg_type() != MessageType::MsgPropose || message.entries.iter().all(turn::is_readable);
    if is_readable { Ok(()) } else { Err(Refused::Unreadable) }
}

/// etcd's words (raft's `log.go`), and what to do.
fn lost_log(commit: u64, last: u64) -> Error {
    Error::Damaged(format!(
        "tocommit({commit}) is out of range [lastIndex({last})]. Was the raft log corrupted, truncated, or lost? This member has acknowledged what it \
         does not have: remove it from the cluster, delete its data directory and add it again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Config;
    use crate::consensus::Initial;
    use crate::probe::Listeners;
    use crate::proto::raftpb::Entry;
    use crate::proto::raftpb::EntryType;
    use crate::proto::walpb::ConfChange;
    use crate::proto::walpb::conf_change::Type;
    use bytes::Bytes;
    use prost::Message as _;

    fn alone() -> Replica<&'static str> {
        let config =
            Config { id: MemberId(1), election_ticks: 10, pre_vote: true, tick_ms: 100, seed: 1, applied: Index(0) };
        let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
        let initial = Initial { conf_state, ..Initial::default() };
        Replica::new(Consensus::new(&config, initial, Listeners::default()).expect("fresh"), 1 << 48)
    }

    fn work(replica: &mut Replica<&'static str>) -> Vec<Entry> {
        let mut committed = Vec::new();
        while let Some(mut ready) = replica.ready() {
            committed.append(&mut ready.committed);
            committed.append(&mut replica.persisted(ready).committed);
        }
        committed
    }

    fn proposal(id: u64, deadline: u64) -> Proposal {
        Proposal {
            id,
            data: Bytes::from(format!("{id}")),
            conf_change: false,
            deadline: Millis(deadline),
            only_leading: None,
        }
    }

    #[test]
    fn a_proposal_waits_for_a_leader_and_a_late_one_is_given_up() {
        let mut replica = alone();
        replica.propose(proposal(1, 50));
        replica.propose(proposal(2, 500));
        replica.flush(Millis(10));
        assert_eq!(work(&mut replica), []);
        assert!(replica.take_failed().is_empty(), "both may still make it");
        replica.flush(Millis(100));
        assert_eq!(replica.take_failed(), [(1, Error::NoLeader)]);
        replica.consensus.campaign();
        work(&mut replica);
        replica.flush(Millis(101));
        let committed = work(&mut replica);
        assert_eq!(committed.last().expect("the second").data, "2");
    }

    #[test]
    fn what_a_leader_decides_is_proposed_in_its_own_term_only() {
        let mut replica = alone();
        replica.consensus.campaign();
        work(&mut replica);
        let term = replica.consensus.term();
        let only = |id, term| Proposal { only_leading: Some(term), ..proposal(id, 500) };
        replica.propose(proposal(1, 500));
        replica.propose(only(2, Term(term.0 - 1)));
        replica.propose(only(3, term));
        replica.propose(only(4, Term(term.0 + 1)));
        replica.flush(Millis(10));
        assert_eq!(replica.take_failed(), [(2, Error::NotPrimary), (4, Error::NotPrimary)]);
        let committed: Vec<Bytes> = work(&mut replica).into_iter().map(|entry| entry.data).collect();
        assert_eq!(committed, ["1", "3"]);
    }

    #[test]
    fn conf_changes_wait_for_one_another_and_nothing_else_waits_for_them() {
        let mut replica = alone();
        replica.consensus.campaign();
        let first = work(&mut replica);
        replica.consensus.applied(Index(first.len() as u64));
        let update = |id| {
            let change = ConfChange { id, r#type: Type::UpdateNode as i32, node_id: 1, context: Bytes::new() };
            Proposal { conf_change: true, data: change.encode_to_vec().into(), ..proposal(id, 500) }
        };
        replica.propose(update(1));
        replica.propose(update(2));
        replica.propose(Proposal { deadline: Millis(50), ..update(3) });
        replica.propose(proposal(4, 500));
        let ids = |entries: Vec<Entry>| -> Vec<String> {
            let id = |entry: &Entry| match entry.entry_type() {
                EntryType::EntryConfChange => ConfChange::decode(entry.data.clone()).expect("ours").id.to_string(),
                _ => String::from_utf8_lossy(&entry.data).into_owned(),
            };
            entries.iter().map(id).collect()
        };
        replica.flush(Millis(0));
        assert_eq!(ids(work(&mut replica)), ["1", "4"]);
        replica.flush(Millis(60));
        assert_eq!(ids(work(&mut replica)), [""; 0], "the first is not applied yet");
        assert_eq!(replica.take_failed(), [(3, Error::Timeout)]);
        replica.consensus.applied(Index(3));
        replica.flush(Millis(70));
        assert_eq!(ids(work(&mut replica)), ["2"]);
    }

    #[test]
    fn reads_that_wait_together_share_a_round() {
        let mut replica = alone();
        replica.consensus.campaign();
        work(&mut replica);
        replica.flush(Millis(0));
        replica.take_answered();
        replica.read("a");
        replica.read("b");
        replica.flush(Millis(0));
        work(&mut replica);
        assert_eq!(replica.take_answered(), [("a", Ok(Index(1))), ("b", Ok(Index(1)))]);
    }

    #[test]
    fn a_read_without_a_leader_asks_again_and_is_answered_later() {
        let mut replica = alone();
        replica.read("early");
        replica.flush(Millis(0));
        work(&mut replica);
        assert!(replica.take_answered().is_empty());
        replica.consensus.campaign();
        work(&mut replica);
        replica.flush(Millis(600));
        work(&mut replica);
        assert_eq!(replica.take_answered(), [("early", Ok(Index(1)))]);
    }
}
