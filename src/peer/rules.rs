//! The lab's rules on links: cut one way or both, drop some, delay.
//!
//! Consulted for each message. Without rules that costs one relaxed load. A cut link stays connected and carries nothing that
//! raft would see, which is what a member behind a broken switch sees until connections time out.

use crate::types::MemberId;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What happens to messages between this member and another. The default lets all through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkRule {
    /// Nothing goes out to it.
    pub cut_out: bool,
    /// Nothing comes in from it.
    pub cut_in: bool,
    /// Of a hundred messages to it, so many are lost.
    pub drop_out_percent: u8,
    /// Each message to it leaves this much later, in order.
    pub delay_out: Duration,
}

/// What to do with one outgoing message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    Delay(Duration),
}

/// One rule for each link that has one.
#[derive(Debug, Default)]
pub struct Rules {
    any: AtomicBool,
    table: RwLock<BTreeMap<MemberId, LinkRule>>,
    counter: AtomicU64,
}

impl Rules {
    /// Sets the rule for the link to `peer`; the default rule takes it away.
    pub fn set(&self, peer: MemberId, rule: LinkRule) {
        let mut table = self.table.write();
        if rule == LinkRule::default() {
            table.remove(&peer);
        } else {
            table.insert(peer, rule);
        }
        self.any.store(!table.is_empty(), Ordering::Relaxed);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        let mut table = self.table.write();
        table.clear();
        self.any.store(false, Ordering::Relaxed);
    }

    /// The rules in force.
    #[must_use]
    pub fn all(&self) -> BTreeMap<MemberId, LinkRule> {
        self.table.read().clone()
    }

    fn of(&self, peer: MemberId) -> Option<LinkRule> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.table.read().get(&peer).copied()
    }

    /// Whether messages to or from `peer` are cut.
    pub(super) fn cuts(&self, peer: MemberId) -> bool {
        self.of(peer).is_some_and(|r| r.cut_out || r.cut_in)
    }

    pub(super) fn lets_in(&self, peer: MemberId) -> bool {
        !self.of(peer).is_some_and(|r| r.cut_in)
    }

    pub(super) fn outgoing(&self, peer: MemberId) -> Verdict {
        let Some(rule) = self.of(peer) else { return Verdict::Pass };
        if rule.cut_out || self.next_percent() < u64::from(rule.drop_out_percent) {
            Verdict::Drop
        } else if rule.delay_out.is_zero() {
            Verdict::Pass
        } else {
            Verdict::Delay(rule.delay_out)
        }
    }

    /// Evenly spread over 0..100, the same in each run (splitmix64 over a counter).
    fn next_percent(&self) -> u64 {
        let n = self.counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: MemberId = MemberId(7);

    #[test]
    fn a_rule_holds_for_its_link_until_it_is_taken_away() {
        let rules = Rules::default();
        assert_eq!(rules.outgoing(PEER), Verdict::Pass);
        rules.set(PEER, LinkRule { cut_out: true, ..LinkRule::default() });
        assert_eq!((rules.outgoing(PEER), rules.lets_in(PEER)), (Verdict::Drop, true));
        assert_eq!(rules.outgoing(MemberId(8)), Verdict::Pass);
        let delay_out = Duration::from_millis(5);
        rules.set(PEER, LinkRule { cut_in: true, delay_out, ..LinkRule::default() });
        assert_eq!((rules.outgoing(PEER), rules.lets_in(PEER)), (Verdict::Delay(delay_out), false));
        rules.set(PEER, LinkRule::default());
        assert_eq!((rules.outgoing(PEER), rules.lets_in(PEER)), (Verdict::Pass, true));
    }

    #[test]
    fn a_third_lost_is_about_a_third() {
        let rules = Rules::default();
        rules.set(PEER, LinkRule { drop_out_percent: 33, ..LinkRule::default() });
        let lost = (0..3000).filter(|_| rules.outgoing(PEER) == Verdict::Drop).count();
        assert!((900..1100).contains(&lost), "{lost}");
    }
}
