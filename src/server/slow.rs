//! Requests that took long, in the log: etcd's line `request stats`, and its warning of reads that took long to carry out. Which part of a request
//! took long tells `trace.rs`. Of very many that were slow, some are told (`sampler.rs`).
//!
//! A unary request is timed from its arrival to the end of its handler. What it asked for is noted by the service, by reference counts and without a copy, and made into
//! text only if it was slow, or at level debug. What a service notes finds its request by the task that both run in, since the
//! generated services hand nothing on. Source: etcd `api/v3rpc/interceptor.go` (`logUnaryRequestStats`), `etcdserver/txn/util.go`.

#![expect(clippy::disallowed_methods, reason = "requests are timed")]

use super::identity::Origin;
use super::log;
use super::sampler::Sampler;
use super::token::unix_seconds;
use super::trace;
use super::trace::Answered;
use super::trace::Marks;
use crate::apply::loggable;
use crate::meter;
use crate::meter::Histogram;
use crate::proto::etcdserverpb as pb;
use prost::Message;
use std::cell::Cell;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// What a request asks for, as far as the log tells it.
pub(super) enum Asked {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
}

/// What is known of the request that is being answered.
struct Current {
    began: Instant,
    asked: RefCell<Option<Asked>>,
    /// How many pairs the answer is about, and whether a transaction's conditions held.
    count: Cell<i64>,
    succeeded: Cell<bool>,
    /// When the handler was done, if somebody has looked at the clock then.
    took: Cell<Option<Duration>>,
    marks: Cell<Marks>,
    answered: Cell<Answered>,
}

tokio::task_local! {
    // In a box: it is moved in and out whenever its request goes on.
    static CURRENT: Box<Current>;
}

/// Of very many slow requests, some are told.
static TRACES: Sampler = Sampler::new();
static STATS: Sampler = Sampler::new();

/// A request that is told in the log once its answer is sent.
pub(super) struct Slow {
    asked: Option<Asked>,
    count: i64,
    succeeded: bool,
    took: Duration,
    expensive: bool,
    remote: String,
    method: &'static str,
}

