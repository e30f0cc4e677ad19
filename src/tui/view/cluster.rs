//! The Cluster screen: the members as etcd's own services describe them, with sizes, alarms and a few metrics.
//!
//! ```text
//!  member  id                role      version  client              db size  in use  revision
//!  n1      8211f1d0f64f3269  leader    3.6.14   127.0.0.1:2379       24 KiB   18 KiB        5
//!
//!  member  log sync  commit  pending  failed  leader changes  memory
//!  alarms: none
//! ```

use super::Page;
use super::data;
use super::overlay::folded;
use super::standing;
use super::wrap;
use crate::lab::Picture;
use crate::lab::picture::MemberView;
use crate::lab::picture::Process;
use crate::lab::survey;
use crate::lab::survey::Survey;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Rect;
use ratatui::style::Style;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let n = picture.members.len() as u16;
    let wide = area.width >= 100;
    let head = " member role            version  clients at       db size   in use  revision";
    page.line(area, 0, &format!("{head}{}", if wide { "  id                pid" } else { "" }), page.theme.faint());
    for ((i, m), row) in picture.members.iter().enumerate().zip(1..) {
        let style = if i == model.selected { page.theme.marked() } else { Style::new() };
        page.line(area, row, &member(picture, m, i == model.selected, wide), style);
        page.hit(area, row, Hit::Member(i));
    }
    let metrics = Rect { y: area.y + n + 2, height: area.height.saturating_sub(n + 2), ..area };
    let shown = figures(area.width);
    let titles: String = shown.iter().map(|figure| format!("{:>1$}", figure.title, figure.width())).collect();
    page.line(metrics, 0, &format!(" {:<7}{titles}", "member"), page.theme.faint());
    for (m, row) in picture.members.iter().zip(1..) {
        let (line, style) = match fresh(picture, m) {
            Some(s) => {
                (shown.iter().map(|figure| format!("{:>1$}", (figure.of)(s), figure.width())).collect(), Style::new())
            }
            None if survey::is_closed(&m.client_url) => (format!(" not asked: {}", survey::CLOSED), page.theme.faint()),
            None => (" no answer".to_owned(), page.theme.faint()),
        };
        page.line(metrics, row, &format!(" {:<7}{line}", m.name), style);
    }
    let rest = Rect { y: metrics.y + n + 2, height: metrics.height.saturating_sub(n + 2), ..metrics };
    let used = alarms(picture, page, rest);
    let rest = Rect { y: rest.y + used, height: rest.height.saturating_sub(used), ..rest };
    let used = links(model, picture, page, rest);
    let rest = Rect { y: rest.y + used, height: rest.height.saturating_sub(used), ..rest };
    if let Some(found) = &picture.shown.compared {
        data::compared(picture, found, page, rest);
    } else {
        page.line(
            rest,
            0,
            " Enter looks closely at one;  m compares their data;  y: why one does not serve",
            page.theme.faint(),
        );
        let rest = Rect { y: rest.y + 2, height: rest.height.saturating_sub(2), ..rest };
        closely(model, picture, page, rest);
    }
}

/// The selected member in detail, as far as there is room; Enter shows all of it.
fn closely(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let Some(m) = picture.members.get(model.selected).filter(|_| area.height > 2) else { return };
    page.rule(area, &format!("{} closely (Enter: all of it)", m.name));
    let width = usize::from(area.width.saturating_sub(2));
    let lines = picture.close_lines(model.selected);
    let lines = lines.iter().flat_map(|line| folded(line, width));
    for (line, row) in lines.zip(1..area.height) {
        let style = if line.contains("BROKEN") { page.theme.bad() } else { Style::new() };
        page.line(area, row, &format!(" {line}"), style);
    }
}

/// What its services said, if it is still there to have said it.
fn fresh<'a>(picture: &Picture, m: &'a MemberView) -> Option<&'a Survey> {
    m.survey.as_ref().filter(|_| !m.is_down() && m.is_heard(picture.now))
}

fn member(picture: &Picture, m: &MemberView, selected: bool, wide: bool) -> String {
    let (letter, word) = standing(m, picture.now);
    let mark = if selected { "▸" } else { " " };
    let url = m.client_url.split("://").last().unwrap_or_default();
    let (version, size, in_use) = match fresh(picture, m) {
        Some(s) => (s.version.clone(), bytes(s.db_size as f64), bytes(s.db_in_use as f64)),
        None => ("-".into(), "-".into(), "-".into()),
    };
    let revision = m.look.as_ref().map_or(0, |l| l.revision).max(m.revision);
    // A longer address takes its room from the version.
    let room = 23_usize.saturating_sub(url.len().max(15));
    let mut line = format!(
        "{mark}{:<6} {letter} {word:<13} {version:<room$} {url:<15} {size:>8} {in_use:>8} {:>9}",
        m.name,
        if m.state.is_some() { revision.to_string() } else { "-".into() }
    );
    if wide {
        let pid = match m.process {
            Process::Running { pid } | Process::Paused { pid, .. } => pid.to_string(),
            _ => "-".into(),
        };
        line.push_str(&format!("  {:<16}  {pid}", m.id.map_or("-".into(), |id| format!("{id:x}"))));
    }
    line
}

/// A figure that a member's metrics give.
struct Figure {
    title: &'static str,
    /// A narrow screen leaves out the figure of the lowest rank first.
    rank: u8,
    of: fn(&Survey) -> String,
}

