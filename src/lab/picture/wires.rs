//! Every message of the last while, with what became of it: the Wire screen, and what is held back at whose door.
//!
//! A message is one line from its Sent to its Received, matched by sender, receiver, type, term and index, as the peer streams have no
//! number of their own. Of two equal messages the older one is taken to have arrived first, which is the order of a stream.

use crate::lab::picture::flight;
use crate::proto::lab::Wire;
use crate::types::Millis;
use std::collections::VecDeque;

/// Messages kept.
const WIRES_MAX: usize = 2_000;
/// So far back a receipt is matched with its message.
const MATCH_MAX: usize = 512;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody has said.
    Unknown,
    /// It waits at its receiver's door, under this number, because the clock is held or slow.
    Held {
        id: u64,
    },
    Arrived {
        at: Millis,
    },
    Lost {
        why: String,
    },
}

/// One message.
#[derive(Clone, Debug)]
pub struct Line {
    /// Counts messages; stays the same while the line is kept.
    pub number: u64,
    /// When its sender told of it (or its receiver, if the sender's word was missed).
    pub at: Millis,
    /// Places of the two.
    pub from: usize,
    pub to: usize,
    pub wire: Wire,
    pub end: End,
    /// When it was told of last.
    stirred: Millis,
    /// Its sender has told of it; else only its receiver has, whose word came first.
    is_told: bool,
}

impl Line {
    /// Its kind in at most four characters.
    #[must_use]
    pub fn code(&self) -> String {
        flight::code(&self.wire)
    }

    /// Whether it is one of those that come all the time.
    #[must_use]
    pub fn is_routine(&self) -> bool {
        matches!(self.wire.r#type, 8 | 9)
    }

    fn is(&self, from: usize, to: usize, wire: &Wire) -> bool {
        (self.from, self.to) == (from, to) && self.wire == *wire
    }

    fn is_open(&self) -> bool {
        matches!(self.end, End::Unknown | End::Held { .. })
    }
}

/// The messages, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Wires {
    lines: VecDeque<Line>,
    last: u64,
}

impl Wires {
    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter()
    }

    /// The messages that wait, in the order in which they were sent.
    pub fn held(&self) -> impl Iterator<Item = (&Line, u64)> {
        self.lines.iter().filter_map(|l| if let End::Held { id } = l.end { Some((l, id)) } else { None })
    }

    pub(super) fn sent(&mut self, now: Millis, from: usize, to: usize, wire: Wire) {
        // Members speak on streams of their own: the receiver may have been heard before the sender.
        let skip = self.lines.len().saturating_sub(MATCH_MAX);
        if let Some(line) = self.lines.iter_mut().skip(skip).find(|l| !l.is_told && l.is(from, to, &wire)) {
            line.is_told = true;
            return;
        }
        self.add(now, from, to, wire, true);
    }

    fn add(&mut self, now: Millis, from: usize, to: usize, wire: Wire, is_told: bool) {
        if self.lines.len() == WIRES_MAX {
            self.lines.pop_front();
        }
        self.last += 1;
        self.lines.push_back(Line {
            number: self.last,
            at: now,
            from,
            to,
            wire,
            end: End::Unknown,
            stirred: now,
            is_told,
        });
    }

    /// Says what became of the oldest such message that is still under way; one that nobody has told of before is noted.
    pub(super) fn end(&mut self, now: Millis, from: usize, to: usize, wire: Wire, end: End) {
        let skip = self.lines.len().saturating_sub(MATCH_MAX);
        let fits = |l: &&mut Line| l.is_open() && l.is(from, to, &wire);
        match self.lines.iter_mut().skip(skip).find(fits) {
            Some(line) => line.end = end,
            None => {
                self.add(now, from, to, wire, false);
                self.lines.back_mut().expect("just added").end = end;
            }
        }
    }

    /// Message `id` waits at this door no longer.
    pub(super) fn freed(&mut self, now: Millis, to: usize, id: u64) {
        let waits = |l: &&mut Line| l.to == to && l.end == End::Held { id };
        if let Some(line) = self.lines.iter_mut().find(waits) {
            (line.end, line.stirred) = (End::Unknown, now);
        }
    }

    /// Whether a message is between two members: told of since then, and nobody has said what became of it.
    pub(super) fn is_any_between(&self, since: Millis, hears: impl Fn(usize) -> bool) -> bool {
        let newest = self.lines.iter().rev().take(MATCH_MAX);
        newest.filter(|l| l.stirred >= since).any(|l| l.end == End::Unknown && hears(l.to))
    }

    /// A member's process has ended, and what waited at its door with it.
    pub(super) fn door_closed(&mut self, to: usize) {
        for line in self.lines.iter_mut().filter(|l| l.to == to && matches!(l.end, End::Held { .. })) {
            line.end = End::Lost { why: "its receiver ended".into() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(index: u64) -> Wire {
        Wire { from: 1, to: 2, r#type: 3, index, ..Wire::default() }
    }

    #[test]
    fn a_held_message_is_known_by_its_number_until_it_is_freed() {
        let mut wires = Wires::default();
        wires.sent(Millis(0), 0, 1, wire(7));
        wires.end(Millis(1), 0, 1, wire(7), End::Held { id: 40 });
        assert_eq!(wires.held().map(|(l, id)| (l.number, id)).collect::<Vec<_>>(), [(1, 40)]);
        assert!(!wires.is_any_between(Millis(0), |_| true), "it waits at a door");
        wires.freed(Millis(4), 1, 40);
        assert!(wires.is_any_between(Millis(4), |to| to == 1) && !wires.is_any_between(Millis(5), |_| true));
        assert!(!wires.is_any_between(Millis(4), |_| false), "nobody hears it");
        wires.end(Millis(5), 0, 1, wire(7), End::Arrived { at: Millis(5) });
        assert_eq!(wires.held().count(), 0);
        assert_eq!(wires.iter().next().expect("kept").end, End::Arrived { at: Millis(5) });
        assert_eq!(wires.iter().count(), 1);
    }

    #[test]
    fn of_two_equal_messages_the_older_arrives_first() {
        let mut wires = Wires::default();
        wires.sent(Millis(0), 0, 1, wire(7));
        wires.sent(Millis(9), 0, 1, wire(7));
        wires.end(Millis(10), 0, 1, wire(7), End::Arrived { at: Millis(10) });
        let ends: Vec<_> = wires.iter().map(|l| l.end.clone()).collect();
        assert_eq!(ends, [End::Arrived { at: Millis(10) }, End::Unknown]);
    }

    #[test]
    fn a_receiver_that_is_heard_first_is_the_same_message() {
        let mut wires = Wires::default();
        wires.end(Millis(1), 0, 1, wire(7), End::Held { id: 40 });
        wires.sent(Millis(2), 0, 1, wire(7));
        assert_eq!(wires.iter().count(), 1);
        wires.sent(Millis(3), 0, 1, wire(7));
        assert_eq!(wires.iter().count(), 2, "sent again");
    }

    #[test]
    fn it_forgets_the_oldest() {
        let mut wires = Wires::default();
        for index in 0..WIRES_MAX as u64 + 5 {
            wires.sent(Millis(0), 0, 1, wire(index));
        }
        assert_eq!((wires.iter().count(), wires.iter().next().expect("kept").number), (WIRES_MAX, 6));
    }
}
