//! `spanring replay`: what was recorded comes back from the segments, all of it and nothing else.

mod common;

use std::path::Path;
use std::process::Output;

use bytes::Bytes;
use common::{data_files, json, read_back, read_lines, run, spanring, stderr, text, write_lines};
use serde_json::Value as Json;
use spanring::{SpanId, SpanKind, StatusCode, TraceId, Value};
use spanring_cli::forest::compare;
use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

fn replay(files: &[&Path], dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = spanring();
    command.arg("replay").args(files).arg("--dir").arg(dir).arg("--json").args(more);
    command.envs(environment.iter().copied()).output().expect("the command can be run")
}

/// Asserts that all is well with a replay, and that it made `spans` spans.
fn assert_kept(output: &Output, spans: u64) -> Json {
    assert_eq!((output.status.code(), &*stderr(output)), (Some(0), ""));
    let report = json(output);
    assert_eq!((&report["created"], &report["exported"]), (&spans.into(), &spans.into()));
    let dropped = report["dropped"].as_object().expect("it is an object");
    assert!(dropped.contains_key("budget") && dropped.values().all(|count| *count == 0));
    report
}

fn assert_verified(dir: &Path) -> Json {
    let output = run(&["verify", "--json", text(dir)]);
    let report = json(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(0), &true.into()), "{report}");
    report
}

fn assert_same(recorded: &[SpanBatch], dir: &Path) {
    if let Err(difference) = compare(recorded, &read_back(dir)) {
        panic!("{difference}");
    }
}

fn spans_of(batches: &[SpanBatch]) -> u64 {
    batches.iter().map(|batch| batch.spans.len() as u64).sum()
}

#[test]
fn each_recorded_file_comes_back_as_the_same_forest_in_as_few_bytes_as_promised() {
    // Bytes a span at 512 spans a batch, one thread.
    let files = [
        ("onlineboutique", Some(9.5)),
        ("trainticket", None),
        ("webshop", Some(24.0)),
        ("agents", Some(60.0)),
    ];
    for (name, bytes_max) in files {
        let path = &data_files(&[name])[0];
        let recorded = read_lines(path);
        for threads in ["1", "3"] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let batch_size = [("SPANRING_BATCH_SIZE", "512")];
            let output = replay(&[path], dir.path(), &["--threads", threads], &batch_size);
            let report = assert_kept(&output, spans_of(&recorded));
            let bytes = report["bytes"].as_f64().expect("a number");
            let bytes_per_span = bytes / report["exported"].as_f64().expect("a number");
            if let (Some(most), "1") = (bytes_max, threads) {
                assert!(bytes_per_span <= most, "{name}: {bytes_per_span} bytes a span");
            }
            let verified = assert_verified(dir.path());
            assert_eq!(
                (&verified["spans"], &verified["bytes"]),
                (&report["created"], &report["bytes"])
            );
            assert_same(&recorded, dir.path());
        }
    }
}

fn span(trace: u128, id: u64, parent: Option<u64>, start: u64, end: u64) -> SpanData {
    SpanData {
        trace_id: TraceId(trace),
        span_id: SpanId(id),
        parent_span_id: parent.map(SpanId),
        name: format!("span {trace}.{id}"),
        start_unix_nano: start,
        end_unix_nano: end,
        ..SpanData::default()
    }
}

fn link(trace: u128, id: u64) -> LinkData {
    LinkData {
        trace_id: TraceId(trace),
        span_id: SpanId(id),
        attributes: vec![("why".to_owned(), Value::from("because"))],
        ..LinkData::default()
    }
}

