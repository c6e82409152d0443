//! Bytes a span of recorded traces, in batches that read alone. Every batch is decoded again and compared
//! with what was recorded.

use spanring_exporter::batch::{Encoder, LEVEL_DEFAULT};

use super::Run;
use crate::measure::Numbers;
use crate::recorded;
use crate::workload::{self, Clock, Workload};

/// The recorded files.
pub const FILES: [&str; 4] = ["onlineboutique", "trainticket", "webshop", "agents"];

/// Levels of zstd that are compared at 512 spans a batch.
pub const LEVELS: &[i32] = &[-3, -1, LEVEL_DEFAULT, 2, 3, 6, 9];

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let clock = Clock::default();
    let mut numbers = Numbers::default();
    for file in FILES {
        for size in [50, 512, 4096] {
            let (workload, expected) = recorded::load(&run.data, file, size, 1)
                .unwrap_or_else(|message| panic!("{message}"));
            workload::check(&workload, &clock, expected);
            for &level in if size == 512 { LEVELS } else { &[LEVEL_DEFAULT] } {
                let bytes = bytes_a_span(&workload, &clock, level);
                numbers.set(format!("{file}, {size} a batch, level {level} B"), bytes);
            }
        }
    }
    numbers
}

fn bytes_a_span(workload: &Workload, clock: &Clock, level: i32) -> f64 {
    let mut encoder = Encoder::new().expect("there is memory");
    let mut bytes = 0;
    for (sequence, records) in workload.batches.iter().enumerate() {
        let context = workload::context(workload, clock, sequence as u64, level);
        bytes += encoder.encode(records, &context).expect("it is within all limits").frame.len();
    }
    bytes as f64 / workload.spans() as f64
}
