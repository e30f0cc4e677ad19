//! The leader's private clock: when each lease runs out, and which revoke to propose now.
//!
//! A step function: `now` comes in with every call. Leases wait in the order in which they run out, so that asking
//! who is due costs nothing while nobody is, however many leases there are.
//!
//! A lease that has run out stays here until its revoke was applied. It cannot be renewed any more: that would
//! promise a client a key which the log is about to delete. Its revoke is proposed once, and again only if nothing
//! came of it for [`RETRY_MS`].
//!
//! With checkpoints on, a lease longer than the pause between two of them has a second date: when to write down, through
//! the log, what is left of it. Only then does a new leader not give it all of its time again.

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
    /// A checkpoint says that less is left of it. Take that back through the log first, then renew.
    Checkpointed,
    /// Its revoke or a checkpoint of it is on its way through the log. Ask again when that was applied, or when this member
    /// no longer leads.
    Wait,
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
    /// When what is left of it is to be written down.
    checkpoint_due: Option<Millis>,
    mark: Mark,
}

/// Whether the log says that less is left of a lease than all. A renewal that is promised while it does would be forgotten by
/// the next leader, and the lease would run out early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    /// It is about to say that so many seconds are left.
    Proposed(i64),
    Standing,
}

/// When each lease runs out. Empty on a member that does not lead: there, leases last for ever.
#[derive(Debug, Default)]
pub struct Timers {
    leading: bool,
    timers: BTreeMap<LeaseId, Timer>,
    queue: BTreeSet<(Millis, LeaseId)>,
    checkpoints: BTreeSet<(Millis, LeaseId)>,
    checkpoint_every_ms: Option<u64>,
}

fn seconds(ttl: i64) -> u64 {
    u64::try_from(ttl).unwrap_or(0).saturating_mul(1000)
}

