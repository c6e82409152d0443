//! The header and the index of a segment, as bytes; `docs/segment-format.md` is the specification.
//!
//! Pure functions over slices: no I/O, no clock. Decoders allocate nothing.

use super::frame::{SKIPPABLE_HEADER_BYTES, skippable_header};
use super::varint::{self, MAX_VARINT_BYTES};
use super::{MAX_BATCHES, SegmentError, SegmentErrorKind};
use crate::sink::InstanceId;

/// The version of the segment format that this crate writes and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// Magic number of the skippable frame that holds the header.
pub(super) const HEADER_FRAME_MAGIC: u32 = 0x184D_2A5A;
/// Magic number of the skippable frame that holds the index.
pub(super) const INDEX_FRAME_MAGIC: u32 = 0x184D_2A5B;

const HEADER_TEXT: &[u8; 8] = b"spanring";
const INDEX_TEXT: &[u8; 8] = b"spanridx";
const END_TEXT: &[u8; 8] = b"spanrend";

/// The header's frame: frame header, text, version, instance, creation time, pid, number, CRC-32.
pub(super) const HEADER_BYTES: usize = SKIPPABLE_HEADER_BYTES + 8 + 2 + 16 + 8 + 4 + 8 + 4;

/// The end of the index: its offset, count of batches, its frame's length, CRC-32, text.
pub(super) const TRAILER_BYTES: usize = 8 + 4 + 4 + 4 + 8;

/// The index's frame without its entries.
pub(super) const INDEX_OVERHEAD_BYTES: usize = SKIPPABLE_HEADER_BYTES + 8 + TRAILER_BYTES;

/// Longest entry: length and spans fit 32 bits, the others are 64.
pub(super) const MAX_ENTRY_BYTES: usize = 5 + MAX_VARINT_BYTES + 5 + 2 * MAX_VARINT_BYTES;

/// What a segment says about itself at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The pipeline whose batches it holds.
    pub instance: InstanceId,
    /// When it was created, in ns since the Unix epoch.
    pub created_unix_nano: u64,
    /// The process that wrote it.
    pub pid: u32,
    /// Which of its sink's segments it is, from 0.
    pub number: u64,
}

/// What the index of a closed segment says about one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where its frame begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its frame's length in bytes.
    pub length: u32,
    /// Its position in the sequence of the pipeline's batches.
    pub sequence: u64,
    /// Spans in it.
    pub spans: u32,
    /// Earliest start of its spans, in ns since the Unix epoch; zero if it has none.
    pub start_unix_nano: u64,
    /// Latest end of its spans, likewise.
    pub end_unix_nano: u64,
}

/// Whether a file that begins with `head` can be a segment, of whatever version: as many of the first
/// 16 bytes as there are, but its length field, are a segment's. True of no bytes at all.
pub fn begins_segment(head: &[u8]) -> bool {
    let is = |at: usize, known: &[u8]| {
        head.get(at..).unwrap_or_default().iter().zip(known).all(|(found, known)| found == known)
    };
    is(0, &HEADER_FRAME_MAGIC.to_le_bytes()) && is(SKIPPABLE_HEADER_BYTES, HEADER_TEXT)
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&HEADER_FRAME_MAGIC.to_le_bytes());
        out.extend_from_slice(&((HEADER_BYTES - SKIPPABLE_HEADER_BYTES) as u32).to_le_bytes());
        out.extend_from_slice(HEADER_TEXT);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.instance.0.to_be_bytes());
        out.extend_from_slice(&self.created_unix_nano.to_le_bytes());
        out.extend_from_slice(&self.pid.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out.try_into().expect("the fields add up to HEADER_BYTES")
    }

    /// Reads the header from the first bytes of a file: [`HEADER_BYTES`], or all if it has fewer.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        if bytes.is_empty() {
            return Err(SegmentError::new(
                SegmentErrorKind::Truncated,
                "the file is empty",
                "its process died before it wrote anything: delete the file",
            )
            .at(0));
        }
        // A foreign file is told from a short one, and a foreign version from a damaged file.
        if !begins_segment(bytes) {
            return Err(SegmentError::new(
                SegmentErrorKind::NotASegment,
                "the file does not begin as a spanring segment does",
                "pass a .spanring or .spanring.part file",
            )
            .at(0));
        }
        if let Some(version) = bytes.get(16..18) {
            let version = u16::from_le_bytes([version[0], version[1]]);
            if version != FORMAT_VERSION {
                return Err(SegmentError::new(
                    SegmentErrorKind::UnknownVersion,
                    format!("format version {version} is not {FORMAT_VERSION}, the one known here"),
                    "read it with the release of spanring that wrote it, or a later one",
                )
                .at(16));
            }
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(SegmentError::new(
                SegmentErrorKind::Truncated,
                format!("the file ends inside its header, after {} bytes", bytes.len()),
                "no batch was written to it: delete the file",
            )
            .at(bytes.len() as u64));
        };
        let (body, crc) = bytes.split_at(HEADER_BYTES - 4);
        let length = skippable_header(bytes).map(|(_, length)| length);
        if length != Some(HEADER_BYTES as u64) || !is_crc_of(crc, body) {
            return Err(SegmentError::new(
                SegmentErrorKind::Damaged,
                "the header's checksum is wrong",
                "the file was changed or the disk is faulty: restore it from a copy",
            )
            .at(0));
        }
        let mut fields = Fields(&body[18..]);
        Ok(SegmentHeader {
            instance: InstanceId(u128::from_be_bytes(fields.take())),
            created_unix_nano: u64::from_le_bytes(fields.take()),
            pid: u32::from_le_bytes(fields.take()),
            number: u64::from_le_bytes(fields.take()),
        })
    }
}

