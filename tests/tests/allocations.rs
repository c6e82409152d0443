//! No allocation a span in steady state, by an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::record::Records;
use spanring::{Span, span};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a count beside it that neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Records a million spans in bursts that are drained between, and counts the allocations of the
/// bursts alone, after some to warm up.
fn allocations(burst: impl Fn()) -> u64 {
    const BURST: usize = 10_000;
    let engine = Engine::start(&EngineOptions::default());
    let _attached = engine.attach();
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let mut allocated = 0;
    for round in 0..103 {
        let before = COUNT.with(Cell::get);
        (0..BURST).for_each(|_| burst());
        if round >= 3 {
            allocated += COUNT.with(Cell::get) - before;
        }
        while drainer.drain(&mut records, 1024) > 0 {
            drainer.settle(&mut records, None);
        }
    }
    let stats = engine.stats();
    assert_eq!(stats.dropped.total(), 0);
    assert_eq!(stats.created % (103 * BURST as u64), 0);
    allocated
}

#[test]
fn a_bare_span_allocates_nothing() {
    assert_eq!(allocations(|| drop(span!("bare"))), 0);
}

#[test]
fn a_span_with_attributes_allocates_nothing() {
    assert_eq!(
        allocations(|| drop(span!(
            "four",
            "a" = "static",
            "b" = "text",
            "c" = 1,
            "d" = 1i64 << 40
        ))),
        0
    );
}

#[test]
fn nested_spans_and_events_allocate_nothing() {
    assert_eq!(
        allocations(|| {
            let _outer = span!("outer");
            let mut inner = span!("inner");
            inner.add_event("event");
            inner.set_attribute("dynamic key", String::new);
        }),
        0
    );
}

#[test]
fn a_span_that_outgrows_its_block_allocates_nothing() {
    assert_eq!(
        allocations(|| {
            let mut span = Span::start("large");
            for key in ["a", "b", "c", "d", "e", "f"] {
                span.set_attribute(key, "a value that is longer than what fits into some words");
            }
        }),
        0
    );
}

#[test]
fn the_counter_counts() {
    let before = COUNT.with(Cell::get);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(COUNT.with(Cell::get) - before, 1);
}
