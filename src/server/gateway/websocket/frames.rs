//! Frames of a websocket, as a server reads and writes them (RFC 6455, section 5). Extensions: none.

use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;
use std::io;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The status of an end that is none of anybody's faults.
pub(super) const NORMAL: u16 = 1000;
/// That of a close frame without one, which is never sent.
const NO_STATUS: u16 = 1005;

/// The longest payload of a control frame.
const CONTROL_MAX: usize = 125;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Text or bytes, put together.
    Message(Bytes),
    Ping(Bytes),
    Pong,
    /// With its status.
    Close(u16),
}

/// Reads frames; safe to drop its futures and call again.
pub(super) struct Reader<R> {
    from: R,
    buffer: BytesMut,
    /// The parts of a message so far.
    message: Option<BytesMut>,
    message_max: usize,
}

/// The head of a frame that is here in full.
struct Head {
    code: u8,
    is_last: bool,
    mask: [u8; 4],
    /// Where the payload begins and ends.
    begins: usize,
    ends: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R, message_max: usize) -> Reader<R> {
        Reader { from, buffer: BytesMut::new(), message: None, message_max }
    }

    /// The next message or control frame.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(head) = self.head()? {
                if let Some(frame) = self.take(&head)? {
                    return Ok(frame);
                }
                continue;
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The head of the frame at the front, once all of the frame is here.
    fn head(&self) -> io::Result<Option<Head>> {
        let bytes = &self.buffer;
        let [first, second, rest @ ..] = &bytes[..] else { return Ok(None) };
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(wrong("a client's frames are masked and use no extension"));
        }
        let (length, size) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 0),
        };
        let (code, is_last) = (first & 0x0f, first & 0x80 != 0);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if code >= CLOSE && (!is_last || length > CONTROL_MAX) {
            return Err(wrong("a control frame is short and whole"));
        }
        let so_far = self.message.as_ref().map_or(0, BytesMut::len);
        if length.saturating_add(so_far) > self.message_max {
            return Err(wrong("the message is too large"));
        }
        let begins = 2 + size + 4;
        let Some(mask) = bytes.get(begins - 4..begins).and_then(|mask| mask.try_into().ok()) else { return Ok(None) };
        let ends = begins + length;
        Ok((bytes.len() >= ends).then_some(Head { code, is_last, mask, begins, ends }))
    }

    /// Takes a frame off the front; nothing if it is a part of a message that goes on.
    fn take(&mut self, head: &Head) -> io::Result<Option<Frame>> {
        let mut payload = self.buffer.split_to(head.ends);
        payload.advance(head.begins);
        for (place, byte) in payload.iter_mut().enumerate() {
            *byte ^= head.mask[place % 4];
        }
        match (head.code, self.message.take()) {
            (CONTINUATION, Some(mut message)) => {
                message.extend_from_slice(&payload);
                Ok(self.put(message, head.is_last))
            }
            (TEXT | BINARY, None) => Ok(self.put(payload, head.is_last)),
            (CLOSE, _) => {
                let status = payload.get(..2).and_then(|status| status.try_into().ok()).map(u16::from_be_bytes);
                Ok(Some(Frame::Close(status.unwrap_or(NO_STATUS))))
            }
            (PING, message) => {
                self.message = message;
                Ok(Some(Frame::Ping(payload.freeze())))
            }
            (PONG, message) => {
                self.message = message;
                Ok(Some(Frame::Pong))
            }
            _ => Err(wrong("a frame that nobody expects")),
        }
    }

    fn put(&mut self, message: BytesMut, is_last: bool) -> Option<Frame> {
        if is_last {
            return Some(Frame::Message(message.freeze()));
        }
        self.message = Some(message);
        None
    }
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A text message.
pub(super) fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, payload)
}

/// The end, with a status.
pub(super) fn close(status: u16) -> Vec<u8> {
    if status == NO_STATUS { frame(CLOSE, &[]) } else { frame(CLOSE, &status.to_be_bytes()) }
}

fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(0x80 | code);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = frame(0, payload);
        (out[0], out[1]) = (first, out[1] | 0x80);
        let at = out.len() - payload.len();
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let tail: Vec<u8> = out.split_off(at).iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]).collect();
        [out, mask.to_vec(), tail].concat()
    }

    async fn read(bytes: &[u8], message_max: usize) -> Vec<Result<Frame, io::ErrorKind>> {
        let mut reader = Reader::new(bytes, message_max);
        let mut found = Vec::new();
        loop {
            let next = reader.next().await.map_err(|e| e.kind());
            let ended = next.is_err();
            found.push(next);
            if ended {
                return found;
            }
        }
    }

    #[tokio::test]
    async fn frames_are_read_as_the_rfc_shows_them() {
        // RFC 6455, section 5.7: "Hello", masked.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(masked(0x81, b"Hello"), hello);
        let (first, ping, last) = (masked(0x01, b"Hel"), masked(0x89, b"?"), masked(0x80, b"lo"));
        let end = masked(0x88, &1001u16.to_be_bytes());
        let all = [&hello[..], &first, &ping, &last, &masked(0x8a, b""), &end].concat();
        let message = || Ok(Frame::Message(Bytes::from_static(b"Hello")));
        let want = [
            message(),
            Ok(Frame::Ping(Bytes::from_static(b"?"))),
            message(),
            Ok(Frame::Pong),
            Ok(Frame::Close(1001)),
            Err(io::ErrorKind::UnexpectedEof),
        ];
        assert_eq!(read(&all, 100).await, want);
        let long = vec![b'x'; 70_000];
        let found = read(&masked(0x82, &long), 70_000).await;
        assert_eq!(found[0], Ok(Frame::Message(long.into())));
    }

    #[tokio::test]
    async fn what_breaks_the_rules_ends_it() {
        let invalid = [Err(io::ErrorKind::InvalidData)];
        for bytes in [
            frame(TEXT, b"not masked"),
            masked(0xc1, b"an extension"),
            masked(0x80, b"goes on with nothing"),
            masked(0x09, b"a ping in parts"),
            masked(0x89, &[0; 126]),
            masked(0x83, b"an unknown kind"),
            masked(0x81, &[0; 101]),
            [masked(0x01, b"begun"), masked(0x81, b"begun again")].concat(),
            [masked(0x01, &[0; 60]), masked(0x80, &[0; 60])].concat(),
        ] {
            assert_eq!(read(&bytes, 100).await, invalid, "{bytes:?}");
        }
        // A length beyond all memory is refused by its head.
        assert_eq!(read(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 100).await, invalid);
    }

    #[test]
    fn lengths_are_written_in_three_sizes() {
        assert_eq!(text(b"ab"), [0x81, 2, b'a', b'b']);
        assert_eq!(text(&[0; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(text(&[0; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(close(NORMAL), [0x88, 2, 3, 0xe8]);
        assert_eq!(close(NO_STATUS), [0x88, 0]);
    }
}
