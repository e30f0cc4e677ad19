//! Who adds, promotes and removes members, one after the other; and what the cluster makes of it.
//!
//! The operator has one goal at a time and asks for it until the log says that it is reached: what became of an earlier attempt need not be known,
//! because a change that comes twice is refused by the log. A goal must leave a quorum of members in health, whether it is reached or not; nor
//! may those who stay need the vote of the one that goes. Two members of which one is removed would: if the other has not heard of the commit
//! when it stops, it asks for that vote for ever (etcd `raft/doc.go` warns of that).

use super::Plan;
use super::client::Ask;
use super::judge::Verdict;
use super::net::MEMBERS_MAX;
use super::roster::Roster;
use super::world::Event;
use super::world::Place;
use super::world::World;
use crate::membership::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb;
use crate::proto::walpb::ConfChange;
use crate::replica::learner::check_in_sync;
use crate::types::Index;
use crate::types::MemberId;
use rand::Rng;
use std::collections::BTreeSet;

/// How long a member that is removed goes on, so that the others hear of the commit.
pub(super) const REMOVED_STOPS_AFTER_US: u64 = 100_000;
/// Pause between two looks, and between two goals at most.
const LOOK_US: u64 = 30_000;
const REST_US: u64 = 600_000;

/// What is to become of the members.
#[derive(Clone, Debug)]
enum Goal {
    Add(Member),
    Promote(MemberId),
    Remove(MemberId),
}

impl Goal {
    fn change(&self) -> ConfChange {
        match self {
            Goal::Add(member) => member.change_to_add(),
            Goal::Promote(id) => Member::change_to_promote(*id),
            Goal::Remove(id) => Member::change_to_remove(*id),
        }
    }

    /// Whom the cluster loses by it.
    fn parts_with(&self) -> Option<MemberId> {
        match self {
            Goal::Remove(id) => Some(*id),
            Goal::Add(_) | Goal::Promote(_) => None,
        }
    }

    fn is_reached(&self, roster: &Roster) -> bool {
        match self {
            Goal::Add(member) => roster.rows.contains_key(&member.id.0) || roster.removed.contains(&member.id.0),
            Goal::Promote(id) => roster.rows.get(&id.0).is_none_or(|row| !row.is_learner),
            Goal::Remove(id) => roster.removed.contains(&id.0),
        }
    }
}

/// The operator.
#[derive(Debug)]
pub(super) struct Operator {
    goal: Option<Goal>,
    /// Goals that are still to come.
    left: u32,
    rests_until: u64,
}

impl Operator {
    pub(super) fn of(plan: &Plan) -> Operator {
        Operator { goal: None, left: plan.member_changes, rests_until: 0 }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.goal.is_none()
    }
}

impl World {
    /// The operator looks what has become of its goal, and asks for it again, or for the next one.
    pub(super) fn operate(&mut self, client: usize) -> Verdict {
        self.greet_newcomers();
        self.turn_away_removed();
        let roster = &self.judge.model.roster;
        if self.operator.goal.as_ref().is_some_and(|goal| goal.is_reached(roster)) {
            self.tape.note(self.now, super::world::NOBODY, 0, || "the operator's goal is reached".to_owned());
            self.operator.goal = None;
            self.operator.rests_until = self.now + self.up_to(REST_US);
        }
        let rests = self.drill.is_some() || self.now < self.operator.rests_until;
        if self.operator.goal.is_none() && self.operator.left > 0 && !rests && !self.healing {
            self.operator.goal = self.next_goal();
            self.operator.left -= u32::from(self.operator.goal.is_some());
        }
        let whom = self.whom_to_ask();
        match (self.operator.goal.clone(), whom) {
            (Some(goal), Some(who)) if !self.silent => {
                let ask = Ask::Change(goal.change());
                self.ask(client, who, ask);
            }
            _ => {
                let next = if self.operator.left == 0 && self.operator.goal.is_none() { 10 * LOOK_US } else { LOOK_US };
                self.after(next, Event::Client(client));
            }
        }
        Ok(())
    }

    /// A member that can be asked for the goal: where the checks before the log's let it pass, as in `node/members.rs`.
    fn whom_to_ask(&mut self) -> Option<usize> {
        let goal = self.operator.goal.clone()?;
        let up: Vec<usize> = (0..self.places.len()).filter(|who| self.places[*who].alive.is_some()).collect();
        let who = match goal {
            Goal::Promote(_) => self.leader()?,
            _ if up.is_empty() => return None,
            _ => up[self.dice.random_range(0..up.len())],
        };
        let alive = self.places[who].alive.as_ref()?;
        let machine = alive.machine.read();
        let members = machine.members();
        let may = match &goal {
            Goal::Add(member) => member.is_learner || members.may_add_voter(),
            Goal::Remove(id) => {
                members.get(*id).is_some_and(|member| member.is_learner) || members.may_remove_voter(*id)
            }
            Goal::Promote(id) => {
                let progress: Vec<(MemberId, Index)> =
                    alive.replica.consensus.progress().map(|(member, matched, _)| (member, matched)).collect();
                members.may_promote() && check_in_sync(&progress, alive.id, *id).is_ok()
            }
        };
        may.then_some(who)
    }

