//! A data directory of etcd's own becomes one of ours, in place, the first time that this server starts on it.
//!
//! ```text
//! member/snap/db       ──▶  member/store        what the database holds, up to its consistent index
//! member/wal/*.wal     ──▶  member/wal          a copy: the same records, and raft goes on behind them
//! member/snap/*.snap   ──▶  member/snap         copies, for etcd's tools
//! member/              ──▶  member.etcd/        as it was: etcd starts on it again, once it is called `member`
//! ```
//!
//! Member and cluster are those of the log, so the others notice nothing but a restart. The new folder is made beside the old one; `format`, its last
//! file, says that it is whole. Then two renames: a crash before them leaves etcd's directory, one between them is mended at the next start. Whoever does any
//! of this holds the lock of etcd's database, which goes with it through the renames.
//!
//! What cannot be had is refused before anything is written: a database that is damaged or in use, a form or an entry of a later release, keys of the v2
//! store or a note of it that cannot be read, a disk without room. Left out: a log outside the data directory, and databases from before etcd 3.5, which do not say who votes. Source: etcd
//! `server/storage/schema/{cindex,confstate}.go`, `server/etcdserver/bootstrap.go`, `api/membership/store.go` (`IsMetaStoreOnly`).

use super::boot::Config;
use super::boot::FORMAT;
use super::install::Built;
use super::install::Making;
use crate::apply;
use crate::apply::version::Version;
use crate::bbolt::Item;
use crate::disk;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::image;
use crate::image::snap_file;
use crate::image::snap_file::Attributes;
use crate::image::snap_file::Note;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::EntryType;
use crate::replica::install;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Revision;
use crate::wal;
use crate::wal::Replay;
use crate::wal::SnapshotMark;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

/// etcd's bucket of what is no key, and the row that says which release's form a database has; 3.5 has no such row.
const META: &[u8] = b"meta";
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// The folders in a data directory that matter here.
struct Places {
    data_dir: PathBuf,
    member: PathBuf,
    /// The new `member`, while it is made.
    new: PathBuf,
    /// The old one, afterwards.
    kept: PathBuf,
}

impl Places {
    fn of(data_dir: &Path) -> Places {
        let at = |name: &str| data_dir.join(name);
        Places { data_dir: data_dir.to_owned(), member: at("member"), new: at("member.new"), kept: at("member.etcd") }
    }

    fn database(&self) -> PathBuf {
        database_in(&self.member)
    }

    fn holds_etcds_own(&self) -> bool {
        self.database().exists() && !self.member.join("format").exists()
    }

    /// Finishes or removes what a conversion left that was cut short.
    fn mend(&self) -> Result<(), Error> {
        if !self.new.exists() {
            return Ok(());
        }
        // Or another process is at it still.
        let databases = [self.database(), database_in(&self.kept)];
        let _alone = databases.iter().find(|path| path.exists()).map(|path| lock(self, path)).transpose()?;
        if self.new.join("format").exists() && !self.member.exists() {
            RealDisk.rename(&self.new, &self.member)?;
            return RealDisk.sync_dir(&self.data_dir);
        }
        fs::remove_dir_all(&self.new).map_err(Error::from)
    }

    /// Puts the new folder in the old one's place.
    fn swap(&self) -> Result<(), Error> {
        failpoint::hit(Point::AdoptBeforeRenames);
        RealDisk.rename(&self.member, &self.kept)?;
        failpoint::hit(Point::AdoptBetweenRenames);
        RealDisk.rename(&self.new, &self.member)?;
        failpoint::hit(Point::AdoptAfterRenames);
        RealDisk.sync_dir(&self.data_dir)
    }

    fn refused(&self, why: &str) -> Error {
        Error::Start(format!(
            "{} is a data directory of etcd's own, and nothing in it was changed: {why}",
            self.data_dir.display()
        ))
    }
}

fn database_in(member: &Path) -> PathBuf {
    member.join("snap").join("db")
}

/// See [`adopt`]; for those who must not block.
///
/// # Errors
/// As [`adopt`].
pub(super) async fn adopted(config: Config) -> Result<Config, Error> {
    let adopting = tokio::task::spawn_blocking(move || adopt(&config).map(|()| config));
    adopting.await.map_err(|e| Error::Damaged(format!("start panicked: {e}")))?
}

/// Converts the directory that `config` names if etcd has written it, and says so; does nothing to any other. Blocks, for as long as it takes to read the
/// database twice and to write it once.
///
/// # Errors
/// [`Error::Start`] with what to do if it cannot be had; nothing was changed then. [`Error::Storage`] and [`Error::Damaged`] from the files.
fn adopt(config: &Config) -> Result<(), Error> {
    let places = Places::of(&config.data_dir);
    places.mend()?;
    if !places.holds_etcds_own() {
        return Ok(());
    }
    let found = Found::look(config, &places)?;
    tracing::info!(
        "data-dir" = %places.data_dir.display(),
        "db-size-bytes" = found.bytes,
        "keys-with-history" = found.rows,
        "consistent-index" = found.mark.index,
        "last-index" = found.last.0,
        "converting a data directory of etcd's own"
    );
    let made = found.make(config, &places);
    let revision = match made {
        Ok(revision) => revision,
        Err(why) => {
            // The failure itself is told; a rest that stays is removed at the next start.
            let _tried = fs::remove_dir_all(&places.new);
            return Err(places.refused(&why.to_string()));
        }
    };
    places.swap()?;
    tracing::info!(
        revision = %revision,
        "kept" = %places.kept.display(),
        "converted a data directory of etcd's own; delete what is kept once nobody wants to go back to it"
    );
    Ok(())
}

