//! The process's pipeline, from start to shutdown, and in fork children.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use serde_json::json;
use spanring::export::{FlushError, fork_generation};
use spanring::settings::{Settings, SettingsBuilder};
use spanring_exporter::{Pipeline, StartError, Unfinished, undisturbed};

use crate::context::put_text;
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
/// The end of each span waits until the span is delivered, at most a second: for programs that end without warning.
pub const SPANRING_FLUSH_EACH_SPAN: u32 = 2;
/// As a timeout: as long as it takes.
pub const SPANRING_FOREVER: u64 = u64::MAX;

/// The setting that is none of docs/settings.md: a resource attribute that says what a host is written in.
const LANGUAGE: &str = "telemetry.sdk.language";

/// A setting by its name in docs/settings.md (`MAX_SPANS`), with the value that its environment variable would have. A package for another
/// language says which by the name `telemetry.sdk.language`, which is `c` otherwise.
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
    /// `SPANRING_IGNORE_ENVIRONMENT` and `SPANRING_FLUSH_EACH_SPAN`, together or not.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// How a pipeline is started.
#[derive(Clone)]
struct Plan {
    settings: Settings,
    /// `telemetry.sdk.language` of the resource.
    language: String,
    flushes_each_span: bool,
}

struct Started {
    pipeline: Arc<Pipeline>,
    plan: Plan,
    /// It was shut down; it is kept for its counts.
    ended: bool,
}

/// What a process has. A fork child gets its own, since its parent's may be locked by a thread that the child has not.
struct Process {
    generation: u32,
    /// How its parent's pipeline was started, if that had one.
    inherited: Option<Plan>,
    state: Mutex<State>,
}

struct State {
    started: Option<Started>,
    /// Whether a pipeline was looked for that is like the parent's.
    tried: bool,
}

type Guard = MutexGuard<'static, State>;

static FIRST: Process = Process::new(0, None);
/// Older ones are kept: threads of the process that they were made in may have them.
static PROCESS: AtomicPtr<Process> = AtomicPtr::new((&raw const FIRST).cast_mut());
static HANDLES_FORKS: AtomicBool = AtomicBool::new(false);
static FLUSHES_EACH_SPAN: AtomicBool = AtomicBool::new(false);
/// How long the end of a span waits then.
const SPAN_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a fork child tries the lock of its parent, which other threads of the child hold for an instant.
const LOCK_TRIES: u32 = 2000;

impl Process {
    const fn new(generation: u32, inherited: Option<Plan>) -> Self {
        Process { generation, inherited, state: Mutex::new(State { started: None, tried: false }) }
    }

    /// How a pipeline of a fork child is started; none, too, if a thread that the child has not has the lock.
    fn plan(&self) -> Option<Plan> {
        let state = (0..LOCK_TRIES).find_map(|_| match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                std::thread::yield_now();
                None
            }
        })?;
        match &state.started {
            Some(started) => (!started.ended).then(|| started.plan.clone()),
            None => self.inherited.clone(),
        }
    }

    /// Held for as long as a pipeline takes to start, at most.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This process's.
