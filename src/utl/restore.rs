//! `snapshot restore`: a data directory for a member of a new cluster, with the data of a snapshot.
//!
//! The data goes into the store; the log begins as that of a founder: one conf change per member, all committed, and a mark that says that the
//! state at that index is not in the log. Every member of the new cluster is restored from the same file. Nothing is left behind if
//! it fails. Source: etcd `etcdutl/snapshot/v3_snapshot.go` (`Restore`).

use super::Failed;
use super::reading;
use super::reading::Progress;
use super::status;
use crate::apply::image::position;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::Disk;
use crate::disk::RealDisk;
use crate::engine::Engine as _;
use crate::error::Error;
use crate::image;
use crate::image::Snapshot;
use crate::membership;
use crate::membership::Members;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::store;
use crate::types::Index;
use crate::types::Revision;
use crate::types::Term;
use crate::wal::Metadata;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// As long as the log of a restored member is: it holds the founders and nothing else. The server that opens it makes it as long as its
/// own segments are, so writing 64 MB of zeros here would only have to be waited for twice.
const LOG_BYTES: u64 = 1 << 20;

const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Text, default, help }
}

const fn number(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Number, default: "0", help }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Switch, default: "false", help }
}

/// etcdctl's old spelling knows where to restore to; etcdutl wants to be told.
pub(crate) static FLAGS: &[Flag] = &flags("the folder to make (default: the member's name and .etcd)");
pub(super) static OWN_FLAGS: &[Flag] = &flags("Required. The folder to make");

#[rustfmt::skip]
const fn flags(data_dir: &'static str) -> [Flag; 10] {[
    number("bump-revision", "raise the revision by so much after the restore"),
    text("data-dir", "", data_dir),
    text("initial-advertise-peer-urls", "http://localhost:2380", "where the other members reach this one, separated by commas"),
    text("initial-cluster", "default=http://localhost:2380", "the members of the new cluster"),
    text("initial-cluster-token", "etcd-cluster", "a name that tells this cluster from others"),
    number("initial-memory-map-size", "accepted for etcd's sake: nothing is mapped"),
    switch("mark-compacted", "mark the raised revision as compacted (required if --bump-revision > 0, disallowed otherwise)"),
    text("name", "default", "this member's name"),
    switch("skip-hash-check", "accept a file without a checksum, or with a wrong one (required if copied from a data directory)"),
    text("wal-dir", "", "the folder for the log, if not inside --data-dir"),
]}

/// What is to be made.
struct Plan {
    snapshot: String,
    data_dir: PathBuf,
    wal_dir: PathBuf,
    members: Members,
    metadata: Metadata,
    skip_hash_check: bool,
    bump: u64,
}

