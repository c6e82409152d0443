//! Single spans, each timed alone on a warm ring; the clock's own quantiles beside them.

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{clock, record::Records, span};

use super::Run;
use crate::measure::{Numbers, nanos_per_tick, quantile};

const BURST: usize = 4096;

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let engine = Engine::start(&EngineOptions::default());
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let nanos_per_tick = nanos_per_tick();
    let rounds = if run.quick { 100 } else { 500 };
    let (mut clocks, mut spans) =
        (Vec::with_capacity(rounds * BURST), Vec::with_capacity(rounds * BURST));
    for round in 0..rounds + 10 {
        let keep = round >= 10;
        for _ in 0..BURST {
            let before = clock::ticks();
            let after = clock::ticks();
            if keep {
                clocks.push((after - before) as f64 * nanos_per_tick);
            }
        }
        for _ in 0..BURST {
            let before = clock::ticks();
            drop(span!("bench.tail"));
            let after = clock::ticks();
            if keep {
                spans.push((after - before) as f64 * nanos_per_tick);
            }
        }
        while drainer.drain(&mut records, 1024) > 0 {
            drainer.settle(&mut records, None);
        }
    }
    assert_eq!(engine.stats().dropped.total(), 0, "a benchmark that drops measures nothing");
    let mut numbers = Numbers::default();
    for (what, samples) in [("clock", &mut clocks), ("span", &mut spans)] {
        for (name, q) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)] {
            numbers.set(format!("{what} {name} ns"), quantile(samples, q));
        }
    }
    numbers
}
