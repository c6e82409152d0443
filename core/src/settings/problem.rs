//! What was wrong with a value, said once, and the nearest name to one that is unknown.
//!
//! [`quote`] is the only way a value gets into a message: it bounds its length and escapes it, so
//! that a hostile variable can neither flood a log nor write control characters into it.

use std::ffi::OsStr;
use std::fmt;

/// A value that could not be used as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The environment variable, or the builder's method, that gave the value.
    pub name: String,
    /// What is wrong with which value, what is allowed, and what is used instead.
    pub message: String,
    /// What is wrong with the value, alone: `names no host`.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Characters of a value that a message shows.
const QUOTE_CHARS_MAX: usize = 80;

/// `text` in quotes, escaped and cut.
pub(super) fn quote(text: &OsStr) -> String {
    // Only as many bytes as could be shown are looked at: a character takes at most four.
    let bytes = text.as_encoded_bytes();
    let looked_at = bytes.len().min(4 * (QUOTE_CHARS_MAX + 1));
    let head = String::from_utf8_lossy(&bytes[..looked_at]);
    let shown: String = head.chars().take(QUOTE_CHARS_MAX).collect();
    let rest = if shown.len() < head.len() { "…" } else { "" };
    format!("\"{}{rest}\"", shown.escape_debug())
}

/// Bytes of a name that is compared with the known ones; a longer one resembles none of them.
const NAME_BYTES_MAX: usize = 128;

/// The candidate that takes the fewest edits to become `name`, if they are few enough.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let edits_max = (name.len() / 3).max(2);
    candidates
        .map(|candidate| (edits(name.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(edits, _)| *edits <= edits_max)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements of a byte that turn `from` into `to` (Levenshtein).
fn edits(from: &[u8], to: &[u8]) -> usize {
    // `row[j]` is the distance from the part of `from` seen so far to the first `j` bytes of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_each_kind_of_change() {
        assert_eq!(edits(b"", b"abc"), 3);
        assert_eq!(edits(b"abc", b""), 3);
        assert_eq!(edits(b"batch", b"batch"), 0);
        assert_eq!(edits(b"btch", b"batch"), 1);
        assert_eq!(edits(b"kitten", b"sitting"), 3);
    }

    #[test]
    fn nearest_finds_a_typo_and_refuses_what_resembles_nothing() {
        let known = ["MAX_SPANS", "MAX_BYTES", "BATCH_SIZE"];
        assert_eq!(nearest("MAX_SPAN", known.into_iter()), Some("MAX_SPANS"));
        assert_eq!(nearest("BATCHSIZE", known.into_iter()), Some("BATCH_SIZE"));
        assert_eq!(nearest("COLOUR", known.into_iter()), None);
        assert_eq!(nearest(&"M".repeat(100_000), known.into_iter()), None);
    }

    #[test]
    fn a_quoted_value_is_escaped_and_bounded() {
        assert_eq!(quote(OsStr::new("a\n\u{1b}[31m")), r#""a\n\u{1b}[31m""#);
        let long = quote(OsStr::new(&"é".repeat(1_000_000)));
        assert_eq!(long.chars().count(), QUOTE_CHARS_MAX + 3);
        assert!(long.ends_with("…\""));
    }
}
