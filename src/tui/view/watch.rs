//! The Watch screen: a tape of revisions, who is told of them, and what is about to expire.
//!
//! ```text
//!  revision   36  37  38  39  40  41     P put, D delete, C created, with a lease in small letters
//!  change      P   D   P   P   T2  P     T2: two keys in one revision
//!  w0 n2      [●]  ·  [●] [●]  >          [●] told  · not its keys  > comes next  X its history is gone
//!
//!  watcher  member  state    next  behind  range
//!  lease    left ██████████░░░░░░
//! ```

use super::Page;
use super::reconcile;
use crate::lab::Picture;
use crate::lab::picture::words::counted;
use crate::lab::picture::words::range_words;
use crate::lab::upstream::NOT_VISIBLE;
use crate::proto::lab::Change;
use crate::proto::lab::LeaseView;
use crate::proto::lab::Watcher;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use crate::types::KeyRange;
use ratatui::layout::Rect;
use ratatui::style::Style;
use std::collections::BTreeMap;

const NAMES: u16 = 14;
const CELL: u16 = 5;
const BAR: usize = 20;
const RANGE: usize = 24;
/// A title, a head and one watcher.
const TABLE_MIN: u16 = 3;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    // What Kubernetes does with all this stands below it, where there is a Kubernetes.
    let rows = reconcile::rows(&picture.reconcile, area.height);
    let below = Rect { y: area.bottom() - rows, height: rows, ..area };
    if rows > 0 {
        reconcile::draw(&picture.reconcile, page, below);
    }
    watches(model, picture, page, Rect { height: area.height - rows, ..area });
}

fn watches(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let looks = picture.members.iter().filter_map(|m| m.look.as_ref());
    let (newest, floor) = looks.fold((0, 0), |(n, f), l| (n.max(l.revision), f.max(l.compact_revision)));
    if picture.is_upstream() {
        page.line(area, 1, &format!(" {NOT_VISIBLE} of its watchers and leases."), page.theme.faint());
        return;
    }
    if newest == 0 {
        page.line(area, 1, " No member has told of its watchers yet.", page.theme.faint());
        return;
    }
    let watchers: Vec<(usize, &Watcher)> = picture.watchers().collect();
    let used = tape(model, picture, page, area, &watchers, (newest, floor));
    let below = Rect { y: area.y + used, height: area.height.saturating_sub(used), ..area };
    if below.height < TABLE_MIN {
        return;
    }
    let used = table(model, picture, page, below, &watchers);
    let below = Rect { y: below.y + used, height: below.height.saturating_sub(used), ..below };
    // Where there is little room the fan-out is one line, and where there is less the leases stay: they run out.
    let rows = picture.members.len() as u16 + 2;
    let fan = match below.height {
        height if height > rows + 1 => rows,
        4.. => 2,
        _ => 0,
    };
    leases(picture, page, Rect { height: below.height - fan, ..below });
    if fan > 0 {
        fans(model, picture, page, Rect { y: below.bottom() - fan, height: fan, ..below }, &watchers);
    }
}

/// A revision's way: who has applied it when, and which watchers were told there.
fn fans(model: &Model, picture: &Picture, page: &mut Page, area: Rect, watchers: &[(usize, &Watcher)]) {
    let newest = picture.fans.keys().next_back().copied();
    let Some(revision) = model.revision.or(newest) else { return };
    let applied = picture.fans.get(&revision).map(Vec::as_slice).unwrap_or_default();
    let what = picture.tape.get(&revision).map_or(String::new(), |changes| {
        let keys: Vec<String> =
            changes.iter().map(|c| String::from_utf8_lossy(&c.key).escape_debug().to_string()).collect();
        format!(": {}", keys.join(" ").chars().take(30).collect::<String>())
    });
    page.rule(area, &format!("fan-out of revision {revision}{what}"));
    let Some((_, first)) = applied.first() else {
        page.line(area, 1, " nobody has told when it was applied", page.theme.faint());
        return;
    };
    // In the order in which they came, and then those that have not.
    let behind = (0..picture.members.len()).filter(|m| !applied.iter().any(|(member, _)| member == m));
    let order = applied.iter().map(|(m, at)| (*m, Some(*at))).chain(behind.map(|m| (m, None)));
    let mut short = Vec::new();
    for ((member, at), row) in order.zip(1..) {
        let m = &picture.members[member];
        let known = m.look.as_ref().map_or(0, |look| look.revision).max(m.revision);
        let (when, brief) = match at {
            Some(at) => (format!("applied +{} ms", at.0 - first.0), format!("+{} ms", at.0 - first.0)),
            None if known >= revision => ("has it (it caught up)".to_owned(), "has it".to_owned()),
            None => (format!("is at {known}, not there yet"), "not there yet".to_owned()),
        };
        let told = |w: &Watcher| match fate(w, revision, picture.tape.get(&revision)) {
            "" => None,
            fate => Some(format!("{} {fate}", name_of(member, w, watchers))),
        };
        let told: Vec<String> = watchers.iter().filter(|(of, _)| *of == member).filter_map(|(_, w)| told(w)).collect();
        let style = if at.is_some() { Style::new() } else { page.theme.busy() };
        short.push([format!("{} {brief}", m.name), told.join(", ")].join(if told.is_empty() { "" } else { ": " }));
        if row < area.height && area.height > 2 {
            page.line(area, row, &format!(" {:<4} {when:<24} {}", m.name, told.join("  ")), style);
        }
    }
    if area.height == 2 {
        page.line(area, 1, &format!(" {}", short.join(" | ")), Style::new());
    }
}

