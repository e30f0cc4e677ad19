//! A range that comes in pieces: the `RangeStream` of etcd 3.7, for answers that are too large for one message.

use super::Client;
use super::call::failure;
use super::error::Error;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::RangeStreamResponse;
use http::uri::PathAndQuery;
use tonic::Streaming;
use tonic_prost::ProstCodec;

const RANGE_STREAM: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/RangeStream");

/// The pieces of one range, which all show the same revision.
#[derive(Debug)]
pub struct RangeStream {
    pieces: Streaming<RangeStreamResponse>,
}

impl RangeStream {
    /// The next piece; nothing after the last, which has the header and the count.
    ///
    /// # Errors
    /// What the member answered, or [`Error::Lost`]: then the range begins anew.
    pub async fn next(&mut self) -> Result<Option<RangeResponse>, Error> {
        let piece = self.pieces.message().await.map_err(failure)?;
        Ok(piece.map(|piece| piece.range_response.unwrap_or_default()))
    }

    /// All pieces as one answer.
    ///
    /// # Errors
    /// As [`RangeStream::next`].
    pub async fn whole(mut self) -> Result<RangeResponse, Error> {
        let mut whole = RangeResponse::default();
        while let Some(mut piece) = self.next().await? {
            whole.kvs.append(&mut piece.kvs);
            whole.header = piece.header.or(whole.header);
            whole.count = whole.count.max(piece.count);
            whole.more |= piece.more;
        }
        Ok(whole)
    }
}

/// Asks the next member that is up.
pub(super) async fn open(client: &Client, range: RangeRequest) -> Result<RangeStream, Error> {
    let connection = client.pool.pick(client.next_turn()).await;
    let mut grpc = client.grpc(connection);
    let mut request = tonic::Request::new(range);
    client.add_metadata(request.metadata_mut());
    let codec = ProstCodec::<RangeRequest, RangeStreamResponse>::default();
    let answer = grpc.server_streaming(request, RANGE_STREAM, codec).await.map_err(failure)?;
    Ok(RangeStream { pieces: answer.into_inner() })
}
