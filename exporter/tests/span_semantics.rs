//! What the span API promises, read back from sealed batches.
//!
//! Each test has a pipeline of its own, attached to the threads that record.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use spanring::export::{Attached, Reason};
use spanring::settings::{RootSampler, SamplerSetting, Settings, SettingsBuilder};
use spanring::{
    DEPTH_MAX, Instrument, Interned, ResourceInfo, Span, SpanContext, SpanId, SpanKind, StatusCode,
    TraceFlags, TraceId, TraceState, Tracer, TracerInfo, Value, WallTime, propagation, span,
};
use spanring_exporter::batch::decode;
use spanring_exporter::model::{SpanBatch, SpanData};
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{MemorySink, Pipeline};

const TIMEOUT: Duration = Duration::from_secs(60);
const SAMPLED_RANDOM: u8 = TraceFlags::SAMPLED.0 | TraceFlags::RANDOM.0;
const REMOTE_TRACE: TraceId = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
const REMOTE_SPAN: SpanId = SpanId(0x00f0_67aa_0ba9_02b7);

struct Rig {
    pipeline: Pipeline,
    memory: MemorySink,
}

impl Rig {
    fn new() -> Self {
        Self::with(|settings| settings)
    }

    fn with(settings: impl FnOnce(SettingsBuilder) -> SettingsBuilder) -> Self {
        let memory = MemorySink::new();
        let pipeline = build(settings, memory.clone());
        Rig { pipeline, memory }
    }

    fn sampling(parent_based: bool, root: RootSampler) -> Self {
        Self::with(|settings| settings.sampler(SamplerSetting { parent_based, root }))
    }

    fn attach(&self) -> Attached {
        self.pipeline.attach()
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.pipeline.stats().engine.dropped.0[reason as usize]
    }

    /// Ends the pipeline; gives what it delivered.
    fn batches(&self) -> Vec<SpanBatch> {
        self.pipeline.shutdown(TIMEOUT).expect("everything is delivered");
        decoded(&self.memory)
    }

    fn spans(&self) -> Vec<SpanData> {
        self.batches().into_iter().flat_map(|batch| batch.spans).collect()
    }

    /// As [`spans`](Self::spans), where there is to be one.
    fn only_span(&self) -> SpanData {
        let mut spans = self.spans();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

fn build(
    settings: impl FnOnce(SettingsBuilder) -> SettingsBuilder,
    sink: impl Sink + 'static,
) -> Pipeline {
    let settings = settings(Settings::builder().ignore_environment()).build();
    assert!(settings.problems().is_empty(), "{:?}", settings.problems());
    Pipeline::builder().settings(settings).sink(sink).build().expect("the pipeline starts")
}

fn decoded(memory: &MemorySink) -> Vec<SpanBatch> {
    let decode = |batch: &SealedBatch| decode(&batch.frame).expect("the batch is whole").batch;
    memory.batches().iter().map(decode).collect()
}

fn named<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no span {name} in {spans:?}"));
    assert!(found.next().is_none(), "{name} is there twice");
    span
}

fn names(spans: &[SpanData]) -> Vec<&str> {
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn attribute<'a>(span: &'a SpanData, key: &str) -> &'a Value {
    let mut found = span.attributes.iter().filter(|(name, _)| name == key);
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {key} in {:?}", span.attributes));
    assert!(found.next().is_none(), "{key} is there twice");
    value
}

fn string(text: &str) -> Value {
    Value::Str(text.to_owned())
}

fn pair(key: &str, value: impl Into<Value>) -> (String, Value) {
    (key.to_owned(), value.into())
}

fn remote(flags: TraceFlags, trace_state: &str) -> SpanContext {
    let trace_state = TraceState::parse(trace_state).expect("a tracestate");
    SpanContext::remote(REMOTE_TRACE, REMOTE_SPAN, flags, trace_state)
}

// Who is whose child.

#[test]
fn nested_spans_are_children_of_the_current_one_and_share_its_trace() {
    let rig = Rig::new();
    let _attached = rig.attach();
    {
        let _root = span!("root");
        {
            let _child = span!("child");
            let _grandchild = span!("grandchild");
        }
        let _second = span!("second");
    }
    drop(span!("other root"));
    let spans = rig.spans();
    assert_eq!(spans.len(), 5);
    let [root, child, grandchild, second, other] =
        ["root", "child", "grandchild", "second", "other root"].map(|name| named(&spans, name));
    assert_eq!(root.parent_span_id, None);
    assert_eq!(child.parent_span_id, Some(root.span_id));
    assert_eq!(grandchild.parent_span_id, Some(child.span_id));
    assert_eq!(second.parent_span_id, Some(root.span_id));
    assert_eq!(other.parent_span_id, None);
    for span in [child, grandchild, second] {
        assert_eq!(span.trace_id, root.trace_id);
        assert_eq!(span.parent_is_remote, Some(false));
        assert_eq!(span.trace_flags, SAMPLED_RANDOM);
    }
    assert_ne!(other.trace_id, root.trace_id);
    let mut ids: Vec<_> = spans.iter().map(|span| span.span_id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5, "span IDs are distinct");
    assert!(root.start_unix_nano <= child.start_unix_nano);
    assert!(child.end_unix_nano <= root.end_unix_nano);
}

#[test]
fn the_recorded_ids_are_those_that_the_context_gave_before() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let guard = span!("span");
    let context = guard.context();
    assert_eq!(SpanContext::current(), context);
    assert!(context.is_valid() && context.is_sampled() && !context.is_remote());
    drop(guard);
    assert!(!SpanContext::current().is_valid());
    let span = rig.only_span();
    assert_eq!((span.trace_id, span.span_id), (context.trace_id(), context.span_id()));
    assert_eq!(span.trace_flags, context.trace_flags().0);
}

#[test]
fn a_span_that_is_not_entered_is_nobodys_parent() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let apart = Span::start("apart");
    drop(span!("beside"));
    let guard = apart.enter();
    drop(span!("inside"));
    let apart = guard.into_span();
    drop(span!("after"));
    apart.end();
    let spans = rig.spans();
    assert_eq!(named(&spans, "beside").parent_span_id, None);
    assert_eq!(named(&spans, "inside").parent_span_id, Some(named(&spans, "apart").span_id));
    assert_eq!(named(&spans, "after").parent_span_id, None);
}

#[test]
fn an_explicit_parent_comes_before_the_current_span() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let elsewhere = Span::start("elsewhere");
    let _current = span!("current");
    Span::builder("child").parent(&elsewhere.context()).start().end();
    Span::builder("root").root().start().end();
    let ended = elsewhere.context();
    elsewhere.end();
    Span::builder("late child").parent(&ended).start().end();
    let spans = rig.spans();
    let elsewhere = named(&spans, "elsewhere");
    for name in ["child", "late child"] {
        assert_eq!(named(&spans, name).parent_span_id, Some(elsewhere.span_id));
        assert_eq!(named(&spans, name).trace_id, elsewhere.trace_id);
    }
    assert_eq!(named(&spans, "root").parent_span_id, None);
    assert_ne!(named(&spans, "root").trace_id, elsewhere.trace_id);
}

