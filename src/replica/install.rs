//! How a member's state is replaced by another member's: which file counts at which moment.
//!
//! An image comes in, is kept under its index, is accepted by raft, and becomes a new store beside the old one. One small file, the *manifest*,
//! says which store is the member's and which image is to become its next one; nothing else in the directory counts, and a start deletes it.
//!
//! ```text
//! snap/tmp…        ──fsync, rename, fsync dir──▶ snap/<index>.snap.db                        (Intake)
//! manifest:  store ──raft accepts───────────▶ store + image ── then the log's mark, synced   (accept)
//! store-<index>    ◀─ filled from the image, synced
//! manifest:  store-<index>                                                                   (complete)
//! ```
//!
//! The manifest is replaced by a rename, so each line above is one step that is either done or not. Between `accept` and the log's mark the
//! log may not know of the image: then the old store still goes with it, and the image is dropped. After the mark the image must be there, and is.
//! Source: etcd `server/etcdserver/api/snap/db.go`, and its issues 11888, 12492, 14569, where file, log and name were three truths.

use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::raftpb::ConfState;
use crate::proto::walpb::Snapshot as Mark;
use crate::replica::start::Held;
use crate::types::Index;
use crate::types::Term;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// The manifest's name in a member's folder.
const FILE: &str = "manifest";
/// The largest manifest: a few numbers, and the ids of the voters.
const FILE_BYTES_MAX: usize = 64 << 10;
/// The version of its form.
const VERSION: u32 = 1;
/// Where images and etcd's snapshot files are.
const SNAP_DIR: &str = "snap";
/// What a store is called before any snapshot was installed, and what all are called first.
const STORE: &str = "store";

/// What is valid in a member's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The folder of the store.
    store: String,
    /// The image that the next store is made from.
    image: Option<Image>,
}

/// An image that was accepted: the state up to an index, and who voted then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
}

impl Image {
    fn of(mark: &Mark) -> Image {
        let state = mark.conf_state.clone().unwrap_or_default();
        Image { index: mark.index, term: mark.term, voters: state.voters, learners: state.learners }
    }

    fn mark(&self) -> Mark {
        let (voters, learners) = (self.voters.clone(), self.learners.clone());
        let conf_state = Some(ConfState { voters, learners, ..ConfState::default() });
        Mark { index: self.index, term: self.term, conf_state }
    }
}

impl Default for Manifest {
    fn default() -> Manifest {
        Manifest { version: VERSION, store: STORE.into(), image: None }
    }
}

impl Manifest {
    /// Reads the manifest of a member's folder; without one, that of a member that never installed a snapshot.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be read or is newer than this release; [`Error::Damaged`] if it says nothing.
    pub fn load(disk: &dyn Disk, member: &Path) -> Result<Manifest, Error> {
        let path = member.join(FILE);
        if !disk.exists(&path) {
            return Ok(Manifest::default());
        }
        let mut bytes = vec![0; FILE_BYTES_MAX];
        let read = disk.open(&path)?.read_at(0, &mut bytes)?;
        let damaged = |why: &str| Error::Damaged(format!("{}: {why}", path.display()));
        let text = std::str::from_utf8(&bytes[..read]).map_err(|_| damaged("no text"))?;
        let (body, sum) = text.trim_end().split_once('\n').ok_or_else(|| damaged("cut short"))?;
        if sum != checksum(body) {
            return Err(damaged("its checksum is wrong"));
        }
        let manifest: Manifest = serde_json::from_str(body).map_err(|e| damaged(&e.to_string()))?;
        if manifest.version > VERSION {
            let (found, known) = (manifest.version, VERSION);
            return Err(Error::Storage(format!(
                "{}: version {found} is newer than this release, which knows {known}",
                path.display()
            )));
        }
        Ok(manifest)
    }

    /// Puts this manifest in the place of the one before, durably and at once.
    ///
    /// # Errors
    /// [`Error::Storage`]; one of the two is there.
    pub fn save(&self, disk: &dyn Disk, member: &Path) -> Result<(), Error> {
        let body = serde_json::to_string(self).expect("numbers and names only");
        disk::replace(disk, &member.join(FILE), format!("{body}\n{}\n", checksum(&body)).as_bytes())
    }

    /// The folder of the store.
    #[must_use]
    pub fn store_dir(&self, member: &Path) -> PathBuf {
        member.join(&self.store)
    }

    /// The image that the next store is made from, if one was accepted.
    #[must_use]
    pub fn image(&self) -> Option<Mark> {
        self.image.as_ref().map(Image::mark)
    }

    /// The manifest of a member whose store is the one of this name, see [`stores`].
    #[must_use]
    pub fn of_store(name: String) -> Manifest {
        Manifest { store: name, ..Manifest::default() }
    }

