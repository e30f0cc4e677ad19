//! What the screen knows, and how one message changes it.
//!
//! [`update`] is pure: no clock, no terminal, no process. What must be done outside comes back as a [`Cmd`].

use crate::lab::Action;
use crate::lab::Picture;
use crate::lab::Report;
use crate::lab::SIZES;
use crate::lab::picture::MemberView;
use crate::lab::picture::Process;
use crate::lab::picture::Tone;
use crate::lab::workdir::Record;
use crate::tui::keys;
use crate::tui::keys::Does;
use crate::tui::keys::Key;
use crate::tui::keys::Place;
use crate::tui::learn;
use crate::tui::learn::Heard;
use crate::tui::learn::Learn;
use crate::tui::look::Theme;
use crate::types::Millis;

/// Longest text in the prompt.
const PROMPT_MAX: usize = 200;

/// What happened.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(Key),
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
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// Start a cluster.
    Start { nodes: usize },
    /// Do this to a member's process.
    Act { member: usize, action: Action },
    /// Make a member stand for election.
    Campaign { member: usize },
    /// Write a key through the first endpoint that answers.
    Put { endpoints: Vec<String>, key: String, value: String },
    /// Run a block of the lab.
    RunBlock { id: String },
    /// Look at the checks of the lab's step.
    Check { seq: u64 },
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
    Logs,
}

/// What stands before the screen and has the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    Help {
        scroll: u16,
    },
    Break {
        choice: usize,
    },
    /// `fresh`: the text is a suggestion, which the first letter replaces.
    Prompt {
        text: String,
        fresh: bool,
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

/// A line of the Break menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Process(Action),
    Campaign,
}

/// The Break menu, in its order.
pub const FAULTS: [(Fault, &str); 6] = [
    (Fault::Process(Action::Kill), "kill -9: it dies without a word"),
    (Fault::Process(Action::Pause), "stop it (SIGSTOP): it stands still, its sockets stay open"),
    (Fault::Process(Action::Continue), "let it go on (SIGCONT)"),
    (Fault::Process(Action::Stop), "shut it down (SIGTERM): it hands leadership over first"),
    (Fault::Process(Action::Restart), "start it again, with the data that it has"),
    (Fault::Campaign, "force an election: it asks for votes now"),
];

/// The answers to "leave?".
pub const QUIT: [&str; 3] = ["leave, and remove the folder", "leave, and keep the folder", "stay"];

/// A fault that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    member: usize,
    action: Action,
}

/// Everything that the screen knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// The cluster as reported. `None`: still choosing.
    pub picture: Option<Picture>,
    /// The picture at the moment of freezing.
    pub frozen: Option<Box<Picture>>,
    /// Marked size in the picker: a place in [`SIZES`].
    pub size: usize,
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
    /// Colours.
    pub theme: Theme,
    /// 7-bit characters only.
    pub ascii: bool,
    /// The screen must be drawn again.
    pub changed: bool,
    undo: Vec<Done>,
    writes: u64,
}

impl Model {
    /// The opening: 3 members are marked, Enter starts them.
    #[must_use]
    pub fn new(theme: Theme, ascii: bool) -> Model {
        Model {
            picture: None,
            frozen: None,
            size: 1,
            starting: false,
            ending: false,
            folder: String::new(),
            screen: Screen::Ring,
            learn: None,
            area: (80, 24),
            overlay: None,
            selected: 0,
            cursor: None,
            notice: None,
            theme,
            ascii,
            changed: true,
            undo: Vec::new(),
            writes: 0,
        }
    }

    /// What has the keyboard.
    #[must_use]
    pub fn place(&self) -> Place {
        match (&self.overlay, self.ending || self.starting, self.screen) {
            (_, true, _) => Place::Ending,
            (Some(Overlay::Help { .. }), ..) => Place::Help,
            (Some(Overlay::Break { .. }), ..) => Place::Break,
            (Some(Overlay::Prompt { .. } | Overlay::Answer { .. }), ..) => Place::Prompt,
            (Some(Overlay::Guess { .. }), ..) => Place::Guess,
            (Some(Overlay::Quit { .. }), ..) => Place::Quit,
            (None, ..) if self.picture.is_none() => Place::Picker,
            (None, _, Screen::Learn) => Place::Learn,
            (None, _, Screen::Ring) => Place::Ring,
            (None, _, Screen::Logs) => Place::Logs,
        }
    }

    /// What is drawn: the picture, or the frozen one.
    #[must_use]
    pub fn shown(&self) -> Option<&Picture> {
        self.frozen.as_deref().or(self.picture.as_ref())
    }

