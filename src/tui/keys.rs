//! Every key, once: dispatch, the bars at the bottom and the help are all made from this table.
//!
//! A key means one thing in one place; a test holds that. Nothing that breaks something is a single letter: faults are
//! behind the Break menu and the command line.

/// A key press, as the lab knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    Enter,
    Esc,
    Tab,
    BackTab,
    Backspace,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
}

/// What has the keyboard: a screen, or what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Picker,
    Learn,
    Ring,
    Wire,
    Logs,
    Watch,
    Data,
    Cluster,
    Help,
    Why,
    Menu,
    Prompt,
    Command,
    /// The options of a guess.
    Guess,
    Quit,
    /// The lab is shutting down: no key does anything.
    Ending,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// The main action of the place.
    Accept,
    /// Starts the members of a kept folder again.
    GoOn,
    /// Leaves the overlay, or the replay.
    Back,
    Next,
    Previous,
    Left,
    Right,
    Newest,
    Oldest,
    /// Scrolls a line.
    Up,
    Down,
    /// Scrolls a screen.
    PageUp,
    PageDown,
    NextStep,
    PreviousStep,
    Run,
    Check,
    Hint,
    /// The step anew.
    Redo,
    ShowLearn,
    ShowRing,
    ShowLogs,
    ShowWatch,
    ShowData,
    ShowCluster,
    /// Ring to Wire, and back.
    Flip,
    Shell,
    Help,
    Break,
    Write,
    /// Through the selected member, whoever leads.
    WriteThere,
    Undo,
    Freeze,
    Hold,
    Step,
    StepBack,
    /// Steps until something is decided; in a recording ten seconds on.
    RunOn,
    /// In a recording: ten seconds back.
    RunBack,
    Slower,
    Faster,
    Why,
    /// What must never happen.
    Promises,
    Command,
    Filter,
    /// Puts a marker into the recording.
    Mark,
    /// In a recording: to the marker or deed before, or the next.
    MarkBefore,
    MarkAfter,
    /// Puts the line of the last action on the clipboard.
    Copy,
    /// Completes the command line.
    Complete,
    /// The Ring alone, or with all that has room beside it.
    Stage,
    /// Heartbeats are shown, or not.
    Routine,
    /// The next form of a value.
    Format,
    Older,
    Newer,
    Compare,
    /// Users and roles.
    Rights,
    CloseUp,
    Quit,
    End,
    Rub,
}

impl Does {
    /// Whether the Learn screen does it in its own way.
    #[must_use]
    pub fn is_of_learn(self) -> bool {
        use Does::*;
        matches!(self, Next | Previous | Up | Down | PageUp | PageDown | Oldest | Newest)
            || matches!(self, NextStep | PreviousStep | Run | Check | Hint | Redo)
    }

    /// Whether it does something to the cluster of the Ring, or to how that is drawn.
    #[must_use]
    pub fn is_of_ring(self) -> bool {
        use Does::*;
        matches!(self, Hold | Step | StepBack | RunOn | Slower | Faster | Break | Undo | Freeze)
    }

