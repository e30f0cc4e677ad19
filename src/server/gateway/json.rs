//! Between JSON and gRPC's frames, by a message's descriptor.
//!
//! A body may hold several objects one after the other (a watch's requests); [`Splitter`] finds where each ends without parsing it, each byte once.

use super::syntax;
use crate::server::upload::Upload;
use bytes::Buf as _;
use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use hyper::body::Body as _;
use hyper::body::Frame;
use prost::Message as _;
use prost_reflect::DeserializeOptions;
use prost_reflect::DynamicMessage;
use prost_reflect::Kind;
use prost_reflect::MessageDescriptor;
use prost_reflect::SerializeOptions;
use serde_json::Value;
use std::error::Error;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use tokio::sync::mpsc;
use tonic::Status;

/// A message as etcd 3.5 prints it.
pub(super) fn write(message: &DynamicMessage) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    let options = SerializeOptions::new().use_proto_field_name(true);
    // Into memory, and every value of a decoded message has a JSON form.
    let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options);
    debug_assert!(written.is_ok(), "{written:?}");
    text
}

/// The gRPC frame of one JSON object.
fn frame(descriptor: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let invalid = |e: serde_json::Error| Status::invalid_argument(e.to_string());
    let mut value: Value = serde_json::from_slice(json)
        .map_err(|e| syntax::complaint(json).map_or_else(|| invalid(e), Status::invalid_argument))?;
    check(descriptor, &mut value)?;
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options).map_err(invalid)?;
    let bytes = message.encoded_len();
    let mut frame = BytesMut::with_capacity(bytes + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes).map_err(|_| Status::resource_exhausted("the message is too large"))?);
    message.encode(&mut frame).map_err(|e| Status::internal(e.to_string()))?;
    Ok(frame.freeze())
}

/// Refuses names that an enum does not have. The parser passes over them like over members that a message does not have, and would sort, compare or
/// grant by default.
///
/// A whole number may be written with a point or an exponent in a text, too: the parser knows that of numbers only. Source: Go `protojson` (`unmarshalInt`).
fn check(descriptor: &MessageDescriptor, value: &mut Value) -> Result<(), Status> {
    let Value::Object(members) = value else { return Ok(()) };
    for (name, value) in members {
        let field = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name));
        let Some(field) = field else { continue };
        let values = match value {
            Value::Array(values) => values.as_mut_slice(),
            single => std::slice::from_mut(single),
        };
        for value in values {
            match (field.kind(), value) {
                (Kind::Message(inner), value) => check(&inner, value)?,
                (Kind::Int64 | Kind::Uint64 | Kind::Int32 | Kind::Uint32, value @ Value::String(_)) => {
                    whole(value);
                }
                (Kind::Enum(names), Value::String(given)) if names.get_value_by_name(given).is_none() => {
                    let text = format!("unknown value {given:?} for enum {}", names.full_name());
                    return Err(Status::invalid_argument(text));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A text that is a whole number in another form becomes that number, if that is exact.
fn whole(value: &mut Value) {
    let text = value.as_str().unwrap_or_default();
    let is_other_form = text.contains(['.', 'e', 'E']) && text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let number = text.parse::<f64>().ok().filter(|number| is_other_form && number.fract() == 0.0);
    if let Some(number) = number.filter(|number| number.abs() < (1_u64 << 53) as f64) {
        *value = Value::from(number as i64);
    }
}

/// The frame of the first object in a body; without one it is that of an empty object, as in grpc-gateway.
pub(super) fn first_frame(descriptor: &MessageDescriptor, body: &[u8]) -> Result<Bytes, Status> {
    let mut splitter = Splitter::default();
    splitter.buffer.extend_from_slice(body);
    match splitter.next()? {
        Some(json) => frame(descriptor, &json),
        None if splitter.is_empty() => frame(descriptor, b"{}"),
        None => Err(Status::invalid_argument("unexpected EOF")),
    }
}

/// Cuts a run of JSON objects into single ones.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: BytesMut,
    scanned: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Splitter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing but blanks is left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next object, if all of it is here.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.scanned == 0 {
            let blanks = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blanks);
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.scanned == 0 && byte != b'{' {
                let told =
                    || format!("invalid character {:?} looking for the beginning of an object", char::from(byte));
                return Err(Status::invalid_argument(syntax::no_value(byte).unwrap_or_else(told)));
            }
            self.scanned += 1;
            match (self.in_text, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (true, b'"') => self.in_text = false,
                (true, _) => {}
                (false, b'"') => self.in_text = true,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                (false, _) => {}
            }
            if self.depth == 0 {
                return Ok(Some(self.buffer.split_to(std::mem::take(&mut self.scanned)).freeze()));
            }
        }
        Ok(None)
    }
}

/// What ends a body too early.
pub(in crate::server) type Failure = Box<dyn Error + Send + Sync>;

/// Where JSON comes from.
enum Source {
    Body(Upload),
    Feed(mpsc::Receiver<Bytes>),
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        match self {
            Source::Body(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                let data = |frame: Frame<Bytes>| frame.into_data().unwrap_or_default();
                Some(frame?.map(data).map_err(Into::into))
            }),
            Source::Feed(feed) => feed.poll_recv(cx).map(|data| data.map(Ok)),
        }
    }
}

/// A body of JSON objects as the body of a gRPC call: one frame for each object.
pub(in crate::server) struct Transcoded {
    body: Source,
    descriptor: MessageDescriptor,
    splitter: Splitter,
    bytes_max: usize,
    ended: bool,
}

impl Transcoded {
    pub(super) fn new(body: Upload, descriptor: MessageDescriptor, bytes_max: usize) -> Transcoded {
        Transcoded::from(Source::Body(body), descriptor, bytes_max)
    }

    /// Of JSON that comes piece by piece.
    pub(super) fn fed(feed: mpsc::Receiver<Bytes>, descriptor: MessageDescriptor, bytes_max: usize) -> Transcoded {
        Transcoded::from(Source::Feed(feed), descriptor, bytes_max)
    }

    fn from(body: Source, descriptor: MessageDescriptor, bytes_max: usize) -> Transcoded {
        Transcoded { body, descriptor, splitter: Splitter::default(), bytes_max, ended: false }
    }

    /// The next frame; what goes wrong becomes the call's status.
    pub(in crate::server) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            match self.splitter.next().and_then(|json| json.map(|json| frame(&self.descriptor, &json)).transpose()) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status.into()))),
            }
            if self.ended {
                let rest = !self.splitter.is_empty();
                self.splitter = Splitter::default();
                return Poll::Ready(rest.then(|| Err(Status::invalid_argument("unexpected EOF").into())));
            }
            if self.splitter.buffer.len() > self.bytes_max.saturating_mul(2) {
                let told = format!("grpc: received message larger than max ({})", self.bytes_max);
                return Poll::Ready(Some(Err(Status::resource_exhausted(told).into())));
            }
            match ready!(self.body.poll(cx)) {
                Some(Ok(data)) => self.splitter.push(&data),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => self.ended = true,
            }
        }
    }
}
