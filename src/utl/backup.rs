//! `backup`: a copy of a data directory that no member uses, log and all.
//!
//! Upstream's, which 3.6 no longer has, also gives the copy a new identity; ours keeps it, and says how to start it so that it becomes a cluster
//! of its own. For a cluster that runs there is `etcdctl snapshot save`. Source: etcd 3.5 `etcdutl/etcdutl/backup_command.go`.

use super::Failed;
use super::restore::log;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::error::io_text;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

const fn text(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Text, default: "", help }
}

pub(super) static FLAGS: &[Flag] = &[
    text("backup-dir", "Required. The folder to make"),
    text("backup-wal-dir", "the folder for the log, if not inside --backup-dir"),
    text("data-dir", "Required. The data directory, which no member uses"),
    text("wal-dir", "the folder of the log, if not inside --data-dir"),
    Flag {
        name: "with-v3",
        short: ' ',
        kind: Kind::Switch,
        default: "true",
        help: "accepted for etcd's sake: there is nothing else to copy",
    },
];

/// Runs `backup`.
pub(super) fn run(args: &Args, err: &mut dyn Write) -> Result<(), Failed> {
    let path = |name: &str| args.text(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let (from, to) = (path("data-dir").unwrap_or_default(), path("backup-dir").unwrap_or_default());
    let member = from.join("member");
    if !member.is_dir() {
        return Err(Failed::new(format!("stat {}: no such file or directory", member.display())));
    }
    if to.exists() {
        return Err(Failed::new(format!("backup-dir \"{}\" exists", to.display())));
    }
    let _lock = lock(&member)?;
    log(err, "copying the data directory", &json!({ "data-dir": from.display().to_string() }))?;
    let copied = copy(&from, &to).and_then(|()| match path("wal-dir") {
        Some(wal) => copy(&wal, &path("backup-wal-dir").unwrap_or_else(|| to.join("member/wal"))),
        None => match path("backup-wal-dir") {
            Some(wal) => move_to(&to.join("member/wal"), &wal),
            None => Ok(()),
        },
    });
    copied.map_err(|(path, e)| Failed::new(format!("copy {}: {}", path.display(), io_text(&e))))?;
    log(err, "finished the backup", &json!({ "backup-dir": to.display().to_string() }))?;
    let to = to.display();
    Ok(writeln!(
        err,
        "The backup is in {to}, and is the same member of the same cluster. To make a cluster of its own of it, start etcd with --data-dir \
         {to} --force-new-cluster."
    )?)
}

/// Holds what a member that runs would hold.
fn lock(member: &Path) -> Result<Vec<File>, Failed> {
    let mut held = Vec::new();
    for path in [member.join("lock"), member.join("snap/db")] {
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        file.try_lock().map_err(|_| Failed::new(format!("{} is locked: stop the member first", path.display())))?;
        held.push(file);
    }
    Ok(held)
}

/// Copies a folder with all that is in it, and waits until the disk has it. An error names the file.
fn copy(from: &Path, to: &Path) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| (path, e)
    };
    RealDisk.create_dir(to).map_err(|e| (to.to_owned(), io::Error::other(e.to_string())))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(at(&source))?;
            File::open(&target).and_then(|file| file.sync_all()).map_err(at(&target))?;
        }
    }
    File::open(to).and_then(|folder| folder.sync_all()).map_err(at(to))
}

fn move_to(from: &Path, to: &Path) -> Result<(), (PathBuf, io::Error)> {
    copy(from, to)?;
    fs::remove_dir_all(from).map_err(|e| (from.to_owned(), e))
}
