//! What a span costs the thread that makes it.
//!
//! Spans come in bursts that fit in the budget, and only the bursts are timed: between them everything is
//! flushed, so nothing is dropped and no memory is touched for the first time. The pipeline is one of its
//! own, whose spans count nowhere else, with a sink that takes batches and forgets them.

use std::time::{Duration, Instant};

use serde::Serialize;
use spanring::settings::Settings;
use spanring::{SpanKind, span};
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{Pipeline, StartError};

/// Bursts of each kind; the median of them counts, which an interruption does not move.
const BURSTS: usize = 101;
const BURST_SPANS_MAX: usize = 2048;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What a span costs from start to end, in ns: clock reads, IDs and the record included, what the
/// flusher does on its own thread not.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SpanCost {
    /// A span without attributes.
    pub ns_per_span: f64,
    /// A span with four attributes: two integers, two static strings.
    pub ns_per_span_4_attributes: f64,
    /// Reading the clock twice, which every span does.
    pub ns_two_clock_reads: f64,
}

struct Forget;

impl Sink for Forget {
    fn name(&self) -> &str {
        "forget"
    }

    fn deliver(&mut self, _: &SealedBatch) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Measures on the calling thread.
///
/// # Errors
///
/// If a pipeline cannot be started.
pub fn measure(settings: &Settings) -> Result<SpanCost, StartError> {
    let mut settings = settings.clone();
    settings.disabled = false;
    settings.sampler = Default::default();
    // A quarter is what one thread gets whatever credits the flusher has yet to take back.
    let burst = (settings.max_spans / 4).clamp(1, BURST_SPANS_MAX);
    let pipeline = Pipeline::builder().settings(settings).sink(Forget).build()?;
    let _attached = pipeline.attach();
    let flush = || {
        // What is left only makes the next burst slower.
        let _ = pipeline.flush(FLUSH_TIMEOUT);
    };
    let bare = median(burst, flush, |_| drop(span!("bare", kind: SpanKind::Internal)));
    let with_attributes = median(burst, flush, |number| {
        drop(span!(
            "with attributes",
            "db.rows" = number as i64,
            "db.system.name" = "postgresql",
            "user.id" = 7,
            "db.operation.name" = "SELECT"
        ));
    });
    let clock = median(
        burst,
        || {},
        |_| {
            std::hint::black_box((spanring::clock::ticks(), spanring::clock::ticks()));
        },
    );
    Ok(SpanCost {
        ns_per_span: bare,
        ns_per_span_4_attributes: with_attributes,
        ns_two_clock_reads: clock,
    })
}

/// Nanoseconds a call of `work`, in the median of the bursts.
fn median(burst: usize, between: impl Fn(), work: impl Fn(usize)) -> f64 {
    let mut bursts: Vec<f64> = (0..BURSTS)
        .map(|_| {
            let begun = Instant::now();
            (0..burst).for_each(&work);
            let took = begun.elapsed();
            between();
            took.as_nanos() as f64 / burst as f64
        })
        .collect();
    bursts.sort_by(f64::total_cmp);
    bursts[BURSTS / 2]
}
