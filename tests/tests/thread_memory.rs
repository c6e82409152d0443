//! Threads leave nothing behind, whatever they did with spans, by an allocator that counts. Alone in its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use spanring::settings::SamplerSetting;
use spanring::{RootSampler, Span, SpanContext, span};
use spanring_tests::{memory_pipeline, settings};

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: the system's allocator, with a count beside it that neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(1, Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(1, Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations that a hundred threads left, which did `body` one after the other.
fn left(body: impl Fn() + Sync) -> i64 {
    let threads = |count| {
        for _ in 0..count {
            std::thread::scope(|scope| scope.spawn(&body).join().expect("it does not panic"));
        }
    };
    threads(10);
    let before = LIVE.load(Relaxed);
    threads(100);
    LIVE.load(Relaxed) - before
}

#[test]
fn threads_free_their_blocks() {
    // Without a pipeline: nobody else allocates meanwhile, and no ring is made.
    let context = SpanContext::default();
    assert_eq!(left(|| drop(context.attach())), 0, "a context was attached");
    assert_eq!(left(|| drop(span!("disabled"))), 0, "spans that do nothing");

    // Spans that are not sampled end on threads that never record.
    let off = SamplerSetting { parent_based: true, root: RootSampler::AlwaysOff };
    let (pipeline, _sink) = memory_pipeline(settings().sampler(off));
    let attached = pipeline.attach();
    let ended_elsewhere = || {
        for _ in 0..20 {
            let spans: Vec<_> = (0..10).map(|_| Span::start("not sampled")).collect();
            std::thread::scope(|scope| scope.spawn(|| drop(spans)).join().expect("no panic"));
        }
    };
    ended_elsewhere();
    let before = LIVE.load(Relaxed);
    ended_elsewhere();
    let more = LIVE.load(Relaxed) - before;
    assert!(more < 20, "{more} allocations are left by 20 threads");
    drop(attached);
}
