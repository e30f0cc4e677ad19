//! Range reads in two phases: choose the rows under the node's lock, then fetch their values without it.
//!
//! The index knows of every key when it was created and last changed, and its version; so filters, counting, all orders but the one
//! by value, and keys without values need no look at the history (but for the few keys with a lease, whose id is there). Rows are chosen in slices of [`SLICE_KEYS`], all at the revision that the first slice pinned:
//!
//! ```text
//! let mut selection = node.read(|m| m.select(&request))?;
//! while !selection.is_complete() { node.read(|m| m.select_more(&mut selection)) }
//! let response = selection.load()?;          // reads the engine, if the cache has not got it
//! ```
//!
//! Source: etcd `server/etcdserver/txn/txn.go` (`executeRange`); contract-server 2.3.

use super::Store;
use super::blocks::Blocks;
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

/// What a chosen row and its pair cost beside their bytes.
const ROW_BYTES: usize = 176;

/// A range read under way.
pub struct Selection {
    range: KeyRange,
    wants: Wants,
    at: Revision,
    current: Revision,
    /// Where the next slice goes on.
    after: Option<Bytes>,
    complete: bool,
    replaced: bool,
    count: i64,
    rows: Vec<Picked>,
    /// Pairs that the index alone can tell: of a read without values.
    bare: Vec<KeyValue>,
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
    /// Whether the first keys are enough to fill the limit.
    first_come: bool,
    /// Whether to count also what is beyond the limit.
    count_all: bool,
    /// Whether a row's value matters.
    values: bool,
    keys_only: bool,
    count_only: bool,
    modified: Bounds,
    created: Bounds,
}

/// Inclusive; 0 is no bound.
#[derive(PartialEq, Eq)]
struct Bounds(i64, i64);

impl Bounds {
    const NONE: Bounds = Bounds(0, 0);

    fn hold(&self, revision: Revision) -> bool {
        let revision = revision.to_wire();
        (self.0 == 0 || revision >= self.0) && (self.1 == 0 || revision <= self.1)
    }
}

struct Picked {
    row: RowId,
    /// By what the rows are sorted, if not by key or value.
    rank: u64,
    place: Place,
}

/// Where the pair of a row comes from.
enum Place {
    /// Its number among the sources.
    Source(u32),
    /// Its number among [`Selection::bare`].
    Bare(u32),
}

impl Wants {
    fn parse(request: &pb::RangeRequest) -> Result<Wants, Error> {
        let bad = |_| Error::InvalidSortOption;
        let target = SortTarget::try_from(request.sort_target).map_err(bad)?;
        let asked = SortOrder::try_from(request.sort_order).map_err(bad)?;
        let order = match (target, asked) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => None,
            (_, SortOrder::None) => Some((target, SortOrder::Ascend)),
            sorted => Some(sorted),
        };
        let modified = Bounds(request.min_mod_revision, request.max_mod_revision);
        let created = Bounds(request.min_create_revision, request.max_create_revision);
        // etcd sorts by a target without an order too, but only what the limit has let through.
        let first_come = asked == SortOrder::None && modified == Bounds::NONE && created == Bounds::NONE;
        Ok(Wants {
            order,
            limit: usize::try_from(request.limit).unwrap_or(0),
            first_come: first_come || order.is_none(),
            count_all: true,
            values: !request.keys_only || target == SortTarget::Value,
            keys_only: request.keys_only,
            count_only: request.count_only,
            modified,
            created,
        })
    }

    /// One more than the limit tells whether there are more.
    fn is_full(&self, rows: usize) -> bool {
        self.count_only || (self.first_come && self.limit > 0 && rows > self.limit)
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
        self.begin(request, Wants::parse(request)?)
    }

    /// As [`Store::select`], for a reader that takes a long range in pages: beyond the limit nothing is looked at, so the count is that of the
    /// page, and one more if there is more.
    ///
    /// # Errors
    /// As [`Store::select`].
    pub fn select_page(&self, request: &pb::RangeRequest) -> Result<Selection, Error> {
        self.begin(request, Wants { count_all: request.count_only, ..Wants::parse(request)? })
    }

    fn begin(&self, request: &pb::RangeRequest, wants: Wants) -> Result<Selection, Error> {
        let at = self.readable(request.revision)?;
        let mut selection = Selection {
            range: KeyRange::parse(&request.key, &request.range_end),
            wants,
            at,
            current: self.current,
            after: None,
            complete: false,
            replaced: false,
            count: 0,
            rows: Vec::new(),
            bare: Vec::new(),
            sources: Sources::default(),
            reader: Arc::clone(&self.reader),
            _pin: self.pins.pin(at),
        };
        self.select_more(&mut selection);
        Ok(selection)
    }

    /// Chooses the next slice. If a snapshot has put another store in this one's place meanwhile, there is none, and loading fails.
    pub fn select_more(&self, selection: &mut Selection) {
        if !Arc::ptr_eq(&self.reader, &selection.reader) {
            (selection.complete, selection.replaced) = (true, true);
            return;
        }
        if let KeyRange::Single(key) = &selection.range {
            let key = key.clone();
            if let Some(found) = self.index.key(&key).and_then(|rows| rows.at(selection.at)) {
                selection.pick(&self.blocks, &key, found);
            }
            selection.complete = true;
            return;
        }
        let (range, start, mut last) = (selection.range.clone(), selection.after.take(), None);
        for (seen, (key, versions)) in self.index.walk(&range, start.as_ref()).enumerate() {
            if seen == SLICE_KEYS {
                selection.after = last;
                return;
            }
            if let Some(found) = versions.at(selection.at) {
                selection.pick(&self.blocks, key, found);
                if !selection.wants.count_all && selection.wants.is_full(selection.rows.len()) {
                    break;
                }
            }
            last = (seen + 1 == SLICE_KEYS).then(|| key.clone());
        }
        selection.complete = true;
    }
}

