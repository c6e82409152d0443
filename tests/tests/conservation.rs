//! Conservation and the bound on resident spans, under load: created = sealed + dropped + resident,
//! sealed = delivered + dropped + queued, and the batches hold exactly what the counts say.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use spanring::export::Reason;
use spanring::span;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{MemorySink, Pipeline};
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::sinks::GatedSink;
use spanring_tests::{LONG, memory_pipeline, settings};

const CAP: usize = 1000;

/// A sink that checks the bound on its own: from the spans that the test's threads have ended, and
/// what was sealed and dropped, it computes a number of spans that must have been resident.
struct BoundSink {
    memory: MemorySink,
    pipeline: Arc<OnceLock<Weak<Pipeline>>>,
    ended: Arc<AtomicU64>,
    resident_seen: Arc<AtomicU64>,
}

impl Sink for BoundSink {
    fn name(&self) -> &str {
        "bound"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        // Read in this order, the difference is at most what was resident at the moment of the first
        // read: what is sealed or dropped meanwhile only makes it smaller.
        let ended = self.ended.load(Ordering::Acquire);
        if let Some(pipeline) = self.pipeline.get().and_then(Weak::upgrade) {
            let engine = pipeline.stats().engine;
            let gone = engine.dropped.total() + engine.sealed;
            self.resident_seen.fetch_max(ended.saturating_sub(gone), Ordering::Relaxed);
        }
        self.memory.deliver(batch)
    }
}

#[test]
fn eight_threads_at_full_speed_with_a_tiny_budget_lose_nothing_uncounted() {
    const THREADS: u64 = 8;
    const SPANS: u64 = 1_000_000;
    let memory = MemorySink::new();
    let slot = Arc::new(OnceLock::new());
    let ended = Arc::new(AtomicU64::new(0));
    let resident_seen = Arc::new(AtomicU64::new(0));
    let sink = BoundSink {
        memory: memory.clone(),
        pipeline: slot.clone(),
        ended: ended.clone(),
        resident_seen: resident_seen.clone(),
    };
    let settings = settings().max_spans(CAP).batch_size(100).build();
    let pipeline = Arc::new(Pipeline::builder().settings(settings).sink(sink).build().unwrap());
    slot.set(Arc::downgrade(&pipeline)).unwrap();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                for i in 0..SPANS {
                    {
                        let _span = span!("load", "i" = i);
                    }
                    // After the end, so that the sink never counts a span that is not there yet.
                    ended.fetch_add(1, Ordering::Release);
                }
            });
        }
    });
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    Ledger::read(&memory.batches()).check_against(&stats);
    assert_eq!(stats.engine.created, THREADS * SPANS);
    assert_eq!(stats.sinks[0].delivered, stats.engine.sealed);
    let (max, seen) = (stats.engine.resident_max, resident_seen.load(Ordering::Relaxed));
    assert!(max <= CAP as u64, "{max} spans were resident as the flusher saw it");
    assert!(seen <= CAP as u64, "{seen} spans were resident as the sink saw it");
    assert!(max > 950, "the budget was never used up: {max}");
}

/// While a sink holds the flusher nothing is sealed, so the threads fill the budget, and no more.
#[test]
fn a_blocked_sink_holds_up_nobody_and_the_budget_fills_to_its_cap_exactly_once() {
    let (sink, gate) = GatedSink::new();
    let settings = settings().max_spans(CAP).batch_size(100).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                start.wait();
                for _ in 0..10_000 {
                    drop(span!("blocked"));
                }
                // Threads that end hand their rings over; nobody waits for the flusher.
            });
        }
    });
    gate.wait_entered();
    let engine = pipeline.stats().engine;
    assert_eq!(engine.created, 80_000);
    assert!(engine.resident <= CAP as u64, "{}", engine.resident);
    assert!(engine.dropped.0[Reason::Budget as usize] > 70_000);
    let memory = gate.open();
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    Ledger::read(&memory.batches()).check_against(&stats);
    assert_eq!(stats.engine.created, 80_000);
    assert!(stats.engine.resident_max <= CAP as u64);
}

