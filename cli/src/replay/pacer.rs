//! Holds threads up where the engine would have to drop a span or a value.
//!
//! Spans: every span that is to end takes a number, and waits until no more than half of `MAX_SPANS` are
//! between being numbered and being free again. So the rings find a credit whatever the threads do; half,
//! because a quarter that is not free makes the flusher seal small batches. What was sealed is no guide:
//! a span is counted as sealed before its place is free.
//!
//! Bytes: a thread adds up what its spans are likely to take, and once that is its share of an eighth of
//! `MAX_BYTES`, it waits until half of `MAX_BYTES` is free, or as much as a flush was seen to free:
//! memory that rings keep for later use does not come back. A span that exceeds the share alone goes
//! through one at a time.
//!
//! It never waits for good: what does not come by itself is asked for by a flush.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spanring_exporter::{FlushError, Pipeline};

/// Between two looks at what is free. The flusher looks at the rings every 0.1 to 20 ms, and when few places are free.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// How long the flusher may seal nothing before it is told to.
const PATIENCE: Duration = Duration::from_millis(20);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Pacer<'a> {
    pipeline: &'a Pipeline,
    /// Spans that may be resident at once.
    capacity: u64,
    /// Spans between their number and their place being free.
    spans_max: u64,
    /// Bytes that must be free; lowered to what can be had.
    bytes_free_min: AtomicU64,
    /// Bytes that a thread may take between two looks.
    bytes_share: u64,
    /// Spans numbered so far.
    numbered: AtomicU64,
    /// Spans that hold no place any more, as of the last look, or fewer.
    settled: AtomicU64,
    /// Held by the thread that looks.
    look: Mutex<()>,
    /// Held by the thread whose span exceeds its share.
    large: Mutex<()>,
}

/// What a thread has taken since it last looked, in bytes.
#[derive(Debug, Default)]
pub struct Debt(u64);

/// Lets a span end; held until it has.
#[derive(Debug)]
#[must_use = "the span must end while this lives"]
pub struct Admitted<'a>(#[allow(dead_code, reason = "held, not read")] Option<MutexGuard<'a, ()>>);

impl<'a> Pacer<'a> {
    /// A pacer for `threads` threads that record with `pipeline`, and nobody beside them.
    pub fn new(pipeline: &'a Pipeline, threads: usize) -> Self {
        let settings = pipeline.settings();
        Pacer {
            pipeline,
            capacity: settings.max_spans as u64,
            spans_max: (settings.max_spans as u64 / 2).max(1),
            bytes_free_min: AtomicU64::new(settings.max_bytes / 2),
            bytes_share: settings.max_bytes / 8 / threads.max(1) as u64,
            numbered: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            look: Mutex::new(()),
            large: Mutex::new(()),
        }
    }

    /// Waits until a span of about `bytes` bytes can end. Values are set, too, only then.
    pub fn admit(&self, debt: &mut Debt, bytes: u64) -> Admitted<'_> {
        let number = self.numbered.fetch_add(1, Relaxed) + 1;
        if number > self.settled.load(Relaxed) + self.spans_max {
            self.wait_for_spans(number);
        }
        let is_large = bytes > self.bytes_share;
        let guard = is_large.then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        debt.0 += bytes;
        if debt.0 > self.bytes_share {
            debt.0 = bytes;
            self.wait_for_bytes(if is_large { bytes } else { 0 });
        }
        Admitted(guard)
    }

    #[cold]
    fn wait_for_spans(&self, number: u64) {
        let mut since = Instant::now();
        let mut before = self.settled.load(Relaxed);
        loop {
            if let Ok(_looking) = self.look.try_lock() {
                let engine = self.pipeline.stats().engine;
                let settled = (engine.created + engine.spans_free).saturating_sub(self.capacity);
                self.settled.fetch_max(settled, Relaxed);
            }
            let settled = self.settled.load(Relaxed);
            if number <= settled + self.spans_max {
                return;
            }
            if settled != before {
                (since, before) = (Instant::now(), settled);
            } else if since.elapsed() >= PATIENCE {
                if self.flush() == Err(FlushError::ShutDown) {
                    return;
                }
                since = Instant::now();
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    #[cold]
    fn wait_for_bytes(&self, bytes: u64) {
        let free = || self.pipeline.stats().engine.bytes_free;
        let since = Instant::now();
        while free() < self.bytes_free_min.load(Relaxed).max(bytes) {
            if since.elapsed() >= PATIENCE {
                // Whoever is left waiting is let go: what cannot be had is counted as dropped.
                let _ = self.flush();
                self.bytes_free_min.fetch_min(free() / 4 * 3, Relaxed);
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn flush(&self) -> Result<(), FlushError> {
        self.pipeline.flush(FLUSH_TIMEOUT).map_err(|unfinished| unfinished.reason)
    }
}
