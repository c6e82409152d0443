//! The error of the reading side: which file, which line, where in it, what is wrong, and what was
//! expected instead.

use std::fmt;

/// How much of an offending text an error shows, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// Input that cannot be read.
///
/// Displayed as `FILE:LINE: JSON.PATH: PROBLEM; expected EXPECTED`, without what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputError {
    /// The file's name as the user gave it; `stdin` for `-`.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// Where in the line, such as `resourceSpans[0].scopeSpans[0].spans[3].spanId`; empty if the
    /// line as a whole is meant.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right, or empty.
    pub expected: String,
}

impl InputError {
    /// An error that has no place yet.
    pub fn new(problem: impl Into<String>, expected: impl Into<String>) -> Self {
        InputError { problem: problem.into(), expected: expected.into(), ..Self::default() }
    }

    /// The same error, in `file`.
    #[must_use]
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The same error, at `line` (from 1).
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        Ok(())
    }
}

impl std::error::Error for InputError {}

/// `text` in quotes, escaped and cut to a length that fits into a message.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_what_is_known_of_its_place() {
        let error = InputError::new("it is broken", "something whole");
        assert_eq!(error.to_string(), "it is broken; expected something whole");
        let error = error.in_file("a.jsonl").at_line(7);
        assert_eq!(error.to_string(), "a.jsonl:7: it is broken; expected something whole");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let shown = quoted(&"ä".repeat(100));
        assert_eq!(shown, format!("{:?}… (200 bytes)", "ä".repeat(60)));
        assert_eq!(quoted("a\u{1b}b"), r#""a\u{1b}b""#);
    }
}
