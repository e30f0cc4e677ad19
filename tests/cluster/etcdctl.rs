//! etcd's own etcdctl 3.4 works on our members, and ours prints what it prints.
//!
//! One script of commands runs twice, each time on three fresh members: once with etcd's etcdctl, once with ours. What must differ between
//! two clusters (ids, ports, times) is replaced by its kind; everything else is compared to the letter, exit codes too. Revisions are the same,
//! since the same commands made them.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::turn;
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::process::Command;

/// The script. `LEASE` is the lease that the last `lease grant` made.
const SCRIPT: [&str; 45] = [
    "put a1 one",
    "put a2 two",
    "put a3 three",
    "get a1",
    "get a1 -w json",
    "get a1 -w fields",
    "get a1 a3",
    "get missing",
    "get --prefix a",
    "get --prefix a --limit=2",
    "get --prefix a --keys-only",
    "get --prefix a --print-value-only",
    "get --prefix a --sort-by=MODIFY --order=DESCEND",
    "get --from-key a2",
    "get --consistency=s a1",
    "put a1 uno --prev-kv",
    "put a1 ein -w json",
    "put a1 --ignore-value --prev-kv",
    "get a1 --rev=2",
    "get a1 --rev=99",
    "put a1 x --lease=12345",
    "del a2 --prev-kv",
    "del missing",
    "del --prefix a3 -w json",
    "del b c",
    "lease grant 600",
    "put l1 leased --lease=LEASE",
    "get l1 -w json",
    "lease timetolive LEASE",
    "lease timetolive LEASE --keys",
    "lease timetolive LEASE --keys -w json",
    "lease list",
    "lease list -w json",
    "lease keep-alive --once LEASE",
    "lease revoke LEASE",
    "lease revoke LEASE",
    "lease timetolive LEASE",
    "get l1",
    "compaction 4",
    "compaction 4",
    "get a1 --rev=2",
    "member list",
    "member list -w table",
    "member list -w json",
    "endpoint health",
];

const TXNS: [&str; 3] = [
    "mod(\"a1\") > \"0\"\n\nput t1 yes\nget a1\n\nput t1 no\n\n",
    "value(\"a1\") = \"nothing like it\"\n\nput t1 yes\n\nget t1\ndel t1\n\n",
    "create(\"new\") = \"0\"\n\nput new 1\n\n\n",
];

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    command: String,
    code: Option<i32>,
    stdout: String,
    /// The line that says what went wrong; what a program logs before it is its own business.
    complaint: String,
}

/// A control program and the cluster that it talks to.
struct Control<'a> {
    program: &'a Path,
    endpoints: String,
}

/// `host:port` of every member, as etcdctl takes it too.
fn addresses(cluster: &Cluster) -> String {
    cluster.endpoints().replace("http://", "")
}

