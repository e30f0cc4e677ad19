//! Programs that `lock` and `watch` run: why one could not be started, and how one ended, in Go's words.
//!
//! Scripts tell by them, and by the exit code of `lock`, what became of their program. Source: Go `os/exec`, `syscall` (Linux).

use super::exit;
use super::exit::Exit;
use crate::error::io_text;
use crate::golang;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// The exit code of a program that a signal has ended: Go's -1, as the system passes it on.
const SIGNALLED: u8 = 255;

/// The names of the signals from 1 on.
const SIGNALS: [&str; 15] = [
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
];

/// Why `program` could not be started. Only a name without a slash was looked for in `$PATH`.
pub(super) fn not_started(program: &[u8], error: &io::Error) -> String {
    let by_path = program.is_empty() || program.contains(&b'/');
    match error.kind() {
        // What is found there and may not be run counts as not found.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied if !by_path => {
            format!("exec: {}: executable file not found in $PATH", golang::quote(program))
        }
        _ => format!("fork/exec {}: {}", String::from_utf8_lossy(program), io_text(error)),
    }
}

/// How a program ended that did not end well.
pub(super) fn ended(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else { return format!("exit status {}", status.code().unwrap_or_default()) };
    let name = usize::try_from(signal - 1).ok().and_then(|at| SIGNALS.get(at));
    let name = name.map_or_else(|| format!("signal {signal}"), |name| (*name).to_owned());
    format!("signal: {name}{}", if status.core_dumped() { " (core dumped)" } else { "" })
}

/// The same as the end of a command, whose exit code becomes ours.
pub(super) fn exit_like(status: ExitStatus) -> Exit {
    let code = match status.signal() {
        Some(_) => SIGNALLED,
        None => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::ERROR),
    };
    Exit::new(code, ended(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_end_of_a_program_is_told_in_gos_words() {
        for (script, text, code) in [
            ("exit 7", "exit status 7", 7),
            ("kill -9 $$", "signal: killed", 255),
            ("kill -15 $$", "signal: terminated", 255),
            ("kill -14 $$", "signal: alarm clock", 255),
            ("kill -12 $$", "signal: user defined signal 2", 255),
            ("kill -31 $$", "signal: signal 31", 255),
        ] {
            let status = Command::new("sh").args(["-c", &format!("ulimit -c 0; {script}")]).status().expect("a shell");
            assert_eq!(exit_like(status), Exit::new(code, text), "{script}");
        }
    }

    #[test]
    fn why_a_program_cannot_be_started_is_told_in_gos_words() {
        for (program, text) in [
            ("no-such-program", "exec: \"no-such-program\": executable file not found in $PATH"),
            ("/no/such/file", "fork/exec /no/such/file: no such file or directory"),
            ("./no-such-file", "fork/exec ./no-such-file: no such file or directory"),
            ("/", "fork/exec /: permission denied"),
            ("", "fork/exec : no such file or directory"),
        ] {
            let error = Command::new(program).spawn().expect_err(program);
            assert_eq!(not_started(program.as_bytes(), &error), text);
        }
    }
}
