//! `put`, `get`, `del` and `compaction`. What they ask for is made apart from asking, because `txn` asks the same.

use super::args::Args;
use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::print::Format;
use super::session::Session;
use crate::client;
use crate::golang;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use bytes::Bytes;
use std::io::Write;
use std::time::Duration;

/// The range end that means "to the end", and the key that all keys follow.
pub(super) const ZERO: Bytes = Bytes::from_static(&[0]);

/// How long a range delete waits for second thoughts.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

const ONE_OF_TWO: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const ONE_WORD: &str = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
const PUT_WORDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";

/// `put`.
pub(super) async fn put(session: &mut Session<'_>) -> Outcome {
    let words = &session.args.words;
    let stdin =
        if words.len() == 1 && !session.args.is_set("ignore-value") { session.read_stdin()? } else { Vec::new() };
    let request = put_request(&session.args, stdin)?;
    let answer = session.ask(request).await?;
    session.print(&answer)
}

/// `get`.
pub(super) async fn get(session: &mut Session<'_>) -> Outcome {
    let request = range_request(&session.args)?;
    let answer =
        if session.args.is_set("stream") { stream(session, request).await? } else { session.ask(request).await? };
    if session.args.is_set("count-only") && session.format != Format::Fields {
        return Err(Exit::bad_args("--count-only is only for `--write-out=fields`"));
    }
    if session.args.is_set("print-value-only") {
        if session.format != Format::Simple {
            return Err(Exit::bad_args("print-value-only is only for `--write-out=simple`"));
        }
        session.value_only = true;
    }
    session.print(&answer)
}

/// `get --stream`: the same answer, in pieces on the wire.
async fn stream(session: &mut Session<'_>, request: RangeRequest) -> Result<RangeResponse, Exit> {
    let client = session.client().await?;
    let answer = async { client.range_stream(request).await?.whole().await }.await;
    answer.map_err(|error| session.failed(exit::ERROR, &error))
}

/// `del`.
pub(super) async fn del(session: &mut Session<'_>) -> Outcome {
    let request = delete_request(&session.args)?;
    think_twice(&session.args, &mut *session.err).await?;
    let answer = session.ask(request).await?;
    session.print(&answer)
}

/// `compaction`.
pub(super) async fn compaction(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("compaction command needs 1 argument"));
    }
    let revision = golang::parse_int(&session.args.word(0), 10).map_err(Exit::error)?;
    let physical = session.args.is_set("physical");
    session.ask(CompactionRequest { revision, physical }).await?;
    session.line(format_args!("compacted revision {revision}"))
}

