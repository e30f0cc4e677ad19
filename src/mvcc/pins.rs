//! Revisions that somebody still reads, so that compaction does not take their rows away meanwhile.
//!
//! A pin holds back the removal of rows, never the compaction: that a revision *is* compacted is replicated state and holds
//! at once, for everybody who asks after it.

use crate::types::Revision;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All pins of one store.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<BTreeMap<Revision, usize>>);

impl Pins {
    /// Keeps `at` readable until the pin is dropped.
    pub(super) fn pin(self: &Arc<Pins>, at: Revision) -> Pin {
        *self.0.lock().entry(at).or_default() += 1;
        Pin { pins: Arc::clone(self), at }
    }

    /// The oldest revision that somebody reads.
    pub(super) fn oldest(&self) -> Option<Revision> {
        self.0.lock().keys().next().copied()
    }
}

/// One reader's hold on a revision.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Arc<Pins>,
    at: Revision,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.at);
            }
        }
    }
}
