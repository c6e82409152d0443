//! One message after another: spans from records and from plain data, resources and scopes.
//!
//! Fields are written in the order in which their source has them; protobuf leaves the order open, save
//! among attributes, events and links.

use spanring::id::IdKeys;
use spanring::record::{EventRef, Item, LinkRef, RecordRef, flag};
use spanring::{SpanId, TraceId};

use super::value::Attributes;
use super::wire::{SPAN_FLAGS, Slot, field, put_fixed64, put_number, put_text, varint_len};
use crate::batch::{BatchContext, TickClock};
use crate::model::{EventData, LinkData, ResourceData, ScopeData, SpanData};

/// Bits of flags beside the W3C trace flags: whether it is known if the parent, or the link's other span,
/// is in another process; and whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Sizes of spans by which the width of their length is guessed.
const SIZES: usize = 64;

/// Writes spans, and what is around them.
#[derive(Debug)]
pub(super) struct SpanWriter {
    attributes: Attributes,
    /// By size of the source: bytes that the length of the last such span took.
    widths: [u8; SIZES],
    event_width: u8,
    link_width: u8,
}

impl Default for SpanWriter {
    fn default() -> Self {
        SpanWriter {
            attributes: Attributes::default(),
            widths: [1; SIZES],
            event_width: 1,
            link_width: 1,
        }
    }
}

/// What every span has.
struct Head {
    trace_id: TraceId,
    span_id: SpanId,
    parent_span_id: Option<SpanId>,
    parent_is_remote: Option<bool>,
    trace_flags: u8,
    kind: u8,
    start: u64,
    end: u64,
}

impl SpanWriter {
    /// Gives memory back that an unusual value took.
    pub(super) fn forget_large(&mut self) {
        self.attributes.forget_large();
    }

    /// Writes a resource.
    pub(super) fn resource(&mut self, data: &ResourceData, out: &mut Vec<u8>) {
        let slot = Slot::open(out, field::resource_spans::RESOURCE, 1);
        self.attributes.put_all(out, field::resource::ATTRIBUTES, &data.attributes);
        put_number(out, field::resource::DROPPED_ATTRIBUTES, data.dropped_attributes.into());
        slot.close(out);
    }

    /// Writes a scope.
    pub(super) fn scope(&mut self, data: &ScopeData, out: &mut Vec<u8>) {
        let slot = Slot::open(out, field::scope_spans::SCOPE, 1);
        put_text(out, field::scope::NAME, &data.name);
        put_text(out, field::scope::VERSION, &data.version);
        self.attributes.put_all(out, field::scope::ATTRIBUTES, &data.attributes);
        put_number(out, field::scope::DROPPED_ATTRIBUTES, data.dropped_attributes.into());
        slot.close(out);
    }

    /// Writes a span from its record.
    #[inline(always)]
    pub(super) fn record<C: TickClock + ?Sized>(
        &mut self,
        record: &RecordRef<'_>,
        context: &BatchContext<'_, C>,
        out: &mut Vec<u8>,
    ) {
        let header = record.header;
        let size = usize::from(header.payload_words) % SIZES;
        let slot = Slot::open(out, field::scope_spans::SPANS, self.widths[size]);
        let has_parent = header.parent != 0 || header.flags & flag::PARENT_RAW != 0;
        let (start, end) = context.clock.span_times(header);
        let head = Head {
            trace_id: trace_id(context.keys, header.trace_hi, header.trace_lo, header.flags),
            span_id: span_id(context.keys, header.span, header.flags & flag::SPAN_RAW != 0),
            parent_span_id: has_parent.then(|| {
                span_id(context.keys, header.parent, header.flags & flag::PARENT_RAW != 0)
            }),
            parent_is_remote: has_parent.then_some(header.flags & flag::PARENT_REMOTE != 0),
            trace_flags: header.trace_flags,
            kind: header.kind_status & 7,
            start,
            end,
        };
        head.put(out);
        if let Some(name) = record.interned_name() {
            put_text(out, field::span::NAME, name.as_str());
        }
        let status = header.kind_status >> 4 & 3;
        let mut status_message = "";
        for item in record.items() {
            match item {
                Item::Attribute(key, value) => {
                    self.attributes.put(out, field::span::ATTRIBUTES, key.as_str(), value.into());
                }
                Item::Event(event) => self.event_ref(&event, context.clock, out),
                Item::Link(link) => self.link_ref(&link, context.keys, out),
                Item::StatusMessage(message) => status_message = message,
                Item::Name(name) => put_text(out, field::span::NAME, name),
                Item::TraceState(state) => put_text(out, field::span::TRACE_STATE, state),
                Item::Dropped { attributes, events, links } => {
                    put_dropped(out, attributes, events, links);
                }
            }
        }
        put_status(out, status, status_message);
        self.widths[size] = slot.close(out);
    }

