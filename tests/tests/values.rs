//! Attribute values of all types, from the API to the decoded batch.

use std::cell::Cell;

use spanring::settings::{RootSampler, SamplerSetting};
use spanring::{DEPTH_MAX, Interned, Span, Value, span};
use spanring_tests::{record, settings};

#[test]
fn values_of_all_types_arrive_as_they_were_written() {
    let bytes = || Value::Bytes(vec![0, 255, 7].into());
    let map = Value::Map(vec![
        ("text".into(), "ä".into()),
        ("null".into(), Value::Null),
        ("list".into(), Value::Array(vec![1i64.into(), true.into(), bytes()])),
        ("same".into(), 1i64.into()),
        ("same".into(), 2i64.into()),
        ("empty".into(), Value::Map(Vec::new())),
    ]);
    let cases: Vec<(&str, Value)> = vec![
        ("true", true.into()),
        ("false", false.into()),
        ("zero", 0i64.into()),
        ("min", i64::MIN.into()),
        ("max", i64::MAX.into()),
        ("double", 0.1.into()),
        ("negative zero", (-0.0).into()),
        ("infinity", f64::INFINITY.into()),
        ("smallest", f64::from_bits(1).into()),
        ("empty", "".into()),
        ("text", "line\nzero\0 — €".into()),
        ("at the inline limit", "x".repeat(256).into()),
        ("above the inline limit", "y".repeat(257).into()),
        ("large", "z".repeat(200_000).into()),
        ("bytes", bytes()),
        ("no bytes", Value::Bytes(Vec::new().into())),
        ("many bytes", Value::Bytes(vec![9; 100_000].into())),
        ("null", Value::Null),
        ("array", Value::Array(vec!["a".into(), 1i64.into(), 0.5.into(), Value::Null])),
        ("empty array", Value::Array(Vec::new())),
        ("map", map),
    ];
    let ledger = record(settings(), |_| {
        let mut span = span!("all");
        for (key, value) in &cases {
            span.set_attribute(*key, value);
        }
        drop(span);
        for (key, value) in &cases {
            let mut span = Span::start(*key);
            span.set_attribute("value", value.clone());
        }
    });
    let all: Vec<_> = cases.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    assert_eq!(ledger.span("all").attributes, all);
    for (key, value) in cases {
        assert_eq!(ledger.span(key).attributes, [("value".to_owned(), value)]);
    }
}

#[test]
fn a_double_keeps_its_bits_not_a_number_included() {
    let odd = f64::from_bits(0x7ff8_0000_0000_1234);
    let ledger = record(settings(), |_| drop(span!("odd", "value" = odd)));
    let Value::Double(value) = ledger.span("odd").attributes[0].1 else { panic!("no double") };
    assert_eq!(value.to_bits(), odd.to_bits());
}

