//! What the documentation of spans defines for misuse: guards out of order, leaked, on other threads,
//! in destructors, after shutdown; and spans that move.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;

use spanring::export::Reason;
use spanring::{Instrument, Span, SpanContext, SpanGuard, WallTime, span};
use spanring_exporter::Pipeline;
use spanring_tests::ledger::{Ledger, check_counts};
use spanring_tests::{LONG, memory_pipeline, record, settings};

#[test]
fn guards_out_of_order_are_all_recorded_with_the_parents_that_they_began_with() {
    let ledger = record(settings(), |_| {
        let before = SpanContext::current();
        let outer = span!("outer");
        let middle = span!("middle");
        let inner = span!("inner");
        drop(outer);
        assert_eq!(SpanContext::current(), before, "the outer one restores what was before it");
        drop(span!("root again"));
        drop(middle);
        assert_eq!(SpanContext::current(), before, "what was passed over restores nothing");
        let next = span!("next");
        drop(inner);
        assert_eq!(SpanContext::current(), next.context(), "nor does it disturb a later one");
    });
    let parent = |name| ledger.span(name).parent_span_id;
    assert_eq!(parent("outer"), None);
    assert_eq!(parent("middle"), Some(ledger.span("outer").span_id));
    assert_eq!(parent("inner"), Some(ledger.span("middle").span_id));
    assert_eq!((parent("root again"), parent("next")), (None, None));
    assert_eq!(ledger.spans().count(), 5);
}

#[test]
fn a_leaked_guard_is_not_recorded_and_current_until_an_outer_one_ends() {
    let ledger = record(settings(), |_| {
        let before = SpanContext::current();
        let outer = span!("outer");
        let leaked = span!("leaked", "text" = "x".repeat(5000));
        let context = leaked.context();
        std::mem::forget(leaked);
        assert_eq!(SpanContext::current(), context);
        drop(span!("child of the leaked"));
        drop(outer);
        assert_eq!(SpanContext::current(), before);
    });
    assert_eq!(ledger.names(), ["child of the leaked", "outer"]);
    let orphan = ledger.span("child of the leaked");
    assert_eq!(orphan.trace_id, ledger.span("outer").trace_id);
    assert!(orphan.parent_span_id.is_some_and(|id| id != ledger.span("outer").span_id));
}

#[test]
fn a_leaked_root_guard_stays_current_and_harms_nothing() {
    let ledger = record(settings(), |_| {
        std::mem::forget(span!("leaked"));
        for _ in 0..3 {
            drop(span!("child"));
        }
    });
    assert_eq!(ledger.names(), ["child"; 3]);
}

#[test]
fn a_span_may_end_on_another_thread_with_all_that_it_holds() {
    let large = "v".repeat(50_000);
    let ledger = record(settings(), |pipeline| {
        let parent = span!("parent");
        for kind in ["small", "large"] {
            let mut span = Span::start(kind);
            span.set_attribute("begun on", "one thread");
            if kind == "large" {
                for i in 0..50 {
                    span.set_attribute(&format!("key {i}"), i);
                }
                span.set_attribute("value", large.as_str());
            }
            thread::scope(|scope| {
                scope.spawn(|| {
                    // One thread knows the pipeline, the other has never heard of it.
                    let _attached = (kind == "small").then(|| pipeline.attach());
                    span.set_attribute("ended on", "another");
                    span.end();
                });
            });
        }
        let guard = span!("guard");
        let moved = guard.into_span();
        assert_eq!(SpanContext::current(), parent.context(), "it is no longer current");
        thread::scope(|scope| {
            scope.spawn(move || drop(moved));
        });
    });
    let parent = ledger.span("parent").span_id;
    for (name, attributes) in [("small", 2), ("large", 53), ("guard", 0)] {
        let span = ledger.span(name);
        assert_eq!(span.parent_span_id, Some(parent));
        assert_eq!(span.attributes.len(), attributes, "{name}");
    }
    assert_eq!(ledger.span("large").attributes[51].1, large.as_str().into());
}

