//! The process's pipeline, from start to shutdown, and in fork children.

use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use spanring::export::FlushError;
use spanring::settings::{Settings, SettingsBuilder};
use spanring_exporter::{Pipeline, StartError, Unfinished};

use crate::error::{
    Error, Result, SPANRING_ERROR_ARGUMENT, SPANRING_ERROR_FORKED, SPANRING_ERROR_INTERNAL,
    SPANRING_ERROR_NOT_STARTED, SPANRING_ERROR_SHUT_DOWN, SPANRING_ERROR_START,
    SPANRING_ERROR_STARTED, SPANRING_ERROR_TIMED_OUT, guarded, text,
};
use crate::span::check_size;

/// Version of this ABI: what is added leaves it, what breaks callers raises it.
pub const SPANRING_ABI_VERSION: u32 = 1;
/// No environment variable is read: settings come from `spanring_options` alone.
pub const SPANRING_IGNORE_ENVIRONMENT: u32 = 1;
/// As a timeout: as long as it takes.
pub const SPANRING_FOREVER: u64 = u64::MAX;

/// A setting by its name in docs/settings.md (`MAX_SPANS`), with the value that its environment variable would have.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_setting {
    /// The name.
    pub name: *const c_char,
    /// Its bytes.
    pub name_len: usize,
    /// The value.
    pub value: *const c_char,
    /// Its bytes.
    pub value_len: usize,
}

/// How the pipeline is configured. Nothing is kept of it after the call.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_options {
    /// `sizeof(spanring_options)`.
    pub size: usize,
    /// Settings from code; the environment overrides each of them. NULL for none.
    pub settings: *const spanring_setting,
    /// How many.
    pub settings_len: usize,
    /// 0 or `SPANRING_IGNORE_ENVIRONMENT`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// The pipeline of this process, and how to make one like it in a fork child.
struct Started {
    pipeline: Arc<Pipeline>,
    settings: Arc<SettingsBuilder>,
    /// The fork generation that it was made in.
    generation: u32,
}

static STARTED: Mutex<Option<Started>> = Mutex::new(None);
/// Whether a fork child has not yet looked for a pipeline of its own.
static IS_NEW_CHILD: AtomicBool = AtomicBool::new(false);
/// How many forks lie between the first process and this one, as far as there was a pipeline.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static HANDLES_FORKS: AtomicBool = AtomicBool::new(false);

/// Nobody holds the lock for longer than a start takes; a thread that a fork lost holds it for good.
const LOCK_TRIES: u32 = 5000;
const LOCK_WAIT: Duration = Duration::from_millis(1);

extern "C" fn in_child() {
    // Stores only: other threads of the parent may have held any lock.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    IS_NEW_CHILD.store(true, Ordering::Release);
}

fn lock() -> Result<MutexGuard<'static, Option<Started>>> {
    for _ in 0..LOCK_TRIES {
        match STARTED.try_lock() {
            Ok(started) => return Ok(started),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
        }
    }
    Err(Error::new(
        SPANRING_ERROR_FORKED,
        format_args!("another thread started or stopped the pipeline when this process was forked"),
    ))
}

/// The pipeline, if it is this process's.
pub(crate) fn running() -> Result<Arc<Pipeline>> {
    let started = lock()?;
    match &*started {
        Some(started) if started.generation == GENERATION.load(Ordering::Relaxed) => {
            Ok(started.pipeline.clone())
        }
        Some(_) => Err(Error::new(
            SPANRING_ERROR_FORKED,
            format_args!("this fork child has recorded no span yet, so it has no pipeline"),
        )),
        None => Err(Error::new(
            SPANRING_ERROR_NOT_STARTED,
            format_args!("there is no pipeline; call spanring_start first"),
        )),
    }
}

/// Called where a span found no pipeline: starts one in a fork child whose parent had one, once. Whether there is one now.
#[cold]
#[inline(never)]
pub(crate) fn revive_in_fork_child() -> bool {
    if !IS_NEW_CHILD.swap(false, Ordering::AcqRel) {
        return false;
    }
    let revive = || -> Result<bool> {
        let mut started = lock()?;
        let Some(parents) = started.take() else { return Ok(false) };
        let settings = parents.settings.clone();
        // The parent's goes on in the parent; here nothing of it may run.
        std::mem::forget(parents);
        *started = Some(start(settings)?);
        Ok(true)
    };
    // What went wrong is the last error; the child goes on without tracing.
    revive().unwrap_or(false)
}

fn start(settings: Arc<SettingsBuilder>) -> Result<Started> {
    let built: Settings = SettingsBuilder::clone(&settings).build();
    match Pipeline::builder().settings(built).install() {
        Ok(pipeline) => Ok(Started {
            pipeline: Arc::new(pipeline),
            settings,
            generation: GENERATION.load(Ordering::Relaxed),
        }),
        Err(error @ StartError::AlreadyInstalled) => {
            Err(Error::new(SPANRING_ERROR_STARTED, format_args!("{error}")))
        }
        Err(error) => Err(Error::new(SPANRING_ERROR_START, format_args!("{error}"))),
    }
}

