//! What can become of the files of a member that is down: a bit turns over, the folder is gone. Each has its way back.
//!
//! Only in a lab's own folder: the marker must lie above the member's. What is taken away is moved aside, never deleted, and what was
//! changed is written down beside it.

use crate::lab::Error;
use crate::lab::workdir::MARKER;
use crate::lab::workdir::MemberRecord;
use serde::Deserialize;
use serde::Serialize;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// Where the turned bit is written down.
const NOTE: &str = "rot.json";
/// The data folder that was moved aside, and one that the member has made instead.
const ASIDE: &str = "data.aside";
const SINCE: &str = "data.since";

/// Which of a member's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Log,
    Store,
}

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// One bit turns over, half way into what is written.
    Rot(Part),
    /// The bit as it was.
    Mend,
    /// The data folder is gone.
    Wipe,
    /// It is back; what the member has made since is moved aside.
    Unwipe,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    file: PathBuf,
    offset: u64,
    mask: u8,
}

/// Does it, and says to what.
///
/// # Errors
/// A sentence: it is no lab's folder, there is nothing to do it to, or the disk refuses.
pub fn run(member: &MemberRecord, job: Job) -> Result<String, Error> {
    let home = member.data_dir.parent().unwrap_or(Path::new("."));
    let lab = home.parent().unwrap_or(Path::new("."));
    if !lab.join(MARKER).is_file() {
        return Err(Error::NotOurs(lab.to_path_buf()));
    }
    match job {
        Job::Rot(part) => rot(member, home, part),
        Job::Mend => mend(member, home),
        Job::Wipe => {
            if home.join(ASIDE).exists() {
                return Err(Error::Refused(format!("{} has lost its data already: unwipe it first", member.name)));
            }
            rename(&member.data_dir, &home.join(ASIDE))?;
            Ok(format!("{} is moved to {ASIDE} beside it", member.data_dir.display()))
        }
        Job::Unwipe => {
            if !home.join(ASIDE).exists() {
                return Err(Error::Refused(format!("{} has all its data", member.name)));
            }
            if member.data_dir.exists() {
                // Of an earlier time: nobody asked for it back.
                drop(fs::remove_dir_all(home.join(SINCE)));
                rename(&member.data_dir, &home.join(SINCE))?;
            }
            rename(&home.join(ASIDE), &member.data_dir)?;
            Ok(format!("{} is as it was", member.data_dir.display()))
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::file("cannot move", from))
}

/// Makes the data of our server etcd's again, if that is what a member has that is down: `etcdutl convert`, and the folders change places. Blocks for as
/// long as that takes.
///
/// # Errors
/// What `etcdutl` says, or the disk.
pub fn hand_back(m: &MemberRecord, etcdutl: &Path) -> Result<(), Error> {
    let (member, ours) = (m.data_dir.join("member"), m.data_dir.join("member.ours"));
    if ours.exists() && !member.exists() {
        // The last time ended between the two renames: all that there is is in the old folder, and etcd would begin with nothing.
        rename(&ours, &member)?;
    }
    if !member.join("format").exists() {
        return Ok(());
    }
    let made = m.data_dir.with_extension("back");
    let kept = m.data_dir.join("member.etcd");
    for rest in [&made, &ours] {
        drop(fs::remove_dir_all(rest));
    }
    let mut convert = Command::new(etcdutl);
    convert.arg("convert").arg("--data-dir").arg(&m.data_dir).arg("--output-dir").arg(&made).stdin(Stdio::null());
    let done = convert.output().map_err(Error::file("cannot run", etcdutl))?;
    if !done.status.success() {
        return Err(Error::Refused(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    rename(&member, &ours)?;
    if let Err(why) = rename(&made.join("member"), &member) {
        // If this fails, too, the next start makes it good.
        drop(rename(&ours, &member));
        return Err(why);
    }
    for rest in [&made, &ours, &kept] {
        // The next time begins by removing what stays.
        drop(fs::remove_dir_all(rest));
    }
    Ok(())
}

fn rot(member: &MemberRecord, home: &Path, part: Part) -> Result<String, Error> {
    let note = home.join(NOTE);
    if note.exists() {
        return Err(Error::Refused(format!("{} has a rotten bit already: mend it first", member.name)));
    }
    let inside = member.data_dir.join("member");
    let file = match part {
        Part::Log => files(&inside.join("wal")).into_iter().rfind(|f| f.extension().is_some_and(|e| e == "wal")),
        Part::Store => {
            let size = |f: &PathBuf| fs::metadata(f).map_or(0, |m| m.len());
            // Upstream etcd has one file for it.
            let one = Some(inside.join("snap/db")).filter(|db| db.is_file());
            one.or_else(|| stores(&inside).iter().flat_map(|dir| files(dir)).max_by_key(size))
        }
    };
    let nothing = || Error::Refused(format!("{} has nothing there that could rot", member.name));
    let file = file.ok_or_else(nothing)?;
    let bytes = fs::read(&file).map_err(Error::file("cannot read", &file))?;
    // Files are filled with zeros before their time: what is written ends with the last byte that is none.
    let written = bytes.iter().rposition(|b| *b != 0).ok_or_else(nothing)? + 1;
    // Not one that is zero: records are filled up with zeros that nobody reads.
    let offset = (written / 2..written).find(|at| bytes[*at] != 0).ok_or_else(nothing)?;
    let found = Note { offset: offset as u64, mask: 1 << 4, file };
    // Written down before it is done: it can always be mended.
    let json = serde_json::to_vec(&found).expect("a path and numbers");
    fs::write(&note, json).map_err(Error::file("cannot write", &note))?;
    turn(&found)?;
    Ok(format!("one bit of byte {} of {} has turned over", found.offset, found.file.display()))
}

fn mend(member: &MemberRecord, home: &Path) -> Result<String, Error> {
    let path = home.join(NOTE);
    let json = fs::read(&path).map_err(|_| Error::Refused(format!("no bit of {} has turned over", member.name)))?;
    let note: Note = serde_json::from_slice(&json).map_err(|e| Error::file("cannot understand", &path)(e.into()))?;
    let said = match note.file.exists() {
        true => turn(&note).map(|()| format!("{} is as it was", note.file.display()))?,
        false => format!("{} is gone, and the bit with it", note.file.display()),
    };
    fs::remove_file(&path).map_err(Error::file("cannot remove", &path))?;
    Ok(said)
}

/// Turns the bit over: twice is as before.
fn turn(note: &Note) -> Result<(), Error> {
    let failed = || Error::file("cannot write", &note.file);
    let file = fs::File::options().read(true).write(true).open(&note.file).map_err(failed())?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, note.offset).map_err(failed())?;
    file.write_all_at(&[byte[0] ^ note.mask], note.offset).map_err(failed())
}

/// The store's folders.
fn stores(inside: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(inside).into_iter().flatten().flatten().map(|e| e.path());
    all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("store")) && p.is_dir()).collect()
}

/// The files of a folder and of those in it, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.sort();
    found.into_iter().flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::stand_in;
    use crate::lab::workdir::Record;

    fn member(lab: &Path) -> MemberRecord {
        fs::write(lab.join(MARKER), "").expect("written");
        let mut member = Record::sample(1).members.remove(0);
        member.data_dir = lab.join("n1/data");
        let wal = member.data_dir.join("member/wal");
        fs::create_dir_all(&wal).expect("made");
        fs::write(wal.join("0-0.wal"), [7; 10]).expect("written");
        fs::write(wal.join("1-5.wal"), [&[9; 10][..], &[0; 90]].concat()).expect("written");
        member
    }

    #[test]
    fn a_bit_turns_over_in_what_is_written_last_and_back() {
        let lab = tempfile::tempdir().expect("temp dir");
        let member = member(lab.path());
        let newest = member.data_dir.join("member/wal/1-5.wal");
        let before = fs::read(&newest).expect("there");
        run(&member, Job::Rot(Part::Log)).expect("done");
        let after = fs::read(&newest).expect("there");
        let differ: Vec<usize> = (0..100).filter(|i| before[*i] != after[*i]).collect();
        assert_eq!((differ, (before[5] ^ after[5]).count_ones()), (vec![5], 1));
        assert!(run(&member, Job::Rot(Part::Log)).expect_err("once").to_string().contains("mend it first"));
        run(&member, Job::Mend).expect("done");
        assert_eq!(fs::read(&newest).expect("there"), before);
        assert!(run(&member, Job::Mend).expect_err("nothing").to_string().contains("no bit of n1"));
        assert!(run(&member, Job::Rot(Part::Store)).expect_err("none").to_string().contains("nothing there"));
    }

    #[test]
    fn lost_data_comes_back_and_what_was_made_instead_is_kept() {
        let lab = tempfile::tempdir().expect("temp dir");
        let member = member(lab.path());
        run(&member, Job::Wipe).expect("done");
        assert!(!member.data_dir.exists());
        assert!(run(&member, Job::Wipe).is_err());
        fs::create_dir_all(member.data_dir.join("member/new")).expect("made");
        run(&member, Job::Unwipe).expect("done");
        assert!(member.data_dir.join("member/wal").exists());
        assert!(lab.path().join("n1").join(SINCE).join("member/new").exists());
        assert!(run(&member, Job::Unwipe).is_err());
    }

    #[test]
    fn a_way_back_that_failed_half_way_leaves_the_data_and_is_gone_again() {
        let lab = tempfile::tempdir().expect("temp dir");
        let member = member(lab.path());
        let (there, ours) = (member.data_dir.join("member"), member.data_dir.join("member.ours"));
        fs::write(there.join("format"), "1\n").expect("written");
        let etcdutl = |body: &str| {
            let program = lab.path().join("etcdutl");
            // `convert --data-dir FROM --output-dir TO`
            stand_in::make(&program, &format!("#!/bin/sh\n[ -f \"$3/member/format\" ] || exit 1\n{body}\n"));
            program
        };
        // It makes no folder `member`, so that the second rename fails.
        hand_back(&member, &etcdutl("mkdir \"$5\"")).expect_err("nothing to move");
        assert!(there.join("wal/0-0.wal").exists(), "it is where it was");
        // Between the two renames the lab was killed.
        fs::rename(&there, &ours).expect("moved");
        hand_back(&member, &etcdutl("mkdir -p \"$5/member/snap\"")).expect("done");
        assert!(there.join("snap").exists() && !there.join("format").exists() && !ours.exists());
    }

    #[test]
    fn a_folder_that_no_lab_has_made_is_left_alone() {
        let lab = tempfile::tempdir().expect("temp dir");
        let member = member(lab.path());
        fs::remove_file(lab.path().join(MARKER)).expect("removed");
        for job in [Job::Rot(Part::Log), Job::Mend, Job::Wipe, Job::Unwipe] {
            assert!(matches!(run(&member, job), Err(Error::NotOurs(_))), "{job:?}");
        }
        assert!(member.data_dir.join("member/wal").exists());
    }
}
