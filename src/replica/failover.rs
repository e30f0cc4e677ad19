//! A leader whose process is gone is replaced at once, not after an election time-out.
//!
//! Followers wait out a silent leader, because silence may pass. A process that has ended is another matter: its sockets close, and dialling it
//! again is refused. Whoever sees both forgets the leader and asks for pre-votes, each voter in its turn by rank, so that they do not split
//! the vote. Nobody who still hears from the leader grants one, and a heartbeat ends the attempt: a link that flaps unseats no leader, and
//! no term changes.
//!
//! ```text
//! loss ──▶ forget ──▶ rank × 50 ms ──▶ pre-vote ──┬─▶ election
//!                          ▲                      └─▶ refused: after everybody else's turn once more, a few times
//!                          └────────────────────────────────┘
//! ```
//!
//! Source: Raft thesis section 9.6 on pre-votes; the rest is ours.

use super::Replica;
use crate::consensus::Consensus;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::types::MemberId;
use crate::types::Millis;

/// Between the turns of two voters: a pre-vote and a vote take two round trips and two syncs.
const TURN_MS: u64 = 50;
/// How often a voter tries, before the election time-out takes over.
const TRIES: u32 = 3;

/// A leader that is being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failover {
    due: Millis,
    tries: u32,
    /// Until every voter has had its turn.
    round_ms: u64,
}

impl<W> Replica<W> {
    /// The process of `peer` has ended. If it led, this member gets ready to replace it; see [`Replica::due`].
    pub fn peer_lost(&mut self, peer: MemberId, now: Millis) {
        let Some(rank) = rank(&self.consensus, peer) else { return };
        if self.consensus.forget_leader(peer) {
            let voters = self.consensus.conf_state().voters.len() as u64;
            let rank = if is_planted(Bug::AllCampaignAtOnce) { 0 } else { rank };
            self.failover = Some(Failover { due: now.plus(rank * TURN_MS), tries: TRIES, round_ms: voters * TURN_MS });
        }
    }

    /// When [`Replica::turn`] has something to do even if nothing arrives and no tick is due.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        self.failover.map(|failover| failover.due)
    }

    /// This member's turn to replace a leader, if there still is none.
    pub(super) fn fail_over(&mut self, now: Millis) {
        let Some(mut failover) = self.failover.take().filter(|_| self.consensus.leader().is_none()) else { return };
        if failover.due <= now {
            self.consensus.pre_campaign();
            failover.tries -= 1;
            failover.due = now.plus(failover.round_ms);
        }
        self.failover = Some(failover).filter(|failover| failover.tries > 0);
    }
}

