//! Draws a [`Model`]. Nothing here changes anything; what does not fit is left out, never an error.
//!
//! ```text
//!  etcd-lab  LIVE  3 members  term 3  leader n1                 <- header
//!  ...                                                          <- picker, ring, logs or list
//!  ── what happens ─────────────────────────────────            <- feed
//!  00:41.2 n1 is leader of term 3 (2 of 3 votes)
//!  put a is on its way                                          <- notice, when there is one
//!  2 ring  3 logs  w write  ! break…  ? help  q quit            <- bar
//! ```

mod learn;
mod list;
mod logs;
mod overlay;
mod ring;

use crate::lab::Picture;
use crate::lab::SIZES;
use crate::lab::picture::MemberView;
use crate::lab::picture::Process;
use crate::lab::picture::Tone;
use crate::lab::up::clock;
use crate::tui::keys;
use crate::tui::keys::Place;
use crate::tui::look;
use crate::tui::look::Theme;
use crate::tui::model::Model;
use crate::tui::model::Screen;
use crate::types::Millis;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr as _;

/// Smaller than this in either direction: the list.
const FULL_WIDTH: u16 = 72;
const FULL_HEIGHT: u16 = 22;
/// From this width on the ring has an inspector beside it.
const WIDE: u16 = 110;
/// From this width on it has the logs beside it, too.
const THEATRE: u16 = 190;
const LOGS_BESIDE: u16 = 80;

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut page = Page { buffer, theme: model.theme };
    let (head, body, bar) = split(area);
    match model.shown() {
        None => picker(model, &mut page, area),
        Some(picture) => {
            header(model, picture, &mut page, head);
            screen(model, picture, &mut page, body);
        }
    }
    bar_line(model, &mut page, bar);
    overlay::draw(model, &mut page, area);
    if model.ascii {
        look::to_ascii(frame.buffer_mut());
    }
}

fn split(area: Rect) -> (Rect, Rect, Rect) {
    let line = |y: u16| Rect { y, height: 1.min(area.height), ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(2), ..area };
    (line(area.y), body, line(area.bottom().saturating_sub(1)))
}

/// Where we draw, and in which colours. Everything is clipped to the place it is meant for.
struct Page<'a> {
    buffer: &'a mut Buffer,
    theme: Theme,
}

impl Page<'_> {
    /// Writes a line into `area`, `row` rows below its top; returns the column after it.
    fn line(&mut self, area: Rect, row: u16, text: &str, style: Style) -> u16 {
        self.at(area, 0, row, text, style)
    }

    /// The same, `column` columns in.
    fn at(&mut self, area: Rect, column: u16, row: u16, text: &str, style: Style) -> u16 {
        if row >= area.height || column >= area.width || !area.intersects(self.buffer.area) {
            return area.x + column;
        }
        let room = usize::from(area.width - column);
        let (x, _) = self.buffer.set_stringn(area.x + column, area.y + row, text, room, style);
        x
    }

    /// A rule across `area` with a title in it.
    fn rule(&mut self, area: Rect, title: &str) {
        let line = format!("── {title} {}", "─".repeat(usize::from(area.width)));
        self.line(area, 0, &line, self.theme.faint());
    }

    fn clear(&mut self, area: Rect) {
        for position in area.intersection(self.buffer.area).positions() {
            self.buffer[position].reset();
        }
    }
}

fn header(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let heard = picture.members.iter().any(|m| m.is_heard(picture.now));
    let spoken = picture.members.iter().any(|m| m.heard.is_some());
    let state = match (model.ending, model.frozen.is_some(), heard, spoken) {
        (true, ..) => "ENDING",
        (_, true, ..) => "FROZEN (f goes on)",
        (_, _, true, _) => "LIVE",
        (_, _, false, true) => "NO DATA",
        (_, _, false, false) => "STARTING",
    };
    let term = picture.term().map_or("-".to_string(), |t| t.to_string());
    let leader = leader_words(picture);
    let plural = if picture.members.len() == 1 { "member" } else { "members" };
    let text = format!(" etcd-lab  {state}  {} {plural}  term {term}  {leader} ", picture.members.len());
    let missed: u64 = picture.members.iter().map(|m| m.dropped).sum();
    let missed = if missed == 0 { String::new() } else { format!(" {missed} events missed ") };
    let pad = usize::from(area.width).saturating_sub(text.width() + missed.width());
    page.line(area, 0, &format!("{text}{}{missed}", " ".repeat(pad)), page.theme.marked());
}

/// Who leads, as the leader itself says, or else as somebody says whom we hear.
fn leader_words(picture: &Picture) -> String {
    if let Some(leader) = picture.leader() {
        return format!("leader {}", picture.members[leader].name);
    }
    let heard = || picture.members.iter().filter(|m| m.role(picture.now).is_some());
    let states = heard().filter_map(|m| Some((m, m.state.as_ref()?)));
    match states.max_by_key(|(_, s)| (s.term, s.leader != 0)) {
        Some((m, s)) if s.leader != 0 => format!("leader {}, says {}", picture.name(s.leader), m.name),
        Some(_) => "NO LEADER".into(),
        None => "leader unknown".into(),
    }
}

