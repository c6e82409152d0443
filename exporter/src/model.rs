//! Spans as plain owned data: what the batch decoder and the OTLP/JSON reader produce, and what
//! `cat`, `stats`, `replay` and tests work on. Names follow OTLP.

use spanring::{SpanId, SpanKind, StatusCode, TraceId, Value};

/// Spans with the resources and scopes that they refer to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanBatch {
    /// Resources, by index.
    pub resources: Vec<ResourceData>,
    /// Instrumentation scopes, by index.
    pub scopes: Vec<ScopeData>,
    /// Spans, in the order in which they were recorded.
    pub spans: Vec<SpanData>,
}

/// What produced the spans: a service, a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceData {
    /// Attributes, in order.
    pub attributes: Vec<(String, Value)>,
    /// Attributes that were dropped before.
    pub dropped_attributes: u32,
    /// Schema URL, or empty.
    pub schema_url: String,
}

/// The instrumentation scope: the library that made the spans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeData {
    /// Index of its resource in [`SpanBatch::resources`].
    pub resource: usize,
    /// Name, or empty.
    pub name: String,
    /// Version, or empty.
    pub version: String,
    /// Attributes, in order.
    pub attributes: Vec<(String, Value)>,
    /// Attributes that were dropped before.
    pub dropped_attributes: u32,
    /// Schema URL, or empty.
    pub schema_url: String,
}

/// One finished span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanData {
    /// Index of its scope in [`SpanBatch::scopes`].
    pub scope: usize,
    /// Trace ID.
    pub trace_id: TraceId,
    /// Span ID.
    pub span_id: SpanId,
    /// The parent's span ID; `None` for a root.
    pub parent_span_id: Option<SpanId>,
    /// Whether the parent is in another process; `None` where nobody said.
    pub parent_is_remote: Option<bool>,
    /// W3C trace flags of the span's own context (8 bits).
    pub trace_flags: u8,
    /// W3C tracestate, or empty.
    pub trace_state: String,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: SpanKind,
    /// Start, in ns since the Unix epoch.
    pub start_unix_nano: u64,
    /// End, likewise.
    pub end_unix_nano: u64,
    /// Attributes, in order.
    pub attributes: Vec<(String, Value)>,
    /// Attributes that were dropped.
    pub dropped_attributes: u32,
    /// Events, in order.
    pub events: Vec<EventData>,
    /// Events that were dropped.
    pub dropped_events: u32,
    /// Links, in order.
    pub links: Vec<LinkData>,
    /// Links that were dropped.
    pub dropped_links: u32,
    /// Status.
    pub status: StatusCode,
    /// Status message, or empty.
    pub status_message: String,
}

/// An event of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventData {
    /// When, in ns since the Unix epoch.
    pub time_unix_nano: u64,
    /// Name.
    pub name: String,
    /// Attributes, in order.
    pub attributes: Vec<(String, Value)>,
    /// Attributes that were dropped.
    pub dropped_attributes: u32,
}

/// A link to another span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkData {
    /// The other span's trace ID.
    pub trace_id: TraceId,
    /// The other span's ID.
    pub span_id: SpanId,
    /// The other span's tracestate, or empty.
    pub trace_state: String,
    /// W3C trace flags (8 bits).
    pub trace_flags: u8,
    /// Whether the other span is in another process; `None` where nobody said.
    pub is_remote: Option<bool>,
    /// Attributes, in order.
    pub attributes: Vec<(String, Value)>,
    /// Attributes that were dropped.
    pub dropped_attributes: u32,
}
