//! A span's content: everything about it that does not refer to other spans, hashed or compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use spanring::Value;
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};

use super::graph::{Node, Parent};

/// Hashes a span's content, with the sort of its parent and which of its links lead into the data.
pub(super) fn hash(batch: &SpanBatch, span: &SpanData, parent: Parent, targets: &[bool]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let into = &mut hasher;
    span.name.hash(into);
    (span.kind, span.start_unix_nano, span.end_unix_nano, span.status).hash(into);
    span.status_message.hash(into);
    hash_attributes(&span.attributes, into);
    span.events.len().hash(into);
    for event in &span.events {
        (event.time_unix_nano, &event.name).hash(into);
        hash_attributes(&event.attributes, into);
    }
    targets.hash(into);
    span.links.iter().for_each(|link| hash_attributes(&link.attributes, into));
    let (scope, resource) = origin(batch, span);
    (&scope.name, &scope.version, &scope.schema_url, &resource.schema_url).hash(into);
    hash_attributes(&scope.attributes, into);
    hash_attributes(&resource.attributes, into);
    parent.sort().hash(into);
    hasher.finish()
}

/// The first thing in which the contents of two spans differ, in words.
pub(super) fn first_difference(recorded: &Node<'_>, found: &Node<'_>) -> Option<String> {
    let (a, b) = (recorded.span, found.span);
    let ((a_scope, a_resource), (b_scope, b_resource)) =
        (origin(recorded.batch, a), origin(found.batch, b));
    differ("name", &a.name, &b.name)
        .or_else(|| differ("kind", &a.kind, &b.kind))
        .or_else(|| differ("start (ns)", &a.start_unix_nano, &b.start_unix_nano))
        .or_else(|| differ("end (ns)", &a.end_unix_nano, &b.end_unix_nano))
        .or_else(|| differ("status", &a.status, &b.status))
        .or_else(|| differ("status message", &a.status_message, &b.status_message))
        .or_else(|| attributes_differ("", &a.attributes, &b.attributes))
        .or_else(|| differ("number of events", &a.events.len(), &b.events.len()))
        .or_else(|| {
            a.events.iter().zip(&b.events).enumerate().find_map(|(index, (a, b))| {
                let place = format!("event {index}: ");
                differ(&format!("{place}name"), &a.name, &b.name)
                    .or_else(|| {
                        let what = format!("{place}time (ns)");
                        differ(&what, &a.time_unix_nano, &b.time_unix_nano)
                    })
                    .or_else(|| attributes_differ(&place, &a.attributes, &b.attributes))
            })
        })
        .or_else(|| differ("number of links", &a.links.len(), &b.links.len()))
        .or_else(|| {
            a.links.iter().zip(&b.links).enumerate().find_map(|(index, (a, b))| {
                let place = format!("link {index}: ");
                let (a_target, b_target) = (recorded.links[index], found.links[index]);
                let what = format!("{place}leads into the data");
                differ(&what, &a_target.is_some(), &b_target.is_some())
                    .or_else(|| attributes_differ(&place, &a.attributes, &b.attributes))
            })
        })
        .or_else(|| differ("scope", &a_scope.name, &b_scope.name))
        .or_else(|| differ("scope version", &a_scope.version, &b_scope.version))
        .or_else(|| differ("scope's schema URL", &a_scope.schema_url, &b_scope.schema_url))
        .or_else(|| attributes_differ("scope: ", &a_scope.attributes, &b_scope.attributes))
        .or_else(|| differ("resource's schema URL", &a_resource.schema_url, &b_resource.schema_url))
        .or_else(|| attributes_differ("resource: ", &a_resource.attributes, &b_resource.attributes))
        .or_else(|| {
            let (a, b) = (recorded.parent.sort(), found.parent.sort());
            (a != b).then(|| format!("parent: recorded {a}, read back {b}"))
        })
}

/// The span's scope and resource.
fn origin<'a>(batch: &'a SpanBatch, span: &SpanData) -> (&'a ScopeData, &'a ResourceData) {
    let scope = &batch.scopes[span.scope];
    (scope, &batch.resources[scope.resource])
}

fn hash_attributes(attributes: &[(String, Value)], into: &mut DefaultHasher) {
    attributes.len().hash(into);
    for (key, value) in attributes {
        key.hash(into);
        hash_value(value, into);
    }
}

fn hash_value(value: &Value, into: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(into);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(into),
        Value::Int(value) => value.hash(into),
        Value::Double(value) => double_bits(*value).hash(into),
        Value::Str(text) => text.hash(into),
        Value::Bytes(bytes) => bytes.hash(into),
        Value::Array(items) => {
            items.len().hash(into);
            items.iter().for_each(|item| hash_value(item, into));
        }
        Value::Map(entries) => hash_attributes(entries, into),
    }
}

/// The bits of a double; the same for every NaN, since text formats have only one.
fn double_bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, a: &T, b: &T) -> Option<String> {
    (a != b).then(|| format!("{what}: recorded {a:?}, read back {b:?}"))
}

fn attributes_differ(place: &str, a: &[(String, Value)], b: &[(String, Value)]) -> Option<String> {
    let hash_of = |entry: &(String, Value)| {
        let mut hasher = DefaultHasher::new();
        hash_attributes(std::slice::from_ref(entry), &mut hasher);
        hasher.finish()
    };
    // One step past the shorter list, where the other has an attribute more.
    let index = (0..a.len().max(b.len()))
        .find(|&index| a.get(index).map(hash_of) != b.get(index).map(hash_of))?;
    let shown = |entry: Option<&(String, Value)>| match entry {
        Some((key, value)) => format!("{key:?} = {value:?}"),
        None => "none".to_owned(),
    };
    let (a, b) = (shown(a.get(index)), shown(b.get(index)));
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let hint = match shared < SHOWN_CHARS_MAX {
        true => String::new(),
        false => format!(" (the first {shared} characters are the same)"),
    };
    let (a, b) = (cut(a), cut(b));
    Some(format!("{place}attribute {index}: recorded {a}, read back {b}{hint}"))
}

/// How much of an attribute a message shows, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Attributes may be very long; a message should not.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}