#[test]
fn one_busy_thread_gets_95_percent_of_the_budget_beside_seven_idle_ones() {
    let (sink, gate) = GatedSink::new();
    let settings = settings().max_spans(CAP).batch_size(100).flush_interval(LONG).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    let recorded = Barrier::new(8);
    thread::scope(|scope| {
        // Dropped at the end of this closure, however it ends: then the idle threads end.
        let mut alive = Vec::new();
        for _ in 0..7 {
            let (keep_alive, until_dropped) = channel::<()>();
            alive.push(keep_alive);
            let (pipeline, recorded) = (&pipeline, &recorded);
            scope.spawn(move || {
                let _attached = pipeline.attach();
                drop(span!("idle"));
                recorded.wait();
                // Alive, so that its credits are not given back because it ended.
                assert!(until_dropped.recv().is_err());
            });
        }
        recorded.wait();
        gate.let_one_go();
        // The flusher reclaims before it rests, if it found nothing: what the first flush found, the second does not, and a third one is
        // seen only after the rest that follows.
        (0..3).for_each(|_| pipeline.flush(LONG).unwrap());
        let sealed = pipeline.stats().engine.sealed;
        assert_eq!(sealed, 7, "{:#?}", pipeline.stats());
        let _attached = pipeline.attach();
        // The flusher stands in a delivery from the 100th span on at the latest.
        for _ in 0..3 * CAP {
            drop(span!("busy"));
        }
        gate.wait_entered();
        gate.wait_entered();
        let engine = pipeline.stats().engine;
        assert!(engine.resident <= CAP as u64);
        // One batch may have been sealed, and its credits spent again, before the flusher stood still.
        let kept = engine.created - engine.dropped.total() - sealed;
        assert!(kept >= 950, "the busy thread got {kept} of {CAP} ({engine:?})");
        drop(gate);
    });
    pipeline.shutdown(LONG).unwrap();
    check_counts(&pipeline.stats());
}

#[test]
fn ten_thousand_short_threads_leave_nothing_behind() {
    let (pipeline, sink) = memory_pipeline(settings());
    const WAVES: usize = 1250;
    let mut idle_bytes = None;
    for wave in 0..WAVES {
        thread::scope(|scope| {
            for thread in 0..8 {
                let pipeline = &pipeline;
                scope.spawn(move || {
                    let _attached = pipeline.attach();
                    for _ in 0..=thread {
                        drop(span!("short", "thread" = thread));
                    }
                });
            }
        });
        if wave % 125 == 124 {
            // Every ring is given up once it is drained, so memory does not grow with the threads, but with those that end between two
            // looks of the flusher. All of them would need 160 MiB.
            pipeline.flush(LONG).unwrap();
            let bytes = pipeline.stats().engine.ring_bytes;
            let first = *idle_bytes.get_or_insert(bytes);
            assert!(bytes <= first + (32 << 20), "{bytes} bytes of rings after {first}");
        }
    }
    pipeline.flush(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(stats.engine.created, WAVES as u64 * 36);
    assert_eq!(stats.engine.dropped.total(), 0);
    assert_eq!(stats.engine.resident, 0, "a flush leaves nothing of ended threads");
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert!(stats.engine.threads.is_empty());
    Ledger::read(&sink.batches()).check_against(&stats);
}

#[test]
fn shutdown_in_the_middle_of_recording_counts_every_span_that_comes_too_late() {
    for round in 0..20 {
        let (pipeline, sink) = memory_pipeline(settings().max_spans(CAP).batch_size(64));
        let ended = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let started = Barrier::new(5);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _attached = pipeline.attach();
                    started.wait();
                    let mut count = 0u64;
                    // Some spans begin before the shutdown and end after it, some begin after it.
                    while !stop.load(Ordering::Relaxed) || count < 100 {
                        let _outer = span!("outer");
                        let _inner = span!("inner");
                        count += 2;
                    }
                    ended.fetch_add(count, Ordering::Relaxed);
                });
            }
            started.wait();
            while pipeline.stats().engine.created < 500 * round {
                std::hint::spin_loop();
            }
            pipeline.shutdown(LONG).unwrap();
            let sealed = pipeline.stats().engine.sealed;
            let late = pipeline.stats().engine.dropped.0[Reason::ShutDown as usize];
            while pipeline.stats().engine.dropped.0[Reason::ShutDown as usize] < late + 100 {
                std::hint::spin_loop();
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(pipeline.stats().engine.sealed, sealed, "nothing is sealed after shutdown");
        });
        let stats = pipeline.stats();
        assert_eq!(stats.engine.created, ended.load(Ordering::Relaxed), "round {round}");
        Ledger::read(&sink.batches()).check_interrupted(&stats, 4);
        pipeline.shutdown(LONG).expect("a second shutdown does no harm");
        assert!(pipeline.flush(LONG).is_err());
    }
}

