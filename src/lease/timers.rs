//! The leader's private clock: when each lease runs out, and which revoke to propose now.
//!
//! A step function: `now` comes in with every call. Leases wait in the order in which they run out, so that asking
//! who is due costs nothing while nobody is, however many leases there are.
//!
//! A lease that has run out stays here until its revoke was applied. It cannot be renewed any more: that would
//! promise a client a key which the log is about to delete. Its revoke is proposed once, and again only if nothing
//! came of it for [`RETRY_MS`].

use super::Table;
use crate::types::LeaseId;
use crate::types::Millis;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// How long a proposed revoke may take before it is proposed again.
const RETRY_MS: u64 = 3000;

/// From how many leases on a new leader looks whether too many run out together.
const PILE_UP: usize = 1000;

/// How many leases may run out in one second after a new leader has spread them: three quarters of etcd's limit on
/// revokes.
const PER_SECOND: usize = 750;

/// What became of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lives for another time-to-live of so many seconds.
    Extended(i64),
    /// It has run out; its revoke is under way. Wait until the lease is gone from the table (or this member no longer
    /// leads), then answer.
    Expiring,
    /// There is no such lease.
    Unknown,
    /// This member does not lead.
    NotPrimary,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    ttl: i64,
    expires: Millis,
    /// When its revoke is to be proposed: at first when it expires, then again and again.
    due: Millis,
}

/// When each lease runs out. Empty on a member that does not lead: there, leases last for ever.
#[derive(Debug, Default)]
pub struct Timers {
    leading: bool,
    timers: BTreeMap<LeaseId, Timer>,
    queue: BTreeSet<(Millis, LeaseId)>,
}

fn seconds(ttl: i64) -> u64 {
    u64::try_from(ttl).unwrap_or(0).saturating_mul(1000)
}

impl Timers {
    /// Starts the clock: this member leads now. Every lease gets its full time (or what a checkpoint left of it),
    /// plus `extend_ms`, one election time-out, during which its owner could reach no leader. If many would run out
    /// together they are spread.
    pub fn promote(&mut self, now: Millis, table: &Table, extend_ms: u64) {
        self.demote();
        self.leading = true;
        let with_expiry = |(id, lease): (LeaseId, &super::Lease)| {
            (now.plus(seconds(lease.time_left())).plus(extend_ms), id, lease.ttl)
        };
        let mut all: Vec<(Millis, LeaseId, i64)> = table.iter().map(with_expiry).collect();
        if all.len() > PILE_UP {
            all.sort_unstable();
            spread(&mut all);
        }
        for (expires, id, ttl) in all {
            self.set(id, ttl, expires);
        }
    }

    /// Stops the clock: this member leads no more.
    pub fn demote(&mut self) {
        *self = Timers::default();
    }

    /// Whether this member leads.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// A lease of `ttl` seconds was granted.
    pub fn granted(&mut self, now: Millis, id: LeaseId, ttl: i64) {
        if self.leading {
            self.set(id, ttl, now.plus(seconds(ttl)));
        }
    }

    /// A lease was revoked: by us, or by a client.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(timer) = self.timers.remove(&id) {
            self.queue.remove(&(timer.due, id));
        }
    }

    /// Gives a lease its full time again.
    pub fn renew(&mut self, now: Millis, id: LeaseId) -> Renewal {
        if !self.leading {
            return Renewal::NotPrimary;
        }
        match self.timers.get(&id) {
            None => Renewal::Unknown,
            Some(timer) if timer.expires <= now => Renewal::Expiring,
            Some(&Timer { ttl, .. }) => {
                self.set(id, ttl, now.plus(seconds(ttl)));
                Renewal::Extended(ttl)
            }
        }
    }

    fn set(&mut self, id: LeaseId, ttl: i64, expires: Millis) {
        if let Some(before) = self.timers.insert(id, Timer { ttl, expires, due: expires }) {
            self.queue.remove(&(before.due, id));
        }
        self.queue.insert((expires, id));
    }

    /// Milliseconds until a lease runs out, 0 if it has; `None` if there is no such lease or this member does not lead.
    #[must_use]
    pub fn remaining(&self, now: Millis, id: LeaseId) -> Option<u64> {
        self.timers.get(&id).map(|timer| timer.expires.0.saturating_sub(now.0))
    }

    /// The leases in the order in which they run out; those waiting for a revoke where it is proposed next. Empty
    /// unless this member leads.
    pub fn in_order(&self) -> impl Iterator<Item = LeaseId> {
        self.queue.iter().map(|(_, id)| *id)
    }

    /// When [`Self::expired`] will next have something to say.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Up to `max` leases whose revoke is to be proposed now, the most overdue first. etcd asks twice a second for 500.
    pub fn expired(&mut self, now: Millis, max: usize) -> Vec<LeaseId> {
        let due: Vec<_> = self.queue.iter().take_while(|(due, _)| *due <= now).take(max).copied().collect();
        for &(due, id) in &due {
            let again = now.plus(RETRY_MS);
            self.queue.remove(&(due, id));
            self.queue.insert((again, id));
            self.timers.get_mut(&id).expect("what is queued has a timer").due = again;
        }
        due.into_iter().map(|(_, id)| id).collect()
    }
}

