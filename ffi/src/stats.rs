//! What was counted.

use std::ffi::c_char;

use serde_json::json;
use spanring::export::Reason;
use spanring_exporter::{PipelineStats, SinkDrop, SinkStats};

use crate::context::{put, put_text};
use crate::error::{Error, SPANRING_ERROR_BUFFER, SPANRING_ERROR_EMPTY, guarded};
use crate::pipeline::running;
use crate::span::check_size;

/// Counts of the pipeline. `created` = `sealed` + `dropped` + `resident`; over all sinks, `sink_sealed` + `sink_adopted` = `sink_delivered` +
/// `sink_dropped` + `sink_queued` + `sink_spooled`. All are spans if nothing else is said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct spanring_stats {
    /// `sizeof(spanring_stats)`.
    pub size: usize,
    /// Spans that ended recording.
    pub created: u64,
    /// Spans in sealed batches.
    pub sealed: u64,
    /// Recorded and not yet sealed.
    pub resident: u64,
    /// The most that were.
    pub resident_max: u64,
    /// Dropped, for all reasons.
    pub dropped: u64,
    /// Dropped: `MAX_SPANS` were resident.
    pub dropped_budget: u64,
    /// Dropped: no ring memory under `MAX_BYTES`.
    pub dropped_ring_full: u64,
    /// Dropped: attributes, events and links did not fit under `MAX_BYTES`.
    pub dropped_value_too_large: u64,
    /// Dropped: ended inside the engine, in a signal handler.
    pub dropped_re_entrant: u64,
    /// Dropped: began or ended after shutdown.
    pub dropped_shut_down: u64,
    /// Dropped: the batch could not be encoded.
    pub dropped_encode: u64,
    /// Dropped: at the level minimal, and without an error.
    pub dropped_by_rule: u64,
    /// Attributes that limits or missing memory kept out of spans.
    pub attributes_dropped: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sealed, once for each sink.
    pub sink_sealed: u64,
    /// Left by earlier processes.
    pub sink_adopted: u64,
    /// Taken by sinks.
    pub sink_delivered: u64,
    /// Not taken, for all reasons.
    pub sink_dropped: u64,
    /// Waiting in memory, or under way.
    pub sink_queued: u64,
    /// Waiting on disk.
    pub sink_spooled: u64,
    /// Sent again although an answer may have been lost.
    pub sink_repeated: u64,
}

fn stats(from: &PipelineStats) -> spanring_stats {
    let dropped = |reason: Reason| {
        from.engine.dropped.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| count)
    };
    let sinks = |count: fn(&SinkStats) -> u64| from.sinks.iter().map(count).sum();
    spanring_stats {
        size: size_of::<spanring_stats>(),
        created: from.engine.created,
        sealed: from.engine.sealed,
        resident: from.engine.resident,
        resident_max: from.engine.resident_max,
        dropped: from.engine.dropped.total(),
        dropped_budget: dropped(Reason::Budget),
        dropped_ring_full: dropped(Reason::RingFull),
        dropped_value_too_large: dropped(Reason::ValueTooLarge),
        dropped_re_entrant: dropped(Reason::ReEntrant),
        dropped_shut_down: dropped(Reason::ShutDown),
        dropped_encode: dropped(Reason::Encode),
        dropped_by_rule: dropped(Reason::ByRule),
        attributes_dropped: from.engine.attributes_dropped,
        batches: from.batches,
        bytes: from.bytes,
        sink_sealed: sinks(|sink| sink.sealed),
        sink_adopted: sinks(|sink| sink.adopted),
        sink_delivered: sinks(|sink| sink.delivered),
        sink_dropped: sinks(SinkStats::dropped_total),
        sink_queued: sinks(|sink| sink.queued),
        sink_spooled: sinks(|sink| sink.spooled),
        sink_repeated: sinks(|sink| sink.repeated),
    }
}

/// Gives the counts. `out->size` must be set before.
///
/// # Safety
///
/// `out` is readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_stats_get(out: *mut spanring_stats) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let Some(given) = (unsafe { out.as_ref() }) else { return Err(Error::null("out")) };
        check_size(given.size, size_of::<spanring_stats>(), "spanring_stats")?;
        let stats = stats(&running()?.0.stats());
        // SAFETY: the caller's promise.
        unsafe { put(out, stats, "out") }
    })
}

