//! How the flusher sleeps, and who wakes it.
//!
//! A producer asks for a wake only in its slow path: with no credits left, which is where every first
//! span of an idle thread leads, because the flusher takes all credits back before it sleeps without a
//! deadline. So the hot path needs neither a fence nor a look at the flusher's state, and no wake-up is
//! lost.
//!
//! # Orderings
//!
//! Producer: it takes credits (a store to its ring's limit), SeqCst fence, loads the state. Flusher: it
//! stores ASLEEP, SeqCst fence, loads the limits of all rings. The fences make at least one see the
//! other's store: either the producer wakes the flusher, or the flusher finds credits that are out and
//! does not sleep. The same holds for a flush request's number and for a newly registered ring. The
//! exchange that takes the state off lets one waker through, so wakes are coalesced. The flusher's own
//! changes of the state are exchanges, too: they cost nothing there, and loom then knows their order.

use crate::sync::{AtomicU32, Ordering, fence};

const RUNNING: u32 = 0;
const POLLING: u32 = 1;
const ASLEEP: u32 = 2;

/// The flusher's state, seen by those who may wake it.
#[derive(Debug)]
pub(crate) struct Park {
    state: AtomicU32,
}

/// Why somebody wants the flusher's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// There is something to do, but a flusher on its timer will find it soon enough.
    Active = 2,
    /// It should act now: pressure on the budget, a flush, a critical span, shutdown.
    Now = 1,
}

impl Park {
    /// A flusher that has not started yet counts as asleep: waking it starts it.
    pub(crate) fn new() -> Self {
        Park { state: AtomicU32::new(ASLEEP) }
    }

    /// Whether the caller must wake the flusher. Called after the store that the flusher must see.
    pub(crate) fn must_wake(&self, reason: Reason) -> bool {
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        state >= reason as u32 && self.state.swap(RUNNING, Ordering::Relaxed) >= reason as u32
    }

    /// The flusher is about to wait: without a deadline of its own timer if `asleep`. Afterwards it
    /// looks once more for work, and then waits or calls [`resume`](Self::resume).
    pub(crate) fn prepare(&self, asleep: bool) {
        self.state.swap(if asleep { ASLEEP } else { POLLING }, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The flusher runs again.
    pub(crate) fn resume(&self) {
        self.state.swap(RUNNING, Ordering::Relaxed);
    }
}
