//! What somebody who looks can do to a simulated cluster.

use super::super::client::Ask;
use super::super::disk::Trouble;
use super::super::member::Input;
use super::super::world::Event;
use super::super::world::World;
use crate::proto::etcdserverpb as pb;
use std::collections::BTreeSet;

/// How long a member that is stopped stands still.
const PAUSE_US: u64 = 3_000_000;
/// A disk that is slow takes so long for a sync; one that is not, as in `Place::new`.
const SLOW_US: u64 = 60_000;
const QUICK_US: u64 = 300;

/// What is done. Members are counted from 0; what does not fit (whom to kill is down) does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A client writes, at the leader or else at any member that runs.
    Put {
        key: String,
        value: String,
    },
    /// Its process ends, and stays away until it is started.
    Kill(usize),
    /// The same, and what its disk has not synced is gone.
    Power(usize),
    Start(usize),
    /// It stands still for three seconds.
    Pause(usize),
    /// It asks for votes now.
    Campaign(usize),
    /// Nothing passes one way.
    Cut {
        from: usize,
        to: usize,
    },
    /// Messages pass inside a group only.
    Part(Vec<Vec<usize>>),
    /// All links are whole.
    Heal,
    /// Every sync takes long, or as long as ever.
    SlowDisk {
        member: usize,
        slow: bool,
    },
    /// The next write finds no room, or the next sync fails: the process ends, and comes back by itself.
    FullDisk(usize),
    FailingDisk(usize),
    /// Nothing but what any deed does: the seed does no harm from now on.
    Calm,
}

/// Who was killed, and stays so until somebody starts it, whatever the seed had ordered before.
pub(in crate::sim) type Down = BTreeSet<usize>;

/// Ends again whom the seed has started.
pub(in crate::sim) fn keep_down(world: &mut World, down: &Down) {
    for who in down {
        if world.places[*who].alive.is_some() {
            world.end(*who, false);
        }
    }
}

pub(in crate::sim) fn perform(world: &mut World, act: &Act, down: &mut Down) {
    match act {
        Act::Kill(who) | Act::Power(who) if *who < world.places.len() => drop(down.insert(*who)),
        Act::Start(who) => drop(down.remove(who)),
        _ => {}
    }
    let runs = |world: &World, who: usize| world.places.get(who).is_some_and(|place| place.alive.is_some());
    match act {
        Act::Put { key, value } => put(world, key, value),
        Act::Kill(who) if runs(world, *who) => world.end(*who, false),
        Act::Power(who) if runs(world, *who) => world.end(*who, true),
        Act::Start(who) if *who < world.places.len() => world.after(1_000, Event::Start(*who)),
        Act::Pause(who) if runs(world, *who) => world.places[*who].paused = world.now + PAUSE_US,
        Act::Campaign(who) if runs(world, *who) => {
            world.alive(*who).inbox.push(Input::Campaign);
            world.wake(*who);
        }
        Act::Cut { from, to } => world.net.cut(*from, *to, true),
        Act::Part(groups) => part(world, groups),
        Act::Heal => world.net.heal(),
        Act::SlowDisk { member, slow } if *member < world.places.len() => {
            world.places[*member].sync_us = if *slow { SLOW_US } else { QUICK_US };
        }
        Act::FullDisk(who) if runs(world, *who) => world.places[*who].disk.order(1, Trouble::Full),
        Act::FailingDisk(who) if runs(world, *who) => world.places[*who].disk.order(1, Trouble::SyncFails),
        _ => {}
    }
}

fn put(world: &mut World, key: &str, value: &str) {
    let any = || world.places.iter().position(|place| place.alive.is_some());
    // With nobody there the client is not answered, as in life.
    let Some(who) = world.leader().or_else(any) else { return };
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
    world.ask(world.hasty(), who, Ask::Write(Box::new(request)));
}

fn part(world: &mut World, groups: &[Vec<usize>]) {
    let count = world.places.len();
    let group = |m: usize| groups.iter().position(|g| g.contains(&m)).unwrap_or(usize::MAX - m);
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            world.net.cut(from, to, group(from) != group(to));
        }
    }
}
