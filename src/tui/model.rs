//! What the screen knows, and how one message changes it.
//!
//! [`update`] is pure: no clock, no terminal, no process. What must be done outside comes back as a [`Cmd`].

use crate::lab::Board;
use crate::lab::Picture;
use crate::lab::Report;
use crate::lab::SIZES;
use crate::lab::board::Order;
use crate::lab::board::Undo;
use crate::lab::picture::MemberView;
use crate::lab::picture::Tone;
use crate::lab::recording::Replay;
use crate::lab::store;
use crate::lab::twin::Twin;
use crate::lab::workdir::Kept;
use crate::lab::workdir::Record;
use crate::sim::film::Script;
use crate::tui::act;
use crate::tui::command;
use crate::tui::data;
use crate::tui::data::DataView;
use crate::tui::keys;
use crate::tui::keys::Does;
use crate::tui::keys::Key;
use crate::tui::keys::Place;
use crate::tui::learn;
use crate::tui::learn::Heard;
use crate::tui::learn::Learn;
use crate::tui::look::Theme;
use crate::tui::mouse;
use crate::tui::replay;
use crate::tui::why::About;
use crate::types::Millis;
use std::path::PathBuf;

/// Longest text in the prompt.
const PROMPT_MAX: usize = 200;

/// What happened.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(Key),
    /// The mouse was pressed here.
    Click { column: u16, row: u16 },
    /// Time has passed; counted from the start.
    Tick(Millis),
    /// The terminal has another size.
    Resized { width: u16, height: u16 },
    /// The members start.
    Started { record: Record, folder: String, notices: Vec<String> },
    /// They cannot be started; why.
    Refused(String),
    /// Something was learnt about a member.
    Report(Report),
    /// A request was answered, in words; or why not.
    Answer(Result<String, String>),
    /// Something for the Learn screen.
    Learn(Heard),
    /// A recording was read, or why not.
    Replay(Result<Box<Replay>, String>),
    /// A simulated cluster that goes on otherwise from this time on.
    Forked { found: Box<Replay>, twin: Box<Twin>, at: Millis },
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// Start a cluster.
    Start { nodes: usize },
    /// Start the members of a kept folder again.
    GoOn { folder: PathBuf },
    /// Tell members, or their processes. `line`: what the learner has done, if it was the learner.
    Do { orders: Vec<Order>, line: Option<String> },
    /// What the nemesis orders, and how the feed tells of it.
    Nemesis { orders: Vec<Order>, line: String },
    /// The nemesis's client writes a value, or reads.
    Call { value: Option<String> },
    /// Ask for the Data screen, at the first of these that answers.
    Data { urls: Vec<String>, ask: store::Ask },
    /// Play a simulated cluster, and show it from this time on.
    Simulate { script: Script, at: Millis },
    /// Read back what was recorded of this lab.
    Rewind,
    /// Write a key through the first endpoint that answers.
    Put { endpoints: Vec<String>, key: String, value: String },
    /// Read a key, in the same way.
    Get { endpoints: Vec<String>, key: String },
    /// Run a block of the lab.
    RunBlock { id: String },
    /// Look at the checks of the lab's step.
    Check { seq: u64 },
    /// Set this step of the lab up anew.
    Redo { step: usize },
    /// Open the lab that the course has next.
    NextLab,
    /// Open the lab of this name, or the questions of a chapter.
    OpenLab { name: String },
    /// Note a marker in the recording.
    Mark { text: String },
    /// Put a text on the clipboard, by way of the terminal.
    Copy { text: String },
    /// Take clicks, or leave them to the terminal.
    Mouse { on: bool },
    /// Hand the terminal to a shell.
    Shell,
    /// End the members and leave.
    Quit { remove: bool },
}

/// A screen with a number key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    Learn,
    Ring,
    /// The Ring's other side.
    Wire,
    Logs,
    Watch,
    Data,
    Cluster,
}

