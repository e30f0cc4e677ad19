//! A file that is read to its end, with a bar that shows how far that is.

use super::Failed;
use crate::cmdline::progress::Bar;
use crate::disk::DiskFile;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image::Snapshot;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Opens a snapshot that will be read `passes` times from end to end, more or less: pages that nothing refers to are read once only. Call
/// [`Progress::finish`] when it is done with.
///
/// # Errors
/// As [`Snapshot::new`].
pub(super) fn open(path: &str, passes: u64) -> Result<(Snapshot, Progress), Failed> {
    let file = RealDisk.open_to_read(Path::new(path))?;
    let bar = Bar::new(file.len()?.saturating_mul(passes));
    let progress = Progress(Arc::new(Mutex::new((0, Some(bar)))));
    let snapshot = Snapshot::new(Box::new(Reading { file, progress: Progress(Arc::clone(&progress.0)) }))?;
    Ok((snapshot, progress))
}

/// How many bytes were read, and the bar that shows it until it is done with.
pub(super) struct Progress(Arc<Mutex<(u64, Option<Bar>)>>);

impl Progress {
    /// Makes room for a line of text; the bar comes back below it.
    pub(super) fn wipe(&self) {
        if let Some(bar) = &mut self.0.lock().1 {
            bar.wipe(&mut io::stderr());
        }
    }

    /// All that there is to read was read.
    pub(super) fn finish(self) {
        if let Some(bar) = self.0.lock().1.take() {
            bar.finish(&mut io::stderr());
        }
    }
}

/// Counts what is read.
struct Reading {
    file: Box<dyn DiskFile>,
    progress: Progress,
}

impl DiskFile for Reading {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.file.write_at(offset, data)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let count = self.file.read_at(offset, into)?;
        let (done, bar) = &mut *self.progress.0.lock();
        *done += count as u64;
        if let Some(bar) = bar {
            bar.show(*done, &mut io::stderr());
        }
        Ok(count)
    }

    fn len(&self) -> Result<u64, Error> {
        self.file.len()
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        self.file.set_len(len)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file.sync()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(bar) = self.progress.0.lock().1.take() {
            bar.end(&mut io::stderr());
        }
    }
}