    /// A manifest of a store that is yet to be made: whatever there is does not count any more.
    #[must_use]
    pub fn anew(mark: &Mark) -> Manifest {
        Manifest { image: Some(Image::of(mark)), ..Manifest::default() }
    }
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32c::crc32c(body.as_bytes()))
}

/// Where images and etcd's snapshot files are.
#[must_use]
pub fn snap_dir(member: &Path) -> PathBuf {
    member.join(SNAP_DIR)
}

/// Where the image of the state at `index` is; named as etcd names it.
#[must_use]
pub fn image_path(member: &Path, index: u64) -> PathBuf {
    snap_dir(member).join(format!("{index:016x}.snap.db"))
}

/// An image that arrives. Dropped before [`Intake::keep`], it leaves nothing behind.
pub struct Intake {
    disk: Arc<dyn Disk>,
    member: PathBuf,
    temporary: Option<PathBuf>,
    file: Box<dyn DiskFile>,
    bytes: u64,
}

impl Intake {
    /// Begins an empty file. No two that live at once may have the same `number`.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn begin(disk: Arc<dyn Disk>, member: &Path, number: u64) -> Result<Intake, Error> {
        disk.create_dir(&snap_dir(member))?;
        let path = snap_dir(member).join(format!("tmp{number}"));
        let file = disk.create(&path)?;
        Ok(Intake { disk, member: member.to_owned(), temporary: Some(path), file, bytes: 0 })
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// [`Error::Storage`], a full disk among them: the image is lost, the member goes on.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.file.write_at(self.bytes, piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// How many bytes have come.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The image so far, to be checked.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn open(&self) -> Result<Box<dyn DiskFile>, Error> {
        let path = self.temporary.as_ref().expect("there until it is kept");
        self.disk.open(path)
    }

    /// Makes the image durable under its name. It does not count before the manifest names it.
    ///
    /// # Errors
    /// As [`Intake::write`].
    pub fn keep(mut self, index: u64) -> Result<(), Error> {
        failpoint::hit(Point::SnapBeforeKeep);
        self.file.sync()?;
        let path = self.temporary.as_ref().expect("there until it is kept");
        self.disk.rename(path, &image_path(&self.member, index))?;
        self.temporary = None;
        self.disk.sync_dir(&snap_dir(&self.member))?;
        self.disk.sync_dir(&self.member)?;
        failpoint::hit(Point::SnapAfterKeep);
        Ok(())
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take() {
            // What cannot be removed now goes with the next start.
            let _left = self.disk.remove(&path);
        }
    }
}

/// The manifest of a member that runs, and the images that its state machine has yet to install.
pub struct Installs {
    disk: Arc<dyn Disk>,
    member: PathBuf,
    manifest: Manifest,
    pending: BTreeSet<u64>,
}

/// How stores are made and unmade; on disk, or simulated.
pub trait Stores {
    /// Makes a store in `dir` out of an image, durably, with `mark` as its position. What a crash left there goes first.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Damaged`] if it is no image.
    fn build(&mut self, dir: &Path, image: &Path, mark: &Mark) -> Result<(), Error>;

    /// The store in `dir` is not the member's any more; it may be in use still.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn retire(&mut self, dir: &Path) -> Result<(), Error>;
}

