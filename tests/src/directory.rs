//! Reads the segments of a directory back, as a program that came after a crash would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use spanring_exporter::batch::{DecodedBatch, decode};
use spanring_exporter::segment::{SegmentEnd, SegmentReader, find_segments};

use crate::ledger::Ledger;

/// What one pipeline left in a directory.
#[derive(Debug)]
pub struct Recording {
    /// Its batches, checked.
    pub ledger: Ledger,
    /// Segments that were not closed, and how many bytes of each cannot be read.
    pub unclosed: Vec<(PathBuf, u64)>,
    /// The process that wrote them.
    pub pid: u32,
}

impl Recording {
    /// Whether all segments were closed and the last batch is a closing one.
    pub fn is_complete(&self) -> bool {
        let closing = self.ledger.batches.last().is_some_and(|batch| batch.header.spans == 0);
        self.unclosed.is_empty() && closing
    }
}

/// Everything in `directory`, by the pipeline that wrote it.
///
/// # Panics
///
/// If a segment cannot be read where it was written, or batches do not fit together.
pub fn read(directory: &Path) -> Vec<Recording> {
    /// Batches, files with their lengths, and how many of these are not closed.
    type Found = (Vec<DecodedBatch>, Vec<(PathBuf, u64)>, u32);
    let mut found: BTreeMap<u128, Found> = BTreeMap::new();
    for segment in find_segments(directory).expect("the directory can be listed") {
        let mut reader = SegmentReader::open(&segment.path).expect("the segment begins as one");
        let header = *reader.header();
        let (batches, unclosed, pid) = found.entry(header.instance.0).or_default();
        *pid = header.pid;
        while let Some(batch) = reader.next_batch() {
            let batch = batch.expect("a batch that was written whole can be read");
            batches
                .push(decode(batch.frame).expect("a batch that was written whole can be decoded"));
        }
        if let Some(SegmentEnd::Unclean { readable_bytes, .. }) = reader.end() {
            unclosed.push((segment.path.clone(), reader.file_bytes() - readable_bytes));
        }
    }
    let recording =
        |(batches, unclosed, pid)| Recording { ledger: Ledger::of(batches), unclosed, pid };
    found.into_values().map(recording).collect()
}

/// What the only pipeline left that wrote to `directory`.
///
/// # Panics
///
/// As [`read`], and if there is not exactly one.
pub fn read_one(directory: &Path) -> Recording {
    let mut found = read(directory);
    assert_eq!(found.len(), 1, "pipelines that wrote to {}", directory.display());
    found.remove(0)
}