/// What an etcd has left.
struct Found {
    log: Replay,
    last: Index,
    /// The last note of the v2 store.
    note: Option<Note>,
    /// Up to where the database goes.
    mark: SnapshotMark,
    bytes: u64,
    rows: usize,
    /// etcd's own lock: no other process has the database while this is held.
    _lock: File,
}

/// What the database says of itself.
#[derive(Default)]
struct Told {
    index: Option<u64>,
    conf_state: Option<ConfState>,
    version: Option<String>,
    rows: usize,
}

impl Found {
    /// Looks whether all is there that a member needs. Writes nothing.
    fn look(config: &Config, places: &Places) -> Result<Found, Error> {
        let wal_dir = places.member.join("wal");
        if config.wal_dir() != wal_dir {
            return Err(places.refused(&format!(
                "only a log inside it is converted: move what is in {} to {} and start without --wal-dir",
                config.wal_dir().display(),
                wal_dir.display()
            )));
        }
        if places.kept.exists() {
            return Err(places.refused(&format!(
                "{} is there from an earlier conversion: move it away, or delete it",
                places.kept.display()
            )));
        }
        let database = places.database();
        let lock = lock(places, &database)?;
        if !wal::exists(&RealDisk, &wal_dir) {
            return Err(places.refused(&format!(
                "it has a database and no log, so nobody knows which member it is; make a new directory of {} with `etcdutl snapshot restore --skip-hash-check`",
                database.display()
            )));
        }
        let log = wal::read(&RealDisk, &wal_dir, None).map_err(|why| places.refused(&why.to_string()))?;
        let damaged = |why: Error| places.refused(&format!("{}: {why}", database.display()));
        let snapshot = image::Snapshot::new(RealDisk.open_to_read(&database)?).map_err(damaged)?;
        let reader = snapshot.into_reader().map_err(damaged)?;
        let told = Told::of(&reader).map_err(damaged)?;
        if let Some(version) = &told.version {
            image::check_form(version.as_bytes()).map_err(damaged)?;
        }
        let note = check_v2(places, &log)?;
        let (index, conf_state) = match (told.index, told.conf_state) {
            (Some(index), Some(conf_state)) => (index, conf_state),
            _ => return Err(places.refused("its database is of a release before etcd 3.5; start etcd 3.5 on it once")),
        };
        let last = Index(log.entries.last().map_or(log.start.index, |entry| entry.index));
        let Some(term) = term_at(&log, index) else {
            return Err(places.refused(&format!(
                "its database is the state at entry {index}, and its log goes from {} to {last}: one of them is from another time",
                log.start.index
            )));
        };
        check_room(places, reader.bytes(), &wal_dir)?;
        let mark = SnapshotMark { index, term, conf_state: Some(conf_state) };
        Ok(Found { log, last, note, mark, bytes: reader.bytes(), rows: told.rows, _lock: lock })
    }

    /// Makes the new folder, whole and durable.
    fn make(&self, config: &Config, places: &Places) -> Result<Revision, Error> {
        let new = &places.new;
        failpoint::hit(Point::AdoptBeforeMake);
        RealDisk.create_dir(new)?;
        let making =
            Making { cache_bytes: config.store_cache_bytes, cluster: self.log.metadata.cluster, limits: config.limits };
        let image = RealDisk.open_to_read(&places.database())?;
        let built = Built::make(&making, &new.join("store"), image, &self.mark, &self.attributes())?;
        let revision = built.machine.store().revision();
        drop(built);
        failpoint::hit(Point::AdoptAfterStore);
        // Entries of before are in another release's words; the store has what they did.
        image::save_base(&RealDisk, new, Index(self.mark.index))?;
        disk::copy_folder(&places.member.join("wal"), &new.join("wal"), &|name| name.ends_with(".wal"))?;
        disk::copy_folder(&places.member.join("snap"), &install::snap_dir(new), &|name| name.ends_with(".snap"))?;
        failpoint::hit(Point::AdoptBeforeFormat);
        disk::replace(&RealDisk, &new.join("format"), format!("{FORMAT}\n").as_bytes())?;
        RealDisk.sync_dir(&places.data_dir)?;
        Ok(revision)
    }
}

