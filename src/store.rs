//! The engine on sled: the applied state on disk.
//!
//! Disposable on purpose. The write-ahead log decides what is acknowledged; what is here can be built again from a
//! snapshot and the log, or from another member. So a store that does not open is no disaster: [`Store::open`] says
//! so without panicking, the node puts it aside ([`put_aside`]) and builds a new one.
//!
//! What sled 0.34 does shapes how it is used here:
//!
//! - A batch is one transaction over all its tables. `apply_batch`, which is faster, leaks memory and disk under churn.
//! - A transaction keeps every reader of the process waiting: 2 ms for 128 KiB, 50 ms for 1 MiB. Cut batches at
//!   128 KiB.
//! - A row costs 5 to 7 µs of CPU up to 1 KiB, and 15 to 25 at 4 KiB: a few larger rows are cheaper than many small.
//! - It writes and caches leaves of up to 16 rows whole, and counts what it caches late. Large rows are cut (`pieces`).
//! - Its `flush` does not reach through the drive's cache on Linux, so [`Store::sync`] syncs the files itself.
//! - It panics on some damage. Every call is fenced; after a failure the store accepts nothing more.
//! - Its files never shrink. Building a new store and swapping it in is the only way to give space back
//!   ([`Renewable`]).
//!
//! Source: measured; see sled issues 1452 and 1351 on durability, 786 on the leak.

#![expect(clippy::disallowed_methods, reason = "waits for the folder's lock, with a deadline")]

mod pieces;
mod pour;
mod renew;

pub use pour::pour;
pub use renew::Renewable;
pub use renew::abandon;
pub use renew::delete;

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Row;
use crate::engine::Table;
use crate::error::Error;
use bytes::Bytes;
use parking_lot::Mutex;
use parking_lot::RwLock;
use sled::transaction::TransactionError;
use std::any::Any;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How much of the store sled keeps in memory if nothing else is asked for. It takes about half as much again.
pub const CACHE_BYTES: u64 = 64 << 20;

/// How long to wait for a lock that another still holds, and how often to look.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// sled's segment. An item above a quarter of it becomes a file of its own.
const SEGMENT_BYTES: usize = 8 << 20;

/// The form of the rows. Raised when an older program could not read them. In 1 there were no pieces.
const FORMAT: u64 = 2;

/// Where the format stands: a table of sled's that is none of [`Table`].
const FORMAT_TABLE: &str = "etcd-lab";
const FORMAT_KEY: &str = "format";

/// The applied state on disk.
pub struct Store {
    dir: PathBuf,
    db: sled::Db,
    /// In the order of [`Table::ALL`].
    tables: Vec<sled::Tree>,
    /// Of the rows that are too large for a leaf.
    pieces: sled::Tree,
    /// A scan reads many rows, one by one, and a row its pieces: no batch may come in between.
    batches: RwLock<()>,
    failed: Mutex<Option<Error>>,
}

/// Turns sled's errors, and its panics, into ours. Damage means "build it anew"; anything else is the disk's failure.
fn fenced<R>(dir: &Path, call: impl FnOnce() -> sled::Result<R>) -> Result<R, Error> {
    let at = |what: &dyn std::fmt::Display| format!("{}: {what}", dir.display());
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(sled::Error::Io(e))) if e.kind() != ErrorKind::InvalidData && e.kind() != ErrorKind::UnexpectedEof => {
            Err(Error::Storage(at(&io_text(&e))))
        }
        Ok(Err(e)) => Err(Error::Damaged(at(&e))),
        Err(panic) => Err(Error::Damaged(at(&panic_text(panic.as_ref())))),
    }
}

/// What the system says. sled keeps of an error that it tells twice only the text for programmers, which has the system's number.
fn io_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    let code = text.strip_prefix("Os { code: ").and_then(|rest| rest.split(',').next()?.parse().ok());
    code.map_or(text, |code| std::io::Error::from_raw_os_error(code).to_string())
}

fn panic_text(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("sled panicked: {}", text.unwrap_or_default())
}

/// Moves a store that is of no use out of the way, and returns where it is now. One that was put aside before is
/// deleted.
///
/// # Errors
/// [`Error::Storage`].
pub fn put_aside(dir: &Path) -> Result<PathBuf, Error> {
    let aside = dir.with_extension("damaged");
    let at = |e: std::io::Error| Error::Storage(format!("{}: {e}", dir.display()));
    match fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(at(e)),
        _ => {}
    }
    fs::rename(dir, &aside).map_err(at)?;
    Ok(aside)
}

