//! The lab's clock in this member: the world's time, unless the lab holds it or slows it down.
//!
//! Raft counts ticks, leases and time-outs count milliseconds since the start: all of them read this clock, so the *real* member runs in
//! slow motion and does nothing differently. Never touched, it is the world's time at the price of one relaxed load.
//!
//! What it does not hold: the disk, sockets, and deadlines of clients outside.

use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// The slowest that the clock can be.
pub(crate) const SLOWER_MAX: u32 = 1000;
/// How long a peer's message takes at least while the clock is slow, in lab time: what is on its way can be seen.
pub(crate) const HOP: Duration = Duration::from_millis(20);
/// While the clock stands still, whoever waits for it looks again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The clock, for all threads of one member.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Whether it was ever anything but the world's time.
    touched: AtomicBool,
    /// Whether messages wait: it is held or slow now.
    delays: Arc<AtomicBool>,
    setting: RwLock<Setting>,
    sync_delay_us: AtomicU64,
    disk_is_full: AtomicBool,
    disk_fails: AtomicBool,
    clients_are_cut: AtomicBool,
    clients_are_let_in: Notify,
}

/// Since `real`, when it showed `lab`.
#[derive(Clone, Copy, Debug)]
struct Setting {
    real: Duration,
    lab: Duration,
    slower: u32,
    held: bool,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { real: Duration::ZERO, lab: Duration::ZERO, slower: 1, held: false }
    }
}

impl Setting {
    fn at(&self, real: Duration) -> Duration {
        if self.held { self.lab } else { self.lab + real.saturating_sub(self.real) / self.slower }
    }
}

impl Pace {
    /// What it shows when so much time has really passed since the member's start.
    pub(crate) fn lab(&self, real: Duration) -> Duration {
        if !self.touched.load(Ordering::Relaxed) {
            return real;
        }
        self.setting.read().at(real)
    }

    /// How long to really wait until so much lab time has passed. While it is held nobody knows: look again later.
    pub(crate) fn real(&self, lab: Duration) -> Duration {
        if !self.delays.load(Ordering::Relaxed) {
            return lab;
        }
        let setting = self.setting.read();
        if setting.held { LOOK_AGAIN } else { lab * setting.slower }
    }

    /// Whether peers' messages wait before raft.
    pub(crate) fn delays(&self) -> bool {
        self.delays.load(Ordering::Relaxed)
    }

    /// The same, for one who outlives this member.
    pub(crate) fn delaying(&self) -> Arc<AtomicBool> {
        self.delays.clone()
    }

    /// Held, and how many times slower than the world.
    pub(crate) fn setting(&self) -> (bool, u32) {
        let setting = self.setting.read();
        (setting.held, setting.slower)
    }

    /// Holds it, or lets it go on so many times slower. It never jumps.
    pub(crate) fn set(&self, real: Duration, held: bool, slower: u32) {
        let mut setting = self.setting.write();
        let lab = if self.touched.load(Ordering::Relaxed) { setting.at(real) } else { real };
        *setting = Setting { real, lab, slower: slower.clamp(1, SLOWER_MAX), held };
        self.delays.store(held || setting.slower > 1, Ordering::Relaxed);
        self.touched.store(true, Ordering::Relaxed);
    }

    /// While it is held: lets so much lab time pass at once. Whether it was held.
    pub(crate) fn advance(&self, by: Duration) -> bool {
        let mut setting = self.setting.write();
        if setting.held {
            setting.lab += by;
        }
        setting.held
    }

    /// By how much each sync of the log is made slower.
    pub(crate) fn sync_delay(&self) -> Duration {
        Duration::from_micros(self.sync_delay_us.load(Ordering::Relaxed))
    }

    /// Whether the log's disk takes more bytes, and whether it fails: what the lab has ordered.
    pub(crate) fn set_disk(&self, is_full: bool, fails: bool) {
        self.disk_is_full.store(is_full, Ordering::Relaxed);
        self.disk_fails.store(fails, Ordering::Relaxed);
    }

    pub(crate) fn disk_is_full(&self) -> bool {
        self.disk_is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn disk_fails(&self) -> bool {
        self.disk_fails.load(Ordering::Relaxed)
    }

    /// Leaves clients before the door, or lets them in.
    pub(crate) fn cut_clients(&self, cut: bool) {
        self.clients_are_cut.store(cut, Ordering::SeqCst);
        if !cut {
            self.clients_are_let_in.notify_waiters();
        }
    }

    /// Returns once clients are let in: at once, unless the lab has cut them off.
    pub(crate) async fn let_in(&self) {
        while self.clients_are_cut.load(Ordering::Relaxed) {
            let let_in = self.clients_are_let_in.notified();
            // Between the look and the wait nobody must be forgotten.
            if self.clients_are_cut.load(Ordering::SeqCst) {
                let_in.await;
            }
        }
    }

    pub(crate) fn set_sync_delay(&self, delay: Duration) {
        self.sync_delay_us.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn untouched_it_is_the_worlds_time() {
        let pace = Pace::default();
        assert_eq!((pace.lab(ms(77)), pace.real(ms(5)), pace.delays()), (ms(77), ms(5), false));
    }

    #[test]
    fn held_it_stands_and_goes_on_where_it_stood() {
        let pace = Pace::default();
        pace.set(ms(1000), true, 1);
        assert_eq!((pace.lab(ms(1000)), pace.lab(ms(9000)), pace.delays()), (ms(1000), ms(1000), true));
        assert!(pace.advance(ms(100)));
        assert_eq!(pace.lab(ms(9000)), ms(1100));
        pace.set(ms(9000), false, 1);
        assert_eq!((pace.lab(ms(9000)), pace.lab(ms(9500)), pace.delays()), (ms(1100), ms(1600), false));
        assert!(!pace.advance(ms(100)), "it runs");
    }

    #[tokio::test]
    async fn clients_that_are_cut_off_wait_until_they_are_let_in() {
        let pace = Pace::default();
        pace.let_in().await;
        pace.cut_clients(true);
        let mut waits = std::pin::pin!(pace.let_in());
        assert!(futures::poll!(&mut waits).is_pending());
        pace.cut_clients(false);
        waits.await;
    }

    #[test]
    fn slow_it_goes_slower_and_never_jumps() {
        let pace = Pace::default();
        pace.set(ms(1000), false, 50);
        assert_eq!((pace.lab(ms(1000)), pace.lab(ms(2000)), pace.real(ms(100))), (ms(1000), ms(1020), ms(5000)));
        pace.set(ms(2000), false, 10);
        assert_eq!((pace.lab(ms(2000)), pace.lab(ms(3000))), (ms(1020), ms(1120)));
        pace.set(ms(3000), false, 99_999);
        assert_eq!(pace.setting(), (false, SLOWER_MAX));
    }
}
