//! A span against the bare ring, paced: flusher and consumer on another core, the producer at half the
//! rate that a flusher takes. Measure (b) of docs/performance.md.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{Settings, clock, record::Records, span};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};

use super::Run;
use crate::measure::{NullSink, Numbers, cores, median, nanos_per_tick, pin, thread_seconds};
use crate::workload::{self, Clock};

/// Elements between two looks at the clock.
const BURST: u64 = 64;
const BATCH: usize = 512;
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures; nothing with one core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    if cores() < 2 {
        return numbers;
    }
    let nanos_per_tick = nanos_per_tick();
    let rate = rate_on_flusher_core(Engine::start(&EngineOptions::default())) / 2.0;
    let interval = (BURST as f64 / rate * 1e9 / nanos_per_tick) as u64;
    numbers.set("rate M/s", rate / 1e6);
    let bursts = if run.quick { 2_000 } else { 20_000 };

    // The thread that records first starts the flusher, which stays on its core.
    let settings = Settings::builder().max_spans(1 << 17).build();
    let pipeline = Pipeline::builder().settings(settings).sink(NullSink).install();
    let pipeline = pipeline.expect("nothing else is installed");
    let started = std::thread::scope(|scope| {
        let start = || {
            let pinned = pin(1);
            drop(span!("bench.first"));
            pinned && pipeline.flush(PATIENCE).is_ok()
        };
        scope.spawn(start).join().expect("it does not panic")
    });
    let (mut producer, mut consumer) = rtrb::RingBuffer::<[u64; 8]>::new(1 << 16);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let popper = std::thread::spawn(move || {
        let pinned = pin(1);
        while !stopped.load(Relaxed) {
            while let Ok(element) = consumer.pop() {
                black_box(element);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        pinned
    });
    assert!(started && pin(0), "threads can be kept on their cores");

    let mut full = 0;
    let mut samples = [const { Vec::new() }; 3];
    // Interleaved in stretches, so that what drifts drifts for all.
    for _ in 0..20 {
        full += paced(bursts / 20, interval, nanos_per_tick, &mut samples[0], || {
            drop(span!("bench.paced"));
            false
        });
        full += paced(bursts / 20, interval, nanos_per_tick, &mut samples[1], || {
            producer.push([1, 0, 2, 3, 4, 5, 6, 7]).is_err()
        });
        full += paced(bursts / 20, interval, nanos_per_tick, &mut samples[2], || {
            let start = clock::ticks();
            producer.push([1, 0, 2, 3, start, clock::ticks(), 6, 7]).is_err()
        });
    }
    stop.store(true, Relaxed);
    assert!(popper.join().expect("it does not panic"), "the consumer was kept on its core");
    let medians = samples.map(|mut samples| median(&mut samples));
    let names = ["span ns", "rtrb push ns", "rtrb push with two clock reads ns"];
    for (name, nanos) in names.iter().zip(medians) {
        numbers.set(*name, nanos);
    }
    numbers.set("span / rtrb push", medians[0] / medians[1]);
    numbers.set("span / rtrb push with two clock reads", medians[0] / medians[2]);
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let dropped = pipeline.stats().engine.dropped.total();
    numbers.set("dropped", dropped as f64);
    numbers.set("rtrb, dropped", full as f64);
    // The ring's bursts that were refused are left out above; a span's cannot be told apart.
    assert_eq!(dropped, 0, "what is dropped costs less, so its times would say nothing");
    numbers
}

/// Runs so many bursts, each at its time, and notes what an element cost in those of which `body` refused
/// none; returns how many it refused.
fn paced(
    bursts: u64,
    interval: u64,
    nanos_per_tick: f64,
    samples: &mut Vec<f64>,
    mut body: impl FnMut() -> bool,
) -> u64 {
    let (mut next, mut all) = (clock::ticks(), 0);
    for _ in 0..bursts {
        let before = clock::ticks();
        let refused = (0..BURST).map(|_| u64::from(body())).sum::<u64>();
        let ticks = clock::ticks() - before;
        if refused == 0 {
            samples.push(ticks as f64 * nanos_per_tick / BURST as f64);
        }
        all += refused;
        next += interval;
        while clock::ticks() < next {
            std::hint::spin_loop();
        }
    }
    all
}

/// Bare spans a second that a thread takes from rings to frames on core 1, where the flusher is, which
/// sleeps meanwhile.
fn rate_on_flusher_core(engine: &'static Engine) -> f64 {
    std::thread::scope(|scope| {
        let measure = || {
            assert!(pin(1), "threads can be kept on their cores");
            flusher_rate(engine)
        };
        scope.spawn(measure).join().expect("it does not panic")
    })
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
        (0..32 * BATCH).for_each(|_| drop(span!("bench.paced")));
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
