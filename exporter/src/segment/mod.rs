//! Segments: local files of batches.
//!
//! A segment is a sequence of zstd frames. It begins with a skippable frame that says what it is,
//! goes on with one frame a batch, and, once closed, ends with a skippable frame that holds an index.
//! So `zstd -t` and `zstd -d` work on it. `docs/segment-format.md` gives every byte.
//!
//! ```text
//! ┌────────┬─────────┬─────────┬─ ─ ─┬─────────┬───────┐
//! │ header │ batch 0 │ batch 1 │     │ batch n │ index │
//! └────────┴─────────┴─────────┴─ ─ ─┴─────────┴───────┘
//! ```
//!
//! [`SegmentWriter`] writes one file, [`SegmentReader`] reads one, [`find_segments`] lists a
//! directory's, and [`FileSink`](crate::file_sink::FileSink) puts rotation and retention around the
//! writer. Nothing here looks into a batch: its contents and their checksum are the decoder's.
//!
//! Invariants:
//! - A file never holds a batch twice, nor anything after a part of a batch: what a failed write left
//!   is cut off before anything else is written.
//! - While it is written a segment's name ends in `.part`; the index is whole before it is renamed.
//! - A reader's memory is bounded by [`MAX_FRAME_BYTES`] and [`MAX_INDEX_BYTES`], whatever the file.

pub(crate) mod disk;
mod error;
pub(crate) mod file_table;
mod format;
mod frame;
mod name;
mod reader;
pub(crate) mod retention;
mod varint;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::{SegmentError, SegmentErrorKind};
pub use format::{FORMAT_VERSION, IndexEntry, SegmentHeader, begins_segment};
pub use name::{SegmentName, SegmentPath, find_segments};
pub use reader::{BatchFrame, Segment, SegmentEnd, SegmentReader, read_segment};
pub(crate) use writer::lone_batch_bytes;
pub use writer::{SegmentIdentity, SegmentWriter};

/// Largest batch that a segment takes, in bytes as compressed; a reader refuses a larger one.
///
/// It bounds what a reader holds in memory for one batch.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Most batches in one segment; a writer's owner starts the next segment then.
pub const MAX_BATCHES: u32 = 1 << 18;

/// Largest index, in bytes, its frame's header included; a reader takes a larger one for damage.
pub const MAX_INDEX_BYTES: usize = 16 << 20;

const _: () = assert!(
    MAX_BATCHES as usize * format::MAX_ENTRY_BYTES + format::INDEX_OVERHEAD_BYTES
        <= MAX_INDEX_BYTES,
    "the index of a full segment must be one that readers take"
);
