//! The attribute `priority` with the value `critical`, whichever way a span gets it.

use std::sync::mpsc;
use std::thread;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::record::{Records, flag};
use spanring::{Interned, Span, Value, span};

/// Whether the span that `record` records is critical, and whether the drainer is told so.
fn is_critical(record: impl FnOnce()) -> bool {
    with_options(&EngineOptions::default(), record)
}

fn with_options(options: &EngineOptions, record: impl FnOnce()) -> bool {
    let engine = Engine::start(options);
    let mut drainer = Drainer::new(engine);
    let attached = engine.attach();
    record();
    drop(attached);
    let told = drainer.mark_critical();
    let mut records = Records::new();
    assert_eq!(drainer.drain_critical(&mut records, 10), usize::from(told));
    drainer.drain(&mut records, 10);
    assert_eq!(records.len(), 1);
    let flagged = records.get(0).header.flags & flag::CRITICAL != 0;
    drainer.settle(&mut records, None);
    assert_eq!(flagged, told);
    flagged
}

#[test]
fn the_attribute_makes_a_span_critical_whichever_way_it_comes() {
    // Twice: a call site's first time is another way than the later ones.
    for _ in 0..2 {
        assert!(is_critical(|| drop(span!("literal", "priority" = "critical"))));
        assert!(is_critical(|| drop(span!("among others", "a" = 1, "priority" = "critical"))));
    }
    let dynamic = String::from("critical");
    assert!(is_critical(|| drop(span!("borrowed", "priority" = dynamic.as_str()))));
    assert!(is_critical(|| drop(span!("owned", "priority" = dynamic.clone()))));
    assert!(is_critical(|| drop(span!("computed", "priority" = || "critical"))));
    assert!(is_critical(|| {
        span!("later").set_attribute("priority", "critical");
    }));
    assert!(is_critical(|| {
        Span::start("by number").set_attribute(Interned::new("priority").unwrap(), "critical");
    }));
    assert!(is_critical(|| {
        let value = Interned::new("critical").unwrap();
        Span::start("both by number").set_attribute(Interned::new("priority").unwrap(), value);
    }));
    assert!(is_critical(|| {
        Span::start("a value").set_attribute("priority", Value::Str("critical".into()));
    }));
    assert!(is_critical(|| {
        let mut span = Span::start("with a large value");
        span.set_attribute("text", "x".repeat(100_000)).set_attribute("priority", "critical");
    }));
    assert!(is_critical(|| {
        let mut span = Span::start("with a large payload");
        for i in 0..100 {
            span.set_attribute(&format!("key {i}"), "a text that is some words long");
        }
        span.set_attribute("priority", "critical");
        for i in 0..20 {
            span.add_event_with("event", |event| {
                event.set("n", i);
            });
        }
    }));
}

#[test]
fn other_values_and_other_keys_do_not() {
    for _ in 0..2 {
        assert!(!is_critical(|| drop(span!("high", "priority" = "high"))));
        assert!(!is_critical(|| drop(span!("number", "priority" = 1))));
        assert!(!is_critical(|| drop(span!("another key", "severity" = "critical"))));
    }
    assert!(!is_critical(|| {
        span!("in capitals").set_attribute("priority", "CRITICAL");
    }));
    assert!(!is_critical(|| {
        span!("longer").set_attribute("priority", "critical!");
    }));
    assert!(!is_critical(|| {
        span!("of an event").add_event_with("event", |event| {
            event.set("priority", "critical");
        });
    }));
    assert!(!is_critical(|| {
        let map = Value::Map(vec![("priority".into(), "critical".into())]);
        span!("in a map").set_attribute("map", map);
    }));
}

#[test]
fn the_last_value_counts_when_the_span_ends() {
    assert!(!is_critical(|| {
        let mut span = span!("taken back", "priority" = "critical");
        span.set_attribute("priority", "low");
    }));
    assert!(is_critical(|| {
        let mut span = span!("raised", "priority" = "low");
        span.set_attribute("priority", "high").set_attribute("priority", "critical");
    }));
    assert!(is_critical(|| {
        let mut span = span!("said by code", "priority" = "critical");
        span.set_critical().set_attribute("priority", "low");
    }));
}

#[test]
fn an_attribute_that_limits_keep_out_does_not_count() {
    let none = EngineOptions { attribute_count: 0, ..EngineOptions::default() };
    assert!(!with_options(&none, || drop(span!("refused", "priority" = "critical"))));
    let cut = EngineOptions { attribute_value_length: 4, ..EngineOptions::default() };
    assert!(!with_options(&cut, || drop(span!("cut", "priority" = "critical"))));
}

/// However much the others have in their rings: it is not drained first.
#[test]
fn critical_spans_overtake_what_other_threads_recorded() {
    let engine = Engine::start(&EngineOptions::default());
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let (tell, told) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel();
    let busy = thread::spawn(move || {
        let _attached = engine.attach();
        for () in told {
            (0..1000).for_each(|_| drop(span!("busy")));
            answer.send(()).unwrap();
        }
    });
    let record_busily = || {
        tell.send(()).unwrap();
        answered.recv().unwrap();
    };
    record_busily();
    assert!(!drainer.mark_critical());
    let attached = engine.attach();
    drop(span!("before"));
    drop(span!("now", "priority" = "critical"));
    assert!(drainer.mark_critical());
    drop(span!("after"));
    record_busily();
    // What came before it on its thread comes with it, as far as there is room.
    assert_eq!(drainer.drain_critical(&mut records, 1), 1);
    assert!(drainer.is_behind_critical());
    assert_eq!(drainer.drain_critical(&mut records, 1000), 1);
    assert!(!drainer.is_behind_critical() && !drainer.mark_critical());
    let names: Vec<_> = records.iter().map(|record| record.name().as_str().to_owned()).collect();
    assert_eq!(names, ["before", "now"]);
    drainer.settle(&mut records, None);
    drop(attached);
    drop(tell);
    busy.join().unwrap();
    while drainer.drain(&mut records, 500) > 0 {
        drainer.settle(&mut records, None);
    }
    assert_eq!(engine.stats().sealed, 2003);
}

/// A stream of critical spans must not change whose turn it is.
#[test]
fn critical_spans_between_the_rounds_hold_back_no_thread() {
    let engine = Engine::start(&EngineOptions::default());
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let recorders: Vec<_> = (0..3)
        .map(|_| {
            let (tell, told) = mpsc::channel::<usize>();
            let (answer, answered) = mpsc::channel();
            thread::spawn(move || {
                let _attached = engine.attach();
                for count in told {
                    (0..count).for_each(|_| drop(span!("usual")));
                    let _ = answer.send(());
                }
            });
            (tell, answered)
        })
        .collect();
    let record = |index: usize, count: usize| {
        recorders[index].0.send(count).unwrap();
        recorders[index].1.recv().unwrap();
    };
    // The busy one lies between the other two, whichever way the rings are walked.
    (0..3).for_each(|index| record(index, [1, 100, 1][index]));
    let _attached = engine.attach();
    drainer.mark();
    let mut rounds = 0;
    while drainer.is_behind_mark() {
        assert!(rounds < 50, "what was recorded before the mark is never drained");
        rounds += 1;
        drop(span!("now", "priority" = "critical"));
        assert!(drainer.mark_critical());
        // There is room for no more, as when a batch is nearly full.
        assert_eq!(drainer.drain_critical(&mut records, 1), 1);
        drainer.settle(&mut records, None);
        assert_eq!(drainer.drain(&mut records, 10), 10);
        drainer.settle(&mut records, None);
        record(1, 10);
    }
}
