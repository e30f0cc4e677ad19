//! Back-off after failed logins: who has guessed wrong a few times waits before the next guess is even looked at.
//!
//! What is counted is a name together with the address that it is tried from, so that a stranger who guesses holds up nobody elsewhere. The
//! first [`FREE`] failures cost nothing; from then on guesses pass one at a time, each with a longer pause after it, up to [`PAUSE_MAX`]. A login
//! that succeeds, or [`FORGIVEN_AFTER`] without a failure, ends it. Counts are kept in a fixed number of places that a secret hash chooses:
//! nobody can fill memory with names, nor find out by waiting which names exist.
//!
//! etcd has no such thing (its audit asks for one: TOB-008, CVE-2020-15115); bcrypt alone lets some twenty guesses a second through.

#![expect(clippy::disallowed_methods, reason = "who has guessed wrong waits by the clock")]

use crate::error::Error;
use parking_lot::Mutex;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::time::Duration;
use std::time::Instant;

/// Failures that cost nothing.
const FREE: u32 = 10;

/// The pause after the first failure that costs something; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);

const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Places that counts are kept in.
const PLACES: usize = 1024;

/// Who waits, and for how long.
pub(super) struct Backoff {
    hash: RandomState,
    places: Vec<Mutex<Place>>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    failures: u32,
    /// Before this no further guess is looked at.
    next: Option<Instant>,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { hash: RandomState::new(), places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }

    /// Waits for the turn of a login for `name` from the address `from`.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] if it would have to wait longer than `limit`.
    pub(super) async fn admit(&self, name: &str, from: &str, limit: Duration) -> Result<(), Error> {
        let wait = self.turn(name, from, Instant::now(), limit)?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// A guess was wrong.
    pub(super) fn failed(&self, name: &str, from: &str) {
        self.failed_at(name, from, Instant::now());
    }

    /// How long a login for `name` from the address `from` has to wait for its turn, which is its own from now on.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] if that is longer than `limit`: the turn is nobody's then.
    fn turn(&self, name: &str, from: &str, now: Instant, limit: Duration) -> Result<Duration, Error> {
        let mut place = self.place(name, from).lock();
        if place.next.is_some_and(|next| next + FORGIVEN_AFTER < now) {
            *place = Place::default();
        }
        let Some(pause) = place.pause() else { return Ok(Duration::ZERO) };
        let turn = place.next.map_or(now, |next| next.max(now));
        if turn - now > limit {
            return Err(Error::TooManyRequests);
        }
        place.next = Some(turn + pause);
        Ok(turn - now)
    }

    fn failed_at(&self, name: &str, from: &str, now: Instant) {
        let mut place = self.place(name, from).lock();
        place.failures = place.failures.saturating_add(1);
        place.next = place.next.max(Some(now));
    }

    /// A login was right.
    pub(super) fn succeeded(&self, name: &str, from: &str) {
        *self.place(name, from).lock() = Place::default();
    }

    fn place(&self, name: &str, from: &str) -> &Mutex<Place> {
        let address = from.rsplit_once(':').map_or(from, |(address, _port)| address);
        let hash = self.hash.hash_one((name, address));
        // The remainder fits whatever the platform's word is.
        &self.places[(hash % PLACES as u64) as usize]
    }
}

impl Place {
    /// How long nobody is let in after the next guess; nothing if it is free.
    fn pause(&self) -> Option<Duration> {
        let paid = self.failures.checked_sub(FREE)?;
        Some(PAUSE.saturating_mul(1 << paid.min(10)).min(PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(7);
    const FROM: &str = "10.0.0.1:4711";

    fn failed(backoff: &Backoff, times: u32, now: Instant) {
        for _ in 0..times {
            backoff.failed_at("alice", FROM, now);
        }
    }

    #[test]
    fn the_first_failures_cost_nothing_and_the_next_ones_more_and_more() {
        let (backoff, mut now) = (Backoff::new(), Instant::now());
        failed(&backoff, FREE - 1, now);
        assert_eq!(backoff.turn("alice", FROM, now, LIMIT), Ok(Duration::ZERO));
        failed(&backoff, 1, now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = backoff.turn("alice", FROM, now, LIMIT).expect("soon");
            waits.push(wait.as_millis());
            now += wait;
            failed(&backoff, 1, now);
        }
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 800]);
    }

    #[test]
    fn guesses_that_come_together_pass_one_by_one_until_the_line_is_too_long() {
        let (backoff, now) = (Backoff::new(), Instant::now());
        failed(&backoff, FREE + 10, now);
        let turn = || backoff.turn("alice", FROM, now, LIMIT);
        for passed in 0..9 {
            assert_eq!(turn(), Ok(PAUSE_MAX * passed));
        }
        assert_eq!(turn(), Err(Error::TooManyRequests));
        assert_eq!(turn(), Err(Error::TooManyRequests), "who was refused has no place in the line");
    }

    #[test]
    fn others_and_other_addresses_do_not_wait_and_success_or_time_forgives() {
        let (backoff, now) = (Backoff::new(), Instant::now());
        let waits = |name: &str, from: &str, now| {
            backoff.turn(name, from, now, LIMIT).expect("soon");
            backoff.turn(name, from, now, LIMIT).expect("soon") > Duration::ZERO
        };
        failed(&backoff, FREE + 1, now);
        assert!(waits("alice", "10.0.0.1:9", now), "another port is no other address");
        // One in a thousand seeds of the hash would put two of them in one place: of many others, most do not wait.
        let others = (0..100).filter(|n| waits("alice", &format!("10.0.1.{n}:1"), now)).count();
        let names = (0..100).filter(|n| waits(&format!("user{n}"), FROM, now)).count();
        assert!(others < 50 && names < 50, "{others} {names}");
        assert!(!waits("alice", FROM, now + FORGIVEN_AFTER * 2));
        failed(&backoff, FREE + 1, now);
        backoff.succeeded("alice", FROM);
        assert!(!waits("alice", FROM, now));
    }
}
