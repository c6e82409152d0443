//! What a span is made of, from the API to the decoded batch: parents, times, events, links, status,
//! names, kinds, limits, scopes.

use std::fmt;
use std::time::{Duration, SystemTime};

use spanring::{
    ResourceInfo, Span, SpanContext, SpanId, SpanKind, StatusCode, TraceFlags, TraceId, TraceState,
    Tracer, TracerInfo, Value, WallTime, span,
};
use spanring_tests::{record, settings};

fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn remote(flags: TraceFlags) -> SpanContext {
    let state = TraceState::parse("vendor=value").unwrap();
    SpanContext::remote(TraceId(0xabc << 64 | 0xdef), SpanId(0x1234), flags, state)
}

#[test]
fn a_span_is_a_child_of_the_innermost_one_alive_and_a_root_without_any() {
    let ledger = record(settings(), |_| {
        let _root = span!("root");
        {
            let _child = span!("child");
            drop(span!("grandchild"));
        }
        drop(span!("second child"));
        drop(Span::builder("other root").root().start());
    });
    let root = ledger.span("root");
    assert_eq!(root.parent_span_id, None);
    let parents = [("child", "root"), ("grandchild", "child"), ("second child", "root")];
    for (child, parent) in parents {
        let (child, parent) = (ledger.span(child), ledger.span(parent));
        assert_eq!(child.parent_span_id, Some(parent.span_id));
        assert_eq!(child.trace_id, root.trace_id);
        assert!(parent.start_unix_nano <= child.start_unix_nano);
        assert!(child.end_unix_nano <= parent.end_unix_nano);
        assert_ne!(child.parent_is_remote, Some(true));
    }
    let other = ledger.span("other root");
    assert_eq!(other.parent_span_id, None);
    assert_ne!(other.trace_id, root.trace_id);
    assert_eq!(ledger.names(), ["grandchild", "child", "second child", "other root", "root"]);
}

#[test]
fn the_context_that_a_span_tells_is_the_one_that_arrives() {
    let mut told = Vec::new();
    let ledger = record(settings(), |_| {
        let outer = span!("outer");
        let inner = span!("inner");
        assert_eq!(SpanContext::current(), inner.context());
        told = vec![outer.context(), inner.context()];
        assert!(told.iter().all(|context| context.is_valid() && context.is_sampled()));
        assert_eq!(told[0].trace_id(), told[1].trace_id());
        assert!(told[0].trace_flags().is_random());
    });
    for (name, context) in ["outer", "inner"].into_iter().zip(told) {
        let span = ledger.span(name);
        assert_eq!((span.trace_id, span.span_id), (context.trace_id(), context.span_id()));
        assert_eq!(span.trace_flags, context.trace_flags().0);
    }
    assert!(!SpanContext::current().is_valid(), "nothing is current afterwards");
}

#[test]
fn explicit_and_remote_parents_win_over_the_current_span() {
    let ledger = record(settings(), |_| {
        let elsewhere = Span::start("elsewhere");
        let _current = span!("current");
        drop(Span::builder("explicit").parent(&elsewhere.context()).start());
        drop(Span::builder("remote").parent(&remote(TraceFlags::SAMPLED)).start());
        {
            let _attached = remote(TraceFlags::SAMPLED).attach();
            drop(span!("under attached"));
        }
        drop(span!("after attached"));
    });
    let explicit = ledger.span("explicit");
    assert_eq!(explicit.parent_span_id, Some(ledger.span("elsewhere").span_id));
    for name in ["remote", "under attached"] {
        let span = ledger.span(name);
        assert_eq!(span.parent_span_id, Some(SpanId(0x1234)));
        assert_eq!(span.trace_id, TraceId(0xabc << 64 | 0xdef));
        assert_eq!(span.parent_is_remote, Some(true));
        assert_eq!(span.trace_state, "vendor=value", "a child inherits the tracestate");
    }
    let after = ledger.span("after attached");
    assert_eq!(after.parent_span_id, Some(ledger.span("current").span_id));
}

