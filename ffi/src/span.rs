//! Spans.

use std::ffi::c_char;

use spanring::{
    Attributes, Detail, Interned, Key, Level, Span, SpanContext, SpanGuard, SpanKind, StatusCode,
    Tracer, WallTime,
};

use crate::context::{given_ids, put, spanring_context, spanring_ids, tag};
use crate::error::{
    Error, Result, SPANRING_ERROR_ARGUMENT, SPANRING_ERROR_FULL, SPANRING_ERROR_HANDLE,
    SPANRING_ERROR_SIZE, SPANRING_ERROR_THREAD, bytes, guarded, text,
};
use crate::packed::{New, Packed, Reader, set_first};
use crate::pipeline;

/// A span under way. Its memory is the caller's and must not move; what is in it is the library's. One that is never ended is never
/// recorded.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_span {
    /// The library's.
    pub opaque: [u64; 3],
}

/// How a span starts. All zero but `size` is the default: a child of the thread's current span (a root if there is none), internal,
/// started now, and current itself until it ends.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_span_options {
    /// `sizeof(spanring_span_options)`.
    pub size: usize,
    /// The parent, NULL for the thread's current span. An invalid context makes it a root.
    pub parent: *const spanring_context,
    /// Nanoseconds since the Unix epoch; 0 for now.
    pub start_unix_nano: u64,
    /// From `spanring_tracer_create`; 0 for none.
    pub tracer: u32,
    /// One of `SPANRING_KIND_...`; 0 for internal.
    pub kind: u32,
    /// `SPANRING_SPAN_...` together.
    pub flags: u32,
    /// One of `SPANRING_LEVEL_...`; 0 for what the settings say.
    pub level: u32,
    /// Packed attributes, or NULL. With an error in them no span starts.
    pub attributes: *const u8,
    /// Their bytes.
    pub attributes_len: usize,
    /// IDs that another tracer or a recording gave the span; NULL for new ones. The trace ID takes the place of the parent's, and the sampler
    /// is asked in any case. Flags are not read. That no other span has them is up to the caller.
    pub ids: *const spanring_ids,
}

/// It has no parent, whatever is current.
pub const SPANRING_SPAN_ROOT: u32 = 1;
/// It is not current, so that it may end on another thread.
pub const SPANRING_SPAN_DETACHED: u32 = 2;
/// It is about details: where the settings do not want them, it is as if it were not there.
pub const SPANRING_SPAN_DETAILED: u32 = 4;

/// It is as if it were not there: its children are its parent's.
pub const SPANRING_LEVEL_NONE: u32 = 1;
/// It is kept if it has no parent in this process, or ends with an error.
pub const SPANRING_LEVEL_MINIMAL: u32 = 2;
/// It is kept if it is probably worth it, and of the others a share.
pub const SPANRING_LEVEL_SMART: u32 = 3;
/// It is kept if it is sampled.
pub const SPANRING_LEVEL_FULL: u32 = 4;

/// An operation inside a program.
pub const SPANRING_KIND_INTERNAL: u32 = 1;
/// A request that is answered.
pub const SPANRING_KIND_SERVER: u32 = 2;
/// A request that is made.
pub const SPANRING_KIND_CLIENT: u32 = 3;
/// A message that is sent.
pub const SPANRING_KIND_PRODUCER: u32 = 4;
/// A message that is handled.
pub const SPANRING_KIND_CONSUMER: u32 = 5;

/// Nothing is said.
pub const SPANRING_STATUS_UNSET: u32 = 0;
/// It went well.
pub const SPANRING_STATUS_OK: u32 = 1;
/// It failed.
pub const SPANRING_STATUS_ERROR: u32 = 2;

/// Enters the tag of a span.
const SPAN_TAG: u64 = 0x7370_616e_7370_616e;

/// The interned string of a number.
#[inline(always)]
pub(crate) fn interned(number: u32) -> Result<Interned> {
    Interned::from_number(number).ok_or_else(|| unknown(number))
}

#[cold]
fn unknown(number: u32) -> Error {
    Error::new(
        SPANRING_ERROR_ARGUMENT,
        format_args!("{number} is no number that spanring_intern gave"),
    )
}

