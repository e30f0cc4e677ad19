//! A leader's duty to its leases: what it does by its own clock, and what it asks before.
//!
//! A leader may be one no more without knowing it: its process was stopped, its disk hung. So it acts in three steps, and each driver waits between
//! them in its own way:
//!
//! ```text
//! Look::begin: leading, and something due? ── a quorum: yes, still you ──▶ Look::expired, Look::marks ──▶ log, as leader of that term only
//! ```
//!
//! Source: etcd `server/etcdserver/server.go` (`revokeExpiredLeases`, `ensureLeadership`); reliability 3 (#15247, #14087, #20615).

use crate::apply::LeaseChange;
use crate::lease::Renewal;
use crate::lease::Table;
use crate::lease::Timers;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::proto::etcdserverpb as pb;
use crate::types::LeaseId;
use crate::types::Millis;
use crate::types::Term;

/// How many leases one look has revoked; etcd's value.
const REVOKE_MAX: usize = 500;
/// Checkpoints in one entry of the log; etcd's value.
const CHECKPOINTS_MAX: usize = 1000;
/// Ticks that raft may be late before its leadership is in doubt; etcd's value.
const LATE_TICKS: u64 = 3;

/// Where a member sees itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub term: Term,
    pub leads: bool,
}

/// A leader's first entry was applied, that of the term `began`: leases are its to expire now, and nobody else's. What was applied late, after
/// a newer term has begun, says nothing.
pub fn reign_began(timers: &mut Timers, now: Millis, began: Term, sees: Standing, table: &Table, extend_ms: u64) {
    if sees.term != began {
        return;
    }
    if sees.leads {
        timers.promote(now, table, extend_ms);
    } else if !is_planted(Bug::DeposedLeaderRevokes) {
        timers.demote();
    }
}

/// Tells the timers what an entry did to leases.
pub fn follow(timers: &mut Timers, now: Millis, changes: &[LeaseChange]) {
    for change in changes {
        match change {
            LeaseChange::Granted(id, ttl) => timers.granted(now, *id, *ttl),
            LeaseChange::Revoked(id) => timers.revoked(*id),
            LeaseChange::Checkpointed(id, remaining) => timers.checkpointed(now, *id, *remaining),
        }
    }
}

/// A leader's look at its leases, in this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What comes of the look may be proposed as the leader of this term only.
    pub term: Term,
}

impl Look {
    /// A look, if this member leads and something is due. A quorum must confirm that it leads before the look goes on.
    #[must_use]
    pub fn begin(timers: &Timers, now: Millis, sees: Standing) -> Option<Look> {
        let is_due = [timers.next_due(), timers.next_checkpoint()].into_iter().flatten().any(|due| due <= now);
        let leads = sees.leads || is_planted(Bug::DeposedLeaderRevokes);
        (is_due && leads).then_some(Look { term: sees.term })
    }

    fn holds(self, sees: Standing) -> bool {
        sees == Standing { term: self.term, leads: true } || is_planted(Bug::DeposedLeaderRevokes)
    }

    /// The leases to revoke. The timers are asked only now, after the quorum: since the first entry of this term is applied by then, they are
    /// this term's.
    pub fn expired(self, timers: &mut Timers, now: Millis, sees: Standing) -> Vec<LeaseId> {
        if self.holds(sees) { timers.expired(now, REVOKE_MAX) } else { Vec::new() }
    }

    /// Leases with the seconds that are left of them, to be written down in one entry; none if there are no more.
    pub fn marks(self, timers: &mut Timers, now: Millis, sees: Standing) -> Vec<(LeaseId, i64)> {
        if self.holds(sees) { timers.due_checkpoints(now, CHECKPOINTS_MAX) } else { Vec::new() }
    }
}

/// What a leader has to say to a keep-alive, or to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It lives for so many seconds more.
    Extended(i64),
    /// There is no such lease.
    Gone,
    /// There seems to be no such lease. A leader that was overthrown a moment ago does not know what its successor has granted: a quorum must
    /// confirm this one, then ask again.
    AskQuorum,
    /// The log says that less is left of it. Take that back through the log, then ask again.
    Unmark,
    /// Ask again when the log has gone on.
    Wait,
    /// This member does not lead.
    NotPrimary,
}

/// Renews a lease by this leader's own clock. `confirmed`: a quorum has said since the question came that this member leads.
pub fn renew(timers: &mut Timers, now: Millis, id: LeaseId, sees: Standing, confirmed: bool) -> Renewed {
    if !sees.leads {
        return Renewed::NotPrimary;
    }
    match timers.renew(now, id) {
        Renewal::Extended(ttl) => Renewed::Extended(ttl),
        Renewal::Unknown if confirmed => Renewed::Gone,
        Renewal::Unknown => Renewed::AskQuorum,
        Renewal::Checkpointed => Renewed::Unmark,
        Renewal::Wait => Renewed::Wait,
        Renewal::NotPrimary => Renewed::NotPrimary,
    }
}

