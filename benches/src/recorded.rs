//! Recorded traces as records: OTLP/JSON lines in, batches of records and the spans to expect out.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use serde_json::Value as Json;
use spanring::id::IdKeys;
use spanring::record::{Header, Payload, Records, flag};
use spanring::{Interned, Key, SpanKind, StatusCode, Value};
use spanring_exporter::model::{EventData, ResourceData, ScopeData, SpanData};

use crate::workload::Workload;

/// Counters that a thread takes at a time.
const BLOCK: u64 = 1024;
const TRACE_FLAGS: u8 = 3;

/// A span as it should come back.
#[derive(Debug)]
pub struct Expected {
    /// The span, with the IDs that its counters stand for.
    pub span: SpanData,
}

struct Recorded {
    data: SpanData,
    id: String,
    parent: String,
    trace: String,
    thread: usize,
    counter: u64,
    trace_counter: u64,
    /// Steps to the root.
    depth: usize,
}

/// Reads `name` in `dir` and replays it on `threads` threads in batches of `size` spans.
pub fn load(
    dir: &Path,
    name: &str,
    size: usize,
    threads: usize,
) -> Result<(Workload, Vec<Vec<Expected>>), String> {
    let path = dir.join(format!("{name}.jsonl.zst"));
    let describe = |error: std::io::Error| {
        format!("{}: {error}; give the folder of the recorded traces with --data", path.display())
    };
    let file = std::fs::File::open(&path).map_err(describe)?;
    let reader = zstd::stream::read::Decoder::new(file).map_err(describe)?;
    let mut sources = Sources::default();
    let mut spans = Vec::new();
    for line in std::io::BufReader::new(reader).lines() {
        let line = line.map_err(describe)?;
        let line: Json = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        read_line(&line, &mut sources, &mut spans);
    }
    let keys = IdKeys::from_seed([0x5370_616e_7269_6e67, 0x6261_7463_6800_0001]);
    assign_counters(&mut spans, threads);
    let order = record_order(&spans, size, threads);
    let by_id: HashMap<&str, usize> =
        spans.iter().enumerate().map(|(index, span)| (span.id.as_str(), index)).collect();
    let mut batches = Vec::new();
    let mut expected = Vec::new();
    for batch in &order {
        let mut records = Records::new();
        let mut batch_expected = Vec::new();
        for &index in batch {
            let parent = by_id.get(spans[index].parent.as_str()).map(|&parent| &spans[parent]);
            let (header, payload, span) = record(&spans[index], parent, &keys);
            records.push_parts(header, payload);
            batch_expected.push(Expected { span });
        }
        batches.push(records);
        expected.push(batch_expected);
    }
    let workload = Workload {
        name: name.into(),
        batches,
        resources: sources.resources,
        scopes: sources.scopes,
        keys,
    };
    Ok((workload, expected))
}

#[derive(Default)]
struct Sources {
    resources: Vec<ResourceData>,
    scopes: Vec<ScopeData>,
}

fn items<'a>(json: &'a Json, key: &str) -> impl Iterator<Item = &'a Json> {
    json[key].as_array().into_iter().flatten()
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn number(json: &Json) -> i64 {
    json.as_i64().or_else(|| json.as_str()?.parse().ok()).unwrap_or(0)
}

fn nanos(json: &Json) -> u64 {
    json.as_u64().or_else(|| json.as_str()?.parse().ok()).unwrap_or(0)
}

fn value(json: &Json) -> Value {
    let Some((kind, inner)) = json.as_object().and_then(|object| object.iter().next()) else {
        return Value::Null;
    };
    match kind.as_str() {
        "stringValue" => Value::Str(text(inner)),
        "boolValue" => Value::Bool(inner.as_bool().unwrap_or(false)),
        "intValue" => Value::Int(number(inner)),
        "doubleValue" => Value::Double(inner.as_f64().unwrap_or(0.0)),
        "arrayValue" => Value::Array(items(inner, "values").map(value).collect()),
        "kvlistValue" => Value::Map(attributes(inner, "values")),
        other => panic!("the recorded traces have no {other}"),
    }
}

fn attributes(json: &Json, key: &str) -> Vec<(String, Value)> {
    items(json, key).map(|pair| (text(&pair["key"]), value(&pair["value"]))).collect()
}

fn read_line(line: &Json, sources: &mut Sources, spans: &mut Vec<Recorded>) {
    for resource_spans in items(line, "resourceSpans") {
        let resource = ResourceData {
            attributes: attributes(&resource_spans["resource"], "attributes"),
            ..ResourceData::default()
        };
        let resource = index_of(&mut sources.resources, resource);
        for scope_spans in items(resource_spans, "scopeSpans") {
            let scope = &scope_spans["scope"];
            let scope = ScopeData {
                resource,
                name: text(&scope["name"]),
                version: text(&scope["version"]),
                ..ScopeData::default()
            };
            let scope = index_of(&mut sources.scopes, scope);
            spans.extend(items(scope_spans, "spans").map(|span| read_span(span, scope)));
        }
    }
}

