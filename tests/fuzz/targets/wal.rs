//! Any bytes as a log: refused or read, never a panic.
#![no_main]

use etcd_lab::disk::RealDisk;
use etcd_lab::wal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("0000000000000000-0000000000000000.wal"), bytes).expect("written");
    let _verdict = wal::read(&RealDisk, dir.path(), None);
});
