//! Walks through an etcd with the Rust crate `etcd-client`: every call that programs make, and what comes back.
//!
//! Takes HOST:PORT, prints a line per step, and ends with a panic at the first answer that is not as it should be. It is to pass against etcd and
//! against us alike.

use etcd_client::Client;
use etcd_client::CompactionOptions;
use etcd_client::Compare;
use etcd_client::CompareOp;
use etcd_client::DeleteOptions;
use etcd_client::Error;
use etcd_client::EventType;
use etcd_client::GetOptions;
use etcd_client::LeaseTimeToLiveOptions;
use etcd_client::LockOptions;
use etcd_client::ProclaimOptions;
use etcd_client::PutOptions;
use etcd_client::ResignOptions;
use etcd_client::SortOrder;
use etcd_client::SortTarget;

use etcd_client::Txn;
use etcd_client::TxnOp;
use etcd_client::TxnOpResponse;
use etcd_client::WatchOptions;
use etcd_client::WatchResponse;
use etcd_client::WatchStream;
use std::time::Duration;

/// Longer than etcd waits itself.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let endpoint = std::env::args().nth(1).expect("usage: journey HOST:PORT");
    let mut client = Client::connect([endpoint], None).await.expect("a connection");
    let client = &mut client;
    let mut steps = 0;
    macro_rules! step {
        ($name:ident) => {
            $name(client).await.unwrap_or_else(|e| panic!("not ok {}: {e}", stringify!($name)));
            steps += 1;
            println!("ok {steps} {}", stringify!($name));
        };
    }
    step!(keys);
    step!(ranges);
    step!(deletes);
    step!(transactions);
    step!(refusals);
    step!(leases);
    step!(keep_alive);
    step!(watches);
    step!(compaction);
    step!(maintenance);
    step!(lock);
    step!(election);
    println!("done {steps}");
}

async fn keys(client: &mut Client) -> Result<(), Error> {
    let first = client.put("rs/a", "1", None).await?.header().expect("a header").revision();
    let second = client.put("rs/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(second.prev_key().expect("a previous value").value(), b"1");
    let answer = client.get("rs/a", None).await?;
    let now = &answer.kvs()[0];
    assert_eq!((now.value(), now.version(), now.create_revision()), (&b"2"[..], 2, first));
    let old = client.get("rs/a", Some(GetOptions::new().with_revision(first))).await?;
    assert_eq!(old.kvs()[0].value(), b"1");
    assert_eq!(client.get("rs/none", None).await?.count(), 0);
    assert_eq!(client.get("rs/a", Some(GetOptions::new().with_serializable())).await?.count(), 1);
    client.put("rs/a", "", Some(PutOptions::new().with_ignore_value())).await?;
    assert_eq!(client.get("rs/a", None).await?.kvs()[0].version(), 3);
    Ok(())
}

async fn ranges(client: &mut Client) -> Result<(), Error> {
    for number in 0..15 {
        client.put(format!("rs/r/{number:02}"), format!("{}", 99 - number), None).await?;
    }
    let all = GetOptions::new().with_prefix();
    let page = client.get("rs/r/", Some(all.clone().with_limit(4))).await?;
    assert_eq!((page.count(), page.more(), page.kvs().len()), (15, true, 4));
    let sorted = client.get("rs/r/", Some(all.clone().with_sort(SortTarget::Value, SortOrder::Ascend))).await?;
    assert_eq!(sorted.kvs()[0].key(), b"rs/r/14");
    let count = client.get("rs/r/", Some(all.clone().with_count_only())).await?;
    assert_eq!((count.count(), count.kvs().len()), (15, 0));
    let names = client.get("rs/r/", Some(all.with_keys_only())).await?;
    assert!(names.kvs().iter().all(|kv| kv.value().is_empty() && kv.mod_revision() > 0));
    let some = client.get("rs/r/05", Some(GetOptions::new().with_range("rs/r/10"))).await?;
    assert_eq!(some.count(), 5);
    Ok(())
}

async fn deletes(client: &mut Client) -> Result<(), Error> {
    let one = client.delete("rs/r/00", Some(DeleteOptions::new().with_prev_key())).await?;
    assert_eq!((one.deleted(), one.prev_kvs()[0].value()), (1, &b"99"[..]));
    assert_eq!(client.delete("rs/r/00", None).await?.deleted(), 0);
    assert_eq!(client.delete("rs/r/", Some(DeleteOptions::new().with_prefix())).await?.deleted(), 14);
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<(), Error> {
    client.put("rs/t", "x", None).await?;
    let compares = [Compare::value("rs/t", CompareOp::Equal, "x"), Compare::version("rs/t/new", CompareOp::Equal, 0)];
    let then = [TxnOp::put("rs/t", "y", None), TxnOp::put("rs/t/new", "z", None), TxnOp::get("rs/t", None)];
    let txn = Txn::new().when(compares).and_then(then).or_else([TxnOp::delete("rs/t", None)]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded());
    let responses = answer.op_responses();
    let TxnOpResponse::Get(seen) = &responses[2] else { panic!("the third is a get: {responses:?}") };
    assert_eq!(seen.kvs()[0].value(), b"y");
    let compares = [Compare::mod_revision("rs/t", CompareOp::Less, 1)];
    let nested = Txn::new().and_then([TxnOp::put("rs/t/in", "1", None)]);
    let txn = Txn::new().when(compares).or_else([TxnOp::txn(nested), TxnOp::get("rs/t/in", None)]);
    let answer = client.txn(txn).await?;
    assert!(!answer.succeeded());
    let responses = answer.op_responses();
    let TxnOpResponse::Get(seen) = &responses[1] else { panic!("the second is a get: {responses:?}") };
    assert_eq!(seen.kvs()[0].value(), b"1");
    Ok(())
}

/// The text of a refusal.
fn refused<T>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => format!("another error: {other}"),
        Ok(_) => "not refused".to_owned(),
    }
}

