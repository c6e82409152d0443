//! Words for scopes and for names of spans: the settings `LEVELS` and `DETAILS`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::scan::{RuleError, Scanner, shown};
use super::{Pattern, RULES_MAX, Subject};
use crate::settings::{Detail, Level};

/// Levels of tracing for scopes and for names of spans; the first that matches counts.
///
/// ```
/// use spanring::settings::Levels;
///
/// let levels: Levels = "scope:http=minimal; name:db.*=none".parse()?;
/// assert_eq!(levels.to_string(), "scope:http=minimal; name:db.*=none");
/// # Ok::<(), spanring::settings::RuleError>(())
/// ```
pub type Levels = Scoped<Level>;

/// Levels of detail for scopes and for names of spans; the first that matches counts.
pub type Details = Scoped<Detail>;

/// A word that scopes and names can have.
pub trait Word: Copy + PartialEq + fmt::Display + 'static {
    #[doc(hidden)]
    const ALL: &'static [Self];
}

impl Word for Level {
    const ALL: &'static [Level] = Level::ALL;
}

impl Word for Detail {
    const ALL: &'static [Detail] = Detail::ALL;
}

/// Words for scopes and for names of spans, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Scoped<T>(Arc<[(Of, Pattern, T)]>);

/// What a pattern is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Scope,
    Name,
}

impl<T: Word> Scoped<T> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The word of the first that matches.
    pub(crate) fn find(&self, subject: &dyn Subject) -> Option<T> {
        self.0.iter().find(|entry| matches(entry, subject)).map(|(.., word)| *word)
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(.., word)| *word)
    }

    /// The same as [`find`](Self::find), with the entry as it is written.
    pub(crate) fn explain(&self, subject: &dyn Subject) -> Option<(T, String)> {
        let entry = self.0.iter().find(|entry| matches(entry, subject))?;
        Some((entry.2, Entry(entry).to_string()))
    }
}

fn matches<T>((of, pattern, _): &(Of, Pattern, T), subject: &dyn Subject) -> bool {
    match of {
        Of::Scope => subject.is_of_scope(pattern),
        Of::Name => pattern.matches(subject.name()),
    }
}

impl<T> Default for Scoped<T> {
    fn default() -> Self {
        Scoped(Arc::new([]))
    }
}

impl<T: Word> FromStr for Scoped<T> {
    type Err = RuleError;

    /// Reads `scope:PATTERN=WORD` and `name:PATTERN=WORD`, with `;` between them; a pattern alone is that of a name.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut scanner = Scanner::new(text);
        let mut entries = Vec::new();
        loop {
            scanner.skip_blanks();
            if scanner.take(";") {
                continue;
            }
            if scanner.is_at_end() {
                return Ok(Scoped(entries.into()));
            }
            scanner.begin_rule(entries.len() + 1);
            if entries.len() == RULES_MAX {
                let message = format!("there may be {RULES_MAX} of them: join some with *");
                return Err(scanner.error(scanner.at(), message));
            }
            entries.push(entry(&mut scanner)?);
        }
    }
}

fn entry<T: Word>(scanner: &mut Scanner<'_>) -> Result<(Of, Pattern, T), RuleError> {
    let of = if scanner.take("scope:") {
        Of::Scope
    } else {
        scanner.take("name:");
        Of::Name
    };
    let pattern = scanner.text(&["=", ";"])?;
    if pattern.is_missing() {
        let message = format!(
            "here a pattern is missing: write scope:http*={0}, or name:db.*={0}",
            T::ALL[0]
        );
        return Err(scanner.error(pattern.at, message));
    }
    let names = || T::ALL.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
    if !scanner.take("=") {
        let message = format!("here = is missing: write it, and one of {}", names());
        return Err(scanner.error(scanner.at(), message));
    }
    let word = scanner.text(&[";"])?;
    let plain = word.plain();
    let found = T::ALL.iter().find(|known| known.to_string().eq_ignore_ascii_case(&plain));
    match found {
        Some(found) => Ok((of, Pattern::new(&pattern), *found)),
        None => {
            let message = format!("{} is not known here: write one of {}", shown(&plain), names());
            Err(scanner.error(word.at, message))
        }
    }
}

/// An entry as it is written.
struct Entry<'a, T>(&'a (Of, Pattern, T));

impl<T: Word> fmt::Display for Entry<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (of, pattern, word) = self.0;
        let of = match of {
            Of::Scope => "scope",
            Of::Name => "name",
        };
        write!(f, "{of}:{pattern}={word}")
    }
}

impl<T: Word> fmt::Display for Scoped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { "; " } else { "" }, Entry(entry))?;
        }
        Ok(())
    }
}
