//! The key space for the Data screen: one folder of the tree at a time, a key's value, its history, and whether members agree.
//!
//! Keys are no folders; a separator makes them so. A folder with a million keys costs one page: its rest is skipped by asking on behind it.

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
use std::time::Duration;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// What stands between folders.
pub const SEPARATOR: u8 = b'/';
/// Keys asked for at once.
const PAGE: i64 = 200;
/// Rows of one listing; more are one key away.
const ROWS_MAX: usize = 100;
/// Pages asked for one listing.
const PAGES_MAX: usize = 120;
/// Versions of one key's history.
const HISTORY_MAX: usize = 30;
/// Longest value that is kept for showing.
const VALUE_MAX: usize = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(3);

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

/// What the Data screen is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    Listing(Listing),
    Key(Key),
    Compared { revision: i64, hashes: Vec<Hashed> },
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
    let work = async {
        match what {
            Ask::List { prefix, from, at } => list(client(urls).await?, prefix, from, at).await.map(Shown::Listing),
            Ask::Key { key, at } => history(client(urls).await?, key, at).await.map(Shown::Key),
            Ask::Compare { urls } => compare(&urls).await,
        }
    };
    let late = |_| Err("no answer within 3 s".to_string());
    tokio::time::timeout(ANSWER, work).await.unwrap_or_else(late).unwrap_or_else(Shown::Failed)
}

async fn client(urls: &[String]) -> Result<KvClient<Channel>, String> {
    for url in urls {
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        if let Ok(channel) = endpoint.connect().await {
            return Ok(KvClient::new(channel));
        }
    }
    Err("no member answers".into())
}

async fn range(kv: &mut KvClient<Channel>, request: RangeRequest) -> Result<RangeResponse, String> {
    // Serializable: a picture of one member's state must not need a quorum.
    let request = RangeRequest { serializable: true, ..request };
    kv.range(request).await.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

async fn list(mut kv: KvClient<Channel>, prefix: Vec<u8>, from: Vec<u8>, at: i64) -> Result<Listing, String> {
    let end = if prefix.is_empty() { vec![0] } else { prefix_end(&prefix) };
    let mut listing = Listing { prefix, at, from: from.clone(), ..Listing::default() };
    let mut next = Some(if from.is_empty() { listing.prefix.clone() } else { from });
    for _ in 0..PAGES_MAX {
        let Some(start) = next.take() else { break };
        let key = if start.is_empty() { vec![0] } else { start };
        let request = RangeRequest {
            key: key.into(),
            range_end: end.clone().into(),
            limit: PAGE,
            revision: at,
            keys_only: true,
            ..Default::default()
        };
        let page = range(&mut kv, request).await?;
        listing.newest = page.header.as_ref().map_or(0, |h| h.revision);
        next = fold(&mut listing, &page.kvs, page.more);
        if listing.rows.len() >= ROWS_MAX {
            break;
        }
    }
    listing.next = next;
    Ok(listing)
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
    Ok(Shown::Compared { revision, hashes })
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

    #[test]
    fn a_leading_separator_is_a_folder_of_its_own() {
        let mut listing = Listing::default();
        fold(&mut listing, &["/registry/pods/a", "/registry/pods/b"].map(kv), false);
        assert_eq!(names(&listing), ["/"]);
    }
}
