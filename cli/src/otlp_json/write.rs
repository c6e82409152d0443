//! The plain data model, written as OTLP/JSON.

use std::io::{self, Write};

use spanring::{SpanKind, StatusCode, Value};
use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

use super::read::{FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE};
use super::{VALUE_DEPTH_MAX, base64};

/// Writes one line.
pub(super) fn write(batch: &SpanBatch, out: &mut impl Write) -> io::Result<()> {
    let groups = Groups::new(batch)?;
    let mut line = Object::begin(out)?;
    line.list("resourceSpans", 0..batch.resources.len(), |object, resource| {
        write_resource_spans(object, batch, &groups, resource)
    })?;
    line.end()?;
    out.write_all(b"\n")
}

/// Which scopes belong to a resource, and which spans to a scope; each in the batch's order.
struct Groups {
    scopes: Vec<Vec<usize>>,
    spans: Vec<Vec<usize>>,
}

impl Groups {
    fn new(batch: &SpanBatch) -> io::Result<Self> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let mut scopes = vec![Vec::new(); batch.resources.len()];
        for (index, scope) in batch.scopes.iter().enumerate() {
            let group = scopes.get_mut(scope.resource).ok_or_else(|| {
                let (resource, count) = (scope.resource, batch.resources.len());
                wrong(format!("scope {index} refers to resource {resource}, of {count}"))
            })?;
            group.push(index);
        }
        let mut spans = vec![Vec::new(); batch.scopes.len()];
        for (index, span) in batch.spans.iter().enumerate() {
            let group = spans.get_mut(span.scope).ok_or_else(|| {
                let (scope, count) = (span.scope, batch.scopes.len());
                wrong(format!("span {index} refers to scope {scope}, of {count}"))
            })?;
            group.push(index);
        }
        Ok(Groups { scopes, spans })
    }
}

fn write_resource_spans<W: Write>(
    object: &mut Object<'_, W>,
    batch: &SpanBatch,
    groups: &Groups,
    index: usize,
) -> io::Result<()> {
    let resource = &batch.resources[index];
    if !resource.attributes.is_empty() || resource.dropped_attributes != 0 {
        object.object("resource", |object| write_resource(object, resource))?;
    }
    object.list("scopeSpans", groups.scopes[index].iter(), |object, &index| {
        let scope = &batch.scopes[index];
        let bare = scope.name.is_empty() && scope.version.is_empty();
        if !bare || !scope.attributes.is_empty() || scope.dropped_attributes != 0 {
            object.object("scope", |object| write_scope(object, scope))?;
        }
        object.list("spans", groups.spans[index].iter(), |object, &index| {
            write_span(object, &batch.spans[index])
        })?;
        object.string("schemaUrl", &scope.schema_url)
    })?;
    object.string("schemaUrl", &resource.schema_url)
}

fn write_resource<W: Write>(object: &mut Object<'_, W>, resource: &ResourceData) -> io::Result<()> {
    object.attributes(&resource.attributes)?;
    object.uint("droppedAttributesCount", resource.dropped_attributes)
}

fn write_scope<W: Write>(object: &mut Object<'_, W>, scope: &ScopeData) -> io::Result<()> {
    object.string("name", &scope.name)?;
    object.string("version", &scope.version)?;
    object.attributes(&scope.attributes)?;
    object.uint("droppedAttributesCount", scope.dropped_attributes)
}

fn write_span<W: Write>(object: &mut Object<'_, W>, span: &SpanData) -> io::Result<()> {
    object.raw("traceId", format_args!("\"{}\"", span.trace_id))?;
    object.raw("spanId", format_args!("\"{}\"", span.span_id))?;
    object.string("traceState", &span.trace_state)?;
    if let Some(parent) = span.parent_span_id {
        object.raw("parentSpanId", format_args!("\"{parent}\""))?;
    }
    object.uint("flags", join_flags(span.trace_flags, span.parent_is_remote))?;
    object.string("name", &span.name)?;
    if span.kind != SpanKind::Unspecified {
        object.raw("kind", format_args!("{}", span.kind as u8))?;
    }
    object.time("startTimeUnixNano", span.start_unix_nano)?;
    object.time("endTimeUnixNano", span.end_unix_nano)?;
    object.attributes(&span.attributes)?;
    object.uint("droppedAttributesCount", span.dropped_attributes)?;
    object.list("events", span.events.iter(), write_event)?;
    object.uint("droppedEventsCount", span.dropped_events)?;
    object.list("links", span.links.iter(), write_link)?;
    object.uint("droppedLinksCount", span.dropped_links)?;
    if span.status == StatusCode::Unset && span.status_message.is_empty() {
        return Ok(());
    }
    object.object("status", |object| {
        object.string("message", &span.status_message)?;
        match span.status {
            StatusCode::Unset => Ok(()),
            code => object.raw("code", format_args!("{}", code as u8)),
        }
    })
}

fn write_event<W: Write>(object: &mut Object<'_, W>, event: &EventData) -> io::Result<()> {
    object.time("timeUnixNano", event.time_unix_nano)?;
    object.string("name", &event.name)?;
    object.attributes(&event.attributes)?;
    object.uint("droppedAttributesCount", event.dropped_attributes)
}

