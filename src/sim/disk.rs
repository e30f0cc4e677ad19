//! A disk that forgets what was not synced.
//!
//! Files and names are apart, as in a real file system: what was written lasts once the file was synced, what was created, renamed or deleted
//! once its directory was. When the power goes, each sector keeps some of its unsynced writes and loses those after them; of the unsynced
//! changes of names a beginning is kept, as a journal does.
//!
//! Left out: directories that are lost themselves (they last at once), and writes that never reach their place without a loss of power: nothing on
//! one disk can tell them from writes that were never made.

use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::error::Error;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What is to go wrong, and after how many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The power goes: this call and all after it fail.
    PowerLoss,
    /// A sync says no.
    SyncFails,
    /// There is no room for another byte. It lasts until [`SimDisk::make_room`].
    Full,
}

/// One member's disk; cheap to clone.
#[derive(Clone)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was synced; those of one call stand together.
    renames: Vec<Vec<(PathBuf, Option<u64>)>>,
    dirs: BTreeSet<PathBuf>,
    /// Calls until the trouble comes.
    trouble: Option<(u32, Trouble)>,
    /// The trouble has come.
    struck: Option<Trouble>,
    full: bool,
    /// Segments of the log that came and went.
    begun: u64,
    released: u64,
}

#[derive(Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync.
    changes: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Inode {
    /// What the platter holds after the power went: each sector as it was after some of the writes, the later ones being lost.
    fn after_power_loss(&mut self, dice: &mut StdRng) {
        let mut data = std::mem::take(&mut self.durable);
        let (mood, count) = (dice.random_range(0..3), self.changes.len());
        let mut draw = || match mood {
            0 => 0,
            1 => count,
            _ => dice.random_range(0..=count),
        };
        let kept_lens = draw();
        let mut kept: BTreeMap<usize, usize> = BTreeMap::new();
        for (number, change) in self.changes.drain(..).enumerate() {
            match change {
                Change::Len(len) if number < kept_lens => data.resize(len, 0),
                Change::Len(_) => {}
                Change::Write(offset, bytes) => {
                    let is_kept = |sector| number < *kept.entry(sector).or_insert_with(&mut draw);
                    put_sectors(&mut data, offset, &bytes, is_kept);
                }
            }
        }
        self.live.clone_from(&data);
        self.durable = data;
    }
}

