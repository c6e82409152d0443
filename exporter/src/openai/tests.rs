//! What becomes of attributes, and that any attributes give JSON; serde_json is the oracle.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Oracle, json};
use spanring::{SpanId, StatusCode, TraceId, Value};

use super::json::{DEPTH_MAX, Json};
use super::{Body, Writer};
use crate::model::{EventData, ResourceData, ScopeData, SpanBatch, SpanData};

const BYTES_MAX: usize = 1 << 30;

fn attributes<const N: usize>(list: [(&str, Value); N]) -> Vec<(String, Value)> {
    list.map(|(key, value)| (key.to_owned(), value)).into()
}

/// A span of trace 1 with that ID.
fn span<const N: usize>(id: u64, list: [(&str, Value); N]) -> SpanData {
    SpanData {
        trace_id: TraceId(1),
        span_id: SpanId(id),
        name: "span".to_owned(),
        start_unix_nano: 1_700_000_000_123_456_789,
        end_unix_nano: 1_700_000_001_000_000_999,
        attributes: attributes(list),
        ..SpanData::default()
    }
}

fn batch_of(service: &str, spans: Vec<SpanData>) -> SpanBatch {
    let resource = ResourceData {
        attributes: attributes([("service.name", service.into())]),
        ..Default::default()
    };
    SpanBatch { resources: vec![resource], scopes: vec![ScopeData::default()], spans }
}

fn objects(body: &Body) -> Vec<Oracle> {
    let mut body: Oracle = serde_json::from_slice(&body.json).expect("a body is JSON");
    serde_json::from_value(body["data"].take()).expect("data is an array")
}

fn written(spans: Vec<SpanData>) -> Vec<Oracle> {
    let batch = batch_of("shop", spans);
    objects(&Writer::new().write_batch(&batch, 0..batch.spans.len(), BYTES_MAX).unwrap())
}

/// The data of a span with these attributes.
fn data<const N: usize>(list: [(&str, Value); N]) -> Oracle {
    written(vec![span(2, list)])[1]["span_data"].take()
}

fn list(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|text| Value::from(*text)).collect())
}

#[test]
fn a_span_has_the_ids_times_and_error_of_its_own() {
    let mut child = span(3, []);
    child.parent_span_id = Some(SpanId(2));
    child.status = StatusCode::Error;
    child.events = ["first", "last"]
        .map(|message| EventData {
            name: "exception".to_owned(),
            attributes: attributes([("exception.message", message.into())]),
            ..EventData::default()
        })
        .into();
    let mut failed = span(4, []);
    failed.status = StatusCode::Error;
    let mut named = failed.clone();
    named.span_id = SpanId(5);
    named.status_message = "it broke".to_owned();
    let objects = written(vec![child, failed, named]);
    assert_eq!(
        objects[1],
        json!({
            "object": "trace.span",
            "id": "span_000000000000000300000000",
            "trace_id": "trace_00000000000000000000000000000001",
            "parent_id": "span_000000000000000200000000",
            "started_at": "2023-11-14T22:13:20.123456+00:00",
            "ended_at": "2023-11-14T22:13:21.000000+00:00",
            "span_data": {"type": "custom", "name": "span", "data": {}},
            "error": {"message": "last", "data": {"exception.message": "last"}},
        })
    );
    assert_eq!(objects[2]["error"], json!({"message": "error", "data": null}));
    assert_eq!(objects[3]["error"]["message"], "it broke");
}

#[test]
fn original_ids_are_kept_and_hold_for_children_that_do_not_know_them() {
    let own =
        span(2, [("openai.span_id", "span_own".into()), ("openai.trace_id", "trace_own".into())]);
    let mut child = span(3, []);
    child.parent_span_id = Some(SpanId(2));
    let mut told = span(4, [("openai.parent_id", "span_other".into())]);
    told.parent_span_id = Some(SpanId(2));
    let mut root = span(5, [("openai.parent_id", "".into())]);
    root.parent_span_id = Some(SpanId(2));
    let objects = written(vec![own, child, told, root]);
    assert!(objects[1..].iter().all(|object| object["trace_id"] == "trace_own"));
    assert_eq!(objects[0]["id"], "trace_own");
    assert_eq!(objects[1]["id"], "span_own");
    assert_eq!(objects[1]["span_data"]["data"], json!({}), "IDs are no data");
    let parents: Vec<_> = objects[1..].iter().map(|object| object["parent_id"].clone()).collect();
    assert_eq!(parents, [json!(null), json!("span_own"), json!("span_other"), json!(null)]);
}