#[test]
fn a_child_of_a_child_of_a_remote_parent_stays_in_the_remote_trace() {
    let ledger = record(settings(), |_| {
        let _server = Span::builder("server").parent(&remote(TraceFlags::SAMPLED)).start().enter();
        drop(span!("inside"));
    });
    let (server, inside) = (ledger.span("server"), ledger.span("inside"));
    assert_eq!(inside.parent_span_id, Some(server.span_id));
    assert_eq!(inside.trace_id, TraceId(0xabc << 64 | 0xdef));
    assert_eq!(inside.trace_state, "vendor=value");
    assert_ne!(inside.parent_is_remote, Some(true));
}

#[test]
fn ids_from_elsewhere_are_kept_and_what_is_below_hangs_on_them() {
    let trace = TraceId(0xfeed << 64 | 0xbeef);
    let ledger = record(settings(), |_| {
        let mut told = Vec::new();
        {
            let root = Span::builder("root").root().ids(trace, SpanId(7)).start().enter();
            told.push(root.context());
            let inner = span!("inner");
            told.push(inner.context());
            // One that is recorded later than its parent ended, as importers do.
            let parent =
                SpanContext::from_ids(trace, SpanId(7), TraceFlags(0), TraceState::default());
            drop(Span::builder("child").parent(&parent).ids(trace, SpanId(8)).start());
            drop(Span::builder("grandchild").parent(&root.context()).ids(trace, SpanId(9)).start());
        }
        drop(
            Span::builder("remote child")
                .parent(&remote(TraceFlags(0)))
                .ids(trace, SpanId(10))
                .start(),
        );
        drop(Span::builder("zero").root().ids(trace, SpanId(0)).start());
        // The short way afterwards, on the same blocks.
        for _ in 0..3 {
            let _usual = span!("usual");
            drop(span!("below usual"));
        }
        assert_eq!((told[0].trace_id(), told[0].span_id()), (trace, SpanId(7)));
        assert_eq!(told[1].trace_id(), trace);
    });
    let ids = |name: &str| {
        let span = ledger.span(name);
        (span.trace_id, span.span_id, span.parent_span_id)
    };
    assert_eq!(ids("root"), (trace, SpanId(7), None));
    assert_eq!(ids("child"), (trace, SpanId(8), Some(SpanId(7))));
    assert_eq!(ids("grandchild"), (trace, SpanId(9), Some(SpanId(7))));
    let inner = ledger.span("inner");
    assert_eq!((inner.trace_id, inner.parent_span_id), (trace, Some(SpanId(7))));
    let remote_child = ledger.span("remote child");
    assert_eq!(ids("remote child"), (trace, SpanId(10), Some(SpanId(0x1234))));
    assert_eq!(remote_child.parent_is_remote, Some(true));
    assert_eq!(remote_child.trace_state, "vendor=value");
    for name in ["child", "grandchild", "inner"] {
        assert_ne!(ledger.span(name).parent_is_remote, Some(true));
    }
    assert_ne!(ids("zero").0, trace, "IDs of zero are none");
    let usual: Vec<_> = ledger.spans().filter(|span| span.name == "usual").collect();
    assert!(usual.iter().all(|span| span.parent_span_id.is_none() && span.trace_id != trace));
    let below: Vec<_> = ledger.spans().filter(|span| span.name == "below usual").collect();
    for (above, below) in usual.iter().zip(&below) {
        assert_eq!((below.trace_id, below.parent_span_id), (above.trace_id, Some(above.span_id)));
    }
    assert_eq!((usual.len(), below.len()), (3, 3));
}

/// Children of whatever is current, and theirs.
fn family() {
    for _ in 0..4 {
        let _child = span!("child");
        for _ in 0..4 {
            drop(span!("grandchild"));
        }
    }
}

