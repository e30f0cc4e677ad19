//! The Logs screen: the same index in the same column for every member.
//!
//! ```text
//!  index      5    6    7    8    9
//!  term     t2░░░░░░░░░ t3▒▒▒▒▒▒▒▒▒
//! ▸n1 L t3  [2]  [2]  [3]  [3]  (3)
//!  n2 F t3  [2]  [2]  [3]  [3)
//!  n3 F t2  [2]  [2]  {2}                    <- another term than the leader's: it will be replaced
//!
//!  entry 9 on n1: put a, term 3, 41 bytes: on disk, not committed; it is on n1
//!
//!  member  log  disk  commit  applied  revision   the leader knows
//!  n2        8     8       7        7         5   match 8  next 9  replicate
//! ```

use super::Page;
use super::standing;
use crate::lab::Picture;
use crate::lab::picture::Entry;
use crate::lab::picture::MemberView;
use crate::lab::upstream::NOT_VISIBLE;
use crate::proto::lab::EntryKind;
use crate::tui::look;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::style::Style;

const CELL: u16 = 6;
const NAMES: u16 = 10;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let last = picture.members.iter().filter_map(|m| m.log.last_key_value()).map(|(i, _)| *i).max().unwrap_or(0);
    if picture.is_upstream() {
        page.line(area, 1, &format!(" {NOT_VISIBLE} of its log's entries."), page.theme.faint());
        return;
    }
    if last == 0 {
        page.line(area, 1, " No log entry was reported yet.", page.theme.faint());
        return;
    }
    let cells = u64::from(area.width.saturating_sub(NAMES) / CELL).max(1);
    let cursor = model.cursor.unwrap_or(last).min(last);
    // The newest entries, unless the cursor is further back.
    let from = (last + 1).saturating_sub(cells).min(cursor).max(1);
    let window = Window { from, to: (from + cells - 1).min(last), cursor };
    indexes(picture, page, area, &window);
    let rows = picture.members.len() as u16;
    for ((i, m), row) in picture.members.iter().enumerate().zip(2..) {
        page.hit(area, row, Hit::Member(i));
        row_of(
            picture,
            m,
            i == model.selected,
            page,
            Rect { y: area.y + row, height: 1, ..area }.intersection(area),
            &window,
        );
    }
    let below = Rect { y: area.y + rows + 3, height: area.height.saturating_sub(rows + 3), ..area };
    // A small screen has the legend's line for better things.
    let legend = below.height > rows + 5;
    if legend {
        let text = " [n] applied  [n) committed  (n) on disk  <n> in memory  {n} will be replaced";
        page.line(below, 0, text, page.theme.faint());
    }
    let skip = u16::from(legend) * 2;
    let below = Rect { y: below.y + skip, height: below.height.saturating_sub(skip), ..below };
    inspect(model, picture, page, below, cursor);
    let used = 2 + u16::from(legend);
    watermarks(picture, page, Rect { y: below.y + used, height: below.height.saturating_sub(used), ..below });
}

struct Window {
    from: u64,
    to: u64,
    cursor: u64,
}

/// The entry at an index that counts: the leader's, or else any.
fn authority(picture: &Picture, index: u64) -> Option<&Entry> {
    let leader = picture.leader().and_then(|l| picture.members[l].log.get(&index));
    leader.or_else(|| picture.members.iter().find_map(|m| m.log.get(&index)))
}

fn indexes(picture: &Picture, page: &mut Page, area: Rect, w: &Window) {
    page.line(area, 0, " index", page.theme.faint());
    page.line(area, 1, " term", page.theme.faint());
    let mut before = None;
    for (index, column) in (w.from..=w.to).zip((NAMES..).step_by(usize::from(CELL))) {
        let style = if index == w.cursor { page.theme.marked() } else { page.theme.faint() };
        page.at(area, column, 0, &format!("{index:>4} "), style);
        let Some(term) = authority(picture, index).map(|e| e.term) else { continue };
        let hatch = look::hatch(term).to_string();
        let name =
            if before == Some(term) { hatch.repeat(usize::from(CELL)) } else { format!("t{term}{}", hatch.repeat(5)) };
        before = Some(term);
        page.at(Rect { width: area.width.min(column + CELL), ..area }, column, 1, &name, page.theme.faint());
    }
}

