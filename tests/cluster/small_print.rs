//! The small print of KV and Maintenance: one list of requests, and what etcd 3.5.1 answers to each, to the letter.
//!
//! `recorded/small_print.txt` holds etcd's answers, so that the test bites without it; with `ETCD_351` the list is played on it too, and must give what is recorded.
//! `RECORD=1` writes the file anew. Where our reference, etcd 3.6, differs from 3.5.1, `recorded/small_print_newer.txt` says how and why; a row that is not needed
//! fails.

use crate::client::Client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Response;
use tonic::Status;

/// What etcd 3.5.1 answers: `step => answer`, a line each. Read when the test runs, so that a new recording counts at once.
const RECORDED: &str = "small_print.txt";
/// What we answer instead, in the same form; a line that begins with `#` says why the next ones differ.
const NEWER: &str = "small_print_newer.txt";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/recorded").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).expect("the recording is part of the repository")
}

fn answers_of(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" => ")).collect()
}

/// One request.
#[derive(Clone, Debug)]
enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64),
    Grant(i64),
    Alarm(pb::AlarmRequest),
    HashKv(i64),
    MoveLeader(u64),
    Downgrade(i32, &'static str),
}

type Steps = Vec<(String, Call)>;

fn b(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: b(key), range_end: b(end), ..Default::default() }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: b(key), value: b(value), ..Default::default() }
}

fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: b(key), range_end: b(end), prev_kv: true }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn step(steps: &mut Steps, name: impl Into<String>, call: Call) {
    steps.push((name.into(), call));
}

/// Keys a to e with different versions and revisions; b hangs on a lease.
fn history(steps: &mut Steps) {
    step(steps, "grant 7", Call::Grant(7));
    for (number, key) in ["a", "b", "c", "d", "e", "c", "a", "c"].iter().enumerate() {
        step(steps, format!("write {number}"), Call::Put(put(key, &format!("{}", 9 - number))));
    }
    step(steps, "lease b", Call::Put(pb::PutRequest { lease: 7, prev_kv: true, ..put("b", "5") }));
    step(steps, "write x", Call::Put(put("x", "gone")));
    step(steps, "delete x", Call::Delete(delete("x", "")));
}

fn ranges(steps: &mut Steps) {
    let forms = [
        ("a", ""),
        ("zz", ""),
        ("b", "d"),
        ("d", "b"),
        ("b", "b"),
        ("\0", "\0"),
        ("c", "\0"),
        ("", ""),
        ("", "\0"),
        ("a", "e"),
        ("x", ""),
    ];
    for (key, end) in forms {
        for (name, change) in [
            ("plain", &(|_: &mut pb::RangeRequest| {}) as &dyn Fn(&mut pb::RangeRequest)),
            ("count", &|r| r.count_only = true),
            ("keys", &|r| r.keys_only = true),
            ("local", &|r| r.serializable = true),
        ] {
            let mut request = range(key, end);
            change(&mut request);
            step(steps, format!("range {key:?} {end:?} {name}"), Call::Range(request));
        }
    }
    let all = || range("\0", "\0");
    for limit in [-1, 0, 1, 4, 5, 6] {
        step(steps, format!("limit {limit}"), Call::Range(pb::RangeRequest { limit, ..all() }));
        let count = pb::RangeRequest { limit, count_only: true, ..all() };
        step(steps, format!("limit {limit} count"), Call::Range(count));
    }
    for revision in [-5, -1, 1, 2, 6, 9, 11, 12, 13, 99] {
        step(steps, format!("revision {revision}"), Call::Range(pb::RangeRequest { revision, ..all() }));
    }
    for (name, low, high) in [("mod", 5, 8), ("mod", 0, 4), ("mod", 8, 0), ("mod", 9, 2), ("mod", -3, 100)] {
        let request = pb::RangeRequest { min_mod_revision: low, max_mod_revision: high, ..all() };
        step(steps, format!("{name} {low} {high}"), Call::Range(request.clone()));
        step(steps, format!("{name} {low} {high} limit 1"), Call::Range(pb::RangeRequest { limit: 1, ..request }));
    }
    for (low, high) in [(3, 5), (0, 2), (6, 0)] {
        let request = pb::RangeRequest { min_create_revision: low, max_create_revision: high, ..all() };
        step(steps, format!("create {low} {high}"), Call::Range(request.clone()));
        let both = pb::RangeRequest { min_mod_revision: 5, keys_only: true, ..request };
        step(steps, format!("create {low} {high} mod 5 keys"), Call::Range(both));
    }
    for (target, order) in (0..5).flat_map(|target| (0..3).map(move |order| (target, order))) {
        for (limit, keys_only) in [(0, false), (2, false), (2, true), (9, true)] {
            let request = pb::RangeRequest { sort_target: target, sort_order: order, limit, keys_only, ..all() };
            step(steps, format!("sort {target} {order} limit {limit} keys {keys_only}"), Call::Range(request.clone()));
            let filtered = pb::RangeRequest { min_mod_revision: 4, ..request };
            step(steps, format!("sort {target} {order} limit {limit} keys {keys_only} mod 4"), Call::Range(filtered));
        }
    }
    step(steps, "range sort_order 9", Call::Range(pb::RangeRequest { sort_order: 9, ..all() }));
}