/// Moves leases, sorted by when they run out, to later times until no second holds more than [`PER_SECOND`].
fn spread(sorted: &mut [(Millis, LeaseId, i64)]) {
    let (mut window, mut inside) = (Millis(0), 0);
    for (expires, _, _) in sorted {
        if *expires >= window.plus(1000) {
            (window, inside) = (*expires, 0);
        } else if inside == PER_SECOND {
            (window, inside) = (window.plus(1000), 0);
        }
        inside += 1;
        *expires = window.max(*expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Batch;

    const ONE: LeaseId = LeaseId(1);

    fn table(leases: impl IntoIterator<Item = (i64, i64)>) -> Table {
        let mut table = Table::default();
        for (id, ttl) in leases {
            table.grant(LeaseId(id), ttl, &mut Batch::default()).expect("new");
        }
        table
    }

    fn leading(leases: impl IntoIterator<Item = (i64, i64)>) -> Timers {
        let mut timers = Timers::default();
        timers.promote(Millis(0), &table(leases), 1000);
        timers
    }

    #[test]
    fn a_new_leader_gives_full_time_and_one_election_more() {
        let mut timers = leading([(1, 10)]);
        assert_eq!(timers.remaining(Millis(1000), ONE), Some(10_000));
        assert_eq!(timers.expired(Millis(10_999), 10), []);
        assert_eq!(timers.expired(Millis(11_000), 10), [ONE]);
    }

    #[test]
    fn a_checkpoint_shortens_what_a_new_leader_gives() {
        let mut table = table([(1, 600)]);
        table.checkpoint(ONE, 40, &mut Batch::default());
        let mut timers = Timers::default();
        timers.promote(Millis(0), &table, 1000);
        assert_eq!(timers.remaining(Millis(0), ONE), Some(41_000));
        assert_eq!(timers.renew(Millis(5), ONE), Renewal::Extended(600));
        assert_eq!(timers.remaining(Millis(5), ONE), Some(600_000));
    }

    #[test]
    fn only_a_leader_counts_time() {
        let mut timers = leading([(1, 10)]);
        timers.demote();
        assert_eq!(timers.renew(Millis(0), ONE), Renewal::NotPrimary);
        timers.granted(Millis(0), LeaseId(2), 10);
        assert_eq!((timers.next_due(), timers.expired(Millis(u64::MAX), 10)), (None, vec![]));
        assert_eq!(timers.remaining(Millis(0), ONE), None);
    }

    #[test]
    fn a_renewal_counts_from_now_and_without_the_extension() {
        let mut timers = leading([(1, 10)]);
        assert_eq!(timers.renew(Millis(500), ONE), Renewal::Extended(10));
        assert_eq!(timers.next_due(), Some(Millis(10_500)));
        assert_eq!(timers.renew(Millis(500), LeaseId(2)), Renewal::Unknown);
    }

    #[test]
    fn what_has_run_out_is_not_renewed_even_before_its_revoke_is_proposed() {
        let mut timers = leading([(1, 10)]);
        assert_eq!(timers.renew(Millis(11_000), ONE), Renewal::Expiring);
        timers.expired(Millis(11_000), 10);
        assert_eq!(timers.renew(Millis(11_001), ONE), Renewal::Expiring);
        assert_eq!(timers.remaining(Millis(11_001), ONE), Some(0));
        timers.revoked(ONE);
        assert_eq!(timers.renew(Millis(11_002), ONE), Renewal::Unknown);
    }

    #[test]
    fn a_revoke_is_proposed_once_and_again_only_if_nothing_came_of_it() {
        let mut timers = leading([(1, 10), (2, 10)]);
        let at = Millis(11_000);
        assert_eq!(timers.expired(at, 1), [ONE], "never more than was asked for");
        assert_eq!(timers.expired(at, 10), [LeaseId(2)]);
        assert_eq!(timers.expired(at.plus(RETRY_MS - 1), 10), []);
        timers.revoked(ONE);
        assert_eq!(timers.expired(at.plus(RETRY_MS), 10), [LeaseId(2)]);
        timers.revoked(LeaseId(2));
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn many_leases_that_would_run_out_together_are_spread() {
        let mut timers = leading((1..=100_000).map(|id| (id, 10)));
        let (mut now, mut seen) = (Millis(11_000), 0);
        while seen < 100_000 {
            let due = timers.expired(now, usize::MAX);
            assert_eq!(due.len(), PER_SECOND.min(100_000 - seen), "at {now} ms");
            for id in &due {
                timers.revoked(*id);
            }
            (now, seen) = (now.plus(1000), seen + due.len());
        }
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn leases_that_run_out_one_after_another_are_left_alone() {
        let timers = leading((1..=2000).map(|id| (id, id)));
        assert_eq!(timers.remaining(Millis(0), LeaseId(2000)), Some(2_001_000));
    }

    #[test]
    fn leases_are_listed_in_the_order_in_which_they_run_out() {
        let mut timers = leading([(1, 30), (2, 20), (3, 10)]);
        timers.granted(Millis(0), LeaseId(4), 15);
        assert_eq!(timers.in_order().map(|id| id.0).collect::<Vec<_>>(), [3, 4, 2, 1]);
    }
}
