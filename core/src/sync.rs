//! The atomics, cells and barriers of the lock-free files, from the standard library or from loom.
//!
//! Under `--cfg spanring_loom` everything that the ring, the pool, the budget and the park are made of
//! comes from loom, which runs their tests through all interleavings.

#[cfg(not(spanring_loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(spanring_loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(spanring_loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(spanring_loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

/// An asymmetric barrier: `light` on the hot path, `heavy` in the flusher.
///
/// If a thread stores A, calls `light` and loads B while another stores B, calls `heavy` and loads A,
/// at least one of them sees the other's store. With `membarrier(2)`, `light` is a compiler barrier
/// only; where the kernel has none, both are SeqCst fences.
///
/// `heavy` returns false if there was no barrier: a sandbox forbade the call after the process had been
/// registered. Then nothing may be concluded from what is loaded afterwards.
pub(crate) mod barrier {
    #[cfg(not(spanring_loom))]
    mod implementation {
        use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

        /// Whether `heavy` reaches all threads by itself. Set once, before the first ring exists.
        static MEMBARRIER: AtomicBool = AtomicBool::new(false);

        #[inline(always)]
        pub(crate) fn light() {
            // Relaxed: the value was set before this thread got its ring, by a thread that
            // synchronised with it (the engine's installation).
            if MEMBARRIER.load(Ordering::Relaxed) {
                compiler_fence(Ordering::SeqCst);
            } else {
                fence(Ordering::SeqCst);
            }
        }

        /// Whether `light` costs nothing, so that [`light_free`] may be called instead.
        pub(crate) fn is_light_free() -> bool {
            MEMBARRIER.load(Ordering::Relaxed)
        }

        /// [`light`], by somebody who knows that it is free.
        #[inline(always)]
        pub(crate) fn light_free() {
            compiler_fence(Ordering::SeqCst);
        }

        #[must_use]
        pub(crate) fn heavy() -> bool {
            if MEMBARRIER.load(Ordering::Relaxed) {
                return crate::platform::membarrier();
            }
            fence(Ordering::SeqCst);
            true
        }

        /// Registers the process with the kernel. Called whenever an engine is made, in a fork child
        /// too: the registration is inherited, and repeating it does no harm.
        pub(crate) fn init() {
            if crate::platform::membarrier_register() {
                MEMBARRIER.store(true, Ordering::Relaxed);
            }
        }
    }

    #[cfg(spanring_loom)]
    mod implementation {
        pub(crate) fn light() {
            loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
        }

        pub(crate) fn light_free() {
            light();
        }

        #[must_use]
        pub(crate) fn heavy() -> bool {
            loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
            true
        }
    }

    pub(crate) use implementation::*;
}

/// One cell of ring memory, shared between the producer that writes it and the consumer that reads it
/// afterwards.
#[cfg(not(spanring_loom))]
#[repr(transparent)]
pub(crate) struct CellSlot(std::cell::UnsafeCell<std::mem::MaybeUninit<crate::record::Cell>>);

#[cfg(not(spanring_loom))]
impl CellSlot {
    /// Calls `write` with the place of `cells` cells that begin at `at`.
    ///
    /// # Safety
    ///
    /// `at` begins `cells` cells of one segment that nobody else reads or writes meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write(
        at: *const CellSlot,
        _cells: usize,
        write: impl FnOnce(*mut crate::record::Cell),
    ) {
        write(at.cast_mut().cast());
    }

    /// Calls `read` with the place of a record of unknown length that begins at `at`.
    ///
    /// # Safety
    ///
    /// `at` begins a record that has been published and that nobody writes meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn read<T>(
        at: *const CellSlot,
        read: impl FnOnce(*const crate::record::Cell) -> T,
    ) -> T {
        read(at.cast())
    }
}

/// Under loom each cell is tracked, so that a race on it is found. Records are copied to and from
/// tracked cells one by one.
#[cfg(spanring_loom)]
pub(crate) struct CellSlot(pub(crate) loom::cell::UnsafeCell<crate::record::Cell>);

#[cfg(spanring_loom)]
impl CellSlot {
    pub(crate) unsafe fn write(
        at: *const CellSlot,
        cells: usize,
        write: impl FnOnce(*mut crate::record::Cell),
    ) {
        let mut copy = vec![crate::record::Cell([0; 8]); cells];
        write(copy.as_mut_ptr());
        for (index, cell) in copy.into_iter().enumerate() {
            // SAFETY: the caller's promise; loom checks it.
            unsafe { (*at.add(index)).0.with_mut(|place| *place = cell) };
        }
    }

    pub(crate) unsafe fn read<T>(
        at: *const CellSlot,
        read: impl FnOnce(*const crate::record::Cell) -> T,
    ) -> T {
        // SAFETY: the caller's promise; loom checks it.
        let first = unsafe { (*at).0.with(|place| *place) };
        // SAFETY: every cell of a segment is a plain value, and `Header` is one cell of integers.
        let header =
            unsafe { std::mem::transmute::<crate::record::Cell, crate::record::Header>(first) };
        let end = header.flags & crate::record::flag::END_OF_SEGMENT != 0;
        let cells = if end { 1 } else { crate::record::header_cells(&header) };
        let copy: Vec<_> = (0..cells)
            // SAFETY: the record is `cells` cells long.
            .map(|index| unsafe { (*at.add(index)).0.with(|place| *place) })
            .collect();
        read(copy.as_ptr())
    }
}
