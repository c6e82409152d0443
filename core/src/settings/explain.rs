//! What is in force and why: rows for programs, and a table for people.
//!
//! Nothing is decided here; it only tells what the builder decided.

use std::fmt;

use super::Settings;
use super::choice::Source;
use super::parse::{Kind, human_bytes};
use super::problem::quote;
use super::row::Row;

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The preferred environment variable.
    pub name: String,
    /// The field of [`Settings`]; `sampler_arg` is part of [`Settings::sampler`].
    pub field: &'static str,
    /// The value, as the variable would say it; `None` if there is none.
    pub value: Option<String>,
    /// What having no value means, for settings that can do without.
    pub unset: Option<&'static str>,
    /// The unit of a bare number; empty if there is none.
    pub unit: &'static str,
    /// Where the value came from.
    pub source: Source,
    /// Whether a running engine takes up a change.
    pub live: bool,
    /// The default, as the variable would say it; `None` if there is none.
    pub default: Option<String>,
    /// The values that are accepted, in words.
    pub allowed: String,
    /// What the setting does, in one line.
    pub description: &'static str,
}

impl Explained {
    /// The value with its unit, or what having none means; bounded in length and without control
    /// characters.
    pub(super) fn shown(&self) -> String {
        match (&self.value, self.unset) {
            (Some(value), _) => with_unit(value, self.unit),
            (None, Some(meaning)) => meaning.to_owned(),
            (None, None) => "none".to_owned(),
        }
    }
}

impl Row {
    pub(super) fn explain(&self, settings: &Settings, source: &Source) -> Explained {
        Explained {
            name: self.name(),
            field: self.access.field,
            value: (self.access.get)(settings).render().map(|value| self.without_secret(value)),
            unset: self.unset,
            unit: self.kind.unit(),
            source: source.clone(),
            live: self.live,
            default: self.default_text(),
            allowed: self.allowed(),
            description: self.description,
        }
    }

    /// `value`, but a query of a URL, which may hold a key, is not shown. Nor is what stands behind the scheme if
    /// there is an `@`, as with a password: where it begins and ends cannot be told.
    fn without_secret(&self, mut value: String) -> String {
        if !matches!(self.kind, Kind::Endpoint | Kind::BaseUrl) {
            return value;
        }
        let secret = match value.find("://").filter(|_| value.contains('@')) {
            Some(at) => Some(at + "://".len()),
            None if value.contains('@') => Some(0),
            None => value.find('?').map(|at| at + 1),
        };
        if let Some(at) = secret {
            value.replace_range(at.., "\u{2026}");
        }
        value
    }

    /// The default, as a variable would say it.
    pub(super) fn default_text(&self) -> Option<String> {
        self.own_text(self.default).render()
    }
}

/// A value as people read it.
pub(super) fn with_unit(value: &str, unit: &str) -> String {
    match (unit, value.parse::<i64>()) {
        ("bytes", Ok(bytes)) => {
            let text = human_bytes(bytes);
            if text.contains(' ') { text } else { format!("{text} bytes") }
        }
        ("", _) => {
            // Quotes only where something had to be escaped or cut.
            let quoted = quote(value.as_ref());
            if quoted.len() == value.len() + 2 && !value.is_empty() {
                value.to_owned()
            } else {
                quoted
            }
        }
        _ => format!("{value} {unit}"),
    }
}

/// Shows the rows of [`Settings::explain`] as a table.
///
/// ```
/// use spanring::settings::{ExplainTable, Settings};
///
/// let rows = Settings::default().explain();
/// let table = ExplainTable(&rows).to_string();
/// assert!(table.lines().any(|line| line.starts_with("SPANRING_MAX_BYTES ") && line.contains("64 MiB")));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ExplainTable<'a>(pub &'a [Explained]);

impl fmt::Display for ExplainTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["SETTING", "VALUE", "SOURCE", "LIVE", "DESCRIPTION"].map(str::to_owned);
        let rows = self.0.iter().map(|row| {
            let live = if row.live { "yes" } else { "no" };
            [
                row.name.clone(),
                row.shown(),
                row.source.to_string(),
                live.to_owned(),
                row.description.to_owned(),
            ]
        });
        let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..4).map(width).collect();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", row[4])?;
        }
        Ok(())
    }
}