pub(crate) fn kind(number: u32) -> Result<SpanKind> {
    let kind = u8::try_from(number).ok().and_then(SpanKind::from_number);
    match kind {
        Some(SpanKind::Unspecified) => Ok(SpanKind::Internal),
        Some(kind) => Ok(kind),
        None => Err(Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("kind {number} is none; use one of SPANRING_KIND_..."),
        )),
    }
}

pub(crate) fn level(number: u32) -> Result<Option<Level>> {
    if number == 0 {
        return Ok(None);
    }
    let level = Level::ALL.get(number as usize - 1);
    level.copied().map(Some).ok_or_else(|| {
        Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("level {number} is none; use one of SPANRING_LEVEL_..., or 0"),
        )
    })
}

pub(crate) fn detail(flags: u32) -> Detail {
    if flags & SPANRING_SPAN_DETAILED != 0 { Detail::Detailed } else { Detail::Basic }
}

pub(crate) fn status(number: u32) -> Result<StatusCode> {
    u8::try_from(number).ok().and_then(StatusCode::from_number).ok_or_else(|| {
        Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("status {number} is none; use one of SPANRING_STATUS_..."),
        )
    })
}

pub(crate) fn tracer(number: u32) -> Result<Option<Tracer>> {
    if number == 0 {
        return Ok(None);
    }
    let tracer = u16::try_from(number).ok().and_then(Tracer::from_number);
    tracer.map(Some).ok_or_else(|| {
        Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("{number} is no tracer that spanring_tracer_create gave"),
        )
    })
}

pub(crate) fn check_size(found: usize, known: usize, name: &str) -> Result<()> {
    if found == known {
        return Ok(());
    }
    Err(Error::new(
        SPANRING_ERROR_SIZE,
        format_args!(
            "size is {found}, and {name} has {known} bytes here; set it to sizeof({name})"
        ),
    ))
}

/// Keeps a name or a key for the life of the process and gives its number, with which spans are cheaper. The same text has the same
/// number. At most 256 bytes; some sixteen thousand texts are kept, beyond them the code is `SPANRING_ERROR_FULL`: give them as text. A fork
/// child gets that too for what its parent had not interned, if another thread was interning when it was forked.
///
/// # Safety
///
/// `data` has `len` bytes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_intern(data: *const c_char, len: usize, out: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let text = unsafe { text(data, len, "data") }?;
        let Some(interned) = Interned::new(text) else {
            return Err(Error::new(
                SPANRING_ERROR_FULL,
                format_args!(
                    "the string is longer than 256 bytes, or the table is full, or lost in a fork child; \
                     give it as text"
                ),
            ));
        };
        // SAFETY: the caller's promise.
        unsafe { put(out, interned.get(), "out") }
    })
}

/// Registers an instrumentation scope and gives its number, for the process's life. The same name and version have the same number.
///
/// # Safety
///
/// The texts have so many bytes, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_tracer_create(
    name: *const c_char,
    name_len: usize,
    version: *const c_char,
    version_len: usize,
    out: *mut u32,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { text(name, name_len, "name") }?;
        // SAFETY: the caller's promise.
        let version = unsafe { text(version, version_len, "version") }?;
        // SAFETY: the caller's promise.
        unsafe { put(out, Tracer::named(name, version).number().into(), "out") }
    })
}

/// Whether rules of sampling look at attributes: 1, else 0. While it is 0, and no level is smart, it does not matter whether attributes are
/// given in `spanring_span_options` or set after the start.
#[unsafe(no_mangle)]
pub extern "C" fn spanring_attributes_matter() -> i32 {
    spanring::export::Engine::attributes_matter().into()
}

