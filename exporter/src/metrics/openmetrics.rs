//! Metrics as OpenMetrics text 1.0: what Prometheus and its kind scrape.

use std::fmt::{Display, Write};

use super::{Metrics, SpanMetrics, Summary};
use crate::render::kind_name;
use crate::stats::{SinkDrop, SinkStats};

/// What an answer with that text calls itself.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Name and kind of the spans that have no series of their own; no kind is called so.
const OTHER: &str = "(other)";

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Metrics {
    /// The same as OpenMetrics text.
    pub fn to_openmetrics(&self) -> String {
        let mut text = Text::default();
        self.write_engine(&mut text);
        self.write_flusher(&mut text);
        write_sinks(&self.stats.sinks, &mut text);
        if let Some(spans) = &self.spans {
            write_spans(spans, &mut text);
        }
        text.out.push_str("# EOF\n");
        text.out
    }

    fn write_engine(&self, text: &mut Text) {
        let engine = &self.stats.engine;
        text.gauge(
            "spanring_uptime_seconds",
            "Since the pipeline was made.",
            self.uptime.as_secs_f64(),
        );
        text.counter("spanring_spans_created", "Spans that ended recording.", engine.created);
        text.counter("spanring_spans_sealed", "Spans in sealed batches.", engine.sealed);
        text.family("spanring_spans_dropped", "counter", "Spans that no batch has, by reason.");
        for (reason, count) in engine.dropped.iter() {
            text.sample("spanring_spans_dropped_total", &[("reason", reason.name())], count);
        }
        text.gauge(
            "spanring_spans_resident",
            "Spans recorded and not yet sealed.",
            engine.resident,
        );
        text.gauge("spanring_spans_resident_max", "Most that were at once.", engine.resident_max);
        text.gauge("spanring_spans_limit", "MAX_SPANS.", self.spans_max);
        text.gauge(
            "spanring_ring_fill_ratio",
            "Part of MAX_SPANS that is resident.",
            self.ring_fill(),
        );
        text.counter(
            "spanring_attributes_dropped",
            "Attributes that limits or missing memory kept out of spans.",
            engine.attributes_dropped,
        );
        text.counter("spanring_spans_waited", "Spans that OVERFLOW let wait.", engine.waited);
        let help = "Those that waited in vain and were dropped.";
        text.counter("spanring_spans_waited_in_vain", help, engine.waited_in_vain);
        text.family("spanring_memory_bytes", "gauge", "Memory by part.");
        for (part, bytes) in [
            ("rings", self.memory.rings),
            ("values_and_queues", self.memory.values_and_queues),
            ("metrics", self.memory.metrics),
        ] {
            text.sample("spanring_memory_bytes", &[("part", part)], bytes);
        }
        text.gauge("spanring_memory_limit_bytes", "MAX_BYTES.", self.bytes_max);
        if let Some(bytes) = self.memory.process {
            text.gauge("spanring_process_memory_bytes", "Resident memory of the process.", bytes);
        }
    }

    fn write_flusher(&self, text: &mut Text) {
        let stats = &self.stats;
        text.counter("spanring_batches", "Batches sealed.", stats.batches);
        text.counter("spanring_batch_in_bytes", "Columns before compression.", stats.bytes_raw);
        text.counter("spanring_batch_out_bytes", "Sealed batches.", stats.bytes);
        if let Some(ratio) = self.compression_ratio() {
            text.gauge("spanring_compression_ratio", "Bytes of columns a byte of a batch.", ratio);
        }
        let name = "spanring_flush_duration_seconds";
        text.family(name, "summary", "From rings to sinks, a batch.");
        text.sample(&format!("{name}_count"), &[], self.seals.count);
        text.sample(&format!("{name}_sum"), &[], self.seals.sum.as_secs_f64());
        let max = self.seals.max.as_secs_f64();
        text.gauge("spanring_flush_duration_max_seconds", "The longest of them.", max);
        if let Some(time) = self.flusher_cpu {
            let help = "Processor time of the flusher's thread.";
            text.counter("spanring_flusher_cpu_seconds", help, time.as_secs_f64());
        }
        if let Some(share) = self.flusher_share {
            let help = "Part of the process's processor time that the flusher takes.";
            text.gauge("spanring_flusher_process_ratio", help, share.of_process);
            let help = "Part of one core that the flusher takes.";
            text.gauge("spanring_flusher_core_ratio", help, share.of_core);
        }
        text.counter("spanring_flusher_wake_ups", "Returns from a wait.", stats.wake_ups);
        text.counter("spanring_flusher_panics", "Panics that were survived.", stats.panics);
    }
}