/// What a put asks for; `stdin` is the value if there is none among the words.
pub(super) fn put_request(args: &Args, stdin: Vec<u8>) -> Result<PutRequest, Exit> {
    let ignore_value = args.is_set("ignore-value");
    let (key, value) = match args.words.as_slice() {
        [] => return Err(Exit::bad_args(PUT_WORDS)),
        [_, _, ..] if ignore_value => {
            return Err(Exit::bad_args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        [key] if ignore_value => (key.clone(), Vec::new()),
        [_] if stdin.is_empty() => return Err(Exit::bad_args(PUT_WORDS)),
        [key] => (key.clone(), stdin),
        [key, value, ..] => (key.clone(), value.clone()),
    };
    let lease = golang::parse_int(args.text("lease").unwrap_or("0"), 16)
        .map_err(|why| Exit::bad_args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: args.is_set("prev-kv"),
        ignore_value,
        ignore_lease: args.is_set("ignore-lease"),
    })
}

/// What a get asks for.
pub(super) fn range_request(args: &Args) -> Result<RangeRequest, Exit> {
    if args.words.is_empty() {
        let needs = "get command needs one argument as key and an optional argument as range_end";
        return Err(Exit::bad_args(needs));
    }
    if args.is_set("prefix") && args.is_set("from-key") {
        return Err(Exit::bad_args(ONE_OF_TWO));
    }
    if args.is_set("keys-only") && args.is_set("count-only") {
        let one = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Exit::bad_args(one));
    }
    let serializable = is_serializable(args)?;
    let (key, range_end) = range(args)?;
    let target = sort_target(args)?;
    let order = match (target, sort_order(args)?) {
        // Keys come in ascending order anyway; asking for it would make the server sort them all again.
        (SortTarget::Key, SortOrder::Ascend) => SortOrder::None,
        (_, order) => order,
    };
    let bounds = |what: &str| {
        let (min, max) =
            (args.number(&format!("min-{what}-rev")).max(0), args.number(&format!("max-{what}-rev")).max(0));
        if max > 0 && min > max {
            let name = if what == "mod" { "Mod" } else { "Create" };
            return Err(Exit::bad_feature(format!("getMin{name}Rev(={min}) > getMax{name}Rev(={max})")));
        }
        Ok((min, max))
    };
    let (min_create_revision, max_create_revision) = bounds("create")?;
    let (min_mod_revision, max_mod_revision) = bounds("mod")?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: args.number("limit"),
        revision: args.number("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: args.is_set("keys-only"),
        count_only: args.is_set("count-only"),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

/// What a del asks for.
pub(super) fn delete_request(args: &Args) -> Result<DeleteRangeRequest, Exit> {
    if args.words.is_empty() || args.words.len() > 2 {
        let needs = "del command needs one argument as key and an optional argument as range_end";
        return Err(Exit::bad_args(needs));
    }
    if args.is_set("prefix") && args.is_set("from-key") {
        return Err(Exit::bad_args(ONE_OF_TWO));
    }
    let (key, range_end) = range(args)?;
    Ok(DeleteRangeRequest { key, range_end, prev_kv: args.is_set("prev-kv") })
}

/// A range delete that was not confirmed by `--range` says what it will do, and waits.
pub(super) async fn think_twice(args: &Args, err: &mut dyn Write) -> Outcome {
    if let [from, to] = args.words.as_slice()
        && !args.is_set("range")
    {
        let (from, to) = (golang::quote(from), golang::quote(to));
        writeln!(
            err,
            "Warning: Keys between {from} and {to} will be deleted. Please interrupt the command within next 2 \
             seconds to cancel. You can provide `--range` flag to avoid the delay."
        )?;
        wait(SECOND_THOUGHTS).await;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a person is given time to think")]
async fn wait(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Key and range end, from the words, `--prefix` and `--from-key`.
fn range(args: &Args) -> Result<(Bytes, Bytes), Exit> {
    let (prefix, from_key) = (args.is_set("prefix"), args.is_set("from-key"));
    let key = Bytes::from(args.words[0].clone());
    match args.words.get(1) {
        Some(_) if prefix || from_key => Err(Exit::bad_args(ONE_WORD)),
        Some(end) => Ok((key, end.clone().into())),
        None => Ok(prefix_or_from(key, prefix, from_key)),
    }
}

/// The range that a key means with `--prefix` or `--from-key`. The empty key then means all keys.
pub(super) fn prefix_or_from(key: Bytes, prefix: bool, from_key: bool) -> (Bytes, Bytes) {
    match (prefix || from_key, key.is_empty()) {
        (false, _) => (key, Bytes::new()),
        (true, true) => (ZERO, ZERO),
        (true, false) if prefix => (key.clone(), client::prefix_end(&key)),
        (true, false) => (key, ZERO),
    }
}

/// `--consistency`.
pub(super) fn is_serializable(args: &Args) -> Result<bool, Exit> {
    match args.text("consistency").unwrap_or("l") {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(Exit::bad_feature(format!("unknown consistency flag {}", golang::quote(other.as_bytes())))),
    }
}

fn sort_order(args: &Args) -> Result<SortOrder, Exit> {
    let text = args.text("order").unwrap_or_default();
    match text.to_uppercase().as_str() {
        "" => Ok(SortOrder::None),
        "ASCEND" => Ok(SortOrder::Ascend),
        "DESCEND" => Ok(SortOrder::Descend),
        _ => Err(Exit::bad_feature(format!("bad sort order {text}"))),
    }
}

fn sort_target(args: &Args) -> Result<SortTarget, Exit> {
    let text = args.text("sort-by").unwrap_or_default();
    match text.to_uppercase().as_str() {
        "" | "KEY" => Ok(SortTarget::Key),
        "CREATE" => Ok(SortTarget::Create),
        "MODIFY" => Ok(SortTarget::Mod),
        "VALUE" => Ok(SortTarget::Value),
        "VERSION" => Ok(SortTarget::Version),
        _ => Err(Exit::bad_feature(format!("bad sort target {text}"))),
    }
}
