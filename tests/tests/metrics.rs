//! Metrics and health of a running pipeline, against what its batches hold and what a test counts itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use spanring::{Span, SpanKind, StatusCode, span};
use spanring_exporter::batch::decode;
use spanring_exporter::metrics::{SERIES_MAX, Summary};
use spanring_exporter::model::SpanData as Decoded;
use spanring_exporter::{MemorySink, Pipeline, SinkDrop};
use spanring_tests::sinks::{Act, GatedSink, ScriptedSink};
use spanring_tests::{LONG, memory_pipeline, settings};

/// Spans of several names, kinds, durations and statuses.
fn record(pipeline: &Pipeline, spans: u64) {
    let _attached = pipeline.attach();
    let kinds = [SpanKind::Internal, SpanKind::Client, SpanKind::Server];
    for number in 0..spans {
        let name = format!("metrics.{}", number % 7);
        let kind = kinds[number as usize % 3];
        let start = std::time::SystemTime::now();
        let mut span = Span::builder(&*name).kind(kind).start_time(start).start();
        if number % 5 == 0 {
            span.set_status(StatusCode::Error, "");
        }
        span.end_at(start + Duration::from_nanos(number * number * 1_000));
    }
}

fn decoded(sink: &MemorySink) -> Vec<Decoded> {
    let batches = sink.batches();
    batches.iter().flat_map(|batch| decode(&batch.frame).unwrap().batch.spans).collect()
}

/// `found` is what a slow count of these spans gives.
fn check(found: &Summary, spans: &[&Decoded]) {
    let mut nanos: Vec<u64> =
        spans.iter().map(|span| span.end_unix_nano - span.start_unix_nano).collect();
    nanos.sort_unstable();
    let errors = spans.iter().filter(|span| span.status == StatusCode::Error).count();
    assert_eq!((found.count, found.errors), (nanos.len() as u64, errors as u64));
    assert_eq!(found.duration_sum, Duration::from_nanos(nanos.iter().sum()));
    assert_eq!(found.duration_max, Duration::from_nanos(*nanos.last().unwrap()));
    for (share, found) in [(0.5_f64, found.p50), (0.95, found.p95), (0.99, found.p99)] {
        let exact = nanos[(share * nanos.len() as f64).ceil() as usize - 1];
        assert!((found.as_nanos() as u64).abs_diff(exact) <= exact / 64, "{exact} {found:?}");
    }
}

