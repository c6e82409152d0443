//! Alerts of a running pipeline: what is found, to whom it goes, and that a webhook which fails costs nothing else.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use spanring::settings::{LogLevel, SettingsBuilder};
use spanring::{Span, StatusCode};
use spanring_exporter::alerts::Severity;
use spanring_exporter::batch::decode;
use spanring_exporter::{Alert, AlertKind, MemorySink, Pipeline, next_message};
use spanring_tests::fork::in_child;
use spanring_tests::receiver::{Answer, Receiver};
use spanring_tests::sinks::{Act, ScriptedSink};
use spanring_tests::{LONG, memory_pipeline, settings};

/// Messages are the process's.
static MESSAGES: Mutex<()> = Mutex::new(());

/// Looks only when there are 1000 spans, and finds nothing wrong with the process itself.
fn quiet() -> SettingsBuilder {
    settings().alerts(true).alert_interval(LONG).health_max_memory(1 << 40).batch_size(1000)
}

/// Spans of which every `error`th has an error, and each takes its number of ms.
fn record(pipeline: &Pipeline, spans: u64, error: u64) {
    let _attached = pipeline.attach();
    let start = std::time::SystemTime::now();
    for number in 0..spans {
        let mut span = Span::builder("watched").start_time(start).start();
        if number % error == 0 {
            span.set_status(StatusCode::Error, "no");
        }
        span.end_at(start + Duration::from_millis(number));
    }
    pipeline.flush(LONG).unwrap();
}

/// Takes alerts until `count` came; there are no more of them.
fn alerts(pipeline: &Pipeline, count: usize) -> Vec<Alert> {
    let end = Instant::now() + LONG;
    let mut found = Vec::new();
    while found.len() < count {
        assert!(Instant::now() < end, "they do not come: {found:?}");
        found.extend(pipeline.alerts().alerts);
        std::thread::yield_now();
    }
    assert_eq!(found.len(), count, "{found:?}");
    found
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// A receiver that keeps what it is sent, and answers the statuses in turn, the last one for good.
fn hook(statuses: &[u16]) -> (Receiver, Arc<Mutex<Vec<Value>>>) {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = bodies.clone();
    let statuses = statuses.to_vec();
    let receiver = Receiver::taking(
        move |request| {
            assert_eq!(request.headers["content-type"], "application/json");
            let at = (request.number as usize).min(statuses.len() - 1);
            kept.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap());
            Answer {
                // As some do who do not know a path.
                body: b"nothing at /very/hunter2-path?key=hunter2-key".to_vec(),
                ..Answer::status(statuses[at])
            }
        },
        |_| Ok(Vec::new()),
    );
    (receiver, bodies)
}

fn url(receiver: &Receiver) -> String {
    format!("http://user:hunter2-password@{}/very/hunter2-path?key=hunter2-key", receiver.address())
}

#[test]
fn what_is_told_of_spans_is_what_the_batches_hold() {
    let builder = quiet().alert_p99(Duration::from_millis(500));
    let (pipeline, sink) = memory_pipeline(builder.alert_slow_time(Duration::from_millis(700)));
    let before = spanring::clock::unix_nanos();
    record(&pipeline, 1000, 8);
    let found = alerts(&pipeline, 3);
    let batches = sink.batches();
    let spans: Vec<_> =
        batches.iter().flat_map(|batch| decode(&batch.frame).unwrap().batch.spans).collect();
    let count = |is: &dyn Fn(&spanring_exporter::model::SpanData) -> bool| {
        spans.iter().filter(|span| is(span)).count() as f64 / spans.len() as f64
    };
    let errors = count(&|span| span.status == StatusCode::Error);
    let slow = count(&|span| span.end_unix_nano - span.start_unix_nano > 700_000_000);
    let told = |at: usize| (found[at].kind, found[at].value, found[at].limit);
    assert_eq!(told(0), (AlertKind::ErrorRate, errors, 0.05));
    assert_eq!(told(1), (AlertKind::SlowRate, slow, 0.1));
    assert_eq!((found[2].kind, found[2].limit), (AlertKind::P99, 0.5));
    assert!((found[2].value - 0.989).abs() < 0.989 / 64.0, "{}", found[2].value);
    for alert in &found {
        assert_eq!((alert.over, alert.severity), (false, Severity::Warning));
        assert!(alert.since >= before && alert.since == alert.time, "{alert:?}");
        assert!(alert.time <= spanring::clock::unix_nanos());
    }
    // They are over when spans are as they should be.
    pipeline.change_settings([("alert_slow_time", "3600"), ("alert_p99", "3600")]).unwrap();
    record(&pipeline, 1000, 1001);
    let over = alerts(&pipeline, 3);
    for (first, second) in found.iter().zip(&over) {
        assert_eq!((first.kind, first.since, second.over), (second.kind, second.since, true));
    }
    // The first of these spans has an error.
    assert_eq!(over[0].value, 0.001);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(pipeline.alerts().alerts, []);
}

