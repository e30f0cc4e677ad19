//! Names for what differs from run to run: ids, ports, times, terms; and what is not compared at all.
//!
//! Left out of the comparison: lines of a program's log; the sentences of help texts, of which the flags and commands that they name are kept.
//! Tables are as wide as their ids, so runs of blanks and dashes in them count as one.

use super::script::Given;
use super::script::Step;
use crate::harness::Cluster;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Patterns whose second group is a number or a time that no two runs share.
static VARYING: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let number = [
        r#"("raft_term":)([0-9]+)"#,
        r#"("raftTerm":)([0-9]+)"#,
        r#"("RaftTerm" : )([0-9]+)"#,
        r#"("raftIndex":)([0-9]+)"#,
        r#"("RaftIndex" : )([0-9]+)"#,
        r#"("raftAppliedIndex":)([0-9]+)"#,
        r#"("RaftAppliedIndex" : )([0-9]+)"#,
        r#"("dbSize":)([0-9]+)"#,
        r#"("DBSize" : )([0-9]+)"#,
        r#"("dbSizeInUse":)([0-9]+)"#,
        r#"("DBSizeInUse" : )([0-9]+)"#,
        r#"("ttl":)([0-9]+)"#,
        r"(remaining\()([0-9]+)",
        r"(TTL: )([1-9][0-9]*)",
        // Who leads is chance.
        r"(isLeader=)(true|false)",
    ];
    let time = [
        r#"(took = )([0-9.]+(?:ns|µs|ms|s))"#,
        r#"("took":")([0-9.]+(?:ns|µs|ms|s))"#,
        r#"("Took" : )([0-9.]+(?:ns|µs|ms|s))"#,
        r#"(took )([0-9.]+(?:ns|µs|ms|s))"#,
        r"(\| )([0-9.]+(?:ns|µs|ms))\b",
        r#"("expiration":")([^"]+)"#,
    ];
    let regex = |pattern: &str| Regex::new(pattern).expect("a pattern");
    let numbers = number.iter().map(|pattern| (regex(pattern), "${1}<n>"));
    let times = time.iter().map(|pattern| (regex(pattern), "${1}<time>"));
    // The key of a lock ends with a lease that nobody is told of.
    let keys = [(regex(r"([a-z0-9]/)([0-9a-f]{12,16})\b"), "${1}<id>")];
    numbers.chain(times).chain(keys).collect()
});

/// The hash of a snapshot, of which ids and times are part.
static HASHED: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [r"^()[0-9a-f]{1,8}(, )", r#"("hash":)[0-9]+(,)"#, r#"("Hash" : )[0-9]+(\n)"#, r"(\n\| )[0-9a-f]{1,8}( \| [0-9])"]
        .map(|pattern| Regex::new(pattern).expect("a pattern"))
});

/// The size of a database, which depends on when its pages were freed.
static SIZED: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [r"()[0-9.]+ [kM]B\b", r#"("totalSize":|"Size" : )[0-9]+"#].map(|pattern| Regex::new(pattern).expect("a pattern"))
});

static GRANTED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("lease ([0-9a-f]{16}) granted with TTL\\([0-9]+s\\)\n").expect("a pattern"));
static ADDED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("(?:Member +|with ID )([0-9a-f]+) (?:added|to cluster)").expect("a pattern"));

/// What stands for what in one run.
#[derive(Default)]
pub(super) struct Names {
    /// A text and its name, in the order in which they are replaced.
    texts: Vec<(String, String)>,
    /// The same for numbers as protobuf writes them.
    bytes: Vec<(Vec<u8>, String)>,
    leases: usize,
    members: usize,
}

impl Names {
    /// The ids and ports of a cluster.
    pub(super) async fn of(cluster: &Cluster) -> Names {
        let mut names = Names::default();
        for member in 0..cluster.len() {
            let header =
                cluster.client.status(member).await.expect("it is ready").header.expect("every answer has one");
            if member == 0 {
                names.id(header.cluster_id, "<cluster>");
            }
            names.id(header.member_id, &format!("<m{member}>"));
            let spec = cluster.spec(member);
            for (url, name) in [(&spec.client_url, "ep"), (&spec.peer_url, "peer")] {
                names.texts.push((url.replace("http://", ""), format!("<{name}{member}>")));
            }
        }
        names
    }

