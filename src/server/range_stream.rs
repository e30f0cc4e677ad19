//! A long range in pieces: the request of `Range`, answered as a stream of pages at one revision.
//!
//! The client can work on the first keys while the last are read, and nobody holds the whole range in memory. A page has as many keys as
//! make it about as large as the largest request: the number doubles or halves from page to page. Header, count and `more` come with the
//! last page. A compaction above the stream's revision ends it with an error, as it would end the pages of a client of its own.
//!
//! Source: etcd 3.7 `server/etcdserver/v3_server.go` (`rangeStream`), `api/v3rpc/key.go`; contract-server 2.9.

use super::front::Front;
use super::identity::Caller;
use crate::apply::check;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::types::KeyRange;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use futures::stream::try_unfold;
use prost::Message as _;
use tonic::Request;
use tonic::Status;

/// Keys on the first page; etcd's `initialStreamChunkLimit`.
const FIRST_PAGE: i64 = 10;

/// The pages of one range.
pub(super) type Pages = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

/// What is left to send.
struct Rest {
    front: Front,
    caller: Caller,
    /// The next page's request: its key moves on, its revision is fixed by the first page.
    request: pb::RangeRequest,
    /// Keys that may still be sent.
    left: i64,
    sent: i64,
    /// The store's revision when the first page was read; 0 before.
    revision: i64,
}

/// Answers with a stream. Each page is judged by the caller's rights at that time.
///
/// # Errors
/// Those of a linearizable read, and what is wrong with the request.
pub(super) async fn start(front: &Front, request: Request<pb::RangeRequest>) -> Result<Pages, Error> {
    let (caller, mut request) = Caller::of(request);
    check::range_stream(&request)?;
    if !request.serializable {
        front.node.read_barrier().await?;
    }
    // A negative limit is none. etcd sends one page then, with all of it; here nobody has a whole range in memory.
    let left = if request.limit <= 0 { i64::MAX } else { request.limit };
    if !request.count_only {
        request.limit = left.min(FIRST_PAGE);
    }
    front.permit_range(&caller, &KeyRange::parse(&request.key, &request.range_end)).await?;
    let rest = Rest { front: front.clone(), caller, request, left, sent: 0, revision: 0 };
    let pages = try_unfold(Some(rest), |rest| async move {
        let Some(rest) = rest else { return Ok(None) };
        rest.front.permit_range(&rest.caller, &KeyRange::parse(&rest.request.key, &rest.request.range_end)).await?;
        Ok::<_, Status>(Some(rest.next().await?))
    });
    Ok(pages.boxed())
}

impl Rest {
    /// Reads one page. Gives nothing more to send after the last.
    async fn next(mut self) -> Result<(pb::RangeStreamResponse, Option<Rest>), Error> {
        let page = self.front.node.range_page(&self.request).await?;
        if self.revision == 0 {
            self.revision = page.header.as_ref().map_or(0, |header| header.revision);
            if self.request.revision <= 0 {
                self.request.revision = self.revision;
            }
        }
        if self.request.count_only {
            return Ok((self.last(Vec::new(), false, page.count), None));
        }
        let (size, keys) = (page.encoded_len(), page.kvs.len() as i64);
        self.sent += keys;
        self.left -= keys;
        let next = page.kvs.last().filter(|_| page.more).map(|kv| [kv.key.as_ref(), &[0]].concat());
        let Some(next) = next else {
            let count = self.sent;
            return Ok((self.last(page.kvs, false, count), None));
        };
        self.request.key = next.into();
        if self.left == 0 {
            let beyond = pb::RangeRequest { count_only: true, limit: 0, ..self.request.clone() };
            let count = self.sent + self.front.node.range_page(&beyond).await?.count;
            return Ok((self.last(page.kvs, true, count), None));
        }
        let target = self.front.node.config().max_request_bytes;
        self.request.limit = next_limit(self.request.limit, size, target).min(self.left);
        let page = pb::RangeResponse { kvs: page.kvs, ..pb::RangeResponse::default() };
        Ok((pb::RangeStreamResponse { range_response: Some(page) }, Some(self)))
    }

    fn last(&self, kvs: Vec<crate::proto::mvccpb::KeyValue>, more: bool, count: i64) -> pb::RangeStreamResponse {
        let mut header = Some(pb::ResponseHeader { revision: self.revision, ..pb::ResponseHeader::default() });
        self.front.stamp(&mut header);
        pb::RangeStreamResponse { range_response: Some(pb::RangeResponse { header, kvs, more, count }) }
    }
}

/// How many keys the next page has, after one of `limit` keys and `size` bytes. Only far from the target does it change, so that it
/// does not swing.
fn next_limit(limit: i64, size: usize, target: usize) -> i64 {
    let next = if size < target / 2 {
        limit.saturating_mul(2)
    } else if size > target.saturating_mul(2) {
        limit / 2
    } else {
        limit
    };
    // A limit of 0 would be none.
    if next == 0 { 1 } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_while_they_are_small_and_shrink_when_they_are_large() {
        assert_eq!(next_limit(10, 100, 1000), 20);
        assert_eq!(next_limit(10, 500, 1000), 10);
        assert_eq!(next_limit(10, 2000, 1000), 10);
        assert_eq!(next_limit(10, 2001, 1000), 5);
        assert_eq!(next_limit(1, 9000, 1000), 1, "never 0, which would be no limit");
        assert_eq!(next_limit(i64::MAX, 1, 1000), i64::MAX);
    }
}
