//! What `spanring stats` counts: spans, traces, and durations by span name.
//!
//! Memory is bounded whatever the input: names past the [`NAMES_MAX`]th are counted together, long names
//! are cut, and traces are counted exactly up to [`TRACES_MAX`], beyond which the summary says
//! "at least".

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use serde::Serialize;
use spanring::{StatusCode, TraceId};
use spanring_exporter::model::SpanBatch;

use crate::histogram::Histogram;
use spanring_exporter::render::{duration, printable};

use crate::render::fitted;

/// How many names have counts of their own.
pub const NAMES_MAX: usize = 4096;

/// How many traces are told apart.
pub const TRACES_MAX: usize = 4 << 20;

/// How much of a name counts, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Under which all names past the limit are counted.
const OTHER_NAMES: &str = "(other names)";

/// Counts spans.
#[derive(Debug, Default)]
pub struct Stats {
    spans: u64,
    events: u64,
    errors: u64,
    batches: u64,
    bytes: u64,
    traces: HashSet<TraceId>,
    traces_are_more: bool,
    durations: Histogram,
    names: HashMap<String, NameStats>,
    other_names: NameStats,
}

#[derive(Debug, Default)]
struct NameStats {
    errors: u64,
    durations: Histogram,
}

impl Stats {
    /// Counts the spans of a batch.
    pub fn add(&mut self, batch: &SpanBatch) {
        self.batches += 1;
        for span in &batch.spans {
            let duration = span.end_unix_nano.saturating_sub(span.start_unix_nano);
            let is_error = span.status == StatusCode::Error;
            self.spans += 1;
            self.events += span.events.len() as u64;
            self.errors += u64::from(is_error);
            self.durations.add(duration);
            if self.traces.len() < TRACES_MAX {
                self.traces.insert(span.trace_id);
            } else {
                self.traces_are_more |= !self.traces.contains(&span.trace_id);
            }
            let name = cut(&span.name);
            let stats = if let Some(stats) = self.names.get_mut(name) {
                stats
            } else if self.names.len() < NAMES_MAX {
                self.names.entry(name.to_owned()).or_default()
            } else {
                &mut self.other_names
            };
            stats.errors += u64::from(is_error);
            stats.durations.add(duration);
        }
    }

    /// Counts bytes that spans took where they were read from, compressed.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// What was counted, names by falling count.
    pub fn summary(&self) -> Summary {
        let mut names: Vec<_> =
            self.names.iter().map(|(name, stats)| NameSummary::new(name, stats)).collect();
        names.sort_by(|a, b| b.spans.cmp(&a.spans).then_with(|| a.name.cmp(&b.name)));
        if self.other_names.durations.total() > 0 {
            names.push(NameSummary::new(OTHER_NAMES, &self.other_names));
        }
        Summary {
            spans: self.spans,
            traces: self.traces.len() as u64,
            traces_are_more: self.traces_are_more,
            errors: self.errors,
            events: self.events,
            batches: self.batches,
            bytes: self.bytes,
            bytes_per_span: (self.spans > 0).then(|| self.bytes as f64 / self.spans as f64),
            duration: Quantiles::new(&self.durations),
            names,
        }
    }
}

/// The beginning of a name, of [`NAME_BYTES_MAX`] bytes at most.
fn cut(name: &str) -> &str {
    let fits = |&end: &usize| name.is_char_boundary(end);
    &name[..(0..=NAME_BYTES_MAX.min(name.len())).rev().find(fits).unwrap_or(0)]
}

/// What was counted; its JSON form is what `spanring stats --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Spans.
    pub spans: u64,
    /// Distinct traces.
    pub traces: u64,
    /// Whether there were more traces than could be told apart, so that `traces` is a lower bound.
    pub traces_are_more: bool,
    /// Spans whose status is an error.
    pub errors: u64,
    /// Events of spans.
    pub events: u64,
    /// Batches, or lines of OTLP/JSON.
    pub batches: u64,
    /// Compressed bytes.
    pub bytes: u64,
    /// Compressed bytes a span; none without spans.
    pub bytes_per_span: Option<f64>,
    /// Durations of all spans.
    pub duration: Quantiles,
    /// Spans by name, the most frequent first.
    pub names: Vec<NameSummary>,
}

/// Spans of one name.
#[derive(Clone, Debug, Serialize)]
pub struct NameSummary {
    /// The name, cut to 256 bytes; or "(other names)".
    pub name: String,
    /// Spans.
    pub spans: u64,
    /// Spans whose status is an error.
    pub errors: u64,
    /// Their durations.
    pub duration: Quantiles,
}

/// Quantiles of durations in ns: to within 0.8 %, from above; the greatest exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half of the spans took no longer.
    pub p50_ns: u64,
    /// 95 % took no longer.
    pub p95_ns: u64,
    /// 99 % took no longer.
    pub p99_ns: u64,
    /// None took longer.
    pub max_ns: u64,
}

impl Quantiles {
    fn new(durations: &Histogram) -> Self {
        Quantiles {
            p50_ns: durations.quantile(0.50),
            p95_ns: durations.quantile(0.95),
            p99_ns: durations.quantile(0.99),
            max_ns: durations.max(),
        }
    }

