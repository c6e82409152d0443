//! What tracing takes of a core at 10,000 spans a second, with everything switched on that watches it.

use std::time::{Duration, Instant};

use spanring::settings::LogLevel;
use spanring::{Settings, StatusCode, span};
use spanring_exporter::Pipeline;

use super::Run;
use crate::measure::{NullSink, Numbers, process_seconds, thread_seconds};

const PATIENCE: Duration = Duration::from_secs(30);
const RATE: u64 = 10_000;
/// Bursts a second: few, as it is the spans that are measured and not the sleeps.
const BURSTS: u64 = 100;

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    let seconds = if run.quick { 2 } else { 10 };
    let settings = Settings::builder()
        .metrics(true)
        .report_every(RATE)
        .log_level(LogLevel::Info)
        .alerts(true)
        .alert_p99(Duration::from_secs(1))
        .track_errors(true)
        .status_address(([127, 0, 0, 1], 0).into())
        .build();
    let pipeline = Pipeline::builder().settings(settings).sink(NullSink).install();
    let pipeline = pipeline.expect("nothing else is installed");
    for _ in 0..10 {
        burst();
    }
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let idle = paced(seconds, || ());
    let before = pipeline.stats().engine;
    let busy = paced(seconds, burst);
    pipeline.flush(PATIENCE).expect("the flusher runs");
    let after = pipeline.stats().engine;
    let percent = |used: f64| used / seconds as f64 * 100.0;
    // What sleeping and waking takes is no cost of spans.
    let threads = percent((busy.own - idle.own).max(0.0));
    numbers.set("spans/s", (after.created - before.created) as f64 / seconds as f64);
    numbers.set("dropped", (after.dropped.total() - before.dropped.total()) as f64);
    numbers.set("flusher, % of a core", percent(busy.others));
    numbers.set("threads that record, % of a core", threads);
    numbers.set("both, % of a core", percent(busy.others) + threads);
    numbers
}

/// Processor seconds of this thread, and of all others.
struct Used {
    own: f64,
    others: f64,
}

/// Does `work` at its times for so many seconds.
fn paced(seconds: u64, work: impl Fn()) -> Used {
    let (all, own) = (process_seconds(), thread_seconds());
    let begin = Instant::now();
    for number in 0..seconds * BURSTS {
        work();
        let next = begin + Duration::from_micros((number + 1) * 1_000_000 / BURSTS);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let own = thread_seconds() - own;
    Used { own, others: process_seconds() - all - own }
}

fn burst() {
    for i in 0..RATE / BURSTS {
        let mut span = span!(
            "bench.live",
            "db.system" = "postgresql",
            "db.operation" = "select",
            "db.rows" = i,
            "db.shard" = 7
        );
        if i % 50 == 0 {
            span.set_status(StatusCode::Error, "");
        }
    }
}
