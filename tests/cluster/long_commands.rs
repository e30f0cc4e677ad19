//! etcdctl's commands that run for long, each through a leader's death in the middle: lock, elect, make-mirror, check.

use crate::client::put;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::proto::mvccpb::KeyValue;
use rustix::process::Pid;
use rustix::process::Signal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tonic::Status;

const LIMIT: Duration = Duration::from_secs(240);

/// Our etcdctl at work on a cluster.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(cluster: &Cluster, folder: &Path, words: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(folder);
        command.arg("--endpoints").arg(cluster.endpoints()).args(words).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("our own program");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, out }
    }

    /// Its next line.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(READY_WITHIN, self.out.read_line(&mut line)).await;
        read.unwrap_or_else(|_| panic!("no line")).expect("text");
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32)).expect("it runs");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end: the exit code, and what it wrote since the last line.
    async fn end(mut self) -> (i32, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let mut stderr = self.child.stderr.take().expect("a pipe");
        let read = async { tokio::join!(self.out.read_to_string(&mut out), stderr.read_to_string(&mut err)) };
        drop(tokio::time::timeout(LIMIT, read).await.expect("it ends"));
        let status = self.child.wait().await.expect("it ended");
        (shell_code(status), out, err)
    }
}

/// Kills the leader, and waits until the others have another one. The killed one does not come back.
async fn kill_leader(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.leader().await;
}

/// Waits until so many keys are below the prefix.
async fn queued(cluster: &Cluster, prefix: &str, count: usize) -> Vec<KeyValue> {
    until(READY_WITHIN, &format!("{count} keys below {prefix}"), async || {
        let keys = cluster.client.prefix(prefix).await?;
        if keys.len() == count { Ok(keys) } else { Err(Status::not_found(format!("{keys:?}"))) }
    })
    .await
}

#[test]
fn a_lock_with_a_child_outlives_the_leader_and_keeps_the_next_one_out() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let folder = cluster.dir().to_owned();
        let script = "echo held; while [ ! -e release ]; do sleep 0.05; done; echo released; exit 7";
        let mut first = Running::start(&cluster, &folder, &["lock", "l", "--", "sh", "-c", script]);
        assert_eq!(first.line().await, "held");
        let mut second = Running::start(&cluster, &folder, &["lock", "l", "echo", "second"]);
        let keys = queued(&cluster, "l/", 2).await;
        kill_leader(&mut cluster).await;
        assert_eq!(queued(&cluster, "l/", 2).await.len(), keys.len(), "both are still in the queue");
        assert!(second.child.try_wait().expect("our own").is_none(), "the second waits as long as the first holds");
        std::fs::write(folder.join("release"), "").expect("a file");
        let (code, out, err) = first.end().await;
        assert_eq!((code, out.as_str()), (7, "released\n"), "{err}");
        assert!(err.ends_with("Error: exit status 7\n"), "{err}");
        assert_eq!(second.line().await, "second");
        let (code, _, err) = second.end().await;
        assert_eq!((code, err.as_str()), (0, ""));
        queued(&cluster, "l/", 0).await;
    });
}

#[test]
fn a_lock_that_waits_can_be_given_up() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let folder = cluster.dir().to_owned();
        let mut first = Running::start(&cluster, &folder, &["lock", "l"]);
        assert!(first.line().await.starts_with("l/"));
        let second = Running::start(&cluster, &folder, &["lock", "l"]);
        queued(&cluster, "l/", 2).await;
        second.signal(Signal::INT);
        let (code, out, err) = second.end().await;
        assert_eq!((code, out.as_str(), err.as_str()), (1, "", "Error: context canceled\n"));
        queued(&cluster, "l/", 1).await;
        first.signal(Signal::TERM);
        assert_eq!(first.end().await.0, 0);
        queued(&cluster, "l/", 0).await;
    });
}

#[test]
fn an_election_outlives_the_leader_of_the_cluster() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let folder = cluster.dir().to_owned();
        let mut first = Running::start(&cluster, &folder, &["elect", "e", "one"]);
        let key = first.line().await;
        assert!(key.starts_with("e/"), "{key}");
        assert_eq!(first.line().await, "one");
        let mut observer = Running::start(&cluster, &folder, &["elect", "-l", "e"]);
        assert_eq!((observer.line().await, observer.line().await.as_str()), (key, "one"));
        let mut second = Running::start(&cluster, &folder, &["elect", "e", "two"]);
        queued(&cluster, "e/", 2).await;
        kill_leader(&mut cluster).await;
        first.signal(Signal::INT);
        let (code, out, err) = first.end().await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
        let key = second.line().await;
        assert_eq!(second.line().await, "two");
        assert_eq!((observer.line().await, observer.line().await.as_str()), (key, "two"), "told once, in order");
        observer.signal(Signal::INT);
        assert_eq!(observer.end().await.0, 0);
        second.signal(Signal::INT);
        assert_eq!(second.end().await.0, 0);
    });
}

