//! The Ring for small screens: one line per member.

use super::Page;
use super::seconds;
use super::standing;
use crate::lab::Picture;
use crate::lab::picture::Process;
use crate::lab::up::clock;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Rect;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    page.line(area, 0, " member              term  vote  log  disk commit applied", page.theme.faint());
    for ((i, m), row) in picture.members.iter().enumerate().zip(1..) {
        let (letter, word) = standing(m, picture.now);
        let mark = if i == model.selected { "▸" } else { " " };
        let numbers = match &m.state {
            Some(s) if m.is_heard(picture.now) && !m.is_down() => {
                let vote = if s.vote == 0 { "-".into() } else { picture.name(s.vote) };
                let log = (s.last_index, s.persisted, s.commit, s.applied);
                format!("{:>3}  {vote:>4} {:>4} {:>5} {:>6} {:>7}", s.term, log.0, log.1, log.2, log.3)
            }
            _ => match (&m.process, m.heard) {
                (Process::Ended { how, since }, _) => format!("{how} {} ago", seconds(*since, picture.now)),
                (Process::Paused { since, .. }, _) => format!("(SIGSTOP) for {}", seconds(*since, picture.now)),
                (_, Some(at)) => format!("no data since {}", clock(at)),
                (_, None) => "no data yet".into(),
            },
        };
        let line = format!("{mark}{:<3} {letter} {word:<13} {numbers}", m.name);
        let role = if m.is_paused() { None } else { m.role(picture.now) };
        page.line(area, row, &line, page.theme.role(role));
        page.hit(area, row, Hit::Member(i));
    }
}