/// Starts a span whose name is a number of `spanring_intern`. `options` may be NULL.
///
/// Without a pipeline, and for spans that are not sampled, it works the same and records nothing.
///
/// # Safety
///
/// `options` is NULL or readable, as is what it points to, `out` writable, and its memory stays where it is until the span has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_start(
    name: u32,
    options: *const spanring_span_options,
    out: *mut spanring_span,
) -> i32 {
    guarded(|| {
        let name = interned(name)?;
        // SAFETY: the caller's promise.
        if !out.is_null() && unsafe { options.as_ref() }.is_none_or(is_usual) {
            // As most spans of programs in C start.
            // SAFETY: the caller's promise.
            let packed = unsafe { packed(options.as_ref()) }?;
            let guard = SpanGuard::__start_numbered(name, SpanKind::Internal, Packed(packed));
            if guard.__is_some() {
                let raw = guard.__into_raw();
                // SAFETY: of the guard.
                unsafe { set_at_start(raw, packed, false) }?;
                // SAFETY: the caller's promise, and not NULL.
                unsafe { write(out, raw, SpanGuard::__thread()) };
                return Ok(());
            }
        }
        // SAFETY: the caller's promise.
        unsafe { start(Key::Interned(name), options, out) }
    })
}

/// Starts a span whose name is a text. `options` may be NULL.
///
/// # Safety
///
/// As for `spanring_span_start`, and `name` has `name_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_start_named(
    name: *const c_char,
    name_len: usize,
    options: *const spanring_span_options,
    out: *mut spanring_span,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let name = Key::Str(unsafe { text(name, name_len, "name") }?);
        // SAFETY: the caller's promise.
        unsafe { start(name, options, out) }
    })
}

/// # Safety
///
/// As for [`spanring_span_start`].
#[inline(always)]
unsafe fn start(
    name: Key<'_>,
    options: *const spanring_span_options,
    out: *mut spanring_span,
) -> Result<()> {
    if out.is_null() {
        return Err(Error::null("out"));
    }
    // SAFETY: the caller's promise.
    let options = unsafe { options.as_ref() };
    // SAFETY: the caller's promise.
    let packed = unsafe { packed(options) }?;
    let (mut span, detached) = match options {
        None => (Span::builder(name).start(), false),
        // SAFETY: the caller's promise.
        Some(options) => unsafe { build(name, options, packed) }?,
    };
    if !span.__is_some()
        // SAFETY: the caller's promise.
        && let Some(second) = unsafe { start_in_fork_child(name, options, packed) }?
    {
        span = second;
    }
    let (raw, thread) = match detached {
        true => (span.__into_raw(), 0),
        false => (span.enter().__into_raw(), SpanGuard::__thread()),
    };
    // SAFETY: of the span, or its guard.
    unsafe { set_at_start(raw, packed, detached) }?;
    // SAFETY: the caller's promise, and not NULL.
    unsafe { write(out, raw, thread) };
    Ok(())
}

/// Whether nothing but attributes is asked for.
#[inline(always)]
fn is_usual(options: &spanring_span_options) -> bool {
    let numbers = options.start_unix_nano
        | u64::from(options.tracer | options.kind | options.flags | options.level);
    options.size == size_of::<spanring_span_options>()
        && numbers == 0
        && options.parent.is_null()
        && options.ids.is_null()
}

/// The attributes of the options.
///
/// # Safety
///
/// The options' attributes have so many bytes.
#[inline(always)]
unsafe fn packed(options: Option<&spanring_span_options>) -> Result<&[u8]> {
    let Some(options) = options else { return Ok(&[]) };
    check_size(options.size, size_of::<spanring_span_options>(), "spanring_span_options")?;
    // SAFETY: as promised to us.
    unsafe { bytes(options.attributes, options.attributes_len, "attributes") }
}

/// Sets the first attributes of a span; with an error in them it was never there.
///
/// # Safety
///
/// `raw` is of a span's `__into_raw` or, if it is not `detached`, of a guard's.
#[inline(always)]
unsafe fn set_at_start(raw: *mut (), packed: &[u8], detached: bool) -> Result<()> {
    if packed.is_empty() {
        return Ok(());
    }
    // SAFETY: as promised to us; the guard of one that is current has the same pointer, and it is not ended here.
    let mut span = std::mem::ManuallyDrop::new(unsafe { Span::__from_raw(raw) });
    if set_first(&mut span, packed) {
        return Ok(());
    }
    set_any(&mut span, packed).inspect_err(|_| match detached {
        // SAFETY: as promised to us, and it is used no more.
        true => unsafe { Span::__from_raw(raw) }.__discard(),
        // SAFETY: likewise.
        false => unsafe { SpanGuard::__from_raw(raw) }.__discard(),
    })
}

