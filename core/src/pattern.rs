//! Patterns of names: texts in which `*` stands for any characters, none included.
//!
//! Invariant: no two stars follow each other, so that a pattern is written in one way.

use std::fmt;

use crate::rules::{Text, write_quoted};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What lies between the stars: one part more than there are stars.
    parts: Box<[Box<str>]>,
}

impl Pattern {
    /// The patterns of a list with commas; every star in it stands for any characters.
    pub fn list(text: &str) -> impl Iterator<Item = Pattern> {
        let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        patterns.map(|pattern| Self::of(pattern.chars().map(|c| (c, false))))
    }

    pub(crate) fn new(text: &Text) -> Self {
        Self::of(text.chars.iter().copied())
    }

    /// Of characters, and whether each is itself even if it is a star.
    fn of(chars: impl Iterator<Item = (char, bool)>) -> Self {
        let mut parts = vec![String::new()];
        let mut after_star = false;
        for (c, is_literal) in chars {
            let is_star = c == '*' && !is_literal;
            match is_star {
                true if after_star => {}
                true => parts.push(String::new()),
                false => parts.last_mut().expect("there is one").push(c),
            }
            after_star = is_star;
        }
        Pattern { parts: parts.into_iter().map(String::into_boxed_str).collect() }
    }

    /// Whether all of `text` is as the pattern says. Takes time in proportion to the two lengths, not to their product.
    pub fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &*self.parts else { return text == &*self.parts[0] };
        let Some(rest) = text.strip_prefix(&**first) else { return false };
        let Some(mut rest) = rest.strip_suffix(&**last) else { return false };
        for part in between {
            // The first place is as good as any: what is left is longest there.
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// The one text that it matches, if there is only one.
    pub(crate) fn literal(&self) -> Option<&str> {
        if self.parts.len() == 1 { Some(&self.parts[0]) } else { None }
    }

    /// Whether it matches everything.
    pub(crate) fn is_any(&self) -> bool {
        self.parts.len() == 2 && self.parts.iter().all(|part| part.is_empty())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.len() == 1 {
            return write_quoted(f, &self.parts[0]);
        }
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                f.write_str("*")?;
            }
            if !part.is_empty() {
                write_quoted(f, part)?;
            }
        }
        Ok(())
    }
}
