//! When raft's clock ticks.

use crate::types::Millis;

/// After a pause (a stopped process, a starved machine) at most this many ticks are made up for: one election's worth would make every member
/// campaign on waking.
const CATCH_UP_TICKS: u64 = 3;

/// Ticks by the driver's clock.
#[derive(Clone, Copy, Debug)]
pub struct Ticker {
    next: Millis,
    tick_ms: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    pub count: u64,
    /// The driver was away for so long that some were let go.
    pub stalled: bool,
}

impl Ticker {
    /// The first tick is one pause from `now`.
    #[must_use]
    pub fn new(now: Millis, tick_ms: u64) -> Ticker {
        Ticker { next: now.plus(tick_ms), tick_ms }
    }

    /// When the next tick is due.
    #[must_use]
    pub fn next(&self) -> Millis {
        self.next
    }

    /// The ticks since the last call.
    pub fn due(&mut self, now: Millis) -> Ticks {
        let stalled = now.0 > self.next.0 + CATCH_UP_TICKS * self.tick_ms;
        if stalled {
            self.next = Millis(now.0 - CATCH_UP_TICKS * self.tick_ms);
        }
        let mut count = 0;
        while self.next <= now {
            self.next = self.next.plus(self.tick_ms);
            count += 1;
        }
        Ticks { count, stalled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_long_pause_a_few_ticks_are_made_up_for() {
        let mut ticker = Ticker::new(Millis(1000), 100);
        assert_eq!(ticker.due(Millis(1099)), Ticks { count: 0, stalled: false });
        assert_eq!(ticker.due(Millis(1350)), Ticks { count: 3, stalled: false });
        assert_eq!(ticker.next(), Millis(1400));
        assert_eq!(ticker.due(Millis(1700)), Ticks { count: 4, stalled: false });
        assert_eq!(ticker.due(Millis(60_000)), Ticks { count: 4, stalled: true });
        assert_eq!(ticker.next(), Millis(60_100));
    }
}