    /// Writes a span from plain data.
    pub(super) fn data(&mut self, span: &SpanData, out: &mut Vec<u8>) {
        let size = (span.attributes.len() + span.events.len() + span.links.len()) % SIZES;
        let slot = Slot::open(out, field::scope_spans::SPANS, self.widths[size]);
        let head = Head {
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            parent_is_remote: span.parent_is_remote,
            trace_flags: span.trace_flags,
            kind: span.kind as u8,
            start: span.start_unix_nano,
            end: span.end_unix_nano,
        };
        head.put(out);
        put_text(out, field::span::NAME, &span.name);
        put_text(out, field::span::TRACE_STATE, &span.trace_state);
        self.attributes.put_all(out, field::span::ATTRIBUTES, &span.attributes);
        for event in &span.events {
            self.event_data(event, out);
        }
        for link in &span.links {
            self.link_data(link, out);
        }
        put_dropped(out, span.dropped_attributes, span.dropped_events, span.dropped_links);
        put_status(out, span.status as u8, &span.status_message);
        self.widths[size] = slot.close(out);
    }

    fn event_ref<C: TickClock + ?Sized>(
        &mut self,
        event: &EventRef<'_>,
        clock: &C,
        out: &mut Vec<u8>,
    ) {
        let time = if event.wall { event.time } else { clock.unix_nano(event.time) };
        let slot = begin_event(out, self.event_width, time, event.name().as_str());
        for item in event.items() {
            match item {
                Item::Attribute(key, value) => {
                    self.attributes.put(out, field::event::ATTRIBUTES, key.as_str(), value.into());
                }
                Item::Dropped { attributes, .. } => {
                    put_number(out, field::event::DROPPED_ATTRIBUTES, attributes.into());
                }
                _ => {}
            }
        }
        self.event_width = slot.close(out);
    }

    fn event_data(&mut self, event: &EventData, out: &mut Vec<u8>) {
        let slot = begin_event(out, self.event_width, event.time_unix_nano, &event.name);
        self.attributes.put_all(out, field::event::ATTRIBUTES, &event.attributes);
        put_number(out, field::event::DROPPED_ATTRIBUTES, event.dropped_attributes.into());
        self.event_width = slot.close(out);
    }

    fn link_ref(&mut self, link: &LinkRef<'_>, keys: &IdKeys, out: &mut Vec<u8>) {
        let trace_id = trace_id(keys, link.trace_hi, link.trace_lo, link.flags);
        let span_id = span_id(keys, link.span, link.flags & flag::SPAN_RAW != 0);
        let flags = flags(link.trace_flags, Some(link.flags & flag::PARENT_REMOTE != 0));
        let slot = begin_link(out, self.link_width, trace_id, span_id, flags);
        for item in link.items() {
            match item {
                Item::Attribute(key, value) => {
                    self.attributes.put(out, field::link::ATTRIBUTES, key.as_str(), value.into());
                }
                Item::TraceState(state) => put_text(out, field::link::TRACE_STATE, state),
                Item::Dropped { attributes, .. } => {
                    put_number(out, field::link::DROPPED_ATTRIBUTES, attributes.into());
                }
                _ => {}
            }
        }
        self.link_width = slot.close(out);
    }

    fn link_data(&mut self, link: &LinkData, out: &mut Vec<u8>) {
        let flags = flags(link.trace_flags, link.is_remote);
        let slot = begin_link(out, self.link_width, link.trace_id, link.span_id, flags);
        put_text(out, field::link::TRACE_STATE, &link.trace_state);
        self.attributes.put_all(out, field::link::ATTRIBUTES, &link.attributes);
        put_number(out, field::link::DROPPED_ATTRIBUTES, link.dropped_attributes.into());
        self.link_width = slot.close(out);
    }
}

