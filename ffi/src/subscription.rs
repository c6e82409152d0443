//! Finished spans for the host itself, taken on threads of its own.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use spanring::export::fork_generation;
use spanring_exporter::{Subscription, undisturbed};

use crate::context::{put, put_text};
use crate::error::{
    Error, Result, SPANRING_ERROR_EMPTY, SPANRING_ERROR_FORKED, SPANRING_ERROR_HANDLE,
    SPANRING_ERROR_INTERNAL, SPANRING_ERROR_SHUT_DOWN, guarded,
};
use crate::pipeline::running;

/// Those that are open, by their numbers, which are never used again.
static OPEN: Mutex<Table> = Mutex::new(Table { last: 0, open: Vec::new() });
/// How often the lock is tried, which others hold for an instant; in a fork child a lost thread may hold it for good.
const LOCK_TRIES: u32 = 100_000;

#[derive(Clone)]
struct Open {
    number: u64,
    /// Locked for as long as a thread waits in `spanring_subscription_next`.
    subscription: Arc<Mutex<Subscription>>,
    /// Its count, which nobody has to wait for.
    dropped: Arc<AtomicU64>,
}

struct Table {
    last: u32,
    open: Vec<Open>,
}

fn table() -> Result<MutexGuard<'static, Table>> {
    let table = (0..LOCK_TRIES).find_map(|_| match OPEN.try_lock() {
        Ok(table) => Some(table),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::thread::yield_now();
            None
        }
    });
    let why =
        format_args!("another thread was opening a subscription when this process was forked");
    table.ok_or_else(|| Error::new(SPANRING_ERROR_INTERNAL, why))
}

/// A fork child's numbers are not its parent's.
fn is_from_parent(subscription: u64) -> bool {
    subscription >> 32 != u64::from(fork_generation())
}

fn find(subscription: u64) -> Result<Open> {
    let none = || Error::new(SPANRING_ERROR_HANDLE, format_args!("there is no such subscription"));
    if subscription == 0 {
        return Err(none());
    }
    if is_from_parent(subscription) {
        let why = format_args!("this subscription belongs to the process's parent");
        return Err(Error::new(SPANRING_ERROR_FORKED, why));
    }
    let table = table()?;
    table.open.iter().find(|open| open.number == subscription).cloned().ok_or_else(none)
}

/// Opens a subscription: the host takes finished spans with `spanring_subscription_next`. About `spans_max` of them wait; of more, whole
/// batches are dropped and counted. `out` gets its number, which is never zero. It ends with `spanring_subscription_close`, and with the
/// pipeline.
///
/// # Safety
///
/// `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_subscription_open(spans_max: u64, out: *mut u64) -> i32 {
    guarded(|| {
        if out.is_null() {
            return Err(Error::null("out"));
        }
        let (pipeline, ended) = running()?;
        if ended {
            let why = format_args!("the pipeline was shut down");
            return Err(Error::new(SPANRING_ERROR_SHUT_DOWN, why));
        }
        let mut table = table()?;
        let opened = undisturbed(|| pipeline.subscribe(spans_max));
        table.last += 1;
        let number = u64::from(fork_generation()) << 32 | u64::from(table.last);
        let dropped = opened.dropped_count();
        let subscription = Arc::new(Mutex::new(opened));
        table.open.push(Open { number, subscription, dropped });
        // SAFETY: the caller's promise.
        unsafe { put(out, number, "out") }
    })
}

/// Gives the next finished span as a line of JSON, ended by a zero byte (docs/processors.md has its fields), and waits for one at most
/// `timeout` nanoseconds. The code is `SPANRING_ERROR_EMPTY` if none came, and `SPANRING_ERROR_SHUT_DOWN` if none will. `len` says how many
/// bytes `out` has, and afterwards how long the text is; with `SPANRING_ERROR_BUFFER`, how long it would be: the span is given again then.
/// One thread at a time is served.
///
/// # Safety
///
/// `out` is writable for `*len` bytes (NULL if that is 0), `len` readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_subscription_next(
    subscription: u64,
    timeout: u64,
    out: *mut c_char,
    len: *mut usize,
) -> i32 {
    guarded(|| {
        if len.is_null() {
            return Err(Error::null("len"));
        }
        let found = find(subscription)?;
        let mut found = found.subscription.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = found.peek_json(Duration::from_nanos(timeout)) else {
            return Err(match found.is_ended() {
                true => Error::new(
                    SPANRING_ERROR_SHUT_DOWN,
                    format_args!("the subscription has ended with its pipeline"),
                ),
                false => Error::new(SPANRING_ERROR_EMPTY, format_args!("no span came")),
            });
        };
        // SAFETY: the caller's promise.
        unsafe { put_text(&line, out, len, "out") }?;
        found.take();
        Ok(())
    })
}

/// Gives how many spans were dropped because nobody took those before them; at once, also while another thread waits for the next span.
///
/// # Safety
///
/// `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_subscription_dropped(subscription: u64, out: *mut u64) -> i32 {
    guarded(|| {
        let dropped = find(subscription)?.dropped.load(Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { put(out, dropped, "out") }
    })
}

/// Ends a subscription; what waits is given up. A thread that waits in `spanring_subscription_next` gets what comes, or its time is up.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_subscription_close(subscription: u64) -> i32 {
    guarded(|| {
        find(subscription)?;
        let mut table = table()?;
        let closed: Vec<_> =
            table.open.extract_if(.., |open| open.number == subscription).collect();
        drop(table);
        undisturbed(|| drop(closed));
        Ok(())
    })
}
