//! `backup`: a copy of a data directory that no member uses, which is nobody's any more: it becomes a cluster of its own.
//!
//! The copy has the data, the log, and a new identity. Whom the log and the store name as members is left out, so that the copy can never take
//! part in the cluster that it was made of; entries about members become empty ones, and no other moves. Started with
//! `--force-new-cluster` it is a cluster of one. A directory of etcd's own is copied as it is.
//!
//! Ids as etcdctl 3.4 made them; 3.5's etcdutl forgets the members and keeps the ids, so that two clusters have one id (run, not read). 3.6 has no
//! such command. For a cluster that runs there is `etcdctl snapshot save`. Source: etcd 3.4 `etcdctl/ctlv2/command/backup_command.go`, 3.5
//! `etcdutl/etcdutl/backup_command.go`.

use super::Failed;
use super::restore::log;
use crate::apply::image::forget_members;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::disk::copy_folder;
use crate::engine::Engine as _;
use crate::error::Error;
use crate::image;
use crate::proto::etcdserverpb::InternalRaftRequest;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::HardState;
use crate::replica::install::Manifest;
use crate::store;
use crate::store::Store;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use crate::wal;
use crate::wal::Metadata;
use crate::wal::Replay;
use crate::wal::Wal;
use prost::Message as _;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// How many entries are written at a time.
const ENTRIES: usize = 1000;
/// Bits of time and of count in an id, as in etcd's `idutil`.
const TIME_BITS: u32 = 40;
const COUNT_BITS: u32 = 8;

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
    let wal_to = path("backup-wal-dir").unwrap_or_else(|| to.join("member/wal"));
    if wal_to.exists() {
        return Err(Failed::new(format!("backup-wal-dir \"{}\" exists", wal_to.display())));
    }
    let _lock = lock(&member)?;
    log(err, "copying the data directory", &json!({ "data-dir": from.display().to_string() }))?;
    let plan = Plan { wal: path("wal-dir").unwrap_or_else(|| member.join("wal")), member, to, wal_to };
    let made = if plan.is_ours() { plan.renamed().map(Some) } else { plan.copied().map(|()| None) };
    let identity = made.inspect_err(|_| plan.undo())?;
    log(err, "finished the backup", &json!({ "backup-dir": plan.to.display().to_string() }))?;
    let to = plan.to.display();
    let next = match identity {
        Some(Metadata { member, cluster }) => format!(
            "The backup is in {to}. It is the member {member} of the cluster {cluster}, which is a new one. Start etcd with --data-dir {to} \
             --force-new-cluster, and tell it where it is: etcdctl member update {member} --peer-urls=URL."
        ),
        None => format!(
            "The backup is in {to}, and is the same member of the same cluster. To make a cluster of its own of it, start etcd with \
             --data-dir {to} --force-new-cluster."
        ),
    };
    Ok(writeln!(err, "{next}")?)
}

/// What becomes what.
struct Plan {
    member: PathBuf,
    wal: PathBuf,
    to: PathBuf,
    wal_to: PathBuf,
}

impl Plan {
    /// Whether this is a directory of ours, and not one of etcd's.
    fn is_ours(&self) -> bool {
        self.member.join("format").exists() || self.member.join("store").is_dir()
    }

    /// Copies a directory of etcd's.
    fn copied(&self) -> Result<(), Failed> {
        copy_folder(&self.member, &self.to.join("member"), &|name| name != "wal")?;
        Ok(copy_folder(&self.wal, &self.wal_to, &|_| true)?)
    }

    /// Copies a directory of ours, and gives the copy a new identity, which it returns.
    fn renamed(&self) -> Result<Metadata, Failed> {
        let manifest = Manifest::load(&RealDisk, &self.member)?;
        let store = manifest.store_dir(&self.member);
        if manifest.image().is_some() || !store.is_dir() {
            return Err(Failed::new(format!(
                "the store of {} is not whole: start its member, which mends it, and stop it again",
                self.member.display()
            )));
        }
        let log = wal::read(&RealDisk, &self.wal, None)?;
        let member = self.to.join("member");
        copy_folder(&store, &member.join("store"), &|_| true)?;
        let engine = Store::open(&member.join("store"), store::CACHE_BYTES)?;
        forget_members(&engine)?;
        engine.sync()?;
        drop(engine);
        let base = image::read_base(&RealDisk, &self.member)?;
        if base > Index(0) {
            image::save_base(&RealDisk, &member, base)?;
        }
        let identity = new_identity();
        write_log(&self.wal_to, identity, log)?;
        for dir in [&member, &self.to] {
            RealDisk.sync_dir(dir)?;
        }
        Ok(identity)
    }

    /// Removes what a backup that failed has made.
    fn undo(&self) {
        for made in [&self.wal_to, &self.to] {
            // The failure itself is told; a rest that stays is refused by the next attempt, by name.
            let _ = fs::remove_dir_all(made);
        }
    }
}

/// Ids that no other cluster has: the time, and a count behind it.
fn new_identity() -> Metadata {
    let ms = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    let low = u64::try_from(ms).unwrap_or_default() & ((1 << TIME_BITS) - 1);
    let id = |count: u64| (low << COUNT_BITS) + count;
    Metadata { member: MemberId(id(1)), cluster: ClusterId(id(2)) }
}

/// Writes what a log says into a new one, of nobody's yet.
fn write_log(dir: &Path, identity: Metadata, log: Replay) -> Result<(), Error> {
    // The folder of a bare name is this one.
    let dir = if dir.parent() == Some(Path::new("")) { &Path::new(".").join(dir) } else { dir };
    let Replay { start, mut entries, hard_state, .. } = log;
    let mut log = Wal::create(Arc::new(RealDisk), dir, identity, wal::SEGMENT_BYTES)?;
    if start.index > 0 {
        log.save_snapshot_mark(&wal::SnapshotMark { conf_state: Some(ConfState::default()), ..start })?;
    }
    entries.iter_mut().for_each(empty_if_about_members);
    for some in entries.chunks(ENTRIES) {
        log.append(some, None)?;
    }
    // Who had its vote is in another cluster.
    log.append(&[], Some(&HardState { vote: 0, ..hard_state }))?;
    log.sync()
}

/// Makes an entry that says who is a member, or what one is called, an empty one, as a new leader writes it: the others keep their places.
fn empty_if_about_members(entry: &mut Entry) {
    let is_change = entry.entry_type != EntryType::EntryNormal as i32;
    let names = || InternalRaftRequest::decode(&entry.data[..]).is_ok_and(|it| it.cluster_member_attr_set.is_some());
    if is_change || names() {
        *entry = Entry { index: entry.index, term: entry.term, ..Entry::default() };
    }
}

/// Holds what a member that runs would hold.
pub(super) fn lock(member: &Path) -> Result<Vec<File>, Failed> {
    let mut held = Vec::new();
    for path in [member.join("lock"), member.join("snap/db")] {
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        file.try_lock().map_err(|_| Failed::new(format!("{} is locked: stop the member first", path.display())))?;
        held.push(file);
    }
    Ok(held)
}
