//! Propagation of what is current: the thread's span context and baggage, in and out of headers by the
//! propagators that are set.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{
    Baggage, Extractor, Injector, PropagationError, TraceParent, extract_baggage,
    extract_trace_context, inject_baggage, inject_trace_context,
};
use crate::SpanContext;
use crate::settings::Propagator;

const TRACE_CONTEXT: u8 = 1;
const BAGGAGE: u8 = 2;

/// Propagators in force, for the whole process.
static PROPAGATORS: AtomicU8 = AtomicU8::new(TRACE_CONTEXT | BAGGAGE);

/// Chooses what [`inject`] writes and [`extract`] reads. A pipeline sets it from its settings; the
/// default is trace context and baggage.
pub fn set_propagators(propagators: &[Propagator]) {
    let bits = propagators.iter().fold(0, |bits, propagator| {
        bits | match propagator {
            Propagator::TraceContext => TRACE_CONTEXT,
            Propagator::Baggage => BAGGAGE,
        }
    });
    PROPAGATORS.store(bits, Ordering::Relaxed);
}

fn is_set(propagator: u8) -> bool {
    PROPAGATORS.load(Ordering::Relaxed) & propagator != 0
}

/// What a request brought along.
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// The caller's span; invalid if there is none.
    pub context: SpanContext,
    /// The caller's baggage; empty if there is none.
    pub baggage: Baggage,
}

/// Reads the caller's context and baggage from a request's headers.
///
/// # Errors
///
/// The traceparent does not parse. Start a new trace; [`extract_baggage`] still reads the baggage.
///
/// ```
/// use spanring::{Span, SpanKind, propagation};
///
/// let headers = vec![("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
/// let caller = propagation::extract(&headers).unwrap_or_default();
/// let _baggage = caller.baggage.attach();
/// let _span = Span::builder("GET /").parent(&caller.context).kind(SpanKind::Server).enter();
/// ```
pub fn extract(carrier: &(impl Extractor + ?Sized)) -> Result<Extracted, PropagationError> {
    let mut extracted = Extracted::default();
    if is_set(TRACE_CONTEXT)
        && let Some((parent, state)) = extract_trace_context(carrier)?
    {
        extracted.context =
            SpanContext::remote(parent.trace_id, parent.span_id, parent.flags, state);
    }
    if is_set(BAGGAGE) {
        extracted.baggage = extract_baggage(carrier);
    }
    Ok(extracted)
}

/// Writes `context`, and the thread's current baggage, into a request's headers. Nothing is written
/// for an invalid context and for empty baggage.
///
/// ```
/// use spanring::{SpanContext, propagation, span};
///
/// let _span = span!("GET");
/// let mut headers: Vec<(String, String)> = Vec::new();
/// propagation::inject(&SpanContext::current(), &mut headers);
/// ```
pub fn inject(context: &SpanContext, carrier: &mut (impl Injector + ?Sized)) {
    if is_set(TRACE_CONTEXT) && context.is_valid() {
        let parent = TraceParent::new(context.trace_id(), context.span_id(), context.trace_flags());
        inject_trace_context(&parent, context.trace_state(), carrier);
    }
    if is_set(BAGGAGE) {
        inject_baggage(&Baggage::current(), carrier);
    }
}

thread_local! {
    static CURRENT: RefCell<Baggage> = RefCell::new(Baggage::default());
}

impl Baggage {
    /// The thread's current baggage; empty if there is none.
    pub fn current() -> Baggage {
        CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
    }

    /// Makes this the thread's current baggage until the guard is dropped.
    ///
    /// [`in_span`](crate::Instrument::in_span) takes the baggage along that is current when it is
    /// called.
    pub fn attach(self) -> BaggageGuard {
        BaggageGuard { before: Some(replace(self)), not_send: std::marker::PhantomData }
    }
}

/// Makes `baggage` current and returns what was; empty in a thread whose locals are gone.
fn replace(baggage: Baggage) -> Baggage {
    CURRENT.try_with(|current| current.replace(baggage)).unwrap_or_default()
}

/// Restores the baggage that was current before [`Baggage::attach`] when dropped.
#[derive(Debug)]
#[must_use = "the baggage is current only as long as this lives"]
pub struct BaggageGuard {
    before: Option<Baggage>,
    not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for BaggageGuard {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            replace(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Span, SpanId, TraceId};

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_extracted_is_injected_again() {
        let headers = vec![
            ("traceparent".to_owned(), HEADER.to_owned()),
            ("tracestate".to_owned(), "vendor=1".to_owned()),
            ("baggage".to_owned(), "user=7".to_owned()),
        ];
        let extracted = extract(&headers).unwrap();
        assert!(extracted.context.is_remote() && extracted.context.is_sampled());
        assert_eq!(extracted.context.span_id(), SpanId(0x00f0_67aa_0ba9_02b7));
        let _baggage = extracted.baggage.attach();
        let mut injected: Vec<(String, String)> = Vec::new();
        inject(&extracted.context, &mut injected);
        assert_eq!(injected, headers);
    }

    #[test]
    fn baggage_is_current_until_its_guard_goes() {
        let one = Baggage::default().with("k", "1").unwrap();
        let outer = one.clone().attach();
        {
            let _inner = Baggage::default().with("k", "2").unwrap().attach();
            assert_eq!(Baggage::current().get("k"), Some("2"));
        }
        assert_eq!(Baggage::current(), one);
        drop(outer);
        assert!(Baggage::current().is_empty());
    }

    #[test]
    fn an_attached_context_is_current_and_then_is_not() {
        let context = extract(&vec![("traceparent", HEADER)]).unwrap().context;
        {
            let _attached = context.attach();
            assert_eq!(SpanContext::current(), context);
            // Without an engine a span is nothing, and changes nothing.
            let _span = Span::start("none").enter();
            assert_eq!(
                SpanContext::current().trace_id(),
                TraceId::from_hex(&HEADER[3..35]).unwrap()
            );
        }
        assert!(!SpanContext::current().is_valid());
    }
}
