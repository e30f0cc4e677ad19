//! The Ring screen: members on a ring, what each says of itself, and the messages between them.
//!
//! ```text
//!   legend            ╔▸n1 L leader════════════╗      last election
//!                     ║term 3  voted n1        ║      n1 asks for votes, term 3
//!                     ║log 9, all applied      ║      yes: n1 n2
//!                     ║heartbeat every 100 ms  ║
//!                     ╚════════════════════════╝
//!                  ··●hb                  ok●··
//!   ┌ n3 F follower──────────┐      ┌ n2 F follower──────────┐
//! ```

use super::Page;
use super::WIDE;
use super::seconds;
use super::standing;
use crate::lab::Picture;
use crate::lab::picture::MemberView;
use crate::lab::picture::Process;
use crate::lab::picture::Tap;
use crate::lab::picture::flight::CODES;
use crate::lab::picture::flight::FLIGHT_MS;
use crate::lab::picture::flight::Fate;
use crate::lab::picture::flight::Flight;
use crate::lab::up::clock;
use crate::proto::lab::Role;
use crate::tui::look;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Position;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Block;
use ratatui::widgets::Widget as _;
use unicode_width::UnicodeWidthStr as _;

const BOX_WIDTH: u16 = 26;
const BOX_HEIGHT: u16 = 5;
/// The ring is at most so many times as wide as high: longer ways would be empty.
const ASPECT: u16 = 5;
const INSPECTOR: u16 = 46;
/// What is narrower would cut the legend's words.
const CORNER: u16 = 22;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let wide = area.width >= WIDE;
    let ring = if wide { Rect { width: area.width - INSPECTOR, ..area } } else { area };
    let boxes = places(picture.members.len(), ring);
    let (routine, news): (Vec<_>, Vec<_>) =
        picture.flights.iter().filter(|f| f.has_left(picture.now)).partition(|f| f.is_routine());
    // News over routine.
    for flight in routine.into_iter().chain(news) {
        message(picture, page, ring, &boxes, flight);
    }
    for (i, (m, at)) in picture.members.iter().zip(&boxes).enumerate() {
        member(picture, m, i == model.selected, page, *at);
        page.hits.push((*at, Hit::Member(i)));
    }
    if wide {
        let side = Rect { x: ring.right() + 1, width: INSPECTOR - 1, ..area };
        inspector(model, picture, page, side);
    } else {
        let width = ((ring.width - BOX_WIDTH) / 2).saturating_sub(1);
        if width < CORNER {
            return;
        }
        let free = boxes.iter().filter(|b| b.x < ring.x + width).map(|b| b.y - ring.y).min();
        let corner = Rect { width, height: free.unwrap_or(5).min(5), ..ring };
        legend(page, corner);
        let right = Rect { x: ring.right() - corner.width, ..corner };
        election(picture, page, right);
    }
}

/// Where each member stands: clockwise from the top, spread over the whole area.
fn places(n: usize, area: Rect) -> Vec<Rect> {
    let width = area.width.min(area.height.saturating_mul(ASPECT));
    let area = Rect { x: area.x + (area.width - width) / 2, width, ..area };
    let angle = |i: usize| (i as f64 / n as f64).mul_add(std::f64::consts::TAU, -std::f64::consts::FRAC_PI_2);
    let points: Vec<(f64, f64)> = (0..n).map(|i| (angle(i).cos(), angle(i).sin())).collect();
    let spread = |pick: fn(&(f64, f64)) -> f64, v: f64| {
        let (low, high) = points.iter().map(pick).fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p), h.max(p)));
        if high - low < 1e-9 { 0.5 } else { (v - low) / (high - low) }
    };
    let place = |p: &(f64, f64)| {
        let x = spread(|p| p.0, p.0) * f64::from(area.width.saturating_sub(BOX_WIDTH));
        let y = spread(|p| p.1, p.1) * f64::from(area.height.saturating_sub(BOX_HEIGHT));
        let at = Rect::new(area.x + x.round() as u16, area.y + y.round() as u16, BOX_WIDTH, BOX_HEIGHT);
        at.intersection(area)
    };
    points.iter().map(place).collect()
}

fn member(picture: &Picture, m: &MemberView, selected: bool, page: &mut Page, at: Rect) {
    let role = if m.is_paused() { None } else { m.role(picture.now) };
    let style = page.theme.role(role);
    let (letter, word) = standing(m, picture.now);
    let mark = if selected { "▸" } else { " " };
    page.clear(at);
    Block::bordered().border_set(look::border(role)).border_style(style).render(at, page.buffer);
    let title = if selected { page.theme.marked() } else { style };
    page.at(at, 1, 0, &format!("{mark}{} {letter} {word} ", m.name), title);
    let inside =
        Rect { x: at.x + 1, y: at.y + 1, width: at.width.saturating_sub(2), height: at.height.saturating_sub(2) };
    for (line, row) in lines(picture, m).iter().zip(0..) {
        page.line(inside, row, line, if role.is_none() { page.theme.faint() } else { Style::new() });
    }
}

