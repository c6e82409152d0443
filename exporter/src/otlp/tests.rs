//! What is written, against the types that prost generates; the answers, against prost's reading.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span::Event, span::Link,
};
use proptest::prelude::*;
use prost::Message;
use spanring::Value;
use spanring::record::{Header, Payload, Records};

use super::response::{MESSAGE_BYTES_MAX, PartialSuccess, parse_response, status_message};
use super::value::NESTING_MAX;
use super::*;
use crate::batch::decode;
use crate::batch::tests::oracle::{self, context, encode, keys, resources, scopes};
use crate::model::{EventData, SpanData};

/// The message of `batch`, built as a tree.
fn tree(batch: &SpanBatch) -> ExportTraceServiceRequest {
    let mut request = ExportTraceServiceRequest::default();
    let mut places: Vec<(usize, Vec<usize>)> = Vec::new();
    for span in &batch.spans {
        let scope = &batch.scopes[span.scope];
        let resource = &batch.resources[scope.resource];
        let at = places.iter().position(|(index, _)| *index == scope.resource);
        let at = at.unwrap_or_else(|| {
            places.push((scope.resource, Vec::new()));
            request.resource_spans.push(ResourceSpans {
                resource: Some(Resource {
                    attributes: key_values(&resource.attributes),
                    dropped_attributes_count: resource.dropped_attributes,
                    entity_refs: Vec::new(),
                }),
                scope_spans: Vec::new(),
                schema_url: resource.schema_url.clone(),
            });
            places.len() - 1
        });
        let (places, groups) = (&mut places[at].1, &mut request.resource_spans[at].scope_spans);
        let at = places.iter().position(|index| *index == span.scope).unwrap_or_else(|| {
            places.push(span.scope);
            groups.push(ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: scope.name.clone(),
                    version: scope.version.clone(),
                    attributes: key_values(&scope.attributes),
                    dropped_attributes_count: scope.dropped_attributes,
                }),
                spans: Vec::new(),
                schema_url: scope.schema_url.clone(),
            });
            places.len() - 1
        });
        groups[at].spans.push(span_tree(span));
    }
    request
}

fn flags(trace_flags: u8, is_remote: Option<bool>) -> u32 {
    u32::from(trace_flags) | is_remote.map_or(0, |is_remote| 256 + 512 * u32::from(is_remote))
}

fn span_tree(span: &SpanData) -> Span {
    let status = Status { message: span.status_message.clone(), code: span.status as i32 };
    Span {
        trace_id: span.trace_id.0.to_be_bytes().to_vec(),
        span_id: span.span_id.0.to_be_bytes().to_vec(),
        trace_state: span.trace_state.clone(),
        parent_span_id: span.parent_span_id.map_or(vec![], |id| id.0.to_be_bytes().to_vec()),
        flags: flags(span.trace_flags, span.parent_is_remote),
        name: span.name.clone(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start_unix_nano,
        end_time_unix_nano: span.end_unix_nano,
        attributes: key_values(&span.attributes),
        dropped_attributes_count: span.dropped_attributes,
        events: span
            .events
            .iter()
            .map(|event| Event {
                time_unix_nano: event.time_unix_nano,
                name: event.name.clone(),
                attributes: key_values(&event.attributes),
                dropped_attributes_count: event.dropped_attributes,
            })
            .collect(),
        dropped_events_count: span.dropped_events,
        links: span
            .links
            .iter()
            .map(|link| Link {
                trace_id: link.trace_id.0.to_be_bytes().to_vec(),
                span_id: link.span_id.0.to_be_bytes().to_vec(),
                trace_state: link.trace_state.clone(),
                attributes: key_values(&link.attributes),
                dropped_attributes_count: link.dropped_attributes,
                flags: flags(link.trace_flags, link.is_remote),
            })
            .collect(),
        dropped_links_count: span.dropped_links,
        status: Some(status).filter(|status| *status != Status::default()),
    }
}

fn key_values(attributes: &[(String, Value)]) -> Vec<KeyValue> {
    let key_value = |(key, value): &(String, Value)| KeyValue {
        key: key.clone(),
        value: Some(any_value(value)),
        key_strindex: 0,
    };
    attributes.iter().map(key_value).collect()
}

fn any_value(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(value) => Some(Any::BoolValue(*value)),
        Value::Int(value) => Some(Any::IntValue(*value)),
        Value::Double(value) => Some(Any::DoubleValue(*value)),
        Value::Str(value) => Some(Any::StringValue(value.clone())),
        Value::Bytes(value) => Some(Any::BytesValue(value.to_vec())),
        Value::Array(values) => {
            Some(Any::ArrayValue(ArrayValue { values: values.iter().map(any_value).collect() }))
        }
        Value::Map(entries) => Some(Any::KvlistValue(KeyValueList { values: key_values(entries) })),
    };
    AnyValue { value }
}

