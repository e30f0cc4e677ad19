//! Every key, once: dispatch, the bar at the bottom and the help are all made from this table.
//!
//! A key means one thing in one place; a test holds that. Nothing that breaks something is a single letter: faults are
//! behind the Break menu. Space is left for Hold (the lab clock).

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
    Logs,
    Help,
    Break,
    Prompt,
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
    /// Leaves the overlay.
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
    ShowLearn,
    ShowRing,
    ShowLogs,
    /// A screen that a later release brings.
    Later,
    Shell,
    Help,
    Break,
    Write,
    Undo,
    Freeze,
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
            || matches!(self, NextStep | PreviousStep | Run | Check | Hint)
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

use Place::Break;
use Place::Ending;
use Place::Guess;
use Place::Help;
use Place::Learn;
use Place::Logs;
use Place::Picker;
use Place::Prompt;
use Place::Quit;
use Place::Ring;

const SCREENS: &[Place] = &[Learn, Ring, Logs];
const PICTURES: &[Place] = &[Ring, Logs];
const LISTS: &[Place] = &[Picker, Break, Guess, Quit, Help];
const OVERLAYS: &[Place] = &[Help, Break, Prompt, Guess, Quit];

/// The table.
#[rustfmt::skip]
pub const KEYS: &[Binding] = &[
    Binding { key: Key::Enter,       places: &[Picker],       bar: "start",   what: "start the cluster", does: Does::Accept },
    Binding { key: Key::Enter,       places: &[Break, Prompt, Quit], bar: "do it", what: "do what is marked", does: Does::Accept },
    Binding { key: Key::Enter,       places: &[Guess],        bar: "lock it", what: "lock the guess that is marked", does: Does::Accept },
    Binding { key: Key::Enter,       places: &[Learn],        bar: "do",      what: "run, answer or guess what is marked", does: Does::Accept },
    Binding { key: Key::Tab,         places: &[Learn],        bar: "mark",    what: "mark the next thing to do", does: Does::Next },
    Binding { key: Key::BackTab,     places: &[Learn],        bar: "",        what: "mark the one before", does: Does::Previous },
    Binding { key: Key::Char('r'),   places: &[Learn],        bar: "run",     what: "run the marked command", does: Does::Run },
    Binding { key: Key::Char('c'),   places: &[Learn],        bar: "check",   what: "look at the checks now, and say what they see", does: Does::Check },
    Binding { key: Key::Char('h'),   places: &[Learn],        bar: "hint",    what: "a hint; the fourth is the solution", does: Does::Hint },
    Binding { key: Key::Char('n'),   places: &[Learn],        bar: "next",    what: "the next step", does: Does::NextStep },
    Binding { key: Key::Char('0'),   places: &[Learn],        bar: "shell",   what: "a shell with the lab's etcdctl; `exit` returns", does: Does::Shell },
    Binding { key: Key::Char('p'),   places: &[Learn],        bar: "prev",    what: "the step before", does: Does::PreviousStep },
    Binding { key: Key::Down,        places: &[Learn],        bar: "",        what: "scroll down", does: Does::Down },
    Binding { key: Key::Up,          places: &[Learn],        bar: "",        what: "scroll up", does: Does::Up },
    Binding { key: Key::PageDown,    places: &[Learn],        bar: "",        what: "scroll down by a screen", does: Does::PageDown },
    Binding { key: Key::PageUp,      places: &[Learn],        bar: "",        what: "scroll up by a screen", does: Does::PageUp },
    Binding { key: Key::Home,        places: &[Learn],        bar: "",        what: "the beginning of the step", does: Does::Oldest },
    Binding { key: Key::End,         places: &[Learn],        bar: "",        what: "its end", does: Does::Newest },
    Binding { key: Key::Char('1'),   places: PICTURES,        bar: "learn",   what: "screen Learn: a lab, step by step", does: Does::ShowLearn },
    Binding { key: Key::Char('1'),   places: &[Learn],        bar: "",        what: "screen Learn: a lab, step by step", does: Does::ShowLearn },
    Binding { key: Key::Char('2'),   places: &[Learn, Logs],  bar: "ring",    what: "screen Ring: members, roles, messages", does: Does::ShowRing },
    Binding { key: Key::Char('2'),   places: &[Ring],         bar: "",        what: "screen Ring: members, roles, messages", does: Does::ShowRing },
    Binding { key: Key::Char('3'),   places: &[Learn, Ring],  bar: "logs",    what: "screen Logs: entries side by side", does: Does::ShowLogs },
    Binding { key: Key::Char('3'),   places: &[Logs],         bar: "",        what: "screen Logs: entries side by side", does: Does::ShowLogs },
    Binding { key: Key::Char('w'),   places: PICTURES,        bar: "write",   what: "write a key", does: Does::Write },
    Binding { key: Key::Char('!'),   places: SCREENS,         bar: "break…",  what: "break the selected member: a menu", does: Does::Break },
    Binding { key: Key::Char('u'),   places: SCREENS,         bar: "undo",    what: "undo the last fault", does: Does::Undo },
    Binding { key: Key::Tab,         places: PICTURES,        bar: "member",  what: "select the next member", does: Does::Next },
    Binding { key: Key::Tab,         places: &[Break],        bar: "member",  what: "the next member", does: Does::Right },
    Binding { key: Key::BackTab,     places: PICTURES,        bar: "",        what: "select the previous member", does: Does::Previous },
    Binding { key: Key::Left,        places: &[Logs],         bar: "entry",   what: "an older entry", does: Does::Left },
    Binding { key: Key::Right,       places: &[Logs],         bar: "",        what: "a newer entry", does: Does::Right },
    Binding { key: Key::Home,        places: &[Logs],         bar: "",        what: "the oldest entry that we know", does: Does::Oldest },
    Binding { key: Key::End,         places: &[Logs],         bar: "",        what: "the newest entry, and follow it", does: Does::Newest },
    Binding { key: Key::Down,        places: PICTURES,        bar: "",        what: "select the next member", does: Does::Next },
    Binding { key: Key::Up,          places: PICTURES,        bar: "",        what: "select the previous member", does: Does::Previous },
    Binding { key: Key::Right,       places: &[Ring],         bar: "",        what: "select the next member", does: Does::Next },
    Binding { key: Key::Left,        places: &[Ring],         bar: "",        what: "select the previous member", does: Does::Previous },
    Binding { key: Key::Down,        places: LISTS,           bar: "down",    what: "the next line", does: Does::Next },
    Binding { key: Key::Up,          places: LISTS,           bar: "up",      what: "the previous line", does: Does::Previous },
    Binding { key: Key::Right,       places: &[Picker],       bar: "",        what: "more members", does: Does::Next },
    Binding { key: Key::Left,        places: &[Picker],       bar: "",        what: "fewer members", does: Does::Previous },
    Binding { key: Key::Right,       places: &[Break],        bar: "",        what: "the next member", does: Does::Right },
    Binding { key: Key::Left,        places: &[Break],        bar: "",        what: "the previous member", does: Does::Left },
    Binding { key: Key::Char('f'),   places: SCREENS,         bar: "freeze",  what: "freeze the drawing; the cluster goes on", does: Does::Freeze },
    Binding { key: Key::Char('0'),   places: PICTURES,        bar: "shell",   what: "a shell with the lab's etcdctl; `exit` returns", does: Does::Shell },
    Binding { key: Key::Char('4'),   places: SCREENS,         bar: "",        what: "Watch (a later release)", does: Does::Later },
    Binding { key: Key::Char('5'),   places: SCREENS,         bar: "",        what: "Data (a later release)", does: Does::Later },
    Binding { key: Key::Char('6'),   places: SCREENS,         bar: "",        what: "Cluster (a later release)", does: Does::Later },
    Binding { key: Key::Backspace,   places: &[Prompt],       bar: "",        what: "delete the last character", does: Does::Rub },
    Binding { key: Key::Esc,         places: OVERLAYS,        bar: "back",    what: "back to the screen", does: Does::Back },
    Binding { key: Key::Char('q'),   places: &[Help],         bar: "",        what: "back to the screen", does: Does::Back },
    Binding { key: Key::Char('?'),   places: &[Picker, Learn, Ring, Logs], bar: "help", what: "keys, and the words on the screen", does: Does::Help },
    Binding { key: Key::Char('?'),   places: &[Help],         bar: "",        what: "back to the screen", does: Does::Back },
    Binding { key: Key::Char('q'),   places: &[Picker, Learn, Ring, Logs], bar: "quit", what: "leave; asks what becomes of the folder", does: Does::Quit },
    Binding { key: Key::Ctrl('c'),   places: &[Picker, Learn, Ring, Logs, Help, Break, Prompt, Guess, Quit, Ending], bar: "", what: "leave at once; the folder is kept", does: Does::End },
];

