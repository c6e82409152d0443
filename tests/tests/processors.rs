//! Processors of a running pipeline: what they drop and change, what becomes of those that fail, and that no span is lost
//! without a count.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use spanring::export::Reason;
use spanring::{Span, StatusCode, Value, span};
use spanring_exporter::batch::decode;
use spanring_exporter::model::SpanData;
use spanring_exporter::{
    MemorySink, OtlpOptions, Pipeline, PipelineStats, ProcessorStats, SpanView, next_message,
};
use spanring_tests::ledger::Ledger;
use spanring_tests::receiver::{Answer, Receiver};
use spanring_tests::{LONG, directory, memory_pipeline, settings};

fn spans(sink: &MemorySink) -> Vec<SpanData> {
    let batches = sink.batches();
    batches.iter().flat_map(|batch| decode(&batch.frame).unwrap().batch.spans).collect()
}

fn of<'a>(stats: &'a PipelineStats, name: &str) -> &'a ProcessorStats {
    stats.processors.iter().find(|processor| processor.name == name).expect("it is there")
}

fn attribute<'a>(span: &'a SpanData, key: &str) -> Option<&'a Value> {
    let mut found = span.attributes.iter().filter(|(known, _)| known == key);
    let value = found.next();
    assert_eq!(found.next(), None, "{key} is there twice");
    value.map(|(_, value)| value)
}

/// Ends the pipeline; its batches hold what its stats say.
fn end(pipeline: &Pipeline, sink: &MemorySink) -> PipelineStats {
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    Ledger::read(&sink.batches()).check_against(&stats);
    stats
}

#[test]
fn spans_are_dropped_by_rule_and_changed_and_each_processor_sees_what_those_before_it_did() {
    let (pipeline, sink) = memory_pipeline(settings().batch_size(64));
    pipeline.set_processor("first", |span: &mut SpanView<'_>| {
        let Some(number) = span.attribute("number") else { return };
        let spanring::record::ValueRef::Int(number) = number else { panic!("{number:?}") };
        assert_eq!((span.name(), span.is_error()), ("seen", number % 4 == 1));
        assert_eq!(span.status_message(), if number % 4 == 1 { "odd" } else { "" });
        match number % 5 {
            0 => span.drop_span("fives"),
            1 => {
                span.set_attribute("added", "by the first");
                span.set_attribute("number", -number);
                span.remove_attribute("removed");
            }
            _ => {}
        }
    });
    pipeline.set_processor("second", |span: &mut SpanView<'_>| {
        if let Some(spanring::record::ValueRef::Str(text)) = span.attribute("added") {
            let text = format!("{}, then the second", text.as_str());
            span.set_attribute("added", text);
            assert!(span.duration() < LONG);
        }
        assert!(span.attribute("number").is_some());
    });
    {
        let _attached = pipeline.attach();
        for number in 0..1000 {
            let mut span = span!("seen", "number" = number, "removed" = "x".repeat(2000));
            span.add_event_with("kept", |event| {
                event.set("removed", 1);
            });
            if number % 4 == 1 {
                span.set_status(StatusCode::Error, "odd");
            }
        }
    }
    let stats = end(&pipeline, &sink);
    let spans = spans(&sink);
    assert_eq!(spans.len(), 800);
    for span in &spans {
        let Some(&Value::Int(number)) = attribute(span, "number") else { panic!("{span:?}") };
        let added = attribute(span, "added");
        if number < 0 || (number == 0 && added.is_some()) {
            assert_eq!(-number % 5, 1);
            assert_eq!(added, Some(&Value::Str("by the first, then the second".into())));
            assert_eq!(attribute(span, "removed"), None);
        } else {
            assert!(number % 5 > 1 && added.is_none(), "{span:?}");
            assert_eq!(attribute(span, "removed"), Some(&Value::Str("x".repeat(2000))));
        }
        assert_eq!(span.events[0].attributes, [("removed".to_owned(), Value::Int(1))]);
    }
    let first = of(&stats, "first");
    assert_eq!((first.spans, first.changed, first.panics), (1000, 200, 0));
    assert_eq!(first.dropped, [("fives".to_owned(), 200)]);
    assert_eq!((of(&stats, "second").spans, of(&stats, "second").changed), (800, 200));
    assert_eq!(stats.engine.dropped.0[Reason::Processor as usize], 200);
    assert_eq!(stats.engine.dropped.total(), 200);
    assert_eq!(
        stats.engine.bytes_free,
        pipeline.settings().max_bytes - stats.engine.ring_bytes as u64
    );
    // What was asked to be dropped says nothing against the pipeline.
    assert!(!pipeline.health().reasons.iter().any(|reason| reason.contains("dropped")));
}

