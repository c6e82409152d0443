//! A finished span as a processor sees it.

use std::time::Duration;

use spanring::record::{Change, Item, Items, Payload, RecordRef, ValueRef, Within};
use spanring::{SpanKind, StatusCode, Value};

use crate::batch::TickClock;
use crate::metrics::KINDS;

/// A finished span, and what becomes of it. Nothing is copied to look at it; changes are made once the processor is done with
/// the span, and not if it panics.
pub struct SpanView<'a> {
    record: RecordRef<'a>,
    clock: &'a dyn TickClock,
    edits: &'a mut Edits,
}

impl std::fmt::Debug for SpanView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanView").field("record", &self.record).finish_non_exhaustive()
    }
}

impl<'a> SpanView<'a> {
    pub(super) fn new(
        record: RecordRef<'a>,
        clock: &'a dyn TickClock,
        edits: &'a mut Edits,
    ) -> Self {
        SpanView { record, clock, edits }
    }

    /// The name.
    pub fn name(&self) -> &'a str {
        self.record.name().as_str()
    }

    /// The kind.
    pub fn kind(&self) -> SpanKind {
        let kind = usize::from(self.record.header.kind_status & 0xf);
        KINDS.get(kind).copied().unwrap_or_default()
    }

    /// Whether the status is error.
    pub fn is_error(&self) -> bool {
        self.record.header.kind_status >> 4 == StatusCode::Error as u8
    }

    /// The status's message; empty if there is none.
    pub fn status_message(&self) -> &'a str {
        let message = self.record.items().find_map(|item| match item {
            Item::StatusMessage(message) => Some(message),
            _ => None,
        });
        message.unwrap_or_default()
    }

    /// Start and end, in ns since the Unix epoch.
    pub fn times(&self) -> (u64, u64) {
        self.clock.span_times(self.record.header)
    }

    /// How long it took.
    pub fn duration(&self) -> Duration {
        let (start, end) = self.times();
        Duration::from_nanos(end.saturating_sub(start))
    }

    /// Attributes, events, links and the rest, as they were when this processor was called.
    pub fn items(&self) -> Items<'a> {
        self.record.items()
    }

    /// Keys and values of the span's attributes, likewise.
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> {
        self.record.items().attributes().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of one of the span's attributes.
    pub fn attribute(&self, key: &str) -> Option<ValueRef<'a>> {
        self.attributes().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// Drops the span: it is counted as dropped by a processor, and by this processor under the name of the rule. Children keep
    /// it as their parent.
    pub fn drop_span(&mut self, rule: impl Into<String>) {
        self.edits.dropped_by = Some(rule.into());
    }

    /// Sets an attribute; limits of attributes do not apply.
    pub fn set_attribute(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.edits.set(key.into(), Some(value.into()));
    }

    /// Removes an attribute.
    pub fn remove_attribute(&mut self, key: impl Into<String>) {
        self.edits.set(key.into(), None);
    }
}

/// What a processor wants of one span.
#[derive(Debug, Default)]
pub(super) struct Edits {
    dropped_by: Option<String>,
    /// `None` for what is removed.
    attributes: Vec<(String, Option<Value>)>,
}

impl Edits {
    pub(super) fn clear(&mut self) {
        self.dropped_by = None;
        self.attributes.clear();
    }

    fn set(&mut self, key: String, value: Option<Value>) {
        self.attributes.retain(|(known, _)| *known != key);
        self.attributes.push((key, value));
    }

    pub(super) fn dropped_by(&self) -> Option<&str> {
        self.dropped_by.as_deref()
    }

    /// The changed payload, if anything is to change.
    pub(super) fn payload(&self, record: &RecordRef<'_>) -> Option<Box<Payload>> {
        if self.attributes.is_empty() {
            return None;
        }
        // What is set is added at the end, so that it stands once.
        let mut change = |within, key: spanring::record::StrRef<'_>, _: ValueRef<'_>| {
            let is_named = || self.attributes.iter().any(|(known, _)| known == key.as_str());
            if within == Within::Span && is_named() { Change::Remove } else { Change::Keep }
        };
        let added = self.attributes.iter();
        let added = added.filter_map(|(key, value)| Some((key.as_str(), value.as_ref()?)));
        Some(record.edit(&mut change, added))
    }
}