/// Gives the oldest message of the library that was not given yet, ended by a zero byte, with its severity: 0 fatal, 1 error, 2 warning,
/// 3 information, 4 debugging. They are written on standard error as well; the last 64 are kept. `SPANRING_ERROR_EMPTY` if there is
/// none. `len` says how many bytes `out` has, and afterwards how long the text is; a longer one is cut.
///
/// # Safety
///
/// `out` is writable for `*len` bytes, `len` and `severity` readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_message_next(
    out: *mut c_char,
    len: *mut usize,
    severity: *mut i32,
) -> i32 {
    guarded(|| {
        if out.is_null() || len.is_null() || severity.is_null() {
            return Err(Error::null("out, len or severity"));
        }
        // SAFETY: the caller's promise, and not NULL.
        let room = unsafe { *len };
        if room == 0 {
            return Err(Error::new(SPANRING_ERROR_BUFFER, format_args!("out has no bytes")));
        }
        let Some((level, mut text)) = spanring_exporter::next_message() else {
            return Err(Error::new(SPANRING_ERROR_EMPTY, format_args!("there is no message")));
        };
        text.truncate(boundary(&text, room - 1));
        // SAFETY: the caller's promise.
        unsafe {
            put(severity, level as i32, "severity")?;
            put_text(&text, out, len, "out")
        }
    })
}

/// The last end of a character of `text` up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Gives the counts as JSON, with each sink by itself, ended by a zero byte. `len` says how many bytes `out` has, and afterwards how long the
/// text is; with `SPANRING_ERROR_BUFFER`, how long it would be.
///
/// # Safety
///
/// `out` is writable for `*len` bytes (NULL if that is 0), `len` readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_stats_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let text = to_json(&running()?.0.stats()).to_string();
        // SAFETY: the caller's promise.
        unsafe { put_text(&text, out, len, "out") }
    })
}

/// Gives what is measured as JSON (docs/status.md): the counts, memory, time, and with METRICS the spans by name and kind. `len` as for
/// `spanring_stats_json`; between two calls the text may grow.
///
/// # Safety
///
/// As for [`spanring_stats_json`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_metrics_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let text = running()?.0.metrics().to_json();
        // SAFETY: the caller's promise.
        unsafe { put_text(&text, out, len, "out") }
    })
}

/// Gives whether tracing is well as JSON (docs/status.md): `healthy`, and the `reasons` why not. `len` as for
/// `spanring_stats_json`; between two calls the text may grow.
///
/// # Safety
///
/// As for [`spanring_stats_json`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_health_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let text = running()?.0.health().to_json();
        // SAFETY: the caller's promise.
        unsafe { put_text(&text, out, len, "out") }
    })
}

/// Gives and takes the alerts since the last call as JSON (docs/alerts.md). `len` as for `spanring_stats_json`; with `SPANRING_ERROR_BUFFER` they
/// stay, and between two calls there may be more.
///
/// # Safety
///
/// As for [`spanring_stats_json`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_alerts_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let (pipeline, _) = running()?;
        let mut result = Ok(());
        pipeline.give_alerts(|alerts| {
            // SAFETY: the caller's promise.
            result = unsafe { put_text(&alerts.to_json(), out, len, "out") };
            result.is_ok()
        });
        result
    })
}

/// Gives the errors that were seen, by name, type and message, as JSON (docs/processors.md). `len` as for `spanring_stats_json`; between two calls
/// the text may grow.
///
/// # Safety
///
/// As for [`spanring_stats_json`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spanring_errors_json(out: *mut c_char, len: *mut usize) -> i32 {
    guarded(|| {
        let text = running()?.0.errors().to_json();
        // SAFETY: the caller's promise.
        unsafe { put_text(&text, out, len, "out") }
    })
}

fn to_json(stats: &PipelineStats) -> serde_json::Value {
    let dropped: serde_json::Map<_, _> = stats
        .engine
        .dropped
        .iter()
        .map(|(reason, count)| (reason.name().to_owned(), count.into()))
        .collect();
    let sinks: Vec<_> = stats.sinks.iter().map(sink_json).collect();
    json!({
        "created": stats.engine.created,
        "sealed": stats.engine.sealed,
        "resident": stats.engine.resident,
        "resident_max": stats.engine.resident_max,
        "dropped": dropped,
        "attributes_dropped": stats.engine.attributes_dropped,
        "batches": stats.batches,
        "bytes": stats.bytes,
        "wake_ups": stats.wake_ups,
        "sinks": sinks,
    })
}

fn sink_json(sink: &SinkStats) -> serde_json::Value {
    let dropped: serde_json::Map<_, _> = SinkDrop::ALL
        .iter()
        .map(|&reason| (reason.name().to_owned(), sink.dropped[reason as usize].into()))
        .collect();
    json!({
        "name": sink.name,
        "sealed": sink.sealed,
        "adopted": sink.adopted,
        "delivered": sink.delivered,
        "dropped": dropped,
        "queued": sink.queued,
        "spooled": sink.spooled,
        "repeated": sink.repeated,
        "batches": sink.batches,
        "bytes": sink.bytes,
        "failures": sink.failures,
        "last_error": sink.last_error,
        "last_refusal": sink.last_refusal,
    })
}
