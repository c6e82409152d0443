//! Reading rules character by character: texts with quotes, and where something is wrong.

use std::fmt;

/// What is wrong with rules or levels, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleError {
    /// The rule, counted from 1.
    pub rule: usize,
    /// The character of the whole text, counted from 1.
    pub character: usize,
    /// What is wrong there, and what to write instead.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RuleError { rule, character, message } = self;
        write!(f, "rule {rule}, character {character}: {message}")
    }
}

impl std::error::Error for RuleError {}

/// Characters of a text that a message shows.
const SHOWN_CHARS_MAX: usize = 40;

/// `text` in quotes, escaped and cut, for messages.
pub(super) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    let rest = if chars.next().is_some() { "…" } else { "" };
    format!("\"{}{rest}\"", head.escape_debug())
}

/// A text as it was written, without the blanks around it.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// Its characters, and whether each stands for itself whatever it is: in quotes, or behind a backslash.
    pub(crate) chars: Vec<(char, bool)>,
    /// The place of its first character, from 0.
    pub(super) at: usize,
    /// There were quotes, be it around nothing.
    has_quotes: bool,
}

impl Text {
    /// The characters alone.
    pub(super) fn plain(&self) -> String {
        self.chars.iter().map(|(c, _)| c).collect()
    }

    /// Whether it is this word, written without quotes.
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.chars.iter().copied().eq(word.chars().map(|c| (c, false)))
    }

    /// Takes an end away that was written without quotes; whether it was there.
    pub(super) fn strip_suffix(&mut self, suffix: &str) -> bool {
        let Some(at) = self.chars.len().checked_sub(suffix.chars().count()) else { return false };
        let is_there = self.chars[at..].iter().copied().eq(suffix.chars().map(|c| (c, false)));
        if is_there {
            self.chars.truncate(at);
        }
        is_there
    }

    /// Whether nothing was written, not even quotes around nothing.
    pub(super) fn is_missing(&self) -> bool {
        self.chars.is_empty() && !self.has_quotes
    }
}

/// Where reading is.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
    /// Characters read.
    at: usize,
    rule: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Scanner { rest: text, at: 0, rule: 1 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn begin_rule(&mut self, rule: usize) {
        self.rule = rule;
    }

    pub(super) fn error(&self, at: usize, message: impl Into<String>) -> RuleError {
        RuleError { rule: self.rule, character: at + 1, message: message.into() }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn is_at(&self, token: &str) -> bool {
        self.rest.starts_with(token)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.at += 1;
        Some(c)
    }

    /// Goes past `token`, if it is next.
    pub(super) fn take(&mut self, token: &str) -> bool {
        let is_next = self.is_at(token);
        if is_next {
            self.rest = &self.rest[token.len()..];
            self.at += token.chars().count();
        }
        is_next
    }

    pub(super) fn skip_blanks(&mut self) {
        while self.rest.starts_with(char::is_whitespace) {
            self.next();
        }
    }

    /// Reads up to the first of `stops`, or to the end.
    ///
    /// # Errors
    ///
    /// A quote that does not end, a backslash at the end.
    pub(super) fn text(&mut self, stops: &[&str]) -> Result<Text, RuleError> {
        self.skip_blanks();
        let mut text = Text { at: self.at, ..Text::default() };
        let mut len = 0;
        while !self.is_at_end() && !stops.iter().any(|stop| self.is_at(stop)) {
            let at = self.at;
            match self.next().expect("it is not at the end") {
                '"' => {
                    text.has_quotes = true;
                    self.quoted(at, &mut text.chars)?;
                }
                '\\' => text.chars.push((self.escaped(at)?, true)),
                c => text.chars.push((c, false)),
            }
            if text.chars.last().is_some_and(|(c, is_literal)| *is_literal || !c.is_whitespace()) {
                len = text.chars.len();
            }
        }
        text.chars.truncate(len);
        Ok(text)
    }

    /// Reads on to the quote that ends what began at `at`.
    fn quoted(&mut self, at: usize, to: &mut Vec<(char, bool)>) -> Result<(), RuleError> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => to.push((self.escaped(at)?, true)),
                Some(c) => to.push((c, true)),
                None => {
                    let message = "this quote does not end: write \" behind what it quotes";
                    return Err(self.error(at, message));
                }
            }
        }
    }

    fn escaped(&mut self, at: usize) -> Result<char, RuleError> {
        self.next().ok_or_else(|| {
            self.error(at, "nothing is behind the backslash: write \\\\ for a backslash itself")
        })
    }
}

/// Writes a text so that it is read as it is: in quotes, if it needs them.
pub(crate) fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let needs_quotes = text.is_empty()
        || text.contains(['"', '\\', '*', ',', ';', '=', '<', '>', '^', ':'])
        || text.contains("->")
        || text.starts_with(char::is_whitespace)
        || text.ends_with(char::is_whitespace);
    if needs_quotes { write_in_quotes(f, text) } else { f.write_str(text) }
}

/// The same, in quotes in any case.
pub(super) fn write_in_quotes(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
