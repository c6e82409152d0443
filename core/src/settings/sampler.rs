//! Which sampler is wanted: OpenTelemetry's names and two of ours, each with its argument.
//!
//! Only names and arguments are understood here; sampling itself happens elsewhere.
//! Invariant: [`SamplerSetting::check`] accepts an argument exactly if parsing its text does.

use std::fmt;

/// Spans a second that `rate_limit` records when no argument says otherwise.
pub const RATE_LIMIT_DEFAULT: f64 = 100.0;

/// The highest rate, in spans a second, that `rate_limit` takes.
pub const RATE_LIMIT_MAX: f64 = 1e9;

/// A sampler and whether it asks the parent first.
///
/// ```
/// use spanring::settings::{RootSampler, SamplerSetting};
///
/// let sampler = SamplerSetting::from_name("parentbased_traceidratio").unwrap();
/// assert!(sampler.parent_based);
/// assert_eq!(sampler.root, RootSampler::TraceIdRatio(1.0));
/// assert_eq!(sampler.to_string(), "parentbased_traceidratio");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSetting {
    /// Whether a span with a parent does as its parent did; `root` then decides for roots only.
    pub parent_based: bool,
    /// What decides otherwise.
    pub root: RootSampler,
}

/// A sampler that decides without asking a parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RootSampler {
    /// Every span is recorded.
    AlwaysOn,
    /// No span is recorded.
    AlwaysOff,
    /// This share of traces, 0 to 1, chosen by trace ID.
    TraceIdRatio(f64),
    /// The first of every so many; at least 1, which is all of them.
    EveryNth(u64),
    /// At most so many a second; above 0, at most [`RATE_LIMIT_MAX`].
    RateLimit(f64),
}

const PARENT_BASED: &str = "parentbased_";

impl SamplerSetting {
    /// The names that [`SamplerSetting::from_name`] knows, each also with `parentbased_` before it.
    pub const ROOT_NAMES: &'static [&'static str] =
        &["always_on", "always_off", "traceidratio", "every_nth", "rate_limit"];

    /// The sampler of that name, in any case, with its argument's default (every trace; every
    /// first; [`RATE_LIMIT_DEFAULT`]); `None` if there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (parent_based, root) = match name.strip_prefix(PARENT_BASED) {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let root = match root {
            "always_on" => RootSampler::AlwaysOn,
            "always_off" => RootSampler::AlwaysOff,
            "traceidratio" => RootSampler::TraceIdRatio(1.0),
            "every_nth" => RootSampler::EveryNth(1),
            "rate_limit" => RootSampler::RateLimit(RATE_LIMIT_DEFAULT),
            _ => return None,
        };
        Some(SamplerSetting { parent_based, root })
    }

    /// The root sampler's name, without `parentbased_`.
    fn root_name(self) -> &'static str {
        match self.root {
            RootSampler::AlwaysOn => "always_on",
            RootSampler::AlwaysOff => "always_off",
            RootSampler::TraceIdRatio(_) => "traceidratio",
            RootSampler::EveryNth(_) => "every_nth",
            RootSampler::RateLimit(_) => "rate_limit",
        }
    }

    /// The same sampler with the default of its argument.
    pub(super) fn with_default_argument(self) -> Self {
        let fresh = SamplerSetting::from_name(self.root_name());
        SamplerSetting {
            parent_based: self.parent_based,
            root: fresh.map_or(self.root, |s| s.root),
        }
    }

    /// The argument as text that parses back; `None` if the sampler takes none.
    pub(super) fn argument(self) -> Option<String> {
        match self.root {
            RootSampler::AlwaysOn | RootSampler::AlwaysOff => None,
            RootSampler::TraceIdRatio(value) | RootSampler::RateLimit(value) => {
                Some(value.to_string())
            }
            RootSampler::EveryNth(n) => Some(n.to_string()),
        }
    }

    /// The root sampler with the argument that `text` says.
    ///
    /// # Errors
    /// What is wrong with it and what this sampler takes.
    pub(super) fn parse_argument(self, text: &str) -> Result<RootSampler, String> {
        let number = text.parse::<f64>().map_err(|_| self.argument_refused());
        let root = match self.root {
            RootSampler::AlwaysOn | RootSampler::AlwaysOff => return Err(self.argument_refused()),
            RootSampler::TraceIdRatio(_) => RootSampler::TraceIdRatio(number?),
            RootSampler::RateLimit(_) => RootSampler::RateLimit(number?),
            RootSampler::EveryNth(_) => {
                RootSampler::EveryNth(text.parse().map_err(|_| self.argument_refused())?)
            }
        };
        SamplerSetting { root, ..self }.check()?;
        Ok(root)
    }

    /// Whether the argument is one that the sampler takes.
    ///
    /// # Errors
    /// What is wrong with it and what this sampler takes.
    pub(super) fn check(self) -> Result<(), String> {
        let fine = match self.root {
            RootSampler::AlwaysOn | RootSampler::AlwaysOff => true,
            RootSampler::TraceIdRatio(ratio) => (0.0..=1.0).contains(&ratio),
            RootSampler::EveryNth(n) => n >= 1,
            RootSampler::RateLimit(rate) => rate > 0.0 && rate <= RATE_LIMIT_MAX,
        };
        if fine { Ok(()) } else { Err(self.argument_refused()) }
    }

    fn argument_refused(self) -> String {
        let takes = match self.root {
            RootSampler::AlwaysOn | RootSampler::AlwaysOff => "no argument",
            RootSampler::TraceIdRatio(_) => "a number from 0 to 1",
            RootSampler::EveryNth(_) => "a whole number, 1 or more",
            RootSampler::RateLimit(_) => "spans a second, above 0 and at most 1000000000",
        };
        format!("does not suit the sampler {self}, which takes {takes}")
    }
}

impl Default for SamplerSetting {
    /// OpenTelemetry's default, `parentbased_always_on`.
    fn default() -> Self {
        SamplerSetting { parent_based: true, root: RootSampler::AlwaysOn }
    }
}

impl fmt::Display for SamplerSetting {
    /// Writes the sampler's name, without its argument.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.parent_based { PARENT_BASED } else { "" })?;
        f.write_str(self.root_name())
    }
}
