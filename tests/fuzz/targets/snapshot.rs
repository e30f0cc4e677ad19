//! Any bytes as a snapshot file: refused or read, never a panic.
#![no_main]

use etcd_lab::disk::RealDisk;
use etcd_lab::engine::Batch;
use etcd_lab::engine::Memory;
use etcd_lab::image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    std::fs::write(&path, bytes).expect("written");
    let snapshot = image::Snapshot::new(RealDisk.open_to_read(&path).expect("there")).expect("readable");
    let _verdict =
        snapshot.into_reader().and_then(|reader| image::import(&reader, &Memory::default(), Batch::default(), 0));
});
