//! What a member refuses and says why: the cause is its own row of the doctor's table, and never a guess from the outside.

use super::LIMIT;
use super::Told;
use super::assert_explained;
use super::assert_first;
use super::run;
use crate::harness::Cluster;
use crate::harness::turn;
use etcd_lab::doctor::Cause;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

/// Causes that no test makes, and why.
const NOT_MADE: &[(Cause, &str)] = &[
    (
        Cause::AuthOff,
        "etcdctl goes on without a password then, as etcd's does; other clients do not; its text has a unit test",
    ),
    (Cause::StolenCpu, "only a host that runs too many machines steals"),
    (Cause::Overloaded, "5,000 requests would have to wait at the moment of asking; its text has a unit test"),
    (Cause::OtherRelease, "every release that is still served knows all that etcdctl asks; its text has a unit test"),
];

/// `etcdctl --explain`, with time for passwords and for joining.
async fn explain(endpoint: &str, words: &[&str]) -> Told {
    let first = ["--explain", "--command-timeout=20s", "--endpoints", endpoint];
    let mut told = run(env!("CARGO_BIN_EXE_etcdctl"), &[&first, words].concat(), Path::new("/")).await;
    told.err = told.err.split_inclusive('\n').filter(|line| !line.starts_with('{')).collect();
    told
}

async fn refused(endpoint: &str, words: &[&str], error: &str, cause: Cause) {
    assert_explained(&explain(endpoint, words).await, &format!("Error: etcdserver: {error}\n"), cause, &[]);
}

async fn done(endpoint: &str, words: &[&str]) {
    let told = explain(endpoint, words).await;
    assert_eq!(told.code, 0, "{words:?}: {told:?}");
}

#[test]
fn what_is_there_already_or_is_off_is_told() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let url = &cluster.spec(0).client_url;
        refused(url, &["auth", "enable"], "root user does not exist", Cause::RootWanted).await;
        done(url, &["user", "add", "root:secret"]).await;
        refused(url, &["user", "add", "root:secret"], "user name already exists", Cause::Exists).await;
        done(url, &["role", "add", "r"]).await;
        refused(url, &["role", "add", "r"], "role name already exists", Cause::Exists).await;
        refused(url, &["downgrade", "cancel"], "no inflight downgrade job", Cause::Downgrading).await;
        done(url, &["downgrade", "enable", "3.5"]).await;
        refused(url, &["downgrade", "enable", "3.5"], "cluster has a downgrade job in progress", Cause::Downgrading)
            .await;
    });
}

#[test]
fn who_votes_who_learns_and_who_leads_is_told() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(1).await;
        let first = cluster.spec(0).client_url.clone();
        let voter = format!("{:x}", cluster.id(0).await);
        refused(&first, &["member", "promote", &voter], "can only promote a learner member", Cause::Learning).await;
        let (learner, _) = cluster.join(0, "learner", true).await;
        let at_learner = cluster.spec(learner).client_url.clone();
        refused(&at_learner, &["put", "k", "v"], "rpc not supported for learner", Cause::Learning).await;
        let (second, id) = cluster.join(0, "second", false).await;
        let leader = cluster.leader().await;
        let follower = cluster.spec(if leader == second { 0 } else { second }).client_url.clone();
        let told = explain(&follower, &["move-leader", &format!("{id:x}")]).await;
        let (error, why) = told.err.split_once('\n').expect("two parts");
        assert!(told.code == 128 && error.starts_with("Error: no leader endpoint given at"), "{told:?}");
        assert_first(why, Cause::NotLeader, &["none of these endpoints leads"]);
        // Of two voters one will not have started once a third is announced; a fourth would make two.
        cluster.announce(0, "third", false).await;
        let add = ["member", "add", "fourth", "--peer-urls=http://127.0.0.1:1"];
        let short = "re-configuration failed due to not enough started members";
        refused(&first, &add, short, Cause::TooFewStarted).await;
    });
}

#[test]
fn a_handshake_that_fails_for_a_reason_of_its_own_is_told() {
    turn(LIMIT, async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut hello = [0; 512];
                if stream.read(&mut hello).is_ok() {
                    // The alert `protocol_version` (RFC 8446 section 6), as from a member that wants a version that the client lacks.
                    drop(stream.write_all(&[0x15, 3, 3, 0, 2, 2, 70]));
                }
            }
        });
        let words =
            ["--explain", "--command-timeout=1s", "--dial-timeout=1s", "--insecure-skip-tls-verify", "--endpoints"];
        let url = format!("https://{address}");
        let told =
            run(env!("CARGO_BIN_EXE_etcdctl"), &[&words[..], &[&url, "get", "k"]].concat(), Path::new("/")).await;
        assert!(told.err.contains("no TLS version in common"), "{told:?}");
        assert!(told.err.contains(Cause::TlsBroken.look_at()), "{told:?}");
    });
}

#[test]
fn every_cause_is_made_by_a_test_or_has_a_reason_not_to_be() {
    assert!(NOT_MADE.iter().all(|(_, why)| !why.is_empty()));
    let tests = [
        include_str!("../doctor.rs"),
        include_str!("elections.rs"),
        include_str!("refusals.rs"),
        include_str!("starts.rs"),
        include_str!("wires.rs"),
    ];
    let is_made = |cause: &Cause| {
        let name = format!("Cause::{cause:?}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
        tests.iter().any(|text| text.split(&name).skip(1).any(ends))
    };
    let forgotten: Vec<&Cause> = Cause::ALL.iter().filter(|cause| !is_made(cause)).collect();
    assert!(forgotten.is_empty(), "no test makes {forgotten:?}");
}
