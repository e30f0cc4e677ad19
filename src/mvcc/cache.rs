//! Blocks of history that were read or written lately: a bounded cache.
//!
//! The clock algorithm: blocks sit in a circle, a hit marks its block, and a hand that looks for room takes the first block
//! without a mark and wipes the marks that it passes. One lock, held for a look or for a turn of the hand, never for a read of
//! the engine.

use super::row::RowId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;

/// What one block costs beside its bytes: its slot, its place in the map, the head of the shared bytes.
const SLOT_BYTES: usize = 128;

/// The cache; shared by all readers.
#[derive(Debug)]
pub(super) struct Cache {
    limit_bytes: usize,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    places: HashMap<RowId, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    id: RowId,
    block: Bytes,
    used: bool,
}

impl Cache {
    pub(super) fn new(limit_bytes: usize) -> Cache {
        Cache { limit_bytes, clock: Mutex::default() }
    }

    pub(super) fn get(&self, id: RowId) -> Option<Bytes> {
        let mut clock = self.clock.lock();
        let place = *clock.places.get(&id)?;
        let slot = &mut clock.slots[place];
        slot.used = true;
        Some(slot.block.clone())
    }

    /// Keeps `block`, and drops others until all fit. A block above the limit is not kept.
    pub(super) fn put(&self, id: RowId, block: Bytes) {
        let cost = block.len() + SLOT_BYTES;
        let mut clock = self.clock.lock();
        clock.remove(id);
        if cost > self.limit_bytes {
            return;
        }
        while clock.bytes + cost > self.limit_bytes {
            clock.evict();
        }
        clock.bytes += cost;
        let place = clock.slots.len();
        clock.slots.push(Slot { id, block, used: false });
        clock.places.insert(id, place);
    }

    pub(super) fn remove(&self, id: RowId) {
        self.clock.lock().remove(id);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.clock.lock().bytes
    }
}

impl Clock {
    fn evict(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &mut self.slots[self.hand];
            if !std::mem::take(&mut slot.used) {
                let id = slot.id;
                return self.remove(id);
            }
            self.hand += 1;
        }
    }

    fn remove(&mut self, id: RowId) {
        let Some(place) = self.places.remove(&id) else { return };
        let gone = self.slots.swap_remove(place);
        self.bytes -= gone.block.len() + SLOT_BYTES;
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.id, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Revision;

    fn id(main: u64) -> RowId {
        RowId::first_of(Revision(main))
    }

    #[test]
    fn the_cache_stays_below_its_limit_and_keeps_what_is_used() {
        let cache = Cache::new(10 * (100 + SLOT_BYTES));
        for main in 0..1000 {
            cache.put(id(main), Bytes::from(vec![0; 100]));
            assert!(cache.get(id(0)).is_some(), "used all the time, lost at {main}");
            assert!(cache.bytes() <= 10 * (100 + SLOT_BYTES));
        }
        assert_eq!(cache.get(id(500)), None);
    }

    #[test]
    fn a_block_above_the_limit_is_not_kept() {
        let cache = Cache::new(1000);
        cache.put(id(1), Bytes::from(vec![0; 2000]));
        assert_eq!((cache.get(id(1)), cache.bytes()), (None, 0));
    }
}