#[test]
fn one_that_panics_leaves_the_span_as_it_was_and_is_switched_off_if_it_keeps_on() {
    while next_message().is_some() {}
    let (pipeline, sink) = memory_pipeline(settings());
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    pipeline.set_processor("bad", move |span: &mut SpanView<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        span.set_attribute("half", true);
        span.drop_span("half");
        assert!(span.name() != "panics", "it is bad");
        span.set_attribute("whole", true);
    });
    assert_eq!(pipeline.health().processors_count, 2);
    let record = |name: &'static str| {
        let _attached = pipeline.attach();
        drop(Span::builder(name).start());
        pipeline.flush(LONG).unwrap();
    };
    // Two bad batches, a good one, three bad ones.
    for name in ["panics", "panics", "dropped", "panics", "panics", "panics", "unseen", "dropped"] {
        record(name);
    }
    assert_eq!(pipeline.health().processors_count, 1);
    assert_eq!(calls.load(Ordering::Relaxed), 6);
    // Set again, it begins anew.
    pipeline.set_processor("bad", |span: &mut SpanView<'_>| span.set_attribute("whole", true));
    assert_eq!(pipeline.health().processors_count, 2);
    record("good");
    let stats = end(&pipeline, &sink);
    let names: Vec<_> = spans(&sink).into_iter().map(|span| (span.name, span.attributes)).collect();
    let (names, attributes): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    assert_eq!(
        names,
        ["panics", "panics", "panics", "panics", "panics", "unseen", "dropped", "good"]
    );
    assert_eq!(attributes[..7], vec![Vec::new(); 7]);
    assert_eq!(attributes[7], [("whole".to_owned(), Value::Bool(true))]);
    assert_eq!((of(&stats, "bad").spans, of(&stats, "bad").is_off), (1, false));
    let said: Vec<_> = std::iter::from_fn(next_message).map(|(_, text)| text).collect();
    let off = said.iter().filter(|text| text.starts_with("processor bad is switched off")).count();
    assert_eq!(off, 1, "{said:?}");
    assert!(said.iter().any(|text| text == "processor bad: it panicked: it is bad"), "{said:?}");
}

#[test]
fn one_that_takes_too_long_is_counted_and_switched_off_if_it_keeps_on() {
    let (pipeline, sink) = memory_pipeline(settings().processor_max_time(Duration::from_millis(1)));
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = slow.clone();
    pipeline.set_processor("slow", move |span: &mut SpanView<'_>| {
        let begun = Instant::now();
        while is_slow.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_millis(2) {}
        span.set_attribute("seen", true);
    });
    let _attached = pipeline.attach();
    for number in 0..5 {
        drop(span!("slow", "number" = number));
        pipeline.flush(LONG).unwrap();
    }
    let stats = pipeline.stats();
    let found = of(&stats, "slow");
    assert_eq!((found.spans, found.changed, found.overruns, found.is_off), (3, 3, 3, true));
    drop(_attached);
    end(&pipeline, &sink);
    let seen = spans(&sink).iter().filter(|span| attribute(span, "seen").is_some()).count();
    assert_eq!((seen, spans(&sink).len()), (3, 5));
}

#[test]
fn a_batch_of_which_nothing_is_left_is_not_sealed_and_flush_does_not_wait_for_it() {
    let (pipeline, sink) = memory_pipeline(settings());
    pipeline.set_processor("all", |span: &mut SpanView<'_>| span.drop_span("all"));
    for _ in 0..3 {
        let _attached = pipeline.attach();
        (0..10).for_each(|_| drop(span!("dropped")));
        pipeline.flush(LONG).unwrap();
    }
    let stats = end(&pipeline, &sink);
    // The closing one.
    assert_eq!((stats.batches, sink.batches().len()), (1, 1));
    assert_eq!((stats.engine.created, of(&stats, "all").dropped[0].1), (30, 30));
}

/// Large values are counted against MAX_BYTES, and so is what processors add.
#[test]
fn the_bytes_of_what_is_added_and_removed_are_counted() {
    let (pipeline, sink) = memory_pipeline(settings().max_bytes(4 << 20));
    pipeline.set_processor("swells", |span: &mut SpanView<'_>| {
        span.remove_attribute("large");
        (0..3).for_each(|n| span.set_attribute(format!("added {n}"), "y".repeat(3000)));
    });
    for _ in 0..20 {
        let _attached = pipeline.attach();
        for _ in 0..100 {
            drop(span!("span", "large" = "x".repeat(2000)));
        }
        pipeline.flush(LONG).unwrap();
    }
    let stats = end(&pipeline, &sink);
    assert_eq!((stats.engine.sealed, stats.engine.attributes_dropped), (2000, 0));
    assert_eq!(stats.engine.bytes_free, (4 << 20) - stats.engine.ring_bytes as u64);
}

