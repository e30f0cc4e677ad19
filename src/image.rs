//! The image of a member: all of its state as one etcd snapshot file.
//!
//! One form for everybody who wants the whole state: `etcdctl snapshot save` and `etcdutl`, and a follower that is too far behind for
//! the log. [`write()`] makes a file out of a [`Machine`] while it goes on working; [`import`] fills an empty engine from a file, ours
//! or etcd's.
//!
//! ```text
//! Machine ─ freeze ─▶ small tables ┐                        ┌▶ Lease, Auth … as they are
//!                     history ─────┴▶ one sorted pass ─▶ file ─▶ blocks of history
//! ```
//!
//! A file that a client saved has 32 bytes more than the database: the SHA-256 of it. Source: contract-server 6.7 and 8.2; etcd
//! `etcdutl/snapshot/v3_snapshot.go`.

use crate::apply::APPLIED;
use crate::apply::BATCH_BYTES;
use crate::apply::Machine;
use crate::apply::image::Frozen;
use crate::apply::image::position;
use crate::bbolt::Item;
use crate::bbolt::Reader;
use crate::bbolt::Writer;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Memory;
use crate::engine::Row;
use crate::engine::Table;
use crate::error::Error;
use crate::lease;
use crate::membership::Member;
use crate::membership::Members;
use crate::mvcc::Import;
use crate::mvcc::Loaded;
use crate::proto::raftpb::ConfState;
use crate::proto::walpb::Snapshot as Mark;
use crate::types::ClusterId;
use crate::types::ETCD_VERSION;
use crate::types::Index;
use crate::types::Revision;
use crate::types::Term;
use bytes::Bytes;
use parking_lot::RwLock;
use sha2::Digest;
use sha2::Sha256;
use snap_file::Attributes;
use std::path::Path;

pub mod snap_file;
#[cfg(test)]
mod tests;

/// How long the checksum behind a saved database is.
pub const CHECKSUM_BYTES: usize = 32;

/// Databases are made of whole sectors, so what is left of a file's length tells whether a checksum follows.
const SECTOR_BYTES: u64 = 512;

/// How much is read at a time to compute a checksum.
const CHUNK_BYTES: usize = 1 << 20;

/// Writes what was frozen into an empty file; returns the database's size. Takes the machine's lock for about a millisecond at a time; memory
/// does not grow with the store. Does not sync.
///
/// # Errors
/// [`Error::Storage`] from the file or the engine, [`Error::Damaged`] from the engine.
pub fn write(machine: &RwLock<Machine>, frozen: Frozen, file: &mut dyn DiskFile) -> Result<u64, Error> {
    let Frozen { rows, mut history, .. } = frozen;
    let mut writer = Writer::new(file);
    for table in Table::ALL {
        writer.bucket(table.name().as_bytes())?;
        if table != Table::Key {
            for (key, value) in rows.rows_of(table) {
                writer.put(key, value.map_or(&[][..], |value| &value[..]))?;
            }
            continue;
        }
        let mut address = Vec::with_capacity(18);
        while machine.read().store().export_more(&mut history) {
            let mut rows = history.load()?;
            machine.read().store().export_live(&history, &mut rows);
            for (_, row) in &rows {
                row.key(&mut address);
                writer.put(&address, &row.value)?;
            }
        }
    }
    writer.finish()
}

/// The name of the file in a member's folder that says up to which index the log alone does not give the state: what came before is from a
/// snapshot, and only the store has it.
const BASE_FILE: &str = "base";

/// Notes that the state up to `index` is in the store and not in the log.
///
/// # Errors
/// [`Error::Storage`].
pub fn save_base(disk: &dyn Disk, member: &Path, index: Index) -> Result<(), Error> {
    let mut file = disk.create(&member.join(BASE_FILE))?;
    file.write_at(0, format!("{index}\n").as_bytes())?;
    file.sync()
}

/// Up to which index the log alone does not give the state: 0 for a member that was never restored.
///
/// # Errors
/// [`Error::Storage`]; [`Error::Damaged`] if nobody can tell.
pub fn read_base(disk: &dyn Disk, member: &Path) -> Result<Index, Error> {
    let path = member.join(BASE_FILE);
    if !disk.exists(&path) {
        return Ok(Index(0));
    }
    let mut bytes = [0; 32];
    let read = disk.open(&path)?.read_at(0, &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..read]).trim().parse();
    text.map(Index).map_err(|_| Error::Damaged(format!("{}: no number", path.display())))
}

/// A snapshot file, open for reading.
pub struct Snapshot {
    file: Box<dyn DiskFile>,
    /// Without the checksum.
    bytes: u64,
    has_checksum: bool,
}