fn puts(steps: &mut Steps) {
    for key in ["", "a", "never"] {
        for (value, lease) in [("", 0), ("v", 0), ("", 7), ("", 8)] {
            for flags in 1..8 {
                let request = pb::PutRequest {
                    ignore_value: flags & 1 > 0,
                    ignore_lease: flags & 2 > 0,
                    prev_kv: flags & 4 > 0,
                    lease,
                    ..put(key, value)
                };
                step(steps, format!("put {key:?} {value:?} lease {lease} flags {flags}"), Call::Put(request));
            }
        }
        step(steps, format!("after puts {key:?}"), Call::Range(range("never", "")));
        step(steps, format!("clean up {key:?}"), Call::Delete(delete("never", "")));
    }
    for (key, end) in [("", ""), ("zz", ""), ("d", "b"), ("d", "f"), ("b", "")] {
        step(steps, format!("delete {key:?} {end:?}"), Call::Delete(delete(key, end)));
    }
    step(steps, "put back", Call::Put(pb::PutRequest { lease: 7, ..put("b", "5") }));
}

/// What a number is when a compare is given it.
type ToUnion = fn(i64) -> TargetUnion;

/// Every target, result and form of key against given values below, at and above.
fn compares(steps: &mut Steps) {
    let unions: [(&str, ToUnion); 5] = [
        ("version", TargetUnion::Version),
        ("create", TargetUnion::CreateRevision),
        ("mod", TargetUnion::ModRevision),
        ("value", |n| TargetUnion::Value(b(&n.to_string()))),
        ("lease", TargetUnion::Lease),
    ];
    for (target, (name, union)) in unions.into_iter().enumerate() {
        for (key, end) in [("a", ""), ("b", ""), ("zz", ""), ("a", "d"), ("y", "z"), ("c", "\0"), ("d", "a")] {
            let mut success = Vec::new();
            for (result, given) in (0..5).flat_map(|result| [0, 3, 7].map(|given| (result, given))) {
                let compare = pb::Compare {
                    result,
                    target: target as i32,
                    key: b(key),
                    range_end: b(end),
                    target_union: Some(union(given)),
                };
                let inner = pb::TxnRequest { compare: vec![compare], ..Default::default() };
                success.push(op(Request::RequestTxn(inner)));
            }
            step(steps, format!("compare {name} {key:?} {end:?}"), Call::Txn(then(success)));
        }
        let misfit = |given| pb::Compare {
            target: target as i32,
            result: 1,
            key: b("a"),
            target_union: given,
            ..Default::default()
        };
        for (kind, given) in [("none", None), ("lease", Some(TargetUnion::Lease(-1)))] {
            let txn = pb::TxnRequest { compare: vec![misfit(given)], ..Default::default() };
            step(steps, format!("compare {name} given {kind}"), Call::Txn(txn));
        }
    }
    let empty = pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
    step(steps, "compare no key", Call::Txn(empty));
}