/// What stands before the screen and has the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    Help {
        scroll: u16,
    },
    /// A question and its answer, as it is now; see [`crate::lab::why`].
    Why {
        about: About,
        scroll: u16,
    },
    /// Users and roles, as they are told of now.
    Rights {
        scroll: u16,
    },
    /// The selected member closely, as it is told of now.
    CloseUp {
        scroll: u16,
    },
    Menu {
        title: String,
        items: Vec<Item>,
        choice: usize,
        /// It is about the selected member, and left and right go to another.
        of_member: bool,
    },
    /// `fresh`: the text is a suggestion, which the first letter replaces.
    Prompt {
        what: Question,
        text: String,
        fresh: bool,
    },
    /// The command line.
    Command {
        text: String,
    },
    Quit {
        choice: usize,
    },
    /// The answer to the marked question.
    Answer {
        text: String,
    },
    /// The options of the marked guess.
    Guess {
        choice: usize,
    },
}

/// What a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// KEY VALUE to write.
    Put,
    /// Which messages to show.
    WireFilter,
    /// Which folder to go to.
    DataPrefix,
}

/// A line of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub text: String,
    /// The command line that it stands for.
    pub line: String,
    /// What the learner could type in a shell instead.
    pub shell: String,
    /// Why it does not fit now.
    pub unfit: Option<String>,
    /// What Enter does with the line.
    pub then: Then,
}

/// What Enter does with a menu's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is done.
    Do,
    /// It is offered for editing.
    Edit,
    /// It leads to a menu of bad configurations.
    Configs,
}

/// The answers to "leave?".
pub const QUIT: [&str; 3] = ["leave, and remove the folder", "leave, and keep the folder", "stay"];

/// Everything that the screen knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// The cluster as reported. `None`: still choosing.
    pub picture: Option<Picture>,
    /// The picture at the moment of freezing.
    pub frozen: Option<Box<Picture>>,
    /// Marked size in the picker: a place in [`SIZES`].
    pub size: usize,
    /// The lab that was asked for, by its number and title.
    pub wanted: Option<String>,
    /// What an earlier lab has kept, which the picker offers to go on with.
    pub kept: Option<Kept>,
    /// Enter was pressed, the members are being started.
    pub starting: bool,
    /// The lab shuts down.
    pub ending: bool,
    /// The work folder.
    pub folder: String,
    /// The screen.
    pub screen: Screen,
    /// The lab, once its cluster runs.
    pub learn: Option<Learn>,
    /// How often a lab was opened, or a step of it set up, so far.
    pub(super) openings: u64,
    /// Columns and rows of the terminal.
    pub area: (u16, u16),
    /// What stands before it.
    pub overlay: Option<Overlay>,
    /// The member that keys act on.
    pub selected: usize,
    /// The marked log entry; `None`: the newest.
    pub cursor: Option<u64>,
    /// One line for the user, until the next key.
    pub notice: Option<(Tone, String)>,
    /// What the lab has put in force.
    pub board: Board,
    /// The last line that stood for an action: what is copied.
    pub line: Option<String>,
    /// Clicks are ours; the terminal's own selection of text is off meanwhile.
    pub mouse: bool,
    /// How to take the last deeds back: the line, and the undo.
    pub(super) undo: Vec<(String, Undo)>,
    /// The clock is stepped until this is no longer so.
    pub goal: Option<act::Goal>,
    /// A step was asked for, and is made when the one before has come to its end.
    pub step_waits: bool,
    /// The simulated cluster that the recording is of.
    pub twin: Option<Twin>,
    /// What was recorded, instead of what is.
    pub replay: Option<Box<Replay>>,
    /// How a replay goes.
    pub play: replay::Play,
    /// The marked message; `None`: the newest.
    pub wire: Option<u64>,
    /// Heartbeats are shown on Wire.
    pub routine: bool,
    /// Only messages with this are shown on Wire.
    pub filter: String,
    /// The marked watcher.
    pub watcher: usize,
    /// The marked revision of the tape; `None`: the newest.
    pub revision: Option<u64>,
    /// The Data screen's place.
    pub data: DataView,
    /// Colours.
    pub theme: Theme,
    /// 7-bit characters only.
    pub ascii: bool,
    /// On a very large screen the Ring has nothing beside it.
    pub stage: bool,
    /// The screen must be drawn again.
    pub changed: bool,
    pub(super) writes: u64,
    /// Markers of this lab so far.
    pub(super) marks: u64,
}

