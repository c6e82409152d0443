//! Does one thing a given number of times, for tools that count instructions or system calls: see
//! `benches/counts`.
//!
//! ```text
//! counts SHAPE TIMES
//! ```
//!
//! Shapes that record spans print how many allocations the recording made after the first burst.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::ExitCode;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{RootSampler, record::Records, span};
use spanring_benches::measure::NullSink;
use spanring_benches::workload::{self, Clock};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a count beside it that neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHAPES: &str = "bare, four, child, unsampled, disabled, reload, reload-alone, encode-bare, encode-four, pipeline";
/// Spans between two drains.
const BURST: u64 = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let times = arguments.get(1).and_then(|times| times.parse::<u64>().ok());
    let (Some(shape), Some(times), 2) = (arguments.first(), times, arguments.len()) else {
        eprintln!("usage: counts SHAPE TIMES   (shapes: {SHAPES})");
        return ExitCode::from(2);
    };
    match shape.as_str() {
        "bare" => spans(times, RootSampler::AlwaysOn, || drop(span!("count.bare"))),
        "four" => spans(times, RootSampler::AlwaysOn, || {
            drop(span!("count.four", "a" = "one", "b" = "two", "c" = 3, "d" = 4));
        }),
        "child" => {
            spans(times / 2, RootSampler::AlwaysOn, || {
                let _parent = span!("count.parent");
                drop(span!("count.child"));
            });
        }
        "unsampled" => spans(times, RootSampler::AlwaysOff, || drop(span!("count.unsampled"))),
        "disabled" => (0..times).for_each(|_| drop(span!("count.disabled"))),
        "reload" => reloads(times, true),
        "reload-alone" => reloads(times, false),
        "encode-bare" => encode(times, &workload::bare(512)),
        "encode-four" => encode(times, &workload::four(512)),
        "pipeline" => pipeline(times),
        _ => {
            eprintln!("counts: there is no shape {shape}; there are: {SHAPES}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Spans between two changes of the settings.
const SPANS_A_RELOAD: u64 = 64;

/// Puts other settings in force, as a change of the file or a live call does: with an odd number others than with an even one.
fn reload(engine: &'static Engine, number: u64) {
    let attribute_count = 128 - (number % 2) as u32;
    engine.reconfigure(&EngineOptions { attribute_count, ..EngineOptions::default() });
}

/// Bursts within the budget; what drains them is counted, too, but does no more than copy.
fn spans(times: u64, sampler: RootSampler, record: impl Fn()) {
    let engine = Engine::start(&EngineOptions { sampler, ..EngineOptions::default() });
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let mut left = times;
    let mut allocations = 0;
    while left > 0 {
        let burst = left.min(BURST);
        let before = ALLOCATIONS.get();
        (0..burst).for_each(|_| record());
        if left < times {
            allocations += ALLOCATIONS.get() - before;
        }
        while drainer.drain(&mut records, 1024) > 0 {
            drainer.settle(&mut records, None);
        }
        left -= burst;
    }
    assert_eq!(engine.stats().dropped.total(), 0, "what is dropped is not measured");
    println!("{allocations}");
}

/// A change of the settings before each so many spans, with the spans or without: the difference is the spans, which then begin with
/// one that takes the long way.
fn reloads(times: u64, with_spans: bool) {
    let engine = Engine::start(&EngineOptions::default());
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    for number in 0..times / SPANS_A_RELOAD {
        reload(engine, number);
        if with_spans {
            (0..SPANS_A_RELOAD).for_each(|_| drop(span!("count.reload")));
        }
        if number % (BURST / SPANS_A_RELOAD) == 0 {
            while drainer.drain(&mut records, 1024) > 0 {
                drainer.settle(&mut records, None);
            }
        }
    }
    assert_eq!(engine.stats().dropped.total(), 0, "what is dropped is not measured");
}

fn encode(times: u64, workload: &workload::Workload) {
    let clock = Clock::default();
    let mut encoder = Encoder::new().expect("there is memory");
    let mut left = times;
    for records in workload.batches.iter().cycle() {
        if left < records.len() as u64 {
            return;
        }
        left -= records.len() as u64;
        let context = workload::context(workload, &clock, 7, LEVEL_DEFAULT);
        encoder.encode(records, &context).expect("it is within all limits");
    }
}

fn pipeline(times: u64) {
    let pipeline = Pipeline::builder().sink(NullSink).install().expect("nothing is installed");
    let patience = std::time::Duration::from_secs(60);
    for done in 0..times {
        drop(span!("count.pipeline"));
        // So that nothing is dropped, however little of a core the flusher gets.
        if done % 16_384 == 16_383 {
            pipeline.flush(patience).expect("the flusher runs");
        }
    }
    pipeline.shutdown(patience).expect("the flusher runs");
    assert_eq!(pipeline.stats().engine.dropped.total(), 0, "what is dropped is not measured");
}
