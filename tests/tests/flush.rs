//! Flush and shutdown: nothing recorded before the call is missed, nobody deadlocks, and a time-out
//! tells what is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use spanring::export::{FlushError, Reason};
use spanring::{Span, span};
use spanring_exporter::batch::decode;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{MemorySink, Pipeline};
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::sinks::{Act, GatedSink, ScriptedSink};
use spanring_tests::{LONG, memory_pipeline, settings};

const NOT_YET: Duration = Duration::from_millis(1);

fn names(sink: &MemorySink) -> Vec<String> {
    let batches = sink.batches();
    let spans = batches.iter().flat_map(|batch| decode(&batch.frame).unwrap().batch.spans);
    spans.map(|span| span.name).collect()
}

#[test]
fn a_flush_hands_over_every_thread_s_spans_however_many_threads_there_are() {
    let (pipeline, sink) = memory_pipeline(settings().flush_interval(LONG));
    for threads in 1..20 {
        let before = names(&sink).len();
        thread::scope(|scope| {
            let mut alive = Vec::new();
            let (recorded, all_recorded) = channel();
            for _ in 0..threads {
                let (keep_alive, until_dropped) = channel::<()>();
                alive.push(keep_alive);
                let (pipeline, recorded) = (&pipeline, recorded.clone());
                scope.spawn(move || {
                    let _attached = pipeline.attach();
                    drop(span!("one"));
                    recorded.send(()).unwrap();
                    assert!(until_dropped.recv().is_err());
                });
            }
            for _ in 0..threads {
                all_recorded.recv().unwrap();
            }
            pipeline.flush(LONG).unwrap();
            assert_eq!(names(&sink).len(), before + threads);
        });
    }
}

/// Busy threads must neither starve the others nor pass for them.
#[test]
fn a_flush_misses_no_span_of_a_quiet_thread_while_others_record_at_full_speed() {
    let (pipeline, sink) = memory_pipeline(settings().batch_size(16).flush_interval(LONG));
    let stop = AtomicBool::new(false);
    let mut handed_over = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                while !stop.load(Ordering::Relaxed) {
                    // Far from the cap, so that the quiet thread's spans are not dropped.
                    if pipeline.stats().engine.resident < 2000 {
                        for _ in 0..64 {
                            drop(span!("busy"));
                        }
                    }
                }
            });
        }
        let _attached = pipeline.attach();
        for round in 0..100 {
            drop(Span::start(format!("quiet {round}").as_str()));
            pipeline.flush(LONG).unwrap();
            handed_over.push(pipeline.stats().sinks[0].batches);
        }
        stop.store(true, Ordering::Relaxed);
    });
    pipeline.shutdown(LONG).unwrap();
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&pipeline.stats());
    let mut found = vec![u64::MAX; handed_over.len()];
    for batch in &ledger.batches {
        for span in &batch.batch.spans {
            if let Some(round) = span.name.strip_prefix("quiet ") {
                found[round.parse::<usize>().unwrap()] = batch.header.sequence;
            }
        }
    }
    for (round, (found, handed_over)) in found.into_iter().zip(handed_over).enumerate() {
        assert!(found < handed_over, "round {round}: batch {found} came after {handed_over}");
    }
}

#[test]
fn a_flush_that_takes_too_long_says_what_is_left_and_the_next_one_finishes() {
    let (sink, gate) = GatedSink::new();
    let pipeline = Pipeline::builder().settings(settings().build()).sink(sink).build().unwrap();
    let _attached = pipeline.attach();
    for _ in 0..7 {
        drop(span!("held"));
    }
    let unfinished = pipeline.flush(NOT_YET).unwrap_err();
    assert_eq!(unfinished.reason, FlushError::TimedOut);
    assert!(unfinished.to_string().contains("7 spans are left"), "{unfinished}");
    assert_eq!(gate.wait_entered(), 0);
    let memory = gate.open();
    pipeline.flush(LONG).unwrap();
    assert_eq!(names(&memory).len(), 7);
}

#[test]
fn a_shutdown_that_takes_too_long_can_be_called_again() {
    let (sink, gate) = GatedSink::new();
    let pipeline = Pipeline::builder().settings(settings().build()).sink(sink).build().unwrap();
    let _attached = pipeline.attach();
    drop(span!("held"));
    let unfinished = pipeline.shutdown(NOT_YET).unwrap_err();
    assert_eq!(unfinished.reason, FlushError::TimedOut);
    let memory = gate.open();
    pipeline.shutdown(LONG).unwrap();
    pipeline.shutdown(Duration::ZERO).expect("it is over already");
    assert_eq!(pipeline.flush(LONG).unwrap_err().reason, FlushError::ShutDown);
    Ledger::read(&memory.batches()).check_against(&pipeline.stats());
}

