//! Lets a URL or a path pass where HTTP/2 wants a host: `:authority: http://127.0.0.1:2379`, `:authority: /run/etcd.sock`.
//!
//! etcdctl up to 3.4 sends an endpoint as it was typed, scheme and all, and Go's server takes it; our HTTP/2 library refuses the whole connection. So
//! the first request's header block is looked at before the library sees it, and `://` becomes `x--`: a valid host of the same length. The three
//! characters have the same lengths in HPACK's Huffman code too (7, 6 and 6 bits), so the block keeps its size, and both ends' tables of
//! headers agree. Later requests refer to the table; nothing is looked at after the first.
//!
//! On a unix socket, clients in Go send its path, and gRPC's C core the path with `%2F` for `/`. Both characters become `-`, which is as long, in Huffman's
//! code too (6 bits). Nobody looks at what stands there.
//!
//! Source: RFC 7541 (HPACK) sections 5 and 6, appendix B; RFC 9113 section 4.1; etcd 3.4 `clientv3/client.go`, `Dial`.

/// A frame's head: length, type, flags, stream.
const HEAD_BYTES: usize = 9;
/// A first header block larger than this is let through unseen.
const BLOCK_BYTES_MAX: usize = 16 * 1024;
const HEADERS: u8 = 1;
/// Padding and priority change the layout; no client that needs us sends them.
const PADDED_OR_PRIORITY: u8 = 0x28;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// A string is Huffman-coded.
const HUFFMAN: u8 = 0x80;

/// The bytes of one connection behind the preface, until its first request has passed.
#[derive(Default)]
pub(super) struct Watch {
    /// Not given on yet: at most one incomplete frame.
    held: Vec<u8>,
    done: bool,
}

impl Watch {
    /// Takes bytes as they arrive and returns those that may be read on, repaired. Once [`Watch::is_done`], nothing is held.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut end = 0;
        while !self.done {
            let rest = &mut self.held[end..];
            let Some((head, _)) = rest.split_first_chunk::<HEAD_BYTES>() else { break };
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            if length > BLOCK_BYTES_MAX {
                self.done = true;
                break;
            }
            let Some(frame) = rest.get_mut(..HEAD_BYTES + length) else { break };
            if kind == HEADERS {
                if flags & PADDED_OR_PRIORITY == 0 {
                    repair(&mut frame[HEAD_BYTES..]);
                }
                self.done = true;
            }
            end += HEAD_BYTES + length;
        }
        if self.done {
            return std::mem::take(&mut self.held);
        }
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether the first request has passed.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The connection has ended: what was held, as it is.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.done = true;
        std::mem::take(&mut self.held)
    }
}

/// Walks through a header block to `:authority` and repairs its value. A block that makes no sense is the library's to refuse.
fn repair(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let (bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let name = integer(block, &mut at, bits)?;
        if !is_literal {
            continue;
        }
        if name == 0 {
            string(block, &mut at)?;
        }
        let (is_coded, value) = string(block, &mut at)?;
        if name == AUTHORITY {
            let value = &mut block[value];
            if is_coded {
                repair_coded(value)
            } else {
                repair_plain(value)
            }
            return Some(());
        }
    }
    None
}