    fn id(&mut self, id: u64, name: &str) {
        self.texts.push((id.to_string(), name.to_owned()));
        self.texts.push((format!("{id:016x}"), name.to_owned()));
        self.texts.push((format!("{id:x}"), name.to_owned()));
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(id, &mut bytes);
        self.bytes.push((bytes, name.to_owned()));
    }

    /// The names of a line replaced by what they stand for in this run.
    pub(super) fn fill(&self, line: &str) -> String {
        // The last text of an id is the one that is typed.
        self.texts.iter().rev().fold(line.to_owned(), |line, (text, name)| line.replace(name, text))
    }

    /// Learns the names that a line makes, and puts names for all that has one.
    pub(super) fn normal(&mut self, step: &Step, (code, out, err): (i32, Vec<u8>, Vec<u8>)) -> Given {
        let text = String::from_utf8_lossy(&out).into_owned();
        if let Some(id) = GRANTED.captures(&text).and_then(|found| u64::from_str_radix(&found[1], 16).ok()) {
            self.leases += 1;
            self.id(id, &format!("<lease{}>", self.leases));
        }
        if let Some(id) = ADDED.captures(&text).and_then(|found| u64::from_str_radix(&found[1], 16).ok()) {
            self.members += 1;
            self.id(id, &format!("<new{}>", self.members));
        }
        let mut out = self.text(&out);
        if step.sorted {
            let mut lines: Vec<String> = out.split_inclusive('\n').map(sorted_members).collect();
            lines.sort_unstable();
            out = lines.concat();
        }
        if step.line.contains(" status") {
            for pattern in SIZED.iter() {
                out = pattern.replace_all(&out, "${1}<size>").into_owned();
            }
        }
        if step.line.contains("snapshot status") {
            for pattern in HASHED.iter() {
                out = pattern.replace(&out, "${1}<hash>${2}").into_owned();
            }
        }
        Given { code: code.to_string(), out: helpless(&out), err: helpless(&logless(&self.text(&err))) }
    }

    fn text(&self, bytes: &[u8]) -> String {
        let mut text = readable(bytes, &self.bytes);
        for (value, name) in &self.texts {
            text = text.replace(value, name);
        }
        for (pattern, name) in VARYING.iter() {
            text = pattern.replace_all(&text, *name).into_owned();
        }
        text.split_inclusive('\n').map(narrow).collect()
    }
}

/// The members of `ETCD_INITIAL_CLUSTER` in an order of their own: etcd's is that of their ids.
fn sorted_members(line: &str) -> String {
    match line.split('"').collect::<Vec<_>>().as_slice() {
        [name @ "ETCD_INITIAL_CLUSTER=", members, end] => {
            let mut members: Vec<&str> = members.split(',').collect();
            members.sort_unstable();
            format!("{name}\"{}\"{end}", members.join(","))
        }
        _ => line.to_owned(),
    }
}

/// Text as it is; what is no text as `\x..`; numbers that have a name by their names.
fn readable(bytes: &[u8], numbers: &[(Vec<u8>, String)]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    'next: while let Some(first) = rest.first() {
        // A message that begins with an id is as long as the id's digits make it.
        let begins = |tail: &[u8]| numbers.iter().any(|(number, _)| tail.starts_with(number));
        if rest.get(1) == Some(&8) && begins(&rest[2..]) {
            text += "<length>";
            rest = &rest[1..];
            continue;
        }
        for (number, name) in numbers {
            if let Some(after) = rest.strip_prefix(number.as_slice()) {
                text += name;
                rest = after;
                continue 'next;
            }
        }
        let length = match first {
            0..=0x7f => 1,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        let letter = rest.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        match letter {
            Some(letter) if letter == "\n" || letter == "\t" || !letter.chars().all(char::is_control) => {
                text += letter;
                rest = &rest[length..];
            }
            _ => {
                text += &format!("\\x{first:02x}");
                rest = &rest[1..];
            }
        }
    }
    text
}

