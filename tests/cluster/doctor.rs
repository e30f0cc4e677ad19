//! The doctor's table, row by row: each fault is made for real, and the cause must be the one that is told, in front of whatever else is told.
//!
//! Errors come first, in etcdctl's own words; most of these faults have the same ones.

mod elections;
mod refusals;
mod starts;
mod wires;

use crate::catchup::set_apart;
use crate::chaos;
use crate::failpoints;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use crate::lab_clock::Doors;
use etcd_lab::doctor::Cause;
use etcd_lab::failpoint::Point;
use etcd_lab::proto::etcdserverpb as pb;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(240);
/// What etcdctl says of most things that went wrong.
const LATE: &str = "Error: context deadline exceeded\n";

/// What a program came to.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

async fn run(program: &str, words: &[&str], folder: &Path) -> Told {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(folder);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("our own program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Told { code: shell_code(output.status), out: text(output.stdout), err: text(output.stderr) }
}

/// `etcdctl --explain` on these endpoints: its complaints without lines of its log.
async fn explain(endpoints: &str, words: &[&str]) -> Told {
    let first = ["--explain", "--command-timeout=1s", "--dial-timeout=1s", "--endpoints", endpoints];
    let mut told = run(env!("CARGO_BIN_EXE_etcdctl"), &[&first, words].concat(), Path::new("/")).await;
    told.err = told.err.split_inclusive('\n').filter(|line| !line.starts_with('{')).collect();
    told
}

async fn doctor(words: &[&str], folder: &Path) -> Told {
    run(env!("CARGO_BIN_EXE_etcd-lab"), &[&["doctor"], words].concat(), folder).await
}

/// The first thing told is this cause, with all of `parts` in its sentence or its evidence.
#[track_caller]
fn assert_first(text: &str, cause: Cause, parts: &[&str]) {
    let findings: Vec<&str> = text.split("Why: ").skip(1).collect();
    let first = findings.first().unwrap_or_else(|| panic!("nothing is told of {cause:?}: {text}"));
    assert!(first.contains(&format!("look at: {}\n", cause.look_at())), "not {cause:?}: {text}");
    parts.iter().for_each(|part| assert!(first.contains(part), "{cause:?} without {part:?}: {text}"));
}

/// etcdctl's own error first, then the cause.
#[track_caller]
fn assert_explained(told: &Told, error: &str, cause: Cause, parts: &[&str]) {
    assert!(told.err.starts_with(error), "{told:?}");
    assert_first(&told.err[error.len()..], cause, parts);
    assert_eq!(told.code, 1, "{told:?}");
}

#[test]
fn a_lost_majority_is_counted_and_the_missing_are_named() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let well = doctor(&["--endpoints", &cluster.endpoints()], cluster.dir()).await;
        assert_first(&well.out, Cause::AllWell, &[]);
        assert_eq!(well.code, 0);
        cluster.kill(1);
        cluster.kill(2);
        let told = explain(&cluster.spec(0).client_url, &["put", "k", "v"]).await;
        let parts = ["1 of 3 members are up, 2 are needed", "missing: m", "m1 (", "m2 (", "connection refused"];
        assert_explained(&told, LATE, Cause::NoQuorum, &parts);
        let told = explain(&cluster.spec(0).client_url, &["get", "k"]).await;
        assert_explained(&told, "Error: ", Cause::NoQuorum, &parts);
        // Dead endpoints are told of, too, behind the cause.
        let told = explain(&cluster.endpoints(), &["put", "k", "v"]).await;
        assert_explained(&told, LATE, Cause::NoQuorum, &parts);
        assert_eq!(told.err.matches("nobody listens on port").count(), 2, "{}", told.err);
        let plain = run(
            env!("CARGO_BIN_EXE_etcdctl"),
            &["--endpoints", &cluster.spec(0).client_url, "--command-timeout=1s", "put", "k", "v"],
            cluster.dir(),
        )
        .await;
        assert!(
            plain.err.ends_with(LATE) && !plain.err.contains("Why:"),
            "nothing is explained unasked: {}",
            plain.err
        );
    });
}

