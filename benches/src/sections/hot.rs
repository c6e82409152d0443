//! Spans in bursts within the budget, drained between bursts on the same core, nothing dropped:
//! measure (a) of docs/performance.md.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Waker};

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{Instrument, Span, clock, record::Records, span};

use super::Run;
use crate::measure::{Numbers, median, nanos_per_tick};

pub(super) const BURST: usize = 4096;

/// A name, how many spans a burst has, and the burst, which says how many ticks it took.
type Shape = (&'static str, usize, fn() -> u64);

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let engine = Engine::start(&EngineOptions::default());
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let nanos_per_tick = nanos_per_tick();
    let shapes: &[Shape] = &[
        ("empty loop", BURST, empty),
        ("two clock reads", BURST, clock_reads),
        ("bare", BURST, bare),
        ("4 attributes", BURST, four_attributes),
        ("16 attributes", BURST / 4, sixteen_attributes),
        ("one event", BURST, one_event),
        ("100 kB string", 64, large_string),
        ("nested 1", BURST, nested_1),
        ("nested 10", BURST / 10 * 10, nested_10),
        ("nested 100", BURST / 100 * 100, nested_100),
        ("a span that can be sent", BURST, sendable),
        ("around a future", BURST, future),
    ];
    let rounds = if run.quick { 101 } else { 501 };
    let mut samples = vec![Vec::with_capacity(rounds); shapes.len()];
    for _ in 0..rounds {
        for ((_, spans, burst), samples) in shapes.iter().zip(&mut samples) {
            samples.push(burst() as f64 * nanos_per_tick / *spans as f64);
            while drainer.drain(&mut records, 1024) > 0 {
                drainer.settle(&mut records, None);
            }
        }
    }
    assert_eq!(engine.stats().dropped.total(), 0, "a benchmark that drops measures nothing");
    let mut numbers = Numbers::default();
    for ((name, _, _), samples) in shapes.iter().zip(&mut samples) {
        numbers.set(format!("{name} ns"), median(samples));
    }
    numbers
}

/// Ticks that a burst of `body` takes.
macro_rules! burst {
    ($name:ident, $count:expr, |$i:ident| $body:block) => {
        #[inline(never)]
        pub(super) fn $name() -> u64 {
            let before = clock::ticks();
            for $i in 0..$count {
                $body
                black_box($i);
            }
            clock::ticks() - before
        }
    };
}

burst!(empty, BURST, |i| {});

burst!(clock_reads, BURST, |i| {
    black_box(clock::ticks());
    black_box(clock::ticks());
});

burst!(bare, BURST, |i| {
    let _span = span!("bench.bare");
});

burst!(four_attributes, BURST, |i| {
    let _span = span!(
        "bench.four",
        "db.system" = "postgresql",
        "db.operation" = "select",
        "db.rows" = i as i64,
        "db.shard" = 7
    );
});

burst!(sixteen_attributes, BURST / 4, |i| {
    let _span = span!(
        "bench.sixteen",
        "a.1" = "one",
        "a.2" = "two",
        "a.3" = "three",
        "a.4" = "four",
        "a.5" = i as i64,
        "a.6" = 6,
        "a.7" = 7,
        "a.8" = 8,
        "a.9" = "nine",
        "a.10" = "ten",
        "a.11" = "eleven",
        "a.12" = "twelve",
        "a.13" = i as i64,
        "a.14" = 14,
        "a.15" = 1.5,
        "a.16" = true
    );
});

burst!(one_event, BURST, |i| {
    let mut span = span!("bench.event");
    span.add_event_with("cache.miss", |event| {
        event.set("key", i as i64);
    });
});

fn large_string() -> u64 {
    let text = "x".repeat(100_000);
    let before = clock::ticks();
    for i in 0..64 {
        let _span = span!("bench.large", "prompt" = text.as_str());
        black_box(i);
    }
    clock::ticks() - before
}

fn nested(depth: usize) {
    let _span = span!("bench.nested");
    if depth > 1 {
        nested(black_box(depth - 1));
    }
}

burst!(nested_1, BURST, |i| { nested(1) });
burst!(nested_10, BURST / 10, |i| { nested(10) });
burst!(nested_100, BURST / 100, |i| { nested(100) });

burst!(sendable, BURST, |i| {
    drop(black_box(Span::start("bench.sendable")));
});

burst!(future, BURST, |i| {
    let future = async { black_box(1) }.in_span(Span::start("bench.future"));
    let mut future = pin!(future);
    let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
});
