//! What comes from outside to the Learn screen, and what it changes there.

use super::Learn;
use super::after_deed;
use super::page;
use super::reveal;
use super::show_end;
use crate::lab::guide::Checked;
use crate::lab::guide::Item;
use crate::lab::guide::Output;
use crate::lab::guide::Session;
use crate::lab::picture::Tone;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;

/// What the outside says to this screen.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The lab is open on this cluster.
    Opened(Box<Session>),
    /// It is not; why.
    NotOpened(String),
    /// What has come of something that this opening of a lab has asked for.
    Came { opening: u64, what: Came },
}

/// What has come of something that takes time.
#[derive(Clone, Debug)]
pub enum Came {
    /// A step was set up anew, or not; why.
    Redone(Result<Box<Session>, String>),
    /// A block has ended, or could not be started.
    Ran { id: String, result: Result<Output, String> },
    /// The checks of a step were looked at.
    Checked { step: usize, seq: u64, checked: Vec<Checked> },
}

/// Something came from outside.
pub(crate) fn hear(model: &mut Model, heard: Heard) -> Option<Cmd> {
    match heard {
        Heard::Opened(session) => {
            open(model, *session);
            None
        }
        Heard::NotOpened(why) => {
            model.notify(Tone::Bad, format!("the lab cannot be opened: {why}"));
            None
        }
        Heard::Came { opening, what } if model.learn.as_ref().is_some_and(|l| l.opening == opening) => match what {
            Came::Redone(redone) => redone_is(model, redone),
            Came::Ran { id, result } => ran(model, &id, result),
            Came::Checked { step, seq, checked } => {
                looked_at(model, step, seq, checked);
                None
            }
        },
        // Of a lab that was left, or of the cluster before this one.
        Heard::Came { .. } => None,
    }
}

fn open(model: &mut Model, session: Session) -> &mut Learn {
    // A window that asks something of the page before would take its answer to this one.
    if let Some(Overlay::Answer { .. } | Overlay::Guess { .. }) = model.overlay {
        model.overlay = None;
    }
    model.openings += 1;
    model.learn.insert(Learn::new(session, model.openings))
}

/// A step was set up, or not.
fn redone_is(model: &mut Model, redone: Result<Box<Session>, String>) -> Option<Cmd> {
    let now = model.now();
    match redone {
        Ok(mut session) => {
            model.notify(Tone::Good, format!("step {} is ready, on a fresh cluster", session.at() + 1));
            if let Some(learn) = &model.learn {
                session.go_on_from(&learn.session);
            }
            open(model, *session).look_anew(now)
        }
        Err(why) => {
            model.learn.as_mut()?.running = None;
            model.notify(Tone::Bad, format!("the step could not be set up: {why}"));
            None
        }
    }
}

/// A block has ended.
fn ran(model: &mut Model, id: &str, result: Result<Output, String>) -> Option<Cmd> {
    let now = model.now();
    let learn = model.learn.as_mut()?;
    learn.running = learn.running.take().filter(|(running, _)| running != id);
    // One of the step before, which the learner has left meanwhile, is no deed in this one.
    learn.acted |= learn.session.items().iter().any(|item| matches!(item, Item::Run(run) if run.id == id));
    let taken = result.and_then(|output| learn.session.take(id, output));
    // Whatever was said while it ran is over.
    model.notice = None;
    if let Err(why) = taken {
        model.notify(Tone::Bad, why);
    }
    after_deed(model);
    model.learn.as_mut()?.look_anew(now)
}

/// The checks of a step were looked at.
fn looked_at(model: &mut Model, step: usize, seq: u64, checked: Vec<Checked>) {
    let Some(before) = page(model) else { return };
    let Some(learn) = &mut model.learn else { return };
    // What was asked before the learner's last action is no news.
    if step != learn.session.at() || seq <= learn.stale.max(learn.answered) || learn.is_set_up() {
        return;
    }
    let (seen, at_end) = (learn.is_seen(before), learn.is_theirs() && learn.is_at_end(before));
    let acted = learn.acted;
    learn.session.waits_for(&checked, acted);
    (learn.answered, learn.checked) = (seq, checked);
    let (passed, all) = learn.passed();
    if all > 0 && passed == all {
        learn.session.step_is_done();
    }
    // The checks may need more room now, and the page has less.
    if seen && page(model).is_some_and(|after| after.height < before.height) {
        reveal(model);
    }
    if at_end {
        show_end(model);
    }
}

/// Whether a message changes what is seen; checks that say the same again do not.
pub(crate) fn is_news(model: &Model, heard: &Heard) -> bool {
    match (heard, &model.learn) {
        (Heard::Came { opening, what: Came::Checked { checked, .. } }, Some(learn)) => {
            model.screen == Screen::Learn && *opening == learn.opening && *checked != learn.checked
        }
        _ => true,
    }
}
