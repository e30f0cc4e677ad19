//! The Learn screen: a step's page, its checks, and the members beside or above it.
//!
//! ```text
//!  n1 F follower  n2 L leader  n3 F follower   term 2  commit 7        <- strip; wide screens have the picture instead
//!  00:12.0 put key applied on n1 n2 n3
//!  B3 First keys, in two dialects                  step 1 of 3  minute 5
//!  This is the tutorial's first command.
//! ▸  $ etcdctl set key value1                                           <- the mark
//!    Error: unknown command "set" for "etcdctl"
//!    = as expected: it fails, with exit code 1
//!  ── checks 0 of 2 ── ▸ Enter: run it ── line 12 of 40 ──────
//!  not yet  `key` holds `value1`
//! ```

use super::Page;
use super::feed;
use super::overlay::window;
use super::ring;
use super::standing;
use super::wrap;
use crate::lab::Picture;
use crate::lab::guide::AskKind;
use crate::lab::guide::Item;
use crate::lab::guide::LineKind;
use crate::lab::picture::words::counted;
use crate::lab::up::clock;
use crate::tui::learn::Learn;
use crate::tui::model::Model;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr as _;

const WINDOW: u16 = 70;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let Some(learn) = &model.learn else { return };
    let at = learn.places(area);
    if !learn.session.is_on_screen() {
        let nodes = learn.session.nodes().join(", ");
        page.line(at.strip, 0, &format!(" nodes: {nodes} (not those of screens 2 to 6)"), Style::new());
        page.line(
            at.strip,
            1,
            " 0 opens a terminal; there, on NODE COMMAND runs a command at a node",
            page.theme.faint(),
        );
    } else {
        strip(picture, page, at.strip);
    }
    title(learn, page, at.title);
    let lines = body(learn, page, at.page);
    checks(learn, page, at.checks, at.page, lines);
    if at.ring.height > 0 {
        ring::draw(model, picture, page, at.ring);
        feed(picture, page, at.feed);
    }
}

/// The lesson beside other things: to be read, and worked on elsewhere. False if none is open.
pub(super) fn beside(model: &Model, page: &mut Page, area: Rect) -> bool {
    let Some(learn) = &model.learn else { return false };
    page.rule(area, "the lesson (1: work on it)");
    let inside = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    title(learn, page, inside);
    body(learn, page, Rect { y: inside.y + 1, height: inside.height.saturating_sub(1), ..inside });
    true
}

/// Who is who, and the last thing that happened.
fn strip(picture: &Picture, page: &mut Page, area: Rect) {
    let members = picture.members.iter().map(|m| {
        let (letter, word) = standing(m, picture.now);
        let log = m.state.as_ref().filter(|_| m.is_heard(picture.now) && !m.is_down());
        let log = log.map_or(String::new(), |s| format!(" log {}", s.last_index));
        format!("{} {letter} {word}{log}", m.name)
    });
    page.line(area, 0, &format!(" {}", members.collect::<Vec<_>>().join(" │ ")), Style::new());
    if let Some(line) = picture.feed.back() {
        page.line(area, 1, &format!(" {} {}", clock(line.at), line.text), page.theme.faint());
    }
}

fn title(learn: &Learn, page: &mut Page, area: Rect) {
    let lab = learn.session.lab();
    // Without steps it is a chapter's questions.
    let (name, step) = match lab.steps.len() {
        0 => {
            let count = counted(learn.session.items().len() as u64, "question", "questions");
            (format!(" Chapter {}", lab.title), format!("{count} "))
        }
        count => (format!(" {} {}", lab.head.id, lab.title), format!("step {} of {count} ", learn.session.at() + 1)),
    };
    let room = usize::from(area.width).saturating_sub(name.width() + step.width());
    let style = page.theme.good().add_modifier(Modifier::UNDERLINED);
    page.line(area, 0, &format!("{name}{}{step}", " ".repeat(room)), style);
}

/// Draws the page; returns how many lines it has.
fn body(learn: &Learn, page: &mut Page, area: Rect) -> usize {
    let lines = learn.lines(usize::from(area.width));
    let marked = lines.iter().position(|l| l.item == Some(learn.item));
    // A terminal that has grown shows more, not the emptiness below the end.
    let scroll = learn.scroll.min(lines.len().saturating_sub(usize::from(area.height)));
    for ((n, line), row) in lines.iter().enumerate().skip(scroll).zip(0..area.height) {
        let theme = page.theme;
        let style = match line.kind {
            LineKind::Heading => theme.good(),
            LineKind::Text => Style::new(),
            LineKind::Code | LineKind::Command => Style::new().add_modifier(Modifier::BOLD),
            LineKind::Output => theme.faint(),
            LineKind::Same => theme.good(),
            LineKind::Differs => theme.bad(),
            LineKind::Question => theme.busy(),
        };
        let is_marked = Some(n) == marked;
        if is_marked {
            page.line(area, row, "▸", theme.busy());
        }
        let style = if is_marked { style.patch(theme.marked()) } else { style };
        page.at(area, 1, row, &line.text, style);
    }
    lines.len()
}

