//! Span contexts: who is whose child.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use spanring::{
    ContextGuard, SpanContext, SpanGuard, SpanId, TraceFlags, TraceId, TraceState, propagation,
};

use crate::error::{
    Error, Result, SPANRING_ERROR_ARGUMENT, SPANRING_ERROR_BUFFER, SPANRING_ERROR_HANDLE,
    SPANRING_ERROR_PROPAGATION, SPANRING_ERROR_SIZE, SPANRING_ERROR_THREAD, guarded, text,
};

/// What identifies a span to its children. Its memory is the caller's, what is in it the library's. Made by `spanring_context_current`,
/// `spanring_span_context`, `spanring_context_from_ids`, `spanring_context_extract` and `spanring_context_copy`; given back by
/// `spanring_context_release`, which one without tracestate does not need. May be moved in memory and used by any thread, by several at
/// once, too; two bytewise copies of one are one, to be released once. A call that fails leaves none in its output.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_context {
    /// The library's.
    pub opaque: [u64; 8],
}

/// A context in plain form.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct spanring_ids {
    /// `sizeof(spanring_ids)`.
    pub size: usize,
    /// In the order in which they are written; zero if there is no span.
    pub trace_id: [u8; 16],
    /// The same.
    pub span_id: [u8; 8],
    /// W3C trace flags: 1 is sampled, 2 is random.
    pub trace_flags: u8,
    /// 1 if it came from another process, else 0.
    pub is_remote: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A context that is current on a thread until `spanring_context_detach`. Its memory is the caller's and must not move.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_guard {
    /// The library's.
    pub opaque: [u64; 3],
}

/// Begins a context's memory.
const CONTEXT_TAG: u64 = 0x7370_616e_6374_7831;
/// Enters the tag of a guard.
const GUARD_TAG: u64 = 0x7370_616e_6775_6172;

const _: () = assert!(size_of::<SpanContext>() <= 7 * 8 && align_of::<SpanContext>() == 8);

impl spanring_context {
    pub(crate) fn new(context: SpanContext) -> Self {
        let mut raw = spanring_context { opaque: [0; 8] };
        raw.opaque[0] = CONTEXT_TAG;
        // SAFETY: seven words are enough for it, and aligned as it is (asserted above).
        unsafe { raw.opaque[1..].as_mut_ptr().cast::<SpanContext>().write(context) };
        raw
    }

    /// # Safety
    ///
    /// `context` is NULL or readable memory of that size.
    pub(crate) unsafe fn get<'a>(context: *const spanring_context) -> Result<&'a SpanContext> {
        // SAFETY: as promised to us.
        let Some(raw) = (unsafe { context.as_ref() }) else { return Err(Error::null("context")) };
        if raw.opaque[0] != CONTEXT_TAG {
            return Err(Error::new(
                SPANRING_ERROR_HANDLE,
                format_args!("context holds none: it was released, or never made"),
            ));
        }
        // SAFETY: the tag says that `new` wrote one.
        Ok(unsafe { &*raw.opaque[1..].as_ptr().cast::<SpanContext>() })
    }
}

/// Makes an output hold no context, so that what it held before is not used again if this call fails.
///
/// # Safety
///
/// `out` is NULL or writable.
unsafe fn empty(out: *mut spanring_context) {
    if !out.is_null() {
        // SAFETY: as promised to us.
        unsafe { (&raw mut (*out).opaque).cast::<u64>().write(0) };
    }
}

/// Writes an output.
///
/// # Safety
///
/// `out` is NULL or writable.
#[inline(always)]
pub(crate) unsafe fn put<T>(out: *mut T, value: T, what: &str) -> Result<()> {
    if out.is_null() {
        return Err(Error::null(what));
    }
    // SAFETY: as promised to us; what was there before is nothing that needs an end.
    unsafe { out.write(value) };
    Ok(())
}

/// Gives the context of the span that is current on this thread; an invalid one if there is none.
///
/// # Safety
///
/// `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_current(out: *mut spanring_context) -> i32 {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { put(out, spanring_context::new(SpanContext::current()), "out") })
}

/// Gives the same context once more, to be released by itself.
///
/// # Safety
///
/// `context` is readable, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_copy(
    context: *const spanring_context,
    out: *mut spanring_context,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let copy = unsafe { spanring_context::get(context) }.cloned();
        // SAFETY: the caller's promise. The input was read: it may be the same.
        unsafe { empty(out) };
        let copy = copy?;
        // SAFETY: the caller's promise.
        unsafe { put(out, spanring_context::new(copy), "out") }
    })
}