/// Under a usual parent, children take the short way as soon as their names are interned and the thread has
/// blocks. What an unusual one hands on must not get lost there.
#[test]
fn children_of_an_unusual_parent_have_what_it_hands_on() {
    let trace_state = TraceState::parse("vendor=value").expect("it is well-formed");
    let unusual = [
        (TraceId(0xabc << 64 | 0xdef), 1, trace_state),
        (TraceId(0xabc << 64 | 0xdef), 1 | 1 << 5, TraceState::default()),
        (TraceId(0xabc << 64), 1, TraceState::default()),
    ];
    for (trace_id, flags, trace_state) in unusual {
        let parent =
            SpanContext::remote(trace_id, SpanId(0x1234), TraceFlags(flags), trace_state.clone());
        let ledger = record(settings(), |_| {
            for _ in 0..3 {
                let _usual = span!("usual");
                let _one = span!("more");
                family();
            }
            let _server = Span::builder("server").parent(&parent).start().enter();
            family();
        });
        for (name, count) in [("child", 4), ("grandchild", 16)] {
            let of_trace = |name: &str| {
                let spans = ledger.spans().filter(|span| span.trace_id == trace_id);
                spans.filter(|span| span.name == name).collect::<Vec<_>>()
            };
            assert_eq!(of_trace(name).len(), count, "{name} in the remote trace");
            for span in of_trace(name) {
                assert_eq!(span.trace_state, trace_state.as_str(), "{name}");
                assert_eq!(span.trace_flags, 1, "{name}");
            }
        }
    }
}

#[test]
fn every_child_of_an_attached_remote_context_has_it_as_parent() {
    let ledger = record(settings(), |_| {
        family();
        family();
        let _attached = remote(TraceFlags::SAMPLED).attach();
        family();
    });
    let remote: Vec<_> = ledger
        .spans()
        .filter(|span| span.name == "child" && span.trace_id == TraceId(0xabc << 64 | 0xdef))
        .collect();
    assert_eq!(remote.len(), 4);
    for span in remote {
        assert_eq!(span.parent_span_id, Some(SpanId(0x1234)));
        assert_eq!(span.parent_is_remote, Some(true));
    }
}

#[test]
fn times_are_the_clock_s_unless_told_and_an_end_never_precedes_its_start() {
    let before = unix_nanos(SystemTime::now());
    let ledger = record(settings(), |_| {
        drop(span!("by the clock"));
        let told = |nanos: u64| WallTime(1_700_000_000_000_000_000 + nanos);
        Span::builder("told").start_time(told(5)).start().end_at(told(8));
        Span::builder("early end").start_time(told(5)).start().end_at(told(4));
        span!("long ago").end_at(WallTime(77));
        Span::builder("epoch").start_time(WallTime(0)).start().end_at(WallTime(0));
        let far = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        Span::builder("before 1970").start_time(far).start().end_at(far);
        Span::builder("last").start_time(WallTime(u64::MAX)).start().end_at(WallTime(u64::MAX));
    });
    let after = unix_nanos(SystemTime::now());
    let times = |name| (ledger.span(name).start_unix_nano, ledger.span(name).end_unix_nano);
    // The clocks of engine and system may differ by their reading error.
    let (slack, clock) = (5_000_000, times("by the clock"));
    assert!(before - slack <= clock.0 && clock.1 <= after + slack, "{before} {clock:?} {after}");
    let base = 1_700_000_000_000_000_000;
    assert_eq!(times("told"), (base + 5, base + 8));
    assert_eq!(times("early end"), (base + 5, base + 5));
    assert_eq!(times("long ago").0, times("long ago").1);
    assert_eq!((times("epoch"), times("before 1970")), ((0, 0), (0, 0)));
    assert_eq!(times("last"), (u64::MAX, u64::MAX));
}