/// The version of the ABI that the library has: compare it with `SPANRING_ABI_VERSION` of the header.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_abi_version() -> u32 {
    SPANRING_ABI_VERSION
}

/// The library's version, ended by a zero byte, for the process's life.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Starts the process's pipeline. `options` may be NULL: everything comes from the environment then. Its one thread starts with the first span.
///
/// A fork child whose parent had a pipeline gets one like it with its first span; nothing is to be done for that. At process exit the
/// pipeline is shut down by itself. A setting that cannot be used is an error if it comes from `options`, and reported on standard error
/// if it comes from the environment.
///
/// # Safety
///
/// `options` is NULL or readable, with everything that it points to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_start(options: *const spanring_options) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let settings = unsafe { settings(options) }?;
        if !HANDLES_FORKS.swap(true, Ordering::AcqRel) {
            // SAFETY: a function of that type, in a library that is never unloaded.
            let refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            if refused != 0 {
                HANDLES_FORKS.store(false, Ordering::Release);
                return Err(Error::new(
                    SPANRING_ERROR_INTERNAL,
                    format_args!("pthread_atfork has no memory (error {refused})"),
                ));
            }
        }
        let mut started = lock()?;
        if let Some(parents) =
            started.take_if(|started| started.generation != GENERATION.load(Ordering::Relaxed))
        {
            std::mem::forget(parents);
        }
        if started.is_some() {
            return Err(Error::new(
                SPANRING_ERROR_STARTED,
                format_args!("there is a pipeline; shut it down before you start another"),
            ));
        }
        *started = Some(start(Arc::new(settings))?);
        IS_NEW_CHILD.store(false, Ordering::Release);
        Ok(())
    })
}

/// # Safety
///
/// As for [`spanring_start`].
unsafe fn settings(options: *const spanring_options) -> Result<SettingsBuilder> {
    let mut builder = Settings::builder();
    // SAFETY: the caller's promise.
    let Some(options) = (unsafe { options.as_ref() }) else { return Ok(builder) };
    check_size(options.size, size_of::<spanring_options>(), "spanring_options")?;
    if options.flags & !SPANRING_IGNORE_ENVIRONMENT != 0 {
        return Err(Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("flags {:#x} are none that there are", options.flags),
        ));
    }
    if options.flags & SPANRING_IGNORE_ENVIRONMENT != 0 {
        builder = builder.ignore_environment();
    }
    if options.settings_len > 0 && options.settings.is_null() {
        return Err(Error::null("settings"));
    }
    for index in 0..options.settings_len {
        // SAFETY: the caller's promise.
        let setting = unsafe { &*options.settings.add(index) };
        // SAFETY: the caller's promise.
        let name = unsafe { text(setting.name, setting.name_len, "a setting's name") }?;
        // SAFETY: the caller's promise.
        let value = unsafe { text(setting.value, setting.value_len, "a setting's value") }?;
        builder = builder
            .text(name, value)
            .map_err(|why| Error::new(SPANRING_ERROR_ARGUMENT, format_args!("{why}")))?;
    }
    Ok(builder)
}

fn timeout(nanos: u64) -> Duration {
    match nanos {
        SPANRING_FOREVER => Duration::MAX,
        nanos => Duration::from_nanos(nanos),
    }
}

fn unfinished(error: &Unfinished) -> Error {
    let code = match error.reason {
        FlushError::TimedOut => SPANRING_ERROR_TIMED_OUT,
        FlushError::ShutDown => SPANRING_ERROR_SHUT_DOWN,
        FlushError::Forked => SPANRING_ERROR_FORKED,
        _ => SPANRING_ERROR_INTERNAL,
    };
    Error::new(code, format_args!("{error}"))
}

/// Waits until everything recorded before is delivered or given up, at most so many nanoseconds. Blocks: a host with a lock of its own
/// around its code (as Python and Ruby have) gives it back meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_flush(timeout_nano: u64) -> i32 {
    guarded(|| running()?.flush(timeout(timeout_nano)).map_err(|error| unfinished(&error)))
}

/// Delivers what is there and ends the pipeline, within so many nanoseconds; what cannot be delivered by then is dropped and counted. Spans
/// that end later are counted as dropped. Blocks as `spanring_flush` does. Afterwards another pipeline may be started.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_shutdown(timeout_nano: u64) -> i32 {
    guarded(|| {
        let pipeline = running()?;
        let ended = pipeline.shutdown(timeout(timeout_nano)).map_err(|error| unfinished(&error));
        if !matches!(ended, Err(Error(SPANRING_ERROR_TIMED_OUT))) {
            lock()?.take_if(|started| Arc::ptr_eq(&started.pipeline, &pipeline));
        }
        ended
    })
}

/// Starts the pipeline of a fork child now instead of with its first span. Never needed; does nothing elsewhere.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_after_fork_child() -> i32 {
    guarded(|| {
        if !IS_NEW_CHILD.load(Ordering::Acquire) || revive_in_fork_child() {
            return Ok(());
        }
        match &*lock()? {
            Some(_) => Ok(()),
            None => Err(Error(SPANRING_ERROR_NOT_STARTED)),
        }
    })
}