impl Control<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.env_clear().env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.endpoints).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn output(&self, words: &[&str], stdin: &str) -> Output {
        let mut child = self.command(words).spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(stdin.as_bytes()).await.expect("the program reads its input");
        drop(pipe);
        let output = tokio::time::timeout(READY_WITHIN, child.wait_with_output()).await;
        output.unwrap_or_else(|_| panic!("{words:?} does not end")).expect("its output can be read")
    }

    async fn outcome(&self, name: &str, words: &[&str], stdin: &str) -> Outcome {
        let output = self.output(words, stdin).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let complaint = stderr.lines().find(|line| line.starts_with("Error:")).unwrap_or_default();
        // Up to 3.4 the health of a member is told on stderr.
        let healthy = stderr.lines().filter(|line| line.contains(" is healthy: "));
        let told: Vec<&str> = healthy.collect();
        let stdout = normal(&[&told.join("\n"), &*String::from_utf8_lossy(&output.stdout)].concat());
        Outcome { command: name.to_owned(), code: output.status.code(), stdout, complaint: normal(complaint) }
    }

    /// Runs the whole script.
    async fn script(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut lease = String::new();
        for line in SCRIPT {
            let words: Vec<&str> = line.split(' ').collect();
            let words: Vec<String> = words.iter().map(|word| word.replace("LEASE", &lease)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if line.starts_with("lease grant") {
                let output = self.output(&words, "").await;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                lease = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let stdout = normal(&text);
                outcomes.push(Outcome {
                    command: line.to_owned(),
                    code: output.status.code(),
                    stdout,
                    complaint: String::new(),
                });
            } else {
                outcomes.push(self.outcome(line, &words, "").await);
            }
        }
        for txn in TXNS {
            outcomes.push(self.outcome(&format!("txn {txn:?}"), &["txn"], txn).await);
        }
        outcomes
    }

    /// The first `count` lines of a watch, which does not end by itself.
    async fn watch(&self, words: &[&str], count: usize) -> Vec<String> {
        let mut child = self.command(words).spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut seen = Vec::new();
        while seen.len() < count {
            let line = tokio::time::timeout(READY_WITHIN, lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("{words:?}: only {seen:?}")).expect("text");
            seen.push(line.unwrap_or_else(|| panic!("{words:?} ended after {seen:?}")));
        }
        child.kill().await.expect("it runs");
        seen
    }

    /// Endpoint and hash of each line of `endpoint hashkv`.
    async fn hashes(&self) -> Vec<(String, String)> {
        let output = self.output(&["endpoint", "hashkv"], "").await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.lines().map(|line| line.split(", ").map(str::to_owned));
        words.filter_map(|mut words| words.next().zip(words.next())).collect()
    }

    /// `endpoint status` as JSON.
    async fn status(&self) -> Value {
        let output = self.output(&["endpoint", "status", "-w", "json"], "").await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

/// The text with ids, ports, times and padding replaced, and lines of members in an order of their own.
fn normal(text: &str) -> String {
    if let Ok(mut json) = serde_json::from_str::<Value>(text) {
        normal_json(&mut json);
        return json.to_string();
    }
    let mut lines: Vec<String> = text.lines().map(normal_line).collect();
    if lines.iter().any(|line| line.contains("127.0.0.1:PORT")) {
        lines.sort();
    }
    lines.join("\n")
}

fn normal_json(json: &mut Value) {
    match json {
        Value::Array(list) => {
            list.iter_mut().for_each(normal_json);
            list.sort_by_key(Value::to_string);
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "raft_term" | "cluster_id" | "member_id" | "ID" | "id" | "lease" | "ttl" => {
                        *value = "NUMBER".into()
                    }
                    _ => normal_json(value),
                }
            }
        }
        Value::String(text) => *text = normal_line(text),
        _ => {}
    }
}

fn normal_line(line: &str) -> String {
    let mut normal = String::new();
    let mut word = String::new();
    for c in line.chars().chain(['\n']) {
        if c.is_alphanumeric() || c == '.' {
            word.push(c);
            continue;
        }
        let kind = kind(&word, normal.ends_with("127.0.0.1:"));
        normal.push_str(kind.unwrap_or(&word));
        word.clear();
        // Tables are as wide as their ids and ports.
        let pads = (c == ' ' || c == '-') && normal.ends_with(c);
        if !pads && c != '\n' {
            normal.push(c);
        }
    }
    normal
}

fn kind(word: &str, is_port: bool) -> Option<&'static str> {
    let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
    let is_hex = word.chars().all(|c| c.is_ascii_hexdigit());
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if is_port && is_number {
        Some("PORT")
    } else if word.len() >= 12 && is_hex {
        Some("ID")
    } else if unit.len() < word.len() && matches!(unit, "ns" | "µs" | "ms" | "s") {
        Some("TIME")
    } else {
        None
    }
}

/// Whether `part` is there in `whole`, field by field; numbers that differ between clusters are not compared.
fn assert_has(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                let found = whole.get(name).unwrap_or_else(|| panic!("{path}.{name} is missing in {whole:?}"));
                assert_has(found, value, &format!("{path}.{name}"));
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            whole.iter().zip(part).for_each(|(whole, part)| assert_has(whole, part, path));
        }
        (Value::Number(_), Value::Number(_)) => {}
        (whole, part) => assert_eq!(normal(&whole.to_string()), normal(&part.to_string()), "{path}"),
    }
}

#[test]
fn the_official_etcdctl_works_on_our_members_and_prints_what_ours_prints() {
    let Some(official) = foreign::etcdctl_34("etcdctl 3.4 on our members") else { return };
    turn(Duration::from_secs(240), async {
        let cluster = Cluster::start(3).await;
        let theirs = Control { program: &official, endpoints: addresses(&cluster) }.script().await;
        drop(cluster);
        let cluster = Cluster::start(3).await;
        let own = Path::new(env!("CARGO_BIN_EXE_etcdctl"));
        let ours = Control { program: own, endpoints: addresses(&cluster) }.script().await;
        let differs: Vec<_> = theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours).collect();
        let list: Vec<String> =
            differs.iter().map(|(theirs, ours)| format!("theirs: {theirs:#?}\nours:   {ours:#?}")).collect();
        assert!(differs.is_empty(), "{} of {} commands differ\n{}", differs.len(), ours.len(), list.join("\n"));
    });
}