#[test]
fn a_remote_parent_gives_trace_id_flags_and_tracestate_to_its_whole_subtree() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let parent = remote(TraceFlags(SAMPLED_RANDOM), "vendor=x,ot=th:8");
    {
        let _server = Span::builder("server").parent(&parent).kind(SpanKind::Server).enter();
        let _child = span!("child");
        let _grandchild = span!("grandchild");
    }
    let spans = rig.spans();
    let [server, child, grandchild] =
        ["server", "child", "grandchild"].map(|name| named(&spans, name));
    assert_eq!(server.parent_span_id, Some(REMOTE_SPAN));
    assert_eq!(server.parent_is_remote, Some(true));
    assert_eq!(child.parent_span_id, Some(server.span_id));
    assert_eq!(grandchild.parent_span_id, Some(child.span_id));
    assert_eq!(child.parent_is_remote, Some(false));
    assert_eq!(grandchild.parent_is_remote, Some(false));
    for span in [server, child, grandchild] {
        assert_eq!(span.trace_id, REMOTE_TRACE);
        assert_eq!(span.trace_state, "vendor=x,ot=th:8");
        assert_eq!(span.trace_flags, SAMPLED_RANDOM);
    }
}

#[test]
fn a_parent_given_by_ids_of_this_process_is_not_remote() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let parent = SpanContext::from_ids(
        REMOTE_TRACE,
        REMOTE_SPAN,
        TraceFlags::SAMPLED,
        TraceState::default(),
    );
    Span::builder("child").parent(&parent).start().end();
    let span = rig.only_span();
    assert_eq!((span.trace_id, span.parent_span_id), (REMOTE_TRACE, Some(REMOTE_SPAN)));
    assert_eq!(span.parent_is_remote, Some(false));
    assert_eq!(span.trace_flags, TraceFlags::SAMPLED.0, "no random bit is made up");
}

#[test]
fn an_attached_context_is_current_until_its_guard_goes() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let parent = remote(TraceFlags::SAMPLED, "");
    let outer = span!("outer");
    {
        let _parent = parent.attach();
        assert_eq!(SpanContext::current(), parent);
        drop(span!("remote child"));
        let _none = SpanContext::default().attach();
        drop(span!("root"));
    }
    drop(span!("outer child"));
    drop(outer);
    let spans = rig.spans();
    assert_eq!(spans.len(), 4, "an attached context records nothing");
    assert_eq!(named(&spans, "remote child").parent_span_id, Some(REMOTE_SPAN));
    assert_eq!(named(&spans, "root").parent_span_id, None);
    let outer = named(&spans, "outer").span_id;
    assert_eq!(named(&spans, "outer child").parent_span_id, Some(outer));
}

#[test]
fn headers_carry_a_context_in_and_out() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let headers = vec![
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
    ];
    let caller = propagation::extract(&headers).expect("the headers parse");
    let server = Span::builder("server").parent(&caller.context).enter();
    let mut out: Vec<(String, String)> = Vec::new();
    propagation::inject(&SpanContext::current(), &mut out);
    drop(server);
    let span = rig.only_span();
    assert_eq!((span.trace_id, span.parent_span_id), (REMOTE_TRACE, Some(REMOTE_SPAN)));
    let traceparent = format!("00-{:032x}-{:016x}-01", span.trace_id.0, span.span_id.0);
    assert!(out.contains(&("traceparent".into(), traceparent)), "{out:?}");
    assert!(out.contains(&("tracestate".into(), "vendor=1".into())), "{out:?}");
}

#[test]
fn a_span_of_another_pipeline_is_recorded_by_its_own() {
    let (one, two) = (Rig::new(), Rig::new());
    let attached = one.attach();
    let first = span!("first");
    let inner = two.attach();
    let second = span!("second");
    drop(first);
    drop(second);
    drop(inner);
    drop(attached);
    assert_eq!(names(&one.spans()), ["first"]);
    assert_eq!(names(&two.spans()), ["second"]);
}

// What a span says.

#[test]
fn the_kind_is_internal_unless_told_otherwise() {
    let rig = Rig::new();
    let _attached = rig.attach();
    drop(span!("default"));
    drop(span!("macro", kind: SpanKind::Client, "key" = 1));
    Span::builder("builder").kind(SpanKind::Producer).start().end();
    let mut span = span!("later");
    span.set_kind(SpanKind::Consumer);
    drop(span);
    drop(span!("unspecified", kind: SpanKind::Unspecified));
    let spans = rig.spans();
    for (name, kind) in [
        ("default", SpanKind::Internal),
        ("macro", SpanKind::Client),
        ("builder", SpanKind::Producer),
        ("later", SpanKind::Consumer),
        ("unspecified", SpanKind::Unspecified),
    ] {
        assert_eq!(named(&spans, name).kind, kind, "{name}");
    }
}

#[test]
fn ok_is_final_unset_changes_nothing_and_only_errors_have_a_message() {
    type Status = (StatusCode, &'static str);
    use StatusCode::{Error, Ok, Unset};
    let cases: [(&str, &[Status], Status); 7] = [
        ("nothing", &[], (Unset, "")),
        ("ok", &[(Ok, "ignored")], (Ok, "")),
        ("error", &[(Error, "why")], (Error, "why")),
        ("last error", &[(Error, "a longer reason"), (Error, "why")], (Error, "why")),
        ("ok after error", &[(Error, "why"), (Ok, "")], (Ok, "")),
        ("error after ok", &[(Ok, ""), (Error, "why")], (Ok, "")),
        ("unset after error", &[(Error, "why"), (Unset, "not")], (Error, "why")),
    ];
    let rig = Rig::new();
    let _attached = rig.attach();
    for (name, calls, _) in cases {
        let mut span = Span::start(name);
        for (status, message) in calls {
            span.set_status(*status, message);
        }
    }
    let spans = rig.spans();
    for (name, _, (status, message)) in cases {
        let span = named(&spans, name);
        assert_eq!((span.status, span.status_message.as_str()), (status, message), "{name}");
    }
}

#[test]
fn a_span_has_the_last_name_that_it_was_given() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let long = "n".repeat(1000);
    let longer = "m".repeat(2000);
    let mut expected = Vec::new();
    for (index, updates) in [
        vec!["short"],
        vec![&long],
        vec![&long, "short"],
        vec![&long, &longer],
        vec!["", "short"],
        vec![&long, ""],
    ]
    .into_iter()
    .enumerate()
    {
        let mut span = Span::start("first");
        span.set_attribute("index", index as i64);
        for name in &updates {
            span.update_name(*name);
        }
        expected.push((updates[updates.len() - 1].to_owned(), Value::Int(index as i64)));
    }
    Span::start(long.as_str()).end();
    let spans = rig.spans();
    for (span, (name, index)) in spans.iter().zip(&expected) {
        assert_eq!((&span.name, attribute(span, "index")), (name, index));
    }
    assert_eq!(spans[expected.len()].name, long);
}

