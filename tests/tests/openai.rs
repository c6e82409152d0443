//! Delivery to OpenAI's trace ingest, from inside a pipeline: what is sent, what is sent again, what is given up, and that
//! nothing is lost without a count.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spanring::settings::SettingsBuilder;
use spanring::span;
use spanring_exporter::{
    Compression, MemorySink, OpenAiOptions, Pipeline, PipelineStats, SinkDrop, StartError,
};
use spanring_tests::fork::in_child;
use spanring_tests::ingest::{Ingest, objects_of};
use spanring_tests::ledger::check_counts;
use spanring_tests::receiver::{Answer, Receiver, Request};
use spanring_tests::{LONG, settings};

const KEY: &str = "sk-proj-sesame1234";

fn options(ingest: &Ingest) -> OpenAiOptions {
    let mut options = OpenAiOptions::new(KEY);
    options.base_url = ingest.base_url();
    options.timeout = LONG;
    options
}

/// With something else than usual.
fn with(ingest: &Ingest, change: impl FnOnce(&mut OpenAiOptions)) -> OpenAiOptions {
    let mut options = options(ingest);
    change(&mut options);
    options
}

fn pipeline_of(options: OpenAiOptions) -> Pipeline {
    Pipeline::builder().settings(settings().build()).openai(options).build().unwrap()
}

fn pipeline(ingest: &Ingest) -> Pipeline {
    pipeline_of(options(ingest))
}

/// As the environment sets it up, but from code.
fn by_settings(ingest: &Ingest) -> SettingsBuilder {
    settings().openai(true).openai_base_url(ingest.base_url()).openai_api_key(KEY).timeout(LONG)
}

/// Spans of one trace each.
fn record(pipeline: &Pipeline, spans: usize) {
    let _attached = pipeline.attach();
    for number in 0..spans {
        drop(span!("sent", "number" = number));
    }
}

fn dropped(stats: &PipelineStats, reason: SinkDrop) -> u64 {
    stats.sinks[0].dropped[reason as usize]
}

/// One that answers the first requests as told, and takes those after them.
fn ingest(first: Vec<Answer>) -> Ingest {
    Ingest::answering(move |request: &Request| {
        first.get(request.number as usize).cloned().unwrap_or_else(|| Answer::status(200))
    })
}

#[test]
fn every_span_arrives_once_behind_its_trace_with_the_headers_of_the_key() {
    let ingest = Ingest::answering(|request| {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        assert_eq!(header("authorization"), Some("Bearer sk-proj-sesame1234"));
        assert_eq!(header("openai-beta"), Some("traces=v1"));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("openai-organization"), Some("org-1"));
        assert_eq!(header("openai-project"), Some("proj_1"));
        assert_eq!(header("content-encoding"), None);
        Answer::status(200)
    });
    let settings = by_settings(&ingest).openai_org_id("org-1").openai_project_id("proj_1");
    let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
    record(&pipeline, 1000);
    pipeline.flush(LONG).unwrap();
    assert_eq!(ingest.receiver.distinct(), 1000);
    record(&pipeline, 10);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((ingest.receiver.distinct(), ingest.receiver.repeats()), (1010, 0));
    ingest.check_order();
    let traces = ingest.traces();
    assert!(traces.len() == 1010 && traces.values().all(|times| *times == 1));
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((&*stats.sinks[0].name, stats.sinks[0].delivered), ("openai", 1010));
}

