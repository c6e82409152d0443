//! A flusher whose thread cannot be started at first. Alone in its process, whose memory it limits.

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
fn a_flusher_that_could_not_be_started_is_started_later() {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder().sink(memory.clone()).build().unwrap();
    let _attached = pipeline.attach();
    // Enough for rings, not for a thread's stack of 2 MiB.
    let before = limit_memory(Some(1 << 20), None);
    drop(span!("first"));
    drop(span!("second"));
    limit_memory(None, Some(before));
    assert_eq!(pipeline.stats().wake_ups, 0, "the thread was started within the limit");
    // At once, before a thread that records would try again.
    pipeline.flush(Duration::from_secs(10)).expect("it starts the flusher");
    assert_eq!(pipeline.stats().engine.sealed, 2);
    pipeline.shutdown(Duration::from_secs(10)).unwrap();
}
