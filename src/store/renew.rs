//! A store that can be written afresh while it is in use: how Defragment gives space back.
//!
//! sled's files never shrink. So all rows are copied into a new store beside the old one, and the two change places:
//!
//! ```text
//! store.fresh  ◀─ copy, sync       reads go on from `store`; its one writer is the one who copies
//! store → store.old                reads wait from here …
//! store.fresh → store              … to here
//! store.old    ✝
//! ```
//!
//! Whatever a crash leaves, [`Renewable::open`] finds one whole store: `store` if it is there, else `store.old`. The applied index is
//! copied with the rows that it covers, so the log meets either of them. Source: etcd `server/storage/backend/backend.go` (`defrag`);
//! its bug 14685, where rows and index parted.

#![expect(clippy::disallowed_methods, reason = "waits for sled to let go of a folder, with a deadline")]

use super::Store;
use crate::disk;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Row;
use crate::engine::Table;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use bytes::Bytes;
use parking_lot::RwLock;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How many rows are read at a time, and how many bytes are written at a time: what one transaction of sled bears.
const COPY_ROWS: usize = 16;
const COPY_BYTES: usize = 128 << 10;

/// How long sled may take to let go of a folder after the store was closed, and how often to look.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_POLL: Duration = Duration::from_millis(5);
/// How long a store that was given up may go on writing.
const EMPTY_PATIENCE: Duration = Duration::from_secs(2);
/// So often in a row its files are found empty before that is believed.
const QUIET_LOOKS: u32 = 10;

/// A [`Store`] and the way to a fresh one.
pub struct Renewable {
    dir: PathBuf,
    cache_bytes: u64,
    /// Nothing while the two change places, and for good if that failed half way.
    store: RwLock<Option<Store>>,
    /// Its folder goes with it.
    doomed: AtomicBool,
}

/// Deletes a store that nobody has open, with what defragmenting left beside it.
///
/// # Errors
/// [`Error::Storage`].
pub fn delete(dir: &Path) -> Result<(), Error> {
    let (fresh, old) = beside(dir);
    [&fresh, &old, &dir.to_owned()].into_iter().try_for_each(|dir| remove(dir))
}

impl Renewable {
    /// Opens the store in `dir`, or begins one, and tidies up what a crash left beside it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Renewable, Error> {
        let (fresh, old) = beside(dir);
        if !dir.exists() && old.exists() {
            rename(&old, dir)?;
        }
        remove(&fresh)?;
        remove(&old)?;
        let store = RwLock::new(Some(Store::open(dir, cache_bytes)?));
        Ok(Renewable { dir: dir.to_owned(), cache_bytes, store, doomed: AtomicBool::new(false) })
    }

    /// Writes all rows into a fresh store and puts it in the place of this one. Returns the bytes of its files before and after. Nobody may
    /// write meanwhile; readers wait while the two change places.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Damaged`]. The old store goes on, unless [`Renewable::is_lost`] says otherwise.
    pub fn renew(&self) -> Result<(u64, u64), Error> {
        let (fresh, old) = beside(&self.dir);
        remove(&fresh)?;
        failpoint::hit(Point::DefragBeforeCopy);
        if let Err(e) = self.copy_to(&fresh) {
            // What cannot be removed now is removed when the store is next opened; the failure itself is what counts.
            let _left = remove(&fresh);
            return Err(e);
        }
        let mut store = self.store.write();
        let before = store.as_ref().map_or(Ok(0), Store::disk_bytes)?;
        // From here on a failure loses this handle, but nothing on disk.
        *store = None;
        for dir in [&self.dir, &fresh] {
            wait_until_closed(dir)?;
        }
        failpoint::hit(Point::DefragBeforeRename);
        rename(&self.dir, &old)?;
        failpoint::hit(Point::DefragBetweenRenames);
        rename(&fresh, &self.dir)?;
        let opened = Store::open(&self.dir, self.cache_bytes)?;
        let after = opened.disk_bytes()?;
        *store = Some(opened);
        drop(store);
        remove(&old)?;
        Ok((before, after))
    }

    /// Whether a [`Renewable::renew`] failed between two stores: this handle is of no use any more, and the next start finds a whole store.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.store.read().is_none()
    }

    /// Another store has taken this one's place: its folder is deleted when the last reader lets go of it.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// Closes a store that was of no use, and deletes it. If somebody else still has it, it goes with him.
    ///
    /// # Errors
    /// [`Error::Storage`]: what is left goes with the next start.
    pub fn destroy(self: Arc<Self>) -> Result<(), Error> {
        match Arc::try_unwrap(self) {
            Ok(mut alone) => {
                drop(alone.store.get_mut().take());
                wait_until_closed(&alone.dir)?;
                delete(&alone.dir)
            }
            Err(shared) => {
                shared.doom();
                Ok(())
            }
        }
    }

    fn copy_to(&self, dir: &Path) -> Result<(), Error> {
        let fresh = Store::open(dir, self.cache_bytes)?;
        if let Some(why) = failpoint::value(Point::DefragOpenFileError) {
            return Err(Error::Storage(why));
        }
        let copied = self.copy_rows(&fresh).and_then(|()| fresh.sync());
        if copied.is_err() {
            // sled would try to write once more, and waits for ever on a full disk. So its files stay open, and must give their space back before
            // they are removed: there is none, and the member lives on.
            std::mem::forget(fresh);
            empty_files(dir);
        }
        copied
    }

    fn copy_rows(&self, fresh: &Store) -> Result<(), Error> {
        let mut batch = Batch::default();
        for table in Table::ALL {
            let mut from = Vec::new();
            loop {
                let rows = self.scan(table, &from, COPY_ROWS)?;
                let Some((last, _)) = rows.last() else { break };
                from = [last.as_ref(), &[0]].concat();
                for (key, value) in rows {
                    batch.put(table, key, value);
                    if batch.bytes() >= COPY_BYTES {
                        fresh.write(&std::mem::take(&mut batch))?;
                    }
                }
            }
        }
        fresh.write(&batch)
    }

    /// Reads until `release` is sent or gone: meanwhile the store cannot be exchanged.
    #[cfg(test)]
    pub(crate) fn hold(&self, held: &std::sync::mpsc::Sender<()>, release: &std::sync::mpsc::Receiver<()>) {
        let waited = self.with(|_| {
            held.send(()).expect("somebody waits for it");
            let _used_or_dropped = release.recv();
            Ok(())
        });
        waited.expect("the store is there");
    }

    fn with<R>(&self, call: impl FnOnce(&Store) -> Result<R, Error>) -> Result<R, Error> {
        match &*self.store.read() {
            Some(store) => call(store),
            None => {
                Err(Error::Storage(format!("{}: the store was lost while it was written afresh", self.dir.display())))
            }
        }
    }
}

