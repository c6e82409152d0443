//! Single cases that arbitrary spans do not reach, or not surely.

use spanring::id::IdKeys;
use spanring::record::{Header, Payload, Records, flag};
use spanring::{Interned, Key, Value};

use super::oracle::{TestClock, context, encode, encode_with, keys, resources, scopes};
use super::*;
use crate::model::SpanData;

fn header(counter: u64, start: u64, end: u64) -> Header {
    Header { span: counter, trace_lo: counter, start, end, ..Header::default() }
}

fn decoded(records: &Records) -> Vec<SpanData> {
    decode(&encode(records).frame).unwrap().batch.spans
}

#[test]
fn a_batch_without_spans_carries_the_counts() {
    let encoded = encode(&Records::new());
    assert_eq!((encoded.spans, encoded.start_unix_nano, encoded.end_unix_nano), (0, 0, 0));
    let decoded = decode(&encoded.frame).unwrap();
    assert_eq!(decoded.batch, SpanBatch::default());
    let header = decoded.header;
    assert_eq!((header.sequence, header.created, header.sealed), (7, 1234, 1000));
    assert_eq!(header.dropped, [("ring full".to_owned(), 200), ("budget".to_owned(), 3)]);
    assert_eq!((header.instance, header.clock_epoch), (InstanceId(0xfeed_f00d), 2));
    assert_eq!(header.id_seed, keys().seed());
}

#[test]
fn what_a_span_dropped_is_counted_in_its_batch() {
    let too_much = Value::Array(vec![Value::Int(1 << 40); 140_000]);
    let mut payload = Payload::unlimited();
    payload.attribute_set(Key::Str("kept"), true);
    payload.attribute_set(Key::Str("lost"), &too_much);
    payload.event(Key::Str("event"), 9, true, |to| {
        to.set("lost", &too_much).set("kept", 1);
    });
    let mut records = Records::new();
    records.push_parts(header(1, 5, 10), payload);
    let span = &decoded(&records)[0];
    assert_eq!((span.dropped_attributes, span.attributes.len()), (1, 1));
    assert_eq!(span.events[0].dropped_attributes, 1);
    assert_eq!(span.events[0].attributes, [("kept".to_owned(), Value::Int(1))]);
}

#[test]
fn a_record_of_an_unknown_scope_or_resource_is_an_error_and_the_encoder_goes_on() {
    let mut encoder = Encoder::new().unwrap();
    let mut records = Records::new();
    records.push_parts(Header { scope: 3, ..header(1, 5, 10) }, Payload::unlimited());
    let error = encode_with(&mut encoder, &records).unwrap_err();
    assert!(error.to_string().contains("scope 3, of which the batch was given 3"), "{error}");
    let lonely = [ScopeData { resource: 2, ..ScopeData::default() }];
    let mut records = Records::new();
    records.push_parts(header(1, 5, 10), Payload::unlimited());
    let (keys, resources) = (keys(), resources());
    let error = encoder.encode(&records, &context(&keys, &resources, &lonely)).unwrap_err();
    assert!(error.to_string().contains("resource 2"), "{error}");
    let encoded = encode_with(&mut encoder, &records).unwrap();
    assert_eq!(decode(&encoded.frame).unwrap().batch.spans.len(), 1);
}

#[test]
fn more_spans_than_a_batch_holds_are_refused_and_as_many_are_not() {
    let mut records = Records::new();
    for counter in 1..=SPANS_MAX as u64 {
        records.push_parts(header(counter, counter * 10, counter * 10 + 5), Payload::unlimited());
    }
    let spans = decoded(&records);
    assert_eq!(spans.len(), SPANS_MAX);
    assert_eq!(spans[SPANS_MAX - 1].span_id, keys().span_id(SPANS_MAX as u64));
    records.push_parts(header(1 << 20, 5, 6), Payload::unlimited());
    assert!(encode_with(&mut Encoder::new().unwrap(), &records).unwrap_err().is_too_large());
}

/// Spans of the same shape that are open at the same time, more than a search looks at: each parent
/// is found, or spelled out.
#[test]
fn a_parent_is_kept_however_many_spans_are_open() {
    let open = 3000u64;
    let mut records = Records::new();
    for child in 0..open {
        let header = Header {
            parent: 1 + child,
            trace_lo: 1 + child,
            kind_status: 2,
            ..header(open + 1 + child, 10_000 + child, 20_000 + child)
        };
        records.push_parts(header, Payload::unlimited());
    }
    for parent in 0..open {
        records.push_parts(header(1 + parent, parent, 30_000 + parent), Payload::unlimited());
    }
    let spans = decoded(&records);
    for child in 0..open {
        let span = &spans[child as usize];
        assert_eq!(span.parent_span_id, Some(keys().span_id(1 + child)));
        assert_eq!(span.trace_id, keys().trace_id(1 + child));
    }
}

