//! The ring: finished spans on their way from one instrumented thread to the flusher.
//!
//! Single producer ([`Ring`], in memory that a fork child sees zeroed), single consumer
//! ([`Reader`]). Records lie in a chain of segments from a pool, so memory follows use. The producer
//! spends credits of the [`Budget`]; the flusher takes unspent credits back from idle threads, and
//! with them, if it wants, their segment.
//!
//! What never happens here: a lock, a wait, a record that overwrites another, a record above the
//! budget. A record that finds no credit or no segment is refused with the reason.
//!
//! # Fields and who writes them
//!
//! | field | written by | meaning |
//! |---|---|---|
//! | `head` | producer | records published; never falls |
//! | `limit` | both, by compare-exchange | `head` may rise up to it; negative: see below |
//! | `busy` | producer | 1 while it is inside `record` |
//! | `cursor`, `end` | producer | where the next record goes; null without a segment |
//! | `first` | producer | the segment with which a chain begins |
//!
//! `limit` is compared signed, so a negative value leads the producer into its slow path:
//! `limit | FLAG` while the flusher tries to reclaim, `DETACHED` once it has taken the segment,
//! `CLOSED` once the ring takes no more records.
//!
//! # Orderings
//!
//! - Producer: cells, `first` and the pool's links are plain or Relaxed stores, published by the Release store of
//!   `head`. The consumer's Acquire load of `head` pairs with it.
//! - Reclaim: the producer stores `busy` = 1, light barrier, loads `limit`; the flusher stores the flag
//!   into `limit`, heavy barrier, loads `busy`. At least one sees the other's store, so if the flusher
//!   reads 0, the producer is outside `record` and will meet the flag before it writes. The flusher's
//!   Acquire load of `busy` pairs with the producer's Release store of 0, so the `head` that it reads
//!   next counts every record written before. The compare-exchange that takes the credits fails if the
//!   producer took the flag off in between; the value cannot have come back (ABA), because only the
//!   flusher sets the flag.
//! - Detach: after that compare-exchange to DETACHED the producer writes no cell before it has taken a
//!   new segment, so the old one is the flusher's. The pool's own Acquire and Release hand it on.
//! - Close: the exchange to CLOSED, heavy barrier, then `busy` is awaited with Acquire; what `head`
//!   says afterwards is final.

use std::cell::Cell as StdCell;

use crate::budget::{Budget, Taken};
use crate::pool::{Bytes, Segment, SegmentPool};
use crate::record::{CELL_BYTES, Cell, Header, flag, header_cells};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, CellSlot, Ordering, barrier};

/// How far ahead of the record that is written cells are fetched.
const PREFETCH_CELLS: usize = 8;
/// How far ahead of the one that is read: reading takes less time than the way from another core.
const READ_AHEAD_CELLS: usize = 16;

const FLAG: i64 = i64::MIN;
const DETACHED: i64 = -1;
const CLOSED: i64 = -2;

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The budget of resident spans is spent.
    Budget,
    /// No segment could be had.
    RingFull,
    /// The thread is inside `record` already: a signal handler, or a hook of the engine's own.
    ReEntrant,
    /// The ring is closed.
    Closed,
}

/// What the ring's slow path needs from the engine.
pub(crate) trait Host {
    /// The byte budget.
    type Bytes: Bytes;
    /// Credits.
    fn budget(&self) -> &Budget;
    /// Segments.
    fn pool(&self) -> &SegmentPool;
    /// The byte budget for segments.
    fn bytes(&self) -> &Self::Bytes;
    /// Called after credits were taken (`pressure`: few are left) or refused.
    fn credits_taken(&self, taken: Taken);
}

/// Who is done with a ring: its thread, its engine. The second one to leave frees it.
///
/// `leave` is an AcqRel read-modify-write: the first one's uses of the ring happen before the second
/// one frees it, and what the thread recorded is seen by an engine that found it
/// [retired](Self::is_retired).
#[derive(Debug)]
pub(crate) struct Lifetime(AtomicU32);

