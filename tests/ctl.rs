//! `etcdctl`, line by line: what it prints, and how it leaves.
//!
//! A row is a command line, its exit code and both outputs. Rows of `REFUSED` never reach a server; rows of `SERVED` are
//! one session with an empty single member, in order. `<member>`, `<cluster>`, `<lease>` and `<ep>` stand for what differs
//! from run to run.
//!
//! - `ETCD_BIN=path`: starts that etcd. `ETCDCTL_TEST_ENDPOINT=host:port`: uses that one, which must be empty.
//! - `ETCDCTL_BIN=path`: runs that etcdctl instead of ours, to see whether a row is true. What only 3.6 does is left
//!   out then if it is an older one.

use etcd_lab::client::Client;
use std::io::Cursor;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// Command line, standard input, exit code, stdout, stderr.
type Row = (&'static str, &'static str, u8, &'static str, &'static str);

/// Nothing listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// Stands for the help of a command, whatever it says.
const USAGE: &str = "<usage>";

#[rustfmt::skip]
const REFUSED: &[Row] = &[
    ("put",                       "", 128, "", "Error: put command needs 1 argument and input from stdin or 2 arguments\n"),
    ("put k",                     "", 128, "", "Error: put command needs 1 argument and input from stdin or 2 arguments\n"),
    ("put k v --ignore-value",    "", 128, "", "Error: put command needs only 1 argument when 'ignore-value' is set\n"),
    ("put k v --lease=zz",        "", 128, "", "Error: bad lease ID (strconv.ParseInt: parsing \"zz\": invalid syntax), expecting ID in Hex\n"),
    ("get",                       "", 128, "", "Error: get command needs one argument as key and an optional argument as range_end\n"),
    ("get k --prefix --from-key", "", 128, "", "Error: `--prefix` and `--from-key` cannot be set at the same time, choose one\n"),
    ("get k --prefix z",          "", 128, "", "Error: too many arguments, only accept one argument when `--prefix` or `--from-key` is set\n"),
    ("get k --keys-only --count-only", "", 128, "", "Error: `--keys-only` and `--count-only` cannot be set at the same time, choose one\n"),
    ("get k --order BAD",         "", 4,   "", "Error: bad sort order BAD\n"),
    ("get k --sort-by BAD",       "", 4,   "", "Error: bad sort target BAD\n"),
    ("get k --consistency x",     "", 4,   "", "Error: unknown consistency flag \"x\"\n"),
    ("get k -w xyz",              "", 4,   "", "Error: unsupported output format\n"),
    ("get k --cert=",             "", 128, "", "Error: empty string is passed to --cert option\n"),
    ("get k --cert c",            "", 128, "", "Error: KeyFile and CertFile must both be present[key: , cert: c]\n"),
    ("get k --cacert /nosuch",    "", 128, "", "Error: open /nosuch: no such file or directory\n"),
    ("get k --command-timeout 100ms", "", 1, "", "Error: context deadline exceeded\n"),
    ("get k --command-timeout=-1s", "", 1, "", "Error: context deadline exceeded\n"),
    ("del",                       "", 128, "", "Error: del command needs one argument as key and an optional argument as range_end\n"),
    ("compaction",                "", 128, "", "Error: compaction command needs 1 argument\n"),
    ("compaction abc",            "", 1,   "", "Error: strconv.ParseInt: parsing \"abc\": invalid syntax\n"),
    ("txn x",                     "", 128, "", "Error: txn command does not accept argument\n"),
    ("txn",                       "", 3,   "", "Error: EOF\n"),
    ("txn",                  "foo\n", 3,   "", "Error: malformed comparison: foo\n"),
    ("txn", "mod(\"k\")>\"0\"\n",     3,   "", "Error: malformed comparison: mod(\"k\")>\"0\"; got mod(\"k\")  \"\"\n"),
    ("txn", "mod(\"k\") > \"abc\"\n", 3,   "", "Error: invalid txn compare request: mod(\"k\") > \"abc\"\n"),
    ("txn",             "\nget\n",    3,   "", "Error: invalid txn compare request: get\n"),
    ("txn",         "\nfoo bar\n",    3,   "", "Error: invalid txn request: foo bar\n"),
    ("txn",         "\nput a\n\n\n",  128, "", "Error: put command needs 1 argument and input from stdin or 2 arguments\n"),
    ("txn -i",                   "",  3,   "compares:\n", "Error: EOF\n"),
    ("watch",                     "", 128, "", "Error: bad number of arguments\n"),
    ("watch k --",                "", 128, "", "Error: bad number of arguments (found separator --, but no commands)\n"),
    ("watch k z --prefix",        "", 128, "", "Error: `range_end` and `--prefix` are mutually exclusive\n"),
    ("watch -i",               "x\n", 3,   "", "Invalid command x (only support watch)\nError: error reading watch request line: EOF\n"),
    ("watch -i", "watch k --foo\n",   128, "", "Error: unknown flag: --foo\n"),
    ("lease grant",               "", 128, "", "Error: lease grant command needs TTL argument\n"),
    ("lease grant abc",           "", 128, "", "Error: bad TTL (strconv.ParseInt: parsing \"abc\": invalid syntax)\n"),
    ("lease revoke",              "", 128, "", "Error: lease revoke command needs 1 argument\n"),
    ("lease revoke zz",           "", 128, "", "Error: bad lease ID arg (strconv.ParseInt: parsing \"zz\": invalid syntax), expecting ID in Hex\n"),
    ("lease keep-alive",          "", 128, "", "Error: lease keep-alive command needs lease ID as argument\n"),
    ("lease timetolive",          "", 128, "", "Error: lease timetolive command needs lease ID as argument\n"),
    ("member add",                "", 128, "", "Error: member name not provided\n"),
    ("member add m",              "", 128, "", "Error: member peer urls not provided\n"),
    ("member add m http://x:1",   "", 128, "", "Error: too many arguments, did you mean --peer-urls=http://x:1\n"),
    ("member add m --peer-urls=x", "", 1,  "", "Error: URL scheme must be http, https, unix, or unixs: x\n"),
    ("member remove",             "", 128, "", "Error: member ID is not provided\n"),
    ("member remove zz",          "", 128, "", "Error: bad member ID arg (strconv.ParseUint: parsing \"zz\": invalid syntax), expecting ID in Hex\n"),
    ("move-leader",               "", 128, "", "Error: move-leader command needs 1 argument\n"),
    ("alarm list x",              "", 128, "", "Error: alarm list command accepts no arguments\n"),
    ("endpoint health --command-timeout 100ms", "", 1, "", "127.0.0.1:1 is unhealthy: failed to commit proposal: context deadline exceeded\nError: unhealthy cluster\n"),
    ("endpoint status --command-timeout 100ms", "", 1, "", "Failed to get the status of endpoint 127.0.0.1:1 (context deadline exceeded)\n"),
    ("endpoint hashkv --command-timeout 100ms", "", 1, "", "Failed to get the hash of endpoint 127.0.0.1:1 (context deadline exceeded)\nError: context deadline exceeded\n"),
    ("gett",                      "", 1,   "", "Error: unknown command \"gett\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n\nRun 'etcdctl --help' for usage.\n"),
    ("frobnicate",                "", 1,   "", "Error: unknown command \"frobnicate\" for \"etcdctl\"\nRun 'etcdctl --help' for usage.\n"),
    ("get k --nosuch",            "", 1,   USAGE, "Error: unknown flag: --nosuch\n\n"),
    ("get k --rev abc",           "", 1,   USAGE, "Error: invalid argument \"abc\" for \"--rev\" flag: strconv.ParseInt: parsing \"abc\": invalid syntax\n\n"),
    ("lease",                     "", 0,   USAGE, ""),
    ("get --help",                "", 0,   USAGE, ""),
];

