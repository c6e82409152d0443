//! How soon a critical span reaches a sink while other threads record as many spans as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use spanring::{Settings, clock, span};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::decode;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

use super::{Run, encode};
use crate::measure::{Numbers, cores, nanos_per_tick, quantile};

const PATIENCE: Duration = Duration::from_secs(30);
/// Between two critical spans.
const PAUSE: Duration = Duration::from_millis(2);

/// Measures with no other thread, with one, and with one a core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    let nanos_per_tick = nanos_per_tick();
    let samples = if run.quick { 300 } else { 3000 };
    for (load, threads) in [("idle", 0), ("one thread busy", 1), ("each core busy", cores())] {
        let (mut ticks, dropped) = latencies(threads, samples);
        for (name, q) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let millis = quantile(&mut ticks, q) * nanos_per_tick / 1e6;
            numbers.set(format!("{load}, {name} ms"), millis);
        }
        numbers.set(format!("{load}, dropped"), dropped as f64);
    }
    numbers
}

/// Ticks from the end of each critical span to the sink's call with its batch, and how many critical spans were dropped, while so many
/// threads record.
fn latencies(threads: usize, samples: usize) -> (Vec<f64>, u64) {
    let (arrived, arrivals) = channel();
    let waits = Arc::new(AtomicBool::new(false));
    let sink = Arrivals { waits: waits.clone(), arrived };
    let pipeline = Pipeline::builder().settings(Settings::default()).sink(sink).build();
    let pipeline = pipeline.expect("a pipeline can be made");
    let stop = AtomicBool::new(false);
    let mut ticks = Vec::with_capacity(samples);
    let mut dropped = 0;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                for i in 0.. {
                    encode::four_attributes(i);
                    if stop.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        let _attached = pipeline.attach();
        // The first ones find a flusher that starts, and memory that nobody touched.
        for number in 0..samples + 20 {
            std::thread::sleep(PAUSE);
            waits.store(true, Relaxed);
            let span = span!("bench.critical", "priority" = "critical");
            let end = clock::ticks();
            drop(span);
            match arrivals.recv_timeout(PATIENCE) {
                Ok(at) if number >= 20 => ticks.push((at as f64 - end as f64).max(0.0)),
                Ok(_) => {}
                Err(_) => dropped += 1,
            }
        }
        stop.store(true, Relaxed);
    });
    (ticks, dropped)
}

/// A sink that tells when a critical span came, while somebody waits for one.
struct Arrivals {
    waits: Arc<AtomicBool>,
    arrived: Sender<u64>,
}

impl Sink for Arrivals {
    fn name(&self) -> &str {
        "arrivals"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        let now = clock::ticks();
        if self.waits.load(Relaxed) {
            let spans = decode(&batch.frame).expect("it was sealed just now").batch.spans;
            if spans.iter().any(|span| span.name == "bench.critical") {
                self.waits.store(false, Relaxed);
                let _ = self.arrived.send(now);
            }
        }
        Ok(())
    }
}