    fn next_goal(&mut self) -> Option<Goal> {
        let roster = self.judge.model.roster.clone();
        let voters = roster.voters();
        let learner = roster.rows.iter().find(|(_, row)| row.is_learner).map(|(id, _)| MemberId(*id));
        let kind = self.dice.random_range(0..4);
        let any: Vec<u64> = roster.rows.keys().copied().collect();
        let goal = match (kind, learner) {
            (0..=1, Some(learner)) => Goal::Promote(learner),
            (2, _) => Goal::Remove(MemberId(*any.get(self.dice.random_range(0..any.len().max(1)))?)),
            (_, None) if self.places.len() < MEMBERS_MAX && voters.len() < 5 => {
                let (place, seconds) = (self.places.len(), self.now / 1_000_000);
                let is_learner = self.dice.random_range(0..4) > 0;
                Goal::Add(Member::to_add(vec![format!("http://10.0.0.{place}:2380")], is_learner, seconds))
            }
            _ => return None,
        };
        let mut after = roster.clone();
        after.change(&goal.change()).ok()?;
        let shrinks_too_far = after.voters().len() < 3 && voters.len() >= 3;
        let gone: Vec<MemberId> = goal.parts_with().into_iter().collect();
        let is_safe = self.is_safe(&voters, &gone) && self.is_safe(&after.voters(), &[]);
        (!shrinks_too_far && is_safe).then_some(goal)
    }

    /// Whether these voters have a quorum of members in health, without some of them.
    fn is_safe(&self, voters: &BTreeSet<u64>, without: &[MemberId]) -> bool {
        let is_healthy = |id: &&u64| match self.place_of(**id) {
            _ if without.contains(&MemberId(**id)) => false,
            Some(place) => !self.places[place].rotten && !self.places[place].spoiled,
            None => true,
        };
        voters.iter().filter(is_healthy).count() > voters.len() / 2
    }

    /// Whether the cluster can do without `who`, whatever becomes of the operator's goal.
    pub(super) fn is_spare(&self, who: usize) -> bool {
        let roster = &self.judge.model.roster;
        let (mut after, mut gone) = (roster.clone(), vec![self.places[who].id]);
        if let Some(goal) = &self.operator.goal {
            let _refused = after.change(&goal.change());
            gone.extend(goal.parts_with());
        }
        self.is_safe(&roster.voters(), &gone) && self.is_safe(&after.voters(), &[self.places[who].id])
    }

    /// Starts those who were added, and has those who have started say so.
    fn greet_newcomers(&mut self) {
        let rows = self.judge.model.roster.rows.clone();
        for (id, row) in &rows {
            match self.place_of(*id) {
                None => self.join(MemberId(*id), row.is_learner),
                Some(who) if row.name.is_empty() && self.places[who].alive.is_some() => {
                    let request = self.new_request();
                    let attributes = membershippb::Attributes { name: format!("m{who}"), client_urls: Vec::new() };
                    let says = membershippb::ClusterMemberAttrSetRequest {
                        member_id: *id,
                        member_attributes: Some(attributes),
                    };
                    let publish = pb::InternalRaftRequest { cluster_member_attr_set: Some(says), ..Default::default() };
                    self.propose(who, request, publish, None);
                }
                Some(_) => {}
            }
        }
    }

    fn join(&mut self, id: MemberId, is_learner: bool) {
        let who = self.places.len();
        self.tape.note(self.now, who, id.0, || format!("joins as {id}, learner: {is_learner}"));
        self.report.count("a member joins", 1);
        let place = Place::new(id, &mut self.dice);
        self.places.push(place);
        self.net.join(id.0);
        self.judge.joined();
        self.after(1000, Event::Start(who));
    }

    /// It is no member any more, has heard of it, and stops for good.
    pub(super) fn retire(&mut self, who: usize) {
        let place = &self.places[who];
        if !place.removed && self.judge.model.roster.removed.contains(&place.id.0) {
            self.report.count("a removed member stops", 1);
            self.end(who, false);
            self.places[who].removed = true;
        }
    }

    /// Also one that has nothing to say dials the others, and is told.
    fn turn_away_removed(&mut self) {
        let removed = self.judge.model.roster.removed.clone();
        for from in removed.iter().filter_map(|id| self.place_of(*id)).collect::<Vec<_>>() {
            let is_up = self.places[from].alive.is_some() || self.places[from].lost.is_some();
            let near = |to: &usize| !self.net.is_cut(from, *to) && !self.net.is_cut(*to, from);
            let others: Vec<usize> = (0..self.places.len()).filter(|to| is_up && *to != from && near(to)).collect();
            let _told = others.into_iter().any(|to| self.turns_away(from, to));
        }
    }

    /// Who has been removed is told so by those who know, and heard by nobody of them.
    pub(super) fn turns_away(&mut self, from: usize, to: usize) -> bool {
        let roster = &self.judge.model.roster;
        if roster.removed.is_empty() || !roster.removed.contains(&self.places[from].id.0) {
            return false;
        }
        let id = self.places[from].id;
        let knows = self.places[to].alive.as_ref().is_some_and(|alive| alive.machine.read().members().is_removed(id));
        if knows && !self.places[from].removed {
            self.after(1000, Event::Retire(from));
        }
        knows
    }
}
