//! etcdutl on the data directory of a member that does not run: defrag and backup, of ours and of etcd's.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

/// Exit code and complaints of our etcdutl.
fn etcdutl(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_etcdutl")).args(words).output().expect("our own program");
    assert!(output.stdout.is_empty(), "{words:?} has nothing to say on stdout");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Writes each of some keys often, and deletes most of them: plenty that is no longer used.
async fn wear(cluster: &Cluster) {
    for round in 0..30 {
        for key in 0..20 {
            cluster.client.put(0, &format!("k{key}"), &format!("{round} {}", "x".repeat(500))).await.expect("a put");
        }
    }
}

/// A single member of `program` is defragmented while it is down, and has all that it had when it is up again.
async fn defragmented(program: &Path) {
    let mut cluster = Cluster::start_with(program, 1, &[]).await;
    wear(&cluster).await;
    let revision = cluster.client.revision().await.expect("a revision");
    let hash = cluster.client.hash_kv(0, revision).await.expect("a hash").hash;
    let dir = text(&cluster.spec(0).data_dir);
    let (code, err) = etcdutl(&["defrag", "--data-dir", &dir]);
    assert_eq!(code, Some(1), "a member runs there: {err}");
    assert!(err.contains(&format!("Error: Failed to defragment etcd data[{dir}]")), "{err}");
    cluster.terminate(0).await;
    let (code, err) = etcdutl(&["defrag", "--data-dir", &dir]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("\tinfo\tdefragmenting\t") && err.contains("\tfinished defragmenting directory\t"), "{err}");
    cluster.restart(0).await;
    assert_eq!(cluster.client.revision().await.expect("a revision"), revision);
    assert_eq!(cluster.client.hash_kv(0, revision).await.expect("a hash").hash, hash);
    let last = cluster.client.get(0, "k19").await.expect("an answer").expect("it is there");
    assert!(last.starts_with("29 "), "{last}");
}

#[test]
fn a_member_that_is_down_is_defragmented_by_etcdutl() {
    turn(LIMIT, async { defragmented(&etcd_bin()).await });
}

#[test]
fn a_member_of_etcd_351_that_is_down_is_defragmented_by_our_etcdutl() {
    let Some(etcd) = foreign::etcd_351("a_member_of_etcd_351_that_is_down_is_defragmented_by_our_etcdutl") else {
        return;
    };
    turn(LIMIT, async { defragmented(&etcd).await });
}

#[test]
fn a_folder_that_is_none_is_not_defragmented() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = text(&dir.path().join("none"));
    let (code, err) = etcdutl(&["defrag", "--data-dir", &path]);
    let why = format!(
        "Error: Failed to defragment etcd data[{path}] (stat {path}/member/snap/db: no such file or directory)\n"
    );
    assert!(code == Some(1) && err.ends_with(&why), "{err}");
    assert!(!dir.path().join("none").exists(), "and nothing is made there");
}

/// Names and peer URLs of the members that `member` knows, and the ids of itself and of its cluster.
async fn identity(cluster: &Cluster, member: usize) -> (Vec<(String, Vec<String>)>, u64, u64) {
    let told = cluster.client.members(member, true).await.expect("a list");
    let header = told.header.expect("a header");
    let members = told.members.into_iter().map(|member| (member.name, member.peer_ur_ls)).collect();
    (members, header.member_id, header.cluster_id)
}