impl Lifetime {
    const THREAD: u32 = 1;
    const ENGINE: u32 = 2;

    /// Both sides use the ring.
    pub(crate) fn new() -> Self {
        Lifetime(AtomicU32::new(0))
    }

    /// As [`new`](Self::new), for a static.
    #[cfg(not(spanring_loom))]
    pub(crate) const fn none() -> Self {
        Lifetime(AtomicU32::new(0))
    }

    /// Whether the thread has left: it records no more, and `head` is final.
    pub(crate) fn is_retired(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::THREAD != 0
    }

    /// The thread leaves; true if it must free the ring.
    #[must_use]
    pub(crate) fn leave_as_thread(&self) -> bool {
        self.0.fetch_or(Self::THREAD, Ordering::AcqRel) & Self::ENGINE != 0
    }

    /// The engine leaves; true if it must free the ring.
    #[must_use]
    pub(crate) fn leave_as_engine(&self) -> bool {
        self.0.fetch_or(Self::ENGINE, Ordering::AcqRel) & Self::THREAD != 0
    }
}

/// The producer's side and what both sides share.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Ring {
    head: AtomicU64,
    limit: AtomicI64,
    busy: AtomicU32,
    cursor: StdCell<*const CellSlot>,
    end: StdCell<*const CellSlot>,
    segment: StdCell<Segment>,
    first: AtomicU32,
}

impl Ring {
    /// A ring without credits and without a segment.
    pub(crate) fn new() -> Self {
        Ring {
            head: AtomicU64::new(0),
            limit: AtomicI64::new(0),
            busy: AtomicU32::new(0),
            cursor: StdCell::new(std::ptr::null()),
            end: StdCell::new(std::ptr::null()),
            segment: StdCell::new(Segment::NONE),
            first: AtomicU32::new(Segment::NONE.0),
        }
    }

    /// A ring that never takes a record, for a static.
    #[cfg(not(spanring_loom))]
    pub(crate) const fn none() -> Self {
        Ring {
            head: AtomicU64::new(0),
            limit: AtomicI64::new(CLOSED),
            busy: AtomicU32::new(0),
            cursor: StdCell::new(std::ptr::null()),
            end: StdCell::new(std::ptr::null()),
            segment: StdCell::new(Segment::NONE),
            first: AtomicU32::new(Segment::NONE.0),
        }
    }

    /// Records published so far.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Whether the producer holds credits or is about to: the flusher must not sleep for good.
    pub(crate) fn has_credits(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit > self.head.load(Ordering::Relaxed) as i64 || limit < CLOSED
    }

    /// Credits that are unspent, as far as an onlooker can tell.
    pub(crate) fn unspent(&self) -> i64 {
        let limit = self.limit.load(Ordering::Relaxed);
        let limit = if limit < CLOSED { limit & !FLAG } else { limit.max(0) };
        (limit - self.head.load(Ordering::Relaxed) as i64).max(0)
    }

