//! What goes wrong: drawn from the seed, one at a time or several together, each undone after a while.

use super::disk::Trouble;
use super::judge::Verdict;
use super::member::Input;
use super::net::Weather;
use super::store::SimStore;
use super::world::Event;
use super::world::NOBODY;
use super::world::World;
use crate::types::MemberId;
use rand::Rng;
use std::sync::Arc;

/// What is undone later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Cuts,
    SlowDisk(usize),
    SlowApply(usize),
    Storm,
}

impl World {
    /// Does the next harm and orders the one after it.
    pub(super) fn fault(&mut self) -> Verdict {
        if self.healing {
            return Ok(());
        }
        let next = self.up_to(2 * self.plan.fault_every_us);
        self.after(next, Event::Fault);
        let who = self.dice.random_range(0..self.places.len());
        let name = match self.dice.random_range(0..100) {
            0..=14 => self.kill(who, true),
            15..=21 => self.kill(who, false),
            22..=36 => self.trouble(who),
            37..=48 => self.pause(who),
            49..=66 => self.cut(who),
            67..=73 => self.slow(who),
            74..=80 => self.storm(),
            81..=87 => self.lead(who),
            88..=93 => self.lose_store(who),
            94..=97 => self.kill_all(),
            _ => self.rot(who),
        };
        if let Some(name) = name {
            self.report.faults += 1;
            *self.report.by_fault.entry(name).or_default() += 1;
            self.tape.note(self.now, who, self.report.faults, || format!("FAULT: {name}"));
        }
        Ok(())
    }

    fn kill(&mut self, who: usize, power: bool) -> Option<&'static str> {
        self.places[who].alive.as_ref()?;
        self.die(who, power);
        Some(if power { "power loss" } else { "killed" })
    }

    fn kill_all(&mut self) -> Option<&'static str> {
        let all: Vec<usize> = (0..self.places.len()).filter(|who| self.places[*who].alive.is_some()).collect();
        all.into_iter().for_each(|who| self.die(who, true));
        Some("power loss everywhere")
    }

    /// The disk fails in the middle of something.
    fn trouble(&mut self, who: usize) -> Option<&'static str> {
        let (trouble, name) = match self.dice.random_range(0..4) {
            0 => (Trouble::SyncFails, "failing sync"),
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
        let leader = self.places.iter().position(|place| place.alive.as_ref().is_some_and(|alive| alive.leads()))?;
        let (transfer, to) = (self.dice.random(), self.places[who].alive.as_ref()?.id);
        let (whom, input) = if transfer { (leader, Input::Transfer(MemberId(to.0))) } else { (who, Input::Campaign) };
        self.places[whom].alive.as_mut()?.inbox.push(input);
        self.wake(whom);
        Some(if transfer { "leader transfer" } else { "forced election" })
    }

    /// The store is gone at the next start, where the log can bring it back.
    fn lose_store(&mut self, who: usize) -> Option<&'static str> {
        if self.places.len() == 1 {
            return None;
        }
        self.places[who].alive.as_ref()?;
        self.die(who, true);
        self.places[who].store = Arc::new(SimStore::default());
        Some("lost store")
    }

    /// A bit flips on the disk of one member of several; it may refuse to start ever after.
    fn rot(&mut self, who: usize) -> Option<&'static str> {
        if self.places.len() < 3 || self.places.iter().any(|place| place.rotten) {
            return None;
        }
        self.places[who].alive.as_ref()?;
        self.die(who, false);
        self.places[who].rotten = self.places[who].disk.rot(&mut self.dice);
        Some("bit rot")
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        self.tape.note(self.now, NOBODY, 0, || format!("undone: {fault:?}"));
        match fault {
            Fault::Cuts => self.net.heal(),
            Fault::SlowDisk(who) => self.places[who].sync_us = 300,
            Fault::SlowApply(who) => self.places[who].apply_us = 300,
            Fault::Storm if self.healing => {}
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
            (place.paused, place.sync_us, place.apply_us) = (place.paused.min(self.now), 300, 300);
            if place.disk.struck().is_none() {
                place.disk.process_ends();
            }
            if place.alive.is_none() && !place.refused {
                self.after(1000, Event::Start(who));
            }
        }
    }
}