#[test]
fn an_error_becomes_an_exception_event_and_the_status() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let error = "x".parse::<i32>().expect_err("not a number");
    let mut span = span!("parse");
    span.record_error(&error);
    drop(span);
    let span = rig.only_span();
    assert_eq!(span.status, StatusCode::Error);
    assert_eq!(span.status_message, error.to_string());
    assert_eq!(span.events.len(), 1);
    assert_eq!(span.events[0].name, "exception");
    assert_eq!(
        span.events[0].attributes,
        [
            pair("exception.type", std::any::type_name::<std::num::ParseIntError>()),
            pair("exception.message", error.to_string()),
        ]
    );
}

#[test]
fn events_keep_their_order_attributes_and_explicit_times() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let before = WallTime::from(SystemTime::now()).0;
    let mut span = span!("span");
    span.add_event("plain").add_event_with("with", |event| {
        event.set("number", 7).set("text", "seven").set("list", [1, 2]);
    });
    span.add_event_at("at", WallTime(1_234_567_890_123_456_789), |event| {
        event.set("late", true);
    });
    let long = "e".repeat(700);
    span.add_event(&long);
    span.set_attribute("after", 1);
    drop(span);
    let after = WallTime::from(SystemTime::now()).0;
    let span = rig.only_span();
    let [plain, with, at, last] = &span.events[..] else { panic!("{:?}", span.events) };
    assert_eq!((plain.name.as_str(), plain.attributes.len()), ("plain", 0));
    assert_eq!(with.name, "with");
    let list = Value::Array(vec![Value::Int(1), Value::Int(2)]);
    assert_eq!(with.attributes, [pair("number", 7), pair("text", "seven"), ("list".into(), list)]);
    assert_eq!((at.name.as_str(), at.time_unix_nano), ("at", 1_234_567_890_123_456_789));
    assert_eq!(at.attributes, [pair("late", true)]);
    assert_eq!(last.name, long);
    // The wall clock may be slewed against the engine's.
    let slack = 1_000_000_000;
    for event in [plain, with, last] {
        assert!((before - slack..=after + slack).contains(&event.time_unix_nano), "{event:?}");
        assert!((span.start_unix_nano..=span.end_unix_nano).contains(&event.time_unix_nano));
    }
    assert_eq!(span.attributes, [pair("after", 1)], "an event's attributes are its own");
}

#[test]
fn links_lead_to_local_and_remote_spans_and_have_attributes() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let local = Span::start("local");
    let local_context = local.context();
    let remote = remote(TraceFlags::SAMPLED, "vendor=x");
    let mut span = span!("span");
    span.add_link(&local_context)
        .add_link_with(&remote, |link| {
            link.set("why", "batch").set("index", 3);
        })
        .add_link(&SpanContext::default());
    drop(span);
    local.end();
    let spans = rig.spans();
    let span = named(&spans, "span");
    let [to_local, to_remote] = &span.links[..] else { panic!("{:?}", span.links) };
    let local = named(&spans, "local");
    assert_eq!((to_local.trace_id, to_local.span_id), (local.trace_id, local.span_id));
    assert_eq!((to_local.is_remote, to_local.trace_flags), (Some(false), SAMPLED_RANDOM));
    assert_eq!((to_local.trace_state.as_str(), to_local.attributes.len()), ("", 0));
    assert_eq!((to_remote.trace_id, to_remote.span_id), (REMOTE_TRACE, REMOTE_SPAN));
    assert_eq!((to_remote.is_remote, to_remote.trace_flags), (Some(true), 1));
    assert_eq!(to_remote.trace_state, "vendor=x");
    assert_eq!(to_remote.attributes, [pair("why", "batch"), pair("index", 3)]);
    assert_eq!(span.dropped_links, 0, "a link to nowhere is left out, not dropped");
}

// Attributes.

#[test]
fn the_last_value_of_a_key_wins() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let inline_key = "k".repeat(300);
    let mut span = span!("span", "key" = 1, "other" = "stays");
    span.set_attribute("key", "two").set_attribute(String::from("key").as_str(), 3.5);
    span.set_attribute("key", vec![1, 2]).set_attribute("key", "last");
    span.set_attribute(&inline_key, 1).set_attribute(&inline_key, "x".repeat(5000));
    span.set_attribute(&inline_key, 2);
    let interned = Interned::new("other").expect("there is room");
    span.set_attribute("late", 1).set_attribute(interned, "changed");
    drop(span);
    let span = rig.only_span();
    assert_eq!(span.attributes.len(), 4, "{:?}", span.attributes);
    assert_eq!(attribute(&span, "key"), &string("last"));
    assert_eq!(attribute(&span, "other"), &string("changed"));
    assert_eq!(attribute(&span, &inline_key), &Value::Int(2));
    assert_eq!(span.dropped_attributes, 0);
}

#[test]
fn a_literal_key_of_more_than_256_bytes_is_the_same_key_when_set_again() {
    let rig = Rig::new();
    let _attached = rig.attach();
    // 260 bytes.
    let mut span = span!(
        "span",
        "01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" =
            1
    );
    span.set_attribute(&"0123456789".repeat(26), 2);
    drop(span);
    assert_eq!(rig.only_span().attributes, [(("0123456789".repeat(26)), Value::Int(2))]);
}