fn txns(steps: &mut Steps) {
    let put = |key, value| op(Request::RequestPut(put(key, value)));
    let get = |key| op(Request::RequestRange(range(key, "")));
    let del = |key, end| op(Request::RequestDeleteRange(delete(key, end)));
    let nest = |txn| op(Request::RequestTxn(txn));
    let at = |revision| op(Request::RequestRange(pb::RangeRequest { revision, ..range("a", "") }));
    let odd = |change: fn(&mut pb::PutRequest)| {
        let mut request = self::put("never", "");
        change(&mut request);
        op(Request::RequestPut(request))
    };
    let keep = |key: &str| op(Request::RequestPut(pb::PutRequest { ignore_value: true, ..self::put(key, "") }));
    let absent = |key: &str| pb::Compare { target: 1, key: b(key), ..Default::default() };
    let either = |success, failure| pb::TxnRequest { compare: vec![absent("a")], success, failure };
    let sorted = op(Request::RequestRange(pb::RangeRequest { sort_order: 9, ..range("a", "z") }));
    let many = |count: usize| (0..count).map(|n| get(if n % 2 == 0 { "a" } else { "b" })).collect::<Vec<_>>();
    let list: Vec<(&str, pb::TxnRequest)> = vec![
        ("empty", pb::TxnRequest::default()),
        ("read only", then(vec![get("a"), get("zz")])),
        ("delete nothing", then(vec![del("zz", ""), get("a")])),
        ("sub revisions", then(vec![get("t1"), put("t1", "1"), get("t1"), put("t2", "2"), del("d", ""), get("t2")])),
        (
            "nested",
            then(vec![nest(then(vec![put("n1", "1"), nest(then(vec![put("n2", "2"), get("n1")]))])), get("n2")]),
        ),
        (
            "decided before",
            then(vec![
                put("n3", "1"),
                nest(pb::TxnRequest {
                    compare: vec![absent("n3")],
                    success: vec![put("n4", "absent")],
                    failure: vec![put("n4", "present")],
                }),
            ]),
        ),
        ("else", either(vec![put("e", "then")], vec![put("e", "else"), get("e")])),
        ("put twice", then(vec![put("k", "1"), put("k", "2")])),
        ("put and delete", then(vec![put("k", "1"), del("j", "l")])),
        ("put and delete to the end", then(vec![put("k", "1"), del("j", "\0")])),
        ("delete twice", then(vec![del("k", ""), del("j", "l")])),
        ("twice in two branches", either(vec![put("k", "1")], vec![put("k", "2")])),
        ("twice, nested", then(vec![put("k", "1"), nest(either(vec![put("k", "2")], vec![]))])),
        ("twice, nested apart", then(vec![nest(either(vec![put("k", "2")], vec![put("k", "3")]))])),
        ("twice, nested beside", then(vec![nest(then(vec![put("k", "2")])), nest(then(vec![put("k", "3")]))])),
        ("nested delete, put", then(vec![nest(then(vec![del("a", "c")])), put("b", "1")])),
        ("nested put, delete beside", then(vec![nest(then(vec![put("b", "1")])), nest(then(vec![del("a", "c")]))])),
        ("128 operations", then(many(128))),
        ("129 operations", then(many(129))),
        ("nested within the rest", then(vec![nest(then(many(127)))])),
        ("nested beyond the rest", then(vec![nest(then(many(128)))])),
        ("129 in the other branch", either(vec![], many(129))),
        ("129 compares", pb::TxnRequest { compare: vec![absent("a"); 129], ..Default::default() }),
        ("no request", then(vec![pb::RequestOp::default()])),
        ("empty key", then(vec![put("", "1")])),
        ("empty key, other branch", either(vec![del("", "")], vec![])),
        ("value and ignore_value", then(vec![odd(|r| (r.value, r.ignore_value) = (b("v"), true))])),
        ("lease and ignore_lease", then(vec![odd(|r| (r.lease, r.ignore_lease) = (7, true))])),
        ("ignore_value, no key", then(vec![put("k2", "1"), odd(|r| r.ignore_value = true)])),
        ("ignore_value, key of this txn", then(vec![put("k3", "1"), nest(then(vec![keep("k4")]))])),
        ("no lease", then(vec![put("k2", "1"), odd(|r| r.lease = 8)])),
        ("no lease, no key", then(vec![odd(|r| (r.lease, r.ignore_value) = (8, true))])),
        ("no lease in the other branch", either(vec![odd(|r| r.lease = 8)], vec![get("a")])),
        ("past", then(vec![put("k2", "1"), at(3)])),
        ("future", then(vec![put("k2", "1"), at(999)])),
        ("negative 1", then(vec![at(-1)])),
        ("negative 2", then(vec![at(-2)])),
        ("range sort_order 9", then(vec![sorted])),
        ("nothing of that was written", then(vec![get("k2"), get("k3"), get("never")])),
    ];
    for (name, txn) in list {
        step(steps, format!("txn {name}"), Call::Txn(txn));
    }
}