impl Model {
    /// The opening: 3 members are marked, Enter starts them.
    #[must_use]
    pub fn new(theme: Theme, ascii: bool) -> Model {
        Model {
            picture: None,
            frozen: None,
            size: 1,
            wanted: None,
            kept: None,
            starting: false,
            ending: false,
            folder: String::new(),
            screen: Screen::Ring,
            learn: None,
            openings: 0,
            area: (80, 24),
            overlay: None,
            selected: 0,
            cursor: None,
            notice: None,
            board: Board::default(),
            line: None,
            mouse: false,
            undo: Vec::new(),
            goal: None,
            step_waits: false,
            twin: None,
            replay: None,
            play: replay::Play::default(),
            wire: None,
            routine: false,
            filter: String::new(),
            watcher: 0,
            revision: None,
            data: DataView::default(),
            theme,
            ascii,
            stage: false,
            changed: true,
            writes: 0,
            marks: 0,
        }
    }

    /// What has the keyboard.
    #[must_use]
    pub fn place(&self) -> Place {
        match (&self.overlay, self.ending || self.starting) {
            (_, true) => Place::Ending,
            (Some(Overlay::Help { .. }), _) => Place::Help,
            (Some(Overlay::Why { .. } | Overlay::Rights { .. } | Overlay::CloseUp { .. }), _) => Place::Why,
            (Some(Overlay::Menu { .. }), _) => Place::Menu,
            (Some(Overlay::Prompt { .. } | Overlay::Answer { .. }), _) => Place::Prompt,
            (Some(Overlay::Command { .. }), _) => Place::Command,
            (Some(Overlay::Guess { .. }), _) => Place::Guess,
            (Some(Overlay::Quit { .. }), _) => Place::Quit,
            (None, _) => self.base(),
        }
    }

    /// The place below what stands before it.
    #[must_use]
    pub fn base(&self) -> Place {
        match self.screen {
            _ if self.shown().is_none() => Place::Picker,
            Screen::Learn => Place::Learn,
            Screen::Ring => Place::Ring,
            Screen::Wire => Place::Wire,
            Screen::Logs => Place::Logs,
            Screen::Watch => Place::Watch,
            Screen::Data => Place::Data,
            Screen::Cluster => Place::Cluster,
        }
    }

    /// Whether the Learn screen is seen, with a lab that has nodes of its own: nothing there is of the cluster of the other screens.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.base() == Place::Learn && self.learn.as_ref().is_some_and(|learn| !learn.session.is_on_screen())
    }

    /// What is drawn: the recording, the frozen picture, or the picture.
    #[must_use]
    pub fn shown(&self) -> Option<&Picture> {
        self.replay.as_ref().map(|r| &r.picture).or(self.frozen.as_deref()).or(self.picture.as_ref())
    }

    pub(super) fn notify(&mut self, tone: Tone, text: impl Into<String>) {
        self.notice = Some((tone, text.into()));
    }

    /// Shows the line that stands for what was done, and keeps it to be copied.
    pub(super) fn show_line(&mut self, line: String, more: &str) {
        self.notify(Tone::Plain, format!("{line}{more}"));
        self.line = Some(line);
    }

    /// The time of the last tick or report.
    pub(super) fn now(&self) -> Millis {
        self.picture.as_ref().map_or(Millis(0), |p| p.now)
    }

    pub(super) fn members(&self) -> &[MemberView] {
        self.shown().map_or(&[], |p| &p.members)
    }
}