/// `bytes` hold `expected`, and not a byte more than they need.
#[track_caller]
fn assert_is(bytes: &[u8], expected: &ExportTraceServiceRequest) {
    let found = ExportTraceServiceRequest::decode(bytes).expect("it is a request");
    // By their bytes: a NaN equals nothing.
    if found.encode_to_vec() != expected.encode_to_vec() {
        assert_eq!(format!("{found:#?}"), format!("{expected:#?}"));
        panic!("they differ in the bits of a double");
    }
    assert_eq!(bytes.len(), expected.encoded_len(), "it is not minimal");
}

fn written(writer: &mut Writer, records: &Records) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (keys, resources, scopes) = (keys(), resources(), scopes());
    writer.write_records(records, &context(&keys, &resources, &scopes), &mut bytes).unwrap();
    bytes
}

fn model(spans: &[oracle::TestSpan]) -> SpanBatch {
    let spans = spans.iter().map(|span| span.data.clone()).collect();
    SpanBatch { resources: resources(), scopes: scopes(), spans }
}

/// One span with one attribute.
fn batch_of(value: Value) -> SpanBatch {
    let attributes = vec![("key".to_owned(), value)];
    let spans = vec![SpanData { attributes, ..SpanData::default() }];
    SpanBatch { resources: resources(), scopes: scopes(), spans }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 1000 }))]

    #[test]
    fn arbitrary_records_are_written_as_prost_reads_them(
        requests in proptest::collection::vec(oracle::spans(0..40), 1..4)
    ) {
        let mut writer = Writer::new();
        for spans in &requests {
            assert_is(&written(&mut writer, &oracle::records(spans)), &tree(&model(spans)));
        }
    }

    #[test]
    fn records_and_the_decoded_batch_give_the_same(spans in oracle::spans(0..40)) {
        let records = oracle::records(&spans);
        let batch = decode(&encode(&records).frame).unwrap().batch;
        let mut writer = Writer::new();
        let mut bytes = b"before".to_vec();
        writer.write_batch(&batch, 0..spans.len(), &mut bytes);
        assert_is(bytes.strip_prefix(b"before").unwrap(), &tree(&batch));
        let from_records = written(&mut writer, &records);
        let decode = |bytes: &[u8]| ExportTraceServiceRequest::decode(bytes).unwrap();
        let same = decode(&from_records).encode_to_vec() == decode(&bytes[6..]).encode_to_vec();
        prop_assert!(same, "{:#?} {:#?}", decode(&from_records), decode(&bytes[6..]));
    }

    #[test]
    fn ranges_hold_the_whole(spans in oracle::spans(0..40), cuts in any::<[prop::sample::Index; 2]>()) {
        let batch = model(&spans);
        let mut cuts = cuts.map(|cut| cut.index(spans.len() + 1));
        cuts.sort_unstable();
        let mut writer = Writer::new();
        for range in [0..cuts[0], cuts[0]..cuts[1], cuts[1]..spans.len()] {
            let mut bytes = Vec::new();
            writer.write_batch(&batch, range.clone(), &mut bytes);
            let part = SpanBatch { spans: batch.spans[range].to_vec(), ..batch.clone() };
            assert_is(&bytes, &tree(&part));
        }
    }

    #[test]
    fn an_answer_is_read_as_prost_reads_it(
        partial in proptest::option::of((any::<i64>(), "\\PC{0,20}")),
        unknown in proptest::collection::vec(any::<u8>(), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let partial_success = partial.map(|(rejected_spans, error_message)| {
            ExportTracePartialSuccess { rejected_spans, error_message }
        });
        let mut bytes = ExportTraceServiceResponse { partial_success }.encode_to_vec();
        assert_reads_as_prost(&bytes);
        // A field that nobody knows, then anything.
        bytes.extend_from_slice(&[0x7a, 3, 1, 2, 3]);
        assert_reads_as_prost(&bytes);
        bytes.extend_from_slice(&unknown);
        assert_reads_as_prost(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        assert_reads_as_prost(&bytes);
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..40], 0..40)
    ) {
        assert_reads_as_prost(&bytes);
        let _ = status_message(&bytes);
    }
}