/// Answers a unary request; beside the answer stands what is to be told of it, if it took longer than `limit`.
pub(super) async fn timed<T>(
    began: Instant,
    (method, origin): (&'static str, &Origin),
    limit: Duration,
    work: impl Future<Output = T>,
) -> (T, Option<Box<Slow>>) {
    let current = Current {
        began,
        asked: RefCell::default(),
        count: Cell::new(-1),
        succeeded: Cell::default(),
        took: Cell::default(),
        marks: Cell::default(),
        answered: Cell::default(),
    };
    CURRENT
        .scope(Box::new(current), async {
            let output = work.await;
            let slow = CURRENT.with(|current| {
                let took = current.took.get().unwrap_or_else(|| current.began.elapsed());
                if took > trace::THRESHOLD
                    && let Some(asked) = &*current.asked.borrow()
                    && TRACES.passes(unix_seconds())
                {
                    trace::tell(asked, current.marks.get(), current.answered.get(), took);
                }
                let expensive = took > limit && STATS.passes(unix_seconds());
                if !expensive && !log::wants_debug() {
                    return None;
                }
                let asked = current.asked.borrow_mut().take();
                let (count, succeeded) = (current.count.get(), current.succeeded.get());
                Some(Box::new(Slow { asked, count, succeeded, took, expensive, remote: remote(origin), method }))
            });
            (output, slow)
        })
        .await
}

fn remote(origin: &Origin) -> String {
    origin.from.map_or_else(|| "No remote client info.".to_owned(), |from| from.to_string())
}

/// Notes what the request at hand asks for.
pub(super) fn asks(what: impl FnOnce() -> Asked) {
    // Outside of a request, as in tests, nobody wants to know.
    let _ = CURRENT.try_with(|current| *current.asked.borrow_mut() = Some(what()));
}

/// Notes how many pairs the answer is about.
pub(super) fn counts(pairs: i64) {
    let _ = CURRENT.try_with(|current| current.count.set(pairs));
}

/// Notes what the answer has: so many pairs or operations, at this header's revision.
pub(super) fn answers(count: usize, header: Option<&pb::ResponseHeader>) {
    let revision = header.map_or(0, |header| header.revision);
    let _ = CURRENT.try_with(|current| current.answered.set(Answered { count, revision }));
}

/// Notes that a read may be carried out, after any wait for the leader.
pub(super) fn begins() -> Instant {
    let now = Instant::now();
    let _ = CURRENT.try_with(|current| {
        let begun = Some(now.saturating_duration_since(current.began));
        current.marks.set(Marks { begun, ..current.marks.get() });
    });
    now
}

/// Notes that the rows of a read are chosen.
pub(super) fn chose() {
    let _ = CURRENT.try_with(|current| {
        let chosen = Some(current.began.elapsed());
        current.marks.set(Marks { chosen, ..current.marks.get() });
    });
}

/// Notes whether a transaction's conditions held.
pub(super) fn decided(succeeded: bool) {
    let _ = CURRENT.try_with(|current| current.succeeded.set(succeeded));
}

/// A read that is carried out: how long that takes is counted, and told if it was too long.
pub(super) struct Read(Instant);

/// The histograms of reads by their success, looked up once.
static RANGES: LazyLock<[Arc<Histogram>; 2]> =
    LazyLock::new(|| ["false", "true"].map(|success| meter::RANGE_TIMES.with(&[success])));

impl Read {
    /// Begins, after any wait for the leader.
    pub(super) fn begin() -> Read {
        Read(begins())
    }

    /// Counts a range.
    pub(super) fn range_done(&self, success: bool) {
        let now = Instant::now();
        RANGES[usize::from(success)].time(now - self.0);
        let _ = CURRENT.try_with(|current| current.took.set(Some(now - current.began)));
    }
}

/// Warns of a read that took longer than `expected`, the wait for the leader included; zero warns of none.
pub(super) fn warn_of_read<M: Message>(
    prefix: &str,
    expected: Duration,
    request: impl FnOnce() -> String,
    response: Result<(&str, usize, &M), &str>,
) {
    if expected.is_zero() {
        return;
    }
    let elapsed = |current: &Current| current.took.get().unwrap_or_else(|| current.began.elapsed());
    let Ok(took) = CURRENT.try_with(|current| elapsed(current)) else { return };
    if took <= expected {
        return;
    }
    meter::SLOW_APPLIES.inc();
    let (text, error) = match response {
        Ok((name, count, message)) => (format!("{name}:{count} size:{}", message.encoded_len()), ""),
        Err(why) => (String::new(), why),
    };
    tracing::warn!(
        took = ?took, "expected-duration" = ?expected, prefix, request = request(), response = text, error,
        "apply request took too long"
    );
}

impl Slow {
    /// Tells it. `sent` are the bytes of the answer.
    pub(super) fn tell(&self, sent: u64) {
        let (count, size, content) = match &self.asked {
            Some(Asked::Range(range)) => (0, range.encoded_len(), loggable::range(range)),
            Some(Asked::Put(put)) => (1, put.encoded_len(), loggable::put(put)),
            Some(Asked::Delete(delete)) => (0, delete.encoded_len(), loggable::delete(delete)),
            Some(Asked::Txn(txn)) => {
                let done = if self.succeeded { &txn.success } else { &txn.failure };
                (done.len(), done.iter().map(Message::encoded_len).sum(), loggable::txn(txn))
            }
            None => return self.line(-1, -1, -1, -1, ""),
        };
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let sent = i64::try_from(sent).unwrap_or(i64::MAX);
        self.line(number(count), number(size), self.count.max(0), sent, &content);
    }

    fn line(&self, count: i64, size: i64, answered: i64, sent: i64, content: &str) {
        let started = log::timestamp(SystemTime::now().checked_sub(self.took).unwrap_or(SystemTime::UNIX_EPOCH));
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    "start time" = started,
                    "time spent" = ?self.took,
                    remote = self.remote,
                    "response type" = self.method,
                    "request count" = count,
                    "request size" = size,
                    "response count" = answered,
                    "response size" = sent,
                    "request content" = content,
                    "request stats"
                )
            };
        }
        if self.expensive { tell!(warn) } else { tell!(debug) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_took_longer_is_told_and_with_what_it_asked() {
        let put = || pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let work = || async {
            asks(|| Asked::Put(put()));
            counts(0);
        };
        let (origin, method) = (Origin::default(), "/etcdserverpb.KV/Put");
        let ((), slow) = timed(Instant::now(), (method, &origin), Duration::from_secs(60), work()).await;
        assert!(slow.is_none());
        let ((), slow) = timed(Instant::now(), (method, &origin), Duration::ZERO, work()).await;
        let slow = slow.expect("longer than no time");
        assert!(slow.expensive && matches!(slow.asked, Some(Asked::Put(asked)) if asked == put()));
        assert_eq!((slow.count, slow.remote.as_str()), (0, "No remote client info."));
        // Outside of a request nothing happens.
        asks(|| Asked::Put(put()));
    }
}
