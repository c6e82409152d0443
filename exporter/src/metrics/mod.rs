//! What a pipeline measures: of the spans themselves, and of its own work.
//!
//! The flusher measures spans while one of the settings `METRICS`, `REPORT_EVERY` and `STATUS_ADDRESS` asks for
//! it; otherwise that costs nothing. Everything else is counted anyway, and put together when somebody asks. The
//! same facts as structs ([`Metrics`]), as JSON and as OpenMetrics text.

mod health;
mod histogram;
mod json;
mod memory_profile;
mod meter;
mod openmetrics;
mod process;

use std::time::Duration;

use spanring::SpanKind;

pub use health::HealthReport;
pub(crate) use health::{Facts, Watch, evaluate};
pub(crate) use histogram::Histogram;
pub(crate) use memory_profile::MemoryProfile;
pub(crate) use meter::Meter;
pub(crate) use openmetrics::CONTENT_TYPE as OPENMETRICS_TYPE;
pub(crate) use process::{CpuSample, CpuShares, cpu_time as process_cpu, memory as process_memory};

use crate::stats::PipelineStats;

/// Series of name and kind that a pipeline keeps; spans beyond them are counted together.
pub const SERIES_MAX: usize = 200;
/// Bytes of a name that has series of its own.
pub const NAME_BYTES_MAX: usize = 256;

/// All kinds, in the order of their numbers.
pub(crate) const KINDS: [SpanKind; 6] = [
    SpanKind::Unspecified,
    SpanKind::Internal,
    SpanKind::Server,
    SpanKind::Client,
    SpanKind::Producer,
    SpanKind::Consumer,
];

/// What a pipeline measures, as [`Pipeline::metrics`](crate::Pipeline::metrics) gives it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// How long the pipeline has been there.
    pub uptime: Duration,
    /// What it counted.
    pub stats: PipelineStats,
    /// `MAX_SPANS`, which resident spans fill.
    pub spans_max: u64,
    /// `MAX_BYTES`, which rings, large values and queues fill.
    pub bytes_max: u64,
    /// Who uses memory.
    pub memory: Memory,
    /// Processor time of the flusher's thread; `None` before it started, and where the system does not tell.
    pub flusher_cpu: Option<Duration>,
    /// What share of the processor's time it takes now; `None` likewise.
    pub flusher_share: Option<CpuShare>,
    /// How long batches took from the rings to the sinks, sinks that are called included; while spans are measured.
    pub seals: Timings,
    /// Of the spans themselves; `None` if they are not measured.
    pub spans: Option<SpanMetrics>,
}

impl Metrics {
    /// How many bytes of columns became one byte of a batch; `None` before the first batch.
    pub fn compression_ratio(&self) -> Option<f64> {
        (self.stats.bytes > 0).then(|| self.stats.bytes_raw as f64 / self.stats.bytes as f64)
    }

    /// Part of `MAX_SPANS` that is resident, from 0 to 1.
    pub fn ring_fill(&self) -> f64 {
        self.stats.engine.resident as f64 / self.spans_max.max(1) as f64
    }
}

/// What share of the processor's time the flusher takes now: since somebody asked the last time, if that was a second ago or longer, or the
/// time before that; at first since the flusher began.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct CpuShare {
    /// Part of what the process used, all its threads, from 0 to 1. Zero if it used none.
    pub of_process: f64,
    /// Part of one core, from 0 to 1.
    pub of_core: f64,
    /// How long that was.
    pub over: Duration,
}

/// Memory by part, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Segments of rings.
    pub rings: u64,
    /// Large values, and batches that wait: what is left of the used part of `MAX_BYTES`.
    pub values_and_queues: u64,
    /// What the measuring of spans needs.
    pub metrics: u64,
    /// Resident memory of the whole process; `None` where the system does not tell.
    pub process: Option<u64>,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// How often.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    /// The longest.
    pub max: Duration,
}

/// What was measured of spans in sealed batches.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SpanMetrics {
    /// For how long they have been measured.
    pub measured_for: Duration,
    /// All of them.
    pub all: Summary,
    /// Those that were sealed in the last minute.
    pub last_minute: LastMinute,
    /// Spans by kind, where there are any.
    pub by_kind: Vec<(SpanKind, u64)>,
    /// By name and kind, in the order in which they came first; [`SERIES_MAX`] at most.
    pub series: Vec<Series>,
    /// Spans that found no place there, or whose name is longer than [`NAME_BYTES_MAX`].
    pub other: Summary,
    /// Memory of all this.
    pub bytes: usize,
}

impl SpanMetrics {
    /// Spans a second since measuring began.
    pub fn rate(&self) -> f64 {
        per_second(self.all.count, self.measured_for)
    }
}

/// Spans of one name and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Series {
    /// Their name.
    pub name: String,
    /// Their kind.
    pub kind: SpanKind,
    /// What was measured.
    pub summary: Summary,
}

/// How many spans there were, and how long they took. Quantiles are right to within 1/64 (1.6 %); everything else is
/// exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Those with the status error.
    pub errors: u64,
    /// Durations together.
    pub duration_sum: Duration,
    /// The longest.
    pub duration_max: Duration,
    /// What half of them do not exceed.
    pub p50: Duration,
    /// What 95 % of them do not exceed.
    pub p95: Duration,
    /// What 99 % of them do not exceed.
    pub p99: Duration,
}

impl Summary {
    /// The mean duration; zero if there is no span.
    pub fn mean(&self) -> Duration {
        let nanos = self.duration_sum.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Part of the spans that have the status error, from 0 to 1; zero if there is no span.
    pub fn error_rate(&self) -> f64 {
        share(self.errors, self.count)
    }
}

/// The last minute, or less if spans have not been measured for so long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastMinute {
    /// How long it was: 59 to 60 seconds.
    pub length: Duration,
    /// Spans.
    pub count: u64,
    /// Those with the status error.
    pub errors: u64,
}

impl LastMinute {
    /// Spans a second.
    pub fn rate(&self) -> f64 {
        per_second(self.count, self.length)
    }

    /// Part of the spans that have the status error, from 0 to 1; zero if there is no span.
    pub fn error_rate(&self) -> f64 {
        share(self.errors, self.count)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
