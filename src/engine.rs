//! An ordered store of bytes: what the state machine's data rests on.
//!
//! Small on purpose: tables of keys in byte order, read one key or a run of keys, write a batch of which all or nothing
//! happens. [`Memory`] serves tests and the simulator; `store` puts sled behind the same trait. What an engine holds is
//! always a copy of what the write-ahead log says, so it may be lost.

use crate::error::Error;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// The tables. Named after etcd's buckets, which hold the same things in a snapshot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single rows: the applied index and term, the compacted revision, the cluster version …
    Meta,
    /// Blocks of the key space's history, by the revision of their first row.
    Key,
    /// Leases by id, 8 bytes big-endian.
    Lease,
    /// Whether authentication is on, and its revision.
    Auth,
    /// Users by name.
    AuthUsers,
    /// Roles by name.
    AuthRoles,
    /// Members by id in hexadecimal.
    Members,
    /// Ids that were members once: they never come back.
    MembersRemoved,
    /// The cluster's version and a downgrade in progress.
    Cluster,
    /// Raised alarms.
    Alarm,
}

impl Table {
    /// All tables, in the order in which a snapshot holds them.
    pub const ALL: [Table; 10] = [
        Table::Alarm,
        Table::Auth,
        Table::AuthRoles,
        Table::AuthUsers,
        Table::Cluster,
        Table::Key,
        Table::Lease,
        Table::Members,
        Table::MembersRemoved,
        Table::Meta,
    ];

    /// etcd's name of the bucket.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Key => "key",
            Table::Lease => "lease",
            Table::Auth => "auth",
            Table::AuthUsers => "authUsers",
            Table::AuthRoles => "authRoles",
            Table::Members => "members",
            Table::MembersRemoved => "members_removed",
            Table::Cluster => "cluster",
            Table::Alarm => "alarm",
        }
    }
}

/// Changes that happen together or not at all. A later change of the same key replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    rows: BTreeMap<(Table, Bytes), Option<Bytes>>,
    bytes: usize,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.set(table, key.into(), Some(value.into()));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.set(table, key.into(), None);
    }

    fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let (key_len, new) = (key.len(), size(&value));
        match self.rows.insert((table, key), value) {
            Some(old) => self.bytes = self.bytes - size(&old) + new,
            None => self.bytes += key_len + new,
        }
    }

    /// The changes in table and key order; `None` removes.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &Bytes, Option<&Bytes>)> {
        self.rows.iter().map(|((table, key), value)| (*table, key, value.as_ref()))
    }

    /// The changes of one table in key order.
    pub fn rows_of(&self, table: Table) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        let rows = self.rows.range((table, Bytes::new())..).take_while(move |((other, _), _)| *other == table);
        rows.map(|((_, key), value)| (key, value.as_ref()))
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys change.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// One row of a table: its key and its value.
pub type Row = (Bytes, Bytes);

/// An ordered store of bytes with atomic writes. Shared between threads: readers see each batch whole or not at all.
pub trait Engine: Send + Sync {
    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// [`Error::Storage`] if the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Up to `limit` rows with `from <= key`, in key order. To go on, ask again from the last key with a zero byte appended.
    ///
    /// # Errors
    /// [`Error::Storage`] if the store cannot be read.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error>;

    /// Makes all changes of `batch`, or none.
    ///
    /// # Errors
    /// [`Error::Storage`]; then nothing more may be written.
    fn write(&self, batch: &Batch) -> Result<(), Error>;

    /// Returns once all earlier writes would survive a loss of power.
    ///
    /// # Errors
    /// [`Error::Storage`]; then nothing more may be written.
    fn sync(&self) -> Result<(), Error>;
}

/// An engine in memory: for tests, and for the simulator.
#[derive(Debug, Default)]
pub struct Memory {
    tables: RwLock<BTreeMap<Table, BTreeMap<Bytes, Bytes>>>,
}

impl Engine for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.tables.read().get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, Error> {
        let tables = self.tables.read();
        let Some(rows) = tables.get(&table) else { return Ok(Vec::new()) };
        let run = rows.range(Bytes::copy_from_slice(from)..).take(limit);
        Ok(run.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        let mut tables = self.tables.write();
        for (table, key, value) in batch.rows() {
            let rows = tables.entry(table).or_default();
            match value {
                Some(value) => drop(rows.insert(key.clone(), value.clone())),
                None => drop(rows.remove(key)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_a_replaced_value_once() {
        let mut batch = Batch::default();
        batch.put(Table::Meta, "k", "long value");
        batch.put(Table::Meta, "k", "v");
        assert_eq!((batch.len(), batch.bytes()), (1, 2));
        batch.delete(Table::Meta, "k");
        assert_eq!((batch.len(), batch.bytes()), (1, 1));
    }

    #[test]
    fn memory_scans_in_key_order_from_a_key() {
        let memory = Memory::default();
        let mut batch = Batch::default();
        for key in ["c", "a", "b"] {
            batch.put(Table::Key, key, key);
        }
        memory.write(&batch).expect("memory");
        let rows = memory.scan(Table::Key, b"b", 10).expect("memory");
        assert_eq!(rows.iter().map(|(key, _)| key.as_ref()).collect::<Vec<_>>(), [b"b", b"c"]);
    }
}