#[track_caller]
fn assert_reads_as_prost(bytes: &[u8]) {
    let expected = ExportTraceServiceResponse::decode(bytes).ok().map(|response| {
        let partial = response.partial_success.unwrap_or_default();
        let ExportTracePartialSuccess { rejected_spans, error_message } = partial;
        PartialSuccess { rejected_spans, error_message }
    });
    assert_eq!(parse_response(bytes).ok(), expected, "{bytes:02x?}");
}

/// Lengths around those at which a length takes another byte, after longer and shorter ones.
#[test]
fn lengths_are_minimal_whatever_was_written_before() {
    let mut writer = Writer::new();
    let lens = [0, 1, 10, 60, 100, 120, 127, 128, 1000, 16_200, 16_300, 16_383, 16_384];
    for &len in lens.iter().chain(lens.iter().rev()) {
        for more in 0..20 {
            let text = "x".repeat(len + more);
            let mut batch = batch_of(Value::Str(text.clone()));
            batch.spans[0].status_message = text.clone();
            batch.spans[0].events =
                vec![crate::model::EventData { name: text, ..Default::default() }];
            let mut bytes = Vec::new();
            writer.write_batch(&batch, 0..1, &mut bytes);
            let expected = tree(&batch);
            assert_eq!(bytes.len(), expected.encoded_len());
            assert!(ExportTraceServiceRequest::decode(&bytes[..]).unwrap() == expected);
        }
    }
}

#[test]
fn what_was_dropped_is_counted() {
    let too_much = Value::Array(vec![Value::Int(1 << 40); 140_000]);
    let mut payload = Payload::unlimited();
    payload.attribute_set("lost".into(), &too_much);
    payload.event("event".into(), 9, true, |to| {
        to.set("lost", &too_much).set("lost too", &too_much);
    });
    let mut records = Records::new();
    let header = Header { span: 1, trace_lo: 1, start: 5, end: 10, ..Header::default() };
    records.push_parts(header, payload);
    let bytes = written(&mut Writer::new(), &records);
    assert_is(&bytes, &tree(&decode(&encode(&records).frame).unwrap().batch));
    let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(span.dropped_attributes_count, 1);
    assert_eq!(span.events[0].dropped_attributes_count, 2);
}

/// What is not there takes no bytes.
#[test]
fn nothing_is_written_for_no_spans() {
    assert_eq!(written(&mut Writer::new(), &Records::new()), b"");
}