/// The entries of an index while a segment is written.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    entries: Vec<u8>,
    count: u32,
    previous: IndexEntry,
}

impl IndexBuilder {
    /// Adds a batch; its offset is where the one before it ended.
    pub(super) fn push(&mut self, entry: &IndexEntry) {
        let expected_sequence = self.expected_sequence();
        let out = &mut self.entries;
        varint::put(out, u64::from(entry.length));
        varint::put_difference(out, entry.sequence.wrapping_sub(expected_sequence));
        varint::put(out, u64::from(entry.spans));
        let previous_start = self.previous.start_unix_nano;
        varint::put_difference(out, entry.start_unix_nano.wrapping_sub(previous_start));
        varint::put_difference(out, entry.end_unix_nano.wrapping_sub(entry.start_unix_nano));
        self.previous = *entry;
        self.count += 1;
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Length of the index's frame as it is now, in bytes.
    pub(super) fn frame_bytes(&self) -> usize {
        self.entries.len() + INDEX_OVERHEAD_BYTES
    }

    /// The index's frame, for a segment whose batches end at `offset`.
    pub(super) fn frame(&self, offset: u64) -> Vec<u8> {
        let frame_bytes = self.frame_bytes();
        let mut out = Vec::with_capacity(frame_bytes);
        out.extend_from_slice(&INDEX_FRAME_MAGIC.to_le_bytes());
        out.extend_from_slice(&((frame_bytes - SKIPPABLE_HEADER_BYTES) as u32).to_le_bytes());
        out.extend_from_slice(INDEX_TEXT);
        out.extend_from_slice(&self.entries);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&(frame_bytes as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out.extend_from_slice(END_TEXT);
        out
    }

    fn expected_sequence(&self) -> u64 {
        if self.count == 0 { 0 } else { self.previous.sequence.wrapping_add(1) }
    }
}

/// The last bytes of a closed segment, before they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Where the index's frame begins, in bytes from the start of the file.
    pub(super) index_offset: u64,
    /// Batches.
    pub(super) count: u32,
    /// Length of the index's frame.
    pub(super) frame_bytes: u32,
}

impl Trailer {
    /// Reads the trailer, if `bytes` ends with one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.last_chunk::<TRAILER_BYTES>()?;
        if !bytes.ends_with(END_TEXT) {
            return None;
        }
        let mut fields = Fields(bytes);
        Some(Trailer {
            index_offset: u64::from_le_bytes(fields.take()),
            count: u32::from_le_bytes(fields.take()),
            frame_bytes: u32::from_le_bytes(fields.take()),
        })
    }
}

/// The range of the entries within a whole index frame that `trailer` describes and that begins at
/// `offset`; `None` if anything about it is wrong.
pub(super) fn check_index(
    frame: &[u8],
    offset: u64,
    trailer: &Trailer,
) -> Option<std::ops::Range<usize>> {
    let consistent = frame.len() >= INDEX_OVERHEAD_BYTES
        && skippable_header(frame) == Some((INDEX_FRAME_MAGIC, frame.len() as u64))
        && frame[SKIPPABLE_HEADER_BYTES..].starts_with(INDEX_TEXT)
        && trailer.frame_bytes as usize == frame.len()
        && trailer.index_offset == offset
        && trailer.count <= MAX_BATCHES;
    let crc_at = frame.len().checked_sub(8 + 4)?;
    if !consistent || !is_crc_of(&frame[crc_at..crc_at + 4], &frame[..crc_at]) {
        return None;
    }
    Some(SKIPPABLE_HEADER_BYTES + INDEX_TEXT.len()..frame.len() - TRAILER_BYTES)
}

/// Goes through the entries of an index, which is checked and yet may say anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexCursor {
    previous: IndexEntry,
    read: u32,
}

impl IndexCursor {
    /// Before the first entry, whose batch begins at `offset`.
    pub(super) fn new(offset: u64) -> Self {
        IndexCursor { previous: IndexEntry { offset, ..IndexEntry::default() }, read: 0 }
    }

    /// Entries that were read.
    pub(super) fn read(&self) -> u32 {
        self.read
    }

    /// Takes the next entry off `entries`; `None` if it is malformed.
    pub(super) fn next(&mut self, entries: &mut &[u8]) -> Option<IndexEntry> {
        let previous = &self.previous;
        let expected_sequence = if self.read == 0 { 0 } else { previous.sequence.wrapping_add(1) };
        let length = varint::take(entries)?.try_into().ok()?;
        let sequence = expected_sequence.wrapping_add(varint::take_difference(entries)?);
        let spans = varint::take(entries)?.try_into().ok()?;
        let start_unix_nano =
            previous.start_unix_nano.wrapping_add(varint::take_difference(entries)?);
        let end_unix_nano = start_unix_nano.wrapping_add(varint::take_difference(entries)?);
        let offset = previous.offset.checked_add(u64::from(previous.length))?;
        let entry = IndexEntry { offset, length, sequence, spans, start_unix_nano, end_unix_nano };
        self.previous = entry;
        self.read += 1;
        Some(entry)
    }
}

/// Whether `crc` is the checksum of `bytes`. A fuzzer cannot guess it, and is to get behind it.
fn is_crc_of(crc: &[u8], bytes: &[u8]) -> bool {
    cfg!(fuzzing) || crc == crc32fast::hash(bytes).to_le_bytes()
}

/// Takes fixed-size fields one after another off a slice that holds them all.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the caller gave all fields");
        self.0 = rest;
        *field
    }
}