#[test]
fn members_that_do_not_reach_each_other_are_told_from_members_that_are_gone() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let (cluster, doors) = chaos::with_doors(3, &[]).await;
        for member in 0..3 {
            set_apart(&cluster, &doors, member, true).await;
        }
        until(READY_WITHIN, "nobody leads", async || {
            let status = cluster.client.status(0).await.map_err(|e| e.to_string())?;
            if status.leader == 0 { Ok(()) } else { Err("it knows a leader".to_owned()) }
        })
        .await;
        let told = explain(&cluster.endpoints(), &["put", "k", "v"]).await;
        assert_explained(&told, "Error: ", Cause::NoLeader, &["3 of 3 members are up", "they do not reach each other"]);
    });
}

#[test]
fn a_clock_that_the_lab_holds_is_told_from_a_cluster_that_is_broken() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let (cluster, doors) = chaos::with_doors(3, &[]).await;
        let mut doors = Doors::open(&doors).await;
        until(READY_WITHIN, "a first write", async || cluster.client.put(0, "k", "v").await).await;
        for (held, slower, part) in [(true, 1, "the lab holds the clock of"), (false, 1000, "1000 times slower")] {
            doors.clock(held, slower).await;
            let told = explain(&cluster.endpoints(), &["put", "k", "v"]).await;
            assert_explained(&told, LATE, Cause::SlowClock, &[part, "etcd_lab_clock_slower"]);
            let told = doctor(&["--fix", "--endpoints", &cluster.endpoints()], cluster.dir()).await;
            assert_first(&told.out, Cause::SlowClock, &[part, "helps: Let it go"]);
        }
        doors.clock(false, 1).await;
        until(READY_WITHIN, "it goes", async || cluster.client.put(0, "k", "v").await).await;
        let well = doctor(&["--endpoints", &cluster.endpoints()], cluster.dir()).await;
        assert_first(&well.out, Cause::AllWell, &[]);
    });
}

#[test]
fn a_disk_that_hangs_is_told_from_a_lost_majority() {
    if !failpoints::are_there() {
        return;
    }
    turn(LIMIT, async {
        let (cluster, _) = chaos::with_doors(1, &[]).await;
        let url = &cluster.spec(0).client_url;
        // The member leads, and the sync of what it is asked for next does not end in this test's time.
        failpoints::set(&cluster, 0, Point::WalBeforeSync, "sleep(600000)").await;
        let told = explain(url, &["put", "k", "v"]).await;
        let parts = ["1 of 1 members are up and there is a leader", "nothing is agreed upon"];
        assert_explained(&told, LATE, Cause::NoProgress, &parts);
    });
}

#[test]
fn what_users_may_do_is_told_apart() {
    turn(LIMIT, async {
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--bcrypt-cost=4"]).await;
        let url = &cluster.spec(0).client_url;
        let ctl = async |words: &[&str]| {
            let told =
                run(env!("CARGO_BIN_EXE_etcdctl"), &[&["--endpoints", url], words].concat(), cluster.dir()).await;
            assert_eq!(told.code, 0, "{words:?}: {told:?}");
        };
        for words in [
            "user add root:pw",
            "user grant-role root root",
            "user add ann:pw",
            "role add r",
            "user grant-role ann r",
            "auth enable",
        ] {
            ctl(&words.split(' ').collect::<Vec<_>>()).await;
        }
        let told = explain(url, &["put", "k", "v"]).await;
        assert_explained(&told, "Error: etcdserver: user name is empty\n", Cause::UserWanted, &[]);
        let told = explain(url, &["--user", "ann:wrong", "put", "k", "v"]).await;
        assert!(
            told.err.starts_with("Error: etcdserver: authentication failed, invalid user ID or password\n"),
            "{told:?}"
        );
        assert_first(&told.err, Cause::WrongPassword, &[]);
        let told = explain(url, &["--user", "ann:pw", "put", "k", "v"]).await;
        assert_explained(
            &told,
            "Error: etcdserver: permission denied\n",
            Cause::NotPermitted,
            &["ann has the roles r"],
        );
        let told = explain(url, &["--auth-jwt-token", "no.such.token", "put", "k", "v"]).await;
        assert_explained(&told, "Error: etcdserver: invalid auth token\n", Cause::TokenRefused, &[]);
    });
}

