//! The encoder's pass over records: each span's shape, its values into columns, and the rest into
//! short lists that few spans need.

use spanring::Value;
use spanring::record::{EventRef, Item, Items, LinkRef, RecordRef, StrRef, ValueRef, flag};

use super::column::{Columns, Special};
use super::shape::{Head, Owner, Position, Shapes, extra};
use super::stream::{Writer, class};
use super::table::ShapeUse;
use super::value::{Type, put_body, put_items};
use super::{BatchError, TickClock};

/// Columns of what few spans have: events, links, dropped counts.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// Attributes, events and links of each span that dropped any.
    span_dropped: Vec<u32>,
    event_counts: Vec<u32>,
    pub(super) events: Vec<EventEntry>,
    event_dropped: Vec<u32>,
    link_counts: Vec<u32>,
    pub(super) links: Vec<LinkEntry>,
    link_dropped: Vec<u32>,
    /// Attributes of each resource that dropped any, then of each scope.
    pub(super) source_dropped: Vec<u32>,
    /// Bytes that composite values take when they are decoded, into columns and then into spans.
    pub(super) composite_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct EventEntry {
    pub(super) shape: u32,
    /// Since the span's start or the event before, in ns.
    pub(super) time: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LinkEntry {
    shape: u32,
    extras: u32,
    trace_lo: u64,
    trace_hi: u64,
    span: u64,
    /// The counter of the span that has the link; 0 if its ID is raw.
    from: u64,
}

impl Extras {
    pub(super) fn clear(&mut self) {
        self.span_dropped.clear();
        self.event_counts.clear();
        self.events.clear();
        self.event_dropped.clear();
        self.link_counts.clear();
        self.links.clear();
        self.link_dropped.clear();
        self.source_dropped.clear();
        self.composite_bytes = 0;
    }

    /// Writes everything.
    pub(super) fn write(&self, writer: &mut Writer, uses: &[ShapeUse]) {
        write_counts(writer, &self.span_dropped);
        write_counts(writer, &self.event_counts);
        self.events.iter().for_each(|event| writer.varint(u64::from(event.shape)));
        for event in &self.events {
            writer.signed_number(event.time, uses[event.shape as usize].end_base as u8);
        }
        write_counts(writer, &self.event_dropped);
        write_counts(writer, &self.link_counts);
        self.links.iter().for_each(|link| writer.varint(u64::from(link.shape)));
        for link in &self.links {
            let span_is_raw = link.extras & extra::SPAN_RAW != 0;
            if span_is_raw {
                writer.ids.extend_from_slice(&link.span.to_be_bytes());
            } else {
                writer.signed_number(link.from.wrapping_sub(link.span) as i64, 0);
            }
            if link.extras & extra::TRACE_RAW != 0 {
                writer.ids.extend_from_slice(&link.trace_hi.to_be_bytes());
                writer.ids.extend_from_slice(&link.trace_lo.to_be_bytes());
            } else {
                let near = if span_is_raw { link.from } else { link.span };
                writer.signed_number(near.wrapping_sub(link.trace_lo) as i64, 0);
            }
        }
        write_counts(writer, &self.link_dropped);
    }

    /// Counts the events' uses of their shapes, and the classes of their times.
    pub(super) fn measure(&self, uses: &mut [ShapeUse]) {
        for event in &self.events {
            let used = &mut uses[event.shape as usize];
            used.count += 1;
            used.end_base += class(event.time.unsigned_abs());
        }
        for link in &self.links {
            uses[link.shape as usize].count += 1;
        }
    }
}

pub(super) fn write_counts(writer: &mut Writer, counts: &[u32]) {
    counts.iter().for_each(|&count| writer.varint(u64::from(count)));
}

/// Walks records, and the resources and scopes that they refer to.
pub(super) struct Walk<'a, C: ?Sized> {
    pub(super) shapes: &'a mut Shapes,
    pub(super) columns: &'a mut Columns,
    pub(super) extras: &'a mut Extras,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) clock: &'a C,
}