    /// Records `cells` cells, which `write` fills; the first one is a [`Header`].
    ///
    /// # Safety
    ///
    /// Only the ring's own thread calls it (a signal handler on that thread may interrupt it). `write`
    /// fills all cells with one whole record, neither panics nor records, and its record owns what it
    /// refers to. `cells` is at least 1 and at most half of `SEGMENT_CELLS`.
    #[inline(always)]
    pub(crate) unsafe fn record(
        &self,
        host: &impl Host,
        cells: usize,
        urgent: bool,
        write: impl FnOnce(*mut Cell),
    ) -> Result<(), Refused> {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return Err(Refused::ReEntrant);
        }
        self.busy.store(1, Ordering::Relaxed);
        barrier::light();
        let head = self.head.load(Ordering::Relaxed);
        if !self.is_ready(head, cells) {
            // SAFETY: as promised to us.
            if let Err(refused) = unsafe { self.prepare(host, cells, urgent) } {
                self.busy.store(0, Ordering::Release);
                return Err(refused);
            }
        }
        // SAFETY: there is a credit and room; the rest as promised to us.
        unsafe { self.publish(head, cells, write) };
        Ok(())
    }

    /// As [`record`](Self::record), where that takes no more than writing the record; else it does
    /// nothing and returns false.
    ///
    /// # Safety
    ///
    /// As for `record`, and the light barrier [is free](barrier::is_light_free).
    #[inline(always)]
    pub(crate) unsafe fn try_record(&self, cells: usize, write: impl FnOnce(*mut Cell)) -> bool {
        if self.busy.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.busy.store(1, Ordering::Relaxed);
        barrier::light_free();
        let head = self.head.load(Ordering::Relaxed);
        if !self.is_ready(head, cells) {
            self.busy.store(0, Ordering::Release);
            return false;
        }
        // SAFETY: as in `record`.
        unsafe { self.publish(head, cells, write) };
        true
    }

    /// Whether there is a credit for the record after `head`, and room for `cells` in the segment.
    #[inline(always)]
    fn is_ready(&self, head: u64, cells: usize) -> bool {
        (head as i64) < self.limit.load(Ordering::Relaxed)
            && self.cursor.get().wrapping_add(cells) <= self.end.get()
    }

    /// Cells left in the segment; none without one, since both ends are null then.
    #[inline(always)]
    fn room(&self) -> usize {
        (self.end.get() as usize - self.cursor.get() as usize) / size_of::<CellSlot>()
    }

    /// # Safety
    ///
    /// As for `record`; `busy` is set, there are a credit and room, and `head` is the ring's.
    #[inline(always)]
    unsafe fn publish(&self, head: u64, cells: usize, write: impl FnOnce(*mut Cell)) {
        let cursor = self.cursor.get();
        // SAFETY: `cells` cells from `cursor` lie in our segment, before `end`, and the consumer reads
        // them only after the store of `head` below.
        unsafe { CellSlot::write(cursor, cells, write) };
        // At most `end`, one past the segment's cells.
        let next = cursor.wrapping_add(cells);
        self.cursor.set(next);
        self.head.store(head + 1, Ordering::Release);
        self.busy.store(0, Ordering::Release);
        // The flusher read these cells last, so they are in its core's cache: have them come back
        // before they are needed. (Beyond the segment's end it does no harm.)
        crate::platform::prefetch_for_write::<{ PREFETCH_CELLS * CELL_BYTES }, _>(next);
    }

    /// Sees to it that there is a credit and room for `cells`.
    #[cold]
    #[inline(never)]
    unsafe fn prepare(&self, host: &impl Host, cells: usize, urgent: bool) -> Result<(), Refused> {
        let head = self.head.load(Ordering::Relaxed) as i64;
        loop {
            let limit = self.limit.load(Ordering::Relaxed);
            if limit > head {
                break;
            }
            if limit == CLOSED {
                return Err(Refused::Closed);
            }
            if limit < CLOSED {
                // The flusher tries to reclaim: take the flag off and keep the credits.
                let _ = self.exchange(limit, limit & !FLAG);
                continue;
            }
            let taken = host.budget().take(urgent);
            if taken.credits == 0 {
                host.credits_taken(taken);
                return Err(Refused::Budget);
            }
            if self.exchange(limit, head + taken.credits) {
                if limit == DETACHED {
                    self.cursor.set(std::ptr::null());
                    self.end.set(std::ptr::null());
                    self.segment.set(Segment::NONE);
                }
                host.credits_taken(taken);
            } else {
                host.budget().give(taken.credits);
            }
        }
        let room = self.room();
        if room >= cells {
            return Ok(());
        }
        let next = host.pool().take(host.bytes()).ok_or(Refused::RingFull)?;
        let segment = self.segment.get();
        if segment.is_none() {
            self.first.store(next.0, Ordering::Relaxed);
        } else {
            if room > 0 {
                let header = Header { flags: flag::END_OF_SEGMENT, ..Header::default() };
                // SAFETY: there is room for one more cell in our segment; the consumer reads it only
                // after the next store of `head`.
                unsafe {
                    CellSlot::write(self.cursor.get(), 1, |cell| {
                        cell.cast::<Header>().write(header)
                    })
                };
            }
            // The consumer follows it only after the next store of `head`.
            host.pool().link(segment, next);
        }
        let (cursor, end) = host.pool().range(next);
        (0..PREFETCH_CELLS).for_each(|cell| {
            crate::platform::prefetch_for_write::<0, _>(cursor.wrapping_add(cell));
        });
        self.segment.set(next);
        self.cursor.set(cursor);
        self.end.set(end);
        Ok(())
    }

    fn exchange(&self, old: i64, new: i64) -> bool {
        self.limit.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// First step of a reclaim: asks the producer to show itself. True if there is something to
    /// reclaim; then comes [`barrier::heavy`], then [`Reader::reclaim`].
    pub(crate) fn reclaim_begin(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit >= 0
            && (limit > self.head.load(Ordering::Relaxed) as i64)
            && self.exchange(limit, limit | FLAG)
    }

    /// Instead of the second step, where there was no barrier: the producer keeps its credits.
    #[cfg(not(spanring_loom))]
    pub(crate) fn reclaim_cancel(&self) {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit < CLOSED {
            // If it fails, the producer has taken the flag off itself.
            let _ = self.exchange(limit, limit & !FLAG);
        }
    }
}

