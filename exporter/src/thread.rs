//! Starts the flusher's thread, in a fork child too.
//!
//! Not with `std::thread`: what it starts first takes locks of the standard library's own, and in a fork
//! child one of them may be held for good by a thread of the parent that was being started or ending
//! when the process forked. `pthread_create` takes none but those that `fork` itself looks after.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

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
            // The new thread begins with this mask and keeps it: a signal for the process belongs to the host's threads,
            // and what a write raises (SIGPIPE, SIGXFSZ) is an error there and no end of the host.
            let before = block_signals();
            error = libc::pthread_create(thread.as_mut_ptr(), attributes, run, body.cast());
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
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

/// The clock of the calling thread's processor time, which other threads can read; `None` where there is none.
pub(crate) fn cpu_clock() -> Option<libc::clockid_t> {
    #[cfg(target_os = "linux")]
    {
        let mut clock = 0;
        // SAFETY: the calling thread lives, and `clock` is writable.
        let code = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (code == 0).then_some(clock)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// What a [`cpu_clock`] shows; `None` once its thread has ended.
pub(crate) fn cpu_time(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; a clock that is gone gives an error.
    let code = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (code == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Blocks all signals on this thread, but for those that say that it is broken; returns the mask before.
fn block_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are written before they are read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for fault in
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP]
        {
            libc::sigdelset(all.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

/// Makes a pending cancellation of the thread wait until `call` is over: it would unwind through frames that cannot take it. No
/// system call.
pub(crate) fn uncancelled<T>(call: impl FnOnce() -> T) -> T {
    /// As glibc and musl have it.
    const DISABLE: libc::c_int = 1;
    struct Restore(libc::c_int);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a state that there was, and nobody wants to know the present one.
            unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
        }
    }
    let mut before = 0;
    // SAFETY: the old state's place is writable.
    unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
    let _restore = Restore(before);
    call()
}

/// Signals that a write may raise.
const RAISED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

fn pending() -> [bool; 2] {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is written before it is read.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        RAISED.map(|signal| libc::sigismember(set.as_ptr(), signal) == 1)
    }
}

/// Calls what may write to a pipe that nobody reads, or beyond what a file may have: that raises no signal in the host, and a
/// pending cancellation of the thread waits.
#[doc(hidden)]
pub fn undisturbed<T>(call: impl FnOnce() -> T) -> T {
    struct Restore(libc::sigset_t, [bool; 2]);
    impl Drop for Restore {
        fn drop(&mut self) {
            let now = pending();
            for at in (0..2).filter(|&at| now[at] && !self.1[at]) {
                let mut one = MaybeUninit::<libc::sigset_t>::uninit();
                let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                // SAFETY: the set is written before it is read. What was not pending before is our own.
                unsafe {
                    libc::sigemptyset(one.as_mut_ptr());
                    libc::sigaddset(one.as_mut_ptr(), RAISED[at]);
                    libc::sigtimedwait(one.as_ptr(), std::ptr::null_mut(), &raw const at_once);
                }
            }
            // SAFETY: the mask that there was.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
            };
        }
    }
    uncancelled(|| {
        let before = pending();
        let mut raised = MaybeUninit::<libc::sigset_t>::uninit();
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are written before they are read.
        let mask = unsafe {
            libc::sigemptyset(raised.as_mut_ptr());
            for signal in RAISED {
                libc::sigaddset(raised.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, raised.as_ptr(), mask.as_mut_ptr());
            mask.assume_init()
        };
        let _restore = Restore(mask, before);
        call()
    })
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
