//! The Wire screen, the Ring's other side: every message one line, time downwards, members as columns.
//!
//! ```text
//!  sent          n1            n2            n3           what
//! ▸00:41.2        ├───── V? ───▶│             ┊           t4 its log ends at 12 (term 3)   arrived +21 ms
//!  00:41.2        ├──────┊───────── V? ──────┤            HELD at n3 (7)
//!  00:41.3        ┊  ◀── V+ ───┤             ┊
//! ```
//!
//! An arrow head says that the receiver has told of it; `×` that it was lost; `HELD` that it waits at the door; `…` that nobody has said.

use super::Page;
use crate::lab::Picture;
use crate::lab::picture::wires::End;
use crate::lab::picture::wires::Line;
use crate::lab::up::clock;
use crate::lab::upstream::NOT_VISIBLE;
use crate::tui::act;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr as _;

const TIME: u16 = 10;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let lines = model.wires();
    let n = picture.members.len() as u16;
    let gap = match area.width {
        0..80 => 9,
        80..110 => 10,
        _ => 14,
    };
    let lane = |m: usize| TIME + 3 + m as u16 * gap;
    let what = lane(usize::from(n)) - gap + 5;
    page.line(area, 0, " sent", page.theme.faint());
    for (m, view) in picture.members.iter().enumerate() {
        page.at(area, lane(m).saturating_sub(1), 0, &view.name, page.theme.good());
    }
    let shown = if model.routine { "" } else { "   (h shows heartbeats)" };
    let filter = if model.filter.is_empty() { String::new() } else { format!("   only {:?}", model.filter) };
    page.at(area, what, 0, &format!("what became of it{shown}{filter}"), page.theme.faint());
    if picture.is_upstream() {
        page.line(area, 2, &format!(" {NOT_VISIBLE} of its messages."), page.theme.faint());
        return;
    }
    if lines.is_empty() {
        page.line(area, 2, " No message yet: write a key (w), or press h to see heartbeats.", page.theme.faint());
        return;
    }
    let marked = model.wire.unwrap_or_else(|| lines.last().map_or(0, |l| l.number));
    let rows = usize::from(area.height.saturating_sub(1));
    // The newest are seen, unless the mark is further up.
    let at = lines.iter().position(|l| l.number >= marked).unwrap_or(lines.len() - 1);
    let from = lines.len().saturating_sub(rows).min(at);
    for (line, row) in lines[from..].iter().zip(1..area.height) {
        let here = Rect { y: area.y + row, height: 1, ..area };
        one(picture, line, line.number == marked, page, here, &lane, what);
        page.hits.push((here, Hit::Line(line.number)));
    }
}

fn one(picture: &Picture, l: &Line, marked: bool, page: &mut Page, area: Rect, lane: &dyn Fn(usize) -> u16, what: u16) {
    let style = match (&l.end, l.is_routine()) {
        (End::Held { .. }, _) => page.theme.busy(),
        (End::Lost { .. }, _) => page.theme.bad(),
        (_, true) => page.theme.faint(),
        _ => Style::new(),
    };
    let mark = if marked { "▸" } else { " " };
    page.line(
        area,
        0,
        &format!("{mark}{}", clock(l.at)),
        if marked { page.theme.marked() } else { page.theme.faint() },
    );
    for m in 0..picture.members.len() {
        page.at(area, lane(m), 0, "┊", page.theme.faint());
    }
    arrow(l, page, area, lane(l.from), lane(l.to), style);
    let end = match &l.end {
        End::Unknown => "… nobody has said".to_string(),
        End::Held { id } => {
            format!("HELD at {} ({id})", picture.members.get(l.to).map_or("?", |m| m.name.as_str()))
        }
        End::Arrived { at } => match at.0.saturating_sub(l.at.0) {
            0 => "arrived".into(),
            ms => format!("arrived +{ms} ms"),
        },
        End::Lost { why } => format!("LOST: {why}"),
    };
    let text = act::words(picture, l);
    // Who and what stands in the arrow already.
    let rest = text.splitn(5, ' ').nth(4).unwrap_or("");
    let x = page.at(area, what, 0, &end, style);
    page.at(area, (x + 2).saturating_sub(area.x), 0, rest, page.theme.faint());
}

fn arrow(l: &Line, page: &mut Page, area: Rect, from: u16, to: u16, style: Style) {
    let (left, right) = (from.min(to), from.max(to));
    if right <= left + 2 {
        return;
    }
    let to_right = to > from;
    let head = match (&l.end, to_right) {
        (End::Arrived { .. }, true) => "▶",
        (End::Arrived { .. }, false) => "◀",
        (End::Lost { .. }, _) => "×",
        (End::Held { .. }, _) => "|",
        (End::Unknown, _) => "…",
    };
    let width = usize::from(right - left - 1);
    let code = format!(" {} ", l.code());
    let dashes = width.saturating_sub(code.width() + 1);
    let (before, after) = (dashes / 2, dashes - dashes / 2);
    let line = match to_right {
        true => format!("{}{code}{}{head}", "─".repeat(before), "─".repeat(after)),
        false => format!("{head}{}{code}{}", "─".repeat(before), "─".repeat(after)),
    };
    page.at(area, left + 1, 0, &line, style);
    page.at(area, from, 0, if to_right { "├" } else { "┤" }, style);
}
