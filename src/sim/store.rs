//! The applied state on a simulated disk: batches are atomic, and after a loss of power the store is at some batch at or after the last sync.

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Memory;
use crate::engine::Row;
use crate::engine::Table;
use crate::error::Error;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

/// An engine that can be set back.
#[derive(Default)]
pub(super) struct SimStore {
    live: Memory,
    durable: Memory,
    since_sync: Mutex<Vec<Batch>>,
}

impl SimStore {
    /// The store as a start finds it after the power went.
    pub(super) fn after_power_loss(&self, dice: &mut StdRng) -> SimStore {
        let batches = self.since_sync.lock();
        self.at(&batches[..dice.random_range(0..=batches.len())])
    }

    /// The store as a start finds it after the process ended.
    pub(super) fn after_exit(&self) -> SimStore {
        self.at(&self.since_sync.lock())
    }

    fn at(&self, batches: &[Batch]) -> SimStore {
        let found = SimStore::default();
        for memory in [&found.live, &found.durable] {
            memory.write(&whole(&self.durable)).expect("memory does not fail");
            batches.iter().for_each(|batch| memory.write(batch).expect("memory does not fail"));
        }
        found
    }
}

fn whole(memory: &Memory) -> Batch {
    let mut batch = Batch::default();
    for table in Table::ALL {
        let rows = memory.scan(table, &[], usize::MAX).expect("memory does not fail");
        rows.into_iter().for_each(|(key, value)| batch.put(table, key, value));
    }
    batch
}

impl Engine for SimStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.live.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        self.live.scan(table, from, limit)
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.since_sync.lock().push(batch.clone());
        self.live.write(batch)
    }

    fn sync(&self) -> Result<(), Error> {
        self.since_sync.lock().drain(..).try_for_each(|batch| self.durable.write(&batch))
    }
}
