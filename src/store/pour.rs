//! Filling a store while what goes into it is still being read and taken apart: sled's part of the work is done by a thread of its own.

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Row;
use crate::engine::Table;
use crate::error::Error;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::thread;

/// Batches that wait to be written.
const BATCHES_WAITING: usize = 16;

/// What the thread that writes is told.
enum Order {
    Write(Batch),
    /// Tell when everything so far is written.
    Barrier(SyncSender<()>),
}

/// Lets `fill` fill `engine`: what it writes is written behind its back, in order; what it reads has that in it. Returns once everything is written.
///
/// # Errors
/// The engine's if a write failed, else those of `fill`.
pub fn pour<R>(engine: &dyn Engine, fill: impl FnOnce(&dyn Engine) -> Result<R, Error>) -> Result<R, Error> {
    let (to, orders) = mpsc::sync_channel(BATCHES_WAITING);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_all(engine, orders));
        let behind = Behind { engine, to };
        let filled = fill(&behind);
        drop(behind);
        let written = writer.join().unwrap_or_else(|_| Err(Error::Damaged("a store's writer panicked".into())));
        // A write that failed is why the other failed too.
        written.and(filled)
    })
}

fn write_all(engine: &dyn Engine, orders: Receiver<Order>) -> Result<(), Error> {
    for order in orders {
        match order {
            Order::Write(batch) => engine.write(&batch)?,
            Order::Barrier(answer) => drop(answer.send(())),
        }
    }
    Ok(())
}

struct Behind<'a> {
    engine: &'a dyn Engine,
    to: SyncSender<Order>,
}

impl Behind<'_> {
    fn order(&self, order: Order) -> Result<(), Error> {
        self.to.send(order).map_err(|_| Error::Storage("the store's writer has failed".into()))
    }

    fn wait(&self) -> Result<(), Error> {
        let (answer, written) = mpsc::sync_channel(1);
        self.order(Order::Barrier(answer))?;
        written.recv().map_err(|_| Error::Storage("the store's writer has failed".into()))
    }
}

impl Engine for Behind<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, Error> {
        self.wait()?;
        self.engine.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        self.wait()?;
        self.engine.scan(table, from, limit)
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.order(Order::Write(batch.clone()))
    }

    fn sync(&self) -> Result<(), Error> {
        self.wait()?;
        self.engine.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Memory;
    use parking_lot::Mutex;

    /// Takes so many batches, then fails.
    struct Failing(Mutex<usize>);

    impl Engine for Failing {
        fn get(&self, _: Table, _: &[u8]) -> Result<Option<bytes::Bytes>, Error> {
            Ok(None)
        }

        fn scan(&self, _: Table, _: &[u8], _: usize) -> Result<Vec<Row>, Error> {
            Ok(Vec::new())
        }

        fn write(&self, _: &Batch) -> Result<(), Error> {
            let mut left = self.0.lock();
            *left = left.checked_sub(1).ok_or_else(|| Error::Storage("No space left on device".into()))?;
            Ok(())
        }

        fn sync(&self) -> Result<(), Error> {
            Ok(())
        }
    }

    fn fill(engine: &dyn Engine) -> Result<usize, Error> {
        for n in 0..100_u8 {
            let mut batch = Batch::default();
            batch.put(Table::Key, vec![n], vec![n]);
            engine.write(&batch)?;
            if n % 30 == 0 {
                assert!(engine.get(Table::Key, &[n])?.is_none_or(|found| found == [n][..]));
            }
        }
        engine.sync()?;
        Ok(engine.scan(Table::Key, &[], usize::MAX)?.len())
    }

    #[test]
    fn what_was_poured_is_there_and_can_be_read_meanwhile() {
        let engine = Memory::default();
        let read = pour(&engine, |behind| {
            let mut batch = Batch::default();
            batch.put(Table::Meta, "a", "1");
            behind.write(&batch)?;
            behind.get(Table::Meta, b"a")
        });
        assert_eq!(read, Ok(Some("1".into())));
        assert_eq!(pour(&engine, fill), Ok(100));
        assert_eq!(engine.scan(Table::Key, &[], usize::MAX).expect("memory").len(), 100);
    }

    #[test]
    fn a_write_that_fails_is_the_error_and_nobody_hangs() {
        for good in [0, 1, 50, 99] {
            let failing = Failing(Mutex::new(good));
            assert_eq!(pour(&failing, fill), Err(Error::Storage("No space left on device".into())), "after {good}");
        }
    }

    #[test]
    fn who_gives_up_says_why() {
        let refused = pour(&Memory::default(), |_| Err::<(), _>(Error::Damaged("no image".into())));
        assert_eq!(refused, Err(Error::Damaged("no image".into())));
    }
}
