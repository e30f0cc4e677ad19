//! From a data directory to a replica that can run: first start, restart, and a store that must be rebuilt.
//!
//! The log decides. If there is one, this member has been started before and its `initial-*` flags mean nothing any more; if there is none, the log of a founder
//! begins with etcd's bootstrap records, and that of a member that joins is empty. The store only saves time: it holds the state at some index, and one that does
//! not open or does not meet the log is thrown away and filled again: from the log if that goes back to the beginning, else from another member
//! ([`super::lost`]). Which store counts, and whether an image is waiting to become the next one, says the manifest.

use super::compactor::AutoCompaction;
use super::install::Making;
use super::install::Sled;
use super::join;
use super::join::Plan;
use super::lost::Lost;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::consensus::Initial;
use crate::disk;
use crate::disk::Disk;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image;
use crate::image::snap_file;
use crate::membership::Founders;
use crate::membership::Members;
use crate::replica::install;
use crate::replica::install::Installs;
use crate::replica::install::Stores;
use crate::replica::start::Held;
use crate::replica::state::Found;
use crate::replica::state::States;
use crate::replica::state::lost_end;
use crate::replica::state::open_state;
use crate::store;
use crate::store::Renewable;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Term;
use crate::wal::Metadata;
use crate::wal::Replay;
use crate::wal::SnapshotMark;
use crate::wal::Wal;
use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The version of the data directory's layout that this build writes.
pub(super) const FORMAT: u32 = 1;

/// How a cluster comes to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// All founders start together.
    #[default]
    New,
    /// This member joins a cluster that runs.
    Existing,
}

/// What a member is started with; checked by `server`.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the log is, if not inside the data directory.
    pub wal_dir: Option<PathBuf>,
    pub wal_segment_bytes: u64,
    /// The founders' names and peer URLs.
    pub founders: Founders,
    pub token: String,
    pub start: Start,
    /// Whether all other members are removed before anything else.
    pub force_new_cluster: bool,
    /// Whether changes of members are refused that could lose the quorum.
    pub strict_reconfig: bool,
    pub max_learners: usize,
    /// Where the others reach this member, as it tells them.
    pub peer_urls: Vec<String>,
    /// Where clients reach this member, as it tells them.
    pub client_urls: Vec<String>,
    pub tick_ms: u64,
    /// Ticks without a leader before a follower campaigns.
    pub election_ticks: usize,
    /// Whether a single member may skip the wait for its first election.
    pub election_tick_advance: bool,
    pub pre_vote: bool,
    /// Applied entries between two points at which the log may be released.
    pub snapshot_count: u64,
    /// Entries kept in memory behind that point, for followers that lag.
    pub snapshot_catchup_entries: u64,
    pub max_request_bytes: usize,
    /// Pause between two checkpoints of a lease's remaining time; nothing makes none.
    pub lease_checkpoint_ms: Option<u64>,
    /// How long a simple token lives after its last use.
    pub token_ttl_ms: u64,
    pub limits: Limits,
    /// How much of the store on disk is held in memory, beside the history that `limits` counts.
    pub store_cache_bytes: u64,
    /// How much history to keep by itself; nothing keeps all.
    pub auto_compaction: Option<AutoCompaction>,
    /// Keys that one step of a removal looks at, and the pause between two steps.
    pub compaction_batch: usize,
    pub compaction_pause_ms: u64,
    /// How often a leader looks whether a downgrade is over; 0 is never.
    pub downgrade_check_ms: u64,
    pub checks: Checks,
    /// A run of entries that takes longer to apply is told in the log; zero tells nothing.
    pub warn_apply: Duration,
    /// Defragments at start if that gives back so many bytes at least; nothing never does.
    pub defragment_above_bytes: Option<u64>,
}

/// When members compare their data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    /// Before this member takes part.
    pub at_start: bool,
    /// By the leader, all of it; nothing is never.
    pub every: Option<Duration>,
    /// By the leader, what compactions settled; nothing is never.
    pub compactions_every: Option<Duration>,
}

impl Config {
    pub(super) fn election_ms(&self) -> u64 {
        self.election_ticks as u64 * self.tick_ms
    }
}

/// A replica's parts, ready to be driven.
pub(super) struct Booted {
    pub(super) id: MemberId,
    pub(super) cluster: ClusterId,
    pub(super) machine: Machine,
    pub(super) engine: Arc<Renewable>,
    pub(super) installs: Installs,
    pub(super) wal: Wal,
    pub(super) initial: Initial,
    /// The members to connect to, as far as they are known before the log is applied.
    pub(super) reachable: Members,
    /// Held while this member runs.
    pub(super) lock: File,
}

