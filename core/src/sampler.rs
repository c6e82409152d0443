//! Samplers: which spans record.
//!
//! A root's decision is taken once and inherited by its children in this process (parent-based), or
//! taken for each span by itself. The trace-ID ratio decides by OpenTelemetry's consistent threshold:
//! a trace is sampled if the low 56 bits of its ID (or the `rv` of its tracestate) are not below the
//! threshold, which travels in tracestate as `ot=th:…`, so that every service decides alike.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::context::{Ctx, TraceState};
use crate::settings::RootSampler;

/// Width of the randomness and of thresholds.
const RANDOMNESS: u64 = 1 << 56;

/// A sampler with its state.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) parent_based: bool,
    root: Root,
}

#[derive(Debug)]
enum Root {
    AlwaysOn,
    AlwaysOff,
    Ratio { threshold: u64, trace_state: TraceState },
    EveryNth { n: u64, seen: AtomicU64 },
    RateLimit { interval_nanos: u64, burst_nanos: u64, next_nanos: AtomicU64 },
}

/// What the hot path may do about a root without asking the sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Ask.
    Ask = 0,
    /// Sample.
    On = 1,
    /// Do not sample.
    Off = 2,
}

impl Sampler {
    pub(crate) fn new(parent_based: bool, root: RootSampler) -> Self {
        let root = match root {
            RootSampler::AlwaysOn => Root::AlwaysOn,
            RootSampler::AlwaysOff => Root::AlwaysOff,
            RootSampler::TraceIdRatio(ratio) => match threshold(ratio) {
                0 => Root::AlwaysOn,
                RANDOMNESS => Root::AlwaysOff,
                threshold => Root::Ratio {
                    threshold,
                    trace_state: with_threshold(&TraceState::default(), threshold),
                },
            },
            RootSampler::EveryNth(n) => Root::EveryNth { n: n.max(1), seen: AtomicU64::new(0) },
            RootSampler::RateLimit(per_second) if per_second > 0.0 => Root::RateLimit {
                interval_nanos: (1e9 / per_second) as u64,
                // One span may always pass, however low the rate.
                burst_nanos: 1_000_000_000u64.saturating_sub((1e9 / per_second) as u64),
                next_nanos: AtomicU64::new(0),
            },
            RootSampler::RateLimit(_) => Root::AlwaysOff,
        };
        Sampler { parent_based, root }
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.root {
            Root::AlwaysOn => Mode::On,
            Root::AlwaysOff => Mode::Off,
            _ => Mode::Ask,
        }
    }

    /// Decides for a span whose own context, with its parent's tracestate, is `context`; sets the
    /// sampled bit and the threshold. `now_nanos` is any monotonic time.
    pub(crate) fn decide(&self, context: &mut Ctx, now_nanos: impl FnOnce() -> u64) -> bool {
        match &self.root {
            Root::AlwaysOn => true,
            Root::AlwaysOff => false,
            Root::Ratio { threshold, trace_state } => {
                let randomness =
                    context.trace_state.ot_randomness().unwrap_or_else(|| context.randomness());
                let sampled = randomness >= *threshold;
                if sampled {
                    context.trace_state = if context.trace_state.is_empty() {
                        trace_state.clone()
                    } else {
                        with_threshold(&context.trace_state, *threshold)
                    };
                }
                sampled
            }
            Root::EveryNth { n, seen } => seen.fetch_add(1, Relaxed) % n == 0,
            Root::RateLimit { interval_nanos, burst_nanos, next_nanos } => {
                let now = now_nanos();
                // A span passes if the time by which all earlier ones are due lies no further ahead
                // than the burst allows.
                next_nanos
                    .fetch_update(Relaxed, Relaxed, |next| {
                        (next <= now.saturating_add(*burst_nanos))
                            .then(|| next.max(now).saturating_add(*interval_nanos))
                    })
                    .is_ok()
            }
        }
    }
}

/// `state` with the threshold; as it was where the member has no room for it.
fn with_threshold(state: &TraceState, threshold: u64) -> TraceState {
    state.with_ot_threshold(threshold).unwrap_or_else(|_| state.clone())
}

