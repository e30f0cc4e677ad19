//! The key space for the Data screen: one folder of the tree at a time, a key's value, its history, and whether members agree.
//!
//! Keys are no folders; a separator makes them so. A folder with a million keys costs one page: its rest is skipped by asking on behind it.

use crate::lab::survey;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::mvccpb::KeyValue;
use crate::types::prefix_end;
use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// What stands between folders.
pub const SEPARATOR: u8 = b'/';
/// Keys asked for at once.
const PAGE: i64 = 200;
/// Rows of one listing; more are one key away.
const ROWS_MAX: usize = 100;
/// Behind a folder so many are enough: most of them are folders again.
const FEW: i64 = 8;
/// Questions for one listing.
const PAGES_MAX: usize = 1_000;
/// Versions of one key's history.
const HISTORY_MAX: usize = 30;
/// Longest value that is kept for showing.
const VALUE_MAX: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(3);
/// How long it may take to find which keys differ.
const SEARCH: Duration = Duration::from_secs(30);
/// Keys of each member that are looked at for it, and differences that are told.
const SEARCHED_MAX: usize = 100_000;
const DIFFER_MAX: usize = 20;

/// One row of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The whole key; of a folder, up to and with its separator.
    pub key: Vec<u8>,
    pub is_folder: bool,
    pub mod_revision: i64,
    pub version: i64,
}

/// One page of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub prefix: Vec<u8>,
    /// The revision that it shows; 0: the newest, which was `newest`.
    pub at: i64,
    pub newest: i64,
    pub rows: Vec<Row>,
    /// Where the next page begins, if there is one.
    pub next: Option<Vec<u8>>,
    /// Where this one begins.
    pub from: Vec<u8>,
}

/// One version of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub value: Vec<u8>,
    /// How long it is; `value` may be cut.
    pub bytes: usize,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// A key with its past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub key: Vec<u8>,
    /// Newest first. Empty: not there at that revision.
    pub versions: Vec<Version>,
    /// Why there are no older ones: compacted, or too many.
    pub cut: String,
}

/// What a member answered to HashKV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    pub member: usize,
    pub hash: Result<(u32, i64), String>,
}

/// A key that is not the same at all members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub key: Vec<u8>,
    /// Of each member that was asked: when the key was changed last, and its value's sum. `None`: it is not there.
    pub has: Vec<(usize, Option<(i64, u32)>)>,
}

/// Whether members have the same at a revision, and what they have not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    pub revision: i64,
    pub hashes: Vec<Hashed>,
    /// The first keys that differ, if hashes do.
    #[serde(default)]
    pub differ: Vec<Difference>,
}

/// What the Data screen is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    Listing(Listing),
    Key(Key),
    Compared(Compared),
    Failed(String),
}

/// What it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    List { prefix: Vec<u8>, from: Vec<u8>, at: i64 },
    Key { key: Vec<u8>, at: i64 },
    Compare { urls: Vec<(usize, String)> },
}

