//! What every section measures with: clocks, quantiles, cores, a sink that keeps nothing.

use std::collections::BTreeMap;

use spanring::clock::{self, ClockMap};
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

/// What a section prints for the driver: a name and a number each, as one JSON object.
#[derive(Debug, Default)]
pub struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Notes a number.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), value);
    }

    /// Prints them on standard output.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(&self.0).expect("names and numbers"));
    }
}

/// The middle one of `samples`, which it sorts.
pub fn median(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample below which a share `q` of them lies; sorts them.
pub fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q).round() as usize]
}

/// How long a tick of the engine's clock is.
pub fn nanos_per_tick() -> f64 {
    let first = clock::Reading::now();
    let mut second = first;
    while second.monotonic - first.monotonic < 50_000_000 {
        second = clock::Reading::now();
    }
    (second.monotonic - first.monotonic) as f64 / (second.ticks - first.ticks) as f64
}

/// How long two reads of the engine's clock take, in ns: a measure of how fast the machine is now.
pub fn two_clock_reads() -> f64 {
    const READS: u64 = 2048;
    let nanos_per_tick = nanos_per_tick();
    let mut samples: Vec<f64> = (0..201)
        .map(|_| {
            let begin = clock::ticks();
            for _ in 0..READS {
                std::hint::black_box((clock::ticks(), clock::ticks()));
            }
            (clock::ticks() - begin) as f64 * nanos_per_tick / READS as f64
        })
        .collect();
    median(&mut samples)
}

/// The map from ticks to wall-clock time, as the flusher makes it.
pub fn clock_map() -> ClockMap {
    let first = clock::Reading::now();
    let mut second = first;
    while second.monotonic - first.monotonic < 10_000_000 {
        second = clock::Reading::now();
    }
    ClockMap::new(first, second)
}

/// Processor time of this thread in seconds, so that others on the machine count less.
pub fn thread_seconds() -> f64 {
    seconds(rustix::time::ClockId::ThreadCPUTime)
}

/// Processor time of this process in seconds, all threads.
pub fn process_seconds() -> f64 {
    seconds(rustix::time::ClockId::ProcessCPUTime)
}

fn seconds(clock: rustix::time::ClockId) -> f64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The cores this process may use, as it was when first asked: before a thread was [pinned](pin).
pub fn cores() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Keeps this thread, and the threads it starts from now on, on one core; false if there is none such.
pub fn pin(core: usize) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    if core >= cores() {
        return false;
    }
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

/// A sink that keeps nothing, as a peer's no-op exporter.
#[derive(Debug)]
pub struct NullSink;

impl Sink for NullSink {
    fn name(&self) -> &str {
        "null"
    }

    fn deliver(&mut self, _batch: &SealedBatch) -> Result<(), SinkError> {
        Ok(())
    }
}
