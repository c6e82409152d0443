//! A logger of the host that panics on the flusher's thread, where libraries call it: no span is lost, no sink is wedged.
//! Alone in its process, whose logger it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use spanring::span;
use spanring_exporter::{MemorySink, OtlpOptions, Pipeline};
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::receiver::Receiver;
use spanring_tests::{LONG, settings};

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static PANICS: AtomicU64 = AtomicU64::new(0);

struct Bad;

impl Log for Bad {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        // It is not one of Rust's, so it has no name there.
        let is_flusher = std::thread::current().name().is_none();
        if is_flusher && IS_ARMED.swap(false, Ordering::Relaxed) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            panic!("the host's logger");
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_that_panics_costs_no_span_and_wedges_no_sink() {
    log::set_logger(&Bad).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let receiver = Receiver::start();
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings().build())
        .otlp(OtlpOptions::new(receiver.endpoint()))
        .build()
        .unwrap();
    // Behind the other, which panics.
    pipeline.add_sink(memory.clone());
    for _ in 0..3 {
        let attached = pipeline.attach();
        IS_ARMED.store(true, Ordering::Relaxed);
        (0..10).for_each(|_| drop(span!("logged")));
        drop(attached);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert!(PANICS.load(Ordering::Relaxed) > 0, "nothing is logged any more: this test can go");
    check_counts(&stats);
    assert_eq!((receiver.distinct(), Ledger::read(&memory.batches()).spans().count()), (30, 30));
    assert_eq!((stats.sinks[0].delivered, stats.sinks[1].delivered), (30, 30));
    assert_eq!(stats.sinks[0].panics + stats.panics, PANICS.load(Ordering::Relaxed));
}