    /// Whether a line of the Break menu makes sense for a member now.
    #[must_use]
    pub fn fits(fault: Fault, m: &MemberView) -> bool {
        let runs = matches!(m.process, Process::Running { .. });
        match fault {
            Fault::Process(Action::Kill | Action::Stop) => runs || m.is_paused(),
            Fault::Process(Action::Pause) | Fault::Campaign => runs,
            Fault::Process(Action::Continue) => m.is_paused(),
            Fault::Process(Action::Restart) => true,
        }
    }

    pub(super) fn notify(&mut self, tone: Tone, text: impl Into<String>) {
        self.notice = Some((tone, text.into()));
    }

    /// The time of the last tick or report.
    pub(super) fn now(&self) -> Millis {
        self.picture.as_ref().map_or(Millis(0), |p| p.now)
    }

    fn members(&self) -> &[MemberView] {
        self.picture.as_ref().map_or(&[], |p| &p.members)
    }
}

/// One step. Returns what must be done outside, if anything.
pub fn update(model: &mut Model, msg: Msg) -> Option<Cmd> {
    match msg {
        Msg::Tick(now) => {
            tick(model, now);
            return learn::tick(model, now);
        }
        Msg::Report(report) => {
            // A frozen screen stays as it is; the picture behind it does not.
            model.changed |= model.frozen.is_none();
            model.picture.as_mut()?.learn(report);
            return None;
        }
        Msg::Learn(heard) => {
            model.changed |= learn::is_news(model, &heard);
            return learn::hear(model, heard);
        }
        _ => model.changed = true,
    }
    match msg {
        Msg::Key(key) => return press(model, key),
        Msg::Started { record, folder, notices } => started(model, &record, folder, notices),
        Msg::Refused(why) => {
            model.starting = false;
            model.notify(Tone::Bad, why);
        }
        Msg::Answer(Ok(said)) => model.notify(Tone::Good, said),
        Msg::Answer(Err(why)) => model.notify(Tone::Bad, why),
        Msg::Resized { width, height } => model.area = (width, height),
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
    model.changed |= model.frozen.is_none() && (moving || next_second || picture.feed.len() != lines);
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
    if let (None, Place::Prompt | Place::Guess, Key::Char(c)) = (does, place, key) {
        return type_char(model, c);
    }
    model.notice = None;
    match does? {
        Does::ShowLearn => return learn::show(model),
        does if place == Place::Learn && does.is_of_learn() => return learn::press(model, does),
        Does::Accept => return accept(model),
        Does::Back => model.overlay = None,
        Does::Next => step(model, 1),
        Does::Previous => step(model, -1),
        Does::Left | Does::Right | Does::Newest | Does::Oldest => sideways(model, does?),
        Does::ShowRing => model.screen = Screen::Ring,
        Does::ShowLogs => model.screen = Screen::Logs,
        Does::Later => model.notify(Tone::Plain, "4 Watch, 5 Data, 6 Cluster: these screens come in a later release"),
        Does::Shell => return Some(Cmd::Shell),
        Does::Help => model.overlay = Some(Overlay::Help { scroll: 0 }),
        Does::Break => model.overlay = Some(open_break(model)),
        Does::Write => {
            model.overlay = Some(Overlay::Prompt { text: format!("a {}", model.writes + 1), fresh: true });
        }
        Does::Undo => return undo(model),
        Does::Freeze => {
            model.frozen = if model.frozen.is_some() { None } else { model.picture.clone().map(Box::new) };
        }
        Does::Quit if model.picture.is_none() => return quit(model, true),
        Does::Quit => model.overlay = Some(Overlay::Quit { choice: 0 }),
        Does::End => return quit(model, false),
        Does::Rub => {
            if let Some(Overlay::Prompt { fresh, .. }) = &mut model.overlay {
                *fresh = false;
            }
            if let Some(Overlay::Prompt { text, .. } | Overlay::Answer { text }) = &mut model.overlay {
                text.pop();
            }
        }
        // These are the Learn screen's own.
        Does::Up
        | Does::Down
        | Does::PageUp
        | Does::PageDown
        | Does::NextStep
        | Does::PreviousStep
        | Does::Run
        | Does::Check
        | Does::Hint => {}
    }
    None
}

fn type_char(model: &mut Model, c: char) -> Option<Cmd> {
    let options = learn::options(model);
    match &mut model.overlay {
        Some(Overlay::Prompt { fresh: true, .. }) => {
            model.overlay = Some(Overlay::Prompt { text: String::new(), fresh: false });
            return type_char(model, c);
        }
        Some(Overlay::Prompt { text, .. } | Overlay::Answer { text }) if text.len() < PROMPT_MAX && !c.is_control() => {
            text.push(c);
        }
        // An option's letter marks it.
        Some(Overlay::Guess { choice }) => {
            *choice = ('a'..='z').take(options).position(|l| l == c.to_ascii_lowercase()).unwrap_or(*choice);
        }
        _ => {}
    }
    None
}

fn quit(model: &mut Model, remove: bool) -> Option<Cmd> {
    model.ending = true;
    model.overlay = None;
    Some(Cmd::Quit { remove })
}

/// The menu opens on the first line that makes sense.
fn open_break(model: &Model) -> Overlay {
    let m = model.members().get(model.selected);
    let choice = FAULTS.iter().position(|(f, _)| m.is_some_and(|m| Model::fits(*f, m)));
    Overlay::Break { choice: choice.unwrap_or(0) }
}

/// Up and down: in a list its lines, on a screen the members.
fn step(model: &mut Model, by: isize) {
    let cycle = |at: usize, len: usize| (at as isize + by).rem_euclid(len.max(1) as isize) as usize;
    let members = model.members().len();
    let options = learn::options(model);
    match &mut model.overlay {
        Some(Overlay::Help { scroll }) => *scroll = scroll.saturating_add_signed(by as i16),
        Some(Overlay::Break { choice }) => *choice = cycle(*choice, FAULTS.len()),
        Some(Overlay::Quit { choice }) => *choice = cycle(*choice, QUIT.len()),
        Some(Overlay::Guess { choice }) => *choice = cycle(*choice, options),
        Some(Overlay::Prompt { .. } | Overlay::Answer { .. }) => {}
        None if model.picture.is_none() => model.size = cycle(model.size, SIZES.len()),
        None => model.selected = cycle(model.selected, members),
    }
}

fn sideways(model: &mut Model, does: Does) {
    if let Some(Overlay::Break { .. }) = model.overlay {
        let by = if does == Does::Left { model.members().len().saturating_sub(1) } else { 1 };
        model.selected = (model.selected + by) % model.members().len().max(1);
        model.overlay = Some(open_break(model));
        return;
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

fn accept(model: &mut Model) -> Option<Cmd> {
    match model.overlay.take() {
        None if model.picture.is_none() => {
            model.starting = true;
            Some(Cmd::Start { nodes: SIZES[model.size] })
        }
        None if model.screen == Screen::Learn => learn::act(model),
        None | Some(Overlay::Help { .. }) => None,
        Some(Overlay::Answer { text }) => learn::answer(model, text),
        Some(Overlay::Guess { choice }) => learn::guess(model, choice),
        Some(Overlay::Break { choice }) => do_fault(model, FAULTS[choice].0),
        Some(Overlay::Quit { choice: 0 }) => quit(model, true),
        Some(Overlay::Quit { choice: 1 }) => quit(model, false),
        Some(Overlay::Quit { .. }) => None,
        Some(Overlay::Prompt { text, .. }) => put(model, text),
    }
}

fn do_fault(model: &mut Model, fault: Fault) -> Option<Cmd> {
    let member = model.selected;
    let m = model.members().get(member)?;
    if !Model::fits(fault, m) {
        let why = format!("that does not fit: {} {}", m.name, if m.is_down() { "is down" } else { "runs" });
        model.notify(Tone::Bad, why);
        return None;
    }
    let Fault::Process(action) = fault else { return Some(Cmd::Campaign { member }) };
    if matches!(action, Action::Kill | Action::Pause | Action::Stop) {
        model.undo.push(Done { member, action });
        model.notify(Tone::Plain, "done: press u to undo");
    }
    Some(Cmd::Act { member, action })
}

/// Undoes the newest fault that still holds.
fn undo(model: &mut Model) -> Option<Cmd> {
    while let Some(Done { member, action }) = model.undo.pop() {
        let m = model.members().get(member)?;
        let (holds, cure, what) = match action {
            Action::Pause => (m.is_paused(), Action::Continue, "goes on"),
            _ => (m.is_down(), Action::Restart, "starts again"),
        };
        if holds {
            let text = format!("undone: {} {what}", m.name);
            model.notify(Tone::Good, text);
            return Some(Cmd::Act { member, action: cure });
        }
    }
    model.notify(Tone::Plain, "nothing to undo");
    None
}

fn put(model: &mut Model, text: String) -> Option<Cmd> {
    let (key, value) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let (key, value) = (key.to_string(), value.trim().to_string());
    if key.is_empty() {
        model.notify(Tone::Bad, "a key needs a name: press w and type KEY VALUE");
        return None;
    }
    let picture = model.picture.as_ref()?;
    let leader = picture.leader();
    // The leader first, then the others that run: a client need not know who leads.
    let mut order: Vec<usize> = (0..picture.members.len()).filter(|i| !picture.members[*i].is_down()).collect();
    order.sort_by_key(|i| (Some(*i) != leader, picture.members[*i].is_paused()));
    let endpoints = order.into_iter().map(|i| picture.members[i].client_url.clone()).collect();
    model.writes += 1;
    model.notify(Tone::Plain, format!("put {key} is on its way"));
    Some(Cmd::Put { endpoints, key, value })
}