impl Drop for Renewable {
    fn drop(&mut self) {
        if !*self.doomed.get_mut() {
            return;
        }
        let (store, dir) = (self.store.get_mut().take(), std::mem::take(&mut self.dir));
        // The last reader may be anybody, and sled takes its time to close. What is not deleted here the next start deletes.
        thread::spawn(move || {
            drop(store);
            if let Err(why) = wait_until_closed(&dir).and_then(|()| delete(&dir)) {
                tracing::warn!(dir = %dir.display(), error = %why, "cannot delete a store that was replaced");
            }
        });
    }
}

impl Engine for Renewable {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.with(|store| store.get(table, key))
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        self.with(|store| store.scan(table, from, limit))
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.with(|store| store.write(batch))
    }

    fn sync(&self) -> Result<(), Error> {
        self.with(Store::sync)
    }
}

/// Where the fresh store is made, and where the old one goes.
fn beside(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.with_extension("fresh"), dir.with_extension("old"))
}

fn at(dir: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::Storage(format!("{}: {e}", dir.display()))
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(dir)(e)),
        _ => Ok(()),
    }
}

/// Gives the space of a store back whose disk is full, though sled still has its files open and cannot be closed. What cannot be deleted goes with the next
/// start.
pub fn abandon(dir: &Path) {
    empty_files(dir);
    let _left = remove(dir);
}

/// Takes the bytes out of all files of a folder, as far as that can be done: again and again until none come back, because sled's threads still
/// write what they had begun with.
fn empty_files(dir: &Path) {
    let deadline = Instant::now() + EMPTY_PATIENCE;
    let mut quiet = 0;
    while quiet < QUIET_LOOKS && Instant::now() < deadline {
        quiet = if empty_once(dir) { 0 } else { quiet + 1 };
        thread::sleep(CLOSE_POLL);
    }
}

/// Whether there were any bytes.
fn empty_once(dir: &Path) -> bool {
    let mut found = false;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found |= empty_once(&path);
        } else if entry.metadata().is_ok_and(|file| file.len() > 0) {
            found = true;
            drop(fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)));
        }
    }
    found
}

/// Renames, and makes the new name outlast a loss of power.
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(at(from))?;
    let parent = disk::folder_of(to);
    fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(at(parent))
}

/// Waits until sled has let go of a folder: it closes in a thread of its own, and until then may write files by their path.
fn wait_until_closed(dir: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + CLOSE_PATIENCE;
    let file = fs::File::options().read(true).write(true).open(dir.join("db")).map_err(at(dir))?;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(Error::Storage(format!("{}: sled does not let go of it", dir.display())));
        }
        thread::sleep(CLOSE_POLL);
    }
    file.unlock().map_err(at(dir))
}
