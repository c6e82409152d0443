//! Recycled memory of spans under construction: their blocks, and the buffers into which payloads
//! overflow that outgrow the 128 bytes that a block has for them.
//!
//! Each thread keeps a stock; a span owns what it uses and may carry it to another thread, whose stock
//! then takes it, so nothing ever points into another thread's memory. What it never does: keep more
//! than 128 blocks, and [`KEPT_MAX`] buffers of [`KEPT_WORDS_MAX`] words, a thread.

use std::cell::Cell;
use std::ptr;

/// Words of a span's payload on the heap.
pub(crate) type Block = Vec<u64>;

/// Buffers that one thread keeps.
const KEPT_MAX: usize = 4;
/// Buffers with a larger capacity are freed rather than kept.
const KEPT_WORDS_MAX: usize = 2048;

thread_local! {
    static KEPT: [Cell<*mut Block>; KEPT_MAX] = const { [const { Cell::new(ptr::null_mut()) }; KEPT_MAX] };
}

/// An empty buffer, a recycled one if there is one.
#[allow(clippy::box_collection, reason = "one word in the span instead of three")]
pub(crate) fn take() -> Box<Block> {
    let kept = KEPT.with(|kept| {
        kept.iter().map(|slot| slot.replace(ptr::null_mut())).find(|block| !block.is_null())
    });
    match kept {
        // SAFETY: `give` put it there with `Box::into_raw`, and the slot was emptied above.
        Some(block) => unsafe { Box::from_raw(block) },
        None => Box::new(Vec::with_capacity(64)),
    }
}

/// Gives a buffer back.
#[allow(clippy::box_collection, reason = "one word in the span instead of three")]
pub(crate) fn give(mut block: Box<Block>) {
    if block.capacity() > KEPT_WORDS_MAX {
        return;
    }
    block.clear();
    KEPT.with(|kept| {
        if let Some(slot) = kept.iter().find(|slot| slot.get().is_null()) {
            slot.set(Box::into_raw(block));
        }
    });
}

/// Frees what the thread keeps, when it ends. What it takes and gives afterwards is kept for nobody,
/// which is a small leak for a thread that traces in destructors.
pub(crate) fn clear() {
    #[cfg(not(spanring_loom))]
    blocks::clear();
    KEPT.with(|kept| {
        for slot in kept {
            let block = slot.replace(ptr::null_mut());
            if !block.is_null() {
                // SAFETY: as in `take`.
                drop(unsafe { Box::from_raw(block) });
            }
        }
    });
}

#[cfg(not(spanring_loom))]
pub(crate) use blocks::{give_block, take_block, try_take_block};

/// Blocks of spans. (Loom's tests have no spans.)
#[cfg(not(spanring_loom))]
mod blocks {
    use std::cell::Cell;
    use std::ptr::{self, NonNull};

    use crate::span::Block as SpanBlock;

    thread_local! {
        static STOCK: Stock =
            const { Stock { first: Cell::new(ptr::null_mut()) } };
    }

    /// Blocks of ended spans that one thread keeps.
    const BLOCKS_MAX: u32 = 128;

    /// A list; each block knows how many lie behind it.
    struct Stock {
        first: Cell<*mut SpanBlock>,
    }

    /// A block for a new span; its fields are not initialised.
    #[inline(always)]
    pub(crate) fn take_block() -> NonNull<SpanBlock> {
        try_take_block().unwrap_or_else(allocate_block)
    }

    /// A recycled block, if there is one; its fields are not initialised.
    #[inline(always)]
    pub(crate) fn try_take_block() -> Option<NonNull<SpanBlock>> {
        STOCK.with(|stock| {
            let block = NonNull::new(stock.first.get())?;
            // SAFETY: a block in the stock belongs to nobody else, and its `next` was set when it was
            // put there.
            stock.first.set(unsafe { (*block.as_ptr()).next });
            Some(block)
        })
    }

    #[cold]
    #[inline(never)]
    fn allocate_block() -> NonNull<SpanBlock> {
        let block = Box::<SpanBlock>::new_uninit();
        NonNull::new(Box::into_raw(block).cast()).expect("boxes are not null")
    }

    /// Takes a block back from a span that has ended. What its fields own has been dropped.
    #[inline(always)]
    pub(crate) fn give_block(block: NonNull<SpanBlock>) {
        STOCK.with(|stock| {
            let first = stock.first.get();
            // SAFETY: null, or a block in the stock, whose `behind` was set when it was put there.
            let behind = unsafe { first.as_ref() }.map_or(0, |first| first.behind + 1);
            if behind == BLOCKS_MAX {
                return free_block(block);
            }
            // SAFETY: the caller gives the block up.
            unsafe {
                (*block.as_ptr()).next = first;
                (*block.as_ptr()).behind = behind;
            }
            stock.first.set(block.as_ptr());
        });
    }

    #[cold]
    #[inline(never)]
    fn free_block(block: NonNull<SpanBlock>) {
        // SAFETY: the block came from `allocate_block`, and nobody uses it any more.
        drop(unsafe { Box::from_raw(block.as_ptr().cast::<std::mem::MaybeUninit<SpanBlock>>()) });
    }

    pub(super) fn clear() {
        STOCK.with(|stock| {
            while let Some(block) = NonNull::new(stock.first.get()) {
                // SAFETY: as in `take_block`.
                stock.first.set(unsafe { (*block.as_ptr()).next });
                free_block(block);
            }
        });
    }
}
