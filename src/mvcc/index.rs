//! Which rows each key has: the key index, in memory, without values.
//!
//! A key's rows stand in order of history. A *generation* is the run from a key's creation to its tombstone; here it needs
//! no box of its own, because each row carries the version that it gave the key, a tombstone carries 0, and so a 1 begins a
//! generation:
//!
//! ```text
//! revision   2   5   6   9   12
//! version    1   2   ✝   1   2      at revision 7: absent; at 12: version 2, created at 9
//! ```
//!
//! Source: etcd `server/storage/mvcc/key_index.go`, which keeps its generations apart.

use super::row::RowId;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One row of a key: the version that it made, 0 for a tombstone; and whether it hangs on a lease, so that a read without values
/// knows which rows it can tell whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    row: RowId,
    /// The version, doubled; plus one with a lease.
    mark: u64,
}

impl Entry {
    pub(super) fn new(row: RowId, version: u64, leased: bool) -> Entry {
        Entry { row, mark: version << 1 | u64::from(leased) }
    }

    fn version(&self) -> u64 {
        self.mark >> 1
    }

    fn leased(&self) -> bool {
        self.mark & 1 == 1
    }
}

/// A key that is there at the revision asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) row: RowId,
    pub(super) created: Revision,
    pub(super) version: u64,
    pub(super) leased: bool,
}

/// All rows of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyIndex {
    /// When the first entry's generation began: the entry that began it may have been compacted away.
    created: Revision,
    entries: Vec<Entry>,
}

impl KeyIndex {
    /// The key as it was at `at`, if it was there.
    pub(super) fn at(&self, at: Revision) -> Option<Found> {
        let newest = self.entries.partition_point(|entry| entry.row.main <= at).checked_sub(1)?;
        self.found(newest)
    }

    fn found(&self, place: usize) -> Option<Found> {
        let entry = self.entries[place];
        let version = entry.version();
        (version > 0).then(|| Found {
            row: entry.row,
            created: self.created_of(place),
            version,
            leased: entry.leased(),
        })
    }

    fn created_of(&self, place: usize) -> Revision {
        let behind = self.entries[place].version() as usize - 1;
        match place.checked_sub(behind) {
            Some(first) => self.entries[first].row.main,
            None => self.created,
        }
    }

    /// Adds the newest entry. Most keys have one, and a vector that grows from nothing takes room for four.
    fn push(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
        }
        self.entries.push(entry);
    }

    /// Adds a put; says when the generation that it belongs to began, and the key's version now.
    fn put(&mut self, row: RowId, leased: bool) -> Found {
        let version = self.entries.last().map_or(0, Entry::version) + 1;
        self.push(Entry::new(row, version, leased));
        Found { row, created: self.created_of(self.entries.len() - 1), version, leased }
    }

    /// Drops what no read at or above `floor` can see: all rows before the newest one at or below it, and that one too if
    /// it is a tombstone from before `floor`. Rows at `floor` itself stay: a watcher may still ask for them.
    fn trim(&mut self, floor: Revision, dropped: &mut Vec<RowId>) {
        let below = self.entries.partition_point(|entry| entry.row.main < floor);
        let below = match is_planted(Bug::TombstoneDropped) {
            true => self
                .entries
                .partition_point(|entry| entry.row.main < floor || entry.version() == 0 && entry.row.main == floor),
            false => below,
        };
        let has_floor = self.entries.get(below).is_some_and(|entry| entry.row.main == floor);
        let keep_from = match below.checked_sub(1) {
            Some(newest) if !has_floor && self.entries[newest].version() > 0 => newest,
            _ => below,
        };
        if keep_from == 0 {
            return;
        }
        if self.entries.get(keep_from).is_some_and(|entry| entry.version() > 0) {
            self.created = self.created_of(keep_from);
        }
        dropped.extend(self.entries.drain(..keep_from).map(|entry| entry.row));
        self.entries.shrink_to(2 * self.entries.len());
    }

    /// The rows from `from` on, oldest first.
    pub(super) fn since(&self, from: Revision) -> impl Iterator<Item = RowId> {
        let first = self.entries.partition_point(|entry| entry.row.main < from);
        self.entries[first..].iter().map(|entry| entry.row)
    }

    /// Whether the key was deleted at exactly this revision.
    pub(super) fn dies_at(&self, at: Revision) -> bool {
        let newest = self.entries.partition_point(|entry| entry.row.main <= at).checked_sub(1);
        newest.is_some_and(|place| self.entries[place].row.main == at && self.entries[place].version() == 0)
    }

    fn has(&self, row: RowId) -> bool {
        self.entries.binary_search_by_key(&row, |entry| entry.row).is_ok()
    }
}

/// The rows of every key, in key order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, KeyIndex>,
}

impl Index {
    pub(super) fn key(&self, key: &[u8]) -> Option<&KeyIndex> {
        self.keys.get(key)
    }

    /// Adds a put of `key`.
    pub(super) fn put(&mut self, key: &Bytes, row: RowId, leased: bool) -> Found {
        match self.keys.get_mut(key) {
            Some(rows) => rows.put(row, leased),
            // A copy: the request's key shares one buffer with its value, which the index must not keep alive.
            None => self.keys.entry(Bytes::copy_from_slice(key)).or_default().put(row, leased),
        }
    }