/// The consumer's side: where the flusher stands in one ring.
#[derive(Debug)]
pub(crate) struct Reader {
    tail: u64,
    /// What `head` was when the ring was last [marked](Self::mark).
    marked: u64,
    /// What `head` was when a critical span was last [found](Self::mark_urgent).
    urgent: u64,
    /// The ring is closed, and its producer has seen it or will.
    closed: bool,
    cursor: *const CellSlot,
    end: *const CellSlot,
    segment: Segment,
}

// SAFETY: the pointers are into segments that the reader owns or may read, wherever it is.
unsafe impl Send for Reader {}

impl Reader {
    /// The reader of a new ring.
    pub(crate) fn new() -> Self {
        Reader {
            tail: 0,
            marked: 0,
            urgent: 0,
            closed: false,
            cursor: std::ptr::null(),
            end: std::ptr::null(),
            segment: Segment::NONE,
        }
    }

    /// Records read so far.
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Remembers what has been recorded up to now.
    pub(crate) fn mark(&mut self, ring: &Ring) {
        self.marked = ring.head();
    }

    /// Whether something recorded before the last [`mark`](Self::mark) has not been read.
    pub(crate) fn is_behind_mark(&self) -> bool {
        self.tail < self.marked
    }

    /// Remembers that what has been recorded up to now is to be read at once.
    pub(crate) fn mark_urgent(&mut self, ring: &Ring) {
        self.urgent = ring.head();
    }

    /// Records that are to be read at once.
    pub(crate) fn urgent(&self) -> usize {
        self.urgent.saturating_sub(self.tail) as usize
    }

    /// Whether the reader holds a segment.
    pub(crate) fn has_segment(&self) -> bool {
        !self.segment.is_none()
    }

