//! Span context: what identifies a span to its children, in this process and in others.
//!
//! A context made here holds counters, not IDs ([`crate::id`]); the IDs are computed when asked for.
//! It is a plain value: nothing in it points at a span, so leaking a span is safe.

use std::fmt;

use crate::id::{IdKeys, SpanId, TraceId};
pub use crate::propagation::TraceState;

/// What role a span plays. OpenTelemetry's kinds, with OTLP's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpanKind {
    /// Nobody said. Recorded data may have it; spans made here are internal unless told otherwise.
    Unspecified = 0,
    /// An operation inside the program.
    #[default]
    Internal = 1,
    /// Handles a request from elsewhere.
    Server = 2,
    /// Sends a request and waits for its answer.
    Client = 3,
    /// Sends a message.
    Producer = 4,
    /// Handles a message.
    Consumer = 5,
}

impl SpanKind {
    /// The kind with OTLP's number `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        use SpanKind::*;
        [Unspecified, Internal, Server, Client, Producer, Consumer]
            .get(usize::from(number))
            .copied()
    }
}

/// How a span ended. OpenTelemetry's codes, with OTLP's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StatusCode {
    /// Nobody said.
    #[default]
    Unset = 0,
    /// Explicitly fine.
    Ok = 1,
    /// Failed.
    Error = 2,
}

impl StatusCode {
    /// The code with OTLP's number `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        [StatusCode::Unset, StatusCode::Ok, StatusCode::Error].get(usize::from(number)).copied()
    }
}

/// W3C trace flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceFlags(pub u8);

impl TraceFlags {
    /// The span is sampled.
    pub const SAMPLED: TraceFlags = TraceFlags(1);
    /// The low 56 bits of the trace ID are random (W3C Trace Context level 2).
    pub const RANDOM: TraceFlags = TraceFlags(2);

    /// Whether the sampled bit is set.
    pub fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED.0 != 0
    }

    /// Whether the random bit is set.
    pub fn is_random(self) -> bool {
        self.0 & Self::RANDOM.0 != 0
    }
}

/// The keys of one generation of the process (a fork begins a new one). Never freed.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) ids: IdKeys,
}

/// Bits of [`Ctx::flags`]: they lie as in the second half of a record's seventh word, so that a child's
/// record takes them over as they are.
pub(crate) mod bit {
    use super::TraceFlags;
    use crate::record::flag;

    pub(crate) const VALID: u32 = 1;
    /// W3C trace flags.
    pub(crate) const TRACE_FLAGS: u32 = 0xff00;
    pub(crate) const TRACE_RAW: u32 = (flag::TRACE_RAW as u32) << 16;
    pub(crate) const SPAN_RAW: u32 = (flag::SPAN_RAW as u32) << 16;
    pub(crate) const REMOTE: u32 = (flag::PARENT_REMOTE as u32) << 16;

    /// What a child in the same process takes over.
    pub(crate) const INHERITED: u32 =
        TRACE_RAW | trace_flags(TraceFlags::RANDOM) | trace_flags(TraceFlags::SAMPLED) | VALID;

    pub(crate) const fn trace_flags(flags: TraceFlags) -> u32 {
        (flags.0 as u32) << 8
    }
}

/// A span context as threads keep and pass it: counters, or raw IDs where a bit says so.
#[derive(Clone, Debug)]
#[repr(C)]
pub(crate) struct Ctx {
    pub(crate) trace_lo: u64,
    /// The keys of the counters; null if both IDs are raw, or if there is no context.
    pub(crate) keys: *const Keys,
    pub(crate) trace_hi: u64,
    pub(crate) trace_state: TraceState,
    pub(crate) span: u64,
    /// See [`bit`].
    pub(crate) flags: u32,
}

// SAFETY: `keys` points to an immutable value that is never freed.
unsafe impl Send for Ctx {}
// SAFETY: as above.
unsafe impl Sync for Ctx {}

impl Ctx {
    /// No context.
    pub(crate) const NONE: Ctx = Ctx {
        trace_lo: 0,
        trace_hi: 0,
        span: 0,
        keys: std::ptr::null(),
        trace_state: TraceState(None),
        flags: 0,
    };

    #[inline(always)]
    pub(crate) fn is_valid(&self) -> bool {
        self.flags & bit::VALID != 0
    }

