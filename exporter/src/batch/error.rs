//! What can be wrong with a batch.

use std::fmt;

/// Why a batch was not encoded or not decoded.
///
/// The message says what was wrong, where, and what to do about it.
#[derive(Debug)]
pub struct BatchError(Kind);

#[derive(Debug)]
enum Kind {
    Frame(String),
    Version(u8),
    Content { part: &'static str, what: &'static str },
    TooLarge { what: &'static str, limit: usize },
    Context { what: &'static str, index: usize, len: usize },
    Compression(String),
}

impl BatchError {
    pub(super) fn frame(what: impl Into<String>) -> Self {
        BatchError(Kind::Frame(what.into()))
    }

    pub(super) fn version(found: u8) -> Self {
        BatchError(Kind::Version(found))
    }

    #[cold]
    pub(super) fn content(part: &'static str, what: &'static str) -> Self {
        BatchError(Kind::Content { part, what })
    }

    #[cold]
    pub(super) fn too_large(what: &'static str, limit: usize) -> Self {
        BatchError(Kind::TooLarge { what, limit })
    }

    pub(crate) fn context(what: &'static str, index: usize, len: usize) -> Self {
        BatchError(Kind::Context { what, index, len })
    }

    pub(super) fn compression(what: impl Into<String>) -> Self {
        BatchError(Kind::Compression(what.into()))
    }

    /// Whether the batch exceeds a limit, so that encoding fewer records at a time would help.
    pub fn is_too_large(&self) -> bool {
        matches!(self.0, Kind::TooLarge { .. })
    }

    /// Whether the batch is of a version that this reader does not know.
    pub fn is_unknown_version(&self) -> bool {
        matches!(self.0, Kind::Version(_))
    }
}

impl BatchError {
    /// What is wrong, in words, without advice.
    pub fn what(&self) -> String {
        match &self.0 {
            Kind::Frame(what) => format!("not a whole batch: {what}"),
            Kind::Version(found) => format!(
                "batch of format version {found}, but this reader knows version {} only",
                super::FORMAT_VERSION
            ),
            Kind::Content { part, what } => format!("malformed batch, in its {part}: {what}"),
            Kind::TooLarge { what, limit } => format!("batch too large: {what} exceed {limit}"),
            Kind::Context { what, index, len } => {
                format!("a record refers to {what} {index}, of which the batch was given {len}")
            }
            Kind::Compression(what) => format!("zstd could not compress the batch: {what}"),
        }
    }

    /// What to do about it, in words.
    pub fn advice(&self) -> &'static str {
        match &self.0 {
            Kind::Frame(_) => "the file is cut or damaged here, read the batches around it",
            Kind::Version(_) => "read it with a newer spanring",
            Kind::Content { .. } => {
                "it was not written by spanring or by one with a defect, as its checksum is right"
            }
            Kind::TooLarge { .. } => "seal fewer spans at a time",
            Kind::Context { .. } => "pass all that were registered",
            Kind::Compression(_) => "try another level",
        }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.advice())
    }
}

impl std::error::Error for BatchError {}
