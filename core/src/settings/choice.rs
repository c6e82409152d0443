//! The settings that are a choice among names, and where a value came from.
//!
//! Invariant: each choice's `ALL` lists every variant once, and a name is lower case and unique.

use std::fmt;

/// Declares an enum whose variants have names, with both directions of the look-up.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All variants, in the order of their declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The name that settings use.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            /// The variant of that name, in any case; `None` if there is none.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|choice| choice.name().eq_ignore_ascii_case(name))
            }

            /// All names, for messages.
            pub(super) fn names() -> String {
                Self::ALL.iter().map(|choice| choice.name()).collect::<Vec<_>>().join(", ")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

choice! {
    /// Values for a kind of use. Code and environment still override each of them.
    Preset {
        /// What RAAF's tracing does today: small batches and a small budget.
        Raaf = "raaf",
        /// Spans are delivered within about a second.
        Realtime = "realtime",
        /// Few deliveries, each with many spans.
        Throughput = "throughput",
        /// A service in production: moderate batches, bounded retries.
        Production = "production",
    }
}

choice! {
    /// How severe a message of the engine must be to be written; later variants write more.
    LogLevel {
        /// The engine cannot go on.
        Fatal = "fatal",
        /// Spans were lost.
        Error = "error",
        /// Something needs attention.
        Warn = "warn",
        /// What the engine does, in large steps.
        Info = "info",
        /// What the engine does, in detail.
        Debug = "debug",
    }
}

choice! {
    /// Which spans there are.
    Level {
        /// None: such a span is as if it were not there, and its children are its parent's.
        None = "none",
        /// Those without a parent in this process, and those that end with the status error.
        Minimal = "minimal",
        /// What is probably worth it: long messages, high priority, and a share of the rest.
        Smart = "smart",
        /// All that the sampler lets through.
        Full = "full",
    }
}

choice! {
    /// How much a span is about details, and how much of that is wanted.
    Detail {
        /// Nothing.
        None = "none",
        /// What there is to know in any case.
        Basic = "basic",
        /// What is of use only in search of something.
        Detailed = "detailed",
    }
}

choice! {
    /// A format in which span context travels between processes.
    Propagator {
        /// W3C `traceparent` and `tracestate`.
        TraceContext = "tracecontext",
        /// W3C `baggage`.
        Baggage = "baggage",
    }
}

/// What becomes of a span for which there is no room in `MAX_SPANS` or `MAX_BYTES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It is dropped and counted at once.
    #[default]
    Drop,
    /// Its thread waits so many milliseconds at most for the flusher, from 1 to [`WAIT_MAX`](Self::WAIT_MAX), and then
    /// drops it.
    Wait(u32),
}

impl Overflow {
    /// The longest wait, in milliseconds.
    pub const WAIT_MAX: u32 = 60_000;

    /// How many milliseconds a thread waits; 0 if it does not.
    pub fn wait_millis(self) -> u32 {
        match self {
            Overflow::Drop => 0,
            Overflow::Wait(millis) => millis,
        }
    }

    /// The value that `drop` or `wait:MS` says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("wait:") {
            Some(millis) => {
                let millis: u64 = millis
                    .trim()
                    .parse()
                    .map_err(|_| "is not a whole number of milliseconds after wait:")?;
                let wait = Overflow::Wait(u32::try_from(millis).unwrap_or(u32::MAX));
                wait.check().map(|()| wait)
            }
            None if text == "drop" => Ok(Overflow::Drop),
            None => Err("is neither drop nor wait:MS".to_owned()),
        }
    }

    /// Whether it is in range.
    ///
    /// # Errors
    /// That it is not.
    pub(super) fn check(self) -> Result<(), String> {
        match self {
            Overflow::Wait(millis) if !(1..=Self::WAIT_MAX).contains(&millis) => {
                Err("is out of range".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overflow::Drop => f.write_str("drop"),
            Overflow::Wait(millis) => write!(f, "wait:{millis}"),
        }
    }
}

/// Names and values of a request's headers. The values may be secret: [`Debug`](fmt::Debug) leaves them out.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, "***"))).finish()
    }
}

impl std::ops::Deref for Headers {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A value that nothing shows: [`Debug`](fmt::Debug) leaves it out.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The preset in force.
    Preset(Preset),
    /// [`SettingsBuilder`](super::SettingsBuilder).
    Code,
    /// The environment variable of this name.
    Variable(String),
    /// This line of the file that `CONFIG` names.
    File {
        /// Counted from 1.
        line: u32,
    },
    /// [`Settings::with`](super::Settings::with), while the program runs.
    Live,
    /// A larger value was lowered to what another setting, named here by its suffix, allows.
    LimitedBy(&'static str),
}

impl Source {
    /// The layer's place in the order of precedence; higher wins.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Source::Default | Source::LimitedBy(_) => 0,
            Source::Preset(_) => 1,
            Source::Code => 2,
            Source::Variable(_) => 3,
            // Of these two the later one wins, and there is only one of them.
            Source::File { .. } | Source::Live => 4,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Preset(preset) => write!(f, "preset {preset}"),
            Source::Code => f.write_str("code"),
            Source::Variable(name) => f.write_str(name),
            Source::File { line } => write!(f, "CONFIG, line {line}"),
            Source::Live => f.write_str("live"),
            Source::LimitedBy(suffix) => write!(f, "limited by {suffix}"),
        }
    }
}
