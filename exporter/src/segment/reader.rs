//! Reads a segment, whatever state it is in.
//!
//! A closed segment is read along its index: a damaged batch is reported and the next one read. A
//! segment without index (its process was killed, or still writes it) is read forward, frame by
//! frame, and ends where the readable part ends. It never decompresses, never writes, and holds one
//! batch and the encoded index in memory, each of which is checked against its cap before it is read.
//!
//! The same code reads files and slices, so what the fuzzer proves of slices holds for files.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::format::{
    HEADER_BYTES, HEADER_FRAME_MAGIC, INDEX_FRAME_MAGIC, INDEX_OVERHEAD_BYTES, IndexCursor,
    IndexEntry, SegmentHeader, TRAILER_BYTES, Trailer, check_index,
};
use super::frame::{SKIPPABLE_HEADER_BYTES, Scan, scan_frame, skippable_header};
use super::{MAX_FRAME_BYTES, MAX_INDEX_BYTES, SegmentError, SegmentErrorKind};

/// What is read at once where more than one batch may be in it.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// One batch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFrame<'a> {
    /// Where its frame begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its zstd frame.
    pub frame: &'a [u8],
    /// What the index says about it; `None` in a segment that was not closed.
    pub index: Option<IndexEntry>,
}

/// How a segment ends.
#[derive(Clone, Debug)]
pub enum SegmentEnd {
    /// It is whole: its index names all of its batches. (A file that is still named `.part` may be,
    /// if its process died just before it renamed it.)
    Closed {
        /// Batches that the index names.
        batches: u32,
    },
    /// It was not closed, or the part that says so is damaged; what followed is unknown.
    Unclean {
        /// Where the readable part ends, in bytes from the start of the file.
        readable_bytes: u64,
        /// Why it ends there.
        error: SegmentError,
    },
}

/// Reads the batches of one segment in order.
///
/// To read a segment that this very process is writing drops its record lock until the next batch is
/// written; another process could take it for dead meanwhile.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    path: Option<PathBuf>,
    window: Window<'a>,
    header: SegmentHeader,
    position: u64,
    index: Option<Index>,
    end: Option<SegmentEnd>,
}

/// The encoded index and how far it was read.
#[derive(Debug)]
struct Index {
    frame: Vec<u8>,
    entries: Range<usize>,
    cursor: IndexCursor,
    trailer: Trailer,
}

impl SegmentReader<'static> {
    /// Opens a segment's file, closed or not.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, is not a regular file, or does not begin as a segment of a known
    /// version does.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let open = || -> io::Result<(File, u64)> {
            // A named pipe must not block, and only a regular file has a length to check against.
            let flags = OFlags::NONBLOCK.bits() as i32;
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            Ok((file, metadata.len()))
        };
        let (file, len) = open()
            .map_err(|error| SegmentError::io("cannot open the file", &error).in_file(path))?;
        Self::new(Source::File(file), len, Some(path.to_owned()))
    }

    /// Reads a file that is open, whose path is for messages only.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self, SegmentError> {
        let len = file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| SegmentError::io("cannot look at the file", &error).in_file(path))?;
        Self::new(Source::File(file), len, Some(path.to_owned()))
    }
}

