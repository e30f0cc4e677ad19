//! Draws a [`Model`]. Nothing here changes anything; what does not fit is left out, never an error.
//!
//! ```text
//!  etcd-lab  RING  LIVE  3 members  term 3  leader n1           <- header: which screen; LIVE, HELD, SLOW or REPLAY
//!  ...                                                          <- picker, or a screen
//!  ── what happens ─────────────────────────────────            <- feed
//!  00:41.2 n1 is leader of term 3 (2 of 3 votes)
//!  etcdctl put a 1   is on its way                              <- notice, when there is one
//!  Space hold  . step  w write  ! break…                        <- bar: the keys of this place
//!  1 learn [2 ring] 3 logs 4 watch 5 data 6 cluster ? help      <- the screens
//! ```

mod cluster;
mod data;
mod header;
mod learn;
mod list;
mod logs;
mod overlay;
mod reconcile;
mod ring;
mod watch;
mod wire;

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
use crate::tui::model::bars as bars_of;
use crate::tui::mouse::Hit;
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
/// From this size on it is one of many things at once: what a projector shows to a class.
const THEATRE: u16 = 190;
const STAGE: u16 = 30;
/// What stands to the left and to the right of it there.
const LESSON: u16 = 60;
const AUDIENCE: u16 = 50;

/// What the user should read now has at most so many.
const NOTICE_ROWS: usize = 2;

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame) {
    let area = frame.area();
    draw(model, &mut Page { buffer: frame.buffer_mut(), theme: model.theme, hits: Vec::new() }, area);
    if model.ascii {
        look::to_ascii(frame.buffer_mut());
    }
}

/// What can be clicked, in the order in which it is drawn.
pub(super) fn hits(model: &Model) -> Vec<(Rect, Hit)> {
    let area = Rect::new(0, 0, model.area.0, model.area.1);
    let mut page = Page { buffer: &mut Buffer::empty(area), theme: model.theme, hits: Vec::new() };
    draw(model, &mut page, area);
    page.hits
}

fn draw(model: &Model, page: &mut Page, area: Rect) {
    let (head, body, bar) = split(area, model.shown().is_some());
    match model.shown() {
        None => picker(model, page, area),
        Some(picture) => {
            header::draw(model, picture, page, head);
            screen(model, picture, page, body);
        }
    }
    bars(model, page, bar);
    overlay::draw(model, page, area);
}

/// Header, body, and one or two lines of keys.
fn split(area: Rect, tabs: bool) -> (Rect, Rect, Rect) {
    let bars = if tabs { bars_of(area.height) } else { 1 };
    let head = Rect { height: 1.min(area.height), ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1 + bars), ..area };
    let bar = Rect { y: area.bottom().saturating_sub(bars), height: bars.min(area.height), ..area };
    (head, body, bar)
}

