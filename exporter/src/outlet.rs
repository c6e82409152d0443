//! What the flusher sees of a sink: one that is called and waits, or one that sends and is driven.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use spanring::export::Engine;
use spanring::settings::Settings;

use crate::delivery::{Delivery, Reserved, panic_text};
use crate::outbox::Outbox;
use crate::sender::{Courier, IoSource};
use crate::sink::{SealedBatch, Sink};
use crate::stats::SinkStats;

/// Tokens of the event loop that each sender has; the first range is the waker's.
const TOKENS: usize = 1 << 16;

/// A sink as the application gives it.
pub(crate) enum Source {
    Sink(Box<dyn Sink>),
    Sender(Box<Courier>),
}

/// A sink with its queue and counts.
pub(crate) struct Outlet {
    /// Which tokens are its own.
    number: usize,
    kind: Kind,
}

enum Kind {
    Sink(Box<Delivery>),
    Sender(Box<Outbox>),
}

impl Outlet {
    pub(crate) fn new(source: Source, number: usize, engine: &'static Engine) -> Self {
        let kind = match source {
            Source::Sink(sink) => Kind::Sink(Box::new(Delivery::new(sink))),
            Source::Sender(courier) => Kind::Sender(Box::new(Outbox::new(Some(engine), *courier))),
        };
        Outlet { number, kind }
    }

    /// Before everything else, on the flusher's thread.
    pub(crate) fn open(&mut self, io: &IoSource, now: Instant) {
        let first = (self.number + 1) * TOKENS;
        let io = io.registry.try_clone().map(|registry| {
            let waker = Arc::clone(&io.waker);
            crate::http::Io { registry, tokens: first..first + TOKENS, waker }
        });
        self.on_outbox(now, |outbox| outbox.open(io, now));
    }

    /// Calls a sender's outbox, if it is one, and contains its panics: a logger of the host, which libraries call, is
    /// others' code.
    fn on_outbox(&mut self, now: Instant, call: impl FnOnce(&mut Outbox)) {
        if let Kind::Sender(outbox) = &mut self.kind
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(outbox)))
        {
            outbox.panicked(panic_text(&*panic), now);
        }
    }

    /// Whether a batch that is sealed now is to be encoded as OTLP, too.
    pub(crate) fn wants_otlp(&self, now: Instant) -> bool {
        match &self.kind {
            Kind::Sink(_) => false,
            Kind::Sender(outbox) => outbox.wants_otlp(now),
        }
    }

    /// Offers a new batch, behind those that wait; `reserve` takes its bytes from the budget if it has to wait,
    /// too.
    pub(crate) fn offer(
        &mut self,
        batch: &SealedBatch,
        otlp: Option<&Bytes>,
        now: Instant,
        reserve: &mut dyn FnMut() -> Option<Arc<Reserved>>,
        settings: &Settings,
    ) {
        match &mut self.kind {
            Kind::Sink(delivery) => delivery.offer(batch, now, reserve, settings),
            Kind::Sender(_) => {
                self.on_outbox(now, |outbox| outbox.offer(batch, otlp.cloned(), now, settings));
            }
        }
    }

    /// Whether an event with that token is for this outlet.
    pub(crate) fn owns(&self, token: mio::Token) -> bool {
        token.0 / TOKENS == self.number + 1
    }

    pub(crate) fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        self.on_outbox(now, |outbox| outbox.ready(event, now));
    }

    /// Tries what waits, if it is due, or at once with `urgent`, and does whatever else is due.
    pub(crate) fn drive(&mut self, now: Instant, urgent: bool, settings: &Settings) {
        match &mut self.kind {
            Kind::Sink(delivery) => {
                delivery.retry(now, urgent, settings);
                delivery.tick(now);
            }
            Kind::Sender(_) => self.on_outbox(now, |outbox| outbox.drive(now, urgent, settings)),
        }
    }

    /// The last time before [`close`](Self::close): a sink is called once more, a sender's answers are taken; to
    /// send what nobody waits for any more would be to repeat it.
    pub(crate) fn drive_last(&mut self, now: Instant, settings: &Settings) {
        match &mut self.kind {
            Kind::Sink(_) => self.drive(now, true, settings),
            Kind::Sender(_) => self.on_outbox(now, |outbox| outbox.look(now, settings)),
        }
    }

    /// Gives back what is idle, and takes over what others left.
    pub(crate) fn cleanup(&mut self, now: Instant, settings: &Settings) {
        self.on_outbox(now, |outbox| outbox.cleanup(now, settings));
    }

    /// When this outlet needs the flusher next.
    pub(crate) fn deadline(&self, now: Instant, settings: &Settings) -> Option<Instant> {
        match &self.kind {
            Kind::Sink(delivery) => delivery.deadline(settings),
            Kind::Sender(outbox) => outbox.deadline(now, settings),
        }
    }

    /// Whether it sends, so that what waits may do so on disk.
    pub(crate) fn is_sender(&self) -> bool {
        matches!(self.kind, Kind::Sender(_))
    }

    /// Whether something is under way whose sockets must be looked at.
    pub(crate) fn is_sending(&self) -> bool {
        match &self.kind {
            Kind::Sink(_) => false,
            Kind::Sender(outbox) => outbox.is_sending(),
        }
    }

    /// Whether a batch with a sequence number up to `sequence` waits.
    pub(crate) fn waits_up_to(&self, sequence: u64) -> bool {
        match &self.kind {
            Kind::Sink(delivery) => delivery.waits_up_to(sequence),
            Kind::Sender(outbox) => outbox.waits_up_to(sequence),
        }
    }

    /// Makes visible what was delivered.
    pub(crate) fn flush(&mut self, now: Instant) {
        if let Kind::Sink(delivery) = &mut self.kind {
            delivery.flush(now);
        }
    }

    /// Gives up what waits, and ends the sink.
    pub(crate) fn close(&mut self, now: Instant) {
        match &mut self.kind {
            Kind::Sink(delivery) => delivery.close(now),
            Kind::Sender(_) => self.on_outbox(now, Outbox::close),
        }
    }

    pub(crate) fn stats(&self) -> &SinkStats {
        match &self.kind {
            Kind::Sink(delivery) => delivery.stats(),
            Kind::Sender(outbox) => outbox.stats(),
        }
    }
}
