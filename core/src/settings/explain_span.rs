//! What a given span would get, and why: the same questions in the same order as the sampler asks them (`sampler.rs`), and each answer.
//!
//! Invariant, tested: the verdict is what the sampler decides.

use super::{Detail, Level, RootSampler, Settings};
use crate::rules::{self, Pattern, Rules, Subject};
use crate::value::{IntoValue, Seen};
use crate::{SpanKind, Value};

/// A span that somebody wants to know about.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SpanQuery {
    /// Its name.
    pub name: String,
    /// The name of its instrumentation scope; empty for the default one.
    pub scope: String,
    /// Its kind.
    pub kind: SpanKind,
    /// The attributes that it starts with; of several with one key the last counts.
    pub attributes: Vec<(String, Value)>,
    /// Whether its parent, which is in the same process, is sampled; `None` for a root.
    pub parent_sampled: Option<bool>,
    /// The level that it is given itself.
    pub level: Option<Level>,
    /// Whether it is about details.
    pub is_detailed: bool,
}

impl SpanQuery {
    /// A root of that name, of which nothing else is known.
    pub fn new(name: impl Into<String>) -> Self {
        SpanQuery { name: name.into(), ..SpanQuery::default() }
    }
}

impl Subject for SpanQuery {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_of_scope(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.scope)
    }

    fn kind(&self) -> SpanKind {
        self.kind
    }

    fn attribute(&self, key: &str) -> Seen<'_> {
        let found = self.attributes.iter().rev().find(|(known, _)| known == key);
        found.map_or(Seen::Absent, |(_, value)| value.seen())
    }
}

/// What a span would get.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is as if it were not there; its children are its parent's.
    Absent,
    /// It is sampled.
    Sampled,
    /// It is not sampled.
    NotSampled,
    /// It is sampled in this share of all traces, by trace ID; else it is not or, if it only thins out its trace, it is absent.
    Share(f64),
    /// The first of so many is sampled.
    OneOf(u64),
    /// So many a second are sampled.
    PerSecond(f64),
}

impl Verdict {
    fn of(sampler: RootSampler) -> Self {
        match sampler {
            RootSampler::AlwaysOn => Verdict::Sampled,
            RootSampler::AlwaysOff => Verdict::NotSampled,
            RootSampler::TraceIdRatio(share) => Verdict::Share(share),
            RootSampler::EveryNth(n) => Verdict::OneOf(n),
            RootSampler::RateLimit(rate) => Verdict::PerSecond(rate),
        }
    }

    /// The share of such spans that is sampled; `None` if that depends on how many there are.
    pub fn share(self) -> Option<f64> {
        match self {
            Verdict::Absent | Verdict::NotSampled => Some(0.0),
            Verdict::Sampled => Some(1.0),
            Verdict::Share(share) => Some(share),
            Verdict::OneOf(n) => Some(1.0 / n.max(1) as f64),
            Verdict::PerSecond(_) => None,
        }
    }
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleExplained {
    /// `RULES`, or `smart` for those of that level.
    pub of: &'static str,
    /// Counted from 1.
    pub number: usize,
    /// The rule.
    pub rule: String,
    /// The first condition that does not hold; `None` for the rule that decides.
    pub mismatch: Option<String>,
}

/// What a span would get, and why.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SpanExplained {
    /// What becomes of it.
    pub verdict: Verdict,
    /// If it is sampled: it is dropped unless it ends with the status error.
    pub only_errors: bool,
    /// What decided, in words.
    pub because: String,
    /// The level in force for it.
    pub level: Level,
    /// What set that, in words.
    pub level_from: String,
    /// The rules that were looked at, in order.
    pub rules: Vec<RuleExplained>,
}

