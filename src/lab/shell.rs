//! `etcd-lab shell`: a shell in which `etcd`, `etcdctl` and `etcdutl` are the lab's, and etcdctl knows the members.

use crate::lab::Board;
use crate::lab::Error;
use crate::lab::picture::words::counted;
use crate::lab::preflight;
use crate::lab::up::Options;
use crate::lab::up::finish;
use crate::lab::workdir::Record;
use crate::lab::workdir::Running;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// `etcd-lab shell [--folder PATH] [-- COMMAND ARGS…]`: a shell for the lab that runs, or one command in it. Its exit code is ours.
pub fn shell(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match Options::parse(args, &["--folder", "--"]).and_then(|o| run(&o, out)) {
        Ok(code) => code,
        Err(e) => finish(Err(e), err),
    }
}

fn run(options: &Options, out: &mut dyn Write) -> Result<u8, Error> {
    let running = Running::find(options.folder.as_deref(), &preflight::bases())?;
    let mut command = command(&running.folder, &running.record, &options.command);
    if options.command.is_empty() {
        drop(writeln!(out, "{}", greeting(&running.record)));
    }
    let program = command.get_program().to_os_string();
    let status = command.status().map_err(Error::file("cannot start", Path::new(&program)))?;
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// What a user should know on entering the shell.
#[must_use]
pub fn greeting(record: &Record) -> String {
    let members = counted(record.members.len() as u64, "member", "members");
    format!(
        "Lab shell: {members}. Try `etcdctl put a 1` or `etcdctl member list -w table`.\n`exit` leaves; the lab goes on."
    )
}

/// The file that says how many times slower the lab's clock goes: etcdctl in the lab's shell waits so much longer. Not there: as the world's.
const CLOCK: &str = "clock";
/// A clock that is held goes on when the learner wants it to.
const HELD: u32 = 1000;

/// Writes down how the lab's clock goes.
///
/// # Errors
/// If the folder cannot be written to.
pub fn note_clock(folder: &Path, board: &Board) -> Result<(), Error> {
    let path = folder.join(CLOCK);
    let done = match (board.held, board.slower) {
        (true, _) => fs::write(&path, format!("{HELD}\n")),
        (false, 1) => fs::remove_file(&path).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) }),
        (false, slower) => fs::write(&path, format!("{slower}\n")),
    };
    done.map_err(Error::file("cannot write", &path))
}

/// The user's shell, or `words` if there are any, with the lab's surroundings.
#[must_use]
pub fn command(folder: &Path, record: &Record, words: &[String]) -> Command {
    let mut command = match words.split_first() {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args);
            command
        }
        None => Command::new(env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".into())),
    };
    let mut path = OsString::from(folder.join("bin"));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    // The user's own settings would send etcdctl elsewhere.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
        command.env_remove(name);
    }
    command.env("PATH", path);
    command.env("ETCDCTL_ENDPOINTS", record.endpoints()).env("ETCDCTL_API", "3").env("ETCD_LAB", folder);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_written_down_while_it_is_not_the_worlds() {
        let folder = tempfile::tempdir().expect("temp dir");
        let read = || fs::read_to_string(folder.path().join(CLOCK)).ok();
        let mut board = Board::default();
        note_clock(folder.path(), &board).expect("nothing to remove");
        assert_eq!(read(), None);
        board.slower = 50;
        note_clock(folder.path(), &board).expect("written");
        assert_eq!(read().as_deref(), Some("50\n"));
        board.held = true;
        note_clock(folder.path(), &board).expect("written");
        assert_eq!(read().as_deref(), Some("1000\n"));
        note_clock(folder.path(), &Board::default()).expect("removed");
        assert_eq!(read(), None);
    }
}