/// Three lines about a member. What it has not said, or not lately, is said to be so.
fn lines(picture: &Picture, m: &MemberView) -> Vec<String> {
    let now = picture.now;
    let last = m.state.as_ref().map_or(String::new(), |s| format!("last: term {}, log {}", s.term, s.last_index));
    match (&m.process, &m.tap, &m.state) {
        (Process::Ended { how, since }, ..) => vec![how.clone(), format!("for {}", seconds(*since, now)), last],
        (Process::Paused { since, .. }, ..) => {
            vec!["stands still (SIGSTOP)".into(), format!("for {}", seconds(*since, now)), last]
        }
        (_, Tap::Open, Some(s)) if m.is_heard(now) => {
            let vote = if s.vote == 0 { String::new() } else { format!("  voted {}", picture.name(s.vote)) };
            vec![format!("term {}{vote}", s.term), marks(s, usize::from(BOX_WIDTH) - 2), timer(m)]
        }
        (_, _, _) if m.heard.is_none() => vec!["no data yet".into(), String::new(), String::new()],
        (_, _, _) => {
            let since = m.heard.map_or(String::new(), clock);
            vec![format!("no data since {since}"), last, String::new()]
        }
    }
}

/// How far the log is; the shortest words that say it.
fn marks(s: &crate::proto::lab::State, room: usize) -> String {
    let (last, commit, applied) = (s.last_index, s.commit, s.applied);
    if last == commit && commit == applied {
        return format!("log {last}, all applied");
    }
    let long = format!("log {last} commit {commit} applied {applied}");
    if long.width() <= room { long } else { format!("log {last} com {commit} app {applied}") }
}

/// The election timer as a bar that shrinks; for a leader how often it sends heartbeats.
fn timer(m: &MemberView) -> String {
    const CELLS: u32 = 10;
    // With three, the longest wait fits into a member's box.
    const SLOW_CELLS: u32 = 3;
    let Some(t) = &m.timer else {
        return if m.is_polled { "timer, vote: not visible".into() } else { String::new() };
    };
    if m.state.as_ref().is_some_and(|s| s.role() == Role::Leader) {
        return format!("heartbeat every {} ms", t.heartbeat_timeout_ticks * t.tick_ms);
    }
    let left = t.election_timeout_ticks.saturating_sub(t.election_elapsed_ticks);
    let ms = left * t.tick_ms;
    // In slow motion a second of the lab is many of the learner's, who waits for it.
    let slower = m.clock.filter(|c| !c.held).map_or(1, |c| c.slower.max(1));
    let (cells, wait) = match slower {
        1 => (CELLS, String::new()),
        slower => (SLOW_CELLS, format!(" = {} s", u64::from(ms) * u64::from(slower) / 1000)),
    };
    let full = (left * cells).div_ceil(t.election_timeout_ticks.max(1)).min(cells);
    let bar = "█".repeat(full as usize) + &"·".repeat((cells - full) as usize);
    format!("timer {bar} {}.{} s{wait}", ms / 1000, ms / 100 % 10)
}

/// One message: its dot with the code, and a short trail that shows where it comes from.
fn message(picture: &Picture, page: &mut Page, area: Rect, boxes: &[Rect], flight: &Flight) {
    let (Some(from), Some(to)) = (boxes.get(flight.from), boxes.get(flight.to)) else { return };
    let way = path(*from, *to, flight.from < flight.to, area, boxes);
    if way.is_empty() {
        return;
    }
    let at = ((way.len() - 1) as u64 * flight.travelled(picture.now) / 1000) as usize;
    let style = if flight.is_routine() { page.theme.faint() } else { page.theme.busy() };
    let waits = match flight.fate {
        Fate::Held => " held",
        Fate::Unknown if picture.now.0 > flight.since.0 + FLIGHT_MS => "?",
        _ => "",
    };
    let dot = if flight.fate == Fate::Lost && flight.travelled(picture.now) == 500 { "×" } else { "●" };
    for trail in way[..at].iter().rev().take(2) {
        page.buffer[*trail].set_symbol("·").set_style(style);
    }
    let here = way[at];
    page.buffer[here].set_symbol(dot).set_style(style);
    let label = format!("{}{waits}", flight.code);
    let leftwards = to.x < from.x;
    let x = if leftwards { here.x.saturating_sub(label.width() as u16) } else { here.x + 1 };
    for (c, dx) in label.chars().zip(0..) {
        let cell = Position::new(x + dx, here.y);
        if area.contains(cell) && !boxes.iter().any(|b| b.contains(cell)) {
            page.buffer[cell].set_char(c).set_style(style);
        }
    }
}

