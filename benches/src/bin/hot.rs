//! The hot path against two reads of the clock, in one run: measure (a) of docs/performance.md.
//!
//! Bursts of spans within the budget, drained between bursts on the same core, nothing dropped. Prints
//! the median over many interleaved rounds, in ns and as a ratio, and exits with 1 if a bare span
//! takes more than the bound that is given (`--max-ratio 1.5`).

use std::hint::black_box;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{clock, record::Records, span};

const BURST: usize = 4096;
const ROUNDS: usize = 301;

fn main() {
    let mut max_ratio = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next().and_then(|value| value.parse::<f64>().ok())) {
            ("--max-ratio", Some(ratio)) => max_ratio = Some(ratio),
            _ => {
                eprintln!("usage: hot [--max-ratio RATIO]");
                std::process::exit(2);
            }
        }
    }
    let engine = Engine::start(&EngineOptions::default());
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let nanos_per_tick = nanos_per_tick();

    let names = ["two clock reads", "bare span", "4 attributes", "nested child", "empty loop"];
    let mut samples = vec![Vec::new(); names.len()];
    for _ in 0..ROUNDS {
        let bursts: [fn() -> u64; 5] = [clock_reads, bare, four_attributes, child, empty];
        for (burst, samples) in bursts.iter().zip(&mut samples) {
            samples.push(burst() as f64 * nanos_per_tick / BURST as f64);
            while drainer.drain(&mut records, 1024) > 0 {
                drainer.settle(&mut records, None);
            }
        }
    }
    assert_eq!(engine.stats().dropped.total(), 0, "a benchmark that drops measures nothing");
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    for (name, nanos) in names.iter().zip(&medians) {
        println!("{name:<18}{nanos:>8.2} ns{:>8.2} x", nanos / medians[0]);
    }
    let ratio = medians[1] / medians[0];
    if max_ratio.is_some_and(|max| ratio > max) {
        println!("a bare span takes {ratio:.2} times two clock reads: more than allowed");
        std::process::exit(1);
    }
}

/// Ticks that a burst of `body` takes.
macro_rules! burst {
    ($name:ident, |$i:ident| $body:block) => {
        #[inline(never)]
        fn $name() -> u64 {
            let before = clock::ticks();
            for $i in 0..BURST {
                $body
                black_box($i);
            }
            clock::ticks() - before
        }
    };
}

burst!(empty, |i| {});

burst!(clock_reads, |i| {
    black_box(clock::ticks());
    black_box(clock::ticks());
});

burst!(bare, |i| {
    let _span = span!("bench.bare");
});

burst!(four_attributes, |i| {
    let _span = span!(
        "bench.four",
        "db.system" = "postgresql",
        "db.operation" = "select",
        "db.rows" = i as i64,
        "db.shard" = 7
    );
});

#[inline(never)]
fn child() -> u64 {
    let _parent = span!("bench.parent");
    bare()
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn nanos_per_tick() -> f64 {
    let first = clock::Reading::now();
    let mut second = first;
    while second.monotonic - first.monotonic < 20_000_000 {
        second = clock::Reading::now();
    }
    (second.monotonic - first.monotonic) as f64 / (second.ticks - first.ticks) as f64
}