/// Ready after `polls` polls; records a span at each.
struct Steps(u32);

impl Future for Steps {
    type Output = SpanContext;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<SpanContext> {
        drop(span!("step"));
        self.0 -= 1;
        if self.0 == 0 { Poll::Ready(SpanContext::current()) } else { Poll::Pending }
    }
}

#[test]
fn a_future_s_span_is_current_at_each_poll_on_whichever_thread_and_not_between() {
    let ledger = record(settings(), |pipeline| {
        let work = Span::start("work");
        let context = work.context();
        let mut future = Box::pin(Steps(3).in_span(work));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        assert!(!SpanContext::current().is_valid());
        thread::scope(|scope| {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                let _unrelated = span!("unrelated");
                let mut cx = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut cx).is_pending());
                future.as_mut().span_mut().unwrap().set_attribute("polled", "twice");
            });
        });
        let Poll::Ready(seen) = future.as_mut().poll(&mut cx) else { panic!("three steps") };
        assert_eq!(seen, context);
        assert!(future.as_mut().span_mut().is_none());
        // Dropped before it is ready, a future's span ends, too.
        let mut dropped = Box::pin(Steps(9).in_span(Span::start("given up")));
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        drop(dropped);
        let panicking = async { panic!("inside") };
        let mut panicking = pin!(panicking.in_span(Span::start("panicked")));
        let poll = std::panic::AssertUnwindSafe(|| panicking.as_mut().poll(&mut cx).is_ready());
        assert!(std::panic::catch_unwind(poll).is_err());
        assert!(!SpanContext::current().is_valid(), "a panic restores what was current");
    });
    let work = ledger.span("work");
    let steps = |parent| {
        let of = ledger.spans().filter(|span| span.name == "step");
        of.filter(|span| span.parent_span_id == Some(parent)).count()
    };
    assert_eq!(steps(work.span_id), 3);
    assert_eq!(steps(ledger.span("given up").span_id), 1);
    assert_eq!(work.attributes, [("polled".into(), "twice".into())]);
    assert_eq!(ledger.span("panicked").parent_span_id, None);
}

#[test]
fn an_unwinding_panic_ends_the_spans_on_its_way() {
    let ledger = record(settings(), |_| {
        let result = std::panic::catch_unwind(|| {
            let _outer = span!("outer");
            let _inner = span!("inner");
            panic!("on purpose");
        });
        assert!(result.is_err());
        assert!(!SpanContext::current().is_valid());
    });
    assert_eq!(ledger.names(), ["inner", "outer"]);
}

/// Records spans when its thread ends.
struct AtThreadEnd {
    pipeline: Option<&'static Pipeline>,
    open: Option<Span>,
    done: std::sync::mpsc::Sender<()>,
}

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        let _attached = self.pipeline.map(Pipeline::attach);
        {
            let _outer = span!("in a destructor", "value" = 7);
            drop(span!("inside"));
        }
        drop(self.open.take());
        self.done.send(()).unwrap();
    }
}

thread_local! {
    static EARLY: RefCell<Option<AtThreadEnd>> = const { RefCell::new(None) };
    static LATE: RefCell<Option<AtThreadEnd>> = const { RefCell::new(None) };
}