/// Puts and deletes keys below `m/` through whichever member answers.
async fn write(cluster: &Cluster, from: usize, count: usize) {
    for number in from..from + count {
        let request = put(&format!("m/{}", number % 40), &format!("value {number}"));
        until(READY_WITHIN, "a write", async || {
            let mut last = Err(Status::unavailable("no member"));
            for member in 0..cluster.len() {
                last = cluster.client.kv(member).put(request.clone()).await.map(drop);
                if last.is_ok() {
                    break;
                }
            }
            last
        })
        .await;
    }
}

#[test]
fn a_mirror_outlives_the_leaders_of_both_clusters() {
    turn(LIMIT, async {
        let (mut from, mut to) = (Cluster::start(3).await, Cluster::start(3).await);
        let folder = from.dir().to_owned();
        write(&from, 0, 30).await;
        let destination = to.endpoints();
        let words =
            ["make-mirror", "--prefix", "m/", "--dest-prefix", "n/", "--max-txn-ops", "2", destination.as_str()];
        let mut mirror = Running::start(&from, &folder, &words);
        let mirrored = async |from: &Cluster, to: &Cluster| {
            until(READY_WITHIN, "the same keys on both sides", async || {
                let (here, there) = (from.client.prefix("m/").await?, to.client.prefix("n/").await?);
                let pairs = |keys: &[KeyValue]| -> Vec<(Vec<u8>, Vec<u8>)> {
                    keys.iter().map(|kv| (kv.key[2..].to_vec(), kv.value.to_vec())).collect()
                };
                let same = pairs(&here) == pairs(&there) && !here.is_empty();
                if same {
                    Ok(here.len())
                } else {
                    Err(Status::not_found(format!("{} and {}", here.len(), there.len())))
                }
            })
            .await
        };
        assert_eq!(mirrored(&from, &to).await, 30);
        kill_leader(&mut from).await;
        write(&from, 30, 30).await;
        assert_eq!(mirrored(&from, &to).await, 40);
        kill_leader(&mut to).await;
        write(&from, 60, 30).await;
        assert_eq!(mirrored(&from, &to).await, 40);
        assert!(mirror.child.try_wait().expect("our own").is_none(), "it goes on");
        mirror.signal(Signal::TERM);
        let (code, out, _) = mirror.end().await;
        assert_eq!((code, out.as_str()), (143, ""), "it says nothing before half a minute is over");
    });
}

#[test]
fn check_perf_comes_to_a_verdict_though_the_leader_dies() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let folder = cluster.dir().to_owned();
        let check = Running::start(&cluster, &folder, &["check", "perf", "--duration=8", "--auto-compact"]);
        until(READY_WITHIN, "the first keys", async || {
            let keys = cluster.client.prefix("/etcdctl-check-perf/").await?;
            if keys.is_empty() { Err(Status::not_found("none")) } else { Ok(()) }
        })
        .await;
        kill_leader(&mut cluster).await;
        let (code, out, err) = check.end().await;
        let lines: Vec<&str> = out.lines().collect();
        let verdict = *lines.last().expect("a verdict");
        assert!(verdict == "PASS" && code == 0 || verdict == "FAIL" && code == 1, "{code}: {out}\n{err}");
        assert!(lines[0].starts_with("Compacting with revision "), "{out}");
        assert!(out.contains("hroughput") && out.contains("Slowest request") && out.contains("Stddev"), "{out}");
        queued(&cluster, "/etcdctl-check-perf/", 0).await;
    });
}

#[test]
fn check_datascale_measures_and_clears_what_it_wrote() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let folder = cluster.dir().to_owned();
        let check = Running::start(&cluster, &folder, &["check", "datascale", "--auto-compact", "--auto-defrag"]);
        let (code, out, err) = check.end().await;
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(code, 0, "{out}{err}");
        let start = "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, 50 concurrent clients].";
        assert_eq!(lines[0], start);
        assert!(
            lines[1].starts_with("Compacting with revision 1000") && lines[4].starts_with("Defragmented "),
            "{out}"
        );
        assert!(lines[5].starts_with("PASS: Approximate system memory used : "), "{out}");
        queued(&cluster, "/etcdctl-check-datascale/", 0).await;
    });
}