#[test]
fn rust_values_become_the_nearest_type_that_opentelemetry_has() {
    let owned = String::from("owned");
    let text: &str = &owned;
    let literal = Interned::new("interned").unwrap();
    let ledger = record(settings(), |_| {
        drop(span!(
            "call site",
            "i8" = -8i8,
            "u32" = u32::MAX,
            "u64" = u64::MAX,
            "usize" = 5usize,
            "i128" = 1i128 << 100,
            "f32" = 0.5f32,
            "char" = 'ß',
            "literal" = "literal",
            "raw" = r#"raw "literal""#,
            "number" = 7,
            "truth" = true,
            "text" = text,
            "owned" = owned.clone(),
            "some" = Some(3),
            "none" = None::<i64>,
            "interned" = literal,
            "array" = [1, 2],
            "texts" = vec!["a", "b"],
            "closure" = || "called",
        ));
    });
    let strings = |list: [&str; 2]| Value::Array(list.map(Value::from).to_vec());
    let expected: Vec<(&str, Value)> = vec![
        ("i8", (-8i64).into()),
        ("u32", i64::from(u32::MAX).into()),
        ("u64", "18446744073709551615".into()),
        ("usize", 5i64.into()),
        ("i128", "1267650600228229401496703205376".into()),
        ("f32", 0.5.into()),
        ("char", "ß".into()),
        ("literal", "literal".into()),
        ("raw", "raw \"literal\"".into()),
        ("number", 7i64.into()),
        ("truth", true.into()),
        ("text", "owned".into()),
        ("owned", "owned".into()),
        ("some", 3i64.into()),
        ("none", Value::Null),
        ("interned", "interned".into()),
        ("array", Value::Array(vec![1i64.into(), 2i64.into()])),
        ("texts", strings(["a", "b"])),
        ("closure", "called".into()),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(ledger.span("call site").attributes, expected);
}

#[test]
fn the_last_value_of_a_key_wins_and_stands_last() {
    let ledger = record(settings(), |_| {
        let mut span = span!("set twice", "a" = 1, "b" = "short", "c" = 3);
        span.set_attribute("b", "long ".repeat(500).as_str()).set_attribute("a", Value::Null);
        span.set_attribute("b", 2);
    });
    let expected =
        [("c".into(), 3i64.into()), ("a".into(), Value::Null), ("b".into(), 2i64.into())];
    assert_eq!(ledger.span("set twice").attributes, expected);
}

#[test]
fn nesting_beyond_the_bound_becomes_null_and_nothing_overflows() {
    let nest = |depth| (0..depth).fold(Value::from(7i64), |inner, _| Value::Array(vec![inner]));
    let ledger = record(settings(), |_| {
        let mut span = span!("deep");
        span.set_attribute("fits", nest(DEPTH_MAX)).set_attribute("cut", nest(DEPTH_MAX + 50));
    });
    let attributes = &ledger.span("deep").attributes;
    assert_eq!(attributes[0].1, nest(DEPTH_MAX));
    let mut depth = 0;
    let mut value = &attributes[1].1;
    while let Value::Array(items) = value {
        value = &items[0];
        depth += 1;
    }
    assert_eq!((depth, value), (DEPTH_MAX, &Value::Null));
}

#[test]
fn closures_are_called_once_for_spans_that_record_and_never_for_others() {
    let calls = Cell::new(0);
    let value = || {
        calls.set(calls.get() + 1);
        "computed"
    };
    let ledger = record(settings(), |_| {
        let mut span = span!("recorded");
        span.set_attribute("closure", value);
    });
    assert_eq!((calls.get(), ledger.names().len()), (1, 1));
    let off = SamplerSetting { parent_based: true, root: RootSampler::AlwaysOff };
    let ledger = record(settings().sampler(off), |_| {
        let mut span = span!(
            "not sampled",
            "lazy" = value,
            "block" = {
                calls.set(calls.get() + 100);
                1
            }
        );
        assert!(!span.is_recording());
        span.set_attribute("closure", value);
        span.add_event_with("event", |event| {
            event.set("closure", value);
        });
    });
    assert_eq!(calls.get(), 1, "values of spans that do not record are not computed");
    assert_eq!(ledger.spans().count(), 0);
}

#[test]
fn a_call_site_writes_the_same_attributes_the_first_time_and_every_time_after() {
    // The first time nothing is interned, so that each attribute goes its own way; afterwards all are
    // written at once, if they fit.
    let ledger = record(settings(), |_| {
        for _ in 0..3 {
            drop(span!(
                "plain",
                "text" = "literal",
                "small" = -7,
                "large" = i64::MIN,
                "wide" = u64::MAX,
                "size" = 12usize,
                "double" = 0.5,
                "yes" = true
            ));
            drop(span!("widest", "a" = i128::MIN, "c" = -1i128));
            drop(span!(
                "too many words",
                "1" = u64::MAX,
                "2" = u64::MAX,
                "3" = u64::MAX,
                "4" = u64::MAX,
                "5" = "five"
            ));
            drop(span!("mixed", "plain" = 1, "not" = "a".repeat(3), "literal" = "b"));
        }
    });
    let max = u64::MAX.to_string();
    let expected: [Vec<(&str, Value)>; 4] = [
        vec![
            ("text", "literal".into()),
            ("small", (-7i64).into()),
            ("large", i64::MIN.into()),
            ("wide", max.as_str().into()),
            ("size", 12i64.into()),
            ("double", 0.5.into()),
            ("yes", true.into()),
        ],
        vec![("a", i128::MIN.to_string().as_str().into()), ("c", (-1i64).into())],
        vec![
            ("1", max.as_str().into()),
            ("2", max.as_str().into()),
            ("3", max.as_str().into()),
            ("4", max.as_str().into()),
            ("5", "five".into()),
        ],
        vec![("plain", 1i64.into()), ("not", "aaa".into()), ("literal", "b".into())],
    ];
    let spans: Vec<_> = ledger.spans().collect();
    assert_eq!(spans.len(), 12);
    for (number, span) in spans.iter().enumerate() {
        let expected =
            expected[number % 4].iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        assert_eq!(span.attributes, expected.collect::<Vec<_>>(), "span {number}");
    }
}

#[test]
fn limits_hold_for_a_call_sites_attributes_the_first_time_and_every_time_after() {
    let ledger = record(settings().attribute_count_limit(2), |_| {
        for _ in 0..3 {
            drop(span!("limited", "a" = 1, "b" = 2, "c" = 3));
        }
    });
    for span in ledger.spans() {
        assert_eq!(span.attributes, [("a".to_owned(), 1i64.into()), ("b".to_owned(), 2i64.into())]);
        assert_eq!(span.dropped_attributes, 1);
    }
    let ledger = record(settings().attribute_value_length_limit(2), |_| {
        for _ in 0..3 {
            drop(span!("cut", "a" = "literal", "b" = u64::MAX));
        }
    });
    for span in ledger.spans() {
        assert_eq!(span.attributes, [("a".to_owned(), "li".into()), ("b".to_owned(), "18".into())]);
    }
}
