//! A subscription: finished spans for the program itself, taken on its own threads.
//!
//! It is a sink that keeps sealed batches as they are, up to a bound of spans and within `MAX_BYTES`; whoever takes from it decodes them. So a
//! subscriber costs the flusher next to nothing, and one that is too slow loses batches, which are counted. However its sink
//! goes, it ends the subscription.

mod json;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use spanring::export::fork_generation;

use crate::batch::decode;
use crate::delivery::Reserved;
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
    /// Spans. By itself, so that it can be asked while another thread waits.
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Queued {
    batch: SealedBatch,
    _reserved: Arc<Reserved>,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Queued>,
    spans: u64,
    spans_max: u64,
    /// Nothing will come any more.
    ended: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
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
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let inbox = Arc::new(Inbox { state, changed, dropped: Arc::default() });
        let generation = fork_generation();
        let (pipeline_of_sink, name_of_sink) = (pipeline.clone(), name.clone());
        let sink = Feed {
            inbox: inbox.clone(),
            pipeline: pipeline_of_sink,
            name: name_of_sink,
            generation,
        };
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
                    self.inbox.count_dropped(batch.spans.into());
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
            if let Some(Queued { batch, _reserved }) = state.batches.pop_front() {
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
        if self.generation == fork_generation() {
            self.inbox.dropped.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// What [`dropped`](Self::dropped) tells, for those who cannot have `self` while it waits.
    #[doc(hidden)]
    pub fn dropped_count(&self) -> Arc<AtomicU64> {
        self.inbox.dropped.clone()
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
    pipeline: Weak<Shared>,
    name: String,
    generation: u32,
}

impl Feed {
    fn reserve(&self, bytes: usize) -> Option<Arc<Reserved>> {
        let pipeline = self.pipeline.upgrade()?;
        Reserved::new(pipeline.engine, bytes, Reserved::left(&pipeline.settings()))
    }

    fn refuse(&self, state: &State, spans: u64, advice: &str) -> Result<(), SinkError> {
        self.inbox.count_dropped(spans);
        let message = format!("{} spans wait to be taken; {advice}", state.spans);
        Err(SinkError { retry: false, message })
    }
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
            let advice = "take them faster, or subscribe with room for more";
            return self.refuse(&state, spans, advice);
        }
        let Some(reserved) = self.reserve(batch.frame.len()) else {
            let advice = "MAX_BYTES has no room for more: take them faster, or raise it";
            return self.refuse(&state, spans, advice);
        };
        state.spans += spans;
        state.batches.push_back(Queued { batch: batch.clone(), _reserved: reserved });
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