/// The rule with what Enter does and how far the page goes on, and the checks below it.
fn checks(learn: &Learn, page: &mut Page, area: Rect, body: Rect, lines: usize) {
    let (passed, count) = learn.passed();
    let last = learn.session.at() + 1 >= learn.session.lab().steps.len();
    let state = match (passed == count && count > 0, last) {
        (true, true) => match learn.session.undone().as_slice() {
            [] => format!("checks: {passed} of {count} pass, lab done, n: next"),
            [one] => format!("checks: {passed} of {count} pass, step {one} is not done (p)"),
            [first, ..] => format!("checks: {passed} of {count} pass, step {first} and more are not done (p)"),
        },
        (true, false) => format!("checks: {passed} of {count} pass, n goes on"),
        (false, _) if learn.session.lab().steps.is_empty() => {
            let items = learn.session.items();
            let answered =
                |item: &&Item<'_>| matches!(item, Item::Predict(p) if learn.session.guessed(&p.id).is_some());
            format!("{} of {} answered, n goes on with the course", items.iter().filter(answered).count(), items.len())
        }
        (false, _) => format!("checks: {passed} of {count} pass"),
    };
    let below = lines.saturating_sub(learn.scroll + usize::from(body.height));
    let more = if below > 0 { format!(" {below} more ↓ ") } else { String::new() };
    page.rule(area, &state);
    let action = learn.action();
    let x = 3 + state.width() as u16 + 3;
    if !action.is_empty() {
        page.at(area, x, 0, &format!(" ▸ {action} "), page.theme.busy());
    }
    page.at(area, area.width.saturating_sub(more.width() as u16 + 2), 0, &more, page.theme.faint());
    for ((tone, line), row) in learn.check_lines(usize::from(area.width)).iter().zip(1..) {
        let style = match tone {
            Some(true) => page.theme.good(),
            Some(false) => page.theme.bad(),
            None => Style::new(),
        };
        page.line(area, row, line, style);
    }
}

/// The prompt for an answer.
pub(super) fn answer(model: &Model, page: &mut Page, area: Rect, text: &str) {
    let Some(learn) = &model.learn else { return };
    let items = learn.session.items();
    let Some(Item::Ask(ask)) = items.get(learn.item) else { return };
    let mut rows = wrap(&ask.label, usize::from(WINDOW - 4));
    rows.extend(ask.options.iter().zip('a'..='z').map(|(option, letter)| format!("  {letter}) {option}")));
    let inside = window(page, area, "your answer", WINDOW, rows.len() as u16 + 6);
    for (line, row) in rows.iter().zip(0..) {
        page.line(inside, row, line, Style::new());
    }
    let row = rows.len() as u16 + 1;
    let x = page.line(inside, row, "> ", page.theme.faint());
    let room = usize::from(inside.width.saturating_sub(4));
    let tail: String = text.chars().skip(text.chars().count().saturating_sub(room)).collect();
    let x = page.at(inside, x - inside.x, row, &tail, Style::new());
    page.at(inside, x - inside.x, row, "█", page.theme.busy());
    let how = match ask.kind {
        AskKind::Text => "type it; Enter sends it, and you may answer again",
        AskKind::Choice => "type one letter; Enter sends it",
        AskKind::Order => "type all the letters in your order; Enter sends them",
    };
    page.line(inside, row + 2, how, page.theme.faint());
}

/// The options of a guess.
pub(super) fn guess(model: &Model, page: &mut Page, area: Rect, choice: usize) {
    let Some(learn) = &model.learn else { return };
    let items = learn.session.items();
    let Some(Item::Predict(predict)) = items.get(learn.item) else { return };
    let question = wrap(&predict.ask, usize::from(WINDOW - 4));
    let rows = question.len() + predict.options.len() + 5;
    let inside = window(page, area, "what do you expect?", WINDOW, rows as u16);
    for (line, row) in question.iter().zip(0..) {
        page.line(inside, row, line, Style::new());
    }
    let first = question.len() as u16 + 1;
    for (((n, option), letter), row) in predict.options.iter().enumerate().zip('a'..='z').zip(first..) {
        let (mark, style) = if n == choice { ("▸", page.theme.marked()) } else { (" ", Style::new()) };
        page.line(inside, row, &format!("{mark} {letter}) {option}"), style);
    }
    let row = first + predict.options.len() as u16 + 1;
    page.line(inside, row, "a wrong guess costs nothing; Enter locks it", page.theme.faint());
}