#[test]
fn a_trace_has_one_object_however_many_batches_it_spans() {
    let ingest = Ingest::start();
    let settings = settings().batch_size(16).build();
    let builder = Pipeline::builder().settings(settings).service_name("shop");
    let pipeline = builder.openai(options(&ingest)).build().unwrap();
    {
        let _attached = pipeline.attach();
        let root = span!("root");
        let id = format!("trace_{}", root.context().trace_id());
        for number in 0..100 {
            drop(span!("child", "number" = number));
        }
        pipeline.flush(LONG).unwrap();
        let [trace] = &ingest.objects()[..1] else { unreachable!() };
        assert_eq!(
            *trace,
            json!({"object": "trace", "id": id, "workflow_name": "shop", "group_id": null, "metadata": null})
        );
        drop(root);
    }
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(ingest.receiver.distinct(), 101);
    assert!(ingest.receiver.requests() > 5);
    assert_eq!(ingest.traces().values().copied().collect::<Vec<_>>(), [1]);
    let spans = ingest.spans();
    let root = spans.iter().find(|span| span["span_data"]["name"] == "root").unwrap();
    assert_eq!(root["parent_id"], Value::Null);
    for child in spans.iter().filter(|span| span["span_data"]["name"] == "child") {
        assert_eq!(child["parent_id"], root["id"]);
        assert_eq!(child["trace_id"], root["trace_id"]);
        let id = child["id"].as_str().unwrap();
        assert!(id.len() == 29 && id.starts_with("span_") && id.ends_with("00000000"), "{id}");
    }
}

#[test]
fn no_span_overtakes_its_trace() {
    let (second, comes) = mpsc::channel();
    let (second, comes) = (Mutex::new(second), Mutex::new(comes));
    let overtaken = Arc::new(AtomicU64::new(0));
    let seen = overtaken.clone();
    let ingest = Ingest::answering(move |request| {
        if request.number == 0 {
            // Another request would come meanwhile.
            let came = comes.lock().unwrap().recv_timeout(Duration::from_millis(300));
            seen.fetch_add(u64::from(came.is_ok()), Ordering::Relaxed);
        } else {
            let _ = second.lock().unwrap().send(());
        }
        Answer::status(200)
    });
    let settings = settings().batch_size(16).pool_size(8).build();
    let pipeline = Pipeline::builder().settings(settings).openai(options(&ingest)).build().unwrap();
    {
        let _attached = pipeline.attach();
        let _root = span!("root");
        for number in 0..64 {
            drop(span!("child", "number" = number));
        }
    }
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((ingest.receiver.distinct(), overtaken.load(Ordering::Relaxed)), (65, 0));
    ingest.check_order();
}

#[test]
fn a_trace_whose_object_was_refused_gets_it_with_its_next_span() {
    let ingest = ingest(vec![Answer::status(400)]);
    let pipeline = pipeline(&ingest);
    let _attached = pipeline.attach();
    let root = span!("root");
    drop(span!("refused"));
    pipeline.flush(LONG).unwrap();
    assert_eq!(ingest.objects(), [] as [Value; 0]);
    drop(span!("taken"));
    drop(root);
    pipeline.flush(LONG).unwrap();
    assert_eq!((ingest.spans().len(), ingest.traces().len()), (2, 1));
    ingest.check_order();
    assert_eq!(dropped(&pipeline.stats(), SinkDrop::Refused), 1);
}

