//! The state machine, claim by claim; and the same operations on it as on etcd 3.5.1, compared by hash.

mod auth;

use super::*;
use crate::engine::Memory;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::walpb::conf_change;

/// Two hundred operations that etcd 3.5.1 was given over its JSON gateway (seed 20240607), and the hashes that its
/// `etcdctl endpoint hashkv --rev REVISION -w json` gave in between: `hash REVISION HASH COMPACT_REVISION`.
const SEEDED_SCRIPT: &str = include_str!("seeded_script.txt");

struct Member {
    machine: Machine,
    engine: Arc<Memory>,
}

fn open(engine: &Arc<Memory>) -> Machine {
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    Machine::open(engine, ClusterId(7), Limits::default()).expect("opens")
}

impl Member {
    fn new() -> Member {
        let engine = Arc::default();
        Member { machine: open(&engine), engine }
    }

    fn apply(&mut self, request: pb::InternalRaftRequest) -> Outcome {
        let index = self.machine.applied().0.next();
        self.machine.apply(index, Term(2), Some(request)).expect("memory")
    }

    fn flush(&mut self) {
        if let Some(batch) = self.machine.take_batch() {
            self.engine.write(&batch).expect("memory");
            self.machine.written();
        }
    }

    fn restart(&mut self) {
        self.flush();
        self.machine = open(&self.engine);
    }

    fn sweep(&mut self) {
        while self.machine.compact_step(7).expect("memory") {}
    }

    fn put(&mut self, key: &str, value: &str) -> Result<Reply, Error> {
        self.put_with(pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() })
    }

    fn put_with(&mut self, put: pb::PutRequest) -> Result<Reply, Error> {
        self.apply(pb::InternalRaftRequest { put: Some(put), ..Default::default() }).reply
    }

    fn delete(&mut self, key: &str, end: &str) -> Outcome {
        let delete = pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: true };
        self.apply(pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() })
    }

    fn txn(&mut self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let reply = self.apply(pb::InternalRaftRequest { txn: Some(txn), ..Default::default() }).reply;
        reply.map(|reply| if let Reply::Txn(response) = reply { response } else { panic!("{reply:?}") })
    }

    fn grant(&mut self, id: i64) -> Outcome {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        self.apply(pb::InternalRaftRequest { lease_grant: Some(grant), ..Default::default() })
    }

    fn revoke(&mut self, id: i64) -> Outcome {
        let revoke = pb::LeaseRevokeRequest { id };
        self.apply(pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() })
    }

    fn compact(&mut self, revision: i64) -> Outcome {
        let compaction = pb::CompactionRequest { revision, physical: false };
        self.apply(pb::InternalRaftRequest { compaction: Some(compaction), ..Default::default() })
    }

    fn alarm(&mut self, action: i32, member_id: u64, alarm: i32) -> Vec<pb::AlarmMember> {
        let alarm = pb::AlarmRequest { action, member_id, alarm };
        match self.apply(pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() }).reply {
            Ok(Reply::Alarm(response)) => response.alarms,
            other => panic!("{other:?}"),
        }
    }

    fn hash(&self, revision: i64) -> mvcc::Hash {
        self.machine.store().hash(revision).expect("memory")
    }

    fn read_txn(&self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        let mut txn = self.machine.select_txn(request)?;
        while !txn.is_complete() {
            self.machine.select_txn_more(&mut txn);
        }
        txn.load()
    }

    /// All pairs as `key=value`.
    fn all(&self) -> String {
        let request = pb::RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..Default::default() };
        let response = kv::read(self.machine.store(), &request).expect("memory");
        response.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect::<Vec<_>>().join(" ")
    }

    fn revision(&self) -> u64 {
        self.machine.store().revision().0
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str) -> pb::RequestOp {
    op(Request::RequestPut(pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }))
}

fn get(key: &str, revision: i64) -> pb::RequestOp {
    op(Request::RequestRange(pb::RangeRequest { key: bytes(key), revision, ..Default::default() }))
}

fn delete(key: &str, end: &str) -> pb::RequestOp {
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false }))
}

fn nested(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

fn when(compare: Vec<pb::Compare>, success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare, success, failure }
}

