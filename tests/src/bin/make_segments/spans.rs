//! Spans that are hard on an encoder and a reader, recorded through the public API.
//!
//! Each subject records on the calling thread, for whatever pipeline is attached there.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use spanring::{
    ResourceInfo, Span, SpanBuilder, SpanContext, SpanId, SpanKind, StatusCode, TraceFlags,
    TraceId, TraceState, Tracer, TracerInfo, Value, WallTime, span,
};

use crate::values::{self, LARGE_BYTES, Random, STRINGS};

/// 2022-08-22T03:01:02.123456789Z.
const TIME: u64 = 1_661_137_262_123_456_789;
const ALL_FLAGS: TraceFlags = TraceFlags(0xff);

const KINDS: [SpanKind; 6] = [
    SpanKind::Unspecified,
    SpanKind::Internal,
    SpanKind::Server,
    SpanKind::Client,
    SpanKind::Producer,
    SpanKind::Consumer,
];

/// Every subject that needs no arguments.
pub(crate) const SUBJECTS: [fn(); 12] = [
    bare,
    attribute_kinds,
    attribute_sets,
    large_values,
    events,
    links,
    parents,
    statuses_and_kinds,
    times,
    scopes_and_resources,
    names,
    few_arbitrary,
];

/// One span without anything.
fn bare() {
    drop(span!("bare"));
}

/// Each value under a key of its own, then all of them under the same key.
fn attribute_kinds() {
    let all = values::all();
    let mut one = Span::start("a key for each value");
    for (index, value) in all.iter().enumerate() {
        one.set_attribute(&format!("value.{index}"), value);
    }
    one.end();
    for value in &all {
        Span::start("the same key").set_attribute("value", value);
    }
    let mut integers = Span::start("integers");
    integers.set_attribute("all", values::integers());
    integers.end();
    for (index, value) in values::integers().into_iter().enumerate() {
        let mut span = span!("an integer", "value" = value);
        span.set_attribute("index", index);
    }
    let mut deep = Span::start("nested");
    deep.set_attribute("deepest", values::deepest());
    deep.set_attribute("beyond", values::nested(spanring::DEPTH_MAX + 5));
    deep.end();
}

/// The same keys in other orders, some of them missing, with constant and with changing values.
fn attribute_sets() {
    let keys = ["http.method", "http.route", "http.status_code", "", "ключ", "http.method "];
    for index in 0..200_usize {
        let mut span = Span::start("GET /users/{id}");
        for position in 0..keys.len() {
            let key = keys[(position + index / 50) % keys.len()];
            match position {
                0 => span.set_attribute(key, "GET"),
                1 => span.set_attribute(key, format!("/users/{}", index % 7)),
                2 => span.set_attribute(key, 200 + index % 3),
                3 if index % 3 == 0 => span.set_attribute(key, index as f64 / 4.0),
                4 if index % 5 != 0 => span.set_attribute(key, index % 2 == 0),
                5 => span.set_attribute(key, format!("{:032x}", index * 0x1234_5678)),
                _ => &mut span,
            };
        }
    }
}

fn large_values() {
    let text = values::large_string(LARGE_BYTES);
    let mut span = Span::start("large");
    span.set_attribute("text", text.as_str());
    span.set_attribute("bytes", bytes::Bytes::from(text.clone().into_bytes()));
    span.set_attribute("nested", Value::Array(vec![text.as_str().into(), "small".into()]));
    span.add_event_with("large", |event| {
        event.set("text", text.as_str());
    });
    span.end();
    let repeated = "A sentence that a compressor likes. ".repeat(6000);
    for _ in 0..3 {
        Span::start("large and repeated").set_attribute("text", repeated.as_str());
    }
    for length in [255, 256, 257, 1023, 1024, 1025, 4096, 65_535, 65_536] {
        Span::start("of a length").set_attribute("text", values::large_string(length));
    }
}

fn events() {
    let mut span = Span::builder("events").start_time(WallTime(TIME)).start();
    span.add_event("now").add_event("").add_event("now");
    for time in [TIME, TIME + 1, TIME - 1, 0, u64::MAX, TIME + 1_000_000_000] {
        span.add_event_at("at", WallTime(time), |event| {
            event.set("time", time.to_string());
        });
    }
    span.add_event_with("all values", |event| {
        for (index, value) in values::all().into_iter().enumerate() {
            event.set(&format!("value.{index}"), value);
        }
    });
    span.add_event(&values::large_string(3000));
    span.end_at(WallTime(TIME + 5));
    for index in 0..60_usize {
        let mut span = span!("with events");
        for number in 0..index % 4 {
            span.add_event_with("step", |event| {
                event.set("number", number).set("of", index % 4);
            });
        }
        if index % 10 == 0 {
            span.record_error(&std::fmt::Error);
        }
    }
}

