//! Range reads in two phases: choose the rows under the node's lock, then fetch their values without it.
//!
//! The index knows of every key when it was created and last changed, and its version; so filters, counting and all orders but the one
//! by value need no value. Rows are chosen in slices of [`SLICE_KEYS`], all at the revision that the first slice pinned:
//!
//! ```text
//! let mut selection = node.read(|m| m.select(&request))?;
//! while !selection.is_complete() { node.read(|m| m.select_more(&mut selection)) }
//! let response = selection.load()?;          // reads the engine, if the cache has not got it
//! ```
//!
//! Source: etcd `server/etcdserver/txn/txn.go` (`executeRange`); contract-server 2.3.

use super::Store;
use super::blocks::Reader;
use super::blocks::Sources;
use super::index::Found;
use super::pins::Pin;
use super::row::RowId;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::mvccpb::KeyValue;
use crate::types::KeyRange;
use crate::types::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// How many keys one slice looks at.
pub const SLICE_KEYS: usize = 1000;

/// A range read under way.
pub struct Selection {
    range: KeyRange,
    wants: Wants,
    at: Revision,
    current: Revision,
    /// Where the next slice goes on.
    after: Option<Bytes>,
    complete: bool,
    count: i64,
    rows: Vec<Picked>,
    sources: Sources,
    reader: Arc<Reader>,
    _pin: Pin,
}

/// What of a request is about more than keys and revision.
struct Wants {
    /// Nothing if the order is that of the index.
    order: Option<(SortTarget, SortOrder)>,
    /// 0 is no limit.
    limit: usize,
    keys_only: bool,
    count_only: bool,
    modified: Bounds,
    created: Bounds,
}

/// Inclusive; 0 is no bound.
struct Bounds(i64, i64);

impl Bounds {
    fn hold(&self, revision: Revision) -> bool {
        let revision = revision.to_wire();
        (self.0 == 0 || revision >= self.0) && (self.1 == 0 || revision <= self.1)
    }
}

struct Picked {
    row: RowId,
    /// By what the rows are sorted, if not by key or value.
    rank: u64,
    source: u32,
}

impl Wants {
    fn parse(request: &pb::RangeRequest) -> Result<Wants, Error> {
        let bad = |_| Error::InvalidSortOption;
        let target = SortTarget::try_from(request.sort_target).map_err(bad)?;
        let order = SortOrder::try_from(request.sort_order).map_err(bad)?;
        let order = match (target, order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
            (_, SortOrder::None) => Some((target, SortOrder::Ascend)),
            sorted => Some(sorted),
        };
        Ok(Wants {
            order,
            limit: usize::try_from(request.limit).unwrap_or(0),
            keys_only: request.keys_only,
            count_only: request.count_only,
            modified: Bounds(request.min_mod_revision, request.max_mod_revision),
            created: Bounds(request.min_create_revision, request.max_create_revision),
        })
    }

    /// One more than the limit tells whether there are more.
    fn is_full(&self, rows: usize) -> bool {
        self.count_only || (self.order.is_none() && self.limit > 0 && rows > self.limit)
    }

    fn rank(&self, found: &Found) -> u64 {
        match self.order {
            Some((SortTarget::Version, _)) => found.version,
            Some((SortTarget::Create, _)) => found.created.0,
            Some((SortTarget::Mod, _)) => found.row.main.0,
            Some((SortTarget::Key | SortTarget::Value, _)) | None => 0,
        }
    }
}

impl Store {
    /// Begins a range read and chooses its first slice.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`], [`Error::InvalidSortOption`].
    pub fn select(&self, request: &pb::RangeRequest) -> Result<Selection, Error> {
        let at = self.readable(request.revision)?;
        let mut selection = Selection {
            range: KeyRange::parse(&request.key, &request.range_end),
            wants: Wants::parse(request)?,
            at,
            current: self.current,
            after: None,
            complete: false,
            count: 0,
            rows: Vec::new(),
            sources: Sources::default(),
            reader: Arc::clone(&self.reader),
            _pin: self.pins.pin(at),
        };
        self.select_more(&mut selection);
        Ok(selection)
    }

    /// Chooses the next slice.
    pub fn select_more(&self, selection: &mut Selection) {
        let Selection { range, wants, at, after, complete, count, rows, sources, .. } = selection;
        if let KeyRange::Single(key) = &*range {
            let found = self.index.key(key).and_then(|rows| rows.at(*at));
            found.into_iter().for_each(|found| self.pick(found, wants, count, rows, sources));
            *complete = true;
            return;
        }
        let (start, mut last) = (after.take(), None);
        for (seen, (key, versions)) in self.index.walk(range, start.as_ref()).enumerate() {
            if seen == SLICE_KEYS {
                *after = last;
                return;
            }
            if let Some(found) = versions.at(*at) {
                self.pick(found, wants, count, rows, sources);
            }
            last = (seen + 1 == SLICE_KEYS).then(|| key.clone());
        }
        *complete = true;
    }

    fn pick(&self, found: Found, wants: &Wants, count: &mut i64, rows: &mut Vec<Picked>, sources: &mut Sources) {
        *count += 1;
        if wants.is_full(rows.len()) || !wants.modified.hold(found.row.main) || !wants.created.hold(found.created) {
            return;
        }
        let source = sources.add(&self.blocks, found.row);
        rows.push(Picked { row: found.row, rank: wants.rank(&found), source });
    }
}

impl Selection {
    /// Whether every slice has been chosen.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Fetches what was chosen. May read the engine: not for callers that hold the node's lock.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine.
    ///
    /// # Panics
    /// If a slice is missing: the answer would be wrong.
    pub fn load(mut self) -> Result<pb::RangeResponse, Error> {
        assert!(self.complete, "a range read must be chosen to its end before it is loaded");
        let limit = if self.wants.limit == 0 { usize::MAX } else { self.wants.limit };
        let more = self.rows.len() > limit;
        match self.wants.order {
            Some((SortTarget::Value, _)) => {}
            Some((SortTarget::Key, _)) => self.rows.reverse(),
            Some((_, SortOrder::Descend)) => self.rows.sort_by_key(|row| std::cmp::Reverse(row.rank)),
            Some(_) => self.rows.sort_by_key(|row| row.rank),
            None => {}
        }
        let kvs = match self.wants.order {
            Some((SortTarget::Value, order)) => self.load_by_value(order, limit)?,
            _ => self.load_rows(limit)?,
        };
        let header = Some(pb::ResponseHeader { revision: self.current.to_wire(), ..pb::ResponseHeader::default() });
        Ok(pb::RangeResponse { header, kvs: self.strip(kvs), more, count: self.count })
    }

    fn load_rows(&mut self, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let Selection { rows, sources, reader, .. } = self;
        rows.iter().take(limit).map(|picked| Ok(sources.load(reader, picked.source, picked.row)?.kv)).collect()
    }

    fn load_by_value(&mut self, order: SortOrder, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let mut kvs = self.load_rows(usize::MAX)?;
        match order {
            SortOrder::Descend => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            SortOrder::Ascend | SortOrder::None => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        kvs.truncate(limit);
        Ok(kvs)
    }

    fn strip(&self, mut kvs: Vec<KeyValue>) -> Vec<KeyValue> {
        if self.wants.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        kvs
    }
}
