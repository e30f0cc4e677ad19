//! `convert`: of a data directory of ours, one that etcd starts on: the same member of the same cluster, with the same state. Ours, not etcd's.
//!
//! ```text
//! store  ──▶ snap/db             a bbolt database, whose consistent index is the store's
//! log    ──▶ wal/                begins at a mark of that index; what is not applied yet comes behind it
//! store  ──▶ snap/….snap         the members at that mark, where etcd up to 3.5 looks for them
//! ```
//!
//! The way in needs no command: our server converts what etcd has left when it starts on it (`node/adopt.rs`). The directory that is read is not
//! changed. Source: etcd `server/etcdserver/bootstrap.go` (`recoverSnapshot`), `server/storage/wal/wal.go` (`ValidSnapshotEntries`).

use super::Failed;
use super::backup;
use super::migrate::minor_of;
use super::restore::log;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image;
use crate::image::snap_file;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::replica::install;
use crate::replica::install::Manifest;
use crate::store;
use crate::wal;
use crate::wal::Replay;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use parking_lot::RwLock;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag { name: "data-dir", short: ' ', kind: Kind::Text, default: "", help: "Required. The data directory, which no member uses" },
    Flag { name: "output-dir", short: ' ', kind: Kind::Text, default: "", help: "Required. The folder to make, for etcd" },
    Flag { name: "target-version", short: ' ', kind: Kind::Text, default: "3.5", help: "the release of etcd that is to start on it, as X.Y" },
    Flag { name: "wal-dir", short: ' ', kind: Kind::Text, default: "", help: "the folder of the log, if not inside --data-dir" },
];

/// Runs `convert`.
pub(super) fn run(args: &Args, err: &mut dyn Write) -> Result<(), Failed> {
    let path = |name: &str| args.text(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let (from, to) = (path("data-dir").unwrap_or_default(), path("output-dir").unwrap_or_default());
    let member = from.join("member");
    let manifest = Manifest::load(&RealDisk, &member)?;
    let store_dir = manifest.store_dir(&member);
    if !member.join("format").exists() || !store_dir.is_dir() || manifest.image().is_some() {
        return Err(Failed::new(format!(
            "{} holds no whole store of this server: if its member was killed, start it once more and stop it again",
            from.display()
        )));
    }
    if to.exists() {
        return Err(Failed::new(format!("output-dir \"{}\" exists", to.display())));
    }
    let target = args.text("target-version").unwrap_or("3.5");
    let target = minor_of(target)
        .filter(|target| *target >= (3, 5))
        .ok_or_else(|| Failed::bad_args(format!("--target-version is \"{target}\"; it can be 3.5, 3.6 and so on")))?;
    let _lock = backup::lock(&member)?;
    let log_of = wal::read(&RealDisk, &path("wal-dir").unwrap_or_else(|| member.join("wal")), None)?;
    let engine = Arc::new(store::Store::open(&store_dir, store::CACHE_BYTES)?);
    let machine = Machine::open(engine, log_of.metadata.cluster, Limits::default())?;
    check_version(&machine, target)?;
    let fields = json!({ "data-dir": from.display().to_string(), "output-dir": to.display().to_string() });
    log(err, "converting the data directory", &fields)?;
    let made = make(machine, log_of, &to);
    let (index, bytes) = made.inspect_err(|_| {
        // The failure itself is told; a rest that stays is refused by the next attempt, by name.
        let _ = fs::remove_dir_all(&to);
    })?;
    log(err, "converted the data directory", &json!({ "consistent-index": index, "db-size-bytes": bytes }))?;
    let to = to.display();
    Ok(writeln!(
        err,
        "Start etcd with --data-dir {to}, and with the flags that the member had. The old directory is as it was."
    )?)
}

/// An etcd does not start on what a later release has agreed on.
fn check_version(machine: &Machine, target: (u64, u64)) -> Result<(), Failed> {
    let Some(version) = machine.cluster_version() else { return Ok(()) };
    if minor_of(version).is_some_and(|version| version <= target) {
        return Ok(());
    }
    let (major, minor) = target;
    Err(Failed::new(format!(
        "the cluster's version is {version}, and etcd {major}.{minor} does not start on that. While its members run: etcdctl downgrade enable \
         {major}.{minor}; wait until `curl ENDPOINT/version` says etcdcluster {major}.{minor}.0; stop the member, and try again"
    )))
}

/// Makes the folder, whole and durable; returns up to which entry its database goes, and its size.
fn make(machine: Machine, from: Replay, to: &Path) -> Result<(u64, u64), Error> {
    let member = to.join("member");
    RealDisk.create_dir(&install::snap_dir(&member))?;
    let (applied, term) = machine.applied();
    let mark = SnapshotMark { index: applied.0, term: term.0, conf_state: Some(machine.conf_state().clone()) };
    let members = snap_file::members_json(machine.members(), machine.cluster_version());
    let machine = RwLock::new(machine);
    let frozen = machine.read().freeze();
    let mut database = RealDisk.create(&install::snap_dir(&member).join("db"))?;
    let bytes = image::write(&machine, frozen, database.as_mut())?;
    database.sync()?;
    let mut log = Wal::create(Arc::new(RealDisk), &member.join("wal"), from.metadata, wal::SEGMENT_BYTES)?;
    let behind: Vec<Entry> = from.entries.into_iter().filter(|entry| entry.index > applied.0).collect();
    log.save_snapshot_mark(&mark)?;
    let commit = from.hard_state.commit.max(applied.0);
    log.append(&behind, Some(&HardState { commit, ..from.hard_state }))?;
    log.sync()?;
    // A mark counts only once the log says that it is committed, and the file only beside its mark.
    snap_file::save(&RealDisk, &install::snap_dir(&member), &mark, &members)?;
    for dir in [&member, to] {
        RealDisk.sync_dir(dir)?;
    }
    Ok((applied.0, bytes))
}