    /// Adds a tombstone of a key that is there.
    pub(super) fn delete(&mut self, key: &[u8], row: RowId) {
        let rows = self.keys.get_mut(key).expect("only a key that was found is deleted");
        rows.push(Entry::new(row, 0, false));
    }

    /// Adds a row read back from the engine; they come in order of history.
    pub(super) fn restore(&mut self, key: &[u8], created: Revision, entry: Entry) {
        // One search, and a copy that is not needed if the key is there: most are new.
        let rows = self.keys.entry(Bytes::copy_from_slice(key)).or_default();
        if rows.entries.is_empty() {
            rows.created = created;
        }
        rows.push(entry);
    }

    /// The keys of `range` after `after`, in order, whether they are there now or not.
    pub(super) fn walk<'a>(
        &'a self,
        range: &'a KeyRange,
        after: Option<&'a Bytes>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a KeyIndex)> {
        let start = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(range.start()),
        };
        self.keys.range::<Bytes, _>((start, Bound::Unbounded)).take_while(|(key, _)| range.contains(key))
    }

    /// Trims up to `keys` keys from `from` on. Returns where to go on, or nothing at the end.
    pub(super) fn trim(
        &mut self,
        from: &Bytes,
        floor: Revision,
        keys: usize,
        dropped: &mut Vec<RowId>,
    ) -> Option<Bytes> {
        let mut empty = Vec::new();
        let mut walk = self.keys.range_mut::<Bytes, _>((Bound::Included(from), Bound::Unbounded));
        for (key, rows) in walk.by_ref().take(keys) {
            rows.trim(floor, dropped);
            if rows.entries.is_empty() {
                empty.push(key.clone());
            }
        }
        let next = walk.next().map(|(key, _)| key.clone());
        for key in empty {
            self.keys.remove(&key);
        }
        next
    }

    /// Whether `row` of `key` has not been trimmed.
    pub(super) fn has(&self, key: &[u8], row: RowId) -> bool {
        self.keys.get(key).is_some_and(|rows| rows.has(row))
    }

    /// How many keys have rows, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(main: u64) -> RowId {
        RowId::first_of(Revision(main))
    }

    fn find(index: &Index, at: u64) -> Option<(u64, u64, u64)> {
        let found = index.key(b"k")?.at(Revision(at))?;
        Some((found.row.main.0, found.created.0, found.version))
    }

    #[test]
    fn a_key_starts_again_at_version_one_after_its_tombstone() {
        let (mut index, key) = (Index::default(), Bytes::from_static(b"k"));
        index.put(&key, id(2), false);
        index.put(&key, id(5), false);
        index.delete(&key, id(6));
        index.put(&key, id(9), false);
        index.put(&key, id(12), false);
        assert_eq!(find(&index, 1), None);
        assert_eq!(find(&index, 5), Some((5, 2, 2)));
        assert_eq!(find(&index, 7), None);
        assert_eq!(find(&index, 12), Some((12, 9, 2)));
    }

    #[test]
    fn trimming_keeps_a_tombstone_at_the_floor_and_drops_an_older_one() {
        let (mut index, key, mut dropped) = (Index::default(), Bytes::from_static(b"k"), Vec::new());
        index.put(&key, id(2), false);
        index.delete(&key, id(5));
        assert_eq!(index.trim(&Bytes::new(), Revision(5), 10, &mut dropped), None);
        assert_eq!(dropped, [id(2)]);
        assert_eq!(index.key(&key).map(|rows| rows.since(Revision(5)).collect()), Some(vec![id(5)]));
        index.trim(&Bytes::new(), Revision(6), 10, &mut dropped);
        assert_eq!((dropped.as_slice(), index.len()), ([id(2), id(5)].as_slice(), 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put,
        Delete,
        Trim(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![4 => Just(Step::Put), 2 => Just(Step::Delete), 1 => (0u64..100).prop_map(Step::Trim)];
        prop::collection::vec(step, 1..60)
    }

    /// The naive model: every revision's answer, kept for ever.
    fn play(steps: Vec<Step>) {
        let (mut index, key) = (Index::default(), Bytes::from_static(b"k"));
        let (mut now, mut floor) = (1u64, 0u64);
        let mut answers: Vec<Option<(u64, u64, u64)>> = vec![None, None];
        for step in steps {
            let last = answers[now as usize];
            match step {
                Step::Put => {
                    now += 1;
                    index.put(&key, id(now), false);
                    answers.push(Some(last.map_or((now, now, 1), |(_, created, version)| (now, created, version + 1))));
                }
                Step::Delete if last.is_some() => {
                    now += 1;
                    index.delete(&key, id(now));
                    answers.push(None);
                }
                Step::Delete => {}
                Step::Trim(percent) => {
                    floor = floor.max(now * percent / 100);
                    index.trim(&Bytes::new(), Revision(floor), 1, &mut Vec::new());
                }
            }
            for at in floor..=now {
                assert_eq!(find(&index, at), answers[at as usize], "at {at}, floor {floor}, now {now}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_read_above_the_floor_answers_like_the_naive_model(steps in steps()) {
            play(steps);
        }
    }
}