fn compactions(steps: &mut Steps) {
    step(steps, "hash before", Call::HashKv(0));
    for revision in [-1, 999, 0, 0, 6, 6, 5, -1] {
        step(steps, format!("compact {revision} (step {})", steps.len()), Call::Compact(revision));
    }
    for revision in [-2, -1, 0, 5, 6, 7, 999] {
        let request = pb::RangeRequest { revision, ..range("\0", "\0") };
        step(steps, format!("revision {revision} after"), Call::Range(request.clone()));
        let txn = then(vec![op(Request::RequestRange(request))]);
        step(steps, format!("txn revision {revision} after"), Call::Txn(txn));
        // Later releases answer with the hash that the compaction settled; `mvcc` has a model of that.
        if revision != 6 {
            step(steps, format!("hash {revision} after"), Call::HashKv(revision));
        }
    }
}

fn alarms(steps: &mut Steps) {
    let alarm = |action, member_id, alarm| Call::Alarm(pb::AlarmRequest { action, member_id, alarm });
    step(steps, "alarms, none", alarm(0, 0, 0));
    step(steps, "activate none", alarm(1, 5, 0));
    step(steps, "deactivate what is not", alarm(2, 5, 1));
    step(steps, "activate", alarm(1, 5, 1));
    step(steps, "activate again", alarm(1, 5, 1));
    for kind in [0, 1, 2] {
        step(steps, format!("alarms {kind}"), alarm(0, 9, kind));
    }
    let put = |key| op(Request::RequestPut(put(key, "v")));
    let calls = |steps: &mut Steps, when: &str| {
        step(steps, format!("{when}: put"), Call::Put(self::put("full", "v")));
        step(steps, format!("{when}: bad put"), Call::Put(self::put("", "v")));
        step(steps, format!("{when}: grant"), Call::Grant(100 + steps.len() as i64));
        step(steps, format!("{when}: range"), Call::Range(range("a", "")));
        step(steps, format!("{when}: delete"), Call::Delete(delete("zz", "")));
        step(steps, format!("{when}: compact"), Call::Compact(1));
        step(steps, format!("{when}: txn put"), Call::Txn(then(vec![put("full")])));
        let other = pb::TxnRequest { failure: vec![put("full")], ..Default::default() };
        step(steps, format!("{when}: txn put in the other branch"), Call::Txn(other));
        let delete = then(vec![op(Request::RequestDeleteRange(delete("zz", "")))]);
        step(steps, format!("{when}: txn delete"), Call::Txn(delete));
        step(steps, format!("{when}: txn read"), Call::Txn(then(vec![op(Request::RequestRange(range("a", "")))])));
    };
    calls(steps, "no space");
    step(steps, "deactivate nobody's", alarm(2, 0, 1));
    step(steps, "deactivate another kind", alarm(2, 5, 2));
    step(steps, "corrupt too", alarm(1, 5, 2));
    calls(steps, "corrupt");
    step(steps, "deactivate no space", alarm(2, 5, 1));
    step(steps, "deactivate corrupt", alarm(2, 5, 2));
    calls(steps, "well");
}

fn maintenance(steps: &mut Steps) {
    step(steps, "move to nobody", Call::MoveLeader(1));
    step(steps, "move to 0", Call::MoveLeader(0));
    for (action, target) in
        [(0, ""), (0, "3"), (0, "x.y"), (0, "3.5.0.1"), (0, "9.9"), (1, "9.9.9"), (1, ""), (7, "3.5")]
    {
        step(steps, format!("downgrade {action} {target:?}"), Call::Downgrade(action, target));
    }
}

fn steps() -> Steps {
    let mut steps = Steps::new();
    history(&mut steps);
    ranges(&mut steps);
    puts(&mut steps);
    compares(&mut steps);
    txns(&mut steps);
    compactions(&mut steps);
    alarms(&mut steps);
    maintenance(&mut steps);
    steps
}

/// A message without what differs from server to server: of headers, the revision stays.
fn show<T: Debug>(answer: Result<Response<T>, Status>) -> String {
    let text = match answer {
        Ok(response) => format!("{:?}", response.into_inner()),
        Err(status) => return format!("{:?}: {}", status.code(), status.message()),
    };
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("ResponseHeader { cluster_id: ") {
        let (header, after) = after.split_once(" }").expect("a header ends");
        let revision = header.split(", ").find(|field| field.starts_with("revision")).expect("a header has one");
        shown.push_str(before);
        shown.push_str(revision);
        rest = after;
    }
    shown + rest
}