fn row_of(picture: &Picture, m: &MemberView, selected: bool, page: &mut Page, area: Rect, w: &Window) {
    let (letter, _) = standing(m, picture.now);
    let term = m.state.as_ref().map_or(String::new(), |s| format!("t{}", s.term));
    let heard = m.is_heard(picture.now) && !m.is_down();
    let style = page.theme.role(if heard { m.role(picture.now) } else { None });
    page.line(area, 0, &format!("{}{} {letter} {term}", if selected { "▸" } else { " " }, m.name), style);
    for (index, column) in (w.from..=w.to).zip((NAMES..).step_by(usize::from(CELL))) {
        let Some(entry) = m.log.get(&index) else { continue };
        let mut style = if heard { Style::new() } else { page.theme.faint() };
        if selected && index == w.cursor {
            style = style.add_modifier(Modifier::REVERSED);
        }
        page.at(area, column, 0, &cell(picture, m, index, entry), style);
    }
}

/// An entry's term between brackets that say how far it is.
fn cell(picture: &Picture, m: &MemberView, index: u64, entry: &Entry) -> String {
    let (open, close) = match stage(picture, m, index, entry) {
        Stage::Foreign => ('{', '}'),
        Stage::Memory => ('<', '>'),
        Stage::Disk => ('(', ')'),
        Stage::Committed => ('[', ')'),
        Stage::Applied => ('[', ']'),
    };
    format!("{:>5}", format!("{open}{}{close}", entry.term))
}

/// How far an entry is on one member, as that member last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The leader has another entry there.
    Foreign,
    Memory,
    Disk,
    Committed,
    Applied,
}

fn stage(picture: &Picture, m: &MemberView, index: u64, entry: &Entry) -> Stage {
    let Some(s) = &m.state else { return Stage::Memory };
    if index <= s.applied {
        Stage::Applied
    } else if index <= s.commit {
        Stage::Committed
    } else if authority(picture, index).is_some_and(|e| e.term > entry.term) {
        Stage::Foreign
    } else if index <= s.persisted {
        Stage::Disk
    } else {
        Stage::Memory
    }
}

/// The marked entry in words.
fn inspect(model: &Model, picture: &Picture, page: &mut Page, area: Rect, index: u64) {
    let Some(m) = picture.members.get(model.selected) else { return };
    let Some(entry) = m.log.get(&index) else {
        let known = m.log.first_key_value().is_some_and(|(first, _)| *first > index);
        let text = if known { "older than what it has told us" } else { "it does not have this entry" };
        page.line(area, 0, &format!(" entry {index} on {}: {text}", m.name), Style::new());
        return;
    };
    let kind = match entry.kind {
        EntryKind::Normal => entry.summary.clone(),
        EntryKind::ConfChange => format!("member change {}", entry.summary),
        EntryKind::Empty => "empty, a new leader's first".into(),
    };
    let stage = match stage(picture, m, index, entry) {
        Stage::Foreign => "the leader has another entry here: this one will be replaced",
        Stage::Memory => "not on this disk yet",
        Stage::Disk => "on this disk, not known to be committed",
        Stage::Committed => "committed, not applied yet",
        Stage::Applied => "committed and applied",
    };
    let what = format!(" entry {index} on {}: {kind}  (term {}, {} bytes)", m.name, entry.term, entry.bytes);
    page.line(area, 0, &what, page.theme.good());
    let on = picture.holders(index, entry.term);
    let needs = picture.members.len() / 2 + 1;
    let text = format!("   {stage}; on disk at {} (needs {needs} of {})", on.join(" "), picture.members.len());
    page.line(area, 1, &text, Style::new());
}

fn watermarks(picture: &Picture, page: &mut Page, area: Rect) {
    page.line(area, 0, " member  log  disk  commit  applied  revision  the leader knows", page.theme.faint());
    let leader = picture.leader().map(|l| &picture.members[l]);
    for (m, row) in picture.members.iter().zip(1..) {
        let (letter, word) = standing(m, picture.now);
        let Some(s) = m.state.as_ref().filter(|_| m.is_heard(picture.now) && !m.is_down()) else {
            page.line(area, row, &format!(" {} {letter}   {word}", m.name), page.theme.faint());
            continue;
        };
        let known = m.id.and_then(|id| leader?.progress.get(&id)).map_or(String::new(), |p| {
            let paused = if p.paused { " paused" } else { "" };
            format!("match {} next {} {}{paused}", p.match_index, p.next_index, p.state().as_str_name().to_lowercase())
        });
        let known = if leader.is_some_and(|l| l.name == m.name) { "(leads)".into() } else { known };
        let line = format!(
            " {} {letter} {:>6} {:>5} {:>7} {:>8} {:>9}  {known}",
            m.name, s.last_index, s.persisted, s.commit, s.applied, m.revision
        );
        page.line(area, row, &line, Style::new());
    }
}