/// # Safety
///
/// `out` is writable.
#[inline(always)]
unsafe fn write(out: *mut spanring_span, raw: *mut (), thread: u64) {
    let raw = raw as u64;
    // SAFETY: as promised to us.
    unsafe { out.write(spanring_span { opaque: [tag(SPAN_TAG, out as u64, raw), raw, thread] }) };
}

/// Starts the span once more, if there was no pipeline and now there is one.
///
/// # Safety
///
/// As for [`build`].
#[cold]
#[inline(never)]
unsafe fn start_in_fork_child(
    name: Key<'_>,
    options: Option<&spanring_span_options>,
    packed: &[u8],
) -> Result<Option<Span>> {
    if !pipeline::revive_in_fork_child() {
        return Ok(None);
    }
    Ok(Some(match options {
        None => Span::builder(name).start(),
        // SAFETY: as promised to us.
        Some(options) => unsafe { build(name, options, packed) }?.0,
    }))
}

/// # Safety
///
/// The options' parent and IDs are NULL or readable.
#[inline(always)]
unsafe fn build(
    name: Key<'_>,
    options: &spanring_span_options,
    packed: &[u8],
) -> Result<(Span, bool)> {
    let known = SPANRING_SPAN_ROOT | SPANRING_SPAN_DETACHED | SPANRING_SPAN_DETAILED;
    if options.flags & !known != 0 {
        return Err(Error::new(
            SPANRING_ERROR_ARGUMENT,
            format_args!("flags {:#x} are not all SPANRING_SPAN_...", options.flags),
        ));
    }
    let kind = kind(options.kind)?;
    let detached = options.flags & SPANRING_SPAN_DETACHED != 0;
    let numbers = options.tracer | options.level | options.flags & SPANRING_SPAN_DETAILED;
    if numbers == 0 && options.start_unix_nano == 0 && options.ids.is_null() {
        // As hosts with contexts of their own start every span.
        if options.flags & SPANRING_SPAN_ROOT != 0 {
            return Ok((
                Span::__under(name, &SpanContext::default(), kind, &Packed(packed)),
                detached,
            ));
        }
        if !options.parent.is_null() {
            // SAFETY: as promised to us.
            let parent = unsafe { spanring_context::get(options.parent) }?;
            return Ok((Span::__under(name, parent, kind, &Packed(packed)), detached));
        }
    }
    // SAFETY: as promised to us.
    Ok((unsafe { build_any(name, options, kind, packed) }?, detached))
}

/// # Safety
///
/// As for [`build`].
#[inline(never)]
unsafe fn build_any(
    name: Key<'_>,
    options: &spanring_span_options,
    kind: SpanKind,
    packed: &[u8],
) -> Result<Span> {
    let mut builder = Span::builder(name).kind(kind).detail(detail(options.flags));
    if let Some(level) = level(options.level)? {
        builder = builder.level(level);
    }
    if let Some(tracer) = tracer(options.tracer)? {
        builder = builder.tracer(&tracer);
    }
    if options.start_unix_nano != 0 {
        builder = builder.start_time(WallTime(options.start_unix_nano));
    }
    if options.flags & SPANRING_SPAN_ROOT != 0 {
        builder = builder.root();
    } else if !options.parent.is_null() {
        // SAFETY: as promised to us.
        builder = builder.parent(unsafe { spanring_context::get(options.parent) }?);
    }
    // SAFETY: as promised to us.
    if let Some((trace_id, span_id)) = unsafe { given_ids(options.ids) }? {
        builder = builder.ids(trace_id, span_id);
    }
    Ok(builder.__seen(Packed(packed)).start())
}

