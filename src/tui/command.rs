//! The command line: everything by name, with completion. One table of words, of which the deeds are a part.

use crate::lab::Deed;
use crate::lab::deed::WORDS;
use crate::lab::guide::CHAPTER;
use crate::lab::misfit::Misfit;
use crate::lab::picture::Tone;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::act;
use crate::tui::data;
use crate::tui::keys::Does;
use crate::tui::learn;
use crate::tui::look::Theme;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;
use crate::tui::mouse;
use crate::tui::replay;
use crate::tui::why;

/// Words beside the deeds: arguments, and what they do.
const OWN: &[(&str, &str, &str)] = &[
    ("put", "KEY VALUE", "write a key, as etcdctl put does"),
    ("put-at", "n1 KEY VALUE", "the same, and only through this member"),
    ("get", "KEY", "read a key, as etcdctl get does"),
    ("learn", "", "screen 1"),
    ("ring", "", "screen 2"),
    ("wire", "", "screen 2, its other side"),
    ("logs", "", "screen 3"),
    ("watch", "", "screen 4"),
    ("data", "PREFIX", "screen 5"),
    ("cluster", "", "screen 6"),
    ("lab", "E3", "another lab on screen 1"),
    ("quiz", "4", "a chapter's questions on screen 1"),
    ("shell", "", "a shell with the lab's etcdctl"),
    ("undo", "", "take the last fault back"),
    ("why", "", "why is it not …?"),
    ("users", "", "users and roles: who may do what"),
    ("close-up", "", "the selected member: certificates, files, peers, disk"),
    ("promises", "", "what must never happen, and whether it has"),
    ("mark", "TEXT", "put a marker into the recording"),
    ("copy", "", "the line of the last action to the clipboard"),
    ("mouse", "on|off", "clicks select; off: the terminal selects text"),
    ("theme", "dark|light|contrast|mono", "other colours"),
    ("ascii", "", "7-bit characters only, or not"),
    ("goto", "00:12.5", "in a recording: go to a time"),
    ("fork", "8", "of a simulated cluster: goes on otherwise from here, by these dice; or do something"),
    ("rewind", "", "show what was recorded so far"),
    ("help", "", "keys and words"),
    ("quit", "", "leave"),
];

/// Words that begin as the text does, with their arguments and what they do.
#[must_use]
pub fn matching(text: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let word = text.trim_start().split(' ').next().unwrap_or("");
    let is_whole = text.trim_start().contains(' ');
    let fits = |name: &str| if is_whole { name == word } else { name.starts_with(word) };
    WORDS.iter().chain(OWN).filter(|(name, ..)| fits(name)).copied().collect()
}

/// Completes the last word as far as it is certain.
#[must_use]
pub fn complete(text: &str, names: &[String]) -> String {
    let (before, last) =
        text.rsplit_once([' ', ',']).map_or(("", text), |(before, last)| (&text[..=before.len()], last));
    let words: Vec<String> = if before.is_empty() {
        WORDS.iter().chain(OWN).map(|w| w.0.to_string()).collect()
    } else if before.starts_with("theme") {
        ["dark", "light", "contrast", "mono"].map(String::from).into()
    } else if before.starts_with("bad-config ") && before.trim_end().contains(' ') {
        Misfit::all().map(|misfit| misfit.word().to_string()).collect()
    } else if before.starts_with("mouse") {
        ["on", "off"].map(String::from).into()
    } else {
        names.to_vec()
    };
    let fitting: Vec<&String> = words.iter().filter(|w| w.starts_with(last)).collect();
    let Some(first) = fitting.first() else { return text.to_string() };
    let common = first
        .char_indices()
        .map(|(i, c)| i + c.len_utf8())
        .take_while(|end| fitting.iter().all(|w| w.starts_with(&first[..*end])));
    let sure = &first[..common.last().unwrap_or(0)];
    let end = if fitting.len() == 1 && before.is_empty() { " " } else { "" };
    format!("{before}{sure}{end}")
}

