//! Who hears of an applied entry, and in which order: events first, then the answer. Who reads his own write and then asks a watch must not be early.

use super::Done;
use crate::apply::LeaseChange;
use crate::apply::Outcome;
use crate::apply::Reply;
use crate::auth::Change;
use crate::error::Error;
use crate::proto::mvccpb::Event;
use crate::types::Revision;

/// Those who hear of applied entries. Calls come in the order in which the effects must be seen.
pub trait Audience {
    /// The leader's timers; not called for nothing.
    fn leases(&mut self, changes: &[LeaseChange]);

    /// Those who have logged in.
    fn auth(&mut self, change: &Change);

    /// Watchers: the events of this revision; not called for nothing.
    fn events(&mut self, revision: Revision, events: &[Event]);

    /// Watchers: history begins here now.
    fn compacted(&mut self, floor: Revision);

    /// Whoever waits for this request here; 0 is nobody.
    fn answer(&mut self, request: u64, revision: Revision, reply: Result<Reply, Error>);

    /// The answer to a conf change. Give it once raft can know that the change is applied: whoever hears of it may ask for the next one at once.
    fn answer_conf_change(&mut self, request: u64, reply: Result<Reply, Error>);
}

/// Tells everybody of an entry. Entries are told in the order of the log.
pub fn tell(done: Done, audience: &mut impl Audience) {
    let Done { request, outcome, is_conf_change, .. } = done;
    let Outcome { reply, revision, events, compacted, leases, auth, .. } = outcome;
    if !leases.is_empty() {
        audience.leases(&leases);
    }
    if let Some(change) = auth {
        audience.auth(&change);
    }
    if !events.is_empty() {
        audience.events(revision, &events);
    }
    if let Some(floor) = compacted {
        audience.compacted(floor);
    }
    if is_conf_change {
        audience.answer_conf_change(request, reply);
    } else {
        audience.answer(request, revision, reply);
    }
}
