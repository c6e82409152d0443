//! A program that records numbered spans and sends them over OTLP, through outages and until it is killed.
//!
//! ```text
//! sender ENDPOINT DIRECTORY FIRST COUNT
//! ```
//!
//! Says on standard output again and again how many spans are sealed, delivered, and how many attempts failed; then
//! `recorded`, when all are recorded and nothing waits any more; then it waits for a line, shuts down and says its
//! final counts. `tests/tests/reliability.rs` runs it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline, PipelineStats, SinkStats};
use spanring_tests::{LONG, settings};

/// Bytes of rings, queues and all that waits in memory.
const MAX_BYTES: u64 = 8 << 20;
/// Spans that wait for the flusher: few, so that a kill comes in the middle of sealing.
const RESIDENT: u64 = 500;
/// Spans between two looks at whether the flusher keeps up.
const BURST: u64 = 64;

/// How often the calling thread has waited for anything.
fn waits() -> i64 {
    // SAFETY: `usage` is valid for writes, and all zeros are a valid value.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage.ru_nvcsw
    }
}

/// A line of `/proc/self/status` in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux has that line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("it is a number")
}

/// Beside the file sink, which writes to the same directory.
fn otlp(stats: &PipelineStats) -> &SinkStats {
    stats.sinks.iter().find(|sink| sink.name == "otlp").expect("it was added")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, directory, first, count] = &arguments[..] else {
        panic!("usage: sender ENDPOINT DIRECTORY FIRST COUNT")
    };
    let (first, count): (u64, u64) = (first.parse().unwrap(), count.parse().unwrap());
    let settings = settings()
        .dir(Path::new(directory))
        .batch_size(100)
        .max_bytes(MAX_BYTES)
        .max_batch_wait(Duration::from_secs(3600));
    let pipeline = Pipeline::builder()
        .settings(settings.build())
        .otlp(OtlpOptions::new(endpoint.clone()))
        .install()
        .expect("it starts");
    let before = status("VmRSS");
    let (waited, recorded) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The first span of all makes the thread's ring and starts the flusher.
            drop(span!("first"));
            let mut number = first;
            while number < first + count {
                // A load that the flusher takes: what is tested is that delivery holds nobody up.
                while pipeline.stats().engine.resident > RESIDENT {
                    std::thread::yield_now();
                }
                let before = waits();
                for _ in 0..BURST.min(first + count - number) {
                    drop(span!("sent", "number" = number));
                    number += 1;
                }
                waited.fetch_add((waits() - before) as u64, Relaxed);
            }
            recorded.store(true, Relaxed);
        });
        let mut said = [u64::MAX; 3];
        loop {
            let done = recorded.load(Relaxed);
            if done {
                // Outages make this fail; then the spans still wait.
                let _ = pipeline.flush(Duration::from_millis(10));
            }
            let stats = pipeline.stats();
            let sink = otlp(&stats);
            let counts = [sink.sealed, sink.delivered, sink.failures];
            if counts != said {
                said = counts;
                println!("sealed {} delivered {} failures {}", said[0], said[1], said[2]);
                std::io::stdout().flush().expect("somebody listens");
            }
            if done && sink.sealed > count && sink.queued + sink.spooled == 0 {
                break;
            }
            std::thread::yield_now();
        }
    });
    println!("recorded");
    std::io::stdin().read_line(&mut String::new()).expect("standard input can be read");
    pipeline.shutdown(LONG).expect("the receiver is there");
    let stats = pipeline.stats();
    let sink = otlp(&stats);
    println!(
        "delivered {} adopted {} repeated {} dropped {} waited {} kib {}",
        sink.delivered,
        sink.adopted,
        sink.repeated,
        stats.engine.dropped.total() + sink.dropped_total(),
        waited.load(Relaxed),
        status("VmHWM").saturating_sub(before),
    );
}
