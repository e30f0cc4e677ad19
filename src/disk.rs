//! The file system as the write-ahead log needs it: a trait, so that a simulator can lose what was not synced.
//!
//! Directories are named separately from files on purpose: a file that was created, renamed or deleted is durable only after its
//! directory was synced too (etcd issue 6368).

#[cfg(test)]
pub(crate) mod cut;

use crate::error::Error;
use crate::error::io_text;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// A file open for reading and writing at given places.
pub trait DiskFile: Send {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// [`Error::Storage`]; after it, nothing more may be written to this file.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error>;

    /// Reads up to `into.len()` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Storage`] if the file cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be asked.
    fn len(&self) -> Result<u64, Error>;

    /// Whether the file is empty.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be asked.
    fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends the file to `len` bytes; an extension reads as zeros.
    ///
    /// # Errors
    /// [`Error::Storage`], a full disk among them.
    fn set_len(&mut self, len: u64) -> Result<(), Error>;

    /// Returns once all writes of this file would survive a loss of power (`fdatasync`).
    ///
    /// # Errors
    /// [`Error::Storage`]; what was written since the last sync is then lost, and the member must stop.
    fn sync(&mut self) -> Result<(), Error>;
}

/// Directories and the files in them.
pub trait Disk: Send + Sync {
    /// Opens an existing file.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is not there or may not be opened.
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error>;

    /// Creates a file for its owner only (mode 0600), or empties the one that is there.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`Error::Storage`] if there is no such directory.
    fn list(&self, dir: &Path) -> Result<Vec<String>, Error>;

    /// Creates a directory and those above it, for its owner only (mode 0700). No error if it is there.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn create_dir(&self, dir: &Path) -> Result<(), Error>;

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error>;

    /// Deletes a file.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn remove(&self, path: &Path) -> Result<(), Error>;

    /// Returns once the names in this directory would survive a loss of power.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn sync_dir(&self, dir: &Path) -> Result<(), Error>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> bool;

    /// The bytes that are free for files in `dir`; nothing if that is not known.
    fn free(&self, _dir: &Path) -> Option<u64> {
        None
    }
}

/// Makes `bytes` the whole of the file at `path`, durably: whoever looks, also after a loss of power, finds the old file or the new one. What is
/// written goes to a file beside it first, with `.tmp` after its name.
///
/// # Errors
/// [`Error::Storage`].
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let mut file = disk.create(&beside)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&beside, path)?;
    disk.sync_dir(folder_of(path))
}

/// Copies what a folder holds and `wants`, by its name, and waits until the disk has them.
///
/// # Errors
/// [`Error::Storage`] that names the file.
pub fn copy_folder(from: &Path, to: &Path, wants: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| Error::Storage(format!("copy {path}: {}", io_text(&e)))
    };
    RealDisk.create_dir(to)?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if !wants(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if source.is_dir() {
            copy_folder(&source, &target, wants)?;
        } else {
            fs::copy(&source, &target).map_err(at(&source))?;
            fs::File::open(&target).and_then(|file| file.sync_all()).map_err(at(&target))?;
        }
    }
    RealDisk.sync_dir(to)
}

/// The folder that holds `path`, by a name that can be opened: that of a bare name is `.`, where [`Path::parent`] has an empty one.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        // The root is in itself.
        None => path,
    }
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

/// The error with the file's name: "no space left on device" alone helps nobody.
fn at(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |e| Error::Storage(format!("{}: {}", path.display(), io_text(&e)))
}

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(data, offset).map_err(at(&self.path))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(at(&self.path)(e)),
            }
        }
        Ok(done)
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(at(&self.path))?.len())
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        self.file.set_len(len).map_err(at(&self.path))
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().map_err(at(&self.path))
    }
}

impl RealDisk {
    /// Opens a file only to read it: one that may not be written to, too.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is not there or may not be read.
    pub fn open_to_read(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let file = fs::File::open(path).map_err(at(path))?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).map_err(at(path))?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let mut options = fs::OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path).map_err(at(path))?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            names.push(entry.map_err(at(dir))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(from, to).map_err(at(to))
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        fs::remove_file(path).map_err(at(path))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
        #[cfg(test)]
        SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn free(&self, dir: &Path) -> Option<u64> {
        let told = rustix::fs::statvfs(dir).ok()?;
        Some(told.f_bavail.saturating_mul(told.f_frsize))
    }
}

#[cfg(test)]
thread_local! {
    /// The folders that this thread has synced, for tests: no test can cut a real disk's power.
    pub(crate) static SYNCED: std::cell::RefCell<Vec<std::path::PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_and_directories_are_for_their_owner_only() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = root.path().join("member/wal");
        RealDisk.create_dir(&dir).expect("created");
        let mut file = RealDisk.create(&dir.join("a")).expect("created");
        file.write_at(4, b"data").expect("written");
        let mut all = [1; 16];
        assert_eq!(file.read_at(0, &mut all).expect("read"), 8);
        assert_eq!(&all[..8], b"\0\0\0\0data");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("a"))), (0o700, 0o600));
    }

    #[test]
    fn the_folder_of_a_bare_name_can_be_opened() {
        let cases = [("w", "."), ("a/w", "a"), ("./w", "."), ("/w", "/"), ("/", "/"), ("a/", ".")];
        for (path, folder) in cases {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
            assert!(folder == "a" || RealDisk.sync_dir(folder_of(Path::new(path))).is_ok(), "{path}");
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let Err(Error::Storage(text)) = RealDisk.open(Path::new("/nowhere/at/all")) else { panic!("not there") };
        assert!(text.contains("/nowhere/at/all"), "{text}");
    }
}