fn compare(key: &str, end: &str, result: CompareResult, target: CompareTarget, given: TargetUnion) -> pb::Compare {
    pb::Compare {
        key: bytes(key),
        range_end: bytes(end),
        result: result as i32,
        target: target as i32,
        target_union: Some(given),
    }
}

/// The revision in each inner header, depth first; `-` for a nested transaction's empty one.
fn inner_revisions(response: &pb::TxnResponse) -> String {
    let revision = |header: &Option<pb::ResponseHeader>| header.as_ref().map_or(0, |h| h.revision).to_string();
    let each = response.responses.iter().map(|op| match op.response.as_ref().expect("answered") {
        Response::ResponseRange(r) => revision(&r.header),
        Response::ResponsePut(r) => revision(&r.header),
        Response::ResponseDeleteRange(r) => revision(&r.header),
        Response::ResponseTxn(r) => format!("-({})", inner_revisions(r)),
    });
    each.collect::<Vec<_>>().join(" ")
}

#[test]
fn each_put_takes_a_revision_and_tells_of_itself() {
    let mut member = Member::new();
    let put = pb::PutRequest { key: bytes("a"), value: bytes("1"), prev_kv: true, ..Default::default() };
    let outcome = member.apply(pb::InternalRaftRequest { put: Some(put.clone()), ..Default::default() });
    assert_eq!((outcome.revision, outcome.events.len()), (Revision(2), 1));
    assert_eq!(outcome.reply, Ok(Reply::Put(pb::PutResponse { header: kv::header(Revision(2)), prev_kv: None })));
    let Ok(Reply::Put(second)) = member.put_with(put) else { panic!("refused") };
    assert_eq!(second.prev_kv.map(|kv| (kv.mod_revision, kv.version)), Some((2, 1)));
}

#[test]
fn a_put_can_keep_value_or_lease() {
    let mut member = Member::new();
    let keep = |value: bool, lease: bool| pb::PutRequest {
        key: bytes("a"),
        value: bytes(if value { "" } else { "new" }),
        ignore_value: value,
        ignore_lease: lease,
        ..Default::default()
    };
    assert_eq!(member.put_with(keep(true, false)), Err(Error::KeyNotFound));
    assert_eq!(member.put_with(pb::PutRequest { lease: 5, ..keep(false, false) }), Err(Error::LeaseNotFound));
    assert_eq!(member.put_with(pb::PutRequest { lease: 5, ..keep(false, true) }), Err(Error::LeaseProvided));
    assert_eq!(member.put_with(pb::PutRequest { value: bytes("x"), ..keep(true, false) }), Err(Error::ValueProvided));
    assert_eq!(member.revision(), 1, "what fails takes no revision");
    member.grant(5);
    member.put_with(pb::PutRequest { lease: 5, value: bytes("1"), ..keep(false, false) }).expect("leased");
    member.put_with(keep(false, true)).expect("keeps the lease");
    assert_eq!((member.all(), member.machine.leases().of_key(b"a")), ("a=new".into(), Some(LeaseId(5))));
    member.put_with(keep(true, false)).expect("keeps the value");
    assert_eq!((member.all(), member.machine.leases().of_key(b"a")), ("a=new".into(), None));
}

#[test]
fn a_delete_that_matches_nothing_takes_no_revision() {
    let mut member = Member::new();
    member.put("a", "1").expect("put");
    member.put("b", "1").expect("put");
    let outcome = member.delete("a", "z");
    let Ok(Reply::DeleteRange(response)) = outcome.reply else { panic!("refused") };
    let keys: Vec<String> = response.prev_kvs.iter().map(|kv| text(&kv.key)).collect();
    assert_eq!((response.deleted, keys.join(" "), outcome.events.len()), (2, "a b".into(), 2));
    let outcome = member.delete("a", "z");
    assert_eq!((outcome.revision, outcome.events.len()), (Revision(4), 0));
}

