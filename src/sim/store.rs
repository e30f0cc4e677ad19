//! The applied state on a simulated disk: batches are atomic, and after a loss of power the store is at some batch at or after the last sync.
//!
//! A row that has rotted is not returned, nor is a row that a write meant for another place has hit: as sled's checksums do, every reading of it
//! says that the store is damaged.

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
    /// A row that cannot be read any more.
    rotten: Mutex<Option<(Table, Bytes)>>,
}

impl SimStore {
    /// The store as a start finds it after the power went, and whether it has lost anything.
    pub(super) fn after_power_loss(&self, dice: &mut StdRng) -> (SimStore, bool) {
        let batches = self.since_sync.lock();
        let kept = dice.random_range(0..=batches.len());
        (self.at(&batches[..kept]), kept < batches.len())
    }

    /// The store as a start finds it after the process ended.
    pub(super) fn after_exit(&self) -> SimStore {
        self.at(&self.since_sync.lock())
    }

    /// Nothing that was written so far can be lost any more.
    pub(super) fn settle(&self) {
        self.sync().expect("memory does not fail");
    }

    /// Spoils one row; false if there is none.
    pub(super) fn rot(&self, dice: &mut StdRng) -> bool {
        let all = whole(&self.live);
        let rows: Vec<(Table, Bytes)> = all.rows().map(|(table, key, _)| (table, key.clone())).collect();
        if rows.is_empty() {
            return false;
        }
        *self.rotten.lock() = Some(rows[dice.random_range(0..rows.len())].clone());
        true
    }

    fn check(&self, table: Table, mut hit: impl FnMut(&Bytes) -> bool) -> Result<(), Error> {
        match &*self.rotten.lock() {
            Some((rotten, key)) if *rotten == table && hit(key) => {
                Err(Error::Damaged(format!("simulated: a row of {} has rotted", table.name())))
            }
            _ => Ok(()),
        }
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
        self.check(table, |rotten| rotten == key)?;
        self.live.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        let rows = self.live.scan(table, from, limit)?;
        self.check(table, |rotten| rows.iter().any(|(key, _)| key == rotten))?;
        Ok(rows)
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.since_sync.lock().push(batch.clone());
        self.live.write(batch)
    }

    fn sync(&self) -> Result<(), Error> {
        self.since_sync.lock().drain(..).try_for_each(|batch| self.durable.write(&batch))
    }
}
