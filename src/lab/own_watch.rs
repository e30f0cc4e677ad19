//! The lab's own watch of all keys: what it is told is held against what etcd promises of watches (`promises`).
//!
//! One watch, at one member. When that member is gone, the watch goes on at the next one from where it was, as any client's would: that it is
//! told neither twice nor too little is the promise. Idle it costs nothing; and where very much is written it looks at a part only: it lets go, and
//! watches anew a few seconds later, from then on. To be told everything, a member would have to work for the lab as much as for its clients.

#![expect(clippy::disallowed_methods, reason = "waits between attempts to connect, and counts what comes in a second")]

use crate::lab::observe::Report;
use crate::lab::picture::reconcile::Glance;
use crate::lab::promises::Told;
use crate::lab::promises::Watched;
use crate::lab::survey;
use crate::lab::workdir::Record;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::event::EventType;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// The watch's id, which a client may choose: by it the screens know it. The letters "lab".
pub const OWN_WATCH: i64 = 0x6c_6162;
const CONNECT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(500);
/// So many events of a second it looks at.
const EVENTS_MAX: usize = 2_000;
const SECOND: Duration = Duration::from_secs(1);
/// And after more it looks away for so long.
const REST: Duration = Duration::from_secs(10);
/// etcd lets an event be larger than a client reads by itself.
const RESPONSE_MAX: usize = 64 << 20;

/// Watches until the set is dropped.
#[must_use]
pub fn watch(record: &Record, to: &mpsc::Sender<Report>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let urls = record.members.iter().map(|m| m.client_url.clone()).collect();
    tasks.spawn(keep_watching(urls, to.clone()));
    tasks
}

async fn keep_watching(urls: Vec<String>, to: mpsc::Sender<Report>) {
    let (mut next, mut said) = (0, false);
    while !to.is_closed() {
        for (member, url) in urls.iter().enumerate() {
            while follow(member, url, &mut next, &to).await == Ended::Enough {
                next = 0;
                if !std::mem::replace(&mut said, true) {
                    let text = "so much is written that the lab's own watch looks at a part of it only".to_owned();
                    drop(to.send(Report::Note { text }).await);
                }
                tokio::time::sleep(REST).await;
            }
            // Whatever else ends it, the next member is asked to go on.
            if to.is_closed() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// There is more than it looks at.
    Enough,
    Otherwise,
}

/// Watches at one member, from revision `next` on; 0: from now.
async fn follow(member: usize, url: &str, next: &mut i64, to: &mpsc::Sender<Report>) -> Ended {
    let Some(mut told) = open(url, *next).await else { return Ended::Otherwise };
    let (mut budget, mut second) = (EVENTS_MAX, Instant::now());
    while let Ok(Some(response)) = told.message().await {
        if second.elapsed() >= SECOND {
            (budget, second) = (EVENTS_MAX, Instant::now());
        }
        let Some(rest) = budget.checked_sub(response.events.len()) else { return Ended::Enough };
        budget = rest;
        if let Some(watched) = heard(&response, next)
            && to.send(Report::Watched { member, watched: Box::new(watched) }).await.is_err()
        {
            break;
        }
        if response.canceled {
            break;
        }
    }
    Ended::Otherwise
}

async fn open(url: &str, next: i64) -> Option<Streaming<WatchResponse>> {
    if survey::is_closed(url) {
        return None;
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).ok()?.connect_timeout(CONNECT);
    let mut client = WatchClient::new(endpoint.connect().await.ok()?).max_decoding_message_size(RESPONSE_MAX);
    let all = Bytes::from_static(b"\0");
    let create = WatchCreateRequest {
        key: all.clone(),
        range_end: all,
        start_revision: next,
        watch_id: OWN_WATCH,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // It asks once, and says no more until it is dropped.
    let asks = stream::iter([request]).chain(stream::pending());
    Some(client.watch(asks).await.ok()?.into_inner())
}

/// What a response says, and from where the watch goes on after it.
fn heard(response: &WatchResponse, next: &mut i64) -> Option<Watched> {
    if response.canceled {
        // Without a compaction, it was refused: by authentication, perhaps.
        *next = (response.compact_revision > 0).then_some(response.compact_revision + 1)?;
        return Some(Watched::Compacted { from: *next });
    }
    if response.created {
        let now = response.header.as_ref().map_or(0, |h| h.revision);
        *next = if *next == 0 { now + 1 } else { *next };
        return Some(Watched::Opens { from: *next });
    }
    let kvs = response.events.iter().filter_map(|e| Some((e.r#type == EventType::Delete as i32, e.kv.as_ref()?)));
    let tell = |(deleted, kv): (bool, &crate::proto::mvccpb::KeyValue)| Told {
        revision: kv.mod_revision,
        key: kv.key.to_vec(),
        deleted,
        object: if deleted { None } else { Glance::of(&kv.key, &kv.value) },
    };
    let events: Vec<Told> = kvs.map(tell).collect();
    *next = events.last()?.revision + 1;
    Some(Watched::Tells { events })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::ResponseHeader;
    use crate::proto::mvccpb::Event;
    use crate::proto::mvccpb::KeyValue;

    fn response(revision: i64) -> WatchResponse {
        let header = ResponseHeader { revision, ..ResponseHeader::default() };
        WatchResponse { header: Some(header), ..WatchResponse::default() }
    }

    #[test]
    fn it_goes_on_behind_what_it_was_told() {
        let mut next = 0;
        let created = WatchResponse { created: true, ..response(7) };
        assert_eq!(heard(&created, &mut next), Some(Watched::Opens { from: 8 }));
        let kv = KeyValue { key: "a".into(), mod_revision: 8, ..KeyValue::default() };
        let event = Event { kv: Some(kv), r#type: EventType::Delete as i32, prev_kv: None };
        let told = Told { revision: 8, key: b"a".to_vec(), deleted: true, object: None };
        let events = WatchResponse { events: vec![event], ..response(8) };
        assert_eq!(heard(&events, &mut next), Some(Watched::Tells { events: vec![told] }));
        // Another member is asked for what comes after it.
        assert_eq!(
            heard(&WatchResponse { created: true, ..response(20) }, &mut next),
            Some(Watched::Opens { from: 9 })
        );
        let compacted = WatchResponse { canceled: true, compact_revision: 30, ..response(40) };
        assert_eq!(heard(&compacted, &mut next), Some(Watched::Compacted { from: 31 }));
        assert_eq!((heard(&response(50), &mut next), next), (None, 31), "progress tells nothing");
    }

    #[test]
    fn a_refused_watch_stays_where_it_was() {
        let mut next = 5;
        assert_eq!(heard(&WatchResponse { canceled: true, ..response(40) }, &mut next), None);
        assert_eq!(next, 5);
    }
}
