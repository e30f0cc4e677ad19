//! `ETCDCTL_API=2` where recordings do not reach: two worlds, times to live, many at once, a backup.

use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::is_ours;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use futures::future::join_all;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(180);

/// Exit code and both outputs of a line of the old dialect.
async fn v2(cluster: &Cluster, line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
    command.env_clear().env("ETCDCTL_API", "2").env("ETCDCTL_ENDPOINTS", cluster.endpoints());
    command.args(line.split(' ')).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("our own program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (shell_code(output.status), text(output.stdout), text(output.stderr))
}

#[test]
fn keys_of_one_world_are_not_seen_in_the_other() {
    turn(LIMIT, async {
        let cluster = Cluster::start(3).await;
        let (code, out, err) = v2(&cluster, "set a/b old").await;
        assert_eq!((code, out.as_str()), (0, "old\n"));
        assert_eq!(err.lines().count(), 1, "one line: {err}");
        assert!(err.ends_with("In v3: etcdctl put KEY VALUE\n"), "{err}");
        cluster.client.put(0, "/a/c", "new").await.expect("a put");
        assert_eq!(cluster.client.get(0, "/a/b").await.expect("an answer"), None);
        assert_eq!(cluster.client.prefix("a").await.expect("an answer").len(), 0);
        assert_eq!(v2(&cluster, "ls -r -p").await.1, "/a/\n/a/b\n");
        assert!(v2(&cluster, "get a/c").await.2.contains("Error:  100: Key not found (/a/c)"));
        let own = cluster.client.prefix("/etcdctl-v2/").await.expect("an answer");
        let keys: Vec<String> = own.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        assert_eq!(keys, ["/etcdctl-v2/action", "/etcdctl-v2/keys/a/", "/etcdctl-v2/keys/a/b"]);
    });
}

#[test]
fn what_has_a_time_to_live_goes_with_all_below_it() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        assert_eq!(v2(&cluster, "mkdir d").await.0, 0);
        assert_eq!(v2(&cluster, "updatedir --ttl 3 d").await, v2(&cluster, "updatedir --ttl 3 d").await);
        assert_eq!(v2(&cluster, "set d/a 1").await.0, 0);
        assert_eq!(v2(&cluster, "set d/e/f 1").await.0, 0);
        let (_, out, _) = v2(&cluster, "-o json get d/a").await;
        assert!(out.contains("\"ttl\":"), "it hangs on the directory's: {out}");
        // The set of d/e/f is the last change before, so this waits for the next: the end of all.
        let mut watch = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
        watch.env_clear().env("ETCDCTL_API", "2").env("ETCDCTL_ENDPOINTS", cluster.endpoints());
        watch.args(["exec-watch", "--after-index", "7", "-r", "/", "--", "true"]).stdin(Stdio::null());
        let mut watch = watch.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("our own program");
        let mut lines =
            tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(watch.stderr.take().expect("a pipe")));
        let told = tokio::time::timeout(READY_WITHIN, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "Ignored dir /d change" {
                    return true;
                }
            }
            false
        });
        assert!(told.await.expect("in time"), "the directory's end is one change");
        watch.kill().await.expect("it waits for the next change");
        until(READY_WITHIN, "all is gone", async || match v2(&cluster, "ls").await.1.as_str() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        })
        .await;
        assert!(v2(&cluster, "get d/a").await.2.contains("100: Key not found (/d)"));
    });
}

#[test]
fn many_at_once_get_names_of_their_own_and_lose_nothing() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let made = join_all((0..12).map(|_| v2(&cluster, "mk --in-order q x"))).await;
        assert!(made.iter().all(|(code, ..)| *code == 0), "{made:?}");
        let (_, out, _) = v2(&cluster, "ls q").await;
        let mut names: Vec<&str> = out.lines().collect();
        assert!(names.is_sorted(), "{out}");
        names.dedup();
        assert_eq!(names.len(), 12, "{out}");
        assert_eq!(v2(&cluster, "set n 0").await.0, 0);
        let count = async || {
            loop {
                let (_, before, _) = v2(&cluster, "get n").await;
                let before: u32 = before.trim().parse().expect("a number");
                let (code, ..) = v2(&cluster, &format!("set --swap-with-value {before} n {}", before + 1)).await;
                if code == 0 {
                    return;
                }
            }
        };
        join_all((0..6).map(|_| count())).await;
        assert_eq!(v2(&cluster, "get n").await.1, "6\n");
    });
}

#[test]
fn a_backup_of_the_old_dialect_is_etcdutls() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(1).await;
        assert_eq!(v2(&cluster, "set k v").await.0, 0);
        let id = async |cluster: &Cluster| cluster.client.status(0).await.expect("a status").header.expect("a header");
        let before = id(&cluster).await;
        cluster.terminate(0).await;
        let (from, to) = (cluster.spec(0).data_dir.display().to_string(), cluster.dir().join("copy"));
        let (code, _, err) = v2(&cluster, &format!("backup --data-dir {from} --backup-dir {}", to.display())).await;
        assert_eq!(code, 0, "{err}");
        let (code, _, err) = v2(&cluster, "backup").await;
        assert!(code != 0 && err.contains("Error"), "{err}");
        if !is_ours() {
            return;
        }
        cluster.spec_mut(0).data_dir = to;
        cluster.spec_mut(0).more = vec!["--force-new-cluster".to_owned()];
        cluster.restart(0).await;
        assert_eq!(v2(&cluster, "get k").await.1, "v\n");
        let after = id(&cluster).await;
        assert!(after.cluster_id != before.cluster_id && after.member_id != before.member_id, "{after:?} {before:?}");
    });
}
