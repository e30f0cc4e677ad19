//! The store thread: writes behind.
//!
//! Batches arrive in log order, each with the applied index of its last entry, so whatever the store holds after a crash is the state at some index; the log
//! brings it up to date. Nobody waits for this thread, except when it is 64 MiB behind.

use super::Inner;
use super::Input;
use crate::error::Error;
use crate::replica::behind::Stored;
use crate::replica::behind::Work;
use crate::replica::behind::store_step;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// What the store thread is asked for.
pub(crate) enum Write {
    /// Write a batch, or sync.
    Work(Work),
    /// Tell once everything so far is written.
    Barrier(oneshot::Sender<()>),
    /// Write the store afresh.
    Renew(oneshot::Sender<Result<(), Error>>),
}

pub(crate) struct StoreThread {
    pub(crate) inner: Arc<Inner>,
}

impl StoreThread {
    /// Runs until the apply thread has closed the queue and it is empty.
    pub(crate) fn run(self) {
        self.work();
        if self.inner.stopped.borrow().is_some() {
            // The member stops because something failed, perhaps the disk: a store that is closed would try to write once more, and sled waits for ever on a
            // full disk. The log has everything.
            std::mem::forget(self.inner.engine.clone());
        }
    }

    fn work(&self) {
        let mut writes = Vec::new();
        while self.inner.writes.take_all(&mut writes, Duration::from_secs(3600)) {
            for write in writes.drain(..) {
                if let Err(why) = self.write(write) {
                    self.inner.fail(why);
                    self.inner.writes.close();
                    return;
                }
            }
        }
    }

    fn write(&self, write: Write) -> Result<(), Error> {
        match write {
            Write::Work(work) => {
                match store_step(&*self.inner.engine, &work)? {
                    // The apply thread notes it when it next has the Machine's lock; this thread never takes that lock.
                    Stored::Batch => drop(self.inner.batches_written.fetch_add(1, Ordering::AcqRel)),
                    Stored::Durable(index, term) => self.inner.inbox.force(Input::Durable(index, term)),
                }
                Ok(())
            }
            Write::Barrier(answer) => {
                let _gone = answer.send(());
                Ok(())
            }
            Write::Renew(answer) => {
                let renewed = self.renew();
                let _gone = answer.send(renewed.clone());
                // A copy that fails costs the caller his answer; a store that is lost stops the member, and its next start finds one.
                if self.inner.engine.is_lost() { renewed } else { Ok(()) }
            }
        }
    }

    fn renew(&self) -> Result<(), Error> {
        tracing::info!("defragmenting");
        let began = self.inner.now();
        let (before, after) = self.inner.engine.renew()?;
        tracing::info!(
            "store-bytes-before" = before,
            "store-bytes-after" = after,
            took = ?Duration::from_millis(self.inner.now().0 - began.0),
            "finished defragmenting directory"
        );
        Ok(())
    }
}
