//! etcd's snapshot file: a note beside the log of a point from which the log alone is enough.
//!
//! The state itself is in the store; the file holds only the members, in the JSON of etcd's version-2 store. Up to 3.5 etcd's tools want one that goes
//! with the log's newest mark, and begin there. We read it for one thing: where the other members are, when the store is lost.
//!
//! ```text
//! snap/<term>-<index>.snap     08 crc  12 length { 0a length JSON  12 length { conf state, index, term } }     crc = CRC-32C of the inside
//! ```
//!
//! Source: etcd `server/etcdserver/api/snap/snapshotter.go`, `api/snap/snappb`, `api/v2store/store.go`, `api/membership/store.go`.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use crate::disk::Disk;
use crate::error::Error;
use crate::membership::Members;
use crate::meter;
use crate::proto::raftpb::Snapshot;
use crate::proto::raftpb::SnapshotMetadata;
use crate::proto::walpb::Snapshot as Mark;
use crate::types::Index;
use crate::types::MemberId;
use bytes::Bytes;
use prost::Message;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

const SUFFIX: &str = ".snap";
/// What one has behind its name until it is whole.
const UNFINISHED: &str = ".part";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How many events etcd's version-2 store remembers; its form wants room for all of them.
const EVENTS: usize = 1000;

/// etcd's `snappb.Snapshot`.
#[derive(Clone, PartialEq, Message)]
struct Checked {
    #[prost(uint32, required, tag = "1")]
    crc: u32,
    #[prost(bytes = "bytes", optional, tag = "2")]
    data: Option<Bytes>,
}

/// The members as etcd's version-2 store has them.
#[must_use]
pub fn members_json(members: &Members, version: Option<&str>) -> Vec<u8> {
    let mut by_id = Map::new();
    for member in members.iter() {
        let path = format!("/0/members/{}", member.id);
        let mut attributes = Map::new();
        if !member.name.is_empty() {
            attributes.insert("name".into(), member.name.clone().into());
        }
        if !member.client_urls.is_empty() {
            attributes.insert("clientURLs".into(), member.client_urls.clone().into());
        }
        let mut raft = Map::from_iter([("peerURLs".to_owned(), Value::from(member.peer_urls.clone()))]);
        if member.is_learner {
            raft.insert("isLearner".into(), true.into());
        }
        let mut about = Map::new();
        if !attributes.is_empty() {
            let at = format!("{path}/attributes");
            about.insert("attributes".into(), leaf(&at, &Value::from(attributes).to_string()));
        }
        about.insert("raftAttributes".into(), leaf(&format!("{path}/raftAttributes"), &Value::from(raft).to_string()));
        by_id.insert(member.id.to_string(), folder(&path, about));
    }
    let mut zero = Map::from_iter([("members".to_owned(), folder("/0/members", by_id))]);
    let removed: Map<String, Value> =
        members.removed().map(|id| (id.to_string(), leaf(&format!("/0/removed_members/{id}"), "removed"))).collect();
    if !removed.is_empty() {
        zero.insert("removed_members".into(), folder("/0/removed_members", removed));
    }
    if let Some(version) = version {
        zero.insert("version".into(), leaf("/0/version", version));
    }
    let top = Map::from_iter([("0".to_owned(), folder("/0", zero)), ("1".to_owned(), folder("/1", Map::new()))]);
    let events = vec![Value::Null; EVENTS];
    let queue = json!({ "Events": events, "Size": 0, "Front": 0, "Back": 0, "Capacity": EVENTS });
    let history = json!({ "Queue": queue, "StartIndex": 0, "LastIndex": 0 });
    let hub = json!({ "EventHistory": history });
    let store =
        json!({ "Root": folder("/", top), "WatcherHub": hub, "CurrentIndex": 0, "Stats": {}, "CurrentVersion": 2 });
    store.to_string().into_bytes()
}

fn node(path: &str, value: &str, children: Value) -> Value {
    json!({
        "Path": path, "CreatedIndex": 0, "ModifiedIndex": 0, "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": value, "Children": children
    })
}

fn leaf(path: &str, value: &str) -> Value {
    node(path, value, Value::Null)
}

fn folder(path: &str, children: Map<String, Value>) -> Value {
    node(path, "", children.into())
}

