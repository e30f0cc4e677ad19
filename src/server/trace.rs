//! etcd's lines `trace[n]`: of a range, a put or a transaction that took longer than a tenth of a second, which part of it did.
//!
//! Nothing is kept for them but what a request notes anyway and two numbers more: when the quorum had agreed, and when the rows of a large answer
//! were chosen. Steps have etcd's names where we take the same steps; what happens to a write between its proposal and its answer is one. The n ties the parts of
//! one line together, as in etcd, where it is drawn by lot; here it counts. Left out: `compact`, and the loop that many reads share. Source: etcd
//! `pkg/traceutil/trace.go`, `etcdserver/v3_server.go`.

#![expect(clippy::disallowed_methods, reason = "a line says when its request began and ended")]

use super::log;
use super::slow::Asked;
use crate::apply::check;
use prost::Message as _;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

/// What takes longer is told; etcd's `traceThreshold`.
pub(super) const THRESHOLD: Duration = Duration::from_millis(100);

const AGREED: &str = "agreement among raft nodes before linearized reading";
const CHOSEN: &str = "range keys from in-memory index tree";
const LOADED: &str = "range keys from bolt db";
const PROPOSED: &str = "process raft request";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How far a request had come when, since it arrived. Nothing where it has not come, or where nobody has looked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// A read may be carried out: the quorum has agreed, if it was asked.
    pub(super) begun: Option<Duration>,
    /// The rows of a large answer are chosen.
    pub(super) chosen: Option<Duration>,
}

/// What the answer has of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answered {
    /// Pairs of a range, operations of a transaction.
    pub(super) count: usize,
    /// 0 for what was not answered.
    pub(super) revision: i64,
}

/// A request in its parts.
struct Trace {
    operation: &'static str,
    detail: Vec<(&'static str, String)>,
    /// What was done, and when it was.
    steps: Vec<(&'static str, Duration)>,
}

/// Tells of a request that took so long until now, if it is one that etcd tells of.
pub(super) fn tell(asked: &Asked, marks: Marks, answered: Answered, took: Duration) {
    let Some(trace) = Trace::of(asked, marks, answered, took) else { return };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (end, steps) = (SystemTime::now(), trace.told_steps(number));
    tracing::info!(
        detail = trace.told_detail(),
        duration = ?took,
        start = log::timestamp(end.checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH)),
        end = log::timestamp(end),
        steps = %log::list(&steps),
        step_count = steps.len(),
        "trace[{number}] {}",
        trace.operation
    );
}

impl Trace {
    /// Nothing of deletions, and of writes that came to nothing.
    fn of(asked: &Asked, marks: Marks, answered: Answered, took: Duration) -> Option<Trace> {
        let is_answered = answered.revision > 0;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (operation, mut detail, is_read, is_linearizable) = match asked {
            Asked::Range(range) => {
                let detail = vec![("range_begin", text(&range.key)), ("range_end", text(&range.range_end))];
                ("range", detail, true, !range.serializable)
            }
            Asked::Put(put) => {
                let detail = vec![("key", text(&put.key)), ("req_size", put.encoded_len().to_string())];
                ("put", detail, false, false)
            }
            Asked::Txn(txn) => {
                let is_read = check::is_read_only(txn);
                let detail = vec![("read_only", is_read.to_string())];
                ("transaction", detail, is_read, !check::is_serializable(txn))
            }
            Asked::Delete(_) => return None,
        };
        if !is_read && !is_answered {
            return None;
        }
        let counted = match asked {
            Asked::Range(_) => Some("response_count"),
            Asked::Txn(_) => Some("number_of_response"),
            Asked::Put(_) | Asked::Delete(_) => None,
        };
        if is_answered {
            detail.extend(counted.map(|name| (name, answered.count.to_string())));
            detail.push(("response_revision", answered.revision.to_string()));
        }
        let mut steps = Vec::new();
        if !is_read {
            steps.push((PROPOSED, took));
        } else {
            if is_linearizable {
                steps.push((AGREED, marks.begun.unwrap_or(took)));
            }
            steps.extend(marks.chosen.map(|at| (CHOSEN, at)));
            if marks.begun.is_some() {
                steps.push((LOADED, took));
            }
        }
        Some(Trace { operation, detail, steps })
    }

