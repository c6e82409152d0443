//! One sink's queue: what waits for it, when it is tried again, and what became of every span.
//!
//! Batches go to the sink in order. One that it does not take waits, bounded by `MAX_BATCH_WAIT`,
//! `RETRY_ATTEMPTS` and the byte budget; what is dropped is counted by reason. A panic in a sink is
//! contained and counts as a failure.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use spanring::export::Engine;
use spanring::settings::Settings;

use crate::flusher::later;
use crate::health::Health;
use crate::sink::{SealedBatch, Sink, SinkError};
use crate::stats::{SinkDrop, SinkStats};

/// A batch's share of the byte budget, given back when the last queue has done with it.
#[derive(Debug)]
pub(crate) struct Reserved {
    engine: &'static Engine,
    bytes: usize,
}

impl Reserved {
    /// Takes `bytes` from the budget, if `left` stay free.
    pub(crate) fn new(engine: &'static Engine, bytes: usize, left: u64) -> Option<Arc<Self>> {
        engine.reserve_bytes(bytes, left).then(|| Arc::new(Reserved { engine, bytes }))
    }

    /// What queues leave of `MAX_BYTES` to rings and large values: one dead sink must not cost the others their spans.
    pub(crate) fn left(settings: &Settings) -> u64 {
        settings.max_bytes / 4
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.engine.release_bytes(self.bytes);
    }
}

struct Queued {
    batch: SealedBatch,
    since: Instant,
    attempts: u32,
    _reserved: Arc<Reserved>,
}

/// A sink with its queue.
pub(crate) struct Delivery {
    sink: Box<dyn Sink>,
    queue: VecDeque<Queued>,
    health: Health,
    /// When the sink wants to be called.
    tick_at: Option<Instant>,
    stats: SinkStats,
}

impl Delivery {
    pub(crate) fn new(sink: Box<dyn Sink>) -> Self {
        let stats = SinkStats { name: sink.name().to_owned(), ..SinkStats::default() };
        Delivery { sink, queue: VecDeque::new(), health: Health::new(), tick_at: None, stats }
    }

    /// Offers a new batch, behind those that wait. `reserve` takes its bytes from the budget if it has
    /// to wait, too.
    pub(crate) fn offer(
        &mut self,
        batch: &SealedBatch,
        now: Instant,
        reserve: &mut dyn FnMut() -> Option<Arc<Reserved>>,
        settings: &Settings,
    ) {
        self.stats.sealed += u64::from(batch.spans);
        let at_once = self.queue.is_empty() && self.health.retry_at.is_none();
        if at_once {
            match self.deliver(batch, now) {
                Ok(()) => return,
                Err(error) if !error.retry => return self.drop_batch(batch, SinkDrop::Refused),
                Err(_) if settings.retry_attempts == Some(0) => {
                    return self.drop_batch(batch, SinkDrop::Attempts);
                }
                Err(_) => {}
            }
        }
        match reserve() {
            Some(reserved) => {
                self.stats.queued += u64::from(batch.spans);
                let attempts = u32::from(at_once);
                let batch = batch.clone();
                self.queue.push_back(Queued { batch, since: now, attempts, _reserved: reserved });
            }
            None => self.drop_batch(batch, SinkDrop::QueueFull),
        }
    }

    /// Tries what waits, if it is due, or at once with `urgent`; drops what has waited too long.
    pub(crate) fn retry(&mut self, now: Instant, urgent: bool, settings: &Settings) {
        if !urgent && !self.health.may_try(now) {
            return self.expire(now, settings);
        }
        self.health.retry_at = None;
        while let Some(mut queued) = self.queue.pop_front() {
            self.stats.queued -= u64::from(queued.batch.spans);
            match self.deliver(&queued.batch, now) {
                Ok(()) => {}
                Err(error) if !error.retry => self.drop_batch(&queued.batch, SinkDrop::Refused),
                Err(_) => {
                    queued.attempts += 1;
                    if settings.retry_attempts.is_some_and(|most| queued.attempts > most) {
                        self.drop_batch(&queued.batch, SinkDrop::Attempts);
                        continue;
                    }
                    self.stats.queued += u64::from(queued.batch.spans);
                    self.queue.push_front(queued);
                    break;
                }
            }
        }
        self.expire(now, settings);
    }

    fn expire(&mut self, now: Instant, settings: &Settings) {
        while let Some(oldest) = self.queue.front()
            && now.duration_since(oldest.since) >= settings.max_batch_wait
        {
            let queued = self.queue.pop_front().expect("there is a front");
            self.stats.queued -= u64::from(queued.batch.spans);
            self.drop_batch(&queued.batch, SinkDrop::TimedOut);
        }
    }

    fn drop_batch(&mut self, batch: &SealedBatch, reason: SinkDrop) {
        self.stats.dropped[reason as usize] += u64::from(batch.spans);
    }

    fn deliver(&mut self, batch: &SealedBatch, now: Instant) -> Result<(), SinkError> {
        let result = self.call(now, |sink| sink.deliver(batch));
        if result.is_ok() {
            self.stats.delivered += u64::from(batch.spans);
            self.stats.batches += 1;
            self.stats.bytes += batch.frame.len() as u64;
            // The batch may have begun something that becomes due.
            self.tick_at = Some(now);
        }
        result
    }

    /// Calls the sink, contains its panics, and keeps the books of its health.
    fn call(
        &mut self,
        now: Instant,
        f: impl FnOnce(&mut dyn Sink) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let sink = &mut *self.sink;
        let result = catch_unwind(AssertUnwindSafe(|| f(sink))).unwrap_or_else(|panic| {
            self.stats.panics += 1;
            let message = panic_text(&*panic);
            Err(SinkError { retry: true, message: format!("the sink panicked: {message}") })
        });
        match &result {
            Ok(()) => self.health.succeeded(&mut self.stats, now),
            Err(error) => {
                self.health.failed(&mut self.stats, now, &error.message, error.retry, None);
            }
        }
        result
    }

    /// Lets the sink do what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.tick_at.is_some_and(|at| at <= now) {
            let sink = &mut *self.sink;
            let next = catch_unwind(AssertUnwindSafe(|| sink.tick(now)));
            self.tick_at = next.unwrap_or_else(|_| {
                self.stats.panics += 1;
                None
            });
        }
    }

    /// When this sink needs the flusher next.
    pub(crate) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        let expiry = self.queue.front().map(|oldest| later(oldest.since, settings.max_batch_wait));
        let retry = if self.queue.is_empty() { None } else { self.health.retry_at };
        [expiry, retry, self.tick_at].into_iter().flatten().min()
    }

    /// Whether a batch with a sequence number up to `sequence` waits.
    pub(crate) fn waits_up_to(&self, sequence: u64) -> bool {
        self.queue.front().is_some_and(|oldest| oldest.batch.sequence <= sequence)
    }

    /// Makes visible what was delivered.
    pub(crate) fn flush(&mut self, now: Instant) {
        // A failure is kept in the stats; what was delivered stays delivered.
        let _ = self.call(now, |sink| sink.flush());
    }

    /// Gives up what waits, and ends the sink.
    pub(crate) fn close(&mut self, now: Instant) {
        while let Some(queued) = self.queue.pop_front() {
            self.stats.queued -= u64::from(queued.batch.spans);
            self.drop_batch(&queued.batch, SinkDrop::ShutDown);
        }
        let _ = self.call(now, |sink| sink.close());
    }

    pub(crate) fn stats(&self) -> &SinkStats {
        &self.stats
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