#[test]
fn inner_headers_say_the_revision_as_it_was_then() {
    let mut member = Member::new();
    member.put("a", "1").expect("put");
    let ops = vec![
        get("a", 0),
        delete("zz", ""),
        put("b", "1"),
        get("b", 0),
        nested(when(vec![], vec![put("c", "1")], vec![])),
        delete("a", ""),
    ];
    let response = member.txn(when(vec![], ops, vec![])).expect("applies");
    assert_eq!(inner_revisions(&response), "2 2 3 3 -(3) 3");
    assert_eq!(response.header.map(|h| h.revision), Some(3));
    let Some(Response::ResponseRange(seen)) = &response.responses[3].response else { panic!("a range") };
    assert_eq!(seen.kvs.len(), 1, "it sees the put before it");
    assert_eq!(member.all(), "b=1 c=1");
}

#[test]
fn an_empty_transaction_succeeds_and_takes_no_revision() {
    let mut member = Member::new();
    let response = member.txn(pb::TxnRequest::default()).expect("applies");
    assert_eq!((response.succeeded, member.revision()), (true, 1));
}

#[test]
fn all_comparisons_are_decided_before_the_first_write() {
    let mut member = Member::new();
    let absent = || compare("a", "", CompareResult::Equal, CompareTarget::Create, TargetUnion::CreateRevision(0));
    let inner = nested(when(vec![absent()], vec![put("b", "absent")], vec![put("b", "present")]));
    let response = member.txn(when(vec![absent()], vec![put("a", "1"), inner], vec![])).expect("applies");
    assert!(response.succeeded);
    assert_eq!(member.all(), "a=1 b=absent");
}

#[test]
fn comparisons_know_etcds_corner_cases() {
    use CompareResult::*;
    use CompareTarget::*;
    let mut member = Member::new();
    member.put("a", "5").expect("put");
    member.put("b", "7").expect("put");
    member.put("b", "8").expect("put");
    let value = |text| TargetUnion::Value(bytes(text));
    let table = [
        ("stored op given", compare("a", "", Greater, Value, value("4")), true),
        ("a range must pass whole", compare("a", "c", Greater, Value, value("5")), false),
        ("", compare("a", "c", Less, Value, value("9")), true),
        ("a missing key fails by value", compare("x", "", NotEqual, Value, value("1")), false),
        ("a missing key counts as 0", compare("x", "", Less, Version, TargetUnion::Version(1)), true),
        ("an empty range too", compare("x", "z", Equal, Mod, TargetUnion::ModRevision(0)), true),
        ("", compare("b", "", Equal, Version, TargetUnion::Version(2)), true),
        ("", compare("b", "", Equal, Create, TargetUnion::CreateRevision(3)), true),
        ("", compare("b", "", Equal, Mod, TargetUnion::ModRevision(4)), true),
        ("", compare("b", "", Equal, Lease, TargetUnion::Lease(0)), true),
        ("a misfit given counts as 0", compare("b", "", Greater, Version, TargetUnion::Lease(9)), true),
    ];
    for (why, compare, expected) in table {
        let request = when(vec![compare], vec![], vec![]);
        assert_eq!(member.read_txn(&request).map(|r| r.succeeded), Ok(expected), "{why}: {request:?}");
    }
    let unknown = pb::Compare { result: 99, ..compare("b", "", Equal, Version, TargetUnion::Version(9)) };
    let response = member.read_txn(&when(vec![unknown], vec![], vec![])).expect("readable");
    assert!(response.succeeded, "an unknown result passes");
}

/// etcd's members diverged here (#18667): a range at a compacted revision failed after a put had gone through.
#[test]
fn a_transaction_that_cannot_go_through_changes_nothing() {
    let mut member = Member::new();
    for value in ["1", "2", "3"] {
        member.put("a", value).expect("put");
    }
    member.compact(3);
    let leased = op(Request::RequestPut(pb::PutRequest { key: bytes("c"), lease: 9, ..Default::default() }));
    let kept = op(Request::RequestPut(pb::PutRequest { key: bytes("c"), ignore_value: true, ..Default::default() }));
    let unsorted =
        op(Request::RequestRange(pb::RangeRequest { key: bytes("a"), sort_target: 9, ..Default::default() }));
    let table = [
        (get("a", 2), Error::Compacted),
        (get("a", -1), Error::Compacted),
        (get("a", 5), Error::FutureRevision),
        (leased, Error::LeaseNotFound),
        (kept, Error::KeyNotFound),
        (unsorted, Error::InvalidSortOption),
    ];
    for (bad, error) in table {
        for bad in [bad.clone(), nested(when(vec![], vec![bad], vec![]))] {
            let before = member.hash(0);
            assert_eq!(member.txn(when(vec![], vec![put("b", "1"), bad.clone()], vec![])), Err(error.clone()));
            assert_eq!((member.all(), member.hash(0)), ("a=3".into(), before));
            let elsewhere = when(vec![], vec![], vec![bad]);
            assert!(member.txn(elsewhere).is_ok(), "only the chosen way is checked");
        }
    }
}

