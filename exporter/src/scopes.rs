//! The tracers and resources that records refer to, as the batch encoder wants them.

use std::sync::Arc;

use spanring::{ResourceInfo, Tracer, Value};

use crate::model::{ResourceData, ScopeData};

/// Scopes by tracer number, and resources by index; the pipeline's own is the first.
#[derive(Debug)]
pub(crate) struct Scopes {
    resources: Vec<ResourceData>,
    scopes: Vec<ScopeData>,
    /// The tracers' resources, beginning at index 1 of `resources`.
    known: Vec<Arc<ResourceInfo>>,
}

impl Scopes {
    /// With the pipeline's resource; tracer 0 has no name.
    pub(crate) fn new(attributes: Vec<(String, Value)>) -> Self {
        Scopes {
            resources: vec![ResourceData { attributes, ..ResourceData::default() }],
            scopes: vec![ScopeData::default()],
            known: Vec::new(),
        }
    }

    /// Learns of the tracers that were registered since the last call.
    pub(crate) fn refresh(&mut self) {
        for tracer in Tracer::registered(self.scopes.len()) {
            let resource = match &tracer.resource {
                None => 0,
                Some(info) => 1 + self.resource(info),
            };
            self.scopes.push(ScopeData {
                resource,
                name: tracer.name.clone(),
                version: tracer.version.clone(),
                attributes: tracer.attributes.clone(),
                dropped_attributes: 0,
                schema_url: tracer.schema_url.clone(),
            });
        }
    }

    fn resource(&mut self, info: &Arc<ResourceInfo>) -> usize {
        let known = self.known.iter().position(|known| Arc::ptr_eq(known, info) || known == info);
        known.unwrap_or_else(|| {
            self.known.push(info.clone());
            self.resources.push(ResourceData {
                attributes: info.attributes.clone(),
                dropped_attributes: 0,
                schema_url: info.schema_url.clone(),
            });
            self.known.len() - 1
        })
    }

    pub(crate) fn resources(&self) -> &[ResourceData] {
        &self.resources
    }

    pub(crate) fn scopes(&self) -> &[ScopeData] {
        &self.scopes
    }
}
