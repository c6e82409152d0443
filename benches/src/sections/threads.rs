//! Many threads and one flusher; and what a span costs while the flusher sleeps, works, or starves.

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use spanring::{Settings, Span, clock, span};
use spanring_exporter::Pipeline;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

use super::Run;
use crate::measure::{NullSink, Numbers, cores, median, nanos_per_tick, quantile, thread_seconds};

/// Spans of a thread and round: all threads' fit in the budget.
const SPANS: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let pipeline = Pipeline::builder()
        .settings(Settings::builder().max_spans(1 << 17).build())
        .sink(NullSink)
        .install()
        .expect("nothing else is installed");
    let mut numbers = Numbers::default();
    let rounds = if run.quick { 51 } else { 301 };
    let counts: Vec<usize> = (1..=cores()).collect();
    // Interleaved, so that what drifts drifts for all.
    let mut samples = vec![Vec::new(); counts.len()];
    for _ in 0..rounds {
        for (&threads, samples) in counts.iter().zip(&mut samples) {
            samples.push(round(threads, &pipeline));
        }
    }
    for (threads, samples) in counts.iter().zip(&mut samples) {
        numbers.set(format!("{threads} threads ns"), median(samples));
    }
    across(rounds, &pipeline, &mut numbers);
    wakes(rounds, &pipeline, &mut numbers);
    busy(rounds, &mut numbers);
    assert_eq!(pipeline.stats().engine.dropped.total(), 0, "nothing may be dropped here");
    drop(pipeline);
    starved(&mut numbers);
    allocations(&mut numbers);
    numbers
}

/// Processor time a span, in ns, with so many threads recording at once.
fn round(threads: usize, pipeline: &Pipeline) -> f64 {
    let barrier = Barrier::new(threads);
    let seconds: f64 = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    // The ring and its memory are there before the measured part.
                    (0..SPANS).for_each(|_| drop(span!("bench.warm")));
                    pipeline.flush(PATIENCE).expect("the flusher runs");
                    barrier.wait();
                    let before = thread_seconds();
                    (0..SPANS).for_each(|_| drop(span!("bench.threads")));
                    thread_seconds() - before
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("it does not panic")).sum()
    });
    pipeline.flush(PATIENCE).expect("the flusher runs");
    seconds * 1e9 / (threads * SPANS) as f64
}

/// Spans that start on one thread and end on another.
fn across(rounds: usize, pipeline: &Pipeline, numbers: &mut Numbers) {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut spans = Vec::with_capacity(SPANS);
        let before = thread_seconds();
        spans.extend((0..SPANS).map(|_| Span::start("bench.across")));
        starts.push((thread_seconds() - before) * 1e9 / SPANS as f64);
        let ended = std::thread::scope(|scope| {
            let handle = scope.spawn(|| {
                let before = thread_seconds();
                drop(spans);
                thread_seconds() - before
            });
            handle.join().expect("it does not panic")
        });
        ends.push(ended * 1e9 / SPANS as f64);
        pipeline.flush(PATIENCE).expect("the flusher runs");
    }
    numbers.set("started here, to end elsewhere ns", median(&mut starts));
    numbers.set("started elsewhere, ended here ns", median(&mut ends));
}

/// The first span after a pause wakes the flusher; the next ones do not.
fn wakes(rounds: usize, pipeline: &Pipeline, numbers: &mut Numbers) {
    let (mut first, mut next) = (Vec::new(), Vec::new());
    for _ in 0..rounds.min(50) {
        pipeline.flush(PATIENCE).expect("the flusher runs");
        // Not a synchronisation: a flusher that still polls makes the first span cheaper, no more.
        std::thread::sleep(Duration::from_millis(20));
        for samples in [&mut first, &mut next] {
            let before = thread_seconds();
            drop(span!("bench.wake"));
            samples.push((thread_seconds() - before) * 1e9);
        }
    }
    numbers.set("first span while the flusher sleeps ns", median(&mut first));
    numbers.set("the span after it ns", median(&mut next));
    // From idle to active at most once a round, and then threads record for a while.
    let before = pipeline.stats();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(20));
        for _ in 0..1000 {
            drop(span!("bench.wake"));
            std::hint::spin_loop();
        }
    }
    let after = pipeline.stats();
    numbers.set(
        "wake-ups by threads, a change from idle to active",
        (after.engine.wakes - before.engine.wakes) as f64 / 50.0,
    );
}