#[test]
fn processors_are_set_replaced_and_removed_while_threads_record_and_no_span_is_lost() {
    let (pipeline, sink) = memory_pipeline(settings().batch_size(32));
    let (threads, each) = (4, 20_000u64);
    let stop = AtomicBool::new(false);
    let dropped_by = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let recording: Vec<_> = (0..threads)
            .map(|thread| {
                let pipeline = &pipeline;
                scope.spawn(move || {
                    let _attached = pipeline.attach();
                    for number in 0..each {
                        drop(span!("span", "number" = thread * each + number));
                    }
                })
            })
            .collect();
        let changing = scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::Acquire) {
                let dropped = dropped_by.clone();
                let name = ["a", "b", "c"][round as usize % 3];
                match round % 5 {
                    4 => pipeline.remove_processor(name),
                    _ => pipeline.set_processor(name, move |span: &mut SpanView<'_>| {
                        let spanring::record::ValueRef::Int(number) =
                            span.attribute("number").unwrap()
                        else {
                            panic!("no number")
                        };
                        match number % 7 {
                            0 => {
                                dropped.fetch_add(1, Ordering::Relaxed);
                                span.drop_span("sevens");
                            }
                            1 => span.set_attribute("seen", round as i64),
                            2 if number % 997 < 20 => panic!("now and then"),
                            _ => {}
                        }
                    }),
                }
                round += 1;
                std::thread::yield_now();
            }
        });
        recording.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Ordering::Release);
        changing.join().unwrap();
    });
    let stats = end(&pipeline, &sink);
    let numbers: Vec<_> = spans(&sink)
        .iter()
        .map(|span| match attribute(span, "number") {
            Some(Value::Int(number)) => *number as u64,
            other => panic!("{other:?}"),
        })
        .collect();
    let distinct: HashSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len(), numbers.len(), "a span is there twice");
    let dropped = stats.engine.dropped.0[Reason::Processor as usize];
    assert_eq!(dropped, dropped_by.load(Ordering::Relaxed), "{stats:?}");
    assert!(dropped > 0);
    assert_eq!(numbers.len() as u64 + stats.engine.dropped.total(), threads * each);
    let missing = (0..threads * each).filter(|number| !distinct.contains(number));
    // The others found no room.
    let other = missing.filter(|number| number % 7 != 0).count() as u64;
    assert!(other <= stats.engine.dropped.unasked(), "{other} {stats:?}");
}

/// A secret in every place, under keys in every case, interned or not.
fn record_secrets(pipeline: &Pipeline) {
    let _attached = pipeline.attach();
    let secret = || Value::Str("hunter2".to_owned());
    let mut span = Span::builder("login").start();
    span.set_attribute("user", "alice");
    span.set_attribute("Db.Password", secret());
    span.set_attribute("db.password.hash", "hunter2".repeat(500));
    span.set_attribute("authorization", 7);
    span.set_attribute(&("x".repeat(300) + "token"), secret());
    span.set_attribute(
        "args",
        Value::Map(vec![
            ("password".into(), secret()),
            ("list".into(), Value::Array(vec![Value::Map(vec![("TOKEN".into(), secret())])])),
            ("kept".into(), Value::Int(1)),
        ]),
    );
    span.add_event_with("tried", |event| {
        event.set("password", secret()).set("kept", true);
    });
    let other = Span::builder("other").start();
    span.add_link_with(&other.context(), |link| {
        link.set("session.token", secret()).set("kept", 2.5);
    });
    drop((span, other));
}

fn check_redacted(span: &SpanData) {
    let hidden = Value::Str("[REDACTED]".to_owned());
    assert_eq!(attribute(span, "user"), Some(&Value::Str("alice".to_owned())));
    for key in ["Db.Password", "db.password.hash", "authorization", &("x".repeat(300) + "token")] {
        assert_eq!(attribute(span, key), Some(&hidden), "{key}");
    }
    let args = Value::Map(vec![
        ("password".into(), hidden.clone()),
        ("list".into(), Value::Array(vec![Value::Map(vec![("TOKEN".into(), hidden.clone())])])),
        ("kept".into(), Value::Int(1)),
    ]);
    assert_eq!(attribute(span, "args"), Some(&args));
    let event = [("password".to_owned(), hidden.clone()), ("kept".to_owned(), Value::Bool(true))];
    assert_eq!(span.events[0].attributes, event);
    let link = [("session.token".to_owned(), hidden), ("kept".to_owned(), Value::Double(2.5))];
    assert_eq!(span.links[0].attributes, link);
}

