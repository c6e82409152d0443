//! A schedule keeps its promises for whatever is recorded.

mod common;

use std::collections::{HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;
use spanring::{SpanId, TraceId};
use spanring_cli::replay::{Action, Parent, Recording, Schedule};
use spanring_exporter::model::{LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

fn recording(spans: &[SpanData]) -> Recording {
    let mut recording = Recording::default();
    let batch = SpanBatch {
        resources: vec![ResourceData::default()],
        scopes: vec![ScopeData::default()],
        spans: spans.to_vec(),
    };
    recording.add(batch).expect("it is small");
    recording
}

/// Spans of few traces with few IDs, so that they name each other, themselves and cycles often.
fn arbitrary_spans() -> impl Strategy<Value = Vec<SpanData>> {
    let ids = (1u128..4, 1u64..12);
    let links = vec(ids.clone(), 0..2);
    let span = (ids, prop::option::of(1u64..14), 0u64..50, 0u64..50, links).prop_map(
        |((trace, id), parent, start, end, links)| SpanData {
            trace_id: TraceId(trace),
            span_id: SpanId(id),
            parent_span_id: parent.map(SpanId),
            start_unix_nano: start,
            end_unix_nano: end,
            links: links
                .into_iter()
                .map(|(trace, id)| LinkData {
                    trace_id: TraceId(trace),
                    span_id: SpanId(id),
                    ..LinkData::default()
                })
                .collect(),
            ..SpanData::default()
        },
    );
    vec(span, 0..40)
}

fn check(spans: &[SpanData], threads: usize) {
    let recording = recording(spans);
    let schedule = Schedule::new(&recording, threads);
    assert_eq!(schedule.parts.len(), threads);
    let mut everywhere = HashSet::new();
    for part in &schedule.parts {
        let numbers: Vec<_> = part.spans.iter().map(|planned| planned.span).collect();
        assert!(numbers.is_sorted(), "the order of the recording");
        assert!(numbers.iter().all(|number| everywhere.insert(*number)), "each span once");
        let data = |position: u32| recording.span(part.spans[position as usize].span);
        let mut started = HashSet::new();
        let mut ended = Vec::new();
        let mut traces_begun = HashSet::new();
        let has_root: HashSet<_> = part
            .spans
            .iter()
            .filter_map(|planned| match planned.parent {
                Parent::Root { trace } => trace,
                _ => None,
            })
            .collect();
        let mut remotes = HashMap::new();
        for action in &part.actions {
            match *action {
                Action::Start(position) => {
                    assert!(started.insert(position), "each span starts once");
                    let child = data(position);
                    match part.spans[position as usize].parent {
                        Parent::Root { trace } => {
                            assert_eq!(child.parent_span_id, None);
                            let is_first = trace.is_none_or(|trace| traces_begun.insert(trace));
                            assert!(is_first, "a trace begins once");
                        }
                        Parent::Span(parent) => {
                            assert!(started.contains(&parent), "a parent starts first");
                            let parent = data(parent);
                            assert_eq!(child.parent_span_id, Some(parent.span_id));
                            assert_eq!(child.trace_id, parent.trace_id);
                        }
                        Parent::Remote { remote, trace } => {
                            assert!(trace < part.traces && remote < part.remotes);
                            let begun = traces_begun.contains(&trace);
                            assert_eq!(begun, has_root.contains(&trace), "a root starts first");
                            let named = (child.trace_id, child.parent_span_id);
                            assert_eq!(*remotes.entry(remote).or_insert(named), named);
                        }
                    }
                }
                Action::End(position) => {
                    assert!(started.contains(&position), "a span starts before it ends");
                    for target in part.spans[position as usize].links.iter().flatten() {
                        assert!(started.contains(target), "what it links to has started");
                    }
                    ended.push(position);
                }
            }
        }
        let all: Vec<u32> = (0..part.spans.len() as u32).collect();
        assert_eq!(ended, all, "spans end in the order of the recording");
        for planned in &part.spans {
            let links = &recording.span(planned.span).links;
            assert_eq!(links.len(), planned.links.len());
            for (link, target) in links.iter().zip(&planned.links) {
                let known = spans
                    .iter()
                    .any(|span| (span.trace_id, span.span_id) == (link.trace_id, link.span_id));
                assert_eq!(target.is_some(), known);
            }
        }
    }
    assert_eq!(everywhere.len(), spans.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_span_starts_after_its_parent_and_ends_in_recorded_order_on_one_thread_with_its_links(
        spans in arbitrary_spans(),
        threads in 1usize..5,
    ) {
        check(&spans, threads);
    }
}

fn span(trace: u128, id: u64, parent: Option<u64>, start: u64, end: u64) -> SpanData {
    SpanData {
        trace_id: TraceId(trace),
        span_id: SpanId(id),
        parent_span_id: parent.map(SpanId),
        start_unix_nano: start,
        end_unix_nano: end,
        ..SpanData::default()
    }
}

#[test]
fn spans_start_in_the_order_of_their_starts_as_late_as_the_recording_allows() {
    // Ends in recorded order; the last span starts after the first two have ended.
    let spans = [
        span(1, 2, Some(1), 10, 20),
        span(1, 3, Some(1), 5, 30),
        span(1, 1, None, 0, 100),
        span(2, 1, None, 90, 110),
    ];
    let schedule = Schedule::new(&recording(&spans), 1);
    let expected = [
        Action::Start(2),
        Action::Start(1),
        Action::Start(0),
        Action::End(0),
        Action::End(1),
        Action::Start(3),
        Action::End(2),
        Action::End(3),
    ];
    assert_eq!(schedule.parts[0].actions, expected);
    assert_eq!((schedule.begin_unix_nano, schedule.end_unix_nano), (0, 110));
}

#[test]
fn traces_are_spread_evenly_over_threads() {
    let spans: Vec<_> = (0..60).map(|trace| span(trace + 1, 1, None, 0, 1)).collect();
    let schedule = Schedule::new(&recording(&spans), 7);
    let sizes: Vec<_> = schedule.parts.iter().map(|part| part.spans.len()).collect();
    assert!(sizes.iter().all(|size| (8..=9).contains(size)), "{sizes:?}");
}

#[test]
fn a_chain_of_100_000_parents_and_a_cycle_as_long_are_planned_in_no_time() {
    let len = 100_000;
    let chain = |first: Option<u64>| -> Vec<_> {
        (1..=len).map(|id| span(1, id, if id == 1 { first } else { Some(id - 1) }, 0, 1)).collect()
    };
    let straight = Schedule::new(&recording(&chain(None)), 2);
    assert_eq!((straight.cycles, straight.further_roots), (0, 0));
    let cycle = Schedule::new(&recording(&chain(Some(len))), 2);
    assert_eq!((cycle.cycles, cycle.further_roots), (1, 0));
    assert_eq!(cycle.parts[0].actions.len(), 2 * len as usize);
}
