//! Delivery over OTLP to a receiver that fails, from inside a pipeline: nothing is lost, and what is repeated is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spanring::span;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};
use spanring_exporter::{Compression, MemorySink, OtlpOptions, Pipeline, PipelineStats, SinkDrop};
use spanring_tests::ledger::check_counts;
use spanring_tests::proxy::Proxy;
use spanring_tests::receiver::{Answer, Receiver, Request, decode, spans};
use spanring_tests::{LONG, settings};

fn pipeline(endpoint: &str) -> Pipeline {
    Pipeline::builder()
        .settings(settings().build())
        .otlp(OtlpOptions::new(endpoint))
        .build()
        .unwrap()
}

fn record(pipeline: &Pipeline, spans: usize) {
    let _attached = pipeline.attach();
    for number in 0..spans {
        drop(span!("sent", "number" = number));
    }
}

fn dropped(stats: &PipelineStats, reason: SinkDrop) -> u64 {
    stats.sinks[0].dropped[reason as usize]
}

/// A receiver that answers the first requests as told, and takes those after them.
fn receiver(first: Vec<Answer>) -> Receiver {
    Receiver::answering(move |request: &Request| {
        first.get(request.number as usize).cloned().unwrap_or_else(|| Answer::status(200))
    })
}

#[test]
fn every_span_arrives_once_and_flush_waits_for_it() {
    let receiver = Receiver::start();
    let pipeline = pipeline(&receiver.endpoint());
    record(&pipeline, 2000);
    pipeline.flush(LONG).unwrap();
    assert_eq!(receiver.distinct(), 2000);
    record(&pipeline, 10);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((receiver.distinct(), receiver.repeats()), (2010, 0));
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.sinks[0].delivered, stats.sinks[0].repeated), (2010, 0));
}

#[test]
fn each_compression_is_what_the_receiver_gets() {
    for (compression, name) in [
        (Compression::None, None),
        (Compression::Gzip, Some("gzip")),
        (Compression::Zstd, Some("zstd")),
    ] {
        let receiver = Receiver::answering(move |request| {
            assert_eq!(request.headers.get("content-encoding").map(String::as_str), name);
            assert_eq!(request.headers["content-type"], "application/x-protobuf");
            assert_eq!(request.headers["x-key"], "secret");
            Answer::status(200)
        });
        let mut options = OtlpOptions::new(receiver.endpoint());
        options.compression = compression;
        options.headers.push(("x-key".into(), "secret".into()));
        let pipeline =
            Pipeline::builder().settings(settings().build()).otlp(options).build().unwrap();
        record(&pipeline, 100);
        pipeline.shutdown(LONG).unwrap();
        assert_eq!(receiver.distinct(), 100);
        assert!(!format!("{:?}", pipeline.stats()).contains("secret"));
    }
}