/// What a key does here.
#[must_use]
pub fn lookup(place: Place, key: Key) -> Option<Does> {
    KEYS.iter().find(|b| b.key == key && b.places.contains(&place)).map(|b| b.does)
}

/// What the bar says here: key and word.
pub fn bar(place: Place) -> impl Iterator<Item = (String, &'static str)> {
    let here = KEYS.iter().filter(move |b| b.places.contains(&place) && !b.bar.is_empty());
    here.map(|b| (b.key.name(), b.bar))
}

/// What the help says of a screen: key and sentence. Two keys that do the same share a line.
#[must_use]
pub fn help(place: Place) -> Vec<(String, &'static str)> {
    let mut lines: Vec<(String, &'static str, Does)> = Vec::new();
    for b in KEYS.iter().filter(|b| b.places.contains(&place)) {
        match lines.iter_mut().find(|l| l.2 == b.does && b.does != Does::Later) {
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

    const PLACES: [Place; 10] = [Picker, Learn, Ring, Logs, Help, Break, Prompt, Guess, Quit, Ending];

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
        for place in [Prompt, Guess] {
            assert!(!KEYS.iter().any(|b| matches!(b.key, Key::Char(_)) && b.places.contains(&place)), "{place:?}");
        }
    }

    #[test]
    fn space_is_left_for_the_lab_clock_and_no_fault_is_one_letter() {
        assert!(!KEYS.iter().any(|b| b.key == Key::Char(' ')));
        assert_eq!(lookup(Ring, Key::Char('k')), None);
    }

    #[test]
    fn every_place_can_be_left() {
        for place in PLACES {
            assert!(lookup(place, Key::Ctrl('c')).is_some(), "{place:?}");
        }
    }
}
