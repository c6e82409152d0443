//! The pool of ring segments: fixed-size blocks of cells that rings chain up and give back.
//!
//! Bounded by the number of segments and by the byte budget. Taking and giving back are lock-free; a
//! segment's memory comes from the operating system when it is first taken and returns there when the
//! flusher trims the pool.
//!
//! A segment is known by its index, and all of its memory holds cells. Two stacks of indices share one
//! table of links: segments that have memory, and indices that have none. An index is on one stack at
//! most, or out; then its link leads to the next segment of its ring's chain.
//!
//! # Orderings
//!
//! A stack's top is an index and a tag that grows with every push, in one 64-bit word, so a pop whose
//! top was popped and pushed again in between fails its compare-exchange (no ABA). `push` stores the
//! link and publishes it with the Release compare-exchange on the top; `pop` reads the top with
//! Acquire, which pairs with it, and so sees the link, the segment's pointer and all that the last
//! owner did with the segment's memory. A link read by a pop that then fails may be stale, or a chain's;
//! it is not used. A chain's link is a Relaxed store, published by the ring's head.

use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, CellSlot, Ordering};

/// Cells of a segment: 16 KiB.
#[cfg(not(spanring_loom))]
pub(crate) const SEGMENT_CELLS: usize = 256;
#[cfg(spanring_loom)]
pub(crate) const SEGMENT_CELLS: usize = 2;

/// Bytes of a segment.
pub(crate) const SEGMENT_BYTES: usize = SEGMENT_CELLS * crate::record::CELL_BYTES;

/// The cells of a segment, in memory of their own (loom: a box).
#[repr(C, align(64))]
struct Cells([CellSlot; SEGMENT_CELLS]);

const _: () = assert!(size_of::<Cells>() == SEGMENT_BYTES || cfg!(spanring_loom));

/// The index of a segment, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment(pub(crate) u32);

impl Segment {
    /// No segment.
    pub(crate) const NONE: Segment = Segment(NONE);

    /// Whether there is none.
    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Indices count from one, so that zeroed memory (a fork child's rings) has none.
const NONE: u32 = 0;

fn at(index: u32) -> usize {
    index as usize - 1
}

struct Stack(AtomicU64);

impl Stack {
    fn new() -> Self {
        Stack(AtomicU64::new(u64::from(NONE)))
    }

    fn push(&self, links: &[AtomicU32], index: u32) {
        let mut top = self.0.load(Ordering::Relaxed);
        loop {
            links[at(index)].store(top as u32, Ordering::Relaxed);
            let tag = (top >> 32).wrapping_add(1);
            let new = tag << 32 | u64::from(index);
            match self.0.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn pop(&self, links: &[AtomicU32]) -> Option<u32> {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            let index = top as u32;
            if index == NONE {
                return None;
            }
            let next = links[at(index)].load(Ordering::Relaxed);
            let new = top >> 32 << 32 | u64::from(next);
            match self.0.compare_exchange_weak(top, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => top = now,
            }
        }
    }
}

/// Asks for bytes, or gives them back, in the name of the pool.
pub(crate) trait Bytes {
    /// Takes `bytes` from the budget, or refuses.
    fn reserve(&self, bytes: usize) -> bool;
    /// Gives `bytes` back.
    fn release(&self, bytes: usize);
}

/// A bounded pool of segments.
pub(crate) struct SegmentPool {
    links: Box<[AtomicU32]>,
    segments: Box<[AtomicPtr<Cells>]>,
    /// Segments with memory that nobody uses.
    ready: Stack,
    /// Indices without memory, apart from those never used.
    empty: Stack,
    /// As many indices have ever been used.
    fresh: AtomicU32,
    /// Segments with memory.
    allocated: AtomicU32,
}

impl SegmentPool {
    /// A pool of at most `segments_max` segments; allocates their table only.
    pub(crate) fn new(segments_max: usize) -> Self {
        SegmentPool {
            links: (0..segments_max).map(|_| AtomicU32::new(NONE)).collect(),
            segments: (0..segments_max).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect(),
            ready: Stack::new(),
            empty: Stack::new(),
            fresh: AtomicU32::new(0),
            allocated: AtomicU32::new(0),
        }
    }

    /// Segments that have memory, in use or not.
    pub(crate) fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed) as usize
    }

    /// A segment, the last of its chain, or `None` if the pool or the byte budget is spent.
    pub(crate) fn take(&self, bytes: &impl Bytes) -> Option<Segment> {
        let index = match self.ready.pop(&self.links) {
            Some(index) => index,
            None => self.allocate(bytes)?,
        };
        let segment = Segment(index);
        self.link(segment, Segment::NONE);
        Some(segment)
    }

    #[cold]
    fn allocate(&self, bytes: &impl Bytes) -> Option<u32> {
        let index = self.empty.pop(&self.links).or_else(|| {
            self.fresh
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
                    ((fresh as usize) < self.links.len()).then_some(fresh + 1)
                })
                .ok()
                .map(|fresh| fresh + 1)
        })?;
        if !bytes.reserve(SEGMENT_BYTES) {
            self.empty.push(&self.links, index);
            return None;
        }
        let cells = memory::allocate();
        if cells.is_null() {
            bytes.release(SEGMENT_BYTES);
            self.empty.push(&self.links, index);
            return None;
        }
        self.segments[at(index)].store(cells, Ordering::Relaxed);
        self.allocated.fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// The first cell of a segment that is out, and the one past the last. The pointer was stored before
    /// the segment was handed on.
    pub(crate) fn range(&self, segment: Segment) -> (*const CellSlot, *const CellSlot) {
        let first = self.segments[at(segment.0)].load(Ordering::Relaxed).cast::<CellSlot>();
        (first, first.wrapping_add(SEGMENT_CELLS))
    }