/// How far a start has come.
#[expect(clippy::large_enum_variant, reason = "made once, and taken apart at once")]
pub(super) enum Boot {
    Ready(Booted),
    /// The log is whole, the state is not here, and the log does not go back to the beginning.
    Lost(Lost),
}

/// Opens or creates everything that `config` names.
///
/// # Errors
/// [`Error::Start`], [`Error::Storage`] and [`Error::Damaged`], each a sentence that says what to do.
pub(super) fn boot(config: &Config, plan: Plan) -> Result<Boot, Error> {
    let member = config.data_dir.join("member");
    let lock = open_data_dir(&config.data_dir, &member)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let wal_dir = config.wal_dir();
    let (mut wal, replay) = match &plan {
        Plan::Restart => Wal::open(disk, &wal_dir, config.wal_segment_bytes, None)?,
        Plan::Found(founders) => {
            let me = founders.by_name(&config.name).map(|me| me.id).unwrap_or_default();
            first_log(disk, &wal_dir, &member, config, Metadata { member: me, cluster: founders.cluster() })?
        }
        Plan::Join(me, members) => {
            first_log(disk, &wal_dir, &member, config, Metadata { member: *me, cluster: members.cluster() })?
        }
    };
    if let Some(torn) = &replay.torn {
        tracing::warn!(cut = %torn, "repaired the end of the log: the last write before the crash was cut short");
    }
    let Metadata { member: id, cluster } = replay.metadata;
    let start = (Index(replay.start.index), Term(replay.start.term));
    // What a restored member began with is in its store only.
    let base = image::read_base(&RealDisk, &member)?;
    let mut held = Held { start, base, entries: replay.entries, hard_state: replay.hard_state };
    let is_restart = matches!(plan, Plan::Restart);
    let reachable = match plan {
        Plan::Join(_, members) => members,
        Plan::Restart | Plan::Found(_) => with_founders(&mut wal, &mut held, replay.metadata, config)?,
    };
    let making = Making { cache_bytes: config.store_cache_bytes, cluster, limits: config.limits };
    let mut newest = replay.snapshots.last().cloned();
    let mut opener = Opener { sled: Sled { making, built: None, ahead: None, running: None }, began_anew: false };
    let (engine, mut machine, installs) = match open_state(Arc::new(RealDisk), &member, &held, &mut opener)? {
        Found::State { state: (engine, machine), installs, rebuilt, found } => {
            if let Some(why) = found {
                let store = installs.manifest().store_dir(&member);
                tracing::warn!(why, store = %store.display(), "the manifest cannot be read: this store goes with the log");
            }
            if let Some(why) = rebuilt {
                tracing::warn!(why, "the store cannot be used: rebuilding it from the log");
            } else if opener.began_anew && machine.applied().0 == Index(0) && held.hard_state.commit > 0 && is_restart {
                tracing::warn!("the store is gone: rebuilding it from the log");
            } else if machine.applied().0.0 < held.hard_state.commit {
                let (store, log) = (machine.applied().0.0, held.hard_state.commit);
                tracing::info!("store-holds" = store, "committed-index" = log, "the store goes on from the log");
            }
            (engine, machine, installs)
        }
        Found::Ahead { state: (engine, machine), installs, .. } if config.force_new_cluster && is_restart => {
            newest = Some(begin_behind(&mut wal, &mut held, &machine)?);
            (engine, machine, installs)
        }
        Found::Ahead { applied, .. } => return Err(lost_end(&wal_dir, held.last(), applied)),
        Found::Lost(why) => return Ok(Boot::Lost(Lost { why, id, cluster, held, wal, member, lock })),
    };
    if let Some(threshold) = config.defragment_above_bytes {
        defragment_above(threshold, &engine, &mut machine)?;
    }
    join::check_learners(machine.members(), config)?;
    if let Some(newest) = newest.filter(|mark| mark.index > base.0) {
        note_for_tools(&RealDisk, &member, &newest, &machine)?;
    }
    if config.force_new_cluster && is_restart {
        force_alone(&mut wal, &mut held, id, &machine)?;
    }
    let reachable = if machine.members().is_empty() { reachable } else { machine.members().clone() };
    held.leave_out_later_releases(machine.applied().0);
    let initial = held.into_initial(machine.conf_state().clone());
    Ok(Boot::Ready(Booted { id, cluster, machine, engine, installs, wal, initial, reachable, lock }))
}