#[test]
fn a_backup_becomes_a_cluster_of_its_own() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        // Released logs: the copy's begins at a mark.
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &["--snapshot-count=20"]).await;
        for number in 0..100 {
            cluster.client.put(0, &format!("k{number}"), "v").await.expect("a put");
        }
        let revision = cluster.client.revision().await.expect("a revision");
        let hash = cluster.client.hash_kv(0, revision).await.expect("a hash").hash;
        let (_, member_id, cluster_id) = identity(&cluster, 0).await;
        let (dir, copy) = (text(&cluster.spec(0).data_dir), text(&cluster.dir().join("copy")));
        let words = ["backup", "--data-dir", dir.as_str(), "--backup-dir", copy.as_str()];
        let (code, err) = etcdutl(&words);
        assert!(code == Some(1) && err.contains("is locked: stop the member first"), "{err}");
        // What its store does not have yet is in its log.
        cluster.kill(0);
        let (code, err) = etcdutl(&words);
        assert!(code == Some(0) && err.contains("--force-new-cluster"), "{err}");
        let (code, err) = etcdutl(&words);
        assert!(code == Some(1) && err.ends_with(&format!("Error: backup-dir \"{copy}\" exists\n")), "{err}");
        cluster.spec_mut(0).data_dir = copy.into();
        cluster.spec_mut(0).more = vec!["--force-new-cluster".to_owned()];
        cluster.restart(0).await;
        let alone = until(READY_WITHIN, "it has a name", async || {
            let told = identity(&cluster, 0).await;
            if told.0.iter().any(|(name, _)| name.is_empty()) { Err("none") } else { Ok(told) }
        })
        .await;
        let (members, new_member, new_cluster) = &alone;
        // The others run on, in their own cluster: the copy knows nothing of them.
        assert_eq!(*members, [("m0".to_owned(), vec!["http://localhost:2380".to_owned()])]);
        assert!(
            *new_member != member_id && *new_cluster != cluster_id,
            "{alone:x?} was {member_id:x} of {cluster_id:x}"
        );
        assert_eq!(cluster.client.hash_kv(0, revision).await.expect("a hash").hash, hash);
        cluster.client.put(0, "k0", "new").await.expect("a put");
        let theirs = until(READY_WITHIN, "they have a leader", async || cluster.client.get(1, "k0").await).await;
        assert_eq!(theirs.as_deref(), Some("v"), "theirs is another");
        cluster.terminate(0).await;
        cluster.spec_mut(0).more.clear();
        cluster.restart(0).await;
        assert_eq!(identity(&cluster, 0).await, alone, "and it stays what it has become");
        assert_eq!(cluster.client.get(0, "k0").await.expect("an answer").as_deref(), Some("new"));
    });
}

/// What etcdutl says of a migration.
fn migrated(dir: &str, target: &str, more: &[&str]) -> (Option<i32>, String) {
    etcdutl(&[&["migrate", "--data-dir", dir, "--target-version", target], more].concat())
}

#[test]
fn a_directory_of_etcds_own_goes_to_the_form_of_36_and_back() {
    let Some(etcd) = foreign::etcd_351("a_directory_of_etcds_own_goes_to_the_form_of_36_and_back") else { return };
    turn(LIMIT, async {
        // A snapshot of raft's makes 3.5 write all that its form is known by.
        let mut cluster = Cluster::start_with(&etcd, 1, &["--snapshot-count=10"]).await;
        wear(&cluster).await;
        let revision = cluster.client.revision().await.expect("a revision");
        let hash = cluster.client.hash_kv(0, revision).await.expect("a hash").hash;
        let dir = text(&cluster.spec(0).data_dir);
        let (code, err) = migrated(&dir, "3.6", &[]);
        assert!(code == Some(1) && err.contains("is in use: stop the member first"), "{err}");
        cluster.terminate(0).await;
        let db = cluster.spec(0).data_dir.join("member/snap/db");
        let form = || {
            let output = Command::new(env!("CARGO_BIN_EXE_etcdutl"))
                .args(["snapshot", "status", "-w", "json"])
                .arg(&db)
                .output();
            let told: serde_json::Value =
                serde_json::from_slice(&output.expect("our own program").stdout).expect("JSON");
            told["version"].as_str().expect("a text").to_owned()
        };
        assert_eq!(form(), "");
        let (code, err) = migrated(&dir, "3.5", &[]);
        assert!(code == Some(0) && err.contains("storage version up-to-date"), "{err}");
        let (code, err) = migrated(&dir, "3.6", &[]);
        assert!(code == Some(0) && err.contains("upgraded storage version"), "{err}");
        assert_eq!(form(), "3.6.0");
        let (code, err) = migrated(&dir, "3.7", &[]);
        let why = "Error: cannot create migration plan: version \"3.7.0\" is not supported";
        assert!(code == Some(1) && err.contains(why), "{err}");
        let (code, err) = migrated(&dir, "3.5", &[]);
        assert!(code == Some(0) && err.contains("downgraded storage version"), "{err}");
        assert_eq!(form(), "");
        let (code, err) = migrated(&dir, "3.7", &["--force"]);
        assert!(code == Some(0) && err.contains("normal migrate failed, trying with force"), "{err}");
        assert_eq!(form(), "3.7.0");
        let (code, err) = migrated(&dir, "3.5", &["--force"]);
        assert!(code == Some(0), "{err}");
        cluster.restart(0).await;
        assert_eq!(cluster.client.revision().await.expect("a revision"), revision);
        assert_eq!(cluster.client.hash_kv(0, revision).await.expect("a hash").hash, hash);
    });
}