#[test]
fn events_and_links_arrive_in_order_with_their_attributes_and_times() {
    let target = remote(TraceFlags(3));
    let mut local = SpanContext::default();
    let ledger = record(settings(), |_| {
        let mut span = span!("busy");
        local = Span::start("linked").context();
        span.add_event("first")
            .add_event_with("second", |event| {
                event.set("n", 1).set("text", "two").set("n", 3);
            })
            .add_event_at("told", WallTime(42), |_| {})
            .add_link(&local)
            .add_link_with(&target, |link| {
                link.set("why", "follows");
            })
            .add_link(&SpanContext::default());
    });
    let span = ledger.span("busy");
    let events: Vec<_> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["first", "second", "told"]);
    assert!(span.events[0].time_unix_nano >= span.start_unix_nano);
    assert!(span.events[1].time_unix_nano >= span.events[0].time_unix_nano);
    assert!(span.events[1].time_unix_nano <= span.end_unix_nano);
    assert_eq!(span.events[2].time_unix_nano, 42);
    let of_second = &span.events[1].attributes;
    assert_eq!(*of_second, [("text".into(), "two".into()), ("n".into(), 3i64.into())]);
    assert_eq!(span.links.len(), 2, "a link to nothing is left out");
    let link = &span.links[0];
    assert_eq!((link.trace_id, link.span_id), (local.trace_id(), local.span_id()));
    assert_ne!(link.is_remote, Some(true));
    let link = &span.links[1];
    assert_eq!((link.trace_id, link.span_id), (target.trace_id(), target.span_id()));
    assert_eq!((link.trace_flags, link.is_remote), (3, Some(true)));
    assert_eq!(link.trace_state, "vendor=value");
    assert_eq!(link.attributes, [("why".into(), "follows".into())]);
}

#[test]
fn ok_is_final_unset_changes_nothing_and_messages_are_for_errors() {
    type Status = (StatusCode, &'static str);
    use StatusCode::*;
    let cases: [(&str, &[Status], StatusCode, &str); 6] = [
        ("none", &[], Unset, ""),
        ("error", &[(Error, "broke")], Error, "broke"),
        ("error, again", &[(Error, "broke"), (Error, "worse")], Error, "worse"),
        ("error, unset", &[(Error, "broke"), (Unset, "")], Error, "broke"),
        ("error, ok", &[(Error, "broke"), (Ok, "ignored")], Ok, ""),
        ("ok, error", &[(Ok, ""), (Error, "ignored")], Ok, ""),
    ];
    let ledger = record(settings(), |_| {
        for (name, statuses, ..) in cases {
            let mut span = Span::start(name);
            for (code, message) in statuses {
                span.set_status(*code, message);
            }
        }
    });
    for (name, _, code, message) in cases {
        let span = ledger.span(name);
        assert_eq!((span.status, span.status_message.as_str()), (code, message), "{name}");
    }
}

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipe is broken")
    }
}

impl std::error::Error for Broken {}

#[test]
fn a_recorded_error_is_an_exception_event_and_the_status() {
    let ledger = record(settings(), |_| {
        span!("failed").record_error(&Broken);
        let boxed: Box<dyn std::error::Error> = Box::new(Broken);
        span!("failed boxed").record_error(&*boxed);
    });
    for name in ["failed", "failed boxed"] {
        let span = ledger.span(name);
        assert_eq!(span.status, StatusCode::Error);
        assert_eq!(span.status_message, "the pipe is broken");
        let event = &span.events[0];
        assert_eq!((span.events.len(), event.name.as_str()), (1, "exception"));
        let get = |key: &str| event.attributes.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        assert_eq!(get("exception.message"), Some(&"the pipe is broken".into()));
        let Some(Value::Str(kind)) = get("exception.type") else { panic!("{event:?}") };
        assert!(name == "failed boxed" || kind.ends_with("Broken"), "{kind}");
    }
}

#[test]
fn names_and_kinds_can_change_until_the_end() {
    let long = "n".repeat(1000);
    let ledger = record(settings(), |_| {
        let mut span = span!("before");
        span.update_name("after").set_kind(SpanKind::Server);
        drop(span);
        let mut span = span!("short");
        span.update_name(&long);
        drop(span);
        let mut span = Span::builder(&format!("{long}!")).kind(SpanKind::Producer).start();
        span.update_name("from long to short");
        drop(span);
        drop(span!("client", kind: SpanKind::Client, "k" = 1));
        drop(span!(""));
    });
    let expected = ["after", &long, "from long to short", "client", ""];
    assert_eq!(ledger.names(), expected);
    let kinds: Vec<_> = ledger.spans().map(|span| span.kind).collect();
    let internal = SpanKind::Internal;
    let expected = [SpanKind::Server, internal, SpanKind::Producer, SpanKind::Client, internal];
    assert_eq!(kinds, expected);
}

