//! Maintenance of real members: space that runs out and comes back, hashes, leadership, long ranges in pages.

use crate::client;
use crate::client::Client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use etcd_lab::proto::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;
use std::path::Path;
use std::time::Duration;
use tonic::Code;
use tonic::Status;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn alarm(client: &Client, action: AlarmAction, member_id: u64) -> Vec<pb::AlarmMember> {
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm: pb::AlarmType::Nospace.into() };
    client.maintenance(0).alarm(request).await.expect("an answer").into_inner().alarms
}

async fn compact(client: &Client, revision: i64) -> Result<(), Status> {
    client.kv(0).compact(pb::CompactionRequest { revision, physical: true }).await.map(drop)
}

/// What to do when a member is out of space, as every runbook has it: compact, defragment, disarm.
async fn out_of_space_and_back(program: &Path, ours: bool) {
    let mut cluster = Cluster::start_with(program, 1, &["--quota-backend-bytes=1000000"]).await;
    let client = cluster.client.clone();
    let value = "v".repeat(10_000);
    let mut writes = 0;
    let refusal = loop {
        match client.put(0, "key", &value).await {
            Ok(_) => writes += 1,
            Err(refusal) => break refusal,
        }
        assert!(writes < 1_000, "a quota of 1 MB lets 10 MB through");
    };
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, NO_SPACE));
    let status = client.status(0).await.expect("a status");
    let member = status.header.as_ref().map_or(0, |header| header.member_id);
    let raised = vec![pb::AlarmMember { member_id: member, alarm: pb::AlarmType::Nospace.into() }];
    assert_eq!(alarm(&client, AlarmAction::Get, 0).await, raised, "raised before the refusal was sent");
    assert_eq!(status.errors, [format!("memberID:{member} alarm:NOSPACE ")]);
    let address = cluster.spec(0).client_url.trim_start_matches("http://").to_owned();
    let health = http::get(&address, "/health").await.expect("an answer");
    assert!(health.status.contains("503") && health.body.contains("ALARM NOSPACE"), "{health:?}");
    let health = http::get(&address, "/health?exclude=NOSPACE").await.expect("an answer");
    assert!(health.status.contains("200"), "{health:?}");
    assert_eq!(client.get(0, "key").await.expect("a read").map(|v| v.len()), Some(10_000), "reads go on");
    // The alarm outlives the process.
    cluster.kill(0);
    cluster.restart(0).await;
    assert_eq!(client.put(0, "small", "v").await.expect_err("no space").message(), NO_SPACE);
    // Taken back too early it comes back: a file that was once full is still large.
    assert_eq!(alarm(&client, AlarmAction::Deactivate, member).await, raised);
    assert_eq!(client.put(0, "key", &value).await.expect_err("no space").message(), NO_SPACE);
    let revision = client.revision().await.expect("a read");
    compact(&client, revision).await.expect("compacts without space");
    let before = until(READY_WITHIN, "what was compacted is free", async || {
        let status = client.status(0).await?;
        // etcd counts pages as free once something else is written, which nothing is here.
        if status.db_size_in_use < 200_000 || !ours { Ok(status) } else { Err(Status::unknown("still in use")) }
    })
    .await;
    assert!(before.db_size > 900_000, "compaction gives nothing back: {before:?}");
    client.maintenance(0).defragment(pb::DefragmentRequest {}).await.expect("defragments");
    let after = client.status(0).await.expect("a status");
    assert!(after.db_size < 300_000 && after.db_size >= after.db_size_in_use, "{before:?} became {after:?}");
    assert_eq!(client.put(0, "key", &value).await.expect_err("the alarm stands").message(), NO_SPACE);
    assert_eq!(alarm(&client, AlarmAction::Deactivate, member).await, raised);
    client.put(0, "key", &value).await.expect("writes resume");
    assert!(client.status(0).await.expect("a status").errors.is_empty());
    cluster.kill(0);
    cluster.restart(0).await;
    assert_eq!(client.get(0, "key").await.expect("a read").map(|v| v.len()), Some(10_000));
    assert_eq!(client.revision().await.expect("a read"), revision + 1);
}

