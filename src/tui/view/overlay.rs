//! What stands before the screen: help, answers to why, menus, the command line, the prompt, "leave?".

use super::Page;
use super::learn;
use super::wrap;
use crate::lab::picture::flight::CODES;
use crate::tui::command;
use crate::tui::keys;
use crate::tui::model::Item;
use crate::tui::model::Model;
use crate::tui::model::Overlay;
use crate::tui::model::QUIT;
use crate::tui::model::Question;
use crate::tui::mouse::Hit;
use crate::tui::why::answer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Block;
use ratatui::widgets::Widget as _;

/// Columns for what a row of the help explains.
const HEAD: usize = 14;

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
    ("lab clock", "what ticks, leases and messages go by; you can hold it"),
    ("held", "a message that waits at its receiver's door for the lab clock"),
    ("watcher", "a client that is told what changes, revision by revision"),
    ("synced", "a watcher that has everything and waits for what comes"),
    ("lease", "a time to live; when it runs out, its keys are deleted"),
    ("compacted", "history below this revision is gone"),
    ("promise", "what Raft and etcd never let happen, unless there is a bug"),
];

pub(super) fn draw(model: &Model, page: &mut Page, area: Rect) {
    match &model.overlay {
        None => {}
        Some(Overlay::Help { scroll }) => help(model, page, area, *scroll),
        Some(Overlay::Why { about, scroll }) => {
            let (title, lines) = answer(model, *about).unwrap_or_default();
            why(page, area, &title, &lines, *scroll);
        }
        Some(Overlay::Rights { scroll }) => {
            let lines = model.shown().map(|picture| picture.rights_lines()).unwrap_or_default();
            why(page, area, "users and roles", &lines, *scroll);
        }
        Some(Overlay::CloseUp { scroll }) => {
            let name = model.shown().and_then(|p| p.members.get(model.selected)).map_or("a member", |m| &m.name);
            let lines = model.shown().map(|picture| picture.close_lines(model.selected)).unwrap_or_default();
            why(page, area, &format!("{name} closely"), &lines, *scroll);
        }
        Some(Overlay::Menu { title, items, choice, of_member }) => {
            menu(page, area, title, (items, *choice), *of_member)
        }
        Some(Overlay::Prompt { what, text, fresh }) => prompt(page, area, *what, text, *fresh),
        Some(Overlay::Command { text }) => command_line(page, area, text),
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
    page.hits.push((at, Hit::Cover));
    let block = Block::bordered().title(format!(" {title} ")).border_style(page.theme.busy());
    let inside = block.inner(at);
    block.render(at, page.buffer);
    Rect { x: inside.x + 1, width: inside.width.saturating_sub(1), ..inside }
}

fn help(model: &Model, page: &mut Page, area: Rect, scroll: u16) {
    let place = model.base();
    let inside = window(page, area, "help (arrows and PgDn scroll, Esc leaves)", 78, area.height);
    let row = |head: &str, what: &str| {
        let room = usize::from(inside.width).saturating_sub(HEAD + 1);
        let rows = wrap(what, room).into_iter().zip([head].into_iter().chain(std::iter::repeat("")));
        rows.map(|(what, head)| (format!("{head:<HEAD$} {what}"), false)).collect::<Vec<_>>()
    };
    let mut lines: Vec<(String, bool)> = vec![("Keys".into(), true)];
    lines.extend(keys::help(place, model.is_apart()).iter().flat_map(|(key, what)| row(key, what)));
    lines.extend([(String::new(), false), ("Messages".into(), true)]);
    lines.extend(CODES.iter().flat_map(|(code, what)| row(code, what)));
    lines.push(("A dot is slower than its message, which takes less than 1 ms.".into(), false));
    lines.push(("It arrives when its receiver says so; × was dropped.".into(), false));
    lines.extend([(String::new(), false), ("Words".into(), true)]);
    lines.extend(GLOSSARY.iter().flat_map(|(word, what)| row(word, what)));
    // Scrolling ends with the last line in view.
    let skip = usize::from(scroll).min(lines.len().saturating_sub(usize::from(inside.height)));
    for ((text, heading), row) in lines.iter().skip(skip).zip(0..) {
        page.line(inside, row, text, if *heading { page.theme.good() } else { Style::new() });
    }
}

fn why(page: &mut Page, area: Rect, title: &str, lines: &[String], scroll: u16) {
    let width = 78.min(area.width);
    let lines: Vec<String> = lines.iter().flat_map(|l| folded(l, usize::from(width.saturating_sub(4)))).collect();
    let inside = window(page, area, title, width, lines.len() as u16 + 4);
    let skip = usize::from(scroll).min(lines.len().saturating_sub(usize::from(inside.height)));
    for (line, row) in lines.iter().skip(skip).zip(0..) {
        let style = match line {
            line if line.ends_with('?') => page.theme.good(),
            line if line.contains("BROKEN") => page.theme.bad(),
            _ => Style::new(),
        };
        page.line(inside, row, line, style);
    }
}

/// Wrapped, and what goes on stands further in.
pub(super) fn folded(line: &str, width: usize) -> Vec<String> {
    let indent = line.len() - line.trim_start().len();
    let mut lines = wrap(line.trim_start(), width.saturating_sub(indent + 2));
    for (i, line) in lines.iter_mut().enumerate() {
        *line = format!("{}{line}", " ".repeat(if i == 0 { indent } else { indent + 2 }));
    }
    lines
}

fn menu(page: &mut Page, area: Rect, title: &str, (items, choice): (&[Item], usize), of_member: bool) {
    let inside = window(page, area, title, 76, items.len() as u16 + 5);
    let room = usize::from(inside.height.saturating_sub(3)).max(1);
    let skip = choice.saturating_sub(room.saturating_sub(1));
    for ((i, item), row) in items.iter().enumerate().skip(skip).take(room).zip(0..) {
        let mark = if i == choice { "▸" } else { " " };
        let style = match (i == choice, &item.unfit) {
            (true, _) => page.theme.marked(),
            (false, None) => Style::new(),
            (false, Some(_)) => page.theme.faint(),
        };
        let unfit = if item.unfit.is_some() { " (not now)" } else { "" };
        page.line(inside, row, &format!("{mark} {}{unfit}", item.text), style);
        page.hit(inside, row, Hit::Line(i as u64));
    }
    let last = inside.height.saturating_sub(1);
    if let Some(item) = items.get(choice) {
        let says = item.unfit.clone().unwrap_or_else(|| format!("$ {}", item.shell));
        page.line(inside, last.saturating_sub(1), &says, page.theme.busy());
    }
    let keys = match of_member {
        true => "← → another member   Enter do it   Esc back   later: u undoes",
        false => "Enter do it   Esc back",
    };
    let below = items.len().saturating_sub(skip + room);
    let more = if below > 0 { format!("   ↓ {below} more") } else { String::new() };
    page.line(inside, last, &format!("{keys}{more}"), page.theme.faint());
}

/// A text being typed; its end is what is seen.
fn typed(page: &mut Page, inside: Rect, column: u16, text: &str, style: Style) {
    let room = usize::from(inside.width.saturating_sub(column + 1));
    let tail: String = text.chars().skip(text.chars().count().saturating_sub(room)).collect();
    let x = page.at(inside, column, 0, &tail, style);
    page.at(inside, x - inside.x, 0, "█", page.theme.busy());
}

fn prompt(page: &mut Page, area: Rect, what: Question, text: &str, fresh: bool) {
    let (title, lead, hint) = match (what, fresh) {
        (Question::Put, true) => ("write a key: KEY VALUE", "$ etcdctl put ", "Enter writes this; or type another"),
        (Question::Put, false) => ("write a key: KEY VALUE", "$ etcdctl put ", "Enter writes it"),
        (Question::WireFilter, _) => ("show only messages with…", "", "for example: n1 > n2, or V?; empty shows all"),
        (Question::DataPrefix, _) => ("go to a folder or prefix", "", "for example /registry/; empty is the top"),
    };
    let inside = window(page, area, title, 60, 5);
    let column = page.line(inside, 0, lead, page.theme.faint()) - inside.x;
    typed(page, inside, column, text, if fresh { page.theme.marked() } else { Style::new() });
    page.line(inside, 2, hint, page.theme.faint());
}

fn command_line(page: &mut Page, area: Rect, text: &str) {
    const SHOWN: u16 = 10;
    let found = command::matching(text);
    let rows = (found.len() as u16).min(SHOWN);
    let inside = window(page, area, "command (Tab completes)", 78, SHOWN + 5);
    let column = page.line(inside, 0, ":", page.theme.faint()) - inside.x;
    typed(page, inside, column, text, Style::new());
    for ((word, shape, what), row) in found.iter().zip(2..2 + rows) {
        page.line(inside, row, &format!("{:<24} {what}", format!("{word} {shape}")), page.theme.faint());
    }
    let rest = found.len().saturating_sub(usize::from(rows));
    if rest > 0 {
        page.line(inside, 2 + rows, &format!("and {rest} more: type a letter"), page.theme.faint());
    }
    if found.is_empty() {
        page.line(inside, 2, "no command begins like this", page.theme.bad());
    }
}

fn quit(model: &Model, page: &mut Page, area: Rect, choice: usize) {
    let learns = u16::from(model.learn.is_some());
    let go_on = model.picture.as_ref().is_some_and(|picture| picture.is_elsewhere);
    let title =
        if go_on { "leave the lab? its members go on, on their machines" } else { "leave the lab? its members end" };
    let inside = window(page, area, title, 66, QUIT.len() as u16 + 4 + learns);
    for (i, what) in QUIT.iter().enumerate() {
        let (mark, style) = if i == choice { ("▸", page.theme.marked()) } else { (" ", Style::new()) };
        page.line(inside, i as u16, &format!("{mark} {what}"), style);
    }
    let row = QUIT.len() as u16 + 1;
    page.line(inside, row, &format!("folder: {}", model.folder), page.theme.faint());
    if model.learn.is_some() {
        page.line(inside, row + 1, "your progress in the labs is kept in any case", page.theme.faint());
    }
}