#[test]
fn values_of_every_type_come_back_as_written() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let nested = Value::Map(vec![
        pair("list", vec![Value::Int(1), string("two"), Value::Null, Value::Array(vec![])]),
        pair("map", vec![pair("inner", 1.5), pair("empty", Vec::<(String, Value)>::new())]),
        pair("bytes", Bytes::from_static(b"\0\xff")),
    ]);
    let large = "ä".repeat(50_000);
    let large_bytes = Bytes::from(vec![7; 100_000]);
    let mut span = span!("span", "literal" = "text", "raw" = r#"a "raw" one"#, "escape" = "a\tb");
    let mut expected =
        vec![pair("literal", "text"), pair("raw", "a \"raw\" one"), pair("escape", "a\tb")];
    let mut number = 0;
    macro_rules! case {
        ($value:expr, $expected:expr) => {
            number += 1;
            let key = format!("case {number}");
            span.set_attribute(&key, $value);
            expected.push((key, $expected));
        };
    }
    for value in [0, 1, -1, i64::MAX, i64::MIN, (1 << 23) - 1, 1 << 23, -(1 << 23), -(1 << 23) - 1]
    {
        case!(value, Value::Int(value));
    }
    case!(i8::MIN, Value::Int(-128));
    case!(i16::MIN, Value::Int(-32768));
    case!(i32::MIN, Value::Int(-2_147_483_648));
    case!(u8::MAX, Value::Int(255));
    case!(u16::MAX, Value::Int(65535));
    case!(u32::MAX, Value::Int(4_294_967_295));
    case!(7usize, Value::Int(7));
    case!(-7isize, Value::Int(-7));
    case!(i64::MAX as u64, Value::Int(i64::MAX));
    case!(i64::MAX as u64 + 1, string("9223372036854775808"));
    case!(u64::MAX, string("18446744073709551615"));
    case!(u128::MAX, string("340282366920938463463374607431768211455"));
    case!(i128::MIN, string("-170141183460469231731687303715884105728"));
    case!(i128::from(i64::MIN), Value::Int(i64::MIN));
    case!(true, Value::Bool(true));
    case!(false, Value::Bool(false));
    for value in [0.0, 1.5, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, f64::MAX] {
        case!(value, Value::Double(value));
    }
    case!(0.1f32, Value::Double(f64::from(0.1f32)));
    case!("", string(""));
    case!("twelve bytes", string("twelve bytes"));
    case!("nul \0 and ü", string("nul \0 and ü"));
    case!('ß', string("ß"));
    case!(String::from("owned"), string("owned"));
    case!(&String::from("reference"), string("reference"));
    case!(std::borrow::Cow::Borrowed("cow"), string("cow"));
    case!(large.as_str(), string(&large));
    case!(large.clone(), string(&large));
    for len in [1023, 1024, 1025] {
        case!("x".repeat(len), string(&"x".repeat(len)));
    }
    case!(Bytes::from_static(b"\0\x01\xff"), Value::Bytes(Bytes::from_static(b"\0\x01\xff")));
    case!(Bytes::new(), Value::Bytes(Bytes::new()));
    case!(large_bytes.clone(), Value::Bytes(large_bytes.clone()));
    case!(Value::Null, Value::Null);
    case!(None::<i64>, Value::Null);
    case!(Some("some"), string("some"));
    case!(Some(None::<bool>), Value::Null);
    case!(|| 5, Value::Int(5));
    case!(|| Some(large.clone()), string(&large));
    case!(Interned::new("interned").expect("there is room"), string("interned"));
    case!([1u64, u64::MAX], Value::Array(vec![Value::Int(1), string("18446744073709551615")]));
    case!(vec!["a", "b"], Value::Array(vec![string("a"), string("b")]));
    case!(&["c"][..], Value::Array(vec![string("c")]));
    case!(Vec::<i64>::new(), Value::Array(vec![]));
    case!(
        vec![vec![1, 2], vec![]],
        Value::Array(vec![Value::Array(vec![Value::Int(1), Value::Int(2)]), Value::Array(vec![])])
    );
    case!(vec![large.clone(), String::new()], Value::Array(vec![string(&large), string("")]));
    case!(&nested, nested.clone());
    case!(nested.clone(), nested.clone());
    drop(span);
    let span = rig.only_span();
    assert_eq!(span.dropped_attributes, 0);
    assert_eq!(span.attributes.len(), expected.len());
    for (found, expected) in span.attributes.iter().zip(&expected) {
        assert!(found == expected, "{}: not as written", expected.0);
    }
}

#[test]
fn nan_and_negative_zero_keep_their_bits() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let values = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), -0.0];
    let mut span = span!("span");
    for (index, value) in values.into_iter().enumerate() {
        span.set_attribute(&index.to_string(), value);
    }
    drop(span);
    let span = rig.only_span();
    for (index, value) in values.into_iter().enumerate() {
        let Value::Double(found) = attribute(&span, &index.to_string()) else { panic!("{span:?}") };
        assert_eq!(found.to_bits(), value.to_bits());
    }
}

#[test]
fn nesting_is_kept_to_the_limit_and_null_below() {
    let nest = |depth| (0..depth).fold(Value::Int(1), |value, _| Value::Array(vec![value]));
    let cut = |depth| (0..depth).fold(Value::Null, |value, _| Value::Array(vec![value]));
    let maps =
        |depth, bottom| (0..depth).fold(bottom, |value, _| Value::Map(vec![pair("k", value)]));
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut span = span!("span");
    span.set_attribute("fits", nest(DEPTH_MAX));
    span.set_attribute("one more", nest(DEPTH_MAX + 1));
    span.set_attribute("many", nest(1000));
    span.set_attribute("map fits", maps(DEPTH_MAX, Value::Int(1)));
    span.set_attribute("map many", maps(1000, Value::Int(1)));
    drop(span);
    let span = rig.only_span();
    assert_eq!(attribute(&span, "fits"), &nest(DEPTH_MAX));
    assert_eq!(attribute(&span, "one more"), &cut(DEPTH_MAX));
    assert_eq!(attribute(&span, "many"), &cut(DEPTH_MAX));
    assert_eq!(attribute(&span, "map fits"), &maps(DEPTH_MAX, Value::Int(1)));
    assert_eq!(attribute(&span, "map many"), &maps(DEPTH_MAX, Value::Null));
}

#[test]
fn a_closure_that_panics_leaves_the_rest_of_the_span_whole() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut span = span!("span", "before" = 1);
    for key in ["broken".to_owned(), "b".repeat(300)] {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            span.set_attribute(&key, || -> i64 { std::panic::resume_unwind(Box::new(())) });
        }));
        assert!(caught.is_err());
    }
    span.set_attribute("after", 2);
    drop(span);
    assert_eq!(rig.only_span().attributes, [pair("before", 1), pair("after", 2)]);
}

#[test]
fn a_value_may_record_spans_while_it_is_computed() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut span = span!("span");
    span.set_attribute("key", || {
        let mut inner = span!("inner");
        inner.set_attribute("key", "inner value");
        "outer value"
    });
    drop(span);
    let spans = rig.spans();
    let outer = named(&spans, "span");
    assert_eq!(attribute(outer, "key"), &string("outer value"));
    assert_eq!(attribute(named(&spans, "inner"), "key"), &string("inner value"));
    assert_eq!(named(&spans, "inner").parent_span_id, Some(outer.span_id));
}

// Limits.

#[test]
fn of_200_attributes_the_first_128_are_kept_and_72_counted() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut span = span!("span");
    for number in 0..200 {
        span.set_attribute(&format!("key {number}"), number);
    }
    span.set_attribute("key 0", "changed");
    drop(span);
    let span = rig.only_span();
    assert_eq!((span.attributes.len(), span.dropped_attributes), (128, 72));
    for number in 1..128 {
        assert_eq!(attribute(&span, &format!("key {number}")), &Value::Int(number));
    }
    assert_eq!(attribute(&span, "key 0"), &string("changed"), "a known key needs no room");
}

#[test]
fn events_and_links_beyond_their_limits_are_counted() {
    let rig = Rig::with(|settings| settings.event_count_limit(3u32).link_count_limit(2u32));
    let _attached = rig.attach();
    let mut span = span!("span");
    for number in 0..10 {
        span.add_event(&format!("event {number}"));
        span.add_link_with(&remote(TraceFlags::SAMPLED, ""), |link| {
            link.set("number", number);
        });
    }
    drop(span);
    let span = rig.only_span();
    let events: Vec<_> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!((events, span.dropped_events), (vec!["event 0", "event 1", "event 2"], 7));
    let links: Vec<_> = span.links.iter().map(|link| link.attributes[0].1.clone()).collect();
    assert_eq!((links, span.dropped_links), (vec![Value::Int(0), Value::Int(1)], 8));
}