#[test]
fn a_member_that_is_out_of_space_comes_back_by_the_recipe() {
    turn(Duration::from_secs(120), out_of_space_and_back(&etcd_bin(), is_ours()));
}

#[test]
fn etcd_351_comes_back_by_the_same_recipe() {
    let Some(etcd) = foreign::etcd_351("etcd_351_comes_back_by_the_same_recipe") else { return };
    turn(Duration::from_secs(120), out_of_space_and_back(&etcd, false));
}

#[test]
fn one_full_member_stops_the_writes_of_all_and_its_alarm_is_its_own() {
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start_with(&etcd_bin(), 3, &["--quota-backend-bytes=200000"]).await;
        let value = "v".repeat(20_000);
        let mut refused = None;
        for number in 0..30 {
            if let Err(refusal) = cluster.client.put(number % 3, "key", &value).await {
                refused = Some(refusal);
                break;
            }
        }
        assert_eq!(refused.expect("600 kB do not fit").message(), NO_SPACE);
        for member in 0..3 {
            let refusal = cluster.client.put(member, "small", "v").await.expect_err("the alarm is everybody's");
            assert_eq!(refusal.message(), NO_SPACE, "member {member}");
            cluster.client.get(member, "key").await.expect("reads go on");
        }
        cluster.assert_equal_hashes().await;
    });
}

/// The pages of a range: keys of each, and the last one's header, count and `more`.
async fn pages(client: &Client, request: pb::RangeRequest) -> Result<(Vec<Vec<String>>, pb::RangeResponse), Status> {
    let mut stream = client.kv(0).range_stream(request).await?.into_inner();
    let (mut keys, mut last) = (Vec::new(), pb::RangeResponse::default());
    while let Some(page) = stream.message().await? {
        assert!(last.header.is_none(), "the header comes with the last page");
        last = page.range_response.expect("a page");
        let text = |kv: &etcd_lab::proto::mvccpb::KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
        keys.push(last.kvs.iter().map(text).collect::<Vec<_>>());
    }
    Ok((keys, last))
}