/// All that a recording can have and that the recorded data does not.
fn oddities() -> Vec<SpanBatch> {
    let mut spans = vec![
        // Two children of one missing parent and one of another, and no root in the trace.
        span(1, 1, Some(90), 100, 200),
        span(1, 2, Some(90), 120, 130),
        span(1, 3, Some(91), 110, 140),
        span(1, 4, Some(3), 115, 139),
        // A root, which starts last of its trace, and children of missing parents beside it.
        span(2, 1, Some(92), 500, 510),
        span(2, 2, Some(4), 505, 506),
        span(2, 3, Some(92), 300, 310),
        span(2, 4, None, 600, 700),
        // A child that starts before its parent and ends after it.
        span(3, 1, Some(2), 10, 1_000),
        span(3, 2, None, 20, 30),
        // Links: forward, backward, to itself, out of the recording.
        span(4, 1, None, 40, 50),
        span(5, 1, None, 2_000, 2_010),
        // The same span ID in another trace, and times at both ends.
        span(6, 1, None, 0, 0),
        span(7, 1, None, u64::MAX, u64::MAX),
        // As long as a file may be out of order.
        span(8, 1, None, 1, 2),
    ];
    spans[1].trace_flags = 0;
    spans[4].trace_flags = 2;
    spans[4].trace_state = "ot=th:c,vendor=1".to_owned();
    spans[6].trace_state = "this is no tracestate".to_owned();
    spans[8].parent_is_remote = Some(true);
    spans[10].links = vec![link(5, 1), link(4, 1), link(99, 99)];
    spans[11].links = vec![link(4, 1), link(1, 4)];
    spans[11].links[1].is_remote = Some(false);
    for (index, kind) in (0..6).filter_map(SpanKind::from_number).enumerate() {
        spans[index].kind = kind;
    }
    spans[9].status = StatusCode::Ok;
    spans[10].status = StatusCode::Error;
    spans[10].status_message = "x".repeat(5_000);
    let map = Value::Map(vec![("a".to_owned(), Value::Null), ("b".to_owned(), Value::Bool(true))]);
    spans[12].attributes = vec![
        ("int".to_owned(), Value::Int(i64::MIN)),
        ("double".to_owned(), Value::Double(f64::NAN)),
        ("zero".to_owned(), Value::Double(-0.0)),
        ("bytes".to_owned(), Value::Bytes(Bytes::from(vec![7; 3_000]))),
        ("empty".to_owned(), Value::from("")),
        ("null".to_owned(), Value::Null),
        ("list".to_owned(), Value::Array(vec![map.clone(), Value::Array(vec![Value::Int(1)])])),
        ("map".to_owned(), map),
        ("large".to_owned(), Value::Str("prompt ".repeat(200_000))),
    ];
    // More of everything than OpenTelemetry's limits let through.
    let many = |count: i64| (0..count).map(|n| (format!("key {n}"), Value::Int(n)));
    spans[13].attributes = many(300).collect();
    spans[13].events = (0..200)
        .map(|n| EventData {
            time_unix_nano: n,
            name: format!("event {n}"),
            attributes: many(if n == 7 { 150 } else { 1 }).collect(),
            ..EventData::default()
        })
        .collect();
    spans[13].links = (0..150).map(|_| link(8, 1)).collect();
    spans[14].name = "a name longer than those that are interned ".repeat(40);
    for (index, span) in spans.iter_mut().enumerate() {
        span.scope = index % 3;
    }
    let service = |name: &str| ResourceData {
        attributes: vec![("service.name".to_owned(), Value::from(name))],
        schema_url: "https://example.com/resource".to_owned(),
        ..ResourceData::default()
    };
    let scope = |resource: usize, name: &str| ScopeData {
        resource,
        name: name.to_owned(),
        version: "1.2".to_owned(),
        attributes: vec![("scope".to_owned(), Value::Bool(true))],
        schema_url: "https://example.com/scope".to_owned(),
        ..ScopeData::default()
    };
    let rest = spans.split_off(7);
    let first = SpanBatch {
        resources: vec![service("a"), service("b")],
        scopes: vec![scope(0, "one"), scope(1, "one"), scope(1, "two")],
        spans,
    };
    // The same scopes at other places, and a resource that says nothing.
    let second = SpanBatch {
        resources: vec![service("b"), ResourceData::default()],
        scopes: vec![scope(0, "one"), scope(0, "two"), ScopeData { resource: 1, ..scope(1, "") }],
        spans: rest,
    };
    vec![first, second]
}

#[test]
fn missing_parents_links_all_values_and_more_than_the_usual_limits_come_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("odd.jsonl");
    write_lines(&path, &oddities());
    let recorded = read_lines(&path);
    // Whatever the environment says of what is recorded, everything is.
    let environment = [
        ("SPANRING_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ("SPANRING_SAMPLER", "always_off"),
        ("SPANRING_DISABLED", "true"),
        ("SPANRING_DIR", "/nonexistent"),
    ];
    for threads in ["1", "2", "7"] {
        let out = dir.path().join(threads);
        let output = replay(&[&path], &out, &["--threads", threads], &environment);
        assert_kept(&output, 15);
        assert_verified(&out);
        assert_same(&recorded, &out);
    }
}