#[test]
fn a_cluster_that_looks_healthy_and_refuses_writes_has_its_reason() {
    turn(LIMIT, async {
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--quota-backend-bytes=200000"]).await;
        let url = &cluster.spec(0).client_url;
        let value = "v".repeat(20_000);
        for number in 0..30 {
            if cluster.client.put(0, &format!("k{number}"), &value).await.is_err() {
                break;
            }
        }
        let told = explain(url, &["put", "k", "v"]).await;
        let parts = ["reads go on", "database space exceeded", "has raised NOSPACE"];
        assert_explained(&told, "Error: etcdserver: mvcc: database space exceeded\n", Cause::NoSpace, &parts);
        let told = doctor(&["--fix", "--endpoints", url], cluster.dir()).await;
        assert_first(&told.out, Cause::NoSpace, &["has raised NOSPACE", "helps: compaction, then defrag"]);
        assert_eq!(told.code, 1);
    });
}

#[test]
fn a_request_that_is_too_large_is_told_from_a_full_database() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let file = cluster.dir().join("large");
        std::fs::write(&file, "v".repeat(1_700_000)).expect("a file");
        let (etcdctl, url) = (env!("CARGO_BIN_EXE_etcdctl"), &cluster.spec(0).client_url);
        let script = format!("{etcdctl} --explain --endpoints {url} put large < {}", file.display());
        let told = run("sh", &["-c", &script], cluster.dir()).await;
        assert_explained(&told, "Error: etcdserver: request is too large\n", Cause::TooLarge, &["--max-request-bytes"]);
    });
}

#[test]
fn a_refusal_that_says_its_reason_is_explained_and_not_denied() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let url = &cluster.spec(0).client_url;
        for value in ["1", "2", "3"] {
            cluster.client.put(0, "k", value).await.expect("a put");
        }
        let compaction = explain(url, &["compaction", "3"]).await;
        assert_eq!(compaction.code, 0, "{compaction:?}");
        let newest = "; the newest revision is 4";
        let refusals: [(&[&str], &str, Cause, &[&str]); 6] = [
            (&["put", "k", "v", "--lease=12"], "requested lease not found", Cause::LeaseGone, &["its time ran out"]),
            (&["get", "k", "--rev=2"], "mvcc: required revision has been compacted", Cause::Compacted, &[newest]),
            (
                &["get", "k", "--rev=99"],
                "mvcc: required revision is a future revision",
                Cause::FutureRevision,
                &[newest],
            ),
            (&["put", "", "v"], "key is not provided", Cause::WrongRequest, &["the key is empty"]),
            (&["member", "remove", "12"], "member not found", Cause::NoSuchMember, &["hexadecimal"]),
            (&["role", "delete", "nosuch"], "role name not found", Cause::NotThere, &["no role of this name"]),
        ];
        for (words, error, cause, parts) in refusals {
            let told = explain(url, words).await;
            assert_explained(&told, &format!("Error: etcdserver: {error}\n"), cause, parts);
        }
        // What does not fit a command is nothing that a member could explain.
        let told = explain(url, &["get"]).await;
        assert!(told.code == 128 && !told.err.contains("Why: "), "{told:?}");
    });
}

#[test]
fn a_corrupt_member_is_named() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let member_id = cluster.client.status(0).await.expect("a status").header.expect("a header").member_id;
        let raise = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id,
            alarm: pb::AlarmType::Corrupt.into(),
        };
        cluster.client.maintenance(0).alarm(raise).await.expect("raised");
        let told = doctor(&["--endpoints", &cluster.spec(0).client_url], cluster.dir()).await;
        assert_first(&told.out, Cause::Corrupt, &[&format!("member {member_id:x} has raised CORRUPT")]);
    });
}

#[test]
fn a_command_is_run_again_with_eyes_open() {
    turn(LIMIT, async {
        let scratch = Scratch::new();
        let told = doctor(
            &["--", "etcdctl", "--endpoints=http://127.0.0.1", "--command-timeout=300ms", "member", "list"],
            scratch.path(),
        )
        .await;
        assert_first(&told.err, Cause::Unreadable, &["no port is given"]);
        assert_eq!(told.code, 1);
        let told = doctor(&["--", "ls"], scratch.path()).await;
        assert!(told.code == 2 && told.err.contains("the doctor knows etcdctl"), "{told:?}");
    });
}
