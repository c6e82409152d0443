//! Metrics as JSON. Durations are in seconds, rates in spans a second.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Metrics, SERIES_MAX, SpanMetrics, Summary, per_second};
use crate::render::kind_name;
use crate::stats::{SinkDrop, SinkStats};

impl Metrics {
    /// The same as JSON.
    pub fn to_json(&self) -> String {
        self.value().to_string()
    }

    pub(crate) fn value(&self) -> Value {
        let stats = &self.stats;
        let dropped = stats.engine.dropped.iter();
        json!({
            "uptime": self.uptime.as_secs_f64(),
            "engine": {
                "created": stats.engine.created,
                "sealed": stats.engine.sealed,
                "dropped": dropped.map(|(reason, count)| (reason.name().to_owned(), count.into()))
                    .collect::<Map<_, _>>(),
                "resident": stats.engine.resident,
                "resident_max": stats.engine.resident_max,
                "spans_max": self.spans_max,
                "ring_fill": self.ring_fill(),
                "attributes_dropped": stats.engine.attributes_dropped,
                "waited": stats.engine.waited,
                "waited_in_vain": stats.engine.waited_in_vain,
                "threads": stats.engine.threads.len(),
            },
            "batches": {
                "count": stats.batches,
                "bytes_in": stats.bytes_raw,
                "bytes_out": stats.bytes,
                "compression_ratio": self.compression_ratio(),
                "flush_duration": {
                    "count": self.seals.count,
                    "sum": self.seals.sum.as_secs_f64(),
                    "max": self.seals.max.as_secs_f64(),
                },
            },
            "flusher": {
                "cpu_time": self.flusher_cpu.map(|time| time.as_secs_f64()),
                "cpu_share": self.flusher_share.map(|share| json!({
                    "of_process": share.of_process,
                    "of_core": share.of_core,
                    "seconds": share.over.as_secs_f64(),
                })),
                "wake_ups": stats.wake_ups,
                "panics": stats.panics,
            },
            "memory": {
                "rings": self.memory.rings,
                "values_and_queues": self.memory.values_and_queues,
                "metrics": self.memory.metrics,
                "bytes_max": self.bytes_max,
                "process": self.memory.process,
            },
            "sinks": stats.sinks.iter().map(sink).collect::<Vec<_>>(),
            "spans": self.spans.as_ref().map(spans),
        })
    }
}

fn sink(sink: &SinkStats) -> Value {
    let dropped = SinkDrop::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), Value::from(sink.dropped[*reason as usize])));
    json!({
        "name": sink.name,
        "delivered": sink.delivered,
        "dropped": dropped.collect::<Map<_, _>>(),
        "queued": sink.queued,
        "spooled": sink.spooled,
        "repeated": sink.repeated,
        "failures": sink.failures,
        "batches": sink.batches,
        "bytes": sink.bytes,
        "last_error": sink.last_error,
    })
}

fn spans(spans: &SpanMetrics) -> Value {
    let by_kind = spans.by_kind.iter().map(|(kind, count)| {
        let share = *count as f64 / spans.all.count.max(1) as f64;
        (kind_name(*kind).to_owned(), json!({ "count": count, "share": share }))
    });
    let series = spans.series.iter().map(|series| {
        let mut of = summary(&series.summary, spans.measured_for);
        of.insert("name".to_owned(), series.name.clone().into());
        of.insert("kind".to_owned(), kind_name(series.kind).into());
        Value::from(of)
    });
    json!({
        "measured_for": spans.measured_for.as_secs_f64(),
        "all": summary(&spans.all, spans.measured_for),
        "last_minute": {
            "seconds": spans.last_minute.length.as_secs_f64(),
            "count": spans.last_minute.count,
            "errors": spans.last_minute.errors,
            "error_rate": spans.last_minute.error_rate(),
            "rate": spans.last_minute.rate(),
        },
        "by_kind": by_kind.collect::<Map<_, _>>(),
        "series": series.collect::<Vec<_>>(),
        "series_max": SERIES_MAX,
        "other": summary(&spans.other, spans.measured_for),
    })
}

fn summary(of: &Summary, measured_for: Duration) -> Map<String, Value> {
    let value = json!({
        "count": of.count,
        "errors": of.errors,
        "error_rate": of.error_rate(),
        "rate": per_second(of.count, measured_for),
        "sum": of.duration_sum.as_secs_f64(),
        "mean": of.mean().as_secs_f64(),
        "max": of.duration_max.as_secs_f64(),
        "p50": of.p50.as_secs_f64(),
        "p95": of.p95.as_secs_f64(),
        "p99": of.p99.as_secs_f64(),
    });
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was written as one"),
    }
}