/// The pointer in a span's memory, if there is a span.
///
/// # Safety
///
/// `span` is NULL or readable.
#[inline(always)]
unsafe fn pointer(span: *const spanring_span) -> Result<(*mut (), u64)> {
    // SAFETY: as promised to us.
    let Some(&spanring_span { opaque: [found, raw, thread] }) = (unsafe { span.as_ref() }) else {
        return Err(Error::null("span"));
    };
    if found != tag(SPAN_TAG, span as u64, raw) || found == 0 {
        return Err(no_span());
    }
    if thread != 0 && thread != SpanGuard::__thread() {
        return Err(other_thread());
    }
    Ok((raw as *mut (), thread))
}

#[cold]
fn no_span() -> Error {
    Error::new(
        SPANRING_ERROR_HANDLE,
        format_args!("span holds none: it has ended, was moved in memory, or never started"),
    )
}

#[cold]
fn other_thread() -> Error {
    Error::new(
        SPANRING_ERROR_THREAD,
        format_args!(
            "span is current on another thread; use it there, or start it with SPANRING_SPAN_DETACHED"
        ),
    )
}

/// Calls `with` for a span that goes on.
///
/// # Safety
///
/// `span` is NULL or readable, and no other thread uses it meanwhile.
#[inline(always)]
unsafe fn on(span: *const spanring_span, with: impl FnOnce(&mut Span) -> Result<()>) -> i32 {
    guarded(|| {
        // SAFETY: as promised to us.
        let (raw, _) = unsafe { pointer(span) }?;
        // SAFETY: the tag says that it came from `__into_raw`; the guard of one that is current has the same pointer, and it is
        // not ended here, whatever `with` does.
        let mut span = std::mem::ManuallyDrop::new(unsafe { Span::__from_raw(raw) });
        with(&mut span)
    })
}

/// Ends a span now. Its memory holds none then. What was current before it is so again.
///
/// # Safety
///
/// `span` is readable and writable, and no other thread uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_end(span: *mut spanring_span) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { end(span, 0) }
}

/// Ends a span at a time in nanoseconds since the Unix epoch; 0 is now. A time before its start becomes its start.
///
/// # Safety
///
/// As for `spanring_span_end`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_end_at(span: *mut spanring_span, end_unix_nano: u64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { end(span, end_unix_nano) }
}

/// # Safety
///
/// As for [`spanring_span_end`].
#[inline(always)]
unsafe fn end(span: *mut spanring_span, at: u64) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (raw, thread) = unsafe { pointer(span) }?;
        // SAFETY: it was readable; the tag goes first, so that the pointer is taken back once.
        unsafe { (*span).opaque = [0; 3] };
        match (thread != 0, at) {
            // SAFETY: the tag said that it came from `__into_raw` of a guard, on this thread.
            (true, 0) => unsafe { SpanGuard::__from_raw(raw) }.__end(),
            // SAFETY: as above.
            (true, at) => unsafe { SpanGuard::__from_raw(raw) }.end_at(WallTime(at)),
            // SAFETY: likewise, of a span.
            (false, 0) => drop(unsafe { Span::__from_raw(raw) }),
            // SAFETY: as above.
            (false, at) => unsafe { Span::__from_raw(raw) }.end_at(WallTime(at)),
        }
        pipeline::span_ended();
        Ok(())
    })
}

/// Whether what is set on a span is recorded: 1, else 0. To find out before a value is computed.
///
/// # Safety
///
/// `span` is readable, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_is_recording(
    span: *const spanring_span,
    out: *mut i32,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| put(out, span.is_recording().into(), "out")) }
}

/// Gives a span's context, for children elsewhere. Release it.
///
/// # Safety
///
/// `span` is readable, `out` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_context(
    span: *const spanring_span,
    out: *mut spanring_context,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| put(out, spanring_context::new(span.context()), "out")) }
}

/// Sets an attribute to a text. The key is a number of `spanring_intern`. The last value of a key counts.
///
/// # Safety
///
/// `span` is readable and no other thread uses it meanwhile, `value` has `value_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_string(
    span: *mut spanring_span,
    key: u32,
    value: *const c_char,
    value_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            span.set_attribute(interned(key)?, text(value, value_len, "value")?);
            Ok(())
        })
    }
}