fn links() {
    let remote = remote(7, ALL_FLAGS, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    let plain = remote_without_state(8);
    let ours = SpanContext::from_ids(TraceId(9), SpanId(u64::MAX), TraceFlags(0), state("a=b"));
    let before = Span::start("linked");
    let mut span = Span::start("links");
    let own = span.context();
    for target in [&before.context(), &own, &remote, &plain, &ours, &SpanContext::default()] {
        span.add_link(target);
    }
    span.add_link_with(&remote, |link| {
        for (index, value) in values::all().into_iter().enumerate() {
            link.set(&format!("value.{index}"), value);
        }
    });
    let context = span.context();
    span.end();
    for index in 0..50 {
        let mut span = Span::start("a link each");
        span.add_link(if index % 2 == 0 { &context } else { &remote });
        span.add_link_with(&before.context(), |link| {
            link.set("index", index);
        });
    }
}

fn parents() {
    // Roots, children and grandchildren, one of which ends after all the others.
    let outer = span!("outer");
    {
        let _inner = span!("inner");
        drop(span!("innermost"));
    }
    let late = Span::start("late");
    // Remote parents: their children and grandchildren are in a trace of theirs.
    for (number, flags) in [(1, TraceFlags::SAMPLED), (2, TraceFlags(3)), (3, ALL_FLAGS)] {
        for text in ["", "vendor=value", "a=1,b=2,ot=th:8"] {
            let parent = remote(number, flags, text);
            let _child = Span::builder("of a remote parent").parent(&parent).enter();
            drop(span!("grandchild"));
        }
    }
    // A parent with IDs of its own that is not remote, and one with the largest IDs.
    let ours = SpanContext::from_ids(TraceId(77), SpanId(78), TraceFlags::SAMPLED, state(""));
    Span::builder("of a local parent").parent(&ours).start().end();
    let largest = SpanContext::remote(
        TraceId(u128::MAX),
        SpanId(u64::MAX),
        TraceFlags::SAMPLED,
        TraceState::default(),
    );
    Span::builder("of the largest IDs").parent(&largest).start().end();
    // A parent that was never recorded, and one that never will be.
    let leaked = Span::start("leaked");
    let context = leaked.context();
    std::mem::forget(leaked);
    Span::builder("of a leaked parent").parent(&context).start().end();
    Span::builder("a root beside").root().start().end();
    let unsampled = remote(5, TraceFlags(0), "");
    Span::builder("not recorded").parent(&unsampled).start().end();
    // Many siblings, then a deep line.
    for _ in 0..100 {
        drop(span!("sibling"));
    }
    let mut line = vec![Span::start("link of a chain")];
    for _ in 0..100 {
        let parent = line[line.len() - 1].context();
        line.push(Span::builder("link of a chain").parent(&parent).start());
    }
    line.into_iter().for_each(Span::end);
    drop(outer);
    drop(late);
}

fn statuses_and_kinds() {
    for kind in KINDS {
        for status in [StatusCode::Unset, StatusCode::Ok, StatusCode::Error] {
            for message in ["", "connection refused", "ошибка 🦀", &values::large_string(5000)]
            {
                let mut span = Span::builder("status").kind(kind).start();
                span.set_status(status, message);
            }
        }
    }
}

fn times() {
    let starts = [0, 1, TIME, TIME + 1, TIME - 1_000_000_007, i64::MAX as u64, 1 << 63, u64::MAX];
    for start in starts {
        for duration in [0, 1, 999, 1_000_000, 3_600_000_000_000, u64::MAX] {
            let span = Span::builder("times").start_time(WallTime(start)).start();
            span.end_at(WallTime(start.saturating_add(duration)));
        }
        // An end before its start becomes the start.
        let span = Span::builder("backwards").start_time(WallTime(start)).start();
        span.end_at(WallTime(start / 2));
    }
    drop(span!("by the clock"));
    Span::start("ended at a time").end_at(WallTime(u64::MAX));
    Span::builder("begun at a time").start_time(WallTime(1)).start().end();
}

fn scopes_and_resources() {
    for round in 0..5 {
        for tracer in tracers() {
            let mut span = tracer.span("of a scope").start();
            span.set_attribute("round", round);
        }
        drop(span!("of no scope"));
    }
}

fn tracers() -> Vec<Tracer> {
    let attributes: Vec<(String, Value)> = values::all()
        .into_iter()
        .enumerate()
        .map(|(index, value)| (format!("attribute.{index}"), value))
        .collect();
    let named = |name: &str, version: &str, resource: Option<&Arc<ResourceInfo>>| TracerInfo {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: resource.cloned(),
        ..TracerInfo::default()
    };
    let full = Arc::new(ResourceInfo {
        attributes: attributes.clone(),
        schema_url: "https://opentelemetry.io/schemas/1.30.0".to_owned(),
    });
    let empty = Arc::new(ResourceInfo::default());
    let infos = [
        named("http", "1.0", None),
        named("http", "2.0", None),
        named("http", "1.0", Some(&full)),
        named("http", "1.0", Some(&empty)),
        named("", "", Some(&full)),
        named("", "", Some(&empty)),
        named("база данных 🦀", "", Some(&full)),
        TracerInfo {
            schema_url: "https://example.com/schema".to_owned(),
            attributes,
            ..named("", "only a version", None)
        },
    ];
    infos.into_iter().map(Tracer::new).collect()
}

fn names() {
    for name in STRINGS {
        Span::start(name).end();
    }
    let long = values::large_string(60_000);
    Span::start(long.as_str()).end();
    for index in 0..600 {
        Span::start(&format!("name {index}")).end();
    }
    Span::start("renamed").update_name("another name");
}

fn few_arbitrary() {
    arbitrary(99, 300);
}

/// `count` spans of which nothing can be foretold but that they are the same for the same seed.
pub(crate) fn arbitrary(seed: u64, count: usize) {
    let mut random = Random::new(seed);
    let tracers = tracers();
    let mut contexts = vec![remote(1, ALL_FLAGS, "k=v"), remote_without_state(2)];
    let mut open = Vec::new();
    for _ in 0..count {
        let name = random.text();
        let mut builder = Span::builder(&name).kind(*random.pick(&KINDS));
        let parent = random.pick(&contexts).clone();
        builder = if random.one_in(3) { builder.root() } else { builder.parent(&parent) };
        if random.one_in(3) {
            builder = builder.tracer(random.pick(&tracers));
        }
        let mut span = fill(builder, &mut random, &parent);
        if random.one_in(20) {
            span.set_status(StatusCode::Error, &random.text());
        }
        contexts.push(span.context());
        match random.below(4) {
            0 => open.push(span),
            1 => span.end_at(WallTime(TIME + random.magnitude() / 4)),
            _ => span.end(),
        }
        if random.one_in(8) && !open.is_empty() {
            let index = random.below(open.len());
            open.swap_remove(index).end();
        }
    }
}

fn fill(mut builder: SpanBuilder<'_>, random: &mut Random, target: &SpanContext) -> Span {
    if random.one_in(4) {
        builder = builder.start_time(WallTime(TIME + random.magnitude() / 4));
    }
    let mut span = builder.start();
    for _ in 0..random.below(6) {
        span.set_attribute(&random.text(), random.value(3));
    }
    for _ in 0..random.below(3) {
        span.add_event_at(&random.text(), WallTime(random.magnitude()), |event| {
            event.set(&random.text(), random.value(2)).set("same", random.below(9));
        });
    }
    if random.one_in(5) {
        span.add_link_with(target, |link| {
            link.set(&random.text(), random.value(1));
        });
    }
    span
}

/// `count` spans of one shape.
pub(crate) fn uniform(count: usize) {
    for index in 0..count {
        let _span = span!("db.query", kind: SpanKind::Client, "db.system" = "postgresql",
            "db.rows" = index % 10, "db.id" = index);
    }
}

/// The span whose context goes round between threads.
pub(crate) fn ring_of_contexts_start() -> Span {
    Span::start("start")
}

/// Takes a context, makes spans below it, and hands one of theirs on, 30 times; the last one on the
/// way finds its receiver gone.
pub(crate) fn pass_contexts(
    number: usize,
    receive: &Receiver<SpanContext>,
    send: &SyncSender<SpanContext>,
) {
    for round in 0..30 {
        let Ok(parent) = receive.recv() else { return };
        let mut span = Span::builder("hop").parent(&parent).start();
        span.set_attribute("thread", number).set_attribute("round", round);
        for child in 0..round % 5 {
            let below = span.context();
            let _child = Span::builder("below").parent(&below).enter();
            drop(span!("grandchild", "child" = child));
        }
        span.add_link(&parent);
        if send.send(span.context()).is_err() {
            return;
        }
    }
}

/// Spans with more of everything than the limits of their pipeline allow.
pub(crate) fn beyond_limits() {
    for index in 0..50_usize {
        let mut span = Span::start("beyond");
        for number in 0..index % 6 {
            span.set_attribute(&format!("key.{number}"), "äöü and more than that");
            span.add_event_with("event", |event| {
                for key in 0..number {
                    event.set(&format!("key.{key}"), key);
                }
            });
            let target = remote_without_state(number as u64 + 1);
            span.add_link_with(&target, |link| {
                for key in 0..number {
                    link.set(&format!("key.{key}"), key);
                }
            });
        }
    }
}

/// A span with an event of `bytes` bytes.
pub(crate) fn too_large(bytes: usize) {
    let text = values::large_string(bytes);
    let mut span = Span::start("too large");
    span.add_event_with("large", |event| {
        event.set("bytes", bytes::Bytes::from(text.clone().into_bytes()));
    });
    span.add_event(text.as_str());
    span.set_attribute("map", Value::Map(vec![(text.clone(), Value::Null)]));
    span.set_status(StatusCode::Error, &text);
}

fn remote(number: u64, flags: TraceFlags, text: &str) -> SpanContext {
    let trace = TraceId(u128::from(number) << 96 | 0x0123_4567_89ab_cdef);
    SpanContext::remote(trace, SpanId(number << 40 | 1), flags, state(text))
}

fn remote_without_state(number: u64) -> SpanContext {
    remote(number, TraceFlags::SAMPLED, "")
}

fn state(text: &str) -> TraceState {
    TraceState::parse(text).expect("tracestates here are well formed")
}
