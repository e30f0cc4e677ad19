//! What stands before the screen: help, the Break menu, the prompt, "leave?".

use super::Page;
use super::learn;
use super::standing;
use crate::lab::picture::flight::CODES;
use crate::tui::keys;
use crate::tui::keys::Place;
use crate::tui::model::FAULTS;
use crate::tui::model::Model;
use crate::tui::model::Overlay;
use crate::tui::model::QUIT;
use crate::tui::model::Screen;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Block;
use ratatui::widgets::Widget as _;

/// The words on the screens.
const GLOSSARY: &[(&str, &str)] = &[
    ("member", "one etcd server of the cluster: a process with its own disk"),
    ("leader", "the member through which all writes go; one per term"),
    ("term", "counts elections; a higher term always wins"),
    ("candidate", "asks the others to vote for it"),
    ("pre-vote", "asks first whether it could win, without disturbing anybody"),
    ("quorum", "more than half of the members: enough to decide"),
    ("election timer", "when it runs out without a heartbeat, a member tries to lead"),
    ("log", "the list of writes, the same on all members in the end"),
    ("index", "an entry's place in the log"),
    ("committed", "on the disks of a quorum: cannot be lost any more"),
    ("applied", "carried out in the key-value store: clients can read it"),
    ("revision", "counts changes of the store; not the same as the index"),
    ("match, next", "how far a follower has the leader's log; what it gets next"),
];

pub(super) fn draw(model: &Model, page: &mut Page, area: Rect) {
    match &model.overlay {
        None => {}
        Some(Overlay::Help { scroll }) => help(model, page, area, *scroll),
        Some(Overlay::Break { choice }) => break_menu(model, page, area, *choice),
        Some(Overlay::Prompt { text, fresh }) => prompt(page, area, text, *fresh),
        Some(Overlay::Answer { text }) => learn::answer(model, page, area, text),
        Some(Overlay::Guess { choice }) => learn::guess(model, page, area, *choice),
        Some(Overlay::Quit { choice }) => quit(model, page, area, *choice),
    }
}

/// An empty box in the middle; returns its inside.
pub(super) fn window(page: &mut Page, area: Rect, title: &str, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height.saturating_sub(2)));
    let at = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    page.clear(at);
    let block = Block::bordered().title(format!(" {title} ")).border_style(page.theme.busy());
    let inside = block.inner(at);
    block.render(at, page.buffer);
    Rect { x: inside.x + 1, width: inside.width.saturating_sub(1), ..inside }
}

fn help(model: &Model, page: &mut Page, area: Rect, scroll: u16) {
    let place = match (model.picture.is_some(), model.screen) {
        (false, _) => Place::Picker,
        (true, Screen::Learn) => Place::Learn,
        (true, Screen::Ring) => Place::Ring,
        (true, Screen::Logs) => Place::Logs,
    };
    let mut lines: Vec<(String, bool)> = vec![("Keys".into(), true)];
    lines.extend(keys::help(place).into_iter().map(|(key, what)| (format!("{key:<13} {what}"), false)));
    lines.extend([(String::new(), false), ("Messages".into(), true)]);
    lines.extend(CODES.iter().map(|(code, what)| (format!("{code:<13} {what}"), false)));
    lines.push(("A dot is slower than its message, which takes less than 1 ms.".into(), false));
    lines.push(("It arrives when its receiver says so; × was dropped.".into(), false));
    lines.extend([(String::new(), false), ("Words".into(), true)]);
    lines.extend(GLOSSARY.iter().map(|(word, what)| (format!("{word:<14} {what}"), false)));
    let inside = window(page, area, "help (arrows scroll, Esc leaves)", 78, area.height);
    // Scrolling ends with the last line in view.
    let skip = usize::from(scroll).min(lines.len().saturating_sub(usize::from(inside.height)));
    for ((text, heading), row) in lines.iter().skip(skip).zip(0..) {
        page.line(inside, row, text, if *heading { page.theme.good() } else { Style::new() });
    }
}

fn break_menu(model: &Model, page: &mut Page, area: Rect, choice: usize) {
    let Some(picture) = &model.picture else { return };
    let Some(m) = picture.members.get(model.selected) else { return };
    let (_, word) = standing(m, picture.now);
    let inside = window(page, area, &format!("break {} ({word})", m.name), 66, FAULTS.len() as u16 + 4);
    for (i, (fault, what)) in FAULTS.iter().enumerate() {
        let mark = if i == choice { "▸" } else { " " };
        let style = match (i == choice, Model::fits(*fault, m)) {
            (true, _) => page.theme.marked(),
            (false, true) => Style::new(),
            (false, false) => page.theme.faint(),
        };
        let unfit = if Model::fits(*fault, m) { "" } else { " (not now)" };
        page.line(inside, i as u16, &format!("{mark} {what}{unfit}"), style);
    }
    page.line(
        inside,
        FAULTS.len() as u16 + 1,
        "← → another member   Enter do it   Esc back   later: u undoes",
        page.theme.faint(),
    );
}

fn prompt(page: &mut Page, area: Rect, text: &str, fresh: bool) {
    let inside = window(page, area, "write a key: KEY VALUE", 60, 5);
    let x = page.line(inside, 0, "put ", page.theme.faint());
    let column = x - inside.x;
    // The end of a long text is what is being typed.
    let room = usize::from(inside.width.saturating_sub(column + 1));
    let tail: String = text.chars().skip(text.chars().count().saturating_sub(room)).collect();
    let x = page.at(inside, column, 0, &tail, if fresh { page.theme.marked() } else { Style::new() });
    page.at(inside, x - inside.x, 0, "█", page.theme.busy());
    let hint = if fresh { "Enter writes this; or type another" } else { "Enter writes it" };
    page.line(inside, 2, hint, page.theme.faint());
}

fn quit(model: &Model, page: &mut Page, area: Rect, choice: usize) {
    let inside = window(page, area, "leave the lab? its members end", 66, QUIT.len() as u16 + 4);
    for (i, what) in QUIT.iter().enumerate() {
        let (mark, style) = if i == choice { ("▸", page.theme.marked()) } else { (" ", Style::new()) };
        page.line(inside, i as u16, &format!("{mark} {what}"), style);
    }
    page.line(inside, QUIT.len() as u16 + 1, &format!("folder: {}", model.folder), page.theme.faint());
}
