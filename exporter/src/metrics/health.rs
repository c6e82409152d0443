//! Whether tracing is well: one answer, and the reasons why not.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spanring::export::Reason;
use spanring::settings::Settings;

use super::LastMinute;
use crate::render::timestamp;
use crate::stats::{PipelineStats, SinkDrop, SinkStats};

/// For how long dropped spans count against the pipeline's health.
const DROPS_COUNT: Duration = Duration::from_secs(60);
/// Spans of the last minute below which the share of errors says too little to be judged.
const JUDGED_MIN: u64 = 20;
const MIB: f64 = (1 << 20) as f64;

/// Whether tracing is well, as [`Pipeline::health`](crate::Pipeline::health) gives it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HealthReport {
    /// Whether spans are recorded: neither switched off nor shut down.
    pub tracing_enabled: bool,
    /// Sinks, and processors that are on.
    pub processors_count: usize,
    /// Resident memory of the process, in MiB; `None` where the system does not tell.
    pub memory_usage: Option<f64>,
    /// Spans that are recorded and not yet sealed, and those that wait in memory for a sink, once for each.
    pub queue_depth: u64,
    /// Part of the spans of the last minute that have the status error; `None` if spans are not measured.
    pub error_rate: Option<f64>,
    /// When a sink last took a batch, in ns since the Unix epoch.
    pub last_successful_flush: Option<u64>,
    /// Whether there is no reason to worry.
    pub healthy: bool,
    /// What is wrong, a sentence each.
    pub reasons: Vec<String>,
}

impl HealthReport {
    /// That of a pipeline of the process's parent.
    pub(crate) fn of_fork_child() -> Self {
        let reason = "This process is a fork child, and the pipeline is its parent's.";
        HealthReport {
            tracing_enabled: false,
            processors_count: 0,
            memory_usage: None,
            queue_depth: 0,
            error_rate: None,
            last_successful_flush: None,
            healthy: false,
            reasons: vec![reason.to_owned()],
        }
    }

    /// The same as JSON; `last_successful_flush` as ISO 8601 has it.
    pub fn to_json(&self) -> String {
        self.value().to_string()
    }

    pub(crate) fn value(&self) -> Value {
        let rounded = |mib: f64| (mib * 10.0).round() / 10.0;
        json!({
            "healthy": self.healthy,
            "reasons": self.reasons,
            "tracing_enabled": self.tracing_enabled,
            "processors_count": self.processors_count,
            "memory_usage": self.memory_usage.map(rounded),
            "queue_depth": self.queue_depth,
            "error_rate": self.error_rate,
            "last_successful_flush": self.last_successful_flush.map(timestamp),
        })
    }
}

/// What is noticed over time: which sink keeps spans waiting, when something was dropped, when something was taken.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    sinks: Vec<WatchedSink>,
    taken_at: Option<u64>,
    dropped: u64,
    dropped_at: Option<Instant>,
}

#[derive(Debug)]
struct WatchedSink {
    name: String,
    delivered: u64,
    batches: u64,
    /// Since when spans have waited and none was taken.
    waits_since: Option<Instant>,
}

impl Watch {
    /// Looks at the sinks' counts; the flusher does after each round.
    pub(crate) fn look(&mut self, sinks: &[SinkStats], now: Instant) {
        self.sinks.truncate(sinks.len());
        for (at, stats) in sinks.iter().enumerate() {
            if self.sinks.get(at).is_none_or(|known| known.name != stats.name) {
                // Sinks are added at the end; when one is removed, those behind it are watched anew.
                self.sinks.truncate(at);
                let name = stats.name.clone();
                self.sinks.push(WatchedSink { name, delivered: 0, batches: 0, waits_since: None });
            }
            let known = &mut self.sinks[at];
            if stats.batches > known.batches {
                self.taken_at = Some(spanring::clock::unix_nanos());
            }
            if stats.queued + stats.spooled == 0 || stats.delivered > known.delivered {
                known.waits_since = None;
            }
            if stats.queued + stats.spooled > 0 {
                known.waits_since.get_or_insert(now);
            }
            known.batches = stats.batches;
            known.delivered = stats.delivered;
        }
    }

    /// The sink that has kept spans waiting longest without taking any, and for how long.
    pub(crate) fn longest_wait(&self, now: Instant) -> Option<(String, Duration)> {
        let waiting = self.sinks.iter().filter_map(|sink| Some((sink, sink.waits_since?)));
        let (sink, since) = waiting.min_by_key(|(_, since)| *since)?;
        Some((sink.name.clone(), now.saturating_duration_since(since)))
    }

