//! OTLP/JSON is read and written without loss, and wrong input is an error that names the place.

mod common;

use common::{arbitrary_batch, data_files, regrouped, same};
use proptest::prelude::*;
use spanring::{SpanId, SpanKind, StatusCode, TraceId, Value};
use spanring_cli::input::LineReader;
use spanring_cli::otlp_json::{VALUE_DEPTH_MAX, parse_line, write_line};
use spanring_exporter::model::SpanBatch;

fn written(batch: &SpanBatch) -> Vec<u8> {
    let mut line = Vec::new();
    write_line(batch, &mut line).expect("a Vec takes all, and the batch is consistent");
    line
}

#[test]
fn the_recorded_data_survives_reading_and_writing() {
    let expected = [
        ("agents", 4_687),
        ("onlineboutique", 23_397),
        ("trainticket", 10_243),
        ("webshop", 17_574),
    ];
    for (path, (name, spans_expected)) in data_files(&expected.map(|e| e.0)).iter().zip(expected) {
        let mut reader = LineReader::open(path).expect("the file can be opened");
        let mut spans = 0;
        while let Some(batch) = reader.next_batch().expect("the file can be read") {
            let line = written(&batch);
            let again = parse_line(&line).expect("what was written can be read");
            assert_eq!(again, batch, "{name}, line {}", reader.line_number());
            assert_eq!(written(&again), line, "writing is deterministic");
            spans += batch.spans.len();
        }
        assert_eq!(spans, spans_expected, "{name}");
    }
}

#[test]
fn the_recorded_data_says_what_an_independent_look_at_it_says() {
    let path = &data_files(&["webshop"])[0];
    let mut reader = LineReader::open(path).expect("the file can be opened");
    let line = reader.next_line().expect("it can be read").expect("it has a line").to_vec();
    let json: serde_json::Value = serde_json::from_slice(&line).expect("it is JSON");
    let batch = parse_line(&line).expect("it is OTLP/JSON");
    let mut spans = batch.spans.iter();
    for resource in json["resourceSpans"].as_array().expect("an array") {
        for scope in resource["scopeSpans"].as_array().expect("an array") {
            for json in scope["spans"].as_array().expect("an array") {
                let span = spans.next().expect("as many spans");
                assert_eq!(json["traceId"], span.trace_id.to_string());
                assert_eq!(json["spanId"], span.span_id.to_string());
                assert_eq!(json["name"], *span.name);
                assert_eq!(json["kind"], span.kind as u8);
                assert_eq!(json["startTimeUnixNano"], span.start_unix_nano.to_string());
                assert_eq!(json["endTimeUnixNano"], span.end_unix_nano.to_string());
                let parent = span.parent_span_id.map(|id| id.to_string());
                assert_eq!(json["parentSpanId"].as_str(), parent.as_deref());
                let attributes = json["attributes"].as_array().map_or(0, Vec::len);
                assert_eq!(attributes, span.attributes.len());
                assert_eq!(json["events"].as_array().map_or(0, Vec::len), span.events.len());
                let name = &batch.scopes[span.scope].name;
                assert_eq!(scope["scope"]["name"], **name);
            }
        }
    }
    assert_eq!(spans.next(), None);
}

proptest! {
    #[test]
    fn any_batch_survives_writing_and_reading(batch in arbitrary_batch()) {
        let line = written(&batch);
        prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        let again = parse_line(&line).expect("what was written can be read");
        prop_assert!(same(&again, &regrouped(&batch)), "{again:#?}\nis not\n{batch:#?}");
        prop_assert_eq!(written(&again), line);
    }

    #[test]
    fn any_bytes_are_a_batch_or_an_error(bytes: Vec<u8>) {
        let _ = parse_line(&bytes);
    }

    #[test]
    fn a_line_changed_anywhere_is_a_batch_or_an_error(
        batch in arbitrary_batch(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut line = written(&batch);
        for (at, byte) in changes {
            let at = at.index(line.len());
            line[at] = byte;
        }
        if let Ok(batch) = parse_line(&line) {
            let again = parse_line(&written(&batch)).expect("what was written can be read");
            prop_assert!(same(&again, &batch));
        }
    }
}

/// A line with one span that has the given fields beside its IDs.
fn span_line(fields: &str) -> String {
    let ids = r#""traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174""#;
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{ids}{comma}{fields}}}]}}]}}]}}"#)
}

