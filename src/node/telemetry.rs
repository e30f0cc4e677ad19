//! From the probes to the observers: stamps events with the time and hands them to whoever listens.
//!
//! A broadcast channel is bounded and lossy: an observer that falls behind loses the oldest events and is told how many. Nothing here waits for an observer.

use crate::apply::Reply;
use crate::consensus;
use crate::error::Error;
use crate::membership::Member;
use crate::membership::Members;
use crate::probe::Listeners;
use crate::probe::Probe;
use crate::proto::etcdserverpb::InternalRaftRequest;
use crate::proto::lab;
use crate::proto::lab::Event;
use crate::proto::lab::Telemetry;
use crate::proto::lab::event::Kind;
use crate::types::MemberId;
use parking_lot::Mutex;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::broadcast;

/// Events that one observer may lag behind.
const LAG_EVENTS: usize = 16 * 1024;

/// Where all probes of one member end.
pub(crate) struct Tap {
    pub(crate) listeners: Listeners,
    member: MemberId,
    boot: u64,
    started: Instant,
    stream: broadcast::Sender<Telemetry>,
    /// The lock makes sequence numbers and times ascend together.
    seq: Mutex<u64>,
}

impl Tap {
    /// `boot` tells this run of the process from the ones before.
    pub(crate) fn new(member: MemberId, boot: u64, started: Instant) -> Tap {
        let (stream, _) = broadcast::channel(LAG_EVENTS);
        Tap { listeners: Listeners::default(), member, boot, started, stream, seq: Mutex::new(0) }
    }

    /// A probe that ends here.
    pub(crate) fn probe(&self) -> Probe {
        Probe::new(self.listeners.clone())
    }

    /// Sends what `probe` has gathered.
    pub(crate) fn drain(&self, probe: &mut Probe) {
        if !self.listeners.any() {
            return;
        }
        let (events, dropped) = probe.drain();
        if events.is_empty() && dropped == 0 {
            return;
        }
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut seq = self.seq.lock();
        for event in events {
            *seq += 1;
            let _nobody = self.stream.send(self.stamp(event, at_us, *seq));
        }
        // What had no room in the probe came after what had: the gap is before the next event.
        *seq += dropped;
    }

    /// Sends one event from outside the step functions.
    pub(crate) fn tell(&self, make: impl FnOnce() -> Kind) {
        let mut probe = self.probe();
        probe.tell(make);
        self.drain(&mut probe);
    }

    pub(crate) fn observe(&self) -> broadcast::Receiver<Telemetry> {
        self.stream.subscribe()
    }

    /// An event that only one observer gets: the opening snapshot.
    pub(crate) fn private(&self, event: Event) -> Telemetry {
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let seq = *self.seq.lock();
        self.stamp(event, at_us, seq)
    }

    fn stamp(&self, event: Event, at_us: u64, seq: u64) -> Telemetry {
        Telemetry { member_id: self.member.0, boot_id: self.boot, at_us, seq, dropped: 0, event: Some(event) }
    }
}

/// A request has come in.
pub(crate) fn proposed(id: u64, request: &InternalRaftRequest) -> Kind {
    Kind::Proposed(lab::Proposed { request_id: id, summary: consensus::summary_of(request) })
}

/// A request was answered.
pub(crate) fn answered(id: u64, result: &Result<Reply, Error>, took_ms: u64) -> Kind {
    let revision = result.as_ref().ok().and_then(revision).unwrap_or(0);
    Kind::Answered(lab::Answered { request_id: id, ok: result.is_ok(), revision, took_us: took_ms * 1000 })
}

/// The revision that an answer speaks of.
fn revision(reply: &Reply) -> Option<u64> {
    let header = match reply {
        Reply::Put(r) => &r.header,
        Reply::DeleteRange(r) => &r.header,
        Reply::Txn(r) => &r.header,
        Reply::Compaction(r) => &r.header,
        Reply::LeaseGrant(r) => &r.header,
        Reply::LeaseRevoke(r) => &r.header,
        Reply::Alarm(r) => &r.header,
        Reply::Auth(header) | Reply::Authenticate { header, .. } => return u64::try_from(header.revision).ok(),
        Reply::Done => &None,
    };
    header.as_ref().and_then(|header| u64::try_from(header.revision).ok())
}

/// Entries up to `index` are durable here.
pub(crate) fn persisted(index: u64, entries: usize, bytes: usize, took: Duration) -> Kind {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let sync_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    Kind::Persisted(lab::Persisted { index, entries: small(entries), bytes: small(bytes), sync_us })
}

/// Who is a member.
pub(crate) fn members(members: &Members) -> lab::Members {
    let tell = |member: &Member| lab::LabMember {
        id: member.id.0,
        name: member.name.clone(),
        learner: member.is_learner,
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
    };
    lab::Members { members: members.iter().map(tell).collect() }
}
