//! A steady load: is anything dropped at 80 % of what a flusher takes, and what does the flusher cost at
//! lower rates?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{Settings, clock, record::Records, span};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

use super::Run;
use crate::measure::{
    Numbers, cores, median, nanos_per_tick, pin, process_seconds, thread_seconds,
};
use crate::workload::{self, Clock};

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH: usize = 512;

/// How often the flusher's rate is measured after each of the lower loads, so over ten seconds.
const RATES: usize = 15;

/// Measures; nothing with one core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    if cores() < 2 {
        return numbers;
    }
    let taker = Engine::start(&EngineOptions::default());
    let stops = Stops::default();
    let (pinned, pipeline) = pinned_pipeline(Settings::default(), &stops);
    assert!(pinned, "threads can be kept on their cores");

    // A core that others use, too, takes half as much in one second as in the next: steady is what it takes at
    // its slowest.
    let mut rates = Vec::new();
    for (name, per_second) in [("1 k", 1e3), ("10 k", 1e4), ("100 k", 1e5), ("1 M", 1e6)] {
        let percent = flusher_percent(per_second, if run.quick { 0.3 } else { 2.0 }, &pipeline);
        numbers.set(format!("flusher at {name} spans/s, % of a core"), percent);
        rates.extend((0..RATES).map(|_| rate_on_flusher_core(taker)));
    }
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    numbers.set("one flusher takes M/s", median(&mut rates) / 1e6);
    numbers.set("one flusher takes at its slowest M/s", slowest / 1e6);
    let seconds = if run.quick { 1.0 } else { 5.0 };
    let nanos_per_tick = nanos_per_tick();
    let eighty = |name: &str, pipeline: &Pipeline, numbers: &mut Numbers| {
        let before = pipeline.stats().engine;
        let made = pace(slowest * 0.8, seconds, || stops.longest.store(0, Relaxed));
        let _ = pipeline.flush(PATIENCE);
        let after = pipeline.stats().engine;
        let dropped = after.dropped.total() - before.dropped.total();
        numbers.set(format!("{name}, M/s"), made / seconds / 1e6);
        numbers.set(format!("{name}, dropped"), dropped as f64);
        numbers.set(format!("{name}, most resident"), after.resident_max as f64);
        let longest = stops.longest.load(Relaxed) as f64 * nanos_per_tick / 1e6;
        numbers.set(format!("{name}, longest time without a batch ms"), longest);
    };
    eighty("at 80 %", &pipeline, &mut numbers);
    drop(pipeline);
    // What a machine that stops its cores for some ten milliseconds needs.
    let settings = Settings::builder().max_spans(1 << 20).max_bytes(256 << 20);
    let (pinned, pipeline) = pinned_pipeline(settings.build(), &stops);
    assert!(pinned, "as before");
    eighty("at 80 %, a budget of a million", &pipeline, &mut numbers);
    numbers
}

/// Bare spans a second that a thread takes from rings to frames on core 1, where the flusher is, which
/// sleeps meanwhile.
pub(super) fn rate_on_flusher_core(engine: &'static Engine) -> f64 {
    std::thread::scope(|scope| {
        let measure = || {
            assert!(pin(1), "threads can be kept on their cores");
            flusher_rate(engine)
        };
        scope.spawn(measure).join().expect("it does not panic")
    })
}

/// A sink that keeps nothing but the longest time, in ticks, between two batches. There is one every tenth of
/// a millisecond here: what is longer is a stop of the flusher's core, or of the thread that records.
#[derive(Clone, Default)]
struct Stops {
    last: u64,
    longest: Arc<AtomicU64>,
}

impl Sink for Stops {
    fn name(&self) -> &str {
        "stops"
    }

    fn deliver(&mut self, _batch: &SealedBatch) -> Result<(), SinkError> {
        let now = clock::ticks();
        if self.last != 0 {
            self.longest.fetch_max(now - self.last, Relaxed);
        }
        self.last = now;
        Ok(())
    }
}

/// A pipeline whose flusher stays on core 1, while this thread stays on core 0.
fn pinned_pipeline(settings: Settings, stops: &Stops) -> (bool, Pipeline) {
    let pipeline = Pipeline::builder().settings(settings).sink(stops.clone()).install();
    let pipeline = pipeline.expect("nothing else is installed");
    // The thread that records first starts the flusher, which stays on its core.
    let started = std::thread::scope(|scope| {
        let start = || {
            let pinned = pin(1);
            drop(span!("bench.first"));
            pinned && pipeline.flush(PATIENCE).is_ok()
        };
        scope.spawn(start).join().expect("it does not panic")
    });
    (started && pin(0), pipeline)
}

/// Bare spans a second that this thread takes from rings to frames, in processor time.
fn flusher_rate(engine: &'static Engine) -> f64 {
    let attached = engine.attach();
    let (mut drainer, mut records) = (Drainer::new(engine), Records::new());
    let mut encoder = Encoder::new().expect("there is memory");
    let mut around = workload::bare(1);
    around.keys = *engine.id_keys();
    let clock = Clock::default();
    let mut rates = Vec::new();
    for _ in 0..21 {
        (0..32 * BATCH).for_each(|_| drop(span!("bench.steady")));
        let (before, mut spans) = (thread_seconds(), 0);
        while drainer.drain(&mut records, BATCH) > 0 {
            let context = workload::context(&around, &clock, 1, LEVEL_DEFAULT);
            encoder.encode(&records, &context).expect("it is within all limits");
            spans += records.len();
            drainer.settle(&mut records, None);
        }
        rates.push(spans as f64 / (thread_seconds() - before));
    }
    drop(attached);
    median(&mut rates)
}

/// Records spans at a steady rate, in bursts of at most 64; returns how many. Calls `begun` after the first
/// hundredth of a second.
fn pace(per_second: f64, seconds: f64, begun: impl FnOnce()) -> f64 {
    let burst = (per_second / 1e3).clamp(1.0, 64.0).floor();
    let interval = burst / per_second * 1e9 / nanos_per_tick();
    let (begin, first) = (Instant::now(), clock::ticks());
    let mut bursts = 0.0;
    let mut begun = Some(begun);
    while begin.elapsed().as_secs_f64() < seconds {
        (0..burst as u64).for_each(|_| drop(span!("bench.steady")));
        bursts += 1.0;
        if begin.elapsed().as_millis() >= 10
            && let Some(begun) = begun.take()
        {
            begun();
        }
        let next = first + (bursts * interval) as u64;
        while clock::ticks() < next {
            std::hint::spin_loop();
        }
    }
    burst * bursts
}

/// What other threads than this one used of a core meanwhile.
fn flusher_percent(per_second: f64, seconds: f64, pipeline: &Pipeline) -> f64 {
    let (all, own) = (process_seconds(), thread_seconds());
    let begin = Instant::now();
    pace(per_second, seconds, || ());
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let others = (process_seconds() - all) - (thread_seconds() - own);
    others / begin.elapsed().as_secs_f64() * 100.0
}
