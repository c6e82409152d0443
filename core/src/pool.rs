//! The pool of ring segments: fixed-size blocks of cells that rings chain up and give back.
//!
//! Bounded by the number of segments and by the byte budget. Taking and giving back are lock-free; a
//! segment's memory comes from the operating system when it is first taken and returns there when the
//! flusher trims the pool.
//!
//! Two stacks of indices share one table of links: segments that have memory, and indices that have
//! none. An index is on one stack at most, or out.
//!
//! # Orderings
//!
//! A stack's top is an index and a tag that grows with every push, in one 64-bit word, so a pop whose
//! top was popped and pushed again in between fails its compare-exchange (no ABA). `push` stores the
//! link and publishes it with the Release compare-exchange on the top; `pop` reads the top with
//! Acquire, which pairs with it, and so sees the link, the segment's pointer and all that the last
//! owner did with the segment's memory. A link read by a pop that then fails may be stale; it is not
//! used.

use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, CellSlot, Ordering};

/// Cells of a segment: 16 KiB.
#[cfg(not(spanring_loom))]
pub(crate) const SEGMENT_CELLS: usize = 256;
#[cfg(spanring_loom)]
pub(crate) const SEGMENT_CELLS: usize = 3;

/// Bytes of a segment.
pub(crate) const SEGMENT_BYTES: usize = SEGMENT_CELLS * crate::record::CELL_BYTES;

/// Cells of a segment that hold records; the first one holds the segment's own fields.
pub(crate) const SEGMENT_RECORD_CELLS: usize = SEGMENT_CELLS - 1;

/// A block of ring memory. Lives in memory of its own of `SEGMENT_BYTES` bytes (loom: a box).
#[repr(C, align(64))]
pub(crate) struct Segment {
    /// The segment that continues the chain; null in the last one.
    pub(crate) next: AtomicPtr<Segment>,
    index: u32,
    cells: [CellSlot; SEGMENT_RECORD_CELLS],
}

#[cfg(not(spanring_loom))]
const _: () = assert!(size_of::<Segment>() == SEGMENT_BYTES);

impl Segment {
    /// The first record cell, and the one past the last.
    ///
    /// # Safety
    ///
    /// `this` is a segment of a pool that is out.
    pub(crate) unsafe fn range(this: *mut Segment) -> (*const CellSlot, *const CellSlot) {
        // SAFETY: the caller's promise; only the address of the cells is taken.
        let first = unsafe { &raw const (*this).cells }.cast::<CellSlot>();
        // SAFETY: one past the end of the array.
        (first, unsafe { first.add(SEGMENT_RECORD_CELLS) })
    }
}

const NONE: u32 = u32::MAX;

struct Stack(AtomicU64);

impl Stack {
    fn new() -> Self {
        Stack(AtomicU64::new(u64::from(NONE)))
    }

    fn push(&self, links: &[AtomicU32], index: u32) {
        let mut top = self.0.load(Ordering::Relaxed);
        loop {
            links[index as usize].store(top as u32, Ordering::Relaxed);
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
            let next = links[index as usize].load(Ordering::Relaxed);
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
    segments: Box<[AtomicPtr<Segment>]>,
    /// Segments with memory that nobody uses.
    ready: Stack,
    /// Indices without memory, apart from those never used.
    empty: Stack,
    /// Indices from here on have never been used.
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

    /// A segment, not linked to another, or `None` if the pool or the byte budget is spent.
    pub(crate) fn take(&self, bytes: &impl Bytes) -> Option<*mut Segment> {
        let segment = match self.ready.pop(&self.links) {
            Some(index) => self.segments[index as usize].load(Ordering::Relaxed),
            None => self.allocate(bytes)?,
        };
        // SAFETY: the segment came off a stack or was made just now, so it is ours alone.
        unsafe { (*segment).next.store(std::ptr::null_mut(), Ordering::Relaxed) };
        Some(segment)
    }

    #[cold]
    fn allocate(&self, bytes: &impl Bytes) -> Option<*mut Segment> {
        let index = self.empty.pop(&self.links).or_else(|| {
            self.fresh
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
                    ((fresh as usize) < self.links.len()).then_some(fresh + 1)
                })
                .ok()
        })?;
        if !bytes.reserve(SEGMENT_BYTES) {
            self.empty.push(&self.links, index);
            return None;
        }
        let segment = memory::allocate(index);
        if segment.is_null() {
            bytes.release(SEGMENT_BYTES);
            self.empty.push(&self.links, index);
            return None;
        }
        self.segments[index as usize].store(segment, Ordering::Relaxed);
        self.allocated.fetch_add(1, Ordering::Relaxed);
        Some(segment)
    }

    /// Takes a segment back.
    ///
    /// # Safety
    ///
    /// `segment` came from `take` of this pool, and nobody uses it any more.
    pub(crate) unsafe fn give(&self, segment: *mut Segment) {
        // SAFETY: the caller's promise.
        let index = unsafe { (*segment).index };
        self.ready.push(&self.links, index);
    }

    /// Returns the memory of unused segments to the operating system until at most `keep` segments
    /// have memory; returns how many it freed.
    pub(crate) fn trim(&self, keep: usize, bytes: &impl Bytes) -> usize {
        let mut freed = 0;
        while self.allocated() > keep {
            let Some(index) = self.ready.pop(&self.links) else { break };
            let place = &self.segments[index as usize];
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
            let segment = self.segments[index as usize].load(Ordering::Relaxed);
            // SAFETY: as in `trim`.
            unsafe { memory::free(segment) };
        }
    }
}

#[cfg(not(spanring_loom))]
mod memory {
    use super::{SEGMENT_BYTES, Segment};
    use crate::sync::AtomicPtr;

    /// A segment in pages of its own, or null.
    pub(super) fn allocate(index: u32) -> *mut Segment {
        let segment = crate::platform::map_pages(SEGMENT_BYTES).cast::<Segment>();
        if !segment.is_null() {
            // SAFETY: fresh pages, large and aligned enough for a segment; the cells need no value.
            unsafe {
                (&raw mut (*segment).next).write(AtomicPtr::new(std::ptr::null_mut()));
                (&raw mut (*segment).index).write(index);
            }
        }
        segment
    }

    /// # Safety
    ///
    /// `segment` came from `allocate` and is not used again.
    pub(super) unsafe fn free(segment: *mut Segment) {
        // SAFETY: the caller's promise.
        unsafe { crate::platform::unmap_pages(segment.cast(), SEGMENT_BYTES) };
    }
}

#[cfg(spanring_loom)]
mod memory {
    use super::*;

    pub(super) fn allocate(index: u32) -> *mut Segment {
        Box::into_raw(Box::new(Segment {
            next: AtomicPtr::new(std::ptr::null_mut()),
            index,
            cells: std::array::from_fn(|_| {
                CellSlot(loom::cell::UnsafeCell::new(crate::record::Cell([0; 8])))
            }),
        }))
    }

    pub(super) unsafe fn free(segment: *mut Segment) {
        // SAFETY: `allocate` made it a box.
        drop(unsafe { Box::from_raw(segment) });
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
