//! A steady load: is anything dropped at 80 % of what a flusher takes, and what does the flusher cost at
//! lower rates?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use spanring::{Settings, clock, span};
use spanring_exporter::Pipeline;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

use super::{Run, encode};
use crate::measure::{Numbers, cores, nanos_per_tick, pin, process_seconds, thread_seconds};
use crate::performed::Performed;

const PATIENCE: Duration = Duration::from_secs(30);

/// A name, what records spans and calls back after each, and how many millions a second a flusher must take.
type Shape<'a> = (&'static str, &'a dyn Fn(&mut dyn FnMut()), f64);

/// What a flusher's core that is stopped for tens of milliseconds needs at tens of millions of spans a second.
const LARGE_BUDGET: usize = 1 << 20;

/// Measures; nothing with one core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    if cores() < 2 {
        return numbers;
    }
    let seconds = if run.quick { 1.0 } else { 5.0 };
    let stops = Stops::default();
    let pipeline = pinned_pipeline(Settings::default(), &stops);
    for (name, per_second) in [("1 k", 1e3), ("10 k", 1e4), ("100 k", 1e5), ("1 M", 1e6)] {
        let percent = flusher_percent(per_second, if run.quick { 0.3 } else { 2.0 }, &pipeline);
        numbers.set(format!("flusher at {name} spans/s, % of a core"), percent);
    }
    let webshop = Performed::load(&run.data, "webshop");
    let shapes: [Shape<'_>; 3] = [
        ("bare", &|ended| repeat(bare, ended), 7.0),
        ("4 attributes", &|ended| repeat(encode::four_attributes, ended), 3.0),
        ("webshop", &|ended| webshop.perform(ended), 1.5),
    ];
    let mut eighty = Vec::new();
    for (name, record, must) in shapes {
        let of_must =
            Load { name: format!("80 % of the must, {name}"), per_second: must * 0.8e6, record };
        of_must.run(seconds, &pipeline, &stops, &mut numbers);
        let rate = flooded(seconds, &pipeline, record);
        numbers.set(format!("one flusher takes, {name} M/s"), rate / 1e6);
        let name = format!("80 %, {name}, a budget of 65,536");
        let load = Load { name, per_second: rate * 0.8, record };
        load.run(seconds, &pipeline, &stops, &mut numbers);
        eighty.push(load);
    }
    drop(pipeline);
    let settings = Settings::builder().max_spans(LARGE_BUDGET).max_bytes(256 << 20);
    let pipeline = pinned_pipeline(settings.build(), &stops);
    for (load, (name, ..)) in eighty.iter_mut().zip(shapes) {
        load.name = format!("80 %, {name}");
        load.run(seconds, &pipeline, &stops, &mut numbers);
    }
    numbers
}

/// Spans a second that the flusher on its core seals while this thread records as many as it can, most of which are
/// dropped.
fn flooded(seconds: f64, pipeline: &Pipeline, record: &dyn Fn(&mut dyn FnMut())) -> f64 {
    let sealed = || pipeline.stats().engine.sealed;
    let (before, begin) = (sealed(), Instant::now());
    while begin.elapsed().as_secs_f64() < seconds {
        record(&mut || ());
    }
    let rate = (sealed() - before) as f64 / begin.elapsed().as_secs_f64();
    let _ = pipeline.flush(PATIENCE);
    rate
}

/// A steady load from one thread.
struct Load<'a> {
    name: String,
    per_second: f64,
    record: &'a dyn Fn(&mut dyn FnMut()),
}

impl Load<'_> {
    fn run(&self, seconds: f64, pipeline: &Pipeline, stops: &Stops, numbers: &mut Numbers) {
        let Load { name, per_second, record } = self;
        let before = pipeline.stats().engine;
        let rate = pace(*per_second, seconds, record, || stops.longest.store(0, Relaxed));
        let _ = pipeline.flush(PATIENCE);
        let after = pipeline.stats().engine;
        let dropped = after.dropped.total() - before.dropped.total();
        numbers.set(format!("at {name}, M/s"), rate / 1e6);
        numbers.set(format!("at {name}, dropped"), dropped as f64);
        numbers.set(format!("at {name}, most resident"), after.resident_max as f64);
        let longest = stops.longest.load(Relaxed) as f64 * nanos_per_tick() / 1e6;
        numbers.set(format!("at {name}, longest time without a batch ms"), longest);
    }
}

/// Records a bare span.
fn bare(_: usize) {
    let _span = span!("bench.steady");
}

/// Records spans alike.
fn repeat(record: fn(usize), ended: &mut dyn FnMut()) {
    for i in 0..64 {
        record(i);
        ended();
    }
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
fn pinned_pipeline(settings: Settings, stops: &Stops) -> Pipeline {
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
    assert!(started && pin(0), "threads can be kept on their cores");
    pipeline
}

/// Records spans at a steady rate, in bursts of at most 64; returns the rate. Calls `begun` after the first
/// hundredth of a second.
fn pace(
    per_second: f64,
    seconds: f64,
    record: &dyn Fn(&mut dyn FnMut()),
    begun: impl FnOnce(),
) -> f64 {
    let burst = (per_second / 1e3).clamp(1.0, 64.0) as u64;
    let interval = burst as f64 / per_second * 1e9 / nanos_per_tick();
    let (begin, first) = (Instant::now(), clock::ticks());
    let mut made = 0;
    let mut begun = Some(begun);
    while begin.elapsed().as_secs_f64() < seconds {
        record(&mut || {
            made += 1;
            if made % burst == 0 {
                let next = first + ((made / burst) as f64 * interval) as u64;
                while clock::ticks() < next {
                    std::hint::spin_loop();
                }
            }
        });
        if begin.elapsed().as_millis() >= 10
            && let Some(begun) = begun.take()
        {
            begun();
        }
    }
    made as f64 / begin.elapsed().as_secs_f64()
}

/// What other threads than this one used of a core meanwhile.
fn flusher_percent(per_second: f64, seconds: f64, pipeline: &Pipeline) -> f64 {
    let (all, own) = (process_seconds(), thread_seconds());
    let begin = Instant::now();
    pace(per_second, seconds, &|ended| repeat(bare, ended), || ());
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let others = (process_seconds() - all) - (thread_seconds() - own);
    others / begin.elapsed().as_secs_f64() * 100.0
}
