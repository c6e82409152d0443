//! What a pipeline has counted.

use spanring::export::EngineStats;

use crate::processors::ProcessorStats;

/// Why spans that were sealed did not reach a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum SinkDrop {
    /// The sink refused the batch for good.
    Refused,
    /// The batch waited longer than `MAX_BATCH_WAIT`.
    TimedOut,
    /// The sink failed more often than `RETRY_ATTEMPTS` allows.
    Attempts,
    /// The queue had no room under `MAX_BYTES`.
    QueueFull,
    /// The pipeline was shut down before the sink took the batch.
    ShutDown,
    /// The spool had no room under `SPOOL_MAX_BYTES`, or kept the batch for `SPOOL_MAX_AGE`, or what was in it
    /// could not be read any more.
    Spool,
}

impl SinkDrop {
    /// Number of reasons.
    pub const COUNT: usize = 6;
    /// All reasons, in the order of their numbers.
    pub const ALL: [SinkDrop; Self::COUNT] = [
        SinkDrop::Refused,
        SinkDrop::TimedOut,
        SinkDrop::Attempts,
        SinkDrop::QueueFull,
        SinkDrop::ShutDown,
        SinkDrop::Spool,
    ];

    /// The reason's name in stats.
    pub fn name(self) -> &'static str {
        match self {
            SinkDrop::Refused => "sink_refused",
            SinkDrop::TimedOut => "sink_timed_out",
            SinkDrop::Attempts => "sink_attempts",
            SinkDrop::QueueFull => "sink_queue_full",
            SinkDrop::ShutDown => "sink_shut_down",
            SinkDrop::Spool => "sink_spool",
        }
    }
}

/// What one sink has taken, as of the flusher's last round. In spans: sealed + adopted = delivered + dropped +
/// queued + spooled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkStats {
    /// The sink's name.
    pub name: String,
    /// Spans that were sealed while the sink was there.
    pub sealed: u64,
    /// Spans that earlier processes had left in the spool.
    pub adopted: u64,
    /// Spans that it took.
    pub delivered: u64,
    /// Spans that it did not take, by [`SinkDrop`].
    pub dropped: [u64; SinkDrop::COUNT],
    /// Spans that wait in memory or are being sent.
    pub queued: u64,
    /// Spans that wait on disk only.
    pub spooled: u64,
    /// Spans that were sent again although an earlier answer may have been lost on its way: the receiver may
    /// have them twice.
    pub repeated: u64,
    /// Batches that it took.
    pub batches: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Calls that failed, panics included.
    pub failures: u64,
    /// Calls that panicked.
    pub panics: u64,
    /// What the last failure said; empty while the sink is well.
    pub last_error: String,
    /// What was said when spans were last refused for good.
    pub last_refusal: String,
}

impl SinkStats {
    /// Dropped spans over all reasons.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

/// What a pipeline has counted. In the engine, created = sealed + dropped + resident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineStats {
    /// Rings, budget and drops.
    pub engine: EngineStats,
    /// Sinks, in the order in which they were added.
    pub sinks: Vec<SinkStats>,
    /// Processors in the order in which they see spans; `redact` and `errors` are those of the settings `REDACT` and `TRACK_ERRORS`.
    pub processors: Vec<ProcessorStats>,
    /// Batches sealed, the closing one included.
    pub batches: u64,
    /// Bytes of their columns before compression.
    pub bytes_raw: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// How often the flusher came back from a wait.
    pub wake_ups: u64,
    /// Panics of the flusher itself, each of which cost at most one batch, which is counted as dropped.
    pub panics: u64,
}