#[test]
fn attributes_of_events_and_links_have_limits_of_their_own() {
    let rig = Rig::with(|settings| {
        settings.event_attribute_count_limit(2u32).link_attribute_count_limit(1u32)
    });
    let _attached = rig.attach();
    let mut span = span!("span");
    span.add_event_with("event", |event| {
        event.set("a", 1).set("b", 2).set("c", 3).set("d", 4);
    });
    span.add_link_with(&remote(TraceFlags::SAMPLED, ""), |link| {
        link.set("a", 1).set("b", 2);
    });
    span.set_attribute("x", 1).set_attribute("y", 2).set_attribute("z", 3);
    drop(span);
    let span = rig.only_span();
    assert_eq!(span.events[0].attributes, [pair("a", 1), pair("b", 2)]);
    assert_eq!(span.events[0].dropped_attributes, 2);
    assert_eq!(span.links[0].attributes, [pair("a", 1)]);
    assert_eq!(span.links[0].dropped_attributes, 1);
    assert_eq!((span.attributes.len(), span.dropped_attributes), (3, 0));
}

#[test]
fn limits_of_zero_keep_nothing_and_count_all() {
    let rig = Rig::with(|settings| {
        settings.attribute_count_limit(0u32).event_count_limit(0u32).link_count_limit(0u32)
    });
    let _attached = rig.attach();
    let mut span = span!("span", "one" = 1, "two" = "2");
    span.set_attribute("three", 3).add_event("event").add_link(&remote(TraceFlags::SAMPLED, ""));
    drop(span);
    let span = rig.only_span();
    assert_eq!((span.attributes.len(), span.dropped_attributes), (0, 3));
    assert_eq!((span.events.len(), span.dropped_events), (0, 1));
    assert_eq!((span.links.len(), span.dropped_links), (0, 1));
}

#[test]
fn an_event_keeps_the_last_value_of_a_key() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut span = span!("span");
    span.add_event_with("event", |event| {
        event.set("key", 1).set("key", 2).set("other", 3);
    });
    drop(span);
    assert_eq!(rig.only_span().events[0].attributes, [pair("key", 2), pair("other", 3)]);
}

#[test]
fn long_strings_are_cut_between_characters() {
    let rig = Rig::with(|settings| settings.attribute_value_length_limit(4usize));
    let _attached = rig.attach();
    let mut span = span!("a long name", "literal" = "abcdefgh");
    span.set_attribute("ascii", "abcdefgh").set_attribute("owned", "x".repeat(2000));
    span.set_attribute("list", ["abcdefgh", "ab"]).set_attribute("number", 123_456_789);
    span.set_attribute("euros", "€€€€€€").set_attribute("a long key", "");
    span.add_event_with("a long event", |event| {
        event.set("text", "abcdefgh");
    });
    span.set_status(StatusCode::Error, "a long message");
    drop(span);
    let span = rig.only_span();
    assert_eq!(span.name, "a long name");
    assert_eq!(attribute(&span, "ascii"), &string("abcd"));
    assert_eq!(attribute(&span, "owned"), &string("xxxx"));
    assert_eq!(attribute(&span, "list"), &Value::Array(vec![string("abcd"), string("ab")]));
    assert_eq!(attribute(&span, "number"), &Value::Int(123_456_789));
    let Value::Str(euros) = attribute(&span, "euros") else { panic!("{span:?}") };
    assert!(!euros.is_empty() && "€€€€".starts_with(euros.as_str()), "{euros}");
    assert_eq!(attribute(&span, "a long key"), &string(""));
    assert_eq!(span.events[0].attributes, [pair("text", "abcd")]);
    assert_eq!(span.status_message, "a long message");
}

#[test]
fn a_literal_value_is_cut_like_any_other() {
    let rig = Rig::with(|settings| settings.attribute_value_length_limit(4usize));
    let _attached = rig.attach();
    let mut span = span!("span", "literal" = "abcdefgh");
    span.set_attribute("interned", Interned::new("abcdefgh").expect("there is room"));
    drop(span);
    let span = rig.only_span();
    assert_eq!(attribute(&span, "literal"), &string("abcd"));
    assert_eq!(attribute(&span, "interned"), &string("abcd"));
}

#[test]
fn the_length_limit_counts_characters() {
    let rig = Rig::with(|settings| settings.attribute_value_length_limit(4usize));
    let _attached = rig.attach();
    let mut span = span!("span");
    span.set_attribute("euros", "€€€€€€");
    drop(span);
    assert_eq!(attribute(&rig.only_span(), "euros"), &string("€€€€"));
}

// Sampling.

/// Does everything that may compute a value, and tells whether one was computed.
fn computes_values() -> bool {
    let computed = Cell::new(false);
    let compute = || {
        computed.set(true);
        1
    };
    let mut span = span!("span", "expression" = compute(), "closure" = compute);
    span.set_attribute("closure", compute);
    span.add_event_with("event", |event| {
        event.set("key", compute());
    });
    span.add_event_at("event", WallTime(1), |event| {
        event.set("key", compute());
    });
    span.add_link_with(&remote(TraceFlags::SAMPLED, ""), |link| {
        link.set("key", compute());
    });
    computed.get()
}

#[test]
fn values_are_computed_only_if_the_span_records() {
    let on = Rig::new();
    let attached = on.attach();
    assert!(computes_values());
    drop(attached);
    let off = Rig::sampling(true, RootSampler::AlwaysOff);
    let attached = off.attach();
    assert!(!computes_values());
    drop(attached);
    let disabled = Rig::with(|settings| settings.disabled(true));
    let attached = disabled.attach();
    assert!(!computes_values());
    drop(attached);
    let shut_down = Rig::new();
    let attached = shut_down.attach();
    shut_down.pipeline.shutdown(TIMEOUT).expect("it ends");
    assert!(!computes_values());
    drop(attached);
    assert_eq!(off.spans(), []);
    assert_eq!(disabled.spans(), []);
    assert_eq!(disabled.pipeline.stats().engine.dropped.total(), 0);
}

#[test]
fn spans_that_are_not_sampled_have_a_valid_context_with_ids_of_their_own() {
    let rig = Rig::sampling(true, RootSampler::AlwaysOff);
    let _attached = rig.attach();
    let root = span!("root");
    let child = span!("child");
    let (root_context, child_context) = (root.context(), child.context());
    for context in [&root_context, &child_context] {
        assert!(context.is_valid() && !context.is_sampled() && !context.is_remote());
    }
    assert!(!root.is_recording() && !child.is_recording());
    assert_eq!(SpanContext::current(), child_context);
    assert_eq!(root_context.trace_id(), child_context.trace_id());
    assert_ne!(root_context.span_id(), child_context.span_id());
    let server = Span::builder("server").parent(&remote(TraceFlags(0), "a=b")).start();
    assert_eq!(server.context().trace_id(), REMOTE_TRACE);
    assert_ne!(server.context().span_id(), REMOTE_SPAN);
    assert_eq!(server.context().trace_state().as_str(), "a=b");
    assert!(server.context().is_valid() && !server.context().is_sampled());
    drop((child, root, server));
    assert_eq!(rig.spans(), []);
    assert_eq!(rig.pipeline.stats().engine.dropped.total(), 0, "not sampled is not dropped");
}

