//! Spans by scope and scopes by resource, in the order of their first use; the spans of a scope keep
//! their order. A pass over the spans' scopes, whatever the number of groups.

use crate::batch::BatchError;
use crate::model::{ResourceData, ScopeData};

/// No span, no resource.
const NONE: u32 = u32::MAX;

/// The groups of one request. All indices of spans count from the request's first span.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By span: the next one of the same scope.
    next: Vec<u32>,
    /// By scope: its last span so far, or [`NONE`].
    last: Vec<u32>,
    /// By resource: its position among those in use, or [`NONE`].
    ranks: Vec<u32>,
    scopes: Vec<Scope>,
}

/// A scope that is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    resource_rank: u32,
    scope: u32,
    first_span: u32,
}

impl Scope {
    /// Its index.
    pub(super) fn scope(&self) -> usize {
        self.scope as usize
    }
}

impl Groups {
    /// Takes the scopes of all spans of a request.
    ///
    /// # Errors
    ///
    /// If a span's scope or a scope's resource is not there.
    pub(super) fn fill(
        &mut self,
        used: impl ExactSizeIterator<Item = usize>,
        resources: &[ResourceData],
        scopes: &[ScopeData],
    ) -> Result<(), BatchError> {
        self.next.clear();
        self.next.resize(used.len(), NONE);
        self.last.clear();
        self.last.resize(scopes.len(), NONE);
        self.ranks.clear();
        self.ranks.resize(resources.len(), NONE);
        self.scopes.clear();
        let mut resources_used = 0;
        for (index, scope) in used.enumerate() {
            let Some(last) = self.last.get_mut(scope) else {
                return Err(BatchError::context("scope", scope, scopes.len()));
            };
            let before = std::mem::replace(last, index as u32);
            if before != NONE {
                self.next[before as usize] = index as u32;
                continue;
            }
            let resource = scopes[scope].resource;
            let Some(resource_rank) = self.ranks.get_mut(resource) else {
                return Err(BatchError::context("resource", resource, resources.len()));
            };
            if *resource_rank == NONE {
                *resource_rank = resources_used;
                resources_used += 1;
            }
            let (resource_rank, scope) = (*resource_rank, scope as u32);
            self.scopes.push(Scope { resource_rank, scope, first_span: index as u32 });
        }
        if resources_used > 1 {
            self.scopes.sort_unstable_by_key(|scope| (scope.resource_rank, scope.first_span));
        }
        Ok(())
    }

    /// The scopes in use, those of one resource together.
    pub(super) fn by_resource(&self) -> impl Iterator<Item = &[Scope]> {
        self.scopes.chunk_by(|one, other| one.resource_rank == other.resource_rank)
    }

    /// The spans of a scope.
    pub(super) fn spans(&self, scope: &Scope) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(scope.first_span), |&span| {
            Some(self.next[span as usize]).filter(|&next| next != NONE)
        })
        .map(|span| span as usize)
    }
}
