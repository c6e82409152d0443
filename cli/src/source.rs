//! What a path holds: segments, or a file of OTLP/JSON lines; and its spans, batch by batch.
//!
//! A directory is its segments, the oldest first. A file is told by its first bytes, or, where
//! these are damaged, by a segment's name. `-` is standard input, which holds lines.
//!
//! One batch is held at a time. Nothing is written, and no segment is ever taken for closed that is not.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use spanring_exporter::batch::{BatchError, decode};
use spanring_exporter::model::SpanBatch;
use spanring_exporter::segment::{
    SegmentEnd, SegmentError, SegmentErrorKind, SegmentReader, begins_segment, find_segments,
};

use crate::error::InputError;
use crate::input::LineReader;

/// How many bytes tell a segment from other files.
const HEAD_BYTES: u64 = 16;

/// One file of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A segment.
    Segment(PathBuf),
    /// A file of OTLP/JSON lines, or `-`.
    Lines(PathBuf),
}

/// Why spans cannot be read; displayed with the file, the place in it, and what to do.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// A line, or a file of lines.
    Lines(InputError),
    /// A segment, or a directory of segments.
    Segment(SegmentError),
    /// A batch of a segment.
    Batch(BatchProblem),
}

/// A batch that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchProblem {
    /// The segment.
    pub path: PathBuf,
    /// Where the batch begins, in bytes from the start of the file.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl BatchProblem {
    /// `error` in the batch at byte `offset` of `path`.
    pub fn new(path: &Path, offset: u64, error: &BatchError) -> Self {
        let (what, advice) = (error.what(), error.advice());
        BatchProblem { path: path.to_owned(), offset, what, advice }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Lines(error) => error.fmt(f),
            ReadError::Segment(error) => error.fmt(f),
            ReadError::Batch(BatchProblem { path, offset, what, advice }) => {
                write!(f, "{}: at byte {offset}: {what}; {advice}", path.display())
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl From<InputError> for ReadError {
    fn from(error: InputError) -> Self {
        ReadError::Lines(error)
    }
}

impl From<SegmentError> for ReadError {
    fn from(error: SegmentError) -> Self {
        ReadError::Segment(error)
    }
}

/// The files that `path` stands for.
///
/// # Errors
///
/// If it cannot be opened, or is a directory without segments.
pub fn find(path: &Path) -> Result<Vec<Source>, ReadError> {
    let lines = || Ok(vec![Source::Lines(path.to_owned())]);
    if path.as_os_str() == "-" {
        return lines();
    }
    let failed = |error: io::Error| {
        InputError::new(format!("cannot be opened: {error}"), "")
            .in_file(&path.display().to_string())
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let segments = find_segments(path)?;
        return Ok(segments.into_iter().map(|found| Source::Segment(found.path)).collect());
    }
    if !metadata.is_file() {
        // What is read of a pipe is gone, so it is read once, as lines.
        return lines();
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
    // What has a segment's name and does not begin as one is a damaged segment.
    match !head.is_empty() && begins_segment(&head) || has_segment_name(path) {
        true => Ok(vec![Source::Segment(path.to_owned())]),
        false => lines(),
    }
}

fn has_segment_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".spanring") || is_part(path)
}

/// Whether the name says that the segment is still written, or was left by a killed process.
pub fn is_part(path: &Path) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().ends_with(".spanring.part")
}

/// Opens a segment that was found a moment ago: its process may have closed, and so renamed, it since.
///
/// # Errors
///
/// As [`SegmentReader::open`].
pub fn open_segment(path: &Path) -> Result<SegmentReader<'static>, SegmentError> {
    SegmentReader::open(path).or_else(|error| {
        let is_gone = error.io_kind() == Some(io::ErrorKind::NotFound);
        match is_gone && is_part(path) {
            true => SegmentReader::open(&path.with_extension("")),
            false => Err(error),
        }
    })
}

/// What a [`Reader`] gives.
#[derive(Debug)]
pub enum Item {
    /// Spans.
    Batch(SpanBatch),
    /// A part that cannot be read; what follows it is.
    Problem(ReadError),
    /// Something that whoever reads ought to know, and no problem.
    Note(SegmentError),
}

/// Reads the spans of one file.
#[derive(Debug)]
pub struct Reader(Kind);

#[derive(Debug)]
enum Kind {
    Lines(LineReader),
    Segment { path: PathBuf, reader: Box<SegmentReader<'static>>, position: u64, ended: bool },
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or does not begin as it must.
    pub fn open(source: &Source) -> Result<Self, ReadError> {
        Ok(Reader(match source {
            Source::Lines(path) => {
                let reader = LineReader::open(path)?;
                // Opening reads the first bytes, if there are any.
                if reader.bytes_read() == 0 {
                    let error = InputError::new("is empty", "OTLP/JSON lines");
                    return Err(error.in_file(reader.name()).into());
                }
                Kind::Lines(reader)
            }
            Source::Segment(path) => {
                let reader = Box::new(open_segment(path)?);
                Kind::Segment { path: path.clone(), reader, position: 0, ended: false }
            }
        }))
    }

    /// The file's name, for people.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::Lines(reader) => reader.name().to_owned(),
            Kind::Segment { path, .. } => path.display().to_string(),
        }
    }

    /// Bytes of the file, if it has a size.
    pub fn bytes_total(&self) -> Option<u64> {
        match &self.0 {
            Kind::Lines(reader) => reader.bytes_total(),
            Kind::Segment { reader, .. } => Some(reader.file_bytes()),
        }
    }

    /// Bytes of the file read so far.
    pub fn bytes_read(&self) -> u64 {
        match &self.0 {
            Kind::Lines(reader) => reader.bytes_read(),
            Kind::Segment { position, .. } => *position,
        }
    }

    /// The next batch of spans, or what is wrong in its place; `None` at the end. A segment's closing
    /// batch, which has none, is left out.
    pub fn next_item(&mut self) -> Option<Item> {
        match &mut self.0 {
            Kind::Lines(reader) => match reader.next_batch() {
                Ok(Some(batch)) => Some(Item::Batch(batch)),
                Ok(None) => None,
                Err(error) => Some(Item::Problem(error.into())),
            },
            Kind::Segment { path, reader, position, ended } => {
                while let Some(found) = reader.next_batch() {
                    let frame = match found {
                        Ok(frame) => frame,
                        Err(error) => return Some(Item::Problem(error.into())),
                    };
                    *position = frame.offset + frame.frame.len() as u64;
                    match decode(frame.frame) {
                        Ok(decoded) if decoded.batch.spans.is_empty() => {}
                        Ok(decoded) => return Some(Item::Batch(decoded.batch)),
                        Err(error) => {
                            let problem = BatchProblem::new(path, frame.offset, &error);
                            return Some(Item::Problem(ReadError::Batch(problem)));
                        }
                    }
                }
                *position = reader.file_bytes();
                if std::mem::replace(ended, true) {
                    return None;
                }
                let Some(SegmentEnd::Unclean { error, .. }) = reader.end() else { return None };
                // The file of a running process ends like this, too, between two batches.
                match error.kind() == SegmentErrorKind::NotClosed && is_part(path) {
                    true => Some(Item::Note(error.clone())),
                    false => Some(Item::Problem(error.clone().into())),
                }
            }
        }
    }
}
