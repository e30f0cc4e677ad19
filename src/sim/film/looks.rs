//! What a simulated member answers when it is asked for what is no event: watchers, leases, the newest changes; and what was ever written.

use super::super::member::Alive;
use crate::lease::Lease;
use crate::proto::lab;
use crate::proto::mvccpb;
use crate::types::KeyRange;
use crate::types::LeaseId;
use crate::types::Millis;
use crate::types::Revision;
use crate::watch::History as _;
use crate::watch::Past;
use crate::watch::Seen;
use bytes::Bytes;

/// A member is asked so often, in simulated milliseconds.
const EVERY_MS: u64 = 200;
/// Most of anything in one answer, and revisions that are read at once.
const MOST: usize = 100;
/// Keys of a lease that are told.
const LEASE_KEYS: usize = 3;

/// One version of one key, or its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub is_deleted: bool,
}

/// All that was written, as the members that are furthest have applied it.
#[derive(Default)]
pub(super) struct History {
    pub(super) versions: Vec<Version>,
    newest: u64,
}

fn everything() -> KeyRange {
    KeyRange::From(Bytes::from_static(b"\0"))
}

/// What changed from a revision on, and up to where; what is compacted is not told.
fn events(alive: &Alive, from: u64) -> Vec<mvccpb::Event> {
    match alive.machine.events(&everything(), Revision(from), MOST) {
        Ok(Past::Events { events, .. }) => events,
        _ => Vec::new(),
    }
}

impl History {
    pub(super) fn take_in(&mut self, alive: &Alive) {
        let revision = alive.revision().0;
        if revision <= self.newest {
            return;
        }
        let floor = alive.machine.read().store().compacted().map_or(0, |floor| floor.0);
        let found = events(alive, (self.newest + 1).max(floor).max(1));
        self.newest = revision;
        self.versions.extend(found.into_iter().filter_map(version));
    }
}

fn version(event: mvccpb::Event) -> Option<Version> {
    let is_deleted = event.r#type != 0;
    event.kv.map(|kv| Version {
        key: kv.key.to_vec(),
        value: kv.value.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
        is_deleted,
    })
}

/// When a member was asked last, and what it has told.
#[derive(Clone, Default)]
pub(super) struct Looks {
    next_ms: u64,
    told: u64,
}

impl Looks {
    pub(super) fn due(&mut self, at_ms: u64, clock: Millis, alive: &Alive) -> Option<lab::LookResponse> {
        if at_ms < self.next_ms {
            return None;
        }
        self.next_ms = at_ms + EVERY_MS;
        let (revision, floor) = {
            let machine = alive.machine.read();
            (machine.store().revision().0, machine.store().compacted().map_or(0, |floor| floor.0))
        };
        let from = (self.told + 1).max(floor).max(1).max(revision.saturating_sub(MOST as u64 - 1));
        self.told = revision;
        let found = if from > revision { Vec::new() } else { events(alive, from) };
        let (seen, total) = alive.hub.look(MOST);
        let (leases, leases_total) = leases(clock, alive);
        Some(lab::LookResponse {
            watchers: seen.into_iter().map(Seen::into_wire).collect(),
            watchers_total: small(total),
            leases,
            leases_total: small(leases_total),
            revision,
            compact_revision: floor,
            changes: found.into_iter().filter_map(change).collect(),
            rights: Some(alive.machine.read().auth().look(MOST)),
            ..lab::LookResponse::default()
        })
    }
}

fn change(event: mvccpb::Event) -> Option<lab::Change> {
    let deleted = event.r#type != 0;
    event.kv.map(|kv| lab::Change {
        revision: kv.mod_revision.unsigned_abs(),
        key: kv.key,
        deleted,
        version: kv.version,
        lease: kv.lease,
    })
}

fn leases(clock: Millis, alive: &Alive) -> (Vec<lab::LeaseView>, usize) {
    let leads = alive.leads() && alive.timers.is_leading();
    let left = |id| match leads {
        true => alive.timers.remaining(clock, id).and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0),
        false => -1,
    };
    let view = |(id, lease): (LeaseId, &Lease)| lab::LeaseView {
        id: id.0,
        ttl_s: lease.ttl,
        left_ms: left(id),
        keys_total: small(lease.keys().count()),
        keys: lease.keys().take(LEASE_KEYS).cloned().collect(),
    };
    let machine = alive.machine.read();
    (machine.leases().iter().take(MOST).map(view).collect(), machine.leases().len())
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