impl Settings {
    /// What such a span would get with these settings, and why.
    ///
    /// ```
    /// use spanring::settings::{Settings, SpanQuery, Verdict};
    ///
    /// let settings = Settings::builder().rules("name=health* -> never".parse()?).ignore_environment().build();
    /// let explained = settings.explain_span(&SpanQuery::new("healthz"));
    /// assert_eq!(explained.verdict, Verdict::NotSampled);
    /// assert_eq!(explained.because, "rule 1 of RULES: name=health* -> never");
    /// # Ok::<(), spanring::settings::RuleError>(())
    /// ```
    pub fn explain_span(&self, span: &SpanQuery) -> SpanExplained {
        let said = self.levels.explain(span);
        let (own, level_from) = match (span.level, said) {
            (Some(level), _) => (Some(level), "given to the span itself".to_owned()),
            (None, Some((level, entry))) => (Some(level), format!("LEVELS: {entry}")),
            (None, None) => {
                let source = self.source("level").map_or("default".to_owned(), ToString::to_string);
                (None, format!("LEVEL ({source})"))
            }
        };
        let level = own.unwrap_or(self.level);
        let mut explained = SpanExplained {
            verdict: Verdict::Absent,
            only_errors: false,
            because: String::new(),
            level,
            level_from,
            rules: Vec::new(),
        };
        let detail = if span.is_detailed { Detail::Detailed } else { Detail::Basic };
        let (wanted, from) = match self.details.explain(span) {
            Some((wanted, entry)) => (wanted, format!("DETAILS: {entry}")),
            None => (self.detail(), "BASIC_TRACING and DETAILED_TRACING".to_owned()),
        };
        if self.disabled {
            explained.because = "DISABLED is true".to_owned();
        } else if detail > wanted {
            explained.because = format!("its detail is {detail}, and {wanted} is wanted ({from})");
        } else if level == Level::None {
            explained.because = format!("its level is none ({})", explained.level_from);
        } else {
            explained.only_errors = level == Level::Minimal && span.parent_sampled.is_some();
            self.explain_sampling(span, own, &mut explained);
        }
        explained
    }

    fn explain_sampling(
        &self,
        span: &SpanQuery,
        own: Option<Level>,
        explained: &mut SpanExplained,
    ) {
        let rest = self.smart_rest();
        if let Some(sampled) = span.parent_sampled.filter(|_| self.sampler.parent_based) {
            let is_thinned = sampled && own == Some(Level::Smart);
            explained.verdict = if sampled { Verdict::Sampled } else { Verdict::NotSampled };
            explained.because =
                format!("it does as its parent did ({} is parent-based)", self.sampler);
            if is_thinned {
                let sampler = explained.look("smart", &rules::smart(), span).unwrap_or_else(|| {
                    explained.because =
                        "the last rule of smart: it thins out a trace that is sampled".to_owned();
                    rest
                });
                explained.verdict = match Verdict::of(sampler) {
                    Verdict::NotSampled => Verdict::Absent,
                    verdict => verdict,
                };
            }
            return;
        }
        let found = explained.look("RULES", &self.rules, span);
        let found = match explained.level {
            Level::Smart if found.is_none() => explained.look("smart", &rules::smart(), span),
            _ => found,
        };
        let sampler = found.unwrap_or_else(|| {
            let name = match explained.level {
                Level::Smart if rest != self.sampler.root => "the last rule of smart".to_owned(),
                _ => format!("SAMPLER: {}", self.sampler),
            };
            explained.because = match explained.rules.is_empty() {
                true => name,
                false => format!("{name}; no rule is about it"),
            };
            if explained.level == Level::Smart { rest } else { self.sampler.root }
        });
        explained.verdict = Verdict::of(sampler);
    }
}

impl SpanExplained {
    /// Looks at rules up to the first that matches; its sampler.
    fn look(&mut self, of: &'static str, rules: &Rules, span: &SpanQuery) -> Option<RootSampler> {
        for (index, rule) in rules.iter().enumerate() {
            let mismatch = rule.mismatch(span).map(ToString::to_string);
            let matches = mismatch.is_none();
            let (number, text) = (index + 1, rule.to_string());
            if matches {
                self.because = format!("rule {number} of {of}: {text}");
            }
            self.rules.push(RuleExplained { of, number, rule: text, mismatch });
            if matches {
                return Some(rule.sampler);
            }
        }
        None
    }
}