/// The rejection threshold of a ratio: 0 samples everything, 2^56 nothing.
fn threshold(ratio: f64) -> u64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return RANDOMNESS;
    }
    ((1.0 - ratio.min(1.0)) * RANDOMNESS as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::bit;

    fn context(randomness: u64) -> Ctx {
        Ctx { trace_lo: randomness, flags: bit::VALID | bit::TRACE_RAW, ..Ctx::NONE }
    }

    fn share(sampler: &Sampler, count: u64) -> u64 {
        let keys = crate::id::IdKeys::from_seed([1, 2]);
        (0..count)
            .filter(|&counter| sampler.decide(&mut context(keys.trace_id(counter).0 as u64), || 0))
            .count() as u64
    }

    #[test]
    fn a_ratio_samples_its_share_and_says_so_in_tracestate() {
        let sampler = Sampler::new(true, RootSampler::TraceIdRatio(0.25));
        let sampled = share(&sampler, 40_000);
        // Six standard deviations of the binomial distribution.
        assert!(sampled.abs_diff(10_000) < 520, "{sampled}");
        let mut sampled = context(RANDOMNESS - 1);
        assert!(sampler.decide(&mut sampled, || 0));
        assert_eq!(sampled.trace_state.as_str(), "ot=th:c");
        assert!(!sampler.decide(&mut context(RANDOMNESS / 4 * 3 - 1), || 0));
    }

    #[test]
    fn a_trace_sampled_at_a_low_ratio_is_sampled_at_every_higher_one() {
        let low = Sampler::new(true, RootSampler::TraceIdRatio(0.1));
        let high = Sampler::new(true, RootSampler::TraceIdRatio(0.3));
        let keys = crate::id::IdKeys::from_seed([3, 4]);
        for counter in 0..5_000 {
            let randomness = keys.trace_id(counter).0 as u64;
            if low.decide(&mut context(randomness), || 0) {
                assert!(high.decide(&mut context(randomness), || 0));
            }
        }
    }

    #[test]
    fn the_randomness_in_tracestate_comes_before_the_trace_id() {
        let sampler = Sampler::new(true, RootSampler::TraceIdRatio(0.5));
        let mut context = context(0);
        context.trace_state = TraceState::parse("ot=rv:ffffffffffffff").unwrap();
        assert!(sampler.decide(&mut context, || 0));
    }

    #[test]
    fn ratios_at_and_beyond_the_ends_sample_all_or_nothing() {
        for (ratio, mode) in [
            (1.0, Mode::On),
            (2.0, Mode::On),
            (0.0, Mode::Off),
            (-1.0, Mode::Off),
            (f64::NAN, Mode::Off),
        ] {
            assert_eq!(
                Sampler::new(true, RootSampler::TraceIdRatio(ratio)).mode(),
                mode,
                "{ratio}"
            );
        }
    }

    #[test]
    fn every_nth_takes_the_first_and_then_each_nth() {
        let sampler = Sampler::new(true, RootSampler::EveryNth(3));
        let taken: Vec<_> = (0..7).map(|_| sampler.decide(&mut context(1), || 0)).collect();
        assert_eq!(taken, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_rate_limit_passes_a_burst_and_then_its_rate() {
        let sampler = Sampler::new(true, RootSampler::RateLimit(10.0));
        let passed = |from: u64, count: u64| {
            (0..count).filter(|_| sampler.decide(&mut context(1), || from)).count()
        };
        assert_eq!(passed(5_000_000_000, 100), 10);
        assert_eq!(passed(5_300_000_000, 100), 3);
        assert_eq!(passed(60_000_000_000, 100), 10);
        let slow = Sampler::new(true, RootSampler::RateLimit(0.1));
        assert!(slow.decide(&mut context(1), || 1));
        assert!(!slow.decide(&mut context(1), || 9_000_000_000));
        assert!(slow.decide(&mut context(1), || 10_000_000_001));
    }
}