impl Installs {
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, member: &Path, manifest: Manifest) -> Installs {
        Installs { disk, member: member.to_owned(), manifest, pending: BTreeSet::new() }
    }

    /// raft has accepted the snapshot at `mark`, whose image is kept: from now on a start makes its store from it, if the log says so.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`Error::Damaged`] if the image is not there.
    pub fn accept(&mut self, mark: &Mark) -> Result<(), Error> {
        let path = image_path(&self.member, mark.index);
        if !self.disk.exists(&path) {
            return Err(Error::Damaged(format!("{}: the image of an accepted snapshot is gone", path.display())));
        }
        let next = Manifest { image: Some(Image::of(mark)), ..self.manifest.clone() };
        if !is_planted(Bug::SnapshotInTwoSteps) {
            next.save(&*self.disk, &self.member)?;
        }
        self.manifest = next;
        self.pending.insert(mark.index);
        Ok(())
    }

    /// Where the store made from an image of `index` is.
    #[must_use]
    pub fn next_store(&self, index: u64) -> PathBuf {
        self.member.join(format!("{STORE}-{index:016x}"))
    }

    /// The image of `mark` has become the store at [`Installs::next_store`], durably: from now on that is the member's. A newer image that was
    /// accepted meanwhile stays to be installed.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn complete(&mut self, mark: &Mark) -> Result<(), Error> {
        let store = self.next_store(mark.index).file_name().map(|name| name.to_string_lossy().into_owned());
        let image = self.manifest.image.clone().filter(|image| image.index > mark.index);
        let next = Manifest { version: VERSION, store: store.expect("a name"), image };
        next.save(&*self.disk, &self.member)?;
        failpoint::hit(Point::SnapAfterComplete);
        self.manifest = next;
        self.pending.remove(&mark.index);
        let path = image_path(&self.member, mark.index);
        if self.disk.exists(&path) {
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    /// The image is not to be installed: the log never came to know of it.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn forget(&mut self) -> Result<(), Error> {
        let next = Manifest { image: None, ..self.manifest.clone() };
        next.save(&*self.disk, &self.member)?;
        self.manifest = next;
        Ok(())
    }

    /// What is valid now.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the image of `index` was accepted and is not the member's store yet.
    #[must_use]
    pub fn is_pending(&self, index: u64) -> bool {
        self.pending.contains(&index)
    }

    /// Deletes the images that nothing names: of snapshots that raft had no use for, and what a crash left.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn tidy(&self) -> Result<(), Error> {
        let dir = snap_dir(&self.member);
        if !self.disk.exists(&dir) {
            return Ok(());
        }
        let named = self.manifest.image.iter().map(|image| image.index);
        let kept: BTreeSet<PathBuf> =
            named.chain(self.pending.iter().copied()).map(|index| image_path(&self.member, index)).collect();
        for name in self.disk.list(&dir)? {
            let path = dir.join(&name);
            let is_image = name.ends_with(".snap.db") || name.starts_with("tmp");
            if is_image && !kept.contains(&path) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Which names in the member's folder are stores that do not count.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn strays(&self) -> Result<Vec<PathBuf>, Error> {
        let is_store = |name: &&String| name.starts_with(&format!("{STORE}-")) || *name == STORE || is_beside(name);
        let names = self.disk.list(&self.member)?;
        let ours =
            |name: &&String| **name == self.manifest.store || name.starts_with(&format!("{}.", self.manifest.store));
        Ok(names.iter().filter(is_store).filter(|name| !ours(name)).map(|name| self.member.join(name)).collect())
    }
}

/// Whether this is what defragmenting a store leaves beside it.
fn is_beside(name: &str) -> bool {
    matches!(name, "store.fresh" | "store.old")
}

/// The names of all stores in a member's folder, whichever counts. One that a stop has caught while it was written afresh is there under its old name.
///
/// # Errors
/// [`Error::Storage`].
pub fn stores(disk: &dyn Disk, member: &Path) -> Result<BTreeSet<String>, Error> {
    let is_store = |name: &&str| *name == STORE || name.strip_prefix(STORE).is_some_and(|rest| rest.starts_with('-'));
    let names = disk.list(member)?;
    let whole = names.iter().map(|name| name.strip_suffix(".old").unwrap_or(name)).filter(|name| !name.contains('.'));
    Ok(whole.filter(is_store).map(str::to_owned).collect())
}

/// Carries out what was accepted: the store is made from the image, and then it is the member's. Every step can be done again, so a crash
/// anywhere costs time only.
///
/// # Errors
/// [`Error::Storage`]: the member must stop, and its next start goes on. [`Error::Damaged`] if the image is none.
pub fn carry_out(installs: &Mutex<Installs>, mark: &Mark, stores: &mut impl Stores) -> Result<(), Error> {
    let (dir, image, old) = {
        let installs = installs.lock();
        let old = installs.manifest.store_dir(&installs.member);
        (installs.next_store(mark.index), image_path(&installs.member, mark.index), old)
    };
    // Takes long, so without the lock: raft may accept the next one meanwhile.
    failpoint::hit(Point::ApplyBeforeOpenSnapshot);
    stores.build(&dir, &image, mark)?;
    failpoint::hit(Point::ApplyAfterOpenSnapshot);
    installs.lock().complete(mark)?;
    if old != dir { stores.retire(&old) } else { Ok(()) }
}

/// What a start does first: carries out an install that a stop has interrupted, or forgets it if the log had not come to know of it; then deletes what
/// does not count. Returns why an image was of no use.
///
/// # Errors
/// [`Error::Storage`].
pub fn settle(installs: &Mutex<Installs>, held: &Held, stores: &mut impl Stores) -> Result<Option<String>, Error> {
    let mut trouble = None;
    let accepted = installs.lock().manifest().image();
    if let Some(mark) = accepted {
        let index = Index(mark.index);
        if held.knows(index, Term(mark.term)) && index >= held.goes_on_from() {
            match carry_out(installs, &mark, stores) {
                Ok(()) => {}
                Err(Error::Damaged(why)) => trouble = Some(why),
                Err(why) => return Err(why),
            }
        } else {
            installs.lock().forget()?;
        }
    }
    let installs = installs.lock();
    for stray in installs.strays()? {
        stores.retire(&stray)?;
    }
    installs.tidy()?;
    Ok(trouble)
}
