//! Any bytes as requests of all kinds, one after another, to one member: refused or done, never a panic. The first byte of each says what it is.
#![no_main]

#[path = "../../mutation/bench.rs"]
mod bench;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bench = bench::Bench::new();
    // A length, then so many bytes of message.
    let mut rest = bytes;
    while let Some((&length, after)) = rest.split_first() {
        let (message, after) = after.split_at(usize::from(length).min(after.len()));
        bench.execute(message);
        rest = after;
    }
    bench.reopen();
});
