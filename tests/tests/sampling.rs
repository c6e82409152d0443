//! Samplers through a pipeline's settings, and settings that change while threads record.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use spanring::export::Reason;
use spanring::settings::{RootSampler, SamplerSetting};
use spanring::{Span, SpanContext, SpanId, TraceFlags, TraceId, TraceState, span};
use spanring_exporter::Pipeline;
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::{LONG, memory_pipeline, record, settings};

fn sampler(parent_based: bool, root: RootSampler) -> SamplerSetting {
    SamplerSetting { parent_based, root }
}

#[test]
fn a_ratio_samples_whole_traces_consistently_and_says_so_in_their_tracestate() {
    const TRACES: u64 = 20_000;
    let mut sampled = 0;
    let ratio = settings().sampler(sampler(true, RootSampler::TraceIdRatio(0.25)));
    let ledger = record(ratio, |_| {
        for _ in 0..TRACES {
            let root = span!("root");
            let child = span!("child");
            assert_eq!(root.is_recording(), child.is_recording(), "a trace is whole");
            // OpenTelemetry's threshold for a quarter: three quarters of 2^56.
            let randomness = root.context().trace_id().0 as u64 & ((1 << 56) - 1);
            assert_eq!(root.is_recording(), randomness >= 3 << 54);
            assert!(root.context().is_valid() && child.context().is_valid());
            sampled += u64::from(root.is_recording());
        }
    });
    assert_eq!(ledger.spans().count() as u64, 2 * sampled);
    // Six standard deviations of the binomial distribution.
    assert!(sampled.abs_diff(TRACES / 4) < 370, "{sampled}");
    assert!(ledger.spans().all(|span| span.trace_state == "ot=th:c"));
}

#[test]
fn a_ratio_decides_by_the_trace_ids_that_spans_were_given() {
    let ratio = settings().sampler(sampler(true, RootSampler::TraceIdRatio(0.25)));
    let ledger = record(ratio, |_| {
        for number in 0..1000u64 {
            let randomness = number << 46;
            let trace = TraceId(1 << 64 | u128::from(randomness));
            // What the parent's flags say does not count.
            for flags in [TraceFlags(0), TraceFlags::SAMPLED] {
                let parent = SpanContext::from_ids(trace, SpanId(5), flags, TraceState::default());
                let span = Span::builder("child")
                    .parent(&parent)
                    .ids(trace, SpanId(number << 1 | u64::from(flags.0) | 1 << 20))
                    .start();
                assert_eq!(span.is_recording(), randomness >= 3 << 54, "{number}");
            }
        }
    });
    assert!(ledger.spans().all(|span| span.trace_state == "ot=th:c"));
}

#[test]
fn children_follow_a_remote_parent_s_decision_unless_the_sampler_is_not_parent_based() {
    let parent = |flags| {
        let state = TraceState::parse("vendor=value").unwrap();
        SpanContext::remote(TraceId(1), SpanId(2), flags, state)
    };
    for (parent_based, root) in [(true, RootSampler::AlwaysOff), (false, RootSampler::AlwaysOn)] {
        let ledger = record(settings().sampler(sampler(parent_based, root)), |_| {
            drop(Span::builder("sampled").parent(&parent(TraceFlags::SAMPLED)).start());
            let unsampled = Span::builder("unsampled").parent(&parent(TraceFlags(0))).start();
            assert_eq!(unsampled.context().trace_id(), TraceId(1), "it still carries its context");
            assert_eq!(unsampled.context().trace_state().as_str(), "vendor=value");
            drop(unsampled);
        });
        let expected: &[&str] = if parent_based { &["sampled"] } else { &["sampled", "unsampled"] };
        assert_eq!(ledger.names(), expected);
    }
}

