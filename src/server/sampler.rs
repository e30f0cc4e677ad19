//! Which lines of a kind are written to the log when there are very many.
//!
//! Under overload every request is slow, and a line for each would cost more than the requests: the server would get slower for telling how slow it is.
//! So the first hundred of a second are told, and of the others each hundredth, as zap's sampling in etcd does with lines of one message.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// So many in a second are told, and then each one of so many.
const HUNDRED: u64 = 100;

/// Counts the lines of one kind.
#[derive(Debug)]
pub(super) struct Sampler {
    second: AtomicU64,
    seen: AtomicU64,
}

impl Sampler {
    pub(super) const fn new() -> Sampler {
        Sampler { second: AtomicU64::new(0), seen: AtomicU64::new(0) }
    }

    /// Whether the next line is told, in this second since 1970.
    pub(super) fn passes(&self, second: u64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.seen.store(0, Ordering::Relaxed);
        }
        let before = self.seen.fetch_add(1, Ordering::Relaxed);
        before < HUNDRED || before.is_multiple_of(HUNDRED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundred_of_a_second_pass_and_then_each_hundredth() {
        let sampler = Sampler::new();
        let passed = |second| (0..1000).filter(|_| sampler.passes(second)).count();
        assert_eq!((passed(7), passed(8)), (109, 109));
    }
}
