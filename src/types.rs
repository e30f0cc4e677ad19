//! The words that every floor shares: revisions, terms, ids and key ranges.
//!
//! Plain values without behaviour of their own. The wire's `int64` and `uint64` are converted here and in [`crate::proto`]
//! only, so that a revision is never taken for a raft index: both count writes, and they differ from the second write on.

use bytes::Bytes;
use std::fmt;

/// The etcd release that this server is interchangeable with: reported wherever etcd reports its version.
pub const ETCD_VERSION: &str = "3.6.14";

/// The cluster version that goes with [`ETCD_VERSION`].
pub const CLUSTER_VERSION: &str = "3.6.0";

/// A point in the history of the whole key space: the count of committed write transactions, plus one. An empty store
/// is at revision 1. Not a per-key counter: that is a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that nobody has written to.
    pub const FIRST: Revision = Revision(1);

    /// The revision that the next write transaction makes.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// The wire's form. Revisions stay far below `i64::MAX`: one write a nanosecond would take 292 years.
    #[must_use]
    pub fn to_wire(self) -> i64 {
        self.0 as i64
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// No such thing: ids are never zero.
            pub const NONE: $name = $name(0);

            /// Whether this names nothing.
            #[must_use]
            pub fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            /// Lower-case hexadecimal without padding, as etcd prints ids.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

number!(
    /// A raft term: counts elections. Raft section 5.1.
    Term,
    u64
);
number!(
    /// A place in the raft log, from 1. Not a revision: empty entries, conf changes and lease grants take one too.
    Index,
    u64
);
number!(
    /// A lease's id. Negative ones are allowed when a client chooses them; 0 means no lease.
    LeaseId,
    i64
);
number!(
    /// Milliseconds on the lab clock: counted from an arbitrary start, never backwards.
    Millis,
    u64
);
hex_id!(
    /// A member's id: etcd's hash of its peer URLs and the cluster token.
    MemberId
);
hex_id!(
    /// A cluster's id: etcd's hash of its first members' ids.
    ClusterId
);

impl Index {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }
}

impl Millis {
    /// This moment, `ms` milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }
}

/// Which keys a request means. Parsed once from the wire's `key` and `range_end`, then used by the permission check *and* by the
/// execution, so that the two can never mean different keys.
///
/// Source: etcd's wire habit; `range_end` of one zero byte means "to the end".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Single(Bytes),
    /// From the first to before the second. Empty if the second is not larger.
    Interval(Bytes, Bytes),
    /// This key and all that follow it.
    From(Bytes),
}

impl KeyRange {
    /// Reads the wire's pair. An empty `key` is the caller's to refuse.
    #[must_use]
    pub fn parse(key: &Bytes, range_end: &Bytes) -> KeyRange {
        match range_end.as_ref() {
            [] => KeyRange::Single(key.clone()),
            [0] => KeyRange::From(key.clone()),
            _ => KeyRange::Interval(key.clone(), range_end.clone()),
        }
    }

    /// The wire's pair for this range: [`KeyRange::parse`] of it is the same range.
    #[must_use]
    pub fn to_wire(&self) -> (Bytes, Bytes) {
        match self {
            KeyRange::Single(key) => (key.clone(), Bytes::new()),
            KeyRange::Interval(from, to) => (from.clone(), to.clone()),
            KeyRange::From(from) => (from.clone(), Bytes::from_static(b"\0")),
        }
    }

    /// Whether `key` is meant.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(k) => k == key,
            KeyRange::Interval(from, to) => from.as_ref() <= key && key < to.as_ref(),
            KeyRange::From(from) => from.as_ref() <= key,
        }
    }

    /// The first key that could be meant.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::Single(k) | KeyRange::Interval(k, _) | KeyRange::From(k) => k,
        }
    }

    /// Whether no key can be meant: an interval that ends where it begins, or before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Interval(from, to) if from >= to)
    }
}

/// The end of the interval that holds every key with this prefix: the prefix with its last byte raised, or one zero byte ("to the end")
/// if there is no larger prefix. Source: etcd `client/v3/op.go`, a client-side habit.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_wire_pair_means_one_of_three_ranges() {
        assert_eq!(KeyRange::parse(&b("a"), &b("")), KeyRange::Single(b("a")));
        assert_eq!(KeyRange::parse(&b("a"), &b("\0")), KeyRange::From(b("a")));
        assert_eq!(KeyRange::parse(&b("a"), &b("c")), KeyRange::Interval(b("a"), b("c")));
        assert!(KeyRange::parse(&b("c"), &b("a")).is_empty());
        assert!(!KeyRange::parse(&b("c"), &b("a")).contains(b"b"));
    }

    #[test]
    fn a_prefix_of_all_ones_has_no_end() {
        assert_eq!(prefix_end(b"foo"), b"fop");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
    }

    /// All keys of up to four bytes out of three, sorted.
    fn universe() -> BTreeSet<Vec<u8>> {
        let mut all = BTreeSet::new();
        let mut longest = vec![Vec::new()];
        for _ in 0..4 {
            let longer = |key: &Vec<u8>| BYTES.map(|byte| [key.as_slice(), &[byte]].concat());
            longest = longest.iter().flat_map(longer).collect();
            all.extend(longest.iter().cloned());
        }
        all
    }

    const BYTES: [u8; 3] = [0, b'a', 0xff];

    fn short(lengths: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(BYTES.to_vec()), lengths)
    }

    proptest! {
        #[test]
        fn a_range_means_the_keys_that_the_wires_rule_picks_from_all(key in short(1..=3), range_end in short(0..=3)) {
            let range = KeyRange::parse(&key.clone().into(), &range_end.clone().into());
            let all = universe();
            let from_key = all.range(key.clone()..);
            let meant: BTreeSet<Vec<u8>> = match range_end.as_slice() {
                [] => BTreeSet::from([key.clone()]),
                [0] => from_key.cloned().collect(),
                end => from_key.take_while(|other| other.as_slice() < end).cloned().collect(),
            };
            let contained: BTreeSet<Vec<u8>> = all.iter().filter(|other| range.contains(other)).cloned().collect();
            prop_assert_eq!(&contained, &meant);
            prop_assert_eq!(range.is_empty(), meant.is_empty());
            prop_assert_eq!(meant.first().is_none_or(|first| range.start() == first), true);
        }

        #[test]
        fn a_prefixs_interval_has_every_key_with_it_and_no_other(prefix in short(1..=3)) {
            let range = KeyRange::parse(&prefix.clone().into(), &prefix_end(&prefix).into());
            for key in universe() {
                prop_assert_eq!(range.contains(&key), key.starts_with(&prefix), "{:?}", key);
            }
        }
    }
}
