//! Leaders that go, links that flap, and what members make of it: the notices behind fast failover, and drills that say when it must work.
//!
//! When a process ends, its connections close and refuse, and whoever can reach its machine notices; when its machine loses power there is
//! silence. A link can look like the end of a process too. That is harm like any other, and raft's promises must hold. In a *drill* there is no other
//! harm, so that more can be said:
//!
//! | drill | rule |
//! |---|---|
//! | the leader's process ends, and everybody notices | one new term, and its leader within the turns of all voters |
//! | a link between the leader and one follower flaps | the same leader in the same term |

use super::faults::Fault;
use super::judge::Verdict;
use super::member::Alive;
use super::member::ELECTION_MS;
use super::member::Input;
use super::net::Weather;
use super::world::Event;
use super::world::NOBODY;
use super::world::World;
use crate::types::MemberId;
use rand::Rng;

/// How long a notice takes, at most.
const NOTICE_US: u64 = 3000;
/// The turn of one voter in `replica/failover.rs`, and what an election takes beside the turns.
const TURN_US: u64 = 50_000;
const ELECTION_TAKES_US: u64 = 100_000;
/// How long a link that flaps is down or up, at most: less than an election time-out.
const FLAP_US: u64 = 150_000;

/// How often it is looked whether a drill can begin.
const LOOKS: u32 = 8;

/// What can be said of how it ends, because there is no other harm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drill {
    leader: usize,
    term: u64,
    /// The link to this one flaps; nothing: the leader's process ends.
    flapping: Option<usize>,
}

/// The steps of a drill.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// What was on its way has arrived. If somebody is still down, it is looked again so many times.
    Begin(u32),
    /// The link goes down, so many times more.
    Flap(u32),
    End,
}

impl World {
    // Notices.

    /// This member's process has ended: those who can reach its machine notice; all, some or one of them.
    pub(super) fn tell_of_loss(&mut self, gone: usize) {
        let in_drill = self.drill.is_some();
        let some = if in_drill { 0 } else { self.dice.random_range(0..4) };
        let mut told = 0;
        for who in 0..self.places.len() {
            let reaches = !self.net.is_cut(who, gone) && !self.net.is_cut(gone, who);
            let skipped = some == 1 && self.dice.random() || some == 2 && told > 0;
            if who != gone && self.places[who].alive.is_some() && reaches && !skipped {
                told += 1;
                let (life, after) = (self.places[who].life, self.up_to(NOTICE_US));
                self.after(after, Event::Lost(who, life, gone));
            }
        }
    }

    /// A redial is refused, unless the process is there again.
    pub(super) fn notices_loss(&mut self, who: usize, gone: usize) {
        if self.places[gone].alive.is_none() {
            self.takes_for_lost(who, gone);
        }
    }

    fn takes_for_lost(&mut self, who: usize, peer: usize) {
        let id = self.places[peer].id;
        self.tape.note(self.now, who, peer as u64, || format!("takes the process of m{peer} for gone"));
        self.report.count("a process is taken for gone", 1);
        self.net.takes_for_gone(who, peer);
        let Some(alive) = &mut self.places[who].alive else { return };
        alive.inbox.push(Input::Lost(id));
        self.wake(who);
    }

    /// After a turn: whether the member is about to replace a leader, and when.
    pub(super) fn watch_for_loss(&mut self, who: usize) {
        let (clock, life) = (self.clock(who), self.places[who].life);
        let Some(due) = self.places[who].alive.as_ref().and_then(|alive| alive.replica.due()) else { return };
        let wait = (due.0.saturating_sub(clock.0) * 1000).max(1000);
        self.after(wait, Event::Due(who, life));
    }

