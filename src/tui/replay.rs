//! A recording on the screens: play, step, go back. Pure, like all of `update`; the file is read outside.

use crate::lab::picture::Tone;
use crate::lab::recording::Replay;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::act;
use crate::tui::keys::Does;
use crate::tui::model::Overlay;
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
    let text =
        if is_live { "what was recorded: , back   . on   Space plays   Esc goes back to LIVE" } else { "Space pauses" };
    model.notify(Tone::Plain, text);
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
        Does::Why => model.overlay = act::why(model),
        Does::RunOn => {
            let to = replay.picture.now.plus(10_000);
            replay.seek_time(to);
            place(model);
        }
        _ if model.picture.is_some() => model.notify(Tone::Bad, "this is a recording: Esc goes back to what is now"),
        _ => model.notify(Tone::Bad, "this is a recording: there is no cluster to do that to"),
    }
    None
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

fn parse(text: &str) -> Option<Millis> {
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