fn screen(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    if model.screen == Screen::Learn {
        let notice = u16::from(model.notice.is_some() || model.ending).min(area.height);
        let main = Rect { height: area.height - notice, ..area };
        learn::draw(model, picture, page, main);
        return notice_line(model, page, Rect { y: main.bottom(), height: notice, ..area });
    }
    let small = area.width < FULL_WIDTH || area.height + 2 < FULL_HEIGHT;
    let notice = u16::from(model.notice.is_some() || model.ending);
    let feed_rows = match (small, area.height) {
        (true, _) if model.screen == Screen::Logs => 4,
        (true, h) => (h / 3).max(3),
        (_, h) if h >= 34 => 10,
        _ => 5,
    };
    let feed_rows = feed_rows.min(area.height / 2);
    let main = Rect { height: area.height - feed_rows, ..area };
    let below = Rect { y: main.bottom(), height: feed_rows - notice.min(feed_rows), ..area };
    match (model.screen, small) {
        (Screen::Ring, true) => list::draw(model, picture, page, main),
        (Screen::Ring, false) if main.width >= THEATRE => {
            let left = Rect { width: main.width - LOGS_BESIDE, ..main };
            ring::draw(model, picture, page, left);
            let right = Rect { x: left.right() + 1, width: LOGS_BESIDE - 1, ..main };
            logs::draw(model, picture, page, right);
        }
        (Screen::Ring, false) => ring::draw(model, picture, page, main),
        (Screen::Logs | Screen::Learn, _) => logs::draw(model, picture, page, main),
    }
    feed(picture, page, below);
    let line = Rect { y: below.bottom(), height: notice, ..area };
    notice_line(model, page, line);
}

/// What the user should read now.
fn notice_line(model: &Model, page: &mut Page, line: Rect) {
    if model.ending {
        page.line(line, 0, " the members shut down, please wait (at most 5 s)", page.theme.busy());
    } else if let Some((tone, text)) = &model.notice {
        page.line(line, 0, &format!(" {text}"), tone_style(page.theme, *tone));
    }
}

fn feed(picture: &Picture, page: &mut Page, area: Rect) {
    if area.height == 0 {
        return;
    }
    page.rule(area, "what happens");
    let rows = usize::from(area.height - 1);
    let skip = picture.feed.len().saturating_sub(rows);
    for (line, row) in picture.feed.iter().skip(skip).zip(1..) {
        let at = format!(" {} ", clock(line.at));
        let x = page.line(area, row, &at, page.theme.faint());
        page.at(area, x - area.x, row, &line.text, tone_style(page.theme, line.tone));
    }
}

fn tone_style(theme: Theme, tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => theme.good(),
        Tone::Bad => theme.bad(),
    }
}

fn bar_line(model: &Model, page: &mut Page, area: Rect) {
    let place = model.place();
    if place == Place::Ending {
        return;
    }
    // Help and quit stand last and must be seen on the narrowest screen.
    let words: Vec<_> = keys::bar(place).map(|(key, word)| format!("{key} {word}")).collect();
    let tail =
        if matches!(place, Place::Picker | Place::Learn | Place::Ring | Place::Logs) { 2.min(words.len()) } else { 0 };
    let (first, last) = words.split_at(words.len() - tail);
    let room = usize::from(area.width).saturating_sub(last.iter().map(|w| w.width() + 2).sum::<usize>() + 1);
    let mut line = String::from(" ");
    for word in first {
        if line.width() + word.width() + 2 > room {
            break;
        }
        line.push_str(word);
        line.push_str("  ");
    }
    line.push_str(&last.join("  "));
    page.line(area, 0, &line, page.theme.faint());
}

/// The opening: one key starts a cluster.
fn picker(model: &Model, page: &mut Page, area: Rect) {
    let width = 64.min(area.width);
    let height = 14.min(area.height);
    let x = area.x + (area.width - width) / 2;
    let at = Rect { x, y: area.y + (area.height - height) / 3, width, height };
    let bold = page.theme.good();
    page.line(at, 0, "etcd-lab: a real etcd cluster, and what happens inside it", bold);
    page.line(at, 2, "How many members?", Style::new());
    let about = [
        "one server: the basics, nothing to agree on",
        "survives the loss of one member (start here)",
        "survives the loss of two",
    ];
    for (i, (n, about)) in SIZES.iter().zip(about).enumerate() {
        let (mark, style) = if i == model.size { ("▸", page.theme.marked()) } else { (" ", Style::new()) };
        page.line(at, 4 + i as u16, &format!(" {mark} {n}   {about} "), style);
    }
    if model.starting {
        page.line(at, 8, "starting…", page.theme.busy());
    } else {
        page.line(at, 8, "Press Enter to start. The members run on this machine only,", Style::new());
        page.line(at, 9, "and end when you leave.", Style::new());
    }
    if let Some((tone, text)) = &model.notice {
        let style = tone_style(page.theme, *tone);
        for (line, row) in wrap(text, usize::from(width)).iter().zip(11..) {
            page.line(at, row, line, style);
        }
    }
}

/// Breaks a text at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}

/// What a member is, in a letter and a word: its role, or why we do not know it.
fn standing(m: &MemberView, now: Millis) -> (char, &'static str) {
    match (&m.process, m.role(now)) {
        (Process::Ended { .. }, _) => ('x', "DOWN"),
        (Process::Paused { .. }, _) => ('z', "STOPPED"),
        (_, Some(role)) => (look::letter(role), role_name(role)),
        (_, None) if m.heard.is_none() => ('?', "starting"),
        (_, None) => ('?', "NO DATA"),
    }
}

fn role_name(role: crate::proto::lab::Role) -> &'static str {
    use crate::proto::lab::Role;
    match role {
        Role::Leader => "leader",
        Role::Candidate => "candidate",
        Role::PreCandidate => "pre-candidate",
        Role::Follower => "follower",
        Role::Learner => "learner",
    }
}

/// "3 s" between two moments.
fn seconds(since: Millis, now: Millis) -> String {
    format!("{} s", now.0.saturating_sub(since.0) / 1000)
}