/// One step. Returns what must be done outside, if anything.
pub fn update(model: &mut Model, msg: Msg) -> Option<Cmd> {
    match msg {
        Msg::Tick(now) => {
            tick(model, now);
            replay::tick(model, now);
            return act::tick(model).or_else(|| data::tick(model)).or_else(|| learn::tick(model, now));
        }
        Msg::Report(report) => {
            // A frozen screen stays as it is; the picture behind it does not.
            model.changed |= model.frozen.is_none() && model.replay.is_none();
            let greet = if let Report::Connected { member } = report { Some(member) } else { None };
            model.picture.as_mut()?.learn(report);
            return greet.and_then(|member| act::greet(model, member));
        }
        Msg::Learn(heard) => {
            model.changed |= learn::is_news(model, &heard);
            return learn::hear(model, heard);
        }
        _ => model.changed = true,
    }
    match msg {
        Msg::Key(key) => return press(model, key),
        Msg::Click { column, row } => return mouse::click(model, column, row),
        Msg::Started { record, folder, notices } => started(model, &record, folder, notices),
        Msg::Refused(why) => {
            model.starting = false;
            model.notify(Tone::Bad, why);
        }
        Msg::Answer(Ok(said)) => model.notify(Tone::Good, said),
        Msg::Answer(Err(why)) => model.notify(Tone::Bad, why),
        Msg::Resized { width, height } => model.area = (width, height),
        Msg::Replay(Ok(found)) => replay::open(model, found),
        Msg::Forked { found, twin, at } => return replay::go_on_otherwise(model, found, *twin, at),
        Msg::Replay(Err(why)) => model.notify(Tone::Bad, why),
        Msg::Tick(_) | Msg::Report(_) | Msg::Learn(_) => {}
    }
    None
}

fn tick(model: &mut Model, now: Millis) {
    let Some(picture) = &mut model.picture else { return };
    let moving = !picture.flights.is_empty();
    // "down for 3 s" counts on though nobody reports anything.
    let next_second = picture.now.0 / 1000 != now.0 / 1000;
    let lines = picture.feed.len();
    picture.tick(now);
    model.changed |=
        model.frozen.is_none() && model.replay.is_none() && (moving || next_second || picture.feed.len() != lines);
}

fn started(model: &mut Model, record: &Record, folder: String, notices: Vec<String>) {
    let mut picture = Picture::new(record);
    picture.say(Tone::Plain, format!("work folder {folder}"));
    for notice in notices {
        picture.say(Tone::Bad, notice);
    }
    (model.picture, model.starting, model.folder) = (Some(picture), false, folder);
}

fn press(model: &mut Model, key: Key) -> Option<Cmd> {
    let place = model.place();
    let does = keys::lookup(place, key);
    if let (None, Place::Prompt | Place::Command | Place::Guess, Key::Char(c)) = (does, place, key) {
        type_char(model, c);
        return None;
    }
    act_on(model, place, does?)
}

/// Does what a key of this place, or a click, stands for.
pub(super) fn act_on(model: &mut Model, place: Place, does: Does) -> Option<Cmd> {
    model.notice = None;
    match (place, does) {
        (Place::Learn, does) if does.is_of_ring() && model.is_apart() => {
            model.notify(Tone::Plain, "that key is for the cluster of screens 2 to 6; to this lab's nodes leads 0");
            None
        }
        (Place::Learn, does) if does.is_of_learn() => learn::press(model, does),
        (Place::Data, does) if data::is_of_data(does) => data::press(model, does),
        (_, Does::ShowLearn) => learn::show(model),
        (_, Does::ShowData) => {
            model.screen = Screen::Data;
            data::refresh(model)
        }
        (_, does) => common(model, does),
    }
}

