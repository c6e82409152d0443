//! Two recordings are the same forest exactly if nothing but IDs, order and batches differs.

mod common;

use std::collections::HashMap;

use common::{arbitrary_batch, data_files};
use proptest::prelude::*;
use spanring::{SpanId, SpanKind, StatusCode, TraceId, Value};
use spanring_cli::forest::compare;
use spanring_cli::input::LineReader;
use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

fn attributes(entries: &[(&str, Value)]) -> Vec<(String, Value)> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn span(trace: u128, id: u64, parent: Option<u64>, name: &str, start: u64) -> SpanData {
    SpanData {
        trace_id: TraceId(trace),
        span_id: SpanId(id),
        parent_span_id: parent.map(SpanId),
        name: name.to_owned(),
        start_unix_nano: start,
        end_unix_nano: start + 10,
        ..SpanData::default()
    }
}

fn link(trace: u128, id: u64) -> LinkData {
    LinkData { trace_id: TraceId(trace), span_id: SpanId(id), ..LinkData::default() }
}

/// Two traces that have everything: a tree, two remote parents (99 with two children, 98 with one),
/// links into the data and out of it, events, two scopes of two resources.
fn recording() -> Vec<SpanBatch> {
    let mut root = span(1, 1, None, "root", 100);
    root.attributes = attributes(&[
        ("int", Value::Int(1)),
        ("text", Value::from("a")),
        ("list", Value::Array(vec![Value::Int(1), Value::Double(2.0)])),
        ("map", Value::Map(attributes(&[("inner", Value::Bool(true))]))),
    ]);
    root.events = vec![
        EventData { time_unix_nano: 101, name: "first".into(), ..EventData::default() },
        EventData {
            time_unix_nano: 102,
            name: "second".into(),
            attributes: attributes(&[("k", Value::from("v"))]),
            ..EventData::default()
        },
    ];
    root.links = vec![link(2, 1), link(7, 7)];
    root.links[1].attributes = attributes(&[("l", Value::Null)]);
    let mut failed = span(1, 3, Some(1), "child", 120);
    failed.status = StatusCode::Error;
    failed.status_message = "no".into();
    failed.scope = 1;
    vec![SpanBatch {
        resources: vec![
            ResourceData {
                attributes: attributes(&[("service.name", Value::from("shop"))]),
                ..ResourceData::default()
            },
            ResourceData::default(),
        ],
        scopes: vec![
            ScopeData { name: "lib".into(), version: "1".into(), ..ScopeData::default() },
            ScopeData { resource: 1, name: "other".into(), ..ScopeData::default() },
        ],
        spans: vec![
            span(1, 2, Some(1), "child", 110),
            failed,
            span(1, 4, Some(2), "leaf", 111),
            root,
            span(2, 1, Some(99), "served", 200),
            span(2, 2, Some(99), "served", 300),
            span(2, 3, Some(98), "served", 400),
        ],
    }]
}