#[test]
fn a_compression_that_is_refused_is_given_up_for_good_and_loses_nothing() {
    let refused = AtomicU64::new(0);
    let receiver =
        Receiver::answering(move |request| match request.headers.get("content-encoding") {
            None => Answer::status(200),
            Some(_) => {
                assert!(
                    refused.fetch_add(1, Ordering::Relaxed) < 4,
                    "it goes on with what is refused"
                );
                Answer::status(if request.number == 0 { 415 } else { 400 })
            }
        });
    let mut options = OtlpOptions::new(receiver.endpoint());
    options.compression = Compression::Zstd;
    let pipeline = Pipeline::builder().settings(settings().build()).otlp(options).build().unwrap();
    for _ in 0..5 {
        record(&pipeline, 100);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!((receiver.distinct(), receiver.repeats(), stats.sinks[0].repeated), (500, 0, 0));
    assert_eq!(stats.sinks[0].failures, 0, "a compression that is refused is no failure");
}

#[test]
fn what_is_sent_again_is_the_same_bytes_under_the_same_batch_id() {
    let seen = Arc::new(Mutex::new(HashMap::<String, Vec<Vec<u8>>>::new()));
    let requests = seen.clone();
    let receiver = Receiver::answering(move |request| {
        let id = request.headers["spanring-batch"].clone();
        requests.lock().unwrap().entry(id).or_default().push(request.body.clone());
        Answer::status(if request.number < 4 { 503 } else { 200 })
    });
    let mut options = OtlpOptions::new(receiver.endpoint());
    options.compression = Compression::Gzip;
    let pipeline = Pipeline::builder().settings(settings().build()).otlp(options).build().unwrap();
    for _ in 0..3 {
        record(&pipeline, 100);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(receiver.distinct(), 300);
    let seen = seen.lock().unwrap();
    let counts: Vec<_> = seen.values().map(Vec::len).collect();
    // A batch an ID: one that was refused four times, and two that were not.
    assert_eq!((counts.len(), counts.iter().sum::<usize>()), (3, 7), "{counts:?}");
    for bodies in seen.values() {
        assert!(bodies.iter().all(|body| *body == bodies[0]), "a batch was encoded anew");
    }
}

#[test]
fn what_may_pass_is_sent_again_and_what_does_not_is_refused_and_counted() {
    for status in [429, 502, 503, 504] {
        let receiver = receiver(vec![Answer::status(status); 2]);
        let pipeline = pipeline(&receiver.endpoint());
        record(&pipeline, 7);
        pipeline.flush(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!((receiver.distinct(), receiver.requests()), (7, 3), "{status}");
        assert_eq!((stats.sinks[0].failures, stats.sinks[0].repeated), (2, 0), "{status}");
        assert_eq!(stats.sinks[0].last_error, "", "it works again");
    }
    for status in [301, 307, 400, 401, 403, 404, 405, 408, 415, 500, 501] {
        let receiver = receiver(vec![Answer {
            body: b"because".to_vec(),
            headers: vec![("location".into(), "http://elsewhere/v1/traces".into())],
            ..Answer::status(status)
        }]);
        let pipeline = pipeline(&receiver.endpoint());
        record(&pipeline, 7);
        pipeline.flush(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!((receiver.distinct(), receiver.requests()), (0, 1), "{status}");
        assert_eq!(dropped(&stats, SinkDrop::Refused), 7, "{status}");
        let said = &stats.sinks[0].last_refusal;
        assert!(said.contains(&status.to_string()) && said.contains("because"), "{said}");
        check_counts(&stats);
    }
}

#[test]
fn retry_after_is_waited_for_in_either_form() {
    let in_seconds = || "1".to_owned();
    // A date has no fractions, so this is one to two seconds away.
    let as_date = || httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(2));
    let forms: [&dyn Fn() -> String; 2] = [&in_seconds, &as_date];
    for form in forms {
        let value = form();
        let receiver = receiver(vec![Answer {
            headers: vec![("retry-after".into(), value.clone())],
            ..Answer::status(429)
        }]);
        let pipeline = pipeline(&receiver.endpoint());
        record(&pipeline, 3);
        let begun = std::time::Instant::now();
        // A flush is urgent to us, not to a receiver that asked for time.
        pipeline.flush(LONG).unwrap();
        assert!(begun.elapsed() > Duration::from_millis(500), "{value}: sent too soon");
        assert_eq!((receiver.distinct(), receiver.requests()), (3, 2));
    }
}

#[test]
fn a_request_that_is_too_large_is_split_until_it_fits() {
    let receiver = Receiver::answering(|request| {
        let spans = spans(&decode(request).unwrap()).count();
        Answer::status(if spans > 100 { 413 } else { 200 })
    });
    let pipeline = pipeline(&receiver.endpoint());
    record(&pipeline, 512);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((receiver.distinct(), receiver.repeats()), (512, 0));
    check_counts(&pipeline.stats());
}

#[test]
fn one_span_that_is_too_large_alone_is_dropped_and_counted() {
    let receiver = receiver(vec![Answer::status(413); 1000]);
    let pipeline = pipeline(&receiver.endpoint());
    record(&pipeline, 5);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(dropped(&stats, SinkDrop::Refused), 5);
    assert!(stats.sinks[0].last_refusal.contains("too large"), "{}", stats.sinks[0].last_refusal);
    check_counts(&stats);
}

#[test]
fn what_a_partial_success_refuses_is_counted() {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;
    let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "odd ones".into() };
    let protobuf = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let json = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"odd ones"}}"#.to_vec();
    for (kind, body) in [("application/x-protobuf", protobuf), ("application/json", json)] {
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        let receiver = receiver(vec![Answer { headers, body, ..Answer::status(200) }]);
        let pipeline = pipeline(&receiver.endpoint());
        record(&pipeline, 10);
        pipeline.shutdown(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!(
            (stats.sinks[0].delivered, dropped(&stats, SinkDrop::Refused)),
            (7, 3),
            "{kind}"
        );
        assert!(
            stats.sinks[0].last_refusal.contains("odd ones"),
            "{}",
            stats.sinks[0].last_refusal
        );
        check_counts(&stats);
    }
}

#[test]
fn no_secret_of_an_endpoint_is_in_stats_or_debug() {
    let receiver = receiver(vec![Answer::status(404)]);
    let endpoint = format!("http://user:sesame@{}/v1/traces?key=sesame", receiver.address());
    let options = OtlpOptions::new(endpoint);
    let shown = format!("http://{}/v1/traces", receiver.address());
    assert!(format!("{options:?}").contains(&shown));
    assert!(!format!("{options:?}").contains("sesame"));
    let pipeline = Pipeline::builder().settings(settings().build()).otlp(options).build().unwrap();
    record(&pipeline, 1);
    pipeline.shutdown(LONG).unwrap();
    let said = format!("{:?}", pipeline.stats());
    assert!(said.contains(&format!("{shown} answered 404")) && !said.contains("sesame"), "{said}");
}

#[test]
fn an_answer_that_is_lost_means_a_repeat_that_is_counted() {
    let hang_up = Answer { hang_up: true, ..Answer::default() };
    let receiver = receiver(vec![hang_up]);
    let pipeline = pipeline(&receiver.endpoint());
    record(&pipeline, 10);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!((receiver.distinct(), receiver.repeats()), (10, 10));
    assert_eq!((stats.sinks[0].delivered, stats.sinks[0].repeated), (10, 10));
}

#[test]
fn sinks_come_and_go_while_the_pipeline_runs() {
    let (first, second) = (Receiver::start(), Receiver::start());
    let memory = MemorySink::new();
    let pipeline = pipeline(&first.endpoint());
    record(&pipeline, 10);
    pipeline.flush(LONG).unwrap();
    let mut options = OtlpOptions::new(second.endpoint());
    options.name = "second".to_owned();
    pipeline.add_otlp(options).unwrap();
    pipeline.add_sink(memory.clone());
    record(&pipeline, 20);
    pipeline.flush(LONG).unwrap();
    pipeline.remove_sink("otlp");
    record(&pipeline, 40);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((first.distinct(), second.distinct()), (30, 60));
    let kept: u32 = memory.batches().iter().map(|batch| batch.spans).sum();
    assert_eq!(kept, 60);
    let names: Vec<_> = pipeline.stats().sinks.into_iter().map(|sink| sink.name).collect();
    assert_eq!(names, ["second", "memory"]);
}

/// A receiver behind a proxy that is killed 20 times, each time when some more spans have come.
fn outages(total: usize, with_spool: bool) {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut proxy = Proxy::start(receiver.address());
    // Memory for a few batches only, so that what waits goes to the disk.
    let mut settings = settings().batch_size(100).max_batch_wait(Duration::from_secs(3600));
    if with_spool {
        settings = settings.dir(directory.path()).max_bytes(8 << 20);
    }
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings.build())
        .sink(sink.clone())
        .otlp(OtlpOptions::new(proxy.endpoint()))
        .build()
        .unwrap();
    let recording = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _attached = pipeline.attach();
            for number in 0..total {
                // Never by way of the sink: only what the flusher has not sealed yet.
                while pipeline.stats().engine.resident > 30_000 {
                    std::thread::yield_now();
                }
                drop(span!("sent", "number" = number));
                recording.fetch_add(1, Ordering::Relaxed);
            }
        });
        for outage in 1..=20 {
            receiver.wait_for(total / 22 * outage);
            let failures = pipeline.stats().sinks[1].failures;
            proxy.kill();
            while pipeline.stats().sinks[1].failures == failures {
                std::thread::yield_now();
            }
            proxy.restart();
        }
    });
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(receiver.distinct(), total, "{stats:?}");
    assert!(receiver.repeats() <= stats.sinks[1].repeated, "{} {stats:?}", receiver.repeats());
    assert_eq!(stats.sinks[1].delivered, total as u64);
    assert_eq!(stats.engine.dropped.total() + stats.sinks[1].dropped_total(), 0);
    check_counts(&stats);
    if with_spool {
        let left: Vec<_> = walk(&directory.path().join("spool"));
        assert_eq!(left, [""; 0], "what is delivered leaves the disk");
    }
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path().display().to_string()),
        }
    }
    files
}

