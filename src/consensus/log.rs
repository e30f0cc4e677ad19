//! The raft log in memory: what raft-rs reads back.
//!
//! Every entry that is not released stands here too, sharing its bytes with the message that brought it; the write-ahead log is
//! only read at start. `offset` and `offset_term` name the last entry that is no longer here (0 at the start of time).

use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Snapshot;
use crate::proto::raftpb::SnapshotMetadata;
use crate::types::Index;
use crate::types::Term;
use raft::GetEntriesContext;
use raft::RaftState;
use raft::Result;
use raft::Storage;
use raft::StorageError;
use std::collections::VecDeque;

/// What an entry takes in memory, about.
fn weight(entry: &Entry) -> usize {
    entry.data.len() + std::mem::size_of::<Entry>()
}

/// raft's view of the durable log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    offset: u64,
    offset_term: u64,
    entries: VecDeque<Entry>,
    /// What the entries hold, with a little for each of them.
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
}

impl Log {
    pub(crate) fn new(offset: (Index, Term), entries: Vec<Entry>, hard_state: HardState, conf_state: ConfState) -> Log {
        for (next, entry) in (offset.0.0 + 1..).zip(&entries) {
            assert_eq!(entry.index, next, "the replayed log has no gaps");
        }
        let bytes = entries.iter().map(weight).sum();
        Log { offset: offset.0.0, offset_term: offset.1.0, entries: entries.into(), bytes, hard_state, conf_state }
    }

    pub(crate) fn first(&self) -> u64 {
        self.offset + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.offset + self.entries.len() as u64
    }

    /// The entry at `index`, if it is here.
    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The term of the entry at `index`, the last released one included.
    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.offset { Some(self.offset_term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// The newest `count` entries, oldest first.
    pub(crate) fn tail(&self, count: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(self.entries.len().saturating_sub(count))
    }

    /// Adds entries at the end. Where they begin inside the log, what stood there conflicted with a newer leader's and goes
    /// (Raft section 5.3). Returns the last index kept if anything went.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Option<u64> {
        let first = entries.first()?.index;
        assert!(self.offset < first && first <= self.last() + 1, "entries join the log without a gap");
        let keep = first - self.first();
        let cut = first <= self.last();
        let keep = usize::try_from(keep).expect("the log fits in memory");
        self.bytes -= self.entries.range(keep..).map(weight).sum::<usize>();
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
        self.bytes += entries.iter().map(weight).sum::<usize>();
        cut.then_some(first - 1)
    }

    /// Forgets the entries up to and including `index`.
    pub(crate) fn release(&mut self, index: u64) {
        let Some(term) = self.term_of(index) else { return };
        let count = usize::try_from(index - self.offset).expect("the log fits in memory");
        self.bytes -= self.entries.drain(..count).map(|entry| weight(&entry)).sum::<usize>();
        (self.offset, self.offset_term) = (index, term);
    }

    /// Forgets what is not needed of the entries up to `index`: keeps the newest `keep` of them, and of those no more than fit into `bytes`
    /// together with all that comes after `index`.
    pub(crate) fn release_behind(&mut self, index: u64, keep: u64, bytes: usize) {
        self.release(index.saturating_sub(keep));
        let (mut to, mut left) = (self.offset, self.bytes);
        while left > bytes && to < index.min(self.last()) {
            to += 1;
            left -= self.get(to).map_or(0, weight);
        }
        if to > self.offset {
            self.release(to);
        }
    }

    /// A snapshot takes the place of the whole log.
    pub(crate) fn install(&mut self, metadata: &SnapshotMetadata) {
        self.entries.clear();
        self.bytes = 0;
        (self.offset, self.offset_term) = (metadata.index, metadata.term);
    }

    /// What the entries take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state, self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "raft asks for entries up to {high}, the log ends at {}", self.last());
        let room = max_size.into().unwrap_or(u64::MAX);
        let from = usize::try_from(low - self.first()).expect("the log fits in memory");
        let to = usize::try_from(high - self.first()).expect("the log fits in memory");
        let mut bytes = 0;
        let mut run = Vec::new();
        for entry in self.entries.range(from..to) {
            // raft-rs wants at least one entry, however large. 24 bytes stand for index, term and framing.
            bytes += entry.data.len() as u64 + 24;
            if bytes > room && !run.is_empty() {
                break;
            }
            run.push(entry.clone());
        }
        Ok(run)
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index < self.offset => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// The least that a snapshot must hold: all up to the log's beginning. Who sends it puts in what it really holds, which is at least this.
    fn snapshot(&self, _: u64, _: u64) -> Result<Snapshot> {
        if self.offset == 0 {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let conf_state = Some(self.conf_state.clone());
        let metadata = SnapshotMetadata { conf_state, index: self.offset, term: self.offset_term };
        Ok(Snapshot { metadata: Some(metadata), ..Snapshot::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn log(terms: &[u64]) -> Log {
        let entries = (1..).zip(terms).map(|(index, &term)| entry(index, term)).collect();
        Log::new((Index(0), Term(0)), entries, HardState::default(), ConfState::default())
    }

    #[test]
    fn a_conflicting_tail_is_replaced() {
        let mut log = log(&[1, 1, 2, 2]);
        assert_eq!(log.append(&[entry(5, 2)]), None);
        assert_eq!(log.append(&[entry(3, 3)]), Some(2));
        assert_eq!((log.last(), log.term_of(3)), (3, Some(3)));
    }

    #[test]
    fn the_last_released_entry_keeps_its_term() {
        let mut log = log(&[1, 1, 2, 2]);
        log.release(3);
        assert_eq!((log.first(), log.last(), log.term_of(3), log.term_of(2)), (4, 4, Some(2), None));
        assert!(log.entries(3, 4, None, GetEntriesContext::empty(false)).is_err());
    }

    #[test]
    fn what_is_kept_for_those_who_lag_is_bounded_in_number_and_in_bytes() {
        let mut log = log(&[1; 10]);
        log.release_behind(8, 3, usize::MAX);
        assert_eq!((log.first(), log.last()), (6, 10));
        let one = log.bytes() / 5;
        log.release_behind(8, 3, 4 * one);
        assert_eq!((log.first(), log.bytes()), (7, 4 * one));
        log.release_behind(8, 3, 0);
        assert_eq!((log.first(), log.last()), (9, 10), "never more than the store has");
        log.append(&[entry(10, 2)]);
        assert_eq!(log.bytes(), 2 * one);
        log.install(&SnapshotMetadata { index: 20, term: 3, conf_state: None });
        assert_eq!((log.first(), log.last(), log.term_of(20), log.bytes()), (21, 20, Some(3), 0));
    }

    #[test]
    fn one_entry_is_read_however_large() {
        let mut log = log(&[1]);
        log.append(&[Entry { data: vec![7; 4096].into(), ..entry(2, 1) }, entry(3, 1)]);
        let run = log.entries(2, 4, Some(10), GetEntriesContext::empty(false)).expect("here");
        assert_eq!(run.len(), 1);
    }
}