/// Writes the file of `mark` into a member's folder `snap`, durably, and deletes those of earlier marks. The log must have the mark, durably: etcd's tools begin at the newest file.
///
/// # Errors
/// [`Error::Storage`].
pub fn save(disk: &dyn Disk, dir: &Path, mark: &Mark, members: &[u8]) -> Result<(), Error> {
    let began = Instant::now();
    let metadata = SnapshotMetadata { conf_state: mark.conf_state.clone(), index: mark.index, term: mark.term };
    let snapshot = Snapshot { data: Bytes::copy_from_slice(members), metadata: Some(metadata) };
    let data = Bytes::from(snapshot.encode_to_vec());
    let bytes = Checked { crc: crc32c::crc32c(&data), data: Some(data) }.encode_to_vec();
    meter::SNAP_MARSHAL.time(began.elapsed());
    disk.create_dir(dir)?;
    let name = format!("{:016x}-{:016x}{SUFFIX}", mark.term, mark.index);
    let unnamed = dir.join(format!("{name}{UNFINISHED}"));
    let mut file = disk.create(&unnamed)?;
    file.write_at(0, &bytes)?;
    let sync_began = Instant::now();
    file.sync()?;
    meter::SNAP_FSYNC.time(sync_began.elapsed());
    drop(file);
    disk.rename(&unnamed, &dir.join(&name))?;
    disk.sync_dir(dir)?;
    meter::SNAP_SAVE.time(began.elapsed());
    let names = disk.list(dir)?;
    let is_old = |other: &&String| (other.ends_with(SUFFIX) || other.ends_with(UNFINISHED)) && **other != name;
    names.iter().filter(is_old).try_for_each(|old| disk.remove(&dir.join(old)))
}

/// Whether there is a file of `mark`.
#[must_use]
pub fn exists(disk: &dyn Disk, dir: &Path, mark: &Mark) -> bool {
    let name = format!("{:016x}-{:016x}{SUFFIX}", mark.term, mark.index);
    disk.exists(&dir.join(name))
}

/// The peer URLs of all members in the newest file that can be read: none if there is none.
#[must_use]
pub fn peer_urls(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let names = names(disk, dir).unwrap_or_default();
    names.iter().find_map(|name| urls(&read(disk, &dir.join(name)).ok()?.store)).unwrap_or_default()
}

/// The files' names, the newest first.
fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = if disk.exists(dir) { disk.list(dir)? } else { Vec::new() };
    names.retain(|name| name.ends_with(SUFFIX));
    names.reverse();
    Ok(names)
}

/// What a file holds: the point in the log, and etcd's version-2 store there.
pub struct Note {
    metadata: SnapshotMetadata,
    store: Value,
}

/// The newest file of an entry up to the log's newest mark; nothing if there is none. A later one has been left by an etcd that was cut short before it
/// marked its log, and may be torn. An older one is no substitute: it does not know what happened since.
///
/// # Errors
/// [`Error::Damaged`] with the file's path if it cannot be read whole; [`Error::Storage`].
pub fn newest(disk: &dyn Disk, dir: &Path, mark: Index) -> Result<Option<Note>, Error> {
    let is_marked = |name: &&String| index_of(name).is_some_and(|index| index <= mark);
    names(disk, dir)?.iter().find(is_marked).map(|name| read(disk, &dir.join(name))).transpose()
}

/// The entry that a file's name tells.
fn index_of(name: &str) -> Option<Index> {
    let (_term, index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    u64::from_str_radix(index, 16).ok().map(Index)
}

/// What members have told of themselves: their names and client URLs.
pub type Attributes = BTreeMap<MemberId, (String, Vec<String>)>;

impl Note {
    /// The entry at which it was written.
    #[must_use]
    pub fn index(&self) -> Index {
        Index(self.metadata.index)
    }

    /// How many keys beside the members the version-2 store had then.
    #[must_use]
    pub fn keys(&self) -> usize {
        let folders = self.store.pointer("/Root/Children").and_then(Value::as_object).into_iter().flatten();
        let keys = folders.filter(|(name, _)| *name != "0").filter_map(|(_, folder)| folder["Children"].as_object());
        keys.map(Map::len).sum()
    }

    /// What members had told of themselves then: names and client URLs by id.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        told_in(&self.store)
    }
}

/// The same of what a leader's message says of a snapshot; nothing if that is no note of etcd's.
#[must_use]
pub fn attributes(data: &[u8]) -> Attributes {
    serde_json::from_slice(data).map(|store| told_in(&store)).unwrap_or_default()
}

fn told_in(store: &Value) -> Attributes {
    let members = store.pointer("/Root/Children/0/Children/members/Children").and_then(Value::as_object);
    let told = members.into_iter().flatten().filter_map(|(id, member)| {
        let text = member.pointer("/Children/attributes/Value")?.as_str()?;
        let about: Value = serde_json::from_str(text).ok()?;
        let urls = about["clientURLs"].as_array().into_iter().flatten();
        let urls = urls.filter_map(|url| Some(url.as_str()?.to_owned())).collect();
        let name = about["name"].as_str().unwrap_or_default().to_owned();
        Some((MemberId(u64::from_str_radix(id, 16).ok()?), (name, urls)))
    });
    told.collect()
}

