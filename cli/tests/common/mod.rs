//! What several tests of the command share: the recorded data, and batches made up at random.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use spanring::{SpanId, SpanKind, StatusCode, TraceId, Value};
use spanring_cli::input::LineReader;
use spanring_cli::otlp_json::write_line;
use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

/// The recorded data's files of these names.
pub(crate) fn data_files(names: &[&str]) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let path = |name: &&str| directory.join(format!("{name}.jsonl.zst"));
    let paths: Vec<_> = names.iter().map(path).collect();
    for path in &paths {
        assert!(path.is_file(), "the recorded data is missing: there is no {}", path.display());
    }
    paths
}

/// The command, with an environment that sets nothing of ours.
pub(crate) fn spanring() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spanring"));
    for (name, _) in std::env::vars_os() {
        let known = ["SPANRING_", "OTEL_", "RAAF_", "OPENAI_"];
        if known.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    spanring().args(arguments).output().expect("the command can be run")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the command printed, as JSON.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    let said = stderr(output);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The spans that `cat` prints of `path`, which must be fine.
pub(crate) fn read_back(path: &Path) -> Vec<SpanBatch> {
    let output = run(&["cat", "--format", "otlp-json", text(path)]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let mut reader = LineReader::new("cat", Cursor::new(output.stdout)).expect("it can be read");
    std::iter::from_fn(|| reader.next_batch().expect("it is OTLP/JSON")).collect()
}

/// The spans of a file of lines.
pub(crate) fn read_lines(path: &Path) -> Vec<SpanBatch> {
    let mut reader = LineReader::open(path).expect("the file can be opened");
    std::iter::from_fn(|| reader.next_batch().expect("the file can be read")).collect()
}

/// Writes `batches` as a file of OTLP/JSON lines.
pub(crate) fn write_lines(path: &Path, batches: &[SpanBatch]) {
    let mut file = BufWriter::new(File::create(path).expect("the file can be created"));
    batches.iter().for_each(|batch| write_line(batch, &mut file).expect("it can be written"));
    file.flush().expect("it can be written");
}

/// The batch as OTLP groups it: scopes by resource, spans by scope.
pub(crate) fn regrouped(batch: &SpanBatch) -> SpanBatch {
    let mut scopes: Vec<_> = batch.scopes.iter().cloned().enumerate().collect();
    scopes.sort_by_key(|(_, scope)| scope.resource);
    let place = |old: usize| scopes.iter().position(|(index, _)| *index == old).expect("it exists");
    let mut spans = batch.spans.clone();
    spans.iter_mut().for_each(|span| span.scope = place(span.scope));
    spans.sort_by_key(|span| span.scope);
    let scopes = scopes.iter().map(|(_, scope)| scope.clone()).collect();
    SpanBatch { resources: batch.resources.clone(), scopes, spans }
}

/// Equality in which NaN equals NaN, and zero does not equal minus zero.
pub(crate) fn same(a: &SpanBatch, b: &SpanBatch) -> bool {
    // Debug shows every field, the sign of zero, and NaN as a word.
    format!("{a:?}") == format!("{b:?}")
}

pub(crate) fn arbitrary_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Double),
        prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(1e300), Just(5e-324)]
            .prop_map(Value::Double),
        any::<String>().prop_map(Value::Str),
        any::<Vec<u8>>().prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((any::<String>(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

pub(crate) fn arbitrary_attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    vec((any::<String>(), arbitrary_value()), 0..4)
}

fn arbitrary_event() -> impl Strategy<Value = EventData> {
    (any::<u64>(), any::<String>(), arbitrary_attributes(), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes)| EventData {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes,
        },
    )
}

fn arbitrary_link() -> impl Strategy<Value = LinkData> {
    let ids = (any::<u128>().prop_map(TraceId), any::<u64>().prop_map(SpanId));
    let ids = prop_oneof![4 => ids, 1 => Just((TraceId(0), SpanId(0)))];
    let rest = (any::<String>(), any::<u8>(), any::<Option<bool>>(), any::<u32>());
    (ids, rest, arbitrary_attributes()).prop_map(
        |(
            (trace_id, span_id),
            (trace_state, trace_flags, is_remote, dropped_attributes),
            attributes,
        )| LinkData {
            trace_id,
            span_id,
            trace_state,
            trace_flags,
            is_remote,
            attributes,
            dropped_attributes,
        },
    )
}

pub(crate) fn arbitrary_span(scopes: usize) -> impl Strategy<Value = SpanData> {
    let ids = (1u128.., 1u64.., prop::option::of(1u64..), any::<Option<bool>>(), any::<u8>());
    let texts = (any::<String>(), any::<String>(), any::<String>());
    let numbers = (any::<u64>(), any::<u64>(), 0u8..6, 0u8..3);
    let dropped = (any::<u32>(), any::<u32>(), any::<u32>());
    let lists = (arbitrary_attributes(), vec(arbitrary_event(), 0..3), vec(arbitrary_link(), 0..3));
    (0..scopes, ids, texts, numbers, dropped, lists).prop_map(
        |(scope, ids, texts, numbers, dropped, lists)| SpanData {
            scope,
            trace_id: TraceId(ids.0),
            span_id: SpanId(ids.1),
            parent_span_id: ids.2.map(SpanId),
            parent_is_remote: ids.3,
            trace_flags: ids.4,
            trace_state: texts.0,
            name: texts.1,
            kind: SpanKind::from_number(numbers.2).expect("below six"),
            start_unix_nano: numbers.0,
            end_unix_nano: numbers.1,
            attributes: lists.0,
            dropped_attributes: dropped.0,
            events: lists.1,
            dropped_events: dropped.1,
            links: lists.2,
            dropped_links: dropped.2,
            status: StatusCode::from_number(numbers.3).expect("below three"),
            status_message: texts.2,
        },
    )
}

fn arbitrary_resource() -> impl Strategy<Value = ResourceData> {
    (arbitrary_attributes(), any::<u32>(), any::<String>()).prop_map(
        |(attributes, dropped_attributes, schema_url)| ResourceData {
            attributes,
            dropped_attributes,
            schema_url,
        },
    )
}

fn arbitrary_scope(resources: usize) -> impl Strategy<Value = ScopeData> {
    let texts = (any::<String>(), any::<String>(), any::<String>());
    (0..resources, texts, arbitrary_attributes(), any::<u32>()).prop_map(
        |(resource, texts, attributes, dropped_attributes)| ScopeData {
            resource,
            name: texts.0,
            version: texts.1,
            attributes,
            dropped_attributes,
            schema_url: texts.2,
        },
    )
}

/// A batch with consistent indices and valid span IDs; everything else is arbitrary.
pub(crate) fn arbitrary_batch() -> impl Strategy<Value = SpanBatch> {
    (1..4usize, 1..4usize).prop_flat_map(|(resources, scopes)| {
        let spans = vec(arbitrary_span(scopes), 0..6);
        (vec(arbitrary_resource(), resources), vec(arbitrary_scope(resources), scopes), spans)
            .prop_map(|(resources, scopes, spans)| SpanBatch { resources, scopes, spans })
    })
}
