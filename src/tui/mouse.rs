//! The mouse: what is drawn says what a click on it means. Off unless it is asked for, since a terminal that hands clicks on selects no text.
//!
//! A click marks or shows; it never breaks anything. What is marked is done with Enter, as always.

use crate::lab::picture::Tone;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::keys::Does;
use crate::tui::keys::Place;
use crate::tui::model;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;
use crate::tui::view;
use ratatui::layout::Position;

/// What a place on the screen stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// A screen of the line of screens.
    Tab(Does),
    Member(usize),
    /// A line of the list that the screen, the menu or the opening shows.
    Line(u64),
    /// What stands before the screen: nothing below it can be hit.
    Cover,
}

/// `mouse on` and `mouse off`.
pub(super) fn switch(model: &mut Model, word: &str) -> Option<Cmd> {
    let on = match word {
        "on" => true,
        "off" => false,
        "" => !model.mouse,
        _ => {
            model.notify(Tone::Bad, "write it like this: mouse on, or mouse off");
            return None;
        }
    };
    model.mouse = on;
    model.notify(
        Tone::Plain,
        if on { "the mouse selects in the lab; :mouse off gives it back" } else { "the mouse is the terminal's" },
    );
    Some(Cmd::Mouse { on })
}

/// A click: the last thing drawn there counts.
pub(super) fn click(model: &mut Model, column: u16, row: u16) -> Option<Cmd> {
    let at = Position { x: column, y: row };
    let hit = view::hits(model).into_iter().rev().find(|(area, _)| area.contains(at)).map(|(_, hit)| hit)?;
    let place = model.place();
    match (hit, &mut model.overlay) {
        (
            Hit::Line(line),
            Some(Overlay::Menu { choice, .. } | Overlay::Quit { choice } | Overlay::Guess { choice }),
        ) => {
            *choice = line as usize;
        }
        (_, Some(_)) | (Hit::Cover, None) => {}
        (Hit::Tab(does), None) => return model::act_on(model, place, does),
        (Hit::Member(member), None) => model.selected = member,
        (Hit::Line(line), None) => mark(model, place, line),
    }
    None
}

fn mark(model: &mut Model, place: Place, line: u64) {
    match (place, model.screen) {
        (Place::Picker, _) => model.size = line as usize,
        (_, Screen::Wire) => model.wire = Some(line),
        (_, Screen::Watch) => model.watcher = line as usize,
        (_, Screen::Data) => model.data.cursor = line as usize,
        _ => {}
    }
}
