//! What is to be performed: all spans in the order in which they ended, and their tracers.

use std::collections::HashMap;
use std::sync::Arc;

use spanring::{ResourceInfo, TRACERS_MAX, Tracer, TracerInfo};
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};

/// Spans that one replay may hold: they are numbered with 32 bits, of which one value means none.
const SPANS_MAX: usize = u32::MAX as usize;

/// Recorded spans, numbered in the order in which they ended.
#[derive(Debug, Default)]
pub struct Recording {
    spans: Vec<(SpanData, Tracer)>,
    tracers: HashMap<String, Tracer>,
    resources: HashMap<String, Arc<ResourceInfo>>,
}

impl Recording {
    /// Adds the spans of a batch, and registers a tracer for each of its scopes.
    ///
    /// # Errors
    ///
    /// If there are too many spans, or more scopes than a process may have tracers; in words.
    ///
    /// # Panics
    ///
    /// If a span refers to a scope, or a scope to a resource, that the batch does not have.
    pub fn add(&mut self, batch: SpanBatch) -> Result<(), String> {
        if self.spans.len() + batch.spans.len() > SPANS_MAX {
            return Err(format!(
                "there are more than {SPANS_MAX} spans; replay fewer files at once"
            ));
        }
        // Of scopes that no span uses none is made: readers list them as they stand in the file.
        let mut tracers = vec![None; batch.scopes.len()];
        for span in batch.spans {
            let scope = span.scope;
            let tracer = match tracers[scope] {
                Some(tracer) => tracer,
                None => {
                    *tracers[scope].insert(self.tracer(&batch.scopes[scope], &batch.resources)?)
                }
            };
            self.spans.push((span, tracer));
        }
        Ok(())
    }

    /// Number of spans.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The span `number`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn span(&self, number: u32) -> &SpanData {
        &self.spans[number as usize].0
    }

    /// The tracer of the span `number`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn tracer_of(&self, number: u32) -> Tracer {
        self.spans[number as usize].1
    }

    fn tracer(&mut self, scope: &ScopeData, resources: &[ResourceData]) -> Result<Tracer, String> {
        let resource = &resources[scope.resource];
        // As text, since values have no hash; it is the same exactly if they are, NaN included.
        let resource_key = format!("{:?} {:?}", resource.schema_url, resource.attributes);
        let ScopeData { name, version, schema_url, attributes, .. } = scope;
        let key = format!("{name:?} {version:?} {schema_url:?} {attributes:?} {resource_key}");
        if let Some(&tracer) = self.tracers.get(&key) {
            return Ok(tracer);
        }
        let resource = self.resources.entry(resource_key).or_insert_with(|| {
            Arc::new(ResourceInfo {
                attributes: resource.attributes.clone(),
                schema_url: resource.schema_url.clone(),
            })
        });
        let tracer = Tracer::new(TracerInfo {
            name: name.clone(),
            version: version.clone(),
            schema_url: schema_url.clone(),
            attributes: attributes.clone(),
            resource: Some(resource.clone()),
        });
        if tracer == Tracer::default() {
            return Err(format!(
                "there are more than {TRACERS_MAX} scopes with their resources, which is what a \
                 process may have; replay fewer files at once"
            ));
        }
        self.tracers.insert(key, tracer);
        Ok(tracer)
    }
}
