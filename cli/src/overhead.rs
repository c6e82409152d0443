//! What a span costs here, in this build: the thread that makes it, and the flusher.
//!
//! Spans come in bursts that fit in the budget. Only the bursts are timed, between them everything is flushed, and the median of the
//! bursts counts, which an interruption does not move; the shapes take turns, so that a machine that changes does so to
//! all of them. The flusher's part is the processor time of its thread, from the rings to a sink that forgets.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;
use spanring::settings::{RootSampler, SamplerSetting, Settings};
use spanring::{Interned, span};
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{Pipeline, StartError};

const BURST: usize = 2048;
/// Fewer say nothing.
const ROUNDS_MIN: usize = 11;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Nanoseconds of the thread that makes a span, from start to end, above those of an empty loop; and of the flusher.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Costs {
    /// Attributes that the spans with attributes have.
    pub attributes: usize,
    /// Reading the clock twice, which every recorded span does.
    pub two_clock_reads: f64,
    /// A span without attributes.
    pub bare: f64,
    /// A span with attributes, numbers and texts in turn, set one by one.
    pub with_attributes: f64,
    /// A root span that is not sampled.
    pub unsampled: f64,
    /// A span while there is no pipeline.
    pub disabled: f64,
    /// Of the flusher, a span without attributes; `None` where the system does not tell.
    pub flusher_bare: Option<f64>,
    /// Of the flusher, a span with attributes.
    pub flusher_with_attributes: Option<f64>,
    /// Bursts of each.
    pub rounds: usize,
}

impl Costs {
    /// Part of one core that spans with attributes take at a rate in spans a second: of the threads that make them, and of the flusher.
    pub fn shares_at(&self, rate: f64) -> (f64, Option<f64>) {
        let part = |nanos: f64| nanos * rate / 1e9;
        (part(self.with_attributes), self.flusher_with_attributes.map(part))
    }
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

/// Measures on the calling thread, for about as long as `time`.
///
/// # Errors
///
/// If a pipeline cannot be started.
///
/// # Panics
///
/// If a pipeline was made in this process before: then nothing is disabled.
pub fn measure(attributes: usize, time: Duration) -> Result<Costs, StartError> {
    let keys: Vec<_> = (0..attributes)
        .map(|number| Interned::new(&format!("key.{number}")).expect("there is room for some"))
        .collect();
    let bare = || drop(span!("bare"));
    let end = Instant::now() + time;
    let mut disabled = Samples::default();
    let mut empty = Samples::default();
    for _ in 0..ROUNDS_MIN * 10 {
        empty.add(|| {});
        assert!(!span!("none").is_recording(), "measured before any pipeline is made");
        disabled.add(bare);
    }
    let start = |sampler| {
        let settings = Settings::builder().ignore_environment().sampler(sampler).build();
        Pipeline::builder().settings(settings).sink(Forget).build()
    };
    let [on, off] = [RootSampler::AlwaysOn, RootSampler::AlwaysOff]
        .map(|root| start(SamplerSetting { parent_based: true, root }));
    // Two, so that the flusher's time for each is told apart.
    let (bare_spans, full_spans, off) = (on?, start(SamplerSetting::default())?, off?);
    let [mut clock, mut plain, mut full, mut unsampled] = [const { Samples(Vec::new()) }; 4];
    while plain.0.len() < ROUNDS_MIN || Instant::now() < end {
        clock.add(|| {
            black_box((spanring::clock::ticks(), spanring::clock::ticks()));
        });
        {
            let _attached = off.attach();
            unsampled.add(bare);
        }
        {
            let _attached = bare_spans.attach();
            plain.add(bare);
        }
        // What is left only makes the next burst slower.
        let _ = bare_spans.flush(FLUSH_TIMEOUT);
        {
            let _attached = full_spans.attach();
            full.add(|| {
                let mut span = span!("with attributes");
                for (number, key) in keys.iter().enumerate() {
                    match number % 2 {
                        0 => span.set_attribute(*key, number as i64),
                        _ => span.set_attribute(*key, "a text"),
                    };
                }
            });
        }
        let _ = full_spans.flush(FLUSH_TIMEOUT);
    }
    let floor = empty.median();
    let above = |samples: &Samples| (samples.median() - floor).max(0.0);
    Ok(Costs {
        attributes,
        two_clock_reads: above(&clock),
        bare: above(&plain),
        with_attributes: above(&full),
        unsampled: above(&unsampled),
        disabled: above(&disabled),
        flusher_bare: flusher_nanos(&bare_spans),
        flusher_with_attributes: flusher_nanos(&full_spans),
        rounds: plain.0.len(),
    })
}

/// Processor time of a pipeline's flusher a span.
fn flusher_nanos(pipeline: &Pipeline) -> Option<f64> {
    let metrics = pipeline.metrics();
    let spans = metrics.stats.engine.sealed.max(1);
    Some(metrics.flusher_cpu?.as_nanos() as f64 / spans as f64)
}

/// Nanoseconds of one, of each burst.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, work: impl Fn()) {
        let begin = Instant::now();
        for number in 0..BURST {
            work();
            black_box(number);
        }
        self.0.push(begin.elapsed().as_nanos() as f64 / BURST as f64);
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}
