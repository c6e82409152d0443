//! Memory: a resident span, the engine when idle, idle threads, threads that came and went, a burst.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use spanring::export::{Engine, EngineOptions};
use spanring::{Settings, span};
use spanring_exporter::Pipeline;

use super::Run;
use crate::measure::{NullSink, Numbers};

const PATIENCE: Duration = Duration::from_secs(30);
const CLEANUP: Duration = Duration::from_secs(1);
const IDLE_THREADS: usize = 100;

/// Measures.
pub fn run(_run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    let start = private_bytes();
    let settings = Settings::builder().cleanup_interval(CLEANUP).build();
    let pipeline = Pipeline::builder().settings(settings).sink(NullSink).install();
    let pipeline = pipeline.expect("nothing else is installed");
    drop(span!("bench.first"));
    cleaned_up(&pipeline);
    let idle = private_bytes();
    numbers.set("engine idle MiB", (idle - start) / 1048576.0);

    // Threads that recorded once and wait; what such threads take by themselves is taken off.
    // (Once before: what the system keeps of ended threads is not theirs.)
    idle_threads(|| {});
    let plain = idle_threads(|| {});
    let recorded = idle_threads(|| {
        drop(span!("bench.idle"));
        cleaned_up(&pipeline);
    });
    numbers.set("idle thread after cleanup KiB", (recorded - plain) / 1024.0);

    let before = private_bytes();
    for _ in 0..1000 {
        std::thread::spawn(|| drop(span!("bench.short"))).join().expect("it does not panic");
    }
    cleaned_up(&pipeline);
    numbers.set("1,000 threads that came and went KiB", (private_bytes() - before) / 1024.0);

    let before = private_bytes();
    (0..65_536).for_each(|_| drop(span!("bench.burst", "a" = 1, "b" = 2, "c" = 3, "d" = 4)));
    let during = private_bytes();
    cleaned_up(&pipeline);
    let after = private_bytes();
    numbers.set("a burst, MiB more", (during - before) / 1048576.0);
    numbers.set("after a burst and a cleanup, % more", (after / before - 1.0) * 100.0);
    pipeline.shutdown(PATIENCE).expect("the flusher runs");

    numbers.set("resident span, bare B", resident(|| drop(span!("bench.bare"))));
    let four = || drop(span!("bench.four", "a" = "one", "b" = "two", "c" = 3, "d" = 4));
    numbers.set("resident span, 4 attributes B", resident(four));
    numbers
}

/// Waits until everything is delivered and idle memory was given back, twice the interval at most.
fn cleaned_up(pipeline: &Pipeline) {
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let deadline = Instant::now() + 3 * CLEANUP;
    while pipeline.stats().engine.ring_bytes > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes more for each thread that did `body` and waits.
fn idle_threads(body: impl Fn() + Sync) -> f64 {
    let (ready, done) = (Barrier::new(IDLE_THREADS + 1), Barrier::new(IDLE_THREADS + 1));
    let before = private_bytes();
    std::thread::scope(|scope| {
        for _ in 0..IDLE_THREADS {
            scope.spawn(|| {
                body();
                ready.wait();
                done.wait();
            });
        }
        ready.wait();
        let bytes = private_bytes() - before;
        done.wait();
        bytes / IDLE_THREADS as f64
    })
}

/// Bytes of ring segments a span, with a budget nearly full of them and nobody to drain it. (As many as fill
/// their segments: the last one of a thread may be partly empty.)
fn resident(record: impl Fn()) -> f64 {
    let engine = Engine::start(&EngineOptions::default());
    let _attached = engine.attach();
    (0..59_904).for_each(|_| record());
    let stats = engine.stats();
    assert_eq!(stats.dropped.total(), 0, "they fit into the budget");
    stats.ring_bytes as f64 / stats.resident as f64
}

/// Memory that is this process's own, in bytes.
fn private_bytes() -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    lines.filter_map(kilobytes).sum::<f64>() * 1024.0
}
