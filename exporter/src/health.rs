//! Whether a sink works: its backoff, and one line in the log for each change.
//!
//! A failure is logged when the sink was well before, and so is that it works again; what happens between is
//! in the stats. A sink that fails and works in turns, such as a server that is just too slow, would fill a log
//! so: the same failure is logged once a minute at most.

use std::time::{Duration, Instant};

use crate::log;
use crate::stats::SinkStats;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How soon the same failure is logged again, if the sink worked meanwhile.
const SAME_AGAIN: Duration = Duration::from_secs(60);

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
    /// Whether the failure that lasts is in the log.
    is_logged: bool,
    /// What was logged last, and when.
    logged: Option<(Instant, String)>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Health {
            retry_at: None,
            was_asked: false,
            backoff: BACKOFF_FIRST,
            random: 0x9e37_79b9_7f4a_7c15 ^ spanring::clock::ticks(),
            is_logged: false,
            logged: None,
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
        if self.is_logged {
            log::info!("sink {}: works again", stats.name);
            self.is_logged = false;
        }
        stats.last_error.clear();
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
        if !self.is_logged && self.is_news(now, message) {
            self.is_logged = true;
            self.logged = Some((now, message.to_owned()));
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

    /// Whether this failure is another than the last one that was logged, or that was long ago.
    fn is_news(&self, now: Instant, message: &str) -> bool {
        self.logged.as_ref().is_none_or(|(at, last)| {
            last != message || now.saturating_duration_since(*at) >= SAME_AGAIN
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these failures, each followed by a success, are logged.
    fn logged(health: &mut Health, failures: &[(Instant, &str)]) -> usize {
        let mut stats = SinkStats::default();
        let mut count = 0;
        for (now, message) in failures {
            health.failed(&mut stats, *now, message, true, None);
            count += usize::from(health.is_logged);
            assert_eq!(stats.last_error, *message);
            health.succeeded(&mut stats, *now);
            assert_eq!(stats.last_error, "");
        }
        count
    }

    #[test]
    fn a_sink_that_fails_in_turns_is_logged_once_a_minute() {
        let begin = Instant::now();
        let mut health = Health::new();
        let flaps: Vec<_> = (0..1200).map(|n| (begin + n * SAME_AGAIN / 600, "503")).collect();
        assert_eq!(logged(&mut health, &flaps), 2);
    }

    #[test]
    fn another_failure_is_logged_at_once() {
        let now = Instant::now();
        assert_eq!(logged(&mut Health::new(), &[(now, "503"), (now, "401"), (now, "401")]), 2);
    }

    #[test]
    fn the_same_failure_is_logged_a_minute_later_although_it_did_not_end_since() {
        let begin = Instant::now();
        let mut health = Health::new();
        let mut stats = SinkStats::default();
        logged(&mut health, &[(begin, "503")]);
        health.failed(&mut stats, begin, "503", true, None);
        assert!(!health.is_logged);
        health.failed(&mut stats, begin + SAME_AGAIN, "503", true, None);
        assert!(health.is_logged);
    }

    #[test]
    fn the_time_that_a_receiver_asked_for_outlasts_what_it_took_meanwhile() {
        let now = Instant::now();
        let (mut health, mut stats) = (Health::new(), SinkStats::default());
        let hour = Duration::from_secs(3600);
        health.failed(&mut stats, now, "429", true, Some(hour));
        // Answers to requests that were under way.
        health.succeeded(&mut stats, now + Duration::from_secs(1));
        health.failed(&mut stats, now + Duration::from_secs(1), "400", false, None);
        assert!(!health.may_try(now + hour / 2) && health.may_try(now + hour));
        health.succeeded(&mut stats, now + hour);
        assert!(health.may_try(now + hour));
    }

    #[test]
    fn a_refusal_is_an_answer_after_which_there_are_no_more_probes() {
        let now = Instant::now();
        let (mut health, mut stats) = (Health::new(), SinkStats::default());
        health.failed(&mut stats, now, "503", true, None);
        assert!(health.is_failing());
        health.failed(&mut stats, now, "some were refused", false, None);
        assert!(!health.is_failing() && health.may_try(now));
    }
}