/// A line of a table without its padding.
fn narrow(line: &str) -> String {
    let pad = match line.as_bytes() {
        [b'+', b'-', ..] => '-',
        [b'|', b' ', ..] => ' ',
        _ if line.starts_with("Member ") => ' ',
        _ => return line.to_owned(),
    };
    let mut narrow = String::new();
    for c in line.chars() {
        if c != pad || !narrow.ends_with(pad) {
            narrow.push(c);
        }
    }
    narrow
}

/// Without the lines of a log.
fn logless(text: &str) -> String {
    let is_log = |line: &&str| {
        let dated =
            line.len() > 20 && line.starts_with("20") && line.as_bytes()[10] == b'T' && line.contains("\tinfo\t");
        // Their programs run stty on a pipe, and let it complain.
        line.starts_with("{\"level\"") || line.starts_with("stty: ") || dated
    };
    text.split_inclusive('\n').filter(|line| !is_log(line)).collect()
}

/// A help text as what it names: `<help: flags and commands>`.
fn helpless(text: &str) -> String {
    let Some(at) = text.find("NAME:\n").or_else(|| text.find("Usage:\n")) else { return text.to_owned() };
    let (before, help) = text.split_at(at);
    let mut names = BTreeSet::new();
    let mut commands = false;
    for line in help.lines() {
        if !line.starts_with([' ', '\t']) {
            commands = line.starts_with("COMMANDS") || line.starts_with("Available Commands");
        }
        let line = line.trim_start();
        if commands && !line.ends_with(':') && !line.is_empty() {
            let name = line.split(['\t']).next().unwrap_or(line);
            names.insert(name.split("  ").next().unwrap_or(name).trim().to_owned());
        }
        if line.starts_with('-') {
            let flag = line.split_whitespace().find(|word| word.starts_with("--")).unwrap_or(line);
            names.insert(flag.split(['=', '[']).next().unwrap_or(flag).to_owned());
        }
    }
    format!("{before}<help: {}>", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// Whether both are help, and ours names at least what theirs does.
pub(super) fn is_wider_help(theirs: &str, ours: &str) -> bool {
    let names = |text: &str| {
        let (before, help) = text.split_once("<help: ")?;
        let names: BTreeSet<String> = help.trim_end().trim_end_matches('>').split(", ").map(str::to_owned).collect();
        Some((before.to_owned(), names))
    };
    match (names(theirs), names(ours)) {
        (Some((before, theirs)), Some((same, ours))) => before == same && ours.is_superset(&theirs),
        _ => false,
    }
}

#[test]
fn help_is_what_it_names_and_ours_may_name_more() {
    let theirs = helpless("x\nNAME:\n\tget - g\n\nOPTIONS:\n  -h, --help[=false]\thelp\n      --rev=0\t\trevision\n");
    assert_eq!(theirs, "x\n<help: --help, --rev>");
    assert!(is_wider_help(&theirs, "x\n<help: --help, --new, --rev>"));
    assert!(!is_wider_help(&theirs, "x\n<help: --help>") && !is_wider_help(&theirs, "y\n<help: --help, --rev>"));
}

#[test]
fn what_varies_has_a_name_and_what_does_not_stays() {
    let mut names = Names::default();
    names.id(0x1234_5678_9abc_def0, "<m0>");
    assert_eq!(names.text(b"\"member_id\":1311768467463790320,\"revision\":7"), "\"member_id\":<m0>,\"revision\":7");
    assert_eq!(names.text(b"|  123456789abcdef0 | took = 1.5ms\n"), "| <m0> | took = <time>\n");
    assert_eq!(names.text(b"\x0a\x17\x08\xf0\xbd\xf3\xd5\x89\xcf\x95\x9a\x12"), "\n<length>\\x08<m0>");
    assert_eq!(names.fill("member remove <m0>"), "member remove 123456789abcdef0");
}
