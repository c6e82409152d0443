//! The batch: spans column by column in one zstd frame. `docs/batch-format.md` is its specification.
//!
//! [`Encoder`] turns drained records into a frame, [`decode()`] turns a frame back into plain data.
//! Both sides share what the format derives instead of storing it: the order of counters and the
//! search for parents (`order`), the prediction of what follows what (`order::Successors`), and the
//! coding of numbers (`stream`).
//!
//! What this module never does: keep anything between batches that a reader would need (every frame
//! reads alone), panic on a frame, or allocate by a length that it has not checked. A decoded batch
//! takes at most [`DECODED_BYTES_MAX`] bytes; the encoder refuses what the decoder would refuse.

mod assemble;
mod column;
mod decode;
mod dedup;
mod encode;
mod error;
mod frame;
mod header;
mod order;
mod parent;
mod read_column;
mod read_table;
mod shape;
mod stream;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod walk;
mod well_known;

use bytes::Bytes;
use spanring::id::IdKeys;
use spanring::record::Header;

pub use self::decode::{decode, decode_content, decode_header};
pub use self::encode::Encoder;
pub use self::error::BatchError;
#[doc(hidden)]
pub use self::frame::wrap_content;
pub use self::header::BatchHeader;
pub(crate) use self::stream::{put_varint, take_varint};
use crate::model::{ResourceData, ScopeData, SpanBatch};
use crate::sink::InstanceId;

/// Version of the format, the first byte of a frame's content.
pub const FORMAT_VERSION: u8 = 1;
/// Spans that one batch may hold.
pub const SPANS_MAX: usize = 1 << 16;
/// Bytes that a frame's content may have.
pub const CONTENT_BYTES_MAX: usize = 128 << 20;
/// Bytes that a decoded batch may take: spans, attributes and strings together.
pub const DECODED_BYTES_MAX: usize = 192 << 20;
/// The compression level that was found to be the best bargain; see `docs/batch-format.md`.
pub const LEVEL_DEFAULT: i32 = 1;

/// Turns clock readings of records into wall-clock time.
pub trait TickClock {
    /// Start and end of a span in ns since the Unix epoch; the end is not before the start. Readings
    /// that are wall-clock time already (see [`spanring::record::flag`]) are taken as they are.
    fn span_times(&self, header: &Header) -> (u64, u64);

    /// The time of a clock reading, in ns since the Unix epoch.
    fn unix_nano(&self, ticks: u64) -> u64;
}

/// What a batch says about itself and its pipeline, beside its records.
#[derive(Debug)]
pub struct BatchContext<'a, C: ?Sized> {
    /// Turns clock readings into times.
    pub clock: &'a C,
    /// The pipeline that seals the batch.
    pub instance: InstanceId,
    /// Position in the sequence of the pipeline's batches, from 0.
    pub sequence: u64,
    /// The keys by which the records' counters became IDs.
    pub keys: &'a IdKeys,
    /// Spans created by the pipeline so far.
    pub created: u64,
    /// Spans sealed by the pipeline so far, this batch's included.
    pub sealed: u64,
    /// Spans dropped so far, by the reason's name.
    pub dropped: &'a [(&'a str, u64)],
    /// Resources, to which `scopes` refer.
    pub resources: &'a [ResourceData],
    /// Scopes, by [`Header::scope`]. Those that no record uses are not written.
    pub scopes: &'a [ScopeData],
    /// How often the system clock was stepped so far.
    pub clock_epoch: u32,
    /// The compression level, from -7 to 19; [`LEVEL_DEFAULT`] unless told otherwise.
    pub level: i32,
}

/// A sealed batch.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The zstd frame.
    pub frame: Bytes,
    /// Spans in it.
    pub spans: u32,
    /// Earliest start, in ns since the Unix epoch; zero if there are no spans.
    pub start_unix_nano: u64,
    /// Latest end, likewise.
    pub end_unix_nano: u64,
    /// Bytes of the content before compression.
    pub raw_bytes: usize,
}

/// What [`decode()`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedBatch {
    /// Who sealed the batch, and the counts at that time.
    pub header: BatchHeader,
    /// The spans, in the order of the records, with the scopes and resources that they use.
    pub batch: SpanBatch,
}
