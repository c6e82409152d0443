//! Sinks that fail, panic, refuse or are slow: nothing is lost uncounted, other sinks are not held up,
//! and what waits is bounded.

use std::time::Duration;

use spanring::span;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{MemorySink, Pipeline, PipelineStats, SinkDrop};
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::sinks::{Act, ScriptedSink};
use spanring_tests::{LONG, settings};

/// Records `spans` spans and hands them over, one batch.
fn batch(pipeline: &Pipeline, spans: usize) {
    let _attached = pipeline.attach();
    for _ in 0..spans {
        drop(span!("sent"));
    }
    pipeline.flush(LONG).unwrap();
}

fn dropped(stats: &PipelineStats, sink: usize, reason: SinkDrop) -> u64 {
    stats.sinks[sink].dropped[reason as usize]
}

#[test]
fn a_sink_that_fails_and_panics_for_a_while_gets_every_batch_once_and_in_order() {
    let acts = [Act::Fail, Act::Panic, Act::Take, Act::Panic, Act::Fail];
    let sink = ScriptedSink::new(acts, Act::Take);
    let beside = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings().build())
        .sink(sink.clone())
        .sink(beside.clone())
        .build()
        .unwrap();
    for spans in 1..5 {
        batch(&pipeline, spans);
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    for memory in [&sink.memory, &beside] {
        let ledger = Ledger::read(&memory.batches());
        ledger.check_against(&stats);
        assert_eq!(ledger.spans().count(), 10);
    }
    assert_eq!(sink.offered(), [0, 0, 0, 1, 1, 1, 2, 3, 4]);
    assert_eq!((stats.sinks[0].failures, stats.sinks[0].panics), (4, 2));
    assert_eq!((stats.sinks[1].failures, stats.panics), (0, 0));
    assert_eq!(stats.sinks[0].last_error, "", "the sink is well again");
}

#[test]
fn a_sink_that_refuses_loses_these_batches_alone_counted() {
    let sink = ScriptedSink::new([Act::Take, Act::Refuse, Act::Take], Act::Refuse);
    let pipeline =
        Pipeline::builder().settings(settings().build()).sink(sink.clone()).build().unwrap();
    for spans in [1, 20, 300] {
        batch(&pipeline, spans);
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(dropped(&stats, 0, SinkDrop::Refused), 20);
    assert_eq!(stats.sinks[0].delivered, 301);
    assert_eq!(sink.offered(), [0, 1, 2, 3], "what is refused is not offered again");
}

#[test]
fn retry_attempts_bound_how_often_a_batch_is_offered() {
    for attempts in [0, 1, 3] {
        let sink = ScriptedSink::new([], Act::Fail);
        let settings = settings().retry_attempts(attempts).build();
        let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
        // The flush returns once the batch is given up.
        batch(&pipeline, 5);
        let stats = pipeline.stats();
        check_counts(&stats);
        assert_eq!(dropped(&stats, 0, SinkDrop::Attempts), 5, "{attempts} attempts");
        assert_eq!(sink.offered().len() as u32, 1 + attempts);
        assert_eq!(stats.sinks[0].queued, 0);
        // So that the end does not wait for the sink.
        sink.act(Act::Take);
    }
}

#[test]
fn max_batch_wait_bounds_how_long_a_batch_waits_for_a_sink() {
    let sink = ScriptedSink::new([], Act::Fail);
    let wait = Duration::from_millis(30);
    let settings = settings().max_batch_wait(wait).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
    batch(&pipeline, 5);
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(dropped(&stats, 0, SinkDrop::TimedOut), 5);
    // Afterwards the pipeline works as before.
    sink.act(Act::Take);
    batch(&pipeline, 3);
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.sinks[0].delivered, stats.sinks[0].queued), (3, 0));
}

#[test]
fn shutdown_drops_and_counts_what_a_failing_sink_did_not_take_in_time() {
    let sink = ScriptedSink::new([], Act::Fail);
    let pipeline =
        Pipeline::builder().settings(settings().build()).sink(sink.clone()).build().unwrap();
    {
        let _attached = pipeline.attach();
        for _ in 0..9 {
            drop(span!("never taken"));
        }
    }
    // The flusher gives up when the caller's time is up, and so just after the caller.
    while pipeline.shutdown(Duration::ZERO).is_err() {
        std::thread::yield_now();
    }
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.sinks[0].queued, stats.sinks[0].delivered), (0, 0));
    assert_eq!(dropped(&stats, 0, SinkDrop::ShutDown), 9);
}

#[test]
fn batches_that_wait_are_bounded_by_max_bytes_and_give_their_bytes_back() {
    let sink = ScriptedSink::new([], Act::Fail);
    let settings = settings().max_bytes(1 << 20).batch_size(16).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
    {
        let _attached = pipeline.attach();
        // Two megabytes that cannot be compressed, in rounds that fit.
        let mut random = 1u64;
        for round in 0..128 {
            for _ in 0..16 {
                let noise: String = (0..1000)
                    .map(|_| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        char::from(b' ' + (random >> 33) as u8 % 95)
                    })
                    .collect();
                drop(span!("noisy", "noise" = noise));
            }
            while pipeline.stats().engine.sealed < 16 * (round + 1)
                && pipeline.stats().engine.dropped.total() == 0
            {
                std::thread::yield_now();
            }
        }
    }
    // A batch is counted by the engine a moment before the sink has it.
    let stats = loop {
        let stats = pipeline.stats();
        if stats.sinks[0].sealed == stats.engine.sealed {
            break stats;
        }
        std::thread::yield_now();
    };
    check_counts(&stats);
    sink.act(Act::Take);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    let lost = dropped(&stats, 0, SinkDrop::QueueFull) + stats.engine.dropped.total();
    assert!(lost > 0, "two megabytes did not fit into one: {stats:?}");
    assert!(stats.sinks[0].delivered > 256, "{stats:?}");
    assert_eq!(stats.engine.bytes_free, 1 << 20, "all bytes came back");
}

/// Fails to close and to flush, with a panic each.
struct BadEnd(MemorySink);

impl Sink for BadEnd {
    fn name(&self) -> &str {
        "bad end"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        self.0.deliver(batch)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        panic!("flush")
    }

    fn tick(&mut self, _: std::time::Instant) -> Option<std::time::Instant> {
        panic!("tick")
    }

    fn close(&mut self) -> Result<(), SinkError> {
        panic!("close")
    }
}

#[test]
fn panics_in_flush_tick_and_close_are_contained_and_counted() {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings().build())
        .sink(BadEnd(memory.clone()))
        .build()
        .unwrap();
    batch(&pipeline, 2);
    batch(&pipeline, 2);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    Ledger::read(&memory.batches()).check_against(&stats);
    assert!(stats.sinks[0].panics >= 4, "{:?}", stats.sinks[0]);
    assert_eq!((stats.sinks[0].delivered, stats.panics), (4, 0));
}
