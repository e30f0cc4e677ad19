//! `txn`: a transaction from the standard input.
//!
//! ```text
//! input   = compares "\n" success "\n" failure "\n"
//! compare = target "(" QUOTED ")" blanks op blanks QUOTED
//! target  = ver|version | c|create | m|mod | val|value | lease
//! op      = "=" | "!=" | "<" | ">"
//! request = ("put"|"get"|"del") and that command's own flags and words
//! ```
//!
//! Numbers stand in quotes too. Where etcdctl up to 3.6 panics (an unknown operator, a lease), this reads or refuses.
//! Source: etcd `ctlv3/command/txn_command.go`.

use super::commands;
use super::exit::Exit;
use super::exit::Outcome;
use super::kv;
use super::session::Session;
use crate::golang;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use std::io::BufRead as _;

/// `txn`.
pub(super) async fn txn(session: &mut Session<'_>) -> Outcome {
    if !session.args.words.is_empty() {
        return Err(Exit::bad_args("txn command does not accept argument"));
    }
    let client = session.client().await?.patient(Session::NO_LIMIT);
    let mut request = TxnRequest::default();
    prompt(session, "compares:")?;
    while let Some(line) = line(session)? {
        request.compare.push(compare(&line)?);
    }
    prompt(session, "success requests (get, put, del):")?;
    request.success = operations(session).await?;
    prompt(session, "failure requests (get, put, del):")?;
    request.failure = operations(session).await?;
    let answer = client.call(request).await.map_err(|error| session.failed(super::exit::ERROR, &error))?;
    session.print(&answer)
}

fn prompt(session: &mut Session<'_>, text: &str) -> Outcome {
    if session.args.is_set("interactive") {
        session.line(text)?;
        session.out.flush()?;
    }
    Ok(())
}

/// The next line, without blanks around it; `None` for an empty one, which ends a list.
fn line(session: &mut Session<'_>) -> Result<Option<String>, Exit> {
    let mut bytes = Vec::new();
    session.stdin.read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(Exit::invalid_input("EOF"));
    }
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(if text.is_empty() { None } else { Some(text) })
}

async fn operations(session: &mut Session<'_>) -> Result<Vec<RequestOp>, Exit> {
    let mut operations = Vec::new();
    while let Some(line) = line(session)? {
        let request = Some(operation(session, &line).await?);
        operations.push(RequestOp { request });
    }
    Ok(operations)
}

/// One request of a list.
async fn operation(session: &mut Session<'_>, line: &str) -> Result<Request, Exit> {
    let words = words(line)?;
    // "compare" is etcd's slip, and scripts have seen it.
    let [name, rest @ ..] = words.as_slice() else {
        return Err(Exit::invalid_input(format!("invalid txn compare request: {line}")));
    };
    if rest.is_empty() {
        return Err(Exit::invalid_input(format!("invalid txn compare request: {line}")));
    }
    let invalid = || Exit::invalid_input(format!("invalid txn request: {line}"));
    let (name, flags) = commands::operation(&String::from_utf8_lossy(name)).ok_or_else(invalid)?;
    let args = commands::parse_words(rest, flags).map_err(|_| invalid())?;
    match name {
        "put" => kv::put_request(&args, Vec::new()).map(Request::RequestPut),
        "get" => kv::range_request(&args).map(Request::RequestRange),
        _ => {
            let request = kv::delete_request(&args)?;
            kv::think_twice(&args, &mut *session.err).await?;
            Ok(Request::RequestDeleteRange(request))
        }
    }
}

/// The words of a line: `"…"` with Go's escapes, `'…'` as it stands, or a run without blanks.
pub(super) fn words(line: &str) -> Result<Vec<Vec<u8>>, Exit> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' => closing_quote(rest),
            '\'' => rest[1..].find('\'').map(|end| end + 2),
            c if c.is_ascii_whitespace() => None,
            _ => Some(rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len())),
        };
        match (first, taken) {
            // A quote that is never closed is passed over, as in etcd.
            (_, None) => rest = &rest[first.len_utf8()..],
            ('"', Some(end)) => {
                let (word, _) =
                    golang::unquote_prefix(&rest[..end]).ok_or_else(|| Exit::invalid_input("invalid syntax"))?;
                words.push(word);
                rest = &rest[end..];
            }
            ('\'', Some(end)) => {
                words.push(rest.as_bytes()[1..end - 1].to_vec());
                rest = &rest[end..];
            }
            (_, Some(end)) => {
                words.push(rest.as_bytes()[..end].to_vec());
                rest = &rest[end..];
            }
        }
    }
    Ok(words)
}

