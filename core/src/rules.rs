//! Rules of sampling: which sampler decides about a span, by what is known of the span when it starts.
//!
//! Rules are an ordered list, and the first that matches decides. `docs/sampling.md` has the grammar; [`parse`] reads it, and what is displayed reads
//! back as the same. A rule only looks at a [`Subject`]: here are no spans, no samplers' states, and no settings.
//!
//! What this file never does: allocate, or take longer than in proportion to the texts, to find out whether a rule matches.

mod levels;
mod number;
mod parse;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use levels::{Details, Levels, Scoped};
pub(crate) use number::{Comparison, Number};
pub(crate) use scan::{Text, write_quoted};

pub(crate) use crate::pattern::Pattern;
pub use scan::RuleError;

use crate::SpanKind;
use crate::settings::RootSampler;
use crate::value::Seen;

/// Rules that a list may have.
pub(crate) const RULES_MAX: usize = 256;

/// Rules of sampling, in order; see `docs/sampling.md`.
///
/// ```
/// use spanring::settings::Rules;
///
/// let rules: Rules = "kind=server, http.route=/health* -> never; rows>=1000 -> always".parse()?;
/// assert_eq!(rules.len(), 2);
/// assert_eq!(rules.to_string().parse(), Ok(rules));
///
/// let error = "kind=sever -> never".parse::<Rules>().unwrap_err();
/// assert!(error.to_string().starts_with("rule 1, character 6: "));
/// # Ok::<(), spanring::settings::RuleError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(Arc<[Rule]>);

impl Rules {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.iter()
    }
}

/// The rules of the level `smart`, but for the last one, which is about all other spans.
pub(crate) fn smart() -> Rules {
    "message.length>100 -> always; priority=high -> always".parse().expect("they are right")
}

impl FromStr for Rules {
    type Err = RuleError;

    /// Reads rules, as the setting `RULES` has them.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse::rules(text).map(|rules| Rules(rules.into()))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.iter().enumerate() {
            write!(f, "{}{rule}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// What a span must be like, and how it is sampled then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// All must hold.
    pub(crate) conditions: Box<[Condition]>,
    pub(crate) sampler: RootSampler,
}

impl Rule {
    /// The first condition that does not hold; `None` if the rule matches.
    pub(crate) fn mismatch(&self, subject: &dyn Subject) -> Option<&Condition> {
        self.conditions.iter().find(|condition| !condition.holds(subject))
    }

    /// Whether it matters which attributes the span has.
    pub(crate) fn looks_at_attributes(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Condition::Attribute { .. }))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.conditions.iter().enumerate() {
            write!(f, "{}{condition}", if index > 0 { ", " } else { "" })?;
        }
        let any = if self.conditions.is_empty() { "*" } else { "" };
        write!(f, "{any} -> {}", SamplerText(self.sampler))
    }
}

/// A sampler as rules write it.
struct SamplerText(RootSampler);

impl fmt::Display for SamplerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RootSampler::AlwaysOn => f.write_str("always"),
            RootSampler::AlwaysOff => f.write_str("never"),
            RootSampler::TraceIdRatio(ratio) => write!(f, "ratio:{ratio}"),
            RootSampler::EveryNth(n) => write!(f, "every_nth:{n}"),
            RootSampler::RateLimit(rate) => write!(f, "rate_limit:{rate}"),
        }
    }
}

/// One thing that a rule asks of a span.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    Name(Pattern),
    Scope(Pattern),
    Kind(SpanKind),
    Attribute { key: Box<str>, test: Test },
}

/// What is asked of an attribute. One that is not there, or is null, holds nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    /// A string is as the pattern says, a number equals the one that it says, a boolean is that word; any value at all, if it says `*`.
    Is(Pattern),
    /// A string begins so.
    Begins(Box<str>),
    /// A number compares so.
    Compares(Comparison, Number),
    /// The number of a string's characters compares so.
    Length(Comparison, Number),
}

/// A span that is to start, as rules see it.
pub(crate) trait Subject {
    fn name(&self) -> &str;
    /// Whether the name of its instrumentation scope is such; that of the default one is empty.
    fn is_of_scope(&self, pattern: &Pattern) -> bool;
    fn kind(&self) -> SpanKind;
    /// Its attribute of that key.
    fn attribute(&self, key: &str) -> Seen<'_>;
}

impl Condition {
    fn holds(&self, subject: &dyn Subject) -> bool {
        match self {
            Condition::Name(pattern) => pattern.matches(subject.name()),
            Condition::Scope(pattern) => subject.is_of_scope(pattern),
            Condition::Kind(kind) => subject.kind() == *kind,
            Condition::Attribute { key, test } => test.holds(subject.attribute(key)),
        }
    }
}

impl Test {
    fn holds(&self, value: Seen<'_>) -> bool {
        let mut bytes = [0; 4];
        let text = match value {
            Seen::Str(text) => Some(text),
            Seen::Char(c) => Some(&*c.encode_utf8(&mut bytes)),
            _ => None,
        };
        let number = match value {
            Seen::Int(number) => Some(Number::Int(number)),
            Seen::Double(number) => Some(Number::Double(number)),
            _ => None,
        };
        match self {
            Test::Is(pattern) if pattern.is_any() => !matches!(value, Seen::Absent),
            Test::Is(pattern) => match (value, number, text) {
                (_, _, Some(text)) => pattern.matches(text),
                (Seen::Bool(truth), ..) => {
                    pattern.literal() == Some(if truth { "true" } else { "false" })
                }
                (_, Some(number), _) => pattern
                    .literal()
                    .and_then(Number::parse)
                    .is_some_and(|wanted| Comparison::Equal.holds(number, wanted)),
                _ => false,
            },
            Test::Begins(prefix) => text.is_some_and(|text| text.starts_with(&**prefix)),
            Test::Compares(how, with) => number.is_some_and(|number| how.holds(number, *with)),
            Test::Length(how, with) => {
                text.is_some_and(|text| how.holds(Number::Int(text.chars().count() as i64), *with))
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Name(pattern) => write!(f, "name={pattern}"),
            Condition::Scope(pattern) => write!(f, "scope={pattern}"),
            Condition::Kind(kind) => write!(f, "kind={}", parse::kind_name(*kind)),
            Condition::Attribute { key, test } => {
                match parse::is_key_plain(key) {
                    true => scan::write_quoted(f, key)?,
                    false => scan::write_in_quotes(f, key)?,
                }
                match test {
                    Test::Is(pattern) => write!(f, "={pattern}"),
                    Test::Begins(prefix) => {
                        f.write_str("^=")?;
                        scan::write_quoted(f, prefix)
                    }
                    Test::Compares(how, with) => write!(f, "{how}{with}"),
                    Test::Length(how, with) => write!(f, ".length{how}{with}"),
                }
            }
        }
    }
}
