//! The clock on the wall, as this process has it: the system's, and what a lab has put on top.
//!
//! Whoever reads the time of day passes it through [`seen`]: log lines, signed tokens, certificates, ids made from the time, what a peer is
//! told of it. What counts elapsed time (raft's ticks, leases, time-outs) has another clock and does not notice. Never touched, it costs one
//! relaxed load.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

/// The furthest that the clock can be off: ten years, in milliseconds.
pub const OFFSET_MAX_MS: i64 = 10 * 365 * 86_400_000;

/// One for the whole process, as the system's clock is.
static OFFSET_MS: AtomicI64 = AtomicI64::new(0);

/// Sets the clock ahead of the system's, or behind. Cut at [`OFFSET_MAX_MS`].
pub fn set_offset_ms(ms: i64) {
    OFFSET_MS.store(ms.clamp(-OFFSET_MAX_MS, OFFSET_MAX_MS), Ordering::Relaxed);
}

/// By how many milliseconds it is ahead.
#[must_use]
pub fn offset_ms() -> i64 {
    OFFSET_MS.load(Ordering::Relaxed)
}

/// What this process's clock shows when the system's shows `now`. Never before 1970.
#[must_use]
pub fn seen(now: SystemTime) -> SystemTime {
    match OFFSET_MS.load(Ordering::Relaxed) {
        0 => now,
        ms => shifted(now, ms),
    }
}

fn shifted(now: SystemTime, ms: i64) -> SystemTime {
    let by = Duration::from_millis(ms.unsigned_abs());
    let moved = if ms < 0 { now.checked_sub(by) } else { now.checked_add(by) };
    moved.unwrap_or(now).max(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ahead_or_behind_and_never_before_1970() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(shifted(now, 90_000), now + Duration::from_secs(90));
        assert_eq!(shifted(now, -90_000), now - Duration::from_secs(90));
        assert_eq!(shifted(now, -2_000_000), SystemTime::UNIX_EPOCH);
    }
}
