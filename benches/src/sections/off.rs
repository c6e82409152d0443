//! Spans that record nothing: not sampled, or tracing disabled. Above an empty loop.

use std::hint::black_box;

use spanring::export::{Engine, EngineOptions};
use spanring::{RootSampler, clock, span};

use super::Run;
use crate::measure::{Numbers, median, nanos_per_tick};

const BURST: usize = 4096;

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let nanos_per_tick = nanos_per_tick();
    let rounds = if run.quick { 101 } else { 1001 };
    let mut numbers = Numbers::default();
    // Without a pipeline, which is what `SPANRING_DISABLED` comes to as well.
    let without = medians(&[empty, root], rounds, nanos_per_tick);
    numbers.set("disabled ns", without[1] - without[0]);

    let options = EngineOptions { sampler: RootSampler::AlwaysOff, ..EngineOptions::default() };
    let engine = Engine::start(&options);
    assert!(engine.install(), "another engine is installed");
    let off = medians(&[empty, root, child, four_attributes], rounds, nanos_per_tick);
    assert_eq!(engine.stats().created, 0, "nothing is sampled here");
    numbers.set("not sampled, root ns", off[1] - off[0]);
    numbers.set("not sampled, child ns", off[2] - off[0]);
    numbers.set("not sampled, root, 4 attributes ns", off[3] - off[0]);
    numbers
}

fn medians(bursts: &[fn() -> u64], rounds: usize, nanos_per_tick: f64) -> Vec<f64> {
    let mut samples = vec![Vec::with_capacity(rounds); bursts.len()];
    for _ in 0..rounds {
        for (burst, samples) in bursts.iter().zip(&mut samples) {
            samples.push(burst() as f64 * nanos_per_tick / BURST as f64);
        }
    }
    samples.iter_mut().map(|samples| median(samples)).collect()
}

#[inline(never)]
fn empty() -> u64 {
    let before = clock::ticks();
    for i in 0..BURST {
        black_box(i);
    }
    clock::ticks() - before
}

#[inline(never)]
fn root() -> u64 {
    let before = clock::ticks();
    for i in 0..BURST {
        let _span = span!("bench.off");
        black_box(i);
    }
    clock::ticks() - before
}

#[inline(never)]
fn child() -> u64 {
    let _parent = span!("bench.parent");
    root()
}

#[inline(never)]
fn four_attributes() -> u64 {
    let before = clock::ticks();
    for i in 0..BURST {
        let _span = span!("bench.off", "a" = i as i64, "b" = 2, "c" = "three", "d" = "four");
        black_box(i);
    }
    clock::ticks() - before
}
