//! The oracle: arbitrary spans as owned data, with what their records hold beside it; the records that
//! follow from them; and the comparison with what was decoded.

use proptest::prelude::*;
use spanring::id::IdKeys;
use spanring::record::{Attributes, Header, LinkWords, Payload, Records, flag};
use spanring::{Interned, Key, SpanId, SpanKind, StatusCode, TraceId, Value};

use super::super::*;
use crate::model::{EventData, LinkData, SpanData};

/// Times in the tests' records are wall-clock times already; ticks count in units of 7 ns.
pub(crate) struct TestClock;

const TICK: u64 = 7;

impl TickClock for TestClock {
    fn span_times(&self, header: &Header) -> (u64, u64) {
        (header.start, header.end)
    }

    fn unix_nano(&self, ticks: u64) -> u64 {
        ticks.wrapping_mul(TICK)
    }
}

/// How a test's span gets its parent and trace.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A root; of its own trace, or of one with another counter or a raw ID.
    Root(Trace),
    /// A child of another span of the test, in that one's trace.
    Child(usize),
    /// A child of a span that is not there.
    Far { counter: u64, trace: Trace },
    /// A child of a raw span ID.
    Raw { id: u64, remote: bool, trace: Trace },
}

#[derive(Clone, Debug)]
pub(crate) enum Trace {
    Own,
    Counter(u64),
    Raw(u128),
}

#[derive(Clone, Debug)]
pub(crate) struct TestSpan {
    pub(crate) data: SpanData,
    origin: Origin,
    /// The counter, or the raw ID.
    id: u64,
    raw: bool,
    links: Vec<LinkWordsOwned>,
    interned: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct LinkWordsOwned {
    trace: Trace,
    span: u64,
    span_raw: bool,
}

pub(crate) fn keys() -> IdKeys {
    IdKeys::from_seed([0x0123_4567_89ab_cdef, 42])
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-3i64..300).prop_map(Value::Int),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        (-5000i32..5000).prop_map(|n| Value::Double(f64::from(n) / 100.0)),
        "[a-c]{0,3}".prop_map(Value::Str),
        "/items/[0-9]{1,4}".prop_map(Value::Str),
        "\\PC{0,40}".prop_map(Value::Str),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|b| Value::Bytes(b.into())),
        "x{1000,1100}".prop_map(Value::Str),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec(("[k-m]{0,2}", inner), 0..4).prop_map(Value::Map),
        ]
    })
}

/// Attributes with distinct keys, as a span has them.
fn attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    proptest::collection::vec(("[a-e]{1,2}", value()), 0..5).prop_map(|mut attributes| {
        let mut seen = std::collections::HashSet::new();
        attributes.retain(|(key, _)| seen.insert(key.clone()));
        attributes
    })
}

fn trace() -> impl Strategy<Value = Trace> {
    prop_oneof![
        Just(Trace::Own),
        any::<u64>().prop_map(Trace::Counter),
        any::<u128>().prop_map(Trace::Raw),
    ]
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        2 => Just(Origin::Root(Trace::Own)),
        1 => trace().prop_map(Origin::Root),
        6 => (0usize..1000).prop_map(Origin::Child),
        1 => (1u64..5000, trace()).prop_map(|(counter, trace)| Origin::Far { counter, trace }),
        1 => (any::<u64>(), any::<bool>(), trace())
            .prop_map(|(id, remote, trace)| Origin::Raw { id, remote, trace }),
    ]
}