#[test]
fn a_long_range_comes_in_pages_of_one_revision() {
    if !is_ours() {
        return foreign::not_possible("RangeStream", "etcd has it since 3.7");
    }
    turn(Duration::from_secs(60), async {
        let cluster = Cluster::start(1).await;
        let client = &cluster.client;
        for number in 0..100 {
            client.put(0, &format!("k{number:02}"), "v").await.expect("a put");
        }
        let all = || pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
        let whole = client.kv(0).range(all()).await.expect("a range").into_inner();
        let (keys, last) = pages(client, all()).await.expect("pages");
        assert_eq!(keys.iter().map(Vec::len).collect::<Vec<_>>(), [10, 20, 40, 30], "small pages double");
        assert_eq!(keys.concat().len(), whole.kvs.len());
        assert!(keys.concat().windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((last.count, last.more, last.header), (100, false, whole.header));
        let (keys, last) = pages(client, pb::RangeRequest { limit: 25, ..all() }).await.expect("pages");
        assert_eq!((keys.concat().len(), last.count, last.more), (25, 100, true), "counted beyond the limit");
        let count = pb::RangeRequest { count_only: true, limit: 3, ..all() };
        let (keys, last) = pages(client, count).await.expect("pages");
        assert_eq!((keys, last.count, last.more), (vec![vec![]], 100, false));
        let none = pb::RangeRequest { key: "z".into(), ..Default::default() };
        assert_eq!(pages(client, none).await.expect("pages").0, [Vec::<String>::new()]);
        let early = pb::RangeRequest { revision: 11, keys_only: true, ..all() };
        let (keys, last) = pages(client, early).await.expect("pages");
        assert_eq!((keys.concat().len(), last.header), (10, whole.header), "as it was, told now");
        // A stream that has begun stays at its revision.
        let mut stream = client.kv(0).range_stream(all()).await.expect("a stream").into_inner();
        let first = stream.message().await.expect("a page").expect("a page").range_response.expect("a page");
        client.put(0, "k00a", "late").await.expect("a put");
        let mut rest = first.kvs.len();
        while let Some(page) = stream.message().await.expect("a page") {
            rest += page.range_response.expect("a page").kvs.len();
        }
        assert_eq!(rest, 100);
        for (bad, code, text) in [
            (pb::RangeRequest { sort_order: 2, ..all() }, Code::Unimplemented, "custom sort orders"),
            (pb::RangeRequest { sort_target: 3, ..all() }, Code::Unimplemented, "custom sort orders"),
            (pb::RangeRequest { min_mod_revision: 1, ..all() }, Code::Unimplemented, "revision filters"),
            (pb::RangeRequest { key: "".into(), ..all() }, Code::InvalidArgument, "key is not provided"),
            (pb::RangeRequest { sort_order: 9, ..all() }, Code::InvalidArgument, "invalid sort option"),
            (pb::RangeRequest { revision: 999, ..all() }, Code::OutOfRange, "future revision"),
        ] {
            let refusal = pages(client, bad).await.expect_err(text);
            assert!(refusal.code() == code && refusal.message().contains(text), "{refusal}");
        }
    });
}

#[test]
fn leadership_moves_to_the_member_that_is_named_and_only_from_the_leader() {
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let id = async |member: usize| {
            cluster.client.status(member).await.expect("a status").header.map_or(0, |header| header.member_id)
        };
        let (other, to) = ((leader + 1) % 3, id((leader + 2) % 3).await);
        let ask = async |member: usize, target_id: u64| {
            cluster.client.maintenance(member).move_leader(pb::MoveLeaderRequest { target_id }).await
        };
        let refusal = ask(other, to).await.expect_err("not the leader");
        assert_eq!((refusal.code(), refusal.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
        let refusal = ask(leader, 1).await.expect_err("nobody");
        assert_eq!(
            (refusal.code(), refusal.message()),
            (Code::FailedPrecondition, "etcdserver: bad leader transferee")
        );
        let answer = ask(leader, to).await.expect("moves").into_inner();
        assert_eq!(answer, pb::MoveLeaderResponse { header: None });
        until(READY_WITHIN, "all follow the new leader", async || {
            for member in 0..3 {
                if cluster.client.status(member).await?.leader != to {
                    return Err(Status::unknown("another leader"));
                }
            }
            Ok(())
        })
        .await;
        cluster.client.put(leader, "a", "1").await.expect("it still writes");
    });
}

#[test]
fn members_that_agree_have_one_hash_of_everything() {
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start(3).await;
        let client = &cluster.client;
        for number in 0..50 {
            client.put(number % 3, &format!("k{}", number % 7), &number.to_string()).await.expect("a put");
        }
        client.lease(0).lease_grant(pb::LeaseGrantRequest { id: 7, ttl: 9_000 }).await.expect("a lease");
        let hash = async |member: usize| client.maintenance(member).hash(pb::HashRequest {}).await;
        until(READY_WITHIN, "equal hashes", async || {
            let mut seen = Vec::new();
            for member in 0..3 {
                seen.push(hash(member).await?.into_inner().hash);
            }
            if seen.iter().all(|one| *one == seen[0]) { Ok(()) } else { Err(Status::unknown(format!("{seen:?}"))) }
        })
        .await;
        let before = hash(0).await.expect("a hash").into_inner();
        client.put(0, "k1", "other").await.expect("a put");
        let after = hash(0).await.expect("a hash").into_inner();
        assert_ne!(before.hash, after.hash);
        assert_eq!(after.header.map(|header| header.revision), before.header.map(|header| header.revision + 1));
    });
}