/// The same spans under other IDs, the links' too.
fn renamed(batches: &[SpanBatch]) -> Vec<SpanBatch> {
    let trace = |id: TraceId| TraceId(id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let span = |id: SpanId| SpanId(id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x55);
    let mut batches = batches.to_vec();
    for data in batches.iter_mut().flat_map(|batch| &mut batch.spans) {
        data.trace_id = trace(data.trace_id);
        data.span_id = span(data.span_id);
        data.parent_span_id = data.parent_span_id.map(span);
        for link in &mut data.links {
            link.trace_id = trace(link.trace_id);
            link.span_id = span(link.span_id);
        }
    }
    batches
}

/// The same spans in the opposite order, each in a batch of its own.
fn reordered(batches: &[SpanBatch]) -> Vec<SpanBatch> {
    let single = |batch: &SpanBatch, span: &SpanData| {
        let scope = &batch.scopes[span.scope];
        SpanBatch {
            resources: vec![batch.resources[scope.resource].clone()],
            scopes: vec![ScopeData { resource: 0, ..scope.clone() }],
            spans: vec![SpanData { scope: 0, ..span.clone() }],
        }
    };
    let all =
        batches.iter().flat_map(|batch| batch.spans.iter().map(move |span| single(batch, span)));
    let mut all: Vec<_> = all.collect();
    all.reverse();
    all
}

fn assert_same(recorded: &[SpanBatch], read_back: &[SpanBatch]) {
    if let Err(difference) = compare(recorded, read_back) {
        panic!("{difference}");
    }
}

#[test]
fn ids_order_batches_flags_and_dropped_counts_do_not_matter() {
    let recorded = recording();
    let mut other = reordered(&renamed(&recorded));
    for span in other.iter_mut().flat_map(|batch| &mut batch.spans) {
        span.trace_flags = 3;
        span.parent_is_remote = Some(true);
        span.trace_state = "ot=th:0".into();
        span.dropped_attributes = 1;
    }
    assert_same(&recorded, &other);
    assert_same(&other, &recorded);
    assert_same(&[], &[SpanBatch::default()]);
}

type Mutation = (&'static str, fn(&mut SpanBatch));

/// Every single change, and a word that the answer must hold.
const MUTATIONS: &[Mutation] = &[
    ("name", |b| b.spans[0].name.push('x')),
    ("kind", |b| b.spans[0].kind = SpanKind::Server),
    ("start", |b| b.spans[0].start_unix_nano += 1),
    ("end", |b| b.spans[0].end_unix_nano -= 1),
    ("status", |b| b.spans[1].status = StatusCode::Unset),
    ("status message", |b| b.spans[1].status_message.clear()),
    ("attribute 0", |b| b.spans[3].attributes[0].1 = Value::Int(2)),
    ("attribute 0", |b| b.spans[3].attributes[0].1 = Value::Double(1.0)),
    ("attribute 0", |b| b.spans[3].attributes[0].1 = Value::from("1")),
    ("attribute 1", |b| b.spans[3].attributes[1].0.push('x')),
    ("attribute 1", |b| b.spans[3].attributes[1].1 = Value::Bytes("a".into())),
    ("attribute 2", |b| b.spans[3].attributes.swap(2, 3)),
    ("attribute 3", |b| drop(b.spans[3].attributes.pop())),
    ("attribute 4", |b| b.spans[3].attributes.push(("int".into(), Value::Int(1)))),
    ("attribute 2", |b| match &mut b.spans[3].attributes[2].1 {
        Value::Array(items) => items.swap(0, 1),
        _ => unreachable!("it is an array"),
    }),
    ("attribute 3", |b| match &mut b.spans[3].attributes[3].1 {
        Value::Map(entries) => entries[0].1 = Value::Bool(false),
        _ => unreachable!("it is a map"),
    }),
    ("number of events", |b| drop(b.spans[3].events.pop())),
    ("event 0", |b| b.spans[3].events.swap(0, 1)),
    ("event 0: name", |b| b.spans[3].events[0].name.clear()),
    ("event 1: time", |b| b.spans[3].events[1].time_unix_nano += 1),
    ("event 1: attribute 0", |b| b.spans[3].events[1].attributes[0].1 = Value::from("w")),
    ("number of links", |b| drop(b.spans[3].links.pop())),
    ("link 0: leads into the data", |b| b.spans[3].links.swap(0, 1)),
    ("link 0: leads into the data", |b| b.spans[3].links[0].span_id = SpanId(77)),
    ("link 0: recorded to", |b| b.spans[3].links[0].span_id = SpanId(2)),
    ("link 1: leads into the data", |b| b.spans[3].links[1] = link(1, 2)),
    ("link 1: attribute 0", |b| b.spans[3].links[1].attributes[0].1 = Value::Int(0)),
    ("parent: recorded a span of the data, read back none", |b| b.spans[0].parent_span_id = None),
    ("parent: recorded none", |b| b.spans[3].parent_span_id = Some(SpanId(2))),
    ("read back a remote span", |b| b.spans[0].parent_span_id = Some(SpanId(77))),
    ("read back below \"child\" (start 120)", |b| b.spans[2].parent_span_id = Some(SpanId(3))),
    // The remote parent of two spans becomes the parent of one.
    ("children of its parent", |b| b.spans[4].parent_span_id = Some(SpanId(98))),
    ("children of its parent", |b| b.spans[4].parent_span_id = Some(SpanId(97))),
    ("spans of its trace", |b| b.spans[6].trace_id = TraceId(3)),
    ("read back below \"served\"", |b| b.spans[2].trace_id = TraceId(2)),
    ("recorded a span of the data, read back a remote span", |b| b.spans[2].trace_id = TraceId(9)),
    ("scope", |b| b.scopes[1].name.clear()),
    ("scope version", |b| b.scopes[0].version.push('x')),
    ("scope's schema URL", |b| b.scopes[0].schema_url.push('x')),
    ("scope: attribute 0", |b| b.scopes[0].attributes.push(("k".into(), Value::Null))),
    ("scope", |b| b.spans[0].scope = 1),
    ("resource: attribute 0", |b| b.scopes[1].resource = 0),
    ("resource: attribute 0", |b| b.resources[0].attributes[0].1 = Value::from("s")),
    ("resource's schema URL", |b| b.resources[1].schema_url.push('x')),
    ("no counterpart", |b| drop(b.spans.pop())),
    ("no counterpart", |b| b.spans.push(b.spans[6].clone())),
];

#[test]
fn every_single_change_is_found_and_named() {
    let recorded = recording();
    for (index, (word, mutate)) in MUTATIONS.iter().enumerate() {
        let mut changed = recorded.clone();
        mutate(&mut changed[0]);
        let other = reordered(&renamed(&changed));
        let difference = compare(&recorded, &other).expect_err(&format!("change {index}: {word}"));
        let text = difference.to_string();
        assert!(text.contains(word), "change {index} ({word}): {text}");
        assert!(
            compare(&other, &recorded).is_err(),
            "change {index} ({word}), the other way round"
        );
    }
}

#[test]
fn a_lost_span_is_named_with_its_ids() {
    let mut recorded = recording();
    recorded[0].spans.truncate(4);
    let mut other = renamed(&recorded);
    other[0].spans.remove(2);
    let difference = compare(&recorded, &other).expect_err("the leaf is lost");
    let expected = "\"leaf\" (trace 00000000000000000000000000000001, span 0000000000000004, \
                    start 111) was recorded: it has no counterpart";
    assert_eq!(difference.to_string(), expected);
}

#[test]
fn the_shape_counts_where_contents_are_all_the_same() {
    // Equal spans as a chain of three below a root, or as a fork; and in one trace, or in two.
    let equal = |parents: &[(u128, u64, Option<u64>)]| {
        let spans = parents.iter().map(|&(trace, id, parent)| span(trace, id, parent, "x", 1));
        vec![SpanBatch {
            resources: vec![ResourceData::default()],
            scopes: vec![ScopeData::default()],
            spans: spans.collect(),
        }]
    };
    let chain = equal(&[(1, 1, None), (1, 2, Some(1)), (1, 3, Some(2)), (1, 4, Some(3))]);
    let fork = equal(&[(1, 1, None), (1, 2, Some(1)), (1, 3, Some(2)), (1, 4, Some(2))]);
    let other_fork = equal(&[(1, 1, None), (1, 2, Some(1)), (1, 3, Some(1)), (1, 4, Some(2))]);
    assert_same(&chain, &reordered(&renamed(&chain)));
    assert!(compare(&chain, &fork).is_err());
    assert!(compare(&chain, &other_fork).is_err());
    assert!(compare(&fork, &other_fork).is_err());
    let one_trace = equal(&[(1, 1, None), (1, 2, None)]);
    let two_traces = equal(&[(1, 1, None), (2, 2, None)]);
    assert!(compare(&one_trace, &two_traces).is_err());
    // Two chains of two and one, or of three and none, below equal roots in a trace each.
    let even = equal(&[(1, 1, None), (1, 2, Some(1)), (2, 1, None), (2, 2, Some(1))]);
    let odd = equal(&[(1, 1, None), (1, 2, Some(1)), (1, 3, Some(2)), (2, 1, None)]);
    assert!(compare(&even, &odd).is_err());
}

#[test]
fn who_links_to_one_of_two_equal_spans_counts() {
    let linking = |targets: [u64; 2]| {
        let mut batch = SpanBatch {
            resources: vec![ResourceData::default()],
            scopes: vec![ScopeData::default()],
            spans: vec![span(1, 1, None, "target", 1), span(1, 2, None, "target", 1)],
        };
        for (id, target) in (3..).zip(targets) {
            let mut source = span(1, id, None, "source", 2);
            source.links.push(link(1, target));
            batch.spans.push(source);
        }
        vec![batch]
    };
    assert_same(&linking([1, 2]), &renamed(&linking([2, 1])));
    assert_same(&linking([1, 1]), &renamed(&linking([2, 2])));
    let difference = compare(&linking([1, 2]), &linking([1, 1])).expect_err("they differ");
    assert!(difference.what.contains("spans that link to it: recorded 1"), "{difference}");
}

#[test]
fn cycles_and_repeated_ids_are_compared_and_hang_nobody() {
    let mut recorded = recording();
    recorded[0].spans.extend([
        span(5, 1, Some(2), "a", 1),
        span(5, 2, Some(1), "b", 2),
        span(5, 3, Some(3), "own parent", 3),
        // Twice the same ID, with children: which one they belong to does not depend on order.
        span(6, 1, None, "twin", 4),
        span(6, 1, None, "other twin", 5),
        span(6, 2, Some(1), "child of a twin", 6),
    ]);
    assert_same(&recorded, &reordered(&renamed(&recorded)));
    let mut changed = renamed(&recorded);
    changed[0].spans[9].parent_span_id = changed[0].spans[8].parent_span_id;
    assert!(compare(&recorded, &changed).is_err());
}

proptest! {
    #[test]
    fn any_batch_is_the_same_forest_as_itself_renamed_and_reordered(batch in arbitrary_batch()) {
        let recorded = vec![batch];
        assert_same(&recorded, &reordered(&renamed(&recorded)));
    }
}

#[test]
fn recorded_data_is_compared_and_changes_of_its_parents_are_found() {
    let path = &data_files(&["trainticket"])[0];
    let mut reader = LineReader::open(path).expect("the file can be opened");
    let mut recorded = Vec::new();
    while let Some(batch) = reader.next_batch().expect("the file can be read") {
        recorded.push(batch);
    }
    assert_same(&recorded, &reordered(&renamed(&recorded)));

    // Hang single spans onto their grandparents, all over the file.
    let spans = || recorded.iter().flat_map(|batch| &batch.spans);
    let parents: HashMap<_, _> =
        spans().map(|span| ((span.trace_id, span.span_id), span.parent_span_id)).collect();
    let mut changes = 0;
    for (index, span) in spans().enumerate().step_by(997) {
        let Some(parent) = span.parent_span_id else { continue };
        let Some(grandparent) = parents.get(&(span.trace_id, parent)) else { continue };
        let mut changed = renamed(&recorded);
        let grandparent = *grandparent;
        let moved = SpanData { parent_span_id: grandparent, ..span.clone() };
        let renamed_parent =
            renamed(&[SpanBatch { spans: vec![moved], ..SpanBatch::default() }])[0].spans[0]
                .parent_span_id;
        let target = changed.iter_mut().flat_map(|batch| &mut batch.spans).nth(index);
        target.expect("as many spans").parent_span_id = renamed_parent;
        let difference = compare(&recorded, &changed).expect_err("a parent changed");
        assert!(difference.recorded.is_some(), "{difference}");
        changes += 1;
    }
    assert!(changes >= 5, "{changes}");
}

#[test]
fn values_that_differ_in_type_only_are_told_apart() {
    let with = |value: Value| {
        let mut recorded = recording();
        recorded[0].spans[0].attributes = attributes(&[("k", value)]);
        recorded
    };
    let pairs = [
        (Value::Int(0), Value::Double(0.0)),
        (Value::Double(0.0), Value::Double(-0.0)),
        (Value::Int(0), Value::Bool(false)),
        (Value::from(""), Value::Null),
        (Value::from("a"), Value::Bytes("a".into())),
        (Value::Array(vec![]), Value::Map(vec![])),
        (Value::Array(vec![]), Value::Int(0)),
        (Value::Array(vec![Value::Null]), Value::Array(vec![])),
    ];
    for (a, b) in pairs {
        assert_same(&with(a.clone()), &with(a.clone()));
        assert!(compare(&with(a.clone()), &with(b.clone())).is_err(), "{a:?} and {b:?}");
    }
    assert_same(&with(Value::Double(f64::NAN)), &with(Value::Double(-f64::NAN)));
}