#[test]
fn a_ratio_says_its_threshold_in_tracestate_and_decides_by_the_trace_id() {
    let rig = Rig::sampling(true, RootSampler::TraceIdRatio(0.25));
    let _attached = rig.attach();
    let threshold = 3u128 << 54;
    let mut sampled = 0;
    for _ in 0..400 {
        let root = span!("root");
        let child = span!("child");
        let context = root.context();
        let randomness = context.trace_id().0 & ((1 << 56) - 1);
        assert_eq!(root.is_recording(), randomness >= threshold);
        assert_eq!(child.is_recording(), root.is_recording());
        assert_eq!(child.context().is_sampled(), root.is_recording());
        assert_eq!(
            context.trace_state().as_str(),
            if root.is_recording() { "ot=th:c" } else { "" }
        );
        sampled += usize::from(root.is_recording());
    }
    assert!((30..200).contains(&sampled), "{sampled} of 400");
    let spans = rig.spans();
    assert_eq!(spans.len(), 2 * sampled);
    assert!(spans.iter().all(|span| span.trace_state == "ot=th:c"));
    let roots = spans.iter().filter(|span| span.parent_span_id.is_none()).count();
    assert_eq!(roots, sampled);
}

#[test]
fn children_follow_their_roots_decision_of_every_nth() {
    let rig = Rig::sampling(true, RootSampler::EveryNth(3));
    let _attached = rig.attach();
    for number in 0..9 {
        let mut root = span!("root");
        root.set_attribute("number", number);
        let mut child = span!("child");
        child.set_attribute("number", number);
    }
    let spans = rig.spans();
    for name in ["root", "child"] {
        let spans = spans.iter().filter(|span| span.name == name);
        let numbers: Vec<_> = spans.map(|span| attribute(span, "number").clone()).collect();
        assert_eq!(numbers, [0, 3, 6].map(Value::Int), "{name}");
    }
}

#[test]
fn a_remote_parents_decision_comes_before_the_root_sampler_only_if_parent_based() {
    for (parent_based, root, flags, recorded) in [
        (true, RootSampler::AlwaysOff, TraceFlags::SAMPLED, true),
        (true, RootSampler::AlwaysOn, TraceFlags(0), false),
        (false, RootSampler::AlwaysOff, TraceFlags::SAMPLED, false),
        (false, RootSampler::AlwaysOn, TraceFlags(0), true),
    ] {
        let rig = Rig::sampling(parent_based, root);
        let attached = rig.attach();
        let server = Span::builder("server").parent(&remote(flags, "")).enter();
        let child = span!("child");
        assert_eq!(child.is_recording(), recorded);
        assert_eq!(server.context().is_sampled(), recorded);
        drop((child, server, attached));
        let spans = rig.spans();
        assert_eq!(spans.len(), if recorded { 2 } else { 0 }, "{parent_based} {root:?} {flags:?}");
        assert!(spans.iter().all(|span| span.trace_flags == TraceFlags::SAMPLED.0));
    }
}

#[test]
fn a_sampler_without_parents_decides_for_each_span() {
    let rig = Rig::sampling(false, RootSampler::EveryNth(2));
    let _attached = rig.attach();
    let first = span!("first");
    let second = span!("second");
    let third = span!("third");
    let parent = second.context();
    drop((third, second, first));
    let spans = rig.spans();
    assert_eq!(names(&spans), ["first", "third"]);
    assert_eq!(named(&spans, "third").parent_span_id, Some(parent.span_id()));
    assert_eq!(named(&spans, "third").trace_id, named(&spans, "first").trace_id);
}

// Threads.

#[test]
fn a_span_that_ends_on_another_thread_is_recorded_with_its_parent() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let root = span!("root");
    let mut span = Span::start("moved");
    span.set_attribute("large", "x".repeat(5000));
    // The other thread is not attached to anything.
    std::thread::scope(|scope| {
        let moved = scope.spawn(move || {
            span.set_attribute("there", true);
            span.end();
        });
        moved.join().expect("it ends");
    });
    drop(root);
    let spans = rig.spans();
    let moved = named(&spans, "moved");
    assert_eq!(moved.parent_span_id, Some(named(&spans, "root").span_id));
    assert_eq!(attribute(moved, "large"), &string(&"x".repeat(5000)));
    assert_eq!(attribute(moved, "there"), &Value::Bool(true));
}

#[test]
fn a_future_in_a_span_is_its_parent_on_whichever_thread_polls() {
    let rig = Rig::new();
    let attached = rig.attach();
    let mut polls = 0;
    let work = poll_fn(move |_| {
        polls += 1;
        let mut child = span!("child");
        child.set_attribute("poll", polls);
        if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
    });
    let around = span!("around");
    let mut work = Box::pin(work.in_span(Span::builder("request").root().start()));
    let poll = |work: &mut std::pin::Pin<Box<_>>| -> Poll<()> {
        let future: &mut std::pin::Pin<Box<spanring::InSpan<_>>> = work;
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    assert!(poll(&mut work).is_pending());
    assert_eq!(SpanContext::current(), around.context());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _attached = rig.attach();
            let _other = span!("other");
            assert!(poll(&mut work).is_pending());
            work.as_mut().span_mut().expect("not done").set_attribute("key", 1);
            assert!(poll(&mut work).is_ready());
            assert!(work.as_mut().span_mut().is_none());
        });
        thread.join().expect("it ends");
    });
    drop((around, attached));
    let spans = rig.spans();
    let request = named(&spans, "request");
    assert_eq!(request.attributes, [pair("key", 1)]);
    let children: Vec<_> = spans.iter().filter(|span| span.name == "child").collect();
    assert_eq!(children.len(), 3);
    for child in children {
        assert_eq!(child.parent_span_id, Some(request.span_id));
        assert_eq!(child.trace_id, request.trace_id);
    }
    assert_eq!(named(&spans, "other").parent_span_id, None);
}

#[test]
fn a_future_dropped_before_it_is_done_ends_its_span() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let mut work = Box::pin(std::future::pending::<()>().in_span(Span::start("request")));
    assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(work);
    assert!(!SpanContext::current().is_valid());
    assert_eq!(rig.only_span().name, "request");
}

// Misuse.