/// What a key does that means the same on most screens.
fn common(model: &mut Model, does: Does) -> Option<Cmd> {
    match does {
        Does::Accept => return accept(model),
        Does::GoOn => {
            let folder = model.kept.as_ref()?.folder.clone();
            model.starting = true;
            return Some(Cmd::GoOn { folder });
        }
        Does::Back if model.overlay.is_none() => replay::leave(model),
        Does::Back => model.overlay = None,
        Does::Next => step(model, 1),
        Does::Previous => step(model, -1),
        Does::PageDown => step(model, isize::try_from(model.area.1.saturating_sub(6)).unwrap_or(1)),
        Does::PageUp => step(model, -isize::try_from(model.area.1.saturating_sub(6)).unwrap_or(1)),
        Does::Left | Does::Right | Does::Newest | Does::Oldest => sideways(model, does),
        Does::ShowRing => model.screen = Screen::Ring,
        Does::Flip => model.screen = if model.screen == Screen::Ring { Screen::Wire } else { Screen::Ring },
        Does::ShowLogs => model.screen = Screen::Logs,
        Does::ShowWatch => model.screen = Screen::Watch,
        Does::ShowCluster => model.screen = Screen::Cluster,
        Does::Help => model.overlay = Some(Overlay::Help { scroll: 0 }),
        Does::Command => model.overlay = Some(Overlay::Command { text: String::new() }),
        Does::Complete => command::complete_overlay(model),
        Does::Copy => return act::copy(model),
        Does::Mark => return act::mark(model, ""),
        Does::MarkBefore | Does::MarkAfter => replay::to_mark(model, does == Does::MarkAfter),
        Does::Filter => {
            let text = model.filter.clone();
            model.overlay = Some(Overlay::Prompt { what: Question::WireFilter, text, fresh: false });
        }
        Does::Stage => model.stage = !model.stage,
        Does::Routine => model.routine = !model.routine,
        Does::Freeze => {
            model.frozen = if model.frozen.is_some() { None } else { model.picture.clone().map(Box::new) };
        }
        Does::Quit if model.picture.is_none() => return quit(model, true),
        Does::Quit => model.overlay = Some(Overlay::Quit { choice: 0 }),
        Does::End => return quit(model, false),
        Does::Rub => rub(model),
        does => return act::press(model, does),
    }
    None
}

/// Lines of keys below a screen in a terminal of this height.
#[must_use]
pub fn bars(height: u16) -> u16 {
    if height >= 16 { 2 } else { 1 }
}

fn rub(model: &mut Model) {
    if let Some(Overlay::Prompt { fresh, .. }) = &mut model.overlay {
        *fresh = false;
    }
    if let Some(Overlay::Prompt { text, .. } | Overlay::Answer { text } | Overlay::Command { text }) =
        &mut model.overlay
    {
        text.pop();
    }
}

fn type_char(model: &mut Model, c: char) {
    let options = learn::options(model);
    match &mut model.overlay {
        Some(Overlay::Prompt { what, fresh: true, .. }) => {
            model.overlay = Some(Overlay::Prompt { what: *what, text: String::new(), fresh: false });
            type_char(model, c);
        }
        Some(Overlay::Prompt { text, .. } | Overlay::Answer { text } | Overlay::Command { text })
            if text.len() < PROMPT_MAX && !c.is_control() =>
        {
            text.push(c);
        }
        // An option's letter marks it.
        Some(Overlay::Guess { choice }) => {
            *choice = ('a'..='z').take(options).position(|l| l == c.to_ascii_lowercase()).unwrap_or(*choice);
        }
        _ => {}
    }
}

pub(super) fn quit(model: &mut Model, remove: bool) -> Option<Cmd> {
    model.ending = true;
    model.overlay = None;
    Some(Cmd::Quit { remove })
}

/// Up and down: in a list its lines, on a screen its members or lines.
fn step(model: &mut Model, by: isize) {
    let cycle = |at: usize, len: usize| (at as isize + by).rem_euclid(len.max(1) as isize) as usize;
    let members = model.members().len();
    let (options, base) = (learn::options(model), model.base());
    match &mut model.overlay {
        Some(
            Overlay::Help { scroll }
            | Overlay::Why { scroll, .. }
            | Overlay::Rights { scroll }
            | Overlay::CloseUp { scroll },
        ) => *scroll = scroll.saturating_add_signed(by as i16),
        Some(Overlay::Menu { choice, items, .. }) => *choice = cycle(*choice, items.len()),
        Some(Overlay::Quit { choice }) => *choice = cycle(*choice, QUIT.len()),
        Some(Overlay::Guess { choice }) => *choice = cycle(*choice, options),
        Some(Overlay::Prompt { .. } | Overlay::Answer { .. } | Overlay::Command { .. }) => {}
        None if base == Place::Picker => model.size = cycle(model.size, SIZES.len()),
        None if model.screen == Screen::Wire => step_wire(model, by),
        None if model.screen == Screen::Watch => {
            let count = model.shown().map_or(0, |p| p.watchers().count());
            model.watcher = cycle(model.watcher.min(count), count);
        }
        None => model.selected = cycle(model.selected, members),
    }
}

