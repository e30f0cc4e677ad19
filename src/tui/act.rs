//! What the learner does to the cluster: menus, deeds, undo, the lab's clock and its steps. Pure, like all of `update`.
//!
//! Whatever a key does can be typed: a menu's line is a command line, and each deed shows the line that stands for it.

use crate::lab::Deed;
use crate::lab::Picture;
use crate::lab::board::Move;
use crate::lab::board::Undo;
use crate::lab::course;
use crate::lab::deed::pasted;
use crate::lab::deed::quoted;
use crate::lab::misfit::Misfit;
use crate::lab::orders::ASK_LEARN;
use crate::lab::orders::ASK_PROMISES;
use crate::lab::picture::Pace;
use crate::lab::picture::Tone;
use crate::lab::picture::wires;
use crate::lab::picture::wires::End;
use crate::sim::film::Act;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::data;
use crate::tui::keys::Does;
use crate::tui::learn;
use crate::tui::model::Item;
use crate::tui::model::Overlay;
use crate::tui::model::Question;
use crate::tui::model::Then;
use crate::tui::replay;
use crate::tui::why;
use crate::types::Millis;

/// The clock's speeds: so many times slower than the world's.
pub const SLOWER: [u32; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
/// Steps that go on by themselves are so far apart.
const STEP_MS: u64 = 100;
/// A deed that nobody undoes is forgotten after so many others.
const UNDO_MAX: usize = 100;

/// Steps are made until one of these is no longer what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    commit: u64,
    leader: Option<(usize, u64)>,
    /// The next step is made then.
    due: Millis,
    /// The message that the last step has let arrive: until its receiver has said so, it still seems to wait.
    last: Option<(usize, u64)>,
}

impl Goal {
    fn now(picture: &Picture) -> Goal {
        let states = picture.members.iter().filter_map(|m| m.state.as_ref());
        let term = |l: usize| picture.members[l].state.as_ref().map_or(0, |s| s.term);
        Goal {
            commit: states.map(|s| s.commit).max().unwrap_or(0),
            leader: picture.leader().map(|l| (l, term(l))),
            due: picture.now,
            last: None,
        }
    }

    fn reached(self, picture: &Picture) -> bool {
        let now = Goal::now(picture);
        now.commit > self.commit || (now.leader.is_some() && now.leader != self.leader)
    }
}

impl Model {
    /// The messages that the Wire screen shows, oldest first.
    #[must_use]
    pub fn wires(&self) -> Vec<&wires::Line> {
        let Some(picture) = self.shown() else { return Vec::new() };
        let fits = |l: &&wires::Line| {
            (self.routine || !l.is_routine() || matches!(l.end, End::Held { .. }))
                && (self.filter.is_empty() || words(picture, l).contains(&self.filter))
        };
        picture.wires.iter().filter(fits).collect()
    }
}

/// A message in words, as the Wire screen's table has it.
#[must_use]
pub fn words(picture: &Picture, l: &wires::Line) -> String {
    let name = |m: usize| picture.members.get(m).map_or("?", |m| m.name.as_str());
    let what = match l.wire.r#type {
        3 => format!("after {} (t{}), commit {}", l.wire.index, l.wire.log_term, l.wire.commit),
        4 if l.wire.reject => format!("refused at {}, try {}", l.wire.index, l.wire.reject_hint),
        4 => format!("has up to {}", l.wire.index),
        5 | 17 => format!("log {} (t{})", l.wire.index, l.wire.log_term),
        8 => format!("commit {}", l.wire.commit),
        _ => String::new(),
    };
    format!("{} > {} {} t{} {what}", name(l.from), name(l.to), l.code(), l.wire.term)
}

