//! Whole contexts through carriers, after the W3C test suite's requests.

use std::collections::HashMap;

use super::*;
use crate::context::TraceFlags;
use crate::id::{SpanId, TraceId};

const PARENT: (&str, &str) =
    ("traceparent", "00-12345678901234567890123456789012-1234567890123456-00");

const NONE: [(&str, &str); 0] = [];

fn state_of(lines: &[&str]) -> TraceState {
    let mut headers = vec![PARENT];
    headers.extend(lines.iter().map(|line| ("TraceState", *line)));
    let extracted = extract_trace_context(&headers).expect("the traceparent is valid");
    extracted.expect("there is a traceparent").1
}

#[test]
fn no_traceparent_is_no_context_whatever_the_tracestate_says() {
    assert_eq!(extract_trace_context(&NONE[..]), Ok(None));
    assert_eq!(extract_trace_context(&[("tracestate", "foo=1")][..]), Ok(None));
    for name in ["trace-parent", "trace.parent"] {
        assert_eq!(extract_trace_context(&[(name, PARENT.1)][..]), Ok(None));
    }
}

#[test]
fn blanks_around_a_traceparent_are_taken_off() {
    for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        let headers = [("TrAcEpArEnT", format!("{before}{}{after}", PARENT.1))];
        let (parent, state) = extract_trace_context(&headers[..]).expect("valid").expect("there");
        assert_eq!(parent.to_string(), PARENT.1);
        assert!(state.is_empty());
    }
    assert!(extract_trace_context(&[("traceparent", format!("\n{}", PARENT.1))][..]).is_err());
}

#[test]
fn two_traceparents_are_none_even_if_they_agree() {
    let error = extract_trace_context(&[PARENT, PARENT][..]).expect_err("there are two");
    assert_eq!(error.header(), "traceparent");
    assert!(error.to_string().contains("more than once"));
}

#[test]
fn an_invalid_traceparent_is_an_error_with_or_without_a_tracestate() {
    let headers = [("traceparent", "00-0"), ("tracestate", "foo=1")];
    let error = extract_trace_context(&headers[..]).expect_err("it is too short");
    assert!(error.to_string().starts_with("traceparent, byte 4: shorter than"));
}

#[test]
fn an_invalid_tracestate_is_dropped_whole_and_the_traceparent_stays() {
    for bad in ["foo=1,foo=2", "FOO=1,bar=2", "foo=,bar=3", "foo=bar=baz", "é", "foo"] {
        assert!(state_of(&[bad]).is_empty(), "{bad}");
        assert!(extract_trace_state(&[("tracestate", bad)][..]).is_err(), "{bad}");
    }
    assert!(state_of(&["foo=1", "foo=1"]).is_empty());
}

#[test]
fn tracestate_lines_are_combined_in_their_order() {
    assert_eq!(state_of(&["foo=1", ""]).as_str(), "foo=1");
    assert_eq!(state_of(&["", "foo=1"]).as_str(), "foo=1");
    assert_eq!(state_of(&["foo=1,bar=2", "rojo=1"]).as_str(), "foo=1,bar=2,rojo=1");
    assert!(state_of(&[]).is_empty());
}

#[test]
fn what_is_injected_is_extracted_from_every_carrier() {
    let flags = TraceFlags(TraceFlags::SAMPLED.0 | TraceFlags::RANDOM.0);
    let parent = TraceParent::new(TraceId(7 << 100), SpanId(9), flags);
    let state = TraceState::parse("a=1,b=2").expect("valid");
    let baggage = Baggage::parse("k=v%20w;p");
    let mut pairs: Vec<(String, String)> = vec![("Tracestate".into(), "stale=1".into())];
    let mut map: HashMap<String, String> = pairs.iter().cloned().collect();
    inject_trace_context(&parent, &state, &mut pairs);
    inject_baggage(&baggage, &mut pairs);
    inject_trace_context(&parent, &state, &mut map);
    inject_baggage(&baggage, &mut map);
    assert_eq!(extract_trace_context(&pairs), Ok(Some((parent, state.clone()))));
    assert_eq!(extract_trace_context(&map), Ok(Some((parent, state))));
    assert_eq!(extract_baggage(&pairs), baggage);
    assert_eq!(extract_baggage(&map), baggage);
    assert_eq!((pairs.len(), map.len()), (3, 3));
}

#[test]
fn nothing_is_injected_for_ids_of_zeros_or_an_empty_value() {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let state = TraceState::parse("a=1").expect("valid");
    for (trace, span) in [(0, 1), (1, 0)] {
        let parent = TraceParent::new(TraceId(trace), SpanId(span), TraceFlags::SAMPLED);
        inject_trace_context(&parent, &state, &mut pairs);
    }
    inject_baggage(&Baggage::default(), &mut pairs);
    assert!(pairs.is_empty(), "{pairs:?}");
    let parent = TraceParent::new(TraceId(1), SpanId(1), TraceFlags::default());
    inject_trace_context(&parent, &TraceState::default(), &mut pairs);
    assert_eq!(pairs.len(), 1, "an empty tracestate is not sent");
}

#[test]
fn baggage_lines_are_combined() {
    let headers = [("baggage", "userId=alice"), ("Baggage", "serverNode=DF%2028,bad")];
    let baggage = extract_baggage(&headers[..]);
    assert_eq!(baggage.to_string(), "userId=alice,serverNode=DF%2028");
    assert_eq!(baggage.left_out(), 1);
    assert!(extract_baggage(&NONE[..]).is_empty());
}
