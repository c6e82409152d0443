//! What can be wrong with a segment, said so that somebody can act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong, for programs; [`SegmentError`]'s text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SegmentErrorKind {
    /// The operating system refused; [`SegmentError::io_kind`] says how.
    Io,
    /// Not a segment: a foreign file.
    NotASegment,
    /// A segment of a format version that this reader does not know.
    UnknownVersion,
    /// No index: its process was killed, or still writes it.
    NotClosed,
    /// The file ends in the middle of something.
    Truncated,
    /// Bytes that are not what must stand there.
    Damaged,
    /// A length above its cap.
    TooLarge,
    /// The index and the frames say different things.
    IndexMismatch,
    /// Something follows the index.
    TrailingData,
    /// No segment where some were looked for.
    NoSegments,
    /// The file under the writer was removed, replaced or changed by somebody else.
    Replaced,
    /// The writer was given something that it cannot write; the same again fails again.
    Refused,
}

/// Which file, where in it, what is wrong, and what to do.
#[derive(Clone, Debug)]
pub struct SegmentError {
    kind: SegmentErrorKind,
    io: Option<io::ErrorKind>,
    path: Option<PathBuf>,
    offset: Option<u64>,
    what: String,
    advice: &'static str,
}

impl SegmentError {
    pub(crate) fn new(
        kind: SegmentErrorKind,
        what: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        SegmentError { kind, io: None, path: None, offset: None, what: what.into(), advice }
    }

    /// What was being done, such as "cannot create the segment", and the system's answer.
    pub(crate) fn io(doing: &str, error: &io::Error) -> Self {
        SegmentError {
            kind: SegmentErrorKind::Io,
            io: Some(error.kind()),
            path: None,
            offset: None,
            what: format!("{doing}: {error}"),
            advice: io_advice(error.kind()),
        }
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// What is wrong.
    pub fn kind(&self) -> SegmentErrorKind {
        self.kind
    }

    /// What the operating system answered, for [`SegmentErrorKind::Io`].
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.io
    }

    /// Whether the same may succeed later, as the system refused it now: it has no descriptor or no memory
    /// left, or the disk or its server does not answer. What is in the file is not what is wrong. If not,
    /// the file is damaged, missing, or of a version that is not known here.
    pub fn may_pass(&self) -> bool {
        self.kind == SegmentErrorKind::Io && self.io != Some(io::ErrorKind::NotFound)
    }

    /// The file or directory; `None` for a segment in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Where in the file, in bytes from its start, if it is about a place.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// What is wrong, in words, without file, place and advice.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it, in words.
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, "at byte {offset}: ")?;
        }
        write!(f, "{}; {}", self.what, self.advice)
    }
}

impl std::error::Error for SegmentError {}

fn io_advice(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::*;
    match kind {
        StorageFull | QuotaExceeded => "free space on the disk or lower RETENTION_BYTES",
        PermissionDenied => "give this process's user the permission",
        ReadOnlyFilesystem => "mount the file system for writing or choose another directory",
        NotFound => "check that the path exists",
        IsADirectory => "pass one of the segments in it",
        NotADirectory | AlreadyExists => {
            "choose a path of which every part is a directory or missing"
        }
        _ => "check the disk and the file system",
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_system_refuses_may_pass_and_what_the_file_holds_does_not() {
        let passing = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::IO,
            Errno::NOMEM,
            Errno::STALE,
            Errno::ACCESS,
            Errno::TIMEDOUT,
        ];
        for errno in passing {
            let error = SegmentError::io("cannot read the batch", &errno.into());
            assert!(error.may_pass(), "{error}");
        }
        assert!(!SegmentError::io("cannot read the batch", &Errno::NOENT.into()).may_pass());
        for kind in [
            SegmentErrorKind::NotASegment,
            SegmentErrorKind::UnknownVersion,
            SegmentErrorKind::Truncated,
            SegmentErrorKind::Damaged,
            SegmentErrorKind::NoSegments,
            SegmentErrorKind::Replaced,
            SegmentErrorKind::Refused,
        ] {
            assert!(!SegmentError::new(kind, "wrong", "nothing").may_pass(), "{kind:?}");
        }
    }
}
