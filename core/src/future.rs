//! Spans around futures: current at each poll, ended when the future is done or dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::{Baggage, Span};

/// Adds [`in_span`](Instrument::in_span) to futures.
pub trait Instrument: Future + Sized {
    /// Runs the future inside `span`: at each poll the span is current on the polling thread. The span
    /// ends when the future is ready, or is dropped before.
    ///
    /// ```
    /// use spanring::{Instrument, Span};
    ///
    /// let work = async { /* spans started here are children of "work" */ }.in_span(Span::start("work"));
    /// # drop(work);
    /// ```
    fn in_span(self, span: Span) -> InSpan<Self> {
        InSpan { future: self, span: Some(span), baggage: Baggage::current() }
    }
}

impl<F: Future> Instrument for F {}

/// A future inside a span; see [`Instrument::in_span`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct InSpan<F> {
    future: F,
    span: Option<Span>,
    /// What was current when the future was wrapped.
    baggage: Baggage,
}

impl<F> InSpan<F> {
    /// The span; `None` once the future was ready.
    pub fn span_mut(self: Pin<&mut Self>) -> Option<&mut Span> {
        // SAFETY: `span` is not pinned: nothing refers to it, and only `future` is ever projected as
        // pinned.
        unsafe { self.get_unchecked_mut() }.span.as_mut()
    }
}

impl<F: Future> Future for InSpan<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is not moved out of the pinned value; `span` is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let current = this.span.as_ref().map(|span| span.context().attach());
        let baggage = (!this.baggage.is_empty()).then(|| this.baggage.clone().attach());
        // SAFETY: as above.
        let poll = unsafe { Pin::new_unchecked(&mut this.future) }.poll(cx);
        drop((baggage, current));
        if poll.is_ready() {
            this.span = None;
        }
        poll
    }
}
