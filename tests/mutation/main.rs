//! Requests and raft entries with bytes changed: each is refused or done, nothing panics, and memory stays bounded.
//!
//! Messages that make sense are changed a little, at random from a seed: mostly in what their fields say, so that they still decode, and
//! sometimes in any byte. A changed message whose outcome is new joins those that are changed further. Every few thousand executions the state is written, opened
//! again and compared, and then thrown away. `MUTATIONS=10000000` runs longer, `MUTATION_SEED` elsewhere.

mod bench;
mod wire;

use bench::Bench;
use bench::ENTRY;
use bench::KINDS;
use bytes::Bytes;
use etcd_lab::proto::etcdserverpb as pb;
use pb::request_op::Request;
use prost::Message;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// In continuous integration.
const EXECUTIONS: u64 = 60_000;
const REOPEN_EVERY: u64 = 1_500;
/// Alarms refuse nearly everything: they last for so long at most.
const CALM_EVERY: u64 = 50;
/// A state grows for so long, and starts anew.
const AFRESH_EVERY: u64 = 6_000;
const POOL_MAX: usize = 2_000;
const MESSAGE_MAX: usize = 4_096;
/// What the process may grow by. A state of some thousand small writes is far below.
const GROWTH_MAX_KIB: u64 = 400 << 10;
/// Numbers that are often one too many.
const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff];

/// The generator SplitMix64.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn key(name: &str) -> Bytes {
    name.to_owned().into()
}

/// Messages that make sense, each with its kind before it.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    let mut add = |kind: u8, message: Vec<u8>| corpus.push([vec![kind], message].concat());
    let put = pb::PutRequest { key: key("k1"), value: key("v"), lease: 7, prev_kv: true, ..Default::default() };
    let keep = pb::PutRequest { key: key("k1"), ignore_value: true, ignore_lease: true, ..Default::default() };
    let range = pb::RangeRequest {
        key: key("k"),
        range_end: key("l"),
        limit: 3,
        revision: 2,
        sort_order: 2,
        sort_target: 4,
        min_mod_revision: 1,
        max_create_revision: 9,
        ..Default::default()
    };
    let delete = pb::DeleteRangeRequest { key: key("k1"), range_end: key("k3"), prev_kv: true };
    let compare = pb::Compare {
        result: 1,
        target: 3,
        key: key("k1"),
        range_end: key("k5"),
        target_union: Some(pb::compare::TargetUnion::Value(key("v"))),
    };
    let op = |request| pb::RequestOp { request: Some(request) };
    let nested = pb::TxnRequest { success: vec![op(Request::RequestPut(keep.clone()))], ..Default::default() };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestDeleteRange(delete.clone())), op(Request::RequestRange(range.clone()))],
        failure: vec![
            op(Request::RequestPut(pb::PutRequest { key: key("k2"), ..put.clone() })),
            op(Request::RequestTxn(nested)),
        ],
    };
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 60 };
    let create = pb::WatchCreateRequest {
        key: key("k"),
        range_end: key("l"),
        start_revision: 2,
        filters: vec![1],
        prev_kv: true,
        fragment: true,
        ..Default::default()
    };
    let watch = |union| pb::WatchRequest { request_union: Some(union) };
    let compaction = pb::CompactionRequest { revision: 3, physical: true };
    let alarm = pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    add(1, range.encode_to_vec());
    add(2, put.encode_to_vec());
    add(2, keep.encode_to_vec());
    add(3, delete.encode_to_vec());
    add(4, txn.encode_to_vec());
    add(5, compaction.encode_to_vec());
    add(6, grant.encode_to_vec());
    add(7, pb::LeaseRevokeRequest { id: 7 }.encode_to_vec());
    add(8, alarm.encode_to_vec());
    add(8, pb::AlarmRequest { action: 2, ..alarm }.encode_to_vec());
    add(9, pb::HashKvRequest { revision: 2 }.encode_to_vec());
    add(10, watch(pb::watch_request::RequestUnion::CreateRequest(create)).encode_to_vec());
    let cancel = pb::WatchCancelRequest { watch_id: 1 };
    add(10, watch(pb::watch_request::RequestUnion::CancelRequest(cancel)).encode_to_vec());
    add(10, watch(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).encode_to_vec());
    let checkpoint = pb::LeaseCheckpoint { id: 7, remaining_ttl: 5 };
    add(11, pb::LeaseCheckpointRequest { checkpoints: vec![checkpoint] }.encode_to_vec());
    for entry in entries(put, range, delete, txn) {
        add(ENTRY, entry.encode_to_vec());
    }
    corpus
}