/// `w0`; where several clients of a member have one with that id, as each counts its own, `w0a`, `w0b`...
fn name_of(member: usize, w: &Watcher, watchers: &[(usize, &Watcher)]) -> String {
    let is_namesake = |(of, other): &&(usize, &Watcher)| *of == member && other.watch_id == w.watch_id;
    let namesakes: Vec<u64> = watchers.iter().filter(is_namesake).map(|(_, other)| other.stream).collect();
    let letter = match namesakes.iter().position(|stream| *stream == w.stream) {
        Some(at) if namesakes.len() > 1 => ('a'..='z').cycle().nth(at).map(String::from),
        _ => None,
    };
    format!("w{}{}", w.watch_id, letter.unwrap_or_default())
}

/// What a revision is to a watcher.
fn fate(w: &Watcher, revision: u64, changes: Option<&Vec<Change>>) -> &'static str {
    let range = KeyRange::parse(&w.key, &w.range_end);
    match lane(w, &range, revision, changes) {
        "X" => "cancelled",
        "●" => "told",
        "·" => "not its keys",
        ">" => "comes next",
        _ if revision > w.next_revision => "waits",
        _ => "",
    }
}

/// The newest revisions, and a lane for each watcher.
fn tape(
    m: &Model,
    picture: &Picture,
    page: &mut Page,
    area: Rect,
    watchers: &[(usize, &Watcher)],
    ends: (u64, u64),
) -> u16 {
    let (newest, floor) = ends;
    let cells = u64::from(area.width.saturating_sub(NAMES + CELL) / CELL).max(1);
    let from = (newest + 1).saturating_sub(cells).max(1);
    let column = |revision: u64| NAMES + (revision - from) as u16 * CELL;
    page.line(area, 0, " revision", page.theme.faint());
    page.line(area, 1, " change", page.theme.faint());
    for revision in from..=newest {
        // Below the floor nothing can be read any more.
        let gone = revision < floor;
        let number = if gone { format!("{:>4}", "gone") } else { format!("{revision:>4}") };
        page.at(area, column(revision), 0, &number, page.theme.faint());
        let word = picture.tape.get(&revision).map_or("·".into(), |c| change_word(c));
        page.at(
            area,
            column(revision),
            1,
            &format!("{word:>4}"),
            if gone { page.theme.faint() } else { page.theme.good() },
        );
    }
    let lanes = watchers.len().min(usize::from(area.height / 3).max(1));
    for ((i, (member, w)), row) in watchers.iter().enumerate().take(lanes).zip(2..) {
        let mark = if i == m.watcher { "▸" } else { " " };
        let name = &picture.members[*member].name;
        page.line(area, row, &format!("{mark}{} on {name}", name_of(*member, w, watchers)), Style::new());
        let range = KeyRange::parse(&w.key, &w.range_end);
        for revision in from..=newest + 1 {
            let cell = lane(w, &range, revision, picture.tape.get(&revision));
            let style = if cell == ">" { page.theme.busy() } else { Style::new() };
            page.at(area, column(revision), row, &format!("{cell:>4}"), style);
        }
    }
    let rows = 2 + lanes as u16;
    let text = " P put  C create  D delete  l with a lease  ● told  · not its keys  > is next";
    page.line(area, rows, text, page.theme.faint());
    rows + 2
}

fn lane(w: &Watcher, range: &KeyRange, revision: u64, changes: Option<&Vec<Change>>) -> &'static str {
    if w.cancelled {
        return if revision < w.next_revision { "X" } else { "" };
    }
    if revision == w.next_revision {
        return ">";
    }
    if revision < w.first_revision || revision > w.next_revision {
        return "";
    }
    let wanted = |c: &Change| range.contains(&c.key) && if c.deleted { !w.no_delete } else { !w.no_put };
    match changes {
        Some(changes) if changes.iter().any(wanted) => "●",
        _ => "·",
    }
}