#[test]
fn the_flags_of_automatic_compaction_do_what_they_say() {
    turn(Duration::from_secs(60), async {
        let flags = ["--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"];
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &flags).await;
        let client = cluster.client.clone();
        let old = pb::RangeRequest { key: "a".into(), revision: 3, ..Default::default() };
        let refusal = until(READY_WITHIN, "revision 3 is compacted", async || {
            client.put(0, "a", "again").await?;
            match client.kv(0).range(old.clone()).await {
                Err(refusal) if refusal.code() == Code::OutOfRange && refusal.message().contains("compacted") => {
                    Ok(refusal)
                }
                answer => Err(Status::unknown(format!("{answer:?}"))),
            }
        })
        .await;
        assert_eq!(refusal.message(), "etcdserver: mvcc: required revision has been compacted");
        until(READY_WITHIN, "the compaction and the end of the removal in the log", async || {
            let log = cluster.process(0).log();
            let told =
                log.contains("completed auto periodic compaction") && log.contains("finished scheduled compaction");
            if told { Ok(()) } else { Err(log) }
        })
        .await;
    });
}

#[test]
fn status_tells_all_that_etcd_36_tells() {
    if !is_ours() {
        return foreign::not_possible("Status of 3.6", "another program");
    }
    turn(Duration::from_secs(60), async {
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--quota-backend-bytes=-1"]).await;
        cluster.agreed(0, "3.6.0").await;
        let status = cluster.client.status(0).await.expect("a status");
        assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.6.14", "3.6.0"));
        assert_eq!((status.db_size, status.db_size_in_use), (20_480, 16_384), "as a fresh etcd");
        assert_eq!(status.db_size_quota, -1, "as the flag has it");
        assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
        assert!(status.raft_applied_index <= status.raft_index && status.raft_applied_index >= 4);
        let downgrade = pb::DowngradeRequest { action: 1, version: "3.5".into() };
        let answer = cluster.client.maintenance(0).downgrade(downgrade).await.expect("enabled").into_inner();
        assert_eq!(answer.version, "3.6");
        let status = cluster.client.status(0).await.expect("a status");
        let info = pb::DowngradeInfo { enabled: true, target_version: "3.5.0".into() };
        assert_eq!(status.downgrade_info, Some(info));
        client::answer(
            READY_WITHIN,
            cluster.client.maintenance(0).downgrade(pb::DowngradeRequest { action: 2, version: String::new() }),
        )
        .await
        .expect("cancelled");
        let status = cluster.client.status(0).await.expect("a status");
        assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
    });
}

/// Without a budget each of them would have an answer of its own in the member's memory (etcd #12342).
#[test]
fn a_hundred_clients_that_ask_for_everything_stay_within_the_budget() {
    const CLIENTS: u64 = 100;
    const DATA: u64 = 8 << 20;
    const BUDGET: u64 = 32 << 20;
    turn(Duration::from_secs(240), async {
        let mut cluster =
            Cluster::start_with(&etcd_bin(), 1, &[&format!("--experimental-lab-max-range-bytes={BUDGET}")]).await;
        let value = "v".repeat(8 << 10);
        for number in 0..DATA >> 13 {
            cluster.client.put(0, &format!("k{number:05}"), &value).await.expect("a put");
        }
        let before = cluster.process(0).memory_kib("VmRSS");
        let url = cluster.spec(0).client_url.clone();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client::plain(vec![url.clone()]);
            clients.spawn(async move {
                loop {
                    match client.prefix("k").await {
                        Ok(found) => return found.iter().map(|kv| kv.value.len() as u64).sum::<u64>(),
                        // In line for as long as a request may take: it asks again.
                        Err(why) if why.message() == "etcdserver: too many requests" => {}
                        Err(why) => panic!("{why}"),
                    }
                }
            });
        }
        while let Some(found) = clients.join_next().await {
            assert_eq!(found.expect("no panic"), DATA);
        }
        let most = cluster.process(0).memory_kib("VmHWM");
        let (grown, would) = ((most - before) << 10, CLIENTS * DATA);
        eprintln!("{CLIENTS} clients x {} MiB: {} MiB more at most", DATA >> 20, grown >> 20);
        if is_ours() {
            // What the allocator keeps for next time counts too; one copy for each client would be `would`, and an encoded one beside it as much again.
            assert!(grown < would / 3, "{} MiB", grown >> 20);
        }
    });
}
