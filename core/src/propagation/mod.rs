//! Propagation: a span's context and baggage as text headers, out of this process and into it.
//!
//! The formats are W3C Trace Context level 2 (`traceparent`, `tracestate`) and W3C Baggage
//! (`baggage`). A carrier, whatever holds a request's headers, is read through [`Extractor`] and
//! written through [`Injector`].
//!
//! What this module never does: touch a span, a thread-local or a clock; send a header that its own
//! parsers refuse; keep more of a peer's text than the limits below, or panic on any of it.
//!
//! Invariants:
//! - A traceparent that does not parse means a new trace; its tracestate is not even looked at.
//! - A tracestate that does not parse is dropped as a whole and leaves the traceparent as it is.
//! - What is held is normal: parsing what [`TraceState`] or [`Baggage`] prints gives an equal value.
//! - A [`TraceState`] takes at most 16,447 bytes (32 members of 256 + 1 + 256 bytes), a [`Baggage`]
//!   at most 64 members that print as at most 8,192 bytes.

mod baggage;
mod carrier;
#[cfg(not(spanring_loom))]
mod current;
mod trace_parent;
mod trace_state;

use std::fmt;

pub use baggage::{Baggage, BaggageEntry};
pub use carrier::{Extractor, Injector};
#[cfg(not(spanring_loom))]
pub use current::{BaggageGuard, Extracted, extract, inject, set_propagators};
pub use trace_parent::TraceParent;
pub use trace_state::TraceState;

/// Name of the header that holds a [`TraceParent`].
pub const TRACEPARENT: &str = "traceparent";
/// Name of the header that holds a [`TraceState`].
pub const TRACESTATE: &str = "tracestate";
/// Name of the header that holds a [`Baggage`].
pub const BAGGAGE: &str = "baggage";

/// Reads the context of the remote parent from a request's headers.
///
/// `None` if there is no traceparent. A tracestate that does not parse counts as empty; call
/// [`extract_trace_state`] to learn why.
///
/// # Errors
///
/// The traceparent does not parse, or there are several. The caller starts a new trace.
///
/// ```
/// use spanring::propagation::extract_trace_context;
///
/// let headers = vec![
///     ("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
///     ("Tracestate", "congo=t61rcWkgMzE"),
/// ];
/// let (parent, state) = extract_trace_context(&headers)?.expect("there is a traceparent");
/// assert!(parent.flags.is_sampled());
/// assert_eq!(state.get("congo"), Some("t61rcWkgMzE"));
/// # Ok::<(), spanring::propagation::PropagationError>(())
/// ```
pub fn extract_trace_context(
    carrier: &(impl Extractor + ?Sized),
) -> Result<Option<(TraceParent, TraceState)>, PropagationError> {
    let parent = match carrier.get_all(TRACEPARENT)[..] {
        [] => return Ok(None),
        // Some carriers keep the blanks that an HTTP library would have taken off.
        [header] => TraceParent::parse(header.trim_matches(is_ows))?,
        [_, second, ..] => {
            let problem = "the header is there more than once, and which one is meant cannot be \
                           known; start a new trace";
            return Err(PropagationError::new(TRACEPARENT, second, 0, problem));
        }
    };
    Ok(Some((parent, extract_trace_state(carrier).unwrap_or_default())))
}

/// Reads the tracestate alone, all its header lines combined in their order.
///
/// Empty if there is none. Without a valid traceparent it means nothing and must not be used.
///
/// # Errors
///
/// As [`TraceState::parse`].
pub fn extract_trace_state(
    carrier: &(impl Extractor + ?Sized),
) -> Result<TraceState, PropagationError> {
    TraceState::parse_lines(carrier.get_all(TRACESTATE))
}

/// Writes a span's context into a request's headers, so that the receiver's spans become its
/// children.
///
/// Writes nothing if an ID is zero, and no tracestate if `state` is empty. Headers of an earlier
/// request are replaced where they are written only, so do not reuse a carrier without clearing it.
///
/// ```
/// use spanring::propagation::{TraceParent, inject_trace_context};
/// use spanring::{SpanId, TraceFlags, TraceId, TraceState};
///
/// let parent = TraceParent::new(TraceId(0xabc), SpanId(0xdef), TraceFlags::SAMPLED);
/// let mut headers: Vec<(String, String)> = Vec::new();
/// inject_trace_context(&parent, &TraceState::default(), &mut headers);
/// assert_eq!(headers[0].1, "00-00000000000000000000000000000abc-0000000000000def-01");
/// ```
pub fn inject_trace_context(
    parent: &TraceParent,
    state: &TraceState,
    carrier: &mut (impl Injector + ?Sized),
) {
    if !parent.trace_id.is_valid() || !parent.span_id.is_valid() {
        return;
    }
    carrier.set(TRACEPARENT, parent.to_string());
    if !state.is_empty() {
        carrier.set(TRACESTATE, state.to_string());
    }
}

/// Reads the baggage from a request's headers, all its lines combined in their order.
///
/// Empty if there is none. Members that are malformed or do not fit are left out and counted
/// ([`Baggage::left_out`]).
pub fn extract_baggage(carrier: &(impl Extractor + ?Sized)) -> Baggage {
    Baggage::parse_lines(carrier.get_all(BAGGAGE))
}

/// Writes baggage into a request's headers; nothing if it is empty.
pub fn inject_baggage(baggage: &Baggage, carrier: &mut (impl Injector + ?Sized)) {
    if !baggage.is_empty() {
        carrier.set(BAGGAGE, baggage.to_string());
    }
}

/// Why a header, or a member to be added to one, was refused.
///
/// The message names the header, the byte at which the trouble starts, what is wrong there and what
/// to do about it. It quotes at most one byte of the input, so that it can be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropagationError {
    header: &'static str,
    at_byte: usize,
    found: Option<u8>,
    problem: &'static str,
}

impl PropagationError {
    /// The byte at `at_byte` of `text`, if there is one, is part of the message.
    fn new(header: &'static str, text: &str, at_byte: usize, problem: &'static str) -> Self {
        let found = text.as_bytes().get(at_byte).copied();
        PropagationError { header, at_byte, found, problem }
    }

    /// The same, for text that stands `bytes` further on in its header.
    fn moved_by(mut self, bytes: usize) -> Self {
        self.at_byte += bytes;
        self
    }

    /// The name of the header: `traceparent`, `tracestate` or `baggage`.
    pub fn header(&self) -> &'static str {
        self.header
    }

    /// The offset, in bytes, at which the trouble starts. Header lines count as joined by commas; for
    /// a member to be added it is the offset in the key or the value.
    pub fn at_byte(&self) -> usize {
        self.at_byte
    }
}

impl fmt::Display for PropagationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", self.header, self.at_byte)?;
        match self.found {
            Some(byte) => write!(f, " ('{}'): {}", byte.escape_ascii(), self.problem),
            None => write!(f, ": {}", self.problem),
        }
    }
}

impl std::error::Error for PropagationError {}

/// Optional whitespace as HTTP means it, which is not what `str::trim` takes off.
fn is_ows(c: char) -> bool {
    c == ' ' || c == '\t'
}

#[cfg(test)]
mod tests;
