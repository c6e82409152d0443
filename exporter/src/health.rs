//! Whether a sink works: its backoff, and one line in the log for each change.
//!
//! A failure is logged when the sink was well before, and so is that it works again; what happens between is
//! in the stats.

use std::time::{Duration, Instant};

use crate::log;
use crate::stats::SinkStats;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A sink's state between its calls.
#[derive(Debug)]
pub(crate) struct Health {
    /// When the sink is tried again after a failure.
    pub(crate) retry_at: Option<Instant>,
    /// Whether the receiver asked for that much time.
    was_asked: bool,
    backoff: Duration,
    /// For the jitter of backoffs.
    random: u64,
}

impl Health {
    pub(crate) fn new() -> Self {
        Health {
            retry_at: None,
            was_asked: false,
            backoff: BACKOFF_FIRST,
            random: 0x9e37_79b9_7f4a_7c15 ^ spanring::clock::ticks(),
        }
    }

    /// Whether the last call failed in a way that may pass: until one works again there is one attempt at a
    /// time, a probe.
    pub(crate) fn is_failing(&self) -> bool {
        self.backoff > BACKOFF_FIRST
    }

    /// Whether the sink may be tried at `now`.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Tries again at once, unless the receiver asked for time.
    pub(crate) fn skip_backoff(&mut self) {
        if !self.was_asked {
            self.retry_at = None;
        }
    }

    /// The sink did what it was asked to.
    pub(crate) fn succeeded(&mut self, stats: &mut SinkStats, now: Instant) {
        if !stats.last_error.is_empty() {
            log::info!("sink {}: works again", stats.name);
            stats.last_error.clear();
        }
        self.answered(now);
    }

    /// The receiver is there: no more probes. But the time that it asked for, in an answer to another request, it gets.
    fn answered(&mut self, now: Instant) {
        self.backoff = BACKOFF_FIRST;
        self.retry_at = self.retry_at.filter(|at| self.was_asked && *at > now);
    }

    /// It did not. With `retry` it is tried again after the backoff, or after `wait` if that is longer.
    pub(crate) fn failed(
        &mut self,
        stats: &mut SinkStats,
        now: Instant,
        message: &str,
        retry: bool,
        wait: Option<Duration>,
    ) {
        stats.failures += 1;
        if stats.last_error.is_empty() {
            let next = if retry { "it is tried again" } else { "the batch is dropped" };
            log::warning!("sink {}: {message}; {next}", stats.name);
        }
        stats.last_error.clear();
        stats.last_error.push_str(message);
        if !retry {
            stats.last_refusal.clone_from(&stats.last_error);
        }
        if retry {
            let backoff = self.jittered_backoff();
            self.was_asked = wait.is_some();
            let wait = wait.map_or(backoff, |wait| wait.max(backoff));
            self.retry_at = Some(crate::flusher::later(now, wait));
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        } else {
            self.answered(now);
        }
    }

    /// Between half and the whole of the backoff.
    fn jittered_backoff(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random >> 40) as f64 / (1u64 << 24) as f64;
        self.backoff.mul_f64(0.5 + share / 2.0)
    }
}