/// Reads an integer whose first byte has `bits` bits of it, and moves behind it.
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let full = (1usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & full;
    *at += 1;
    if value < full {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Moves behind a string; whether it is Huffman-coded, and where its bytes are.
fn string(block: &[u8], at: &mut usize) -> Option<(bool, std::ops::Range<usize>)> {
    let is_coded = block.get(*at)? & HUFFMAN != 0;
    let length = integer(block, at, 7)?;
    let range = *at..at.checked_add(length)?;
    block.get(range.clone())?;
    *at = range.end;
    Some((is_coded, range))
}

fn repair_plain(value: &mut [u8]) {
    let scheme = value.starts_with(b"http://") || value.starts_with(b"https://");
    if !scheme {
        value.iter_mut().filter(|byte| matches!(byte, b'/' | b'%')).for_each(|byte| *byte = b'-');
        return;
    }
    for scheme in [&b"http://"[..], b"https://"] {
        if value.starts_with(scheme) {
            value[scheme.len() - 3..scheme.len()].copy_from_slice(b"x--");
        }
    }
}

/// The same in Huffman code: h 100111, t 01001, p 101011, s 01000, `:` 1011100, `/` 011000; x 1111001, `-` 010110.
#[expect(clippy::unusual_byte_groupings, reason = "grouped by character")]
fn repair_coded(value: &mut [u8]) {
    let http = (0b100111_01001_01001_101011_u64, 22);
    let https = (http.0 << 5 | 0b01000, 27);
    let (separator, stand_in, bits) = (0b1011100_011000_011000_u64, 0b1111001_010110_010110_u64, 19);
    for (scheme, scheme_bits) in [http, https] {
        let Some(head) = value.first_chunk_mut::<8>() else { return };
        let word = u64::from_be_bytes(*head);
        let behind = 64 - scheme_bits - bits;
        if word >> behind == scheme << bits | separator {
            *head = (word ^ (separator ^ stand_in) << behind).to_be_bytes();
            return;
        }
    }
    repair_coded_path(value);
}

/// Puts `-` for `/` and `%` in a coded string, as far as its characters are common ones: codes of more than 8 bits end the walk.
fn repair_coded_path(value: &mut [u8]) {
    let (slash, percent, dash) = (0b011000, 0b010101, 0b010110);
    let mut at = 0;
    while let Some(code) = eight_bits(value, at) {
        // Shorter codes are smaller numbers: by its first bits a code tells its length.
        let length = match code {
            0..0b0101_0000 => 5,
            0b0101_0000..0b1011_1000 => 6,
            0b1011_1000..0b1111_1000 => 7,
            0b1111_1000..0b1111_1110 => 8,
            0b1111_1110.. => return,
        };
        let six = code >> 2;
        if length == 6 && (six == slash || six == percent) {
            flip_six(value, at, six ^ dash);
        }
        at += length;
    }
}

/// Eight bits from bit `at` on; those behind the end are ones, as the padding is. Nothing from the end on.
fn eight_bits(value: &[u8], at: usize) -> Option<u8> {
    let first = *value.get(at / 8)?;
    let pair = u16::from_be_bytes([first, value.get(at / 8 + 1).copied().unwrap_or(0xff)]);
    Some((pair << (at % 8) >> 8) as u8)
}

/// Of the six bits from bit `at` on, turns those over that are ones in `change`.
fn flip_six(value: &mut [u8], at: usize, change: u8) {
    let pair = (u16::from(change) << 10 >> (at % 8)).to_be_bytes();
    value[at / 8] ^= pair[0];
    if let Some(next) = value.get_mut(at / 8 + 1) {
        *next ^= pair[1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Huffman-codes the few characters that addresses have.
    fn coded(text: &str) -> Vec<u8> {
        let code = |c| match c {
            '0' => (0b00000, 5),
            '1' => (0b00001, 5),
            '2' => (0b00010, 5),
            'c' => (0b00100, 5),
            'e' => (0b00101, 5),
            'o' => (0b00111, 5),
            's' => (0b01000, 5),
            't' => (0b01001, 5),
            '%' => (0b010101, 6),
            '-' => (0b010110, 6),
            '.' => (0b010111, 6),
            '/' => (0b011000, 6),
            '3' => (0b011001, 6),
            '7' => (0b011101, 6),
            '9' => (0b011111, 6),
            'F' => (0b1100011, 7),
            'X' => (0b1111_1100, 8),
            'd' => (0b100100, 6),
            'k' => (0b1110101, 7),
            'm' => (0b101001, 6),
            'h' => (0b100111, 6),
            'p' => (0b101011, 6),
            ':' => (0b1011100, 7),
            'x' => (0b1111001, 7),
            other => panic!("no code here for {other}"),
        };
        let mut bits: String = text.chars().map(code).map(|(code, n): (u32, usize)| format!("{code:0n$b}")).collect();
        bits.extend(std::iter::repeat_n('1', bits.len().next_multiple_of(8) - bits.len()));
        bits.as_bytes()
            .chunks(8)
            .map(|b| u8::from_str_radix(std::str::from_utf8(b).expect("digits"), 2).expect("bits"))
            .collect()
    }

    /// A SETTINGS frame, then a request as grpc-go sends it.
    fn request(authority: &str, huffman: bool) -> Vec<u8> {
        let value = if huffman { coded(authority) } else { authority.as_bytes().to_vec() };
        let flag = if huffman { HUFFMAN } else { 0 };
        let mut block = vec![0x83, 0x86, 0x44, 0x02, b'/', b'x', 0x41, flag | value.len() as u8];
        block.extend(value);
        block.extend([0x40, 0x01, b'a', 0x01, b'b']);
        let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        bytes.extend([0, 0, block.len() as u8, HEADERS, 4, 0, 0, 0, 1]);
        bytes.extend(block);
        bytes
    }

    fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut watch = Watch::default();
        let mut all: Vec<u8> = bytes.chunks(piece).flat_map(|piece| watch.pass(piece)).collect();
        all.extend(watch.finish());
        all
    }

    #[test]
    fn a_url_becomes_a_host_of_the_same_size_however_it_arrives() {
        for huffman in [true, false] {
            for (url, host) in [
                ("http://127.0.0.1:2379", "httpx--127.0.0.1:2379"),
                ("https://127.0.0.1:2379", "httpsx--127.0.0.1:2379"),
            ] {
                for piece in [1, 7, 1000] {
                    assert_eq!(
                        passed(&request(url, huffman), piece),
                        request(host, huffman),
                        "{url} {huffman} {piece}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_path_of_a_socket_becomes_a_host_of_the_same_size() {
        for huffman in [true, false] {
            for (path, host) in [
                ("/tmp/X/etcd.sock", "-tmp-X-etcd.sock"),
                ("tmp%2FX%2Fetcd.sock", "tmp-2FX-2Fetcd.sock"),
                ("etcd.sock:1/", "etcd.sock:1-"),
            ] {
                for piece in [1, 1000] {
                    assert_eq!(passed(&request(path, huffman), piece), request(host, huffman), "{path} {huffman}");
                }
            }
        }
    }

    #[test]
    fn everything_else_passes_as_it_is() {
        for host in ["127.0.0.1:2379", "http-1", "httpx--1:2"] {
            for huffman in [true, false] {
                assert_eq!(passed(&request(host, huffman), 5), request(host, huffman));
            }
        }
        let noise: Vec<u8> = (0..200).map(|n| (n * 37 % 251) as u8).collect();
        assert_eq!(passed(&noise, 11), noise);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_lost_and_none_make_it_panic(bytes: Vec<u8>, piece in 1usize..64) {
            proptest::prop_assert_eq!(passed(&bytes, piece).len(), bytes.len());
        }
    }
}
