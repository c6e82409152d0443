//! One sink's queue: what waits for it, when it is tried again, and what became of every span.
//!
//! Batches go to the sink in order. One that it does not take waits, bounded by `MAX_BATCH_WAIT`,
//! `RETRY_ATTEMPTS` and the byte budget; what is dropped is counted by reason. A panic in a sink is
//! contained and counts as a failure.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spanring::export::Engine;
use spanring::settings::Settings;

use crate::flusher::later;
use crate::log;
use crate::sink::{SealedBatch, Sink, SinkError};
use crate::stats::{SinkDrop, SinkStats};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A batch's share of the byte budget, given back when the last queue has done with it.
#[derive(Debug)]
pub(crate) struct Reserved {
    engine: &'static Engine,
    bytes: usize,
}

impl Reserved {
    /// Takes the bytes of `batch` from the budget, if there are as many.
    pub(crate) fn new(engine: &'static Engine, batch: &SealedBatch) -> Option<Arc<Self>> {
        let bytes = batch.frame.len();
        engine.reserve_bytes(bytes).then(|| Arc::new(Reserved { engine, bytes }))
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
    /// When the sink is tried again after a failure.
    retry_at: Option<Instant>,
    backoff: Duration,
    /// When the sink wants to be called.
    tick_at: Option<Instant>,
    /// For the jitter of backoffs.
    random: u64,
    stats: SinkStats,
}

impl Delivery {
    pub(crate) fn new(sink: Box<dyn Sink>) -> Self {
        let stats = SinkStats { name: sink.name().to_owned(), ..SinkStats::default() };
        Delivery {
            sink,
            queue: VecDeque::new(),
            retry_at: None,
            backoff: BACKOFF_FIRST,
            tick_at: None,
            random: 0x9e37_79b9_7f4a_7c15 ^ spanring::clock::ticks(),
            stats,
        }
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
        let at_once = self.queue.is_empty() && self.retry_at.is_none();
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
        if !urgent && self.retry_at.is_some_and(|at| now < at) {
            return self.expire(now, settings);
        }
        self.retry_at = None;
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
            Ok(()) => {
                if !self.stats.last_error.is_empty() {
                    log::info!("sink {}: works again", self.stats.name);
                    self.stats.last_error.clear();
                }
                self.backoff = BACKOFF_FIRST;
                self.retry_at = None;
            }
            Err(error) => {
                self.stats.failures += 1;
                if self.stats.last_error.is_empty() {
                    let next =
                        if error.retry { "it is tried again" } else { "the batch is dropped" };
                    log::warning!("sink {}: {error}; {next}", self.stats.name);
                }
                self.stats.last_error.clone_from(&error.message);
                if error.retry {
                    self.retry_at = Some(now + self.jittered_backoff());
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
        result
    }

    /// Between half and the whole of the backoff.
    fn jittered_backoff(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random >> 40) as f64 / (1u64 << 24) as f64;
        self.backoff.mul_f64(0.5 + share / 2.0)
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
        let retry = if self.queue.is_empty() { None } else { self.retry_at };
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
