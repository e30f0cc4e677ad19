//! An open loop's schedule: when each request of one thread is due.
//!
//! A thread of its own releases each request at its time, more exactly than a timer wheel of milliseconds could; a slot that comes late to
//! a due request does not make it less late.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Semaphore;

/// The due times of one thread's requests.
#[derive(Clone)]
pub(super) struct Pace {
    begin: Instant,
    interval: Duration,
    /// One permit for each request that is due and not taken.
    due: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Pace {
    pub(super) fn start(interval: Duration, end: Instant) -> Pace {
        let pace = Pace { begin: Instant::now(), interval, due: Arc::new(Semaphore::new(0)), next: Arc::default() };
        let own = pace.clone();
        std::thread::spawn(move || own.release(end));
        pace
    }

    /// Makes requests due, one by one, until the end; then lets every slot see the end.
    fn release(&self, end: Instant) {
        let mut released: u64 = 0;
        loop {
            let now = Instant::now();
            if now >= end {
                self.due.close();
                return;
            }
            let until_now = (now.duration_since(self.begin).as_secs_f64() / self.interval.as_secs_f64()) as u64 + 1;
            self.due.add_permits((until_now - released) as usize);
            released = until_now;
            let next = self.begin + self.interval.mul_f64(released as f64);
            std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
        }
    }

    /// Waits for the next due request and returns when it was due; `None` at the end.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Some(self.begin + self.interval.mul_f64(number as f64))
    }
}
