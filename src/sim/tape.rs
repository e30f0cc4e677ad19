//! What happened, line by line, and a sum over all of it.
//!
//! Lines are made only while somebody wants them: a run that fails is run again with the tape on. The sum is always kept, from the numbers
//! behind the lines, so that two runs of a seed can be compared.

use std::fmt::Write as _;

/// The record of a run.
#[derive(Default)]
pub(super) struct Tape {
    on: bool,
    text: String,
    sum: u64,
    pub(super) events: u64,
}

impl Tape {
    pub(super) fn new(on: bool) -> Tape {
        Tape { on, ..Tape::default() }
    }

    /// Notes that at `now` (microseconds) something happened to `who`; `mark` goes into the sum.
    pub(super) fn note(&mut self, now: u64, who: usize, mark: u64, line: impl FnOnce() -> String) {
        self.events += 1;
        for part in [now, who as u64, mark] {
            self.sum = (self.sum ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.on {
            let place = if who == usize::MAX { "-".to_owned() } else { format!("m{who}") };
            let (ms, us) = (now / 1000, now % 1000);
            writeln!(self.text, "{ms:>7}.{us:03} {place:<3} {}", line()).expect("a String takes all");
        }
    }

    /// The lines since the last call, each with its member, if it is about one.
    pub(super) fn fresh(&mut self) -> Vec<(Option<usize>, String)> {
        let text = std::mem::take(&mut self.text);
        let line = |line: &str| {
            let (_, rest) = line.trim_start().split_once(' ')?;
            let (place, said) = rest.split_once(' ')?;
            Some((place.strip_prefix('m').and_then(|n| n.parse().ok()), said.trim_start().to_owned()))
        };
        text.lines().filter_map(line).collect()
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}