/// What a whole file holds.
fn read(disk: &dyn Disk, path: &Path) -> Result<Note, Error> {
    let damaged = |why: &str| Error::Damaged(format!("{}: {why}", path.display()));
    let file = disk.open(path)?;
    let len = file.len()?;
    if len > FILE_BYTES_MAX {
        return Err(damaged(&format!("it has {} MiB, and {} are read at most", len >> 20, FILE_BYTES_MAX >> 20)));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged("it is too large"))?];
    file.read_at(0, &mut bytes)?;
    let checked = Checked::decode(bytes.as_slice()).map_err(|_| damaged("it is no snapshot file"))?;
    let data = checked.data.filter(|data| crc32c::crc32c(data) == checked.crc);
    let data = data.ok_or_else(|| damaged("its checksum is wrong"))?;
    let snapshot = Snapshot::decode(data).map_err(|_| damaged("it holds no snapshot"))?;
    let metadata = snapshot.metadata.ok_or_else(|| damaged("it does not say of which entry it is"))?;
    let store = serde_json::from_slice(&snapshot.data).map_err(|_| damaged("it holds no v2 store"))?;
    Ok(Note { metadata, store })
}

fn urls(store: &Value) -> Option<Vec<String>> {
    let members = store.pointer("/Root/Children/0/Children/members/Children")?.as_object()?;
    let mut urls = Vec::new();
    for member in members.values() {
        let text = member.pointer("/Children/raftAttributes/Value")?.as_str()?;
        let raft: Value = serde_json::from_str(text).ok()?;
        urls.extend(raft.get("peerURLs")?.as_array()?.iter().filter_map(|url| Some(url.as_str()?.to_owned())));
    }
    Some(urls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::membership::Founders;
    use crate::proto::raftpb::ConfState;

    fn mark(index: u64) -> Mark {
        Mark { index, term: 2, conf_state: Some(ConfState { voters: vec![1], ..ConfState::default() }) }
    }

    fn members() -> Members {
        let founders = ["a", "b"].map(|name| (name.to_owned(), vec![format!("http://{name}:2380")]));
        Members::bootstrap(&Founders::from(founders), "t").expect("two founders")
    }

    /// Saves one, and leaves those that are there.
    fn save_beside(dir: &Path, index: u64) {
        let elsewhere = tempfile::tempdir().expect("a directory");
        save(&RealDisk, elsewhere.path(), &mark(index), &members_json(&members(), None)).expect("saved");
        let name = format!("0000000000000002-{index:016x}.snap");
        std::fs::copy(elsewhere.path().join(&name), dir.join(&name)).expect("copied");
    }

    #[test]
    fn the_newest_file_stays_and_tells_where_the_members_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let json = members_json(&members(), Some("3.6.0"));
        for index in [7, 12] {
            save(&RealDisk, dir.path(), &mark(index), &json).expect("saved");
        }
        let names = RealDisk.list(dir.path()).expect("there");
        assert_eq!(names, ["0000000000000002-000000000000000c.snap"]);
        assert!(exists(&RealDisk, dir.path(), &mark(12)) && !exists(&RealDisk, dir.path(), &mark(7)));
        let mut urls = peer_urls(&RealDisk, dir.path());
        urls.sort();
        assert_eq!(urls, ["http://a:2380", "http://b:2380"]);
        let note = newest(&RealDisk, dir.path(), Index(12)).expect("it can be read").expect("a file");
        assert_eq!((note.index(), note.keys(), note.attributes().len()), (Index(12), 0, 2));
        assert!(newest(&RealDisk, dir.path(), Index(11)).is_ok_and(|note| note.is_none()), "the log has no mark of it");
        assert!(newest(&RealDisk, &dir.path().join("no-folder"), Index(12)).is_ok_and(|note| note.is_none()));
    }

    #[test]
    fn of_a_damaged_file_it_is_said_that_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        save(&RealDisk, dir.path(), &mark(7), &members_json(&members(), None)).expect("saved");
        let path = dir.path().join("0000000000000002-0000000000000007.snap");
        let mut bytes = std::fs::read(&path).expect("there");
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(peer_urls(&RealDisk, dir.path()), Vec::<String>::new());
        // An older one that can be read says nothing of what has come since.
        std::fs::copy(&path, dir.path().join("0000000000000002-0000000000000009.snap")).expect("copied");
        save_beside(dir.path(), 8);
        let why = newest(&RealDisk, dir.path(), Index(9)).err().expect("damaged").to_string();
        assert!(why.contains("0000000000000009.snap: its checksum is wrong"), "{why}");
        let before = newest(&RealDisk, dir.path(), Index(8)).expect("it can be read").expect("a file");
        assert_eq!(before.index(), Index(8), "the log has no mark of the damaged one");
        assert_eq!(peer_urls(&RealDisk, dir.path()).len(), 2, "where to ask is better known late than never");
        let large = std::fs::File::create(dir.path().join("0000000000000003-0000000000000010.snap")).expect("made");
        large.set_len(FILE_BYTES_MAX + 1).expect("sparse");
        let why = newest(&RealDisk, dir.path(), Index(16)).err().expect("too large").to_string();
        assert!(why.contains("64 are read at most"), "{why}");
    }
}
