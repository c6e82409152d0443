//! The head of a batch's content: who sealed it, the counts at that time, and where its streams lie.

use super::stream::{put_varint, take_varint};
use super::{BatchError, FORMAT_VERSION, SPANS_MAX};
use crate::sink::InstanceId;

/// Reasons for drops that a header may list, and bytes of the name of each.
const REASONS_MAX: u64 = 256;
const REASON_BYTES_MAX: u64 = 256;

/// Who sealed a batch, and the pipeline's counts at that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// The pipeline that sealed the batch.
    pub instance: InstanceId,
    /// Position in the sequence of the pipeline's batches, from 0.
    pub sequence: u64,
    /// How often the system clock was stepped before.
    pub clock_epoch: u32,
    /// Spans created by the pipeline so far.
    pub created: u64,
    /// Spans sealed by the pipeline so far, this batch's included.
    pub sealed: u64,
    /// Spans dropped so far, by the reason's name.
    pub dropped: Vec<(String, u64)>,
    /// Spans in this batch.
    pub spans: u32,
    /// Earliest start, in ns since the Unix epoch; zero if there are no spans.
    pub start_unix_nano: u64,
    /// Latest end, likewise.
    pub end_unix_nano: u64,
    /// The seed of the keys that turn the batch's counters into IDs.
    pub id_seed: [u64; 2],
}

/// Lengths of the streams that follow the header; *text* takes what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamLens {
    pub(super) ids: usize,
    pub(super) bits: usize,
    pub(super) symbols: usize,
}

/// What [`write()`] takes: a [`BatchHeader`] that borrows.
#[derive(Debug)]
pub(super) struct HeaderFields<'a> {
    pub(super) instance: InstanceId,
    pub(super) sequence: u64,
    pub(super) clock_epoch: u32,
    pub(super) created: u64,
    pub(super) sealed: u64,
    pub(super) dropped: &'a [(&'a str, u64)],
    pub(super) spans: u32,
    pub(super) start_unix_nano: u64,
    pub(super) end_unix_nano: u64,
    pub(super) id_seed: [u64; 2],
}

/// Appends the header to `to`.
///
/// # Errors
///
/// If there are more reasons than a reader accepts, or a longer one.
pub(super) fn write(
    to: &mut Vec<u8>,
    header: &HeaderFields<'_>,
    lens: StreamLens,
) -> Result<(), BatchError> {
    to.push(FORMAT_VERSION);
    to.extend_from_slice(&header.instance.0.to_be_bytes());
    to.extend_from_slice(&header.id_seed[0].to_le_bytes());
    to.extend_from_slice(&header.id_seed[1].to_le_bytes());
    to.extend_from_slice(&header.start_unix_nano.to_le_bytes());
    put_varint(to, header.end_unix_nano.wrapping_sub(header.start_unix_nano));
    put_varint(to, header.sequence);
    put_varint(to, u64::from(header.clock_epoch));
    put_varint(to, header.created);
    put_varint(to, header.sealed);
    put_varint(to, u64::from(header.spans));
    if header.dropped.len() as u64 > REASONS_MAX {
        return Err(BatchError::too_large("reasons for drops", REASONS_MAX as usize));
    }
    put_varint(to, header.dropped.len() as u64);
    for (reason, count) in header.dropped {
        if reason.len() as u64 > REASON_BYTES_MAX {
            return Err(BatchError::too_large(
                "bytes of a reason for drops",
                REASON_BYTES_MAX as usize,
            ));
        }
        put_varint(to, reason.len() as u64);
        to.extend_from_slice(reason.as_bytes());
        put_varint(to, *count);
    }
    for len in [lens.ids, lens.bits, lens.symbols] {
        put_varint(to, len as u64);
    }
    Ok(())
}

/// Takes the header off the front of `content`; returns it with the streams, *text* last.
pub(super) fn read(content: &[u8]) -> Result<(BatchHeader, [&[u8]; 4]), BatchError> {
    let mut from = Fields(content);
    let version = from.bytes::<1>()?[0];
    if version != FORMAT_VERSION {
        return Err(BatchError::version(version));
    }
    let instance = InstanceId(u128::from_be_bytes(from.bytes()?));
    let id_seed = [u64::from_le_bytes(from.bytes()?), u64::from_le_bytes(from.bytes()?)];
    let start_unix_nano = u64::from_le_bytes(from.bytes()?);
    let end_unix_nano = start_unix_nano.wrapping_add(from.varint()?);
    let sequence = from.varint()?;
    let clock_epoch =
        u32::try_from(from.varint()?).map_err(|_| error("the clock epoch exceeds 32 bits"))?;
    let (created, sealed) = (from.varint()?, from.varint()?);
    let spans = from.bounded(SPANS_MAX as u64, "more spans than a batch may hold")? as u32;
    let reasons = from.bounded(REASONS_MAX, "more reasons for drops than a batch may list")?;
    let mut dropped = Vec::with_capacity(reasons as usize);
    for _ in 0..reasons {
        let len = from.bounded(REASON_BYTES_MAX, "a reason for drops is too long")?;
        let reason = std::str::from_utf8(from.slice(len as usize)?)
            .map_err(|_| error("a reason for drops is not UTF-8"))?;
        dropped.push((reason.to_owned(), from.varint()?));
    }
    let lens = [from.varint()?, from.varint()?, from.varint()?];
    let mut stream = |len| from.slice(usize::try_from(len).unwrap_or(usize::MAX));
    let [ids, bits, symbols] = [stream(lens[0])?, stream(lens[1])?, stream(lens[2])?];
    let header = BatchHeader {
        instance,
        sequence,
        clock_epoch,
        created,
        sealed,
        dropped,
        spans,
        start_unix_nano,
        end_unix_nano,
        id_seed,
    };
    Ok((header, [ids, bits, symbols, from.0]))
}

fn error(what: &'static str) -> BatchError {
    BatchError::content("header", what)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let (bytes, rest) =
            self.0.split_at_checked(len).ok_or_else(|| error("the content ends early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        Ok(self.slice(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn varint(&mut self) -> Result<u64, BatchError> {
        take_varint(&mut self.0).ok_or_else(|| error("a varint is cut or too long"))
    }

    fn bounded(&mut self, max: u64, what: &'static str) -> Result<u64, BatchError> {
        let value = self.varint()?;
        if value > max { Err(error(what)) } else { Ok(value) }
    }
}