/// Where we draw, and in which colours. Everything is clipped to the place it is meant for.
struct Page<'a> {
    buffer: &'a mut Buffer,
    theme: Theme,
    hits: Vec<(Rect, Hit)>,
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

    /// The row `row` rows below the top of `area` can be clicked.
    fn hit(&mut self, area: Rect, row: u16, hit: Hit) {
        let at = Rect { y: area.y + row, height: 1, ..area }.intersection(area);
        self.hits.push((at, hit));
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

fn screen(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    if model.screen == Screen::Learn {
        let notice = (notice_lines(model, area.width).len() as u16).min(area.height);
        let main = Rect { height: area.height - notice, ..area };
        learn::draw(model, picture, page, main);
        return notice_line(model, page, Rect { y: main.bottom(), height: notice, ..area });
    }
    let small = area.width < FULL_WIDTH || area.height + 2 < FULL_HEIGHT;
    let notice = notice_lines(model, area.width).len() as u16;
    let feed_rows = match (small, area.height) {
        (true, h) if model.screen == Screen::Ring => (h / 3).max(3),
        (true, _) => 4,
        (_, h) if h >= 33 => 10,
        _ => 5,
    };
    let feed_rows = feed_rows.min(area.height / 2);
    let main = Rect { height: area.height - feed_rows, ..area };
    let below = Rect { y: main.bottom(), height: feed_rows - notice.min(feed_rows), ..area };
    match (model.screen, small) {
        (Screen::Wire, _) => wire::draw(model, picture, page, main),
        (Screen::Watch, _) => watch::draw(model, picture, page, main),
        (Screen::Data, _) => data::draw(model, picture, page, main),
        (Screen::Cluster, _) => cluster::draw(model, picture, page, main),
        (Screen::Ring, true) => list::draw(model, picture, page, main),
        (Screen::Ring, false) if main.width >= THEATRE && main.height >= STAGE && !model.stage => {
            theatre(model, picture, page, main);
        }
        (Screen::Ring, false) => ring::draw(model, picture, page, main),
        (Screen::Logs | Screen::Learn, _) => logs::draw(model, picture, page, main),
    }
    feed_under(&feed_title(model), picture, page, below);
    let line = Rect { y: below.bottom(), height: notice, ..area };
    notice_line(model, page, line);
}

/// Left the lesson, or the selected member; in the middle the ring above the logs; right the watchers above the members' numbers.
fn theatre(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let column = |x: u16, width: u16| Rect { x: area.x + x, width, ..area };
    let (left, right) = (column(0, LESSON - 1), column(area.width - AUDIENCE, AUDIENCE));
    let middle = column(LESSON, area.width - LESSON - AUDIENCE - 1);
    if !learn::beside(model, page, left) {
        ring::inspector(model, picture, page, left);
    }
    let upper = |area: Rect, height: u16| Rect { height, ..area };
    let lower = |area: Rect, height: u16| Rect { y: area.y + height, height: area.height - height, ..area };
    let half = area.height * 11 / 20;
    ring::draw(model, picture, page, upper(middle, half));
    let below = lower(middle, half);
    page.rule(below, "the logs (3: all of it)");
    logs::draw(model, picture, page, lower(below, 1));
    page.rule(right, "the watchers (4: all of it)");
    watch::draw(model, picture, page, lower(upper(right, half), 1));
    cluster::brief(model, picture, page, lower(right, half));
}

/// What the user should read now, in one row or two.
pub(super) fn notice_lines(model: &Model, width: u16) -> Vec<String> {
    let text: &str = match &model.notice {
        _ if model.ending => "the members shut down, please wait (at most 5 s)",
        Some((_, text)) => text,
        None => return Vec::new(),
    };
    let mut lines = wrap(text, usize::from(width.saturating_sub(2)));
    lines.truncate(NOTICE_ROWS);
    lines
}

fn notice_line(model: &Model, page: &mut Page, line: Rect) {
    let style = match &model.notice {
        Some((tone, _)) if !model.ending => tone_style(page.theme, *tone),
        _ => page.theme.busy(),
    };
    for (text, row) in notice_lines(model, line.width).iter().zip(0..) {
        page.line(line, row, &format!(" {text}"), style);
    }
}

fn feed(picture: &Picture, page: &mut Page, area: Rect) {
    feed_under("what happens", picture, page, area);
}

/// The title of the feed. What a nemesis is at, its own writes push out of it.
fn feed_title(model: &Model) -> String {
    let nemesis = model.board.nemesis.as_ref().filter(|_| model.replay.is_none());
    match nemesis.and_then(|n| n.at.as_deref()) {
        Some(line) => format!("what happens; the nemesis did: {line}"),
        None => "what happens".into(),
    }
}

fn feed_under(title: &str, picture: &Picture, page: &mut Page, area: Rect) {
    if area.height == 0 {
        return;
    }
    page.rule(area, title);
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

/// The keys of this place, and below them the screens.
fn bars(model: &Model, page: &mut Page, area: Rect) {
    let place = model.place();
    if place == Place::Ending || area.height == 0 {
        return;
    }
    let is_upstream = model.shown().is_some_and(Picture::is_upstream);
    let words: Vec<(String, &str)> = match (model.replay.is_some() && model.overlay.is_none(), is_upstream) {
        (true, _) if model.twin.is_some() => keys::twin_bar(place).collect(),
        (true, _) => keys::replay_bar(place).collect(),
        (_, true) => keys::clockless_bar(place).collect(),
        _ if model.is_apart() && place == Place::Learn => keys::apart_bar().collect(),
        _ => keys::bar(place).filter(|(_, word)| *word != keys::GO_ON || model.kept.is_some()).collect(),
    };
    let words = words.into_iter().map(|(key, word)| format!("{key} {word}"));
    let mut line = String::from(" ");
    for word in words {
        if line.width() + word.width() > usize::from(area.width) {
            break;
        }
        line.push_str(&word);
        line.push_str("  ");
    }
    page.line(area, 0, line.trim_end(), page.theme.faint());
    let tabs = Rect { y: area.bottom() - 1, height: 1, ..area };
    if area.height > 1 || model.shown().is_none() {
        // In the opening there is one line: what is left of it has help and quit.
        let from = if area.height > 1 { 0 } else { line.trim_end().width() as u16 + 1 };
        tab_line(
            model,
            page,
            Rect { x: tabs.x + from.min(tabs.width), width: tabs.width.saturating_sub(from), ..tabs },
        );
    }
}

/// The screens by their numbers; this one in brackets. What does not fit is left out from the middle: help and quit must be seen.
fn tab_line(model: &Model, page: &mut Page, area: Rect) {
    let here = model.base();
    let is_here = |does| {
        use keys::Does;
        let place = match does {
            Does::ShowLearn => Place::Learn,
            Does::ShowRing if here == Place::Wire => Place::Wire,
            Does::ShowRing => Place::Ring,
            Does::ShowLogs => Place::Logs,
            Does::ShowWatch => Place::Watch,
            Does::ShowData => Place::Data,
            Does::ShowCluster => Place::Cluster,
            _ => return false,
        };
        place == here
    };
    let word =
        |(key, word, does)| (if is_here(does) { format!("[{key} {word}]") } else { format!(" {key} {word}") }, does);
    let mut words: Vec<(String, keys::Does)> = keys::tabs(here).map(word).collect();
    let total = |words: &[(String, keys::Does)]| words.iter().map(|(w, _)| w.width()).sum::<usize>();
    if total(&words) > usize::from(area.width) {
        // A question mark and a q are understood without their words.
        let short = words.len().saturating_sub(2);
        for (word, _) in &mut words[short..] {
            word.truncate(2);
        }
    }
    while words.len() > 2 && total(&words) > usize::from(area.width) {
        words.remove(words.len() - 3);
    }
    let mut column = 0;
    for (word, does) in words {
        let style = if word.starts_with('[') { page.theme.good() } else { page.theme.faint() };
        page.at(area, column, 0, &word, style);
        let at = Rect { x: area.x + column, width: word.width() as u16, ..area };
        page.hits.push((at, Hit::Tab(does)));
        column += word.width() as u16;
    }
}

/// The opening: one key starts a cluster.
fn picker(model: &Model, page: &mut Page, area: Rect) {
    let width = 64.min(area.width);
    let height = 14.min(area.height);
    let x = area.x + (area.width - width) / 2;
    let at = Rect { x, y: area.y + (area.height - height) / 3, width, height };
    let bold = page.theme.good();
    page.line(at, 0, "etcd-lab: a real etcd cluster, and what happens inside it", bold);
    if let Some(lab) = &model.wanted {
        page.line(at, 1, &format!("for the lab {lab}"), Style::new());
    }
    page.line(at, 2, "How many members?", Style::new());
    let about = [
        "one server: the basics, nothing to agree on",
        "survives the loss of one member (start here)",
        "survives the loss of two",
    ];
    for (i, (n, about)) in SIZES.iter().zip(about).enumerate() {
        let (mark, style) = if i == model.size { ("▸", page.theme.marked()) } else { (" ", Style::new()) };
        page.line(at, 4 + i as u16, &format!(" {mark} {n}   {about} "), style);
        page.hit(at, 4 + i as u16, Hit::Line(i as u64));
    }
    if model.starting {
        page.line(at, 8, "starting…", page.theme.busy());
    } else {
        page.line(at, 8, "Press Enter to start. The members run on this machine only,", Style::new());
        page.line(at, 9, "and end when you leave.", Style::new());
    }
    let mut row = 11;
    if let Some(kept) = model.kept.as_ref().filter(|_| !model.starting) {
        let members = if kept.members == 1 { "one member".into() } else { format!("{} members", kept.members) };
        let text = format!("g goes on with the {members} that were kept {}, in", age(kept.age));
        page.line(at, row, &text, bold);
        page.line(at, row + 1, &kept.folder.display().to_string(), Style::new());
        row += 2;
    }
    if let Some((tone, text)) = &model.notice {
        let style = tone_style(page.theme, *tone);
        let at = Rect { height: area.bottom().saturating_sub(at.y + 1), ..at };
        for (line, row) in wrap(text, usize::from(width)).iter().zip(row..) {
            page.line(at, row, line, style);
        }
    }
}

/// "2 hours ago".
fn age(age: std::time::Duration) -> String {
    let (n, unit) = match age.as_secs() {
        0..60 => return "just now".into(),
        s @ 60..3_600 => (s / 60, "minute"),
        s @ 3_600..86_400 => (s / 3_600, "hour"),
        s => (s / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
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
