//! Fewer operations that still bring a difference about: halves, quarters … are left out as long as it stays.

#![expect(clippy::disallowed_methods, reason = "has a budget of time")]

use super::pair::Pair;
use super::pair::Unexplained;
use super::rows::Rows;
use super::step::Op;
use super::step::Step;
use super::step::Watching;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

const BUDGET: Duration = Duration::from_secs(240);

pub(super) async fn shrink(
    ours: &Path,
    theirs: &Path,
    rows: &mut Rows,
    mut steps: Vec<Step>,
    wanted: &Unexplained,
) -> Vec<Step> {
    let deadline = Instant::now() + BUDGET;
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 && Instant::now() < deadline {
        let mut at = 0;
        while at < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            if still(ours, theirs, rows, &fewer, wanted).await {
                steps = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    steps
}

/// Whether these steps alone lead to the same difference, in place and kind.
async fn still(ours: &Path, theirs: &Path, rows: &mut Rows, steps: &[Step], wanted: &Unexplained) -> bool {
    let mut pair = Pair::start(ours, theirs).await;
    let mut open = BTreeSet::new();
    for step in steps {
        if !can_be_done(step, &mut open) {
            return false;
        }
        pair.give(step, rows).await;
        if !pair.unexplained.is_empty() {
            break;
        }
    }
    pair.settle(rows).await;
    let same = |found: &Unexplained| found.step.rpc() == wanted.step.rpc() && found.field.path == wanted.field.path;
    pair.unexplained.first().is_some_and(same)
}

/// Whether the stream that a step is about is open.
fn can_be_done(step: &Step, open: &mut BTreeSet<u8>) -> bool {
    let Op::Watch(watching) = &step.op else { return true };
    match watching {
        Watching::Open(stream) => {
            open.insert(*stream);
            true
        }
        Watching::HalfClose(stream) => open.remove(stream),
        Watching::Drop(stream) => {
            open.remove(stream);
            true
        }
        Watching::Create { stream, .. } | Watching::Cancel { stream, .. } | Watching::Progress { stream, .. } => {
            open.contains(stream)
        }
    }
}
