//! How a fork child is told apart.
//!
//! One word in a page that a child sees zeroed (`MADV_WIPEONFORK`), and a `pthread_atfork` handler
//! where the kernel has no such pages. A child that has been noticed begins a new generation: fresh ID
//! keys, no engine, and no memory of its parent's rings. Nothing of the parent's is freed, waited for
//! or sent.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::context::Keys;
use crate::id::IdKeys;

/// Points to the word that reads zero in a child that has not been noticed yet.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// The process's generation: it grows by one in every noticed fork child.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static KEYS: AtomicPtr<Keys> = AtomicPtr::new(std::ptr::null_mut());

const MARKED: u32 = 1;
/// A thread of the child has noticed the fork and begins the new generation.
const NOTICING: u32 = 2;
const PAGE: usize = 4096;

/// Makes the mark. Called before an engine is made; later calls do nothing.
pub(crate) fn init() {
    if !MARK.load(Ordering::Acquire).is_null() {
        return;
    }
    let page = crate::platform::map_pages(PAGE);
    // SAFETY: the page was mapped with this length just now.
    let wiped = !page.is_null() && unsafe { crate::platform::wipe_on_fork(page, PAGE) };
    let mark =
        if wiped { page.cast::<AtomicU32>() } else { Box::into_raw(Box::new(AtomicU32::new(0))) };
    // SAFETY: a fresh page or a fresh box.
    unsafe { (*mark).store(MARKED, Ordering::Relaxed) };
    let old =
        MARK.compare_exchange(std::ptr::null_mut(), mark, Ordering::AcqRel, Ordering::Acquire);
    if old.is_ok() {
        crate::platform::at_fork_child(child);
    }
}

/// Runs in a fork child. Only stores to atomics and to a thread-local without a destructor, so it is safe
/// whatever state the parent was in.
extern "C" fn child() {
    if let Some(mark) = mark() {
        mark.store(0, Ordering::Relaxed);
    }
    crate::thread::local().leave_ring();
    crate::thread::bump_epoch();
}

/// How often a lock is tried in a fork child, whose holders there need microseconds; a holder that the fork lost keeps it
/// for good, so the tries are few milliseconds together.
const LOCK_TRIES: u32 = 2000;

/// A lock that threads hold for an instant. In a fork child a thread that no longer exists may hold it: `None` then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    // Before a lock is first held, or a child could not be told.
    init();
    if generation() == 0 {
        return Some(mutex.lock().unwrap_or_else(PoisonError::into_inner));
    }
    (0..LOCK_TRIES).find_map(|_| match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::thread::yield_now();
            None
        }
    })
}

fn mark() -> Option<&'static AtomicU32> {
    // SAFETY: null, or a page or a box that is never freed.
    unsafe { MARK.load(Ordering::Acquire).as_ref() }
}

/// Whether this process is a fork child that has not been noticed yet.
pub(crate) fn is_new_child() -> bool {
    mark().is_some_and(|mark| mark.load(Ordering::Relaxed) != MARKED)
}

/// The process's generation: it differs between a process and its fork children, however they were forked.
pub fn fork_generation() -> u32 {
    // Before anything is kept by generation, or a child could not be told.
    init();
    generation()
}

/// The process's generation. Notices a fork first.
pub(crate) fn generation() -> u32 {
    let Some(mark) = mark() else { return GENERATION.load(Ordering::Acquire) };
    match mark.compare_exchange(0, NOTICING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // The only thread that survives a fork is the one that forked; of those that the child
            // started since, the exchange lets one through.
            KEYS.store(std::ptr::null_mut(), Ordering::Release);
            crate::engine::forget_installed();
            GENERATION.fetch_add(1, Ordering::AcqRel);
            mark.store(MARKED, Ordering::Release);
        }
        // The others must not take the parent's generation for theirs meanwhile. The Acquire load pairs
        // with the store above.
        Err(NOTICING) => {
            while mark.load(Ordering::Acquire) == NOTICING {
                std::thread::yield_now();
            }
        }
        Err(_) => {}
    }
    GENERATION.load(Ordering::Acquire)
}

/// The keys of this generation, drawn at first use.
pub(crate) fn keys() -> &'static Keys {
    generation();
    // SAFETY: null, or a box that is never freed.
    if let Some(keys) = unsafe { KEYS.load(Ordering::Acquire).as_ref() } {
        return keys;
    }
    let new = Box::into_raw(Box::new(Keys { ids: IdKeys::random() }));
    match KEYS.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: a fresh box that is never freed from here on.
        Ok(_) => unsafe { &*new },
        Err(old) => {
            // SAFETY: nobody else has seen `new`.
            drop(unsafe { Box::from_raw(new) });
            // SAFETY: not null, and never freed.
            unsafe { &*old }
        }
    }
}
