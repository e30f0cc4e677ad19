//! Leases: keys that live as long as somebody says so.
//!
//! Two halves that never mix. [`Table`] is replicated: which leases exist, how long each lasts, which keys hang on
//! it. It changes by committed entries only and knows no time. [`Timers`] is the leader's private clock: when each
//! lease runs out. It decides nothing; it only tells the leader which revoke to propose, and the log does the rest.
//!
//! ```text
//! client ── grant 10 s ──▶ log ──▶ Table (every member)      Timers (leader): expires at now + 10 s
//! client ── keep alive ─────────────────────────────────────▶ Timers: again 10 s; nothing is logged
//!                          log ◀── revoke ───────────────────  Timers: 10 s of silence
//! ```
//!
//! So a new leader knows no renewals of the old one: it gives every lease its full time again. A lease lives too long
//! rather than too short.
//!
//! Unless the leader writes down how far a long lease has run: with the gate LeaseCheckpoint on it proposes, every five
//! minutes, what is left of it, and a new leader gives no more than that. A renewal takes the mark away again.
//!
//! Source: etcd `server/lease/lessor.go`; contract-server 4.

mod timers;

#[cfg(test)]
mod script;

pub use timers::Renewal;
pub use timers::Timers;

use crate::engine;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::leasepb;
use crate::types::LeaseId;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// The longest time-to-live that can be asked for, in seconds.
pub const TTL_MAX: i64 = 9_000_000_000;

/// How many rows are read from the engine at a time.
const ROWS_PER_SCAN: usize = 1024;

/// The shortest time-to-live that is granted, in seconds: one and a half election time-outs in whole ticks, so that leases
/// outlive an election. Asked for before a grant is proposed, since it depends on this member's flags.
#[must_use]
pub fn ttl_min(election_ticks: u64, tick_ms: u64) -> i64 {
    let ms = (election_ticks.saturating_mul(3) / 2).saturating_mul(tick_ms);
    i64::try_from(ms.div_ceil(1000)).unwrap_or(TTL_MAX).min(TTL_MAX)
}

/// One lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The time-to-live that was granted, in seconds.
    pub ttl: i64,
    /// What a checkpoint said was left of it, in seconds; 0 if none did.
    pub remaining: i64,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    /// The keys that go with it, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }

    /// Seconds that a new leader gives it.
    fn time_left(&self) -> i64 {
        let is_marked = self.remaining > 0 && !is_planted(Bug::LeaseTimeReset);
        if is_marked { self.remaining } else { self.ttl }
    }
}

/// The replicated half: every lease, and which key hangs on which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    leases: BTreeMap<LeaseId, Lease>,
    by_key: BTreeMap<Bytes, LeaseId>,
}

impl Table {
    /// Reads the leases from the engine. Their keys are not there: who reads the keys attaches them.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a row that is no lease, [`Error::Storage`] if the engine cannot be read.
    pub fn load(engine: &dyn Engine) -> Result<Table, Error> {
        let mut table = Table::default();
        let mut from = Vec::new();
        loop {
            let rows = engine.scan(engine::Table::Lease, &from, ROWS_PER_SCAN)?;
            for (key, value) in &rows {
                let (id, lease) = from_row(key, value)?;
                table.leases.insert(id, lease);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == ROWS_PER_SCAN => from = [key.as_ref(), &[0]].concat(),
                _ => return Ok(table),
            }
        }
    }

    /// Writes every row: for an engine that is made anew.
    pub fn save(&self, batch: &mut Batch) {
        for (id, lease) in &self.leases {
            save_lease(*id, lease, batch);
        }
    }

    /// Adds a lease of `ttl` seconds.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] for id 0 (etcd's choice of words), [`Error::LeaseTtlTooLarge`], [`Error::LeaseExists`].
    pub fn grant(&mut self, id: LeaseId, ttl: i64, batch: &mut Batch) -> Result<(), Error> {
        if id.0 == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let lease = Lease { ttl, ..Lease::default() };
        save_lease(id, &lease, batch);
        self.leases.insert(id, lease);
        Ok(())
    }

    /// Removes a lease. Returns its keys in order: deleting them, in the same batch and one revision, is the caller's.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`].
    pub fn revoke(&mut self, id: LeaseId, batch: &mut Batch) -> Result<Vec<Bytes>, Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        batch.delete(engine::Table::Lease, row_key(id));
        for key in &lease.keys {
            self.by_key.remove(key);
        }
        Ok(lease.keys.into_iter().collect())
    }

    /// Notes that `remaining` seconds are left of a lease (0: all of it). False for a lease that is gone, which is none of our business.
    pub fn checkpoint(&mut self, id: LeaseId, remaining: i64, batch: &mut Batch) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        lease.remaining = remaining;
        save_lease(id, lease, batch);
        true
    }

    /// Hangs `key` on the lease `id`, and on no other.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]; then the key hangs where it did.
    pub fn attach(&mut self, key: &Bytes, id: LeaseId) -> Result<(), Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        if self.by_key.get(key) == Some(&id) {
            return Ok(());
        }
        // A copy: a slice would keep the whole request in memory, its value too.
        let key = Bytes::copy_from_slice(key);
        lease.keys.insert(key.clone());
        if let Some(before) = self.by_key.insert(key.clone(), id) {
            self.forget(&key, before);
        }
        Ok(())
    }

    /// Takes `key` off its lease, if it hangs on one.
    pub fn detach(&mut self, key: &[u8]) {
        if let Some(id) = self.by_key.remove(key) {
            self.forget(key, id);
        }
    }

    fn forget(&mut self, key: &[u8], id: LeaseId) {
        let lease = self.leases.get_mut(&id).expect("a key hangs on a lease that exists");
        lease.keys.remove(key);
    }

    /// The lease with this id.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// The lease that `key` hangs on.
    #[must_use]
    pub fn of_key(&self, key: &[u8]) -> Option<LeaseId> {
        self.by_key.get(key).copied()
    }

    /// The keys of a lease in order; none if there is no such lease.
    pub fn keys_of(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.leases.get(&id).into_iter().flat_map(Lease::keys)
    }

    /// All leases by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are no leases.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

