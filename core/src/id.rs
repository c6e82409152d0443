//! Trace and span IDs.
//!
//! An ID is a keyed bijection of a counter: unique within a process by construction, well mixed in
//! every bit, and never zero. Instrumented threads count and compare counters; the 64- and 128-bit
//! IDs are computed only when somebody asks for them, and a batch stores keys and counters instead
//! of random bytes. IDs are unique, not secret: who sees a few can find the key.

use std::fmt;

/// A W3C trace ID: 16 bytes, not all zero in a valid context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TraceId(pub u128);

/// A W3C span ID (`parent-id`): 8 bytes, not all zero in a valid context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SpanId(pub u64);

macro_rules! hex_id {
    ($name:ident, $int:ty, $digits:literal) => {
        impl $name {
            /// Parses lower-case hexadecimal digits of the exact length; `None` for anything else,
            /// and for zero.
            pub fn from_hex(text: &str) -> Option<Self> {
                let valid = text.len() == $digits
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                let value = if valid { <$int>::from_str_radix(text, 16).ok()? } else { 0 };
                (value != 0).then_some($name(value))
            }

            /// Whether the ID is not zero.
            pub fn is_valid(self) -> bool {
                self.0 != 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex_id!(TraceId, u128, 32);
hex_id!(SpanId, u64, 16);

/// A counter that is never issued; it stands in where another counter's ID would be zero.
const COUNTER_RESERVED: u64 = u64::MAX;

/// The keys that turn counters into IDs. Derived from 16 bytes, which a batch stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdKeys {
    seed: [u64; 2],
    trace_hi: Key,
    trace_lo: Key,
    span: Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key([u64; 3]);

impl Key {
    /// A bijection of the 64-bit integers: two rounds of multiply and xor-shift between key
    /// additions, and a last multiply and xor-shift. All constants are odd.
    fn mix(self, counter: u64) -> u64 {
        let mut x = counter ^ self.0[0];
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 32;
        x = x.wrapping_add(self.0[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^= x >> 29;
        x = x.wrapping_add(self.0[2]).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 32)
    }

    fn mix_nonzero(self, counter: u64) -> u64 {
        match self.mix(counter) {
            0 => self.mix(COUNTER_RESERVED),
            id => id,
        }
    }
}

impl IdKeys {
    /// The keys that follow from `seed`.
    pub fn from_seed(seed: [u64; 2]) -> Self {
        // SplitMix64 over both halves of the seed.
        let mut state = seed[0];
        let mut next = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) ^ seed[1]
        };
        let mut key = || Key([next(), next(), next()]);
        IdKeys { seed, trace_hi: key(), trace_lo: key(), span: key() }
    }

    /// Keys from the operating system's random source.
    pub fn random() -> Self {
        let mut bytes = [0u8; 16];
        crate::platform::random(&mut bytes);
        let half =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self::from_seed([half(0), half(8)])
    }

    /// What [`from_seed`](Self::from_seed) took.
    pub fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// The span ID of a counter.
    pub fn span_id(&self, counter: u64) -> SpanId {
        SpanId(self.span.mix_nonzero(counter))
    }

    /// The trace ID of a counter.
    pub fn trace_id(&self, counter: u64) -> TraceId {
        let (hi, lo) = (self.trace_hi.mix(counter), self.trace_lo.mix_nonzero(counter));
        TraceId(u128::from(hi) << 64 | u128::from(lo))
    }

    /// The low 56 bits of a trace ID: its W3C randomness, by which samplers decide.
    pub(crate) fn trace_randomness(&self, counter: u64) -> u64 {
        self.trace_lo.mix_nonzero(counter) & ((1 << 56) - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_distinct_counters_are_distinct_and_not_zero() {
        let keys = IdKeys::from_seed([1, 2]);
        let spans: HashSet<_> = (0..100_000).map(|c| keys.span_id(c)).collect();
        let traces: HashSet<_> = (0..100_000).map(|c| keys.trace_id(c)).collect();
        assert_eq!((spans.len(), traces.len()), (100_000, 100_000));
        assert!(!spans.contains(&SpanId(0)) && !traces.contains(&TraceId(0)));
    }

    #[test]
    fn a_counter_whose_id_would_be_zero_gets_the_reserved_counters_id() {
        // Invert the mix by hand: a key whose first round meets the counter with zero all the way.
        let key = Key([7, 0, 0]);
        assert_eq!(key.mix(7), 0);
        assert_eq!(key.mix_nonzero(7), key.mix(COUNTER_RESERVED));
        assert_ne!(key.mix_nonzero(7), 0);
    }

    #[test]
    fn every_bit_of_the_randomness_is_set_in_about_half_of_the_ids() {
        let keys = IdKeys::from_seed([3, 4]);
        for bit in 0..56 {
            let set = (0..10_000).filter(|&c| keys.trace_randomness(c) >> bit & 1 == 1).count();
            assert!((4_700..5_300).contains(&set), "bit {bit} is set in {set} of 10,000");
        }
    }

    #[test]
    fn one_flipped_counter_bit_flips_about_half_of_the_id_bits() {
        let keys = IdKeys::from_seed([5, 6]);
        for bit in 0..48 {
            let flips: u32 = (0..1000u64)
                .map(|c| (keys.span_id(c).0 ^ keys.span_id(c ^ (1 << bit)).0).count_ones())
                .sum();
            assert!((30_000..34_000).contains(&flips), "counter bit {bit}: {flips} of 64,000");
        }
    }

    #[test]
    fn hex_is_read_strictly() {
        assert_eq!(SpanId::from_hex("00f067aa0ba902b7"), Some(SpanId(0x00f0_67aa_0ba9_02b7)));
        for bad in
            ["", "00F067AA0BA902B7", "00f067aa0ba902b", "0000000000000000", "+0f067aa0ba902b7"]
        {
            assert_eq!(SpanId::from_hex(bad), None, "{bad}");
        }
    }
}