#[test]
fn every_nth_root_is_recorded_whole_by_all_threads_together() {
    let nth = settings().sampler(sampler(true, RootSampler::EveryNth(10)));
    let ledger = record(nth, |pipeline| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _attached = pipeline.attach();
                    for _ in 0..250 {
                        let _root = span!("root");
                        drop(span!("child"));
                    }
                });
            }
        });
    });
    let count = |name: &str| ledger.spans().filter(|span| span.name == name).count();
    assert_eq!((count("root"), count("child")), (100, 100));
}

#[test]
fn a_rate_limit_passes_a_burst_of_a_second_s_worth_and_little_more() {
    let limited = settings().sampler(sampler(true, RootSampler::RateLimit(50.0)));
    let mut took = std::time::Duration::ZERO;
    let ledger = record(limited, |_| {
        let begun = std::time::Instant::now();
        for _ in 0..5000 {
            drop(span!("root"));
        }
        took = begun.elapsed();
    });
    let allowed = 50.0 + 50.0 * took.as_secs_f64();
    let passed = ledger.spans().count();
    assert!(passed >= 50 && passed as f64 <= allowed + 1.0, "{passed} of {allowed}");
}

#[test]
fn a_sampler_changes_while_spans_are_open_and_open_spans_keep_their_decision() {
    let (pipeline, sink) = memory_pipeline(settings());
    let put = |root| pipeline.reconfigure(settings().sampler(sampler(true, root)).build());
    {
        let _attached = pipeline.attach();
        let kept = span!("begun sampled");
        put(RootSampler::AlwaysOff);
        assert!(!Span::builder("root").root().start().is_recording());
        drop(span!("child of sampled"));
        drop(kept);
        let unsampled = span!("begun unsampled");
        put(RootSampler::AlwaysOn);
        assert!(!span!("child of unsampled").is_recording());
        drop(unsampled);
        drop(span!("sampled again"));
    }
    pipeline.shutdown(LONG).unwrap();
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&pipeline.stats());
    assert_eq!(ledger.names(), ["child of sampled", "begun sampled", "sampled again"]);
}

#[test]
fn settings_change_while_eight_threads_record_and_every_span_is_accounted_for() {
    let (pipeline, sink) = memory_pipeline(settings().max_spans(1000));
    let stop = AtomicBool::new(false);
    let ended = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| record_until(&pipeline, &stop, &ended));
        }
        for round in 0..200 {
            let cap = [1000, 50, 4000, 16][round % 4];
            let root = [RootSampler::AlwaysOn, RootSampler::TraceIdRatio(0.5)][round % 2];
            let changed = settings()
                .max_spans(cap)
                .batch_size([10, 100, 16][round % 3])
                .attribute_count_limit([128, 0, 1][round % 3])
                .sampler(sampler(true, root))
                .disabled(round % 10 == 9);
            pipeline.reconfigure(changed.build());
            // Until the threads have met it.
            let created = pipeline.stats().engine.created;
            while round % 10 != 9 && pipeline.stats().engine.created < created + 100 {
                thread::yield_now();
            }
        }
        // After all changes, the last settings hold exactly.
        pipeline.reconfigure(settings().max_spans(500).build());
        stop.store(true, Ordering::Relaxed);
    });
    pipeline.flush(LONG).unwrap();
    assert_eq!(pipeline.settings().max_spans, 500);
    let before = pipeline.stats();
    check_counts(&before);
    assert_eq!(before.engine.created, ended.load(Ordering::Relaxed));
    let _attached = pipeline.attach();
    drop(span!("last"));
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    Ledger::read(&sink.batches()).check_against(&stats);
    assert!(stats.engine.resident_max <= 4000, "{}", stats.engine.resident_max);
    assert_eq!(stats.engine.dropped.0[Reason::Encode as usize], 0);
}

/// Counts the spans that recorded: those are what the engine must count.
fn record_until(pipeline: &Pipeline, stop: &AtomicBool, ended: &AtomicU64) {
    let _attached = pipeline.attach();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let span = span!("changing", "a" = 1, "b" = "two");
        count += u64::from(span.is_recording());
    }
    ended.fetch_add(count, Ordering::Relaxed);
}