#[test]
fn times_of_coarse_clocks_take_fewer_bytes_and_come_back() {
    let bytes = |unit: u64| {
        let base = 1_700_000_000_000_000_000 / unit * unit;
        let mut records = Records::new();
        for n in 0..200u64 {
            let start = base + n * n % 1777 * 7_000_000;
            let end = start + n * 7919 % 577 * 3_000_000;
            let (start, end) = (start / unit * unit, end.max(start) / unit * unit);
            records.push_parts(header(1 + n, start, end), Payload::unlimited());
        }
        let encoded = encode(&records);
        for (span, record) in decode(&encoded.frame).unwrap().batch.spans.iter().zip(records.iter())
        {
            let times = (record.header.start, record.header.end);
            assert_eq!((span.start_unix_nano, span.end_unix_nano), times);
        }
        encoded.raw_bytes
    };
    assert!(bytes(1_000_000) + 200 < bytes(1_000_000 - 1));
    assert!(bytes(1_000) + 100 < bytes(999));
}

#[test]
fn a_string_that_repeats_is_written_once() {
    let raw_bytes = |text: &dyn Fn(usize) -> String| {
        let mut records = Records::new();
        for n in 0..100 {
            let mut payload = Payload::unlimited();
            payload.attribute_set(Key::Str("text"), text(n));
            records.push_parts(header(1 + n as u64, 10, 20), payload);
        }
        encode(&records).raw_bytes
    };
    let repeated = raw_bytes(&|_| "y".repeat(5000));
    let distinct = raw_bytes(&|n| format!("{n:03}{}", "y".repeat(5000)));
    assert!(repeated < 5000 + 2000, "{repeated}");
    assert!(distinct > 100 * 5000, "{distinct}");
}

/// Few bytes can stand for many events; what those take is counted before they are made.
#[test]
fn the_memory_of_events_is_counted() {
    let mut payload = Payload::unlimited();
    for _ in 0..5000 {
        payload.event(Key::Str("tick"), 10, true, |_| {});
    }
    let mut records = Records::new();
    records.push_parts(header(1, 10, 20), payload);
    let content = frame::decompress(&encode(&records).frame).unwrap();
    let need = 5000 * size_of::<crate::model::EventData>();
    let mut budget = value::Budget::limited(need - 1);
    assert!(decode::decode_within(&content, &mut budget).unwrap_err().is_too_large());
    let decoded = decode_content(&content).unwrap();
    assert_eq!(decoded.batch.spans[0].events.len(), 5000);
}

/// Long strings are told apart wherever they differ.
#[test]
fn strings_that_differ_in_their_middle_only_are_kept_apart() {
    let texts = ["a", "b"].map(|middle| ["x".repeat(500), "x".repeat(500)].join(middle));
    let mut records = Records::new();
    for n in 0..4 {
        let mut payload = Payload::unlimited();
        payload.attribute_set(Key::Str("text"), texts[n % 2].as_str());
        records.push_parts(header(1 + n as u64, 10, 20), payload);
    }
    for (n, span) in decoded(&records).iter().enumerate() {
        assert_eq!(span.attributes, [("text".to_owned(), Value::Str(texts[n % 2].clone()))]);
    }
}

/// A parent that is said to be in another process stays so, though a span with its ID is in the batch.
#[test]
fn a_remote_parent_stays_remote() {
    let raw = flag::SPAN_RAW | flag::TRACE_RAW;
    let parent = Header { flags: raw, trace_hi: 3, ..header(77, 5, 10) };
    let flags = raw | flag::PARENT_RAW | flag::PARENT_REMOTE;
    let child = Header { flags, trace_lo: 77, trace_hi: 3, parent: 77, ..header(2, 6, 8) };
    let local = Header { flags: flags ^ flag::PARENT_REMOTE, span: 3, ..child };
    let mut records = Records::new();
    for header in [child, local, parent] {
        records.push_parts(header, Payload::unlimited());
    }
    let remote: Vec<_> = decoded(&records).iter().map(|span| span.parent_is_remote).collect();
    assert_eq!(remote, [Some(true), Some(false), None]);
}

