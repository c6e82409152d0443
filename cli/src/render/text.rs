//! A span as a block of text.

use std::io::{self, Write};

use spanring::{StatusCode, Value};
use spanring_exporter::model::{SpanBatch, SpanData};
use spanring_exporter::render::{duration, kind_name, printable, timestamp, write_value};

/// Writes `span`, which belongs to `batch`, as a block that ends with an empty line.
///
/// # Errors
///
/// What `out` answers.
///
/// # Panics
///
/// If the span refers to a scope, or the scope to a resource, that `batch` does not have.
pub fn write_span(batch: &SpanBatch, span: &SpanData, out: &mut impl Write) -> io::Result<()> {
    let scope = &batch.scopes[span.scope];
    let resource = &batch.resources[scope.resource];
    let length = duration(span.end_unix_nano.saturating_sub(span.start_unix_nano));
    let kind = kind_name(span.kind);
    write!(out, "{}  {kind}  {length}", printable(&span.name))?;
    match (span.status, printable(&span.status_message)) {
        (StatusCode::Unset, _) => writeln!(out)?,
        (StatusCode::Ok, _) => writeln!(out, "  ok")?,
        (StatusCode::Error, message) if message.is_empty() => writeln!(out, "  error")?,
        (StatusCode::Error, message) => writeln!(out, "  error: {message}")?,
    }
    let (start, end) = (timestamp(span.start_unix_nano), timestamp(span.end_unix_nano));
    writeln!(out, "  from {start} to {end}")?;
    write!(out, "  trace {}  span {}", span.trace_id, span.span_id)?;
    if let Some(parent) = span.parent_span_id {
        let remote = if span.parent_is_remote == Some(true) { " (remote)" } else { "" };
        write!(out, "  parent {parent}{remote}")?;
    }
    writeln!(out, "  flags {:02x}", span.trace_flags)?;
    if !span.trace_state.is_empty() {
        writeln!(out, "  tracestate {}", printable(&span.trace_state))?;
    }
    if !resource.attributes.is_empty() {
        writeln!(out, "  resource")?;
        write_attributes(&resource.attributes, 4, out)?;
    }
    if !scope.name.is_empty() || !scope.version.is_empty() {
        writeln!(out, "  scope {} {}", printable(&scope.name), printable(&scope.version))?;
        write_attributes(&scope.attributes, 4, out)?;
    }
    if !span.attributes.is_empty() {
        writeln!(out, "  attributes")?;
        write_attributes(&span.attributes, 4, out)?;
    }
    if !span.events.is_empty() {
        writeln!(out, "  events")?;
    }
    for event in &span.events {
        // An event may lie before its span; then its own time is more use than a difference.
        match event.time_unix_nano.checked_sub(span.start_unix_nano) {
            Some(after) => write!(out, "    +{}", duration(after))?,
            None => write!(out, "    {}", timestamp(event.time_unix_nano))?,
        }
        writeln!(out, " {}", printable(&event.name))?;
        write_attributes(&event.attributes, 6, out)?;
    }
    if !span.links.is_empty() {
        writeln!(out, "  links")?;
    }
    for link in &span.links {
        let remote = if link.is_remote == Some(true) { " (remote)" } else { "" };
        writeln!(out, "    trace {}  span {}{remote}", link.trace_id, link.span_id)?;
        write_attributes(&link.attributes, 6, out)?;
    }
    let dropped = [
        (span.dropped_attributes, "attributes"),
        (span.dropped_events, "events"),
        (span.dropped_links, "links"),
    ];
    for (count, what) in dropped.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "  {count} {what} were dropped")?;
    }
    writeln!(out)
}

fn write_attributes(
    attributes: &[(String, Value)],
    indent: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    for (key, value) in attributes {
        write!(out, "{:indent$}{} = ", "", printable(key))?;
        write_value(value, out)?;
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use spanring::{SpanId, SpanKind, TraceId};
    use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData};

    use super::*;

    #[test]
    fn a_span_with_everything_is_a_readable_block() {
        let attribute = |key: &str, value: Value| (key.to_owned(), value);
        let map = Value::Map(vec![attribute("a", Value::Null), attribute("b", Value::Bool(true))]);
        let list = Value::Array(vec![Value::Int(-1), Value::Double(2.0), map]);
        let span = SpanData {
            trace_id: TraceId(0xabc),
            span_id: SpanId(2),
            parent_span_id: Some(SpanId(1)),
            parent_is_remote: Some(true),
            trace_flags: 1,
            trace_state: "ot=th:8".into(),
            name: "GET /\u{1b}[2J".into(),
            kind: SpanKind::Server,
            start_unix_nano: 1_661_146_939_393_612_288,
            end_unix_nano: 1_661_146_939_395_112_288,
            attributes: vec![
                attribute("text", Value::from("a\n\"b\"")),
                attribute("list", list),
                attribute("bytes", Value::Bytes(bytes::Bytes::from_static(&[0, 255]))),
            ],
            dropped_attributes: 3,
            events: vec![
                EventData {
                    time_unix_nano: 1_661_146_939_393_613_288,
                    name: "exception".into(),
                    attributes: vec![attribute("exception.type", Value::from("E"))],
                    ..EventData::default()
                },
                EventData { time_unix_nano: 0, name: "early".into(), ..EventData::default() },
            ],
            links: vec![LinkData {
                trace_id: TraceId(5),
                span_id: SpanId(6),
                attributes: vec![attribute("k", Value::Null)],
                ..LinkData::default()
            }],
            status: StatusCode::Error,
            status_message: "no such item".into(),
            ..SpanData::default()
        };
        let service = attribute("service.name", Value::from("shop"));
        let batch = SpanBatch {
            resources: vec![ResourceData { attributes: vec![service], ..ResourceData::default() }],
            scopes: vec![ScopeData {
                name: "lib".into(),
                version: "1.0".into(),
                ..ScopeData::default()
            }],
            spans: vec![span],
        };
        let mut text = Vec::new();
        write_span(&batch, &batch.spans[0], &mut text).expect("a Vec takes all");
        let expected = r#"GET /\u{1b}[2J  server  1.50 ms  error: no such item
  from 2022-08-22T05:42:19.393612288Z to 2022-08-22T05:42:19.395112288Z
  trace 00000000000000000000000000000abc  span 0000000000000002  parent 0000000000000001 (remote)  flags 01
  tracestate ot=th:8
  resource
    service.name = "shop"
  scope lib 1.0
  attributes
    text = "a\n\"b\""
    list = [-1, 2.0, {a: null, b: true}]
    bytes = 0x00ff
  events
    +1.00 µs exception
      exception.type = "E"
    1970-01-01T00:00:00.000000000Z early
  links
    trace 00000000000000000000000000000005  span 0000000000000006
      k = null
  3 attributes were dropped

"#;
        assert_eq!(String::from_utf8(text).as_deref(), Ok(expected));
    }

    #[test]
    fn a_bare_span_is_three_lines_and_an_empty_one() {
        let batch = SpanBatch {
            resources: vec![ResourceData::default()],
            scopes: vec![ScopeData::default()],
            spans: vec![SpanData::default()],
        };
        let mut text = Vec::new();
        write_span(&batch, &batch.spans[0], &mut text).expect("a Vec takes all");
        assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count(), 4);
    }
}
