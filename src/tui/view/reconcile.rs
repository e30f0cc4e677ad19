//! What Kubernetes wants and has, below the tape of the Watch screen: each change with its revision, and who wrote it.
//!
//! ```text
//! ── reconcile: web wants 3, has 2, 2 run ─────────────────────
//!  rev 41                           pod web-5d8f-x1 is deleted
//!  rev 42  kube-controller-manager  pod web-5d8f-k7 is made
//!  rev 43  kube-scheduler           pod web-5d8f-k7 goes to w2
//! ```

use super::Page;
use crate::lab::picture::reconcile::Reconcile;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// What the tape needs above the pane, with two lanes.
const TAPE: u16 = 6;
/// From this height on the watchers have room between the two.
const TALL: u16 = 20;
/// More than this nobody reads at once.
const ROWS_MAX: u16 = 14;

/// Rows of the pane.
pub(super) fn rows(reconcile: &Reconcile, height: u16) -> u16 {
    match (reconcile.is_there(), height) {
        (false, _) => 0,
        (true, ..TALL) => height.saturating_sub(TAPE),
        (true, _) => (height / 2).min(ROWS_MAX),
    }
}

pub(super) fn draw(reconcile: &Reconcile, page: &mut Page, area: Rect) {
    let balances = reconcile.balances();
    let said: Vec<String> =
        balances.iter().map(|b| format!("{} wants {}, has {}, {} run", b.name, b.wanted, b.has, b.run)).collect();
    let title = if said.is_empty() { "nothing is wanted".to_owned() } else { said.join("; ") };
    page.rule(area, &format!("reconcile: {title}"));
    let room = usize::from(area.height.saturating_sub(1));
    let shown = reconcile.changes.iter().skip(reconcile.changes.len().saturating_sub(room));
    for (change, row) in shown.zip(1..) {
        let line = format!(" rev {:<5} {:<23}  {}", change.revision, change.who, change.what);
        page.line(area, row, &line, Style::new());
    }
    if balances.iter().any(|b| b.has as i64 != b.wanted || b.run != b.has) {
        page.at(area, 3, 0, "reconcile", page.theme.busy());
    }
}