impl Timers {
    /// Timers of a member that does not lead. `checkpoint_every_ms` is the pause between two checkpoints of a lease; nothing
    /// turns them off.
    #[must_use]
    pub fn new(checkpoint_every_ms: Option<u64>) -> Timers {
        Timers { checkpoint_every_ms, ..Timers::default() }
    }

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
        if all.len() >= PILE_UP {
            all.sort_unstable();
            spread(&mut all);
        }
        for (expires, id, ttl) in all {
            self.set(id, ttl, expires);
        }
        for (id, lease) in table.iter() {
            self.checkpointed(now, id, lease.remaining);
        }
    }

    /// Stops the clock: this member leads no more.
    pub fn demote(&mut self) {
        *self = Timers::new(self.checkpoint_every_ms);
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
            self.checkpointed(now, id, 0);
        }
    }

    /// A lease was revoked: by us, or by a client.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(timer) = self.timers.remove(&id) {
            self.queue.remove(&(timer.due, id));
            if let Some(at) = timer.checkpoint_due {
                self.checkpoints.remove(&(at, id));
            }
        }
    }

    /// The log says that `remaining` seconds are left of a lease; 0 is all of it. That changes nothing here but when to say so
    /// again: one pause from now, if the lease lasts longer than that.
    pub fn checkpointed(&mut self, now: Millis, id: LeaseId, remaining: i64) {
        let Some(timer) = self.timers.get_mut(&id) else { return };
        timer.mark = match timer.mark {
            // Another one than that which is on its way: taken back, or from before. The log will say less again.
            Mark::Proposed(left) if left != remaining => timer.mark,
            _ if remaining > 0 => Mark::Standing,
            _ => Mark::None,
        };
        let left = if remaining > 0 { remaining } else { timer.ttl };
        let next = self.checkpoint_every_ms.filter(|every| seconds(left) > *every).map(|every| now.plus(every));
        self.set_checkpoint(id, next);
    }

    fn set_checkpoint(&mut self, id: LeaseId, next: Option<Millis>) {
        let timer = self.timers.get_mut(&id).expect("only a lease with a timer has checkpoints");
        if let Some(before) = std::mem::replace(&mut timer.checkpoint_due, next) {
            self.checkpoints.remove(&(before, id));
        }
        self.checkpoints.extend(next.map(|at| (at, id)));
    }

    /// Nobody knows what became of a checkpoint that was due: it may be applied yet.
    pub fn checkpoint_lost(&mut self, id: LeaseId) {
        if let Some(timer) = self.timers.get_mut(&id).filter(|timer| matches!(timer.mark, Mark::Proposed(_))) {
            timer.mark = Mark::Standing;
        }
    }

    /// Up to `max` leases with the seconds that are left of them, to be written down now. What comes of it is told by
    /// [`Self::checkpointed`] or [`Self::checkpoint_lost`]; until then they are not renewed.
    pub fn due_checkpoints(&mut self, now: Millis, max: usize) -> Vec<(LeaseId, i64)> {
        let mut found = Vec::new();
        while found.len() < max {
            let Some(&(_, id)) = self.checkpoints.first().filter(|(at, _)| *at <= now) else { break };
            let Timer { ttl, expires, .. } = self.timers[&id];
            let left = i64::try_from(expires.0.saturating_sub(now.0).div_ceil(1000)).unwrap_or(i64::MAX);
            self.set_checkpoint(id, self.checkpoint_every_ms.filter(|_| left > 0).map(|every| now.plus(every)));
            // Just renewed: a mark would say nothing. Run out: its revoke is under way.
            if 0 < left && left < ttl {
                self.timers.get_mut(&id).expect("it was there").mark = Mark::Proposed(left);
                found.push((id, left));
            }
        }
        found
    }

    /// Gives a lease its full time again.
    pub fn renew(&mut self, now: Millis, id: LeaseId) -> Renewal {
        if !self.leading {
            return Renewal::NotPrimary;
        }
        match self.timers.get(&id) {
            None => Renewal::Unknown,
            Some(timer) if timer.expires <= now || matches!(timer.mark, Mark::Proposed(_)) => Renewal::Wait,
            Some(timer) if timer.mark == Mark::Standing => Renewal::Checkpointed,
            Some(&Timer { ttl, .. }) => {
                self.set(id, ttl, now.plus(seconds(ttl)));
                Renewal::Extended(ttl)
            }
        }
    }

    fn set(&mut self, id: LeaseId, ttl: i64, expires: Millis) {
        let fresh = Timer { ttl, expires, due: expires, checkpoint_due: None, mark: Mark::None };
        let timer = self.timers.entry(id).or_insert(fresh);
        self.queue.remove(&(timer.due, id));
        *timer = Timer { ttl, expires, due: expires, ..*timer };
        self.queue.insert((expires, id));
    }

    /// Milliseconds until a lease runs out, 0 if it has; `None` if there is no such lease or this member does not lead.
    #[must_use]
    pub fn remaining(&self, now: Millis, id: LeaseId) -> Option<u64> {
        self.timers.get(&id).map(|timer| timer.expires.0.saturating_sub(now.0))
    }

    /// When a lease runs out or has run out; `None` as for [`Self::remaining`].
    #[must_use]
    pub fn expires(&self, id: LeaseId) -> Option<Millis> {
        self.timers.get(&id).map(|timer| timer.expires)
    }

    /// When [`Self::expired`] will next have something to say.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// When [`Self::due_checkpoints`] will next have something to say.
    #[must_use]
    pub fn next_checkpoint(&self) -> Option<Millis> {
        self.checkpoints.first().map(|(due, _)| *due)
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
        assert_eq!(timers.renew(Millis(5), ONE), Renewal::Checkpointed, "the log must forget the mark first");
        timers.checkpointed(Millis(5), ONE, 0);
        assert_eq!(timers.renew(Millis(5), ONE), Renewal::Extended(600));
        assert_eq!(timers.remaining(Millis(5), ONE), Some(600_000));
    }

    #[test]
    fn checkpoints_come_every_pause_for_leases_that_last_longer() {
        let mut timers = Timers::new(Some(60_000));
        timers.promote(Millis(0), &table([(1, 600), (2, 60)]), 0);
        assert_eq!(timers.next_checkpoint(), Some(Millis(60_000)));
        assert_eq!(timers.due_checkpoints(Millis(59_999), 10), []);
        assert_eq!(timers.due_checkpoints(Millis(60_000), 10), [(ONE, 540)]);
        assert_eq!(timers.due_checkpoints(Millis(60_000), 10), [], "once");
        assert_eq!(timers.renew(Millis(60_001), ONE), Renewal::Wait, "the mark would outlive the renewal");
        timers.checkpointed(Millis(60_010), ONE, 540);
        assert_eq!(timers.due_checkpoints(Millis(120_010), 10), [(ONE, 480)], "what has begun counts as a second");
        timers.checkpointed(Millis(120_010), ONE, 480);
        timers.checkpointed(Millis(120_010), ONE, 0);
        assert_eq!(timers.renew(Millis(180_010), ONE), Renewal::Extended(600));
        assert_eq!(timers.due_checkpoints(Millis(180_010), 10), [], "just renewed: all of it is left");
        assert_eq!(timers.due_checkpoints(Millis(240_010), 10), [(ONE, 540)]);
        timers.checkpoint_lost(ONE);
        assert_eq!(timers.renew(Millis(240_020), ONE), Renewal::Checkpointed, "it may be in the log");
        timers.revoked(ONE);
        assert_eq!(timers.next_checkpoint(), None);
    }

    #[test]
    fn a_mark_that_leaves_less_than_a_pause_is_the_last_one() {
        let mut timers = Timers::new(Some(60_000));
        timers.promote(Millis(0), &table([(1, 100)]), 0);
        assert_eq!(timers.due_checkpoints(Millis(60_000), 10), [(ONE, 40)]);
        timers.checkpointed(Millis(60_000), ONE, 40);
        assert_eq!(timers.next_checkpoint(), None);
        timers.demote();
        timers.promote(Millis(0), &table([(1, 100)]), 0);
        assert_eq!(timers.next_checkpoint(), Some(Millis(60_000)), "a change of leader turns nothing off");
    }

    /// Found by simulation: a renewal took a mark back while the next one was on its way already.
    #[test]
    fn a_mark_that_is_taken_back_does_not_hide_the_one_behind_it() {
        let mut timers = Timers::new(Some(1000));
        timers.promote(Millis(0), &table([(1, 10)]), 0);
        assert_eq!(timers.due_checkpoints(Millis(1000), 10), [(ONE, 9)]);
        timers.checkpointed(Millis(1100), ONE, 9);
        assert_eq!(timers.renew(Millis(1900), ONE), Renewal::Checkpointed);
        // Its owner's wish is on its way through the log when the next mark is due.
        assert_eq!(timers.due_checkpoints(Millis(2100), 10), [(ONE, 8)]);
        timers.checkpointed(Millis(2200), ONE, 0);
        assert_eq!(timers.renew(Millis(2200), ONE), Renewal::Wait, "a successor would give it 8 s only");
        timers.checkpointed(Millis(2300), ONE, 8);
        assert_eq!(timers.renew(Millis(2300), ONE), Renewal::Checkpointed);
        timers.checkpointed(Millis(2400), ONE, 0);
        assert_eq!(timers.renew(Millis(2400), ONE), Renewal::Extended(10));
    }

    #[test]
    fn never_more_checkpoints_than_one_entry_holds() {
        let mut timers = Timers::new(Some(1000));
        timers.promote(Millis(0), &table((1..=25).map(|id| (id, 60))), 0);
        let sizes: Vec<usize> = (0..4).map(|_| timers.due_checkpoints(Millis(1000), 10).len()).collect();
        assert_eq!(sizes, [10, 10, 5, 0]);
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
        assert_eq!(timers.renew(Millis(11_000), ONE), Renewal::Wait);
        timers.expired(Millis(11_000), 10);
        assert_eq!(timers.renew(Millis(11_001), ONE), Renewal::Wait);
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
    fn when_a_lease_runs_out_does_not_move_while_its_revoke_is_tried() {
        let mut timers = leading([(1, 10)]);
        timers.expired(Millis(12_000), 10);
        assert_eq!(timers.expires(ONE), Some(Millis(11_000)));
        assert_eq!(timers.expires(LeaseId(2)), None);
    }
}
