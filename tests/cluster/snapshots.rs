//! Snapshots go both ways: what our member saves, etcd 3.5.1's tools read, restore and serve; what etcd saves, ours do.
//!
//! The same thousand operations as for HashKV make the history: leases, tombstones, transactions, compactions, keys that are no text. Equal
//! HashKV after the way through a file means that every byte of every version came along.

use crate::client::Client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use crate::hashkv;
use etcd_lab::proto::etcdserverpb as pb;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

const ETCDCTL: &str = env!("CARGO_BIN_EXE_etcdctl");
const ETCDUTL: &str = env!("CARGO_BIN_EXE_etcdutl");

/// Runs a program without any `ETCD…` variable of ours.
fn ran(program: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    let output = command.env("ETCDCTL_API", "3").args(words).output();
    output.unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()))
}

/// Runs a program that must succeed; returns what it printed.
fn told(program: &Path, words: &[&str]) -> String {
    let output = ran(program, words);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {words:?}: {}\n{complaint}", program.display(), output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn save(etcdctl: &Path, cluster: &Cluster, to: &Path) {
    let (endpoint, file) = (cluster.spec(0).client_url.clone(), to.display().to_string());
    let told = told(etcdctl, &["--endpoints", &endpoint, "snapshot", "save", &file]);
    assert!(told.starts_with(&format!("Snapshot saved at {file}\n")), "{told}");
    assert!(!to.with_extension("db.part").exists());
}