pub(super) fn press(model: &mut Model, does: Does) -> Option<Cmd> {
    if model.replay.is_some() {
        return replay::press(model, does);
    }
    match does {
        Does::Shell => return learn::shell(model),
        Does::Break => model.overlay = break_menu(model),
        Does::Undo => return undo(model),
        Does::Write => ask_what_to_write(model),
        Does::WriteThere => {
            let name = model.picture.as_ref()?.members.get(model.selected)?.name.clone();
            model.overlay = Some(Overlay::Command { text: format!("put-at {name} a {}", model.writes + 1) });
        }
        Does::RunBack => model.notify(Tone::Plain, "that is for recordings: , shows what was recorded"),
        Does::Rights => model.overlay = Some(Overlay::Rights { scroll: 0 }),
        Does::CloseUp => model.overlay = Some(Overlay::CloseUp { scroll: 0 }),
        Does::Why => model.overlay = why::ask(model),
        Does::Promises => model.overlay = why::promises(model),
        Does::Compare => return data::compare(model),
        Does::Hold if model.picture.as_ref().is_some_and(Picture::is_upstream) => {
            model.frozen = if model.frozen.is_some() { None } else { model.picture.clone().map(Box::new) };
            model.notify(
                Tone::Plain,
                "upstream etcd has no clock that can be held: only the drawing is frozen, or goes on",
            );
        }
        Does::Hold => {
            model.goal = None;
            let deed = if model.board.held { Deed::Go { slower: model.board.slower } } else { Deed::Hold };
            return deed_now(model, &deed);
        }
        Does::Step if model.board.held && model.picture.as_ref().is_some_and(|p| !p.is_settled()) => {
            model.step_waits = true;
        }
        Does::Step => return step(model),
        Does::RunOn if !model.board.held => model.notify(Tone::Plain, "hold the clock first: Space"),
        Does::RunOn => {
            model.goal = model.picture.as_ref().map(Goal::now);
            model.notify(Tone::Plain, "stepping until an entry is committed or a leader elected; Space stops");
        }
        Does::Slower => return pace(model, 1),
        Does::Faster => return pace(model, -1),
        Does::StepBack => return Some(Cmd::Rewind),
        _ => {}
    }
    None
}

pub(super) fn ask_what_to_write(model: &mut Model) {
    let text = format!("a {}", model.writes + 1);
    model.overlay = Some(Overlay::Prompt { what: Question::Put, text, fresh: true });
}

fn pace(model: &mut Model, by: isize) -> Option<Cmd> {
    let at = SLOWER.iter().position(|s| *s == model.board.slower).unwrap_or(0);
    let slower = SLOWER[at.saturating_add_signed(by).min(SLOWER.len() - 1)];
    deed_now(model, &Deed::Go { slower })
}

/// A deed of the learner's: decided, noted, shown with its line.
pub(super) fn deed_now(model: &mut Model, deed: &Deed) -> Option<Cmd> {
    match decide(model, deed) {
        Ok(cmd) => Some(cmd),
        Err(why) => {
            model.notify(Tone::Bad, why);
            None
        }
    }
}

fn decide(model: &mut Model, deed: &Deed) -> Result<Cmd, String> {
    if model.replay.is_some() && model.twin.is_some() {
        return replay::deed(model, deed);
    }
    if model.replay.is_some() {
        return Err("this is a recording: Esc goes back to what is now".into());
    }
    let picture = model.picture.as_ref().ok_or("there is no cluster yet")?;
    let (orders, undo) = model.board.decide(deed, picture)?;
    let (shell, line) = (deed.shell(picture), deed.line(&picture.member_names()));
    let can = if undo.is_some() { "   u undoes" } else { "" };
    if let Some(undo) = undo {
        model.undo.push((line.clone(), undo));
        let surplus = model.undo.len().saturating_sub(UNDO_MAX);
        model.undo.drain(..surplus);
    }
    model.notify(Tone::Plain, format!("{shell}{can}"));
    let line = pasted(&line);
    model.line = Some(line.clone());
    Ok(Cmd::Do { orders, line: Some(line) })
}