impl<'a> SegmentReader<'a> {
    /// Reads a segment that is in memory.
    ///
    /// # Errors
    ///
    /// If it does not begin as a segment of a known version does.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, SegmentError> {
        Self::new(Source::Bytes(bytes), bytes.len() as u64, None)
    }

    fn new(source: Source<'a>, len: u64, path: Option<PathBuf>) -> Result<Self, SegmentError> {
        let named = |error: SegmentError| match &path {
            Some(path) => error.in_file(path),
            None => error,
        };
        let mut window = Window { source, len, start: 0, bytes: Vec::new() };
        let cannot_read = |error: io::Error| SegmentError::io("cannot read the header", &error);
        let header = window
            .get(0, HEADER_BYTES)
            .map_err(cannot_read)
            .and_then(SegmentHeader::decode)
            .map_err(named)?;
        let index = Index::find(&window).map_err(named)?;
        Ok(SegmentReader { path, window, header, position: HEADER_BYTES as u64, index, end: None })
    }

    /// What the segment says about itself.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Length of the file when it was opened, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.window.len
    }

    /// How the segment ends; `None` until [`next_batch`](Self::next_batch) has returned `None`.
    pub fn end(&self) -> Option<&SegmentEnd> {
        self.end.as_ref()
    }

    /// What the index says about all batches, without reading them; `None` if there is no whole index
    /// that names all that stands before it.
    pub(crate) fn index_entries(&self) -> Option<Vec<IndexEntry>> {
        let index = self.index.as_ref()?;
        let mut entries = &index.frame[index.entries.clone()];
        let mut cursor = IndexCursor::new(HEADER_BYTES as u64);
        let mut found = Vec::new();
        while cursor.read() < index.trailer.count {
            found.push(cursor.next(&mut entries)?);
        }
        let end = found
            .last()
            .map_or(HEADER_BYTES as u64, |last: &IndexEntry| last.offset + u64::from(last.length));
        (entries.is_empty() && end == index.trailer.index_offset).then_some(found)
    }

    /// The next batch, or `None` at the end, which [`end`](Self::end) tells about.
    ///
    /// The frame's contents are not looked at: whoever decompresses it checks its checksum.
    ///
    /// # Errors
    ///
    /// A batch that the index names and that is damaged, or too large. Those behind it follow.
    pub fn next_batch(&mut self) -> Option<Result<BatchFrame<'_>, SegmentError>> {
        if self.end.is_some() {
            return None;
        }
        let found = if self.index.is_some() { self.next_indexed() } else { self.next_scanned() };
        match found {
            Ok(Some(found)) => Some(match found {
                Ok((offset, len, index)) => {
                    let frame = self.window.held(offset, len);
                    Ok(BatchFrame { offset, frame, index })
                }
                Err(damaged) => Err(self.named(damaged)),
            }),
            Ok(None) => {
                let batches = self.index.as_ref().map_or(0, |index| index.trailer.count);
                self.end = Some(SegmentEnd::Closed { batches });
                None
            }
            Err(error) => {
                let error = self.named(error);
                self.end = Some(SegmentEnd::Unclean { readable_bytes: self.position, error });
                None
            }
        }
    }

    /// Along the index. The outer error ends the segment, the inner is about one batch.
    fn next_indexed(&mut self) -> Result<Option<Found>, SegmentError> {
        let index = self.index.as_mut().expect("the caller looked");
        let mut entries = &index.frame[index.entries.clone()];
        if index.cursor.read() == index.trailer.count {
            if !entries.is_empty() || self.position != index.trailer.index_offset {
                return Err(mismatch(
                    "the index does not name all that stands before it",
                    self.position,
                ));
            }
            return Ok(None);
        }
        let Some(entry) = index.cursor.next(&mut entries) else {
            return Err(mismatch(
                "the index holds fewer batches than it says",
                index.trailer.index_offset,
            ));
        };
        index.entries.start = index.entries.end - entries.len();
        let end = entry.offset + u64::from(entry.length);
        if end > index.trailer.index_offset {
            return Err(mismatch("the index names a batch that lies behind it", self.position));
        }
        self.position = end;
        let length = entry.length as usize;
        if length > MAX_FRAME_BYTES {
            return Ok(Some(Err(too_large(entry.offset))));
        }
        let bytes = self.window.get(entry.offset, length).map_err(cannot_read(entry.offset))?;
        let bytes = &bytes[..length.min(bytes.len())];
        Ok(Some(match scan_frame(bytes) {
            Scan::Whole(whole) if whole == length => Ok((entry.offset, length, Some(entry))),
            Scan::Invalid(what, at) => Err(damaged(what, entry.offset + at as u64)),
            _ => Err(mismatch("the batch does not end where the index says", entry.offset)),
        }))
    }

    /// Forward from frame to frame, for want of an index.
    fn next_scanned(&mut self) -> Result<Option<Found>, SegmentError> {
        let offset = self.position;
        let first = self.window.get(offset, SKIPPABLE_HEADER_BYTES).map_err(cannot_read(offset))?;
        if first.is_empty() {
            return Err(self.not_closed());
        }
        let Some((magic, length)) = skippable_header(first) else {
            return Err(cut_batch(offset, first.len()));
        };
        if magic >> 4 == HEADER_FRAME_MAGIC >> 4 {
            return Err(self.skippable_in_place_of_batch(magic, length));
        }
        let mut wanted = SKIPPABLE_HEADER_BYTES;
        loop {
            // All that is at hand is scanned, not only what was wanted: each look begins at the start
            // of the frame, and a frame may be of millions of empty blocks.
            let bytes = self.window.get(offset, wanted).map_err(cannot_read(offset))?;
            match scan_frame(bytes) {
                Scan::Whole(length) if length <= MAX_FRAME_BYTES => {
                    self.position = offset + length as u64;
                    return Ok(Some(Ok((offset, length, None))));
                }
                Scan::NeedMore(more) if more <= MAX_FRAME_BYTES => {
                    if bytes.len() < wanted {
                        return Err(cut_batch(offset, bytes.len()));
                    }
                    wanted = more;
                }
                Scan::Whole(_) | Scan::NeedMore(_) => return Err(too_large(offset)),
                Scan::Invalid(what, at) => return Err(damaged(what, offset + at as u64)),
            }
        }
    }

    fn not_closed(&self) -> SegmentError {
        let is_part = self
            .path
            .as_ref()
            .is_none_or(|path| path.extension().is_some_and(|extension| extension == "part"));
        let (what, advice) = if is_part {
            (
                "the segment was not closed",
                "its process still writes it or was killed: what followed is unknown",
            )
        } else {
            ("the segment has no index: its end is missing", "restore the file from a copy")
        };
        SegmentError::new(SegmentErrorKind::NotClosed, what, advice).at(self.position)
    }

    /// An index that is not at the end, is cut or damaged, or something that is no batch at all.
    fn skippable_in_place_of_batch(&self, magic: u32, length: u64) -> SegmentError {
        let (offset, len) = (self.position, self.window.len);
        let is_index = magic == INDEX_FRAME_MAGIC;
        if is_index && offset + length > len {
            return SegmentError::new(
                SegmentErrorKind::Truncated,
                format!("the file ends inside its index, which begins at byte {offset}"),
                "all of its batches are whole; that there were no more cannot be checked",
            )
            .at(len);
        }
        if is_index && offset + length < len {
            return SegmentError::new(
                SegmentErrorKind::TrailingData,
                format!("{} bytes follow the index", len - offset - length),
                "a segment ends with its index: cut the file off here, split joined files",
            )
            .at(offset + length);
        }
        let what = match magic {
            INDEX_FRAME_MAGIC => "the index is damaged",
            HEADER_FRAME_MAGIC => "another segment begins where a batch must: files were joined",
            _ => "an unknown skippable frame stands where a batch must",
        };
        damaged(what, offset)
    }

    fn named(&self, error: SegmentError) -> SegmentError {
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Offset, length and index entry of a batch, or what is wrong with this one.
type Found = Result<(u64, usize, Option<IndexEntry>), SegmentError>;

impl Index {
    /// The index at the end of the file, if there is one and it is whole. If there seems to be one
    /// and it is not, reading forward comes to it and says so.
    fn find(window: &Window<'_>) -> Result<Option<Self>, SegmentError> {
        let Some(trailer_at) = window.len.checked_sub(TRAILER_BYTES as u64) else {
            return Ok(None);
        };
        let mut last = [0; TRAILER_BYTES];
        window.read_at(&mut last, trailer_at).map_err(cannot_read(trailer_at))?;
        let Some(trailer) = Trailer::decode(&last) else { return Ok(None) };
        let frame_bytes = trailer.frame_bytes as usize;
        let bounds = INDEX_OVERHEAD_BYTES..=MAX_INDEX_BYTES;
        if !bounds.contains(&frame_bytes)
            || trailer.index_offset < HEADER_BYTES as u64
            || trailer.index_offset.checked_add(frame_bytes as u64) != Some(window.len)
        {
            return Ok(None);
        }
        let mut frame = vec![0; frame_bytes];
        let offset = trailer.index_offset;
        let read = window.read_at(&mut frame, offset).map_err(cannot_read(offset))?;
        Ok(check_index(&frame[..read], offset, &trailer).map(|entries| Index {
            frame,
            entries,
            cursor: IndexCursor::new(HEADER_BYTES as u64),
            trailer,
        }))
    }
}

fn damaged(what: &str, offset: u64) -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::Damaged,
        what,
        "the file was changed or the disk is faulty: restore it from a copy",
    )
    .at(offset)
}