#[test]
fn what_is_to_be_redacted_is_in_no_file_and_in_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = bodies.clone();
    let receiver = Receiver::answering(move |request| {
        kept.lock().unwrap().push(request.body.clone());
        Answer::status(200)
    });
    let memory = MemorySink::new();
    let builder = settings().redact(" *PassWord*, authorization,*token").dir(folder.path());
    let settings = builder.build();
    let pipeline = Pipeline::builder()
        .sink(spanring_exporter::file_sink(folder.path(), &settings).unwrap())
        .settings(settings)
        .sink(memory.clone())
        .otlp(OtlpOptions::new(receiver.endpoint()))
        // What processors add is redacted as well.
        .processor("adds", |span: &mut SpanView<'_>| span.set_attribute("token", "hunter2"))
        .build()
        .unwrap();
    record_secrets(&pipeline);
    let stats = end(&pipeline, &memory);
    assert_eq!((of(&stats, "redact").spans, of(&stats, "redact").changed), (2, 2));
    let spans = spans(&memory);
    check_redacted(spans.iter().find(|span| span.name == "login").unwrap());
    check_redacted(directory::read_one(folder.path()).ledger.span("login"));
    let bodies = bodies.lock().unwrap();
    let sent = ExportTraceServiceRequest::decode(&bodies[0][..]).unwrap();
    let text = format!("{sent:?}");
    assert!(!text.contains("hunter2") && text.matches("[REDACTED]").count() >= 9, "{text}");
}

#[test]
fn redaction_begins_and_ends_with_its_setting() {
    let (pipeline, sink) = memory_pipeline(settings());
    for redact in ["", "user", "nothing,that,is,there", ""] {
        pipeline.change_settings([("redact", redact)]).unwrap();
        let _attached = pipeline.attach();
        drop(span!("span", "user" = "alice"));
        pipeline.flush(LONG).unwrap();
    }
    end(&pipeline, &sink);
    let values: Vec<_> =
        spans(&sink).into_iter().map(|mut span| span.attributes.remove(0).1).collect();
    assert_eq!(
        values,
        ["alice", "[REDACTED]", "alice", "alice"].map(|text| Value::Str(text.into()))
    );
}

#[test]
fn errors_are_grouped_with_what_exceptions_and_statuses_say() {
    let (pipeline, sink) =
        memory_pipeline(settings().track_errors(true).redact("exception.message"));
    assert_eq!(pipeline.health().processors_count, 3);
    {
        let _attached = pipeline.attach();
        for number in 0..6 {
            let mut span = Span::builder("query").start();
            span.set_attribute("error.type", "Timeout");
            span.set_status(StatusCode::Error, &format!("no answer after {number} s"));
            drop(span);
            let mut span = Span::builder("query").start();
            span.record_error(&std::io::Error::other(format!("secret {number}")));
            drop(span);
            drop(Span::builder("query").start());
        }
    }
    end(&pipeline, &sink);
    let report = pipeline.errors();
    assert_eq!((report.groups.len(), report.forgotten), (2, 0));
    for (status, decoded) in [("no answer", spans(&sink)), ("[REDACTED]", spans(&sink))] {
        let group = report.groups.iter().find(|group| group.message.starts_with(status)).unwrap();
        let is_in = |span: &&SpanData| {
            let has_event = !span.events.is_empty();
            span.status == StatusCode::Error && has_event == (status == "[REDACTED]")
        };
        let ends: Vec<_> = decoded.iter().filter(is_in).map(|span| span.end_unix_nano).collect();
        assert_eq!((group.name.as_str(), group.count), ("query", ends.len() as u64));
        assert_eq!(
            (Some(&group.first_seen), Some(&group.last_seen)),
            (ends.iter().min(), ends.iter().max())
        );
    }
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    let groups = json["errors"].as_array().unwrap();
    let timeout = groups.iter().find(|group| group["type"] == "Timeout").unwrap();
    assert_eq!(
        (&timeout["message"], &timeout["count"]),
        (&"no answer after # s".into(), &6.into())
    );
}