fn value_line(value: &str) -> String {
    span_line(&format!(r#""attributes":[{{"key":"k","value":{value}}}]"#))
}

fn value_of(value: &str) -> Value {
    let line = value_line(value);
    let mut batch = parse_line(line.as_bytes()).unwrap_or_else(|error| panic!("{value}: {error}"));
    batch.spans.remove(0).attributes.remove(0).1
}

#[test]
fn every_kind_of_value_is_read_in_every_spelling() {
    let map = |entries: &[(&str, Value)]| {
        Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    };
    let bytes = || Value::Bytes(bytes::Bytes::from_static(&[0xfb, 0xff, 0]));
    let cases = [
        ("null", Value::Null),
        ("{}", Value::Null),
        (r#"{"stringValue":null}"#, Value::Null),
        (r#"{"stringValue":""}"#, Value::from("")),
        (r#"{"string_value":"a\u00e9\n\ud83d\ude00"}"#, Value::from("aé\n😀")),
        (r#"{"boolValue":false}"#, Value::Bool(false)),
        (r#"{"intValue":"-9223372036854775808"}"#, Value::Int(i64::MIN)),
        (r#"{"intValue":9223372036854775807}"#, Value::Int(i64::MAX)),
        (r#"{"intValue":1e3}"#, Value::Int(1000)),
        (r#"{"intValue":-2.0}"#, Value::Int(-2)),
        (r#"{"doubleValue":5}"#, Value::Double(5.0)),
        (r#"{"doubleValue":-0.0}"#, Value::Double(-0.0)),
        (r#"{"doubleValue":"1.5e-3"}"#, Value::Double(0.0015)),
        (r#"{"doubleValue":"-Infinity"}"#, Value::Double(f64::NEG_INFINITY)),
        (r#"{"doubleValue":"Infinity"}"#, Value::Double(f64::INFINITY)),
        (r#"{"bytesValue":"+/8A"}"#, bytes()),
        (r#"{"bytesValue":"-_8A"}"#, bytes()),
        (r#"{"bytesValue":""}"#, Value::Bytes(bytes::Bytes::new())),
        (r#"{"arrayValue":{}}"#, Value::Array(vec![])),
        (r#"{"arrayValue":{"values":[null,{}]}}"#, Value::Array(vec![Value::Null, Value::Null])),
        (r#"{"kvlistValue":{"values":[]}}"#, map(&[])),
        (
            r#"{"kvlistValue":{"values":[{"key":"a","value":{"intValue":1}},{"key":"a"}]}}"#,
            map(&[("a", Value::Int(1)), ("a", Value::Null)]),
        ),
        (r#"{"stringValue":"x","future":[[{"deep":[]}]]}"#, Value::from("x")),
    ];
    for (json, expected) in cases {
        let value = value_of(json);
        assert_eq!(value, expected, "{json}");
        if let (Value::Double(value), Value::Double(expected)) = (value, expected) {
            assert_eq!(value.to_bits(), expected.to_bits(), "{json}: the sign of zero counts");
        }
    }
    assert!(matches!(value_of(r#"{"doubleValue":"NaN"}"#), Value::Double(v) if v.is_nan()));
}

#[test]
fn every_field_is_read_from_lower_camel_case_and_from_snake_case() {
    let camel = r#"{"resourceSpans":[{"schemaUrl":"s1","scopeSpans":[{"schemaUrl":"s2","spans":[{
        "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
        "parentSpanId":"eee19b7ec3c1b173","traceState":"a=1","flags":769,"name":"n",
        "kind":"SPAN_KIND_CONSUMER","startTimeUnixNano":1,"endTimeUnixNano":"2",
        "droppedAttributesCount":3,"droppedEventsCount":4,"droppedLinksCount":5,
        "events":[{"timeUnixNano":6,"name":"e","droppedAttributesCount":7}],
        "links":[{"traceId":"","traceState":"b=2","droppedAttributesCount":8,"flags":257}],
        "status":{"code":"STATUS_CODE_ERROR","message":"m"}}],
        "scope":{"name":"sn","version":"sv","droppedAttributesCount":9}}],
        "resource":{"droppedAttributesCount":10,"attributes":[{"key":"k"}]}}]}"#;
    let mut snake = String::new();
    for (index, part) in camel.split('"').enumerate() {
        snake.push_str(if index == 0 { "" } else { "\"" });
        // The names of enums and what else is in capitals stay as they are.
        let is_name = index % 2 == 1 && part.starts_with(|c: char| c.is_ascii_lowercase());
        for letter in part.chars() {
            if is_name && letter.is_ascii_uppercase() {
                snake.push('_');
                snake.push(letter.to_ascii_lowercase());
            } else {
                snake.push(letter);
            }
        }
    }
    assert!(snake.contains(r#""start_time_unix_nano":1"#), "{snake}");
    let batch = parse_line(camel.as_bytes()).expect("it is valid");
    assert_eq!(parse_line(snake.as_bytes()).as_ref(), Ok(&batch));

    let span = &batch.spans[0];
    assert_eq!(span.trace_id, TraceId(0x5b8e_fff7_9803_8103_d269_b633_813f_c60c));
    assert_eq!(span.parent_span_id, Some(SpanId(0xeee1_9b7e_c3c1_b173)));
    assert_eq!((span.trace_flags, span.parent_is_remote), (1, Some(true)));
    assert_eq!((&*span.trace_state, &*span.name), ("a=1", "n"));
    assert_eq!((span.kind, span.status), (SpanKind::Consumer, StatusCode::Error));
    assert_eq!((span.start_unix_nano, span.end_unix_nano, &*span.status_message), (1, 2, "m"));
    let dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links);
    assert_eq!(dropped, (3, 4, 5));
    let event = &span.events[0];
    assert_eq!((event.time_unix_nano, &*event.name, event.dropped_attributes), (6, "e", 7));
    let link = &span.links[0];
    assert_eq!((link.trace_id, link.span_id), (TraceId(0), SpanId(0)));
    assert_eq!((&*link.trace_state, link.dropped_attributes), ("b=2", 8));
    assert_eq!((link.trace_flags, link.is_remote), (1, Some(false)));
    let scope = &batch.scopes[span.scope];
    assert_eq!((&*scope.name, &*scope.version, &*scope.schema_url), ("sn", "sv", "s2"));
    assert_eq!((scope.dropped_attributes, scope.resource), (9, 0));
    let resource = &batch.resources[0];
    assert_eq!((&*resource.schema_url, resource.dropped_attributes), ("s1", 10));
    assert_eq!(resource.attributes, [("k".to_owned(), Value::Null)]);
}

#[test]
fn absent_null_and_default_fields_read_the_same() {
    let absent = parse_line(span_line("").as_bytes()).expect("it is valid");
    let null = [
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "attributes",
        "status",
        "flags",
        "events",
        "links",
        "traceState",
        "droppedLinksCount",
    ]
    .map(|name| format!(r#""{name}":null"#))
    .join(",");
    assert_eq!(parse_line(span_line(&null).as_bytes()).as_ref(), Ok(&absent));
    let default = r#""parentSpanId":"0000000000000000","name":"","kind":0,"attributes":[],
        "status":{"code":0,"message":""},"flags":0,"droppedLinksCount":"0""#;
    assert_eq!(parse_line(span_line(default).as_bytes()).as_ref(), Ok(&absent));
    assert_eq!(absent.spans[0].kind, SpanKind::Unspecified);
    assert_eq!(absent.spans[0].parent_is_remote, None);
}

#[test]
fn what_is_written_is_minimal() {
    let line =
        span_line(r#""future":1,"status":{},"name":"n","attributes":[{"key":"k","value":null}]"#);
    let batch = parse_line(line.as_bytes()).expect("it is valid");
    let expected = span_line(r#""name":"n","attributes":[{"key":"k","value":{}}]"#) + "\n";
    assert_eq!(String::from_utf8(written(&batch)), Ok(expected));
    assert_eq!(written(&SpanBatch::default()), b"{}\n");
}

#[test]
fn a_field_given_twice_is_merged_as_protobuf_merges_it() {
    let line =
        span_line(r#""name":"a","events":[{"name":"1"}],"name":"b","events":[{"name":"2"}]"#);
    let span = parse_line(line.as_bytes()).expect("it is valid").spans.remove(0);
    assert_eq!((&*span.name, span.events.len()), ("b", 2));
}

#[test]
fn writing_a_batch_with_a_dangling_index_is_an_error() {
    let mut batch = parse_line(span_line("").as_bytes()).expect("it is valid");
    batch.spans[0].scope = 1;
    let mut out = Vec::new();
    let error = write_line(&batch, &mut out).expect_err("there is no scope 1");
    assert_eq!(
        (error.kind(), &*error.to_string()),
        (std::io::ErrorKind::InvalidInput, "span 0 refers to scope 1, of 1",)
    );
    assert_eq!(out, b"", "nothing is written");
    batch.spans[0].scope = 0;
    batch.scopes[0].resource = 2;
    let error = write_line(&batch, &mut out).expect_err("there is no resource 2");
    assert_eq!(error.to_string(), "scope 0 refers to resource 2, of 1");
}

/// An array nested to `levels`, as JSON.
fn nested(levels: u32) -> String {
    let opening = r#"{"arrayValue":{"values":["#.repeat(levels as usize);
    format!(r#"{opening}{}{}"#, r#"{"boolValue":true}"#, "]}}".repeat(levels as usize))
}

#[test]
fn values_nest_up_to_the_limit_and_no_deeper() {
    let mut value = value_of(&nested(VALUE_DEPTH_MAX));
    let mut levels = 0;
    while let Value::Array(mut items) = value {
        value = items.remove(0);
        levels += 1;
    }
    assert_eq!((levels, value), (VALUE_DEPTH_MAX, Value::Bool(true)));
    for levels in [VALUE_DEPTH_MAX + 1, 100_000] {
        let error = parse_line(value_line(&nested(levels)).as_bytes()).expect_err("it is too deep");
        assert_eq!(error.problem, "the value nests too deep");
        assert_eq!(error.expected, "at most 100 levels");
        assert!(error.path.starts_with(
            "resourceSpans[0].scopeSpans[0].spans[0].attributes[0].value.arrayValue.values[0]"
        ));
    }
    // In a field that is passed over, depth costs nothing.
    let deep = format!(r#""future":{}{}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert!(parse_line(span_line(&deep).as_bytes()).is_ok());
}

#[test]
fn siblings_do_not_add_to_the_depth() {
    let items = vec![r#"{"arrayValue":{"values":[{"kvlistValue":{}}]}}"#; 200].join(",");
    let json = format!(r#"{{"arrayValue":{{"values":[{items}]}}}}"#);
    assert!(matches!(value_of(&json), Value::Array(items) if items.len() == 200));
}

const SPAN: &str = "resourceSpans[0].scopeSpans[0].spans[0]";

#[test]
fn wrong_input_gives_an_error_that_names_place_problem_and_remedy() {
    let time = "ns since the Unix epoch, 0 to 2^64 - 1, as a string or a number";
    let uint32 = "an integer from 0 to 2^32 - 1";
    let int64 = "an integer from -2^63 to 2^63 - 1, as a string or a number";
    let kind =
        "0 to 5, or SPAN_KIND_ and UNSPECIFIED, INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER";
    let status = "0 to 2, or STATUS_CODE_ and UNSET, OK or ERROR";
    let span_id = "16 hexadecimal digits, or an empty string";
    let double = "a number, \"NaN\", \"Infinity\" or \"-Infinity\"";
    let fields = [
        (r#""name":5"#, "name", "found 5", "a string"),
        (r#""name":["x"]"#, "name", "found an array", "a string"),
        (r#""name":{"x":1}"#, "name", "found an object", "a string"),
        (r#""name":true"#, "name", "found true", "a string"),
        (r#""kind":6"#, "kind", "found 6", kind),
        (r#""kind":-1"#, "kind", "found -1", kind),
        (r#""kind":"SERVER""#, "kind", "found \"SERVER\"", kind),
        (r#""parentSpanId":"xyz""#, "parentSpanId", "found \"xyz\"", span_id),
        (
            r#""parentSpanId":"+ee19b7ec3c1b174""#,
            "parentSpanId",
            "found \"+ee19b7ec3c1b174\"",
            span_id,
        ),
        (r#""startTimeUnixNano":-1"#, "startTimeUnixNano", "found -1", time),
        (r#""startTimeUnixNano":1.5"#, "startTimeUnixNano", "found 1.5", time),
        (
            r#""endTimeUnixNano":"18446744073709551616""#,
            "endTimeUnixNano",
            "found \"18446744073709551616\"",
            time,
        ),
        (
            r#""endTimeUnixNano":1e30"#,
            "endTimeUnixNano",
            "found 1000000000000000000000000000000",
            time,
        ),
        (r#""flags":4294967296"#, "flags", "found 4294967296", uint32),
        (r#""droppedEventsCount":"x""#, "droppedEventsCount", "found \"x\"", uint32),
        (r#""status":2"#, "status", "found 2", "an object (Status)"),
        (r#""status":{"code":3}"#, "status.code", "found 3", status),
        (r#""attributes":{}"#, "attributes", "found an object", "an array of objects (KeyValue)"),
        (r#""attributes":[7]"#, "attributes[0]", "found 7", "an object (KeyValue)"),
        (r#""attributes":[[]]"#, "attributes[0]", "found an array", "an object (KeyValue)"),
        (r#""attributes":[{"key":1}]"#, "attributes[0].key", "found 1", "a string"),
        (
            r#""attributes":[{},{"value":"x"}]"#,
            "attributes[1].value",
            "found \"x\"",
            "an object (AnyValue)",
        ),
        (r#""events":[{},{"timeUnixNano":"a"}]"#, "events[1].timeUnixNano", "found \"a\"", time),
        (r#""links":[{"spanId":"1"}]"#, "links[0].spanId", "found \"1\"", span_id),
        (r#""links":"none""#, "links", "found \"none\"", "an array of objects (Link)"),
    ];
    let values = [
        (
            r#"{"intValue":"9223372036854775808"}"#,
            ".intValue",
            "found \"9223372036854775808\"",
            int64,
        ),
        (r#"{"intValue":true}"#, ".intValue", "found true", int64),
        (r#"{"boolValue":"true"}"#, ".boolValue", "found \"true\"", "true or false"),
        (r#"{"doubleValue":"inf"}"#, ".doubleValue", "found \"inf\"", double),
        (r#"{"bytesValue":5}"#, ".bytesValue", "found 5", "a string of base64"),
        (
            r#"{"bytesValue":"a?"}"#,
            ".bytesValue",
            "byte 2 is no base64 digit",
            "base64, padded or not",
        ),
        (
            r#"{"arrayValue":[1]}"#,
            ".arrayValue",
            "found an array",
            "an object (ArrayValue or KeyValueList)",
        ),
        (
            r#"{"kvlistValue":{"values":[{"value":{"intValue":{}}}]}}"#,
            ".kvlistValue.values[0].value.intValue",
            "found an object",
            int64,
        ),
        (
            r#"{"intValue":1,"stringValue":"x"}"#,
            ".stringValue",
            "a second kind of value",
            "one kind of value at a time",
        ),
    ];
    let wholes = [
        ("[]", "", "found an array", "an object (TracesData)"),
        ("null", "", "found null", "an object (TracesData)"),
        ("7", "", "found 7", "an object (TracesData)"),
        (
            r#"{"resourceMetrics":[]}"#,
            "resourceSpans",
            "missing or empty",
            "spans (metrics, logs and other data have none)",
        ),
        (
            r#"{"resourceSpans":[{"resource":[]}]}"#,
            "resourceSpans[0].resource",
            "found an array",
            "an object (Resource)",
        ),
        ("", "", "the JSON ends too early, after 0 bytes", "a whole TracesData object on one line"),
        (
            r#"{"resourceSpans":[{"#,
            "resourceSpans[0]",
            "the JSON ends too early, after 19 bytes",
            "a whole TracesData object on one line",
        ),
        ("{} {}", "", "no JSON at byte 4: trailing characters", "a TracesData object"),
        ("spans", "", "no JSON at byte 1: expected value", "a TracesData object"),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}"#,
            "resourceSpans[0].scopeSpans[0].spans[0].traceId",
            "missing or empty",
            "32 hexadecimal digits, not all zero",
        ),
        (
            r#"{"resourceSpans":[{},{"scopeSpans":[{},{"spans":[{"traceId":"00000000000000000000000000000000"}]}]}]}"#,
            "resourceSpans[1].scopeSpans[1].spans[0].traceId",
            "found \"00000000000000000000000000000000\"",
            "32 hexadecimal digits, not all zero",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":""}]}]}]}"#,
            "resourceSpans[0].scopeSpans[0].spans[0].spanId",
            "found \"\"",
            "16 hexadecimal digits, not all zero",
        ),
        (
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c"}]}]}]}"#,
            "resourceSpans[0].scopeSpans[0].spans[0].spanId",
            "missing or empty",
            "16 hexadecimal digits, not all zero",
        ),
    ];
    let fields = fields.map(|(json, path, found, expected)| {
        (span_line(json), format!("{SPAN}.{path}"), found, expected)
    });
    let values = values.map(|(json, path, found, expected)| {
        (value_line(json), format!("{SPAN}.attributes[0].value{path}"), found, expected)
    });
    let wholes = wholes
        .map(|(json, path, found, expected)| (json.to_owned(), path.to_owned(), found, expected));
    for (line, path, found, expected) in fields.into_iter().chain(values).chain(wholes) {
        let error = parse_line(line.as_bytes()).expect_err(&line);
        let dot = if path.is_empty() { "" } else { ": " };
        assert_eq!(error.to_string(), format!("{path}{dot}{found}; expected {expected}"), "{line}");
    }
}

#[test]
fn invalid_utf8_and_control_characters_are_errors_and_stay_out_of_messages() {
    let error =
        parse_line(b"{\"resourceSpans\":[{\"schemaUrl\":\"\xff\"}]}").expect_err("no UTF-8");
    assert!(error.to_string().contains("invalid unicode code point"), "{error}");
    let error =
        parse_line(span_line("\"kind\":\"\\u0001\\u001b\"").as_bytes()).expect_err("no kind");
    assert!(error.problem == r#"found "\u{1}\u{1b}""#, "{error:?}");
}

#[test]
fn the_seeds_of_the_fuzz_target_are_read_or_refused_as_their_names_say() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/otlp_json");
    for (name, is_valid) in [
        ("empty_object", true),
        ("bare_span", true),
        ("whole_span", true),
        ("all_values", true),
        ("snake_case", true),
        ("two_groups", true),
        ("unknown_fields", true),
        ("nested", true),
        ("metrics", false),
        ("cut_off", false),
        ("wrong_types", false),
    ] {
        let seed = std::fs::read(corpus.join(name)).expect("the seed can be read");
        assert_eq!(parse_line(&seed).is_ok(), is_valid, "{name}: {:?}", parse_line(&seed));
    }
}
