//! Samplers: which spans record.
//!
//! Asked are, in this order: the detail that is wanted, the level, the parent (parent-based: a root's decision is
//! inherited by its children), the rules, those of the level `smart`, and the sampler of the settings. The trace-ID ratio
//! decides by OpenTelemetry's consistent threshold: a trace is sampled if the low 56 bits of its ID (or the `rv` of its
//! tracestate) are not below the threshold, which travels in tracestate as `ot=th:…`, so that every service decides alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::context::{Ctx, TraceState};
use crate::rules::{Details, Levels, Rule, Rules, Subject};
use crate::settings::{Detail, Level, RootSampler};

/// Width of the randomness and of thresholds.
const RANDOMNESS: u64 = 1 << 56;

/// What samplers are made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    pub(crate) parent_based: bool,
    pub(crate) root: RootSampler,
    pub(crate) rules: Rules,
    pub(crate) level: Level,
    pub(crate) levels: Levels,
    /// What decides at the level `smart` where no rule does.
    pub(crate) smart_rest: RootSampler,
    pub(crate) detail: Detail,
    pub(crate) details: Details,
}

/// A sampler with its state.
#[derive(Debug)]
pub(crate) struct Sampler {
    parent_based: bool,
    root: Root,
    rules: Ruled,
    smart: Ruled,
    level: Level,
    levels: Levels,
    detail: Detail,
    details: Details,
}

/// The parent of a span that is to start, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent {
    /// Whether it is sampled, if it is to be followed.
    pub(crate) sampled: Option<bool>,
    /// It is in this process.
    pub(crate) is_here: bool,
}

/// What becomes of a span.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is as if it were not there.
    Out,
    /// It has a context, and records nothing.
    Unsampled,
    Sampled {
        /// It is dropped unless it ends with the status error.
        only_errors: bool,
        by: Option<By>,
    },
    /// That depends on the attributes, which are not there yet.
    Open,
}

/// The rule by which a span is sampled.
#[derive(Clone, Debug)]
pub(crate) struct By {
    pub(crate) rule: Arc<str>,
    /// Share of spans that such a rule lets through, where tracestate does not say it.
    pub(crate) rate: Option<f64>,
}

/// Rules with the states of their samplers.
#[derive(Debug)]
struct Ruled {
    rules: Box<[(Rule, Root, By)]>,
    looks_at_attributes: bool,
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
    pub(crate) fn new(sampling: &Sampling) -> Self {
        let smart_rest = Rule { conditions: Box::new([]), sampler: sampling.smart_rest };
        Sampler {
            parent_based: sampling.parent_based,
            root: Root::new(sampling.root),
            rules: Ruled::new(sampling.rules.iter().cloned(), ""),
            smart: Ruled::new(crate::rules::smart().iter().cloned().chain([smart_rest]), "smart: "),
            level: sampling.level,
            levels: sampling.levels.clone(),
            detail: sampling.detail,
            details: sampling.details.clone(),
        }
    }

    /// Whether children do as their parents did.
    pub(crate) fn parent_based(&self) -> bool {
        self.parent_based
    }

    /// Whether it depends on a span's name or scope, or on whether it has a parent, which ones there are at all.
    fn thins(&self) -> bool {
        matches!(self.level, Level::None | Level::Minimal)
            || !self.levels.is_empty()
            || self.detail == Detail::None
            || !self.details.is_empty()
    }

    /// What may be done about roots that are given neither a level nor a detail.
    pub(crate) fn mode(&self) -> Mode {
        if self.thins() || self.level == Level::Smart || !self.rules.rules.is_empty() {
            return Mode::Ask;
        }
        match self.root {
            Root::AlwaysOn => Mode::On,
            Root::AlwaysOff => Mode::Off,
            _ => Mode::Ask,
        }
    }

    /// Whether such children of local parents may do as their parents did, without a question.
    pub(crate) fn is_inherited(&self) -> bool {
        self.parent_based && !self.thins()
    }

    /// Whether attributes may matter to a span that is given no level.
    pub(crate) fn looks_at_attributes(&self) -> bool {
        let is_smart =
            self.level == Level::Smart || self.levels.words().any(|word| word == Level::Smart);
        self.rules.looks_at_attributes || is_smart
    }