    /// Reads at most `max` records; `take` gets each one's first cell, takes over what the record
    /// owns, and returns its number of cells. Segments that are read to their end go back to the pool.
    /// Returns the number of records read.
    ///
    /// # Safety
    ///
    /// This is the only reader of `ring`, from its beginning on, and `pool` is the one that the
    /// producer uses. `take` returns [`header_cells`] of the record.
    pub(crate) unsafe fn drain(
        &mut self,
        ring: &Ring,
        pool: &SegmentPool,
        max: usize,
        mut take: impl FnMut(*const Cell) -> usize,
    ) -> usize {
        let available = (ring.head.load(Ordering::Acquire) - self.tail) as usize;
        let count = available.min(max);
        for _ in 0..count {
            if self.segment.is_none() {
                // A record is published, so the chain's first segment is, too.
                self.enter(Segment(ring.first.load(Ordering::Relaxed)), pool);
            }
            loop {
                let cells = if self.cursor == self.end {
                    0
                } else {
                    // The producer's core has the cells that come. Most records have one or two.
                    crate::platform::prefetch(self.cursor.wrapping_add(READ_AHEAD_CELLS));
                    crate::platform::prefetch(self.cursor.wrapping_add(READ_AHEAD_CELLS + 1));
                    // SAFETY: the cell was published with the record that we know to follow.
                    unsafe {
                        CellSlot::read(self.cursor, |cell| {
                            if (*cell.cast::<Header>()).flags & flag::END_OF_SEGMENT != 0 {
                                0
                            } else {
                                take(cell)
                            }
                        })
                    }
                };
                if cells > 0 {
                    // SAFETY: a record lies within one segment.
                    self.cursor = unsafe { self.cursor.add(cells) };
                    self.tail += 1;
                    break;
                }
                let old = self.segment;
                // A record follows in the next one.
                self.enter(pool.next(old), pool);
                // SAFETY: the producer left it when it linked the next one, and we did just now.
                unsafe { pool.give(old) };
            }
        }
        count
    }

    fn enter(&mut self, segment: Segment, pool: &SegmentPool) {
        let (cursor, end) = pool.range(segment);
        self.segment = segment;
        self.cursor = cursor;
        self.end = end;
        for cell in 0..READ_AHEAD_CELLS {
            crate::platform::prefetch(cursor.wrapping_add(cell));
        }
    }

    /// Second step of a reclaim, after [`Ring::reclaim_begin`] said yes and [`barrier::heavy`]: takes
    /// the unspent credits of an idle producer, and with `detach` its segment if all records are read.
    /// Returns the credits; zero if the producer was at work and keeps them.
    ///
    /// # Safety
    ///
    /// As for [`drain`](Self::drain).
    pub(crate) unsafe fn reclaim(&mut self, ring: &Ring, pool: &SegmentPool, detach: bool) -> i64 {
        let flagged = ring.limit.load(Ordering::Relaxed);
        if flagged >= CLOSED {
            return 0;
        }
        let limit = flagged & !FLAG;
        if ring.busy.load(Ordering::Acquire) != 0 {
            ring.exchange(flagged, limit);
            return 0;
        }
        let head = ring.head.load(Ordering::Relaxed);
        let detach = detach && head == self.tail && !self.segment.is_none();
        if !ring.exchange(flagged, if detach { DETACHED } else { 0 }) {
            return 0;
        }
        if detach {
            self.leave(pool);
        }
        limit - head as i64
    }

    /// Takes the segment of an idle producer that holds no credits; true if it did.
    ///
    /// # Safety
    ///
    /// As for [`drain`](Self::drain).
    pub(crate) unsafe fn detach(&mut self, ring: &Ring, pool: &SegmentPool) -> bool {
        let idle = ring.limit.load(Ordering::Relaxed) == 0
            && ring.head.load(Ordering::Acquire) == self.tail
            && self.has_segment();
        // Without credits the producer writes no cell before it has exchanged `limit` itself.
        let detached = idle && ring.exchange(0, DETACHED);
        if detached {
            self.leave(pool);
        }
        detached
    }

    fn leave(&mut self, pool: &SegmentPool) {
        let segment = std::mem::replace(&mut self.segment, Segment::NONE);
        self.cursor = std::ptr::null();
        self.end = std::ptr::null();
        // SAFETY: it was ours and, its producer being detached or gone, nobody else's.
        unsafe { pool.give(segment) };
    }