impl Selection {
    fn pick(&mut self, blocks: &Blocks, key: &Bytes, found: Found) {
        let Selection { wants, count, rows, bare, sources, .. } = self;
        *count += 1;
        if wants.is_full(rows.len()) || !wants.modified.hold(found.row.main) || !wants.created.hold(found.created) {
            return;
        }
        let place = if wants.values || found.leased {
            Place::Source(sources.add(blocks, found.row))
        } else {
            bare.push(KeyValue {
                key: key.clone(),
                create_revision: found.created.to_wire(),
                mod_revision: found.row.main.to_wire(),
                version: found.version as i64,
                ..KeyValue::default()
            });
            Place::Bare(bare.len() as u32 - 1)
        };
        rows.push(Picked { row: found.row, rank: wants.rank(&found), place });
    }

    /// Whether every slice has been chosen.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// About how many bytes of memory it takes to load and send what has been chosen so far: the rows, their blocks, and the answer as one
    /// message.
    #[must_use]
    pub fn weight(&self) -> usize {
        let loads_all = self.wants.limit == 0 || matches!(self.wants.order, Some((SortTarget::Value, _)));
        let loaded = if loads_all { self.rows.len() } else { self.rows.len().min(self.wants.limit) };
        let blocks = self.sources.bytes().saturating_mul(loaded).checked_div(self.rows.len()).unwrap_or(0);
        self.rows.len() * ROW_BYTES + 2 * blocks
    }

    /// Fetches what was chosen. May read the engine: not for callers that hold the node's lock.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`] from the engine; [`Error::LeaderChanged`] if a snapshot has replaced the store half way: ask again.
    ///
    /// # Panics
    /// If a slice is missing: the answer would be wrong.
    pub fn load(mut self) -> Result<pb::RangeResponse, Error> {
        assert!(self.complete, "a range read must be chosen to its end before it is loaded");
        if self.replaced {
            return Err(Error::LeaderChanged);
        }
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
        let Selection { rows, bare, sources, reader, .. } = self;
        let load = |picked: &Picked| -> Result<KeyValue, Error> {
            match picked.place {
                Place::Source(place) => Ok(sources.load(reader, place, picked.row)?.kv),
                Place::Bare(place) => Ok(std::mem::take(&mut bare[place as usize])),
            }
        };
        rows.iter().take(limit).map(load).collect()
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
