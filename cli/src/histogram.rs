//! A histogram of durations: counts in buckets whose width grows with the value, so that any quantile
//! is right to within 1/128 (0.8 %) of it, in memory that does not depend on how many there were.
//! Values below 256 have a bucket each; the greatest value is kept exactly.

/// Buckets an octave; a power of two.
const BUCKETS_PER_OCTAVE: u64 = 128;

/// Counts of values. At most 7,424 buckets of 8 bytes, and only the range that occurred.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// The bucket of `counts[0]`.
    first_bucket: usize,
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let bucket = bucket_of(value);
        if self.counts.is_empty() {
            self.first_bucket = bucket;
        } else if bucket < self.first_bucket {
            let missing = self.first_bucket - bucket;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first_bucket = bucket;
        }
        let at = bucket - self.first_bucket;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The greatest value; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that `q` (0 to 1) of all values do not exceed: the nearest-rank quantile, rounded up
    /// by at most 1/128 of it; 0 if there is none.
    pub fn quantile(&self, q: f64) -> u64 {
        // Rounded to nearest would pick a lower rank than asked for.
        let rank = ((q * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return last_of(self.first_bucket + at).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value: its leading eight bits, and by how much they are shifted.
fn bucket_of(value: u64) -> usize {
    let shift = (value | BUCKETS_PER_OCTAVE).ilog2() - BUCKETS_PER_OCTAVE.ilog2();
    (u64::from(shift) * BUCKETS_PER_OCTAVE + (value >> shift)) as usize
}

/// The greatest value in a bucket.
fn last_of(bucket: usize) -> u64 {
    let shift = (bucket as u64 / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let leading = bucket as u64 - shift * BUCKETS_PER_OCTAVE;
    // In the last bucket the sum is 2^64.
    (u128::from(leading + 1) << shift).wrapping_sub(1) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for value in (0..100_000).chain((16..64).map(|bit| 1 << bit)).chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(value <= last_of(bucket), "{value}");
            if value > 0 {
                assert!(bucket - bucket_of(value - 1) <= 1, "{value}");
                assert!(bucket == 0 || value > last_of(bucket - 1), "{value}");
            }
        }
        assert_eq!((bucket_of(u64::MAX), last_of(7_423)), (7_423, u64::MAX));
    }

    #[test]
    fn an_empty_histogram_has_quantiles_of_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values_to_one_in_128(
            mut values in prop::collection::vec(
                prop_oneof![0u64..2_000, any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)], 1..300),
            q in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.add(value));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            let (exact, estimate) = (values[rank - 1], histogram.quantile(q));
            prop_assert!(estimate >= exact && estimate - exact <= exact / 128, "{exact} {estimate}");
            prop_assert_eq!(histogram.max(), values[values.len() - 1]);
            prop_assert_eq!(histogram.total(), values.len() as u64);
        }
    }
}
