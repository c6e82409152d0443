//! Limits of a span under construction, and the byte budget of large values.
//!
//! The fields are atomics so that they can change while threads record; each is read on its own, so
//! Relaxed is enough: a span that begins during a change may see some of the old limits.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Length limit of values that are never cut.
pub(crate) const VALUE_LENGTH_UNLIMITED: u64 = u64::MAX >> 1;

/// OpenTelemetry's span limits as in force, and the bytes that large values may still take.
#[derive(Debug)]
pub(crate) struct SpanLimits {
    attribute_count: AtomicU32,
    attribute_value_length: AtomicU64,
    event_count: AtomicU32,
    link_count: AtomicU32,
    event_attribute_count: AtomicU32,
    link_attribute_count: AtomicU32,
    bytes_free: AtomicI64,
    attributes_dropped: AtomicU64,
}

/// Limits to put in force; see the settings of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitValues {
    pub(crate) attribute_count: u32,
    pub(crate) attribute_value_length: u64,
    pub(crate) event_count: u32,
    pub(crate) link_count: u32,
    pub(crate) event_attribute_count: u32,
    pub(crate) link_attribute_count: u32,
}

impl SpanLimits {
    /// Limits of nothing at all, for spans that do not record.
    pub(crate) const fn zero() -> Self {
        SpanLimits {
            attribute_count: AtomicU32::new(0),
            attribute_value_length: AtomicU64::new(0),
            event_count: AtomicU32::new(0),
            link_count: AtomicU32::new(0),
            event_attribute_count: AtomicU32::new(0),
            link_attribute_count: AtomicU32::new(0),
            bytes_free: AtomicI64::new(0),
            attributes_dropped: AtomicU64::new(0),
        }
    }

    /// Limits that nothing reaches.
    pub(crate) const fn unlimited() -> Self {
        SpanLimits {
            attribute_count: AtomicU32::new(u32::MAX),
            attribute_value_length: AtomicU64::new(VALUE_LENGTH_UNLIMITED),
            event_count: AtomicU32::new(u32::MAX),
            link_count: AtomicU32::new(u32::MAX),
            event_attribute_count: AtomicU32::new(u32::MAX),
            link_attribute_count: AtomicU32::new(u32::MAX),
            bytes_free: AtomicI64::new(i64::MAX >> 1),
            attributes_dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, values: &LimitValues) {
        self.attribute_count.store(values.attribute_count, Relaxed);
        self.attribute_value_length.store(values.attribute_value_length, Relaxed);
        self.event_count.store(values.event_count, Relaxed);
        self.link_count.store(values.link_count, Relaxed);
        self.event_attribute_count.store(values.event_attribute_count, Relaxed);
        self.link_attribute_count.store(values.link_attribute_count, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn attribute_count(&self) -> u32 {
        self.attribute_count.load(Relaxed)
    }

    /// Whether strings and bytes are cut at all.
    #[inline(always)]
    pub(crate) fn cuts_values(&self) -> bool {
        self.attribute_value_length.load(Relaxed) < VALUE_LENGTH_UNLIMITED
    }

    /// In characters of a string, or in bytes.
    pub(crate) fn attribute_value_length(&self) -> usize {
        self.attribute_value_length.load(Relaxed) as usize
    }

    pub(crate) fn event_count(&self) -> u32 {
        self.event_count.load(Relaxed)
    }

    pub(crate) fn link_count(&self) -> u32 {
        self.link_count.load(Relaxed)
    }

    pub(crate) fn event_attribute_count(&self) -> u32 {
        self.event_attribute_count.load(Relaxed)
    }

    pub(crate) fn link_attribute_count(&self) -> u32 {
        self.link_attribute_count.load(Relaxed)
    }

    /// Adds (or takes, if negative) bytes to what is free.
    pub(crate) fn add_bytes(&self, bytes: i64) {
        self.bytes_free.fetch_add(bytes, Relaxed);
    }

    /// Bytes that are free; negative for a moment after the budget was lowered.
    pub(crate) fn bytes_free(&self) -> i64 {
        self.bytes_free.load(Relaxed)
    }

    /// Takes `bytes` from the budget; false, and nothing taken, if there are not as many.
    pub(crate) fn reserve_bytes(&self, bytes: usize) -> bool {
        self.reserve_bytes_but(bytes, 0)
    }

    /// The same, but at least `left` stay free.
    pub(crate) fn reserve_bytes_but(&self, bytes: usize, left: u64) -> bool {
        let bytes = bytes as i64;
        let needed = bytes.saturating_add_unsigned(left);
        self.bytes_free
            .fetch_update(Relaxed, Relaxed, |free| (free >= needed).then(|| free - bytes))
            .is_ok()
    }

    /// Gives `bytes` back.
    pub(crate) fn release_bytes(&self, bytes: usize) {
        self.add_bytes(bytes as i64);
    }

    /// Counts an attribute that was dropped or cut away.
    pub(crate) fn count_attribute_dropped(&self) {
        self.attributes_dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn attributes_dropped(&self) -> u64 {
        self.attributes_dropped.load(Relaxed)
    }
}