#[test]
fn pipelines_side_by_side_keep_their_spans_and_counts_apart() {
    let made: Vec<_> = (0..4).map(|_| memory_pipeline(settings().batch_size(50))).collect();
    thread::scope(|scope| {
        for thread in 0..3 {
            let made = &made;
            scope.spawn(move || {
                for round in 0..500 {
                    let (pipeline, _) = &made[(thread + round) % 4];
                    let _attached = pipeline.attach();
                    let _outer = span!("outer", "pipeline" = (thread + round) % 4);
                    {
                        // Another pipeline inside this one's span.
                        let inner = (thread + round + 1) % 4;
                        let _attached = made[inner].0.attach();
                        drop(span!("inner", "pipeline" = inner));
                    }
                    drop(span!("after", "pipeline" = (thread + round) % 4));
                }
            });
        }
    });
    let mut instances = Vec::new();
    for (number, (pipeline, sink)) in made.iter().enumerate() {
        pipeline.shutdown(LONG).unwrap();
        let ledger = Ledger::read(&sink.batches());
        ledger.check_against(&pipeline.stats());
        assert_eq!(ledger.spans().count(), 3 * 3 * 500 / 4);
        for span in ledger.spans() {
            assert_eq!(span.attributes, [("pipeline".into(), (number as i64).into())]);
        }
        instances.push(pipeline.instance());
    }
    instances.dedup();
    assert_eq!(instances.len(), 4);
}

#[test]
fn large_values_beyond_max_bytes_are_counted_drops_and_the_memory_comes_back() {
    let (sink, gate) = GatedSink::new();
    let settings = settings().max_bytes(2 << 20).flush_interval(LONG).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    let attached = pipeline.attach();
    let prompt = "p".repeat(100_000);
    drop(span!("first"));
    // The flusher stands in the delivery of this span, so what follows stays in memory.
    let flushed = thread::scope(|scope| {
        let flush = scope.spawn(|| pipeline.flush(LONG));
        gate.wait_entered();
        for _ in 0..100 {
            let mut span = span!("large");
            span.set_attribute("prompt", prompt.as_str());
        }
        gate.let_one_go();
        flush.join().unwrap()
    });
    flushed.unwrap();
    let engine = pipeline.stats().engine;
    check_counts(&pipeline.stats());
    assert_eq!(engine.created, 101);
    // What had no room is a dropped attribute or a dropped span, never a lost one.
    let lost = engine.attributes_dropped + engine.dropped.total();
    assert!((80..100).contains(&lost), "{engine:?}");
    let memory = gate.open();
    pipeline.flush(LONG).unwrap();
    {
        let mut span = span!("later");
        span.set_attribute("prompt", prompt.as_str());
    }
    drop(attached);
    pipeline.shutdown(Duration::from_secs(60)).unwrap();
    let ledger = Ledger::read(&memory.batches());
    ledger.check_against(&pipeline.stats());
    assert_eq!(ledger.span("later").attributes[0].1, prompt.as_str().into());
    let kept = ledger.spans().filter(|span| span.name == "large" && !span.attributes.is_empty());
    assert_eq!(kept.count() as u64, 100 - lost);
    assert_eq!(pipeline.stats().engine.bytes_free, 2 << 20, "all bytes came back");
}
