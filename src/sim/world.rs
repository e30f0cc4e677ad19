//! The world: one queue of what happens next, one clock, one source of chance.

use super::ANSWERED_PERCENT;
use super::Plan;
use super::Report;
use super::Size;
use super::disk::SimDisk;
use super::disk::Trouble;
use super::failover::Act;
use super::failover::Drill;
use super::faults::Bout;
use super::faults::Fault;
use super::hands::Fact;
use super::judge::Judge;
use super::judge::Verdict;
use super::lost::Gift;
use super::member;
use super::member::Alive;
use super::member::Applied;
use super::member::Input;
use super::member::MEMBER_DIR;
use super::member::Started;
use super::member::Step;
use super::member::TICK_MS;
use super::member::Waits;
use super::net::Net;
use super::net::Packet;
use super::operator::Operator;
use super::operator::REMOVED_STOPS_AFTER_US;
use super::snapshots::Parcel;
use super::snapshots::Receipt;
use super::snapshots::Shelf;
use super::talk::Client;
use super::talk::Op;
use super::talk::SPECIAL_CLIENTS;
use super::talk::Told;
use super::tape::Tape;
use super::watcher::Watcher;
use crate::apply::Limits;
use crate::error::Error;
use crate::membership::Founders;
use crate::membership::Members;
use crate::proto::raftpb::MessageType;
use crate::types::MemberId;
use crate::types::Millis;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;

/// How long a disk stays full, at most.
const FULL_US: u64 = 1_000_000;

/// Nobody in particular, on the tape.
pub(super) const NOBODY: usize = usize::MAX;

/// How many millionths a clock is fast or slow, at most.
const DRIFT_MOST: i64 = 10_000;

/// What happens at some time. Numbers after a member are its life: what was meant for an earlier one does not happen.
pub(super) enum Event {
    Tick(usize, u64),
    Turn(usize, u64),
    Apply(usize, u64),
    Flush(usize, u64),
    Store(usize, u64),
    Leases(usize, u64),
    Renew(usize, u64, u64),
    Arrive(Packet),
    Parcel(Box<Parcel>),
    Receipt(Receipt),
    Client(usize),
    Watch(usize),
    Fault,
    Undo(Fault),
    Start(usize),
    /// A member notices that this one's process has ended.
    Lost(usize, u64, usize),
    /// A member's turn to replace a leader may have come.
    Due(usize, u64),
    /// A member without state asks another for it, or gets it.
    Beg(usize, u64),
    State(Box<Gift>),
    Campaign(usize),
    Drill(Act),
    /// A removed member stops.
    Retire(usize),
}

/// An event that waits for its time; of two at the same time, the one that was queued first comes first.
struct Queued {
    time: u64,
    number: u64,
    event: Event,
}

impl Ord for Queued {
    /// The earliest is the greatest: a heap gives that first.
    fn cmp(&self, other: &Queued) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Queued {}

/// A place for a member: its disk and store stay when it dies.
pub(super) struct Place {
    pub(super) id: MemberId,
    pub(super) disk: SimDisk,
    pub(super) shelf: Shelf,
    pub(super) alive: Option<Alive>,
    /// It runs, and waits for another member's state.
    pub(super) lost: Option<Box<member::Lost>>,
    pub(super) life: u64,
    /// Its state was harmed, so that it may have to begin anew.
    pub(super) spoiled: bool,
    /// It is no member any more.
    pub(super) removed: bool,
    /// It loses its power right after the next vote that it sends.
    pub(super) dies_voting: bool,
    /// Stopped until then.
    pub(super) paused: u64,
    /// Its raft thread waits for the disk until then.
    busy: u64,
    turn_queued: bool,
    apply_queued: bool,
    /// Its clock: so many millionths faster.
    drift: i64,
    /// A bit of its disk was flipped.
    pub(super) rotten: bool,
    /// Rot was found, and the member refused to start.
    pub(super) refused: bool,
    pub(super) sync_us: u64,
    pub(super) apply_us: u64,
}

impl Place {
    pub(super) fn new(id: MemberId, dice: &mut StdRng) -> Place {
        Place {
            id,
            disk: SimDisk::new(),
            shelf: Shelf::default(),
            alive: None,
            lost: None,
            life: 0,
            spoiled: false,
            removed: false,
            dies_voting: false,
            paused: 0,
            busy: 0,
            turn_queued: false,
            apply_queued: false,
            drift: dice.random_range(-DRIFT_MOST..DRIFT_MOST),
            rotten: false,
            refused: false,
            sync_us: 300,
            apply_us: 300,
        }
    }