/// Equal keys of different types, and the same key twice in one event.
#[test]
fn columns_tell_types_apart_and_keep_order() {
    let mut records = Records::new();
    for n in 0..20i64 {
        let mut payload = Payload::unlimited();
        match n % 3 {
            0 => payload.attribute_set(Key::Str("k"), n),
            1 => payload.attribute_set(Key::Str("k"), "text"),
            _ => payload.attribute_set(Key::Str("k"), n as f64 + 0.25),
        }
        payload.event(Key::Str("e"), 5, true, |to| {
            to.set("first", n).set("between", true).set("text", "other").set("last", -n);
        });
        records.push_parts(header(1 + n as u64, 5, 10), payload);
    }
    for (n, span) in (0..20i64).zip(decoded(&records)) {
        let expected = match n % 3 {
            0 => Value::Int(n),
            1 => Value::Str("text".into()),
            _ => Value::Double(n as f64 + 0.25),
        };
        assert_eq!(span.attributes, [("k".to_owned(), expected)]);
        let event: Vec<_> = span.events[0].attributes.iter().map(|(_, value)| value).collect();
        assert_eq!(
            event,
            [&Value::Int(n), &Value::Bool(true), &Value::Str("other".into()), &Value::Int(-n)]
        );
    }
}

/// Names and keys beyond what the encoder keeps between batches.
#[test]
fn an_encoder_that_forgets_what_it_has_seen_goes_on() {
    let mut encoder = Encoder::new().unwrap();
    for batch in 0..8 {
        let mut records = Records::new();
        for n in 0..1500u64 {
            let mut payload = Payload::unlimited();
            payload.name(&format!("name {batch} {n}"));
            payload.attribute_set(Key::Interned(Interned::new("shared").unwrap()), n as i64);
            records.push_parts(header(1 + n, 5, 10), payload);
        }
        let encoded = encode_with(&mut encoder, &records).unwrap();
        for (n, span) in decode(&encoded.frame).unwrap().batch.spans.iter().enumerate() {
            assert_eq!(span.name, format!("name {batch} {n}"));
            assert_eq!(span.attributes, [("shared".to_owned(), Value::Int(n as i64))]);
        }
    }
}

/// Several threads' records, drained one after another, with counters in blocks.
#[test]
fn records_of_several_threads_come_back_in_their_order() {
    let mut records = Records::new();
    for thread in 0..4u64 {
        for n in 0..50u64 {
            let counter = 1 + thread * 1024 + n * 2;
            let start = 1000 + n * 100 + thread;
            let parent = Header { kind_status: 1, ..header(counter, start, start + 90) };
            let child = Header {
                parent: counter,
                trace_lo: counter,
                kind_status: 2,
                ..header(counter + 1, start + 10, start + 20)
            };
            records.push_parts(child, Payload::unlimited());
            records.push_parts(parent, Payload::unlimited());
        }
    }
    let encoded = encode(&records);
    let spans = decode(&encoded.frame).unwrap().batch.spans;
    for (span, record) in spans.iter().zip(records.iter()) {
        assert_eq!(span.span_id, keys().span_id(record.header.span));
        let parent = (record.header.parent != 0).then(|| keys().span_id(record.header.parent));
        assert_eq!(span.parent_span_id, parent);
    }
    assert!(encoded.frame.len() < 400 * 3, "{} bytes", encoded.frame.len());
}

/// A span that says that its parent is local, in another trace than the parent's own.
#[test]
fn a_trace_that_differs_from_the_parents_is_kept() {
    let mut records = Records::new();
    records.push_parts(Header { parent: 1, trace_lo: 77, ..header(2, 6, 8) }, Payload::unlimited());
    let raw = Header { trace_lo: 5, trace_hi: 6, flags: flag::TRACE_RAW, ..header(3, 6, 9) };
    records.push_parts(Header { parent: 1, ..raw }, Payload::unlimited());
    records.push_parts(header(1, 5, 10), Payload::unlimited());
    let spans = decoded(&records);
    assert_eq!(spans[0].trace_id, keys().trace_id(77));
    assert_eq!(spans[1].trace_id, spanring::TraceId(6 << 64 | 5));
    assert_eq!(spans[0].parent_span_id, Some(spans[2].span_id));
    assert_eq!(spans[1].parent_span_id, Some(spans[2].span_id));
    assert_eq!(scopes()[0].name, "scope 0");
}