/// The cells between two boxes. The ways there and back are apart, so that a message and its answer do not collide.
fn path(from: Rect, to: Rect, there: bool, area: Rect, boxes: &[Rect]) -> Vec<Position> {
    const STEPS: u32 = 400;
    let centre = |r: Rect| (f64::from(r.x) + f64::from(r.width) / 2.0, f64::from(r.y) + f64::from(r.height) / 2.0);
    let ((x0, y0), (x1, y1)) = (centre(from), centre(to));
    let side = if there { 1.0 } else { -1.0 };
    let level = (y1 - y0).abs() < 2.0;
    let (dx, dy) = if level { (0.0, side) } else { (side * 4.0, 0.0) };
    let mut way: Vec<Position> = Vec::new();
    for i in 0..=STEPS {
        let t = f64::from(i) / f64::from(STEPS);
        let cell = Position::new((x0 + (x1 - x0) * t + dx) as u16, (y0 + (y1 - y0) * t + dy) as u16);
        if area.contains(cell) && !boxes.iter().any(|b| b.contains(cell)) && way.last() != Some(&cell) {
            way.push(cell);
        }
    }
    way
}

fn legend(page: &mut Page, area: Rect) {
    let faint = page.theme.faint();
    let lines = [
        " ╔ leader    ┌ follower",
        " ┏ candidate ┄ no data",
        " ●hb heartbeat  ●+1 entry",
        " ●ack stored    ●V? vote",
        " all codes: ?",
    ];
    for (line, row) in lines.iter().zip(0..) {
        page.line(area, row, line, faint);
    }
}

/// The votes of the newest election that somebody has counted.
fn election(picture: &Picture, page: &mut Page, area: Rect) -> u16 {
    let counted = picture.members.iter().filter_map(|m| Some((m, m.votes.as_ref()?)));
    let Some((m, v)) = counted.max_by_key(|(_, v)| (v.term, !v.pre)) else { return 0 };
    let names = |ids: &[u64]| {
        if ids.is_empty() { "-".into() } else { ids.iter().map(|i| picture.name(*i)).collect::<Vec<_>>().join(" ") }
    };
    let needs = picture.members.len() / 2 + 1;
    let kind = if v.pre { "pre-vote" } else { "votes" };
    let lines = [
        format!("{kind} for {}, term {}", m.name, v.term),
        format!(" yes: {}", names(&v.granted)),
        format!(" no: {}", names(&v.rejected)),
        format!(" needs {needs} of {}", picture.members.len()),
    ];
    for (line, row) in lines.iter().zip(0..) {
        page.line(area, row, line, page.theme.faint());
    }
    lines.len() as u16
}

/// Beside the ring on wide screens: the selected member, the last election, the codes.
pub(super) fn inspector(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let Some(m) = picture.members.get(model.selected) else { return };
    let mut rows = vec![];
    let pid = match m.process {
        Process::Running { pid } | Process::Paused { pid, .. } => format!("process {pid}"),
        Process::Ended { .. } | Process::Unknown => "no process".into(),
    };
    rows.push(format!("id {}  {pid}", m.id.map_or("-".into(), |id| format!("{id:x}"))));
    rows.push(m.client_url.clone());
    if let Some(s) = &m.state {
        if !m.is_heard(picture.now) || m.is_down() {
            rows.push("what it said last:".into());
        }
        rows.push(format!("leader {}", if s.leader == 0 { "-".into() } else { picture.name(s.leader) }));
        if m.is_polled {
            rows.push(format!("commit {}; its log is not visible", s.commit));
        } else {
            rows.push(format!("log {} to {}", s.first_index, s.last_index));
            rows.push(format!("on disk {}  commit {}", s.persisted, s.commit));
        }
        rows.push(format!("applied {}  revision {}", s.applied, m.revision));
    }
    rows.extend(m.sync_us.map(|us| format!("last sync to disk {}.{} ms", us / 1000, us / 100 % 10)));
    rows.extend(m.progress.values().map(|p| {
        format!(
            "{}: match {} next {} {}",
            picture.name(p.peer),
            p.match_index,
            p.next_index,
            p.state().as_str_name().to_lowercase()
        )
    }));
    page.rule(area, &format!("{} (→: next)", m.name));
    for (row, y) in rows.iter().zip(1..) {
        page.line(area, y, row, Style::new());
    }
    let below = Rect { y: area.y + rows.len() as u16 + 2, ..area }.intersection(area);
    page.rule(below, "last election");
    let counted = election(picture, page, Rect { y: below.y + 1, ..below }.intersection(area));
    let codes = Rect { y: below.y + counted + 2, ..below }.intersection(area);
    page.rule(codes, "messages");
    for ((code, what), row) in CODES.iter().zip(1..) {
        page.line(codes, row, &format!("{code:<10}{what}"), page.theme.faint());
    }
}