impl Head {
    #[inline(always)]
    fn put(&self, out: &mut Vec<u8>) {
        put_ids(out, field::span::TRACE_ID, self.trace_id, field::span::SPAN_ID, self.span_id);
        if let Some(parent) = self.parent_span_id {
            let mut field = [0; 10];
            field[..2].copy_from_slice(&[field::span::PARENT_SPAN_ID, 8]);
            field[2..].copy_from_slice(&parent.0.to_be_bytes());
            out.extend_from_slice(&field);
        }
        let flags = flags(self.trace_flags, self.parent_is_remote);
        if flags != 0 {
            let mut field = [0; 6];
            field[..2].copy_from_slice(&SPAN_FLAGS);
            field[2..].copy_from_slice(&flags.to_le_bytes());
            out.extend_from_slice(&field);
        }
        put_number(out, field::span::KIND, self.kind.into());
        put_time(out, field::span::START, self.start);
        put_time(out, field::span::END, self.end);
    }
}

#[inline(always)]
fn trace_id(keys: &IdKeys, hi: u64, lo: u64, flags: u16) -> TraceId {
    match flags & flag::TRACE_RAW {
        0 => keys.trace_id(lo),
        _ => TraceId(u128::from(hi) << 64 | u128::from(lo)),
    }
}

#[inline(always)]
fn span_id(keys: &IdKeys, span: u64, is_raw: bool) -> SpanId {
    if is_raw { SpanId(span) } else { keys.span_id(span) }
}

fn flags(trace_flags: u8, is_remote: Option<bool>) -> u32 {
    let remote = match is_remote {
        None => 0,
        Some(false) => HAS_IS_REMOTE,
        Some(true) => HAS_IS_REMOTE | IS_REMOTE,
    };
    u32::from(trace_flags) | remote
}

/// Writes a trace ID and a span ID, whatever they are.
#[inline(always)]
fn put_ids(out: &mut Vec<u8>, trace_key: u8, trace_id: TraceId, span_key: u8, span_id: SpanId) {
    let mut fields = [0; 28];
    fields[..2].copy_from_slice(&[trace_key, 16]);
    fields[2..18].copy_from_slice(&trace_id.0.to_be_bytes());
    fields[18..20].copy_from_slice(&[span_key, 8]);
    fields[20..].copy_from_slice(&span_id.0.to_be_bytes());
    out.extend_from_slice(&fields);
}

#[inline(always)]
fn put_time(out: &mut Vec<u8>, key: u8, unix_nano: u64) {
    if unix_nano != 0 {
        put_fixed64(out, key, unix_nano);
    }
}

fn put_dropped(out: &mut Vec<u8>, attributes: u32, events: u32, links: u32) {
    put_number(out, field::span::DROPPED_ATTRIBUTES, attributes.into());
    put_number(out, field::span::DROPPED_EVENTS, events.into());
    put_number(out, field::span::DROPPED_LINKS, links.into());
}

/// Writes the status, unless nobody said anything.
#[inline(always)]
fn put_status(out: &mut Vec<u8>, code: u8, message: &str) {
    if code != 0 || !message.is_empty() {
        let slot = Slot::open(out, field::span::STATUS, varint_len(message.len() as u64) as u8);
        put_text(out, field::status::MESSAGE, message);
        put_number(out, field::status::CODE, code.into());
        slot.close(out);
    }
}

fn begin_event(out: &mut Vec<u8>, width: u8, time: u64, name: &str) -> Slot {
    let slot = Slot::open(out, field::span::EVENTS, width);
    put_time(out, field::event::TIME, time);
    put_text(out, field::event::NAME, name);
    slot
}

fn begin_link(
    out: &mut Vec<u8>,
    width: u8,
    trace_id: TraceId,
    span_id: SpanId,
    flags: u32,
) -> Slot {
    let slot = Slot::open(out, field::span::LINKS, width);
    put_ids(out, field::link::TRACE_ID, trace_id, field::link::SPAN_ID, span_id);
    if flags != 0 {
        out.push(field::link::FLAGS);
        out.extend_from_slice(&flags.to_le_bytes());
    }
    slot
}