/// A line from another terminal.
///
/// # Errors
/// Why it is not done, in a sentence.
pub fn order(model: &mut Model, line: &str) -> Result<(String, Option<Cmd>), String> {
    model.changed = true;
    if line.trim() == ASK_PROMISES {
        let picture = model.picture.as_ref().ok_or("there is no cluster yet")?;
        return Ok((picture.promises.to_json().to_string(), None));
    }
    if line.trim() == ASK_LEARN {
        let learn = model.learn.as_ref().ok_or("no lab is open yet")?;
        return Ok((course::to_json(&learn.session, &learn.checked).to_string(), None));
    }
    if line.trim() == "undo" {
        let cmd = undo(model);
        let said = model.notice.as_ref().map_or(String::new(), |(_, text)| text.clone());
        return Ok((said, cmd));
    }
    let names = model.picture.as_ref().ok_or("there is no cluster yet")?.member_names();
    let deed = Deed::parse(line, &names)?;
    let cmd = decide(model, &deed)?;
    Ok((format!("done: {}; undo it with: etcd-lab fault undo", deed.line(&names)), Some(cmd)))
}

/// Takes the newest deed back that can still be taken back.
fn undo(model: &mut Model) -> Option<Cmd> {
    while let Some((line, undo)) = model.undo.pop() {
        let picture = model.picture.as_ref()?;
        let names = picture.member_names();
        let cure = if let Undo::Do(deed) = &undo { deed.line(&names) } else { "links as they were".into() };
        // A member that was killed and started again needs no undo.
        let is_moot = matches!(&undo, Undo::Do(Deed::Process { member, action: crate::lab::Action::Restart })
            if picture.members.get(*member).is_some_and(|m| !m.is_down()));
        if is_moot {
            continue;
        }
        if let Ok(orders) = model.board.undo(undo, picture) {
            model.notify(Tone::Good, format!("undone: {line} ({cure})"));
            return Some(Cmd::Do { orders, line: Some(format!("etcd-lab fault undo ({cure})")) });
        }
    }
    model.notify(Tone::Plain, "nothing to undo");
    None
}

/// A member that speaks anew is told what is in force.
pub(super) fn greet(model: &Model, member: usize) -> Option<Cmd> {
    let orders = model.board.greet(member, model.picture.as_ref()?);
    (!orders.is_empty()).then_some(Cmd::Do { orders, line: None })
}

/// What the nemesis does by now.
fn nemesis(model: &mut Model) -> Option<Cmd> {
    let moved = model.board.turn(model.picture.as_ref()?)?;
    model.changed = true;
    Some(match moved {
        Move::Orders { line, orders } => Cmd::Nemesis { orders, line },
        Move::Put(value) => Cmd::Call { value: Some(value) },
        Move::Get => Cmd::Call { value: None },
    })
}

/// What goes on by itself: the nemesis; while a goal is set, one step for each frame.
pub(super) fn tick(model: &mut Model) -> Option<Cmd> {
    if let Some(cmd) = nemesis(model) {
        return Some(cmd);
    }
    if model.step_waits && model.picture.as_ref().is_some_and(Picture::is_settled) {
        model.step_waits = false;
        if model.board.held {
            return step(model);
        }
    }
    let goal = model.goal?;
    let picture = model.picture.as_ref()?;
    if goal.reached(picture) || !model.board.held {
        model.goal = None;
        model.notify(
            Tone::Good,
            "there: an entry was committed or a leader elected; . steps on, Space lets the clock go",
        );
        model.changed = true;
        return None;
    }
    if picture.now < goal.due || !picture.is_settled() || goal.last.is_some() && goal.last == oldest(picture) {
        return None;
    }
    model.goal = Some(Goal { due: picture.now.plus(STEP_MS), last: oldest(picture), ..goal });
    step(model)
}

/// The message that has waited longest at the door of a member that can hear.
fn oldest(picture: &Picture) -> Option<(usize, u64)> {
    let hears = |m: usize| picture.members.get(m).is_some_and(|m| !m.is_paused());
    picture.wires.held().find(|(l, _)| hears(l.to)).map(|(l, id)| (l.to, id))
}

