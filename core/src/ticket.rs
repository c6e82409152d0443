//! Flush tickets: how `flush` knows that everything recorded before it has been handed over.
//!
//! A caller takes the next number and waits until the flusher has answered it. The flusher reads the
//! highest number, then the rings' heads, seals up to these, hands over, and only then answers.
//!
//! # Orderings
//!
//! `request` is an AcqRel read-modify-write, and the flusher's load in `pending` is Acquire: what the
//! caller recorded, and what others recorded before they told the caller, happened before the flusher
//! reads the heads. The answer travels through the mutex.

use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};

/// Numbers drawn and answered.
#[derive(Debug)]
pub(crate) struct Tickets {
    requested: AtomicU64,
    answered: Mutex<Answered>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Answered {
    number: u64,
    /// Nobody will answer any more.
    closed: bool,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The flusher has answered.
    Done,
    /// The time is up.
    TimedOut,
    /// Nobody answers any more.
    Closed,
}

impl Tickets {
    pub(crate) fn new() -> Self {
        Tickets {
            requested: AtomicU64::new(0),
            answered: Mutex::new(Answered::default()),
            changed: Condvar::new(),
        }
    }

    /// Draws a ticket. The caller then wakes the flusher.
    pub(crate) fn request(&self) -> u64 {
        self.requested.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The highest number drawn. The flusher compares it with what it answered last.
    pub(crate) fn pending(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// Answers all tickets up to `number`.
    pub(crate) fn answer(&self, number: u64) {
        let mut answered = lock(&self.answered);
        answered.number = answered.number.max(number);
        drop(answered);
        self.changed.notify_all();
    }

    /// Lets all waiters go; called when the flusher ends.
    pub(crate) fn close(&self) {
        lock(&self.answered).closed = true;
        self.changed.notify_all();
    }

    /// Waits until `number` is answered.
    pub(crate) fn wait(&self, number: u64, timeout: Duration) -> Wait {
        // A timeout beyond the clock's range is a wait without end.
        let deadline = Instant::now().checked_add(timeout);
        let mut answered = lock(&self.answered);
        loop {
            if answered.number >= number {
                return Wait::Done;
            }
            if answered.closed {
                return Wait::Closed;
            }
            answered = match deadline {
                None => self.changed.wait(answered).unwrap_or_else(|e| e.into_inner()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Wait::TimedOut;
                    }
                    self.changed.wait_timeout(answered, left).unwrap_or_else(|e| e.into_inner()).0
                }
            };
        }
    }
}

fn lock(mutex: &Mutex<Answered>) -> crate::sync::MutexGuard<'_, Answered> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
