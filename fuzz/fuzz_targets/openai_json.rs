//! Any text in the attributes that hold JSON: the body is JSON, and within its bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::Value;
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};
use spanring_exporter::openai::Writer;

const KINDS: [&str; 5] = ["generation", "function", "agent", "custom", "trace"];
const KEYS: [&str; 6] = [
    "input.value",
    "output.value",
    "custom.data",
    "agent.tools",
    "llm.invocation_parameters",
    "trace.metadata",
];

fuzz_target!(|text: &str| {
    let span = |kind: &str| {
        let kind = ("openai.span.type".to_owned(), Value::from(kind));
        let texts = KEYS.iter().map(|key| ((*key).to_owned(), Value::from(text)));
        SpanData { attributes: texts.chain([kind]).collect(), ..SpanData::default() }
    };
    let batch = SpanBatch {
        resources: vec![ResourceData::default()],
        scopes: vec![ScopeData::default()],
        spans: KINDS.map(span).into(),
    };
    let body = Writer::new().write_batch(&batch, 0..KINDS.len(), usize::MAX).expect("no bound");
    let parsed: serde_json::Value = serde_json::from_slice(&body.json).expect("a body is JSON");
    let objects = parsed["data"].as_array().expect("data is an array");
    assert_eq!(objects.len(), KINDS.len());
    for object in objects {
        for field in ["input", "output"] {
            assert!(object["span_data"][field].to_string().len() <= 100_000);
        }
    }
});