#[test]
fn guards_dropped_out_of_order_are_all_recorded_and_the_outer_one_restores() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let root = span!("root");
    let outer = span!("outer");
    let inner = span!("inner");
    drop(outer);
    assert_eq!(SpanContext::current(), root.context());
    let after = span!("after");
    drop(inner);
    assert_eq!(SpanContext::current(), after.context(), "the inner one restores nothing");
    drop(after);
    drop(root);
    assert!(!SpanContext::current().is_valid());
    let spans = rig.spans();
    assert_eq!(names(&spans), ["after", "inner", "outer", "root"]);
    let id = |name| Some(named(&spans, name).span_id);
    assert_eq!(named(&spans, "outer").parent_span_id, id("root"));
    assert_eq!(named(&spans, "inner").parent_span_id, id("outer"));
    assert_eq!(named(&spans, "after").parent_span_id, id("root"));
}

#[test]
fn a_leaked_guard_is_not_recorded_and_stays_current_until_an_outer_one_ends() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let root = span!("root");
    let outer = span!("outer");
    let leaked = span!("leaked");
    let context = leaked.context();
    std::mem::forget(leaked);
    assert_eq!(SpanContext::current(), context);
    drop(span!("child of the leaked"));
    drop(outer);
    assert_eq!(SpanContext::current(), root.context());
    drop(span!("after"));
    drop(root);
    assert!(!SpanContext::current().is_valid());
    let spans = rig.spans();
    assert_eq!(names(&spans), ["after", "child of the leaked", "outer", "root"]);
    assert_eq!(named(&spans, "child of the leaked").parent_span_id, Some(context.span_id()));
    assert_eq!(named(&spans, "after").parent_span_id, Some(named(&spans, "root").span_id));
}

/// Records when its thread's locals are destroyed.
struct Late(Option<Span>);

impl Drop for Late {
    fn drop(&mut self) {
        let mut parent = span!("late parent", "key" = "value");
        parent.set_attribute("large", "x".repeat(5000));
        drop(span!("late child"));
        drop(parent);
        drop(self.0.take());
    }
}

thread_local! {
    static EARLY_LOCAL: RefCell<Option<Late>> = const { RefCell::new(None) };
    static LATE_LOCAL: RefCell<Option<Late>> = const { RefCell::new(None) };
}

#[test]
fn spans_in_thread_local_destructors_are_delivered() {
    // The engine's own thread-local comes to be before or after the test's, and goes likewise.
    for early in [true, false] {
        let rig = Rig::new();
        let pipeline = &rig.pipeline;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // Destructors run after all guards are gone.
                std::mem::forget(pipeline.attach());
                if early {
                    EARLY_LOCAL.with(|local| *local.borrow_mut() = Some(Late(None)));
                    EARLY_LOCAL.with(|local| {
                        local.borrow_mut().as_mut().expect("set").0 = Some(Span::start("held"));
                    });
                } else {
                    let held = Some(Span::start("held"));
                    LATE_LOCAL.with(|local| *local.borrow_mut() = Some(Late(held)));
                }
            });
            thread.join().expect("it ends");
        });
        let spans = rig.spans();
        assert_eq!(names(&spans), ["held", "late child", "late parent"], "early: {early}");
        let parent = named(&spans, "late parent");
        assert_eq!(attribute(parent, "key"), &string("value"));
        assert_eq!(attribute(parent, "large"), &string(&"x".repeat(5000)));
        assert_eq!(named(&spans, "late child").parent_span_id, Some(parent.span_id));
    }
}

/// Makes a span at its first batch, and ends one that began elsewhere.
struct Recording {
    pipeline: Arc<OnceLock<Weak<Pipeline>>>,
    begun: Receiver<Span>,
    memory: MemorySink,
    done: bool,
}

impl Sink for Recording {
    fn name(&self) -> &str {
        "recording"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        if !std::mem::replace(&mut self.done, true) {
            let pipeline = self.pipeline.get().and_then(Weak::upgrade).expect("it runs");
            let _attached = pipeline.attach();
            let span = span!("made in the sink", "key" = 1);
            assert!(!span.is_recording());
            drop(span);
            drop(self.begun.recv().expect("a span"));
        }
        self.memory.deliver(batch)
    }
}

#[test]
fn spans_made_or_ended_in_a_sink_are_counted_re_entrant_and_not_delivered() {
    let slot = Arc::new(OnceLock::new());
    let (begun, receiver) = channel();
    let memory = MemorySink::new();
    let sink =
        Recording { pipeline: slot.clone(), begun: receiver, memory: memory.clone(), done: false };
    let pipeline = Arc::new(build(|settings| settings, sink));
    slot.set(Arc::downgrade(&pipeline)).expect("set once");
    let attached = pipeline.attach();
    begun.send(Span::start("begun outside")).expect("the sink listens");
    drop(span!("outside"));
    pipeline.flush(TIMEOUT).expect("it is delivered");
    drop(attached);
    pipeline.shutdown(TIMEOUT).expect("it ends");
    let stats = pipeline.stats();
    assert_eq!(stats.engine.dropped.0[Reason::ReEntrant as usize], 2, "{stats:?}");
    assert_eq!((stats.engine.dropped.total(), stats.panics), (2, 0), "{stats:?}");
    let spans: Vec<_> = decoded(&memory).into_iter().flat_map(|batch| batch.spans).collect();
    assert_eq!(names(&spans), ["outside"]);
}

#[test]
fn spans_that_start_or_end_after_shutdown_are_counted_and_harmless() {
    let rig = Rig::new();
    let _attached = rig.attach();
    drop(span!("before"));
    let mut begun = Span::start("begun before");
    let guard = span!("guard");
    rig.pipeline.shutdown(TIMEOUT).expect("it ends");
    rig.pipeline.shutdown(TIMEOUT).expect("again is fine");
    let late = span!("after", "key" = 1);
    assert!(!late.is_recording());
    drop(late);
    begun.set_attribute("large", "x".repeat(5000));
    begun.end();
    drop(guard);
    assert!(!SpanContext::current().is_valid());
    assert!(rig.pipeline.flush(TIMEOUT).is_err());
    let stats = rig.pipeline.stats().engine;
    assert_eq!(rig.dropped(Reason::ShutDown), 3, "{stats:?}");
    assert_eq!((stats.created, stats.sealed, stats.resident), (4, 1, 0), "{stats:?}");
    assert_eq!(rig.only_span().name, "before");
}

// Times.

#[test]
fn an_end_before_the_start_becomes_the_start() {
    let rig = Rig::new();
    let _attached = rig.attach();
    Span::builder("explicit").start_time(WallTime(2_000)).start().end_at(WallTime(1_000));
    span!("clock").end_at(WallTime(1_000));
    let future = WallTime::from(SystemTime::now() + Duration::from_secs(3600));
    Span::builder("begins in the future").start_time(future).start().end();
    let spans = rig.spans();
    let explicit = named(&spans, "explicit");
    assert_eq!((explicit.start_unix_nano, explicit.end_unix_nano), (2_000, 2_000));
    let clock = named(&spans, "clock");
    assert_eq!(clock.end_unix_nano, clock.start_unix_nano);
    assert!(clock.start_unix_nano > 1_600_000_000_000_000_000);
    let late = named(&spans, "begins in the future");
    assert_eq!((late.start_unix_nano, late.end_unix_nano), (future.0, future.0));
}