fn process() -> &'static Process {
    let generation = fork_generation();
    let mut known = PROCESS.load(Ordering::Acquire);
    loop {
        // SAFETY: the static, or a box that is never freed.
        let process = unsafe { &*known };
        if process.generation == generation {
            return process;
        }
        let new = Box::into_raw(Box::new(Process::new(generation, process.plan())));
        match PROCESS.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => known = new,
            Err(others) => {
                known = others;
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}

/// The lock, held by the thread that forks while it does: no child is forked while a pipeline starts.
struct Held(UnsafeCell<Option<Guard>>);

// SAFETY: written and read by whoever holds the lock, alone.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

extern "C" fn before_fork() {
    let guard = process().lock();
    // SAFETY: this thread has the lock.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn after_fork() {
    // SAFETY: this thread, or in a child the one that it is a copy of, has had the lock since `before_fork`.
    drop(unsafe { (*HELD.0.get()).take() });
}

/// The pipeline, if it is this process's, and whether it was shut down.
pub(crate) fn running() -> Result<(Arc<Pipeline>, bool)> {
    let process = process();
    match &process.lock().started {
        Some(started) => Ok((started.pipeline.clone(), started.ended)),
        None if process.inherited.is_some() => Err(Error::new(
            SPANRING_ERROR_FORKED,
            format_args!("this fork child has no pipeline yet; its first span starts one"),
        )),
        None => Err(Error::new(
            SPANRING_ERROR_NOT_STARTED,
            format_args!("there is no pipeline; call spanring_start first"),
        )),
    }
}

/// Called where a span found no pipeline: in a fork child whose parent had one, one is started, once. Whether the span may find one now,
/// which is said to each thread once.
#[cold]
#[inline(never)]
pub(crate) fn revive_in_fork_child() -> bool {
    thread_local!(static LOOKED: Cell<u32> = const { Cell::new(0) });
    let generation = fork_generation();
    if LOOKED.replace(generation) == generation {
        return false;
    }
    let process = process();
    let revived = undisturbed(|| {
        let mut state = process.lock();
        if !state.tried {
            revive(process, &mut state)?;
        }
        Ok::<_, Error>(state.started.as_ref().is_some_and(|started| !started.ended))
    });
    // What went wrong is the last error, and said; the child goes on without tracing.
    revived.unwrap_or(false)
}

/// Starts a pipeline like the parent's, if that had one and there is none.
fn revive(process: &Process, state: &mut State) -> Result<()> {
    state.tried = true;
    let (None, Some(plan)) = (&state.started, &process.inherited) else { return Ok(()) };
    let started = start(plan.clone()).inspect_err(|_| {
        spanring_exporter::report(&format_args!(
            "this fork child records nothing: {}",
            last_text()
        ));
    })?;
    state.started = Some(started);
    Ok(())
}

fn start(plan: Plan) -> Result<Started> {
    let builder = Pipeline::builder()
        .settings(plan.settings.clone())
        .resource_attribute(LANGUAGE, plan.language.clone());
    match builder.install() {
        Ok(pipeline) => {
            FLUSHES_EACH_SPAN.store(plan.flushes_each_span, Ordering::Relaxed);
            Ok(Started { pipeline: Arc::new(pipeline), plan, ended: false })
        }
        Err(error @ StartError::AlreadyInstalled) => {
            Err(Error::new(SPANRING_ERROR_STARTED, format_args!("{error}")))
        }
        Err(error) => Err(Error::new(SPANRING_ERROR_START, format_args!("{error}"))),
    }
}

/// Called after a span has ended.
#[inline(always)]
pub(crate) fn span_ended() {
    if FLUSHES_EACH_SPAN.load(Ordering::Relaxed) {
        flush_span();
    }
}

#[cold]
#[inline(never)]
fn flush_span() {
    let pipeline = process().lock().started.as_ref().map(|started| started.pipeline.clone());
    if let Some(pipeline) = pipeline {
        // What is not delivered by then is delivered later, as without this.
        _ = undisturbed(|| pipeline.flush(SPAN_TIMEOUT));
    }
}

/// Keeps whatever this code is part of from being unloaded: it has a thread, and handlers of forks and of the exit. The shared library is linked
/// so; a plugin with the static one need not be. (There the handler of the exit would run under the loader's lock, which the flusher takes for its
/// first thread-local.)
fn stay_loaded() {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: an address of ours, and room for the answer. The name is that of what is loaded already, so nothing else is.
    unsafe {
        if libc::dladdr(stay_loaded as *const c_void, found.as_mut_ptr()) != 0 {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
            if libc::dlopen(found.assume_init().dli_fname, flags).is_null() {
                // The program itself, which has no name there. The host need not hear of it.
                libc::dlerror();
            }
        }
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
        let (settings, language, flags) = unsafe { settings(options) }?;
        undisturbed(|| {
            let flushes_each_span = flags & SPANRING_FLUSH_EACH_SPAN != 0;
            let plan = Plan { settings: settings.build(), language, flushes_each_span };
            stay_loaded();
            if !HANDLES_FORKS.swap(true, Ordering::AcqRel) {
                let handlers =
                    (Some(before_fork as _), Some(after_fork as _), Some(after_fork as _));
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
            let mut state = process().lock();
            if state.started.as_ref().is_some_and(|started| !started.ended) {
                return Err(Error::new(
                    SPANRING_ERROR_STARTED,
                    format_args!("there is a pipeline; shut it down before you start another"),
                ));
            }
            state.started = Some(start(plan)?);
            Ok(())
        })
    })
}

/// # Safety
///
/// As for [`spanring_start`].
unsafe fn settings(options: *const spanring_options) -> Result<(SettingsBuilder, String, u32)> {
    let (mut builder, mut language) = (Settings::builder(), "c".to_owned());
    // SAFETY: the caller's promise.
    let Some(options) = (unsafe { options.as_ref() }) else { return Ok((builder, language, 0)) };
    check_size(options.size, size_of::<spanring_options>(), "spanring_options")?;
    if options.flags & !(SPANRING_IGNORE_ENVIRONMENT | SPANRING_FLUSH_EACH_SPAN) != 0 {
        return Err(Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("flags {:#x} are none that there are", options.flags),
        ));
    }
    if options.flags & SPANRING_IGNORE_ENVIRONMENT != 0 {
        builder = builder.ignore_environment();
    }
    // SAFETY: the caller's promise.
    for (name, value) in unsafe { pairs(options.settings, options.settings_len) }? {
        if name == LANGUAGE {
            language = value.to_owned();
            continue;
        }
        builder = builder
            .text(name, value)
            .map_err(|why| Error::new(SPANRING_ERROR_ARGUMENT, format_args!("{why}")))?;
    }
    Ok((builder, language, options.flags))
}