/// Sets an attribute to an integer.
///
/// # Safety
///
/// `span` is readable and no other thread uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_int(
    span: *mut spanring_span,
    key: u32,
    value: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| interned(key).map(|key| _ = span.set_attribute(key, value))) }
}

/// Sets an attribute to a floating-point number.
///
/// # Safety
///
/// As for `spanring_span_set_int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_double(
    span: *mut spanring_span,
    key: u32,
    value: f64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| interned(key).map(|key| _ = span.set_attribute(key, value))) }
}

/// Sets an attribute to true (not 0) or false.
///
/// # Safety
///
/// As for `spanring_span_set_int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_bool(
    span: *mut spanring_span,
    key: u32,
    value: i32,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| interned(key).map(|key| _ = span.set_attribute(key, value != 0))) }
}

/// Sets packed attributes, all or, with an error, none.
///
/// # Safety
///
/// As for `spanring_span_set_int`, and `packed` has `packed_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_attributes(
    span: *mut spanring_span,
    packed: *const u8,
    packed_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(span, |span| set(span, bytes(packed, packed_len, "packed")?)) }
}

#[inline(always)]
pub(crate) fn set(span: &mut Span, packed: &[u8]) -> Result<()> {
    if set_first(span, packed) { Ok(()) } else { set_any(span, packed) }
}

/// All packed attributes that there can be, and all errors.
#[inline(never)]
pub(crate) fn set_any(span: &mut Span, packed: &[u8]) -> Result<()> {
    let attributes = Reader::new(packed)?;
    if attributes.are_distinct() && span.__has_nothing() {
        attributes.give(&mut New(span));
    } else {
        attributes.give(span);
    }
    Ok(())
}

/// Adds an event at a time in nanoseconds since the Unix epoch, 0 for now, with packed attributes.
///
/// # Safety
///
/// As for `spanring_span_set_int`, and the texts have so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_add_event(
    span: *mut spanring_span,
    name: *const c_char,
    name_len: usize,
    time_unix_nano: u64,
    packed: *const u8,
    packed_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            let name = text(name, name_len, "name")?;
            let attributes = Reader::new(bytes(packed, packed_len, "packed")?)?;
            let fill = |to: &mut Attributes<'_>| _ = attributes.give(to);
            match time_unix_nano {
                0 => _ = span.add_event_with(name, fill),
                time => _ = span.add_event_at(name, WallTime(time), fill),
            }
            Ok(())
        })
    }
}

/// Links a span to another one, with packed attributes. A link to an invalid context is left out.
///
/// # Safety
///
/// As for `spanring_span_set_int`, `context` is readable, and `packed` has `packed_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_add_link(
    span: *mut spanring_span,
    context: *const spanring_context,
    packed: *const u8,
    packed_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            let context = spanring_context::get(context)?;
            let attributes = Reader::new(bytes(packed, packed_len, "packed")?)?;
            span.add_link_with(context, |to| _ = attributes.give(to));
            Ok(())
        })
    }
}

/// Sets a span's status, one of `SPANRING_STATUS_...`, with a message for errors. As in OpenTelemetry, ok is final.
///
/// # Safety
///
/// As for `spanring_span_set_int`, and `message` has `message_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_status(
    span: *mut spanring_span,
    code: u32,
    message: *const c_char,
    message_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            span.set_status(status(code)?, text(message, message_len, "message")?);
            Ok(())
        })
    }
}

/// Gives a span another name.
///
/// # Safety
///
/// As for `spanring_span_set_int`, and `name` has `name_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_update_name(
    span: *mut spanring_span,
    name: *const c_char,
    name_len: usize,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            span.update_name(text(name, name_len, "name")?);
            Ok(())
        })
    }
}

/// Has the flusher woken when the span ends, and takes a reserve of the budget for it.
///
/// # Safety
///
/// As for `spanring_span_set_int`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_span_set_critical(span: *mut spanring_span) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(span, |span| {
            span.set_critical();
            Ok(())
        })
    }
}