#[test]
fn twenty_outages_lose_nothing_in_memory() {
    outages(20_000, false);
}

#[test]
fn twenty_outages_lose_nothing_with_a_spool() {
    outages(20_000, true);
}

#[test]
fn a_dead_receiver_leaves_memory_to_the_others() {
    for with_spool in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = settings().max_bytes(1 << 20).max_spans(1000).batch_size(10);
        let settings = if with_spool { settings.dir(directory.path()) } else { settings };
        let memory = Counter::default();
        let pipeline = Pipeline::builder()
            .settings(settings.build())
            .otlp(OtlpOptions::new(format!("http://{}/", nobody.local_addr().unwrap())))
            .sink(memory.clone())
            .build()
            .unwrap();
        // Several times what MAX_BYTES holds, of values that do not compress.
        let mut random = 1u64;
        let mut text = || {
            let letters = (0..700).map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b'!' + (random >> 57) as u8 % 90)
            });
            letters.collect::<String>()
        };
        let attached = pipeline.attach();
        for round in 1..=60u64 {
            for _ in 0..100 {
                drop(span!("large", "text" = text()));
            }
            while memory.0.load(Ordering::Relaxed) < round * 100 {
                let _ = pipeline.flush(Duration::from_millis(1));
                assert_eq!(pipeline.stats().engine.dropped.total(), 0, "{with_spool}");
            }
        }
        drop(attached);
        // New threads need rings, all at the same time.
        let all = std::sync::Barrier::new(14);
        std::thread::scope(|scope| {
            for _ in 0..14 {
                scope.spawn(|| {
                    record(&pipeline, 20);
                    all.wait();
                });
            }
        });
        while memory.0.load(Ordering::Relaxed) < 6280 {
            let _ = pipeline.flush(Duration::from_millis(1));
            assert_eq!(pipeline.stats().engine.dropped.total(), 0, "{with_spool}");
        }
        let stats = pipeline.stats();
        check_counts(&stats);
        let sink = stats.sinks.iter().find(|sink| sink.name == "otlp").unwrap();
        assert_eq!(sink.spooled > 0, with_spool, "{sink:?}");
        assert_eq!(sink.dropped_total() > 0, !with_spool, "{sink:?}");
        while pipeline.shutdown(Duration::ZERO).is_err() {
            std::thread::yield_now();
        }
    }
}

/// A sink that counts spans.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Sink for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        self.0.fetch_add(u64::from(batch.spans), Ordering::Relaxed);
        Ok(())
    }
}