#[test]
fn limits_cut_and_count_what_is_beyond_them() {
    let few = settings()
        .attribute_count_limit(3)
        .attribute_value_length_limit(4)
        .event_count_limit(2)
        .link_count_limit(1)
        .event_attribute_count_limit(1)
        .link_attribute_count_limit(0);
    let ledger = record(few, |_| {
        let mut span = span!("cut", "a" = "abcdefgh", "b" = 2);
        for i in 0..5 {
            span.set_attribute(&format!("more {i}"), i);
        }
        // Those that are there may still change.
        span.set_attribute("b", "äöüß€");
        for _ in 0..5 {
            span.add_event_with("event", |event| {
                event.set("kept", 1).set("cut", 2);
            });
            span.add_link_with(&remote(TraceFlags::SAMPLED), |link| {
                link.set("cut", 1);
            });
        }
    });
    let span = ledger.span("cut");
    let expected =
        [("a".into(), "abcd".into()), ("more 0".into(), 0i64.into()), ("b".into(), "äöüß".into())];
    assert_eq!(span.attributes, expected, "value lengths are in characters");
    assert_eq!(span.dropped_attributes, 4);
    assert_eq!((span.events.len(), span.dropped_events), (2, 3));
    assert_eq!((span.links.len(), span.dropped_links), (1, 4));
    assert_eq!((span.events[0].attributes.len(), span.events[0].dropped_attributes), (1, 1));
    assert_eq!((span.links[0].attributes.len(), span.links[0].dropped_attributes), (0, 1));
}

#[test]
fn by_default_a_span_keeps_128_attributes_events_and_links() {
    let ledger = record(settings(), |_| {
        let mut span = span!("full");
        for i in 0..130 {
            span.set_attribute(&format!("key {i}"), i).add_event("event");
            span.add_link(&remote(TraceFlags::SAMPLED));
        }
    });
    let span = ledger.span("full");
    let counts = (span.attributes.len(), span.events.len(), span.links.len());
    assert_eq!(counts, (128, 128, 128));
    let dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links);
    assert_eq!(dropped, (2, 2, 2));
    for (i, (key, value)) in span.attributes.iter().enumerate() {
        assert_eq!((key, value), (&format!("key {i}"), &(i as i64).into()));
    }
}

#[test]
fn a_tracer_s_spans_carry_its_scope_and_resource() {
    let shop = ResourceInfo {
        attributes: vec![("service.name".into(), "recorded shop".into())],
        schema_url: "https://example.com/schema".into(),
    };
    let info = TracerInfo {
        name: "lib".into(),
        version: "1.2".into(),
        attributes: vec![("scope.key".into(), 7i64.into())],
        resource: Some(shop.into()),
        ..TracerInfo::default()
    };
    let ledger = record(settings().service_name("this program"), |_| {
        drop(Tracer::new(info.clone()).span("by tracer").start());
        drop(Tracer::named("named", "0.1").span("by named").start());
        drop(span!("by nobody"));
        assert_eq!(Tracer::new(info.clone()), Tracer::new(info.clone()));
    });
    let scope = ledger.scope("by tracer");
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("lib", "1.2"));
    assert_eq!(scope.attributes, [("scope.key".into(), 7i64.into())]);
    let service = |name: &str| {
        let batch = ledger
            .batches
            .iter()
            .find(|batch| batch.batch.spans.iter().any(|span| span.name == name))
            .unwrap();
        let resource = &batch.batch.resources[ledger.scope(name).resource];
        resource.attributes.iter().find(|(key, _)| key == "service.name").unwrap().1.clone()
    };
    assert_eq!(service("by tracer"), "recorded shop".into());
    assert_eq!(service("by named"), "this program".into());
    assert_eq!(ledger.scope("by named").name, "named");
    assert_eq!(
        (service("by nobody"), ledger.scope("by nobody").name.as_str()),
        ("this program".into(), "")
    );
}