impl<C: TickClock + ?Sized> Walk<'_, C> {
    /// Walks a span that began at `start` (ns since the Unix epoch); returns its shape's number.
    #[inline(always)]
    pub(super) fn span(&mut self, record: &RecordRef<'_>, start: u64) -> Result<u32, BatchError> {
        let header = record.header;
        let head = Head {
            owner: Owner::Span,
            name: record.name(),
            scope: header.scope,
            kind_status: header.kind_status,
            trace_flags: header.trace_flags,
        };
        let mut extras = 0;
        if header.flags & flag::SPAN_RAW != 0 {
            extras |= extra::SPAN_RAW;
        }
        // A name that is a number goes from the record into the token, not by way of `head`.
        let mut position = match record.interned_name() {
            Some(name) => self.shapes.begin_walk_named(name.get(), &head),
            None => self.shapes.begin_walk(&head),
        };
        let items = record.items();
        if items.is_empty() {
            return Ok(self.shapes.end_walk(position, &head, extras));
        }
        let (mut events, mut links) = (0, 0);
        let mut before = start;
        for item in items {
            match item {
                Item::Attribute(key, value) => {
                    position = self.attribute(position, Owner::Span, key, value)?;
                }
                Item::Event(event) => {
                    before = self.event(&event, before)?;
                    events += 1;
                }
                Item::Link(link) => {
                    let counter = if header.flags & flag::SPAN_RAW == 0 { header.span } else { 0 };
                    self.link(&link, counter)?;
                    links += 1;
                }
                Item::StatusMessage(message) => {
                    extras |= extra::STATUS_MESSAGE;
                    self.columns.push_special(Special::StatusMessage, message)?;
                }
                Item::TraceState(state) => {
                    extras |= extra::TRACE_STATE;
                    self.columns.push_special(Special::TraceState, state)?;
                }
                Item::Name(_) => {}
                Item::Dropped { attributes, events, links } => {
                    extras |= extra::DROPPED;
                    self.extras.span_dropped.extend_from_slice(&[attributes, events, links]);
                }
            }
        }
        if events > 0 {
            extras |= extra::EVENTS;
            self.extras.event_counts.push(events);
        }
        if links > 0 {
            extras |= extra::LINKS;
            self.extras.link_counts.push(links);
        }
        Ok(self.shapes.end_walk(position, &head, extras))
    }

    #[inline(always)]
    fn attribute(
        &mut self,
        from: Position,
        owner: Owner,
        key: StrRef<'_>,
        value: ValueRef<'_>,
    ) -> Result<Position, BatchError> {
        let (next, column) = self.shapes.attribute(from, owner, key, Type::of(&value));
        let columns = &mut *self.columns;
        match value {
            ValueRef::Null => columns.push_nothing(column),
            ValueRef::Bool(value) => columns.push_word(column, u64::from(value)),
            ValueRef::Int(value) => columns.push_word(column, value as u64),
            ValueRef::Double(value) => columns.push_word(column, value.to_bits()),
            ValueRef::Str(value) => columns.push_str(column, value)?,
            ValueRef::Bytes(value) => columns.push_bytes(column, value)?,
            ValueRef::Array(items) => self.composite(column, items, false)?,
            ValueRef::Map(items) => self.composite(column, items, true)?,
        }
        Ok(next)
    }

    #[cold]
    fn composite(
        &mut self,
        column: usize,
        items: Items<'_>,
        is_map: bool,
    ) -> Result<(), BatchError> {
        self.scratch.clear();
        self.extras.composite_bytes += 2 * put_items(self.scratch, items, is_map, 0);
        self.columns.push_bytes(column, self.scratch)
    }

    /// Walks an event's or link's items; returns the extras that they make.
    fn items(
        &mut self,
        mut position: Position,
        owner: Owner,
        items: Items<'_>,
    ) -> Result<(Position, u32), BatchError> {
        let mut extras = 0;
        for item in items {
            match item {
                Item::Attribute(key, value) => {
                    position = self.attribute(position, owner, key, value)?;
                }
                Item::TraceState(state) if owner == Owner::Link => {
                    extras |= extra::TRACE_STATE;
                    self.columns.push_special(Special::LinkTraceState, state)?;
                }
                Item::Dropped { attributes, .. } => {
                    extras |= extra::DROPPED;
                    match owner {
                        Owner::Link => self.extras.link_dropped.push(attributes),
                        _ => self.extras.event_dropped.push(attributes),
                    }
                }
                _ => {}
            }
        }
        Ok((position, extras))
    }

    /// Walks an event that comes after `before`; returns its time.
    fn event(&mut self, event: &EventRef<'_>, before: u64) -> Result<u64, BatchError> {
        let time = if event.wall { event.time } else { self.clock.unix_nano(event.time) };
        let head = Head { name: event.name(), ..Head::named(Owner::Event, "") };
        let position = self.shapes.begin_walk(&head);
        let (position, extras) = self.items(position, Owner::Event, event.items())?;
        let shape = self.shapes.end_walk(position, &head, extras);
        self.extras.events.push(EventEntry { shape, time: time.wrapping_sub(before) as i64 });
        Ok(time)
    }

    /// Walks a link of the span with the counter `from`.
    fn link(&mut self, link: &LinkRef<'_>, from: u64) -> Result<(), BatchError> {
        let head = Head { trace_flags: link.trace_flags, ..Head::named(Owner::Link, "") };
        let mut extras = 0;
        for (flag, extra) in [
            (flag::SPAN_RAW, extra::SPAN_RAW),
            (flag::TRACE_RAW, extra::TRACE_RAW),
            (flag::PARENT_REMOTE, extra::REMOTE),
        ] {
            if link.flags & flag != 0 {
                extras |= extra;
            }
        }
        let position = self.shapes.begin_walk(&head);
        let (position, more) = self.items(position, Owner::Link, link.items())?;
        extras |= more;
        let shape = self.shapes.end_walk(position, &head, extras);
        let LinkRef { trace_lo, trace_hi, span, .. } = *link;
        self.extras.links.push(LinkEntry { shape, extras, trace_lo, trace_hi, span, from });
        Ok(())
    }

    /// Walks a resource or a scope; returns its shape's number.
    pub(super) fn source(
        &mut self,
        owner: Owner,
        name: &str,
        attributes: &[(String, Value)],
        dropped: u32,
    ) -> Result<u32, BatchError> {
        let head = Head::named(owner, name);
        let mut position = self.shapes.begin_walk(&head);
        for (key, value) in attributes {
            let key = StrRef::Str(key);
            let (next, column) = self.shapes.attribute(position, owner, key, Type::of_value(value));
            position = next;
            let columns = &mut *self.columns;
            match value {
                Value::Null => columns.push_nothing(column),
                Value::Bool(value) => columns.push_word(column, u64::from(*value)),
                Value::Int(value) => columns.push_word(column, *value as u64),
                Value::Double(value) => columns.push_word(column, value.to_bits()),
                Value::Str(value) => columns.push_str(column, StrRef::Str(value))?,
                Value::Bytes(value) => columns.push_bytes(column, value)?,
                Value::Array(_) | Value::Map(_) => {
                    self.scratch.clear();
                    self.extras.composite_bytes += 2 * put_body(self.scratch, value, 0);
                    columns.push_bytes(column, self.scratch)?;
                }
            }
        }
        let extras = if dropped > 0 { extra::DROPPED } else { 0 };
        if dropped > 0 {
            self.extras.source_dropped.push(dropped);
        }
        Ok(self.shapes.end_walk(position, &head, extras))
    }
}
