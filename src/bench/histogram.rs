//! Latencies, counted in buckets that grow with the value: 3 % exact from nanoseconds to hours, in a fixed 15 KiB.
//!
//! ```text
//! value   1 0 1 1 0 1 0 0 1     the highest bit says which power of two,
//!         └ ─ ─ ─ ─ ┘           the next five say where in it: that is the bucket; the rest is dropped
//! ```

/// How many bits after the highest one count.
const DETAIL_BITS: u32 = 5;
const PER_POWER: usize = 1 << DETAIL_BITS;
const BUCKETS: usize = PER_POWER * (64 - DETAIL_BITS as usize + 1);

/// Counts of values, by size.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

fn bucket(value: u64) -> usize {
    if value < PER_POWER as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - DETAIL_BITS;
    // The highest bit is still set after the shift, so that the first bucket of a power follows the last one before it.
    (shift as usize) * PER_POWER + (value >> shift) as usize
}

/// The largest value that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < 2 * PER_POWER {
        return bucket as u64;
    }
    let shift = bucket / PER_POWER - 1;
    let lower = ((bucket - shift * PER_POWER) as u64) << shift;
    lower + ((1 << shift) - 1)
}

impl Histogram {
    pub(super) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub(super) fn merge(&mut self, other: &Histogram) {
        for (into, from) in self.counts.iter_mut().zip(&other.counts) {
            *into += from;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values were recorded.
    pub(super) fn count(&self) -> u64 {
        self.total
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The value that this part of all values (0 to 1) does not exceed; 0 if there are none.
    pub(super) fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.total as f64 * part).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_are_within_four_percent() {
        let mut value = 1_u64;
        for bits in 0..64 {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = value >> bits;
            let at = bucket(value);
            assert!(value <= upper(at), "{value} in bucket {at}, which ends at {}", upper(at));
            assert!(at == 0 || value > upper(at - 1), "{value} in bucket {at}, after {}", upper(at - 1));
            assert!(upper(at) - value <= value / 25, "{value} is read back as {}", upper(at));
        }
    }

    #[test]
    fn the_largest_value_has_a_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(upper(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_a_thousand_equal_steps_are_those_steps() {
        let mut all = Histogram::default();
        let mut rest = Histogram::default();
        for value in 1..=1000 {
            if value % 3 == 0 { all.record(value) } else { rest.record(value) }
        }
        all.merge(&rest);
        assert_eq!(all.count(), 1000);
        assert_eq!(all.max(), 1000);
        for part in [0.5, 0.9, 0.99, 0.999] {
            let (got, exact) = (all.quantile(part) as f64, 1000.0 * part);
            assert!(got >= exact && got <= exact * 1.04, "{part}: {got}");
        }
        assert_eq!(all.quantile(1.0), 1000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