/// A crash may have come between a mark and its note. What comes after the mark must not be read without it.
pub(super) fn note_for_tools(
    disk: &dyn Disk,
    member: &Path,
    mark: &SnapshotMark,
    machine: &Machine,
) -> Result<(), Error> {
    if snap_file::exists(disk, &install::snap_dir(member), mark) {
        return Ok(());
    }
    let members = snap_file::members_json(machine.members(), machine.cluster_version());
    snap_file::save(disk, &install::snap_dir(member), mark, &members)
}

/// Makes the directory for its owner only, locks it against a second process, and checks its format.
pub(super) fn open_data_dir(data_dir: &Path, member: &Path) -> Result<File, Error> {
    let cannot = |e: &dyn std::fmt::Display| Error::Start(format!("cannot access data directory: {e}"));
    make_folders(member).map_err(|e| cannot(&e.to_string().trim_start_matches("storage: ")))?;
    let mode = fs::metadata(data_dir).map_err(|e| cannot(&e))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            dir = %data_dir.display(),
            permission = %format!("{mode:o}"),
            "the data directory can be read by others; `chmod 700` keeps it to its owner"
        );
    }
    let path = member.join("lock");
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(|e| cannot(&format!("{}: {e}", path.display())))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(cannot(&format!("{} is locked: another etcd runs in it", data_dir.display())));
        }
        Err(TryLockError::Error(e)) => return Err(cannot(&e)),
    }
    check_format(&member.join("format"))?;
    // etcd's tools look into it, also where nothing is in it yet.
    RealDisk.create_dir(&install::snap_dir(member))?;
    Ok(lock)
}

/// Makes `member` and the folders above it that are not there, each with a name that outlasts a loss of power: without that the whole member could be
/// gone after its first acknowledged write. The two above it are synced at every start, because the one that made them may have been cut short.
fn make_folders(member: &Path) -> Result<(), Error> {
    let above = member.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    let above: Vec<&Path> = above.collect();
    let missing = above.iter().take_while(|dir| !dir.exists()).count();
    RealDisk.create_dir(member)?;
    for dir in above.into_iter().take(missing.max(1) + 1) {
        match File::open(dir) {
            // Who may only pass through a folder cannot have it synced.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
            _ => RealDisk.sync_dir(dir)?,
        }
    }
    Ok(())
}