#[test]
fn the_official_etcdctl_reads_what_it_wrote() {
    let Some(official) = foreign::etcdctl_34("etcdctl 3.4 on our members") else { return };
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start(3).await;
        let outcomes = Control { program: &official, endpoints: addresses(&cluster) }.script().await;
        let of = |command: &str| {
            let outcome = outcomes.iter().find(|outcome| outcome.command == command);
            outcome.unwrap_or_else(|| panic!("{command} was run"))
        };
        for (command, stdout) in [
            ("put a1 one", "OK"),
            ("get a1", "a1\none"),
            ("get a1 a3", "a1\none\na2\ntwo"),
            ("get missing", ""),
            ("put a1 uno --prev-kv", "OK\na1\none"),
            ("get a1 --rev=2", "a1\none"),
            ("del a2 --prev-kv", "1\na2\ntwo"),
            ("del missing", "0"),
            ("lease list", "found 1 leases\nID"),
            ("compaction 4", "compacted revision 4"),
        ] {
            assert_eq!((of(command).stdout.as_str(), of(command).code), (stdout, Some(0)), "{command}");
        }
        let refused = of("get a1 --rev=99");
        assert_eq!(refused.complaint, "Error: etcdserver: mvcc: required revision is a future revision");
        assert_eq!(refused.code, Some(1));
        assert_eq!(of("endpoint health").stdout.lines().filter(|line| line.contains(" is healthy")).count(), 3);
        assert!(outcomes[SCRIPT.len()].stdout.starts_with("SUCCESS\n\nOK\n\na1\nein"), "{:?}", outcomes[SCRIPT.len()]);
        assert!(outcomes[SCRIPT.len() + 1].stdout.starts_with("FAILURE"), "{:?}", outcomes[SCRIPT.len() + 1]);
    });
}

#[test]
fn the_official_etcdctl_takes_endpoints_with_a_scheme() {
    let Some(official) = foreign::etcdctl_34("etcdctl 3.4 on our members") else { return };
    turn(Duration::from_secs(60), async {
        // For calls to one member it sends the whole URL as HTTP/2's `:authority`, which no URL parser takes for one.
        let cluster = Cluster::start(3).await;
        let control = Control { program: &official, endpoints: cluster.endpoints() };
        for words in [["member", "list"], ["endpoint", "status"], ["endpoint", "hashkv"]] {
            let output = control.output(&words, "").await;
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3, "{words:?}");
        }
    });
}

#[test]
fn both_etcdctls_refuse_an_unknown_flag_alike() {
    let Some(official) = foreign::etcdctl_34("etcdctl 3.4 and an unknown flag") else { return };
    turn(Duration::from_secs(60), async {
        let own = Path::new(env!("CARGO_BIN_EXE_etcdctl"));
        let mut refusals = Vec::new();
        for program in [official.as_path(), own] {
            let control = Control { program, endpoints: "127.0.0.1:1".to_owned() };
            let outcome = control.outcome("unknown flag", &["get", "a1", "--no-such-flag"], "").await;
            refusals.push((outcome.code, outcome.complaint));
        }
        assert_eq!(refusals[0], refusals[1]);
        assert_eq!(refusals[0].0, Some(1));
    });
}

#[test]
fn both_etcdctls_show_the_same_status_and_the_same_events() {
    let Some(official) = foreign::etcdctl_34("etcdctl 3.4 on our members") else { return };
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start(3).await;
        let theirs = Control { program: &official, endpoints: addresses(&cluster) };
        let ours = Control { program: Path::new(env!("CARGO_BIN_EXE_etcdctl")), endpoints: addresses(&cluster) };
        for (key, value) in [("w1", "a"), ("w2", "b"), ("w1", "c")] {
            cluster.client.put(0, key, value).await.expect("a put");
        }
        theirs.output(&["del", "w1"], "").await;
        // Since 3.6 the revision stands after the hash.
        let (expected, got) = (theirs.hashes().await, ours.hashes().await);
        assert_eq!(got, expected);
        assert_eq!(got.len(), 3);
        assert_has(&ours.status().await, &theirs.status().await, "status");
        for (words, count) in [
            (vec!["watch", "--prefix", "w", "--rev=2"], 11),
            (vec!["watch", "w1", "--rev=2", "--prev-kv"], 13),
            (vec!["watch", "w1", "w3", "--rev=4"], 5),
        ] {
            let (expected, got) = (theirs.watch(&words, count).await, ours.watch(&words, count).await);
            assert_eq!(got, expected, "{words:?}");
            assert_eq!(expected[0], "PUT", "{words:?}");
        }
    });
}