#[test]
fn spans_that_name_other_traces_are_in_those() {
    let named = |id, trace: &str| span(id, [("openai.trace_id", trace.into())]);
    let objects = written(vec![named(2, "trace_a"), named(3, "trace_b"), named(4, "trace_a")]);
    let ids: Vec<_> = objects.iter().map(|object| object["id"].as_str().unwrap()).collect();
    assert_eq!((objects.len(), ids[0], ids[2]), (5, "trace_a", "trace_b"));
    let traces: Vec<_> = objects.iter().map(|object| &object["trace_id"]).collect();
    assert_eq!(
        (traces[1], traces[3], traces[4]),
        (&json!("trace_a"), &json!("trace_b"), &json!("trace_a"))
    );
}

#[test]
fn a_trace_is_named_by_what_is_known_of_it() {
    let name = |service: &str, spans: Vec<SpanData>| {
        let batch = batch_of(service, spans);
        // Only the last span is asked for; what the others say counts as well.
        let range = batch.spans.len() - 1..batch.spans.len();
        objects(&Writer::new().write_batch(&batch, range, BYTES_MAX).unwrap())[0].take()
    };
    let mut child = span(3, []);
    child.parent_span_id = Some(SpanId(9));
    let mut root = span(2, []);
    root.name = "root".to_owned();
    let mut far = child.clone();
    far.parent_is_remote = Some(true);
    far.name = "far".to_owned();
    let said = span(4, [("trace.workflow_name", "said".into()), ("session.id", "s".into())]);
    let trace = span(
        5,
        [
            ("openai.span.type", "trace".into()),
            ("trace.workflow_name", "trace's".into()),
            ("trace.group_id", "g".into()),
            ("trace.metadata", Value::Map(attributes([("n", 1.into())]))),
        ],
    );
    let mut nameless = trace.clone();
    nameless.attributes.truncate(1);
    nameless.name = "own name".to_owned();
    let only = |child: &SpanData| vec![child.clone()];
    assert_eq!(name("unknown_service:x", only(&child))["workflow_name"], "Agent workflow");
    assert_eq!(name("shop", only(&child))["workflow_name"], "shop");
    assert_eq!(name("shop", vec![root.clone(), child.clone()])["workflow_name"], "root");
    assert_eq!(name("shop", vec![far, child.clone()])["workflow_name"], "far");
    let named = name("shop", vec![root.clone(), said.clone(), child.clone()]);
    assert_eq!((&named["workflow_name"], &named["group_id"]), (&json!("said"), &json!("s")));
    for spans in
        [vec![said.clone(), trace.clone(), child.clone()], vec![trace, said, child.clone()]]
    {
        let named = name("shop", spans);
        assert_eq!((&named["workflow_name"], &named["group_id"]), (&json!("trace's"), &json!("g")));
        assert_eq!(named["metadata"], json!({"n": 1}));
    }
    assert_eq!(name("shop", vec![root, nameless, child])["workflow_name"], "own name");
}

#[test]
fn a_trace_has_one_object_until_it_is_forgotten() {
    let batch = batch_of("shop", vec![span(2, [])]);
    let mut writer = Writer::new();
    let count = |writer: &Writer, batch: &SpanBatch| {
        let body = writer.write_batch(batch, 0..batch.spans.len(), BYTES_MAX).unwrap();
        (body.objects, body.traces)
    };
    // What was not accepted comes again.
    assert_eq!(count(&writer, &batch).0, 2);
    let (objects, traces) = count(&writer, &batch);
    assert_eq!(objects, 2);
    writer.accepted(traces);
    assert_eq!(count(&writer, &batch).0, 1);
    let others = (2..super::TRACES_MAX as u128 + 2)
        .map(|id| SpanData { trace_id: TraceId(id), ..span(2, []) });
    let others = batch_of("shop", others.collect());
    let (_, traces) = count(&writer, &others);
    writer.accepted(traces);
    assert_eq!(writer.sent.len(), super::TRACES_MAX);
    assert_eq!(count(&writer, &batch).0, 2);
}

#[test]
fn a_body_keeps_to_its_bound() {
    let batch = batch_of("shop", vec![span(2, []), span(3, [])]);
    let whole = Writer::new().write_batch(&batch, 0..2, BYTES_MAX).unwrap().json.len();
    assert!(Writer::new().write_batch(&batch, 0..2, whole).is_some());
    assert!(Writer::new().write_batch(&batch, 0..2, whole - 1).is_none());
}

