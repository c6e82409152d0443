//! Process exit: pipelines that nobody shut down still deliver.
//!
//! One `atexit` handler shuts down what is left. It uses no thread-local with a destructor, and does
//! nothing in a fork child for the pipelines of its parent. `SIGTERM` does not cut it off: whoever sends it wants
//! what is happening. What it cannot see: `abort`, `_exit`, `SIGKILL` and signals that kill by default.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::Duration;

use crate::pipeline::Shared;

/// How long exit waits for a pipeline.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

static PIPELINES: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
/// Not a `Once`: in a fork child, one that a lost thread was running would never be done.
static REGISTERED: AtomicBool = AtomicBool::new(false);
/// How often exit looks again for the lock, which others hold for some hundred instructions. In a fork
/// child a lost thread may hold it for good.
const LOCK_TRIES: u32 = 1000;

/// Has `pipeline` shut down at process exit, unless it is gone by then.
pub(crate) fn register(pipeline: &Arc<Shared>) {
    if !REGISTERED.swap(true, Ordering::AcqRel) {
        // SAFETY: `at_exit` is a function of the right type that stays loaded as long as the program.
        unsafe { libc::atexit(at_exit) };
    }
    // Where the lock cannot be had, the pipeline has to be shut down by itself.
    if let Some(mut pipelines) = lock() {
        pipelines.retain(|pipeline| pipeline.strong_count() > 0);
        pipelines.push(Arc::downgrade(pipeline));
    }
}

/// The list, unless somebody holds it for longer than anybody does who still exists.
fn lock() -> Option<MutexGuard<'static, Vec<Weak<Shared>>>> {
    (0..LOCK_TRIES).find_map(|_| match PIPELINES.try_lock() {
        Ok(pipelines) => Some(pipelines),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::thread::yield_now();
            None
        }
    })
}

extern "C" fn at_exit() {
    let Some(pipelines) = lock().map(|mut pipelines| std::mem::take(&mut *pipelines)) else {
        return;
    };
    let _undisturbed = WithoutSigterm::new();
    for pipeline in pipelines.iter().filter_map(Weak::upgrade) {
        // A panic must not cross into C; there is nobody to tell.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = pipeline.shutdown(EXIT_TIMEOUT);
        }));
        // The flusher's own memory is not taken apart while the process goes.
        std::mem::forget(pipeline);
    }
}

/// Has the process ignore `SIGTERM`, if that would kill it, until this is dropped.
struct WithoutSigterm {
    was_default: bool,
}

impl WithoutSigterm {
    fn new() -> Self {
        let was_default = action() == Some(libc::SIG_DFL);
        if was_default {
            // SAFETY: SIG_IGN needs nothing of the process.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        }
        Self { was_default }
    }
}

impl Drop for WithoutSigterm {
    fn drop(&mut self) {
        // Somebody else's handler stays.
        if self.was_default && action() == Some(libc::SIG_IGN) {
            // SAFETY: as above.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) };
        }
    }
}

/// What `SIGTERM` does now.
fn action() -> Option<libc::sighandler_t> {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `found` is writable; nothing is set.
    let code = unsafe { libc::sigaction(libc::SIGTERM, std::ptr::null(), found.as_mut_ptr()) };
    // SAFETY: filled if the call worked, and zeros are a value of it, too.
    (code == 0).then(|| unsafe { found.assume_init() }.sa_sigaction)
}