pub(super) fn complete_overlay(model: &mut Model) {
    let names = model.shown().map(|p| p.member_names()).unwrap_or_default();
    if let Some(Overlay::Command { text }) = &mut model.overlay {
        *text = complete(text, &names);
    }
}

/// Does a line.
pub(super) fn run(model: &mut Model, line: &str) -> Option<Cmd> {
    let line = line.trim();
    let (word, rest) = line.split_once(' ').map_or((line, ""), |(w, r)| (w, r.trim()));
    match word {
        "" => {}
        "put" => return act::put(model, rest),
        "put-at" => return act::put_at(model, rest),
        "get" => return act::get(model, rest),
        "learn" => return learn::show(model),
        "lab" | "quiz" if rest.is_empty() => model.notify(Tone::Bad, "which? Write it like this: lab E3, or quiz 4"),
        "lab" | "quiz" if model.picture.is_none() => {
            let line =
                if word == "lab" { format!("etcd-lab {rest}") } else { format!("etcd-lab lesson {rest} --quiz") };
            model.notify(Tone::Bad, format!("no cluster runs here, and this needs one: leave (q), then {line}"));
        }
        "lab" => return Some(Cmd::OpenLab { name: rest.to_owned() }),
        "quiz" => return Some(Cmd::OpenLab { name: format!("{CHAPTER}{rest}") }),
        "ring" => model.screen = Screen::Ring,
        "wire" => model.screen = Screen::Wire,
        "logs" => model.screen = Screen::Logs,
        "watch" => model.screen = Screen::Watch,
        "cluster" => model.screen = Screen::Cluster,
        "data" => {
            model.screen = Screen::Data;
            return data::go_to(model, rest);
        }
        "shell" | "undo" => {
            return act::press(model, if word == "shell" { Does::Shell } else { Does::Undo });
        }
        "why" => model.overlay = why::ask(model),
        "users" => model.overlay = Some(Overlay::Rights { scroll: 0 }),
        "close-up" => model.overlay = Some(Overlay::CloseUp { scroll: 0 }),
        "promises" => model.overlay = why::promises(model),
        "mark" => return act::mark(model, rest),
        "copy" => return act::copy(model),
        "mouse" => return mouse::switch(model, rest),
        "theme" => match Theme::named(rest) {
            Some(theme) => model.theme = theme,
            None => model.notify(Tone::Bad, "write it like this: theme dark, light, contrast or mono"),
        },
        "ascii" => model.ascii = !model.ascii,
        "goto" => replay::go_to(model, rest),
        "fork" => return replay::fork(model, rest),
        "rewind" => return Some(Cmd::Rewind),
        "help" => model.overlay = Some(Overlay::Help { scroll: 0 }),
        "quit" => model.overlay = Some(Overlay::Quit { choice: 0 }),
        _ => {
            let names = model.shown().map(|p| p.member_names()).unwrap_or_default();
            match Deed::parse(line, &names) {
                Ok(deed) => return act::deed_now(model, &deed),
                Err(_) if matching(word).is_empty() || !WORDS.iter().any(|w| w.0 == word) => {
                    model.notify(Tone::Bad, format!("there is no command {word:?}: press : and Tab"));
                }
                Err(why) => model.notify(Tone::Bad, why),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_members_are_completed_as_far_as_they_are_certain() {
        let names = ["n1", "n2", "n3"].map(String::from);
        assert_eq!(complete("par", &names), "partition ");
        assert_eq!(complete("s", &names), "s");
        assert_eq!(complete("slow-", &names), "slow-disk ");
        assert_eq!(complete("kill ", &names), "kill n");
        assert_eq!(complete("partition n1,n2 | n", &names), "partition n1,n2 | n");
        assert_eq!(complete("theme c", &names), "theme contrast");
        assert_eq!(complete("nonsense", &names), "nonsense");
    }

    #[test]
    fn a_word_is_in_one_table_only() {
        let all: Vec<&str> = WORDS.iter().chain(OWN).map(|w| w.0).collect();
        for word in &all {
            assert_eq!(all.iter().filter(|w| *w == word).count(), 1, "{word}");
            assert!(matching(word).iter().any(|w| w.0 == *word));
        }
    }
}