impl Snapshot {
    /// Takes a file that may be a snapshot.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn new(file: Box<dyn DiskFile>) -> Result<Snapshot, Error> {
        let len = file.len()?;
        let has_checksum = len % SECTOR_BYTES == CHECKSUM_BYTES as u64;
        Ok(Snapshot { file, bytes: if has_checksum { len - CHECKSUM_BYTES as u64 } else { len }, has_checksum })
    }

    /// Whether a checksum follows the database: so with every file that a client saved, and not with one copied from a member's directory.
    #[must_use]
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// Compares the checksum with what is there, if the file has one.
    ///
    /// # Errors
    /// [`Error::Damaged`] with both, in etcd's words; [`Error::Storage`].
    pub fn verify(&self) -> Result<(), Error> {
        if !self.has_checksum {
            return Ok(());
        }
        let (mut hash, mut at, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
        while at < self.bytes {
            let want = usize::try_from(self.bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let read = self.file.read_at(at, &mut chunk[..want])?;
            if read == 0 {
                return Err(Error::Damaged("the file ended while it was read".into()));
            }
            hash.update(&chunk[..read]);
            at += read as u64;
        }
        let mut told = [0; CHECKSUM_BYTES];
        self.file.read_at(self.bytes, &mut told)?;
        let found: [u8; CHECKSUM_BYTES] = hash.finalize().into();
        if told == found {
            return Ok(());
        }
        Err(Error::Damaged(format!("expected sha256 {}, got {}", go_list(&told), go_list(&found))))
    }

    /// The database in it.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn into_reader(self) -> Result<Reader, Error> {
        Reader::open(self.file, self.bytes)
    }
}

/// Bytes as Go prints them.
fn go_list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

/// Writes to the engine whatever was collected, if it is enough.
fn write_full(engine: &dyn Engine, batch: &mut Batch) -> Result<(), Error> {
    if batch.bytes() < BATCH_BYTES {
        return Ok(());
    }
    engine.write(&std::mem::take(batch))
}

/// Fills an empty engine from a database: keys with their history, leases, users, roles, alarms. Members, the version that they agreed on and raft's
/// position are those of the cluster that the image was taken from; they are left out, and come with `own`. `bump` raises the
/// revision by so much and marks all below it as compacted. Returns the revision.
///
/// # Errors
/// [`Error::Damaged`] with the reason if this is no image of a member, [`Error::Storage`]. The engine is of no use then.
pub fn import(reader: &Reader, engine: &dyn Engine, own: Batch, bump: u64) -> Result<Revision, Error> {
    fill(reader, engine, own, bump, Import::default(), None).map(|(revision, _)| revision)
}

/// See [`fill_from`].
///
/// # Errors
/// As [`import`].
fn install(reader: &Reader, engine: &dyn Engine, mark: &Mark, history: Import) -> Result<Option<Loaded>, Error> {
    let conf_state = mark.conf_state.clone().unwrap_or_default();
    let own = position(Index(mark.index), Term(mark.term), &conf_state);
    let (_, loaded) = fill(reader, engine, own, 0, history, Some(mark))?;
    tell_learners(engine, &conf_state)?;
    Ok(loaded)
}

/// Fills an empty engine with the state of a member of the cluster that the image was taken from: members and version come along, and the position is
/// `mark`; the database's own may be a little behind. Returns what [`Machine::of`] needs, so that nothing is read again.
///
/// # Errors
/// As [`import`].
pub fn fill_from(reader: &Reader, engine: &dyn Engine, mark: &Mark) -> Result<Loaded, Error> {
    let loaded = install(reader, engine, mark, Import::indexed())?;
    Ok(loaded.expect("an indexed import has an index"))
}

/// Makes the members' rows say who is a learner as raft has it. etcd before 3.5.20 does not write a promotion into its database (#19557): a
/// voter would be a learner here for ever.
fn tell_learners(engine: &dyn Engine, conf_state: &ConfState) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (key, row) in engine.scan(Table::Members, &[], usize::MAX)? {
        let mut member = Member::from_json(&row)?;
        let (voter, learner) = (conf_state.voters.contains(&member.id.0), conf_state.learners.contains(&member.id.0));
        if (voter || learner) && member.is_learner != learner {
            member.is_learner = learner;
            batch.put(Table::Members, key, member.to_json());
        }
    }
    engine.write(&batch)
}

/// Gives members what they have told of themselves, if their rows have no client URLs: etcd up to 3.5 keeps those in its v2 store only.
pub fn tell_attributes(engine: &dyn Engine, told: &Attributes) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (key, row) in engine.scan(Table::Members, &[], usize::MAX)? {
        let mut member = Member::from_json(&row)?;
        if let Some((name, urls)) = told.get(&member.id).filter(|_| member.client_urls.is_empty()) {
            (member.name, member.client_urls) = (name.clone(), urls.clone());
            batch.put(Table::Members, key, member.to_json());
        }
    }
    engine.write(&batch)
}

