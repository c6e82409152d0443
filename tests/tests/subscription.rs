//! Subscriptions: spans as lines of JSON, on the host's own threads, against what the batches hold.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value as Json;
use spanring::{Span, SpanKind, StatusCode, Tracer, Value, span};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::decode;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_tests::fork::in_child;
use spanring_tests::{LONG, memory_pipeline, settings};

fn parse(line: &str) -> Json {
    serde_json::from_str(line).expect("a line of JSON")
}

#[test]
fn each_span_comes_once_with_all_that_it_has() {
    let (pipeline, sink) = memory_pipeline(settings().service_name("shop"));
    let mut subscription = pipeline.subscribe(1000);
    {
        let _attached = pipeline.attach();
        let tracer = Tracer::named("library", "1.2");
        let mut parent = tracer.span("parent").kind(SpanKind::Client).start();
        parent
            .set_attribute("null", Value::Null)
            .set_attribute("yes", true)
            .set_attribute("int", i64::MIN);
        parent.set_attribute("double", 0.1).set_attribute("nan", f64::NAN);
        parent.set_attribute("bytes", bytes::Bytes::from_static(b"foob"));
        let map = Value::Map(vec![("list".into(), Value::Array(vec![Value::Int(1), Value::Null]))]);
        parent.set_attribute("map", map);
        parent.set_status(StatusCode::Error, "no \"way\"\n");
        parent.add_event_with("event", |event| {
            event.set("at", "é");
        });
        let child = Span::builder("child").parent(&parent.context()).start();
        parent.add_link_with(&child.context(), |link| {
            link.set("why", "because");
        });
        drop((child, parent));
    }
    pipeline.flush(LONG).unwrap();
    let batches = sink.batches();
    let batch = decode(&batches[0].frame).unwrap().batch;
    for span in &batch.spans {
        let line = parse(&subscription.next_json(LONG).expect("there is a span"));
        assert_eq!(line["trace_id"], span.trace_id.to_string());
        assert_eq!(line["span_id"], span.span_id.to_string());
        let parent = span.parent_span_id.map_or(Json::Null, |parent| parent.to_string().into());
        assert_eq!(line["parent_span_id"], parent);
        assert_eq!(line["start_unix_nano"], span.start_unix_nano);
        assert_eq!(line["end_unix_nano"], span.end_unix_nano);
        assert_eq!(line["name"], span.name);
        assert_eq!(line["resource"]["service.name"], "shop");
        if span.name == "parent" {
            assert_eq!(line["kind"], "client");
            assert_eq!(line["status"], parse(r#"{"code": "error", "message": "no \"way\"\n"}"#));
            let attributes = r#"{"null": null, "yes": true, "int": -9223372036854775808, "double": 0.1, "nan": "NaN",
                "bytes": {"base64": "Zm9vYg=="}, "map": {"list": [1, null]}}"#;
            assert_eq!(line["attributes"], parse(attributes));
            assert_eq!(line["scope"], parse(r#"{"name": "library", "version": "1.2"}"#));
            assert_eq!(line["events"][0]["attributes"]["at"], "é");
            assert_eq!(line["events"][0]["time_unix_nano"], span.events[0].time_unix_nano);
            assert_eq!(line["links"][0]["span_id"], span.links[0].span_id.to_string());
            assert_eq!(line["links"][0]["attributes"]["why"], "because");
        }
    }
    assert_eq!(subscription.next_json(Duration::ZERO), None);
    assert!(!subscription.is_ended());
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(subscription.next_json(LONG), None);
    assert!(subscription.is_ended());
}

#[test]
fn what_nobody_takes_is_dropped_and_counted_and_what_is_taken_comes_once() {
    let (pipeline, _) = memory_pipeline(settings().batch_size(10).max_spans(1000));
    let mut subscription = pipeline.subscribe(25);
    let record = |from: u64, to: u64| {
        let _attached = pipeline.attach();
        (from..to).for_each(|number| drop(span!("numbered", "number" = number)));
        pipeline.flush(LONG).unwrap();
    };
    record(0, 100);
    let mut taken = Vec::new();
    let mut take = |subscription: &mut spanring_exporter::Subscription| {
        while let Some(line) = subscription.next_json(Duration::ZERO) {
            taken.push(parse(&line)["attributes"]["number"].as_u64().unwrap());
        }
        taken.len() as u64
    };
    let came = take(&mut subscription);
    assert!((10..=34).contains(&came), "{came}");
    assert_eq!(came + subscription.dropped(), 100);
    record(100, 110);
    assert_eq!(take(&mut subscription), came + 10);
    assert!(taken.is_sorted() && taken.windows(2).all(|two| two[0] < two[1]));
    let stats = pipeline.stats();
    let sink = stats.sinks.iter().find(|sink| sink.name.starts_with("subscription-")).unwrap();
    assert_eq!((sink.delivered, sink.dropped_total()), (came + 10, subscription.dropped()));
    // A batch larger than the bound is taken, too.
    pipeline.change_settings([("batch_size", "100")]).unwrap();
    record(110, 150);
    let dropped = subscription.dropped();
    drop(subscription);
    assert!(dropped <= 100);
    record(150, 160);
    assert!(!pipeline.stats().sinks.iter().any(|sink| sink.name.starts_with("subscription-")));
}

#[test]
fn what_waits_is_within_the_byte_budget_and_gives_it_back() {
    let (pipeline, sink) = memory_pipeline(settings().max_bytes(2 << 20));
    let mut subscription = pipeline.subscribe(u64::MAX);
    let free = || pipeline.stats().engine.bytes_free;
    let mut random = 1_u64;
    let mut record = || {
        let _attached = pipeline.attach();
        let value = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        });
        drop(span!(
            "large",
            "value" = bytes::Bytes::from(value.take(64 << 10).collect::<Vec<_>>())
        ));
        pipeline.flush(LONG).unwrap();
    };
    (0..100).for_each(|_| record());
    let (dropped, free_before) = (subscription.dropped(), free());
    assert!((60..100).contains(&dropped), "{dropped}");
    assert!(free_before >= (2 << 20) / 4 - (64 << 10), "{free_before}");
    let mut came = 0;
    while subscription.next_json(Duration::ZERO).is_some() {
        came += 1;
    }
    assert_eq!(came + dropped, 100);
    let waited: usize = sink.batches()[..came as usize].iter().map(|batch| batch.frame.len()).sum();
    assert!(free() - free_before >= waited as u64, "{free_before}, {waited}, {}", free());
    // What is given up with the subscription is given back, too.
    (0..10).for_each(|_| record());
    let free_before = free();
    drop(subscription);
    assert!(free() - free_before >= 10 * (64 << 10));
}

#[test]
fn one_who_waits_is_woken_by_a_span_and_by_the_end() {
    let (pipeline, _) = memory_pipeline(settings());
    let mut subscription = pipeline.subscribe(100);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let first = subscription.next_json(Duration::MAX);
            let second = subscription.next_json(Duration::MAX);
            (first, second, subscription.is_ended())
        });
        let _attached = pipeline.attach();
        drop(span!("waited for"));
        pipeline.flush(LONG).unwrap();
        pipeline.shutdown(LONG).unwrap();
        let (first, second, ended) = waiting.join().unwrap();
        assert!(first.unwrap().contains("waited for"));
        assert_eq!((second, ended), (None, true));
    });
}

