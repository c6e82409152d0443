//! A span as one line of JSON that stands alone: with its resource and scope.

use serde_json::{Map, Value as Json, json};
use spanring::{StatusCode, Value};

use crate::model::{SpanBatch, SpanData};
use crate::render::{base64, kind_name};

/// A span of that batch.
pub(super) fn line(batch: &SpanBatch, span: &SpanData) -> String {
    let scope = batch.scopes.get(span.scope);
    let resource = scope.and_then(|scope| batch.resources.get(scope.resource));
    let events = span.events.iter().map(|event| {
        json!({
            "name": event.name,
            "time_unix_nano": event.time_unix_nano,
            "attributes": attributes(&event.attributes),
            "dropped_attributes": event.dropped_attributes,
        })
    });
    let links = span.links.iter().map(|link| {
        json!({
            "trace_id": link.trace_id.to_string(),
            "span_id": link.span_id.to_string(),
            "trace_state": link.trace_state,
            "attributes": attributes(&link.attributes),
            "dropped_attributes": link.dropped_attributes,
        })
    });
    let status = match span.status {
        StatusCode::Unset => "unset",
        StatusCode::Ok => "ok",
        StatusCode::Error => "error",
    };
    json!({
        "trace_id": span.trace_id.to_string(),
        "span_id": span.span_id.to_string(),
        "parent_span_id": span.parent_span_id.map(|parent| parent.to_string()),
        "trace_flags": span.trace_flags,
        "trace_state": span.trace_state,
        "name": span.name,
        "kind": kind_name(span.kind),
        "start_unix_nano": span.start_unix_nano,
        "end_unix_nano": span.end_unix_nano,
        "status": { "code": status, "message": span.status_message },
        "attributes": attributes(&span.attributes),
        "dropped_attributes": span.dropped_attributes,
        "events": events.collect::<Vec<_>>(),
        "dropped_events": span.dropped_events,
        "links": links.collect::<Vec<_>>(),
        "dropped_links": span.dropped_links,
        "scope": {
            "name": scope.map_or("", |scope| &scope.name),
            "version": scope.map_or("", |scope| &scope.version),
        },
        "resource": resource.map_or_else(Map::new, |resource| attributes(&resource.attributes)),
    })
    .to_string()
}

/// Of a key that is there twice, the last value.
fn attributes(of: &[(String, Value)]) -> Map<String, Json> {
    of.iter().map(|(key, value)| (key.clone(), value_json(value))).collect()
}

/// Bytes as `{"base64": …}`; doubles that JSON does not have as their names.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Double(value) if value.is_nan() => "NaN".into(),
        Value::Double(value) if value.is_infinite() => {
            if *value > 0.0 { "Infinity" } else { "-Infinity" }.into()
        }
        Value::Double(value) => (*value).into(),
        Value::Str(text) => text.as_str().into(),
        Value::Bytes(bytes) => json!({ "base64": base64(bytes) }),
        Value::Array(items) => items.iter().map(value_json).collect(),
        Value::Map(entries) => attributes(entries).into(),
    }
}
