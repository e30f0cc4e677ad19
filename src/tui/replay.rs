//! A recording on the screens: play, step, go back. Pure, like all of `update`; the file is read outside. A simulated cluster is a recording
//! that can also be acted on: what is done at a moment is played again from the beginning, and shown from that moment on.

use crate::lab::Deed;
use crate::lab::picture::Tone;
use crate::lab::recording::Replay;
use crate::lab::twin;
use crate::lab::twin::Twin;
use crate::lab::up::clock;
use crate::sim::film::Act;
use crate::sim::film::Script;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::act;
use crate::tui::data;
use crate::tui::keys::Does;
use crate::tui::model::Overlay;
use crate::tui::why;
use crate::types::Millis;

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Play {
    pub running: bool,
    /// So many hundredths of the recorded time pass in a second of ours.
    pub percent: u64,
    /// When it last went on, by our clock, and where it is, by the recording's.
    since: Millis,
    at: Millis,
}

impl Default for Play {
    fn default() -> Play {
        Play { running: false, percent: 100, since: Millis(0), at: Millis(0) }
    }
}

/// Speeds, in hundredths.
const SPEEDS: [u64; 8] = [5, 10, 25, 50, 100, 200, 500, 1000];

/// How far a leap goes.
const LEAP_MS: u64 = 10_000;

/// Shows a recording, from its end if this lab goes on, else from its beginning.
pub(super) fn open(model: &mut Model, mut found: Box<Replay>) {
    let is_live = model.picture.is_some();
    if is_live {
        let len = found.len();
        found.seek(len);
        found.step(false);
    }
    (model.replay, model.goal) = (Some(found), None);
    model.play = Play { running: !is_live, ..Play::default() };
    place(model);
    let text = match (is_live, model.twin.is_some()) {
        (true, _) => "what was recorded: < 10 s back  { to your last deed  Space plays  Esc to LIVE",
        (_, true) => {
            "Space pauses. What you do (w, !, :kill m0) happens at the moment that is shown; until then the seed does harm"
        }
        _ => "Space pauses",
    };
    model.notify(Tone::Plain, text);
}

/// A simulated cluster goes on otherwise from here, with dice of this seed.
pub(super) fn fork(model: &mut Model, seed: &str) -> Option<Cmd> {
    let (Some(twin), Some(replay)) = (&model.twin, &model.replay) else {
        model.notify(Tone::Bad, "only a simulated cluster can be forked: etcd-lab --sim --seed 7");
        return None;
    };
    let Ok(seed) = seed.trim().parse() else {
        model.notify(Tone::Bad, "with which dice? write it like this: fork 8");
        return None;
    };
    let at = replay.picture.now;
    let script = twin::fork(&twin.script, at, seed);
    model.notify(Tone::Good, format!("from {} on with dice of seed {seed}", clock(at)));
    play_again(model, script, at)
}

fn play_again(model: &mut Model, script: Script, at: Millis) -> Option<Cmd> {
    // What comes next is built on this, though its run is not here yet.
    model.twin.as_mut()?.script = script.clone();
    Some(Cmd::Simulate { script, at })
}

/// What the learner does to a simulated cluster, at the moment that is shown.
pub(super) fn act_there(model: &mut Model, act: Act, line: String) -> Option<Cmd> {
    let (twin, replay) = (model.twin.as_ref()?, model.replay.as_ref()?);
    let at = replay.picture.now;
    let stops = if twin.script.deeds.is_empty() { "; the seed does no harm from now on" } else { "" };
    let script = twin::with_deed(&twin.script, at, act, line.clone());
    model.notify(Tone::Plain, format!("at {}: {line}   u undoes{stops}", clock(at)));
    play_again(model, script, at)
}

/// A deed of the learner's on a simulated cluster.
pub(super) fn deed(model: &mut Model, deed: &Deed) -> Result<Cmd, String> {
    let names = model.members().iter().map(|m| m.name.clone()).collect::<Vec<_>>();
    let act = twin::act(deed)?;
    act_there(model, act, deed.line(&names)).ok_or_else(|| "there is no simulated cluster".into())
}

fn undo(model: &mut Model) -> Option<Cmd> {
    let (twin, replay) = (model.twin.as_ref()?, model.replay.as_ref()?);
    let at = replay.picture.now;
    match twin::without_last(&twin.script) {
        Some((script, line)) => {
            model.notify(Tone::Good, format!("never done: {line}"));
            play_again(model, script, at)
        }
        None => {
            model.notify(Tone::Plain, "nothing to undo");
            None
        }
    }
}

