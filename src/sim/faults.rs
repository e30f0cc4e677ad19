//! What goes wrong: drawn from the seed, one at a time or several together, each undone after a while.

use super::disk::Trouble;
use super::judge::Verdict;
use super::member::Input;
use super::net::Weather;
use super::world::Event;
use super::world::NOBODY;
use super::world::World;
use crate::types::MemberId;
use rand::Rng;

/// When harm is done: in bouts of a few faults close together, with calm between them until enough was answered to prove something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bout {
    /// Faults that are still to come.
    left: u32,
    /// The next bout begins after so many answers, or at that time.
    answers: u64,
    until: u64,
}

/// How far apart the faults of a bout are, at most; how often to look whether the calm is over; and how long it lasts if nobody is answered.
const BOUT_US: u64 = 200_000;
const LOOK_US: u64 = 20_000;
const CALM_US: u64 = 4_000_000;

/// What is undone later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Cuts,
    SlowDisk(usize),
    SlowApply(usize),
    FullDisk(usize),
    Storm,
}

impl World {
    /// Does the next harm and orders the one after it.
    pub(super) fn fault(&mut self) -> Verdict {
        if self.healing {
            return Ok(());
        }
        if self.drill.is_some() || !self.bout_goes_on() {
            self.after(LOOK_US, Event::Fault);
            return Ok(());
        }
        let next = self.up_to(BOUT_US);
        self.after(next, Event::Fault);
        let there: Vec<usize> = (0..self.places.len()).filter(|who| !self.places[*who].removed).collect();
        let who = there[self.dice.random_range(0..there.len())];
        let name = match self.dice.random_range(0..100) {
            0..=11 => self.kill(who, true),
            12..=19 => self.kill(who, false),
            20..=32 => self.trouble(who),
            33..=43 => self.pause(who),
            44..=57 => self.cut(who),
            58..=63 => self.slow(who),
            64..=69 => self.storm(),
            70..=74 => self.lead(who),
            75..=79 => self.rivals(who),
            80..=82 => self.refuse_link(who),
            83..=86 => self.drill(),
            87..=93 => self.lose_store(who),
            94..=96 => self.kill_all(),
            97..=98 => self.rot_store(who),
            _ => self.rot(who),
        };
        if let Some(name) = name {
            self.count_fault(who, name);
        }
        Ok(())
    }

    pub(super) fn count_fault(&mut self, who: usize, name: &'static str) {
        self.report.faults += 1;
        *self.report.by_fault.entry(name).or_default() += 1;
        self.tape.note(self.now, who, self.report.faults, || format!("FAULT: {name}"));
    }

    /// Whether a fault is due now, and if so, when the next.
    fn bout_goes_on(&mut self) -> bool {
        let answered = self.report.answered();
        if self.bout.left == 0 {
            if answered < self.bout.answers && self.now < self.bout.until {
                return false;
            }
            self.bout.left = self.dice.random_range(1..=3);
        }
        self.bout.left -= 1;
        if self.bout.left == 0 {
            (self.bout.answers, self.bout.until) = (answered + self.up_to(self.plan.calm_most), self.now + CALM_US);
        }
        true
    }

