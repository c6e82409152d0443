//! Drains spanring's rings into compressed batches and delivers them.
//!
//! An application installs one [`Pipeline`]; libraries that make spans need the crate `spanring` only.
//!
//! - [`Pipeline`]: engine, flusher and sinks; `flush`, `shutdown`, `stats`. [`metrics`], health and [`alerts`]: is all well?
//!   [`overhead`](fn@overhead): what does tracing cost?
//! - [`sink`]: where batches go, and how to write a sink of your own. [`mod@file_sink`] writes segments,
//!   [`ConsoleSink`] shows spans to a person, a [`Subscription`] gives them to the program, [`MemorySink`] keeps batches for tests; [`OtlpOptions`] and [`OpenAiOptions`] send
//!   them.
//! - [`Processor`]: sees spans before they are sealed, and may drop or change them.
//! - [`batch`] and [`segment`]: the formats, written and read.
//! - [`model`]: spans as plain data, as the readers give them; [`render`]: names, values and times for the eyes.
//!
//! What it never does: start a thread besides the one flusher of a pipeline (and one for a name look-up,
//! which ends with it), or lose a span without a count.

pub mod alerts;
pub mod batch;
mod config_file;
mod console_sink;
mod delivery;
mod destination;
mod exit;
pub mod file_sink;
mod flusher;
mod forward;
mod health;
mod http;
mod http_sink;
mod log;
mod memory_sink;
pub mod metrics;
pub mod model;
pub mod openai;
mod openai_sink;
pub mod otlp;
mod otlp_sink;
mod outbox;
mod outlet;
mod overhead;
mod pipeline;
pub mod processors;
pub mod render;
mod scopes;
pub mod segment;
mod sender;
pub mod sink;
mod spool;
mod stats;
mod status;
mod subscription;
mod thread;

pub use alerts::{Alert, AlertKind, Alerts};
pub use config_file::with_config_file;
pub use console_sink::{ConsoleSink, ConsoleStyle};
pub use forward::{Forwarder, SettledPart};
pub use http_sink::Compression;
pub use log::next_message;
#[doc(hidden)]
pub use log::report;
pub use memory_sink::MemorySink;
pub use metrics::{CpuShare, HealthReport, Metrics};
pub use openai_sink::OpenAiOptions;
pub use otlp_sink::OtlpOptions;
pub use overhead::{Overhead, overhead};
pub use pipeline::{Pipeline, PipelineBuilder, StartError, Unfinished, file_sink};
pub use processors::errors::{ErrorGroup, ErrorReport};
pub use processors::{Processor, ProcessorStats, SpanView};
pub use spanring::export::FlushError;
pub use stats::{PipelineStats, SinkDrop, SinkStats};
pub use subscription::Subscription;

/// For the C library. Not for anybody else: it may change at any time.
#[doc(hidden)]
pub use crate::{overhead::set_thread_untraced, thread::undisturbed};

/// What the fuzz targets reach of the crate's inside. Not for anybody else: it may change at any time.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::config_file::lines as config_lines;
    pub use crate::http::exchange::answer_in_pieces;
    pub use crate::spool::{Mark, SIDECAR_VERSION, Settled, Sidecar, head, read_sidecar};
    pub use crate::status::head_in_pieces;
}

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/processors.md")]
struct ProcessorsPage;

#[cfg(doctest)]
#[doc = include_str!("../../docs/recipes.md")]
struct Recipes;
