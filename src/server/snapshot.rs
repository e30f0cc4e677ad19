//! `Maintenance.Snapshot`: the member's image in pieces, and its checksum.
//!
//! Each answer says how much is still to come, so that a client can show how far it is. The last one is the SHA-256 of all others. Source: etcd
//! `api/v3rpc/maintenance.go`; contract-server 6.7.

use crate::error::Error;
use crate::node::Image;
use crate::node::Node;
use crate::proto::etcdserverpb::SnapshotResponse;
use bytes::Bytes;
use sha2::Digest;
use sha2::Sha256;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The size of a piece; etcd's.
const PIECE_BYTES: usize = 32 << 10;

/// Pieces that wait for a slow client.
const PIECES_MAX: usize = 8;

/// What a client receives.
pub(super) type Stream = ReceiverStream<Result<SnapshotResponse, Status>>;

/// A client's end of the stream.
type Out = mpsc::Sender<Result<SnapshotResponse, Status>>;

/// Begins to make and to send the image, on a thread of its own. A client that goes away ends it.
pub(super) fn stream(node: Node) -> Stream {
    let (out, stream) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(why) = send(&node, &out) {
            tracing::warn!(error = %why, "failed to send a database snapshot to a client");
            // A client that is gone does not miss the reason.
            let _gone = out.blocking_send(Err(why.into()));
        }
    });
    ReceiverStream::new(stream)
}

#[expect(clippy::disallowed_methods, reason = "tells how long it took")]
fn send(node: &Node, out: &Out) -> Result<(), Error> {
    let began = Instant::now();
    let Image { file, bytes, storage_version, .. } = &node.image()?;
    tracing::info!(total_bytes = bytes, "sending database snapshot to client");
    let answer = |remaining_bytes, blob| SnapshotResponse {
        remaining_bytes,
        blob,
        version: (*storage_version).to_owned(),
        ..SnapshotResponse::default()
    };
    let (mut sent, mut hash) = (0, Sha256::new());
    while sent < *bytes {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(bytes - sent).unwrap_or(PIECE_BYTES))];
        let read = file.read_at(sent, &mut piece)?;
        if read < piece.len() {
            return Err(Error::Damaged("the image ended while it was sent".into()));
        }
        hash.update(&piece);
        sent += piece.len() as u64;
        if out.blocking_send(Ok(answer(bytes - sent, piece.into()))).is_err() {
            return Err(Error::Canceled);
        }
    }
    let checksum = Bytes::copy_from_slice(&hash.finalize());
    if out.blocking_send(Ok(answer(0, checksum))).is_err() {
        return Err(Error::Canceled);
    }
    tracing::info!(total_bytes = bytes, took = ?began.elapsed(), "successfully sent database snapshot to client");
    Ok(())
}
