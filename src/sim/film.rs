//! A simulated cluster to look at: what its members tell of themselves, event by event, as real ones tell a lab.
//!
//! The one idea: replicas have the same telemetry tap here as in a server, so a run of a seed is the same stream of events that a screen is
//! drawn from; whatever can show a recording of real members can show this, go back in it, and go on otherwise: a fork is the same run up to a
//! time, with other dice from there on. Looking changes nothing: the run's sum is the same with nobody looking.
//!
//! Whoever looks may also act: from the first deed on ([`Act`]) the seed does no harm any more, so that what happens is the deeds' doing.
//!
//! Left out: what is told by a server's other threads (requests that come in, connections); messages that the network loses just do not arrive.

pub(super) mod acts;
mod looks;

pub use acts::Act;
pub use looks::Version;

use super::Plan;
use super::Weather;
use super::panic_text;
use super::tape::Tape;
use super::world::World;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::lab;
use crate::proto::lab::Event;
use crate::proto::lab::Telemetry;
use crate::proto::lab::event::Kind;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// A moment, of whose entries so many are told in words.
const MOMENT_MS: u64 = 100;

/// What is to be filmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub seed: u64,
    /// 1, 3 or 5.
    pub members: usize,
    /// Simulated seconds.
    pub seconds: u64,
    /// From these milliseconds on, dice of these seeds; in order of time.
    pub forks: Vec<(u64, u64)>,
    /// What somebody does to it, in order of time.
    pub deeds: Vec<Deed>,
}

/// What somebody does, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    pub at_ms: u64,
    pub act: Act,
    /// How it is told.
    pub line: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A member's process starts.
    Starts,
    /// It ends.
    Ends,
    /// It tells of itself.
    Tells(Box<Telemetry>),
    /// What it answers when it is asked for what is no event.
    Looks(Box<lab::LookResponse>),
    /// What the seed does to the cluster, or undoes.
    Harm(String),
    /// What a deed of the script does.
    Did(String),
}

/// When and to whom: milliseconds of simulated time, and the member's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub at_ms: u64,
    pub who: usize,
    pub what: What,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Film {
    /// The members' names.
    pub names: Vec<String>,
    pub scenes: Vec<Scene>,
    /// Every version of every key, oldest first.
    pub history: Vec<Version>,
    /// The rule that was broken, if one was: there the film ends.
    pub broken: Option<String>,
    /// A sum over all that happened: two runs of a script have the same.
    pub sum: u64,
}

/// Few and slow clients, and calm between the faults: a person is to follow it.
fn plan(members: usize) -> Plan {
    Plan {
        members,
        clients: 2,
        watchers: 1,
        ops: u64::MAX,
        faults: u64::MAX,
        calm_most: 20,
        think_us: 400_000,
        weather: Weather { lost: 2, posted: 30, doubled: 100, late: 5, broken: 3, delay_us: 2000 },
        quota: None,
        checkpoint_ms: None,
        auth: false,
        member_changes: 0,
    }
}

/// Plays a script and films it.
#[must_use]
pub fn shoot(script: &Script) -> Film {
    play(script, true)
}

fn play(script: &Script, looks: bool) -> Film {
    let mut world = World::new(script.seed, plan(script.members), Tape::new(looks));
    let mut camera = Camera::new(script.members);
    let played = catch_unwind(AssertUnwindSafe(|| roll(script, &mut world, looks.then_some(&mut camera))));
    let broken = match played {
        Ok(verdict) => verdict.err(),
        Err(panic) => Some(panic_text(panic.as_ref())),
    };
    let names = (0..script.members).map(|n| format!("m{n}")).collect();
    let (scenes, history) = (camera.scenes, camera.history.versions);
    Film { names, scenes, history, broken, sum: world.tape.sum() }
}

fn roll(script: &Script, world: &mut World, mut camera: Option<&mut Camera>) -> Result<(), String> {
    let mut forks = script.forks.iter().peekable();
    let mut deeds = script.deeds.iter().peekable();
    let mut down = acts::Down::new();
    world.begin();
    while world.now < script.seconds * 1_000_000 {
        if let Some((_, seed)) = forks.next_if(|(ms, _)| ms * 1_000 <= world.now) {
            world.dice = StdRng::seed_from_u64(*seed);
        }
        while let Some(deed) = deeds.next_if(|deed| deed.at_ms * 1_000 <= world.now) {
            if !world.healing {
                world.heal();
            }
            acts::perform(world, &deed.act, &mut down);
            if let Some(camera) = &mut camera {
                camera.scenes.push(Scene { at_ms: world.now / 1_000, who: 0, what: What::Did(deed.line.clone()) });
            }
        }
        let verdict = world.step();
        acts::keep_down(world, &down);
        if let Some(camera) = &mut camera {
            camera.look(world);
        }
        verdict?;
    }
    Ok(())
}

