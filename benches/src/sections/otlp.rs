//! OTLP bytes of the same records by our writer, and by building opentelemetry-proto's types and encoding them with
//! prost, as an SDK's exporter does. Both keep their buffer. What is written is decoded, and must be the same message.

use std::hint::black_box;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span::Event, span::Link,
};
use prost::Message;
use spanring::Value;
use spanring::record::{EventRef, Item, LinkRef, RecordRef, Records, ValueRef, flag};
use spanring_exporter::batch::{LEVEL_DEFAULT, TickClock};
use spanring_exporter::otlp::Writer;

use super::{Run, size::FILES};
use crate::measure::{Numbers, median, thread_seconds};
use crate::recorded;
use crate::workload::{self, Clock, Workload};

const BATCH: usize = 512;

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let clock = Clock::default();
    let mut numbers = Numbers::default();
    let rounds = if run.quick { 11 } else { 31 };
    let mut workloads = vec![workload::bare(BATCH), workload::four(BATCH)];
    workloads.extend(FILES.map(|file| {
        let loaded = recorded::load(&run.data, file, BATCH, 1);
        loaded.unwrap_or_else(|message| panic!("{message}")).0
    }));
    for workload in &workloads {
        let mut writer = Writer::new();
        let bytes = check(&mut writer, workload, &clock);
        let (mut ours, mut prosts, mut times) = (vec![], vec![], vec![]);
        let mut out = Vec::new();
        let mut nanos = |write: &mut dyn FnMut(&Records, &mut Vec<u8>)| {
            let before = thread_seconds();
            for records in &workload.batches {
                out.clear();
                write(records, &mut out);
                black_box(&out);
            }
            (thread_seconds() - before) * 1e9 / workload.spans() as f64
        };
        for _ in 0..rounds {
            let context = workload::context(workload, &clock, 0, LEVEL_DEFAULT);
            let our = nanos(&mut |records, out| {
                writer.write_records(records, &context, out).expect("all scopes are there");
            });
            let prost = nanos(&mut |records, out| {
                request(records, workload, &clock).encode(out).expect("memory takes it");
            });
            ours.push(our);
            prosts.push(prost);
            times.push(prost / our);
        }
        let name = &workload.name;
        numbers.set(format!("{name}, spanring ns"), median(&mut ours));
        numbers.set(format!("{name}, prost ns"), median(&mut prosts));
        numbers.set(format!("{name}, times prost"), median(&mut times));
        numbers.set(format!("{name}, B"), bytes as f64 / workload.spans() as f64);
    }
    numbers
}

/// Compares what both write; returns the bytes of ours.
fn check(writer: &mut Writer, workload: &Workload, clock: &Clock) -> usize {
    let context = workload::context(workload, clock, 0, LEVEL_DEFAULT);
    let mut bytes = 0;
    for records in &workload.batches {
        let mut out = Vec::new();
        writer.write_records(records, &context, &mut out).expect("all scopes are there");
        let mut ours = ExportTraceServiceRequest::decode(out.as_slice()).expect("it is a request");
        assert_eq!(out.len(), ours.encoded_len(), "{}: lengths are minimal", workload.name);
        for scope in ours.resource_spans.iter_mut().flat_map(|spans| &mut spans.scope_spans) {
            // An SDK writes a status that says nothing, we write none.
            scope.spans.iter_mut().for_each(|span| {
                span.status.get_or_insert_default();
            });
        }
        let expected = request(records, workload, clock);
        assert!(ours == expected, "{}: they differ", workload.name);
        bytes += out.len();
    }
    bytes
}

/// The message, as a tree: spans grouped by resource and scope, in the order in which these occur.
pub(super) fn request(
    records: &Records,
    workload: &Workload,
    clock: &Clock,
) -> ExportTraceServiceRequest {
    let mut request = ExportTraceServiceRequest::default();
    // Where the spans of each resource and each scope go.
    let mut resources = vec![None; workload.resources.len()];
    let mut scopes = vec![None; workload.scopes.len()];
    let mut counts = vec![0; workload.scopes.len()];
    records.iter().for_each(|record| counts[usize::from(record.header.scope)] += 1);
    for record in records.iter() {
        let index = usize::from(record.header.scope);
        let (resource, scope) = *scopes[index].get_or_insert_with(|| {
            let data = &workload.scopes[index];
            let resource = *resources[data.resource].get_or_insert_with(|| {
                let data = &workload.resources[data.resource];
                request.resource_spans.push(ResourceSpans {
                    resource: Some(Resource {
                        attributes: key_values(&data.attributes),
                        dropped_attributes_count: data.dropped_attributes,
                        ..Resource::default()
                    }),
                    scope_spans: Vec::new(),
                    schema_url: data.schema_url.clone(),
                });
                request.resource_spans.len() - 1
            });
            let scope_spans = &mut request.resource_spans[resource].scope_spans;
            scope_spans.push(ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: data.name.clone(),
                    version: data.version.clone(),
                    attributes: key_values(&data.attributes),
                    dropped_attributes_count: data.dropped_attributes,
                }),
                spans: Vec::with_capacity(counts[index]),
                schema_url: data.schema_url.clone(),
            });
            (resource, scope_spans.len() - 1)
        });
        let spans = &mut request.resource_spans[resource].scope_spans[scope].spans;
        spans.push(span(&record, workload, clock));
    }
    request
}

