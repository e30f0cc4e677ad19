//! For tests: a disk in memory whose power goes at a chosen call.
//!
//! Contents and names are apart, as on a real one: a write lasts once its file was synced, a new name once its directory was. What was not synced by
//! then is there afterwards, or not, by [`After`].

use super::Disk;
use super::DiskFile;
use crate::error::Error;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// What a loss of power leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Nothing,
    /// All of it: as after `kill -9`.
    All,
    /// New names, but not what was written: empty files where there were none.
    Names,
    /// What was written, but no new names.
    Contents,
}

impl After {
    pub(crate) const EACH: [After; 4] = [After::Nothing, After::All, After::Names, After::Contents];
}

/// The disk; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct CutDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, File>,
    next: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dirs: Vec<PathBuf>,
    /// Calls that change something, so far.
    calls: usize,
    /// After so many of them the power goes.
    cut_at: Option<usize>,
    /// The next sync of a file says no.
    sync_fails: bool,
}

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What the next sync has to write.
    dirty: Vec<Range<usize>>,
}

impl File {
    fn resize(&mut self, len: usize) {
        if len < self.live.len() {
            self.dirty.push(len..self.live.len());
        }
        self.live.resize(len, 0);
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for range in self.dirty.drain(..) {
            let range = range.start.min(self.live.len())..range.end.min(self.live.len());
            self.durable[range.clone()].copy_from_slice(&self.live[range]);
        }
    }
}

struct Open {
    disk: CutDisk,
    file: u64,
}

impl CutDisk {
    /// Lets the power go at the call of this number from now on, counted from 0; each call after it fails, too.
    pub(crate) fn cut_after(&self, calls: usize) {
        let mut state = self.0.lock();
        state.cut_at = Some(state.calls + calls);
    }

    /// Lets the next sync of a file fail. What it should have written can be read still, and no later sync knows of it: so do file systems of Linux.
    pub(crate) fn fail_next_sync(&self) {
        self.0.lock().sync_fails = true;
    }

    /// How many calls that change something there have been.
    pub(crate) fn calls(&self) -> usize {
        self.0.lock().calls
    }

    /// The disk as the next start finds it.
    pub(crate) fn after(&self, what: After) -> CutDisk {
        let mut state = self.0.lock().clone();
        (state.cut_at, state.calls) = (None, 0);
        if matches!(what, After::Nothing | After::Names) {
            state.files.values_mut().for_each(|file| file.live.clone_from(&file.durable));
        }
        if matches!(what, After::Nothing | After::Contents) {
            state.names.clone_from(&state.durable_names);
        }
        for file in state.files.values_mut() {
            file.durable.clone_from(&file.live);
            file.dirty.clear();
        }
        state.durable_names.clone_from(&state.names);
        CutDisk(Arc::new(Mutex::new(state)))
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> Result<R, Error>) -> Result<R, Error> {
        let mut state = self.0.lock();
        if state.cut_at.is_some_and(|at| state.calls >= at) {
            return Err(Error::Storage("the power is gone".into()));
        }
        state.calls += 1;
        change(&mut state)
    }
}

fn missing(path: &Path) -> Error {
    Error::Storage(format!("{}: no such file", path.display()))
}

impl DiskFile for Open {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let (file, offset) = (self.file, usize::try_from(offset).expect("small"));
        self.disk.change(|state| {
            let (file, range) = (state.files.entry(file).or_default(), offset..offset + data.len());
            file.resize(file.live.len().max(range.end));
            file.live[range.clone()].copy_from_slice(data);
            file.dirty.push(range);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let state = self.disk.0.lock();
        let live = &state.files[&self.file].live;
        let from = usize::try_from(offset).expect("small").min(live.len());
        let count = into.len().min(live.len() - from);
        into[..count].copy_from_slice(&live[from..from + count]);
        Ok(count)
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self.disk.0.lock().files[&self.file].live.len() as u64)
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        let file = self.file;
        let len = usize::try_from(len).expect("small");
        self.disk.change(|state| {
            state.files.entry(file).or_default().resize(len);
            Ok(())
        })
    }

    fn sync(&mut self) -> Result<(), Error> {
        let file = self.file;
        self.disk.change(|state| {
            let file = state.files.entry(file).or_default();
            if std::mem::take(&mut state.sync_fails) {
                file.dirty.clear();
                return Err(Error::Storage("input/output error".into()));
            }
            file.sync();
            Ok(())
        })
    }
}

impl Disk for CutDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let file = self.0.lock().names.get(path).copied().ok_or_else(|| missing(path))?;
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let file = self.change(|state| {
            let file = match state.names.get(path) {
                Some(file) => *file,
                None => {
                    state.next += 1;
                    state.names.insert(path.to_owned(), state.next);
                    state.next
                }
            };
            state.files.entry(file).or_default().resize(0);
            Ok(file)
        })?;
        Ok(Box::new(Open { disk: self.clone(), file }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let state = self.0.lock();
        let inside = |path: &Path| Some(path.strip_prefix(dir).ok()?.iter().next()?.to_string_lossy().into_owned());
        let mut names: Vec<String> = state.names.keys().chain(&state.dirs).filter_map(|path| inside(path)).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), Error> {
        self.change(|state| {
            if !state.dirs.iter().any(|other| other == dir) {
                state.dirs.push(dir.to_owned());
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.change(|state| {
            let file = state.names.remove(from).ok_or_else(|| missing(from))?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        self.change(|state| state.names.remove(path).map(drop).ok_or_else(|| missing(path)))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        self.change(|state| {
            let is_here = |path: &PathBuf| path.parent() == Some(dir);
            state.durable_names.retain(|path, _| !is_here(path));
            let here = state.names.iter().filter(|(path, _)| is_here(path));
            let here: Vec<(PathBuf, u64)> = here.map(|(path, file)| (path.clone(), *file)).collect();
            state.durable_names.extend(here);
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> bool {
        let state = self.0.lock();
        state.names.contains_key(path) || state.dirs.iter().any(|dir| dir == path)
    }
}