    /// Whether it stands in the line of screens, below the bar of a place.
    #[must_use]
    pub fn is_tab(self) -> bool {
        use Does::*;
        matches!(
            self,
            ShowLearn | ShowRing | ShowLogs | ShowWatch | ShowData | ShowCluster | Shell | Command | Help | Quit
        )
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Binding {
    pub key: Key,
    pub places: &'static [Place],
    /// The word in the bar; empty: not there.
    pub bar: &'static str,
    /// The sentence in the help.
    pub what: &'static str,
    pub does: Does,
}

const fn k(key: Key, places: &'static [Place], bar: &'static str, what: &'static str, does: Does) -> Binding {
    Binding { key, places, bar, what, does }
}

const fn c(key: char, places: &'static [Place], bar: &'static str, what: &'static str, does: Does) -> Binding {
    k(Key::Char(key), places, bar, what, does)
}

use Place::Cluster;
use Place::Command;
use Place::Data;
use Place::Ending;
use Place::Guess;
use Place::Help;
use Place::Learn;
use Place::Logs;
use Place::Menu;
use Place::Picker;
use Place::Prompt;
use Place::Quit;
use Place::Ring;
use Place::Watch;
use Place::Why;
use Place::Wire;

/// Every place.
pub const PLACES: [Place; 16] =
    [Picker, Learn, Ring, Wire, Logs, Watch, Data, Cluster, Help, Why, Menu, Prompt, Command, Guess, Quit, Ending];
const SCREENS: &[Place] = &[Learn, Ring, Wire, Logs, Watch, Data, Cluster];
const PICTURES: &[Place] = &[Ring, Wire, Logs, Watch, Data, Cluster];
/// Where up and down select a member.
const MEMBERS: &[Place] = &[Ring, Logs, Cluster];
const LISTS: &[Place] = &[Picker, Menu, Guess, Quit, Help, Why];
const OVERLAYS: &[Place] = &[Help, Why, Menu, Prompt, Command, Guess, Quit];

/// The word of a key that is in the bar only if there is something to go on with.
pub const GO_ON: &str = "go on";

/// The table. Its order is the order in the bar.
#[rustfmt::skip]
pub const KEYS: &[Binding] = &[
    k(Key::Enter,     &[Picker],       "start",   "start the cluster", Does::Accept),
    c('g',            &[Picker],       GO_ON,     "go on with the members and the data that an earlier lab has kept", Does::GoOn),
    k(Key::Enter,     &[Menu, Prompt, Command, Quit], "do it", "do what is marked", Does::Accept),
    k(Key::Enter,     &[Guess],        "lock it", "lock the guess that is marked", Does::Accept),
    k(Key::Enter,     &[Learn],        "do",      "run, answer or guess what is marked", Does::Accept),
    k(Key::Enter,     &[Wire],         "message…", "the marked message: deliver it, or lose it, if it is held", Does::Accept),
    k(Key::Enter,     &[Data],         "open",    "open the marked folder or key", Does::Accept),
    k(Key::Tab,       &[Learn],        "mark",    "mark the next thing to do", Does::Next),
    k(Key::BackTab,   &[Learn],        "",        "mark the one before", Does::Previous),
    c('r',            &[Learn],        "",        "run the marked command", Does::Run),
    c('c',            &[Learn],        "check",   "look at the checks now, and say what they see", Does::Check),
    c('h',            &[Learn],        "hint",    "a hint; the fourth is the solution", Does::Hint),
    c('n',            &[Learn],        "next",    "the next step", Does::NextStep),
    c('p',            &[Learn],        "prev",    "the step before", Does::PreviousStep),
    c('x',            &[Learn],        "anew",    "this step anew: a fresh cluster, on which the steps before are done", Does::Redo),
    k(Key::Down,      &[Learn],        "",        "scroll down", Does::Down),
    k(Key::Up,        &[Learn],        "",        "scroll up", Does::Up),
    k(Key::PageDown,  &[Learn],        "",        "scroll down by a screen", Does::PageDown),
    k(Key::PageUp,    &[Learn],        "",        "scroll up by a screen", Does::PageUp),
    k(Key::Home,      &[Learn],        "",        "the beginning of the step", Does::Oldest),
    k(Key::End,       &[Learn],        "",        "its end", Does::Newest),
    c('/',            &[Data],         "go to",   "go to a folder or prefix", Does::Filter),
    k(Key::Right,     &[Data],         "",        "open the marked folder or key", Does::Accept),
    k(Key::Left,      &[Data],         "back",    "the folder above", Does::Left),
    k(Key::PageDown,  &[Data],         "page",    "the folder's next page", Does::PageDown),
    k(Key::Home,      &[Data],         "",        "the folder's first page", Does::Oldest),
    c('-',            &[Data],         "older",   "the whole key space one revision earlier", Does::Older),
    c('+',            &[Data],         "newer",   "one revision later", Does::Newer),
    c('=',            &[Data],         "now",     "the newest revision", Does::Newest),
    c('v',            &[Data],         "as…",     "the value as text, JSON, YAML or hex", Does::Format),
    c('m',            &[Data, Cluster], "agree?", "do all members have the same? (etcdctl endpoint hashkv)", Does::Compare),
    c('U',            &[Data],         "users",   "users and roles: who may do what", Does::Rights),
    c('h',            &[Wire],         "heartbeats", "show heartbeats, too, or not", Does::Routine),
    c('/',            &[Wire],         "filter",  "show only messages with this in their line", Does::Filter),
    k(Key::Left,      &[Logs],         "entry",   "an older entry", Does::Left),
    k(Key::Right,     &[Logs],         "",        "a newer entry", Does::Right),
    k(Key::Home,      &[Logs],         "",        "the oldest entry that we know", Does::Oldest),
    k(Key::Left,      &[Watch],        "revision", "an older revision: who has applied it, and who was told", Does::Left),
    k(Key::Right,     &[Watch],        "",        "a newer revision", Does::Right),
    c(' ',            SCREENS,         "hold",    "hold the lab's clock, and let it go on; in a replay: play, pause", Does::Hold),
    c('.',            PICTURES,        "step",    "held: one step, which is the oldest message that waits, or else a tick", Does::Step),
    c('.',            &[Learn],        "",        "held: one step, which is the oldest message that waits, or else a tick", Does::Step),
    c('w',            PICTURES,        "write",   "write a key", Does::Write),
    c('W',            PICTURES,        "",        "write a key through the selected member, whoever leads", Does::WriteThere),
    c('!',            SCREENS,         "break…",  "break the selected member or its links: a menu", Does::Break),
    c('u',            SCREENS,         "undo",    "undo the last fault", Does::Undo),
    c(',',            PICTURES,        "rewind",  "back: shows what was recorded, one event earlier", Does::StepBack),
    c('y',            &[Ring, Wire, Logs, Watch, Cluster], "why…", "why is it not …? computed from what is reported", Does::Why),
    k(Key::Enter,     &[Cluster],      "closer", "the selected member: certificates as a chain, files, peers, how long its disk takes", Does::CloseUp),
    c('p',            &[Cluster],      "promises", "what must never happen, and who broke it if it did", Does::Promises),
    c('p',            &[Ring, Wire, Logs, Watch, Data], "", "what must never happen, and who broke it if it did", Does::Promises),
    c('M',            PICTURES,        "",        "put a marker into the recording", Does::Mark),
    c('{',            PICTURES,        "",        "in a recording: back to the last marker, or to what you did", Does::MarkBefore),
    c('}',            PICTURES,        "",        "in a recording: on to the next marker, or to what you did", Does::MarkAfter),
    c('c',            PICTURES,        "",        "copy the line of the last action to the clipboard (OSC 52)", Does::Copy),
    c('c',            &[Menu],         "copy",    "copy the marked line to the clipboard (OSC 52)", Does::Copy),
    k(Key::Tab,       &[Ring],         "wire",    "the ring's other side: Wire, messages as lines", Does::Flip),
    c('P',            &[Ring],         "",        "from 190 columns on: the ring alone, or with lesson, logs and watchers beside it", Does::Stage),
    k(Key::Tab,       &[Wire],         "ring",    "back to the Ring", Does::Flip),
    c('>',            PICTURES,        "until…",  "held: steps until an entry is committed or a leader is elected", Does::RunOn),
    c('>',            &[Learn],        "",        "held: steps until an entry is committed or a leader is elected", Does::RunOn),
    c('<',            PICTURES,        "",        "in a recording: ten seconds back", Does::RunBack),
    c('[',            PICTURES,        "slower",  "the clock goes slower, down to 1/1000; a replay, too", Does::Slower),
    c('[',            &[Learn],        "",        "the clock goes slower, down to 1/1000", Does::Slower),
    c(']',            PICTURES,        "faster",  "the clock goes faster, up to the world's; a replay beyond it", Does::Faster),
    c(']',            &[Learn],        "",        "the clock goes faster, up to the world's", Does::Faster),
    c(',',            &[Learn],        "",        "back: shows what was recorded, one event earlier", Does::StepBack),
    k(Key::Tab,       &[Logs, Cluster], "member", "select the next member", Does::Next),
    k(Key::Tab,       &[Watch],        "",        "the next line", Does::Next),
    k(Key::Tab,       &[Data],         "",        "the next line", Does::Next),
    k(Key::Tab,       &[Command],      "complete", "complete the word", Does::Complete),
    k(Key::Tab,       &[Menu],         "member",  "the next member", Does::Right),
    k(Key::BackTab,   &[Logs, Cluster], "",       "select the previous member", Does::Previous),
    k(Key::End,       &[Watch],        "",        "the newest revision, and follow it", Does::Newest),
    k(Key::End,       &[Logs, Wire],   "",        "the newest, and follow it", Does::Newest),
    k(Key::Down,      MEMBERS,         "",        "select the next member", Does::Next),
    k(Key::Up,        MEMBERS,         "",        "select the previous member", Does::Previous),
    k(Key::Right,     &[Ring],         "member",  "select the next member", Does::Next),
    k(Key::Left,      &[Ring],         "",        "select the previous member", Does::Previous),
    k(Key::Down,      &[Wire, Watch, Data], "down", "the next line", Does::Next),
    k(Key::Up,        &[Wire, Watch, Data], "up", "the previous line", Does::Previous),
    k(Key::Down,      LISTS,           "down",    "the next line", Does::Next),
    k(Key::Up,        LISTS,           "up",      "the previous line", Does::Previous),
    k(Key::PageDown,  &[Help, Why],    "",        "a screen down", Does::PageDown),
    k(Key::PageUp,    &[Help, Why],    "",        "a screen up", Does::PageUp),
    k(Key::Right,     &[Picker],       "",        "more members", Does::Next),
    k(Key::Left,      &[Picker],       "",        "fewer members", Does::Previous),
    k(Key::Right,     &[Menu],         "",        "the next member", Does::Right),
    k(Key::Left,      &[Menu],         "",        "the previous member", Does::Left),
    c('f',            SCREENS,         "",        "freeze the drawing; the cluster goes on", Does::Freeze),
    k(Key::Esc,       SCREENS,         "",        "leave the replay, back to what is now", Does::Back),
    k(Key::Backspace, &[Prompt, Command], "",     "delete the last character", Does::Rub),
    k(Key::Esc,       OVERLAYS,        "back",    "back to the screen", Does::Back),
    c('q',            &[Help, Why],    "",        "back to the screen", Does::Back),
    c('?',            &[Help],         "",        "back to the screen", Does::Back),
    c('y',            &[Why],          "",        "back to the screen", Does::Back),
    c('1',            SCREENS,         "learn",   "screen Learn: a lab, step by step", Does::ShowLearn),
    c('2',            SCREENS,         "ring",    "screen Ring: members, roles, messages", Does::ShowRing),
    c('3',            SCREENS,         "logs",    "screen Logs: entries side by side", Does::ShowLogs),
    c('4',            SCREENS,         "watch",   "screen Watch: revisions, watchers, leases", Does::ShowWatch),
    c('5',            SCREENS,         "data",    "screen Data: keys, values, history", Does::ShowData),
    c('6',            SCREENS,         "cluster", "screen Cluster: members, sizes, alarms, metrics", Does::ShowCluster),
    c('0',            SCREENS,         "shell",   "a shell with the lab's etcdctl; `exit` returns", Does::Shell),
    c(':',            SCREENS,         "command", "everything by name, with completion", Does::Command),
    c('?',            &[Picker, Learn, Ring, Wire, Logs, Watch, Data, Cluster], "help", "keys, and the words on the screen", Does::Help),
    c('q',            &[Picker, Learn, Ring, Wire, Logs, Watch, Data, Cluster], "quit", "leave; asks what becomes of the folder", Does::Quit),
    k(Key::Ctrl('c'), &PLACES,         "",        "leave at once; the folder is kept", Does::End),
];

/// What a key does here.
#[must_use]
pub fn lookup(place: Place, key: Key) -> Option<Does> {
    KEYS.iter().find(|b| b.key == key && b.places.contains(&place)).map(|b| b.does)
}

/// What the bar says here: key and word.
pub fn bar(place: Place) -> impl Iterator<Item = (String, &'static str)> {
    let here = KEYS.iter().filter(move |b| b.places.contains(&place) && !b.bar.is_empty());
    here.filter(move |b| !b.does.is_tab()).map(|b| (b.key.name(), b.bar))
}

/// What the bar of the Learn screen says over a lab with nodes of its own.
pub fn apart_bar() -> impl Iterator<Item = (String, &'static str)> {
    let here = KEYS.iter().filter(|b| b.places.contains(&Place::Learn) && !b.bar.is_empty());
    here.filter(|b| !b.does.is_tab() && !b.does.is_of_ring()).map(|b| (b.key.name(), b.bar))
}

/// What keys of the table do in a recording, where it is another word; the bar shows these and no others.
const IN_REPLAY: [(Does, &str); 10] = [
    (Does::Hold, "play, pause"),
    (Does::Step, "on"),
    (Does::StepBack, "back"),
    (Does::RunBack, "10 s"),
    (Does::RunOn, "10 s"),
    (Does::MarkBefore, "deed before"),
    (Does::Back, "leave"),
    (Does::Slower, "slower"),
    (Does::Faster, "faster"),
    (Does::Why, "why…"),
];

/// What the bar says on a screen that shows a recording.
pub fn replay_bar(place: Place) -> impl Iterator<Item = (String, &'static str)> {
    IN_REPLAY.iter().filter_map(move |(does, word)| {
        let key = KEYS.iter().find(|b| b.does == *does && b.places.contains(&place))?;
        Some((key.key.name(), *word))
    })
}

/// What keys do in a simulated cluster beside a recording's: there, a learner can act.
const IN_TWIN: [(Does, &str); 3] = [(Does::Write, "write"), (Does::Break, "break…"), (Does::Undo, "undo")];

/// What the bar says on a screen that shows a simulated cluster.
pub fn twin_bar(place: Place) -> impl Iterator<Item = (String, &'static str)> {
    let (play, rest) = IN_REPLAY.split_at(3);
    let words: Vec<(Does, &str)> = play.iter().chain(&IN_TWIN).chain(rest).copied().collect();
    words.into_iter().filter(|(does, _)| *does != Does::Back).filter_map(move |(does, word)| {
        let key = KEYS.iter().find(|b| b.does == does && b.places.contains(&place))?;
        Some((key.key.name(), word))
    })
}

/// What the bar says over members whose clock nobody can hold or slow: upstream etcd.
pub fn clockless_bar(place: Place) -> impl Iterator<Item = (String, &'static str)> {
    let has_clock = |does| matches!(does, Does::Step | Does::RunOn | Does::Slower | Does::Faster);
    let here = KEYS.iter().filter(move |b| b.places.contains(&place) && !b.bar.is_empty() && !b.does.is_tab());
    here.filter(move |b| !has_clock(b.does))
        .map(|b| (b.key.name(), if b.does == Does::Hold { "freeze the drawing" } else { b.bar }))
}

/// The line of screens: key, word, and what it does.
pub fn tabs(place: Place) -> impl Iterator<Item = (String, &'static str, Does)> {
    let here = KEYS.iter().filter(move |b| b.places.contains(&place) && !b.bar.is_empty());
    here.filter(|b| b.does.is_tab()).map(|b| (b.key.name(), b.bar, b.does))
}

/// What the help says of a screen: key and sentence. Two keys that do the same share a line. `apart`: without what is for the Ring's cluster.
#[must_use]
pub fn help(place: Place, apart: bool) -> Vec<(String, &'static str)> {
    let mut lines: Vec<(String, &'static str, Does)> = Vec::new();
    for b in KEYS.iter().filter(|b| b.places.contains(&place) && !(apart && b.does.is_of_ring())) {
        match lines.iter_mut().find(|l| l.2 == b.does) {
            Some(line) => line.0 = format!("{} {}", line.0, b.key.name()),
            None => lines.push((b.key.name(), b.what, b.does)),
        }
    }
    lines.into_iter().map(|(keys, what, _)| (keys, what)).collect()
}

impl Key {
    /// Its name on the screen.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Key::Char(' ') => "Space".into(),
            Key::Char(c) => c.to_string(),
            Key::Ctrl(c) => format!("^{}", c.to_ascii_uppercase()),
            Key::Enter => "Enter".into(),
            Key::Esc => "Esc".into(),
            Key::Tab => "Tab".into(),
            Key::BackTab => "S-Tab".into(),
            Key::Backspace => "Bksp".into(),
            Key::Up => "↑".into(),
            Key::Down => "↓".into(),
            Key::Left => "←".into(),
            Key::Right => "→".into(),
            Key::Home => "Home".into(),
            Key::End => "End".into(),
            Key::PageUp => "PgUp".into(),
            Key::PageDown => "PgDn".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_shadows_another() {
        for place in PLACES {
            let here: Vec<_> = KEYS.iter().filter(|b| b.places.contains(&place)).collect();
            for (i, b) in here.iter().enumerate() {
                let twin = here[i + 1..].iter().find(|o| o.key == b.key);
                assert!(twin.is_none(), "{:?} means two things in {place:?}", b.key);
            }
        }
    }

    #[test]
    fn letters_typed_into_a_prompt_reach_it() {
        for place in [Prompt, Command, Guess] {
            assert!(!KEYS.iter().any(|b| matches!(b.key, Key::Char(_)) && b.places.contains(&place)), "{place:?}");
        }
    }

    #[test]
    fn no_fault_is_one_letter() {
        for b in KEYS {
            let harmless = !matches!(b.does, Does::Accept) || !matches!(b.key, Key::Char(_));
            assert!(harmless, "{b:?}");
        }
        assert_eq!(lookup(Ring, Key::Char('k')), None);
        assert_eq!(lookup(Wire, Key::Char('d')), None);
    }

    #[test]
    fn every_place_can_be_left_and_every_screen_reached() {
        for place in PLACES {
            assert!(lookup(place, Key::Ctrl('c')).is_some(), "{place:?}");
        }
        for place in SCREENS {
            for key in "0123456:?!q ".chars() {
                assert!(lookup(*place, Key::Char(key)).is_some(), "{key:?} in {place:?}");
            }
        }
    }
}
