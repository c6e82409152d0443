//! OTLP: spans as protobuf, and what a server answers.
//!
//! [`Writer`] writes an `ExportTraceServiceRequest` from drained records or from plain data, straight
//! into the caller's buffer: every length is a minimal varint, fields with default values are left out,
//! and spans are grouped by resource and scope. [`response`] reads the answer.
//!
//! What this module never does: build a tree of messages, allocate for a span in steady state, or panic
//! on an answer. Both sources give the same message: records as they are, and the batch that was encoded
//! from them and decoded again.
//!
//! The messages are those of [opentelemetry-proto](https://github.com/open-telemetry/opentelemetry-proto);
//! `field` in `wire` names the numbers of their fields.

mod group;
pub mod response;
mod span;
#[cfg(test)]
mod tests;
mod value;
mod wire;

use std::ops::Range;

use spanring::record::Records;

use self::group::Groups;
use self::span::SpanWriter;
use self::wire::{Slot, field, put_text};
use crate::batch::{BatchContext, BatchError, TickClock};
use crate::model::{ResourceData, ScopeData, SpanBatch};

/// Writes requests, one at a time. Owns what is worth keeping between them.
///
/// ```
/// use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};
/// use spanring_exporter::otlp::Writer;
///
/// let batch = SpanBatch {
///     resources: vec![ResourceData::default()],
///     scopes: vec![ScopeData::default()],
///     spans: vec![SpanData { name: "GET /".into(), ..SpanData::default() }],
/// };
/// let mut body = Vec::new();
/// Writer::new().write_batch(&batch, 0..1, &mut body);
/// assert!(body.windows(5).any(|name| name == b"GET /"));
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    groups: Groups,
    spans: SpanWriter,
    /// Bytes that the lengths of the last `ScopeSpans` and `ResourceSpans` took.
    scope_width: u8,
    resource_width: u8,
}

impl Writer {
    /// A writer with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `records`, which may be none, to `out`: the bytes of one `ExportTraceServiceRequest`.
    ///
    /// Requests may be concatenated: protobuf reads them as one.
    ///
    /// # Errors
    ///
    /// If a record refers to a scope, or its scope to a resource, that `context` lacks. `out` is then as
    /// it was.
    pub fn write_records<C: TickClock + ?Sized>(
        &mut self,
        records: &Records,
        context: &BatchContext<'_, C>,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        let BatchContext { resources, scopes, .. } = *context;
        let used = records.iter().map(|record| usize::from(record.header.scope));
        self.groups.fill(used, resources, scopes)?;
        self.write(resources, scopes, out, |spans, index, out| {
            spans.record(&records.get(index), context, out);
        });
        Ok(())
    }

    /// Appends the spans of `batch` in `range` to `out`, as [`write_records`](Self::write_records) does.
    ///
    /// # Panics
    ///
    /// If `range` exceeds the spans, or a span refers to a scope, or its scope to a resource, that
    /// `batch` lacks. What the decoders return refers to nothing that is not there.
    pub fn write_batch(&mut self, batch: &SpanBatch, range: Range<usize>, out: &mut Vec<u8>) {
        let SpanBatch { resources, scopes, spans } = batch;
        let spans = &spans[range];
        let filled = self.groups.fill(spans.iter().map(|span| span.scope), resources, scopes);
        filled.unwrap_or_else(|error| panic!("{}", error.what()));
        self.write(resources, scopes, out, |writer, index, out| writer.data(&spans[index], out));
    }

    /// Writes the groups that were filled; `put` writes a span by its index.
    #[inline(always)]
    fn write(
        &mut self,
        resources: &[ResourceData],
        scopes: &[ScopeData],
        out: &mut Vec<u8>,
        mut put: impl FnMut(&mut SpanWriter, usize, &mut Vec<u8>),
    ) {
        let Writer { groups, spans, scope_width, resource_width } = self;
        for group in groups.by_resource() {
            let resource = &resources[scopes[group[0].scope()].resource];
            let of_resource = Slot::open(out, field::request::RESOURCE_SPANS, *resource_width);
            spans.resource(resource, out);
            for scope in group {
                let data = &scopes[scope.scope()];
                let of_scope = Slot::open(out, field::resource_spans::SCOPE_SPANS, *scope_width);
                spans.scope(data, out);
                groups.spans(scope).for_each(|index| put(spans, index, out));
                put_text(out, field::scope_spans::SCHEMA_URL, &data.schema_url);
                *scope_width = of_scope.close(out);
            }
            put_text(out, field::resource_spans::SCHEMA_URL, &resource.schema_url);
            *resource_width = of_resource.close(out);
        }
        spans.forget_large();
    }
}