fn times() -> impl Strategy<Value = (u64, u64)> {
    let base = 1_700_000_000_000_000_000u64;
    prop_oneof![
        8 => (0u64..5000, 0u64..3000).prop_map(move |(start, len)| (base + start, base + start + len)),
        3 => (0u64..50, 0u64..50).prop_map(move |(start, len)| {
            (base + start * 256, base + (start + len) * 256)
        }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ]
}

fn event() -> impl Strategy<Value = EventData> {
    ("[a-b]{0,2}", any::<u32>(), attributes()).prop_map(|(name, ticks, attributes)| EventData {
        time_unix_nano: u64::from(ticks) * TICK,
        name,
        attributes,
        dropped_attributes: 0,
    })
}

fn link() -> impl Strategy<Value = (LinkData, LinkWordsOwned)> {
    let words = (any::<u64>(), any::<bool>(), trace());
    (words, any::<bool>(), any::<u8>(), "[a-c=]{0,3}", attributes()).prop_map(
        |((span, span_raw, trace), remote, trace_flags, trace_state, attributes)| {
            let trace_id = match trace {
                Trace::Own => keys().trace_id(span),
                Trace::Counter(counter) => keys().trace_id(counter),
                Trace::Raw(id) => TraceId(id),
            };
            let span_id = if span_raw { SpanId(span) } else { keys().span_id(span) };
            let data = LinkData {
                trace_id,
                span_id,
                trace_state,
                trace_flags,
                is_remote: Some(remote),
                attributes,
                dropped_attributes: 0,
            };
            (data, LinkWordsOwned { trace, span, span_raw })
        },
    )
}

pub(crate) fn span() -> impl Strategy<Value = TestSpan> {
    let head = ("[p-s]{1,2}", 0u8..6, 0u8..3, prop_oneof![9 => Just(1u8), 1 => any::<u8>()]);
    let texts = (prop_oneof![4 => Just(String::new()), 1 => "[a-z ]{1,9}"], "(|a=1|b=2,c=3)");
    let extra = (
        proptest::collection::vec(event(), 0..3),
        proptest::collection::vec(link(), 0..2),
        0usize..3,
    );
    let id = (origin(), prop_oneof![9 => Just(false), 1 => Just(true)], any::<u64>());
    (head, texts, times(), attributes(), extra, id, any::<bool>()).prop_map(
        |(head, texts, times, attributes, extra, id, interned)| {
            let (name, kind, status, trace_flags) = head;
            let (links, link_words) = extra.1.into_iter().unzip();
            TestSpan {
                data: SpanData {
                    scope: extra.2,
                    trace_flags,
                    trace_state: texts.1,
                    name,
                    kind: SpanKind::from_number(kind).unwrap(),
                    start_unix_nano: times.0,
                    end_unix_nano: times.1,
                    attributes,
                    events: extra.0,
                    links,
                    status: StatusCode::from_number(status).unwrap(),
                    status_message: texts.0,
                    ..SpanData::default()
                },
                origin: id.0,
                id: id.2,
                raw: id.1,
                links: link_words,
                interned,
            }
        },
    )
}

/// Spans in the order of records, with IDs, parents and traces filled in.
pub(crate) fn spans(
    len: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<TestSpan>> {
    (proptest::collection::vec(span(), len), any::<bool>(), any::<bool>()).prop_map(
        |(mut spans, by_end, by_start)| {
            if by_end {
                spans.sort_by_key(|span| span.data.end_unix_nano);
            }
            let mut order: Vec<usize> = (0..spans.len()).collect();
            if by_start {
                order.sort_by_key(|&at| spans[at].data.start_unix_nano);
            }
            for (counter, &at) in order.iter().enumerate() {
                if !spans[at].raw {
                    spans[at].id = 100 + counter as u64;
                }
            }
            // A parent has a lower counter than its child, or is no child's at all.
            for (position, &at) in order.iter().enumerate() {
                if let Origin::Child(parent) = &mut spans[at].origin {
                    match position {
                        0 => spans[at].origin = Origin::Root(Trace::Own),
                        _ => *parent = order[*parent % position],
                    }
                }
            }
            for &at in &order {
                resolve(&mut spans, at);
            }
            spans
        },
    )
}

fn trace_of(trace: &Trace, own: u64) -> (u64, u64, u16, TraceId) {
    match *trace {
        Trace::Own => (own, 0, 0, keys().trace_id(own)),
        Trace::Counter(counter) => (counter, 0, 0, keys().trace_id(counter)),
        Trace::Raw(id) => (id as u64, (id >> 64) as u64, flag::TRACE_RAW, TraceId(id)),
    }
}

/// Trace words and flags of a span; a child's are its parent's.
fn trace_words(spans: &[TestSpan], at: usize) -> (u64, u64, u16, TraceId) {
    match &spans[at].origin {
        Origin::Child(parent) => trace_words(spans, *parent),
        Origin::Root(trace) | Origin::Far { trace, .. } | Origin::Raw { trace, .. } => {
            trace_of(trace, spans[at].id)
        }
    }
}

fn resolve(spans: &mut [TestSpan], at: usize) {
    let trace_id = trace_words(spans, at).3;
    let own_id = |span: &TestSpan| if span.raw { SpanId(span.id) } else { keys().span_id(span.id) };
    let (parent, remote) = match &spans[at].origin {
        Origin::Root(_) => (None, None),
        Origin::Child(parent) => (Some(own_id(&spans[*parent])), Some(false)),
        Origin::Far { counter, .. } => (Some(keys().span_id(*counter)), Some(false)),
        Origin::Raw { id, remote, .. } => (Some(SpanId(*id)), Some(*remote)),
    };
    let span_id = own_id(&spans[at]);
    let data = &mut spans[at].data;
    data.trace_id = trace_id;
    data.span_id = span_id;
    (data.parent_span_id, data.parent_is_remote) = (parent, remote);
}

fn fill(attributes: &mut Attributes<'_>, from: &[(String, Value)]) {
    for (key, value) in from {
        attributes.set(key.as_str(), value);
    }
}

pub(crate) fn records(spans: &[TestSpan]) -> Records {
    let mut records = Records::new();
    for (at, span) in spans.iter().enumerate() {
        let data = &span.data;
        let (trace_lo, trace_hi, mut flags, _) = trace_words(spans, at);
        if span.raw {
            flags |= flag::SPAN_RAW;
        }
        let parent = match &span.origin {
            Origin::Root(_) => 0,
            Origin::Child(parent) => {
                let parent = &spans[*parent];
                flags |= if parent.raw { flag::PARENT_RAW } else { 0 };
                parent.id
            }
            Origin::Far { counter, .. } => *counter,
            Origin::Raw { id, remote, .. } => {
                flags |= flag::PARENT_RAW | if *remote { flag::PARENT_REMOTE } else { 0 };
                *id
            }
        };
        let mut payload = Payload::unlimited();
        let mut header = Header {
            trace_lo,
            trace_hi,
            span: span.id,
            parent,
            start: data.start_unix_nano,
            end: data.end_unix_nano,
            scope: data.scope as u16,
            flags,
            kind_status: data.kind as u8 | (data.status as u8) << 4,
            trace_flags: data.trace_flags,
            ..Header::default()
        };
        if span.interned {
            header.name = Interned::new(&data.name).unwrap().get();
        } else {
            payload.name(&data.name);
        }
        payload.trace_state(&data.trace_state);
        for (index, (key, value)) in data.attributes.iter().enumerate() {
            match value {
                // Some strings as call sites write them.
                Value::Str(text) if index % 2 == 0 && span.interned && text.len() < 100 => {
                    payload.attribute_set(key.into(), Interned::new(text).unwrap());
                }
                value => payload.attribute_set(key.into(), value),
            }
        }
        for event in &data.events {
            let (wall, time) = match span.interned {
                true => (true, event.time_unix_nano),
                false => (false, event.time_unix_nano / TICK),
            };
            let name = Key::Str(&event.name);
            payload.event(name, time, wall, |to| fill(to, &event.attributes));
        }
        for (link, words) in data.links.iter().zip(&span.links) {
            let (trace_lo, trace_hi, mut bits, _) = trace_of(&words.trace, words.span);
            bits |= if words.span_raw { flag::SPAN_RAW } else { 0 };
            bits |= if link.is_remote == Some(true) { flag::PARENT_REMOTE } else { 0 };
            let words = LinkWords {
                trace_lo,
                trace_hi,
                span: words.span,
                flags: u32::from(link.trace_flags) | u32::from(bits) << 8,
                trace_state: &link.trace_state,
            };
            payload.link(&words, |to| fill(to, &link.attributes));
        }
        payload.status_message(&data.status_message);
        records.push_parts(header, payload);
    }
    records
}

pub(crate) fn resources() -> Vec<ResourceData> {
    (0..2)
        .map(|n| ResourceData {
            attributes: vec![
                ("service.name".into(), format!("service {n}").as_str().into()),
                (
                    "nested".into(),
                    Value::Map(vec![("deep".into(), Value::Array(vec![1i64.into()]))]),
                ),
            ],
            dropped_attributes: n,
            schema_url: "https://example.com/schema".into(),
        })
        .collect()
}

pub(crate) fn scopes() -> Vec<ScopeData> {
    (0..3)
        .map(|n| ScopeData {
            resource: n % 2,
            name: format!("scope {n}"),
            version: "1.0".into(),
            attributes: vec![("a".into(), Value::Double(n as f64 + 0.5))],
            dropped_attributes: n as u32,
            schema_url: String::new(),
        })
        .collect()
}

pub(crate) fn context<'a>(
    keys: &'a IdKeys,
    resources: &'a [ResourceData],
    scopes: &'a [ScopeData],
) -> BatchContext<'a, TestClock> {
    BatchContext {
        clock: &TestClock,
        instance: InstanceId(0xfeed_f00d),
        sequence: 7,
        keys,
        created: 1234,
        sealed: 1000,
        dropped: &[("ring full", 200), ("budget", 3)],
        resources,
        scopes,
        clock_epoch: 2,
        level: LEVEL_DEFAULT,
    }
}