/// The entry that revokes a lease.
#[must_use]
pub fn revoke(id: LeaseId) -> pb::InternalRaftRequest {
    let lease_revoke = Some(pb::LeaseRevokeRequest { id: id.0 });
    pb::InternalRaftRequest { lease_revoke, ..pb::InternalRaftRequest::default() }
}

/// The entry that says what is left of some leases.
#[must_use]
pub fn checkpoint(left: &[(LeaseId, i64)]) -> pb::InternalRaftRequest {
    let one = |(id, remaining_ttl): &(LeaseId, i64)| pb::LeaseCheckpoint { id: id.0, remaining_ttl: *remaining_ttl };
    let checkpoints = left.iter().map(one).collect();
    let lease_checkpoint = Some(pb::LeaseCheckpointRequest { checkpoints });
    pb::InternalRaftRequest { lease_checkpoint, ..pb::InternalRaftRequest::default() }
}

/// How regularly a member's raft has been driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// When it last was.
    pub ticked: Millis,
    /// How often it was away for long, and up to which of these a quorum has confirmed since that it leads.
    pub stalls: u64,
    pub confirmed: u64,
}

impl Pulse {
    /// Whether a leader may trust its own clock. After a pause it must ask a quorum first: others may have elected another meanwhile.
    #[must_use]
    pub fn is_steady(&self, now: Millis, tick_ms: u64) -> bool {
        now <= self.ticked.plus(LATE_TICKS * tick_ms) && self.confirmed == self.stalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Batch;

    const LEADS: Standing = Standing { term: Term(3), leads: true };
    const FOLLOWS: Standing = Standing { term: Term(4), leads: false };

    fn leader_of_one_lease() -> (Timers, Table) {
        let (mut timers, mut table) = (Timers::new(Some(4000)), Table::default());
        table.grant(LeaseId(7), 10, &mut Batch::default()).expect("new");
        reign_began(&mut timers, Millis(0), Term(3), LEADS, &table, 1000);
        (timers, table)
    }

    #[test]
    fn a_look_that_was_begun_as_leader_reveals_nothing_to_a_deposed_one() {
        let (mut timers, _) = leader_of_one_lease();
        assert_eq!(Look::begin(&timers, Millis(3000), LEADS), None);
        let look = Look::begin(&timers, Millis(12_000), LEADS).expect("it has run out");
        assert_eq!(Look::begin(&timers, Millis(12_000), FOLLOWS), None);
        let later = Standing { term: Term(5), leads: true };
        for changed in [FOLLOWS, later] {
            assert!(look.expired(&mut timers, Millis(12_000), changed).is_empty(), "{changed:?}");
            assert!(look.marks(&mut timers, Millis(12_000), changed).is_empty(), "{changed:?}");
        }
        assert_eq!(look.expired(&mut timers, Millis(12_000), LEADS), [LeaseId(7)]);
    }

    #[test]
    fn a_checkpoint_that_is_due_is_a_reason_to_look() {
        let (mut timers, _) = leader_of_one_lease();
        let look = Look::begin(&timers, Millis(4000), LEADS).expect("a checkpoint");
        assert!(look.expired(&mut timers, Millis(4000), LEADS).is_empty());
        assert_eq!(look.marks(&mut timers, Millis(4000), LEADS), [(LeaseId(7), 7)]);
    }

    #[test]
    fn an_entry_of_an_earlier_leader_ends_no_reign() {
        let (mut timers, table) = leader_of_one_lease();
        reign_began(&mut timers, Millis(1), Term(2), LEADS, &table, 0);
        assert_eq!(timers.expires(LeaseId(7)), Some(Millis(11_000)), "as it was");
        reign_began(&mut timers, Millis(1), Term(4), FOLLOWS, &table, 0);
        assert!(!timers.is_leading());
    }

    #[test]
    fn a_lease_is_denied_only_after_a_quorum_has_spoken() {
        let (mut timers, _) = leader_of_one_lease();
        let mut renew = |id, sees, confirmed| renew(&mut timers, Millis(1), LeaseId(id), sees, confirmed);
        assert_eq!(renew(7, LEADS, false), Renewed::Extended(10));
        assert_eq!(renew(8, LEADS, false), Renewed::AskQuorum);
        assert_eq!(renew(8, LEADS, true), Renewed::Gone);
        assert_eq!(renew(8, FOLLOWS, true), Renewed::NotPrimary);
    }

    #[test]
    fn a_pause_shakes_trust_until_a_quorum_has_spoken() {
        let pulse = Pulse { ticked: Millis(1000), stalls: 2, confirmed: 2 };
        assert!(pulse.is_steady(Millis(1300), 100));
        assert!(!pulse.is_steady(Millis(1301), 100));
        assert!(!Pulse { stalls: 3, ..pulse }.is_steady(Millis(1000), 100));
    }
}
