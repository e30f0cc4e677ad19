//! `make-mirror`: copies what is there, and then every change, to another cluster.
//!
//! A revision here becomes one transaction there. Nothing is lost or done twice in effect when a leader goes on either side: the watch takes up
//! where it was, and a write whose connection broke is sent again, since it writes the same. Source: etcd `ctlv3/command/make_mirror_command.go`,
//! `client/v3/mirror`.

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::kv;
use super::session::Session;
use crate::client;
use crate::client::Call;
use crate::client::Client;
use crate::client::Config;
use crate::client::Watch;
use crate::cmdline::progress::Bar;
use crate::error::Error;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use bytes::Bytes;
use std::time::Duration;
use tonic::Code;

/// Keys that are read at once.
const PAGE: i64 = 1000;
/// Operations of one transaction, if `--max-txn-ops` says nothing.
const OPS_MAX: usize = 128;
/// How often the number of mirrored keys is printed.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// The wait before a step is taken again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is copied, and to where.
struct Mirror {
    from: Client,
    to: Client,
    prefix: Bytes,
    dest_prefix: Bytes,
    ops_max: usize,
    /// Up to this revision everything is there.
    seen: i64,
    /// Changes that were carried over.
    total: i64,
}

/// `make-mirror`. Ends by a failure or a signal only.
pub(super) async fn make_mirror(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("make-mirror takes one destination argument"));
    }
    let text = |session: &Session<'_>, name: &str| Bytes::from(session.args.text(name).unwrap_or_default().to_owned());
    let (prefix, given) = (text(session, "prefix"), text(session, "dest-prefix"));
    let no_prefix = session.args.is_set("no-dest-prefix");
    let to = destination(session).await?;
    let from = session.client().await?.patient(Session::NO_LIMIT);
    if no_prefix && !given.is_empty() {
        let one = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
        return Err(Exit::bad_args(one));
    }
    let dest_prefix = if given.is_empty() && !no_prefix { prefix.clone() } else { given };
    let ops_max = match session.args.number("max-txn-ops") {
        given if given > 0 => usize::try_from(given).unwrap_or(OPS_MAX),
        _ => OPS_MAX,
    };
    let seen = (session.args.number("rev") - 1).max(0);
    let mut mirror = Mirror { from, to, prefix, dest_prefix, ops_max, seen, total: 0 };
    let failed = match mirror.run(session).await {
        Ok(never) => match never {},
        Err(error) => error,
    };
    Err(failed)
}

/// A client of the destination, with the flags that begin with `--dest-`.
async fn destination(session: &mut Session<'_>) -> Result<Client, Exit> {
    let config = session.config().await?;
    let tls = session.tls_files("dest-")?;
    let user = session.user("dest-", "Destination Password: ")?;
    // Several, as --endpoints takes them: one member alone cannot outlive its own death.
    let endpoints = session.args.word(0).split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
    let client = Client::new(Config { endpoints, tls, user, call_timeout: None, ..config });
    match client.authenticate().await {
        Err(error) if !error.says(&Error::AuthNotEnabled.to_string()) => {
            Err(session.failed(exit::BAD_CONNECTION, &error))
        }
        _ => Ok(client),
    }
}

/// Sends a request that may be sent twice until it is answered.
async fn surely<C: Call>(client: &Client, request: C) -> Result<C::Answer, client::Error> {
    loop {
        match client.call(request.clone()).await {
            Err(error) if error.code() == Code::Unavailable => again_soon().await,
            done => return done,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a cluster without a leader is given time")]
async fn again_soon() {
    tokio::time::sleep(AGAIN_AFTER).await;
}

impl Mirror {
    async fn run(&mut self, session: &mut Session<'_>) -> Result<std::convert::Infallible, Exit> {
        if self.seen == 0 {
            self.copy(session).await?;
        }
        self.follow(session).await
    }

    /// Copies what is there now, page by page at one revision.
    async fn copy(&mut self, session: &mut Session<'_>) -> Outcome {
        let (mut key, range_end) = kv::prefix_or_from(self.prefix.clone(), true, false);
        let mut bar = None;
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision: self.seen,
                sort_order: SortOrder::None.into(),
                ..RangeRequest::default()
            };
            let page = surely(&self.from, request).await;
            let page = page.map_err(|error| session.failed(exit::ERROR, &error))?;
            if self.seen == 0 {
                self.seen = page.header.unwrap_or_default().revision;
            }
            let bar = bar.get_or_insert_with(|| Bar::new(page.count.unsigned_abs()));
            let last = page.kvs.last().map(|kv| [&kv.key[..], b"\0"].concat());
            for kv in page.kvs {
                let put = PutRequest { key: self.there(&kv.key), value: kv.value, ..PutRequest::default() };
                surely(&self.to, put).await.map_err(|error| session.failed(exit::ERROR, &error))?;
                self.total += 1;
                bar.show(self.total.unsigned_abs(), session.err);
            }
            match last {
                Some(next) if page.more => key = next.into(),
                _ => break,
            }
        }
        if let Some(bar) = bar {
            bar.end(session.err);
        }
        Ok(())
    }

    /// Carries every change over.
    async fn follow(&mut self, session: &mut Session<'_>) -> Result<std::convert::Infallible, Exit> {
        let mut tell = tokio::time::interval(TELL_EVERY);
        tell.tick().await;
        loop {
            let (key, range_end) = kv::prefix_or_from(self.prefix.clone(), true, false);
            let mut watch = self.from.watch(client::watch_from(key, range_end, self.seen + 1));
            loop {
                let answer = tokio::select! {
                    answer = watch.next() => answer,
                    _ = tell.tick() => {
                        session.line(self.total)?;
                        session.out.flush()?;
                        continue;
                    }
                };
                match answer {
                    Ok(Some(answer)) if answer.canceled => return Err(Exit::error(Watch::why_canceled(&answer))),
                    Ok(Some(answer)) => self.apply(answer.events).await.map_err(|e| session.failed(exit::ERROR, &e))?,
                    Ok(None) => break,
                    Err(error) if error.code() == Code::Unavailable => {
                        again_soon().await;
                        break;
                    }
                    Err(error) => return Err(session.failed(exit::ERROR, &error)),
                }
            }
        }
    }

    /// Writes events: those of one revision together, as far as a transaction has room.
    async fn apply(&mut self, events: Vec<Event>) -> Result<(), client::Error> {
        let mut ops: Vec<RequestOp> = Vec::new();
        let mut revision = 0;
        for event in events {
            let deleted = event.r#type() == EventType::Delete;
            let kv = event.kv.unwrap_or_default();
            if kv.mod_revision != revision || ops.len() == self.ops_max {
                self.commit(std::mem::take(&mut ops), revision).await?;
            }
            revision = kv.mod_revision;
            let key = self.there(&kv.key);
            let request = match deleted {
                true => Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
                false => Request::RequestPut(PutRequest { key, value: kv.value, ..PutRequest::default() }),
            };
            ops.push(RequestOp { request: Some(request) });
        }
        self.commit(ops, revision).await
    }

    async fn commit(&mut self, success: Vec<RequestOp>, revision: i64) -> Result<(), client::Error> {
        if success.is_empty() {
            return Ok(());
        }
        self.total += success.len() as i64;
        surely(&self.to, TxnRequest { success, ..TxnRequest::default() }).await?;
        self.seen = self.seen.max(revision);
        Ok(())
    }

    /// A key's name there.
    fn there(&self, key: &Bytes) -> Bytes {
        let rest = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.dest_prefix[..], rest].concat().into()
    }
}