fn index_of<T: PartialEq>(all: &mut Vec<T>, item: T) -> usize {
    match all.iter().position(|other| *other == item) {
        Some(index) => index,
        None => {
            all.push(item);
            all.len() - 1
        }
    }
}

fn read_span(span: &Json, scope: usize) -> Recorded {
    let events = items(span, "events")
        .map(|event| EventData {
            time_unix_nano: nanos(&event["timeUnixNano"]),
            name: text(&event["name"]),
            attributes: attributes(event, "attributes"),
            dropped_attributes: 0,
        })
        .collect();
    let status = &span["status"];
    Recorded {
        data: SpanData {
            scope,
            trace_flags: TRACE_FLAGS,
            name: text(&span["name"]),
            kind: SpanKind::from_number(number(&span["kind"]) as u8).unwrap_or_default(),
            start_unix_nano: nanos(&span["startTimeUnixNano"]),
            end_unix_nano: nanos(&span["endTimeUnixNano"]),
            attributes: attributes(span, "attributes"),
            events,
            status: StatusCode::from_number(number(&status["code"]) as u8).unwrap_or_default(),
            status_message: text(&status["message"]),
            ..SpanData::default()
        },
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        trace: text(&span["traceId"]),
        thread: 0,
        counter: 0,
        trace_counter: 0,
        depth: 0,
    }
}

/// Gives counters in the order of starts, a parent before its children, in blocks a thread. Traces
/// are spread over the threads.
fn assign_counters(spans: &mut [Recorded], threads: usize) {
    let by_id: HashMap<String, usize> =
        spans.iter().enumerate().map(|(index, span)| (span.id.clone(), index)).collect();
    let parents: Vec<Option<usize>> =
        spans.iter().map(|span| by_id.get(&span.parent).copied()).collect();
    for (index, span) in spans.iter_mut().enumerate() {
        span.depth = std::iter::successors(parents[index], |&parent| parents[parent]).count();
    }
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&at| (spans[at].data.start_unix_nano, spans[at].depth));
    let mut next_block = 1;
    let mut blocks = vec![(0, 0); threads];
    let mut chain = Vec::new();
    for at in order {
        // A few parents start after their children; they are begun early.
        let mut ancestor = Some(at);
        while let Some(at) = ancestor.filter(|&at| spans[at].counter == 0) {
            chain.push(at);
            ancestor = parents[at];
        }
        while let Some(at) = chain.pop() {
            let thread = thread_of(&spans[at].trace, threads);
            let (next, end) = &mut blocks[thread];
            if next == end {
                *next = next_block;
                *end = next_block + BLOCK;
                next_block += BLOCK;
            }
            spans[at].counter = *next;
            *next += 1;
            spans[at].thread = thread;
            spans[at].trace_counter = match parents[at] {
                Some(parent) => spans[parent].trace_counter,
                None => spans[at].counter,
            };
        }
    }
}

fn thread_of(trace: &str, threads: usize) -> usize {
    trace.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31) + usize::from(byte)) % threads
}

/// Batches of spans in the order in which a flusher drains them: of those that ended in the same
/// interval, thread after thread.
fn record_order(spans: &[Recorded], size: usize, threads: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&at| (spans[at].data.end_unix_nano, std::cmp::Reverse(spans[at].depth)));
    let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    if threads > 1 {
        for batch in &mut batches {
            batch.sort_by_key(|&at| spans[at].thread);
        }
    }
    batches
}

fn record(
    span: &Recorded,
    parent: Option<&Recorded>,
    keys: &IdKeys,
) -> (Header, Payload, SpanData) {
    let data = &span.data;
    let mut header = Header {
        trace_lo: span.trace_counter,
        span: span.counter,
        start: data.start_unix_nano,
        end: data.end_unix_nano,
        name: Interned::new(&data.name).map_or(0, Interned::get),
        scope: data.scope as u16,
        flags: flag::START_WALL | flag::END_WALL,
        kind_status: data.kind as u8 | (data.status as u8) << 4,
        trace_flags: data.trace_flags,
        ..Header::default()
    };
    let mut expected = data.clone();
    expected.trace_id = keys.trace_id(span.trace_counter);
    expected.span_id = keys.span_id(span.counter);
    if let Some(parent) = parent {
        header.parent = parent.counter;
        expected.parent_span_id = Some(keys.span_id(parent.counter));
        expected.parent_is_remote = Some(false);
    } else if let Ok(id) = u64::from_str_radix(&span.parent, 16) {
        header.parent = id;
        header.flags |= flag::PARENT_RAW | flag::PARENT_REMOTE;
        expected.parent_span_id = Some(spanring::SpanId(id));
        expected.parent_is_remote = Some(true);
    }
    let mut payload = Payload::unlimited();
    if header.name == 0 {
        payload.name(&data.name);
    }
    for (key, value) in &data.attributes {
        payload.attribute_set(Key::Str(key), value);
    }
    for event in &data.events {
        payload.event(Key::Str(&event.name), event.time_unix_nano, true, |to| {
            for (key, value) in &event.attributes {
                to.set(key, value);
            }
        });
    }
    payload.status_message(&data.status_message);
    (header, payload, expected)
}