/// Gives back what a context holds; its memory holds none then. NULL does nothing.
///
/// # Safety
///
/// `context` is NULL or writable, and nobody else uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_release(context: *mut spanring_context) -> i32 {
    guarded(|| {
        if context.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { spanring_context::get(context) }?;
        // SAFETY: checked; the tag goes, so that it happens once.
        unsafe {
            (*context).opaque[0] = 0;
            (&raw mut (*context).opaque).cast::<u64>().add(1).cast::<SpanContext>().drop_in_place();
        }
        Ok(())
    })
}

/// Gives the IDs and flags of a context; all zero for an invalid one. `out->size` must be set before.
///
/// # Safety
///
/// `context` is readable, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_ids(
    context: *const spanring_context,
    out: *mut spanring_ids,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { spanring_context::get(context) }?;
        // SAFETY: the caller's promise.
        unsafe { check_ids(out) }?;
        let ids = spanring_ids {
            size: size_of::<spanring_ids>(),
            trace_id: context.trace_id().0.to_be_bytes(),
            span_id: context.span_id().0.to_be_bytes(),
            trace_flags: context.trace_flags().0,
            is_remote: context.is_remote().into(),
            reserved: [0; 6],
        };
        // SAFETY: checked.
        unsafe { put(out, ids, "out") }
    })
}

/// # Safety
///
/// `ids` is NULL or readable.
unsafe fn check_ids(ids: *const spanring_ids) -> Result<()> {
    if ids.is_null() {
        return Err(Error::null("ids"));
    }
    // SAFETY: as promised to us.
    let size = unsafe { (*ids).size };
    if size != size_of::<spanring_ids>() {
        return Err(Error::new(
            SPANRING_ERROR_SIZE,
            format_args!("size is {size}; set it to sizeof(spanring_ids)"),
        ));
    }
    Ok(())
}

/// The IDs that the caller gives a span, if any.
///
/// # Safety
///
/// `ids` is NULL or readable.
pub(crate) unsafe fn given_ids(ids: *const spanring_ids) -> Result<Option<(TraceId, SpanId)>> {
    if ids.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { check_ids(ids) }?;
    // SAFETY: checked.
    let ids = unsafe { &*ids };
    let trace_id = TraceId(u128::from_be_bytes(ids.trace_id));
    let span_id = SpanId(u64::from_be_bytes(ids.span_id));
    if !trace_id.is_valid() || !span_id.is_valid() {
        return Err(Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("an ID in ids is zero; give both, or NULL for new ones"),
        ));
    }
    Ok(Some((trace_id, span_id)))
}

/// Makes a context from IDs, with a tracestate (empty for none). With an ID of zero it is invalid: its children are roots.
///
/// # Safety
///
/// `ids` is readable, `trace_state` has `trace_state_len` bytes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_from_ids(
    ids: *const spanring_ids,
    trace_state: *const c_char,
    trace_state_len: usize,
    out: *mut spanring_context,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { empty(out) };
        // SAFETY: the caller's promise.
        unsafe { check_ids(ids) }?;
        // SAFETY: checked.
        let ids = unsafe { &*ids };
        // SAFETY: the caller's promise.
        let state = unsafe { text(trace_state, trace_state_len, "trace_state") }?;
        let state = TraceState::parse(state).map_err(propagation_error)?;
        let make = if ids.is_remote != 0 { SpanContext::remote } else { SpanContext::from_ids };
        let context = make(
            TraceId(u128::from_be_bytes(ids.trace_id)),
            SpanId(u64::from_be_bytes(ids.span_id)),
            TraceFlags(ids.trace_flags),
            state,
        );
        // SAFETY: the caller's promise.
        unsafe { put(out, spanring_context::new(context), "out") }
    })
}

fn propagation_error(error: propagation::PropagationError) -> Error {
    Error::new(SPANRING_ERROR_PROPAGATION, format_args!("{error}"))
}

/// Makes `context` current on this thread until the guard is detached: spans that start meanwhile are its children. The context may
/// be released at once.
///
/// # Safety
///
/// `context` is readable, `out` writable, and its memory stays where it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_attach(
    context: *const spanring_context,
    out: *mut spanring_guard,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { spanring_context::get(context) }?;
        if out.is_null() {
            return Err(Error::null("out"));
        }
        let raw = context.attach().__into_raw() as u64;
        let thread = SpanGuard::__thread();
        let tag = tag(GUARD_TAG, out as u64, raw);
        // SAFETY: the caller's promise.
        unsafe { put(out, spanring_guard { opaque: [tag, raw, thread] }, "out") }
    })
}