#[test]
fn what_a_span_is_follows_from_the_first_attribute_that_says_it() {
    let is = |said: &[(&str, &str)]| {
        let mut one = span(2, []);
        one.attributes =
            said.iter().map(|(key, text)| ((*key).to_owned(), (*text).into())).collect();
        written(vec![one])[1]["span_data"]["type"].take()
    };
    for (operation, kind) in [
        ("chat", "generation"),
        ("text_completion", "generation"),
        ("generate_content", "generation"),
        ("invoke_agent", "agent"),
        ("create_agent", "agent"),
        ("execute_tool", "function"),
        ("embeddings", "custom"),
    ] {
        assert_eq!(is(&[("gen_ai.operation.name", operation)]), kind);
    }
    for (kind, expected) in [
        ("AGENT", "agent"),
        ("LLM", "generation"),
        ("TOOL", "function"),
        ("GUARDRAIL", "guardrail"),
        ("CHAIN", "custom"),
    ] {
        assert_eq!(is(&[("openinference.span.kind", kind)]), expected);
        assert_eq!(
            is(&[("openinference.span.kind", kind), ("gen_ai.operation.name", "chat")]),
            "generation"
        );
        assert_eq!(
            is(&[("openinference.span.kind", kind), ("openai.span.type", "speech")]),
            "speech"
        );
        assert_eq!(is(&[("openinference.span.kind", kind), ("openai.span.type", "odd")]), expected);
    }
    assert_eq!(is(&[]), "custom");
}