/// The oldest message that waits arrives; if none does, every clock ticks once.
fn step(model: &mut Model) -> Option<Cmd> {
    let picture = model.picture.as_ref()?;
    let first = oldest(picture).and_then(|(member, id)| {
        let line = picture.wires.held().find(|(l, held)| (l.to, *held) == (member, id));
        line.map(|(l, _)| (member, id, words(picture, l)))
    });
    match first {
        Some((member, id, text)) => {
            let cmd = deed_now(model, &Deed::Deliver { member, id })?;
            model.notify(Tone::Plain, format!("arrives: {text}"));
            Some(cmd)
        }
        None => deed_now(model, &Deed::Tick { member: None }),
    }
}

/// The Break menu for the selected member.
pub(super) fn break_menu(model: &Model) -> Option<Overlay> {
    let picture = model.shown()?;
    let names = picture.member_names();
    let n = names.get(model.selected)?;
    let rest: Vec<&String> = names.iter().filter(|x| *x != n).collect();
    let mut lines: Vec<(String, String, Then)> = [
        ("kill", "kill -9: it dies without a word"),
        ("power", "power loss: it dies, and what was not synced is gone"),
        ("stop", "stop it (SIGSTOP): it stands still, its sockets stay open"),
        ("cont", "let it go on (SIGCONT)"),
        ("term", "shut it down (SIGTERM): it hands leadership over first"),
        ("start", "start it again, with the data that it has"),
        ("campaign", "force an election: it asks for votes now"),
    ]
    .map(|(word, what)| (format!("{word} {n}"), what.to_string(), Then::Do))
    .into();
    if let Some(peer) = rest.first() {
        let joined = |all: &[&String]| all.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(",");
        lines.push((format!("partition {n} | {}", joined(&rest)), "cut it off from all others".into(), Then::Do));
        if rest.len() > 2 {
            let (with, others) = rest.split_at(1);
            let line = format!("partition {n},{} | {}", joined(with), joined(others));
            lines.push((line, format!("partition: {n} and {} from the other {}", with[0], others.len()), Then::Do));
        }
        lines.push((format!("cut {n} {peer}"), format!("one way: nothing from {n} to {peer}… (edit)"), Then::Edit));
        lines.push((format!("delay {n} {peer} 500ms"), format!("delay {n} to {peer}… (edit)"), Then::Edit));
        lines.push((format!("loss {n} {peer} 30%"), format!("lose messages from {n} to {peer}… (edit)"), Then::Edit));
        lines.push(("heal".into(), "heal: all links as before".into(), Then::Do));
    }
    lines.push((format!("slow-disk {n} 300ms"), "slow disk: each sync takes 300 ms longer… (edit)".into(), Then::Edit));
    lines.push((format!("full-disk {n}"), "full disk: it ends at its next write".into(), Then::Do));
    lines.push((format!("failing-disk {n}"), "failing disk: it ends at its next sync".into(), Then::Do));
    lines.push((format!("cut-clients {n}"), "clients do not reach it; members do".into(), Then::Do));
    lines.push((format!("rot {n} log"), "down: one bit of its log turns over".into(), Then::Do));
    lines.push((format!("wipe {n}"), "down: its data is gone (moved aside)".into(), Then::Do));
    if model.twin.is_none() {
        let text = format!("a bad configuration: which of {}…", misfits(picture).count());
        lines.push((format!("bad-config {n}"), text, Then::Configs));
    }
    if picture.has_upstream {
        lines.push((format!("ours {n}"), "our server takes its place, on its data: it is seen whole".into(), Then::Do));
        lines.push((format!("theirs {n}"), "etcd goes on with it again".into(), Then::Do));
    }
    lines.push((format!("clock-offset {n} +90s"), "its clock on the wall is 90 s ahead… (edit)".into(), Then::Edit));
    lines.push(("nemesis 7 for 60s".into(), "nemesis: a minute of faults from seed 7… (edit)".into(), Then::Edit));
    lines.push(("align".into(), "all election timers run out together".into(), Then::Do));
    lines.push(("spread".into(), "election timers run out one after the other".into(), Then::Do));
    let names = picture.member_names();
    // Of a simulated cluster only what can be done to it.
    let can_be = |line: &str| {
        model.twin.is_none() || Deed::parse(line, &names).is_ok_and(|deed| crate::lab::twin::act(&deed).is_ok())
    };
    lines.retain(|(line, _, then)| *then == Then::Configs || can_be(line));
    let items: Vec<Item> = lines.into_iter().map(|(line, text, then)| item(model, picture, line, text, then)).collect();
    let choice = items.iter().position(|i| i.unfit.is_none()).unwrap_or(0);
    Some(Overlay::Menu { title: format!("break {n}"), items, choice, of_member: true })
}