impl Plan {
    fn new(args: &Args) -> Result<Plan, Failed> {
        if args.words.len() != 1 {
            return Err(Failed::bad_args("snapshot restore requires exactly one argument"));
        }
        let bump = args.number("bump-revision");
        if bump < 0 || (bump > 0) != args.is_set("mark-compacted") {
            return Err(Failed::bad_args("--mark-compacted required if --revision-bump > 0"));
        }
        let value = |name: &str| {
            let default = FLAGS.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
            args.text(name).unwrap_or(default)
        };
        let (name, token) = (value("name"), value("initial-cluster-token"));
        let advertised = membership::parse_urls(value("initial-advertise-peer-urls")).map_err(Failed::new)?;
        let founders = membership::parse_initial_cluster(value("initial-cluster")).map_err(Failed::new)?;
        membership::check_initial_cluster(name, Some(&advertised), &founders).map_err(Failed::new)?;
        let members = Members::bootstrap(&founders, token).map_err(Failed::new)?;
        let me = members.by_name(name).ok_or_else(|| Failed::new("no member has this name"))?;
        let metadata = Metadata { member: me.id, cluster: members.cluster() };
        let data_dir = match value("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let is_empty = fs::read_dir(&data_dir).map(|mut names| names.next().is_none());
        if data_dir.exists() && !is_empty.unwrap_or(false) {
            return Err(Failed::new(format!("data-dir \"{}\" not empty or could not be read", data_dir.display())));
        }
        let wal_dir = match value("wal-dir") {
            "" => data_dir.join("member/wal"),
            dir => PathBuf::from(dir),
        };
        if wal_dir.exists() {
            return Err(Failed::new(format!("wal-dir \"{}\" exists", wal_dir.display())));
        }
        let (snapshot, skip_hash_check) = (args.word(0), args.is_set("skip-hash-check"));
        Ok(Plan { snapshot, data_dir, wal_dir, members, metadata, skip_hash_check, bump: bump.unsigned_abs() })
    }

    fn fields(&self) -> Value {
        json!({
            "path": self.snapshot,
            "wal-dir": self.wal_dir.display().to_string(),
            "data-dir": self.data_dir.display().to_string(),
            "store-dir": self.store_dir().display().to_string(),
        })
    }

    fn store_dir(&self) -> PathBuf {
        self.data_dir.join("member/store")
    }
}

/// Runs `snapshot restore`.
pub(crate) fn run(args: &Args, _: &str, _: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failed> {
    let plan = Plan::new(args)?;
    log(err, "restoring snapshot", &plan.fields())?;
    drop(status::open("open", &plan.snapshot)?);
    let (snapshot, progress) = reading::open(&plan.snapshot, if plan.skip_hash_check { 1 } else { 2 })?;
    if !plan.skip_hash_check {
        if !snapshot.has_checksum() {
            return Err(Failed::new("snapshot missing hash but --skip-hash-check=false"));
        }
        snapshot.verify()?;
    }
    let was_there = plan.data_dir.exists();
    let revision = restore(&plan, snapshot, progress, err).inspect_err(|_| undo(&plan, was_there))?;
    let mut fields = plan.fields();
    fields["revision"] = revision.0.into();
    log(err, "restored snapshot", &fields)?;
    let data_dir = plan.data_dir.display();
    Ok(writeln!(
        err,
        "The data directory is {data_dir}. Start etcd with --data-dir {data_dir} and the same --name, --initial-cluster, \
         --initial-cluster-token and --initial-advertise-peer-urls{}; first restore every other member of the new cluster \
         from the same file.",
        if args.is_given("wal-dir") { ", and the same --wal-dir" } else { "" }
    )?)
}

/// Removes what a restore that failed has made, so that it can be tried again.
fn undo(plan: &Plan, was_there: bool) {
    let data = if was_there { plan.data_dir.join("member") } else { plan.data_dir.clone() };
    for made in [&plan.wal_dir, &data] {
        // The failure itself is told; a rest that stays is refused by the next attempt, by name.
        let _ = fs::remove_dir_all(made);
    }
}

fn restore(plan: &Plan, snapshot: Snapshot, progress: Progress, err: &mut dyn Write) -> Result<Revision, Failed> {
    let reader = snapshot.into_reader()?;
    let disk = RealDisk;
    let member = plan.data_dir.join("member");
    disk.create_dir(&member)?;
    progress.wipe();
    log(err, "Trimming membership information from the backend...", &json!({}))?;
    let entries = plan.members.founding_entries();
    let last = entries.len() as u64;
    let conf_state =
        ConfState { voters: plan.members.iter().map(|member| member.id.0).collect(), ..ConfState::default() };
    let mut own = position(Index(last), Term(1), &conf_state);
    plan.members.save(&mut own);
    let engine = store::Store::open(&plan.store_dir(), store::CACHE_BYTES)?;
    let revision = image::import(&reader, &engine, own, plan.bump)?;
    progress.finish();
    engine.sync()?;
    drop(engine);
    for member in plan.members.iter() {
        let fields = json!({
            "cluster-id": plan.metadata.cluster.to_string(),
            "local-member-id": "0",
            "added-peer-id": member.id.to_string(),
            "added-peer-peer-urls": member.peer_urls,
            "added-peer-is-learner": false,
        });
        log(err, "added member", &fields)?;
    }
    // The log comes last: a directory with a store and no log is refused by the server.
    image::save_base(&disk, &member, Index(last))?;
    write_log(&plan.wal_dir, plan.metadata, &entries, conf_state)?;
    for dir in [&member, &plan.data_dir] {
        disk.sync_dir(dir)?;
    }
    Ok(revision)
}

/// Writes a log whose beginning is etcd's: metadata, the founders, a hard state that commits them, and the mark.
fn write_log(dir: &Path, metadata: Metadata, entries: &[Entry], conf_state: ConfState) -> Result<(), Error> {
    let mut log = Wal::create(Arc::new(RealDisk), dir, metadata, LOG_BYTES)?;
    let index = entries.len() as u64;
    let vote = conf_state.voters.first().copied().unwrap_or_default();
    log.append(entries, Some(&HardState { term: 1, vote, commit: index }))?;
    log.save_snapshot_mark(&SnapshotMark { index, term: 1, conf_state: Some(conf_state) })?;
    log.sync()
}

/// A line of log, as etcdutl writes them on a console.
pub(super) fn log(err: &mut dyn Write, message: &str, fields: &Value) -> Result<(), Failed> {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let now = time::OffsetDateTime::now_utc().format(&format).unwrap_or_default();
    match fields.as_object().is_some_and(|fields| fields.is_empty()) {
        true => writeln!(err, "{now}\tinfo\t{message}")?,
        false => writeln!(err, "{now}\tinfo\t{message}\t{fields}")?,
    }
    Ok(())
}