/// Gives a server of one member all requests; returns the answers by step.
async fn play(client: &Client) -> Vec<(String, String)> {
    let (mut kv, mut lease, mut maintenance) = (client.kv(0), client.lease(0), client.maintenance(0));
    let mut answers = Vec::new();
    for (name, call) in steps() {
        let answer = match call {
            Call::Range(request) => show(kv.range(request).await),
            Call::Put(request) => show(kv.put(request).await),
            Call::Delete(request) => show(kv.delete_range(request).await),
            Call::Txn(request) => show(kv.txn(request).await),
            Call::Compact(revision) => show(kv.compact(pb::CompactionRequest { revision, physical: true }).await),
            Call::Grant(id) => show(lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 9_000 }).await),
            Call::Alarm(request) => show(maintenance.alarm(request).await),
            Call::HashKv(revision) => {
                let answer = maintenance.hash_kv(pb::HashKvRequest { revision }).await;
                // 3.5.1 has no such field.
                show(answer.map(|answer| answer.map(|answer| pb::HashKvResponse { hash_revision: 0, ..answer })))
            }
            Call::MoveLeader(target_id) => show(maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await),
            Call::Downgrade(action, version) => {
                show(maintenance.downgrade(pb::DowngradeRequest { action, version: version.into() }).await)
            }
        };
        answers.push((name, answer));
    }
    answers
}

fn lines(answers: &[(String, String)]) -> String {
    answers.iter().map(|(name, answer)| format!("{name} => {answer}\n")).collect()
}

#[test]
fn every_request_is_answered_as_etcd_answers_it() {
    turn(Duration::from_secs(240), async {
        let cluster = Cluster::start_with(&etcd_bin(), 1, &[]).await;
        let ours = play(&cluster.client).await;
        let (recorded, newer) = (read(RECORDED), if is_ours() { read(NEWER) } else { String::new() });
        let (recorded, mut newer) = (answers_of(&recorded), answers_of(&newer));
        let mut complaints = Vec::new();
        for (name, answer) in &ours {
            let etcds = recorded.get(name.as_str()).copied().unwrap_or("(not recorded)");
            let instead = newer.remove(name.as_str());
            if instead == Some(etcds) {
                complaints.push(format!("{name}: no difference any more"));
            }
            let expected = instead.unwrap_or(etcds);
            if answer != expected {
                complaints.push(format!("{name}\n   we: {answer}\n etcd: {expected}"));
            }
        }
        assert!(complaints.is_empty(), "{} of {}\n{}", complaints.len(), ours.len(), complaints.join("\n"));
        assert!(newer.is_empty(), "no such steps: {newer:?}");
        assert_eq!(ours.len(), recorded.len(), "every step is recorded, under a name of its own");
    });
}

#[test]
fn etcd_351_still_gives_what_is_recorded() {
    let Some(etcd) = foreign::etcd_351("etcd_351_still_gives_what_is_recorded") else { return };
    turn(Duration::from_secs(240), async {
        let cluster = Cluster::start_with(&etcd, 1, &[]).await;
        let text = lines(&play(&cluster.client).await);
        if std::env::var("RECORD").is_ok_and(|value| value == "1") {
            return std::fs::write(path(RECORDED), &text).expect("the file can be written");
        }
        let recorded = read(RECORDED);
        for (now, then) in text.lines().zip(recorded.lines()) {
            assert_eq!(now, then);
        }
        assert_eq!(text.lines().count(), recorded.lines().count());
    });
}

/// Etcd's words, which people and tools look for: the tutorial's "watch the elections in the log" among them.
#[test]
fn the_log_tells_of_elections_snapshots_and_versions() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &["--snapshot-count", "10"]).await;
        for n in 0..30 {
            cluster.client.put(0, &format!("k{n}"), "x").await.expect("a put");
        }
        let old = cluster.leader().await;
        cluster.kill(old);
        let leader = cluster.leader().await;
        let id = format!("{:x}", cluster.id(leader).await);
        let campaign = [
            "is starting a new election at term",
            "became pre-candidate at term",
            "received MsgPreVoteResp from",
            "became candidate at term",
            "received MsgVoteResp from",
            "has received 2 MsgVoteResp votes and 0 vote rejections",
            "became leader at term",
        ];
        let told = cluster.log(leader);
        for words in campaign {
            assert!(told.contains(&format!("{id} {words}")), "{words}: {told}");
        }
        let follower = (0..3).find(|member| ![old, leader].contains(member)).expect("a third");
        let all = [
            "became follower at term",
            "saved snapshot",
            "set initial cluster version",
            "enabled capabilities for version",
            "now serving peer/client/metrics",
            "serving peer traffic",
        ];
        until(READY_WITHIN, "the follower's log", async || {
            let told = cluster.log(follower);
            all.iter().find(|words| !told.contains(**words)).map_or(Ok(()), |words| Err(format!("no {words}: {told}")))
        })
        .await;
    });
}
