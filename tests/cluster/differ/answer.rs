//! Answers as text that can be compared: what no two servers share is replaced by a word, all else stays, down to the error's text.
//!
//! A text is Rust's pretty form of the message. [`fields`] takes it apart again, so that a difference has a path (`kvs.0.lease`).

use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::KeyValue;
use pb::range_request::SortOrder;
use pb::range_request::SortTarget;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fmt::Write;
use tonic::Response;
use tonic::Status;

/// The path of a refusal in [`fields`], and of an answer that did not come.
const ERROR: &str = "error";
const SILENCE: &str = "silence";
const ABSENT: &str = "(absent)";

/// One place where two answers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) path: String,
    pub(super) ours: String,
    pub(super) theirs: String,
}

pub(super) fn told<T: Debug>(answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(response) => format!("{:#?}", response.into_inner()),
        Err(status) => refused(&status),
    }
}

pub(super) fn refused(status: &Status) -> String {
    format!("{ERROR}: {:?}: {},", status.code(), status.message())
}

/// An answer with several parts.
pub(super) fn part(text: &mut String, name: &str, answer: &str) {
    writeln!(text, "{name}: {{\n{answer}\n}},").expect("a String takes all");
}

/// Takes out what is one server's own: the ids of cluster and member, the term.
pub(super) fn neutral(text: &str, own: u64) -> String {
    let own = own.to_string();
    let mut neutral = String::with_capacity(text.len());
    for line in text.lines() {
        let field = line.trim_start();
        let hidden = ["cluster_id: ", "raft_term: "].into_iter().find(|name| field.starts_with(name));
        match hidden {
            Some(name) if field != format!("{name}0,") => {
                neutral.push_str(name);
                neutral.push_str("(set),");
            }
            _ if line.contains(&own) => neutral.push_str(&line.replace(&own, "(own)")),
            _ => neutral.push_str(line),
        }
        neutral.push('\n');
    }
    neutral
}

/// Makes the order of equal rows the same everywhere: etcd's sort is not stable, so nobody may rely on it.
pub(super) fn settle_ties(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key {
        return;
    }
    let rank = |kv: &KeyValue| match target {
        SortTarget::Version => kv.version.to_string(),
        SortTarget::Create => kv.create_revision.to_string(),
        SortTarget::Mod => kv.mod_revision.to_string(),
        SortTarget::Value if request.keys_only => String::new(),
        SortTarget::Value | SortTarget::Key => format!("{:?}", kv.value),
    };
    if request.limit > 0 {
        // Which of several equal rows made it is chance: only what was sorted by is compared.
        for kv in &mut response.kvs {
            let rank = rank(kv);
            *kv = KeyValue { value: rank.into(), ..KeyValue::default() };
        }
        return;
    }
    for run in response.kvs.chunk_by_mut(|a, b| rank(a) == rank(b)) {
        run.sort_by(|a, b| a.key.cmp(&b.key));
    }
    // The values are gone, so nobody can tell where one run ends.
    if request.keys_only && target == SortTarget::Value {
        response.kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
    // An order that does not exist is none in etcd before 3.6, and refused later.
    if SortOrder::try_from(request.sort_order).is_err() {
        response.kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

/// A pretty text as paths and values. Lists are numbered.
pub(super) fn fields(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    // Each open bracket: its name in the path (none for `Some(` and types), and how many unnamed things it has had.
    let mut open: Vec<(Option<String>, usize, bool)> = vec![(None, 0, false)];
    for line in text.lines().map(str::trim) {
        let opens = line.ends_with(['{', '(', '[']);
        if opens {
            let name = named(line).map(|(name, _)| name.to_owned()).or_else(|| count(&mut open));
            open.push((name, 0, line.ends_with('[')));
        } else if ["}", ")", "]", "},", "),", "],"].contains(&line) {
            open.pop();
        } else if !line.is_empty() {
            let (name, value) = named(line)
                .map_or_else(|| (count(&mut open).unwrap_or_default(), line), |(name, value)| (name.to_owned(), value));
            let path: Vec<&str> = open.iter().filter_map(|(name, ..)| name.as_deref()).chain([name.as_str()]).collect();
            let path = path.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(".");
            fields.insert(path, value.trim_end_matches(',').to_owned());
        }
    }
    fields
}

/// The number of the next unnamed thing, if the open bracket is a list.
fn count(open: &mut [(Option<String>, usize, bool)]) -> Option<String> {
    let (_, number, is_list) = open.last_mut()?;
    *number += 1;
    is_list.then(|| (*number - 1).to_string())
}

/// `name: value`, where the name is one that a field can have.
fn named(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    is_name.then_some((name, value.trim_start()))
}

/// Where two answers differ. What one side refuses is one difference, not one for each field of the other's answer.
pub(super) fn differences(ours: &str, theirs: &str) -> Vec<Field> {
    if ours == theirs {
        return Vec::new();
    }
    let (ours, theirs) = (fields(ours), fields(theirs));
    let mut found = Vec::new();
    let refusals: Vec<String> = ours.keys().chain(theirs.keys()).filter(|path| is_refusal(path)).cloned().collect();
    let covered = |path: &str| {
        refusals.iter().any(|refusal| {
            let below = refusal.trim_end_matches(|c: char| c != '.');
            path != refusal && path.starts_with(below)
        })
    };
    let mut paths: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (a, b) = (ours.get(path), theirs.get(path));
        if a == b || covered(path) {
            continue;
        }
        let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| ABSENT.to_owned());
        found.push(Field { path: path.clone(), ours: text(a), theirs: text(b) });
    }
    found
}

fn is_refusal(path: &str) -> bool {
    [ERROR, SILENCE].iter().any(|word| path == *word || path.ends_with(&format!(".{word}")))
}

#[test]
fn a_pretty_message_comes_apart_into_paths() {
    let kv = |key: &'static str| KeyValue { key: key.into(), lease: 7, ..Default::default() };
    let header = Some(pb::ResponseHeader { member_id: 42, raft_term: 3, ..Default::default() });
    let response = pb::RangeResponse { header, kvs: vec![kv("a{"), kv("b")], more: false, count: 2 };
    let text = neutral(&format!("{response:#?}"), 42);
    let fields = fields(&text);
    assert_eq!(fields["kvs.1.key"], r#"b"b""#);
    assert_eq!(fields["kvs.0.key"], r#"b"a{""#);
    assert_eq!(fields["header.member_id"], "(own)");
    assert_eq!(fields["header.raft_term"], "(set)");
    assert_eq!(fields["header.cluster_id"], "0");
    assert_eq!(fields["count"], "2");
}

#[test]
fn a_refusal_is_one_difference() {
    let mut ours = String::new();
    part(&mut ours, "first", "a: 1,\nb: 2,");
    part(&mut ours, "second", "a: 1,");
    let mut theirs = String::new();
    part(&mut theirs, "first", "error: Unknown: no: really,");
    part(&mut theirs, "second", "a: 2,");
    let found = differences(&ours, &theirs);
    let paths: Vec<&str> = found.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, ["first.error", "second.a"]);
    assert_eq!((found[0].ours.as_str(), found[0].theirs.as_str()), (ABSENT, "Unknown: no: really"));
}