#[test]
fn generations() {
    let of = |list: Vec<(&str, Value)>| {
        let mut one = span(2, [("openai.span.type", "generation".into())]);
        one.attributes.extend(list.into_iter().map(|(key, value)| (key.to_owned(), value)));
        written(vec![one])[1]["span_data"].take()
    };
    let none = json!({"type": "generation", "input": null, "output": null, "model": null,
                      "model_config": null, "usage": null});
    assert_eq!(of(vec![]), none, "one without usage is sent, too");
    let full = of(vec![
        ("gen_ai.input.messages", r#" [{"role":"user"}]"#.into()),
        ("output.value", "no JSON: [".into()),
        ("gen_ai.response.model", "later".into()),
        ("gen_ai.request.model", "model".into()),
        ("gen_ai.request.temperature", Value::Double(0.5)),
        ("gen_ai.request.max_tokens", Value::Int(9)),
        ("gen_ai.usage.output_tokens", Value::Int(2)),
        ("gen_ai.usage.input_tokens", Value::Double(1.5)),
        ("gen_ai.usage.cost", Value::Null),
        ("gen_ai.usage.total_tokens", Value::Int(3)),
        ("gen_ai.usage.details", r#"{"cached":1}"#.into()),
    ]);
    assert_eq!(
        full,
        json!({
            "type": "generation",
            "input": [{"role": "user"}],
            "output": [{"role": "assistant", "content": "no JSON: ["}],
            "model": "model",
            "model_config": {"temperature": 0.5, "max_tokens": 9},
            "usage": {"input_tokens": 1.5, "output_tokens": 2, "details": {"cached": 1, "total_tokens": 3}},
        })
    );
    for bad in ["2".into(), Value::Double(f64::NAN), Value::Bool(true), Value::Null] {
        let half = of(vec![
            ("gen_ai.usage.input_tokens", Value::Int(1)),
            ("gen_ai.usage.output_tokens", bad),
        ]);
        assert_eq!(half["usage"], json!(null));
    }
    // As a tree it would take a gigabyte.
    let numbers = format!("[{}0]", "0,".repeat(200_000));
    let many = of(vec![("input.value", numbers.into())]);
    let [message] = &*many["input"].as_array().expect("messages").clone() else { panic!("{many}") };
    assert_eq!(message["role"], "user");
    assert!(
        message["content"].as_str().is_some_and(|text| text.starts_with("[0,0,")),
        "it is text"
    );
    let config = of(vec![("llm.invocation_parameters", "odd".into())]);
    assert_eq!(config["model_config"], json!({"value": "odd"}), "it must be an object");
    // A number or a word in quotes would be a text that somebody typed.
    for text in ["42", "\"hi\"", "true", "", "[1] see there"] {
        let message = json!([{"role": "user", "content": text}]);
        assert_eq!(of(vec![("input.value", text.into())])["input"], message);
    }
}

#[test]
fn reasoning_is_left_out_of_generations_alone() {
    let messages = r#"[{"role":"assistant","reasoning":"r","thinking":"t","content":[{"type":"thinking"},{"type":"text"}]},
        {"type":"reasoning"},{"role":"user","reasoning":"kept"}]"#;
    let kind =
        |kind: &str| data([("openai.span.type", kind.into()), ("input.value", messages.into())]);
    assert_eq!(
        kind("generation")["input"],
        json!([{"role": "assistant", "content": [{"type": "text"}]}, {"role": "user", "reasoning": "kept"}])
    );
    assert_eq!(kind("function")["input"], messages);
}

#[test]
fn the_other_kinds() {
    let kind = |kind: &str| ("openai.span.type", Value::from(kind));
    assert_eq!(
        data([
            kind("agent"),
            ("agent.handoffs", list(&["a", "b"])),
            ("agent.tools", "[\"t\",1]".into())
        ]),
        json!({"type": "agent", "name": "span", "handoffs": ["a", "b"], "tools": ["t", "1"], "output_type": null})
    );
    assert_eq!(data([kind("agent"), ("agent.tools", "search".into())])["tools"], json!(["search"]));
    let arguments = Value::Map(attributes([("q", 1.into())]));
    assert_eq!(
        data([
            kind("function"),
            ("tool.name", "t".into()),
            ("gen_ai.tool.call.arguments", arguments)
        ]),
        json!({"type": "function", "name": "t", "input": "{\"q\":1}", "output": null, "mcp_data": null})
    );
    assert_eq!(
        data([kind("handoff"), ("handoff.from_agent", "a".into())]),
        json!({"type": "handoff", "from_agent": "a", "to_agent": null})
    );
    assert_eq!(
        data([kind("guardrail"), ("guardrail.triggered", true.into())]),
        json!({"type": "guardrail", "name": "span", "triggered": true})
    );
    assert_eq!(
        data([
            kind("response"),
            ("gen_ai.usage.input_tokens", 1.into()),
            ("gen_ai.response.id", "r".into())
        ]),
        json!({"type": "response", "response_id": "r"})
    );
    assert_eq!(
        data([kind("mcp_tools"), ("mcp.result", list(&["a"]))]),
        json!({"type": "mcp_tools", "server": null, "result": ["a"]})
    );
    assert_eq!(data([kind("speech_group")]), json!({"type": "speech_group", "input": null}));
    assert_eq!(
        data([kind("speech"), ("output.value", "AAAA".into()), ("llm.model_name", "m".into())]),
        json!({"type": "speech", "input": null, "output": {"data": "AAAA", "format": "pcm"}, "model": "m",
               "model_config": null, "first_content_at": null})
    );
    assert_eq!(
        data([kind("transcription"), ("transcription.input_format", "wav".into())]),
        json!({"type": "transcription", "input": {"data": "", "format": "wav"}, "output": null, "model": null,
               "model_config": null})
    );
    assert_eq!(
        data([kind("custom"), ("custom.name", "n".into()), ("a", 1.into()), ("b", Value::Null)]),
        json!({"type": "custom", "name": "n", "data": {"a": 1, "b": null}})
    );
    assert_eq!(data([("custom.data", "odd".into())])["data"], json!({"value": "odd"}));
    assert_eq!(
        data([kind("task"), ("custom.data", "{\"usage\":{}}".into())]),
        json!({"type": "custom", "name": "task", "data": {"sdk_span_type": "task", "name": "span", "usage": {}}})
    );
    assert_eq!(
        data([kind("turn"), ("turn", 3.into())])["data"],
        json!({"sdk_span_type": "turn", "turn": 3})
    );
}

#[test]
fn inputs_and_outputs_are_cut_and_nothing_else() {
    let long = || Value::from("x".repeat(200_000));
    for kind in ["generation", "function", "speech", "transcription"] {
        let kind = ("openai.span.type", Value::from(kind));
        let data = data([kind, ("input.value", long()), ("output.value", long())]);
        for field in ["input", "output"] {
            let text = data[field].to_string();
            assert!(text.len() <= super::cut::FIELD_BYTES_MAX, "{}", text.len());
            assert!(text.contains("... [truncated]"));
        }
    }
    assert_eq!(
        data([("custom.data", long())])["data"]["value"].as_str().map(str::len),
        Some(200_000)
    );
}

#[test]
fn what_json_has_not_becomes_text_or_null() {
    let data = data([
        ("nan", Value::Double(f64::NAN)),
        ("inf", Value::Double(f64::INFINITY)),
        ("-inf", Value::Double(f64::NEG_INFINITY)),
        ("bytes", Value::Bytes(Bytes::from_static(b"\xff\x00f"))),
        ("\u{0}\"key", "\u{1f}\u{2028}\\".into()),
    ]);
    assert_eq!(
        data["data"],
        json!({"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity", "bytes": "/wBm", "\u{0}\"key": "\u{1f}\u{2028}\\"})
    );
}

#[test]
fn nesting_is_bounded() {
    let mut value = Value::Int(1);
    for _ in 0..DEPTH_MAX + 5 {
        value = Value::Array(vec![value]);
    }
    let written = data([("deep", value)])["data"]["deep"].to_string();
    let bound = DEPTH_MAX as usize;
    assert_eq!(written, format!("{}null{}", "[".repeat(bound), "]".repeat(bound)));
    let text = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse(&text(bound)).is_some());
    assert!(Json::parse(&text(bound + 1)).is_none());
    assert!(Json::parse(&text(1_000_000)).is_none());
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![any::<String>(), "[\\[\\]{}\":,0-9a-z\\\\ \n]{0,40}", ".{0,20}\\PC"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        text.prop_map(Value::Str),
        any_json_text().prop_map(Value::Str),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(Value::Map),
        ]
    })
}

