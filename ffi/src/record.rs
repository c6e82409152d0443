//! A whole span in one call.

use std::ffi::c_char;

use spanring::{Key, Span, WallTime};

use crate::context::{given_ids, put, spanring_context, spanring_ids};
use crate::error::{Error, SPANRING_ERROR_ARGUMENT, bytes, guarded, text};
use crate::packed::{Packed, Reader};
use crate::pipeline;
use crate::span::{
    SPANRING_SPAN_DETAILED, SPANRING_SPAN_ROOT, check_size, detail, interned, kind, level, status,
    tracer,
};

/// A span that is over.
#[repr(C)]
#[derive(Debug)]
pub struct spanring_record {
    /// `sizeof(spanring_record)`.
    pub size: usize,
    /// The name as text; not read if `name_key` is not 0.
    pub name: *const c_char,
    /// Its bytes.
    pub name_len: usize,
    /// The name as a number of `spanring_intern`, or 0.
    pub name_key: u32,
    /// From `spanring_tracer_create`; 0 for none.
    pub tracer: u32,
    /// One of `SPANRING_KIND_...`; 0 for internal.
    pub kind: u32,
    /// One of `SPANRING_STATUS_...`.
    pub status: u32,
    /// `SPANRING_SPAN_ROOT` and `SPANRING_SPAN_DETAILED`, or 0.
    pub flags: u32,
    /// One of `SPANRING_LEVEL_...`, or 0.
    pub level: u32,
    /// What is wrong, with the status error; or NULL.
    pub status_message: *const c_char,
    /// Its bytes.
    pub status_message_len: usize,
    /// The parent, NULL for the thread's current span.
    pub parent: *const spanring_context,
    /// Nanoseconds since the Unix epoch; not 0.
    pub start_unix_nano: u64,
    /// The same.
    pub end_unix_nano: u64,
    /// Packed attributes, or NULL.
    pub attributes: *const u8,
    /// Their bytes.
    pub attributes_len: usize,
    /// IDs that another tracer or a recording gave the span; NULL for new ones, as in `spanring_span_options`.
    pub ids: *const spanring_ids,
}

/// Records a span that is over, in one call. `out`, if it is not NULL, gets its context, for children and links; release it.
///
/// # Safety
///
/// `record` and what it points to is readable, `out` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_record_span(
    record: *const spanring_record,
    out: *mut spanring_context,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let Some(record) = (unsafe { record.as_ref() }) else { return Err(Error::null("record")) };
        check_size(record.size, size_of::<spanring_record>(), "spanring_record")?;
        if record.flags & !(SPANRING_SPAN_ROOT | SPANRING_SPAN_DETAILED) != 0 {
            return Err(wrong("flags are not SPANRING_SPAN_ROOT, SPANRING_SPAN_DETAILED, or 0"));
        }
        if record.start_unix_nano == 0 || record.end_unix_nano == 0 {
            return Err(wrong("start_unix_nano or end_unix_nano is 0"));
        }
        let name = match record.name_key {
            // SAFETY: the caller's promise.
            0 => Key::Str(unsafe { text(record.name, record.name_len, "name") }?),
            key => Key::Interned(interned(key)?),
        };
        let (kind, status, tracer) =
            (kind(record.kind)?, status(record.status)?, tracer(record.tracer)?);
        let level = level(record.level)?;
        // SAFETY: the caller's promise.
        let message =
            unsafe { text(record.status_message, record.status_message_len, "status_message") }?;
        // SAFETY: the caller's promise.
        let packed = unsafe { bytes(record.attributes, record.attributes_len, "attributes") }?;
        let attributes = Reader::new(packed)?;
        let parent = match record.parent.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { spanring_context::get(record.parent) }?),
        };
        // SAFETY: the caller's promise.
        let ids = unsafe { given_ids(record.ids) }?;
        let start = || {
            let mut builder =
                Span::builder(name).kind(kind).start_time(WallTime(record.start_unix_nano));
            if let Some(tracer) = &tracer {
                builder = builder.tracer(tracer);
            }
            builder = match parent {
                _ if record.flags & SPANRING_SPAN_ROOT != 0 => builder.root(),
                Some(parent) => builder.parent(parent),
                None => builder,
            };
            if let Some((trace_id, span_id)) = ids {
                builder = builder.ids(trace_id, span_id);
            }
            if let Some(level) = level {
                builder = builder.level(level);
            }
            builder.detail(detail(record.flags)).__seen(Packed(packed)).start()
        };
        let mut span = start();
        if !span.__is_some() && pipeline::revive_in_fork_child() {
            span = start();
        }
        attributes.give(&mut span);
        span.set_status(status, message);
        if !out.is_null() {
            // SAFETY: the caller's promise.
            unsafe { put(out, spanring_context::new(span.context()), "out") }?;
        }
        span.end_at(WallTime(record.end_unix_nano));
        pipeline::span_ended();
        Ok(())
    })
}

fn wrong(what: &str) -> Error {
    Error::new(SPANRING_ERROR_ARGUMENT, format_args!("{what}"))
}