#[test]
fn files_that_share_traces_are_one_recording_and_segments_can_be_replayed_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let recorded = vec![
        SpanBatch {
            resources: vec![ResourceData::default()],
            scopes: vec![ScopeData::default()],
            spans: vec![span(1, 2, Some(1), 10, 20)],
        },
        SpanBatch {
            resources: vec![ResourceData::default()],
            scopes: vec![ScopeData::default()],
            spans: vec![span(1, 3, Some(2), 11, 12), span(1, 1, None, 5, 30)],
        },
    ];
    let paths = [dir.path().join("1"), dir.path().join("2")];
    write_lines(&paths[0], &recorded[..1]);
    write_lines(&paths[1], &recorded[1..]);
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    assert_kept(&replay(&[&paths[0], &paths[1]], &first, &[], &[]), 3);
    assert_same(&recorded, &first);
    assert_kept(&replay(&[&first], &second, &[], &[]), 3);
    assert_same(&recorded, &second);
}

#[test]
fn further_roots_and_cycles_of_parents_are_performed_as_far_as_they_can_and_said() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("bad.jsonl");
    let batch = SpanBatch {
        resources: vec![ResourceData::default()],
        scopes: vec![ScopeData::default()],
        spans: vec![
            span(1, 1, None, 10, 20),
            span(1, 2, None, 5, 20),
            span(1, 3, Some(2), 12, 13),
            span(2, 1, Some(2), 1, 9),
            span(2, 2, Some(3), 2, 9),
            span(2, 3, Some(1), 3, 9),
            span(2, 4, Some(1), 4, 9),
            span(3, 1, Some(1), 1, 2),
            // An ID twice: children are those of the first.
            span(4, 1, None, 1, 9),
            span(4, 2, Some(1), 2, 9),
            span(4, 2, Some(1), 3, 9),
            span(4, 3, Some(2), 4, 9),
        ],
    };
    write_lines(&path, &[batch]);
    let out = dir.path().join("out");
    let output = replay(&[&path], &out, &["--threads", "2"], &[]);
    let expected = "spanring: 1 further roots of traces begin traces of their own\n\
                    spanring: 2 cycles of parents are cut open by a remote parent\n";
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), expected));
    assert_eq!(json(&output)["exported"], 12);
    let spans: Vec<_> = read_back(&out).into_iter().flat_map(|batch| batch.spans).collect();
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect("it came back");
    assert_ne!(named("span 1.1").trace_id, named("span 1.2").trace_id);
    assert_eq!(named("span 1.3").parent_span_id, Some(named("span 1.2").span_id));
    let cycle = ["span 2.1", "span 2.2", "span 2.3", "span 2.4"].map(named);
    assert!(cycle.iter().all(|span| span.trace_id == cycle[0].trace_id));
    let is_known = |id: SpanId| cycle.iter().any(|span| span.span_id == id);
    let remote = cycle.iter().filter(|span| !span.parent_span_id.is_some_and(is_known));
    assert_eq!(remote.count(), 1, "one edge of the cycle is cut");
    assert_eq!(named("span 3.1").parent_is_remote, Some(true));
    assert_verified(&out);
}

#[test]
fn pacing_keeps_every_span_within_a_tiny_budget() {
    let budgets = [
        // As small as it can be, shared by more threads than there are credits.
        ("16", "16", "1MiB", "20"),
        // A batch is more than pacing lets be resident.
        ("100", "100", "1MiB", "2"),
        ("1000", "512", "64MiB", "3"),
    ];
    let path = &data_files(&["agents"])[0];
    let recorded = read_lines(path);
    for (max_spans, batch_size, max_bytes, threads) in budgets {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let environment = [
            ("SPANRING_MAX_SPANS", max_spans),
            ("SPANRING_BATCH_SIZE", batch_size),
            ("SPANRING_MAX_BYTES", max_bytes),
        ];
        let output = replay(&[path], dir.path(), &["--threads", threads], &environment);
        let report = assert_kept(&output, spans_of(&recorded));
        let most = max_spans.parse::<u64>().expect("a number");
        assert!(report["resident_max"].as_u64().is_some_and(|resident| resident <= most));
        assert_verified(dir.path());
        assert_same(&recorded, dir.path());
    }
}