#[test]
fn what_may_pass_is_sent_again_and_what_does_not_is_refused_and_counted() {
    for status in [408, 409, 429, 500, 501, 502, 503, 504, 529] {
        let ingest = ingest(vec![Answer::status(status); 2]);
        let pipeline = pipeline(&ingest);
        record(&pipeline, 7);
        pipeline.flush(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!((ingest.receiver.distinct(), ingest.receiver.requests()), (7, 3), "{status}");
        assert_eq!((stats.sinks[0].failures, stats.sinks[0].repeated), (2, 0), "{status}");
        assert_eq!(stats.sinks[0].last_error, "", "it works again");
    }
    let forbids = vec![("x-should-retry".to_owned(), "False".to_owned())];
    let refusals =
        [301, 307, 400, 401, 403, 404, 405, 410, 415, 422].map(|status| (status, vec![]));
    let forbidden = [408, 409, 429, 500, 503].map(|status| (status, forbids.clone()));
    for (status, headers) in refusals.into_iter().chain(forbidden) {
        let body = br#"{"error":{"message":"because","type":"x"}}"#.to_vec();
        let ingest = ingest(vec![Answer { body, headers, ..Answer::status(status) }]);
        let pipeline = pipeline(&ingest);
        record(&pipeline, 7);
        pipeline.flush(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!((ingest.receiver.distinct(), ingest.receiver.requests()), (0, 1), "{status}");
        assert_eq!(dropped(&stats, SinkDrop::Refused), 7, "{status}");
        let said = &stats.sinks[0].last_refusal;
        assert!(said.contains(&format!("answered {status}")), "{said}");
        assert!(said.ends_with(": because"), "{said}");
        check_counts(&stats);
    }
}

#[test]
fn the_wait_that_an_answer_asks_for_is_kept() {
    for (name, value) in [("retry-after", "1"), ("retry-after-ms", "700")] {
        let headers = vec![
            (name.to_owned(), value.to_owned()),
            // Milliseconds win.
            ("retry-after".to_owned(), "1".to_owned()),
        ];
        let ingest = ingest(vec![Answer { headers, ..Answer::status(429) }]);
        let pipeline = pipeline(&ingest);
        record(&pipeline, 3);
        let begun = Instant::now();
        // A flush is urgent to us, not to a receiver that asked for time.
        pipeline.flush(LONG).unwrap();
        assert!(begun.elapsed() > Duration::from_millis(500), "{value}: sent too soon");
        assert_eq!((ingest.receiver.distinct(), ingest.receiver.requests()), (3, 2));
    }
}

#[test]
fn a_compression_that_is_refused_is_given_up_for_good_and_loses_nothing() {
    let refused = AtomicU64::new(0);
    let ingest = Ingest::answering(move |request| match request.headers.get("content-encoding") {
        None => Answer::status(200),
        Some(_) => {
            let count = refused.fetch_add(1, Ordering::Relaxed);
            assert!(count < 2, "it goes on with what is refused");
            Answer::status(if count == 0 { 415 } else { 400 })
        }
    });
    let options = with(&ingest, |it| it.compression = Compression::Zstd);
    let pipeline = pipeline_of(options);
    for _ in 0..3 {
        record(&pipeline, 100);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!((ingest.receiver.distinct(), ingest.receiver.repeats()), (300, 0));
    assert_eq!(stats.sinks[0].failures, 0, "a compression that is refused is no failure");
}

#[test]
fn what_is_sent_again_is_the_same_bytes_under_the_same_batch_id() {
    let seen = Arc::new(Mutex::new(HashMap::<String, Vec<Vec<u8>>>::new()));
    let requests = seen.clone();
    let ingest = Ingest::answering(move |request| {
        let id = request.headers["spanring-batch"].clone();
        requests.lock().unwrap().entry(id).or_default().push(request.body.clone());
        Answer::status(if request.number % 3 == 2 { 200 } else { 503 })
    });
    let pipeline = pipeline_of(with(&ingest, |it| it.compression = Compression::Gzip));
    let _attached = pipeline.attach();
    let root = span!("root");
    for _ in 0..3 {
        for number in 0..50 {
            drop(span!("child", "number" = number));
        }
        pipeline.flush(LONG).unwrap();
    }
    drop(root);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((ingest.receiver.distinct(), ingest.traces().len()), (151, 1));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4);
    for bodies in seen.values() {
        assert!(bodies.len() == 3 && bodies.iter().all(|body| *body == bodies[0]));
    }
}

#[test]
fn a_request_that_is_too_large_is_split_until_it_fits() {
    let ingest = Ingest::answering(|request| {
        Answer::status(if objects_of(request).unwrap().len() > 100 { 413 } else { 200 })
    });
    let pipeline = pipeline(&ingest);
    record(&pipeline, 512);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((ingest.receiver.distinct(), ingest.receiver.repeats()), (512, 0));
    assert!(ingest.traces().values().all(|times| *times == 1));
    ingest.check_order();
    check_counts(&pipeline.stats());

    let ingest = self::ingest(vec![Answer::status(413); 1000]);
    let pipeline = self::pipeline(&ingest);
    record(&pipeline, 5);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(dropped(&stats, SinkDrop::Refused), 5);
    assert!(stats.sinks[0].last_refusal.contains("too large"), "{}", stats.sinks[0].last_refusal);
}

#[test]
fn a_body_is_bounded_and_what_exceeds_it_alone_is_counted() {
    let ingest = Ingest::answering(|request| {
        assert!(request.body.len() <= 8 << 20);
        Answer::status(200)
    });
    let settings = settings().max_bytes(256 << 20).build();
    let pipeline = Pipeline::builder().settings(settings).openai(options(&ingest)).build().unwrap();
    {
        let _attached = pipeline.attach();
        for number in 0..20 {
            drop(span!("large", "number" = number, "text" = "x".repeat(1 << 20)));
        }
        drop(span!("too large", "text" = "x".repeat(9 << 20)));
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(ingest.receiver.distinct(), 20);
    assert_eq!(dropped(&stats, SinkDrop::Refused), 1);
    check_counts(&stats);
}

#[test]
fn a_slow_answer_and_a_lost_one_mean_a_repeat_that_is_counted() {
    let hang_up = Answer { hang_up: true, ..Answer::default() };
    let lost = ingest(vec![hang_up]);
    let (second, come) = mpsc::channel::<()>();
    let (second, come) = (Mutex::new(second), Mutex::new(come));
    let slow = Ingest::answering(move |request| {
        match request.number {
            // Its answer comes only when it was given up.
            0 => _ = come.lock().unwrap().recv_timeout(LONG),
            1 => _ = second.lock().unwrap().send(()),
            _ => {}
        }
        Answer::status(200)
    });
    for (ingest, timeout) in [(lost, LONG), (slow, Duration::from_millis(300))] {
        let pipeline = pipeline_of(with(&ingest, |it| it.timeout = timeout));
        record(&pipeline, 10);
        pipeline.shutdown(LONG).unwrap();
        let stats = pipeline.stats();
        assert_eq!(ingest.receiver.distinct(), 10);
        assert_eq!((stats.sinks[0].delivered, stats.sinks[0].repeated), (10, 10));
        check_counts(&stats);
    }
}

#[test]
fn an_outage_loses_nothing_in_memory() {
    let up = Arc::new((Mutex::new(false), Condvar::new()));
    let is_up = up.clone();
    let ingest = Ingest::answering(move |_| {
        Answer::status(if *is_up.0.lock().unwrap() { 200 } else { 503 })
    });
    let settings = settings().batch_size(50).max_batch_wait(Duration::from_secs(3600)).build();
    let pipeline = Pipeline::builder().settings(settings).openai(options(&ingest)).build().unwrap();
    record(&pipeline, 1000);
    // One that fails is tried again and again.
    while pipeline.stats().sinks[0].failures < 3 {
        let _ = pipeline.flush(Duration::from_millis(1));
    }
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((ingest.receiver.distinct(), stats.sinks[0].delivered), (0, 0));
    *up.0.lock().unwrap() = true;
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!((ingest.receiver.distinct(), stats.sinks[0].dropped_total()), (1000, 0));
    assert!(ingest.traces().values().all(|times| *times == 1));
    check_counts(&stats);
}

#[test]
fn what_is_spooled_is_delivered_after_a_restart_with_another_key() {
    let directory = tempfile::tempdir().unwrap();
    let is_up = Arc::new(Mutex::new(false));
    let up = is_up.clone();
    let ingest =
        Ingest::answering(move |_| Answer::status(if *up.lock().unwrap() { 200 } else { 503 }));
    let start = |key: &str| {
        let settings = by_settings(&ingest)
            .openai_api_key(key)
            .dir(directory.path())
            .max_batch_wait(Duration::from_millis(50));
        let memory = MemorySink::new();
        Pipeline::builder().settings(settings.build()).sink(memory).build().unwrap()
    };
    let pipeline = start(KEY);
    record(&pipeline, 300);
    // What waits too long in memory waits on disk alone, for which nobody waits.
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.sinks[1].spooled, stats.sinks[1].delivered), (300, 0));
    drop(pipeline);
    assert_eq!(ingest.receiver.distinct(), 0);
    for file in walk(directory.path()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!contains(&bytes, "sesame"), "the key is in {file}");
    }
    *is_up.lock().unwrap() = true;
    let pipeline = start("sk-another");
    record(&pipeline, 1);
    pipeline.flush(LONG).unwrap();
    ingest.receiver.wait_for(301);
    // Its answer is still to be seen.
    let end = Instant::now() + LONG;
    while pipeline.stats().sinks[1].delivered < 301 {
        assert!(Instant::now() < end);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.sinks[1].adopted, stats.sinks[1].delivered), (300, 301));
    assert!(ingest.traces().values().all(|times| *times == 1));
}

