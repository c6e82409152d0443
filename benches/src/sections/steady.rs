//! A steady load: is anything dropped at 80 % of what a flusher takes, and what does the flusher cost at
//! lower rates?

use std::time::{Duration, Instant};

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{Settings, clock, record::Records, span};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};

use super::Run;
use crate::measure::{
    NullSink, Numbers, cores, median, nanos_per_tick, pin, process_seconds, thread_seconds,
};
use crate::workload::{self, Clock};

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH: usize = 512;

/// Measures; nothing with one core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    if cores() < 2 {
        return numbers;
    }
    let rate = flusher_rate();
    numbers.set("one flusher takes M/s", rate / 1e6);
    let (pinned, pipeline) = pinned_pipeline(Settings::default());
    assert!(pinned, "threads can be kept on their cores");

    for (name, per_second) in [("1 k", 1e3), ("10 k", 1e4), ("100 k", 1e5), ("1 M", 1e6)] {
        let percent = flusher_percent(per_second, if run.quick { 0.3 } else { 2.0 }, &pipeline);
        numbers.set(format!("flusher at {name} spans/s, % of a core"), percent);
    }
    let seconds = if run.quick { 1.0 } else { 5.0 };
    let eighty = |name: &str, pipeline: &Pipeline, numbers: &mut Numbers| {
        let (before, waited) = (pipeline.stats().engine, waited_millis());
        let made = pace(rate * 0.8, seconds);
        let _ = pipeline.flush(PATIENCE);
        let after = pipeline.stats().engine;
        let dropped = after.dropped.total() - before.dropped.total();
        numbers.set(format!("{name}, M/s"), made / seconds / 1e6);
        numbers.set(format!("{name}, dropped"), dropped as f64);
        numbers.set(format!("{name}, most resident"), after.resident_max as f64);
        numbers.set(format!("{name}, threads waited for a core ms"), waited_millis() - waited);
    };
    eighty("at 80 %", &pipeline, &mut numbers);
    drop(pipeline);
    // What a machine that stops its cores for some ten milliseconds needs.
    let settings = Settings::builder().max_spans(1 << 20).max_bytes(256 << 20);
    let (pinned, pipeline) = pinned_pipeline(settings.build());
    assert!(pinned, "as before");
    eighty("at 80 %, a budget of a million", &pipeline, &mut numbers);
    numbers
}

/// How long this process's threads were ready and had no core, or had it taken away by the machine's host.
fn waited_millis() -> f64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str, at| text.split_whitespace().nth(at)?.parse::<f64>().ok();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| number(&read(task.path().join("schedstat").to_str()?), 1));
    // In ticks of a hundredth of a second.
    let stolen = number(&read("/proc/stat"), 8).unwrap_or(0.0);
    waited.sum::<f64>() / 1e6 + stolen * 10.0
}

/// A pipeline whose flusher stays on core 1, while this thread stays on core 0.
fn pinned_pipeline(settings: Settings) -> (bool, Pipeline) {
    let pipeline = Pipeline::builder().settings(settings).sink(NullSink).install();
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
pub(super) fn flusher_rate() -> f64 {
    let engine = Engine::start(&EngineOptions::default());
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

/// Records spans at a steady rate, in bursts of at most 64; returns how many.
fn pace(per_second: f64, seconds: f64) -> f64 {
    let burst = (per_second / 1e3).clamp(1.0, 64.0).floor();
    let interval = burst / per_second * 1e9 / nanos_per_tick();
    let (begin, first) = (Instant::now(), clock::ticks());
    let mut bursts = 0.0;
    while begin.elapsed().as_secs_f64() < seconds {
        (0..burst as u64).for_each(|_| drop(span!("bench.steady")));
        bursts += 1.0;
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
    pace(per_second, seconds);
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let others = (process_seconds() - all) - (thread_seconds() - own);
    others / begin.elapsed().as_secs_f64() * 100.0
}
