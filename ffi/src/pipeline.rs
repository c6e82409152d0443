//! The process's pipeline, from start to shutdown, and in fork children.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spanring::export::FlushError;
use spanring::settings::{Settings, SettingsBuilder};
use spanring_exporter::{Pipeline, StartError, Unfinished, undisturbed};

use crate::error::{
    Error, Result, SPANRING_ERROR_ARGUMENT, SPANRING_ERROR_FORKED, SPANRING_ERROR_INTERNAL,
    SPANRING_ERROR_NOT_STARTED, SPANRING_ERROR_SHUT_DOWN, SPANRING_ERROR_START,
    SPANRING_ERROR_STARTED, SPANRING_ERROR_TIMED_OUT, guarded, last_text, text,
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
    settings: Settings,
    /// The fork generation that it was made in.
    generation: u32,
    /// It was shut down; it is kept for its counts.
    ended: bool,
}

type Guard = MutexGuard<'static, Option<Started>>;

static STARTED: Mutex<Option<Started>> = Mutex::new(None);
/// Whether a fork child has not yet looked for a pipeline of its own.
static IS_NEW_CHILD: AtomicBool = AtomicBool::new(false);
/// How many forks lie between the first process and this one, as far as there was a pipeline.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static HANDLES_FORKS: AtomicBool = AtomicBool::new(false);

/// The lock, held by the thread that forks while it does: no child finds it held by a thread that it has not.
struct Held(UnsafeCell<Option<Guard>>);

// SAFETY: written and read by whoever holds the lock, alone.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let guard = lock();
    // SAFETY: this thread has the lock.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread has had the lock since `before_fork`.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    IS_NEW_CHILD.store(true, Ordering::Release);
    in_parent();
}

/// Held for as long as a pipeline takes to start, at most.
fn lock() -> Guard {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// The pipeline, if it is this process's, and whether it was shut down.
pub(crate) fn running() -> Result<(Arc<Pipeline>, bool)> {
    match &*lock() {
        Some(started) if started.generation == generation() => {
            Ok((started.pipeline.clone(), started.ended))
        }
        Some(_) => Err(Error::new(
            SPANRING_ERROR_FORKED,
            format_args!("this fork child has no pipeline yet; its first span starts one"),
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
    // What went wrong is the last error, and said; the child goes on without tracing.
    undisturbed(revive).unwrap_or(false)
}

/// Starts a pipeline like the parent's, if that had one.
fn revive() -> Result<bool> {
    let mut started = lock();
    let Some(parents) = started.take_if(|started| started.generation != generation()) else {
        return Ok(started.is_some());
    };
    if parents.ended {
        std::mem::forget(parents);
        return Ok(false);
    }
    match start(parents.settings.clone()) {
        Ok(own) => {
            // The parent's goes on in the parent; here nothing of it may run.
            std::mem::forget(parents);
            *started = Some(own);
            Ok(true)
        }
        Err(error) => {
            *started = Some(parents);
            spanring_exporter::report(&format_args!(
                "this fork child records nothing: {}",
                last_text()
            ));
            Err(error)
        }
    }
}

fn start(settings: Settings) -> Result<Started> {
    match Pipeline::builder().settings(settings.clone()).install() {
        Ok(pipeline) => Ok(Started {
            pipeline: Arc::new(pipeline),
            settings,
            generation: generation(),
            ended: false,
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
/// A fork child whose parent had a pipeline gets one like it, with the same settings, with its first span; nothing is to be done for that. At process exit the
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
        undisturbed(|| {
            let settings = settings.build();
            if !HANDLES_FORKS.swap(true, Ordering::AcqRel) {
                let handlers = (Some(before_fork as _), Some(in_parent as _), Some(in_child as _));
                // SAFETY: functions of that type, in a library that is never unloaded.
                let refused = unsafe { libc::pthread_atfork(handlers.0, handlers.1, handlers.2) };
                if refused != 0 {
                    HANDLES_FORKS.store(false, Ordering::Release);
                    return Err(Error::new(
                        SPANRING_ERROR_INTERNAL,
                        format_args!("pthread_atfork has no memory (error {refused})"),
                    ));
                }
            }
            let mut started = lock();
            if let Some(parents) = started.take_if(|started| started.generation != generation()) {
                std::mem::forget(parents);
            }
            if started.as_ref().is_some_and(|started| !started.ended) {
                return Err(Error::new(
                    SPANRING_ERROR_STARTED,
                    format_args!("there is a pipeline; shut it down before you start another"),
                ));
            }
            *started = Some(start(settings)?);
            IS_NEW_CHILD.store(false, Ordering::Release);
            Ok(())
        })
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
    guarded(|| {
        let (pipeline, _) = running()?;
        let flushed = undisturbed(|| pipeline.flush(timeout(timeout_nano)));
        flushed.map_err(|error| unfinished(&error))
    })
}

/// Delivers what is there and ends the pipeline, within so many nanoseconds; what cannot be delivered by then is dropped and counted. Spans
/// that end later are counted as dropped. Blocks as `spanring_flush` does. Its counts can be asked for until another is started, which
/// is possible once this has answered `SPANRING_OK`; with `SPANRING_ERROR_TIMED_OUT` it goes on ending: call again.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_shutdown(timeout_nano: u64) -> i32 {
    guarded(|| {
        let (pipeline, _) = running()?;
        undisturbed(|| pipeline.shutdown(timeout(timeout_nano)))
            .map_err(|error| unfinished(&error))?;
        if let Some(started) = &mut *lock()
            && Arc::ptr_eq(&started.pipeline, &pipeline)
        {
            started.ended = true;
        }
        Ok(())
    })
}

/// Starts the pipeline of a fork child now instead of with its first span. Never needed; does nothing elsewhere. Answers why, if it cannot be
/// started; it may be called again.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_after_fork_child() -> i32 {
    guarded(|| {
        IS_NEW_CHILD.store(false, Ordering::Release);
        undisturbed(revive)?;
        running().map(drop)
    })
}