fn row_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

fn save_lease(id: LeaseId, lease: &Lease, batch: &mut Batch) {
    let row = leasepb::Lease { id: id.0, ttl: lease.ttl, remaining_ttl: lease.remaining };
    batch.put(engine::Table::Lease, row_key(id), row.encode_to_vec());
}

fn from_row(key: &[u8], value: &[u8]) -> Result<(LeaseId, Lease), Error> {
    let row = leasepb::Lease::decode(value).map_err(|e| Error::Damaged(format!("lease row {key:02x?}: {e}")))?;
    if key != row.id.to_be_bytes() || row.id == 0 {
        return Err(Error::Damaged(format!("lease row {key:02x?} holds lease {:x}", row.id)));
    }
    Ok((LeaseId(row.id), Lease { ttl: row.ttl, remaining: row.remaining_ttl, keys: BTreeSet::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Memory;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn granted(ids: &[i64]) -> Table {
        let mut table = Table::default();
        for &id in ids {
            table.grant(LeaseId(id), 10, &mut Batch::default()).expect("new");
        }
        table
    }

    #[test]
    fn a_key_on_a_lease_does_not_keep_its_request_in_memory() {
        let (mut table, request) = (granted(&[1]), Bytes::from(b"key and a long value".to_vec()));
        table.attach(&request.slice(..3), LeaseId(1)).expect("granted");
        assert!(request.is_unique());
    }

    #[test]
    fn a_grant_is_refused_for_what_etcd_refuses() {
        let (mut table, mut batch) = (granted(&[1]), Batch::default());
        assert_eq!(table.grant(LeaseId(0), 10, &mut batch), Err(Error::LeaseNotFound));
        assert_eq!(table.grant(LeaseId(1), 10, &mut batch), Err(Error::LeaseExists));
        assert_eq!(table.grant(LeaseId(2), TTL_MAX + 1, &mut batch), Err(Error::LeaseTtlTooLarge));
        assert!(batch.is_empty());
        assert_eq!(table.grant(LeaseId(-5), TTL_MAX, &mut batch), Ok(()));
    }

    #[test]
    fn a_revoke_returns_the_keys_in_order_and_frees_them() {
        let mut table = granted(&[1, 2]);
        for name in ["c", "a", "b"] {
            table.attach(&key(name), LeaseId(1)).expect("granted");
        }
        table.attach(&key("a"), LeaseId(2)).expect("granted");
        table.detach(b"b");
        let mut batch = Batch::default();
        assert_eq!(table.revoke(LeaseId(1), &mut batch), Ok(vec![key("c")]));
        assert_eq!(table.revoke(LeaseId(1), &mut batch), Err(Error::LeaseNotFound));
        assert_eq!((table.of_key(b"a"), table.of_key(b"c")), (Some(LeaseId(2)), None));
        assert_eq!(table.keys_of(LeaseId(2)).collect::<Vec<_>>(), [&key("a")]);
    }

    #[test]
    fn a_key_stays_where_it_hangs_if_the_new_lease_is_not_there() {
        let mut table = granted(&[1]);
        table.attach(&key("a"), LeaseId(1)).expect("granted");
        assert_eq!(table.attach(&key("a"), LeaseId(9)), Err(Error::LeaseNotFound));
        assert_eq!(table.of_key(b"a"), Some(LeaseId(1)));
    }

    #[test]
    fn the_rows_hold_all_but_the_keys() {
        let (mut table, mut batch, engine) = (Table::default(), Batch::default(), Memory::default());
        for id in [-1, 7, i64::MAX] {
            table.grant(LeaseId(id), 30, &mut batch).expect("new");
        }
        assert!(table.checkpoint(LeaseId(7), 12, &mut batch));
        assert!(!table.checkpoint(LeaseId(8), 12, &mut batch));
        engine.write(&batch).expect("memory");
        let mut batch = Batch::default();
        table.revoke(LeaseId(-1), &mut batch).expect("granted");
        engine.write(&batch).expect("memory");
        assert_eq!(Table::load(&engine).expect("good rows"), table);
        assert_eq!(table.get(LeaseId(7)).map(|lease| (lease.ttl, lease.remaining)), Some((30, 12)));
        let row = engine.get(engine::Table::Lease, &7i64.to_be_bytes()).expect("memory").expect("there");
        assert_eq!(row, [8, 7, 16, 30, 24, 12].as_ref(), "leasepb.Lease, as etcd writes it");
    }

    #[test]
    fn a_row_that_is_no_lease_is_damage() {
        for (key, value) in
            [(vec![0; 8], vec![8, 1]), (vec![1], vec![8, 1]), (vec![0; 8], vec![255]), (vec![0; 8], vec![])]
        {
            let (engine, mut batch) = (Memory::default(), Batch::default());
            batch.put(engine::Table::Lease, key.clone(), value);
            engine.write(&batch).expect("memory");
            assert!(matches!(Table::load(&engine), Err(Error::Damaged(_))), "{key:?}");
        }
    }

    #[test]
    fn the_shortest_lease_outlives_an_election() {
        assert_eq!((ttl_min(10, 100), ttl_min(5, 100), ttl_min(10, 5000)), (2, 1, 75));
        assert_eq!(ttl_min(5, 1000), 7, "seven whole ticks, not seven and a half");
        assert_eq!(ttl_min(u64::MAX, 2), TTL_MAX);
    }
}
