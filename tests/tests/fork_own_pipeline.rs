//! Fork children that make a pipeline of their own, while threads of the parent record, begin and end.
//! Alone in its process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use spanring::span;
use spanring_exporter::{MemorySink, Pipeline};
use spanring_tests::fork::in_child;
use spanring_tests::ledger::check_counts;

/// Longer than any machine takes; a child whose flusher waits for a lost thread's lock waits for good.
const LONG: Duration = Duration::from_secs(30);
const CHILDREN: usize = 3000;

#[test]
#[ignore = "a minute of forking at full load: tests/soak runs it"]
fn a_childs_own_pipeline_delivers_whatever_the_parents_threads_were_at() {
    let pipeline = Pipeline::builder().sink(MemorySink::new()).install().unwrap();
    let stop = AtomicBool::new(false);
    // Asserted on only when the threads have been told to stop.
    let mut statuses = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut span = span!("of the parent", "number" = number);
                    // Keys that are new take the interner's lock.
                    span.set_attribute(&format!("key {}", number % 3000 + thread * 1000), number);
                    drop(span);
                    if number % 64 == 0 {
                        std::thread::spawn(|| drop(span!("short"))).join().unwrap();
                    }
                }
            });
        }
        for _ in 0..CHILDREN {
            let status = in_child(|| {
                let memory = MemorySink::new();
                let Ok(own) = Pipeline::builder().sink(memory.clone()).build() else { return 1 };
                let attached = own.attach();
                (0..10).for_each(|number| drop(span!("of the child", "number" = number)));
                drop(attached);
                let flushed = own.flush(LONG).is_ok();
                let shut_down = own.shutdown(LONG).is_ok();
                let spans: u32 = memory.batches().iter().map(|batch| batch.spans).sum();
                i32::from(!flushed) << 1 | i32::from(!shut_down) << 2 | i32::from(spans != 10) << 3
            });
            statuses.push(status);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(statuses, [0; CHILDREN]);
    pipeline.shutdown(LONG).unwrap();
    check_counts(&pipeline.stats());
}