/// The marked message: one later or earlier among those that are shown. Below the newest the mark follows.
fn step_wire(model: &mut Model, by: isize) {
    let numbers: Vec<u64> = model.wires().iter().map(|l| l.number).collect();
    let last = numbers.len().saturating_sub(1);
    let at = model.wire.map_or(last, |n| numbers.partition_point(|x| *x < n));
    let to = at.saturating_add_signed(by).min(last);
    model.wire = numbers.get(to).copied().filter(|_| to < last || by < 0);
}

fn sideways(model: &mut Model, does: Does) {
    if let Some(Overlay::Menu { of_member, .. }) = model.overlay {
        if !of_member {
            return;
        }
        let by = if does == Does::Left { model.members().len().saturating_sub(1) } else { 1 };
        model.selected = (model.selected + by) % model.members().len().max(1);
        model.overlay = act::break_menu(model);
        return;
    }
    match (model.screen, does) {
        (Screen::Ring, Does::Left) => return step(model, -1),
        (Screen::Ring, Does::Right) => return step(model, 1),
        (Screen::Wire, _) => {
            model.wire = None;
            return;
        }
        (Screen::Watch, _) => return along_the_tape(model, does),
        _ => {}
    }
    let known = model.shown().into_iter().flat_map(|p| &p.members).flat_map(|m| m.log.keys().copied());
    let (mut first, mut last) = (u64::MAX, 0);
    known.for_each(|i| (first, last) = (first.min(i), last.max(i)));
    if last == 0 {
        return;
    }
    let at = model.cursor.unwrap_or(last);
    model.cursor = match does {
        Does::Left => Some(at.saturating_sub(1).max(first)),
        Does::Right => Some(at + 1),
        Does::Oldest => Some(first),
        _ => None,
    };
    // On the newest entry the cursor follows the log.
    model.cursor = model.cursor.filter(|at| *at < last);
}

/// The marked revision: one earlier or later among those of which we know who has applied them.
fn along_the_tape(model: &mut Model, does: Does) {
    let Some(fans) = model.shown().map(|p| &p.fans) else { return };
    let (first, last) = (fans.keys().next().copied().unwrap_or(0), fans.keys().next_back().copied().unwrap_or(0));
    let at = model.revision.unwrap_or(last);
    model.revision = match does {
        Does::Left => Some(at.saturating_sub(1).max(first)),
        Does::Right => Some(at + 1).filter(|at| *at < last),
        _ => None,
    };
}

fn accept(model: &mut Model) -> Option<Cmd> {
    match model.overlay.take() {
        None if model.base() == Place::Picker => {
            model.starting = true;
            Some(Cmd::Start { nodes: SIZES[model.size] })
        }
        None if model.screen == Screen::Learn => learn::act(model),
        None if model.screen == Screen::Wire => {
            model.overlay = act::message_menu(model);
            None
        }
        None | Some(Overlay::Help { .. } | Overlay::Why { .. } | Overlay::Rights { .. } | Overlay::CloseUp { .. }) => {
            None
        }
        Some(Overlay::Answer { text }) => learn::answer(model, text),
        Some(Overlay::Guess { choice }) => learn::guess(model, choice),
        Some(Overlay::Menu { items, choice, .. }) => act::choose(model, items.into_iter().nth(choice)?),
        Some(Overlay::Command { text }) => command::run(model, &text),
        Some(Overlay::Quit { choice: 0 }) => quit(model, true),
        Some(Overlay::Quit { choice: 1 }) => quit(model, false),
        Some(Overlay::Quit { .. }) => None,
        Some(Overlay::Prompt { what: Question::Put, text, .. }) => act::put(model, &text),
        Some(Overlay::Prompt { what: Question::WireFilter, text, .. }) => {
            (model.filter, model.wire) = (text.trim().to_string(), None);
            None
        }
        Some(Overlay::Prompt { what: Question::DataPrefix, text, .. }) => data::go_to(model, text.trim()),
    }
}
