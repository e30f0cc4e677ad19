//! Any committed entry: applied or answered with an error, never a panic, and never a failure of this member alone.
#![no_main]

use etcd_lab::apply::Limits;
use etcd_lab::apply::Machine;
use etcd_lab::engine::Memory;
use etcd_lab::proto::etcdserverpb::InternalRaftRequest;
use etcd_lab::types::ClusterId;
use etcd_lab::types::Index;
use etcd_lab::types::Term;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let mut machine =
        Machine::open(Arc::new(Memory::default()), ClusterId(1), Limits::default()).expect("an empty store");
    let requests = bytes.chunks(64).filter_map(|piece| InternalRaftRequest::decode(piece).ok());
    for (index, request) in (1..).map(Index).zip(requests) {
        machine.apply(index, Term(1), Some(request)).expect("an answer, whatever the request");
    }
});