fn mismatch(what: &str, offset: u64) -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::IndexMismatch,
        what,
        "the file was changed or the disk is faulty: restore it from a copy",
    )
    .at(offset)
}

fn cut_batch(offset: u64, bytes_left: usize) -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::Truncated,
        format!("the file ends inside what begins at byte {offset}"),
        "the batches before it are whole; a batch that was being written is lost",
    )
    .at(offset + bytes_left as u64)
}

fn too_large(offset: u64) -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::TooLarge,
        format!("the batch is longer than the {MAX_FRAME_BYTES} bytes that one may have"),
        "no spanring wrote this: do not trust the file",
    )
    .at(offset)
}

fn cannot_read(offset: u64) -> impl Fn(io::Error) -> SegmentError {
    move |error| SegmentError::io("cannot read the file", &error).at(offset)
}

/// The part of the source that is in memory.
#[derive(Debug)]
struct Window<'a> {
    source: Source<'a>,
    /// Length of the source when it was opened.
    len: u64,
    /// Where the bytes in memory begin.
    start: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Source<'a> {
    File(File),
    Bytes(&'a [u8]),
}

impl Window<'_> {
    /// All bytes from `offset` on that are in memory: at least `wanted`, or fewer where the source
    /// ends. What is in memory before `offset` is dropped when more has to be read.
    fn get(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset > end {
            self.bytes.clear();
            self.start = offset;
        } else if offset + wanted as u64 > end {
            self.bytes.drain(..(offset - self.start) as usize);
            self.start = offset;
        }
        let have = self.bytes.len();
        let skip = (offset - self.start) as usize;
        if skip + wanted > have {
            // By half as much again, so that a long frame, asked for block by block, is not copied
            // for each of its blocks.
            let read_to = wanted.max(READ_AHEAD_BYTES).max(have + have / 2).min(left);
            self.bytes.reserve_exact(read_to - have);
            self.bytes.resize(read_to, 0);
            let mut bytes = std::mem::take(&mut self.bytes);
            let read = self.read_at(&mut bytes[have..], offset + have as u64);
            bytes.truncate(have + *read.as_ref().unwrap_or(&0));
            self.bytes = bytes;
            read?;
        }
        Ok(&self.bytes[skip..])
    }

    /// What the last [`get`](Self::get) returned, or a part of it.
    fn held(&self, offset: u64, len: usize) -> &[u8] {
        let skip = (offset - self.start) as usize;
        &self.bytes[skip..skip + len]
    }

    /// Fills `out` from `offset` on; returns how much there was.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.source {
            Source::File(file) => {
                let mut filled = 0;
                while filled < out.len() {
                    match file.read_at(&mut out[filled..], offset + filled as u64) {
                        Ok(0) => break,
                        Ok(read) => filled += read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(filled)
            }
            Source::Bytes(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let rest = rest.unwrap_or_default();
                let len = out.len().min(rest.len());
                out[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
        }
    }
}

/// A segment in memory, taken apart.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// What it says about itself.
    pub header: SegmentHeader,
    /// Its batches in order; in a closed segment, in place of a damaged one, what is wrong with it.
    pub batches: Vec<Result<BatchFrame<'a>, SegmentError>>,
    /// How it ends.
    pub end: SegmentEnd,
}

/// Takes a segment in memory apart.
///
/// # Errors
///
/// If it does not begin as a segment of a known version does.
pub fn read_segment(bytes: &[u8]) -> Result<Segment<'_>, SegmentError> {
    let mut reader = SegmentReader::from_bytes(bytes)?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch() {
        batches.push(batch.map(|BatchFrame { offset, frame, index }| {
            let start = offset as usize;
            BatchFrame { offset, frame: &bytes[start..start + frame.len()], index }
        }));
    }
    let header = *reader.header();
    let end = reader.end.expect("there is an end once there is no next batch");
    Ok(Segment { header, batches, end })
}