    /// Continues the chain of `segment`, which is out, with `next`.
    pub(crate) fn link(&self, segment: Segment, next: Segment) {
        self.links[at(segment.0)].store(next.0, Ordering::Relaxed);
    }

    /// The segment that continues the chain of `segment`, which is out.
    pub(crate) fn next(&self, segment: Segment) -> Segment {
        Segment(self.links[at(segment.0)].load(Ordering::Relaxed))
    }

    /// Takes a segment back.
    ///
    /// # Safety
    ///
    /// `segment` came from `take` of this pool, and nobody uses it any more.
    pub(crate) unsafe fn give(&self, segment: Segment) {
        self.ready.push(&self.links, segment.0);
    }

    /// Returns the memory of unused segments to the operating system until at most `keep` segments
    /// have memory; returns how many it freed.
    pub(crate) fn trim(&self, keep: usize, bytes: &impl Bytes) -> usize {
        let mut freed = 0;
        while self.allocated() > keep {
            let Some(index) = self.ready.pop(&self.links) else { break };
            let place = &self.segments[at(index)];
            // SAFETY: the segment came off the stack, so it is ours alone, and its index goes to
            // `empty`, so nobody finds it again.
            unsafe { memory::free(place.load(Ordering::Relaxed)) };
            place.store(std::ptr::null_mut(), Ordering::Relaxed);
            self.allocated.fetch_sub(1, Ordering::Relaxed);
            bytes.release(SEGMENT_BYTES);
            self.empty.push(&self.links, index);
            freed += 1;
        }
        freed
    }
}

impl std::fmt::Debug for SegmentPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentPool")
            .field("segments_max", &self.segments.len())
            .field("allocated", &self.allocated())
            .finish_non_exhaustive()
    }
}

impl Drop for SegmentPool {
    fn drop(&mut self) {
        while let Some(index) = self.ready.pop(&self.links) {
            let segment = self.segments[at(index)].load(Ordering::Relaxed);
            // SAFETY: as in `trim`.
            unsafe { memory::free(segment) };
        }
    }
}

#[cfg(not(spanring_loom))]
mod memory {
    use super::{Cells, SEGMENT_BYTES};

    /// A segment's cells in pages of their own, or null.
    pub(super) fn allocate() -> *mut Cells {
        crate::platform::map_pages(SEGMENT_BYTES).cast()
    }

    /// # Safety
    ///
    /// `cells` came from `allocate` and are not used again.
    pub(super) unsafe fn free(cells: *mut Cells) {
        // SAFETY: the caller's promise.
        unsafe { crate::platform::unmap_pages(cells.cast(), SEGMENT_BYTES) };
    }
}

#[cfg(spanring_loom)]
mod memory {
    use super::*;

    pub(super) fn allocate() -> *mut Cells {
        Box::into_raw(Box::new(Cells(std::array::from_fn(|_| {
            CellSlot(loom::cell::UnsafeCell::new(crate::record::Cell([0; 8])))
        }))))
    }

    pub(super) unsafe fn free(cells: *mut Cells) {
        // SAFETY: `allocate` made it a box.
        drop(unsafe { Box::from_raw(cells) });
    }
}

#[cfg(all(test, not(spanring_loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    struct Plenty;

    impl Bytes for Plenty {
        fn reserve(&self, _bytes: usize) -> bool {
            true
        }
        fn release(&self, _bytes: usize) {}
    }

    #[test]
    fn the_pool_hands_out_each_segment_once_and_no_more_than_it_may() {
        let pool = SegmentPool::new(4);
        let taken: HashSet<_> = (0..4).map(|_| pool.take(&Plenty).unwrap()).collect();
        assert_eq!(taken.len(), 4);
        assert!(pool.take(&Plenty).is_none());
        for segment in &taken {
            // SAFETY: taken above, given back once.
            unsafe { pool.give(*segment) };
        }
        let again: HashSet<_> = (0..4).map(|_| pool.take(&Plenty).unwrap()).collect();
        assert_eq!(again, taken);
        for segment in again {
            // SAFETY: as above.
            unsafe { pool.give(segment) };
        }
    }

    #[test]
    fn trimmed_segments_can_be_taken_again() {
        let pool = SegmentPool::new(3);
        let taken: Vec<_> = (0..3).map(|_| pool.take(&Plenty).unwrap()).collect();
        // SAFETY: taken above, given back once.
        taken.iter().skip(1).for_each(|segment| unsafe { pool.give(*segment) });
        assert_eq!(pool.trim(0, &Plenty), 2);
        assert_eq!(pool.allocated(), 1);
        let again: Vec<_> = (0..2).map(|_| pool.take(&Plenty).unwrap()).collect();
        assert!(pool.take(&Plenty).is_none());
        // SAFETY: as above.
        again.iter().chain(&taken[..1]).for_each(|segment| unsafe { pool.give(*segment) });
    }

    #[test]
    fn a_spent_byte_budget_refuses_and_loses_no_index() {
        struct None_;
        impl Bytes for None_ {
            fn reserve(&self, _bytes: usize) -> bool {
                false
            }
            fn release(&self, _bytes: usize) {}
        }
        let pool = SegmentPool::new(1);
        for _ in 0..3 {
            assert!(pool.take(&None_).is_none());
        }
        let segment = pool.take(&Plenty).unwrap();
        // SAFETY: taken above, given back once.
        unsafe { pool.give(segment) };
    }
}
