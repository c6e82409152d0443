//! A subscription: finished spans for the program itself, taken on its own threads.
//!
//! It is a sink that keeps sealed batches as they are, up to a bound of spans; whoever takes from it decodes them. So a
//! subscriber costs the flusher next to nothing, and one that is too slow loses batches, which are counted. However its sink
//! goes, it ends the subscription.

mod json;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use spanring::export::fork_generation;

use crate::batch::decode;
use crate::log;
use crate::model::SpanBatch;
use crate::pipeline::Shared;
use crate::sink::{SealedBatch, Sink, SinkError};

/// Finished spans, as [`Pipeline::subscribe`](crate::Pipeline::subscribe) gives them. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    pipeline: Weak<Shared>,
    name: String,
    /// Fork children have none of their parent's: a thread that they do not have may hold the lock.
    generation: u32,
    /// What was decoded, and which of its spans is next.
    batch: SpanBatch,
    next: usize,
}

#[derive(Debug)]
struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<SealedBatch>,
    spans: u64,
    spans_max: u64,
    dropped: u64,
    /// Nothing will come any more.
    ended: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// How many subscriptions there were, for their names.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Subscription {
    /// With the sink that feeds it.
    pub(crate) fn new(spans_max: u64, pipeline: Weak<Shared>) -> (Self, impl Sink + use<>) {
        let name = format!("subscription-{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        let state = State { spans_max, ..State::default() };
        let inbox = Arc::new(Inbox { state: Mutex::new(state), changed: Condvar::new() });
        let generation = fork_generation();
        let sink = Feed { inbox: inbox.clone(), name: name.clone(), generation };
        let batch = SpanBatch::default();
        (Subscription { inbox, pipeline, name, generation, batch, next: 0 }, sink)
    }

    /// The next finished span as a line of JSON (docs/processors.md has its fields). `None` if none came within the time, or
    /// none will: see [`is_ended`](Self::is_ended).
    pub fn next_json(&mut self, timeout: Duration) -> Option<String> {
        let line = self.peek_json(timeout)?;
        self.take();
        Some(line)
    }

    /// As [`next_json`](Self::next_json); the span stays until [`take`](Self::take).
    #[doc(hidden)]
    pub fn peek_json(&mut self, timeout: Duration) -> Option<String> {
        let now = Instant::now();
        let until = now.checked_add(timeout);
        while self.next >= self.batch.spans.len() {
            let batch = self.wait(until)?;
            self.next = 0;
            match decode(&batch.frame) {
                Ok(decoded) => self.batch = decoded.batch,
                Err(error) => {
                    // It was sealed by this process.
                    log::error!("{}: a batch cannot be read: {error}", self.name);
                    self.batch = SpanBatch::default();
                    self.inbox.lock().dropped += u64::from(batch.spans);
                }
            }
        }
        Some(json::line(&self.batch, &self.batch.spans[self.next]))
    }

    /// Goes on to the next span.
    #[doc(hidden)]
    pub fn take(&mut self) {
        self.next += 1;
    }

    /// The next batch; without an end if that lies beyond the clock's range.
    fn wait(&self, until: Option<Instant>) -> Option<SealedBatch> {
        if self.generation != fork_generation() {
            return None;
        }
        let mut state = self.inbox.lock();
        loop {
            if let Some(batch) = state.batches.pop_front() {
                state.spans -= u64::from(batch.spans);
                return Some(batch);
            }
            if state.ended {
                return None;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => return None,
                Some(left) => {
                    let waited = self.inbox.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.inbox.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Spans that were dropped because nobody took those before them.
    pub fn dropped(&self) -> u64 {
        if self.generation == fork_generation() { self.inbox.lock().dropped } else { 0 }
    }

    /// Whether nothing is left and nothing will come, as the pipeline was shut down, or this is a fork child of its process.
    pub fn is_ended(&self) -> bool {
        if self.generation != fork_generation() {
            return true;
        }
        let state = self.inbox.lock();
        state.ended && state.batches.is_empty() && self.next >= self.batch.spans.len()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            return;
        }
        let mut state = self.inbox.lock();
        state.ended = true;
        state.batches.clear();
        drop(state);
        if let Some(pipeline) = self.pipeline.upgrade() {
            pipeline.remove_sink(std::mem::take(&mut self.name));
        }
    }
}

/// The sink's side.
struct Feed {
    inbox: Arc<Inbox>,
    name: String,
    generation: u32,
}

impl Sink for Feed {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        let spans = u64::from(batch.spans);
        let mut state = self.inbox.lock();
        if spans == 0 || state.ended {
            return Ok(());
        }
        // A batch that is larger than the bound is taken by itself.
        if !state.batches.is_empty() && state.spans + spans > state.spans_max {
            state.dropped += spans;
            let message = format!(
                "{} spans wait to be taken; take them faster, or subscribe with room for more",
                state.spans
            );
            return Err(SinkError { retry: false, message });
        }
        state.spans += spans;
        state.batches.push_back(batch.clone());
        drop(state);
        self.inbox.changed.notify_one();
        Ok(())
    }

    fn close(&mut self) -> Result<(), SinkError> {
        self.inbox.end();
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            self.inbox.end();
        }
    }
}
