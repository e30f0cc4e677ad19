//! Any bytes from a peer, on either stream: refused or decoded, never a panic.
#![no_main]

use etcd_lab::peer::codec::Decoder;
use etcd_lab::peer::codec::StreamKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for kind in [StreamKind::MsgApp, StreamKind::Message] {
        let mut decoder = Decoder::new(kind, 1, 2);
        for piece in bytes.chunks(13) {
            decoder.push(piece);
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
});