    /// Decides about a span whose own context, with its parent's tracestate, is `context`; sets the threshold there. `level` and `detail` are
    /// those that the span was given; `is_open` says that its attributes are not there yet. `now_nanos` is any monotonic time.
    ///
    /// It allocates nothing for a span that is not sampled.
    pub(crate) fn decide(
        &self,
        subject: &dyn Subject,
        (level, detail): (Option<Level>, Detail),
        parent: Parent,
        is_open: bool,
        context: &mut Ctx,
        now_nanos: impl Fn() -> u64 + Copy,
    ) -> Decision {
        if detail > self.details.find(subject).unwrap_or(self.detail) {
            return Decision::Out;
        }
        let own = level.or_else(|| self.levels.find(subject));
        let level = own.unwrap_or(self.level);
        if level == Level::None {
            return Decision::Out;
        }
        let only_errors = level == Level::Minimal && parent.is_here;
        if let Some(sampled) = parent.sampled {
            // What is smart by itself thins out what its parent would have.
            let is_thinned = own == Some(Level::Smart) && parent.is_here;
            return match (sampled, is_thinned) {
                (false, _) => Decision::Unsampled,
                (true, false) => Decision::Sampled { only_errors, by: None },
                (true, true) if is_open && self.smart.looks_at_attributes => Decision::Open,
                (true, true) => match self.smart.find(subject) {
                    Some((_, root, by)) if root.lets_through(context, now_nanos) => {
                        Decision::Sampled { only_errors, by: Some(by.clone()) }
                    }
                    _ => Decision::Out,
                },
            };
        }
        let smart = (level == Level::Smart).then_some(&self.smart);
        for rules in [Some(&self.rules), smart].into_iter().flatten() {
            if is_open && rules.looks_at_attributes {
                return Decision::Open;
            }
            if let Some((_, root, by)) = rules.find(subject) {
                return match root.decide(context, now_nanos) {
                    true => Decision::Sampled { only_errors, by: Some(by.clone()) },
                    false => Decision::Unsampled,
                };
            }
        }
        match self.root.decide(context, now_nanos) {
            true => Decision::Sampled { only_errors, by: None },
            false => Decision::Unsampled,
        }
    }
}

impl Ruled {
    fn new(rules: impl Iterator<Item = Rule>, of: &str) -> Self {
        let rules: Box<[_]> = rules
            .map(|rule| {
                let rate = match rule.sampler {
                    RootSampler::EveryNth(n) => Some(1.0 / n.max(1) as f64),
                    _ => None,
                };
                let by = By { rule: format!("{of}{rule}").into(), rate };
                let root = Root::new(rule.sampler);
                (rule, root, by)
            })
            .collect();
        let looks_at_attributes = rules.iter().any(|(rule, ..)| rule.looks_at_attributes());
        Ruled { rules, looks_at_attributes }
    }

    /// The first rule that matches.
    fn find(&self, subject: &dyn Subject) -> Option<&(Rule, Root, By)> {
        self.rules.iter().find(|(rule, ..)| rule.mismatch(subject).is_none())
    }
}

impl Root {
    fn new(root: RootSampler) -> Self {
        match root {
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
        }
    }

    /// Whether the span of `context` is sampled; if it is, the context says with which threshold.
    fn decide(&self, context: &mut Ctx, now_nanos: impl Fn() -> u64 + Copy) -> bool {
        let sampled = self.lets_through(context, now_nanos);
        if let Root::Ratio { threshold, trace_state } = self
            && sampled
        {
            context.trace_state = match context.trace_state.is_empty() {
                true => trace_state.clone(),
                false => with_threshold(&context.trace_state, *threshold),
            };
        }
        sampled
    }