fn check_format(path: &Path) -> Result<(), Error> {
    let write = || disk::replace(&RealDisk, path, format!("{FORMAT}\n").as_bytes());
    match fs::read_to_string(path) {
        // Releases before this one wrote it without a sync: empty is what a loss of power leaves of that.
        Ok(text) if text.is_empty() => write(),
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(()),
            _ => Err(Error::Start(format!(
                "{}: format `{}` is newer than this release, which knows {FORMAT}; use the release that wrote it",
                path.display(),
                text.trim()
            ))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => write(),
        Err(e) => Err(e.into()),
    }
}

/// Begins the log of a member that was never started: a new one beside data would forget what this member has promised.
fn first_log(
    disk: Arc<dyn Disk>,
    wal_dir: &Path,
    member: &Path,
    config: &Config,
    metadata: Metadata,
) -> Result<(Wal, Replay), Error> {
    // Once a snapshot was installed, the store has another name, and the manifest says which.
    let is_data = |name: &&String| name.starts_with("store") || name.starts_with("manifest");
    if let Some(name) = disk.list(member)?.iter().find(is_data) {
        return Err(Error::Start(format!(
            "{} holds data, but its log in {} is gone: restore the log, or move the data directory away to start anew",
            member.join(name).display(),
            wal_dir.display()
        )));
    }
    drop(Wal::create(disk.clone(), wal_dir, metadata, config.wal_segment_bytes)?);
    Wal::open(disk, wal_dir, config.wal_segment_bytes, None)
}

/// Gives a founder's log that is still empty its first records, see [`Held::begin`], and returns the founders if this log is theirs. That of a
/// member that joined stays empty until the leader fills it; what the flags say does not matter to it any more.
fn with_founders(wal: &mut Wal, held: &mut Held, whose: Metadata, config: &Config) -> Result<Members, Error> {
    let founders = Members::bootstrap(&config.founders, &config.token).map_err(Error::Start)?;
    if whose.cluster == founders.cluster() && founders.get(whose.member).is_some() {
        if held.begin(&founders) {
            wal.append(&held.entries, Some(&held.hard_state))?;
            wal.sync()?;
        }
        return Ok(founders);
    }
    let untouched = held.entries.is_empty() && held.goes_on_from() == Index(0);
    if untouched && config.start == Start::New {
        return Err(Error::Start(format!(
            "the data directory belongs to cluster {}, but --initial-cluster and --initial-cluster-token name cluster {}",
            whose.cluster,
            founders.cluster()
        )));
    }
    Ok(Members::empty(whose.cluster))
}

/// Makes this member the only one; see [`Held::force_alone`].
fn force_alone(wal: &mut Wal, held: &mut Held, id: MemberId, machine: &Machine) -> Result<(), Error> {
    let before = held.last();
    let forced = held.force_alone(id, machine.conf_state(), machine.applied().0)?;
    wal.append(&forced, Some(&held.hard_state))?;
    wal.sync()?;
    tracing::info!(
        "local-member-id" = %id,
        "last-index" = %before,
        "forced-changes" = forced.len(),
        "commit-index" = held.hard_state.commit,
        "forcing restart member"
    );
    Ok(())
}

/// Gives up what a log has lost, as its owner asked for: it goes on from what the store holds.
fn begin_behind(wal: &mut Wal, held: &mut Held, machine: &Machine) -> Result<SnapshotMark, Error> {
    let (last, (applied, term)) = (held.last(), machine.applied());
    let hard_state = held.begin_behind(applied, term)?;
    let mark = SnapshotMark { index: applied.0, term: term.0, conf_state: Some(machine.conf_state().clone()) };
    wal.save_snapshot_mark(&mark)?;
    wal.append(&[], Some(&hard_state))?;
    wal.sync()?;
    tracing::warn!(
        "log-ended-at" = last.0,
        "store-holds" = applied.0,
        "the log has lost its end; it goes on from the store, and what came after that is gone"
    );
    Ok(mark)
}

/// The engine and what it holds.
type State = (Arc<Renewable>, Machine);

/// Opens stores on sled.
struct Opener {
    sled: Sled,
    /// Whether there was no store.
    began_anew: bool,
}

impl Stores for Opener {
    fn build(&mut self, dir: &Path, image: &Path, mark: &SnapshotMark) -> Result<(), Error> {
        tracing::info!(index = mark.index, "found a snapshot that was accepted before the last stop");
        self.sled.build(dir, image, mark)
    }

    fn retire(&mut self, dir: &Path) -> Result<(), Error> {
        self.sled.retire(dir)
    }
}

impl States for Opener {
    type State = State;

    fn open(&mut self, dir: &Path) -> Result<(State, Index), Error> {
        let Making { cache_bytes, cluster, limits } = self.sled.making;
        // What was just built is open already.
        let (engine, machine) = match self.sled.built.take() {
            Some(built) => (built.engine, built.machine),
            None => {
                self.began_anew = !dir.exists();
                let engine = Arc::new(Renewable::open(dir, cache_bytes)?);
                (engine.clone(), Machine::open(engine, cluster, limits)?)
            }
        };
        let (applied, _) = machine.applied();
        Ok(((engine, machine), applied))
    }

    fn put_aside(&mut self, dir: &Path) -> Result<(), Error> {
        if dir.exists() { store::put_aside(dir).map(drop) } else { Ok(()) }
    }
}

/// Writes the store afresh if that gives back `threshold` bytes at least. Source: etcd `bootstrap.go`, `maybeDefragBackend`.
fn defragment_above(threshold: u64, engine: &Renewable, machine: &mut Machine) -> Result<(), Error> {
    let (size, in_use) = (machine.store().size(), machine.store().in_use());
    if size.saturating_sub(in_use) < threshold {
        tracing::info!(
            "current-db-size-bytes" = size,
            "current-db-size-in-use-bytes" = in_use,
            "experimental-bootstrap-defrag-threshold-bytes" = threshold,
            "Skipping defragmentation"
        );
        return Ok(());
    }
    tracing::info!("defragmenting");
    engine.renew()?;
    machine.defragmented();
    tracing::info!(
        "current-db-size-bytes-diff" = size - machine.store().size(),
        "current-db-size-bytes" = machine.store().size(),
        "finished defragmenting directory"
    );
    Ok(())
}