    /// Closes the ring: no record is accepted afterwards, except one that is being written just now;
    /// once [`settled`](Self::settled) says yes, drain for the last time. Unspent credits are void.
    pub(crate) fn close(&mut self, ring: &Ring) {
        ring.limit.swap(CLOSED, Ordering::Relaxed);
        // Without the barrier, `busy` may read 0 while the producer writes: then it never counts as
        // settled, and keeps its segment.
        self.closed = barrier::heavy();
    }

    /// Whether the ring is closed and its `head` is final.
    pub(crate) fn settled(&self, ring: &Ring) -> bool {
        self.closed && ring.busy.load(Ordering::Acquire) == 0
    }

    /// Gives the last segment back, once the producer's thread is gone or the ring is closed and
    /// settled, and everything is drained.
    ///
    /// # Safety
    ///
    /// As for [`drain`](Self::drain), and the producer writes no more.
    pub(crate) unsafe fn finish(&mut self, pool: &SegmentPool) {
        if self.has_segment() {
            self.leave(pool);
        }
    }
}

/// Gives [`Records::push`](crate::record::Records) its cells; here so that the contract of `drain`
/// stands in one place.
///
/// # Safety
///
/// `cell` begins a published record that nobody consumes again.
pub(crate) unsafe fn take_into(records: &mut crate::record::Records, cell: *const Cell) -> usize {
    // SAFETY: the caller's promise.
    let cells = unsafe { records.push(cell) };
    // SAFETY: as above.
    debug_assert_eq!(cells, header_cells(unsafe { &*cell.cast::<Header>() }));
    cells
}