#[test]
fn a_put_that_keeps_what_its_transaction_deleted_keeps_it_all_the_same() {
    let mut member = Member::new();
    member.put("a", "1").expect("put");
    let kept = op(Request::RequestPut(pb::PutRequest { key: bytes("a"), ignore_value: true, ..Default::default() }));
    let request = when(vec![], vec![delete("a", "\0"), kept], vec![]);
    assert_eq!(check::txn(&request, 128), Ok(()), "etcd's duplicate check does not see it");
    member.txn(request).expect("must not fail half way");
    assert_eq!(member.all(), "a=1");
}

#[test]
fn a_bad_transaction_is_refused_before_it_is_proposed() {
    let one = |ops| when(vec![], ops, vec![]);
    let empty = pb::RequestOp::default();
    let branches = |a, b| nested(when(vec![], vec![a], vec![b]));
    let table = [
        (one(vec![put("a", "1"), put("a", "2")]), Err(Error::DuplicateKey)),
        (one(vec![put("b", "1"), delete("a", "c")]), Err(Error::DuplicateKey)),
        (one(vec![delete("b", ""), put("b", "1")]), Err(Error::DuplicateKey)),
        (one(vec![delete("b", ""), put("b\0", "1")]), Ok(())),
        (one(vec![delete("a", "c"), delete("b", "d"), put("d", "1")]), Ok(())),
        (one(vec![delete("a", "c"), delete("b", "d"), put("cc", "1")]), Err(Error::DuplicateKey)),
        (one(vec![put("a", "1"), branches(put("a", "2"), get("x", 0))]), Err(Error::DuplicateKey)),
        (one(vec![branches(put("a", "1"), put("a", "2"))]), Ok(())),
        (
            one(vec![branches(put("a", "1"), get("x", 0)), branches(put("a", "1"), get("x", 0))]),
            Err(Error::DuplicateKey),
        ),
        (one(vec![branches(delete("a", "c"), get("x", 0)), put("b", "1")]), Err(Error::DuplicateKey)),
        (when(vec![], vec![put("a", "1")], vec![put("a", "2")]), Ok(())),
        (one(vec![put("", "1")]), Err(Error::EmptyKey)),
        (one(vec![empty]), Err(Error::KeyNotFound)),
        (when(vec![pb::Compare::default()], vec![], vec![]), Err(Error::EmptyKey)),
        (one(vec![get("a", 0), get("a", 0), get("a", 0), get("a", 0)]), Err(Error::TooManyOps)),
        (one(vec![get("a", 0), get("a", 0), nested(one(vec![get("a", 0), get("b", 0)]))]), Err(Error::TooManyOps)),
    ];
    for (request, expected) in table {
        assert_eq!(check::txn(&request, 3), expected, "{request:?}");
    }
}

#[test]
fn only_ranges_make_a_transaction_read_only() {
    let local =
        op(Request::RequestRange(pb::RangeRequest { key: bytes("a"), serializable: true, ..Default::default() }));
    let table = [
        (when(vec![], vec![], vec![]), true, true),
        (when(vec![], vec![get("a", 0)], vec![local.clone()]), true, false),
        (when(vec![], vec![local.clone()], vec![local]), true, true),
        (when(vec![], vec![], vec![put("a", "1")]), false, false),
        (when(vec![], vec![nested(pb::TxnRequest::default())], vec![]), false, false),
    ];
    for (request, read_only, serializable) in table {
        assert_eq!((check::is_read_only(&request), check::is_serializable(&request)), (read_only, serializable));
    }
}