#[test]
fn metrics_of_spans_are_those_of_the_spans_in_the_batches() {
    let (pipeline, sink) = memory_pipeline(settings().metrics(true).batch_size(64));
    record(&pipeline, 1_000);
    pipeline.flush(LONG).unwrap();
    let metrics = pipeline.metrics();
    let spans = metrics.spans.as_ref().expect("they are measured");
    let decoded = decoded(&sink);
    check(&spans.all, &decoded.iter().collect::<Vec<_>>());
    let mut known: HashMap<_, Vec<&Decoded>> = HashMap::new();
    for span in &decoded {
        known.entry((span.name.clone(), span.kind)).or_default().push(span);
    }
    assert_eq!(spans.series.len(), known.len());
    for series in &spans.series {
        check(&series.summary, &known[&(series.name.clone(), series.kind)]);
    }
    assert_eq!(spans.last_minute.count, 1_000);
    assert_eq!(spans.last_minute.errors, 200);
    for (kind, count) in &spans.by_kind {
        assert_eq!(*count, decoded.iter().filter(|span| span.kind == *kind).count() as u64);
    }
    assert_eq!(spans.by_kind.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
    assert_eq!(spans.other.count, 0);
    // The engine's part.
    let batches = sink.batches();
    let stats = pipeline.stats();
    assert_eq!(metrics.stats.engine.created, stats.engine.created);
    assert_eq!((metrics.stats.sinks.clone(), metrics.stats.batches), (stats.sinks, stats.batches));
    assert_eq!(metrics.seals.count, batches.len() as u64);
    assert_eq!(metrics.seals.count, metrics.stats.batches);
    assert!(metrics.seals.max <= metrics.seals.sum && metrics.seals.sum <= metrics.uptime);
    let bytes: usize = batches.iter().map(|batch| batch.frame.len()).sum();
    assert_eq!(metrics.stats.bytes, bytes as u64);
    let ratio = metrics.compression_ratio().unwrap();
    assert_eq!(ratio, metrics.stats.bytes_raw as f64 / bytes as f64);
    assert!(metrics.memory.rings > 0 && metrics.memory.metrics > 0);
    assert!(metrics.memory.rings + metrics.memory.values_and_queues <= metrics.bytes_max);
    let cpu = metrics.flusher_cpu.expect("the thread runs");
    assert!(cpu > Duration::ZERO && cpu <= metrics.uptime);
    // As JSON.
    let json: serde_json::Value = serde_json::from_str(&metrics.to_json()).unwrap();
    assert_eq!(json["engine"]["created"], 1_000);
    assert_eq!(json["spans"]["all"]["errors"], 200);
    assert_eq!(json["spans"]["all"]["error_rate"], 0.2);
    assert_eq!(json["spans"]["series"].as_array().unwrap().len(), known.len());
    let shares = json["spans"]["by_kind"].as_object().unwrap().values();
    let share: f64 = shares.map(|of| of["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9);
    // They stay as they were at the end.
    pipeline.shutdown(LONG).unwrap();
    let after = pipeline.metrics();
    assert_eq!(after.spans.unwrap().all, spans.all);
    assert!(after.flusher_cpu.unwrap() >= cpu);
    assert_eq!(after.flusher_cpu, pipeline.metrics().flusher_cpu);
}

/// Processor time of all of the process's threads, as the system counts it.
fn process_seconds() -> f64 {
    // SAFETY: the struct is plain data, and writable.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[test]
fn the_flusher_s_share_is_its_time_by_the_process_s_and_by_the_clock() {
    let (pipeline, _) = memory_pipeline(settings());
    assert_eq!(pipeline.cpu_share(), None, "it has not begun");
    let begin = Instant::now();
    record(&pipeline, 20_000);
    pipeline.flush(LONG).unwrap();
    pipeline.shutdown(LONG).unwrap();
    // The first share is of all its time, which has ended.
    let used = pipeline.metrics().flusher_cpu.unwrap().as_secs_f64();
    let share = pipeline.cpu_share().unwrap();
    let process = process_seconds();
    assert!(used > 0.0 && share.over <= begin.elapsed());
    assert!((share.of_core * share.over.as_secs_f64() - used).abs() < 1e-6, "{share:?} {used}");
    assert!(share.of_process <= 1.0 && share.of_process >= used / process, "{share:?} {process}");
    let metrics = pipeline.metrics();
    let json: serde_json::Value = serde_json::from_str(&metrics.to_json()).unwrap();
    let found = &json["flusher"]["cpu_share"];
    let share = metrics.flusher_share.unwrap();
    assert_eq!(found["of_process"].as_f64(), Some(share.of_process));
    assert_eq!(found["of_core"].as_f64(), Some(share.of_core));
    assert_eq!(found["seconds"].as_f64(), Some(share.over.as_secs_f64()));
    let text = metrics.to_openmetrics();
    assert!(text.contains(&format!("\nspanring_flusher_core_ratio {}\n", share.of_core)));
    assert!(text.contains(&format!("\nspanring_flusher_process_ratio {}\n", share.of_process)));
}

#[test]
fn spans_are_measured_only_if_somebody_asks_and_from_then_on() {
    let (pipeline, _) = memory_pipeline(settings());
    record(&pipeline, 10);
    pipeline.flush(LONG).unwrap();
    let metrics = pipeline.metrics();
    assert_eq!((metrics.spans, metrics.seals.count, metrics.memory.metrics), (None, 0, 0));
    assert_eq!(pipeline.health().error_rate, None);
    pipeline.reconfigure(settings().metrics(true).build());
    record(&pipeline, 20);
    pipeline.flush(LONG).unwrap();
    assert_eq!(pipeline.metrics().spans.unwrap().all.count, 20);
    pipeline.reconfigure(settings().build());
    record(&pipeline, 40);
    pipeline.flush(LONG).unwrap();
    assert_eq!((pipeline.metrics().spans, pipeline.health().error_rate), (None, None));
    pipeline.reconfigure(settings().metrics(true).build());
    record(&pipeline, 5);
    pipeline.flush(LONG).unwrap();
    assert_eq!(pipeline.metrics().spans.unwrap().all.count, 25);
}

#[test]
fn there_are_so_many_series_and_no_more_and_that_is_said() {
    let (pipeline, _) = memory_pipeline(settings().metrics(true));
    {
        let _attached = pipeline.attach();
        (0..SERIES_MAX + 50)
            .for_each(|number| drop(Span::builder(&*format!("order {number}")).start()));
    }
    pipeline.flush(LONG).unwrap();
    let spans = pipeline.metrics().spans.unwrap();
    assert_eq!((spans.series.len(), spans.other.count), (SERIES_MAX, 50));
    let messages = || std::iter::from_fn(spanring_exporter::next_message);
    let said = messages().filter(|(_, text)| text.contains("(other)")).count();
    assert_eq!(said, 1, "once");
}

#[test]
fn health_says_what_is_counted() {
    let (gated, gate) = GatedSink::new();
    let settings = settings().metrics(true).batch_size(16).flush_interval(LONG);
    let pipeline = Pipeline::builder().settings(settings.build()).sink(gated).build().unwrap();
    let fresh = pipeline.health();
    assert!(fresh.healthy && fresh.tracing_enabled, "{fresh:?}");
    assert_eq!((fresh.processors_count, fresh.queue_depth), (1, 0));
    assert_eq!((fresh.error_rate, fresh.last_successful_flush), (Some(0.0), None));
    let before = spanring::clock::unix_nanos();
    // 21 spans of which 5 have an error: 16 of them are with the sink, which holds the flusher.
    record(&pipeline, 21);
    gate.wait_entered();
    let health = pipeline.health();
    assert_eq!(health.queue_depth, pipeline.stats().engine.resident);
    gate.let_one_go();
    let memory = gate.open();
    pipeline.flush(LONG).unwrap();
    assert_eq!(memory.batches().iter().map(|batch| batch.spans).sum::<u32>(), 21);
    let health = pipeline.health();
    assert_eq!((health.error_rate, health.queue_depth), (Some(5.0 / 21.0), 0));
    let at = health.last_successful_flush.expect("a batch was taken");
    assert!((before..=spanring::clock::unix_nanos()).contains(&at));
    let [reason] = &health.reasons[..] else { panic!("{:?}", health.reasons) };
    assert!(reason.starts_with("5 of the 21 spans of the last minute have an error"), "{reason}");
    assert!(!health.healthy);
    let json: serde_json::Value = serde_json::from_str(&health.to_json()).unwrap();
    let fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    for field in [
        "tracing_enabled",
        "processors_count",
        "memory_usage",
        "queue_depth",
        "error_rate",
        "last_successful_flush",
        "healthy",
        "reasons",
    ] {
        assert!(fields.contains(&field), "{field}");
    }
    let time = json["last_successful_flush"].as_str().unwrap();
    assert_eq!(time, spanring_exporter::render::timestamp(at));
    let memory = health.memory_usage.expect("Linux tells");
    assert!((1.0..100_000.0).contains(&memory));
}

#[test]
fn each_limit_gives_its_reason_and_takes_it_back() {
    let sink = ScriptedSink::new([], Act::Take);
    let base = || settings().metrics(true).health_sink_grace(Duration::from_millis(1));
    let pipeline = Pipeline::builder().settings(base().build()).sink(sink.clone()).build().unwrap();
    let reasons = || pipeline.health().reasons;
    assert_eq!(reasons(), [""; 0]);
    pipeline.reconfigure(base().health_max_memory(1 << 20).build());
    let memory = reasons();
    assert!(memory.len() == 1 && memory[0].contains("HEALTH_MAX_MEMORY is 1.0 MiB"), "{memory:?}");
    pipeline.reconfigure(base().disabled(true).build());
    assert_eq!(reasons(), ["Tracing is switched off by the setting DISABLED."]);
    assert!(!pipeline.health().tracing_enabled);
    // Nineteen spans say too little.
    pipeline.reconfigure(base().build());
    assert_eq!(reasons(), [""; 0]);
    record(&pipeline, 19);
    pipeline.flush(LONG).unwrap();
    assert_eq!(reasons(), [""; 0]);
    pipeline.reconfigure(base().health_max_error_rate(0.21).build());
    record(&pipeline, 1);
    pipeline.flush(LONG).unwrap();
    assert!(reasons()[0].starts_with("5 of the 20 spans"), "{:?}", reasons());
    pipeline.reconfigure(base().health_max_error_rate(0.25).build());
    assert_eq!(reasons(), [""; 0], "at the limit is not beyond it");
    // A sink that fails, until it works again.
    sink.act(Act::Fail);
    record(&pipeline, 20);
    assert!(pipeline.flush(Duration::from_millis(1)).is_err());
    wait_until(|| {
        reasons().iter().any(|reason| reason.contains("Sink scripted has taken nothing"))
    });
    let waiting = reasons();
    assert!(
        waiting[0].contains("20 spans wait for it. It said: the script says so"),
        "{waiting:?}"
    );
    sink.act(Act::Take);
    pipeline.flush(LONG).unwrap();
    assert_eq!(reasons(), [""; 0]);
    // One that refuses.
    sink.act(Act::Refuse);
    record(&pipeline, 20);
    pipeline.flush(LONG).unwrap();
    let refused = reasons();
    assert!(refused.len() == 1 && refused[0].ends_with("so far sink_refused 20."), "{refused:?}");
    assert_eq!(pipeline.stats().sinks[0].dropped[SinkDrop::Refused as usize], 20);
    pipeline.remove_sink("scripted");
    record(&pipeline, 1);
    pipeline.flush(LONG).unwrap();
    assert!(reasons().contains(&"There is no sink, so spans go nowhere.".to_owned()));
    pipeline.shutdown(LONG).unwrap();
    assert!(reasons().contains(&"The pipeline has been shut down.".to_owned()));
}

#[test]
fn spans_that_the_engine_drops_are_a_reason() {
    let (gated, gate) = GatedSink::new();
    let settings = settings().max_spans(16).batch_size(16);
    let pipeline = Pipeline::builder().settings(settings.build()).sink(gated).build().unwrap();
    {
        let _attached = pipeline.attach();
        let end = Instant::now() + LONG;
        while pipeline.stats().engine.dropped.total() == 0 {
            assert!(Instant::now() < end, "nothing is dropped");
            drop(span!("too many"));
        }
    }
    let health = pipeline.health();
    assert!(health.reasons.iter().any(|reason| reason.contains("so far budget ")), "{health:?}");
    drop(gate);
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}
