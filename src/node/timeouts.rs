//! Why a proposal waited too long, in etcd's words, by which clients and operators tell a lost leader from a lost connection.
//!
//! | what happened while it waited | answer |
//! |---|---|
//! | nobody led at any time | `context deadline exceeded` |
//! | it was made shortly before a new leader was elected | `... possibly due to previous leader failure` |
//! | the leader has not been connected to this member all the time; or it leads, and a quorum has not | `... possibly due to connection lost` |
//! | anything else | `request timed out` |
//!
//! Source: etcd `server/etcdserver/v3_server.go` (`parseProposeCtxErr`, and `processInternalRaftRequestOnce` for the first row), `util.go`
//! (`isConnectedSince`, `isConnectedToQuorumSince`); contract-server 2.10.

use super::Inner;
use super::members::quorum;
use crate::error::Error;
use crate::types::Millis;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What decides.
struct Waited {
    started: Millis,
    /// When the leader of today was elected, as far as this member saw; 0 for never.
    elected: Millis,
    election_ms: u64,
    has_leader: bool,
    /// Nobody led when it was made, and nobody since.
    never_led: bool,
    /// All the time, to the leader or, on the leader, to a quorum.
    connected: bool,
}

impl Waited {
    fn why(&self) -> Error {
        let lost_after = self.elected.0.saturating_sub(2 * self.election_ms);
        if self.never_led {
            Error::NobodyLed
        } else if self.elected.0 != 0 && lost_after < self.started.0 && self.started < self.elected {
            Error::TimeoutLeaderFailure
        } else if self.has_leader && !self.connected {
            Error::TimeoutConnectionLost
        } else {
            Error::Timeout
        }
    }
}

impl Inner {
    /// Why a proposal of `started` has waited too long. `reign` is what [`super::Published`] said then.
    pub(super) fn timeout_error(&self, started: Millis, reign: u64) -> Error {
        let (published, leader) = (&self.published, self.leader());
        let waited = Waited {
            started,
            elected: Millis(published.leader_since_ms.load(Ordering::Acquire)),
            election_ms: self.config.election_ms(),
            has_leader: !leader.is_none(),
            never_led: reign.is_multiple_of(2) && published.reign.load(Ordering::Acquire) == reign,
            connected: leader.is_none() || self.connected_since(started),
        };
        waited.why()
    }

    fn connected_since(&self, started: Millis) -> bool {
        let age = Duration::from_millis(self.now().0.saturating_sub(started.0));
        let stood = |id| id == self.id || self.active_since(id).is_some_and(|since| since.elapsed() > age);
        let leader = self.leader();
        if leader != self.id {
            return stood(leader);
        }
        // Not of the state, which may be what is waited for: those who wait too long would then all wait on.
        let others = self.peers.get().map(|peers| peers.ids()).unwrap_or_default();
        others.iter().filter(|id| stood(**id)).count() + 1 >= quorum(others.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Waited = Waited {
        started: Millis(10_000),
        elected: Millis(2_000),
        election_ms: 1_000,
        has_leader: true,
        never_led: false,
        connected: true,
    };

    #[test]
    fn a_proposal_that_waited_too_long_says_why_as_in_etcd() {
        let cases = [
            (USUAL, Error::Timeout),
            (Waited { connected: false, ..USUAL }, Error::TimeoutConnectionLost),
            (Waited { elected: Millis(11_999), ..USUAL }, Error::TimeoutLeaderFailure),
            (Waited { elected: Millis(11_999), connected: false, ..USUAL }, Error::TimeoutLeaderFailure),
            // Two election time-outs before the election its predecessor still led.
            (Waited { elected: Millis(12_000), ..USUAL }, Error::Timeout),
            (Waited { elected: Millis(10_000), ..USUAL }, Error::Timeout),
            (Waited { has_leader: false, connected: false, ..USUAL }, Error::Timeout),
            (Waited { has_leader: false, never_led: true, ..USUAL }, Error::NobodyLed),
        ];
        for (waited, why) in cases {
            assert_eq!(waited.why(), why);
        }
    }
}
