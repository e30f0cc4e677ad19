//! Messages to bytes and back, for gRPC, with buffers as large as what usually goes through them.
//!
//! tonic's own codec sets aside 8 KiB for each direction of each call, which is most of what an idle stream costs, and lets the buffer of a
//! large answer grow by doubling, which copies all of it once more.

use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec;
use tonic::codec::BufferSettings;
use tonic::codec::DecodeBuf;
use tonic::codec::EncodeBuf;

/// What a request's buffer begins with. A small put fits twice, which is what tonic makes room for once it knows a message's length.
const READ_BYTES: usize = 1024;
/// What an answer's buffer begins with: an answer to a put.
const WRITE_BYTES: usize = 128;
/// Messages of a stream are gathered up to so much before they are passed on; tonic's value.
const GATHERED_BYTES: usize = 32 * 1024;

/// Writes messages `E` and reads messages `D`.
#[derive(Debug)]
pub struct Codec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Codec<E, D> {
    fn default() -> Codec<E, D> {
        Codec(PhantomData)
    }
}

impl<E, D> codec::Codec for Codec<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Encoder<E>;
    type Decoder = Decoder<D>;

    fn encoder(&mut self) -> Encoder<E> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<D> {
        Decoder::with_buffer(READ_BYTES)
    }
}

/// Writes messages `E`.
#[derive(Debug)]
pub struct Encoder<E>(PhantomData<E>);

impl<E: Message> codec::Encoder for Encoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(message.encoded_len());
        message.encode_raw(into);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(WRITE_BYTES, GATHERED_BYTES)
    }
}

/// Reads messages `D`.
#[derive(Debug)]
pub struct Decoder<D> {
    buffer_bytes: usize,
    message: PhantomData<D>,
}

impl<D> Decoder<D> {
    /// One that begins with a buffer of this size.
    #[must_use]
    pub fn with_buffer(buffer_bytes: usize) -> Decoder<D> {
        Decoder { buffer_bytes, message: PhantomData }
    }
}

impl<D: Message + Default> codec::Decoder for Decoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        D::decode(from).map(Some).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(self.buffer_bytes, GATHERED_BYTES)
    }
}