/// Ends what `spanring_context_attach` began: what was current before is so again. On the same thread, once; guards may be detached in any
/// order.
///
/// # Safety
///
/// `guard` is readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_detach(guard: *mut spanring_guard) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let Some(raw) = (unsafe { guard.as_mut() }) else { return Err(Error::null("guard")) };
        let [found, pointer, thread] = raw.opaque;
        if found == 0 || found != tag(GUARD_TAG, guard as u64, pointer) {
            return Err(Error::new(
                SPANRING_ERROR_HANDLE,
                format_args!("guard holds none: it was detached, was moved, or never attached"),
            ));
        }
        if thread != SpanGuard::__thread() {
            return Err(Error::new(
                SPANRING_ERROR_THREAD,
                format_args!("guard was attached on another thread; detach it there"),
            ));
        }
        raw.opaque = [0; 3];
        // SAFETY: the tag says that it came from `__into_raw`, on this thread, and it is taken back once.
        drop(unsafe { ContextGuard::__from_raw(pointer as *mut ()) });
        Ok(())
    })
}

/// What says that a struct was filled here, for that place in memory and that pointer. It finds mistakes; it is no secret.
#[inline(always)]
pub(crate) fn tag(kind: u64, place: u64, pointer: u64) -> u64 {
    (kind ^ place.rotate_left(17) ^ pointer.rotate_left(43)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes the context as W3C `traceparent` and `tracestate`, for a request to another process. Both are ended by a zero byte, which
/// the lengths leave out. With an invalid context, both are empty: send neither.
///
/// `traceparent` has 56 bytes. `trace_state_len` says how many bytes `trace_state` has, and afterwards how long it is; 513 are enough
/// for what spanring makes itself. If they are not, the code is `SPANRING_ERROR_BUFFER` and the length that is needed is written.
///
/// # Safety
///
/// `context` is readable, the outputs are writable with so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_inject(
    context: *const spanring_context,
    traceparent: *mut c_char,
    trace_state: *mut c_char,
    trace_state_len: *mut usize,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { spanring_context::get(context) }?;
        if traceparent.is_null() {
            return Err(Error::null("traceparent"));
        }
        let (mut parent, mut state) = (String::new(), "");
        if context.is_valid() {
            let flags = context.trace_flags();
            let ids = (context.trace_id(), context.span_id());
            parent = propagation::TraceParent::new(ids.0, ids.1, flags).to_string();
            state = context.trace_state().as_str();
        }
        // SAFETY: the caller's promise.
        unsafe { put_text(state, trace_state, trace_state_len, "trace_state") }?;
        // SAFETY: 55 bytes and the end.
        unsafe { put_bytes(parent.as_bytes(), traceparent) };
        Ok(())
    })
}

/// Writes `text` with a zero byte into a buffer of `*len` bytes, and its length.
///
/// # Safety
///
/// `len` is NULL or readable and writable, `out` NULL or writable for so many bytes.
pub(crate) unsafe fn put_text(
    text: &str,
    out: *mut c_char,
    len: *mut usize,
    what: &str,
) -> Result<()> {
    if len.is_null() {
        return Err(Error::null("the length"));
    }
    // SAFETY: as promised to us.
    let room = unsafe { *len };
    // SAFETY: as promised to us.
    unsafe { *len = text.len() };
    if room <= text.len() {
        let needed = text.len() + 1;
        return Err(Error::new(
            SPANRING_ERROR_BUFFER,
            format_args!("{what} has {room} bytes and needs {needed}"),
        ));
    }
    if out.is_null() {
        return Err(Error::null(what));
    }
    // SAFETY: there is room for it and the end.
    unsafe { put_bytes(text.as_bytes(), out) };
    Ok(())
}

/// # Safety
///
/// `out` has room for the bytes and a zero.
unsafe fn put_bytes(bytes: &[u8], out: *mut c_char) {
    let out = out.cast::<MaybeUninit<u8>>();
    // SAFETY: as promised to us.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len());
        out.add(bytes.len()).write(MaybeUninit::new(0));
    }
}

/// Reads a remote context from a request's `traceparent` and `tracestate` (empty if there is none). A tracestate that cannot be used is
/// left out, as W3C says; a traceparent that cannot be used is an error: start a root then.
///
/// # Safety
///
/// The texts have so many bytes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_context_extract(
    traceparent: *const c_char,
    traceparent_len: usize,
    trace_state: *const c_char,
    trace_state_len: usize,
    out: *mut spanring_context,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { empty(out) };
        // SAFETY: the caller's promise.
        let parent = unsafe { text(traceparent, traceparent_len, "traceparent") }?;
        let parent = propagation::TraceParent::parse(parent).map_err(propagation_error)?;
        // SAFETY: the caller's promise.
        let state =
            unsafe { crate::error::bytes(trace_state.cast(), trace_state_len, "trace_state") }?;
        let state = std::str::from_utf8(state).ok().and_then(|state| TraceState::parse(state).ok());
        let context = SpanContext::remote(
            parent.trace_id,
            parent.span_id,
            parent.flags,
            state.unwrap_or_default(),
        );
        // SAFETY: the caller's promise.
        unsafe { put(out, spanring_context::new(context), "out") }
    })
}
