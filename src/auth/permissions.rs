//! What one user may read and write: the permissions of all their roles, merged.
//!
//! Permissions that overlap or touch become one interval, so that a request across two of them is covered, and a verdict looks at one
//! interval only. The ranges that are asked about are [`KeyRange`]s, the very ones that the request is carried out with: a check that
//! reads `range_end` in its own way lets through what it should not (GHSA-xg4h-6gfc-h4m8).
//!
//! Source: etcd `server/auth/range_perm_cache.go`, `pkg/adt/interval_tree.go`.

use crate::proto::authpb;
use crate::proto::authpb::permission::Type;
use crate::types::KeyRange;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What somebody wants to do with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Where an interval ends: before a key, or never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn of(range: &KeyRange) -> End {
        match range {
            KeyRange::Single(key) => End::Before([key.as_ref(), &[0]].concat().into()),
            KeyRange::Interval(_, to) => End::Before(to.clone()),
            KeyRange::From(_) => End::Never,
        }
    }

    fn is_after(&self, key: &Bytes) -> bool {
        match self {
            End::Before(end) => key < end,
            End::Never => true,
        }
    }
}

/// Keys, as disjoint intervals that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Keys(BTreeMap<Bytes, End>);

impl Keys {
    fn insert(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        let (mut from, mut to) = (range.start().clone(), End::of(range));
        // Joins what overlaps or touches, from the right.
        while let Some((other_from, other_to)) = self.last_up_to(&to) {
            if other_to < End::Before(from.clone()) {
                break;
            }
            self.0.remove(&other_from);
            from = from.min(other_from);
            to = to.max(other_to);
        }
        self.0.insert(from, to);
    }

    /// The last interval that begins before `end`, or right there.
    fn last_up_to(&self, end: &End) -> Option<(Bytes, End)> {
        let last = match end {
            End::Before(end) => self.0.range::<Bytes, _>(..=end).next_back(),
            End::Never => self.0.last_key_value(),
        };
        last.map(|(from, to)| (from.clone(), to.clone()))
    }

    /// Whether one interval has all of `range`. One that is empty is covered if both its ends lie in one interval, as etcd has it.
    fn cover(&self, range: &KeyRange) -> bool {
        let start = range.start();
        let Some((_, end)) = self.0.range::<Bytes, _>(..=start).next_back() else { return false };
        end.is_after(start) && End::of(range) <= *end
    }
}

/// What one user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    is_root: bool,
    read: Keys,
    write: Keys,
}

impl Permissions {
    /// The permissions of `roles` together.
    pub fn merged<'a>(is_root: bool, roles: impl Iterator<Item = &'a authpb::Role>) -> Permissions {
        let mut merged = Permissions { is_root, ..Permissions::default() };
        for permission in roles.flat_map(|role| &role.key_permission) {
            let range = KeyRange::parse(&permission.key, &permission.range_end);
            // A kind that nobody knows permits nothing.
            let kind = Type::try_from(permission.perm_type);
            if matches!(kind, Ok(Type::Read | Type::Readwrite)) {
                merged.read.insert(&range);
            }
            if matches!(kind, Ok(Type::Write | Type::Readwrite)) {
                merged.write.insert(&range);
            }
        }
        merged
    }

    /// Whether they include `access` to every key of `range`.
    #[must_use]
    pub fn allow(&self, range: &KeyRange, access: Access) -> bool {
        let keys = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        self.is_root || keys.cover(range)
    }

    /// Whether the role root is among them.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// All intervals, reading first, for a look at them: `r[a,c) w[k,∞)`.
    #[cfg(test)]
    pub(super) fn show(&self) -> String {
        let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
        let end = |end: &End| match end {
            End::Before(end) => text(end),
            End::Never => "∞".to_owned(),
        };
        let one = |letter: char, keys: &Keys| -> Vec<String> {
            keys.0.iter().map(|(from, to)| format!("{letter}[{},{})", text(from), end(to))).collect()
        };
        let mut all = if self.is_root { vec!["root".to_owned()] } else { Vec::new() };
        all.extend(one('r', &self.read));
        all.extend(one('w', &self.write));
        if all.is_empty() { "nothing".into() } else { all.join(" ") }
    }
}
