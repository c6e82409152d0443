//! Where threads wait that find no room, with `OVERFLOW=wait:MS`.
//!
//! A thread that was refused enters, looks again, and sleeps until the flusher has made room or its time is up. It looks
//! only as often as the flusher made room, so it does not spin. Once a thread has waited its whole time while the flusher
//! made none at all, the flusher counts as stuck, and nobody waits until it makes room again: a flusher that hangs costs a
//! thread that time once, not for each of its spans.
//!
//! # Orderings
//!
//! Thread: it adds itself to `waiting`, SeqCst fence, looks for room. Flusher: it gives credits and segments back, SeqCst
//! fence, loads `waiting`. The fences make at least one see the other's store: either the thread finds the room, or the flusher
//! finds the thread, and raises `made`, which the thread read before it looked. `stuck` is told by nobody to anybody
//! in time; a stale value costs one wait more or less.

use std::time::Instant;

use crate::sync::{AtomicU32, Condvar, Mutex, MutexGuard, Ordering, fence};

/// See the module.
#[derive(Debug)]
pub(crate) struct Room {
    waiting: AtomicU32,
    stuck: AtomicU32,
    /// How often room was made while somebody waited.
    made: Mutex<u64>,
    changed: Condvar,
}

impl Room {
    pub(crate) fn new() -> Self {
        Room {
            waiting: AtomicU32::new(0),
            stuck: AtomicU32::new(0),
            made: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// The thread waits from now on; what [`sleep`](Self::sleep) is to be told, after the thread has looked again. At the end comes
    /// [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> u64 {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        *lock(&self.made)
    }

    /// Sleeps until room was made since `seen`, and returns what is to be told next time; `None` if the time is up.
    pub(crate) fn sleep(&self, seen: u64, deadline: Option<Instant>) -> Option<u64> {
        let mut made = lock(&self.made);
        while *made == seen {
            made = match deadline {
                None => self.changed.wait(made).unwrap_or_else(|e| e.into_inner()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.changed.wait_timeout(made, left).unwrap_or_else(|e| e.into_inner()).0
                }
            };
        }
        Some(*made)
    }

    /// The thread waits no longer.
    pub(crate) fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The thread waited its whole time, and no room was made.
    pub(crate) fn set_stuck(&self) {
        self.stuck.store(1, Ordering::Relaxed);
    }

    /// Whether waiting is of no use.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) != 0
    }

    /// Whether somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// The flusher has made room; whether it counted as stuck.
    pub(crate) fn make(&self) -> bool {
        fence(Ordering::SeqCst);
        if self.is_wanted() {
            *lock(&self.made) += 1;
            self.changed.notify_all();
        }
        self.is_stuck() && self.stuck.swap(0, Ordering::Relaxed) != 0
    }
}

fn lock(mutex: &Mutex<u64>) -> MutexGuard<'_, u64> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