/// This member's place among the voters that are left; nothing if it is none.
fn rank(consensus: &Consensus, lost: MemberId) -> Option<u64> {
    if consensus.is_learner() && is_planted(Bug::LearnerCampaignsOnLoss) {
        return Some(0);
    }
    let mut left: Vec<u64> = consensus.conf_state().voters.into_iter().filter(|voter| *voter != lost.0).collect();
    left.sort_unstable();
    left.iter().position(|voter| *voter == consensus.id().0).map(|place| place as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Config;
    use crate::consensus::Initial;
    use crate::consensus::Role;
    use crate::probe::Listeners;
    use crate::proto::raftpb::ConfState;
    use crate::proto::raftpb::Message;
    use crate::types::Index;
    use crate::types::Term;
    use std::collections::BTreeMap;

    /// Members in one thread. Member 9 is a learner.
    struct Net {
        members: BTreeMap<u64, Replica<()>>,
        cut: Vec<(u64, u64)>,
        now: Millis,
    }

    impl Net {
        /// `voters` members, of which `leader` leads, in term 1; and a learner.
        fn led_by(leader: u64, voters: u64, pre_vote: bool) -> Net {
            let conf_state = ConfState { voters: (1..=voters).collect(), learners: vec![9], ..ConfState::default() };
            let start = |id: u64| {
                let config = Config {
                    id: MemberId(id),
                    election_ticks: 10,
                    pre_vote,
                    tick_ms: 100,
                    seed: id,
                    applied: Index(0),
                };
                let initial = Initial { conf_state: conf_state.clone(), ..Initial::default() };
                let consensus = Consensus::new(&config, initial, Listeners::default()).expect("fresh");
                (id, Replica::new(consensus, id << 48))
            };
            let members = (1..=voters).chain([9]).map(start).collect();
            let mut net = Net { members, cut: Vec::new(), now: Millis(0) };
            net.member(leader).consensus.campaign();
            net.settle();
            net.member(leader).consensus.tick();
            net.settle();
            assert!(net.members.values().all(|it| it.consensus.leader() == MemberId(leader)));
            net
        }

        fn member(&mut self, id: u64) -> &mut Replica<()> {
            self.members.get_mut(&id).expect("a member")
        }

        fn is_cut(&self, message: &Message) -> bool {
            self.cut.contains(&(message.from, message.to)) || self.cut.contains(&(message.to, message.from))
        }

        fn settle(&mut self) {
            loop {
                let mut flying = Vec::new();
                for member in self.members.values_mut() {
                    while let Some(mut ready) = member.ready() {
                        flying.append(&mut ready.messages);
                        flying.append(&mut member.persisted(ready).messages);
                    }
                }
                if flying.is_empty() {
                    return;
                }
                for message in flying {
                    if !self.is_cut(&message) {
                        let _refused = self.member(message.to).step(message);
                    }
                }
            }
        }

        /// As a process that ends: nothing comes from it or goes to it any more.
        fn end(&mut self, gone: u64) {
            let others: Vec<u64> = self.members.keys().copied().filter(|id| *id != gone).collect();
            self.cut.extend(others.iter().map(|other| (gone, *other)));
        }

        /// Lets time pass in steps of 10 ms, with a tick of everybody each 100 ms.
        fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 10 {
                self.now = self.now.plus(10);
                for member in self.members.values_mut() {
                    member.flush(self.now);
                    if self.now.0.is_multiple_of(100) {
                        member.consensus.tick();
                    }
                }
                self.settle();
            }
        }

        fn leader(&self) -> Option<u64> {
            let leads = |(id, it): (&u64, &Replica<()>)| (it.consensus.role() == Role::Leader).then_some(*id);
            self.members.iter().filter(|(id, _)| !self.cut.contains(&(**id, 9))).find_map(leads)
        }

        fn lose(&mut self, lost: u64, seen_by: &[u64]) {
            let now = self.now;
            seen_by.iter().for_each(|id| self.member(*id).peer_lost(MemberId(lost), now));
        }
    }

    #[test]
    fn a_leader_whose_process_ended_is_replaced_within_a_turn() {
        for (leader, next) in [(1, 2), (2, 1), (3, 1)] {
            let mut net = Net::led_by(leader, 3, true);
            net.end(leader);
            net.lose(leader, &[1, 2, 3, 9].map(|id| if id == leader { 9 } else { id }));
            net.pass(20);
            assert_eq!(net.leader(), Some(next), "the first in rank, not the learner");
            assert_eq!(net.member(next).consensus.term(), Term(2));
        }
    }

    #[test]
    fn one_that_cannot_win_leaves_the_turn_to_the_next() {
        let mut net = Net::led_by(5, 5, true);
        // Member 1 misses an entry that everybody else has.
        net.cut = vec![(1, 5)];
        net.member(5).consensus.propose(vec!["x".into()]).expect("it leads");
        net.settle();
        net.end(5);
        net.lose(5, &[1, 2, 3, 4]);
        net.pass(20);
        assert_eq!(net.leader(), None, "its log is behind");
        net.pass(50);
        assert_eq!(net.leader(), Some(2));
        assert_eq!(net.member(2).consensus.term(), Term(2), "one election");
    }

    #[test]
    fn a_living_leader_behind_one_flapping_link_stays_and_so_does_the_term() {
        let mut net = Net::led_by(3, 3, true);
        for _ in 0..20 {
            net.cut.push((1, 3));
            net.lose(3, &[1]);
            net.pass(130);
            net.cut.clear();
            net.pass(130);
            assert_eq!(net.leader(), Some(3));
        }
        assert!(net.members.values().all(|it| it.consensus.term() == Term(1) && it.failover.is_none()));
        assert!(net.members.values().all(|it| it.consensus.leader() == MemberId(3)));
    }

    #[test]
    fn a_loss_that_only_some_see_waits_for_those_who_do_not() {
        let mut net = Net::led_by(3, 3, true);
        net.end(3);
        net.lose(3, &[1]);
        net.pass(100);
        assert_eq!(net.leader(), None, "member 2 heard of the leader just now");
        net.lose(3, &[2]);
        net.pass(100);
        assert_eq!(net.leader(), Some(2), "its own turn comes before member 1's next one");
    }

    #[test]
    fn what_is_no_loss_of_the_leader_changes_nothing() {
        let mut net = Net::led_by(3, 3, true);
        net.lose(2, &[1, 3]);
        net.lose(3, &[9]);
        assert!(net.members.values().all(|it| it.due().is_none()), "another follower; a learner");
        let mut net = Net::led_by(3, 3, false);
        net.lose(3, &[1, 2]);
        assert!(
            net.members.values().all(|it| it.due().is_none()),
            "without pre-vote a flapping link would unseat leaders"
        );
    }

    #[test]
    fn without_an_answer_the_attempts_end() {
        let mut net = Net::led_by(3, 3, true);
        net.end(3);
        net.end(2);
        net.lose(3, &[1]);
        net.pass(20);
        assert!(net.member(1).due().is_some());
        net.pass(500);
        assert_eq!(net.member(1).due(), None);
        assert_eq!(net.member(1).consensus.term(), Term(1), "asking for pre-votes costs no term");
    }
}
