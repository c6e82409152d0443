//! Shared helpers of the tests that cross crates and processes.
//!
//! [`ledger`] decodes what a pipeline sealed and holds it against what the pipeline says it did;
//! [`sinks`] are sinks that a test steers; [`directory`] reads segments back; [`process`] runs helper
//! programs; [`fork`] goes on in fork children; [`receiver`] and [`proxy`] are a receiver of OTLP and what lies before it,
//! [`ingest`] is OpenAI's. Nothing here waits for time to pass: what a test waits for tells it so.

#![deny(unsafe_code)]

pub mod directory;
pub mod fork;
pub mod ingest;
pub mod ledger;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod sinks;

use std::time::Duration;

use spanring::settings::{Settings, SettingsBuilder};
use spanring_exporter::{MemorySink, Pipeline};

use crate::ledger::Ledger;

/// Longer than anything here takes on a loaded machine: what has not happened by then never will.
pub const LONG: Duration = Duration::from_secs(120);

/// Settings of code alone, so that no test depends on the environment it runs in.
pub fn settings() -> SettingsBuilder {
    Settings::builder().ignore_environment()
}

/// A pipeline beside the installed one, with `settings`, that keeps its batches.
///
/// # Panics
///
/// If the pipeline cannot be made.
pub fn memory_pipeline(settings: SettingsBuilder) -> (Pipeline, MemorySink) {
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings.build())
        .sink(sink.clone())
        .build()
        .expect("a pipeline with a sink can be made");
    (pipeline, sink)
}

/// Runs `record` on this thread with a pipeline of its own and returns what came out of it, checked.
///
/// # Panics
///
/// If the pipeline cannot be made or shut down, or the counts do not add up.
pub fn record(settings: SettingsBuilder, record: impl FnOnce(&Pipeline)) -> Ledger {
    let (pipeline, sink) = memory_pipeline(settings);
    {
        let _attached = pipeline.attach();
        record(&pipeline);
    }
    pipeline.shutdown(LONG).expect("nothing keeps the pipeline from ending");
    let ledger = Ledger::read(&sink.batches());
    ledger.check_against(&pipeline.stats());
    ledger
}
