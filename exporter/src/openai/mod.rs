//! OpenAI's trace ingest: spans as the objects that the openai-agents SDK sends.
//!
//! [`Writer`] writes a request's body, `{"data":[…]}`, from a batch: a `trace` object in front of the first span of each
//! trace, and a `trace.span` for every span but those that are traces themselves. `docs/openai.md` says which attribute
//! becomes which field, and what is cut.
//!
//! What this module never does: write what is not JSON, whatever the attributes hold, or nest deeper than a fixed
//! bound. A batch gives the same body each time, as long as no other was accepted meanwhile.

mod cut;
mod data;
mod fields;
mod json;
mod reasoning;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::ops::Range;

use self::json::Json;
use self::trace::Index;
use crate::model::SpanBatch;

/// Traces whose objects are known to have been sent; the oldest are forgotten, and would get theirs again.
const TRACES_MAX: usize = 1 << 14;

/// Writes bodies, and remembers which traces' objects arrived.
///
/// ```
/// use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};
/// use spanring_exporter::openai::Writer;
///
/// let batch = SpanBatch {
///     resources: vec![ResourceData::default()],
///     scopes: vec![ScopeData::default()],
///     spans: vec![SpanData { name: "plan".into(), ..SpanData::default() }],
/// };
/// let mut writer = Writer::new();
/// let body = writer.write_batch(&batch, 0..1, 1 << 20).expect("it is small");
/// assert_eq!(body.objects, 2);
/// writer.accepted(body.traces);
/// assert_eq!(writer.write_batch(&batch, 0..1, 1 << 20).unwrap().objects, 1);
/// ```
#[derive(Debug, Default)]
pub struct Writer {
    sent: HashSet<u64>,
    /// The same, in the order in which they came.
    order: VecDeque<u64>,
    hasher: RandomState,
}

/// A request's body.
#[derive(Debug)]
pub struct Body {
    /// Its bytes.
    pub json: Vec<u8>,
    /// How many traces and spans it holds.
    pub objects: usize,
    /// The traces whose objects it holds.
    pub traces: Traces,
}

/// Traces whose objects are under way.
#[derive(Debug, Default)]
pub struct Traces(Vec<u64>);

impl Writer {
    /// A writer that knows of no trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// The body for the spans of `batch` in `range`; `None` if it would exceed `bytes_max`.
    ///
    /// What spans of the batch outside `range` say of their traces counts, too.
    ///
    /// # Panics
    ///
    /// If `range` exceeds the spans, or a span refers to a scope, or its scope to a resource, that `batch` lacks.
    pub fn write_batch(
        &self,
        batch: &SpanBatch,
        range: Range<usize>,
        bytes_max: usize,
    ) -> Option<Body> {
        const HEAD: &[u8] = b"{\"data\":[";
        const TAIL: &[u8] = b"]}";
        let mut index = Index::new(batch);
        let mut traces = Vec::new();
        let mut objects = 0;
        let mut json = HEAD.to_vec();
        let mut put = |object: Json<'_>| {
            if objects > 0 {
                json.push(b',');
            }
            objects += 1;
            object.write(&mut json);
            json.len() + TAIL.len() <= bytes_max
        };
        for span in &batch.spans[range] {
            let (object, id) = index.trace_object(span);
            if let Some(object) = object {
                let mark = self.hasher.hash_one(id);
                if !self.sent.contains(&mark) {
                    traces.push(mark);
                    if !put(object) {
                        return None;
                    }
                }
            }
            if let Some(object) = data::span(span, &index)
                && !put(object)
            {
                return None;
            }
        }
        json.extend_from_slice(TAIL);
        Some(Body { json, objects, traces: Traces(traces) })
    }

    /// Says that the receiver has these traces' objects.
    pub fn accepted(&mut self, traces: Traces) {
        for mark in traces.0 {
            if self.sent.insert(mark) {
                self.order.push_back(mark);
            }
        }
        while self.order.len() > TRACES_MAX {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.sent.remove(&oldest));
        }
    }
}
