//! Passwords as they are typed: not shown, and the terminal is afterwards as it was, also when Ctrl-C is the answer.
//!
//! While a password is asked for, Ctrl-C ends the line instead of the program: so whoever reads finds it there and puts everything back. No signal is caught, and
//! what comes after the question is interrupted as ever. Source: etcdctl's `speakeasy`, which does the same by a handler.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal as _;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

/// The exit code of a question that Ctrl-C answered.
pub(super) const INTERRUPTED: u8 = 255;

/// What Ctrl-C puts into the line.
const CTRL_C: u8 = 3;

/// Asks with `prompt`, and returns the next line of `stdin` without its end; not shown if the process's standard input is a terminal. Nothing, if Ctrl-C
/// was typed there.
pub(super) fn ask(out: &mut dyn Write, stdin: &mut dyn BufRead, prompt: &str) -> io::Result<Option<String>> {
    // Before the question: who is quick types what is seen otherwise.
    let terminal = Terminal::hidden();
    write!(out, "{prompt}")?;
    out.flush()?;
    let read = line(stdin, terminal.is_some());
    writeln!(out)?;
    Ok(read?.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
}

/// A terminal that shows nothing; dropped, it is as it was.
struct Terminal {
    was: String,
}

impl Terminal {
    /// Without stty, a password is seen while it is typed; that is no reason not to ask.
    fn hidden() -> Option<Terminal> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let was = stty(&["-g"])?;
        stty(&["-echo", "intr", "undef", "eol", "^C"])?;
        Some(Terminal { was: was.trim().to_owned() })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        stty(&[&self.was]);
    }
}

/// What stty says of the terminal behind the standard input; nothing if it fails.
fn stty(words: &[&str]) -> Option<String> {
    let output = Command::new("stty").args(words).stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bytes up to the end of a line, which Ctrl-C is, too, where it `interrupts`: then there is none.
fn line(stdin: &mut dyn BufRead, interrupts: bool) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let bytes = match stdin.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n' || interrupts && *byte == CTRL_C);
        let (taken, is_over) = (end.map_or(bytes.len(), |at| at + 1), end.is_some() || bytes.is_empty());
        line.extend_from_slice(&bytes[..taken]);
        stdin.consume(taken);
        if is_over {
            return Ok(Some(line).filter(|line| !interrupts || line.last() != Some(&CTRL_C)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_ends_and_at_a_terminal_also_by_an_interrupt() {
        let read = |text: &str, interrupts| {
            // Pieces of two bytes, as a slow typist gives them.
            let mut rest = io::BufReader::with_capacity(2, text.as_bytes());
            let first = line(&mut rest, interrupts).expect("no error");
            (first.map(|bytes| String::from_utf8(bytes).expect("text")), rest.lines().map_while(Result::ok).count())
        };
        assert_eq!(read("secret\nmore\n", true), (Some("secret\n".to_owned()), 1));
        assert_eq!(read("secret", true), (Some("secret".to_owned()), 0));
        assert_eq!(read("", true), (Some(String::new()), 0));
        assert_eq!(read("sec\u{3}ret\n", true), (None, 1));
        assert_eq!(read("\u{3}", true), (None, 0));
        assert_eq!(read("sec\u{3}ret\n", false), (Some("sec\u{3}ret\n".to_owned()), 0));
    }
}
