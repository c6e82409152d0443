//! Recorded runs of agents, through the engine to OpenAI's trace ingest: every span once, one object a trace, and what was
//! recorded in the fields where it belongs.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use spanring::Value;
use spanring_cli::input::LineReader;
use spanring_cli::replay::{Pacer, Performer, Recording, Schedule};
use spanring_exporter::model::{SpanBatch, SpanData};
use spanring_exporter::render::timestamp;
use spanring_exporter::{OpenAiOptions, Pipeline};
use spanring_tests::ingest::Ingest;
use spanring_tests::ledger::check_counts;
use spanring_tests::{LONG, settings};

fn recorded() -> Vec<SpanBatch> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/agents.jsonl.zst");
    let mut reader = LineReader::open(&path).expect("the recorded data is there");
    std::iter::from_fn(|| reader.next_batch().expect("the file can be read")).collect()
}

/// The attribute as JSON; strings as they are.
fn plain(span: &SpanData, key: &str) -> Json {
    match span.attributes.iter().find(|(known, _)| known == key) {
        None => Json::Null,
        Some((_, Value::Str(text))) => json!(text),
        Some((_, Value::Int(value))) => json!(value),
        Some((_, Value::Double(value))) => json!(value),
        Some((_, Value::Bool(value))) => json!(value),
        Some((_, other)) => panic!("{key} is {other:?}"),
    }
}

/// The attribute whose text is JSON.
fn parsed(span: &SpanData, key: &str) -> Json {
    match plain(span, key) {
        Json::String(text) => serde_json::from_str(&text).expect("it is JSON"),
        other => other,
    }
}

/// What the recording says, by the kinds that are in it.
fn expected(span: &SpanData) -> Json {
    match plain(span, "openinference.span.kind").as_str() {
        Some("AGENT") => json!({
            "type": "agent",
            "name": plain(span, "agent.name"),
            "handoffs": parsed(span, "agent.handoffs"),
            "tools": parsed(span, "agent.tools"),
            "output_type": plain(span, "agent.output_type"),
        }),
        Some("LLM") => json!({
            "type": "generation",
            "input": parsed(span, "input.value"),
            "output": parsed(span, "output.value"),
            "model": plain(span, "gen_ai.request.model"),
            "model_config": {"temperature": plain(span, "gen_ai.request.temperature")},
            "usage": {
                "input_tokens": plain(span, "gen_ai.usage.input_tokens"),
                "output_tokens": plain(span, "gen_ai.usage.output_tokens"),
            },
        }),
        Some("TOOL") => json!({
            "type": "function",
            "name": plain(span, "tool.name"),
            "input": plain(span, "input.value"),
            "output": plain(span, "output.value"),
            "mcp_data": null,
        }),
        Some("GUARDRAIL") => json!({
            "type": "guardrail",
            "name": plain(span, "guardrail.name"),
            "triggered": plain(span, "guardrail.triggered"),
        }),
        _ if plain(span, "custom.data") != Json::Null => json!({
            "type": "custom",
            "name": plain(span, "custom.name"),
            "data": parsed(span, "custom.data"),
        }),
        _ => {
            let all = span.attributes.iter().map(|(key, _)| (key.clone(), plain(span, key)));
            json!({"type": "custom", "name": span.name, "data": all.collect::<serde_json::Map<_, _>>()})
        }
    }
}

fn time(unix_nano: u64) -> String {
    timestamp(unix_nano).replace("000Z", "+00:00")
}

#[test]
fn recorded_agents_arrive_as_they_were_recorded() {
    let batches = recorded();
    let spans: Vec<&SpanData> = batches.iter().flat_map(|batch| &batch.spans).collect();
    let ids: HashMap<_, _> =
        spans.iter().map(|span| ((span.trace_id, span.span_id), *span)).collect();
    // A span's own times and its parent's tell it from others; IDs are new.
    let mut wanted: Vec<String> = spans
        .iter()
        .map(|span| {
            let parent = span.parent_span_id.and_then(|id| ids.get(&(span.trace_id, id)));
            let error = match &*span.status_message {
                "" => Json::Null,
                message => json!({"message": message, "data": null}),
            };
            json!([
                time(span.start_unix_nano),
                time(span.end_unix_nano),
                parent.map(|parent| time(parent.start_unix_nano)),
                error,
                expected(span)
            ])
            .to_string()
        })
        .collect();

    let ingest = Ingest::start();
    let mut options = OpenAiOptions::new("sk-test");
    options.base_url = ingest.base_url();
    options.timeout = LONG;
    let settings = settings().max_spans(1000).batch_size(100).max_batch_wait(LONG * 10).build();
    let pipeline = Pipeline::builder().settings(settings).openai(options).build().unwrap();
    let mut recording = Recording::default();
    batches.iter().for_each(|batch| recording.add(batch.clone()).unwrap());
    let schedule = Schedule::new(&recording, 1);
    {
        let _attached = pipeline.attach();
        let pacer = Pacer::new(&pipeline, schedule.parts.len());
        for part in &schedule.parts {
            let performer = Performer { recording: &recording, pacer: Some(&pacer), clock: None };
            performer.perform(part, || {});
        }
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(stats.sinks[0].delivered, spans.len() as u64);

    let sent = ingest.spans();
    let starts: HashMap<_, _> =
        sent.iter().map(|span| (span["id"].clone(), span["started_at"].clone())).collect();
    assert_eq!(starts.len(), spans.len(), "a span came twice");
    let mut got: Vec<String> = sent
        .iter()
        .map(|span| {
            let parent = starts.get(&span["parent_id"]);
            let [start, end] = [&span["started_at"], &span["ended_at"]];
            json!([start, end, parent, &span["error"], &span["span_data"]]).to_string()
        })
        .collect();
    wanted.sort();
    got.sort();
    for (got, wanted) in got.iter().zip(&wanted) {
        assert_eq!(got, wanted);
    }
    assert_eq!(got.len(), wanted.len());

    ingest.check_order();
    let traces = ingest.traces();
    let used: std::collections::HashSet<_> = sent.iter().map(|span| &span["trace_id"]).collect();
    assert!(traces.len() == used.len() && traces.values().all(|times| *times == 1));
    let names: std::collections::HashSet<_> = ingest
        .objects()
        .iter()
        .filter(|object| object["object"] == "trace")
        .map(|object| object["workflow_name"].to_string())
        .collect();
    let known = ["\"custom task\"", "\"support-agents\""];
    assert!(names.iter().all(|name| known.contains(&&**name)), "{names:?}");
}