/// What 3.5 does otherwise, or cannot do.
#[rustfmt::skip]
const REFUSED_SINCE_3_6: &[Row] = &[
    ("version",                   "", 0,   "etcdctl version: 3.6.14\nAPI version: 3.6\n", ""),
    ("get k --min-mod-rev 3 --max-mod-rev 2", "", 4, "", "Error: getMinModRev(=3) > getMaxModRev(=2)\n"),
    ("txn", "mod(\"k\") >= \"0\"\n",  3,   "", "Error: malformed comparison: mod(\"k\") >= \"0\" (unknown operator >=)\n"),
    ("snapshot save",             "", 128, "", "Error: snapshot save expects one argument <filename>\n"),
    ("endpoint status -w json --command-timeout 100ms", "", 1, "null\n", "Failed to get the status of endpoint 127.0.0.1:1 (context deadline exceeded)\n"),
];

#[rustfmt::skip]
const SERVED: &[Row] = &[
    ("put foo bar",                 "", 0, "OK\n", ""),
    ("get foo",                     "", 0, "foo\nbar\n", ""),
    ("get foo -w json",             "", 0, "{\"header\":{\"cluster_id\":<cluster>,\"member_id\":<member>,\"revision\":2,\"raft_term\":<term>},\"kvs\":[{\"key\":\"Zm9v\",\"create_revision\":2,\"mod_revision\":2,\"version\":1,\"value\":\"YmFy\"}],\"count\":1}\n", ""),
    ("get foo -w fields",           "", 0, "\"ClusterID\" : <cluster>\n\"MemberID\" : <member>\n\"Revision\" : 2\n\"RaftTerm\" : <term>\n\"Key\" : \"foo\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 2\n\"Version\" : 1\n\"Value\" : \"bar\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n", ""),
    ("get foo -w table",            "", 4, "", "Error: table not supported as output format\n"),
    ("get foo --hex",               "", 0, "\\x66\\x6f\\x6f\n\\x62\\x61\\x72\n", ""),
    ("get foo --print-value-only",  "", 0, "bar\n", ""),
    ("get foo --print-value-only -w json", "", 128, "", "Error: print-value-only is only for `--write-out=simple`\n"),
    ("get foo --count-only",        "", 128, "", "Error: --count-only is only for `--write-out=fields`\n"),
    ("get nothing",                 "", 0, "", ""),
    ("put foo bar2 --prev-kv",      "", 0, "OK\nfoo\nbar\n", ""),
    ("put foo",          "from\nstdin", 0, "OK\n", ""),
    ("get foo --print-value-only",  "", 0, "from\nstdin\n", ""),
    ("put foo -- -v",               "", 0, "OK\n", ""),
    ("put nokey --ignore-value",    "", 1, "", "Error: etcdserver: key not found\n"),
    ("put foo bar --lease=123",     "", 1, "", "Error: etcdserver: requested lease not found\n"),
    ("put s1 3",                    "", 0, "OK\n", ""),
    ("put s2 2",                    "", 0, "OK\n", ""),
    ("put s3 1 -w table",           "", 4, "", "Error: table not supported as output format\n"),
    ("get s --prefix --sort-by value", "", 0, "s3\n1\ns2\n2\ns1\n3\n", ""),
    ("get s --prefix --order DESCEND --keys-only", "", 0, "s3\n\ns2\n\ns1\n\n", ""),
    ("get s1 s3",                   "", 0, "s1\n3\ns2\n2\n", ""),
    ("get s --prefix --limit 2 -w json", "", 0, "{\"header\":{\"cluster_id\":<cluster>,\"member_id\":<member>,\"revision\":8,\"raft_term\":<term>},\"kvs\":[{\"key\":\"czE=\",\"create_revision\":6,\"mod_revision\":6,\"version\":1,\"value\":\"Mw==\"},{\"key\":\"czI=\",\"create_revision\":7,\"mod_revision\":7,\"version\":1,\"value\":\"Mg==\"}],\"more\":true,\"count\":3}\n", ""),
    ("get s3 --from-key",           "", 0, "s3\n1\n", ""),
    ("get foo --rev 2",             "", 0, "foo\nbar\n", ""),
    ("get foo --rev 4000",          "", 1, "", "Error: etcdserver: mvcc: required revision is a future revision\n"),
    ("del s2 --prev-kv",            "", 0, "1\ns2\n2\n", ""),
    ("del s2",                      "", 0, "0\n", ""),
    ("del s --prefix",              "", 0, "2\n", ""),
    ("txn", "value(\"foo\") = \"-v\"\n\nget foo\nput k2 \"say \\\"hi\\\"\"\ndel s9\n\n\n", 0, "SUCCESS\n\nfoo\n-v\n\nOK\n\n0\n", ""),
    ("txn -w json", "c(\"foo\") > \"2\"\n\n\nput k2 x --prev-kv\nget k2\n\n", 0, "{\"header\":{\"cluster_id\":<cluster>,\"member_id\":<member>,\"revision\":12,\"raft_term\":<term>},\"responses\":[{\"Response\":{\"response_put\":{\"header\":{\"revision\":12},\"prev_kv\":{\"key\":\"azI=\",\"create_revision\":11,\"mod_revision\":11,\"version\":1,\"value\":\"c2F5ICJoaSI=\"}}}},{\"Response\":{\"response_range\":{\"header\":{\"revision\":12},\"kvs\":[{\"key\":\"azI=\",\"create_revision\":11,\"mod_revision\":12,\"version\":2,\"value\":\"eA==\"}],\"count\":1}}}]}\n", ""),
    ("txn", "\nput a 1\nput a 2\n\n\n",  1, "", "Error: etcdserver: duplicate key given in txn request\n"),
    ("compaction 5",                "", 0, "compacted revision 5\n", ""),
    ("compact 5",                   "", 1, "", "Error: etcdserver: mvcc: required revision has been compacted\n"),
    ("compaction 5000",             "", 1, "", "Error: etcdserver: mvcc: required revision is a future revision\n"),
    ("get foo --rev 2",             "", 1, "", "Error: etcdserver: mvcc: required revision has been compacted\n"),
    ("watch foo --rev 2",           "", 5, "", "watch was canceled (etcdserver: mvcc: required revision has been compacted)\nError: watch is canceled by the server\n"),
    ("lease grant 100",             "", 0, "lease <lease> granted with TTL(100s)\n", ""),
    ("lease list",                  "", 0, "found 1 leases\n<lease>\n", ""),
    ("put leased x --lease=<lease>", "", 0, "OK\n", ""),
    ("lease keep-alive --once <lease>", "", 0, "lease <lease> keepalived with TTL(100)\n", ""),
    ("lease revoke <lease>",        "", 0, "lease <lease> revoked\n", ""),
    ("get leased",                  "", 0, "", ""),
    ("lease revoke <lease>",        "", 1, "", "Error: failed to revoke lease (etcdserver: requested lease not found)\n"),
    ("lease timetolive <lease>",    "", 0, "lease <lease> already expired\n", ""),
    ("lease keep-alive <lease>",    "", 0, "lease <lease> expired or revoked.\n", ""),
    ("lease keep-alive --once <lease>", "", 2, "", "Error: etcdserver: requested lease not found\n"),
    ("lease grant 9000000001",      "", 1, "", "Error: failed to grant lease (etcdserver: too large lease TTL)\n"),
    ("alarm list",                  "", 0, "", ""),
    ("member promote 1234",         "", 1, "", "Error: etcdserver: member not found\n"),
    ("move-leader 1234",            "", 1, "", "Error: etcdserver: bad leader transferee\n"),
    ("endpoint health",             "", 0, "<ep> is healthy: successfully committed proposal: took = <time>\n", ""),
    ("endpoint health --cluster -w json", "", 0, "[{\"endpoint\":\"http://<ep>\",\"health\":true,\"took\":\"<time>\"}]\n", ""),
];

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Runs ours, or the program that `ETCDCTL_BIN` names.
async fn run(args: &[String], stdin: &str) -> (u8, String, String) {
    let (code, out, err) = match std::env::var_os("ETCDCTL_BIN") {
        None => {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let stdin = Box::new(Cursor::new(stdin.to_owned().into_bytes()));
            let code = etcd_lab::ctl::run(args.iter().map(String::as_str), &[], stdin, &mut out, &mut err).await;
            (code, out, err)
        }
        Some(program) => {
            let mut child = Command::new(program)
                .args(args)
                .env("ETCDCTL_API", "3")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("ETCDCTL_BIN runs");
            // It may leave without reading.
            let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
            let done = child.wait_with_output().expect("it ends");
            (done.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255), done.stdout, done.stderr)
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (code, text(out), plain(&text(err)))
}

/// Without the log lines; and what etcdctl before 3.6 says twice, once.
fn plain(err: &str) -> String {
    let kept: String = err.split_inclusive('\n').filter(|line| !line.starts_with("{\"level\"")).collect();
    match kept.match_indices("Error: ").nth(1) {
        Some((again, _)) if kept.starts_with("Error: ") => kept[..again].to_owned(),
        _ => kept,
    }
}

fn is_ours() -> bool {
    std::env::var_os("ETCDCTL_BIN").is_none()
}

#[tokio::test]
async fn lines_that_reach_no_server() {
    let newer = if is_ours() { REFUSED_SINCE_3_6 } else { &[] };
    for (line, stdin, code, out, err) in REFUSED.iter().chain(newer) {
        let mut args = vec![format!("--endpoints={NOWHERE}")];
        args.extend(words(line));
        let (got_code, got_out, got_err) = run(&args, stdin).await;
        let got_out = if *out == USAGE && got_out.starts_with("NAME:\n") { USAGE } else { &got_out };
        assert_eq!((got_code, got_out, got_err.as_str()), (*code, *out, *err), "etcdctl {line}");
    }
}

/// An etcd that ends with the test.
struct Member {
    endpoint: String,
    child: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The member that the environment names, or one of ours.
fn member() -> Member {
    let dir = tempfile::tempdir().expect("a temporary directory");
    if let Ok(endpoint) = std::env::var("ETCDCTL_TEST_ENDPOINT") {
        return Member { endpoint, child: None, _dir: dir };
    }
    let program = std::env::var_os("ETCD_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_etcd").into());
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (endpoint, peer) = (free().to_string(), free().to_string());
    let child = Command::new(program)
        .args(["--name", "m1", "--data-dir"])
        .arg(dir.path().join("data"))
        .args(["--listen-client-urls", &format!("http://{endpoint}")])
        .args(["--advertise-client-urls", &format!("http://{endpoint}")])
        .args(["--listen-peer-urls", &format!("http://{peer}")])
        .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
        .args(["--initial-cluster", &format!("m1=http://{peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server runs");
    Member { endpoint, child: Some(child), _dir: dir }
}

/// What stands for what in this run.
#[derive(Default)]
struct Names(Vec<(&'static str, String)>);

impl Names {
    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Takes the lease's id from a line that grants one, and the time that health took.
    fn learn(&mut self, out: &str) {
        if let Some(id) = between(out, "lease ", " granted with TTL(") {
            self.0.retain(|(name, _)| *name != "<lease>");
            self.0.push(("<lease>", id));
        }
        self.0.retain(|(name, _)| *name != "<time>");
        let took = between(out, "took = ", "\n").or_else(|| between(out, "\"took\":\"", "\""));
        self.0.extend(took.map(|took| ("<time>", took)));
    }
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found.to_owned())
}

#[tokio::test]
async fn a_session_with_a_member() {
    let member = member();
    let client = Client::to(&member.endpoint).patient(Some(Duration::from_secs(20)));
    client.get("ready").await.expect("the member answers within 20 s");
    let header = client.status().await.expect("it is up").header.expect("every answer has a header");
    assert_eq!(header.revision, 1, "the table needs an empty member");
    let mut names = Names(vec![
        ("<ep>", member.endpoint.clone()),
        ("<cluster>", header.cluster_id.to_string()),
        ("<member>", header.member_id.to_string()),
        ("<term>", header.raft_term.to_string()),
    ]);
    for (line, stdin, code, out, err) in SERVED {
        let mut args = vec![format!("--endpoints={}", member.endpoint)];
        args.extend(words(&names.fill(line)));
        let got = run(&args, stdin).await;
        names.learn(&got.1);
        assert_eq!(got, (*code, names.fill(out), names.fill(err)), "etcdctl {line}");
    }
}

#[tokio::test]
async fn the_environment_speaks_for_flags_that_are_not_given() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    type Case<'a> = (&'a [&'a str], (String, String), u8, &'a str);
    let cases: [Case<'_>; 5] = [
        (&["get", "k"], pair("ETCDCTL_COMMAND_TIMEOUT", "50ms"), 1, "Error: context deadline exceeded\n"),
        (&["get", "k"], pair("ETCDCTL_WRITE_OUT", "xyz"), 4, "Error: unsupported output format\n"),
        (
            &["get", "k", "-w", "json"],
            pair("ETCDCTL_WRITE_OUT", "json"),
            1,
            "\"environment-variable\":\"ETCDCTL_WRITE_OUT\"",
        ),
        (
            &["get", "k", "--command-timeout=50ms"],
            pair("ETCDCTL_FOO", "1"),
            1,
            "\"environment-variable\":\"ETCDCTL_FOO=1\"",
        ),
        (
            &["watch"],
            pair("ETCDCTL_WATCH_RANGE_END", "z"),
            128,
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"z\"",
        ),
    ];
    for (line, variable, code, said) in cases {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let env = [variable, pair("ETCDCTL_API", "3"), pair("ETCDCTL_ENDPOINTS", NOWHERE)];
        let stdin = Box::new(Cursor::new(Vec::new()));
        let got = etcd_lab::ctl::run(line.iter().copied(), &env, stdin, &mut out, &mut err).await;
        let err = String::from_utf8(err).expect("text");
        assert_eq!(got, code, "{line:?}: {err}");
        assert!(err.contains(said), "{line:?}: {err}");
        assert!(!err.contains("ETCDCTL_API"), "ETCDCTL_API=3 is what tutorials set: {err}");
    }
}

/// A line that names its endpoints itself.
async fn run_alone(line: &str) -> (u8, String, String) {
    run(&words(line), "").await
}

#[tokio::test]
async fn a_list_of_no_endpoints_is_not_this_machine() {
    let nobody = (2, String::new(), "Error: etcdclient: no available endpoints\n".to_owned());
    for line in ["--endpoints= get k", "--endpoints= member list", "lock --endpoints= l"] {
        assert_eq!(run_alone(line).await, nobody, "{line}");
    }
    let nothing = (0, String::new(), String::new());
    assert_eq!(run_alone("--endpoints= endpoint status").await, nothing, "of each of none");
    let of_all = (1, String::new(), nobody.2.clone());
    assert_eq!(run_alone("--endpoints= endpoint health --cluster").await, of_all);
}

/// What bash makes of the words typed so far, with the script that `completion bash` prints.
fn completed_by_bash(typed: &str) -> String {
    let line = format!("etcdctl {typed}");
    let mut words = bash_words(&line);
    let at = words.len() - 1;
    words.iter_mut().for_each(|word| *word = format!("'{word}'"));
    let words = words.join(" ");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_etcdctl"));
    let folder = program.parent().expect("a folder").display().to_string();
    let script = format!(
        "source <(etcdctl completion bash); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words}); COMP_CWORD={at}; \
         _etcdctl; echo \"${{COMPREPLY[@]}}\""
    );
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash").arg("-c").arg(script).env("PATH", path).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// The words of a line as bash hands them to a script: cut at blanks, and before and behind runs of `:` and `=`.
fn bash_words(line: &str) -> Vec<String> {
    let is_break = |c: char| matches!(c, ':' | '=');
    let mut words: Vec<String> = Vec::new();
    for blank_free in line.split(' ') {
        words.push(String::new());
        for c in blank_free.chars() {
            let word = words.last_mut().expect("at least one");
            if word.chars().last().is_some_and(|last| is_break(last) != is_break(c)) {
                words.push(c.to_string());
            } else {
                word.push(c);
            }
        }
    }
    words
}

#[test]
fn bash_finishes_words_with_our_script() {
    assert_eq!(completed_by_bash("lea"), "lease");
    assert_eq!(completed_by_bash("lease "), "grant keep-alive list revoke timetolive");
    assert_eq!(completed_by_bash("get --sort-by M"), "MODIFY");
    assert_eq!(completed_by_bash("user gr"), "grant-role");
}

#[test]
fn bash_finishes_words_behind_colons_and_equals_signs() {
    assert_eq!(bash_words("get --write-out=t"), ["get", "--write-out", "=", "t"]);
    assert_eq!(completed_by_bash("--endpoints 127.0.0.1:2379 mem"), "member");
    assert_eq!(completed_by_bash("--endpoints=http://127.0.0.1:2379,[::1]:2379 member a"), "add");
    // Only what is behind the `=` is replaced.
    assert_eq!(completed_by_bash("get --write-out=t"), "table");
    assert_eq!(completed_by_bash("get --consistency="), "l s");
    assert_eq!(completed_by_bash("--endpoints=a:1 get --pre"), "--prefix");
}