    fn kill(&mut self, who: usize, power: bool) -> Option<&'static str> {
        self.places[who].alive.as_ref()?;
        self.die(who, power);
        Some(if power { "power loss" } else { "killed" })
    }

    fn kill_all(&mut self) -> Option<&'static str> {
        let all: Vec<usize> = (0..self.places.len()).filter(|who| self.places[*who].alive.is_some()).collect();
        if all.is_empty() {
            return None;
        }
        all.into_iter().for_each(|who| self.die(who, true));
        Some("power loss everywhere")
    }

    /// The disk fails in the middle of something.
    fn trouble(&mut self, who: usize) -> Option<&'static str> {
        let (trouble, name) = match self.dice.random_range(0..4) {
            0 => (Trouble::SyncFails, "failing sync"),
            // For how long is drawn when it is full.
            1 => (Trouble::Full, "full disk"),
            _ => (Trouble::PowerLoss, "power loss at a disk call"),
        };
        let calls = self.dice.random_range(1..12);
        self.places[who].disk.order(calls, trouble);
        Some(name)
    }

    fn pause(&mut self, who: usize) -> Option<&'static str> {
        let time = if self.dice.random() { self.up_to(400_000) } else { self.up_to(3_000_000) };
        self.places[who].paused = self.now + time;
        Some("pause")
    }

    fn cut(&mut self, who: usize) -> Option<&'static str> {
        let count = self.places.len();
        if count == 1 {
            return None;
        }
        let name = match self.dice.random_range(0..4) {
            0 => {
                let to = (who + self.dice.random_range(1..count)) % count;
                self.net.cut(who, to, true);
                "one-way cut"
            }
            1 => {
                (0..count).for_each(|other| self.net.cut(who, other, true));
                "mute member"
            }
            2 => {
                (0..count).for_each(|other| {
                    self.net.cut(who, other, true);
                    self.net.cut(other, who, true);
                });
                "isolated member"
            }
            _ => {
                let side: Vec<bool> = (0..count).map(|_| self.dice.random()).collect();
                for from in 0..count {
                    (0..count).filter(|to| side[*to] != side[from]).for_each(|to| self.net.cut(from, to, true));
                }
                "partition"
            }
        };
        let time = self.up_to(1_500_000);
        self.after(time, Event::Undo(Fault::Cuts));
        Some(name)
    }

    fn slow(&mut self, who: usize) -> Option<&'static str> {
        let time = self.up_to(1_000_000);
        let name = match self.dice.random() {
            true => {
                self.places[who].sync_us = 60_000;
                self.after(time, Event::Undo(Fault::SlowDisk(who)));
                "slow disk"
            }
            false => {
                self.places[who].apply_us = 300_000;
                self.after(time, Event::Undo(Fault::SlowApply(who)));
                "slow apply"
            }
        };
        Some(name)
    }

    fn storm(&mut self) -> Option<&'static str> {
        let weather = &mut self.net.weather;
        (weather.lost, weather.posted, weather.doubled, weather.late) = (150, 400, 500, 100);
        let time = self.up_to(1_500_000);
        self.after(time, Event::Undo(Fault::Storm));
        Some("storm")
    }

    /// Leadership moves: by transfer, or because somebody campaigns.
    fn lead(&mut self, who: usize) -> Option<&'static str> {
        let leader = self.leader()?;
        let (transfer, to) = (self.dice.random(), self.places[who].alive.as_ref()?.id);
        let (whom, input) = if transfer { (leader, Input::Transfer(MemberId(to.0))) } else { (who, Input::Campaign) };
        self.places[whom].alive.as_mut()?.inbox.push(input);
        self.wake(whom);
        Some(if transfer { "leader transfer" } else { "forced election" })
    }

    /// The store is gone at the next start: the log brings it back, or another member.
    fn lose_store(&mut self, who: usize) -> Option<&'static str> {
        self.may_lose_state(who)?;
        self.die(who, true);
        self.places[who].shelf.clear();
        self.places[who].spoiled = true;
        self.report.count("a store is lost", 1);
        Some("lost store")
    }

    /// Nothing, unless the log of a member goes back to the beginning, or the others are a quorum that has kept its state.
    fn may_lose_state(&self, who: usize) -> Option<()> {
        let alive = self.places[who].alive.as_ref()?;
        let is_whole = alive.hands.log_from == 0 && self.places.len() > 1;
        (is_whole || self.is_spare(who)).then_some(())
    }

    /// A row of the store rots while its member is down; the log can bring it back, or another member.
    fn rot_store(&mut self, who: usize) -> Option<&'static str> {
        self.may_lose_state(who)?;
        self.die(who, false);
        let rotten = self.places[who].shelf.rot(&mut self.dice);
        self.places[who].spoiled = true;
        self.report.count("a store rots", u64::from(rotten));
        Some("rotten store")
    }

    /// The log of one member of several is damaged while it is down: a bit flips, or what was written to one place is found in another. It may
    /// refuse to start ever after.
    fn rot(&mut self, who: usize) -> Option<&'static str> {
        if self.places.len() < 3 || !self.is_spare(who) {
            return None;
        }
        self.places[who].alive.as_ref()?;
        self.die(who, false);
        let (flip, disk) = (self.dice.random(), &self.places[who].disk);
        self.places[who].rotten = if flip { disk.rot(&mut self.dice) } else { disk.misdirect(&mut self.dice) };
        Some(if flip { "bit rot" } else { "misdirected write" })
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        self.tape.note(self.now, NOBODY, 0, || format!("undone: {fault:?}"));
        match fault {
            Fault::Cuts => self.net.heal(),
            Fault::SlowDisk(who) => self.places[who].sync_us = 300,
            Fault::SlowApply(who) => self.places[who].apply_us = 300,
            Fault::FullDisk(who) => self.places[who].disk.make_room(),
            Fault::Storm if self.healing || self.drill.is_some() => {}
            Fault::Storm => self.net.weather = self.plan.weather,
        }
    }

    /// No more harm: what was done is undone, who is down comes back.
    pub(super) fn heal(&mut self) {
        self.healing = true;
        self.net.heal();
        // Each new leader gives all leases their full time again: a network in which leaders come and go would keep them for ever.
        self.net.weather = Weather { lost: 0, late: 0, broken: 0, ..self.plan.weather };
        self.tape.note(self.now, NOBODY, 0, || "all faults are undone".to_owned());
        for who in 0..self.places.len() {
            let place = &mut self.places[who];
            place.disk.make_room();
            place.dies_voting = false;
            (place.paused, place.sync_us, place.apply_us) = (place.paused.min(self.now), 300, 300);
            // A full disk does not stop a member whose log has room: it was hit when it prepared its next segment.
            if matches!(place.disk.struck(), None | Some(Trouble::Full)) {
                place.disk.process_ends();
            }
            if place.alive.is_none() && !place.refused && !place.removed {
                self.after(1000, Event::Start(who));
            }
        }
    }
}