    /// Looks at what was dropped, as often.
    pub(crate) fn look_at_drops(&mut self, dropped: u64, now: Instant) {
        if dropped > self.dropped {
            self.dropped_at = Some(now);
        }
        // The counts of a sink go with it.
        self.dropped = dropped;
    }
}

/// What else there is to know.
pub(crate) struct Facts<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) stats: &'a PipelineStats,
    /// Whether the pipeline was shut down.
    pub(crate) ended: bool,
    /// Whether the flusher's thread cannot be started.
    pub(crate) start_failed: bool,
    pub(crate) memory: Option<u64>,
    pub(crate) last_minute: Option<LastMinute>,
}

pub(crate) fn evaluate(facts: &Facts<'_>, watch: &mut Watch, now: Instant) -> HealthReport {
    let Facts { settings, stats, ended, start_failed, memory, last_minute } = facts;
    let mut reasons = Vec::new();
    if *ended {
        reasons.push("The pipeline has been shut down.".to_owned());
    } else if settings.disabled {
        reasons.push("Tracing is switched off by the setting DISABLED.".to_owned());
    }
    if *start_failed {
        reasons.push("The flusher's thread cannot be started, so spans stay in memory.".to_owned());
    }
    if stats.engine.flusher_is_stuck {
        reasons.push(
            "The flusher has made no room for as long as OVERFLOW lets threads wait, so until it does they drop spans at once."
                .to_owned(),
        );
    }
    if stats.sinks.is_empty() {
        reasons.push("There is no sink, so spans go nowhere.".to_owned());
    }
    if let Some(bytes) = memory
        && *bytes > settings.health_max_memory
    {
        reasons.push(format!(
            "The process uses {:.1} MiB of memory, and HEALTH_MAX_MEMORY is {:.1} MiB.",
            *bytes as f64 / MIB,
            settings.health_max_memory as f64 / MIB
        ));
    }
    if let Some(minute) = last_minute
        && minute.count >= JUDGED_MIN
        && minute.error_rate() > settings.health_max_error_rate
    {
        reasons.push(format!(
            "{} of the {} spans of the last minute have an error, a share of {:.3}, and HEALTH_MAX_ERROR_RATE is {}.",
            minute.errors,
            minute.count,
            minute.error_rate(),
            settings.health_max_error_rate
        ));
    }
    watch.look_at_drops(dropped(stats), now);
    for (known, sink) in watch.sinks.iter().zip(&stats.sinks) {
        reasons.extend(waits(known, sink, settings.health_sink_grace, now));
    }
    if let Some(at) = watch.dropped_at
        && let ago = now.saturating_duration_since(at)
        && ago < DROPS_COUNT
    {
        reasons.push(drops(stats, ago));
    }
    let queued: u64 = stats.sinks.iter().map(|sink| sink.queued).sum();
    HealthReport {
        tracing_enabled: !ended && !settings.disabled,
        processors_count: stats.sinks.len()
            + stats.processors.iter().filter(|processor| !processor.is_off).count(),
        memory_usage: memory.map(|bytes| bytes as f64 / MIB),
        queue_depth: stats.engine.resident + queued,
        error_rate: last_minute.as_ref().map(LastMinute::error_rate),
        last_successful_flush: watch.taken_at,
        healthy: reasons.is_empty(),
        reasons,
    }
}

fn waits(known: &WatchedSink, sink: &SinkStats, grace: Duration, now: Instant) -> Option<String> {
    let long = now.saturating_duration_since(known.waits_since?);
    (long > grace).then(|| {
        let waiting = sink.queued + sink.spooled;
        let mut reason = format!(
            "Sink {} has taken nothing for {:.1} s, and {waiting} spans wait for it.",
            sink.name,
            long.as_secs_f64()
        );
        if !sink.last_error.is_empty() {
            let _ = write!(reason, " It said: {}", sink.last_error);
        }
        reason
    })
}

fn dropped(stats: &PipelineStats) -> u64 {
    let sinks: u64 = stats.sinks.iter().map(SinkStats::dropped_total).sum();
    stats.engine.dropped.unasked() + sinks
}

fn drops(stats: &PipelineStats, ago: Duration) -> String {
    let mut reason = format!("Spans were dropped {:.0} s ago; so far", ago.as_secs_f64());
    let engine = stats.engine.dropped.iter().filter(|(reason, _)| *reason != Reason::Processor);
    let engine = engine.map(|(reason, count)| (reason.name(), count));
    let sinks = SinkDrop::ALL.map(|reason| {
        (reason.name(), stats.sinks.iter().map(|sink| sink.dropped[reason as usize]).sum())
    });
    let counts = engine.chain(sinks).filter(|(_, count)| *count > 0);
    for (number, (name, count)) in counts.enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let _ = write!(reason, "{comma} {name} {count}");
    }
    reason.push('.');
    reason
}