/// What is known of one member's process.
#[derive(Clone, Default)]
struct Seen {
    /// Its life, while it runs.
    life: Option<u64>,
    seq: u64,
    applied: u64,
    looks: looks::Looks,
}

struct Camera {
    listeners: Listeners,
    seen: Vec<Seen>,
    scenes: Vec<Scene>,
    history: looks::History,
}

impl Camera {
    fn new(members: usize) -> Camera {
        let listeners = Listeners::default();
        listeners.join();
        Camera {
            listeners,
            seen: vec![Seen::default(); members],
            scenes: Vec::new(),
            history: looks::History::default(),
        }
    }

    /// Takes in what the last step has changed.
    fn look(&mut self, world: &mut World) {
        let at_ms = world.now / 1_000;
        for (who, line) in world.tape.fresh() {
            let is_harm = ["FAULT: ", "DRILL: ", "undone: ", "all faults", "has lost its state", "does not start"];
            if is_harm.iter().any(|word| line.starts_with(word)) {
                self.scenes.push(Scene { at_ms, who: who.unwrap_or(0), what: What::Harm(worded(who, &line)) });
            }
        }
        for who in 0..self.seen.len() {
            self.member(who, at_ms, world);
        }
    }

    fn member(&mut self, who: usize, at_ms: u64, world: &mut World) {
        let clock = world.clock(who);
        let place = &mut world.places[who];
        let (life, id) = (place.life, place.id.0);
        let seen = &mut self.seen[who];
        let mut told = Vec::new();
        let runs = place.alive.is_some();
        if seen.life.is_some_and(|known| !runs || known != life) {
            *seen = Seen::default();
            self.scenes.push(Scene { at_ms, who, what: What::Ends });
        }
        let Some(alive) = &mut place.alive else { return };
        let probe = &mut alive.replica.consensus.probe;
        told.extend(probe.drain().0);
        probe.refill(at_ms / MOMENT_MS);
        if seen.life.is_none() {
            self.scenes.push(Scene { at_ms, who, what: What::Starts });
            *seen = Seen { life: Some(life), applied: alive.applied().0, ..Seen::default() };
            alive.replica.consensus.probe = Probe::new(self.listeners.clone());
            let revision = alive.revision().0;
            let opening = lab::Snapshot { name: format!("m{who}"), revision, ..alive.replica.consensus.snapshot() };
            told.push(Event { kind: Some(Kind::Snapshot(Box::new(opening))) });
        }
        if alive.applied().0 > seen.applied {
            seen.applied = alive.applied().0;
            let applied = lab::Applied { index: seen.applied, revision: alive.revision().0 };
            told.push(Event { kind: Some(Kind::Applied(applied)) });
        }
        for event in told {
            seen.seq += 1;
            let telemetry = Telemetry {
                member_id: id,
                boot_id: life,
                at_us: world.now,
                seq: seen.seq,
                dropped: 0,
                event: Some(event),
            };
            self.scenes.push(Scene { at_ms, who, what: What::Tells(Box::new(telemetry)) });
        }
        self.history.take_in(alive);
        if let Some(look) = seen.looks.due(at_ms, clock, alive) {
            self.scenes.push(Scene { at_ms, who, what: What::Looks(Box::new(look)) });
        }
    }
}

