//! The bounds of etcd's histograms: each begins somewhere and doubles.

/// The most bounds that a histogram has.
pub(super) const MAX: usize = 24;

/// `N` bounds, each twice the one before; what Prometheus' Go client calls `ExponentialBuckets(start, 2, N)`.
const fn doubling<const N: usize>(start: f64) -> [f64; N] {
    let mut bounds = [0.0; N];
    let (mut at, mut bound) = (0, start);
    while at < N {
        bounds[at] = bound;
        bound *= 2.0;
        at += 1;
    }
    bounds
}

pub(super) static MS_TO_8S: [f64; 14] = doubling(0.001);
pub(super) static DEFRAG: [f64; 13] = doubling(0.1);
pub(super) static SNAPSHOT: [f64; 17] = doubling(0.01);
pub(super) static HASH: [f64; 15] = doubling(0.01);
pub(super) static COMPACTION_TOTAL: [f64; 14] = doubling(100.0);
pub(super) static COMPACTION_PAUSE: [f64; 13] = doubling(1.0);
pub(super) static LONG: [f64; 10] = doubling(0.1);
pub(super) static TTL: [f64; 24] = doubling(1.0);
pub(super) static APPLY: [f64; 20] = doubling(0.0001);
pub(super) static RTT: [f64; 16] = doubling(0.0001);
/// Prometheus' own default, which go-grpc-prometheus takes.
pub(super) static HANDLING: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
