//! The two stream formats of etcd's peer protocol, as functions over bytes: no socket, no clock.
//!
//! Both streams carry raft messages one after the other; they differ in how much they repeat. `message` sends each message
//! whole. `msgapp` is for a leader's appends: in a steady run the next append begins where the last one ended, in the same
//! term, so only the entries and the commit index are sent and the reader fills in the rest from what it remembers.
//!
//! ```text
//! message   length u64 | message                                   (repeated; all numbers big-endian)
//! msgapp    0                                                      the line is alive
//!           1 | count u64 | { length u64 | entry } * count | commit u64
//!           2 | length u64 | message                               any other append; both sides remember its end
//! ```
//!
//! Left out: nothing. What a decoder refuses ends the connection, so it never has to find its way back into a stream.
//!
//! Source: etcd `server/etcdserver/api/rafthttp/{msg_codec,msgappv2_codec}.go`.

use crate::proto::raftpb::Entry;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use bytes::Buf;
use bytes::BufMut;
use bytes::BytesMut;

/// The largest message, or run of entries, that is taken from the wire. etcd's own limit is 512 MiB; one append carries about
/// 1 MiB plus its last entry, so that this is far above what a member sends.
pub const FRAME_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// The most entries in one append. An entry costs about ten times its smallest encoding in memory, hence a limit of its own.
pub const FRAME_ENTRIES_MAX: u64 = 1 << 20;

const LINK_HEARTBEAT: u8 = 0;
const APP_ENTRIES: u8 = 1;
const APP: u8 = 2;

/// Which of the two streams: each has a path, a format and a place in the order of messages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A leader's appends.
    MsgApp,
    /// All else.
    Message,
}

impl StreamKind {
    /// Both, in the order in which links keep them.
    pub const ALL: [StreamKind; 2] = [StreamKind::MsgApp, StreamKind::Message];

    /// The path segment that asks for this stream.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "msgapp",
            StreamKind::Message => "message",
        }
    }

    /// etcd's name for it in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "stream MsgApp v2",
            StreamKind::Message => "stream Message",
        }
    }
}

/// Bytes that no peer would send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A length beyond [`FRAME_BYTES_MAX`].
    #[error("rafthttp: error limit exceeded ({0} bytes)")]
    TooLarge(u64),
    /// A count beyond [`FRAME_ENTRIES_MAX`].
    #[error("rafthttp: error limit exceeded ({0} entries)")]
    TooManyEntries(u64),
    /// A frame of a kind that the msgapp stream does not have.
    #[error("failed to parse type {0} in msgappv2 stream")]
    UnknownKind(u8),
    /// Not a protobuf message.
    #[error("error unmarshalling raft message: {0}")]
    Malformed(String),
}

/// The message that says only that the line is alive. raft never sends one like it: its messages name their sender.
#[must_use]
pub fn link_heartbeat() -> Message {
    Message { msg_type: MessageType::MsgHeartbeat as i32, ..Message::default() }
}

/// Whether this is [`link_heartbeat`], which raft must not see.
#[must_use]
pub fn is_link_heartbeat(m: &Message) -> bool {
    m.msg_type == MessageType::MsgHeartbeat as i32 && m.from == 0 && m.to == 0
}

/// Where the last append ended: what makes the next one predictable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tail {
    term: u64,
    index: u64,
}

impl Tail {
    fn after(m: &Message) -> Tail {
        Tail { term: m.term, index: m.entries.last().map_or(m.index, |e| e.index) }
    }

    /// Whether the reader can tell all of `m` but its entries and its commit index.
    fn predicts(self, m: &Message) -> bool {
        self.index == m.index && self.term == m.log_term && m.log_term == m.term
    }
}

/// Writes one stream.
#[derive(Debug)]
pub struct Encoder {
    kind: StreamKind,
    tail: Tail,
}

impl Encoder {
    /// An encoder for the start of a stream.
    #[must_use]
    pub fn new(kind: StreamKind) -> Encoder {
        Encoder { kind, tail: Tail::default() }
    }

    /// Appends `m` to `out`. A msgapp stream takes appends and [`link_heartbeat`] only.
    pub fn encode(&mut self, m: &Message, out: &mut BytesMut) {
        match self.kind {
            StreamKind::Message => encode_whole(m, out),
            StreamKind::MsgApp if is_link_heartbeat(m) => out.put_u8(LINK_HEARTBEAT),
            StreamKind::MsgApp if self.tail.predicts(m) => self.encode_entries(m, out),
            StreamKind::MsgApp => {
                out.put_u8(APP);
                encode_whole(m, out);
                self.tail = Tail::after(m);
            }
        }
    }

    fn encode_entries(&mut self, m: &Message, out: &mut BytesMut) {
        out.put_u8(APP_ENTRIES);
        out.put_u64(m.entries.len() as u64);
        for entry in &m.entries {
            put_framed(entry, out);
            self.tail.index += 1;
        }
        out.put_u64(m.commit);
    }
}

fn encode_whole(m: &Message, out: &mut BytesMut) {
    debug_assert!(
        m.request_snapshot == 0 && m.deprecated_priority == 0 && m.priority == 0,
        "fields 13, 14 and 16 mean something else to etcd"
    );
    put_framed(m, out);
}

