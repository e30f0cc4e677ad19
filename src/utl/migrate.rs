//! `migrate`: makes a data directory fit another minor release.
//!
//! A directory of ours has one form, that of 3.6: going there is nothing to do, going elsewhere is refused. In one of etcd's a row tells the form,
//! from 3.6 on; that row comes or goes, in a copy of the database that takes its place. Back to 3.5 only if nothing in the log is newer.
//! Source: etcd `etcdutl/etcdutl/migrate_command.go`, `server/storage/schema/schema.go`, `server/storage/wal/version.go`.

use super::Failed;
use super::defrag;
use super::defrag::Edit;
use super::restore::log;
use crate::bbolt::Item;
use crate::bbolt::Reader;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::RealDisk;
use crate::golang;
use crate::proto::etcdserverpb::InternalRaftRequest;
use crate::proto::raftpb::EntryType;
use crate::replica::install::Manifest;
use crate::wal;
use prost::Message as _;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// The form of our data directories, and the newest of etcd's that is known here.
const OURS: (u64, u64) = (3, 6);
/// The oldest form that `migrate` knows; it has no row that says so.
const OLDEST: (u64, u64) = (3, 5);

const META: &[u8] = b"meta";
const STORAGE_VERSION: &[u8] = b"storageVersion";

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag { name: "data-dir", short: ' ', kind: Kind::Text, default: "", help: "Required. The data directory, which no member uses" },
    Flag { name: "force", short: ' ', kind: Kind::Switch, default: "false", help: "of etcd's own directories: change the row although the log, or what is known here, speaks against it" },
    Flag { name: "target-version", short: ' ', kind: Kind::Text, default: "", help: "Required. The release, as X.Y; 3.5 at least" },
];

/// Runs `migrate`.
pub(super) fn run(args: &Args, err: &mut dyn Write) -> Result<(), Failed> {
    let (dir, target) = (args.text("data-dir").unwrap_or_default(), args.text("target-version").unwrap_or_default());
    let wrong = || {
        let target = golang::quote(target.as_bytes());
        Failed::bad_args(format!("wrong target version format, expected \"X.Y\", got {target}"))
    };
    let (major, minor) = target.split_once('.').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let version = (number(major)?, number(minor)?);
    if version < OLDEST {
        return Err(Failed::bad_args(format!("target version \"{target}\" not supported. Minimal \"3.5\"")));
    }
    let member = Path::new(dir).join("member");
    let own = Manifest::load(&RealDisk, &member)?.store_dir(&member);
    if own.is_dir() && version == OURS {
        return log(err, "storage version up-to-date", &json!({ "storage-version": target }));
    }
    if own.is_dir() {
        return Err(Failed::new(format!(
            "the storage of {dir} has the form of 3.6 and no other: it cannot become that of {target}"
        )));
    }
    let db = member.join("snap/db");
    if !db.is_file() {
        return Err(Failed::new(format!("stat {}: no such file or directory", member.display())));
    }
    migrate(&member, &db, version, args.is_set("force"), err)
}

/// Changes the form of one of etcd's directories.
fn migrate(member: &Path, db: &Path, target: (u64, u64), force: bool, err: &mut dyn Write) -> Result<(), Failed> {
    let current = form_of(db)?;
    let text = |(major, minor): (u64, u64)| format!("{major}.{minor}");
    if current == target {
        return log(err, "storage version up-to-date", &json!({ "storage-version": text(target) }));
    }
    if let Err(why) = may(current, target, &member.join("wal")) {
        if !force {
            return Err(Failed::new(why));
        }
        log(err, "normal migrate failed, trying with force", &json!({ "error": why }))?;
    }
    let version = format!("{}.0", text(target));
    let value = (target > OLDEST).then_some(version.as_bytes());
    defrag::rewrite(db, Some(&Edit { bucket: META, key: STORAGE_VERSION, value }))?;
    let what = if target > current { "upgraded storage version" } else { "downgraded storage version" };
    log(err, what, &json!({ "new-storage-version": version }))
}

/// The form that the database says it has; 3.5 says it by having all that 3.5 writes.
fn form_of(db: &Path) -> Result<(u64, u64), Failed> {
    let file = RealDisk.open_to_read(db)?;
    let bytes = file.len()?;
    let (mut in_meta, mut version, mut has_members, mut has_term) = (false, None, false, false);
    Reader::open(file, bytes)?.walk(&mut |item| {
        match item {
            Item::Enter(name) => in_meta = name == META,
            Item::Leave => in_meta = false,
            Item::Row(key, value) if in_meta => {
                has_members |= key == b"confState";
                has_term |= key == b"term";
                if key == STORAGE_VERSION {
                    version = Some(String::from_utf8_lossy(value).into_owned());
                }
            }
            Item::Row(..) => {}
        }
        Ok(())
    })?;
    match version {
        Some(text) => minor_of(&text).ok_or_else(|| Failed::new(format!("storage version {text} is none"))),
        None if !has_members => Err(Failed::new("missing confstate information")),
        None if !has_term => Err(Failed::new("missing term information")),
        None => Ok(OLDEST),
    }
}

pub(super) fn minor_of(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether the way from one form to another is known, and nothing in the log is in the way. An error is etcd's sentence.
fn may(current: (u64, u64), target: (u64, u64), dir: &Path) -> Result<(), String> {
    let (low, high) = (current.min(target), current.max(target));
    if low < OLDEST || high > OURS {
        // Each step is named by the release above it; the first that is not known stops the plan.
        let unknown = if target > current { (OURS.0, OURS.1.max(current.1) + 1) } else { current };
        return Err(format!(
            "cannot create migration plan: version \"{}.{}.0\" is not supported",
            unknown.0, unknown.1
        ));
    }
    if target > current {
        return Ok(());
    }
    let newest = newest_in(dir)?;
    if newest <= target {
        return Ok(());
    }
    Err(format!(
        "cannot downgrade storage, WAL contains newer entries, as the target version ({}.{}.0) is lower than the version ({}.{}.0) detected \
         from WAL logs",
        target.0, target.1, newest.0, newest.1
    ))
}

/// The oldest release that understands every entry of a log. Of what 3.6 knows only its test of versions is newer than 3.5.
fn newest_in(dir: &Path) -> Result<(u64, u64), String> {
    let log = wal::read(&RealDisk, dir, None).map_err(|e| format!("failed to read wal: {e}"))?;
    let normal = log.entries.iter().filter(|entry| entry.entry_type == EntryType::EntryNormal as i32);
    let mut newest = (3, 0);
    for entry in normal {
        let Ok(request) = InternalRaftRequest::decode(entry.data.as_ref()) else { continue };
        if request.cluster_version_set.is_some() || request.downgrade_info_set.is_some() {
            newest = newest.max(OLDEST);
        }
        if let Some(test) = request.downgrade_version_test {
            newest = newest.max(OURS).max(minor_of(&test.ver).unwrap_or(OURS));
        }
    }
    Ok(newest)
}