pub(crate) fn encode_with(encoder: &mut Encoder, records: &Records) -> Result<Encoded, BatchError> {
    encoder.encode(records, &context(&keys(), &resources(), &scopes()))
}

pub(crate) fn encode(records: &Records) -> Encoded {
    encode_with(&mut Encoder::new().unwrap(), records).unwrap()
}

/// Scopes are renumbered by first use, so spans are compared with their scope's and resource's data.
pub(crate) fn assert_same(decoded: &DecodedBatch, expected: &[TestSpan]) {
    assert_eq!(decoded.batch.spans.len(), expected.len());
    for (found, expected) in decoded.batch.spans.iter().zip(expected) {
        let found_scope = &decoded.batch.scopes[found.scope];
        let expected_scope = &scopes()[expected.data.scope];
        assert_eq!(found_scope.name, expected_scope.name);
        assert_eq!(found_scope.attributes, expected_scope.attributes);
        assert_eq!(found_scope.dropped_attributes, expected_scope.dropped_attributes);
        assert_eq!(
            decoded.batch.resources[found_scope.resource],
            resources()[expected_scope.resource]
        );
        // Compared as text too, since a NaN equals nothing.
        let found = SpanData { scope: expected.data.scope, ..found.clone() };
        assert_eq!(exact(&found), exact(&expected.data));
    }
}

/// The span as text in which doubles are told apart by their bits.
fn exact(span: &SpanData) -> String {
    fn bits(value: &Value) -> Value {
        match value {
            Value::Double(value) => Value::Str(format!("double {:016x}", value.to_bits())),
            Value::Array(values) => Value::Array(values.iter().map(bits).collect()),
            Value::Map(entries) => {
                Value::Map(entries.iter().map(|(key, value)| (key.clone(), bits(value))).collect())
            }
            other => other.clone(),
        }
    }
    let all = |attributes: &mut Vec<(String, Value)>| {
        attributes.iter_mut().for_each(|(_, value)| *value = bits(value));
    };
    let mut span = span.clone();
    all(&mut span.attributes);
    span.events.iter_mut().for_each(|event| all(&mut event.attributes));
    span.links.iter_mut().for_each(|link| all(&mut link.attributes));
    format!("{span:#?}")
}