/// The example of `docs/batch-format.md`: its bytes are what the encoder writes, and its IDs are right.
#[test]
fn the_documented_example_is_what_is_written() {
    let page = page();
    let keys = IdKeys::from_seed([0x0102_0304_0506_0708, 0x1112_1314_1516_1718]);
    let resources = [ResourceData {
        attributes: vec![("service.name".into(), "shop".into())],
        ..ResourceData::default()
    }];
    let scopes = [ScopeData { name: "app".into(), version: "1.0".into(), ..ScopeData::default() }];
    let base = 1_700_000_000_000_000_000;
    let mut records = Records::new();
    let name = |name: &str| Interned::new(name).unwrap().get();

    let mut query = Payload::unlimited();
    query.attribute_set(Key::Str("db.system"), "sqlite");
    query.attribute_set(Key::Str("rows"), 17);
    query.event(Key::Str("fetched"), base + 1_700, true, |to| {
        to.set("first", true);
    });
    let child = Header {
        parent: 5,
        trace_lo: 5,
        name: name("query"),
        kind_status: 3,
        ..header(6, base + 1_000, base + 2_000)
    };
    records.push_parts(Header { trace_flags: 3, ..child }, query);

    let mut failed = Payload::unlimited();
    failed.status_message("no such table");
    let child = Header {
        parent: 5,
        trace_lo: 5,
        name: name("query"),
        kind_status: 3 | 2 << 4,
        ..header(7, base + 2_500, base + 3_000)
    };
    records.push_parts(Header { trace_flags: 3, ..child }, failed);

    let root = Header {
        name: name("GET /"),
        kind_status: 2,
        trace_flags: 3,
        ..header(5, base, base + 4_321)
    };
    records.push_parts(root, Payload::unlimited());

    let far = Header {
        parent: 2,
        trace_lo: 1,
        name: name("flush"),
        kind_status: 1,
        ..header(9, base + 100, base + 9_999)
    };
    records.push_parts(Header { trace_flags: 3, ..far }, Payload::unlimited());

    let context = BatchContext {
        clock: &TestClock,
        instance: InstanceId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        sequence: 3,
        keys: &keys,
        created: 12,
        sealed: 10,
        dropped: &[("budget", 2)],
        resources: &resources,
        scopes: &scopes,
        clock_epoch: 0,
        level: LEVEL_DEFAULT,
    };
    let encoded = Encoder::new().unwrap().encode(&records, &context).unwrap();
    let content = frame::decompress(&encoded.frame).unwrap();
    let lines: Vec<String> = content
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    let hex = lines.join("\n");
    for span in decode(&encoded.frame).unwrap().batch.spans {
        let ids = format!("{} {} {}", span.name, span.trace_id, span.span_id);
        assert!(page.contains(&span.span_id.to_string()), "the page lacks {ids}");
        assert!(page.contains(&span.trace_id.to_string()), "the page lacks {ids}");
    }
    assert!(page.contains(&hex), "the page's example is not what is written:\n{hex}");
}

#[test]
fn what_no_encoder_writes_into_the_documented_example_is_refused() {
    let page = page();
    let hex = page.split("## Example").nth(1).and_then(|text| text.split("```").nth(1)).unwrap();
    let bytes = hex.split_whitespace().map(|digits| u8::from_str_radix(digits, 16));
    let content: Vec<u8> = bytes.collect::<Result<_, _>>().unwrap();
    decode_content(&content).unwrap();
    let shapes = [0x20, 0x03, 0x13, 0x02, 0x01, 0x60, 0x80, 0, 4, 1, 0, 0, 0, 0];
    let edges = [4, 2, 0, 1, 2, 2, 2, 2];
    let ghosts = [0, 0, 0, 1, 6, 2];
    for (part, at, byte, expected) in [
        (&shapes[..], 0, 0x21, "a kind or status"),
        (&shapes, 5, 0x68, "a kind or status"),
        (&shapes, 7, 1, "extras"),
        (&shapes, 8, 64, "extras"),
        (&shapes, 12, 4, "extras"),
        (&shapes, 13, 32, "extras"),
        (&edges, 4, 3, "no edge"),
        (&edges, 7, 6, "no edge"),
        (&ghosts, 3, 2, "a ghost"),
        (&ghosts, 3, 4, "a ghost"),
        (&ghosts, 3, 17, "a ghost"),
    ] {
        let mut places = (0..content.len()).filter(|&at| content[at..].starts_with(part));
        let place = places.next().expect("the example has the part");
        let mut content = content.clone();
        content[place + at] = byte;
        let error = decode_content(&content).expect_err("no encoder writes that").to_string();
        assert!(error.contains(expected), "{byte} at {at} of {part:?}: {error}");
    }
}

#[test]
fn the_documented_ids_are_right() {
    let page = page();
    let example = [0x0102_0304_0506_0708, 0x1112_1314_1516_1718];
    for (seed, counter) in
        [([0, 0], 0), ([0, 0], 1), (example, 1), (example, 5), (example, 1 << 63)]
    {
        let keys = IdKeys::from_seed(seed);
        let ids = format!("| `{}` | `{}` |", keys.trace_id(counter), keys.span_id(counter));
        assert!(page.contains(&ids), "counter {counter}: {ids}");
    }
}

#[test]
fn the_documented_names_are_the_well_known_ones() {
    let page = page();
    for (row, names) in super::well_known::WELL_KNOWN.chunks(4).enumerate() {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let row = format!("| {} | {} |", row * 4, names.join(" | "));
        assert!(page.contains(&row), "the page lacks {row}");
    }
}

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/batch-format.md");
    std::fs::read_to_string(path).expect("docs/batch-format.md can be read")
}