#[test]
fn nothing_is_told_unless_somebody_asks_and_that_can_change() {
    let (pipeline, _) = memory_pipeline(quiet().alerts(false));
    record(&pipeline, 1000, 2);
    pipeline.change_settings([("alerts", "true")]).unwrap();
    record(&pipeline, 1000, 2);
    assert_eq!(alerts(&pipeline, 1)[0].kind, AlertKind::ErrorRate);
    pipeline.change_settings([("alerts", "false")]).unwrap();
    record(&pipeline, 1000, 1001);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(pipeline.alerts().alerts, []);
}

#[test]
fn the_process_s_memory_is_looked_at() {
    let (pipeline, _) = memory_pipeline(quiet().health_max_memory(1 << 20));
    record(&pipeline, 1000, 1001);
    let [alert] = &alerts(&pipeline, 1)[..] else { unreachable!() };
    assert_eq!((alert.kind, alert.limit), (AlertKind::Memory, 1_048_576.0));
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    let ratio = alert.value / (pages * 4096.0);
    assert!((0.5..2.0).contains(&ratio), "{} bytes, {pages} pages", alert.value);
}

#[test]
fn a_sink_that_takes_nothing_is_told_and_that_it_is_well_again() {
    let sink = ScriptedSink::new([], Act::Fail);
    let builder = quiet()
        .alert_interval(Duration::from_millis(1))
        .health_sink_grace(Duration::from_millis(50))
        .alert_error_rate(1.0)
        .alert_slow_rate(1.0);
    let pipeline =
        Pipeline::builder().settings(builder.build()).sink(sink.clone()).build().unwrap();
    {
        let _attached = pipeline.attach();
        let mut span = Span::builder("waits").start();
        span.set_critical();
    }
    let [alert] = &alerts(&pipeline, 1)[..] else { unreachable!() };
    assert_eq!((alert.kind, alert.severity), (AlertKind::Delivery, Severity::Critical));
    assert!(alert.value > 0.05 && alert.limit == 0.05 && !alert.over, "{alert:?}");
    assert!(alert.message.contains("sink scripted"), "{}", alert.message);
    sink.act(Act::Take);
    let over = &alerts(&pipeline, 1)[0];
    assert_eq!((over.kind, over.over, over.value), (AlertKind::Delivery, true, 0.0));
}

#[test]
fn spans_that_are_dropped_are_told_and_those_that_a_processor_drops_are_not() {
    let sink = ScriptedSink::new([], Act::Refuse);
    let builder = quiet().alert_error_rate(1.0).alert_slow_rate(1.0);
    let pipeline = Pipeline::builder()
        .settings(builder.build())
        .sink(sink.clone())
        .processor("half", |span: &mut spanring_exporter::SpanView<'_>| {
            if span.is_error() {
                span.drop_span("errors");
            }
        })
        .build()
        .unwrap();
    record(&pipeline, 2000, 2);
    let [alert] = &alerts(&pipeline, 1)[..] else { unreachable!() };
    assert_eq!((alert.kind, alert.value, alert.limit), (AlertKind::DropRate, 0.5, 0.01));
    sink.act(Act::Take);
    record(&pipeline, 2000, 2);
    let over = &alerts(&pipeline, 1)[0];
    assert_eq!((over.kind, over.over, over.value), (AlertKind::DropRate, true, 0.0));
    record(&pipeline, 2000, 2);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(pipeline.alerts().alerts, []);
}