/// Thread-locals are destroyed in an order that depends on their first use: one is used before the
/// engine's own, one after it, so one is destroyed behind it whichever the order is.
#[test]
fn spans_in_destructors_of_thread_locals_are_recorded_before_and_behind_the_engine_s_own() {
    let (pipeline, sink) = memory_pipeline(settings());
    let pipeline: &'static Pipeline = Box::leak(Box::new(pipeline));
    let (done, wait) = channel();
    for round in 0..50 {
        let done = done.clone();
        thread::spawn(move || {
            let _attached = pipeline.attach();
            let hook = |name| AtThreadEnd {
                pipeline: Some(pipeline),
                open: Some(Span::start(name)),
                done: done.clone(),
            };
            if round % 2 == 0 {
                EARLY.with(|cell| *cell.borrow_mut() = None);
                drop(span!("usual"));
            }
            EARLY.with(|cell| *cell.borrow_mut() = Some(hook("open early")));
            drop(span!("usual"));
            LATE.with(|cell| *cell.borrow_mut() = Some(hook("open late")));
        })
        .join()
        .unwrap();
        wait.recv().unwrap();
        wait.recv().unwrap();
    }
    pipeline.flush(LONG).unwrap();
    assert_eq!(
        pipeline.stats().engine.resident,
        0,
        "nothing is stuck in a ring of a thread that ended"
    );
    pipeline.shutdown(LONG).unwrap();
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&pipeline.stats());
    let count = |name: &str| ledger.spans().filter(|span| span.name == name).count();
    assert_eq!((count("open early"), count("open late")), (50, 50));
    assert_eq!((count("in a destructor"), count("inside")), (100, 100));
    for inside in ledger.spans().filter(|span| span.name == "inside") {
        let parent = inside.parent_span_id.expect("it has a parent");
        let outer = ledger.spans().find(|span| span.span_id == parent).unwrap();
        assert_eq!(outer.name, "in a destructor");
    }
}

#[test]
fn after_shutdown_spans_that_end_or_begin_are_counted_and_nothing_else_happens() {
    let (pipeline, sink) = memory_pipeline(settings());
    let attached = pipeline.attach();
    let mut open = span!("open");
    let elsewhere = Span::start("elsewhere");
    pipeline.shutdown(LONG).unwrap();
    open.set_attribute("late", "x".repeat(10_000)).add_event("late");
    drop(open);
    thread::scope(|scope| {
        scope.spawn(move || drop(elsewhere));
    });
    let mut new = span!("begun after");
    assert!(!new.is_recording());
    new.set_attribute("ignored", 1);
    drop(new);
    drop(attached);
    let stats = pipeline.stats();
    Ledger::read(&sink.batches()).check_against(&stats);
    assert_eq!(stats.engine.dropped.0[Reason::ShutDown as usize], 3);
    assert_eq!((stats.engine.created, stats.engine.sealed), (3, 0));
    assert_eq!(stats.engine.bytes_free, 64 << 20, "what the late span held was given back");
}

#[test]
fn without_a_pipeline_everything_is_a_no_op() {
    // No pipeline is installed in this process: all of its tests attach theirs.
    let mut guard: SpanGuard = span!("nobody listens", "value" = 1);
    assert!(!guard.is_recording() && !guard.context().is_valid());
    guard.set_attribute("a", 1).add_event("b").set_critical();
    guard.end_at(WallTime(1));
    let span = Span::builder("builder").start_time(WallTime(1)).start();
    assert!(!span.is_recording());
    span.end();
    assert!(!Span::none().is_recording());
}

#[test]
fn a_remote_context_passes_through_a_thread_that_records_nothing() {
    use spanring::settings::{RootSampler, SamplerSetting};
    let off = SamplerSetting { parent_based: true, root: RootSampler::AlwaysOff };
    let ledger = record(settings().sampler(off), |_| {
        let root = span!("not sampled");
        let child = span!("child");
        assert!(root.context().is_valid() && !root.context().is_sampled());
        assert_eq!(child.context().trace_id(), root.context().trace_id());
        assert_ne!(child.context().span_id(), root.context().span_id());
    });
    assert_eq!(ledger.spans().count(), 0);
}

#[test]
fn a_disabled_pipeline_costs_no_counts() {
    let (pipeline, sink) = memory_pipeline(settings().disabled(true));
    {
        let _attached = pipeline.attach();
        assert!(!span!("disabled").is_recording());
    }
    pipeline.shutdown(LONG).unwrap();
    check_counts(&pipeline.stats());
    assert_eq!(pipeline.stats().engine.created, 0);
    Ledger::read(&sink.batches()).check_against(&pipeline.stats());
}
