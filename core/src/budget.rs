//! The budget: how many spans may be resident at once, whatever the number of threads.
//!
//! Invariant: credits that are free + credits that rings hold unspent + spans recorded and not yet
//! sealed = the capacity. A span is recorded only against a credit, so resident spans never exceed the
//! capacity.
//!
//! # Orderings
//!
//! All operations on `free` are read-modify-writes on one atomic, so no credit is taken twice or lost;
//! credits guard no memory, so Relaxed is enough. The other fields change seldom and may be read
//! stale: a stale chunk size is a little more or less fair, never wrong.

use crate::sync::{AtomicI64, AtomicU32, Ordering::Relaxed};

/// Credits for resident spans.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Credits that nobody holds. Negative for a while after the capacity was lowered.
    free: AtomicI64,
    capacity: AtomicI64,
    /// Kept back for errors and critical spans; at most 2 % of the capacity.
    reserve: AtomicI64,
    chunk_max: AtomicI64,
    /// Threads that have a ring.
    threads: AtomicU32,
}

/// Credits that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many; zero if there were none.
    pub(crate) credits: i64,
    /// Less than half of the budget is left, so a flusher that waits for its timer should be woken: what is left must
    /// last until it runs.
    pub(crate) pressure: bool,
}

impl Budget {
    /// A budget of `capacity` spans for batches of `batch_size`.
    pub(crate) fn new(capacity: usize, batch_size: usize) -> Self {
        let budget = Budget {
            free: AtomicI64::new(0),
            capacity: AtomicI64::new(0),
            reserve: AtomicI64::new(0),
            chunk_max: AtomicI64::new(1),
            threads: AtomicU32::new(0),
        };
        budget.resize(capacity, batch_size);
        budget
    }

    /// Changes the capacity. Called by one thread at a time.
    pub(crate) fn resize(&self, capacity: usize, batch_size: usize) {
        let capacity = capacity as i64;
        let old = self.capacity.load(Relaxed);
        self.capacity.store(capacity, Relaxed);
        self.reserve.store(capacity / 50, Relaxed);
        self.chunk_max.store((batch_size as i64 / 4).clamp(1, 64), Relaxed);
        self.free.fetch_add(capacity - old, Relaxed);
    }

    /// The capacity.
    pub(crate) fn capacity(&self) -> i64 {
        self.capacity.load(Relaxed)
    }

    /// Credits that nobody holds.
    pub(crate) fn free(&self) -> i64 {
        self.free.load(Relaxed)
    }

    /// Whether less than a quarter is free.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.free() < self.capacity() / 4
    }

    /// Counts a thread that got a ring.
    pub(crate) fn thread_started(&self) {
        self.threads.fetch_add(1, Relaxed);
    }

    /// Counts a thread whose ring is gone.
    pub(crate) fn thread_ended(&self) {
        self.threads.fetch_sub(1, Relaxed);
    }

    /// Takes a chunk: at most an eighth of a thread's share of what is free, so that no thread runs
    /// dry because another hoards. `urgent` spans may use the reserve: one credit each, so that none is left over for the
    /// ordinary ones that follow.
    pub(crate) fn take(&self, urgent: bool) -> Taken {
        let reserve = self.reserve.load(Relaxed);
        let chunk_max = self.chunk_max.load(Relaxed);
        let threads = i64::from(self.threads.load(Relaxed)).max(1);
        let mut free = self.free.load(Relaxed);
        loop {
            let usable = free - reserve;
            let credits = match usable {
                1.. => (usable / (8 * threads)).clamp(1, chunk_max),
                _ if urgent && free > 0 => 1,
                _ => return Taken { credits: 0, pressure: true },
            };
            match self.free.compare_exchange_weak(free, free - credits, Relaxed, Relaxed) {
                Ok(_) => {
                    let pressure = free - credits < self.capacity.load(Relaxed) / 2;
                    return Taken { credits, pressure };
                }
                Err(now) => free = now,
            }
        }
    }

    /// Gives credits back.
    pub(crate) fn give(&self, credits: i64) {
        self.free.fetch_add(credits, Relaxed);
    }
}

#[cfg(all(test, not(spanring_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_gets_all_but_the_reserve_and_urgent_spans_get_the_rest() {
        let budget = Budget::new(1000, 512);
        budget.thread_started();
        let take_all = |urgent| {
            std::iter::repeat_with(|| budget.take(urgent).credits)
                .take_while(|credits| *credits > 0)
                .sum::<i64>()
        };
        assert_eq!(take_all(false), 980);
        assert_eq!(take_all(true), 20);
        assert_eq!(budget.free(), 0);
    }

    #[test]
    fn an_urgent_span_takes_one_credit_of_the_reserve() {
        let budget = Budget::new(65_536, 512);
        while budget.take(false).credits > 0 {}
        for left in (0..1310).rev() {
            assert_eq!(budget.take(true), Taken { credits: 1, pressure: true });
            assert_eq!(budget.free(), left);
            assert_eq!(budget.take(false).credits, 0);
        }
        assert_eq!(budget.take(true).credits, 0);
    }

    #[test]
    fn pressure_is_said_when_less_than_half_is_left() {
        let budget = Budget::new(1000, 4);
        let taken: Vec<_> =
            std::iter::repeat_with(|| budget.take(false)).take_while(|it| it.credits > 0).collect();
        assert_eq!(taken.iter().filter(|it| !it.pressure).map(|it| it.credits).sum::<i64>(), 500);
        assert!(taken.last().unwrap().pressure);
    }

    #[test]
    fn chunks_shrink_with_what_is_free_and_with_the_number_of_threads() {
        let budget = Budget::new(65_536, 512);
        assert_eq!(budget.take(false).credits, 64);
        for _ in 0..1000 {
            budget.thread_started();
        }
        assert_eq!(budget.take(false).credits, 8);
        let small = Budget::new(100, 4);
        assert_eq!(small.take(false).credits, 1);
    }

    #[test]
    fn lowering_the_capacity_below_what_is_in_use_refuses_until_it_is_given_back() {
        let budget = Budget::new(100, 400);
        let mut held = 0;
        while held < 50 {
            held += budget.take(false).credits;
        }
        budget.resize(20, 400);
        assert_eq!(budget.take(true).credits, 0);
        budget.give(held);
        assert_eq!(budget.free(), 20);
        assert!(budget.take(false).credits > 0);
    }
}