#[test]
fn explicit_times_come_back_to_the_nanosecond() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let times = [
        (0, 0),
        (0, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
        (1_234_567_890_123_456_789, 1_234_567_890_123_456_790),
        (1_700_000_000_000_000_001, 1_700_000_003_999_999_999),
        (i64::MAX as u64, i64::MAX as u64 + 1),
    ];
    for (index, (start, end)) in times.into_iter().enumerate() {
        let mut span = Span::builder("span").start_time(WallTime(start)).enter();
        span.set_attribute("index", index as i64);
        span.add_event_at("event", WallTime(end), |_| {});
        span.end_at(WallTime(end));
    }
    let spans = rig.spans();
    assert_eq!(spans.len(), times.len());
    for (span, (start, end)) in spans.iter().zip(times) {
        assert_eq!((span.start_unix_nano, span.end_unix_nano), (start, end));
        assert_eq!(span.events[0].time_unix_nano, end);
    }
}

#[test]
fn clock_times_lie_within_the_wall_times_around_them() {
    let rig = Rig::new();
    let _attached = rig.attach();
    let now = || WallTime::from(SystemTime::now()).0;
    let before = now();
    drop(span!("span"));
    let after = now();
    let span = rig.only_span();
    // A second for a clock that is slewed meanwhile.
    let around = before - 1_000_000_000..=after + 1_000_000_000;
    assert!(around.contains(&span.start_unix_nano) && around.contains(&span.end_unix_nano));
    assert!(span.start_unix_nano <= span.end_unix_nano);
}

// Delivery, tracers, budget.

/// Tells of every batch; waits at the first one if it has a gate.
struct Telling {
    batches: Sender<SealedBatch>,
    gate: Option<Receiver<()>>,
}

impl Sink for Telling {
    fn name(&self) -> &str {
        "telling"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        let _ = self.batches.send(batch.clone());
        if let Some(gate) = self.gate.take() {
            let _ = gate.recv();
        }
        Ok(())
    }
}

#[test]
fn a_critical_span_is_sealed_without_a_flush() {
    let (batches, receiver) = channel();
    let sink = Telling { batches, gate: None };
    let pipeline = build(|settings| settings.flush_interval(Duration::from_secs(3600)), sink);
    let _attached = pipeline.attach();
    drop(span!("ordinary"));
    let mut span = span!("critical");
    span.set_critical();
    drop(span);
    let batch = receiver.recv_timeout(TIMEOUT).expect("the batch comes by itself");
    let spans = decode(&batch.frame).expect("the batch is whole").batch.spans;
    assert_eq!(names(&spans), ["critical", "ordinary"]);
}

#[test]
fn a_tracer_gives_its_spans_their_own_resource_and_scope() {
    let rig = Rig::with(|settings| settings.service_name("pipeline"));
    let _attached = rig.attach();
    let resource = ResourceInfo {
        attributes: vec![pair("service.name", "other"), pair("host.cpus", 4)],
        schema_url: "https://example.com/resource".into(),
    };
    let info = TracerInfo {
        name: "library".into(),
        version: "1.2.3".into(),
        schema_url: "https://example.com/scope".into(),
        attributes: vec![pair("scope.key", true)],
        resource: Some(Arc::new(resource.clone())),
    };
    let tracer = Tracer::new(info.clone());
    let plain = Tracer::named("plain library", "");
    {
        let _own = tracer.span("own").enter();
        drop(span!("default"));
        plain.span("plain").start().end();
    }
    let batches = rig.batches();
    let batch = batches.iter().find(|batch| !batch.spans.is_empty()).expect("a batch");
    let of = |name| {
        let scope = &batch.scopes[named(&batch.spans, name).scope];
        (scope, &batch.resources[scope.resource])
    };
    let (scope, own) = of("own");
    assert_eq!((&scope.name, &scope.version), (&info.name, &info.version));
    assert_eq!((&scope.schema_url, &scope.attributes), (&info.schema_url, &info.attributes));
    assert_eq!((&own.attributes, &own.schema_url), (&resource.attributes, &resource.schema_url));
    for (name, scope_name) in [("default", ""), ("plain", "plain library")] {
        let (scope, resource) = of(name);
        assert_eq!((scope.name.as_str(), scope.version.as_str()), (scope_name, ""));
        assert!(resource.attributes.contains(&pair("service.name", "pipeline")), "{resource:?}");
    }
    let own = named(&batch.spans, "own").span_id;
    assert_eq!(named(&batch.spans, "default").parent_span_id, Some(own));
}

#[test]
fn errors_and_critical_spans_may_use_the_budgets_reserve() {
    let (batches, receiver) = channel();
    let (open, gate) = channel();
    let sink = Telling { batches, gate: Some(gate) };
    let pipeline = build(|settings| settings.max_spans(100usize).batch_size(50usize), sink);
    let attached = pipeline.attach();
    let mut first = span!("first");
    first.set_critical();
    drop(first);
    // The flusher waits in the sink from here on, so nothing is sealed.
    receiver.recv_timeout(TIMEOUT).expect("the first batch");
    let dropped = || pipeline.stats().engine.dropped.0[Reason::Budget as usize];
    for _ in 0..200 {
        drop(span!("ordinary"));
    }
    assert_eq!(dropped(), 102, "two credits are held in reserve");
    let mut error = span!("error");
    error.set_status(StatusCode::Error, "");
    drop(error);
    assert_eq!(dropped(), 102);
    drop(span!("ordinary"));
    assert_eq!(dropped(), 103, "what is left of the reserve is not for ordinary spans");
    drop(span!("critical", "priority" = "critical"));
    assert_eq!(dropped(), 103);
    let mut error = span!("one too many");
    error.set_status(StatusCode::Error, "");
    drop(error);
    assert_eq!(dropped(), 104);
    open.send(()).expect("the sink waits");
    drop(attached);
    pipeline.shutdown(TIMEOUT).expect("it ends");
    drop(pipeline);
    let spans: Vec<_> = receiver
        .iter()
        .flat_map(|batch| decode(&batch.frame).expect("the batch is whole").batch.spans)
        .collect();
    assert_eq!(spans.len(), 100);
    named(&spans, "error");
    named(&spans, "critical");
}

#[test]
fn a_span_that_does_nothing_can_be_used_like_any_other() {
    let called = AtomicBool::new(false);
    let mut span = Span::none();
    assert!(!span.is_recording() && !span.context().is_valid());
    span.set_attribute("key", || {
        called.store(true, Ordering::Relaxed);
        1
    });
    span.set_status(StatusCode::Error, "").update_name("other").add_event("event");
    let guard = span.enter();
    assert!(!SpanContext::current().is_valid());
    guard.into_span().end_at(WallTime(1));
    assert!(!called.load(Ordering::Relaxed));
}