fn walk(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path().display().to_string()),
        }
    }
    files
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn no_key_is_in_what_is_said_even_if_the_answer_repeats_it() {
    // Not only what looks like a key of OpenAI's.
    const OTHER: &str = "a-proxys-sesame-77";
    for (key, body) in [
        (KEY, format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}.\"}}}}")),
        (OTHER, format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {OTHER}.\"}}}}")),
        (OTHER, format!("no JSON, but Bearer {OTHER}")),
        (KEY, "{\"error\":{\"message\":\"Incorrect API key: sk-proj-ses***1234\"}}".to_owned()),
        (KEY, "{\"error\":{\"message\":\"\\u0073k-proj-sesame1234\"}}".to_owned()),
        (KEY, format!("no JSON, but Bearer {KEY}")),
    ] {
        let ingest = ingest(vec![Answer { body: body.into_bytes(), ..Answer::status(401) }]);
        let options = with(&ingest, |it| it.api_key = key.to_owned());
        assert!(!format!("{options:?}").contains("sesame"));
        let pipeline = pipeline_of(options);
        record(&pipeline, 1);
        pipeline.shutdown(LONG).unwrap();
        let said = format!("{pipeline:?} {:?}", pipeline.stats());
        assert!(said.contains("answered 401") && said.contains("OPENAI_API_KEY"), "{said}");
        assert!(!said.contains("sesame") && !said.contains("proj-ses"), "{said}");
        while let Some((_, message)) = spanring_exporter::next_message() {
            assert!(!message.contains("sesame"), "{message}");
        }
    }
}