/// Shows another run, at the time to which the learner has gone while it was computed.
pub(super) fn go_on_otherwise(model: &mut Model, mut found: Box<Replay>, twin: Twin, at: Millis) -> Option<Cmd> {
    // Another one was asked for meanwhile.
    if model.twin.as_ref().is_some_and(|now| now.script != twin.script) {
        return None;
    }
    found.seek_time(model.replay.as_ref().map_or(at, |shown| shown.picture.now));
    (model.replay, model.twin) = (Some(found), Some(twin));
    place(model);
    data::refresh(model)
}

pub(super) fn leave(model: &mut Model) {
    if model.picture.is_some() {
        model.replay = None;
    }
}

/// The clock of the replay is where the picture is.
fn place(model: &mut Model) {
    if let Some(replay) = &model.replay {
        model.play.at = replay.picture.now;
    }
}

/// Lets a running replay go on.
pub(super) fn tick(model: &mut Model, now: Millis) {
    let Some(replay) = &mut model.replay else { return };
    let passed = now.0.saturating_sub(model.play.since.0);
    model.play.since = now;
    if !model.play.running {
        return;
    }
    model.changed = true;
    model.play.at = model.play.at.plus(passed * model.play.percent / 100);
    replay.seek_time(model.play.at);
    if model.play.at >= replay.end() {
        (model.play.running, model.play.at) = (false, replay.end());
    }
}

/// Keys while a recording is shown. What would act on a cluster is refused.
pub(super) fn press(model: &mut Model, does: Does) -> Option<Cmd> {
    let Some(replay) = &mut model.replay else { return None };
    match does {
        Does::Hold => {
            if model.play.at >= replay.end() {
                replay.seek(0);
                place(model);
            }
            model.play.running = !model.play.running;
        }
        Does::Step | Does::StepBack => {
            replay.step(does == Does::Step);
            model.play.running = false;
            place(model);
        }
        Does::Slower | Does::Faster => {
            let at = SPEEDS.iter().position(|s| *s == model.play.percent).unwrap_or(4);
            let by = if does == Does::Slower { -1 } else { 1 };
            model.play.percent = SPEEDS[at.saturating_add_signed(by).min(SPEEDS.len() - 1)];
        }
        Does::Write if model.twin.is_some() => act::ask_what_to_write(model),
        Does::Break if model.twin.is_some() => model.overlay = act::break_menu(model),
        Does::Undo if model.twin.is_some() => return undo(model),
        Does::CloseUp => model.overlay = Some(Overlay::CloseUp { scroll: 0 }),
        Does::Why => model.overlay = why::ask(model),
        Does::Promises => model.overlay = why::promises(model),
        Does::Rights => model.overlay = Some(Overlay::Rights { scroll: 0 }),
        Does::RunOn | Does::RunBack => {
            let now = replay.picture.now;
            let to = if does == Does::RunOn { now.plus(LEAP_MS) } else { Millis(now.0.saturating_sub(LEAP_MS)) };
            replay.seek_time(to);
            place(model);
        }
        _ if model.picture.is_some() => model.notify(Tone::Bad, "this is a recording: Esc goes back to what is now"),
        _ => model.notify(Tone::Bad, "this is a recording: there is no cluster to do that to"),
    }
    None
}

/// To the next marker or deed, or the one before.
pub(super) fn to_mark(model: &mut Model, forwards: bool) {
    let Some(replay) = &mut model.replay else {
        return model.notify(Tone::Plain, "markers are gone to in a recording: , shows what was recorded");
    };
    replay.step_to_mark(forwards);
    model.play.running = false;
    place(model);
}

/// `goto 01:12.5`, or seconds.
pub(super) fn go_to(model: &mut Model, text: &str) {
    let Some(replay) = &mut model.replay else {
        return model.notify(Tone::Bad, "goto is for recordings: , shows what was recorded");
    };
    match parse(text) {
        Some(at) => {
            replay.seek_time(at);
            model.play.running = false;
            place(model);
            model.overlay = None::<Overlay>;
        }
        None => model.notify(Tone::Bad, "write it like this: goto 00:12.5"),
    }
}

pub(super) fn parse(text: &str) -> Option<Millis> {
    let (minutes, seconds) = text.split_once(':').unwrap_or(("0", text));
    let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..1e6).contains(s))?;
    let minutes: u64 = minutes.parse().ok().filter(|m| *m < 100_000)?;
    Some(Millis(minutes * 60_000 + (seconds * 1000.0).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_minutes_and_seconds_or_seconds() {
        assert_eq!(parse("01:12.5"), Some(Millis(72_500)));
        assert_eq!(parse("3"), Some(Millis(3_000)));
        assert_eq!((parse("x"), parse("-1"), parse("")), (None, None, None));
    }
}