impl Figure {
    /// Columns of its title and its values, with the gap before them.
    fn width(&self) -> usize {
        self.title.len().max("999 MiB".len()) + 2
    }
}

const FIGURES: [Figure; 8] = [
    Figure { title: "log sync", rank: 6, of: |s| mean(s, "etcd_disk_wal_fsync_duration_seconds") },
    Figure { title: "db commit", rank: 3, of: |s| mean(s, "etcd_disk_backend_commit_duration_seconds") },
    Figure { title: "keys", rank: 2, of: |s| value(s, "etcd_debugging_mvcc_keys_total") },
    Figure { title: "committed", rank: 7, of: |s| value(s, "etcd_server_proposals_committed_total") },
    Figure { title: "pending", rank: 0, of: |s| value(s, "etcd_server_proposals_pending") },
    Figure { title: "failed", rank: 1, of: |s| value(s, "etcd_server_proposals_failed_total") },
    Figure { title: "elections", rank: 4, of: |s| value(s, "etcd_server_leader_changes_seen_total") },
    Figure { title: "memory", rank: 5, of: memory },
];

/// The figures for which a screen of this width has room.
fn figures(width: u16) -> Vec<&'static Figure> {
    let room = usize::from(width).saturating_sub(" member ".len());
    let mut shown: Vec<&Figure> = FIGURES.iter().collect();
    while shown.iter().map(|figure| figure.width()).sum::<usize>() > room {
        let Some(least) = shown.iter().map(|figure| figure.rank).min() else { break };
        shown.retain(|figure| figure.rank != least);
    }
    shown
}

fn mean(s: &Survey, name: &str) -> String {
    s.mean_ms(name).map_or("-".into(), |ms| format!("{ms:.1} ms"))
}

fn value(s: &Survey, name: &str) -> String {
    s.metrics.get(name).map_or("-".into(), |v| format!("{v}"))
}

fn memory(s: &Survey) -> String {
    s.metrics.get("process_resident_memory_bytes").map_or("-".into(), |v| bytes(*v))
}

/// A line for each member, and what is wrong, where there is little room.
pub(super) fn brief(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    page.rule(area, "the members (6: all of it)");
    let line = |m: &MemberView| match fresh(picture, m) {
        Some(s) => {
            let sync = mean(s, "etcd_disk_wal_fsync_duration_seconds");
            format!(" {:<4} sync {sync:>8}  db {:>8}  mem {}", m.name, bytes(s.db_size as f64), memory(s))
        }
        None => format!(" {:<4} no answer", m.name),
    };
    for (m, row) in picture.members.iter().zip(1..) {
        page.line(area, row, &line(m), if fresh(picture, m).is_some() { Style::new() } else { page.theme.faint() });
    }
    let used = picture.members.len() as u16 + 2;
    let rest = Rect { y: area.y + used, height: area.height.saturating_sub(used), ..area };
    let used = alarms(picture, page, rest) + 1;
    let rest = Rect { y: rest.y + used, height: rest.height.saturating_sub(used), ..rest };
    page.line(rest, 0, " would a write be refused, or wait?", page.theme.good());
    let width = usize::from(rest.width.saturating_sub(2));
    let lines = picture.why_write_refused().into_iter().flat_map(|line| wrap(&line, width)).collect::<Vec<_>>();
    let used = lines.len() as u16 + 2;
    for (line, row) in lines.iter().zip(1..) {
        page.line(rest, row, &format!(" {line}"), Style::new());
    }
    let rest = Rect { y: rest.y + used, height: rest.height.saturating_sub(used), ..rest };
    if model.replay.is_none() {
        let words = model.board.in_force(&picture.member_names());
        for (word, row) in words.iter().zip(0..) {
            page.line(rest, row, &format!(" on purpose: {word}"), page.theme.busy());
        }
    }
}

/// Alarms, and what must never happen.
fn alarms(picture: &Picture, page: &mut Page, area: Rect) -> u16 {
    let surveys: Vec<&Survey> = picture.members.iter().filter_map(|m| m.survey.as_ref()).collect();
    let mut alarms: Vec<String> =
        surveys.iter().flat_map(|s| &s.alarms).map(|(id, a)| format!("{a} of {}", picture.name(*id))).collect();
    alarms.sort();
    alarms.dedup();
    match (surveys.is_empty(), alarms.is_empty()) {
        (true, _) => page.line(area, 0, " alarms: no member has answered", page.theme.faint()),
        (_, true) => page.line(area, 0, " alarms: none   ($ etcdctl alarm list)", Style::new()),
        _ => page.line(area, 0, &format!(" ALARM: {}   ($ etcdctl alarm list)", alarms.join(", ")), page.theme.bad()),
    };
    let style = if picture.promises.is_any_broken() { page.theme.bad() } else { Style::new() };
    page.line(area, 1, &format!(" promises: {}   (p)", picture.promises.verdict()), style);
    2
}

/// What the lab has put in force.
fn links(model: &Model, picture: &Picture, page: &mut Page, area: Rect) -> u16 {
    let words = model.board.in_force(&picture.member_names());
    if words.is_empty() || model.replay.is_some() {
        return 0;
    }
    page.line(area, 0, &format!(" broken on purpose: {}   (u undoes)", words.join(", ")), page.theme.busy());
    2
}

fn bytes(n: f64) -> String {
    match n {
        n if n < 1024.0 => format!("{n} B"),
        n if n < 1_048_576.0 => format!("{:.0} KiB", n / 1024.0),
        n => format!("{:.1} MiB", n / 1_048_576.0),
    }
}
