//! Upstream etcd in place of the lab's own server: which program that is, and what cannot be seen of it.
//!
//! It has no door for the lab. What it says of itself it says when it is asked (Status, HashKV, `/metrics`), once a second: role, term, how far its
//! log is committed and applied. Messages, timers, votes, log entries and other clients' watchers it does not tell, and nothing here guesses
//! them: screens say that they are not visible. Faults that act inside a member are refused; those on processes and files work.

use crate::lab::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// What a screen says where it would need what upstream etcd does not tell.
pub const NOT_VISIBLE: &str = "Not visible on this server: upstream etcd does not tell";

/// Why a lab about upstream etcd cannot begin.
pub const WANTED: &str = "this lab's members are the etcd project's own program, which is not a part of this one: name it with --etcd PATH \
    (etcd-lab test: --engine etcd DIR). Debian and Ubuntu have it: `apt-get download etcd-server`, then `dpkg -x etcd-server_*.deb etcd`; it is \
    etcd/usr/bin/etcd";

/// Why a fault inside a member is refused.
pub const NO_DOOR: &str =
    "upstream etcd has no door for that; kill, stop, cont, term, start, bad-config, rot, mend, wipe and unwipe work";

/// A program that says that it is etcd, by its whole path; and which version.
///
/// # Errors
/// If it cannot be run, or is something else: a sentence.
pub fn check(program: &Path) -> Result<(PathBuf, String), Error> {
    let whole = program.canonicalize().map_err(Error::file("cannot find", program))?;
    let asked = Command::new(&whole).arg("--version").stdin(Stdio::null()).output();
    let asked = asked.map_err(Error::file("cannot run", &whole))?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    match said.lines().find_map(|line| line.strip_prefix("etcd Version: ")) {
        Some(version) => Ok((whole, version.trim().to_owned())),
        None => Err(Error::Usage(format!("{} does not say that it is etcd when asked for --version", whole.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::stand_in;

    #[test]
    fn a_program_is_etcd_if_it_says_so() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("some-etcd");
        assert!(check(&path).expect_err("none").to_string().starts_with("cannot find"));
        for (says, is) in [("etcd Version: 3.5.30", true), ("nginx version: 1", false)] {
            stand_in::make(&path, &format!("#!/bin/sh\necho '{says}'\n"));
            let found = check(&path);
            match is {
                true => assert_eq!(found.expect("etcd").1, "3.5.30"),
                false => {
                    assert!(found.expect_err("something else").to_string().contains("does not say that it is etcd"))
                }
            }
        }
    }
}
