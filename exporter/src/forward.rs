//! Sends spans that somebody read to a receiver, for tools: no engine, no flusher, and the caller waits.
//!
//! What is sent and what is repeated is decided by the same outbox and sink as in a pipeline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spanring::settings::Settings;

use crate::destination::Destination;
use crate::http::Io;
use crate::model::SpanBatch;
use crate::openai_sink::OpenAiOptions;
use crate::otlp_sink::OtlpOptions;
use crate::outbox::{Outbox, Settled};
use crate::pipeline::StartError;
use crate::sender::Courier;
use crate::sink::InstanceId;
use crate::stats::SinkStats;

const WAKER: mio::Token = mio::Token(0);
/// How long a wait is when nothing says so.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Sends batches of spans to a receiver.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use spanring::Settings;
/// use spanring_exporter::{Forwarder, OtlpOptions, model::SpanBatch};
///
/// let options = OtlpOptions::new("http://127.0.0.1:4318/v1/traces");
/// let mut forwarder = Forwarder::new(options, Settings::default())?;
/// forwarder.send(Arc::new(SpanBatch::default()));
/// let stats = forwarder.finish(Duration::from_secs(10));
/// assert_eq!(stats.queued, 0);
/// # Ok::<(), spanring_exporter::StartError>(())
/// ```
pub struct Forwarder {
    outbox: Outbox,
    poll: mio::Poll,
    events: mio::Events,
    settings: Settings,
    /// In its batches' IDs, which no other has then.
    instance: InstanceId,
    sequence: u64,
    /// Batches that may wait or be under way before `send` waits.
    waiting_max: usize,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("stats", self.outbox.stats()).finish_non_exhaustive()
    }
}

/// A batch, or a part of one, that needs no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledPart {
    /// The batch's number.
    pub batch: u64,
    /// So many of its spans.
    pub spans: u32,
    /// Whether the receiver has it; else it was dropped, which the stats tell more of.
    pub delivered: bool,
}

impl Forwarder {
    /// Makes ready to send OTLP; nothing is connected yet. Of the settings, `MAX_BATCH_WAIT`, `RETRY_ATTEMPTS` and, for
    /// the whole process, `LOG_LEVEL` count.
    ///
    /// # Errors
    ///
    /// What is wrong with the options, or that no event queue can be had.
    pub fn new(options: OtlpOptions, settings: Settings) -> Result<Self, StartError> {
        Self::to(&Destination::Otlp(options), settings)
    }

    /// Makes ready to send to OpenAI's trace ingest, as [`new`](Self::new) does.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn openai(options: OpenAiOptions, settings: Settings) -> Result<Self, StartError> {
        Self::to(&Destination::OpenAi(options), settings)
    }

    fn to(destination: &Destination, settings: Settings) -> Result<Self, StartError> {
        crate::log::set_level(settings.log_level);
        let poll = mio::Poll::new().map_err(StartError::Events)?;
        let waker = mio::Waker::new(poll.registry(), WAKER).map_err(StartError::Events)?;
        let registry = poll.registry().try_clone().map_err(StartError::Events)?;
        let io = Io { registry, tokens: 1..1 << 16, waker: Arc::new(waker) };
        let waiting_max = 2 * destination.pool_size().max(1);
        let sender = destination.sender()?;
        let mut outbox = Outbox::new(None, Courier { sender, spool: None });
        outbox.settled = Some(Vec::new());
        outbox.open(Ok(io), Instant::now());
        if let Some(message) = outbox.unusable() {
            return Err(StartError::Otlp(message.to_owned()));
        }
        let events = mio::Events::with_capacity(16);
        let instance = InstanceId(spanring::export::random_u128());
        Ok(Forwarder { outbox, poll, events, settings, instance, sequence: 0, waiting_max })
    }

    /// Sends a batch, or puts it behind those that wait; waits while there are too many. Returns the batch's number,
    /// from 0.
    pub fn send(&mut self, batch: Arc<SpanBatch>) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        self.outbox.offer_spans(batch, self.instance, sequence, Instant::now(), &self.settings);
        while self.outbox.waiting() > self.waiting_max {
            self.step(WAIT_MAX);
        }
        sequence
    }

    /// What was dealt with since the last call.
    pub fn settled(&mut self) -> Vec<SettledPart> {
        let settled = self.outbox.settled.as_mut().map(std::mem::take).unwrap_or_default();
        let part = |one: Settled| SettledPart {
            batch: one.sequence,
            spans: one.spans,
            delivered: one.delivered,
        };
        settled.into_iter().map(part).collect()
    }

    /// What a person should know of how it sends: what works, but not as it was asked for.
    pub fn note(&self) -> Option<String> {
        self.outbox.note()
    }

    /// How long [`finish`](Self::finish) may take until everything is delivered or given up.
    pub fn patience(&self) -> Duration {
        self.settings.max_batch_wait.saturating_add(self.settings.timeout)
    }

    /// What has been counted so far.
    pub fn stats(&self) -> &SinkStats {
        self.outbox.stats()
    }

    /// Waits until everything is dealt with, at most `timeout`.
    pub fn finish(&mut self, timeout: Duration) -> SinkStats {
        let deadline = crate::flusher::later(Instant::now(), timeout);
        while self.outbox.waiting() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.step(left);
        }
        self.outbox.stats().clone()
    }

    /// Waits for something to happen, and deals with it.
    fn step(&mut self, longest: Duration) {
        let now = Instant::now();
        let due = self.outbox.deadline(now, &self.settings);
        let wait = due.map_or(longest, |due| due.saturating_duration_since(now).min(longest));
        // An interrupted wait is a short one.
        let _ = self.poll.poll(&mut self.events, Some(wait));
        let now = Instant::now();
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            self.outbox.ready(event, now);
        }
        self.outbox.drive(now, false, &self.settings);
    }
}
