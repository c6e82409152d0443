//! A span engine that lives inside a program: what instrumented code links.
//!
//! ```
//! use spanring::span;
//!
//! fn query(rows: i64) {
//!     let mut span = span!("db.query", "db.system" = "postgresql", "db.rows" = rows);
//!     // The span is current: spans that start here are its children.
//!     span.set_attribute("db.cached", false);
//! } // ends here
//! # query(1);
//! ```
//!
//! Without an installed pipeline (crate `spanring-exporter`) spans do nothing and cost about a
//! nanosecond. With one, a span reads the clock twice and writes one record into a ring of its thread.
//!
//! What never happens on a thread that starts and ends spans: a lock, a wait, a system call, an
//! allocation in steady state (values above 1 KiB excepted). What happens on misuse is listed at
//! [`Span`], and tested.
//!
//! - [`span!`], [`Span`], [`SpanGuard`], [`SpanBuilder`]: making spans.
//! - [`SpanContext`], [`propagation`]: who is whose child, here and across processes.
//! - [`Settings`]: every setting, from code and environment.
//! - [`record`]: the layout of a finished span in memory.
//! - [`export`]: for exporters only.

mod budget;
mod call_site;
#[cfg(not(spanring_loom))]
pub mod clock;
pub mod context;
#[cfg(not(spanring_loom))]
mod drain;
#[cfg(not(spanring_loom))]
mod engine;
#[cfg(not(spanring_loom))]
mod fork;
#[cfg(not(spanring_loom))]
mod future;
pub mod id;
mod intern;
mod limits;
#[cfg(all(test, spanring_loom))]
mod loom_tests;
#[cfg(not(spanring_loom))]
mod macros;
mod park;
mod pattern;
mod platform;
mod pool;
#[cfg(not(spanring_loom))]
mod profile;
pub mod propagation;
pub mod record;
mod ring;
mod room;
mod rules;
#[cfg(not(spanring_loom))]
mod sampler;
mod scratch;
pub mod settings;
#[cfg(not(spanring_loom))]
mod span;
mod sync;
#[cfg(not(spanring_loom))]
mod thread;
mod ticket;
#[cfg(not(spanring_loom))]
mod tracer;
mod value;

pub use context::{SpanContext, SpanKind, StatusCode, TraceFlags, TraceState};
#[cfg(not(spanring_loom))]
pub use engine::FlushError;
#[cfg(not(spanring_loom))]
pub use future::{InSpan, Instrument};
pub use id::{SpanId, TraceId};
pub use intern::Interned;
#[cfg(not(spanring_loom))]
#[doc(hidden)]
pub use macros::__private;
pub use propagation::{Baggage, TraceParent};
pub use record::Attributes;
pub use settings::{Detail, Level, RootSampler, Settings, SettingsBuilder};
#[cfg(not(spanring_loom))]
pub use span::{ContextGuard, Span, SpanBuilder, SpanGuard, WallTime};
#[cfg(not(spanring_loom))]
pub use tracer::{ResourceInfo, TRACERS_MAX, Tracer, TracerInfo};
#[doc(hidden)]
pub use value::{AtStart, Seen};
pub use value::{DEPTH_MAX, IntoValue, Value};

/// What an exporter needs of the engine; instrumented code does not meet it.
#[cfg(not(spanring_loom))]
pub mod export {
    pub use crate::drain::{Drainer, Sleep};
    pub use crate::engine::{
        Attached, Dropped, Engine, EngineOptions, EngineStats, FlushError, Reason, ThreadStats,
        Totals, random_u128,
    };
    pub use crate::fork::fork_generation;
    pub use crate::pattern::Pattern;
    pub use crate::profile::MEMORY_GROWTH;
}

/// A key or a name.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// An interned string.
    Interned(Interned),
    /// Any string; it is interned if there is room.
    Str(&'a str),
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(key: &'a str) -> Self {
        Key::Str(key)
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(key: &'a String) -> Self {
        Key::Str(key)
    }
}

impl From<Interned> for Key<'_> {
    fn from(key: Interned) -> Self {
        Key::Interned(key)
    }
}
