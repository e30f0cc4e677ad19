//! etcdutl on the data directory of a member that does not run: defrag and backup, of ours and of etcd's.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
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

#[test]
fn a_backup_becomes_a_cluster_of_its_own() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let mut cluster = Cluster::start(1).await;
        cluster.client.put(0, "k", "v").await.expect("a put");
        let (dir, copy) = (text(&cluster.spec(0).data_dir), text(&cluster.dir().join("copy")));
        let words = ["backup", "--data-dir", dir.as_str(), "--backup-dir", copy.as_str()];
        let (code, err) = etcdutl(&words);
        assert!(code == Some(1) && err.contains("is locked: stop the member first"), "{err}");
        cluster.terminate(0).await;
        let (code, err) = etcdutl(&words);
        assert!(code == Some(0) && err.contains("--force-new-cluster"), "{err}");
        let (code, err) = etcdutl(&words);
        assert!(code == Some(1) && err.ends_with(&format!("Error: backup-dir \"{copy}\" exists\n")), "{err}");
        cluster.spec_mut(0).data_dir = copy.into();
        cluster.spec_mut(0).more = vec!["--force-new-cluster".to_owned()];
        cluster.restart(0).await;
        assert_eq!(cluster.client.get(0, "k").await.expect("an answer").as_deref(), Some("v"));
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