/// Names and values.
///
/// # Safety
///
/// `settings` has `len` settings, whose texts have so many bytes, and all that stays so while it is used.
unsafe fn pairs<'a>(
    settings: *const spanring_setting,
    len: usize,
) -> Result<Vec<(&'a str, &'a str)>> {
    if len > 0 && settings.is_null() {
        return Err(Error::null("settings"));
    }
    let pair = |index| {
        // SAFETY: as promised to us.
        let setting = unsafe { &*settings.add(index) };
        // SAFETY: as promised to us.
        let name = unsafe { text(setting.name, setting.name_len, "a setting's name") }?;
        // SAFETY: as promised to us.
        let value = unsafe { text(setting.value, setting.value_len, "a setting's value") }?;
        Ok((name, value))
    };
    (0..len).map(pair).collect()
}

/// Changes settings while the pipeline runs, all or, with an error, none; they are in force for the next span. Names and values are as in
/// `spanring_options`; an empty value takes back what was given here. They win over the environment, and over the file that `CONFIG` names
/// until that says something new. Only settings that docs/settings.md calls live can be changed. Fork children have them, too.
///
/// # Safety
///
/// `settings` has `settings_len` settings, whose texts have so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_settings_change(
    settings: *const spanring_setting,
    settings_len: usize,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let pairs = unsafe { pairs(settings, settings_len) }?;
        let (pipeline, _) = running()?;
        undisturbed(|| {
            pipeline
                .change_settings(pairs.iter().copied())
                .map_err(|why| Error::new(SPANRING_ERROR_ARGUMENT, format_args!("{why}")))?;
            if let Some(started) = &mut process().lock().started
                && Arc::ptr_eq(&started.pipeline, &pipeline)
            {
                // With what the file said, too, so that it is not later in a child.
                started.plan.settings = Settings::clone(&pipeline.settings());
            }
            Ok(())
        })
    })
}

/// Gives the settings in force as JSON, ended by a zero byte: for each its name, value (null for none), source, whether it is live, its default
/// and what it does. Secrets are not in it. `len` is as for `spanring_stats_json`.
///
/// # Safety
///
/// As for `spanring_stats_json`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_settings_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let (pipeline, _) = running()?;
        let rows = pipeline.settings().explain();
        let all: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "value": row.value,
                    "unit": row.unit,
                    "source": row.source.to_string(),
                    "live": row.live,
                    "default": row.default,
                    "allowed": row.allowed,
                    "description": row.description,
                })
            })
            .collect();
        // SAFETY: the caller's promise.
        unsafe { put_text(&serde_json::Value::from(all).to_string(), out, len, "out") }
    })
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
        if let Some(started) = &mut process().lock().started
            && Arc::ptr_eq(&started.pipeline, &pipeline)
        {
            started.ended = true;
        }
        Ok(())
    })
}

/// Spans that the calling thread begins are not made from now on, as if there were no pipeline, until `spanring_thread_resume`: to measure what
/// tracing costs, by running something with it and without. Other threads go on; twice is once. Not for switching tracing off: that is
/// the setting DISABLED.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_thread_pause() -> i32 {
    guarded(|| {
        spanring_exporter::set_thread_untraced(true);
        Ok(())
    })
}

/// Spans of the calling thread are made again. Without a pause it does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_thread_resume() -> i32 {
    guarded(|| {
        spanring_exporter::set_thread_untraced(false);
        Ok(())
    })
}

/// Starts the pipeline of a fork child now instead of with its first span. Never needed; does nothing elsewhere. Answers why, if it cannot be
/// started; it may be called again.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_after_fork_child() -> i32 {
    guarded(|| {
        let process = process();
        undisturbed(|| revive(process, &mut process.lock()))?;
        running().map(drop)
    })
}