#[test]
fn without_a_limit_shutdown_waits_for_a_sink_that_fails_for_a_while() {
    for timeout in [LONG, Duration::MAX] {
        let sink = ScriptedSink::new([Act::Fail; 3], Act::Take);
        let settings = settings().build();
        let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
        {
            let _attached = pipeline.attach();
            drop(span!("late"));
        }
        pipeline.shutdown(timeout).unwrap();
        assert_eq!(names(&sink.memory), ["late"], "with a time-out of {timeout:?}");
        Ledger::read(&sink.memory.batches()).check_against(&pipeline.stats());
    }
}

#[test]
fn flushes_of_many_threads_at_once_are_all_answered() {
    let (pipeline, sink) = memory_pipeline(settings().batch_size(8));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                for _ in 0..200 {
                    drop(span!("flushed"));
                    pipeline.flush(LONG).unwrap();
                }
            });
        }
    });
    assert_eq!(names(&sink).len(), 1600);
}

#[test]
fn a_flush_of_an_idle_pipeline_returns_and_starts_nothing_twice() {
    let (pipeline, sink) = memory_pipeline(settings());
    pipeline.flush(LONG).unwrap();
    pipeline.flush(LONG).unwrap();
    assert!(sink.batches().is_empty());
    let stats = pipeline.stats();
    assert_eq!((stats.engine.created, stats.batches), (0, 0));
}

/// A sink that does on the flusher's thread what nobody should do there.
struct RecursiveSink {
    pipeline: Arc<OnceLock<Weak<Pipeline>>>,
    answers: std::sync::mpsc::Sender<(FlushError, FlushError)>,
}

impl Sink for RecursiveSink {
    fn name(&self) -> &str {
        "recursive"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        let pipeline = self.pipeline.get().and_then(Weak::upgrade);
        let Some(pipeline) = pipeline.filter(|_| batch.spans > 0) else { return Ok(()) };
        let _attached = pipeline.attach();
        let outer = span!("in a sink");
        assert!(!outer.is_recording() && !outer.context().is_valid());
        let flush = pipeline.flush(LONG).unwrap_err().reason;
        let shutdown = pipeline.shutdown(LONG).unwrap_err().reason;
        self.answers.send((flush, shutdown)).unwrap();
        Ok(())
    }
}

#[test]
fn a_sink_that_records_flushes_and_shuts_down_on_the_flusher_gets_errors_not_a_deadlock() {
    let slot = Arc::new(OnceLock::new());
    let (answers, answered) = channel();
    let sink = RecursiveSink { pipeline: slot.clone(), answers };
    let settings = settings().build();
    let pipeline = Arc::new(Pipeline::builder().settings(settings).sink(sink).build().unwrap());
    slot.set(Arc::downgrade(&pipeline)).unwrap();
    {
        let _attached = pipeline.attach();
        drop(span!("outside"));
    }
    pipeline.flush(LONG).unwrap();
    let would_deadlock = FlushError::WouldDeadlock;
    assert_eq!(answered.recv().unwrap(), (would_deadlock, would_deadlock));
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(stats.engine.dropped.0[Reason::ReEntrant as usize], 1);
    assert_eq!((stats.engine.created, stats.engine.sealed), (2, 1));
}

#[test]
fn dropping_a_pipeline_delivers_what_was_recorded() {
    let (pipeline, sink) = memory_pipeline(settings());
    {
        let _attached = pipeline.attach();
        drop(span!("last"));
    }
    let counts = pipeline.instance();
    drop(pipeline);
    let ledger = Ledger::read(&sink.batches());
    assert_eq!(ledger.names(), ["last"]);
    assert_eq!(ledger.batches.last().unwrap().header.instance, counts);
    assert_eq!(ledger.batches.last().unwrap().header.spans, 0, "closed");
}

#[test]
fn a_critical_span_is_handed_over_without_a_flush_and_long_before_the_interval() {
    let (sink, gate) = GatedSink::new();
    let settings = settings().flush_interval(LONG * 10).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    let _attached = pipeline.attach();
    drop(span!("usual"));
    let mut span = span!("critical");
    span.set_critical();
    drop(span);
    // Without haste this would wait for twenty minutes and fail before.
    assert_eq!(gate.wait_entered(), 0);
    gate.let_one_go();
    let memory = gate.open();
    pipeline.flush(LONG).unwrap();
    assert_eq!(names(&memory), ["usual", "critical"]);
}