#[test]
fn without_a_key_there_is_no_sink_and_that_is_said() {
    let settings = settings().openai(true).build();
    let [problem] = settings.problems() else { panic!("{:?}", settings.problems()) };
    assert!(problem.message.contains("OPENAI_API_KEY"), "{problem}");
    let alone = Pipeline::builder().settings(settings.clone()).build();
    assert!(matches!(alone, Err(StartError::NoSink)), "{alone:?}");
    let pipeline = Pipeline::builder().settings(settings).sink(MemorySink::new()).build().unwrap();
    let names: Vec<_> = pipeline.stats().sinks.into_iter().map(|sink| sink.name).collect();
    assert_eq!(names, ["memory"]);
    for key in ["", "sk with spaces", "sk-\n"] {
        let error = Pipeline::builder()
            .settings(spanring_tests::settings().build())
            .openai(OpenAiOptions::new(key))
            .build()
            .unwrap_err();
        assert!(matches!(error, StartError::OpenAi(_)), "{error}");
        assert!(error.to_string().contains("OPENAI_API_KEY") && !error.to_string().contains("sk"));
    }
}

#[test]
fn beside_a_receiver_of_otlp_each_gets_its_own() {
    let (otlp, openai) = (Receiver::start(), Ingest::start());
    let settings = by_settings(&openai).endpoint(otlp.endpoint());
    let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
    record(&pipeline, 100);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!((otlp.distinct(), openai.receiver.distinct()), (100, 100));
    let stats = pipeline.stats();
    check_counts(&stats);
    let names: Vec<_> = stats.sinks.into_iter().map(|sink| sink.name).collect();
    assert_eq!(names, ["otlp", "openai"]);
}

#[test]
fn the_same_ingest_in_code_and_settings_is_one_sink_and_two_with_one_spool_are_refused() {
    let ingest = Ingest::answering(|request| {
        assert_eq!(request.headers["authorization"], format!("Bearer {KEY}"));
        Answer::status(200)
    });
    let directory = tempfile::tempdir().unwrap();
    let settings = by_settings(&ingest).dir(directory.path()).build();
    let given = with(&ingest, |it| it.api_key = "sk-code".to_owned());
    let builder = Pipeline::builder().settings(settings).openai(given);
    let pipeline = builder.build().unwrap();
    record(&pipeline, 10);
    assert!(matches!(pipeline.add_openai(options(&ingest)), Err(StartError::OpenAi(_))));
    let other = with(&ingest, |it| it.name = "other".to_owned());
    pipeline.add_openai(other).unwrap();
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(ingest.receiver.distinct(), 10);
}