/// Reads an image to its end without keeping it: whether it is one, and whose members it has.
///
/// # Errors
/// As [`import`].
pub fn check(reader: &Reader, mark: &Mark, cluster: ClusterId) -> Result<(Members, Option<String>), Error> {
    let small = Small::default();
    install(reader, &small, mark, Import::default())?;
    let version = small.0.get(Table::Cluster, b"clusterVersion")?;
    Ok((Members::load(&small.0, cluster)?, version.map(|version| String::from_utf8_lossy(&version).into_owned())))
}

/// An engine that keeps everything but the keys.
#[derive(Default)]
struct Small(Memory);

impl Engine for Small {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        self.0.scan(table, from, limit)
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        let mut kept = Batch::default();
        for (table, key, value) in batch.rows().filter(|(table, ..)| *table != Table::Key) {
            match value {
                Some(value) => kept.put(table, key.clone(), value.clone()),
                None => kept.delete(table, key.clone()),
            }
        }
        self.0.write(&kept)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Row of etcd's bucket `meta`, from 3.6 on: the release whose form the data has.
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// Refuses what a later release wrote: nobody here knows what is in it.
///
/// # Errors
/// [`Error::Damaged`].
pub fn check_form(version: &[u8]) -> Result<(), Error> {
    let minor = |text: &str| -> Option<(u32, u32)> {
        let mut numbers = text.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let text = String::from_utf8_lossy(version);
    if minor(&text).is_some_and(|theirs| Some(theirs) <= minor(ETCD_VERSION)) {
        return Ok(());
    }
    Err(Error::Damaged(format!(
        "the data has the form of etcd {text}, and this is {ETCD_VERSION}: it knows its own form and older ones"
    )))
}

/// How far an image may be behind the entry that its sender says it has. Ours and etcd's since 3.5 are where they say; before, only what changed a
/// key moved a database's index. So many entries without a key are unlikely, and a wrong image is not.
const BEHIND_MAX: u64 = 100_000;

/// Refuses an image that says of itself that it is another state than the sender says: it would be another state than the other members'.
fn check_index(told: &[u8], mark: &Mark) -> Result<(), Error> {
    let at = told.try_into().map(u64::from_be_bytes);
    let at = at.map_err(|_| Error::Damaged("a database whose consistent_index is no number".into()))?;
    if at <= mark.index && mark.index - at <= BEHIND_MAX {
        return Ok(());
    }
    Err(Error::Damaged(format!(
        "the database is the state at entry {at}, and was sent as that at entry {}",
        mark.index
    )))
}

/// With `whose`, members and versions of the image are kept, and its index must go with that mark.
fn fill(
    reader: &Reader,
    engine: &dyn Engine,
    own: Batch,
    bump: u64,
    mut history: Import,
    whose: Option<&Mark>,
) -> Result<(Revision, Option<Loaded>), Error> {
    let (mut batch, mut marks) = (Batch::default(), Vec::new());
    let (mut path, mut has_keys): (Vec<Option<Table>>, bool) = (Vec::new(), false);
    reader.walk(&mut |item| {
        match item {
            Item::Enter(name) => {
                // A bucket that we do not know, at the top or inside another, is passed over.
                let known = Table::ALL.into_iter().find(|table| path.is_empty() && table.name().as_bytes() == name);
                has_keys |= known == Some(Table::Key);
                path.push(known);
            }
            Item::Leave => drop(path.pop()),
            Item::Row(key, value) => match path.last().copied().flatten() {
                Some(Table::Key) => history.row(key, value, &mut batch)?,
                Some(Table::Meta) if Import::is_mark(key) => {
                    marks.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
                Some(Table::Meta) if key == STORAGE_VERSION => check_form(value)?,
                Some(Table::Meta) if key == APPLIED => {
                    whose.map_or(Ok(()), |mark| check_index(value, mark))?;
                }
                None | Some(Table::Meta) => {}
                Some(Table::Cluster | Table::Members | Table::MembersRemoved) if whose.is_none() => {}
                Some(table) => batch.put(table, key.to_vec(), value.to_vec()),
            },
        }
        write_full(engine, &mut batch)
    })?;
    if !has_keys {
        return Err(Error::Damaged("a database without a bucket \"key\" is no snapshot of etcd".into()));
    }
    let finished = history.finish(&marks, bump, &mut batch)?;
    engine.write(&batch)?;
    lease::Table::load(engine)?;
    engine.write(&own)?;
    Ok(finished)
}