/// Where a string that starts with `"` ends, the closing quote included.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// One comparison.
fn compare(line: &str) -> Result<Compare, Exit> {
    let malformed = |why: &str| Exit::invalid_input(format!("malformed comparison: {line}{why}"));
    let (target, rest) = line.split_once('(').ok_or_else(|| malformed(""))?;
    let Parts { key, op, operand } = parts(rest);
    let Some(operand) = operand else {
        let key = golang::quote(&key);
        return Err(malformed(&format!("; got {target}({key}) {op} \"\"")));
    };
    let text = String::from_utf8_lossy(&operand).into_owned();
    let number = |radix| {
        golang::parse_int(&text, radix).map_err(|_| Exit::invalid_input(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(operand.clone().into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => return Err(malformed(&format!(" (unknown target {other})"))),
    };
    let result = match op.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => return Err(malformed(&format!(" (unknown operator {other})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: bytes::Bytes::new(),
        target_union: Some(union),
    })
}

/// What could be read of `"key") op "operand"`, in this order.
#[derive(Default)]
struct Parts {
    key: Vec<u8>,
    op: String,
    operand: Option<Vec<u8>>,
}

fn parts(text: &str) -> Parts {
    let mut parts = Parts::default();
    let Some((key, rest)) = golang::unquote_prefix(text.trim_start()) else { return parts };
    parts.key = key;
    let Some(rest) = rest.strip_prefix(')').filter(|rest| rest.starts_with([' ', '\t'])) else { return parts };
    let rest = rest.trim_start();
    let end = rest.find([' ', '\t']).unwrap_or(rest.len());
    parts.op = rest[..end].to_owned();
    parts.operand = golang::unquote_prefix(rest[end..].trim_start()).map(|(operand, _)| operand);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let exit = compare(line).expect_err(line);
        assert_eq!(exit.code, 3, "{line}");
        exit.message.expect("a sentence")
    }

    #[test]
    fn comparisons_are_read() {
        let read = compare(r#"m("key1") > "0""#).expect("good");
        assert_eq!(read.key, "key1");
        assert_eq!(read.target(), CompareTarget::Mod);
        assert_eq!(read.result(), CompareResult::Greater);
        assert_eq!(read.target_union, Some(TargetUnion::ModRevision(0)));
        let read = compare("val(`k`)  !=\t\"a\\x00b\" and more").expect("good");
        assert_eq!(read.target_union, Some(TargetUnion::Value(b"a\0b"[..].into())));
        let read = compare(r#"lease("k") = "1f""#).expect("good");
        assert_eq!(read.target_union, Some(TargetUnion::Lease(0x1f)));
    }

    #[test]
    fn what_is_no_comparison_is_refused_in_etcds_words() {
        let no_blank = r#"mod("key1")>"0""#;
        assert_eq!(refused(no_blank), format!(r#"malformed comparison: {no_blank}; got mod("key1")  """#));
        assert_eq!(refused("foo"), "malformed comparison: foo");
        assert_eq!(refused("mod(key1) > 0"), r#"malformed comparison: mod(key1) > 0; got mod("")  """#);
        assert_eq!(refused(r#"MOD("k") > "0""#), r#"malformed comparison: MOD("k") > "0" (unknown target MOD)"#);
        assert_eq!(refused(r#"mod("k") > "abc""#), r#"invalid txn compare request: mod("k") > "abc""#);
        assert_eq!(refused(r#"mod("k") >= "0""#), r#"malformed comparison: mod("k") >= "0" (unknown operator >=)"#);
    }

    #[test]
    fn words_are_split_as_etcd_splits_them() {
        let split = |line| -> Vec<String> {
            let words = words(line).expect("good");
            words.into_iter().map(|word| String::from_utf8(word).expect("text")).collect()
        };
        assert_eq!(split(r#"put k2 "say \"hi\"""#), ["put", "k2", r#"say "hi""#]);
        assert_eq!(split("put k4 'a b'"), ["put", "k4", "a b"]);
        assert_eq!(split(r#"put a b"c d"#), ["put", "a", r#"b"c"#, "d"], "a quote inside a word is a letter");
        assert_eq!(split("  "), [""; 0]);
        assert!(words(r#"put k "\q""#).is_err());
    }
}
