//! `etcdctl member …`: etcd's own programs drive our members, ours prints what they print, and both hear from us what they hear from etcd 3.5.1.
//!
//! One script of commands runs on a fresh single member each time. What must differ between two clusters (ids, ports) is replaced by its name.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::etcd_bin;
use crate::harness::turn;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// `OWN`, `NEW` and `PEER` stand for the member's id, the id of the last one that was added, and the member's peer URL.
const SCRIPT: [&str; 20] = [
    "member list",
    "member add m1 --peer-urls=http://127.0.0.1:1 --learner",
    "member add m2 --peer-urls=http://127.0.0.1:2 --learner",
    "member add m2 --peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
    "member add m2 --peer-urls=PEER",
    "member promote NEW",
    "member promote OWN",
    "member promote 1234",
    "member update NEW --peer-urls=PEER",
    "member update 1234 --peer-urls=http://127.0.0.1:3",
    "member list",
    "member list -w json",
    "member remove OWN",
    "member remove 1234",
    // Last, because etcd 3.5.1 takes the learner for a voter from then on.
    "member update NEW --peer-urls=http://127.0.0.1:3",
    "member remove NEW",
    "member remove NEW",
    "member list",
    "member add m1 --peer-urls=http://127.0.0.1:4,http://127.0.0.1:5",
    "member add m2 --peer-urls=http://127.0.0.1:6",
];

/// A command with its exit code, what it prints, and its complaint.
type Outcome = (String, Option<i32>, String, String);

async fn script(program: &Path, server: &Path) -> Vec<Outcome> {
    let cluster = Cluster::start_with(server, 1, &[]).await;
    let header = cluster.client.status(0).await.expect("its status").header.expect("a header");
    let (own, new) = (format!("{:x}", header.member_id), std::cell::RefCell::new(String::from("none")));
    let (client, peer) = (cluster.spec(0).client_url.clone(), cluster.spec(0).peer_url.clone());
    let named = |text: &str| {
        let new = new.borrow().clone();
        let decimal = u64::from_str_radix(&new, 16).unwrap_or(1).to_string();
        let pairs = [
            (format!("{:x}", header.cluster_id), "CLUSTER"),
            (header.cluster_id.to_string(), "CLUSTER"),
            (own.clone(), "OWN"),
            (header.member_id.to_string(), "OWN"),
            (new, "NEW"),
            (decimal, "NEW"),
            (client.clone(), "CLIENT"),
            (peer.clone(), "PEER"),
        ];
        let mut text = text.to_owned();
        for (is, name) in pairs.iter().filter(|(is, _)| is.len() > 1) {
            text = text.replace(is.as_str(), name);
        }
        // Ids are padded to sixteen digits.
        text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let mut outcomes = Vec::new();
    for (number, line) in SCRIPT.into_iter().enumerate() {
        // Before the last one the majority is lost.
        if number + 1 < SCRIPT.len() {
            cluster.client.settled(0).await;
        }
        let words = line.replace("OWN", &own).replace("NEW", &new.borrow()).replace("PEER", &peer);
        let mut command = Command::new(program);
        command.env_clear().env("ETCDCTL_API", "3").arg("--endpoints").arg(client.replace("http://", ""));
        command.args(words.split(' ')).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(READY_WITHIN, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{words:?} does not end")).expect("it starts");
        // Ids of fewer than sixteen digits are padded.
        let stdout = String::from_utf8_lossy(&output.stdout).replace("Member  ", "Member ");
        if let Some(id) = stdout.split_once(" added ").and_then(|(head, _)| head.split_whitespace().nth(1)) {
            id.clone_into(&mut new.borrow_mut());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let complaint = stderr.lines().find(|line| line.starts_with("Error:")).unwrap_or_default().to_owned();
        outcomes.push((line.to_owned(), output.status.code(), in_order(&named(&stdout)), named(&complaint)));
    }
    outcomes
}

/// Members come in the order of their ids, which two clusters do not share.
fn in_order(text: &str) -> String {
    if let Ok(mut json) =
        serde_json::from_str::<serde_json::Value>(&text.replace("OWN", "1").replace("NEW", "2").replace("CLUSTER", "3"))
    {
        if let Some(members) = json.get_mut("members").and_then(|members| members.as_array_mut()) {
            members.sort_by_key(ToString::to_string);
        }
        return json.to_string();
    }
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("ETCD_INITIAL_CLUSTER=") {
            Some(list) => {
                let mut pairs: Vec<&str> = list.trim_matches('"').split(',').collect();
                pairs.sort_unstable();
                format!("ETCD_INITIAL_CLUSTER={}", pairs.join(","))
            }
            None => line.to_owned(),
        })
        .collect();
    if lines.iter().all(|line| line.contains(", ")) {
        lines.sort();
    }
    lines.join("\n")
}

fn assert_same(what: &str, ours: &[Outcome], etcds: &[Outcome]) {
    for (ours, etcds) in ours.iter().zip(etcds) {
        assert_eq!(ours, etcds, "{what}");
    }
}

#[test]
fn etcdctl_changes_our_members_as_etcds_own() {
    let test = "etcdctl_changes_our_members_as_etcds_own";
    turn(Duration::from_secs(300), async {
        let (Some(etcd), Some(newer)) = (foreign::etcd_351(test), foreign::beside_351(test, "etcdctl")) else { return };
        let Some(older) = foreign::etcdctl_34(test) else { return };
        let reference = script(&newer, &etcd).await;
        let complaints: Vec<&str> = reference.iter().map(|(.., complaint)| complaint.as_str()).collect();
        assert_eq!(complaints.iter().filter(|complaint| !complaint.is_empty()).count(), 12, "{complaints:?}");
        assert_same("etcdctl 3.5.1 on our member", &script(&newer, &etcd_bin()).await, &reference);
        assert_same("etcdctl 3.4 on our member", &script(&older, &etcd_bin()).await, &script(&older, &etcd).await);
        let ours = script(Path::new(env!("CARGO_BIN_EXE_etcdctl")), &etcd_bin()).await;
        // What a learner is called since 3.6.
        let ours: Vec<Outcome> = ours
            .into_iter()
            .map(|(line, code, out, complaint)| {
                (line, code, out.replace(" added as learner to ", " added to "), complaint)
            })
            .collect();
        assert_same("our etcdctl on our member", &ours, &reference);
    });
}