/// Writes those sectors that are kept.
fn put_sectors(data: &mut Vec<u8>, offset: usize, bytes: &[u8], mut is_kept: impl FnMut(usize) -> bool) {
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + SECTOR - (offset + at) % SECTOR).min(bytes.len());
        if is_kept((offset + at) / SECTOR) {
            put(data, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

impl State {
    /// Counts a call; fails if it is the one.
    fn call(&mut self, what: &str) -> Result<(), Error> {
        if self.struck == Some(Trouble::PowerLoss) {
            return Err(Error::Storage("simulated: no power".into()));
        }
        if self.full && what == "grow" {
            self.struck = Some(Trouble::Full);
            return Err(Error::Storage("simulated: no space left".into()));
        }
        let Some((calls, trouble)) = &mut self.trouble else { return Ok(()) };
        *calls = calls.saturating_sub(1);
        let hits = match trouble {
            Trouble::PowerLoss => true,
            Trouble::SyncFails => what == "sync",
            Trouble::Full => what == "grow",
        };
        if *calls > 0 || !hits {
            return Ok(());
        }
        self.struck = Some(*trouble);
        self.full |= *trouble == Trouble::Full;
        Err(Error::Storage(format!("simulated: {trouble:?} at {what}")))
    }

    fn inode(&self, path: &Path) -> Result<u64, Error> {
        let missing = || Error::Storage(format!("{}: no such file", path.display()));
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn rename(&mut self, changes: Vec<(PathBuf, Option<u64>)>) {
        for (path, inode) in &changes {
            match inode {
                Some(inode) => drop(self.names.insert(path.clone(), *inode)),
                None => drop(self.names.remove(path)),
            }
        }
        self.renames.push(changes);
    }

    fn settle(&mut self, changes: Vec<(PathBuf, Option<u64>)>) {
        for (path, inode) in changes {
            match inode {
                Some(inode) => drop(self.durable_names.insert(path, inode)),
                None => drop(self.durable_names.remove(&path)),
            }
        }
    }
}

impl SimDisk {
    pub(super) fn new() -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renames: Vec::new(),
            dirs: BTreeSet::new(),
            trouble: None,
            struck: None,
            full: false,
            begun: 0,
            released: 0,
        })))
    }

    /// Orders trouble for the `calls`-th call from now.
    pub(super) fn order(&self, calls: u32, trouble: Trouble) {
        self.0.lock().trouble = Some((calls.max(1), trouble));
    }

    /// A full disk is full no more.
    pub(super) fn make_room(&self) {
        self.0.lock().full = false;
    }

    /// Whether nothing is wrong with it, nor about to be.
    pub(super) fn is_sound(&self) -> bool {
        let state = self.0.lock();
        state.trouble.is_none() && state.struck.is_none() && !state.full
    }

    /// The trouble that has come, if any.
    pub(super) fn struck(&self) -> Option<Trouble> {
        self.0.lock().struck
    }

    /// How many segments of a log were begun here after the first, and how many deleted.
    pub(super) fn segments(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.begun.saturating_sub(1), state.released)
    }

    /// The process ends; what it wrote stays with the operating system. Trouble is over.
    pub(super) fn process_ends(&self) {
        let mut state = self.0.lock();
        (state.trouble, state.struck) = (None, None);
    }

    /// The power goes and comes back.
    pub(super) fn lose_power(&self, dice: &mut StdRng) {
        let mut state = self.0.lock();
        (state.trouble, state.struck) = (None, None);
        let keep = dice.random_range(0..=state.renames.len());
        let changes = std::mem::take(&mut state.renames);
        changes.into_iter().take(keep).for_each(|group| state.settle(group));
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        state.inodes.values_mut().for_each(|inode| inode.after_power_loss(dice));
    }

    /// One sector holds what was written for another one, of the same file or another; false if there are no two that differ.
    pub(super) fn misdirect(&self, dice: &mut StdRng) -> bool {
        let mut state = self.0.lock();
        let mut sectors = Vec::new();
        for inode in state.names.values() {
            let Some(file) = state.inodes.get(inode).filter(|file| file.changes.is_empty()) else { return false };
            let written = file.durable.chunks_exact(SECTOR).enumerate();
            let written = written.filter(|(_, data)| data.iter().any(|byte| *byte != 0));
            sectors.extend(written.map(|(number, data)| (*inode, number * SECTOR, data.to_vec())));
        }
        if sectors.len() < 2 {
            return false;
        }
        let (inode, at, was) = sectors[dice.random_range(0..sectors.len())].clone();
        let (_, _, data) = &sectors[dice.random_range(0..sectors.len())];
        let Some(file) = state.inodes.get_mut(&inode).filter(|_| *data != was) else { return false };
        put(&mut file.durable, at, data);
        put(&mut file.live, at, data);
        true
    }

    /// Flips one bit of one file, somewhere in what was written; false if there is nothing to damage.
    pub(super) fn rot(&self, dice: &mut StdRng) -> bool {
        let mut state = self.0.lock();
        let files: Vec<u64> = state.names.values().copied().collect();
        let Some(inode) = files.get(dice.random_range(0..files.len().max(1))) else { return false };
        let Some(inode) = state.inodes.get_mut(inode) else { return false };
        let written = inode.durable.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if written == 0 || !inode.changes.is_empty() {
            return false;
        }
        let (at, bit) = (dice.random_range(0..written), dice.random_range(0..8));
        inode.durable[at] ^= 1 << bit;
        inode.live[at] ^= 1 << bit;
        true
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl SimFile {
    fn with<R>(&self, what: &str, work: impl FnOnce(&mut Inode) -> R) -> Result<R, Error> {
        let mut state = self.disk.0.lock();
        state.call(what)?;
        let gone = || Error::Storage("simulated: the file is gone".into());
        state.inodes.get_mut(&self.inode).map(work).ok_or_else(gone)
    }

    fn grows(&self, to: usize) -> bool {
        self.disk.0.lock().inodes.get(&self.inode).is_none_or(|inode| to > inode.live.len())
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "wal")
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

impl DiskFile for SimFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let offset = place(offset);
        let what = if self.grows(offset + data.len()) { "grow" } else { "write" };
        let had_power = self.disk.struck() != Some(Trouble::PowerLoss);
        let write = |inode: &mut Inode| {
            put(&mut inode.live, offset, data);
            inode.changes.push(Change::Write(offset, data.to_vec()));
        };
        let result = self.with(what, write);
        // The power goes in the middle of this write: some of it may be on the platter.
        if had_power
            && self.disk.struck() == Some(Trouble::PowerLoss)
            && let Some(inode) = self.disk.0.lock().inodes.get_mut(&self.inode)
        {
            write(inode);
        }
        result
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let offset = place(offset);
        self.with("read", |inode| {
            let from = offset.min(inode.live.len());
            let count = into.len().min(inode.live.len() - from);
            into[..count].copy_from_slice(&inode.live[from..from + count]);
            count
        })
    }

    fn len(&self) -> Result<u64, Error> {
        self.with("len", |inode| inode.live.len() as u64)
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        let len = place(len);
        let what = if self.grows(len) { "grow" } else { "cut" };
        self.with(what, |inode| {
            inode.live.resize(len, 0);
            inode.changes.push(Change::Len(len));
        })
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.with("sync", |inode| {
            for change in inode.changes.drain(..) {
                match change {
                    Change::Write(offset, bytes) => put(&mut inode.durable, offset, &bytes),
                    Change::Len(len) => inode.durable.resize(len, 0),
                }
            }
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let mut state = self.0.lock();
        state.call("open")?;
        let inode = state.inode(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let mut state = self.0.lock();
        state.call("grow")?;
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.rename(vec![(path.to_owned(), Some(inode))]);
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let mut state = self.0.lock();
        state.call("list")?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(inside.filter_map(name).collect())
    }

    fn create_dir(&self, dir: &Path) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.call("grow")?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.call("rename")?;
        let inode = state.inode(from)?;
        state.begun += u64::from(is_segment(to));
        state.rename(vec![(to.to_owned(), Some(inode)), (from.to_owned(), None)]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.call("remove")?;
        state.inode(path)?;
        state.released += u64::from(is_segment(path));
        state.rename(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.call("sync")?;
        let here = |group: &Vec<(PathBuf, Option<u64>)>| group.iter().all(|(path, _)| path.parent() == Some(dir));
        let (settled, rest) = std::mem::take(&mut state.renames).into_iter().partition(here);
        state.renames = rest;
        let settled: Vec<Vec<_>> = settled;
        settled.into_iter().for_each(|group| state.settle(group));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.lock();
        state.names.contains_key(path) || state.dirs.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
        let mut data = vec![0; 4096];
        let len = disk.open(path).expect("there").read_at(0, &mut data).expect("readable");
        data.truncate(len);
        data
    }

    #[test]
    fn what_was_synced_lasts_and_the_rest_may_go() {
        let (dir, path) = (Path::new("/d"), Path::new("/d/f"));
        let (mut kept, mut lost, mut nameless) = (0, 0, 0);
        for seed in 0..100 {
            let (disk, mut dice) = (SimDisk::new(), StdRng::seed_from_u64(seed));
            let mut file = disk.create(path).expect("created");
            file.write_at(0, &[1; 600]).expect("written");
            file.sync().expect("synced");
            if seed % 2 == 0 {
                disk.sync_dir(dir).expect("synced");
            }
            file.write_at(600, &[2; 600]).expect("written");
            disk.lose_power(&mut dice);
            if !disk.exists(path) {
                assert!(seed % 2 == 1, "its name was synced");
                nameless += 1;
                continue;
            }
            let data = read(&disk, path);
            assert_eq!(data[..600], [1; 600]);
            kept += u32::from(data.len() == 1200 && data[600..].iter().all(|byte| *byte == 2));
            lost += u32::from(data.len() == 600);
        }
        assert!(kept > 10 && lost > 10 && nameless > 10, "{kept} {lost} {nameless}");
    }

    #[test]
    fn trouble_comes_when_it_was_ordered() {
        let disk = SimDisk::new();
        let mut file = disk.create(Path::new("/d/f")).expect("created");
        disk.order(2, Trouble::SyncFails);
        file.write_at(0, &[1]).expect("no sync yet");
        file.write_at(0, &[1]).expect("no sync yet");
        assert!(file.sync().is_err());
        assert_eq!(disk.struck(), Some(Trouble::SyncFails));
        disk.process_ends();
        disk.order(1, Trouble::PowerLoss);
        assert!(file.write_at(0, &[1]).is_err() && file.sync().is_err());
    }
}