async fn refusals(client: &mut Client) -> Result<(), Error> {
    let empty = refused(client.put("", "v", None).await);
    assert_eq!(empty, "InvalidArgument: etcdserver: key is not provided");
    let lost = refused(client.put("rs/a", "v", Some(PutOptions::new().with_lease(404))).await);
    assert_eq!(lost, "NotFound: etcdserver: requested lease not found");
    let future = refused(client.get("rs/a", Some(GetOptions::new().with_revision(1 << 40))).await);
    assert_eq!(future, "OutOfRange: etcdserver: mvcc: required revision is a future revision");
    let twice = Txn::new().and_then([TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)]);
    let twice = refused(client.txn(twice).await);
    assert_eq!(twice, "InvalidArgument: etcdserver: duplicate key given in txn request");
    Ok(())
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(600, None).await?;
    assert_eq!(lease.ttl(), 600);
    for key in ["rs/l/1", "rs/l/2"] {
        client.put(key, "v", Some(PutOptions::new().with_lease(lease.id()))).await?;
    }
    let left = client.lease_time_to_live(lease.id(), Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    assert_eq!((left.granted_ttl(), left.keys().len()), (600, 2));
    assert!(client.leases().await?.leases().iter().any(|one| one.id() == lease.id()));
    client.lease_revoke(lease.id()).await?;
    assert_eq!(client.get("rs/l/", Some(GetOptions::new().with_prefix())).await?.count(), 0);
    assert_eq!(client.lease_time_to_live(lease.id(), None).await?.ttl(), -1);
    let short = client.lease_grant(1, None).await?.id();
    let mut watch = client.watch("rs/l/short", None).await?;
    assert!(next(&mut watch).await?.created());
    client.put("rs/l/short", "v", Some(PutOptions::new().with_lease(short))).await?;
    assert_eq!(next(&mut watch).await?.events()[0].event_type(), EventType::Put);
    assert_eq!(next(&mut watch).await?.events()[0].event_type(), EventType::Delete);
    Ok(())
}

async fn keep_alive(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    let (mut keeper, mut renewals) = client.lease_keep_alive(lease).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let renewal = tokio::time::timeout(PATIENCE, renewals.message()).await.expect("an answer")?;
        assert_eq!(renewal.expect("a renewal").ttl(), 60);
    }
    client.lease_revoke(lease).await?;
    Ok(())
}