fn put_framed(m: &impl prost::Message, out: &mut BytesMut) {
    let len = m.encoded_len();
    out.reserve(8 + len);
    out.put_u64(len as u64);
    m.encode_raw(out);
}

/// What the decoder waits for next.
#[derive(Clone, Copy, Debug)]
enum Wants {
    Kind,
    MessageLength,
    Message(usize),
    EntryCount,
    EntryLength,
    Entry(usize),
    Commit,
}

/// Reads one stream: bytes in as they come, messages out. After an error it must not be used again.
#[derive(Debug)]
pub struct Decoder {
    kind: StreamKind,
    local: u64,
    remote: u64,
    tail: Tail,
    buffer: BytesMut,
    wants: Wants,
    entries: Vec<Entry>,
    entries_left: u64,
    entry_bytes: u64,
}

impl Decoder {
    /// A decoder for the start of a stream from `remote` to `local`; a predicted append gets these as its sender and receiver.
    #[must_use]
    pub fn new(kind: StreamKind, local: u64, remote: u64) -> Decoder {
        Decoder {
            kind,
            local,
            remote,
            tail: Tail::default(),
            buffer: BytesMut::new(),
            wants: start_of_frame(kind),
            entries: Vec::new(),
            entries_left: 0,
            entry_bytes: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is here whole; none until more bytes come. Link heartbeats come out too.
    ///
    /// # Errors
    /// [`CodecError`] if these bytes are no such stream: close it.
    pub fn next_message(&mut self) -> Result<Option<Message>, CodecError> {
        loop {
            match self.wants {
                Wants::Kind => {
                    if !self.buffer.has_remaining() {
                        return Ok(None);
                    }
                    match self.buffer.get_u8() {
                        LINK_HEARTBEAT => return Ok(Some(link_heartbeat())),
                        APP_ENTRIES => self.wants = Wants::EntryCount,
                        APP => self.wants = Wants::MessageLength,
                        other => return Err(CodecError::UnknownKind(other)),
                    }
                }
                Wants::MessageLength => match self.take_u64() {
                    None => return Ok(None),
                    Some(len) => self.wants = Wants::Message(bounded(len)?),
                },
                Wants::Message(len) => match self.take(len)? {
                    None => return Ok(None),
                    Some(message) => return Ok(Some(self.finish_whole(message))),
                },
                Wants::EntryCount => match self.take_u64() {
                    None => return Ok(None),
                    Some(count) => self.begin_entries(count)?,
                },
                Wants::EntryLength => match self.take_u64() {
                    None => return Ok(None),
                    Some(len) => {
                        self.entry_bytes = self.entry_bytes.saturating_add(len);
                        bounded(self.entry_bytes)?;
                        self.wants = Wants::Entry(bounded(len)?);
                    }
                },
                Wants::Entry(len) => match self.take(len)? {
                    None => return Ok(None),
                    Some(entry) => self.add_entry(entry),
                },
                Wants::Commit => match self.take_u64() {
                    None => return Ok(None),
                    Some(commit) => return Ok(Some(self.finish_entries(commit))),
                },
            }
        }
    }

    fn take_u64(&mut self) -> Option<u64> {
        (self.buffer.remaining() >= 8).then(|| self.buffer.get_u64())
    }

    /// The next `len` bytes as a message, once they are all here. Its byte fields share the buffer.
    fn take<M: prost::Message + Default>(&mut self, len: usize) -> Result<Option<M>, CodecError> {
        if self.buffer.len() < len {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(len).freeze();
        M::decode(bytes).map(Some).map_err(|e| CodecError::Malformed(e.to_string()))
    }

    fn finish_whole(&mut self, message: Message) -> Message {
        self.wants = start_of_frame(self.kind);
        self.tail = Tail::after(&message);
        message
    }

    fn begin_entries(&mut self, count: u64) -> Result<(), CodecError> {
        if count > FRAME_ENTRIES_MAX {
            return Err(CodecError::TooManyEntries(count));
        }
        self.entries_left = count;
        self.entry_bytes = 0;
        // A promise of many entries is no reason to set memory aside for them: the list grows as they arrive.
        self.entries = Vec::new();
        self.wants = if count == 0 { Wants::Commit } else { Wants::EntryLength };
        Ok(())
    }

    fn add_entry(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.entries_left -= 1;
        self.wants = if self.entries_left == 0 { Wants::Commit } else { Wants::EntryLength };
    }

    fn finish_entries(&mut self, commit: u64) -> Message {
        self.wants = start_of_frame(self.kind);
        let entries = std::mem::take(&mut self.entries);
        let Tail { term, index } = self.tail;
        self.tail.index = index.wrapping_add(entries.len() as u64);
        Message {
            msg_type: MessageType::MsgAppend as i32,
            to: self.local,
            from: self.remote,
            term,
            log_term: term,
            index,
            entries,
            commit,
            ..Message::default()
        }
    }
}

fn start_of_frame(kind: StreamKind) -> Wants {
    match kind {
        StreamKind::MsgApp => Wants::Kind,
        StreamKind::Message => Wants::MessageLength,
    }
}

fn bounded(len: u64) -> Result<usize, CodecError> {
    if len > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge(len));
    }
    usize::try_from(len).map_err(|_| CodecError::TooLarge(len))
}

#[cfg(test)]
#[path = "codec/tests.rs"]
mod tests;
