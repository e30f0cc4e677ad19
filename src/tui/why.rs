//! What "why …?" asks, and its answer. The answer is computed when it is drawn: a panel that stands open tells of now.

use crate::lab::Picture;
use crate::tui::Model;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;

/// What is asked. Members by their places in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Why this entry is not committed; the newest, if none is marked.
    Entry(Option<u64>),
    /// Why a watcher is behind.
    Watcher { member: usize, watch_id: i64 },
    /// Why a member does not serve.
    Serving(usize),
    /// Why a member does not lead; and before that, why one is down.
    Leading(usize),
    /// What must never happen, and whether it has.
    Promises,
}

/// The question that goes with the screen.
pub(super) fn ask(model: &Model) -> Option<Overlay> {
    let picture = model.shown()?;
    let about = match model.screen {
        Screen::Logs => About::Entry(model.cursor),
        Screen::Watch => {
            let (member, watcher) = picture.watchers().nth(model.watcher)?;
            About::Watcher { member, watch_id: watcher.watch_id }
        }
        Screen::Cluster => About::Serving(picture.missed_but(model.selected).unwrap_or(model.selected)),
        _ => About::Leading(model.selected),
    };
    picture.members.get(model.selected)?;
    Some(Overlay::Why { about, scroll: 0 })
}

/// What must never happen, and whether it has.
pub(super) fn promises(model: &Model) -> Option<Overlay> {
    model.shown().map(|_| Overlay::Why { about: About::Promises, scroll: 0 })
}

/// The question and its answer, in lines.
pub(super) fn answer(model: &Model, about: About) -> Option<(String, Vec<String>)> {
    let picture = model.shown()?;
    if about == About::Promises {
        return Some(("what must never happen".into(), picture.promises.lines()));
    }
    let (title, mut lines) = reason(picture, about)?;
    lines.extend([String::new(), "why would a write be refused, or wait?".into()]);
    lines.extend(picture.why_write_refused());
    let on_purpose = model.board.explained(&picture.member_names());
    if !on_purpose.is_empty() && model.replay.is_none() {
        lines.extend([String::new(), "what is broken on purpose?".into()]);
        lines.extend(on_purpose);
    }
    Some((title, lines))
}

fn reason(picture: &Picture, about: About) -> Option<(String, Vec<String>)> {
    let name = |member: usize| picture.members.get(member).map(|m| &m.name);
    Some(match about {
        About::Entry(index) => {
            let newest = || picture.members.iter().filter_map(|m| m.log.keys().last()).max().copied().unwrap_or(0);
            let index = index.unwrap_or_else(newest);
            (format!("why is entry {index} not committed?"), picture.why_not_committed(index))
        }
        About::Watcher { member, watch_id } => {
            let found = picture.watchers().find(|(at, watcher)| (*at, watcher.watch_id) == (member, watch_id));
            let lines = match found {
                Some((_, watcher)) => picture.why_watcher_behind(member, watcher),
                None => vec!["It is there no more: its client has cancelled it, or gone.".to_owned()],
            };
            (format!("why is watcher {watch_id} behind?"), lines)
        }
        About::Serving(member) => (format!("why does {} not serve?", name(member)?), picture.why_unstarted(member)),
        About::Leading(member) => {
            let (title, why) = (format!("why does {} not lead?", name(member)?), picture.why_not_leader(member));
            // Who asks why while one is down wonders about that one.
            match picture.missed_but(member).filter(|_| picture.leader().is_some()) {
                Some(missed) => {
                    let mut lines = picture.why_unstarted(missed);
                    lines.extend([String::new(), title]);
                    lines.extend(why);
                    (format!("why is {} not there?", name(missed)?), lines)
                }
                None => (title, why),
            }
        }
        About::Promises => return None,
    })
}