#[test]
fn without_pacing_spans_beyond_the_budget_are_dropped_and_counted() {
    let path = &data_files(&["onlineboutique"])[0];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let environment = [("SPANRING_MAX_SPANS", "16")];
    let output = replay(&[path], dir.path(), &["--no-pace"], &environment);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let report = json(&output);
    let count = |field: &Json| field.as_u64().expect("a number");
    let budget = count(&report["dropped"]["budget"]);
    assert!(budget > 0, "{report}");
    assert_eq!(count(&report["created"]), 23_397);
    assert_eq!(count(&report["exported"]) + count(&report["dropped_total"]), 23_397);
    let instance = &assert_verified(dir.path())["instances"][0];
    assert_eq!((&instance["created"], &instance["sealed"]), (&23_397.into(), &report["exported"]));
    assert_eq!(instance["dropped"]["budget"], budget);
}

#[test]
fn repeating_gives_each_round_ids_of_its_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("odd.jsonl");
    write_lines(&path, &oddities());
    let out = dir.path().join("out");
    assert_kept(&replay(&[&path], &out, &["--repeat", "3", "--threads", "2"], &[]), 45);
    let spans = read_back(&out).into_iter().flat_map(|batch| batch.spans);
    let mut ids: Vec<_> = spans.map(|span| span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 45);
}

#[test]
fn at_a_speed_recorded_time_must_pass() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("slow.jsonl");
    let ms = 1_000_000;
    let batch = SpanBatch {
        resources: vec![ResourceData::default()],
        scopes: vec![ScopeData::default()],
        spans: vec![span(1, 1, None, 500 * ms, 600 * ms), span(2, 1, None, 700 * ms, 900 * ms)],
    };
    write_lines(&path, std::slice::from_ref(&batch));
    // 400 ms from the first start to the last end.
    for (speed, repeat, least) in [("1", "1", 0.4), ("10", "1", 0.04), ("4", "3", 0.3)] {
        let out = dir.path().join(speed);
        let output = replay(&[&path], &out, &["--speed", speed, "--repeat", repeat], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let wall = json(&output)["wall_seconds"].as_f64().expect("a number");
        assert!(wall >= least, "speed {speed}, {repeat} times: {wall} s");
    }
    assert_same(&[batch], &dir.path().join("1"));
}

#[test]
fn problems_with_input_directory_and_settings_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = dir.path().join("good.jsonl");
    write_lines(&good, &oddities());
    let bad = dir.path().join("bad.jsonl");
    std::fs::write(&bad, "{}\n[]\n").expect("it can be written");
    let out = dir.path().join("out");
    let output = replay(&[&bad, &good], &out, &[], &[]);
    assert_eq!((output.status.code(), &json(&output)["exported"]), (Some(1), &15.into()));
    let said = stderr(&output);
    assert!(said.starts_with(&format!("spanring: {}:2: ", bad.display())), "{said}");

    // Where a file stands, no directory can.
    let output = replay(&[&good], &good, &[], &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("spanring: ") && said.contains(text(&good)), "{said}");

    let environment = [("SPANRING_BATCH_SIZE", "many"), ("SPANRING_MAX_SPAN", "5")];
    let output = replay(&[&good], &dir.path().join("other"), &[], &environment);
    assert_eq!((output.status.code(), &json(&output)["exported"]), (Some(0), &15.into()));
    let said = stderr(&output);
    assert!(said.contains("SPANRING_BATCH_SIZE=\"many\""), "{said}");
    assert!(said.contains("did you mean SPANRING_MAX_SPANS?"), "{said}");
}

#[test]
fn what_a_receiver_did_not_take_is_said_with_what_it_is_due_to() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let mut command = spanring();
    command.arg("replay").args(data_files(&["agents"])).args(["--json", "--endpoint"]);
    let output = command
        .arg(format!("http://{address}"))
        .env("SPANRING_MAX_BATCH_WAIT", "0.3")
        .output()
        .expect("the command can be run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("sink_timed_out") && said.contains("MAX_BATCH_WAIT"), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
    assert!(!said.contains("raise SPANRING_MAX_SPANS"), "{said}");
    let report = json(&output);
    assert_eq!(report["created"], report["dropped"]["sink_timed_out"], "{report}");
}