/// Asks the first of `urls` that answers. What goes wrong is an answer, too.
pub async fn ask(urls: &[String], what: Ask) -> Shown {
    let limit = if matches!(what, Ask::Compare { .. }) { SEARCH } else { ANSWER };
    let work = async {
        match what {
            Ask::List { prefix, from, at } => list(client(urls).await?, prefix, from, at).await.map(Shown::Listing),
            Ask::Key { key, at } => history(client(urls).await?, key, at).await.map(Shown::Key),
            Ask::Compare { urls } => compare(&urls).await,
        }
    };
    let late = |_| Err(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(late).unwrap_or_else(Shown::Failed)
}

async fn client(urls: &[String]) -> Result<KvClient<Channel>, String> {
    for url in urls.iter().filter(|url| !survey::is_closed(url)) {
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        if let Ok(channel) = endpoint.connect().await {
            return Ok(KvClient::new(channel));
        }
    }
    let is_closed = !urls.is_empty() && urls.iter().all(|url| survey::is_closed(url));
    Err(if is_closed { survey::CLOSED.into() } else { "no member answers".into() })
}

async fn range(kv: &mut KvClient<Channel>, request: RangeRequest) -> Result<RangeResponse, String> {
    // Serializable: a picture of one member's state must not need a quorum.
    let request = RangeRequest { serializable: true, ..request };
    kv.range(request).await.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

async fn list(mut kv: KvClient<Channel>, prefix: Vec<u8>, from: Vec<u8>, at: i64) -> Result<Listing, String> {
    let mut walk = Walk::new(prefix, from, at);
    for _ in 0..PAGES_MAX {
        let Some(request) = walk.asks() else { break };
        walk.hears(&range(&mut kv, request).await?);
    }
    Ok(Listing { next: walk.next, ..walk.listing })
}

/// How a folder is listed. A server counts all keys of the range that it is asked for, whatever the limit; so behind a folder the walk asks for the neighbourhood of
/// its name first, and for wider and wider ones where nothing is: `tree/007/` is followed by something in `tree/00`, in `tree/0`, or in `tree/`.
struct Walk {
    listing: Listing,
    /// Behind the last key that belongs to it.
    end: Vec<u8>,
    /// Where to ask on.
    next: Option<Vec<u8>>,
    /// Up to where was asked, if not up to the end.
    near: Option<Vec<u8>>,
    /// The folder that was skipped last, and how much of its name is left away.
    folder: Vec<u8>,
    away: usize,
    limit: i64,
}

impl Walk {
    fn new(prefix: Vec<u8>, from: Vec<u8>, at: i64) -> Walk {
        let end = if prefix.is_empty() { vec![0] } else { prefix_end(&prefix) };
        let next = if from.is_empty() { prefix.clone() } else { from.clone() };
        let next = Some(if next.is_empty() { vec![0] } else { next });
        let listing = Listing { prefix, at, from, ..Listing::default() };
        Walk { listing, end, next, near: None, folder: Vec::new(), away: 1, limit: PAGE }
    }

    /// The next question; `None`: the page is full, or there is no more.
    fn asks(&mut self) -> Option<RangeRequest> {
        let key = self.next.clone().filter(|_| self.listing.rows.len() < ROWS_MAX)?;
        self.near = self.neighbourhood(&key);
        Some(RangeRequest {
            key: key.into(),
            range_end: self.near.clone().unwrap_or_else(|| self.end.clone()).into(),
            limit: self.limit,
            revision: self.listing.at,
            keys_only: true,
            ..Default::default()
        })
    }

    /// Where the smallest neighbourhood ends that goes beyond `start`. `None`: it is the whole folder.
    fn neighbourhood(&mut self, start: &[u8]) -> Option<Vec<u8>> {
        loop {
            let name = self.folder.len().checked_sub(1 + self.away).filter(|len| *len > self.listing.prefix.len())?;
            let end = prefix_end(&self.folder[..name]);
            if end.as_slice() > start {
                return Some(end);
            }
            self.away *= 2;
        }
    }

    fn hears(&mut self, page: &RangeResponse) {
        self.listing.newest = page.header.as_ref().map_or(0, |h| h.revision);
        self.next = fold(&mut self.listing, &page.kvs, page.more);
        let last = self.listing.rows.last().filter(|row| row.is_folder && !page.kvs.is_empty());
        match last {
            Some(row) => (self.folder, self.away, self.limit) = (row.key.clone(), 1, FEW),
            None if page.kvs.is_empty() => self.away *= 2,
            None => self.limit = (self.limit * 4).min(PAGE),
        }
        if !page.more {
            self.next = self.near.take();
        }
    }
}

/// Adds a page's keys as rows; returns where to ask on.
fn fold(listing: &mut Listing, kvs: &[KeyValue], more: bool) -> Option<Vec<u8>> {
    let skip = listing.prefix.len();
    let mut folder: Option<Vec<u8>> = None;
    for kv in kvs {
        if folder.as_ref().is_some_and(|f| kv.key.starts_with(f)) {
            continue;
        }
        let place = kv.key[skip..].iter().position(|b| *b == SEPARATOR);
        // A key that begins with the separator is in a folder of that name: "/".
        folder = place.map(|p| kv.key[..=skip + p].to_vec());
        let key = folder.clone().unwrap_or_else(|| kv.key.to_vec());
        listing.rows.push(Row { key, is_folder: folder.is_some(), mod_revision: kv.mod_revision, version: kv.version });
    }
    let last = kvs.last().filter(|_| more)?;
    Some(match folder {
        // The rest of a folder is not looked at.
        Some(folder) => prefix_end(&folder),
        None => [&last.key[..], &[0]].concat(),
    })
}

async fn history(mut kv: KvClient<Channel>, key: Vec<u8>, at: i64) -> Result<Key, String> {
    let mut shown = Key { key: key.clone(), ..Key::default() };
    let mut revision = at;
    while shown.versions.len() < HISTORY_MAX {
        let request = RangeRequest { key: Bytes::from(key.clone()), revision, ..Default::default() };
        let answer = match range(&mut kv, request).await {
            Ok(answer) => answer,
            Err(why) if shown.versions.is_empty() => return Err(why),
            Err(why) => {
                shown.cut = why;
                return Ok(shown);
            }
        };
        let Some(found) = answer.kvs.into_iter().next() else { return Ok(shown) };
        revision = found.mod_revision - 1;
        let is_first = found.version == 1;
        let (bytes, mut value) = (found.value.len(), found.value.to_vec());
        value.truncate(VALUE_MAX);
        shown.versions.push(Version {
            value,
            bytes,
            create_revision: found.create_revision,
            mod_revision: found.mod_revision,
            version: found.version,
            lease: found.lease,
        });
        if is_first || revision < 1 {
            return Ok(shown);
        }
    }
    shown.cut = format!("older than the newest {HISTORY_MAX} versions");
    Ok(shown)
}

async fn compare(urls: &[(usize, String)]) -> Result<Shown, String> {
    let mut clients = Vec::new();
    let mut revision = i64::MAX;
    for (member, url) in urls {
        if survey::is_closed(url) {
            clients.push((*member, Err(survey::CLOSED.to_owned())));
            continue;
        }
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        let client = match endpoint.connect().await {
            Ok(channel) => {
                let mut client = MaintenanceClient::new(channel);
                let status = client.status(crate::proto::etcdserverpb::StatusRequest::default()).await;
                if let Some(header) = status.ok().and_then(|s| s.into_inner().header) {
                    revision = revision.min(header.revision);
                }
                Ok(client)
            }
            Err(_) => Err("it does not answer".to_string()),
        };
        clients.push((*member, client));
    }
    let mut hashes = Vec::new();
    for (member, client) in clients {
        let hash = match client {
            Ok(mut client) => {
                let answer = client.hash_kv(HashKvRequest { revision }).await;
                let hash = |r: tonic::Response<crate::proto::etcdserverpb::HashKvResponse>| {
                    (r.get_ref().hash, r.get_ref().compact_revision)
                };
                answer.map(hash).map_err(|status| status.message().to_owned())
            }
            Err(why) => Err(why),
        };
        hashes.push(Hashed { member, hash });
    }
    let good: Vec<u32> = hashes.iter().filter_map(|h| h.hash.as_ref().ok().map(|(hash, _)| *hash)).collect();
    let differ = match good.windows(2).all(|w| w[0] == w[1]) {
        true => Vec::new(),
        false => search(urls, revision).await,
    };
    Ok(Shown::Compared(Compared { revision, hashes, differ }))
}

/// What a member has at a revision: by key, when it was changed last and its value's sum.
type Contents = BTreeMap<Vec<u8>, (i64, u32)>;

/// The keys in which members differ. One that does not answer is left out.
async fn search(urls: &[(usize, String)], revision: i64) -> Vec<Difference> {
    let mut all = Vec::new();
    for (member, url) in urls {
        if let Ok(contents) = contents(url, revision).await {
            all.push((*member, contents));
        }
    }
    differences(&all)
}

async fn contents(url: &str, revision: i64) -> Result<Contents, String> {
    let mut kv = client(std::slice::from_ref(&url.to_owned())).await?;
    let (mut found, mut start) = (Contents::new(), vec![0]);
    while found.len() < SEARCHED_MAX {
        let request = RangeRequest {
            key: start.into(),
            range_end: Bytes::from_static(&[0]),
            limit: PAGE,
            revision,
            ..Default::default()
        };
        let page = range(&mut kv, request).await?;
        let last = page.kvs.last().map(|kv| [&kv.key[..], &[0]].concat());
        found.extend(page.kvs.into_iter().map(|kv| (kv.key.to_vec(), (kv.mod_revision, crc32c::crc32c(&kv.value)))));
        match last.filter(|_| page.more) {
            Some(next) => start = next,
            None => break,
        }
    }
    Ok(found)
}

/// Keys that are not the same everywhere, in their order. Beyond where the shortest was cut off nothing is said.
fn differences(all: &[(usize, Contents)]) -> Vec<Difference> {
    let is_cut = |c: &&Contents| c.len() >= SEARCHED_MAX;
    let end = all.iter().map(|(_, c)| c).filter(is_cut).filter_map(|c| c.last_key_value()).map(|(k, _)| k).min();
    let keys: BTreeSet<&Vec<u8>> =
        all.iter().flat_map(|(_, c)| c.keys()).filter(|k| end.is_none_or(|e| *k <= e)).collect();
    let has = |key: &Vec<u8>| all.iter().map(|(member, c)| (*member, c.get(key).copied())).collect::<Vec<_>>();
    let differs = |has: &[(usize, Option<(i64, u32)>)]| has.windows(2).any(|w| w[0].1 != w[1].1);
    let found = keys.into_iter().map(|key| Difference { has: has(key), key: key.clone() });
    found.filter(|d| differs(&d.has)).take(DIFFER_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str) -> KeyValue {
        KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), mod_revision: 5, version: 1, ..Default::default() }
    }

    fn names(listing: &Listing) -> Vec<String> {
        listing.rows.iter().map(|r| String::from_utf8_lossy(&r.key).into_owned()).collect()
    }

    #[test]
    fn keys_become_folders_at_the_separator() {
        let mut listing = Listing { prefix: b"app/".to_vec(), ..Listing::default() };
        let kvs = ["app/a", "app/b/1", "app/b/2", "app/c"].map(kv);
        assert_eq!(fold(&mut listing, &kvs, false), None);
        assert_eq!(names(&listing), ["app/a", "app/b/", "app/c"]);
        assert_eq!(listing.rows.iter().map(|r| r.is_folder).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn the_rest_of_a_folder_is_skipped_and_a_key_is_followed_by_the_next() {
        let mut listing = Listing::default();
        assert_eq!(fold(&mut listing, &["a/1", "a/2"].map(kv), true), Some(b"a0".to_vec()));
        assert_eq!(fold(&mut listing, &["b", "c"].map(kv), true), Some(b"c\0".to_vec()));
        assert_eq!(names(&listing), ["a/", "b", "c"]);
    }

    /// What a member answers, and how many keys it has counted for that.
    fn answer(store: &BTreeSet<String>, request: &RangeRequest) -> (RangeResponse, usize) {
        let end = &request.range_end[..];
        let within = |key: &&String| key.as_bytes() >= &request.key[..] && (end == [0] || key.as_bytes() < end);
        let found: Vec<&String> = store.iter().filter(within).collect();
        let limit = request.limit as usize;
        let kvs = found.iter().take(limit).map(|key| kv(key)).collect();
        (RangeResponse { kvs, more: found.len() > limit, ..Default::default() }, found.len())
    }

    /// All rows of a folder, page after page; the questions that it took, and the keys counted for them.
    fn walked(store: &BTreeSet<String>, prefix: &str) -> (Vec<String>, usize, usize) {
        let (mut rows, mut asked, mut counted, mut from) = (Vec::new(), 0, 0, Vec::new());
        loop {
            let mut walk = Walk::new(prefix.into(), from, 0);
            while let Some(request) = walk.asks() {
                let (page, count) = answer(store, &request);
                (asked, counted) = (asked + 1, counted + count);
                walk.hears(&page);
            }
            rows.extend(names(&walk.listing));
            match walk.next {
                Some(next) => from = next,
                None => return (rows, asked, counted),
            }
        }
    }

    fn expected(store: &BTreeSet<String>, prefix: &str) -> Vec<String> {
        let below = store.iter().filter_map(|key| key.strip_prefix(prefix));
        let name = |rest: &str| rest.find('/').map_or(rest.to_owned(), |at| rest[..=at].to_owned());
        let rows: BTreeSet<String> = below.map(|rest| format!("{prefix}{}", name(rest))).collect();
        rows.into_iter().collect()
    }

    #[test]
    fn every_row_is_found_once_however_names_are_made() {
        let names =
            ["a", "a/", "a/b", "a/b/c", "a/bb", "a/bb/c", "a//", "ab/x/y", "b/1", "zz/é/1", "zz/\u{7f}/2", "zzz"];
        let mut store: BTreeSet<String> = names.map(str::to_owned).into();
        store.extend((0..700).map(|n| format!("flat/{n:04}")));
        store.extend((0..3_000).map(|n| format!("tree/{:03}/{n}", n % 300)));
        store.extend((0..300).map(|n| format!("sum/{:08x}{:08x}/x", crc32c::crc32c(&[n as u8]), n)));
        for prefix in ["", "a/", "a/b/", "zz/", "flat/", "tree/", "tree/007/", "sum/", "none/"] {
            assert_eq!(walked(&store, prefix).0, expected(&store, prefix), "{prefix:?}");
        }
    }

    #[test]
    fn a_folder_of_folders_has_few_keys_counted() {
        let store: BTreeSet<String> = (0..30_000).map(|n| format!("tree/{:03}/{n:05}", n % 300)).collect();
        let (rows, asked, counted) = walked(&store, "tree/");
        assert_eq!(rows.len(), 300);
        assert!(asked < 500 && counted < 30_000 * 20, "{asked} questions, {counted} keys counted");
    }

    #[test]
    fn keys_that_are_not_the_same_everywhere_are_found() {
        let contents = |keys: &[(&str, i64, u32)]| {
            keys.iter().map(|(key, revision, sum)| (key.as_bytes().to_vec(), (*revision, *sum))).collect::<Contents>()
        };
        let one = contents(&[("a", 2, 7), ("b", 3, 8), ("c", 4, 9)]);
        let other = contents(&[("a", 2, 7), ("b", 3, 66), ("d", 5, 1)]);
        let found = differences(&[(0, one.clone()), (2, other)]);
        let expected = [
            Difference { key: b"b".to_vec(), has: vec![(0, Some((3, 8))), (2, Some((3, 66)))] },
            Difference { key: b"c".to_vec(), has: vec![(0, Some((4, 9))), (2, None)] },
            Difference { key: b"d".to_vec(), has: vec![(0, None), (2, Some((5, 1)))] },
        ];
        assert_eq!(found, expected);
        assert_eq!(differences(&[(0, one.clone()), (1, one)]), []);
    }

    #[test]
    fn a_leading_separator_is_a_folder_of_its_own() {
        let mut listing = Listing::default();
        fold(&mut listing, &["/registry/pods/a", "/registry/pods/b"].map(kv), false);
        assert_eq!(names(&listing), ["/"]);
    }
}