/// What a revision did, in at most four characters.
fn change_word(changes: &[Change]) -> String {
    let [one] = changes else { return format!("T{}", changes.len()) };
    let word = match (one.deleted, one.version) {
        (true, _) => "D",
        (false, 1) => "C",
        _ => "P",
    };
    format!("{word}{}", if one.lease == 0 { "" } else { "l" })
}

fn table(model: &Model, picture: &Picture, page: &mut Page, area: Rect, watchers: &[(usize, &Watcher)]) -> u16 {
    let total: u32 = picture.members.iter().filter_map(|m| m.look.as_ref()).map(|l| l.watchers_total).sum();
    let floor = picture.members.iter().filter_map(|m| m.look.as_ref()).map(|l| l.compact_revision).max().unwrap_or(0);
    let floor = if floor == 0 { "nothing is compacted".into() } else { format!("compacted below {floor}") };
    page.rule(area, &format!("watchers: {total}, {floor}"));
    if watchers.is_empty() {
        page.line(area, 1, " Nobody watches. In a shell (0): etcdctl watch --prefix '' &", page.theme.faint());
        return 3;
    }
    page.line(area, 1, "   id member  state      from   next  behind  range, and its client", page.theme.faint());
    let rows = watchers.len().min(usize::from(area.height.saturating_sub(6)).max(1));
    let skip = model.watcher.min(watchers.len() - 1).saturating_sub(rows.saturating_sub(1));
    for ((i, (member, w)), row) in watchers.iter().enumerate().skip(skip).take(rows).zip(2..) {
        let m = &picture.members[*member];
        let revision = m.look.as_ref().map_or(0, |l| l.revision);
        let behind = if w.synced || w.cancelled { 0 } else { (revision + 1).saturating_sub(w.next_revision) };
        let (state, style) = match (w.cancelled, w.synced) {
            (true, _) => ("CANCELLED", page.theme.bad()),
            (_, true) => ("synced", Style::new()),
            _ => ("UNSYNCED", page.theme.busy()),
        };
        let waits =
            if w.queued > 0 { format!(", {}", counted(w.queued.into(), "waits", "wait")) } else { String::new() };
        let mark = if i == model.watcher { "▸" } else { " " };
        let from = if w.start_revision == 0 { "now".into() } else { w.start_revision.to_string() };
        let client = if w.client.is_empty() { String::new() } else { format!(" for {}", w.client) };
        let line = format!(
            "{mark}{:>4} {:<7} {state:<9} {from:>5} {:>6} {behind:>7}  {}{waits}{}{client}",
            name_of(*member, w, watchers),
            m.name,
            w.next_revision,
            range_words(&w.key, &w.range_end).chars().take(RANGE).collect::<String>(),
            filters(w)
        );
        page.line(area, row, &line, if i == model.watcher { style.patch(page.theme.marked()) } else { style });
        page.hit(area, row, Hit::Line(i as u64));
    }
    rows as u16 + 3
}

fn filters(w: &Watcher) -> String {
    let words = [(w.no_put, "no puts"), (w.no_delete, "no deletes"), (w.prev_kv, "with old values")];
    let words: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// Leases, as the leader has them; another member knows only that they are there.
fn leases(picture: &Picture, page: &mut Page, area: Rect) {
    if area.height == 0 {
        return;
    }
    let mut known: BTreeMap<i64, &LeaseView> = BTreeMap::new();
    for view in picture.members.iter().filter_map(|m| m.look.as_ref()).flat_map(|l| &l.leases) {
        let kept = known.entry(view.id).or_insert(view);
        if view.left_ms > kept.left_ms {
            *kept = view;
        }
    }
    page.rule(area, &format!("leases: {} (the leader's clock counts)", known.len()));
    if known.is_empty() {
        page.line(area, 1, " None. In a shell (0): etcdctl lease grant 60", page.theme.faint());
    }
    for (view, row) in known.values().zip(1..area.height) {
        let bar = match (view.left_ms, view.ttl_s) {
            (left @ 0.., 1..) => {
                let full = (left as usize * BAR / (view.ttl_s as usize * 1000)).min(BAR);
                format!("{}{} {:>4} s of {}", "█".repeat(full), "·".repeat(BAR - full), left / 1000, view.ttl_s)
            }
            _ => format!("no leader has told what is left of {} s", view.ttl_s),
        };
        let key = view.keys.first().map_or(String::new(), |k| String::from_utf8_lossy(k).escape_debug().to_string());
        let line = format!(" {:016x}  {bar}  {} {key}", view.id, counted(view.keys_total.into(), "key", "keys"));
        page.line(area, row, &line, Style::new());
    }
}
