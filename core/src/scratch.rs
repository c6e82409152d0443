//! Recycled memory of spans under construction: the buffers into which payloads overflow that outgrow
//! the 128 bytes that a span's block has for them.
//!
//! Each thread keeps a stock; a span owns what it uses and may carry it to another thread, whose stock
//! then takes it, so nothing ever points into another thread's memory. What it never does: keep more
//! than [`KEPT_MAX`] buffers of [`KEPT_WORDS_MAX`] words a thread.

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
