//! The store thread: writes behind.
//!
//! Batches arrive in log order, each with the applied index of its last entry, so whatever the store holds after a crash is the state at some index; the log
//! brings it up to date. Nobody waits for this thread, except when it is 64 MiB behind.

use super::Inner;
use super::Input;
use super::install::Sled;
use crate::apply::Machine;
use crate::error::Error;
use crate::meter;
use crate::replica::behind::Stored;
use crate::replica::behind::Work;
use crate::replica::behind::store_step;
use crate::replica::install::carry_out;
use crate::store::Renewable;
use crate::wal::SnapshotMark;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What the store thread is asked for.
pub(crate) enum Write {
    /// Write a batch, or sync.
    Work(Work),
    /// Make a store of the accepted image at this mark: from then on it is the member's.
    Install(SnapshotMark, mpsc::SyncSender<Result<Machine, Error>>),
    /// Tell once everything so far is written.
    Barrier(oneshot::Sender<()>),
    /// Write the store afresh.
    Renew(oneshot::Sender<Result<(), Error>>),
}

pub(crate) struct StoreThread {
    pub(crate) inner: Arc<Inner>,
    /// Counts the stores: what was meant for one before does not go into this one.
    pub(crate) epoch: u64,
}

impl StoreThread {
    /// Runs until the apply thread has closed the queue and it is empty.
    pub(crate) fn run(mut self) {
        self.work();
        if self.inner.stopped.borrow().is_some() {
            // The member stops because something failed, perhaps the disk: a store that is closed would try to write once more, and sled waits for ever on a
            // full disk. The log has everything.
            std::mem::forget(self.engine());
        }
    }

    fn engine(&self) -> Arc<Renewable> {
        self.inner.engine.read().clone()
    }

    fn work(&mut self) {
        let mut writes = Vec::new();
        while self.inner.writes.take_all(&mut writes, Duration::from_secs(3600)) {
            for write in writes.drain(..) {
                let weight = if let Write::Work(work) = &write { work.weight() } else { 0 };
                let written = self.write(write);
                self.inner.writes.finished(weight);
                if let Err(why) = written {
                    self.inner.fail(why);
                    self.inner.writes.discard();
                    return;
                }
            }
        }
    }

    fn write(&mut self, write: Write) -> Result<(), Error> {
        match write {
            Write::Work(work) => {
                let began = self.inner.started.elapsed();
                let stored = store_step(&*self.engine(), self.epoch, work)?;
                let took = self.inner.started.elapsed() - began;
                meter::BACKEND_COMMIT.time(took);
                meter::COMMIT_WRITE.time(took);
                match stored {
                    // The apply thread notes it when it next has the Machine's lock; this thread never takes that lock.
                    Stored::Batch => drop(self.inner.batches_written.fetch_add(1, Ordering::AcqRel)),
                    Stored::Dropped => {}
                    Stored::Durable(mark, members) => self.inner.inbox.force(Input::Durable(mark, members)),
                }
                Ok(())
            }
            Write::Install(mark, answer) => {
                let installed = self.install(&mark);
                let failed = installed.as_ref().err().cloned();
                let _waits = answer.send(installed);
                failed.map_or(Ok(()), Err)
            }
            Write::Barrier(answer) => {
                let _gone = answer.send(());
                Ok(())
            }
            Write::Renew(answer) => {
                let renewed = self.renew();
                let _gone = answer.send(renewed.clone());
                // A copy that fails costs the caller his answer; a store that is lost stops the member, and its next start finds one.
                if self.engine().is_lost() { renewed } else { Ok(()) }
            }
        }
    }

    fn install(&mut self, mark: &SnapshotMark) -> Result<Machine, Error> {
        let ahead = self.inner.snapshots.take_ahead(mark);
        let mut stores = Sled { making: self.inner.making(), built: None, ahead, running: Some(self.engine()) };
        carry_out(&self.inner.snapshots.installs, mark, &mut stores)?;
        let built = stores.built.ok_or_else(|| Error::Damaged("no store was built".into()))?;
        *self.inner.engine.write() = built.engine;
        self.epoch += 1;
        Ok(built.machine)
    }

    fn renew(&self) -> Result<(), Error> {
        tracing::info!("defragmenting");
        let began = self.inner.now();
        meter::DEFRAG_INFLIGHT.set(1);
        let renewed = self.engine().renew();
        meter::DEFRAG_INFLIGHT.set(0);
        let (before, after) = renewed?;
        meter::BACKEND_DEFRAG.time(Duration::from_millis(self.inner.now().0 - began.0));
        tracing::info!(
            "store-bytes-before" = before,
            "store-bytes-after" = after,
            took = ?Duration::from_millis(self.inner.now().0 - began.0),
            "finished defragmenting directory"
        );
        Ok(())
    }
}
