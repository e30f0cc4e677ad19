//! How far long work has come: a bar where a person looks at a terminal, nothing where a program reads a pipe.

use std::io;
use std::io::IsTerminal as _;
use std::io::Write;

/// Letters between the brackets.
const WIDTH: u64 = 40;

/// A bar on one line of the error stream, drawn anew when its percentage changes.
#[derive(Debug)]
pub(crate) struct Bar {
    total: u64,
    /// What was drawn last; `None` where nothing is to be drawn.
    drawn: Option<String>,
}

impl Bar {
    /// A bar for so much work. Nothing is drawn unless the process's error stream is a terminal.
    pub(crate) fn new(total: u64) -> Bar {
        Bar { total, drawn: io::stderr().is_terminal().then(String::new) }
    }

    /// Wipes the line, for something else to be written there; the bar comes back below it.
    pub(crate) fn wipe(&mut self, out: &mut dyn Write) {
        if let Some(drawn) = self.drawn.as_mut().filter(|drawn| !drawn.is_empty()) {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
            drawn.clear();
        }
    }

    /// Says that so much is done, if that shows.
    pub(crate) fn show(&mut self, done: u64, out: &mut dyn Write) {
        let total = self.total.max(done);
        let Some(drawn) = &mut self.drawn else { return };
        let line = line(done, total);
        if line != *drawn {
            // A bar that cannot be drawn is no reason to stop the work.
            let _ = write!(out, "\r{line}").and_then(|()| out.flush());
            *drawn = line;
        }
    }

    /// All of it is done, however much was foreseen.
    pub(crate) fn finish(mut self, out: &mut dyn Write) {
        self.show(self.total, out);
        self.end(out);
    }

    /// Leaves the line as it is, and begins another.
    pub(crate) fn end(self, out: &mut dyn Write) {
        if self.drawn.is_some_and(|drawn| !drawn.is_empty()) {
            let _ = writeln!(out);
        }
    }
}

fn line(done: u64, total: u64) -> String {
    let of = |whole: u64| (u128::from(done) * u128::from(whole) / u128::from(total.max(1))) as u64;
    let full = of(WIDTH) as usize;
    let rest = WIDTH as usize - full;
    format!("[{}{}] {:>3}%", "=".repeat(full), " ".repeat(rest), of(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_left_to_right() {
        assert_eq!(line(0, 4), format!("[{}]   0%", " ".repeat(40)));
        assert_eq!(line(1, 4), format!("[{}{}]  25%", "=".repeat(10), " ".repeat(30)));
        assert_eq!(line(u64::MAX, u64::MAX), format!("[{}] 100%", "=".repeat(40)));
    }

    #[test]
    fn a_pipe_gets_nothing_and_a_terminal_each_change_once() {
        let mut out = Vec::new();
        let mut quiet = Bar { total: 10, drawn: None };
        quiet.show(5, &mut out);
        quiet.wipe(&mut out);
        quiet.end(&mut out);
        assert!(out.is_empty());
        let mut bar = Bar { total: 1000, drawn: Some(String::new()) };
        (0..=1000).for_each(|done| bar.show(done, &mut out));
        bar.end(&mut out);
        let text = String::from_utf8(out.clone()).expect("text");
        let mut early = Bar { total: 1000, drawn: Some(String::new()) };
        early.show(990, &mut out);
        early.finish(&mut out);
        assert!(out.ends_with(b"] 100%\n"), "less was to do than was foreseen");
        // One for each hundredth and each fortieth, of which twenty are the same, and one for the beginning.
        assert_eq!(text.matches('\r').count(), 100 + 40 - 20 + 1, "{text}");
        assert!(text.ends_with("100%\n"));
    }

    #[test]
    fn other_lines_stand_above_the_bar() {
        let mut out = Vec::new();
        let mut bar = Bar { total: 2, drawn: Some(String::new()) };
        bar.show(1, &mut out);
        bar.wipe(&mut out);
        out.extend_from_slice(b"one is done\n");
        bar.show(1, &mut out);
        let half = line(1, 2);
        assert_eq!(String::from_utf8(out).expect("text"), format!("\r{half}\r\x1b[Kone is done\n\r{half}"));
    }
}