#[test]
fn a_record_of_an_unknown_scope_or_resource_is_an_error_and_nothing_is_written() {
    let mut records = Records::new();
    records.push_parts(Header::default(), Payload::unlimited());
    records.push_parts(Header { scope: 3, ..Header::default() }, Payload::unlimited());
    let (keys, resources) = (keys(), resources());
    let mut writer = Writer::new();
    let mut bytes = b"before".to_vec();
    let lonely = vec![ScopeData { resource: 2, ..ScopeData::default() }];
    for (scopes, expected) in
        [(scopes(), "scope 3, of which the batch was given 3"), (lonely, "resource 2")]
    {
        let context = context(&keys, &resources, &scopes);
        let error = writer.write_records(&records, &context, &mut bytes).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(bytes, b"before");
}

/// Prost, like most, takes 100 messages in one another. Maps nest fastest, and events' attributes lie deepest.
#[test]
fn values_nest_no_deeper_than_readers_take() {
    let mut value = Value::Int(1);
    for _ in 0..10_000 {
        value = Value::Map(vec![("k".to_owned(), value)]);
    }
    let event = EventData { attributes: vec![("key".to_owned(), value)], ..EventData::default() };
    let mut batch = batch_of(Value::Null);
    batch.spans[0].events.push(event);
    let mut bytes = Vec::new();
    Writer::new().write_batch(&batch, 0..1, &mut bytes);
    // Dropping a value recurses.
    let mut value = batch.spans.remove(0).events.remove(0).attributes.remove(0).1;
    while let Value::Map(mut entries) = value {
        value = entries.pop().unwrap().1;
    }
    let mut request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
    let span = request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0);
    let mut value = span.events[0].attributes[0].value.as_ref().unwrap();
    let mut depth = 0;
    while let Some(Any::KvlistValue(map)) = &value.value {
        value = map.values[0].value.as_ref().unwrap();
        depth += 1;
    }
    assert_eq!((depth, &value.value), (NESTING_MAX, &None));
}

#[test]
fn buffers_are_reused() {
    let mut records = Records::new();
    for n in 0..100 {
        let mut payload = Payload::unlimited();
        payload.attribute_set("key".into(), n);
        payload.attribute_set("list".into(), Value::Array(vec![1i64.into(), "two".into()]));
        records.push_parts(Header { span: 1, start: 5, ..Header::default() }, payload);
    }
    let (keys, resources, scopes) = (keys(), resources(), scopes());
    let context = context(&keys, &resources, &scopes);
    let mut writer = Writer::new();
    let mut bytes = Vec::new();
    writer.write_records(&records, &context, &mut bytes).unwrap();
    let first = (bytes.clone(), bytes.as_ptr(), bytes.capacity());
    bytes.clear();
    writer.write_records(&records, &context, &mut bytes).unwrap();
    assert_eq!((bytes.clone(), bytes.as_ptr(), bytes.capacity()), first);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let error_message = format!("x{}", "ü".repeat(MESSAGE_BYTES_MAX));
    let partial_success = Some(ExportTracePartialSuccess { rejected_spans: 1, error_message });
    let bytes = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    let partial = parse_response(&bytes).unwrap();
    assert_eq!(partial.error_message.len(), MESSAGE_BYTES_MAX - 1);
}

#[test]
fn groups_nest_only_so_deep() {
    for (depth, is_ok) in [(10, true), (100_000, false)] {
        let mut bytes = vec![0x7b; depth];
        bytes.resize(2 * depth, 0x7c);
        assert_eq!(parse_response(&bytes).is_ok(), is_ok, "{depth}");
    }
}

#[test]
fn a_status_is_told_from_other_bodies() {
    let status = b"\x08\x08\x12\x0atoo  many!\x1a\x02\x0a\x00";
    assert_eq!(status_message(status).as_deref(), Some("too  many!"));
    for other in [
        &b""[..],
        b"\x08\x08",
        b"{\"code\": 8, \"message\": \"too many\"}",
        b"<html><body>502</body></html>",
        b"upstream connect error or disconnect/reset before headers",
        b"\x12\x02\xff\xff",
        b"\x0a\x03one\x12\x03two",
        &status[..status.len() - 1],
    ] {
        assert_eq!(status_message(other), None, "{other:?}");
    }
}
