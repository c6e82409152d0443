//! Counts of durations in buckets whose width grows with the value: any quantile is right to within 1/64 (1.6 %) of
//! it, whatever the durations are.
//!
//! Thirty-two buckets an octave; below 32 ns each value has its own. An octave's counts are allocated when the first
//! value falls into it, so that a histogram takes 480 bytes and 256 for each of the few octaves that occur, 16 KiB at
//! most.

const PER_OCTAVE: usize = 32;
const OCTAVE_BITS: u32 = PER_OCTAVE.ilog2();
const OCTAVES: usize = 65 - OCTAVE_BITS as usize;

type Octave = Option<Box<[u64; PER_OCTAVE]>>;

#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    octaves: [Octave; OCTAVES],
}

impl Histogram {
    pub(crate) const fn new() -> Self {
        Histogram { octaves: [const { None }; OCTAVES] }
    }

    #[inline]
    pub(crate) fn add(&mut self, value: u64) {
        let bucket = bucket_of(value);
        let octave = &mut self.octaves[bucket / PER_OCTAVE];
        octave.get_or_insert_with(|| Box::new([0; PER_OCTAVE]))[bucket % PER_OCTAVE] += 1;
    }

    /// Adds what another one has counted.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.octaves.iter_mut().zip(&other.octaves) {
            if let Some(theirs) = theirs {
                let mine = mine.get_or_insert_with(|| Box::new([0; PER_OCTAVE]));
                mine.iter_mut().zip(&**theirs).for_each(|(mine, theirs)| *mine += theirs);
            }
        }
    }

    /// The values that these shares of all values (ascending) do not exceed: nearest-rank quantiles, each the middle of its
    /// bucket, but no more than `max`, the greatest value that was added; 0 if there is none.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N], max: u64) -> [u64; N] {
        let counts = || {
            let octaves = self.octaves.iter().enumerate();
            octaves.filter_map(|(at, octave)| Some((at, octave.as_deref()?))).flat_map(
                |(at, counts)| {
                    counts.iter().enumerate().map(move |(i, count)| (at * PER_OCTAVE + i, *count))
                },
            )
        };
        let total: u64 = counts().map(|(_, count)| count).sum();
        let mut found = [0; N];
        let mut next = 0;
        let mut seen = 0;
        for (bucket, count) in counts() {
            seen += count;
            while next < N {
                // Rounded to nearest would pick a lower rank than asked for.
                let rank = ((shares[next] * total as f64).ceil() as u64).clamp(1, total.max(1));
                if seen < rank {
                    break;
                }
                found[next] = middle_of(bucket).min(max);
                next += 1;
            }
        }
        found
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.octaves.iter().flatten().count() * size_of::<[u64; PER_OCTAVE]>()
    }
}

/// The bucket of a value: its leading six bits, and by how much they are shifted.
#[inline]
fn bucket_of(value: u64) -> usize {
    let shift = (value | PER_OCTAVE as u64).ilog2() - OCTAVE_BITS;
    shift as usize * PER_OCTAVE + (value >> shift) as usize
}

fn middle_of(bucket: usize) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let first = ((bucket - shift * PER_OCTAVE) as u64) << shift;
    first + ((1 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARES: [f64; 5] = [0.0, 0.5, 0.95, 0.99, 1.0];

    #[test]
    fn every_value_lies_in_its_bucket_and_near_its_middle() {
        let powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in (0..10_000).chain(powers).chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < OCTAVES * PER_OCTAVE, "{value}");
            let middle = middle_of(bucket);
            assert_eq!(bucket_of(middle), bucket, "{value}");
            assert!(middle.abs_diff(value) <= value / 64, "{value} {middle}");
        }
    }

    #[test]
    fn an_empty_one_has_quantiles_of_zero() {
        assert_eq!(Histogram::new().quantiles(SHARES, 0), [0; 5]);
    }

    proptest! {
        // A failure prints its input; files of old failures beside the sources would only go stale.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn quantiles_are_those_of_the_sorted_values_to_one_in_64(
            mut values in prop::collection::vec(
                prop_oneof![0u64..2_000, any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)], 1..300),
            at in any::<prop::sample::Index>(),
        ) {
            let (mut first, mut second) = (Histogram::new(), Histogram::new());
            let at = at.index(values.len());
            values[..at].iter().for_each(|&value| first.add(value));
            values[at..].iter().for_each(|&value| second.add(value));
            first.merge(&second);
            values.sort_unstable();
            let max = values[values.len() - 1];
            for (share, found) in SHARES.into_iter().zip(first.quantiles(SHARES, max)) {
                let rank = ((share * values.len() as f64).ceil() as usize).max(1);
                let exact = values[rank - 1];
                prop_assert!(found.abs_diff(exact) <= exact / 64, "{exact} {found}");
                prop_assert!(found <= max);
            }
            prop_assert!(first.heap_bytes() <= 16 << 10);
        }
    }
}