/// Allocations of a span, by a program whose allocator counts.
fn allocations(numbers: &mut Numbers) {
    for shape in ["bare", "four"] {
        let program = std::env::current_exe().expect("it runs").with_file_name("counts");
        let output = std::process::Command::new(&program).args([shape, "1000000"]).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let text = String::from_utf8_lossy(&output.stdout);
        let count: f64 = text.trim().parse().expect("it prints a number");
        numbers.set(format!("allocations, a million spans, {shape}"), count);
    }
}

/// Single spans while the flusher works all the time: recorded at 5 million a second.
fn busy(rounds: usize, numbers: &mut Numbers) {
    const BURST: usize = 64;
    let nanos_per_tick = nanos_per_tick();
    let interval = (BURST as f64 / 5e6 * 1e9 / nanos_per_tick) as u64;
    let mut samples = Vec::with_capacity(rounds * SPANS);
    let mut next = clock::ticks();
    for _ in 0..rounds * SPANS / BURST {
        for _ in 0..BURST {
            let before = clock::ticks();
            drop(span!("bench.busy"));
            samples.push((clock::ticks() - before) as f64 * nanos_per_tick);
        }
        next += interval;
        while clock::ticks() < next {
            std::hint::spin_loop();
        }
    }
    for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        numbers.set(format!("flusher busy, span {name} ns"), quantile(&mut samples, q));
    }
}

/// A sink that holds its flusher until it is let go.
#[derive(Debug, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Sink for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn deliver(&mut self, _batch: &SealedBatch) -> Result<(), SinkError> {
        let (open, opened) = &*self.0;
        let open = open.lock().expect("nobody panics");
        drop(opened.wait_while(open, |open| !*open).expect("nobody panics"));
        Ok(())
    }
}

/// Single spans while the flusher does not get on: they fill the budget, then they are refused, counted.
fn starved(numbers: &mut Numbers) {
    let gate = Gate::default();
    let latch = Arc::clone(&gate.0);
    let pipeline = Pipeline::builder().settings(Settings::default()).sink(gate).install();
    let pipeline = pipeline.expect("nothing else is installed");
    let nanos_per_tick = nanos_per_tick();
    let dropped = || pipeline.stats().engine.dropped.total();
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    while refused.len() < 100_000 {
        // One look at the counts a burst: it costs more than a span.
        let before = dropped();
        let mut burst = [0.0; 64];
        for nanos in &mut burst {
            let before = clock::ticks();
            drop(span!("bench.starved"));
            *nanos = (clock::ticks() - before) as f64 * nanos_per_tick;
        }
        match dropped() - before {
            0 => kept.extend(burst),
            64 => refused.extend(burst),
            _ => {}
        }
    }
    numbers.set("flusher starved, spans kept", kept.len() as f64);
    numbers.set("flusher starved, span kept p50 ns", quantile(&mut kept, 0.5));
    numbers.set("flusher starved, span kept p99.9 ns", quantile(&mut kept, 0.999));
    numbers.set("flusher starved, span refused p50 ns", quantile(&mut refused, 0.5));
    numbers.set("flusher starved, span refused p99.9 ns", quantile(&mut refused, 0.999));
    let (open, opened) = &*latch;
    *open.lock().expect("nobody panics") = true;
    opened.notify_all();
    pipeline.shutdown(PATIENCE).expect("the flusher goes on");
    let stats = pipeline.stats().engine;
    assert_eq!(stats.created, stats.sealed + stats.dropped.total(), "all are accounted for");
}
