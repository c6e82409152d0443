//! OTLP/JSON, one object a line: what the OpenTelemetry Collector's file exporter writes, and what
//! `spanring cat --format otlp-json` prints.
//!
//! A line is a `TracesData` (or `ExportTraceServiceRequest`, which has the same fields). Reading takes
//! all that the protocol allows: 64-bit integers as strings or numbers, enums as numbers or names, IDs
//! as hexadecimal digits of either case, base64 of both alphabets, `"NaN"` and `"Infinity"`, `null`
//! for an absent field, field names in lowerCamelCase or snake_case, and unknown fields, which are
//! passed over. A field given twice counts as protobuf merges it: the last scalar wins, lists are
//! joined. Writing is deterministic and minimal: lowerCamelCase, 64-bit integers as strings, enums as
//! numbers, empty fields left out.
//!
//! Invariants:
//! - Input of any kind is a [`SpanBatch`] or an [`InputError`] that names the place; never a panic,
//!   never more memory than [`DECODED_BYTES_MAX`], and never deeper recursion than [`VALUE_DEPTH_MAX`]
//!   nested values.
//! - `parse_line(write_line(b))` is `b`, spans grouped by scope and scopes by resource, as OTLP groups
//!   them. A batch that was parsed is in that order already.

mod base64;
mod fields;
mod read;
mod seeds;
mod value;
mod write;

use std::io;

use spanring_exporter::model::SpanBatch;

use crate::error::InputError;

/// How deep arrays and maps may nest in one value; a line with more is an error.
pub const VALUE_DEPTH_MAX: u32 = 100;

/// What one line may take in memory once it is read, in bytes, by an estimate from above.
pub const DECODED_BYTES_MAX: usize = 192 << 20;

/// Reads one line.
///
/// ```
/// let line = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{
///     "traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"ping"
/// }]}]}]}"#;
/// let batch = spanring_cli::otlp_json::parse_line(line)?;
/// assert_eq!(batch.spans[0].name, "ping");
/// # Ok::<(), spanring_cli::error::InputError>(())
/// ```
///
/// # Errors
///
/// If the line is not JSON, is no `TracesData`, holds something that OTLP does not allow, or would
/// exceed [`VALUE_DEPTH_MAX`] or [`DECODED_BYTES_MAX`]. The error has no file and no line number yet.
pub fn parse_line(line: &[u8]) -> Result<SpanBatch, InputError> {
    read::parse(line, DECODED_BYTES_MAX)
}

/// Writes `batch` as one line, the newline included.
///
/// Containers that nest deeper than [`VALUE_DEPTH_MAX`] are written as null values.
///
/// # Errors
///
/// What `out` answers; and [`io::ErrorKind::InvalidInput`], before anything is written, if a span or
/// a scope refers to a scope or resource that the batch does not have.
pub fn write_line(batch: &SpanBatch, out: &mut impl io::Write) -> io::Result<()> {
    write::write(batch, out)
}