    /// Its disk and its state machine are as fast as ever.
    pub(super) fn is_quick(&self) -> bool {
        self.sync_us == 300 && self.apply_us == 300
    }
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) dice: StdRng,
    pub(super) now: u64,
    queue: BinaryHeap<Queued>,
    queued: u64,
    pub(super) places: Vec<Place>,
    pub(super) net: Net,
    pub(super) judge: Judge,
    pub(super) founders: Members,
    pub(super) clients: Vec<Client>,
    pub(super) ops: BTreeMap<u64, Op>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) leases: Vec<i64>,
    pub(super) next_request: u64,
    pub(super) asked: u64,
    pub(super) tape: Tape,
    pub(super) report: Report,
    /// Faults are over: everything must come back.
    pub(super) healing: bool,
    pub(super) bout: Bout,
    pub(super) drill: Option<Drill>,
    pub(super) operator: Operator,
    /// Nobody asks any more.
    pub(super) silent: bool,
    /// What clients were told, by the number of their question, if somebody wants to know.
    pub(super) told: Option<BTreeMap<u64, Told>>,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, tape: Tape) -> World {
        let founders: Founders =
            (0..plan.members).map(|n| (format!("m{n}"), vec![format!("http://10.0.0.{n}:2380")])).collect();
        let founders = Members::bootstrap(&founders, "simulation").expect("the names differ");
        let ids = (0..plan.members).map(|n| founders.by_name(&format!("m{n}")).expect("a founder").id).collect();
        World::of(seed, plan, tape, founders, ids)
    }

    /// The same with members of somebody's choice; `ids` are theirs, by their places.
    pub(super) fn of(seed: u64, plan: Plan, tape: Tape, founders: Members, ids: Vec<MemberId>) -> World {
        let mut dice = StdRng::seed_from_u64(seed);
        let places = ids.iter().map(|id| Place::new(*id, &mut dice)).collect();
        let judge = Judge::new(plan.members);
        let watchers = (0..plan.watchers).map(|_| Watcher::new(&judge.model, &mut dice)).collect();
        World {
            net: Net::new(ids.iter().map(|id| id.0).collect(), plan.weather),
            operator: Operator::of(&plan),
            clients: (0..plan.clients + SPECIAL_CLIENTS).map(|_| Client::default()).collect(),
            plan,
            dice,
            now: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            places,
            judge,
            founders,
            ops: BTreeMap::new(),
            watchers,
            leases: Vec::new(),
            next_request: 1,
            asked: 0,
            tape,
            report: Report::default(),
            healing: false,
            bout: Bout::default(),
            drill: None,
            silent: false,
            told: None,
        }
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|queued| queued.time)
    }

    /// What was put off until then happens now, in its order.
    pub(super) fn happens_now(&mut self, then: u64) {
        let all = std::mem::take(&mut self.queue).into_sorted_vec();
        let now = self.now;
        let moved = all
            .into_iter()
            .map(|queued| Queued { time: if queued.time == then { now } else { queued.time }, ..queued });
        self.queue = moved.collect();
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Queued { time: time.max(self.now), number: self.queued, event });
    }

    pub(super) fn after(&mut self, us: u64, event: Event) {
        self.at(self.now + us, event);
    }

    pub(super) fn up_to(&mut self, us: u64) -> u64 {
        self.dice.random_range(1..=us.max(1))
    }

    /// What happens first.
    pub(super) fn begin(&mut self) {
        for who in 0..self.places.len() {
            self.at(0, Event::Start(who));
        }
        for client in 0..self.plan.clients {
            let start = 400_000 + self.up_to(50_000);
            self.at(start, Event::Client(client));
        }
        for watcher in 0..self.watchers.len() {
            let start = self.up_to(1_000_000);
            self.at(start, Event::Watch(watcher));
        }
        self.at(500_000, Event::Fault);
        self.at(600_000, Event::Client(self.operators()));
    }

    /// Plays the whole run.
    pub(super) fn play(&mut self) -> Verdict {
        self.begin();
        while self.asked < self.plan.ops || self.report.faults < self.plan.faults {
            self.step()?;
        }
        self.settle()
    }

    /// The next thing that happens.
    pub(super) fn step(&mut self) -> Verdict {
        let Some(Queued { time, event, .. }) = self.queue.pop() else { return Err("nothing happens any more".into()) };
        self.now = time;
        let who = match &event {
            Event::Tick(who, life)
            | Event::Turn(who, life)
            | Event::Apply(who, life)
            | Event::Flush(who, life)
            | Event::Store(who, life)
            | Event::Renew(who, life, _)
            | Event::Due(who, life)
            | Event::Lost(who, life, _)
            | Event::Leases(who, life) => {
                if self.places[*who].life != *life || self.places[*who].alive.is_none() {
                    return Ok(());
                }
                Some(*who)
            }
            Event::Receipt(Receipt { leader, life, .. }) => {
                if self.places[*leader].life != *life || self.places[*leader].alive.is_none() {
                    return Ok(());
                }
                Some(*leader)
            }
            Event::Arrive(packet) => Some(packet.to),
            Event::Parcel(parcel) => Some(parcel.to),
            Event::Beg(who, life) => {
                if self.places[*who].life != *life || self.places[*who].lost.is_none() {
                    return Ok(());
                }
                Some(*who)
            }
            _ => None,
        };
        if let Some(until) = who.map(|who| self.places[who].paused).filter(|until| *until > self.now) {
            self.at(until, event);
            return Ok(());
        }
        match event {
            Event::Tick(who, life) => self.tick(who, life),
            Event::Turn(who, life) => return self.turn(who, life),
            Event::Apply(who, life) => return self.apply(who, life),
            Event::Flush(who, life) => return self.flush(who, life),
            Event::Store(who, life) => return self.store(who, life),
            Event::Leases(who, life) => self.look_at_leases(who, life),
            Event::Renew(who, _, number) => return self.serve_renewal(who, number, false),
            Event::Parcel(parcel) => return self.parcel(*parcel),
            Event::Receipt(receipt) => self.receipt(receipt),
            Event::Arrive(packet) => return self.arrive(&packet),
            Event::Client(client) => return self.client(client),
            Event::Watch(watcher) => return self.watch(watcher),
            Event::Fault => return self.fault(),
            Event::Undo(fault) => self.undo(fault),
            Event::Start(who) => return self.start(who),
            Event::Lost(who, _, peer) => self.notices_loss(who, peer),
            Event::Due(who, _) => self.wake(who),
            Event::Beg(who, life) => return self.beg(who, life),
            Event::State(gift) => return self.state_comes(*gift),
            Event::Campaign(who) => self.campaign(who),
            Event::Drill(act) => return self.drill_goes_on(act),
            Event::Retire(who) => self.retire(who),
        }
        Ok(())
    }

    /// A member's own clock. It may run faster or slower than the world's.
    pub(super) fn clock(&self, who: usize) -> Millis {
        let drift = self.places[who].drift;
        let us = self.now as i64 + self.now as i64 * drift / 1_000_000;
        Millis(us as u64 / 1000)
    }

    pub(super) fn alive(&mut self, who: usize) -> &mut Alive {
        self.places[who].alive.as_mut().expect("asked of members that live only")
    }

    // Members.

    fn start(&mut self, who: usize) -> Verdict {
        let place = &self.places[who];
        if place.alive.is_some() || place.lost.is_some() || place.removed {
            return Ok(());
        }
        let seeds = (self.dice.random(), self.dice.random());
        let quota_bytes = if who == 0 { self.plan.quota } else { None };
        let (now, checkpoint_ms) = (self.clock(who), self.plan.checkpoint_ms);
        let place = &mut self.places[who];
        let limits = Limits { quota_bytes, cache_bytes: 4096 };
        let started = member::start(member::Start {
            id: place.id,
            founders: &self.founders,
            disk: &place.disk,
            shelf: &place.shelf,
            limits,
            seeds,
            now,
            checkpoint_ms,
        });
        place.life += 1;
        (place.busy, place.turn_queued, place.apply_queued) = (0, false, false);
        match started {
            Ok(Started::Alive(alive)) => self.started(who, *alive),
            Ok(Started::Lost(lost)) => self.has_lost_state(who, lost),
            Err(why) => self.start_failed(who, why),
        }
    }

    fn started(&mut self, who: usize, alive: Alive) -> Verdict {
        self.report.count("a start", 1);
        self.report.count("a torn tail is cut off", u64::from(alive.torn.is_some()));
        self.report.count("a store is rebuilt", u64::from(alive.rebuilt.is_some()));
        // While it was down, what was sent to it was lost: its connections begin anew.
        self.net.hang_up(who);
        let place = &mut self.places[who];
        let was_spoiled = std::mem::take(&mut place.spoiled) || place.rotten;
        if let Some(why) = alive.rebuilt.as_ref().filter(|_| !was_spoiled) {
            return Err(format!("m{who} cannot use its store, though nothing has harmed it: {why}"));
        }
        let life = place.life;
        let (end, applied) = (alive.log_end().0, alive.applied());
        let torn = alive.torn.clone();
        self.tape
            .note(self.now, who, end.0, || format!("starts: log to {end:?}, applied {applied}, cut off: {torn:?}"));
        self.judge.started(who, &alive)?;
        let is_removed = alive.machine.read().members().is_removed(alive.id);
        self.places[who].alive = Some(alive);
        let _voted = self.facts(who)?;
        if is_removed {
            self.retire(who);
            return Ok(());
        }
        let first = self.up_to(TICK_MS * 1000);
        self.after(first, Event::Tick(who, life));
        self.after(10_000, Event::Flush(who, life));
        self.after(100_000, Event::Leases(who, life));
        Ok(())
    }

    fn start_failed(&mut self, who: usize, why: Error) -> Verdict {
        self.tape.note(self.now, who, 0, || format!("does not start: {why}"));
        if let Some(trouble) = self.places[who].disk.struck() {
            self.die(who, trouble != Trouble::Full);
            return Ok(());
        }
        // It must say where.
        let named = matches!(&why, Error::Damaged(text) if text.contains(MEMBER_DIR));
        if self.places[who].rotten && named {
            self.report.count("rot is refused", 1);
            self.places[who].refused = true;
            return Ok(());
        }
        Err(format!("m{who} does not start: {why}"))
    }

    /// The member's process ends; with `power`, its machine loses power as well. It comes back by itself.
    pub(super) fn die(&mut self, who: usize, power: bool) {
        let back = if self.healing { 1000 } else { self.dice.random_range(10_000..1_500_000) };
        self.end(who, power);
        self.after(back, Event::Start(who));
    }

    /// The member's process ends, for now or for good.
    pub(super) fn end(&mut self, who: usize, power: bool) {
        if self.places[who].disk.struck() == Some(Trouble::Full) {
            let full = self.up_to(FULL_US);
            self.after(full, Event::Undo(Fault::FullDisk(who)));
        }
        let place = &mut self.places[who];
        place.life += 1;
        match power {
            true => place.disk.lose_power(&mut self.dice),
            false => place.disk.process_ends(),
        }
        let is_behind = place.shelf.after_stop(power, &mut self.dice);
        self.report.count("a store is set back", u64::from(is_behind));
        let dead = place.alive.take();
        (place.lost, place.paused, place.dies_voting) = (None, 0, false);
        self.net.hang_up(who);
        self.tape
            .note(self.now, who, u64::from(power), || format!("is gone{}", if power { ", its power too" } else { "" }));
        for waits in dead.into_iter().flat_map(|dead| dead.requests.into_values()) {
            if let Waits::Client(number) | Waits::Unmark(number) = waits {
                self.forget(number);
            }
        }
        // A machine without power says nothing to those who wait for it.
        if !power {
            self.tell_of_loss(who);
        }
    }

    /// The member's disk failed it: it must stop.
    pub(super) fn failed(&mut self, who: usize, why: Error) -> Verdict {
        let struck = self.places[who].disk.struck();
        self.tape.note(self.now, who, 1, || format!("stops: {why}"));
        if self.places[who].rotten && matches!(why, Error::Damaged(_)) {
            self.report.count("rot is noticed by a leader's heartbeat", 1);
            self.end(who, false);
            self.places[who].refused = true;
            return Ok(());
        }
        if struck.is_none() {
            return Err(format!("m{who} stops: {why}"));
        }
        self.report.count("a disk fails", 1);
        self.die(who, struck != Some(Trouble::Full));
        Ok(())
    }

    fn tick(&mut self, who: usize, life: u64) {
        let drift = self.places[who].drift;
        let next = (TICK_MS as i64 * 1000 - TICK_MS as i64 * drift / 1000) as u64;
        self.after(next, Event::Tick(who, life));
        self.wake(who);
    }

    /// Sees to it that the member's raft thread gets a round.
    pub(super) fn wake(&mut self, who: usize) {
        let place = &mut self.places[who];
        if place.alive.is_some() && !std::mem::replace(&mut place.turn_queued, true) {
            let (at, life) = (place.busy.max(self.now + 20), place.life);
            self.at(at, Event::Turn(who, life));
        }
    }

    fn turn(&mut self, who: usize, life: u64) -> Verdict {
        let clock = self.clock(who);
        let place = &mut self.places[who];
        place.turn_queued = false;
        let alive = place.alive.as_mut().expect("checked by the caller");
        alive.hands.sync_us = place.sync_us / 2 + self.dice.random_range(0..=place.sync_us);
        let (turn, result) = alive.turn(clock);
        place.busy = self.now + turn.took_us;
        let shows = (alive.replica.consensus.term(), alive.replica.consensus.commit(), alive.leads());
        self.tape.note(self.now, who, shows.1.0 << 20 | shows.0.0, || {
            let (term, commit, leads) = shows;
            let count = turn.messages.len();
            format!("turn: term {term}, commit {commit}{}, {count} messages", if leads { ", leads" } else { "" })
        });
        let (snapshots, messages): (Vec<_>, Vec<_>) =
            turn.messages.into_iter().partition(|(_, message)| message.msg_type() == MessageType::MsgSnapshot);
        for (offset, message) in &messages {
            let packets = self.net.send(self.now + offset, message, &mut self.dice);
            if packets.is_empty() && self.dice.random_range(0..4) == 0 && result.is_ok() {
                self.alive(who).inbox.push(Input::Unreachable(MemberId(message.to)));
            }
            for (time, packet) in packets {
                self.at(time, Event::Arrive(packet));
            }
        }
        let voted = self.facts(who)?;
        for (request, why) in turn.failed {
            self.refuse(who, request, &why)?;
        }
        for waiter in turn.refused {
            self.give_up(waiter);
        }
        for (receipt, accepted) in turn.received {
            self.received(receipt, accepted);
        }
        if let Err(why) = result {
            return self.failed(who, why);
        }
        for (_, message) in snapshots {
            self.send_snapshot(who, message)?;
        }
        let alive = self.places[who].alive.as_ref().expect("it did not fail");
        self.judge.turned(who, alive)?;
        if turn.handed {
            self.wake_apply(who, life, turn.took_us);
        }
        self.watch_for_loss(who);
        if voted && self.places[who].dies_voting {
            self.dies_voting(who);
            return Ok(());
        }
        self.serve(who)
    }

    /// Tells the judge what a member has done. True if it gave its vote to somebody else.
    fn facts(&mut self, who: usize) -> Result<bool, String> {
        let (facts, id) = (std::mem::take(&mut self.alive(who).hands.facts), self.places[who].id);
        let (mut voted, mut leads) = (false, false);
        for fact in facts {
            voted |= matches!(fact, Fact::Voted { for_whom, .. } if for_whom != id.0);
            leads |= matches!(fact, Fact::Shows { leads: true, term, .. } if self.judge.is_news(term));
            self.judge.fact(self.now, who, fact)?;
        }
        if leads {
            self.leader_is_new(who);
        }
        Ok(voted)
    }

    fn wake_apply(&mut self, who: usize, life: u64, later: u64) {
        let slow = self.places[who].apply_us;
        if !std::mem::replace(&mut self.places[who].apply_queued, true) {
            let wait = later + self.up_to(slow);
            self.after(wait, Event::Apply(who, life));
        }
    }

    fn apply(&mut self, who: usize, life: u64) -> Verdict {
        let clock = self.clock(who);
        self.places[who].apply_queued = false;
        for _ in 0..self.dice.random_range(1..20) {
            let alive = self.places[who].alive.as_mut().expect("checked by the caller");
            let Applied { entry, request, reply, began, is_compaction, is_removed } = match alive.apply(clock) {
                Ok(Some(Step::Applied(applied))) => *applied,
                Ok(Some(Step::Installed(index))) => {
                    self.installed(who, index)?;
                    continue;
                }
                Ok(None) if alive.has_todo() => continue,
                Ok(None) => break,
                Err(why) => return self.failed(who, why),
            };
            self.tape.note(self.now, who, entry.index, || {
                let revision = alive.revision();
                format!("applies {} of term {}, request {request}: revision {revision}", entry.index, entry.term)
            });
            self.report.count("a compaction", u64::from(is_compaction));
            self.judge.applied(who, entry.index, alive)?;
            if began == Some(alive.standing().term) && alive.leads() {
                self.judge.reign_began(who, alive, clock)?;
            }
            let waits = alive.requests.remove(&request);
            if is_removed {
                self.after(REMOVED_STOPS_AFTER_US, Event::Retire(who));
            }
            if let Some(waits) = waits {
                self.applied(who, waits, request, reply)?;
            }
        }
        if self.alive(who).has_todo() {
            self.wake_apply(who, life, 0);
        }
        self.wake(who);
        self.serve(who)
    }

    fn flush(&mut self, who: usize, life: u64) -> Verdict {
        if let Err(why) = self.alive(who).flush() {
            return self.failed(who, why);
        }
        let (next, store) = (self.up_to(60_000), self.up_to(20_000));
        self.after(next, Event::Flush(who, life));
        self.after(store, Event::Store(who, life));
        Ok(())
    }

    fn store(&mut self, who: usize, life: u64) -> Verdict {
        match self.alive(who).store_step() {
            Err(why) => return self.failed(who, why),
            Ok(false) => {}
            Ok(true) => {
                let next = self.up_to(5000);
                self.after(next, Event::Store(who, life));
                self.wake(who);
            }
        }
        Ok(())
    }

    fn arrive(&mut self, packet: &Packet) -> Verdict {
        if self.places[packet.to].alive.is_none() || self.turns_away(packet.from, packet.to) {
            return Ok(());
        }
        let messages = self.net.arrive(packet, &mut self.dice).map_err(|e| format!("the codec fails: {e}"))?;
        for message in messages {
            self.tape.note(self.now, packet.to, message.index << 8 | message.msg_type as u64, || {
                let (kind, term, index) = (message.msg_type(), message.term, message.index);
                let (from, count) = (packet.from, message.entries.len());
                format!(
                    "hears {kind:?} from m{from}: term {term}, index {index}, {count} entries, reject {}",
                    message.reject
                )
            });
            self.alive(packet.to).inbox.push(Input::Peer(message));
        }
        self.wake(packet.to);
        Ok(())
    }

    /// A snapshot took the place of the state: nobody can tell what became of those who wait for entries.
    fn installed(&mut self, who: usize, index: u64) -> Verdict {
        self.report.count("a snapshot is installed", 1);
        self.tape.note(self.now, who, index, || format!("installs all up to {index}"));
        let alive = self.places[who].alive.as_mut().expect("it has just done so");
        let waiting = std::mem::take(&mut alive.requests);
        alive.marks_out.clear();
        let alive = &*alive;
        self.judge.applied(who, index, alive)?;
        self.judge.same_state(who, index, alive)?;
        for waits in waiting.into_values() {
            if let Waits::Client(number) | Waits::Unmark(number) = waits {
                self.forget(number);
            }
        }
        Ok(())
    }

    // The end.

    /// All faults are undone: everything must come back, and be the same everywhere.
    fn settle(&mut self) -> Verdict {
        self.heal();
        self.run_for(15_000_000, "no leader answers a write", |world| {
            let since = world.report.writes;
            move |world: &World| world.report.writes > since + 3
        })?;
        self.silent = true;
        // Leases that nobody renews any more run out: three seconds, an election's time, and a leader's look at them.
        let leases_done = |world: &World| world.judge.model.leases().next().is_none();
        self.run_for(30_000_000, "a lease does not run out", |_| leases_done)?;
        self.run_for(20_000_000, "members do not catch up", |_| World::is_level)?;
        let complete = |world: &World| world.watchers.iter().all(|watcher| watcher.is_complete(&world.judge.model));
        self.run_for(20_000_000, "a watcher is not told everything", |_| complete)?;
        // A revoke that was proposed twice may still have been on its way.
        self.run_for(20_000_000, "members do not catch up", |_| World::is_level)?;
        for (who, place) in self.places.iter().enumerate() {
            if let Some(alive) = &place.alive
                && !place.removed
                && self.judge.model.roster.rows.contains_key(&place.id.0)
            {
                self.judge.whole(who, alive)?;
            }
        }
        for watcher in 0..self.watchers.len() {
            self.count_watcher(watcher);
        }
        for place in &self.places {
            let (begun, released) = place.disk.segments();
            self.report.count("a segment is begun", begun);
            self.report.count("a segment is released", released);
        }
        self.report.count("an election", self.judge.elections() as u64);
        self.report.count("a lease runs out", self.judge.expired);
        self.report.revisions = self.judge.model.revision() as u64;
        self.report.asked = self.asked;
        self.report.simulated_ms = self.now / 1000;
        let (share, size) = (self.report.share(), Size { ops: self.plan.ops, faults: self.plan.faults });
        let enough = !size.is_long() || share >= ANSWERED_PERCENT;
        if enough { Ok(()) } else { Err(format!("the run proves too little: {share} of 100 questions were answered")) }
    }

    /// Whether all members have applied all.
    fn is_level(&self) -> bool {
        let rows = &self.judge.model.roster.rows;
        let level = |place: &Place| match &place.alive {
            _ if !rows.contains_key(&place.id.0) => true,
            Some(alive) => alive.applied().0 == self.judge.model.index(),
            None => place.refused,
        };
        let is_there = |id: &u64| self.places.iter().any(|place| place.id.0 == *id);
        self.places.iter().all(level) && rows.keys().all(is_there)
    }

    fn run_for<D: Fn(&World) -> bool>(&mut self, us: u64, otherwise: &str, done: impl FnOnce(&World) -> D) -> Verdict {
        let (until, done) = (self.now + us, done(self));
        while !done(self) {
            if self.now > until {
                return Err(format!("after all faults are undone, {otherwise} for {} s", us / 1_000_000));
            }
            self.step()?;
        }
        Ok(())
    }
}