fn any_json_text() -> impl Strategy<Value = String> {
    any_oracle().prop_map(|value| value.to_string())
}

fn any_oracle() -> impl Strategy<Value = Oracle> {
    let leaf = prop_oneof![
        Just(Oracle::Null),
        any::<bool>().prop_map(Oracle::from),
        any::<i64>().prop_map(Oracle::from),
        any::<u64>().prop_map(Oracle::from),
        any::<f64>().prop_map(Oracle::from),
        any::<String>().prop_map(Oracle::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Oracle::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Oracle::Object(map.into_iter().collect())),
        ]
    })
}

/// What a value must be once it is written and read again; the last of keys that are the same counts.
fn expected(value: &Value) -> Oracle {
    match value {
        Value::Null => Oracle::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) if value.is_finite() => json!(value),
        Value::Double(value) if value.is_nan() => json!("NaN"),
        Value::Double(value) => json!(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Str(text) => json!(text),
        Value::Bytes(bytes) => json!(crate::render::base64(bytes)),
        Value::Array(values) => values.iter().map(expected).collect(),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), expected(value))).collect()
        }
    }
}

const KEYS: &[&str] = &[
    "input.value",
    "output.value",
    "gen_ai.input.messages",
    "custom.data",
    "agent.tools",
    "mcp.data",
    "mcp.result",
    "trace.metadata",
    "trace.workflow_name",
    "session.id",
    "llm.invocation_parameters",
    "gen_ai.request.model",
    "gen_ai.request.x",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.details",
    "openai.trace_id",
    "openai.span_id",
    "openai.parent_id",
    "guardrail.triggered",
];

proptest! {
    #[test]
    fn any_attributes_give_json_and_those_of_a_custom_span_come_back_equal(
        list in prop::collection::vec((any::<String>(), any_value()), 0..8),
        name in any::<String>(),
    ) {
        let mut one = span(2, [("openai.span.type", "custom".into())]);
        let known = |key: &str| key.starts_with("openai.") || key.starts_with("custom.");
        let list: Vec<_> = list.into_iter().filter(|(key, _)| !known(key)).collect();
        one.attributes.extend(list.clone());
        one.name.clone_from(&name);
        let objects = written(vec![one]);
        prop_assert_eq!(&objects[1]["span_data"]["data"], &expected(&Value::Map(list)));
        prop_assert_eq!(&objects[1]["span_data"]["name"], &json!(name));
    }

    #[test]
    fn any_attributes_of_any_kind_give_json(
        kind in prop::sample::select(vec![
            "agent", "generation", "function", "handoff", "guardrail", "response", "mcp_tools", "speech_group",
            "speech", "transcription", "custom", "task", "turn", "trace",
        ]),
        list in prop::collection::vec((prop::sample::select(KEYS), any_value()), 0..10),
    ) {
        let mut one = span(2, [("openai.span.type", kind.into())]);
        one.attributes.extend(list.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let objects = written(vec![one, span(3, [])]);
        prop_assert_eq!(objects.len(), if kind == "trace" { 2 } else { 3 });
    }

    #[test]
    fn json_text_is_read_as_it_is(value in any_oracle()) {
        let text = value.to_string();
        let parsed = Json::parse(&text);
        prop_assert_eq!(parsed.is_some(), value.is_array() || value.is_object());
        if let Some(parsed) = parsed {
            let written = parsed.to_string();
            prop_assert_eq!(written.len(), parsed.len());
            prop_assert_eq!(serde_json::from_str::<Oracle>(&written).unwrap(), value);
        }
    }

    #[test]
    fn any_text_is_json_or_stays_text(text in "[\\[{][\\[\\]{}\":,0-9a-z\\\\ \n.eE+-]{0,60}") {
        let is_json = serde_json::from_str::<Oracle>(&text).is_ok();
        prop_assert_eq!(Json::parse(&text).is_some(), is_json);
    }
}