    fn told_detail(&self) -> String {
        let mut text = String::from("{");
        for (name, value) in &self.detail {
            // Writing to a String cannot fail.
            let _ = write!(text, "{name}:{value}; ");
        }
        text + "}"
    }

    /// The steps that took a good part of the time: more than the threshold, divided by their number and one.
    fn told_steps(&self, number: u32) -> Vec<String> {
        let least = THRESHOLD / u32::try_from(self.steps.len() + 1).unwrap_or(u32::MAX);
        let began = [Duration::ZERO].into_iter().chain(self.steps.iter().map(|(_, at)| *at));
        let took = self.steps.iter().zip(began).map(|((what, at), began)| (*what, at.saturating_sub(began)));
        took.filter(|(_, took)| *took > least)
            .map(|(what, took)| format!("trace[{number}] '{what}'  (duration: {took:?})"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb as pb;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn told(
        asked: &Asked,
        marks: Marks,
        answered: Answered,
        took: Duration,
    ) -> Option<(&'static str, String, Vec<String>)> {
        let trace = Trace::of(asked, marks, answered, took)?;
        Some((trace.operation, trace.told_detail(), trace.told_steps(7)))
    }

    #[test]
    fn a_range_tells_which_of_its_steps_took_long() {
        let range = pb::RangeRequest { key: "a".into(), range_end: "c".into(), ..Default::default() };
        let marks = Marks { begun: Some(ms(90)), chosen: Some(ms(95)) };
        let answered = Answered { count: 2, revision: 9 };
        let (operation, detail, steps) = told(&Asked::Range(range.clone()), marks, answered, ms(150)).expect("told");
        assert_eq!(operation, "range");
        assert_eq!(detail, "{range_begin:a; range_end:c; response_count:2; response_revision:9; }");
        // Choosing rows took 5 ms of 150: less than a fourth of the threshold.
        assert_eq!(
            steps,
            [
                "trace[7] 'agreement among raft nodes before linearized reading'  (duration: 90ms)",
                "trace[7] 'range keys from bolt db'  (duration: 55ms)"
            ]
        );
        // No quorum has agreed: nothing else was done.
        let (_, detail, steps) =
            told(&Asked::Range(range.clone()), Marks::default(), Answered::default(), ms(7000)).expect("told");
        assert_eq!(detail, "{range_begin:a; range_end:c; }");
        assert_eq!(steps, ["trace[7] 'agreement among raft nodes before linearized reading'  (duration: 7s)"]);
        let own = Asked::Range(pb::RangeRequest { serializable: true, ..range });
        let (.., steps) = told(&own, Marks { begun: Some(ms(0)), chosen: None }, answered, ms(120)).expect("told");
        assert_eq!(steps, ["trace[7] 'range keys from bolt db'  (duration: 120ms)"]);
    }

    #[test]
    fn a_write_is_told_if_it_was_done() {
        let put = || Asked::Put(pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() });
        let answered = Answered { count: 0, revision: 3 };
        let want = (
            "put",
            "{key:k; req_size:6; response_revision:3; }".to_owned(),
            vec!["trace[7] 'process raft request'  (duration: 200ms)".to_owned()],
        );
        assert_eq!(told(&put(), Marks::default(), answered, ms(200)), Some(want));
        assert_eq!(told(&put(), Marks::default(), Answered::default(), ms(7000)), None);
        let write = pb::request_op::Request::RequestPut(pb::PutRequest::default());
        let success = vec![pb::RequestOp { request: Some(write) }];
        let txn = Asked::Txn(pb::TxnRequest { success, ..Default::default() });
        let (operation, detail, _) =
            told(&txn, Marks::default(), Answered { count: 1, revision: 4 }, ms(200)).expect("told");
        let want = "{read_only:false; number_of_response:1; response_revision:4; }";
        assert_eq!((operation, detail.as_str()), ("transaction", want));
    }
}
