//! What became of the spans of a run: the numbers that `demo` and `replay` print.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spanring_exporter::segment::find_segments;
use spanring_exporter::sink::InstanceId;
use spanring_exporter::{PipelineStats, SinkDrop};

/// The numbers of a run whose pipeline was shut down.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Spans created.
    pub created: u64,
    /// Spans that reached every sink.
    pub exported: u64,
    /// Spans that wait in a spool on disk, for a later process.
    pub spooled: u64,
    /// Spans that were sent again although an answer may have been lost.
    pub repeated: u64,
    /// Spans dropped, by reason; every reason is there.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Spans dropped, over all reasons.
    pub dropped_total: u64,
    /// Most spans recorded and not yet sealed at once.
    pub resident_max: u64,
    /// Batches with spans, and the closing one.
    pub batches: u64,
    /// Bytes of the segments on disk, or of the batches that were sent.
    pub bytes: u64,
    /// Bytes a span that was exported; none without any.
    pub bytes_per_span: Option<f64>,
    /// From the first span until everything was delivered.
    pub wall_seconds: f64,
    /// Spans created in each of these.
    pub spans_per_second: f64,
    /// Whether created = exported + dropped + spooled, for each sink.
    pub is_conserved: bool,
}

impl RunReport {
    /// The numbers of the pipeline `instance`, which wrote to `dir` if that is given.
    pub fn new(
        stats: &PipelineStats,
        instance: InstanceId,
        dir: Option<&Path>,
        wall: Duration,
    ) -> Self {
        let engine = stats.engine.dropped.iter().map(|(reason, count)| (reason.name(), count));
        let sinks = SinkDrop::ALL.into_iter().map(|reason| {
            let count = stats.sinks.iter().map(|sink| sink.dropped[reason as usize]).sum();
            (reason.name(), count)
        });
        let dropped: BTreeMap<_, _> = engine.chain(sinks).collect();
        let dropped_total = dropped.values().sum();
        let exported = stats.sinks.iter().map(|sink| sink.delivered).min().unwrap_or(0);
        let spooled = stats.sinks.iter().map(|sink| sink.spooled).sum();
        let repeated = stats.sinks.iter().map(|sink| sink.repeated).sum();
        let created = stats.engine.created;
        // Retention may have deleted some; then what was written counts.
        let written = stats.sinks.iter().map(|sink| sink.bytes).max().unwrap_or(0);
        let bytes = dir.map_or(0, |dir| segment_bytes(dir, instance)).max(written);
        let is_conserved = stats.sinks.iter().all(|sink| {
            let sealed = sink.delivered + sink.dropped_total() + sink.queued + sink.spooled;
            created + sink.adopted == stats.engine.dropped.total() + sealed
        });
        let wall_seconds = wall.as_secs_f64();
        RunReport {
            created,
            exported,
            spooled,
            repeated,
            dropped,
            dropped_total,
            resident_max: stats.engine.resident_max,
            batches: stats.batches,
            bytes,
            bytes_per_span: (exported > 0).then(|| bytes as f64 / exported as f64),
            wall_seconds,
            spans_per_second: created as f64 / wall_seconds.max(f64::MIN_POSITIVE),
            is_conserved,
        }
    }

    /// Writes the numbers as lines of text.
    ///
    /// # Errors
    ///
    /// What `out` answers.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let RunReport { created, exported, batches, bytes, .. } = self;
        writeln!(out, "created     {created:>12} spans in {:.2} s", self.wall_seconds)?;
        writeln!(out, "            {:>12.0} spans/s", self.spans_per_second)?;
        writeln!(out, "exported    {exported:>12} spans in {batches} batches, {bytes} bytes")?;
        if let Some(bytes) = self.bytes_per_span {
            writeln!(out, "            {bytes:>12.1} bytes a span")?;
        }
        writeln!(out, "dropped     {:>12}", self.dropped_total)?;
        for (reason, count) in self.dropped.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "            {count:>12} {reason}")?;
        }
        writeln!(out, "resident    {:>12} at most", self.resident_max)?;
        let (relation, verdict) = match self.is_conserved {
            true => ("=", "every span is accounted for"),
            false => ("≠", "spans are unaccounted for: this is a defect"),
        };
        let (dropped, spooled) = (self.dropped_total, self.spooled);
        let rest = if spooled > 0 { format!(" + spooled {spooled}") } else { String::new() };
        writeln!(
            out,
            "conserved   created {created} {relation} exported {exported} + dropped {dropped}{rest}: {verdict}"
        )
    }
}

fn segment_bytes(dir: &Path, instance: InstanceId) -> u64 {
    let instance = format!("-{instance}-");
    let segments = find_segments(dir).unwrap_or_default();
    let own = segments.iter().filter(|found| found.name.to_string().contains(&instance));
    own.map(|found| found.bytes).sum()
}
