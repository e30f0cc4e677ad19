//! Any text as a lab file: a lab, or an error that names a line; never a panic.
#![no_main]

use etcd_lab::lab::guide;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let _verdict = guide::parse(Path::new("lab.md"), text);
});