fn span(record: &RecordRef<'_>, workload: &Workload, clock: &Clock) -> Span {
    let header = record.header;
    let has_parent = header.parent != 0 || header.flags & flag::PARENT_RAW != 0;
    let (start, end) = clock.span_times(header);
    let is_remote = has_parent.then_some(header.flags & flag::PARENT_REMOTE != 0);
    let mut span = Span {
        trace_id: trace_id(workload, header.trace_hi, header.trace_lo, header.flags),
        span_id: span_id(workload, header.span, header.flags & flag::SPAN_RAW != 0),
        parent_span_id: match has_parent {
            true => span_id(workload, header.parent, header.flags & flag::PARENT_RAW != 0),
            false => Vec::new(),
        },
        flags: flags(header.trace_flags, is_remote),
        name: record.name().as_str().to_owned(),
        kind: i32::from(header.kind_status & 7),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        status: Some(Status { code: i32::from(header.kind_status >> 4), ..Status::default() }),
        ..Span::default()
    };
    for item in record.items() {
        match item {
            Item::Attribute(key, value) => span.attributes.push(key_value(key.as_str(), value)),
            Item::Event(from) => span.events.push(event(&from, clock)),
            Item::Link(from) => span.links.push(link(&from, workload)),
            Item::StatusMessage(message) => {
                span.status.get_or_insert_default().message = message.to_owned();
            }
            Item::TraceState(state) => span.trace_state = state.to_owned(),
            Item::Name(_) => {}
            Item::Dropped { attributes, events, links } => {
                span.dropped_attributes_count = attributes;
                span.dropped_events_count = events;
                span.dropped_links_count = links;
            }
        }
    }
    span
}

fn event(from: &EventRef<'_>, clock: &Clock) -> Event {
    let mut event = Event {
        time_unix_nano: if from.wall { from.time } else { clock.unix_nano(from.time) },
        name: from.name().as_str().to_owned(),
        ..Event::default()
    };
    for item in from.items() {
        match item {
            Item::Attribute(key, value) => event.attributes.push(key_value(key.as_str(), value)),
            Item::Dropped { attributes, .. } => event.dropped_attributes_count = attributes,
            _ => {}
        }
    }
    event
}

fn link(from: &LinkRef<'_>, workload: &Workload) -> Link {
    let mut link = Link {
        trace_id: trace_id(workload, from.trace_hi, from.trace_lo, from.flags),
        span_id: span_id(workload, from.span, from.flags & flag::SPAN_RAW != 0),
        flags: flags(from.trace_flags, Some(from.flags & flag::PARENT_REMOTE != 0)),
        ..Link::default()
    };
    for item in from.items() {
        match item {
            Item::Attribute(key, value) => link.attributes.push(key_value(key.as_str(), value)),
            Item::TraceState(state) => link.trace_state = state.to_owned(),
            Item::Dropped { attributes, .. } => link.dropped_attributes_count = attributes,
            _ => {}
        }
    }
    link
}

fn trace_id(workload: &Workload, hi: u64, lo: u64, flags: u16) -> Vec<u8> {
    match flags & flag::TRACE_RAW {
        0 => workload.keys.trace_id(lo).0.to_be_bytes().to_vec(),
        _ => (u128::from(hi) << 64 | u128::from(lo)).to_be_bytes().to_vec(),
    }
}

fn span_id(workload: &Workload, span: u64, is_raw: bool) -> Vec<u8> {
    let id = if is_raw { span } else { workload.keys.span_id(span).0 };
    id.to_be_bytes().to_vec()
}

/// Whether a parent is in another process stands beside the trace flags.
fn flags(trace_flags: u8, is_remote: Option<bool>) -> u32 {
    u32::from(trace_flags) | is_remote.map_or(0, |is_remote| 0x100 | u32::from(is_remote) << 9)
}

fn key_value(key: &str, value: ValueRef<'_>) -> KeyValue {
    let (key, value) = (key.to_owned(), Some(any_value(value)));
    KeyValue { key, value, ..KeyValue::default() }
}

fn any_value(value: ValueRef<'_>) -> AnyValue {
    use any_value::Value as Any;
    let value = match value {
        ValueRef::Null => None,
        ValueRef::Bool(value) => Some(Any::BoolValue(value)),
        ValueRef::Int(value) => Some(Any::IntValue(value)),
        ValueRef::Double(value) => Some(Any::DoubleValue(value)),
        ValueRef::Str(value) => Some(Any::StringValue(value.as_str().to_owned())),
        ValueRef::Bytes(value) => Some(Any::BytesValue(value.to_vec())),
        ValueRef::Array(items) => {
            let values = items.attributes().map(|(_, value)| any_value(value)).collect();
            Some(Any::ArrayValue(ArrayValue { values }))
        }
        ValueRef::Map(items) => {
            let values = items.attributes().map(|(key, value)| key_value(key.as_str(), value));
            Some(Any::KvlistValue(KeyValueList { values: values.collect() }))
        }
    };
    AnyValue { value }
}

/// The attributes of a resource or a scope, which are strings and numbers.
fn key_values(attributes: &[(String, Value)]) -> Vec<KeyValue> {
    let key_value = |(key, value): &(String, Value)| {
        let value = match value {
            Value::Str(value) => ValueRef::Str(spanring::record::StrRef::Str(value)),
            Value::Int(value) => ValueRef::Int(*value),
            Value::Double(value) => ValueRef::Double(*value),
            Value::Bool(value) => ValueRef::Bool(*value),
            other => panic!("no resource or scope of a workload has {other:?}"),
        };
        key_value(key, value)
    };
    attributes.iter().map(key_value).collect()
}