    #[inline(always)]
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & bit::trace_flags(TraceFlags::SAMPLED) != 0
    }

    /// Whether a child in the same process may take everything but the span's own ID over as it is: the low half
    /// of a trace ID is zero in the base of a thread's chain only, where it means that there is none.
    pub(crate) fn may_be_inherited(&self) -> bool {
        self.trace_lo != 0 && self.trace_state.is_empty() && self.flags & !bit::INHERITED == 0
    }

    fn ids(&self) -> Option<&'static IdKeys> {
        // SAFETY: null, or a value that is never freed.
        unsafe { self.keys.as_ref() }.map(|keys| &keys.ids)
    }

    pub(crate) fn trace_id(&self) -> TraceId {
        match self.ids() {
            Some(keys) if self.flags & bit::TRACE_RAW == 0 => keys.trace_id(self.trace_lo),
            _ => TraceId(u128::from(self.trace_hi) << 64 | u128::from(self.trace_lo)),
        }
    }

    pub(crate) fn span_id(&self) -> SpanId {
        match self.ids() {
            Some(keys) if self.flags & bit::SPAN_RAW == 0 => keys.span_id(self.span),
            _ => SpanId(self.span),
        }
    }

    /// The low 56 bits of the trace ID, by which samplers decide.
    pub(crate) fn randomness(&self) -> u64 {
        match self.ids() {
            Some(keys) if self.flags & bit::TRACE_RAW == 0 => keys.trace_randomness(self.trace_lo),
            _ => self.trace_lo & ((1 << 56) - 1),
        }
    }

    /// The same context with raw IDs, for use under other keys.
    pub(crate) fn to_raw(&self) -> Ctx {
        let trace = self.trace_id().0;
        Ctx {
            trace_lo: trace as u64,
            trace_hi: (trace >> 64) as u64,
            span: self.span_id().0,
            keys: std::ptr::null(),
            trace_state: self.trace_state.clone(),
            flags: self.flags | bit::TRACE_RAW | bit::SPAN_RAW,
        }
    }
}

/// What identifies a span to its children: trace ID, span ID, trace flags and tracestate.
///
/// Two contexts are equal if all of these are. The default is the invalid context, which makes a
/// child a root.
#[derive(Clone)]
pub struct SpanContext(pub(crate) Ctx);

impl SpanContext {
    /// A context from another process, as a parent or a link target. Invalid if an ID is zero.
    pub fn remote(
        trace_id: TraceId,
        span_id: SpanId,
        flags: TraceFlags,
        trace_state: TraceState,
    ) -> Self {
        let mut context = Self::from_ids(trace_id, span_id, flags, trace_state);
        if context.is_valid() {
            context.0.flags |= bit::REMOTE;
        }
        context
    }

    /// A context with given IDs that belongs to this process. Invalid if an ID is zero.
    pub fn from_ids(
        trace_id: TraceId,
        span_id: SpanId,
        flags: TraceFlags,
        trace_state: TraceState,
    ) -> Self {
        if !trace_id.is_valid() || !span_id.is_valid() {
            return Self::default();
        }
        SpanContext(Ctx {
            trace_lo: trace_id.0 as u64,
            trace_hi: (trace_id.0 >> 64) as u64,
            span: span_id.0,
            trace_state,
            flags: bit::trace_flags(flags) | bit::TRACE_RAW | bit::SPAN_RAW | bit::VALID,
            ..Ctx::NONE
        })
    }

    /// The context of the span that is current on this thread; invalid if there is none.
    #[cfg(not(spanring_loom))]
    pub fn current() -> Self {
        crate::thread::current_context()
    }

    /// The trace ID; zero if the context is invalid.
    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// The span ID; zero if the context is invalid.
    pub fn span_id(&self) -> SpanId {
        self.0.span_id()
    }

    /// W3C trace flags.
    pub fn trace_flags(&self) -> TraceFlags {
        TraceFlags((self.0.flags >> 8) as u8)
    }

    /// W3C tracestate.
    pub fn trace_state(&self) -> &TraceState {
        &self.0.trace_state
    }

    /// Whether both IDs are set.
    pub fn is_valid(&self) -> bool {
        self.0.is_valid()
    }

    /// Whether the span was sampled.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// Whether the context came from another process.
    pub fn is_remote(&self) -> bool {
        self.0.flags & bit::REMOTE != 0
    }
}

impl Default for SpanContext {
    fn default() -> Self {
        SpanContext(Ctx::NONE)
    }
}

impl PartialEq for SpanContext {
    fn eq(&self, other: &Self) -> bool {
        self.trace_id() == other.trace_id()
            && self.span_id() == other.span_id()
            && self.trace_flags() == other.trace_flags()
            && self.is_remote() == other.is_remote()
            && self.trace_state() == other.trace_state()
    }
}

impl Eq for SpanContext {}

impl fmt::Debug for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanContext")
            .field("trace_id", &self.trace_id())
            .field("span_id", &self.span_id())
            .field("trace_flags", &self.trace_flags().0)
            .field("trace_state", &self.trace_state())
            .field("is_remote", &self.is_remote())
            .finish()
    }
}
