//! Tracers: who made a span (the instrumentation scope) and for which resource.
//!
//! A span carries its tracer's number. Number zero is the default: no scope, the pipeline's resource.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use crate::Value;

/// Tracers that a process may make; further ones become the default tracer.
pub const TRACERS_MAX: usize = u16::MAX as usize;

/// An instrumentation scope, and a resource if it is not the pipeline's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TracerInfo {
    /// Name of the instrumentation scope.
    pub name: String,
    /// Its version, or empty.
    pub version: String,
    /// Its schema URL, or empty.
    pub schema_url: String,
    /// Its attributes.
    pub attributes: Vec<(String, Value)>,
    /// The resource, where it is not the pipeline's own.
    pub resource: Option<Arc<ResourceInfo>>,
}

/// A resource: what the spans are about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceInfo {
    /// Attributes such as `service.name`.
    pub attributes: Vec<(String, Value)>,
    /// Schema URL, or empty.
    pub schema_url: String,
}

/// The handle of a registered [`TracerInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tracer(u16);

/// Read without a lock, so that a fork child never waits for one that a lost thread holds.
static TRACERS: ArcSwapOption<Vec<Arc<TracerInfo>>> = ArcSwapOption::const_empty();
/// Makes registrations one at a time.
static REGISTER: Mutex<()> = Mutex::new(());

impl Tracer {
    /// The tracer of an instrumentation scope. The same info gives the same tracer.
    ///
    /// A process may have [`TRACERS_MAX`]; further ones become the default tracer. Registering copies
    /// the list of tracers, so keep the handle.
    pub fn new(info: TracerInfo) -> Tracer {
        let Some(_one) = crate::fork::lock(&REGISTER) else { return Tracer::default() };
        let known = TRACERS.load_full().unwrap_or_default();
        if let Some(index) = known.iter().position(|tracer| **tracer == info) {
            return Tracer(index as u16 + 1);
        }
        if known.len() >= TRACERS_MAX {
            return Tracer::default();
        }
        let mut tracers = Vec::clone(&known);
        tracers.push(Arc::new(info));
        let number = tracers.len() as u16;
        TRACERS.store(Some(Arc::new(tracers)));
        Tracer(number)
    }

    /// The tracer of a scope with a name and a version.
    pub fn named(name: &str, version: &str) -> Tracer {
        Tracer::new(TracerInfo {
            name: name.to_owned(),
            version: version.to_owned(),
            ..TracerInfo::default()
        })
    }

    /// A span of this tracer.
    pub fn span<'a>(&self, name: impl Into<crate::Key<'a>>) -> crate::SpanBuilder<'a> {
        crate::Span::builder(name).tracer(self)
    }

    /// The tracer of a [number](Self::number); `None` if none has it.
    pub fn from_number(number: u16) -> Option<Tracer> {
        let known = TRACERS.load().as_ref().map_or(0, |tracers| tracers.len());
        (usize::from(number) <= known).then_some(Tracer(number))
    }

    /// What `is_so` says of the name of the scope with that number; the default one's is empty.
    pub(crate) fn has_name(number: u16, is_so: impl FnOnce(&str) -> bool) -> bool {
        if number == 0 {
            return is_so("");
        }
        let tracers = TRACERS.load();
        let info = tracers.as_ref().and_then(|tracers| tracers.get(usize::from(number) - 1));
        is_so(info.map_or("", |info| &info.name))
    }

    /// The number that records carry; zero for the default tracer.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The tracers from number `from` (at least 1) on, in order.
    pub fn registered(from: usize) -> Vec<Arc<TracerInfo>> {
        let tracers = TRACERS.load();
        let tracers = tracers.as_ref().map_or(&[][..], |tracers| tracers.as_slice());
        tracers.get(from.max(1) - 1..).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_info_gives_the_same_tracer_and_others_get_numbers_of_their_own() {
        let one = Tracer::named("tracer.test", "1");
        let two = Tracer::named("tracer.test", "2");
        assert_ne!(one, two);
        assert_eq!(Tracer::named("tracer.test", "1"), one);
        let registered = Tracer::registered(usize::from(two.number()));
        assert_eq!(registered[0].version, "2");
    }
}
