//! From ring to compressed bytes: what one flusher's thread can take, in processor time.

use std::hint::black_box;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::{record::Records, span};
use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};

use super::Run;
use super::size::{FILES, LEVELS};
use crate::measure::{Numbers, median, thread_seconds};
use crate::recorded;
use crate::workload::{self, Clock, Workload};

/// Spans of a burst, all of which the budget has room for.
const BURST: usize = 32 * 512;
const BATCH: usize = 512;

/// A name, and what records one span.
pub(super) type Shape = (&'static str, fn(usize));

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let clock = Clock::default();
    let mut numbers = Numbers::default();
    let rounds = if run.quick { 11 } else { 51 };
    from_rings(rounds, &clock, &mut numbers);
    let mut workloads = vec![workload::bare(BATCH), workload::four(BATCH)];
    workloads.extend(FILES.map(|file| {
        let loaded = recorded::load(&run.data, file, BATCH, 1);
        loaded.unwrap_or_else(|message| panic!("{message}")).0
    }));
    for workload in &workloads {
        for &level in if run.quick { &[LEVEL_DEFAULT][..] } else { LEVELS } {
            let rate = from_records(workload, &clock, level, rounds);
            numbers.set(format!("records to frame, {}, level {level} M/s", workload.name), rate);
        }
    }
    numbers
}

/// Spans that this thread recorded, drained, encoded and settled by it as by a flusher: millions a second.
fn from_rings(rounds: usize, clock: &Clock, numbers: &mut Numbers) {
    let engine = Engine::start(&EngineOptions::default());
    assert!(engine.install(), "another engine is installed");
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let mut encoder = Encoder::new().expect("there is memory");
    // Only for what a batch is encoded with; its spans are the drained ones.
    let mut around = workload::bare(1);
    around.keys = *engine.id_keys();
    let shapes: [Shape; 3] =
        [("bare", bare), ("4 attributes", four_attributes), ("16 attributes", sixteen_attributes)];
    let mut rates = vec![Vec::new(); shapes.len()];
    let (mut sequence, mut bytes) = (0, 0);
    for _ in 0..rounds {
        for ((_, record), rates) in shapes.iter().zip(&mut rates) {
            (0..BURST).for_each(record);
            let before = thread_seconds();
            let mut spans = 0;
            while drainer.drain(&mut records, BATCH) > 0 {
                let context = workload::context(&around, clock, sequence, LEVEL_DEFAULT);
                bytes += encoder.encode(&records, &context).expect("within limits").frame.len();
                sequence += 1;
                spans += records.len();
                drainer.settle(&mut records, None);
            }
            rates.push(spans as f64 / (thread_seconds() - before) / 1e6);
            assert_eq!(spans, BURST, "everything was drained");
        }
    }
    black_box(bytes);
    assert_eq!(engine.stats().dropped.total(), 0, "a benchmark that drops measures nothing");
    for ((name, _), rates) in shapes.iter().zip(&mut rates) {
        numbers.set(format!("ring to frame, {name} M/s"), median(rates));
    }
}

fn bare(_: usize) {
    let _span = span!("bench.bare");
}

/// Records a span with four attributes.
pub(super) fn four_attributes(i: usize) {
    let _span = span!(
        "bench.four",
        "db.system" = "postgresql",
        "db.operation" = "select",
        "db.rows" = (i * 7919 % 1000) as i64,
        "db.shard" = (i % 16) as i64
    );
}

fn sixteen_attributes(i: usize) {
    let _span = span!(
        "bench.sixteen",
        "a.1" = "one",
        "a.2" = "two",
        "a.3" = "three",
        "a.4" = "four",
        "a.5" = (i * 7919 % 1000) as i64,
        "a.6" = (i % 16) as i64,
        "a.7" = 7,
        "a.8" = 8,
        "a.9" = "nine",
        "a.10" = "ten",
        "a.11" = "eleven",
        "a.12" = "twelve",
        "a.13" = (i % 100) as i64,
        "a.14" = 14,
        "a.15" = 1.5,
        "a.16" = true
    );
}

fn from_records(workload: &Workload, clock: &Clock, level: i32, rounds: usize) -> f64 {
    let mut encoder = Encoder::new().expect("there is memory");
    let mut rates = Vec::new();
    for _ in 0..rounds.min(21) {
        let before = thread_seconds();
        for (sequence, records) in workload.batches.iter().enumerate() {
            let context = workload::context(workload, clock, sequence as u64, level);
            black_box(
                encoder.encode(records, &context).expect("it is within all limits").frame.len(),
            );
        }
        rates.push(workload.spans() as f64 / (thread_seconds() - before) / 1e6);
    }
    median(&mut rates)
}