#[test]
fn a_revoked_lease_takes_its_keys_along_in_one_revision() {
    let mut member = Member::new();
    assert_eq!(member.grant(5).leases, [LeaseChange::Granted(LeaseId(5), 60)]);
    assert_eq!(member.grant(5).reply, Err(Error::LeaseExists));
    for key in ["c", "a", "b"] {
        let put = pb::PutRequest { key: bytes(key), lease: 5, ..Default::default() };
        member.put_with(put).expect("leased");
    }
    member.put("b", "own").expect("off the lease");
    member.restart();
    let outcome = member.revoke(5);
    let gone: Vec<String> =
        outcome.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| text(&kv.key)).collect();
    assert_eq!((gone.join(" "), outcome.revision), ("a c".into(), Revision(6)));
    assert_eq!(outcome.leases, [LeaseChange::Revoked(LeaseId(5))]);
    assert_eq!((member.all(), member.revoke(5).reply), ("b=own".into(), Err(Error::LeaseNotFound)));
}

#[test]
fn alarms_stand_until_the_exact_one_is_taken_back() {
    let mut member = Member::new();
    let nospace = pb::AlarmMember { member_id: 3, alarm: 1 };
    assert_eq!(member.alarm(1, 3, 0), [], "no kind, no alarm");
    assert_eq!(member.alarm(1, 3, 1), [nospace]);
    member.restart();
    assert_eq!(member.alarm(0, 0, 0), [nospace]);
    assert_eq!(member.put("a", "1"), Err(Error::NoSpace));
    assert_eq!(member.grant(9).reply, Err(Error::NoSpace));
    assert_eq!(member.txn(when(vec![], vec![], vec![put("a", "1")])), Err(Error::NoSpace));
    let inner = nested(when(vec![], vec![put("a", "1")], vec![]));
    assert_eq!(member.txn(when(vec![], vec![inner], vec![])), Err(Error::NoSpace), "etcd 3.5.1 let it through");
    assert!(member.txn(when(vec![], vec![delete("a", "")], vec![])).is_ok(), "deletes make room");
    assert!(member.delete("a", "").reply.is_ok());
    assert_eq!(member.alarm(2, 0, 1), [], "0 is no wildcard");
    assert_eq!(member.alarm(2, 3, 1), [nospace]);
    assert!(member.put("a", "1").is_ok());
    member.alarm(1, 3, 2);
    assert_eq!(member.delete("a", "").reply, Err(Error::Corrupt));
    member.alarm(1, 3, 1);
    assert_eq!(member.delete("a", "").reply, Err(Error::Corrupt), "in etcd 3.5 the later alarm hid the one before");
}

#[test]
fn over_quota_the_answer_changes_and_the_effect_does_not() {
    let mut member = Member::new();
    let limits = Limits { quota_bytes: Some(25_800), ..Limits::default() };
    let engine = Arc::clone(&member.engine) as Arc<dyn Engine>;
    member.machine = Machine::open(engine, ClusterId(7), limits).expect("opens");
    // Sizes go up in pages: 20,480 bytes before, 24,576 after, and each put costs 256 more than its bytes.
    assert!(member.put("a", &"v".repeat(5_000)).is_ok());
    let put = pb::PutRequest { key: bytes("b"), value: bytes(&"v".repeat(1_000)), ..Default::default() };
    let outcome = member.apply(pb::InternalRaftRequest { put: Some(put), ..Default::default() });
    assert_eq!((outcome.reply, outcome.events.len()), (Err(Error::NoSpace), 1));
    assert!(member.put("c", "small").is_ok(), "what fits is taken");
    assert_eq!(member.revision(), 4);
}