fn write_sinks(sinks: &[SinkStats], text: &mut Text) {
    type Count = fn(&SinkStats) -> u64;
    // Two sinks may have one name.
    let numbers: Vec<String> = (0..sinks.len()).map(|number| number.to_string()).collect();
    let counts: [(&str, &str, &str, Count); 7] = [
        ("spanring_sink_spans_delivered", "counter", "Spans taken.", |sink| sink.delivered),
        ("spanring_sink_spans_repeated", "counter", "Spans sent again.", |sink| sink.repeated),
        ("spanring_sink_spans_queued", "gauge", "Spans that wait in memory.", |sink| sink.queued),
        ("spanring_sink_spans_spooled", "gauge", "Spans that wait on disk.", |sink| sink.spooled),
        ("spanring_sink_batches", "counter", "Batches taken.", |sink| sink.batches),
        ("spanring_sink_out_bytes", "counter", "Bytes of these.", |sink| sink.bytes),
        ("spanring_sink_failures", "counter", "Calls that failed.", |sink| sink.failures),
    ];
    for (name, kind, help, count) in counts {
        text.family(name, kind, help);
        let sample = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for (sink, number) in sinks.iter().zip(&numbers) {
            text.sample(&sample, &[("sink", &sink.name), ("number", number)], count(sink));
        }
    }
    text.family("spanring_sink_spans_dropped", "counter", "Spans not taken, by reason.");
    for (sink, number) in sinks.iter().zip(&numbers) {
        for reason in SinkDrop::ALL {
            let labels = [("sink", &*sink.name), ("number", number), ("reason", reason.name())];
            let count = sink.dropped[reason as usize];
            text.sample("spanring_sink_spans_dropped_total", &labels, count);
        }
    }
}

fn write_spans(spans: &SpanMetrics, text: &mut Text) {
    let own = spans.series.iter().map(|of| (&*of.name, kind_name(of.kind), &of.summary));
    let other = (spans.other.count > 0).then_some((OTHER, OTHER, &spans.other));
    let all: Vec<(&str, &str, &Summary)> = own.chain(other).collect();
    text.family("spanring_span_duration_seconds", "summary", "Durations of spans.");
    for (name, kind, of) in &all {
        let labels = [("name", *name), ("kind", *kind)];
        for (quantile, value) in [("0.5", of.p50), ("0.95", of.p95), ("0.99", of.p99)] {
            let labels = [labels[0], labels[1], ("quantile", quantile)];
            text.sample("spanring_span_duration_seconds", &labels, value.as_secs_f64());
        }
        text.sample("spanring_span_duration_seconds_count", &labels, of.count);
        let sum = of.duration_sum.as_secs_f64();
        text.sample("spanring_span_duration_seconds_sum", &labels, sum);
    }
    text.family("spanring_span_duration_max_seconds", "gauge", "The longest of them.");
    for (name, kind, of) in &all {
        let max = of.duration_max.as_secs_f64();
        text.sample("spanring_span_duration_max_seconds", &[("name", name), ("kind", kind)], max);
    }
    text.family("spanring_span_errors", "counter", "Spans with the status error.");
    for (name, kind, of) in &all {
        text.sample("spanring_span_errors_total", &[("name", name), ("kind", kind)], of.errors);
    }
    text.family("spanring_spans_by_kind", "counter", "Spans by kind.");
    for (kind, count) in &spans.by_kind {
        text.sample("spanring_spans_by_kind_total", &[("kind", kind_name(*kind))], count);
    }
    let minute = &spans.last_minute;
    text.gauge(
        "spanring_span_error_ratio",
        "Part of the last minute's spans.",
        minute.error_rate(),
    );
    text.gauge("spanring_span_rate", "Spans a second in the last minute.", minute.rate());
}

#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(&format!("{name}_total"), &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Begins a family; its unit is how its name ends.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# TYPE {name} {kind}");
        for unit in ["seconds", "bytes", "ratio"] {
            if name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
                let _ = writeln!(self.out, "# UNIT {name} {unit}");
            }
        }
        let _ = writeln!(self.out, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.out.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{label}=\"", if number == 0 { '{' } else { ',' });
            for letter in value.chars() {
                match letter {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    letter => self.out.push(letter),
                }
            }
            self.out.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }
}