#[cfg(all(test, not(spanring_loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    struct Plenty;

    impl Bytes for Plenty {
        fn reserve(&self, _bytes: usize) -> bool {
            true
        }
        fn release(&self, _bytes: usize) {}
    }

    struct Small {
        budget: Budget,
        pool: SegmentPool,
    }

    impl Host for Small {
        type Bytes = Plenty;

        fn budget(&self) -> &Budget {
            &self.budget
        }
        fn pool(&self) -> &SegmentPool {
            &self.pool
        }
        fn bytes(&self) -> &Plenty {
            &Plenty
        }
        fn credits_taken(&self, _taken: Taken) {}
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Record so many records of so many payload words, urgent ones if true.
        Record(u8, u16, bool),
        /// Drain at most so many, and settle them.
        Drain(u8),
        /// Reclaim, and detach if true.
        Reclaim(bool),
        /// Take the segment of an idle ring without credits.
        Detach,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u8..80, 0u16..1016, any::<bool>())
                .prop_map(|(count, words, urgent)| Step::Record(count, words, urgent)),
            any::<u8>().prop_map(Step::Drain),
            any::<bool>().prop_map(Step::Reclaim),
            Just(Step::Detach),
        ]
    }

    proptest! {
        /// The ring against a queue, with the budget and the pool's cap counted beside it.
        #[test]
        fn the_ring_is_a_bounded_queue(steps in prop::collection::vec(step(), 1..200)) {
            const CAPACITY: usize = 300;
            const ORDINARY: usize = CAPACITY - CAPACITY / 50;
            let host = Small { budget: Budget::new(CAPACITY, 64), pool: SegmentPool::new(5) };
            host.budget.thread_started();
            let ring = Ring::new();
            let mut reader = Reader::new();
            let mut oracle: VecDeque<(u64, u16)> = VecDeque::new();
            let mut number = 0;
            for step in steps {
                match step {
                    Step::Record(count, words, urgent) => for _ in 0..count {
                        let header = Header { span: number, payload_words: words, ..Header::default() };
                        let cells = header_cells(&header);
                        // SAFETY: one thread; the closure fills all cells.
                        let recorded = unsafe {
                            ring.record(&host, cells, urgent, |at| {
                                at.cast::<Header>().write(header);
                                for cell in 1..cells {
                                    at.add(cell).write(Cell([number; 8]));
                                }
                            })
                        };
                        match recorded {
                            Ok(()) => {
                                oracle.push_back((number, words));
                                let most = if urgent { CAPACITY } else { ORDINARY };
                                prop_assert!(oracle.len() <= most, "{} of {most}", oracle.len());
                            }
                            Err(Refused::Budget) => {
                                let least = if urgent { CAPACITY } else { ORDINARY };
                                prop_assert!(oracle.len() >= least);
                            }
                            Err(Refused::RingFull) => {
                                // Five segments of 255 cells, each of which may waste less than one record.
                                let used: usize =
                                    oracle.iter().map(|(_, words)| 1 + usize::from(*words).div_ceil(8)).sum();
                                prop_assert!(used > 2 * 255, "refused with {used} cells in use");
                            }
                            Err(other) => prop_assert!(false, "{other:?}"),
                        }
                        number += 1;
                    },
                    Step::Drain(max) => {
                        let mut seen = Vec::new();
                        // SAFETY: the only reader; every cell of the record is looked at.
                        let count = unsafe {
                            reader.drain(&ring, &host.pool, usize::from(max), |at| {
                                let header = *at.cast::<Header>();
                                let cells = header_cells(&header);
                                let whole = (1..cells).all(|cell| (*at.add(cell)).0 == [header.span; 8]);
                                seen.push((header.span, header.payload_words, whole));
                                cells
                            })
                        };
                        host.budget.give(count as i64);
                        prop_assert_eq!(count, oracle.len().min(usize::from(max)));
                        for (span, words, whole) in seen {
                            prop_assert!(whole, "record {} is torn", span);
                            prop_assert_eq!(oracle.pop_front(), Some((span, words)));
                        }
                    }
                    Step::Reclaim(detach) => {
                        if ring.reclaim_begin() {
                            prop_assert!(barrier::heavy());
                            // SAFETY: the only reader; both steps came before.
                            host.budget.give(unsafe { reader.reclaim(&ring, &host.pool, detach) });
                        }
                        prop_assert_eq!(ring.unspent(), 0);
                        prop_assert_eq!(host.budget.free(), (CAPACITY - oracle.len()) as i64);
                    }
                    Step::Detach => {
                        // SAFETY: the only reader.
                        if unsafe { reader.detach(&ring, &host.pool) } {
                            prop_assert!(oracle.is_empty());
                        }
                    }
                }
                let resident = oracle.len() as i64;
                prop_assert_eq!(host.budget.free() + ring.unspent() + resident, CAPACITY as i64);
            }
            // SAFETY: the only reader, and nobody records any more.
            unsafe {
                reader.drain(&ring, &host.pool, usize::MAX, |at| header_cells(&*at.cast::<Header>()));
                reader.finish(&host.pool);
            }
            let segments = std::iter::from_fn(|| host.pool.take(&Plenty)).count();
            prop_assert_eq!(segments, 5, "segments were lost");
        }
    }

    #[test]
    fn a_record_inside_a_record_is_refused() {
        let host = Small { budget: Budget::new(10, 4), pool: SegmentPool::new(1) };
        let ring = Ring::new();
        let mut inner = None;
        let write = |at: *mut Cell| {
            // SAFETY: the cell is ours to fill.
            unsafe { at.cast::<Header>().write(Header::default()) };
            // SAFETY: as a signal handler would, on the same thread.
            inner = Some(unsafe { ring.record(&host, 1, false, |_| ()) });
        };
        // SAFETY: one thread; the closure fills the record.
        assert_eq!(unsafe { ring.record(&host, 1, false, write) }, Ok(()));
        assert_eq!(inner, Some(Err(Refused::ReEntrant)));
        assert_eq!(ring.head(), 1);
    }

    #[test]
    fn a_closed_ring_refuses() {
        let host = Small { budget: Budget::new(10, 4), pool: SegmentPool::new(1) };
        let ring = Ring::new();
        let mut reader = Reader::new();
        reader.close(&ring);
        assert!(reader.settled(&ring));
        // SAFETY: one thread; never called.
        assert_eq!(unsafe { ring.record(&host, 1, false, |_| ()) }, Err(Refused::Closed));
    }
}