fn write_link<W: Write>(object: &mut Object<'_, W>, link: &LinkData) -> io::Result<()> {
    if link.trace_id.is_valid() {
        object.raw("traceId", format_args!("\"{}\"", link.trace_id))?;
    }
    if link.span_id.is_valid() {
        object.raw("spanId", format_args!("\"{}\"", link.span_id))?;
    }
    object.string("traceState", &link.trace_state)?;
    object.attributes(&link.attributes)?;
    object.uint("droppedAttributesCount", link.dropped_attributes)?;
    object.uint("flags", join_flags(link.trace_flags, link.is_remote))
}

fn join_flags(trace_flags: u8, is_remote: Option<bool>) -> u32 {
    let remote = match is_remote {
        None => 0,
        Some(false) => FLAG_HAS_IS_REMOTE,
        Some(true) => FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE,
    };
    u32::from(trace_flags) | remote
}

fn write_key_value<W: Write>(
    object: &mut Object<'_, W>,
    (key, value): &(String, Value),
    depth: u32,
) -> io::Result<()> {
    object.string("key", key)?;
    object.object("value", |object| write_value(object, value, depth))
}

fn write_value<W: Write>(object: &mut Object<'_, W>, value: &Value, depth: u32) -> io::Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Bool(value) => object.raw("boolValue", format_args!("{value}")),
        Value::Int(value) => object.raw("intValue", format_args!("\"{value}\"")),
        Value::Double(value) if value.is_nan() => {
            object.raw("doubleValue", format_args!("\"NaN\""))
        }
        Value::Double(value) if value.is_infinite() => {
            let sign = if *value < 0.0 { "-" } else { "" };
            object.raw("doubleValue", format_args!("\"{sign}Infinity\""))
        }
        // Debug keeps the point of whole numbers, picks the shortest digits that read back the same,
        // and uses exponents as JSON does.
        Value::Double(value) => object.raw("doubleValue", format_args!("{value:?}")),
        Value::Str(text) => object.text("stringValue", text),
        Value::Bytes(bytes) => {
            object.raw("bytesValue", format_args!("\"{}\"", base64::encode(bytes)))
        }
        Value::Array(_) | Value::Map(_) if depth >= VALUE_DEPTH_MAX => Ok(()),
        Value::Array(items) => object.object("arrayValue", |object| {
            object.list("values", items.iter(), |object, item| write_value(object, item, depth + 1))
        }),
        Value::Map(entries) => object.object("kvlistValue", |object| {
            object.list("values", entries.iter(), |object, entry| {
                write_key_value(object, entry, depth + 1)
            })
        }),
    }
}

/// A JSON object under way: it puts the commas and leaves out what is empty.
struct Object<'w, W> {
    out: &'w mut W,
    separator: &'static str,
}

impl<'w, W: Write> Object<'w, W> {
    fn begin(out: &'w mut W) -> io::Result<Self> {
        out.write_all(b"{")?;
        Ok(Object { out, separator: "" })
    }

    fn end(self) -> io::Result<()> {
        self.out.write_all(b"}")
    }

    /// Writes a field's name, one of ours that needs no escaping.
    fn name(&mut self, name: &str) -> io::Result<()> {
        write!(self.out, "{}\"{name}\":", self.separator)?;
        self.separator = ",";
        Ok(())
    }

    /// Writes a field whose value is JSON already.
    fn raw(&mut self, name: &str, json: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.name(name)?;
        self.out.write_fmt(json)
    }

    /// Writes a string, an empty one too.
    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.name(name)?;
        serde_json::to_writer(&mut *self.out, text).map_err(io::Error::from)
    }

    fn string(&mut self, name: &str, text: &str) -> io::Result<()> {
        if text.is_empty() { Ok(()) } else { self.text(name, text) }
    }

    fn uint(&mut self, name: &str, value: u32) -> io::Result<()> {
        if value == 0 { Ok(()) } else { self.raw(name, format_args!("{value}")) }
    }

    fn time(&mut self, name: &str, unix_nano: u64) -> io::Result<()> {
        if unix_nano == 0 { Ok(()) } else { self.raw(name, format_args!("\"{unix_nano}\"")) }
    }

    fn attributes(&mut self, attributes: &[(String, Value)]) -> io::Result<()> {
        self.list("attributes", attributes.iter(), |object, entry| {
            write_key_value(object, entry, 0)
        })
    }

    /// Writes an object whose fields `write` writes.
    fn object(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut Object<'_, W>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.name(name)?;
        let mut object = Object::begin(self.out)?;
        write(&mut object)?;
        object.end()
    }

    /// Writes an array of objects, one for each of `items`.
    fn list<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Object<'_, W>, T) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut opening = "[";
        for item in items {
            if opening == "[" {
                self.name(name)?;
            }
            self.out.write_all(opening.as_bytes())?;
            opening = ",";
            let mut object = Object::begin(self.out)?;
            write(&mut object, item)?;
            object.end()?;
        }
        if opening == "," { self.out.write_all(b"]") } else { Ok(()) }
    }
}