#[test]
fn a_conf_change_and_its_conf_state_are_one_batch() {
    let mut member = Member::new();
    let change = |kind: conf_change::Type, context: &str| ConfChange {
        id: 0,
        r#type: kind as i32,
        node_id: 0x2a,
        context: bytes(context),
    };
    let add = change(conf_change::Type::AddNode, r#"{"id":42,"peerURLs":["http://127.0.0.1:1"],"name":""}"#);
    let voters = ConfState { voters: vec![0x2a], ..ConfState::default() };
    let outcome = member.machine.apply_conf_change(Index(1), Term(1), &add, &voters).expect("memory");
    assert!(matches!(outcome.members, Some(Changed::Added(_))));
    let again = member.machine.apply_conf_change(Index(2), Term(1), &add, &voters).expect("memory");
    assert_eq!((again.reply, again.members), (Err(Error::MemberExists), None));
    let attributes = membershippb::Attributes { name: "n1".into(), client_urls: vec!["http://127.0.0.1:2".into()] };
    let publish = membershippb::ClusterMemberAttrSetRequest { member_id: 0x2a, member_attributes: Some(attributes) };
    member.apply(pb::InternalRaftRequest { cluster_member_attr_set: Some(publish), ..Default::default() });
    let version = membershippb::ClusterVersionSetRequest { ver: "3.6.0".into() };
    member.apply(pb::InternalRaftRequest { cluster_version_set: Some(version), ..Default::default() });
    member.restart();
    let machine = &member.machine;
    assert_eq!(machine.applied(), (Index(4), Term(2)));
    assert_eq!((machine.conf_state(), machine.cluster_version()), (&voters, Some("3.6.0")));
    assert_eq!(machine.members().get(MemberId(0x2a)).map(|member| member.name.as_str()), Some("n1"));
    let row = member.engine.get(Table::Meta, CONF_STATE).expect("memory");
    assert_eq!(row, Some(bytes(r#"{"voters":[42],"auto_leave":false}"#)));
}

#[test]
fn a_batch_has_the_applied_index_also_of_entries_without_effect() {
    let mut member = Member::new();
    assert_eq!(member.machine.take_batch(), None);
    member.machine.apply(Index(1), Term(3), None).expect("memory");
    let batch = member.machine.take_batch().expect("an entry was applied");
    let rows: Vec<&[u8]> = batch.rows().map(|(_, key, _)| key.as_ref()).collect();
    assert_eq!(rows, [APPLIED, TERM]);
    assert_eq!(member.machine.take_batch(), None);
}

#[test]
#[should_panic(expected = "one by one")]
fn an_entry_cannot_be_applied_twice() {
    let mut member = Member::new();
    member.machine.apply(Index(1), Term(1), None).expect("memory");
    let _ = member.machine.apply(Index(1), Term(1), None);
}

/// An engine whose reads fail once it is told so.
struct Failing(Arc<Memory>, std::sync::atomic::AtomicBool);

impl Engine for Failing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.1.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(Error::Storage("gone".into())),
            false => self.0.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<crate::engine::Row>, Error> {
        self.0.scan(table, from, limit)
    }

    fn write(&self, batch: &Batch) -> Result<(), Error> {
        self.0.write(batch)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn a_disk_that_fails_is_no_answer_and_nothing_is_written_after_it() {
    let mut member = Member::new();
    for key in 0..100 {
        member.put(&format!("k{key:02}"), &"v".repeat(100)).expect("put");
    }
    member.flush();
    let failing = Arc::new(Failing(Arc::clone(&member.engine), false.into()));
    let engine = Arc::clone(&failing) as Arc<dyn Engine>;
    let mut machine = Machine::open(engine, ClusterId(7), Limits::default()).expect("opens");
    failing.1.store(true, std::sync::atomic::Ordering::Relaxed);
    let put = pb::PutRequest { key: bytes("k00"), prev_kv: true, ..Default::default() };
    let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
    assert_eq!(machine.apply(Index(101), Term(2), Some(request)), Err(Error::Storage("gone".into())));
    assert_eq!(machine.take_batch(), None);
}

#[test]
fn a_watcher_that_catches_up_reads_the_machines_history() {
    let mut member = Member::new();
    for value in ["1", "2", "3", "4"] {
        member.put("a", value).expect("put");
    }
    let floor = member.compact(4).compacted;
    assert_eq!(floor, Some(Revision(4)));
    member.sweep();
    let lock = RwLock::new(member.machine);
    let range = KeyRange::Single(bytes("a"));
    assert_eq!(lock.events(&range, Revision(3), 10), Ok(Past::Compacted(Revision(4))));
    let Ok(Past::Events { events, through }) = lock.events(&range, Revision(4), 10) else { panic!("readable") };
    assert_eq!((events.len(), through), (2, Revision(5)));
    let value = |at| lock.previous(&bytes("a"), Revision(at)).map(|kv| kv.map(|kv| text(&kv.value)));
    assert_eq!((value(5), value(4), value(1)), (Ok(Some("3".into())), Ok(None), Ok(None)));
}

#[test]
fn a_watch_stream_over_the_machine_can_move_between_threads() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let hub = crate::watch::Shared::new(Revision::FIRST);
    let (stream, lock) = (hub.open_stream(), RwLock::new(Member::new().machine));
    let next = sendable(stream.next(&lock));
    assert_eq!(futures::FutureExt::now_or_never(next), None);
}

/// One line of the script, as a request.
fn request(line: &str) -> Option<pb::InternalRaftRequest> {
    let words: Vec<&str> = line.split(' ').collect();
    let value = |text: &str| bytes(if text == "-" { "" } else { text });
    let number = |text: &str| text.parse().expect("a number");
    let step = |text: &str| match text.split(',').collect::<Vec<_>>().as_slice() {
        ["put", key, text] => {
            op(Request::RequestPut(pb::PutRequest { key: bytes(key), value: value(text), ..Default::default() }))
        }
        ["del", key, end] => delete(key, end),
        [_, key] => get(key, 0),
        other => panic!("{other:?}"),
    };
    let mut request = pb::InternalRaftRequest::default();
    match words.as_slice() {
        ["put", key, text, lease] => {
            let put =
                pb::PutRequest { key: bytes(key), value: value(text), lease: number(lease), ..Default::default() };
            request.put = Some(put);
        }
        ["del", key, end @ ..] => {
            let range_end = bytes(end.first().unwrap_or(&""));
            request.delete_range = Some(pb::DeleteRangeRequest { key: bytes(key), range_end, prev_kv: false });
        }
        ["txn", key, version, ops @ ..] => {
            let given = TargetUnion::Version(number(version));
            let compare = compare(key, "", CompareResult::Greater, CompareTarget::Version, given);
            let bar = ops.iter().position(|word| *word == "|").expect("two branches");
            let list = |ops: &[&str]| ops.iter().map(|op| step(op)).collect::<Vec<_>>();
            request.txn = Some(when(vec![compare], list(&ops[..bar]), list(&ops[bar + 1..])));
        }
        ["compact", revision] => {
            request.compaction = Some(pb::CompactionRequest { revision: number(revision), physical: true });
        }
        ["grant", id, ttl] => request.lease_grant = Some(pb::LeaseGrantRequest { id: number(id), ttl: number(ttl) }),
        ["revoke", id] => request.lease_revoke = Some(pb::LeaseRevokeRequest { id: number(id) }),
        _ => return None,
    }
    Some(request)
}

/// Plays the script; `after` is called after each operation. Returns how many hashes were compared.
fn replay(after: impl Fn(&mut Member)) -> usize {
    let (mut member, mut compared) = (Member::new(), 0);
    for line in SEEDED_SCRIPT.lines() {
        if let Some(request) = request(line) {
            let outcome = member.apply(request);
            assert!(outcome.reply.is_ok(), "{line}: {:?}", outcome.reply);
            after(&mut member);
            continue;
        }
        let ["hash", revision, hash, floor] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let ours = member.hash(revision.parse().expect("a revision"));
        assert_eq!((ours.hash.to_string(), ours.compact_revision.to_string()), (hash.into(), floor.into()), "{line}");
        compared += 1;
    }
    compared
}

#[test]
fn the_same_operations_give_etcds_hashes() {
    assert_eq!(replay(|_| {}), 13);
}

#[test]
fn neither_removal_nor_restarts_change_the_hash() {
    assert_eq!(replay(Member::sweep), 13);
    assert_eq!(replay(Member::restart), 13);
    assert_eq!(
        replay(|member| {
            member.sweep();
            member.restart();
        }),
        13
    );
}
