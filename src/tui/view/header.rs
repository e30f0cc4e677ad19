//! The line at the top: which screen, whose time, and who leads.

use super::Page;
use crate::lab::Picture;
use crate::lab::board::side_words;
use crate::lab::picture::Pace;
use crate::lab::picture::words::counted;
use crate::lab::twin::Twin;
use crate::lab::up::clock;
use crate::tui::model::Model;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr as _;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    if let Some(learn) = model.learn.as_ref().filter(|_| model.is_apart()) {
        let text = format!(" LEARN  {} on nodes of its own", learn.session.lab().head.id);
        let pad = usize::from(area.width).saturating_sub(text.width());
        page.line(area, 0, &format!("{text}{}", " ".repeat(pad)), page.theme.marked());
        return;
    }
    let state = state(model, picture);
    let term = picture.term().map_or("-".to_string(), |t| t.to_string());
    let leader = leader_words(picture);
    let plural = if picture.members.len() == 1 { "member" } else { "members" };
    let name = format!("{:?}", model.base()).to_uppercase();
    let broken = picture.promises.is_any_broken();
    let verdict = if broken { format!("  {} (p)", picture.promises.verdict()) } else { String::new() };
    let (state, more) = state;
    let faults = faults(model, picture);
    let faults = if faults.is_empty() || model.replay.is_some() { String::new() } else { format!("  {faults}") };
    let count = format!("  {} {plural}", picture.members.len());
    let with =
        |count: &str, more: &str| format!(" {name}  {state}{verdict}{count}  term {term}  {leader}{faults}{more}");
    // Where there is little room, how many members there are is seen on the screen, and what is broken comes first.
    let fits = [with(&count, more), with("", more), with(&count, ""), with("", "")];
    let fits = fits.into_iter().find(|text| text.width() <= usize::from(area.width));
    let text = fits.unwrap_or_else(|| with("", ""));
    let missed: u64 = picture.members.iter().map(|m| m.dropped).sum();
    let missed = if missed == 0 { String::new() } else { format!(" {} missed ", counted(missed, "event", "events")) };
    let pad = usize::from(area.width).saturating_sub(text.width() + missed.width());
    let style = if broken { page.theme.bad().patch(page.theme.marked()) } else { page.theme.marked() };
    page.line(area, 0, &format!("{text}{}{missed}", " ".repeat(pad)), style);
}

/// LIVE, HELD, SLOW or REPLAY, or why it is none of them; and what that is for clients.
fn state(model: &Model, picture: &Picture) -> (String, &'static str) {
    if let Some(replay) = &model.replay {
        let how = if model.play.running { format!(" at {}%", model.play.percent) } else { String::new() };
        let what = match &model.twin {
            Some(Twin { script, .. }) => {
                let forks: Vec<String> = script.forks.iter().map(|(_, seed)| seed.to_string()).collect();
                let then = if forks.is_empty() { String::new() } else { format!(", then {}", forks.join(", ")) };
                let you = if script.deeds.is_empty() { "" } else { ", then you" };
                format!("SIMULATED, seed {}{then}{you}", script.seed)
            }
            None => "REPLAY".into(),
        };
        return (format!("{what} {} of {}{how}", clock(picture.now), clock(replay.end())), "");
    }
    let heard = picture.members.iter().any(|m| m.is_heard(picture.now));
    let spoken = picture.members.iter().any(|m| m.heard.is_some());
    let state = match (model.ending, model.frozen.is_some(), picture.pace()) {
        (true, ..) => "ENDING".into(),
        (_, true, _) => "FROZEN (f goes on)".into(),
        (_, _, Pace::Held) => {
            let waits = picture.wires.held().count();
            return (format!("HELD, {}", counted(waits as u64, "waits", "wait")), "  (the lab's shell waits, too)");
        }
        (_, _, Pace::Mixed) => "MIXED CLOCKS".into(),
        (_, _, Pace::Slow(slower)) if heard => {
            return (format!("SLOW 1/{slower}"), "  (lab shell waits, others may not)");
        }
        _ if heard && picture.is_upstream() => "LIVE upstream etcd".into(),
        _ if heard => "LIVE".into(),
        _ if spoken => "NO DATA".into(),
        _ => "STARTING".into(),
    };
    (state, "")
}

/// What is broken on purpose, in a word or two.
fn faults(model: &Model, picture: &Picture) -> String {
    let sides = model.board.sides(picture.members.len());
    let links = if sides.is_some() { 0 } else { model.board.broken().count() };
    let disks = model.board.disks.values().filter(|ms| **ms > 0).count();
    let mut words = Vec::new();
    if let Some(sides) = sides {
        words.push(format!("split {}", side_words(&sides, &picture.member_names())));
    }
    if links > 0 {
        words.push(counted(links as u64, "way broken", "ways broken"));
    }
    if disks > 0 {
        words.push(counted(disks as u64, "slow disk", "slow disks"));
    }
    if !model.board.bad_disks.is_empty() {
        words.push(counted(model.board.bad_disks.len() as u64, "bad disk", "bad disks"));
    }
    if !model.board.misfits.is_empty() {
        words.push(counted(model.board.misfits.len() as u64, "bad configuration", "bad configurations"));
    }
    if !model.board.walls.is_empty() {
        words.push(counted(model.board.walls.len() as u64, "wrong clock", "wrong clocks"));
    }
    if let Some(nemesis) = &model.board.nemesis {
        words.push(format!("NEMESIS {}, {} s left", nemesis.seed, nemesis.left(picture.now)));
    }
    if !model.board.no_clients.is_empty() {
        words.push(format!("{} without clients", model.board.no_clients.len()));
    }
    words.join(", ")
}

/// Who leads, as the leader itself says, or else as somebody says whom we hear.
fn leader_words(picture: &Picture) -> String {
    if let Some(leader) = picture.leader() {
        return format!("leader {}", picture.members[leader].name);
    }
    let heard = || picture.members.iter().filter(|m| m.role(picture.now).is_some());
    let states = heard().filter_map(|m| Some((m, m.state.as_ref()?)));
    match states.max_by_key(|(_, s)| (s.term, s.leader != 0)) {
        // They do not know yet.
        Some((_, s)) if picture.place(s.leader).is_some_and(|leader| picture.members[leader].is_down()) => {
            format!("NO LEADER ({} is down)", picture.name(s.leader))
        }
        Some((m, s)) if s.leader != 0 => format!("leader {}, says {}", picture.name(s.leader), m.name),
        Some(_) => "NO LEADER".into(),
        None => "leader unknown".into(),
    }
}
