//! A member's data as a stream of pieces.

use super::Client;
use super::call::failure;
use super::error::Error;
use crate::proto::etcdserverpb::SnapshotRequest;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use bytes::Bytes;
use tonic::Streaming;

/// A snapshot on its way. All pieces together are the file: a bbolt database, and 32 bytes of SHA-256 over it.
#[derive(Debug)]
pub struct SnapshotStream {
    answers: Streaming<SnapshotResponse>,
    version: String,
    remaining: u64,
}

pub(super) async fn open(client: &Client) -> Result<SnapshotStream, Error> {
    let connection = client.pool.pick(client.next_turn()).await;
    let mut message = tonic::Request::new(SnapshotRequest {});
    client.add_metadata(message.metadata_mut());
    let origin = connection.origin.clone();
    let answers = MaintenanceClient::with_origin(connection, origin)
        .max_decoding_message_size(client.config.response_bytes_max)
        .snapshot(message)
        .await
        .map_err(failure)?;
    Ok(SnapshotStream { answers: answers.into_inner(), version: String::new(), remaining: 0 })
}

impl SnapshotStream {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// What broke the stream: then what was received is of no use.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(answer) = self.answers.message().await.map_err(failure)? else { return Ok(None) };
        self.remaining = answer.remaining_bytes;
        if self.version.is_empty() {
            self.version = answer.version;
        }
        Ok(Some(answer.blob))
    }

    /// The release whose form the data has. Empty before the first piece, and from members before 3.6.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Bytes that are still to come, the checksum not counted.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }
}