/// Raft entries of all families.
fn entries(
    put: pb::PutRequest,
    range: pb::RangeRequest,
    delete: pb::DeleteRangeRequest,
    txn: pb::TxnRequest,
) -> Vec<pb::InternalRaftRequest> {
    let header = Some(pb::RequestHeader { id: 1, username: "root".into(), auth_revision: 1 });
    let with = |fill: &dyn Fn(&mut pb::InternalRaftRequest)| {
        let mut entry = pb::InternalRaftRequest { header: header.clone(), ..Default::default() };
        fill(&mut entry);
        entry
    };
    let text = || "root".to_owned();
    let perm = etcd_lab::proto::authpb::Permission { perm_type: 2, key: key("k"), range_end: key("l") };
    vec![
        with(&|entry| entry.put = Some(put.clone())),
        with(&|entry| entry.range = Some(range.clone())),
        with(&|entry| entry.delete_range = Some(delete.clone())),
        with(&|entry| entry.txn = Some(txn.clone())),
        with(&|entry| entry.auth_user_add = Some(pb::AuthUserAddRequest { name: text(), ..Default::default() })),
        with(&|entry| entry.auth_role_add = Some(pb::AuthRoleAddRequest { name: text() })),
        with(&|entry| {
            entry.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user: text(), role: text() });
        }),
        with(&|entry| {
            let grant = pb::AuthRoleGrantPermissionRequest { name: text(), perm: Some(perm.clone()) };
            entry.auth_role_grant_permission = Some(grant);
        }),
        with(&|entry| entry.auth_enable = Some(pb::AuthEnableRequest {})),
        with(&|entry| entry.auth_disable = Some(pb::AuthDisableRequest {})),
        with(&|entry| entry.auth_user_delete = Some(pb::AuthUserDeleteRequest { name: text() })),
        with(&|entry| {
            let version = etcd_lab::proto::membershippb::ClusterVersionSetRequest { ver: "3.6.0".into() };
            entry.cluster_version_set = Some(version);
        }),
        with(&|entry| {
            let attributes = etcd_lab::proto::membershippb::Attributes {
                name: "m0".into(),
                client_urls: vec!["http://127.0.0.1:2379".into()],
            };
            entry.cluster_member_attr_set = Some(etcd_lab::proto::membershippb::ClusterMemberAttrSetRequest {
                member_id: 1,
                member_attributes: Some(attributes),
            });
        }),
    ]
}

/// A message like this one; its kind comes first.
fn changed(random: &mut Seeded, base: &[u8], other: &[u8]) -> Vec<u8> {
    let mut message = base.to_vec();
    for _ in 0..1 + random.below(3) {
        let fields = message.get(1..).zip(other.get(1..));
        let whole = fields.and_then(|(fields, other)| wire::mutate(random, fields, other));
        match whole.filter(|_| random.below(8) != 0) {
            Some(fields) => {
                message.truncate(1);
                message.extend(fields);
            }
            None => mutate(random, &mut message, other),
        }
    }
    message
}

/// Changes some bytes; the first, which is the kind, seldom.
fn mutate(random: &mut Seeded, message: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + random.below(4) {
        if message.is_empty() {
            message.push(0);
        }
        let at = if message.len() > 1 { 1 + random.below(message.len() - 1) } else { 0 };
        let length = 1 + random.below(8);
        let end = (at + length).min(message.len());
        match random.below(10) {
            0..2 if at < message.len() => message[at] ^= 1 << random.below(8),
            2..4 if at < message.len() => message[at] = EDGES[random.below(EDGES.len())],
            4 if at < message.len() => message[at] = message[at].wrapping_add(random.below(3) as u8).wrapping_sub(1),
            5 => message.insert(at.min(message.len()), random.next() as u8),
            6 if at < end => drop(message.drain(at..end)),
            7 => {
                let piece = message[at.min(end)..end].to_vec();
                message.splice(at..at, piece);
            }
            8 if other.len() > 1 => {
                let from = 1 + random.below(other.len() - 1);
                let piece = &other[from..(from + 1 + random.below(24)).min(other.len())];
                message.splice(end..end, piece.iter().copied());
            }
            // The largest number that a field can have.
            9 if at < message.len() => drop(message.splice(at..=at, [0xff; 9].into_iter().chain([1]))),
            _ => message[0] = random.below(usize::from(KINDS)) as u8,
        }
    }
    message.truncate(MESSAGE_MAX);
    if message.is_empty() {
        message.push(0);
    }
}

/// Kibibytes of memory that the process has.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn changed_bytes_are_refused_or_done_and_nothing_panics() {
    let executions = number("MUTATIONS").unwrap_or(EXECUTIONS);
    let seed = number("MUTATION_SEED").unwrap_or(20_261_121);
    let mut random = Seeded(seed);
    let mut pool = corpus();
    let mut outcomes: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut bench = Bench::new();
    let before = resident_kib();
    for number in 0..executions {
        let (base, other) = (random.below(pool.len()), random.below(pool.len()));
        let message = changed(&mut random, &pool[base], &pool[other]);
        let outcome = catch_unwind(AssertUnwindSafe(|| bench.execute(&message)));
        let Ok(outcome) = outcome else { panic!("seed {seed}, execution {number}: {}", hex(&message)) };
        *outcomes.entry(outcome).or_default() += 1;
        let is_new = seen.insert((message[0] % KINDS, outcome, message.len() / 8));
        if is_new && outcome != "undecodable" && pool.len() < POOL_MAX {
            pool.push(message);
        }
        if number % CALM_EVERY == 0 {
            bench.calm();
        }
        if number % REOPEN_EVERY == 0 {
            bench.reopen();
        }
        if number % AFRESH_EVERY == 0 {
            bench = Bench::new();
            let growth = resident_kib().saturating_sub(before);
            assert!(growth < GROWTH_MAX_KIB, "after {number} executions the process has grown by {growth} KiB");
        }
    }
    eprintln!("{executions} executions of seed {seed}, {} messages: {outcomes:?}", pool.len());
    // That the bytes reached the handlers, and their depths.
    for outcome in
        ["put", "deleted", "txn", "range", "hash", "watch", "compacted", "future", "duplicate key", "no lease"]
    {
        assert!(outcomes.contains_key(outcome), "no execution came to {outcome:?}: {outcomes:?}");
    }
    let undecodable = outcomes.get("undecodable").copied().unwrap_or(0);
    assert!(undecodable < executions / 2, "most executions must get past the decoder: {outcomes:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
