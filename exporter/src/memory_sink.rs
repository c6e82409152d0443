//! A sink that keeps batches in memory, for tests.

use std::sync::{Arc, Mutex, PoisonError};

use crate::sink::{SealedBatch, Sink, SinkError};

/// Keeps every batch. Clones share what is kept: give one to the pipeline and keep another.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    batches: Arc<Mutex<Vec<SealedBatch>>>,
}

impl MemorySink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// The batches so far.
    pub fn batches(&self) -> Vec<SealedBatch> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for MemorySink {
    fn name(&self) -> &str {
        "memory"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch.clone());
        Ok(())
    }
}
