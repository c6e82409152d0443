//! What a pipeline sealed, held against what it says it did.
//!
//! Conservation, checked from both ends: the engine's and the sinks' counts add up by themselves, and
//! the decoded batches hold exactly as many spans as the counts say, each once, in batches whose
//! sequence numbers and cumulative counts have no gap.

use std::collections::HashSet;

use spanring::export::Reason;
use spanring_exporter::batch::{DecodedBatch, decode};
use spanring_exporter::model::{ScopeData, SpanData};
use spanring_exporter::sink::SealedBatch;
use spanring_exporter::{PipelineStats, SinkStats};

/// The decoded batches of one pipeline, in order.
#[derive(Debug)]
pub struct Ledger {
    /// The batches.
    pub batches: Vec<DecodedBatch>,
}

impl Ledger {
    /// Decodes `batches`, which are all that one pipeline sealed, and checks them.
    ///
    /// # Panics
    ///
    /// If one cannot be decoded, or they do not fit together.
    pub fn read(batches: &[SealedBatch]) -> Ledger {
        let mut decoded = Vec::new();
        for batch in batches {
            let found = decode(&batch.frame).expect("a sealed batch can be decoded");
            assert_eq!(found.header.sequence, batch.sequence);
            assert_eq!(found.header.spans, batch.spans);
            assert_eq!(found.header.instance, batch.instance);
            decoded.push(found);
        }
        Self::of(decoded)
    }

    /// Checks decoded batches, which are all or the first ones that a pipeline sealed.
    ///
    /// # Panics
    ///
    /// If they do not fit together.
    pub fn of(batches: Vec<DecodedBatch>) -> Ledger {
        let mut sealed = 0;
        let mut ids = HashSet::new();
        for (sequence, batch) in batches.iter().enumerate() {
            let header = &batch.header;
            assert_eq!(header.instance, batches[0].header.instance, "batches of two pipelines");
            assert_eq!(header.sequence, sequence as u64, "a batch is missing or out of order");
            assert_eq!(header.spans as usize, batch.batch.spans.len());
            sealed += u64::from(header.spans);
            assert_eq!(header.sealed, sealed, "the cumulative count of batch {sequence}");
            let dropped: u64 = header.dropped.iter().map(|(_, count)| count).sum();
            assert!(header.created >= sealed + dropped, "batch {sequence} counts more than exists");
            for span in &batch.batch.spans {
                assert!(span.trace_id.is_valid() && span.span_id.is_valid());
                assert!(ids.insert(span.span_id), "span {} is there twice", span.span_id);
                assert!(span.end_unix_nano >= span.start_unix_nano, "{} ends early", span.name);
            }
        }
        Ledger { batches }
    }

    /// Checks that the batches hold exactly what `stats`, taken after shutdown, says was sealed, and
    /// that the last batch, which closes the pipeline, says the same.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check_against(&self, stats: &PipelineStats) {
        self.check_interrupted(stats, 0);
    }

    /// As [`check_against`](Self::check_against), for a pipeline that was shut down while `threads`
    /// threads recorded: each may have met a drop and counted it only after the closing batch.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn check_interrupted(&self, stats: &PipelineStats, threads: u64) {
        check_counts(stats);
        assert_eq!(stats.engine.resident, 0, "spans are left in the rings");
        assert_eq!(self.spans().count() as u64, stats.engine.sealed);
        assert_eq!(self.batches.len() as u64, stats.batches);
        let closing = &self.batches.last().expect("a closed pipeline has a closing batch").header;
        assert_eq!((closing.spans, closing.sealed), (0, stats.engine.sealed));
        let dropped: u64 = closing.dropped.iter().map(|(_, count)| count).sum();
        assert_eq!(closing.created, closing.sealed + dropped, "the closing batch's counts");
        for (reason, count) in stats.engine.dropped.iter() {
            let closing = closing.dropped.iter().find(|(name, _)| name == reason.name());
            let late = count - closing.map_or(0, |(_, count)| *count);
            // Spans that end after the last batch are dropped because the pipeline is shut down.
            let is_shut_down = reason == Reason::ShutDown;
            assert!(is_shut_down || late <= threads, "{late} late drops: {}", reason.name());
        }
        let late = stats.engine.dropped.total() - dropped;
        assert_eq!(closing.created + late, stats.engine.created);
    }

    /// All spans, in order.
    pub fn spans(&self) -> impl Iterator<Item = &SpanData> {
        self.batches.iter().flat_map(|batch| &batch.batch.spans)
    }

    /// The only span of that name.
    ///
    /// # Panics
    ///
    /// If there is none, or more than one.
    pub fn span(&self, name: &str) -> &SpanData {
        let found: Vec<_> = self.spans().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "spans named {name:?}");
        found[0]
    }

    /// The names of all spans, in order.
    pub fn names(&self) -> Vec<&str> {
        self.spans().map(|span| span.name.as_str()).collect()
    }

    /// The scope of the only span of that name.
    ///
    /// # Panics
    ///
    /// As [`span`](Self::span).
    pub fn scope(&self, name: &str) -> &ScopeData {
        let span = self.span(name);
        let holds = |batch: &&DecodedBatch| batch.batch.spans.iter().any(|other| other == span);
        let batch = self.batches.iter().find(holds).expect("a span is in a batch");
        &batch.batch.scopes[span.scope]
    }
}

/// Checks that the counts of engine and sinks add up.
///
/// # Panics
///
/// If they do not.
pub fn check_counts(stats: &PipelineStats) {
    let engine = &stats.engine;
    assert_eq!(
        engine.created,
        engine.sealed + engine.dropped.total() + engine.resident,
        "created = sealed + dropped + resident: {engine:?}"
    );
    let mut by_thread = engine.ended_threads_dropped;
    for thread in &engine.threads {
        for (sum, count) in by_thread.0.iter_mut().zip(thread.dropped.0) {
            *sum += count;
        }
    }
    assert_eq!(by_thread, engine.dropped, "drops by thread add up to the drops by reason");
    for sink in &stats.sinks {
        check_sink(sink);
        assert_eq!(sink.sealed, engine.sealed, "{} was offered every sealed span", sink.name);
    }
}

fn check_sink(sink: &SinkStats) {
    assert_eq!(
        sink.sealed + sink.adopted,
        sink.delivered + sink.dropped_total() + sink.queued + sink.spooled,
        "sealed + adopted = delivered + dropped + queued + spooled: {sink:?}"
    );
}