impl Store {
    /// Opens the store in `dir`, or begins one. `cache_bytes`: see [`CACHE_BYTES`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be used as it is: put it aside and build it anew. [`Error::Storage`] if the
    /// disk fails, another process has it open, or a newer program wrote it: the member must stop, and nothing was
    /// changed.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Store, Error> {
        let storage = |e: std::io::Error| Error::Storage(format!("{}: {e}", dir.display()));
        let is_new = !dir.exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(storage)?;
        if is_new && let Some(above) = dir.parent() {
            sync_path(above).map_err(storage)?;
        }
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // Who writes here also says when to flush.
            .flush_every_ms(None);
        let db = open_patiently(dir, &config)?;
        fenced(dir, || check_format(dir, &db))?.map_err(|what| what.at(dir))?;
        let tables = Table::ALL.iter().map(|table| fenced(dir, || db.open_tree(table.name())));
        let tables = tables.collect::<Result<Vec<_>, _>>()?;
        let pieces = fenced(dir, || db.open_tree(pieces::PIECES))?;
        Ok(Store { dir: dir.to_owned(), db, tables, pieces, batches: RwLock::new(()), failed: Mutex::new(None) })
    }

    fn table(&self, table: Table) -> &sled::Tree {
        &self.tables[place(table)]
    }

    /// The whole row that has `value` in its own table. Asks that no batch comes in between if that is empty.
    fn row(&self, table: Table, key: &[u8], value: &[u8]) -> sled::Result<Bytes> {
        Ok(match value {
            [] => pieces::join(&self.pieces, table, key)?.into(),
            whole => Bytes::copy_from_slice(whole),
        })
    }

    /// Refuses after a failure, and remembers the first.
    fn guarded<R>(&self, call: impl FnOnce() -> sled::Result<R>) -> Result<R, Error> {
        if let Some(e) = &*self.failed.lock() {
            return Err(e.clone());
        }
        fenced(&self.dir, call).inspect_err(|e| {
            self.failed.lock().get_or_insert_with(|| e.clone());
        })
    }

    /// Bytes of all files. Never shrinks; no measure of what is stored.
    ///
    /// # Errors
    /// As for [`Engine::get`].
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        self.guarded(|| self.db.size_on_disk())
    }
}

/// Opens sled, and waits a little if the folder is locked: a store that was just closed gives its lock back from a thread of its own.
fn open_patiently(dir: &Path, config: &sled::Config) -> Result<sled::Db, Error> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match fenced(dir, || config.open()) {
            Err(Error::Storage(why)) if why.contains("could not acquire lock") && Instant::now() < deadline => {
                thread::sleep(LOCK_POLL);
            }
            opened => return opened,
        }
    }
}

fn place(table: Table) -> usize {
    Table::ALL.iter().position(|other| *other == table).expect("ALL has every table")
}

/// Why the rows cannot be read.
enum Format {
    Newer(u64),
    Unknown,
}

impl Format {
    fn at(self, dir: &Path) -> Error {
        match self {
            Format::Newer(format) => Error::Storage(format!(
                "{}: written by a newer etcd-lab (format {format}; this one knows {FORMAT}): use that one, or an empty folder",
                dir.display()
            )),
            Format::Unknown => Error::Damaged(format!("{}: a store without a format", dir.display())),
        }
    }
}

fn check_format(dir: &Path, db: &sled::Db) -> sled::Result<Result<(), Format>> {
    let is_new = !db.was_recovered();
    let table = db.open_tree(FORMAT_TABLE)?;
    let found = table.get(FORMAT_KEY)?.map(|value| <[u8; 8]>::try_from(value.as_ref()).map(u64::from_be_bytes));
    let is_older = matches!(found, Some(Ok(1..FORMAT)));
    Ok(match found {
        Some(Ok(FORMAT)) => Ok(()),
        Some(Ok(newer)) if newer > FORMAT => Err(Format::Newer(newer)),
        // What is written from now on, an older program must not take for what it knows.
        found if is_older || (is_new && found.is_none()) => {
            // sled never syncs it, and half of it makes all rows useless.
            sync_path(&dir.join("conf"))?;
            table.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
            table.flush()?;
            Ok(())
        }
        _ => Err(Format::Unknown),
    })
}

impl Engine for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let rows = self.table(table);
        match self.guarded(|| pieces::get(rows, key))? {
            Some(value) if value.is_empty() => {
                let _whole = self.batches.read();
                self.guarded(|| rows.get(key)?.map(|value| self.row(table, key, &value)).transpose())
            }
            value => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
        }
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        let _whole = self.batches.read();
        self.guarded(|| {
            let rows = self.table(table);
            let (mut run, mut found) = (rows.range(from..), Vec::new());
            while found.len() < limit
                && let Some((key, value)) = pieces::next(rows, &mut run)?
            {
                found.push((Bytes::copy_from_slice(&key), self.row(table, &key, &value)?));
            }
            Ok(found)
        })
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        use sled::Transactional;
        // The batch is in table order, so those that change are found in one pass.
        let mut changed: Vec<Table> = batch.rows().map(|(table, ..)| table).collect();
        changed.dedup();
        if changed.is_empty() {
            return Ok(());
        }
        let trees: Vec<&sled::Tree> = changed.iter().map(|table| self.table(*table)).chain([&self.pieces]).collect();
        let _whole = self.batches.write();
        self.guarded(|| {
            let done = trees.as_slice().transaction(|views| {
                let (mut at, pieces) = (0, &views[changed.len()]);
                for (table, key, value) in batch.rows() {
                    while changed[at] != table {
                        at += 1;
                    }
                    pieces::change(&views[at], pieces, (table, key, value.map(Bytes::as_ref)))?;
                }
                Ok(())
            });
            done.map_err(|e: TransactionError<std::convert::Infallible>| match e {
                TransactionError::Abort(never) => match never {},
                TransactionError::Storage(e) => e,
            })
        })
    }

    fn sync(&self) -> Result<(), Error> {
        self.guarded(|| {
            self.db.flush()?;
            let blobs = self.dir.join("blobs");
            sync_path(&self.dir.join("db"))?;
            for entry in fs::read_dir(&blobs)? {
                // A blob may be collected meanwhile: then it need not last.
                match sync_path(&entry?.path()) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    synced => synced?,
                }
            }
            sync_path(&blobs)?;
            Ok(sync_path(&self.dir)?)
        })
    }
}

/// Brings a file, or the names in a folder, through the drive's cache.
fn sync_path(path: &Path) -> std::io::Result<()> {
    fs::File::open(path)?.sync_all()?;
    #[cfg(test)]
    SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// What this thread has synced, for tests: no test can cut a real disk's power.
    static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