impl Found {
    /// What members have told of themselves, names and client URLs: up to 3.5 that is in the v2 store, so in its last note and in the log since, and
    /// in the database it is of none. What comes behind the mark is applied from the log.
    fn attributes(&self) -> Attributes {
        let (from, mut told) = self.note.as_ref().map(|note| (note.index(), note.attributes())).unwrap_or_default();
        let since = self.log.entries.iter().filter(|entry| entry.index > from.0 && entry.index <= self.mark.index);
        let normal = since.filter(|entry| entry.entry_type() == EntryType::EntryNormal);
        for set in normal.filter_map(|entry| apply::entry::read(&entry.data).ok()?.cluster_member_attr_set) {
            let about = set.member_attributes.unwrap_or_default();
            told.insert(MemberId(set.member_id), (about.name, about.client_urls));
        }
        told
    }
}

/// The room that the store and the copy of the log take: about what they take now.
fn check_room(places: &Places, database_bytes: u64, wal_dir: &Path) -> Result<(), Error> {
    let Some(free) = RealDisk.free(&places.data_dir) else { return Ok(()) };
    let names = RealDisk.list(wal_dir)?;
    let lengths = names.iter().map(|name| fs::metadata(wal_dir.join(name)).map(|about| about.len()));
    let needed = database_bytes + lengths.sum::<Result<u64, _>>()?;
    if needed <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(places.refused(&format!(
        "to convert it takes {} MiB beside it, and the disk has {}: make room, or move it to a larger disk",
        mib(needed),
        mib(free)
    )))
}

/// Looks for what only the v2 store of etcd before 3.6 has: keys in its last note, or written since; and for entries of later releases. The note, if
/// there is one: one that cannot be read may hold anything.
fn check_v2(places: &Places, log: &Replay) -> Result<Option<Note>, Error> {
    let mark = Index(log.snapshots.iter().map(|mark| mark.index).max().unwrap_or(log.start.index));
    let note = snap_file::newest(&RealDisk, &install::snap_dir(&places.member), mark).map_err(|why| {
        places.refused(&format!(
            "what its v2 store holds is not known: {why}; start the etcd that wrote it once more, which puts such a file aside, or move the file away"
        ))
    })?;
    let (noted, keys) = note.as_ref().map(|note| (note.index(), note.keys())).unwrap_or_default();
    if keys > 0 {
        return Err(places.refused(&format!(
            "its v2 store holds {keys} entries, which no etcd since 3.6 reads: move them to v3 keys, or delete them, with the etcd that wrote them"
        )));
    }
    let since = log.entries.iter().filter(|entry| entry.index > noted.0);
    for entry in since.filter(|entry| entry.entry_type() == EntryType::EntryNormal && !entry.data.is_empty()) {
        let strange = |why: &str| places.refused(&format!("its log's entry {} {why}", entry.index));
        let request = apply::entry::read(&entry.data).map_err(|_| {
            strange(
                "is of the v2 store or of a later release; start the etcd that wrote it, and have it take a snapshot",
            )
        })?;
        let version = request.cluster_version_set.as_ref().map(|set| set.ver.as_str());
        if version.and_then(Version::parse) > Some(Version::own()) {
            return Err(strange(&format!(
                "says that the cluster speaks {}, a later release's language",
                version.unwrap_or_default()
            )));
        }
        let (id, header) = (request.id, request.header.clone());
        if request == (pb::InternalRaftRequest { id, header, ..Default::default() }) {
            return Err(strange("asks for what only a later release knows"));
        }
    }
    Ok(note)
}

fn lock(places: &Places, database: &Path) -> Result<File, Error> {
    let file = File::options().read(true).write(true).open(database);
    let file = file.map_err(|e| places.refused(&format!("{}: {e}", database.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            Err(places.refused(&format!("{} is locked: another etcd runs in it, stop it first", database.display())))
        }
    }
}

/// The term of an entry that the log holds, or begins behind.
fn term_at(log: &Replay, index: u64) -> Option<u64> {
    let place = index.checked_sub(log.start.index)?;
    match usize::try_from(place).ok()?.checked_sub(1) {
        None => Some(log.start.term),
        Some(place) => log.entries.get(place).map(|entry| entry.term),
    }
}

impl Told {
    fn of(reader: &crate::bbolt::Reader) -> Result<Told, Error> {
        let (mut told, mut bucket) = (Told::default(), Vec::new());
        reader.walk(&mut |item| {
            match item {
                Item::Enter(name) => bucket = name.to_vec(),
                Item::Leave => bucket.clear(),
                Item::Row(..) if bucket == b"key" => told.rows += 1,
                Item::Row(key, value) if bucket == META => told.row(key, value)?,
                Item::Row(..) => {}
            }
            Ok(())
        })?;
        Ok(told)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key == apply::APPLIED {
            let index = value.try_into().map(u64::from_be_bytes);
            self.index =
                Some(index.map_err(|_| Error::Damaged("a database whose consistent_index is no number".into()))?);
        } else if key == apply::CONF_STATE {
            self.conf_state = Some(apply::read_conf_state(value)?);
        } else if key == STORAGE_VERSION {
            self.version = Some(String::from_utf8_lossy(value).into_owned());
        }
        Ok(())
    }
}
