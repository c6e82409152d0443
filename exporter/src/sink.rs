//! Sinks: where sealed batches go.
//!
//! The flusher drives every sink from its one thread and keeps the queue, the retries and the counts
//! of each; a sink itself only takes batches. Sinks share no state, so a slow or failing one does not
//! hold back the others.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

/// Identifies the pipeline that sealed a batch: drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct InstanceId(pub u128);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A batch as it goes to the sinks. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// The pipeline that sealed it.
    pub instance: InstanceId,
    /// Position in the sequence of the pipeline's batches, from 0, without gaps.
    pub sequence: u64,
    /// Spans in it; zero in a pipeline's closing batch.
    pub spans: u32,
    /// Earliest start of its spans, in ns since the Unix epoch; zero if it has none.
    pub start_unix_nano: u64,
    /// Latest end of its spans, likewise.
    pub end_unix_nano: u64,
    /// The batch: one zstd frame, see `docs/batch-format.md`.
    pub frame: Bytes,
}

/// Why a sink did not take a batch.
#[derive(Debug)]
pub struct SinkError {
    /// Whether the same batch may be offered again later.
    pub retry: bool,
    /// What went wrong, where, and what to do about it.
    pub message: String,
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SinkError {}

/// A destination of batches. Every method runs on the flusher's thread.
///
/// A panic is contained and counted as an error that may be retried.
pub trait Sink: Send {
    /// A short name for logs and stats, such as `file`.
    fn name(&self) -> &str;

    /// Takes one batch.
    ///
    /// # Errors
    ///
    /// With `retry` set, the same batch is offered again after a backoff; otherwise it is dropped and
    /// counted.
    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError>;

    /// Makes what was delivered visible to others, as `flush` promises.
    ///
    /// # Errors
    ///
    /// As [`deliver`](Self::deliver); what was delivered is not delivered again.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Does what is due at `now` (rotation by age, retention); returns when to be called again, or
    /// `None` if nothing will become due by itself.
    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }

    /// Ends the sink; nothing is delivered afterwards.
    ///
    /// # Errors
    ///
    /// If what was delivered could not be completed, such as a segment's index.
    fn close(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