    fn columns(&self) -> String {
        [self.p50_ns, self.p95_ns, self.p99_ns, self.max_ns]
            .map(|ns| format!("{:>10}", duration(ns)))
            .concat()
    }
}

impl NameSummary {
    fn new(name: &str, stats: &NameStats) -> Self {
        NameSummary {
            name: name.to_owned(),
            spans: stats.durations.total(),
            errors: stats.errors,
            duration: Quantiles::new(&stats.durations),
        }
    }
}

impl Summary {
    /// Writes the summary as a table of at most `width` columns, 72 at least.
    ///
    /// # Errors
    ///
    /// What `out` answers.
    pub fn write_text(&self, width: usize, out: &mut impl Write) -> io::Result<()> {
        let more = if self.traces_are_more { "at least " } else { "" };
        write!(out, "{} spans, {more}{} traces, ", self.spans, self.traces)?;
        write!(out, "{} errors, {} events, ", self.errors, self.events)?;
        write!(out, "{} batches, {} bytes", self.batches, self.bytes)?;
        match self.bytes_per_span {
            Some(bytes) => writeln!(out, ", {bytes:.1} bytes a span")?,
            None => writeln!(out)?,
        }
        if self.spans == 0 {
            return Ok(());
        }
        let columns_width = 10 + 8 + 4 * 10;
        let name_width = width.max(72) - columns_width;
        let columns = ["p50", "p95", "p99", "max"].map(|name| format!("{name:>10}")).concat();
        let header = fitted("name", name_width);
        writeln!(out, "\n{header}{:>10}{:>8}{columns}", "spans", "errors")?;
        let mut row = |name: &str, spans: u64, errors: u64, duration: &Quantiles| {
            let name = fitted(&printable(name), name_width);
            writeln!(out, "{name}{spans:>10}{errors:>8}{}", duration.columns())
        };
        for name in &self.names {
            row(&name.name, name.spans, name.errors, &name.duration)?;
        }
        row("(all)", self.spans, self.errors, &self.duration)
    }
}

#[cfg(test)]
mod tests {
    use spanring_exporter::model::{ResourceData, ScopeData, SpanData};

    use super::*;

    fn batch(spans: impl Iterator<Item = SpanData>) -> SpanBatch {
        let (resources, scopes) = (vec![ResourceData::default()], vec![ScopeData::default()]);
        SpanBatch { resources, scopes, spans: spans.collect() }
    }

    fn span(name: &str, trace: u128, duration_ns: u64) -> SpanData {
        SpanData {
            name: name.into(),
            trace_id: TraceId(trace),
            start_unix_nano: 1_000,
            end_unix_nano: 1_000 + duration_ns,
            ..SpanData::default()
        }
    }

    #[test]
    fn spans_are_counted_by_name_with_their_durations() {
        let mut stats = Stats::default();
        stats.add(&batch((1..=100).map(|ns| span("get", u128::from(ns) % 7 + 1, ns))));
        let mut failed = span("put\n", 1, 5_000_000);
        failed.status = StatusCode::Error;
        stats.add(&batch([failed].into_iter()));
        stats.add_bytes(1_010);
        let summary = stats.summary();
        assert_eq!((summary.spans, summary.traces, summary.errors), (101, 7, 1));
        assert_eq!((summary.batches, summary.bytes_per_span), (2, Some(10.0)));
        let get = &summary.names[0];
        assert_eq!((&*get.name, get.spans, get.errors), ("get", 100, 0));
        let expected = Quantiles { p50_ns: 50, p95_ns: 95, p99_ns: 99, max_ns: 100 };
        assert_eq!(get.duration, expected);

        let mut text = Vec::new();
        summary.write_text(80, &mut text).expect("a Vec takes all");
        let text = String::from_utf8(text).expect("it is text");
        let expected = "\
101 spans, 7 traces, 1 errors, 0 events, 2 batches, 1010 bytes, 10.0 bytes a span

name                       spans  errors       p50       p95       p99       max
get                          100       0     50 ns     95 ns     99 ns    100 ns
put\\n                          1       1   5.00 ms   5.00 ms   5.00 ms   5.00 ms
(all)                        101       1     51 ns     96 ns    100 ns   5.00 ms
";
        assert_eq!(text, expected);
        let json = serde_json::to_value(&summary).expect("it can be written");
        assert_eq!(json["names"][1]["duration"]["max_ns"], 5_000_000);
    }

    #[test]
    fn names_past_the_limit_are_counted_together_and_long_names_are_cut() {
        let mut stats = Stats::default();
        let name = |number: usize| format!("{number:05}{}", "ü".repeat(1_000));
        stats.add(&batch((0..NAMES_MAX + 10).map(|number| span(&name(number), 1, 1))));
        let summary = stats.summary();
        assert_eq!(summary.names.len(), NAMES_MAX + 1);
        assert!(summary.names.iter().all(|name| name.name.len() <= NAME_BYTES_MAX));
        let other = &summary.names[NAMES_MAX];
        assert_eq!((&*other.name, other.spans), (OTHER_NAMES, 10));
    }

    #[test]
    fn nothing_counted_is_a_line_without_a_table() {
        let mut text = Vec::new();
        Stats::default().summary().write_text(80, &mut text).expect("a Vec takes all");
        let expected = "0 spans, 0 traces, 0 errors, 0 events, 0 batches, 0 bytes\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
