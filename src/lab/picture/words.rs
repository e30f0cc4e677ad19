//! The feed: what happened, in plain words, each from an event that a member told.
//!
//! Called before the event changes the picture, so that old and new can be compared. No cause is named that was not
//! reported: a member that asks for votes may have been told to, so its line does not say that a timer ran out.

use crate::lab::picture::Picture;
use crate::lab::picture::Tone;
use crate::proto::lab::EntryKind;
use crate::proto::lab::LogEntry;
use crate::proto::lab::Role;
use crate::proto::lab::State;
use crate::proto::lab::event::Kind;
use crate::types::KeyRange;
use crate::types::prefix_end;
use bytes::Bytes;

/// Longest summary in a line.
const SUMMARY_MAX: usize = 40;

impl Picture {
    pub(super) fn words(&mut self, member: usize, kind: &Kind) {
        let name = self.members[member].name.clone();
        match kind {
            Kind::Snapshot(s) => {
                if let Some(state) = &s.state {
                    let (role, term) = (role_word(state.role()), state.term);
                    self.say(
                        Tone::Plain,
                        format!(
                            "{name} speaks: {role}, term {term}, {}",
                            counted(state.last_index, "log entry", "log entries")
                        ),
                    );
                }
            }
            Kind::State(state) => self.state_words(member, state),
            Kind::Appended(a) if self.leads(member) => {
                for e in a.entries.iter().filter(|e| e.kind() != EntryKind::Empty) {
                    let what = short(of_entry(e));
                    self.say(Tone::Plain, format!("{what}: leader {name} writes it at index {}", e.index));
                }
            }
            Kind::Applied(a) if self.leads(member) => self.applied_words(member, a.index, a.revision),
            Kind::Truncated(t) => {
                let text = format!("{name} drops its entries above {}: a newer leader has others there", t.last_kept);
                self.say(Tone::Bad, text);
            }
            // As its sender tells it: what that has in its log by now may be newer when the leader hears of it.
            Kind::Sent(s) => {
                if let Some(w) = s.wire.as_ref().filter(|w| w.r#type == 4 && w.reject) {
                    let index = w.index;
                    let end = self.members[member].log.last_key_value().map(|(i, _)| *i);
                    // The index is that of the entry before those that were offered.
                    let why = match end {
                        Some(end) if end < index => format!("its log ends at {end}, so the leader goes back"),
                        Some(_) => "it has another entry there".to_owned(),
                        None => "it has not that entry".to_owned(),
                    };
                    self.say(Tone::Plain, format!("{name} cannot take what comes after {index}: {why}"));
                }
            }
            Kind::Link(l) => {
                let peer = self.name(l.peer);
                let why = if l.why.is_empty() { String::new() } else { format!(": {}", short(&l.why)) };
                match l.up {
                    true => self.say(Tone::Plain, format!("{name} is connected to {peer}")),
                    false => self.say(Tone::Bad, format!("{name} has lost its connection to {peer}{why}")),
                }
            }
            Kind::Note(n) => self.say(Tone::Plain, format!("{name}: {}", n.text)),
            _ => {}
        }
    }

    fn leads(&self, member: usize) -> bool {
        self.members[member].state.as_ref().is_some_and(|s| s.role() == Role::Leader)
    }

    fn state_words(&mut self, member: usize, new: &State) {
        let m = &self.members[member];
        let (name, me) = (m.name.clone(), m.id);
        let Some(old) = m.state.as_ref() else { return };
        let (was, role, term) = (old.role(), new.role(), new.term);
        let voted =
            (new.vote != 0 && (new.vote, term) != (old.vote, old.term) && Some(new.vote) != me).then_some(new.vote);
        let follows = new.leader != 0 && (new.leader, term) != (old.leader, old.term) && Some(new.leader) != me;
        if role != was || (role == Role::Candidate && term != old.term) {
            let votes = self.vote_count(member, term);
            match role {
                Role::PreCandidate => {
                    self.say(Tone::Plain, format!("{name} asks whether it could win term {} (pre-vote)", term + 1));
                }
                Role::Candidate => self.say(Tone::Plain, format!("{name} asks for votes in term {term}")),
                Role::Leader => self.say(Tone::Good, format!("{name} is leader of term {term}{votes}")),
                Role::Follower if was == Role::Leader => {
                    self.say(Tone::Bad, format!("{name} steps down (term {term})"))
                }
                Role::Follower | Role::Learner => {}
            }
        }
        if let Some(vote) = voted {
            self.say(Tone::Plain, format!("{name} votes for {} in term {term}", self.name(vote)));
        }
        if follows && role == Role::Follower {
            self.say(Tone::Plain, format!("{name} follows {} in term {term}", self.name(new.leader)));
        }
    }

    /// " (2 of 3 votes)", if the member has told its count.
    fn vote_count(&self, member: usize, term: u64) -> String {
        let votes = self.members[member].votes.as_ref().filter(|v| v.term == term && !v.pre);
        votes.map_or(String::new(), |v| format!(" ({} of {} votes)", v.granted.len(), self.members.len()))
    }

    fn applied_words(&mut self, member: usize, to: u64, revision: u64) {
        let m = &self.members[member];
        // An observer that begins anew hears what was applied, and then of some of it once more.
        if to <= m.told {
            return;
        }
        let fresh = m.log.range(m.told + 1..=to);
        let entries: Vec<_> = fresh.map(|(i, e)| (*i, e.clone())).collect();
        for (index, e) in entries {
            let on = self.holders(index, e.term).join(" ");
            let text = match e.kind {
                EntryKind::Normal if index == to => {
                    format!("{} → index {index}, revision {revision}, committed on {on}", short(&e.summary))
                }
                EntryKind::Normal => format!("{} → index {index}, committed on {on}", short(&e.summary)),
                EntryKind::ConfChange => format!("member change → index {index}, committed on {on}"),
                EntryKind::Empty => format!("term {} begins at index {index} (empty entry), committed on {on}", e.term),
            };
            self.say(Tone::Good, text);
        }
    }
}

/// A range of keys as the wire has it, in words.
#[must_use]
pub fn range_words(key: &Bytes, range_end: &Bytes) -> String {
    let text = |b: &[u8]| String::from_utf8_lossy(b).escape_debug().to_string();
    match KeyRange::parse(key, range_end) {
        KeyRange::Single(key) => text(&key),
        KeyRange::From(from) if from.is_empty() || from.as_ref() == [0] => "all keys".into(),
        KeyRange::From(from) => format!("from {}", text(&from)),
        KeyRange::Interval(from, to) if prefix_end(&from) == to => format!("{}…", text(&from)),
        KeyRange::Interval(from, to) => format!("{} to {}", text(&from), text(&to)),
    }
}

/// So many of something: `1 member`, `3 members`.
#[must_use]
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A role as one word.
#[must_use]
pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Learner => "learner",
    }
}

/// What an entry asks for; told or not.
pub(super) fn of_entry(entry: &LogEntry) -> &str {
    match entry.kind() {
        EntryKind::Normal if entry.summary.is_empty() => "one of very many",
        _ => &entry.summary,
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= SUMMARY_MAX {
        return text.to_string();
    }
    text.chars().take(SUMMARY_MAX - 3).chain("...".chars()).collect()
}