async fn next(watch: &mut WatchStream) -> Result<WatchResponse, Error> {
    let message = tokio::time::timeout(PATIENCE, watch.message()).await.expect("an answer")?;
    Ok(message.expect("the stream goes on"))
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    let first = client.put("rs/w/1", "old", None).await?.header().expect("a header").revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(first).with_prev_key();
    let mut watch = client.watch("rs/w/", Some(options)).await?;
    let created = next(&mut watch).await?;
    assert!(created.created());
    assert_eq!(next(&mut watch).await?.events()[0].kv().expect("a pair").value(), b"old");
    client.put("rs/w/1", "new", None).await?;
    let event = next(&mut watch).await?;
    assert_eq!(event.events()[0].prev_kv().expect("a previous value").value(), b"old");
    let both = Txn::new().and_then([TxnOp::put("rs/w/2", "a", None), TxnOp::delete("rs/w/1", None)]);
    client.txn(both).await?;
    let event = next(&mut watch).await?;
    assert_eq!(event.events().len(), 2);
    assert_eq!(event.events()[1].event_type(), EventType::Delete);
    watch.request_progress().await?;
    let progress = next(&mut watch).await?;
    assert_eq!((progress.watch_id(), progress.events().len()), (-1, 0));
    watch.cancel(created.watch_id()).await?;
    assert!(next(&mut watch).await?.canceled());
    Ok(())
}

async fn compaction(client: &mut Client) -> Result<(), Error> {
    let old = client.put("rs/c", "1", None).await?.header().expect("a header").revision();
    let now = client.put("rs/c", "2", None).await?.header().expect("a header").revision();
    client.compact(now, Some(CompactionOptions::new().with_physical())).await?;
    let read = refused(client.get("rs/c", Some(GetOptions::new().with_revision(old))).await);
    assert_eq!(read, "OutOfRange: etcdserver: mvcc: required revision has been compacted");
    let mut watch = client.watch("rs/c", Some(WatchOptions::new().with_start_revision(old))).await?;
    assert!(next(&mut watch).await?.created());
    let ended = next(&mut watch).await?;
    assert_eq!((ended.canceled(), ended.compact_revision()), (true, now));
    Ok(())
}

async fn maintenance(client: &mut Client) -> Result<(), Error> {
    let status = client.status().await?;
    assert_eq!(status.leader(), status.header().expect("a header").member_id());
    assert!(status.db_size() > 0 && status.raft_term() > 0);
    let members = client.member_list().await?;
    assert_eq!((members.members().len(), members.members()[0].id()), (1, status.leader()));
    assert_ne!(client.hash_kv(0).await?.hash(), 0);
    Ok(())
}

async fn lock(client: &mut Client) -> Result<(), Error> {
    let (one, two) = (client.lease_grant(60, None).await?.id(), client.lease_grant(60, None).await?.id());
    let first = client.lock("rs/lock", Some(LockOptions::new().with_lease(one))).await?;
    assert_eq!(first.key(), format!("rs/lock/{one:x}").as_bytes());
    let mut other = client.clone();
    let second = tokio::spawn(async move { other.lock("rs/lock", Some(LockOptions::new().with_lease(two))).await });
    let in_line = async {
        // Both keys are there: the second is in line.
        while client.get("rs/lock/", Some(GetOptions::new().with_prefix())).await?.count() < 2 {
            tokio::task::yield_now().await;
        }
        Ok::<(), Error>(())
    };
    tokio::time::timeout(PATIENCE, in_line).await.expect("the second gets in line")?;
    assert!(!second.is_finished(), "held by the first");
    client.unlock(first.key()).await?;
    let second = tokio::time::timeout(PATIENCE, second).await.expect("an answer").expect("no panic")?;
    client.unlock(second.key()).await?;
    for lease in [one, two] {
        client.lease_revoke(lease).await?;
    }
    Ok(())
}

async fn election(client: &mut Client) -> Result<(), Error> {
    assert_eq!(refused(client.leader("rs/election").await), "Unknown: election: no leader");
    let lease = client.lease_grant(60, None).await?.id();
    let campaign = client.campaign("rs/election", "me", lease).await?;
    let leader = campaign.leader().expect("a leader").clone();
    assert_eq!((leader.name(), leader.lease()), (&b"rs/election"[..], lease));
    let mut observed = client.observe("rs/election").await?;
    let seen = tokio::time::timeout(PATIENCE, observed.message()).await.expect("an answer")?.expect("a leader");
    assert_eq!(seen.kv().expect("a pair").value(), b"me");
    client.proclaim("still me", Some(ProclaimOptions::new().with_leader(leader.clone()))).await?;
    let seen = tokio::time::timeout(PATIENCE, observed.message()).await.expect("an answer")?.expect("a leader");
    assert_eq!(seen.kv().expect("a pair").value(), b"still me");
    assert_eq!(client.leader("rs/election").await?.kv().expect("a pair").value(), b"still me");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    client.lease_revoke(lease).await?;
    Ok(())
}