    fn lets_through(&self, context: &Ctx, now_nanos: impl Fn() -> u64 + Copy) -> bool {
        match self {
            Root::AlwaysOn => true,
            Root::AlwaysOff => false,
            Root::Ratio { threshold, .. } => {
                let randomness = context.trace_state.ot_randomness();
                randomness.unwrap_or_else(|| context.randomness()) >= *threshold
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

    fn share(sampler: &Root, count: u64) -> u64 {
        let keys = crate::id::IdKeys::from_seed([1, 2]);
        (0..count)
            .filter(|&counter| sampler.decide(&mut context(keys.trace_id(counter).0 as u64), || 0))
            .count() as u64
    }

    #[test]
    fn a_ratio_samples_its_share_and_says_so_in_tracestate() {
        let sampler = Root::new(RootSampler::TraceIdRatio(0.25));
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
        let low = Root::new(RootSampler::TraceIdRatio(0.1));
        let high = Root::new(RootSampler::TraceIdRatio(0.3));
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
        let sampler = Root::new(RootSampler::TraceIdRatio(0.5));
        let mut context = context(0);
        context.trace_state = TraceState::parse("ot=rv:ffffffffffffff").unwrap();
        assert!(sampler.decide(&mut context, || 0));
    }

    #[test]
    fn ratios_at_and_beyond_the_ends_sample_all_or_nothing() {
        let plain = Sampling {
            parent_based: true,
            root: RootSampler::AlwaysOn,
            rules: Rules::default(),
            level: Level::Full,
            levels: Levels::default(),
            smart_rest: RootSampler::AlwaysOn,
            detail: Detail::Basic,
            details: Details::default(),
        };
        for (ratio, mode) in [
            (1.0, Mode::On),
            (2.0, Mode::On),
            (0.0, Mode::Off),
            (-1.0, Mode::Off),
            (f64::NAN, Mode::Off),
        ] {
            let root = RootSampler::TraceIdRatio(ratio);
            let sampler = Sampler::new(&Sampling { root, ..plain.clone() });
            assert_eq!(sampler.mode(), mode, "{ratio}");
        }
    }

    #[test]
    fn every_nth_takes_the_first_and_then_each_nth() {
        let sampler = Root::new(RootSampler::EveryNth(3));
        let taken: Vec<_> = (0..7).map(|_| sampler.decide(&mut context(1), || 0)).collect();
        assert_eq!(taken, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_rate_limit_passes_a_burst_and_then_its_rate() {
        let sampler = Root::new(RootSampler::RateLimit(10.0));
        let passed = |from: u64, count: u64| {
            (0..count).filter(|_| sampler.decide(&mut context(1), || from)).count()
        };
        assert_eq!(passed(5_000_000_000, 100), 10);
        assert_eq!(passed(5_300_000_000, 100), 3);
        assert_eq!(passed(60_000_000_000, 100), 10);
        let slow = Root::new(RootSampler::RateLimit(0.1));
        assert!(slow.decide(&mut context(1), || 1));
        assert!(!slow.decide(&mut context(1), || 9_000_000_000));
        assert!(slow.decide(&mut context(1), || 10_000_000_001));
    }

    /// What `spanring explain` says is what happens.
    #[test]
    fn an_explanation_is_what_the_sampler_decides() {
        use crate::Value;
        use crate::settings::{SamplerSetting, SettingsBuilder, SpanQuery, Verdict};
        let rules = [
            "",
            "a=1 -> never",
            "name=x* -> every_nth:3; a=1, kind=internal -> ratio:0.5; * -> always",
        ];
        let levels = ["", "x=smart", "scope:s=none; x*=minimal; y=full"];
        let details = ["", "x=detailed; y=none"];
        let samplers = [
            None,
            Some(RootSampler::AlwaysOn),
            Some(RootSampler::AlwaysOff),
            Some(RootSampler::TraceIdRatio(0.5)),
        ];
        let names = ["x", "xx", "y"];
        let own = [None, Some(Level::Smart), Some(Level::Minimal), Some(Level::None)];
        let attributes = [
            vec![],
            vec![("a".to_owned(), Value::Int(1))],
            vec![("priority".to_owned(), Value::Str("high".to_owned()))],
        ];
        let mut number: u64 = 0;
        // Each combination, by counting in as many bases as there are choices.
        let bases = [3, 3, 2, 4, 2, 4, 3, 2, 4, 3, 2, 3];
        for at in (0..bases.iter().product::<u64>()).step_by(61) {
            let mut rest = at;
            let choice: Vec<usize> = bases
                .iter()
                .map(|base| {
                    let digit = rest % base;
                    rest /= base;
                    digit as usize
                })
                .collect();
            let mut builder = SettingsBuilder::new()
                .ignore_environment()
                .rules(rules[choice[0]].parse().unwrap())
                .levels(levels[choice[1]].parse().unwrap())
                .details(details[choice[2]].parse().unwrap())
                .level(Level::ALL[choice[5]]);
            if let Some(root) = samplers[choice[3]] {
                builder = builder.sampler(SamplerSetting { parent_based: choice[4] == 0, root });
            }
            let settings = builder.build();
            let mut query = SpanQuery::new(names[choice[6]]);
            query.scope = ["", "s"][choice[7]].to_owned();
            query.level = own[choice[8]];
            query.attributes = attributes[choice[9]].clone();
            query.is_detailed = choice[10] == 1;
            query.parent_sampled = [None, Some(true), Some(false)][choice[11]];
            let explained = settings.explain_span(&query);

            let sampler = Sampler::new(&Sampling {
                parent_based: settings.sampler.parent_based,
                root: settings.sampler.root,
                rules: settings.rules.clone(),
                level: settings.level,
                levels: settings.levels.clone(),
                smart_rest: settings.smart_rest(),
                detail: settings.detail(),
                details: settings.details.clone(),
            });
            let detail = if query.is_detailed { Detail::Detailed } else { Detail::Basic };
            let parent = Parent {
                sampled: query.parent_sampled.filter(|_| settings.sampler.parent_based),
                is_here: query.parent_sampled.is_some(),
            };
            // Spans whose trace IDs lie evenly.
            let mut counts = [0; 3];
            for part in 0..30 {
                let mut context = context(RANDOMNESS / 60 * (2 * part + 1));
                let now = || 0;
                let decision =
                    sampler.decide(&query, (query.level, detail), parent, false, &mut context, now);
                counts[match decision {
                    Decision::Out => 0,
                    Decision::Unsampled => 1,
                    Decision::Sampled { only_errors, .. } => {
                        assert_eq!(only_errors, explained.only_errors);
                        2
                    }
                    Decision::Open => panic!("it has all its attributes"),
                }] += 1;
            }
            let [out, unsampled, sampled] = counts;
            let said = match explained.verdict {
                Verdict::Absent => out == 30,
                Verdict::NotSampled => unsampled == 30,
                Verdict::Sampled => sampled == 30,
                verdict => {
                    let share = verdict.share().expect("there is no rate limit");
                    let is_thinned = parent.sampled.is_some();
                    sampled == (30.0 * share).round() as usize
                        && if is_thinned { unsampled == 0 } else { out == 0 }
                }
            };
            assert!(said, "{explained:?} {counts:?} {query:?} {settings:?}");
            number += 1;
        }
        assert!(number > 3000, "{number}");
    }
}
