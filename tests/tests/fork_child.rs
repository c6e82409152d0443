//! A fork child that goes on using its parent's pipeline.

use std::time::Duration;

use spanring::export::FlushError;
use spanring::span;
use spanring_exporter::{MemorySink, Pipeline};
use spanring_tests::fork::in_child;

#[test]
fn a_child_that_attaches_its_parents_pipeline_records_nothing_and_starts_no_thread() {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder().sink(memory.clone()).build().unwrap();
    let attached = pipeline.attach();
    let status = in_child(|| {
        {
            let _again = pipeline.attach();
            (0..1000).for_each(|_| drop(span!("of the child")));
        }
        drop(attached);
        let flushed = pipeline.flush(Duration::from_secs(1));
        let shut_down = pipeline.shutdown(Duration::from_secs(1));
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        i32::from(threads != 1)
            | i32::from(flushed.map_err(|error| error.reason) != Err(FlushError::Forked)) << 1
            | i32::from(shut_down.map_err(|error| error.reason) != Err(FlushError::Forked)) << 2
    });
    assert_eq!(status, 0);
    assert_eq!(pipeline.stats().engine.created, 0);
    drop(pipeline);
}