    /// A link looks as if the process behind it had ended, though it lives.
    pub(super) fn refuse_link(&mut self, who: usize) -> Option<&'static str> {
        let count = self.places.len();
        let other = (who + self.dice.random_range(1..count.max(2))) % count;
        if other == who || self.places[who].alive.is_none() {
            return None;
        }
        self.net.hang_up_pair(who, other);
        self.takes_for_lost(who, other);
        Some("refused link")
    }

    /// Two that do not hear each other campaign, one after the other, and who votes for the first loses its power at once.
    pub(super) fn rivals(&mut self, who: usize) -> Option<&'static str> {
        let voters = self.judge.model.roster.voters();
        let others: Vec<usize> = (0..self.places.len())
            .filter(|other| *other != who && voters.contains(&self.places[*other].id.0))
            .filter(|other| self.places[*other].alive.is_some())
            .collect();
        if others.len() < 2 || self.places[who].alive.is_none() {
            return None;
        }
        let first = self.dice.random_range(0..others.len());
        let rival = others[first];
        self.net.cut(who, rival, true);
        self.net.cut(rival, who, true);
        let (again, undo) = (20_000 + self.up_to(60_000), 200_000 + self.up_to(400_000));
        for other in others.iter().filter(|other| **other != rival) {
            self.places[*other].dies_voting = self.dice.random_range(0..4) > 0;
        }
        self.campaign(who);
        self.after(again, Event::Campaign(rival));
        self.after(undo, Event::Undo(Fault::Cuts));
        Some("rival candidates")
    }

    pub(super) fn campaign(&mut self, who: usize) {
        if let Some(alive) = &mut self.places[who].alive {
            alive.inbox.push(Input::Campaign);
            self.wake(who);
        }
    }

    /// It has just sent its vote, loses its power, and is back soon.
    pub(super) fn dies_voting(&mut self, who: usize) {
        self.report.count("a voter loses its power", 1);
        self.end(who, true);
        let back = 1000 + self.up_to(20_000);
        self.after(back, Event::Start(who));
    }

    // Drills.

    /// Makes the world quiet, for a drill.
    pub(super) fn drill(&mut self) -> Option<&'static str> {
        if self.drill.is_some() || self.places.len() < 3 {
            return None;
        }
        let flaps: bool = self.dice.random();
        self.places.iter_mut().for_each(|place| place.dies_voting = false);
        self.drill = Some(Drill { leader: NOBODY, term: 0, flapping: flaps.then_some(NOBODY) });
        let weather = &mut self.net.weather;
        *weather = Weather { lost: 0, posted: 0, late: 0, broken: 0, ..self.plan.weather };
        // The latest message takes a hundred times as long as others.
        let quiet = 101 * self.plan.weather.delay_us + 2 * ELECTION_MS * 1000;
        self.after(quiet, Event::Drill(Act::Begin(LOOKS)));
        Some(if flaps { "flapping link" } else { "end of the leader's process" })
    }

    pub(super) fn drill_goes_on(&mut self, act: Act) -> Verdict {
        let Some(drill) = self.drill else { return Ok(()) };
        match act {
            _ if self.healing => self.drill_ends(),
            Act::Begin(looks) => match self.cast(drill) {
                Some(drill) => self.drill_begins(drill),
                None if looks == 0 => self.drill_ends(),
                None => self.after(ELECTION_MS * 1000, Event::Drill(Act::Begin(looks - 1))),
            },
            Act::Flap(left) => self.flap(drill, left),
            Act::End => {
                self.judge_drill(drill)?;
                self.drill_ends();
            }
        }
        Ok(())
    }

    fn drill_ends(&mut self) {
        self.drill = None;
        if !self.healing {
            self.net.weather = self.plan.weather;
        }
    }

    /// Who plays which part; nothing if something is still out of order.
    fn cast(&mut self, drill: Drill) -> Option<Drill> {
        let rows = &self.judge.model.roster.rows;
        let members: Vec<usize> =
            (0..self.places.len()).filter(|who| rows.contains_key(&self.places[*who].id.0)).collect();
        let is_well = |who: &usize| {
            let place = &self.places[*who];
            let well = place.paused <= self.now && place.is_quick() && place.disk.is_sound();
            place.refused || well && place.alive.as_ref().is_some_and(|alive| !alive.has_todo())
        };
        let is_quiet = self.net.is_whole() && self.operator.is_idle() && members.iter().all(is_well);
        let leader = self.leader().filter(|_| is_quiet)?;
        let leads = self.places[leader].alive.as_ref()?.replica.consensus.term();
        let id = self.places[leader].id;
        let follows = |alive: &Alive| alive.replica.consensus.leader() == id && alive.replica.consensus.term() == leads;
        let up: Vec<usize> = members.into_iter().filter(|who| self.places[*who].alive.is_some()).collect();
        let followers: Vec<usize> = up.iter().copied().filter(|who| *who != leader).collect();
        let all_follow = up.iter().all(|who| self.places[*who].alive.as_ref().is_some_and(follows));
        let voters = self.judge.model.roster.voters();
        let voting = followers.iter().filter(|who| voters.contains(&self.places[**who].id.0)).count();
        // Without the leader, or without the one behind the link, there is a quorum of those who hear each other.
        let enough = voting > voters.len() / 2;
        if !all_follow || !enough {
            return None;
        }
        let flapping = drill.flapping.map(|_| followers[self.dice.random_range(0..followers.len())]);
        Some(Drill { leader, term: leads.0, flapping })
    }

    fn drill_begins(&mut self, drill: Drill) {
        self.drill = Some(drill);
        self.report.count("a drill", 1);
        let Drill { leader, term, flapping } = drill;
        self.tape.note(self.now, leader, term, || format!("DRILL: {drill:?}"));
        match flapping {
            Some(_) => {
                let flaps = self.dice.random_range(2..6);
                self.after(1, Event::Drill(Act::Flap(flaps)));
            }
            None => {
                self.end(leader, false);
                let voters = self.judge.model.roster.voters().len() as u64;
                let most = voters * TURN_US + ELECTION_TAKES_US;
                self.after(most, Event::Drill(Act::End));
                let back = most + self.up_to(200_000);
                self.after(back, Event::Start(leader));
            }
        }
    }

    fn flap(&mut self, drill: Drill, left: u32) {
        let Some(other) = drill.flapping else { return };
        if left == 0 {
            self.after(ELECTION_MS * 1000, Event::Drill(Act::End));
            return;
        }
        for (from, to) in [(drill.leader, other), (other, drill.leader)] {
            self.net.cut(from, to, true);
        }
        self.net.hang_up_pair(drill.leader, other);
        self.takes_for_lost(other, drill.leader);
        let (down, up) = (self.up_to(FLAP_US), self.up_to(FLAP_US));
        self.after(down, Event::Undo(Fault::Cuts));
        self.after(down + up, Event::Drill(Act::Flap(left - 1)));
    }

    fn judge_drill(&mut self, drill: Drill) -> Verdict {
        let Drill { leader, term, flapping } = drill;
        let found =
            self.leader().and_then(|who| Some((who, self.places[who].alive.as_ref()?.replica.consensus.term().0)));
        let terms = self.places.iter().filter_map(|place| place.alive.as_ref());
        let newest = terms.map(|alive| alive.replica.consensus.term().0).max();
        let (holds, expected) = match flapping {
            Some(_) => (found == Some((leader, term)) && newest == Some(term), "the same leader"),
            None => (found.is_some_and(|(_, found)| found == term + 1) && newest == Some(term + 1), "one new leader"),
        };
        self.report.count("a drill is passed", 1);
        if holds {
            Ok(())
        } else {
            Err(format!("a drill fails ({drill:?}): {expected} expected, found {found:?} of {newest:?}"))
        }
    }

    /// Who leads, and knows of nobody newer.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |who: &usize| self.places[*who].alive.as_ref().is_some_and(Alive::leads);
        let term = |who: &usize| self.places[*who].alive.as_ref().map(|alive| alive.replica.consensus.term());
        (0..self.places.len()).filter(leads).max_by_key(term)
    }

    /// The member with this id, as places are counted.
    pub(super) fn place_of(&self, id: u64) -> Option<usize> {
        self.places.iter().position(|place| place.id == MemberId(id))
    }
}