/// What does not do in this cluster.
fn misfits(picture: &Picture) -> impl Iterator<Item = Misfit> + '_ {
    let fits = |m: &Misfit| picture.is_tls || !m.is_of_tls();
    Misfit::all().filter(fits).filter(|m| picture.members.len() > 1 || !m.needs_others())
}

/// The menu of bad configurations for the selected member.
fn config_menu(model: &Model) -> Option<Overlay> {
    let picture = model.shown()?;
    let name = &picture.members.get(model.selected)?.name;
    let line = |m: Misfit| {
        let line = format!("bad-config {name} {}", m.word());
        item(model, picture, line, m.what().into(), Then::Do)
    };
    let items = misfits(picture).map(line).collect();
    Some(Overlay::Menu { title: format!("{name} starts anew with…"), items, choice: 0, of_member: false })
}

/// The menu of the marked message.
pub(super) fn message_menu(model: &mut Model) -> Option<Overlay> {
    let wires = model.wires();
    let line = match model.wire {
        Some(number) => wires.iter().find(|l| l.number == number),
        None => wires.last(),
    };
    let picture = model.picture.as_ref()?;
    let Some(l) = line else {
        model.notify(Tone::Plain, "there is no message to mark");
        return None;
    };
    let End::Held { id } = l.end else {
        model.notify(Tone::Plain, "that message does not wait: hold the clock (Space) and mark one that says HELD");
        return None;
    };
    let name = &picture.members[l.to].name;
    let items = [("deliver", "let it arrive now"), ("drop", "lose it")];
    let items = items.map(|(word, what)| item(model, picture, format!("{word} {name} {id}"), what.into(), Then::Do));
    Some(Overlay::Menu { title: words(picture, l), items: items.into(), choice: 0, of_member: false })
}

fn item(model: &Model, picture: &Picture, line: String, text: String, then: Then) -> Item {
    if then == Then::Configs {
        return Item { text, shell: format!("{} …", pasted(&line)), line, unfit: None, then };
    }
    let deed = Deed::parse(&line, &picture.member_names());
    let unfit = deed.as_ref().map_err(Clone::clone).and_then(|d| model.board.clone().decide(d, picture)).err();
    // In a simulation nothing has a process that a shell could reach, and links are not known by ids.
    let unfit = unfit.filter(|_| model.twin.is_none());
    let shell = deed.ok().filter(|_| model.twin.is_none()).map_or(line.clone(), |d| d.shell(picture));
    Item { text, line, shell, unfit, then }
}

/// Does a menu's line, or offers it for editing.
pub(super) fn choose(model: &mut Model, item: Item) -> Option<Cmd> {
    if let Some(why) = item.unfit {
        model.notify(Tone::Bad, format!("that does not fit: {why}"));
        return None;
    }
    match item.then {
        Then::Do => {}
        Then::Edit => {
            model.overlay = Some(Overlay::Command { text: item.line });
            return None;
        }
        Then::Configs => {
            model.overlay = config_menu(model);
            return None;
        }
    }
    let names = model.shown()?.member_names();
    match Deed::parse(&item.line, &names) {
        Ok(deed) => deed_now(model, &deed),
        Err(why) => {
            model.notify(Tone::Bad, why);
            None
        }
    }
}