/// `next_json` would wait for good.
#[track_caller]
fn has_ended(mut subscription: spanring_exporter::Subscription) {
    let (ended, told) = mpsc::channel();
    std::thread::spawn(move || {
        let none = subscription.next_json(Duration::MAX).is_none();
        let _ = ended.send(none && subscription.is_ended());
    });
    assert_eq!(told.recv_timeout(LONG), Ok(true));
}

#[test]
fn one_of_a_pipeline_that_ends_or_has_ended_ends() {
    /// Tells when it is asked to end, and does once it may.
    struct Slow(mpsc::Sender<()>, mpsc::Receiver<()>);
    impl Sink for Slow {
        fn name(&self) -> &str {
            "slow"
        }
        fn deliver(&mut self, _: &SealedBatch) -> Result<(), SinkError> {
            Ok(())
        }
        fn close(&mut self) -> Result<(), SinkError> {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
            Ok(())
        }
    }
    let ((closing, closes), (may_close, closed)) = (mpsc::channel(), mpsc::channel());
    let sink = Slow(closing, closed);
    let pipeline = Pipeline::builder().settings(settings().build()).sink(sink).build().unwrap();
    assert!(pipeline.shutdown(Duration::ZERO).is_err());
    has_ended(pipeline.subscribe(100));
    closes.recv().unwrap();
    has_ended(pipeline.subscribe(100));
    may_close.send(()).unwrap();
    pipeline.shutdown(LONG).unwrap();
    has_ended(pipeline.subscribe(100));
}

#[test]
fn in_a_fork_child_it_has_ended() {
    let (pipeline, _) = memory_pipeline(settings());
    let mut subscription = pipeline.subscribe(100);
    {
        let _attached = pipeline.attach();
        drop(span!("the parent's"));
    }
    pipeline.flush(LONG).unwrap();
    let in_child = in_child(|| {
        let ended = subscription.is_ended() && subscription.next_json(Duration::MAX).is_none();
        pipeline.remove_sink("none");
        i32::from(!(ended && pipeline.subscribe(100).is_ended()))
    });
    assert_eq!(in_child, 0);
    assert!(subscription.next_json(LONG).is_some());
}