#[test]
fn a_webhook_gets_each_alert_although_it_fails_at_first() {
    let _messages = MESSAGES.lock();
    let (receiver, bodies) = hook(&[503, 429, 200]);
    let builder = quiet().alerts(false).alert_webhook(url(&receiver)).service_name("shop");
    let (pipeline, _) = memory_pipeline(builder.log_level(LogLevel::Info));
    record(&pipeline, 1000, 2);
    until("it is not delivered", || bodies.lock().unwrap().len() == 3);
    let taken = |count: u64| {
        until("it is not counted", || {
            let mut counts = Default::default();
            pipeline.give_alerts(|alerts| {
                counts = alerts.webhook;
                false
            });
            counts.delivered == count
        });
    };
    taken(1);
    record(&pipeline, 1000, 1001);
    taken(2);
    let counts = pipeline.alerts();
    assert_eq!((counts.webhook.failures, counts.webhook.dropped), (2, 0));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 4);
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2]);
    let first = &counts.alerts[0];
    for (key, expected) in [
        ("type", Value::from("error_rate")),
        ("severity", "warning".into()),
        ("over", false.into()),
        ("value", 0.5.into()),
        ("limit", 0.05.into()),
        ("message", first.message.clone().into()),
        ("service", "shop".into()),
        ("since", spanring_exporter::render::timestamp(first.since).into()),
        ("time", spanring_exporter::render::timestamp(first.time).into()),
    ] {
        assert_eq!(bodies[0][key], expected, "{key}");
    }
    assert_eq!((&bodies[3]["over"], &bodies[3]["since"]), (&true.into(), &bodies[0]["since"]));
    let said: Vec<_> = std::iter::from_fn(next_message).map(|(_, text)| text).collect();
    let failures = said.iter().filter(|text| text.contains("does not take them")).count();
    let works = |text: &&String| text.contains("webhook") && text.contains("works again");
    let recoveries = said.iter().filter(works).count();
    assert_eq!((failures, recoveries), (1, 1), "{said:?}");
    assert!(!said.iter().any(|text| text.contains("hunter2")), "{said:?}");
    assert!(said.iter().any(|text| text.starts_with("alert error_rate: ")), "{said:?}");
    assert!(said.iter().any(|text| text.starts_with("alert error_rate is over: ")), "{said:?}");
    let shown = format!("{:?} {:?}", pipeline.settings(), pipeline.settings().explain());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_webhook_that_fails_for_good_is_given_up_and_nothing_else() {
    let _messages = MESSAGES.lock();
    // Refused at once, and not there at all.
    let (refuses, _) = hook(&[404]);
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere =
        format!("http://user:hunter2-password@{unused}/very/hunter2-path?key=hunter2-key");
    for (url, attempts) in [(url(&refuses), 1), (nowhere, 4)] {
        let builder = quiet().alert_webhook(url);
        let (pipeline, sink) = memory_pipeline(builder);
        while next_message().is_some() {}
        record(&pipeline, 1000, 2);
        let mut found = pipeline.alerts();
        let mut told = Vec::new();
        until("it is not given up", || {
            found = pipeline.alerts();
            told.append(&mut found.alerts);
            found.webhook.dropped == 1
        });
        assert_eq!((found.webhook.failures, found.webhook.delivered), (attempts, 0));
        let said: Vec<_> = std::iter::from_fn(next_message).map(|(_, text)| text).collect();
        let failures = said.iter().filter(|text| text.contains("does not take them")).count();
        assert_eq!(failures, 1, "{said:?}");
        assert!(!said.iter().any(|text| text.contains("hunter2")), "{said:?}");
        pipeline.shutdown(LONG).unwrap();
        let spans: u32 = sink.batches().iter().map(|batch| batch.spans).sum();
        assert_eq!(spans, 1000);
    }
}

#[test]
fn a_webhook_that_is_no_url_costs_a_message() {
    let _messages = MESSAGES.lock();
    while next_message().is_some() {}
    let (pipeline, _) = memory_pipeline(quiet().alert_webhook("http://host:hunter2-port/hunter2"));
    record(&pipeline, 1000, 2);
    assert_eq!(alerts(&pipeline, 1)[0].kind, AlertKind::ErrorRate);
    let said: Vec<_> = std::iter::from_fn(next_message).map(|(_, text)| text).collect();
    assert!(said.iter().any(|text| text.starts_with("ALERT_WEBHOOK gets no alerts: ")), "{said:?}");
    assert!(!said.iter().any(|text| text.contains("hunter2")), "{said:?}");
}

#[test]
fn shutdown_looks_a_last_time_and_waits_a_moment_for_the_webhook() {
    let (receiver, bodies) = hook(&[200]);
    let (pipeline, _) = memory_pipeline(quiet().alert_webhook(url(&receiver)));
    record(&pipeline, 30, 1);
    pipeline.shutdown(LONG).unwrap();
    let found = pipeline.alerts();
    assert_eq!((found.alerts.len(), found.webhook.delivered), (1, 1));
    assert_eq!(bodies.lock().unwrap().len(), 1);
    // One that says nothing does not hold it up for long.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}/", silent.local_addr().unwrap());
    let (pipeline, _) = memory_pipeline(quiet().alert_webhook(silent_url));
    record(&pipeline, 30, 1);
    let begun = Instant::now();
    pipeline.shutdown(LONG).unwrap();
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    assert_eq!(pipeline.alerts().webhook.dropped, 1);
}

#[test]
fn a_fork_child_has_none_of_its_parent_s_alerts() {
    let pipeline =
        Pipeline::builder().settings(quiet().build()).sink(MemorySink::new()).build().unwrap();
    record(&pipeline, 1000, 2);
    until("it is not told", || {
        let mut there = 0;
        pipeline.give_alerts(|alerts| {
            there = alerts.alerts.len();
            false
        });
        there == 1
    });
    let in_child = in_child(|| pipeline.alerts().alerts.len() as i32);
    assert_eq!(in_child, 0);
    assert_eq!(pipeline.alerts().alerts.len(), 1);
}