#[test]
fn a_fork_child_sends_its_own_spans_and_none_of_its_parents() {
    let ingest = Ingest::start();
    let parents = pipeline(&ingest);
    record(&parents, 10);
    parents.flush(LONG).unwrap();
    {
        let _attached = parents.attach();
        // Not sealed when the process forks.
        drop(span!("parent", "number" = 10));
    }
    let status = in_child(|| {
        let own = pipeline(&ingest);
        {
            let _attached = own.attach();
            for number in 100..110u64 {
                drop(span!("child", "number" = number));
            }
        }
        i32::from(own.shutdown(LONG).is_err())
    });
    assert_eq!(status, 0);
    parents.shutdown(LONG).unwrap();
    assert_eq!((ingest.receiver.distinct(), ingest.receiver.repeats()), (21, 0));
    let numbers = ingest.receiver.numbers();
    assert!(numbers == (0..11).chain(100..110).collect());
}

#[test]
fn a_trace_span_is_the_trace_and_no_span_and_its_children_are_roots() {
    let ingest = Ingest::start();
    let pipeline = pipeline(&ingest);
    {
        let _attached = pipeline.attach();
        let trace = span!(
            "the name",
            "openai.span.type" = "trace",
            "trace.workflow_name" = "Support",
            "session.id" = "chat-7",
            "trace.metadata" = r#"{"tier":"gold"}"#
        );
        let trace_id = format!("trace_{}", trace.context().trace_id());
        drop(span!("child", "openai.span.type" = "agent"));
        drop(trace);
        pipeline.flush(LONG).unwrap();
        assert_eq!(
            ingest.objects()[0],
            json!({"object": "trace", "id": trace_id, "workflow_name": "Support",
                   "group_id": "chat-7", "metadata": {"tier": "gold"}})
        );
        let spans = ingest.spans();
        assert_eq!((spans.len(), &spans[0]["parent_id"]), (1, &Value::Null));
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(stats.sinks[0].delivered, 2);
    check_counts(&stats);
}

/// Runs the helper program to its end, set up by its environment alone.
fn run_workload(ending: &str, ingest: &Ingest, more: &[(&str, &str)]) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_workload"));
    command.arg(ending).env_clear().env("SPANRING_OPENAI", "true");
    command.env("SPANRING_OPENAI_BASE_URL", ingest.base_url()).env("OPENAI_API_KEY", KEY);
    let output = command.envs(more.iter().copied()).output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("sesame"), "{said}");
}

#[test]
fn whatever_ends_a_process_its_spans_arrive() {
    for (ending, spans) in [("return", 1000), ("exit", 1000), ("panic", 1000), ("fork", 1005)] {
        let ingest = Ingest::start();
        run_workload(ending, &ingest, &[]);
        let came = (ingest.receiver.distinct(), ingest.receiver.repeats());
        assert_eq!(came, (spans, 0), "{ending}");
        ingest.check_order();
    }
}

#[test]
fn what_a_process_could_not_deliver_the_next_one_delivers() {
    let directory = tempfile::tempdir().unwrap();
    let is_up = Arc::new(Mutex::new(false));
    let up = is_up.clone();
    let ingest =
        Ingest::answering(move |_| Answer::status(if *up.lock().unwrap() { 200 } else { 503 }));
    let dir = [("SPANRING_DIR", directory.path().to_str().unwrap())];
    run_workload("exit", &ingest, &dir);
    assert_eq!(ingest.receiver.distinct(), 0);
    *is_up.lock().unwrap() = true;
    run_workload("exit", &ingest, &dir);
    assert_eq!((ingest.receiver.distinct(), ingest.receiver.repeats()), (2000, 0));
}