fn status(program: &Path, file: &Path) -> Value {
    let text = told(program, &["snapshot", "status", &file.display().to_string(), "-w", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Restores the data directories of all these members.
fn restore(etcdutl: &Path, file: &Path, specs: &[Spec], more: &[&str]) {
    let initial: Vec<String> = specs.iter().map(|spec| format!("{}={}", spec.name, spec.peer_url)).collect();
    let initial = initial.join(",");
    for spec in specs {
        let (file, dir) = (file.display().to_string(), spec.data_dir.display().to_string());
        let words = ["snapshot", "restore", &file, "--data-dir", &dir, "--name", &spec.name];
        let cluster = ["--initial-cluster", &initial, "--initial-cluster-token", "etcd-lab-test"];
        let own = ["--initial-advertise-peer-urls", &spec.peer_url];
        told(etcdutl, &[&words[..], &cluster, &own, more].concat());
    }
}

/// Members on directories that were restored.
async fn start(program: &Path, specs: Vec<Spec>, scratch: Scratch) -> Cluster {
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    Cluster::from_specs(program, specs, client, scratch).await
}

fn specs(scratch: &Scratch, members: usize) -> Vec<Spec> {
    (0..members).map(|n| Spec::new(&format!("r{n}"), scratch.path())).collect()
}

/// etcd's own reader of logs goes through this member's: `etcdutl backup` copies it, record by record.
fn assert_etcd_opens_the_log(etcdutl: &Path, spec: &Spec, scratch: &Path) {
    std::fs::create_dir_all(spec.data_dir.join("member/snap")).expect("where etcd looks for its own snapshots");
    let (from, to) = (spec.data_dir.display().to_string(), scratch.join("backup").display().to_string());
    let output = ran(etcdutl, &["backup", "--data-dir", &from, "--backup-dir", &to, "--with-v3=false"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaint.contains("failed to find the match snapshot record"), "{complaint}");
    assert!(complaint.contains("ignoring EntryConfChange raft entry"), "the founders were read: {complaint}");
}

/// What must be the same after the way through a file.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    revision: i64,
    hash: u32,
    compacted: i64,
    keys: Vec<(Vec<u8>, i64, i64)>,
    leases: Vec<(i64, i64)>,
}

async fn content(client: &Client, member: usize) -> Content {
    let everything = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let range = client.kv(member).range(everything).await.expect("a range").into_inner();
    let revision = range.header.expect("a header").revision;
    let hash = client.hash_kv(member, revision).await.expect("a hash");
    let mut leases = Vec::new();
    let all =
        client.lease(member).lease_leases(pb::LeaseLeasesRequest {}).await.expect("the leases").into_inner().leases;
    for pb::LeaseStatus { id } in all {
        let ask = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = client.lease(member).lease_time_to_live(ask).await.expect("the lease").into_inner();
        leases.push((id, lease.granted_ttl));
    }
    leases.sort_unstable();
    let keys = range.kvs.iter().map(|kv| (kv.key.to_vec(), kv.mod_revision, kv.lease)).collect();
    Content { revision, hash: hash.hash, compacted: hash.compact_revision, keys, leases }
}

/// A member with a history.
async fn lived_in(program: &Path) -> (Cluster, Content) {
    let cluster = Cluster::start_with(program, 1, &[]).await;
    hashkv::hashes(&cluster.client).await;
    let content = content(&cluster.client, 0).await;
    assert!(content.keys.len() > 20 && content.compacted > 0 && content.leases.len() == 3, "{content:?}");
    (cluster, content)
}

#[test]
fn etcd_351_reads_restores_and_serves_what_our_member_saved() {
    let test = "our snapshot with etcd 3.5.1";
    let Some(etcd) = foreign::etcd_351(test) else { return };
    let Some((etcdctl, etcdutl)) = foreign::beside_351(test, "etcdctl").zip(foreign::beside_351(test, "etcdutl"))
    else {
        return;
    };
    let Some(etcdctl_34) = foreign::etcdctl_34(test) else { return };
    turn(Duration::from_secs(120), async {
        let (ours, before) = lived_in(&etcd_bin()).await;
        let files: Vec<_> = ["34.db", "351.db", "ours.db"].iter().map(|name| ours.dir().join(name)).collect();
        for (program, file) in [etcdctl_34.as_path(), &etcdctl, Path::new(ETCDCTL)].into_iter().zip(&files) {
            save(program, &ours, file);
            let (theirs, own) = (status(&etcdutl, file), status(Path::new(ETCDUTL), file));
            for field in ["hash", "revision", "totalSize"] {
                assert_eq!(own[field], theirs[field], "{field}: {own} and {theirs}");
            }
            assert_eq!(own["revision"], before.revision);
            assert_eq!(own["totalKey"], before.keys.len());
            assert!(theirs["totalKey"].as_u64() > own["totalKey"].as_u64(), "3.5.1 counts every row of every bucket");
            assert_eq!(status(&etcdctl_34, file)["hash"], own["hash"]);
        }
        let scratch = Scratch::new();
        let specs = specs(&scratch, 1);
        restore(&etcdutl, &files[0], &specs, &[]);
        let mut theirs = start(&etcd, specs, scratch).await;
        // etcd looks for leases up to the greatest id and not at it (`server/lease/lessor.go`, 3.5.1); the row is in the file all the same.
        let mut seen = before.clone();
        seen.leases.retain(|(id, _)| *id != i64::MAX);
        assert_eq!(content(&theirs.client, 0).await, seen);
        let their_ids = theirs.ready(0).await.header.expect("a header");
        theirs.kill(0);
        // The same member, restored by us, is the same member: ids and all.
        let scratch = Scratch::new();
        let mut spec = theirs.spec(0).clone();
        spec.data_dir = scratch.path().join("again.etcd");
        restore(Path::new(ETCDUTL), &files[1], std::slice::from_ref(&spec), &[]);
        let mut again = start(&etcd_bin(), vec![spec], scratch).await;
        assert_eq!(content(&again.client, 0).await, before);
        let our_ids = again.ready(0).await.header.expect("a header");
        assert_eq!((our_ids.cluster_id, our_ids.member_id), (their_ids.cluster_id, their_ids.member_id));
    });
}

#[test]
fn one_member_and_three_of_ours_serve_what_etcd_351_saved() {
    let test = "etcd 3.5.1's snapshot with ours";
    let Some(etcd) = foreign::etcd_351(test) else { return };
    let Some((etcdctl, etcdutl)) = foreign::beside_351(test, "etcdctl").zip(foreign::beside_351(test, "etcdutl"))
    else {
        return;
    };
    turn(Duration::from_secs(180), async {
        let (theirs, before) = lived_in(&etcd).await;
        let file = theirs.dir().join("351.db");
        save(&etcdctl, &theirs, &file);
        save(Path::new(ETCDCTL), &theirs, &theirs.dir().join("ours.db"));
        let (own, other) = (status(Path::new(ETCDUTL), &file), status(&etcdutl, &file));
        for field in ["hash", "revision", "totalSize"] {
            assert_eq!(own[field], other[field], "{field}: {own} and {other}");
        }
        for members in [1, 3] {
            let scratch = Scratch::new();
            let specs = specs(&scratch, members);
            restore(Path::new(ETCDUTL), &file, &specs, &[]);
            assert_etcd_opens_the_log(&etcdutl, &specs[0], scratch.path());
            let mut ours = start(&etcd_bin(), specs, scratch).await;
            for member in 0..members {
                assert_eq!(content(&ours.client, member).await, before, "member {member} of {members}");
            }
            // It goes on from there, and a restart finds all of it again.
            ours.client.put(0, "after", "the restore").await.expect("a put");
            ours.kill_all();
            for member in 0..members {
                ours.launch(member);
            }
            for member in 0..members {
                ours.ready(member).await;
            }
            assert_eq!(ours.client.get(0, "after").await.expect("a get").as_deref(), Some("the restore"));
            ours.assert_equal_hashes().await;
            assert_eq!(content(&ours.client, 0).await.revision, before.revision + 1);
        }
        // A database from a data directory has no checksum.
        let db = theirs.spec(0).data_dir.join("member/snap/db");
        let scratch = Scratch::new();
        let specs = specs(&scratch, 1);
        restore(Path::new(ETCDUTL), &db, &specs, &["--skip-hash-check"]);
        let ours = start(&etcd_bin(), specs, scratch).await;
        assert!(content(&ours.client, 0).await.revision > 1);
    });
}

#[test]
fn a_snapshot_that_is_saved_while_writers_write_is_one_moment() {
    turn(Duration::from_secs(120), async {
        let (ours, _) = lived_in(&etcd_bin()).await;
        let client = ours.client.clone();
        let writer = tokio::spawn(async move {
            for n in 0_u64.. {
                let [a, b] = ["pair/a", "pair/b"].map(|key| {
                    let put = pb::PutRequest { key: key.into(), value: n.to_string().into(), ..Default::default() };
                    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
                });
                let both = pb::TxnRequest { success: vec![a, b], ..Default::default() };
                client.kv(0).txn(both).await.expect("a write is not held up");
            }
        });
        let file = ours.dir().join("s.db");
        let mut saved = 0;
        for _ in 0..5 {
            until(READY_WITHIN, "a write since", async || match ours.client.revision().await {
                Ok(revision) if revision > saved => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
            let (endpoint, to) = (ours.spec(0).client_url.clone(), file.display().to_string());
            let job = tokio::task::spawn_blocking(move || {
                told(Path::new(ETCDCTL), &["--endpoints", &endpoint, "snapshot", "save", &to])
            });
            job.await.expect("saved");
            let revision = status(Path::new(ETCDUTL), &file)["revision"].as_i64().expect("a number");
            assert!(revision > saved, "what was written before it is in it");
            saved = revision;
        }
        let hash = ours.client.hash_kv(0, saved).await.expect("a hash").hash;
        writer.abort();
        let scratch = Scratch::new();
        let specs = specs(&scratch, 1);
        restore(Path::new(ETCDUTL), &file, &specs, &[]);
        let restored = start(&etcd_bin(), specs, scratch).await;
        let found = content(&restored.client, 0).await;
        assert_eq!((found.revision, found.hash), (saved, hash));
        let [a, b] = ["pair/a", "pair/b"].map(|key| restored.client.get(0, key));
        assert_eq!(a.await.expect("a get"), b.await.expect("a get"), "a transaction is whole or not there");
    });
}

#[test]
fn a_restored_member_that_lost_its_store_says_so_and_does_not_start_empty() {
    turn(Duration::from_secs(60), async {
        let ours = Cluster::start(1).await;
        ours.client.put(0, "k", "v").await.expect("a put");
        let file = ours.dir().join("s.db");
        save(Path::new(ETCDCTL), &ours, &file);
        let scratch = Scratch::new();
        let specs = specs(&scratch, 1);
        restore(Path::new(ETCDUTL), &file, &specs, &["--bump-revision", "1000", "--mark-compacted"]);
        let mut restored = start(&etcd_bin(), specs, scratch).await;
        let found = content(&restored.client, 0).await;
        assert_eq!((found.revision, found.compacted), (1002, 1002));
        assert_eq!(restored.client.get(0, "k").await.expect("a get").as_deref(), Some("v"));
        restored.kill(0);
        let spec = restored.spec(0).clone();
        std::fs::remove_dir_all(spec.data_dir.join("member/store")).expect("removed");
        let log = restored.dir().join("lost.log");
        let mut process = Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &log);
        assert_eq!(process.ended(ENDS_WITHIN).await.code(), Some(1));
        assert!(process.log().contains("restore this member from a snapshot"), "{}", process.log());
    });
}

#[test]
fn a_new_member_gets_from_a_restored_one_what_is_in_no_log() {
    turn(Duration::from_secs(120), async {
        let (ours, before) = lived_in(&etcd_bin()).await;
        let file = ours.dir().join("s.db");
        save(Path::new(ETCDCTL), &ours, &file);
        let scratch = Scratch::new();
        let specs = specs(&scratch, 1);
        restore(Path::new(ETCDUTL), &file, &specs, &[]);
        let mut restored = start(&etcd_bin(), specs, scratch).await;
        restored.client.put(0, "after", "the restore").await.expect("a put");
        for name in ["r1", "r2"] {
            let (member, _) = restored.join(0, name, false).await;
            restored.assert_equal_hashes().await;
            let there = content(&restored.client, member).await;
            assert_eq!(there.leases, before.leases);
            assert_eq!((there.revision, there.keys.len()), (before.revision + 1, before.keys.len() + 1));
        }
    });
}
