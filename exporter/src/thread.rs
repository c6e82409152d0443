//! Starts the flusher's thread, in a fork child too.
//!
//! Not with `std::thread`: what it starts first takes locks of the standard library's own, and in a fork
//! child one of them may be held for good by a thread of the parent that was being started or ending
//! when the process forked. `pthread_create` takes none but those that `fork` itself looks after.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// As much as the standard library gives.
const STACK_BYTES: usize = 2 << 20;

type Body = Box<dyn FnOnce() + Send>;

/// Runs `body` on a thread of its own that nobody waits for.
///
/// # Errors
///
/// What the operating system says; `body` is dropped then.
pub(crate) fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Twice boxed: a pointer to a closure of any type takes two words.
    let body: *mut Body = Box::into_raw(Box::new(Box::new(body)));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are initialised before they are used, and destroyed afterwards; `run` takes
    // the body over if the thread is made.
    let error = unsafe {
        let mut error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error == 0 {
            let attributes = attributes.as_mut_ptr();
            libc::pthread_attr_setstacksize(attributes, STACK_BYTES);
            libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED);
            error = libc::pthread_create(thread.as_mut_ptr(), attributes, run, body.cast());
            libc::pthread_attr_destroy(attributes);
        }
        error
    };
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was made, so the body is still ours.
    drop(unsafe { Box::from_raw(body) });
    Err(io::Error::from_raw_os_error(error))
}

extern "C" fn run(body: *mut c_void) -> *mut c_void {
    #[cfg(target_os = "linux")]
    // SAFETY: a name of less than 16 bytes, for the calling thread.
    unsafe {
        libc::pthread_setname_np(libc::pthread_self(), c"spanring".as_ptr());
    }
    // SAFETY: `spawn` made it, and gives it to this thread alone.
    let body = unsafe { Box::from_raw(body.cast::<Body>()) };
    // A panic must not cross into C; the flusher has told of it.
    let _ = catch_unwind(AssertUnwindSafe(body));
    std::ptr::null_mut()
}