/// Marks this moment in the recording.
pub(super) fn mark(model: &mut Model, text: &str) -> Option<Cmd> {
    if model.replay.is_some() || model.picture.is_none() {
        model.notify(Tone::Bad, "markers are put while a lab runs; { and } go to them");
        return None;
    }
    model.marks += 1;
    let text = if text.is_empty() { format!("number {}", model.marks) } else { text.to_owned() };
    Some(Cmd::Mark { text })
}

/// Copies the marked line of a menu, or the last line that was shown.
pub(super) fn copy(model: &mut Model) -> Option<Cmd> {
    let text = match &model.overlay {
        Some(Overlay::Menu { items, choice, .. }) => items.get(*choice).map(|item| pasted(&item.line)),
        _ => model.line.clone(),
    };
    match text {
        Some(text) => {
            model.notify(Tone::Plain, format!("copied, if this terminal lets us (OSC 52): {text}"));
            Some(Cmd::Copy { text })
        }
        None => {
            model.notify(Tone::Plain, "nothing was done yet that has a line to copy");
            None
        }
    }
}

pub(super) fn get(model: &mut Model, key: &str) -> Option<Cmd> {
    if model.replay.is_some() || key.is_empty() {
        let why = if key.is_empty() { "which key? write it like this: get KEY" } else { "this is a recording" };
        model.notify(Tone::Bad, why);
        return None;
    }
    model.show_line(format!("etcdctl get {}", quoted(key)), "   is on its way");
    Some(Cmd::Get { endpoints: endpoints(model), key: key.to_owned() })
}

pub(super) fn put(model: &mut Model, text: &str) -> Option<Cmd> {
    let (key, value) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let (key, value) = (key.to_string(), value.trim().to_string());
    if key.is_empty() {
        model.notify(Tone::Bad, "a key needs a name: press w and type KEY VALUE");
        return None;
    }
    if model.replay.is_some() && model.twin.is_some() {
        model.writes += 1;
        let line = format!("put {} {}", quoted(&key), quoted(&value));
        return replay::act_there(model, Act::Put { key, value }, line);
    }
    let urls = endpoints(model);
    model.writes += 1;
    let held = if model.picture.as_ref().is_some_and(|p| p.pace() == Pace::Held) {
        ": it waits for your steps ( . )"
    } else {
        ""
    };
    let line = format!("etcdctl put {} {}", quoted(&key), quoted(&value));
    model.show_line(line, &format!("   is on its way{held}"));
    Some(Cmd::Put { endpoints: urls, key, value })
}

/// Writes through one member, whoever leads: what a client that knows of no other would do.
pub(super) fn put_at(model: &mut Model, text: &str) -> Option<Cmd> {
    let mut words = text.splitn(3, ' ');
    let (name, key, value) = (words.next()?, words.next().unwrap_or(""), words.next().unwrap_or("").trim());
    let member = model.picture.as_ref().and_then(|p| p.members.iter().find(|m| m.name == name));
    let Some(member) = member.filter(|_| !key.is_empty() && model.replay.is_none()) else {
        model.notify(Tone::Bad, "write it like this: put-at n1 KEY VALUE");
        return None;
    };
    let endpoints = vec![member.client_url.clone()];
    let at = member.client_url.trim_start_matches("http://").to_owned();
    model.writes += 1;
    let line = format!("etcdctl --endpoints {at} put {} {}", quoted(key), quoted(value));
    model.show_line(line, "   is on its way");
    Some(Cmd::Put { endpoints, key: key.to_owned(), value: value.to_owned() })
}

/// Where clients go: the leader first, then the others that run. A client need not know who leads.
pub(super) fn endpoints(model: &Model) -> Vec<String> {
    let Some(picture) = &model.picture else { return Vec::new() };
    let leader = picture.leader();
    let mut order: Vec<usize> = (0..picture.members.len()).filter(|i| !picture.members[*i].is_down()).collect();
    order.sort_by_key(|i| (Some(*i) != leader, picture.members[*i].is_paused()));
    order.into_iter().map(|i| picture.members[i].client_url.clone()).collect()
}