/// `FAULT: killed` of m1 as a sentence.
fn worded(who: Option<usize>, line: &str) -> String {
    let line = line.replace("FAULT: ", "fault: ").replace("DRILL: ", "drill: ");
    who.map_or(line.clone(), |who| format!("m{who}, {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(seed: u64) -> Script {
        Script { seed, members: 3, seconds: 8, forks: Vec::new(), deeds: Vec::new() }
    }

    #[test]
    fn looking_changes_nothing_and_a_script_has_one_film() {
        let film = shoot(&script(7));
        assert_eq!(film.broken, None);
        assert_eq!(film, shoot(&script(7)));
        assert_eq!(film.sum, play(&script(7), false).sum, "the same run with nobody looking");
        assert_ne!(film.sum, shoot(&script(8)).sum);
        let tells = |is: fn(&Kind) -> bool| {
            let told = |what: &What| match what {
                What::Tells(t) => t.event.as_ref().and_then(|e| e.kind.as_ref()).is_some_and(is),
                _ => false,
            };
            film.scenes.iter().any(|scene| told(&scene.what))
        };
        assert!(tells(|k| matches!(k, Kind::Sent(_))) && tells(|k| matches!(k, Kind::Received(_))));
        assert!(tells(|k| matches!(k, Kind::Appended(_))) && tells(|k| matches!(k, Kind::Applied(_))));
        assert!(tells(|k| matches!(k, Kind::Timer(_))) && tells(|k| matches!(k, Kind::State(_))));
        let looks = |what: &What| if let What::Looks(look) = what { Some(look.clone()) } else { None };
        let looks: Vec<_> = film.scenes.iter().filter_map(|scene| looks(&scene.what)).collect();
        assert!(looks.iter().any(|l| !l.watchers.is_empty()) && looks.iter().any(|l| !l.changes.is_empty()));
        assert!(film.history.windows(2).all(|w| w[0].mod_revision <= w[1].mod_revision) && film.history.len() > 3);
        assert!(film.scenes.windows(2).all(|w| w[0].at_ms <= w[1].at_ms));
        assert!(film.scenes.iter().any(|s| matches!(s.what, What::Harm(_))), "nothing was done to it");
    }

    fn deed(at_ms: u64, act: Act) -> Deed {
        let line = format!("{act:?}");
        Deed { at_ms, act, line }
    }

    #[test]
    fn a_deed_changes_what_comes_after_it_and_nothing_before() {
        let put = |at_ms, value: &str| deed(at_ms, Act::Put { key: "mine".into(), value: value.into() });
        let deeds = vec![
            put(3_000, "a"),
            deed(4_000, Act::Kill(0)),
            put(5_500, "b"),
            deed(6_500, Act::Start(0)),
            put(7_500, "c"),
        ];
        let acted = Script { seconds: 10, deeds, ..script(7) };
        let (film, before) = (shoot(&acted), shoot(&Script { seconds: 10, ..script(7) }));
        assert_eq!(film.broken, None);
        assert_eq!(film, shoot(&acted), "the same again");
        let first = |film: &Film| film.scenes.iter().take_while(|s| s.at_ms < 3_000).cloned().collect::<Vec<_>>();
        assert_eq!(first(&film), first(&before));
        let values: Vec<&[u8]> = film.history.iter().filter(|v| v.key == b"mine").map(|v| v.value.as_slice()).collect();
        assert_eq!(values, [b"a", b"b", b"c"]);
        let did = film.scenes.iter().filter(|s| matches!(s.what, What::Did(_))).count();
        assert_eq!(did, 5);
        let of_zero = |from: u64, to: u64| {
            let is_its = |s: &&Scene| s.who == 0 && (from..to).contains(&s.at_ms);
            let of = film.scenes.iter().filter(is_its);
            of.filter(|s| matches!(s.what, What::Tells(_) | What::Starts)).count()
        };
        assert_eq!(of_zero(4_100, 6_400), 0, "a member that was killed says nothing, until it is started");
        assert!(of_zero(6_500, 10_000) > 0, "it is back");
        assert!(
            !film.scenes.iter().any(|s| s.at_ms > 3_100 && matches!(&s.what, What::Harm(l) if l.contains("fault:")))
        );
    }

    #[test]
    fn a_partition_by_hand_leaves_its_minority_behind_until_it_is_healed() {
        let deeds = vec![
            deed(2_500, Act::Calm),
            deed(3_000, Act::Part(vec![vec![0], vec![1, 2]])),
            deed(6_000, Act::Put { key: "mine".into(), value: "x".into() }),
            deed(7_000, Act::Heal),
        ];
        let film = shoot(&Script { seconds: 9, deeds, ..script(3) });
        assert_eq!(film.broken, None);
        let newest = |who: usize, from: u64, to: u64| {
            let looks = film.scenes.iter().filter(|s| s.who == who && (from..to).contains(&s.at_ms));
            let revision = |s: &Scene| if let What::Looks(look) = &s.what { Some(look.revision) } else { None };
            looks.filter_map(revision).max().expect("it is asked")
        };
        assert!(newest(0, 6_500, 7_000) < newest(1, 6_500, 7_000), "the minority is behind");
        assert!(newest(0, 8_500, 9_000) >= newest(1, 6_500, 7_000), "and catches up");
    }

    #[test]
    fn a_fork_is_the_same_until_then_and_another_from_then_on() {
        let film = shoot(&script(7));
        let fork = shoot(&Script { forks: vec![(4_000, 1)], ..script(7) });
        let before = |film: &Film| film.scenes.iter().take_while(|s| s.at_ms < 4_000).cloned().collect::<Vec<_>>();
        assert!(!before(&film).is_empty());
        assert_eq!(before(&film), before(&fork));
        assert_ne!(film.scenes, fork.scenes);
    }
}
