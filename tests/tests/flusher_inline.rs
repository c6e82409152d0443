//! A flusher whose thread can never be started. Alone in its process, whose threads it limits.

use std::time::Duration;

use spanring::span;
use spanring_exporter::{MemorySink, Pipeline};

/// Limits the address space to what is in use and a little more; returns the limit before.
fn limit_memory(spare: Option<u64>, before: Option<libc::rlimit>) -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is valid for writes.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut old) }, 0);
    let new = before.unwrap_or_else(|| {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        libc::rlimit { rlim_cur: pages * 4096 + spare.unwrap(), rlim_max: old.rlim_max }
    });
    // SAFETY: `new` is valid for reads.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const new) }, 0);
    old
}

#[test]
fn shutdown_does_the_flushers_work_where_no_thread_can_be_had() {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder().sink(memory.clone()).build().unwrap();
    let attached = pipeline.attach();
    // Enough for rings and a small batch, not for a thread's stack of 2 MiB.
    let before = limit_memory(Some(7 << 18), None);
    drop(span!("first"));
    drop(span!("second"));
    pipeline.shutdown(Duration::from_secs(10)).expect("it is done on this thread");
    limit_memory(None, Some(before));
    let stats = pipeline.stats();
    assert_eq!((stats.engine.created, stats.engine.sealed, stats.wake_ups), (2, 2, 0));
    assert_eq!(memory.batches().iter().map(|batch| batch.spans).sum::<u32>(), 2);
    // The thread is no flusher afterwards: another pipeline records its spans.
    drop(attached);
    let other = Pipeline::builder().sink(memory.clone()).build().unwrap();
    let _attached = other.attach();
    drop(span!("third"));
    other.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(other.stats().engine.sealed, 1);
}
