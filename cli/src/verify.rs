//! Checks segments: every checksum, the structure of every batch, each index against its frames, and
//! conservation over all batches of an instance: sequence numbers without gaps, spans that add up to
//! the counts in the batches' headers, and a closing batch with the final counts.
//!
//! Files are read in the order of instance and number, one batch at a time, so memory does not depend
//! on how many there are. Nothing is written. A problem never stops the check: what follows is checked
//! as well, and every problem is handed out when it is found.

mod chain;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spanring_exporter::batch::{DecodedBatch, decode};
use spanring_exporter::segment::{
    IndexEntry, SegmentEnd, SegmentError, SegmentHeader, find_segments,
};

use crate::source::{BatchProblem, open_segment};
use chain::Chain;
pub use chain::Instance;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or directory.
    pub file: String,
    /// Where in it, in bytes from its start, if it is about a place.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Problem {
    fn new(place: Place<'_>, what: impl Into<String>, advice: impl Into<String>) -> Self {
        let file = place.path.display().to_string();
        Problem { file, offset: place.offset, what: what.into(), advice: advice.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(offset) = self.offset {
            write!(f, "at byte {offset}: ")?;
        }
        write!(f, "{}; {}", self.what, self.advice)
    }
}

impl From<&SegmentError> for Problem {
    fn from(error: &SegmentError) -> Self {
        let file = error.path().map(|path| path.display().to_string()).unwrap_or_default();
        let (what, advice) = (error.what().to_owned(), error.advice().to_owned());
        Problem { file, offset: error.offset(), what, advice }
    }
}

impl From<BatchProblem> for Problem {
    fn from(problem: BatchProblem) -> Self {
        let BatchProblem { path, offset, what, advice } = problem;
        Problem::new(Place { path: &path, offset: Some(offset) }, what, advice)
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    path: &'a Path,
    offset: Option<u64>,
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Segments that could be opened.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Batches that could be decoded, closing ones included.
    pub batches: u64,
    /// Spans in these.
    pub spans: u64,
    /// The pipelines whose batches they are.
    pub instances: Vec<Instance>,
}

/// What is taken for a problem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// That the first batches of an instance are not there is none: retention deleted them.
    pub allow_deleted: bool,
}

/// How far the check is: the file, bytes of it that were checked, and its bytes.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Path, u64, u64);

/// Checks all segments of `paths`: segments, and directories of segments.
///
/// A file given twice is checked once. Each problem goes to `report`, in the order of files.
pub fn verify<P: AsRef<Path>>(
    paths: &[P],
    options: Options,
    report: &mut dyn FnMut(Problem),
    progress: OnProgress<'_>,
) -> Summary {
    let mut summary = Summary::default();
    let mut chain: Option<Chain> = None;
    for (header, path) in find(paths, report) {
        let is_same = chain.as_ref().is_some_and(|chain| chain.is_of(header.instance));
        if !is_same && let Some(done) = chain.take() {
            summary.instances.push(done.finish(report));
        }
        let chain = chain.get_or_insert_with(|| Chain::new(header.instance, options));
        check_segment(&header, &path, chain, &mut summary, report, progress);
    }
    if let Some(done) = chain {
        summary.instances.push(done.finish(report));
    }
    summary
}

/// The segments of `paths`, by instance and number.
fn find<P: AsRef<Path>>(
    paths: &[P],
    report: &mut dyn FnMut(Problem),
) -> Vec<(SegmentHeader, PathBuf)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut add = |path: PathBuf, report: &mut dyn FnMut(Problem)| {
        // A path that cannot be resolved cannot be opened either, which is said then.
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            return;
        }
        match open_segment(&path) {
            Ok(reader) => found.push((*reader.header(), path)),
            Err(error) => report((&error).into()),
        }
    };
    for path in paths.iter().map(AsRef::as_ref) {
        if !path.is_dir() {
            add(path.to_owned(), report);
            continue;
        }
        match find_segments(path) {
            Ok(segments) => segments.into_iter().for_each(|found| add(found.path, report)),
            Err(error) => report((&error).into()),
        }
    }
    found.sort_by_key(|(header, _)| (header.instance.0, header.number));
    found
}

fn check_segment(
    header: &SegmentHeader,
    path: &Path,
    chain: &mut Chain,
    summary: &mut Summary,
    report: &mut dyn FnMut(Problem),
    progress: OnProgress<'_>,
) {
    let mut reader = match open_segment(path) {
        Ok(reader) => reader,
        Err(error) => return report((&error).into()),
    };
    let total = reader.file_bytes();
    summary.segments += 1;
    summary.bytes += total;
    chain.begin_segment(header, path, report);
    while let Some(found) = reader.next_batch() {
        let frame = match found {
            Ok(frame) => frame,
            Err(error) => {
                report((&error).into());
                continue;
            }
        };
        progress(path, frame.offset, total);
        let place = Place { path, offset: Some(frame.offset) };
        match decode(frame.frame) {
            Err(error) => report(BatchProblem::new(path, frame.offset, &error).into()),
            Ok(batch) => {
                summary.batches += 1;
                summary.spans += batch.batch.spans.len() as u64;
                check_batch(&batch, header, frame.index, place, report);
                chain.add(&batch.header, place, report);
            }
        }
    }
    if let Some(SegmentEnd::Unclean { error, .. }) = reader.end() {
        let mut problem = Problem::from(error);
        problem.what.push_str(" (unclean: the tail is unknown)");
        report(problem);
    }
}

const DEFECT: &str =
    "the checksum is right, so it was written like this: report a defect of its writer";

/// One batch by itself, and against the segment's header and index.
fn check_batch(
    batch: &DecodedBatch,
    segment: &SegmentHeader,
    index: Option<IndexEntry>,
    place: Place<'_>,
    report: &mut dyn FnMut(Problem),
) {
    let header = &batch.header;
    let mut differ = |what: &str, found: &dyn fmt::Display, expected: &dyn fmt::Display| {
        let what = format!("{what} is {found}, not {expected}");
        report(Problem::new(place, what, DEFECT));
    };
    if header.instance != segment.instance {
        let what = "the instance of the batch";
        differ(what, &header.instance, &format_args!("{}, the segment's", segment.instance));
    }
    let spans = &batch.batch.spans;
    if spans.len() as u64 != u64::from(header.spans) {
        let what = "the number of spans in the header";
        differ(what, &header.spans, &format_args!("{}, as there are", spans.len()));
    }
    let start = spans.iter().map(|span| span.start_unix_nano).min().unwrap_or_default();
    let end = spans.iter().map(|span| span.end_unix_nano).max().unwrap_or_default();
    for (what, found, expected) in [
        ("the earliest start in the header", header.start_unix_nano, start),
        ("the latest end in the header", header.end_unix_nano, end),
    ] {
        if found != expected {
            differ(what, &found, &format_args!("{expected}, as the spans say"));
        }
    }
    let Some(index) = index else { return };
    for (what, found, expected) in [
        ("the sequence number", index.sequence, header.sequence),
        ("the number of spans", u64::from(index.spans), u64::from(header.spans)),
        ("the earliest start", index.start_unix_nano, header.start_unix_nano),
        ("the latest end", index.end_unix_nano, header.end_unix_nano),
    ] {
        if found != expected {
            let what = format!("{what} in the index");
            differ(&what, &found, &format_args!("{expected}, as the batch says"));
        }
    }
}
